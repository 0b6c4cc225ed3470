"""Operations, and packed sequences. Open base.py first.

===================  ==============================================================================
base.py              `Ops`: each operation's contract and plain equation
host.py              `HostOps`: what is faster on the host
device.py            `DeviceOps`: launches of the CUDA C files of cuda/ (launch.py), cuBLAS (cublas.py)
current.py           `get_ops`: the operations for an array
packed.py            packed sequences, and the steps of a loop over them
choosing.py          parts of the choice of the next words from rows of scores
random.py            counter-based random numbers: dropout masks, augmentations, sampling
replay.py            work on a device recorded, and run again as a list or a CUDA graph
===================  ==============================================================================
"""

# ruff: noqa: F401 - imported for others

from collections.abc import Callable

from xpcap.backend import Array
from xpcap.ops import current
from xpcap.ops.base import (
    NO_TARGET,
    OPERATIONS,
    Gates,
    MultiplyRows,
    Ops,
    Segments,
    log_softmax,
    lstm_gates_backward,
    overridden,
    rnn_cell,
    rnn_cell_backward,
    segments,
    sigmoid,
    split_gates,
)
from xpcap.ops.choosing import BeamRows, row_blocks, soft_weights, topk
from xpcap.ops.current import plain_only
from xpcap.ops.device import DeviceOps
from xpcap.ops.host import HostOps
from xpcap.ops.launch import contiguous
from xpcap.ops.packed import (
    PackedSequences,
    RecurrentTerm,
    Step,
    StepFn,
    from_rows,
    single_step,
    to_rows,
    zero_without_steps,
)
from xpcap.ops.random import draw_uniforms, draw_views
from xpcap.ops.replay import replayed

current.enter(Ops(), HostOps(), DeviceOps())
get_ops: Callable[[Array], Ops] = current.get_ops
