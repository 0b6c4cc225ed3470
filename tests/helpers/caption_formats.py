"""The same captions as files of every format that `prepare` reads."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from xpcap.prepare import CaptionRow

Said = Mapping[str, Sequence[str]]  # captions by picture


def rows(splits: Mapping[str, Said]) -> list[CaptionRow]:
    """The same as rows, as a reader yields them."""
    return [CaptionRow(*pair, split) for split, said in splits.items() for pair in pairs(said)]


def pairs(said: Said) -> Iterator[tuple[str, str]]:
    """Picture and caption of each caption."""
    return ((name, text) for name, texts in said.items() for text in texts)


def by_picture(rows: Iterable[CaptionRow]) -> dict[str, list[str]]:
    """Captions of rows by their picture."""
    said: dict[str, list[str]] = {}
    for row in rows:
        said.setdefault(row.picture, []).extend([] if row.caption is None else [row.caption])
    return said


def by_split(rows: Sequence[CaptionRow]) -> dict[str | None, dict[str, list[str]]]:
    """Captions of rows by split and picture."""
    splits = dict.fromkeys(row.split for row in rows)
    return {split: by_picture(row for row in rows if row.split == split) for split in splits}


def numbered(said: Said, line: str) -> str:
    """A line for each caption, of its picture's `name`, its number `k`, and its `text`."""
    return "".join(
        line.format(name=name, k=k, text=text)
        for name, texts in said.items()
        for k, text in enumerate(texts)
    )


def token(said: Said) -> bytes:
    return numbered(said, "{name}#{k}\t{text}\n").encode()


def table(
    said: Said,
    delimiter: str = ",",
    heading: tuple[str, str] = ("image", "caption"),
    line_end: str = "\n",
) -> bytes:
    """As Kaggle's Flickr8k: quoted where needed, as by the csv module or Excel."""
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, lineterminator=line_end)
    writer.writerows([heading, *pairs(said)])
    return file.getvalue().encode()


def json_list(said: Said) -> bytes:
    rows = [{"image": name, "captions": texts} for name, texts in said.items()]
    return json.dumps(rows, indent=1).encode()


def coco(said: Said) -> bytes:
    images = [{"id": 7 * i, "file_name": name, "license": 1} for i, name in enumerate(said)]
    captions = [
        {"image_id": 7 * i, "id": 100 * i + k, "caption": text}
        for i, texts in enumerate(said.values())
        for k, text in enumerate(texts)
    ]
    content = {"info": {"year": 2017}, "images": images, "annotations": captions}
    return json.dumps(content).encode()


def karpathy(splits: Mapping[str, Said]) -> bytes:
    """Without splits under the empty name."""
    images = [
        {"filename": name, "sentences": [{"raw": text, "tokens": text.split()} for text in texts]}
        | ({"split": split} if split else {})
        for split, said in splits.items()
        for name, texts in said.items()
    ]
    return json.dumps({"images": images, "dataset": "flickr8k"}).encode()


FORMATS = {
    "lines NAME#K": token,
    "Kaggle's": table,
    "Excel's": lambda said: (
        b"\xef\xbb\xbfsep=;\r\n" + table(said, ";", ("Image Name", "Caption"), "\r\n")
    ),
    "tabs": lambda said: table(said, "\t", ("picture", "sentence")),
    "Flickr30k's": lambda said: (  # results.csv: pipes, nothing quoted
        "image_name| comment_number| comment\n" + numbered(said, "{name}| {k}| {text}\n")
    ).encode(),
    "JSON lines": lambda said: "".join(
        json.dumps({"file_name": name, "text": text}) + "\n" for name, text in pairs(said)
    ).encode(),
    "a JSON list": json_list,
    "Flickr30k's lists": lambda said: table(
        {name: [json.dumps(texts)] for name, texts in said.items()}, heading=("filename", "raw")
    ),
    "pandas' lists": lambda said: table({name: [str(texts)] for name, texts in said.items()}),
    "JSON by picture": lambda said: json.dumps(said, indent=1).encode(),
    "COCO's": coco,
    "Karpathy's": lambda said: karpathy({"": said}),
}
