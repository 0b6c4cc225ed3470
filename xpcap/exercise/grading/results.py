"""Output of a grading: JSON, points in Gradescope's format, a page for the student, rows of a class."""

import csv
import io
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from xpcap.errors import DataError
from xpcap.exercise import table
from xpcap.exercise.grading.report import (
    NOT_GRADED,
    PENDING,
    WHOLE,
    Mark,
    Report,
    Result,
    zero_report,
)
from xpcap.files import read_text, write_text
from xpcap.report import escape_control
from xpcap.report.markup import render

TOTAL = 100
MOST_TEXT = 2000  # characters of an advice
UNJUDGED = (NOT_GRADED, PENDING)  # kinds
MOST_JSON = 10**7  # bytes of a report
LINE = re.compile(r"line (\d+): (.*)", re.DOTALL)  # of a submission, as `where` of a result
HEADS = ("student", "function", "points", "most", "passed", "kind", "where", "advice", "unusual")
FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]")  # how a cell begins that a spreadsheet computes


def refused(expected: Sequence[str], error: DataError) -> Report:
    """The report of a submission in which nothing of the course is found."""
    reason = f"The submission {error.reason}"
    return zero_report(expected, reason if reason.endswith("?") else f"{reason}.")


def unheld(report: Report) -> str:
    """The first line of a report: that nothing held the code; "" if it was confined."""
    says = report.confinement
    return escape_control(says, MOST_TEXT) if says.startswith("not confined") else ""


def about(report: Report) -> list[str]:
    """Lines on the grading as a whole, such as names that were taken for others."""
    return [escape_control(line, MOST_TEXT) for line in report.notes]


def summary(report: Report, only: bool = False) -> str:
    """A sentence such as "14 of 16 functions pass, 83 of 100 points".

    Points are of all functions, so there are none where `only` some were graded.
    """
    marks = [one for one in report.marks if one.function in table.FUNCTIONS]
    if only:
        marks = [one for one in marks if one.results[0].kind != NOT_GRADED]
    word = "function passes" if len(marks) == 1 else "functions pass"
    passing = f"{sum(one.passed for one in marks)} of {len(marks)} {word}"
    waiting = f", {len(report.pending)} pending" if report.pending else ""
    return passing if only else f"{passing}, {report.score:g} of {TOTAL} points{waiting}"


def blocks(advice: str) -> list[tuple[bool, str]]:
    """An advice in pieces: True and lines of code, which are indented, or False and a paragraph."""
    lines = [line for line in advice[:MOST_TEXT].split("\n") if line.strip()]
    grouped = itertools.groupby(lines, key=lambda line: line[0] in " \t")
    return [(code, ("\n" if code else " ").join(some)) for code, some in grouped]


def lines(result: Result) -> list[str]:
    """A result in words: kind and where, then advice; none for a pass without a remark."""
    found = ", ".join(filter(None, (result.kind, result.where)))
    advice = [line for _, text in blocks(result.advice) for line in text.split("\n")]
    return [escape_control(line, MOST_TEXT) for line in (found, *advice) if line]


# JSON


def to_json(results: Iterable[Result]) -> list[dict[str, Any]]:
    """Results as JSON takes them: an error that is not finite is None."""
    return [
        {**one._asdict(), "error": one.error if math.isfinite(one.error or 0.0) else None}
        for one in results
    ]


def write_json(path: Path, student: str, report: Report) -> None:
    """Write a report, without what is the teacher's alone. OSError : it cannot be written."""
    content = {
        "confinement": report.confinement,
        "student": student,
        "score": report.score,
        "pending": report.pending,
        "expected": report.expected,
        "missing": report.missing,
        "content": report.content,
        "notes": report.notes,
        "functions": [
            {**mark._asdict(), "results": to_json(mark.results)} for mark in report.marks
        ],
    }
    write_text(path, json.dumps(content, indent=1) + "\n")


def read_json(path: Path, begun: Report) -> Report | None:
    """The report of a file; None if it is incomplete, or of other files than one that has begun."""
    try:
        content = json.loads(read_text(path, MOST_JSON))
        if content["pending"] or content["content"] != begun.content:
            return None
        found = [Result(**result) for mark in content["functions"] for result in mark["results"]]
        results = [result for result in found if result.kind != NOT_GRADED]
        return replace(begun, results=results, missing=content["missing"])
    except (ValueError, LookupError, TypeError):
        return None


# Gradescope


def to_gradescope(report: Report) -> str:
    """A report as the JSON that Gradescope reads.

    Functions without points are no tests; what is wrong with them stands above.

    https://gradescope-autograders.readthedocs.io/en/latest/specs/#output-format
    """
    marks = report.marks
    tests = [mark for mark in marks if mark.most] or marks
    above = [
        f"{mark.function}: {' '.join(lines(result))}"
        for mark in marks
        if mark not in tests and not mark.passed
        for result in mark.results
    ]
    output = [unheld(report), f"{summary(report)}.", *about(report), *above]
    rows = [
        {
            "name": mark.function,
            "score": mark.points,
            "max_score": mark.most,
            "status": "passed" if mark.passed else "failed",
            "output": "\n".join(line for result in mark.results for line in lines(result)),
            "output_format": "text",
        }
        for mark in tests
    ]
    text = {"output": "\n".join(filter(None, output)), "output_format": "text"}
    return json.dumps({"score": report.score, **text, "tests": rows}, indent=1)


# The page


def report_page(title: str, report: Report) -> bytes:
    """A page for the student: what is to be mended, with its advice, then what is right.

    It is one file without script. All text is escaped and cut, since a submission's own words are
    in it.
    """
    marks = [
        {
            **mark._asdict(),
            "results": list(map(_found, mark.results)),
            "reason": mark.results[0].advice if mark.results[0].kind in UNJUDGED else "",
            "remark": any(result.kind for result in mark.results),
        }
        for mark in report.marks
    ]
    return render(
        "grading.html",
        title=f"Grading of {title}",
        unheld=unheld(report),
        summary=f"{summary(report)}.",
        about=about(report),
        marks=marks,
    )


def _found(result: Result) -> dict[str, Any]:
    """A result as the page takes it: the student's line apart, and code in the advice."""
    line = LINE.fullmatch(result.where)
    error = math.nan if result.passed or result.error is None else result.error
    return {
        "kind": result.kind,
        "where": "" if line else result.where,
        "number": line[1] if line else "",
        "text": line[2] if line else "",
        # between backquotes stands code: every second piece
        "advice": [
            (code, text.split("\n" if code else "`")) for code, text in blocks(result.advice)
        ],
        "error": f"{error:.1e}" if math.isfinite(error) else "",
    }


# A class


def class_rows(student: str, report: Report) -> Iterator[list[str | float]]:
    """A row of `HEADS` for each function, and one of the total."""
    marks = {mark.function: mark for mark in report.marks}
    passed = all(mark.passed for mark in marks.values())
    whole = marks.pop(WHOLE).results if WHOLE in marks else ()
    notes = [Result("total", passed, advice=note) for note in report.notes]
    total = Mark("total", float(TOTAL), report.score, passed, [*whole, *notes])
    for mark in (*marks.values(), total):
        advice = [text for one in mark.results for code, text in blocks(one.advice) if not code]
        found = [one.kind for one in mark.results], [one.where for one in mark.results], advice
        told = ["; ".join(dict.fromkeys(filter(None, texts))) for texts in found]
        yes = "yes" if mark.passed else "no"
        unusual = ", ".join(report.unusual) if mark is total else ""
        yield [student, mark.function, mark.points, mark.most, yes, *told, unusual]


def write_class(path: Path, graded: Iterable[tuple[str, Report]]) -> None:
    """Write the rows of a class as CSV. OSError : it cannot be written.

    Text stays text in a spreadsheet: what would be a formula has an apostrophe before it, and all
    text is quoted, since some take semicolons for commas.
    """
    written = io.StringIO()
    writer = csv.writer(written, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(HEADS)
    for row in itertools.chain.from_iterable(itertools.starmap(class_rows, graded)):
        writer.writerow([_cell(cell) if isinstance(cell, str) else cell for cell in row])
    write_text(path, written.getvalue())


def _cell(text: str) -> str:
    text = escape_control(text, MOST_TEXT)
    return f"'{text}" if FORMULA.match(text) else text
