"""Argument checks for layers: one library, one float dtype, matching shapes."""

import functools
from types import ModuleType
from typing import NamedTuple

import numpy as np

from xpcap.backend import Array, get_array_module, is_device_array

FLOATS = "fd"  # float32 and float64, by NumPy's characters, which cost less than names


def check_arrays(function: str, shapes: str, *arrays: Array, note: str = "") -> ModuleType:
    """Library of float arrays, checked against symbolic shapes.

    Parameters
    ----------
    function : the caller's name, for messages
    shapes : one entry per array, as in ``"x:N,T,D Wh:H,4H b:4H"``. A letter is the same size
        everywhere, bound by the first array that has it; a leading ``...`` matches any axes
    note : likely cause, appended to messages about shapes

    Raises
    ------
    TypeError : not an array, not float32 or float64, or another library or dtype than the first.
    ValueError : a shape does not match.
    """
    entries = _entries(shapes)
    first_name, first = entries[0][0], arrays[0]
    for (name, _), x in zip(entries, arrays, strict=True):
        _check_kind(function, name, x, first_name, first)
    sizes: dict[str, int] = {}
    for (name, axes), x in zip(entries, arrays, strict=True):
        _check_shape(function, name, axes, x.shape, sizes, note)
    return get_array_module(first)


class _Axes(NamedTuple):
    """Axes of an array: factor and letter of each; `open` if others may come before them."""

    letters: tuple[tuple[int, str], ...]
    open: bool

    def __str__(self) -> str:
        return ", ".join(f"{k if k > 1 else ''}{letter}" for k, letter in self.letters)


@functools.cache
def _entries(shapes: str) -> list[tuple[str, _Axes]]:
    """Names and axes in ``"x:N,T,D Wh:H,4H b:4H"``."""
    entries = []
    for name, axes in (entry.split(":") for entry in shapes.split()):
        letters = [axis for axis in axes.split(",") if axis != "..."]
        sizes = tuple((int(axis[:-1] or 1), axis[-1]) for axis in letters)
        entries.append((name, _Axes(sizes, axes.startswith("..."))))
    return entries


def _check_kind(function: str, name: str, x: Array, first_name: str, first: Array) -> None:
    if type(x) is type(first) and x is not first and hasattr(x, "dtype") and x.dtype == first.dtype:
        return  # the common case: as good as the first, which has been checked
    if not isinstance(x, np.ndarray) and not is_device_array(x):
        raise TypeError(
            f"{function}: {name} is a {type(x).__name__}, expected an array; make one with"
            " xpcap.asarray"
        )
    if x.dtype.char not in FLOATS:
        raise TypeError(
            f"{function}: {name} has dtype {x.dtype}, expected float32 or float64; cast it with"
            " .astype"
        )
    if is_device_array(x) != is_device_array(first):
        kinds = ["cupy" if is_device_array(a) else "numpy" for a in (x, first)]
        raise TypeError(
            f"{function}: {name} is a {kinds[0]} array and {first_name} a {kinds[1]} array,"
            " expected one library; move one with asarray or to_numpy"
        )
    if x.dtype != first.dtype:
        raise TypeError(
            f"{function}: {name} has dtype {x.dtype} and {first_name} {first.dtype}, expected one;"
            " cast one with .astype"
        )


def _check_shape(
    function: str, name: str, axes: _Axes, shape: tuple[int, ...], sizes: dict[str, int], note: str
) -> None:
    letters, tail = axes.letters, shape
    if axes.open:
        tail = shape[len(shape) - len(letters) :] if len(shape) > len(letters) else ()
    fits = len(tail) == len(letters)
    for (factor, letter), size in zip(letters, tail, strict=False):
        if size % factor == 0:
            sizes.setdefault(letter, size // factor)
        fits = fits and sizes.get(letter, -1) * factor == size
    if not fits:
        own = {letter for _, letter in letters}
        known = "".join(f", {one} = {size}" for one, size in sizes.items() if one in own)
        cause = f"; {note}" if note else ""
        raise ValueError(f"{function}: {name} has shape {shape}, expected ({axes}){known}{cause}")


def check_upstream(
    function: str, name: str, dout: Array, shape: tuple[int, ...], like: Array
) -> None:
    """TypeError, ValueError : an upstream gradient differs from `shape`, or from `like` in kind."""
    _check_kind(function, name, dout, "the cache", like)
    if dout.shape != shape:
        raise ValueError(
            f"{function}: {name} has shape {dout.shape}, expected {shape}, the shape of the output;"
            " is the cache from another batch?"
        )


def check_ids(function: str, name: str, ids: Array, V: int, like: Array) -> None:
    """TypeError, ValueError : no integers in 0..V-1; values are checked on the host only."""
    is_array = isinstance(ids, np.ndarray) or is_device_array(ids)
    if not is_array or is_device_array(ids) != is_device_array(like):
        raise TypeError(
            f"{function}: {name} is a {type(ids).__module__}.{type(ids).__name__}, expected an"
            " array of the same library as the weights"
        )
    if ids.dtype.kind not in "iu":
        raise TypeError(f"{function}: {name} has dtype {ids.dtype}, expected integers")
    if isinstance(ids, np.ndarray) and not all_below(ids, V):
        raise ValueError(
            f"{function}: {name} holds {ids.min()}..{ids.max()}, expected word ids in 0..{V - 1};"
            " are they from another vocabulary?"
        )


def all_below(numbers: np.ndarray, bound: int) -> bool:
    """True if all integers are in 0..bound-1."""
    if numbers.dtype.kind == "i":
        bound = min(bound, 1 << (8 * numbers.itemsize - 1))
    # As unsigned, negative ones are above all others: one pass instead of two
    return not numbers.size or bool(numbers.view(numbers.dtype.str.replace("i", "u")).max() < bound)


def check_mask(function: str, mask: Array, shape: tuple[int, ...], like: Array) -> None:
    """TypeError, ValueError : a mask is not boolean, of `shape`, in the library of `like`."""
    if not isinstance(mask, np.ndarray) and not is_device_array(mask):
        raise TypeError(
            f"{function}: mask is a {type(mask).__name__}, expected a boolean array; make one with"
            " xpcap.asarray"
        )
    if is_device_array(mask) != is_device_array(like) or mask.dtype != bool:
        raise TypeError(
            f"{function}: mask is a {type(mask).__module__} array of {mask.dtype}, expected"
            " booleans in the library of the scores"
        )
    if mask.shape != shape:
        raise ValueError(f"{function}: mask has shape {mask.shape}, expected {shape}")
