"""Fill in what the pages of docs/ quote: ```python FILE FUNCTION fences, those that end in `whole`
with signature and docstring, ```python FILE fences, and tables below a comment <!-- NAME --> or
<!-- NAME of THING -->. TABLES has their names; to add one, add a row. Measured figures come from
measured.py. `make excerpts` runs this.
"""

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import click
import measured

import xpcap
from xpcap import metrics, models, optim, runs, testing
from xpcap.cli import main
from xpcap.cli.caption import OUTPUTS
from xpcap.cli.decoding import FLAGS as DECODING_FLAGS
from xpcap.cli.decoding import NAMES as DECODING
from xpcap.data import few
from xpcap.decoding.policies import PYTHON
from xpcap.encoders import ENCODERS
from xpcap.errors import install
from xpcap.layers import CELLS
from xpcap.options import described
from xpcap.prepare.detect import FORMATS
from xpcap.runs.card import FILES
from xpcap.runs.doctor import SYMPTOMS
from xpcap.runs.recipe import OPTIONS, STAGES
from xpcap.shapes.scoring import NAMED

Rows = Iterable[Sequence[str]]  # of a table; the first is its heading

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^(```python (\S+)(?: (\S+))?( whole)?)\n(?:.*\n)*?```$", re.MULTILINE)
# `example` marks what nobody can repeat, see tests/package/test_docs.py
TABLE = re.compile(r"^<!-- (?!example -->)([\w ]+?)(?: of (\S+))? -->\n(?:\|.*\n)*", re.MULTILINE)


def function_named(text: str, name: str) -> ast.AST:
    """The function, method, class or constant of a name, such as ``"CaptioningRNN.loss"``."""
    (found,) = (
        node for whole, node in definitions(ast.parse(text)) if f".{whole}".endswith(f".{name}")
    )
    return found


def definitions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield prefix + child.name, child
            yield from definitions(child, f"{prefix}{child.name}.")
        elif not prefix and isinstance(child, ast.Assign | ast.AnnAssign):
            target = child.target if isinstance(child, ast.AnnAssign) else child.targets[0]
            if isinstance(target, ast.Name):
                yield target.id, child


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

    def fill_table(match: re.Match[str]) -> str:
        name, thing = match.groups()
        if name not in TABLES:
            raise ValueError(f"excerpts: the table {name!r} is none of {', '.join(TABLES)}")
        heading, *rows = TABLES[name](*[thing] if thing else [])
        lines = (heading, ["---"] * len(heading), *rows)
        return match[0].partition("\n")[0] + "\n" + "".join(map(_line, lines))

    return TABLE.sub(fill_table, FENCE.sub(fill, page))


def _line(cells: Sequence[str]) -> str:
    if list(cells) == ["---"] * len(cells):
        return f"|{'|'.join(cells)}|\n"
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


# ---- Tables


def arrays(name: str) -> Rows:
    """Arguments and results of a function, from its spec."""
    module, _, function = name.rpartition(".")
    return getattr(importlib.import_module(module), function).spec.rows()


def options(command: str) -> Rows:
    """A command's options, from their help; of `decoding` those that caption and evaluate share."""
    yield "option", "default", "meaning"
    params = main.commands["caption" if command == "decoding" else command].params
    shared = set(DECODING) if any(option.name == "greedy" for option in params) else set()
    for option in params:
        if isinstance(option, click.Option) and (option.name in shared) == (command == "decoding"):
            names = ", ".join(_code(name) for name in (*option.opts[-1:], *option.secondary_opts))
            meaning, _, more = str(option.help).partition("  [")
            default = more.rstrip("]").partition("default: ")[2]
            if option.show_default:
                default = str(option.default)
            default = "required" if option.required else default
            yield names, _marked(default), _marked(meaning)


def presets() -> Rows:
    """The defaults of training that starts from a run."""
    yield "option", "self-critical", "head start"
    for name, told in OPTIONS.items():
        score, warm = (told.presets.get(preset, "the run's") for preset in ("score", "warm"))
        if told.role != STAGES and {"score", "warm"} & told.presets.keys():
            yield _flag(name), str(score), str(warm)


def scores() -> Rows:
    """Scores, from the rows of their metrics."""
    yield "name", "what it tells of a caption", "how it is computed", "on a model card"
    of_split, _ = metrics.of_train([["a", "dog"]] * 50, list)
    for metric in (*metrics.METRICS, NAMED, *of_split):
        names = [*metric.score([], []).corpus]
        names += [alias for alias, name in metrics.ALIASES.items() if name in names]
        protocol = metric.protocol.removesuffix("; 1 words, such as a")
        hub = f"`{metric.hub.score}` as {metric.hub.title}" if metric.hub else ""
        yield ", ".join(map(_code, names)), metric.plain, protocol, hub


def cells() -> Rows:
    """Cells, from their attributes."""
    yield "cell", "blocks, as stacked", "gates", "state", "parameters", "CUDA kernel"
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
        yield [text or "none" for text in texts]


def few_rows() -> Rows:
    """What is done where captions or pictures are few."""
    yield "fewer than", "what is done", "why"
    yield from ((str(row), row.change, row.reason) for row in few.TABLE)


def outputs() -> Rows:
    """Outputs of the command caption."""
    yield "option", "meaning"
    for output in OUTPUTS:
        yield (
            _code(f"{output.flag} FILE{output.suffix}" if output.suffix else output.flag),
            _marked(output.help),
        )


def encoders() -> Rows:
    yield "`--encoder`", "for", "options", "needs", "licence of its weights"
    for encoder in ENCODERS.values():
        needs = f"`{install(encoder.extra)}`" if encoder.extra else "nothing"
        names = ", ".join(_code(f":{name}=") for name in encoder.options)
        yield _code(encoder.name), encoder.help, names, needs, encoder.licence


def formats() -> Rows:
    """Formats of caption files."""
    yield "format", "example", "splits"
    for form in FORMATS:
        lines = (_code(line.replace("\t", "<TAB>")) for line in form.example.splitlines())
        yield form.name, ", then ".join(lines), form.splits


def rules() -> Rows:
    """Update rules with their numbers and state."""
    yield "rule", "numbers, and their defaults", "state"
    for rule in optim.RULES.values():
        numbers = ", ".join(f"`{name}` {value:g}" for name, (value, _) in rule.numbers.items())
        yield _code(rule.name), numbers, ", ".join(map(_code, rule.state)) or "none"


def policies() -> Rows:
    """Policies with the options of commands that choose them."""
    yield "object", "options", "words"
    limited = described(models.Policy)
    for module in (models, runs):
        for name in sorted(vars(module)):
            policy = getattr(module, name)
            is_policy = inspect.isclass(policy) and issubclass(policy, models.Policy)
            if is_policy and policy is not models.Policy:
                flags = (_flag(field) for field in described(policy) if field not in limited)
                yield f"`{module.__name__}.{name}`", ", ".join(flags), _summary(policy)


def limits() -> Rows:
    """Limits that every policy takes."""
    yield "argument", "option", "meaning"
    for name, option in described(models.Policy).items():
        yield _code(name), "" if option.role == PYTHON else _flag(name), option.help


def symptoms() -> Rows:
    """What the doctor checks."""
    yield "check", "what it measures", "verdict `check`", "verdict `bad`", "usual cause"
    for row in SYMPTOMS:
        side = "above" if row.limits[1] > row.limits[0] else "below"
        texts = [f"{limit * 100:g} %" if row.share else f"{limit:g}" for limit in row.limits]
        ends = [f"{side} {text}" for text in texts]
        if row.above_people:
            ends = [f"{limit * 100:g} points above people's" for limit in row.limits]
        yield _code(row.name), _marked(row.title), *ends, _flagged(row.cause)


def files() -> Rows:
    """Files of a run folder."""
    yield "file", "content"
    yield from ((_code(file.name), file.content) for file in FILES)


def methods(name: str) -> Rows:
    """Methods of a class that a subclass may define."""
    yield "method", "called when"
    for method in vars(getattr(xpcap, name)).values():
        if inspect.isfunction(method):
            names = ", ".join(list(inspect.signature(method).parameters)[1:])
            yield f"`{method.__name__}({names})`", _summary(method)


def contracts() -> Rows:
    """Contracts of additions."""
    yield "call", "what it does"
    for name in testing.__all__:
        if name.startswith("check_"):
            check = getattr(testing, name)
            parameters = inspect.signature(check).parameters.values()
            needed = ", ".join(x.name for x in parameters if x.default is x.empty)
            yield f"`xpcap.testing.{name}({needed})`", _summary(check)


TABLES: dict[str, Callable[..., Rows]] = {
    "arrays": arrays,
    "cells": cells,
    "contracts": contracts,
    "encoders": encoders,
    "few": few_rows,
    "formats": formats,
    "limits": limits,
    "methods": methods,
    "options": options,
    "outputs": outputs,
    "policies": policies,
    "presets": presets,
    "rules": rules,
    "run files": files,
    "scores": scores,
    "symptoms": symptoms,
}


def _code(text: str) -> str:
    return f"`{text}`"


def _flag(name: str) -> str:
    return _code(DECODING_FLAGS.get(name, f"--{name.replace('_', '-')}"))


def _flagged(text: str) -> str:
    """A text of the library, in which `name` is an option, as a page of commands has it."""
    return re.sub(r"`(\w+)`", lambda match: _flag(match[1]), text)


def _marked(text: str) -> str:
    """The help of a command as Markdown."""
    words = r"(pip install '[^']+'|\B'[^']+'\B|--[a-z][\w-]*|\$\w+|<\w+>)"

    def quoted(match: re.Match[str]) -> str:
        return _code(match[1] if match[1].startswith("pip") else match[1].strip("'"))

    return re.sub(words, quoted, text)


def _summary(thing: object) -> str:
    """The first line of a docstring."""
    return str(inspect.getdoc(thing)).partition("\n")[0].replace("``", "`")


def fill() -> None:
    for path in measured.PAGES:
        before = path.read_text(encoding="utf-8")
        after = measured.filled(filled(before))
        if after != before:
            path.write_text(after, encoding="utf-8")
            print(f"{path.relative_to(ROOT)} is brought up to date")


if __name__ == "__main__":
    fill()
