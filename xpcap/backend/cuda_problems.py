"""Causes for which a CUDA device cannot be used, by driver, CUDA and GPU, and what to install."""

import functools
import importlib.metadata
import platform
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from xpcap.errors import install

# The supported versions of CuPy, as in pyproject.toml. 13 needs CUDA's toolkit; 14.0 and 14.1.0 may
# compile with the NVRTC of a package and the headers of another toolkit (cupy#9719)
RANGE = ">=13.6,!=14.0.*,!=14.1.0,<15"
IN_WORDS = "CuPy 13.6, or 14.1.1 and newer, below 15"
# The oldest driver on Linux, and the lowest compute capability, for each major version of CUDA that
# CuPy is built for; 13 no longer runs on V100 and P100
DRIVERS = {12: 525, 13: 580}
CAPABILITIES = {12: (5, 0), 13: (7, 5)}
# The PyTorch on PyPI that brings each version of CUDA; CuPy loads the newest cuBLAS it finds
PYTORCH = {12: "before 2.11", 13: "2.11 or newer"}


# What CUDA's status numbers ask for, if driver, GPU and libraries fit each other
STATUSES = {
    2: ("free memory on the device", "nvidia-smi shows who has it"),
    46: ("a device that takes one more process", "nvidia-smi shows who has it to itself"),
    100: ("a visible device", "does CUDA_VISIBLE_DEVICES hide it?"),
    802: ("a device that is ready", "GPUs with NVSwitch need the service nvidia-fabricmanager"),
    803: ("the driver's parts in one version", "was it updated? restart the machine"),
}


class Cause(NamedTuple):
    """The end of an error message: a requirement of a device, and the likely cause or a remedy."""

    expected: str = ""
    cause: str = ""


class Facts(NamedTuple):
    """Facts about a machine, from which `cause_of` finds the cause."""

    error: Exception | None = None
    packages: Sequence[str] = ()  # those that bring CuPy: of two, the second overwrote the first
    version: str = ""  # CuPy's
    rocm: bool = False
    built: int = 0  # the major version of CUDA that CuPy is built for; 0: it cannot be imported
    driver: int = 0  # the newest CUDA that the driver supports; 0: there is no driver
    capability: tuple[int, int] | None = None  # the GPU's compute capability, if it is visible
    parts: Mapping[str, Any] = {}  # see `parts_of_cuda`
    conda: bool = False
    jetson: bool = False
    wsl: bool = False

    def command(self, cuda: int) -> str:
        """The command that installs CuPy for a version of CUDA, and the parts of CUDA it needs."""
        if self.from_conda:
            return f"conda install -c conda-forge 'cupy{RANGE}' cuda-version={cuda}"
        if self.jetson:  # the CUDA of the extra is for servers
            return f"pip install 'cupy-cuda{cuda}x{RANGE}'"
        return install(f"cuda{cuda}")

    def instead(self, cuda: int) -> str:
        """The commands that replace every installed CuPy by one for a version of CUDA."""
        wheels = [name for name in self.packages if not (self.from_conda and name == "cupy")]
        if not wheels:
            return self.command(cuda)
        reinstall = " --force-reinstall" if self.from_conda else ""  # the wheels shared its files
        return f"pip uninstall -y {' '.join(wheels)}, then {self.command(cuda)}{reinstall}"

    @property
    def from_conda(self) -> bool:
        """True if CuPy comes from conda, or has to."""
        return self.conda and (not self.packages or "cupy" in self.packages)


def rows(facts: Facts) -> Iterator[tuple[object, str, str]]:
    """Rows (observed, expected, cause or remedy), most fundamental first; the first observed counts."""
    names = " and ".join(facts.packages)
    wheel = re.fullmatch(r"cupy-cuda(\d+)x", names)
    reinstall = facts.instead(facts.built or (int(wheel[1]) if wheel else max(DRIVERS)))
    yield (
        isinstance(facts.error, OSError)
        and facts.error.filename,  # an error of a library names no file
        "a folder for CuPy's compiled kernels",
        "set CUPY_CACHE_DIR to one you may write to",
    )
    yield facts.rocm, "CuPy for CUDA", "xpcap needs CUDA, and thereby an NVIDIA GPU"
    if not facts.built:
        cuda12 = "write 12 for 13 where nvidia-smi shows CUDA 12"
        clash = f"{names} overwrite each other: {reinstall}; {cuda12}"
        unfit = f"{names} is damaged, or does not fit this NumPy: {reinstall}"
        yield not names, "", f"{reinstall} installs it for an NVIDIA GPU; {cuda12}"
        yield len(facts.packages) > 1, "one CuPy", clash
        yield True, "a CuPy that can be imported", unfit
    yield facts.version and not is_supported(facts.version), IN_WORDS, reinstall

    where = " on Windows, never inside WSL" if facts.wsl else ""
    capability = facts.capability or max(CAPABILITIES.values())
    lowest = CAPABILITIES.get(facts.built, (0, 0))
    usable = [k for k in DRIVERS if k <= facts.driver and capability >= CAPABILITIES[k]]
    best = max(usable, default=facts.built)
    change = f"take CUDA {best}: {facts.instead(best)}" if usable else ""
    yield (
        not facts.driver,
        "NVIDIA's driver",
        f"install it{where}; nvidia-smi should then list the GPU",
    )
    yield (
        facts.driver < facts.built,
        f"a driver for CUDA {facts.built}, {DRIVERS.get(facts.built, 'the newest')} or newer",
        ", or ".join(filter(None, (f"update the driver{where}", change))),
    )
    yield (
        capability < lowest,
        f"compute capability {'.'.join(map(str, lowest))} for CUDA {facts.built}",
        "; ".join(filter(None, ("the GPU is older", change))),
    )
    clash = f"{names} overwrite each other: {facts.instead(best)}"
    yield facts.capability and len(facts.packages) > 1, "one CuPy", clash

    command = facts.command(facts.built)
    missing = ", ".join(title for title, part in facts.parts.items() if part is None)
    damaged = ", ".join(title for title, part in facts.parts.items() if isinstance(part, Exception))
    repair = f"a file of CUDA is damaged or missing; {command} --force-reinstall brings it"
    yield facts.jetson and (missing or damaged), missing or damaged, "JetPack brings CUDA"
    yield missing, missing, f"{command} installs what CuPy needs of CUDA"
    yield damaged, f"{damaged} that can be loaded", repair
    lacks_library = not facts.parts and "cannot open shared object" in str(facts.error)
    yield (
        facts.capability and lacks_library,
        "a CUDA toolkit for CuPy 13",
        f"a newer one needs none: {reinstall}",
    )
    path = getattr(facts.parts.get("cuBLAS"), "abs_path", None) or ""
    version = re.search(r"cublas(?:64_|\.so\.)(\d+)", path.lower())
    cuda = int(version[1]) if version else facts.built
    expected = f"cuBLAS of CUDA {facts.built}, not {path}"
    with_torch = f"with PyTorch {PYTORCH.get(cuda)}, which brings CUDA {cuda}, take cuda{cuda}"
    without_torch = "install xpcap where no PyTorch is: python -m venv .venv"
    yield cuda != facts.built and cuda in usable, expected, f"{with_torch}: {facts.instead(cuda)}"
    yield cuda != facts.built, expected, f"the driver or GPU is too old for it; {without_torch}"
    if type(facts.error).__name__ == "CUDARuntimeError":
        status: Any = getattr(facts.error, "status", None)
        yield status in STATUSES, *STATUSES.get(status, ("", ""))


def cause_of(
    error: Exception | None,
    cupy: ModuleType | None = None,
    properties: Mapping[str, Any] | None = None,
) -> Cause:
    """The likely cause of an error of CuPy's import, or of a device; `properties` if it is visible."""
    runtime = cupy and cupy.cuda.runtime
    names = packages()
    facts = Facts(
        error,
        names,
        cupy.__version__ if cupy else "",
        rocm=runtime.is_hip if runtime else any("rocm" in name or "amd" in name for name in names),
        built=runtime.runtimeGetVersion() // 1000 if runtime else 0,
        driver=runtime.driverGetVersion() // 1000 if runtime else 0,
        capability=(properties["major"], properties["minor"]) if properties else None,
        parts=parts_of_cuda() if properties else {},
        conda=Path(sys.prefix, "conda-meta").is_dir(),
        jetson="tegra" in platform.release(),
        wsl="microsoft" in platform.release().lower(),
    )
    return cause_by(facts)


def cause_by(facts: Facts) -> Cause:
    """The likely cause, given the facts of a machine."""
    return next((Cause(*texts) for observed, *texts in rows(facts) if observed), Cause())


def is_supported(version: str) -> bool:
    """True for a version of CuPy in `RANGE`."""
    numbers = tuple(map(int, re.findall(r"\d+", version)[:3]))
    return (13, 6) <= numbers < (14,) or (14, 1, 1) <= numbers < (15,)


def unsuited(cupy: ModuleType) -> str:
    """The reason why this CuPy can use no device; "" if it can."""
    if cupy.cuda.runtime.is_hip:
        return f"{cupy_packages()} computes on AMD's GPUs, by ROCm"
    return "" if is_supported(cupy.__version__) else f"{cupy_packages()} is CuPy {cupy.__version__}"


def version(number: int) -> str:
    """CUDA's version number as text: 13020 is 13.2."""
    return f"{number // 1000}.{number % 1000 // 10}"


def versions(cupy: ModuleType) -> str:
    """The CUDA that this CuPy was built for, and the CUDA that the driver supports."""
    runtime = cupy.cuda.runtime
    driver = runtime.driverGetVersion()
    supports = f"a driver for CUDA {version(driver)}" if driver else "no NVIDIA driver"
    return f"CUDA {version(runtime.runtimeGetVersion())}, {supports}"


@functools.cache  # it reads the metadata of every installed package
def packages() -> list[str]:
    """The installed packages that bring CuPy."""
    names = importlib.metadata.packages_distributions().get("cupy", [])
    return sorted({name for name in names if name})


def cupy_packages() -> str:
    """The installed packages that bring CuPy, as text."""
    return " and ".join(packages()) or "CuPy"


def nccl_package(cupy: ModuleType) -> str:
    """The package with the NCCL that this CuPy loads."""
    return f"nvidia-nccl-cu{cupy.cuda.runtime.runtimeGetVersion() // 1000}"


def parts_of_cuda() -> dict[str, Any]:
    """Parts of CUDA that CuPy finds in packages, the system or CUDA_PATH.

    A missing part is None; one that cannot be loaded is the error.
    """
    try:
        from cuda import pathfinder
    except ImportError:  # an older CuPy searches itself
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
        except (OSError, RuntimeError) as error:  # a file is damaged, or a dependency missing
            parts[title] = error
    return parts
