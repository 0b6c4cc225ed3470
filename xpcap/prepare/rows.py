"""CaptionRow, which readers yield, and ImportReport, in which they count omissions."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from xpcap.errors import DataError

NAMED = 3  # names listed of each kind, and as many with a remark


class CaptionRow(NamedTuple):
    """One caption of one picture, as a reader yields it."""

    picture: str
    caption: str | None  # None: the file lists the picture without a caption
    split: str | None = None  # None: the file has no splits
    source: str = ""  # file and line or number, for messages


class ImportReport:
    """An import's report: forms of the files, omissions by kind, and notes."""

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()
        self.notes: list[str] = []
        self.forms: list[str] = []  # of the files, in their order
        self._named: dict[str, list[str]] = {}
        self._remarked: dict[str, list[str]] = {}

    def skip(self, kind: str, name: str, *, remark: str = "") -> None:
        """Count one omission: a plural `kind`, its name, and optionally why."""
        self.skipped[kind] += 1
        named = (self._remarked if remark else self._named).setdefault(kind, [])
        if len(named) < NAMED:
            named.append(f"{name[:100]} ({remark[:400]})" if remark else name[:100])

    def note(self, kind: str, names: Sequence[str]) -> None:
        """Note things that stay in: their number and the first few names, if there are any."""
        if names:
            self.notes.append(_listed(kind, len(names), [name[:100] for name in names[:NAMED]]))

    def lines(self) -> list[str]:
        """Lines such as ``captions without a word: 4 (a.jpg, b.jpg, ...)``; remarks come last."""
        return [
            _listed(kind, count, self._named.get(kind, []) + self._remarked.get(kind, []))
            for kind, count in self.skipped.items()
        ]

    def refuse(self, where: str) -> None:
        """DataError : something was left out."""
        if self.skipped:
            raise DataError(
                where,
                "",
                "; ".join(self.lines()),
                expected="nothing that must be left out, as `strict` asks",
            )


def _listed(kind: str, count: int, named: Sequence[str]) -> str:
    return f"{kind}: {count:,} ({', '.join(named)}{', ...' if count > len(named) else ''})"


def grouped(rows: Iterable[CaptionRow]) -> list[CaptionRow]:
    """Sort rows by split, then by picture, each in the order of first appearance."""
    rows = list(rows)
    splits: dict[str | None, int] = {}
    pictures: dict[tuple[str | None, str], int] = {}
    for row in rows:
        splits.setdefault(row.split, len(splits))
        pictures.setdefault((row.split, row.picture), len(pictures))
    return sorted(rows, key=lambda row: (splits[row.split], pictures[row.split, row.picture]))
