"""The backend: which library creates new arrays; copies between host and device.

The choice decides only where *new* arrays are created. Computation follows its arguments:
`get_array_module(x)` returns their library, and no layer reads the choice. CuPy is imported when it
is first needed.
"""

import contextlib
import os
import sys
from types import ModuleType
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike

from xpcap.backend import probe
from xpcap.backend.plain_code import is_plain
from xpcap.backend.probe import BackendStatus
from xpcap.errors import BackendError, InvalidTypeError, OptionError, one_of
from xpcap.progress import say

Array = Any  # a numpy.ndarray or a cupy.ndarray
BACKENDS = ("numpy", "cupy")
VARIABLE = "XPCAP_BACKEND"


def backend_status() -> dict[str, BackendStatus]:
    """Probe both backends.

    The first call imports cupy, if installed (about 0.3 s), and runs a few small computations on
    device 0; the result is cached. Other devices are only listed: `use_backend` tests the one it is
    given.

    Returns
    -------
    status : dict of str to BackendStatus
        The state of ``"numpy"`` and ``"cupy"``: usable or not, version, devices, and if not usable
        the reason, what was expected, and the likely cause.

    Examples
    --------
    >>> import xpcap
    >>> xpcap.backend_status()["numpy"].usable
    True
    """
    return {
        "numpy": BackendStatus("numpy", True, np.__version__, ("host",), ""),
        "cupy": probe.cupy_status(0, is_plain()),
    }


def parse_backend(spec: str) -> tuple[str, int]:
    """Name and device number of a backend string; OptionError if there is no such backend."""
    name, colon, index = str(spec).partition(":")
    if name not in (*BACKENDS, "auto"):
        raise OptionError(
            f"backend {name!r} does not exist, expected {one_of((*BACKENDS, 'auto'), name)}"
        )
    if colon and (name == "numpy" or not (index.isascii() and index.isdecimal())):
        raise OptionError(
            f"backend is {spec!r}, expected 'numpy', 'auto', 'cupy', 'auto:N' or 'cupy:N' with N a device"
            " number"
        )
    return name, int(index) if colon else 0


def _resolve(spec: str) -> str:
    """The backend that `spec` means on this machine; BackendError if it is not usable."""
    name, device = parse_backend(spec)
    if name == "numpy":
        return "numpy"
    status = probe.cupy_status(device, is_plain())
    if name == "auto":
        chosen = _name("cupy", device) if status.usable else "numpy"
        reason = status.why or status.devices[device]
        say(f"xpcap: backend auto chose {chosen} ({reason})", err=True)
        return chosen
    if not status.usable:
        info = "the command 'info' shows what is usable"
        wanted = f", expected {status.expected}" if status.expected else ""
        raise BackendError(
            f"backend {spec} cannot be used: {status.reason}{wanted};"
            f" {status.cause or info}; `backend` numpy runs on the CPU"
        )
    return _name(name, device)


def _name(backend: str, device: int) -> str:
    return f"{backend}:{device}" if device else backend


_active: str | None = None


def _activate(resolved: str) -> int | None:
    """Make a backend and its device the current ones; return the device to restore, or None."""
    global _active
    before = None
    if resolved != "numpy":
        cupy = sys.modules["cupy"]  # cupy_status has imported and tested it
        before = probe.device_in_use(cupy)
        cupy.cuda.Device(parse_backend(resolved)[1]).use()
    _active = resolved
    return before


class use_backend(contextlib.AbstractContextManager["use_backend"]):  # noqa: N801 - as a function
    """Choose where new arrays are created, from now on or inside a ``with``.

    Parameters
    ----------
    backend : str
        ``"numpy"``, ``"cupy"``, ``"cupy:1"`` (a device number), ``"auto"`` or ``"auto:1"`` (that
        device if usable, else numpy; prints its choice to standard error).

    Raises
    ------
    OptionError
        The backend does not exist.
    BackendError
        The backend is not usable here, with the reason; there is no silent fallback to the CPU.

    Notes
    -----
    The choice applies to the whole process, but each thread has its own current CUDA device: one
    that computes on ``cupy:N`` calls this itself. numpy leaves the current device as it is. Before
    the first call the choice is `XPCAP_BACKEND`, or numpy if that is not set.

    Examples
    --------
    >>> import xpcap
    >>> with xpcap.use_backend("numpy"):
    ...     x = xpcap.asarray([1.0, 2.0])
    >>> type(x).__module__
    'numpy'
    """

    def __init__(self, backend: str) -> None:
        self._before = _active
        self.name = _resolve(backend)
        self._device = _activate(self.name)

    def __enter__(self) -> Self:
        if _active != self.name:  # another choice was made since
            self._before = _active
            self._device = _activate(self.name)
        return self

    def __exit__(self, *exc: object) -> None:
        global _active
        _active = self._before
        if self._device is not None:
            sys.modules["cupy"].cuda.Device(self._device).use()


def get_backend() -> str:
    """The current backend.

    Returns
    -------
    backend : str
        ``"numpy"``, ``"cupy"`` or ``"cupy:N"``.

    Raises
    ------
    BackendError, OptionError
        `XPCAP_BACKEND` names a backend that is not usable here, or does not exist.
    """
    if _active is None:
        requested = os.environ.get(VARIABLE) or "numpy"
        try:
            _activate(_resolve(requested))
        except (BackendError, OptionError) as error:
            raise type(error)(f"{VARIABLE}={requested}: {error}") from error
    assert _active is not None
    return _active


def array_module() -> ModuleType:
    """The module for new arrays, numpy or cupy."""
    return np if get_backend() == "numpy" else sys.modules["cupy"]


def is_device_array(x: object) -> bool:
    """True for a cupy array. It never imports cupy: before anybody does, `x` cannot be one."""
    if isinstance(x, np.ndarray):  # the common case first, since it is fast
        return False
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(x, getattr(cupy, "ndarray", ()))


def get_array_module(*arrays: Array) -> ModuleType:
    """The library of arrays, numpy if there are none.

    Parameters
    ----------
    *arrays : array
        Arrays of NumPy or CuPy.

    Returns
    -------
    xp : module
        numpy or cupy.

    Raises
    ------
    TypeError
        numpy and cupy arrays are mixed. CuPy rejects that too, but later and less clearly.

    Examples
    --------
    >>> import xpcap
    >>> xp = xpcap.get_array_module(np.ones(2))
    >>> xp is np
    True
    """
    if len(arrays) == 1:
        return sys.modules["cupy"] if is_device_array(arrays[0]) else np
    device = [is_device_array(x) for x in arrays if is_device_array(x) or isinstance(x, np.ndarray)]
    if any(device) and not all(device):
        raise InvalidTypeError(
            "the arrays are of numpy and cupy, expected one library; move one side with asarray"
            " or to_numpy"
        )
    return sys.modules["cupy"] if any(device) else np


def asarray(x: Any, *, dtype: DTypeLike | None = None, like: Array | None = None) -> Array:
    """An array of the current backend, or of the library of `like`; copied only if necessary.

    Parameters
    ----------
    x : array or sequence of numbers
    dtype : dtype or None
        None: that of `x`.
    like : array or None
        An array of the library to use. None: the current backend's.

    Returns
    -------
    array : array, shape of x

    Examples
    --------
    >>> import xpcap
    >>> xpcap.asarray([1, 2], dtype="float32", like=np.zeros(1))
    array([1., 2.], dtype=float32)
    """
    xp = array_module() if like is None else get_array_module(like)
    return xp.asarray(to_numpy(x) if xp is np else x, dtype=dtype)


def to_numpy(x: Any) -> np.ndarray:
    """A host array; the transfer waits for the device.

    Parameters
    ----------
    x : array or sequence of numbers

    Returns
    -------
    array : numpy.ndarray, shape and dtype of x

    Examples
    --------
    >>> import xpcap
    >>> xpcap.to_numpy(xpcap.asarray([1.0, 2.0]))
    array([1., 2.])
    """
    if is_device_array(x):
        return np.asarray(x.get())
    return np.asarray(x)


def backend_of(like: Array) -> str:
    """The backend of an array: ``"numpy"``, ``"cupy"`` or ``"cupy:N"``."""
    return _name("cupy", like.data.device_id) if is_device_array(like) else "numpy"


def computing_on(like: Array) -> contextlib.AbstractContextManager[None]:
    """A context in which an array's device is this thread's current one."""
    if not is_device_array(like):
        return contextlib.nullcontext()
    return probe.on_device(sys.modules["cupy"], like.data.device_id)


def free_memory(like: Array) -> int | None:
    """Free bytes on the device of `like`, including CuPy's pool; None for a host array."""
    if not is_device_array(like):
        return None
    cupy = sys.modules["cupy"]
    return int(cupy.cuda.runtime.memGetInfo()[0]) + int(cupy.get_default_memory_pool().free_bytes())


def free_staging(like: Array) -> None:
    """Free the page-locked memory of finished copies to the device of `like`."""
    if is_device_array(like):
        sys.modules["cupy"].get_default_pinned_memory_pool().free_all_blocks()
