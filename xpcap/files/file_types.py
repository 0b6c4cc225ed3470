"""Recognise types of files by their first bytes, for messages about an unexpected file."""

import re
from typing import NamedTuple


class FileType(NamedTuple):
    """A type of file: its name in messages, such as ``an Excel workbook``, and its family.

    Families: picture, raw, video, spreadsheet, document, archive, data.
    """

    name: str
    family: str


HEIC = FileType("a HEIC picture", "picture")
AVIF = FileType("an AVIF picture", "picture")
PAGE = FileType("an HTML page", "document")
RAW = FileType("a camera's RAW file", "raw")
ENDS = 1 << 16  # bytes at each end of a zip archive that are searched for names of members

_BRAND = rb".{4}ftyp(.{4}){0,13}?"  # of an ISO media file, whose compatible brands follow
_ZIP = rb"PK[\x03\x05][\x04\x06]"
_TYPES = {  # the first pattern that matches counts: AVIF may begin as HEIC does
    # RAW of Fujifilm, Panasonic, Olympus, and Canon before and after 2018
    rb"FUJIFILMCCD-RAW|IIU\0|IIRO|II\*\0.{4}CR|.{4}ftypcrx ": RAW,
    _BRAND + rb"avi[fs]": AVIF,
    _BRAND + rb"(hei[cxms]|hev[cx]|mif1|msf1)": HEIC,
    rb".{4}ftyp": FileType("a video", "video"),
    _ZIP + rb".*xl/": FileType("an Excel workbook", "spreadsheet"),
    _ZIP + rb".*(opendocument\.spreadsheet|\.iwa)": FileType(
        "a document of LibreOffice, Numbers or Pages", "spreadsheet"
    ),
    _ZIP + rb".*word/document": FileType("a Word document", "document"),
    _ZIP + rb"|\x1f\x8b|7z\xbc\xaf'\x1c|Rar!": FileType("an archive", "archive"),
    rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": FileType("an old Excel workbook (.xls)", "spreadsheet"),
    rb"(\xef\xbb\xbf)?\s*<(?i:!doctype html|html)": PAGE,
    rb"%PDF-": FileType("a PDF", "document"),
    rb"\x89HDF\r\n\x1a\n": FileType("an HDF5 file", "data"),
    rb"\xff\xd8\xff": FileType("a JPEG picture", "picture"),
    rb"\x89PNG\r\n\x1a\n": FileType("a PNG picture", "picture"),
}


def type_of_file(content: bytes) -> FileType | None:
    """The type of a file by its bytes; 64 are enough except for zip archives. None: unknown."""
    ends = content[:ENDS] + content[-ENDS:]
    fitting = (type_ for pattern, type_ in _TYPES.items() if re.match(pattern, ends, re.DOTALL))
    return next(fitting, None)
