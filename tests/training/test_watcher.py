"""What watchers are told, in which order, and how one ends training."""

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


def test_watchers_are_told_in_their_order_and_before_functions() -> None:
    told: list[str] = []
    solver = make(
        Notes("a", told),
        Watcher(),  # does nothing
        Notes("b", told),
        num_epochs=1,
        on_step=lambda solver: told.append("on_step"),
        on_epoch=lambda solver: told.append("on_epoch"),
    )
    solver.train()
    assert told[:5] == ["a begin 0", "b begin 0", "a step 1", "b step 1", "on_step"]
    assert told[-3:] == ["a epoch 1", "b epoch 1", "on_epoch"]
    # three batches of training; a validation pauses as well
    assert told.count("b step 3") == told.count("on_step") - 2 > 1


def test_an_epoch_whose_watchers_raised_is_told_to_all_again() -> None:
    told: list[str] = []
    solver = make(Notes("a", told), Notes("b", told, fails=2))
    with pytest.raises(KeyboardInterrupt):
        solver.train()
    solver.train()
    assert [line for line in told if "epoch" in line or "begin" in line] == [
        "a begin 0",
        "b begin 0",
        *("a epoch 1", "b epoch 1", "a epoch 2", "b epoch 2"),
        "a begin 6",
        "b begin 6",
        *("a epoch 2", "b epoch 2", "a epoch 3", "b epoch 3"),
    ]


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
    with refuses(InvalidTypeError, function="CaptioningSolver", thing="`watchers`"):
        CaptioningSolver(None, generate(0, train=2, val=1), watchers=watchers)
