"""Recipe: each option once, refused where it is given, and read back from a config as it was."""

import functools
import json
import re
from collections.abc import Callable
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import Refusal, refusals, refuses
from safetensors.numpy import load_file
from trainings import VARIED, completed_for, data_set, of_roles, other, small, varied

from xpcap.cli import main
from xpcap.data import write_dataset
from xpcap.data.synthetic import draw_data
from xpcap.distributed.work import work
from xpcap.errors import OptionError
from xpcap.options import Location
from xpcap.runs.folder import CONFIG, DATA
from xpcap.runs.recipe import (
    LENGTH,
    MODEL,
    OPTIONS,
    PRESETS,
    TRAINING,
    UNSTORED,
    Recipe,
    SaveInterval,
)
from xpcap.trainer.plan import default_out, plan_training
from xpcap.trainer.train import train_run
from xpcap.training.objectives import CROSS_ENTROPY, SELF_CRITICAL


def test_each_field_is_an_option_with_help_and_a_role() -> None:
    assert list(OPTIONS) == [field.name for field in fields(Recipe)]
    for name, told in OPTIONS.items():
        assert told.help.endswith("."), f"`{name}` has the help {told.help!r}, expected a sentence"
        assert told.role, f"`{name}` has no role; those of xpcap/runs/recipe.py say what they mean"
        assert f"\n{name} : " in str(Recipe.__doc__)
        for value in (*told.presets.values(), told.default):
            assert value is not MISSING
            assert value is None or told.kind.check(name, value) == value, name


def test_each_option_is_one_of_the_command_line() -> None:
    flags = {str(one.name): one for one in main.commands["train"].params}
    assert OPTIONS.keys() < flags.keys()
    assert {*flags} - {*OPTIONS} == {"backend", "plain", "verbose"}


@refusals(
    """
    objective="rl" | 'rl' does not exist | one of cross-entropy, self-critical
    score_epochs=-1 | is -1 | a whole number in 0..1000000
    samples=1 | is 1 | a whole number of at least 2
    sharpen=0.0 | is 0.0 | a positive number
    seed=-1 | is -1 | a whole number in 0..2**63-1
    save_every=60 | is 60 | seconds, as in 30s
    lr=np.nan | is nan | a positive number
    lr_decay="lineal" | is 'lineal' | a positive number, or 'linear'
    hidden=-3 | is -3 | a whole number in 1..1000000
    epochs=True | is True | a whole number in 0..1000000
    epochs=10**7 | is 10000000 | a whole number in 0..1000000
    clip=-1 | is -1 | a finite number of at least 0
    cell="grru" | 'grru' does not exist | one of rnn, lstm
    select="best" | 'best' does not exist | one of loss, cider, last
    inject="late" | 'late' does not exist | one of init
    feature_scaling="max" | 'max' does not exist | one of standardize, none
    neighbours="no" | is 'no' | True or False
    resume=1 | is 1 | True or False
    out=3 | is 3 | a path
    """,
    error=OptionError,
)
def test_value_that_makes_no_sense_is_refused_where_it_is_given(refusal: Refusal) -> None:
    name = refusal.statement.partition("=")[0]
    refusal.check(globals(), "Recipe({})", name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, bytes]]:
    """``trained(**options)``: tensors and histories of a run of both stages."""
    folder = tmp_path_factory.mktemp("runs")
    data = data_set(folder / "data.h5", train=24, val=8)

    @functools.cache
    def train(**options: Any) -> dict[str, bytes]:
        out = folder / f"run{train.cache_info().currsize}"
        train_run(Recipe(data, out=out, **options))
        content = {path: path.read_bytes() for path in out.rglob("history.jsonl")}
        for path in out.rglob("*.safetensors"):
            content |= {path / name: x.tobytes() for name, x in load_file(path).items()}
        return {str(path.relative_to(out)): value for path, value in content.items()}

    return train


@pytest.mark.parametrize("name", VARIED)
def test_an_option_changes_what_is_trained(
    name: str, trained: Callable[..., dict[str, bytes]]
) -> None:
    """Beside other options that have another value, or the usual one; or in a longer training."""
    usual, others = small(), varied()
    values = usual[name], others[name]
    pairs = (
        [trained(**{**beside, name: value}) for value in values]
        for beside in (others, usual, {**usual, "epochs": 4 * usual["epochs"]})
    )
    is_used = any(first != second for first, second in pairs)
    assert is_used, (
        f"`{name}` {values[0]} and {values[1]} train the same: Recipe has it, and no stage uses it;"
        " pass it on in xpcap/trainer/train.py"
    )


@pytest.mark.parametrize("options", [small(), varied()], ids=["usual", "other"])
def test_a_training_with_any_options_learns(
    options: dict[str, Any], trained: Callable[..., dict[str, bytes]]
) -> None:
    """At a rate that does not overshoot each epoch is better than the one before."""
    options = of_roles(options, MODEL, TRAINING, LENGTH, CROSS_ENTROPY)
    options |= {"lr": 0.03, "epochs": 5, "score_epochs": 0, "neighbours": False}
    history = trained(**options)["history.jsonl"].splitlines()
    losses = [json.loads(line)["val_loss"] for line in history]
    assert losses == sorted(losses, reverse=True)


def changed(first: dict[str, bytes], second: dict[str, bytes]) -> list[str]:
    """Names of tensors and histories that differ."""
    return [name for name in first.keys() | second.keys() if first.get(name) != second.get(name)]


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, entry in OPTIONS.items()
        if entry.role == UNSTORED and not isinstance(entry.kind, Location)
    ],
)
def test_an_option_that_is_not_stored_changes_nothing(
    name: str, trained: Callable[..., dict[str, bytes]]
) -> None:
    value = other(OPTIONS[name].kind, OPTIONS[name].default)
    names = changed(trained(**varied()), trained(**varied(), **{name: value}))
    assert names == [], f"`{name}` changes a run, and is not in its config: its role is UNSTORED"


@pytest.mark.parametrize("name", [name for name in VARIED if OPTIONS[name].role == SELF_CRITICAL])
def test_an_option_of_self_critical_training_leaves_the_first_stage(
    name: str, trained: Callable[..., dict[str, bytes]]
) -> None:
    runs = trained(**varied()), trained(**{**varied(), name: small()[name]})
    assert changed(*runs), name
    first, second = (
        [line for line in run["history.jsonl"].splitlines() if b"train_loss" in line]
        for run in runs
    )
    assert first == second, f"`{name}` changes cross entropy: its role is SELF_CRITICAL"


@pytest.mark.parametrize(
    ("given", "name", "stage"),
    [
        ({"samples": 3, "score_epochs": 0}, "samples", "self-critical"),
        ({"sharpen": 2.0, "score_epochs": 0}, "sharpen", "self-critical"),
        ({"samples": 3}, "samples", "self-critical"),  # of few captions: one stage
        ({"samples": 3, "data": None}, "samples", "self-critical"),  # as of generated pictures
    ],
)
def test_an_option_that_no_stage_uses_is_refused(
    given: dict[str, Any], name: str, stage: str, tmp_path: Path
) -> None:
    def planned(**given: Any) -> Recipe:
        recipe = Recipe(**{"data": "own.h5", "out": tmp_path / "run"} | given)
        return plan_training(recipe, lambda path, seed: draw_data(6, 4, 12, seed=0)).options

    with refuses(OptionError, f"`{name}`", "no stage of this training uses", stage):
        planned(**given)
    assert planned(samples=3, score_epochs=1).samples == 3
    assert planned(score_epochs=0).samples is None


def test_numbers_of_numpy_are_stored_as_those_of_python() -> None:
    given: dict[str, Any] = {"epochs": np.int64(5), "lr": np.float32(0.5), "clip": 5}
    given["neighbours"] = np.True_
    config = json.loads(json.dumps(Recipe(**given).to_config()))
    assert [config[name] for name in given] == [5, 0.5, 5.0, True]


def test_an_interval_is_seconds_or_steps() -> None:
    assert Recipe(save_every="0.5s").save_interval == SaveInterval(seconds=0.5)
    assert Recipe(save_every="200").save_interval == SaveInterval(steps=200)
    for text in ("0", "0s", "-3", "1.5", "30 s", "soon", "", "s", "1e3s"):
        with refuses(OptionError, f"is {text!r}", "seconds, as in 30s, or steps"):
            Recipe(save_every=text)


@pytest.mark.parametrize(
    ("captions", "batch_size", "lr", "smoothing", "score_epochs", "epochs"),
    [
        (1, 16, 0.001, 0.0, 0, 300),
        (450, 16, 0.001, 0.0, 0, 59),
        (999, 16, 0.001, 0.0, 0, 27),
        (1000, 64, 0.001, 0.1, 5, 75),
        (19_999, 64, 0.001, 0.1, 5, 8),
        (20_000, 128, 0.0014, 0.1, 5, 8),
    ],
)
def test_options_left_open_suit_the_captions(
    captions: int, batch_size: int, lr: float, smoothing: float, score_epochs: int, epochs: int
) -> None:
    recipe = completed_for(captions)
    options = recipe.batch_size, recipe.lr, recipe.smoothing, recipe.score_epochs, recipe.epochs
    assert options == (batch_size, lr, smoothing, score_epochs, epochs)


def test_options_that_are_given_win_over_those_that_suit() -> None:
    given = {"batch_size": 50, "smoothing": 0.3, "score_epochs": 2, "epochs": 7, "lr": 0.5}
    given["select"] = "loss"
    recipe = Recipe(**given).settled(PRESETS["usual"])
    assert [completed_for(n, **given) for n in (100, 10_000)] == [recipe, recipe]
    large = completed_for(10_000, smoothing=0.0, score_epochs=0)
    assert (large.batch_size, large.smoothing, large.score_epochs) == (64, 0.0, 0)
    few, many = (completed_for(n, batch_size=50).epochs for n in (500, 5000))
    assert (few, many) == (170, 12)


def test_config_is_read_back_as_the_recipe(tmp_path: Path) -> None:
    recipe = completed_for(
        300, data="own.h5", out=tmp_path, start=tmp_path / "cross-entropy", seed=7
    )
    config = recipe.to_config()
    assert (config["data"], config["start"]) == (str(Path("own.h5").resolve()), "cross-entropy")
    assert not {"out", "resume", "save_every"} & config.keys()
    read = Recipe.from_config(json.loads(json.dumps(config)), tmp_path)
    assert read == replace(recipe, data=Path("own.h5").resolve(), save_every=None)
    generated = completed_for(300, out=tmp_path).to_config()
    assert (generated["data"], generated["start"]) == (DATA, "")
    again = replace(completed_for(300, out=tmp_path), save_every=None)
    assert Recipe.from_config(generated, tmp_path) == again


def test_a_run_that_starts_from_generated_pictures_is_named_by_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path("runs/pictures-lstm")
    run.mkdir(parents=True)
    (run / CONFIG).touch()
    assert default_out(Recipe(run / DATA)) == Path("runs/pictures-lstm-2")
    assert default_out(Recipe("data.h5")) == Path("runs/data-lstm")  # of no run
    assert default_out(Recipe(cell="gru")) == Path("runs/pictures-gru")


def test_options_are_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with refuses(OptionError, "`objective`", "is self-critical without `start`"):
        train_run(Recipe(out="run", objective="self-critical", **PRESETS["generated"]))
    with refuses(OptionError, "`score_epochs`", "is given with self-critical"):
        train_run(Recipe("own.h5", out="run", objective="self-critical", score_epochs=3))
    assert not list(tmp_path.iterdir())
    assert re.search("`start`", OPTIONS["data"].help)


@pytest.mark.parametrize(
    ("splits", "options", "remark"),
    [
        (1, {"select": "cider"}, "the data has no val split to score: the last epoch is kept"),
        (
            1,
            {"select": "loss", "patience": 1},
            "`patience` 1 is ignored: the data has no val split",
        ),
        (2, {"patience": 1}, "`patience` 1 is ignored: the last epoch is kept"),
    ],
)
def test_options_that_the_data_has_no_use_for_are_remarked_on(
    splits: int, options: dict[str, Any], remark: str, tmp_path: Path
) -> None:
    split, heard = draw_data(6, 4, 12, seed=0), []
    named = {
        name: replace(
            draw_data(6, 4, 12, seed).split("train"), images=[f"{name}{i}" for i in range(6)]
        )
        for seed, name in enumerate(("train", "val")[:splits])
    }
    write_dataset(tmp_path / "data.h5", replace(split, splits=named))
    given = {"hidden": 3, "wordvec": 3, "epochs": 2, "neighbours": False, **options}
    with work(on_notice=heard.append):
        train_run(Recipe(tmp_path / "data.h5", out=tmp_path / "run", **given))
    assert heard == [f"train_run: {remark}"]
    assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) == 2
