"""The contract of a reader of captions: what `assemble` relies on, and `read_captions` keeps.

::

    from xpcap.testing import check_reader
    check_reader(read_mine, b"train|a.jpg|A dog in the grass.\\nval|b.jpg|A cat!\\n")

holds a function that yields a `CaptionRow` for each caption of a file to all of it.
"""

import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from xpcap.errors import DataError
from xpcap.prepare import CaptionRow
from xpcap.testing.claims import check, fail

NO_TEXT, TEXT = b"\xff", (b"\0", b'"', b"{", b"\n")  # in place of a byte; the first is never UTF-8
Reader = Callable[[Path], Iterable[CaptionRow]]


# ---- What claims are about


class Trial(NamedTuple):
    """A reader, the content of a small file of its format, and that file."""

    reader: Reader
    content: bytes
    path: Path

    def __str__(self) -> str:
        return f"reader {getattr(self.reader, '__name__', self.reader)}"

    def rows(self, content: bytes) -> list[CaptionRow]:
        """The rows of a file of this content. DataError : the reader refuses it."""
        self.path.write_bytes(content)
        return list(self.reader(self.path))

    def attempt(self, what: str, content: bytes) -> list[CaptionRow] | DataError:
        """The rows of a damaged file, or why it is refused. ContractError : another error."""
        try:
            return self.rows(content)
        except DataError as error:
            if self.path.name not in str(error):
                fail(
                    f"the error of {what}",
                    f"is {str(error)!r}",
                    f"the file's name, {self.path.name}",
                )
            return error
        except Exception as error:
            fail(what, f"ends in {type(error).__name__}: {error}", "rows, or a DataError")


Claim = Callable[[Trial], None]


# ---- The claims


def rows_alone(trial: Trial) -> None:
    """A file gives rows and nothing else, the same each time, and stays as it is."""
    rows = trial.rows(trial.content)
    if not rows:
        fail("a whole file", "has no row", "a row for each caption")
    for k, row in enumerate(rows):
        if not isinstance(row, CaptionRow):
            fail(f"row {k}", f"is a {type(row).__name__}", "a CaptionRow")
        if not isinstance(row.picture, str) or not row.picture:
            fail(f"picture of row {k}", f"is {row.picture!r}", "a name")
        for name in ("caption", "split"):
            if not isinstance(text := getattr(row, name), str | None):
                fail(f"{name} of row {k}", f"is {text!r}", "text or None")
    if trial.rows(trial.content) != rows:
        fail("a file that is read again", "has other rows", "the same")
    if trial.path.read_bytes() != trial.content:
        fail("a file that is read", "has changed", "no byte to be written")


def cut_anywhere(trial: Trial) -> None:
    """Of a file cut at any byte the rows before the last one are whole, or a DataError names it."""
    whole = trial.rows(trial.content)
    for cut in range(len(trial.content)):
        thing = f"a file of {len(trial.content)} bytes that was cut to {cut}"
        rows = trial.attempt(thing, trial.content[:cut])
        if isinstance(rows, DataError):
            continue
        if len(rows) > len(whole) or rows[:-1] != whole[: len(rows[:-1])]:
            fail(thing, f"has the rows {rows}", f"the first of {whole}, but for the last")


def places_named(trial: Trial) -> None:
    """Whatever byte is damaged, there are rows, or a DataError names the file.

    Of a byte that is no UTF-8 it names the line as well.
    """
    for k in range(len(trial.content)):
        for byte in (NO_TEXT, TEXT[k % len(TEXT)]):
            thing = f"a file whose byte {k} is {byte!r}"
            error = trial.attempt(thing, trial.content[:k] + byte + trial.content[k + 1 :])
            if byte != NO_TEXT or not isinstance(error, DataError):
                continue
            line = trial.content[:k].count(b"\n") + 1
            text = str(error).replace(str(trial.path), "")
            if not re.search(rf"\b{line}\b", text):
                fail(f"the error of line {line}", f"is {text!r}", "one that names the line")


READER: tuple[Claim, ...] = (rows_alone, cut_anywhere, places_named)


def check_reader(reader: Reader, content: str | bytes, contract: Iterable[Claim] = READER) -> None:
    """Check the contract of a caption reader with `assemble`, on a file and damaged copies.

    Parameters
    ----------
    reader : callable
        Takes a path, and returns or yields rows, each a CaptionRow.
    content : str or bytes
        The content of a small file: some captions in order, none to be left out. Text is encoded as
        UTF-8. The file is read several times for each of its bytes.
    contract : iterable of callable
        Claims, of READER.

    Raises
    ------
    ContractError
        A claim does not hold. It names the reader, the damage, and what was expected.
    """
    content = content.encode() if isinstance(content, str) else content
    with tempfile.TemporaryDirectory() as folder:
        check("check_reader", Trial(reader, content, Path(folder) / "captions"), contract)
