"""What training notes of each step on the model's device, and reads in one piece when something is to be printed, saved or decided."""

from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import Array, get_array_module, to_numpy
from xpcap.models.parameters import Parameters
from xpcap.ops import record_step


class Notes(NamedTuple):
    """Steps as they were read: `first_bad` is the place of the first whose loss or gradient norm is not finite, None where all are."""

    losses: list[float]
    norms: list[float]
    first_bad: int | None


class StepRecord:
    """A small buffer of (loss, gradient norm) pairs beside a model's parameters, with one flag for whether all of them are finite.

    Parameters
    ----------
    like : array whose library, device and dtype the numbers have
    capacity : steps that fit before they have to be read
    """

    def __init__(self, like: Array, capacity: int) -> None:
        self._record = get_array_module(like).empty((capacity + 1, 2), like.dtype)
        self._clear()

    def _clear(self) -> None:
        self._record[0] = 1
        self._unread = 0

    def __len__(self) -> int:
        """Steps that are noted and not yet read."""
        return self._unread

    @property
    def full(self) -> bool:
        """Whether the next step needs a `read` first."""
        return self._unread + 1 == len(self._record)

    def add(self, loss: Array, norm: Array) -> None:
        """Note a step, both numbers 0-d. Nothing is read."""
        record_step(self._record, self._unread, loss, norm)
        self._unread += 1

    def read(self) -> Notes:
        """All steps noted since the last time: the one place where training waits for the device."""
        table = to_numpy(self._record[: self._unread + 1])
        flag, steps = table[0, 0], table[1:]
        bad = None if flag == 1 else int(np.flatnonzero(~np.isfinite(steps).all(axis=1))[0])
        notes = Notes(steps[:, 0].tolist(), steps[:, 1].tolist(), bad)
        self._clear()
        return notes


HUGE = 1e6  # a norm, of a parameter or of a gradient, that no captioner in good health comes near


class Step(NamedTuple):
    """An iteration with its loss and the norm of its gradient before clipping."""

    iteration: int
    loss: float
    norm: float

    def __str__(self) -> str:
        return f"iteration {self.iteration} has loss {self.loss:g} and a gradient of norm {self.norm:g}"


def diagnose(step: Step, before: Step | None, params: Parameters, grads: Parameters | None, learning_rate: float) -> str:
    """A sick step in words: which parameters it shows in, the norms before it, the likely cause.

    Parameters
    ----------
    step, before : the first step that is not finite, and the one before it
    params, grads : as they are now. On the host that is at this very step, before its update; on a device it is some steps later, when the
        losses were read, and there are no gradients any more
    """
    norms = {name: _norm(value) for name, value in params.items()}
    bad = [name for name, norm in norms.items() if not np.isfinite(norm)]
    blown = [] if grads is None else [name for name, value in grads.items() if not np.isfinite(_norm(value))]
    largest = max((name for name in norms if name not in bad), key=lambda name: norms[name], default=None)
    told = [str(step)]
    if before is not None:
        told.append(f"before it the loss was {before.loss:g} and the norm {before.norm:g}")
    if blown:
        told.append(f"the gradients of {', '.join(blown)} are not finite")
    if bad:
        told.append(f"the parameters {', '.join(bad)} {'are not finite' if grads is not None else 'are not finite by now'}")
    if largest is not None:
        told.append(f"the largest finite parameter is {largest} with norm {norms[largest]:.3g}")
    return f"{'; '.join(told)}; expected finite numbers; {_cause(step, before, bad, max([0.0, *norms.values()]), grads is not None, learning_rate)}"


def _cause(step: Step, before: Step | None, bad: list[str], most: float, at_once: bool, learning_rate: float) -> str:
    diverged = most > HUGE or (before is not None and before.norm > HUGE)
    if at_once and bad:
        return f"was {bad[0]} set to what is not finite from outside, or did the last update, with the learning rate {learning_rate:g}, overflow?"
    if before is None and at_once and not diverged:
        return "this is the first step: are the features finite, and of a size near 1? Scale them, as `feature_scaling` standardize does"
    return f"is the learning rate, now {learning_rate:g}, too high?"


def _norm(value: Any) -> float:
    with np.errstate(all="ignore"):
        return float(np.linalg.norm(to_numpy(value).astype(np.float64).ravel()))
