"""HTML page of a run or of captioned pictures, in one file: scores, curves, settings, galleries."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xpcap.data.vocabulary import gaps
from xpcap.encoders.grid import WHOLE_PICTURE
from xpcap.errors import InvalidValueError
from xpcap.files import atomic
from xpcap.report.captions import (
    DIMMEST,
    NOTHING,
    AttentionMap,
    check_attention_map,
    heaviest,
    overlay_alpha,
)
from xpcap.report.curves import (
    PIXELS,
    History,
    best_point,
    cider_curve,
    loss_curve,
    perplexity_curve,
    points,
)
from xpcap.report.markup import Embedded, data_uri, embed, image_uri, render
from xpcap.report.text import signed

SMALL = 96  # pixels of the long side of a similar photo
OVERLAP = 2  # pixels as shown: the mask reaches so far into the area, or a bright seam would show
ROUNDING = 1e-3  # a probability may lie this far outside 0..1
MOST_WORDS, MOST_REFERENCES, MOST_ROWS = 200, 50, 1000  # shown of a caption, a picture, a table
MOST_RANKED = 20  # captions of a beam
MOST_SIMILAR = 10  # photos, and candidates, that explain a caption
COLUMNS = {  # of the table of epochs: key of a record, heading, format
    "epoch": ("epoch", "d"),
    "train_loss": ("train loss", ".2f"),
    "train_reward": ("train reward", ".3f"),
    "val_loss": ("val loss", ".2f"),
    "val_perplexity": ("val perplexity", ".2f"),
    "val_accuracy": ("val accuracy", ".3f"),
    "val_cider": ("val CIDEr-D", ".3f"),
    "val_distinct": ("val distinct", ".3f"),
    "val_length": ("val words", ".1f"),
    "learning_rate": ("learning rate", ".2e"),
}


class Similar(NamedTuple):
    """A training photo that looks like a picture."""

    name: str
    picture: np.ndarray | None  # (h, w, 3) uint8; None if its file is not at hand
    similarity: float
    caption: str


class Option(NamedTuple):
    """A caption that might have been chosen."""

    caption: str
    note: str  # e.g. "likeliest"
    score: float  # less that of the likeliest
    parts: Sequence[tuple[str, float]]  # of `score`: heading and value, the same headings for all


class Reasons(NamedTuple):
    """The choice of a caption with the help of training photos."""

    sentence: str  # on what decided
    similar: Sequence[Similar]  # the nearest first
    options: Sequence[Option]  # the best first


class Card(NamedTuple):
    """One picture of a gallery."""

    name: str  # the picture's name
    picture: np.ndarray | None  # (h, w, 3) uint8; None if its file is not at hand
    words: Sequence[tuple[str, float]]  # the caption: each word with its probability
    references: Sequence[str] = ()  # empty ones, and those after the fiftieth, are left out
    note: str = ""  # e.g. "BLEU-4 0.81"
    ranked: Sequence[tuple[str, float]] = ()  # captions of a beam and log-probabilities, best first
    attention: AttentionMap | None = None  # shown if the picture is
    reasons: Reasons | None = None


class Gallery(NamedTuple):
    """Pictures chosen by one rule."""

    title: str  # "Best"
    about: str  # the rule, in a sentence
    cards: Iterable[Card]  # read once, in order: a generator keeps one picture in memory at a time


_Photos = dict[str, tuple[int, Embedded]]  # by URI: those that several cards may show, numbered


def write_page(
    path: str | Path,
    title: str,
    *,
    summary: str = "",
    facts: Sequence[tuple[str, str]] = (),
    history: History = (),
    scores: Sequence[tuple[str, str, str, str]] = (),
    galleries: Sequence[Gallery] = (),
    skipped: Sequence[tuple[str, str]] = (),
) -> None:
    """Write a self-contained HTML page; equal arguments give equal bytes.

    Parts without content are left out. The page needs no network and no script, and follows the
    reader's light or dark theme. The text may be untrusted: it is escaped, control and bidi
    characters are spelt out, and long text is cut.

    Parameters
    ----------
    summary : a sentence or two below the title
    facts : (name, value) of each setting
    history : the solver's: one record an epoch with ``epoch``, ``train_loss`` and, if measured,
        ``val_loss``, ``val_perplexity``, ``val_accuracy``, ``learning_rate``
    scores : (name, value, meaning in plain words, protocol) of each score
    skipped : (picture, reason) of each picture that could not be captioned

    Raises
    ------
    ValueError : a probability outside 0 to 1; a picture that is not uint8 of shape (h, w, 3);
        attention weights of a word that do not sum to 1. OSError : the file cannot be written.
    """
    photos: _Photos = {}
    shown = [
        (gallery.title, gallery.about, [_card(card, photos) for card in gallery.cards])
        for gallery in galleries
    ]
    cards = [card for _, _, cards in shown for card in cards]
    page = render(
        "page.html",
        title=title,
        summary=summary,
        facts=_first(facts),
        scores=_first(scores),
        curves=_curves(history),
        pixels=PIXELS,
        epochs=_epochs(history),
        galleries=shown,
        skipped=_first(skipped),
        shaded=any(card["words"] for card in cards),
        described=any(card["references"] for card in cards),
        searched=any(card["ranked"] for card in cards),
        attending=any(card["attention"] for card in cards),
        explained=any(card["reasons"] for card in cards),
        photos=[image for _, image in photos.values()],
        nothing=NOTHING,
    )
    with atomic(Path(path)) as file:
        file.write(page)


def _first(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The first rows of a table, and a row with the number of the rest."""
    first, rest = list(rows[:MOST_ROWS]), len(rows) - MOST_ROWS
    if rest > 0:
        first.append((f"{rest:,} more", "not shown", "", "")[: len(rows[0])])
    return first


def _card(card: Card, photos: _Photos) -> dict[str, object]:
    """A card as the template takes it; `photos` collects those that several cards may show."""
    references = [reference for reference in card.references if reference.strip()]
    image = None if card.picture is None else embed("write_page", card.name, card.picture)
    attention = None
    if image is not None and card.attention is not None and card.words:
        attention = _overlays(card, card.attention, image)
    return {
        "name": card.name,
        "image": image,
        "attention": attention,
        "words": _words(card.words[:MOST_WORDS]),
        "cut": len(card.words) > MOST_WORDS,
        "references": references[:MOST_REFERENCES],
        "more": len(references) - 1,
        "note": card.note,
        "ranked": card.ranked[:MOST_RANKED],
        "reasons": card.reasons and _reasons(card.reasons, photos),
    }


def _reasons(reasons: Reasons, photos: _Photos) -> dict[str, object]:
    similar = []
    for one in reasons.similar[:MOST_SIMILAR]:
        number = None
        if one.picture is not None:
            image = embed("write_page", one.name, one.picture, SMALL)
            number, _ = photos.setdefault(image.uri, (len(photos), image))
        similar.append((one, number))
    options = reasons.options[:MOST_SIMILAR]
    largest = max((abs(x) for option in options for _, x in option.parts), default=0) or 1
    rows = [
        (option, signed(option.score), [(signed(x), x / largest) for _, x in option.parts])
        for option in options
    ]
    heads = [name for name, _ in options[0].parts] if options else []
    return {"sentence": reasons.sentence, "similar": similar, "heads": heads, "rows": rows}


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


def _overlays(card: Card, attention: AttentionMap, image: Embedded) -> dict[str, object]:
    """For each word an overlay image (one pixel per region) and its alt text.

    Also the rectangle to stretch it over, and the hole in the mask around it, in displayed pixels.
    """
    from PIL import Image

    check_attention_map("write_page", card.name, attention, [word for word, _ in card.words])
    words = []
    for (word, _), weights in zip(card.words[:MOST_WORDS], attention.weights, strict=False):
        row, column, weight = heaviest(weights)
        black, alpha = Image.new("L", weights.shape[::-1]), Image.fromarray(overlay_alpha(weights))
        uri = image_uri("png", Image.merge("LA", (black, alpha)), optimize=True)
        side = len(weights)
        words.append((word, uri, f"{weight:.0%} on row {row}, column {column} of {side} x {side}"))
    top, left, bottom, right = attention.area
    x, y = left * image.width, top * image.height
    width, height = (right - left) * image.width, (bottom - top) * image.height
    hole = x + OVERLAP, y + OVERLAP, max(0, width - 2 * OVERLAP), max(0, height - 2 * OVERLAP)
    boxes = {"box": (x, y, width, height), "hole": () if attention.area == WHOLE_PICTURE else hole}
    shown = {name: [f"{side:.1f}" for side in box] for name, box in boxes.items()}
    return {"words": words, "dimmest": DIMMEST, **shown}


def probability(function: str, word: str, p: float) -> float:
    """A word's probability, cut to 0..1. ValueError, which `function` begins: it is none."""
    if not -ROUNDING <= p <= 1 + ROUNDING:
        raise InvalidValueError(
            function,
            f"word {word!r}",
            f"has probability {p}",
            expected="one from 0 to 1",
            cause="a logarithm?",
        )
    return min(max(float(p), 0.0), 1.0)


def _curves(history: History) -> list[dict[str, str]]:
    """Each curve, light and dark, with its description; none for a single epoch."""
    curves: list[dict[str, str]] = []
    if len(history) < 2:
        return curves
    for draw, keys in (
        (loss_curve, ("train_loss", "val_loss")),
        (perplexity_curve, ("val_perplexity",)),
        (cider_curve, ("train_reward", "val_cider")),
    ):
        courses = [_course(history, key) for key in keys if points(history, key)]
        if courses:
            light, dark = (data_uri("png", draw(history, shade)) for shade in (False, True))
            curves.append({"light": light, "dark": dark, "alt": "; ".join(courses)})
    return curves


def _course(history: History, key: str) -> str:
    """A curve described in words."""
    drawn, name = points(history, key), COLUMNS[key][0]
    (first, start), (last, end) = drawn[0], drawn[-1]
    if first == last:
        return f"{name} {end:.2f} after epoch {last}"
    best, value, word = best_point(history, key)
    turn = f", {word} {value:.2f} after epoch {best}" if best != last else ""
    return f"{name} from {start:.2f} after epoch {first} to {end:.2f} after epoch {last}{turn}"


def _epochs(history: History) -> dict[str, object]:
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
