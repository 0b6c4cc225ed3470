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
from xpcap.layers import CELLS
from xpcap.memory import Workspace
from xpcap.threads import cores

pytestmark = pytest.mark.threads
THREADS = pytest.mark.skipif(
    cores() < 2, reason="BLAS has one thread here: there is nothing to choose"
)
ALWAYS, NEVER = -1.0, np.inf  # seconds after which a product is late
DOT = np.dot


class Spied(threads.ContentionGuard):
    """Counts the products that it computes on one thread, and all that it computes."""

    LATE = NEVER

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.single = self.products = 0
        self.one_thread_rounds_otherwise = False
        whole = threads.Blas.on_one_thread

        @contextlib.contextmanager
        def counted(library: threads.Blas) -> Iterator[None]:
            self.single += 1
            with whole(library):
                yield

        def dot(x: np.ndarray, w: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
            self.products += 1
            otherwise = self.one_thread_rounds_otherwise and out is None
            return DOT(x, w, out=out) + 1e-9 if otherwise else DOT(x, w, out=out)

        monkeypatch.setattr(threads.Blas, "on_one_thread", counted)
        monkeypatch.setattr(threads.np, "dot", dot)

    def expect(
        self, x: np.ndarray, w: np.ndarray, out: np.ndarray, *, products: int, single: int
    ) -> None:
        """A right product, computed so many times, of which so many on one thread."""
        before = self.products, self.single
        out[...] = 0
        assert self.dot(x, w, out) is out
        np.testing.assert_array_equal(out, DOT(x, w))
        assert (self.products - before[0], self.single - before[1]) == (products, single)


ALL, BOTH, SINGLE = (
    {"products": 1, "single": 0},
    {"products": 2, "single": 1},
    {"products": 1, "single": 1},
)


@pytest.fixture
def contention_guard(monkeypatch: pytest.MonkeyPatch) -> Spied:
    return Spied(monkeypatch)


def arrays(rng: np.random.Generator, n: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return rng.standard_normal((n, 40)), rng.standard_normal((40, 30)), np.empty((n, 30))


def test_without_contention_each_product_is_computed_once(
    contention_guard: Spied, rng: np.random.Generator
) -> None:
    for _ in range(2):
        for n in range(1, 20):
            contention_guard.expect(*arrays(rng, n), **ALL)


def test_in_a_pause_a_shape_is_computed_both_ways_once_and_then_on_one_thread(
    contention_guard: Spied, rng: np.random.Generator
) -> None:
    contention_guard._until = np.inf
    for n in (6, 7):
        contention_guard.expect(*arrays(rng, n), **BOTH)
        for _ in range(3):
            contention_guard.expect(*arrays(rng, n), **SINGLE)
    contention_guard._until = 0.0
    contention_guard.expect(*arrays(rng), **ALL)


def test_a_slow_product_sends_the_next_ones_to_one_thread_until_the_pause_is_over(
    contention_guard: Spied, rng: np.random.Generator
) -> None:
    product = arrays(rng)
    contention_guard.LATE = ALWAYS
    contention_guard.expect(*product, **ALL)  # how long it takes is not known before
    assert contention_guard._until == 0.0
    contention_guard.expect(*product, **ALL)  # found slow
    assert contention_guard._until > 0.0
    contention_guard._until += 1000.0
    contention_guard.expect(*product, **BOTH)
    contention_guard.expect(*product, **SINGLE)
    contention_guard._until, contention_guard.LATE = 0.0, NEVER
    contention_guard.expect(*product, **ALL)
    assert contention_guard._until == 0.0


def test_a_product_is_late_by_the_time_that_one_thread_takes_or_would_take_at_most(
    contention_guard: Spied, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads.Blas, "threads", lambda library: 3)
    contention_guard.LATE = 1.0
    for seconds, single, late in [
        (6.9, np.inf, False),  # three threads, 2 s: one takes 6 s at most
        (7.1, np.inf, True),
        (4.9, 4.0, False),
        (5.1, 4.0, True),
        (2.6, 1.5, True),
    ]:
        contention_guard._until = 0.0
        shape = threads._Shape(usual=2.0, single=single)
        contention_guard._judge(shape, 100.0, 100.0 + seconds)
        assert (contention_guard._until > 0.0) is late


def test_pauses_grow_while_the_neighbour_stays_and_shrink_when_it_has_gone(
    contention_guard: Spied, rng: np.random.Generator
) -> None:
    product = arrays(rng)
    contention_guard.dot(*product)
    pauses = []
    for late in [ALWAYS] * 9 + [NEVER] * 9:
        contention_guard.LATE, contention_guard._until = late, 0.0
        contention_guard.dot(*product)
        pauses.append(contention_guard._pause)
    assert pauses[:9] == sorted(pauses[:9])
    assert pauses[8] == contention_guard.LONGEST
    assert pauses[-1] == contention_guard.SHORTEST


def test_a_shape_whose_bits_would_differ_stays_on_all_threads(
    contention_guard: Spied, rng: np.random.Generator
) -> None:
    contention_guard._until = np.inf
    contention_guard.one_thread_rounds_otherwise = True
    contention_guard.expect(*arrays(rng), **BOTH)
    for _ in range(3):
        contention_guard.expect(*arrays(rng), **ALL)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_zeros_and_numbers_that_are_not_finite_prove_nothing(
    value: float, contention_guard: Spied, rng: np.random.Generator
) -> None:
    """They come out alike however they are added up."""
    contention_guard._until = np.inf
    x, w, out = arrays(rng)
    contention_guard.expect(np.full_like(x, value), abs(w), out, **ALL)
    contention_guard.expect(x, w, out, **BOTH)
    contention_guard.expect(x, w, out, **SINGLE)


def test_equal_bits_count_for_the_number_of_threads_that_gave_them(
    contention_guard: Spied, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    contention_guard._until = np.inf
    for count in (2, 3):
        monkeypatch.setattr(threads.Blas, "threads", lambda library, count=count: count)
        contention_guard.expect(*arrays(rng), **BOTH)
        contention_guard.expect(*arrays(rng), **SINGLE)


def test_a_shape_that_has_not_come_for_long_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr(threads.ContentionGuard, "MOST", 8)
    guard = Spied(monkeypatch)
    guard._until = np.inf
    for n in range(1, 9):
        guard.expect(*arrays(rng, n), **BOTH)
    guard.expect(*arrays(rng, 1), **SINGLE)
    guard.expect(*arrays(rng, 9), **BOTH)  # in place of 2, the one that came longest ago
    guard.expect(*arrays(rng, 1), **SINGLE)
    guard.expect(*arrays(rng, 2), **BOTH)


@THREADS
@pytest.mark.parametrize("cell", list(CELLS))
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
        alone: Any = Spied(monkeypatch)
        monkeypatch.setattr("xpcap.ops.host.contention_guard", lambda: alone)
        expected = model.loss(features, captions, workspace=Workspace(model.params.flat))
        assert alone.single == 0
        beside: Any = Spied(monkeypatch)
        monkeypatch.setattr("xpcap.ops.host.contention_guard", lambda: beside)
        beside._until = np.inf
        for _ in range(2):  # the loop's products both ways, then on one thread
            first = beside.single
            got = model.loss(features, captions)
            assert beside.single > first + 20
            assert got[0] == expected[0]
            np.testing.assert_array_equal(got[1].flat, expected[1].flat)
