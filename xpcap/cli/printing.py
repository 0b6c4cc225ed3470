"""Print captions as text, with the reasons for their choice, or as JSON."""

import json
from dataclasses import asdict
from textwrap import indent

import click

from xpcap.captioning.outputs import Output
from xpcap.cli.shared import JSON, table
from xpcap.progress import say
from xpcap.report import escape_control, signed
from xpcap.report.text import NOTHING
from xpcap.runs.explanation import PARTS, Explanation, compare_candidates, decision, sample_caption
from xpcap.runs.records import PictureCaption, Skipped

SHOWN = 5  # training photos and candidates in an explanation
DIGITS = 4  # of an attention weight in JSON


class Printed(Output):
    """Each picture's name, caption, first reference, captions of a beam, and explanation."""

    _begun = False

    def add(self, caption: PictureCaption) -> None:
        lines = [""] if self._begun and caption.explanation is not None else []
        lines += [escape_control(caption.image), f"  model  {escape_control(caption.caption)}"]
        lines += [f"  truth  {escape_control(truth)}" for truth in caption.references[:1]]
        if len(caption.n_best) > 1:
            lines += [
                f"  {hypothesis.log_probability:6.2f}  {escape_control(hypothesis.caption)}"
                for hypothesis in caption.n_best
            ]
        if caption.explanation is not None:
            lines += explanation_lines(caption.explanation)
        say("\n".join(lines))
        self._begun = True

    def close(self) -> str:
        click.echo()
        return ""


class SkippedLines(Output):
    """Prints a line on standard error for each skipped picture."""

    def add(self, caption: PictureCaption) -> None:
        """Ignore captions."""

    def skip(self, failure: Skipped) -> None:
        say(f"skipped {escape_control(failure.image)}: {escape_control(failure.reason)}", err=True)


def explanation_lines(explanation: Explanation) -> list[str]:
    """Lines that explain why a caption was chosen."""
    lines = [f"  why    {escape_control(decision(explanation))}"]
    if explanation.neighbours:
        lines += ["", "  most similar training photos, by similarity (at most 1)"]
        similar = [
            (
                f"{item.similarity:5.2f}",
                escape_control(item.image),
                escape_control(sample_caption(item)),
            )
            for item in explanation.neighbours[:SHOWN]
        ]
        lines.append(indent(table(similar), "  "))
    if compared := compare_candidates(explanation, SHOWN):
        lines += ["", "  candidates: score and its parts, relative to the likeliest candidate"]
        heads = ["score", *(PARTS[name][0] for name in compared[0].parts)]
        numbers = [[signed(x) for x in (item.score, *item.parts.values())] for item in compared]
        widths = [max(map(len, column)) for column in zip(heads, *numbers, strict=True)]
        texts = [
            escape_control(item.candidate.caption or NOTHING)
            + (f"  ({escape_control(item.origin)})" if item.origin else "")
            for item in compared
        ]
        rows = [
            [*(cell.rjust(width) for cell, width in zip(row, widths, strict=True)), text]
            for row, text in zip([heads, *numbers], ["", *texts], strict=True)
        ]
        lines.append(indent(table(rows), "  "))
    return lines


class Json(Output):
    """All captions as a list of objects."""

    flag = "--json"
    help = JSON
    wants = frozenset({"attention", "n_best"})
    replaces_printing = True

    def close(self) -> str:
        click.echo(json.dumps(list(map(json_object, self.captions))))
        return ""


def json_object(caption: PictureCaption) -> dict[str, object]:
    """A caption as `Json` prints it."""
    names = ("image", "caption", "probabilities", "references")
    content: dict[str, object] = {name: getattr(caption, name) for name in names}
    if caption.words != caption.caption.split():
        content["words"] = caption.words
    if caption.n_best:
        content["n_best"] = [*map(asdict, caption.n_best)]
    if caption.attention is not None:
        content["attention"] = [
            [round(weight, DIGITS) for weight in weights] for weights in caption.attention
        ]
    if caption.explanation is not None:
        content["explanation"] = {
            "decision": decision(caption.explanation),
            **asdict(caption.explanation),
        }
    return content
