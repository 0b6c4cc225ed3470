"""`verify`: check xpcap against published numbers and finite differences, or grade students' code."""

import csv
import functools
import json
import sys
import textwrap
from pathlib import Path

import click

from xpcap.cli.rules import check_rules
from xpcap.cli.shared import (
    PATH,
    Value,
    backend_option,
    choose_backend,
    examples,
    json_option,
    table,
)
from xpcap.cs231n.grading import results
from xpcap.cs231n.grading.files import KNOWN, find
from xpcap.cs231n.grading.grade import SEED, grade
from xpcap.cs231n.grading.report import Report, Result
from xpcap.cs231n.table import HANDED_IN
from xpcap.cs231n.verify import Row
from xpcap.cs231n.verify import verify as run_verify
from xpcap.errors import DataError, without_subject
from xpcap.files.read_write import require_new_file, write_new
from xpcap.options import Real
from xpcap.report import escape_control

EXAMPLES = examples(
    "verify",
    "verify --backend cupy --json",
    "verify --against rnn_layers.py",
    "verify --against assignment3/cs231n --only 'lstm_*' --html report.html",
    "verify --class submissions",
)
POSITIVE = Real(above=0)
INDENT = " " * 4
WIDTH = 100  # columns of the text of a grading
COLUMNS = "{:<27}  {:<4}  {:<35}  {}"
MAX_WHERE = 34  # characters shown in the table; a longer text follows below


@click.command(epilog=EXAMPLES, short_help="Check xpcap's numbers, or grade students' code.")
@click.option(
    "--against",
    metavar="PATH",
    help="Code to grade: a file such as rnn_layers.py, a folder, or a dotted module name.",
)
@click.option(
    "--class",
    "whole_class",
    metavar="FOLDER",
    type=PATH,
    help="Folder of submissions to grade, one folder or file per student.",
)
@click.option(
    "--expect",
    metavar="LIST",
    help=(
        f"Modules to grade: {', '.join(KNOWN)}; a missing one scores zero."
        f" Default: {','.join(HANDED_IN)}; for a single file, the modules that it defines."
    ),
)
@click.option(
    "--only",
    metavar="PATTERN",
    multiple=True,
    help="With --against: grade only matching functions, such as 'lstm_*'. Repeatable.",
)
@click.option(
    "--html",
    metavar="FILE",
    type=PATH,
    help="With --against: also write an HTML report for the student.",
)
@click.option(
    "--seed",
    metavar="N",
    type=Value(SEED),
    default=0,
    show_default=True,
    help=f"Grading: seed of the inputs.  [{SEED}]",
)
@click.option(
    "--seconds",
    metavar="X",
    type=Value(POSITIVE),
    default=10.0,
    show_default=True,
    help=f"Grading: time limit in seconds for each function.  [{POSITIVE}]",
)
@click.option(
    "--memory",
    metavar="X",
    type=Value(POSITIVE),
    default=2.0,
    show_default=True,
    help=f"Grading: memory limit in GB (Linux).  [{POSITIVE}]",
)
@backend_option
@json_option
def verify(
    against: str | None,
    whole_class: Path | None,
    expect: str | None,
    only: tuple[str, ...],
    html: Path | None,
    backend: str | None,
    as_json: bool,
    seed: int,
    seconds: float,
    memory: float,
) -> None:
    """Check reference values and gradients on a backend, or grade students' code.

    Compares results with CS231n's reference values, and gradients with finite differences. Each row
    shows an error and its tolerance. On CuPy, training steps are also compared with NumPy's, and
    repeated. The exit status is 1 if any row fails.

    --against grades a student's layers, captioner, update rules and solver instead, on NumPy only.
    A failed function is shown with the wrong output, the kind of mistake and advice. The code runs
    with your rights: grade untrusted code in a container. The exit status is 1 if any function
    fails.

    --class grades a folder of submissions, also on NumPy only, and prints CSV: a line per student
    with points and what is wrong.
    """
    check_rules()
    if against is None and whole_class is None:
        choose_backend(backend)
        _print_rows(list(run_verify()), as_json)
        return
    modules = tuple(dict.fromkeys(expect.split(","))) if expect is not None else HANDED_IN
    grader = functools.partial(grade, seed=seed, seconds=seconds, memory=memory)
    if whole_class is not None:
        entries = _entries(whole_class)
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(results.HEADS)
        for entry in entries:
            try:
                points, wrong = results.class_cells(grader(entry, expect=modules))
            except DataError as error:
                points = "0"
                wrong = f"the submission {without_subject(error, entry)}"
            student = entry.stem if entry.is_file() else entry.name
            writer.writerow(map(escape_control, (student, points, wrong)))
            sys.stdout.flush()
        return
    assert against is not None
    if html is not None:
        require_new_file(html, ".html")
    # A single file is graded for what it defines; a folder for all modules of the exercise
    is_single = find(against).is_file() and expect is None
    report = grader(against, expect=None if is_single else modules, only=only)
    _print_report(report, as_json)
    if html is not None:
        write_new(html, results.report_page(Path(against).name, report))
        click.echo(f"wrote {html}", err=as_json)
    if not all(result.passed for result in report.marks):
        sys.exit(1)


def _entries(folder: Path) -> list[Path]:
    """The submissions of a class."""
    listed = sorted(folder.iterdir()) if folder.is_dir() else []
    entries = [entry for entry in listed if entry.name[0] != "." and entry.name != "__MACOSX"]
    if entries:
        return entries
    got = "has no entries" if folder.is_dir() else "is not a folder"
    raise DataError(f"{folder} {got}, expected a folder with an entry per student")


def _print_report(report: Report, as_json: bool) -> None:
    for line in results.notices(report):
        click.echo(line, err=as_json)
    if as_json:
        click.echo(json.dumps(results.to_json(report)))
        return
    click.echo(COLUMNS.format("function", "pass", "where", "kind"))
    previous = ""
    for result in report.results:
        name = result.function
        passed = "yes" if result.passed else "NO"
        _print_result(("", "") if name == previous else (name, passed), result)
        previous = name
    click.echo(results.summary(report))


def _print_result(cells: tuple[str, str], result: Result) -> None:
    """Print a row of a grading's table, and below it the advice."""
    where = escape_control(result.where)
    line = results.LINE.fullmatch(where)
    if line:
        cell = f"line {line[1]}"
        remainder = line[2]
    else:
        cell = escape_control(where, MAX_WHERE)
        remainder = where if cell != where else ""
    click.echo(COLUMNS.format(*cells, cell, escape_control(result.kind)).rstrip())
    for is_code, text in [(False, remainder)] * bool(remainder) + results.blocks(result.advice):
        for paragraph in text.split("\n"):
            paragraph = escape_control(paragraph, results.MAX_TEXT)
            wrapped = paragraph if is_code else textwrap.fill(paragraph, WIDTH - len(INDENT))
            click.echo(textwrap.indent(wrapped, INDENT))


def _print_rows(rows: list[Row], as_json: bool) -> None:
    failed = [row for row in rows if not row.passed]
    if as_json:
        click.echo(json.dumps([row._asdict() for row in rows]))
    else:
        cells = [
            (*row[:3], f"{row.error:.1e}", f"{row.tolerance:.0e}", "yes" if row.passed else "NO")
            for row in rows
        ]
        heads = ("case", "backend", "dtype", "error", "tolerance", "pass")
        click.echo(table([heads, *cells]))
        click.echo(f"{len(rows) - len(failed)} of {len(rows)} rows pass")
    if failed:
        sys.exit(1)
