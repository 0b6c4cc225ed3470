"""`score`, and `evaluate --against` and `--csv`: captions from anywhere, two runs side by side, a
row a picture.
"""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import SMALL, answer, failing, good

from xpcap.data import open_data, tokenize
from xpcap.metrics import CiderD
from xpcap.runs import scores

pytestmark = pytest.mark.usefixtures("few_pictures")


@pytest.fixture
def evaluated(run: Path) -> dict[str, Any]:
    """What `evaluate` says of the small run, its captions left as ``said.json``, its data as
    ``data.h5``.
    """
    shutil.copyfile(run / "data.h5", "data.h5")
    result = answer("evaluate", run)
    Path("said.json").write_text(json.dumps(result["captions"]))
    return dict(result)


def test_score_gives_captions_the_scores_that_evaluate_gives_their_run(
    evaluated: dict[str, Any],
) -> None:
    scored = answer("score", "said.json", "--data", "data.h5")
    assert scored["captions"] == evaluated["captions"]
    assert scored["scores"] == {
        name: value
        for name, value in evaluated["scores"].items()
        if name not in ("perplexity", "loss", "accuracy")
    }
    assert scored["intervals"] == evaluated["intervals"]
    data = open_data("data.h5")
    references = [[tokenize(text) for text in texts] for texts in data.references("val").values()]
    cider = CiderD(references).scores(
        [evaluated["captions"][name].split() for name in data.split("val").images]
    )
    assert scored["scores"]["cider_d"] == scored["scores"]["cider"] == pytest.approx(cider.mean())
    output = good("score", "said.json", "--data", "data.h5").output
    for words in (
        "val: 14 pictures",
        "± is half of the 95 % interval",
        "CIDEr (CIDEr-D)",
        "ROUGE-L",
        "distinct captions",
    ):
        assert words in output


def test_scores_fit_80_columns_and_how_they_are_measured_stands_once_below(
    evaluated: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    command = "score", "said.json", "--data", "data.h5"
    few = good(*command).output
    assert "people" not in few.partition("How it is measured")[0]  # of 14 pictures
    assert (
        "not scored, since 14 pictures have two different captions and 20 are needed"
        in " ".join(few.split())
    )
    monkeypatch.setattr("xpcap.runs.scores.MIN_PEOPLE", 14)
    output = good(*command).output
    assert max(map(len, (few + output).splitlines())) <= 80
    numbers, below = (part.splitlines() for part in output.split("\nHow it is measured\n"))
    scored = answer(*command)
    human = scored["people"]["scores"]
    heads = next(line for line in numbers if line.startswith("score "))
    assert heads.split() == ["score", "captions", "people"]
    for title, name in (("CIDEr (CIDEr-D)", "cider"), ("length", "length")):
        row = next(line for line in numbers if line.startswith(title))
        assert row[heads.index("people") :] == f"{human[name]:.3f}"
    text = " ".join(" ".join(below).split())
    for protocol in (scored["people"]["protocol"], *scored["protocol"].values()):
        assert text.count(protocol) == 1


def test_score_tokenises_captions_as_references_are(evaluated: dict[str, Any]) -> None:
    loud = {name: f"{caption.upper()} !" for name, caption in evaluated["captions"].items()}
    Path("loud.json").write_text(json.dumps(loud))
    scored = answer("score", "loud.json", "--data", "data.h5")
    assert scored["scores"]["bleu1"] == evaluated["scores"]["bleu1"]


def test_score_wants_one_caption_of_each_picture_and_names_what_it_leaves_out(
    evaluated: dict[str, Any],
) -> None:
    captions = evaluated["captions"]
    Path("more.json").write_text(json.dumps({**captions, "other.png": "a cat"}))
    result = good("score", "more.json", "--data", "data.h5", "--json")
    assert json.loads(result.stdout)["scores"]["cider"] == evaluated["scores"]["cider"]
    assert result.stderr == "score: 1 captions match no picture of split 'val', and are left out\n"
    first = next(iter(captions))
    Path("less.json").write_text(
        json.dumps({name: caption for name, caption in captions.items() if name != first})
    )
    failing(
        ["score", "less.json", "--data", "data.h5"],
        "1 of the 14 pictures of split 'val' have no caption",
        first,
        "another split?",
    )
    failing(
        ["score", "said.json", "--data", "data.h5", "--split", "test"],
        "'test' does not exist",
        "train, val",
    )
    failing(["score", "none.json", "--data", "data.h5"], "none.json", "does not exist")


def test_csv_has_a_row_a_picture_whose_means_are_the_scores(
    run: Path, evaluated: dict[str, Any]
) -> None:
    good("evaluate", run, "--csv", "evaluated.csv")
    good("score", "said.json", "--data", "data.h5", "--csv", "scored.csv")
    assert Path("evaluated.csv").read_bytes() == Path("scored.csv").read_bytes()
    with Path("scored.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["image"]: row["caption"] for row in rows} == evaluated["captions"]
    means = {*rows[0]} & {*evaluated["scores"]} - {"unseen_bigrams"}  # a share of all pairs
    assert means
    for name in means:
        mean = np.mean([float(row[name]) for row in rows])
        assert mean == pytest.approx(evaluated["scores"][name]), name
    for command in (["evaluate", run], ["score", "said.json", "--data", "data.h5"]):
        failing([*command, "--csv", "scored.csv"], "scored.csv exists, and is not overwritten")
        failing([*command, "--csv", "scored.txt"], "scored.txt does not end in .csv")


@pytest.mark.slow
def test_against_gives_paired_differences_of_two_runs(
    run: Path, evaluated: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = iter("ab")
    good("train", "data.h5", "--out", "other", *SMALL, "--hidden", 24)
    theirs = answer("evaluate", "other")
    result = answer("evaluate", run, "--against", "other")
    assert {
        name: value for name, value in result.items() if name not in ("against", "seconds")
    } == {name: value for name, value in evaluated.items() if name != "seconds"}
    against = result["against"]
    assert (against["run"], against["scores"]) == ("other", theirs["scores"])
    assert against["differences"] == {
        name: value - theirs["scores"][name] for name, value in evaluated["scores"].items()
    }
    for name, (low, high) in against["intervals"].items():
        assert low <= against["differences"][name] <= high, name
    assert set(against["intervals"]) == set(evaluated["intervals"])
    itself = answer("evaluate", run, "--against", run)["against"]
    assert set(map(tuple, itself["intervals"].values())) == {(0.0, 0.0)}
    output = good("evaluate", run, "--against", "other").output
    assert f"\nA: {run}\nB: other\n" in output
    assert "A - B" in output
    assert "95 % interval" in output
    assert (against["left_out"], "not compared" in output) == ({}, False)
    monkeypatch.setattr(scores, "_bases", lambda *_: {"vocabulary": next(digests)})
    output = good("evaluate", run, "--against", run).output
    names = "vocabulary: unigram_bleu, perplexity, loss, accuracy"
    assert f"not compared, as the two sides differ in {names}" in " ".join(output.split())
