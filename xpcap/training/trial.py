"""A step of training and of scoring, with which the fast code of a device is checked."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from xpcap.backend import Array, to_numpy
from xpcap.backend.memory import Workspace
from xpcap.backend.selfcheck import Results
from xpcap.data.loader import BatchLoader
from xpcap.models.batch import Batch, caption_lengths, deal
from xpcap.models.device_batch import Layout
from xpcap.models.parameters import Parameters
from xpcap.training.losses import LossBuffer
from xpcap.training.objectives import Objective

MAX_DRAWS = 20  # of a batch that fits the layout; nearly all batches fit
FEW = 64  # captions of a step that is not padded, like the last one of an epoch
Update = Callable[[Parameters, Parameters], Array]  # updates parameters; returns the gradient norm


def trial_batch(
    loader: BatchLoader, objective: Objective, null: int, V: int, n: int, layout: Layout | None
) -> Batch:
    """n captions of the train split that fit the layout, with weights if the objective has them."""
    count = len(loader.split("train").captions)
    rng = np.random.default_rng(0)
    for _ in range(MAX_DRAWS):
        batch = loader.minibatch("train", rng.integers(0, count, n))
        lengths = caption_lengths(batch.captions, null)
        if layout is None or layout.pack(batch.captions, null, deal(lengths)[0], lengths, V):
            break
    weights = np.resize([1.0, -0.5], n) if objective.samples > 1 else None
    return batch._replace(step=0, weights=weights, total=float(n))


def trial_step(
    model: Any, objective: Objective, batch: Batch, workspace: Workspace, update: Update
) -> Results:
    """Results of a step with a copy of the model, by name, on the host.

    Cross entropy is compared whatever the objective, since sampled captions may differ by rounding.
    The update is computed from equal numbers in plain and fast code, since Adam would enlarge small
    differences of small gradients.
    """
    model = copy.copy(model)
    results = dict[str, Any]()
    small_batch = batch.take(slice(0, FEW))._replace(step=0)
    for title, part, memory in (
        ("", batch, workspace),
        (" of few captions", small_batch, Workspace(model.params.flat)),
    ):
        options = part.options | objective.terms.given
        loss, grads = model.loss(part.features, part.captions, workspace=memory, **options)
        results[f"loss{title}"] = float(loss)
        results |= {f"d{name}{title}": to_numpy(grad).copy() for name, grad in grads.items()}
    grads.flat[...] = model.params.flat
    norm = update(model.params, grads)
    record = LossBuffer(grads.flat, 1)
    record.add(norm, norm)
    score = model.score(batch.features, batch.captions)
    results |= {f"updated {name}": to_numpy(w) for name, w in model.params.items()}
    return results | {"norm": record.losses[0], "nll": float(score.nll)}
