"""State of a training, which decides how it goes on: in memory, and as tensors of a file."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import asarray, to_numpy
from xpcap.errors import DataError, TrainingError
from xpcap.models.parameters import Parameters
from xpcap.optim import RULES, UpdateRule
from xpcap.training.optimizer import Optimizer, state_shapes

Record = dict[str, Any]

LATEST = "latest"  # key of a record that is the best while it is the latest
LIMIT = "val_loss_limit"  # in the record of a start
ORDER_STREAM = 2  # of a seed; CaptioningRNN draws from streams 0 and 1


# ---- Records of epochs


def best_of(history: Sequence[Record]) -> Record | None:
    """Record of the highest CIDEr-D on val, of equals the one of the lowest validation loss.

    The latest record if it has a LATEST. Without CIDEr-D loss alone decides; without validation it is the latest record. The first of
    equals; None of no records. An epoch whose validation loss is above the `val_loss_limit` of the
    start does not count.
    """
    figures = history[-1] if history else {}
    if LATEST in figures:
        return history[-1]
    if history and LIMIT in history[0]:
        start, *epochs = history
        history = [start, *(one for one in epochs if one["val_loss"] <= start[LIMIT])]
    if "val_cider" in figures:
        return max(history, key=lambda record: (record["val_cider"], -record["val_loss"]))
    if "val_loss" in figures:
        return min(history, key=lambda record: record["val_loss"])
    return history[-1] if history else None


def with_start(start: Record | None, history: Sequence[Record]) -> list[Record]:
    """Records of start and epochs: the candidates for the best."""
    return [*([] if start is None else [start]), *history]


# ---- The order of captions


class EpochOrder:
    """Order of the captions of an epoch, drawn anew for each, and the position in the current one.

    With replacement each batch is drawn by itself from all captions, as the course's solver does.

    Parameters
    ----------
    count : training captions
    seed : None draws one from NumPy's legacy global stream; with replacement, the captions
        themselves
    replacement : draw with replacement

    Attributes
    ----------
    rng : numpy.random.Generator that draws the orders; None: NumPy's legacy global stream does
    captions : array (count,), int, of the epoch under way; None between two epochs, and with
        replacement
    position : batches of the epoch done
    """

    def __init__(self, count: int, seed: int | None, replacement: bool = False) -> None:
        self.count, self.replacement = count, replacement
        self.rng: np.random.Generator | None = None
        if seed is not None or not replacement:
            drawn = np.random.randint(2**31) if seed is None else int(seed)
            self.rng = np.random.default_rng([drawn, ORDER_STREAM])
        self.captions: np.ndarray | None = None
        self.position = 0

    def steps(self, size: int) -> int:
        """Batches of an epoch; with replacement as many as are whole, at least one."""
        return batches_of_epoch(self.count, size, self.replacement)

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Captions of each batch from `position`, which the caller advances, in a drawn order."""
        if self.replacement:
            draw = np.random.choice if self.rng is None else self.rng.choice
            return (draw(self.count, size) for _ in range(self.position, self.steps(size)))
        assert self.rng is not None
        if self.captions is None:
            self.captions, self.position = self.rng.permutation(self.count), 0
        captions, first = self.captions, self.position
        return (captions[start : start + size] for start in range(first * size, self.count, size))

    def end(self) -> None:
        """End the epoch under way, done or not: the next batch begins another."""
        self.captions, self.position = None, 0


def batches_of_epoch(count: int, size: int, replacement: bool) -> int:
    """Batches of `size` in an epoch of `count` captions."""
    return max(count // size, 1) if replacement else -(-count // size)


# ---- The state


class TrainingState(NamedTuple):
    """Training between two steps: from CaptioningSolver.state(), for restore(). All on the host."""

    params: Parameters
    rule: str  # the update rule
    optimizer: dict[str, Any]  # its hyperparameters as they are now, and Adam's t
    moments: dict[str, Parameters]  # its state arrays, of the parameters that have them
    captions: int  # n, training captions
    batch_size: int
    order: np.ndarray | None  # (n,) int32, of the epoch under way; None between two epochs
    position: int  # batches of it done
    losses: np.ndarray  # (iterations,), of the dtype of the parameters
    history: list[Record]  # one an epoch
    order_rng: dict[str, Any]  # of numpy.random.Generator.bit_generator
    start: Record | None = None  # of the parameters that training started from, if scored
    replacement: bool = False  # captions are drawn with replacement: there is no order

    @classmethod
    def of(
        cls,
        params: Parameters,
        optimizer: Optimizer,
        order: EpochOrder,
        *,
        batch_size: int,
        losses: Sequence[float],
        history: Sequence[Record],
        start: Record | None,
    ) -> "TrainingState":
        """State of the parts of a solver. TrainingError : a parameter or moment is not finite."""

        def on_host(arrays: Parameters) -> Parameters:
            return Parameters(arrays.shapes, np.array(to_numpy(arrays.flat)))

        assert order.rng is not None
        rule, rate = optimizer.rule.name, optimizer.learning_rate
        state = cls(
            params=on_host(params),
            rule=rule,
            optimizer=dict(optimizer.config),
            moments={key: on_host(arrays) for key, arrays in optimizer.state.items()},
            captions=order.count,
            batch_size=batch_size,
            order=None if order.captions is None else order.captions.astype(np.int32),
            position=order.position,
            losses=np.array(losses, params.flat.dtype),
            history=[dict(record) for record in history],
            order_rng=dict(order.rng.bit_generator.state),
            start=None if start is None else dict(start),
            replacement=order.replacement,
        )
        cause = f"iteration {state.iteration}; is the learning rate, now {rate:g}, too high?"
        named = {f"{rule}'s {key}": moment for key, moment in state.moments.items()}
        for thing, arrays in {"the value": state.params, **named}.items():
            _check_finite("CaptioningSolver", thing, arrays, TrainingError, cause)
        return state

    @property
    def iteration(self) -> int:
        """Steps done."""
        return len(self.losses)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    @property
    def records(self) -> list[Record]:
        """Records of start and epochs, as those of a solver."""
        return with_start(self.start, self.history)

    @property
    def is_best(self) -> bool:
        """True if `params` are the best so far: the best epoch has just ended."""
        between = self.order is None and not self.position and bool(self.history)
        return between and best_of(self.records) is self.history[-1]

    def check_fits(
        self, params: Parameters, optimizer: Optimizer, order: EpochOrder, batch_size: int
    ) -> None:
        """DataError : the state is of another model, data set, update rule or batch size."""
        pairs = {
            "update rule": (self.rule, optimizer.rule.name),
            "batch_size": (self.batch_size, batch_size),
            "number of captions": (self.captions, order.count),
            "replacement": (self.replacement, order.replacement),
            "parameters": (self.params.shapes, params.shapes),
            "the rule's state": (_shapes(self.moments), _shapes(optimizer.state)),
            "dtype": (self.params.flat.dtype, params.flat.dtype),
        }
        for thing, (theirs, ours) in pairs.items():
            if theirs != ours:
                raise DataError(
                    "CaptioningSolver.restore",
                    "",
                    f"{thing} of the state: {theirs}, of this solver: {ours}",
                    expected="the same",
                    cause="of another training?",
                )

    def restore_into(self, params: Parameters, optimizer: Optimizer, order: EpochOrder) -> None:
        """Write the state to the parts of a solver. DataError : bad hyperparameters."""
        try:
            optimizer.config = optimizer.rule.complete(self.optimizer)
        except ValueError as error:
            raise DataError(
                "CaptioningSolver.restore", "the state's optimizer", f"cannot be: {error}"
            ) from error
        for key, moment in self.moments.items():
            _copy(moment, optimizer.state[key])
        _copy(self.params, params)
        assert order.rng is not None
        order.rng.bit_generator.state = self.order_rng
        order.captions = None if self.order is None else self.order.astype(np.int64)
        order.position = self.position


def _shapes(state: Mapping[str, Parameters]) -> dict[str, dict[str, tuple[int, ...]]]:
    return {key: arrays.shapes for key, arrays in state.items()}


def _copy(values: Parameters, to: Parameters) -> None:
    to.flat[...] = asarray(values.flat, like=to.flat)


def _check_finite(
    where: str, thing: str, arrays: Mapping[str, np.ndarray], error: type[Exception], cause: str
) -> None:
    for name, value in arrays.items():
        if not np.isfinite(value).all():
            raise error(where, f"{thing} of {name}", "is not finite", "finite numbers", cause)


# ---- As tensors and JSON: parameters by their names, moments as adam.m.Wx

VALIDATED = {"val_loss", "val_perplexity", "val_accuracy"}  # a record has all of them or none
TRAINED = {"train_loss", "train_reward"}  # a record has one of them
FIGURES = {*TRAINED, *VALIDATED, "val_cider"}  # all records have the same
MOST = 2**53  # of any count: what JSON and doubles hold exactly


def to_tensors(state: TrainingState) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A state as named arrays and a JSON object."""
    tensors = {**state.params, "losses": state.losses}
    for key, moment in state.moments.items():
        tensors |= {f"{state.rule}.{key}.{name}": value for name, value in moment.items()}
    if state.order is not None:
        tensors["order"] = state.order
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
        **({"replacement": True} if state.replacement else {}),
    }
    return tensors, meta


def from_tensors(
    where: str,
    tensors: Mapping[str, np.ndarray],
    meta: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    rule: UpdateRule | None = None,
) -> TrainingState:
    """State from the tensors and JSON of to_tensors, with every piece checked.

    `where` has function and file, for messages; `shapes` are those of the model's parameters; `rule`
    is one that RULES lacks. DataError : anything missing, unknown, of another shape or type, or not
    finite.
    """

    def require(fits: bool, found: str, expected: str) -> None:
        if not fits:
            raise DataError(where, "", found, expected=expected)

    def named(prefix: str, shapes: Mapping[str, tuple[int, ...]]) -> Parameters:
        arrays = Parameters.empty(shapes, losses.dtype, np)
        for name, shape in shapes.items():
            x = tensors[prefix + name]
            found = f"{prefix}{name} has shape {x.shape} and dtype {x.dtype}"
            fits = x.shape == shape and x.dtype == losses.dtype
            require(fits, found, f"{shape} and {losses.dtype}; from another run?")
            arrays[name] = x
        _check_finite(where, prefix.rstrip(".") or "value", arrays, DataError, "damaged?")
        return arrays

    # Counts and objects
    no_state = "damaged, or not the state of a training?"
    for key in ("optimizer", "rng"):
        value = meta.get(key)
        require(isinstance(value, dict), f"{key} is {_short(value)}", f"an object; {no_state}")
    counts: dict[str, Any] = {}
    for key in ("iteration", "epoch", "captions", "batch_size", "position"):
        value = counts[key] = meta.get(key)
        fits = type(value) is int and 0 <= value <= MOST
        require(fits, f"{key} is {_short(value)}", f"a count; {no_state}")
    captions, batch_size, position = (counts[k] for k in ("captions", "batch_size", "position"))
    replacement = meta.get("replacement", False)
    found = f"replacement is {_short(replacement)}"
    require(type(replacement) is bool, found, f"true or nothing; {no_state}")

    # The optimizer's hyperparameters
    optimizer = dict(meta["optimizer"])
    rules, name = RULES if rule is None else {rule.name: rule}, optimizer.pop("rule", None)
    fits = isinstance(name, str) and name in rules
    require(fits, f"the update rule is {_short(name)}", f"one of {', '.join(rules)}; damaged?")
    rule = rules[name]
    for key, value in optimizer.items():
        fits = type(value) in (int, float) and abs(value) <= MOST
        found = f"optimizer's {_short(key)} is {_short(value)}"
        require(fits, found, "a finite number; damaged?")

    # Tensors
    moments = state_shapes(rule, shapes)
    known = {*shapes, "losses"}
    known |= {f"{rule.name}.{key}.{name}" for key, of in moments.items() for name in of}
    odd = sorted((set(tensors) - {"order"}) ^ known)
    expected = f"parameters, losses and the state of {rule.name}; from another run?"
    require(not odd, f"{', '.join(odd[:5])} missing or unknown", expected)
    losses, order = tensors["losses"], tensors.get("order")
    fits = losses.shape == (counts["iteration"],) and losses.dtype in (np.float32, np.float64)
    found = f"losses have shape {losses.shape} and dtype {losses.dtype}"
    expected = f"{counts['iteration']} finite numbers; damaged?"
    require(fits and bool(np.isfinite(losses).all()), found, expected)
    found = f"position {position} in {captions} captions by {batch_size}"
    fits = captions >= 1 and batch_size >= 1
    most = batches_of_epoch(captions, batch_size, replacement) if fits else 0
    fits = fits and position <= (most if replacement or order is not None else 0)
    require(fits, found, "one within an epoch; damaged?")
    if order is not None:
        fits = order.shape == (captions,) and order.dtype == np.int32
        fits = fits and bool((np.sort(order) == np.arange(captions)).all())
        found = f"order has shape {order.shape} and dtype {order.dtype}"
        require(fits, found, f"each of 0..{captions - 1} once; damaged?")
    params = named("", shapes)
    states = {key: named(f"{rule.name}.{key}.", of) for key, of in moments.items()}
    for key in rule.squares:
        least = states[key].flat.min(initial=0)
        found = f"{rule.name}.{key} goes down to {least:g}"
        require(least >= 0, found, "means of squares; damaged?")

    # Records: all have the same figures
    history, start = meta.get("history"), meta.get("start")
    fits = isinstance(history, list) and len(history) == counts["epoch"]
    expected = f"a list of {counts['epoch']} records; damaged?"
    require(fits, f"history is {_short(history)}", expected)
    assert isinstance(history, list)
    for number, record in enumerate(history, start=1):
        fits = _is_record(record, number) and not FIGURES & (record.keys() ^ history[0].keys())
        found = f"record {number} of the history is {_short(record)}"
        require(fits, found, f"the figures of epoch {number}; damaged?")
    if start is not None:
        fits = _has_numbers(start) and start.get("epoch") == 0
        if fits and history:
            fits = not (FIGURES - TRAINED) & (start.keys() ^ history[0].keys())
        require(fits, f"start is {_short(start)}", "the figures of epoch 0; damaged?")

    return TrainingState(
        params=params,
        rule=rule.name,
        optimizer=optimizer,
        moments=states,
        captions=captions,
        batch_size=batch_size,
        order=order,
        position=position,
        losses=losses,
        history=history,
        order_rng=_checked_rng(where, meta["rng"].get("order")),
        start=start,
        replacement=replacement,
    )


def _is_record(record: Any, number: int) -> bool:
    """True for a record of the epoch of that number."""
    names = {"iteration", "learning_rate", "train_accuracy"}
    complete = _has_numbers(record) and names <= record.keys()
    return complete and len(TRAINED & record.keys()) == 1 and record.get("epoch") == number


def _has_numbers(record: object) -> bool:
    """True for a record of finite numbers, with all figures of validation or none."""
    if not isinstance(record, dict):
        return False
    numbers = all(type(x) in (int, float) and abs(x) <= sys.float_info.max for x in record.values())
    return numbers and len(VALIDATED & record.keys()) in (0, len(VALIDATED))


def _checked_rng(where: str, state: Any) -> dict[str, Any]:
    """State of a generator, once NumPy has taken it."""
    generator = np.random.default_rng(0)
    try:
        generator.bit_generator.state = dict(state)
    except (TypeError, ValueError, KeyError, OverflowError, AttributeError) as error:
        raise DataError(
            where,
            "the state of a random generator",
            f"is {_short(state)}",
            expected="NumPy's of PCG64",
            cause=f"damaged? ({error!r})",
        ) from error
    return dict(generator.bit_generator.state)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
