"""CaptioningRNN: an image feature sets the first state of an RNN or LSTM, which then says the caption word by word."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import Array, array_module, asarray, get_array_module, to_numpy
from xpcap.errors import unknown
from xpcap.layers.dropout import apply_mask, draw_mask
from xpcap.layers.lstm import lstm_rows_backward, lstm_rows_forward
from xpcap.layers.rnn import rnn_rows_backward, rnn_rows_forward
from xpcap.models.packing import PackedCaptions, pack, send
from xpcap.models.parameters import Parameters
from xpcap.ops import log_softmax, lstm_gates, segment_sum, softmax_loss

CELLS = ("rnn", "lstm")
INIT_ORDER = ("W_embed", "W_proj", "Wx", "Wh", "W_vocab")  # the course's; biases start at zero
WEIGHTS, DROPOUT = 0, 1  # streams of one seed
State = tuple[Array, ...]  # (h,) or (h, c), each (n, H)


class Score(NamedTuple):
    """Teacher-forced result on a batch: total negative log-likelihood (0-d), words guessed right (0-d), words in all (int)."""

    nll: Array
    correct: Array
    tokens: int


class Masks(NamedTuple):
    """Dropout masks of one batch, or None throughout. Drawn on the host in this order, each in (caption, time, unit) order."""

    features: Array | None = None  # (N, D)
    words: Array | None = None  # (K, W), one row for each distinct input word
    hidden: Array | None = None  # (R, H), live steps caption by caption


class Forward(NamedTuple):
    """What the backward pass needs of the forward pass."""

    packed: PackedCaptions
    masks: Masks
    features: Array  # (N, D) sorted, after dropout
    vectors: Array  # (K, W) after dropout
    cell: Any
    hidden: Array  # (L, H) rows with a target, after dropout
    scores: Array  # (L, V)


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

    def loss(self, features: Array, captions: Array) -> tuple[Array, Parameters]:
        """Loss and gradients of a batch, with dropout where the model has it.

        Parameters
        ----------
        features : array (N, D), host or device
        captions : array (N, T+1), int; inputs are all columns but the last, targets all but the first

        Returns
        -------
        loss : 0-d; cross entropy summed over time and averaged over captions, NULL targets left out
        grads : Parameters with the keys and shapes of `params`

        Raises
        ------
        ValueError : shapes that do not fit, or word ids outside the vocabulary. TypeError : captions that are not integers.
        """
        forward = self._forward(*self._enter("loss", features, captions), train=True)
        nll, dscores = softmax_loss(forward.scores, forward.packed.targets)
        dscores /= forward.packed.N
        return nll.sum() / forward.packed.N, self._backward(dscores, forward)

    def score(self, features: Array, captions: Array) -> Score:
        """Score given captions without dropout and without gradients: see Score. Arguments as for `loss`."""
        forward = self._forward(*self._enter("score", features, captions), train=False)
        xp, targets = get_array_module(forward.scores), forward.packed.targets
        log_p = log_softmax(forward.scores)
        right = (forward.scores.argmax(axis=1) == targets).sum()
        return Score(-log_p[xp.arange(len(targets)), targets].sum(dtype=np.float64), right, len(targets))

    def _enter(self, function: str, features: Array, captions: Array) -> tuple[Array, PackedCaptions]:
        """Check a batch on the host, pack it, and send features and packing to the model's device."""
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
        return self._to_device(function, features), send(pack(captions, self._null), like=self.params.flat)

    def _to_device(self, function: str, features: Array) -> Array:
        """Features as the model computes with them: on its device, in its dtype."""
        kind = getattr(features, "dtype", np.asarray(0.0).dtype).kind
        if kind not in "fiub":
            raise TypeError(f"CaptioningRNN.{function}: features have dtype {features.dtype}, expected real numbers")
        return asarray(features, dtype=self.dtype, like=self.params.flat)

    def _draw_masks(self, packed: PackedCaptions) -> Masks:
        if not self.dropout:
            return Masks()
        p, shapes = 1 - self.dropout, self.params.shapes
        sizes = ((packed.N, shapes["W_proj"][0]), (len(packed.words), shapes["W_embed"][1]), (len(packed.inputs), shapes["W_proj"][1]))
        return Masks(*(asarray(draw_mask(self.rng, size, p), like=self.params.flat) for size in sizes))

    def _forward(self, features: Array, packed: PackedCaptions, train: bool) -> Forward:
        params, keep = self.params, 1 - self.dropout
        masks = self._draw_masks(packed) if train else Masks()
        x = apply_mask(features, masks.features, keep)[packed.order]  # (N, D)
        h0 = x @ params["W_proj"] + params["b_proj"]  # (N, H)
        vectors = apply_mask(params["W_embed"][packed.words], masks.words, keep)  # (K, W)
        a = (vectors @ params["Wx"] + params["b"])[packed.inputs]  # (R, kH): each distinct word is projected once
        cell: Any
        if self.cell_type == "lstm":
            h, cell = lstm_rows_forward(a, h0, get_array_module(h0).zeros_like(h0), params["Wh"], packed.sizes)
        else:
            h, cell = rnn_rows_forward(a, h0, params["Wh"], packed.sizes)
        hidden_mask = None if masks.hidden is None else masks.hidden[packed.source]
        masks = masks._replace(hidden=hidden_mask)  # from here on in the order of the rows
        hidden = apply_mask(h, hidden_mask, keep)
        if packed.kept is not None:
            hidden = hidden[packed.kept]
        return Forward(packed, masks, x, vectors, cell, hidden, hidden @ params["W_vocab"] + params["b_vocab"])

    def _backward(self, dscores: Array, forward: Forward) -> Parameters:
        packed, masks, x, vectors, cell, hidden, _ = forward
        params, keep = self.params, 1 - self.dropout
        xp = get_array_module(params.flat)
        grads = Parameters.empty(params.shapes, self.dtype, xp)
        grads["W_vocab"], grads["b_vocab"] = hidden.T @ dscores, dscores.sum(axis=0)
        dh = dscores @ params["W_vocab"].T  # (L, H)
        if packed.kept is not None:
            dh_rows = xp.zeros((len(packed.inputs), dh.shape[1]), dh.dtype)
            dh_rows[packed.kept] = dh
            dh = dh_rows
        dh = apply_mask(dh, masks.hidden, keep)  # (R, H)
        if self.cell_type == "lstm":
            da, dh0, _, grads["Wh"] = lstm_rows_backward(dh, cell)
        else:
            da, dh0, grads["Wh"] = rnn_rows_backward(dh, cell)
        dwords = segment_sum(da, packed.inputs, len(packed.words))  # (K, kH)
        grads["b"] = dwords.sum(axis=0)
        grads["Wx"] = vectors.T @ dwords
        grads["W_embed"][...] = 0
        grads["W_embed"][packed.words] = apply_mask(dwords @ params["Wx"].T, masks.words, keep)  # distinct words: nothing adds up
        grads["W_proj"], grads["b_proj"] = x.T @ dh0, dh0.sum(axis=0)
        return grads

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
        params, h = self.params, state[0]
        a = params["W_embed"][words] @ params["Wx"] + params["b"] + h @ params["Wh"]
        if self.cell_type == "lstm":
            gates = lstm_gates(a, state[1])
            state = (gates.h, gates.c)
        else:
            state = (get_array_module(a).tanh(a),)
        return state[0] @ params["W_vocab"] + params["b_vocab"], state

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
        state = self.start(features)
        xp, N = get_array_module(state[0]), len(state[0])
        captions, probabilities = np.full((N, max_length), self._null, np.int32), np.zeros((N, max_length), self.dtype)
        penalty = xp.zeros(V, self.dtype)
        penalty[asarray(np.array(banned, np.int64), like=penalty)] = -np.inf
        alive = np.arange(N)  # the captions that go on
        words = xp.full(N, self._start, np.int32)
        for t in range(max_length):
            if alive.size == 0:
                break
            scores, state = self.step(words, state)
            words = (scores + penalty).argmax(axis=1)
            captions[alive, t] = said = to_numpy(words)
            if scored:
                probabilities[alive, t] = to_numpy(xp.exp(log_softmax(scores)[xp.arange(len(words)), words]))
            going = np.flatnonzero(said != self._end)
            if len(going) < len(alive):
                rows = asarray(going, like=words)
                alive, words, state = alive[going], words[rows], tuple(s[rows] for s in state)
        return captions, probabilities


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
