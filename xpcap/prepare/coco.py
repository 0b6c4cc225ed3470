"""COCO's annotations: one JSON object with ``images`` (id, file_name) and ``annotations`` (image_id, caption)."""

from collections.abc import Iterator
from typing import Any

from xpcap.errors import DataError
from xpcap.prepare.splits import ByPicture, BySplit, Findings, Row, gather
from xpcap.prepare.text import kind_of

COCO = "COCO annotations"


def read_coco(where: str, content: Any, findings: Findings) -> dict[str, list[str]]:
    """Picture to its captions, pictures in the order of ``images``. The file knows no split.

    Raises
    ------
    DataError : parts that are missing or of other types. Annotations of no image, and a second one of the same id, are skipped.
    """
    images, annotations = (_objects(where, content, key) for key in ("images", "annotations"))
    names: dict[int | str, str] = {}
    captions: dict[str, list[str]] = {}
    for number, image in enumerate(images, start=1):
        name = _text(f"{where}, image {number}", image, "file_name")
        if name in captions:
            findings.skip("images with the name of another", name)
            continue
        names[_id(f"{where}, image {number}", image, "id")] = name
        captions[name] = []
    seen = set()
    for number, annotation in enumerate(annotations, start=1):
        place = f"{where}, annotation {number}"
        caption, image_id = _text(place, annotation, "caption"), _id(place, annotation, "image_id")
        if "id" in annotation and (own := _id(place, annotation, "id")) in seen:
            findings.skip("annotations with the id of another", str(own))
        elif image_id not in names:
            findings.skip("captions of no image", f"image_id {image_id}")
        else:
            captions[names[image_id]].append(caption)
        if "id" in annotation:
            seen.add(own)
    return captions


def _objects(where: str, content: Any, key: str) -> list[dict[str, Any]]:
    value = content.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(one, dict) for one in value):
        what = "is missing" if key not in content else "is empty" if value == [] else "is no list of objects"
        raise DataError(f"{where}: {key!r} {what}, expected COCO's images and annotations; is it a captions_*.json?")
    return value


def _text(where: str, thing: dict[str, Any], key: str) -> str:
    value = thing.get(key)
    if not isinstance(value, str):
        cause = "; is it an instances_*.json? Take captions_*.json" if key == "caption" and "bbox" in thing else ""
        raise DataError(f"{where}: {key!r} is {kind_of(value) if key in thing else 'missing'}, expected text{cause}")
    return value


def _id(where: str, thing: dict[str, Any], key: str) -> int | str:
    value = thing.get(key)
    if type(value) is int or isinstance(value, str):
        return value
    raise DataError(f"{where}: {key!r} is {kind_of(value) if key in thing else 'missing'}, expected a whole number or text")


KARPATHY = "Karpathy's data set"


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
