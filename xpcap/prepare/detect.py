"""read_captions: detect the format of each file of captions, and join their rows."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from xpcap.encoders.finding import search_folder, text_names
from xpcap.errors import DataError, OptionError
from xpcap.files import is_text
from xpcap.prepare.coco import COCO, KARPATHY
from xpcap.prepare.flickr8k import TOKENS
from xpcap.prepare.rows import CaptionRow, CaptionText, Columns, Encoding, ImportReport, grouped
from xpcap.prepare.splits import our_name, with_split_names
from xpcap.prepare.tables import BY_PICTURE, JSON_LINES, JSON_LIST, TABLES, unknown_columns
from xpcap.prepare.text import read_whole
from xpcap.progress import bar

CaptionFile = tuple[str | None, str | Path]  # the split that the user gave, if any, and the path
METADATA = ("metadata.csv", "metadata.jsonl")  # of a folder, as Hugging Face's imagefolder has it
FORMATS = (  # of a file, the first that fits
    KARPATHY,
    COCO,
    BY_PICTURE,
    JSON_LIST,
    JSON_LINES,
    TOKENS,
    *TABLES,
)
WITH_COLUMNS = {form.name for form in (JSON_LIST, JSON_LINES, *TABLES)}


def read_captions(
    files: Sequence[CaptionFile],
    *,
    columns: Columns | None = None,
    encoding: str | None = None,
    report: ImportReport | None = None,
    progress: bool | None = None,
) -> list[CaptionRow]:
    """Rows of files of captions, each of any known form: by split, then by picture as it comes.

    A folder stands for the ``metadata.csv`` or ``metadata.jsonl`` in it; without one, for the
    ``NAME.txt`` beside each picture, with a caption a line. Its names lead there from where the
    folder's do.

    files : (split, path) each; split None: the file names the splits itself, or has none. Synonyms
        of a split's name, such as dev, become ours
    columns : names of a table's columns, if they are not the usual ones
    encoding : of files without a byte order mark; None: UTF-8
    report : takes the omissions, and the form of each file
    progress : show a bar of the files on a terminal; None: as the current work
    DataError : a file of no known form or a damaged one, or files with splits and files without.
    OptionError : `columns` are no Columns, or `encoding` is none. OSError : a file cannot be read.
    """
    caller, report = "read_captions", report or ImportReport()
    if not isinstance(columns, Columns | None):
        raise OptionError(caller, "`columns`", f"is {columns!r}", "Columns(image=..., caption=...)")
    if encoding is not None:
        Encoding().check(caller, "`encoding`", encoding)

    def text_at(path: Path) -> CaptionText:
        text = read_whole(caller, path, encoding)
        return CaptionText(f"{caller}: {path}", text, columns or Columns(), report)

    joined: list[CaptionRow] = []
    for split, path in bar(files, "reading captions", shown=progress):
        before = len(report.omissions)
        rows = list(with_split_names(_read(Path(path), text_at, report), report))
        report.name_file(Path(path).name, before)
        row_splits = dict.fromkeys(row.split for row in rows if row.split)
        if columns not in (None, Columns()) and report.forms[-1] not in WITH_COLUMNS:
            got = f"is of the form {report.forms[-1]}, without columns"
            raise DataError(caller, path, got, "a table, as its columns are named")
        if split is not None and row_splits:
            got = f"already defines splits ({', '.join(row_splits)})"
            raise DataError(caller, path, got, "no split before its name")
        if not rows:
            cause = "; ".join(report.lines())
            raise DataError(caller, path, "has no caption that could be read", "some", cause)
        joined += rows if split is None else [row._replace(split=our_name(split)) for row in rows]
    if not joined:
        raise DataError(caller, "", "got no file", "at least one")
    if len({row.split is None for row in joined}) > 1:
        got, cause = "have splits and some have none", "name the split of each file"
        raise DataError(caller, "some of the files", got, "all or none of them", cause)
    return grouped(joined)


def _read(
    path: Path, text_at: Callable[[Path], CaptionText], report: ImportReport
) -> Iterator[CaptionRow]:
    """The rows of a file, or of a folder's table, or of the texts beside its pictures."""
    if not path.is_dir():
        yield from read_rows(text_at(path))
    elif table := next((path / name for name in METADATA if (path / name).is_file()), None):
        for row in read_rows(text_at(table)):
            yield row._replace(picture=row.picture and (path / row.picture).as_posix())
    else:
        report.forms.append("NAME.txt beside pictures")
        yield from _beside_pictures(path, text_at)


def _beside_pictures(folder: Path, text_at: Callable[[Path], CaptionText]) -> Iterator[CaptionRow]:
    """Rows of the NAME.txt of pictures, a caption a line. DataError : there is none.

    If a picture has a NAME.jpg.txt, since others share its NAME, that one is read.
    """
    texts = {
        picture: path
        for picture in search_folder("read_captions", folder).pictures
        for path in map(picture.with_name, text_names(picture))
        if is_text(str(picture)) and path.is_file()
    }
    if not texts:
        got = f"holds no {' or '.join(METADATA)}, and no NAME.txt beside a picture"
        raise DataError("read_captions", folder, got, "captions of its pictures")
    for picture, path in texts.items():
        file = text_at(path)
        lines = list(map(str.strip, file.text.split("\n")))
        if not any(lines):
            yield CaptionRow(picture.as_posix(), None, None, file.where)
        for number, line in enumerate(lines, start=1):
            if line:
                yield CaptionRow(picture.as_posix(), line, None, f"{file.where}, line {number}")


def read_rows(file: CaptionText) -> Iterator[CaptionRow]:
    """The rows of a file by the first format that fits, which the report names."""
    if not file.first_line:
        raise DataError(file.where, "", "is empty", "captions")
    if known_form := next((form for form in FORMATS if form.fits(file)), None):
        file.report.forms.append(known_form.name)
        return known_form.read(file)
    if error := unknown_columns(file):
        raise error
    got = f"is of no form known here, its first line is {file.first_line[:100]!r}"
    known = ", ".join(form.name for form in FORMATS)
    cause = "the heading of a table, such as CSV, names a picture and a caption"
    raise DataError(file.where, "", got, f"one of: {known}", cause)
