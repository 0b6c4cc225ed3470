"""Runs as objects: their config.json, and what fits them."""

import functools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import refuses

from xpcap import Recipe, evaluate_run, open_data, train_run
from xpcap.data import Source, write_dataset
from xpcap.distributed.work import work
from xpcap.errors import DataError
from xpcap.prepare import CaptionRow, assemble
from xpcap.runs.config import Config
from xpcap.runs.folder import CONFIG, TRAINED_ON
from xpcap.runs.run import Run

OWN = "onnx:here/a.onnx:mean=0:sha256=0001"


def test_a_config_is_written_as_it_was_read(run: Path) -> None:
    text = (run / CONFIG).read_text()
    Config.read(run).write(run)
    assert (run / CONFIG).read_text() == text


def test_a_run_of_a_cell_that_a_program_adds_is_opened_by_that_program(run: Path) -> None:
    config = {**json.loads((run / CONFIG).read_text()), "cell": "nobodys"}
    (run / CONFIG).write_text(json.dumps(config))
    with refuses(
        DataError,
        "cell",
        "is 'nobodys'",
        "lstm",
        "first import the module that adds this cell to CELLS, or use its program",
    ):
        Config.read(run)


# Data that a run was trained on, and other data


def prepared(
    path: str,
    *,
    encoder: str | None = "one",
    seed: int = 0,
    names: str = "p",
    D: int = 16,
    val: range = range(40, 60),
) -> str:
    """A data set of 60 pictures, with features that `seed` draws."""
    pictures = [f"{names}{number:02}.jpg" for number in range(60)]
    rows = np.random.default_rng(seed).standard_normal((60, D)).astype(np.float32)
    captions = [
        CaptionRow(name, f"a {'red blue green'.split()[i % 3]} cat", "val" if i in val else "train")
        for i, name in enumerate(pictures)
    ]
    data = assemble(captions, features=dict(zip(pictures, rows, strict=True)), min_count=1)
    write_dataset(path, replace(data, source=Source(encoder=encoder)))
    return path


def trained(data: str, out: str = "run", **options: Any) -> Run:
    sizes = {"hidden": 8, "wordvec": 4, "epochs": 1, "score_epochs": 0, "lr_decay": 0.9}
    return train_run(Recipe(data, out=out, **{**sizes, **options})).run


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """``base(encoder)``: a run on data prepared with that encoder, ``own.h5``, trained once."""

    @functools.cache
    def once(encoder: str | None = "one") -> Run:
        folder = tmp_path_factory.mktemp("base")
        return trained(prepared(f"{folder}/own.h5", encoder=encoder), f"{folder}/run")

    return once


@pytest.fixture
def notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Notices of the test, which works in an empty folder."""
    monkeypatch.chdir(tmp_path)
    heard: list[str] = []
    with work(on_notice=heard.append):
        yield heard


@pytest.mark.usefixtures("notices")
@pytest.mark.parametrize("change", [{"seed": 1}, {"encoder": "two"}])
def test_data_prepared_again_is_neither_trained_on_nor_scored_as_the_runs(
    change: dict[str, Any],
) -> None:
    run = trained(prepared("own.h5"))
    Path("own.h5").unlink()
    prepared("own.h5", **change)
    before = {path: path.read_bytes() for path in run.path.iterdir()}
    with refuses(DataError, "own.h5", "is not the data that run began with"):
        trained("own.h5", resume=True, epochs=2)
    assert {path: path.read_bytes() for path in run.path.iterdir()} == before
    with refuses(DataError, "own.h5, the data of run", "has changed since training"):
        evaluate_run(run)


@pytest.mark.parametrize(
    ("encoder", "other", "unnamed"),
    [
        ("one", "one", ""),
        (OWN, OWN.replace("here", "there"), ""),
        ("one", None, "the data set"),
        (None, "one", "{run}"),
        (None, None, "the data set and {run}"),
    ],
)
def test_other_data_is_scored_and_trained_on_if_its_features_fit_or_may_fit(
    encoder: str | None,
    other: str | None,
    unnamed: str,
    base: Callable[..., Run],
    notices: list[str],
) -> None:
    run = base(encoder)
    data = open_data(prepared("other.h5", encoder=other, seed=1, names="q"))
    notices.clear()
    evaluate_run(run)
    if encoder is other is None:
        trained(str(run.config.data), "same", start=run.path)
    assert notices == []
    evaluate_run(run, run.data(data))
    names = unnamed.format(run=run.path)
    told = [f"the encoder of the features of {names} is unknown"] * bool(names)
    assert [notice.partition(", so they may not fit")[0] for notice in notices] == told
    if encoder is other is None:
        before = [*notices]
        notices.clear()
        trained("other.h5", "from", start=run.path)
        assert notices == before


@pytest.mark.usefixtures("notices")
@pytest.mark.parametrize(
    ("encoder", "change", "got"),
    [
        ("one", {"encoder": "two"}, "has features by the encoder 'two' instead of 'one'"),
        (OWN, {"encoder": OWN.replace("1", "2")}, "has features by the encoder 'onnx:"),
        ("one", {"D": 9}, "has features of size 9 instead of 16"),
    ],
)
def test_data_whose_features_do_not_fit_is_neither_scored_nor_trained_on(
    encoder: str, change: dict[str, Any], got: str, base: Callable[..., Run]
) -> None:
    run = base(encoder)
    other = prepared("other.h5", **change)
    with refuses(DataError, "other.h5", got):
        evaluate_run(run, other)
    with refuses(DataError, "the data set", got):
        trained(other, "from", start=run.path)
    assert not Path("from").exists()


# Pictures that a run was trained on


@pytest.mark.parametrize(
    ("data", "split", "count"),
    [
        ({}, "val", 0),
        ({}, "train", 40),
        ({"names": "q"}, "train", 40),  # by features
        ({"seed": 1}, "train", 40),  # by names
        ({"seed": 1, "names": "q"}, "train", 0),
        ({"seed": 1, "val": range(38, 60)}, "val", 2),
    ],
)
def test_an_evaluation_says_how_many_pictures_the_run_was_trained_on(
    data: dict[str, Any], split: str, count: int, base: Callable[..., Run], notices: list[str]
) -> None:
    run = base()
    scores = evaluate_run(run, prepared("other.h5", **data), split)
    first = "38.jpg, p39.jpg" if count == 2 else f"00.jpg, {data.get('names', 'p')}01.jpg"
    told = [f"was trained on {count} of the {scores.n} pictures of {split}, recognised", first]
    assert [all(words in notice for words in told) for notice in notices] == [True] * bool(count)
    assert scores.to_json()["trained_on"] == count
    assert (f"({count} of them trained on)" in scores.summary) == bool(count)


def test_pictures_of_the_run_that_training_started_from_count_as_trained_on(
    base: Callable[..., Run], notices: list[str]
) -> None:
    start = base()
    other = prepared("other.h5", names="q", val=range(5))
    run = trained(other, "from", start=start.path, score_epochs=1)
    told = "was trained on 5 of the 5 pictures of val"
    found = [notice.partition(", recognised")[0] for notice in notices]
    assert found == [f"{start.path} {told}", f"from {told}"]
    assert "The run was trained on 5 of these pictures" in (run.path / "README.md").read_text()
    assert evaluate_run(run, str(start.config.data), "train").trained_on == 40


@pytest.mark.parametrize("content", [None, "{", '{"names": [1], "features": []}'])
def test_a_run_whose_record_of_pictures_is_lost_is_scored_and_says_so(
    content: str | None, base: Callable[..., Run], notices: list[str]
) -> None:
    run = replace(base(), path=Path(shutil.copytree(base().path, "run")))
    (run.path / TRAINED_ON).unlink()
    if content is not None:
        (run.path / TRAINED_ON).write_text(content)
    scores = evaluate_run(run)
    (notice,) = notices
    assert notice.startswith("the pictures that run was trained on are unknown: ")
    assert scores.trained_on is None
