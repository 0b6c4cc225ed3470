"""Progress bars, drawn on a terminal only, and a limit on how often what is shown is renewed."""

import math
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

BAR_SECONDS = 0.5  # between two changes of a bar


class Pace:
    """Limits how often something is done: at once the first time, then no sooner than `seconds` after the last time.

    `clock` gives the time in seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock, self._next = seconds, clock, -math.inf

    @property
    def due(self) -> bool:
        """Whether it may be done now."""
        return self._clock() >= self._next

    def done(self) -> None:
        """It has just been done."""
        self._next = self._clock() + self._seconds


def bar(things: Iterable[Any], shown: bool, label: str, total: int | None = None, done: int = 0) -> Any:
    """`things` with a progress bar on standard error, if that is a terminal and `shown` is set."""
    from tqdm import tqdm

    return tqdm(things, desc=label, total=total, initial=done, disable=None if shown else True, leave=False, mininterval=BAR_SECONDS)


def byte_bar(shown: bool, label: str, total: int | None, done: int = 0) -> Any:
    """A bar like `bar` for bytes, with their rate and the time left; ``update(n)`` moves it on."""
    from tqdm import tqdm

    disable = None if shown else True
    return tqdm(desc=label, total=total, initial=done, unit="B", unit_scale=True, disable=disable, leave=False, mininterval=BAR_SECONDS)


def say(line: str) -> None:
    """Print a line at once, without breaking a bar on the screen. BrokenPipeError : nobody reads it."""
    from tqdm import tqdm

    tqdm.write(line)
    sys.stdout.flush()
