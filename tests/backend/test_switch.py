"""The backend switch: choosing, refusing, restoring, and conversions. CuPy's part runs on the
emulated device.
"""

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from commands import answer, good
from emulated import MISSING, install_or_skip, real
from programs import program
from refusals import Refusal, refusals, refuses

import xpcap
from xpcap import layers
from xpcap.backend import probe, switch
from xpcap.errors import BackendError
from xpcap.ops import DeviceOps, has_kernels
from xpcap.ops.device import Equations


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No choice made, nothing probed, before and after."""
    # private: nothing public takes a choice back, and each test begins as a process does
    monkeypatch.setattr(switch, "_active", None)
    monkeypatch.delenv("XPCAP_BACKEND", raising=False)
    probe.cupy_status.cache_clear()
    yield
    probe.cupy_status.cache_clear()


def counted(monkeypatch: pytest.MonkeyPatch, count: int | Exception) -> None:
    """A machine of so many devices, or one whose driver raises that when they are counted."""
    install_or_skip(monkeypatch, devices=count if isinstance(count, int) else 1)
    if isinstance(count, Exception):
        runtime = sys.modules["cupy"].cuda.runtime
        monkeypatch.setattr(runtime, "getDeviceCount", Mock(side_effect=count))
        probe.cupy_status.cache_clear()


DRIVER = RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")


def test_importing_xpcap_does_not_import_cupy() -> None:
    program("import sys, xpcap, xpcap.cli; sys.exit('cupy' in sys.modules)")


def test_numpy_is_the_default_the_variable_comes_before_it_and_a_call_before_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XPCAP_BACKEND", "cupi")
    with refuses(ValueError, "XPCAP_BACKEND=cupi", "did you mean 'cupy'"):
        xpcap.get_backend()
    xpcap.use_backend("numpy")
    assert xpcap.get_backend() == "numpy"
    for variable in ("", "cupy:1"):
        if variable:
            install_or_skip(monkeypatch, devices=2)
        monkeypatch.setattr(switch, "_active", None)
        monkeypatch.setenv("XPCAP_BACKEND", variable)
        assert xpcap.get_backend() == (variable or "numpy")


def test_use_backend_works_as_a_call_and_as_a_context_manager(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = install_or_skip(monkeypatch, devices=2)
    xpcap.use_backend("cupy")
    with xpcap.use_backend("cupy:1"):
        assert xpcap.get_backend() == "cupy:1"
        with xpcap.use_backend("numpy"):
            assert xpcap.get_backend() == "numpy"
            assert device.current == 1  # NumPy needs no device, and changes none
        assert xpcap.get_backend() == "cupy:1"
    assert xpcap.get_backend() == "cupy"
    assert device.current == 0  # device 1 does not stay the current one
    later = xpcap.use_backend("numpy")
    assert xpcap.get_backend() == "numpy"
    xpcap.use_backend("cupy:1")
    for _ in range(2):
        with later:
            assert xpcap.get_backend() == "numpy"
        assert (xpcap.get_backend(), device.current) == ("cupy:1", 1)


@refusals(
    """
    DRIVER, "cupy" | BackendError | backend cupy | no usable CUDA device | InsufficientDriver
    0, "cupy" | BackendError | no CUDA device is visible
    2, "cupy:2" | BackendError | backend cupy:2 | 2 CUDA device(s), numbered from 0
    2, "numpy:1" | OptionError | 'numpy:1' | cupy:N
    2, "cupy:²" | OptionError | 'cupy:²' | cupy:N
    2, "cupy:" | OptionError | 'cupy:' | cupy:N
    2, "cupi" | OptionError | 'cupi' | numpy, cupy, auto | did you mean 'cupy'
    """
)
def test_what_cannot_be_had_is_refused_with_the_reason(
    refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = xpcap.get_backend()
    use = "count, spec = {}; counted(monkeypatch, count); xpcap.use_backend(spec)"
    refusal.check(globals() | locals(), use)
    assert xpcap.get_backend() == before


def test_auto_says_what_it_chose(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for count, said in (
        (1, "auto chose cupy (emulated)"),
        (0, "auto chose numpy (no usable CUDA device"),
    ):
        counted(monkeypatch, count)
        xpcap.use_backend("auto")
        assert xpcap.get_backend() == ("cupy" if count else "numpy")
        assert said in capsys.readouterr().err


def no_cupy(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(sys.modules, "cupy", None)  # importing it raises


def wrong_products(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sys.modules["cupy"], "matmul", lambda a, b: sys.modules["cupy"].zeros((8, 8)))


def no_launches(patch: pytest.MonkeyPatch) -> None:
    """Of the driver, through which training launches."""
    patch.setattr(sys.modules["cupy"].cuda.driver, "launchKernel", lambda *args: None)


def no_library(patch: pytest.MonkeyPatch) -> None:
    missing = OSError("libcublas.so.12: cannot open shared object file")
    patch.setattr(sys.modules["cupy"], "matmul", Mock(side_effect=missing))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (no_cupy, "cannot be imported"),
        (wrong_products, "a test computation on the device gave a wrong result"),
        (no_launches, "a test computation on the device gave a wrong result"),
        (no_library, "libcublas.so.12"),
    ],
)
def test_emulated_device_that_does_not_work_is_a_reason_not_a_crash(
    fault: Callable[[pytest.MonkeyPatch], None], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault is not no_cupy:
        install_or_skip(monkeypatch)
    fault(monkeypatch)
    probe.cupy_status.cache_clear()
    status = xpcap.backend_status()
    assert status["numpy"].usable
    assert not status["cupy"].usable
    assert reason in status["cupy"].reason
    assert "CUPY_CACHE_DIR" not in status["cupy"].why


def test_info_lists_what_has_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [
        f"steps of cell {name}" for name, cell in layers.CELLS.items() if not has_kernels(cell)
    ]
    assert answer("info")["without_kernels"] == cells
    assert "CUDA kernels" not in good("info").output  # nor is there a GPU
    found = xpcap.backend_status()
    usable = {**found, "cupy": found["cupy"]._replace(usable=True)}
    monkeypatch.setattr("xpcap.cli.info.backend_status", lambda: usable)
    monkeypatch.setattr(DeviceOps, "add_rows", Equations.add_rows)
    assert answer("info")["without_kernels"] == ["add_rows", *cells]
    assert f"computed by CuPy: {', '.join(('add_rows', *cells))}" in good("info").output


def test_emulated_other_devices_are_counted_and_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Device 0 gives no context, as when another process has it to itself: the second one computes
    all the same, and nothing stays on the first.
    """
    device = install_or_skip(monkeypatch, devices=2, busy=(0,))
    status = xpcap.backend_status()["cupy"]
    assert (status.usable, status.devices) == (False, ("emulated", "emulated"))
    unusable = "CUDA device 0 of 2 is not usable (CUDARuntimeError: cudaErrorDevicesUnavailable"
    assert unusable in status.reason
    assert "cupy:N asks for another" in good("info").output
    with xpcap.use_backend("cupy:1"):
        x = xpcap.asarray(np.ones(3))
        with xpcap.use_backend("numpy"):
            assert isinstance(xpcap.asarray([1.0]), np.ndarray)
        assert (x.device.id, float((x + 1).sum())) == (1, 6.0)
    assert device.contexts == {1}
    with refuses(BackendError, "backend cupy", "cannot be used: CUDA device 0 of 2"):
        xpcap.use_backend("cupy")
    assert device.current == 1
    device = install_or_skip(monkeypatch, devices=2)  # both usable: a status leaves one current
    xpcap.use_backend("cupy:1")
    probe.cupy_status.cache_clear()
    assert xpcap.backend_status()["cupy"].usable
    assert device.current == 1


def test_emulated_first_use_says_that_kernels_are_compiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once where CuPy's cache is empty or lacks a kernel of the probe, and not at all where nothing
    is compiled.
    """
    install_or_skip(monkeypatch)
    import cupy

    plain, folder = cupy.RawModule, tmp_path / "cache"
    monkeypatch.setenv("CUPY_CACHE_DIR", str(folder))

    class Compiling(plain):  # type: ignore[misc, valid-type]
        def get_function(self, name: str) -> Any:
            folder.mkdir(exist_ok=True)
            (folder / f"{hashlib.sha1(self.code.encode()).hexdigest()}.cubin").touch()
            return super().get_function(name)

    def announced() -> bool:
        probe.cupy_status.cache_clear()
        assert xpcap.backend_status()["cupy"].usable
        return "xpcap: compiling CUDA kernels for emulated; CuPy keeps" in capsys.readouterr().err

    assert announced()  # no folder yet
    monkeypatch.setattr(cupy, "RawModule", Compiling)
    assert [announced(), announced()] == [True, False]  # still nothing in it; then all
    monkeypatch.setattr(xpcap, "__version__", "another")
    assert [announced(), announced()] == [True, False]


def test_a_cache_of_kernels_that_cannot_be_made_is_named_with_its_remedy() -> None:
    if not real.is_installed():
        pytest.skip(MISSING)
    code = "from xpcap import backend_status; print(backend_status()['cupy'].why)"
    done = program(code, flags=(), CUPY_CACHE_DIR=f"{os.devnull}/cache")
    assert done.stdout.startswith("cupy cannot be imported (")
    assert "set CUPY_CACHE_DIR to one you may write to" in done.stdout


def test_asarray_keeps_what_fits_and_a_mixture_of_libraries_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = np.arange(3)
    assert xpcap.asarray(x) is xpcap.to_numpy(x) is x
    assert xpcap.asarray([1, 2], dtype="float32").dtype == np.float32
    assert xpcap.get_array_module(x, 3.0) is np
    install_or_skip(monkeypatch)
    device = sys.modules["cupy"].zeros((1, 3))
    with refuses(TypeError, "are of numpy and cupy"):
        xpcap.get_array_module(np.zeros(1), device)
    arrays = (np.zeros((1, 2)), device, np.zeros((2, 3)), np.zeros((3, 3)), np.zeros(3))
    with refuses(TypeError, "prev_h", "is a cupy array"):
        layers.rnn_step_forward(*arrays)


@pytest.mark.gpu
def test_arrays_travel_both_ways_and_mixtures_are_refused() -> None:
    import cupy

    with xpcap.use_backend("cupy"):
        x = xpcap.asarray(np.arange(3.0))
        assert isinstance(x, cupy.ndarray)
        assert xpcap.get_array_module(x) is cupy
        np.testing.assert_array_equal(xpcap.to_numpy(x), [0, 1, 2])
        assert isinstance(xpcap.asarray(x, like=np.zeros(1)), np.ndarray)
        with refuses(TypeError, "numpy and cupy"):
            xpcap.get_array_module(x, np.zeros(1))
