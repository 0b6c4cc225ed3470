"""What the ranks of a group do together in training: deal out a batch, add up its gradients, and check that they still agree."""

import hashlib

import numpy as np

from xpcap.backend import Array, get_array_module, to_numpy
from xpcap.distributed import Group
from xpcap.errors import TrainingError
from xpcap.models.network import GRADIENTS
from xpcap.models.packing import dealt
from xpcap.models.parameters import Parameters
from xpcap.workspace import Workspace


def dealt_to(group: Group, captions: np.ndarray, null: int) -> np.ndarray | None:
    """Numbers of the captions of a batch (N, T+1) that this rank computes; None: all. Every rank gets as much work as any other."""
    return None if group.size == 1 else dealt(captions, null, group.rank, group.size)


def workspace_for(group: Group, flat: Array, parts: int) -> Workspace:
    """A workspace of so many parts for a model with these parameters, its gradients where the group sums them fastest."""
    workspace = Workspace(flat, parts)
    if (memory := group.sum_buffer(flat)) is not None:
        workspace.hold(GRADIENTS, memory)
    return workspace


def add_up(group: Group, loss: Array, grads: Parameters) -> Array:
    """Sum gradients, in place, and the loss of a batch's shares over the ranks; return the loss, 0-d. On a device nothing is read."""
    if group.size == 1:
        return loss
    group.all_reduce(grads.flat)
    total = get_array_module(grads.flat).reshape(loss, (1,))
    group.all_reduce(total)
    return total.reshape(())


def check_same(group: Group, params: Parameters, epoch: int) -> None:
    """TrainingError : the parameters of a rank are not, bit for bit, those of rank 0."""
    if group.size == 1:
        return
    digests = group.all_gather(hashlib.sha256(np.ascontiguousarray(to_numpy(params.flat)).data).hexdigest())
    if odd := [rank for rank, digest in enumerate(digests) if digest != digests[0]]:
        raise TrainingError(
            f"CaptioningSolver: after epoch {epoch} rank {odd[0]} has other parameters than rank 0, expected the same bits on every rank; "
            "was the model changed on one of them, or is its memory or network faulty?"
        )
