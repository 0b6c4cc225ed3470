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
from pages import scores
from PIL import Image
from safetensors.numpy import load_file

from xpcap.data import CaptionData, Source
from xpcap.layers import CELLS
from xpcap.models import CaptioningRNN
from xpcap.runs import Run, Scores, evaluate_run, open_run
from xpcap.runs.card import FILES, code, write_run_card
from xpcap.runs.folder import cell_title

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
    with Image.open(run.path / "examples.jpg") as strip:
        assert strip.size == (3 * 256 + 2 * 8, 256)


def test_every_file_of_a_run_is_a_row_of_files(run: Path) -> None:
    listed = {file.name for file in FILES}
    found = {f"{path.name}/" if path.is_dir() else path.name for path in run.iterdir()}
    assert found <= listed, "card.FILES says what it is, in cards and in docs/reference/files.md"
    assert {"best.safetensors", "times.jsonl", "pictures/"} <= found


def test_a_card_lists_the_tensors_that_are_in_the_file(run: Path) -> None:
    table = section((run / "README.md").read_text(encoding="utf-8"), "Tensors")
    rows = dict(re.findall(r"^\| `(\S+)` \| ([\d ×]+) \|", table, re.MULTILINE))
    shapes = {name: x.shape for name, x in load_file(run / "best.safetensors").items()}
    assert {name: tuple(map(int, text.split(" × "))) for name, text in rows.items()} == shapes
    assert "stacked i, f, o, g" in table


def test_the_equations_of_a_card_and_the_tensors_alone_give_the_runs_probabilities(
    run: Path,
) -> None:
    card = section((run / "README.md").read_text(encoding="utf-8"), "Tensors")
    for line in (
        "h0 = feature W_proj + b_proj;  h = h0;  c = 0",
        "a = x Wx + h Wh + b ",
        "i, f, o = sigmoid(a[:, :3H]);  g = tanh(a[:, 3H:])",
        "c = f * c + i * g;  h = o * tanh(c)",
        "logits = h W_vocab + b_vocab",
    ):
        assert f"\n    {line}" in card
    x = load_file(run / "best.safetensors")
    data, opened = few(0), open_run(run)
    feature = data.split("val").features[:3].astype(np.float64)
    h = (feature - x["feature_scaling.mean"]) / x["feature_scaling.scale"] @ x["W_proj"]
    h, c, nll = h + x["b_proj"], 0.0, 0.0
    captions = data.split("val").captions[[0, 5, 10]]  # of the first three pictures, five each
    for words, targets in zip(captions.T[:-1], captions.T[1:], strict=True):
        a = x["W_embed"][words] @ x["Wx"] + h @ x["Wh"] + x["b"]
        i, f, o = np.split(1 / (1 + np.exp(-a[:, : 3 * h.shape[1]])), 3, axis=1)
        c = f * c + i * np.tanh(a[:, 3 * h.shape[1] :])
        h = o * np.tanh(c)
        logits = h @ x["W_vocab"] + x["b_vocab"]
        each = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(3), targets]
        nll += each[targets != data.vocabulary.null].sum()
    data.scaling = opened.scaling
    expected = opened.model.score(data.features("val", np.arange(3)), captions).nll
    assert nll == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("cell", [*CELLS, "plain"])
@pytest.mark.usefixtures("new_cells")
def test_a_card_has_the_equations_of_its_cell(
    cell: str, scored: tuple[Run, Scores, CaptionData]
) -> None:
    run, _, data = scored
    config = replace(run.model.config, cell=cell, inject="every-step")
    model = CaptioningRNN.from_config(config, run.model.word_to_idx, seed=0)
    write_run_card(replace(run, model=model), None, data)
    card = (run.path / "README.md").read_text(encoding="utf-8")
    assert f" {cell.upper()} of 16 units writes a caption word by word" in card
    lines = [line.format(term=" + h0 W_image") for line in CELLS[cell].equations]
    assert "\n    ".join((*lines, "logits = h W_vocab + b_vocab")) in card


@pytest.mark.parametrize("cell", CELLS)
def test_the_equations_of_a_card_give_the_states_of_its_cell(
    cell: str, scored: tuple[Run, Scores, CaptionData]
) -> None:
    """A second step, whose state before is not zero, computed from the lines that the card shows."""
    run, _, data = scored
    config = replace(run.model.config, cell=cell, inject="init")
    model = CaptioningRNN.from_config(config, run.model.word_to_idx, dtype=np.float64, seed=0)
    draws = np.random.default_rng(0).standard_normal(model.params.flat.shape)
    model.params.flat = draws / 2  # vectors begin at zero
    write_run_card(replace(run, model=model), None, data)
    card = (run.path / "README.md").read_text(encoding="utf-8")
    assert f"\n# `run`\n\nAn image captioner: {cell_title(cell)} of 16 units" in card
    ids = np.array([[data.vocabulary.start, 5, data.vocabulary.end]])
    traced, H = model.trace(np.ones((1, *config.feature_shape)), ids), config.hidden

    def sigmoid(a: np.ndarray) -> Any:
        gates = np.split(1 / (1 + np.exp(-a)), a.shape[1] // H, axis=1)
        return gates if len(gates) > 1 else gates[0]

    names: dict[str, Any] = {
        **model.params,
        **{name: state[0, 1:2] for name, state in traced.states.items()},
        **{"x": model.params["W_embed"][ids[0, 1:2]], "H": H},
        **{"tanh": np.tanh, "sigmoid": sigmoid},
    }
    shown = section(card, "Tensors").partition(" h = h0")[2].partition("logits = ")[0]
    for line in shown.splitlines()[1:]:
        for statement in line.split(" (N, ")[0].split(";"):
            product = re.sub(r"\b(x|h) W", r"\1 @ W", statement)
            exec(re.sub(r"\b(\d)H", r"\1 * H", product).strip(), names)
    for name, state in traced.states.items():
        np.testing.assert_allclose(names[name], state[0, 2:3], rtol=1e-12, err_msg=name)


def test_a_card_names_the_run_that_training_started_from(
    scored: tuple[Run, Scores, CaptionData],
) -> None:
    run, evaluation, data = scored
    recipe = replace(run.config.recipe, start="/home/someone/runs/base")
    config = replace(run.config, recipe=recipe, start_digest="0123abc")
    write_run_card(replace(run, config=config), evaluation, data)
    card = (run.path / "README.md").read_text(encoding="utf-8")
    assert "started from the run `base`, SHA-256 of its `best.safetensors` `0123abc`" in card
    assert "someone" not in card


def test_the_text_of_a_data_set_is_only_ever_code_in_a_card(
    scored: tuple[Run, Scores, CaptionData],
) -> None:
    run, evaluation, data = scored
    source = Source(encoder=HOSTILE, record={"captions": [HOSTILE]})
    recipe = replace(run.config.recipe, data=f"/x/{HOSTILE.replace('/', '')}.h5")
    config = replace(run.config, recipe=recipe, source=source)
    captions = [one._replace(image=HOSTILE, caption=HOSTILE) for one in evaluation.captions]
    write_run_card(replace(run, config=config), replace(evaluation, captions=captions), data)
    card = (run.path / "README.md").read_text(encoding="utf-8")
    names = "license library_name pipeline_tag tags metrics model-index"
    assert {*fields(card)} == set(names.split())
    assert fields(card)["license"] == "unknown"
    body = card.split("---\n", 2)[2]
    assert body.count("javascript") == 3 + 3 + 1 + 1 + 1  # names, captions, files, encoder
    outside = SPAN.sub("", re.sub(r"^```.*?^```$", "", body, flags=re.MULTILINE | re.DOTALL))
    for sign in ("javascript", "<img", "</code>", "license:", "\n---\n", "\u202e", "\x1b", "`"):
        assert sign not in outside.replace("set `license`", "")


def test_the_texts_of_a_foreign_metric_stay_in_their_cells(
    scored: tuple[Run, Scores, CaptionData],
) -> None:
    run, _, data = scored
    write_run_card(run, scores(HOSTILE, protocol=HOSTILE), data)
    table = section((run.path / "README.md").read_text(encoding="utf-8"), "Scores")
    (row,) = (line for line in table.splitlines() if line.startswith("|") and "script" in line)
    assert row.count("|") == 6
    assert not set("`[]<>\u202e\x1b") & set(row)


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
    scored: tuple[Run, Scores, CaptionData],
) -> None:
    run, _, data = scored
    write_run_card(run, None, data)
    card = (run.path / "README.md").read_text(encoding="utf-8")
    assert "model-index" not in fields(card)
    assert "None: the data has no val split." in section(card, "Scores")
    assert not (run.path / "examples.jpg").exists()
    assert "examples.jpg" not in card


def test_a_card_counts_what_its_data_holds(scored: tuple[Run, Scores, CaptionData]) -> None:
    run, evaluation, data = scored
    ids = data.split("val").captions
    ids[:, 1] = data.vocabulary.unk
    write_run_card(run, evaluation, data)
    words = int((ids > max(data.vocabulary.null, data.vocabulary.start, data.vocabulary.end)).sum())
    shown = section((run.path / "README.md").read_text(encoding="utf-8"), "Data")
    assert f"- Split `val`: 14 pictures, 70 captions, {70 / words:.2%} of their words unknown" in (
        shown
    )
    assert np.unique(ids[:, 1]).tolist() == [data.vocabulary.unk]
