"""CaptioningRNN: an image sets the state of a recurrent cell, which generates words one by one."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from xpcap.backend import Array, asarray, is_device_array, to_numpy
from xpcap.backend.memory import Workspace
from xpcap.backend.selfcheck import Results, checked_code, computing
from xpcap.backend.shape_specs import as_array, check_range, spec
from xpcap.backend.switch import array_module
from xpcap.backend.threads import cores, one_blas_thread, parallel_map, split_evenly
from xpcap.decoding.decode import Decodable, Decoded, decode
from xpcap.decoding.policies import Policy, WordIds, require_policy
from xpcap.errors import InvalidTypeError, InvalidValueError
from xpcap.models.batch import Batch, FeatureRows, Part, prepare_features
from xpcap.models.config import ModelConfig
from xpcap.models.device_batch import DeviceNetwork
from xpcap.models.network import Network, Score, score, word_log_probabilities
from xpcap.models.parameters import Parameters, draw_weights
from xpcap.models.trace import Trace, trace
from xpcap.ops import LossTerms, State
from xpcap.ops.cell import name_of
from xpcap.ops.device import FUSED
from xpcap.options import SEED, Whole, described

T = TypeVar("T")
WEIGHTS = 0  # random stream of the initial weights
MIN_SCORED_PER_CORE = 64  # captions of a core for which another core pays off


class CaptioningRNN(Decodable):
    """An image captioner with a recurrent cell, such as an LSTM.

    The image sets the first state, and each word takes a step::

        h0 = features @ W_proj + b_proj
        h_t = cell(W_embed[word_t] @ Wx + b, h_{t-1});  scores_t = h_t @ W_vocab + b_vocab

    With `inject` "every-step", the pre-activation W_embed[word_t] @ Wx + b has another term h0 @
    W_image. With "attention", features are grids of P regions: A = features @ W_proj + b_proj for
    each region, h0 = c0 = mean of A over the regions, and each step has a term attn_t @ Wattn, where
    attn_t is the context of attention to A from h_{t-1} (layers.dot_product_attention_forward).
    "attention+every-step" has both terms. Wx and b are parameters of the cell, which may name them
    otherwise.

    Parameters
    ----------
    word_to_idx : mapping of str to int
        The vocabulary. It needs ``<NULL>``; sampling also needs ``<START>``, and stops early at
        ``<END>``.
    input_dim : int, or tuple of two int
        D, size of an image feature; with attention (P, D), regions and the size of each.
    wordvec_dim : int
        W, size of a word vector.
    hidden_dim : int
        H, size of the state.
    cell_type : str
        A name in xpcap.layers.CELLS.
    dtype : dtype
        numpy.float32 or numpy.float64.
    dropout : float
        Share of units dropped in training, in [0, 1), to the nearest 1 / 65536: of image features,
        of word vectors (one mask per distinct word and batch) and of hidden states before the
        vocabulary.
    inject : str
        Entry of the image, a name in xpcap.models.config.INJECT: "init", "every-step", "attention"
        or "attention+every-step".
    seed : int in 0..2**63-1, or None
        Seed of weights and dropout masks. None draws weights from NumPy's legacy global generator,
        as in the course, and with dropout a seed of the masks.

    Attributes
    ----------
    config : ModelConfig
    params : Parameters
        Views of one flat buffer, on the backend that was current when the model was made. Assigning
        a mapping copies its values.
    seed : int
        With the number of the training step it determines the dropout masks.

    Raises
    ------
    OptionError
        The cell_type is unknown.
    ValueError
        Any other argument is wrong.

    Notes
    -----
    CS231n has a class of this name, with the same constructor, parameter shapes, initialisation and
    order of random draws; `dropout`, `inject` and `seed` are additions. Copies, deep copies and pickles
    are complete models with another buffer.

    Examples
    --------
    >>> word_to_idx = {"<NULL>": 0, "<START>": 1, "<END>": 2, "a": 3, "dog": 4}
    >>> model = CaptioningRNN(word_to_idx, input_dim=8, hidden_dim=16, cell_type="lstm", seed=0)
    >>> features = np.random.default_rng(0).normal(size=(2, 8))
    >>> captions = np.array([[1, 3, 4, 2], [1, 4, 2, 0]])  # <START> a dog <END>, <START> dog <END>
    >>> loss, grads = model.loss(features, captions)
    >>> grads["Wx"].shape == model.params["Wx"].shape
    True
    >>> model.sample(features, max_length=5).shape  # greedy decoding
    (2, 5)
    """

    def __init__(
        self,
        word_to_idx: Mapping[str, int],
        input_dim: int | tuple[int, int] = 512,
        wordvec_dim: int = 128,
        hidden_dim: int = 128,
        cell_type: str = "rnn",
        dtype: DTypeLike = np.float32,
        *,
        dropout: float = 0.0,
        inject: str = "init",
        seed: int | None = None,
    ) -> None:
        shape = input_dim if isinstance(input_dim, tuple) else (input_dim,)
        # Check the config's fields under the course's names, for messages
        for field, name, value in (
            ("cell", "cell_type", cell_type),
            ("feature_shape", "input_dim", shape),
            ("wordvec", "wordvec_dim", wordvec_dim),
            ("hidden", "hidden_dim", hidden_dim),
        ):
            described(ModelConfig)[field].check(name, value)
        _check_words(word_to_idx)
        config = ModelConfig(
            len(word_to_idx),
            shape,
            wordvec_dim,
            hidden_dim,
            cell=cell_type,
            dropout=dropout,
            inject=inject,
        )
        self._setup(config, word_to_idx, dtype)
        self._draw_weights(seed)

    @classmethod
    def from_config(
        cls,
        config: ModelConfig,
        word_to_idx: Mapping[str, int],
        *,
        dtype: DTypeLike = np.float32,
        seed: int | None = None,
        params: Mapping[str, Array] | None = None,
    ) -> Self:
        """The model of a config.

        Parameters
        ----------
        config : ModelConfig
        word_to_idx : mapping of str to int
            The vocabulary, as in the constructor.
        dtype : dtype
            numpy.float32 or numpy.float64.
        seed : int or None
            As in the constructor. None with `params`: 0.
        params : mapping of str to array, or None
            Weights to copy. None: they are drawn.

        Returns
        -------
        model : CaptioningRNN

        Raises
        ------
        ValueError
            The number of words, or names or shapes of `params`, do not fit the config.
        TypeError
            A subclass has another constructor, which would not run.
        """
        if cls.__init__ is not CaptioningRNN.__init__:
            raise InvalidTypeError(
                f"{cls.__name__} overrides __init__, which from_config does not call; construct"
                f" {cls.__name__} and assign model.params, or override from_config"
            )
        model = cls.__new__(cls)
        _check_words(word_to_idx)
        if len(word_to_idx) != config.vocabulary:
            raise InvalidValueError(
                f"word_to_idx has {len(word_to_idx)} words, expected {config.vocabulary} as in the"
                " config; is it from another run?"
            )
        model._setup(config, word_to_idx, dtype)
        if params is None:
            model._draw_weights(seed)
        else:
            model.params = params
            model.seed = 0 if seed is None else seed
        return model

    def _setup(self, config: ModelConfig, word_to_idx: Mapping[str, int], dtype: DTypeLike) -> None:
        """Set all attributes; the values of the parameters come later."""
        self._dtype = np.dtype(dtype)
        if self.dtype.name not in ("float32", "float64"):
            raise InvalidValueError(f"dtype is {self.dtype}, expected float32 or float64")
        self.config = config
        self._word_to_idx = dict(word_to_idx)
        self._idx_to_word = {i: w for w, i in self.word_to_idx.items()}
        self._null = self.word_to_idx["<NULL>"]
        # The course's names, which its notebooks read
        self._start = self.word_to_idx.get("<START>")
        self._end = self.word_to_idx.get("<END>")
        self._params = Parameters.empty(config.shapes(), self.dtype, array_module())
        self._next_step = 0  # the step of `loss` if none is given

    def _draw_weights(self, seed: int | None) -> None:
        rng = None
        if seed is not None:
            rng = np.random.default_rng([_check_seed(seed), WEIGHTS])
        draw_weights(self.config, self.params, rng)
        if (
            seed is None
        ):  # without dropout, as in the course, the global generator is not used again
            seed = np.random.randint(2**31) if self.dropout else 0
        self.seed = seed

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the parameters and of everything computed from them."""
        return self._dtype

    @property
    def word_to_idx(self) -> dict[str, int]:  # type: ignore[override]
        """The vocabulary, word to id."""
        return self._word_to_idx

    @property
    def idx_to_word(self) -> dict[int, str]:
        """The vocabulary, id to word."""
        return self._idx_to_word

    @property
    def seed(self) -> int:
        """With the number of the training step it determines the dropout masks."""
        return self._seed

    @seed.setter
    def seed(self, value: int) -> None:
        self._seed = _check_seed(value)

    @property
    def params(self) -> Parameters:
        """The parameters. ``model.params = mapping`` checks names and shapes, and copies values."""
        return self._params

    @params.setter
    def params(self, values: Mapping[str, Array]) -> None:
        self._params.assign(values)

    @property
    def cell_type(self) -> str:
        """Name of the recurrent cell; the course's name for `config.cell`."""
        return self.config.cell

    @property
    def dropout(self) -> float:
        """Share of units dropped in training."""
        return self.config.dropout

    def __copy__(self) -> Self:
        return copy.deepcopy(self)

    @property
    def like(self) -> Array:
        return self.params.flat

    @property
    def size(self) -> int:
        return int(self.params.flat.size)

    @property
    def dispatch(self) -> tuple[object, ...]:
        cell = self.config.recurrent
        methods = ("equation", "gradient")
        names = (name_of(getattr(cell, method, None)) for method in methods)
        return type(self).__qualname__, self.config, type(cell).__qualname__, *names

    def _network(self, memory: Workspace | None = None) -> Network:
        network = DeviceNetwork if is_device_array(self.like) else Network
        return network(self.config, self.params, memory)

    # ---- Training

    @one_blas_thread()
    def loss(
        self,
        features: Array | FeatureRows,
        captions: Array,
        *,
        workspace: Workspace | None = None,
        weights: np.ndarray | None = None,
        total: float | None = None,
        step: int | None = None,
        smoothing: float = 0.0,
        shard: np.ndarray | None = None,
    ) -> tuple[Array, Parameters]:
        """Loss and gradients of a batch, with dropout if the model has any.

        The loss is summed over time::

            loss = 1 / total * sum over captions of weight * sum over time of cross entropy

        The cross entropy of a word is -log p(target word). With smoothing it is (1 - smoothing) times
        that, plus smoothing times the mean of -log p(word) over the vocabulary (Szegedy et al. 2016,
        section 7).

        Parameters
        ----------
        features : array (N, D), with attention (N, P, D), or FeatureRows
            Features on the host or a device, or rows of a table on the model's device; with `shard`,
            only those of its captions.
        captions : array (N, T+1), int
            Inputs are all columns but the last, targets all but the first; NULL targets do not
            count.
        workspace : Workspace or None
            Memory, an xpcap.backend.memory.Workspace: the gradients, and on a device the loss, are
            valid until its next use. A large enough batch is divided into the workspace's number of
            parts, which are computed in parallel. None: new arrays, one part.
        weights : array (N,), real, or None
            The weight of each caption, on the host. None: 1 each.
        total : float or None
            Divisor of the sum. None: N.
        step : int or None
            Number of the training step, which determines the dropout masks. None: one more than in
            the last call, 0 in the first.
        smoothing : float
            Probability, in [0, 1), that a target gives up to all words in equal parts.
        shard : array (n,), int, or None
            Distinct indices of some of the captions. Loss and gradients are then those of the shard:
            with the same `step`, the shards of several ranks sum to those of one process, also with
            dropout. None: all captions.

        Returns
        -------
        loss : array (), float
        grads : Parameters
            The gradients, with the keys and shapes of `params`.

        Raises
        ------
        ValueError
            Shapes do not match, word ids are outside the vocabulary, a number is out of range, or
            features on the host are not finite (those on a device are not checked).
        TypeError
            Captions are not integers, features are not real numbers, or NumPy cannot read them.
        """
        step = SEED.check("step", self._next_step if step is None else step)
        terms = LossTerms.checked(smoothing=smoothing)
        batch = Batch(features, captions, weights=weights, total=total, shard=shard, step=step)
        batch = batch.checked(self.config)
        if not isinstance(workspace, Workspace | None):
            raise InvalidTypeError(
                f"workspace is a {type(workspace).__name__}, expected an"
                " xpcap.backend.memory.Workspace, or None"
            )
        network = self._network(workspace)
        seed = self.seed if self.dropout else None
        if batch.computed:
            results = network.gradients(batch, self._null, seed=seed, terms=terms)
        else:
            results = network.zero_gradients()
        self._next_step = step + 1
        return results

    # ---- Scores and values of given captions

    @one_blas_thread()
    def score(self, features: Array | FeatureRows, captions: Array) -> Score:
        """Negative log-likelihood and accuracy of given captions, without dropout.

        Parameters
        ----------
        features : array (N, D) or FeatureRows
            As in CaptioningRNN.loss.
        captions : array (N, T+1), int
            As in CaptioningRNN.loss.

        Returns
        -------
        score : Score
            ``nll``, the negative log-likelihood of all target words; ``correct``, the number of them
            that the model finds likeliest; ``tokens``, their number.
        """
        first, *others = self._in_parts("score", Batch(features, captions), score)
        for nll, correct, tokens in others:
            first = Score(first.nll + nll, first.correct + correct, first.tokens + tokens)
        return first

    @one_blas_thread()
    def word_log_probabilities(self, features: Array | FeatureRows, captions: Array) -> np.ndarray:
        """Log-probability of each word of given captions, without dropout.

        Parameters
        ----------
        features : array (N, D) or FeatureRows
            As in `score`.
        captions : array (N, T+1), int
            As in `score`.

        Returns
        -------
        log_probabilities : array (N, T), the model's dtype
            On the host. [n, t] is the log-probability of captions[n, t + 1], given the words before; 0
            after END.
        """
        batch = Batch(features, captions)
        compute = word_log_probabilities
        return np.concatenate(self._in_parts("word_log_probabilities", batch, compute))

    @one_blas_thread()
    def attention(self, features: Array | FeatureRows, captions: Array) -> np.ndarray:
        """Attention over regions at each word of given captions, without dropout.

        Parameters
        ----------
        features : array (N, P, D) or FeatureRows
            As in `loss`.
        captions : array (N, T+1), int
            As in `loss`.

        Returns
        -------
        weights : array (N, T, P), the model's dtype
            On the host. [n, t] has the weights of the regions, with sum 1, at the step that predicts
            captions[n, t + 1]; 0 after the end.

        Raises
        ------
        ValueError
            As in `loss`, or the model does not attend.
        """
        if not self.config.attends:
            raise InvalidValueError(
                f"`inject` of the model is {self.config.inject}, expected one with attention"
            )
        part = self._part("attention", Batch(features, captions))
        attention = self._network().forward(part).image.attention
        assert attention is not None
        return part.packed.unpack(to_numpy(attention.weights))

    @one_blas_thread()
    def trace(self, features: Array | FeatureRows, captions: Array) -> Trace:
        """Values inside the cell at each step of given captions, and gradients through time.

        There is no dropout. It suits a few captions: time grows with the cube of their length.

        Parameters
        ----------
        features : array (N, D), with attention (N, P, D), or FeatureRows
            As in `loss`.
        captions : array (N, T+1), int
            As in `loss`.

        Returns
        -------
        trace : Trace
            States, gates, log-probabilities of the next word, saturation, and the norm of the
            gradient of each word's loss with respect to each state before it.

        Raises
        ------
        TypeError, ValueError
            As in `loss`.
        """
        part = self._part("trace", Batch(features, captions))
        # The part sorts pictures by the length of their captions
        unsorted = asarray(np.argsort(part.packed.order), like=self.like)
        network = self._network()
        image = network.image(part.table, part.pictures[unsorted])
        return trace(network, image, to_numpy(captions), self._null)

    def _in_parts(
        self, method: str, batch: Batch, compute: Callable[[Network, Part], T]
    ) -> list[T]:
        """The results of all parts of given captions; on the host each part has a core."""
        batch = batch.checked(self.config)
        N = len(batch.captions)
        parts = [slice(0, N)]
        if isinstance(self.like, np.ndarray):
            parts = split_evenly(N, min(cores(), N // MIN_SCORED_PER_CORE))

        def compute_part(rows: slice) -> T:
            network = self._network()
            return compute(network, network.part(batch.take(rows), self._null))

        def trial() -> Results:
            network = self._network()
            part = network.part(batch, self._null)
            log_probabilities = word_log_probabilities(network, part)
            return {"nll": score(network, part).nll, "log-probabilities": log_probabilities}

        with computing(checked_code("scoring", (*self.dispatch, N > FUSED), self.like, trial)):
            return parallel_map(compute_part, parts)

    def _part(self, method: str, batch: Batch) -> Part:
        """A batch as one part on the model's device."""
        return self._network().part(batch.checked(self.config), self._null)

    # ---- Decoding

    @one_blas_thread()
    def start(self, features: Array) -> State:
        """State before the first word.

        Parameters
        ----------
        features : array (n, D), with attention (n, P, D), float
            On the host or a device.

        Returns
        -------
        state : tuple of array
            The cell's state, then the constants of `inject`: the image's term of every step (n, G),
            and the regions A (n, P, H).
        """
        shape = self.config.feature_shape
        features = prepare_features(features, shape, self.like, read=False)
        return self._network().start(features)

    def stepper(self, memory: Workspace) -> Network:
        return self._network(memory)

    @one_blas_thread()
    def step(self, words: Array, state: State) -> tuple[Array, State]:
        """Take a step that reads words, in new arrays.

        Parameters
        ----------
        words : array (n,), int
            Ids. They are checked; ids on a device are read for that, which waits for the device.
        state : tuple of array
            The state of `start` or of the step before.

        Returns
        -------
        scores : array (n, V), float
            Log-probabilities of the next word, up to a constant.
        state : tuple of array
            The state after the step.

        Raises
        ------
        TypeError
            `words` are not integers.
        ValueError
            `words` have a wrong shape, an id is outside the vocabulary, or `state` belongs to other
            words or another model.
        """
        words = as_array("words", words)
        n = spec("words:n=i").check(words)["n"]
        like = self.like
        arrays = self.config.state_arrays
        if len(state) != arrays:
            raise InvalidValueError(
                f"state has {len(state)} arrays, expected {arrays}; is it of another model?"
            )
        if len(state[0]) != n:
            raise InvalidValueError(
                f"state has {len(state[0])} rows, but `words` has length {n}, expected one for each"
                " word"
            )
        V = self.config.vocabulary
        check_range("words", to_numpy(words), V, "from another vocabulary?")
        stepper = self.stepper(Workspace.fresh(like))
        return stepper.advance(stepper.project(asarray(words, like=like)), state)

    def sample(
        self,
        features: Array,
        max_length: int = 30,
        *,
        forbid: Iterable[int] = (),
        policy: Policy | None = None,
    ) -> np.ndarray:
        """Captions of a batch of pictures, by greedy decoding unless a policy is given.

        Parameters
        ----------
        features : array (N, D), float
            On the host or a device; with attention (N, P, D).
        max_length : int
            Most words of a caption, with END.
        forbid : iterable of int
            Ids of words that are never chosen.
        policy : Policy or None
            Beam, Sampling or another Policy, which has these limits itself. None: the likeliest word
            at each step.

        Returns
        -------
        captions : array (N, max_length), int32
            Word ids on the host, without START, and NULL after END.

        Raises
        ------
        ValueError
            Features do not match or are not finite, the vocabulary has no ``<START>``, max_length
            is below 1, `forbid` has an id outside the vocabulary or all of it, or the policy
            returns several captions of a picture.
        TrainingError
            Scores on the host are not finite, since a parameter is not finite or too large. Scores on
            a device are only checked in `decode` and `sample_with_probabilities`.

        Examples
        --------
        >>> from xpcap.models import Beam
        >>> model = CaptioningRNN({"<NULL>": 0, "<START>": 1, "<END>": 2, "dog": 3}, 4, seed=0)
        >>> captions = model.sample(np.ones((1, 4)), policy=Beam(3, max_length=5))
        >>> captions.shape
        (1, 5)
        """
        forbid = [*forbid]
        if policy is not None and (max_length != Policy.max_length or forbid):
            raise InvalidValueError(
                "max_length or forbid is given with a policy, expected the policy to have them"
            )
        policy = self._greedy("sample", max_length, forbid) if policy is None else policy
        require_policy(policy)
        if (policy.n_best or 1) > 1:
            raise InvalidValueError(
                f"policy has n_best {policy.n_best}, expected n_best 1: sample returns one caption"
                " of each picture; call decode for several captions"
            )
        return self._decode("sample", features, policy, scored=False).captions[:, 0]

    def sample_with_probabilities(
        self, features: Array, max_length: int = 30, *, forbid: Iterable[int] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """Greedy captions, and the probability of each word.

        Parameters
        ----------
        features : array (N, D), float
            As in `sample`.
        max_length : int
            As in `sample`.
        forbid : iterable of int
            As in `sample`.

        Returns
        -------
        captions : array (N, max_length), int32
            As in `sample`.
        probabilities : array (N, max_length), the model's dtype
            On the host. The softmax runs over the whole vocabulary, with forbidden words, given the
            words before; 0 after END.
        """
        policy = self._greedy("sample_with_probabilities", max_length, forbid)
        decoded = self._decode("sample_with_probabilities", features, policy, scored=True)
        return decoded.captions[:, 0], decoded.probabilities[:, 0]

    def decode(
        self, features: Array, policy: Policy, *, numbers: Sequence[int] | np.ndarray | None = None
    ) -> Decoded:
        """Captions and their probabilities, by a policy.

        Parameters
        ----------
        features : array (N, D), float
            As in `sample`.
        policy : Policy
        numbers : sequence of int, or None
            Numbers of the pictures, which are keys for a policy that samples. None: 0..N-1.

        Returns
        -------
        decoded : Decoded
            On the host: ``captions`` (N, n, max_length), with n per picture, best first; their words'
            ``probabilities``, and their ``log_probabilities`` (N, n).

        Examples
        --------
        >>> from xpcap.models import Beam
        >>> model = CaptioningRNN({"<NULL>": 0, "<START>": 1, "<END>": 2, "dog": 3}, 4, seed=0)
        >>> decoded = model.decode(np.ones((1, 4)), Beam(3, n_best=2, max_length=5))
        >>> decoded.captions.shape, decoded.log_probabilities.shape
        ((1, 2, 5), (1, 2))
        """
        return self._decode("decode", features, policy, scored=True, numbers=numbers)

    def _greedy(self, method: str, max_length: int, forbid: Iterable[int]) -> Policy:
        """Greedy decoding with limits that are arguments of a method."""
        cause = "give a policy as `policy`" if isinstance(max_length, Policy) else ""
        length = Whole(1, cause=cause).check("max_length", max_length)
        return Policy(max_length=length, forbid=WordIds().check("forbid", forbid))

    def _decode(
        self,
        method: str,
        features: Array,
        policy: Policy,
        *,
        scored: bool,
        numbers: Sequence[int] | np.ndarray | None = None,
    ) -> Decoded:
        features = prepare_features(features, self.config.feature_shape, self.like)
        return decode(self, features, policy, scored, numbers)


def _check_words(word_to_idx: Mapping[str, int]) -> None:
    """TypeError, ValueError : word_to_idx is not a mapping of words to distinct whole numbers.

    Ids of V and above are allowed, since the course's fixture has one, but not for <NULL>.
    """
    if not isinstance(word_to_idx, Mapping):
        raise InvalidTypeError(
            f"word_to_idx is a {type(word_to_idx).__name__}, expected a mapping of word to id; for"
            " a list of words in the order of their ids give {word: i for i, word in"
            " enumerate(words)}"
        )
    ids = list(word_to_idx.values())
    if wrong := [
        (word, i) for word, i in word_to_idx.items() if not isinstance(i, int | np.integer) or i < 0
    ]:
        raise InvalidValueError(
            f"word_to_idx gives {wrong[0][0]!r} the id {wrong[0][1]!r}, expected a whole number of"
            " at least 0"
        )
    if len(set(ids)) < len(ids):
        raise InvalidValueError(
            f"word_to_idx gives {len(ids)} words only {len(set(ids))} ids, expected one each"
        )
    if word_to_idx.get("<NULL>", len(ids)) >= len(ids):
        raise InvalidValueError(
            f"word_to_idx has {len(ids)} words but no <NULL> with an id below that, expected one:"
            " it marks padding"
        )


def _check_seed(seed: int) -> int:
    return SEED.check("seed", seed)


def build_model(
    config: ModelConfig,
    word_to_idx: Mapping[str, int],
    *,
    seed: int | None = None,
    params: Mapping[str, Array] | None = None,
) -> CaptioningRNN:
    """The model of a config. Only this function chooses the class of a run's model."""
    return CaptioningRNN.from_config(config, word_to_idx, seed=seed, params=params)
