"""Reports: curves and captions as PNG, and a page that is whole, safe and readable wherever it is
opened.
"""

import base64
import io
import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import NAMES, Browser, find_browser
from refusals import refuses

from xpcap import report
from xpcap.encoders import Area
from xpcap.report import (
    AttentionMap,
    Card,
    Gallery,
    Option,
    Reasons,
    Similar,
    draw_captions,
    draw_loss,
    loss_curve,
    perplexity_curve,
    write_page,
)
from xpcap.shapes.scenes import make_scene, paint

NASTY = "<script>alert('x')</script> & \"quoted\" 'single' </style> שלום 🐕 \u202e {{ 7 * 7 }}"
HISTORY = [
    {
        "epoch": e,
        "iteration": 31 * e,
        "learning_rate": 0.001 * 0.9**e,
        "train_loss": 20 / e + 1,
        "train_accuracy": 0.5,
        "val_loss": 15 / e + e,
        "val_perplexity": 8 / e + e,
        "val_accuracy": 0.4,
    }
    for e in range(1, 9)
]
WITHOUT_VAL = [
    {key: value for key, value in record.items() if not key.startswith("val")} for record in HISTORY
]
LOOKED = np.full((3, 5, 5), 0.04)  # where a model looked for three words
SAID = [("a", 0.97), ("red", 0.5), ("circle", 0.03)]


def photo(seed: int, height: int = 480, width: int = 640) -> np.ndarray:
    """Something with the detail of a photograph."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    return np.clip(
        np.asarray(coarse, np.float64) + rng.normal(0, 12, (height, width, 3)), 0, 255
    ).astype(np.uint8)


def scene(i: int = 0) -> np.ndarray:
    return paint(make_scene("train", i, seed=0))


def decode(png: bytes) -> Any:
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


class Page(HTMLParser):
    """A page read back: its elements, and the text that is in them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        wanted = {key.rstrip("_"): value for key, value in wanted.items()}
        return [
            attrs
            for name, attrs in self.elements
            if name == tag and wanted.items() <= attrs.items()
        ]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything in it, much of it hostile to its layout."""
    long = "pneumono" * 30
    cards = [
        Card(
            "scene.png",
            scene(),
            SAID,
            ["a red circle", "", "there is a red circle"],
            "BLEU-4 0.81",
            [("a red circle", -3.217), ("", -4.0), (long, -99.5)],
        ),
        Card(
            f"{long}.jpg",
            photo(1),
            [(long, 0.9), *SAID, *[(f"word{i}", i / 20) for i in range(21)]],
            [long, NASTY],
            long,
        ),
        Card(
            NASTY,
            None,
            [(NASTY, 0.5)],
            [NASTY],
            NASTY,
            [(NASTY, -1.0)],
            reasons=Reasons(
                NASTY,
                [
                    Similar(NASTY, photo(4), 0.5, NASTY),
                    Similar(long, scene(2), -0.25, long),
                    Similar(long, None, 0.25, ""),
                ],
                [
                    Option(text, note, 1.5, [("agreement", 2.0), (long, -0.5), (NASTY, 0.001)])
                    for text, note in ((NASTY, ""), (long, NASTY), ("", "likeliest"))
                ],
            ),
        ),
        Card("strip.jpg", photo(2, 9, 2000), []),
        Card(
            "looked.png",
            scene(1),
            [(NASTY, 0.5), (long, 0.9), ("circle", 0.1)],
            ["a circle"],
            attention=AttentionMap(LOOKED, Area(0.2, 0.1, 0.8, 1.2)),
        ),
        Card("tower.jpg", photo(3, 2000, 9), [("مرحبا", 0.2), ("عالم", 0.9)], ["مرحبا بالعالم"]),
    ]
    path = tmp_path_factory.mktemp("page") / "index.html"
    write_page(
        path,
        f"A run {NASTY}",
        summary=NASTY,
        facts=[("cell", "lstm"), (NASTY, long), (long, NASTY)],
        history=HISTORY,
        scores=[
            ("BLEU-4", "0.170", "phrases that people use", f"corpus BLEU {NASTY}"),
            (long, long, long, long),
        ],
        galleries=[Gallery("Best", NASTY, cards), Gallery(NASTY, "", cards[:1])],
        skipped=[(NASTY, NASTY), (long, long)],
    )
    return path


@pytest.mark.parametrize(
    ("history", "dark"),
    [
        (HISTORY, False),
        (HISTORY, True),
        (HISTORY[:1], False),
        (WITHOUT_VAL, True),
        ([*WITHOUT_VAL[:3], *HISTORY[3:]], False),
    ],
    ids=["light", "dark", "one epoch", "no val", "some val"],
)
def test_curves_are_small_pictures_on_paper_of_their_theme(
    history: list[dict[str, Any]], dark: bool
) -> None:
    for png in (loss_curve(history, dark), perplexity_curve(history, dark)):
        picture = decode(png)
        assert picture.shape == (440, 680, 3)
        assert (picture[0, 0].max() < 40) if dark else (picture[0, 0].min() == 255)
        assert len(png) < 40_000
    assert np.ptp(decode(loss_curve(history, dark)), axis=(0, 1)).min() > 100


def test_a_curve_is_drawn_once_for_a_history_and_anew_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history, drawn = [{**record, "val_loss": 7.25 + k} for k, record in enumerate(HISTORY)], []
    monkeypatch.setattr(
        report.curves, "_png", lambda figure, png=report.curves._png: drawn.append(1) or png(figure)
    )
    draw_loss(tmp_path / "loss.png", history)
    assert (loss_curve(history), len(drawn)) == ((tmp_path / "loss.png").read_bytes(), 1)
    history[-1]["val_loss"] = 2.5
    assert (loss_curve(history) != (tmp_path / "loss.png").read_bytes(), len(drawn)) == (True, 2)
    assert (loss_curve(history, dark=True) != loss_curve(history), len(drawn)) == (True, 3)


@pytest.mark.parametrize("most", [1, 2, 7, 100])
def test_a_cut_line_is_the_longest_that_fits(most: int) -> None:
    line = "as long as it takes"
    assert report.captions._cut(line, len, most) == f"{line[: max(0, most - 2)]} …"


def test_loss_png_is_the_light_curve(tmp_path: Path) -> None:
    for name in ("path.png", "text.png"):
        draw_loss(tmp_path / name if name == "path.png" else str(tmp_path / name), HISTORY)
        assert (tmp_path / name).read_bytes() == loss_curve(HISTORY)


@pytest.mark.parametrize("count", [1, 2, 6, 12])
def test_captions_png_grows_with_its_pictures(count: int, tmp_path: Path) -> None:
    pictures = [scene(), photo(0, 300, 200), photo(1, 20, 900), photo(2, 900, 20)] * 3
    captions = ["", NASTY, "a $x^2$ dog"] * (count // 3) + ["a"] * (count % 3)
    draw_captions(tmp_path / "c.png", pictures[:count], captions, [""] * count)
    height, width, _ = decode((tmp_path / "c.png").read_bytes()).shape
    assert width == 330 * min(3, count)
    assert abs(height - 300 * -(-count // 3)) < 90 * -(-count // 3)


def test_captions_of_any_length_overlap_nothing(tmp_path: Path) -> None:
    """Neighbours' texts leave a white gutter between them, and the last line leaves a white edge
    below it.
    """
    long = ["W" * 400, "word " * 200, "i" * 900]
    draw_captions(tmp_path / "c.png", [photo(0, 60, 60)] * 3, long, long[::-1])
    picture = decode((tmp_path / "c.png").read_bytes())
    for x in (330, 660):
        assert (picture[:, x - 6 : x + 6] == 255).all()
    assert (picture[-8:] == 255).all()
    assert (picture[:, :6] == 255).all()
    assert (picture[:, -6:] == 255).all()


def test_captions_png_wants_as_many_texts_as_pictures(tmp_path: Path) -> None:
    for pictures, captions, references in (
        ([], [], []),
        ([scene()], ["a"], []),
        ([scene()], ["a", "b"], ["a"]),
    ):
        with refuses(ValueError, expected="the same number of each, at least one"):
            draw_captions(tmp_path / "c.png", pictures, captions, references)
    assert not list(tmp_path.iterdir())


def test_text_from_outside_stays_text(full: Path) -> None:
    page = Page(full)
    assert page.text.count(NASTY.replace("\u202e", r"\u202e")) > 15
    assert "<script" not in page.source.lower()
    assert page.source.count("</style>") == 1
    assert page.all("span", class_="word", title="p = 0.50")
    assert not any(key.startswith("on") for _, attrs in page.elements for key in attrs)
    assert {attrs["alt"] for attrs in page.all("img")} >= {
        "a red circle",
        "Picture strip.jpg",
        "مرحبا عالم",
    }


def test_candidates_are_a_table_of_signed_numbers_that_a_keyboard_reaches(full: Path) -> None:
    page = Page(full)
    assert page.all("div", role="region", tabindex="0", **{"aria-label": "Candidates"})
    (table,) = re.findall(r'<table class="options">(.*?)</table>', page.source, re.DOTALL)
    cells = re.findall(r"<td([^>]*)>(.*?)</td>", table)
    assert cells[:4] == [
        ("", "+1.50"),
        (' style="--p: 1.00"', "+2.00"),
        (' class="minus" style="--p: 0.25"', "-0.50"),
        (' style="--p: 0.00"', "0"),
    ]
    assert len(cells) == 12
    assert table.count('scope="rowgroup" colspan="4"') == 3
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
    assert {"default-src 'none'", "img-src data:", "style-src 'unsafe-inline'"} <= set(
        policy.split("; ")
    )
    assert page.all("html", lang="en")
    assert page.all("meta", name="viewport")
    assert not {"script", "iframe", "object", "embed", "form", "base"} & {
        tag for tag, _ in page.elements
    }


def test_every_picture_has_a_size_and_a_text_and_can_be_decoded(full: Path) -> None:
    from PIL import Image

    images = Page(full).all("img")
    assert len(images) == 7  # two curves, four pictures, and one of them again
    for attrs in images:
        assert attrs["alt"]
        with Image.open(io.BytesIO(base64.b64decode(attrs["src"].split(",")[1]))) as image:
            image.load()
            width, height = int(attrs["width"]), int(attrs["height"])
            assert max(image.size) <= 680
            assert (width % image.width, height % image.height) == (0, 0)


def test_flat_pictures_are_kept_to_the_pixel_and_photographs_made_small(tmp_path: Path) -> None:
    from PIL import Image

    cards = [Card("s", scene(), SAID), Card("p", photo(0), SAID), Card("q", photo(0, 96, 96), SAID)]
    write_page(tmp_path / "p.html", "t", galleries=[Gallery("g", "", cards)])
    flat, large, small = Page(tmp_path / "p.html").all("img")
    assert (flat["src"][:15], flat["width"], flat["class"]) == ("data:image/png;", "256", "flat")
    with Image.open(io.BytesIO(base64.b64decode(flat["src"].split(",")[1]))) as image:
        np.testing.assert_array_equal(np.asarray(image), scene())
    assert (large["src"][:16], large["width"], large["height"]) == (
        "data:image/jpeg;",
        "320",
        "240",
    )
    assert (small["src"][:16], small["width"], small["class"]) == (
        "data:image/jpeg;",
        "96",
        "photo",
    )


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write_page(
            tmp_path / name,
            "t",
            history=HISTORY,
            galleries=[Gallery("g", "", [Card("s", scene(), SAID), Card("p", photo(0), SAID)])],
        )
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_a_page_of_36_photographs_stays_small(tmp_path: Path) -> None:
    cards = [
        Card(f"{i}.jpg", photo(i, 240, 320), SAID * 4, ["a red circle"] * 5, "BLEU-4 0.5")
        for i in range(36)
    ]
    write_page(tmp_path / "p.html", "t", history=HISTORY, galleries=[Gallery("g", "", cards)])
    assert 500_000 < (tmp_path / "p.html").stat().st_size < 1_500_000


def test_parts_without_content_are_left_out(tmp_path: Path) -> None:
    write_page(
        tmp_path / "p.html", "Mine", galleries=[Gallery("Pictures", "", [Card("a", scene(), SAID)])]
    )
    page = Page(tmp_path / "p.html")
    assert [attrs["id"] for attrs in page.all("section")] == ["gallery-1"]
    assert not page.all("nav")
    assert "How sure the model was" in page.text
    assert "the references" not in page.text
    write_page(tmp_path / "p.html", "Nothing")
    assert not Page(tmp_path / "p.html").all("section")


def test_training_tells_what_there_is(tmp_path: Path) -> None:
    for history, curves, opened, headings in (
        (HISTORY, 2, [], 6),
        (WITHOUT_VAL, 1, [], 3),
        (HISTORY[:1], 0, [{"open": ""}], 6),
    ):
        write_page(tmp_path / "p.html", "t", history=history)
        page = Page(tmp_path / "p.html")
        assert (
            len(page.all("picture"))
            == len(page.all("source", media="(prefers-color-scheme: dark)"))
            == curves
        )
        assert page.all("details", open="") == opened
        assert len(page.all("th")) == headings
    write_page(tmp_path / "p.html", "t", history=[WITHOUT_VAL[0], *HISTORY[1:]])
    page = Page(tmp_path / "p.html")
    assert page.all("img")[0]["alt"].endswith(
        "val loss from 9.50 after epoch 2 to 9.88 after epoch 8, lowest 7.75 after epoch 4"
    )
    assert "–" in page.text


def test_a_missing_picture_caption_or_reference_is_said_quietly(tmp_path: Path) -> None:
    lost, empty = Card("lost.png", None, SAID, ["", " "]), Card("empty.png", scene(), [])
    write_page(tmp_path / "p.html", "t", galleries=[Gallery("g", "", [lost, empty])])
    page = Page(tmp_path / "p.html")
    assert "The picture is not at hand" in page.text
    assert "(nothing)" in page.text
    assert not page.all("ul", class_="references")
    write_page(tmp_path / "p.html", "t", galleries=[Gallery("g", "", [lost] * 60)])
    page = Page(tmp_path / "p.html")
    assert page.text.count("The pictures are not at hand.") == 1
    assert not page.all("div", class_="frame")
    assert len(page.all("article")) == 60


def test_every_word_has_its_probability_in_shade_and_in_figures(tmp_path: Path) -> None:
    said = [("a", 1.0), ("b", 0.997), ("c", 0.834), ("d", 0.001), ("e", 0), ("f", 1 + 1e-7)]
    write_page(tmp_path / "p.html", "t", galleries=[Gallery("g", "", [Card("x", None, said)])])
    page = Page(tmp_path / "p.html")
    words = page.all("span", class_="word")[5:]  # after the legend's
    assert [word["style"] for word in words] == [
        f"--p: {p}" for p in ("1.000", "0.997", "0.834", "0.001", "0.000", "1.000")
    ]
    assert words[2]["title"] == "p = 0.83"
    odds = re.findall(r"<bdi>(\w)</bdi> <span>(.*?)</span>", page.source)
    assert odds == [
        ("a", "100%"),
        ("b", "over 99%"),
        ("c", "83%"),
        ("d", "under 1%"),
        ("e", "under 1%"),
        ("f", "100%"),
    ]


@pytest.mark.parametrize("p", [1.5, -2.3, float("nan")])
def test_what_is_no_probability_is_refused(p: float, tmp_path: Path) -> None:
    with refuses(ValueError, thing="'dog'", came="has probability", expected="one from 0 to 1"):
        write_page(
            tmp_path / "p.html", "t", galleries=[Gallery("g", "", [Card("x", None, [("dog", p)])])]
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_picture_is_refused(picture: np.ndarray, tmp_path: Path) -> None:
    with refuses(ValueError, thing="picture 'x'", came="has shape", expected="uint8 (h, w, 3)"):
        write_page(
            tmp_path / "p.html", "t", galleries=[Gallery("g", "", [Card("x", picture, SAID)])]
        )


def test_a_name_that_is_no_text_does_not_stop_the_page(tmp_path: Path) -> None:
    write_page(
        tmp_path / "p.html",
        "t",
        galleries=[Gallery("g", "", [Card(os.fsdecode(b"caf\xe9.png"), None, SAID)])],
    )
    assert r"caf\udce9.png" in Page(tmp_path / "p.html").text


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_browser()
    if os.name != "posix" or program is None:
        pytest.skip(f"none of {', '.join(NAMES)} is installed: no browser to look at the page with")
    with Browser(program, tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def test_a_browser_shows_the_page_without_scrolling_sideways(browser: Browser, full: Path) -> None:
    for width in (320, 390, 768, 1200):
        browser.show(full, width, dark=False)
        browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert browser.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [
            width,
            width,
        ]
        outside = (
            "[...document.querySelectorAll('body *')].filter(e => !e.closest('table, svg > *') &&"
            " e.getBoundingClientRect().right > innerWidth + .5)"
        )
        assert browser.evaluate(f"{outside}.map(e => e.outerHTML.slice(0, 99))") == []
    assert browser.requested == {"file", "data"}


def test_pictures_come_before_numbers_on_a_phone_and_what_a_score_says_before_how_it_is_measured(
    browser: Browser, full: Path
) -> None:
    parts = "['gallery-1', 'gallery-2', 'scores', 'training', 'settings', 'skipped']"
    tops = f"{parts}.map(id => document.getElementById(id).getBoundingClientRect().top)"
    browser.show(full, 390, dark=False)
    assert (found := browser.evaluate(tops)) == sorted(found)
    browser.show(full, 1200, dark=False)
    assert browser.evaluate(tops)[2] < browser.evaluate(tops)[0]
    assert "phrases that people use" in browser.evaluate(
        "document.querySelector('#scores').innerText"
    )
    assert "corpus BLEU" not in browser.evaluate("document.querySelector('#scores').innerText")


@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_draws_every_picture_in_either_theme(
    browser: Browser, full: Path, dark: bool, tmp_path: Path
) -> None:
    browser.show(full, 390, dark, scale=2)
    drawn = browser.evaluate(
        "Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth > 0 &&"
        " i.clientWidth > 0)))"
    )
    assert drawn == [True] * 7
    seen = decode(browser.screenshot())
    assert seen.shape[1] == 780
    paper = tuple(seen[0, 0])
    assert max(paper) < 40 if dark else min(paper) == 255
    curve = browser.evaluate("document.querySelector('.curves img').currentSrc")
    assert base64.b64decode(curve.split(",")[1]) == loss_curve(HISTORY, dark)
    assert tuple(decode(loss_curve(HISTORY, dark))[0, 0]) == paper
    write_page(tmp_path / "p.html", "t", galleries=[Gallery("g", "", [Card("x", scene(), SAID)])])
    browser.show(tmp_path / "p.html", 390, dark)
    colour = make_scene("train", 0, seed=0).things[0].paint
    enlarged = (decode(browser.screenshot(whole=True)) == colour).all(axis=2).sum()
    assert enlarged == 4 * (scene() == colour).all(axis=2).sum()


@pytest.mark.parametrize("dark", [False, True])
def test_all_text_has_the_contrast_that_wcag_asks_for(
    browser: Browser, full: Path, dark: bool
) -> None:
    browser.show(full, 1200, dark)
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    texts = browser.evaluate("""
        [...document.querySelectorAll('body *')].filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())).map(e => {
            const grounds = [];
            for (let at = e; at; at = at.parentElement) grounds.unshift(getComputedStyle(at).backgroundColor);
            return [e.className, getComputedStyle(e).color, grounds];
        })""")
    assert len(texts) > 100
    shades = set()
    for kind, colour, grounds in texts:
        ground = np.ones(3)
        for layer in grounds:
            red, green, blue, alpha = ([float(x) for x in re.findall(r"[\d.]+", layer)] + [1.0])[:4]
            ground = alpha * np.array([red, green, blue]) / 255 + (1 - alpha) * ground
        ink = np.array([float(x) for x in re.findall(r"[\d.]+", colour)[:3]]) / 255
        assert contrast(ink, ground) >= 4.5, (kind, colour, grounds)
        if kind == "word":
            shades.add(tuple(ground))
    assert len(shades) > 20  # a shade for each probability


def contrast(a: np.ndarray, b: np.ndarray) -> float:
    """Contrast ratio of two sRGB colours in 0 to 1, as WCAG 2 defines it."""
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: np.ndarray) -> float:
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))
