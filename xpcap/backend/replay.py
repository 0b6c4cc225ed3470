"""Record the launches of work on a device once, and repeat them without Python.

A training step launches the same kernels, with the same sizes and addresses, for all batches of one
layout; only an upload changes the content of the arrays. So the first such step is recorded, and
the next ones repeat its launches.

Only launches of xpcap's kernels and products are recorded. An operation that CuPy computes
invalidates a recording.
"""

import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, Protocol, TypeVar, cast

T = TypeVar("T")


class Node(Protocol):
    """A launch or a product on certain arrays."""

    def call(self) -> Callable[[], object]:
        """A function that repeats it, in this thread and on its current stream."""


class Recording:
    """The nodes that ran during a recording, in order."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.invalidated: str | None = None  # the first operation that CuPy computed


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
    """Add a node, which has run, to the current recording, if any."""
    if (record := _current.get()) is not None:
        record.nodes.append(node)


def invalidate(operation: str) -> None:
    """Invalidate the current recording, if any: CuPy computes an operation."""
    if (record := _current.get()) is not None:
        record.invalidated = record.invalidated or operation


class Replay(Generic[T]):
    """Work on a device, recorded at its first run and repeated at the next ones.

    Each run overwrites the result of the run before. There is one record, `nodes`, which work of
    another key replaces. `repeats` counts the runs that repeated a record; `refused` says why
    there is none.
    """

    def __init__(self) -> None:
        self.repeats = 0
        self._forget()

    def _forget(self) -> None:
        self._key: object = None
        self.nodes: list[Node] = []
        # Calls belong to one thread, since they have its cuBLAS handle
        self._thread: threading.Thread | None = None
        self._calls: list[Callable[[], object]] = []
        self._result: Any = None
        self.refused = ""

    def run(self, key: object, compute: Callable[[], T]) -> T:
        """Compute and record a result, or repeat the record of the same key.

        key : everything that may change the launches of compute()
        compute : work on buffers whose addresses never change
        """
        if self._key == key and self.nodes:
            self.repeats += 1
            if self._thread is not (thread := threading.current_thread()):
                self._thread = thread
                self._calls = [node.call() for node in self.nodes]
            for call in self._calls:
                call()
            return cast("T", self._result)
        self._forget()  # first, since a record keeps its arrays alive
        with recording() as record:
            result = compute()
        if record.invalidated is None:
            self._key = key
            self._result = result
            self.nodes = record.nodes
        else:
            self.refused = f"CuPy computes {record.invalidated}, which is not recorded"
        return result
