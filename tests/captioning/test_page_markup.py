"""A page that is whole, safe and readable wherever it is opened."""

import base64
import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from browser import Browser
from pages import (
    HISTORY,
    NASTY,
    SAID,
    WITHOUT_VAL,
    Page,
    card,
    decode,
    photo,
    scene,
    scores,
    write_cards,
)
from refusals import Refusal, refusals

from xpcap.captioning.pages import Gallery, render_page
from xpcap.drawings.scenes import make_scene
from xpcap.encoders import Area
from xpcap.report.curves import training_charts
from xpcap.runs.explanation import PARTS, CandidateCaption, Explanation, Neighbour
from xpcap.runs.records import Skipped

LOOKED = np.full((3, 25), 0.04).tolist()  # where a model looked for three words


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything in it, much of it hostile to its layout."""
    long = "pneumono" * 30
    photos = {NASTY: photo(4), long: scene(2)}

    def candidate(caption: str, image: str, consensus: float) -> CandidateCaption:
        parts = {**dict.fromkeys(PARTS, 0.0), "consensus": consensus, "length": -0.25 * consensus}
        return CandidateCaption(caption, -1.0, 0.75 * consensus, parts, image)

    reasons = Explanation(
        [Neighbour(NASTY, 0.5, [NASTY]), Neighbour(long, -0.25, [long]), Neighbour("x", 0.25, [])],
        [candidate(NASTY, NASTY, 2.0), candidate(long, long, 1.0), candidate("", "", 0.0)],
    )
    reranked = [("a red circle", -3.217), ("", -4.0), (long, -99.5)]
    words = [(long, 0.9), *SAID, *[(f"word{i}", i / 20) for i in range(21)]]
    looked = {"attention": LOOKED, "area": Area(0.2, 0.1, 0.8, 1.2)}
    reasoned = {"score_text": NASTY, "explanation": reasons}
    circles = ["a red circle", "", "there is a red circle"]
    cards = [
        card("scene.png", scene(), SAID, circles, reranked, score_text="BLEU-4 0.81"),
        card(f"{long}.jpg", photo(1), words, [long, NASTY], score_text=long),
        card(NASTY, None, [(NASTY, 0.5)], [NASTY], [(NASTY, -1.0)], **reasoned),
        card("strip.jpg", photo(2, 9, 2000)),
        card("looked.png", scene(1), [(NASTY, 0.5), (long, 0.9), ("red", 0.1)], ["a"], **looked),
        card("tower.jpg", photo(3, 2000, 9), [("مرحبا", 0.2), ("عالم", 0.9)], ["مرحبا بالعالم"]),
    ]
    path = tmp_path_factory.mktemp("page") / "index.html"
    page = render_page(
        f"A run {NASTY}",
        summary=NASTY,
        opening=Gallery("First", NASTY, iter(cards)),
        facts=[("cell", "lstm"), (NASTY, long), (long, NASTY)],
        history=HISTORY,
        scores=scores("BLEU-4", NASTY, long, meaning="what people say", protocol=f"corpus {NASTY}"),
        galleries=[Gallery(NASTY, "", cards[:1])],
        skipped=[Skipped(NASTY, NASTY), Skipped(long, long)],
        find_photo=photos.get,
    )
    path.write_bytes(page)
    return path


def test_candidates_are_a_table_of_signed_numbers_that_a_keyboard_reaches(full: Path) -> None:
    page = Page(full)
    assert page.all("div", role="region", tabindex="0", **{"aria-label": "Candidates"})
    (table,) = re.findall(r'<table class="options">(.*?)</table>', page.source, re.DOTALL)
    cells = re.findall(r"<td([^>]*)>(.*?)</td>", table)
    assert cells[:4] == [
        ("", "+1.50"),
        (' style="--p: 1.00"', "+2.00"),
        (' class="minus" style="--p: 0.25"', "-0.50"),
        ("", "+0.75"),
    ]
    assert len(cells) == 9
    assert table.count('scope="rowgroup" colspan="3"') == 3
    uses, defined = page.all("use"), {image["id"] for image in page.all("image") if "id" in image}
    assert {"photo-0", "photo-1"} <= defined
    assert {use["href"][1:] for use in uses} <= defined


def test_the_page_asks_for_nothing_outside_itself(full: Path) -> None:
    page = Page(full)
    ids = {attrs["id"] for _, attrs in page.elements if "id" in attrs}
    links = [
        attrs[key]
        for _, attrs in page.elements
        for key in ("href", "src", "srcset", "poster", "data", "action")
        if key in attrs
    ]
    assert len(links) > 12
    for link in links:
        assert (
            link.startswith(("data:image/png;base64,", "data:image/jpeg;base64,"))
            or link == "data:,"
            or link[1:] in ids
        ), link[:80]
    assert "url(" not in page.source
    assert "@import" not in page.source
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    rules = {"default-src 'none'", "img-src data:", "style-src 'unsafe-inline'"}
    assert rules <= set(policy.split("; "))
    assert page.all("html", lang="en")
    assert page.all("meta", name="viewport")
    assert not {"script", "iframe", "object", "embed", "form", "base"} & {
        tag for tag, _ in page.elements
    }


def test_every_picture_has_a_size_and_a_text_and_can_be_decoded(full: Path) -> None:
    from PIL import Image

    images = Page(full).all("img")
    assert len(images) == 5  # four pictures, and one of them again
    texts = {attrs["alt"] for attrs in images}
    assert texts >= {"a red circle", "Picture strip.jpg", "مرحبا عالم"}
    assert all(texts)
    for attrs in images:
        with Image.open(io.BytesIO(base64.b64decode(attrs["src"].split(",")[1]))) as image:
            image.load()
            width, height = int(attrs["width"]), int(attrs["height"])
            assert max(image.size) <= 320
            assert (width % image.width, height % image.height) == (0, 0)


def test_flat_pictures_are_kept_to_the_pixel_and_photographs_made_small(tmp_path: Path) -> None:
    from PIL import Image

    pictures = scene(), photo(0), photo(0, 96, 96)
    page = write_cards(tmp_path / "p.html", *(card("x", picture, SAID) for picture in pictures))
    flat, large, small = page.all("img")
    assert (flat["src"][:15], flat["width"], flat["class"]) == ("data:image/png;", "256", "flat")
    with Image.open(io.BytesIO(base64.b64decode(flat["src"].split(",")[1]))) as image:
        np.testing.assert_array_equal(np.asarray(image), scene())
    kind = "data:image/jpeg;"
    assert (large["src"][:16], large["width"], large["height"]) == (kind, "320", "240")
    assert (small["src"][:16], small["width"], small["class"]) == (kind, "96", "photo")


def test_a_page_of_36_photographs_stays_small(tmp_path: Path) -> None:
    cards = [
        card(
            f"{i}.jpg", photo(i, 240, 320), SAID * 4, ["a red circle"] * 5, score_text="BLEU-4 0.5"
        )
        for i in range(36)
    ]
    write_cards(tmp_path / "p.html", *cards, history=HISTORY)
    assert 500_000 < (tmp_path / "p.html").stat().st_size < 1_500_000


def test_parts_are_explained_once_and_left_out_without_content(full: Path, tmp_path: Path) -> None:
    assert Page(full).text.count("Probability of each word") == 1
    page = write_cards(tmp_path / "p.html", card("a", scene(), SAID))
    assert [attrs["id"] for attrs in page.all("section")] == ["opening"]
    assert not page.all("nav")
    assert "Probability of each word" in page.text
    assert "the references" not in page.text
    (tmp_path / "p.html").write_bytes(render_page("Nothing"))
    assert not Page(tmp_path / "p.html").all("section")


def test_training_tells_what_there_is_and_draws_it_without_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in {"matplotlib", *sys.modules}:
        if name.partition(".")[0] == "matplotlib":
            monkeypatch.setitem(sys.modules, name, None)
    for history, curves, opened, headings in (
        (HISTORY, 2, [], 6),
        (WITHOUT_VAL, 1, [], 3),
        (HISTORY[:1], 0, [{"open": ""}], 6),
        ([WITHOUT_VAL[0], *HISTORY[1:]], 2, [], 6),
    ):
        (tmp_path / "p.html").write_bytes(render_page("t", history=history))
        page = Page(tmp_path / "p.html")
        assert len(page.all("svg", role="img")) == curves
        assert page.all("details", open="") == opened
        assert len(page.all("th")) == headings
    assert "–" in page.text


def test_a_screen_reader_is_told_what_a_curve_shows(full: Path) -> None:
    page = Page(full)
    ids = {attrs["id"] for tag, attrs in page.elements if tag in ("title", "desc") and attrs}
    charts = page.all("svg", class_="plot", role="img")
    named = {chart[key] for chart in charts for key in ("aria-labelledby", "aria-describedby")}
    assert (ids, len(ids)) == (named, 2 * len(charts))
    assert "Loss per caption by epoch" in page.text
    assert training_charts(HISTORY)[0].about in page.text


def test_a_missing_picture_caption_or_reference_is_said_quietly(tmp_path: Path) -> None:
    lost, empty = card("lost.png", None, SAID, ["", " "]), card("empty.png", scene())
    page = write_cards(tmp_path / "p.html", lost, empty)
    assert "Picture not found" in page.text
    assert "(nothing)" in page.text
    assert not page.all("ul", class_="references")
    page = write_cards(tmp_path / "p.html", *[lost] * 60)
    assert page.text.count("The pictures were not found.") == 1
    assert not page.all("div", class_="frame")
    assert len(page.all("article")) == 60


def test_every_word_has_its_probability_in_shade_and_in_figures(tmp_path: Path) -> None:
    said = [("a", 1.0), ("b", 0.997), ("c", 0.834), ("d", 0.001), ("e", 0), ("f", 1 + 1e-7)]
    page = write_cards(tmp_path / "p.html", card("x", None, said))
    words = page.all("span", class_="word")[5:]  # after the legend's
    shades = "1.000 0.997 0.834 0.001 0.000 1.000".split()
    assert [word["style"] for word in words] == [f"--p: {shade}" for shade in shades]
    assert words[2]["title"] == "p = 0.83"
    odds = re.findall(r"<bdi>\w</bdi> <span>(.*?)</span>", page.source)
    assert odds == ["100%", "over 99%", "83%", "under 1%", "under 1%", "100%"]


def test_a_photo_that_explains_several_captions_is_read_and_stored_once(tmp_path: Path) -> None:
    read: list[str] = []

    def find(name: str) -> np.ndarray | None:
        read.append(name)
        return None if name == "gone" else photo(0)

    reasons = Explanation([Neighbour("near", 0.5, ["a"]), Neighbour("gone", 0.25, ["b"])], [])
    cards = [card("x", None, SAID, explanation=reasons)] * 3
    page = write_cards(tmp_path / "p.html", *cards, find_photo=find)
    assert read == ["near", "gone"]
    assert (len(page.all("image")), len(page.all("use"))) == (1, 3)


@refusals(
    """
    write_cards(path, card("x", None, [("dog", 1.5)])) | 'dog' | has probability | one from 0 to 1
    write_cards(path, card("x", None, [("dog", -2.3)])) | 'dog' | has probability | one from 0 to 1
    write_cards(path, card("x", None, [("dog", np.nan)])) | 'dog' | has probability | one from 0 to 1
    write_cards(path, card("x", np.zeros((4, 4), np.uint8), SAID)) | picture 'x' | has shape | uint8 (h, w, 3)
    write_cards(path, card("x", np.zeros((4, 4, 3)), SAID)) | picture 'x' | has shape | uint8 (h, w, 3)
    write_cards(path, card("x", np.zeros((4, 4, 4), np.uint8), SAID)) | picture 'x' | has shape | uint8 (h, w, 3)
    write_cards(path, card("x", np.zeros((0, 4, 3), np.uint8), SAID)) | picture 'x' | has shape | uint8 (h, w, 3)
    """,
    error=ValueError,
)
def test_what_cannot_be_shown_is_refused_and_leaves_nothing(
    refusal: Refusal, tmp_path: Path
) -> None:
    refusal.check({**globals(), "path": tmp_path / "p"})
    assert not list(tmp_path.iterdir())


WIDER = """[...document.querySelectorAll('body *')].filter(
    e => !e.closest('table, svg > *') && e.getBoundingClientRect().right > innerWidth + .5
).map(e => e.outerHTML.slice(0, 99))"""
TEXTS = """[...document.querySelectorAll('body *')].filter(
    e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())
).map(e => {
    const grounds = [];
    for (let at = e; at; at = at.parentElement)
        grounds.unshift(getComputedStyle(at).backgroundColor);
    return [e.className, getComputedStyle(e).color, grounds];
})"""
PARTS_IN_ORDER = "opening headline training gallery-1 scores settings skipped".split()
TOPS = "id => document.getElementById(id).getBoundingClientRect().top"


def test_a_browser_shows_captions_first_readable_and_without_scrolling_sideways(
    browser: Browser, full: Path
) -> None:
    """With the contrast that WCAG asks for in either theme, and the details folded."""
    for width, dark in ((320, False), (390, True), (768, True), (1200, False)):
        browser.show(full, width, dark)
        tops = browser.evaluate(f"{PARTS_IN_ORDER}.map({TOPS})")
        assert tops == sorted(tops)
        shown = browser.evaluate("document.body.innerText")
        assert ("what people say" in shown, "corpus" in shown) == (True, False)
        browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert browser.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [width] * 2
        assert browser.evaluate(WIDER) == []
        texts, shades = browser.evaluate(TEXTS), set()
        assert len(texts) > 100
        for kind, colour, layers in texts:
            ground = np.ones(3)
            for red, green, blue, alpha in map(numbers, layers):
                ground = alpha * np.array([red, green, blue]) / 255 + (1 - alpha) * ground
            assert contrast(np.array(numbers(colour)[:3]) / 255, ground) >= 4.5, (kind, colour)
            shades |= {tuple(ground)} if kind == "word" else set()
        assert len(shades) > 20  # a shade for each probability
    assert browser.requested == {"file", "data"}


def numbers(colour: str) -> list[float]:
    """Red, green, blue and alpha of a colour of CSS."""
    return [*map(float, re.findall(r"[\d.]+", colour)), 1.0][:4]


@pytest.mark.slow
def test_a_browser_draws_every_picture_in_either_theme(
    browser: Browser, full: Path, tmp_path: Path
) -> None:
    for dark, curve in ((False, (179, 64, 47)), (True, (240, 145, 127))):
        browser.show(full, 390, dark, scale=2)
        drawn = "i => i.decode().then(() => i.naturalWidth > 0 && i.clientWidth > 0)"
        assert browser.evaluate(f"Promise.all([...document.images].map({drawn}))") == [True] * 5
        seen = decode(browser.screenshot(whole=True))
        assert seen.shape[1] == 780
        assert max(seen[0, 0]) < 40 if dark else min(seen[0, 0]) == 255
        assert (seen == curve).all(axis=2).sum() > 2000  # the curves of val
    write_cards(tmp_path / "p.html", card("x", scene(), SAID))
    browser.show(tmp_path / "p.html", 390, dark)
    colour = make_scene("train", 0, seed=0).things[0].paint
    enlarged = (decode(browser.screenshot(whole=True)) == colour).all(axis=2).sum()
    assert enlarged == 4 * (scene() == colour).all(axis=2).sum()


def contrast(a: np.ndarray, b: np.ndarray) -> float:
    """Contrast ratio of two sRGB colours in 0 to 1, as WCAG 2 defines it."""
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: np.ndarray) -> float:
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))
