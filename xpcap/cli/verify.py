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
    "--class",
    "whole_class",
    metavar="FOLDER",
    type=PATH,
    help=(
        "Grade each entry of a folder, a student's folder or file, also as Canvas and Moodle name"
        " them."
    ),
)
@click.option(
    "--out",
    metavar="FOLDER",
    type=PATH,
    help=(
        "Of --class: a new folder, for NAME.html and NAME.json of each student, class.json with the"
        " seed, and class.csv of all, which is written last; or the folder of a grading that was"
        " interrupted."
    ),
)
@click.option(
    "--roster",
    metavar="FILE",
    type=PATH,
    help=(
        "Of --class: names, one a line, or CSV with a column student, name or full name. Who handed"
        " in nothing gets zero."
    ),
)
@click.option(
    "--jobs",
    metavar="N",
    type=Value(COUNT),
    help=(
        "Of --class: students that are judged at a time; the code of two never runs at the same"
        f" time. Default: the number of cores.  [{COUNT}]"
    ),
)
@click.option(
    "--expect",
    metavar="LIST",
    help=(
        "Of a grading: modules that the 100 points are of; a missing one earns none. Of"
        f" {', '.join(KNOWN)}. Default: {','.join(HANDED_IN)}; of a file alone, those that it"
        " defines."
    ),
)
@click.option(
    "--only",
    metavar="PATTERN",
    multiple=True,
    help=("Of --against: grade only functions that match, such as 'lstm_*'. Repeatable."),
)
@click.option(
    "--gradescope",
    metavar="FILE",
    type=PATH,
    help="Of --against: also write points as Gradescope's results.json, a new file.",
)
@click.option(
    "--html",
    metavar="FILE",
    type=PATH,
    help="Of --against: also write a page for the student, a new file.",
)
@click.option(
    "--seed",
    metavar="N",
    type=Value(SEED),
    help=(
        "Of a grading: inputs are drawn from it and from all files that were handed in. Default:"
        f" drawn, and written down: of a class in class.json.  [{SEED}]"
    ),
)
@click.option(
    "--seconds",
    metavar="X",
    type=Value(POSITIVE),
    default=10.0,
    show_default=True,
    help=f"Of a grading: time limit of the checks of a function.  [{POSITIVE}]",
)
@click.option(
    "--memory",
    metavar="X",
    type=Value(POSITIVE),
    default=2.0,
    show_default=True,
    help=f"Of a grading: memory limit in GB (Linux).  [{POSITIVE}]",
)
@click.option(
    "--require-confinement",
    is_flag=True,
    help="Of a grading: refuse where the system cannot confine the code.",
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
    """Check published numbers and gradients on a backend, or grade students' code.

    Compares results with the values that CS231n publishes, and gradients with finite differences:
    one row each, with its error and tolerance. On CuPy, training steps are also compared with
    NumPy's, and repeated. The exit status is 1 if any row fails.

    --against grades a student's layers, captioner, update rules and solver instead. A function that
    fails is shown with the wrong output, the kind of mistake and advice. The first line says if
    nothing confined the code: see SECURITY.md. The exit status is 1 if any function fails.

    --class grades a folder of submissions and goes on whatever happens to one. Reports are written
    as students are graded, into a new folder; what has to wait until all layers have their marks is
    pending in them and completed then. After an interruption the same command goes on. The exit
    status is 1 if the grader itself failed for a student.
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
            stop.add_note(f"{out} holds complete reports of {count_text}; the same command goes on")
        raise
    if names and (unlisted := not_on(names, [graded.student for graded in students])):
        note(f"not on the roster: {', '.join(unlisted)}")
    click.echo(f"wrote {out / TABLE}: {len(students)} students; the seed is in {out / BEGUN}")
    if failed := [graded.student for graded in students if graded.failure]:
        note(f"the grader failed, and its zero is no mark, for {', '.join(failed)}")
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
    cell = f"line {line[1]}" if line else escape_control(where, MOST_WHERE)
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
