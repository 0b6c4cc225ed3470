"""Streams and threads on the emulated device: work on a stream of one's own, and on one thread after
another.
"""

import contextlib
import gc
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from device_solver import N, make, make_data
from emulated import Emulator, in_thread
from emulated.cuda import Event

import xpcap
from xpcap.backend.replay import recording
from xpcap.backend.transfers import AHEAD, AsyncCopy, Staging
from xpcap.distributed import Group
from xpcap.models import Beam, Sampling
from xpcap.ops import get_ops

pytestmark = pytest.mark.usefixtures("few_threads")


@pytest.fixture
def xp(device: Emulator) -> ModuleType:
    import cupy

    return cupy


def test_emulated_captioner_trains_and_samples_alike_on_any_stream(xp: ModuleType) -> None:
    found = []
    streams = xp.cuda.Stream.null, xp.cuda.Stream(non_blocking=True), xp.cuda.Stream()
    for stream in streams:
        with stream:
            solver = make("cupy")
            solver.train()
            features = make_data().split("train").features
            policies = Sampling(max_length=6, seed=1), Beam(3, max_length=6)
            captions = [solver.model.sample(features, policy=policy) for policy in policies]
            found.append((solver.loss_history, captions, xpcap.to_numpy(solver.model.params.flat)))
        assert xp.cuda.get_current_stream() is xp.cuda.Stream.null
    for losses, captions, flat in found[1:]:
        assert losses == found[0][0]
        np.testing.assert_array_equal(captions, found[0][1])
        np.testing.assert_array_equal(flat, found[0][2])


def multiply(x: Any) -> None:
    get_ops(x).matmul(x, x, x.copy())


USES: dict[str, Callable[[Any], object]] = {
    "ufunc": lambda x: x + 1,
    "fill": lambda x: x.fill(2),
    "product": multiply,
    "kernel": lambda x: get_ops(x).add_rows(x, x[0].copy()),
    "copy": lambda x: AsyncCopy(x),
    "upload": lambda x: x.set(np.ones(x.shape, x.dtype)),
    "read": lambda x: x.get(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_emulated_work_on_another_stream_has_to_wait_for_an_event(
    use: Callable[[Any], object], xp: ModuleType
) -> None:
    x, event, stream = xp.ones((4, 4), "f4"), xp.cuda.Event(), xp.cuda.Stream(non_blocking=True)
    with stream, pytest.raises(RuntimeError, match="does not wait for that on the null stream"):
        use(x)
    event.record()
    with stream:
        stream.wait_event(event)
        use(x)
        x.fill(2)  # what reads has waited by itself
    with pytest.raises(RuntimeError, match="the null stream does not wait for that on <Stream"):
        x.fill(3)
    stream.synchronize()
    x.fill(3)
    with xp.cuda.Stream():  # waits for the null stream, as CUDA's streams do unless told otherwise
        use(x)


def test_emulated_copies_arrive_when_their_own_stream_is_waited_for(xp: ModuleType) -> None:
    x = xp.ones((2, 3), "f4")
    xp.cuda.Device().synchronize()
    hosts = [np.ndarray(x.shape, x.dtype, xp.cuda.alloc_pinned_memory(x.nbytes)) for _ in range(2)]
    stream = xp.cuda.Stream(non_blocking=True)
    x.get(out=hosts[0], blocking=False)
    event = xp.cuda.Event()
    event.record()
    event.synchronize()
    with stream:
        x.get(out=hosts[1], blocking=False)
    xp.cuda.Stream.null.synchronize()
    assert (hosts[0] == 1).all()
    assert not (hosts[1] == 1).any()
    stream.synchronize()
    assert (hosts[1] == 1).all()


def test_emulated_copies_that_are_dropped_after_an_error_of_cuda_say_nothing(
    xp: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python would print a traceback of each, which pytest takes for an error."""
    gc.collect()  # what other tests left behind
    staging, copy = Staging(xp, contextlib.nullcontext), AsyncCopy(xp.ones(3, "f4"))
    staging.send(np.ones(3, "f4"), xp.empty(3, "f4"))
    waits = []

    def fail(self: Event) -> None:
        waits.append(self)
        raise xp.cuda.runtime.CUDARuntimeError(700)

    monkeypatch.setattr(Event, "synchronize", fail)
    del staging, copy
    gc.collect()
    assert len(waits) == 2


def test_emulated_thread_launches_nothing_without_a_context(xp: ModuleType) -> None:
    """The driver refuses; xpcap's operations give the thread one, as what allocates does."""
    x, b = xp.ones((4, 4), "f4"), xp.ones(4, "f4")
    with recording() as record:
        get_ops(x).add_rows(x, b)
    launch = record.nodes[0].call()
    with pytest.raises(RuntimeError, match="CUDA_ERROR_INVALID_CONTEXT"):
        in_thread(launch)
    in_thread(lambda: (xp.empty(3), launch()))
    in_thread(lambda: get_ops(x).add_rows(x, b))
    in_thread(lambda: get_ops(x).matmul(x, x, x.copy()))
    assert float(x[0, 0]) == 4


def test_emulated_ring_of_uploads_that_stalls_is_watched_as_a_read(
    device: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that waits for other ranks holds up all uploads; counts of calls stay equal."""
    seen: list[str] = []

    class Watched(Group):
        how = ""

        @contextlib.contextmanager
        def waiting(self, *, call: bool = True) -> Iterator[None]:
            self.how = "call" if call else "read"
            yield
            self.how = ""

    group, synchronize = Watched(), Event.synchronize

    def stalled(self: Event) -> None:
        seen.append(group.how)
        synchronize(self)

    solver = make("cupy", group=group, num_epochs=40)
    monkeypatch.setattr(Event, "synchronize", stalled)
    for _ in range(AHEAD + 4):
        solver.train_batch(np.arange(N))
    assert seen == ["read"] * 4
    del solver
    assert seen == ["read"] * (4 + AHEAD)
