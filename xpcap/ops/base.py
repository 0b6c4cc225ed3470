"""Operations on arrays as methods: their contracts and plain equations, for any array library.

A docstring is the contract of all versions; host.py and device.py override the operations that are
faster there. Arguments are trusted: the calling layer has checked them, and has made device arrays
C-contiguous and row numbers int32. Results are written to `out`; None makes a new array.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import Array, asarray, get_array_module, is_device_array
from xpcap.backend.memory import Workspace
from xpcap.ops.cell import CellBuffers, CellGradients, PointwiseSteps, State
from xpcap.ops.choosing import BeamRows, row_blocks, topk
from xpcap.ops.packed import PackedSequences, Step, StepFn
from xpcap.ops.random import kept_units
from xpcap.ops.softmax import (
    LossTerms,
    log_softmax,
    softmax,
    softmax_backward,
    softmax_loss,
    tempered,
)

MultiplyRows = Callable[[int, int, int], None]
Factor = Any  # a right factor of several products: w itself, or w in a layout for them


def sigmoid(x: Array) -> Array:
    """The logistic function 1 / (1 + exp(-x)), without overflow and accurate for either sign.

    Parameters
    ----------
    x : array, float, any shape

    Returns
    -------
    y : array, shape and dtype of x
    """
    xp = get_array_module(x)
    z = xp.exp(-xp.abs(x))  # in (0, 1]
    return xp.where(x >= 0, 1, z) / (1 + z)


class Segments(NamedTuple):
    """Rows grouped by id 0..K-1; id k has the rows order[starts[k] : starts[k + 1]]."""

    ids: Array  # (R,) int
    order: Array  # (R,) int, row numbers sorted by id, ties in their original order
    starts: Array  # (K+1,) int


def segments(ids: Array, count: int) -> Segments:
    """Rows grouped by ids (R,), each in 0..count-1. Never waits for a device."""
    xp = get_array_module(ids)
    ids = ids.astype(xp.int32)  # `count` may not fit a narrower type
    order = xp.argsort(ids, kind="stable")
    starts = xp.searchsorted(ids[order], xp.arange(count + 1, dtype=xp.int32))
    return Segments(ids, order.astype(xp.int32), starts.astype(xp.int32))


# ---- Operations


class Ops:
    """The plain equations, for the arrays of any library."""

    # ---- Products

    def factor(self, w: Array, memory: Workspace | None = None) -> Factor:
        """w (k, m), laid out in `memory` for several products x @ w of few rows each.

        It replaces w in `matmul`, `row_matmul` and `row_matmul_add`, until w changes.
        """
        return w

    def matmul(self, x: Array, w: Factor, out: Array | None = None) -> Array:
        """out = x @ w: x (n, k), w (k, m), out (n, m) C-contiguous."""
        return get_array_module(x, w).dot(x, w, out=out)

    def matmul_add(self, x: Array, w: Array, out: Array, memory: Workspace | None = None) -> Array:
        """out += x @ w: x (n, k), w (k, m), out (n, m) C-contiguous; x @ w may take `memory`."""
        out += self.matmul(x, w, out=(memory or Workspace.fresh(out)).take("product", out.shape))
        return out

    def matmul_nt(self, x: Array, w: Array, out: Array) -> Array:
        """out = x @ w.T: x (n, k), w (m, k), out (n, m)."""
        return get_array_module(x, w).dot(x, w.T, out=out)

    # Products of a step's rows. Each gets whole buffers and returns multiply(i, o, n), which multiplies
    # the n rows of x from row i on, and writes the n rows of out from row o on

    def row_matmul(self, x: Array, w: Factor, out: Array) -> MultiplyRows:
        """out[o : o + n] = x[i : i + n] @ w; x (., k), w (k, m), out (., m)."""

        def multiply(i: int, o: int, n: int) -> None:
            self.matmul(x[i : i + n], w, out=out[o : o + n])

        return multiply

    def row_matmul_add(
        self, x: Array, w: Factor, out: Array, memory: Workspace | None = None
    ) -> MultiplyRows:
        """out[o : o + n] += x[i : i + n] @ w; x (., k), w (k, m), out (., m).

        The product may take `memory`.
        """
        scratch = out[:0]

        def multiply(i: int, o: int, n: int) -> None:
            nonlocal scratch
            if n > len(scratch):  # only once, since the first step has the most rows
                scratch = (memory or Workspace.fresh(out)).take("product", (n, out.shape[1]))
            to = out[o : o + n]
            to += self.matmul(x[i : i + n], w, out=scratch[:n])

        return multiply

    def row_matmul_nt(self, x: Array, w: Array, out: Array) -> MultiplyRows:
        """out[o : o + n] = x[i : i + n] @ w.T; x (., k), w (m, k), out (., m)."""

        def multiply(i: int, o: int, n: int) -> None:
            self.matmul_nt(x[i : i + n], w, out[o : o + n])

        return multiply

    # ---- Losses

    def softmax_loss(
        self, scores: Array, targets: Array, terms: LossTerms, out: Array | None = None
    ) -> tuple[Array, Array]:
        """Loss nll (R,) of scores (R, V), and its gradient dscores, by `softmax_loss` of softmax.py.

        dscores are written to `out`, which may be scores itself. On a device a row may have NO_TARGET;
        its nll and dscores are 0.
        """
        return softmax_loss(scores, targets, terms, out)

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
        """Softmax loss of the scores h @ w + b, with h (R, H), w (H, V), and the gradient of h.

        The results are written to nll (R,), dscores (R, V) and dh = dscores @ w.T (R, H).
        """
        scores = self.matmul(h, w, out=dscores)
        scores += b
        nll[...], _ = self.softmax_loss(scores, targets, terms, dscores)
        self.matmul(dscores, w.T, out=dh)

    def weighted_sum(self, x: Array, scale: Array | float, out: Array) -> Array:
        """sum(scale * x), 0-d: x (R,), scale (R,) or one number.

        On a device the result is `out`; on the host it is a number, which later steps do not change.
        """
        return x.sum() * scale if isinstance(scale, float) else (x * scale).sum()

    # ---- Rows of tables, and their gradients

    def gather(
        self,
        table: Array,
        rows: Array | None,
        out: Array,
        mask: Array | None = None,
        keep: float = 1.0,
    ) -> Array:
        """out = table[rows]: table (K, C), rows (R,) int, or None for all K, out (R, C).

        A mask (R, C) applies inverted dropout to those rows, as in `dropout`.
        """
        xp = get_array_module(table)
        if rows is None:
            out[...] = table
        else:
            xp.take(table, rows, axis=0, out=out)
        if mask is not None:
            out[...] = self.dropout(out, mask, keep)
        return out

    def gather_plus(self, table: Array, rows: Array, b: Array, out: Array) -> Array:
        """out = table[rows] + b: table (K, C), overwritten, rows (R,) int, b (C,), out (R, C)."""
        table += b
        return self.gather(table, rows, out)

    def gather_plus_image(
        self, table: Array, ids: Array, b: Array, image: Array, rows: PackedSequences, out: Array
    ) -> Array:
        """out[r] = table[ids[r]] + b + image[k] for each row r of sequence k.

        table (K, C), ids (R,) int, b (C,), image (N, C), out (R, C). The table may be overwritten.
        """
        self.gather_plus(table, ids, b, out)
        for step in rows.steps:
            out[step.rows] += image[: step.n]
        return out

    def gather_regions(
        self, table: Array, rows: Array, out: Array, mask: Array | None = None, keep: float = 1.0
    ) -> Array:
        """out = table[rows]: table (m, P, D), rows (N,) int, out (N, P, D).

        A mask (N, D) applies inverted dropout, with the same units in all regions of a row. Then the
        table must be finite, as in `dropout`.
        """
        N, P, D = out.shape
        self.gather(table.reshape(len(table), P * D), rows, out.reshape(N, P * D))
        if mask is not None:
            out *= mask[:, None]
            out *= 1 / keep
        return out

    def scatter(
        self, x: Array, rows: Array, out: Array, mask: Array | None = None, keep: float = 1.0
    ) -> Array:
        """Gradient of `gather`, for distinct rows in ascending order.

        out (K, C) = 0, then out[rows] = x (R, C), after inverted dropout if there is a mask (R, C).
        """
        out[...] = 0
        out[rows] = x if mask is None else self.dropout(x, mask, keep)
        return out

    def segment_sum(self, rows: Array, groups: Segments, out: Array | None = None) -> Array:
        """out[k] = sum of rows[r] over all r with ids[r] == k: rows (R, C), out (K, C)."""
        if out is None:
            out = get_array_module(rows).empty((len(groups.starts) - 1, rows.shape[1]), rows.dtype)
        xp = get_array_module(rows, groups.ids)
        out[...] = 0
        xp.add.at(out, groups.ids, rows)
        return out

    def sequence_sum(self, x: Array, rows: PackedSequences, out: Array) -> Array:
        """out[k] = sum of x[r] over all rows r of sequence k, later steps last: x (R, C), out (N, C).

        This is the gradient of `gather_plus_image` with respect to `image`.
        """
        out[...] = 0
        for step in rows.steps:
            out[: step.n] += x[step.rows]
        return out

    def column_sum(self, x: Array, out: Array) -> Array:
        """out (C,) = sum of the rows of x (R, C)."""
        return x.sum(axis=0, out=out)

    def add_rows(self, x: Array, b: Array) -> Array:
        """x += b, in place: x (R, C); b (C,), added to every row, or (R, C)."""
        x += b
        return x

    def dropout(self, x: Array, mask: Array, keep: float) -> Array:
        """Inverted dropout: x / keep where `mask` (bool, shape of x) is true, else 0.

        The gradient is the same function. x must be finite: a dropped inf or NaN is 0 on a device, but
        NaN on the host.
        """
        out = x * mask
        out *= 1 / keep
        return out

    def mean_regions(self, A: Array, out: Array) -> Array:
        """out (N, H) = mean over the regions of A (N, P, H)."""
        return A.mean(axis=1, out=out)

    def add_to_regions(self, dA: Array, dmean: Array) -> Array:
        """dA (N, P, H) += dmean / P, the gradient of mean_regions. dmean may be overwritten."""
        dmean /= dA.shape[1]
        dA += dmean[:, None]
        return dA

    # ---- The update of a training step

    def global_norm(self, x: Array, memory: Workspace | None = None) -> Array:
        """Euclidean norm of x (n,), 0-d, in x's dtype; on a device it lies in `memory`.

        Squares are summed in double, or in blocks in x's dtype whose sums are added in double.
        """
        xp = get_array_module(x)
        wide = x.astype(xp.float64)
        return xp.sqrt(xp.vdot(wide, wide)).astype(x.dtype)

    def clip_by_norm(self, x: Array, max_norm: float, memory: Workspace | None = None) -> Array:
        """Norm of x (n,); if it is larger than `max_norm`, x is scaled to that norm in place.

        If the norm is not finite, x stays unchanged, so that it shows which numbers are at fault.
        """
        xp = get_array_module(x)
        norm = self.global_norm(x, memory)
        factor = max_norm / xp.maximum(norm, max_norm)
        x *= xp.where(xp.isfinite(norm), factor, xp.ones_like(factor))
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
        """An Adam step in place on w, m and v; alpha includes the bias correction.

        m = beta1 * m + (1 - beta1) * dw
        v = beta2 * v + (1 - beta2) * dw**2
        w -= alpha * m / (sqrt(v) + epsilon)
        """
        xp = get_array_module(w, dw, m, v)
        m[...] = beta1 * m + (1 - beta1) * dw
        v[...] = beta2 * v + (1 - beta2) * (dw * dw)
        w -= alpha * m / (xp.sqrt(v) + epsilon)

    def record_step(self, record: Array, i: int, loss: Array, norm: Array) -> None:
        """Write loss and gradient norm (both 0-d) of step i to row i of record (n, 2)."""
        record[i, 0] = loss
        record[i, 1] = norm

    # ---- Choices of words. On the host they work on blocks of rows that fit a core's cache

    def log_softmax_(self, scores: Array) -> Array:
        """log_softmax in place: scores (n, V) become log-probabilities."""
        for block in row_blocks(scores):
            log_softmax(scores[block], out=scores[block])
        return scores

    def forbid(self, scores: Array, words: Array) -> None:
        """Set the scores (n, V) of words (K,), int32, to -inf in every row."""
        scores[:, words] = -np.inf

    def argmax(self, scores: Array) -> Array:
        """Column (n,), int32, of the largest score in each row of scores (n, V).

        The first of equal scores counts, and NaN is larger than any number.
        """
        return scores.argmax(axis=1).astype(np.int32)

    def sample_words(self, x: Array, u: Array, temperature: float | None = None) -> Array:
        """Words (n,), int32, drawn from unnormalised probabilities p (n, V) by uniforms u (n,).

        p = x, or exp((x - its row's maximum) / temperature)

        The sampled word is the first at which the cumulative sum of p exceeds u * sum(p), u in [0, 1).
        It never has probability 0. u and the sums must be finite.
        """
        p = x if temperature is None else tempered(x, temperature)
        cumulative = p.cumsum(axis=1)
        return (cumulative <= (u * cumulative[:, -1])[:, None]).sum(axis=1).astype(np.int32)

    def beam_step(
        self, ranked: Array, scores: Array, totals: Array, beams: BeamRows, null: int
    ) -> tuple[Array, Array, Array]:
        """Best continuations of each picture's hypotheses: words, parents and totals, each (m,).

        A picture's candidates are the pairs of its hypotheses r and all words w. They are ordered by
        totals[r] + ranked[r, w], largest first, ties by r, then by ranked, then by w; ranked and scores
        (n, V), totals (n,). The new totals are totals[r] + scores[r, w]. If a picture has too few
        candidates above -inf, the rest are word `null` with total -inf. Numbers must be finite or -inf.
        """
        xp = get_array_module(scores)
        size = beams.size
        tables = beams.pictures
        values, words = topk(ranked, size)  # (n, size)
        table = xp.full((tables * size, size), -np.inf, scores.dtype)
        table[beams.rows] = values + totals[:, None]
        top = topk(table.reshape(tables, -1), size)
        best, entries = (x.reshape(-1)[beams.next_rows] for x in top)  # (m,)
        parents = beams.firsts + entries // size
        chosen = words[parents, entries % size]
        exists = best > -np.inf  # otherwise no word is left for this slot
        new_totals = xp.where(exists, totals[parents] + scores[parents, chosen], -np.inf)
        return xp.where(exists, chosen, null), parents, new_totals

    # ---- Random numbers

    def dropout_masks(
        self,
        masks: Sequence[Sequence[Array]],
        mask_rows: Sequence[Sequence[Array]],
        counts: Sequence[int],
        seed: int,
        step: int,
        keep: float,
    ) -> None:
        """Draw a training step's dropout masks, which are true for the units to keep.

        Image features have stream 0, words 1, hidden states 2. Unit u of row r is kept if a number of
        16 bits is below round(65536 * keep), at most 65536. The number is bits 16 * (u % 16) and up of
        the 256 that Philox 4x64-10 makes from the key (seed, stream) and the counter
        (1 + r * ceil(width / 16) + u // 16, 0, 0, step), low words and low bits first. So
        ``numpy.random.Philox(key=[seed, stream], counter=[0, 0, 0, step]).random_raw(...)``, viewed as
        uint16, has the bits of row 0, row 1, and so on: NumPy increments before it makes a block.

        masks : for each part of the batch, for each stream, an array (n, width), bool, to write to
        mask_rows : likewise an array (n,), int32, with the number of each row; on a device -1 stands for
            a row that keeps no unit
        counts : for each stream the number of rows of the whole batch, numbered 0..count-1
        seed, step : int in 0..2**63-1
        """
        for stream, count in enumerate(counts):
            kept = kept_units(seed, stream, step, (count, masks[0][stream].shape[1]), keep)
            for part, rows in zip(masks, mask_rows, strict=True):
                mask = part[stream]
                self.gather(asarray(kept, like=mask), rows[stream], out=mask)
                if is_device_array(mask):
                    mask &= (rows[stream] >= 0)[:, None]

    # ---- Attention, in the time loops and around them
    #
    # Row i of a step belongs to sequence i, whose picture has the regions A[i]. A loop calls these
    # methods once, and gets a function of one Step.

    def attend_steps(self, h: Array, A: Array, weights: Array, context: Array) -> StepFn:
        """A step of attention, for each row r of sequence i:

        weights[r] = softmax(A[i] . h_prev / sqrt(H)) over the regions
        context[r] = weights[r] @ A[i]

        h is the stack (., H) of states before each step; A (N, P, H). The results are written by row
        to weights (R, P) and context (R, H).
        """
        xp = get_array_module(A)
        scale = A.shape[2] ** -0.5

        def step_fn(step: Step) -> None:
            regions = A[: step.n]
            p = weights[step.rows]
            xp.matmul(regions, h[step.states_before][:, :, None], out=p[:, :, None])  # (n, P)
            p *= scale
            softmax(p, out=p)
            xp.matmul(p[:, None, :], regions, out=context[step.rows][:, None, :])  # (n, H)

        return step_fn

    def attend_backward_steps(
        self, dcontext: Array, A: Array, weights: Array, dscores: Array, dh_next: Array
    ) -> StepFn:
        """Gradients of attend_steps with respect to the states, later steps first:

        dweights = A[i] . dcontext[r]
        dscores[r] = weights[r] * (dweights - weights[r] . dweights) / sqrt(H)
        dh_next[i] += dscores[r] @ A[i]

        dcontext (R, H) is read by row; dscores (R, P), by row, and dh_next (N, H) are written.
        """
        xp = get_array_module(A)
        scale = A.shape[2] ** -0.5

        def step_fn(step: Step) -> None:
            regions = A[: step.n]
            p = weights[step.rows]
            d = dscores[step.rows]
            dz = dcontext[step.rows][:, :, None]
            xp.matmul(regions, dz, out=d[:, :, None])  # dweights (n, P)
            softmax_backward(d, p)
            d *= scale
            dh_next[: step.n] += xp.matmul(d[:, None, :], regions)[:, 0]

        return step_fn

    def attention_sum(
        self,
        weights: Array,
        dcontext: Array,
        dscores: Array,
        h: Array,
        rows: PackedSequences,
        out: Array,
    ) -> Array:
        """Gradient of attend_steps with respect to A (N, P, H), after the loop:

        out[i] = sum over the rows r of sequence i of
            weights[r] (x) dcontext[r] + dscores[r] (x) h_prev[r]

        `h` is the stack of states as in attend_steps.
        """
        xp = get_array_module(out)
        N, P, H = out.shape
        T = len(rows.steps)

        # One product per sequence, of the factors of all its rows, with zeros after its end
        left = xp.zeros((N, 2 * T, P), out.dtype)
        right = xp.zeros((N, 2 * T, H), out.dtype)
        for t, step in enumerate(rows.steps):
            left[: step.n, t] = weights[step.rows]
            right[: step.n, t] = dcontext[step.rows]
            left[: step.n, T + t] = dscores[step.rows]
            right[: step.n, T + t] = h[step.states_before]
        return xp.matmul(left.transpose(0, 2, 1), right, out=out)

    # ---- Recurrent cells: the loop of layers/recurrent.py calls these once per sequence

    def start_states(self, state0: tuple[Array | None, ...], stacks: State) -> None:
        """Copy the initial states, each (N, H), to the beginning of their stacks; None means zeros."""
        N = len(state0[0])  # type: ignore[arg-type]
        for x, stack in zip(state0, stacks, strict=True):
            stack[:N] = 0 if x is None else x

    def cell_steps(
        self, cell: PointwiseSteps, loop: CellBuffers, Wh: Factor, add: StepFn | None
    ) -> StepFn | None:
        """A faster version of a step of layers/recurrent.py, or None if there is none.

        It computes r = h @ Wh; add(step), if given, adds a term to r; then it computes the equation.
        """
        return None

    def cell_backward_steps(
        self, cell: PointwiseSteps, grads: CellGradients, Wh: Array, add: StepFn | None
    ) -> StepFn | None:
        """A faster version of a backward step of layers/recurrent.py, later steps first; or None.

        It computes the cell's gradient and dh = dr @ Wh.T, and then calls add(step), if given.
        """
        return None


# Names of all operations
OPERATIONS = tuple(name for name in vars(Ops) if not name.startswith("_"))


def overridden(version: type[Ops]) -> list[str]:
    """Names of the operations that a class overrides."""
    return [
        name
        for name in OPERATIONS
        if inspect.unwrap(getattr(version, name)) is not getattr(Ops, name)
    ]
