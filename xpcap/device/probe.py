"""CuPy and its devices: importing it, and proving that a device computes. Only this file imports it."""

import contextlib
import functools
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from xpcap.device import cublas
from xpcap.device.causes import Cause, cause_of, cupy_packages, unsuited, versions
from xpcap.device.launch import Kernel, parameters
from xpcap.errors import BackendError, install, sentence
from xpcap.progress import say

KERNEL = """typedef REAL real;
extern "C" __global__ void multiply(real* x, real factor, int n) {
    if (threadIdx.x < n) x[threadIdx.x] *= factor;
}
"""


class BackendStatus(NamedTuple):
    """State of a backend on this machine.

    `reason`, `expected` and `cause` say why it is not `usable`; else they are empty.
    """

    name: str
    usable: bool
    version: str
    devices: tuple[str, ...]
    reason: str
    expected: str = ""
    cause: str = ""
    cuda: str = ""  # of CuPy and of the driver

    @property
    def why(self) -> str:
        """Reason, what was expected and the cause, in one sentence."""
        return sentence("", "", self.reason, self.expected, self.cause)


def load() -> ModuleType:
    """The package cupy; a broken installation can raise any Exception."""
    with warnings.catch_warnings():
        # CuPy warns if two of its wheels are installed; the probe decides
        warnings.simplefilter("ignore")
        import cupy
    return cupy


def import_cupy() -> ModuleType:
    """The package cupy, with or without a device here; BackendError if it cannot be imported."""
    try:
        return load()
    except Exception as error:  # a broken installation can raise anything, not just ImportError
        raise BackendError(
            "import_cupy",
            "cupy",
            f"cannot be imported ({_of_import(error)})",
            expected="the package, a device is not needed",
            cause=f"is it installed in this environment? {install('kernels')} installs it",
        ) from error


def import_nccl() -> ModuleType | None:
    """CuPy's NCCL, for a process that computes on a device; None if it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CuPy tells how to install what is missing
        import cupy.cuda.nccl
    return cupy.cuda.nccl if cupy.cuda.nccl.available else None


def first_line(error: BaseException) -> str:
    """Type and first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _of_import(error: Exception) -> str:
    """Type and first line of what CuPy wraps into a page of advice."""
    return first_line(error.__cause__ or error)


def is_device_error(error: BaseException) -> bool:
    """True for an error of CuPy's: of CUDA, its compiler or its libraries."""
    return type(error).__module__.partition(".")[0] in ("cupy", "cupy_backends")


def kernel_cache() -> Path:
    """The folder in which CuPy keeps compiled kernels."""
    return Path(os.environ.get("CUPY_CACHE_DIR", "~/.cupy/kernel_cache")).expanduser()


def _cached_kernels() -> int:
    return len([*kernel_cache().glob("*")])


def _announce(card: str) -> None:
    say(
        f"xpcap: compiling CUDA kernels for {card}; CuPy keeps them, so only the first use takes"
        " long",
        err=True,
    )


def prove(cupy: ModuleType, card: str, plain: bool) -> None:
    """Prove the current device by computing: a driver proves neither NVRTC nor cuBLAS.

    An elementwise kernel, a reduction of rows, a product by CuPy (8 x 8, since it computes very
    small ones without cuBLAS), and unless only the plain equations are to run, a kernel and a
    product of our own, launched as all are: every kind of computation in xpcap. If one of them had
    to be compiled, the others will be too, and a line on standard error announces it.
    """
    cached = _cached_kernels()
    if not cached:
        _announce(card)
    x = cupy.ones((8, 8), dtype="float32")
    results, expected = [float((x * 2)[0, 0]), float(cupy.matmul(x, x)[0, 0])], [2.0, 8.0]
    if plain:
        without_cub(cupy)
        results += [float(x.sum(axis=1)[0]), int(x.argmax(axis=1)[0])]
        expected += [8.0, 0]
    else:
        version = sys.modules["xpcap"].__version__
        code = f"// xpcap {version}: other versions have other kernels\n{KERNEL}"
        module = cupy.RawModule(code=code, options=("-DREAL=float",))
        types = parameters(KERNEL, "multiply", "float")
        device = cupy.cuda.runtime.getDevice()
        Kernel(cupy, device, module, "multiply", types)((1,), x, 2.0, x.size)
        results += [float(x[0, 0]), float(cublas.multiply(x, x, cupy.empty_like(x))[0, 0])]
        expected += [2.0, 32.0]
    if results != expected:
        raise RuntimeError("a test computation on the device gave a wrong result")
    if 0 < cached < _cached_kernels():
        _announce(card)


def device_in_use(cupy: ModuleType) -> int | None:
    """This thread's current device; None without a context, which making it current creates."""
    return int(cupy.cuda.runtime.getDevice()) if cupy.cuda.driver.ctxGetCurrent() else None


@contextlib.contextmanager
def on_device(cupy: ModuleType, device: int) -> Iterator[None]:
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


@functools.cache
def machine(cupy: ModuleType, device: int) -> tuple[str, ...]:
    """CuPy, CUDA, driver and card of a device, for which a check holds."""
    runtime = cupy.cuda.runtime
    numbers = runtime.runtimeGetVersion(), runtime.driverGetVersion()
    return cupy.__version__, *map(str, numbers), cards_of(cupy)[device]


def without_cub(cupy: ModuleType) -> None:
    """Let CuPy reduce without CUB, whose headers have to be found and compiled.

    Without it a reduction needs no more than an elementwise kernel does.
    """
    cupy._core.set_reduction_accelerators([])


@contextlib.contextmanager
def restored_reductions(cupy: ModuleType) -> Iterator[None]:
    """Restore, after the ``with``, what CuPy reduces by."""
    accelerators = cupy._core.get_reduction_accelerators()
    try:
        yield
    finally:
        cupy._core.set_reduction_accelerators(accelerators)


@functools.cache
def cupy_status(device: int, plain: bool) -> BackendStatus:
    """The state of CuPy on one device; others are counted, not used, to leave no context there.

    plain : prove CuPy alone, for the plain equations
    """
    try:
        cupy = load()
        cuda = versions(cupy)
    except Exception as error:  # a broken installation can raise anything, not just ImportError
        reason = f"cupy cannot be imported ({_of_import(error)})"
        return BackendStatus("cupy", False, "", (), reason, *cause_of(error))
    if reason := unsuited(cupy):
        return BackendStatus("cupy", False, cupy.__version__, (), reason, *cause_of(None, cupy))
    cards: tuple[str, ...] = ()
    card, reason, why = None, "", Cause()
    try:
        cards = cards_of(cupy)
        if not cards:
            raise RuntimeError("no CUDA device is visible")
        if device >= len(cards):
            reason = f"this machine has {len(cards)} CUDA device(s), numbered from 0"
        else:
            card = cupy.cuda.runtime.getDeviceProperties(device)
            with on_device(cupy, device):
                prove(cupy, cards[device], plain)
    except Exception as error:  # faults of driver, toolkit and libraries have many types
        why = cause_of(error, cupy, card)
        details = f"{first_line(error)}; {cupy_packages()} for {cuda}"
        reason = f"no usable CUDA device ({details})"
        if len(cards) > 1:
            reason = f"CUDA device {device} of {len(cards)} is not usable ({details})"
            reason += "; cupy:N asks for another"
    return BackendStatus("cupy", not reason, cupy.__version__, cards, reason, *why, cuda)
