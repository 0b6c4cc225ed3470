"""What `prepare` reads, and CS231n's folder: text and archives, spoilt."""

import functools
import io
import json
import random
import struct
from pathlib import Path
from typing import Any

import caption_formats
import h5py
import numpy as np

from fuzzing.spoiling import ODD, spoil_bytes, spoil_text
from xpcap.data import open_data
from xpcap.encoders import HistogramEncoder
from xpcap.prepare import import_captions

PICTURES = [f"{name}.jpg" for name in ("one", "two", "three", "four", "five", "six")]
COCO_TEXT = ("coco2014_vocab.json", "train2014_urls.txt", "val2014_urls.txt")


def make(draw: random.Random, folder: Path) -> None:
    """One in four is CS231n's folder, one in four a file of captions of any form; the rest has
    Flickr8k's layout, some with pictures for features.
    """
    if (kind := draw.random()) < 0.25:
        (folder / "any").write_bytes(_spoilt_form(draw))
        return
    if kind < 0.5:
        for name, content in good_coco().items():
            (folder / name).write_bytes(content)
        _spoil_coco(folder, draw)
        return
    for name, content in good_flickr(draw.random() < 0.5).items():
        (folder / name).write_bytes(content)
    if draw.random() < 0.3:
        _add_pictures(folder, draw)
    for _ in range(draw.choice((1, 1, 2))):
        _spoil_flickr(folder, draw)


def use(folder: Path) -> None:
    """Import it, or open it."""
    if (folder / "any").exists():
        np.savez(
            folder / "features.npz", names=np.array(PICTURES), features=np.ones((6, 4), np.float32)
        )
        data, _ = import_captions(
            [(None, folder / "any")],
            features_file=folder / "features.npz",
            min_count=1,
            max_words=9,
        )
    elif (folder / "coco2014_vocab.json").exists():
        data = open_data(folder)
    else:
        features, pictures = folder / "features.npz", folder / "pictures"
        data, _ = import_captions(
            [(None, folder / "token.txt")],
            lists={"train": folder / "train.txt", "val": folder / "val.txt"},
            features_file=features if features.exists() else None,
            pictures=pictures if pictures.exists() else None,
            encoder=None if features.exists() else HistogramEncoder(),
            min_count=1,
            max_words=9,
        )
    for name, split in data.splits.items():
        data.minibatch(name, np.arange(min(4, len(split.captions))))
        data.references(name)


def _spoilt_form(draw: random.Random) -> bytes:
    said = {
        name: [f'A dog, "number {k}", runs on the {name[:3]} grass .' for k in range(3)]
        for name in PICTURES
    }
    content = draw.choice(list(caption_formats.FORMATS.values()))(said)
    return (
        spoil_text(content.decode(), draw) if draw.random() < 0.75 else spoil_bytes(content, draw)
    )


@functools.cache
def good_flickr(packed: bool) -> dict[str, bytes]:
    file = io.BytesIO()
    save = np.savez_compressed if packed else np.savez
    save(
        file,
        names=np.array(PICTURES),
        features=np.random.default_rng(0).random((6, 4), dtype=np.float32),
    )
    lines = [
        f"{name}#{k}\tA dog number {k} runs on the {name[:3]} grass ."
        for name in PICTURES
        for k in range(3)
    ]
    return {
        "token.txt": "\n".join(lines).encode(),
        "train.txt": "\n".join(PICTURES[:4]).encode(),
        "val.txt": "\n".join(PICTURES[4:]).encode(),
        "features.npz": file.getvalue(),
    }


def _add_pictures(folder: Path, draw: random.Random) -> None:
    from PIL import Image

    (folder / "pictures").mkdir()
    for name in PICTURES:
        Image.new("RGB", (9, 9), (200, 30, 30)).save(folder / "pictures" / name)
    if draw.random() < 0.7:
        (folder / "features.npz").unlink()
        spoilt = folder / "pictures" / draw.choice(PICTURES)
        spoilt.write_bytes(spoil_bytes(spoilt.read_bytes(), draw))


def _spoil_flickr(folder: Path, draw: random.Random) -> None:
    path = folder / draw.choice(
        ("token.txt", "train.txt", "val.txt", "features.npz", "features.npz")
    )
    if not path.exists():
        return
    content = path.read_bytes()
    if path.suffix == ".npz":
        path.write_bytes(draw.choice((_lying_archive, spoil_bytes, _odd_arrays))(content, draw))
    elif draw.random() < 0.75:
        path.write_bytes(spoil_text(content.decode("utf-8", "replace"), draw))
    else:
        path.write_bytes(spoil_bytes(content, draw))


def _lying_archive(content: bytes, draw: random.Random) -> bytes:
    """Sizes, flags and methods in the directory of a zip, or the header of an array within, that
    are not so.
    """
    spoilt = bytearray(content)
    entries = [
        at
        for at in range(len(content))
        if content[at : at + 4] in (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06")
    ]
    for _ in range(draw.choice((1, 2, 4))):
        if draw.random() < 0.7 and entries:
            at, width = draw.choice(entries) + 4 + draw.randrange(40), draw.choice((2, 4))
            struct.pack_into(
                "<H" if width == 2 else "<I",
                spoilt,
                min(at, len(spoilt) - width),
                draw.choice(ODD) % 2 ** (8 * width),
            )
        elif (at := content.find(b"'shape': (")) >= 0:
            claim = draw.choice(
                (b"(9999999", b"(-1,    ", b"(6, 4, 1", b"(10**9, ", b"(6L, 4),", b"([6, 4],")
            )
            spoilt[at + 9 : at + 17] = claim
        elif (at := content.find(b"'descr': '")) >= 0:
            spoilt[at + 10 : at + 13] = draw.choice(
                (b"|O'", b"<U9", b"<f9", b"|V1", b"<f8", b">f4", b"<M8")
            )
    return bytes(spoilt)


def _odd_arrays(content: bytes, draw: random.Random) -> bytes:
    """A whole archive of arrays that are not what they should be."""
    odd: list[Any] = [
        np.zeros((6, 4)),
        np.zeros((6, 0), "f4"),
        np.zeros(6, "f4"),
        np.full((6, 4), np.nan),
        np.full((6, 4), 1e300),
        np.zeros((6, 4), "c8"),
        np.array(PICTURES),
        np.array(["a"] * 6),
        np.array([b"\xff\xfe.jpg"] * 6),
        np.array(7),
        np.zeros((6, 4), [("a", "f4")]),
        np.zeros(0),
        np.array(PICTURES[:3]),
        np.zeros((1000, 1000), "f4"),
        np.array(PICTURES, dtype="U5000"),
        np.array(["\ud800", *PICTURES[1:]]),
        np.zeros((6, 4), ">f2"),
    ]
    file = io.BytesIO()
    keys = draw.choice(
        (
            ("names", "features"),
            ("names",),
            ("features",),
            ("names", "features", "more"),
            ("\x1b[2J", "features"),
        )
    )
    good = {"names": np.array(PICTURES), "features": np.zeros((6, 4), "f4")}
    arrays = {
        key: good[key] if key in good and draw.random() < 0.5 else draw.choice(odd) for key in keys
    }
    draw.choice((np.savez, np.savez_compressed))(file, **arrays)
    return file.getvalue()


@functools.cache
def good_coco() -> dict[str, bytes]:
    words = ["<NULL>", "<START>", "<END>", "<UNK>", "a", "dog"]
    vocabulary = {"idx_to_word": words, "word_to_idx": {word: i for i, word in enumerate(words)}}
    files = {"coco2014_vocab.json": json.dumps(vocabulary).encode()}
    arrays: dict[str, dict[str, np.ndarray]] = {"coco2014_captions.h5": {}}
    for split, m in (("train", 4), ("val", 2)):
        arrays["coco2014_captions.h5"] |= {
            f"{split}_captions": np.tile(np.array([[1, 4, 5, 2, 0]], np.int32), (m, 1)),
            f"{split}_image_idxs": np.arange(m, dtype=np.int32),
        }
        arrays[f"{split}2014_vgg16_fc7_pca.h5"] = {"features": np.ones((m, 3), np.float32)}
        files[f"{split}2014_urls.txt"] = "".join(
            f"http://example.org/{split}{i}.jpg\n" for i in range(m)
        ).encode()
    for name, held in arrays.items():
        file = io.BytesIO()
        with h5py.File(file, "w") as made:
            for key, value in held.items():
                made[key] = value
        files[name] = file.getvalue()
    return files


def _spoil_coco(folder: Path, draw: random.Random) -> None:
    if draw.random() < 0.25:
        path = folder / draw.choice(("coco2014_captions.h5", "train2014_vgg16_fc7_pca.h5"))
        path.write_bytes(spoil_bytes(path.read_bytes(), draw))
        return
    path = folder / draw.choice(COCO_TEXT)
    if path.suffix == ".json" and draw.random() < 0.6:
        odd: list[Any] = [
            None,
            7,
            "word",
            [],
            {},
            [[]],
            [None] * 6,
            {"a": []},
            {"a": "b"},
            [1, 2],
            ["\ud800"],
            ["<NULL>", "<START>", "<END>", "<UNK>", "\x1b[2J"],
        ]
        vocabulary = json.loads(path.read_text())
        vocabulary[draw.choice(("idx_to_word", "word_to_idx"))] = draw.choice(odd)
        text = draw.choice(
            (json.dumps(vocabulary), "[" * 100_000, "9" * 5000, '{"idx_to_word": ' * 2000, "NaN")
        )
        path.write_text(text if draw.random() < 0.3 else json.dumps(vocabulary))
    else:
        path.write_bytes(spoil_text(path.read_text(), draw))
