"""Objectives: from a model and a batch to a loss and its gradients. The solver has no other way to get a gradient."""

from collections.abc import Callable
from typing import Any

from xpcap.backend import Array
from xpcap.models.batch import Batch
from xpcap.models.parameters import Parameters
from xpcap.workspace import Workspace

Objective = Callable[[Any, Batch, Workspace | None], tuple[Array, Parameters]]


def cross_entropy(model: Any, batch: Batch, workspace: Workspace | None = None) -> tuple[Array, Parameters]:
    """Cross entropy of the captions: summed over time, weighted by caption, divided by `batch.total`; see CaptioningRNN.loss."""
    return model.loss(batch.features, batch.captions, workspace, weights=batch.weights, total=batch.total, step=batch.step)
