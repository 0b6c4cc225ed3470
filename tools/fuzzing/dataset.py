"""Dataset files: bytes of a good one spoilt, and files that h5py makes as asked and nobody should
open.
"""

import contextlib
import functools
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import damage
import h5py
import numpy as np

from fuzzing.spoiling import ODD_JSON, spoil_bytes
from xpcap.data import hdf5, open_data, write_dataset
from xpcap.data.synthetic import Lengths, draw_data
from xpcap.shapes import generate

NAME = "data.h5"
SPLITS, HELD = ("train", "val"), 16 * 2**20  # bytes: the fuzzer itself reads no larger array
MEMBERS = [*(f"{split}/{field}" for split in SPLITS for field in hdf5.FIELDS), "vocab"]
SIZES = (0, 1, 3, 10**4, 2**31, 2**40)
TYPES: list[Any] = [
    *("f2", "f4", "f8", "u1", "i4", "i8", "u8", ">i4", "S7", "c8", "?", "V5", np.longdouble),
    *([("a", "i4"), ("b", "f8")], ("i4", (3,)), h5py.ref_dtype, h5py.regionref_dtype),
    *(h5py.vlen_dtype(np.int32), h5py.string_dtype(), h5py.string_dtype("ascii", 9)),
    h5py.enum_dtype({"a": 0}),
]


def make(draw: random.Random, folder: Path) -> None:
    """Two in three are spoilt bytes; the rest are made with h5py, some of these with their bytes
    spoilt as well.
    """
    path = folder / NAME
    path.write_bytes(draw.choice(_good()))
    if crafted := draw.random() < 0.4:
        for _ in range(draw.choice((1, 1, 2, 4))):
            # of as many types as what an earlier change broke
            with contextlib.suppress(Exception):
                if draw.random() < 0.4:
                    draw.choice(damage.DATASET)[0](path)
                    break  # to change an array it would be read, a text of 4 GiB as well
                with h5py.File(path, "r+") as file:
                    draw.choice((_odd_array, _numbers, _about, _restamp, _restamp))(file, draw)
    if path.exists() and (not crafted or draw.random() < 0.25):
        path.write_bytes(spoil_bytes(path.read_bytes(), draw))


def use(folder: Path) -> None:
    """Open it, and take from it what a command would."""
    data = open_data(folder / NAME)
    try:
        for name, split in data.splits.items():
            data.minibatch(name, np.arange(min(4, len(split.captions))))
            data.references(name)
            data.words(name)
    finally:
        for split in data.splits.values():
            if isinstance(split.features, h5py.Dataset):
                split.features.file.close()


@functools.cache
def _good() -> list[bytes]:
    """A small file of generated pictures, whose features are compressed, and one of numbers drawn
    at random.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("pictures.h5", "drawn.h5")]
        write_dataset(paths[0], generate(0, train=6, val=2))
        write_dataset(paths[1], draw_data(20, 8, 30, 0, Lengths(5, 1, 3, 7)))
        return [path.read_bytes() for path in paths]


def _odd_array(file: h5py.File, draw: random.Random) -> None:
    """A member of another shape and type, perhaps in pieces, compressed, or full of texts."""
    name = draw.choice(MEMBERS)
    if name in file:
        del file[name]
    shape = tuple(draw.choice(SIZES) for _ in range(draw.randrange(4)))
    texts = ["", "\x1b[31m", "é" * 1000, "\n", "x" * draw.choice((1, 10**4))]
    how: list[dict[str, Any]] = [
        {"shape": shape, "dtype": draw.choice(TYPES)},
        {"shape": (draw.randrange(1, 9),), "dtype": draw.choice(TYPES)},
        {"shape": shape, "dtype": draw.choice(TYPES), "chunks": True},
        {"data": np.zeros((1000, 3000), draw.choice(("u1", "f4"))), "compression": "lzf"},
        {"data": draw.choices(texts, k=draw.choice((1, 6, 20))), "dtype": h5py.string_dtype()},
    ]
    file.create_dataset(name, **draw.choice(how))


def _numbers(file: h5py.File, draw: random.Random) -> None:
    held = file[draw.choice(MEMBERS)]
    if held.size and _size(held) <= HELD:
        values = held[...]
        info = np.iinfo(values.dtype) if values.dtype.kind in "iu" else np.finfo(values.dtype)
        values.flat[draw.randrange(values.size)] = draw.choice((0, 1, 5, info.max, info.min))
        held[...] = values


def _about(file: h5py.File, draw: random.Random) -> None:
    """Another value in the attribute or in its source, under a stamp that still holds."""
    about = json.loads(file.attrs["xpcap"])
    target = draw.choice((about, about["source"]))
    target[draw.choice([*about, "seed", "encoder", "pictures", "generated"])] = draw.choice(
        ODD_JSON
    )
    file.attrs["xpcap"] = json.dumps(about)


def _restamp(file: h5py.File, draw: random.Random) -> None:
    """A stamp that holds for what is there: what is then looked at lies behind that check."""
    if all(_size(file[name]) <= HELD for name in MEMBERS):
        stamp = hdf5.fingerprint_of(hdf5._read(Path(NAME), file))
        file.attrs["xpcap"] = json.dumps({**json.loads(file.attrs["xpcap"]), "stamp": stamp})


def _size(held: h5py.Dataset) -> int:
    """Bytes in memory, of texts by the first one: many may share one long text."""
    size = int(held.nbytes)
    return size + held.size * len(held[0]) if size and held.dtype.kind == "O" else size
