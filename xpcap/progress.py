"""Progress of long work: a bar on a terminal, or lines in other output, at a limited rate."""

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextvars import ContextVar
from typing import Any

BAR_SECONDS = 0.5  # least time between two changes of a bar
LINE_SECONDS = 15.0  # least time between two lines
MIN_REMAINING = 50  # with fewer things left to do, no line is printed


class Pace:
    """A rate limit: `due` at first, and again `seconds` after each `done`, by `clock`."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._next = -math.inf

    @property
    def due(self) -> bool:
        """True if the wait is over."""
        return self._clock() >= self._next

    def done(self) -> None:
        """Start the next wait."""
        self._next = self._clock() + self._seconds


_SHOWN = ContextVar("bars", default=False)


@contextlib.contextmanager
def bars(shown: bool | None) -> Iterator[None]:
    """Show or hide this thread's bars inside the ``with``; None changes nothing."""
    token = _SHOWN.set(_SHOWN.get() if shown is None else shown)
    try:
        yield
    finally:
        _SHOWN.reset(token)


def bar(
    things: Iterable[object],
    label: str,
    total: int | None = None,
    done: int = 0,
    lines: bool = False,
    shown: bool | None = None,
) -> Any:
    """`things` with a progress bar on standard error, if that is a terminal and `shown` is set.

    With `lines`, for work of minutes, any other stream gets a line at once and every
    `LINE_SECONDS`, unless few things are left. If `shown` is None, `bars` decides. Without a
    standard error, as in a daemon, nothing is shown.
    """
    from tqdm import tqdm

    shown = (_SHOWN.get() if shown is None else shown) and sys.stderr is not None
    if lines and shown and not sys.stderr.isatty():
        total = len(things) if total is None and isinstance(things, Sized) else total
        return Lines(things, label, total or 0, done)
    return tqdm(
        things,
        desc=label,
        total=total,
        initial=done,
        disable=None if shown else True,
        leave=False,
        mininterval=BAR_SECONDS,
        **_size(),
    )


class Lines:
    """Progress in lines on standard error; used like tqdm's bars, by iteration or ``update(n)``."""

    def __init__(
        self,
        things: Iterable[object],
        label: str,
        total: int,
        done: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._things = things
        self._label = label
        self._total = total
        self._done = done
        self._pace = Pace(LINE_SECONDS, clock)
        self.update(0)

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __iter__(self) -> Iterator[object]:
        for thing in self._things:
            yield thing
            self.update()

    def update(self, count: int = 1) -> None:
        """Count things that are done, and print their number if a line is due."""
        self._done += count
        if self._total - self._done >= MIN_REMAINING and self._pace.due:
            say(f"{self._label}: {self._done:,} of {self._total:,}", err=True)
            self._pace.done()


def _size() -> dict[str, int]:
    """A size for a terminal that reports none, as in a container; otherwise tqdm asks the terminal."""
    try:
        known = os.get_terminal_size(sys.stderr.fileno()).columns
        return {} if known else {"ncols": 80, "nrows": 20}
    except (OSError, ValueError, AttributeError):  # no terminal, or no stream at all
        return {}


def say(line: str, *, err: bool = False) -> None:
    """Print a line at once, without breaking a bar; do nothing if the process has no such stream.

    BrokenPipeError : the reader of the stream has gone.
    """
    from tqdm import tqdm

    stream = sys.stderr if err else sys.stdout
    if stream is not None:
        tqdm.write(line, stream)
        stream.flush()
