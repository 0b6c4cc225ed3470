"""Objectives: from a model and a batch to a loss and its gradients. The solver has no other way to get a gradient."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from xpcap.backend import Array, asarray
from xpcap.data.dataset import CaptionData
from xpcap.errors import OptionError
from xpcap.models.batch import Batch
from xpcap.models.parameters import Parameters
from xpcap.workspace import Workspace

CROSS_ENTROPY, SELF_CRITICAL = OBJECTIVES = ("cross-entropy", "self-critical")
Objective = Callable[[Any, Batch, Workspace | None], tuple[Array, Parameters]]


def cross_entropy(model: Any, batch: Batch, workspace: Workspace | None = None) -> tuple[Array, Parameters]:
    """Cross entropy of the captions: summed over time, weighted by caption, divided by `batch.total`; see CaptioningRNN.loss."""
    return model.loss(batch.features, batch.captions, workspace=workspace, **_rest(batch))


def smoothed_cross_entropy(smoothing: float) -> Objective:
    """The objective that is cross entropy with label smoothing, in [0, 1); see CaptioningRNN.loss. With 0 it is `cross_entropy` itself.

    Raises
    ------
    OptionError : smoothing is out of range.
    """
    if not (isinstance(smoothing, int | float) and 0 <= smoothing < 1):
        raise OptionError(f"smoothed_cross_entropy: smoothing is {smoothing!r}, expected a share of probability, in [0, 1)")
    if not smoothing:
        return cross_entropy

    def objective(model: Any, batch: Batch, workspace: Workspace | None = None) -> tuple[Array, Parameters]:
        return model.loss(batch.features, batch.captions, workspace=workspace, smoothing=smoothing, **_rest(batch))

    return objective


def check_objective(objective: Any) -> None:
    """TypeError : not a function of (model, batch, workspace)."""
    if not callable(objective):
        known = "; smoothed_cross_entropy(smoothing) and SelfCritical(data) in xpcap.training make some"
        raise TypeError(f"CaptioningSolver: objective is {objective!r}, expected a function of (model, batch, workspace){known}")
    try:
        inspect.signature(objective).bind("model", "batch", "workspace")
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"CaptioningSolver: objective is called as objective(model, batch, workspace), expected one that takes these ({error})"
        ) from error


def loss_and_gradients(objective: Objective, model: Any, batch: Batch, workspace: Workspace) -> tuple[Array, Parameters]:
    """What an objective returns, its loss as a 0-d array of the model's library and dtype.

    TypeError, ValueError : it is not a loss and a Parameters with the gradients of all parameters.
    """
    returned, params = objective(model, batch, workspace), model.params
    if not (isinstance(returned, tuple) and len(returned) == 2):
        raise TypeError(f"CaptioningSolver: the objective returned a {type(returned).__name__}, expected the tuple (loss, grads)")
    loss, grads = returned
    if not isinstance(grads, Parameters):
        raise TypeError(
            f"CaptioningSolver: the objective returned gradients as a {type(grads).__name__}, expected a Parameters, as model.loss returns; "
            "model.params.holding(grads) makes one of a dict"
        )
    if grads.shapes != params.shapes or np.shape(loss) != ():
        raise ValueError(
            f"CaptioningSolver: the objective returned a loss of shape {np.shape(loss)} and gradients of {', '.join(grads)}, "
            f"expected one number and gradients of {', '.join(params)}, with the shapes of the parameters"
        )
    return loss if hasattr(loss, "dtype") else asarray(loss, dtype=params.flat.dtype, like=params.flat), grads


def visits(objective: Objective, data: CaptionData) -> np.ndarray:
    """Numbers of the train split's captions that an epoch visits, each once: those in the attribute `visits` of an objective that has one, else all."""
    return getattr(objective, "visits", np.arange(len(data.split("train").captions)))


def training_figures(objective: Objective, loss: float) -> dict[str, float]:
    """What the record of an epoch says of training, from the mean of its losses: what an objective's `figures` makes of it, else ``train_loss``."""
    return objective.figures(loss) if hasattr(objective, "figures") else {"train_loss": loss}


def collapse_of(objective: Objective) -> Callable[[Mapping[str, Any]], str | None]:
    """An objective's `collapse`: from the record of an epoch to why training should stop after it, or None. Without one training never should."""
    return getattr(objective, "collapse", lambda record: None)


def _rest(batch: Batch) -> dict[str, Any]:
    """What a batch says beside features and captions. `shard` only where there is one: not every model knows how to share a batch."""
    told = {"weights": batch.weights, "total": batch.total, "step": batch.step}
    return told if batch.shard is None else {**told, "shard": batch.shard}
