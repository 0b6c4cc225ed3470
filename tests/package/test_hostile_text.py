"""Text of strangers on a page or in a picture: it cannot leave its place, be obeyed, or grow
without end.
"""

import io
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser
from pages import card, scores
from PIL import Image

from xpcap.captioning.pages import Gallery, render_page
from xpcap.encoders import Area
from xpcap.report import CaptionedPicture, draw_captions, escape_control
from xpcap.runs.explanation import PARTS, CandidateCaption, Explanation, Neighbour
from xpcap.runs.records import Skipped

PICTURE = np.zeros((8, 8, 3), np.uint8)
HISTORY = [
    {"epoch": 1, "train_loss": 3.0, "val_loss": 4.0}
]  # too short for curves, which hold no text of anybody's and take time to draw
HOSTILE = {
    "script": "<script>alert(1)</script>",
    "end of an attribute": "\" onerror=alert(1) x='",
    "end of a quoted attribute": "' onmouseover='alert(1)",
    "end of an element": "</span></li></ul></section></body></html>",
    "end of the title and the style": "</title></style><style>*{display:none}</style>",
    "comment": "<!-- --!> <![CDATA[ ]]> <?php ?> <!DOCTYPE x>",
    "entities": "&lt;b&gt; &#60;i&#62; &amp &quot;",
    "link": (
        'javascript:alert(1) data:text/html,<b> <a href="https://example.org">x</a> <img'
        " src=//example.org/x.png>"
    ),
    "meta": (
        '<meta http-equiv="refresh" content="0;url=https://example.org"><base href="//example.org">'
    ),
    "template": "{{ 7 * 7 }}{% raw %}{# x #}${7*7}",
    "style": "red; background: url(https://example.org/x.png)} * { color: red",
    "control characters": "a\0b\x1b[31mred\x1b]0;title\x07\x08\x7f\x80\x9b31m\x0b\x0c",
    "bidi": "\u202aa\u202bb\u202cc\u202dd\u202ee\u2066f\u2067g\u2068h\u2069i",
    "line ends": "a\nb\r\nc\rd\te\u2028f\u2029g\x85h",
    "lone surrogates": "\udce9 \ud83d \ude00",
    "path": "../../../etc/passwd\\..\\C:\\x//y/.",
    "right to left and joined": "שלום مرحبا 👩‍👩‍👧 e\u0301 हिन्दी",
    "towers": "z" + "\u0310\u0489" * 300,
    "unassigned": "\uffff\U000e0fff\ue000\U0010ffff",
    "text without end": "a" * 200_000,
    "words without end": "a b " * 50_000,
    "escapes without end": "\U0010ffff" * 200_000,
}
OBEYED = {chr(i) for i in (*range(32), *range(127, 160), 0x2028, 0x2029)} - {"\n"}
OBEYED |= {chr(i) for i in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
each_text = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())


class Skeleton(HTMLParser):
    """A page without its text: every tag with its attributes, but for what is read aloud or shown
    of them, and everything else that is not text.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.parts: list[Any] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        read = {"img": "alt", "svg": "aria-label", "th": "title"}.get(tag)
        self.parts.append((tag, [(key, None if key == read else value) for key, value in attrs]))
        self.text += " ".join(value or "" for key, value in attrs if key == read)

    def handle_endtag(self, tag: str) -> None:
        self.parts.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.parts.append(f"comment {data}")

    def handle_decl(self, decl: str) -> None:
        self.parts.append(f"declaration {decl}")

    def handle_pi(self, data: str) -> None:
        self.parts.append(f"instruction {data}")

    def unknown_decl(self, data: str) -> None:
        self.parts.append(f"declaration {data}")


def everywhere(text: Any) -> str:
    """The source of a page that has `text` in every place that text goes to."""
    words = [(text, 0.5), (text, 0.9)]
    parts = dict.fromkeys(PARTS, 1.0)
    reasons = Explanation(
        [Neighbour(text, 0.5, [text])], [CandidateCaption(text, -1.0, 7.0, parts)]
    )
    looked = {"attention": [[0.25] * 4] * 2, "area": Area(0, 0, 1, 1)}
    cards = [
        card(text, PICTURE, words, [text] * 3, [(text, -1.0)], score_text=text, **looked),
        card(text, PICTURE, words, explanation=reasons),
        card(text, None, [], [text]),
    ]
    page = render_page(
        text,
        summary=text,
        opening=Gallery(text, text, cards),
        facts=[(text, text)],
        history=HISTORY,
        scores=scores(text, meaning=text, protocol=text),
        galleries=[Gallery(text, text, cards[2:])],
        skipped=[Skipped(text, text)],
    )
    shown = [card(text, PICTURE, words[:1]), scores(text, protocol=text)]  # by a notebook
    return page.decode("utf-8") + "".join(one._repr_html_() for one in shown)


@each_text
def test_no_text_leaves_its_place_on_a_page_is_obeyed_or_grows(text: str) -> None:
    source = everywhere(text)
    assert not OBEYED & set(source)
    assert len(source.encode()) < 150_000
    page, harmless = Skeleton(source), Skeleton(everywhere("harmless"))
    assert page.parts == harmless.parts
    assert page.text.count(escape_control(text)) == harmless.text.count("harmless") > 30


@pytest.mark.slow
def test_a_browser_finds_no_other_elements_and_asks_for_nothing(
    browser: Browser, tmp_path: Path
) -> None:
    seen = []
    for text in ("harmless", *HOSTILE.values()):
        (tmp_path / "page.html").write_text(everywhere(text), encoding="utf-8")
        browser.show(tmp_path / "page.html", 800, dark=False)
        names = "e => [e.tagName, ...e.getAttributeNames()].join(' ')"
        seen.append(browser.evaluate(f"[...document.querySelectorAll('*')].map({names})"))
    assert browser.requested == {"file", "data"}
    assert len(seen[0]) > 100
    assert all(elements == seen[0] for elements in seen)


def test_text_of_numpy_is_text_like_any_other() -> None:
    assert everywhere(np.str_("<b>\x1b")) == everywhere("<b>\x1b")


def test_what_is_spelt_out_can_be_read_and_other_scripts_stay_what_they_are() -> None:
    assert escape_control("a\x1b[0m\0 \u202eb\udce9") == r"a\x1b[0m\x00 \u202eb\udce9"
    assert escape_control("one\ntwo\r\tthree") == "one two  three"
    text = "שלום مرحبا 👩‍👩‍👧 🏳️‍🌈 e\u0301 हिन्दी ไทย ﷽ tab\u00a0\u3000 \\x1b <b>"
    assert escape_control(text) == text
    assert escape_control("z" + "\u0310" * 8) == "z" + "\u0310" * 6 + r"\u0310" * 2
    assert escape_control("a" * 1001) == "a" * 1000 + "…"


def test_a_page_of_many_things_counts_what_it_leaves_out() -> None:
    many = [f"thing {i}" for i in range(10_000)]
    one = card("x", PICTURE, [(word, 0.5) for word in many], many)
    history = [{"epoch": i + 1, "train_loss": 1.0} for i in range(2500)]
    pairs = [(thing, thing) for thing in many]
    source = render_page(
        "t",
        facts=pairs,
        scores=scores(*many),
        skipped=[Skipped(*pair) for pair in pairs],
        history=history,
        galleries=[Gallery("g", "", [one])],
    ).decode("utf-8")
    assert len(source) < 1_000_000
    assert source.count("9,000 more") == 3
    assert source.count('<span class="word"') == 200 + 5  # and the legend's
    assert "49 of 9999 more references" in source
    assert "One in 3 epochs" in source
    assert source.count("<tr>") == 1 + 834
    assert "<td>2500</td>" in source  # the last one is told


@each_text
def test_no_text_makes_a_png_fail_or_grow(text: str) -> None:
    png = draw_captions([CaptionedPicture(PICTURE, text, text)])
    with Image.open(io.BytesIO(png)) as picture:
        width, height = picture.size
    assert (width, height < 600) == (330, True)
    assert len(png) < 60_000
