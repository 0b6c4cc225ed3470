"""Products beside a busy neighbour: noticed by their time, taken on one thread for a while, with
the same bits.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from xpcap import CaptioningRNN, threads
from xpcap.memory import Workspace
from xpcap.threads import cores

pytestmark = pytest.mark.threads
THREADS = pytest.mark.skipif(
    cores() < 2, reason="BLAS has one thread here: there is nothing to choose"
)
ALWAYS = -1.0  # seconds that one thread is known to take, so that every product is late


class Spied(threads.ContentionGuard):
    """Counts the products that it takes on one thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.single = 0
        whole = threads.Blas.on_one_thread

        @contextlib.contextmanager
        def counted(library: threads.Blas) -> Iterator[None]:
            self.single += 1
            with whole(library):
                yield

        monkeypatch.setattr(threads.Blas, "on_one_thread", counted)

    def expect(self, seconds: float) -> None:
        """Let one thread be known to take this long, for every shape so far."""
        self._known = dict.fromkeys(self._known, seconds)


@pytest.fixture
def contention_guard(monkeypatch: pytest.MonkeyPatch) -> Spied:
    return Spied(monkeypatch)


def arrays(rng: np.random.Generator, n: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return rng.standard_normal((n, 40)), rng.standard_normal((40, 30)), np.empty((n, 30))


def test_a_shape_is_tried_both_ways_once_and_then_left_to_all_threads(
    contention_guard: Spied, rng: np.random.Generator
) -> None:
    x, w, out = arrays(rng)
    for expected in (1, 1, 1):
        contention_guard.expect(1.0)
        assert contention_guard.dot(x, w, out) is out
        np.testing.assert_array_equal(out, x @ w)
        assert contention_guard.single == expected
    contention_guard.dot(*arrays(rng, 7))
    assert contention_guard.single == 2


def test_a_slow_product_sends_the_next_ones_to_one_thread_until_the_pause_is_over(
    contention_guard: Spied, rng: np.random.Generator
) -> None:
    x, w, out = arrays(rng)
    contention_guard.dot(x, w, out)
    contention_guard.expect(ALWAYS)
    contention_guard.dot(x, w, out)  # found slow
    assert contention_guard.single == 1
    contention_guard._until += 1000.0
    for k in range(3):
        out[...] = 0
        contention_guard.dot(x, w, out)
        np.testing.assert_array_equal(out, x @ w)
        assert contention_guard.single == 2 + k
    contention_guard._until = 0.0
    contention_guard.expect(1.0)
    contention_guard.dot(x, w, out)
    assert contention_guard.single == 4  # on all threads again


def test_pauses_grow_while_the_neighbour_stays_and_shrink_when_it_has_gone(
    contention_guard: Spied, rng: np.random.Generator
) -> None:
    x, w, out = arrays(rng)
    contention_guard.dot(x, w, out)
    pauses = []
    for seconds in [ALWAYS] * 9 + [1.0] * 9:
        contention_guard._until = 0.0
        contention_guard.expect(seconds)
        contention_guard.dot(x, w, out)
        pauses.append(contention_guard._pause)
    assert pauses[:9] == sorted(pauses[:9])
    assert pauses[8] == contention_guard.LONGEST
    assert pauses[-1] == contention_guard.SHORTEST


def test_a_shape_whose_bits_would_differ_stays_on_all_threads(
    contention_guard: Spied, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, w, out = arrays(rng)
    dot = np.dot
    monkeypatch.setattr(
        threads.np, "dot", lambda x, w, out=None: dot(x, w, out=out) + (out is None) * 1e-9
    )  # one thread rounds otherwise
    contention_guard.dot(x, w, out)
    contention_guard._until = np.inf
    for _ in range(3):
        contention_guard.dot(x, w, out)
    assert contention_guard.single == 1


def test_a_shape_first_seen_with_zeros_stays_on_all_threads(
    contention_guard: Spied, rng: np.random.Generator
) -> None:
    """Zeros round alike however they are added up."""
    x, w, out = arrays(rng)
    contention_guard.dot(np.zeros_like(x), w, out)
    contention_guard._until = np.inf
    for _ in range(3):
        contention_guard.dot(x, w, out)
        np.testing.assert_array_equal(out, x @ w)
    assert contention_guard.single == 1


@THREADS
@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_a_step_beside_a_neighbour_has_the_bits_of_a_step_alone(
    cell: str, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    words = {"<NULL>": 0, "<START>": 1, "<END>": 2, **{f"w{i}": i for i in range(3, 300)}}
    model = CaptioningRNN(words, 80, 64, 96, cell, np.float32, seed=0)
    features, captions = (
        rng.standard_normal((30, 80), dtype=np.float32),
        rng.integers(0, 300, (30, 12)),
    )
    with threadpool_limits(2, "blas"):
        alone = threads.ContentionGuard()
        monkeypatch.setattr(threads, "contention_guard", lambda: alone)
        monkeypatch.setattr("xpcap.ops.numpy_kernels.contention_guard", lambda: alone)
        alone.LATE = np.inf
        expected = model.loss(features, captions, workspace=Workspace(model.params.flat))
        beside: Any = Spied(monkeypatch)
        monkeypatch.setattr("xpcap.ops.numpy_kernels.contention_guard", lambda: beside)
        model.loss(features, captions)
        beside._until, first = np.inf, beside.single
        got = model.loss(features, captions)
        assert beside.single > first + 20  # the loop's products, both ways
    assert got[0] == expected[0]
    np.testing.assert_array_equal(got[1].flat, expected[1].flat)
