"""The solver: epochs, validation, best parameters, seeds, interrupts, its options, and what it
shares with the course's.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import Refusal, refusals, refuses

pytest.importorskip("PIL")  # generated pictures

from xpcap import CaptioningRNN, CaptioningSolver, optim, to_numpy
from xpcap.data.features import FeatureScaling, fit_scaling
from xpcap.distributed import Group
from xpcap.drawings import generate
from xpcap.errors import DataError, OptionError, TrainingError
from xpcap.metrics import CiderD
from xpcap.models import Batch, FeatureRows
from xpcap.runs.folder import load_state, save_state
from xpcap.training import CrossEntropy, SelfCritical, Watcher, teacher_forced
from xpcap.training.solver import BUILT_IN
from xpcap.training.state import best_of

DATA = generate(seed=3, train=40, val=12)
DATA.scaling = fit_scaling("standardize", DATA.split("train").features)
DATA_UNSCALED = replace(DATA, scaling=FeatureScaling())
COURSE = {
    **{f"{name}_captions": split.captions for name, split in DATA.splits.items()},
    **{f"{name}_image_idxs": split.image_idxs for name, split in DATA.splits.items()},
    **{f"{name}_features": DATA.scaling(split.features) for name, split in DATA.splits.items()},
    "idx_to_word": DATA.vocabulary.idx_to_word,
    "word_to_idx": DATA.vocabulary.word_to_idx,
}


def make(data: Any = DATA, dropout: float = 0.2, **options: Any) -> CaptioningSolver:
    words, size = DATA.vocabulary.word_to_idx, DATA.feature_dim
    model = CaptioningRNN(words, size, 12, 16, "lstm", dropout=dropout, seed=1)
    settings = {"update_rule": "adam", "optim_config": {"learning_rate": 1e-2}, "seed": 2}
    settings |= {"num_epochs": 3, "batch_size": 48, "verbose": False}
    return CaptioningSolver(model, data, **{**settings, **options})


def trained(*args: Any, **options: Any) -> CaptioningSolver:
    solver = make(*args, **options)
    solver.train()
    return solver


def test_an_epoch_visits_every_caption_once_and_in_another_order_each_time() -> None:
    seen: list[np.ndarray] = []

    def objective(model: Any, batch: Batch, workspace: Any) -> Any:
        assert batch.pictures is not None
        np.testing.assert_array_equal(batch.features, DATA.features("train", batch.pictures))
        seen.append(np.concatenate((batch.features[:, :3], batch.captions), axis=1))
        return CrossEntropy().loss(model, batch, workspace)

    solver = trained(objective=objective)
    assert len(seen) == len(solver.loss_history) == 3 * 5  # 200 captions by 48
    epochs = [np.concatenate(seen[k : k + 5]) for k in (0, 5, 10)]
    features, captions = DATA.minibatch("train", captions=np.arange(200))
    everything = np.concatenate((features[:, :3], captions), axis=1)
    for epoch in epochs:
        assert (epoch != everything).any()
        np.testing.assert_array_equal(np.sort(epoch, axis=0), np.sort(everything, axis=0))
    assert (epochs[0] != epochs[1]).any()


TRAIN = DATA_UNSCALED.split("train")
# of each picture the features and their negatives
BOTH = replace(TRAIN, features=np.concatenate([TRAIN.features, -TRAIN.features]), views=2)
VIEWS = replace(DATA_UNSCALED, splits={**DATA.splits, "train": BOTH})


def test_each_caption_gets_one_of_the_views_of_its_picture_by_seed_and_step(lib: Any) -> None:
    seen: list[np.ndarray] = []

    def objective(model: Any, batch: Batch, workspace: Any) -> Any:
        rows = batch.features
        taken = to_numpy(rows.gather()) if isinstance(rows, FeatureRows) else rows
        pictures = TRAIN.features[batch.pictures]
        signs = np.sign((taken * pictures).sum(axis=1))
        np.testing.assert_allclose(taken, signs[:, None] * pictures, rtol=1e-6)
        seen.append(signs)
        return CrossEntropy().loss(model, batch, workspace)

    for _ in range(2):
        solver = make(VIEWS, objective=objective)
        for _ in range(2):
            solver.train_batch(np.arange(200))
    first, second, *again = seen
    np.testing.assert_array_equal([first, second], again)
    assert 0.4 < (first > 0).mean() < 0.6
    assert (first != second).any()


def test_accuracy_after_an_epoch_is_that_of_the_pictures_as_they_are() -> None:
    solver = trained(VIEWS, num_epochs=1)
    judged = teacher_forced(solver.model, DATA_UNSCALED, "train", captions=np.arange(200))
    assert solver.history[0]["train_accuracy"] == pytest.approx(judged.accuracy)


def test_training_lowers_the_loss_and_records_each_epoch() -> None:
    solver = trained(num_epochs=8)
    assert solver.loss_history[-1] < 0.8 * solver.loss_history[0]
    assert [record["epoch"] for record in solver.history] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert len(solver.val_acc_history) == len(solver.train_acc_history) == 8
    last, val = solver.history[-1], DATA.minibatch("val", np.arange(60))
    score = solver.model.score(*val)
    perplexity = np.exp(float(score.nll) / score.tokens)
    assert last["val_loss"] == pytest.approx(float(score.nll) / 60, rel=1e-5)
    assert last["val_perplexity"] == pytest.approx(perplexity, rel=1e-5)
    assert last["val_accuracy"] == pytest.approx(solver.check_accuracy(*val))
    assert last["train_loss"] == pytest.approx(np.mean(solver.loss_history[-5:]))


def test_the_plain_dict_of_the_course_trains_alike() -> None:
    ours, course = trained(dropout=0.0), trained(COURSE, dropout=0.0)
    np.testing.assert_allclose(course.loss_history, ours.loss_history, rtol=1e-6)
    assert course.history[-1]["val_loss"] == pytest.approx(ours.history[-1]["val_loss"], rel=1e-5)


def test_equal_seeds_give_equal_bits_and_others_do_not() -> None:
    first, again, other = (trained(seed=seed) for seed in (2, 2, 3))
    np.testing.assert_array_equal(first.model.params.flat, again.model.params.flat)
    assert first.loss_history == again.loss_history != other.loss_history


def test_without_a_seed_the_order_comes_from_the_legacy_stream() -> None:
    losses = []
    for state in (1, 1, 2):
        np.random.seed(state)
        losses.append(trained(seed=None, num_epochs=1, dropout=0.0).loss_history)
    assert losses[0] == losses[1] != losses[2]


def exercise(cell: str) -> tuple[CaptioningRNN, dict[str, np.ndarray]]:
    """The course's model and 50 captions drawn, each from NumPy's global stream."""
    drawn = np.random.randint(len(COURSE["train_captions"]), size=50)
    few = {key: COURSE[key][drawn] for key in ("train_captions", "train_image_idxs")}
    return CaptioningRNN(DATA.vocabulary.word_to_idx, DATA.feature_dim, 12, 16, cell), few


def course_losses(cell: str, batch_size: int, epochs: int) -> list[float]:
    """Losses of the course's solver, whose batches are drawn with replacement."""
    model, few = exercise(cell)
    captions, features = few["train_captions"], COURSE["train_features"][few["train_image_idxs"]]
    configs: dict[str, Any] = {name: {"learning_rate": 5e-3} for name in model.params}
    losses, steps = [], max(50 // batch_size, 1)
    for t in range(epochs * steps):
        chosen = np.random.choice(50, batch_size)
        loss, grads = model.loss(features[chosen], captions[chosen])
        losses.append(float(loss))
        for name, w in model.params.items():
            model.params[name], configs[name] = optim.adam(w, grads[name], configs[name])
            if (t + 1) % steps == 0:
                configs[name]["learning_rate"] *= 0.9
    return losses


@pytest.mark.parametrize(("cell", "batch_size"), [("rnn", 16), ("lstm", 60)])
def test_with_replacement_the_courses_losses_come_of_its_seed(cell: str, batch_size: int) -> None:
    """An epoch has as many steps as there are whole batches, at least one; and what is drawn next
    is the course's as well.
    """
    np.random.seed(231)
    expected, after = course_losses(cell, batch_size, epochs=4), np.random.rand()
    np.random.seed(231)
    model, few = exercise(cell)
    settings = {"update_rule": "adam", "optim_config": {"learning_rate": 5e-3}, "lr_decay": 0.9}
    settings |= {"batch_size": batch_size, "num_epochs": 2, "verbose": False}
    solver = CaptioningSolver(model, {**COURSE, **few}, replacement=True, **settings)
    for _ in range(2):
        solver.train()
    assert len(expected) == 4 * max(50 // batch_size, 1)
    np.testing.assert_allclose(solver.loss_history, expected, rtol=1e-4)
    assert np.random.rand() == after


def test_with_replacement_and_a_seed_a_state_goes_through_a_file(tmp_path: Path) -> None:
    """Within an epoch, and NumPy's global stream is left alone."""
    before = np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    watcher, path = Watcher(), tmp_path / "state"
    watcher.step = interrupted(watcher.step, 2)  # type: ignore[method-assign]
    solver = make(replacement=True, watchers=[watcher])
    shapes = solver.model.params.shapes
    with pytest.raises(KeyboardInterrupt):
        solver.train()
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # type: ignore[index]
    save_state(path, solver.state())
    state = load_state(path, shapes)
    assert (state.meta["replacement"], state.meta["position"]) == (True, 2)
    assert "order" not in state.arrays
    with refuses(DataError, "replacement True, and this solver False"):
        make().restore(state)
    state.meta["position"] = 5  # an epoch has 200 // 48
    save_state(path, state)
    with refuses(DataError, "position 5 in 200 captions by 48"):
        load_state(path, shapes)


def test_a_perplexity_as_large_as_evaluation_gives_goes_through_a_file(tmp_path: Path) -> None:
    """That of a loss of 700 or more a word: training has diverged, and may still go on."""
    solver = trained(num_epochs=1)
    state = solver.state()
    state.records[0]["val_perplexity"] = math.exp(700)
    save_state(tmp_path / "state.safetensors", state)
    again = load_state(tmp_path / "state.safetensors", solver.model.params.shapes)
    assert again.records == state.records


def test_train_called_again_goes_on_as_one_longer_training_would() -> None:
    twice, once = trained(num_epochs=2, lr_decay=0.5), trained(num_epochs=4, lr_decay=0.5)
    twice.train()
    assert twice.loss_history == once.loss_history
    assert [record["learning_rate"] for record in once.history] == [1e-2, 5e-3, 2.5e-3, 1.25e-3]


def interrupted(function: Callable[..., Any], at: int) -> Callable[..., Any]:
    """The function, interrupted at its call number `at`."""
    calls = 0

    def run(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    return run


@pytest.mark.parametrize("name", ["sgd_momentum", "adam"])
def test_an_interrupted_step_is_tried_again_with_the_same_dropout_masks(name: str) -> None:
    """Interrupted once its gradients are there, in the second epoch; Adam has not counted it."""
    rule = optim.RULES[name]
    rule = replace(rule, update=interrupted(rule.update, 8))
    solver, whole = make(update_rule=rule), make(update_rule=name)
    with pytest.raises(KeyboardInterrupt):
        solver.train()
    assert (solver.epoch, solver.iteration) == (1, 7)
    solver.train()
    whole.train()
    assert solver.loss_history == whole.loss_history
    np.testing.assert_array_equal(solver.model.params.flat, whole.model.params.flat)
    assert solver.optim_configs["Wx"].get("t") == whole.optim_configs["Wx"].get("t")


def test_an_interrupted_validation_is_repeated() -> None:
    watcher = Watcher()
    watcher.step = interrupted(watcher.step, 2 * (5 + 2))  # after all steps of the second epoch
    solver, whole = make(lr_decay=0.5, watchers=[watcher]), make(lr_decay=0.5)
    with pytest.raises(KeyboardInterrupt):
        solver.train()
    assert (solver.epoch, solver.iteration) == (1, 10)
    solver.train()
    whole.train()
    assert solver.history == whole.history
    assert solver.loss_history == whole.loss_history
    assert solver.best_epoch == whole.best_epoch


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_loss_that_is_not_finite_ends_training_and_keeps_what_was_good() -> None:
    solver = trained(num_epochs=2)
    history, best = list(solver.history), solver.best_params["Wh"].copy()
    solver.model.params["Wx"][0, 0] = np.nan
    got = "iteration 11 has loss nan and a gradient of norm nan; before it"
    with refuses(TrainingError, got):
        solver.train()
    assert solver.history == history
    np.testing.assert_array_equal(solver.best_params["Wh"], best)
    solver.model.params = solver.best_params
    solver.train()  # once it is mended it goes on
    assert np.isfinite(solver.history[-1]["train_loss"])


@pytest.mark.parametrize("clip_norm", [None, 50.0])
def test_one_nan_in_a_gradient_is_named_alone_and_its_parameters_are_not_the_best(
    clip_norm: float | None,
) -> None:
    def objective(model: Any, batch: Batch, workspace: Any) -> Any:
        loss, grads = CrossEntropy().loss(model, batch, workspace)
        if solver.iteration == 6:
            grads["Wh"][0, 0] = np.nan
        return loss, grads

    solver = make(objective=objective, clip_norm=clip_norm)
    with refuses(TrainingError, "the gradients of Wh are not finite"):
        solver.train()
    assert (solver.best_epoch, solver.iteration, solver.state().is_best) == (1, 6, False)


def test_a_step_without_a_finite_loss_changes_nothing(tmp_path: Path) -> None:
    """Neither the epoch under way, nor the masks of the next step."""
    failing = False

    def objective(model: Any, batch: Batch, workspace: Any) -> Any:
        loss, grads = CrossEntropy().loss(model, batch, workspace)
        return (np.float32(np.nan) if failing else loss), grads

    watcher = Watcher()
    watcher.step = interrupted(watcher.step, 3)  # type: ignore[method-assign]
    solver = make(objective=objective, watchers=[watcher])
    with pytest.raises(KeyboardInterrupt):
        solver.train()
    save_state(tmp_path / "before", solver.state())
    failing, (features, captions) = True, DATA.minibatch("train", np.arange(20))
    with refuses(TrainingError, "has loss nan"):
        solver.step(features, captions)
    features = features.copy()
    features[2, 3] = np.nan
    with refuses(ValueError, "features of row 2 (of 20)", "hold nan at column 3"):
        solver.step(features, captions)
    save_state(tmp_path / "after", solver.state())
    assert (tmp_path / "after").read_bytes() == (tmp_path / "before").read_bytes()


def test_a_solver_names_split_and_picture_of_features_that_are_not_finite() -> None:
    val = DATA.split("val")
    features = val.features.copy()
    features[7, 5] = np.inf
    broken = replace(DATA, splits={**DATA.splits, "val": replace(val, features=features)})
    picture = f"the feature of '{val.images[7]}' (1 of 1)"
    with refuses(DataError, "split 'val'", picture, "is not finite"):
        make(broken)
    with refuses(ValueError, "features of row 7 (of 12)"):
        fit_scaling("standardize", features)


def test_a_share_of_a_minibatch_of_ones_own_is_that_of_one_rank() -> None:
    """The two shares add up to the step of a single process."""

    class Twice(Group):
        size = 2

        def __init__(self, rank: int) -> None:
            self.rank, self.sums = rank, []

        def all_reduce(self, flat: Any) -> None:
            self.sums.append(flat.copy())

    features, captions = DATA.minibatch("train", np.arange(9))
    groups = [Twice(rank) for rank in range(2)]
    for group in groups:
        make(group=group).step(features, captions)
    alone = make()
    loss, grads = alone.model.loss(features, captions, step=0)
    sums = zip(*(group.sums for group in groups), strict=True)
    for expected, shares in zip((grads.flat, [loss]), sums, strict=True):
        np.testing.assert_allclose(sum(shares), expected, rtol=1e-5, atol=1e-6)
        assert all(share.any() for share in shares)
    with refuses(ValueError, "features", "(9, "):
        make(group=groups[0]).step(features, captions[:8])


class Visiting(CrossEntropy):
    def __init__(self, captions: Any) -> None:
        super().__init__()
        self.captions = np.asarray(captions)

    def epoch_indices(self, data: Any) -> Any:
        return self.captions


class Telling(CrossEntropy):
    def __init__(self, **figures: Any) -> None:
        super().__init__()
        self.told = figures

    def figures(self, mean_loss: float) -> dict[str, float]:
        return self.told


class Varying(CrossEntropy):
    epochs = 0

    def figures(self, mean_loss: float) -> dict[str, float]:
        self.epochs += 1
        return {f"train_{self.epochs}": mean_loss}


@refusals(
    """
    make(objective="self-critical") | TypeError | objective | is 'self-critical' | a function of (model, batch, workspace)
    make(objective=lambda model, batch: None) | TypeError | cannot be called with (model, batch, workspace): too many
    make(objective=SelfCritical(DATA, group=Group())) | OptionError | `objective` | has a group of 1 | the solver's, of 1
    make(objective=Visiting([])) | ValueError | the result | is empty
    make(objective=Visiting([-1, 3])) | ValueError | the result | holds -1..3
    make(objective=Visiting(np.arange(200) < 3)) | TypeError | the result | has dtype bool
    make(objective=Telling()).train() | OptionError | the figures | are missing
    make(objective=Telling(train_kl=1.0, val_loss=2.0)).train() | OptionError | the figures | are named train_kl, val_loss
    make(objective=Telling(train_kl=np.inf)).train() | OptionError | train_kl | is inf
    make(objective=Telling(train_kl="low")).train() | OptionError | train_kl | is 'low'
    make(objective=Varying()).train() | OptionError | the figures | are named train_2 | train_1, as in the first epoch
    """
)
def test_an_objective_that_cannot_be_one_is_refused(refusal: Refusal) -> None:
    refusal.check(globals())


@refusals(
    """
    loss | TypeError | returned a float32 | the tuple (loss, grads)
    (loss, dict(grads)) | TypeError | returned gradients as a dict | a Parameters | holding
    (np.ones(3), grads) | ValueError | returned a loss of shape (3,)
    (loss, type(grads)({"Wx": (2, 2)}, np.zeros(4))) | ValueError | returned a loss of shape () and gradients of Wx | W_vocab
    (loss, type(grads)(dict(reversed(grads.shapes.items())), grads.flat)) | ValueError | gradients of b_vocab, W_vocab | in this order | holding
    """,
    "the objective",
)
def test_what_an_objective_returns_is_checked(refusal: Refusal) -> None:
    def objective(returned: Any) -> Any:
        return lambda model, batch, workspace: returned(*CrossEntropy().loss(model, batch))

    batch = DATA.minibatch("train", np.arange(4))
    for call in ("train()", "step(*batch)"):
        made = "make(objective=objective(lambda loss, grads: {}))."
        refusal.check(globals() | locals(), made + call)


@refusals(
    """
    restore({}) | TypeError | state | is a dict | a TrainingState
    check_accuracy(X, y, num_samples=0) | ValueError | num_samples | is 0
    check_accuracy(X, y, batch_size=0) | ValueError | batch_size | is 0
    check_accuracy(X, y[:4]) | ValueError | X | has 6 rows
    train_batch(np.array([-1])) | ValueError | hold -1..-1
    train_batch(np.array([True, False])) | TypeError | have dtype bool
    require_gain(0.1) | ValueError | the start | score_start
    require_gain(np.nan) | OptionError | share | is nan
    require_gain(1) | OptionError | share | is 1
    require_gain(-0.1) | OptionError | share | is -0.1
    """
)
def test_arguments_of_a_method_are_named_with_what_was_wanted(refusal: Refusal) -> None:
    solver, (X, y) = make(), DATA.minibatch("val", np.arange(6))
    function = f"CaptioningSolver.{refusal.statement.partition('(')[0]}"
    refusal.check(locals() | {"np": np}, "solver.{}")


@pytest.mark.parametrize("made", [CrossEntropy(), SelfCritical(DATA)])
def test_an_objective_has_no_other_attributes(made: Any) -> None:
    """Smoothing is one of its terms; what is set under a name of its own would change nothing."""
    with pytest.raises(AttributeError, match="no attribute 'smoothing'"):
        made.smoothing = 0.1


def test_validation_takes_no_more_captions_than_there_are_to_train_on() -> None:
    few = {key: COURSE[key][:20] for key in ("train_captions", "train_image_idxs")}
    solver = trained({**COURSE, **few}, num_epochs=1)
    spread = np.linspace(0, 59, 20).astype(int)
    expected = teacher_forced(solver.model, solver.data, "val", captions=spread)
    assert solver.history[0]["val_loss"] == pytest.approx(expected.loss)
    assert expected.n == 20


def test_the_parameters_with_the_least_validation_loss_are_kept_and_the_model_goes_on() -> None:
    solver = trained(
        dropout=0.0, num_epochs=40, optim_config={"learning_rate": 3e-2}
    )  # overfits soon
    losses = [record["val_loss"] for record in solver.history]
    assert solver.best_epoch == int(np.argmin(losses)) + 1 < 40
    assert solver.best_val_acc == solver.val_acc_history[solver.best_epoch - 1]
    assert (solver.best_params["Wh"] != solver.model.params["Wh"]).any()
    solver.model.params = solver.best_params
    score = solver.model.score(*DATA.minibatch("val", np.arange(60)))
    assert float(score.nll) / 60 == pytest.approx(min(losses), rel=1e-5)


class Rates(Watcher):
    def __init__(self) -> None:
        self.rates: list[float] = []

    def step(self, solver: CaptioningSolver) -> None:
        self.rates.append(solver.learning_rate)


def test_a_linear_rate_falls_with_each_step_to_zero_and_begins_anew_for_more_epochs() -> None:
    watcher = Rates()
    rates, solver = watcher.rates, make(lr_decay="linear", num_epochs=2, watchers=[watcher])
    solver.train()
    steps = list(dict.fromkeys(rates))  # watchers are told of batches of a validation too
    np.testing.assert_allclose(steps, 1e-2 * (1 - np.arange(1, 11) / 10), rtol=1e-12)
    rates.clear()
    solver.train()
    np.testing.assert_allclose(rates[:2], [1e-2 * 0.9, 1e-2 * 0.8], rtol=1e-12)


def test_the_epoch_whose_captions_score_best_is_kept_if_that_is_asked_for() -> None:
    """Six epochs at a rate so high that captions get worse again, although the loss may not."""
    solver = trained(select="cider", num_epochs=8, optim_config={"learning_rate": 5e-2})
    scores = [record["val_cider"] for record in solver.history]
    assert solver.best_epoch == int(np.argmax(scores)) + 1 < 8
    solver.model.params = solver.best_params
    words = DATA.vocabulary
    forbid = [words.null, words.start, words.unk]
    captions = solver.model.sample(
        DATA.features("val", np.arange(12)), DATA.max_words, forbid=forbid
    )
    cider = CiderD(list(DATA.reference_words("val").values()))
    expected = cider.scores([words.words(ids) for ids in captions])
    assert max(scores) == pytest.approx(expected.mean(), rel=1e-12)

    last = make(select="last", num_epochs=8, optim_config={"learning_rate": 5e-2})
    last.train()
    assert [record["val_cider"] for record in last.history] == scores
    assert last.best_epoch == 8
    np.testing.assert_array_equal(last.best_params.flat, last.model.params.flat)


@pytest.mark.parametrize("replacement", [False, True])
def test_steps_besides_those_of_train_leave_the_epoch_and_the_rate_alone(replacement: bool) -> None:
    """Before, within and after an epoch. More epochs begin with the linear rate that was set."""
    watcher, interrupt = Rates(), Watcher()
    interrupt.step = interrupted(interrupt.step, 2)
    options = {"lr_decay": "linear", "num_epochs": 1, "replacement": replacement}
    solver = make(watchers=[watcher, interrupt], **options)
    steps = solver.steps_per_epoch
    solver.train_batch(np.arange(6))
    with pytest.raises(KeyboardInterrupt):
        solver.train()
    solver.train_batch(np.arange(6))
    solver.step(*DATA.minibatch("train", np.arange(6)))
    solver.train()
    assert solver.times[0]["steps"] == steps - 2
    np.testing.assert_allclose(watcher.rates[:steps], 1e-2 * (1 - np.arange(1, steps + 1) / steps))
    before = solver.model.params.flat.copy()
    solver.train_batch(np.arange(6))
    np.testing.assert_array_equal(solver.model.params.flat, before)
    solver.learning_rate = 1e-3
    solver.train_batch(np.arange(6))
    assert solver.learning_rate == 1e-3
    watcher.rates.clear()
    solver.train()
    assert (solver.epoch, solver.iteration, solver.learning_rate) == (2, 2 * steps + 4, 0)
    assert watcher.rates[0] == pytest.approx(1e-3 * (steps - 1) / steps)


@pytest.mark.parametrize("rule", list(optim.RULES))
def test_a_step_is_loss_clipping_and_the_rule(rule: str) -> None:
    """The objective's loss may be a float."""

    def objective(model: Any, batch: Batch, workspace: Any) -> Any:
        loss, grads = CrossEntropy().loss(model, batch, workspace)
        return float(loss), grads

    solver, reference = make(update_rule=rule, clip_norm=1.0, objective=objective), make()
    batch = DATA.minibatch("train", np.arange(30))
    loss = solver.step(*batch)
    expected, grads = reference.model.loss(*batch)
    assert loss == expected
    scale = min(1.0, 1.0 / np.sqrt((grads.flat.astype(np.float64) ** 2).sum()))
    assert scale < 1
    for name, w in reference.model.params.items():
        config = optim.init(rule, w, {"learning_rate": 1e-2})
        optim.update(rule, w, (grads[name] * scale).astype(np.float32), config)
        np.testing.assert_allclose(solver.model.params[name], w, rtol=1e-4, atol=1e-7, err_msg=name)


def test_the_learning_rate_can_be_set_and_goes_into_the_next_step_and_the_state() -> None:
    """Also to 0, where a warm-up begins."""
    solver = make(update_rule="sgd", lr_decay=0.5, num_epochs=1)
    other = make(update_rule="sgd", optim_config={"learning_rate": 3e-2})
    before, batch = solver.model.params.flat.copy(), DATA.minibatch("train", np.arange(30))
    solver.learning_rate = 0
    solver.step(*batch)
    np.testing.assert_array_equal(solver.model.params.flat, before)
    solver.learning_rate = np.float32(0.03)
    assert solver.learning_rate == pytest.approx(3e-2)
    solver.learning_rate = 3e-2
    before -= 3e-2 * other.model.loss(*batch, step=1)[1].flat
    solver.step(*batch)
    np.testing.assert_array_equal(solver.model.params.flat, before)
    solver.train()
    assert solver.history[0]["learning_rate"] == 3e-2
    other.restore(solver.state())
    assert other.learning_rate == solver.learning_rate == 1.5e-2


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    solver, right = make(num_epochs=1), make()
    solver.train()
    before, state = right.model.params.flat.copy(), solver.state()
    lacking = {name: value for name, value in solver.best_params.items() if name != "Wh"}
    for other, best, error, got in (
        (make(batch_size=20), None, DataError, "batch_size 48, and this solver 20"),
        (make(dropout=0.5), None, DataError, "dropout 0.2, and this solver 0.5"),
        (right, lacking, ValueError, "missing or unknown"),
    ):
        with refuses(error, got):
            other.restore(state, best_params=best)
        np.testing.assert_array_equal(other.model.params.flat, before)
        assert (other.history, other.iteration) == ([], 0)


@refusals(
    """
    learning_rate = -1e-3 | is -0.001 | a finite number of at least 0
    learning_rate = float("nan") | is nan | a finite number of at least 0
    num_epochs = 2.5 | is 2.5
    patience = 0 | is 0
    progress = "no" | is 'no'
    """,
    error=OptionError,
)
def test_an_option_that_is_set_is_checked_as_it_was_when_given(refusal: Refusal) -> None:
    solver, name = make(), refusal.statement.partition(" =")[0]
    before = getattr(solver, name)
    refusal.check(locals(), "solver.{}", name)
    assert getattr(solver, name) == before


def test_what_a_solver_was_built_from_cannot_be_set() -> None:
    solver = make()
    for name in BUILT_IN:
        way = f"dataclasses.replace(solver, {name}=...)"
        with refuses(OptionError, f"`{name}`", "is fixed at construction", way):
            setattr(solver, name, getattr(solver, name))
    with pytest.raises(TypeError):
        solver.optim_config["learning_rate"] = 9.0  # type: ignore[index]


def test_a_number_of_epochs_that_is_set_is_that_of_the_next_training() -> None:
    solver = make(num_epochs=3)
    for number, epochs in ((1, 1), (2, 3)):
        solver.num_epochs = number
        solver.train()
        assert solver.epoch == epochs


def test_optim_configs_show_each_parameters_state_as_the_course_does() -> None:
    solver = make()
    solver.step(*DATA.minibatch("train", np.arange(30)))
    config = solver.optim_configs["Wx"]
    assert config["m"].shape == solver.model.params["Wx"].shape
    assert config["m"].any()
    with pytest.raises(TypeError):
        config["learning_rate"] = 1.0  # type: ignore[index]
    assert config["t"] == 1


def test_the_courses_lines_are_printed_every_print_every(
    capsys: pytest.CaptureFixture[str],
) -> None:
    solver = trained(COURSE, verbose=True, print_every=4, num_epochs=2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" loss")[0] for line in lines] == [
        f"(Iteration {i} / 10)" for i in (1, 5, 9)
    ]
    assert float(lines[0].split("loss: ")[1]) == pytest.approx(solver.loss_history[0], abs=1e-6)


def test_without_a_val_split_the_latest_parameters_are_the_best() -> None:
    solver = trained({key: value for key, value in COURSE.items() if not key.startswith("val")})
    assert solver.best_epoch == 3
    np.testing.assert_array_equal(solver.best_params["Wh"], solver.model.params["Wh"])
    assert "val_loss" not in solver.history[-1]


WITHOUT_VAL = replace(DATA, splits={"train": TRAIN})
SHIFTED = {
    word: (i + 1) % len(DATA.vocabulary) for i, word in enumerate(DATA.vocabulary.idx_to_word)
}


class Course:
    params: dict[str, np.ndarray] = {"Wx": np.zeros((2, 8))}  # noqa: RUF012 - as the course has it


@refusals(
    """
    CaptioningSolver(CaptioningRNN(SHIFTED, DATA.feature_dim), DATA) | ValueError | the model | gives '<NULL>' the id 1 and the data 0
    CaptioningSolver(Course(), DATA) | TypeError | model.params | is a dict | Parameters, named views of one flat buffer | xpcap.CaptioningRNN
    make(update_rule="admm") | ValueError | update rule | 'admm' | did you mean 'adam'
    make(optim_config={"lr": 1}) | ValueError | config key | 'lr' | learning_rate
    make(num_epochs=0) | ValueError | num_epochs | is 0 | at least 1
    make(batch_size=2.5) | ValueError | batch_size | is 2.5 | whole number
    make(seed=-1) | ValueError | seed | is -1 | at least 0
    make(lr_decay="cosine") | ValueError | lr_decay | is 'cosine' | linear
    make(lr_decay=float("nan")) | ValueError | lr_decay | is nan | positive | linear
    make(select="ciderd") | ValueError | select | 'ciderd' | did you mean 'cider'
    make(clip_norm="5") | ValueError | clip_norm | is '5' | positive
    make(clip_norm=-1.0) | ValueError | clip_norm | is -1.0 | positive
    make(replacement="no") | ValueError | replacement | is 'no' | True or False
    make(WITHOUT_VAL, select="cider") | OptionError | `select` | is cider, but the data has no val split
    make(WITHOUT_VAL, patience=2) | OptionError | `patience` | is 2, but the data has no val split
    make(select="last", patience=2) | OptionError | `patience` | is 2, but `select` is last
    make().num_epoch = 50 | OptionError | attribute | 'num_epoch' does not exist | did you mean 'num_epochs'
    make().lr = 1e-3 | OptionError | attribute | 'lr' does not exist | one of learning_rate, lr_decay
    make(select="last").patience = 2 | OptionError | `patience` | is 2, but `select` is last
    make(replace(DATA, splits={"train": replace(TRAIN, image_idxs=TRAIN.image_idxs - 1)})) | DataError | the data, split 'train': image_idxs | hold -1..
    make(replace(DATA, splits={"train": replace(TRAIN, captions=TRAIN.captions - 1)})) | DataError | the data, split 'train': captions | hold -1..
    make(replacement=True, seed=None).state() | OptionError | `replacement` | without `seed` | `seed`
    make(replacement=True, seed=None).restore(make(replacement=True).state()) | OptionError | `replacement` | without `seed`
    import copy; copy.deepcopy(make()) | TypeError | another solver from the same arguments, and call other.restore(solver.state())
    import pickle; pickle.dumps(make()) | TypeError | another solver from the same arguments, and call other.restore(solver.state())
    make("flickr8k.h5") | TypeError | data | is a str | CaptionData, or the dict that load_coco_data returns | open_data opens a file
    make({**COURSE, "train_image_idxs": COURSE["train_image_idxs"] - 1}) | ValueError | image_idxs | hold -1
    make({**COURSE, "train_image_idxs": COURSE["train_image_idxs"][:3]}) | ValueError | image_idxs | have shape
    make({**COURSE, "val_features": COURSE["val_features"][:, :5]}) | ValueError | features of the splits | have shapes [(2101,), (5,)]
    make({key: COURSE[key] for key in COURSE if key != "train_features"}) | ValueError | train_features | lacks
    """
)
def test_what_a_solver_cannot_do_is_named_with_what_was_wanted(refusal: Refusal) -> None:
    refusal.check(globals())


def test_a_start_is_scored_before_the_first_step() -> None:
    solver = trained(num_epochs=1)
    best = solver.best_params
    with refuses(ValueError, "the solver", "at iteration 5"):
        solver.score_start()
    assert solver.best_params is best


def test_what_a_reader_does_to_records_changes_no_state(tmp_path: Path) -> None:
    solver = make(num_epochs=1)
    solver.score_start()
    solver.train()
    save_state(tmp_path / "before", solver.state())
    assert solver.start is not None
    for record in (*solver.history, *solver.records, solver.start, *solver.times):
        record.clear()
    for records in (solver.history, solver.records, solver.times, solver.loss_history):
        records.clear()
    save_state(tmp_path / "after", solver.state())
    assert (tmp_path / "after").read_bytes() == (tmp_path / "before").read_bytes()
    assert solver.times[0]["epoch"] == solver.best_epoch == 1


@pytest.mark.parametrize(
    ("limit", "cider", "loss", "best"),
    [
        (None, [0.1, 0.2, 0.2, 0.2], [9.0, 8.0, 7.0, 7.0], 2),  # equal captions go by their loss
        (None, [0.5, 0.9, 0.6, 0.7], [40.0, 39.9, 39.0, 39.5], 1),
        (39.2, [0.5, 0.9, 0.6, 0.7], [40.0, 39.9, 39.0, 39.5], 2),  # the start's, of the loss
        (39.2, [0.5, 0.9], [40.0, 39.9], 0),
    ],
)
def test_the_best_epoch_is_that_of_captions_then_of_loss_within_the_starts_limit(
    limit: float | None, cider: list[float], loss: list[float], best: int
) -> None:
    records = [{"val_cider": c, "val_loss": x} for c, x in zip(cider, loss, strict=True)]
    records = [{"epoch": k, **record} for k, record in enumerate(records)]
    if limit is not None:
        records[0]["val_loss_limit"] = limit
    assert best_of(records) is records[best]


def test_a_subclass_may_have_attributes() -> None:
    class Timed(CaptioningSolver):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.seconds = 0.0

    timed = Timed(make().model, DATA, seed=0, verbose=False)
    timed.seconds += 1
    assert timed.seconds == 1
