"""Find a place in the code by what stands there, and change it: in Python by the shape of the code, in CUDA C by a regular expression.

A pattern is Python, with holes: `$name` stands for any expression (the same one each time), `...` among a call's arguments for any number
of further ones. Layout and comments do not matter, nor do names behind holes. Where the pattern has a hole `$here`, only that part is
replaced; else the whole match is. In what comes instead, `$name` is the code that the hole stood for.

    in_python(text, "lstm_rows_forward", "lstm_gates($here, ...)", "$here.copy()")
"""

import ast
import re
import textwrap
from collections.abc import Iterator

HOLE = "hole_"
Holes = dict[str, ast.AST]


# ---- Python


def function_named(text: str, name: str) -> ast.AST:
    """The function, method or class of that name, as in ``"pack"`` or ``"CaptioningRNN._forward"``; the whole file for ``""``."""
    found = [node for qualified, node in _definitions(ast.parse(text)) if f".{qualified}".endswith(f".{name}")] if name else [ast.parse(text)]
    if len(found) != 1:
        raise LookupError(f"{len(found)} functions are called {name!r}, expected one; was it renamed?")
    return found[0]


def _definitions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield prefix + child.name, child
            yield from _definitions(child, f"{prefix}{child.name}.")


def in_python(text: str, function: str, pattern: str, instead: str) -> tuple[str, int]:
    """The text with every match within a function replaced, and the number of matches."""
    (wanted,) = ast.parse(_with_names(pattern)).body
    shape = wanted.value if isinstance(wanted, ast.Expr) else wanted
    lines = text.encode().splitlines(keepends=True)  # ast counts columns in bytes
    found = []
    for node in ast.walk(function_named(text, function)):
        holes: Holes = {}
        if _matches(shape, node, holes):
            found.append((_span(lines, holes.get("here", node)), _filled(instead, holes, text, node)))
    content = text.encode()
    for (start, end), new in sorted(found, reverse=True):
        content = content[:start] + new.encode() + content[end:]
    ast.parse(content)
    return content.decode(), len(found)


def _with_names(pattern: str) -> str:
    return re.sub(r"\$(\w+)", rf"{HOLE}\1", pattern)


def _matches(shape: object, node: object, holes: Holes) -> bool:
    """Whether a node has this shape; what the holes stand for is put into `holes`."""
    if isinstance(shape, ast.Name) and shape.id.startswith(HOLE):
        name = shape.id.removeprefix(HOLE)
        return isinstance(node, ast.expr) and ast.unparse(holes.setdefault(name, node)) == ast.unparse(node)
    if type(shape) is not type(node):
        return False
    if isinstance(shape, ast.Call) and any(map(_is_rest, shape.args)):
        return _call_matches(shape, node, holes)
    if isinstance(shape, ast.AST):
        return all(_matches(getattr(shape, field), getattr(node, field), holes) for field in shape._fields if field != "ctx")
    if isinstance(shape, list):
        return len(shape) == len(node) and all(_matches(one, other, holes) for one, other in zip(shape, node, strict=True))  # type: ignore[arg-type]
    return shape == node


def _is_rest(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is Ellipsis


def _call_matches(shape: ast.Call, node: ast.Call, holes: Holes) -> bool:
    """A call whose pattern ends in `...`: the arguments before it, and the keywords that are named, among others."""
    first = shape.args[: next(k for k, argument in enumerate(shape.args) if _is_rest(argument))]
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    return (
        _matches(shape.func, node.func, holes)
        and len(first) <= len(node.args)
        and all(_matches(one, other, holes) for one, other in zip(first, node.args, strict=False))
        and all(keyword.arg in keywords and _matches(keyword.value, keywords[keyword.arg], holes) for keyword in shape.keywords)
    )


def _span(lines: list[bytes], node: ast.AST) -> tuple[int, int]:
    """Where a node begins and ends in the bytes of the file."""
    start, end = (sum(map(len, lines[: line - 1])) for line in (node.lineno, node.end_lineno))
    return start + node.col_offset, end + node.end_col_offset


def _filled(instead: str, holes: Holes, text: str, node: ast.AST) -> str:
    """What comes instead, with its holes filled, lines after the first indented as the statement is."""
    for name, part in holes.items():
        source = ast.get_source_segment(text, part)
        simple = isinstance(part, ast.Name | ast.Attribute | ast.Call | ast.Subscript | ast.Constant)
        instead = instead.replace(f"${name}", source if simple else f"({source})")
    first, _, rest = instead.partition("\n")
    return f"{first}\n{textwrap.indent(rest, ' ' * node.col_offset)}" if rest else first


# ---- CUDA C


def functions_in_cuda(text: str) -> dict[str, tuple[int, int]]:
    """The functions of a kernel file, and where the text of each begins and ends, braces left out."""
    bare = re.sub(r"//[^\n]*|/\*.*?\*/|__launch_bounds__\(.*?\)", lambda comment: re.sub(r"[^\n]", " ", comment[0]), text, flags=re.S)
    found = {}
    for match in re.finditer(r"^\w[^\n;{}#]*?(\w+)\s*\([^;{}]*\)\s*\{", bare, flags=re.M):
        depth, end = 1, match.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(bare[end], 0)
            end += 1
        found[match[1]] = match.end(), end - 1
    return found


def in_cuda(text: str, function: str, pattern: str, instead: str, nth: int | None = None) -> tuple[str, int]:
    """The text with every match within a function replaced, or only the one counted `nth` from 0, and the number of matches replaced.

    A space in the pattern is any number of blanks, and brackets and operators stand for themselves if escaped by the caller as usual.
    """
    start, end = functions_in_cuda(text)[function]
    found = list(re.finditer(pattern.replace(" ", r"\s*"), text[start:end]))
    chosen = found if nth is None else found[nth : nth + 1]
    for match in reversed(chosen):
        text = text[: start + match.start()] + match.expand(instead) + text[start + match.end() :]
    return text, len(chosen)
