"""Proves a CUDA device: that CuPy can compile for it and compute on it, and that no other device is touched. CuPy is an argument here."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

KERNEL = """typedef REAL real;
extern "C" __global__ void twice(real* x) { x[threadIdx.x] *= 2; }
"""


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def reason_of(error: Exception) -> str:
    """The error in brackets, and what to do if CuPy found no place for its compiled kernels."""
    is_file = isinstance(error, OSError) and error.filename is not None  # a library that cannot be loaded is an OSError too, without one
    return f"({first_line(error)})" + ("; CuPy keeps compiled kernels on disk: set CUPY_CACHE_DIR to a folder you may write to" if is_file else "")


def _cached_kernels() -> int:
    """Files in CuPy's cache of compiled kernels."""
    return sum(1 for _ in Path(os.environ.get("CUPY_CACHE_DIR", "~/.cupy/kernel_cache")).expanduser().glob("*"))


def _announce(card: str) -> None:
    print(f"xpcap: compiling CUDA kernels for {card}; CuPy keeps them, so only the first use takes long", file=sys.stderr, flush=True)


def prove(cupy: ModuleType, card: str) -> None:
    """Compute on the current device and check the results, since a driver alone proves neither NVRTC and its headers nor cuBLAS.

    An elementwise kernel, a sum, a product (8 x 8, since CuPy computes very small ones without cuBLAS), an argmax and a kernel of our own: all
    the ways in which xpcap computes. If one of them had to be compiled, the others will be too, and a line on standard error says so.
    """
    cached = _cached_kernels()
    if not cached:
        _announce(card)
    x = cupy.ones((8, 8), dtype="float32")
    code = f"// xpcap {sys.modules['xpcap'].__version__}: other versions have other kernels\n{KERNEL}"
    cupy.RawModule(code=code, options=("-DREAL=float",)).get_function("twice")((1,), (64,), (x,))
    found = float((x * 2).sum()), float(cupy.matmul(x, x)[0, 0]), int((x.ravel() * cupy.arange(64, dtype="float32")).argmax())
    if found != (256.0, 32.0, 63):
        raise RuntimeError("a test computation on the device gave a wrong result")
    if 0 < cached < _cached_kernels():
        _announce(card)


def device_in_use(cupy: ModuleType) -> int | None:
    """This thread's current device; None if it has no context, which making it current would create (from CUDA 12 on)."""
    return int(cupy.cuda.runtime.getDevice()) if cupy.cuda.driver.ctxGetCurrent() else None


@contextlib.contextmanager
def current(cupy: ModuleType, device: int) -> Iterator[None]:
    """Make a device current inside the ``with``, then the one before, but without a context on a device that had none."""
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
