"""Files that grow row by row, and that a later process continues. Open GrowingFile first.

A process that is killed leaves whole rows and at most one that is cut off, which the next process
removes and writes again.
"""

import contextlib
import csv
import io
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from xpcap.errors import DataError
from xpcap.files import lock

SKIPPED = ".skipped.csv"  # behind the name of what was made without the things in such a list
CHOOSE = "choose another name, or give the same options as before"


class Row(NamedTuple):
    """A row's subject, such as a picture, and who wrote the row."""

    name: str
    writer: str = ""  # empty: the row does not say


class GrowingFile:
    """A file to which one process at a time appends rows.

    A context, in which `begin` opens the file. A row that lacks its line end is whole if `parse`
    reads from it that this writer wrote it; else it is removed.

    caller : function that errors name
    path : of the file; a new one is made with its first row
    parse : reads a row, with its line end. None: it is of nothing. ValueError : it cannot be read,
        as if it was cut off. LookupError, TypeError : it is whole, and of another file
    start : how such a file begins, by which one without a whole row is told from a file of others
    writer : the only one whose rows the file may have
    """

    newline = "\n"

    def __init__(
        self,
        caller: str,
        path: Path,
        parse: Callable[[bytes], Row | None],
        *,
        start: bytes,
        writer: str = "",
    ) -> None:
        self.caller, self.path, self.writer = caller, path, writer
        self.names: set[str] = set()  # of the rows
        self._parse, self._start = parse, start
        self._file: BinaryIO | None = None

    def begin(self) -> None:
        """Open the file, lock other processes out, and read its rows.

        DataError : it is another file, of another writer, or in use. OSError : it cannot be opened.
        """
        self._file = self._opened()
        self._file.seek(0)
        content = self._file.read()
        rows = self.split(content)
        rest = content[sum(map(len, rows)) :]
        known = [*filter(None, map(self._read, rows))]
        if not (known or self.is_begun_by(content)):
            raise self.refusal(f"begins with {content[:40].decode('utf-8', 'replace')!r}")
        last = self._whole(rest)
        for row in [*known, last] if last else known:
            if row.writer not in ("", self.writer):
                raise DataError(
                    self.caller,
                    self.path,
                    f"holds captions by {row.writer}",
                    f"captions by {self.writer}",
                    "choose another name",
                )
            self.names.add(row.name)
        if last:
            self.append(b"\n" if rest.endswith(b"\r") else self.newline.encode())
        elif rest:
            self._file.truncate(len(content) - len(rest))

    def split(self, content: bytes) -> list[bytes]:
        """The whole rows, each with its line end; by default lines."""
        return [line + b"\n" for line in content.split(b"\n")[:-1]]

    def is_begun_by(self, content: bytes) -> bool:
        """True if a file of this kind, without a whole row, may have this content."""
        return content.startswith(self._start) or self._start.startswith(content)

    def refusal(self, got: str) -> DataError:
        """The error of a file of others."""
        expected = f"a new file, or one that begins with {self._start.decode()!r}, to be continued"
        return DataError(self.caller, self.path, got, expected, CHOOSE)

    def append(self, row: bytes) -> None:
        """Write a row, and hand it to the operating system. OSError : it cannot be written."""
        assert self._file is not None
        try:
            self._file.write(row)
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def _opened(self) -> BinaryIO:
        cause = "wait, or choose another name"
        held = DataError(
            self.caller, self.path, "is being written by another process", "none", cause
        )
        while True:
            file = self.path.open("a+b")
            try:
                lock(file, held)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(file.fileno()), self.path.stat()):
                        return file
            except BaseException:
                file.close()
                raise
            file.close()  # another process has removed it meanwhile

    def _whole(self, rest: bytes) -> Row | None:
        """The last row, without its line end, if it is whole: its writer is not cut off."""
        row = self._read(rest, torn=True) if rest else None
        if row is None or row.writer == self.writer:
            return row if self.writer else None
        return None if self.writer.startswith(row.writer) else row

    def _read(self, row: bytes, *, torn: bool = False) -> Row | None:
        """A row; None: it is of nothing, or `torn`. DataError : it is of another file."""
        try:
            parsed = self._parse(row) if row.strip() else None
            if parsed and not all(isinstance(text, str) for text in parsed):
                raise TypeError("name and writer are text")
        except ValueError as error:
            if torn:
                return None
            raise self.refusal(f"cannot be continued: {error}") from error
        except (LookupError, TypeError, RecursionError) as error:
            shown = row[:60].decode("utf-8", "replace")
            raise self.refusal(f"holds another row, {shown!r}") from error
        return parsed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        """Close the file, and remove it if it is empty. OSError : it could not be written."""
        if self._file is None:
            return
        try:
            with self._file:
                os.fsync(self._file.fileno())
                empty = not os.fstat(self._file.fileno()).st_size
                if empty and os.name == "posix":
                    self.path.unlink()  # before its lock is given up
            if empty and os.name != "posix":
                self.path.unlink(missing_ok=True)  # Windows removes no open file
        except OSError as failed:
            if error is None:  # else it is the same again: what could not be written is left over
                raise OSError(failed.errno, failed.strerror, str(self.path)) from failed


class GrowingTable(GrowingFile):
    """A growing CSV file in UTF-8, with a heading.

    One that a spreadsheet has saved is continued with its delimiter and line ends.

    header : names of the columns; the heading of a new file
    parse : reads the cells of a row
    """

    def __init__(
        self,
        caller: str,
        path: Path,
        header: Sequence[str],
        parse: Callable[[Sequence[str]], Row | None],
        *,
        writer: str = "",
    ) -> None:
        self.header, self._parse_cells = header, parse
        self._delimiter, self._begun = ",", False
        start = self.encoded(header)
        super().__init__(caller, path, self._parse_row, start=start, writer=writer)

    def append(self, row: bytes) -> None:
        """As of any file, with the heading before the first row."""
        heading, self._begun = b"" if self._begun else self.encoded(self.header), True
        super().append(heading + row)

    def split(self, content: bytes) -> list[bytes]:
        rows: list[bytes] = []
        row = b""
        for line in content.splitlines(keepends=True):
            row += line
            if line.endswith(b"\n") and row.count(b'"') % 2 == 0:  # else a line end is in quotes
                rows.append(row)
                row = b""
        return rows

    def is_begun_by(self, content: bytes) -> bool:
        return self._begun or self._start.startswith(content)

    def _whole(self, rest: bytes) -> Row | None:
        return super()._whole(rest) if self._begun else None  # else it is a heading

    def refusal(self, got: str) -> DataError:
        header = ",".join(self.header)
        expected = f"a new file, or a table with the header {header}, to be continued"
        return DataError(self.caller, self.path, got, expected, CHOOSE)

    def _parse_row(self, row: bytes) -> Row | None:
        if row.count(b'"') % 2:
            raise ValueError("a row that is cut off")
        text = row.decode("utf-8-sig")
        if not self._begun:
            self._adopt(text)
            return None
        try:
            cells = next(csv.reader(io.StringIO(text, newline=""), delimiter=self._delimiter), [])
        except csv.Error as error:
            raise ValueError(str(error)) from error
        if cells and len(cells) != len(self.header):
            raise ValueError(f"a row of {len(cells)} fields, {','.join(cells)[:100]}")
        return self._parse_cells(cells) if cells else None

    def _adopt(self, heading: str) -> None:
        """Go on as the heading of the file says. ValueError : it is of another table."""
        for delimiter in ",;\t":
            if next(csv.reader([heading], delimiter=delimiter), []) == [*self.header]:
                self._delimiter, self._begun = delimiter, True
                self.newline = "\r\n" if heading.endswith("\r\n") else "\n"
                return
        raise ValueError(f"the header {heading.strip()[:100]}")

    def encoded(self, cells: Sequence[str]) -> bytes:
        """The row of these cells, with its line end."""
        text = io.StringIO()
        csv.writer(text, delimiter=self._delimiter, lineterminator=self.newline).writerow(cells)
        return text.getvalue().encode("utf-8", "backslashreplace")


class SkippedList(GrowingTable):
    """A table of failures with reasons: FILE.skipped.csv, next to the output.

    caller : function that errors name
    made : path of what was made
    name : of the first column; the second one is `reason`
    """

    def __init__(self, caller: str, made: Path, *, name: str) -> None:
        self.reasons: dict[str, str] = {}
        self._stale = False  # a row of the file counts no more
        path = made.with_name(made.name + SKIPPED)
        super().__init__(caller, path, (name, "reason"), self._parse_reason)

    def _parse_reason(self, cells: Sequence[str]) -> Row:
        self._stale |= cells[0] in self.reasons
        self.reasons[cells[0]] = cells[1]
        return Row(cells[0])

    def add(self, name: str, reason: str) -> None:
        """Note why a thing has failed. OSError : it cannot be written."""
        if self.reasons.get(name) != reason:
            self._stale |= name in self.reasons
            self.reasons[name] = reason
            self.append(self.encoded([name, reason]))

    def remove(self, name: str) -> None:
        """Note that a thing has succeeded, if it is listed."""
        self._stale |= self.reasons.pop(name, None) is not None

    def replace(self, rows: Iterable[tuple[str, str]]) -> None:
        """Put these rows in place of all. OSError : they cannot be written."""
        assert self._file is not None
        self._file.truncate(0)
        self._begun = self._stale = False
        for row in rows:
            self.append(self.encoded(row))

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            if self._stale and self._file is not None and error is None:
                self.replace(self.reasons.items())
        finally:
            super().__exit__(kind, error, traceback)
