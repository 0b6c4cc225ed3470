"""Where training stands: all that decides how it goes on, on the host, and as the arrays and the JSON object of one file."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xpcap.errors import DataError
from xpcap.models.parameters import Parameters
from xpcap.optim import STATE

_ORDER, _LOSSES = "order", "losses"
VALIDATED = {"val_loss", "val_perplexity", "val_accuracy"}  # of a record, all or none
SQUARED = {"v", "cache"}  # state arrays that are means of squares
MOST = 2**53  # of any count: what JSON and doubles hold exactly


class TrainingState(NamedTuple):
    """Training between two steps. CaptioningSolver.state() makes one, and restore() goes on from it as if nothing had happened.

    Arrays are copies on the host, whatever the solver computes on.
    """

    params: Parameters
    rule: str  # the update rule
    optimizer: dict[str, Any]  # its hyperparameters as they are by now, and Adam's t
    moments: dict[str, Parameters]  # its state arrays, laid out like params: Adam's m and v
    captions: int  # n, training captions
    batch_size: int
    order: np.ndarray | None  # (n,) int32, of the epoch under way; None between two
    position: int  # batches of it done
    losses: np.ndarray  # (iterations,), of the dtype of the parameters
    history: list[dict[str, Any]]  # one record an epoch
    order_rng: dict[str, Any]  # of numpy.random.Generator.bit_generator
    dropout_rng: dict[str, Any] | None

    @property
    def iteration(self) -> int:
        """Steps done."""
        return len(self.losses)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)


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
        "rng": {"order": state.order_rng, "dropout": state.dropout_rng},
    }
    return tensors, meta


def from_tensors(where: str, tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> TrainingState:
    """The state that to_tensors took apart, with every piece checked.

    Parameters
    ----------
    where : names function and file in messages
    shapes : of the model's parameters

    Raises
    ------
    DataError : anything missing, too much, of another shape or type, or not finite.
    """
    optimizer = dict(_object(where, meta, "optimizer"))
    rule = optimizer.pop("rule", None)
    if not isinstance(rule, str) or rule not in STATE:
        raise DataError(f"{where}: the update rule is {rule!r}, expected one of {', '.join(STATE)}; damaged?")
    expected = {*shapes, _LOSSES, *(f"{rule}.{key}.{name}" for key in STATE[rule] for name in shapes)}
    if (found := set(tensors) - {_ORDER}) != expected:
        odd = ", ".join(sorted(found ^ expected)[:5])
        raise DataError(f"{where}: {odd} missing or too much, expected parameters, losses and the state of {rule}; from another run?")
    dtype = tensors[_LOSSES].dtype
    captions, batch_size, position = (_count(where, meta, key) for key in ("captions", "batch_size", "position"))
    losses = tensors[_LOSSES]
    if losses.ndim != 1 or dtype not in (np.float32, np.float64) or not np.isfinite(losses).all() or len(losses) != _count(where, meta, "iteration"):
        raise DataError(f"{where}: losses have shape {losses.shape} and dtype {dtype}, expected {meta.get('iteration')} finite numbers; damaged?")
    order = tensors.get(_ORDER)
    if not batch_size >= 1 or not captions >= 1 or position > (0 if order is None else -(-captions // batch_size)):
        raise DataError(f"{where}: position {position} in {captions} captions by {batch_size}, expected one within an epoch; damaged?")
    if order is not None and not (order.shape == (captions,) and order.dtype == np.int32 and (np.sort(order) == np.arange(captions)).all()):
        raise DataError(f"{where}: order has shape {order.shape} and dtype {order.dtype}, expected each of 0..{captions - 1} once; damaged?")
    moments = {key: _named(where, f"{rule}.{key}.", tensors, shapes, dtype) for key in STATE[rule]}
    if below := [key for key in SQUARED & moments.keys() if moments[key].flat.min() < 0]:
        raise DataError(f"{where}: {rule}.{below[0]} goes down to {moments[below[0]].flat.min():g}, expected means of squares; damaged?")
    rngs = _object(where, meta, "rng")
    return TrainingState(
        params=_named(where, "", tensors, shapes, dtype),
        rule=rule,
        optimizer=_numbers(where, optimizer),
        moments=moments,
        captions=captions,
        batch_size=batch_size,
        order=order,
        position=position,
        losses=losses,
        history=_history(where, meta),
        order_rng=_rng(where, rngs.get("order")),
        dropout_rng=None if rngs.get("dropout") is None else _rng(where, rngs["dropout"]),
    )


def best_of(history: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The record with the least validation loss, the first of equals; the latest where nothing was validated; None of no record."""
    if not history or "val_loss" not in history[-1]:
        return history[-1] if history else None
    return min(history, key=lambda record: record["val_loss"])


def generator(state: Mapping[str, Any]) -> np.random.Generator:
    """A generator that goes on where the one with that state was."""
    made = np.random.default_rng(0)
    made.bit_generator.state = dict(state)
    return made


def check_finite(where: str, thing: str, arrays: Mapping[str, np.ndarray], error: type[Exception], cause: str) -> None:
    """Raise `error` where one of the arrays is not finite, with its name."""
    for name, value in arrays.items():
        if not np.isfinite(value).all():
            raise error(f"{where}: {thing} of {name} is not finite, expected finite numbers; {cause}")


def _named(where: str, prefix: str, tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], dtype: Any) -> Parameters:
    """The arrays with a prefix as Parameters."""
    named = Parameters.empty(shapes, dtype, np)
    for name, shape in shapes.items():
        value = tensors[prefix + name]
        if value.shape != shape or value.dtype != dtype:
            raise DataError(
                f"{where}: {prefix}{name} has shape {value.shape} and dtype {value.dtype}, expected {shape} and {dtype}; from another run?"
            )
        named[name] = value
    check_finite(where, f"{prefix or 'value'}".rstrip("."), named, DataError, "damaged?")
    return named


def _object(where: str, meta: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = meta.get(key)
    if not isinstance(value, dict):
        raise DataError(f"{where}: {key} is {_short(value)}, expected an object; damaged, or not of training that can go on?")
    return value


def _count(where: str, meta: Mapping[str, Any], key: str) -> int:
    value = meta.get(key)
    if type(value) is not int or not 0 <= value <= MOST:
        raise DataError(f"{where}: {key} is {_short(value)}, expected a count; damaged, or not of training that can go on?")
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
    for i, record in enumerate(history, start=1):
        figures = isinstance(record, dict) and all(type(value) in (int, float) and abs(value) <= 1e300 for value in record.values())
        known = figures and record.get("epoch") == i and {"iteration", "learning_rate", "train_loss", "train_accuracy"} <= set(record)
        if not known or len(VALIDATED & set(record)) != len(VALIDATED & set(history[0])) or len(VALIDATED & set(record)) not in (0, 3):
            raise DataError(f"{where}: record {i} of the history is {_short(record)}, expected the figures of epoch {i}; damaged?")
    return history


def _rng(where: str, state: Any) -> dict[str, Any]:
    """The state of a generator that NumPy takes."""
    try:
        made = generator(state)
    except (TypeError, ValueError, KeyError, OverflowError, AttributeError) as error:
        raise DataError(f"{where}: the state of a random generator is {_short(state)}, expected NumPy's of PCG64; damaged? ({error!r})") from error
    return dict(made.bit_generator.state)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
