"""What every captioner does with its scores of the next word: caption pictures by any policy, and score given captions."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from xpcap.backend import Array
from xpcap.layers.cells import State
from xpcap.memory import Buffer, fresh
from xpcap.models import network
from xpcap.models.batch import FeatureRows
from xpcap.models.config import ModelConfig
from xpcap.models.decoding import Said, decode
from xpcap.models.entry import enter
from xpcap.models.network import Member, Score
from xpcap.models.policies import Policy
from xpcap.threads import in_turn


class Captioner(ABC):
    """One model, or several whose probabilities are averaged.

    Attributes
    ----------
    config : ModelConfig; of several models the first one's: they share the sizes of vocabulary and features
    word_to_idx, idx_to_word : the vocabulary, as mappings of word to id and of id to word
    """

    config: ModelConfig
    word_to_idx: dict[str, int]
    idx_to_word: dict[int, str]

    @property
    @abstractmethod
    def members(self) -> Sequence[Member]:
        """Config and parameters of each model."""

    @property
    def like(self) -> Array:
        """An array of the library, device and dtype that it computes in."""
        return self.members[0][1].flat

    @property
    def size(self) -> int:
        """Number of parameters, of all models."""
        return sum(int(params.flat.size) for _, params in self.members)

    @abstractmethod
    def start(self, features: Array) -> State:
        """The state before the first word, from features (n, D) on host or device: a tuple of arrays whose first axis is the caption."""

    @abstractmethod
    def project(self, words: Array, *, buffer: Buffer | None = None) -> Array:
        """What a step needs of `words` (n,), ids on the model's device: (n, G), a row for each; held in `buffer` if given."""

    @abstractmethod
    def advance(self, a: Array, state: State, buffer: Buffer) -> tuple[Array, State]:
        """Take a step on a = project(words), which may be overwritten.

        Returns
        -------
        scores : (n, V), held in `buffer`; log-probabilities of the next word, up to a constant per row
        state : the new one
        """

    @abstractmethod
    def attention(self, features: Array | FeatureRows, captions: Array) -> np.ndarray:
        """Where it looks for each word of given captions, (N, T, P), as `CaptioningRNN.attention`; of several models the mean."""

    def step(self, words: Array, state: State) -> tuple[Array, State]:
        """Feed `words` (n,), ids on the model's device. Return the scores (n, V) of the next word and the new state."""
        return self.advance(self.project(words), state, fresh(self.like))

    @in_turn
    def score(self, features: Array | FeatureRows, captions: Array) -> Score:
        """Score given captions, without dropout or gradients. Arguments are those of `CaptioningRNN.loss`."""
        null = self.word_to_idx["<NULL>"]
        (part,) = enter(f"{self._name}.score", self.config, self.like, null, features, captions, [fresh(self.like)])
        return network.score(self.members, part)

    @property
    def _name(self) -> str:
        return type(self).__name__

    def sample(self, features: Array, max_length: int = 30, *, forbid: Sequence[int] = (), policy: Policy | None = None) -> np.ndarray:
        """Caption a batch, greedily if no policy is given; whole batch at once, and captions leave the batch as they end.

        Parameters
        ----------
        features : array (N, D), host or device
        max_length : most words in a caption, END included
        forbid : ids of words that are never chosen
        policy : Beam, Sampling or another Policy, which has limits of its own. None: the likeliest word at each step

        Returns
        -------
        captions : array (N, max_length), int32, on the host; without START, NULL after END

        Raises
        ------
        ValueError : features do not match or are not finite, the vocabulary has no ``<START>``, max_length is below 1, or `forbid` has an id outside the
            vocabulary or all of it.
        """
        if policy is not None and (max_length != Policy.max_length or len(forbid)):
            raise ValueError(f"{self._name}.sample: max_length or forbid is given with a policy, expected the policy to have them")
        return decode(self, features, policy or Policy(max_length=max_length, forbid=forbid), False, f"{self._name}.sample").captions[:, 0]

    def sample_with_probabilities(self, features: Array, max_length: int = 30, *, forbid: Sequence[int] = ()) -> tuple[np.ndarray, np.ndarray]:
        """Caption greedily, as `sample` does, and return the probability of each word as well.

        Returns
        -------
        captions : as `sample` returns them
        probabilities : array (N, max_length), the model's dtype, on the host: softmax over the whole vocabulary, forbidden words
            included, given the words before; 0 after END
        """
        said = decode(self, features, Policy(max_length=max_length, forbid=forbid), True, f"{self._name}.sample_with_probabilities")
        return said.captions[:, 0], said.probabilities[:, 0]

    def say(self, features: Array, policy: Policy, *, numbers: Sequence[int] | np.ndarray | None = None) -> Said:
        """All captions that a policy returns of each picture, and how likely they are. `numbers` (N,) are those that Sampling draws by: None: 0..N-1."""
        return decode(self, features, policy, True, f"{self._name}.say", numbers)
