"""Why a CUDA device cannot be used: what driver, CUDA and card are here, and what to install."""

import functools
import importlib.metadata
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from xpcap.errors import install

# By the major version of CUDA that CuPy is built for: the oldest driver, on Linux, and the oldest
# card, by its compute capability; 13 no longer runs on V100 and P100
DRIVERS = {12: 525, 13: 580}
CARDS = {12: (5, 0), 13: (7, 5)}
# By version of CUDA, the PyTorch on PyPI that brings it; CuPy then finds the newest that is there
PYTORCH = {12: "before 2.11", 13: "2.11 or newer"}


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
ROCM = Cause("CuPy for CUDA", "xpcap needs CUDA, and thereby an NVIDIA GPU")


def library_name(version: int) -> str:
    """The file name of cuBLAS of a major version; on Linux, more of its version may follow."""
    return f"cublas64_{version}.dll" if sys.platform == "win32" else f"libcublas.so.{version}"


def version(number: int) -> str:
    """CUDA's version number as text: 13020 is 13.2."""
    return f"{number // 1000}.{number % 1000 // 10}"


def versions(cupy: ModuleType) -> str:
    """The CUDA that this CuPy was built for, and the CUDA that the driver supports."""
    built, driver = _built_and_driver(cupy)
    supports = f"a driver for CUDA {version(driver)}" if driver else "no NVIDIA driver"
    return f"CUDA {version(built)}, {supports}"


@functools.cache  # it reads the metadata of every installed package
def packages() -> list[str]:
    """The installed packages that bring CuPy: of two, the later has overwritten the other."""
    names = importlib.metadata.packages_distributions().get("cupy", [])
    return sorted({name for name in names if name})


def named() -> str:
    """The installed packages that bring CuPy, as text."""
    return " and ".join(packages()) or "CuPy"


def nccl_package(cupy: ModuleType) -> str:
    """The package with the NCCL that this CuPy loads."""
    built, _ = _built_and_driver(cupy)
    return f"nvidia-nccl-cu{built // 1000}"


def _built_and_driver(cupy: ModuleType) -> tuple[int, int]:
    runtime = cupy.cuda.runtime
    return runtime.runtimeGetVersion(), runtime.driverGetVersion()


def command(cuda: int) -> str:
    """The command that installs CuPy for a version of CUDA, and the parts of CUDA it needs."""
    if _has_condas_cupy():
        return f"conda install -c conda-forge cupy cuda-version={cuda}"
    if _on_jetson():  # the CUDA of the extra is for servers
        return f"pip install . cupy-cuda{cuda}x"
    return install(f"cuda{cuda}")


def commands_instead(cuda: int) -> str:
    """The commands that replace every installed CuPy by one for a version of CUDA."""
    from_conda = _has_condas_cupy()
    wheels = [name for name in packages() if not (from_conda and name == "cupy")]
    if not wheels:
        return command(cuda)
    reinstall = " --force-reinstall" if from_conda else ""  # the wheels shared its files
    return f"pip uninstall -y {' '.join(wheels)}, then {command(cuda)}{reinstall}"


def _has_condas_cupy() -> bool:
    """True if CuPy comes from conda, or has to."""
    names = packages()
    return Path(sys.prefix, "conda-meta").is_dir() and (not names or "cupy" in names)


def _on_jetson() -> bool:
    return "tegra" in platform.release()


def parts_of_cuda() -> dict[str, Any]:
    """Parts of CUDA that CuPy finds in packages, the system or CUDA_PATH: None for a missing part, an
    error for one that cannot be loaded.
    """
    try:
        from cuda import pathfinder
    except ImportError:  # a CuPy that searches by itself
        return {}
    load = pathfinder.load_nvidia_dynamic_lib
    parts: dict[str, Any] = {}
    for title, search, name in (
        ("the compiler NVRTC", load, "nvrtc"),
        ("cuBLAS", load, "cublas"),
        ("the headers of CUDA", pathfinder.find_nvidia_header_directory, "cudart"),
    ):
        try:
            parts[title] = search(name)
        except pathfinder.DynamicLibNotFoundError:
            parts[title] = None
        except (OSError, RuntimeError) as error:  # a damaged file, or one that it needs is missing
            parts[title] = error
    return parts


def cause_of_import() -> Cause:
    """The likely cause of a CuPy that cannot be imported."""
    names = packages()
    oldest, newest = min(DRIVERS), max(DRIVERS)
    either = f"write {oldest} for {newest} where nvidia-smi shows CUDA {oldest}"
    if not names:
        return Cause("", f"{command(newest)} installs it for an NVIDIA GPU; {either}")
    if any("rocm" in name or name == "amd-cupy" for name in names):
        return ROCM
    if len(names) > 1:
        return _clash(f"{commands_instead(newest)}; {either}")
    cuda = next((cuda for cuda in DRIVERS if names == [f"cupy-cuda{cuda}x"]), newest)
    cause = f"{names[0]} is damaged, or does not fit this NumPy: {commands_instead(cuda)}"
    return Cause("a CuPy that can be imported", cause)


def cause_of(error: Exception, cupy: ModuleType, card: Mapping[str, Any] | None) -> Cause:
    """The likely cause of an error of a device, whose properties are known if it is visible."""
    built, driver = (number // 1000 for number in _built_and_driver(cupy))
    if not driver:
        install_it = _on_windows("install it")
        return Cause("NVIDIA's driver", f"{install_it}; nvidia-smi should then list the card")
    capability = (card["major"], card["minor"]) if card is not None else max(CARDS.values())
    usable = [cuda for cuda in DRIVERS if cuda <= driver and capability >= CARDS[cuda]]
    change = [f"take CUDA {usable[-1]}: {commands_instead(usable[-1])}"] if usable else []
    if driver < built:
        expected = f"a driver for CUDA {built}, {DRIVERS.get(built, 'the newest')} or newer"
        return Cause(expected, ", or ".join([_on_windows("update the driver"), *change]))
    if card is not None:
        if capability < (oldest := CARDS.get(built, (0, 0))):
            expected = f"compute capability {'.'.join(map(str, oldest))} for CUDA {built}"
            return Cause(expected, "; ".join(["the card is older", *change]))
        if len(packages()) > 1:
            return _clash(commands_instead(usable[-1] if usable else built))
        if cause := _cause_in_parts(built, usable):
            return cause
    return CAUSES.get((type(error).__name__, getattr(error, "status", None)), Cause())


def _on_windows(remedy: str) -> str:
    """A remedy for the driver; in WSL, Windows has it."""
    in_wsl = "microsoft" in platform.release().lower()
    return f"{remedy} on Windows, never inside WSL" if in_wsl else remedy


def _clash(commands: str) -> Cause:
    return Cause("one CuPy", f"{named()} overwrite each other: {commands}")


def _cause_in_parts(built: int, usable: list[int]) -> Cause | None:
    """The part of CUDA that is missing, damaged or of another version; None: all are there."""
    parts, source = parts_of_cuda(), "JetPack" if _on_jetson() else command(built)
    if lacks := [title for title, part in parts.items() if part is None]:
        expected = " and ".join([", ".join(lacks[:-1]), lacks[-1]] if lacks[1:] else lacks)
        return Cause(expected, f"{source} installs what CuPy needs of CUDA")
    for title, part in parts.items():
        if isinstance(part, Exception):
            again = source if _on_jetson() else f"{source} --force-reinstall"
            cause = f"a file of CUDA is damaged or missing; {again} brings it"
            return Cause(f"{title} that can be loaded", cause)
    path = getattr(parts.get("cuBLAS"), "abs_path", None) or ""
    if not path or library_name(built) in path.lower():
        return None
    expected = f"cuBLAS of CUDA {built}, not {path}"
    for cuda in usable:
        if library_name(cuda) in path.lower():
            beside = f"beside PyTorch {PYTORCH[cuda]}, which brings CUDA {cuda}, take cuda{cuda}"
            return Cause(expected, f"{beside}: {commands_instead(cuda)}")
    cause = "driver or card are too old for it; install xpcap where no PyTorch is"
    return Cause(expected, f"{cause}: python -m venv .venv")
