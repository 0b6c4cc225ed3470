"""Ensemble: several models as one captioner, by the mean of their probabilities of each word."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np

from xpcap.backend import Array, get_array_module
from xpcap.errors import InvalidTypeError, InvalidValueError
from xpcap.memory import Buffer, allocator
from xpcap.models.batch import FeatureRows, prepare_features
from xpcap.models.captioner import Captioner
from xpcap.models.captioning_rnn import CaptioningRNN
from xpcap.models.network import Network
from xpcap.ops import State, log_mean_softmax


class Ensemble(Captioner):
    """K models with one vocabulary that choose each word together.

    p(word) = 1 / K * sum over models k of softmax(scores_k)[word]

    Policies get log p, and every model reads the chosen words. The models may differ in cell, sizes
    of word vectors and state, and `inject`.

    models : CaptioningRNNs, at least one, with the same words, features of the same shape, dtype
        and device. They are not copied
    ValueError : they do not fit together, or there are none. TypeError : other objects, or dtypes
        or libraries differ.
    """

    def __init__(self, models: Sequence[CaptioningRNN]) -> None:
        _check(models)
        self.models = tuple(models)
        first = self.models[0]
        self.config = first.config
        self.word_to_idx, self.idx_to_word = first.word_to_idx, first.idx_to_word
        # Each model's columns in the result of `project`, and its arrays in a state
        self._columns = _slices([model.config.columns for model in self.models])
        self._arrays = _slices([model.config.state_arrays for model in self.models])

    @property
    def like(self) -> Array:
        return self.models[0].like

    @property
    def size(self) -> int:
        return sum(model.size for model in self.models)

    def start(self, features: Array) -> State:
        shape = self.config.feature_shape
        features = prepare_features("Ensemble.start", features, shape, self.like, read=False)
        return tuple(array for model in self.models for array in model.start(features))

    def project(self, words: Array, *, buffer: Buffer | None = None) -> Array:
        buffer = buffer or allocator(self.like)
        a = buffer("a", (len(words), self._columns[-1].stop))
        for k, model in enumerate(self.models):
            a[:, self._columns[k]] = model.project(words, buffer=buffer.scope(f"model {k}"))
        return a

    def advance(self, a: Array, state: State, buffer: Buffer) -> tuple[Array, State]:
        scores: list[Array] = []
        after: list[Array] = []
        for k, model in enumerate(self.models):
            space, columns = buffer.scope(f"model {k}"), a[:, self._columns[k]]
            columns_copy = space("columns", columns.shape)  # kernels want rows without gaps
            columns_copy[...] = columns
            model_scores, model_state = model.advance(columns_copy, state[self._arrays[k]], space)
            scores.append(model_scores)
            after += model_state
        return log_mean_softmax(scores), tuple(after)

    @property
    def _networks(self) -> list[Network]:
        return [Network(model.config, model.params) for model in self.models]

    def attention(self, features: Array | FeatureRows, captions: Array) -> np.ndarray:
        # Features have one shape, so regions are the same
        weights = [model.attention(features, captions) for model in self.models]
        mean: np.ndarray = np.mean(weights, axis=0)
        return mean


def _slices(sizes: Sequence[int]) -> list[slice]:
    return [slice(start, stop) for start, stop in pairwise(accumulate(sizes, initial=0))]


def _check(models: Sequence[CaptioningRNN]) -> None:
    if not models:
        raise InvalidValueError("Ensemble", "", "got no model", expected="at least one")
    if odd := [model for model in models if not isinstance(model, CaptioningRNN)]:
        raise InvalidTypeError(
            "Ensemble", "", f"got a {type(odd[0]).__name__}", expected="CaptioningRNNs alone"
        )
    first = models[0]
    for k, model in enumerate(models[1:], start=2):
        if model.word_to_idx != first.word_to_idx:
            raise InvalidValueError(
                "Ensemble",
                f"model {k}",
                f"has another vocabulary, of {len(model.word_to_idx):,} words, than the first"
                f" one with {len(first.word_to_idx):,}",
                expected="the same words with the same ids",
                cause="trained on other data?",
            )
        if model.config.feature_shape != first.config.feature_shape:
            got = f"takes features of shape {model.config.feature_shape}"
            expected = f"{first.config.feature_shape} as the first"
            cause = "made by another encoder?"
            raise InvalidValueError("Ensemble", f"model {k}", got, expected, cause)
        if (theirs := _library_and_dtype(model)) != (wanted := _library_and_dtype(first)):
            expected = f"{wanted} as the first does"
            raise InvalidTypeError("Ensemble", f"model {k}", f"computes in {theirs}", expected)


def _library_and_dtype(model: CaptioningRNN) -> str:
    return f"{get_array_module(model.like).__name__} and {np.dtype(model.dtype)}"
