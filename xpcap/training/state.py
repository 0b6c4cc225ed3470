"""The state of a training, which decides how it goes on: the order of captions, optimizer, parameters, history; as tensors of a file, and back."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from xpcap import optim
from xpcap.backend import Array, asarray, to_numpy
from xpcap.errors import DataError, TrainingError
from xpcap.models.parameters import Parameters
from xpcap.optim import STATE, Optimizer
from xpcap.training.history import best_of, with_start

ORDER_STREAM = 2  # of a seed; CaptioningRNN draws from streams 0 and 1


class EpochOrder:
    """All training captions once, in an order drawn anew for each epoch, and how far the epoch under way has come.

    Parameters
    ----------
    count : training captions
    seed : None draws one from NumPy's legacy global stream

    Attributes
    ----------
    rng : numpy.random.Generator that draws the orders
    captions : array (count,), int, of the epoch under way; None between two epochs
    position : batches of it done
    """

    def __init__(self, count: int, seed: int | None) -> None:
        self.count = count
        self.rng = np.random.default_rng([np.random.randint(2**31) if seed is None else int(seed), ORDER_STREAM])
        self.captions: np.ndarray | None = None
        self.position = 0

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Numbers of the captions of each batch from `position` on; draws an order if no epoch is under way. The caller moves `position` on."""
        if self.captions is None:
            self.captions, self.position = self.rng.permutation(self.count), 0
        captions, first = self.captions, self.position
        return (captions[start : start + size] for start in range(first * size, self.count, size))

    def end(self) -> None:
        """End the epoch under way, done or not: the next batch begins another."""
        self.captions, self.position = None, 0


# The state


class TrainingState(NamedTuple):
    """Training between two steps. CaptioningSolver.state() makes one, and restore() goes on from it as if nothing had happened.

    Arrays are copies on the host, whatever the solver computes on.
    """

    params: Parameters
    rule: str  # the update rule
    optimizer: dict[str, Any]  # its hyperparameters as they are now, and Adam's t
    moments: dict[str, Parameters]  # its state arrays, laid out like params: Adam's m and v
    captions: int  # n, training captions
    batch_size: int
    order: np.ndarray | None  # (n,) int32, of the epoch under way; None between two epochs
    position: int  # batches of it done
    losses: np.ndarray  # (iterations,), of the dtype of the parameters
    history: list[dict[str, Any]]  # one record an epoch
    order_rng: dict[str, Any]  # of numpy.random.Generator.bit_generator
    start: dict[str, Any] | None = None  # the record of the parameters that training started from, where they were scored

    @property
    def iteration(self) -> int:
        """Steps done."""
        return len(self.losses)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    @property
    def is_best(self) -> bool:
        """Whether `params` are the best so far: the best epoch has just ended."""
        return self.order is None and bool(self.history) and best_of(self.records) is self.history[-1]

    @property
    def records(self) -> list[dict[str, Any]]:
        """As those of a solver's history."""
        return with_start(self.start, self.history)


def capture(
    params: Parameters,
    descent: Optimizer,
    order: EpochOrder,
    batch_size: int,
    losses: Sequence[float],
    history: Sequence[Mapping[str, Any]],
    start: Mapping[str, Any] | None = None,
) -> TrainingState:
    """Copy the state of a solver to the host.

    Raises
    ------
    TrainingError : a parameter or moment is not finite.
    """
    rule, config = descent.rule, descent.config
    state = TrainingState(
        params=_on_host(params, params.flat),
        rule=rule,
        optimizer={key: value for key, value in config.items() if key not in optim.STATE[rule]},
        moments={key: _on_host(params, config[key]) for key in optim.STATE[rule]},
        captions=order.count,
        batch_size=batch_size,
        order=None if order.captions is None else order.captions.astype(np.int32),
        position=order.position,
        losses=np.array(losses, params.flat.dtype),
        history=[dict(record) for record in history],
        order_rng=dict(order.rng.bit_generator.state),
        start=None if start is None else dict(start),
    )
    cause = f"iteration {state.iteration}; is the learning rate, now {config['learning_rate']:g}, too high?"
    for thing, arrays in (("the value", state.params), *((f"{rule}'s {key}", moment) for key, moment in state.moments.items())):
        check_finite("CaptioningSolver", thing, arrays, TrainingError, cause)
    return state


def check_fits(state: TrainingState, params: Parameters, descent: Optimizer, order: EpochOrder, batch_size: int) -> None:
    """DataError : the state is of another model, data set, update rule or batch size. TypeError : it is no state."""
    if not isinstance(state, TrainingState):
        raise TypeError(f"CaptioningSolver.restore: state is a {type(state).__name__}, expected what CaptioningSolver.state() or load_state returns")
    pairs = {
        "update rule": (state.rule, descent.rule),
        "batch_size": (state.batch_size, batch_size),
        "number of captions": (state.captions, order.count),
        "parameters": (dict(state.params.shapes), dict(params.shapes)),
        "dtype": (state.params.flat.dtype, params.flat.dtype),
    }
    for thing, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise DataError(
                f"CaptioningSolver.restore: {thing} of the state: {theirs}, of this solver: {ours}, expected the same; of another training?"
            )


def restore_descent(state: TrainingState, params: Parameters, descent: Optimizer) -> None:
    """Copy the state's parameters and the optimizer's state into those of a solver. DataError : hyperparameters that cannot be."""
    descent.config = _optimizer_config(state, params.flat)
    params.flat[...] = asarray(state.params.flat, like=params.flat)


def _optimizer_config(state: TrainingState, like: Array) -> optim.Config:
    """The state's complete config for its rule, arrays copied to the library of `like`."""
    try:
        config = optim.init(state.rule, like, state.optimizer)
    except ValueError as error:
        raise DataError(f"CaptioningSolver.restore: the state's optimizer cannot be: {error}") from error
    for key, moment in state.moments.items():
        config[key][...] = asarray(moment.flat, like=config[key])
    return config


def by_parameter(rule: str, config: optim.Config, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Mapping[str, Any]]:
    """A flat config as a read-only config for each parameter, whose state arrays are views of the flat ones."""
    moments = {key: Parameters(shapes, config[key]) for key in optim.STATE[rule]}
    rest = {key: value for key, value in config.items() if key not in moments}
    return {name: MappingProxyType({**rest, **{key: views[name] for key, views in moments.items()}}) for name in shapes}


def restore_order(state: TrainingState, order: EpochOrder) -> None:
    """Set the order of captions and the place in it."""
    order.rng.bit_generator.state = state.order_rng
    order.captions = None if state.order is None else state.order.astype(np.int64)
    order.position = state.position


def check_finite(where: str, thing: str, arrays: Mapping[str, np.ndarray], error: type[Exception], cause: str) -> None:
    """Raise `error`, which names the array, where one of them is not finite."""
    for name, value in arrays.items():
        if not np.isfinite(value).all():
            raise error(f"{where}: {thing} of {name} is not finite, expected finite numbers; {cause}")


def _on_host(like: Parameters, flat: Array) -> Parameters:
    """A copy on the host of a flat array that is laid out like `like`."""
    return Parameters(like.shapes, np.array(to_numpy(flat)))


# As tensors and JSON


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
