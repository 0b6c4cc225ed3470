"""Sinks: where captions go as they are made, to tables, texts, pictures, pages. Open Sink first.

A sink is an option of the command `caption`, and any of them go together. What one has written
when another fails, or the work is stopped, it keeps.
"""

import contextlib
import csv as csv_format
import importlib.util
import io
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Self

import numpy as np

from xpcap.encoders import read_picture
from xpcap.errors import DataError, OptionError, install
from xpcap.files import atomic, lock, new_path, require_new_file, write_text
from xpcap.models import Captioner, Policy
from xpcap.options import Flag
from xpcap.progress import bar
from xpcap.report.markup import embed
from xpcap.report.records import PictureCaption, Postponed, Skipped
from xpcap.runs.pages import DRAWN, write_caption_page, write_caption_png
from xpcap.runs.pictures import PictureCaptioner, find_sources
from xpcap.runs.run import Run
from xpcap.threads import Lock
from xpcap.work import remark

DESCRIPTION, IPTC = "Xmp.dc.description", "Iptc.Application2.Caption"
CHARACTERS = {"Iptc.Envelope.CharacterSet": "\x1b%G"}  # UTF-8
DEFAULT = 'lang="x-default"'
OPTIONAL: dict[str, Any] = {"picture": None, "attention": None, "explanation": None, "n_best": ()}
_exiv2 = Lock()  # pyexiv2 has global state


class Sink:
    """Takes captions one by one. This one keeps them, for what is made of all in the end.

    A subclass overrides what it does otherwise: `begin`, `add`, `skip`, `close`, and `__exit__` if
    it holds a file open.

    path : of the file that it writes; None: it has none
    best : captions of a picture that are asked for
    explain : the reasons of a choice are asked for
    DataError : the file's name has another suffix, or no new file can be made there.
    """

    flag: ClassVar[str]  # of the command
    help: ClassVar[str]
    suffix: ClassVar[str] = ""  # of its file; empty: it has none, and its option no value
    wants: frozenset[str] = frozenset()  # of the fields of a caption that are OPTIONAL
    instead: ClassVar[bool] = False  # where it is given, captions are not printed
    once: ClassVar[bool] = False  # a picture that is given twice comes once
    of_files: ClassVar[bool] = False  # it writes to the pictures' files, or next to them

    def __init__(self, path: Path | None = None, *, best: int = 1, explain: bool = False) -> None:
        self.path, self.best = path or Path(), best
        self.wants |= {
            name for name, asked in (("n_best", best > 1), ("explanation", explain)) if asked
        }
        self.had = 0  # of the pictures it is begun for
        self.captions: list[PictureCaption] = []
        self.skipped: list[Skipped] = []
        self.check()

    def check(self) -> None:
        """DataError : it cannot be written. Asked before any work is done."""
        if self.suffix:
            require_new_file("caption", self.path, self.suffix)

    def begin(self, run: Run[Captioner], names: Sequence[str]) -> Collection[str]:
        """Prepare for the pictures of these names, and return those that are here already."""
        self.run = run
        return ()

    def add(self, one: PictureCaption) -> None:
        """Take a caption, with those of the OPTIONAL fields that it wants."""
        self.captions.append(one)

    def skip(self, one: Skipped) -> None:
        """Take note of a picture without a caption."""
        self.skipped.append(one)

    def texts(self, one: PictureCaption) -> list[str]:
        """The captions of a picture that are asked for."""
        return [best.caption for best in one.n_best] if self.best > 1 else [one.caption]

    def close(self) -> str:
        """Finish, and say in a line what was written."""
        return ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        """Let go of what it holds open, in the end or after an error."""


def deliver(
    results: Iterable[PictureCaption | Skipped], sinks: Sequence[Sink]
) -> tuple[int, list[Skipped]]:
    """Give each result to each sink, a caption with what the sink wants, while all are open.

    Returns the number of captions, and the pictures without one.
    """
    captions, skipped = 0, list[Skipped]()
    with contextlib.ExitStack() as stack:
        for sink in sinks:
            stack.enter_context(sink)
        for one in results:
            if isinstance(one, Skipped):
                skipped.append(one)
                for sink in sinks:
                    sink.skip(one)
                continue
            captions += 1
            for sink in sinks:
                less = {name: no for name, no in OPTIONAL.items() if name not in sink.wants}
                sink.add(one._replace(**less))
    return captions, skipped


def wanted(sinks: Iterable[Sink]) -> frozenset[str]:
    """The OPTIONAL fields of a caption that some sink wants."""
    return frozenset[str]().union(*(sink.wants for sink in sinks))


def begin_sinks(sinks: Sequence[Sink], run: Run[Captioner], names: Sequence[str]) -> list[int]:
    """Begin each sink, and choose the pictures for all of them: those that none has already."""
    had: set[str] = set()
    for sink in sinks:
        here = set(sink.begin(run, names)).intersection(names)
        had |= here
        sink.had = len(here)
        if here:
            rest = len(names) - len(here)
            goes = "adding" if len(sinks) == 1 else "all outputs get"
            more = f"; {goes} the other {rest:,}" if rest else ""
            remark(f"{sink.path} has {len(here):,} of {len(names):,} pictures already{more}")
    return [number for number, name in enumerate(names) if name not in had]


def caption_sources(
    captioner: PictureCaptioner,
    paths: str | Path | Iterable[str | Path],
    sinks: Sequence[Sink],
    policy: Policy | None,
) -> Iterator[PictureCaption | Skipped]:
    """Begin the sinks and caption files, folders and URLs, for `deliver`, but those that are done.

    OptionError : a URL, with a sink that writes to pictures' files.
    """
    sources, skipped = find_sources(paths)
    if any(sink.once for sink in sinks):
        sources = list({str(source): source for source in sources}.values())
    for sink in sinks:
        if sink.of_files and (urls := [one for one in sources if isinstance(one, str)]):
            option, came = f"`{sink.flag.strip('-')}`", f"is given with the URL {urls[0]}"
            raise OptionError("caption", option, came, "pictures in files", "download it first")
    numbers = begin_sinks(sinks, captioner.run, list(map(str, sources)))
    yield from skipped
    wants = wanted(sinks)
    yield from captioner.captions(
        bar(
            [sources[number] for number in numbers],
            "captioning pictures",
            total=len(sources),
            done=len(sources) - len(numbers),
            lines=True,
        ),
        policy=policy,
        attend="attention" in wants,
        explain="explanation" in wants,
        show="picture" in wants,
        numbers=numbers,
    )


def write_captions(
    captioner: PictureCaptioner,
    paths: str | Path | Iterable[str | Path],
    *,
    csv: str | Path | None = None,
    txt: bool = False,
    describe: bool = False,
    policy: Policy | None = None,
) -> list[Skipped]:
    """Caption picture files, pictures in folders (recursively) and URLs, and write each caption.

    At most 64 pictures are in memory, and a caption is written when its 64 are decoded. Remarks
    name what is left as it was, and the number of pictures that the table has already.

    paths : as in `caption_files`
    csv : table to write, or to continue: pictures that it has are left out. See CsvTable
    txt : write NAME.txt next to each picture, a line a caption; another text is never replaced
    describe : write the caption into the picture, as its XMP and IPTC description; another
        description is never replaced. See `describe_picture`
    policy : as in `caption_run`; of a beam all of its `n_best` go into the table and text files
    DataError : the table is another file, another process writes to it, or pyexiv2 is missing.
    OptionError : a URL, with `txt` or `describe`, or none of the three outputs. OSError : a file
        cannot be written; what was written before is whole.
    """
    txt = Flag().check("write_captions", "`txt`", txt)
    describe = Flag().check("write_captions", "`describe`", describe)
    best = 1 if policy is None else captioner.run.decoder(policy).policy.n_best or 1
    sinks: list[Sink] = [TextFiles(best=best)] if txt else []
    sinks += [Descriptions(best=best)] if describe else []
    sinks += [CsvTable(Path(csv), best=best)] if csv is not None else []
    if not sinks:
        came, expected = "is given to write to", "`csv`, `txt` or `describe`"
        raise OptionError("write_captions", "nothing", came, expected)
    _, skipped = deliver(caption_sources(captioner, paths, sinks, policy), sinks)
    for sink in sinks:
        sink.close()
    return skipped


class CsvTable(Sink):
    """A CSV file of captions, UTF-8, a row a picture, that is written row by row.

    Its columns are `picture`, `caption`, of several captions `caption_2`, ..., and `error`: why a
    picture has no caption. One that another try may caption has no row. A process that is killed
    leaves whole rows and at most one that is cut off, which is removed when the table is continued.
    """

    flag, suffix = "--csv", ".csv"
    help = (
        "Write a table with one row per picture instead of printing. Pictures that an existing table"
        " has are skipped."
    )
    instead = once = True
    _file: BinaryIO | None = None
    _rows = _postponed = 0

    def check(self) -> None:
        if self.path.suffix.lower() != self.suffix or not self.path.is_file():
            super().check()

    def begin(self, run: Run[Captioner], names: Sequence[str]) -> Collection[str]:
        """Open the table, which no other process may write to meanwhile.

        DataError : it is another file, or another process has it.
        """
        self._names, self._pictures = set(names), set[str]()
        more = [f"caption_{number}" for number in range(2, self.best + 1)]
        self._header = ["picture", "caption", *more, "error"]
        self._file = self.path.open("a+b")
        came, cause = "is being written by another process", "wait, or choose another name"
        lock(self._file, DataError("caption", self.path, came, "none", cause))
        self._file.seek(0)
        rows, size = self._read(self._file.read())
        self._file.truncate(size)
        if not rows:
            self._write(self._header)
        self._pictures |= {row[0] for row in rows[1:]}
        return self._pictures

    def _read(self, content: bytes) -> tuple[list[list[str]], int]:
        """The whole rows, and where they end, in bytes. DataError : of another table."""
        size = sum(map(len, _whole_rows(content)))
        if not size:
            if _row(self._header).startswith(content):
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
        expected = (
            f"a new file, or a table with the header {','.join(self._header)}, to be continued"
        )
        cause = "choose another name, or give the same options as before"
        return DataError("caption", self.path, f"has {what}", expected, cause)

    def add(self, one: PictureCaption) -> None:
        """Write a row, and hand it to the operating system. OSError : it cannot be written."""
        texts = self.texts(one)
        self._write([one.image, *texts, *[""] * (self.best - len(texts)), ""])
        self._pictures.add(one.image)
        self._rows += 1

    def skip(self, one: Skipped) -> None:
        if isinstance(one, Postponed):
            self._postponed += one.image in self._names
        else:
            self._write([one.image, *[""] * self.best, one.reason])
            self._pictures.add(one.image)

    def _write(self, cells: Sequence[str]) -> None:
        assert self._file is not None
        try:
            self._file.write(_row(cells))
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def close(self) -> str:
        later = "; the same command tries again what was not downloaded" if self._postponed else ""
        return f"wrote {_captions(self._rows)} to {self.path}{later}"

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if self._file is None:
            return
        try:
            with self._file:
                os.fsync(self._file.fileno())
        except OSError as failed:
            if error is None:  # else it is the same again: what could not be written is left over
                raise OSError(failed.errno, failed.strerror, str(self.path)) from failed
        if isinstance(error, KeyboardInterrupt | OSError):
            done, count = len(self._names & self._pictures), len(self._names)
            error.add_note(
                f"{self.path} has {done:,} of {count:,} pictures; the same command adds the others"
            )


def _captions(count: int) -> str:
    return f"{count:,} {'caption' if count == 1 else 'captions'}"


def _row(cells: Sequence[str]) -> bytes:
    text = io.StringIO()
    csv_format.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _whole_rows(content: bytes) -> Iterator[bytes]:
    """The rows of a CSV file, without one that is cut off at the end."""
    row = b""
    for line in content.splitlines(keepends=True):
        row += line
        if line.endswith(b"\n") and row.count(b'"') % 2 == 0:  # else a line end is in quotes
            yield row
            row = b""


class TextFiles(Sink):
    """NAME.txt next to each picture, a line a caption; a file with another text is left."""

    flag = "--txt"
    help = "Write NAME.txt next to each picture instead of printing. A different text is never replaced."
    instead = once = of_files = True
    _written = _all = 0

    def add(self, one: PictureCaption) -> None:
        path = Path(one.image).with_suffix(".txt")
        text = "".join(f"{caption}\n" for caption in self.texts(one))
        self._all += 1
        try:
            with new_path("caption", path) as part:
                write_text(part, text)
        except DataError:
            if not os.path.lexists(path):
                raise  # else it was there, or another command has written it meanwhile
        if _has_text(path, text):
            self._written += 1
        else:
            remark(f"left {path}: has another text, which was left")

    def close(self) -> str:
        return f"wrote {self._written:,} of {_captions(self._all)} next to their pictures, as .txt"


def _has_text(path: Path, text: str) -> bool:
    content = text.encode()
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content


class Descriptions(Sink):
    """The caption in the picture's own file, as by `describe_picture`."""

    flag = "--describe"
    help = (
        "Write each caption into its picture file, as XMP and IPTC description, instead of printing."
        " A different description is never replaced."
    )
    instead = once = of_files = True
    _written = _all = 0

    def check(self) -> None:
        _require_exiv2()

    def add(self, one: PictureCaption) -> None:
        self._all += 1
        if why := describe_picture(Path(one.image), one.caption):
            remark(f"left {one.image}: {why}")
        else:
            self._written += 1

    def close(self) -> str:
        return f"wrote {self._written:,} of {_captions(self._all)} into their pictures"


class Page(Sink):
    """A page of the pictures and their captions."""

    flag, suffix = "--html", ".html"
    help = "Also write a page of pictures and captions. An existing file is never overwritten."
    wants = frozenset(OPTIONAL)

    def add(self, one: PictureCaption) -> None:
        small = None if one.picture is None else embed("caption", one.image, one.picture)
        super().add(one._replace(picture=small))  # as in the page, so that few bytes are kept

    def close(self) -> str:
        if not self.captions:
            return f"{self.path} was not written: there is no new picture"
        write_caption_page(self.path, self.run, self.captions, skipped=self.skipped)
        return f"wrote {self.path}"


class Png(Sink):
    """One PNG of the first pictures and their captions."""

    flag, suffix = "--png", ".png"
    help = f"Also draw at most {DRAWN} of them in one PNG. An existing file is never overwritten."
    wants = frozenset({"picture"})
    _drawn = 0

    def add(self, one: PictureCaption) -> None:
        if one.picture is not None and self._drawn < DRAWN:
            self._drawn += 1
        else:
            one = one._replace(picture=None)  # not drawn, so not kept in memory
        super().add(one)

    def close(self) -> str:
        count, drawn = len(self.captions), self._drawn
        if not count:
            return f"{self.path} was not written: there is no new picture"
        write_caption_png(self.path, self.captions)
        if drawn == count:
            return f"wrote {self.path}"
        if drawn < DRAWN:
            return f"wrote {self.path} with {drawn} of {count} pictures; the others were not found"
        first = f"the first {drawn} of {count} pictures, as many as one PNG takes"
        return f"wrote {self.path} with {first}; a page takes all: --html"


def describe_picture(path: Path, caption: str) -> str:
    """Write a caption into a picture file as its description: XMP, and IPTC where that exists.

    Returns why the picture stays as it was; empty if it has the description now. All else
    of the file stays, pixels to the byte. It is replaced whole, or not at all. Another description
    is left, and so is a file of a format without any.

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
        return "takes no description: expected a JPEG, PNG, TIFF or WebP"
    if not np.array_equal(read_picture(content), read_picture(described)):
        return "would not be the same picture with a description"
    with atomic(path) as file:
        file.write(described)
        Path(file.name).chmod(stat.S_IMODE(path.stat().st_mode))
    return ""


def _require_exiv2() -> None:
    if importlib.util.find_spec("pyexiv2") is None:
        cause = f"{install('describe')} installs it"
        raise DataError("caption", "`describe`", "needs pyexiv2", "it to be installed", cause)


SINKS: tuple[type[Sink], ...] = (Page, Png, TextFiles, Descriptions, CsvTable)
