"""Ranks as threads of one process: a Group without MPI, for tests of what ranks do together."""

import json
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from xpcap.backend import asarray
from xpcap.distributed import Group

Outcome = TypeVar("Outcome")


class Meeting:
    """What ranks meet at: each brings something, and all see what everyone brought."""

    def __init__(self, size: int) -> None:
        self.brought: list[Any] = [None] * size
        self.barrier = threading.Barrier(size)

    def exchange(self, rank: int, thing: Any) -> list[Any]:
        self.brought[rank] = thing
        self.barrier.wait()
        everything = list(self.brought)
        self.barrier.wait()
        return everything


class Rank(Group):
    """A rank that is a thread."""

    def __init__(self, meeting: Meeting, rank: int, size: int) -> None:
        self.meeting, self.rank, self.size, self.sums = meeting, rank, size, 0

    def all_reduce(self, flat: Any) -> None:
        self.sums += 1
        host = flat if isinstance(flat, np.ndarray) else flat.get()
        total = np.sum(self.meeting.exchange(self.rank, host.copy()), axis=0, dtype=host.dtype)
        flat[...] = asarray(total, like=flat)

    def max(self, number: int) -> int:
        return max(self.meeting.exchange(self.rank, number))

    def gather(self, thing: Any) -> list[Any]:
        return [json.loads(text) for text in self.meeting.exchange(self.rank, json.dumps(thing))]

    def barrier(self) -> None:
        self.meeting.barrier.wait()


def together(size: int, work: Callable[[Group], Outcome]) -> list[Outcome]:
    """work(group) on `size` ranks at once; what each returned. The first exception of a rank is
    raised, and ends the others' waiting.
    """
    meeting, results, errors = Meeting(size), [None] * size, []

    def run(rank: int) -> None:
        try:
            results[rank] = work(Rank(meeting, rank, size))
        except BaseException as error:
            errors.append(error)
            meeting.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise next(
            (error for error in errors if not isinstance(error, threading.BrokenBarrierError)),
            errors[0],
        )
    return results  # type: ignore[return-value]
