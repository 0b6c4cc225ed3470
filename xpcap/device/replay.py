"""Work on a device, recorded once and repeated, launch by launch.

The launches of a training step are the same for all batches of one layout: the same kernels, sizes
and addresses, while an upload changes what lies there. So the first such step is recorded, and the
next ones run the record, without deciding anything again.

Only launches of our own kernels and products are recorded. What CuPy launches by itself is not, so
an operation without a kernel, which CuPy then computes, invalidates a recording.
"""

import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, Protocol, TypeVar, cast

T = TypeVar("T")


class Node(Protocol):
    """A launch or a product, prepared for the arrays that it was made for."""

    def call(self) -> Callable[[], object]:
        """A function that runs it again, in this thread and on its current stream."""


class Recording:
    """Nodes that ran while the recording was on, in order."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.invalidated: str | None = None  # name of an operation that CuPy computed


_current: contextvars.ContextVar[Recording | None] = contextvars.ContextVar(
    "xpcap_recording", default=None
)


@contextlib.contextmanager
def recording() -> Iterator[Recording]:
    """Record the work of this thread inside the ``with``."""
    token = _current.set(record := Recording())
    try:
        yield record
    finally:
        _current.reset(token)


def record_node(node: Node) -> None:
    """Record a node, which has run, if a recording is on."""
    if (record := _current.get()) is not None:
        record.nodes.append(node)


def invalidate(operation: str) -> None:
    """Invalidate a recording that is on: CuPy computes an operation."""
    if (record := _current.get()) is not None:
        record.invalidated = record.invalidated or operation


class Replay(Generic[T]):
    """A function's work on a device, recorded at its first run, and repeated at the next ones.

    Its result lies in buffers that each run overwrites. There is one record, `nodes`: work of
    another key replaces it. `repeats` counts the runs that repeated a record, and `refused` says why
    there is none.
    """

    def __init__(self) -> None:
        self.repeats = 0
        self._forget()

    def _forget(self) -> None:
        self._key: object = None
        self.nodes: list[Node] = []
        # Prepared for one thread, whose handle of cuBLAS they have
        self._thread: threading.Thread | None = None
        self._calls: list[Callable[[], object]] = []
        self._result: Any = None
        self.refused = ""

    def run(self, key: object, compute: Callable[[], T]) -> T:
        """Result of compute(), which is recorded, or of repeating the record of the same key.

        key : all that decides about the launches, besides what compute() is always given
        compute : work on buffers that never move
        """
        if self._key == key and self.nodes:
            self.repeats += 1
            if self._thread is not (thread := threading.current_thread()):
                self._thread, self._calls = thread, [node.call() for node in self.nodes]
            for call in self._calls:
                call()
            return cast("T", self._result)
        self._forget()  # first: a record holds the arrays that it was made for
        with recording() as record:
            result = compute()
        if record.invalidated is None:
            self._key, self._result, self.nodes = key, result, record.nodes
        else:
            self.refused = f"CuPy computes {record.invalidated}, which is not recorded"
        return result
