"""`read_captions`: detect the format of each caption file, and join the rows of all."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from xpcap.encoders.finding import search_folder, text_names
from xpcap.errors import DataError, OptionError
from xpcap.files.read_write import is_text
from xpcap.prepare.coco import COCO, KARPATHY
from xpcap.prepare.flickr8k import TOKENS
from xpcap.prepare.rows import ENCODING, CaptionRow, CaptionText, Columns, ImportReport, grouped
from xpcap.prepare.splits import our_name, with_split_names
from xpcap.prepare.tables import BY_PICTURE, JSON_LINES, JSON_LIST, TABLES, unknown_columns
from xpcap.prepare.text import read_whole
from xpcap.progress import bar

CaptionFile = tuple[str | None, str | Path]  # the split that the user gave, if any, and the path
METADATA = (
    "metadata.csv",
    "metadata.jsonl",
)  # tables of a folder, as in Hugging Face's imagefolder
FORMATS = (  # the first that fits a file is used
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
    """Rows of caption files of any known format, grouped by split and picture.

    A folder stands for its ``metadata.csv`` or ``metadata.jsonl``, whose paths begin in the folder;
    without one, for a ``NAME.txt`` for each picture, with a caption per line.

    files : (split, path) each; split None: the file names the splits itself, or has none. Synonyms
        of train, val and test, such as dev, are replaced
    columns : names of a table's columns, if they are unusual
    encoding : of files without a byte order mark; None: UTF-8
    report : receives the omissions, and the format of each file
    progress : show a bar of the files on a terminal; None: as the current work
    DataError : a file has no known format, or is damaged; or only some files have splits.
    OptionError : `columns` or `encoding` is invalid. OSError : a file cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "captions.csv")
    ...     _ = path.write_text("image,caption,split\\na.jpg,A dog.,train\\n")
    ...     read_captions([(None, path)])[0][:3]
    ('a.jpg', 'A dog.', 'train')
    """
    report = report or ImportReport()
    if not isinstance(columns, Columns | None):
        raise OptionError(f"`columns` is {columns!r}, expected Columns(image=..., caption=...)")
    if encoding is not None:
        ENCODING.check("`encoding`", encoding)

    def text_at(path: Path) -> CaptionText:
        text = read_whole(path, encoding)
        return CaptionText(str(path), text, columns or Columns(), report)

    joined: list[CaptionRow] = []
    for split, path in bar(files, "reading captions", shown=progress):
        before = len(report.omissions)
        rows = list(with_split_names(_read(Path(path), text_at, report), report))
        report.name_file(Path(path).name, before)
        row_splits = dict.fromkeys(row.split for row in rows if row.split)
        if columns not in (None, Columns()) and report.forms[-1] not in WITH_COLUMNS:
            raise DataError(
                f"{path} has the format {report.forms[-1]}, without columns, expected a table,"
                " since its columns are named"
            )
        if split is not None and row_splits:
            raise DataError(
                f"{path} already defines splits ({', '.join(row_splits)}), expected no split before"
                " its name"
            )
        if not rows:
            raise DataError(
                f"{path} has no readable caption, expected at least one;"
                f" {'; '.join(report.lines())}"
            )
        joined += rows if split is None else [row._replace(split=our_name(split)) for row in rows]
    if not joined:
        raise DataError("there is no caption file, expected at least one")
    if len({row.split is None for row in joined}) > 1:
        raise DataError(
            "some of the files have splits and some have none, expected splits in all files or"
            " none; name the split of each file"
        )
    return grouped(joined)


def _read(
    path: Path, text_at: Callable[[Path], CaptionText], report: ImportReport
) -> Iterator[CaptionRow]:
    """The rows of a file, of a folder's table, or of the texts next to its pictures."""
    if not path.is_dir():
        yield from read_rows(text_at(path))
    elif table := next((path / name for name in METADATA if (path / name).is_file()), None):
        for row in read_rows(text_at(table)):
            yield row._replace(picture=row.picture and (path / row.picture).as_posix())
    else:
        report.forms.append("NAME.txt beside pictures")
        yield from _texts_of_pictures(path, text_at)


def _texts_of_pictures(
    folder: Path, text_at: Callable[[Path], CaptionText]
) -> Iterator[CaptionRow]:
    """Rows of the NAME.txt of pictures, a caption per line. DataError : there is none.

    NAME.jpg.txt, which pictures with the same NAME need, has precedence.
    """
    texts = {}
    for picture in search_folder(folder).pictures:
        for path in map(picture.with_name, text_names(picture)):
            if is_text(str(picture)) and path.is_file():
                texts[picture] = path
    if not texts:
        raise DataError(
            f"{folder} holds no {' or '.join(METADATA)}, and no NAME.txt of a picture, expected"
            " captions of its pictures"
        )
    for picture, path in texts.items():
        file = text_at(path)
        lines = list(map(str.strip, file.text.split("\n")))
        if not any(lines):
            yield CaptionRow(picture.as_posix(), None, None, file.where)
        for number, line in enumerate(lines, start=1):
            if line:
                yield CaptionRow(picture.as_posix(), line, None, f"{file.where}, line {number}")


def read_rows(file: CaptionText) -> Iterator[CaptionRow]:
    """The rows of a file by the first format that fits; the report records it."""
    if not file.first_line:
        raise DataError(f"{file.where} is empty, expected captions")
    if known_form := next((form for form in FORMATS if form.fits(file)), None):
        file.report.forms.append(known_form.name)
        return known_form.read(file)
    if error := unknown_columns(file):
        raise error
    got = f"has no known format, its first line is {file.first_line[:100]!r}"
    known = ", ".join(form.name for form in FORMATS)
    raise DataError(
        f"{file.where} {got}, expected one of: {known}; a table, such as CSV, needs a heading with"
        " a picture and a caption column"
    )
