"""The PyTorch peer: the same captioner, training step and captions, in idiomatic PyTorch.

It uses nn.Embedding, nn.LSTM, nn.GRU or nn.RNN (cuDNN on a GPU), nn.Linear, cross_entropy that
ignores NULL, clip_grad_norm_ and fused Adam; eager, float32 or float64, without TF32. In PyTorch's
favour, batches are prepared before timing: they are on the device, time-major, cut to their longest
caption and, for the packed layout, sorted and packed. Sampling runs nn.LSTM one time step at a time
in inference mode. On two cores this took up to 20 % less time than torch.lstm_cell or nn.LSTMCell
for 100 to 500 captions, and the same for 10 or 1,000.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from benchmarks.timing import host_clock
from benchmarks.work import (
    CLIP,
    GREEDY,
    LEARNING_RATE,
    LENGTH_PENALTY,
    MAX_WORDS,
    WIDTH,
    Config,
    Job,
    Sample,
    check_same_loss,
    host_batches,
    host_model,
)
from xpcap.backend import to_numpy
from xpcap.data.dataset import CaptionData
from xpcap.errors import BackendError
from xpcap.models import CaptioningRNN
from xpcap.models.parameters import Parameters

# PyTorch's layer of each cell, and the order of its blocks as indices into xpcap's
CELLS: dict[str, tuple[type[torch.nn.RNNBase], tuple[int, ...]]] = {
    "lstm": (torch.nn.LSTM, (0, 1, 3, 2)),  # i, f, g, o; ours are i, f, o, g
    "gru": (torch.nn.GRU, (0, 1, 2)),
    "rnn": (torch.nn.RNN, (0,)),
}


class Batch(NamedTuple):
    """A minibatch on the device: words (T, N) or packed, and flat targets in the same order."""

    features: torch.Tensor  # (N, D), or (N, P, D)
    words: Any
    targets: torch.Tensor


class Captioner(torch.nn.Module):
    """CaptioningRNN made of PyTorch's layers.

    A recurrent layer trains two biases; one starts as xpcap's, the other at zero.
    """

    def __init__(self, config: Config, null: int) -> None:
        super().__init__()
        self.cell, D, W, H, V = config.cell, config.D, config.W, config.H, config.V
        self.project = torch.nn.Linear(D, H)
        self.embed = torch.nn.Embedding(V, W)
        self.recurrent: torch.nn.Module = CELLS[self.cell][0](W, H)
        self.vocabulary = torch.nn.Linear(H, V)
        self.null = null

    def forward(self, batch: Batch) -> torch.Tensor:
        """The loss: cross entropy summed over words, averaged over captions."""
        h0 = self.project(batch.features)[None]  # (1, N, H)
        state0 = (h0, torch.zeros_like(h0)) if self.cell == "lstm" else h0
        states, _ = self.recurrent(self._vectors(batch.words), state0)
        return self._loss(
            states.data if isinstance(states, PackedSequence) else states.flatten(0, 1), batch
        )

    def _loss(self, rows: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The loss of states (R, H)."""
        logits = self.vocabulary(rows)
        loss = cross_entropy(logits, batch.targets, ignore_index=self.null, reduction="sum")
        return loss / len(batch.features)

    def _vectors(self, words: Any) -> Any:
        if isinstance(words, PackedSequence):
            return PackedSequence(self.embed(words.data), words.batch_sizes)
        return self.embed(words)

    def sample(self, features: torch.Tensor, start: int, end: int, drop: bool) -> torch.Tensor:
        """Greedy captions (n, MAX_WORDS) of features (n, D), NULL after END.

        With `drop` a caption leaves the batch when it ends.
        """
        n = len(features)
        h = self.project(features)[None]  # (1, n, H)
        state = (h, torch.zeros_like(h))
        device = features.device
        captions = torch.full((n, MAX_WORDS), self.null, device=device)
        words, alive = torch.full((n,), start, device=device), torch.arange(n, device=device)
        ended = torch.zeros(n, dtype=torch.bool, device=device)
        for t in range(MAX_WORDS):
            h, state = self.recurrent(self.embed(words)[None], state)
            words = self.vocabulary(h[0]).argmax(dim=1)
            captions[alive, t] = words = words.masked_fill(ended, self.null)
            ended |= words == end
            if drop:
                going = (~ended).nonzero()[:, 0]
                words, alive, ended = words[going], alive[going], ended[going]
                state = (state[0][:, going], state[1][:, going])
            if ended.all():
                break
        return captions

    def search(self, features: torch.Tensor, start: int, end: int, drop: bool) -> torch.Tensor:
        """The best captions (n, MAX_WORDS) of a beam search for features (n, D), NULL after END.

        As in xpcap, a hypothesis that ends leaves the beam, which becomes narrower by one. A picture
        is done when no hypothesis can exceed the best caption; with `drop` it leaves the batch. A
        missing hypothesis has a log-probability of -inf.
        """
        n, k, V, device = len(features), WIDTH, self.vocabulary.out_features, features.device
        h = self.project(features)[None]
        state, alive = (h, torch.zeros_like(h)), torch.arange(n, device=device)
        words, totals = torch.full((n, 1), start, device=device), torch.zeros(n, 1, device=device)
        prefixes = torch.full((n, 1, MAX_WORDS), self.null, device=device)
        captions, best = prefixes[:, 0].clone(), torch.full((n,), -torch.inf, device=device)
        left = torch.full((n, 1), k, device=device)  # hypotheses of a picture that have not ended
        for t in range(MAX_WORDS):
            h, state = self.recurrent(self.embed(words.flatten())[None], state)
            log_p = self.vocabulary(h[0]).log_softmax(dim=1).view(*words.shape, V)
            totals, index = (totals[:, :, None] + log_p).flatten(1).topk(k, dim=1)  # (n, k)
            totals = totals.masked_fill(torch.arange(k, device=device) >= left, -torch.inf)
            parents, words = index // V, index % V
            prefixes = prefixes.gather(1, parents[:, :, None].expand(-1, -1, MAX_WORDS))
            prefixes[:, :, t] = words
            ended = ((words == end) | (t == MAX_WORDS - 1)) & (totals > -torch.inf)
            means = totals / (t + 1) ** LENGTH_PENALTY
            scores, which = means.masked_fill(~ended, -torch.inf).max(dim=1)
            better = scores > best[alive]
            best[alive[better]] = scores[better]
            captions[alive[better]] = prefixes[better, which[better]]
            totals = totals.masked_fill(ended, -torch.inf)
            left = left - ended.sum(dim=1, keepdim=True)
            going = totals.max(dim=1).values / MAX_WORDS**LENGTH_PENALTY >= best[alive]
            going &= left[:, 0] > 0
            if not going.any():
                break
            beam = len(state[0][0]) // len(alive)
            rows = parents + beam * torch.arange(len(alive), device=device)[:, None]
            if drop:
                alive, words, prefixes, totals, left, rows = (
                    x[going] for x in (alive, words, prefixes, totals, left, rows)
                )
            state = (state[0][:, rows.flatten()], state[1][:, rows.flatten()])
        return captions

    def _blocks(self, x: np.ndarray) -> np.ndarray:
        """The blocks of an array (..., G) in PyTorch's order."""
        order = CELLS[self.cell][1]
        blocks = np.split(x, len(order), axis=-1)
        return np.concatenate([blocks[k] for k in order], axis=-1)

    def copy_from(self, params: Parameters) -> None:
        """Copy xpcap's weights."""
        host = {name: to_numpy(value) for name, value in params.items()}
        Wx = np.concatenate((host["Wx"], host["Wattn"])) if "Wattn" in host else host["Wx"]
        layer = "" if "Wattn" in host else "_l0"
        state = {
            "project.weight": host["W_proj"].T,
            "project.bias": host["b_proj"],
            "embed.weight": host["W_embed"],
            f"recurrent.weight_ih{layer}": self._blocks(Wx).T,
            f"recurrent.weight_hh{layer}": self._blocks(host["Wh"]).T,
            f"recurrent.bias_ih{layer}": self._blocks(host["b"]),
            f"recurrent.bias_hh{layer}": np.zeros_like(host["b"]),
            "vocabulary.weight": host["W_vocab"].T,
            "vocabulary.bias": host["b_vocab"],
        }
        self.load_state_dict(
            {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in state.items()}
        )


class Attentive(Captioner):
    """CaptioningRNN with attention: nn.LSTMCell on word vector and context, step by step."""

    def __init__(self, config: Config, null: int) -> None:
        super().__init__(config, null)
        self.recurrent = torch.nn.LSTMCell(config.W + config.H, config.H)

    def forward(self, batch: Batch) -> torch.Tensor:
        A, words = self.project(batch.features), self._vectors(batch.words)  # (N, P, H)
        h = c = A.mean(dim=1)
        scale, states, is_packed = h.shape[1] ** -0.5, [], isinstance(words, PackedSequence)
        for x in words.data.split(words.batch_sizes.tolist()) if is_packed else words:
            if len(x) < len(h):
                A, h, c = A[: len(x)], h[: len(x)], c[: len(x)]
            weights = torch.softmax(torch.bmm(A, h[:, :, None]) * scale, dim=1)  # (n, P, 1)
            context = torch.bmm(weights.transpose(1, 2), A)[:, 0]
            h, c = self.recurrent(torch.cat((x, context), dim=1), (h, c))
            states.append(h)
        return self._loss(torch.cat(states), batch)


def padded(features: np.ndarray, captions: np.ndarray, null: int, device: torch.device) -> Batch:
    """A batch in the given order, cut to the longest caption."""
    steps = int((captions[:, 1:] != null).sum(axis=1).max())
    words = torch.from_numpy(captions[:, : steps + 1].astype(np.int64).T)  # (T+1, N)
    words = words.contiguous().to(device)
    return Batch(torch.from_numpy(features).to(device), words[:-1], words[1:].flatten())


def packed(features: np.ndarray, captions: np.ndarray, null: int, device: torch.device) -> Batch:
    """A batch with captions sorted by length, and packed words and targets."""
    lengths = (captions[:, 1:] != null).sum(axis=1)
    order = np.argsort(-lengths, kind="stable")
    words = torch.from_numpy(captions[order].astype(np.int64))
    steps = torch.from_numpy(lengths[order])
    inputs, targets = (
        pack_padded_sequence(x, steps, batch_first=True) for x in (words[:, :-1], words[:, 1:])
    )
    rows = PackedSequence(inputs.data.to(device), inputs.batch_sizes)
    return Batch(torch.from_numpy(features[order]).to(device), rows, targets.data.to(device))


LAYOUTS: dict[str, Callable[[np.ndarray, np.ndarray, int, torch.device], Batch]] = {
    "padded": padded,
    "packed": packed,
}


def about(backend: str) -> dict[str, str]:
    """PyTorch's version, and its threads or cuDNN. BackendError : it cannot use the GPU."""
    if backend == "numpy":
        return {"torch": str(torch.__version__), "torch_threads": str(torch.get_num_threads())}
    if not torch.cuda.is_available():
        raise BackendError(
            f"torch {torch.__version__} finds no CUDA device, expected a device to time torch on;"
            " is it a build for the CPU?"
        )
    return {"torch": str(torch.__version__), "cudnn": str(torch.backends.cudnn.version())}


def device_of(backend: str) -> torch.device:
    """The PyTorch device that corresponds to an xpcap backend."""
    name, _, number = backend.partition(":")
    return torch.device("cpu") if name == "numpy" else torch.device("cuda", int(number or 0))


def train(config: Config, data: CaptionData, backend: str, layout: str) -> Job:
    """Put model, optimiser and batches on the device; check the loss against xpcap's on NumPy."""
    device = _prepare(backend)
    host, ours = host_batches(config, data), host_model(config, data)
    model, null = _captioner(config, ours, device), data.vocabulary.null
    batches = [
        LAYOUTS[layout](features.astype(config.dtype), captions, null, device)
        for features, captions in host
    ]
    loss = float(model(batches[0]).detach())
    check_same_loss(loss, ours, host[0], f"{config.name}, torch {layout}")
    step = training_step(model)
    clock = device_clock if device.type == "cuda" else host_clock
    return Job(lambda k: step(batches[k]), clock)


def training_step(model: torch.nn.Module) -> Callable[[Batch], torch.Tensor]:
    """A function that takes a training step (gradients, clipping, fused Adam), and returns the loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)

    def step(batch: Batch) -> torch.Tensor:
        loss: torch.Tensor = model(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return loss

    return step


def caption(config: Config, data: CaptionData, backend: str, work: str, layout: str) -> Sample:
    """Captions by GREEDY or BEAM; `padded` keeps all pictures until the last is done, `packed` drops
    finished ones.
    """
    device = _prepare(backend)
    model = _captioner(config, host_model(config, data, ending=True), device).eval()
    features, vocabulary = torch.from_numpy(config.pictures()).to(device), data.vocabulary
    decode = model.sample if work == GREEDY else model.search

    def sample() -> np.ndarray:
        with torch.inference_mode():
            captions = decode(features, vocabulary.start, vocabulary.end, layout == "packed")
        return np.asarray(captions.cpu().numpy())

    return sample


def _prepare(backend: str) -> torch.device:
    """The device, emptied, with TF32 off."""
    device = device_of(backend)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.cuda.empty_cache()
    return device


def _captioner(config: Config, ours: CaptioningRNN, device: torch.device) -> Captioner:
    model = (Attentive if config.P else Captioner)(config, ours.word_to_idx["<NULL>"])
    model.to(device, getattr(torch, config.dtype))
    model.copy_from(ours.params)
    return model


def device_clock(work: Callable[[], object]) -> float:
    """Milliseconds on the current CUDA device; timing.device_clock does the same with CuPy."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))
