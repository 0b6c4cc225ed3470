"""Fault localisation: changes to a reference function that make it compute a student's results.

The functions of reference/ have one line an equation. `localise` changes one expression at a time,
drops a factor, a term or a transpose, exchanges a variable and so on, runs the changed function, a
mutant, and looks for the one whose results are the student's. That mutant says which line is wrong
and how. Where one change explains a part of the results, further changes are tried on top of it.

Mutation analysis (DeMillo, Lipton and Sayward 1978) judges tests by mutants; here a mutant names
the mistake.
"""

import ast
import copy
import inspect
import re
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, permutations
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

TOLERANCE = 1e-5  # relative, since some students compute in float32 throughout
SECONDS = 4.0  # that a search may take
UNLIKELY = 4  # rank from which changes are tried only where no likelier one explains
WIDTH, DEPTH = 6, 3  # partial explanations that are followed, and changes on top of each other

# Kinds by what a change takes away, or exchanges, in the order of looking
TERMS = [
    (r"\bdnext_c\b|\bdcell\b", "dc not carried"),
    (r"\bdnext_h\b|\bdstate\b|\bdh\b", "dh not added"),
    (r"^b$|\['b(_\w+)?'\]$", "bias missing"),
    (r"\bcounts\b|\bmask\b", "mask ignored"),
    (r"\bprev_c\b|\bcell\b|^c$", "state not carried"),
    (r"\bprev_h\b|\bstate\b|^h$", "state not carried"),
]
GATE = re.compile(r"^(?:da_|a_|d)?([ifog])$")
ACTIVATIONS = {"sigmoid": "sigmoid", "np.tanh": "tanh"}

Special = tuple[str, str, str, str]  # statement, what stands in its place, kind, detail


class Change(NamedTuple):
    """One change of a reference function.

    Attributes
    ----------
    rank : how unlikely it is as a mistake; of several that explain results the lowest is named
    kind : kind of mistake
    gate : gates concerned, such as "f" or "f, o"; "" for none
    target : variable that the changed statement computes
    statement, instead : the statement before and after the change
    detail : what is missing, exchanged or added
    """

    rank: int
    kind: str
    gate: str
    target: str
    statement: str
    instead: str
    detail: str


class Localisation(NamedTuple):
    """Changes that together explain a student's results; `whole` if they explain all of them."""

    changes: list[Change]
    whole: bool


def localise(
    module: ModuleType,
    function: str,
    run: Callable[[Callable[..., Any]], Sequence[Any]],
    results: Sequence[Any],
    *,
    given: Mapping[str, Any] | None = None,
    gates: bool = False,
    special: Sequence[Special] = (),
) -> Localisation | None:
    """Find changes to a reference function that make it compute a student's results.

    Parameters
    ----------
    module, function : of reference/; a method as "Class.method"
    run : call a mutant; its results, in the order of `results`
    results : of the student
    given : names that the function finds in place of those of its module
    gates : compare each quarter of a last axis by itself
    special : further changes
    """
    student = [np.asarray(value, dtype=float) for value in results]
    scope = {**vars(module), **(given or {})}
    tree = _parsed(module, function)
    deadline = time.monotonic() + SECONDS
    level, _ = _agreement(_outputs(run, tree, scope), student, gates)
    starts: list[tuple[list[Change], ast.FunctionDef]] = [([], tree)]
    best = None
    for depth in range(DEPTH):
        found: list[tuple[bool, int, int, list[Change], ast.FunctionDef]] = []
        for likely in (True, False):
            for changes, start in starts:
                for change in _changed(start, special):
                    if (change.rank < UNLIKELY) != likely:
                        continue
                    if time.monotonic() > deadline:
                        break
                    agreed, whole = _agreement(_outputs(run, start, scope), student, gates)
                    if whole or agreed > level:
                        trail = [*changes, change]
                        rank = sum(2 * one.rank + (not one.gate) for one in trail)
                        found.append((not whole, -agreed, rank, trail, copy.deepcopy(start)))
            if any(not partial for partial, *_ in found) or depth:
                break
        if not found:
            break
        found.sort(key=lambda entry: entry[:3])
        partial, agreed, _, trail, _ = found[0]
        best = Localisation(trail, not partial)
        if not partial or depth == DEPTH - 1:
            break
        level, starts = -agreed, [(trail, tree) for *_, trail, tree in found[:WIDTH]]
    return best


def _agreement(
    outputs: Sequence[np.ndarray] | None, student: Sequence[np.ndarray], gates: bool
) -> tuple[int, bool]:
    """The number of equal blocks of the results, and True if all are equal."""
    if outputs is None or len(outputs) != len(student):
        return -1, False
    equal, blocks = 0, 0
    for ours, theirs in zip(outputs, student, strict=True):
        if ours.shape != theirs.shape:
            return -1, False
        missing = np.isnan(ours) & np.isnan(theirs)
        scale = float(np.abs(np.where(missing, 0, ours)).max(initial=0.0)) or 1.0
        if not np.isfinite(scale):
            return -1, False
        cuts = 4 if gates and ours.ndim and ours.shape[-1] % 4 == 0 else 1
        difference = np.where(missing, 0, np.abs(ours - theirs))
        for part in np.split(difference, cuts, axis=-1) if cuts > 1 else [difference]:
            blocks += 1
            equal += bool(part.max(initial=0.0) <= TOLERANCE * scale)
    return equal, equal == blocks


def _outputs(
    run: Callable[..., Any], tree: ast.FunctionDef, scope: Mapping[str, Any]
) -> list[np.ndarray] | None:
    """Results of a function, None where it fails, as most nonsense does."""
    namespace = dict(scope)
    try:
        code = compile(
            ast.fix_missing_locations(ast.Module([tree], type_ignores=[])), "<mutant>", "exec"
        )
        exec(code, namespace)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            results = list(run(namespace[tree.name]))
            numbers = all(isinstance(one, np.ndarray | np.generic | float | int) for one in results)
            return [np.asarray(one, dtype=float) for one in results] if numbers else None
    except Exception:  # a mutant may raise anything
        return None


def _parsed(module: ModuleType, name: str) -> ast.FunctionDef:
    thing: Any = module
    for part in name.split("."):
        thing = getattr(thing, part)
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(thing))).body
    assert isinstance(tree, ast.FunctionDef)
    if isinstance(tree.body[0], ast.Expr):
        del tree.body[0]  # the docstring
    return tree


# How a tree is changed: each generator changes it in place, yields, and restores it


def _changed(tree: ast.FunctionDef, special: Sequence[Special]) -> Iterator[Change]:
    """Every change of a function; the tree has it until the next one is asked for."""
    arguments = [argument.arg for argument in tree.args.args]
    stored = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    names = sorted({*arguments, *stored})
    samples = next((name for name in arguments if name != "self"), "self")  # has N rows
    for block, number, in_loop in list(_statements(tree.body, False)):
        statement = block[number]
        target, before = _target(statement), _first_line(statement)
        for text, instead, kind, detail in special:
            if text == before:
                lines = ast.parse(instead).body
                block[number : number + 1] = lines
                yield Change(0, kind, _gates(target), target, before, instead, detail)
                block[number : number + len(lines)] = [statement]
        for other, rank, kind, detail in _other_statements(statement, in_loop, samples):
            block[number] = other
            gate = _gates_of(kind, target, detail)
            yield Change(rank, kind, gate, target, before, _first_line(other), detail)
            block[number] = statement
        for parent, field, index, node in list(_slots(statement)):
            for new, rank, kind, detail in _other_expressions(node, parent, names):
                _put(parent, field, index, new)
                gate = _gates_of(kind, target, detail)
                yield Change(rank, kind, gate, target, before, _first_line(statement), detail)
                _put(parent, field, index, node)


def _put(parent: ast.AST, field: str, index: int | None, node: ast.expr) -> None:
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def _first_line(statement: ast.stmt) -> str:
    return ast.unparse(statement).splitlines()[0]


def _gates_of(kind: str, target: str, detail: str) -> str:
    """Gates of a change: those that it exchanges, else that of the variable that it computes."""
    exchanged = re.findall(r"`([^`]*)`", detail) if kind == "gates swapped" else []
    return _gates("", *exchanged) or _gates(target)


def _statements(block: list[ast.stmt], in_loop: bool) -> Iterator[tuple[list[Any], int, bool]]:
    for number, statement in enumerate(block):
        yield block, number, in_loop
        for inner in ("body", "orelse"):
            if isinstance(statement, ast.For | ast.If):
                loop = in_loop or isinstance(statement, ast.For)
                yield from _statements(getattr(statement, inner), loop)


def _slots(statement: ast.stmt) -> Iterator[tuple[ast.AST, str, int | None, ast.expr]]:
    """Every expression of a statement, outer ones first, and of a loop only what it runs over."""
    if isinstance(statement, ast.For):
        yield statement, "iter", None, statement.iter
        roots: list[ast.AST] = [statement.iter]
    elif isinstance(statement, ast.If):
        yield statement, "test", None, statement.test
        roots = [statement.test]
    else:
        roots = [statement]
    for root in roots:
        for parent in ast.walk(root):
            for field, value in ast.iter_fields(parent):
                entries = enumerate(value) if isinstance(value, list) else [(None, value)]
                for index, node in entries:
                    stored = isinstance(getattr(node, "ctx", None), ast.Store)
                    if isinstance(node, ast.Subscript) or (
                        isinstance(node, ast.expr) and not stored
                    ):
                        yield parent, field, index, node


def _target(statement: ast.stmt) -> str:
    if isinstance(statement, ast.Assign):
        return ast.unparse(statement.targets[0]).strip("()")
    if isinstance(statement, ast.AugAssign):
        return ast.unparse(statement.target)
    return "the results" if isinstance(statement, ast.Return) else ""


def _gates(target: str, *others: str) -> str:
    """Gates that variables belong to, in their order."""
    words = [word for text in (target, *others) for word in re.findall(r"\w+", text)]
    found = {match[1] for word in words if (match := GATE.match(word))}
    return ", ".join(gate for gate in "ifog" if gate in found)


def _other_statements(
    statement: ast.stmt, in_loop: bool, first: str
) -> Iterator[tuple[ast.stmt, int, str, str]]:
    """Statements that might stand in the place of one, with rank, kind and detail."""
    if isinstance(statement, ast.AugAssign):
        yield ast.Pass(), 3, "term missing", f"`{ast.unparse(statement)}` is left out"
        target = ast.unparse(statement.target)
        yield (
            ast.Assign([statement.target], statement.value, lineno=0),
            1,
            "not added up over steps" if in_loop else "overwritten, not added",
            f"`{target}` is overwritten, not added to",
        )
    if isinstance(statement, ast.Assign):
        value, target = statement.value, _target(statement)
        if not isinstance(value, ast.Tuple | ast.List | ast.Dict) and not in_loop:
            for text, rank, kind, detail in (
                (f"-({ast.unparse(value)})", 2, "sign", f"`{target}` has the wrong sign"),
                (
                    f"({ast.unparse(value)}) / len({first})",
                    2,
                    "mean for a sum",
                    f"`{target}` is divided by the number of samples",
                ),
                (f"({ast.unparse(value)}) * 0", 4, "term missing", f"`{target}` stays zero"),
            ):
                new = ast.Assign(statement.targets, ast.parse(text, mode="eval").body, lineno=0)
                yield new, rank, kind, detail
        for targets in statement.targets:
            if not isinstance(targets, ast.Tuple):
                continue
            if ast.unparse(value) == "cache":
                yield from _mixed_up(statement, [ast.unparse(entry) for entry in targets.elts])
            for kept in targets.elts:
                text = ast.unparse(kept)
                if in_loop and isinstance(kept, ast.Name):
                    new_targets = [
                        ast.Name("_unused", ast.Store()) if entry is kept else entry
                        for entry in targets.elts
                    ]
                    new = ast.Assign([ast.Tuple(new_targets, ast.Store())], value, lineno=0)
                    kind = _kind_of_term(text, "state not carried")
                    yield new, 1, kind, f"`{text}` is not carried from step to step"
            if _gates(_target(statement)) and len(targets.elts) == 4:
                for order in _orders():
                    new_targets = [targets.elts[k] for k in order]
                    new = ast.Assign([ast.Tuple(new_targets, ast.Store())], value, lineno=0)
                    yield new, *_order_of_gates(order)
    if isinstance(statement, ast.Return) and isinstance(statement.value, ast.Tuple):
        entries = statement.value.elts
        for a, b in combinations(range(len(entries)), 2):
            new_entries = list(entries)
            new_entries[a], new_entries[b] = entries[b], entries[a]
            names = f"`{ast.unparse(entries[a])}` and `{ast.unparse(entries[b])}`"
            new_return = ast.Return(ast.Tuple(new_entries, ast.Load()))
            yield new_return, 3, "results swapped", f"{names} are returned in each other's place"


def _mixed_up(
    statement: ast.Assign, names: Sequence[str]
) -> Iterator[tuple[ast.stmt, int, str, str]]:
    """Caches that hold one thing in the place of another."""
    for name in names:
        for other in names:
            if name != other:
                copied = ast.parse(f"{name} = {other}").body
                new = ast.If(ast.Constant(True), [statement, *copied], [])
                detail = f"the cache holds `{other}` where `{name}` belongs"
                yield new, 5, "cache mixed up", detail


def _orders() -> list[tuple[int, ...]]:
    return [order for order in permutations(range(4)) if order != (0, 1, 2, 3)]


def _order_of_gates(order: tuple[int, ...]) -> tuple[int, str, str]:
    moved = "`, `".join(gate for gate, k in zip("ifog", order, strict=True) if "ifog"[k] != gate)
    stacked = ", ".join("ifog"[k] for k in order)
    rank = 1 if len(moved) == len("i`, `f") else 2
    return rank, "gates swapped", f"`{moved}` change places: the gates are stacked {stacked}"


def _kind_of_term(text: str, otherwise: str) -> str:
    return next((kind for pattern, kind in TERMS if re.search(pattern, text)), otherwise)


def _slope(node: ast.AST) -> tuple[str, str] | None:
    """The function that a factor is the slope of, and its value: s * (1 - s), or 1 - s**2."""
    text = ast.unparse(node)
    if match := re.fullmatch(r"(\w+) \* \(1 - \1\)", text):
        return "sigmoid", match[1]
    if match := re.fullmatch(r"1 - (\w+) \*\* 2", text):
        return "tanh", match[1]
    return None


def _other_expressions(
    node: ast.expr, parent: ast.AST, names: Sequence[str]
) -> Iterator[tuple[ast.expr, int, str, str]]:
    """Expressions that might stand in the place of one, with rank, kind and detail."""
    text = ast.unparse(node)

    def parsed(code: str) -> ast.expr:
        return ast.parse(code, mode="eval").body

    if slope := _slope(node):
        function, value = slope
        other = f"1 - {value} ** 2" if function == "sigmoid" else f"{value} * (1 - {value})"
        swapped = "tanh" if function == "sigmoid" else "sigmoid"
        kind = f"derivative of {swapped} instead of {function}"
        yield parsed(other), 1, kind, f"`{other}` stands where `{text}` belongs"
        call = "sigmoid" if function == "sigmoid" else "np.tanh"
        again = text.replace(value, f"{call}({value})")
        detail = (
            f"`{value}` has been through the {function} already; the derivative takes it as it is"
        )
        yield parsed(again), 1, f"derivative of {function} wrong", detail
        for wrong in (f"1 - {value}", value, f"1 + {value} ** 2", f"{value} ** 2 - 1"):
            detail = f"`{wrong}` stands where `{text}` belongs"
            rank = 4 if wrong.endswith("- 1") else 2
            yield parsed(wrong), rank, f"derivative of {function} wrong", detail
    if isinstance(node, ast.BinOp):
        yield from _other_operations(node, parsed)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield node.operand, 2, "sign", f"the minus of `{text}` is missing"
    elif isinstance(node, ast.Attribute) and node.attr == "T":
        yield node.value, 1, *_transposed(ast.unparse(node.value), text)
    elif isinstance(node, ast.Call):
        yield from _other_calls(node, text, parsed)
    elif isinstance(node, ast.Subscript):
        if isinstance(node.slice, ast.Constant) and isinstance(parent, ast.Call):
            kind = _kind_of_term(text, "term missing")
            yield parsed(f"np.zeros_like({text})"), 2, kind, f"zeros stand where `{text}` belongs"
        for code in _other_subscripts(node):
            slices = re.search(r"\[:, (1:|:-1)\]", text) is not None
            kind = "captions off by one" if slices else "wrong time step"
            subscript = parsed(code)
            assert isinstance(subscript, ast.Subscript)
            subscript.ctx = node.ctx
            yield subscript, 2, kind, f"`{code}` stands where `{text}` belongs"
    elif isinstance(node, ast.Compare) and isinstance(parent, ast.If):
        yield parsed("True"), 2, "condition missing", f"`{text}` is not asked"
    elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.NotEq):
        yield parsed(text.replace("!=", "==")), 2, "mask ignored", f"`{text}` is inverted"
        yield parsed(f"({text}) | True"), 1, "mask ignored", f"`{text}` is true everywhere"
    elif isinstance(node, ast.Name) and node.id in names and not isinstance(parent, ast.keyword):
        if isinstance(parent, ast.Call | ast.Return | ast.Tuple):
            returned = not isinstance(parent, ast.Call)
            kind = "left at zero" if returned else _kind_of_term(node.id, "term missing")
            yield (
                parsed(f"np.zeros_like({node.id})"),
                2,
                kind,
                f"zeros stand where `{text}` belongs",
            )
        if isinstance(parent, ast.BinOp) and isinstance(parent.op, ast.MatMult):
            yield parsed(f"{node.id}.T"), 2, *_transposed(f"{node.id}.T", node.id)
        for name in names:
            if name != node.id:
                rank, kind = _kind_of_exchange({name, node.id})
                yield parsed(name), rank, kind, f"`{name}` stands where `{node.id}` belongs"


def _kind_of_exchange(pair: set[str]) -> tuple[int, str]:
    if all(GATE.match(name) for name in pair):
        return 2, "gates swapped"
    if pair == {"state", "h0"}:
        return 2, "state not carried"
    if pair == {"captions_in", "captions_out"} or "captions" in pair:
        return 2, "captions off by one"
    return 4, "wrong variable"


def _transposed(instead: str, right: str) -> tuple[str, str]:
    kind = "transposed weight" if right.lower().startswith("w") else "transposed"
    return kind, f"`{instead}` stands where `{right}` belongs"


def _other_operations(
    node: ast.BinOp, parsed: Callable[[str], ast.expr]
) -> Iterator[tuple[ast.expr, int, str, str]]:
    text = ast.unparse(node)
    halves = ((node.left, node.right), (node.right, node.left))
    if isinstance(node.op, ast.Mult):
        for kept, dropped in halves:
            gone = ast.unparse(dropped)
            if slope := _slope(dropped):
                kind = f"missing derivative of {slope[0]}"
                yield (
                    kept,
                    1,
                    kind,
                    f"the factor `{gone}`, the derivative of the {slope[0]}, is missing",
                )
            else:
                kind = "mask ignored" if "counts" in gone else "factor missing"
                yield kept, 3, kind, f"the factor `{gone}` is missing"
    elif isinstance(node.op, ast.Add | ast.Sub):
        for kept, dropped in halves:
            gone = ast.unparse(dropped)
            kind = _kind_of_term(gone, "term missing")
            rank = 4 if isinstance(kept, ast.Constant) else 2
            yield kept, rank, kind, f"the term `{gone}` is missing"
            doubled = ast.BinOp(node, node.op, dropped)
            yield doubled, 3, "added twice", f"the term `{gone}` is there twice"
        other = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        yield ast.BinOp(node.left, other, node.right), 3, "sign", f"a sign in `{text}` is wrong"
    elif isinstance(node.op, ast.Div):
        gone = ast.unparse(node.right)
        kind = "sum for a mean" if gone in ("N", "len(x)") else "factor missing"
        yield node.left, 2, kind, f"the division by `{gone}` is missing"
        yield (
            ast.BinOp(node.left, ast.Mult(), node.right),
            5,
            "factor wrong",
            f"`{gone}` multiplies",
        )
    elif isinstance(node.op, ast.Pow):
        yield node.left, 3, "factor wrong", f"the square of `{ast.unparse(node.left)}` is missing"


def _other_calls(
    node: ast.Call, text: str, parsed: Callable[[str], ast.expr]
) -> Iterator[tuple[ast.expr, int, str, str]]:
    called = ast.unparse(node.func)
    if (axis := re.search(r"axis=([01])", text)) and called != "np.concatenate":
        other = text.replace(axis[0], f"axis={1 - int(axis[1])}")
        yield parsed(other), 2, "wrong axis", f"`{other}` stands where `{text}` belongs"
    if called in ACTIVATIONS:
        argument = ast.unparse(node.args[0])
        other = "np.tanh" if called == "sigmoid" else "sigmoid"
        wrong = f"{ACTIVATIONS[other]} stands where {ACTIVATIONS[called]} belongs"
        yield parsed(f"{other}({argument})"), 1, "wrong activation", f"{wrong}, in `{text}`"
        yield (
            node.args[0],
            1,
            "missing activation",
            f"the {ACTIVATIONS[called]} of `{argument}` is missing",
        )
    elif called == "np.sqrt":
        yield (
            node.args[0],
            1,
            "square root missing",
            f"the root of `{ast.unparse(node.args[0])}` is missing",
        )
    elif called.endswith(".sum"):
        of = called.removesuffix(".sum")
        yield parsed(text.replace(".sum", ".mean")), 1, "mean for a sum", f"`{text}` is a mean"
        for wrong in (f"{of}[0]", f"{of}[-1]"):
            kind = "sum over the batch missing"
            yield parsed(wrong), 2, kind, f"`{wrong}` stands where `{text}` belongs"
    elif called == "reversed":
        yield (
            node.args[0],
            1,
            "steps in the wrong order",
            "the loop runs from the first step to the last",
        )
    elif called == "range":
        for wrong in ("range(T - 1)", "range(1, T)"):
            yield parsed(wrong), 2, "step left out", f"the loop runs over `{wrong}`"
        yield parsed("reversed(range(T))"), 3, "steps in the wrong order", "the loop runs backwards"
    elif called == "np.concatenate" and isinstance(node.args[0], ast.Tuple):
        parts = [ast.unparse(part) for part in node.args[0].elts]
        for order in _orders():
            stacked = ", ".join(parts[k] for k in order)
            yield parsed(f"np.concatenate(({stacked}), axis=1)"), *_order_of_gates(order)


def _other_subscripts(node: ast.Subscript) -> Iterator[str]:
    of, index = ast.unparse(node.value), ast.unparse(node.slice)
    wrong = {
        "t": ("0", "-1", "t - 1"),
        ":, t": (":, t - 1", ":, 0", ":, -1"),
        ":, :-1": (":, 1:",),
        ":, 1:": (":, :-1",),
    }
    for instead in wrong.get(index.strip("()"), ()):
        yield f"{of}[{instead}]"
