"""The backend switch: choosing, refusing, restoring, and conversions. CuPy's part runs against a stand-in package."""

import subprocess
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import xpcap
from xpcap import backend, layers


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No choice made, nothing probed, before and after."""
    monkeypatch.setattr(backend, "_active", None)
    monkeypatch.delenv("XPCAP_BACKEND", raising=False)
    backend._cupy_status.cache_clear()
    yield
    backend._cupy_status.cache_clear()


def pretend(monkeypatch: pytest.MonkeyPatch, count: Any) -> list[int]:
    """Put a package called cupy in place whose runtime reports `count` devices; returns the device numbers that get used."""
    used: list[int] = []

    def device_count() -> int:
        if isinstance(count, Exception):
            raise count
        return count

    class Device:
        def __init__(self, number: int) -> None:
            self.number = number

        def use(self) -> None:
            used.append(self.number)

        def __enter__(self) -> None:
            pass

        def __exit__(self, *exc: object) -> None:
            pass

    fake = types.ModuleType("cupy")
    runtime = types.SimpleNamespace(getDeviceCount=device_count, getDeviceProperties=lambda i: {"name": f"Card {i}".encode()})
    vars(fake).update(
        __version__="14.0", cuda=types.SimpleNamespace(runtime=runtime, Device=Device), ones=np.ones, matmul=np.matmul, ndarray=type("ndarray", (), {})
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "cupy", fake)
    return used


def test_importing_xpcap_does_not_import_cupy() -> None:
    code = "import sys, xpcap, xpcap.cli; sys.exit('cupy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_numpy_is_the_default_and_the_variable_comes_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert xpcap.get_backend() == "numpy"
    monkeypatch.setattr(backend, "_active", None)
    monkeypatch.setenv("XPCAP_BACKEND", "cupy:1")
    pretend(monkeypatch, 2)
    assert xpcap.get_backend() == "cupy:1"
    monkeypatch.setattr(backend, "_active", None)
    monkeypatch.setenv("XPCAP_BACKEND", "cupi")
    with pytest.raises(ValueError, match=r"XPCAP_BACKEND=cupi: .*did you mean 'cupy'"):
        xpcap.get_backend()
    xpcap.use_backend("numpy")  # a call comes before the variable
    assert xpcap.get_backend() == "numpy"


def test_use_backend_works_as_a_call_and_as_a_context_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    used = pretend(monkeypatch, 2)
    xpcap.use_backend("numpy")
    with xpcap.use_backend("cupy:1"):
        assert xpcap.get_backend() == "cupy:1"
        with xpcap.use_backend("cupy"):
            assert xpcap.get_backend() == "cupy"
        assert used == [1, 0, 1]
    assert xpcap.get_backend() == "numpy"
    assert used == [1, 0, 1, 0]  # device 1 does not stay the current one


@pytest.mark.parametrize(
    ("count", "spec", "words"),
    [
        (
            RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient"),
            "cupy",
            ["backend cupy", "no usable CUDA device", "InsufficientDriver"],
        ),
        (0, "cupy", ["no CUDA device is visible"]),
        (2, "cupy:2", ["backend cupy:2", "2 CUDA device(s)", "numbered from 0"]),
        (2, "numpy:1", ["'numpy:1'", "cupy:N"]),
        (2, "cupy:²", ["'cupy:²'", "cupy:N"]),
        (2, "cupy:", ["'cupy:'", "cupy:N"]),
        (2, "cupi", ["'cupi'", "numpy, cupy, auto", "did you mean 'cupy'"]),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_reason(count: Any, spec: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, count)
    before = xpcap.get_backend()
    with pytest.raises((ValueError, RuntimeError)) as caught:
        xpcap.use_backend(spec)
    for word in words:
        assert word in str(caught.value)
    assert xpcap.get_backend() == before


def test_a_broken_cupy_is_a_reason_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)  # importing it raises
    status = xpcap.backend_status()
    assert status["numpy"].usable
    assert not status["cupy"].usable
    assert "cannot be imported" in status["cupy"].reason


def test_auto_says_what_it_chose(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pretend(monkeypatch, 1)
    xpcap.use_backend("auto")
    assert xpcap.get_backend() == "cupy"
    assert "auto chose cupy (Card 0)" in capsys.readouterr().err
    backend._cupy_status.cache_clear()
    pretend(monkeypatch, 0)
    xpcap.use_backend("auto")
    assert xpcap.get_backend() == "numpy"
    assert "auto chose numpy (no usable CUDA device" in capsys.readouterr().err


def test_a_device_that_computes_wrongly_is_not_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 1)
    monkeypatch.setattr(sys.modules["cupy"], "matmul", lambda a, b: np.zeros((8, 8)))
    assert "wrong result" in xpcap.backend_status()["cupy"].reason


def test_asarray_keeps_what_fits_and_to_numpy_keeps_host_arrays() -> None:
    x = np.arange(3)
    assert xpcap.asarray(x) is x
    assert xpcap.to_numpy(x) is x
    assert xpcap.asarray([1, 2], dtype="float32").dtype == np.float32
    assert xpcap.get_array_module(x, 3.0) is np


def test_a_mixture_of_libraries_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 1)
    device = vars(sys.modules["cupy"])["ndarray"]()
    device.dtype = np.dtype("float64")
    with pytest.raises(TypeError, match="numpy and cupy arrays together"):
        xpcap.get_array_module(np.zeros(1), device)
    with pytest.raises(TypeError, match=r"rnn_step_forward: prev_h is a cupy array and x a numpy array"):
        layers.rnn_step_forward(np.zeros((1, 2)), device, np.zeros((2, 3)), np.zeros((3, 3)), np.zeros(3))


@pytest.mark.gpu
def test_arrays_travel_both_ways_and_mixtures_are_refused() -> None:
    import cupy

    with xpcap.use_backend("cupy"):
        x = xpcap.asarray(np.arange(3.0))
        assert isinstance(x, cupy.ndarray)
        assert xpcap.get_array_module(x) is cupy
        np.testing.assert_array_equal(xpcap.to_numpy(x), [0, 1, 2])
        assert isinstance(xpcap.asarray(x, like=np.zeros(1)), np.ndarray)
        with pytest.raises(TypeError, match="numpy and cupy"):
            xpcap.get_array_module(x, np.zeros(1))
