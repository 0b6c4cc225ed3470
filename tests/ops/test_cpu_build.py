"""The CUDA kernels on the CPU: what the operations launch under sanitizers, numbers that are not
ordinary, and the CPU build itself.

test_emulated_kernels.py holds the kernels to the equations.
"""

import functools
import math
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import cpu_build
import emulated
import numpy as np
import operations
import pytest
from cpu_build import KERNELS, REALS, THREADS, Launch
from operations import TABLE, Draw
from patterns import in_cuda

import xpcap
from xpcap.device import launch as launching
from xpcap.ops import DeviceOps, LossTerms, Ops
from xpcap.ops import device as device_ops

TOLERANCE = {"float": 1e-6, "double": 2e-15}  # of the largest value
FILES = {kernel: path for path in cpu_build.files() for kernel in cpu_build.parameters(path)}
ATTENTION = ("attend_step", "attend_step_backward", "attention_sum")
BARRIERS = {
    kernel
    for path in cpu_build.files()
    for kernel in cpu_build.with_barriers(path) & set(cpu_build.parameters(path))
}
# Elements before and behind an array: as far as the threads of a block reach that have no guard
BAND = 256


@pytest.fixture(scope="module", autouse=True)
def _compiler() -> None:
    try:
        cpu_build.compiler()
    except cpu_build.UnavailableError as reason:
        pytest.skip(str(reason))


# ---- what the operations launch

# Threads of a block here: the sanitizer tells 255 threads apart, and forgets what happened before
# when there are more
FEW = 32
# 16 units of four rows, the least that the threads of lstm_step.cu share out
FEWEST = {"lstm_step": 64, "lstm_step_backward": 64}
SMALL = 60_000  # elements of an array that is recorded


@functools.cache
def recorded(real: str) -> dict[str, list[Launch]]:
    """By kernel, the largest launch of each small call in the table, in blocks of few threads."""
    fused = [op for op in TABLE if op.startswith("fused")]
    found: dict[str, list[Launch]] = {kernel: [] for kernel in FILES}
    for threads, names in ((FEW, TABLE.keys() - fused), (max(FEWEST.values()), fused)):
        for op in filter(names.__contains__, TABLE):
            for launches in _launches(op, real, threads):
                for kernel in dict.fromkeys(one.kernel for one in launches):
                    own = [one for one in launches if one.kernel == kernel]
                    # The last of equals: backward, it has a step after it
                    found[kernel].append(max(own[::-1], key=lambda one: math.prod(one.grid)))
    return found


def _launches(op: str, real: str, threads: int) -> Iterator[list[Launch]]:
    """Of each small call of an operation."""
    with pytest.MonkeyPatch.context() as patch:
        device = emulated.install_or_skip(patch)
        constants = {"THREADS": threads, "NORM_BLOCKS": threads}
        kernels = launching.Kernels("xpcap.ops", device_ops.CUDA.constants | constants)
        for module in (launching, device_ops):
            patch.setattr(module, "THREADS", threads)
        patch.setattr(device_ops, "NORM_BLOCKS", threads)
        patch.setattr(device_ops, "SEGMENT_COLUMNS", threads // device_ops.SEGMENT_PARTS)
        for name in ("kernel", "launch"):
            patch.setattr(device_ops, name, getattr(kernels, name))
        with xpcap.use_backend("cupy"):
            for call in TABLE[op].calls(Draw(np.dtype(REALS[real]).name, device=True)):
                if operations.size_of(call) < SMALL:
                    with device.recording() as launches:
                        operations.run(DeviceOps(), op, call)
                    yield launches


class Row(NamedTuple):
    """How near one call of an operation comes to the equation in float64."""

    op: str
    real: str
    size: int  # elements of its largest array
    error: float  # relative to the largest value of an array


def arithmetic_table() -> list[Row]:
    """Every operation at every size, on the emulated device."""
    rows = []
    with pytest.MonkeyPatch.context() as patch:
        emulated.install(patch)
        for op, real in ((op, real) for op in TABLE for real in REALS):
            with xpcap.use_backend("cupy"):
                for call in TABLE[op].calls(Draw(np.dtype(REALS[real]).name, device=True)):
                    pairs = operations.compared(DeviceOps(), op, call)
                    rows.append(Row(op, real, operations.size_of(call), max(map(_error, pairs))))
    return rows


def _error(pair: tuple[np.ndarray, np.ndarray]) -> float:
    ours, theirs = (x[np.isfinite(pair[1])].astype(float) for x in pair)
    return float(np.abs(ours - theirs).max(initial=0)) / (operations.largest(theirs) or 1)


def test_cpu_build_builds_every_file_without_a_warning() -> None:
    with ThreadPoolExecutor(2) as pool:
        built = list(
            pool.map(
                lambda job: cpu_build.build(*job),
                [(path, real) for path in cpu_build.files() for real in REALS],
            )
        )
    assert [one.warnings for one in built] == [""] * len(built)


def test_every_kernel_of_every_file_is_launched_by_an_operation() -> None:
    assert [kernel for kernel, launches in recorded("float").items() if not launches] == []


# ---- numbers that are not ordinary


def launch(kernel: str, real: str, grid: int, *args: Any) -> None:
    cpu_build.build(FILES[kernel], real).launch(kernel, (grid,), (THREADS,), args)


def reals(real: str, *numbers: float) -> list[np.floating]:
    """Scalars of the real type."""
    return [REALS[real](number) for number in numbers]


def ints(*numbers: int) -> tuple[np.int32, ...]:
    return tuple(map(np.int32, numbers))


def guarded(values: np.ndarray) -> np.ndarray:
    """A copy with BAND elements on either side of it."""
    whole = np.full(values.size + 2 * BAND, _guard(values.dtype), values.dtype)
    inside = whole[BAND : BAND + values.size].reshape(values.shape)
    inside[...] = values
    return inside


def bands_are_whole(array: np.ndarray) -> bool:
    """Whether nothing wrote beyond a guarded array's ends."""
    whole = array.base
    assert whole is not None
    assert whole.size == array.size + 2 * BAND
    bands = np.concatenate([whole[:BAND], whole[-BAND:]])
    return bands.tobytes() == np.full(2 * BAND, _guard(array.dtype), array.dtype).tobytes()


def _guard(dtype: np.dtype) -> float:
    return np.nan if dtype.kind == "f" else 113


@pytest.mark.parametrize("real", REALS)
def test_cpu_build_softmax_loss_takes_huge_and_infinite_scores_as_the_equations_do(
    real: str,
) -> None:
    inf, nan = np.inf, np.nan
    rows = [
        ([1e30, -1e30, 0, 1e30], 0),
        ([1e30, -1e30, 0, 1e30], 1),
        ([-1e30, -1e30, -1e30, -1e30], 2),
        ([-inf, 0, 1, 2], 3),
        ([-inf, 0, 1, 2], 0),
        ([-inf, -inf, -inf, -inf], 0),
        ([0, inf, 1, 2], 0),
        ([0, 1, nan, 2], 0),
        ([nan, 0, 1, 2], 1),
    ]
    scores = np.array([row for row, _ in rows], REALS[real])
    targets = np.array([target for _, target in rows], np.int32)
    with np.errstate(all="ignore"):
        nll, dscores = Ops().softmax_loss(scores.astype(float), targets, LossTerms())
    got_nll, got = (
        guarded(np.full(len(rows), nan, REALS[real])),
        guarded(np.full(scores.shape, nan, REALS[real])),
    )
    bias = np.zeros(4, REALS[real])
    launch(
        "softmax_loss",
        real,
        len(rows),
        scores,
        bias,
        targets,
        bias,
        *reals(real, 1, 1, 0),
        got_nll,
        got,
        np.int32(0),
        np.int32(0),
        np.int32(4),
    )
    np.testing.assert_allclose(got_nll, nll, rtol=TOLERANCE[real])
    np.testing.assert_allclose(got, dscores, rtol=TOLERANCE[real], atol=TOLERANCE[real])


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("target", [-1, -2, -100, 4, 2**31 - 1, -(2**31)])
def test_cpu_build_softmax_loss_of_a_target_outside_the_vocabulary_is_nan(
    real: str, target: int
) -> None:
    """And nothing beyond the scores is read or written."""
    scores, nll, got = (guarded(np.full(shape, 0.5, REALS[real])) for shape in ((1, 4), 1, (1, 4)))
    one = np.ones(4, REALS[real])
    launch(
        "softmax_loss",
        real,
        1,
        scores,
        one,
        np.array([target], np.int32),
        one,
        *reals(real, 1, 1, 0),
        nll,
        got,
        *ints(1, 0, 4),
    )
    assert np.isnan(nll[0])
    np.testing.assert_allclose(got, 0.25)
    assert all(bands_are_whole(x) for x in (nll, got))


@pytest.mark.parametrize("real", REALS)
def test_cpu_build_attention_takes_scores_of_any_size_and_passes_nan_on(real: str) -> None:
    """Whole numbers, so that the scores, up to a thousand on either side of 0, are exact; exp() of
    one overflows above 88, or 709 in double.
    """
    rng, (n, P, H) = np.random.default_rng(3), (7, 49, 16)
    A, h = (
        rng.integers(-most, most, shape, endpoint=True).astype(REALS[real])
        for most, shape in ((16, (n, P, H)), (64, (n, H)))
    )
    h[1] *= 0  # equal scores
    A[2], h[2] = 16, 64  # equal and large
    A[3], h[3] = 16, -64  # and as far below 0
    A[4, -1, 0] = np.nan
    scores = np.matmul(A, h[:, :, None])[..., 0] / 4.0
    assert np.nanmax(np.abs(scores)) > 4000
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    weights, context = (
        guarded(np.zeros((n, P), REALS[real])),
        guarded(np.zeros((n, H), REALS[real])),
    )
    launch("attend_step", real, n, h, A, weights, context, *ints(0, 0, P, H))
    assert np.isnan(weights[4]).all()
    np.testing.assert_allclose(weights, p, rtol=TOLERANCE[real], atol=1e-30)
    np.testing.assert_allclose(
        context, np.matmul(p[:, None], A)[:, 0], rtol=TOLERANCE[real], atol=16 * TOLERANCE[real]
    )


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("soft", [False, True])
def test_cpu_build_draws_no_word_of_probability_0(soft: bool, real: str) -> None:
    """Wherever the uniform falls: at 0, as near 1 as it can come, and on the sums themselves."""
    rng, (n, V) = np.random.default_rng(7), (40, 1004)
    p = rng.random((n, V)).astype(REALS[real]) * (rng.random((n, V)) < 0.05)
    p[0], p[1], p[2, :-1] = 0, 0, 0
    p[0, V - 1], p[1, 0], p[2, -1] = 1, 1, 0.5
    sums = p.cumsum(axis=1)
    below_1 = np.nextafter(REALS[real](1), REALS[real](0))
    on_a_sum = sums[np.arange(n), rng.integers(V, size=n)] / sums[:, -1]
    with np.errstate(divide="ignore"):
        x = np.log(p) if soft else p
    for u in (np.zeros(n), np.full(n, below_1), on_a_sum, rng.random(n)):
        words = guarded(np.full(n, -1, np.int32))
        uniforms = np.minimum(u, below_1).astype(REALS[real])
        launch("sample_words", real, n, x, uniforms, words, *reals(real, 1), *ints(soft, V))
        assert (p[np.arange(n), words] > 0).all()


@pytest.mark.parametrize("real", REALS)
def test_cpu_build_choices_from_odd_scores_are_words_all_the_same(real: str) -> None:
    inf, nan = np.inf, np.nan
    scores = np.array(
        [[1, nan, 3, nan], [-inf, -inf, -inf, -inf], [-inf, 2, inf, inf], [0, 5, 5, nan]],
        REALS[real],
    )
    words = guarded(np.full(4, -1, np.int32))
    launch("argmax", real, 4, scores, words, np.int32(4))
    assert words.tolist() == scores.argmax(axis=1).tolist() == [1, 0, 2, 3]
    u = np.full(4, 0.5, REALS[real])
    launch("sample_words", real, 4, scores, u, words, *reals(real, 1), *ints(1, 4))
    assert words.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("real", REALS)
def test_cpu_build_beam_without_enough_words_goes_on_with_null(real: str) -> None:
    """Two pictures: the second one's only hypothesis has one word left, the first two of none."""
    inf = np.inf
    scores = np.array([[-inf, np.nan, -inf], [-inf, -3, -inf]], REALS[real])
    totals, rows = np.array([1, 2], REALS[real]), np.array([0, 2], np.int32)
    words, parents = (guarded(np.full(4, -1, np.int32)) for _ in range(2))
    new = guarded(np.full(4, np.nan, REALS[real]))
    args = [scores, scores, totals, rows, words, parents, new, *ints(2, 2, 2, 9, 3)]
    launch("beam_step", real, 2, *args)
    assert words.tolist() == [9, 9, 1, 9]
    assert parents.tolist() == [0, 0, 1, 1]
    assert new.tolist() == [-inf, -inf, -1, -inf]


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("norm", [np.nan, np.inf, 0.0, 5.0, 4.999, 1e150])
def test_cpu_build_clip_leaves_x_alone_where_the_norm_is_not_finite(real: str, norm: float) -> None:
    with np.errstate(all="ignore"):
        norm_array = np.array(norm, REALS[real])
        x = np.array([1, -2.5, 0, np.inf, np.nan, 3e-30], REALS[real])
        wanted = x * (5.0 / np.maximum(norm_array, 5.0)) if np.isfinite(norm_array) else x.copy()
    partial, found = np.zeros(256), np.zeros(1, REALS[real])
    partial[7] = norm * norm
    launch("clip", real, 256, x, partial, found, *reals(real, 5), np.int64(len(x)))
    np.testing.assert_allclose(x, wanted, rtol=TOLERANCE[real])
    np.testing.assert_allclose(found[0], norm_array, rtol=TOLERANCE[real])


@pytest.mark.parametrize("real", REALS)
def test_cpu_build_norm_keeps_nan_and_infinity_and_does_not_overflow_early(real: str) -> None:
    def norm(*values: float) -> float:
        x, partial, out = (
            np.array(values, REALS[real]),
            np.full(256, np.nan),
            np.full((), np.nan, REALS[real]),
        )
        launch("squares", real, 256, x, partial, np.int64(len(x)))
        launch("root", real, 1, partial, out)
        return float(out)

    assert norm(3, 4) == 5
    assert norm(3e30, 4e30) == pytest.approx(5e30, rel=1e-6)
    assert norm(1, -np.inf, 2) == np.inf
    assert np.isnan(norm(1, np.nan, 2))
    assert np.isnan(norm(np.nan, np.inf))
    assert norm(3e38, 3e38) == (np.inf if real == "float" else pytest.approx(4.242640687e38))


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize(
    ("loss", "norm", "before", "after"),
    [
        (1.5, 2.5, 1, 1),
        (1.5, 2.5, 0, 0),
        (np.nan, 2.5, 1, 0),
        (1.5, np.nan, 1, 0),
        (np.inf, 2.5, 1, 0),
        (1.5, -np.inf, 1, 0),
        (np.nan, np.inf, 0, 0),
    ],
)
def test_cpu_build_record_step_notes_what_is_not_finite_for_good(
    real: str, loss: float, norm: float, before: float, after: float
) -> None:
    record = np.full((4, 2), 7, REALS[real])
    record[0, 0] = before
    launch(
        "record_step",
        real,
        1,
        record,
        np.array(loss, REALS[real]),
        np.array(norm, REALS[real]),
        np.int32(1),
    )
    np.testing.assert_array_equal(record, np.array([[after, 7], [7, 7], [loss, norm], [7, 7]]))


@pytest.mark.parametrize("real", REALS)
def test_cpu_build_dropped_units_are_zero_whatever_they_were(real: str) -> None:
    x, mask = np.array([np.nan, np.inf, 2, 3], REALS[real]), np.array([False, False, False, True])
    launch("dropout", real, 1, x, mask, x, *reals(real, 2), np.int64(4))
    np.testing.assert_array_equal(x, [0, 0, 0, 6])


@pytest.mark.parametrize("real", REALS)
def test_cpu_build_adam_leaves_what_has_no_gradient(real: str) -> None:
    w, zero = np.array([1.25, -3], REALS[real]), np.zeros(2, REALS[real])
    m, v = zero.copy(), zero.copy()
    launch(
        "adam_update",
        real,
        1,
        w,
        zero,
        m,
        v,
        *reals(real, 1e-3, 0.9, 0.1, 0.999, 0.001, 1e-8),
        np.int64(2),
    )
    np.testing.assert_array_equal([w, m, v], [[1.25, -3], [0, 0], [0, 0]])


# ---- the sanitizers


class Mutant(NamedTuple):
    """A change of a kernel: the `nth` match of a pattern is replaced; see patterns.py."""

    kernel: str
    name: str
    pattern: str
    instead: str
    nth: int = 0
    call: int = 0  # which of the recorded launches
    function: str = ""  # that the pattern is in; the kernel itself if empty

    def apply(self, launch: Launch) -> Launch:
        function = self.function or self.kernel
        text, count = in_cuda(launch.source, function, self.pattern, self.instead, self.nth)
        assert count == 1, f"{self.kernel}: {self.pattern!r} is not found {self.nth + 1} times"
        return launch._replace(source=text)


BARRIER = r"__syncthreads\(\);"
MUTANTS = [
    Mutant("softmax_loss", "no barrier before the maxima meet", BARRIER, "", 0),
    Mutant("softmax_loss", "no barrier within the tree of maxima", BARRIER, "", 1),
    Mutant("softmax_loss", "no barrier before the sums take the maximum's place", BARRIER, "", 2),
    Mutant("softmax_loss", "no barrier before the sums meet", BARRIER, "", 3),
    Mutant("softmax_loss", "no barrier within the tree of sums", BARRIER, "", 4),
    Mutant(
        "softmax_loss",
        "no barrier before the sum of scores takes the sum's place",
        BARRIER,
        "",
        5,
        -1,
    ),
    Mutant(
        "softmax_loss",
        "the target's score read after the gradient took its place",
        "most - target_score",
        "most - scores[row + target]",
        0,
        -4,
    ),
    Mutant("squares", "no barrier before the sums meet", BARRIER, "", 0),
    Mutant("weighted_sum", "no barrier within the tree", BARRIER, "", 1),
    Mutant("scatter", "rows in one place", r"out\[k\] =", "out[k % C] ="),
    Mutant("root", "no barrier within the tree", BARRIER, "", 1, function="root_of"),
    Mutant("clip", "no barrier before the partial sums meet", BARRIER, "", 0, function="root_of"),
    Mutant("segment_sum", "two threads on one column", r"\+ column\] = sum", "+ column / 2] = sum"),
    Mutant(
        "segment_sum",
        "all segments in the first one's place",
        r"out\[\(long long\)k \* C",
        "out[0LL * C",
    ),
    Mutant("segment_sum", "no barrier before the parts are added", BARRIER, "", 0, 5),
    *(
        Mutant("log_softmax", f"no barrier {place}", BARRIER, "", nth, function="maximum")
        for nth, place in enumerate(
            (
                "before the maxima meet",
                "within the tree of maxima",
                "before the sums take the maxima's place",
            )
        )
    ),
    Mutant("log_softmax", "no barrier before the sums meet", BARRIER, "", 0),
    Mutant("argmax", "no barrier before the scores meet", BARRIER, "", 0),
    Mutant("argmax", "no barrier within the tree", BARRIER, "", 1),
    Mutant("sample_words", "no barrier before the sums are added up", BARRIER, "", 0),
    Mutant("sample_words", "no barrier before the sums are used", BARRIER, "", 1),
    Mutant("beam_step", "no barrier before the candidates meet", BARRIER, "", 0),
    Mutant("beam_step", "no barrier within the tree", BARRIER, "", 1),
    Mutant("beam_step", "no barrier before the next pass", BARRIER, "", 2),
    Mutant("column_sum", "no barrier before the lines meet", BARRIER, "", 0),
    Mutant("column_sum", "no barrier within the tree", BARRIER, "", 1),
    Mutant(
        "sequence_sum",
        "all sequences in the first one's place",
        r"out\[\(long long\)k \* C",
        "out[0LL * C",
    ),
    *(
        Mutant(kernel, f"no barrier {place}", BARRIER, "", nth, function=function)
        for kernel in ("attend_step", "attend_step_backward")
        for nth, (function, place) in enumerate(
            (
                ("multiply", "before the parts meet"),
                ("multiply", "before the next parts take their place"),
            )
        )
    ),
    Mutant("attend_step", "no barrier before the maxima meet", BARRIER, "", 0),
    Mutant("attend_step", "no barrier before the sums meet", BARRIER, "", 1),
    Mutant("attend_step_backward", "no barrier before the sums meet", BARRIER, "", 0),
    Mutant("attend_step_backward", "no barrier before the scores' gradients meet", BARRIER, "", 1),
    Mutant(
        "attend_step", "all sequences in the first one's row", r"row = first \+ i", "row = first"
    ),
    Mutant(
        "attend_step_backward",
        "all sequences add to the first one's state",
        r"dh_next\[i \* H",
        "dh_next[0 * H",
    ),
    Mutant("attention_sum", "no barrier before the factors are used", BARRIER, "", 0),
    Mutant(
        "attention_sum", "no barrier before the next factors take their place", BARRIER, "", 1, 3
    ),
    Mutant("attention_sum", "all slabs in the first one's place", r"p0 \+ p\) \* H", "p) * H"),
    Mutant(
        "lstm_gates", "rows of three gates", r"\(first \+ row\) \* 4 \* H", "(first + row) * 3 * H"
    ),
    *(
        Mutant(kernel, f"no barrier {place}", BARRIER, "", nth)
        for kernel in ("lstm_step", "lstm_step_backward")
        for nth, place in enumerate(
            (
                "before the tiles are multiplied",
                "before the next tiles take their place",
                "before the parts are added",
            )
        )
    ),
    Mutant("lstm_step", "blocks one unit apart", r"blockIdx\.x \* FORWARD_UNITS", "blockIdx.x"),
    Mutant(
        "lstm_step_backward",
        "this step's rows for those of the next",
        r"\(first \+ n \+ row0\)",
        "(first + row0)",
        call=2,
    ),
    Mutant(
        "adam_update",
        "the block's number forgotten",
        r"\(long long\)blockIdx\.x \* blockDim\.x \+",
        "",
    ),
    Mutant("record_step", "every thread at it", r"if \(threadIdx\.x > 0\) return;", ""),
]


def sanitize(launch: Launch) -> cpu_build.Report:
    """Without some blocks, where there are many."""
    grid = tuple(min(n, 6) for n in launch.grid)
    return cpu_build.sanitize(
        launch.source, launch.real, launch.kernel, grid, launch.block, launch.args
    )


GUARDS = [
    *(
        (FEWEST, f"{guard} &&", "")
        for guard in ("line + j * apart < lines_left", "unit < units_left")
    ),
    *(
        (FEWEST, f"&& {guard}", "")
        for guard in ("k < terms_left", "k + j % 2 * apart < terms_left")
    ),
    (ATTENTION, "p < P ? p : P - 1", "p"),
    (ATTENTION, "t < steps && p < P ?", "t < steps ?"),
]


MOST_BLOCKS = 40  # of a launch under the address sanitizer, each with its threads


@pytest.mark.parametrize("kernel", FILES)
def test_cpu_build_reads_nothing_beyond_the_arrays_of_an_operation(kernel: str) -> None:
    """Not even what changes no result."""
    try:
        assert not (found := _beyond((kernel,))), found
    except cpu_build.UnavailableError as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize(
    ("kernels", "guard", "instead"), GUARDS, ids=[guard for _, guard, _ in GUARDS]
)
@pytest.mark.slow
def test_cpu_build_step_reads_nothing_beyond_its_arrays(
    kernels: Any, guard: str, instead: str
) -> None:
    """Not even what it drops afterwards, which no result shows; without one of its guards it
    does.
    """
    try:
        assert not (right := _beyond(tuple(kernels))), right
        assert _beyond(tuple(kernels), guard, instead)
    except cpu_build.UnavailableError as reason:
        pytest.skip(str(reason))


@functools.cache
def _beyond(kernels: tuple[str, ...], guard: str = "", instead: str = "") -> str:
    """The first complaint of the address sanitizer about launches of few blocks; "" without one."""
    few = [
        one
        for kernel in kernels
        for one in recorded("float")[kernel]
        if math.prod(one.grid) <= MOST_BLOCKS
    ]
    assert {one.kernel for one in few} == {*kernels}
    for launch in few:
        assert guard in launch.source
        text = launch.source.replace(guard, instead) if guard else launch.source
        if found := cpu_build.beyond(text, *launch[1:]):
            return found
    return ""


CLEAN = [
    (kernel, real) for kernel in FILES for real in REALS if real == "float" or kernel in BARRIERS
]


def sanitized(key: Any) -> cpu_build.Report:
    """The report on a (kernel, type) or a Mutant."""
    if isinstance(key, Mutant):
        return sanitize(key.apply(recorded("float")[key.kernel][key.call]))
    kernel, real = key
    return sanitize(recorded(real)[kernel][0])


def sanitized_or_skip(key: Any) -> cpu_build.Report:
    """The same in a test; skips where the sanitizer does not run."""
    try:
        return sanitized(key)
    except cpu_build.UnavailableError as reason:
        pytest.skip(str(reason))


def sanitizer_table() -> list[tuple[str, str, int]]:
    """(kernel, the mutant's name or "", races that the sanitizer reports)."""
    for real in REALS:
        recorded(real)
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(sanitized, [*CLEAN, *MUTANTS]))
    names = [(f"{kernel}, {real}", "") for kernel, real in CLEAN] + [
        (mutant.kernel, mutant.name) for mutant in MUTANTS
    ]
    return [(*name, report.races) for name, report in zip(names, reports, strict=True)]


@pytest.mark.parametrize(("kernel", "real"), CLEAN)
def test_cpu_build_threads_do_not_race(kernel: str, real: str) -> None:
    """And compute what the emulated device computed."""
    report, launch = sanitized_or_skip((kernel, real)), recorded(real)[kernel][0]
    assert report.races == 0, report.text
    if max(launch.grid) > 6:  # some blocks are left out
        return
    copies = {id(x): x.copy() for x in launch.args if isinstance(x, np.ndarray)}
    args = [copies.get(id(x), x) for x in launch.args]
    cpu_build.build(launch.source, real).launch(kernel, launch.grid, launch.block, args)
    for got, want in zip(report.args, args, strict=True):
        atol = TOLERANCE[real] * operations.largest(np.asarray(want))
        np.testing.assert_allclose(got, want, rtol=TOLERANCE[real], atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.kernel}: {mutant.name}")
def test_race_of_a_mutant_is_reported(mutant: Mutant) -> None:
    report = sanitized_or_skip(mutant)
    assert report.races > 0
    assert re.search(rf"#\d+ {mutant.kernel} ", report.text), (
        "the report does not lead to the kernel"
    )


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
    names = "xyz"[: len(arrays)]
    text = (
        f"{HEAD}f({', '.join(f'real* {name}' for name in names)}) {{ const int t = threadIdx.x;"
        f" {body} }}"
    )
    cpu_build.build(text, "float").launch("f", (1,), (block,), arrays, seed)


def test_cpu_build_reads_what_a_kernel_takes() -> None:
    names = [
        (p.name, p.type, p.pointer, p.const)
        for p in cpu_build.parameters(KERNELS / "softmax_loss.cu")["softmax_loss"]
    ]
    assert names[1:] == [
        ("bias", "real", True, True),
        ("targets", "int", True, True),
        ("scale", "real", True, True),
        ("same", "real", False, False),
        ("kept", "real", False, False),
        ("rest", "real", False, False),
        ("nll", "real", True, False),
        ("dscores", "real", True, False),
        ("biased", "int", False, False),
        ("each", "int", False, False),
        ("V", "int", False, False),
    ]
    assert cpu_build.parameters(KERNELS / "dropout.cu")["dropout"][1] == (
        "mask",
        "unsigned char",
        True,
        True,
    )
    assert cpu_build.parameters(KERNELS / "adam.cu")["adam_update"][-1] == (
        "n",
        "long long",
        False,
        False,
    )
    with pytest.raises(ValueError, match="does not read"):
        cpu_build.parameters("__global__ void f(int* x) {}")


def test_cpu_build_finds_barriers_behind_calls() -> None:
    text = (
        "__device__ void g() { if (1) { __syncthreads(); } }\n__device__ void h() { g(); }\n"
        + HEAD
        + "f(real* x) { h(); }\n"
        + HEAD
        + "e(real* x) { }"
    )
    assert cpu_build.with_barriers(text) == {"g", "h", "f"}
    assert {"root", "clip", "log_softmax", "attend_step"} <= BARRIERS  # by functions that they call
    assert set(FILES) > BARRIERS


@pytest.mark.parametrize(("number", "wrong", "error"), [
    (0, 1, "expected an array of float32"),
    (0, np.zeros(4), "array of float32"),
    (0, np.zeros((4, 2), np.float32)[:, 0], "contiguous"),
    (1, np.zeros(4, np.int64), "array of uint8"),
    (3, 0.5, "a NumPy scalar of float32"),
    (3, np.float64(0.5), "a NumPy scalar of float32"),
    (4, np.int32(4), "a NumPy scalar of int64"),
    (4, 4, "a NumPy scalar of int64"),
])  # fmt: skip
def test_cpu_build_refuses_arguments_of_another_type(number: int, wrong: Any, error: str) -> None:
    args: list[Any] = [
        np.zeros(4, np.float32),
        np.ones(4, bool),
        np.zeros(4, np.float32),
        np.float32(0.5),
        np.int64(4),
    ]
    launch("dropout", "float", 1, *args)
    args[number] = wrong
    with pytest.raises((TypeError, ValueError), match=error):
        launch("dropout", "float", 1, *args)
    with pytest.raises(TypeError, match="expected 5: x, mask, out, scale, n"):
        launch("dropout", "float", 1, *args[:4])


def test_cpu_build_refuses_read_only_outputs_and_launches_that_a_card_refuses() -> None:
    x = np.zeros(4, np.float32)
    x.flags.writeable = False
    args = [x, np.ones(4, bool), x.copy(), np.float32(0.5), np.int64(4)]
    launch("dropout", "float", 1, *args)
    with pytest.raises(ValueError, match="writable"):
        launch("dropout", "float", 1, *args[:2], x, *args[3:])
    for grid, block in (((0,), (256,)), ((1, 65536), (256,)), ((1,), (2048,)), ((1,), (0,))):
        with pytest.raises(ValueError, match=r"card does not launch|more than 1024"):
            cpu_build.build(FILES["dropout"], "float").launch("dropout", grid, block, args)


def test_cpu_build_shared_memory_begins_as_nan() -> None:
    x = np.zeros(4, np.float32)
    on_floats(
        "__shared__ real s[4]; __shared__ real r[4]; r[t] = t; __syncthreads(); x[t] = t == 2 ?"
        " s[t] : r[3 - t];",
        x,
    )
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


def test_cpu_build_rounds_as_a_card_where_it_is_asked_to() -> None:
    text = HEAD + "f(real* x, real* y) { y[0] = x[0] * x[0] - x[1]; y[1] = x[2] * x[3]; }"
    x = np.array([1 + 2**-12, 1 + 2**-11, 1e-30, 1e-10], np.float32)
    found = []
    for as_card in (False, True):
        y = np.zeros(2, np.float32)
        try:
            cpu_build.build(text, "float", as_card).launch("f", (1,), (1,), [x, y])
        except cpu_build.UnavailableError as reason:
            pytest.skip(str(reason))
        found.append(y)
    assert found[0].tolist() == [0, np.float32(1e-40)]
    assert found[1].tolist() == [2**-24, 0]
    assert np.float32(1e-30) * np.float32(1e-10) > 0  # and the process rounds as before


def test_cpu_build_barrier_that_some_threads_miss_is_an_error() -> None:
    body, x = "if (t == 1) return; __syncthreads(); x[t] = t;", np.zeros(4, np.float32)
    for _ in range(2):  # and it leaves the next launch alone
        with pytest.raises(
            RuntimeError, match="barrier that some threads of the block do not reach"
        ):
            on_floats(body, x)
    text = f"{HEAD}f(real* x) {{ const int t = threadIdx.x; {body} }}"
    try:
        with pytest.raises(
            RuntimeError, match="barrier that some threads of the block do not reach"
        ):
            cpu_build.sanitize(text, "float", "f", (1,), (4,), [x])
    except cpu_build.UnavailableError as reason:
        pytest.skip(str(reason))


def test_cpu_build_writing_beyond_an_end_is_seen() -> None:
    x = guarded(np.zeros(4, np.float32))
    on_floats("x[t] = 1;", x)
    assert bands_are_whole(x)
    on_floats("x[t + 1] = 1;", x)
    assert not bands_are_whole(x)
