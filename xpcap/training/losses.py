"""Losses and gradient norms, which stay on the device until many are read and checked together."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from xpcap.backend import Array, get_array_module, to_numpy
from xpcap.distributed import SINGLE, Group
from xpcap.errors import TrainingError
from xpcap.models.parameters import Parameters
from xpcap.ops import get_ops

MAX_WAITING = 4096  # steps whose losses may wait on the device


class StepLoss(NamedTuple):
    """An iteration, its loss, and the norm of its gradient before clipping."""

    iteration: int
    loss: float
    norm: float

    def __str__(self) -> str:
        return "iteration {} has loss {:g} and a gradient of norm {:g}".format(*self)

    @property
    def finite(self) -> bool:
        """True if both numbers are finite."""
        return bool(np.isfinite(self.loss) and np.isfinite(self.norm))


class LossBuffer:
    """Losses of all steps; the latest are on the device, with their gradient norms.

    like : array with the library, device and dtype of the numbers
    capacity : steps that may wait on the device, up to MAX_WAITING; the next step reads them
    group : ranks whose sums a read waits for
    """

    def __init__(self, like: Array, capacity: int, *, group: Group = SINGLE) -> None:
        rows = min(capacity, MAX_WAITING)
        self._waiting = get_array_module(like).empty((rows, 2), like.dtype)
        self._group = group
        self.losses = []

    def __len__(self) -> int:
        """Steps recorded."""
        return len(self._losses) + self._unread

    @property
    def full(self) -> bool:
        """True if the next step reads the waiting steps first."""
        return self._unread == len(self._waiting)

    def add(self, loss: Array, norm: Array) -> None:
        """Record a step, both numbers 0-d. Reads nothing unless the buffer is full."""
        if self.full:
            self._read()
        dtype = self._waiting.dtype
        loss, norm = (x if x.dtype == dtype else x.astype(dtype) for x in (loss, norm))
        get_ops(self._waiting).record_step(self._waiting, self._unread, loss, norm)
        self._unread += 1

    @property
    def losses(self) -> list[float]:
        """Loss of every step; reads those on the device."""
        self._read()
        return self._losses

    @losses.setter
    def losses(self, values: Iterable[float]) -> None:
        self._losses = [float(loss) for loss in values]
        self._last_good: StepLoss | None = None
        self._first_bad: StepLoss | None = None
        self._unread = 0

    def _read(self) -> None:
        """Copy the waiting steps to the host, which waits for the device."""
        if not self._unread:
            return
        with self._group.waiting(call=False):  # rank 0 may read alone, to print and to save
            rows = to_numpy(self._waiting[: self._unread]).tolist()
        steps = [StepLoss(k, *row) for k, row in enumerate(rows, len(self._losses) + 1)]
        self._losses += [step.loss for step in steps]
        self._unread = 0
        for step in steps:
            if not step.finite:
                self._first_bad = self._first_bad or step
            elif self._first_bad is None:
                self._last_good = step

    def fault(self, params: Parameters, learning_rate: float) -> TrainingError | None:
        """Error of the first step that was not finite, returned once. Reads losses."""
        self._read()
        step = self._first_bad
        self._first_bad = None
        return step and diagnosis(step, self._last_good, params, None, learning_rate)

    def explain(
        self, loss: Array, norm: Array, params: Parameters, grads: Parameters, learning_rate: float
    ) -> TrainingError:
        """Error of a step that is not finite, before its update and without recording it."""
        self._read()
        step = StepLoss(len(self) + 1, float(loss), float(norm))
        return diagnosis(step, self._last_good, params, grads, learning_rate)


def diagnosis(
    step: StepLoss,
    before: StepLoss | None,
    params: Parameters,
    grads: Parameters | None,
    learning_rate: float,
) -> TrainingError:
    """Error of the first step that is not finite, with its symptoms and likely causes.

    before : the previous step
    params, grads : current values. On the host they are those of this step, before its update. On a
        device losses are read some steps later, when the gradients are lost: None
    """
    symptoms = [str(step)]
    causes = [f"is the learning rate, now {learning_rate:g}, too high?"]
    if before is not None:
        symptoms.append(f"before it the loss was {before.loss:g} and the norm {before.norm:g}")
    else:
        causes.append("Are features near 1 in size, as `feature_scaling` standardize makes them?")
    if bad_grads := _not_finite(grads or {}):
        symptoms.append(f"the gradients of {bad_grads} are not finite")
    if bad := _not_finite(params):
        symptoms.append(f"the parameters {bad} are not finite now")
        causes += ["Was one of them set from outside?"] * (grads is not None)
    return TrainingError(f"{'; '.join(symptoms)}, expected finite numbers; {' '.join(causes)}")


def _not_finite(arrays: Mapping[str, Array]) -> str:
    return ", ".join(name for name, x in arrays.items() if not np.isfinite(to_numpy(x)).all())
