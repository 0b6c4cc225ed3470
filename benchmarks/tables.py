"""Formats results as text tables, one for each kind of work, for a terminal of 160 columns."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from benchmarks.configs import BEAMS, MOST_WORDS, PICTURES, SAMPLING
from benchmarks.results import Result

Rows = list[tuple[str, ...]]


class Column(NamedTuple):
    """A column: heading in two lines, value of a result, and number format."""

    above: str
    heading: str
    value: Callable[[Result], str | float | None]
    form: str = ""


COLUMNS = (
    Column("", "config", lambda r: r.config.name),
    Column("", "N", lambda r: r.config.N),
    Column("", "D", lambda r: r.config.D),
    Column("", "W", lambda r: r.config.W),
    Column("", "H", lambda r: r.config.H),
    Column("", "V", lambda r: r.config.V),
    Column("", "P", lambda r: r.config.P or None),
    Column("", "dropout", lambda r: r.config.dropout or None, "g"),
    Column("xpcap", "ms", lambda r: r.ms, ".2f"),
    Column("times", "alone", lambda r: r.slowdown, ".2f"),
    Column("textbook", "ms", lambda r: r.ms_textbook, ".1f"),
    Column("", "ratio", lambda r: r.ratio_textbook, ".2f"),
    Column("torch padded", "ms", lambda r: r.ms_padded, ".2f"),
    Column("", "ratio", lambda r: r.ratio_padded, ".2f"),
    Column("torch packed", "ms", lambda r: r.ms_packed, ".2f"),
    Column("", "ratio", lambda r: r.ratio_packed, ".2f"),
    Column("needed", "GFLOP/s", lambda r: r.gflops, ".0f"),
    Column("GEMM", "GFLOP/s", lambda r: r.gemm_gflops, ".0f"),
    Column("share", "of GEMM", lambda r: r.gemm_fraction, ".0%"),
    Column("", "words/s", lambda r: r.tokens_per_s, ",.0f"),
    Column("", "feeding %", lambda r: None if r.feeding is None else 100 * r.feeding, ".2f"),
    Column("peak", "MB", lambda r: r.memory / 1e6 if r.memory is not None and on_host(r) else None, ",.0f"),
    Column("device", "MB", lambda r: None if r.memory is None or on_host(r) else r.memory / 1e6, ",.0f"),
)


def on_host(result: Result) -> bool:
    """Whether NumPy computed this result."""
    return result.machine["backend"] == "numpy"


def tables(results: Sequence[Result]) -> list[tuple[str, Rows]]:
    """For each kind of work, a title and a table: two rows of headings, then one row for each result. Empty columns are left out."""
    works = dict.fromkeys(result.work for result in results)
    return [(_title(work), _rows([result for result in results if result.work == work])) for work in works]


def _title(work: str) -> str:
    if work in (SAMPLING, BEAMS):
        return (
            f"{work}: {PICTURES:,} pictures, at most {MOST_WORDS} words each; float32"
            if work == BEAMS
            else f"{work} of {PICTURES:,} pictures, at most {MOST_WORDS} words each; float32"
        )
    return f"{work.replace('step', 'step of N captions')}: loss, gradients, clipping, Adam; float32"


def _rows(results: Sequence[Result]) -> Rows:
    columns = [(column.above, column.heading, *(_text(column, result) for result in results)) for column in COLUMNS]
    columns = [column for column in columns if any(column[2:])]
    return list(zip(*(_pad(column, left=k == 0) for k, column in enumerate(columns)), strict=True))


def _text(column: Column, result: Result) -> str:
    value = column.value(result)
    return "" if value is None else format(value, column.form)


def _pad(cells: Sequence[str], left: bool) -> list[str]:
    """Pad cells to one width: flush left if `left`, else flush right, as numbers are."""
    width = max(map(len, cells))
    return [cell.ljust(width) if left else cell.rjust(width) for cell in cells]
