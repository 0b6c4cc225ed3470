"""What training notes of each step on the model's device, and reads in one piece when something is to be printed, saved or decided."""

from typing import NamedTuple

import numpy as np

from xpcap.backend import Array, get_array_module, to_numpy
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
