"""Work on a device, recorded once and run again: as a list of launches, or as a CUDA graph.

The launches of a training step are the same for all batches of one layout: the same kernels, sizes
and addresses, while an upload changes what lies there. So the first such step is recorded, and the
next ones run the record, without deciding anything again.

Only launches of our own kernels and products are recorded. What CuPy launches by itself is not, so
an operation without a kernel, which CuPy then computes, invalidates a recording.
"""

import contextlib
import contextvars
import gc
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from xpcap.device import Array
from xpcap.progress import say

T = TypeVar("T")

# Held by a thread that launches products or a graph, captures, or makes or destroys a handle of
# cuBLAS: no other's come between. While a stream captures, CUDA refuses what the last two do
LAUNCH_LOCK = threading.RLock()


class Node(Protocol):
    """A launch or a product, prepared for the arrays that it was made for."""

    def call(self, stream: int) -> Callable[[], object]:
        """A function that runs it on the stream at an address, or adds it to a capture there."""


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


def note(node: Node) -> None:
    """Record a node, which has run, if a recording is on."""
    if (record := _current.get()) is not None:
        record.nodes.append(node)


def invalidate(operation: str) -> None:
    """Invalidate a recording that is on: CuPy computes an operation."""
    if (record := _current.get()) is not None:
        record.invalidated = record.invalidated or operation


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """Collect garbage before the ``with`` and none inside: freeing an object may end a capture."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Replay(Generic[T]):
    """A function's work on a device, recorded at its first run, and repeated at the next ones.

    Its result lies in buffers that each run overwrites. There is one record, `nodes`: work of
    another key replaces it. `repeats` counts the runs that repeated a record, and `refused` says why
    there is no record, or no graph.

    graphs : repeat the work as a CUDA graph, if that gives the bits of the same launches one by one
    """

    def __init__(self, *, graphs: bool = False) -> None:
        self.graphs, self.repeats = graphs, 0
        self._forget()

    def _forget(self) -> None:
        self._key: object = None
        self.nodes: list[Node] = []
        self._calls: list[Callable[[], object]] = []
        self._result: Any = None
        self._outputs: Sequence[Array] = ()
        self._graph: Any = None
        self.refused = ""

    @property
    def has_graph(self) -> bool:
        """True if the work runs as a CUDA graph, which gave the right bits."""
        return self._graph is not None

    def run(
        self, key: object, compute: Callable[[], T], outputs: Callable[[T], Sequence[Array]]
    ) -> T:
        """Result of compute(), which is recorded, or of repeating the record of the same key.

        key : all that decides about the launches, besides what compute() is always given
        compute : work on buffers that never move
        outputs : arrays of a result
        """
        if self._key == key and self.nodes:
            return self._repeat()
        self._forget()  # first: a record holds the arrays that it was made for
        with recording() as record:
            result = compute()
        if record.invalidated is None:
            stream = sys.modules["cupy"].cuda.get_current_stream().ptr
            self._key, self._result, self._outputs = key, result, outputs(result)
            self.nodes, self._calls = record.nodes, [node.call(stream) for node in record.nodes]
        else:
            self.refused = f"CuPy computes {record.invalidated}, which is not recorded"
        return result

    def _repeat(self) -> Any:
        self.repeats += 1
        if self._graph is not None:
            with LAUNCH_LOCK:
                self._graph.launch()
        elif self.graphs and not self.refused:
            self._try_graph()
        else:
            self._run_list()
        return self._result

    def _run_list(self) -> None:
        with LAUNCH_LOCK:
            for call in self._calls:
                call()

    def _try_graph(self) -> None:
        """Capture a graph and compare it with the list; the result is there either way.

        The graph runs first: the buffers then still hold another batch's results, so one that does
        nothing, or leaves something out, is found.
        """
        graph, reason, graph_bits = None, "", None
        try:
            with LAUNCH_LOCK, _no_collections():
                graph = self._captured()
                graph.launch()
            graph_bits = self._bits()
        except (RuntimeError, MemoryError) as error:  # CuPy's errors of CUDA are RuntimeErrors
            reason = str(error)
        self._run_list()
        if not reason and graph_bits != self._bits():
            reason = "its results differ from those of separate launches"
        if reason:
            self.refused = reason
            text = (
                f"no CUDA graph of {len(self.nodes)} launches: {reason}; training continues without"
            )
        else:
            self._graph = graph
            text = f"CUDA graph of {len(self.nodes)} launches is bit-identical; enabled"
        say(f"xpcap: {text}", err=True)

    def _bits(self) -> list[bytes]:
        return [array.get().tobytes() for array in self._outputs]

    def _captured(self) -> Any:
        """The work as a graph. The null stream cannot capture: it is done on a stream of its own.

        What CUDA refuses while a stream captures, such as making a handle, comes before.
        """
        stream = sys.modules["cupy"].cuda.Stream(non_blocking=True)
        calls = [node.call(stream.ptr) for node in self.nodes]
        stream.begin_capture()
        try:
            for call in calls:
                call()
        finally:
            graph = stream.end_capture()
        return graph
