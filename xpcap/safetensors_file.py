"""Safetensors files: arrays and a JSON object, written whole, and checked when they are read."""

import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.errors import DataError
from xpcap.files import atomic

FORMAT = 1
KEY = "xpcap"  # the only metadata key: safetensors writes several in random order
DTYPES = {  # of arrays that are mapped, all little-endian
    "F16": "<f2",
    "F32": "<f4",
    "U8": "u1",
    "U16": "<u2",
    "U32": "<u4",
    "U64": "<u8",
}
MOST_HEADER = 16 * 2**20  # bytes; our longest hold the history of a run, some 400 bytes an epoch


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write arrays, and `meta` as sorted JSON. Equal content gives equal bytes.

    Raises
    ------
    OSError : the file cannot be written; an older one is intact. ValueError : `meta` is not JSON.
    """
    from safetensors.numpy import save

    about = json.dumps({"format": FORMAT, **meta}, sort_keys=True, allow_nan=False)
    content = save({name: np.ascontiguousarray(x) for name, x in tensors.items()}, {KEY: about})
    with atomic(path) as file:
        file.write(content)


def read_tensors(
    path: Path, function: str, names: Sequence[str] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the arrays and `meta` of a file of `write_tensors`.

    Parameters
    ----------
    function : named in messages
    names : of the arrays to read; None: all

    Raises
    ------
    DataError : no file, a damaged one, one that is not ours, or one of a newer format.
    """
    from safetensors import SafetensorError, safe_open

    _check_header(path, function)
    try:
        with safe_open(path, framework="numpy") as file:
            meta = json.loads((file.metadata() or {})[KEY])
            wanted = file.keys() if names is None else names
            tensors = {name: file.get_tensor(name) for name in wanted}
    except (
        SafetensorError,
        OSError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise DataError(
            function,
            path,
            "cannot be read as a safetensors file of ours",
            expected="one that 'train' wrote",
            cause=f"damaged, or another program's? ({error!r})",
        ) from error
    found = meta.pop("format", None) if isinstance(meta, dict) else type(meta).__name__
    check_format(function, path, found, FORMAT)
    return tensors, meta


def map_tensors(path: Path, function: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """As `read_tensors`, but the arrays are read-only views of the mapped file, read as needed."""
    _, meta = read_tensors(path, function, names=())  # safetensors checks sizes and offsets
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    tensors = {}
    for name, about in header.items():
        if name == "__metadata__":
            continue
        if about["dtype"] not in DTYPES:
            raise DataError(
                function,
                f"{path}, {name}",
                f"is of type {str(about['dtype'])[:20]}",
                expected=f"one of {', '.join(DTYPES)}",
                cause="damaged, or another program's?",
            )
        start, end = about["data_offsets"]
        content = np.zeros(0, np.uint8)
        if end > start:
            content = np.memmap(path, np.uint8, "r", 8 + length + start, end - start)
        tensors[name] = content.view(DTYPES[about["dtype"]]).reshape(about["shape"])
    return tensors, meta


def check_format(function: str, path: Path, found: object, known: int) -> None:
    """DataError : a file has another format version than `known`."""
    if type(found) is int and found > known:
        raise DataError(
            function,
            path,
            f"has format {found}",
            expected=known,
            cause="it was made by a newer xpcap: upgrade this one",
        )
    if type(found) is not int or found != known:
        raise DataError(
            function,
            path,
            f"has format {found!r}",
            expected=known,
            cause="damaged, or another program's?",
        )


def _check_header(path: Path, function: str) -> None:
    """Check a file's kind, size and claimed header length, before it is read into memory."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise DataError(
                function,
                path,
                "is a folder, pipe or device",
                expected="a safetensors file",
                cause="is the path right?",
            )
        with path.open("rb") as file:
            claimed = int.from_bytes(file.read(8), "little")
    except OSError as error:
        raise DataError(
            function,
            path,
            f"cannot be read: {error.strerror or os.strerror(error.errno or 0)}",
            expected="a safetensors file of ours",
        ) from error
    most = max(0, min(MOST_HEADER, about.st_size - 8))
    if claimed > most:
        raise DataError(
            function,
            path,
            f"has {about.st_size:,} bytes and claims a header of {claimed:,}",
            expected=f"at most {most:,}",
            cause="damaged, or cut short?",
        )
