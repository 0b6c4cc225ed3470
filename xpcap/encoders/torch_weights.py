"""Read weights from a PyTorch file of the old format, without PyTorch.

Such a file is a pickle, which can call any function. So this module, the only one that reads pickles,
reads only files whose SHA-256 the caller knows, and resolves only names that weights need. Since the
digest is known, sizes are not checked.
"""

import hashlib
import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xpcap.errors import DataError


class _Tensor(NamedTuple):
    """The arguments of `torch._utils._rebuild_tensor_v2`, as the pickle passes them."""

    storage: tuple[str, str, str, str, int, None]  # "storage", dtype, key, device, count, None
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
    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which weights do not need")
        return ALLOWED[module, name]

    def persistent_load(self, reference: object) -> object:
        """A reference to a storage, whose numbers follow the pickles."""
        return reference


def read_torch(path: Path, sha256: str) -> dict[str, np.ndarray]:
    """The arrays of a state dict by name, read-only.

    sha256 : the file's digest, 64 hexadecimal digits; compared before anything is read as a pickle
    DataError : the digest differs. OSError : the file cannot be opened.
    """
    content = path.read_bytes()
    if (digest := hashlib.sha256(content).hexdigest()) != sha256:
        raise DataError(
            f"{path} has SHA-256 {digest}, expected {sha256}; damaged, or of another version?"
        )
    file = io.BytesIO(content)
    _magic, _version, _machine, tensors, keys = (_Reader(file).load() for _ in range(5))
    kinds = {key: (dtype, n) for _, dtype, key, _, n, _ in (t.storage for t in tensors.values())}
    storages = {}
    at = file.tell()
    for key in keys:  # storages are consecutive, each after 8 bytes with its size
        storages[key] = np.frombuffer(content, *kinds[key], at + 8)
        at += 8 + storages[key].nbytes
    return {name: _array(tensor, storages[tensor.storage[2]]) for name, tensor in tensors.items()}


def _array(tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    """A tensor as a view of its storage."""
    size = storage.itemsize
    offset = tensor.offset * size
    strides = [stride * size for stride in tensor.strides]
    return np.ndarray(tensor.shape, storage.dtype, storage, offset, strides)
