"""Captioner: a model that captions pictures by any policy and scores given captions."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from xpcap.backend import Array, asarray, to_numpy
from xpcap.decoding.decode import Decodable, Decoded, decode
from xpcap.decoding.policies import Policy, WordIds, require_policy
from xpcap.errors import InvalidValueError
from xpcap.memory import Workspace
from xpcap.models import network
from xpcap.models.batch import Batch, FeatureRows, Part, prepare_features
from xpcap.models.config import ModelConfig
from xpcap.models.network import Score
from xpcap.ops import State
from xpcap.ops.cell import name_of
from xpcap.ops.device import FUSED
from xpcap.options import Whole
from xpcap.selfcheck import Results, checked_way, computing
from xpcap.spec import as_array, check_range, spec
from xpcap.threads import cores, one_blas_thread, parallel_map, split_evenly

T = TypeVar("T")
MIN_SCORED_PER_CORE = 64  # captions, for another core to pay off


class Captioner(Decodable):
    """A model that captions.

    A subclass starts from features, projects words, advances by one word, and scores captions;
    `sample`, `sample_with_probabilities` and `decode` are built on that.

    config : sizes, cell and entry of the image
    idx_to_word : the vocabulary, id to word
    """

    config: ModelConfig
    idx_to_word: dict[int, str]

    @property
    def dispatch(self) -> tuple[object, ...]:
        cell, methods = self.config.recurrent, ("equation", "gradient")
        names = (name_of(getattr(cell, method, None)) for method in methods)
        return type(self).__qualname__, self.config, type(cell).__qualname__, *names

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of parameters."""

    @abstractmethod
    def attention(self, features: Array | FeatureRows, captions: Array) -> np.ndarray:
        """Attention (N, T, P) as of CaptioningRNN.attention.

        features : array (N, P, D) or FeatureRows
        captions : array (N, T+1), int
        """

    @one_blas_thread()
    def score(self, features: Array | FeatureRows, captions: Array) -> Score:
        """Scores of given captions, without dropout.

        Parameters
        ----------
        features : array (N, D) or FeatureRows
            As in CaptioningRNN.loss.
        captions : array (N, T+1), int
            As in CaptioningRNN.loss.

        Returns
        -------
        score : Score
            ``nll``, the negative log-likelihood of all target words; ``correct``, how many of them
            the model scores highest; ``tokens``, how many there are.
        """
        first, *others = self._in_parts("score", Batch(features, captions), network.score)
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
            On the host: [n, t] is that of captions[n, t + 1], END included, given the words before;
            0 after END.
        """
        batch, compute = Batch(features, captions), network.word_log_probabilities
        return np.concatenate(self._in_parts("word_log_probabilities", batch, compute))

    @one_blas_thread()
    def step(self, words: Array, state: State) -> tuple[Array, State]:
        """Take a step from the words themselves, in fresh memory.

        Parameters
        ----------
        words : array (n,), int
            Ids. They are checked: those of a device are read, which waits for it.
        state : tuple of array
            Of `start`, or of the step before.

        Returns
        -------
        scores : array (n, V), float
            Log-probabilities of the next word, up to a constant.
        state : tuple of array
            The new one.

        Raises
        ------
        TypeError
            `words` are no integers.
        ValueError
            `words` have another shape, an id is outside the vocabulary, or `state` is of other words
            or of another model.
        """
        caller, words = f"{self._name}.step", as_array(f"{self._name}.step", "words", words)
        n, like = spec("words:n=i").check(caller, words)["n"], self.like
        arrays = self.config.state_arrays
        if len(state) != arrays:
            got = f"has {len(state)} arrays"
            raise InvalidValueError(caller, "state", got, arrays, "is it of another model?")
        if len(state[0]) != n:
            got = f"has {len(state[0])} rows, but `words` has length {n}"
            raise InvalidValueError(caller, "state", got, "one for each word")
        V = self.config.vocabulary
        check_range(caller, "words", to_numpy(words), V, "from another vocabulary?")
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
        """Captions of a batch, greedy if no policy is given.

        Parameters
        ----------
        features : array (N, D), float
            On the host or a device; with attention (N, P, D).
        max_length : int
            Most words in a caption, END included.
        forbid : iterable of int
            Ids of words that are never chosen.
        policy : Policy or None
            Beam, Sampling or another Policy, which has limits of its own. None: the likeliest word
            at each step.

        Returns
        -------
        captions : array (N, max_length), int32
            On the host; without START, NULL after END.

        Raises
        ------
        ValueError
            Features do not match or are not finite, the vocabulary has no ``<START>``, max_length
            is below 1, `forbid` has an id outside the vocabulary or all of it, or the policy
            returns several captions of a picture.
        TrainingError
            Scores of the host are not finite, since a parameter is not, or is too large. Those of
            a device are checked in `decode` and `sample_with_probabilities`, which read more.
        """
        caller = f"{self._name}.sample"
        forbid = [*forbid]
        if policy is not None and (max_length != Policy.max_length or forbid):
            got = "is given with a policy"
            expected = "the policy to have them"
            raise InvalidValueError(caller, "max_length or forbid", got, expected)
        policy = self._greedy("sample", max_length, forbid) if policy is None else policy
        require_policy(caller, policy)
        if (policy.n_best or 1) > 1:
            got, cause = f"has n_best {policy.n_best}", "call decode for several captions"
            expected = "n_best 1: sample returns one caption of each picture"
            raise InvalidValueError(caller, "policy", got, expected, cause)
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
            On the host: softmax over the whole vocabulary, forbidden words included, given the
            words before; 0 after END.
        """
        policy = self._greedy("sample_with_probabilities", max_length, forbid)
        decoded = self._decode("sample_with_probabilities", features, policy, scored=True)
        return decoded.captions[:, 0], decoded.probabilities[:, 0]

    def decode(
        self, features: Array, policy: Policy, *, numbers: Sequence[int] | np.ndarray | None = None
    ) -> Decoded:
        """Captions by a policy, with probabilities.

        Parameters
        ----------
        features : array (N, D), float
            As in `sample`.
        policy : Policy
        numbers : sequence of int, or None
            Numbers of the pictures, the keys of a policy that samples. None: 0..N-1.

        Returns
        -------
        decoded : Decoded
            ``captions`` (N, n, max_length), with n of each picture, the best first; their words'
            ``probabilities``, and their ``log_probabilities`` (N, n). On the host.
        """
        return self._decode("decode", features, policy, scored=True, numbers=numbers)

    def _greedy(self, method: str, max_length: int, forbid: Iterable[int]) -> Policy:
        """Greedy decoding within limits, which a method takes as its own arguments."""
        caller = f"{self._name}.{method}"
        cause = "give a policy as `policy`" if isinstance(max_length, Policy) else ""
        length = Whole(1, cause=cause).check(caller, "max_length", max_length)
        return Policy(max_length=length, forbid=WordIds().check(caller, "forbid", forbid))

    def _decode(
        self,
        method: str,
        features: Array,
        policy: Policy,
        *,
        scored: bool,
        numbers: Sequence[int] | np.ndarray | None = None,
    ) -> Decoded:
        caller = f"{self._name}.{method}"
        features = prepare_features(caller, features, self.config.feature_shape, self.like)
        return decode(self, features, policy, scored, caller, numbers)

    def _in_parts(
        self, method: str, batch: Batch, compute: Callable[[network.Network, Part], T]
    ) -> list[T]:
        """A result for each part of given captions; on the host a core computes each."""
        batch = batch.checked(f"{self._name}.{method}", self.config)  # whole: a part takes rows
        N = len(batch.captions)
        parts = [slice(0, N)]
        if isinstance(self.like, np.ndarray):
            parts = split_evenly(N, min(cores(), N // MIN_SCORED_PER_CORE))

        def of_part(rows: slice) -> T:
            return compute(self._network(), self._part(method, batch.take(rows)))

        def trial() -> Results:
            part, whole = self._part(method, batch), self._network()
            log_probabilities = network.word_log_probabilities(whole, part)
            return {"nll": network.score(whole, part).nll, "log-probabilities": log_probabilities}

        with computing(checked_way("scoring", (*self.dispatch, N > FUSED), self.like, trial)):
            return parallel_map(of_part, parts)

    def _part(self, method: str, batch: Batch) -> Part:
        """Given captions as one part on the model's device."""
        caller, null = f"{self._name}.{method}", self.word_to_idx["<NULL>"]
        return self._network().part(caller, batch.checked(caller, self.config), null)

    @abstractmethod
    def _network(self, memory: Workspace | None = None) -> network.Network:
        """The network, in this memory or in fresh one."""

    @property
    def _name(self) -> str:
        return type(self).__name__
