"""What an unusable device says: driver, CUDA, what was expected, and what to install."""

import functools
import importlib.metadata
import inspect
import json
import shutil
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from commands import good
from emulated import install_or_skip
from emulated.cuda import get_device_properties
from packaging.specifiers import SpecifierSet
from programs import ROOT, program
from refusals import refuses

import xpcap
from xpcap.backend import cuda_problems, probe
from xpcap.backend.cuda_problems import IN_WORDS, RANGE, Facts, cause_by, is_supported
from xpcap.distributed.mpi import NCCL, Staged
from xpcap.errors import BackendError, install

PIP = install("cuda13")
CONDA = f"conda install -c conda-forge 'cupy{RANGE}' cuda-version=13"
EITHER = "write 12 for 13 where nvidia-smi shows CUDA 12"
CUPY12, CUPY13 = ["cupy-cuda12x"], ["cupy-cuda13x"]
FROM_12 = f"pip uninstall -y cupy-cuda12x, then {PIP}"
FROM_13 = f"pip uninstall -y cupy-cuda13x, then {install('cuda12')}"
BOTH = "cupy-cuda12x and cupy-cuda13x overwrite each other: pip uninstall -y cupy-cuda12x cupy-cuda13x, then"
CU12, CU13 = "nvidia/cublas/lib/libcublas.so.12", "nvidia/cu13/lib/libcublas.so.13"
# A machine that does all; a row of the table has what differs
GOOD = Facts(packages=CUPY13, built=13, driver=13, capability=(9, 0))


def status(number: int) -> Exception:
    """An error of CUDA."""
    error = type("CUDARuntimeError", (RuntimeError,), {})()
    error.status = number
    return error


def cublas(path: str) -> dict[str, Any]:
    return {"cuBLAS": SimpleNamespace(abs_path=path)}


# Facts that differ, what is expected, and the cause
CAUSES = f"""
# no CuPy that can be imported
built=0, packages=[] | | {PIP} installs it for an NVIDIA GPU; {EITHER}
built=0, packages=[], conda=1 | | {CONDA} installs it for an NVIDIA GPU; {EITHER}
built=0, packages=CUPY12 | a CuPy that can be imported | cupy-cuda12x is damaged, or does not fit this
 NumPy: pip uninstall -y cupy-cuda12x, then {install("cuda12")}
built=0, packages=CUPY12 + CUPY13 | one CuPy | {BOTH} {PIP}; {EITHER}
rocm=True | CuPy for CUDA | xpcap needs CUDA, and thereby an NVIDIA GPU
error=OSError(13, "denied", "~/.cupy") | a folder for CuPy's compiled kernels | set CUPY_CACHE_DIR to one
 you may write to
version="14.0.1", packages=CUPY12, built=12 | CuPy 13.6, or 14.1.1 and newer, below 15 | pip uninstall -y
 cupy-cuda12x, then {install("cuda12")}
# driver and GPU
driver=0 | NVIDIA's driver | install it; nvidia-smi should then list the GPU
driver=0, wsl=True | NVIDIA's driver | install it on Windows, never inside WSL; nvidia-smi should then list
 the GPU
driver=12 | a driver for CUDA 13, 580 or newer | update the driver, or take CUDA 12: {FROM_13}
driver=11, wsl=True | a driver for CUDA 13, 580 or newer | update the driver on Windows, never inside WSL
# a V100, and a GPU for no CUDA of today
capability=(7, 0) | compute capability 7.5 for CUDA 13 | the GPU is older; take CUDA 12: {FROM_13}
capability=(3, 7) | compute capability 7.5 for CUDA 13 | the GPU is older
# the packages, and the commands of conda and Jetson
packages=CUPY12 + CUPY13 | one CuPy | {BOTH} {PIP}
packages=CUPY12 + CUPY13, driver=12, built=12 | one CuPy | {BOTH} {install("cuda12")}
packages=["cupy", *CUPY12], conda=True | one CuPy | cupy and cupy-cuda12x overwrite each other: pip
 uninstall -y cupy-cuda12x, then {CONDA} --force-reinstall
packages=["cupy"], built=12, driver=11, capability=None | a driver for CUDA 12, 525 or newer | update the driver
driver=12, jetson=True | a driver for CUDA 13, 580 or newer | update the driver, or take CUDA 12: pip
 uninstall -y cupy-cuda13x, then pip install 'cupy-cuda12x{RANGE}'
# the parts of CUDA
parts={{"the compiler NVRTC": None, "cuBLAS": None}} | the compiler NVRTC, cuBLAS | {PIP} installs what CuPy
 needs of CUDA
parts={{"cuBLAS": None}}, conda=True, packages=["cupy"] | cuBLAS | {CONDA} installs what CuPy needs of CUDA
parts={{"cuBLAS": None}}, jetson=True | cuBLAS | JetPack brings CUDA
parts={{"cuBLAS": RuntimeError("file too short")}} | cuBLAS that can be loaded | a file of CUDA is damaged or
 missing; {PIP} --force-reinstall brings it
packages=CUPY12, built=12, parts=cublas(CU13) | cuBLAS of CUDA 12, not {CU13} | with PyTorch 2.11 or
 newer, which brings CUDA 13, take cuda13: {FROM_12}
parts=cublas(CU12) | cuBLAS of CUDA 13, not {CU12} | with PyTorch before 2.11, which brings CUDA 12, take
 cuda12: {FROM_13}
packages=CUPY12, built=12, driver=12, parts=cublas("cublas64_13.DLL") | cuBLAS of CUDA 12, not
 cublas64_13.DLL | the driver or GPU is too old for it; install xpcap where no PyTorch is: python -m venv
 .venv
error=ImportError("libcublas.so.13: cannot open shared object file") | a CUDA toolkit for CuPy 13 | a newer
 one needs none: pip uninstall -y cupy-cuda13x, then {PIP}
# CUDA's status
error=status(999) | |
error=RuntimeError("anything") | |
"""
ROWS = [row for row in CAUSES.strip().replace("\n ", " ").splitlines() if row[0] != "#"]
ROWS += [
    f"error=status({number}), parts=cublas(CU13) | {expected} | {cause}"
    for number, (expected, cause) in cuda_problems.STATUSES.items()
]


@pytest.mark.parametrize("row", ROWS)
def test_what_is_observed_is_answered_with_what_is_expected_and_a_remedy(row: str) -> None:
    differs, expected, cause = (cell.strip() for cell in row.split("|"))
    assert cause_by(GOOD._replace(**eval(f"dict({differs})"))) == (expected, cause)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The runtime of an emulated device; of cupy-cuda13x, for CUDA 13.0, and a driver for it."""
    install_or_skip(monkeypatch)
    installed(monkeypatch, "cupy-cuda13x")
    probe.cupy_status.cache_clear()
    return sys.modules["cupy"].cuda.runtime


def installed(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """A machine with these packages of CuPy."""
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: {"cupy": packages})
    monkeypatch.setattr(
        cuda_problems, "packages", functools.cache(inspect.unwrap(cuda_problems.packages))
    )


def built_for(built: int, driver: int, runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "runtimeGetVersion", lambda: built)
    monkeypatch.setattr(runtime, "driverGetVersion", lambda: driver)


def test_what_is_known_of_a_machine_is_asked_of_its_runtime_gpu_and_packages(
    runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the refusal: the error, packages, both versions of CUDA, and the cause."""
    built_for(13020, 12040, runtime, monkeypatch)

    def fail() -> int:
        raise runtime.CUDARuntimeError(35)

    monkeypatch.setattr(runtime, "getDeviceCount", fail)
    with refuses(
        BackendError,
        "backend cupy",
        "InsufficientDriver",
        "cupy-cuda13x for CUDA 13.2, a driver for CUDA 12.4",
        "a driver for CUDA 13",
        FROM_13,
        "`backend` numpy runs on the CPU",
    ):
        xpcap.use_backend("cupy")


def test_a_part_that_does_not_load_is_a_reason_not_a_crash(
    runtime: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = RuntimeError("Failed to dlopen libcublas.so.13: file too short")

    def prove(cupy: ModuleType, device_name: str, plain: bool) -> None:
        raise damaged

    monkeypatch.setattr(probe, "prove", prove)
    monkeypatch.setattr(cuda_problems, "parts_of_cuda", lambda: {"cuBLAS": damaged})
    built_for(13000, 13000, runtime, monkeypatch)
    with xpcap.use_backend("auto"):
        assert xpcap.get_backend() == "numpy"
    text = capsys.readouterr().err
    assert "auto chose numpy" in text
    assert "file too short; cupy-cuda13x for CUDA 13.0" in text
    assert (
        f"expected cuBLAS that can be loaded; a file of CUDA is damaged or missing; {PIP}" in text
    )


def test_the_gpu_that_is_asked_for_is_the_one_that_counts(
    runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = {**get_device_properties(0), "major": 7, "minor": 0}
    built_for(13000, 13000, runtime, monkeypatch)
    cause = cuda_problems.cause_of(RuntimeError("sm_70"), sys.modules["cupy"], properties)
    assert cause.expected == "compute capability 7.5 for CUDA 13"


SEARCH = """
import json, site, sys
site.getsitepackages = lambda: [sys.argv[1]]
from xpcap.backend.cuda_problems import parts_of_cuda
parts = parts_of_cuda()
part = parts["cuBLAS"]
print(json.dumps([list(parts), getattr(part, "abs_path", None) or f"{type(part).__name__}: {part}"]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the libraries are named as on Linux")
def test_parts_of_cuda_are_searched_as_cupy_searches_them_the_newest_cuda_first(
    tmp_path: Path,
) -> None:
    pytest.importorskip("cuda.pathfinder")
    for version, folder in ((12, "nvidia/cublas/lib"), (13, "nvidia/cu13/lib")):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("cublas", "cublasLt"):
            shutil.copy(
                np.random.bit_generator.__file__, tmp_path / folder / f"lib{name}.so.{version}"
            )
    titles = ["the compiler NVRTC", "cuBLAS", "the headers of CUDA"]
    found = json.loads(program(SEARCH, tmp_path, flags=()).stdout)
    assert found == [titles, str(tmp_path / CU13)]
    (tmp_path / CU13).write_text("cut short")
    _, found = json.loads(program(SEARCH, tmp_path, flags=()).stdout)
    assert found.startswith("RuntimeError")
    assert CU13 in found


def test_a_cupy_that_cannot_be_imported_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """CuPy wraps the error of an extension into a page of advice, whose first line is a rule."""
    installed(monkeypatch, "cupy-cuda12x")
    (tmp_path / "cupy.py").write_text(
        "try:\n    raise ImportError('libcuda.so.1 is missing')\n"
        "except ImportError as error:\n    raise ImportError('====\\nFailed\\n====') from error\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    state = inspect.unwrap(probe.cupy_status)(0, False)
    assert state.reason == "cupy cannot be imported (ImportError: libcuda.so.1 is missing)"
    assert state.expected == "a CuPy that can be imported"


def test_a_cupy_for_rocm_is_told_that_cuda_is_needed(
    runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, "cupy-rocm-7-0")
    monkeypatch.setattr(runtime, "is_hip", True)
    with refuses(
        BackendError, "cupy-rocm-7-0 computes on AMD's GPUs", "CuPy for CUDA", "xpcap needs CUDA"
    ):
        xpcap.use_backend("cupy")


def test_a_cupy_out_of_range_is_refused_by_name(
    runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["cupy"], "__version__", "15.0.0rc1")
    with refuses(BackendError, "cupy-cuda13x is CuPy 15.0.0rc1", IN_WORDS):
        xpcap.use_backend("cupy")


def test_the_range_of_cupy_is_one_in_code_and_packages() -> None:
    versions = "12.3.0 13.5.1 13.6.0 13.6.1 14.0.0 14.0.1 14.1.0 14.1.1 14.2.0 15.0.0 15.0.0rc1"
    for version in versions.split():
        assert is_supported(version) == SpecifierSet(RANGE).contains(version, prereleases=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for extra, name in (("cuda12", "cuda12x"), ("cuda13", "cuda13x"), ("kernels", "cuda13x")):
        assert extras[extra][0].partition(";")[0] == f"cupy-{name}{RANGE}"


def test_a_device_that_works_is_shown_with_driver_and_cuda(runtime: Any) -> None:
    assert xpcap.backend_status()["cupy"].why == ""
    assert "\ncupy-cuda13x for CUDA 13.0, a driver for CUDA 13.0\n" in good("info").output


def test_nccl_is_named_by_cupys_cuda_where_ranks_do_without(
    runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = {"ranks": 2, "machines": 1, "threads": 1, "mpi": "MPICH", "gpu_sums": Staged.name}
    monkeypatch.setattr("xpcap.cli.info._ranks", lambda group: ranks)
    monkeypatch.setattr(runtime, "runtimeGetVersion", lambda: 12090)
    assert "memory; pip install nvidia-nccl-cu12 installs NCCL\n" in good("info").output
    ranks["gpu_sums"] = NCCL.name
    assert "nvidia-nccl" not in good("info").output
