"""The CUDA kernels on the CPU: what the operations of the table launch, under sanitizers, and the
CPU build itself.

A kernel is found by its file, and its launches by the operations' table: nothing here names one but
mutants. test_emulated_kernels.py holds the operations to their equations.
"""

import functools
import math
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import cpu_build
import emulated
import numpy as np
import operations
import pytest
from cpu_build import REALS, Launch
from operations import TABLE, Draw

import xpcap
from xpcap.ops import DeviceOps
from xpcap.ops import device as device_ops

TOLERANCE = {"float": 1e-6, "double": 2e-15}  # of the largest value
FILES = {kernel: path for path in cpu_build.files() for kernel in cpu_build.parameters(path)}
BARRIERS = [k for k, path in FILES.items() if cpu_build.reaches(path, k, "__syncthreads")]


@pytest.fixture(scope="module", autouse=True)
def _compiler() -> None:
    with cpu_build.or_skip():
        cpu_build.compiler()


# ---- what the operations launch

SMALL = 60_000  # elements of an array that is recorded


@functools.cache
def recorded(real: str) -> dict[str, list[Launch]]:
    """By kernel, the largest launch of each small call in the table, in blocks of few threads."""
    found: dict[str, list[Launch]] = {kernel: [] for kernel in FILES}
    with pytest.MonkeyPatch.context() as patch:
        device = emulated.install_or_skip(patch)
        patch.setattr(device_ops, "CUDA", cpu_build.FEW)
        with xpcap.use_backend("cupy"):
            for op, row in TABLE.items():
                for call in row.calls(Draw(np.dtype(REALS[real]).name, device=True)):
                    if operations.size_of(call) >= SMALL:
                        continue
                    with device.recording() as launches:
                        operations.run(DeviceOps(), op, call)
                    for kernel in dict.fromkeys(one.kernel for one in launches):
                        own = [one for one in launches if one.kernel == kernel]
                        # The last of equals: backward, it has a step after it
                        found[kernel].append(max(own[::-1], key=lambda one: math.prod(one.grid)))
    return found


@pytest.mark.nightly
def test_cpu_build_builds_every_file_without_a_warning() -> None:
    jobs = [(path, real) for path in cpu_build.files() for real in REALS]
    with ThreadPoolExecutor(2) as pool:
        built = list(pool.map(lambda job: cpu_build.build(*job), jobs))
    assert [one.warnings for one in built] == [""] * len(built)


def test_every_kernel_of_every_file_is_launched_by_an_operation() -> None:
    idle = [kernel for kernel, launches in recorded("float").items() if not launches]
    assert idle == [], f"no operation launches {idle[0]}, of {FILES[idle[0]].name}, in a small call"


# ---- the sanitizers


class Mutant(NamedTuple):
    """A change of a kernel that makes its threads race: the `nth` match of a pattern is replaced, in
    which a space matches any number of blanks.
    """

    kernel: str
    name: str
    pattern: str
    instead: str
    nth: int = 0
    function: str = ""  # that the pattern is in; the kernel itself if empty

    def apply(self, launch: Launch) -> Launch:
        text = launch.source
        start, end = cpu_build.functions(text)[self.function or self.kernel]
        found = list(re.finditer(self.pattern.replace(" ", r"\s*"), text[start:end]))
        assert len(found) > self.nth, f"{self.kernel}: {self.pattern!r} is found {len(found)} times"
        first, last = (start + place for place in found[self.nth].span())
        return launch._replace(source=text[:first] + self.instead + text[last:])


def without_a_barrier(kernel: str) -> list[Mutant]:
    """A kernel without each of its barriers in turn, in itself and in what it calls."""
    text, barrier = cpu_build.text_of(FILES[kernel]), "__syncthreads();"
    return [
        Mutant(kernel, f"without barrier {nth + 1} of {name}", re.escape(barrier), "", nth, name)
        for name, (start, end) in cpu_build.functions(text).items()
        if name == kernel or cpu_build.reaches(FILES[kernel], kernel, name)
        for nth in range(text[start:end].count(barrier))
    ]


FIRST_PLACE = r"out\[\(long long\)k \* C", "out[0LL * C"
MUTANTS = [mutant for kernel in BARRIERS for mutant in without_a_barrier(kernel)] + [
    Mutant(
        "softmax_loss",
        "a score read late",
        "largest - target_score",
        "largest - scores[row + target]",
    ),
    Mutant("scatter", "rows in one place", r"out\[k\] =", "out[k % C] ="),
    Mutant("segment_sum", "two threads on one column", r"\+ column\] = sum", "+ column / 2] = sum"),
    Mutant("segment_sum", "all segments in one place", *FIRST_PLACE),
    Mutant("sequence_sum", "all sequences in one place", *FIRST_PLACE),
    Mutant("attend_step", "all sequences in one row", r"row = first \+ i", "row = first"),
    Mutant("attend_step_backward", "all add to one state", r"dh_next\[i \* H", "dh_next[0 * H"),
    Mutant("attention_sum", "all slabs in one place", r"p0 \+ p\) \* H", "p) * H"),
    Mutant("lstm_gates", "three gates a row", r"row\) \* 4 \* H", "row) * 3 * H"),
    Mutant("lstm_step", "blocks one unit apart", r"blockIdx\.x \* FORWARD_UNITS", "blockIdx.x"),
    Mutant("lstm_step_backward", "rows of this step", r"\(first \+ n \+ row0\)", "(first + row0)"),
    Mutant("adam_update", "no block's number", r"\(long long\)blockIdx\.x \* blockDim\.x \+", ""),
    Mutant("record_step", "every thread at it", r"if \(threadIdx\.x > 0\) return;", ""),
]


def sanitize(launch: Launch) -> cpu_build.Report:
    """Without some blocks, where there are many."""
    grid = tuple(min(n, 6) for n in launch.grid)
    return cpu_build.sanitize(
        launch.source, launch.real, launch.kernel, grid, launch.block, launch.args
    )


# Guards that keep a kernel from reading beyond an array what it drops afterwards
GUARDS = [
    ("line + j * stride < lines_left &&", ""),
    ("unit < units_left &&", ""),
    ("&& k < terms_left", ""),
    ("&& k + j % 2 * stride < terms_left", ""),
    ("p < P ? p : P - 1", "p"),
    ("t < steps && p < P ?", "t < steps ?"),
]
MOST_BLOCKS = 40  # of a launch under the address sanitizer, each with its threads


@pytest.mark.nightly
@pytest.mark.parametrize("kernel", FILES)
def test_cpu_build_reads_nothing_beyond_the_arrays_of_an_operation(kernel: str) -> None:
    """Not even what changes no result."""
    with cpu_build.or_skip():
        assert not (found := _beyond(kernel)), found


@pytest.mark.nightly
@pytest.mark.parametrize(("guard", "instead"), GUARDS)
def test_cpu_build_without_a_guard_reads_beyond_an_array(guard: str, instead: str) -> None:
    kernels = [k for k, path in FILES.items() if guard in cpu_build.text_of(path)]
    with cpu_build.or_skip():
        assert any(_beyond(kernel, guard, instead) for kernel in kernels)


def _beyond(kernel: str, guard: str = "", instead: str = "") -> str:
    """The first complaint of the address sanitizer about launches of few blocks; "" without one."""
    few = [one for one in recorded("float")[kernel] if math.prod(one.grid) <= MOST_BLOCKS]
    assert few
    for launch in few:
        text = launch.source.replace(guard, instead) if guard else launch.source
        if found := cpu_build.beyond(text, *launch[1:]):
            return found
    return ""


CLEAN = [(kernel, "float") for kernel in FILES] + [(kernel, "double") for kernel in BARRIERS]


def sanitized(key: Any) -> cpu_build.Report:
    """The report on a (kernel, type), or on a mutant's first launch that races."""
    if isinstance(key, Mutant):
        for launch in recorded("float")[key.kernel]:
            if (report := sanitize(key.apply(launch))).races:
                break
        return report
    kernel, real = key
    return sanitize(recorded(real)[kernel][0])


@pytest.mark.nightly
@pytest.mark.parametrize(("kernel", "real"), CLEAN)
def test_cpu_build_threads_do_not_race(kernel: str, real: str) -> None:
    """And compute what the emulated device computed."""
    with cpu_build.or_skip():
        report = sanitized((kernel, real))
    launch = recorded(real)[kernel][0]
    assert report.races == 0, report.text
    if max(launch.grid) > 6:  # some blocks are left out
        return
    copies = {id(x): x.copy() for x in launch.args if isinstance(x, np.ndarray)}
    args = [copies.get(id(x), x) for x in launch.args]
    cpu_build.build(launch.source, real).launch(kernel, launch.grid, launch.block, args)
    for got, want in zip(report.args, args, strict=True):
        atol = TOLERANCE[real] * operations.largest(np.asarray(want))
        np.testing.assert_allclose(got, want, rtol=TOLERANCE[real], atol=atol)


@pytest.mark.nightly
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.kernel}: {mutant.name}")
def test_race_of_a_mutant_is_reported(mutant: Mutant) -> None:
    with cpu_build.or_skip():
        report = sanitized(mutant)
    assert report.races > 0
    assert re.search(rf"#\d+ {mutant.kernel} ", report.text), "the report leads elsewhere"


@pytest.mark.nightly
def test_cpu_build_sanitizer_that_does_not_start_is_helped_or_explained() -> None:
    says = "echo 'FATAL: ThreadSanitizer: unexpected memory mapping' >&2; exit 66"
    with pytest.raises(
        cpu_build.UnavailableError, match=r"does not start here .*unexpected memory mapping"
    ):
        cpu_build.run_sanitized(["sh", "-c", says], b"")
    probe = subprocess.run(
        ["sh", "-c", "setarch $(uname -m) -R cat /proc/self/personality"],
        capture_output=True,
        text=True,
        check=False,
    )
    if probe.stdout.strip() != "00040000":
        pytest.skip(f"setarch -R does not work here: {probe.stderr.strip()}")
    helped = cpu_build.run_sanitized(
        ["sh", "-c", f'[ "$(cat /proc/self/personality)" = 00040000 ] && exec cat; {says}'], b"seen"
    )
    assert helped.stdout == b"seen"


# ---- the CPU build itself

HEAD = 'typedef REAL real;\nextern "C" __global__ void '


def on_floats(body: str, *arrays: np.ndarray, seed: int = 0, block: int = 4) -> None:
    """Run `body`, which knows its arrays as x, y, ..., as one block."""
    names = ", ".join(f"real* {name}" for name, _ in zip("xyz", arrays, strict=False))
    text = f"{HEAD}f({names}) {{ const int t = threadIdx.x; {body} }}"
    cpu_build.build(text, "float").launch("f", (1,), (block,), arrays, seed)


def test_cpu_build_finds_barriers_behind_calls() -> None:
    text = (
        "__device__ void g() { if (1) { __syncthreads(); } }\n__device__ void h() { g(); }\n"
        + HEAD
        + "f(real* x) { h(); }\n"
        + HEAD
        + "e(real* x) { }"
    )
    found = [name for name in "ghfe" if cpu_build.reaches(text, name, "__syncthreads")]
    assert found == ["g", "h", "f"]
    assert {"root", "clip", "log_softmax", "attend_step"} <= {*BARRIERS} < {*FILES}


def test_cpu_build_refuses_launches_that_a_gpu_refuses() -> None:
    built, x = cpu_build.build(f"{HEAD}f(real* x) {{ x[0] = 1; }}", "float"), np.zeros(1, "f4")
    for grid, block in (((0,), (256,)), ((1, 65536), (256,)), ((1,), (2048,)), ((1,), (0,))):
        with pytest.raises(ValueError, match="GPU does not launch"):
            built.launch("f", grid, block, [x])


def test_cpu_build_shared_memory_begins_as_nan() -> None:
    x = np.zeros(4, np.float32)
    shared = "__shared__ real s[4]; __shared__ real r[4]; r[t] = t; __syncthreads();"
    on_floats(f"{shared} x[t] = t == 2 ? s[t] : r[3 - t];", x)
    np.testing.assert_array_equal(x, [3, 2, np.nan, 0])
    with pytest.raises(RuntimeError, match="more shared memory"):
        on_floats("__shared__ real s[13000]; s[t] = 0; x[t] = s[t];", x)


def test_cpu_build_shuffles_the_order_of_threads() -> None:
    orders = []
    for body in (
        "y[(int)x[0]] = t; x[0] += 1;",
        "__syncthreads(); y[(int)x[0]] = t; x[0] += 1;",
    ):  # a loop, and fibers
        for seed in (0, 3):
            order = np.full(32, np.nan, np.float32)
            on_floats(body, np.zeros(1, np.float32), order, seed=seed, block=32)
            orders.append(order.tolist())
    assert orders[0] == orders[2] == list(range(32))
    assert orders[1] == orders[3] != orders[0]
    assert sorted(orders[1]) == orders[0]


@pytest.mark.slow
def test_cpu_build_rounds_as_a_gpu_where_it_is_asked_to() -> None:
    text = HEAD + "f(real* x, real* y) { y[0] = x[0] * x[0] - x[1]; y[1] = x[2] * x[3]; }"
    x = np.array([1 + 2**-12, 1 + 2**-11, 1e-30, 1e-10], np.float32)
    found = []
    for as_gpu in (False, True):
        y = np.zeros(2, np.float32)
        with cpu_build.or_skip():
            cpu_build.build(text, "float", as_gpu).launch("f", (1,), (1,), [x, y])
        found.append(y)
    assert found[0].tolist() == [0, np.float32(1e-40)]
    assert found[1].tolist() == [2**-24, 0]
    assert np.float32(1e-30) * np.float32(1e-10) > 0  # and the process rounds as before


MISSED = "if (t == 1) return; __syncthreads(); x[t] = t;"
IS_MISSED = "barrier that some threads of the block do not reach"


def test_cpu_build_barrier_that_some_threads_miss_is_an_error() -> None:
    for _ in range(2):  # and it leaves the next launch alone
        with pytest.raises(RuntimeError, match=IS_MISSED):
            on_floats(MISSED, np.zeros(4, np.float32))


@pytest.mark.nightly
def test_cpu_build_barrier_that_is_missed_under_the_sanitizer_is_an_error() -> None:
    text = f"{HEAD}f(real* x) {{ const int t = threadIdx.x; {MISSED} }}"
    with cpu_build.or_skip(), pytest.raises(RuntimeError, match=IS_MISSED):
        cpu_build.sanitize(text, "float", "f", (1,), (4,), [np.zeros(4, np.float32)])
