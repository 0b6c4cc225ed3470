"""Shared by all commands: types of options, --backend, --json and --csv, and printing."""

import os
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import click

from xpcap.backend import get_backend, use_backend
from xpcap.backend.plain_code import VARIABLE as PLAIN_VARIABLE
from xpcap.backend.plain_code import is_plain, plain
from xpcap.backend.switch import BACKENDS, VARIABLE, parse_backend
from xpcap.captioning.scores import Row, Scores
from xpcap.data import CaptionData
from xpcap.data.dataset import size
from xpcap.distributed import SINGLE, Group, init
from xpcap.distributed.work import current, work
from xpcap.encoders import scheme_of
from xpcap.errors import BackendError, OptionError
from xpcap.options import Flag, Location, Option, OptionKind, Real, Whole
from xpcap.progress import say
from xpcap.report import escape_control
from xpcap.runs.folder import is_run

PATH = click.Path(path_type=Path)
JSON = "Print JSON instead of text."
WIDTH = 120  # maximum characters of a line; a terminal may have fewer
# Commands that all ranks run; rank 0 runs the others by itself
SHARED = ("train", "evaluate", "info")
Function = Callable[..., None]


class Value(click.ParamType):
    """A click type that validates by an OptionKind."""

    name = "value"

    def __init__(self, kind: OptionKind) -> None:
        self.kind = kind

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return self.kind.metavar

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        parsed = self.kind.parse(value) if isinstance(value, str | tuple) else value
        try:
            return self.kind.check(param.opts[-1] if param else "", parsed)
        except OptionError as error:
            raise click.UsageError(str(error), ctx) from error


def _second_run(path: Path) -> OptionError:
    return OptionError(
        f"{path} is given as a second run, expected one run; 'evaluate RUN --against RUN' compares"
        " two"
    )


def _single_run(ctx: click.Context, param: click.Parameter, runs: tuple[Path, ...]) -> Path:
    if len(runs) > 1:
        raise _second_run(runs[1])
    return runs[0]


def run_argument(command: Function) -> Function:
    """Add RUN to a command without further arguments; a second run is refused with a hint."""
    settings: dict[str, Any] = {"nargs": -1, "required": True, "callback": _single_run}
    return click.argument("run", metavar="RUN", type=PATH, **settings)(command)


class PictureOrUrl(click.Path):
    """A URL, as text, or a path, which may be unreadable but is not a run folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, readable=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if scheme_of(value):
            return value
        path: Any = super().convert(value, param, ctx)
        if is_run(path):
            raise _second_run(path)
        return path


def in_flags(text: str, flags: Mapping[str, str]) -> str:
    """A text with options of a command for parameters, which are words in backquotes.

    A backquote inside a word is part of a file's name.
    """
    option = r"(?<![^\s(\['\"])`(\w+)`(?!\.?[\w/\\-])"
    return re.sub(option, lambda match: flags.get(match[1], match[0]), text)


def field_options(
    options: Mapping[str, Option], default_text: Callable[[str, Option], str], **flags: str
) -> Callable[[Function], Function]:
    """Add options for fields of dataclasses to a command; an option that is not given is None.

    default_text : returns the default of a field for the help; "" for none
    flags : flags of fields that differ from their names; without dashes, the field is an argument of
        the command
    """
    flags = {**{name: f"--{name.replace('_', '-')}" for name in options}, **flags}

    def add(command: Function) -> Function:
        for name, option in reversed([*options.items()]):
            flag = flags[name]
            default = default_text(name, option)
            # Shells complete the type PATH
            kind = PATH if isinstance(option.kind, Location) else Value(option.kind)
            details = "; ".join(filter(None, [_numbers(kind), default and f"default: {default}"]))
            text = in_flags(option.help, flags) + (f"  [{details}]" if details else "")
            settings: dict[str, Any] = {"type": kind}
            if isinstance(option.kind, Flag):
                settings = {"is_flag": True}
                flag += f"/--no-{flag.removeprefix('--')}" if option.default is not False else ""
            if option.kind.repeated:
                settings = {
                    "multiple": True,
                    "metavar": option.kind.metavar,
                    "callback": _joined(kind),
                }
            if flag.startswith("-"):
                command = click.option(flag, name, default=None, help=text, **settings)(command)
        return command

    return add


def _joined(kind: click.ParamType) -> Callable[..., Any]:
    """The callback of a repeated option: it makes one value of all texts; None if there are none."""
    return lambda ctx, param, texts: kind.convert(texts, param, ctx) if texts else None


def _numbers(kind: object) -> str:
    """The numbers that a type takes, in words; "" if it takes other values too."""
    option_kind = kind.kind if isinstance(kind, Value) else None
    return str(option_kind) if isinstance(option_kind, Whole | Real) else ""


def examples(*lines: str) -> str:
    """Examples for the foot of a help page, one command per line; an indented line continues one."""
    shown = [line if line.startswith(" ") else f"  xpcap {line}" for line in lines]
    return "\b\nExamples:\n" + "\n".join(shown)


def command_line(*words: str) -> str:
    """A command as the user types it, quoted for a shell, with the running program.

    That may be cli.py, or a program that adds a cell or an encoder and calls `main`.
    """
    program = Path(sys.argv[0])
    is_script = program.suffix == ".py" and program.name != "__main__.py"
    return shlex.join((*(("python", str(program)) if is_script else ("xpcap",)), *words))


def backend_option(command: Function) -> Function:
    """Add --backend to a command, which calls `choose_backend` with it, and --plain."""
    text = (
        "Compute with numpy, cupy, cupy:N (GPU number N) or auto (a GPU if usable). Default:"
        f" ${VARIABLE}, else numpy."
    )
    plain_text = (
        "Run plain code, the equations as they stand: slower, with the same results up to rounding."
        f" Default: ${PLAIN_VARIABLE}."
    )
    settings: dict[str, Any] = {"is_flag": True, "expose_value": False, "callback": _choose_code}
    command = click.option("--plain", help=plain_text, **settings)(command)
    return click.option("--backend", metavar="|".join((*BACKENDS, "auto")), help=text)(command)


def _choose_code(ctx: click.Context, param: click.Parameter, is_given: bool) -> None:
    """Use plain code until the end of the command, or check the environment's choice."""
    if is_given:
        ctx.with_resource(plain())
    is_plain()


def choose_backend(backend: str | None) -> None:
    """Choose the backend, or check the environment's; an unusable one fails here.

    Each rank on a machine uses a different GPU, unless the backend names one.
    """
    group = current().group
    spec = wanted_backend(backend)
    if group.size > 1 and spec in ("cupy", "auto"):
        _use_gpu_of_rank(spec, group.local_rank, group.rank)
    elif backend is None:
        get_backend()
    else:
        use_backend(backend)


def _use_gpu_of_rank(spec: str, device: int, rank: int) -> None:
    try:
        use_backend(f"{spec}:{device}")
    except BackendError as error:
        raise BackendError(
            f"rank {rank} is number {device} on its machine and needs GPU {device}: {error}; start"
            " as many ranks as there are GPUs, or name one for all, as in `backend` cupy:0"
        ) from error


def wanted_backend(backend: str | None) -> str:
    """The backend of --backend or the environment, untested. OptionError : the name is unknown."""
    spec = backend or os.environ.get(VARIABLE) or "numpy"
    try:
        parse_backend(spec)
    except OptionError as error:
        if backend:
            raise
        raise OptionError(f"{VARIABLE}={spec}: {error}") from error
    return spec


def json_option(command: Function) -> Function:
    return click.option("--json", "as_json", is_flag=True, help=JSON)(command)


def csv_option(command: Function) -> Function:
    text = "Also write a .csv table with the caption and scores of each picture."
    return click.option("--csv", type=PATH, help=text)(command)


# Printing


def print_notice(sentence: str) -> None:
    """Print a notice of the library on standard error, which programs do not parse."""
    say(f"notice: {escape_control(sentence)}", err=True)


def begin(on_notice: Callable[[str], object] = print_notice) -> Group:
    """Begin the work of this command, with bars, notices, and ranks if the command is in `SHARED`.

    `on_notice` is called with each notice on rank 0.
    """
    group = init() if click.get_current_context().command.name in SHARED else SINGLE
    current_work = work(group=group, progress=True, on_notice=on_notice if group.rank == 0 else str)
    return click.get_current_context().with_resource(current_work)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines with aligned columns."""
    from wcwidth import ljust, width

    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(ljust, row, widths)).rstrip() for row in rows)


def print_scores(scores: Scores) -> None:
    """Print scores with intervals, and those of the references."""
    echo_wrapped(f"{scores.summary}; ± is half of the 95 % interval, over pictures")
    heads = ("score", "captions", "", "people" if scores.people else "")
    click.echo(table([heads, *(line for row in scores.rows() for line in _lines(row))]))


def print_protocols(scores: Scores) -> None:
    """Print how each score is measured, or why it is not scored."""
    from wcwidth import ljust, width

    click.echo("\nHow it is measured")
    texts = {row.title: row.protocol for row in scores.rows()} | {"people": scores.human_protocol}
    for name, reason in scores.unscored.items():
        texts[name.replace("_", " ")] = f"not scored: {reason}"
    indent = max(map(width, texts)) + 2
    for title, text in texts.items():
        echo_wrapped(ljust(title, indent) + text, indent)


def _lines(row: Row) -> list[tuple[str, ...]]:
    """The table's lines for a score, one for each of its numbers."""
    cells = (cell.split("  ") for cell in (row.value, row.width.removeprefix("± "), row.human))
    lines = zip_longest(*cells, fillvalue="")
    return [
        ("" if number else row.title, value, width and f"± {width}", people)
        for number, (value, width, people) in enumerate(lines)
    ]


def echo_wrapped(text: str, indent: int = 2) -> None:
    """Print a text in lines that fit the terminal; further lines are indented."""
    width = min(WIDTH, shutil.get_terminal_size().columns)
    indentation = " " * (indent if 3 * indent < width else 2)
    click.echo(textwrap.fill(text, width, subsequent_indent=indentation, break_on_hyphens=False))


def describe_data(file: Path, data: CaptionData) -> str:
    """The content of a data set, in a few lines."""
    rows = []
    for name, split in data.splits.items():
        counts = counted(len(split.images), "picture"), counted(len(split.captions), "caption")
        rows.append((escape_control(name), *counts))
    head = (
        f"{file}: {len(data.vocabulary)} words, features of size {size(data.feature_shape)},"
        f" captions of at most {counted(data.max_words, 'word')}"
    )
    return f"{head}\n{table(rows)}"


def counted(n: int, noun: str) -> str:
    """A number with a noun in the singular or plural."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
