"""A training state as named arrays and a JSON object, the content of one file, and back with every piece checked."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from xpcap.errors import DataError
from xpcap.models.parameters import Parameters
from xpcap.optim import STATE
from xpcap.training.state import TrainingState, check_finite

_ORDER, _LOSSES = "order", "losses"
VALIDATED = {"val_loss", "val_perplexity", "val_accuracy"}  # a record has all of them or none
TRAINED = {"train_loss", "train_reward"}  # a record has one of them
FIGURES = {*TRAINED, *VALIDATED, "val_cider"}  # all records have the same
SQUARED = {"v", "cache"}  # state arrays that are means of squares
MOST = 2**53  # of any count: what JSON and doubles hold exactly
Shapes = Mapping[str, tuple[int, ...]]


def to_tensors(state: TrainingState) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A state as arrays by name (parameters by their own, moments as ``adam.m.Wx``) and a JSON object."""
    tensors = {**state.params, _LOSSES: state.losses}
    for key, moment in state.moments.items():
        tensors |= {f"{state.rule}.{key}.{name}": value for name, value in moment.items()}
    if state.order is not None:
        tensors[_ORDER] = state.order
    meta = {
        "optimizer": {"rule": state.rule, **state.optimizer},
        "epoch": state.epoch,
        "iteration": state.iteration,
        "position": state.position,
        "captions": state.captions,
        "batch_size": state.batch_size,
        "history": state.history,
        "rng": {"order": state.order_rng},
        **({} if state.start is None else {"start": state.start}),
    }
    return tensors, meta


def from_tensors(where: str, tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any], shapes: Shapes) -> TrainingState:
    """The state that to_tensors took apart.

    Parameters
    ----------
    where : function and file, for messages
    shapes : of the model's parameters

    Raises
    ------
    DataError : anything missing, unknown, of another shape or type, or not finite; or a moving average, which older versions kept.
    """
    optimizer = dict(_object(where, meta, "optimizer"))
    rule = _rule(where, optimizer.pop("rule", None))
    _check_names(where, rule, tensors, shapes)
    losses = _losses(where, tensors[_LOSSES], _count(where, meta, "iteration"))
    captions, batch_size, position = (_count(where, meta, key) for key in ("captions", "batch_size", "position"))
    order = tensors.get(_ORDER)
    _check_position(where, order, captions, batch_size, position)
    return TrainingState(
        params=_named(where, "", tensors, shapes, losses.dtype),
        rule=rule,
        optimizer=_numbers(where, optimizer),
        moments=_moments(where, rule, tensors, shapes, losses.dtype),
        captions=captions,
        batch_size=batch_size,
        order=order,
        position=position,
        losses=losses,
        history=_history(where, meta),
        order_rng=_rng(where, _object(where, meta, "rng").get("order")),
        start=_start(where, meta),
    )


def drew_masks_in_turn(meta: Mapping[str, Any]) -> bool:
    """Whether a state is from a version whose dropout masks came from a generator, one after the other: going on from it takes other masks."""
    rng = meta.get("rng")
    return isinstance(rng, dict) and rng.get("dropout") is not None


def _rule(where: str, rule: Any) -> str:
    if not isinstance(rule, str) or rule not in STATE:
        raise DataError(f"{where}: the update rule is {_short(rule)}, expected one of {', '.join(STATE)}; damaged?")
    return rule


def _check_names(where: str, rule: str, tensors: Mapping[str, np.ndarray], shapes: Shapes) -> None:
    if any(name.startswith("average.") for name in tensors):
        raise DataError(
            f"{where}: holds a moving average of the parameters, which an older xpcap kept, expected a state without one; "
            "train anew, into another folder: this run still captions with the best parameters that it kept, but cannot go on"
        )
    expected = {*shapes, _LOSSES, *(f"{rule}.{key}.{name}" for key in STATE[rule] for name in shapes)}
    if (found := set(tensors) - {_ORDER}) != expected:
        odd = ", ".join(sorted(found ^ expected)[:5])
        raise DataError(f"{where}: {odd} missing or unknown, expected parameters, losses and the state of {rule}; from another run?")


def _losses(where: str, losses: np.ndarray, iterations: int) -> np.ndarray:
    if losses.shape != (iterations,) or losses.dtype not in (np.float32, np.float64) or not np.isfinite(losses).all():
        raise DataError(f"{where}: losses have shape {losses.shape} and dtype {losses.dtype}, expected {iterations} finite numbers; damaged?")
    return losses


def _check_position(where: str, order: np.ndarray | None, captions: int, batch_size: int, position: int) -> None:
    if not batch_size >= 1 or not captions >= 1 or position > (0 if order is None else -(-captions // batch_size)):
        raise DataError(f"{where}: position {position} in {captions} captions by {batch_size}, expected one within an epoch; damaged?")
    if order is not None and not (order.shape == (captions,) and order.dtype == np.int32 and (np.sort(order) == np.arange(captions)).all()):
        raise DataError(f"{where}: order has shape {order.shape} and dtype {order.dtype}, expected each of 0..{captions - 1} once; damaged?")


def _moments(where: str, rule: str, tensors: Mapping[str, np.ndarray], shapes: Shapes, dtype: Any) -> dict[str, Parameters]:
    moments = {key: _named(where, f"{rule}.{key}.", tensors, shapes, dtype) for key in STATE[rule]}
    for key in SQUARED & moments.keys():
        if (least := moments[key].flat.min()) < 0:
            raise DataError(f"{where}: {rule}.{key} goes down to {least:g}, expected means of squares; damaged?")
    return moments


def _named(where: str, prefix: str, tensors: Mapping[str, np.ndarray], shapes: Shapes, dtype: Any) -> Parameters:
    """The arrays whose names begin with a prefix, as Parameters."""
    named = Parameters.empty(shapes, dtype, np)
    for name, shape in shapes.items():
        value = tensors[prefix + name]
        if value.shape != shape or value.dtype != dtype:
            raise DataError(
                f"{where}: {prefix}{name} has shape {value.shape} and dtype {value.dtype}, expected {shape} and {dtype}; from another run?"
            )
        named[name] = value
    check_finite(where, prefix.rstrip(".") or "value", named, DataError, "damaged?")
    return named


def _object(where: str, meta: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = meta.get(key)
    if not isinstance(value, dict):
        raise DataError(f"{where}: {key} is {_short(value)}, expected an object; damaged, or not the state of a training?")
    return value


def _count(where: str, meta: Mapping[str, Any], key: str) -> int:
    value = meta.get(key)
    if type(value) is not int or not 0 <= value <= MOST:
        raise DataError(f"{where}: {key} is {_short(value)}, expected a count; damaged, or not the state of a training?")
    return value


def _numbers(where: str, values: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in values.items():
        if type(value) not in (int, float) or not abs(value) <= MOST:
            raise DataError(f"{where}: optimizer's {_short(key)} is {_short(value)}, expected a finite number; damaged?")
    return dict(values)


def _history(where: str, meta: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The records of the epochs: each has its number and finite figures."""
    history = meta.get("history")
    if not isinstance(history, list) or len(history) != _count(where, meta, "epoch"):
        raise DataError(f"{where}: history is {_short(history)}, expected a list of {_short(meta.get('epoch'))} records; damaged?")
    for number, record in enumerate(history, start=1):
        if not _is_record(record, number) or (FIGURES & set(record)) != (FIGURES & set(history[0])):
            raise DataError(f"{where}: record {number} of the history is {_short(record)}, expected the figures of epoch {number}; damaged?")
    return history


def _start(where: str, meta: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of the parameters that training started from: the figures of an epoch's record, but for those of training itself."""
    start, history = meta.get("start"), meta["history"]
    if start is None:
        return None
    figures = FIGURES - TRAINED
    if not _has_numbers(start) or start.get("epoch") != 0 or (history and (figures & set(start)) != (figures & set(history[0]))):
        raise DataError(f"{where}: start is {_short(start)}, expected the figures of epoch 0; damaged?")
    return start


def _is_record(record: Any, number: int) -> bool:
    """Whether this is the record of the epoch of that number."""
    names = {"iteration", "learning_rate", "train_accuracy"}
    return _has_numbers(record) and names <= set(record) and len(TRAINED & set(record)) == 1 and record.get("epoch") == number


def _has_numbers(record: Any) -> bool:
    """Whether this is a record of finite numbers, with all figures of validation or none."""
    numbers = isinstance(record, dict) and all(type(value) in (int, float) and abs(value) <= 1e300 for value in record.values())
    return numbers and len(VALIDATED & set(record)) in (0, len(VALIDATED))


def _rng(where: str, state: Any) -> dict[str, Any]:
    """The state of a generator, once NumPy has taken it."""
    generator = np.random.default_rng(0)
    try:
        generator.bit_generator.state = dict(state)
    except (TypeError, ValueError, KeyError, OverflowError, AttributeError) as error:
        raise DataError(f"{where}: the state of a random generator is {_short(state)}, expected NumPy's of PCG64; damaged? ({error!r})") from error
    return dict(generator.bit_generator.state)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
