"""The emulated device against what is known of cupy: every difference to NumPy is refused, counted
or shown, or there is a reason why not. docs/develop/testing-without-a-gpu.md lists them all.
"""

import io
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest
from emulated import install_or_skip, memory, real

HOST = np.ones((3, 4), "f4")
LACKING = ("errstate", "insert", "spacing", "nditer", "ndenumerate", "geomspace")


@pytest.fixture
def xp(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The stand-in, as a program that imports cupy gets it."""
    install_or_skip(monkeypatch)
    import cupy

    return cupy


@pytest.fixture
def x(xp: ModuleType) -> Any:
    """A device array of some values."""
    return xp.asarray(np.arange(12, dtype="f4").reshape(3, 4))


def test_emulated_numpy_does_not_take_device_arrays(x: Any) -> None:
    for take in (
        np.asarray,
        np.array,
        np.ascontiguousarray,
        lambda x: HOST.copy().__setitem__(..., x),
        lambda x: np.add(HOST, 1, out=x),
    ):
        with pytest.raises(TypeError):
            take(x)


def test_emulated_results_are_arrays(xp: ModuleType, x: Any) -> None:
    for result in (
        x.sum(),
        x.max(),
        x.argmax(),
        x[1, 2],
        x[1][2],
        xp.vdot(x, x),
        x.mean(),
        xp.dot(x[0], x[0]),
        (x > 3).any(),
        xp.sqrt(2.0),
    ):
        assert type(result) is xp.ndarray
        assert result.shape == ()
    assert [type(row) for row in x[0]] == 4 * [xp.ndarray]
    with pytest.raises(TypeError):
        range(x.argmax())  # cupy's arrays have no __index__


REFUSED_HOST: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda xp, x: x + HOST,
    "add reflected": lambda xp, x: HOST + x,
    "add in place": lambda xp, x: x.__iadd__(HOST),
    "matmul": lambda xp, x: x @ HOST.T,
    "compare": lambda xp, x: x == HOST,
    "0-d": lambda xp, x: x * np.array(2.0),
    "list": lambda xp, x: xp.add(x, [1, 2, 3, 4]),
    "exp": lambda xp, x: xp.exp(HOST),
    "maximum": lambda xp, x: xp.maximum(HOST, 0),
    "where": lambda xp, x: xp.where(x > 1, HOST, 0),
    "where, mask": lambda xp, x: xp.where(HOST > 1, x, 0),
    "dot": lambda xp, x: xp.dot(HOST, HOST.T),
    "dot, second": lambda xp, x: x.dot(HOST.T),
    "vdot": lambda xp, x: xp.vdot(x, HOST),
    "sum": lambda xp, x: xp.sum(HOST),
    "max of a list": lambda xp, x: xp.max([1.0, 2.0]),
    "reshape": lambda xp, x: xp.reshape(HOST, (4, 3)),
    "take": lambda xp, x: xp.take(HOST, 0),
    "take, indices": lambda xp, x: x.take(np.array([0, 1])),
    "argsort": lambda xp, x: xp.argsort(HOST),
    "concatenate": lambda xp, x: xp.concatenate([x, HOST]),
    "stack": lambda xp, x: xp.stack([HOST, HOST]),
    "zeros_like": lambda xp, x: xp.zeros_like(HOST),
    "ascending": lambda xp, x: xp.searchsorted(x[0], HOST[0]),
    "index": lambda xp, x: x[np.array([0, 1])],
    "assignment": lambda xp, x: x.__setitem__(slice(None), HOST),
    "assignment of a row": lambda xp, x: x.__setitem__(0, HOST[0]),
    "assignment of a list": lambda xp, x: x.__setitem__(0, [1, 2, 3, 4]),
    "assignment by index": lambda xp, x: x.__setitem__(xp.asarray([0]), HOST[:1]),
    "assignment, index": lambda xp, x: x.__setitem__(np.array([0]), 1.0),
    "add.at": lambda xp, x: xp.add.at(x, xp.asarray([0]), HOST[:1]),
    "fill": lambda xp, x: x.fill(np.array(1.0)),
    "out": lambda xp, x: xp.exp(x, out=HOST),
}


@pytest.mark.parametrize("use", REFUSED_HOST.values(), ids=REFUSED_HOST)
def test_emulated_host_arrays_are_refused(
    use: Callable[[Any, Any], Any], xp: ModuleType, x: Any
) -> None:
    with pytest.raises(TypeError):
        use(xp, x)


def test_emulated_scalars_are_operands(xp: ModuleType, x: Any) -> None:
    for scalar in (2, 2.0, True, np.float32(2), np.int64(2), np.bool_(True)):
        for result in (
            x * scalar,
            scalar * x,
            xp.maximum(x, scalar),
            xp.where(x > scalar, x, scalar),
        ):
            assert type(result) is xp.ndarray
            assert result.shape == x.shape


def test_emulated_stray_numpy_functions_are_refused(x: Any) -> None:
    for stray in (
        np.exp,
        np.sum,
        np.zeros_like,
        np.isfinite,
        lambda x: np.multiply(np.float32(2), x),
        lambda x: np.concatenate([x, x]),
        np.linalg.norm,
    ):
        with pytest.raises(TypeError, match="was called on a device array"):
            stray(x)
    assert np.shape(x) == (3, 4)
    assert np.ndim(x) == 2
    assert np.size(x) == len(x) * 4 == 12


def test_emulated_indices_out_of_range_are_refused(xp: ModuleType, x: Any) -> None:
    for bad in ([0, 3], [-4]):
        index = xp.asarray(bad)
        for use in (
            lambda i: x[i],
            lambda i: x[i, xp.zeros_like(i)],
            lambda i: x.take(i, axis=0),
            lambda i: xp.take(x, i, axis=0),
            lambda i: x.__setitem__(i, 0.0),
            lambda i: xp.add.at(x, i, 1.0),
        ):
            with pytest.raises(IndexError):
                use(index)
    np.testing.assert_array_equal(x[xp.asarray([-1])].get(), [[8, 9, 10, 11]])


def test_emulated_equal_indices_in_an_assignment_are_refused(xp: ModuleType, x: Any) -> None:
    ones, rows = xp.ones((2, 4), "f4"), xp.asarray
    for key in (
        rows([1, 1]),
        rows([2, -1]),
        (rows([0, 0]), rows([1, 1])),
        (slice(None), rows([3, 3])),
    ):
        with pytest.raises(IndexError, match="duplicate"):
            x[key] = (
                ones[:, :1] if isinstance(key, tuple) and not isinstance(key[0], slice) else 1.0
            )
    x[rows([0, 0, 1]), rows([0, 1, 0])] = 0.0
    np.testing.assert_array_equal(x.get()[:2, :2], [[0, 0], [0, 5]])


def test_emulated_atomic_additions_differ_from_time_to_time(xp: ModuleType) -> None:
    """As on a card, bits differ and sums do not: what has to give equal bits twice may not use
    it.
    """
    rng = np.random.default_rng(0)
    rows, ids = rng.standard_normal((400, 3)).astype("f4"), rng.integers(0, 2, 400).astype("i4")
    sums = []
    for _ in range(4):
        out = xp.zeros((2, 3), "f4")
        xp.add.at(out, xp.asarray(ids), xp.asarray(rows))
        sums.append(out.get())
    expected = np.stack([rows[ids == k].sum(axis=0) for k in range(2)])
    np.testing.assert_allclose(sums[0], expected, rtol=1e-4)
    assert len({s.tobytes() for s in sums}) > 1
    with pytest.raises(TypeError, match="int64"):
        xp.add.at(xp.zeros(3, "i8"), xp.asarray([0]), 1)


REFUSED_CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "sum(where=)": lambda xp, x: xp.sum(x, where=x > 0),
    "x.sum(where=)": lambda xp, x: x.sum(where=x > 0),
    "max(initial=)": lambda xp, x: xp.max(x, initial=0),
    "x.max(initial=)": lambda xp, x: x.max(initial=0),
    "exp(where=)": lambda xp, x: xp.exp(x, where=x > 0),
    "take(mode=)": lambda xp, x: xp.take(x, xp.asarray([0]), mode="clip"),
    "x.take(mode=)": lambda xp, x: x.take(xp.asarray([0]), mode="clip"),
    "asarray(device=)": lambda xp, x: xp.asarray(HOST, device="cpu"),
    "asarray(like=)": lambda xp, x: xp.asarray(HOST, like=x),
    "empty(like=)": lambda xp, x: xp.empty(3, like=x),
    "x.argsort(stable=)": lambda xp, x: x.argsort(stable=True),
    "too many": lambda xp, x: xp.dot(x, x.T, None, 1),
    "ufunc, too many": lambda xp, x: xp.exp(x, x, x),
}


@pytest.mark.parametrize("use", REFUSED_CALLS.values(), ids=REFUSED_CALLS)
def test_emulated_calls_that_cupy_would_not_take_are_refused(
    use: Callable[[Any, Any], Any], xp: ModuleType, x: Any
) -> None:
    with pytest.raises(TypeError, match=r"cupy\."):
        use(xp, x)


def test_emulated_names_that_cupy_lacks_are_missing(xp: ModuleType, x: Any) -> None:
    lacking = {name for name in dir(np) if not name.startswith("_")} - set(dir(real.cupy()))
    assert lacking.issuperset(LACKING)
    for name in lacking:
        with pytest.raises(AttributeError, match=f"module 'cupy' has no attribute '{name}'"):
            getattr(xp, name)
    for owner, name in (
        (x, "tostring"),
        (x, "setflags"),
        (x.flags, "writeable"),
        (xp.cuda, "graphs"),
        (xp.cuda.runtime, "getCard"),
    ):
        assert not hasattr(owner, name)
    with pytest.raises(NotImplementedError, match=r"cupy\.kaiser is not modelled"):
        _ = xp.kaiser
    with pytest.raises(NotImplementedError, match=r"cupy\.ndarray\.choose is not modelled"):
        _ = x.choose


def test_emulated_device_has_nothing_that_cupy_lacks(xp: ModuleType, x: Any) -> None:
    from emulated.functions import BY_NAME, FUNCTIONS

    assert {name for name in (*FUNCTIONS, *BY_NAME) if not hasattr(real.cupy(), name)} == set()
    ours = {
        name
        for name in vars(type(x))
        if name
        not in (
            "host",
            "number",
            "__weakref__",
            "__getattr__",
            "__annotations__",
            "__dict__",
        )
    }
    assert {name for name in ours if not hasattr(real.cupy().ndarray, name)} == set()
    for name in ours - {"__array_ufunc__"}:
        if not name.startswith("__") and callable(getattr(type(x), name)):
            real.signature(
                f"ndarray.{name}"
            )  # cupy documents it, so that calls can be held against it


def test_emulated_random_numbers_are_not_to_be_had(xp: ModuleType) -> None:
    with pytest.raises(NotImplementedError, match="xpcap draws on the host"):
        xp.random.default_rng(0)
    with pytest.raises(AttributeError):
        _ = xp.random.random_integer


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "bool"])
def test_emulated_dtypes_are_those_of_numpy_2(dtype: str, xp: ModuleType) -> None:
    host = np.ones((2, 2), dtype)
    uses: list[Callable[[Any, Any], Any]] = [
        lambda m, a: a * 2.0,
        lambda m, a: a * np.float64(2),
        lambda m, a: a / 3,
        lambda m, a: a + m.ones(2, "float32"),
        lambda m, a: a + a.sum(),
        lambda m, a: a.mean(),
        lambda m, a: a.sum(dtype=np.float64),
        lambda m, a: a.argmax(axis=0),
        lambda m, a: m.where(a > 0, a, 0),
        lambda m, a: a @ a,
        lambda m, a: m.exp(a),
        lambda m, a: a.cumsum(),
        lambda m, a: m.arange(3),
        lambda m, a: m.full(3, 2),
        lambda m, a: m.maximum(a, 0.5),
    ]
    for use in uses:
        ours, theirs = use(xp, xp.asarray(host)), use(np, host)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours.get(), theirs)


def test_emulated_out_is_exact(xp: ModuleType, x: Any) -> None:
    for out in (xp.empty((3, 3), "f8"), xp.empty((3, 6), "f4")[:, ::2], xp.empty((3, 2), "f4")):
        with pytest.raises((ValueError, TypeError)):
            xp.dot(x, x.T, out=out)
    for out in (xp.empty((3, 4), "f8"), xp.empty((1, 4), "f4")):
        with pytest.raises(TypeError, match="out is"):
            xp.exp(x, out=out)
    with pytest.raises(TypeError, match="out is"):
        x.sum(axis=0, out=xp.empty(4, "f8"))
    out = xp.empty((3, 3), "f4")
    assert xp.dot(x, x.T, out=out) is out
    np.testing.assert_array_equal(out.get(), x.get() @ x.get().T)


def test_emulated_results_are_c_contiguous(xp: ModuleType, x: Any) -> None:
    for result in (
        x.T + 1,
        xp.exp(x.T),
        x.T[xp.asarray([0, 1])],
        x.T.max(axis=0),
        x.T @ x,
        xp.where(x.T > 1, x.T, 0),
    ):
        assert result.flags.c_contiguous
    assert not x.T.flags.c_contiguous


def test_emulated_strings_objects_and_dates_are_refused(xp: ModuleType) -> None:
    for host in (np.array(["a"]), np.array([None]), np.array(["2020-01-01"], "M8[D]")):
        with pytest.raises(ValueError, match="Unsupported dtype"):
            xp.asarray(host)
    with pytest.raises(ValueError, match="Unsupported dtype"):
        xp.empty(3, "O")


def test_emulated_casts_to_integers_have_to_fit(xp: ModuleType) -> None:
    for value, dtype in ((np.nan, "i4"), (np.inf, "i8"), (-1.0, "u1"), (3e9, "i4")):
        with pytest.raises(ValueError, match="cupy and numpy differ"):
            xp.asarray([1.0, value]).astype(dtype)
        with pytest.raises(ValueError, match="cupy and numpy differ"):
            xp.empty(2, dtype)[:] = xp.asarray([1.0, value])
    assert xp.asarray([-1.5, 2.5]).astype("i4").get().tolist() == [-1, 2]


def test_emulated_sizes_that_depend_on_values_are_reads(xp: ModuleType, x: Any) -> None:
    from emulated import EMULATOR

    for use in (
        lambda: x[x > 3],
        lambda: x.__setitem__(x > 3, 0.0),
        lambda: xp.nonzero(x),
        x.nonzero,
        lambda: xp.where(x > 1),
    ):
        with EMULATOR.counting() as counts:
            use()
        assert len(counts.reads) == 1


def test_emulated_copies_to_pinned_memory_are_there_after_a_wait(xp: ModuleType, x: Any) -> None:
    """Each event brings the copies begun before it was recorded."""
    from emulated import EMULATOR

    first, second = (
        np.ndarray(x.shape, x.dtype, xp.cuda.alloc_pinned_memory(x.nbytes)) for _ in range(2)
    )
    expected, event = x.get(), xp.cuda.Event()
    EMULATOR.reset()
    x.get(out=first, blocking=False)
    event.record()
    x += 1  # the copy comes first
    x.get(out=second, blocking=False)
    assert EMULATOR.reads == []
    assert not (first == expected).any()
    event.synchronize()
    np.testing.assert_array_equal(first, expected)
    assert not (second == expected + 1).any()
    xp.cuda.Stream.null.synchronize()
    np.testing.assert_array_equal(second, expected + 1)
    with pytest.raises(ValueError, match="pinned memory"):
        x.get(out=np.empty_like(first), blocking=False)


def test_emulated_addresses_are_remembered_for_the_thread_that_asked(
    xp: ModuleType, x: Any
) -> None:
    """Ranks that are threads launch kernels between each other's questions."""
    address = x.data.ptr
    other = threading.Thread(target=memory.take_asked, args=([],))
    other.start()
    other.join()
    found = memory.take_asked([address])
    assert found
    assert found[0].shape == x.shape


def test_emulated_h5py_refuses_device_arrays(x: Any) -> None:
    with (
        h5py.File(io.BytesIO(), "w") as file,
        pytest.raises(TypeError, match="Implicit conversion"),
    ):
        file["x"] = x


def test_emulated_sorting_is_stable(xp: ModuleType) -> None:
    keys = np.repeat([1, 0], 20).astype("i4")
    np.testing.assert_array_equal(
        xp.argsort(xp.asarray(keys)).get(), np.argsort(keys, kind="stable")
    )
    with pytest.raises(ValueError, match="stably"):
        xp.argsort(xp.asarray(keys), kind="quicksort")


def test_emulated_memory_is_poisoned(xp: ModuleType, x: Any) -> None:
    """So that reading what was never written shows."""
    assert np.isnan(xp.empty((2, 3), "f4").get()).all()
    assert np.isnan(xp.empty_like(x).get()).all()
    found = xp.empty(3, np.int32).get()
    assert (found > 2**30).all()
    assert (found % 2 == 1).all()
