"""Where a model looked, as it is shown: on pages and as JSON, over the part of the picture that its
encoder sees.
"""

import base64
import io
import json
import re
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
from browser import Browser
from commands import answer, good
from pages import SAID, card, decode, photo, scene, write_cards
from photos import PREPARE, photos
from PIL import Image
from refusals import Refusal, refusals

from xpcap import open_run
from xpcap.captioning.captions import caption_run
from xpcap.captioning.pages import caption_page
from xpcap.encoders import Area, find_encoder, grid_area, read_picture
from xpcap.encoders.grid import WHOLE_PICTURE
from xpcap.report import overlay
from xpcap.report.overlay import DIMMEST, overlay_alpha

RNG = np.random.default_rng(0)
SETTINGS = "--inject attention --hidden 8 --wordvec 6 --epochs 1 --score-epochs 0".split()


def softmax(*shape: int) -> np.ndarray:
    """Weights of K x K places, the last two axes."""
    raw = np.exp(2 * RNG.standard_normal(shape))
    weights: np.ndarray = raw / raw.sum(axis=(-2, -1), keepdims=True)
    return weights


def overlays(page: str) -> list[np.ndarray]:
    """The opacities of each overlay on a page, in its order."""
    uris = re.findall(r'<image class="overlay" href="data:image/png;base64,([^"]+)"', page)
    pictures = [Image.open(io.BytesIO(base64.b64decode(uri))) for uri in uris]
    assert all(
        picture.mode == "LA" and not np.asarray(picture)[..., 0].any() for picture in pictures
    )  # black
    return [np.asarray(picture)[..., 1] for picture in pictures]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, a data set of grids of them, and a run that attends."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        photos(30)
        good(*PREPARE, "--grid", 3, "--out", "grid.h5")
        good("train", "grid.h5", "--out", "attends", *SETTINGS)
    return folder


def test_a_runs_page_shows_the_weights_of_the_model_for_the_captions_it_said(made: Path) -> None:
    run, data = open_run(made / "attends"), open_run(made / "attends").data()
    page = (made / "attends" / "index.html").read_text()
    _, *galleries = page.split('<section id="gallery-')
    cards = re.findall(r"<article>(.*?)</article>", "".join(galleries), re.DOTALL)
    assert len(cards) == 3
    names = data.split("val").images
    for shown_card in cards:
        words = re.findall(r'<span class="word"[^>]*>(.*?)</span>', shown_card)
        (name,) = re.findall(r"<h3[^>]*>(.*?)</h3>", shown_card)
        features = data.features("val", np.array([names.index(name)]))
        weights = run.model.attention(features, run.vocabulary.encode_words([words], len(words)))[0]
        shown = overlays(shown_card)
        assert len(shown) == len(words) > 0
        for seen, wanted in zip(shown, weights, strict=False):
            np.testing.assert_array_equal(seen, overlay_alpha(wanted.reshape(3, 3)))
        assert re.findall(r"</svg><bdi>(.*?)</bdi>", shown_card) == words


def test_json_and_pages_of_new_pictures_have_the_same_weights(made: Path, tmp_path: Path) -> None:
    pictures = [made / "photos" / f"{number}.png" for number in range(3)]
    encoder = find_encoder("histogram:grid=3")
    for policy in ([], ["--beam", 3]):
        page = tmp_path / f"{len(policy)}.html"
        result = good("caption", made / "attends", *pictures, *policy, "--html", page, "--json")
        told = json.loads(result.stdout)
        run, shown = open_run(made / "attends"), iter(overlays(page.read_text()))
        for one, picture in zip(told, pictures, strict=True):
            words, weights = one["caption"].split(), np.array(one["attention"])
            assert (len(words), weights.size) == (len(weights), 9 * len(words))
            if not words:
                continue
            np.testing.assert_array_equal(weights, weights.round(4))
            features = run.scaling(encoder.encode([read_picture(picture)]))
            ids = run.vocabulary.encode_words([words], len(words))
            exact = run.model.attention(features, ids)[0, : len(words)]
            np.testing.assert_allclose(weights, exact, atol=6e-5)
            for of_word in exact:
                veil = overlay_alpha(of_word.reshape(3, 3))
                np.testing.assert_allclose(next(shown).astype(int), veil, atol=1)
        assert next(shown, None) is None
    assert "attention" not in answer("evaluate", made / "attends")


@pytest.mark.usefixtures("few_pictures")
def test_runs_without_attention_show_what_they_did(run: Path) -> None:
    (name, *_) = sorted((run / "pictures").iterdir())
    result = good("caption", run, name, "--html", "p.html", "--png", "p.png", "--json")
    assert list(json.loads(result.stdout)[0]) == ["image", "caption", "probabilities", "references"]
    for page in (Path("p.html"), run / "index.html"):
        assert not re.search("looks|looked|overlay|<use", page.read_text())
    assert decode(Path("p.png").read_bytes()).shape[1] == 330


def test_pictures_not_at_hand_and_places_in_no_square_are_left_as_they_were(
    made: Path, tmp_path: Path
) -> None:
    run = open_run(made / "attends")
    captions = caption_run(run, count=1, attend=True)
    assert len(captions[0].attention[0]) == 9
    eight = [[1.0] + 7 * [0.0]] * len(captions[0].probabilities)
    odd = [replace(captions[0], attention=eight, picture=scene(), area=WHOLE_PICTURE)]
    for said in (captions, odd):
        assert b"<svg" not in caption_page(run, said)
    for attention, area in (([], WHOLE_PICTURE), (softmax(3, 9, 1).reshape(3, 9).tolist(), None)):
        one = card("x", scene(), SAID if area is None else [], attention=attention, area=area)
        assert not write_cards(tmp_path / "e.html", one).all("svg")


def test_a_veil_is_clear_where_the_weight_is_largest_and_the_area_is_kept_to() -> None:
    picture = np.full((60, 120, 3), 200, np.uint8)
    weights = np.zeros((3, 3))
    weights[2, 0] = 1
    seen = overlay(picture, weights)
    row, column = np.array(np.unravel_index(seen[..., 0].argmax(), (60, 120)))
    assert (seen.max(), seen.min()) == (200, round(200 * (1 - DIMMEST)))
    assert row >= 40
    assert column < 40
    assert (seen[:20] == seen.min()).all()
    # Rows 30 to 60, columns 60 to 90: the place is at 40 to 50 and 80 to 90
    part = overlay(picture, np.eye(9)[5].reshape(3, 3), Area(0.5, 0.5, 1.0, 0.75))
    assert np.argwhere(part[..., 0] == part.max()).mean(axis=0) == pytest.approx((44.5, 87), abs=1)
    assert (part[:30] == part.min()).all()
    assert (part[:, :60] == part.min()).all()
    assert (part[:, 90:] == part.min()).all()
    beyond = Area(-0.5, -0.5, 1.5, 1.5)
    even = overlay(picture, np.full((3, 3), 1 / 9), beyond)
    np.testing.assert_array_equal(even, picture)


@refusals(
    """
    grey, np.array([[0.5, -0.1], [0.3, 0.3]]) | ValueError | weights | are [[ 0.5 -0.1]
    grey, np.array([[np.nan, 1.0], [0.0, 0.0]]) | ValueError | weights | are [[nan  1.]
    grey, np.zeros((2, 2)) | ValueError | weights | are [[0. 0.]
    grey, np.array([0.5, 0.5]) | ValueError | weights | are [0.5 0.5]
    grey[0], np.array([[1.0]]) | ValueError | picture | has shape (8, 3)
    grey / 255, np.eye(2) | TypeError | picture | float64
    """
)
def test_a_veil_is_of_weights_and_a_picture(refusal: Refusal) -> None:
    grey = np.full((8, 8, 3), 200, np.uint8)
    refusal.check({"grey": grey, "np": np, "overlay": overlay}, "overlay({})")


@pytest.mark.parametrize(("height", "width"), [(60, 90), (400, 100), (100, 400)])
def test_the_cells_of_the_histogram_encoder_lie_over_what_is_drawn(height: int, width: int) -> None:
    picture = np.full((height, width, 3), 250, np.uint8)
    rows, columns = slice(height // 4, height // 2), slice(width // 2, width - width // 4)
    picture[rows, columns] = (200, 30, 30)
    found = grid_area("histogram:grid=3", picture)
    assert found is not None
    # Of a sheet that is at least 85 pixels high and wide, 56 where a longer picture lies padded on it
    pixel = 3 / 56
    np.testing.assert_allclose(astuple(found), (0.25, 0.5, 0.5, 0.75), atol=pixel)
    # Scaled, not cropped; given features are taken to be of the whole
    for name in ("efficientnet-lite2:grid=5", "onnx:a.onnx:grid=2", None):
        assert grid_area(name, picture) == WHOLE_PICTURE
    assert grid_area("timm:any:grid=3", picture) is None  # mostly a crop


@refusals(
    """
    softmax(2, 3, 3) | has weights of shape (2, 9)
    np.full((3, 3, 3), 0.2) | do not add up to 1, or some are below 0
    softmax(3, 3, 3) * np.nan | do not add up to 1, or some are below 0
    -softmax(3, 3, 3) | do not add up to 1, or some are below 0
    """,
    "picture 'x'",
    error=ValueError,
)
def test_what_are_no_weights_is_refused(refusal: Refusal, tmp_path: Path) -> None:
    def write(weights: np.ndarray) -> None:
        attention = weights.reshape(len(weights), -1).tolist()
        one = card("x", scene(), SAID, attention=attention, area=WHOLE_PICTURE)
        write_cards(tmp_path / "p.html", one)

    refusal.check({**globals(), "write": write}, "write({})")
    assert not list(tmp_path.iterdir())


def test_one_picture_serves_all_words_and_a_word_adds_little(tmp_path: Path) -> None:
    words, sizes = [(f"word{k}", 0.5) for k in range(20)], []
    for attention in (None, softmax(20, 7, 7).reshape(20, 49).tolist()):
        one = card("x", photo(0), words, attention=attention, area=Area(0.1, 0.2, 0.8, 0.9))
        page = write_cards(tmp_path / "p.html", one)
        sizes.append(len(page.source))
    pictures = [one for one in page.all("image") if one["href"].startswith("data:image/jpeg")]
    assert (len(pictures), len(page.all("use"))) == (1, 20)
    assert (sizes[1] - sizes[0]) / 20 < 1000


@pytest.mark.slow
def test_a_browser_brightens_the_place_that_weighed_most(browser: Browser, tmp_path: Path) -> None:
    weights = np.eye(16)[[9]].tolist()  # row 2, column 1 of 4 x 4
    grey = np.full((200, 300, 3), 180, np.uint8)
    grey[0, 0] = 0, 90, 0  # a photograph, if it has many colours; as it is, a drawing
    for name, picture in (
        ("flat", grey[:80, :120]),
        ("photo", np.clip(grey + RNG.integers(-2, 3, grey.shape), 0, 255).astype(np.uint8)),
    ):
        area = Area(0.5, 0.5, 1.0, 1.0)
        one = card(name, picture, [("dog", 0.5)], attention=weights, area=area)
        write_cards(tmp_path / "p.html", one)
        browser.show(tmp_path / "p.html", 800, dark=name == "photo", scale=2)
        rectangle = "document.querySelector('.looks svg').getBoundingClientRect()"
        sides = f"(r => [r.left, r.top + scrollY, r.width, r.height])({rectangle})"
        left, top, width, height = (round(2 * side) for side in browser.evaluate(sides))
        whole = decode(browser.screenshot(whole=True))
        seen = whole[top : top + height, left : left + width].mean(axis=2)
        inner = seen[10:-10, 10:-10]  # without the rounded corners
        brightest = 10 + np.argwhere(inner > 0.9 * inner.max()).mean(axis=0)
        row, column = (brightest / seen.shape).tolist()
        assert row == pytest.approx(0.5 + 0.5 * 2.5 / 4, abs=0.03)
        assert column == pytest.approx(0.5 + 0.5 * 1.5 / 4, abs=0.03)
        assert seen[height // 4, width // 4] == pytest.approx(180 * (1 - DIMMEST), abs=4)
