"""Kinds of files by their first bytes, for messages about an unexpected file."""

from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of file as in messages, ``an Excel workbook``, and its family.

    Families: picture, raw, video, spreadsheet, document, archive, data.
    """

    name: str
    family: str


HEIC, AVIF = Kind("a HEIC picture", "picture"), Kind("an AVIF picture", "picture")
EXCEL = Kind("an Excel workbook", "spreadsheet")
OLD_OFFICE = Kind("an old Excel workbook (.xls), or another old Office file", "spreadsheet")
HDF5, RAW = Kind("an HDF5 file", "data"), Kind("a camera's RAW file", "raw")
PAGE = Kind("an HTML page", "document")
ENDS = 1 << 16  # bytes at either end of a zip archive that hold names of its members

_BEGINNINGS = {
    b"%PDF-": Kind("a PDF", "document"),
    b"{\\rtf": Kind("an RTF document", "document"),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": OLD_OFFICE,
    b"\x89HDF\r\n\x1a\n": HDF5,
    b"\xff\xd8\xff": Kind("a JPEG picture", "picture"),
    b"\x89PNG\r\n\x1a\n": Kind("a PNG picture", "picture"),
    b"GIF8": Kind("a GIF picture", "picture"),
    b"\x1f\x8b": Kind("a gzip archive", "archive"),
    b"7z\xbc\xaf\x27\x1c": Kind("a 7-Zip archive", "archive"),
    b"Rar!": Kind("a RAR archive", "archive"),
    b"FUJIFILMCCD-RAW": RAW,
    b"IIU\0": RAW,  # Panasonic's
    b"IIRO": RAW,  # Olympus's
}
_MEMBERS = {  # of zip archives
    b"xl/": EXCEL,
    b"opendocument.spreadsheet": Kind("an OpenDocument spreadsheet", "spreadsheet"),
    b".iwa": Kind("a document of Apple's Numbers or Pages", "spreadsheet"),
    b"word/document": Kind("a Word document", "document"),
    b".npy": Kind("an archive of NumPy arrays", "data"),
}
_BRANDS = {  # of ISO media files
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), HEIC),
    **dict.fromkeys((b"avif", b"avis"), AVIF),
    b"crx ": RAW,  # Canon's
}


def kind_of_file(content: bytes) -> Kind | None:
    """The kind of a file by its bytes; 64 are enough, but for zip archives. None: unknown."""
    if content[4:8] == b"ftyp":
        return _kind_of_media(content)
    if content.startswith((b"PK\3\4", b"PK\5\6")):
        ends = content[:ENDS] + content[-ENDS:]
        kinds = (kind for name, kind in _MEMBERS.items() if name in ends)
        return next(kinds, Kind("a zip archive", "archive"))
    if content[:4] == b"II*\0" and content[8:10] == b"CR":
        return RAW  # Canon's older ones, in the shape of a TIFF
    text = content[:200].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return PAGE
    kinds = (kind for beginning, kind in _BEGINNINGS.items() if content.startswith(beginning))
    return next(kinds, None)


def _kind_of_media(content: bytes) -> Kind:
    """The kind of an ISO media file, by its major brand, then others: AVIF may begin ``mif1``."""
    size = min(int.from_bytes(content[:4], "big"), 64)
    compatible = [content[start : start + 4] for start in range(16, size, 4)]
    brands = [content[8:12], *compatible]
    if content[8:12] in (b"mif1", b"msf1") and {b"avif", b"avis"} & set(compatible):
        return AVIF
    return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), Kind("a video", "video"))
