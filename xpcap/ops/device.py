"""Operations on CuPy's arrays: rows for the kernels of cuda/, and methods for the rest.

A row says how an operation launches its kernel, which is found by its name among the files. An
array that does not fit the kernel's C parameters is an error. Matrix products are in cublas.py.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from xpcap.backend import Array, get_array_module, is_device_array
from xpcap.device import cublas
from xpcap.device.launch import Kernels
from xpcap.device.replay import invalidate
from xpcap.errors import InvalidTypeError, InvalidValueError
from xpcap.memory import Buffer, allocator
from xpcap.ops.base import OPERATIONS, MultiplyRows, Ops, overridden
from xpcap.ops.cell import CellBuffers, CellGradients, Pointwise, State
from xpcap.ops.choosing import BeamRows
from xpcap.ops.packed import Step, StepFn
from xpcap.ops.softmax import NO_TARGET, LossTerms

# Most sequences for which an LSTM's step is one launch each way, product and gates together. Not
# yet timed on a card
FUSED = 128
# The kernel of a cell's step; that of its gradient is called ..._backward
CUDA = Kernels(
    __package__,
    {
        "FORWARD_UNITS": 8,  # of a block in lstm_step.cu; its threads divided by them are its rows
        "BACKWARD_UNITS": 16,
        "SEGMENT_PARTS": 4,  # of a long segment
        "SUM_COLUMNS": 8,  # of a block in column_sum.cu
        "REGIONS": 1024,  # of a picture, at most: whole tiles; 13 KiB of shared memory in double
        "SLAB": 16,  # regions for a thread of attention_sum
        "NO_TARGET": NO_TARGET,
    },
)

# ---- Rows of operations that are one launch
#
# Each makes of the operation's arguments the number of threads, or the blocks in a tuple; the C
# arguments; the result; and the name of the kernel, where that is not the operation's. None: the
# equation computes these arguments.

Launch = tuple[Any, ...]


def _empty(like: Array, *shape: int, dtype: Any = None) -> Array:
    return get_array_module(like).empty(shape, dtype or like.dtype)


def _scale(scale: Array | float, like: Array) -> tuple[Array, float, int]:
    """Scale for a kernel: an array, a number, and 1 to read the array, which else is any."""
    if isinstance(scale, float):
        return like, scale, 0
    return scale, 0, 1


def _loss(
    scores: Array, bias: Array | None, targets: Array, terms: LossTerms, nll: Array, out: Array
) -> Launch:
    """Loss nll and gradient out of softmax(scores + bias)."""
    (R, V), same, rest = scores.shape, _scale(terms.scale, nll), terms.smoothing / scores.shape[1]
    b, biased = (scores, 0) if bias is None else (bias, 1)
    args = scores, b, biased, targets, *same, 1 - terms.smoothing, rest, nll, out, V
    return (R,), args, (nll, out)


def _gather(
    table: Array, rows: Array | None, out: Array, mask: Array | None = None, keep: float = 1.0
) -> Launch | None:
    sizes = out.size, out.shape[1]
    if mask is None:
        return None if rows is None else (out.size, (table, rows, out, *sizes), out)
    if rows is None:
        return out.size, (table, mask, out, 1 / keep, out.size), out, "dropout"
    return out.size, (table, rows, mask, out, 1 / keep, *sizes), out, "gather_drop"


def _beam_step(ranked: Array, scores: Array, totals: Array, beams: BeamRows, null: int) -> Launch:
    empty, (n, V), m = get_array_module(scores).empty, scores.shape, len(beams.next_rows)
    made = empty(m, np.int32), empty(m, np.int32), empty(m, scores.dtype)
    sizes = n, m // n, beams.size, null, V
    return (n,), (ranked, scores, totals, beams.rows, *made, *sizes), made


def _start_states(state0: tuple[Any, ...], stacks: State) -> Launch | None:
    (h0, *others), (h, *below) = state0, stacks
    if len(others) > 1 or h0.size == 0:
        return None
    c0, c = (others[0], below[0]) if others else (h0, h)  # then both write the same
    return h0.size, (h0, h0 if c0 is None else c0, h, c, c0 is not None, h0.size), None


# fmt: off
LAUNCHES: Mapping[str, Callable[..., Launch | None]] = {
    "softmax_loss": lambda scores, targets, terms, out=None: None if terms.beyond("smoothing") else _loss(
        scores, None, targets, terms, _empty(scores, len(scores)), _empty(scores, *scores.shape) if out is None else out),
    "weighted_sum": lambda x, scale, out: ((1,), (x, *_scale(scale, x), out, x.size), out),
    "gather": _gather,
    "gather_plus": lambda table, rows, b, out: (out.size, (table, rows, b, out, out.size, out.shape[1]), out),
    "gather_plus_image": lambda table, ids, b, image, rows, out: None if not is_device_array(rows.sequence) else (
        out.size, (table, ids, b, image, rows.sequence, out, out.size, out.shape[1]), out),
    "gather_regions": lambda table, rows, out, mask=None, keep=1.0: (
        (out.size, (table, rows, out, out.size, math.prod(out.shape[1:])), out, "gather") if mask is None
        else (out.size, (table, rows, mask, out, 1 / keep, out.size, *out.shape[1:]), out)),
    "scatter": lambda x, rows, out, mask=None, keep=1.0: (
        (out.size, (x, rows, out, len(rows), out.size, out.shape[1]), out) if mask is None
        else (out.size, (x, rows, mask, out, 1 / keep, len(rows), out.size, out.shape[1]), out, "scatter_drop")),
    "segment_sum": lambda rows, groups, out=None: (
        (len(groups.starts) - 1, CUDA.blocks(rows.shape[1], CUDA.threads // CUDA["SEGMENT_PARTS"])),
        (rows, groups.order, groups.starts,
         out := _empty(rows, len(groups.starts) - 1, rows.shape[1]) if out is None else out, rows.shape[1]), out),
    "sequence_sum": lambda x, rows, out: None if not is_device_array(rows.firsts) else (
        (len(out), CUDA.blocks(out.shape[1])), (x, rows.firsts, out, len(rows.firsts) - 1, out.shape[1]), out),
    "column_sum": lambda x, out: ((CUDA.blocks(x.shape[1], CUDA["SUM_COLUMNS"]),), (x, out, *x.shape), out),
    "add_rows": lambda x, b: (x.size, (x, b, x.size, b.size), x),
    "dropout": lambda x, mask, keep: (x.size, (x, mask, out := _empty(x, *x.shape), 1 / keep, x.size), out),
    "mean_regions": lambda A, out: (out.size, (A, out, out.size, *A.shape[1:]), out),
    "add_to_regions": lambda dA, dmean: (dmean.size, (dA, dmean, dmean.size, *dA.shape[1:]), dA),
    "adam_update": lambda w, dw, m, v, alpha, beta1, beta2, epsilon: (
        w.size, (w, dw, m, v, alpha, beta1, 1 - beta1, beta2, 1 - beta2, epsilon, w.size), None),
    "record_step": lambda record, i, loss, norm: ((1,), (record, loss, norm, i), None),
    "log_softmax_": lambda scores: ((len(scores),), (scores, scores.shape[1]), scores, "log_softmax"),
    "forbid": lambda scores, words: (
        len(scores) * len(words), (scores, words, len(scores), len(words), scores.shape[1]), None),
    "argmax": lambda scores: (
        (len(scores),), (scores, words := _empty(scores, len(scores), dtype=np.int32), scores.shape[1]), words),
    "sample_words": lambda x, u, temperature=None: (
        (len(x),), (x, u, words := _empty(x, len(x), dtype=np.int32),
                    temperature or 1, temperature is not None, x.shape[1]), words),
    "beam_step": _beam_step,
    "attention_sum": lambda weights, dcontext, dscores, h, rows, out: (
        None if out.shape[1] > CUDA["REGIONS"] or not is_device_array(rows.firsts)
        else ((len(out), CUDA.blocks(out.shape[2]), CUDA.blocks(out.shape[1], CUDA["SLAB"])),
              (weights, dcontext, dscores, h, rows.firsts, out, len(out), len(rows.firsts) - 1, *out.shape[1:]), out)),
    "start_states": _start_states,
}
# fmt: on

# ---- Rows of operations that prepare a step of a loop
#
# Each gives the kernel; the arrays; a step's threads, or blocks, and numbers; and the sizes, the
# last arguments of every step.

StepLaunch = tuple[str, Sequence[Array], Callable[[Step], tuple[Any, ...]], Sequence[int]]


def _cell_steps(cell: Pointwise, loop: CellBuffers) -> StepLaunch | None:
    if not cell.kernel:
        return None
    (h, *_), (_, *carried), H = loop.after, loop.before, loop.after[0].shape[1]
    # The kernel of a cell without saved rows finds r in the stack of h
    arrays = loop.a, loop.r if loop.saved else h, *carried, *loop.after, *loop.saved

    def of_step(step: Step) -> tuple[int, ...]:
        first, before, after, n, _ = step
        return n * H, first, *((before, after) if carried else (after,)), n

    return cell.kernel, arrays, of_step, (H,)


def _cell_backward_steps(
    cell: Pointwise, loop: CellBuffers, grads: CellGradients
) -> StepLaunch | None:
    """Without a gradient of the last states, only sequences with a next step read dstate."""
    if not cell.kernel:
        return None
    carries, (*_, last), (_, *carried) = grads.carries, loop.after, grads.dstate
    H, arrays = last.shape[1], (grads.dh, *grads.dstate, *loop.saved, last, grads.da, *carried)
    if carries:
        grads.begin()

    def of_step(step: Step) -> tuple[int, ...]:
        first, before, after, n, n_next = step
        return n * H, first, before if carried else after, n, n if carries else n_next

    return f"{cell.kernel}_backward", arrays, of_step, (H,)


# fmt: off
STEPS: Mapping[str, Callable[..., StepLaunch | None]] = {
    "attend_steps": lambda h, A, weights, context: None if A.shape[1] > CUDA["REGIONS"] else (
        "attend_step", (h, A, weights, context), lambda step: ((step.n,), step.first, step.before), A.shape[1:]),
    "attend_backward_steps": lambda dcontext, A, weights, dscores, dh_next: None if A.shape[1] > CUDA["REGIONS"] else (
        "attend_step_backward", (dcontext, A, weights, dscores, dh_next),
        lambda step: ((step.n,), step.first), A.shape[1:]),
    "cell_steps": _cell_steps,
    "cell_backward_steps": _cell_backward_steps,
}
# fmt: on


def _prepared(
    kernel: str,
    arrays: Sequence[Array],
    of_step: Callable[[Step], tuple[Any, ...]],
    sizes: Sequence[int],
) -> StepFn:
    """A function that launches a kernel for a step."""
    launch = CUDA.kernel(kernel, arrays)

    def step_fn(step: Step) -> None:
        work, *numbers = of_step(step)
        launch(work, *arrays, *numbers, *sizes)

    return step_fn


# ---- The operations


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
    def run(ops: Ops, *args: Any, **kwargs: Any) -> Any:
        for x in (*args, *kwargs.values()) if kwargs else args:
            if getattr(x, "size", 1) == 0:
                return equation(ops, *args, **kwargs)
        try:
            return method(ops, *args, **kwargs)
        except (InvalidTypeError, InvalidValueError) as error:
            _, *fields = error.args
            raise type(error)(name, *fields) from error

    return run


for _name in OPERATIONS:
    setattr(Equations, _name, _unrecorded(_name, getattr(Ops, _name)))


def _squares(x: Array, buffer: Buffer) -> tuple[Array, Array]:
    """Partial sums of squares, as many as a block has threads to add them, and memory for the norm."""
    partial = buffer("squares", (CUDA.threads,), np.float64)
    CUDA.launch("squares", (CUDA.threads,), x, partial, x.size)
    return partial, buffer("norm", ())


def _tiles(H: int, units: int) -> tuple[int, int]:
    """Blocks of lstm_step.cu along H units, each with `units` of them, and the rows of a block."""
    return CUDA.blocks(H, units), CUDA.threads // units


class DeviceOps(Equations):
    """Operations on CuPy's arrays: those with a row, and products and what is several launches."""

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
        blocks, args, _ = _loss(dscores, b, targets, terms, nll, dscores)
        CUDA.launch("softmax_loss", blocks, *args)
        self.matmul(dscores, w.T, dh)

    def global_norm(self, x: Array, buffer: Buffer | None = None) -> Array:
        partial, norm = _squares(x, buffer or allocator(x))
        CUDA.launch("root", (1,), partial, norm)
        return norm

    def clip_by_norm(self, x: Array, most: float, buffer: Buffer | None = None) -> Array:
        partial, norm = _squares(x, buffer or allocator(x))
        CUDA.launch("clip", (CUDA.threads,), x, partial, norm, most, x.size)
        return norm

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

    def fused_cell_steps(self, cell: Pointwise, loop: CellBuffers, Wh: Array) -> StepFn | None:
        h, H = loop.before[0], len(Wh)
        # A stack holds N more than there are rows; a single step has separate arrays
        fits = (len(h) - len(loop.a) or len(h)) <= FUSED
        if not (cell.kernel == "lstm_gates" and fits):
            return None
        arrays = loop.a, Wh, *loop.before, *loop.after, *loop.saved
        across, rows = _tiles(H, CUDA["FORWARD_UNITS"])

        def of_step(step: Step) -> tuple[Any, ...]:
            first, before, after, n, _ = step
            return (across, -(-n // rows)), first, before, after, n

        return _prepared("lstm_step", arrays, of_step, (H,))

    def fused_cell_backward_steps(
        self, cell: Pointwise, loop: CellBuffers, grads: CellGradients, Wh: Array
    ) -> StepFn | None:
        """Each step multiplies the da of its next one itself: only the first step writes dh."""
        (dh_next, *others), H = grads.dstate, len(Wh)
        if not (cell.kernel == "lstm_gates" and len(dh_next) <= FUSED):
            return None
        arrays = grads.dh, *loop.saved, loop.before[1], Wh, grads.da, *others
        multiply = self.row_matmul_nt(grads.da, Wh, dh_next)
        across, rows = _tiles(H, CUDA["BACKWARD_UNITS"])

        def of_step(step: Step) -> tuple[Any, ...]:
            first, before, _, n, n_next = step
            return (across, -(-n // rows)), first, before, n, n_next

        fused = _prepared("lstm_step_backward", arrays, of_step, (H,))

        def step_fn(step: Step) -> None:
            fused(step)
            if not step.first:
                multiply(0, 0, step.n)

        return step_fn


def _by_row(name: str, row: Callable[..., Launch | None]) -> Callable[..., Any]:
    """The method of an operation with a row in LAUNCHES."""
    equation = getattr(Equations, name)

    def launch(ops: Ops, *args: Any, **kwargs: Any) -> Any:
        found = row(*args, **kwargs)
        if found is None:
            return equation(ops, *args, **kwargs)
        work, arguments, result, *kernel = found
        CUDA.kernel(kernel[0] if kernel else name, arguments)(work, *arguments)
        return result

    return launch


def _by_step_row(name: str, row: Callable[..., StepLaunch | None]) -> Callable[..., Any]:
    """The method of an operation with a row in STEPS."""
    equation = getattr(Equations, name)

    def prepare(ops: Ops, *args: Any, **kwargs: Any) -> Any:
        found = row(*args, **kwargs)
        return equation(ops, *args, **kwargs) if found is None else _prepared(*found)

    return prepare


for _name, _row in LAUNCHES.items():
    setattr(DeviceOps, _name, _guarded(_name, _by_row(_name, _row)))
for _name, _step_row in STEPS.items():
    setattr(DeviceOps, _name, _guarded(_name, _by_step_row(_name, _step_row)))


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
