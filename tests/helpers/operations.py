"""Every operation of `xpcap.ops.OPERATIONS`, with arguments to call it on: drawn by the shapes that its
docstring states, or by a row of its own.

A row draws calls at ragged sizes and at edge cases, with NaN in memory that is overwritten or must
not be read, of numbers that are huge, and of no rows. The first call is small, and still fills more
than one block of 32 threads; it is drawn again with ties and, unless a docstring says what must be
finite, with NaN and infinities. Numbers in [0, 1) are drawn by their row alone.

test_kernels.py holds the host's versions to the equations in float64, test_emulated_kernels.py the
device's, in any order of threads and with a GPU's roundings; a device's version also has to name
an array that it cannot take. test_cpu_build.py runs the launches under sanitizers.
"""

import inspect
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from unittest.mock import Mock

import numpy as np

from xpcap import layers, ops
from xpcap.backend import asarray, to_numpy
from xpcap.backend.memory import Workspace
from xpcap.layers import Pointwise
from xpcap.layers.recurrent import backward_steps, forward_steps
from xpcap.ops import (
    NO_TARGET,
    OPERATIONS,
    BeamRows,
    CellBuffers,
    CellGradients,
    LossTerms,
    Ops,
    PackedSequences,
    Step,
    get_ops,
    log_softmax,
    segments,
    single_step,
)
from xpcap.options import described

CELLS = {name: cell for name, cell in layers.CELLS.items() if isinstance(cell, Pointwise)}
CELLS = {"lstm": CELLS.pop("lstm"), **CELLS}  # first: it has kernels
# Largest difference from the equation in float64, relative to the largest value of an array: on the
# host or the emulated device, and on a GPU. Emulated, a GPU's roundings alone take 74 % of the
# first, and a product summed in order 92 %; no GPU has shown what its cuBLAS takes.
TOLERANCES = {"float32": (1e-6, 3e-6), "float64": (2e-15, 1e-14)}


class Draw:
    """Arguments of one dtype, from one seed; `device` adds cases that only a device knows."""

    def __init__(self, dtype: str, device: bool = False, seed: int = 7) -> None:
        self.dtype, self.device, self.rng = np.dtype(dtype), device, np.random.default_rng(seed)

    def normal(self, *shape: int) -> np.ndarray:
        return np.asarray(self.rng.standard_normal(shape)).astype(self.dtype)

    def zeros(self, *shape: int) -> np.ndarray:
        return np.zeros(shape, self.dtype)

    def poison(self, *shape: int) -> np.ndarray:
        return np.full(shape, np.nan, self.dtype)

    def below(self, high: int, *shape: int) -> np.ndarray:
        """Row numbers or words 0..high-1."""
        return self.rng.integers(0, high, shape).astype(np.int32)

    def some(self, count: int, high: int) -> np.ndarray:
        """Distinct numbers below `high`, ascending."""
        return np.sort(self.rng.permutation(high)[:count]).astype(np.int32)

    def mask(self, *shape: int) -> np.ndarray:
        return np.asarray(self.rng.random(shape) < 0.7)


class Call(NamedTuple):
    """One call: its arguments on the host, and the use made of the function that a loop gets."""

    arguments: tuple[Any, ...]
    use: Callable[[Any, tuple[Any, ...]], Any] | None = None


class Operation(NamedTuple):
    """A row of the table."""

    draw: Callable[[Draw], Iterator[Any]]
    changes: Sequence[Callable[[np.ndarray], np.ndarray]]  # of numbers, that the docstring allows
    scratch: int | None = None  # number of an argument that a version may leave anything in

    def calls(self, draw: Draw) -> list[Call]:
        calls = [made if isinstance(made, Call) else Call(made) for made in self.draw(draw)]
        return [*calls, *(with_numbers(change, calls[0]) for change in self.changes)]


def tied(x: np.ndarray) -> np.ndarray:
    """Whole numbers, many of them equal."""
    return np.rint(x)


def odd(x: np.ndarray) -> np.ndarray:
    """The same with NaN, infinities and zeros of both signs, each several times in a row."""
    numbers = np.array([np.nan, -np.inf, -0.0, np.nan, 0.0, np.inf, np.inf, -0.0], x.dtype)
    x = x.copy()
    x.flat[2::3] = np.resize(numbers, x.flat[2::3].shape)
    return x


def with_numbers(change: Callable[[np.ndarray], np.ndarray], call: Call) -> Call:
    """A call with the floats that it reads changed."""

    def changed(x: np.ndarray) -> np.ndarray:
        return x if x.dtype.kind != "f" or np.isnan(x).all() else change(x)

    return call._replace(arguments=each(changed, call.arguments))


CHANGES = {tied: "in [0, 1)", odd: "must be finite"}  # each with the words that decline it


def changes_of(equation: Callable[..., Any]) -> list[Callable[[np.ndarray], np.ndarray]]:
    text = " ".join((inspect.getdoc(equation) or "").split())
    return [change for change, declines in CHANGES.items() if declines not in text]


TABLE: dict[str, Operation] = {}  # by the operation's name


def row(scratch: int | None = None) -> Callable[..., Any]:
    """Add the function's operation to the table."""

    def add(draw: Callable[[Draw], Iterator[Any]]) -> Callable[[Draw], Iterator[Any]]:
        TABLE[draw.__name__] = Operation(draw, changes_of(getattr(Ops, draw.__name__)), scratch)
        return draw

    return add


def sizes_of(text: str) -> list[tuple[int, ...]]:
    """Tuples of numbers, ``3 5 37, 1 1 1``."""
    return [tuple(map(int, sizes.split())) for sizes in text.split(", ")]


def layout(N: int, T: int) -> PackedSequences:
    """N sequences of up to T steps, longest first; the last one without any if there are more."""
    lengths = np.linspace(T, 0 if N > T else 1, N).astype(int)
    sizes, count, *indices = PackedSequences.of([int((lengths > t).sum()) for t in range(T)], N)
    return PackedSequences(
        sizes, count, *(None if x is None else x.astype(np.int32) for x in indices)
    )


def steps_of(N: int, T: int) -> PackedSequences:
    """N sequences of T, T - 1, ... steps, at least one."""
    sizes = [max(N - 2 * t, 1) for t in range(T)]
    return PackedSequences.of(sizes, N)


# ---- Products

NOTHING = (0, 7, 5), (3, 0, 5), (3, 7, 0)  # n, k, m


@row()
def matmul(draw: Draw) -> Iterator[Any]:
    yield draw.normal(3, 7), draw.normal(7, 5), draw.poison(3, 5)
    # Enough for a share on each core
    yield draw.normal(300, 512) / 20, draw.normal(512, 1000) / 20, draw.poison(300, 1000)
    for n, k, m in NOTHING:
        yield draw.normal(n, k), draw.normal(k, m), draw.poison(n, m)
        yield draw.normal(n, k), draw.normal(k, m)


def _product(factor: Any, arguments: tuple[Any, ...]) -> Any:
    (w,) = arguments
    x = asarray(np.random.default_rng(8).standard_normal((40, len(w))).astype(w.dtype))
    return get_ops(x).matmul(x, factor)


@row()
def factor(draw: Draw) -> Iterator[Any]:
    yield Call((draw.normal(7, 40),), _product)
    yield Call((draw.normal(512, 150) / 20,), _product)  # blocks of columns, and of rows


def _products(multiply: Any, arguments: tuple[Any, ...]) -> None:
    for i, o, n in ((2, 0, 3), (0, min(4, len(arguments[2]) - 4), 4)):
        multiply(i, o, n)


@row()
def row_matmul(draw: Draw) -> Iterator[Any]:
    for k in (7, 0):
        yield Call((draw.normal(11, k), draw.normal(k, 12), draw.normal(16, 12)), _products)


@row()
def row_matmul_add(draw: Draw) -> Iterator[Any]:
    yield from row_matmul(draw)


@row()
def row_matmul_nt(draw: Draw) -> Iterator[Any]:
    for m, k in ((7, 12), (39, 12), (7, 0)):  # 39: blocks
        yield Call((draw.normal(11, k), draw.normal(m, k), draw.normal(5, m)), _products)


# ---- Losses


# Weights of each term of the loss alone, which checks of losses walk
TERMS: list[dict[str, Any]] = [{name: 0.1} for name in described(LossTerms)]


def with_terms(plain: list[Any], weighted: list[Any]) -> Iterator[tuple[int, Any, dict[str, Any]]]:
    """Number, sizes and terms of calls: of the first sizes without any, of the others with each."""
    sizes = [(one, {}) for one in plain] + [(one, terms) for terms in TERMS for one in weighted]
    return ((number, *one) for number, one in enumerate(sizes))


@row()
def softmax_loss(draw: Draw) -> Iterator[Any]:
    sizes = [(2, 300), (1, 1), (3, 2)], [(5, 255), (2, 256), (2, 257), (4, 1004)]
    for number, (R, V), weights in with_terms(*sizes):
        scores, targets = 3 * draw.normal(R, V), draw.below(V, R)
        targets[0] = scores[0].argmin()  # a gradient that is not small
        if draw.device and R > 2:
            targets[1] = NO_TARGET
        out = scores if number % 2 else draw.poison(R, V)
        scale = 0.375 if number % 3 == 1 else draw.normal(R)
        yield scores, targets, LossTerms(scale, **weights), out
    yield draw.normal(0, 5), draw.below(5, 0), LossTerms(), draw.poison(0, 5)
    inf, nan = np.inf, np.nan
    for rows, words in (
        ([[1e30, -1e30, 0, 1e30], [-1e30] * 4], [0, 2]),
        ([[1e30, -1e30, 0, 1e30]], [1]),
        ([[-inf, 0, 1, 2], [-inf, 0, 1, 2], [-inf] * 4, [0, inf, 1, 2]], [3, 0, 0, 0]),
        ([[0, 1, nan, 2], [nan, 0, 1, 2]], [0, 1]),
    ):
        scores = np.array(rows, draw.dtype)
        yield scores, np.array(words, np.int32), LossTerms(), draw.poison(*scores.shape)


@row()
def word_loss(draw: Draw) -> Iterator[Any]:
    # The last enough for a share on each core
    sizes = [(3, 4, 40)], [(3, 5, 300), (300, 512, 1000)]
    for number, (R, H, V), weights in with_terms(*sizes):
        scale = 0.125 if number == 1 else draw.normal(R)
        given = draw.normal(R, H) / 20, draw.normal(H, V) / 20, draw.normal(V), draw.below(V, R)
        terms = LossTerms(scale, **weights)
        yield *given, terms, draw.poison(R), draw.poison(R, V), draw.poison(R, H)
    given = draw.normal(0, 4), draw.normal(4, 5), draw.normal(5), draw.below(5, 0)
    yield *given, LossTerms(), draw.poison(0), draw.poison(0, 5), draw.poison(0, 4)


@row(scratch=2)
def weighted_sum(draw: Draw) -> Iterator[Any]:
    for n in (150, 1, 1000, 0):
        yield np.abs(draw.normal(n)), np.abs(draw.normal(n)), draw.poison()
    yield np.abs(draw.normal(300)), 0.375, draw.poison()


# ---- Rows of tables, and their gradients

# Rows, those of the table, columns
TABLES = sizes_of("3 5 37, 1 1 1, 3 4 257, 40 60 16, 0 5 37")


@row()
def gather(draw: Draw) -> Iterator[Any]:
    for R, K, C in TABLES:
        table, rows = draw.normal(K, C), draw.below(K, R)
        yield table, rows, draw.poison(R, C), None, 1.0
        yield table, rows, draw.poison(R, C), draw.mask(R, C), 0.75
        yield table, None, draw.poison(K, C), draw.mask(K, C), 0.75
        yield table, None, table, draw.mask(K, C), 0.75


@row()
def gather_regions(draw: Draw) -> Iterator[Any]:
    for R, K, C, P in sizes_of("2 3 9 2, 1 1 1 1, 5 3 37 3, 0 3 9 2"):
        table, rows = draw.normal(K, P, C), draw.below(K, R)
        yield table, rows, draw.poison(R, P, C), draw.mask(R, C), 0.75
        yield table, rows, draw.poison(R, P, C), None, 1.0


@row(scratch=0)
def gather_plus_image(draw: Draw) -> Iterator[Any]:
    for N, T, C in sizes_of("4 3 37, 1 1 1, 9 5 257, 4 0 37, 0 3 37"):
        rows = layout(N, T)
        table, ids, b = draw.normal(7, C), draw.below(7, rows.R), draw.normal(C)
        yield table, ids, b, draw.normal(N, C), rows, draw.poison(rows.R, C)


@row()
def scatter(draw: Draw) -> Iterator[Any]:
    for R, K, C in TABLES:
        for mask in (None, draw.mask(R, C)):
            yield draw.normal(R, C), draw.some(R, K), draw.poison(K, C), mask, 0.75


@row()
def segment_sum(draw: Draw) -> Iterator[Any]:
    """Some ids have no row, the last among them, and one may have most of them."""
    sizes = "20 50 3, 20 300 3, 1 1 1, 40 255 60, 200 33 31, 90 512 2, 0 50 3, 0 50 0"
    for R, C, K in sizes_of(sizes):
        ids = draw.below(max(K - 1, 1), R)
        yield draw.normal(R, C), segments(ids, K), draw.poison(K, C)
    yield draw.normal(5, 7), segments(np.full(5, 3), 4), draw.poison(4, 7)
    often = np.where(np.arange(200) % 3, draw.below(30, 200), 7)
    yield draw.normal(200, 70), segments(often, 31), draw.poison(31, 70)


@row()
def sequence_sum(draw: Draw) -> Iterator[Any]:
    for N, T, C in sizes_of("4 3 50, 1 1 1, 3 7 300, 9 5 33, 25 16 8, 4 0 50, 0 3 50"):
        rows = layout(N, T)
        yield draw.normal(rows.R, C), rows, draw.poison(N, C)


@row()
def add_rows(draw: Draw) -> Iterator[Any]:
    for R, C in sizes_of("5 17, 1 1, 9 64, 0 17"):
        yield draw.normal(R, C), draw.normal(C)
        yield draw.normal(R, C), draw.normal(R, C)


FLAT = 150, 1, 255, 256, 1000, 0


@row()
def dropout(draw: Draw) -> Iterator[Any]:
    for n in FLAT:
        yield draw.normal(n), draw.mask(n), 0.75


@row(scratch=1)
def add_to_regions(draw: Draw) -> Iterator[Any]:
    for N, P, H in sizes_of("5 3 17, 1 1 1, 3 49 64, 0 3 17, 5 0 17"):
        yield draw.normal(N, P, H), draw.normal(N, H)


# ---- The update of a training step

LARGE = 2 * (1 << 17) + 17  # two whole blocks of the host, and a rest


@row()
def global_norm(draw: Draw) -> Iterator[Any]:
    for n in (700, 1, 65536, 200_003, 0):
        yield (draw.normal(n),)
    yield (draw.normal(1000) * draw.dtype.type(1e28),)  # whose squares are too large for float32
    for numbers in ([1, -np.inf, 2], [1, np.nan, 2], [np.nan, np.inf]):
        yield (np.array(numbers, draw.dtype),)


@row()
def clip_by_norm(draw: Draw) -> Iterator[Any]:
    for n, most in ((700, 5.0), (1, 5.0), (256, 1e9), (70_001, 3.5), (70_001, 1e9), (0, 5.0)):
        yield draw.normal(n), most
    yield draw.normal(1000) * draw.dtype.type(1e28), 5.0
    for odd in (np.nan, np.inf):
        x = draw.normal(70_001)
        x[345] = odd
        yield x, 5.0
    yield draw.zeros(300), 5.0


@row()
def adam_update(draw: Draw) -> Iterator[Any]:
    for n in (*FLAT, LARGE):
        arrays = draw.normal(n), draw.normal(n), draw.normal(n), draw.normal(n) ** 2
        yield *arrays, 1e-3, 0.9, 0.999, 1e-8
    yield draw.normal(9), draw.zeros(9), draw.zeros(9), draw.zeros(9), 1e-3, 0.9, 0.999, 1e-8


@row()
def record_step(draw: Draw) -> Iterator[Any]:
    for n, i, loss, norm in ((5, 2, 1.5, 2.5), (1, 0, np.nan, 2.5), (10, 9, np.inf, np.nan)):
        yield draw.normal(n, 2), i, np.array(loss, draw.dtype), np.array(norm, draw.dtype)


# ---- Choices of words, and masks

# Rows, words
SCORES = sizes_of("3 70, 1 1, 2 2, 4 255, 5 256, 3 1004, 2 2539, 0 70")


@row()
def forbid(draw: Draw) -> Iterator[Any]:
    for R, V in SCORES:
        yield draw.normal(R, V), draw.some(-(-V // 3), V)
    yield draw.normal(3, 70), draw.some(0, 70)


def odd_scores(draw: Draw) -> np.ndarray:
    inf, nan = np.inf, np.nan
    rows = [[1, nan, 3, nan], [-inf] * 4, [-inf, 2, inf, inf], [0, 5, 5, nan]]
    return np.array(rows, draw.dtype)


@row()
def sample_words(draw: Draw) -> Iterator[Any]:
    """Half of the words have no probability; a uniform is in the middle of a likely word's share."""
    temperatures = 0.7, 1.0, None, 2.0, None, 1.0, None
    for (R, V), temperature in zip(SCORES, temperatures, strict=False):
        p = draw.rng.random((R, V)) * (draw.rng.random((R, V)) < 0.5)
        p[:, draw.rng.integers(V)] = 1
        x = p
        if temperature is not None:
            with np.errstate(divide="ignore"):
                x = np.log(p) * temperature
        likely = p >= np.median(p[p > 0])
        chosen = [draw.rng.choice(np.flatnonzero(some)) for some in likely]
        ends = p.cumsum(axis=1)
        u = (ends - p / 2)[np.arange(R), chosen] / ends[:, -1]
        yield x.astype(draw.dtype), u.astype(draw.dtype), temperature
    yield odd_scores(draw), np.full(4, 0.5, draw.dtype), 1.0
    yield draw.normal(0, 70), draw.normal(0), 1.0


@row()
def beam_step(draw: Draw) -> Iterator[Any]:
    """Pictures with a hypothesis each before the first word, later with any number of them. Every
    third word cannot follow. Another ranking than the scores' decides.
    """
    for pictures, size, V, first in sizes_of(
        "3 2 50 0, 1 1 3 1, 4 5 40 1, 5 3 255 0, 2 5 1004 0, 6 4 300 0"
    ):
        counts = np.ones(pictures, int) if first else draw.rng.integers(0, size + 1, pictures)
        counts[-1] = 1 if first else size
        starts, picture = np.cumsum(counts) - counts, np.repeat(np.arange(pictures), counts)
        n = len(picture)
        rows = (picture * size + np.arange(n) - starts[picture]).astype(np.int32)
        if first:
            found = np.repeat(np.arange(n), size)
            next_rows = (rows[found] + np.tile(np.arange(size), n)).astype(np.int32)
            firsts = found.astype(np.int32)
        else:
            next_rows, firsts = rows, starts[picture].astype(np.int32)
        ranked = draw.normal(n, V)
        ranked[:, ::3] = -np.inf
        ranked[-1, 1] = ranked[-1, -1] if V % 3 != 1 else ranked[-1, 2]  # equals
        beams = BeamRows(rows, next_rows, firsts, pictures, size)
        yield ranked, ranked + draw.normal(n, V), draw.normal(n), beams, 0
    # No word is left for the first picture's only hypothesis, and one for the second's
    scores = np.array([[-np.inf, -np.inf, -np.inf], [-np.inf, -3, -np.inf]], draw.dtype)
    rows, next_rows, firsts = (np.array(x, np.int32) for x in ([0, 2], [0, 1, 2, 3], [0, 0, 1, 1]))
    beams = BeamRows(rows, next_rows, firsts, 2, 2)
    yield scores, scores, np.array([1, 2], draw.dtype), beams, 9


@row()
def dropout_masks(draw: Draw) -> Iterator[Any]:
    """Two parts that share the rows of each mask, in no order, in widths that are no multiple of a
    block. A part may have none.
    """
    for *widths, a, b, c in sizes_of(
        "70 33 101 5 7 5, 16 32 160 4 3 8, 15 20 8 5 1 1, 15 20 8 0 0 0"
    ):
        counts = a, b, c
        numbers = [draw.rng.permutation(n).astype(np.int32) for n in counts]
        if draw.device:
            for rows in numbers:
                rows[1:2] = -1  # keeps no unit
        halves = [[rows[: len(rows) // 2] for rows in numbers]]
        halves += [[rows[len(rows) // 2 :] for rows in numbers]]
        mask_rows = tuple(tuple(rows.copy() for rows in half) for half in halves)
        masks = tuple(
            tuple(np.zeros((len(rows), n), bool) for rows, n in zip(half, widths, strict=True))
            for half in mask_rows
        )
        yield masks, mask_rows, counts, 2**63 - 1, 2**40, 0.7


# ---- Attention

# Sequences, steps, regions, units: more regions than a block multiplies at a time, up to the most
ATTENTION = sizes_of("3 2 5 37, 1 1 1 1, 2 2 25 300, 5 3 49 17, 2 2 196 33")
MOST_REGIONS = (1, 1, 1024, 3)


def _forwards(rows: PackedSequences) -> Callable[[Any, Any], None]:
    def use(step_fn: Any, _: Any) -> None:
        for step in rows.steps:
            step_fn(step)

    return use


def _backwards(rows: PackedSequences) -> Callable[[Any, Any], None]:
    def use(step_fn: Any, _: Any) -> None:
        for step in reversed(rows.steps):
            step_fn(step)

    return use


def _one_step(n: int) -> Callable[[Any, Any], None]:
    return lambda step_fn, _: step_fn(single_step(n))


@row()
def attend_steps(draw: Draw) -> Iterator[Any]:
    for N, T, P, H in (*ATTENTION, MOST_REGIONS):
        rows = steps_of(N, T)
        h, A = 2 * draw.normal(N + rows.R, H), draw.normal(N, P, H)
        yield Call((h, A, draw.poison(rows.R, P), draw.poison(rows.R, H)), _forwards(rows))
    # Whole numbers, so that scores, up to thousands on either side of 0, are exact: equal ones, equal
    # and large, as far below 0, and a NaN. exp() of one overflows above 88, or 709 in double
    none = draw.normal(0, 5), draw.normal(0, 3, 5), draw.poison(0, 3), draw.poison(0, 5)
    yield Call(none, _one_step(0))
    N, P, H = 7, 49, 16
    A, h = (draw.below(2 * most + 1, *s) - most for most, s in ((16, (N, P, H)), (64, (N, H))))
    h[1], A[2:4], h[2], h[3] = 0, 16, 64, -64
    h, A = h.astype(draw.dtype), A.astype(draw.dtype)
    A[4, -1, 0] = np.nan
    yield Call((h, A, draw.poison(N, P), draw.poison(N, H)), _one_step(N))


@row()
def attend_backward_steps(draw: Draw) -> Iterator[Any]:
    for N, T, P, H in (*ATTENTION, MOST_REGIONS):
        rows = steps_of(N, T)
        weights = np.exp(log_softmax(draw.normal(rows.R, P)))
        given = draw.normal(rows.R, H), draw.normal(N, P, H), weights
        yield Call((*given, draw.poison(rows.R, P), draw.normal(N, H)), _backwards(rows))


@row()
def attention_sum(draw: Draw) -> Iterator[Any]:
    for N, T, P, H in sizes_of(
        "2 3 17 20, 1 1 1 1, 4 3 5 300, 3 19 25 33, 1 33 49 7, 25 16 16 8, 2 2 196 5, 2 0 17 20, 0 3 17 20"
    ):
        rows = layout(N, T)
        by_row = draw.normal(rows.R, P), draw.normal(rows.R, H), draw.normal(rows.R, P)
        yield *by_row, draw.normal(N + rows.R, H), rows, draw.poison(N, P, H)


# ---- Recurrent cells

# Sequences of each step, and H: more than a block of lstm_step.cu takes, each way and in each
# direction, more terms than fit a tile, and more sequences than DeviceOps fuses
LOOPS = [
    (sizes, H)
    for *sizes, H in sizes_of(
        "5 3 1 17, 1 3, 3 3 17, 37 35 67, 70 8 8, 40 40 17 16 17, 2 1 130, 130 2 8"
    )
]


@row()
def start_states(draw: Draw) -> Iterator[Any]:
    for (N, *_), H in LOOPS:
        for others in ((), (draw.normal(N, H),), (None,)):
            stacks = tuple(draw.normal(N + 2, H) for _ in range(1 + len(others)))
            yield (draw.normal(N, H), *others), stacks


def cell_buffers(draw: Draw, cell: Pointwise, N: int, R: int, H: int, after: bool) -> CellBuffers:
    """Buffers of a loop over R rows, in stacks; `after` it its results are there, before it NaN."""
    made = draw.normal if after else draw.poison
    stacks = tuple(draw.normal(N + R, H) for _ in cell.states)
    saved = tuple(np.tanh(made(R, columns * H)) for columns in cell.saved.values())
    if not after:
        for stack in stacks:
            stack[N:] = np.nan
    G = len(cell.blocks) * H
    return CellBuffers(draw.normal(R, G), draw.poison(N, G), stacks, stacks, saved)


def one_step_buffers(draw: Draw, cell: Pointwise, n: int, H: int) -> CellBuffers:
    """Buffers of a step whose states before and after are separate arrays."""
    before, after = (tuple(make(n, H) for _ in cell.states) for make in (draw.normal, draw.poison))
    saved, G = tuple(draw.poison(n, k * H) for k in cell.saved.values()), len(cell.blocks) * H
    return CellBuffers(draw.normal(n, G), draw.poison(n, G), before, after, saved)


def cell_gradients(
    draw: Draw, cell: Pointwise, N: int, R: int, H: int, last: bool = False
) -> CellGradients:
    """Arrays of a backward loop, NaN where it must not read; the last states have a gradient or none."""
    G, loop = len(cell.blocks) * H, cell_buffers(draw, cell, N, R, H, after=True)
    da = draw.poison(R, G)
    dr = draw.poison(R, G) if cell.scales_recurrence else da
    dstate = tuple((draw.normal if last else draw.poison)(N, H) for _ in cell.states)
    return CellGradients(loop.after, loop.saved, draw.normal(R, H), dstate, last, da, dr)


class Half(NamedTuple):
    """A term of a step: 0.5, added to its first rows of x."""

    x: Any

    def __call__(self, step: Step) -> None:
        self.x[: step.n] += 0.5


def weight(draw: Draw, cell: Pointwise, H: int) -> np.ndarray:
    return draw.normal(H, len(cell.blocks) * H) / draw.dtype.type(2 * np.sqrt(H))


def _cell_forwards(steps: Sequence[Step]) -> Callable[[Any, Any], None]:
    """The steps, by the equations where there is no faster version."""

    def use(step_fn: Any, arguments: Any) -> None:
        cell, loop, Wh, add = arguments
        if step_fn is None:
            term = Mock(forward_steps=Mock(return_value=add)) if add else None
            step_fn = forward_steps(Ops(), cell, loop, Wh, Workspace.fresh(loop.a), term)
        for step in steps:
            step_fn(step)
        loop.r[...] = 0  # memory of a step

    return use


@row()
def cell_steps(draw: Draw) -> Iterator[Any]:
    for cell in CELLS.values():
        for (N, *later), H in LOOPS:
            rows, Wh = PackedSequences.of((N, *later), N), weight(draw, cell, H)
            for with_add in (False, True):
                loop = cell_buffers(draw, cell, N, rows.R, H, after=False)
                add = Half(loop.r) if with_add and not cell.scales_recurrence else None
                yield Call((cell, loop, Wh, add), _cell_forwards(rows.steps))
            loop = one_step_buffers(draw, cell, N, H)
            yield Call((cell, loop, Wh, None), _cell_forwards([single_step(N)]))


def _cell_backwards(rows: PackedSequences) -> Callable[[Any, Any], None]:
    def use(step_fn: Any, arguments: Any) -> None:
        cell, grads, Wh, add = arguments
        if step_fn is None:
            term = Mock(backward_steps=Mock(return_value=add)) if add else None
            step_fn = backward_steps(Ops(), cell, grads, Wh, term)
        for step in reversed(rows.steps):
            step_fn(step)

    return use


@row()
def cell_backward_steps(draw: Draw) -> Iterator[Any]:
    for cell in CELLS.values():
        for (N, *later), H in LOOPS:
            rows, Wh = PackedSequences.of((N, *later), N), weight(draw, cell, H)
            for last, with_add in ((False, False), (False, True), (True, False)):
                grads = cell_gradients(draw, cell, N, rows.R, H, last)
                add = Half(grads.dstate[0]) if with_add else None
                yield Call((cell, grads, Wh, add), _cell_backwards(rows))


# ---- Operations without a row

ROUNDS = (5, 37, 7, 4), (1, 1, 1, 1), (31, 777, 9, 2), (700, 33, 3, 5), (257, 40, 2, 3)  # sizes


def drawn(op: str, equation: Callable[..., Any]) -> Operation:
    """A row of an operation whose docstring has a shape for each argument, ``x (R, C)``.

    Arguments with ``int`` behind the shape number rows of any array, a float is 0.75, and what has a
    default keeps it. `out` is not read, unless the docstring adds to it; what is ``overwritten`` may
    hold anything afterwards. The last calls have nothing along each axis in turn, where the equation
    says what that gives.
    """
    names = [name for name in inspect.signature(equation).parameters if name != "self"]
    text = inspect.getdoc(equation) or ""
    shapes = {name: re.search(rf"\b{name} \((\w+(?:, \w+)*),?\)(,? int)?", text) for name in names}
    letters = dict.fromkeys(x for found in shapes.values() if found for x in found[1].split(", "))

    def argument(name: str, sizes: dict[str, int], draw: Draw) -> Any:
        parameter, found = inspect.signature(equation).parameters[name], shapes[name]
        if found:
            shape = [sizes[letter] for letter in found[1].split(", ")]
            if found[2]:
                return draw.below(max(min(sizes.values()), 1), *shape)
            overwritten = name == "out" and "out +=" not in text
            return draw.poison(*shape) if overwritten else draw.normal(*shape)
        if parameter.default is not parameter.empty:
            return parameter.default
        assert parameter.annotation in (float, "float"), (
            f"{op}: its docstring states no shape of {name}, such as `{name} (R, C)`. State it, or write"
            f" a row in tests/helpers/operations.py:\n\n@row()\ndef {op}(draw: Draw) -> Iterator[Any]:\n"
            f"    yield {', '.join(names)}"
        )
        return 0.75

    def rows(draw: Draw) -> Iterator[Any]:
        rounds = [dict(zip(letters, sizes, strict=False)) for sizes in ROUNDS]
        for sizes in (*rounds, *(rounds[0] | {letter: 0} for letter in letters)):
            call = tuple(argument(name, sizes, draw) for name in names)
            if all(sizes.values()) or is_defined(equation, call):
                yield call

    scratch = [
        n for n, name in enumerate(names) if re.search(rf"{name} \([^)]*\), overwritten", text)
    ]
    return Operation(rows, changes_of(equation), *scratch)


def is_defined(equation: Callable[..., Any], call: tuple[Any, ...]) -> bool:
    """Whether an equation gives a result: not of a mean or a maximum of nothing."""
    with warnings.catch_warnings(action="error"):
        try:
            equation(Ops(), *each(np.copy, call))
        except (IndexError, ValueError, RuntimeWarning):
            return False
    return True


TABLE |= {op: drawn(op, getattr(Ops, op)) for op in OPERATIONS if op not in TABLE}


# ---- Calls of a version


def size_of(call: Call) -> int:
    """Elements of its largest array."""
    return max(x.size for x in flat(call.arguments))


def each(f: Callable[[np.ndarray], Any], value: Any, made: dict[int, Any] | None = None) -> Any:
    """A value with every array in it changed by f, through tuples.

    An array that is there twice is so afterwards, and the last rows of another remain a view of it.
    """
    made = {} if made is None else made
    if isinstance(value, tuple):
        parts = [each(f, part, made) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, LossTerms):
        return replace(value, scale=each(f, value.scale, made))
    if not hasattr(value, "dtype"):
        return value
    if id(value) not in made:
        whole = value.base
        made[id(value)] = f(value) if whole is None else each(f, whole, made)[-len(value) :]
    return made[id(value)]


def flat(value: Any) -> list[np.ndarray]:
    """The arrays in a value, on the host."""
    if isinstance(value, tuple | list):
        return [x for part in value for x in flat(part)]
    if isinstance(value, LossTerms):
        return flat(value.scale)
    return [to_numpy(value)] if hasattr(value, "dtype") else []


def wide(x: np.ndarray) -> np.ndarray:
    """A copy, in float64 if it has floats."""
    return x.astype(np.float64) if x.dtype.kind == "f" else x.copy()


def run(
    version: Ops,
    op: str,
    call: Call,
    copy: Callable[..., Any] = np.copy,
    send: Callable[..., Any] = asarray,
) -> list[np.ndarray]:
    """What a version returns and writes to, from copies of the arguments in the backend in force."""
    copies = each(lambda x: send(copy(x)), call.arguments)
    returned = getattr(version, op)(*copies)
    if call.use is not None:
        returned = call.use(returned, copies)
    scratch = TABLE[op].scratch
    return flat([returned, *(x for number, x in enumerate(copies) if number != scratch)])


def check_equals_equation(
    version: Ops,
    op: str,
    dtype: str,
    gpu: bool = False,
    orders: Callable[[], Iterable[object]] = lambda: (0,),
) -> None:
    """A version and the equation in float64, in the backend in force: results, and all arguments.

    `orders` lets a device's threads run in one order after another, each of which gives equal bits.
    """
    draw = Draw(dtype, device=not isinstance(version, ops.HostOps))
    for number, call in enumerate(TABLE[op].calls(draw)):
        where = f"{op} of {type(version).__name__}, call {number}"
        with np.errstate(all="ignore"):
            results = [run(version, op, call) for _ in orders()]
            expected = run(Ops(), op, call, wide)
        for ours, theirs in zip(results[0], expected, strict=True):
            assert ours.dtype == (dtype if theirs.dtype == np.float64 else theirs.dtype)
            atol, text = (
                TOLERANCES[dtype][gpu] * largest(theirs),
                f"{where}: an array {theirs.shape}",
            )
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol, err_msg=text)
        bits = {tuple(x.tobytes() for x in result) for result in results}
        assert len(bits) == 1, f"{where}: bits depend on the order of the threads"


def largest(x: np.ndarray) -> float:
    """The largest absolute value that is finite."""
    return float(np.abs(x[np.isfinite(x)]).max(initial=0))
