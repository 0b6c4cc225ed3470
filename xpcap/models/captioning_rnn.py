"""CaptioningRNN: an image feature sets the first state of an RNN or LSTM, which then says the caption word by word."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import Array, array_module, asarray, get_array_module, to_numpy
from xpcap.cores import side_by_side
from xpcap.errors import unknown
from xpcap.layers.dropout import apply_mask, draw_mask
from xpcap.layers.lstm import lstm_rows_backward, lstm_rows_forward
from xpcap.layers.rnn import rnn_rows_backward, rnn_rows_forward
from xpcap.layers.vocabulary import blocks, vocabulary_loss
from xpcap.models.decoding import greedy
from xpcap.models.packing import FeatureRows, PackedCaptions, pack, send, send_joined
from xpcap.models.parameters import Parameters
from xpcap.ops import Gates, gather, log_softmax, lstm_gates, rnn_cell, segment_sum
from xpcap.workspace import New, Workspace, fresh

CELLS = ("rnn", "lstm")
INIT_ORDER = ("W_embed", "W_proj", "Wx", "Wh", "W_vocab")  # the course's; biases start at zero
WEIGHTS, DROPOUT = 0, 1  # streams of one seed
LEAST_PART = 48  # captions: products with fewer rows lose more than a core of their own gains
State = tuple[Array, ...]  # (h,) or (h, c), each (n, H)


class Score(NamedTuple):
    """Teacher-forced result on a batch: total negative log-likelihood (0-d), words guessed right (0-d), words in all (int)."""

    nll: Array
    correct: Array
    tokens: int


class Masks(NamedTuple):
    """Dropout masks of one batch, or None throughout. Drawn on the host in this order, each in (caption, time, unit) order, then sorted."""

    features: Array | None = None  # (N, D)
    words: Array | None = None  # (K, W), one row for each distinct input word
    hidden: Array | None = None  # (R, H)


class Batch(NamedTuple):
    """A minibatch on the model's device, sorted as it is packed, or a part of one."""

    features: Array  # (N, D)
    packed: PackedCaptions
    masks: Masks


class Forward(NamedTuple):
    """What the backward pass needs of the forward pass."""

    features: Array  # (N, D) after dropout
    vectors: Array  # (K, W) after dropout
    cell: Any
    hidden: Array  # (L, H) rows with a target, after dropout


class CaptioningRNN:
    """An image captioner with a vanilla RNN or an LSTM.

    h0 = features @ W_proj + b_proj;  h_t = cell(W_embed[word_t] @ Wx + b, h_{t-1});  scores_t = h_t @ W_vocab + b_vocab

    Parameters
    ----------
    word_to_idx : mapping of word to id; must hold ``<NULL>``, may hold ``<START>`` and ``<END>`` (`sample` needs them)
    input_dim : D, size of an image feature
    wordvec_dim : W, size of a word vector
    hidden_dim : H, size of the state
    cell_type : "rnn" or "lstm"
    dtype : numpy.float32 or numpy.float64
    dropout : share of units dropped in training, in [0, 1): of image features, of word vectors (one mask per distinct word and batch)
        and of hidden states before the vocabulary
    seed : int for a stream of this model's own; None draws from NumPy's legacy global stream, as the course does

    Attributes
    ----------
    params : Parameters; views of one flat buffer, on the backend in force when the model was made
    rng : numpy.random.Generator behind the dropout masks

    Raises
    ------
    OptionError : unknown cell_type. ValueError : another bad argument.

    Notes
    -----
    CS231n's class of that name: same constructor, parameter shapes, initialisation and draw order; `dropout` and `seed` are ours.
    Image features enter through h0 only.
    """

    def __init__(
        self,
        word_to_idx: Mapping[str, int],
        input_dim: int = 512,
        wordvec_dim: int = 128,
        hidden_dim: int = 128,
        cell_type: str = "rnn",
        dtype: Any = np.float32,
        *,
        dropout: float = 0.0,
        seed: int | None = None,
    ) -> None:
        if cell_type not in CELLS:
            raise unknown("CaptioningRNN", "cell_type", cell_type, CELLS)
        if not (isinstance(dropout, int | float) and 0 <= dropout < 1):
            raise ValueError(f"CaptioningRNN: dropout is {dropout!r}, expected the share of units to drop, in [0, 1)")
        if np.dtype(dtype).name not in ("float32", "float64"):
            raise ValueError(f"CaptioningRNN: dtype is {np.dtype(dtype)}, expected float32 or float64")
        for name, size in (("input_dim", input_dim), ("wordvec_dim", wordvec_dim), ("hidden_dim", hidden_dim)):
            if not (isinstance(size, int | np.integer) and size >= 1):
                raise ValueError(f"CaptioningRNN: {name} is {size!r}, expected a whole number of at least 1")
        _check_words(word_to_idx)
        self.cell_type, self.dtype, self.dropout = cell_type, np.dtype(dtype), dropout
        self.word_to_idx = dict(word_to_idx)
        self.idx_to_word = {i: w for w, i in self.word_to_idx.items()}
        self._null = self.word_to_idx["<NULL>"]
        self._start, self._end = self.word_to_idx.get("<START>"), self.word_to_idx.get("<END>")

        shapes = parameter_shapes(input_dim, wordvec_dim, hidden_dim, len(self.word_to_idx), cell_type)
        rng = None if seed is None else np.random.default_rng([seed, WEIGHTS])
        self.params = Parameters.empty(shapes, self.dtype, array_module())
        self.params.flat[...] = 0
        for name in INIT_ORDER:
            shape = shapes[name]
            draw = np.random.randn(*shape) if rng is None else rng.standard_normal(shape)
            self.params[name] = draw / (100 if name == "W_embed" else np.sqrt(shape[0]))
        if seed is None:  # dropout is ours, so the course's stream is left alone where there is none
            seed = np.random.randint(2**31) if dropout else 0
        self.rng = np.random.default_rng([seed, DROPOUT])

    # Training and scoring

    def loss(self, features: Array | FeatureRows, captions: Array, workspace: Workspace | None = None) -> tuple[Array, Parameters]:
        """Loss and gradients of a batch, with dropout where the model has it.

        Parameters
        ----------
        features : array (N, D), host or device, or FeatureRows of a table on the model's device
        captions : array (N, T+1), int; inputs are all columns but the last, targets all but the first
        workspace : xpcap.workspace.Workspace to work in; the gradients are then valid until it is used again. A batch of so many captions that
            it is worth it is done in as many parts, side by side, as the workspace has. In fresh memory, as one part, if None

        Returns
        -------
        loss : 0-d; cross entropy summed over time and averaged over captions, NULL targets left out
        grads : Parameters with the keys and shapes of `params`

        Raises
        ------
        ValueError : shapes that do not fit, or word ids outside the vocabulary. TypeError : captions that are not integers.
        """
        spaces = [fresh(self.params.flat)] if workspace is None else workspace.parts[: max(1, len(captions) // LEAST_PART)]
        batches = self._enter("loss", features, captions, len(spaces), train=True)
        parts = side_by_side(lambda k: self._loss(batches[k], 1 / len(captions), spaces[k]), range(len(spaces)))
        loss, grads = parts[0]
        for other_loss, other in parts[1:]:
            loss = loss + other_loss
            flat = grads.flat
            flat += other.flat
        return loss, grads

    def _loss(self, batch: Batch, scale: float, new: New) -> tuple[Array, Parameters]:
        """What one part of a batch adds to loss and gradients."""
        params = self.params
        grads = Parameters(params.shapes, new("grads", params.flat.shape))
        forward = self._forward(batch, new)
        vocabulary = (params["W_vocab"], params["b_vocab"])
        nll, (dh, _, _) = vocabulary_loss(forward.hidden, *vocabulary, batch.packed.targets, scale, new, out=(grads["W_vocab"], grads["b_vocab"]))
        self._backward(dh, batch, forward, grads, new)
        return nll.sum() * scale, grads

    def score(self, features: Array | FeatureRows, captions: Array) -> Score:
        """Score given captions without dropout and without gradients: see Score. Arguments as for `loss`."""
        (batch,) = self._enter("score", features, captions, 1, train=False)
        hidden, targets = self._forward(batch, fresh(self.params.flat)).hidden, batch.packed.targets
        xp = get_array_module(hidden)
        nll, right = xp.zeros((), np.float64), xp.zeros((), np.int64)
        for rows in blocks(len(hidden), len(self.word_to_idx)):
            scores = hidden[rows] @ self.params["W_vocab"] + self.params["b_vocab"]
            right = right + (scores.argmax(axis=1) == targets[rows]).sum()
            nll = nll - log_softmax(scores)[xp.arange(len(scores)), targets[rows]].sum(dtype=np.float64)
        return Score(nll, right, len(targets))

    def _enter(self, function: str, features: Array | FeatureRows, captions: Array, parts: int, train: bool) -> list[Batch]:
        """Check a batch on the host, pack it in parts, draw their masks, and send it all to the model's device."""
        captions = to_numpy(captions)
        V, D = len(self.word_to_idx), self.params.shapes["W_proj"][0]
        if captions.dtype.kind not in "iu":
            raise TypeError(f"CaptioningRNN.{function}: captions have dtype {captions.dtype}, expected integer word ids")
        if captions.ndim != 2 or captions.shape[0] < 1 or captions.shape[1] < 2 or np.shape(features) != (len(captions), D):
            raise ValueError(
                f"CaptioningRNN.{function}: features have shape {np.shape(features)} and captions {captions.shape}, "
                f"expected (N, {D}) and (N, T+1), at least one caption of one step"
            )
        if not (captions.min() >= 0 and captions.max() < V):
            raise ValueError(
                f"CaptioningRNN.{function}: captions hold ids {captions.min()}..{captions.max()}, expected 0..{V - 1}; another vocabulary made them?"
            )
        packed = [pack(captions, self._null, part, parts) for part in range(parts)]
        masks = self._draw_masks(packed) if train and self.dropout else [Masks()] * parts
        if isinstance(features, FeatureRows):
            table, rows = features.checked(f"CaptioningRNN.{function}", self.params.flat), features.rows
        else:
            table, rows = self._to_device(function, features), np.arange(len(captions))
        return [self._send(p, m, table, rows) for p, m in zip(packed, masks, strict=True)]

    def _send(self, packed: PackedCaptions, masks: Masks, table: Array, rows: np.ndarray) -> Batch:
        """A part of a batch, whose captions have their features in those rows of a table."""
        packed = send(packed, self.params.flat, rows[packed.order].astype(np.int32))
        return Batch(table[packed.order], packed, masks)

    def _to_device(self, function: str, features: Array) -> Array:
        """Features as the model computes with them: on its device, in its dtype."""
        kind = getattr(features, "dtype", np.asarray(0.0).dtype).kind
        if kind not in "fiub":
            raise TypeError(f"CaptioningRNN.{function}: features have dtype {features.dtype}, expected real numbers")
        return asarray(features, dtype=self.dtype, like=self.params.flat)

    def _draw_masks(self, parts: list[PackedCaptions]) -> list[Masks]:
        """Masks on the model's device, in the order of each part's rows; drawn for the whole batch, so that they are the same in however many parts."""
        p, shapes = 1 - self.dropout, self.params.shapes
        words = np.unique(np.concatenate([part.words for part in parts]))  # sorted
        features = draw_mask(self.rng, (sum(part.N for part in parts), shapes["W_proj"][0]), p)
        vectors = draw_mask(self.rng, (len(words), shapes["W_embed"][1]), p)
        hidden = draw_mask(self.rng, (sum(len(part.source) for part in parts), shapes["W_proj"][1]), p)
        drawn = [(features[part.order], vectors[np.searchsorted(words, part.words)], hidden[part.source]) for part in parts]
        return [Masks(*send_joined(masks, like=self.params.flat)) for masks in drawn]

    def _forward(self, batch: Batch, new: New) -> Forward:
        packed, masks, params, keep = batch.packed, batch.masks, self.params, 1 - self.dropout
        xp = get_array_module(params.flat)
        x = apply_mask(batch.features, masks.features, keep)  # (N, D)
        h0 = xp.dot(x, params["W_proj"], out=new("h0", (packed.N, len(params["b_proj"]))))
        h0 += params["b_proj"]
        vectors = apply_mask(params["W_embed"][packed.words], masks.words, keep)  # (K, W)
        projected = xp.dot(vectors, params["Wx"], out=new("projected", (len(vectors), len(params["b"]))))
        projected += params["b"]
        ids = packed.inputs.ids
        a = gather(projected, ids, out=new("a", (len(ids), projected.shape[1])))  # (R, kH): each distinct word is projected once
        cell: Any
        if self.cell_type == "lstm":
            h, cell = lstm_rows_forward(a, h0, xp.zeros_like(h0), params["Wh"], packed.sizes, packed.past, new)
        else:
            h, cell = rnn_rows_forward(a, h0, params["Wh"], packed.sizes, packed.past, new)
        hidden = apply_mask(h, masks.hidden, keep)
        if packed.kept is not None:
            hidden = hidden[packed.kept]
        return Forward(x, vectors, cell, hidden)

    def _backward(self, dh: Array, batch: Batch, forward: Forward, grads: Parameters, new: New) -> None:
        """From dh (L, H), of the hidden rows, to the gradients of all parameters but the vocabulary's."""
        packed, masks, (x, vectors, cell, _) = batch.packed, batch.masks, forward
        params, keep = self.params, 1 - self.dropout
        xp = get_array_module(params.flat)
        if packed.kept is not None:
            dh_rows = new("dh_rows", (len(packed.inputs.ids), dh.shape[1]))
            dh_rows[...] = 0
            dh_rows[packed.kept] = dh
            dh = dh_rows
        dh = apply_mask(dh, masks.hidden, keep)  # (R, H)
        if self.cell_type == "lstm":
            da, dh0, _, _ = lstm_rows_backward(dh, cell, new, dWh=grads["Wh"])
        else:
            da, dh0, _ = rnn_rows_backward(dh, cell, new, dWh=grads["Wh"])
        dwords = segment_sum(da, packed.inputs, out=new("dwords", (len(vectors), da.shape[1])))  # (K, kH)
        dwords.sum(axis=0, out=grads["b"])
        xp.dot(vectors.T, dwords, out=grads["Wx"])
        grads["W_embed"][...] = 0
        grads["W_embed"][packed.words] = apply_mask(dwords @ params["Wx"].T, masks.words, keep)  # distinct words: nothing adds up
        xp.dot(x.T, dh0, out=grads["W_proj"])
        dh0.sum(axis=0, out=grads["b_proj"])

    # Sampling

    def start(self, features: Array) -> State:
        """The state before the first word: features (n, D), host or device, to (h,) or (h, c), each (n, H)."""
        D = self.params.shapes["W_proj"][0]
        if np.ndim(features) != 2 or np.shape(features)[1] != D:
            raise ValueError(f"CaptioningRNN.start: features have shape {np.shape(features)}, expected (N, {D})")
        h = self._to_device("start", features) @ self.params["W_proj"] + self.params["b_proj"]
        return (h, get_array_module(h).zeros_like(h)) if self.cell_type == "lstm" else (h,)

    def step(self, words: Array, state: State) -> tuple[Array, State]:
        """Say `words` (n,), ids on the model's device, and return the scores (n, V) of the next word with the new state."""
        return self.advance(self.project(words), state, fresh(self.params.flat))

    def project(self, words: Array) -> Array:
        """What `words` (n,), ids on the model's device, bring to a step: W_embed[words] @ Wx + b, (n, 4H) or (n, H)."""
        return self.params["W_embed"][words] @ self.params["Wx"] + self.params["b"]

    def advance(self, a: Array, state: State, new: New) -> tuple[Array, State]:
        """A step on what the words bring, `project` of them: the scores (n, V) of the next word, which lie where `new` puts them, and the new state."""
        params, h = self.params, state[0]
        xp = get_array_module(h)
        r = xp.dot(h, params["Wh"], out=new("r", a.shape))
        if self.cell_type == "lstm":
            gates = lstm_gates(a, r, state[1], out=Gates(xp.empty_like(h), xp.empty_like(h), r, new("tanh_c", h.shape)))
            state = (gates.h, gates.c)
        else:
            state = (rnn_cell(a, r),)
        scores = xp.dot(state[0], params["W_vocab"], out=new("scores", (len(h), len(params["b_vocab"]))))
        scores += params["b_vocab"]
        return scores, state

    def sample(self, features: Array, max_length: int = 30, forbid: Sequence[int] = ()) -> np.ndarray:
        """Caption a batch greedily: the likeliest word at each step, the whole batch at once, ended captions dropped on the way.

        Parameters
        ----------
        features : array (N, D), host or device
        max_length : most words a caption may have, END included
        forbid : ids of words never to say

        Returns
        -------
        captions : array (N, max_length), int32, on the host; from the first generated word (START is not among them), NULL after END

        Raises
        ------
        ValueError : features that do not fit, a vocabulary without ``<START>``, max_length below 1, or `forbid` with an id that is
            no word's, or with all of them.
        """
        return self._greedy("sample", features, max_length, forbid, scored=False)[0]

    def sample_with_probabilities(self, features: Array, max_length: int = 30, forbid: Sequence[int] = ()) -> tuple[np.ndarray, np.ndarray]:
        """The same captions, and for each word the probability that the model gave it.

        Returns
        -------
        captions : as `sample` returns them
        probabilities : array (N, max_length), the model's dtype, on the host: softmax over the whole vocabulary, forbidden words
            included, given the words before; 0 after END
        """
        return self._greedy("sample_with_probabilities", features, max_length, forbid, scored=True)

    def _greedy(self, function: str, features: Array, max_length: int, forbid: Sequence[int], scored: bool) -> tuple[np.ndarray, np.ndarray]:
        """Captions, and their probabilities, which stay 0 unless `scored`."""
        V = len(self.word_to_idx)
        if self._start is None or self._start >= V:
            raise ValueError(f"CaptioningRNN.{function}: the vocabulary of {V} words has no <START> below {V}, expected it: sampling begins there")
        if max_length < 1:
            raise ValueError(f"CaptioningRNN.{function}: max_length is {max_length}, expected at least 1")
        banned = sorted({int(i) for i in forbid})
        if banned and not (banned[0] >= 0 and banned[-1] < V and len(banned) < V):
            raise ValueError(
                f"CaptioningRNN.{function}: forbid holds {len(banned)} ids {banned[0]}..{banned[-1]}, expected some, not all, of 0..{V - 1}"
            )
        return greedy(self, features, self._start, self._end, self._null, max_length, banned, scored)


def parameter_shapes(D: int, W: int, H: int, V: int, cell_type: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model's parameters, in the order of the flat buffer."""
    k = 4 if cell_type == "lstm" else 1
    return {
        "W_proj": (D, H), "b_proj": (H,), "W_embed": (V, W), "Wx": (W, k * H),
        "Wh": (H, k * H), "b": (k * H,), "W_vocab": (H, V), "b_vocab": (V,),
    }  # fmt: skip


def _check_words(word_to_idx: Mapping[str, int]) -> None:
    """Ids must be distinct whole numbers; they may lie beyond V (the course's fixture has such a one), but not those of special words."""
    ids = list(word_to_idx.values())
    if odd := [(word, i) for word, i in word_to_idx.items() if not isinstance(i, int | np.integer) or i < 0]:
        raise ValueError(f"CaptioningRNN: word_to_idx gives {odd[0][0]!r} the id {odd[0][1]!r}, expected a whole number of at least 0")
    if len(set(ids)) < len(ids):
        raise ValueError(f"CaptioningRNN: word_to_idx gives {len(ids)} words only {len(set(ids))} ids, expected one each")
    if word_to_idx.get("<NULL>", len(ids)) >= len(ids):
        raise ValueError(f"CaptioningRNN: word_to_idx has {len(ids)} words and no <NULL> with an id below that, expected it: it marks padding")
