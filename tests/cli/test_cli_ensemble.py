"""`caption` and `evaluate` with several runs: they speak as one, and runs that do not fit together
are told what differs.
"""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import SMALL, answer, call, failing, good
from refusals import Refusal, refusals, refuses
from runs import Runs

from xpcap import CaptioningRNN, decode_captions, open_run
from xpcap.data import Vocabulary
from xpcap.data.features import FeatureScaling
from xpcap.errors import DataError
from xpcap.models import Ensemble
from xpcap.runs import Run, open_runs
from xpcap.training import teacher_forced

pytestmark = pytest.mark.usefixtures("few_pictures")


RNN = ["--cell", "rnn", "--hidden", 12, "--wordvec", 6, "--epochs", 3, "--score-epochs", 0]
RNN += ["--inject", "every-step", "--feature-scaling", "standardize", "--seed", 1]


@pytest.fixture(scope="session")
def trained_rnn(trained: Path, train_once: Runs) -> Path:
    """Another run on the data of `trained`, of another cell and size."""
    return train_once(trained / "data.h5", *RNN, "--no-neighbours", name="rnn")


@pytest.fixture
def rnn(trained_rnn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained_rnn, tmp_path / "rnn"))


def captions_of(models: list[CaptioningRNN], run: Run[Any]) -> dict[str, str]:
    """What models say together of the val split, by the library."""
    val, vocabulary = run.data().split("val"), run.vocabulary
    ids = Ensemble(models).sample(
        run.data().features("val", np.arange(14)),
        run.config.max_words,
        forbid=(0, vocabulary.start, vocabulary.unk),
    )
    words = decode_captions(ids, vocabulary.idx_to_word)
    return {
        image: text.replace("<END>", "").strip()
        for image, text in zip(val.images, words, strict=True)
    }


def test_runs_caption_as_one(run: Path, rnn: Path) -> None:
    opened = [open_run(folder) for folder in (run, rnn)]
    expected = captions_of([one.model for one in opened], opened[0])
    assert all(expected != captions_of([one.model], one) for one in opened)
    for folders in ((run, rnn), (rnn, run)):
        said = answer("caption", *folders, "-n", 14)
        assert {one["image"]: one["caption"] for one in said} == expected
    files = [run / "pictures" / name for name in list(expected)[:3]]
    result = good("caption", run, rnn, *files, "--json", "--html", "page.html")
    assert [one["caption"] for one in json.loads(result.stdout)] == [
        expected[file.name] for file in files
    ]
    assert "<title>Captions by run + rnn</title>" in Path("page.html").read_text(encoding="utf-8")
    assert answer("caption", run, run, "-n", 3, "--beam", 3) == json.loads(
        good("caption", run, "-n", 3, "--beam", 3, "--json").stdout,
        parse_float=lambda x: pytest.approx(float(x), rel=1e-4),
    )


def test_runs_are_scored_as_one(run: Path, rnn: Path) -> None:
    """Beside one of them with --against, as every captioner is."""
    opened = [open_run(folder) for folder in (run, rnn)]
    models = [one.model for one in opened]
    data = opened[0].data()
    found = answer("evaluate", run, rnn, "--against", rnn)
    assert found["captions"] == captions_of(models, opened[0])
    perplexities = [
        teacher_forced(
            model, data.encoded_with(opened[0].vocabulary, "val", data.words("val")), "val"
        ).perplexity
        for model in (Ensemble(models), *models)
    ]
    assert [found["scores"]["perplexity"], found["against"]["scores"]["perplexity"]] == [
        perplexities[0],
        perplexities[2],
    ]
    assert (
        math.log(perplexities[0]) < sum(map(math.log, perplexities[1:])) / 2
    )  # the logarithm of a mean is above the mean of logarithms
    assert found["decoding"] == "greedy, probabilities averaged over 2 models"
    text = " ".join(good("evaluate", run, rnn, "--against", run, "--beam", 2).stdout.split())
    assert "beam of 2, length penalty 1, probabilities averaged over 2 models; ±" in text
    assert f"A: {run} + {rnn} B: {run} A B A - B" in text


def test_one_run_alone_is_opened_as_ever(run: Path) -> None:
    alone = open_runs([run])
    assert type(alone.model) is CaptioningRNN
    assert (alone.paths, alone.name) == ((run,), "run")
    assert answer("evaluate", run)["decoding"] == "greedy"


@refusals(
    """
    vocabulary=Vocabulary(run.vocabulary.idx_to_word[:-1]) | got: has another vocabulary, of 59 words instead of 60
    config=replace(run.config, max_words=9) | got: says at most 9 words instead of 25
    inputs=replace(run.inputs, scaling=FeatureScaling()) | got: reads features that are scaled otherwise
    """,
    error=DataError,
    function="open_runs",
    thing="b",
    cause="were they trained on the same",
)
def test_runs_that_do_not_fit_together_are_told_what_differs(
    refusal: Refusal, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"run": open_run(run), "replace": replace}
    names |= {"Vocabulary": Vocabulary, "FeatureScaling": FeatureScaling}
    changed = eval(f"replace(run, path='b', {refusal.statement})", names)
    monkeypatch.setattr(
        "xpcap.runs.run.open_run", lambda path: changed if path == "b" else open_run(path)
    )
    expected = f"the same as {run}, to caption together"
    with refuses(refusal.error, expected=expected, **refusal.fields):
        open_runs([run, run, "b"])


def test_commands_refuse_runs_on_other_data_and_runs_that_are_damaged(run: Path, rnn: Path) -> None:
    good("train", "--out", "strange", *SMALL, "--seed", 1, "--feature-scaling", "standardize")
    for command in ("caption", "evaluate"):
        failing([command, run, "strange"], "open_runs: strange has another vocabulary, of ")
    (rnn / "best.safetensors").unlink()
    failing(["caption", run, rnn], f"open_run: {rnn}/best.safetensors is missing")
    failing(["evaluate", run, "nowhere"], "nowhere does not exist, expected a run folder")


def test_runs_come_before_pictures(run: Path, rnn: Path) -> None:
    """Behind them a run folder would be looked through for pictures, and the one of its curves
    found.
    """
    failing(
        ["caption", run, run / "pictures" / "val00000.png", rnn],
        f"{rnn} is a run folder and stands behind pictures, expected all runs before them",
        status=2,
    )
    result = call(
        "caption",
        run,
        rnn,
        "x" * 5000,
        "http://localhost/x.png",
        "no such run",
        run / "pictures" / "val00000.png",
        "--json",
    )
    assert (result.exit_code, len(json.loads(result.stdout)), result.stderr.count("skipped ")) == (
        0,
        1,
        3,
    )


def test_the_doctor_examines_one_run(run: Path, rnn: Path) -> None:
    failing(
        ["evaluate", run, rnn, "--doctor"],
        "--doctor and 2 runs are given, expected one run: it looks into a single model",
        status=2,
    )
    assert "RUN" in call("evaluate").output.splitlines()[-1]
