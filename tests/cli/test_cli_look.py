"""`look`: what the page says of a run is what the model computes, and what it refuses."""

import base64
import html
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import call, failing, good
from new_cells import NEW_CELLS

from xpcap import CaptioningRNN, open_run
from xpcap.captioning.look import gradient_sizes, look_inside, look_page, percent
from xpcap.encoders import HistogramEncoder, read_picture
from xpcap.models import Trace

pytestmark = pytest.mark.usefixtures("few_pictures")


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
    given: str | None, run: Path, picture: Path
) -> None:
    options = [] if given is None else ["--caption", given]
    result = good("look", run, picture, *options)
    assert "wrote look-drawing.html" in result.output
    assert ("does not know zebra, and reads <UNK> instead" in result.output) == bool(given)
    page = Path("look-drawing.html").read_text()
    opened = open_run(run)
    words = ["a", "red", "<UNK>"]
    if given is None:
        words = good("caption", run, picture).output.splitlines()[1].split()[1:]
    features = opened.scaling(HistogramEncoder().encode([read_picture(picture)]))
    ids = opened.vocabulary.encode_words([words], len(words))
    trace = opened.model.trace(features, ids)
    p = np.exp(trace.log_probabilities[0])
    shown = steps(html.unescape(page))
    assert [name for name, _ in shown] == ["<START>", *words]
    for (_, rows), row in zip(shown, p, strict=True):
        best = np.argsort(-row, kind="stable")[:5]
        assert [name for name, _ in rows[:5]] == [opened.vocabulary.idx_to_word[i] for i in best]
        for (_, odds), i in zip(rows, best, strict=False):
            assert odds in (f"{100 * row[i]:.0f}%", "under 1%", "over 99%")
    words = opened.vocabulary.word_to_idx
    untrained = CaptioningRNN.from_config(
        opened.model.config, words, seed=opened.config.recipe.seed
    )
    for title, model in (("this run", opened.model), ("untrained", untrained)):
        sizes = gradient_sizes(model.trace(features, ids))
        each = (sizes[-1] / sizes[1]) ** (1 / (len(sizes) - 2))
        (row,) = re.findall(rf">{title}</th>(.*?)</tr>", page)
        last = [percent(sizes[-1]), f"× {each:.2f}"]
        assert re.findall(r"<td>(.*?)</td>", row)[-2:] == last
    assert re.findall(r"<h3>[\w ]+ <i>(\w)</i></h3>", page) == [*"ifogch"]  # gates and states
    (f,) = trace.gates["f"]
    for end, beyond in (("below 0.05", f < 0.05), ("above 0.95", f > 0.95)):
        (row,) = re.findall(rf">gate f {end}</th>(.*?)</tr>", page)
        shares = [float(share) for share in re.findall(r">(\d+) %</td>", row)]
        np.testing.assert_allclose(shares, 100 * beyond.mean(axis=1), atol=0.51)
    kept = int((f[1:].prod(axis=0) > 0.5).sum())
    assert f"{kept} of 16 units keep more than half of their cell from" in page
    assert "wrote look-drawing-2.html" in good("look", run, picture).output


def test_the_page_of_a_gru_names_its_gates_and_says_nothing_of_an_lstms(
    gru: Path, picture: Path
) -> None:
    good("look", gru, picture, "--caption", "a red circle")
    page, opened = Path("look-drawing.html").read_text(), open_run(gru)
    features = opened.scaling(HistogramEncoder().encode([read_picture(picture)]))
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
        "An open update gate is no fault: it passes the hidden state on.",
        "of 16 units keep more than half of their hidden state from the first word to the last.",
    ):
        assert words in page
    assert "forget" not in page
    assert "A GRU captioner, scored on" in (gru / "index.html").read_text()
    assert {*re.findall(r">(gate \w|state) (?:below|above)", page)} == {"gate r", "gate z"}


@pytest.mark.usefixtures("new_cells")
@pytest.mark.parametrize("cell", NEW_CELLS)
def test_a_cell_of_ones_own_has_a_page(cell: str, run: Path, picture: Path) -> None:
    """It tells no meanings, and the states of a stack have the numbers of their layers."""
    opened = open_run(run)
    config = replace(opened.model.config, cell=cell)
    model = CaptioningRNN.from_config(config, opened.model.word_to_idx, seed=0)
    opened = replace(opened, model=model)
    found = look_inside(opened, picture, caption="a red circle")
    Path("own.html").write_bytes(look_page(found))
    page = Path("own.html").read_text()
    assert "Units are sorted by their mean state over the caption" in page
    assert re.findall(r"<i>(\w+)</i></h3>", page) == [
        *found.trace.gates,
        *reversed(config.recurrent.states),
    ]


def test_what_cannot_be_looked_at_is_refused_before_anything_is_written(
    run: Path, picture: Path
) -> None:
    Path("there.html").write_text("mine")
    failing(["look", run, picture, "--out", "there.html"], "there.html exists")
    failing(["look", run, picture, "--out", "page.txt"], "does not end in .html")
    failing(["look", run, "nothing.png"], "nothing.png does not exist")
    for caption, says in (("...", "0 words, expected 1 to"), ("red " * 99, "99 words, expected 1")):
        result = call("look", run, picture, "--caption", caption)
        assert (result.exit_code, says in result.output) == (2, True)
    shutil.copytree(run, "other")
    config = json.loads(Path("other/config.json").read_text())
    config["source"].pop("encoder")
    Path("other/config.json").write_text(json.dumps(config))
    failing(["look", "other", picture], "other was trained on features from an unknown")
    assert not list(Path().glob("look-*"))
    assert Path("there.html").read_text() == "mine"


def test_a_gradient_that_loses_the_same_share_at_each_step_is_drawn_as_its_powers() -> None:
    """Of four words, with respect to h and to c, which is seven times as large."""
    steps = np.arange(5)[None, None] - np.arange(4)[None, :, None] - 1  # (1, T, T+1)
    norms = np.where(steps <= 0, 0.7 ** -np.minimum(steps, 0.0), 0)
    trace = Trace({}, {}, norms, {}, {"h": norms, "c": 7 * norms})
    np.testing.assert_allclose(gradient_sizes(trace), 0.7 ** np.arange(5.0))
