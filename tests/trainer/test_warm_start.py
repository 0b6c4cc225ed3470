"""A warm start: training on data of other words begins with what another run has learnt."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import refuses
from stopping import stop_after

pytest.importorskip("PIL")
pytest.importorskip("jinja2")

from commands import call, failing, few, good

from xpcap import CaptionData, open_data, open_run, to_numpy
from xpcap.data.hdf5 import write_dataset
from xpcap.data.vocabulary import Vocabulary
from xpcap.errors import OptionError
from xpcap.models import ModelConfig, Parameters
from xpcap.models.parameters import add_words
from xpcap.runs.folder import load_state, read_history, save_parameters
from xpcap.runs.recipe import PRESETS, Recipe
from xpcap.trainer import start
from xpcap.trainer.plan import default_out, plan_training
from xpcap.trainer.train import train_run

pytestmark = pytest.mark.usefixtures("few_pictures")
FEW = ["--no-neighbours", "--epochs", 2, "--batch-size", 20]  # 15 steps an epoch


def of_other_words(path: Path) -> Path:
    """A data set whose stars are asterisks, of words that occur five times, of ten a caption."""
    data = few(5)
    texts = {
        name: [caption.replace("star", "asterisk") for caption in split.text or ()]
        for name, split in data.splits.items()
    }
    vocabulary = Vocabulary.build(texts["train"], 5)
    splits = {
        name: replace(split, text=texts[name], captions=vocabulary.encode(texts[name], 10))
        for name, split in data.splits.items()
    }
    write_dataset(path, CaptionData(vocabulary, splits, source=data.source))
    return path


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return of_other_words(tmp_path / "own.h5")


# ---- Parameters


def test_new_words_start_as_the_mean_word_and_all_else_stays(lib: Any) -> None:
    config = ModelConfig(6, (3,), 2, 4, cell="lstm", inject="every-step")
    params = Parameters.empty(config.shapes(), np.float64, np)
    params.flat[...] = np.random.default_rng(1).standard_normal(params.flat.shape)
    moved = Parameters(params.shapes, lib(params.flat))
    larger = add_words(moved, replace(config, vocabulary=9).shapes(), [4, 5])
    for name, theirs in params.items():
        ours, old = to_numpy(larger[name]).T, theirs.T
        if name == "W_embed":
            ours, old = ours.T, old.T
        if name in ("W_embed", "W_vocab", "b_vocab"):
            np.testing.assert_array_equal(ours[6:], [(old[4] + old[5]) / 2] * 3)
            ours = ours[:6]
        np.testing.assert_array_equal(ours, old)


# ---- Runs


@pytest.mark.slow
def test_words_of_the_run_stay_and_new_ones_follow_in_both_stages(
    run: Path, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on = tmp_path / "on"
    options = [*FEW, "--lr", 1e-12, "--score-epochs", 1, "--sharpen", 1]
    monkeypatch.setitem(PRESETS["score"], "lr", 1e-12)
    output = good("train", own, "--from", run, "--out", on, *options).output
    rewards = ["train_reward" in record for record in read_history(on)]
    assert rewards == [False, False, False, True]
    base, after = open_run(run), open_run(on)
    known, words = base.vocabulary.idx_to_word, after.vocabulary.idx_to_word
    new = [word for word in open_data(own).vocabulary.idx_to_word if word not in known]
    assert "asterisk" in new
    assert words == [*known, *new]
    assert (
        f"warm start from {run}: {len(known) - 4} known words, {len(new)} new; before the first step CIDEr 0."
        in output
    )
    for name, value in base.model.params.items():
        ours = after.model.params[name]
        if name in ("W_embed", "W_vocab", "b_vocab"):
            ours = ours[..., : len(known)] if name != "W_embed" else ours[: len(known)]
        np.testing.assert_allclose(ours, value, atol=1e-9)
    np.testing.assert_array_equal(after.scaling.mean, base.scaling.mean)
    assert after.config.data_stamp == open_data(own).fingerprint
    good("evaluate", on)


def test_captions_are_encoded_by_their_text_and_cut_as_before(tmp_path: Path) -> None:
    data = open_data(of_other_words(tmp_path / "own.h5"))
    union = few(0).vocabulary.union(data.vocabulary)
    encoded = data.with_vocabulary(union)
    for name, split in encoded.splits.items():
        texts = [text.split()[:10] for text in data.split(name).text or ()]
        assert split.captions.shape[1] == 12
        assert [union.words(row) for row in split.captions] == [
            [word for word in text if word in union.word_to_idx] for text in texts
        ]
    rare = set(few(0).vocabulary.idx_to_word) - set(data.vocabulary.idx_to_word)
    assert rare & {word for row in encoded.split("train").captions for word in union.words(row)}
    silent = replace(data, splits={n: replace(s, text=None) for n, s in data.splits.items()})
    again = silent.with_vocabulary(union)
    for name, split in silent.splits.items():
        assert [again.vocabulary.idx_to_word[i] for i in again.split(name).captions.ravel()] == [
            data.vocabulary.idx_to_word[i] for i in split.captions.ravel()
        ]


def test_a_run_that_is_gone_before_the_first_checkpoint_is_named(
    run: Path, own: Path, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_after(1, patch)
        call("train", own, "--from", run, "--out", tmp_path / "on", *FEW)
    (tmp_path / "on" / "last.safetensors").unlink()
    shutil.rmtree(run)
    failing(["train", "--out", tmp_path / "on", "--resume"], f"{run} does not exist")


def test_options_of_a_warm_start_are_its_own_unless_given(run: Path, own: Path) -> None:
    def planned(data: Path | None, **given: Any) -> Recipe:
        recipe = Recipe(data, out="nowhere", start=run, **given)
        return plan_training(recipe, lambda path, seed: open_data(path or "")).options

    chosen = planned(own, dropout=0.1)
    expected: dict[str, Any] = {**PRESETS["warm"], "dropout": 0.1, "hidden": 16}
    assert {name: getattr(chosen, name) for name in expected} == expected
    again = planned(run / "data.h5")
    assert (again.lr, again.epochs, again.data) == (PRESETS["generated"]["lr"], 2, run / "data.h5")
    assert default_out(Recipe(start=run)) == Path("runs/pictures-lstm")  # not data-lstm
    with refuses(OptionError, "`smoothing`", "cross-entropy training"):
        planned(None, objective="self-critical", smoothing=0.3)


def test_a_recipe_with_a_start_trains_on_its_data_and_refuses_another_model(
    run: Path, tmp_path: Path
) -> None:
    recipe = Recipe(start=run, epochs=1, out=tmp_path / "on")
    with refuses(OptionError, "`cell` gru (the run has lstm)", "leave these options out"):
        train_run(replace(recipe, cell="gru"))
    assert not (tmp_path / "on").exists()
    config = train_run(recipe).run.config
    assert (config.data, config.data_stamp) == (run / "data.h5", open_run(run).config.data_stamp)
    page = (tmp_path / "on" / "index.html").read_text(encoding="utf-8")
    assert run.name in page
    assert str(run.parent) not in page


@pytest.mark.slow
def test_an_epoch_of_higher_score_but_no_lower_loss_does_not_replace_the_run(
    run: Path, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [own, "--from", run, *FEW, "--epochs", 4, "--lr", 0.05]
    good("train", *options, "--out", tmp_path / "better")
    assert open_run(tmp_path / "better").meta["epoch"] > 0
    monkeypatch.setattr(start, "MIN_GAIN", 0.9)
    output = good("train", *options, "--out", tmp_path / "kept").output
    assert (
        f"Captions come from the parameters of {run}, which training started from: none of 4 epochs"
        in output
    )
    kept, base = open_run(tmp_path / "kept").model.params, open_run(run).model.params
    np.testing.assert_array_equal(kept["W_embed"][: len(base["W_embed"])], base["W_embed"])
    np.testing.assert_array_equal(kept["Wx"], base["Wx"])


@pytest.mark.slow
def test_a_run_trained_on_the_score_is_scored_as_it_is_and_goes_on_unsharpened(
    run: Path, own: Path, tmp_path: Path
) -> None:
    score = ["--objective", "self-critical", "--samples", 2, "--sharpen", 2, "--lr", 1e-12]
    score += ["--no-neighbours"]
    good("train", "--from", run, "--out", tmp_path / "score", *score, "--epochs", 1)
    base = open_run(tmp_path / "score")
    # epoch 0 is the run before the score: take the parameters of epoch 1, which are sharpened
    state = load_state(tmp_path / "score" / "last.safetensors", base.model.params.shapes)
    meta = {**base.meta, **state.records[1]}
    params = {name: state.arrays[f"params.{name}"] for name in base.model.params}
    save_parameters(tmp_path / "score" / "best.safetensors", params, base.scaling, meta)
    good("train", own, "--from", tmp_path / "score", "--out", tmp_path / "on", *FEW, "--lr", 1e-12)
    on, V = open_run(tmp_path / "on"), len(base.vocabulary)
    last = load_state(tmp_path / "on" / "last.safetensors", on.model.params.shapes).arrays
    assert on.meta["epoch"] == 0
    np.testing.assert_array_equal(on.model.params["W_vocab"][:, :V], params["W_vocab"])
    np.testing.assert_allclose(last["params.W_vocab"][:, :V] * 2, params["W_vocab"], atol=1e-8)
