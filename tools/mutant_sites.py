"""Sites of mutants: where an operator changes the package, and the pattern that finds the place.

An operator is a row of `OPERATORS`: a pattern of patterns.py and what replaces it. A site becomes a
pattern in a function: the smallest expression around the change that occurs once under that
function's name, with a hole for each parameter and local variable. So moving a function, formatting
it and renaming its variables leave the mutant in force. Sites inside messages, `raise` statements
and annotations are left out: their words change without changing what the code does.
"""

import ast
import copy
import functools
import random
import re
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import patterns

GRADING = "exercise", "verify"  # rooms of the package whose mutants are of that kind
KINDS = {"arithmetic": 60, "control flow": 50, "error paths": 40, "transfers": 20, "grading": 30}
LONGEST = 240  # characters of a pattern
PER_FUNCTION = 2
DELETES = re.compile(r"\b(rmtree|unlink|rmdir|remove)\(")  # a mutant might delete anything


class Operator(NamedTuple):
    kind: str
    name: str
    pattern: str
    instead: str


OPERATORS = [
    Operator("arithmetic", "plus to minus", "$x + $y", "$x - $y"),
    Operator("arithmetic", "minus to plus", "$x - $y", "$x + $y"),
    Operator("arithmetic", "operands of minus", "$x - $y", "$y - $x"),
    Operator("arithmetic", "times to over", "$x * $y", "$x / $y"),
    Operator("arithmetic", "factor dropped", "$x * $y", "$x"),
    Operator("arithmetic", "over to times", "$x / $y", "$x * $y"),
    Operator("arithmetic", "floor to ceiling", "$x // $y", "-(-$x // $y)"),
    Operator("arithmetic", "remainder to quotient", "$x % $y", "$x // $y"),
    Operator("arithmetic", "power to product", "$x ** $y", "$x * $y"),
    Operator("arithmetic", "sign dropped", "-$x", "$x"),
    Operator("arithmetic", "add to subtract", "$x += $y", "$x -= $y"),
    Operator("arithmetic", "add to assign", "$x += $y", "$x = $y"),
    Operator("arithmetic", "subtract to add", "$x -= $y", "$x += $y"),
    Operator("arithmetic", "scale to divide", "$x *= $y", "$x /= $y"),
    Operator("arithmetic", "divide to scale", "$x /= $y", "$x *= $y"),
    Operator("arithmetic", "min to max", "min", "max"),
    Operator("arithmetic", "max to min", "max", "min"),
    Operator("arithmetic", "min to max", "$x.min", "$x.max"),
    Operator("arithmetic", "max to min", "$x.max", "$x.min"),
    Operator("arithmetic", "minimum to maximum", "$x.minimum", "$x.maximum"),
    Operator("arithmetic", "maximum to minimum", "$x.maximum", "$x.minimum"),
    Operator("arithmetic", "argmax to argmin", "$x.argmax", "$x.argmin"),
    Operator("arithmetic", "mean to sum", "$x.mean", "$x.sum"),
    Operator("arithmetic", "sum to mean", "$x.sum", "$x.mean"),
    Operator("arithmetic", "add to subtract", "$x.add", "$x.subtract"),
    Operator("arithmetic", "multiply to divide", "$x.multiply", "$x.divide"),
    Operator("arithmetic", "zeros to ones", "$x.zeros", "$x.ones"),
    Operator("arithmetic", "zeros to ones", "$x.zeros_like", "$x.ones_like"),
    Operator("arithmetic", "root dropped", "$m.sqrt($x)", "$x"),
    Operator("arithmetic", "logarithm dropped", "$m.log($x)", "$x"),
    Operator("arithmetic", "absolute value dropped", "abs($x)", "$x"),
    Operator("arithmetic", "rounding dropped", "round($x)", "$x"),
    Operator("arithmetic", "first item left out", "range($n)", "range(1, $n)"),
    Operator("arithmetic", "last item left out", "range($a, $n)", "range($a, $n - 1)"),
    Operator("control flow", "below to at most", "$x < $y", "$x <= $y"),
    Operator("control flow", "at most to below", "$x <= $y", "$x < $y"),
    Operator("control flow", "above to at least", "$x > $y", "$x >= $y"),
    Operator("control flow", "at least to above", "$x >= $y", "$x > $y"),
    Operator("control flow", "equal to unequal", "$x == $y", "$x != $y"),
    Operator("control flow", "unequal to equal", "$x != $y", "$x == $y"),
    Operator("control flow", "is to is not", "$x is $y", "$x is not $y"),
    Operator("control flow", "is not to is", "$x is not $y", "$x is $y"),
    Operator("control flow", "in to not in", "$x in $y", "$x not in $y"),
    Operator("control flow", "not in to in", "$x not in $y", "$x in $y"),
    Operator("control flow", "and to or", "$x and $y", "$x or $y"),
    Operator("control flow", "or to and", "$x or $y", "$x and $y"),
    Operator("control flow", "second condition dropped", "$x and $y", "$x"),
    Operator("control flow", "first condition dropped", "$x and $y", "$y"),
    Operator("control flow", "alternative dropped", "$x or $y", "$x"),
    Operator("control flow", "not dropped", "not $x", "$x"),
    Operator("control flow", "branches exchanged", "$x if $c else $y", "$y if $c else $x"),
    Operator("control flow", "branch taken always", "$x if $c else $y", "$x"),
    Operator("control flow", "continue to break", "continue", "break"),
    Operator("control flow", "true to false", "True", "False"),
    Operator("control flow", "false to true", "False", "True"),
    Operator("control flow", "order kept", "reversed($x)", "$x"),
    Operator("control flow", "not sorted", "sorted($x)", "list($x)"),
    Operator("control flow", "all to any", "all", "any"),
    Operator("control flow", "any to all", "any", "all"),
    Operator("error paths", "only below", "$x != $y", "$x < $y"),
    Operator("error paths", "only above", "$x != $y", "$x > $y"),
    Operator("transfers", "copy dropped", "$x.copy()", "$x"),
    Operator("transfers", "copy dropped", "$m.array($x)", "$m.asarray($x)"),
    Operator("transfers", "copy dropped", "$m.array($x, $t)", "$m.asarray($x, $t)"),
    Operator("transfers", "left on the device", "to_numpy($x)", "$x"),
    Operator("transfers", "left where it is", "asarray($x)", "$x"),
    Operator("transfers", "left where it is", "as_array($x)", "$x"),
    Operator("transfers", "left as it is", "$m.asarray($x)", "$x"),
    Operator("transfers", "dtype not wanted", "$m.asarray($x, $t)", "$m.asarray($x)"),
    Operator("transfers", "layout kept", "$m.ascontiguousarray($x)", "$x"),
    Operator("transfers", "dtype kept", "$x.astype($t)", "$x"),
    Operator("transfers", "dtype kept", "$x.astype($t, copy=False)", "$x"),
    Operator("transfers", "not waited for", "$x.wait()", "None"),
    Operator("transfers", "single to double", "$m.float32", "$m.float64"),
    Operator("transfers", "double to single", "$m.float64", "$m.float32"),
    Operator("transfers", "long to short", "$m.int64", "$m.int32"),
    Operator("transfers", "short to long", "$m.int32", "$m.int64"),
    Operator("transfers", "device not seen", "is_device_array($x)", "False"),
]
# Of a refusal these fail any call, and any test finds them
NEGATIONS = {
    "equal to unequal",
    "unequal to equal",
    "not dropped",
    "is to is not",
    "is not to is",
    "in to not in",
    "not in to in",
    "condition negated",
}


class Mutant(NamedTuple):
    """Code that replaces the match of a pattern in a function of the package; see patterns.py."""

    kind: str
    operator: str
    file: str  # where the function was, from the package's folder
    function: str
    pattern: str
    instead: str

    @property
    def name(self) -> str:
        return re.sub(r"\W+", "-", f"{self.function} {self.operator}".replace("_", "-")).strip("-")


# ---- the package's functions


class Definition(NamedTuple):
    file: str
    name: str
    node: ast.FunctionDef | ast.ClassDef | ast.Assign


class Package:
    """Syntax trees of a package, and its definitions by name."""

    def __init__(self, root: Path) -> None:
        self.texts = {
            path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
            for path in sorted(root.rglob("*.py"))
        }
        self.definitions = [
            Definition(file, name, node)
            for file, text in self.texts.items()
            for name, node in patterns.definitions(ast.parse(text))
        ]
        self._by_last: dict[str, list[Definition]] = {}
        for one in self.definitions:
            self._by_last.setdefault(one.name.rpartition(".")[2], []).append(one)

    @functools.cached_property
    def sites(self) -> list["Site"]:
        return [site for one in self.definitions for site in sites(one)]

    def matches(self, function: str, pattern: str) -> list[tuple[str, ast.AST]]:
        """Each match of a pattern in functions of that name, with its file."""
        (shape,) = patterns.parsed(pattern)
        wanted = shape.value if isinstance(shape, ast.Expr) else shape
        kind, found = type(wanted), {}
        for one in self._by_last.get(function.rpartition(".")[2], ()):
            if f".{one.name}".endswith(f".{function}"):
                for node in ast.walk(one.node):
                    if type(node) is kind and patterns.matches(wanted, node, {}):
                        found[node] = one.file
        return [(file, node) for node, file in found.items()]


# ---- sites


class Site(NamedTuple):
    kind: str
    operator: str
    definition: Definition
    parents: list[ast.AST]  # from the function's statement down to the changed node
    instead: ast.AST


def sites(one: Definition) -> Iterator[Site]:
    """Every change of a function by one operator; inner functions have their own."""
    if isinstance(one.node, ast.FunctionDef) and not DELETES.search(ast.unparse(one.node)):
        for parents, refusal in _nodes(one.node, [], False):
            for operator, instead in _changes(parents):
                kind = _kind(operator, one.file, refusal)
                if kind:
                    yield Site(kind, operator.name, one, parents, instead)


def _kind(operator: Operator, file: str, refusal: bool) -> str | None:
    room = file.split("/")[0]
    if operator.kind == "error paths" and not refusal:
        return None
    if refusal and operator.name in NEGATIONS:
        return None
    if room in GRADING:
        return "grading"
    if operator.kind == "transfers":
        return "transfers"
    return "error paths" if refusal else operator.kind


def _nodes(
    node: ast.AST, parents: list[ast.AST], refusal: bool
) -> Iterator[tuple[list[ast.AST], bool]]:
    """Nodes that may change, each with its parents and whether it decides on a refusal."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "msg", "format_spec"):
            continue
        if isinstance(node, ast.keyword) and node.arg == "strict":
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or _is_left_out(child):
                continue
            deeper = (
                refusal
                or (field == "test" and isinstance(node, ast.If) and _refuses(node))
                or _is_check(child)
            )
            path = [*parents, child]
            yield path, deeper
            yield from _nodes(child, path, deeper)


def _is_left_out(node: ast.AST) -> bool:
    """Messages, what raises them, and definitions that have a name of their own."""
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func).rpartition(".")[2]
        return name.lower().endswith(("error", "exception", "warn", "unknown", "echo"))
    return isinstance(node, ast.Raise | ast.JoinedStr | ast.FunctionDef | ast.ClassDef) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )


def _refuses(node: ast.If) -> bool:
    return isinstance(node.body[-1], ast.Raise)


def _is_check(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and bool(
        re.match(r"_?(check|require)_", ast.unparse(node.func).rpartition(".")[2])
    )


def _changes(parents: list[ast.AST]) -> Iterator[tuple[Operator, ast.AST]]:
    node = parents[-1]
    for operator, shape, instead in PARSED:
        holes: patterns.Holes = {}
        if patterns.matches(shape, node, holes) and not _is_pointless(node):
            yield operator, patterns.Filled(holes).visit(copy.deepcopy(instead))
    yield from _constants(parents)
    above = parents[-2] if len(parents) > 1 else None
    if isinstance(above, ast.If) and node is above.test:
        yield Operator("control flow", "guard dropped", "", ""), ast.Constant(False)
        if not isinstance(node, ast.Compare | ast.UnaryOp):
            negated = ast.UnaryOp(ast.Not(), node)
            yield Operator("control flow", "condition negated", "", ""), negated


def _constants(parents: list[ast.AST]) -> Iterator[tuple[Operator, ast.AST]]:
    node = parents[-1]
    if not isinstance(node, ast.Constant) or isinstance(node.value, bool):
        return
    if isinstance(node.value, int):
        above = parents[-2] if len(parents) > 1 else None
        if isinstance(above, ast.keyword) and above.arg == "axis":
            yield Operator("arithmetic", "other axis", "", ""), ast.Constant(int(not node.value))
        else:
            yield Operator("arithmetic", "one more", "", ""), ast.Constant(node.value + 1)
            if node.value > 1:
                yield Operator("arithmetic", "one less", "", ""), ast.Constant(node.value - 1)
    elif isinstance(node.value, float):
        twice = 2 * node.value if node.value else 1.0
        yield Operator("arithmetic", "twice as much", "", ""), ast.Constant(twice)


def _is_pointless(node: ast.AST) -> bool:
    """Whether an operator fails at once, as on texts and paths, or changes nothing."""
    if isinstance(node, ast.BinOp):
        return any(
            isinstance(one, ast.JoinedStr | ast.List | ast.Tuple | ast.ListComp)
            or (isinstance(one, ast.Constant) and isinstance(one.value, str))
            or (isinstance(one, ast.Name) and one.id.isupper() and isinstance(node.op, ast.Div))
            for one in (node.left, node.right)
        )
    if isinstance(node, ast.Call) and node.args:
        return isinstance(node.args[0], ast.List | ast.ListComp | ast.Tuple | ast.Constant)
    return False


def _unwrapped(code: str) -> ast.AST:
    (statement,) = patterns.parsed(code)
    return statement.value if isinstance(statement, ast.Expr) else statement


PARSED = [
    (operator, _unwrapped(operator.pattern), _unwrapped(operator.instead)) for operator in OPERATORS
]


# ---- patterns


def mutant(package: Package, site: Site) -> Mutant | None:
    """The site as a pattern that matches once in the package; None if it has none that is short."""
    one, changed = site.definition, site.parents[-1]
    variables = _locals(one.node)
    for node in reversed(site.parents):
        if isinstance(node, ast.stmt) and hasattr(node, "body"):
            return None
        if not isinstance(node, ast.expr | ast.stmt) or _is_bare(node):
            continue
        if _has_message(node):
            return None
        holes: dict[str, str] = {}
        pattern = _text(node, variables, holes)
        with_change = copy.deepcopy(node, {id(changed): changed})
        instead = _text(
            patterns.Replaced({changed: site.instead}).visit(with_change), variables, holes
        )
        if len(pattern) > LONGEST:
            return None
        try:
            found = package.matches(one.name, pattern)
        except (
            SyntaxError,
            ValueError,
        ):  # a slice, or a starred argument, which stand nowhere alone
            continue
        if len(found) == 1 and found[0][0] == one.file:
            made = Mutant(site.kind, site.operator, one.file, one.name, pattern, instead)
            return made if _changes_just_that(package, made, node, site) else None
    return None


def _changes_just_that(package: Package, made: Mutant, node: ast.AST, site: Site) -> bool:
    text, count = patterns.in_python(
        package.texts[made.file], made.function, made.pattern, made.instead
    )
    if count != 1:
        return False
    tree = ast.parse(package.texts[made.file])
    changed_function = dict(patterns.definitions(tree))[made.function]
    place = [id(one) for one in ast.walk(site.definition.node)].index(id(site.parents[-1]))
    target = list(ast.walk(changed_function))[place]
    wanted = patterns.Replaced({target: copy.deepcopy(site.instead)}).visit(tree)
    return ast.unparse(ast.parse(text)) == ast.unparse(
        ast.parse(ast.unparse(ast.fix_missing_locations(wanted)))
    )


def _is_bare(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant | ast.Name | ast.Starred | ast.Slice) or (
        isinstance(node, ast.UnaryOp | ast.Attribute)
        and isinstance(
            getattr(node, "operand", None) or getattr(node, "value", None), ast.Constant | ast.Name
        )
    )


def _has_message(node: ast.AST) -> bool:
    return any(
        isinstance(one, ast.JoinedStr)
        or (isinstance(one, ast.Constant) and isinstance(one.value, str) and " " in one.value)
        for one in ast.walk(node)
    )


def _locals(function: ast.AST) -> set[str]:
    """Parameters and variables of a function, and of those inside it."""
    found = {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
    found |= {
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    return found - {"self", "cls", "_"}


def _text(node: ast.AST, variables: set[str], holes: dict[str, str]) -> str:
    """Code with holes for variables; `holes` receives those that it has."""
    node = copy.deepcopy(node)
    for one in ast.walk(node):
        if isinstance(one, ast.Name) and one.id in variables:
            letter = string.ascii_lowercase[len(holes) % 26] * (1 + len(holes) // 26)
            one.id = patterns.HOLE + holes.setdefault(one.id, letter)
    return re.sub(rf"\b{patterns.HOLE}(\w+)", r"$\1", ast.unparse(node))


# ---- the draw


def drawn(
    package: Package, kind: str, seed: int, near: Callable[[Definition], bool] | None = None
) -> Iterator[Mutant]:
    """Mutants of a kind in an order that the seed decides: one of each file, then a second, etc.

    Of a file, first an operator is drawn and then one of its sites, so that no operator of which
    there are many crowds out the others. A function gets two at most.
    """
    rng = random.Random(f"{seed} {kind}")
    by_file: dict[str, dict[str, list[Site]]] = {}
    for site in package.sites:
        one = site.definition
        if site.kind == kind and (near is None or near(one)):
            by_file.setdefault(one.file, {}).setdefault(site.operator, []).append(site)
    made: dict[tuple[str, str], int] = {}
    while by_file:
        files = sorted(by_file)
        rng.shuffle(files)
        for file in files:
            if one := _of_file(package, by_file[file], made, rng):
                yield one
            if not by_file[file]:
                del by_file[file]


def _of_file(
    package: Package,
    by_operator: dict[str, list[Site]],
    made: dict[tuple[str, str], int],
    rng: random.Random,
) -> Mutant | None:
    while by_operator:
        operator = rng.choice(sorted(by_operator))
        choices = by_operator[operator]
        site = choices.pop(rng.randrange(len(choices)))
        if not choices:
            del by_operator[operator]
        function = site.definition.file, site.definition.name
        if made.get(function, 0) < PER_FUNCTION and (one := mutant(package, site)):
            made[function] = made.get(function, 0) + 1
            return one
    return None
