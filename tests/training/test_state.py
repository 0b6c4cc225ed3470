"""Files of a training state: what is written is read, and damage is named."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import refuses
from update_rules import ROW_ADAGRAD, RULES

from xpcap import CaptionData, CaptioningRNN, CaptioningSolver, Watcher, optim
from xpcap.data.features import FeatureScaling
from xpcap.data.synthetic import draw_data
from xpcap.errors import DataError
from xpcap.files.safetensors_file import read_tensors, write_tensors
from xpcap.optim import UpdateRule
from xpcap.runs.folder import load_state, save_state
from xpcap.training import CrossEntropy, SelfCritical

DATA = draw_data(12, 6, 20, seed=0)


def make(rule: str | UpdateRule, data: CaptionData = DATA, **options: Any) -> CaptioningSolver:
    model = CaptioningRNN(DATA.vocabulary.word_to_idx, 6, 5, 7, "lstm", seed=0)
    settings = {"batch_size": 7, "num_epochs": 3, "seed": 0, "clip_norm": 5.0, "verbose": False}
    return CaptioningSolver(model, data, update_rule=rule, **{**settings, **options})


class Own(CrossEntropy):
    """An objective with a figure of its own, of NumPy's."""

    def figures(self, mean_loss: float) -> dict[str, float]:
        return {"train_elbo": np.float32(mean_loss)}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("rule", "objective"),
    [
        *((rule, None) for rule in RULES.values()),
        (ROW_ADAGRAD, Own()),
        (optim.RULES["adam"], SelfCritical(DATA, samples=2)),
    ],
    ids=lambda x: getattr(x, "name", type(x).__name__),
)
def test_a_state_is_read_as_it_was_written(rule: Any, objective: Any, tmp_path: Path) -> None:
    """Of any rule and objective, with NumPy's numbers among the options, and a rate that is absurd."""
    numbers = {"batch_size": np.int64(7), "num_epochs": np.int32(1), "clip_norm": np.float32(5)}
    solver = make(rule, objective=objective, **numbers)
    solver.train()
    solver.learning_rate = 1e20
    save_state(tmp_path / "state", solver.state())
    own = None if rule.name in optim.RULES else rule
    read = load_state(tmp_path / "state", solver.model.params.shapes, rule=own)
    save_state(tmp_path / "again", read)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "state").read_bytes()


@pytest.mark.parametrize(
    ("given", "thing"),
    [
        ({"vocabulary": 5}, "`vocabulary`"),
        ({"vocabulary": None}, "`vocabulary`"),
        ({"scaling": FeatureScaling(np.ones(6, np.float32), None)}, "scaling"),
        ({"scaling": FeatureScaling(None, np.ones(6, np.float32))}, "scaling"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(
    given: dict[str, Any], thing: str, tmp_path: Path
) -> None:
    with refuses(ValueError, thing):
        save_state(tmp_path / "state", make("sgd").state(), **given)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("epochs", "options", "got"),
    [
        (1, {"select": "loss"}, "['val_cider', 'val_distinct', 'val_length'], and this solver []"),
        (0, {"select": "loss"}, "['val_cider', 'val_distinct', 'val_length'], and this solver []"),
        (
            1,
            {"objective": SelfCritical(DATA, samples=2)},
            "['train_loss'], and this solver ['train_reward']",
        ),
    ],
)
def test_a_state_of_other_figures_is_refused_before_training(
    epochs: int, options: dict[str, Any], got: str
) -> None:
    """Records of both kinds could not be compared, nor be read from a file."""
    data = replace(DATA, splits={**DATA.splits, "val": DATA.split("train")})
    solver = make("adam", data, select="cider", num_epochs=1)
    solver.score_start()
    if epochs:
        solver.train()
    got = f"unmatched figures {got}"
    with refuses(DataError, got, "the same"):
        make("adam", data, **{"select": "cider", **options}).restore(solver.state())
    make("adam", data, select="last").restore(solver.state())


@pytest.mark.parametrize("replacement", [False, True])
def test_steps_outside_an_epoch_go_through_a_file(replacement: bool, tmp_path: Path) -> None:
    """Even more than an epoch has; a linear rate does not fall by them."""
    solver, resumed = (make("adam", lr_decay="linear", replacement=replacement) for _ in range(2))
    taken = solver.steps_per_epoch + 1
    for _ in range(taken):
        solver.train_batch(np.arange(6))
    save_state(tmp_path / "state", solver.state())
    resumed.restore(load_state(tmp_path / "state", solver.model.params.shapes))
    for each in (solver, resumed):
        each.train_batch(np.arange(6, 12))
    assert resumed.learning_rate == solver.learning_rate == 1e-3
    np.testing.assert_array_equal(resumed.model.params.flat, solver.model.params.flat)
    odd = solver.state()
    odd.meta["position"] = taken + 2
    save_state(tmp_path / "state", odd)
    with refuses(DataError, f"position {taken + 2}"):
        load_state(tmp_path / "state", solver.model.params.shapes)


SPOILT: dict[str, tuple[Callable[[np.ndarray], np.ndarray | None], str]] = {  # change, what came
    "missing": (lambda x: None, "lacks"),
    "longer": (lambda x: np.concatenate([np.atleast_1d(x)] * 2), "shape"),
    "float64": (lambda x: x.astype("f8"), "float64"),
    "infinite": (lambda x: x + np.float32(np.inf), "inf"),
    "negative": (lambda x: -x - 1, "down to -"),  # of means of squares
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_spoilt_array_of_a_rule_is_refused_by_its_name(rule: UpdateRule, tmp_path: Path) -> None:
    solver = make(rule)
    solver.step(*DATA.minibatch("train", np.arange(9)))
    shapes = solver.model.params.shapes
    save_state(tmp_path / "good", solver.state())
    good, meta = read_tensors(tmp_path / "good")
    names = {f"moments.{key}.{name}": key for key in rule.state for name in ("Wx", "b")}
    for name, (change, got) in itertools.product(names.keys() & good.keys(), SPOILT.values()):
        if got == "down to -" and names[name] not in rule.squares:
            continue
        changed = change(good[name])
        others = {key: x for key, x in good.items() if key != name}
        tensors = others if changed is None else {**others, name: changed}
        write_tensors(tmp_path / "bad", tensors, meta)
        with refuses(DataError, got) as caught:
            load_state(tmp_path / "bad", shapes, rule=rule)
        assert name in str(caught.value)
    write_tensors(tmp_path / "bad", {**good, "moments.u.Wx": good["params.Wx"]}, meta)
    with refuses(DataError, "holds moments.u.Wx"):
        load_state(tmp_path / "bad", shapes, rule=rule)


def test_a_state_of_a_rule_of_ones_own_wants_that_rule(tmp_path: Path) -> None:
    solver, other = make(ROW_ADAGRAD), make("adam")
    solver.train()
    save_state(tmp_path / "own", solver.state())
    with refuses(DataError, "update rule", "'row_adagrad'", "adam"):
        load_state(tmp_path / "own", solver.model.params.shapes)
    with refuses(DataError, "update rule row_adagrad, and this solver adam"):
        other.restore(solver.state())
    assert set(solver.optim_configs["Wx"]) == {"learning_rate", "t", "row"}
    assert set(solver.optim_configs["b"]) == {"learning_rate", "t", "v"}


def train(solver: CaptioningSolver) -> None:
    solver.train()


def step(solver: CaptioningSolver) -> None:
    """One that is not recorded."""
    solver.step(*DATA.minibatch("train", np.arange(5)))


def score(solver: CaptioningSolver) -> None:
    solver.score_start()
    solver.learning_rate = 0.3  # at which it overshoots
    solver.require_gain(0.01)


def set_three_epochs(solver: CaptioningSolver) -> None:
    solver.num_epochs = 3


def set_rate(solver: CaptioningSolver) -> None:
    solver.learning_rate = 3e-3


class OneEpoch(Watcher):
    def epoch(self, solver: CaptioningSolver) -> None:
        if solver.epoch == 1:
            solver.stop("enough")


VALIDATED = replace(DATA, splits={**DATA.splits, "val": DATA.split("train")})
WAYS_TO_TRAIN: dict[str, tuple[dict[str, Any], list[Callable[[CaptioningSolver], None]]]] = {
    "dropout": ({}, [train]),
    "steps of one's own": ({}, [step, step, train, step]),
    "replacement": ({"replacement": True}, [train]),
    "a second training": ({"lr_decay": "linear"}, [train, train]),
    "a rate that was set": ({"lr_decay": "linear"}, [set_rate, train, train]),
    "more epochs": ({"lr_decay": "linear"}, [train, set_three_epochs, train]),
    "stop": ({"lr_decay": "linear", "watchers": [OneEpoch()]}, [train, train]),
    "score": ({"select": "cider", "patience": 1, "lr_decay": 0.5}, [score, train, train]),
}


@pytest.mark.parametrize("way", WAYS_TO_TRAIN)
def test_a_training_goes_on_from_each_of_its_states(way: str, tmp_path: Path) -> None:
    """In a solver made alike, of a model that draws weights and masks from NumPy's stream."""
    options, calls = WAYS_TO_TRAIN[way]
    states: list[tuple[Any, ...]] = []

    def of_dropout(**others: Any) -> CaptioningSolver:
        model = CaptioningRNN(DATA.vocabulary.word_to_idx, 6, 5, 7, "lstm", dropout=0.5)
        settings = {"update_rule": "adam", "batch_size": 7, "num_epochs": 2, "seed": 0}
        settings |= {"verbose": False, **options, **others}
        return CaptioningSolver(model, VALIDATED, **settings)

    def outcome(solver: CaptioningSolver, calls: list[Any]) -> tuple[bytes, ...]:
        for call in calls:
            call(solver)
        save_state(tmp_path / "state", solver.state())
        best = (x.tobytes() for x in solver.best_params.values())
        return (tmp_path / "state").read_bytes(), *best

    def keep(solver: CaptioningSolver, done: int) -> None:
        best = solver.best_params and solver.best_params.copy()
        states.append((solver.state(), best, solver.num_epochs, calls[done:]))

    class Keeper(Watcher):
        def step(self, solver: CaptioningSolver) -> None:
            keep(solver, done)

        def epoch(self, solver: CaptioningSolver) -> None:
            keep(solver, done + solver.finished)

    whole = of_dropout(watchers=[*options.get("watchers", ()), Keeper()])
    for done, call in enumerate(calls):
        call(whole)
        keep(whole, done + 1)
    expected = outcome(whole, [])
    for state, best, epochs, others in states:
        resumed = of_dropout(num_epochs=epochs)
        resumed.restore(state, best_params=best or None)
        equal = outcome(resumed, others) == expected
        assert equal, f"from iteration {state.iteration}"
