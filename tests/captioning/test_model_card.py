"""The model card of a run: what it says is what the run's files hold, and text of the data stays
text in it.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import few
from pages import scores

from xpcap.captioning.model_card import FILES, MODEL_CARD, code, write_model_card
from xpcap.captioning.pages import PAGE, write_run_page
from xpcap.captioning.scores import Scores, evaluate_run
from xpcap.data import CaptionData, Source
from xpcap.runs.run import Run, open_run

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
def scored(run: Path) -> tuple[Run, Scores, CaptionData]:
    opened, data = open_run(run), few(0)
    return opened, evaluate_run(opened, data), data


def test_a_card_has_the_scores_of_the_run_where_a_hub_looks_for_them(
    scored: tuple[Run, Scores, CaptionData],
) -> None:
    run, evaluation, _ = scored
    card = (run.path / "README.md").read_text(encoding="utf-8")  # as training left it
    what = "An image captioner: an LSTM of 16 units writes a caption word by word"
    assert f"\n# `run`\n\n{what}" in card
    assert "- Split `val`: 14 pictures, 70 captions\n" in section(card, "Data and licences")
    assert "\n- `best.safetensors`: the parameters" in card
    found = fields(card)
    (model,) = found["model-index"]
    (result,) = model["results"]
    assert model["name"] == "run"
    assert found["pipeline_tag"] == result["task"]["type"] == "image-to-text"
    assert result["dataset"]["split"] == "val"
    assert {one["name"]: one["value"] for one in result["metrics"]} == {
        hub.title: round(evaluation.scores[hub.score], 4)
        for result in evaluation.results
        if (hub := result.metric.hub)
    }
    table = section(card, "Scores")
    for title, value, width, *_ in evaluation.rows():
        assert f"| {title} | {value} | {width.removeprefix('± ')} |" in table


def test_every_file_of_a_run_is_a_row_of_files(run: Path) -> None:
    found = {f"{path.name}/" if path.is_dir() else path.name for path in run.iterdir()}
    assert found <= {*FILES}, "card.FILES says what it is, in cards and in docs/reference/files.md"
    assert {"best.safetensors", "times.jsonl", "pictures/"} <= found


def test_card_and_page_name_a_start_and_an_encoders_file_without_their_folders(
    scored: tuple[Run, Scores, CaptionData],
) -> None:
    run, evaluation, data = scored
    recipe = replace(run.config.recipe, start="/home/someone/runs/base")
    source = Source(encoder=r"onnx:C:\someone/net.onnx:output=/a/b:sha256=ab", pictures="/someone")
    run = replace(run, config=replace(run.config, recipe=recipe, source=source))
    write_model_card(run, evaluation, data)
    write_run_page(run, [], None, data)
    card, page = ((run.path / name).read_text(encoding="utf-8") for name in (MODEL_CARD, PAGE))
    assert "started from the run `base`, and so from its data too" in card
    for text in (card, page):
        assert "onnx:net.onnx:output=/a/b:sha256=ab" in text
        assert "someone" not in text


def test_the_text_of_a_data_set_is_only_ever_code_in_a_card(
    scored: tuple[Run, Scores, CaptionData],
) -> None:
    run, evaluation, data = scored
    source = Source(encoder=HOSTILE, record={"captions": [HOSTILE]})
    recipe = replace(run.config.recipe, data=f"/x/{HOSTILE.replace('/', '')}.h5")
    config = replace(run.config, recipe=recipe, source=source)
    write_model_card(replace(run, config=config), evaluation, data)
    card = (run.path / "README.md").read_text(encoding="utf-8")
    names = "license library_name pipeline_tag tags metrics model-index"
    assert {*fields(card)} == set(names.split())
    assert fields(card)["license"] == "unknown"
    body = card.split("---\n", 2)[2]
    assert body.count("javascript") == 3  # data set, captions file, encoder
    outside = SPAN.sub("", re.sub(r"^```.*?^```$", "", body, flags=re.MULTILINE | re.DOTALL))
    for sign in ("javascript", "<img", "</code>", "license:", "\n---\n", "\u202e", "\x1b", "`"):
        assert sign not in outside.replace("set `license`", "")


def test_the_texts_of_a_foreign_metric_stay_in_their_cells(
    scored: tuple[Run, Scores, CaptionData],
) -> None:
    run, _, data = scored
    write_model_card(run, scores(HOSTILE, protocol=HOSTILE), data)
    table = section((run.path / "README.md").read_text(encoding="utf-8"), "Scores")
    (row,) = (line for line in table.splitlines() if line.startswith("|") and "script" in line)
    assert row.count("|") == 6
    assert not set("`[]<>\u202e\x1b") & set(row)


def test_code_spans_hold_any_text() -> None:
    for text, span in {
        "a dog": "`a dog`",
        "a`b": "``a`b``",
        "`": "`` ` ``",
        "x\n# y": "`x # y`",
        "\u202eabc": r"`\u202eabc`",
        "": "`(nothing)`",
        "x" * 999: f"`{'x' * 200}…`",
    }.items():
        assert code(text) == span


def test_a_run_without_a_val_split_has_a_card_without_scores(
    scored: tuple[Run, Scores, CaptionData],
) -> None:
    run, _, data = scored
    write_model_card(run, None, data)
    card = (run.path / "README.md").read_text(encoding="utf-8")
    assert "model-index" not in fields(card)
    assert "None: the data has no val split." in section(card, "Scores")
