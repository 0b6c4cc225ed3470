"""Objectives: from a model and a batch to a loss and its gradients. Cross entropy, and self-critical training on CIDEr-D of sampled captions."""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from xpcap.backend import Array, asarray, get_array_module
from xpcap.data.dataset import CaptionData
from xpcap.data.vocabulary import END, UNK
from xpcap.distributed import SINGLE, Group
from xpcap.errors import OptionError
from xpcap.memory import Workspace
from xpcap.metrics.cider import CiderD, DocumentFrequencies
from xpcap.models.batch import Batch, FeatureRows
from xpcap.models.parameters import Parameters
from xpcap.models.policies import Sampling
from xpcap.ops.random import draw_uniforms

CROSS_ENTROPY, SELF_CRITICAL = OBJECTIVES = ("cross-entropy", "self-critical")
Objective = Callable[[Any, Batch, Workspace | None], tuple[Array, Parameters]]


def cross_entropy(model: Any, batch: Batch, workspace: Workspace | None = None) -> tuple[Array, Parameters]:
    """Cross entropy of the captions: summed over time, weighted by caption, divided by `batch.total`; see CaptioningRNN.loss."""
    return model.loss(batch.features, batch.captions, workspace=workspace, **_rest(batch))


def smoothed_cross_entropy(smoothing: float) -> Objective:
    """The objective that is cross entropy with label smoothing, in [0, 1); see CaptioningRNN.loss. With 0 it is `cross_entropy` itself.

    Raises
    ------
    OptionError : smoothing is out of range.
    """
    if not (isinstance(smoothing, int | float) and 0 <= smoothing < 1):
        raise OptionError(f"smoothed_cross_entropy: smoothing is {smoothing!r}, expected a share of probability, in [0, 1)")
    if not smoothing:
        return cross_entropy

    def objective(model: Any, batch: Batch, workspace: Workspace | None = None) -> tuple[Array, Parameters]:
        return model.loss(batch.features, batch.captions, workspace=workspace, smoothing=smoothing, **_rest(batch))

    return objective


def check_objective(objective: Any) -> None:
    """TypeError : not a function of (model, batch, workspace)."""
    if not callable(objective):
        known = "; smoothed_cross_entropy(smoothing) and SelfCritical(data) in xpcap.training make some"
        raise TypeError(f"CaptioningSolver: objective is {objective!r}, expected a function of (model, batch, workspace){known}")
    try:
        inspect.signature(objective).bind("model", "batch", "workspace")
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"CaptioningSolver: objective is called as objective(model, batch, workspace), expected one that takes these ({error})"
        ) from error


def loss_and_gradients(objective: Objective, model: Any, batch: Batch, workspace: Workspace) -> tuple[Array, Parameters]:
    """What an objective returns, its loss as a 0-d array of the model's library and dtype.

    TypeError, ValueError : it is not a loss and a Parameters with the gradients of all parameters.
    """
    returned, params = objective(model, batch, workspace), model.params
    if not (isinstance(returned, tuple) and len(returned) == 2):
        raise TypeError(f"CaptioningSolver: the objective returned a {type(returned).__name__}, expected the tuple (loss, grads)")
    loss, grads = returned
    if not isinstance(grads, Parameters):
        raise TypeError(
            f"CaptioningSolver: the objective returned gradients as a {type(grads).__name__}, expected a Parameters, as model.loss returns; "
            "model.params.holding(grads) makes one of a dict"
        )
    if grads.shapes != params.shapes or np.shape(loss) != ():
        raise ValueError(
            f"CaptioningSolver: the objective returned a loss of shape {np.shape(loss)} and gradients of {', '.join(grads)}, "
            f"expected one number and gradients of {', '.join(params)}, with the shapes of the parameters"
        )
    return loss if hasattr(loss, "dtype") else asarray(loss, dtype=params.flat.dtype, like=params.flat), grads


def visits(objective: Objective, data: CaptionData) -> np.ndarray:
    """Numbers of the train split's captions that an epoch visits, each once: those in the attribute `visits` of an objective that has one, else all."""
    return getattr(objective, "visits", np.arange(len(data.split("train").captions)))


def training_figures(objective: Objective, loss: float) -> dict[str, float]:
    """What the record of an epoch says of training, from the mean of its losses: what an objective's `figures` makes of it, else ``train_loss``."""
    return objective.figures(loss) if hasattr(objective, "figures") else {"train_loss": loss}


def collapse_of(objective: Objective) -> Callable[[Mapping[str, Any]], str | None]:
    """An objective's `collapse`: from the record of an epoch to why training should stop after it, or None. Without one training never should."""
    return getattr(objective, "collapse", lambda record: None)


def _rest(batch: Batch) -> dict[str, Any]:
    """What a batch says beside features and captions. `shard` only where there is one: not every model knows how to share a batch."""
    told = {"weights": batch.weights, "total": batch.total, "step": batch.step}
    return told if batch.shard is None else {**told, "shard": batch.shard}


# Self-critical training


LEAST_DISTINCT = 0.05  # of captions of the val split; what good runs say differs in 0.4 and more
SHORTEST, LONGEST = 0.6, 1.6  # words of a caption over those of a reference


class SelfCritical:
    """The objective -E[CIDEr-D] of captions that the model samples: REINFORCE with the mean of a picture's other samples as its baseline.

    With K samples c_1..c_K of each of n pictures, drawn word by word from the model's own probabilities without dropout,

        loss = -1/(nK) sum over pictures sum_k r(c_k);  gradient = 1/(nK) sum over pictures sum_k (r(c_k) - b_k) grad(-log p(c_k))

    where b_k is the mean reward of the picture's other samples. r is CIDEr-D beside the picture's train captions, with document frequencies of the
    train split, and with END as a word: without it captions learn to break off. An epoch visits every picture once, not every caption.

    Parameters
    ----------
    data : CaptionData; rewards are those of its train split
    samples : K, captions of a picture, at least 2
    group : the ranks that train together; each samples for its share of the pictures

    Attributes
    ----------
    visits : array (m,), int; numbers of the captions that an epoch visits: the first of each picture that has any

    Raises
    ------
    OptionError : fewer than two samples.

    Notes
    -----
    Rennie et al. 2017, *Self-critical Sequence Training for Image Captioning*; the baseline is that of Luo 2020, *A Better Variant of Self-Critical
    Sequence Training*. NULL and START, which are never targets, are not drawn; the gradient is exact up to their probability.
    """

    def __init__(self, data: CaptionData, *, samples: int = 5, group: Group = SINGLE) -> None:
        if not (isinstance(samples, int | np.integer) and samples >= 2):
            raise OptionError(f"SelfCritical: `samples` is {samples!r}, expected at least 2: a sample is judged beside the others of its picture")
        self.samples, self._group, self._words = int(samples), group, data.vocabulary
        self._max_length = data.max_words + 1
        self._data, split = data, data.split("train")
        pictures, self.visits = np.unique(split.image_idxs, return_index=True)
        self._captions = np.argsort(split.image_idxs, kind="stable")  # by picture, those of picture i from _first[i] to _first[i + 1]
        self._first = np.searchsorted(split.image_idxs[self._captions], np.arange(len(split.images) + 1))
        self._length = float(self._lengths().mean())
        self._frequencies = DocumentFrequencies(self._references(picture) for picture in pictures.tolist())

    def __call__(self, model: Any, batch: Batch, workspace: Workspace | None = None) -> tuple[Array, Parameters]:
        """The loss and its gradients for a batch of N pictures; ranks sample for the pictures in `batch.shard`."""
        if batch.pictures is None or batch.step is None:
            raise ValueError("SelfCritical: the batch names no pictures or no step, expected both, as `CaptioningSolver.train` gives them")
        N, K = len(batch.pictures), self.samples
        shard = np.arange(N) if batch.shard is None else batch.shard
        rows = (shard[:, None] * K + np.arange(K)).ravel()  # numbers of this rank's captions among all N * K
        features = _repeated(batch.features, K)
        said = self._sampled(model, features, rows, N * K, batch.step)
        rewards = self.rewards(said, batch.pictures[shard].repeat(K))
        captions, weights, total = self._shared(said, rewards, rows, N * K)
        share = {} if batch.shard is None else {"shard": rows}
        _, grads = model.loss(features, captions, workspace=workspace, weights=weights, total=total, step=batch.step, **share)
        return asarray(np.asarray(-rewards.sum() / total, grads.flat.dtype), like=grads.flat), grads

    def figures(self, loss: float) -> dict[str, float]:
        """What the record of an epoch says of training: ``train_reward``, the mean of all samples."""
        return {"train_reward": -loss}

    def collapse(self, record: Mapping[str, Any]) -> str | None:
        """Why training should stop after the epoch of this record: its captions of the val split are hardly different, or of odd length. None: go on."""
        distinct, length = record.get("val_distinct", 1.0), record.get("val_length", self._length)
        if distinct < LEAST_DISTINCT:
            return f"only {distinct:.1%} of the captions of the val split differ, expected at least {LEAST_DISTINCT:.0%}"
        if not SHORTEST <= length / self._length <= LONGEST:
            return f"captions of the val split have {length:.1f} words, expected about {self._length:.1f}, as the train split's have"
        return None

    def rewards(self, said: np.ndarray, pictures: np.ndarray) -> np.ndarray:
        """CIDEr-D (n,) of captions (n, T) of ids, of pictures (n,) of the train split, END as a word where it is said."""
        distinct, number = np.unique(pictures, return_inverse=True)
        score = CiderD([self._references(picture) for picture in distinct.tolist()], self._frequencies)
        words = [self._words.words(caption) + ([END] if self._words.end in caption else []) for caption in said]
        return score.scores(words, number)

    def _references(self, picture: int) -> list[list[str]]:
        """What people wrote of a picture of the train split, END as a word."""
        captions = self._captions[self._first[picture] : self._first[picture + 1]]
        return [[*(word for word in words if word != UNK), END] for words in self._data.words("train", captions)]

    def _lengths(self) -> np.ndarray:
        """Words of each train caption, as far as they are encoded."""
        captions, words = self._data.split("train").captions, self._words
        return ((captions != words.null) & (captions != words.start) & (captions != words.end)).sum(axis=1)

    def _sampled(self, model: Any, features: Array | FeatureRows, rows: np.ndarray, n: int, step: int) -> np.ndarray:
        """The captions numbered `rows` of the n of a step: (len(rows), T)."""
        uniforms = draw_uniforms(n, self._max_length, model.seed, step)[rows]
        policy = Drawn(max_length=self._max_length, forbid=(self._words.null, self._words.start), drawn=uniforms)
        if isinstance(features, FeatureRows):
            features = features.checked("SelfCritical", model.like)[asarray(features.rows, like=model.like)]
        return model.sample(features, policy=policy)

    def _shared(self, said: np.ndarray, rewards: np.ndarray, rows: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Captions (n, T+1) of all ranks, START first, what each weighs in the loss (n,), and n."""
        captions, all_rewards = np.full((n, self._max_length + 1), self._words.null, np.int32), np.zeros(n)
        captions[:, 0] = self._words.start
        if self._group.size == 1:
            captions[rows, 1:], all_rewards[rows] = said, rewards
        else:
            for text in self._group.all_gather(json.dumps([rows.tolist(), said.tolist(), rewards.tolist()])):
                theirs, words, scores = json.loads(text)
                captions[theirs, 1:], all_rewards[theirs] = np.reshape(words, (len(theirs), self._max_length)), scores
        return captions, advantages(all_rewards.reshape(-1, self.samples)).ravel(), n


def sharpen(params: Parameters, factor: float) -> None:
    """Multiply the scores of all words, so that likely words become likelier: softmax(scores) is raised to the power `factor`, and normalised.

    Cross entropy, above all with smoothed targets, leaves much of the probability to words that nobody would say there. Samples stumble over them, and
    captions learn to end before they do, in place of to say more.
    """
    for name in ("W_vocab", "b_vocab"):
        params[name][...] *= factor


def advantages(rewards: np.ndarray) -> np.ndarray:
    """Each of rewards (n, K) less the mean of the others in its row."""
    K = rewards.shape[1]
    return (rewards - rewards.mean(axis=1, keepdims=True)) * (K / (K - 1))


@dataclass(frozen=True, eq=False)
class Drawn(Sampling):
    """Sampling by numbers that are drawn already: those of row i (N, max_length) choose the words of picture i."""

    drawn: np.ndarray | None = None

    def uniforms(self, numbers: np.ndarray) -> np.ndarray:
        assert self.drawn is not None
        return self.drawn[numbers]


def _repeated(features: Array | FeatureRows, K: int) -> Array | FeatureRows:
    """The features of each picture K times."""
    if isinstance(features, FeatureRows):
        return FeatureRows(features.table, features.rows.repeat(K))
    return get_array_module(features).repeat(features, K, axis=0)
