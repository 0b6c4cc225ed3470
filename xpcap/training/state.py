"""The state of a training: everything that decides how it goes on, on the host."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from xpcap import optim
from xpcap.backend import Array, asarray, to_numpy
from xpcap.errors import DataError, TrainingError
from xpcap.models.parameters import Parameters
from xpcap.optim import Optimizer
from xpcap.training.history import best_of, with_start
from xpcap.training.order import EpochOrder


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
