"""Products beside a busy neighbour: noticed by their time, taken on one thread for a while, with
the same bits.
"""

import contextlib
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from xpcap import CaptioningRNN, threads
from xpcap.layers import CELLS, Pointwise
from xpcap.memory import Workspace
from xpcap.threads import blas, cores

pytestmark = pytest.mark.threads
THREADS = pytest.mark.skipif(
    cores() < 2, reason="BLAS has one thread here: there is nothing to choose"
)
DOT = np.dot


class Spied(threads.ContentionGuard):
    """Counts its products, and those on one thread. A clock of its own goes on with each product, by
    the seconds that are set.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.single = self.products = 0
        self.now = self.seconds = self.seconds_alone = 0.0
        self.one_thread_rounds_otherwise = self.alone = False
        whole = threads.Blas.on_one_thread

        @contextlib.contextmanager
        def counted(library: threads.Blas) -> Iterator[None]:
            self.single += 1
            self.alone = True
            with whole(library):
                yield
            self.alone = False

        def dot(x: np.ndarray, w: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
            self.products += 1
            self.now += self.seconds_alone if self.alone else self.seconds
            otherwise = self.one_thread_rounds_otherwise and out is None
            return DOT(x, w, out=out) + 1e-9 if otherwise else DOT(x, w, out=out)

        clock = SimpleNamespace(**{**vars(time), "perf_counter": lambda: self.now})
        monkeypatch.setattr(threads, "time", clock)
        monkeypatch.setattr(threads.Blas, "on_one_thread", counted)
        monkeypatch.setattr(threads.np, "dot", dot)

    def contend(self) -> None:
        """Begin a pause by products of another shape, the second of them late."""
        product = np.ones((2, 2)), np.ones((2, 2)), np.empty((2, 2))
        self.seconds = 0.0
        self.dot(*product)
        self.seconds = 1000.0
        self.dot(*product)
        self.seconds = 0.0

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
    contention_guard.contend()
    for n in (6, 7):
        contention_guard.expect(*arrays(rng, n), **BOTH)
        for _ in range(3):
            contention_guard.expect(*arrays(rng, n), **SINGLE)


def test_a_slow_product_sends_the_next_ones_to_one_thread_until_the_pause_is_over(
    contention_guard: Spied, rng: np.random.Generator
) -> None:
    product = arrays(rng)
    contention_guard.seconds = 1.0
    contention_guard.expect(*product, **ALL)  # how long it takes is not known before
    contention_guard.expect(*product, **ALL)
    contention_guard.seconds = 1000.0
    contention_guard.expect(*product, **ALL)  # found slow
    contention_guard.seconds = 0.0
    contention_guard.expect(*product, **BOTH)
    contention_guard.expect(*product, **SINGLE)
    contention_guard.now += contention_guard.MAX_PAUSE
    for _ in range(2):
        contention_guard.expect(*product, **ALL)


@pytest.mark.parametrize(
    ("seconds", "alone", "late"),
    [
        (6.9, None, False),  # three threads, 2 s: one takes 6 s at most
        (7.1, None, True),
        (4.9, 4.0, False),
        (5.1, 4.0, True),
        (2.6, 1.5, True),
    ],
)
def test_a_product_is_late_by_the_time_that_one_thread_takes_or_would_take_at_most(
    seconds: float,
    alone: float | None,
    late: bool,
    contention_guard: Spied,
    monkeypatch: pytest.MonkeyPatch,
    rng: np.random.Generator,
) -> None:
    monkeypatch.setattr(threads.Blas, "threads", lambda library: 3)
    contention_guard.LATE, product = 1.0, arrays(rng)
    if alone is not None:
        contention_guard.contend()
        contention_guard.seconds_alone = alone
        contention_guard.expect(*product, **BOTH)
        contention_guard.now += contention_guard.MAX_PAUSE
    for contention_guard.seconds in (2.0, seconds):  # what is usual, then this one
        contention_guard.expect(*product, **ALL)
    known = SINGLE if alone else BOTH
    contention_guard.expect(*product, **known if late else ALL)


def test_pauses_grow_while_the_neighbour_stays_and_shrink_when_it_has_gone(
    contention_guard: Spied, rng: np.random.Generator
) -> None:
    product, pause = arrays(rng), contention_guard.MIN_PAUSE
    contention_guard.expect(*product, **ALL)

    def expect_a_pause(first: dict[str, int]) -> None:
        contention_guard.seconds = 1000.0
        contention_guard.expect(*product, **ALL)
        contention_guard.seconds = 0.0
        contention_guard.now += 0.99 * pause
        contention_guard.expect(*product, **first)
        contention_guard.now += 0.02 * pause

    expect_a_pause(BOTH)
    for _ in range(8):
        pause = min(2 * pause, contention_guard.MAX_PAUSE)
        expect_a_pause(SINGLE)
    assert pause == contention_guard.MAX_PAUSE
    for _ in range(9):
        contention_guard.expect(*product, **ALL)
    pause = contention_guard.MIN_PAUSE
    expect_a_pause(SINGLE)
    contention_guard.expect(*product, **ALL)


def test_a_shape_whose_bits_would_differ_stays_on_all_threads(
    contention_guard: Spied, rng: np.random.Generator
) -> None:
    contention_guard.contend()
    contention_guard.one_thread_rounds_otherwise = True
    contention_guard.expect(*arrays(rng), **BOTH)
    for _ in range(3):
        contention_guard.expect(*arrays(rng), **ALL)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_zeros_and_numbers_that_are_not_finite_prove_nothing(
    value: float, contention_guard: Spied, rng: np.random.Generator
) -> None:
    """They come out alike however they are added up."""
    contention_guard.contend()
    x, w, out = arrays(rng)
    contention_guard.expect(np.full_like(x, value), abs(w), out, **ALL)
    contention_guard.expect(x, w, out, **BOTH)
    contention_guard.expect(x, w, out, **SINGLE)


def test_equal_bits_count_for_the_number_of_threads_that_gave_them(
    contention_guard: Spied, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    contention_guard.contend()
    for count in (2, 3):
        monkeypatch.setattr(threads.Blas, "threads", lambda library, count=count: count)
        contention_guard.expect(*arrays(rng), **BOTH)
        contention_guard.expect(*arrays(rng), **SINGLE)


def test_a_shape_that_has_not_come_for_long_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr(threads.ContentionGuard, "MAX_SHAPES", 8)
    guard = Spied(monkeypatch)
    guard.contend()
    for n in range(1, 9):
        guard.expect(*arrays(rng, n), **BOTH)
    guard.expect(*arrays(rng, 1), **SINGLE)
    guard.expect(*arrays(rng, 9), **BOTH)  # in place of 2, the one that came longest ago
    guard.expect(*arrays(rng, 1), **SINGLE)
    guard.expect(*arrays(rng, 2), **BOTH)


@THREADS
@pytest.mark.parametrize(
    "cell", [name for name, cell in CELLS.items() if isinstance(cell, Pointwise)]
)
def test_a_step_beside_a_neighbour_has_the_bits_of_a_step_alone(
    cell: str, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    words = {"<NULL>": 0, "<START>": 1, "<END>": 2, **{f"w{i}": i for i in range(3, 300)}}
    model = CaptioningRNN(words, 80, 64, 96, cell, np.float32, seed=0)
    features, captions = (
        rng.standard_normal((30, 80), dtype=np.float32),
        rng.integers(0, 300, (30, 12)),
    )
    monkeypatch.setattr(blas(), "has_small_kernels", False)  # a guarded loop needs two threads
    with threadpool_limits(2, "blas"):
        alone: Any = Spied(monkeypatch)
        monkeypatch.setattr("xpcap.ops.host.contention_guard", lambda: alone)
        expected = model.loss(features, captions, workspace=Workspace(model.params.flat))
        assert alone.single == 0
        beside: Any = Spied(monkeypatch)
        monkeypatch.setattr("xpcap.ops.host.contention_guard", lambda: beside)
        beside.contend()
        for _ in range(2):  # the loop's products both ways, then on one thread
            first = beside.single
            got = model.loss(features, captions)
            assert beside.single > first + 20
            assert got[0] == expected[0]
            np.testing.assert_array_equal(got[1].flat, expected[1].flat)
