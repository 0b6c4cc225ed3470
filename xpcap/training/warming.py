"""Before training on a device: kernels are compiled and libraries loaded where no step is being timed."""

import copy

from xpcap import optim
from xpcap.backend import is_device_array
from xpcap.ops import global_norm
from xpcap.optim import Optimizer
from xpcap.training.losses import StepRecord
from xpcap.training.solver import CaptioningSolver
from xpcap.workspace import Workspace


def warm_up(solver: CaptioningSolver) -> None:
    """Do once what training and validation do, on a device with a copy of the model, at the real sizes, since CuPy compiles for some of them.

    Nothing of the solver changes: parameters, moments, order of captions and random streams are as they were. On the host this does nothing.
    """
    flat = solver.model.params.flat
    if not is_device_array(flat):
        return
    model, record = copy.copy(solver.model), StepRecord(flat, 1)
    batch = solver._feed.minibatch("train", solver._visits[: solver.batch_size])._replace(step=0)  # sends the features, which stay there
    loss, grads = solver.objective(model, batch, Workspace(flat, 1))
    norm = global_norm(grads.flat) if solver.clip_norm is None else optim.clip_by_global_norm(grads.flat, solver.clip_norm)
    Optimizer(solver.update_rule, solver.optim_config, flat).update(model.params.flat, grads.flat)
    record.add(loss, norm)
    solver._judge.warm_up(model)
    float(model.score(batch.features, batch.captions).nll)  # waits, so that the work itself is done too
