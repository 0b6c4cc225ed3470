"""Find statements of the docs that the code contradicts. Each check takes text and lists faults."""

import ast
import builtins
import contextlib
import importlib
import inspect
import re
from collections.abc import Iterator

import click

import xpcap
from xpcap.cli import main
from xpcap.runs import PictureCaptioner

FENCE = re.compile(r"^ *```.*\n(?:.*\n)*?^ *```$", re.MULTILINE)
CALL = re.compile(r"`((?:\w+\.)*\w+)\(([^`]*)\)`")
# Classes of the objects that the docs name so
OBJECTS = {
    "captioner": PictureCaptioner,
    "data": xpcap.CaptionData,
    "model": xpcap.CaptioningRNN,
    "solver": xpcap.CaptioningSolver,
}


# ---- Python


def resolve(name: str, module: object = xpcap) -> object | None:
    """What a dotted name of the docs stands for, in a module or of an object; else None."""
    first, *rest = name.split(".")
    found: object = {"xpcap": xpcap, **OBJECTS}.get(first) if rest else None
    found = found or getattr(module, first, None)
    for part in rest:
        if inspect.ismodule(found) and not hasattr(found, part):
            with contextlib.suppress(ImportError):
                importlib.import_module(f"{found.__name__}.{part}")
        found = getattr(found, part, None)
    return found


def signatures(text: str) -> list[str]:
    """Faults of the first cells of tables that list functions, such as `open_run(path)`.

    Arguments are the parameters in order, with their default or without. Those by position that
    have a default may be left out at the end, those by keyword anywhere.
    """
    faults = []
    for cell in re.findall(r"^\| (`.+?) \|", FENCE.sub("", text), re.MULTILINE):
        for name, arguments in CALL.findall(cell):
            found = resolve(name)
            if found is None:
                faults.append(f"{name} does not exist")
            else:
                faults += [f"{name}({arguments}): {why}" for why in _differences(found, arguments)]
    return faults


def calls(text: str) -> list[str]:
    """Faults of calls in backquotes of what xpcap defines: unknown keywords, too many arguments."""
    faults = []
    for name, arguments in CALL.findall(FENCE.sub("", text)):
        found = resolve(name)
        if callable(found) and getattr(found, "__module__", "").startswith("xpcap"):
            faults += [f"{name}({arguments}): {why}" for why in _misuses(found, arguments)]
    return faults


def _parameters(found: object) -> list[inspect.Parameter]:
    known = inspect.signature(found).parameters  # type: ignore[arg-type]
    return [
        one for name, one in known.items() if name != "self" and one.kind is not one.VAR_KEYWORD
    ]


def _differences(found: object, arguments: str) -> Iterator[str]:
    try:
        node = ast.parse(f"def f({arguments}): ...").body[0]
    except SyntaxError:
        yield "no list of parameters"
        return
    assert isinstance(node, ast.FunctionDef)
    written, parameters = node.args, _parameters(found)
    names = [one.arg for one in (*written.args, *([written.vararg] if written.vararg else []))]
    by_position = [one for one in parameters if one.kind is not one.KEYWORD_ONLY]
    expected = [one.name for one in by_position]
    if names != expected[: len(names)]:
        yield f"by position, expected {', '.join(expected)}"
    elif lacking := [one.name for one in by_position[len(names) :] if one.default is one.empty]:
        yield f"lacks {', '.join(lacking)}"
    keywords = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
    given = [one.arg for one in written.kwonlyargs]
    if given != [name for name in keywords if name in given]:
        yield f"by keyword, expected some of {', '.join(keywords)}, in this order"
    optional = written.args[len(written.args) - len(written.defaults) :]
    defaults = {one.name: one.default for one in parameters}
    for argument, value in (
        *zip(optional, written.defaults, strict=True),
        *zip(written.kwonlyargs, written.kw_defaults, strict=True),
    ):
        default = defaults.get(argument.arg, "")
        if value is not None and ast.unparse(value) != repr(default):
            yield f"{argument.arg}={ast.unparse(value)}, expected {default!r}"


def _misuses(found: object, arguments: str) -> Iterator[str]:
    try:
        call = ast.parse(f"f({arguments})", mode="eval").body
    except SyntaxError:  # shapes, or an argument without a value
        return
    assert isinstance(call, ast.Call)
    parameters = _parameters(found)
    unknown = {one.arg for one in call.keywords} - {one.name for one in parameters} - {None}
    if unknown:
        yield f"has no parameter {', '.join(map(str, unknown))}"
    most = sum(one.kind is not one.KEYWORD_ONLY for one in parameters)
    if len(call.args) > most and not any(one.kind is one.VAR_POSITIONAL for one in parameters):
        yield f"takes {most} arguments by position"


def modules(text: str) -> list[str]:
    """Faults of tables of modules: a module or a name in its row that cannot be imported."""
    faults = []
    for cell, rest in re.findall(r"^\| ((?:`xpcap\.\w+`(?:, )?)+) \|(.*)\|$", text, re.MULTILINE):
        owners = [(name, resolve(name)) for name in re.findall(r"`(xpcap\.\w+)`", cell)]
        faults += [f"{name} cannot be imported" for name, owner in owners if owner is None]
        for name in re.findall(r"`([A-Za-z_][\w.]*)(?:\([^`]*\))?`", rest):
            first = name.split(".")[0]
            if not hasattr(builtins, first) and not any(
                resolve(name, owner) is not None or _inside(owner, name)
                for owner in (xpcap, *(owner for _, owner in owners))
            ):
                faults.append(f"{name} is not in {cell}")
    return faults


def _inside(owner: object, name: str) -> bool:
    """True if a class of the module has the name, as a method or a parameter of its constructor."""
    classes = [one for one in vars(owner).values() if inspect.isclass(one)]
    return any(name in getattr(one, "__annotations__", {}) or hasattr(one, name) for one in classes)


def unread(code: str) -> list[str]:
    """Names that code assigns to and never reads: nothing that an excerpt should show."""
    body = "\n    ".join(code.splitlines())
    nodes = list(ast.walk(ast.parse(f"def f():\n    {body}")))
    read = {x.id for x in nodes if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Load)}
    faults = []
    for statement in nodes:
        if isinstance(statement, ast.Assign):
            inner = [x for target in statement.targets for x in ast.walk(target)]
            names = {x.id for x in inner if isinstance(x, ast.Name)}
            if (
                all(isinstance(x, ast.Name | ast.Tuple | ast.Store) for x in inner)
                and names
                and (not names & read)
            ):
                faults.append(ast.unparse(statement))
    return faults


# ---- The command line

VALUE = r"`?([\w.+-]+?)`?"
STATED = [  # of the option before it in the sentence
    rf"(?<![\w.]){VALUE} by default",
    rf"\bby default {VALUE}(?![\w.]*\w)",
    r"\bdefault(?: is|:)? `?(\d[\d.]*)`?(?!\w)",
    rf"(?<![\w.]){VALUE}, the default\b",
    rf"(?<![\w.]){VALUE} \(default\b",
]


def options(command: str = "") -> Iterator[tuple[str, click.Option]]:
    """Options of a command, or of all, with each of their names."""
    for name, one in main.commands.items():
        if command in ("", name):
            for option in one.params:
                if isinstance(option, click.Option):
                    yield from ((spelling, option) for spelling in option.opts)


def known_defaults(option: click.Option) -> set[str]:
    """Defaults of an option as its help gives them, and as click has it."""
    stated = re.findall(r"\bdefault: ([^\]]+)", option.help or "", re.IGNORECASE)
    values = set(re.findall(r"(?:^|: |; |\()([\w.+-]*\w)(?=[;.,)]|$)", "; ".join(stated)))
    values |= set(re.findall(r"([\w:-]+) \(default\b", option.help or ""))
    if isinstance(option.default, str | int | float) and not isinstance(option.default, bool):
        values.add(
            f"{option.default:g}" if isinstance(option.default, float) else str(option.default)
        )
    return values


def defaults_in_tables(page: str) -> list[str]:
    """Faults of option tables, under the heading of their command, that end a row with a default:
    ``(10)``, or ``(1; 5 with ...)``.
    """
    faults = []
    for part in page.split("\n## ")[1:]:
        command = part.splitlines()[0]
        known = {name: known_defaults(option) for name, option in options(command)}
        rows = re.findall(
            r"^\| `(--?[\w-]+)` \|[^|]*\(`?([\w.:+-]+)`?(?:;[^()|]*)?\) \|$", part, re.MULTILINE
        )
        for option, value in rows:
            numeric = re.fullmatch(r"[\d.]+", value)
            if value not in known.get(option, ()) and (known.get(option) or numeric):
                faults.append(f"{command} {option} ({value}): {known.get(option) or 'no default'}")
    return faults


def defaults_in_prose(text: str) -> list[str]:
    """Faults of sentences with an option in backquotes and a default after it: "5 by default",
    "default 5", "5, the default"; or "`--option 5` is the default".
    """
    faults = []
    for sentence in re.split(r"(?<=[.;])\s+|\n\s*\n|\n(?=[|#-])", FENCE.sub("", text)):
        sentence = " ".join(sentence.split())
        stated = re.findall(r"`(--[\w-]+) ([\w.]+)`,? (?:is )?the default\b", sentence)
        if names := list(re.finditer(r"`(--[\w-]+)(?: \w+)?`", sentence)):
            rest = sentence[names[-1].end() :]
            if len(rest) < 120:
                stated += [
                    (names[-1][1], value.rstrip("."))
                    for pattern in STATED
                    for value in re.findall(pattern, rest)
                    if re.match(r"\d", value)
                ]
        for option, value in stated:
            known = [known_defaults(one) for name, one in options() if name == option]
            if known and not any(value in values for values in known):
                faults.append(f"{option} {value}, expected {set().union(*known) or 'no default'}")
    return faults


# ---- For screen readers


def unnamed(text: str) -> list[str]:
    """Columns of tables without a heading, and pictures without a description: a screen reader has
    nothing to read out.
    """
    text = FENCE.sub("", text)
    heads = re.findall(r"^(\|.*\|)\n\|[ :|-]+\|$", text, re.MULTILINE)
    empty = [head for head in heads if any(not cell.strip() for cell in head[1:-1].split("|"))]
    return [*empty, *re.findall(r"!\[\s*\]\([^)]*\)", text)]
