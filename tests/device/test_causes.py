"""What an unusable device says: driver, CUDA, what was expected, and what to install."""

import functools
import importlib.metadata
import inspect
import json
import platform
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from commands import good
from emulated import install_or_skip
from emulated.cuda import get_device_properties
from programs import program
from refusals import refuses

import xpcap
from xpcap.device import causes, probe
from xpcap.distributed.mpi import NCCL, Staged
from xpcap.errors import BackendError

INSUFFICIENT, NO_DEVICE = 35, 100


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The runtime of an emulated device; of cupy-cuda13x, for CUDA 13.0, and a driver for it."""
    install_or_skip(monkeypatch)
    installed(monkeypatch, "cupy-cuda13x")
    probe.cupy_status.cache_clear()
    return sys.modules["cupy"].cuda.runtime


def installed(monkeypatch: pytest.MonkeyPatch, *packages: str, conda: Path | None = None) -> None:
    """A machine with these packages of CuPy, in a virtual environment or one of conda."""
    found = {"cupy": [*packages]} if packages else {}
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: found)
    monkeypatch.setattr(causes, "packages", functools.cache(inspect.unwrap(causes.packages)))
    if conda:
        (conda / "conda-meta").mkdir(exist_ok=True)
        monkeypatch.setattr(sys, "prefix", str(conda))


def fails_to_compute(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def prove(cupy: ModuleType, card: str, plain: bool) -> None:
        raise error

    monkeypatch.setattr(probe, "prove", prove)


def built_for(
    built: int, driver: int, runtime: Any, monkeypatch: pytest.MonkeyPatch, **card: int
) -> None:
    """A CuPy for one CUDA and a driver for another; `card` has what its properties differ in."""
    monkeypatch.setattr(runtime, "runtimeGetVersion", lambda: built)
    monkeypatch.setattr(runtime, "driverGetVersion", lambda: driver)
    properties = {**get_device_properties(0), **card}
    monkeypatch.setattr(runtime, "getDeviceProperties", lambda i: properties)


def fail_with(runtime: Any, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise runtime.CUDARuntimeError(status)

    monkeypatch.setattr(runtime, "getDeviceCount", fail)


@pytest.mark.parametrize(
    ("built", "driver", "status", "fields"),
    [
        (
            13020,
            0,
            INSUFFICIENT,
            {
                "got": ("InsufficientDriver", "cupy-cuda13x for CUDA 13.2, no NVIDIA driver"),
                "expected": "NVIDIA's driver",
                "cause": ("install it", "`backend` numpy runs on the CPU"),
            },
        ),
        (
            13020,
            12040,
            INSUFFICIENT,
            {
                "got": "cupy-cuda13x for CUDA 13.2, a driver for CUDA 12.4",
                "expected": "a driver for CUDA 13, 580 or newer",
                "cause": (
                    "update the driver, or take CUDA 12: pip uninstall -y cupy-cuda13x, then pip"
                    " install '.[cuda12]'"
                ),
            },
        ),
        (
            12090,
            11040,
            INSUFFICIENT,
            {"expected": "12, 525 or newer", "cause": "update the driver; "},
        ),
        (13020, 13000, NO_DEVICE, {"expected": "a visible device", "cause": "CUDA_VISIBLE"}),
        (13020, 13000, 999, {"got": "unknown error", "cause": "'info' shows what is usable"}),
    ],
)
def test_a_driver_that_does_not_do_is_named_with_its_remedy(
    built: int,
    driver: int,
    status: int,
    fields: dict[str, Any],
    runtime: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built_for(built, driver, runtime, monkeypatch)
    fail_with(runtime, status, monkeypatch)
    with refuses(BackendError, function="use_backend", thing="backend cupy", **fields):
        xpcap.use_backend("cupy")


def pathfinder_that_finds(monkeypatch: pytest.MonkeyPatch, **found: Any) -> None:
    """A search for the parts of CUDA: the path of each, None, or an error of its own."""
    by_name = {"nvrtc": "libnvrtc.so.13", "cublas": "libcublas.so.13", "cudart": "include", **found}

    class DynamicLibNotFoundError(RuntimeError):
        pass

    def load(name: str) -> Any:
        path = by_name[name]
        if isinstance(path, Exception):
            raise path
        if path is None:
            raise DynamicLibNotFoundError(name)
        return SimpleNamespace(abs_path=path)

    module = ModuleType("cuda.pathfinder")
    vars(module).update(
        DynamicLibNotFoundError=DynamicLibNotFoundError,
        load_nvidia_dynamic_lib=load,
        find_nvidia_header_directory=by_name.get,
    )
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace(pathfinder=module))
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", module)


@pytest.mark.parametrize(
    ("lacks", "expected"),
    [
        (["cublas"], "cuBLAS"),
        (["nvrtc", "cublas", "cudart"], "the compiler NVRTC, cuBLAS and the headers of CUDA"),
    ],
)
def test_what_a_machine_lacks_of_cuda_is_named_with_the_extra_that_brings_it(
    lacks: list[str], expected: str, runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pathfinder_that_finds(monkeypatch, **dict.fromkeys(lacks))
    fails_to_compute(ImportError("no lib"), monkeypatch)
    status = xpcap.backend_status()["cupy"]
    assert status.expected == expected
    assert status.cause == "pip install '.[cuda13]' installs what CuPy needs of CUDA"
    assert f"expected {expected}; {status.cause}" in good("info").output


CU12, CU13 = "nvidia/cublas/lib/libcublas.so.12", "nvidia/cu13/lib/libcublas.so.13"


@pytest.mark.parametrize(
    ("built", "driver", "found", "cause"),
    [
        (
            12090,
            13000,
            CU13,
            "beside PyTorch 2.11 or newer, which brings CUDA 13, take cuda13: pip uninstall -y"
            " cupy-cuda12x, then pip install '.[cuda13]'",
        ),
        (
            13000,
            13000,
            CU12,
            "beside PyTorch before 2.11, which brings CUDA 12, take cuda12: pip uninstall -y"
            " cupy-cuda13x, then pip install '.[cuda12]'",
        ),
        (
            12090,
            12080,
            CU13,
            "driver or card are too old for it; install xpcap where no PyTorch is: python",
        ),
    ],
)
def test_cublas_of_another_cuda_that_is_found_first_is_named_with_its_remedy(
    built: int,
    driver: int,
    found: str,
    cause: str,
    runtime: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As beside PyTorch: cuda-pathfinder takes the newest CUDA, CuPy's extension needs its own."""
    cuda = built // 1000
    built_for(built, driver, runtime, monkeypatch)
    installed(monkeypatch, f"cupy-cuda{cuda}x")
    pathfinder_that_finds(monkeypatch, cublas=found)
    missing = f"libcublas.so.{cuda}: cannot open shared object file"
    fails_to_compute(ImportError(missing), monkeypatch)
    with refuses(
        BackendError,
        got=(missing, f"cupy-cuda{cuda}x for CUDA {cuda}"),
        expected=f"cuBLAS of CUDA {cuda}, not {found}",
        cause=cause,
    ):
        xpcap.use_backend("cupy")


def test_a_library_that_is_there_but_does_not_load_is_a_reason_not_a_crash(
    runtime: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = RuntimeError("Failed to dlopen libcublas.so.13: file too short")
    pathfinder_that_finds(monkeypatch, cublas=damaged)
    fails_to_compute(damaged, monkeypatch)
    remedy = "pip install '.[cuda13]' --force-reinstall"
    with xpcap.use_backend("auto"):
        assert xpcap.get_backend() == "numpy"
    said = capsys.readouterr().err
    assert "auto chose numpy" in said
    assert "file too short" in said
    assert remedy in said
    with refuses(
        BackendError,
        got="file too short",
        expected="cuBLAS that can be loaded",
        cause=f"a file of CUDA is damaged or missing; {remedy}",
    ):
        xpcap.use_backend("cupy")


SEARCH = """
import json, site, sys
site.getsitepackages = lambda: [sys.argv[1]]
from xpcap.device.causes import parts_of_cuda
part = parts_of_cuda()["cuBLAS"]
if isinstance(part, Exception):
    print(json.dumps([type(part).__name__, str(part)]))
else:
    print(json.dumps(part.abs_path))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the libraries are named as on Linux")
def test_the_real_search_takes_the_newest_cuda(
    tmp_path: Path,
) -> None:
    pytest.importorskip("cuda.pathfinder")
    for version, folder in ((12, "nvidia/cublas/lib"), (13, "nvidia/cu13/lib")):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("cublas", "cublasLt"):
            shutil.copy(
                np.random.bit_generator.__file__, tmp_path / folder / f"lib{name}.so.{version}"
            )
    found = json.loads(program(SEARCH, tmp_path, flags=()).stdout)
    assert found == str(tmp_path / CU13)
    (tmp_path / CU13).write_text("cut short")
    kind, said = json.loads(program(SEARCH, tmp_path, flags=()).stdout)
    assert (kind, CU13 in said) == ("RuntimeError", True)


def test_parts_of_cuda_are_searched_as_cupy_searches_them() -> None:
    """By the real search: what is here, it finds; what is not, it names."""
    pathfinder = pytest.importorskip("cuda.pathfinder")
    parts = causes.parts_of_cuda()
    assert [*parts] == ["the compiler NVRTC", "cuBLAS", "the headers of CUDA"]
    for name, title in (("nvrtc", "the compiler NVRTC"), ("cublas", "cuBLAS")):
        if parts[title] is not None:
            assert parts[title] is pathfinder.load_nvidia_dynamic_lib(name)


def test_a_card_that_cuda_13_gave_up_is_sent_to_cuda_12(
    runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_for(13000, 13000, runtime, monkeypatch, major=7, minor=0)  # a V100
    fails_to_compute(RuntimeError("sm_70"), monkeypatch)
    with refuses(
        BackendError,
        expected="compute capability 7.5 for CUDA 13",
        cause=(
            "the card is older; take CUDA 12: pip uninstall -y cupy-cuda13x, then pip install"
            " '.[cuda12]'"
        ),
    ):
        xpcap.use_backend("cupy")


@pytest.mark.parametrize(
    ("driver", "remedy"),
    [(0, "install it on Windows, never"), (12040, "update the driver on Windows, never")],
)
def test_in_wsl_the_driver_is_windows_matter(
    driver: int, remedy: str, runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "release", lambda: "6.6.87.2-microsoft-standard-WSL2")
    built_for(13000, driver, runtime, monkeypatch)
    fail_with(runtime, INSUFFICIENT, monkeypatch)
    with refuses(BackendError, cause=f"{remedy} inside WSL"):
        xpcap.use_backend("cupy")


PIP = "pip install '.[cuda13]'"
CONDA = "conda install -c conda-forge cupy cuda-version=13"


@pytest.mark.parametrize(
    ("packages", "conda", "kernel", "commands"),
    [
        ([], False, "6.12.0", PIP),
        (["cupy-cuda12x"], False, "6.12.0", f"pip uninstall -y cupy-cuda12x, then {PIP}"),
        (["cupy-cuda12x"], True, "6.12.0", f"pip uninstall -y cupy-cuda12x, then {PIP}"),
        ([], True, "6.12.0", CONDA),
        (["cupy"], True, "6.12.0", CONDA),
        (["cupy"], False, "6.12.0", f"pip uninstall -y cupy, then {PIP}"),
        (
            ["cupy", "cupy-cuda12x"],
            True,
            "6.12.0",
            f"pip uninstall -y cupy-cuda12x, then {CONDA} --force-reinstall",
        ),
        ([], False, "5.15.148-tegra", "pip install . cupy-cuda13x"),
    ],
)
def test_commands_are_those_of_the_machine(
    packages: list[str],
    conda: bool,
    kernel: str,
    commands: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    installed(monkeypatch, *packages, conda=tmp_path if conda else None)
    monkeypatch.setattr(platform, "release", lambda: kernel)
    assert causes.commands_instead(13) == commands


EITHER = "write 12 for 13 where nvidia-smi shows CUDA 12"


@pytest.mark.parametrize(
    ("packages", "expected", "cause"),
    [
        ([], "", f"{PIP} installs it for an NVIDIA GPU; {EITHER}"),
        (
            ["cupy-cuda12x"],
            "a CuPy that can be imported",
            "cupy-cuda12x is damaged, or does not fit this NumPy: pip uninstall -y cupy-cuda12x,"
            " then pip install '.[cuda12]'",
        ),
        (
            ["cupy-cuda12x", "cupy-cuda13x"],
            "one CuPy",
            "cupy-cuda12x and cupy-cuda13x overwrite each other: pip uninstall -y cupy-cuda12x"
            f" cupy-cuda13x, then {PIP}; {EITHER}",
        ),
        (["cupy-rocm-7-0"], "CuPy for CUDA", "xpcap needs CUDA, and thereby an NVIDIA GPU"),
    ],
)
def test_a_cupy_that_cannot_be_imported_is_named_with_its_remedy(
    packages: list[str],
    expected: str,
    cause: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """CuPy wraps the error of an extension into a page of advice, whose first line is a rule."""
    installed(monkeypatch, *packages)
    (tmp_path / "cupy.py").write_text(
        "try:\n    raise ImportError('libcuda.so.1 is missing')\n"
        "except ImportError as error:\n    raise ImportError('====\\nFailed\\n====') from error\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    status = inspect.unwrap(probe.cupy_status)(0, False)
    assert status.reason == "cupy cannot be imported (ImportError: libcuda.so.1 is missing)"
    assert (status.expected, status.cause) == (expected, cause)


def test_two_cupys_that_fail_to_compute_are_named_with_the_one_for_the_driver(
    runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, "cupy-cuda12x", "cupy-cuda13x")
    built_for(12090, 12080, runtime, monkeypatch)
    fails_to_compute(RuntimeError("undefined symbol"), monkeypatch)
    with refuses(
        BackendError,
        got="cupy-cuda12x and cupy-cuda13x for CUDA 12.9",
        expected="one CuPy",
        cause="pip uninstall -y cupy-cuda12x cupy-cuda13x, then pip install '.[cuda12]'",
    ):
        xpcap.use_backend("cupy")


def test_a_cupy_for_rocm_is_told_that_cuda_is_needed(
    runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, "cupy-rocm-7-0")
    monkeypatch.setattr(runtime, "is_hip", True)
    with refuses(
        BackendError,
        got="cupy-rocm-7-0 computes on AMD's GPUs",
        expected="CuPy for CUDA",
        cause="xpcap needs CUDA",
    ):
        xpcap.use_backend("cupy")


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
