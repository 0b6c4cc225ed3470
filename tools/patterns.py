"""Find code and replace it: Python by its syntax tree, CUDA C by a regular expression.

A pattern is Python with holes: `$name` matches any expression (the same one each time), `...` among
a call's arguments any number of further ones. Layout and comments do not matter. The hole `$here`,
if there is one, is what is replaced, else the whole match; in the replacement, `$name` is the code
that the hole matched.

    in_python(text, "lstm_forward", "lstm_gates($here, ...)", "$here.copy()")
"""

import ast
import copy
import re
from collections.abc import Iterator

HOLE = "hole_"
Holes = dict[str, ast.AST]


# ---- Python


def function_named(text: str, name: str) -> ast.AST:
    """The function, method, class or constant of a name, such as ``"CaptioningRNN.loss"``."""
    found = list(_named(ast.parse(text), name))
    if len(found) != 1:
        raise LookupError(
            f"{len(found)} functions are called {name!r}, expected one; was it renamed?"
        )
    return found[0]


def _named(tree: ast.AST, name: str) -> Iterator[ast.AST]:
    return (node for whole, node in definitions(tree) if f".{whole}".endswith(f".{name}"))


def definitions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield prefix + child.name, child
            yield from definitions(child, f"{prefix}{child.name}.")
        elif not prefix and isinstance(child, ast.Assign | ast.AnnAssign):
            target = child.target if isinstance(child, ast.AnnAssign) else child.targets[0]
            if isinstance(target, ast.Name):
                yield target.id, child


def in_python(text: str, function: str, pattern: str, instead: str) -> tuple[str, int]:
    """The text with every match replaced in functions, methods, classes or constants of that name.

    Also the number of matches. A match costs the text its comments and layout.
    """
    if not re.search(rf"^\s*(def |class )?{function.rpartition('.')[2]}\b", text, flags=re.M):
        return text, 0
    (shape,), new = parsed(pattern), parsed(instead)
    of_expression = isinstance(shape, ast.Expr) and isinstance(new[0], ast.Expr) and len(new) == 1
    wanted = shape.value if of_expression else shape
    tree, replaced = ast.parse(text), {}
    for node in (node for named in _named(tree, function) for node in ast.walk(named)):
        holes: Holes = {}
        if matches(wanted, node, holes):
            filled = [Filled(holes).visit(copy.deepcopy(statement)) for statement in new]
            target = holes.get("here", node)
            replaced[target] = filled[0].value if isinstance(target, ast.expr) else filled
    if not replaced:
        return text, 0
    changed = ast.unparse(ast.fix_missing_locations(Replaced(replaced).visit(tree)))
    return f"{changed}\n", len(replaced)


def parsed(code: str) -> list[ast.stmt]:
    return ast.parse(re.sub(r"\$(\w+)", rf"{HOLE}\1", code)).body


class Filled(ast.NodeTransformer):
    """Code with its holes filled."""

    def __init__(self, holes: Holes) -> None:
        self.holes = holes

    def visit_Name(self, node: ast.Name) -> ast.AST:
        is_hole = node.id.startswith(HOLE)
        return copy.deepcopy(self.holes[node.id.removeprefix(HOLE)]) if is_hole else node


class Replaced(ast.NodeTransformer):
    """A tree with some of its nodes replaced."""

    def __init__(self, replaced: dict[ast.AST, ast.AST | list[ast.stmt]]) -> None:
        self.replaced = replaced

    def visit(self, node: ast.AST) -> ast.AST | list[ast.stmt]:
        return self.replaced[node] if node in self.replaced else self.generic_visit(node)


def matches(shape: object, node: object, holes: Holes) -> bool:
    """Compare a node with a pattern; `holes` receives what its holes match."""
    if isinstance(shape, ast.Name) and shape.id.startswith(HOLE):
        name = shape.id.removeprefix(HOLE)
        return isinstance(node, ast.expr) and ast.unparse(
            holes.setdefault(name, node)
        ) == ast.unparse(node)
    if type(shape) is not type(node):
        return False
    if isinstance(shape, ast.Call) and any(map(_is_rest, shape.args)):
        return _call_matches(shape, node, holes)
    if isinstance(shape, ast.AST):
        return all(
            matches(getattr(shape, field), getattr(node, field), holes)
            for field in shape._fields
            if field != "ctx"
        )
    if isinstance(shape, list):
        return len(shape) == len(node) and all(
            matches(one, other, holes) for one, other in zip(shape, node, strict=True)
        )  # type: ignore[arg-type]
    return shape == node


def _is_rest(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is Ellipsis


def _call_matches(shape: ast.Call, node: ast.Call, holes: Holes) -> bool:
    """Compare a call with a pattern that has `...`; further arguments do not matter."""
    first = shape.args[: next(k for k, argument in enumerate(shape.args) if _is_rest(argument))]
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    return (
        matches(shape.func, node.func, holes)
        and len(first) <= len(node.args)
        and all(matches(one, other, holes) for one, other in zip(first, node.args, strict=False))
        and all(
            keyword.arg in keywords and matches(keyword.value, keywords[keyword.arg], holes)
            for keyword in shape.keywords
        )
    )


# ---- CUDA C


def functions_in_cuda(text: str) -> dict[str, tuple[int, int]]:
    """Start and end of the body of each function of a kernel file, without its braces."""
    bare = re.sub(
        r"//[^\n]*|/\*.*?\*/|__launch_bounds__\(.*?\)",
        lambda comment: re.sub(r"[^\n]", " ", comment[0]),
        text,
        flags=re.S,
    )
    found = {}
    for match in re.finditer(r"^\w[^\n;{}#]*?(\w+)\s*\([^;{}]*\)\s*\{", bare, flags=re.M):
        depth, end = 1, match.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(bare[end], 0)
            end += 1
        found[match[1]] = match.end(), end - 1
    return found


def in_cuda(
    text: str, function: str, pattern: str, instead: str, nth: int | None = None
) -> tuple[str, int]:
    """The text with every match in a function replaced, or only match `nth`, from 0.

    Also the number of replacements. A space in the pattern matches any number of blanks.
    """
    start, end = functions_in_cuda(text).get(function, (0, 0))
    found = list(re.finditer(pattern.replace(" ", r"\s*"), text[start:end]))
    chosen = found if nth is None else found[nth : nth + 1]
    for match in reversed(chosen):
        text = text[: start + match.start()] + match.expand(instead) + text[start + match.end() :]
    return text, len(chosen)
