"""COCO's annotations and Karpathy's data sets: JSON objects with a list of ``images``."""

from collections.abc import Iterator, Mapping, Sequence

from xpcap.errors import DataError
from xpcap.prepare.rows import CaptionRow, ImportReport
from xpcap.prepare.text import kind_of

COCO = "COCO annotations"
KARPATHY = "Karpathy's data set"


def read_coco(
    where: str, content: Mapping[str, object], report: ImportReport
) -> Iterator[CaptionRow]:
    """Rows of ``images`` (id, file_name) and ``annotations`` (image_id, caption), image by image.

    Annotations of no image, and repeated ids, are skipped. DataError : parts missing, or of other
        types.
    """
    images = _objects(where, content, "images")
    annotations = _objects(where, content, "annotations")
    names: dict[int | str, str] = {}
    captions: dict[str, list[CaptionRow]] = {}
    for number, image in enumerate(images, start=1):
        source = f"{where}, image {number}"
        name = _text(source, image, "file_name")
        if name in captions:
            report.skip("images with the name of another", name)
            continue
        names[_id(source, image, "id")] = name
        captions[name] = []
    seen = set()
    for number, annotation in enumerate(annotations, start=1):
        source = f"{where}, annotation {number}"
        caption = _text(source, annotation, "caption")
        image_id = _id(source, annotation, "image_id")
        if "id" in annotation and (own := _id(source, annotation, "id")) in seen:
            report.skip("annotations with the id of another", str(own))
        elif image_id not in names:
            report.skip("captions of no image", f"image_id {image_id}")
        else:
            name = names[image_id]
            captions[name].append(CaptionRow(name, caption, None, source))
        if "id" in annotation:
            seen.add(own)
    for name, rows in captions.items():
        yield from rows or [CaptionRow(name, None, None, where)]


def _objects(where: str, content: Mapping[str, object], key: str) -> list[dict[str, object]]:
    value = content.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(one, dict) for one in value):
        fault = "is no list of objects"
        if key not in content:
            fault = "is missing"
        elif value == []:
            fault = "is empty"
        raise DataError(
            where,
            f"{key!r}",
            fault,
            expected="COCO's images and annotations",
            cause="is it a captions_*.json?",
        )
    return value


def _text(where: str, thing: Mapping[str, object], key: str) -> str:
    value = thing.get(key)
    if not isinstance(value, str):
        boxes = key == "caption" and "bbox" in thing
        came = kind_of(value) if key in thing else "missing"
        raise DataError(
            where,
            f"{key!r}",
            f"is {came}",
            expected="text",
            cause="is it an instances_*.json? Take captions_*.json" if boxes else "",
        )
    return value


def _id(where: str, thing: Mapping[str, object], key: str) -> int | str:
    value = thing.get(key)
    if type(value) is int or isinstance(value, str):
        return value
    came = kind_of(value) if key in thing else "missing"
    raise DataError(where, f"{key!r}", f"is {came}", expected="a whole number or text")


def read_karpathy(
    where: str, images: Sequence[object], report: ImportReport
) -> Iterator[CaptionRow]:
    """Rows of ``images`` (filename, split, sentences with their ``raw`` text).

    If any image has a split, all are expected to. A second image of the same name is skipped.
        DataError : parts missing, or of other types.
    """
    has_split = any(isinstance(image, dict) and "split" in image for image in images)
    seen = set()
    for number, image in enumerate(images, start=1):
        source = f"{where}, image {number}"
        if not isinstance(image, dict):
            raise DataError(source, "", f"is {kind_of(image)}", expected="an object")
        name, sentences = image.get("filename"), image.get("sentences")
        split = image.get("split", "")
        if (
            not isinstance(name, str)
            or not isinstance(split, str)
            or not isinstance(sentences, list)
        ):
            raise DataError(
                source,
                "filename",
                f"is {kind_of(name)}, split {kind_of(split)}, sentences {kind_of(sentences)}",
                expected="text, text and a list",
            )
        texts = [one.get("raw") if isinstance(one, dict) else None for one in sentences]
        if not all(isinstance(text, str) for text in texts):
            raise DataError(
                source,
                "a sentence",
                "has no 'raw'",
                expected="the text of the caption there",
            )
        if name in seen:
            report.skip("images with the name of another", name)
            continue
        seen.add(name)
        for text in texts or [None]:
            yield CaptionRow(name.strip(), text, split if has_split else None, source)
