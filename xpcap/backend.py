"""Choice of the library for new arrays, proof that it is usable, copies from and to the host.

The choice decides only where *new* arrays are created. Computation follows its arguments:
`get_array_module(x)` returns their library, and no layer reads the choice. Only this file imports
cupy, and only when something asks for it.
"""

import contextlib
import functools
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from xpcap.driver import Kernel, parameters
from xpcap.errors import BackendError, InvalidTypeError, OptionError, install, unknown

KERNEL = """typedef REAL real;
extern "C" __global__ void multiply(real* x, real factor, int n) {
    if (threadIdx.x < n) x[threadIdx.x] *= factor;
}
"""


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def reason_of(error: Exception) -> str:
    """The error in brackets, with a remedy if CuPy could not write its compiled kernels."""
    # a library that cannot be loaded is an OSError too, without a file's name
    is_file = isinstance(error, OSError) and error.filename is not None
    return f"({first_line(error)})" + (
        "; CuPy keeps compiled kernels on disk: set CUPY_CACHE_DIR to a folder you may write to"
        if is_file
        else ""
    )


def _cached_kernels() -> int:
    folder = Path(os.environ.get("CUPY_CACHE_DIR", "~/.cupy/kernel_cache")).expanduser()
    return len([*folder.glob("*")])


def _announce(card: str) -> None:
    print(
        f"xpcap: compiling CUDA kernels for {card}; CuPy keeps them, so only the first use takes"
        " long",
        file=sys.stderr,
        flush=True,
    )


def prove(cupy: ModuleType, card: str) -> None:
    """Prove the current device by computing: a driver proves neither NVRTC nor cuBLAS.

    An elementwise kernel, a sum, a product (8 x 8, since CuPy computes very small ones without
    cuBLAS), an argmax and a kernel of our own, launched as all are: all kinds of computation in xpcap. If one of them
    had to be compiled, the others will be too, and a line on standard error announces it.
    """
    cached = _cached_kernels()
    if not cached:
        _announce(card)
    x = cupy.ones((8, 8), dtype="float32")
    version = sys.modules["xpcap"].__version__
    code = f"// xpcap {version}: other versions have other kernels\n{KERNEL}"
    module = cupy.RawModule(code=code, options=("-DREAL=float",))
    types = parameters(KERNEL, "multiply", "float")
    Kernel(cupy, module, "multiply", types, lambda launch: None)((1,), x, 2.0, x.size)
    found = (
        float((x * 2).sum()),
        float(cupy.matmul(x, x)[0, 0]),
        int((x.ravel() * cupy.arange(64, dtype="float32")).argmax()),
    )
    if found != (256.0, 32.0, 63):
        raise RuntimeError("a test computation on the device gave a wrong result")
    if 0 < cached < _cached_kernels():
        _announce(card)


def device_in_use(cupy: ModuleType) -> int | None:
    """This thread's current device; None without a context, which making it current creates."""
    return int(cupy.cuda.runtime.getDevice()) if cupy.cuda.driver.ctxGetCurrent() else None


@contextlib.contextmanager
def current(cupy: ModuleType, device: int) -> Iterator[None]:
    """Make a device current inside the ``with``, then the one before if it had a context."""
    before = device_in_use(cupy)
    cupy.cuda.Device(device).use()
    try:
        yield
    finally:
        if before is not None:
            cupy.cuda.Device(before).use()


def cards_of(cupy: ModuleType) -> tuple[str, ...]:
    """The names of the visible devices."""
    runtime = cupy.cuda.runtime
    names = [runtime.getDeviceProperties(i)["name"] for i in range(runtime.getDeviceCount())]
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)


Array = Any  # a numpy.ndarray or a cupy.ndarray
BACKENDS = ("numpy", "cupy")
VARIABLE = "XPCAP_BACKEND"


class BackendStatus(NamedTuple):
    """State of a backend on this machine; `reason` is why it is not `usable`, else empty."""

    name: str
    usable: bool
    version: str
    devices: tuple[str, ...]
    reason: str


def _load() -> ModuleType:
    with warnings.catch_warnings():
        # CuPy warns if two of its wheels are installed; the probe decides
        warnings.simplefilter("ignore")
        import cupy
    return cupy


@functools.cache
def _cupy_status(device: int) -> BackendStatus:
    """The state of CuPy on one device; others are counted, not used, to leave no context there."""
    try:
        cupy = _load()
    except Exception as error:  # a broken installation can raise anything, not just ImportError
        return BackendStatus("cupy", False, "", (), f"cupy cannot be imported {reason_of(error)}")
    cards: tuple[str, ...] = ()
    try:
        cards = cards_of(cupy)
        if not cards:
            raise RuntimeError("no CUDA device is visible")
        if device >= len(cards):
            reason = f"this machine has {len(cards)} CUDA device(s), numbered from 0"
            return BackendStatus("cupy", False, cupy.__version__, cards, reason)
        with current(cupy, device):
            prove(cupy, cards[device])
    except Exception as error:  # faults of driver, toolkit and libraries have many types
        reason = f"no usable CUDA device {reason_of(error)}"
        if len(cards) > 1:
            reason = (
                f"CUDA device {device} of {len(cards)} is not usable {reason_of(error)}; cupy:N"
                " asks for another"
            )
        return BackendStatus("cupy", False, cupy.__version__, cards, reason)
    return BackendStatus("cupy", True, cupy.__version__, cards, "")


def backend_status() -> dict[str, BackendStatus]:
    """Probe both backends.

    The first call imports cupy, if installed (about 0.3 s), and runs a few small computations on
    device 0; the result is cached. Other devices are listed, and proved when they are asked for.

    Returns
    -------
    status : dict of str to BackendStatus
        The state of ``"numpy"`` and ``"cupy"``: usable or not, version, devices, reason.
    """
    return {
        "numpy": BackendStatus("numpy", True, np.__version__, ("host",), ""),
        "cupy": _cupy_status(0),
    }


def parse_backend(spec: str) -> tuple[str, int]:
    """The name and device number in a backend string. OptionError : there is no such backend."""
    name, colon, index = str(spec).partition(":")
    if name not in (*BACKENDS, "auto"):
        raise unknown("use_backend", "backend", name, (*BACKENDS, "auto"))
    if colon and (name == "numpy" or not (index.isascii() and index.isdecimal())):
        raise OptionError(
            "use_backend",
            "",
            f"got {spec!r}",
            expected="'numpy', 'auto', 'cupy', 'auto:N' or 'cupy:N' with N a device number",
        )
    return name, int(index) if colon else 0


def _resolve(spec: str) -> str:
    """The backend string of `spec` on this machine. BackendError : it is not usable."""
    name, device = parse_backend(spec)
    if name == "numpy":
        return "numpy"
    status = _cupy_status(device)
    if name == "auto":
        chosen = "numpy" if not status.usable else f"cupy:{device}" if device else "cupy"
        why = status.reason or status.devices[device]
        print(f"xpcap: backend auto chose {chosen} ({why})", file=sys.stderr)
        return chosen
    if not status.usable:
        raise BackendError(
            "use_backend",
            f"backend {spec}",
            f"cannot be used: {status.reason}",
            cause="the command 'info' shows what is usable; `backend` numpy runs on the CPU",
        )
    return f"cupy:{device}" if device else "cupy"


_active: str | None = None


def _activate(resolved: str) -> int | None:
    """Make a backend and its device the current ones; return the device to restore, or None."""
    global _active
    before = None
    if resolved != "numpy":
        import cupy

        before = device_in_use(cupy)
        cupy.cuda.Device(parse_backend(resolved)[1]).use()
    _active = resolved
    return before


class use_backend(contextlib.AbstractContextManager["use_backend"]):  # noqa: N801 - as a function
    """Choose where new arrays are created, from now on or inside a ``with``.

    Parameters
    ----------
    spec : str
        ``"numpy"``, ``"cupy"``, ``"cupy:1"`` (a device number), ``"auto"`` or ``"auto:1"`` (that
        device if usable, else numpy; prints its choice to standard error).

    Raises
    ------
    OptionError
        The backend does not exist.
    BackendError
        The backend is not usable here, with the reason; there is no silent fallback.

    Notes
    -----
    The choice applies to the whole process. CUDA's current device belongs to a thread: one that is
    to compute on ``cupy:N`` calls this itself. numpy leaves the current device as it is. Before the
    first call the choice is `XPCAP_BACKEND`, or numpy if that is not set.
    """

    def __init__(self, spec: str) -> None:
        self._before = _active
        self.name = _resolve(spec)
        self._device = _activate(self.name)

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
        `XPCAP_BACKEND` names a backend that is not usable here, or none.
    """
    if _active is None:
        wanted = os.environ.get(VARIABLE) or "numpy"
        try:
            _activate(_resolve(wanted))
        except (BackendError, OptionError) as error:
            raise error.within(f"{VARIABLE}={wanted}") from error
    assert _active is not None
    return _active


def array_module() -> ModuleType:
    """The module for new arrays, numpy or cupy."""
    if get_backend() == "numpy":
        return np
    import cupy

    return cupy


def import_cupy() -> ModuleType:
    """The package cupy, with or without a device here. BackendError : it cannot be imported."""
    try:
        return _load()
    except Exception as error:  # a broken installation can raise anything, not just ImportError
        raise BackendError(
            "import_cupy",
            "cupy",
            f"cannot be imported ({first_line(error)})",
            expected="the package, a device is not needed",
            cause=f"is it installed in this environment? {install('kernels')} installs it",
        ) from error


def import_nccl() -> ModuleType | None:
    """CuPy's NCCL, for a process that computes on a device; None if it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CuPy tells how to install what is missing
        import cupy.cuda.nccl
    return cupy.cuda.nccl if cupy.cuda.nccl.available else None


@contextlib.contextmanager
def stand_in(module: ModuleType) -> Iterator[None]:
    """Inside the ``with``, `module` is cupy and the backend of the process, its device usable."""
    global _active, _cupy_status
    backend, probe, cupy = _active, _cupy_status, sys.modules["cupy"]
    status = BackendStatus("cupy", True, module.__version__, (module.__name__,), "")
    sys.modules["cupy"], _active = module, "cupy"
    _cupy_status = functools.cache(lambda device: status)
    try:
        yield
    finally:
        sys.modules["cupy"], _active, _cupy_status = cupy, backend, probe


def is_device_array(x: object) -> bool:
    """True for a cupy array. Never imports cupy: if nobody has, `x` cannot be one."""
    if isinstance(x, np.ndarray):  # the common case, and the fastest answer
        return False
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(x, getattr(cupy, "ndarray", ()))


def get_array_module(*arrays: Array) -> ModuleType:
    """The library of arrays, numpy if there are none.

    Parameters
    ----------
    *arrays : array
        Of NumPy or of CuPy.

    Returns
    -------
    xp : module
        numpy or cupy.

    Raises
    ------
    TypeError
        numpy and cupy arrays are mixed. CuPy rejects that too, but later and less clearly.
    """
    if len(arrays) == 1:
        return sys.modules["cupy"] if is_device_array(arrays[0]) else np
    device = [is_device_array(x) for x in arrays if is_device_array(x) or isinstance(x, np.ndarray)]
    if any(device) and not all(device):
        raise InvalidTypeError(
            "get_array_module",
            "",
            "got numpy and cupy arrays together",
            expected="one library",
            cause="move one side with asarray or to_numpy",
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
        An array whose library to use. None: that of the current backend.

    Returns
    -------
    array : array, shape of x
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
    """
    if is_device_array(x):
        return np.asarray(x.get())
    return np.asarray(x)


def free_memory(like: Array) -> int | None:
    """Free bytes on the device of `like`, CuPy's pool included; None for a host array."""
    if not is_device_array(like):
        return None
    cupy = sys.modules["cupy"]
    return int(cupy.cuda.runtime.memGetInfo()[0]) + int(cupy.get_default_memory_pool().free_bytes())


def free_staging(like: Array) -> None:
    """Free the page-locked memory of copies to the device of `like`, except of unfinished ones."""
    if is_device_array(like):
        sys.modules["cupy"].get_default_pinned_memory_pool().free_all_blocks()
