"""State of a training, which decides how it goes on: in memory, and as tensors of a file."""

import copy
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import asarray, to_numpy
from xpcap.errors import DataError, OptionError, TrainingError
from xpcap.json_text import check_json
from xpcap.optim import RULES, UpdateRule
from xpcap.options import SEED, Flag, Names, OptionKind, Real, Whole
from xpcap.plain_code import CODES, check_code
from xpcap.spec import Spec, check_finite
from xpcap.training.optimizer import state_shapes

Record = dict[str, Any]
Shapes = Mapping[str, tuple[int, ...]]

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
        history = [start, *(epoch for epoch in epochs if epoch["val_loss"] <= start[LIMIT])]
    if "val_cider" in figures:
        return max(history, key=lambda record: (record["val_cider"], -record["val_loss"]))
    if "val_loss" in figures:
        return min(history, key=lambda record: record["val_loss"])
    return history[-1] if history else None


def is_start(record: Record) -> bool:
    """True if a record is of parameters that training starts from: no rate led to them."""
    return "learning_rate" not in record


def epochs_of(records: Sequence[Record]) -> list[Record]:
    """The records without that of the start."""
    return [record for record in records if not is_start(record)]


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
    if is_start(record):
        figures = figures & RESERVED - figures_with(EPOCHS)
    names = record.keys() - figures_with(ANY)
    return sorted(names - figures), sorted(figures - names)


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
    captions : array (count,), int32, of the epoch under way; None between two epochs, and with
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
            captions = self.rng.permutation(self.count)
            self.captions, self.position = captions.astype(np.int32), 0
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
    """Training between two steps, as its file has it: from CaptioningSolver.state(), for restore().

    arrays : by name, on the host; see ARRAYS
    meta : a JSON object; see MEMBERS
    """

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]

    @classmethod
    def of(cls, solver: Any) -> "TrainingState":
        """State of a solver. Raise TrainingError if a parameter or moment is not finite."""
        meta = {member.key: x for member in MEMBERS if (x := member.of(solver)) is not None}
        named = (item for member in ARRAYS for item in _named(member.key, member.of(solver)))
        arrays = {name: np.array(to_numpy(x)) for name, x in named}
        cause = f"is the learning rate, now {solver.learning_rate:g}, too high?"
        for name, x in arrays.items():
            check_finite("CaptioningSolver", name, x, TrainingError, cause)
        return cls(arrays, copy.deepcopy(meta))

    @property
    def iteration(self) -> int:
        """Steps done."""
        return self.meta["iteration"]

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.meta["epoch"]

    @property
    def records(self) -> list[Record]:
        """Records of start and epochs, as those of a solver."""
        return self.meta["records"]

    @property
    def is_best(self) -> bool:
        """True if the parameters are the best so far: the best epoch has just ended."""
        if "order" in self.arrays or self.meta["position"] or not epochs_of(self.records):
            return False
        last = self.records[-1]  # after it there may be the steps of an epoch that failed
        return last["iteration"] == self.iteration and best_of(self.records) is last

    def check(self, where: str, shapes: Shapes, rules: Mapping[str, UpdateRule]) -> None:
        """Check every piece; numbers of the update rule that are missing become its defaults.

        Raise DataError if anything is missing, unknown, of another shape or type, or not finite.

        where : function, and file if there is one, for messages
        shapes : those of the model's parameters
        rules : the update rule is one of them
        """
        meta, spec = self.meta, Spec("")
        check_json(where, "", meta, {member.name: member.form for member in MEMBERS})
        try:
            rule = rules[Names(rules).check("", "update rule", meta["update rule"])]
            meta["optimizer"] = rule.complete(meta["optimizer"])
        except OptionError as error:
            got, cause = _short(error.got, str), error.cause or "damaged?"
            raise DataError(where, error.thing, got, error.expected, cause) from error
        for member in ARRAYS:
            if member.name == member.key or member.key in self.arrays:
                named = dict(_named(member.key, member.form(shapes, rule, meta)))
                spec.entries += Spec.of(named, member.kind or FLOATS[meta["dtype"]]).entries
        spec.check_file(where, self.arrays, "from another run?")
        for member in (*MEMBERS, *ARRAYS):
            if misfit := member.misfit(self, rule):
                raise DataError(where, "", *misfit, "damaged, or not the state of a training?")

    def check_fits(self, solver: Any, figures: Set[str]) -> None:
        """Raise DataError if model, data, update rule, batch size or figures are not the state's.

        OptionError : the state was computed by other code than this thread runs.

        figures : names in the records that the solver will write
        """
        where = "CaptioningSolver.restore"
        check_code(where, "the state", self.meta["code"])
        pairs = {
            member.key: (self.meta.get(member.key), member.of(solver))
            for member in MEMBERS
            if member.role == FIXED
        }
        if self.records:
            pairs["unmatched figures"] = unmatched(self.records[-1], figures)
        for thing, (theirs, ours) in pairs.items():
            if theirs != ours:
                got = f"{thing} of the state: {theirs}, of this solver: {ours}"
                raise DataError(where, "", got, "the same", "of another training?")
        rule = solver._optimizer.rule
        self.check(where, solver.model.params.shapes, {rule.name: rule})

    def write_to(self, solver: Any) -> None:
        """Write the state to a solver that it fits."""
        for member in MEMBERS:
            if member.role == WRITTEN and (value := self.meta.get(member.key)) is not None:
                member.write(solver, copy.deepcopy(value))
        for member in ARRAYS:
            if isinstance(target := member.of(solver), Mapping):
                for name, x in _named(member.key, target):
                    x[...] = asarray(self.arrays[name], like=x)
            else:
                member.write(solver, copy.copy(self.arrays.get(member.key)))


def read_state(
    where: str,
    arrays: Mapping[str, np.ndarray],
    meta: Mapping[str, Any],
    shapes: Shapes,
    rule: UpdateRule | None = None,
) -> TrainingState:
    """State from the arrays and JSON of a file, checked; `rule` is one that RULES lacks."""
    known = {member.key for member in MEMBERS}
    state = TrainingState(dict(arrays), {key: x for key, x in meta.items() if key in known})
    state.check(where, shapes, RULES if rule is None else {rule.name: rule})
    return state


# ---- Its members

Misfit = tuple[str, str] | None  # what came, and what was expected


def _records(state: TrainingState, rule: UpdateRule) -> Misfit:
    """Epochs count from 1, or from the start if it was scored, and have the figures of the last."""
    records, last = state.records, (state.records or [{}])[-1]
    has_start = bool(records) and is_start(records[0])
    own_figures = last.keys() - RESERVED
    figures = figures_with(EVERY, EPOCHS, *last) | own_figures
    for number, record in enumerate(records, start=records[0]["epoch"] if has_start else 1):
        fits = record["epoch"] == number and not any(unmatched(record, figures))
        compared = "val_loss" in record or not {"val_cider", LIMIT} & record.keys()
        starts = has_start and record is records[0]
        if not (fits and compared and is_start(record) == starts and (own_figures or starts)):
            return f"record {number} is {_short(record)}", f"the figures of epoch {number}"
    count = f"records are {_short(records)}", f"those of {state.epoch} epochs"
    return None if last.get("epoch", 0) == state.epoch else count


def _position(state: TrainingState, rule: UpdateRule) -> Misfit:
    position, captions, size = (state.meta[x] for x in ("position", "captions", "batch_size"))
    last = batches_of_epoch(captions, size, state.meta["replacement"])
    misfit = f"position {position} in {captions} captions by {size}", "one within an epoch"
    return misfit if position > last else None


def _steps(state: TrainingState, rule: UpdateRule) -> Misfit:
    steps, least = state.meta["steps"], state.iteration
    return (f"steps are {steps}", f"at least {least}") if steps < least else None


def _rng(state: TrainingState, rule: UpdateRule) -> Misfit:
    try:
        np.random.default_rng(0).bit_generator.state = state.meta["rng"]
    except (TypeError, ValueError, KeyError, OverflowError, AttributeError) as error:
        return f"rng is {_short(state.meta['rng'])} ({error!r})", "the state of NumPy's PCG64"
    return None


def _order(state: TrainingState, rule: UpdateRule) -> Misfit:
    order = state.arrays.get("order")
    if order is None or np.array_equal(np.sort(order), np.arange(len(order))):
        return None
    return "order is not a permutation", f"each of 0..{len(order) - 1} once"


def _moments(state: TrainingState, rule: UpdateRule) -> Misfit:
    for key, (name, x) in itertools.product(rule.squares, state.arrays.items()):
        if name.startswith(f"moments.{key}.") and (least := x.min(initial=0)) < 0:
            return f"{name} goes down to {least:g}", "squares"
    return None


WRITTEN, FIXED, COUNTED = "written", "fixed", "counted"  # roles


class Member(NamedTuple):
    """A member of the state: an attribute of a solver.

    name : in the JSON, or of the array; arrays of a mapping are called ``name.key``. What has a
        question mark may be missing
    attribute : of a solver, dotted
    form : of the JSON; of arrays a function that returns shapes, from the parameters' shapes, the
        rule and the JSON
    misfit : a contradiction within a state
    kind : of arrays, in the language of shapes; "" is that of the parameters
    role : WRITTEN to a solver; FIXED, a solver has to have the same; COUNTED from other members
    """

    name: str
    attribute: str
    form: Any
    misfit: Callable[[TrainingState, UpdateRule], Misfit] = lambda state, rule: None
    kind: str = ""
    role: str = WRITTEN

    @property
    def key(self) -> str:
        """The name alone."""
        return self.name.removesuffix("?")

    def of(self, solver: Any) -> Any:
        """The attribute; None if there is none."""
        path = self.attribute.split(".")
        return functools.reduce(lambda value, name: getattr(value, name, None), path, solver)

    def write(self, solver: Any, value: Any) -> None:
        """Set the attribute."""
        *path, name = self.attribute.split(".")
        setattr(functools.reduce(getattr, path, solver), name, value)


FLOATS = {"float32": "f4!", "float64": "f8!"}
RECORD = [{name + "?" * (x != EVERY): kind for name, (kind, x) in FIGURES.items()} | {"*": Real()}]
MEMBERS = (
    Member("code", "code", Names(CODES), role=FIXED),
    Member("dtype", "model.params.flat.dtype.name", Names(FLOATS), role=FIXED),
    Member("cell?", "model.config.cell", str, role=FIXED),
    Member("dropout?", "model.config.dropout", Real(0, below=1), role=FIXED),
    Member("captions", "_order.count", SIZE, role=FIXED),
    Member("batch_size", "batch_size", SIZE, role=FIXED),
    Member("replacement", "_order.replacement", Flag(), role=FIXED),
    Member("update rule", "_optimizer.rule.name", str, role=FIXED),
    Member("epoch", "epoch", COUNT, role=COUNTED),
    Member("iteration", "iteration", COUNT, role=COUNTED),
    Member("optimizer", "_optimizer.config", {}),  # hyperparameters as they are now, and Adam's t
    Member("first_rate", "_optimizer.first_rate", Real(0)),  # of a linear rate
    Member("rng", "_order.rng.bit_generator.state", {}, _rng),
    Member("records", "_records", RECORD, _records),
    Member("position", "_order.position", COUNT, _position),  # batches of the epoch done
    Member("begun", "_call.begun", Whole(-(2**53), 2**53)),
    Member("seed?", "model.seed", SEED),  # of dropout masks
    Member("steps", "_steps", COUNT, _steps),  # taken, recorded or not
)
ARRAYS = (
    Member("params", "model.params", lambda shapes, *_: shapes),
    Member(
        "moments", "_optimizer.state", lambda shapes, rule, _: state_shapes(rule, shapes), _moments
    ),
    Member("losses", "_record.losses", lambda shapes, rule, meta: (meta["iteration"],), kind="f8!"),
    Member(
        "order?",
        "_order.captions",
        lambda shapes, rule, meta: (meta["captions"],),
        _order,
        kind="i4",
    ),
)


def _named(name: str, tree: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings by their names; None is no leaf."""
    if isinstance(tree, Mapping):
        for key, item in tree.items():
            yield from _named(f"{name}.{key}", item)
    elif tree is not None:
        yield name, tree


def _short(value: object, text_of: Callable[[object], str] = repr) -> str:
    text = text_of(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
