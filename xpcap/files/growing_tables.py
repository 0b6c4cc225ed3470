"""Files that a later command continues: a log of lines, and a list of skipped things with reasons."""

import contextlib
import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from xpcap.errors import DataError
from xpcap.files.read_write import atomic, lock

SKIPPED = ".skipped.csv"  # suffix of the list of things that a file was made without
BOM = "\ufeff"  # begins a table: without it Excel assumes the encoding of the country
CHOOSE = "choose another name, or give the same options as before"


class Log:
    """A file to which one process at a time appends lines.

    The next line overwrites an unfinished one that a killed process left.

    path : the file; it is created if it is missing
    start : how such a file begins, to recognise one without a finished line
    DataError : the file is another program's, or in use by another process. OSError : it cannot be
        opened.
    """

    def __init__(self, path: Path, start: str) -> None:
        self.path = path
        self._file = path.open("a+b", buffering=0)
        try:
            lock(
                self._file,
                DataError(
                    f"{path} is being written by another process, expected none; wait, or choose"
                    " another name"
                ),
            )
            self._file.seek(0)
            *lines, unfinished = self._file.read().split(b"\n")
            beginning = start.encode()
            if not (lines or unfinished.startswith(beginning) or beginning.startswith(unfinished)):
                raise DataError(
                    f"{path} begins with {unfinished[:40]!r}, expected a new file, or one that the same"
                    " command began; choose another name"
                )
        except BaseException:
            self._file.close()
            raise
        self.lines = lines  # without their ends
        self._size = sum(map(len, lines)) + len(lines)
        self._end = b"\r\n" if lines and lines[0].endswith(b"\r") else b"\n"

    def append(self, line: str) -> None:
        """Hand a line to the operating system. OSError : it cannot be written."""
        content = remainder = line.encode() + self._end
        try:
            self._file.truncate(self._size)
            while remainder:
                remainder = remainder[self._file.write(remainder) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self._size += len(content)

    def close(self) -> None:
        """Close the file, so that another process can continue it."""
        self._file.close()


class SkippedList:
    """FILE.skipped.csv: a table of the things that FILE was made without, with reasons.

    file : FILE
    name : heading of the first column; the second is `reason`
    DataError : FILE.skipped.csv exists and is not such a table.
    """

    def __init__(self, file: Path, name: str) -> None:
        self.path = file.with_name(file.name + SKIPPED)
        self._heading = [name, "reason"]
        self.reasons: dict[str, str] = {}  # by name
        if not self.path.exists():
            return
        with contextlib.suppress(ValueError, csv.Error):
            text = io.StringIO(self.path.read_text("utf-8-sig"), newline="")
            heading, *rows = csv.reader(text, delimiter=delimiter_of(text.getvalue()))
            if heading == self._heading:
                self.reasons = dict(rows)
                return
        raise DataError(
            f"{self.path} is another file, expected a new file, or a table with the heading"
            f" {','.join(self._heading)}; move it away"
        )

    def write(self, rows: Iterable[Sequence[str]]) -> None:
        """Replace all rows; without rows, remove the file."""
        heading, *lines = (f"{csv_line(row)}\n" for row in (self._heading, *rows))
        content = "".join([BOM, heading, *lines]).encode("utf-8", "backslashreplace")
        if not lines:
            self.path.unlink(missing_ok=True)
        elif not (self.path.is_file() and self.path.read_bytes() == content):
            with atomic(self.path) as file:
                file.write(content)


def csv_line(cells: Sequence[str], delimiter: str = ",") -> str:
    """A row of CSV, without its line end."""
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerow(cells)
    return text.getvalue().removesuffix("\r\n")


def delimiter_of(table: str) -> str:
    """The delimiter in the heading of a table, which a spreadsheet may have changed."""
    heading = table.partition("\n")[0]
    return next((sign for sign in ";\t" if sign in heading), ",")
