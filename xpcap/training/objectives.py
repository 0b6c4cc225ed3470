"""Objectives compute the loss of a batch and its gradients: cross entropy, self-critical training."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xpcap.backend import Array, asarray, get_array_module
from xpcap.backend.memory import Workspace
from xpcap.data.dataset import CaptionData
from xpcap.data.vocabulary import END
from xpcap.decoding.policies import Sampling
from xpcap.distributed import SINGLE, Group
from xpcap.errors import DataError, InvalidTypeError, InvalidValueError, OptionError
from xpcap.metrics.cider import CiderD
from xpcap.models.batch import Batch, FeatureRows
from xpcap.models.device_batch import Layout
from xpcap.models.parameters import Parameters
from xpcap.ops import LossTerms, draw_uniforms
from xpcap.options import Real, Whole
from xpcap.training.state import RESERVED, Record

CROSS_ENTROPY, SELF_CRITICAL = OBJECTIVES = ("cross-entropy", "self-critical")
SAMPLES = Whole(2, cause="a sample is compared with the others of its picture")
MIN_DISTINCT = 0.05  # share of distinct captions of the val split; good runs have 0.4 or more
# Words per caption / words per training caption
MIN_LENGTH_RATIO = 0.6
MAX_LENGTH_RATIO = 1.6
LossFunction = Callable[[Any, Batch, Workspace | None], tuple[Array, Parameters]]


class Objective:
    """The quantity that training minimises. A subclass defines `loss`; the rest has defaults.

    terms : terms of the cross entropy with which a device is checked
    samples : captions per item of a batch
    """

    __slots__ = ()  # so that setting an attribute that a subclass does not read is an error
    terms = LossTerms()
    samples = 1

    def loss(
        self, model: Any, batch: Batch, workspace: Workspace | None = None
    ) -> tuple[Array, Parameters]:
        """Loss of a batch, 0-d, and its gradients, laid out like `model.params`."""
        raise NotImplementedError

    def epoch_indices(self, data: CaptionData) -> np.ndarray:
        """Indices (n,) of the training captions that an epoch visits, each once. Default: all."""
        return np.arange(len(data.split("train").captions))

    def layout(self, captions: np.ndarray, null: int, n: int) -> Layout:
        """Layout to which a device pads steps of n of an epoch's captions (m, T+1)."""
        return Layout.of(captions, null, n)

    def figures(self, mean_loss: float) -> dict[str, float]:
        """Training figures of an epoch by name, from the mean loss of its steps."""
        return {"train_loss": mean_loss}

    def collapse(self, record: Mapping[str, Any]) -> str | None:
        """Reason to end training after the epoch of this record; None: continue."""
        return None


class CrossEntropy(Objective):
    """Cross entropy, summed over time, weighted by caption, divided by `batch.total`.

    smoothing : label smoothing, in [0, 1), else OptionError; see CaptioningRNN.loss
    """

    __slots__ = ("terms",)

    def __init__(self, smoothing: float = 0.0) -> None:
        self.terms = LossTerms.checked(smoothing=smoothing)

    def loss(
        self, model: Any, batch: Batch, workspace: Workspace | None = None
    ) -> tuple[Array, Parameters]:
        options = {**batch.options, **self.terms.given}  # not every model has all terms
        return model.loss(batch.features, batch.captions, workspace=workspace, **options)


def as_objective(given: Objective | LossFunction | None) -> Objective:
    """The objective that a solver was given: a function is its `loss`, None is cross entropy.

    InvalidTypeError : it is none of these.
    """
    if given is None:
        return CrossEntropy()
    if isinstance(given, Objective):
        return given
    if not callable(given):
        raise InvalidTypeError(
            f"objective is {given!r}, expected a function of (model, batch, workspace), or an"
            " Objective such as xpcap.training.CrossEntropy(smoothing) or SelfCritical(data)"
        )
    try:
        inspect.signature(given).bind("model", "batch", "workspace")
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(
            f"objective cannot be called with (model, batch, workspace): {error}, expected a"
            " function of these three"
        ) from error
    objective: Objective = type("FunctionObjective", (Objective,), {"loss": staticmethod(given)})()
    return objective


def loss_and_gradients(
    objective: Objective, model: Any, batch: Batch, workspace: Workspace
) -> tuple[Array, Parameters]:
    """Checked loss and gradients of an objective; the loss is 0-d, of the model's library and dtype.

    TypeError, ValueError : the objective does not return a loss and a Parameters with the gradients
        of all parameters.
    """
    returned = objective.loss(model, batch, workspace)
    params = model.params
    if not (isinstance(returned, tuple) and len(returned) == 2):
        raise InvalidTypeError(
            f"the objective returned a {type(returned).__name__}, expected the tuple (loss, grads)"
        )
    loss, grads = returned
    if not isinstance(grads, Parameters):
        raise InvalidTypeError(
            f"the objective returned gradients as a {type(grads).__name__}, expected a Parameters,"
            " as model.loss returns; model.params.holding(grads) makes a Parameters of a dict"
        )
    if grads.layout != params.layout or np.shape(loss) != ():
        raise InvalidValueError(
            f"the objective returned a loss of shape {np.shape(loss)} and gradients of"
            f" {', '.join(grads)}, expected one number and gradients of {', '.join(params)}, in"
            " this order, with the shapes of the parameters; model.params.holding(grads) puts them"
            " in order"
        )
    if not hasattr(loss, "dtype"):
        loss = asarray(loss, dtype=params.flat.dtype, like=params.flat)
    return loss, grads


def figures_of(
    objective: Objective, mean_loss: float, history: Sequence[Record] = ()
) -> dict[str, float]:
    """Checked training figures of an objective as Python floats, which a checkpoint can store.

    OptionError : there are none, a name is reserved or missing in the history, or a figure is no
        finite number.
    """
    figures = dict(objective.figures(mean_loss))
    got = f"are named {', '.join(map(str, figures))}" if figures else "are missing"
    if not figures or RESERVED & figures.keys():
        raise OptionError(
            f"the figures {got}, expected at least one, under a name other than"
            f" {', '.join(sorted(RESERVED))}"
        )
    if history and (names := history[0].keys() - RESERVED) != figures.keys():
        raise OptionError(
            f"the figures {got}, expected {', '.join(sorted(names))}, as in the first epoch"
        )
    return {str(name): Real().check(str(name), x) for name, x in figures.items()}


# ---- Self-critical training


class SelfCritical(Objective):
    """The objective -E[CIDEr-D] of captions sampled from the model: REINFORCE with a baseline.

    With K samples c_1..c_K of each of n pictures, drawn word by word from the model without
    dropout,

        loss = -1/(nK) sum over pictures sum_k r(c_k)
        gradient = 1/(nK) sum over pictures sum_k (r(c_k) - b_k) grad(-log p(c_k))

    with the mean reward of the picture's other samples as the baseline b_k. r is CIDEr-D against
    the picture's train captions, with document frequencies of the train split. END counts as a
    word, since captions learn to break off otherwise. An epoch visits every picture once, not every
    caption.

    data : the solver's CaptionData; rewards compare with its train captions
    samples : K, captions per picture, at least 2
    group : the solver's group; each rank samples for its shard of the pictures
    OptionError : fewer than two samples.

    Rennie et al. 2017, *Self-critical Sequence Training for Image Captioning*; the baseline is from
    Luo 2020, *A Better Variant of Self-Critical Sequence Training*. NULL and START, which are never
    targets, are not drawn; the gradient is exact up to their probability.
    """

    __slots__ = "_data", "_length", "_pictures", "_score", "_words", "group", "samples"

    def __init__(self, data: CaptionData, *, samples: int = 5, group: Group = SINGLE) -> None:
        self.samples = SAMPLES.check("`samples`", samples)
        self.group = group
        self._data = data
        self._words = data.vocabulary
        references = data.reference_words("train")
        self._pictures = np.array(list(references))
        ended = ([[*words, END] for words in captions] for captions in references.values())
        self._score = CiderD(ended)
        self._length = float(self._words.is_word(data.split("train").captions).sum(axis=1).mean())

    def epoch_indices(self, data: CaptionData) -> np.ndarray:
        """Index of the first caption of each captioned picture.

        DataError : `data`, the solver's, has other train captions than the rewards' data.
        """
        ours = self._data.split("train")
        theirs = data.split("train")
        if self._words.idx_to_word != data.vocabulary.idx_to_word or not (
            np.array_equal(ours.captions, theirs.captions)
            and np.array_equal(ours.image_idxs, theirs.image_idxs)
        ):
            raise DataError(
                "the data has other train captions than the solver's, expected the same; give"
                " SelfCritical and CaptioningSolver one CaptionData"
            )
        return np.unique(data.split("train").image_idxs, return_index=True)[1]

    def layout(self, captions: np.ndarray, null: int, n: int) -> Layout:
        """The layout of n * K train captions: samples are hardly longer, and vary less in length."""
        return Layout.of(self._data.split("train").captions, null, n * self.samples)

    def loss(
        self, model: Any, batch: Batch, workspace: Workspace | None = None
    ) -> tuple[Array, Parameters]:
        """Loss and gradients of N pictures; a rank samples for the pictures in `batch.shard`."""
        if batch.pictures is None or batch.step is None:
            raise InvalidValueError(
                "the batch has no picture numbers or no step number, expected both, as"
                " `CaptioningSolver.train` sets them"
            )
        N = len(batch.pictures)
        K = self.samples
        shard = np.arange(N) if batch.shard is None else batch.shard
        rows = (shard[:, None] * K + np.arange(K)).ravel()  # of this rank among N * K captions

        # Forward
        features = _repeated(batch.features, K)
        sampled = self._sample(model, features, rows, N * K, batch.step)

        # Rewards
        rewards = self.rewards(sampled, batch.pictures[shard].repeat(K))
        weights = np.zeros(N * K)
        weights[rows] = advantages(rewards.reshape(-1, K)).ravel()

        # Backward
        captions = self._gather(sampled, rows, N * K)
        options = {"weights": weights, "total": N * K, "step": batch.step}
        if batch.shard is not None:
            options["shard"] = rows
        _, grads = model.loss(features, captions, workspace=workspace, **options)
        loss = np.asarray(-rewards.sum() / (N * K), grads.flat.dtype)
        return asarray(loss, like=grads.flat), grads

    def figures(self, mean_loss: float) -> dict[str, float]:
        """Mean reward of all samples, as ``train_reward``."""
        return {"train_reward": -mean_loss}

    def collapse(self, record: Mapping[str, Any]) -> str | None:
        """Reason to stop: captions of the val split hardly differ, or are too short or too long."""
        distinct = record.get("val_distinct", 1.0)
        length = record.get("val_length", self._length)
        if distinct < MIN_DISTINCT:
            return (
                f"only {distinct:.1%} of the captions of the val split differ, expected at least"
                f" {MIN_DISTINCT:.0%}"
            )
        if not MIN_LENGTH_RATIO <= length / self._length <= MAX_LENGTH_RATIO:
            return (
                f"captions of the val split have {length:.1f} words, expected about"
                f" {self._length:.1f}, as the train split's have"
            )
        return None

    def rewards(self, captions: np.ndarray, pictures: np.ndarray) -> np.ndarray:
        """CIDEr-D (n,) of captions (n, T) of train pictures (n,); END counts as a word.

        ValueError : a picture has no caption in the train split.
        """
        if missing := np.setdiff1d(pictures, self._pictures).tolist():
            raise InvalidValueError(
                f"picture {missing[0]} has no caption in the train split, expected captioned"
                " pictures"
            )
        ended = (captions == self._words.end).any(axis=1).tolist()
        words = [
            self._words.words(ids) + [END] * end for ids, end in zip(captions, ended, strict=True)
        ]
        return self._score.scores(words, np.searchsorted(self._pictures, pictures))

    def _sample(
        self, model: Any, features: Array | FeatureRows, rows: np.ndarray, n: int, step: int
    ) -> np.ndarray:
        """Sampled captions (len(rows), T): those numbered `rows` of the n captions of a step."""
        T = self._data.max_words + 1
        forbid = (self._words.null, self._words.start)
        uniforms = draw_uniforms(n, T, model.seed, step)[rows]
        policy = GivenUniforms(max_length=T, forbid=forbid, given=uniforms)
        if isinstance(features, FeatureRows):
            features = features.gather()
        return model.sample(features, policy=policy)

    def _gather(self, sampled: np.ndarray, rows: np.ndarray, n: int) -> np.ndarray:
        """Captions (n, T+1) of all ranks, START first."""
        T = self._data.max_words + 1
        captions = np.full((n, T + 1), self._words.null, np.int32)
        captions[:, 0] = self._words.start
        for rank_rows, words in self.group.gather((rows.tolist(), sampled.tolist())):
            captions[rank_rows, 1:] = np.reshape(words, (len(rank_rows), T))
        return captions


def scale_logits(params: Parameters, factor: float) -> None:
    """Multiply the logits of all words by `factor`: above 1, likely words become likelier.

    softmax(logits) is raised to the power `factor` and normalised. Cross entropy, especially with
    label smoothing, leaves much probability to implausible words. Sampling would draw these, and
    captions would learn to end early.
    """
    for name in ("W_vocab", "b_vocab"):
        params[name][...] *= factor


def advantages(rewards: np.ndarray) -> np.ndarray:
    """Each of rewards (n, K) minus the mean of the others in its row."""
    K = rewards.shape[1]
    return (rewards - rewards.mean(axis=1, keepdims=True)) * (K / (K - 1))


@dataclass(frozen=True, eq=False)
class GivenUniforms(Sampling):
    """Sampling from given uniform numbers (N, max_length); row i chooses the words of picture i."""

    given: np.ndarray | None = None

    def uniforms(self, numbers: np.ndarray) -> np.ndarray:
        assert self.given is not None
        return self.given[numbers]


def _repeated(features: Array | FeatureRows, K: int) -> Array | FeatureRows:
    """Features with each picture repeated K times."""
    if isinstance(features, FeatureRows):
        return features._replace(rows=features.rows.repeat(K))
    return get_array_module(features).repeat(features, K, axis=0)
