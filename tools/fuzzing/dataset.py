"""Dataset files: bytes of a good one spoilt, and members of another form and stamp."""

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
SIZES = (0, 1, 3, 10**4, 2**31, 2**40)
TYPES: list[Any] = [
    *("f2", "f4", "f8", "u1", "i4", "i8", "u8", ">i4", "S7", "c8", "?", "V5", np.longdouble),
    *([("a", "i4"), ("b", "f8")], ("i4", (3,)), h5py.ref_dtype, h5py.regionref_dtype),
    *(h5py.vlen_dtype(np.int32), h5py.string_dtype(), h5py.string_dtype("ascii", 9)),
    h5py.enum_dtype({"a": 0}),
]


def make(draw: random.Random, folder: Path) -> None:
    """Two in three are spoilt bytes; the rest are changed with h5py."""
    path = folder / NAME
    path.write_bytes(draw.choice(_good()))
    if draw.random() < 2 / 3:
        path.write_bytes(spoil_bytes(path.read_bytes(), draw))
    elif draw.random() < 0.4:
        with contextlib.suppress(KeyError):  # not every file has texts
            draw.choice(damage.DATASET)[0](path)
    else:
        with h5py.File(path, "r+") as file:
            for _ in range(draw.choice((1, 1, 2, 4))):
                draw.choice((_odd_array, _number, _about, _restamp, _restamp))(file, draw)


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


def _members(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visit(names.append)
    return [name for name in names if isinstance(file[name], h5py.Dataset)]


def _odd_array(file: h5py.File, draw: random.Random) -> None:
    """A member of another shape and type, perhaps in pieces, compressed, or full of texts."""
    name = draw.choice(_members(file))
    del file[name]
    shape = tuple(draw.choice(SIZES) for _ in range(draw.randrange(4)))
    texts = ["", "\x1b[31m", "é" * 1000, "\n", "x" * draw.choice((1, 10**4))]
    how: list[dict[str, Any]] = [
        {"shape": shape, "dtype": draw.choice(TYPES)},
        {"shape": (draw.randrange(1, 9),), "dtype": draw.choice(TYPES)},
        {"shape": shape, "dtype": draw.choice(TYPES), "chunks": True},
        {"data": np.zeros((1000, 3000), draw.choice(("u1", "f4"))), "compression": "lzf"},
        {"data": draw.choices(texts, k=draw.choice((1, 6, 20))), "dtype": h5py.string_dtype()},
        {"data": damage.as_bytes(json.dumps(draw.choices(texts, k=3)))},
    ]
    try:
        file.create_dataset(name, **draw.choice(how))
    except (ValueError, TypeError):  # h5py makes no such array
        file[name] = 0


def _number(file: h5py.File, draw: random.Random) -> None:
    member = file[draw.choice(_members(file))]
    if member.size and member.nbytes < 2**20 and member.dtype.kind in "iuf":
        values = member[...]
        info = np.iinfo(values.dtype) if values.dtype.kind in "iu" else np.finfo(values.dtype)
        values.flat[draw.randrange(values.size)] = draw.choice((0, 1, 5, info.max, info.min))
        member[...] = values


def _about(file: h5py.File, draw: random.Random) -> None:
    """Another value in the file's JSON or in its source, under a stamp that still holds."""
    if file[hdf5.HEADER].nbytes < 2**20:
        with contextlib.suppress(Exception):  # an earlier change broke it
            about = json.loads(file[hdf5.HEADER][()].tobytes())
            target = draw.choice((about, about["source"]))
            key = draw.choice([*about, "seed", "encoder", "pictures", "generated"])
            target[key] = draw.choice(ODD_JSON)
            damage.replace(file, hdf5.HEADER, damage.as_bytes(json.dumps(about)))


def _restamp(file: h5py.File, draw: random.Random) -> None:
    """A stamp that holds for what is there, so that the checks behind that one are met."""
    if all(file[name].nbytes < 2**20 for name in _members(file)):
        with contextlib.suppress(Exception):  # an earlier change broke it
            about = json.loads(file[hdf5.HEADER][()].tobytes())
            about["stamp"] = hdf5.fingerprint_of(hdf5._read(Path(NAME), file))
            damage.replace(file, hdf5.HEADER, damage.as_bytes(json.dumps(about)))
