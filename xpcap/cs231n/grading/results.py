"""Output of a grading: summary, JSON, a page for the student, a row of a class's table."""

import itertools
import math
import re
from typing import Any

from xpcap.cs231n import table
from xpcap.cs231n.grading.report import NOT_GRADED, Report, Result
from xpcap.report import escape_control
from xpcap.report.markup import render

TOTAL = 100
MAX_TEXT = 2000  # characters of advice
LINE = re.compile(r"line (\d+): (.*)", re.DOTALL)  # a result's `where` that names a line
HEADS = ("student", "points", "wrong")  # of a class's table


def summary(report: Report) -> str:
    """A sentence such as "14 of 16 functions pass, 83 of 100 points".

    It gives no points if only chosen functions were graded.
    """
    marks = [mark for mark in report.marks if mark.function in table.FUNCTIONS]
    word = "function passes" if len(marks) == 1 else "functions pass"
    passing = f"{sum(mark.passed for mark in marks)} of {len(marks)} {word}"
    return passing if report.chosen else f"{passing}, {report.score:g} of {TOTAL} points"


def blocks(advice: str) -> list[tuple[bool, str]]:
    """Advice in pieces: True and indented lines of code, or False and a paragraph."""
    lines = [line for line in advice[:MAX_TEXT].split("\n") if line.strip()]
    grouped = itertools.groupby(lines, key=lambda line: line[0] in " \t")
    return [(code, ("\n" if code else " ").join(piece)) for code, piece in grouped]


def to_json(report: Report) -> dict[str, Any]:
    """A report as values for JSON; an error that is not finite is None."""
    return {
        "score": report.score,
        "expected": report.expected,
        "missing": report.missing,
        "notices": report.notices,
        "functions": [
            {**mark._asdict(), "results": list(map(_finite, mark.results))} for mark in report.marks
        ],
    }


def _finite(result: Result) -> dict[str, Any]:
    error = result.error if math.isfinite(result.error or 0.0) else None
    return {**result._asdict(), "error": error}


def class_cells(report: Report) -> tuple[str, str]:
    """Points, and what is wrong: notices, and failed functions with kind and place."""
    wrong = [
        f"{result.function}: {', '.join(filter(None, (result.kind, result.where)))}"
        for result in report
        if not result.passed
    ]
    return f"{report.score:g}", "; ".join([*report.notices, *wrong])


# The page


def report_page(title: str, report: Report) -> bytes:
    """A page for the student: failed functions with advice, then those that pass.

    It is one file without a script. All text is escaped and cut, since it quotes the submission.
    """
    marks = [
        {
            **mark._asdict(),
            "results": list(map(_result_cells, mark.results)),
            "reason": mark.results[0].advice if mark.results[0].kind == NOT_GRADED else "",
            "has_advice": any(result.kind for result in mark.results),
        }
        for mark in report.marks
    ]
    return render(
        "grading.html",
        title=f"Grading of {title}",
        summary=f"{summary(report)}.",
        notices=notices(report),
        marks=marks,
    )


def notices(report: Report) -> list[str]:
    """Lines on the grading as a whole, such as files that are not graded."""
    return [escape_control(line, MAX_TEXT) for line in report.notices]


def _result_cells(result: Result) -> dict[str, Any]:
    """A result for the page's template, with the student's line and code in the advice marked."""
    line = LINE.fullmatch(result.where)
    error = math.nan if result.passed or result.error is None else result.error
    return {
        "kind": result.kind,
        "where": "" if line else result.where,
        "number": line[1] if line else "",
        "text": line[2] if line else "",
        # every second piece is code, between backquotes
        "advice": [
            (code, text.split("\n" if code else "`")) for code, text in blocks(result.advice)
        ],
        "error": f"{error:.1e}" if math.isfinite(error) else "",
    }
