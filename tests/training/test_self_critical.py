"""Self-critical training: its gradient is that of the expected score, it goes on exactly, and ranks
and devices train the same model.
"""

import itertools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import commands
import kill
import numpy as np
import pytest
from ranks import together
from refusals import refuses
from safetensors.numpy import load_file

pytest.importorskip("PIL")  # generated pictures
pytest.importorskip("jinja2")

from commands import SMALL, call, failing, good
from stopping import stop_after

from xpcap import CaptionData, CaptioningRNN, CaptioningSolver
from xpcap.data import Split, Vocabulary, write_dataset
from xpcap.data.few import FEW_CAPTIONS
from xpcap.data.vocabulary import END
from xpcap.distributed import SINGLE, Group
from xpcap.drawings import generate
from xpcap.errors import DataError, OptionError, TrainingError
from xpcap.metrics import CiderD
from xpcap.models import Batch
from xpcap.runs import recipe as of_options
from xpcap.runs.folder import load_earlier, load_state, read_history, save_state
from xpcap.runs.recipe import PRESETS
from xpcap.runs.run import open_run
from xpcap.training import SelfCritical, objectives
from xpcap.training.objectives import advantages
from xpcap.training.state import best_of

WORDS = Vocabulary(["<NULL>", "<START>", "<END>", "<UNK>", "red", "dog"])
SAID = ["red dog", "dog", "red", "dog dog"]


def tiny() -> tuple[CaptionData, CaptioningRNN]:
    """Two pictures, captions of at most two words; a model for them that never says NULL or
    START.
    """
    rng = np.random.default_rng(4)
    features, pictures = rng.standard_normal((2, 3)), np.array([0, 0, 1, 1], np.int32)
    split = Split(WORDS.encode(SAID, 2), pictures, features, ["a", "b"], SAID)
    model = CaptioningRNN(
        WORDS.word_to_idx, 3, 4, 5, "lstm", np.float64, inject="every-step", seed=2
    )
    model.params.flat[...] = rng.standard_normal(model.params.flat.shape) / 2
    model.params["b_vocab"][[WORDS.null, WORDS.start]] = -40
    return CaptionData(WORDS, {"train": split}), model


def every_caption() -> np.ndarray:
    """All captions of at most three words, END included: (40, 4), START first."""
    said = []
    for words in itertools.product([WORDS.end, WORDS.unk, 4, 5], repeat=3):
        length = words.index(WORDS.end) + 1 if WORDS.end in words else 3
        said.append((WORDS.start, *words[:length], *[WORDS.null] * (3 - length)))
    return np.array(sorted(set(said)), np.int32)


def exact_gradient(data: CaptionData, model: CaptioningRNN) -> np.ndarray:
    """The gradient of -E[reward], averaged over the pictures, by naming every caption: sum of p(c)
    r(c) grad(-log p(c)).
    """
    captions, flat = every_caption(), np.zeros_like(model.params.flat)
    objective = SelfCritical(data, samples=2)
    for picture, feature in enumerate(data.split("train").features):
        features = feature[None].repeat(len(captions), 0)
        p = np.exp([-float(model.score(features[:1], caption[None]).nll) for caption in captions])
        assert p.sum() == pytest.approx(1, abs=1e-12)
        rewards = objective.rewards(captions[:, 1:], np.full(len(captions), picture))
        flat += model.loss(features, captions, weights=p * rewards, total=2)[1].flat
    return flat


def test_the_gradient_is_the_exact_one_to_sampling_error() -> None:
    """With two samples a picture, where a baseline that knows the sample itself would halve it: 400
    means of 100 samples each.
    """
    data, model = tiny()
    exact, objective = exact_gradient(data, model), SelfCritical(data, samples=2)
    pictures, split = np.arange(2).repeat(25), data.split("train")
    batch = Batch(split.features[pictures], split.captions[:1].repeat(50, 0), pictures)
    steps = (objective.loss(model, batch._replace(step=step)) for step in range(400))
    means = np.array([grads.flat.copy() for _, grads in steps])
    matter = np.abs(exact) > 0.02 * np.abs(exact).max()
    difference = means.mean(axis=0) - exact
    error = difference[matter] / (means.std(axis=0) / np.sqrt(len(means)))[matter]
    assert matter.sum() > 100
    assert np.sqrt(np.mean(error**2)) < 1.5
    assert np.linalg.norm(difference) < 0.1 * np.linalg.norm(exact)


def test_advantages_compare_a_sample_with_the_others_of_its_picture() -> None:
    rewards = np.array([[1.0, 2.0, 6.0], [3.0, 3.0, 3.0]])
    np.testing.assert_allclose(advantages(rewards), [[-3, -1.5, 4.5], [0, 0, 0]])


def test_rewards_are_cider_d_with_train_frequencies_and_end_as_a_word() -> None:
    data, _ = tiny()
    references = [[[*text.split(), END] for text in SAID[i : i + 2]] for i in (0, 2)]
    score, objective = CiderD(references), SelfCritical(data, samples=2)
    ids = WORDS.encode(["red dog", "red", "dog"], 2)[:, 1:]
    expected = score.scores([["red", "dog", END], ["red", END], ["dog", END]], [0, 1, 1])
    np.testing.assert_array_equal(objective.rewards(ids, np.array([0, 1, 1])), expected)
    broken_off = ids.copy()
    broken_off[ids == WORDS.end] = WORDS.null
    assert (objective.rewards(broken_off, np.array([0, 1, 1]))[:2] < expected[:2]).all()


MADE = generate(seed=3, train=41, val=13)
TRAIN = MADE.split("train")
# mirror images, and a picture without captions in the middle
VIEWS = replace(TRAIN, features=np.concatenate([TRAIN.features, TRAIN.features[:, ::-1]]), views=2)
LACKS = replace(
    VIEWS,
    **{name: getattr(VIEWS, name)[TRAIN.image_idxs != 20] for name in ("captions", "image_idxs")},
    text=None,
)
DATA = replace(MADE, splits={**MADE.splits, "train": LACKS})


def trained(group: Group, objective: Any = None, **options: Any) -> CaptioningSolver:
    how: dict[str, Any] = {"dropout": 0.3, "inject": "every-step", "seed": 1}
    words, size = DATA.vocabulary.word_to_idx, DATA.feature_dim
    model = CaptioningRNN(words, size, 12, 16, "lstm", np.float64, **how)
    usual = {"batch_size": 7, "num_epochs": 3, "seed": 2, "select": "cider", "verbose": False}
    usual |= {"update_rule": "adam", "optim_config": {"learning_rate": 1e-2}, **options}
    objective = objective or SelfCritical(DATA, samples=3, group=group)
    made = CaptioningSolver(model, DATA, objective=objective, group=group, **usual)
    made.train()
    return made


def test_an_epoch_visits_every_picture_that_has_captions_once() -> None:
    visited = TRAIN.image_idxs[TRAIN.image_idxs != 20][SelfCritical(DATA).epoch_indices(DATA)]
    assert visited.tolist() == [i for i in range(41) if i != 20]
    made = trained(SINGLE, num_epochs=1)
    assert made.iteration == 6
    assert {"train_reward", "val_cider", "val_distinct", "val_length"} <= set(made.history[0])
    assert made.history[0]["train_reward"] == pytest.approx(-np.mean(made.loss_history))


def test_rewards_of_other_data_or_of_a_picture_without_captions_are_refused() -> None:
    objective, split = SelfCritical(DATA), DATA.split("train")
    other = replace(split, image_idxs=split.image_idxs[::-1].copy())
    with refuses(DataError, "has other train captions"):
        objective.epoch_indices(replace(DATA, splits={"train": other}))
    alike = replace(split, captions=split.captions.copy(), image_idxs=split.image_idxs.copy())
    objective.epoch_indices(replace(DATA, splits={"train": alike}))
    with refuses(ValueError, "picture 20", "has no caption in the train split"):
        objective.rewards(split.captions[:2, 1:], np.array([19, 20]))


def test_ranks_train_the_model_that_one_process_trains() -> None:
    """With seven ranks, two of them have no picture of the last batch, which is of five."""
    alone = trained(SINGLE)
    for size in (2, 7):
        for rank in together(size, trained):
            np.testing.assert_allclose(
                rank.model.params.flat, alone.model.params.flat, rtol=0, atol=1e-11
            )
            np.testing.assert_allclose(rank.loss_history, alone.loss_history, rtol=0, atol=1e-12)


def test_training_ends_where_captions_collapse() -> None:
    objective = SelfCritical(DATA)
    words = DATA.vocabulary.is_word(DATA.split("train").captions).sum(axis=1).mean()
    for distinct, length, message in (
        (0.4, words, "None"),
        (0.02, words, "only 2.0% of the captions"),
        (0.4, 2 * words, "expected about"),
    ):
        found = objective.collapse({"val_distinct": distinct, "val_length": length})
        assert message in str(found)

    class Worse(SelfCritical):
        def collapse(self, record: Any) -> str | None:
            record = {**record, "val_distinct": 0.01}
            return super().collapse(record) if record["epoch"] == 2 else None

    model = CaptioningRNN(DATA.vocabulary.word_to_idx, DATA.feature_dim, 12, 16, seed=1)
    usual = {"select": "cider", "num_epochs": 5, "verbose": False}
    made = CaptioningSolver(model, DATA, objective=Worse(DATA), **usual)
    made.train()
    assert (made.epoch, made.finished, made.best_epoch) == (2, True, best_of(made.history)["epoch"])


def test_training_that_has_gone_too_far_to_sample_is_a_training_error() -> None:
    data, model = tiny()
    settings = {"batch_size": 2, "num_epochs": 9, "seed": 0, "verbose": False}
    settings |= {"update_rule": "sgd", "optim_config": {"learning_rate": 1e300}}
    solver = CaptioningSolver(model, data, objective=SelfCritical(data, samples=4), **settings)
    with np.errstate(all="ignore"), refuses(TrainingError, "try a lower learning rate"):
        solver.train()


def test_a_sample_alone_is_refused() -> None:
    with refuses(OptionError, "`samples`", "is 1", "at least 2", "a sample"):
        SelfCritical(DATA, samples=1)


# The command


def let_captions_be(patch: pytest.MonkeyPatch) -> None:
    """However short, long or alike captions are, training on the score does not end for it."""
    for limit, never in (("MIN_DISTINCT", 0), ("MIN_LENGTH_RATIO", 0), ("MAX_LENGTH_RATIO", 99)):
        patch.setattr(objectives, limit, never)


TUNED = ["--objective", "self-critical", "--epochs", 2, "--samples", 3, "--batch-size", 20]


@pytest.mark.usefixtures("few_pictures")
class TestTrainFrom:
    """train --from RUN."""

    def test_it_begins_with_the_parameters_the_scaling_and_the_model_of_the_run(
        self, run: Path, tmp_path: Path
    ) -> None:
        good("train", "--from", run, "--out", tmp_path / "on", "--lr", 1e-12, "--epochs", 1)
        before, after = open_run(run), open_run(tmp_path / "on")
        np.testing.assert_allclose(after.model.params.flat, before.model.params.flat, atol=1e-9)
        np.testing.assert_array_equal(after.scaling.mean, before.scaling.mean)
        recipe = after.config.recipe
        assert (recipe.hidden, recipe.objective) == (16, "cross-entropy")
        assert after.config.data_stamp == before.config.data_stamp

    def test_where_no_epoch_is_better_a_run_is_what_it_started_from_and_says_so(
        self, run: Path, tmp_path: Path
    ) -> None:
        on = tmp_path / "on"
        output = good("train", "--from", run, "--out", on, "--lr", 30).output
        assert (open_run(on).model.params.flat == open_run(run).model.params.flat).all()
        message = "which training started from: none of 2 epochs was better."
        assert f"Captions come from the parameters of {run}, {message}" in output
        page = (on / "index.html").read_text(encoding="utf-8")
        assert f"Captions come from the parameters of {run.name}, {message}" in page
        scores = (good("evaluate", out, "--json").stdout for out in (on, run))
        ours, theirs = (text.partition('"seconds"')[0] for text in scores)
        assert ours == theirs

    def test_training_on_the_score_begins_with_sharpened_scores_and_nothing_else_changed(
        self, run: Path, tmp_path: Path
    ) -> None:
        options = *TUNED, "--lr", 1e-12, "--sharpen", 2
        good("train", "--from", run, "--out", tmp_path / "on", *options)
        before, after = open_run(run).model.params, open_run(tmp_path / "on").model.params
        for name, value in before.items():
            factor = 2 if name in ("W_vocab", "b_vocab") else 1
            np.testing.assert_allclose(after[name], value * factor, rtol=1e-6, atol=1e-9)

    def test_what_does_not_fit_is_named(self, run: Path, tmp_path: Path) -> None:
        for args, words in (
            (["--objective", "self-critical"], "--objective is self-critical without --from"),
            (["--from", run, "--hidden", 32], "--hidden 32 (the run has 16) given with --from"),
        ):
            result = call("train", *args)
            assert (result.exit_code, words in result.output) == (2, True), result.output
        failing(["train", "--from", tmp_path / "nothing"], "does not exist, expected a run folder")

    def test_a_start_that_changed_before_the_first_checkpoint_is_noticed(
        self, run: Path, tmp_path: Path
    ) -> None:
        with pytest.MonkeyPatch.context() as patch:
            stop_after(1, patch)
            call("train", "--from", run, "--out", tmp_path / "on", *TUNED)
        (tmp_path / "on" / "last.safetensors").unlink()
        good("train", "--from", run, "--out", tmp_path / "other", "--epochs", 1)
        shutil.copy(tmp_path / "other" / "best.safetensors", run / "best.safetensors")
        failing(
            ["train", "--out", tmp_path / "on", "--resume"],
            "has changed since the run that starts from it began",
            left=(),
        )


# Both stages in one run

# Pauses of the first stage: two epochs of 300 captions in steps of 20, each with four pauses behind
STEPS_OF_FIRST = 2 * (15 + 4)
# so that captions have about as many words as people's: training on the score ends otherwise
ONE_STAGE = [*SMALL, "--hidden", 32, "--lr", 0.027, "--seed", 2]
ONE_STAGE += ["--dropout", 0.2, "--batch-size", 20]
STAGED = [*ONE_STAGE, "--score-epochs", 2, "--samples", 3]


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("staged") / "run"
    with pytest.MonkeyPatch.context() as patch:
        commands.use_few_pictures(patch)
        output = good("train", "--out", folder, *STAGED).output
    epochs = [line.split()[1] for line in output.splitlines() if line.startswith("epoch")]
    assert epochs == ["1", "2", "3", "4"]
    assert "train reward" in output
    assert output.count("second stage: self-critical training on 60 pictures") == 1
    return folder


SPOILT = [*STAGED, "--lr", 0.02]


def interrupted(*args: object) -> None:
    raise KeyboardInterrupt


def make_the_second_stage_worse(patch: pytest.MonkeyPatch) -> None:
    """Its learning rate is far too high, and nothing ends it early."""
    patch.setitem(PRESETS["score"], "lr", 3.0)
    let_captions_be(patch)


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two stages, of which the second makes captions worse."""
    folder = tmp_path_factory.mktemp("spoilt") / "run"
    with pytest.MonkeyPatch.context() as patch:
        commands.use_few_pictures(patch)
        make_the_second_stage_worse(patch)
        good("train", "--out", folder, *SPOILT)
    return folder


@pytest.mark.usefixtures("few_pictures")
class TestStages:
    """train --score-epochs."""

    def test_the_second_stage_is_training_on_the_score_from_the_first(
        self, staged: Path, tmp_path: Path
    ) -> None:
        """The same parameters as the two commands give, one after the other."""
        good("train", "--out", tmp_path / "first", *ONE_STAGE)
        again = "--from", tmp_path / "first", "--out", tmp_path / "second", *TUNED
        good("train", *again, "--seed", 2)
        for name in ("best.safetensors", "last.safetensors"):
            ours, theirs = (load_file(out / name) for out in (staged, tmp_path / "second"))
            assert ours.keys() == theirs.keys()
            for key, tensor in ours.items():
                np.testing.assert_array_equal(tensor, theirs[key])
        first, second = (read_history(tmp_path / name) for name in ("first", "second"))
        records = read_history(staged)
        assert records[:2] == [first[0], {**second[0], **first[1]}]
        assert records[2:] == [{**record, "epoch": record["epoch"] + 2} for record in second[1:]]
        assert "Self-critical training does not minimise" in " ".join(
            good("evaluate", staged, "--doctor").output.split()
        )

    def test_the_page_and_the_curves_show_both_stages(self, staged: Path) -> None:
        page = " ".join((staged / "index.html").read_text(encoding="utf-8").split())
        best = open_run(staged).meta
        first = max(record.get("val_cider", 0.0) for record in read_history(staged)[:2])
        scored = (
            f"(epoch {best['epoch']} of 4, CIDEr {best['val_cider']:.3f} on val), after 2 epochs of"
            f" cross entropy, CIDEr {first:.3f}"
        )
        for text in ("Captions come from the second of two stages, self-critical training", scored):
            assert text in page
        assert re.search(r"val loss from \S+ after epoch 1 to \S+ after epoch 4", page)
        assert re.search(r"train reward from \S+ after epoch 3 to \S+ after epoch 4", page)

    def test_options_that_contradict_either_stage_are_refused(
        self, staged: Path, tmp_path: Path
    ) -> None:
        out = Path(shutil.copytree(staged, tmp_path / "run"))
        for option, value in (
            ("--score-epochs", 3),
            ("--epochs", 5),
            ("--patience", 5),
            ("--objective", "self-critical"),
        ):
            result = call("train", "--out", out, "--resume", option, value)
            assert (result.exit_code, option in result.output) == (2, True), result.output
        failing(["train", "--out", out], "exists, and a run is never overwritten")

    def test_the_page_the_command_and_the_doctor_say_that_captions_come_from_the_first_stage(
        self, spoilt: Path
    ) -> None:
        records, best = read_history(spoilt), open_run(spoilt).meta["epoch"]
        cider = records[best - 1]["val_cider"]
        assert cider > max(record["val_cider"] for record in records[2:])
        message = (
            f"Captions come from the first of two stages, cross entropy (epoch {best} of 2, CIDEr"
            f" {cider:.3f} on val): the second"
        )
        assert message in " ".join((spoilt / "index.html").read_text(encoding="utf-8").split())
        assert message in " ".join(good("train", "--out", spoilt, "--resume").output.split())
        found = json.loads(good("evaluate", spoilt, "--doctor", "--json").stdout)
        assert found["scores"]["cider_d"] == pytest.approx(cider)
        doctor = {finding["name"]: finding for finding in found["doctor"]}
        assert "alidation loss" in doctor["overfitting"]["text"]

    def test_a_run_killed_between_its_stages_goes_on_to_the_same_bytes(
        self, spoilt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing of the second stage is on disk: its start is scored again. Where none of its
        epochs is better, the run is its first stage.
        """
        make_the_second_stage_worse(monkeypatch)
        out = tmp_path / "run"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CaptioningSolver, "score_start", interrupted)
            assert call("train", "--out", out, *SPOILT).exit_code == 130
        assert load_earlier(out / "last.safetensors") == []
        first, whole = open_run(out), open_run(spoilt)
        assert first.meta == whole.meta
        np.testing.assert_array_equal(first.model.params.flat, whole.model.params.flat)
        good("train", "--out", out, "--resume")
        assert kill.differing(out, spoilt) == set()

    def test_a_state_whose_start_was_tampered_with_is_refused(
        self, spoilt: Path, tmp_path: Path
    ) -> None:
        shapes = open_run(spoilt).model.params.shapes
        state = load_state(spoilt / "last.safetensors", shapes)
        start, *epochs = state.records
        for odd, texts in (
            ({"epoch": 1}, ("record 2 is", "the figures of epoch 2")),
            ({"val_bleu": 0.0}, ("record 2 is", "the figures of epoch 2")),
            ({"val_cider": "much"}, ("records[0].val_cider", "is 'much'")),
        ):
            state.meta["records"] = [{**start, **odd}, *epochs]
            save_state(tmp_path / "odd.safetensors", state, vocabulary="v")
            with refuses(DataError, *texts):
                load_state(tmp_path / "odd.safetensors", shapes)

    def test_a_run_stopped_in_its_first_stage_is_opened_at_its_best_epoch(
        self, tmp_path: Path
    ) -> None:
        out = tmp_path / "run"
        with pytest.MonkeyPatch.context() as patch:
            stop_after(STEPS_OF_FIRST // 2 + 3, patch)
            assert call("train", "--out", out, *STAGED).exit_code == 143
        for command in ("caption", "evaluate", "info"):
            assert good(command, out, "--json").stderr == ""
        assert open_run(out).meta["epoch"] == 1

    def test_a_run_stopped_in_its_first_epoch_has_nothing_to_caption_with_and_says_how_to_go_on(
        self, tmp_path: Path
    ) -> None:
        with pytest.MonkeyPatch.context() as patch:
            stop_after(3, patch)
            assert call("train", "--out", tmp_path / "run", *STAGED).exit_code == 143
        message = "nothing to caption with yet", "continue it with --resume"
        for command in ("caption", "evaluate"):
            failing([command, tmp_path / "run"], *message)


@pytest.mark.usefixtures("few_pictures")
def test_what_suits_the_captions_is_trained_and_stays_when_a_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 300 captions, in steps of 16; resumed by a version that would choose otherwise."""
    write_dataset(tmp_path / "data.h5", commands.few(0))
    monkeypatch.setattr(of_options, "MIN_EPOCHS", 2)
    monkeypatch.setattr(of_options, "MIN_STEPS", {"few": 38, "many": 1})
    data, out = tmp_path / "data.h5", tmp_path / "run"
    sizes = ("--hidden", 16, "--wordvec", 8, "--no-neighbours")
    with pytest.MonkeyPatch.context() as patch:
        stop_after(20, patch)
        stopped = call("train", data, "--out", out, *sizes, "--verbose")
    assert stopped.exit_code == 143
    assert "epochs 2  score_epochs 0  batch_size 16" in stopped.output
    expected = {"batch_size": 16, "smoothing": 0.0, "score_epochs": 0, "epochs": 2}
    assert expected.items() <= json.loads((out / "config.json").read_text()).items()
    monkeypatch.setattr(of_options, "FEW_CAPTIONS", FEW_CAPTIONS._replace(number=0))
    monkeypatch.setattr(of_options, "MIN_EPOCHS", 5)
    good("train", data, "--out", out, "--resume")
    config = open_run(out).config.to_json()
    assert expected.items() <= config.items()
    assert [record["epoch"] for record in read_history(out)] == [1, 2]
