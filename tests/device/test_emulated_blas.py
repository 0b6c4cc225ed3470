"""Raw products on the emulated device: they compute what cuBLAS documents, and whatever a card
would do in silence is refused or on record.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
from emulated import Emulator, install_or_skip
from emulated.record import elements
from test_launch import in_thread

import xpcap
from xpcap.device import cublas

PRODUCTS = {"sgemm": "float32", "dgemm": "float64"}
M, N, K = 3, 4, 5


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Emulator:
    return install_or_skip(monkeypatch, devices=2)


@pytest.fixture
def xp(emulator: Emulator) -> ModuleType:
    import cupy

    return cupy


class Operands:
    """A product C = A B of column-major matrices in rows of wider arrays, and the arguments of its
    call.
    """

    def __init__(
        self,
        xp: ModuleType,
        transa: int = 0,
        transb: int = 0,
        name: str = "sgemm",
        beta: float = 0.0,
    ) -> None:
        self.xp, self.name = xp, name
        rng = np.random.default_rng(0)
        dtype = np.dtype(PRODUCTS[name])
        shapes = [
            (K, M)[:: -1 if transa else 1],
            (N, K)[:: -1 if transb else 1],
            (N, M),
        ]  # as rows: each is a column of cuBLAS
        self.host = [
            rng.standard_normal((rows + 1, columns + 2)).astype(dtype) for rows, columns in shapes
        ]
        self.device = [xp.asarray(x) for x in self.host]
        self.parts = [x[1:, 1:-1] for x in self.device]
        self.numbers = np.array([2, beta], dtype)
        (a, b, c), itemsize = (x.data.ptr for x in self.parts), dtype.itemsize
        lda, ldb, ldc = (x.shape[1] for x in self.device)
        self.arguments: dict[str, Any] = {
            "handle": cublas.handle(xp),
            "transa": transa,
            "transb": transb,
            "m": M,
            "n": N,
            "k": K,
            "alpha": self.numbers.ctypes.data,
            "A": a,
            "lda": lda,
            "B": b,
            "ldb": ldb,
            "beta": self.numbers.ctypes.data + itemsize,
            "C": c,
            "ldc": ldc,
        }

    def call(self, **changes: Any) -> None:
        getattr(self.xp.cuda.cublas, self.name)(*{**self.arguments, **changes}.values())

    def expected(self) -> np.ndarray:
        """The whole array that holds C, computed by NumPy."""
        a, b, c = (x[1:, 1:-1].T for x in self.host)
        op_a, op_b = (
            x.T if self.arguments[trans] else x for x, trans in ((a, "transa"), (b, "transb"))
        )
        whole = self.host[2].copy()
        whole[1:, 1:-1] = (2 * op_a @ op_b + self.numbers[1] * c).T
        return whole


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize("transa", [0, 1])
@pytest.mark.parametrize("transb", [0, 1])
def test_emulated_raw_products_compute_what_cublas_documents(
    transa: int, transb: int, beta: float, name: str, xp: ModuleType
) -> None:
    given = Operands(xp, transa, transb, name, beta)
    given.call()
    np.testing.assert_allclose(given.device[2].get(), given.expected(), rtol=1e-5)
    for x, before in zip(given.device[:2], given.host, strict=False):
        np.testing.assert_array_equal(x.get(), before)


def test_emulated_raw_products_leave_c_unread_without_beta(xp: ModuleType) -> None:
    given = Operands(xp)
    given.parts[2][...] = np.nan
    given.call()
    np.testing.assert_allclose(given.device[2].get(), given.expected(), rtol=1e-5)
    given = Operands(xp)
    given.parts[0][0, 0] = np.nan
    given.call()
    assert np.isnan(given.parts[2].get()).any()  # and poison that is read shows


def test_emulated_raw_products_are_one_launch_on_record(xp: ModuleType, emulator: Emulator) -> None:
    given = Operands(xp)
    with emulator.counting() as counts:
        given.call()
        given.call(n=0)  # nothing to compute
        given.call(m=0)
    assert counts.names() == {"product sgemm": 1}
    assert counts.allocations == []
    (product,) = counts.products
    assert product.place.startswith("test_emulated_blas.py:")
    for footprint, part in zip((product.A, product.B, product.C), given.parts, strict=True):
        assert footprint.elements() == elements(part)
    given.call(
        C=given.device[2].data.ptr, k=K - 1
    )  # stays inside the allocations, and is seen here alone
    assert emulator.products[-1].C.elements() != elements(given.parts[2])
    assert emulator.products[-1].A.elements() < elements(given.parts[0])


class Wrong(NamedTuple):
    """A call that a card takes, and what is said of it."""

    change: Callable[[Operands], dict[str, Any]]
    message: str


WRONG = {
    "no handle": Wrong(lambda o: {"handle": 0}, "handle 0x0 was never created"),
    "an operation that is none": Wrong(
        lambda o: {"transa": 84}, "transa is 84, expected CUBLAS_OP_N"
    ),
    "an array for its address": Wrong(
        lambda o: {"A": o.parts[0]}, "A is a ndarray, expected an int"
    ),
    "a size below zero": Wrong(lambda o: {"k": -1}, "k is -1, expected 0 to"),
    "the leading dimension of the other layout": Wrong(
        lambda o: {"transb": 1, "ldb": N - 1}, "ldb is 3, expected at least the 4 rows of B"
    ),
    "a number on the device": Wrong(
        lambda o: {"beta": o.device[0].data.ptr}, "beta is an address on the device"
    ),
    "no number": Wrong(lambda o: {"alpha": 0}, "alpha is 0x0, expected the address of a float32"),
    "a host array": Wrong(lambda o: {"A": o.host[0].ctypes.data}, "lies in no array of the device"),
    "an offset in elements": Wrong(
        lambda o: {"B": o.arguments["B"] + 1}, "begins inside an element"
    ),
    "one element too far": Wrong(
        lambda o: {"A": o.arguments["A"] + 8}, "ends 4 bytes beyond its allocation of 120 bytes"
    ),
    "one column too many": Wrong(lambda o: {"n": N + 1}, "bytes beyond its allocation"),
    "rows too far apart": Wrong(
        lambda o: {"ldc": o.arguments["ldc"] + 1},
        r"C of shape \(3, 4\) with ld 6 .* ends 8 bytes beyond",
    ),
    "C over A": Wrong(lambda o: {"C": o.arguments["A"], "ldc": o.arguments["lda"]}, "C overlaps A"),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_emulated_raw_products_refuse_what_a_card_takes(
    wrong: Wrong, xp: ModuleType, emulator: Emulator
) -> None:
    given = Operands(xp)
    with pytest.raises((TypeError, ValueError), match=f"sgemm: .*{wrong.message}"):
        given.call(**wrong.change(given))
    assert emulator.products == []
    np.testing.assert_array_equal(given.device[2].get(), given.host[2])


def test_emulated_raw_products_refuse_other_dtypes_devices_and_threads(xp: ModuleType) -> None:
    given, wide, handles = Operands(xp), Operands(xp, name="dgemm"), list[int]()
    with pytest.raises(TypeError, match="lies in memory of float64, expected float32"):
        given.call(A=wide.arguments["A"])
    with xp.cuda.Device(1):
        there = Operands(xp)
        there.call()
        with pytest.raises(ValueError, match="the handle belongs to device 0, and device 1"):
            there.call(handle=given.arguments["handle"])
        with pytest.raises(ValueError, match=r"B of shape .* lies on device 0, and device 1"):
            there.call(B=given.arguments["B"])

    def work() -> None:
        handles.append(cublas.handle(xp))
        with pytest.raises(ValueError, match="the handle belongs to another thread"):
            given.call()

    in_thread(work)
    with pytest.raises(ValueError, match="is destroyed"):
        given.call(handle=handles[0])


def test_emulated_raw_products_refuse_freed_memory(xp: ModuleType) -> None:
    given = Operands(xp)
    view = given.parts[0]
    given.device[0] = None
    given.call()  # a view keeps its memory
    del view, given.parts[0]
    with pytest.raises(ValueError, match=r"A of shape .* lies in no array of the device"):
        given.call()


def test_emulated_device_without_cublas_is_not_usable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with CuPy's wheel alone, without the libraries of CUDA."""
    install_or_skip(monkeypatch, cublas=False)
    assert "cuBLAS" in xpcap.backend_status()["cupy"].reason
