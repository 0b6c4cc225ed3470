"""The model card of a run: what it says is what the run's files hold, and text of the data stays
text in it.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("PIL")

from commands import few
from PIL import Image
from safetensors.numpy import load_file

from xpcap.data import CaptionData
from xpcap.data.dataset import Source
from xpcap.runs import Evaluation, Run, evaluate_run, open_run
from xpcap.runs.card import code, write_card

HOSTILE = (
    '</code> ` ``` [x](javascript:x) | <img src=x onerror=x> \n---\nlicense: "mit"\n# \u202e \x1b'
)
SPAN = re.compile(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)")


def fields(card: str) -> dict[str, Any]:
    """The front matter; each line is a key and JSON, which is YAML too."""
    start, front, _ = card.split("---\n", 2)
    assert start == ""
    return {
        name: json.loads(value)
        for name, value in (line.split(": ", 1) for line in front.splitlines())
    }


def section(card: str, title: str) -> str:
    return card.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.fixture
def scored(run: Path) -> tuple[Run, Evaluation, CaptionData]:
    opened, data = open_run(run), few(0)
    return opened, evaluate_run(opened, data), data


def test_a_card_has_the_scores_of_the_run_where_a_hub_looks_for_them(
    scored: tuple[Run, Evaluation, CaptionData],
) -> None:
    run, evaluation, _ = scored
    card = (run.path / "README.md").read_text(encoding="utf-8")  # as training left it
    found = fields(card)
    (model,) = found["model-index"]
    (result,) = model["results"]
    assert model["name"] == "run"
    assert found["pipeline_tag"] == result["task"]["type"] == "image-to-text"
    assert result["dataset"]["split"] == "val"
    assert {one["name"]: one["value"] for one in result["metrics"]} == {
        title: round(evaluation.scores[name], 4)
        for title, name in (
            ("BLEU-4", "bleu4"),
            ("ROUGE-L", "rouge_l"),
            ("CIDEr-D", "cider"),
            ("perplexity of the references", "perplexity"),
        )
    }
    table = section(card, "Scores")
    for title, value, width, _ in evaluation.rows():
        assert f"| {title} | {value} | {width.removeprefix('± ')} |" in table
    with Image.open(run.path / "examples.jpg") as strip:
        assert strip.size == (3 * 256 + 2 * 8, 256)


def test_a_card_lists_the_tensors_that_are_in_the_file(run: Path) -> None:
    table = section((run / "README.md").read_text(encoding="utf-8"), "Tensors")
    rows = dict(re.findall(r"^\| `(\S+)` \| ([\d ×]+) \|", table, re.MULTILINE))
    shapes = {name: x.shape for name, x in load_file(run / "best.safetensors").items()}
    assert {name: tuple(map(int, text.split(" × "))) for name, text in rows.items()} == shapes
    assert "stacked i, f, o, g" in table


def test_the_text_of_a_data_set_is_only_ever_code_in_a_card(
    scored: tuple[Run, Evaluation, CaptionData],
) -> None:
    run, evaluation, data = scored
    source = Source(encoder=HOSTILE, record={"captions": [HOSTILE]}).to_json()
    config = {**run.config, "data": f"/x/{HOSTILE.replace('/', '')}.h5", "source": source}
    captions = [one._replace(image=HOSTILE, caption=HOSTILE) for one in evaluation.captions]
    write_card(run._replace(config=config), replace(evaluation, captions=captions), data)
    card = (run.path / "README.md").read_text(encoding="utf-8")
    assert {*fields(card)} == {
        "license",
        "library_name",
        "pipeline_tag",
        "tags",
        "metrics",
        "model-index",
    }
    assert fields(card)["license"] == "unknown"
    body = card.split("---\n", 2)[2]
    assert body.count("javascript") == 3 + 3 + 1 + 1 + 1  # names, captions, files, encoder
    outside = SPAN.sub("", re.sub(r"^```.*?^```$", "", body, flags=re.MULTILINE | re.DOTALL))
    for sign in ("javascript", "<img", "</code>", "license:", "\n---\n", "\u202e", "\x1b", "`"):
        assert sign not in outside.replace("set `license`", "")


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("a dog", "`a dog`"),
        ("a`b", "``a`b``"),
        ("`", "`` ` ``"),
        ("x\n# y", "`x # y`"),
        ("\u202eabc", r"`\u202eabc`"),
        ("", "`(nothing)`"),
        ("x" * 999, f"`{'x' * 200}…`"),
    ],
)
def test_code_spans_hold_any_text(text: str, span: str) -> None:
    assert code(text) == span


def test_a_run_without_a_val_split_has_a_card_without_scores(
    scored: tuple[Run, Evaluation, CaptionData],
) -> None:
    run, _, data = scored
    write_card(run, None, data)
    card = (run.path / "README.md").read_text(encoding="utf-8")
    assert "model-index" not in fields(card)
    assert "None: the data has no val split." in section(card, "Scores")
    assert not (run.path / "examples.jpg").exists()
    assert "examples.jpg" not in card


def test_a_card_counts_what_its_data_holds(scored: tuple[Run, Evaluation, CaptionData]) -> None:
    run, evaluation, data = scored
    ids = data.split("val").captions
    ids[:, 1] = data.vocabulary.unk
    write_card(run, evaluation, data)
    words = int((ids > max(data.vocabulary.null, data.vocabulary.start, data.vocabulary.end)).sum())
    shown = section((run.path / "README.md").read_text(encoding="utf-8"), "Data")
    assert f"- Split `val`: 14 pictures, 70 captions, {70 / words:.2%} of their words unknown" in (
        shown
    )
    assert np.unique(ids[:, 1]).tolist() == [data.vocabulary.unk]
