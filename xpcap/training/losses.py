"""Losses and gradient norms: gathered on the device, read in one go, checked for being finite."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from xpcap.backend import Array, get_array_module, to_numpy
from xpcap.distributed import SINGLE, Group
from xpcap.models.parameters import Parameters
from xpcap.ops import get_ops

MAX_WAITING = 4096  # steps whose losses may wait on the device
MAX_HEALTHY_NORM = 1e6  # no parameter or gradient of a healthy captioner has a norm anywhere near


class StepLoss(NamedTuple):
    """An iteration, its loss, and the norm of its gradient before clipping."""

    iteration: int
    loss: float
    norm: float

    def __str__(self) -> str:
        loss, norm = f"{self.loss:g}", f"{self.norm:g}"
        return f"iteration {self.iteration} has loss {loss} and a gradient of norm {norm}"

    @property
    def finite(self) -> bool:
        """True if both numbers are finite."""
        return bool(np.isfinite(self.loss) and np.isfinite(self.norm))


class LossBuffer:
    """Losses of all steps.

    The latest wait on the device with their gradient norms and one flag: all are finite.

    like : array with the library, device and dtype of the numbers
    capacity : steps that may wait, up to MAX_WAITING; one more reads them
    group : ranks whose sums a read waits for
    """

    def __init__(self, like: Array, capacity: int, *, group: Group = SINGLE) -> None:
        rows = min(capacity, MAX_WAITING) + 1
        self._waiting = get_array_module(like).empty((rows, 2), like.dtype)
        self._group = group
        self.losses = []

    def _clear(self) -> None:
        self._waiting[0] = 1  # the flag
        self._unread = 0

    def __len__(self) -> int:
        """Steps recorded."""
        return len(self._losses) + self._unread

    @property
    def full(self) -> bool:
        """True if the next step needs a read first."""
        return self._unread + 1 == len(self._waiting)

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
        """Loss of every step; reads those that wait."""
        self._read()
        return self._losses

    @losses.setter
    def losses(self, values: Iterable[float]) -> None:
        self._losses = [float(loss) for loss in values]
        self._last_good: StepLoss | None = None
        self._first_bad: StepLoss | None = None
        self._clear()

    def _read(self) -> None:
        """Bring the waiting steps to the host, which waits for the device."""
        if not self._unread:
            return
        with self._group.waiting(call=False):  # rank 0 alone prints and saves
            table = to_numpy(self._waiting[: self._unread + 1])
        first = len(self._losses) + 1
        steps = [
            StepLoss(k, loss, norm) for k, (loss, norm) in enumerate(table[1:].tolist(), first)
        ]
        self._losses += [step.loss for step in steps]
        self._clear()
        if self._first_bad is None:
            bad = len(steps)
            if table[0, 0] != 1:
                bad = [step.finite for step in steps].index(False)
            self._last_good = steps[bad - 1] if bad else self._last_good
            self._first_bad = steps[bad] if bad < len(steps) else None

    def fault(self, params: Parameters, learning_rate: float) -> str:
        """Diagnosis of the first step that was not finite, given once; else empty. Reads losses."""
        self._read()
        step, self._first_bad = self._first_bad, None
        if step is None:
            return ""
        return diagnose(step, self._last_good, params, None, learning_rate)

    def explain(
        self, loss: Array, norm: Array, params: Parameters, grads: Parameters, learning_rate: float
    ) -> str:
        """Diagnosis of a step that is not finite and not recorded, before its update."""
        self._read()
        step = StepLoss(len(self) + 1, float(loss), float(norm))
        return diagnose(step, self._last_good, params, grads, learning_rate)


def diagnose(
    step: StepLoss,
    before: StepLoss | None,
    params: Parameters,
    grads: Parameters | None,
    learning_rate: float,
) -> str:
    """Diagnosis of a step that is not finite: its symptoms, the norms before it, the likely cause.

    step, before : the first step that is not finite, and the one before it
    params, grads : as they are now. On the host that is at this step, before its update. On a
        device it is some steps later, when the losses are read, and the gradients are gone: None
    """
    norms = {name: _norm(value) for name, value in params.items()}
    bad = _not_finite(norms)
    bad_grads = _not_finite({name: _norm(value) for name, value in (grads or {}).items()})
    finite = {name: norm for name, norm in norms.items() if name not in bad}
    parts = [str(step)]
    if before is not None:
        parts.append(f"before it the loss was {before.loss:g} and the norm {before.norm:g}")
    if bad_grads:
        parts.append(f"the gradients of {', '.join(bad_grads)} are not finite")
    if bad:
        late = " by now" if grads is None else ""
        parts.append(f"the parameters {', '.join(bad)} are not finite{late}")
    if finite:
        largest = max(finite, key=lambda name: finite[name])
        norm = f"{finite[largest]:.3g}"
        parts.append(f"the largest finite parameter is {largest} with norm {norm}")
    most = max([0.0, *finite.values()])
    cause = _cause(before, bad, most, grads is not None, learning_rate)
    return f"{'; '.join(parts)}; expected finite numbers; {cause}"


def _cause(
    before: StepLoss | None, bad: list[str], largest: float, at_once: bool, learning_rate: float
) -> str:
    """The likely cause. `at_once`: found at the step itself, before its update."""
    diverged = largest > MAX_HEALTHY_NORM or (before is not None and before.norm > MAX_HEALTHY_NORM)
    if at_once and bad:
        return (
            f"was {bad[0]} set from outside, or did the last update, with the learning rate"
            f" {learning_rate:g}, overflow?"
        )
    if at_once and before is None and not diverged:
        return (
            "this is the first step: are the features finite, and of a size near 1? Scale them, as"
            " `feature_scaling` standardize does"
        )
    return f"is the learning rate, now {learning_rate:g}, too high?"


def _not_finite(norms: Mapping[str, float]) -> list[str]:
    return [name for name, norm in norms.items() if not np.isfinite(norm)]


def _norm(value: Array) -> float:
    with np.errstate(all="ignore"):
        return float(np.linalg.norm(to_numpy(value).astype(np.float64).ravel()))
