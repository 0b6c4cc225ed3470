"""Output of a grading: JSON, points in Gradescope's format, a page for the student."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from xpcap.exercise.grading.grade import Result
from xpcap.files import atomic
from xpcap.report import escape_control
from xpcap.report.markup import render

# Points of what the course has its students write, in proportion: of layers and captioner together
# 100. What the course gives (affine layers, softmax loss, sgd, the solver) has none
POINTS = {
    "rnn_step_forward": 6,
    "rnn_step_backward": 8,
    "rnn_forward": 6,
    "rnn_backward": 8,
    "word_embedding_forward": 3,
    "word_embedding_backward": 5,
    "lstm_step_forward": 8,
    "lstm_step_backward": 14,
    "lstm_forward": 6,
    "lstm_backward": 12,
    "CaptioningRNN.loss (rnn)": 7,
    "CaptioningRNN.loss (lstm)": 7,
    "CaptioningRNN.sample (rnn)": 5,
    "CaptioningRNN.sample (lstm)": 5,
    "sgd_momentum": 3,
    "rmsprop": 3,
    "adam": 6,
}
TOTAL = 100
MOST_TEXT = 2000  # characters of an advice
LINE = re.compile(r"line (\d+): (.*)", re.DOTALL)  # of a submission, as `where` of a result


class Function(NamedTuple):
    """All that was found of one function."""

    name: str
    passed: bool
    results: Sequence[Result]


def functions(results: Iterable[Result]) -> list[Function]:
    """Results by function, in their order; one passes if each of its results does."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.function, []).append(result)
    return [Function(name, all(one.passed for one in rows), rows) for name, rows in found.items()]


def summary(results: Iterable[Result]) -> str:
    """A sentence such as ``"14 of 16 functions pass"``."""
    return _sentence(functions(results))


def _sentence(graded: Sequence[Function]) -> str:
    word = "function passes" if len(graded) == 1 else "functions pass"
    return f"{sum(one.passed for one in graded)} of {len(graded)} {word}"


def to_json(results: Iterable[Result]) -> list[dict[str, Any]]:
    """Results as JSON takes them: an error that is not finite is None."""
    return [
        {**one._asdict(), "error": one.error if math.isfinite(one.error or 0.0) else None}
        for one in results
    ]


def points(names: Sequence[str]) -> dict[str, float]:
    """Most points of each function: `POINTS` in proportion, to two decimals, 100 in all.

    Where none of the functions has points in `POINTS`, all have the same.
    """
    weights = [POINTS.get(name, 0) for name in names]
    if not any(weights):
        weights = [1] * len(names)
    shares = [100 * TOTAL * weight / sum(weights) for weight in weights]
    cents = [math.floor(share) for share in shares]
    left = 100 * TOTAL - sum(cents)
    most_cut = sorted(range(len(names)), key=lambda i: cents[i] - shares[i])
    for i in most_cut[:left]:
        cents[i] += 1
    return {name: cent / 100 for name, cent in zip(names, cents, strict=True)}


def to_gradescope(results: Iterable[Result]) -> dict[str, Any]:
    """Results in the format that Gradescope reads from ``results.json``.

    References
    ----------
    https://gradescope-autograders.readthedocs.io/en/latest/specs/#output-format
    """
    graded = functions(results)
    most = points([one.name for one in graded])
    tests = [
        {
            "name": one.name,
            "score": most[one.name] if one.passed else 0.0,
            "max_score": most[one.name],
            "status": "passed" if one.passed else "failed",
            "output": "\n".join(line for result in one.results for line in lines(result)),
            "output_format": "text",
        }
        for one in graded
    ]
    return {
        "score": round(sum(most[one.name] for one in graded if one.passed), 2),
        "output": f"{_sentence(graded)}.",
        "output_format": "text",
        "tests": tests,
    }


def lines(result: Result) -> list[str]:
    """A result in words: kind and where, then advice; none for a pass without a remark."""
    found = ", ".join(
        escape_control(text, MOST_TEXT) for text in (result.kind, result.where) if text
    )
    return [text for text in (found, escape_control(result.advice, MOST_TEXT)) if text]


def write_gradescope(path: str | Path, results: Iterable[Result]) -> None:
    """Write Gradescope's results.json. OSError : it cannot be written."""
    with atomic(Path(path)) as file:
        file.write(json.dumps(to_gradescope(results), indent=1).encode("ascii"))


def write_report(path: str | Path, title: str, results: Iterable[Result]) -> None:
    """Write a page for the student: what is to be mended, with its advice, then what is right.

    It is one file without script. All text is escaped and cut, since a submission's own words are
    in it.

    Parameters
    ----------
    title : the submission's name

    Raises
    ------
    OSError : the page cannot be written.
    """
    graded = functions(results)
    shown = [(one, [_shown(result) for result in one.results]) for one in graded]
    page = render(
        "grading.html",
        title=f"Grading of {title}",
        summary=f"{_sentence(graded)}.",
        failed=[(one.name, found) for one, found in shown if not one.passed],
        passed=[one.name for one in graded if one.passed],
        remarks=[
            (one.name, found)
            for one, found in shown
            if one.passed and any(result.kind for result in one.results)
        ],
    )
    with atomic(Path(path)) as file:
        file.write(page)


def _shown(result: Result) -> Mapping[str, Any]:
    """A result as the page takes it: the student's line apart, and code in the advice."""
    line = LINE.fullmatch(result.where)
    error = math.nan if result.passed or result.error is None else result.error
    return {
        "kind": result.kind,
        "where": "" if line else result.where,
        "number": line[1] if line else "",
        "text": line[2] if line else "",
        # between backquotes stands code: every second piece
        "advice": result.advice[:MOST_TEXT].split("`"),
        "error": f"{error:.1e}" if math.isfinite(error) else "",
    }
