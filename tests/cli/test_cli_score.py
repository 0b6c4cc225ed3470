"""`score`, and `evaluate --against` and `--csv`: captions from anywhere, two runs side by side, a
row a picture.
"""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import answer, failing, good

from xpcap.captioning import scores
from xpcap.captioning.scores import Comparison, Scores
from xpcap.data import open_data, tokenize
from xpcap.metrics import CiderD

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
    loud = {name: f"{caption.upper()} !" for name, caption in evaluated["captions"].items()}
    Path("loud.json").write_text(json.dumps(loud))  # tokenised as references are
    assert answer("score", "loud.json", "--data", "data.h5")["scores"] == scored["scores"]
    data = open_data("data.h5")
    references = [[tokenize(text) for text in texts] for texts in data.references("val").values()]
    cider = CiderD(references).scores(
        [evaluated["captions"][name].split() for name in data.split("val").images]
    )
    assert scored["scores"]["cider_d"] == scored["scores"]["cider"] == pytest.approx(cider.mean())


def test_scores_fit_80_columns_and_how_they_are_measured_stands_once_below(
    evaluated: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    command = "score", "said.json", "--data", "data.h5"
    few = good(*command).output
    for words in ("val: 14 pictures", "± is half of the 95 % interval", "ROUGE-L", "distinct"):
        assert words in few
    assert "people" not in few.partition("How it is measured")[0]  # of 14 pictures
    assert (
        "not scored, since 14 pictures have two different captions and 20 are needed"
        in " ".join(few.split())
    )
    monkeypatch.setattr("xpcap.captioning.scores.MIN_PEOPLE", 14)
    output = good(*command).output
    assert max(map(len, (few + output).splitlines())) <= 80
    numbers, below = (part.splitlines() for part in output.split("\nHow it is measured\n"))
    scored = answer(*command)
    human = scored["people"]["scores"]
    first = next(row for row, line in enumerate(numbers) if line.startswith("BLEU-1..4"))
    assert [line[:9].strip() for line in numbers[first : first + 4]] == ["BLEU-1..4", "", "", ""]
    heads = next(line for line in numbers if line.startswith("score "))
    assert heads.split() == ["score", "captions", "people"]
    for title, name in (("CIDEr (CIDEr-D)", "cider"), ("length", "length")):
        row = next(line for line in numbers if line.startswith(title))
        assert row[heads.index("people") :] == f"{human[name]:.3f}"
    text = " ".join(" ".join(below).split())
    for protocol in (scored["people"]["protocol"], *scored["protocol"].values()):
        assert text.count(protocol) == 1


def test_score_wants_one_caption_of_each_picture_and_names_what_it_leaves_out(
    evaluated: dict[str, Any],
) -> None:
    captions = evaluated["captions"]
    Path("more.json").write_text(json.dumps({**captions, "other.png": "a cat"}))
    result = good("score", "more.json", "--data", "data.h5", "--json")
    assert json.loads(result.stdout)["scores"]["cider"] == evaluated["scores"]["cider"]
    assert result.stderr == "score: captions left out, without a picture in 'val': 1\n"
    first = next(iter(captions))
    Path("less.json").write_text(
        json.dumps({name: caption for name, caption in captions.items() if name != first})
    )
    for options, words in {
        "less.json": f"1 of the 14 pictures of split 'val' have no caption | {first} | split?",
        "said.json --split test": "'test' does not exist | train, val",
        "none.json": "none.json | does not exist",
    }.items():
        failing(["score", "--data", "data.h5", *options.split()], *words.split(" | "))


def test_csv_has_a_row_a_picture_whose_means_are_the_scores(
    run: Path, evaluated: dict[str, Any], monkeypatch: pytest.MonkeyPatch
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
    for opening in ("evaluate.open_run", "score.open_data"):
        monkeypatch.setattr(f"xpcap.cli.{opening}", lambda *args: pytest.fail("work was done"))
    for command in (["evaluate", run], ["score", "said.json", "--data", "data.h5"]):
        failing([*command, "--csv", "scored.csv"], "scored.csv exists, and is not overwritten")
        failing([*command, "--csv", "scored.txt"], "scored.txt does not end in .csv")


def test_against_gives_paired_differences_of_two_runs(
    run: Path, gru: Path, evaluated: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, result = answer("evaluate", gru), answer("evaluate", run, "--against", gru)
    against = result.pop("against")
    del result["seconds"], evaluated["seconds"]
    assert result == evaluated
    assert (against["run"], against["scores"]) == (str(gru), theirs["scores"])
    assert against["differences"] == {
        name: value - theirs["scores"][name] for name, value in evaluated["scores"].items()
    }
    assert any(against["differences"].values())
    assert against["left_out"] == {}
    assert set(against["intervals"]) == set(evaluated["intervals"])
    for name, (low, high) in against["intervals"].items():
        assert low <= against["differences"][name] <= high, name
    itself = answer("evaluate", run, "--against", run)["against"]
    assert {*map(tuple, itself["intervals"].values())} == {(0.0, 0.0)}

    def compare(*sides: Scores) -> Comparison:
        reasons = dict.fromkeys(("loss", "accuracy"), "the two sides differ in vocabulary")
        return replace(scores.compare(*sides), left_out=reasons)

    output = good("evaluate", run, "--against", gru).output
    assert "not compared" not in output
    for words in (f"\nA: {run}\nB: {gru}\n", "A - B", "95 % interval"):
        assert words in output
    monkeypatch.setattr("xpcap.cli.evaluate.compare", compare)
    output = good("evaluate", run, "--against", gru).output
    assert "not compared, as the two sides differ in vocabulary: loss, accuracy\n" in output
