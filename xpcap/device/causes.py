"""Why a CUDA device cannot be used: what driver, CUDA and card are here, and what to install."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

from xpcap.errors import install

# By the major version of CUDA that CuPy is built for: the oldest driver, on Linux, and the oldest
# card, by its compute capability; 13 no longer runs on V100 and P100
DRIVERS = {12: 525, 13: 580}
CARDS = {12: (5, 0), 13: (7, 5)}


class Cause(NamedTuple):
    """The need of a device that cannot be used, and the likely cause or a remedy; both end a message."""

    expected: str = ""
    cause: str = ""


# By type and status of an error, where driver, card and libraries are as they should be
CAUSES: Mapping[tuple[str, int | None], Cause] = {
    ("CUDARuntimeError", 2): Cause("free memory on the device", "nvidia-smi shows who has it"),
    ("CUDARuntimeError", 46): Cause(
        "a device that takes one more process", "nvidia-smi shows who has it to itself"
    ),
    ("CUDARuntimeError", 100): Cause("a visible device", "does CUDA_VISIBLE_DEVICES hide it?"),
    ("CUDARuntimeError", 802): Cause(
        "a device that is ready", "cards with NVSwitch need the service nvidia-fabricmanager"
    ),
    ("CUDARuntimeError", 803): Cause(
        "the driver's parts in one version", "was it updated? restart the machine"
    ),
}


def version(number: int) -> str:
    """CUDA's version number as text: 13020 is 13.2."""
    return f"{number // 1000}.{number % 1000 // 10}"


def versions(cupy: ModuleType) -> str:
    """The CUDA that this CuPy was built for, and the CUDA that the driver supports."""
    built, driver = _built_and_driver(cupy)
    supports = f"a driver for CUDA {version(driver)}" if driver else "no NVIDIA driver"
    return f"CuPy for CUDA {version(built)}, {supports}"


def nccl_package(cupy: ModuleType) -> str:
    """The package with the NCCL that this CuPy loads."""
    built, _ = _built_and_driver(cupy)
    return f"nvidia-nccl-cu{built // 1000}"


def _built_and_driver(cupy: ModuleType) -> tuple[int, int]:
    runtime = cupy.cuda.runtime
    return runtime.runtimeGetVersion(), runtime.driverGetVersion()


def missing() -> list[str]:
    """Parts of CUDA that CuPy does not find: in packages, the system, or CUDA_PATH."""
    try:
        from cuda import pathfinder
    except ImportError:  # a CuPy that searches by itself
        return []
    found = []
    for name, title in (("nvrtc", "the compiler NVRTC"), ("cublas", "cuBLAS")):
        try:
            pathfinder.load_nvidia_dynamic_lib(name)
        except pathfinder.DynamicLibNotFoundError:
            found.append(title)
    if pathfinder.find_nvidia_header_directory("cudart") is None:
        found.append("the headers of CUDA")
    return found


def cause_of(error: Exception, cupy: ModuleType, card: Mapping[str, Any] | None) -> Cause:
    """The likely cause of an error of a device, whose properties are known if it is visible."""
    built, driver = (number // 1000 for number in _built_and_driver(cupy))
    if not driver:
        return Cause("NVIDIA's driver", "install it; nvidia-smi should then list the card")
    if driver < built:
        wanted = f"a driver for CUDA {built}, {DRIVERS.get(built, 'the newest')} or newer"
        return Cause(wanted, ", or ".join(["update the driver", *_other_cupy(built, driver)]))
    if card is not None:
        if (card["major"], card["minor"]) < (oldest := CARDS.get(built, (0, 0))):
            wanted = f"compute capability {'.'.join(map(str, oldest))} for CUDA {built}"
            return Cause(wanted, "; ".join(["the card is older", *_other_cupy(built, 12)]))
        if lacks := missing():
            wanted = " and ".join([", ".join(lacks[:-1]), lacks[-1]] if lacks[1:] else lacks)
            return Cause(wanted, f"{install(f'cuda{built}')} installs what CuPy needs of CUDA")
    return CAUSES.get((type(error).__name__, getattr(error, "status", None)), Cause())


def _other_cupy(built: int, usable: int) -> list[str]:
    """Commands that change to the CuPy for an older CUDA, where there is one."""
    if not 12 <= usable < built:
        return []
    return [f"take CUDA {usable}: pip uninstall cupy-cuda{built}x, {install(f'cuda{usable}')}"]
