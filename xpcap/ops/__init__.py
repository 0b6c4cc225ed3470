"""Operations with fast versions, and the recurrent loops. Open packed.py first.

===================  ==============================================================================
base.py         single operations: contracts and plain equations
packed.py         LSTM and RNN: equations, and loops over packed sequences
attention.py         attention in those loops
choosing.py          the choice of the next words from rows of scores
random.py            counter-based random numbers: dropout masks, augmentations, sampling
dispatch.py          `find`: the kernel of an operation, if one fits its arguments
replay.py            work on a device recorded, and run again as a list or a CUDA graph
host.py     kernels on the host
device.py      kernels on a GPU: the CUDA C files of cuda/, loaded by launch.py; cublas.py
===================  ==============================================================================
"""

# ruff: noqa: F401 - imported for others; and kernels register themselves

from xpcap.ops import cublas, device, host
from xpcap.ops.attention import (
    add_to_regions,
    attend_backward_steps,
    attend_steps,
    attention_sum,
    gather_regions,
    mean_regions,
)
from xpcap.ops.base import (
    NO_TARGET,
    Segments,
    adam_update,
    add_rows,
    clip_by_norm,
    column_sum,
    dropout,
    gather,
    gather_plus,
    global_norm,
    log_softmax,
    matmul,
    matmul_add,
    matmul_nt,
    record_step,
    scatter,
    segment_sum,
    segments,
    sigmoid,
    softmax_loss,
    weighted_sum,
    word_loss,
)
from xpcap.ops.choosing import (
    BeamRows,
    argmax,
    beam_step,
    forbid,
    log_softmax_,
    row_blocks,
    sample_words,
    soft_weights,
    topk,
)
from xpcap.ops.dispatch import find, plain_only
from xpcap.ops.packed import (
    Gates,
    PackedSequences,
    RecurrentTerm,
    Step,
    StepFn,
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
    row_matmul,
    row_matmul_add,
    row_matmul_nt,
    sequence_sum,
    single_step,
    split_gates,
    start_states,
    to_rows,
    zero_without_steps,
)
from xpcap.ops.random import draw_uniforms, draw_views, dropout_masks
from xpcap.ops.replay import replayed
