"""What the emulated device counts: launches by kind, reads and waits with their place, transfers;
its kernels, devices and clock.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from emulated import Emulator, install_or_skip
from emulated.record import SCRATCH

import xpcap
from xpcap import gradcheck

E, R, P, C, M = "elementwise", "reduction", "product", "copy", "memset"
HOST = np.ones((2, 3), "f4")


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """Two devices: whoever uses the other one's arrays is told."""
    return install_or_skip(monkeypatch, devices=2)


@pytest.fixture
def xp(emulator: Emulator) -> ModuleType:
    import cupy

    return cupy


def arrays(xp: ModuleType) -> dict[str, Any]:
    """Operands for the table: a matrix, a part of one that no product takes as it is, a vector, an
    index vector, and small pieces.
    """
    x = xp.asarray(np.arange(24, dtype="f4").reshape(4, 6))
    return {
        "x": x,
        "part": x[:, :3],
        "v": x[0],
        "i": xp.asarray(np.array([0, 2], "i4")),
        "out": xp.empty((4, 4), "f4"),
        "few": [x[:1]] * 3,
        "many": [x[:1]] * 9,
    }


LAUNCHES: dict[str, tuple[Callable[..., Any], list[str]]] = {
    "a ufunc": (lambda xp, x, **_: xp.exp(x), [E]),
    "an expression": (lambda xp, x, **_: 0.5 * (1 + xp.tanh(0.5 * x)), [E] * 4),
    "in place": (lambda xp, x, **_: x.__imul__(2), [E]),
    "into out": (lambda xp, x, **_: xp.multiply(x, 2, out=x), [E]),
    "into what is read elsewhere": (lambda xp, x, **_: xp.multiply(x[1:], 2, out=x[:3]), [C, E]),
    "nothing to compute": (lambda xp, x, **_: x[:0] + 1, []),
    "where": (lambda xp, x, **_: xp.where(x > 1, x, 0), [E, E]),
    "sum": (lambda xp, x, **_: x.sum(axis=0), [R]),
    "sum into out": (lambda xp, x, out, **_: x[:, :4].sum(axis=0, out=out[0]), [R]),
    "sum of what lies side by side into out: copies": (
        lambda xp, x, out, **_: x.sum(axis=1, out=out[0]),
        [R, C],
    ),
    "max and argmax": (lambda xp, x, **_: (x.max(), xp.argmax(x, axis=1)), [R, R]),
    "mean: sums, divides": (lambda xp, x, **_: x.mean(), [R, E]),
    "matmul": (lambda xp, x, **_: x @ x.T, [P]),
    "dot into out": (lambda xp, x, out, **_: xp.dot(x, x.T, out=out), [P]),
    "dot of rows and columns of a part": (lambda xp, x, part, **_: xp.dot(part.T, x), [C, P]),
    "dot over its own operand": (lambda xp, out, **_: xp.dot(out, out, out=out), [P, C]),
    "dot of vectors: multiplies, sums, copies": (lambda xp, v, **_: xp.dot(v, v), [E, R, C]),
    "vdot: multiplies, sums, copies": (lambda xp, x, **_: xp.vdot(x, x), [E, R, C]),
    "a batch of products": (
        lambda xp, x, **_: xp.matmul(x.reshape(2, 2, 6), x.reshape(2, 6, 2)),
        [P],
    ),
    "views": (
        lambda xp, x, **_: (
            x[1:],
            x[0, 0],
            x[:, None],
            x.T,
            x.reshape(6, 4),
            x.ravel(),
        ),
        [],
    ),
    "reshape of a part": (lambda xp, part, **_: part.reshape(-1), [C]),
    "copy and astype": (
        lambda xp, x, **_: (x.copy(), x.astype("f8"), x.astype("f4", copy=False)),
        [C, C],
    ),
    "contiguous already": (lambda xp, x, **_: xp.ascontiguousarray(x), []),
    "contiguous not yet": (lambda xp, part, **_: xp.ascontiguousarray(part), [C]),
    "rows by index": (lambda xp, x, i, **_: x[i], ["gather"]),
    "take": (lambda xp, x, i, **_: x.take(i, axis=0), ["gather"]),
    "elements by two indices": (lambda xp, x, i, **_: x[i, i], [M, E, E, "gather"]),
    "assignment by index": (lambda xp, x, i, **_: x.__setitem__(i, x[:2]), ["scatter"]),
    "add.at": (lambda xp, x, i, **_: xp.add.at(x, i, x[:2]), ["scatter"]),
    "assignment of zero": (lambda xp, x, **_: x.__setitem__(..., 0), [M]),
    "assignment of zero to a part": (lambda xp, part, **_: part.__setitem__(..., 0), [E]),
    "assignment of one": (lambda xp, x, **_: x.__setitem__(..., 1), [E]),
    "assignment of an array": (lambda xp, x, **_: x.__setitem__(0, x[1]), [C]),
    "rows in place": (lambda xp, x, **_: add_to_rows(x), [E]),
    "memory": (lambda xp, **_: (xp.empty(3), xp.empty_like(xp.empty(2))), []),
    "zeros": (lambda xp, x, **_: (xp.zeros(3), xp.zeros_like(x), xp.zeros((0, 3))), [M, M]),
    "filled": (lambda xp, **_: (xp.full(3, 2), xp.ones(3), xp.arange(3)), [E, E, E]),
    "concatenate a few": (lambda xp, few, **_: xp.concatenate(few), [C] * 3),
    "stack a few": (lambda xp, few, **_: xp.stack(few), [C] * 3),
    "concatenate many small ones": (lambda xp, many, **_: xp.concatenate(many), [C]),
    "sort": (lambda xp, x, **_: xp.argsort(x), ["sort"]),
    "cumsum": (lambda xp, x, **_: x.cumsum(), ["scan"]),
}


S = SCRATCH
ALLOCATIONS: dict[str, tuple[Callable[..., Any], list[int]]] = {
    "memory": (
        lambda xp, x, **_: (
            xp.empty(3, "f4"),
            xp.empty_like(x),
            xp.ndarray((2, 2)),
            xp.empty((0, 3)),
        ),
        [12, 96, 32],
    ),
    "filled": (
        lambda xp, **_: (xp.zeros(3), xp.full(2, 1, "i4"), xp.ones(1), xp.arange(4)),
        [24, 8, 8, 32],
    ),
    "sent": (
        lambda xp, x, **_: (xp.asarray(HOST), xp.array(HOST), xp.asarray(2.0), xp.asarray(x)),
        [24, 24, 8],
    ),
    "sent into what is there": (lambda xp, x, **_: x[:2, :3].set(HOST), []),
    "views": (
        lambda xp, x, **_: (
            x[1:],
            x[0, 0],
            x.T,
            x.reshape(6, 4),
            x.ravel(),
            list(x),
        ),
        [],
    ),
    "copies": (
        lambda xp, x, **_: (x.copy(), x.astype("f8")),
        [96, 192],
    ),
    "no copies": (lambda xp, x, **_: (x.astype("f4", copy=False), xp.ascontiguousarray(x)), []),
    "reshape of a part": (lambda xp, part, **_: part.reshape(-1), [48]),
    "a part made contiguous": (
        lambda xp, part, **_: xp.ascontiguousarray(part),
        [48],
    ),
    "a ufunc": (lambda xp, x, **_: (xp.exp(x), x > 0), [96, 24]),
    "an expression: one each": (lambda xp, x, **_: 0.5 * (1 + xp.tanh(0.5 * x)), [96] * 4),
    "into out, and in place": (lambda xp, x, **_: (xp.multiply(x, 2, out=x), x.__iadd__(1)), []),
    "into what is read elsewhere": (lambda xp, x, **_: xp.multiply(x[1:], 2, out=x[:3]), [72]),
    "where": (lambda xp, x, **_: xp.where(x, x, 0), [24, 96]),
    "sum over rows": (lambda xp, x, **_: x.sum(axis=0), [24]),
    "sum over rows into out": (lambda xp, x, out, **_: x[:, :4].sum(axis=0, out=out[0]), []),
    "sum of what lies side by side: CUB's scratch": (
        lambda xp, x, **_: (x.sum(), x.max(axis=1), x.T.sum(axis=0)),
        [4, S, 16, S, 16, S],
    ),
    "the same into out: memory of its own too": (
        lambda xp, x, out, **_: x.sum(axis=1, out=out[0]),
        [16, S],
    ),
    "mean": (lambda xp, x, **_: x.mean(axis=0), [24]),
    "argmax of rows": (lambda xp, x, **_: x.argmax(axis=1), [32]),
    "matmul": (lambda xp, x, **_: x @ x.T, [64]),
    "dot into out": (lambda xp, x, out, **_: xp.dot(x, x.T, out=out), []),
    "dot of a part": (lambda xp, x, part, **_: xp.dot(part.T, x), [48, 72]),
    "dot of two dtypes": (lambda xp, x, **_: xp.dot(x, x.T.astype("f8")), [192, 192, 128]),
    "dot over its own operand": (lambda xp, out, **_: xp.dot(out, out, out=out), [64]),
    "vdot: the products, their sum, scratch, the result": (
        lambda xp, x, **_: xp.vdot(x, x),
        [96, 4, S, 4],
    ),
    "a batch of products": (
        lambda xp, x, **_: xp.matmul(x.reshape(2, 2, 6), x.reshape(2, 6, 2)),
        [32],
    ),
    "rows by index": (lambda xp, x, i, **_: (x[i], x.take(i, axis=0)), [48, 48]),
    "rows by index into out": (lambda xp, x, i, **_: x.take(i, axis=0, out=x[2:]), []),
    "elements by two indices": (lambda xp, x, i, **_: x[i, i], [8, 16]),
    "a list as an index": (lambda xp, x, **_: x[[0, 1]], [16, 48]),
    "by mask": (lambda xp, x, **_: x[x > 30], [24, 192]),
    "assignment by index": (lambda xp, x, i, **_: x.__setitem__(i, x[:2]), []),
    "assignment of a scalar by index": (lambda xp, x, i, **_: x.__setitem__(i, 0.0), [4]),
    "assignment": (
        lambda xp, x, **_: (x.__setitem__(0, x[1]), x.fill(0), x.__setitem__(..., 1)),
        [],
    ),
    "assignment of what lies under it": (
        lambda xp, x, **_: x.__setitem__(slice(1, 4), x[:3]),
        [72],
    ),
    "concatenate a few": (lambda xp, few, **_: (xp.concatenate(few), xp.stack(few)), [72, 72]),
    "concatenate many small ones: their addresses": (
        lambda xp, many, **_: xp.concatenate(many),
        [72, 216],
    ),
    "read": (lambda xp, x, part, **_: (x.get(), float(x[0, 0]), part.get()), [48]),
    "cumsum": (lambda xp, v, **_: v.cumsum(), [24, S]),
    "argsort": (lambda xp, v, **_: xp.argsort(v), [24, S, 48]),
}


@pytest.mark.parametrize(("use", "sizes"), ALLOCATIONS.values(), ids=ALLOCATIONS)
def test_emulated_allocations_are_counted(
    use: Callable[..., Any], sizes: list[int], xp: ModuleType, emulator: Emulator
) -> None:
    operands = arrays(xp)
    with emulator.counting() as counts:
        use(xp, **operands)
    assert sorted(allocation.nbytes for allocation in counts.allocations) == sorted(sizes)
    assert {allocation.place.split(":")[0] for allocation in counts.allocations} <= {
        "test_emulated_counts.py"
    }


def add_to_rows(x: Any) -> None:
    x[1:3] += 1  # the rows are then assigned to themselves, which launches nothing


@pytest.mark.parametrize(("use", "kinds"), LAUNCHES.values(), ids=LAUNCHES)
def test_emulated_launches_are_counted(
    use: Callable[..., Any], kinds: list[str], xp: ModuleType, emulator: Emulator
) -> None:
    operands = arrays(xp)
    with emulator.counting() as counts:
        use(xp, **operands)
    assert [launch.kind for launch in counts.launches] == kinds
    assert counts.reads == []
    assert counts.waits == []


READS: dict[str, Callable[[Any, Any], Any]] = {
    "get": lambda xp, x: x.get(),
    "tolist": lambda xp, x: x.tolist(),
    "float": lambda xp, x: float(x),
    "int": lambda xp, x: int(x),
    "bool": lambda xp, x: "yes" if x > 0 else "no",
    "format": lambda xp, x: f"{x:.3f}",
    "repr": lambda xp, x: repr(x),
    "str": lambda xp, x: str(x),
}


@pytest.mark.parametrize("how", READS)
def test_emulated_reads_are_counted_with_their_place(
    how: str, xp: ModuleType, emulator: Emulator
) -> None:
    x = xp.full((), 2.5)
    with emulator.counting() as counts:
        READS[how](xp, x)
    (read,) = counts.reads
    assert read.how == how
    assert read.place.startswith("test_emulated_counts.py:")


def test_emulated_place_is_the_line_of_xpcap_that_asked(xp: ModuleType, emulator: Emulator) -> None:
    """Not that of the conversion in backend.py, which says little."""
    x = xp.ones(3)
    with emulator.counting() as counts:
        gradcheck.rel_error(x, x)
        xpcap.to_numpy(x)
    files = [read.place.split(":")[0] for read in counts.reads]
    assert files == 2 * ["xpcap/gradcheck.py"] + ["xpcap/backend.py"]
    assert counts.reads[0].place.endswith("(rel_error)")


def test_emulated_iteration_reads_only_what_is_looked_at(
    xp: ModuleType, emulator: Emulator
) -> None:
    total = sum(row for row in xp.ones(4))
    assert emulator.reads == []
    assert float(total) == 4.0
    assert 3.0 not in xp.ones(4)
    assert len(emulator.reads) == 5


def test_emulated_transfers_are_counted_apart(xp: ModuleType, emulator: Emulator) -> None:
    with emulator.counting() as counts:
        x = xp.asarray(np.zeros((2, 3), "f4"))
        xp.asarray(x, dtype="f4")  # is there already
        x[[0, 1]] = 1.0  # a list is sent, and so is the scalar that goes to an index
    assert [transfer.nbytes for transfer in counts.transfers] == [24, 16, 4]
    assert counts.kinds() == {"scatter": 1}
    assert str(counts) == "1 launches (1 scatter), 3 allocations, 0 reads, 3 transfers, 0 waits"


def test_emulated_counts_nest_and_reset(xp: ModuleType, emulator: Emulator) -> None:
    with emulator.counting() as outer:
        xp.zeros(3)
        with emulator.counting() as inner:
            xp.exp(xp.ones(3))
    xp.zeros(3)
    assert (len(inner.launches), len(outer.launches), len(emulator.launches)) == (2, 3, 4)
    assert inner.names() == {"elementwise full": 1, "elementwise exp": 1}
    assert [len(counts.allocations) for counts in (inner, outer, emulator)] == [2, 3, 4]
    emulator.reset()
    assert emulator.launches == emulator.allocations == []
    assert (len(outer.launches), len(outer.allocations)) == (3, 3)


def test_emulated_probe_is_not_counted(emulator: Emulator) -> None:
    with xpcap.use_backend("cupy"):
        assert xpcap.backend_status()["cupy"].devices == ("emulated", "emulated")
        assert type(xpcap.asarray(np.zeros(3))).__module__ == "cupy"
    assert (emulator.reads, emulator.launches) == ([], [])
    assert xpcap.get_backend() == "numpy"


def test_emulated_arrays_of_another_device_are_refused(xp: ModuleType, emulator: Emulator) -> None:
    here = xp.ones(3)
    with xp.cuda.Device(1):
        there = xp.ones(3)
        assert there.device.id == 1
        there += 1
    for use in (
        lambda: here + there,
        lambda: xp.exp(there),
        there.sum,
        lambda: xp.dot(here, there),
        lambda: there[xp.asarray([0])],
        lambda: there.fill(0),
    ):
        with pytest.raises(ValueError, match="array device = 1 while current = 0"):
            use()
    assert there.get().tolist() == [2, 2, 2]
    assert there[1:].shape == (2,)
    with pytest.raises(Exception, match="cudaErrorInvalidDevice"):
        xp.cuda.Device(2)


def test_emulated_clock_is_read_after_a_wait(xp: ModuleType, emulator: Emulator) -> None:
    start, end = xp.cuda.Event(), xp.cuda.Event()
    start.record()
    end.record()
    with pytest.raises(Exception, match="cudaErrorNotReady"):
        xp.cuda.get_elapsed_time(start, end)
    end.synchronize()
    assert xp.cuda.get_elapsed_time(start, end) >= 0
    xp.cuda.Stream.null.synchronize()
    xp.cuda.Device().synchronize()
    assert [wait.how for wait in emulator.waits] == [
        "Event.synchronize",
        "Stream.synchronize",
        "Device.synchronize",
    ]


def test_emulated_memory_is_what_the_test_says(xp: ModuleType, emulator: Emulator) -> None:
    emulator.free, emulator.pool_free = 100, 28
    assert xp.cuda.runtime.memGetInfo() == (100, emulator.total)
    pool = xp.get_default_memory_pool()
    assert (pool.free_bytes(), pool.total_bytes()) == (28, 28)
    pool.free_all_blocks()
    assert xp.cuda.runtime.memGetInfo() == (128, emulator.total)
    assert xp.cuda.runtime.getDeviceProperties(0)["name"] == b"emulated"


# Kernels

SCALE = """
typedef REAL real;
extern "C" __global__ void scale(const real* x, const int* shift, real* out, double by, int n, long long ahead) {
    const int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (GUARD) out[k] = x[k + ahead] * (real)by + shift[0];
}
"""
N = 300


def scale_kernel(xp: ModuleType, guard: str = "k < n", real: str = "float") -> Any:
    return xp.RawModule(
        code=SCALE.replace("GUARD", guard), options=(f"-DREAL={real}",)
    ).get_function("scale")


def scale_arguments(xp: ModuleType) -> list[Any]:
    return [
        xp.arange(N, dtype="f4"),
        xp.asarray(np.array([7], "i4")),
        xp.empty(N, "f4"),
        np.float64(2),
        np.int32(N),
        np.int64(0),
    ]


def test_emulated_kernels_run(device: Emulator) -> None:
    import cupy as xp

    args = scale_arguments(xp)
    with device.counting() as counts:
        scale_kernel(xp)((2,), (256,), tuple(args))
    assert counts.names() == {"raw scale": 1}
    np.testing.assert_array_equal(args[2].get(), np.arange(N) * 2 + 7)
    scale_kernel(xp)((2,), (256,), (args[2], args[1], args[2], *args[3:]))  # in place
    np.testing.assert_array_equal(args[2].get(), np.arange(N) * 4 + 21)


WRONG: dict[str, Callable[[Any, list[Any]], Any]] = {
    "a Python int": lambda xp, args: [*args[:4], N, args[5]],
    "a Python float": lambda xp, args: [*args[:3], 2.0, *args[4:]],
    "a long for an int": lambda xp, args: [*args[:4], np.int64(N), args[5]],
    "an int for a long": lambda xp, args: [*args[:5], np.int32(0)],
    "a float for a double": lambda xp, args: [*args[:3], np.float32(2), *args[4:]],
    "float64 for float32": lambda xp, args: [args[0].astype("f8"), *args[1:]],
    "long indices": lambda xp, args: [args[0], args[1].astype("i8"), *args[2:]],
    "a host array": lambda xp, args: [args[0].get(), *args[1:]],
    "a scalar for a pointer": lambda xp, args: [np.float32(1), *args[1:]],
    "an array for a scalar": lambda xp, args: [*args[:3], xp.full((), 2.0), *args[4:]],
    "one too few": lambda xp, args: args[:-1],
    "one too many": lambda xp, args: [*args, np.int32(0)],
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_emulated_kernels_refuse_what_c_would_misread(
    change: Callable[[Any, list[Any]], Any], device: Emulator
) -> None:
    import cupy as xp

    with pytest.raises(TypeError, match="scale"):
        scale_kernel(xp)((2,), (256,), tuple(change(xp, scale_arguments(xp))))
    assert device.kinds()["raw"] == 0


def test_emulated_kernels_refuse_strides_and_other_manners(device: Emulator) -> None:
    import cupy as xp

    args = scale_arguments(xp)
    with pytest.raises(ValueError, match="C-contiguous"):
        scale_kernel(xp)((2,), (256,), (xp.arange(2 * N, dtype="f4")[::2], *args[1:]))
    with pytest.raises(TypeError, match="grid is a int"):
        scale_kernel(xp)(2, (256,), tuple(args))
    with pytest.raises(ValueError, match="block"):
        scale_kernel(xp)((2,), (2048,), tuple(args))
    with pytest.raises(AttributeError, match="no kernel 'scales'"):
        xp.RawModule(code=SCALE.replace("GUARD", "1"), options=("-DREAL=float",)).get_function(
            "scales"
        )
    with pytest.raises(TypeError, match="option"):
        xp.RawModule(code=SCALE, option=("-DREAL=float",))


def test_emulated_kernels_run_on_the_device_of_their_arrays(device: Emulator) -> None:
    import cupy as xp

    device.configure(devices=2)
    args, kernel = tuple(scale_arguments(xp)), scale_kernel(xp)
    with xp.cuda.Device(1):
        with pytest.raises(ValueError, match="was loaded on device 0"):
            kernel((2,), (256,), args)
        with pytest.raises(ValueError, match="x lies on device 0"):
            scale_kernel(xp)((2,), (256,), args)


def test_emulated_kernels_are_caught_outside_their_arrays(device: Emulator) -> None:
    import cupy as xp

    args = scale_arguments(xp)
    with pytest.raises(RuntimeError, match="wrote outside out of 300 elements"):
        scale_kernel(xp, guard="n > 0")((2,), (256,), tuple(args))
    scale_kernel(xp)((2,), (256,), (*args[:5], np.int64(1)))  # reads one element too far
    assert np.isnan(args[2].get()[-1])
    assert not np.isnan(args[2].get()[:-1]).any()


def test_emulated_kernels_take_parts_of_one_buffer_and_one_array_twice(device: Emulator) -> None:
    """Buffers are cut into parts, and the state of one step is the next one's: only what lies
    across another argument is refused.
    """
    import cupy as xp

    x, shift, _, *numbers = scale_arguments(xp)
    flat = xp.empty(3 * N, "f4")
    flat[:N] = x
    scale_kernel(xp)((2,), (256,), (flat[:N], shift, flat[2 * N :], *numbers))
    np.testing.assert_array_equal(flat[2 * N :].get(), np.arange(N) * 2 + 7)
    scale_kernel(xp)(
        (2,), (256,), (flat[:N], shift, flat[:N].reshape(3, 100), *numbers)
    )  # the same memory in another shape
    np.testing.assert_array_equal(flat[:N].get(), np.arange(N) * 2 + 7)
    for part in (flat[1 : N + 1], flat[: N - 1], flat[: 2 * N]):
        with pytest.raises(
            NotImplementedError, match="scale: out overlaps another argument in part"
        ):
            scale_kernel(xp)((2,), (256,), (flat[:N], shift, part, *numbers))


def test_emulated_kernels_leave_a_record_of_what_they_wrote(device: Emulator) -> None:
    """A kernel that is given a whole buffer and goes wrong inside it is seen by this alone."""
    import cupy as xp

    x, shift, _, by, _, ahead = scale_arguments(xp)
    out = xp.empty((N, 5), "f4")
    with device.counting() as counts:
        scale_kernel(xp, guard="k >= 10 && k < n")(
            (2,), (256,), (x, shift, out, by, np.int32(20), ahead)
        )
    (written,) = counts.written
    assert written.kernel == "scale"
    assert written.place.startswith("test_emulated_counts.py:")
    assert {name: changes.ranges for name, changes in written.changes.items()} == {
        "x": [],
        "shift": [],
        "out": [(10, 20)],
    }
    with device.counting() as counts:
        scale_kernel(xp, guard="k % 7 == 0 && k < n")(
            (2,), (256,), (out, shift, out, by, np.int32(20), ahead)
        )
    (written,) = counts.written
    assert written.changes["x"] == written.changes["out"]
    assert written.changes["out"].ranges == [(14, 15)]  # 0 and 7 are NaN as before
