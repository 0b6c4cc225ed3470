"""The current work: the ranks that share it, its progress bars and its notices."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace

from xpcap.distributed import SINGLE, Group
from xpcap.progress import bars

LOG = logging.getLogger("xpcap")


@dataclass(frozen=True)
class Work:
    """Settings of a command, or of a function with these parameters, for everything it calls."""

    group: Group = SINGLE
    on_notice: Callable[[str], object] = LOG.warning


_CURRENT = ContextVar("work", default=Work())  # noqa: B039 - frozen


def current() -> Work:
    """The current work. A new thread has one rank and no bars, and logs notices."""
    return _CURRENT.get()


@contextlib.contextmanager
def work(
    *,
    group: Group | None = None,
    progress: bool | None = None,
    on_notice: Callable[[str], object] | None = None,
) -> Iterator[Group]:
    """Set the current work inside the ``with``; None keeps the surrounding setting.

    Never enter it around a `yield`: a generator's caller has its own current work. If rank 0 works
    alone, give it `group=SINGLE`: the other ranks would not answer.

    group : the ranks that share the work
    progress : rank 0 shows bars on a terminal
    on_notice : called with each notice of this thread, instead of the logger "xpcap"
    """
    before = current()
    settings = replace(before, group=group or before.group, on_notice=on_notice or before.on_notice)
    token = _CURRENT.set(settings)
    try:
        with bars(progress if settings.group.rank == 0 else False):
            yield settings.group
    finally:
        _CURRENT.reset(token)


def notice(sentence: str) -> None:
    """Report what deserves attention but is no error: to the running command, else to the log."""
    current().on_notice(sentence)
