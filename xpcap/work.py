"""The current work: the ranks that share it, whether it shows bars, and who hears its notices."""

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
    """What a command, or a function with these parameters, says once for all that it calls."""

    group: Group = SINGLE
    on_notice: Callable[[str], object] = LOG.warning


_CURRENT = ContextVar("work", default=Work())  # noqa: B039 - frozen


def current() -> Work:
    """The current work. In a new thread it is one process, without bars, with notices logged."""
    return _CURRENT.get()


@contextlib.contextmanager
def work(
    *,
    group: Group | None = None,
    progress: bool | None = None,
    on_notice: Callable[[str], object] | None = None,
) -> Iterator[Group]:
    """Set the current work within a `with` block; None keeps the surrounding setting.

    Never enter it across a `yield`: whoever asks a generator for its next thing has work of their
    own. What rank 0 does alone, it does with `group=SINGLE`: nobody answers it.

    group : the ranks that share the work
    progress : rank 0 shows bars on a terminal
    on_notice : called with each notice of this thread, in place of the logger "xpcap"
    """
    before = current()
    now = replace(before, group=group or before.group, on_notice=on_notice or before.on_notice)
    token = _CURRENT.set(now)
    try:
        with bars(progress if now.group.rank == 0 else False):
            yield now.group
    finally:
        _CURRENT.reset(token)


def notice(sentence: str) -> None:
    """Report something other than an error: to the running command, else to the log."""
    current().on_notice(sentence)
