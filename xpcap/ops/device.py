"""Operations on CuPy arrays: each is a method that launches a kernel of cuda/, or calls cuBLAS.

A launch names the kernel, its threads (or its blocks, as a tuple) and its C arguments. An array that
does not fit is an error. Where no kernel applies, `super()` computes the plain equation with CuPy.
Matrix products are in cublas.py.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xpcap.backend import Array, cublas, get_array_module, is_device_array
from xpcap.backend.launch import Kernels
from xpcap.backend.memory import Workspace
from xpcap.backend.replay import invalidate
from xpcap.ops.base import OPERATIONS, Factor, MultiplyRows, Ops, Segments, overridden
from xpcap.ops.cell import CellBuffers, CellGradients, PointwiseSteps, State, name_of
from xpcap.ops.choosing import BeamRows
from xpcap.ops.packed import PackedSequences, Step, StepFn
from xpcap.ops.softmax import NO_TARGET, LossTerms

# Up to this many sequences an LSTM step is one launch forward and one backward, each with its product
# and gates. Not yet timed on a GPU
FUSED = 128
CUDA = Kernels(
    __package__,
    {
        "FORWARD_UNITS": 8,  # units of a block in lstm_step.cu; it has THREADS / units rows
        "BACKWARD_UNITS": 16,
        "SEGMENT_PARTS": 4,  # parts of a long segment
        "SUM_COLUMNS": 8,  # columns of a block in column_sum.cu
        "REGIONS": 1024,  # most regions of a picture: whole tiles, 13 KiB of shared memory in double
        "SLAB": 16,  # regions per thread of attention_sum
        "NO_TARGET": NO_TARGET,
    },
)


class Equations(Ops):
    """The plain equations on a device, by CuPy; each invalidates the current recording."""

    @classmethod
    def without_kernels(cls) -> list[str]:
        """Names of the operations that no kernel computes."""
        kernels = overridden(cls)
        return [name for name in OPERATIONS if name not in kernels]


def _unrecorded(name: str, equation: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(equation)
    def run(*args: Any, **kwargs: Any) -> Any:
        invalidate(name)
        return equation(*args, **kwargs)

    return run


for _name in OPERATIONS:
    setattr(Equations, _name, _unrecorded(_name, getattr(Ops, _name)))


def _empty(like: Array, *shape: int, dtype: Any = None) -> Array:
    return get_array_module(like).empty(shape, dtype or like.dtype)


def _scale(scale: Array | float, like: Array) -> tuple[Array, float, int]:
    """Scale for a kernel: an array, a number, and 1 to use the array or 0 to use the number."""
    if isinstance(scale, float):
        return like, scale, 0
    return scale, 0, 1


def _launch_loss(
    scores: Array, bias: Array | None, targets: Array, terms: LossTerms, nll: Array, out: Array
) -> None:
    """Write the loss of softmax(scores + bias) to nll, and its gradient to out."""
    R, V = scores.shape
    scale = _scale(terms.scale, nll)
    shares = 1 - terms.smoothing, terms.smoothing / V  # of the target, of each word
    b, biased = (scores, 0) if bias is None else (bias, 1)
    CUDA.launch("softmax_loss", (R,), scores, b, biased, targets, *scale, *shares, nll, out, V)


def _squares(x: Array, memory: Workspace) -> tuple[Array, Array]:
    """Partial sums of squares, one per thread of a block, and memory for the norm."""
    partial = memory.take("squares", (CUDA.threads,), np.float64)
    CUDA.launch("squares", (CUDA.threads,), x, partial, x.size)
    return partial, memory.take("norm", ())


def _fits_a_block(A: Array) -> bool:
    """Whether a block's shared memory holds the attention scores of P regions, A (N, P, H)."""
    return A.size > 0 and A.shape[1] <= CUDA["REGIONS"]


def _tiles(H: int, units: int) -> tuple[int, int]:
    """Number of blocks of lstm_step.cu along H units, `units` per block, and the rows of a block."""
    return CUDA.blocks(H, units), CUDA.threads // units


class DeviceOps(Equations):
    """Operations on CuPy arrays, by xpcap's kernels and cuBLAS."""

    # ---- Products. cuBLAS accepts no empty factor

    def matmul(self, x: Array, w: Array, out: Array | None = None) -> Array:
        if x.size and w.size:
            return cublas.multiply(x, w, _empty(x, len(x), w.shape[1]) if out is None else out)
        return super().matmul(x, w, out)

    def matmul_add(self, x: Array, w: Array, out: Array, memory: Workspace | None = None) -> Array:
        if x.size and w.size:
            return cublas.multiply(x, w, out, cublas.ONE)
        return super().matmul_add(x, w, out, memory)

    def matmul_nt(self, x: Array, w: Array, out: Array) -> Array:
        return self.matmul(x, w.T, out)

    def factor(self, w: Array, memory: Workspace | None = None) -> Factor:
        """w itself, which cuBLAS accepts."""
        return w

    def row_matmul(self, x: Array, w: Factor, out: Array) -> MultiplyRows:
        if x.size and w.size:
            return cublas.multiply_rows(x, w, out)
        return super().row_matmul(x, w, out)

    def row_matmul_add(
        self, x: Array, w: Factor, out: Array, memory: Workspace | None = None
    ) -> MultiplyRows:
        if x.size and w.size:
            return cublas.multiply_rows(x, w, out, cublas.ONE)
        return super().row_matmul_add(x, w, out, memory)

    def row_matmul_nt(self, x: Array, w: Array, out: Array) -> MultiplyRows:
        return self.row_matmul(x, w.T, out)

    # ---- Losses

    def softmax_loss(
        self, scores: Array, targets: Array, terms: LossTerms, out: Array | None = None
    ) -> tuple[Array, Array]:
        if terms.beyond("smoothing"):
            return super().softmax_loss(scores, targets, terms, out)
        nll = _empty(scores, len(scores))
        dscores = _empty(scores, *scores.shape) if out is None else out
        _launch_loss(scores, None, targets, terms, nll, dscores)
        return nll, dscores

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
        if terms.beyond("smoothing"):
            super().word_loss(h, w, b, targets, terms, nll, dscores, dh)
            return
        self.matmul(h, w, dscores)
        _launch_loss(dscores, b, targets, terms, nll, dscores)
        self.matmul(dscores, w.T, dh)

    def weighted_sum(self, x: Array, scale: Array | float, out: Array) -> Array:
        CUDA.launch("weighted_sum", (1,), x, *_scale(scale, x), out, x.size)
        return out

    # ---- Rows of tables, and their gradients

    def gather(
        self,
        table: Array,
        rows: Array | None,
        out: Array,
        mask: Array | None = None,
        keep: float = 1.0,
    ) -> Array:
        n = out.size
        C = out.shape[1]
        if mask is None and rows is None:
            return super().gather(table, rows, out)
        if mask is None:
            CUDA.launch("gather", n, table, rows, out, n, C)
        elif rows is None:
            CUDA.launch("dropout", n, table, mask, out, 1 / keep, n)
        else:
            CUDA.launch("gather_drop", n, table, rows, mask, out, 1 / keep, n, C)
        return out

    def gather_plus(self, table: Array, rows: Array, b: Array, out: Array) -> Array:
        CUDA.launch("gather_plus", out.size, table, rows, b, out, out.size, out.shape[1])
        return out

    def gather_plus_image(
        self, table: Array, ids: Array, b: Array, image: Array, rows: PackedSequences, out: Array
    ) -> Array:
        if not is_device_array(rows.sequence):
            return super().gather_plus_image(table, ids, b, image, rows, out)
        arrays = table, ids, b, image, rows.sequence, out
        CUDA.launch("gather_plus_image", out.size, *arrays, out.size, out.shape[1])
        return out

    def gather_regions(
        self, table: Array, rows: Array, out: Array, mask: Array | None = None, keep: float = 1.0
    ) -> Array:
        n = out.size
        _, P, D = out.shape
        if mask is None:
            CUDA.launch("gather", n, table, rows, out, n, P * D)
        else:
            CUDA.launch("gather_regions", n, table, rows, mask, out, 1 / keep, n, P, D)
        return out

    def scatter(
        self, x: Array, rows: Array, out: Array, mask: Array | None = None, keep: float = 1.0
    ) -> Array:
        sizes = len(rows), out.size, out.shape[1]
        if mask is None:
            CUDA.launch("scatter", out.size, x, rows, out, *sizes)
        else:
            CUDA.launch("scatter_drop", out.size, x, rows, mask, out, 1 / keep, *sizes)
        return out

    def segment_sum(self, rows: Array, groups: Segments, out: Array | None = None) -> Array:
        K = len(groups.starts) - 1
        C = rows.shape[1]
        blocks = K, CUDA.blocks(C, CUDA.threads // CUDA["SEGMENT_PARTS"])
        sums = _empty(rows, K, C) if out is None else out
        CUDA.launch("segment_sum", blocks, rows, groups.order, groups.starts, sums, C)
        return sums

    def sequence_sum(self, x: Array, rows: PackedSequences, out: Array) -> Array:
        N, C = out.shape
        T = len(rows.batch_sizes)
        if not is_device_array(rows.firsts):
            return super().sequence_sum(x, rows, out)
        CUDA.launch("sequence_sum", (N, CUDA.blocks(C)), x, rows.firsts, out, T, C)
        return out

    def column_sum(self, x: Array, out: Array) -> Array:
        blocks = CUDA.blocks(x.shape[1], CUDA["SUM_COLUMNS"])
        CUDA.launch("column_sum", (blocks,), x, out, *x.shape)
        return out

    def add_rows(self, x: Array, b: Array) -> Array:
        CUDA.launch("add_rows", x.size, x, b, x.size, b.size)
        return x

    def dropout(self, x: Array, mask: Array, keep: float) -> Array:
        out = _empty(x, *x.shape)
        CUDA.launch("dropout", x.size, x, mask, out, 1 / keep, x.size)
        return out

    def mean_regions(self, A: Array, out: Array) -> Array:
        CUDA.launch("mean_regions", out.size, A, out, out.size, *A.shape[1:])
        return out

    def add_to_regions(self, dA: Array, dmean: Array) -> Array:
        CUDA.launch("add_to_regions", dmean.size, dA, dmean, dmean.size, *dA.shape[1:])
        return dA

    # ---- The update of a training step

    def global_norm(self, x: Array, memory: Workspace | None = None) -> Array:
        partial, norm = _squares(x, memory or Workspace.fresh(x))
        CUDA.launch("root", (1,), partial, norm)
        return norm

    def clip_by_norm(self, x: Array, max_norm: float, memory: Workspace | None = None) -> Array:
        partial, norm = _squares(x, memory or Workspace.fresh(x))
        CUDA.launch("clip", (CUDA.threads,), x, partial, norm, max_norm, x.size)
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
        rates = alpha, beta1, 1 - beta1, beta2, 1 - beta2, epsilon
        CUDA.launch("adam_update", w.size, w, dw, m, v, *rates, w.size)

    def record_step(self, record: Array, i: int, loss: Array, norm: Array) -> None:
        CUDA.launch("record_step", (1,), record, loss, norm, i)

    # ---- Choices of words. The kernels read each row's first score, so none may be empty

    def log_softmax_(self, scores: Array) -> Array:
        if not scores.size:
            return super().log_softmax_(scores)
        CUDA.launch("log_softmax", (len(scores),), scores, scores.shape[1])
        return scores

    def forbid(self, scores: Array, words: Array) -> None:
        n, V = scores.shape
        count = len(words)
        CUDA.launch("forbid", n * count, scores, words, n, count, V)

    def argmax(self, scores: Array) -> Array:
        if not scores.size:
            return super().argmax(scores)
        words = _empty(scores, len(scores), dtype=np.int32)
        CUDA.launch("argmax", (len(scores),), scores, words, scores.shape[1])
        return words

    def sample_words(self, x: Array, u: Array, temperature: float | None = None) -> Array:
        if not x.size:
            return super().sample_words(x, u, temperature)
        n, V = x.shape
        words = _empty(x, len(x), dtype=np.int32)
        soft = temperature is not None
        CUDA.launch("sample_words", (n,), x, u, words, temperature or 1, soft, V)
        return words

    def beam_step(
        self, ranked: Array, scores: Array, totals: Array, beams: BeamRows, null: int
    ) -> tuple[Array, Array, Array]:
        n, V = scores.shape
        m = len(beams.next_rows)
        words, parents = (_empty(scores, m, dtype=np.int32) for _ in range(2))
        results = words, parents, _empty(scores, m)
        sizes = n, m // n, beams.size, null, V
        CUDA.launch("beam_step", (n,), ranked, scores, totals, beams.rows, *results, *sizes)
        return results

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
        scalars = round(65536 * keep), seed, step
        for part, rows in zip(masks, mask_rows, strict=True):
            (N, D), (K, W), (L, H) = (mask.shape for mask in part)
            threads = N * -(-D // 16) + K * -(-W // 16) + L * -(-H // 16)
            args = *rows, *part, N, D, K, W, L, H, *scalars
            CUDA.launch("dropout_masks", threads, *args)

    # ---- Attention

    def attend_steps(self, h: Array, A: Array, weights: Array, context: Array) -> StepFn:
        if not _fits_a_block(A):
            return super().attend_steps(h, A, weights, context)
        launch = CUDA.prepared("attend_step", h, A, weights, context)
        _, P, H = A.shape

        def step_fn(step: Step) -> None:
            launch((step.n,), step.first, step.before, P, H)

        return step_fn

    def attend_backward_steps(
        self, dcontext: Array, A: Array, weights: Array, dscores: Array, dh_next: Array
    ) -> StepFn:
        arrays = (dcontext, A, weights, dscores, dh_next)
        _, P, H = A.shape
        if not _fits_a_block(A):
            return super().attend_backward_steps(*arrays)
        launch = CUDA.prepared("attend_step_backward", *arrays)

        def step_fn(step: Step) -> None:
            launch((step.n,), step.first, P, H)

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
        N, P, H = out.shape
        T = len(rows.batch_sizes)
        if not (_fits_a_block(out) and is_device_array(rows.firsts)):
            return super().attention_sum(weights, dcontext, dscores, h, rows, out)
        blocks = N, CUDA.blocks(H), CUDA.blocks(P, CUDA["SLAB"])
        arrays = weights, dcontext, dscores, h, rows.firsts, out
        CUDA.launch("attention_sum", blocks, *arrays, N, T, P, H)
        return out

    # ---- Recurrent cells

    def start_states(self, state0: tuple[Array | None, ...], stacks: State) -> None:
        if len(state0) > 2:
            super().start_states(state0, stacks)
            return
        # If the cell has no c, the kernel writes h twice
        h0 = state0[0]
        c0 = state0[-1]
        has_c = c0 is not None
        n = h0.size  # type: ignore[union-attr]
        CUDA.launch("start_states", n, h0, c0 if has_c else h0, stacks[0], stacks[-1], has_c, n)

    def cell_steps(
        self, cell: PointwiseSteps, loop: CellBuffers, Wh: Factor, add: StepFn | None
    ) -> StepFn | None:
        """A product, the extra term, and a kernel; without the term, one launch for few LSTM rows."""
        kernel = CELL_KERNELS.get(name_of(cell.equation))
        if kernel is None:
            return None
        h, c = loop.before
        H = len(Wh)
        # A stack has N states more than there are rows; a single step has separate arrays
        fits = (len(h) - len(loop.a) or len(h)) <= FUSED
        if add is None and fits:
            return _fused_steps(loop, Wh)
        launch = CUDA.prepared(kernel, loop.a, loop.r, c, *loop.after, *loop.saved)
        multiply = self.row_matmul(h, Wh, loop.r)

        def step_fn(step: Step) -> None:
            first, before, after, n, _ = step
            multiply(before, 0, n)
            if add is not None:
                add(step)
            launch(n * H, first, before, after, n, H)

        return step_fn

    def cell_backward_steps(
        self, cell: PointwiseSteps, grads: CellGradients, Wh: Array, add: StepFn | None
    ) -> StepFn | None:
        """If the last states have no gradient, only sequences with a next step read dstate."""
        kernel = CELL_KERNELS.get(name_of(cell.gradient))
        if kernel is None:
            return None
        _, c = grads.states
        dh_next, dc = grads.dstate
        multiply = self.row_matmul_nt(grads.da, Wh, dh_next)
        H = len(Wh)
        fits = len(dh_next) <= FUSED
        if add is None and not grads.begun and fits:
            return _fused_backward_steps(grads, Wh, multiply)
        arrays = grads.dh, dh_next, dc, *grads.saved, c, grads.da, dc
        launch = CUDA.prepared(kernel, *arrays)

        def step_fn(step: Step) -> None:
            first, before, _, n, n_next = step
            launch(n * H, first, before, n, n if grads.begun else n_next, H)
            multiply(first, 0, n)
            if add is not None:
                add(step)

        return step_fn


# The kernel that replaces each equation or gradient of a cell
CELL_KERNELS = {
    "xpcap.layers.lstm.LSTMCell.equation": "lstm_gates",
    "xpcap.layers.lstm.LSTMCell.gradient": "lstm_gates_backward",
}


def has_kernels(cell: object) -> bool:
    """Whether kernels compute a cell's equation and gradient."""
    methods = (getattr(cell, name, None) for name in ("equation", "gradient"))
    return all(name_of(method) in CELL_KERNELS for method in methods)


def _fused_steps(loop: CellBuffers, Wh: Array) -> StepFn:
    """LSTMCell.equation and r = h @ Wh in one launch."""
    H = len(Wh)
    launch = CUDA.prepared("lstm_step", loop.a, Wh, *loop.before, *loop.after, *loop.saved)
    across, rows = _tiles(H, CUDA["FORWARD_UNITS"])

    def step_fn(step: Step) -> None:
        first, before, after, n, _ = step
        launch((across, -(-n // rows)), first, before, after, n, H)

    return step_fn


def _fused_backward_steps(grads: CellGradients, Wh: Array, multiply: MultiplyRows) -> StepFn:
    """LSTMCell.gradient and dh = da @ Wh.T in one launch.

    A step computes the product of the next step's da itself, so only the first step writes dh.
    """
    _, c = grads.states
    _, dc = grads.dstate
    H = len(Wh)
    arrays = grads.dh, *grads.saved, c, Wh, grads.da, dc
    launch = CUDA.prepared("lstm_step_backward", *arrays)
    across, rows = _tiles(H, CUDA["BACKWARD_UNITS"])

    def step_fn(step: Step) -> None:
        first, before, _, n, n_next = step
        launch((across, -(-n // rows)), first, before, n, n_next, H)
        if not first:
            multiply(0, 0, n)

    return step_fn


def contiguous(x: Array) -> Array:
    """x as kernels require it: C-contiguous, integers as int32.

    Host arrays and None are returned unchanged. A copy is made by CuPy, and invalidates a recording.
    """
    if not is_device_array(x):
        return x
    if x.dtype.kind in "iu" and x.dtype != np.int32:
        invalidate("contiguous")
        return x.astype(np.int32, order="C")
    if not x.flags.c_contiguous:
        invalidate("contiguous")
        return get_array_module(x).ascontiguousarray(x)
    return x
