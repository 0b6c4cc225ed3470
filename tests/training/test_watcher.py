"""What watchers are told, in which order, and how one ends training."""

import dataclasses
from typing import Any

import pytest
from refusals import refuses

from xpcap import CaptioningRNN, CaptioningSolver, Watcher, generate
from xpcap.errors import InvalidTypeError


def make(*watchers: Watcher, **options: Any) -> CaptioningSolver:
    data = generate(0, train=6, val=2)
    model = CaptioningRNN(data.vocabulary.word_to_idx, data.feature_dim, 4, 4, "rnn", seed=0)
    settings = {"batch_size": 10, "num_epochs": 3, "seed": 0, "verbose": False, **options}
    return CaptioningSolver(model, data, watchers=watchers, **settings)


class Notes(Watcher):
    """Notes what it is told; `fails` raises at the end of the epoch of that number, once."""

    def __init__(self, name: str, told: list[str], fails: int = 0) -> None:
        self.name, self.told, self.fails = name, told, fails

    def begin(self, solver: CaptioningSolver) -> None:
        self.told.append(f"{self.name} begin {solver.iteration}")

    def step(self, solver: CaptioningSolver) -> None:
        self.told.append(f"{self.name} step {solver.iteration}")

    def epoch(self, solver: CaptioningSolver) -> None:
        self.told.append(f"{self.name} epoch {solver.epoch}")
        if solver.epoch == self.fails:
            self.fails = 0
            raise KeyboardInterrupt


class StopAfter(Watcher):
    def __init__(self, epoch: int) -> None:
        self._last = epoch

    def epoch(self, solver: CaptioningSolver) -> None:
        if solver.epoch == self._last:
            solver.stop("enough")


def test_watchers_are_told_in_their_order_once_also_by_a_solver_made_of_another() -> None:
    told: list[str] = []
    watchers = Notes("a", told), Watcher(), Notes("b", told)
    dataclasses.replace(make(*watchers), num_epochs=1).train()
    assert told[:4] == ["a begin 0", "b begin 0", "a step 1", "b step 1"]
    assert told[-2:] == ["a epoch 1", "b epoch 1"]
    # three batches of training, and two of validation
    assert [told.count(f"b step {step}") for step in (1, 2, 3)] == [1, 1, 3]


@pytest.mark.parametrize("epoch", [2, 3])
def test_an_epoch_whose_watchers_raised_is_told_to_all_again_and_none_is_added(epoch: int) -> None:
    told: list[str] = []
    solver = make(Notes("a", told), Notes("b", told, fails=epoch))
    with pytest.raises(KeyboardInterrupt):
        solver.train()
    solver.train()
    assert [line for line in told if "step" not in line] == [
        *("a begin 0", "b begin 0"),
        *(f"{name} epoch {k}" for k in range(1, epoch + 1) for name in "ab"),
        *(f"{name} begin {3 * epoch}" for name in "ab"),
        *(f"{name} epoch {k}" for k in range(epoch, 4) for name in "ab"),
    ]
    solver.train()
    assert solver.epoch == 6


def test_a_watcher_ends_training_after_an_epoch_and_a_second_call_takes_the_epochs_left() -> None:
    solver, whole = make(StopAfter(1)), make()
    solver.train()
    assert (solver.epoch, solver.finished, solver.ending) == (1, True, "enough")
    solver.train()
    assert (solver.epoch, solver.ending) == (3, None)
    whole.train()
    assert solver.loss_history == whole.loss_history


def test_a_stop_at_the_beginning_leaves_no_step_to_take() -> None:
    class Never(Watcher):
        def begin(self, solver: CaptioningSolver) -> None:
            solver.stop("not today")

    solver = make(Never())
    solver.train()
    assert (solver.iteration, solver.ending) == (0, "not today")


@pytest.mark.parametrize("watchers", [Watcher(), [Watcher], [Watcher(), print], 3])
def test_what_is_no_list_of_watchers_is_refused(watchers: Any) -> None:
    with refuses(InvalidTypeError, "`watchers`"):
        CaptioningSolver(None, generate(0, train=2, val=1), watchers=watchers)
