"""Rows of `verify`: one comparison each, the error that it is judged by, and the published cases."""

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import Array, asarray, get_backend, to_numpy


class Row(NamedTuple):
    """One comparison. `error` is the course's relative error in float64, the mixed error |x - y| / (1 + |y|) where the case says so."""

    case: str
    backend: str
    dtype: str
    error: float
    tolerance: float
    passed: bool


def make_row(case: str, dtype: str, error: float, tolerance: float) -> Row:
    """A row on the backend in force. NaN does not pass."""
    return Row(case, get_backend(), dtype, error, tolerance, bool(error <= tolerance))


def mixed_error(x: Any, y: Any) -> float:
    """max(|x - y| / (1 + |y|)): absolute for small values, relative for large ones."""
    a, b = to_numpy(x).astype(np.float64), to_numpy(y)
    return float(np.max(np.abs(a - b) / (1 + np.abs(b))))


def read_cases(name: str = "conformance") -> dict[str, Any]:
    """The cases of a file here, with their source: the course's published numbers, or those of "attention", which are ours."""
    return json.loads(resources.files("xpcap.verify").joinpath(f"{name}.json").read_text(encoding="utf-8"))


def read_array(spec: Any, dtype: str | None) -> Array:
    """An array of a case: a linspace over a shape, or the numbers listed. Real ones have `dtype`."""
    if isinstance(spec, Mapping):
        spec = np.linspace(spec["linspace"][0], spec["linspace"][1], int(np.prod(spec["shape"]))).reshape(spec["shape"])
    host = np.asarray(spec)
    return asarray(host.astype(dtype) if host.dtype.kind == "f" and dtype else host)
