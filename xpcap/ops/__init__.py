"""Operations, and packed sequences. Open base.py first.

===================  ==============================================================================
base.py              `Ops`: each operation's contract and plain equation
host.py              `HostOps`: what is faster on the host
device.py            `DeviceOps`: kernels of cuda/, and products by cuBLAS
packed.py            packed sequences, and the steps of a loop over them
cell.py              the arrays of that loop, and how fast versions find their equations
softmax.py           softmax, its logarithm and gradient; its loss, with the terms of it
choosing.py          parts of the choice of the next words from rows of scores
random.py            counter-based random numbers: dropout masks, augmentations, sampling
===================  ==============================================================================
"""

# ruff: noqa: F401 - imported for others

import sys

import numpy as np

from xpcap.backend import Array, is_device_array
from xpcap.device.probe import without_cub
from xpcap.device.replay import invalidate
from xpcap.ops.base import (
    OPERATIONS,
    Factor,
    MultiplyRows,
    Ops,
    Segments,
    overridden,
    segments,
    sigmoid,
)
from xpcap.ops.cell import CellBuffers, CellGradients, PointwiseSteps, State
from xpcap.ops.choosing import BeamRows, row_blocks, topk
from xpcap.ops.device import DeviceOps, contiguous, has_kernels
from xpcap.ops.host import HostOps
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
from xpcap.ops.softmax import NO_TARGET, LossTerms, log_softmax, tempered
from xpcap.plain_code import is_plain

_PLAIN, _HOST, _DEVICE = Ops(), HostOps(), DeviceOps()


def get_ops(x: Array) -> Ops:
    """The operations for an array; each function asks once."""
    if is_plain():
        if is_device_array(x):
            without_cub(sys.modules["cupy"])
        invalidate("plain")
        return _PLAIN
    return _HOST if isinstance(x, np.ndarray) else _DEVICE
