"""What an unusable device says: driver, CUDA, what was expected, and what to install."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from commands import good
from emulated import install_or_skip
from emulated.cuda import get_device_properties
from refusals import refuses

import xpcap
from xpcap.device import causes, probe
from xpcap.distributed.mpi import NCCL, Staged
from xpcap.errors import BackendError

INSUFFICIENT, NO_DEVICE = 35, 100


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The runtime of an emulated device; of a CuPy for CUDA 13.0, and a driver for it."""
    install_or_skip(monkeypatch)
    probe.cupy_status.cache_clear()
    return sys.modules["cupy"].cuda.runtime


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
                "came": ("InsufficientDriver", "CuPy for CUDA 13.2, no NVIDIA driver"),
                "expected": "NVIDIA's driver",
                "cause": ("install it", "`backend` numpy runs on the CPU"),
            },
        ),
        (
            13020,
            12040,
            INSUFFICIENT,
            {
                "came": "CuPy for CUDA 13.2, a driver for CUDA 12.4",
                "expected": "a driver for CUDA 13, 580 or newer",
                "cause": ("update the driver", "cupy-cuda13x", "pip install '.[cuda12]'"),
            },
        ),
        (
            12090,
            11040,
            INSUFFICIENT,
            {"expected": "12, 525 or newer", "cause": "update the driver; "},
        ),
        (13020, 13000, NO_DEVICE, {"expected": "a visible device", "cause": "CUDA_VISIBLE"}),
        (13020, 13000, 999, {"came": "unknown error", "cause": "'info' shows what is usable"}),
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
    monkeypatch.setattr(runtime, "runtimeGetVersion", lambda: built)
    monkeypatch.setattr(runtime, "driverGetVersion", lambda: driver)
    fail_with(runtime, status, monkeypatch)
    with refuses(BackendError, function="use_backend", thing="backend cupy", **fields):
        xpcap.use_backend("cupy")


def pathfinder_without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """A search for the parts of CUDA that does not find these."""

    class DynamicLibNotFoundError(RuntimeError):
        pass

    def load(name: str) -> None:
        if name in names:
            raise DynamicLibNotFoundError(name)

    found = ModuleType("cuda.pathfinder")
    vars(found).update(
        DynamicLibNotFoundError=DynamicLibNotFoundError,
        load_nvidia_dynamic_lib=load,
        find_nvidia_header_directory=lambda name: None if name in names else "include",
    )
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace(pathfinder=found))
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", found)


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
    pathfinder_without(monkeypatch, *lacks)
    monkeypatch.setattr(probe, "prove", lambda *_: (_ for _ in ()).throw(ImportError("no lib")))
    status = xpcap.backend_status()["cupy"]
    assert status.expected == expected
    assert status.cause == "pip install '.[cuda13]' installs what CuPy needs of CUDA"
    assert f"expected {expected}; {status.cause}" in good("info").output


def test_parts_of_cuda_are_searched_as_cupy_searches_them() -> None:
    """By the real search: what is here, it finds; what is not, it names."""
    pathfinder = pytest.importorskip("cuda.pathfinder")
    lacks = causes.missing()
    assert {*lacks} <= {"the compiler NVRTC", "cuBLAS", "the headers of CUDA"}
    for name, title in (("nvrtc", "the compiler NVRTC"), ("cublas", "cuBLAS")):
        if title not in lacks:
            assert pathfinder.load_nvidia_dynamic_lib(name).abs_path


def test_a_card_that_cuda_13_gave_up_is_sent_to_cuda_12(
    runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    v100 = {**get_device_properties(0), "major": 7, "minor": 0}
    monkeypatch.setattr(runtime, "getDeviceProperties", lambda i: v100)
    monkeypatch.setattr(probe, "prove", lambda *_: (_ for _ in ()).throw(RuntimeError("sm_70")))
    cause = "the card is older.*pip uninstall cupy-cuda13x, pip install '.\\[cuda12\\]'"
    with refuses(BackendError, expected="compute capability 7.5 for CUDA 13"):
        xpcap.use_backend("cupy")
    with pytest.raises(BackendError, match=cause):
        xpcap.use_backend("cupy")


def test_a_device_that_works_is_shown_with_driver_and_cuda(runtime: Any) -> None:
    assert xpcap.backend_status()["cupy"].why == ""
    assert "\nCuPy for CUDA 13.0, a driver for CUDA 13.0\n" in good("info").output


def test_nccl_is_named_by_cupys_cuda_where_ranks_do_without(
    runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = {"ranks": 2, "machines": 1, "threads": 1, "mpi": "MPICH", "gpu_sums": Staged.name}
    monkeypatch.setattr("xpcap.cli.info._ranks", lambda group: ranks)
    monkeypatch.setattr(runtime, "runtimeGetVersion", lambda: 12090)
    assert "memory; pip install nvidia-nccl-cu12 installs NCCL\n" in good("info").output
    ranks["gpu_sums"] = NCCL.name
    assert "nvidia-nccl" not in good("info").output
