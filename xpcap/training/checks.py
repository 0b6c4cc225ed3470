"""Checks of a solver's arguments."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from xpcap.data.dataset import check_data
from xpcap.data.vocabulary import Vocabulary
from xpcap.errors import DataError, OptionError, unknown
from xpcap.models.parameters import Parameters
from xpcap.training.descent import check_lr_decay
from xpcap.training.objectives import check_objective
from xpcap.training.selection import SELECT


def refuse_keywords(function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """OptionError : a keyword was given that the function does not have; it lists those there are, and suggests the nearest."""
    if given:
        known = [name for name, parameter in inspect.signature(function).parameters.items() if parameter.kind is parameter.KEYWORD_ONLY]
        raise unknown(function.__name__, "keyword", next(iter(given)), known)


def check_options(solver: Any, seed: Any) -> None:
    """Check what a solver was made from.

    Raises
    ------
    TypeError : the model's parameters are not a Parameters. OptionError : a number out of its range. DataError : model and data mean different
        words by an id.
    """
    check_model(solver.model)
    check_objective(solver.objective)
    for name in ("batch_size", "num_epochs", "print_every", *(["patience"] if solver.patience is not None else [])):
        check_count(name, getattr(solver, name))
    if solver.clip_norm is not None:
        check_positive("clip_norm", solver.clip_norm)
    check_lr_decay(solver.lr_decay)
    if solver.select not in SELECT:
        raise unknown("CaptioningSolver", "select", solver.select, SELECT)
    if seed is not None and not (isinstance(seed, int | np.integer) and seed >= 0):
        raise OptionError(f"CaptioningSolver: seed is {seed!r}, expected a whole number of at least 0, or None")
    if solver.batch_size < solver.group.size:
        raise OptionError(
            f"CaptioningSolver: `batch_size` is {solver.batch_size} for {solver.group.size} ranks, expected at least a caption for each; "
            "raise it, or start fewer"
        )
    check_data("CaptioningSolver: the data", solver.data, start=False)
    check_words(getattr(solver.model, "word_to_idx", {}), solver.data.vocabulary)


def check_model(model: Any) -> None:
    """TypeError : the model's parameters are not views of one flat buffer."""
    params = getattr(model, "params", None)
    if not isinstance(params, Parameters):
        raise TypeError(
            f"CaptioningSolver: model.params is a {type(params).__name__}, expected xpcap.models.parameters.Parameters, named views of one flat "
            "buffer; is the model the course's own CaptioningRNN? xpcap.CaptioningRNN takes the same arguments"
        )


def check_count(name: str, value: Any) -> None:
    """OptionError : not a whole number of at least 1."""
    if not (isinstance(value, int | np.integer) and value >= 1):
        raise OptionError(f"CaptioningSolver: {name} is {value!r}, expected a whole number of at least 1")


def check_positive(name: str, value: Any) -> None:
    """OptionError : not a positive finite number."""
    if not (isinstance(value, int | float | np.number) and 0 < value < float("inf")):
        raise OptionError(f"CaptioningSolver: {name} is {value!r}, expected a positive number")


def check_rate(value: Any) -> None:
    """OptionError : no learning rate: negative, or not a finite number. A rate of 0 is one, as where a warm-up begins."""
    if not (isinstance(value, int | float | np.number) and 0 <= value < float("inf")):
        raise OptionError(f"CaptioningSolver: learning_rate is {value!r}, expected a finite number of at least 0")


def check_words(word_to_idx: Mapping[str, int], vocabulary: Vocabulary) -> None:
    """DataError : model and data give a word different ids."""
    for word, i in word_to_idx.items():
        j = vocabulary.word_to_idx.get(word, i)
        if i != j:
            raise DataError(
                f"CaptioningSolver: the model gives {word!r} the id {i} and the data {j}, expected one id; was the model made for other data?"
            )
