"""Describes the machine that a timing was taken on: processor or GPU, and versions."""

import os
import platform
import re
import sys
from pathlib import Path

import numpy as np

from xpcap import __version__
from xpcap.backend import array_module, get_backend

DRIVER = Path("/proc/driver/nvidia/version")
PROCESSOR = Path("/proc/cpuinfo")
STATUS = Path("/proc/self/status")
THREADS = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")  # what OpenBLAS reads, in its order


def machine() -> dict[str, str]:
    """Processor or GPU, and versions, for the current backend."""
    versions = {"numpy": np.__version__, "python": platform.python_version(), "xpcap": __version__}
    host = {"backend": get_backend(), "processor": f"{processor()}, {os.cpu_count()} cores"}
    xp = array_module()
    if xp is np:
        return {**host, "blas": blas(), "blas_threads": blas_threads(), **versions}
    runtime = xp.cuda.runtime
    name = runtime.getDeviceProperties(xp.cuda.Device().id)["name"]
    card = {
        "card": name.decode() if isinstance(name, bytes) else str(name),
        "driver": f"{driver()} (CUDA {cuda_version(runtime.driverGetVersion())})",
        "cuda_runtime": cuda_version(runtime.runtimeGetVersion()),  # CuPy's own
        "cupy": xp.__version__,
    }
    return {**card, **host, **versions}


def cuda_version(number: int) -> str:
    """CUDA's version number as people write it: 13020 is 13.2."""
    return f"{number // 1000}.{number % 1000 // 10}"


def driver() -> str:
    """The version of NVIDIA's kernel module, as Linux reports it."""
    found = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)", DRIVER.read_text()) if DRIVER.is_file() else None
    return found[1] if found else "unknown version"


def processor() -> str:
    """The processor's name, from Linux if possible, else from Python."""
    found = re.search(r"model name\s*: (.*)", PROCESSOR.read_text()) if PROCESSOR.is_file() else None
    return found[1] if found else platform.processor() or platform.machine()


def blas() -> str:
    """NumPy's BLAS library and its version."""
    found = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{found.get('name', 'unknown')} {found.get('version', '')}".strip()


def blas_threads() -> str:
    """The number of threads BLAS may use: from the environment, else the number of cores this process may use."""
    given = [os.environ[name] for name in THREADS if os.environ.get(name)]
    return given[0] if given else str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())


def peak_memory() -> int | None:
    """Peak resident memory of this process in bytes, or None on systems that do not report it."""
    if STATUS.is_file() and (found := re.search(r"^VmHWM:\s*(\d+) kB", STATUS.read_text(), re.MULTILINE)):
        return 1024 * int(found[1])  # ru_maxrss would start at the peak of the parent process
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
