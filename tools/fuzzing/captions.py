"""What `prepare` reads, and CS231n's folder: text, JSON and archives, spoilt."""

import functools
import io
import random
import struct
from pathlib import Path
from typing import Any

import damage
import numpy as np
from caption_formats import FORMATS, token

from fuzzing.spoiling import ODD, spoil_bytes, spoil_json_text, spoil_text
from xpcap.data import open_data
from xpcap.encoders import HistogramEncoder
from xpcap.prepare import import_captions

JSON = ("a JSON list", "JSON by picture", "COCO's", "Karpathy's")
PICTURES = [f"{name}.jpg" for name in ("one", "two", "three", "four", "five", "six")]
SAID = {
    name: [f'A dog, "number {k}", runs on the {name[:3]} grass .' for k in range(3)]
    for name in PICTURES
}
NAMES = np.array(PICTURES)
FEATURES = np.random.default_rng(0).random((6, 4), dtype=np.float32)
# fmt: off
KEYS = (("names", "features"), ("names",), ("features",), ("names", "features", "more"), ("\x1b[2J", "features"))
SHAPES = (b"(9999999", b"(-1,    ", b"(6, 4, 1", b"(10**9, ", b"(6L, 4),", b"([6, 4],")
TYPES = (b"|O'", b"<U9", b"<f9", b"|V1", b"<f8", b">f4", b"<M8")
ODD_ARRAYS: list[Any] = [
    np.zeros((6, 4)), np.zeros((6, 0), "f4"), np.zeros(6, "f4"), np.full((6, 4), np.nan), np.full((6, 4), 1e300),
    np.zeros((6, 4), "c8"), np.zeros((6, 4), [("a", "f4")]), np.zeros((6, 4), ">f2"), np.zeros(0), np.array(7),
    np.zeros((1000, 1000), "f4"), NAMES, NAMES[:3], NAMES.astype("U5000"), np.array(["a"] * 6),
    np.array([b"\xff\xfe.jpg"] * 6), np.array(["\ud800", *PICTURES[1:]]),
]
# fmt: on


def make(draw: random.Random, folder: Path) -> None:
    """One in four is CS231n's folder, one in four a file of captions of any form; the rest has
    Flickr8k's layout, some with pictures for features.
    """
    kind = draw.randrange(4)
    if kind == 0:
        form = draw.choice(list(FORMATS))
        path = folder / ("any.json" if form in JSON else "any")
        path.write_bytes(FORMATS[form](SAID))
    elif kind == 1:
        damage.READERS["course"][0](folder)
    else:
        _make_flickr(folder, draw)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in draw.sample(files, min(len(files), draw.choice((1, 1, 2)))):
        _spoil(path, draw)


def use(folder: Path) -> None:
    """Import it, or open it."""
    if (folder / "coco2014_vocab.json").exists():
        data = open_data(folder)
    else:
        features, pictures = folder / "features.npz", folder / "pictures"
        lists = {split: folder / f"{split}.txt" for split in ("train", "val")}
        captions = next(folder.glob("any*"), folder / "token.txt")
        if captions.name != "token.txt":
            features.write_bytes(_packed(False, names=NAMES, features=FEATURES))
        data, _ = import_captions(
            [(None, captions)],
            lists=lists if captions.name == "token.txt" else None,
            features_file=features if features.exists() else None,
            pictures=pictures if pictures.exists() else None,
            encoder=None if features.exists() else HistogramEncoder(),
            min_count=1,
            max_words=9,
        )
    for name, split in data.splits.items():
        data.minibatch(name, np.arange(min(4, len(split.captions))))
        data.references(name)


def _make_flickr(folder: Path, draw: random.Random) -> None:
    (folder / "token.txt").write_bytes(token(SAID))
    (folder / "train.txt").write_text("\n".join(PICTURES[:4]))
    (folder / "val.txt").write_text("\n".join(PICTURES[4:]))
    (folder / "features.npz").write_bytes(
        _packed(draw.random() < 0.5, names=NAMES, features=FEATURES)
    )
    if draw.random() < 0.3:
        (folder / "pictures").mkdir()
        for name in PICTURES:
            (folder / "pictures" / name).write_bytes(_picture())
        if draw.random() < 0.7:
            (folder / "features.npz").unlink()


@functools.cache
def _picture() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (9, 9), (200, 30, 30)).save(file, "JPEG")
    return file.getvalue()


def _packed(compressed: bool, **arrays: Any) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def _spoil(path: Path, draw: random.Random) -> None:
    """Spoil a file as what it is, or as bytes."""
    content = path.read_bytes()
    if path.suffix == ".npz":
        path.write_bytes(draw.choice((_lying_archive, spoil_bytes, _odd_arrays))(content, draw))
    elif path.suffix == ".json":
        path.write_bytes(spoil_json_text(content.decode("utf-8", "replace"), draw))
    elif path.suffix in (".h5", ".jpg") or draw.random() < 0.25:
        path.write_bytes(spoil_bytes(content, draw))
    else:
        path.write_bytes(spoil_text(content.decode("utf-8", "replace"), draw))


def _lying_archive(content: bytes, draw: random.Random) -> bytes:
    """Sizes, flags and methods in the directory of a zip, or the header of an array within, that
    are not so.
    """
    spoilt = bytearray(content)
    heads = (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06")
    entries = [at for at in range(len(content)) if content[at : at + 4] in heads]
    for _ in range(draw.choice((1, 2, 4))):
        if draw.random() < 0.7 and entries:
            at, size = draw.choice(entries) + 4 + draw.randrange(40), draw.choice((2, 4))
            number = draw.choice(ODD) % 2 ** (8 * size)
            at = min(at, len(spoilt) - size)
            struct.pack_into("<H" if size == 2 else "<I", spoilt, at, number)
        elif (at := content.find(b"'shape': (")) >= 0:
            spoilt[at + 9 : at + 17] = draw.choice(SHAPES)
        elif (at := content.find(b"'descr': '")) >= 0:
            spoilt[at + 10 : at + 13] = draw.choice(TYPES)
    return bytes(spoilt)


def _odd_arrays(content: bytes, draw: random.Random) -> bytes:
    """A whole archive of arrays that are not what they should be."""
    good = {"names": NAMES, "features": FEATURES}
    arrays = {
        key: good[key] if key in good and draw.random() < 0.5 else draw.choice(ODD_ARRAYS)
        for key in draw.choice(KEYS)
    }
    return _packed(draw.random() < 0.5, **arrays)
