"""Weights of a PyTorch file of the old kind, read without PyTorch.

Such a file is a pickle, and a pickle may name any function and have it called. So this module, the
only one that reads pickles, reads those whose SHA-256 its caller knows, and resolves only the names
that weights need.
"""

import hashlib
import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xpcap.errors import DataError

MAGIC = 0x1950A86A20F9469CFC6C


class _Tensor(NamedTuple):
    """The arguments of `torch._utils._rebuild_tensor_v2`, as the pickle passes them."""

    storage: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    requires_grad: bool
    hooks: object


ALLOWED: Mapping[tuple[str, str], object] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch", "FloatStorage"): "<f4",
    ("torch", "LongStorage"): "<i8",
}


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.dtypes: dict[str, tuple[str, int]] = {}  # of each storage, and its length

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which weights do not need")
        return ALLOWED[module, name]

    def persistent_load(self, reference: tuple[str, str, str, str, int, None]) -> str:
        """The key of a storage, whose numbers lie behind the pickles."""
        _, dtype, key, _, count, _ = reference  # "storage", type, key, device, count, None
        self.dtypes[key] = dtype, count
        return key


def read_torch(path: Path, sha256: str) -> dict[str, np.ndarray]:
    """The arrays of a state dict by name, read-only.

    Parameters
    ----------
    sha256 : the file's digest, 64 hexadecimal digits; compared before anything is read as a pickle

    Raises
    ------
    DataError : another digest, another kind of file, or arrays that do not fit it. OSError : it
        cannot be opened.
    """
    content = path.read_bytes()
    if (digest := hashlib.sha256(content).hexdigest()) != sha256:
        raise DataError(
            "read_torch",
            path,
            f"has SHA-256 {digest}",
            expected=sha256,
            cause="damaged, or of another version?",
        )
    try:
        return _parse(content)
    except Exception as error:  # a damaged pickle raises errors of many types
        raise DataError(
            "read_torch",
            path,
            f"cannot be read as PyTorch weights: {str(error)[:200]}",
            cause="damaged, or of another kind?",
        ) from error


def _parse(content: bytes) -> dict[str, np.ndarray]:
    file = io.BytesIO(content)
    magic, _version, _machine = (_Reader(file).load() for _ in range(3))
    if magic != MAGIC:
        raise ValueError(f"it starts with {str(magic)[:40]}, expected {MAGIC}")
    reader = _Reader(file)
    tensors, keys = reader.load(), _Reader(file).load()
    # the storages follow one another, each behind its count
    storages, at = {}, file.tell()
    for key in keys:
        dtype, count = reader.dtypes[key]
        if int.from_bytes(content[at : at + 8], "little") != count:
            raise ValueError(
                f"storage {key!r} does not hold the {count:,} numbers that it is to hold"
            )
        storages[key] = np.frombuffer(content, dtype, count, at + 8)  # refuses more than there is
        at += 8 + storages[key].nbytes
    return {
        name: _array(name, tensor, storages[tensor.storage]) for name, tensor in tensors.items()
    }


def _array(name: str, tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    """A tensor as a view of its storage; NumPy refuses one that would reach outside."""
    if math.prod(tensor.shape) > len(storage):  # strides of 0 would make much of little
        raise ValueError(
            f"{name!r} has shape {tensor.shape}, expected at most the {len(storage):,} numbers of"
            " its storage"
        )
    size = storage.itemsize
    offset, strides = tensor.offset * size, [stride * size for stride in tensor.strides]
    return np.ndarray(tensor.shape, storage.dtype, storage, offset, strides)
