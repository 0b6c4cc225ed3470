"""Raw products on the emulated device: they compute what cuBLAS documents, and refuse whatever a GPU
would do in silence.
"""

import re
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from emulated import Emulator, in_thread, install_or_skip

import xpcap
from xpcap.backend import cublas

M, N, K = 3, 4, 5


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Emulator:
    return install_or_skip(monkeypatch, devices=2)


@pytest.fixture
def xp(emulator: Emulator) -> ModuleType:
    import cupy

    return cupy


class Operands:
    """A product C = 2 A B + beta C of column-major matrices in rows of wider arrays, and the arguments
    of its call.
    """

    def __init__(
        self, xp: ModuleType, transa: int = 0, transb: int = 0, real: str = "f", beta: float = 0.0
    ) -> None:
        self.call_gemm = getattr(xp.cuda.cublas, cublas.GEMM[real])
        rng, size = np.random.default_rng(0), np.dtype(real).itemsize
        # As rows: each is a column of cuBLAS
        shapes = (K, M)[:: 1 - 2 * transa], (N, K)[:: 1 - 2 * transb], (N, M)
        self.host = [rng.standard_normal((r + 1, c + 2)).astype(real) for r, c in shapes]
        self.device = [xp.asarray(x) for x in self.host]
        self.numbers = np.array([2, beta], real)
        self.arguments: dict[str, Any] = {
            "handle": cublas.handle(xp), "transa": transa, "transb": transb, "m": M, "n": N, "k": K,
            "alpha": self.numbers.ctypes.data, "beta": self.numbers.ctypes.data + size,
        }  # fmt: skip
        for key, x in zip("ABC", self.device, strict=True):
            self.arguments |= {key: x[1:, 1:].data.ptr, f"ld{key.lower()}": x.shape[1]}

    def call(self, **changes: Any) -> None:
        names = "handle transa transb m n k alpha A lda B ldb beta C ldc".split()
        self.call_gemm(*({**self.arguments, **changes}[name] for name in names))

    def check(self) -> None:
        """The arrays after the call, by NumPy."""
        a, b, c = (x[1:, 1:-1].T for x in self.host)
        a, b = (x.T if self.arguments[t] else x for x, t in ((a, "transa"), (b, "transb")))
        expected = self.host[2].copy()
        expected[1:, 1:-1] = (2 * a @ b + self.numbers[1] * c).T
        np.testing.assert_allclose(self.device[2].get(), expected, rtol=1e-5)
        for x, before in zip(self.device[:2], self.host, strict=False):
            np.testing.assert_array_equal(x.get(), before)


@pytest.mark.parametrize(("real", "beta"), [("f", 0.0), ("d", 0.5)])
@pytest.mark.parametrize(("transa", "transb"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_emulated_raw_products_compute_what_cublas_documents(
    transa: int, transb: int, real: str, beta: float, xp: ModuleType, emulator: Emulator
) -> None:
    given = Operands(xp, transa, transb, real, beta)
    with emulator.counting() as counts:
        given.call()
        given.call(n=0)  # nothing to compute
    assert counts.names() == {f"product {cublas.GEMM[real]}": 1}
    given.check()


def test_emulated_raw_products_leave_c_unread_without_beta_and_carry_poison(xp: ModuleType) -> None:
    given = Operands(xp)
    given.device[2][1:, 1:-1] = np.nan
    given.call()
    given.check()
    given.device[0][1, 1] = np.nan
    given.call()
    assert np.isnan(given.device[2].get()).any()


WRONG = {  # a call that a GPU takes, and what is said of it
    "handle=0": "handle 0x0 was never created",
    "transa=84": "transa is 84, expected CUBLAS_OP_N",
    "A=o.device[0]": "A is a ndarray, expected an int",
    "k=-1": "k is -1, expected 0 to",
    "transb=1, ldb=3": "ldb is 3, expected at least the 4 rows of B",
    "beta=o.device[0].data.ptr": "expected the address of a float32 on the host",
    "alpha=0": "alpha is 0x0, expected the address of a float32",
    "A=o.host[0].ctypes.data": "A lies in no array of the device",
    "B=a['B'] + 1": "B begins inside an element",
    "A=a['A'] + 8": "ends 4 bytes beyond its allocation of 120 bytes",
    "n=5": "bytes beyond its allocation",
    "ldc=a['ldc'] + 1": "C of shape (3, 4) with ld 6 ends 8 bytes beyond",
    "C=a['A'], ldc=a['lda']": "C overlaps A",
    "A=wide.arguments['A']": "A lies in memory of float64, expected float32",
    "handle=there.arguments['handle']": "the handle belongs to device 1, and device 0 is",
    "B=there.arguments['B']": "B lies on device 1, and device 0 is the current one",
}


@pytest.mark.parametrize("change", WRONG)
def test_emulated_raw_products_refuse_what_a_gpu_takes(
    change: str, xp: ModuleType, emulator: Emulator
) -> None:
    given, wide = Operands(xp), Operands(xp, real="d")
    with xp.cuda.Device(1):
        there = Operands(xp)
    names = {"o": given, "a": given.arguments, "wide": wide, "there": there}
    with pytest.raises((TypeError, ValueError), match=re.escape(WRONG[change])):
        given.call(**eval(f"dict({change})", names))
    assert emulator.products == []


def test_emulated_raw_products_refuse_another_thread_and_freed_memory(xp: ModuleType) -> None:
    given, handles = Operands(xp), list[int]()

    def work() -> None:
        handles.append(cublas.handle(xp))
        with pytest.raises(ValueError, match="the handle belongs to another thread"):
            given.call()

    in_thread(work)
    with pytest.raises(ValueError, match="is destroyed"):
        given.call(handle=handles[0])
    view, given.device[0] = given.device[0][1:], None
    given.call()  # a view keeps its memory
    del view
    with pytest.raises(ValueError, match="A lies in no array of the device"):
        given.call()


def test_emulated_device_without_cublas_is_not_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with CuPy's wheel alone, without the libraries of CUDA."""
    install_or_skip(monkeypatch, cublas=False)
    assert "cuBLAS" in xpcap.backend_status()["cupy"].reason
