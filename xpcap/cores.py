"""Work side by side on the cores of the host, each part on a core of its own, while BLAS keeps to one thread in each.

BLAS can spread one product over the cores, but what lies between two products stays on one core. A part of the work for each core keeps
both on that core.
"""

import contextvars
import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import numpy as np

from xpcap.threads import blas, in_part

Part = TypeVar("Part")
Outcome = TypeVar("Outcome")

WORTH_WAKING = 1 << 24  # multiplications


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1), thread_name_prefix="xpcap", initializer=blas().keep_this_thread_to_one)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has none of its parent's threads


def cores() -> int:
    """How many parts are worth working on side by side: the threads that NumPy's BLAS may use.

    That is the number of the machine's cores, or what ``OPENBLAS_NUM_THREADS``, ``OMP_NUM_THREADS`` or threadpoolctl made of it. It is 1 where
    BLAS cannot be held to one thread (Apple's Accelerate), which then spreads its products as it sees fit.
    """
    return blas().threads()


def free_cores() -> int:
    """The same, or 1 inside a part of work done side by side: the other cores are taken."""
    return 1 if in_part.get() else cores()


def side_by_side(work: Callable[[Part], Outcome], parts: Sequence[Part]) -> list[Outcome]:
    """[work(part) for part in parts], the first in this thread and the others on other cores. An exception is raised once all have ended.

    Inside a part of other work the parts are done one after the other. Another thread of the program that works side by side is waited for.
    """
    if len(parts) < 2 or in_part.get():
        return [work(part) for part in parts]
    with blas().on_one_thread():
        token = in_part.set(True)
        try:
            others = [_pool().submit(contextvars.copy_context().run, work, part) for part in parts[1:]]
            try:
                first = work(parts[0])
            finally:
                wait(others)
        finally:
            in_part.reset(token)
    return [first, *(other.result() for other in others)]


def on_cores(like: object, work: int, *tasks: Callable[[], object]) -> None:
    """Run tasks that do not depend on each other: side by side on the host, in turn on a device, which has cores of its own.

    `like` is an array of the library that they compute with, `work` the multiplications of a task: few are done before a thread has woken.
    """
    if isinstance(like, np.ndarray) and work >= WORTH_WAKING:
        side_by_side(lambda task: task(), tasks)
    else:
        for task in tasks:
            task()


def stretches(length: int, parts: int) -> list[slice]:
    """0..length as at most `parts` slices of nearly one size, none of them empty unless length is 0."""
    parts = max(1, min(parts, length))
    return [slice(length * k // parts, length * (k + 1) // parts) for k in range(parts)]
