"""State of a training, from which it continues: in memory, and as tensors of a file."""

import copy
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import asarray, to_numpy
from xpcap.backend.plain_code import CODES, check_code
from xpcap.backend.shape_specs import Spec, check_finite
from xpcap.errors import DataError, OptionError, TrainingError
from xpcap.files.json_text import check_json
from xpcap.optim import RULES, UpdateRule
from xpcap.options import SEED, Flag, Names, OptionKind, Real, Whole
from xpcap.training.optimizer import state_shapes

Record = dict[str, Any]
Shapes = Mapping[str, tuple[int, ...]]

LATEST = "latest"  # key in records if the latest is the best
LIMIT = "val_loss_limit"  # key in the record of a start
ORDER_STREAM = 2  # random stream of a seed; CaptioningRNN draws from streams 0 and 1


# ---- Records of epochs


def best_of(history: Sequence[Record]) -> Record | None:
    """The best record: with the highest val CIDEr-D and, among equals, the lowest val loss.

    Without CIDEr-D the loss decides. Without validation, or with LATEST, the latest record is the
    best. The first of equals is returned, and None without records. An epoch whose val loss exceeds
    the start's `val_loss_limit` does not count.
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
    """True if a record is that of a start, which has no learning rate."""
    return "learning_rate" not in record


def epochs_of(records: Sequence[Record]) -> list[Record]:
    """The records of epochs, without that of a start."""
    return [record for record in records if not is_start(record)]


# Doubles hold these exactly
COUNT = Whole(0, 2**53)
SIZE = Whole(1, 2**53)
# Which records have a figure: every record, those of epochs, any; or those with the named figure
EVERY = "every"
EPOCHS = "epochs"
ANY = "any"
FIGURES: dict[str, tuple[OptionKind, str]] = {  # other names are figures of an objective
    **dict.fromkeys(("epoch", "iteration"), (COUNT, EVERY)),
    "train_accuracy": (Real(), EVERY),
    "learning_rate": (Real(), EPOCHS),
    **dict.fromkeys(("val_loss", "val_perplexity", "val_accuracy"), (Real(), "val_loss")),
    **dict.fromkeys(("val_cider", "val_distinct", "val_length"), (Real(), "val_cider")),
    **dict.fromkeys((LATEST, LIMIT), (Real(), ANY)),
}
RESERVED = FIGURES.keys()


def figures_with(*others: str) -> set[str]:
    """Names of the figures in records that have one of `others`."""
    return {name for name, (_, other) in FIGURES.items() if other in others}


def unmatched(record: Record, figures: Set[str]) -> tuple[list[str], list[str]]:
    """Figures that a record has in addition to `figures`, and those that it lacks."""
    if is_start(record):
        figures = figures & RESERVED - figures_with(EPOCHS)
    names = record.keys() - figures_with(ANY)
    return sorted(names - figures), sorted(figures - names)


# ---- The order of captions


class EpochOrder:
    """Random order of the captions of an epoch, and the position in the current epoch.

    With replacement, each batch is drawn separately from all captions, as in the course's solver.

    count : number of training captions
    seed : seed of the orders. None: NumPy's legacy global stream draws the seed or, with
        replacement, the captions
    replacement : draw with replacement

    Attributes:
    rng : numpy.random.Generator of the orders; None: NumPy's legacy global stream
    captions : array (count,), int32, order of the current epoch; None between epochs, and with
        replacement
    position : number of batches done in the current epoch
    """

    def __init__(self, count: int, seed: int | None, replacement: bool = False) -> None:
        self.count = count
        self.replacement = replacement
        self.rng: np.random.Generator | None = None
        if seed is not None or not replacement:
            key = np.random.randint(2**31) if seed is None else int(seed)
            self.rng = np.random.default_rng([key, ORDER_STREAM])
        self.captions: np.ndarray | None = None
        self.position = 0

    def steps(self, size: int) -> int:
        """Number of batches of an epoch."""
        return batches_of_epoch(self.count, size, self.replacement)

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Captions of each batch from `position` on; the caller advances `position`."""
        if self.replacement:
            draw = np.random.choice if self.rng is None else self.rng.choice
            return (draw(self.count, size) for _ in range(self.position, self.steps(size)))
        assert self.rng is not None
        if self.captions is None:
            captions = self.rng.permutation(self.count)
            self.captions = captions.astype(np.int32)
            self.position = 0
        captions = self.captions
        first = self.position
        return (captions[start : start + size] for start in range(first * size, self.count, size))

    def end(self) -> None:
        """End the current epoch, even if batches are left; the next batch begins another."""
        self.captions = None
        self.position = 0


def batches_of_epoch(count: int, size: int, replacement: bool) -> int:
    """Number of batches in an epoch; with replacement only full batches, but at least one."""
    return max(count // size, 1) if replacement else -(-count // size)


# ---- The state


class TrainingState(NamedTuple):
    """State between two steps: CaptioningSolver.state() returns it, and restore() takes it.

    arrays : host arrays by name; see ARRAYS
    meta : a JSON object; see MEMBERS
    """

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]

    @classmethod
    def of(cls, solver: Any) -> "TrainingState":
        """State of a solver. TrainingError : a parameter or moment is not finite."""
        meta = {member.key: x for member in MEMBERS if (x := member.of(solver)) is not None}
        named = (item for member in ARRAYS for item in _named(member.key, member.of(solver)))
        arrays = {name: np.array(to_numpy(x)) for name, x in named}
        cause = f"is the learning rate, now {solver.learning_rate:g}, too high?"
        for name, x in arrays.items():
            check_finite(name, x, TrainingError, cause)
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
        """Records of a start and of epochs, as in a solver."""
        return self.meta["records"]

    @property
    def is_best(self) -> bool:
        """True if the parameters are the best so far, because the best epoch has just ended."""
        if "order" in self.arrays or self.meta["position"] or not epochs_of(self.records):
            return False
        last = self.records[-1]  # an epoch that failed may have taken steps after it
        return last["iteration"] == self.iteration and best_of(self.records) is last

    def check(self, source: object, shapes: Shapes, rules: Mapping[str, UpdateRule]) -> None:
        """Check all members; missing hyperparameters of the update rule get its defaults.

        DataError : a member is missing, unknown, not finite, or of another shape or type.

        source : the file, or "the state", for messages
        shapes : shapes of the model's parameters
        rules : known update rules
        """
        meta = self.meta
        spec = Spec("")
        check_json(source, meta, {member.name: member.form for member in MEMBERS})
        try:
            rule = rules[Names(rules).check("update rule", meta["update rule"])]
            meta["optimizer"] = rule.complete(meta["optimizer"])
        except OptionError as error:
            raise DataError(f"{source}: {error}; damaged?") from error
        for member in ARRAYS:
            if member.name == member.key or member.key in self.arrays:
                named = dict(_named(member.key, member.form(shapes, rule, meta)))
                spec.entries += Spec.of(named, member.kind or FLOATS[meta["dtype"]]).entries
        spec.check_file(source, self.arrays, "from another run?")
        for member in (*MEMBERS, *ARRAYS):
            if misfit := member.misfit(self, rule):
                raise DataError(f"{source}: {misfit}; damaged, or not the state of a training?")

    def check_fits(self, solver: Any, figures: Set[str]) -> None:
        """Raise DataError if the solver has another model, data, update rule, batch size or figures.

        OptionError : of state and this thread, one uses plain code and the other fast code.

        figures : names of the figures in the solver's records
        """
        check_code("the state", self.meta["code"])
        pairs = {
            member.key: (self.meta.get(member.key), member.of(solver))
            for member in MEMBERS
            if member.role == FIXED
        }
        if self.records:
            pairs["unmatched figures"] = unmatched(self.records[-1], figures)
        for thing, (theirs, ours) in pairs.items():
            if theirs != ours:
                raise DataError(
                    f"the state has {thing} {theirs}, and this solver {ours}, expected the same;"
                    " from another training?"
                )
        rule = solver._optimizer.rule
        self.check("the state", solver.model.params.shapes, {rule.name: rule})

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
    source: object,
    arrays: Mapping[str, np.ndarray],
    meta: Mapping[str, Any],
    shapes: Shapes,
    rule: UpdateRule | None = None,
) -> TrainingState:
    """Checked state from the arrays and JSON of a file; `rule` is a custom update rule."""
    known = {member.key for member in MEMBERS}
    state = TrainingState(dict(arrays), {key: x for key, x in meta.items() if key in known})
    state.check(source, shapes, RULES if rule is None else {rule.name: rule})
    return state


# ---- Members of the state

Misfit = str | None  # what came, and what was expected; None: the member fits


def _records(state: TrainingState, rule: UpdateRule) -> Misfit:
    """Epochs are numbered from 1, or from a scored start, and all have the last one's figures."""
    records = state.records
    last = (state.records or [{}])[-1]
    has_start = bool(records) and is_start(records[0])
    own_figures = last.keys() - RESERVED
    figures = figures_with(EVERY, EPOCHS, *last) | own_figures
    for number, record in enumerate(records, start=records[0]["epoch"] if has_start else 1):
        fits = record["epoch"] == number and not any(unmatched(record, figures))
        compared = "val_loss" in record or not {"val_cider", LIMIT} & record.keys()
        starts = has_start and record is records[0]
        if not (fits and compared and is_start(record) == starts and (own_figures or starts)):
            return f"record {number} is {_short(record)}, expected the figures of epoch {number}"
    if last.get("epoch", 0) == state.epoch:
        return None
    return f"records are {_short(records)}, expected those of {state.epoch} epochs"


def _position(state: TrainingState, rule: UpdateRule) -> Misfit:
    position, captions, size = (state.meta[x] for x in ("position", "captions", "batch_size"))
    last = batches_of_epoch(captions, size, state.meta["replacement"])
    if position <= last:
        return None
    return f"position {position} in {captions} captions by {size}, expected one within an epoch"


def _steps(state: TrainingState, rule: UpdateRule) -> Misfit:
    steps = state.meta["steps"]
    least = state.iteration
    return f"steps are {steps}, expected at least {least}" if steps < least else None


def _rng(state: TrainingState, rule: UpdateRule) -> Misfit:
    try:
        np.random.default_rng(0).bit_generator.state = state.meta["rng"]
    except (TypeError, ValueError, KeyError, OverflowError, AttributeError) as error:
        return (
            f"rng is {_short(state.meta['rng'])} ({error!r}), expected the state of NumPy's PCG64"
        )
    return None


def _order(state: TrainingState, rule: UpdateRule) -> Misfit:
    order = state.arrays.get("order")
    if order is None or np.array_equal(np.sort(order), np.arange(len(order))):
        return None
    return f"order is not a permutation, expected each of 0..{len(order) - 1} once"


def _moments(state: TrainingState, rule: UpdateRule) -> Misfit:
    for key, (name, x) in itertools.product(rule.squares, state.arrays.items()):
        if name.startswith(f"moments.{key}.") and (least := x.min(initial=0)) < 0:
            return f"{name} goes down to {least:g}, expected squares"
    return None


# Roles
WRITTEN = "written"
FIXED = "fixed"
COUNTED = "counted"


class Member(NamedTuple):
    """A member of the state, which is an attribute of a solver.

    name : name in the JSON, or of the array; arrays of a mapping are named ``name.key``. A question
        mark at the end allows the member to be missing
    attribute : dotted path of the solver's attribute
    form : form of the JSON; for arrays, a function that returns their shapes from the shapes of the
        parameters, the rule and the JSON
    misfit : finds contradictions within a state
    kind : kind of arrays, as in xpcap.backend.shape_specs; "" is the kind of the parameters
    role : WRITTEN to a solver; FIXED: the solver must have the same; COUNTED from other members
    """

    name: str
    attribute: str
    form: Any
    misfit: Callable[[TrainingState, UpdateRule], Misfit] = lambda state, rule: None
    kind: str = ""
    role: str = WRITTEN

    @property
    def key(self) -> str:
        """The name without a question mark."""
        return self.name.removesuffix("?")

    def of(self, solver: Any) -> Any:
        """The attribute of a solver; None if it lacks the attribute."""
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
    Member("optimizer", "_optimizer.config", {}),  # current hyperparameters, and Adam's t
    Member("first_rate", "_optimizer.first_rate", Real(0)),  # of a linear decay
    Member("rng", "_order.rng.bit_generator.state", {}, _rng),
    Member("records", "_records", RECORD, _records),
    Member("position", "_order.position", COUNT, _position),  # batches done in the epoch
    Member("begun", "_call.first_epoch", Whole(-(2**53), 2**53)),
    Member("seed?", "model.seed", SEED),  # of dropout masks
    Member("steps", "_steps", COUNT, _steps),  # steps taken, recorded or not
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
    """The leaves of nested mappings, except None, with their dotted names."""
    if isinstance(tree, Mapping):
        for key, item in tree.items():
            yield from _named(f"{name}.{key}", item)
    elif tree is not None:
        yield name, tree


def _short(value: object, text_of: Callable[[object], str] = repr) -> str:
    text = text_of(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
