"""HTML page of a run or of captioned pictures, in one file: captions, scores, curves, settings."""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpcap.data.vocabulary import gaps
from xpcap.encoders.grid import WHOLE_PICTURE, Area
from xpcap.errors import InvalidValueError
from xpcap.files import atomic
from xpcap.report.curves import COLUMNS, History, points, training_charts
from xpcap.report.explanation import (
    PARTS,
    Explanation,
    compare_candidates,
    decision,
    sample_caption,
)
from xpcap.report.markup import Embedded, embed, image_uri, render
from xpcap.report.overlay import DIMMEST, check_weights, heaviest, overlay_alpha
from xpcap.report.records import PictureCaption, Skipped
from xpcap.report.scores import Scores
from xpcap.report.text import NOTHING, signed

SIMILAR, SMALL = 5, 96  # training photos that explain a caption; pixels of one's long side
OVERLAP = 2  # pixels as shown: the mask reaches so far into the area, or a bright seam would show
ROUNDING = 1e-3  # a probability may lie this far outside 0..1
MOST_WORDS, MOST_REFERENCES, MOST_ROWS = 200, 50, 1000  # shown of a caption, a picture, a table
MOST_RANKED = 20  # captions of a beam
# Parts of a card that a sentence explains, where they first occur
EXPLAINED = "words", "references", "attention", "reasons", "ranked"
PictureFinder = Callable[[str], np.ndarray | None]  # a picture by its name; None: not at hand


class Gallery(NamedTuple):
    """Pictures chosen by one rule."""

    title: str  # "Best"
    about: str  # the rule, in a sentence
    captions: Iterable[PictureCaption]  # read once: a generator keeps one picture in memory


def write_page(
    path: str | Path,
    title: str,
    *,
    summary: str = "",
    opening: Gallery | None = None,
    scores: Scores | None = None,
    history: History = (),
    galleries: Sequence[Gallery] = (),
    facts: Sequence[tuple[str, str]] = (),
    skipped: Sequence[Skipped] = (),
    find_photo: PictureFinder = lambda name: None,
) -> None:
    """Write a self-contained HTML page; equal arguments give equal bytes.

    Parts without content are left out. The page needs no network and no script, and follows the
    reader's light or dark theme. The text may be untrusted: it is escaped, control and bidi
    characters are spelt out, and long text is cut.

    summary : a sentence or two below the title
    opening : the pictures that the page opens with
    scores : three of them follow, beside people's; all of them come below, folded
    history : the solver's: one record an epoch with ``epoch``, ``train_loss`` and, if measured,
        ``val_loss``, ``val_perplexity``, ``val_accuracy``, ``learning_rate``
    facts : (name, value) of each setting
    find_photo : the training photos that explain a caption, by name
    ValueError : a probability outside 0 to 1; a picture that is not uint8 of shape (h, w, 3);
        attention weights of a word that do not sum to 1. OSError : the file cannot be written.
    """
    album = _Album(find_photo)

    explained: list[str] = []  # parts of cards, by the sections so far

    def show(gallery: Gallery) -> dict[str, Any]:
        cards = [_card(one, album) for one in gallery.captions]
        there = [part for part in EXPLAINED if any(card[part] for card in cards)]
        new = [part for part in there if part not in explained]
        explained.extend(new)
        return {"title": gallery.title, "about": gallery.about, "cards": cards, "new": new}

    first, rest = show(opening) if opening else None, list(map(show, galleries))
    page = render(
        "page.html",
        title=title,
        summary=summary,
        opening=first,
        headline=scores.headline() if scores else (),
        charts=training_charts(history),
        epochs=_epochs(history),
        galleries=rest,
        scores=_first(scores.rows()) if scores else (),
        human=scores.human_protocol if scores else "",
        facts=_first(facts),
        skipped=_first(skipped),
        explained=explained,
        photos=album.photos,
        nothing=NOTHING,
    )
    with atomic(Path(path)) as file:
        file.write(page)


def _first(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The first rows of a table, and a row with the number of the rest."""
    first, rest = list(rows[:MOST_ROWS]), len(rows) - MOST_ROWS
    if rest > 0:
        more = f"{rest:,} more", "not shown", "", "", "", ""
        first.append(more[: len(rows[0])])
    return first


# ---- A picture


class _Album:
    """Photos that several cards may show: each is read and stored once, and has a number."""

    def __init__(self, find: PictureFinder) -> None:
        self._find, self._numbers = find, dict[str, int | None]()
        self.photos: list[Embedded] = []

    def number(self, name: str) -> int | None:
        """The number of a photo; None: it is not at hand."""
        if name not in self._numbers:
            photo, self._numbers[name] = self._find(name), None
            if photo is not None:
                self._numbers[name] = len(self.photos)
                self.photos.append(embed("write_page", name, photo, SMALL))
        return self._numbers[name]


def _card(one: PictureCaption, album: _Album) -> dict[str, Any]:
    """A picture as the template takes it, without its pixels."""
    words = one.split()
    references = [reference for reference in one.references if reference.strip()]
    image = None if one.picture is None else embed("write_page", one.image, one.picture)
    return {
        "name": one.image,
        "image": image,
        "attention": image and _overlays(one, words, image),
        "words": _words(list(zip(words, one.probabilities, strict=True))[:MOST_WORDS]),
        "cut": len(words) > MOST_WORDS,
        "references": references[:MOST_REFERENCES],
        "more": len(references) - 1,
        "note": one.note,
        "ranked": one.n_best[:MOST_RANKED],
        "reasons": one.explanation and _reasons(one.explanation, album),
    }


def _reasons(explanation: Explanation, album: _Album) -> dict[str, Any]:
    similar = [
        (one, sample_caption(one), album.number(one.image))
        for one in explanation.neighbours[:SIMILAR]
    ]
    options = compare_candidates(explanation)
    largest = max((abs(x) for option in options for x in option.parts.values()), default=0) or 1
    rows = [
        (
            option.candidate.caption,
            option.note,
            signed(option.score),
            [(signed(x), x / largest) for x in option.parts.values()],
        )
        for option in options
    ]
    heads = [PARTS[name][0] for name in options[0].parts] if options else []
    return {"sentence": decision(explanation), "similar": similar, "heads": heads, "rows": rows}


def _words(words: Sequence[tuple[str, float]]) -> list[tuple[str, float, str, bool]]:
    """Each word with its probability, the gap behind it, and whether it touches a neighbour."""
    after = gaps([word for word, _ in words])
    before = [" ", *after]
    last = len(words) - 1
    return [
        (
            word,
            probability("write_page", word, p),
            after[i],
            not (before[i] and (after[i] or i == last)),
        )
        for i, (word, p) in enumerate(words)
    ]


def probability(caller: str, word: str, p: float) -> float:
    """A word's probability, cut to 0..1. ValueError, which `caller` begins: it is none."""
    if not -ROUNDING <= p <= 1 + ROUNDING:
        got = f"has probability {p}"
        raise InvalidValueError(caller, f"word {word!r}", got, "one from 0 to 1", "a logarithm?")
    return min(max(float(p), 0.0), 1.0)


def _overlays(one: PictureCaption, words: Sequence[str], image: Embedded) -> dict[str, Any] | None:
    """For each word an overlay image (one pixel per region) and its alt text.

    Also the rectangle to stretch it over, and the hole in the mask around it, in displayed pixels.
    None: there is no attention, or it is not over K x K regions of a known area.
    """
    from PIL import Image

    weights = np.array(() if one.attention is None else one.attention)
    side = math.isqrt(weights.shape[-1]) if weights.size else 0
    if not words or not side or one.area is None or side * side != weights.shape[-1]:
        return None
    check_weights("write_page", one.image, weights, words)
    shown = []
    for word, of_word in zip(words[:MOST_WORDS], weights.reshape(-1, side, side), strict=False):
        row, column, weight = heaviest(of_word)
        black, alpha = Image.new("L", (side, side)), Image.fromarray(overlay_alpha(of_word))
        uri = image_uri("png", Image.merge("LA", (black, alpha)), optimize=True)
        shown.append((word, uri, f"{weight:.0%} on row {row}, column {column} of {side} x {side}"))
    return {"words": shown, "dimmest": DIMMEST, **_boxes(one.area, image)}


def _boxes(area: Area, image: Embedded) -> dict[str, list[str]]:
    top, left, bottom, right = area
    x, y = left * image.width, top * image.height
    width, height = (right - left) * image.width, (bottom - top) * image.height
    hole = x + OVERLAP, y + OVERLAP, max(0, width - 2 * OVERLAP), max(0, height - 2 * OVERLAP)
    boxes = {"box": (x, y, width, height), "hole": () if area == WHOLE_PICTURE else hole}
    return {name: [f"{side:.1f}" for side in box] for name, box in boxes.items()}


# ---- The table of epochs


def _epochs(history: History) -> dict[str, Any]:
    """The history as a table of text; a very long one shows every second, third, ... epoch."""
    every, last = -(-len(history) // MOST_ROWS), len(history) - 1
    shown = [record for i, record in enumerate(history) if (i + 1) % every == 0 or i == last]
    columns = {key: column for key, column in COLUMNS.items() if points(shown, key)}
    rows = [
        [
            format(record[key], form) if record.get(key) is not None else "–"
            for key, (_, form) in columns.items()
        ]
        for record in shown
    ]
    return {"heads": [heading for heading, _ in columns.values()], "rows": rows, "every": every}
