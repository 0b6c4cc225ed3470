"""`verify`: published numbers and gradient checks of xpcap, or the grading of a student's code."""

import json
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

import click
from click.core import ParameterSource

from xpcap.backend import use_backend
from xpcap.cli.shared import (
    PATH,
    Number,
    backend_option,
    choose_backend,
    examples,
    json_option,
    table,
    wanted_backend,
)
from xpcap.errors import OptionError
from xpcap.exercise.grading import Result
from xpcap.exercise.grading import grade as run_grade
from xpcap.exercise.grading.results import (
    LINE,
    MOST_TEXT,
    summary,
    to_json,
    write_gradescope,
    write_report,
)
from xpcap.report import escape_control
from xpcap.runs import check_new_file
from xpcap.verify import Row
from xpcap.verify import verify as run_verify

EXAMPLES = examples(
    "verify",
    "verify --backend cupy --json",
    "verify --against rnn_layers.py",
    "verify --against assignment3/cs231n --only 'lstm_*' --html report.html",
    "verify --against submission --gradescope results.json",
)
GRADING = ("only", "gradescope", "html", "seconds", "memory")  # parameters of --against alone
INDENT = " " * 4
WIDTH = 100  # columns of the text of a grading
COLUMNS = "{:<27}  {:<4}  {:<35}  {}"
MOST_WHERE = 34  # characters shown in the table; a longer one follows whole


@click.command(epilog=EXAMPLES)
@click.option(
    "--against",
    metavar="PATH",
    help=(
        "Grade this code instead of xpcap: a file such as rnn_layers.py, a folder such as cs231n, or"
        " a dotted module name."
    ),
)
@click.option(
    "--only",
    multiple=True,
    metavar="PATTERN",
    help="Of --against: grade only functions that match, such as 'lstm_*'. Repeatable.",
)
@click.option(
    "--gradescope",
    type=PATH,
    metavar="FILE",
    help="Of --against: also write points as Gradescope's results.json, a new file.",
)
@click.option(
    "--html",
    type=PATH,
    metavar="FILE",
    help="Of --against: also write a page for the student, a new file.",
)
@click.option(
    "--seconds",
    type=Number(0, min_open=True),
    default=10.0,
    show_default=True,
    help="Of --against: time limit of one call.",
)
@click.option(
    "--memory",
    type=Number(0, min_open=True),
    default=2.0,
    show_default=True,
    help="Of --against: memory limit in GB (Linux).",
)
@backend_option
@json_option
@click.pass_context
def verify(
    ctx: click.Context,
    against: str | None,
    only: tuple[str, ...],
    gradescope: Path | None,
    html: Path | None,
    seconds: float,
    memory: float,
    backend: str | None,
    as_json: bool,
) -> None:
    """Check published numbers and gradients on a backend, or grade a student's code.

    Compares results with the values that CS231n publishes, and gradients with finite differences:
    one row each, with its error and tolerance. On CuPy, training steps are also compared with
    NumPy's, and repeated. The exit status is 1 if any row fails.

    --against grades a student's layers, captioner, update rules and solver instead. A function that
    fails is shown with the wrong output, the kind of mistake and advice. The code runs in a process
    with limits on time and memory, which is no sandbox: see SECURITY.md. The exit status is 1 if
    any function fails.
    """
    if against is None:
        _refuse(ctx, GRADING)
        choose_backend(backend)
        _print_rows(list(run_verify()), as_json)
        return
    if backend is not None and wanted_backend(backend) != "numpy":
        raise OptionError(
            "verify",
            "",
            f"`backend` {backend} with `against`",
            expected="numpy: a submission is NumPy code",
        )
    for file, suffix in ((gradescope, ".json"), (html, ".html")):
        if file is not None:
            check_new_file(file, suffix, command="verify")
    shown: list[Result] = []

    def show(result: Result) -> None:
        _print_result(result, shown[-1] if shown else None)
        shown.append(result)

    with use_backend("numpy"):
        graded = run_grade(
            against,
            only=only,
            seconds=seconds,
            memory=memory,
            on_result=None if as_json else show,  # as it comes: code that hangs takes its seconds
        )
    click.echo(json.dumps(to_json(graded)) if as_json else summary(graded))
    if gradescope is not None:
        write_gradescope(gradescope, graded)
    if html is not None:
        write_report(html, Path(against).name, graded)
    for file in (gradescope, html):
        if file is not None:
            click.echo(f"wrote {file}", err=as_json)
    if not all(result.passed for result in graded):
        sys.exit(1)


def _refuse(ctx: click.Context, names: Iterable[str]) -> None:
    for name in names:
        if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise OptionError("verify", f"`{name}`", "without `against`, which it belongs to")


def _print_rows(rows: list[Row], as_json: bool) -> None:
    failed = [row for row in rows if not row.passed]
    if as_json:
        click.echo(json.dumps([row._asdict() for row in rows]))
    else:
        heads = ("case", "backend", "dtype", "error", "tolerance", "pass")
        click.echo(table([heads, *map(_line, rows)]))
        click.echo(f"{len(rows) - len(failed)} of {len(rows)} rows pass")
    if failed:
        sys.exit(1)


def _line(row: Row) -> tuple[str, ...]:
    numbers = f"{row.error:.1e}", f"{row.tolerance:.0e}"
    return row.case, row.backend, row.dtype, *numbers, "yes" if row.passed else "NO"


def _print_result(result: Result, before: Result | None) -> None:
    """Print a row of the table of a grading, and below it what to do."""
    if before is None:
        click.echo(COLUMNS.format("function", "pass", "where", "kind"))
    again = before is not None and before.function == result.function
    where = escape_control(result.where)
    line = LINE.fullmatch(where)
    cell = f"line {line[1]}" if line else escape_control(where, MOST_WHERE)
    name, passed = ("", "") if again else (result.function, "yes" if result.passed else "NO")
    click.echo(COLUMNS.format(name, passed, cell, escape_control(result.kind)).rstrip())
    whole = line[2] if line else where if cell != where else ""
    for text in (whole, escape_control(result.advice, MOST_TEXT)):
        if text:
            click.echo(textwrap.fill(text, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT))
