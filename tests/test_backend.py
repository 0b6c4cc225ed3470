"""The backend switch: choosing, refusing, restoring, and conversions. CuPy's part runs on the
emulated device.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from commands import good
from emulated import MISSING, install_or_skip, real
from programs import program
from refusals import Refusal, refusals, refuses

import xpcap
from xpcap import backend, layers
from xpcap.device import probe
from xpcap.errors import BackendError
from xpcap.ops import DeviceOps, has_kernels
from xpcap.ops.device import Equations


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No choice made, nothing probed, before and after."""
    # private: nothing public takes a choice back, and each test begins as a process does
    monkeypatch.setattr(backend, "_active", None)
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


@pytest.mark.parametrize(("variable", "chosen"), [("", "numpy"), ("cupy:1", "cupy:1")])
def test_numpy_is_the_default_and_the_variable_comes_before_it(
    variable: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_or_skip(monkeypatch, devices=2)
    monkeypatch.setenv("XPCAP_BACKEND", variable)
    assert xpcap.get_backend() == chosen


def test_a_variable_that_names_no_backend_is_refused_and_a_call_comes_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XPCAP_BACKEND", "cupi")
    with refuses(ValueError, thing="XPCAP_BACKEND=cupi", cause="did you mean 'cupy'"):
        xpcap.get_backend()
    xpcap.use_backend("numpy")  # a call comes before the variable
    assert xpcap.get_backend() == "numpy"


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
    DRIVER, "cupy" | BackendError | thing: backend cupy | got: no usable CUDA device | got: InsufficientDriver
    0, "cupy" | BackendError | got: no CUDA device is visible
    2, "cupy:2" | BackendError | thing: backend cupy:2 | got: 2 CUDA device(s), numbered from 0
    2, "numpy:1" | OptionError | got: 'numpy:1' | expected: cupy:N
    2, "cupy:²" | OptionError | got: 'cupy:²' | expected: cupy:N
    2, "cupy:" | OptionError | got: 'cupy:' | expected: cupy:N
    2, "cupi" | OptionError | got: 'cupi' | expected: numpy, cupy, auto | cause: did you mean 'cupy'
    """,
    function="use_backend",
)
def test_what_cannot_be_had_is_refused_with_the_reason(
    refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = xpcap.get_backend()
    use = "count, spec = {}; counted(monkeypatch, count); xpcap.use_backend(spec)"
    refusal.check(globals() | locals(), use)
    assert xpcap.get_backend() == before


def test_a_broken_cupy_is_a_reason_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)  # importing it raises
    status = xpcap.backend_status()
    assert status["numpy"].usable
    assert not status["cupy"].usable
    assert "cannot be imported" in status["cupy"].reason


def test_auto_says_what_it_chose(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counted(monkeypatch, 1)
    xpcap.use_backend("auto")
    assert xpcap.get_backend() == "cupy"
    assert "auto chose cupy (emulated)" in capsys.readouterr().err
    counted(monkeypatch, 0)
    xpcap.use_backend("auto")
    assert xpcap.get_backend() == "numpy"
    assert "auto chose numpy (no usable CUDA device" in capsys.readouterr().err


def test_a_device_that_computes_wrongly_is_not_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    install_or_skip(monkeypatch)
    cupy = sys.modules["cupy"]
    monkeypatch.setattr(cupy, "matmul", lambda a, b: cupy.zeros((8, 8)))
    probe.cupy_status.cache_clear()
    assert "wrong result" in xpcap.backend_status()["cupy"].reason


def test_info_lists_what_has_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def listed() -> list[str]:
        return json.loads(good("info", "--json").stdout)["without_kernels"]

    cells = [
        f"steps of cell {name}" for name, cell in layers.CELLS.items() if not has_kernels(cell)
    ]
    assert listed() == cells
    assert "CUDA kernels" not in good("info").output  # nor is there a GPU
    found = xpcap.backend_status()
    usable = {**found, "cupy": found["cupy"]._replace(usable=True)}
    monkeypatch.setattr("xpcap.cli.info.backend_status", lambda: usable)
    monkeypatch.setattr(DeviceOps, "add_rows", Equations.add_rows)
    assert listed() == ["add_rows", *cells]
    assert f"computed by CuPy: {', '.join(('add_rows', *cells))}" in good("info").output


def test_emulated_other_devices_are_counted_and_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Device 0 gives no context, as when another process has it to itself: the second one computes
    all the same, and nothing stays on the first.
    """
    device = install_or_skip(monkeypatch, devices=2, busy=(0,))
    status = xpcap.backend_status()["cupy"]
    assert (status.usable, status.devices) == (False, ("emulated", "emulated"))
    assert (
        "CUDA device 0 of 2 is not usable (CUDARuntimeError: cudaErrorDevicesUnavailable"
        in status.reason
    )
    assert "cupy:N asks for another" in good("info").output
    with xpcap.use_backend("cupy:1"):
        x = xpcap.asarray(np.ones(3))
        with xpcap.use_backend("numpy"):
            assert isinstance(xpcap.asarray([1.0]), np.ndarray)
        assert (x.device.id, float((x + 1).sum())) == (1, 6.0)
    assert device.contexts == {1}
    with refuses(BackendError, thing="backend cupy", got="cannot be used: CUDA device 0 of 2"):
        xpcap.use_backend("cupy")
    assert device.current == 1


def test_emulated_status_of_one_device_leaves_the_other_current(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = install_or_skip(monkeypatch, devices=2)
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

    real, folder = cupy.RawModule, tmp_path / "cache"
    monkeypatch.setenv("CUPY_CACHE_DIR", str(folder))

    class Compiling(real):  # type: ignore[misc, valid-type]
        def get_function(self, name: str) -> Any:
            folder.mkdir(exist_ok=True)
            (folder / f"{hashlib.sha1(self.code.encode()).hexdigest()}.cubin").touch()
            return super().get_function(name)

    def announced() -> str:
        probe.cupy_status.cache_clear()
        assert xpcap.backend_status()["cupy"].usable
        return capsys.readouterr().err

    capsys.readouterr()
    line = (
        "xpcap: compiling CUDA kernels for emulated; CuPy keeps them, so only the first use takes"
        " long\n"
    )
    assert announced() == line  # no folder yet
    monkeypatch.setattr(cupy, "RawModule", Compiling)
    assert announced() == line  # still nothing in it
    assert announced() == ""
    monkeypatch.setattr(xpcap, "__version__", "another")
    assert announced() == line
    assert announced() == ""


def test_a_cache_of_kernels_that_cannot_be_made_is_named_with_its_remedy() -> None:
    if not real.is_installed():
        pytest.skip(MISSING)
    code = "from xpcap import backend_status; print(backend_status()['cupy'].why)"
    done = program(code, flags=(), CUPY_CACHE_DIR=f"{os.devnull}/cache")
    assert done.stdout.startswith("cupy cannot be imported (")
    assert "set CUPY_CACHE_DIR to one you may write to" in done.stdout


def test_emulated_card_whose_driver_launches_nothing_is_not_usable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training launches through it, so the probe does."""
    install_or_skip(monkeypatch)
    monkeypatch.setattr(sys.modules["cupy"].cuda.driver, "launchKernel", lambda *args: None)
    probe.cupy_status.cache_clear()
    with xpcap.use_backend("auto"):
        assert xpcap.get_backend() == "numpy"
    assert "a test computation on the device gave a wrong result" in capsys.readouterr().err


def test_a_library_that_cannot_be_loaded_is_no_matter_of_the_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install_or_skip(monkeypatch)
    missing = OSError("libcublas.so.12: cannot open shared object file")
    monkeypatch.setattr(sys.modules["cupy"], "matmul", Mock(side_effect=missing))
    probe.cupy_status.cache_clear()
    reason = xpcap.backend_status()["cupy"].reason
    assert "libcublas.so.12" in reason
    assert "CUPY_CACHE_DIR" not in reason


def test_asarray_keeps_what_fits_and_to_numpy_keeps_host_arrays() -> None:
    x = np.arange(3)
    assert xpcap.asarray(x) is x
    assert xpcap.to_numpy(x) is x
    assert xpcap.asarray([1, 2], dtype="float32").dtype == np.float32
    assert xpcap.get_array_module(x, 3.0) is np


def test_a_mixture_of_libraries_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    install_or_skip(monkeypatch)
    device = sys.modules["cupy"].zeros((1, 3))
    with refuses(TypeError, got="numpy and cupy arrays together"):
        xpcap.get_array_module(np.zeros(1), device)
    with refuses(
        TypeError,
        function="rnn_step_forward",
        thing="prev_h",
        got="is a cupy array",
    ):
        layers.rnn_step_forward(
            np.zeros((1, 2)), device, np.zeros((2, 3)), np.zeros((3, 3)), np.zeros(3)
        )


@pytest.mark.gpu
def test_arrays_travel_both_ways_and_mixtures_are_refused() -> None:
    import cupy

    with xpcap.use_backend("cupy"):
        x = xpcap.asarray(np.arange(3.0))
        assert isinstance(x, cupy.ndarray)
        assert xpcap.get_array_module(x) is cupy
        np.testing.assert_array_equal(xpcap.to_numpy(x), [0, 1, 2])
        assert isinstance(xpcap.asarray(x, like=np.zeros(1)), np.ndarray)
        with refuses(TypeError, function="get_array_module", got="numpy and cupy"):
            xpcap.get_array_module(x, np.zeros(1))
