"""Safetensors files: arrays and a JSON object, written whole, and checked when they are read."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.errors import DataError
from xpcap.files import atomic, check_format, size_of

FORMAT = 1
KEY = "xpcap"  # the only metadata key: safetensors writes several in random order
MOST_HEADER = 16 * 2**20  # bytes; our longest hold the history of a run, some 400 bytes an epoch


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Write arrays, and `meta` as sorted JSON. Equal content gives equal bytes.

    OSError : the file cannot be written; an older one is intact. ValueError : `meta` is not JSON.
    """
    from safetensors.numpy import save

    about = json.dumps({"format": FORMAT, **meta}, sort_keys=True, allow_nan=False)
    arrays = {name: np.asarray(x, order="C") for name, x in tensors.items()}
    content = save(arrays, {KEY: about})
    with atomic(path) as file:
        file.write(content)


def read_tensors(
    path: Path, caller: str, names: Sequence[str] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the arrays and `meta` of a file of `write_tensors`.

    caller : named in messages
    names : of the arrays to read; None: all
    DataError : no file, a damaged one, one that is not ours, or one of a newer format.
    """
    from safetensors import SafetensorError, safe_open

    size = size_of(caller, path, "a safetensors file of xpcap")
    try:
        # safetensors reads a header of any length into memory
        with path.open("rb") as start:
            claimed = int.from_bytes(start.read(8), "little")
        if claimed > (most := max(0, min(MOST_HEADER, size - 8))):
            got = f"has {size:,} bytes and claims a header of {claimed:,}"
            raise DataError(caller, path, got, f"at most {most:,}", "damaged, or cut short?")
        with safe_open(path, framework="numpy") as file:
            meta = json.loads((file.metadata() or {})[KEY])
            wanted = file.keys() if names is None else names
            tensors = {name: file.get_tensor(name) for name in wanted}
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
        got = "cannot be read as a safetensors file of xpcap"
        cause = f"damaged, or another program's? ({error!r})"
        raise DataError(caller, path, got, "one that 'train' wrote", cause) from error
    found = meta.pop("format", None) if isinstance(meta, dict) else type(meta).__name__
    check_format(caller, path, found, FORMAT)
    return tensors, meta
