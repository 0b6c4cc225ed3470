"""Work on a device, recorded once and run again: as a list of launches, or as a CUDA graph.

The launches of a training step are the same for all batches of one layout: the same kernels, sizes
and addresses, while an upload changes what lies there. So the first such step is recorded, and the
next ones run the record, without deciding anything again.

Only launches of our own kernels and products are recorded. What CuPy launches by itself is not, so
an operation without a kernel, which CuPy then computes, invalidates a recording.
"""

import contextlib
import contextvars
import sys
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from xpcap.backend import Array, to_numpy

T = TypeVar("T")


class Work(Protocol):
    """A launch or a product, prepared for the arrays that it was made for."""

    def call(self, stream: int) -> Callable[[], object]:
        """A function that runs it on the current stream, whose address is `stream`."""

    def before_capture(self, stream: int) -> None:
        """Do what must be done before a capture on the stream at that address begins."""

    def capture(self, stream: int) -> None:
        """Add it to the graph that is captured there."""


class Recording:
    """Work that ran while the recording was on, in order."""

    def __init__(self) -> None:
        self.work: list[Work] = []
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


def note(work: Work) -> None:
    """Record work, which has run, if a recording is on."""
    if (record := _current.get()) is not None:
        record.work.append(work)


def invalidate(operation: str) -> None:
    """Let a recording that is on not be used: CuPy computes an operation."""
    if (record := _current.get()) is not None:
        record.invalidated = record.invalidated or operation


class Replay(Generic[T]):
    """Recorded work and its result, which lies in buffers that each run overwrites.

    Parameters
    ----------
    work : as recorded
    result : what the recorded function returned
    written : arrays of the result
    """

    def __init__(self, work: Sequence[Work], result: T, written: Sequence[Array]) -> None:
        self.work, self.result, self._written = work, result, written
        stream = sys.modules["cupy"].cuda.get_current_stream().ptr
        self._calls = [one.call(stream) for one in work]
        self._graph: Any = None
        self._refused = False

    @property
    def has_graph(self) -> bool:
        """True if it was run as a CUDA graph, which gave the right bits."""
        return self._graph is not None

    def run(self, graphs: bool = False) -> T:
        """Run the work again: as a CUDA graph, which is made and tested first, or launch by launch.

        A graph is used only if it writes the same bits as the launches one by one. If it does not,
        or CUDA refuses it, a line on standard error says so, once for each record.
        """
        if graphs and not self._refused:
            if self._graph is None:
                self._capture()
            else:
                self._graph.launch()
            return self.result
        for call in self._calls:
            call()
        return self.result

    def _capture(self) -> None:
        """Make and test the graph; the result is there afterwards, whatever comes of it."""
        self._refused = True
        expected = self._bits(self.run)
        try:
            graph = self._captured()
            same = self._bits(graph.launch) == expected
            reason = "" if same else "it gives other bits than the same launches one by one"
        except RuntimeError as error:  # CuPy's errors of CUDA are, too
            reason = str(error)
        if reason:
            text = (
                f"no CUDA graph of {len(self.work)} launches: {reason}; training continues without"
            )
            print(f"xpcap: {text}", file=sys.stderr)
            self.run()
        else:
            self._graph, self._refused = graph, False

    def _bits(self, run: Callable[[], object]) -> list[bytes]:
        run()
        return [to_numpy(array).tobytes() for array in self._written]

    def _captured(self) -> Any:
        """The work as a graph. The null stream cannot capture: it is done on a stream of its own."""
        stream = sys.modules["cupy"].cuda.Stream(non_blocking=True)
        for one in self.work:
            one.before_capture(stream.ptr)
        stream.begin_capture()
        try:
            for one in self.work:
                one.capture(stream.ptr)
        finally:
            graph = stream.end_capture()
        return graph


def replayed(
    store: MutableMapping[object, Any],
    key: object,
    compute: Callable[[], T],
    written: Callable[[T], Sequence[Array]],
    graphs: bool = False,
) -> T:
    """Result of compute(), recorded under a key, and run again for the same key.

    Parameters
    ----------
    store : the records; whoever owns the buffers clears it when one of them moves
    key : all that decides about the launches
    compute : work on buffers of one owner
    written : arrays of a result
    graphs : run records as CUDA graphs
    """
    if (replay := store.get(key)) is not None:
        return replay.run(graphs)
    store[key] = None
    with recording() as record:
        result = compute()
    # Without the key a buffer moved on the way, and the next step of this layout is recorded
    if key in store and record.invalidated is None:
        store[key] = Replay(record.work, result, written(result))
    return result
