"""Safetensors files of arrays and a JSON object, written whole or not at all, checked when read."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.errors import DataError
from xpcap.files.read_write import atomic, check_format, size_of

FORMAT = 1
KEY = "xpcap"  # the only metadata key: safetensors writes several in random order
MAX_HEADER = 16 * 2**20  # bytes; xpcap's longest holds a run's history, 400 bytes an epoch


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write arrays, and `meta` as JSON with sorted keys. Equal content gives equal bytes.

    OSError : the file cannot be written; an older one is intact. ValueError : `meta` is not JSON.
    """
    from safetensors.numpy import save

    about = json.dumps({"format": FORMAT, **meta}, sort_keys=True, allow_nan=False)
    arrays = {name: np.asarray(x, order="C") for name, x in tensors.items()}
    content = save(arrays, {KEY: about})
    with atomic(path) as file:
        file.write(content)


def read_tensors(
    path: Path, names: Sequence[str] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the arrays and `meta` of a file that `write_tensors` wrote.

    names : the arrays to read; None: all
    DataError : the file is missing, damaged, another program's, or of a newer format.
    """
    from safetensors import SafetensorError, safe_open

    size = size_of(path, "a safetensors file of xpcap")
    try:
        # safetensors reads a header of any length into memory
        with path.open("rb") as start:
            header = int.from_bytes(start.read(8), "little")
        if header > (limit := max(0, min(MAX_HEADER, size - 8))):
            raise DataError(
                f"{path} has {size:,} bytes and claims a header of {header:,}, expected at most"
                f" {limit:,}; damaged, or cut short?"
            )
        with safe_open(path, framework="numpy") as file:
            meta = json.loads((file.metadata() or {})[KEY])
            tensors = {x: file.get_tensor(x) for x in (file.keys() if names is None else names)}
    except DataError:
        raise
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
            f"{path} cannot be read as a safetensors file of xpcap, expected one that 'train'"
            f" wrote; damaged, or another program's? ({error!r})"
        ) from error
    version = meta.pop("format", None) if isinstance(meta, dict) else type(meta).__name__
    check_format(path, version, FORMAT)
    return tensors, meta
