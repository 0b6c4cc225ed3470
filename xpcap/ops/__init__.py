"""Operations that have fast versions, and the recurrent loops.

Start with recurrent.py: the LSTM and the RNN, equations and loops, and packed sequences.

===================  ==============================================================================
equations.py         single operations: contracts and plain equations
recurrent.py         recurrent cells and their loops over packed sequences
attention.py         attention in those loops
random.py            counter-based random numbers: dropout masks, augmentations, sampling
dispatch.py          `find`: the kernel of an operation, if one fits its arguments
numpy_kernels.py     kernels on the host
cuda_kernels.py      kernels on a GPU: the CUDA C files of cuda/, loaded by launch.py; cublas.py
===================  ==============================================================================
"""

from xpcap.ops import cublas, cuda_kernels, numpy_kernels
from xpcap.ops.attention import attend_backward_steps, attend_steps, attention_sum, gather_places
from xpcap.ops.dispatch import find, plain_only
from xpcap.ops.equations import (
    Segments,
    adam_update,
    add_product,
    clip_by_norm,
    drop,
    gather,
    gather_plus,
    global_norm,
    log_softmax,
    product,
    record_step,
    scatter,
    segment_sum,
    segments,
    sigmoid,
    softmax_loss,
    times_transpose,
    weighted_sum,
    word_loss,
)
from xpcap.ops.random import draw_masks, draw_uniforms, draw_views
from xpcap.ops.recurrent import (
    Beside,
    Gates,
    Rows,
    Step,
    TakeStep,
    from_rows,
    gather_plus_image,
    lstm_backward_steps,
    lstm_gate_backward_steps,
    lstm_gate_steps,
    lstm_gates,
    lstm_gates_backward,
    lstm_steps,
    rnn_backward_steps,
    rnn_cell,
    rnn_cell_backward,
    rnn_cell_backward_steps,
    rnn_cell_steps,
    rnn_steps,
    row_products,
    row_products_add,
    row_products_transpose,
    sequence_sum,
    single_step,
    split_gates,
    start_states,
    to_rows,
    zero_without_steps,
)

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
    "cublas",
    "cuda_kernels",
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
    "numpy_kernels",
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
