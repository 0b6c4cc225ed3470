"""Faster operations on NumPy arrays, each timed by benchmarks/ablation.py.

Elementwise work runs in place, in blocks that fit in cache; large products and Adam use all cores.
The time loops prepare everything that does not change, since for small batches a NumPy call costs
more than its arithmetic. Where a version would not pay off, the plain equation runs.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from xpcap.backend import Array
from xpcap.backend.memory import Workspace
from xpcap.backend.threads import (
    WORTH_WAKING,
    cores,
    free_cores,
    has_small_kernels,
    one_blas_thread,
    parallel_map,
    split_evenly,
)
from xpcap.ops.base import Factor, MultiplyRows, Ops, Segments
from xpcap.ops.cell import CellBuffers, PointwiseSteps, name_of
from xpcap.ops.packed import Step, StepFn
from xpcap.ops.softmax import LossTerms, below_maximum, tempered

# Elements of a block: few enough to stay in cache, and enough that parallel threads rarely wait for
# Python's lock between calls. A lone thread never waits, so its blocks are smaller
BLOCK = 1 << 17
LONE_BLOCK = 1 << 15
NORM_BLOCK = 1 << 15  # elements whose squares are summed in their dtype
SMALL_ROWS = 128  # products of at most so many rows are not split, and `matmul_nt` transposes them
UNPACKED = 10**6  # most multiplications of a product for OpenBLAS's small kernels
FEW = 30  # least rows that are multiplied by a block of columns of w at once
# Most columns and rows of w in a block
COLUMNS = 64
ROWS = 16
SMALL = 1 << 27  # products with fewer multiplications end before another thread has woken
WORDS = 64  # words in a block whose probabilities are summed
ROUNDS = 4  # ids with more rows than this are summed separately
MIN_ADAM_SHARE = 1 << 18  # least elements of a core for which another core pays off


def _block_rows(width: int) -> int:
    """Number of rows of a block, with `width` elements per row."""
    return max(1, BLOCK // max(1, width))


def _blocks(n: int, width: int) -> list[slice]:
    """Rows 0..n in blocks of about BLOCK elements, with `width` elements per row."""
    step = _block_rows(width)
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def _matmul(x: Array, w: Array, out: Array | None) -> Array:
    """x @ w; a large product is split among the cores."""
    n = len(x)
    m = w.shape[1]
    if n <= SMALL_ROWS or x.size * m < SMALL or free_cores() == 1:
        # np.dot and @ round a single row, and strided factors, differently
        return x @ w if out is None else np.dot(x, w, out)
    out = np.empty((n, m), x.dtype) if out is None else out
    if n > m:
        parts = split_evenly(n, free_cores())
        parallel_map(lambda rows: np.matmul(x[rows], w, out=out[rows]), parts)
        return out
    # By columns: each core packs its part of w, and all of x, which is the smaller factor
    parts = split_evenly(m, free_cores())
    parallel_map(lambda columns: np.matmul(x, w[:, columns], out=out[:, columns]), parts)
    return out


class Blocks(NamedTuple):
    """A right factor w (k, m), and a copy of it in contiguous blocks of columns."""

    w: Array
    blocks: Array  # (count, k, columns)

    @property
    def rest(self) -> Array:
        """The last columns of w, which fill no block."""
        return self.w[:, len(self.blocks) * self.blocks.shape[2] :]


def _width(k: int, limit: int) -> int:
    """Columns of a block of a factor with k rows: a power of two of at least 8; 0 for no blocks."""
    columns: int = UNPACKED // (FEW * max(1, k))
    if columns < 8 or not has_small_kernels():
        return 0
    return min(limit, 1 << columns.bit_length() - 1)


@functools.lru_cache(maxsize=1024)
def _pieces(n: int, limit: int) -> list[tuple[int, int]]:
    """0..n in the fewest pieces of at most `limit`, of about the same size."""
    return [(part.start, part.stop) for part in split_evenly(n, -(-n // limit))]


def _multiply_blocks(x: Array, blocks: Array, rest: Array, out: Array) -> MultiplyRows:
    """Products of rows of x with blocks (count, k, columns), and with the `rest` of the columns."""
    count, k, columns = blocks.shape
    in_blocks = count * columns
    call_rows = UNPACKED // max(1, k * columns)
    by_block = out[:, :in_blocks].reshape(len(out), count, columns).transpose(1, 0, 2)
    threads = free_cores()

    def multiply(i: int, o: int, n: int) -> None:
        pieces = [(0, n)] if n <= call_rows else _pieces(n, call_rows)

        def multiply_part(part: slice) -> None:
            for start, stop in pieces:
                to = by_block[part, o + start : o + stop]
                np.matmul(x[i + start : i + stop], blocks[part], to)

        if threads > 1 and n * k * in_blocks >= WORTH_WAKING:
            parallel_map(multiply_part, split_evenly(count, threads))
        else:
            multiply_part(slice(None))
        if in_blocks < out.shape[1]:
            np.matmul(x[i : i + n], rest, out[o : o + n, in_blocks:])

    return multiply


def _norm(x: Array) -> Array:
    """The norm of x: a block's squares are summed in x's dtype, or in double if they overflow."""
    total = 0.0
    for start in range(0, x.size, NORM_BLOCK):
        block = x[start : start + NORM_BLOCK]
        square = float(np.vdot(block, block))
        if not math.isfinite(square):
            square = float(np.vdot(block, block.astype(np.float64)))
        total += square
    return np.asarray(math.sqrt(total), x.dtype)


class HostOps(Ops):
    """Operations on NumPy arrays. Results equal the plain equations up to rounding."""

    # ---- Products

    def factor(self, w: Array, memory: Workspace | None = None) -> Factor:
        """Contiguous blocks of columns: OpenBLAS packs neither factor of such small products."""
        k, m = w.shape
        columns = _width(k, COLUMNS)
        if not 0 < columns <= m:
            return w
        count = m // columns
        blocks = (memory or Workspace.fresh(w)).take("factor", (count, k, columns))
        blocks[...] = w[:, : count * columns].reshape(k, count, columns).transpose(1, 0, 2)
        return Blocks(w, blocks)

    def matmul(self, x: Array, w: Factor, out: Array | None = None) -> Array:
        """Large products use all cores."""
        if not isinstance(w, Blocks):
            return _matmul(x, w, out)
        out = np.empty((len(x), w.w.shape[1]), x.dtype) if out is None else out
        _multiply_blocks(x, w.blocks, w.rest, out)(0, 0, len(x))
        return out

    def matmul_nt(self, x: Array, w: Array, out: Array) -> Array:
        if len(x) > SMALL_ROWS:
            return super().matmul_nt(x, w, out)
        self.row_matmul_nt(x, w, out)(0, 0, len(x))
        return out

    def row_matmul(self, x: Array, w: Factor, out: Array) -> MultiplyRows:
        if isinstance(w, Blocks):
            return _multiply_blocks(x, w.blocks, w.rest, out)
        return lambda i, o, n: _matmul(x[i : i + n], w, out[o : o + n])

    def row_matmul_nt(self, x: Array, w: Array, out: Array) -> MultiplyRows:
        """Multiply by blocks of w's rows, as in `row_matmul`, or few rows as (w @ x.T).T.

        OpenBLAS packs the right factor at each call, and packing the large strided w.T would cost
        almost as much as the product.
        """
        m, k = w.shape
        w_T = w.T
        rows = _width(k, ROWS)
        if 0 < rows <= m:
            count = m // rows
            blocks = w[: count * rows].reshape(count, rows, k).transpose(0, 2, 1)
            return _multiply_blocks(x, blocks, w_T[:, count * rows :], out)
        scratch = np.empty(min(len(out), SMALL_ROWS) * m, out.dtype)

        def multiply(i: int, o: int, n: int) -> None:
            rows = x[i : i + n]
            to = out[o : o + n]
            if n > SMALL_ROWS:
                np.dot(rows, w_T, to)
                return
            transposed = scratch[: n * m].reshape(m, n)
            np.dot(w, rows.T, transposed)
            to[...] = transposed.T

        return multiply

    # ---- Losses

    def softmax_loss(
        self, scores: Array, targets: Array, terms: LossTerms, out: Array | None = None
    ) -> tuple[Array, Array]:
        """A block of rows at a time; one exp per score gives the probabilities and their sum."""
        if terms.beyond("smoothing"):
            return super().softmax_loss(scores, targets, terms, out)
        out = np.empty_like(scores) if out is None else out
        smoothing = terms.smoothing
        nll = np.empty(len(scores), scores.dtype)
        for rows in _blocks(*scores.shape):
            p = out[rows]
            chosen = (np.arange(rows.stop - rows.start), targets[rows])
            below_maximum(scores[rows], out=p)
            score = (1 - smoothing) * p[chosen]  # the target's score minus the row's maximum
            if smoothing:
                score += smoothing * p.mean(axis=1)
            np.exp(p, out=p)
            total = p.sum(axis=1)
            np.subtract(np.log(total), score, out=nll[rows])
            weight = np.asarray(terms.rows(rows).scale, scores.dtype)
            p *= (weight / total)[:, None]
            if smoothing:
                p -= (weight * smoothing / p.shape[1])[..., None]
            p[chosen] -= (1 - smoothing) * weight
        return nll, out

    def word_loss(
        self,
        h: Array,
        w: Array,
        b: Array,
        targets: Array,
        terms: LossTerms,
        nll: Array,
        dscores: Array,
        dh: Array,
    ) -> None:
        """Each core computes a part of the rows."""
        if h.size * len(b) < SMALL or free_cores() == 1:
            super().word_loss(h, w, b, targets, terms, nll, dscores, dh)
            return

        def work(rows: slice) -> None:
            scores = np.dot(h[rows], w, out=dscores[rows])
            scores += b
            nll[rows], _ = self.softmax_loss(scores, targets[rows], terms.rows(rows), scores)
            np.dot(scores, w.T, out=dh[rows])

        parallel_map(work, split_evenly(len(h), free_cores()))

    # ---- Rows of tables

    def gather(
        self,
        table: Array,
        rows: Array | None,
        out: Array,
        mask: Array | None = None,
        keep: float = 1.0,
    ) -> Array:
        """Write straight to `out`. mode="clip" avoids NumPy's temporary; no checked row is clipped."""
        if not out.flags.c_contiguous:
            return super().gather(table, rows, out, mask, keep)
        if rows is not None:
            table = np.take(table, rows, axis=0, out=out, mode="clip")
        elif mask is None:
            out[...] = table
        if mask is not None:
            np.multiply(table, mask, out=out)
            out *= 1 / keep
        return out

    def gather_regions(
        self, table: Array, rows: Array, out: Array, mask: Array | None = None, keep: float = 1.0
    ) -> Array:
        """One pass applies dropout while it reads the regions of a picture."""
        if mask is None:
            return super().gather_regions(table, rows, out)
        scales = mask.astype(out.dtype)
        scales *= 1 / keep
        for row, scale, regions in zip(rows.tolist(), scales, out, strict=True):
            np.multiply(table[row], scale, out=regions)
        return out

    def segment_sum(self, rows: Array, groups: Segments, out: Array | None = None) -> Array:
        """Sum ids with many rows one by one; for the rest add all first rows, all second rows, ..."""
        if out is None:
            out = np.empty((len(groups.starts) - 1, rows.shape[1]), rows.dtype)
        if not rows.size:
            return super().segment_sum(rows, groups, out)
        starts = groups.starts[:-1]
        counts = np.diff(groups.starts)
        by_count = np.argsort(-counts, kind="stable")  # ids with the most rows first
        starts = starts[by_count]
        counts = counts[by_count]
        large, filled = (int((counts > limit).sum()) for limit in (ROUNDS, 0))
        for k, start, count in zip(by_count[:large], starts, counts, strict=False):
            np.add.reduce(rows[groups.order[start : start + count]], axis=0, out=out[k])
        out[by_count[large:filled]] = rows[groups.order[starts[large:filled]]]
        for row in range(1, ROUNDS):
            longer = int((counts > row).sum())
            if longer > large:
                out[by_count[large:longer]] += rows[groups.order[starts[large:longer] + row]]
        out[by_count[filled:]] = 0
        return out

    # ---- The update of a training step

    @one_blas_thread()
    def global_norm(self, x: Array, memory: Workspace | None = None) -> Array:
        return _norm(x) if x.ndim == 1 else super().global_norm(x, memory)

    @one_blas_thread()
    def clip_by_norm(self, x: Array, max_norm: float, memory: Workspace | None = None) -> Array:
        """Scale x only if its norm is too large: on the host, reading the norm costs nothing."""
        if x.ndim != 1:
            return super().clip_by_norm(x, max_norm, memory)
        norm = _norm(x)
        if max_norm < norm < np.inf:
            x *= max_norm / norm
        return norm

    def adam_update(
        self,
        w: Array,
        dw: Array,
        m: Array,
        v: Array,
        alpha: float,
        beta1: float,
        beta2: float,
        epsilon: float,
    ) -> None:
        """Update on all cores, in blocks that stay in cache, without full-size temporaries."""
        fits = (a.ndim == 1 and a.flags.c_contiguous and a.dtype == w.dtype for a in (w, dw, m, v))
        if not all(fits):
            super().adam_update(w, dw, m, v, alpha, beta1, beta2, epsilon)
            return

        parts = split_evenly(w.size, min(cores(), w.size // MIN_ADAM_SHARE))
        size = BLOCK if len(parts) > 1 else LONE_BLOCK

        def update(part: slice) -> None:
            step, scratch = np.empty((2, min(size, part.stop - part.start)), w.dtype)
            for start in range(part.start, part.stop, size):
                block = slice(start, min(start + size, part.stop))
                weights = w[block]
                g = dw[block]
                mean = m[block]
                square = v[block]
                s = step[: g.size]
                t = scratch[: g.size]
                mean *= beta1
                np.multiply(g, 1 - beta1, out=t)
                mean += t
                square *= beta2
                np.multiply(g, g, out=t)
                t *= 1 - beta2
                square += t
                np.sqrt(square, out=t)
                t += epsilon
                np.multiply(mean, alpha, out=s)
                s /= t
                weights -= s

        parallel_map(update, parts)

    # ---- Choices of words

    def sample_words(self, x: Array, u: Array, temperature: float | None = None) -> Array:
        """Search the sums of blocks, then the words of one block: a full running sum is slow."""
        p = x if temperature is None else tempered(x, temperature)
        rows = np.arange(len(p))
        V = p.shape[1]
        sums = np.add.reduceat(p, np.arange(0, V, WORDS), axis=1)
        cumulative = sums.cumsum(axis=1)
        total = cumulative[:, -1]
        target = np.minimum(u * total, np.nextafter(total, 0))  # u * total may be rounded to total
        block = (cumulative <= target[:, None]).sum(axis=1)
        words = block[:, None] * WORDS + np.arange(WORDS)
        inside = p[rows[:, None], np.minimum(words, V - 1)]
        inside[words >= V] = 0
        target -= cumulative[rows, block] - sums[rows, block]  # minus the blocks before
        word = (inside.cumsum(axis=1) <= target[:, None]).sum(axis=1)
        last_word = (
            WORDS - 1 - (inside[:, ::-1] > 0).argmax(axis=1)
        )  # rounding may keep the sum below the target
        return (block * WORDS + np.minimum(word, last_word)).astype(np.int32)

    # ---- Recurrent cells

    def cell_steps(
        self, cell: PointwiseSteps, loop: CellBuffers, Wh: Factor, add: StepFn | None
    ) -> StepFn | None:
        steps_in_place = STEPS_IN_PLACE.get(name_of(cell.equation))
        if steps_in_place is None:
            return None
        multiply = self.row_matmul(loop.before[0], Wh, loop.r)
        cell_step = steps_in_place(loop)

        def step_fn(step: Step) -> None:
            multiply(step.before, 0, step.n)
            if add is not None:
                add(step)
            cell_step(step)

        return step_fn


# ---- Equations of cells in place

# A pass over contiguous rows takes half as long as one over the columns of three gates. So all four
# gates get the operations that most of them need, in blocks of rows that stay in cache.


def lstm_in_place(loop: CellBuffers) -> StepFn:
    """LSTMCell.equation with sigmoid(x) = (1 + tanh(x / 2)) / 2: one tanh serves all four gates."""
    a, r, (_, c_prev), (h, c), (gates, tanh_c) = loop
    H = c.shape[1]
    block_rows = _block_rows(4 * H)
    half, shift = _halves(block_rows, H, gates.dtype)
    i, f, o, g = (gates[:, k * H : (k + 1) * H] for k in range(4))

    def step_fn(step: Step) -> None:
        first, before, after, n, _ = step
        for k in range(0, n, block_rows):
            m = min(block_rows, n - k)
            rows = slice(first + k, first + k + m)
            states_after = slice(after + k, after + k + m)
            x = gates[rows]
            cell = c[states_after]
            t = tanh_c[rows]
            # i, f, o = sigmoid(a + r), g = tanh(a + r)
            np.add(a[rows], r[k : k + m], x)
            np.multiply(x, half[:m], x)
            np.tanh(x, x)
            np.multiply(x, half[:m], x)
            np.add(x, shift[:m], x)
            # c = f * c_prev + i * g, h = o * tanh(c)
            np.multiply(f[rows], c_prev[before + k : before + k + m], cell)
            np.multiply(i[rows], g[rows], t)
            np.add(cell, t, cell)
            np.tanh(cell, t)
            np.multiply(o[rows], t, h[states_after])

    return step_fn


@functools.lru_cache(maxsize=8)
def _halves(rows: int, H: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Factors and terms (rows, 4H): 0.5 each; for g 1 and -0.0, which change no number."""
    half, shift = np.full((2, rows, 4 * H), 0.5, dtype)
    half[:, 3 * H :] = 1
    shift[:, 3 * H :] = -0.0
    for x in (half, shift):
        x.flags.writeable = False
    return half, shift


# The in-place version of each equation
STEPS_IN_PLACE = {"xpcap.layers.lstm.LSTMCell.equation": lstm_in_place}
