"""The same captions as files of every format that `prepare` reads."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xpcap.prepare import CaptionRow

Said = Mapping[str, Sequence[str]]


def rows(splits: Mapping[str, Said]) -> list[CaptionRow]:
    """The same as rows, as a reader yields them."""
    return [
        CaptionRow(name, text, split)
        for split, said in splits.items()
        for name, texts in said.items()
        for text in texts
    ]


def by_picture(rows: Iterable[CaptionRow]) -> dict[str, list[str]]:
    """Captions of rows by their picture."""
    said: dict[str, list[str]] = {}
    for row in rows:
        said.setdefault(row.picture, []).extend([] if row.caption is None else [row.caption])
    return said


def by_split(rows: Sequence[CaptionRow]) -> dict[str | None, dict[str, list[str]]]:
    """Captions of rows by split and picture."""
    return {
        split: by_picture(row for row in rows if row.split == split)
        for split in dict.fromkeys(row.split for row in rows)
    }


def token(said: Said) -> bytes:
    return "".join(
        f"{name}#{k}\t{text}\n" for name, texts in said.items() for k, text in enumerate(texts)
    ).encode()


def table(
    said: Said,
    delimiter: str = ",",
    heading: tuple[str, str] = ("image", "caption"),
    line_end: str = "\n",
) -> bytes:
    """As Kaggle's Flickr8k: quoted where needed, as by the csv module or Excel."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, lineterminator=line_end)
    writer.writerows([heading, *((name, text) for name, texts in said.items() for text in texts)])
    return file.getvalue().encode()


def flickr30k(said: Said) -> bytes:
    """As results.csv: pipes, nothing quoted."""
    rows = [
        f"{name}| {k}| {text}\n" for name, texts in said.items() for k, text in enumerate(texts)
    ]
    return ("image_name| comment_number| comment\n" + "".join(rows)).encode()


def json_lines(said: Said) -> bytes:
    return "".join(
        json.dumps({"file_name": name, "text": text}) + "\n"
        for name, texts in said.items()
        for text in texts
    ).encode()


def json_list(said: Said) -> bytes:
    return json.dumps(
        [{"image": name, "captions": texts} for name, texts in said.items()], indent=1
    ).encode()


def coco(said: Said) -> bytes:
    images: list[dict[str, Any]] = [
        {"id": 7 * i, "file_name": name, "license": 1} for i, name in enumerate(said)
    ]
    annotations = [
        {"image_id": 7 * i, "id": 100 * i + k, "caption": text}
        for i, texts in enumerate(said.values())
        for k, text in enumerate(texts)
    ]
    return json.dumps(
        {"info": {"year": 2017}, "images": images, "annotations": annotations}
    ).encode()


def karpathy(splits: Mapping[str, Said]) -> bytes:
    images = [
        {
            "filename": name,
            "split": split,
            "sentences": [{"raw": text, "tokens": text.split()} for text in texts],
        }
        for split, said in splits.items()
        for name, texts in said.items()
    ]
    return json.dumps({"images": images, "dataset": "flickr8k"}).encode()


def plain_karpathy(said: Said) -> bytes:
    return karpathy({"": said}).replace(b'"split": "", ', b"")


FORMATS = {
    "lines NAME#K": token,
    "Kaggle's": table,
    "Excel's": lambda said: (
        b"\xef\xbb\xbfsep=;\r\n" + table(said, ";", ("Image Name", "Caption"), "\r\n")
    ),
    "tabs": lambda said: table(said, "\t", ("picture", "sentence")),
    "Flickr30k's": flickr30k,
    "JSON lines": json_lines,
    "a JSON list": json_list,
    "COCO's": coco,
    "Karpathy's": plain_karpathy,
}
