"""State of a training, which decides how it goes on: in memory, and as tensors of a file."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import asarray, to_numpy
from xpcap.errors import DataError, OptionError, TrainingError
from xpcap.json_text import Form, check_json
from xpcap.models.parameters import Parameters
from xpcap.optim import RULES, UpdateRule
from xpcap.options import SEED, Flag, Names, OptionKind, Real, Whole
from xpcap.spec import Spec, check_finite
from xpcap.training.optimizer import Optimizer, state_shapes
from xpcap.way import WAYS, check_way

Record = dict[str, Any]

LATEST = "latest"  # key of a record that is the best while it is the latest
LIMIT = "val_loss_limit"  # in the record of a start
TENSORS = ("losses", "order")  # of a state's file, besides parameters and moments
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
        history = [start, *(epoch for epoch in epochs if epoch["val_loss"] <= start[LIMIT])]
    if "val_cider" in figures:
        return max(history, key=lambda record: (record["val_cider"], -record["val_loss"]))
    if "val_loss" in figures:
        return min(history, key=lambda record: record["val_loss"])
    return history[-1] if history else None


def epochs_of(records: Sequence[Record]) -> list[Record]:
    """The records without that of the start."""
    return [record for record in records if record["epoch"]]


COUNT, SIZE = Whole(0, 2**53), Whole(1, 2**53)  # what JSON and doubles hold exactly
# The records that have a figure: all, those of epochs, any; or those that also have another figure
EVERY, EPOCHS, ANY = "every", "epochs", "any"
FIGURES: dict[str, tuple[OptionKind, str]] = {  # all others are figures of an objective
    **dict.fromkeys(("epoch", "iteration"), (COUNT, EVERY)),
    "train_accuracy": (Real(), EVERY),
    "learning_rate": (Real(), EPOCHS),
    **dict.fromkeys(("val_loss", "val_perplexity", "val_accuracy"), (Real(), "val_loss")),
    **dict.fromkeys(("val_cider", "val_distinct", "val_length"), (Real(), "val_cider")),
    **dict.fromkeys((LATEST, LIMIT), (Real(), ANY)),
}
RESERVED = FIGURES.keys()


def figures_with(*others: str) -> set[str]:
    """Names of the figures that come with others."""
    return {name for name, (_, other) in FIGURES.items() if other in others}


def unmatched(record: Record, figures: Set[str]) -> tuple[list[str], list[str]]:
    """Figures that a record has beyond those of an epoch, and those that it lacks."""
    if not record["epoch"]:
        figures = figures & RESERVED - figures_with(EPOCHS)
    names = record.keys() - figures_with(ANY)
    return sorted(names - figures), sorted(figures - names)


def check_records(records: Sequence[Record]) -> tuple[str, str]:
    """The first record that does not follow from those before it, and what was expected; or empty.

    Epochs count from 1, or 0 if the start was scored, and have the figures of the last.
    """
    last = records[-1] if records else {}
    own_figures = last.keys() - RESERVED
    figures = figures_with(EVERY, EPOCHS, *last) | own_figures
    for number, record in enumerate(records, start=len(epochs_of(records[:1]))):
        fits = record["epoch"] == number and not any(unmatched(record, figures))
        compared = "val_loss" in record or not {"val_cider", LIMIT} & record.keys()
        if not (fits and compared and (own_figures or not number)):
            return f"record {number} is {_short(record)}", f"the figures of epoch {number}"
    return "", ""


# ---- The order of captions


class EpochOrder:
    """Order of the captions of an epoch, drawn anew for each, and the position in the current one.

    With replacement each batch is drawn by itself from all captions, as the course's solver does.

    count : training captions
    seed : None draws one from NumPy's legacy global stream; with replacement, the captions
        themselves
    replacement : draw with replacement

    Its attributes:
    rng : numpy.random.Generator that draws the orders; None: NumPy's legacy global stream does
    captions : array (count,), int, of the epoch under way; None between two epochs, and with
        replacement
    position : batches of the epoch done
    """

    def __init__(self, count: int, seed: int | None, replacement: bool = False) -> None:
        self.count, self.replacement = count, replacement
        self.rng: np.random.Generator | None = None
        if seed is not None or not replacement:
            key = np.random.randint(2**31) if seed is None else int(seed)
            self.rng = np.random.default_rng([key, ORDER_STREAM])
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
    records: list[Record]  # one an epoch, and before them that of the start if it was scored
    order_rng: dict[str, Any]  # of numpy.random.Generator.bit_generator
    way: str  # that all steps were computed, of WAYS
    replacement: bool = False  # captions are drawn with replacement: there is no order
    first_rate: float = 0.0  # of a linear rate; see Optimizer
    seed: int | None = None  # of the model's dropout masks, if it has one
    steps: int = 0  # taken, recorded or not: numbers of dropout masks
    begun: int = 0  # epochs done when the present call of `train` began; see Plan

    @classmethod
    def of(
        cls,
        model: Any,
        optimizer: Optimizer,
        order: EpochOrder,
        *,
        batch_size: int,
        losses: Sequence[float],
        records: Sequence[Record],
        way: str,
        steps: int,
        begun: int,
    ) -> "TrainingState":
        """State of the parts of a solver.

        Raise TrainingError if a parameter or moment is not finite, OptionError if a parameter has
        the name of another tensor of a state's file.
        """
        params = model.params
        if clashes := [name for name in TENSORS if name in params]:
            got, expected = "has the name of a tensor of the state", "another: a file holds both"
            thing = f"parameter {clashes[0]!r}"
            raise OptionError("CaptioningSolver.state", thing, got, expected)

        def on_host(arrays: Parameters) -> Parameters:
            return Parameters(arrays.shapes, np.array(to_numpy(arrays.flat)))

        assert order.rng is not None
        state = cls(
            params=on_host(params),
            rule=optimizer.rule.name,
            optimizer=dict(optimizer.config),
            moments={key: on_host(arrays) for key, arrays in optimizer.state.items()},
            captions=order.count,
            batch_size=batch_size,
            order=None if order.captions is None else order.captions.astype(np.int32),
            position=order.position,
            losses=np.array(losses, params.flat.dtype),
            records=[dict(record) for record in records],
            order_rng=dict(order.rng.bit_generator.state),
            way=way,
            replacement=order.replacement,
            first_rate=optimizer.first_rate,
            seed=getattr(model, "seed", None),
            steps=steps,
            begun=begun,
        )
        rate = optimizer.config["learning_rate"]
        cause = f"iteration {state.iteration}; is the learning rate, now {rate:g}, too high?"
        for name, x in state.arrays.items():
            check_finite("CaptioningSolver", name, x, TrainingError, cause)
        return state

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Parameters by their names, and the rule's arrays, as adam.m.Wx."""
        arrays = dict(self.params)
        for key, moment in self.moments.items():
            arrays |= {f"{self.rule}.{key}.{name}": x for name, x in moment.items()}
        return arrays

    @property
    def iteration(self) -> int:
        """Steps done."""
        return len(self.losses)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.records[-1]["epoch"] if self.records else 0

    @property
    def is_best(self) -> bool:
        """True if `params` are the best so far: the best epoch has just ended."""
        if self.order is not None or self.position or not self.epoch:
            return False
        last = self.records[-1]  # after it there may be the steps of an epoch that failed
        return last["iteration"] == self.iteration and best_of(self.records) is last

    def check_fits(
        self,
        params: Parameters,
        optimizer: Optimizer,
        order: EpochOrder,
        batch_size: int,
        figures: Set[str],
    ) -> None:
        """Raise DataError if model, data, update rule, batch size or figures are not the state's.

        OptionError : the state was computed another way than this thread computes.

        figures : names in the records that the solver will write
        """
        check_way("CaptioningSolver.restore", "the state", self.way)
        pairs = {
            "update rule": (self.rule, optimizer.rule.name),
            "batch_size": (self.batch_size, batch_size),
            "number of captions": (self.captions, order.count),
            "replacement": (self.replacement, order.replacement),
            "parameters": (self.params.layout, params.layout),
            "the rule's state": tuple(
                {key: arrays.layout for key, arrays in state.items()}
                for state in (self.moments, optimizer.state)
            ),
            "dtype": (self.params.flat.dtype, params.flat.dtype),
        }
        if self.records:
            pairs["unmatched figures"] = unmatched(self.records[-1], figures)
        for thing, (theirs, ours) in pairs.items():
            if theirs != ours:
                got = f"{thing} of the state: {theirs}, of this solver: {ours}"
                cause = "of another training?"
                raise DataError("CaptioningSolver.restore", "", got, "the same", cause)

    def restore_into(self, model: Any, optimizer: Optimizer, order: EpochOrder) -> None:
        """Write the state to the parts of a solver. Raise DataError if hyperparameters are bad."""
        with _option_errors_as_data_errors("CaptioningSolver.restore"):
            optimizer.config = optimizer.rule.complete(self.optimizer)
        optimizer.first_rate = self.first_rate
        params = model.params
        if self.seed is not None:
            model.seed = self.seed
        for key, moment in self.moments.items():
            optimizer.state[key].flat[...] = asarray(moment.flat, like=params.flat)
        params.flat[...] = asarray(self.params.flat, like=params.flat)
        assert order.rng is not None
        order.rng.bit_generator.state = self.order_rng
        order.captions = None if self.order is None else self.order.astype(np.int64)
        order.position = self.position


# ---- As tensors and JSON

META: dict[str, Form] = {  # of a state's file
    "optimizer": {},
    **dict.fromkeys(("epoch", "iteration", "position"), COUNT),
    **dict.fromkeys(("captions", "batch_size"), SIZE),
    "records": [
        {
            **{name + "?" * (other != EVERY): kind for name, (kind, other) in FIGURES.items()},
            "*": Real(),
        }
    ],
    "rng": {"order": {}},
    "way": Names(WAYS),
    "replacement?": Flag(),
    "first_rate": Real(0),
    "seed?": SEED,
    "steps": COUNT,
    "begun": Whole(-(2**53), 2**53),
}


def to_tensors(state: TrainingState) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A state as named arrays and a JSON object."""
    tensors = {**state.arrays, "losses": state.losses}
    if state.order is not None:
        tensors["order"] = state.order
    meta = {
        "optimizer": {"rule": state.rule, **state.optimizer},
        "epoch": state.epoch,
        "iteration": state.iteration,
        "position": state.position,
        "captions": state.captions,
        "batch_size": state.batch_size,
        "records": state.records,
        "rng": {"order": state.order_rng},
        "way": state.way,
        **({"replacement": True} if state.replacement else {}),
        "first_rate": state.first_rate,
        **({} if state.seed is None else {"seed": state.seed}),
        "steps": state.steps,
        "begun": state.begun,
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

    Raise DataError if anything is missing, unknown, of another shape or type, or not finite.

    where : function and file, for messages
    shapes : those of the model's parameters
    rule : one that RULES lacks
    """

    def require(fits: bool, misfit: str, expected: str) -> None:
        if not fits:
            raise DataError(where, "", misfit, expected, "damaged, or not the state of a training?")

    check_json(where, "", meta, META)
    records, replacement = meta["records"], bool(meta.get("replacement"))
    epoch, iteration, position, captions, batch_size = (
        meta[name] for name in ("epoch", "iteration", "position", "captions", "batch_size")
    )
    rules, numbers = RULES if rule is None else {rule.name: rule}, dict(meta["optimizer"])
    with _option_errors_as_data_errors(where):
        rule = rules[Names(rules).check("", "update rule", numbers.pop("rule", None))]
        numbers = rule.complete(numbers)

    # Tensors
    groups: dict[str, Mapping[str, tuple[int, ...]]] = {"": shapes}  # by the prefix of their names
    for key, moment_shapes in state_shapes(rule, shapes).items():
        groups[f"{rule.name}.{key}."] = moment_shapes
    known = {prefix + name: x for prefix, group in groups.items() for name, x in group.items()}
    wide = "losses" in tensors and tensors["losses"].dtype == np.float64
    spec = Spec.of({**known, "losses": (iteration,)}, "f8!" if wide else "f4!")
    if "order" in tensors:
        spec.entries += Spec.of({"order": (captions,)}, "i4").entries
    spec.check_file(where, tensors, "from another run?")
    params, *arrays = (_gathered(tensors, prefix, group) for prefix, group in groups.items())
    moments, order = dict(zip(rule.state, arrays, strict=True)), tensors.get("order")
    for key in rule.squares:
        for name, square in moments[key].items():
            least = square.min(initial=0)
            require(least >= 0, f"{rule.name}.{key}.{name} goes down to {least:g}", "squares")
    once = order is None or np.array_equal(np.sort(order), np.arange(captions))
    require(once, "order is not a permutation", f"each of 0..{captions - 1} once")

    # Relations
    misfit, expected = check_records(records)
    require(not misfit, misfit, expected)
    require(len(epochs_of(records)) == epoch, f"records are {_short(records)}", f"{epoch} epochs")
    # Without an order, steps since the last epoch: a caller may take them by itself
    max_position = iteration - (records[-1]["iteration"] if records else 0)
    if order is not None:
        max_position = batches_of_epoch(captions, batch_size, replacement)
    require(meta["steps"] >= iteration, f"steps are {meta['steps']}", f"at least {iteration}")
    misfit = f"position {position} in {captions} captions by {batch_size}"
    require(position <= max_position, misfit, "one within an epoch")

    return TrainingState(
        params=params,
        rule=rule.name,
        optimizer=numbers,
        moments=moments,
        captions=captions,
        batch_size=batch_size,
        order=order,
        position=position,
        losses=tensors["losses"],
        records=records,
        order_rng=_checked_rng(where, meta["rng"]["order"]),
        way=meta["way"],
        replacement=replacement,
        first_rate=meta["first_rate"],
        seed=meta.get("seed"),
        steps=meta["steps"],
        begun=meta["begun"],
    )


@contextlib.contextmanager
def _option_errors_as_data_errors(where: str) -> Iterator[None]:
    """The OptionErrors of a block, as DataErrors of a file, shortened."""
    try:
        yield
    except OptionError as error:
        got, cause = _short(error.got, str), error.cause or "damaged?"
        raise DataError(where, error.thing, got, error.expected, cause) from error


def _gathered(
    tensors: Mapping[str, np.ndarray], prefix: str, shapes: Mapping[str, tuple[int, ...]]
) -> Parameters:
    """Tensors of one prefix, in a flat buffer."""
    arrays = Parameters.empty(shapes, tensors["losses"].dtype, np)
    arrays.update((name, tensors[prefix + name]) for name in shapes)
    return arrays


def _checked_rng(where: str, state: Any) -> dict[str, Any]:
    """State of a generator, once NumPy has taken it."""
    generator = np.random.default_rng(0)
    try:
        generator.bit_generator.state = state
    except (TypeError, ValueError, KeyError, OverflowError, AttributeError) as error:
        thing = "the state of a random generator"
        got = f"is {_short(state)}"
        raise DataError(where, thing, got, "NumPy's of PCG64", f"damaged? ({error!r})") from error
    return dict(generator.bit_generator.state)


def _short(value: object, text_of: Callable[[object], str] = repr) -> str:
    text = text_of(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
