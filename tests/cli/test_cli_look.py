"""`look`: what the page says of a run is what the model computes, and what it refuses."""

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import SMALL, call, failing, good
from runs import Runs

pytest.importorskip("PIL.Image")

from xpcap import CaptioningRNN, open_run
from xpcap.encoders import HistogramEncoder, read_picture
from xpcap.layers import CELLS, stack
from xpcap.models import Trace
from xpcap.runs import look as inside

pytestmark = pytest.mark.usefixtures("few_pictures")
SCALED = "--feature-scaling", "standardize"


@pytest.fixture
def rnn(train_once: Runs) -> Path:
    """An RNN trained on the data of `run`."""
    return train_once("--cell", "rnn", *SMALL, *SCALED, name="plain-rnn")


@pytest.fixture
def gru(train_once: Runs) -> Path:
    """A GRU trained on the data of `run`."""
    return train_once("--cell", "gru", *SMALL, *SCALED, name="plain-gru")


@pytest.fixture
def picture(run: Path) -> Path:
    shutil.copy(next(iter(sorted((run / "pictures").iterdir()))), "drawing.png")
    return Path("drawing.png")


def steps(page: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """The word read at each step, and the likeliest next ones with their probabilities."""
    found = []
    for step in re.findall(r"<h3>after <b>.*?</ol>", page, re.DOTALL):
        (word,) = re.findall(r'<b><bdi lang="">(.*?)</bdi>', step)
        found.append((word, re.findall(r"<bdi>(.*?)</bdi> <span>(.*?)</span>", step)))
    return found


def pixels(page: str, name: str) -> np.ndarray:
    """The heatmap (H, T) of a gate or state, as shares of its range."""
    from PIL import Image

    (uri,) = re.findall(rf'src="data:image/png;base64,([^"]+)" alt="{name} of each unit', page)
    with Image.open(io.BytesIO(base64.b64decode(uri))) as image:
        levels = np.asarray(image) / 255
    units = 16
    return levels[:: len(levels) // units, ::20]


@pytest.mark.parametrize("given", [None, "A red zebra"])
def test_the_page_has_the_likeliest_words_of_each_step_and_the_gradients_of_the_trace(
    given: str | None, run: Path, rnn: Path, picture: Path
) -> None:
    options = [] if given is None else ["--caption", given]
    result = good("look", run, picture, "--beside", rnn, *options)
    assert "wrote look-drawing.html" in result.output
    assert ("does not know zebra, and reads <UNK> instead" in result.output) == bool(given)
    page = Path("look-drawing.html").read_text()
    opened, other = open_run(run), open_run(rnn)
    words = ["a", "red", "<UNK>"]
    if given is None:
        words = good("caption", run, picture).output.splitlines()[1].split()[1:]
    features = opened.preprocessing(HistogramEncoder().encode([read_picture(picture)]))
    ids = opened.vocabulary.encode_words([words], len(words))
    trace = opened.model.trace(features, ids)
    p = np.exp(trace.log_probabilities[0])
    shown = [(name.replace("&lt;", "<").replace("&gt;", ">"), rows) for name, rows in steps(page)]
    assert [name for name, _ in shown] == ["<START>", *words]
    for (_, rows), row in zip(shown, p, strict=True):
        best = np.argsort(-row, kind="stable")[:5]
        names = [opened.vocabulary.idx_to_word[i] for i in best]
        assert [name.replace("&lt;", "<").replace("&gt;", ">") for name, _ in rows[:5]] == names
        for (_, odds), i in zip(rows, best, strict=False):
            assert odds in (f"{100 * row[i]:.0f}%", "under 1%", "over 99%")
    for title, model in (("this run (LSTM)", opened.model), ("the other run (RNN)", other.model)):
        last = inside.gradient_sizes(model.trace(features, ids))[-1]
        (row,) = re.findall(rf">{re.escape(title)}</th>(.*?)</tr>", page)
        assert re.findall(r"<td>(.*?)</td>", row)[-2] == inside.percent(last)
    # Gates, cell and hidden state, the units with the highest mean forget gate at the top
    (f, *_), (c, *_) = trace.gates["f"], trace.states["c"]
    order = np.argsort(-f.mean(axis=0), kind="stable")
    assert re.findall(r"<h3>[\w ]+ <i>(\w)</i></h3>", page) == [*"ifogch"]
    np.testing.assert_allclose(pixels(page, "f"), f.T[order], atol=0.003)
    assert np.corrcoef(pixels(page, "c").ravel(), c[1:].T[order].ravel())[0, 1] > 0.99
    for end, beyond in (("below 0.05", f < 0.05), ("above 0.95", f > 0.95)):
        (row,) = re.findall(rf">gate f {end}</th>(.*?)</tr>", page)
        shares = [float(share) for share in re.findall(r">(\d+) %</td>", row)]
        np.testing.assert_allclose(shares, 100 * beyond.mean(axis=1), atol=0.51)
    assert "plain-rnn" in page
    good("look", run, picture)  # a fresh name, and no other run
    assert "the other run" not in Path("look-drawing-2.html").read_text()


def test_the_page_of_a_gru_names_its_gates_and_says_nothing_of_an_lstms(
    gru: Path, rnn: Path, picture: Path
) -> None:
    good("look", gru, picture, "--beside", rnn, "--caption", "a red circle")
    page, opened = Path("look-drawing.html").read_text(), open_run(gru)
    features = opened.preprocessing(HistogramEncoder().encode([read_picture(picture)]))
    ids = opened.vocabulary.encode_words([["a", "red", "circle"]], 3)
    (z,) = opened.model.trace(features, ids).gates["z"]
    assert re.findall(r"<h3>([\w ]+) <i>(\w)</i></h3>", page) == [
        ("Reset gate", "r"),
        ("Update gate", "z"),
        ("Candidate", "n"),
        ("Hidden state", "h"),
    ]
    np.testing.assert_allclose(
        pixels(page, "z"), z.T[np.argsort(-z.mean(axis=0), kind="stable")], atol=0.003
    )
    for words in (
        "word by word in the 16 units of this GRU.",
        "Units are sorted by their mean update gate: those at the top keep their hidden state longest",
        "An open update gate is no fault: it hands the hidden state on.",
        "The hidden state of a GRU has a way around them: in h = (1 − z) · n + z · h it is",
        "in the trained GRU,",
    ):
        assert words in page
    assert "forget" not in page
    assert {*re.findall(r">(gate \w|state) (?:below|above)", page)} == {"gate r", "gate z"}


def test_a_cell_that_names_its_output_otherwise_has_a_page(
    run: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The states of a stack have the numbers of their layers."""
    monkeypatch.setitem(CELLS, "lstm2", stack(CELLS["lstm"], CELLS["lstm"]))
    opened = open_run(run)
    config = replace(opened.model.config, cell="lstm2")
    model = CaptioningRNN.from_config(config, opened.model.word_to_idx, seed=0)
    opened = opened._replace(model=model)
    found = inside.look_inside(opened, picture, caption="a red circle")
    inside.write_inside_page("stack.html", opened, found)
    page = Path("stack.html").read_text()
    assert "Units are sorted by their mean state over the caption" in page
    assert re.findall(r"<i>(\w+)</i></h3>", page) == [
        *(f"{name}{k}" for k in (1, 2) for name in "ifog"),
        *("c1", "h1", "c2", "h2"),
    ]


def test_what_cannot_be_looked_at_is_refused_before_anything_is_written(
    run: Path, picture: Path
) -> None:
    Path("there.html").write_text("mine")
    failing(["look", run, picture, "--out", "there.html"], "look: there.html exists")
    failing(["look", run, picture, "--out", "page.txt"], "does not end in .html")
    failing(["look", run, "nothing.png"], "nothing.png does not exist")
    for caption, says in (("...", "0 words, expected 1 to"), ("red " * 99, "99 words, expected 1")):
        result = call("look", run, picture, "--caption", caption)
        assert (result.exit_code, says in result.output) == (2, True)
    shutil.copytree(run, "other")
    config = json.loads(Path("other/config.json").read_text())
    Path("other/config.json").write_text(json.dumps({**config, "max_words": 7}))
    failing(
        ["look", run, picture, "--beside", "other"], "at most", "same of runs that are compared"
    )
    config["source"].pop("encoder")
    Path("other/config.json").write_text(json.dumps(config))
    failing(["look", "other", picture], "look_inside: other learnt from features that were given")
    assert not list(Path().glob("look-*"))
    assert Path("there.html").read_text() == "mine"


def traced(title: str, cell: str, run: str, factor: float) -> inside.Traced:
    """The trace of four words whose gradient is multiplied by a factor at each step back."""
    steps = np.arange(5)[None, None] - np.arange(4)[None, :, None] - 1  # (1, T, T+1)
    norms = np.where(steps <= 0, factor ** -np.minimum(steps, 0.0), 0)
    gate = np.full((1, 4, 3), [0.95, 0.5, 0.1])
    way = inside.way_of(cell)
    gates = {way.gate: gate} if way else {}
    return inside.Traced(title, cell, run, Trace({}, gates, norms, {}, {"h": 7 * norms}))


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
@pytest.mark.parametrize(
    ("gated", "rnn", "says"),
    [
        (0.9, 0.5, "This is why the CELL: 4 steps back the gradient has 66 % of its size in"),
        (0.5, 0.9, "No fading RNN shows here: 4 steps back the gradient has 6.2 % of its size in"),
    ],
)
def test_the_sentences_are_those_of_the_gradients_at_hand(
    cell: str, gated: float, rnn: float, says: str
) -> None:
    untrained = [
        traced(f"untrained ({cell})", cell, "", 0.7),
        traced("untrained (RNN)", "RNN", "", 0.99),
    ]
    own, other = traced("a", cell, "x", gated), traced("b", "RNN", "y", rnn)
    np.testing.assert_allclose(inside.gradient_sizes(own.trace), gated ** np.arange(5.0))
    found = " ".join(inside.findings([own, other, *untrained])).replace("\xa0", " ")
    assert says.replace("CELL", cell) in found
    way = inside.way_of(cell)
    assert way
    state = way.state
    assert f"1 of 3 units keep more than half of their {state}" in found  # 0.95 ** 3
    turn = "go further" if gated > 0.7 else "fade faster"
    assert f"makes the gradient {turn} here" in found
    assert f"by 0.70 before training, by {gated:.2f} after" in found
    found = " ".join(inside.findings([own, *untrained])).replace("\xa0", " ")
    assert "96 % in an untrained RNN" in found
    assert "This is why" not in found
    found = " ".join(inside.findings([other, *untrained]))
    assert "gates is above" not in found
