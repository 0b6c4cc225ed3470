"""Dataset files: HDF5 that is damaged byte by byte, or well-formed and not what it should be."""

import contextlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fuzzing.mutate import ODD, spoil_bytes, spoil_json_text
from xpcap.data import open_data, write_dataset
from xpcap.data.pictures import generate

METADATA = 12_000  # bytes: in a file this small nearly all that is not numbers lies there


class Kind:
    """A small generated data set, spoilt."""

    def __init__(self, place: Path) -> None:
        self._good = place / "good.h5"
        write_dataset(self._good, generate(0, train=6, val=3))
        self._content = self._good.read_bytes()
        with h5py.File(self._good) as file:
            self._about = str(file.attrs["xpcap"])

    def make(self, draw: random.Random, folder: Path) -> None:
        path = folder / "data.h5"
        if draw.random() < 0.7:
            path.write_bytes(spoil_bytes(draw, self._content, METADATA))
            return
        shutil.copyfile(self._good, path)
        with h5py.File(path, "r+") as file:
            for _ in range(draw.choice((1, 1, 2))):
                with contextlib.suppress(ValueError, KeyError, TypeError, OSError):  # what HDF5 itself has something against
                    _spoil_file(draw, file, self._about)

    def use(self, folder: Path) -> None:
        """What every command does first with a data set."""
        data = open_data(folder / "data.h5")
        for name, split in data.splits.items():
            data.minibatch(name, np.arange(len(split.captions)))
            data.encoded_with(data.vocabulary, name)
            data.references(name)
        json.dumps(dict(data.source))


def _spoil_file(draw: random.Random, file: Any, about: str) -> None:
    """One change."""
    if draw.random() < 0.3:
        text = spoil_json_text(draw, about).decode("utf-8", "replace").replace("\0", "0")[:60_000]
        file.attrs["xpcap"] = draw.choice((text, text, 3, np.zeros(5), text.encode("utf-8")))
        return
    names = ["vocab", *(f"{split}/{field}" for split in ("train", "val") if split in file for field in file[split])]
    name = draw.choice([name for name in names if name in file] or ["vocab"])
    change = draw.randrange(6)
    if name in file:
        old = file[name]
        del file[name]
        if change == 0:
            return
    else:
        old = None
    if change == 1:
        file[name] = draw.choice((h5py.SoftLink("/train"), h5py.ExternalLink("/dev/zero", "/x"), h5py.SoftLink("/nowhere")))
    elif change == 2:
        shape = tuple(draw.choice((0, 1, 3, 10**6, 2**40)) for _ in range(draw.randrange(4)))
        file.create_dataset(name, shape, draw.choice(("i4", "f4", "f8", "u1", "S7")), chunks=None)
    elif change == 3:
        compressed = {"compression": draw.choice(("gzip", "lzf"))}
        file.create_dataset(name, data=np.zeros(draw.choice((10, 10**4, 10**6)), draw.choice(("i4", "f4", "u1"))), **compressed)
    elif change == 4:
        file[name] = [str(odd).replace("\0", "0").encode("utf-8", "replace").decode() for odd in draw.choices(ODD, k=draw.randrange(1, 9))]
    else:
        _change_values(draw, file, name, old)


def _change_values(draw: random.Random, file: Any, name: str, old: Any) -> None:
    values = np.zeros(3) if not isinstance(old, h5py.Dataset) or old.dtype.kind == "O" or old.nbytes > 2**20 else old[...]
    if values.size and values.dtype.kind in "iuf":
        values.reshape(-1)[draw.randrange(values.size)] = (
            draw.choice((0, 1, 127)) if values.dtype.kind != "f" else draw.choice((np.nan, np.inf, 1e30))
        )
    with np.errstate(all="ignore"):
        kinds = (
            values,
            values.astype("i8"),
            values.astype("f8"),
            values.astype("c16"),
            values.astype("?"),
            values.reshape(-1),
            values[:1],
            values[:0],
        )
    file[name] = draw.choice(kinds)
