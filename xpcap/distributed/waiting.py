"""Waiting for other ranks: one that does not come in time is named, and all are ended."""

import contextlib
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from xpcap.errors import OptionError

VARIABLE = "XPCAP_RANK_TIMEOUT"
SECONDS = 600.0
ASKED, ANSWERED = 1, 2  # kinds of message
TICK = 0.5  # seconds between two looks at the clock and the mail
PATIENCE = 3.0  # seconds that the others have to answer


def timeout() -> float:
    """How long a rank waits for the others, in seconds. OptionError : the variable holds something else."""
    text = os.environ.get(VARIABLE, "")
    try:
        seconds = float(text) if text else SECONDS
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise OptionError(f"{VARIABLE}={text[:60]}: expected how many seconds a rank waits for the others, above 0")
    return seconds


class Waiting:
    """Watches, on a thread of its own, how long this rank waits for the others in one call.

    After `seconds` it asks them how many calls they have begun. Who is behind, or does not answer, is named on standard error; then all are ended.

    Parameters
    ----------
    communicator : of all ranks, used for nothing else
    names : of the ranks, for messages
    """

    def __init__(self, communicator: Any, names: list[str], seconds: float) -> None:
        self._communicator, self._names, self._seconds = communicator, names, seconds
        self._rank, self._calls, self._since = communicator.Get_rank(), 0, math.inf
        self._asked_at = math.inf
        self._answers: dict[int, int] = {}
        threading.Thread(target=self._watch, name="xpcap ranks", daemon=True).start()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Inside, this rank waits for the others."""
        self._calls += 1
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = math.inf

    def _watch(self) -> None:
        while True:
            time.sleep(TICK)
            self._read()
            now = time.monotonic()
            if now - self._since < self._seconds:
                self._asked_at = math.inf
            elif self._asked_at == math.inf:
                self._asked_at, self._answers = now, {self._rank: self._calls}
                for other in range(len(self._names)):
                    if other != self._rank:
                        self._send(other, ASKED)
            elif now - self._asked_at > PATIENCE or len(self._answers) == len(self._names):
                self._end()

    def _send(self, other: int, kind: int) -> None:
        self._communicator.Send(np.array([kind, self._calls], np.int64), dest=other)

    def _read(self) -> None:
        """Answer those who ask, and note the answers."""
        from mpi4py import MPI

        status, message = MPI.Status(), np.empty(2, np.int64)
        while self._communicator.Iprobe(status=status):
            sender = status.Get_source()
            self._communicator.Recv(message, source=sender)
            if message[0] == ASKED:
                self._send(sender, ANSWERED)
            else:
                self._answers[sender] = int(message[1])

    def _end(self) -> None:
        late = [f"{name} did not answer" for other, name in enumerate(self._names) if other not in self._answers]
        late += [f"{self._names[other]} does something else" for other, calls in sorted(self._answers.items()) if calls < self._calls]
        why = "; ".join(late) or "all are there: is the network slow, or down?"
        print(f"xpcap: {self._names[self._rank]} has waited {self._seconds:g} s for the other ranks: {why}; ending all", file=sys.stderr, flush=True)
        self._communicator.Abort(1)
