"""Argument checks for layers: one library, one float dtype, matching shapes."""

from types import ModuleType

import numpy as np

from xpcap.backend import Array, get_array_module
from xpcap.errors import InvalidValueError
from xpcap.spec import check_float, spec


def check_arrays(function: str, shapes: str, *arrays: Array, note: str = "") -> ModuleType:
    """Library of float arrays, checked against symbolic shapes.

    Parameters
    ----------
    function : the caller's name, for messages
    shapes : one entry per array, as in ``"x:N,T,D Wh:H,4H b:4H"``; see `xpcap.spec`
    note : likely cause, appended to messages about shapes

    Raises
    ------
    TypeError : not an array, not float32 or float64, or another library or dtype than the first.
    ValueError : a shape does not match.
    """
    spec(shapes).check(function, *arrays, note=note)
    return get_array_module(arrays[0])


def check_upstream(
    function: str, name: str, dout: Array, shape: tuple[int, ...], like: Array
) -> None:
    """TypeError, ValueError : an upstream gradient differs from `shape`, or from `like` in kind."""
    check_float(function, name, dout, "the cache", like)
    if dout.shape != shape:
        raise InvalidValueError(
            function,
            name,
            f"has shape {dout.shape}",
            expected=f"{shape}, the shape of the output",
            cause="is the cache from another batch?",
        )


def check_ids(function: str, name: str, ids: Array, V: int) -> None:
    """ValueError : integers on the host are not all in 0..V-1; those on a device are not read."""
    if isinstance(ids, np.ndarray) and not all_below(ids, V):
        raise InvalidValueError(
            function,
            name,
            f"holds {ids.min()}..{ids.max()}",
            expected=f"word ids in 0..{V - 1}",
            cause="are they from another vocabulary?",
        )


def all_below(numbers: np.ndarray, bound: int) -> bool:
    """True if all integers are in 0..bound-1."""
    if numbers.dtype.kind == "i":
        bound = min(bound, 1 << (8 * numbers.itemsize - 1))
    # As unsigned, negative ones are above all others: one pass instead of two
    return not numbers.size or bool(numbers.view(numbers.dtype.str.replace("i", "u")).max() < bound)
