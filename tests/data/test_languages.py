"""Captions in other languages than English, from a table to pages and scores."""

import json
import re
from dataclasses import replace
from pathlib import Path

import caption_formats
import numpy as np
import pytest
from commands import SMALL, answer, failing, good
from pages import card, write_cards
from PIL import Image
from refusals import refuses
from wcwidth import width

from xpcap import open_data, open_run
from xpcap.cli.shared import table
from xpcap.data import tokenize
from xpcap.data.hdf5 import fingerprint_of
from xpcap.drawings import generate, picture_of
from xpcap.errors import DataError
from xpcap.prepare import assemble
from xpcap.report import CaptionedPicture, draw_captions
from xpcap.report.captioned_pictures import wrap
from xpcap.report.fonts import find_fonts

CAPTIONS = {
    "German": ["Ein Mädchen fährt Rad.", "Das Mädchen trägt Grün."],
    "Chinese": ["一只狗在草地上跑。", "一只狗，在跑。"],
    "Arabic": ["كلب يركض في الحديقة.", "هذا كلب، يركض."],
}


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten pictures in the folder photos of an empty working folder."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for i in range(10):
        Image.fromarray(picture_of(f"train{i:05d}.png")).save(f"photos/{i}.png")


def prepare(texts: list[str]) -> str:
    """Make captions.csv and data.h5."""
    Path("captions.csv").write_bytes(caption_formats.table({f"{i}.png": texts for i in range(10)}))
    command = "prepare captions.csv --encoder histogram --min-count 1 --out data.h5 --pictures"
    return good(*command.split(), "photos").output


@pytest.mark.parametrize(("language", "space"), [("Chinese", ""), ("Arabic", " ")])
@pytest.mark.slow
def test_captions_of_any_language_are_prepared_trained_on_shown_and_scored(
    language: str, space: str
) -> None:
    texts = CAPTIONS[language]
    first = texts[0].rstrip(".。")
    assert first in prepare(texts)
    assert open_data("data.h5").words("train")[0] == [*(first.split(" ") if space else first)]
    good("train", "data.h5", "--out", "run", *SMALL)
    assert open_run("run").config.tokeniser == "unicode"

    said = answer("caption", "run", "photos/0.png", "--least-words", 3)[0]
    words = said.get("words", said["caption"].split())
    assert space.join(words) == said["caption"]
    assert len(words) == len(said["probabilities"]) >= 3
    assert set(words) <= {word for text in texts for word in tokenize(text)}
    how = "--least-words 3 --html page.html --png page.png"
    shown = good("caption", "run", "photos/0.png", *how.split()).output
    assert f"  model  {said['caption']}\n" in shown
    page = Path("page.html").read_text(encoding="utf-8")
    caption = re.search(r'<p class="caption" lang="" dir="auto">(.*?)</p>', page)
    assert caption is not None
    assert re.sub("<.*?>", "", caption[1]) == said["caption"]
    with Image.open("page.png") as drawn:
        assert drawn.width == 330

    scored = answer("evaluate", "run")
    assert "letters, marks and digits" in scored["protocol"]["bleu"]
    Path("said.json").write_text(json.dumps(scored), encoding="utf-8")
    again = answer("score", "said.json", "--data", "data.h5")
    assert again["scores"].items() <= scored["scores"].items()
    Path("copied.json").write_text(json.dumps({f"{i}.png": texts[0] for i in range(10)}))
    assert answer("score", "copied.json", "--data", "data.h5")["scores"]["bleu4"] == 1.0
    assert "doctor: " in good("evaluate", "run", "--doctor").output


def test_a_banned_word_is_read_as_captions_are_and_a_run_by_another_tokeniser_refused() -> None:
    prepare(CAPTIONS["German"] + CAPTIONS["Chinese"])
    good("train", "data.h5", "--out", "run", *SMALL)
    decoding = ("--beam", 3, "--least-words", 4)
    for banned, word in (("MA\u0308DCHEN", "mädchen"), ("狗", "狗")):
        said = answer("caption", "run", "-n", 1, *decoding, "--ban", banned)[0]
        assert word not in tokenize(said["caption"])
    for banned, message in (
        ("小狗", "'小狗', which is 2 words to run, 小, 狗"),
        ("Hund", "has 'Hund', which is not in the vocabulary of run"),
        ("!", "has '!', which is not in the vocabulary of run"),
    ):
        failing(["caption", "run", "-n", 1, "--ban", banned], message, status=2)
    config = json.loads(Path("run/config.json").read_text())
    Path("run/config.json").write_text(json.dumps({**config, "tokeniser": "ascii"}))
    with refuses(DataError, "config.json: tokeniser", "'ascii' does not exist"):
        open_run("run")


def test_captions_without_a_letter_are_still_counted() -> None:
    assert "skipped captions without a word: 20" in prepare(["Ёлка", "🐕 ❤️", "…!"])


def test_words_of_english_captions_stay_as_they_are() -> None:
    """By the fingerprint, with features of zeros: drawings differ with the version of Pillow."""
    captions = {
        "train": {"1.jpg": ["A dog's 2nd ball!", "a dog"], "2.jpg": ["The dog_runs"]},
        "val": {"3.jpg": ["a\tcat"]},
    }
    features = {f"{i}.jpg": np.zeros(3, np.float32) for i in (1, 2, 3)}
    rows = caption_formats.rows(captions)
    for data, fingerprint in (
        (
            assemble(rows, features=features, min_count=1, max_words=4),
            "e32ea26a28b2dc5db7bf56d51073b2897e44de6f32ecb451fa9433700c48ab26",
        ),
        (
            generate(0, train=60, val=14),
            "9a53142e2ca586e45a0518a13970bbe365e44e1990c93c128f324fab6522fc90",
        ),
    ):
        for name, split in data.splits.items():
            data.splits[name] = replace(split, features=np.zeros_like(split.features))  # type: ignore[index]
        assert fingerprint_of(data) == fingerprint


# Lines, pages and PNGs


def test_words_of_a_script_without_spaces_touch_on_a_page() -> None:
    words = [("<UNK>", 0.5), ("一", 0.5), ("只", 0.5), ("dog", 0.5)]
    page = write_cards(Path("page.html"), card("a", None, words))
    spans = re.sub(r' style=".*?" title=".*?"', "", page.source)
    assert (
        '</span> <span class="word joined">一</span><span class="word joined">只</span> <span'
        ' class="word">dog</span></p>' in spans
    )


def test_characters_that_no_font_has_are_named_and_others_are_drawn_without_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from matplotlib import font_manager

    monkeypatch.setattr(font_manager, "findSystemFonts", lambda *_, **__: [])
    picture = np.zeros((9, 9, 3), np.uint8)
    draw_captions([CaptionedPicture(picture, "Мальчик, été, كلب, כלב", "❤️")])
    assert caplog.messages == []
    draw_captions([CaptionedPicture(picture, "一只狗", "สุนัข 一")])
    (named,) = caplog.messages
    assert (
        "no font of this machine has 8 of the characters (THAI, CJK), which become boxes" in named
    )

    other = font_manager.findfont("STIXGeneral")
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda *_, **__: [other, "gone.ttf"])
    assert find_fonts(["a dog", "Ж\u200d\n"]) == (None, "")
    assert find_fonts(["\u29b0 狗"]) == (["sans-serif", "STIXGeneral"], "狗")


def test_lines_break_between_characters_and_never_before_a_mark_or_a_stop() -> None:
    assert wrap("一只狗在草地上，跑", width, 14) == ["一只狗在草地", "上，跑"]
    assert wrap("e\u0301e\u0301e\u0301", width, 2) == ["e\u0301e\u0301", "e\u0301"]
    assert wrap("a dog runs", width, 5) == ["a dog", "runs"]


def test_columns_line_up_under_wide_characters() -> None:
    texts = "dog", "e\u0301te\u0301", "狗", "ｄ", "ที่", "می\u200cرود", "ᄒ\u1161\u11ab", "👩\u200d👧"
    widths = 3, 3, 2, 2, 1, 5, 2, 2
    lines = table([(text, "|") for text in texts]).splitlines()
    assert lines == [f"{text}{' ' * (5 - n)}  |" for text, n in zip(texts, widths, strict=True)]
