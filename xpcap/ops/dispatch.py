"""The table of kernels: which ops have a fast version, and for which arguments. No kernel changes a result by more than rounding."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from xpcap.ops import cublas, cuda_kernels, numpy_kernels


class Kernel(NamedTuple):
    """A fast version of an op. `supports` takes the op's arguments and says whether `run` can handle them."""

    op: str
    supports: Callable[..., bool]
    run: Callable[..., Any]


NUMPY = (
    "softmax_loss",
    "word_loss",
    "gather",
    "gather_places",
    "product",
    "segment_sum",
    "global_norm",
    "clip_by_norm",
    "adam_update",
    "lstm_gates",
    "times_transpose",
    "lstm_gate_steps",
    "lstm_gate_backward_steps",
    "rnn_cell_steps",
    "rnn_cell_backward_steps",
    "row_products",
    "row_products_transpose",
)
CUDA = (
    "lstm_gates",
    "lstm_gates_backward",
    "rnn_cell",
    "rnn_cell_backward",
    "softmax_loss",
    "word_loss",
    "weighted_sum",
    "gather",
    "gather_plus",
    "scatter",
    "segment_sum",
    "drop",
    "global_norm",
    "clip_by_norm",
    "adam_update",
    "record_step",
    "draw_masks",
    "start_states",
    "lstm_steps",
    "lstm_backward_steps",
    "lstm_gate_steps",
    "lstm_gate_backward_steps",
    "rnn_cell_steps",
    "rnn_cell_backward_steps",
    "gather_plus_image",
    "sequence_sum",
    "attend_steps",
    "attend_backward_steps",
    "attention_sum",
)
CUBLAS = ("product", "add_product", "times_transpose", "row_products", "row_products_add", "row_products_transpose")
LIBRARIES = ((numpy_kernels, NUMPY), (cuda_kernels, CUDA), (cublas, CUBLAS))
TABLE: dict[str, tuple[Kernel, ...]] = {
    op: tuple(Kernel(op, getattr(library, f"supports_{op}"), getattr(library, op)) for library, ops in LIBRARIES if op in ops)
    for op in dict.fromkeys(op for _, ops in LIBRARIES for op in ops)
}
# The same by where the arrays lie, so that no kernel of the other place is asked
_FOR_HOST, _FOR_DEVICE = (
    {op: tuple(kernel for kernel in found if (kernel.run.__module__ == numpy_kernels.__name__) == on_host) for op, found in TABLE.items()}
    for on_host in (True, False)
)
_plain = contextvars.ContextVar("xpcap_plain_only", default=False)


def find(op: str, *args: Any) -> Callable[..., Any] | None:
    """The fast version of `op` for these arguments, or None if the plain equations should run."""
    if _plain.get():
        return None
    first = args[0]
    while type(first) in (tuple, list):
        first = first[0]
    for kernel in (_FOR_HOST if isinstance(first, np.ndarray) else _FOR_DEVICE).get(op, ()):
        if kernel.supports(*args):
            return kernel.run
    return None


@contextlib.contextmanager
def plain_only() -> Iterator[None]:
    """Run only the plain equations inside the ``with``: the reference that kernels are tested against."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)
