"""Captions of new pictures, written as they are made: a table, text files, pictures' descriptions.

A table that was not finished is continued. Text files and descriptions by others are left alone.
"""

import contextlib
import csv as csv_format
import importlib.util
import io
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

from xpcap.encoders import read_picture
from xpcap.errors import DataError, OptionError, install
from xpcap.files import atomic, require_new_file, write_text
from xpcap.models import Policy
from xpcap.progress import bar
from xpcap.report.records import PictureCaption, Skipped
from xpcap.runs.pictures import PictureCaptioner, find_sources
from xpcap.work import remark

OTHERS = "has another text, which was left"
NO_DESCRIPTION = "takes no description: expected a JPEG, PNG, TIFF or WebP"
DESCRIPTION, IPTC = "Xmp.dc.description", "Iptc.Application2.Caption"
CHARACTERS = {"Iptc.Envelope.CharacterSet": "\x1b%G"}  # UTF-8
DEFAULT = 'lang="x-default"'
_exiv2 = threading.Lock()  # pyexiv2 has global state


class Written(NamedTuple):
    """Numbers of captions, and what was not captioned or not written."""

    captions: int  # made now
    before: int  # pictures that the table had
    texts: int  # captions that have a text file now
    described: int  # captions that are the description of their picture now
    skipped: list[Skipped]  # now: unreadable pictures, and folders without any
    left: list[Skipped]  # text files and pictures that stay as they were, with the reason


def write_captions(
    captioner: PictureCaptioner,
    paths: str | Path | Iterable[str | Path],
    *,
    csv: str | Path | None = None,
    txt: bool = False,
    describe: bool = False,
    policy: Policy | None = None,
) -> Written:
    """Caption picture files, pictures in folders (recursively) and URLs, and write each caption.

    At most 64 pictures are in memory, and a caption is written when its 64 are decoded. A remark
    has the number of pictures that the table has already.

    Parameters
    ----------
    paths : as in `caption_files`
    csv : table to write, or to continue: pictures that it has are left out. See CaptionTable
    txt : write NAME.txt next to each picture, a line a caption; another text is never replaced
    describe : write the caption into the picture, as its XMP and IPTC description; another
        description is never replaced. See `describe_picture`
    policy : as in `caption_run`; of a beam all of its `n_best` go into the table and text files

    Raises
    ------
    DataError : the table is another file, or pyexiv2 is missing. OptionError : a URL, with `txt` or
        `describe`. OSError : a file cannot be written; what was written before is whole.
    """
    if describe:
        _require_exiv2()
    sources, skipped = find_sources(paths)
    pictures = {str(source): source for source in sources}  # each once
    urls = [source for source in sources if isinstance(source, str)]
    if urls and (txt or describe):
        raise OptionError(
            "caption",
            f"`{'txt' if txt else 'describe'}`",
            f"is given with the URL {urls[0]}",
            expected="pictures in files",
            cause="download it first",
        )
    best = (policy.n_best if policy else None) or 1
    table = None if csv is None else CaptionTable(csv, best=best)
    with table or contextlib.nullcontext():
        begun = table.pictures if table else set()
        numbers = [n for n, name in enumerate(pictures) if name not in begun]
        before = len(pictures) - len(numbers)
        if before:
            rest = f"; adding the other {len(numbers):,}" if numbers else ""
            remark(f"{csv} has {before:,} of {len(pictures):,} pictures already{rest}")
        given = list(pictures.values())
        shown = bar(
            [given[n] for n in numbers],
            "captioning pictures",
            total=len(pictures),
            done=before,
            lines=True,
        )
        left: list[Skipped] = []
        captions = texts = described = 0
        try:
            for one in captioner.captions(shown, policy=policy, numbers=numbers):
                if isinstance(one, Skipped):
                    skipped.append(one)
                else:
                    captions += 1
                    picture = Path(one.image)
                    if txt and write_text_file(picture, _texts(one, best)):
                        texts += 1
                    elif txt:
                        left.append(Skipped(str(picture.with_suffix(".txt")), OTHERS))
                    if describe and (why := describe_picture(picture, one.caption)):
                        left.append(Skipped(one.image, why))
                    elif describe:
                        described += 1
                if table:
                    table.add(one)
        except KeyboardInterrupt as interrupt:
            if table is None:
                raise
            rows = len(pictures.keys() & table.pictures)
            raise KeyboardInterrupt(
                f"{csv} has {rows:,} of {len(pictures):,} pictures; the same command adds the others"
            ) from interrupt
    return Written(captions, before, texts, described, skipped, left)


def _texts(caption: PictureCaption, best: int) -> list[str]:
    return [one.caption for one in caption.n_best] if best > 1 else [caption.caption]


class CaptionTable:
    """A CSV file of captions, UTF-8, a row a picture, that is written row by row.

    Its columns are `picture`, `caption`, of several captions `caption_2`, ..., and `error`: why a
    picture has no caption. A process that is killed leaves whole rows and at most one that is cut
    off, which is removed when the table is opened again.

    Attributes
    ----------
    pictures : set of str, those that have a row

    Parameters
    ----------
    path : of the file, new, or such a table
    best : captions of a picture

    Raises
    ------
    DataError : no name that ends in ``.csv``, another file, or none can be created there.
    """

    def __init__(self, path: str | Path, *, best: int = 1) -> None:
        self._path, self._best = Path(path), best
        more = [f"caption_{number}" for number in range(2, best + 1)]
        self._header = ["picture", "caption", *more, "error"]
        if self._path.suffix.lower() != ".csv":
            raise DataError(
                "caption",
                path,
                "does not end in .csv",
                expected="a name that does",
                cause="are the arguments in order?",
            )
        rows: list[list[str]] = []
        size = 0
        if self._path.is_file():
            rows, size = self._read()
        else:
            require_new_file("caption", self._path)
        self.pictures = {row[0] for row in rows[1:]}
        self._file = self._path.open("r+b" if self._path.is_file() else "xb")
        self._file.truncate(size)
        self._file.seek(size)
        if not rows:
            self._write(self._header)

    def _read(self) -> tuple[list[list[str]], int]:
        """The whole rows, and where they end, in bytes. DataError : of another table."""
        content = self._path.read_bytes()
        size = sum(map(len, _whole_rows(content)))
        if not size:
            if b"".join(_row(self._header)).startswith(content):
                return [], 0
            raise self._other("no header")
        try:
            text = content[:size].decode("utf-8-sig", "surrogateescape")
            rows = [row for row in csv_format.reader(io.StringIO(text, newline="")) if row]
        except csv_format.Error as error:
            raise self._other(str(error)) from error
        if not rows:
            raise self._other("only empty lines")
        if rows[0] != self._header:
            raise self._other(f"the header {','.join(rows[0])[:100]}")
        wrong = next((row for row in rows if len(row) != len(self._header)), None)
        if wrong is not None:
            raise self._other(f"a row of {len(wrong)} fields, {','.join(wrong)[:100]}")
        return rows, size

    def _other(self, what: str) -> DataError:
        return DataError(
            "caption",
            self._path,
            f"has {what}",
            expected=f"a new file, or a table with the header {','.join(self._header)}, to be"
            " continued",
            cause="choose another name, or give the same options as before",
        )

    def add(self, one: PictureCaption | Skipped) -> None:
        """Write a row, and hand it to the operating system. OSError : it cannot be written."""
        if isinstance(one, Skipped):
            texts, why = [], one.reason
        else:
            texts, why = _texts(one, self._best), ""
        padding = [""] * (self._best - len(texts))
        self._write([one.image, *texts, *padding, why])
        self.pictures.add(one.image)

    def _write(self, cells: Sequence[str]) -> None:
        self._file.writelines(_row(cells))
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._file:
            os.fsync(self._file.fileno())


def _row(cells: Sequence[str]) -> list[bytes]:
    text = io.StringIO()
    csv_format.writer(text, lineterminator="\n").writerow(cells)
    return [text.getvalue().encode("utf-8", "surrogateescape")]


def _whole_rows(content: bytes) -> Iterator[bytes]:
    """The rows of a CSV file, without one that is cut off at the end."""
    row = b""
    for line in content.splitlines(keepends=True):
        row += line
        if line.endswith(b"\n") and row.count(b'"') % 2 == 0:  # else a line end is in quotes
            yield row
            row = b""


def write_text_file(picture: Path, captions: Sequence[str]) -> bool:
    """Write NAME.txt next to a picture, a line a caption; False: it exists, with another text."""
    path, text = picture.with_suffix(".txt"), "".join(f"{caption}\n" for caption in captions)
    if not os.path.lexists(path):
        write_text(path, text)
        return True
    content = text.encode()
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content


def describe_picture(path: Path, caption: str) -> str:
    """Write a caption into a picture file as its description: XMP, and IPTC where that exists.

    All else of the file stays, pixels to the byte. It is replaced whole, or not at all. Another
    description is left, and so is a file of a format without any.

    Returns
    -------
    str : why the picture stays as it was; empty if it has the description now

    Raises
    ------
    DataError : pyexiv2 is missing. OSError : the file cannot be read or written.
    """
    _require_exiv2()
    import pyexiv2

    path = path.resolve()  # of a link, the file
    if not os.access(path, os.W_OK):
        return "may not be written to"
    content = path.read_bytes()
    try:
        with _exiv2:
            pyexiv2.set_log_level(4)  # else it prints what is odd
            with pyexiv2.ImageData(content) as image:
                xmp, iptc = image.read_xmp(), image.read_iptc(encoding="latin-1")  # bytes as text
                before = xmp.get(DESCRIPTION, {}).get(DEFAULT, "")
                in_iptc = iptc.get(IPTC, "").encode("latin-1").decode("utf-8", "replace")
                if {before.strip(), in_iptc.strip()} - {"", caption}:
                    return "has another description, which was left"
                if before == caption:
                    return ""
                image.modify_xmp({DESCRIPTION: {DEFAULT: caption}})
                # other fields, in another character set, could no longer be read
                may = not iptc or iptc.items() >= CHARACTERS.items()
                if may and image.get_mime_type() in ("image/jpeg", "image/tiff"):
                    image.modify_iptc({**CHARACTERS, IPTC: caption})
                described = image.get_bytes()
    except RuntimeError:  # all that it raises
        return NO_DESCRIPTION
    if not np.array_equal(read_picture(content), read_picture(described)):
        return "would not be the same picture with a description"
    with atomic(path) as file:
        file.write(described)
        Path(file.name).chmod(stat.S_IMODE(path.stat().st_mode))
    return ""


def _require_exiv2() -> None:
    if importlib.util.find_spec("pyexiv2") is None:
        raise DataError(
            "caption",
            "`describe`",
            "needs pyexiv2",
            expected="it to be installed",
            cause=f"{install('describe')} installs it",
        )
