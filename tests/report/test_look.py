"""The page of the inside of a cell: what is drawn are the values, and nothing of it needs a network,
a script or trust in its text.
"""

import base64
import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser
from refusals import refuses
from test_report import NASTY, Page, browser, photo  # noqa: F401 - a fixture

from xpcap.report import Curve, Heatmap, Share, Step, write_look_page

RNG = np.random.default_rng(0)
WORDS = ["<START>", NASTY, "pneumono" * 9, *(f"word{k}" for k in range(18)), "<END>"]
T, H = len(WORDS) - 1, 40
GATE = RNG.uniform(size=(T, H))
CELL = 30 * RNG.standard_normal((T, H))


def write(path: Path, **change: Any) -> Path:
    """A page with everything in it, of the longest captions."""
    content: dict[str, Any] = {
        "summary": NASTY,
        "picture": (NASTY, photo(0)),
        "steps": [
            Step(read, word, 0.1, 9, [("<UNK>", 0.5), ("a", 0.2)])
            if word == NASTY
            else Step(read, word, 0.25, 2, [("<UNK>", 0.5), (word, 0.25)])
            for read, word in pairwise(WORDS)
        ],
        "heatmaps": [Heatmap("f", "Forget gate", NASTY, GATE), Heatmap(NASTY, NASTY, "", CELL)],
        "order": NASTY,
        "saturation_note": NASTY,
        "saturation": [Share(NASTY, RNG.uniform(size=T).tolist())],
        "curves": [
            Curve("this run (LSTM)", [0.9**k for k in range(T + 1)]),
            Curve("the other run (RNN)", [0.5**k for k in range(T + 1)]),
            Curve("untrained (LSTM)", [1.0] * (T + 1), trained=False),
        ],
        "findings": [NASTY],
        "facts": [(NASTY, NASTY)],
    }
    write_look_page(path, NASTY, **{**content, **change})
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("look") / "look.html")


def test_text_is_escaped_and_nothing_is_fetched_or_run(page: Path) -> None:
    shown = Page(page)
    assert "<script" not in shown.source.lower()
    assert "{{" not in shown.source.replace("{{ 7 * 7 }}", "")
    assert r"\u202e" in shown.text
    assert not {"script", "link", "iframe", "object", "form"} & {
        tag for tag, attrs in shown.elements if attrs.get("href") != "data:,"
    }
    sources = [attrs.get("src") or attrs["srcset"] for attrs in shown.all("img")]
    assert len(sources) == 4
    assert all(source.startswith("data:image/") for source in sources)
    policy = shown.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert policy.startswith("default-src 'none'; img-src data:")
    assert shown.all("html", lang="en")
    assert all(attrs["alt"] for attrs in shown.all("img"))
    assert page.stat().st_size < 250_000


@pytest.mark.parametrize(
    ("which", "values", "end"), [(1, GATE, None), (2, CELL, 80.0)], ids=["gate", "cell"]
)
def test_a_heatmap_has_a_colour_for_each_unit_and_step(
    which: int, values: np.ndarray, end: float | None, page: Path
) -> None:
    """From white to blue over 0..1; from brown over white to blue, cut at the 99th percentile."""
    from PIL import Image

    uri = Page(page).all("img")[which]["src"]
    with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as image:
        levels = np.asarray(image).astype(float)
    assert levels.shape == (7 * H, 20 * T)  # at least 256 rows of pixels
    low, high = (0.0, 1.0) if end is None else (-end, end)
    expected = 255 * (np.clip(values, low, high) - low) / (high - low)
    assert np.abs(levels[::7, ::20].T - expected).max() <= 0.5
    assert (np.abs(values) > high).any() == (end is not None)


def test_the_captions_own_word_is_framed_even_below_the_likeliest(page: Path) -> None:
    source = Page(page).source
    assert source.count('class="next" aria-current="true"') == T
    assert source.count("number 9<") == 1


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    for change in (
        {"heatmaps": [Heatmap("f", "", "", GATE[1:])]},
        {"saturation": [Share("x", [0.5])]},
        {"steps": []},
    ):
        with refuses(ValueError, function="write_look_page", came="steps and values of"):
            write(tmp_path / "x.html", **change)
    with refuses(ValueError, thing="'dog'", came="has probability -3", expected="one from 0 to 1"):
        write(tmp_path / "x.html", steps=[Step("a", "dog", 0.5, 1, [("dog", -3)])] * T)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_it_on_a_phone_without_scrolling_sideways(
    browser: Browser,  # noqa: F811
    page: Path,
    dark: bool,
) -> None:
    for width in (320, 360, 1200):
        browser.show(page, width, dark)
        assert browser.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [width] * 2
        assert browser.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
    assert browser.requested == {"file", "data"}
