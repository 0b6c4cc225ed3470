"""Argument checks for layers: one library, one float dtype, matching shapes."""

from types import ModuleType

from xpcap.backend import Array, get_array_module
from xpcap.backend.shape_specs import check_float, spec
from xpcap.errors import InvalidValueError


def check_arrays(function: str, shapes: str, *arrays: Array, cause: str = "") -> ModuleType:
    """Check float arrays against symbolic shapes, and return their library.

    function : name of the calling function, for messages
    shapes : one entry per array, as in ``"x:N,T,D Wh:H,4H b:4H"``; see `xpcap.backend.shape_specs`
    cause : likely cause of a wrong shape, for messages
    TypeError : an argument is no array of float32 or float64, or libraries or dtypes differ.
    ValueError : a shape does not match.
    """
    spec(shapes).check(*arrays, function=function, cause=cause)
    return get_array_module(arrays[0])


def check_upstream(
    function: str, name: str, dout: Array, shape: tuple[int, ...], like: Array
) -> None:
    """Raise ValueError unless dout has `shape`, TypeError unless it has `like`'s dtype and library."""
    check_float(f"{function}: {name}", dout, "the cache", like)
    if dout.shape != shape:
        raise InvalidValueError(
            f"{function}: {name} has shape {dout.shape}, expected {shape}, the shape of the output;"
            " is the cache from another batch?"
        )
