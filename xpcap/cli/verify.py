"""`verify`: published numbers and gradient checks of xpcap, or the grading of students' code."""

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import click

from xpcap.cli.rules import check_rules
from xpcap.cli.shared import (
    PATH,
    Value,
    backend_option,
    choose_backend,
    examples,
    json_option,
    note,
    table,
    wanted_backend,
)
from xpcap.errors import DataError, OptionError
from xpcap.exercise.grading import results
from xpcap.exercise.grading.confine import fill_page_cache
from xpcap.exercise.grading.files import KNOWN, find
from xpcap.exercise.grading.grade import grade
from xpcap.exercise.grading.report import Report, Result
from xpcap.exercise.grading.roster import (
    BEGUN,
    TABLE,
    Graded,
    grade_class,
    not_on,
    read_roster,
)
from xpcap.exercise.table import HANDED_IN
from xpcap.files import require_new_file, write_new
from xpcap.options import Real, Whole
from xpcap.report import escape_control
from xpcap.verify import Row
from xpcap.verify import verify as run_verify

EXAMPLES = examples(
    "verify",
    "verify --backend cupy --json",
    "verify --against rnn_layers.py",
    "verify --against assignment3/cs231n --only 'lstm_*' --html report.html",
    "verify --against submission --gradescope results.json",
    "verify --class submissions --out reports",
)
COUNT, SEED, POSITIVE = Whole(1), Whole(0), Real(above=0)
INDENT = " " * 4
WIDTH = 100  # columns of the text of a grading
COLUMNS = "{:<27}  {:<4}  {:<35}  {}"
MAX_WHERE = 34  # characters shown in the table; a longer one follows whole


@click.command(epilog=EXAMPLES, short_help="Check xpcap's numbers, or grade students' code.")
@click.option(
    "--against",
    metavar="PATH",
    help=(
        "Code to grade: a file such as rnn_layers.py, a folder such as cs231n, or a dotted module"
        " name."
    ),
)
@click.option(
    "--class",
    "whole_class",
    metavar="FOLDER",
    type=PATH,
    help=(
        "Folder of submissions to grade: one folder or file per student, or files with Canvas's or"
        " Moodle's names."
    ),
)
@click.option(
    "--out",
    metavar="FOLDER",
    type=PATH,
    help=(
        "With --class: new folder for the reports, NAME.html and NAME.json per student, the seed in"
        " class.json and the table class.csv; or the folder of an interrupted grading."
    ),
)
@click.option(
    "--roster",
    metavar="FILE",
    type=PATH,
    help=(
        "With --class: student names, one per line, or CSV with a column student, name or full name."
        " Missing submissions score zero."
    ),
)
@click.option(
    "--jobs",
    metavar="N",
    type=Value(COUNT),
    help=(
        "With --class: students graded in parallel; only one student's code runs at a time."
        f" Default: the number of cores.  [{COUNT}]"
    ),
)
@click.option(
    "--expect",
    metavar="LIST",
    help=(
        f"Modules to score, out of 100 points: {', '.join(KNOWN)}. A missing module scores zero."
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
    "--gradescope",
    metavar="FILE",
    type=PATH,
    help="With --against: also write a new file with points in Gradescope's results format.",
)
@click.option(
    "--html",
    metavar="FILE",
    type=PATH,
    help="With --against: also write a new HTML report for the student.",
)
@click.option(
    "--seed",
    metavar="N",
    type=Value(SEED),
    help=(
        "Grading: seed of the inputs, which also depend on the submitted files. Default: a random"
        f" seed, which the report or class.json records.  [{SEED}]"
    ),
)
@click.option(
    "--seconds",
    metavar="X",
    type=Value(POSITIVE),
    default=10.0,
    show_default=True,
    help=f"Grading: time limit in seconds for the checks of one function.  [{POSITIVE}]",
)
@click.option(
    "--memory",
    metavar="X",
    type=Value(POSITIVE),
    default=2.0,
    show_default=True,
    help=f"Grading: memory limit in GB (Linux).  [{POSITIVE}]",
)
@click.option(
    "--require-confinement",
    is_flag=True,
    help="Grading: refuse to run code without confinement.",
)
@backend_option
@json_option
def verify(
    against: str | None,
    whole_class: Path | None,
    out: Path | None,
    roster: Path | None,
    jobs: int | None,
    expect: str | None,
    only: tuple[str, ...],
    gradescope: Path | None,
    html: Path | None,
    backend: str | None,
    as_json: bool,
    **limits: Any,
) -> None:
    """Check reference values and gradients on a backend, or grade students' code.

    Compares results with CS231n's reference values, and gradients with finite differences. Each row
    shows an error and its tolerance. On CuPy, training steps are also compared with NumPy's, and
    repeated. The exit status is 1 if any row fails.

    --against grades a student's layers, captioner, update rules and solver instead, on NumPy only.
    A failed function is shown with the wrong output, the kind of mistake and advice. The first line
    warns if the code ran unconfined: see SECURITY.md. The exit status is 1 if any function fails.

    --class grades a folder of submissions, also on NumPy only, and continues if one fails. It writes
    reports during grading; loops and captioners stay pending until all layers are graded. The same
    command continues an interrupted grading. The exit status is 1 if the grader itself failed for
    any student.
    """
    check_rules()
    if against is None and whole_class is None:
        choose_backend(backend)
        _print_rows(list(run_verify()), as_json)
        return
    if backend is not None and wanted_backend(backend) != "numpy":
        got = f"`backend` {backend} with `{'against' if whole_class is None else 'whole_class'}`"
        raise OptionError("verify", "", got, expected="numpy: a submission is NumPy code")
    modules = tuple(dict.fromkeys(expect.split(","))) if expect is not None else HANDED_IN
    if whole_class is not None:
        assert out is not None
        _grade_class(whole_class, out, roster, expect=modules, jobs=jobs, **limits)
        return
    assert against is not None
    for suffix, file in ((".json", gradescope), (".html", html)):
        if file is not None:
            require_new_file("verify", file, suffix)
    # a student at home grades what is there; of a submission the rest is missing
    is_alone = find(against).is_file() and expect is None and gradescope is None
    fill_page_cache()
    try:
        report = grade(against, expect=None if is_alone else modules, only=only, **limits)
    except DataError as error:
        if gradescope is not None:
            refused = results.refused(modules, error)
            write_new("verify", gradescope, results.to_gradescope(refused))
        raise
    _print_report(report, bool(only), as_json)
    if gradescope is not None:
        write_new("verify", gradescope, results.to_gradescope(report))
    if html is not None:
        write_new("verify", html, results.report_page(Path(against).name, report))
    for file in filter(None, (gradescope, html)):
        click.echo(f"wrote {file}", err=as_json)
    if not all(result.passed for result in (report.results if only else report.marks)):
        sys.exit(1)


def _grade_class(folder: Path, out: Path, roster: Path | None, **options: Any) -> None:
    names = read_roster(roster) if roster is not None else []
    notices: list[str] = []  # lines of the reports, on what nothing held

    def show(graded: Graded) -> None:
        notices.append(results.unheld(graded.report))
        if notices[-1] and not any(notices[:-1]):
            click.echo(notices[-1])
        click.echo(f"{escape_control(graded.student)}: {results.summary(graded.report)}")
        for line in graded.failure.splitlines():
            click.echo(escape_control(line), err=True)

    try:
        students = grade_class(folder, out, names=names, on_graded=show, **options)
    except (KeyboardInterrupt, OSError) as stop:
        if out.exists():
            count_text = f"{len(notices)} {'student' if len(notices) == 1 else 'students'}"
            stop.add_note(
                f"{out} holds complete reports of {count_text}; the same command continues"
            )
        raise
    if names and (unlisted := not_on(names, [graded.student for graded in students])):
        note(f"not on the roster: {', '.join(unlisted)}")
    click.echo(f"wrote {out / TABLE}: {len(students)} students; the seed is in {out / BEGUN}")
    if failed := [graded.student for graded in students if graded.failure]:
        note(f"the grader failed for {', '.join(failed)}: this zero is not a mark")
        sys.exit(1)


def _print_report(report: Report, only: bool, as_json: bool) -> None:
    notes = (results.unheld(report), *results.about(report), f"inputs of --seed {report.seed}")
    if as_json:
        for line in filter(None, notes):
            click.echo(line, err=True)
        click.echo(json.dumps(results.to_json(report.results)))
        return
    for line in filter(None, notes):
        click.echo(line)
    click.echo(COLUMNS.format("function", "pass", "where", "kind"))
    previous = ""
    for result in report.results:
        name, passed = result.function, "yes" if result.passed else "NO"
        _print_result(("", "") if name == previous else (name, passed), result)
        previous = name
    click.echo(results.summary(report, only))


def _print_result(cells: tuple[str, str], result: Result) -> None:
    """Print a row of the table of a grading, and below it what to do."""
    where = escape_control(result.where)
    line = results.LINE.fullmatch(where)
    cell = f"line {line[1]}" if line else escape_control(where, MAX_WHERE)
    click.echo(COLUMNS.format(*cells, cell, escape_control(result.kind)).rstrip())
    remainder = line[2] if line else where if cell != where else ""
    for is_code, text in [(False, remainder)] * bool(remainder) + results.blocks(result.advice):
        for paragraph in text.split("\n"):
            paragraph = escape_control(paragraph, results.MOST_TEXT)
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
