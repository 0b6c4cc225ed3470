"""Dataset files: bytes of a good one spoilt, and files that h5py makes as asked and nobody should
open.
"""

import contextlib
import functools
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fuzzing.spoiling import spoil_bytes
from xpcap.data import open_data, write_dataset
from xpcap.data.hdf5 import fingerprint_of
from xpcap.data.synthetic import Lengths, draw_data
from xpcap.shapes import generate

NAME = "data.h5"
MEMBERS = [
    f"{split}/{field}"
    for split in ("train", "val")
    for field in ("captions", "image_idxs", "features", "images", "text", "text_offsets")
]

HELD = 16 * 2**20  # bytes: the fuzzer itself reads no more of what it made


def make(draw: random.Random, folder: Path) -> None:
    """Two in three are spoilt bytes; the rest are made with h5py, some of these with their bytes
    spoilt as well.
    """
    path = folder / NAME
    path.write_bytes(draw.choice(_good()))
    if draw.random() < 0.4:
        with h5py.File(path, "r+") as file:
            for _ in range(draw.choice((1, 1, 2, 4))):
                with contextlib.suppress(
                    Exception
                ):  # of as many types as what an earlier change broke
                    draw.choice(CHANGES)(file, draw)
    else:
        path.write_bytes(spoil_bytes(path.read_bytes(), draw))
    if draw.random() < 0.1:
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


def _member(file: h5py.File, draw: random.Random) -> str:
    return draw.choice([name for name in [*MEMBERS, "vocab"] if name in file] or ["nothing"])


def _replace(file: h5py.File, name: str, **options: Any) -> None:
    if name in file:
        del file[name]
    file.create_dataset(name, **options)


def _absurd_shape(file: h5py.File, draw: random.Random) -> None:
    shape = tuple(draw.choice((0, 1, 3, 10**4, 2**31, 2**40)) for _ in range(draw.randrange(4)))
    chunks = True if draw.random() < 0.5 and shape and 0 not in shape else None
    _replace(
        file,
        _member(file, draw),
        shape=shape,
        dtype=draw.choice(("f4", "i4", "u1", "f8")),
        chunks=chunks,
    )


def _bomb(file: h5py.File, draw: random.Random) -> None:
    shape = draw.choice(((10**6,), (1000, 1000), (3 * 10**6,)))
    _replace(
        file,
        _member(file, draw),
        data=np.zeros(shape, draw.choice(("u1", "f4"))),
        compression=draw.choice(("gzip", "lzf")),
        chunks=True,
    )


def _odd_type(file: h5py.File, draw: random.Random) -> None:
    kinds: list[Any] = [
        "f2",
        "f8",
        "i8",
        "u8",
        ">i4",
        "S7",
        "S1",
        "c8",
        "?",
        np.longdouble,
        np.dtype([("a", "i4"), ("b", "f8")]),
        h5py.ref_dtype,
        h5py.regionref_dtype,
        h5py.vlen_dtype(np.int32),
        h5py.string_dtype(),
        h5py.string_dtype("ascii", 9),
        h5py.enum_dtype({"a": 0}),
        np.dtype("V5"),
        np.dtype(("i4", (3,))),
    ]
    _replace(file, _member(file, draw), shape=(draw.randrange(1, 9),), dtype=draw.choice(kinds))


def _link(file: h5py.File, draw: random.Random) -> None:
    name = _member(file, draw)
    if name in file:
        del file[name]
    file[name] = draw.choice(
        (
            h5py.SoftLink("/vocab"),
            h5py.SoftLink(f"/{name}"),
            h5py.ExternalLink("/etc/passwd", "/"),
            h5py.ExternalLink(NAME, "/vocab"),
            file["/"],
        )
    )


def _elsewhere(file: h5py.File, draw: random.Random) -> None:
    name = _member(file, draw)
    if draw.random() < 0.5:
        _replace(file, name, shape=(20,), dtype="u1", external=[("/etc/passwd", 0, 20)])
        return
    if name in file:
        del file[name]
    layout = h5py.VirtualLayout(shape=(10,), dtype="i4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", shape=(10,))
    file.create_virtual_dataset(name, layout)


def _strings(file: h5py.File, draw: random.Random) -> None:
    texts = ["", "\x1b[31m", "é" * 1000, "\n", "x" * draw.choice((1, 10**4))]
    value = [draw.choice(texts) for _ in range(draw.choice((1, 6, 20)))]
    _replace(
        file,
        draw.choice(("vocab", "train/images", "val/images")),
        data=value,
        dtype=h5py.string_dtype(),
    )


def _numbers(file: h5py.File, draw: random.Random) -> None:
    name = draw.choice([name for name in MEMBERS if not name.endswith("images")])
    if (
        isinstance(file.get(name), h5py.Dataset)
        and file[name].dtype.kind in "iuf"
        and file[name].size
        and file[name].nbytes <= HELD
    ):
        array = file[name][...]
        info = np.iinfo(array.dtype) if array.dtype.kind in "iu" else np.finfo(array.dtype)
        array.flat[draw.randrange(array.size)] = draw.choice((0, 1, 5, info.max, info.min))
        file[name][...] = array


def _about(file: h5py.File, draw: random.Random) -> None:
    """Other words for the source, under a stamp that still holds."""
    odd: list[Any] = [
        None,
        True,
        -1,
        2**70,
        1e400,
        "",
        "a\0b",
        [],
        {},
        [[]] * 9,
        "x" * 10**4,
        float("nan"),
    ]
    about = _told(file)
    target = (
        about
        if draw.random() < 0.4 or not isinstance(about.get("source"), dict)
        else about["source"]
    )
    target[
        draw.choice(
            ("format", "source", "stamp", "seed", "encoder", "pictures", "generated", "other")
        )
    ] = draw.choice(odd)
    file.attrs["xpcap"] = json.dumps(about)


def _told(file: h5py.File) -> dict[str, Any]:
    try:
        about = json.loads(str(file.attrs["xpcap"]))
    except (KeyError, ValueError, RecursionError, OSError):
        about = {}
    return about if isinstance(about, dict) else {}


def _attribute(file: h5py.File, draw: random.Random) -> None:
    deep = "[" * draw.choice((10, 5000, 50_000))
    file.attrs["xpcap"] = draw.choice(
        (
            "",
            "{",
            "[]",
            "null",
            "{}",
            deep,
            "9" * 5000,
            np.zeros(3),
            7,
            b"\xff",
            ["a", "b"],
            '{"format": 1}',
        )
    )


def _restamp(file: h5py.File, draw: random.Random) -> None:
    """A stamp that holds for what is there: what is then looked at lies behind that check."""
    from xpcap.data import hdf5

    if all(file[name].nbytes <= HELD for name in MEMBERS):
        data = hdf5._read(Path(NAME), file)
        file.attrs["xpcap"] = json.dumps(
            {"format": 1, "source": data.source.to_json(), "stamp": fingerprint_of(data)}
        )


def _extra(file: h5py.File, draw: random.Random) -> None:
    kind = draw.randrange(4)
    if kind == 0:
        file.require_group("a/b/c/d")
    elif kind == 1:
        for i in range(draw.choice((3, 100))):
            file.require_group(f"g{i}")
    elif kind == 2:
        file[f"type{draw.randrange(9**9)}"] = np.dtype("f8")
    elif "train" in file and "\x1b]0;" not in file:
        file["\x1b]0;"] = file["train"]


CHANGES: list[Callable[[h5py.File, random.Random], None]] = [
    _absurd_shape,
    _bomb,
    _odd_type,
    _link,
    _elsewhere,
    _strings,
    _numbers,
    _about,
    _attribute,
    _extra,
    _restamp,
    _restamp,
]
