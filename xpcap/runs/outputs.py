"""Outputs: where captions go as they are made, to tables, texts, pictures, pages. Open Output first.

An output is an option of the command `caption`, and any of them go together. What one has written
when another fails, or the work is stopped, it keeps.
"""

import contextlib
import csv
import functools
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

from xpcap.encoders import scheme_of
from xpcap.encoders.finding import SUFFIXES, text_names
from xpcap.errors import DataError, OptionError
from xpcap.files import require_new_file, write_new
from xpcap.growing import BOM, CHOOSE, Log, SkippedList, csv_line, delimiter_of
from xpcap.models import Policy
from xpcap.options import Flag
from xpcap.progress import bar
from xpcap.report.markup import embed
from xpcap.runs.captions import PictureCaptioner, find_sources
from xpcap.runs.pages import DRAWN, caption_page, caption_png
from xpcap.runs.records import Hypothesis, PictureCaption, Skipped
from xpcap.runs.run import Run
from xpcap.work import notice

OPTIONAL: dict[str, Any] = {"picture": None, "attention": None, "explanation": None, "n_best": ()}


class Output:
    """Takes captions one by one. This one keeps them, for what is made of all in the end.

    A subclass overrides what it does otherwise: `begin`, `add`, `skip`, `close`, and `__exit__` if
    it holds a file open. One that writes a file is a `NewFile` or a `GrowingFile`.

    path : of the file that it writes; None: it has none
    best : captions of a picture that are asked for
    explain : the reasons of a choice are asked for
    """

    flag: ClassVar[str]  # of the command
    help: ClassVar[str]
    suffix: ClassVar[str] = ""  # of its file; empty: it has none, and its option no value
    wants: frozenset[str] = frozenset()  # of the fields of a caption that are OPTIONAL
    replaces_printing: ClassVar[bool] = False  # where it is given, captions are not printed
    skips_duplicates: ClassVar[bool] = False  # a picture that is given twice comes once
    needs_files: ClassVar[bool] = False  # it writes next to the pictures' files
    needs_only_texts: ClassVar[bool] = False  # it needs no more of captions than their texts

    def __init__(self, path: Path | None = None, *, best: int = 1, explain: bool = False) -> None:
        self.path, self.best = path or Path(), best
        self.wants |= {
            name for name, asked in (("n_best", best > 1), ("explanation", explain)) if asked
        }
        self.existing = 0  # of the pictures it is begun for
        self.names_are_paths = False  # the pictures' names are paths and URLs, not those of a split
        self.captions: list[PictureCaption] = []
        self.skipped: list[Skipped] = []
        self.check()

    def check(self) -> None:
        """Raise DataError if it cannot be written. Called before any work is done."""

    def begin(self, run: Run, captioner: str, names: Sequence[str]) -> None:
        """Prepare for pictures of these names.

        captioner : `Run.signature` of the run, if a file that grows is among the outputs
        """
        self.run, self.captioner = run, captioner

    def add(self, caption: PictureCaption) -> None:
        """Take a caption, with those of the OPTIONAL fields that it wants."""
        self.captions.append(caption)

    def skip(self, failure: Skipped) -> None:
        """Record a picture without a caption."""
        self.skipped.append(failure)

    def texts(self, caption: PictureCaption) -> list[str]:
        """The captions of a picture that are asked for."""
        return [best.caption for best in caption.n_best] if self.best > 1 else [caption.caption]

    def close(self) -> str:
        """Finish; return a one-line summary of what was written."""
        return ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        """Let go of what it holds open, in the end or after an error."""


def deliver(
    results: Iterable[PictureCaption | Skipped], outputs: Sequence[Output]
) -> tuple[int, list[Skipped]]:
    """Give each result to each output, a caption with what the output wants, while all are open.

    Returns the number of captions, and the pictures without one.
    """
    captions, skipped = 0, list[Skipped]()
    with contextlib.ExitStack() as stack:
        for output in outputs:
            stack.enter_context(output)
        for result in results:
            if isinstance(result, Skipped):
                skipped.append(result)
                for output in outputs:
                    output.skip(result)
                continue
            captions += 1
            for output in outputs:
                unwanted = {name: x for name, x in OPTIONAL.items() if name not in output.wants}
                output.add(replace(result, **unwanted))
    return captions, skipped


def wanted_fields(outputs: Iterable[Output]) -> frozenset[str]:
    """The OPTIONAL fields of a caption that some output wants."""
    return frozenset[str]().union(*(output.wants for output in outputs))


def begin_outputs(
    outputs: Sequence[Output],
    run: Run,
    policy: Policy | None,
    names: Sequence[str],
    *,
    names_are_paths: bool = False,
) -> list[int]:
    """Begin each output, and choose the pictures to caption: those that some file that grows lacks.

    Of others, the outputs that need no more get the texts in a file. If no output needs more, it is
    enough that one file has the picture.
    """
    files = [output for output in outputs if isinstance(output, GrowingFile)]
    captioner = run.signature(policy) if files else ""  # which reads all parameters
    for output in outputs:
        output.names_are_paths = names_are_paths
        output.begin(run, captioner, names)
    chosen: list[int] = []
    best = max((output.best for output in outputs), default=1)
    texts_suffice = all(output.needs_only_texts for output in outputs)
    for number, name in enumerate(names):
        holders = [file for file in files if name in file]
        for file in holders:
            file.existing += 1
        source = next((file for file in holders if file.best == best), None)
        if source is None or not (texts_suffice or holders == files):
            chosen.append(number)
            continue
        for output in outputs:
            if output.needs_only_texts:
                output.add(source.caption(name))
    for file in files:
        if file.existing:
            lacks = len(names) - file.existing
            goes = "adding" if texts_suffice or lacks < len(chosen) else "all outputs get"
            more = f"; {goes} the other {lacks:,}" if lacks else ""
            notice(f"{file.path} has {file.existing:,} of {len(names):,} pictures already{more}")
    return chosen


def caption_sources(
    captioner: PictureCaptioner,
    paths: str | Path | Iterable[str | Path],
    outputs: Sequence[Output],
    policy: Policy | None,
) -> Iterator[PictureCaption | Skipped]:
    """Begin the outputs and caption files, folders and URLs, for `deliver`, but those that are done.

    OptionError : a URL, with an output that writes to pictures' files.
    """
    sources, skipped = find_sources(paths)
    if any(output.skips_duplicates for output in outputs):
        sources = list({str(source): source for source in sources}.values())
    for output in outputs:
        if output.needs_files and (
            urls := [source for source in sources if isinstance(source, str)]
        ):
            option, got = f"`{output.flag.strip('-')}`", f"is given with the URL {urls[0]}"
            raise OptionError("caption", option, got, "pictures in files", "download it first")
    names = list(map(str, sources))
    numbers = begin_outputs(outputs, captioner.run, policy, names, names_are_paths=True)
    yield from skipped
    wants = wanted_fields(outputs)
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
    outputs: Iterable[Output] = (),
    policy: Policy | None = None,
) -> list[Skipped]:
    """Caption picture files, pictures in folders (recursively) and URLs, and write each caption.

    At most 64 pictures are in memory, and a caption is written when its 64 are decoded. Notices
    name what is left as it was, and the number of pictures that the table has already.

    paths : as in `caption_files`
    csv : table to write, or to continue: pictures that it has are left out. See CsvTable
    txt : write NAME.txt next to each picture, one line per caption; another text is never replaced
    outputs : further ones, such as custom subclasses of GrowingFile
    policy : as in `caption_run`; of a beam all of its `n_best` go into the table and text files
    DataError : the table is another file, or another process writes to it.
    OptionError : a URL, with `txt`, or no output at all. OSError : a file cannot be written;
        what was written before is whole.
    """
    txt = Flag().check("write_captions", "`txt`", txt)
    best = 1 if policy is None else captioner.run.decoder(policy).policy.n_best or 1
    chosen: list[Output] = [TextFiles(best=best)] if txt else []
    chosen += [CsvTable(Path(csv), best=best)] if csv is not None else []
    chosen += outputs
    if not chosen:
        expected = "`csv`, `txt` or `outputs`"
        raise OptionError("write_captions", "nothing", "is given to write to", expected)
    _, skipped = deliver(caption_sources(captioner, paths, chosen, policy), chosen)
    for output in chosen:
        output.close()
    return skipped


class NewFile(Output):
    """A file that is made of all captions in the end.

    A subclass defines `flag`, `help`, `suffix` and `content`.

    DataError : the file's name has another suffix, or no new file can be made there.
    """

    def check(self) -> None:
        require_new_file("caption", self.path, self.suffix)

    def content(self) -> bytes | str:
        """The content of the file, of `captions` and `skipped`; text is written in UTF-8."""
        raise NotImplementedError

    def close(self) -> str:
        if not self.captions:
            return f"{self.path} was not written: there is no new picture"
        write_new("caption", self.path, self.content(), self.suffix)
        return f"wrote {self.path}"


class GrowingFile(Output):
    """A file with a line per picture, which the same command continues, and a list of failures.

    A subclass defines `encode` and `decode`; docs/howto/captions-to-files.md has an example. The
    list, FILE.skipped.csv, has the pictures that the file lacks: the same command tries them again.

    fields : names of the texts in a row: of the picture, its captions and the captioner, which ends
        with the number of captions, if there are several
    rows : the captions of each picture, by its name in the file
    """

    replaces_printing = skips_duplicates = needs_only_texts = True
    start: ClassVar[str] = ""  # of each line, in a format without heading
    _log: Log | None = None
    _skipped: SkippedList | None = None
    _added = 0

    def check(self) -> None:
        can_continue = self.path.is_file() and not self.path.is_symlink()
        if self.path.suffix.lower() != self.suffix or not can_continue:
            require_new_file("caption", self.path, self.suffix)

    def heading(self) -> str:
        """The first line of a new file; empty: it has none."""
        return ""

    def encode(self, row: Sequence[str]) -> str:
        """The line of a row, without line end."""
        raise NotImplementedError(f"{type(self).__name__} has no `encode`")

    def decode(self, line: str) -> Sequence[str]:
        """The row of a line. ValueError, LookupError or TypeError : it is of another file."""
        raise NotImplementedError(f"{type(self).__name__} has no `decode`")

    def begin(self, run: Run, captioner: str, names: Sequence[str]) -> None:
        """Open the file, which no other process may write to meanwhile, and read its rows.

        DataError : it is another file, of another captioner, or in use.
        """
        several = f", n_best {self.best}" if self.best > 1 else ""
        super().begin(run, captioner + several, names)
        captions = ["caption", *(f"caption_{k}" for k in range(2, self.best + 1))]
        self.fields = ["picture", *captions, "captioner"]
        self.rows: dict[str, list[str]] = {}
        self._names = set(map(self.row_name, names))
        heading = self.heading()
        self._log = Log("caption", self.path, f"{heading}\n" if heading else self.start)
        for number, line in enumerate(self._log.lines, start=1):
            name, *texts, captioner = self._row(number, line)
            if captioner == self.captioner:  # else it is the heading
                self.rows[name] = texts
        if heading and not self._log.lines:
            self._log.append(heading)
        self._skipped = SkippedList("caption", self.path, "picture")
        for name in self.rows.keys() & self._skipped.reasons.keys():
            del self._skipped.reasons[name]  # a process was killed before it wrote the list

    def _row(self, number: int, line: bytes) -> list[str]:
        """A row of the file. DataError : it is of another file, edited, or of another captioner."""
        where = f"{self.path}, line {number},"
        try:
            text = line.decode().removeprefix(BOM).removesuffix("\r")
            row = list(self.decode(text))
            if len(row) != len(self.fields) or not all(isinstance(cell, str) for cell in row):
                raise ValueError(f"{len(row)} fields")
        except (ValueError, LookupError, TypeError, RecursionError, csv.Error) as error:
            got = f"is another row, {line[:60].decode('utf-8', 'replace')!r} ({error})"
            cause = "edited, or saved in another encoding than UTF-8? Mend it, or take another name"
            raise DataError("caption", where, got, ", ".join(self.fields), cause) from error
        if row[-1] != self.captioner and row != self.fields:  # which are the heading
            got, expected = f"holds captions by {row[-1]}", f"captions by {self.captioner}"
            raise DataError("caption", where, got, expected, CHOOSE)
        return row

    def __contains__(self, name: str) -> bool:
        """True if the file has a row of the picture."""
        return self.row_name(name) in self.rows

    def row_name(self, name: str) -> str:
        """The name of a picture in its row: of a file its path from the folder of this one.

        So a picture has one row, however its path is typed.
        """
        if self.names_are_paths and not scheme_of(name):
            path, folder = Path(name), self.path.parent.resolve()
            with contextlib.suppress(ValueError):  # on another drive of Windows
                path = Path(os.path.relpath(path.parent.resolve() / path.name, folder))
            name = path.as_posix()
        return _in_a_line(name)

    def caption(self, name: str) -> PictureCaption:
        """The texts of a picture's row; it has as many captions as are not empty."""
        first, *others = self.rows[self.row_name(name)]
        n_best = [Hypothesis(text, math.nan) for text in (first, *filter(None, others))]
        return PictureCaption(name, first, [], [], n_best)

    def add(self, caption: PictureCaption) -> None:
        """Write a row, unless there is one. OSError : it cannot be written."""
        assert self._log is not None
        assert self._skipped is not None
        name = self.row_name(caption.image)
        self._skipped.reasons.pop(name, None)
        if name not in self.rows:
            texts = [*map(_in_a_line, self.texts(caption))]
            texts += [""] * (self.best - len(texts))
            self._log.append(self.encode([name, *texts, self.captioner]))
            self.rows[name] = texts
            self._added += 1

    def skip(self, failure: Skipped) -> None:
        assert self._skipped is not None
        if (name := self.row_name(failure.image)) in self._names:  # else a folder without a picture
            self._skipped.reasons[name] = failure.reason

    def close(self) -> str:
        wrote = f"wrote {_captions(self._added)} to {self.path}"
        if not self._skipped or not (failed := len(self._skipped.reasons)):
            return wrote
        them = "picture that was" if failed == 1 else "pictures that were"
        again = f"{failed:,} {them} not captioned; the same command tries again"
        return f"{wrote}\n{self._skipped.path} has {again}"

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if self._log is None:
            return
        try:
            if self._skipped and not isinstance(error, OSError):  # which may be a full disk
                self._skipped.write(self._skipped.reasons.items())
        finally:
            self._log.close()
        if isinstance(error, KeyboardInterrupt | OSError):
            done, count = len(self._names & self.rows.keys()), len(self._names)
            error.add_note(
                f"{self.path} has {done:,} of {count:,} pictures; the same command adds the others"
            )


def _in_a_line(text: str) -> str:
    """A text without line ends, nor bytes that are no text, which are escaped."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n")


class CsvTable(GrowingFile):
    """A CSV file of captions, UTF-8 with byte order mark, one row per picture.

    Its columns are `picture`, `caption`, of several captions `caption_2`, ..., and `captioner`. One
    that a spreadsheet has saved is continued with its delimiter.
    """

    flag, suffix = "--csv", ".csv"
    help = (
        "Write a table with one row per picture instead of printing. Pictures in an existing table"
        " are skipped."
    )
    _delimiter = ""  # of the file, once its heading is read

    def heading(self) -> str:
        return f"{BOM}{self.encode(self.fields)}"

    def encode(self, row: Sequence[str]) -> str:
        return csv_line(row, self._delimiter or ",")

    def decode(self, line: str) -> Sequence[str]:
        self._delimiter = self._delimiter or delimiter_of(line)
        return next(csv.reader([line], delimiter=self._delimiter, strict=True), [])


class JsonLines(GrowingFile):
    """A JSON object per picture, a line each, with the fields of a `CsvTable`."""

    flag, suffix, start = "--jsonl", ".jsonl", '{"picture": "'
    help = (
        "Write a line with a JSON object per picture instead of printing. Pictures in an existing"
        " file are skipped."
    )

    def encode(self, row: Sequence[str]) -> str:
        return json.dumps(dict(zip(self.fields, row, strict=True)), ensure_ascii=False)

    def decode(self, line: str) -> Sequence[str]:
        row = json.loads(line)
        return [row[field] for field in self.fields]


def _captions(count: int) -> str:
    return f"{count:,} {'caption' if count == 1 else 'captions'}"


class TextFiles(Output):
    """NAME.txt next to each picture, one line per caption; keeps a file with a different text.

    Where pictures of a folder share NAME, but for capitals, each has a NAME.jpg.txt.
    """

    flag = "--txt"
    help = (
        "Write NAME.txt next to each picture instead of printing; never replaces a different text."
    )
    replaces_printing = skips_duplicates = needs_files = needs_only_texts = True
    _written = _all = 0

    def begin(self, run: Run, captioner: str, names: Sequence[str]) -> None:
        super().begin(run, captioner, names)
        self._stems = functools.cache(_count_stems)  # of each folder, as it is now

    def add(self, caption: PictureCaption) -> None:
        picture = Path(caption.image)
        is_shared = self._stems(picture.parent)[picture.stem.lower()] > 1
        path = picture.with_name(text_names(picture)[is_shared])
        text = "".join(f"{line}\n" for line in self.texts(caption))
        self._all += 1
        try:
            write_new("caption", path, text)
        except DataError:
            if not os.path.lexists(path):
                raise  # else it was there, or another command has written it meanwhile
        if _has_text(path, text):
            self._written += 1
        else:
            notice(f"kept {path}: it has a different text")

    def close(self) -> str:
        return f"wrote {self._written:,} of {_captions(self._all)} next to their pictures, as .txt"


def _count_stems(folder: Path) -> Counter[str]:
    """The numbers of pictures in a folder by stem, in lower case."""
    return Counter(
        file.stem.lower() for file in folder.iterdir() if file.suffix.lower() in SUFFIXES
    )


def _has_text(path: Path, text: str) -> bool:
    content = text.encode()
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content


class Page(NewFile):
    """A page of the pictures and their captions."""

    flag, suffix = "--html", ".html"
    help = "Also write an HTML page of pictures and captions; never overwrites a file."
    wants = frozenset(OPTIONAL)

    def add(self, caption: PictureCaption) -> None:
        small = (
            None if caption.picture is None else embed("caption", caption.image, caption.picture)
        )
        super().add(replace(caption, picture=small))  # as in the page, so that few bytes are kept

    def content(self) -> bytes:
        return caption_page(self.run, self.captions, skipped=self.skipped)


class Png(NewFile):
    """One PNG of the first pictures and their captions."""

    flag, suffix = "--png", ".png"
    help = f"Also draw up to {DRAWN} captioned pictures in one PNG; never overwrites a file."
    wants = frozenset({"picture"})
    _drawn = 0

    def add(self, caption: PictureCaption) -> None:
        if caption.picture is not None and self._drawn < DRAWN:
            self._drawn += 1
        else:
            caption = replace(caption, picture=None)  # not drawn, so not kept in memory
        super().add(caption)

    def content(self) -> bytes:
        return caption_png(self.captions)

    def close(self) -> str:
        line, count, drawn = super().close(), len(self.captions), self._drawn
        if drawn == count:
            return line
        if drawn < DRAWN:
            return f"{line} with {drawn} of {count} pictures; the others were not found"
        first = f"the first {drawn} of {count} pictures, as many as one PNG takes"
        return f"{line} with {first}; a page takes all: --html"


OUTPUTS: tuple[type[Output], ...] = (Page, Png, TextFiles, CsvTable, JsonLines)
