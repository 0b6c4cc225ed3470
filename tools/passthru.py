"""Count the parameters of xpcap that a function only hands on.

    python tools/passthru.py CHECKOUT [--json]

Such a parameter is read, and each time as an argument of a call: its function passes it along and
looks at nothing of it, not even in an error. `self` and `cls` are left out, and so are functions whose body is a docstring
or `...`.
"""

import ast
import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measure_cli

NAMES = 15  # shown of the most frequent ones


@dataclasses.dataclass
class Count:
    """Parameters of a package: by room, the file or folder that holds them, and by name."""

    parameters: Counter[str] = dataclasses.field(default_factory=Counter)  # by room
    handed_on: Counter[str] = dataclasses.field(default_factory=Counter)  # by room
    names: Counter[str] = dataclasses.field(default_factory=Counter)  # of those handed on

    def rows(self) -> list[tuple[str, int, int, float]]:
        """Room, parameters, those handed on, their share; the whole package first."""
        total = ("total", self.parameters.total(), self.handed_on.total())
        rooms = [(room, n, self.handed_on[room]) for room, n in self.parameters.items()]
        rooms.sort(key=lambda row: (-row[2], row[0]))
        return [(room, n, on, on / n if n else 0.0) for room, n, on in (total, *rooms)]


def count(package: Path) -> Count:
    found = Count()
    for path in sorted(package.rglob("*.py")):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        for name, handed_on in parameters(path.read_text(encoding="utf-8")):
            found.parameters[room] += 1
            if handed_on:
                found.handed_on[room] += 1
                found.names[name] += 1
    return found


def parameters(source: str) -> Iterator[tuple[str, bool]]:
    """Each parameter of each function, and whether it is only handed on."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not _is_stub(node):
            handed_on, read_otherwise = _reads(node)
            arguments = node.args
            for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
                if one.arg not in ("self", "cls"):
                    yield one.arg, one.arg in handed_on and one.arg not in read_otherwise


def _is_stub(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """True for a docstring, ``...``, or both."""
    return len(function.body) <= 2 and all(isinstance(one, ast.Expr) for one in function.body)


def _reads(function: ast.AST) -> tuple[set[str], set[str]]:
    """Names that a function reads as arguments of calls, and those that it reads elsewhere.

    What it raises is elsewhere: a message tells of a value, whoever puts it together.
    """
    everywhere: Counter[str] = Counter()
    as_arguments: Counter[str] = Counter()
    raised = {
        inner
        for node in ast.walk(function)
        if isinstance(node, ast.Raise)
        for inner in ast.walk(node)
    }
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            everywhere[node.id] += 1
        if isinstance(node, ast.Call) and node not in raised:
            values = (*node.args, *(keyword.value for keyword in node.keywords))
            as_arguments.update(value.id for value in values if isinstance(value, ast.Name))
    return set(as_arguments), {name for name, n in everywhere.items() if n > as_arguments[name]}


def show(found: Count) -> None:
    print(f"{'room':18}{'parameters':>10}{'handed on':>11}{'share':>7}")
    for room, n, on, share in found.rows():
        print(f"{room:18}{n:10,}{on:11,}{share:7.0%}")
    frequent = found.names.most_common(NAMES)
    print("handed on most:", ", ".join(f"{name} {n}" for name, n in frequent))


def as_json(found: Count) -> dict[str, Any]:
    rooms = {
        room: {"parameters": n, "handed_on": on, "share": round(share, 3)}
        for room, n, on, share in found.rows()
    }
    return {"rooms": rooms, "names": dict(found.names.most_common())}


if __name__ == "__main__":
    measure_cli.run(__doc__, lambda checkout: count(checkout / "xpcap"), as_json, show)
