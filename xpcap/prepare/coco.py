"""COCO's annotations and Karpathy's data sets: JSON objects with a list of ``images``."""

from collections.abc import Iterator

from xpcap.files.json_text import check_json
from xpcap.prepare.rows import CaptionRow, CaptionText, Format

ID = (int, str)
COCO_JSON = {
    "images": [{"id": ID, "file_name": str}],
    "annotations": [{"image_id": ID, "caption": str, "id?": ID}],
}
KARPATHY_JSON = {"images": [{"filename": str, "split?": str, "sentences": [{"raw": str}]}]}
REPEATED_NAMES = "images with the name of another"


def is_coco(file: CaptionText) -> bool:
    return isinstance(file.json, dict) and not file.json.keys().isdisjoint(COCO_JSON)


def read_coco(file: CaptionText) -> Iterator[CaptionRow]:
    """Captions of the ``annotations``, grouped by image.

    Annotations without an image, and repeated names and ids, are skipped.
    """
    cause = "is it a captions_*.json of COCO? An instances_*.json has no captions"
    check_json(file.where, file.json, COCO_JSON, cause)
    names: dict[int | str, str] = {}
    captions: dict[str, list[CaptionRow]] = {}
    for image in file.json["images"]:
        name = image["file_name"].strip()
        if file.repeats("images with the id of another", str(image["id"]), image["id"]):
            continue
        if not file.repeats(REPEATED_NAMES, name):
            names[image["id"]] = name
            captions[name] = []
    for number, annotation in enumerate(file.json["annotations"], start=1):
        image_id = annotation["image_id"]
        identity = annotation.get("id")
        if identity is None:
            identity = f"number {number}"
        elif file.repeats("annotations with the id of another", str(identity), identity):
            continue
        if image_id not in names:
            file.report.skip("captions of no image", f"image_id {image_id}")
            continue
        source = f"{file.where}, annotation {identity}"
        row = CaptionRow(names[image_id], annotation["caption"], None, source)
        captions[row.picture].append(row)
    for name, rows in captions.items():
        yield from rows or [CaptionRow(name, None, None, file.where)]


def is_karpathy(file: CaptionText) -> bool:
    images = file.json.get("images") if isinstance(file.json, dict) else None
    first = images[0] if isinstance(images, list) and images else None
    return isinstance(first, dict) and "sentences" in first


def read_karpathy(file: CaptionText) -> Iterator[CaptionRow]:
    """Captions of the ``images``, as their ``raw`` text; images with a repeated name are skipped.

    If any image has a split, images without one are skipped.
    """
    check_json(file.where, file.json, KARPATHY_JSON, "")
    images = file.json["images"]
    missing = "" if any("split" in image for image in images) else None
    for number, image in enumerate(images, start=1):
        name = image["filename"].strip()
        if file.repeats(REPEATED_NAMES, name):
            continue
        split = image.get("split") or missing
        source = f"{file.where}, image {number}"
        for text in [sentence["raw"] for sentence in image["sentences"]] or [None]:
            yield CaptionRow(name, text, split, source)


COCO = Format(
    "COCO annotations",
    is_coco,
    read_coco,
    '{"images": [{"id": 9, "file_name": "a.jpg"}],'
    ' "annotations": [{"image_id": 9, "caption": "A dog."}]}',
    "one per file: `train=FILE val=FILE`",
)
KARPATHY = Format(
    "Karpathy's data set",
    is_karpathy,
    read_karpathy,
    '{"images": [{"filename": "a.jpg", "split": "train", "sentences": [{"raw": "A dog."}]}]}',
    "in the file; `restval` joins train",
)
