"""Fill in what the pages of docs/ quote: ```python FILE FUNCTION fences, those that end in `whole`
with signature and docstring, ```python FILE fences, and the tables of device mutants, of a
command's options, of scores, of cells and of what is few. `make excerpts` runs this.
"""

import ast
import importlib
import re
import sys
import textwrap
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))

import click
import device_mutants
from patterns import function_named

from xpcap.cli import main
from xpcap.cli.decoding import NAMES as DECODING
from xpcap.data import few
from xpcap.layers import CELLS
from xpcap.metrics import ALIASES, METRICS, of_train
from xpcap.runs.recipe import OPTIONS, STAGES
from xpcap.shapes.scoring import NAMED

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
FENCE = re.compile(r"^(```python (\S+)(?: (\S+))?( whole)?)\n(?:.*\n)*?```$", re.MULTILINE)
TABLE = re.compile(r"^\| mutant \|.*\n(?:\|.*\n)+", re.MULTILINE)
ARRAYS = re.compile(r"^(<!-- arrays of (\S+) -->\n)(?:\|.*\n)+", re.MULTILINE)
COMMAND = re.compile(r"^(<!-- options of (\w+) -->\n)(?:\|.*\n)+", re.MULTILINE)
SCORES = re.compile(r"^(<!-- scores -->\n)(?:\|.*\n)+", re.MULTILINE)
CELL_TABLE = re.compile(r"^(<!-- cells -->\n)(?:\|.*\n)+", re.MULTILINE)
FEW = re.compile(r"^(<!-- few -->\n)(?:\|.*\n)+", re.MULTILINE)
STARTED = re.compile(r"^\| option \| self-critical \|.*\n(?:\|.*\n)+", re.MULTILINE)


def excerpt(file: str, function: str) -> str:
    """The body of a function: its mathematics, without docstring, checks, variables that only checks
    read, the allocation of `out`, and the way to a fast version.
    """
    text = (ROOT / file).read_text(encoding="utf-8")
    node = function_named(text, function)
    has_docstring = ast.get_docstring(node) is not None
    first, statements = node.body[0], node.body[1 if has_docstring else 0 :]
    shown = _without_unread([statement for statement in statements if not _is_ceremony(statement)])
    lines = text.splitlines(keepends=True)
    for statement in statements:
        if statement not in shown:
            lines[statement.lineno - 1 : statement.end_lineno] = [""] * (
                statement.end_lineno - statement.lineno + 1
            )
    start = first.end_lineno if has_docstring else first.lineno - 1
    return textwrap.dedent("".join(lines[start : node.end_lineno])).strip("\n") + "\n"


def _without_unread(statements: list[ast.stmt]) -> list[ast.stmt]:
    """Statements without assignments to names that no later statement reads."""
    read: set[str] = set()
    shown: list[ast.stmt] = []
    for statement in reversed(statements):
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        inner = [node for target in targets for node in ast.walk(target)]
        names = {node.id for node in inner if isinstance(node, ast.Name)}
        stores_names = all(isinstance(node, ast.Name | ast.Tuple | ast.Store) for node in inner)
        if names and stores_names and not names & read:
            continue
        read |= {
            node.id
            for node in ast.walk(statement)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        }
        shown.insert(0, statement)
    return shown


def whole(file: str, function: str) -> str:
    """The source of a function, or of a file."""
    text = (ROOT / file).read_text(encoding="utf-8")
    if not function:
        return text
    node = function_named(text, function)
    return "".join(text.splitlines(keepends=True)[node.lineno - 1 : node.end_lineno])


def _is_ceremony(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.If):
        checks = all(
            isinstance(inner, ast.Raise) or _is_ceremony(inner)
            for inner in (*statement.body, *statement.orelse)
        )
        return (
            checks
            or ast.unparse(statement.test) == "out is None"
            or "(fast := " in ast.unparse(statement.test)
        )
    call = getattr(statement, "value", None)
    return isinstance(call, ast.Call) and ast.unparse(call.func).rpartition(".")[2].startswith(
        "check"
    )


def filled(page: str) -> str:
    """The text of a page with every excerpt and table as the code has it now."""

    def fill(fence: re.Match[str]) -> str:
        heading, file, function, entire = fence.groups(default="")
        code = excerpt(file, function) if function and not entire else whole(file, function)
        return f"{heading}\n{code}```"

    page = FENCE.sub(fill, page)
    page = ARRAYS.sub(lambda match: f"{match[1]}{arrays(match[2])}\n", page)
    page = COMMAND.sub(lambda match: match[1] + options(match[2]), page)
    page = STARTED.sub(lambda _: presets(), page)
    page = SCORES.sub(lambda match: match[1] + scores(), page)
    page = CELL_TABLE.sub(lambda match: match[1] + cells(), page)
    page = FEW.sub(lambda match: match[1] + few_table(), page)
    return TABLE.sub(lambda _: "".join(f"{line}\n" for line in device_mutants.table()), page)


def arrays(name: str) -> str:
    """The table of arguments and results of a function, from its spec."""
    module, _, function = name.rpartition(".")
    return getattr(importlib.import_module(module), function).spec.table()


def options(command: str) -> str:
    """The table of a command's options, from their help; of `decoding` those that caption shares."""
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for one in main.commands["caption" if command == "decoding" else command].params:
        if isinstance(one, click.Option) and (command != "decoding" or one.name in DECODING):
            names = ", ".join(f"`{name}`" for name in (*one.opts[-1:], *one.secondary_opts))
            text = re.sub(r"(--[\w-]+|\$\w+)", r"`\1`", str(one.help))
            meaning, _, more = text.partition("  [")
            rows.append(f"| {names} | {more.rstrip(']').partition('default: ')[2]} | {meaning} |")
    return "".join(f"{row}\n" for row in rows)


def presets() -> str:
    """The table of the defaults of training that starts from a run."""
    rows = ["| option | self-critical | head start |", "|---|---|---|"]
    for name, told in OPTIONS.items():
        score, warm = (told.presets.get(preset, "the run's") for preset in ("score", "warm"))
        if told.role != STAGES and {"score", "warm"} & told.presets.keys():
            rows.append(f"| `--{name.replace('_', '-')}` | {score} | {warm} |")
    return "".join(f"{row}\n" for row in rows)


def scores() -> str:
    """The table of scores, from the rows of their metrics."""
    rows = ["| name | what it tells of a caption | how it is computed |", "|---|---|---|"]
    of_split, _ = of_train([["a", "dog"]] * 50, list)
    for metric in (*METRICS, NAMED, *of_split):
        names = [*metric.score([], []).corpus]
        names += [alias for alias, name in ALIASES.items() if name in names]
        protocol = metric.protocol.removesuffix("; 1 words, such as a")
        rows.append(f"| {', '.join(f'`{name}`' for name in names)} | {metric.plain} | {protocol} |")
    return "".join(f"{row}\n" for row in rows)


def cells() -> str:
    """The table of cells, from their attributes."""
    rows = ["| cell | blocks, as stacked | gates | state | parameters | CUDA kernel |"]
    rows.append("|---|---|---|---|---|---|")
    W, H = 1, 1000

    def size(n: int) -> str:
        return "W" if n == W else "H" if n == H else f"{n // H}H"

    for name, cell in CELLS.items():
        shapes = (  # (H,) has a comma
            f"`{key}` ({', '.join(map(size, shape))}{',' * (len(shape) == 1)})"
            for key, shape in cell.shapes(W, H).items()
        )
        letters = (", ".join(x) or "none" for x in (cell.blocks, cell.gates, cell.states))
        texts = (f"`{name}`", *letters, ", ".join(shapes), cell.kernel and f"`{cell.kernel}`")
        rows.append(f"| {' | '.join(text or 'none' for text in texts)} |")
    return "".join(f"{row}\n" for row in rows)


def few_table() -> str:
    """The table of what is few."""
    rows = ["| fewer than | what is done | why |", "|---|---|---|"]
    rows += [f"| {row} | {row.change} | {row.reason} |" for row in few.TABLE]
    return "".join(f"{row}\n" for row in rows)


def fill() -> None:
    for path in PAGES:
        before = path.read_text(encoding="utf-8")
        after = filled(before)
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(f"{path.relative_to(ROOT)} is brought up to date")


if __name__ == "__main__":
    fill()
