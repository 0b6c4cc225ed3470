"""The page of the inside of a cell: what is drawn are the values, and nothing of it needs a network,
a script or trust in its text.
"""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from browser import Browser
from pages import NASTY, Page, photo
from runs import config_of

from xpcap import CaptioningRNN
from xpcap.captioning.look import TracedCaption, look_page
from xpcap.data import Vocabulary
from xpcap.data.features import FeatureScaling
from xpcap.models import Saturation, Trace
from xpcap.runs.run import Run

RNG = np.random.default_rng(0)
LONG = ["pneumono" * 9, *(f"word{k}" for k in range(18))]
HOSTILE = "".join(NASTY.split())  # in a word is no white space
VOCABULARY = Vocabulary(["<NULL>", "<START>", "<END>", "<UNK>", HOSTILE, *LONG])
IDS = [1, *range(4, len(VOCABULARY)), 2]
T, H = len(IDS) - 1, 40
GATE = RNG.uniform(size=(T, H))
GATE[0, :3], GATE[1:, :3] = 0.1, 0.99  # from the first word on, three units keep
STATE = 30 * RNG.standard_normal((T + 1, H))
BACK = np.maximum(np.arange(1, T + 1)[:, None] - np.arange(T + 1), 0)  # of each loss and state


def trace(factor: float) -> Trace:
    """A trace in which a word is improbable, and gradients lose the same share at each step."""
    log_p = np.full((1, T, len(VOCABULARY)), np.log(0.01))
    log_p[0, :, 3:8] = np.log([0.5, 0.001, 0.2, 0.05, 0.04])
    norms = np.where(np.arange(T + 1) <= np.arange(1, T + 1)[:, None], factor**BACK, 0)
    shares = Saturation(*RNG.uniform(size=(2, 1, T)), 0.05, 0.95)
    return Trace({"h": STATE[None]}, {"f": GATE[None]}, log_p, {NASTY: shares}, {"h": norms[None]})


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything in it, of the longest captions."""
    model = CaptioningRNN(VOCABULARY.word_to_idx, 9, 8, H, cell_type="lstm", seed=0)
    folder = Path(NASTY.replace("/", ""))  # which no name of a folder has
    run = Run(folder, config_of(model, T), VOCABULARY, FeatureScaling(), model, {})
    path = tmp_path_factory.mktemp("look") / "look.html"
    inside = TracedCaption(run, NASTY, photo(0), IDS, True, trace(0.9), trace(0.5))
    path.write_bytes(look_page(inside))
    return path


def test_text_is_escaped_and_nothing_is_fetched_or_run(page: Path) -> None:
    shown = Page(page)
    assert "<script" not in shown.source.lower()
    assert "{{" not in re.sub(r"{{ ?7 ?\* ?7 ?}}", "", shown.source)
    assert r"\u202e" in shown.text
    assert not {"script", "link", "iframe", "object", "form"} & {
        tag for tag, attrs in shown.elements if attrs.get("href") != "data:,"
    }
    sources = [attrs["src"] for attrs in shown.all("img")]
    assert len(sources) == 3
    assert all(source.startswith("data:image/") for source in sources)
    policy = shown.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert policy.startswith("default-src 'none'; img-src data:")
    assert shown.all("html", lang="en")
    assert all(attrs["alt"] for attrs in shown.all("img"))
    assert page.stat().st_size < 250_000


@pytest.mark.parametrize(
    ("which", "values", "end"), [(1, GATE, None), (2, STATE[1:], 80.0)], ids=["gate", "state"]
)
def test_a_heatmap_has_a_colour_for_each_unit_and_step(
    which: int, values: np.ndarray, end: float | None, page: Path
) -> None:
    """From white to blue over 0..1; from brown over white to blue, cut at the 99th percentile."""
    from PIL import Image

    uri = Page(page).all("img")[which]["src"]
    with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as image:
        levels = np.asarray(image).astype(float)
    values = values[:, np.argsort(-GATE.mean(axis=0))]
    assert levels.shape == (7 * H, 20 * T)  # at least 256 rows of pixels
    low, high = (0.0, 1.0) if end is None else (-end, end)
    expected = 255 * (np.clip(values, low, high) - low) / (high - low)
    assert np.abs(levels[::7, ::20].T - expected).max() <= 0.5
    assert (np.abs(values) > high).any() == (end is not None)


def test_units_that_keep_their_cell_over_the_caption_are_counted(page: Path) -> None:
    assert "3 of 40 units keep more than half of their cell from" in Page(page).text


def test_the_captions_own_word_is_framed_even_below_the_likeliest(page: Path) -> None:
    source = Page(page).source
    assert source.count('class="next" aria-current="true"') == T
    assert source.count(f"number {len(VOCABULARY)}<") == 1


@pytest.mark.slow
def test_a_browser_shows_it_on_a_phone_without_scrolling_sideways(
    browser: Browser, page: Path
) -> None:
    for width in (320, 360, 1200):
        browser.show(page, width, dark=width == 360)
        assert browser.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [width] * 2
        assert browser.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
    assert browser.requested == {"file", "data"}
