"""The PyTorch peer: the same captioner, training step and sampling, in idiomatic PyTorch.

It uses nn.Embedding, nn.LSTM, nn.GRU or nn.RNN (cuDNN's on a GPU), nn.Linear, nn.Dropout if there
is any, cross_entropy that ignores NULL, clip_grad_norm_ and fused Adam: eager, float32 or float64,
TF32 off. Whatever can be prepared is prepared before timing, in PyTorch's favour: batches are on the device,
time-major, cut to their longest caption, and for the packed layout sorted and packed. Sampling runs
nn.LSTM one step at a time in inference mode. On two cores that took up to 20 % less time than
torch.lstm_cell or nn.LSTMCell for 100 to 500 captions, and the same for 10 or 1,000.

On a card the padded step is also timed in CUDA graphs, captured by hand, one for each number of
time steps: then the host does little more than copy the batch to where the graph reads it.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from benchmarks.timing import host_clock
from benchmarks.work import (
    CLIP,
    LEARNING_RATE,
    LENGTH_PENALTY,
    MOST_WORDS,
    WIDTH,
    Config,
    Job,
    Sample,
    check_same_loss,
    host_batches,
    host_model,
    make_ending_model,
)
from xpcap.backend import to_numpy
from xpcap.data.dataset import CaptionData
from xpcap.errors import BackendError
from xpcap.models import CaptioningRNN
from xpcap.models.parameters import Parameters

WARM_UP = 3  # steps before a capture
# PyTorch's layer of a cell, and the order of its blocks as indices into ours
CELLS: dict[str, tuple[type[torch.nn.RNNBase], tuple[int, ...]]] = {
    "lstm": (torch.nn.LSTM, (0, 1, 3, 2)),  # i, f, g, o; ours are i, f, o, g
    "gru": (torch.nn.GRU, (0, 1, 2)),
    "rnn": (torch.nn.RNN, (0,)),
}


class Batch(NamedTuple):
    """A minibatch on the device: words (T, N) or packed rows, targets flat in the same order."""

    features: torch.Tensor  # (N, D), or (N, P, D)
    words: Any
    targets: torch.Tensor


class Captioner(torch.nn.Module):
    """CaptioningRNN in PyTorch's layers.

    A recurrent layer trains two biases; one starts as ours, the other at zero.
    """

    def __init__(self, config: Config, null: int) -> None:
        super().__init__()
        self.cell, D, W, H, V = config.cell, config.D, config.W, config.H, config.V
        # Of features, word vectors and hidden states
        self.drop = torch.nn.Dropout(config.dropout) if config.dropout else torch.nn.Identity()
        self.project = torch.nn.Linear(D, H)
        self.embed = torch.nn.Embedding(V, W)
        self.recurrent: torch.nn.Module = CELLS[self.cell][0](W, H)
        self.vocabulary = torch.nn.Linear(H, V)
        self.null = null

    def forward(self, batch: Batch) -> torch.Tensor:
        """The loss: cross entropy summed over words, averaged over captions."""
        h0 = self.project(self.drop(batch.features))[None]  # (1, N, H)
        state0 = (h0, torch.zeros_like(h0)) if self.cell == "lstm" else h0
        states, _ = self.recurrent(self._vectors(batch.words), state0)
        return self._loss(
            states.data if isinstance(states, PackedSequence) else states.flatten(0, 1), batch
        )

    def _loss(self, rows: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The loss of states (R, H)."""
        return cross_entropy(
            self.vocabulary(self.drop(rows)), batch.targets, ignore_index=self.null, reduction="sum"
        ) / len(batch.features)

    def _vectors(self, words: Any) -> Any:
        if isinstance(words, PackedSequence):
            return PackedSequence(self.drop(self.embed(words.data)), words.batch_sizes)
        return self.drop(self.embed(words))

    def sample(self, features: torch.Tensor, start: int, end: int, drop: bool) -> torch.Tensor:
        """Greedy captions (n, MOST_WORDS) of features (n, D), NULL after END.

        With `drop` a caption leaves the batch as it ends, else it stays.
        """
        n = len(features)
        h = self.project(features)[None]  # (1, n, H)
        state = (h, torch.zeros_like(h))
        captions = torch.full((n, MOST_WORDS), self.null, device=features.device)
        words, alive = (
            torch.full((n,), start, device=features.device),
            torch.arange(n, device=features.device),
        )
        ended = torch.zeros(n, dtype=torch.bool, device=features.device)
        for t in range(MOST_WORDS):
            h, state = self.recurrent(self.embed(words)[None], state)
            words = self.vocabulary(h[0]).argmax(dim=1)
            captions[alive, t] = words = words.masked_fill(ended, self.null)
            ended |= words == end
            if drop:
                going = (~ended).nonzero()[:, 0]
                words, alive, ended, state = (
                    words[going],
                    alive[going],
                    ended[going],
                    (state[0][:, going], state[1][:, going]),
                )
            if ended.all():
                break
        return captions

    def search(self, features: torch.Tensor, start: int, end: int, drop: bool) -> torch.Tensor:
        """The best captions (n, MOST_WORDS) of a beam search for features (n, D), NULL after END.

        The rule is xpcap's: a hypothesis that ends leaves, and the beam is narrower by one; a
        picture is done once no hypothesis left can come above the best caption, and with `drop`
        leaves the batch. A hypothesis that is not there has the total -inf.
        """
        n, k, V, device = len(features), WIDTH, self.vocabulary.out_features, features.device
        h = self.project(features)[None]
        state, words, alive = (
            (h, torch.zeros_like(h)),
            torch.full((n, 1), start, device=device),
            torch.arange(n, device=device),
        )
        said, totals = (
            torch.full((n, 1, MOST_WORDS), self.null, device=device),
            torch.zeros(n, 1, device=device),
        )
        best, captions = (
            torch.full((n,), -torch.inf, device=device),
            torch.full((n, MOST_WORDS), self.null, device=device),
        )
        left = torch.full((n, 1), k, device=device)  # hypotheses of a picture that have not ended
        for t in range(MOST_WORDS):
            h, state = self.recurrent(self.embed(words.flatten())[None], state)
            log_p = self.vocabulary(h[0]).log_softmax(dim=1).view(*words.shape, V)
            totals, found = (totals[:, :, None] + log_p).flatten(1).topk(k, dim=1)  # (n, k)
            totals = totals.masked_fill(torch.arange(k, device=device) >= left, -torch.inf)
            parents, words = found // V, found % V
            said = said.gather(1, parents[:, :, None].expand(-1, -1, MOST_WORDS))
            said[:, :, t] = words
            ended = ((words == end) | (t == MOST_WORDS - 1)) & (totals > -torch.inf)
            scores, which = (
                (totals / (t + 1) ** LENGTH_PENALTY).masked_fill(~ended, -torch.inf).max(dim=1)
            )
            better = scores > best[alive]
            best[alive[better]], captions[alive[better]] = (
                scores[better],
                said[better, which[better]],
            )
            totals, left = (
                totals.masked_fill(ended, -torch.inf),
                left - ended.sum(dim=1, keepdim=True),
            )
            going = totals.max(dim=1).values / MOST_WORDS**LENGTH_PENALTY >= best[alive]
            going &= left[:, 0] > 0
            if not going.any():
                break
            rows = (
                parents
                + len(state[0][0]) // len(alive) * torch.arange(len(alive), device=device)[:, None]
            )
            if drop:
                alive, words, said, totals, left, rows = (
                    x[going] for x in (alive, words, said, totals, left, rows)
                )
            state = (state[0][:, rows.flatten()], state[1][:, rows.flatten()])
        return captions

    def _blocks(self, x: np.ndarray) -> np.ndarray:
        """The blocks of an array (..., G) in PyTorch's order."""
        order = CELLS[self.cell][1]
        blocks = np.split(x, len(order), axis=-1)
        return np.concatenate([blocks[k] for k in order], axis=-1)

    def copy_from(self, params: Parameters) -> None:
        """Start from our weights."""
        host = {name: to_numpy(value) for name, value in params.items()}
        state = {
            "project.weight": host["W_proj"].T,
            "project.bias": host["b_proj"],
            "embed.weight": host["W_embed"],
            "recurrent.weight_ih_l0": self._blocks(host["Wx"]).T,
            "recurrent.weight_hh_l0": self._blocks(host["Wh"]).T,
            "recurrent.bias_ih_l0": self._blocks(host["b"]),
            "recurrent.bias_hh_l0": np.zeros_like(host["b"]),
            "vocabulary.weight": host["W_vocab"].T,
            "vocabulary.bias": host["b_vocab"],
        }
        self.load_state_dict(
            {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in state.items()}
        )


class Attentive(Captioner):
    """CaptioningRNN that attends: nn.LSTMCell over word vector and context, step by step."""

    def __init__(self, config: Config, null: int) -> None:
        super().__init__(config, null)
        self.recurrent = torch.nn.LSTMCell(config.W + config.H, config.H)

    def forward(self, batch: Batch) -> torch.Tensor:
        A, words = self.project(batch.features), self._vectors(batch.words)  # (N, P, H)
        h = c = A.mean(dim=1)
        scale, states = h.shape[1] ** -0.5, []
        for x in (
            words.data.split(words.batch_sizes.tolist())
            if isinstance(words, PackedSequence)
            else words
        ):
            if len(x) < len(h):
                A, h, c = A[: len(x)], h[: len(x)], c[: len(x)]
            weights = torch.softmax(torch.bmm(A, h[:, :, None]) * scale, dim=1)  # (n, P, 1)
            context = torch.bmm(weights.transpose(1, 2), A)[:, 0]
            h, c = self.recurrent(torch.cat((x, context), dim=1), (h, c))
            states.append(h)
        return self._loss(torch.cat(states), batch)

    def copy_from(self, params: Parameters) -> None:
        host = {name: to_numpy(value) for name, value in params.items()}
        state = {
            "project.weight": host["W_proj"].T,
            "project.bias": host["b_proj"],
            "embed.weight": host["W_embed"],
            "recurrent.weight_ih": self._blocks(np.concatenate((host["Wx"], host["Wattn"]))).T,
            "recurrent.weight_hh": self._blocks(host["Wh"]).T,
            "recurrent.bias_ih": self._blocks(host["b"]),
            "recurrent.bias_hh": np.zeros_like(host["b"]),
            "vocabulary.weight": host["W_vocab"].T,
            "vocabulary.bias": host["b_vocab"],
        }
        self.load_state_dict(
            {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in state.items()}
        )


def padded(features: np.ndarray, captions: np.ndarray, null: int, device: torch.device) -> Batch:
    """A batch in its own order, cut to the longest caption."""
    steps = int((captions[:, 1:] != null).sum(axis=1).max())
    words = (
        torch.from_numpy(captions[:, : steps + 1].astype(np.int64).T).contiguous().to(device)
    )  # (T+1, N)
    return Batch(torch.from_numpy(features).to(device), words[:-1], words[1:].flatten())


def packed(features: np.ndarray, captions: np.ndarray, null: int, device: torch.device) -> Batch:
    """A batch with captions sorted by length, words and targets packed."""
    lengths = (captions[:, 1:] != null).sum(axis=1)
    order = np.argsort(-lengths, kind="stable")
    words, steps = (
        torch.from_numpy(captions[order].astype(np.int64)),
        torch.from_numpy(lengths[order]),
    )
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
    """PyTorch's version, and its threads or cuDNN."""
    if backend == "numpy":
        return {"torch": str(torch.__version__), "torch_threads": str(torch.get_num_threads())}
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    return {"torch": str(torch.__version__), "cudnn": str(cudnn or "none")}


def check_usable() -> None:
    """Check that this PyTorch can use a GPU; if not, a BackendError."""
    if not torch.cuda.is_available():
        raise BackendError(
            "bench",
            "",
            f"torch {torch.__version__} finds no CUDA device",
            expected="one to time torch on",
            cause="is it a build for the CPU?",
        )


def device_of(backend: str) -> torch.device:
    """The PyTorch device that corresponds to an xpcap backend."""
    name, _, number = backend.partition(":")
    return torch.device("cpu") if name == "numpy" else torch.device("cuda", int(number or 0))


def train(config: Config, data: CaptionData, backend: str, layout: str) -> Job:
    """Put model, optimiser and batches on the device; check the loss against xpcap's on NumPy."""
    model, batches = _on_device(config, data, backend, layout)
    step, on_gpu = training_step(model), batches[0].features.is_cuda
    return Job(
        lambda k: step(batches[k]),
        device_clock if on_gpu else host_clock,
        lambda: torch.cuda.max_memory_reserved() if on_gpu else None,
    )


def train_captured(config: Config, data: CaptionData, backend: str) -> Job:
    """`train` with padded batches on a card, whose step is captured before."""
    model, batches = _on_device(config, data, backend, "padded")
    step = captured_step(model, batches)
    return Job(lambda k: step(batches[k]), device_clock, torch.cuda.max_memory_reserved)


def _on_device(
    config: Config, data: CaptionData, backend: str, layout: str
) -> tuple[Captioner, list[Batch]]:
    """Model, ready to train, and batches on the device; the first one has xpcap's loss."""
    device = _prepare(backend)
    host, ours = host_batches(config, data), host_model(config, data)
    model = _captioner(config, ours, device)
    batches = [
        LAYOUTS[layout](features.astype(config.dtype), captions, data.vocabulary.null, device)
        for features, captions in host
    ]
    check_same_loss(
        float(model.eval()(batches[0]).detach()), ours, host[0], f"{config.name}, torch {layout}"
    )
    model.train()
    return model, batches


Work = Callable[[], torch.Tensor]


def captured_step(
    model: torch.nn.Module,
    batches: Sequence[Batch],
    capture: Callable[[Work], Work] | None = None,
) -> Callable[[Batch], torch.Tensor]:
    """A training step of padded batches that replays captured work, by number of time steps.

    `capture` makes a function that does all of the work again, on the same memory, and returns the
    same tensor. Default: a CUDA graph.
    """
    on_gpu = batches[0].features.is_cuda
    step, captured = training_step(model, capturable=on_gpu), dict[int, tuple[Batch, Work]]()
    for batch in batches:
        if len(batch.words) not in captured:
            fixed = Batch(*(x.clone() for x in batch))
            work = (capture or _graph)(functools.partial(step, fixed))
            captured[len(batch.words)] = fixed, work

    def replay(batch: Batch) -> torch.Tensor:
        fixed, work = captured[len(batch.words)]
        for to, x in zip(fixed, batch, strict=True):
            to.copy_(x)
        return work()

    return replay


def _graph(work: Work) -> Work:
    """A CUDA graph of the work, which runs a few times before: libraries prepare themselves."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        result = work()

    def replay() -> torch.Tensor:
        graph.replay()
        return result

    return replay


def training_step(
    model: torch.nn.Module, capturable: bool = False
) -> Callable[[Batch], torch.Tensor]:
    """A training step, which returns the loss: gradients, clipping and fused Adam."""
    optimizer = torch.optim.Adam(
        model.parameters(), lr=LEARNING_RATE, fused=True, capturable=capturable
    )

    def step(batch: Batch) -> torch.Tensor:
        loss: torch.Tensor = model(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return loss

    return step


def sample(config: Config, data: CaptionData, backend: str, layout: str) -> Sample:
    """Greedy captions: `padded` keeps all until the last one ends, `packed` drops each."""
    return _decode(config, data, backend, layout, Captioner.sample)


def search(config: Config, data: CaptionData, backend: str, layout: str) -> Sample:
    """Beam search: `padded` keeps all pictures until the last is done, `packed` drops each."""
    return _decode(config, data, backend, layout, Captioner.search)


def _decode(
    config: Config, data: CaptionData, backend: str, layout: str, way: Callable[..., torch.Tensor]
) -> Sample:
    device = _prepare(backend)
    model = _captioner(config, host_model(config, data, make_ending_model), device).eval()
    features, vocabulary = torch.from_numpy(config.pictures()).to(device), data.vocabulary

    def captions_of_pictures() -> np.ndarray:
        with torch.inference_mode():
            captions = way(
                model, features, vocabulary.start, vocabulary.end, drop=layout == "packed"
            )
        return np.asarray(captions.cpu().numpy())

    return captions_of_pictures


def _prepare(backend: str) -> torch.device:
    """The device, emptied, with TF32 off."""
    device = device_of(backend)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return device


def _captioner(config: Config, ours: CaptioningRNN, device: torch.device) -> Captioner:
    model = (Attentive if config.P else Captioner)(config, ours.word_to_idx["<NULL>"])
    model.to(device, getattr(torch, config.dtype))
    model.copy_from(ours.params)
    return model


def device_clock(work: Callable[[], object]) -> float:
    """Milliseconds on the current CUDA device; timing.device_clock does the same with CuPy."""
    before, behind = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    before.record()
    work()
    behind.record()
    behind.synchronize()
    return float(before.elapsed_time(behind))
