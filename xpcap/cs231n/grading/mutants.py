"""Fault localisation: changes to a reference function that make it compute a student's results.

The functions of reference/ have one line per equation. `localise` changes a function by the rules of
rules.py and runs the changed functions, the mutants, until one computes the student's results. That
mutant shows which line is wrong, and how. Changes that explain different parts of the results are
combined.

Mutation analysis (DeMillo, Lipton and Sayward 1978) judges tests by mutants; here a mutant names
the mistake. A search has a budget of mutants, not of time, so that its verdict is the same on every
machine.
"""

import ast
import inspect
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations, permutations
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from xpcap.cs231n.grading.rules import (
    SCOPE,
    Bound,
    Rule,
    all_rules,
    filled,
    kind_of_term,
    match,
    text_of,
)

TOLERANCE = 1e-5  # relative; some students compute in float32
BUDGET = 4000  # mutants that a search may run
MAX_STEPS = 1000  # of a mutant's loop; no right function takes so many
GATE = re.compile(r"^(?:da_|a_|d)?([ifog])$")


class Change(NamedTuple):
    """One change of a reference function.

    rank : how unlikely the mistake is; the lowest rank that explains the results is reported
    kind : kind of mistake
    gate : gates concerned, such as "f" or "f, o"; "" for none
    target : variable that the changed statement computes
    statement, instead : the statement before and after the change
    detail : description of the mistake
    """

    rank: int
    kind: str
    gate: str
    target: str
    statement: str
    instead: str
    detail: str


class Localisation(NamedTuple):
    """Changes that together explain a student's results.

    complete : they explain all of the results
    function : the reference function with the changes
    """

    changes: list[Change]
    complete: bool
    function: Callable[..., Any]


class Slot(NamedTuple):
    """A place in a tree, an entry of a list or field of a node, and the node that a mutant has there."""

    parent: Any
    key: Any
    new: Any

    def exchange(self, node: Any) -> Any:
        """Put a node there; returns the previous one."""
        if isinstance(self.parent, list):
            old = self.parent[self.key]
            self.parent[self.key] = node
        else:
            old = getattr(self.parent, self.key)
            setattr(self.parent, self.key, node)
        return old


class Edit(NamedTuple):
    """A change in places of a tree; `described` makes its text."""

    rank: int
    kind: str
    detail: str
    statement: ast.stmt
    slots: list[Slot]
    gates: str = ""  # gates that it exchanges, in a statement of no gate
    bound: Bound = {}  # noqa: RUF012 - read only
    old: ast.AST | None = None
    rule: Rule | None = None
    after: Sequence[ast.stmt] = ()  # changed statements, if there are several places
    target: str = ""  # the variable concerned, if the statement computes several

    @property
    def prior(self) -> int:
        """Order of the search: by rank, then edits that name a gate before others."""
        return 2 * self.rank + (not self._gate)

    @property
    def _gate(self) -> str:
        gates = self.gates or _gates(*map(_target, self.after or [self.statement]))
        return gates if self.gates or gates != "i, f, o, g" else ""

    def described(self) -> Change:
        before = text_of(self.statement).splitlines()[0]
        words = {name: text_of(node) for name, node in self.bound.items()}
        words |= {"old": text_of(self.old) if self.old else before}
        words |= {
            "new": text_of(new) if isinstance(new := self.slots[0].new, ast.AST) else "",
            "target": self.target or _target(self.statement),
        }
        with _applied([self]):
            replaced = [s.new for s in self.slots if isinstance(s.new, ast.stmt)]
            after = "; ".join(map(_plain, self.after or replaced or [self.statement]))
        kind = self.kind
        if kind == "term missing":
            kind = kind_of_term(words.get("_b") or words.get("_a") or words["old"], kind)
        detail = self.detail.format_map(words)
        target = words["target"]
        return Change(self.rank, kind, self._gate, target, before, after, detail)


def localise(
    module: ModuleType,
    function: str,
    run: Callable[[Callable[..., Any]], Sequence[Any]],
    results: Sequence[Any],
    *,
    given: Mapping[str, Any] | None = None,
    gates: bool = False,
    budget: int = BUDGET,
) -> Localisation | None:
    """Find changes to a reference function that make it compute a student's results.

    module, function : of reference/; a method as "Class.method"
    run : calls a mutant on read-only arrays; returns its results in the order of `results`
    results : the student's
    given : names that replace those of the function's module
    gates : compare the quarters of the last axis separately
    budget : maximum number of mutants
    """
    tree = parsed(module, function)
    edits = sorted(mutants(tree, function), key=lambda edit: edit.prior)
    if any(np.isnan(np.asarray(value, dtype=float)).all() for value in results):
        edits = [edit for edit in edits if not edit.rank]  # many unlikely mutants give all NaN
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        scope = {**SCOPE, **vars(module), "range": _range, **(given or {})}
        search = _Search(tree, run, _Blocks(results, gates), scope, budget)
        trail, complete = search.best(edits)
        if not trail:
            return None
        changes = [edit.described() for edit in trail]
        return Localisation(changes, complete, search.function(trail))


class _Search:
    """A search for edits that explain results."""

    def __init__(
        self,
        tree: ast.FunctionDef,
        run: Callable[..., Any],
        blocks: "_Blocks",
        scope: Mapping[str, Any],
        budget: int,
    ) -> None:
        self.tree = tree
        self.run = run
        self.blocks = blocks
        self.scope = scope
        self.budget = budget

    def equal(self, trail: Iterable[Edit]) -> np.ndarray | None:
        """The blocks in which a mutant's results equal the student's; None if the mutant fails."""
        self.budget -= 1
        try:
            return self.blocks.equal(list(self.run(self.function(trail))))
        except Exception:  # a mutant may raise anything
            return None

    def function(self, trail: Iterable[Edit]) -> Callable[..., Any]:
        """The mutant with these edits."""
        namespace = dict(self.scope)
        with _applied(trail):
            code = compile(ast.Module([self.tree], type_ignores=[]), "<mutant>", "exec")
        exec(code, namespace)  # noqa: S102 - code of this package
        mutant: Callable[..., Any] = namespace[self.tree.name]
        return mutant

    def best(self, edits: Sequence[Edit]) -> tuple[list[Edit], bool]:
        """The likeliest edits that explain the most blocks, and True if they explain all."""
        right = self.equal([])
        assert right is not None, "the reference function fails"
        level = int(right.sum())
        partial = []
        for edit in edits:
            if self.budget <= 0:
                break
            if (equal := self.equal([edit])) is None:
                continue
            if equal.all():
                return [edit], True
            if equal.sum() > level:
                partial.append(([edit], equal))
        explanations = self._with_combination(right, partial)
        return (explanations[0][0], bool(explanations[0][1].all())) if explanations else ([], False)

    def _with_combination(
        self, right: np.ndarray, partial: list[tuple[list[Edit], np.ndarray]]
    ) -> list[tuple[list[Edit], np.ndarray]]:
        """Partial explanations, best first, after their combination if it explains more."""
        partial = sorted(partial, key=_order)
        trail: list[Edit] = []
        got = right
        for edits, equal in partial:
            if (equal & ~got).any() and not (right & ~equal).any():
                trail = [*trail, *edits]
                got = got | equal
        if len(trail) > 1:
            combined = self.equal(trail)
            if combined is not None and all(combined.sum() > equal.sum() for _, equal in partial):
                return [(trail, combined), *partial]
        return partial


def _order(explanation: tuple[list[Edit], np.ndarray]) -> tuple[int, int]:
    """Sort key of explanations: those of the most blocks first, then the likeliest."""
    edits, equal = explanation
    return -int(equal.sum()), sum(edit.prior for edit in edits)


@contextmanager
def _applied(trail: Iterable[Edit]) -> Iterator[None]:
    """Apply edits to their tree, and undo them at the end of the block."""
    originals = []
    try:
        for edit in trail:
            originals += [(slot, slot.exchange(slot.new)) for slot in edit.slots]
        yield
    finally:
        for slot, node in reversed(originals):
            slot.exchange(node)


class _Blocks:
    """A student's results, divided into blocks that are compared separately."""

    def __init__(self, results: Sequence[Any], gates: bool) -> None:
        student = [np.asarray(value, dtype=float) for value in results]
        self.shapes = [value.shape for value in student]
        self.cuts = [
            4 if gates and shape and shape[-1] and shape[-1] % 4 == 0 else 1
            for shape in self.shapes
        ]
        sizes: list[int] = []
        for value, cuts in zip(student, self.cuts, strict=True):
            sizes += [value.size // cuts] * cuts
        self.starts = np.cumsum([0, *sizes[:-1]])
        self.results = np.repeat(np.arange(len(student)), self.cuts)  # result of each block
        self.student = self._flat(student)
        self.scale = self._sizes(np.nan_to_num(np.abs(self.student)))

    def _flat(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """All values in a row, ordered by block."""
        pieces = [
            np.moveaxis(value.reshape(*value.shape[:-1], cuts, -1), -2, 0) if cuts > 1 else value
            for value, cuts in zip(values, self.cuts, strict=True)
        ]
        return np.concatenate([piece.ravel() for piece in pieces])

    def equal(self, outputs: Sequence[Any]) -> np.ndarray | None:
        """Mask of the blocks that agree; None for results of other shapes or types."""
        if [np.shape(value) for value in outputs] != self.shapes or not all(
            isinstance(value, np.ndarray | np.generic | float | int) for value in outputs
        ):
            return None
        ours = self._flat([np.asarray(value, dtype=float) for value in outputs])
        size = np.abs(ours)
        difference = np.abs(ours - self.student)
        missing = np.isnan(ours)
        if missing.any():
            size[missing] = 0
            difference[missing & np.isnan(self.student)] = 0
        # The smaller scale: with a mutant's huge values, any student's values would be equal
        scale = np.minimum(self._sizes(size), self.scale)
        scale[scale == 0] = 1
        return np.maximum.reduceat(difference, self.starts) <= TOLERANCE * scale[self.results]

    def _sizes(self, values: np.ndarray) -> np.ndarray:
        """The largest value of each result."""
        largest = np.zeros(len(self.shapes))
        np.maximum.at(largest, self.results, np.maximum.reduceat(values, self.starts))
        return largest


def _range(*bounds: int) -> range:
    """`range` for mutants, which refuses long loops."""
    if len(steps := range(*bounds)) > MAX_STEPS:
        raise ValueError(f"a loop of {len(steps)} steps")
    return steps


def parsed(module: ModuleType, name: str) -> ast.FunctionDef:
    """The tree of a function, or of a method as "Class.method", without its docstring."""
    function: Any = module
    for attribute in name.split("."):
        function = getattr(function, attribute)
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(tree, ast.FunctionDef)
    if isinstance(tree.body[0], ast.Expr):
        del tree.body[0]
    return tree


# Edits: those of the rules, and those that concern several names, which no pattern can match


def mutants(tree: ast.FunctionDef, function: str) -> Iterator[Edit]:
    """Every edit of a function."""
    for edit in _edits(tree, function):
        for slot in edit.slots:
            for node in slot.new if isinstance(slot.new, list) else [slot.new]:
                ast.fix_missing_locations(node)
        yield edit


def _edits(tree: ast.FunctionDef, function: str) -> Iterator[Edit]:
    arguments = [argument.arg for argument in tree.args.args]
    stored = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    names = sorted({*arguments, *stored})
    statements = list(_statements(tree.body, False))
    for a, b in combinations([name for name in arguments if name != "self"], 2):
        swap = ast.parse(f"{a}, {b} = {b}, {a}").body
        first = ast.If(ast.Constant(True), [*swap, tree.body[0]], [])
        detail = f"`{a}` and `{b}` are swapped"
        slots = [Slot(tree.body, 0, first)]
        yield Edit(3, "arguments swapped", detail, tree.body[0], slots)
    rules = [rule for rule in all_rules() if rule.concerns(function)]
    rules.sort(key=lambda rule: rule.rank)
    for block, number, in_loop in statements:
        yield from _statement_edits(block, number, in_loop)
        yield from _by_rules(block, number, in_loop, rules, names)
    for rule in rules:
        if len(rule.places) > 1 and (edit := _in_several_places(rule, statements)):
            yield edit


def _by_rules(
    block: list[Any], number: int, in_loop: bool, rules: Sequence[Rule], names: Sequence[str]
) -> Iterator[Edit]:
    """Edits of one place by rules, and by exchanging names."""
    statement = block[number]
    seen = set()
    for parent, key, node, contexts in _slots(block, number, in_loop, names):
        for rule in rules:
            bound: Bound = {}
            (pattern, instead), *more = rule.places
            if more or rule.context not in contexts or not match(pattern, node, bound):
                continue
            new = filled(instead, bound, node)
            if isinstance(getattr(node, "ctx", None), ast.Store) and not hasattr(new, "ctx"):
                continue
            if (place := (id(parent), key, text_of(new))) in seen:
                continue
            seen.add(place)
            slots = [Slot(parent, key, new)]
            yield Edit(rule.rank, rule.kind, rule.detail, statement, slots, "", bound, node, rule)
        if "name" in contexts:
            for name in names:
                if name != node.id:
                    rank, kind = _kind_of_exchange({name, node.id})
                    new = ast.Name(name, ast.Load())
                    # A line that computes a gate makes that gate wrong, whichever it names
                    names_gates = kind == "wrong gate" and not _gates(_target(statement))
                    gates = _gates(name, node.id) if names_gates else ""
                    detail = "`{new}` is used instead of `{old}`"
                    slots = [Slot(parent, key, new)]
                    yield Edit(rank, kind, detail, statement, slots, gates, old=node)


def _in_several_places(rule: Rule, statements: Sequence[tuple[Any, int, bool]]) -> Edit | None:
    """The edit of a rule with several patterns, each at its first match."""
    bound: Bound = {}
    places = []
    for pattern, instead in rule.places:
        matches = (
            (tried, block[number], parent, key, node)
            for block, number, in_loop in statements
            for parent, key, node, _ in _slots(block, number, in_loop, ())
            if match(pattern, node, tried := dict(bound))
        )
        if (first := next(matches, None)) is None:
            return None
        bound = first[0]
        places.append((*first[1:], instead))
    slots = [Slot(up, key, filled(instead, bound, node)) for _, up, key, node, instead in places]
    edit = Edit(rule.rank, rule.kind, rule.detail, places[0][0], slots, bound=bound, rule=rule)
    new_statements = [slot.new if isinstance(slot.new, ast.stmt) else None for slot in slots]
    after = [new or place[0] for new, place in zip(new_statements, places, strict=True)]
    return edit._replace(after=after)


def _statements(block: list[ast.stmt], in_loop: bool) -> Iterator[tuple[list[Any], int, bool]]:
    for number, statement in enumerate(block):
        yield block, number, in_loop
        for inner in ("body", "orelse"):
            if isinstance(statement, ast.For | ast.If):
                loop = in_loop or isinstance(statement, ast.For)
                yield from _statements(getattr(statement, inner), loop)


def _slots(
    block: list[Any], number: int, in_loop: bool, names: Sequence[str]
) -> Iterator[tuple[Any, Any, Any, set[str]]]:
    """A statement and its expressions, outer ones first; for a loop or if only its head.

    Each comes with its contexts: "value" of an assignment, "result" of a function, "argument" of a
    call, "test" of an if; "name" if it is a name that may be exchanged.
    """
    statement = block[number]
    yield block, number, statement, {""}
    if isinstance(statement, ast.For | ast.If):
        field = "iter" if isinstance(statement, ast.For) else "test"
        root = getattr(statement, field)
        yield statement, field, root, {"", "test"}
        roots = [root]
    else:
        roots = [statement]
    for root in roots:
        for parent in ast.walk(root):
            for field, value in ast.iter_fields(parent):
                entries = enumerate(value) if isinstance(value, list) else [(field, value)]
                for key, node in entries:
                    stored = isinstance(getattr(node, "ctx", None), ast.Store)
                    if not isinstance(node, ast.expr) or (
                        stored and not isinstance(node, ast.Subscript)
                    ):
                        continue
                    contexts = {""}
                    returned = isinstance(statement, ast.Return) and (
                        parent is statement.value or isinstance(parent, ast.Return)
                    )
                    if isinstance(parent, ast.Assign) and not (
                        in_loop or isinstance(node, ast.Tuple | ast.List | ast.Dict)
                    ):
                        contexts.add("value")
                    if returned and not isinstance(node, ast.Tuple):
                        contexts.add("result")
                    written = isinstance(getattr(parent, "ctx", None), ast.Store) or (
                        isinstance(parent, ast.Call) and text_of(parent.func) == "np.add.at"
                    )
                    if isinstance(node, ast.Name) and node.id in names and not written:
                        contexts.add("name")
                        if isinstance(parent, ast.Call) and text_of(parent.func) != "range":
                            contexts.add("argument")
                    yield (value if isinstance(value, list) else parent), key, node, contexts


def _statement_edits(block: list[Any], number: int, in_loop: bool) -> Iterator[Edit]:
    """Edits that leave out a statement, move it, or swap its names."""
    statement = block[number]

    def edit(new: ast.stmt, rank: int, kind: str, detail: str, gates: str = "") -> Edit:
        return Edit(rank, kind, detail, statement, [Slot(block, number, new)], gates)

    if isinstance(statement, ast.AugAssign):
        yield edit(ast.Pass(), 3, "term missing", "`{old}` is left out")
        kind = "not added up over steps" if in_loop else "overwritten, not added"
        new = ast.Assign([statement.target], statement.value, lineno=0)
        yield edit(new, 1, kind, "your `{target}` is overwritten, not added to")
    if number + 1 < len(block) and not isinstance(block[number + 1], ast.Return):
        after = block[number + 1]
        slots = [Slot(block, number, after), Slot(block, number + 1, statement)]
        detail = "`{old}` comes too late: it has to precede the next statement"
        yield Edit(2, "statements in the wrong order", detail, statement, slots)
    if isinstance(statement, ast.Return) and isinstance(statement.value, ast.Tuple):
        for entries, a, b in _pairs(statement.value.elts):
            new_return = ast.Return(ast.Tuple(entries, ast.Load()))
            detail = f"`{a}` and `{b}` are returned in the wrong order"
            yield edit(new_return, 3, "results swapped", detail)
    if isinstance(value := getattr(statement, "value", None), ast.Call) and (
        gates := [arg for arg in value.args if isinstance(arg, ast.Tuple) and len(arg.elts) == 4]
    ):
        for order, rank, detail in _orders():
            stacked = ast.Tuple([gates[0].elts[k] for k in order], ast.Load())
            slots = [Slot(value.args, value.args.index(gates[0]), stacked)]
            yield Edit(rank, "gates swapped", detail, statement, slots, _moved(order))
    for call in ast.walk(statement) if isinstance(statement, ast.Assign) else ():
        if isinstance(call, ast.Call) and not call.keywords:
            for entries, a, b in _pairs(call.args):
                detail = f"`{a}` and `{b}` are passed in the wrong order"
                yield Edit(3, "arguments swapped", detail, statement, [Slot(call, "args", entries)])
    if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Tuple):
        return
    targets = statement.targets[0]
    value = statement.value
    is_cache = text_of(value) == "cache"

    def unpacked(elements: list[ast.expr]) -> ast.Assign:
        return ast.Assign([ast.Tuple(elements, ast.Store())], value, lineno=0)

    if _gates(_target(statement)) and len(targets.elts) == 4:
        for order, rank, detail in _orders():
            new = unpacked([targets.elts[k] for k in order])
            yield edit(new, rank, "gates swapped", detail, _moved(order))
        return
    if isinstance(value, ast.Call) or is_cache:
        for entries, a, b in _pairs(targets.elts):
            detail = f"`{a}` and `{b}` are unpacked in the wrong order"
            kind = "cache mixed up" if is_cache else "results swapped"
            yield edit(unpacked(entries), 4 if is_cache else 2, kind, detail)
    for state in targets.elts:
        if in_loop and isinstance(state, ast.Name) and state.id != "_":
            new = unpacked([ast.Name("_", ast.Store()) if t is state else t for t in targets.elts])
            kind = kind_of_term(state.id, "state not carried")
            detail = f"`{state.id}` is not carried from step to step"
            yield edit(new, 1, kind, detail)._replace(target=state.id)
    if is_cache:
        for name, other in permutations([text_of(target) for target in targets.elts], 2):
            copied = ast.parse(f"{name} = {other}").body
            combined = ast.If(ast.Constant(True), [statement, *copied], [])
            detail = f"your cache holds `{other}` instead of `{name}`"
            yield edit(combined, 5, "cache mixed up", detail)


def _pairs(entries: Sequence[ast.expr]) -> Iterator[tuple[list[ast.expr], str, str]]:
    """Entries with two of them swapped, and the texts of the two."""
    for a, b in combinations(range(len(entries)), 2):
        swapped = list(entries)
        swapped[a] = entries[b]
        swapped[b] = entries[a]
        yield swapped, text_of(entries[a]), text_of(entries[b])


def _orders() -> Iterator[tuple[tuple[int, ...], int, str]]:
    """Wrong orders of the gates, each with a rank and a description."""
    for order in permutations(range(4)):
        if moved := _moved(order):
            stacked = ", ".join("ifog"[k] for k in order)
            detail = f"your gates are stacked {stacked}; their order is i, f, o, g"
            yield order, 1 if len(moved) == len("i, f") else 2, detail


def _moved(order: Sequence[int]) -> str:
    return ", ".join(gate for gate, k in zip("ifog", order, strict=True) if "ifog"[k] != gate)


def _kind_of_exchange(pair: set[str]) -> tuple[int, str]:
    if all(GATE.match(name) for name in pair):
        return 2, "wrong gate"
    if pair == {"state", "h0"}:
        return 2, "state not carried"
    if pair == {"captions_in", "captions_out"} or "captions" in pair:
        return 2, "captions off by one"
    return 4, "wrong variable"


def _target(statement: ast.stmt) -> str:
    if isinstance(statement, ast.Assign):
        return text_of(statement.targets[0]).strip("()")
    if isinstance(statement, ast.AugAssign):
        return text_of(statement.target)
    return "the results" if isinstance(statement, ast.Return) else ""


def _gates(*texts: str) -> str:
    """Gates to which variables belong, in the order i, f, o, g."""
    words = [word for text in texts for word in re.findall(r"\w+", text)]
    gates = {match[1] for word in words if (match := GATE.match(word))}
    return ", ".join(gate for gate in "ifog" if gate in gates)


def _plain(statement: ast.AST) -> str:
    """A statement on a line; several that replace a statement are joined by semicolons."""
    if isinstance(statement, ast.If) and isinstance(statement.test, ast.Constant):
        return "; ".join(_plain(inner) for inner in statement.body)
    return text_of(statement).splitlines()[0]
