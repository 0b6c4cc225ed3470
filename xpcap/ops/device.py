"""Operations on CuPy's arrays: launches of the CUDA C files of cuda/, and products by cuBLAS.

In the time loops each launch is a step over whole buffers; everything that stays the same is
prepared. Matrix products are in cublas.py.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xpcap.backend import Array, get_array_module, is_device_array
from xpcap.device import cublas
from xpcap.device.launch import THREADS, Kernels, blocks
from xpcap.device.replay import invalidate
from xpcap.errors import InvalidTypeError, InvalidValueError
from xpcap.memory import Buffer, allocator
from xpcap.ops.base import OPERATIONS, MultiplyRows, Ops, Segments, overridden
from xpcap.ops.cell import CellBuffers, CellGradients, Pointwise, State
from xpcap.ops.choosing import BeamRows
from xpcap.ops.packed import PackedSequences, Step, StepFn
from xpcap.ops.softmax import NO_TARGET, LossTerms

# Most sequences for which an LSTM's step is one launch each way, product and gates together. Not
# yet timed on a card
FUSED = 128
# File and kernels, forward and backward, of each cell that has them
CELLS = {
    "lstm": ("lstm_gates", "lstm_gates", "lstm_gates_backward"),
    "rnn": ("rnn_cell", "rnn_cell", "rnn_cell_backward"),
}
# What host and kernels agree on
NORM_BLOCKS = 256  # of the first pass of a norm: sums have the same order on every GPU
FORWARD_UNITS = 8  # of a block in lstm_step.cu; its threads divided by them are its rows
BACKWARD_UNITS = 16
SEGMENT_PARTS = 4  # of a long segment
SUM_COLUMNS = 8  # of a block in column_sum.cu
REGIONS = 1024  # of a picture, at most: whole tiles; 13 KiB of shared memory in double
SLAB = 16  # regions for a thread of attention_sum
CUDA = Kernels(
    __package__,
    {
        "THREADS": THREADS,
        "NORM_BLOCKS": NORM_BLOCKS,
        "FORWARD_UNITS": FORWARD_UNITS,
        "BACKWARD_UNITS": BACKWARD_UNITS,
        "SEGMENT_PARTS": SEGMENT_PARTS,
        "SUM_COLUMNS": SUM_COLUMNS,
        "REGIONS": REGIONS,
        "SLAB": SLAB,
        "NO_TARGET": NO_TARGET,
    },
)
SEGMENT_COLUMNS = THREADS // SEGMENT_PARTS
kernel, launch = CUDA.kernel, CUDA.launch


class Equations(Ops):
    """The plain equations on a device: CuPy computes them, so a recording that is on is not used.

    What a subclass overrides runs for arrays that are not empty, and its errors name the operation.
    """

    def __init_subclass__(cls) -> None:
        for name in OPERATIONS:
            if name in vars(cls):
                setattr(cls, name, _guarded(name, vars(cls)[name]))

    @classmethod
    def without_kernels(cls) -> list[str]:
        """Names of the operations that CuPy computes, by equations."""
        kernels = overridden(cls)
        return [name for name in OPERATIONS if name not in kernels]


def _unrecorded(name: str, equation: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(equation)
    def run(*args: Any, **kwargs: Any) -> Any:
        invalidate(name)
        return equation(*args, **kwargs)

    return run


def _guarded(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """The method of an operation, or its equation where an array is empty."""
    equation = getattr(Equations, name)

    @functools.wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        for x in (*args, *kwargs.values()):
            if getattr(x, "size", 1) == 0:
                return equation(*args, **kwargs)
        try:
            return method(*args, **kwargs)
        except (InvalidTypeError, InvalidValueError) as error:
            _, *fields = error.args
            raise type(error)(name, *fields) from error

    return run


for _name in OPERATIONS:
    setattr(Equations, _name, _unrecorded(_name, getattr(Ops, _name)))


def _scale(scale: Array | float, like: Array) -> tuple[Array, float, int]:
    """Scale for a kernel: an array, a number, and 1 to read the array, which else is any."""
    if isinstance(scale, float):
        return like, scale, 0
    return scale, 0, 1


def _softmax_loss(
    scores: Array, bias: Array | None, targets: Array, terms: LossTerms, nll: Array, out: Array
) -> None:
    """Loss nll and gradient of softmax(scores + bias), written to nll and out."""
    (R, V), (array, number, each) = scores.shape, _scale(terms.scale, nll)
    b, biased = (scores, 0) if bias is None else (bias, 1)
    mix = 1 - terms.smoothing, terms.smoothing / V
    args = scores, b, targets, array, number, *mix, nll, out, biased, each, V
    launch("softmax_loss", "softmax_loss", scores, R, *args)


def _squares(x: Array, buffer: Buffer) -> tuple[Array, Array]:
    """Partial sums of squares, and memory for the norm."""
    partial = buffer("squares", (NORM_BLOCKS,), np.float64)
    launch("norm", "squares", x, NORM_BLOCKS, x, partial, x.size)
    return partial, buffer("norm", ())


def _grid(n: int, H: int, units: int) -> tuple[int, int]:
    """Blocks of (row, unit) pairs, with `units` units each."""
    return -(-H // units), -(-n // (THREADS // units))


class DeviceOps(Equations):
    """Operations on CuPy's arrays, by kernels of our own and by cuBLAS."""

    # ---- Products

    def matmul(self, x: Array, w: Array, out: Array) -> Array:
        return cublas.multiply(x, w, out)

    def matmul_add(self, x: Array, w: Array, out: Array, buffer: Buffer | None = None) -> Array:
        return cublas.multiply(x, w, out, cublas.ONE)

    def matmul_nt(self, x: Array, w: Array, out: Array) -> Array:
        return cublas.multiply(x, w.T, out)

    def row_matmul(self, x: Array, w: Array, out: Array) -> MultiplyRows:
        return cublas.multiply_rows(x, w, out)

    def row_matmul_add(
        self, x: Array, w: Array, out: Array, buffer: Buffer | None = None
    ) -> MultiplyRows:
        return cublas.multiply_rows(x, w, out, cublas.ONE)

    def row_matmul_nt(self, x: Array, w: Array, out: Array) -> MultiplyRows:
        return cublas.multiply_rows(x, w.T, out)

    # ---- Losses

    def softmax_loss(
        self, scores: Array, targets: Array, terms: LossTerms, out: Array | None = None
    ) -> tuple[Array, Array]:
        if terms.beyond("smoothing"):
            return super().softmax_loss(scores, targets, terms, out)
        out = get_array_module(scores).empty_like(scores) if out is None else out
        nll = get_array_module(scores).empty(len(scores), scores.dtype)
        _softmax_loss(scores, None, targets, terms, nll, out)
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
        if terms.beyond("smoothing"):
            super().word_loss(h, w, b, targets, terms, nll, dscores, dh)
            return
        self.matmul(h, w, dscores)
        _softmax_loss(dscores, b, targets, terms, nll, dscores)
        self.matmul(dscores, w.T, dh)

    def weighted_sum(self, x: Array, scale: Array | float, out: Array) -> Array:
        array, number, each = _scale(scale, x)
        launch("weighted_sum", "weighted_sum", x, 1, x, array, number, out, each, x.size)
        return out

    # ---- Rows of tables

    def gather(
        self,
        table: Array,
        rows: Array | None,
        out: Array,
        mask: Array | None = None,
        keep: float = 1.0,
    ) -> Array:
        if rows is None and mask is None:
            return super().gather(table, rows, out)
        size, grid = (out.size, out.shape[1]), blocks(out.size)
        scale = 1 / keep
        if rows is None:
            launch("dropout", "dropout", out, grid, table, mask, out, scale, out.size)
        elif mask is None:
            launch("gather", "gather", out, grid, table, rows, out, *size)
        else:
            launch("gather", "gather_drop", out, grid, table, rows, mask, out, scale, *size)
        return out

    def gather_plus(self, table: Array, rows: Array, b: Array, out: Array) -> Array:
        size = out.size, out.shape[1]
        launch("gather", "gather_plus", out, blocks(out.size), table, rows, b, out, *size)
        return out

    def gather_plus_image(
        self, table: Array, ids: Array, b: Array, image: Array, rows: PackedSequences, out: Array
    ) -> Array:
        if not is_device_array(rows.sequence):
            return super().gather_plus_image(table, ids, b, image, rows, out)
        args = table, ids, b, image, rows.sequence, out, out.size, out.shape[1]
        launch("gather", "gather_plus_image", out, blocks(out.size), *args)
        return out

    def gather_regions(
        self, table: Array, rows: Array, out: Array, mask: Array | None = None, keep: float = 1.0
    ) -> Array:
        _, P, D = out.shape
        if mask is None:
            launch("gather", "gather", out, blocks(out.size), table, rows, out, out.size, P * D)
        else:
            args = table, rows, mask, out, 1 / keep, out.size, P, D
            launch("gather", "gather_regions", out, blocks(out.size), *args)
        return out

    def scatter(
        self, x: Array, rows: Array, out: Array, mask: Array | None = None, keep: float = 1.0
    ) -> Array:
        size = len(rows), out.size, out.shape[1]
        if mask is None:
            launch("gather", "scatter", x, blocks(out.size), x, rows, out, *size)
        else:
            args = x, rows, mask, out, 1 / keep, *size
            launch("gather", "scatter_drop", x, blocks(out.size), *args)
        return out

    def segment_sum(self, rows: Array, groups: Segments, out: Array | None = None) -> Array:
        if out is None:
            out = get_array_module(rows).empty((len(groups.starts) - 1, rows.shape[1]), rows.dtype)
        count, C = out.shape
        args = rows, groups.order, groups.starts, out, C
        launch("segment_sum", "segment_sum", rows, (count, -(-C // SEGMENT_COLUMNS)), *args)
        return out

    def sequence_sum(self, x: Array, rows: PackedSequences, out: Array) -> Array:
        if rows.firsts is None or not is_device_array(rows.firsts):
            return super().sequence_sum(x, rows, out)
        N, C = out.shape
        args = x, rows.firsts, out, len(rows.firsts) - 1, C
        launch("segment_sum", "sequence_sum", x, (N, blocks(C)), *args)
        return out

    def column_sum(self, x: Array, out: Array) -> Array:
        R, C = x.shape
        launch("column_sum", "column_sum", x, -(-C // SUM_COLUMNS), x, out, R, C)
        return out

    def add_rows(self, x: Array, b: Array) -> Array:
        launch("add_rows", "add_rows", x, blocks(x.size), x, b, x.size, b.size)
        return x

    def dropout(self, x: Array, mask: Array, keep: float) -> Array:
        out = get_array_module(x).empty_like(x)
        args = x, mask, out, 1 / keep, x.size
        launch("dropout", "dropout", x, blocks(x.size), *args)
        return out

    def mean_regions(self, A: Array, out: Array) -> Array:
        _, P, H = A.shape
        launch("attention", "mean_regions", A, blocks(out.size), A, out, out.size, P, H)
        return out

    def add_to_regions(self, dA: Array, dmean: Array) -> Array:
        _, P, H = dA.shape
        launch("attention", "add_to_regions", dA, blocks(dmean.size), dA, dmean, dmean.size, P, H)
        return dA

    # ---- The update of a training step

    def global_norm(self, x: Array, buffer: Buffer | None = None) -> Array:
        partial, norm = _squares(x, buffer or allocator(x))
        launch("norm", "root", x, 1, partial, norm)
        return norm

    def clip_by_norm(self, x: Array, most: float, buffer: Buffer | None = None) -> Array:
        partial, norm = _squares(x, buffer or allocator(x))
        launch("norm", "clip", x, NORM_BLOCKS, x, partial, norm, most, x.size)
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
        numbers = alpha, beta1, 1 - beta1, beta2, 1 - beta2, epsilon
        launch("adam", "adam_update", w, blocks(w.size), w, dw, m, v, *numbers, w.size)

    def record_step(self, record: Array, i: int, loss: Array, norm: Array) -> None:
        launch("record", "record_step", record, 1, record, loss, norm, i)

    # ---- Choices of words, and masks

    def log_softmax_(self, scores: Array) -> Array:
        launch("choosing", "log_softmax", scores, len(scores), scores, scores.shape[1])
        return scores

    def forbid(self, scores: Array, words: Array) -> None:
        (n, V), count = scores.shape, len(words)
        launch("choosing", "forbid", scores, blocks(n * count), scores, words, n, count, V)

    def argmax(self, scores: Array) -> Array:
        words = get_array_module(scores).empty(len(scores), np.int32)
        launch("choosing", "argmax", scores, len(scores), scores, words, scores.shape[1])
        return words

    def sample_words(self, x: Array, u: Array, temperature: float | None = None) -> Array:
        words = get_array_module(x).empty(len(x), np.int32)
        soft, degree = temperature is not None, temperature or 1
        launch("choosing", "sample_words", x, len(x), x, u, words, degree, soft, x.shape[1])
        return words

    def beam_step(
        self, ranked: Array, scores: Array, totals: Array, beams: BeamRows, null: int
    ) -> tuple[Array, Array, Array]:
        empty, (n, V), m = get_array_module(scores).empty, scores.shape, len(beams.next_rows)
        words, parents, new_totals = empty(m, np.int32), empty(m, np.int32), empty(m, scores.dtype)
        args = ranked, scores, totals, beams.rows, words, parents, new_totals
        numbers = n, m // n, beams.size, null, V
        launch("choosing", "beam_step", scores, n, *args, *numbers)
        return words, parents, new_totals

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
            launch("philox", "dropout_masks", part[0], blocks(threads), *args)

    # ---- Attention

    def attend_steps(self, h: Array, A: Array, weights: Array, context: Array) -> StepFn:
        if A.shape[1] > REGIONS:
            return super().attend_steps(h, A, weights, context)
        _, P, H = A.shape
        attend = kernel("attention", "attend_step", A).on(h, A, weights, context)

        def step_fn(step: Step) -> None:
            first, before, _, n, _ = step
            attend((n,), first, before, P, H)

        return step_fn

    def attend_backward_steps(
        self, dcontext: Array, A: Array, weights: Array, dscores: Array, dh_next: Array
    ) -> StepFn:
        if A.shape[1] > REGIONS:
            return super().attend_backward_steps(dcontext, A, weights, dscores, dh_next)
        _, P, H = A.shape
        backward = kernel("attention", "attend_step_backward", A).on(
            dcontext, A, weights, dscores, dh_next
        )

        def step_fn(step: Step) -> None:
            backward((step.n,), step.first, P, H)

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
        if P > REGIONS or rows.firsts is None or not is_device_array(rows.firsts):
            return super().attention_sum(weights, dcontext, dscores, h, rows, out)
        arrays, sizes = (
            (weights, dcontext, dscores, h, rows.firsts),
            (N, len(rows.firsts) - 1, P, H),
        )
        grid = N, blocks(H), -(-P // SLAB)
        launch("attention", "attention_sum", out, grid, *arrays, out, *sizes)
        return out

    # ---- Steps of the time loops: the product, by cuBLAS, and one launch; or both in one

    def start_states(self, state0: tuple[Array | None, ...], stacks: State) -> None:
        (h0, *others), (h, *below) = state0, stacks
        if len(others) > 1 or h0.size == 0:  # type: ignore[union-attr]
            super().start_states(state0, stacks)
            return
        c0, c = (others[0], below[0]) if others else (h0, h)  # then both write the same
        args = h0, h0 if c0 is None else c0, h, c, c0 is not None, h0.size  # type: ignore[union-attr]
        launch("start", "start_states", h0, blocks(h0.size), *args)  # type: ignore[union-attr]

    def cell_steps(self, cell: Pointwise, loop: CellBuffers) -> StepFn:
        if not cell.kernels:
            return super().cell_steps(cell, loop)
        (file, forward, _), (h, *_) = CELLS[cell.name], loop.after
        H, carried = h.shape[1], loop.before[1:]
        # The kernel of a cell without saved rows finds r in the stack of h
        r = loop.r if loop.saved else h
        run = kernel(file, forward, h).on(loop.a, r, *carried, *loop.after, *loop.saved)

        def step_fn(step: Step) -> None:
            first, before, after, n, _ = step
            states = (before, after) if carried else (after,)
            run((blocks(n * H),), first, *states, n, H)

        return step_fn

    def cell_backward_steps(
        self, cell: Pointwise, loop: CellBuffers, grads: CellGradients
    ) -> StepFn:
        """Without a gradient of the last states, only sequences with a next step read dstate."""
        if not cell.kernels:
            return super().cell_backward_steps(cell, loop, grads)
        file, _, backward = CELLS[cell.name]
        carries, (*_, last), (_, *carried) = grads.carries, loop.after, grads.dstate
        H, arrays = last.shape[1], (grads.dh, *grads.dstate, *loop.saved, last, grads.da, *carried)
        run = kernel(file, backward, last).on(*arrays)
        if carries:
            grads.begin()

        def step_fn(step: Step) -> None:
            first, before, after, n, n_next = step
            state = before if carried else after
            run((blocks(n * H),), first, state, n, n if carries else n_next, H)

        return step_fn

    def fused_cell_steps(self, cell: Pointwise, loop: CellBuffers, Wh: Array) -> StepFn | None:
        h, H = loop.before[0], len(Wh)
        # A stack holds N more than there are rows; a single step has separate arrays
        fits = (len(h) - len(loop.a) or len(h)) <= FUSED
        if not (cell.kernels and cell.name == "lstm" and fits):
            return None
        arrays = loop.a, Wh, *loop.before, *loop.after, *loop.saved
        fused = kernel("lstm_step", "lstm_step", Wh).on(*arrays)

        def step_fn(step: Step) -> None:
            first, before, after, n, _ = step
            fused(_grid(n, H, FORWARD_UNITS), first, before, after, n, H)

        return step_fn

    def fused_cell_backward_steps(
        self, cell: Pointwise, loop: CellBuffers, grads: CellGradients, Wh: Array
    ) -> StepFn | None:
        """Each step multiplies the da of its next one itself: only the first step writes dh."""
        (dh_next, *others), H = grads.dstate, len(Wh)
        if not (cell.kernels and cell.name == "lstm" and len(dh_next) <= FUSED):
            return None
        arrays = grads.dh, *loop.saved, loop.before[1], Wh, grads.da, *others
        fused = kernel("lstm_step", "lstm_step_backward", Wh).on(*arrays)
        multiply = self.row_matmul_nt(grads.da, Wh, dh_next)

        def step_fn(step: Step) -> None:
            first, before, _, n, n_next = step
            fused(_grid(n, H, BACKWARD_UNITS), first, before, n, n_next, H)
            if not first:
                multiply(0, 0, n)

        return step_fn


def contiguous(x: Array) -> Array:
    """Give x the layout that kernels take: C-contiguous, with whole numbers as int32.

    What lies on the host, and None, is as it was. CuPy copies: a recording that is on is not used.
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
