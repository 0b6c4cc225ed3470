"""Input and output of a reader of captions, `CaptionText` and `CaptionRow`; and `ImportReport`."""

import functools
import itertools
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from xpcap.errors import DataError
from xpcap.options import Checked, Text, check_fields, option
from xpcap.prepare.text import is_json, parse_json

MAX_NAMES = 3  # names listed for each kind


class CaptionRow(NamedTuple):
    """A caption of a picture, as a reader yields it."""

    picture: str
    caption: str | None  # None: the file lists the picture without a caption
    split: str | None = None  # None: the file has no splits
    source: str = ""  # file and line or number, for messages
    words: Sequence[str] = ()  # of the caption, once it is tokenised


def _headings(value: Any) -> tuple[str, ...]:
    """One heading or several."""
    headings = (value,) if isinstance(value, str) else value
    if (
        isinstance(headings, list | tuple)
        and headings
        and all(isinstance(x, str) for x in headings)
    ):
        return tuple(headings)
    raise TypeError(value)


def _encoding(value: Any) -> str:
    """The name of a text encoding."""
    b"text".decode(value, "replace")
    return str(value)


HEADINGS = Checked(_headings, "the heading of a column, or several", repeated=True)
ENCODING = Checked(_encoding, "a text encoding, as in cp1252")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Headings of a table's columns; None: detected by the usual names."""

    # fmt: off
    image: str | None = option(
        Text(), None, "Heading of the picture column, if not detected.")
    caption: str | Sequence[str] | None = option(
        HEADINGS, None, "Heading of a caption column, if not detected. Repeatable.")
    split: str | None = option(Text(), None, "Heading of the split column, if not detected.")
    # fmt: on

    def __post_init__(self) -> None:
        check_fields(self)


class Omission(NamedTuple):
    """A picture, row or caption that an import leaves out.

    kind : a plural, such as "captions without a word"
    name : of the picture, or line or number in the file
    reason : why it was left out, or similar names; empty if the kind says enough
    captioned : False for a picture without captions
    file : caption file of the row; "" for none
    """

    kind: str
    name: str
    reason: str = ""
    captioned: bool = True
    file: str = ""

    @property
    def row(self) -> tuple[str, str]:
        """Name and reason, as in the list of skipped items."""
        name = f"{self.file}, {self.name}" if self.file else self.name
        return name, f"{self.kind}: {self.reason}" if self.reason else self.kind


class ImportReport:
    """An import's report: formats of the files, omissions, and notices."""

    def __init__(self) -> None:
        self.omissions: list[Omission] = []
        self.notices: list[str] = []
        self.forms: list[str] = []  # formats of the files, in their order

    @property
    def skipped(self) -> Counter[str]:
        """The number of omissions by kind."""
        return Counter(omission.kind for omission in self.omissions)

    def skip(self, kind: str, name: str, *, reason: str = "", captioned: bool = True) -> None:
        """Add an omission."""
        self.omissions.append(Omission(kind, name, reason, captioned))

    def name_file(self, file: str, start: int) -> None:
        """Set the file of all omissions from number `start` on."""
        omissions = self.omissions[start:]
        self.omissions[start:] = [omission._replace(file=file) for omission in omissions]

    def notice(self, kind: str, names: Sequence[str]) -> None:
        """Add a notice about items that are kept: their number and first names. None if empty."""
        if names:
            self.notices.append(
                _listed(kind, len(names), [name[:100] for name in names[:MAX_NAMES]])
            )

    def lines(self, *, captioned: bool = False) -> list[str]:
        """Lines such as ``captions without a word: 4 (a.jpg, b.jpg, c.jpg, ...)``.

        The most frequent kind comes first; in a kind, names with a reason come first.

        captioned : leave out pictures without captions
        """
        kinds: dict[str, list[Omission]] = {}
        for omission in self.omissions:
            if omission.captioned or not captioned:
                kinds.setdefault(omission.kind, []).append(omission)
        lines = []
        for kind, omissions in sorted(kinds.items(), key=lambda pair: -len(pair[1])):
            shown = sorted(omissions, key=lambda omission: not omission.reason)[:MAX_NAMES]
            names = [
                ", ".join(omission.name[:100] for omission in group) + (reason and f" ({reason})")
                for reason, group in itertools.groupby(shown, lambda omission: omission.reason)
            ]
            lines.append(_listed(kind, len(omissions), names))
        return lines

    def refuse(self) -> None:
        """Raise DataError if something was left out."""
        if self.omissions:
            raise DataError(
                f"{'; '.join(self.lines())}, expected nothing left out, since `strict` is given"
            )


def _listed(kind: str, count: int, names: Sequence[str]) -> str:
    return f"{kind}: {count:,} ({', '.join(names)}{', ...' if count > MAX_NAMES else ''})"


@dataclass
class CaptionText:
    """The text of a caption file, with what its reader needs.

    where : the file; errors and the sources of rows begin with it
    columns : names of a table's columns that the user gave
    report : receives omissions
    """

    where: str
    text: str
    columns: Columns = Columns()
    report: ImportReport = field(default_factory=ImportReport)
    _seen: set[tuple[str, Hashable]] = field(default_factory=set, init=False)

    @functools.cached_property
    def first_line(self) -> str:
        """The beginning of the first line that is not blank."""
        line = re.search(r"\S.{,9999}", self.text)
        return line[0].rstrip() if line else ""

    @functools.cached_property
    def json(self) -> Any:
        """The object or list of a JSON text; None for JSON lines and other text.

        DataError : it begins like JSON, but cannot be parsed.
        """
        if self.first_line[0] not in "{[" or self.is_json_lines:
            return None
        return parse_json(self.where, self.text)

    @functools.cached_property
    def is_json_lines(self) -> bool:
        """True if the first of several lines is an object."""
        first, _, rest = self.text.strip().partition("\n")
        return first[:1] == "{" and bool(rest) and is_json(self.where, first)

    def repeats(self, kind: str, name: str, key: Hashable = None) -> bool:
        """True for a repeated `key` (default: the name) of a kind, which is reported as skipped."""
        entry = kind, name if key is None else key
        if entry in self._seen:
            self.report.skip(kind, name)
            return True
        self._seen.add(entry)
        return False


class Format(NamedTuple):
    """A format of caption files.

    name : name in reports, data sets and error messages
    fits : recognises a file of the format by its text
    read : yields the rows of a file
    example : the first lines of a file, for the docs
    splits : where a file names its splits, for the docs
    """

    name: str
    fits: Callable[[CaptionText], bool]
    read: Callable[[CaptionText], Iterator[CaptionRow]]
    example: str
    splits: str


def grouped(rows: Iterable[CaptionRow]) -> list[CaptionRow]:
    """Sort rows by split, then by picture, each in the order of first appearance."""
    groups: dict[str | None, dict[str, list[CaptionRow]]] = {}
    for row in rows:
        groups.setdefault(row.split, {}).setdefault(row.picture, []).append(row)
    return [row for pictures in groups.values() for group in pictures.values() for row in group]
