"""The emulated device against what is known of cupy: what it counts, and every difference to NumPy
that it refuses or shows. docs/develop/testing-without-a-gpu.md lists them all.

Rows of text are cases, and their expressions the ids of tests.
"""

import io
import itertools
import re
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest

import xpcap
from emulated import Emulator, in_thread, install_or_skip, memory, real
from emulated.record import SCRATCH
from xpcap import gradcheck
from xpcap.backend.launch import Kernel, parameters

pytestmark = pytest.mark.usefixtures("few_threads")

LACKING = ("errstate", "insert", "spacing", "nditer", "ndenumerate", "geomspace")


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """Two devices: whoever uses the other one's arrays is told."""
    return install_or_skip(monkeypatch, devices=2)


@pytest.fixture
def xp(emulator: Emulator) -> ModuleType:
    """The stand-in, as a program that imports cupy gets it."""
    import cupy

    return cupy


@pytest.fixture
def x(xp: ModuleType) -> Any:
    """A device array of some values."""
    return xp.asarray(np.arange(24, dtype="f4").reshape(4, 6))


@pytest.fixture
def names(xp: ModuleType, x: Any) -> dict[str, Any]:
    """What the expressions use: modules, arrays, and the kernel below."""
    with xp.cuda.Device(1):
        there = xp.ones(3)
    part, row, v = x[:, :3], x[:1], x[0]  # no product takes the part as it is
    i, s, out = xp.asarray(np.array([0, 2], "i4")), xp.full((), 2.5), xp.empty((4, 4), "f4")
    host, flat = np.ones((4, 6), "f4"), xp.empty(900, "f4")
    return {**locals(), "np": np, "io": io, "h5py": h5py, "scale": scale}


def cases(text: str) -> pytest.MarkDecorator:
    """Parametrize a test by rows of text, ``expression ; expression ... | cell | cell``.

    A line that ends with ; is continued, and one that begins with # a comment.
    """
    lines = "\n".join(line for line in text.splitlines() if line[:1] not in ("", "#"))
    rows = []
    for line in lines.replace(" ;\n", " ; ").splitlines():
        expressions, *cells = line.split(" | ")
        rows += [[expression.strip(), *cells] for expression in expressions.split(" ; ")]
    ids = [expression for expression, *_ in rows]
    assert len(set(ids)) == len(ids), "an expression occurs twice"
    return pytest.mark.parametrize("row", rows, ids=ids)


def run(expression: str, names: dict[str, Any]) -> None:
    """Run it at a place of this file."""
    exec(compile(expression, __file__, "exec"), {**names})


# ---- Counts


@cases("""
# expression | launches | bytes of memory taken | and what the host sends and reads, or waits for
0.5 * (1 + xp.tanh(0.5 * x)) | 4 elementwise | 96 96 96 96
xp.multiply(x, 2, out=x) | elementwise | -
x[:0] + 1 | - | -
x.sum(axis=0) | reduction | scratch 24
x @ x.T | product | 64
xp.dot(part.T, x) | product | 72
x[1:], x[0, 0], x[:, None], x.T, x.reshape(6, 4), x.ravel(), list(x) | - | -
x.copy(), x.astype("f8") | 2 copy | 96 192
x[i] ; xp.take(x, i, axis=0) | gather | 48
x[i] = x[:2] | scatter | -
x[...] = 0 | memset | -
# the rows are then assigned to themselves, which launches nothing
x[1:3] += 1 | elementwise | -
xp.empty(3, "f4"), xp.empty_like(x), xp.empty((0, 3)) | - | 12 96
xp.asarray(host), xp.asarray(2.0) | - | 96 8 | sent: 96 8
x.set(host) | - | - | sent: 96 | waits: set from memory that is not pinned
xp.concatenate([row] * 3) | 3 copy | 72
x.get() | - | - | reads: get
float(s), int(s) | - | - | reads: float, int
"yes" if s > 0 else "no" | elementwise | 1 | reads: bool
f"{s:.3f}", repr(s), str(s) | - | - | reads: format, repr, str
""")
def test_emulated_work_is_counted(
    row: list[str], names: dict[str, Any], emulator: Emulator
) -> None:
    expression, launches, sizes, *more = row
    with emulator.counting() as counts:
        run(expression, names)
    kinds = itertools.groupby(launch.kind for launch in counts.launches)
    runs = [f"{len([*same])} {kind}".removeprefix("1 ") for kind, same in kinds]
    assert ", ".join(runs) == launches.strip("-")
    taken = sizes.strip("-").replace("scratch", str(SCRATCH)).split()
    assert [allocation.nbytes for allocation in counts.allocations] == [*map(int, taken)]
    waits = {
        "reads": ", ".join(read.how for read in counts.reads),
        "sent": " ".join(str(transfer.nbytes) for transfer in counts.transfers),
        "waits": ", ".join(wait.how for wait in counts.waits),
    }
    assert {k: v for k, v in waits.items() if v} == dict(cell.split(": ") for cell in more)


def test_emulated_place_is_the_line_of_xpcap_that_asked(x: Any, emulator: Emulator) -> None:
    """Not that of the conversion in switch.py, which says little."""
    with emulator.counting() as counts:
        gradcheck.rel_error(x, x)
        xpcap.to_numpy(x)
    files = [read.place.split(":")[0] for read in counts.reads]
    assert files == 2 * ["xpcap/gradcheck.py"] + ["xpcap/backend/switch.py"]


def test_emulated_clock_is_read_after_a_wait(xp: ModuleType) -> None:
    start, end = xp.cuda.Event(), xp.cuda.Event()
    start.record()
    end.record()
    with pytest.raises(Exception, match="cudaErrorNotReady"):
        xp.cuda.get_elapsed_time(start, end)
    end.synchronize()
    assert xp.cuda.get_elapsed_time(start, end) >= 0


# ---- Results


@cases("""
a.sum() ; a.max() ; a.mean() ; a.argmax() ; a[1, 1] ; (a > 3).all() ; xp.sqrt(2.0) ; next(iter(a[0])) ;
a.T + 1 ; a.T[xp.asarray([0, -1])] ; a.T.max(axis=0) ; a.T @ a ; xp.where(a.T > 1, a.T, 0) ;
a * 2.0 ; a * np.float64(2) ; a / 3 ; a + xp.ones(2, "float32") ; a.sum(dtype=np.float64) ;
a.argmax(axis=0) ; xp.exp(a) ; a.cumsum(axis=1) ; xp.arange(3) ; xp.full(3, 2) ; xp.maximum(a, 0.5) ;
xp.asarray([-1.5, 2.5]).astype("i4") ; xp.argsort(a, axis=0, kind="stable")
""")
def test_emulated_results_are_those_of_numpy_2_in_contiguous_arrays_and_never_scalars(
    row: list[str], xp: ModuleType
) -> None:
    for dtype in ("float32", "float64", "int32", "bool"):
        host = np.ones((20, 2), dtype)
        ours = eval(row[0], {"np": np, "xp": xp, "a": xp.asarray(host)})
        theirs = eval(row[0], {"np": np, "xp": np, "a": host})
        assert type(ours) is xp.ndarray
        assert ours.flags.c_contiguous
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        np.testing.assert_array_equal(ours.get(), theirs)


def test_emulated_atomic_additions_differ_from_time_to_time(xp: ModuleType) -> None:
    """As on a GPU, bits differ and sums do not: what has to give equal bits twice may not use
    it.
    """
    rng, sums = np.random.default_rng(0), []
    rows, ids = rng.standard_normal((400, 3)).astype("f4"), rng.integers(0, 2, 400).astype("i4")
    for _ in range(4):
        out = xp.zeros((2, 3), "f4")
        xp.add.at(out, xp.asarray(ids), xp.asarray(rows))
        sums.append(out.get())
    expected = np.stack([rows[ids == k].sum(axis=0) for k in range(2)])
    np.testing.assert_allclose(sums[0], expected, rtol=1e-4)
    assert len({s.tobytes() for s in sums}) > 1


def test_emulated_memory_is_poisoned(xp: ModuleType, x: Any) -> None:
    """So that reading what was never written shows."""
    for empty in (xp.empty((2, 3), "f4"), xp.empty_like(x)):
        assert np.isnan(empty.get()).all()
    found = xp.empty(3, np.int32).get()
    assert (found > 2**30).all()
    assert (found % 2 == 1).all()


def test_emulated_copies_to_pinned_memory_are_there_after_a_wait(
    xp: ModuleType, x: Any, emulator: Emulator
) -> None:
    """Each event brings the copies begun before it was recorded."""
    pinned = [xp.cuda.alloc_pinned_memory(x.nbytes) for _ in range(2)]
    first, second = (np.ndarray(x.shape, x.dtype, buffer) for buffer in pinned)
    expected, event = x.get(), xp.cuda.Event()
    emulator.reset()
    x.get(out=first, blocking=False)
    event.record()
    x += 1  # the copy comes first
    x.get(out=second, blocking=False)
    assert emulator.reads == []
    assert not (first == expected).any()
    event.synchronize()
    np.testing.assert_array_equal(first, expected)
    assert not (second == expected + 1).any()
    xp.cuda.Stream.null.synchronize()
    np.testing.assert_array_equal(second, expected + 1)


def test_emulated_addresses_are_remembered_for_the_thread_that_asked(x: Any) -> None:
    """Ranks that are threads launch kernels between each other's questions."""
    address = x.data.ptr
    in_thread(lambda: memory.take_asked([]))
    assert [asked.shape for asked in memory.take_asked([address]) or ()] == [x.shape]


def test_emulated_other_device_computes_with_its_own_arrays(
    xp: ModuleType, names: dict[str, Any]
) -> None:
    there = names["there"]
    with xp.cuda.Device(1):
        assert there.device.id == 1
        there += 1
    assert there.get().tolist() == [2, 2, 2]


# ---- Refusals


@cases("""
# NumPy takes no array of the device
np.asarray(x) ; np.array(x) ; np.ascontiguousarray(x) ; host[...] = x ;
h5py.File(io.BytesIO(), "w")["x"] = x | TypeError | Implicit conversion
np.add(host, 1, out=x) ; np.exp(x) ; np.sum(x) ; np.float32(2) * x ; host + x ; np.concatenate([x, x]) ;
np.linalg.norm(x) | TypeError | was called on a device array
# and the device none of the host
x + host ; x += host ; x @ host.T ; x == host ; x * np.array(2.0) ; xp.exp(host) ;
xp.maximum(host, 0) ; xp.where(x > 1, host, 0) ; xp.where(host > 1, x, 0) ; xp.dot(host, host.T) ;
xp.vdot(x, host) ; xp.reshape(host, (6, 4)) ; xp.take(host, 0) ; xp.take(x, np.array([0, 1])) ;
xp.argsort(host) ; xp.concatenate([x, host]) ; xp.stack([host, host]) ;
xp.zeros_like(host) ; xp.searchsorted(v, host[0]) ; x[np.array([0, 1])] ; x[:] = host ;
x[0] = host[0] ; x[i] = host[:2] ; x[np.array([0])] = 1.0 ; xp.add.at(x, i, host[:2]) ;
xp.exp(x, out=host) | TypeError | numpy.ndarray
xp.add(x, [1, 2, 3, 4, 5, 6]) ; x[0] = [1, 2, 3, 4, 5, 6] | TypeError | list
x.fill(np.array(1.0)) | TypeError | expected a scalar
# calls that cupy would not take
x.sum(where=x > 0) ; x.max(initial=0) ; xp.exp(x, where=x > 0) ; xp.take(x, i, mode="clip") ;
xp.asarray(host, device="cpu") ; xp.empty(3, like=x) ; xp.dot(x, x.T, None, 1) ;
xp.exp(x, x, x) | TypeError | cupy.
xp.add.at(xp.zeros(3, "i8"), i, 1) | TypeError | int64
xp.argsort(x, kind="quicksort") | ValueError | stably
xp.asarray(np.array(["a"])) ; xp.asarray(np.array([None])) ;
xp.asarray(np.array(["2020-01-01"], "M8[D]")) ; xp.empty(3, "O") | ValueError | Unsupported dtype
x.get(out=np.empty_like(host), blocking=False) | ValueError | pinned memory
# indices out of range, which cupy wraps, and equal ones in an assignment
x[i + 2] ; x[i - 5] ; x[i + 2, i] ; x[i - 5, i] ; xp.take(x, i + 2, axis=0) ;
xp.take(x, i - 5, axis=0) ; x[i + 2] = 0.0 ; x[i - 5] = 0.0 ;
xp.add.at(x, i + 2, 1.0) ; xp.add.at(x, i - 5, 1.0) | IndexError | out of bounds
x[xp.asarray([1, 1])] = 1.0 ; x[xp.asarray([3, -1])] = 1.0 ;
x[xp.asarray([0, 0]), xp.asarray([1, 1])] = xp.ones(2, "f4") ;
x[:, xp.asarray([3, 3])] = 1.0 | IndexError | duplicate
# a mask, for whose size the host waits
x[x > 3] ; x[x > 3] = 0.0 | IndexError | expected integers
# casts whose results differ between the libraries
xp.asarray([1.0, np.nan]).astype("i4") ; xp.asarray([1.0, np.inf]).astype("i8") ;
xp.asarray([1.0, -1.0]).astype("u1") ; xp.asarray([1.0, 3e9]).astype("i4") ;
xp.empty(2, "i4")[:] = xp.asarray([1.0, np.nan]) ;
xp.empty(2, "u1")[:] = xp.asarray([1.0, -1.0]) | ValueError | cupy and numpy differ
# an out of another dtype, shape or layout
xp.dot(x, x.T, out=xp.empty((4, 8), "f4")[:, ::2]) | ValueError | C-contiguous
xp.dot(x, x.T, out=xp.empty((4, 4), "f8")) ; xp.dot(x, x.T, out=xp.empty((4, 2), "f4")) ;
xp.exp(x, out=xp.empty((4, 6), "f8")) ; xp.exp(x, out=xp.empty((1, 6), "f4")) ; x.sum(axis=0, out=xp.empty(6, "f8")) | TypeError | out is
# arrays of another device
v[:3] + there ; xp.exp(there) ; there.sum() ; xp.dot(v[:3], there) ; there[xp.asarray([0])] ;
there.fill(0) | ValueError | array device = 1 while current = 0
scale(shift=there) | ValueError | lies on device 1
xp.cuda.Device(2) | RuntimeError | cudaErrorInvalidDevice
# names that are not there
xp.kaiser ; x.choose ; xp.cuda.Graph | NotImplementedError | is not modelled
xp.random.default_rng(0) | NotImplementedError | xpcap draws on the host
x.tostring ; x.setflags ; x.flags.writeable ; xp.cuda.runtime.getCard | AttributeError | has no attribute
# arrays that a kernel in C would misread
scale(x=xp.arange(300, dtype="f8")) ; scale(shift=xp.asarray([7])) | TypeError | scale
scale(x=xp.arange(600, dtype="f4")[::2]) | ValueError | C-contiguous
scale(name="scales") | AttributeError | no kernel 'scales'
xp.RawModule(code="", option=("-DREAL=float",)) | TypeError | option
# that writes, or lies, where it should not
scale(guard="n > 0") | RuntimeError | wrote outside out of 300 elements
scale(out=flat[1:301], x=flat[:300]) ; scale(out=flat[:299], x=flat[:300]) ;
scale(out=flat[:600], x=flat[:300]) | NotImplementedError | overlaps another argument in part
""")
def test_emulated_device_refuses(row: list[str], names: dict[str, Any], emulator: Emulator) -> None:
    expression, error, text = row
    with pytest.raises(Exception, match=re.escape(text)) as caught:
        run(expression, names)
    assert error in [base.__name__ for base in type(caught.value).__mro__]
    assert emulator.kinds()["raw"] == 0


def test_emulated_names_are_those_of_cupy(xp: ModuleType, x: Any) -> None:
    """What the device offers cupy has, and documents; what NumPy has alone is missing."""
    from emulated.functions import FUNCTIONS

    for name in LACKING:
        with pytest.raises(AttributeError, match=f"module 'cupy' has no attribute '{name}'"):
            getattr(xp, name)
    assert {name for name in FUNCTIONS if not hasattr(real.cupy(), name)} == set()
    methods = [
        name for name in vars(type(x)) if name[0] != "_" and callable(getattr(type(x), name))
    ]
    for name in methods:
        real.signature(f"ndarray.{name}")  # that calls can be held against


# ---- Kernels

SCALE = """
typedef REAL real;
extern "C" __global__ void scale(const real* x, const int* shift, real* out, double by, int n, long long ahead) {
    const int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (GUARD) out[k] = x[k + ahead] * (real)by + shift[0];
}
"""
N = 300
SCALED = np.arange(N) * 2 + 7


def scale(guard: str = "k < n", name: str = "scale", **changes: Any) -> Any:
    """Launch the kernel, with some arguments changed; its array `out`."""
    import cupy

    arrays = cupy.arange(N, dtype="f4"), cupy.asarray(np.array([7], "i4")), cupy.empty(N, "f4")
    named = dict(zip(("x", "shift", "out"), arrays, strict=True), by=2.0, n=N, ahead=0) | changes
    code = SCALE.replace("GUARD", guard)
    module = cupy.RawModule(code=code, options=("-DREAL=float",))
    kernel = Kernel(cupy, 0, module, name, parameters(code, "scale", "float"))
    kernel(N, *named.values())
    return named["out"]


def test_emulated_kernels_run_on_parts_of_one_buffer_and_one_array_twice(
    xp: ModuleType, emulator: Emulator
) -> None:
    """Buffers are cut into parts, and the state of one step is the next one's."""
    flat = xp.empty(3 * N, "f4")
    flat[:N] = xp.arange(N, dtype="f4")
    with emulator.counting() as counts:
        scale(x=flat[:N], out=flat[2 * N :])
    assert counts.names()["raw scale"] == 1
    np.testing.assert_array_equal(flat[2 * N :].get(), SCALED)
    scale(x=flat[:N], out=flat[:N].reshape(3, 100))  # the same memory in another shape
    np.testing.assert_array_equal(flat[:N].get(), SCALED)


def test_emulated_kernels_read_nan_beyond_their_arrays(xp: ModuleType) -> None:
    found = scale(ahead=1).get()
    assert np.isnan(found[-1])
    assert not np.isnan(found[:-1]).any()
