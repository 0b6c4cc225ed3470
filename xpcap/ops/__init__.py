"""Operations on arrays, and packed sequences. Open base.py first.

===================  ==============================================================================
base.py              `Ops`: the contract and the plain equation of each operation
host.py              `HostOps`: faster versions for NumPy
device.py            `DeviceOps`: kernels of cuda/, and products by cuBLAS
packed.py            packed sequences, and the steps of a loop over them
cell.py              the arrays of that loop, and the names by which equations have faster versions
softmax.py           softmax, its logarithm, gradient and loss
choosing.py          helpers that choose the next words from rows of scores
random.py            counter-based random numbers: dropout masks, augmentations, sampling
===================  ==============================================================================
"""

# ruff: noqa: F401 - other modules import these names from here

import sys

import numpy as np

from xpcap.backend import Array, is_device_array
from xpcap.backend.plain_code import is_plain
from xpcap.backend.probe import without_cub
from xpcap.backend.replay import invalidate
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

_PLAIN = Ops()
_HOST = HostOps()
_DEVICE = DeviceOps()


def get_ops(x: Array) -> Ops:
    """The operations for an array. A function calls this once."""
    if is_plain():
        if is_device_array(x):
            without_cub(sys.modules["cupy"])
        invalidate("plain")
        return _PLAIN
    return _HOST if isinstance(x, np.ndarray) else _DEVICE
