"""CuPy and its devices: import CuPy, and test that a device computes. No other file imports it."""

import contextlib
import functools
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from xpcap.backend import cublas
from xpcap.backend.cuda_problems import Cause, cause_of, cupy_packages, unsuited, versions
from xpcap.backend.launch import Kernel, parameters
from xpcap.errors import BackendError, install
from xpcap.progress import say

KERNEL = """typedef REAL real;
extern "C" __global__ void multiply(real* x, real factor, int n) {
    if (threadIdx.x < n) x[threadIdx.x] *= factor;
}
"""


class BackendStatus(NamedTuple):
    """Status of a backend on this machine.

    `reason`, `expected` and `cause` say why it is not `usable`; otherwise they are empty.
    """

    name: str
    usable: bool
    version: str
    devices: tuple[str, ...]
    reason: str
    expected: str = ""
    cause: str = ""
    cuda: str = ""  # CuPy's version of it, and the driver's

    @property
    def why(self) -> str:
        """Reason, what was expected and the cause, in one sentence."""
        wanted = f", expected {self.expected}" if self.expected else ""
        return f"{self.reason}{wanted}; {self.cause}".removesuffix("; ")


def load() -> ModuleType:
    """The package cupy; a broken installation can raise any Exception."""
    with warnings.catch_warnings():
        # CuPy warns if two of its wheels are installed; `cause_of` reports that if it matters
        warnings.simplefilter("ignore")
        import cupy
    return cupy


def import_cupy() -> ModuleType:
    """The package cupy, with or without a device here; BackendError if it cannot be imported."""
    try:
        return load()
    except Exception as error:  # a broken installation can raise anything, not just ImportError
        raise BackendError(
            f"cupy cannot be imported ({_import_error(error)}), expected the package, a device is"
            f" not needed; is it installed in this environment? {install('kernels')} installs it"
        ) from error


def import_nccl() -> ModuleType | None:
    """CuPy's NCCL, for a process that computes on a device; None if it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CuPy warns about missing libraries
        import cupy.cuda.nccl
    return cupy.cuda.nccl if cupy.cuda.nccl.available else None


def first_line(error: BaseException) -> str:
    """Type and first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _import_error(error: Exception) -> str:
    """Type and first line of the error that CuPy wraps into a page of advice."""
    return first_line(error.__cause__ or error)


def is_device_error(error: BaseException) -> bool:
    """True for an error that CuPy raises: of CUDA, its compiler or its libraries."""
    return type(error).__module__.partition(".")[0] in ("cupy", "cupy_backends")


def kernel_cache() -> Path:
    """The folder in which CuPy keeps compiled kernels."""
    return Path(os.environ.get("CUPY_CACHE_DIR", "~/.cupy/kernel_cache")).expanduser()


def _cached_kernels() -> int:
    return len([*kernel_cache().glob("*")])


def _announce_compiling(device_name: str) -> None:
    say(
        f"xpcap: compiling CUDA kernels for {device_name}; CuPy keeps them, so only the first use takes"
        " long",
        err=True,
    )


def prove(cupy: ModuleType, device_name: str, plain: bool) -> None:
    """Test the current device by computing: a working driver implies neither NVRTC nor cuBLAS.

    For plain code this is an elementwise kernel, a reduction of rows, and a product by CuPy (8 x 8,
    since CuPy computes very small ones without cuBLAS). For fast code a kernel and a product of
    xpcap's replace the reduction. If one kernel had to be compiled, the others will be too, and a
    line on standard error announces it.
    """
    cached = _cached_kernels()
    if not cached:
        _announce_compiling(device_name)
    x = cupy.ones((8, 8), dtype="float32")
    results = [float((x * 2)[0, 0]), float(cupy.matmul(x, x)[0, 0])]
    expected = [2.0, 8.0]
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
        _announce_compiling(device_name)


def device_in_use(cupy: ModuleType) -> int | None:
    """This thread's current device; None without a context, which asking must not create."""
    return int(cupy.cuda.runtime.getDevice()) if cupy.cuda.driver.ctxGetCurrent() else None


@contextlib.contextmanager
def on_device(cupy: ModuleType, device: int) -> Iterator[None]:
    """Make a device current inside the ``with``, then the earlier one if it had a context."""
    before = device_in_use(cupy)
    cupy.cuda.Device(device).use()
    try:
        yield
    finally:
        if before is not None:
            cupy.cuda.Device(before).use()


def device_names(cupy: ModuleType) -> tuple[str, ...]:
    """The names of the visible devices."""
    runtime = cupy.cuda.runtime
    names = [runtime.getDeviceProperties(i)["name"] for i in range(runtime.getDeviceCount())]
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)


@functools.cache
def machine(cupy: ModuleType, device: int) -> tuple[str, ...]:
    """Versions of CuPy, CUDA and driver, and the device's name: a stored check holds for these."""
    runtime = cupy.cuda.runtime
    numbers = runtime.runtimeGetVersion(), runtime.driverGetVersion()
    return cupy.__version__, *map(str, numbers), device_names(cupy)[device]


def without_cub(cupy: ModuleType) -> None:
    """Let CuPy reduce without CUB, whose headers have to be found and compiled."""
    cupy._core.set_reduction_accelerators([])


@contextlib.contextmanager
def restored_reductions(cupy: ModuleType) -> Iterator[None]:
    """Restore CuPy's choice of reduction accelerators after the ``with``."""
    accelerators = cupy._core.get_reduction_accelerators()
    try:
        yield
    finally:
        cupy._core.set_reduction_accelerators(accelerators)


@functools.cache
def cupy_status(device: int, plain: bool) -> BackendStatus:
    """The state of CuPy on one device. Other devices are only counted: using one creates a context.

    plain : test CuPy alone, for plain code
    """
    try:
        cupy = load()
        cuda = versions(cupy)
    except Exception as error:  # a broken installation can raise anything, not just ImportError
        reason = f"cupy cannot be imported ({_import_error(error)})"
        return BackendStatus("cupy", False, "", (), reason, *cause_of(error))
    if reason := unsuited(cupy):
        return BackendStatus("cupy", False, cupy.__version__, (), reason, *cause_of(None, cupy))
    names: tuple[str, ...] = ()
    properties = None
    reason = ""
    cause = Cause()
    try:
        names = device_names(cupy)
        if not names:
            raise RuntimeError("no CUDA device is visible")
        if device >= len(names):
            reason = f"this machine has {len(names)} CUDA device(s), numbered from 0"
        else:
            properties = cupy.cuda.runtime.getDeviceProperties(device)
            with on_device(cupy, device):
                prove(cupy, names[device], plain)
    except Exception as error:  # faults of driver, toolkit and libraries have many types
        cause = cause_of(error, cupy, properties)
        details = f"{first_line(error)}; {cupy_packages()} for {cuda}"
        reason = f"no usable CUDA device ({details})"
        if len(names) > 1:
            reason = f"CUDA device {device} of {len(names)} is not usable ({details})"
            reason += "; cupy:N asks for another"
    return BackendStatus("cupy", not reason, cupy.__version__, names, reason, *cause, cuda)
