"""Karpathy's data sets: one JSON object with ``images`` (filename, split, sentences with their ``raw`` text)."""

from collections.abc import Iterator
from typing import Any

from xpcap.errors import DataError
from xpcap.prepare.findings import Findings
from xpcap.prepare.splits import ByPicture, BySplit, Row, gather
from xpcap.prepare.text import kind_of

FORM = "Karpathy's data set"


def read_karpathy(where: str, content: Any, findings: Findings) -> BySplit | ByPicture:
    """Split to picture to its captions; picture to its captions if no image has a split. ``restval`` joins train, and findings say so.

    Raises
    ------
    DataError : parts that are missing or of other types. A second image of the same name is skipped.
    """
    images = content["images"]
    has_split = any(isinstance(image, dict) and "split" in image for image in images)
    return gather(_rows(where, images, findings), has_split, findings)


def _rows(where: str, images: list[Any], findings: Findings) -> Iterator[Row]:
    seen = set()
    for number, image in enumerate(images, start=1):
        place = f"{where}, image {number}"
        if not isinstance(image, dict):
            raise DataError(f"{place} is {kind_of(image)}, expected an object")
        name, split, sentences = image.get("filename"), image.get("split", ""), image.get("sentences")
        if not isinstance(name, str) or not isinstance(split, str) or not isinstance(sentences, list):
            raise DataError(
                f"{place}: filename is {kind_of(name)}, split {kind_of(split)}, sentences {kind_of(sentences)}, expected text, text and a list"
            )
        raw = [sentence.get("raw") if isinstance(sentence, dict) else None for sentence in sentences]
        if not all(isinstance(text, str) for text in raw):
            raise DataError(f"{place}: a sentence has no 'raw', expected the text of the caption there")
        if name in seen:
            findings.skip("images with the name of another", name)
            continue
        seen.add(name)
        yield place, name, raw, split  # type: ignore[misc]  # raw holds text alone, as was just checked
