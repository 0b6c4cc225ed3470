"""Outputs: the tables, texts, pictures and pages that `caption` writes. Open Output first.

Each output is an option of the command `caption`, and all may be combined. If one fails or the work
is stopped, the others keep what they have written.
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

from xpcap.captioning.captions import PictureCaptioner, find_sources
from xpcap.captioning.pages import DRAWN, caption_page, caption_png
from xpcap.distributed.work import notice
from xpcap.encoders import scheme_of
from xpcap.encoders.finding import SUFFIXES, text_names
from xpcap.errors import DataError, OptionError
from xpcap.files.growing_tables import BOM, CHOOSE, Log, SkippedList, csv_line, delimiter_of
from xpcap.files.read_write import require_new_file, write_new
from xpcap.models import Policy
from xpcap.options import Flag
from xpcap.progress import bar
from xpcap.report.markup import embed
from xpcap.runs.records import Hypothesis, PictureCaption, Skipped
from xpcap.runs.run import Run

OPTIONAL: dict[str, Any] = {"picture": None, "attention": None, "explanation": None, "n_best": ()}


class Output:
    """An output receives captions one by one; this base class collects them in `captions`.

    A subclass overrides `begin`, `add`, `skip` and `close` as it needs, and `__exit__` if it holds
    a file open. Subclass `NewFile` or `GrowingFile` to write a file.

    path : file to write; None: the output writes none
    best : number of captions per picture
    explain : captions come with the reasons of their choice
    """

    flag: ClassVar[str]  # option of the command
    help: ClassVar[str]
    suffix: ClassVar[str] = ""  # of its file; empty: it writes no file, and the option is a flag
    wants: frozenset[str] = frozenset()  # fields of a caption in OPTIONAL that it uses
    replaces_printing: ClassVar[bool] = False  # captions are not printed as well
    skips_duplicates: ClassVar[bool] = False  # a picture that is given twice is captioned once
    needs_files: ClassVar[bool] = False  # it writes next to picture files, so URLs are refused
    needs_only_texts: ClassVar[bool] = False  # it uses only the texts of captions

    def __init__(self, path: Path | None = None, *, best: int = 1, explain: bool = False) -> None:
        self.path = path or Path()
        self.best = best
        self.wants |= {
            name for name, asked in (("n_best", best > 1), ("explanation", explain)) if asked
        }
        self.existing = 0  # pictures that it already has of those in `begin`
        self.names_are_paths = False  # pictures are named by paths and URLs, not as in a split
        self.captions: list[PictureCaption] = []
        self.skipped: list[Skipped] = []
        self.check()

    def check(self) -> None:
        """Raise DataError if the file cannot be written. Called before any work is done."""

    def begin(self, run: Run, captioner: str, names: Sequence[str]) -> None:
        """Prepare for pictures of these names.

        captioner : `Run.signature` of the run; empty without a GrowingFile among the outputs
        """
        self.run = run
        self.captioner = captioner

    def add(self, caption: PictureCaption) -> None:
        """Receive a caption; OPTIONAL fields are filled if the output wants them."""
        self.captions.append(caption)

    def skip(self, failure: Skipped) -> None:
        """Record a picture without a caption."""
        self.skipped.append(failure)

    def texts(self, caption: PictureCaption) -> list[str]:
        """The `best` captions of a picture, the best first."""
        return [best.caption for best in caption.n_best] if self.best > 1 else [caption.caption]

    def close(self) -> str:
        """Finish; return a one-line summary of what was written."""
        return ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        """Close open files, also after an error."""


def deliver(
    results: Iterable[PictureCaption | Skipped], outputs: Sequence[Output]
) -> tuple[int, list[Skipped]]:
    """Enter all outputs, and give each result to each, with only the fields that the output wants.

    Returns the number of captions, and the pictures without one.
    """
    captions = 0
    skipped = list[Skipped]()
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
    """The OPTIONAL fields of a caption that at least one output wants."""
    return frozenset[str]().union(*(output.wants for output in outputs))


def begin_outputs(
    outputs: Sequence[Output],
    run: Run,
    policy: Policy | None,
    names: Sequence[str],
    *,
    names_are_paths: bool = False,
) -> list[int]:
    """Begin each output, and return the numbers of the pictures that still need a caption.

    A picture needs none if all growing files have it, or one has it and all outputs need only
    texts. Its texts are then copied from that file to the outputs that need only texts.
    """
    files = [output for output in outputs if isinstance(output, GrowingFile)]
    captioner = run.signature(policy) if files else ""  # takes time: it reads all parameters
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
            verb = "adding" if texts_suffice or lacks < len(chosen) else "all outputs get"
            rest = f"; {verb} the other {lacks:,}" if lacks else ""
            notice(f"{file.path} has {file.existing:,} of {len(names):,} pictures already{rest}")
    return chosen


def caption_sources(
    captioner: PictureCaptioner,
    paths: str | Path | Iterable[str | Path],
    outputs: Sequence[Output],
    policy: Policy | None,
) -> Iterator[PictureCaption | Skipped]:
    """Begin the outputs, and caption the files, folders and URLs that they lack, for `deliver`.

    OptionError : a URL is given to an output that writes next to picture files.
    """
    sources, skipped = find_sources(paths)
    if any(output.skips_duplicates for output in outputs):
        sources = list({str(source): source for source in sources}.values())
    for output in outputs:
        if output.needs_files and (
            urls := [source for source in sources if isinstance(source, str)]
        ):
            raise OptionError(
                f"`{output.flag.strip('-')}` is given with the URL {urls[0]}, expected pictures in"
                " files; download it first"
            )
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

    Pictures are captioned in batches of 64, which are written before the next is read. Notices name
    texts that are not replaced, and the number of pictures that the table already has.

    paths : as in `caption_files`
    csv : table to write or to continue; its pictures are skipped. See CsvTable
    txt : write NAME.txt next to each picture, one line per caption; never replace a different text
    outputs : further outputs, such as custom subclasses of GrowingFile
    policy : as in `caption_run`; the table and text files get all `n_best` captions of a beam
    DataError : the file is not such a table, or another process writes to it.
    OptionError : a URL with `txt`, or no output at all. OSError : a file cannot be written; the
        lines written before are complete.
    """
    txt = Flag().check("`txt`", txt)
    best = 1 if policy is None else captioner.run.decoder(policy).policy.n_best or 1
    chosen: list[Output] = [TextFiles(best=best)] if txt else []
    chosen += [CsvTable(Path(csv), best=best)] if csv is not None else []
    chosen += outputs
    if not chosen:
        raise OptionError("nothing is given to write to, expected `csv`, `txt` or `outputs`")
    _, skipped = deliver(caption_sources(captioner, paths, chosen, policy), chosen)
    for output in chosen:
        output.close()
    return skipped


class NewFile(Output):
    """A file that is written when all captions are there.

    A subclass defines `flag`, `help`, `suffix` and `content`.

    DataError : the path has another suffix, exists, or cannot be created.
    """

    def check(self) -> None:
        require_new_file(self.path, self.suffix)

    def content(self) -> bytes | str:
        """The content of the file, made from `captions` and `skipped`; text is written in UTF-8."""
        raise NotImplementedError

    def close(self) -> str:
        if not self.captions:
            return f"{self.path} was not written: there is no new picture"
        write_new(self.path, self.content(), self.suffix)
        return f"wrote {self.path}"


class GrowingFile(Output):
    """A file with a line per picture, which the same command continues, and a list of failures.

    A subclass defines `encode` and `decode`; docs/howto/captions-to-files.md has an example.
    FILE.skipped.csv lists the pictures that failed: the same command tries them again.

    fields : names of the columns: picture, captions and captioner. If there are several captions
        per picture, the captioner ends with their number
    rows : name of each picture in the file to its captions
    """

    replaces_printing = skips_duplicates = needs_only_texts = True
    start: ClassVar[str] = ""  # how each line begins, if the format has no heading
    _log: Log | None = None
    _skipped: SkippedList | None = None
    _added = 0

    def check(self) -> None:
        can_continue = self.path.is_file() and not self.path.is_symlink()
        if self.path.suffix.lower() != self.suffix or not can_continue:
            require_new_file(self.path, self.suffix)

    def heading(self) -> str:
        """The first line of a new file; empty: the format has no heading."""
        return ""

    def encode(self, row: Sequence[str]) -> str:
        """The line of a row, without line end."""
        raise NotImplementedError(f"{type(self).__name__} has no `encode`")

    def decode(self, line: str) -> Sequence[str]:
        """The row of a line. ValueError, LookupError or TypeError : another format's line."""
        raise NotImplementedError(f"{type(self).__name__} has no `decode`")

    def begin(self, run: Run, captioner: str, names: Sequence[str]) -> None:
        """Open the file, lock out other processes, and read its rows.

        DataError : the file has another format or captioner, or is in use.
        """
        several = f", n_best {self.best}" if self.best > 1 else ""
        super().begin(run, captioner + several, names)
        captions = ["caption", *(f"caption_{k}" for k in range(2, self.best + 1))]
        self.fields = ["picture", *captions, "captioner"]
        self.rows: dict[str, list[str]] = {}
        self._names = set(map(self.row_name, names))
        heading = self.heading()
        self._log = Log(self.path, f"{heading}\n" if heading else self.start)
        for number, line in enumerate(self._log.lines, start=1):
            name, *texts, captioner = self._row(number, line)
            if captioner == self.captioner:  # otherwise the line is the heading
                self.rows[name] = texts
        if heading and not self._log.lines:
            self._log.append(heading)
        self._skipped = SkippedList(self.path, "picture")
        for name in self.rows.keys() & self._skipped.reasons.keys():
            del self._skipped.reasons[name]  # a process was killed before it wrote the list

    def _row(self, number: int, line: bytes) -> list[str]:
        """A row of the file. DataError : the line has another format, or another captioner."""
        thing = f"{self.path}, line {number},"
        try:
            text = line.decode().removeprefix(BOM).removesuffix("\r")
            row = list(self.decode(text))
            if len(row) != len(self.fields) or not all(isinstance(cell, str) for cell in row):
                raise ValueError(f"{len(row)} fields")
        except (ValueError, LookupError, TypeError, RecursionError, csv.Error) as error:
            raise DataError(
                f"{thing} is {line[:60].decode('utf-8', 'replace')!r} ({error}), expected a row of"
                f" {', '.join(self.fields)}; edited, or not saved as UTF-8? Repair it, or choose"
                " another name"
            ) from error
        if row[-1] != self.captioner and row != self.fields:  # the heading is the fields
            raise DataError(
                f"{thing} holds captions by {row[-1]}, expected captions by {self.captioner};"
                f" {CHOOSE}"
            )
        return row

    def __contains__(self, name: str) -> bool:
        """True if the file has a row of the picture."""
        return self.row_name(name) in self.rows

    def row_name(self, name: str) -> str:
        """The name of a picture in its row; a picture file is named relative to this file's folder.

        A picture then has one row, however its path is typed.
        """
        if self.names_are_paths and not scheme_of(name):
            path = Path(name)
            folder = self.path.parent.resolve()
            with contextlib.suppress(ValueError):  # on another drive of Windows
                path = Path(os.path.relpath(path.parent.resolve() / path.name, folder))
            name = path.as_posix()
        return _in_a_line(name)

    def caption(self, name: str) -> PictureCaption:
        """The captions in a picture's row, without probabilities."""
        first, *others = self.rows[self.row_name(name)]
        n_best = [Hypothesis(text, math.nan) for text in (first, *filter(None, others))]
        return PictureCaption(name, first, [], [], n_best)

    def add(self, caption: PictureCaption) -> None:
        """Write a row, unless the picture has one. OSError : it cannot be written."""
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
        # A folder without a picture is no failure of a picture
        if (name := self.row_name(failure.image)) in self._names:
            self._skipped.reasons[name] = failure.reason

    def close(self) -> str:
        wrote = f"wrote {_captions(self._added)} to {self.path}"
        if not self._skipped or not (failed := len(self._skipped.reasons)):
            return wrote
        pictures = "picture" if failed == 1 else "pictures"
        again = f"{failed:,} {pictures} that failed; the same command tries again"
        return f"{wrote}\n{self._skipped.path} lists {again}"

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if self._log is None:
            return
        try:
            if self._skipped and not isinstance(error, OSError):  # the disk may be full
                self._skipped.write(self._skipped.reasons.items())
        finally:
            self._log.close()
        if isinstance(error, KeyboardInterrupt | OSError):
            done = len(self._names & self.rows.keys())
            count = len(self._names)
            error.add_note(
                f"{self.path} has {done:,} of {count:,} pictures; the same command adds the others"
            )


def _in_a_line(text: str) -> str:
    """A text with line ends and undecodable bytes escaped."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n")


class CsvTable(GrowingFile):
    """A CSV file of captions, UTF-8 with byte order mark, one row per picture.

    Its columns are `picture`, `caption`, `caption_2`, ... if there are several, and `captioner`. If
    a spreadsheet has saved the file with another delimiter, that one is used.
    """

    flag = "--csv"
    suffix = ".csv"
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
    """A file with one JSON object per line, with the fields of a `CsvTable`."""

    flag = "--jsonl"
    suffix = ".jsonl"
    start = '{"picture": "'
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
    """NAME.txt next to each picture, one line per caption; a different text is never replaced.

    If pictures of a folder share NAME, ignoring case, each gets a NAME.jpg.txt.
    """

    flag = "--txt"
    help = (
        "Write NAME.txt next to each picture instead of printing; never replaces a different text."
    )
    replaces_printing = skips_duplicates = needs_files = needs_only_texts = True
    _written = _all = 0

    def begin(self, run: Run, captioner: str, names: Sequence[str]) -> None:
        super().begin(run, captioner, names)
        self._stems = functools.cache(_count_stems)  # a folder is listed once

    def add(self, caption: PictureCaption) -> None:
        picture = Path(caption.image)
        is_shared = self._stems(picture.parent)[picture.stem.lower()] > 1
        path = picture.with_name(text_names(picture)[is_shared])
        text = "".join(f"{line}\n" for line in self.texts(caption))
        self._all += 1
        try:
            write_new(path, text)
        except DataError:
            if not os.path.lexists(path):
                raise  # if the file exists, its text is compared below
        if _has_text(path, text):
            self._written += 1
        else:
            notice(f"{path} is not replaced: it has a different text")

    def close(self) -> str:
        return f"wrote {self._written:,} of {_captions(self._all)} next to their pictures, as .txt"


def _count_stems(folder: Path) -> Counter[str]:
    """The number of pictures in a folder with each stem, in lower case."""
    return Counter(
        file.stem.lower() for file in folder.iterdir() if file.suffix.lower() in SUFFIXES
    )


def _has_text(path: Path, text: str) -> bool:
    content = text.encode()
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content


class Page(NewFile):
    """A page of the pictures and their captions."""

    flag = "--html"
    suffix = ".html"
    help = "Also write an HTML page of pictures and captions; never overwrites a file."
    wants = frozenset(OPTIONAL)

    def add(self, caption: PictureCaption) -> None:
        small = None if caption.picture is None else embed(caption.image, caption.picture)
        super().add(replace(caption, picture=small))  # a JPEG takes less memory than pixels

    def content(self) -> bytes:
        return caption_page(self.run, self.captions, skipped=self.skipped)


class Png(NewFile):
    """One PNG of the first pictures and their captions."""

    flag = "--png"
    suffix = ".png"
    help = f"Also draw up to {DRAWN} captioned pictures in one PNG; never overwrites a file."
    wants = frozenset({"picture"})
    _drawn = 0

    def add(self, caption: PictureCaption) -> None:
        if caption.picture is not None and self._drawn < DRAWN:
            self._drawn += 1
        else:
            caption = replace(caption, picture=None)  # it is not drawn: free its memory
        super().add(caption)

    def content(self) -> bytes:
        return caption_png(self.captions)

    def close(self) -> str:
        line = super().close()
        count = len(self.captions)
        drawn = self._drawn
        if drawn == count:
            return line
        if drawn < DRAWN:
            return f"{line} with {drawn} of {count} pictures; the others were not found"
        first = f"the first {drawn} of {count} pictures, the most that fit"
        return f"{line} with {first}; --html writes a page of all"


OUTPUTS: tuple[type[Output], ...] = (Page, Png, TextFiles, CsvTable, JsonLines)
