"""The operations with fast versions, and the recurrent loops. Read equations.py first, then recurrent.py.

==================  =====================================================================
equations.py        contracts and plain equations of single operations
recurrent.py        loops over the time steps of packed sequences
rows.py             packed sequences: which rows belong to a time step
attention.py        attention in those loops
random.py           counter-based random numbers: dropout masks, augmentation, sampling
dispatch.py         which fast version an operation has, and for which arguments
numpy_kernels.py    fast versions on the host
cuda_kernels.py     those on a GPU, with the CUDA C files of cuda/; cublas.py, launch.py
==================  =====================================================================
"""

from xpcap.ops.attention import attend_backward_steps, attend_steps, attention_sum, gather_places
from xpcap.ops.dispatch import find, plain_only
from xpcap.ops.equations import (
    Gates,
    Segments,
    adam_update,
    add_product,
    clip_by_norm,
    drop,
    gather,
    gather_plus,
    global_norm,
    log_softmax,
    lstm_gates,
    lstm_gates_backward,
    product,
    record_step,
    rnn_cell,
    rnn_cell_backward,
    scatter,
    segment_sum,
    segments,
    sigmoid,
    softmax_loss,
    split_gates,
    times_transpose,
    weighted_sum,
    word_loss,
)
from xpcap.ops.random import draw_masks, draw_uniforms, draw_views
from xpcap.ops.recurrent import (
    Step,
    TakeStep,
    gather_plus_image,
    lstm_backward_steps,
    lstm_gate_backward_steps,
    lstm_gate_steps,
    lstm_steps,
    rnn_backward_steps,
    rnn_cell_backward_steps,
    rnn_cell_steps,
    rnn_steps,
    row_products,
    row_products_add,
    row_products_transpose,
    sequence_sum,
    single_step,
    start_states,
)
from xpcap.ops.rows import Beside, Rows, from_rows, to_rows, zero_without_steps

__all__ = [
    "Beside",
    "Gates",
    "Rows",
    "Segments",
    "Step",
    "TakeStep",
    "adam_update",
    "add_product",
    "attend_backward_steps",
    "attend_steps",
    "attention_sum",
    "clip_by_norm",
    "draw_masks",
    "draw_uniforms",
    "draw_views",
    "drop",
    "find",
    "from_rows",
    "gather",
    "gather_places",
    "gather_plus",
    "gather_plus_image",
    "global_norm",
    "log_softmax",
    "lstm_backward_steps",
    "lstm_gate_backward_steps",
    "lstm_gate_steps",
    "lstm_gates",
    "lstm_gates_backward",
    "lstm_steps",
    "plain_only",
    "product",
    "record_step",
    "rnn_backward_steps",
    "rnn_cell",
    "rnn_cell_backward",
    "rnn_cell_backward_steps",
    "rnn_cell_steps",
    "rnn_steps",
    "row_products",
    "row_products_add",
    "row_products_transpose",
    "scatter",
    "segment_sum",
    "segments",
    "sequence_sum",
    "sigmoid",
    "single_step",
    "softmax_loss",
    "split_gates",
    "start_states",
    "times_transpose",
    "to_rows",
    "weighted_sum",
    "word_loss",
    "zero_without_steps",
]
