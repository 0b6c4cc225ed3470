"""Every fast version against the plain equations of its op."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import xpcap
from xpcap import kernels, ops
from xpcap.backend import asarray, to_numpy
from xpcap.kernels.host import BLOCK

N, H, V = 5, 7, 11  # odd sizes: nothing fits a block


def lstm_gates_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    return draw(N, 4 * H), draw(N, 4 * H), draw(N, H), ops.Gates(draw(N, H), draw(N, H), draw(N, 4 * H), draw(N, H))


def lstm_gates_backward_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    return draw(N, H), draw(N, H), draw(N, H), ops.sigmoid(draw(N, 4 * H)), np.tanh(draw(N, H)), draw(N, H), (draw(N, 4 * H), draw(N, H))


def rnn_cell_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    return draw(N, H), draw(N, H), draw(N, H)


def rnn_cell_backward_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    return draw(N, H), draw(N, H), np.tanh(draw(N, H)), draw(N, H)


def softmax_loss_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    return 3 * draw(N, V), np.array([0, 3, 3, V - 1, 5], np.int32), draw(N), draw(N, V)


def segment_sum_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    ids = np.abs(draw(200) * 10).astype(np.int32) % 30
    ids[ids == 12] = 13  # one id without a row, and a last one
    return draw(200, 33), ops.segments(ids, 31), draw(31, 33)


def gather_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    return draw(N, V), np.array([4, 0, 4, 2], np.int32), draw(4, V)


def product_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    return draw(300, 512) / 20, draw(512, 1000) / 20, draw(300, 1000)  # enough for a share on each core


def word_loss_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    words = np.abs(draw(300) * 500).astype(np.int32) % 1000
    return draw(300, 512) / 20, draw(512, 1000) / 20, draw(1000), words, draw(300), draw(300, 1000), draw(300, 512)


def times_transpose_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    return draw(N, V), draw(H, V), draw(N, H), draw(N * H + 3)


def drop_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    return draw(N, V), draw(N, V) > 0, 0.75


def adam_update_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    n = 2 * BLOCK + 17  # two whole blocks and a rest
    return draw(n), draw(n), draw(n), draw(n) ** 2, 1e-3, 0.9, 0.999, 1e-8


def global_norm_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    return (draw(70_001),)


def clip_to_norm_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    return draw(301), np.abs(draw()) + 20, 3.5


def record_step_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    record = draw(5, 2)
    record[0] = 1
    return record, 2, draw(), draw()


def draw_masks_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    """Two parts that share the rows of each mask, in no order, in widths that are no multiple of a block."""
    masks, numbers = [], []
    for part in (0, 1):
        masks.append(tuple(np.zeros((n, width), bool) for n, width in ((3, 33), (4, 7), (5 * part, 48))))
        numbers.append(tuple(np.array(rows, np.int32) for rows in ([4, 0, 2], [1, 6, 5, 2], [3, 0, 4, 1, 2][: 5 * part])))
    return tuple(masks), tuple(numbers), (5, 7, 5), 2**63 - 1, 3, 0.7


ARGUMENTS: dict[str, Callable[..., tuple[Any, ...]]] = {
    "lstm_gates": lstm_gates_arguments,
    "lstm_gates_backward": lstm_gates_backward_arguments,
    "rnn_cell": rnn_cell_arguments,
    "rnn_cell_backward": rnn_cell_backward_arguments,
    "softmax_loss": softmax_loss_arguments,
    "gather": gather_arguments,
    "product": product_arguments,
    "word_loss": word_loss_arguments,
    "times_transpose": times_transpose_arguments,
    "segment_sum": segment_sum_arguments,
    "drop": drop_arguments,
    "adam_update": adam_update_arguments,
    "global_norm": global_norm_arguments,
    "clip_to_norm": clip_to_norm_arguments,
    "record_step": record_step_arguments,
    "draw_masks": draw_masks_arguments,
}
SCRATCH = {"times_transpose": 3}  # the argument that a version may leave anything in
TOLERANCES = {"float32": 3e-6, "float64": 1e-14}


def each(f: Callable[[np.ndarray], Any], value: Any) -> Any:
    """A value with every array in it changed by f, through tuples."""
    if isinstance(value, tuple):
        made = [each(f, part) for part in value]
        return type(value)(*made) if hasattr(value, "_fields") else tuple(made)
    return f(value) if hasattr(value, "dtype") else value


def flat(value: Any) -> list[np.ndarray]:
    """The arrays in a value, on the host."""
    if isinstance(value, tuple | list):
        return [x for part in value for x in flat(part)]
    return [to_numpy(value)] if hasattr(value, "dtype") else []


def check_equals_plain(kernel: kernels.Kernel, dtype: str) -> None:
    """The kernel and the plain equations on the same arguments, in the backend in force: results, and everything written to."""
    rng = np.random.default_rng(7)
    arguments = ARGUMENTS[kernel.op](lambda *shape: np.asarray(rng.standard_normal(shape)).astype(dtype))
    results = []
    for run in (kernel.run, getattr(ops, kernel.op)):
        copies = each(lambda x: asarray(x.copy()), arguments)
        assert kernel.supports(*copies)
        with kernels.plain_only():
            returned = run(*copies)
        results.append(flat([returned, *(copy for i, copy in enumerate(copies) if i != SCRATCH.get(kernel.op))]))
    assert len(results[0]) == len(results[1])
    for fast, plain in zip(*results, strict=True):
        assert fast.dtype == plain.dtype
        np.testing.assert_allclose(fast, plain, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])


def kernels_of(library: str) -> list[kernels.Kernel]:
    return [kernel for found in kernels.TABLE.values() for kernel in found if kernel.run.__module__ == f"xpcap.kernels.{library}"]


def test_every_kernel_stands_for_an_op_and_is_tested_here() -> None:
    assert set(kernels.TABLE) == set(ARGUMENTS)
    assert len(kernels_of("host")) + len(kernels_of("cuda")) == sum(len(found) for found in kernels.TABLE.values())
    for op in ARGUMENTS:
        assert callable(getattr(ops, op))


@pytest.mark.threads
@pytest.mark.parametrize("kernel", kernels_of("host"), ids=lambda kernel: kernel.op)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_host_kernel_equals_the_plain_equations(kernel: kernels.Kernel, dtype: str) -> None:
    check_equals_plain(kernel, dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", kernels_of("cuda"), ids=lambda kernel: kernel.op)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_cuda_kernel_equals_the_plain_equations(kernel: kernels.Kernel, dtype: str) -> None:
    with xpcap.use_backend("cupy"):
        check_equals_plain(kernel, dtype)


def test_find_offers_a_kernel_only_where_it_fits() -> None:
    w = np.zeros(4)
    assert kernels.find("adam_update", w, w, w, w) is not None
    assert kernels.find("adam_update", w.reshape(2, 2), w, w, w) is None
    assert kernels.find("no_such_op", w) is None
    with kernels.plain_only():
        assert kernels.find("adam_update", w, w, w, w) is None
