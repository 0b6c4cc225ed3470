"""Pages of a run (scores, curves, captions), and pages or PNGs of captioned pictures.

`render_page` fills the template page.html.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpcap.captioning.captions import caption_chosen, captioned, with_picture
from xpcap.captioning.scores import Scores
from xpcap.data import CaptionData
from xpcap.data.dataset import Source
from xpcap.data.vocabulary import gaps
from xpcap.drawings import GENERATOR, picture_of
from xpcap.encoders import read_picture
from xpcap.encoders.grid import WHOLE_PICTURE, Area
from xpcap.encoders.kinds import in_folder
from xpcap.errors import DataError, InvalidValueError
from xpcap.files.read_write import atomic
from xpcap.models import Beam, Policy
from xpcap.prepare.names import path_inside, roots_of
from xpcap.progress import bar
from xpcap.report import CaptionedPicture, draw_captions
from xpcap.report.curves import COLUMNS, History, points, training_charts
from xpcap.report.markup import Embedded, embed, image_uri, render
from xpcap.report.overlay import DIMMEST, check_weights, heaviest, overlay_alpha
from xpcap.report.text import NOTHING, signed
from xpcap.runs.explanation import PARTS, Explanation, compare_candidates, decision, sample_caption
from xpcap.runs.folder import PICTURES, cell_title
from xpcap.runs.records import PictureCaption, Skipped
from xpcap.runs.run import Run, default_policy, provenance_text
from xpcap.training.state import Record

PAGE = "index.html"
FIRST_SHOWN = 4  # pictures at the top of a run's page
SHOWN = 9  # pictures in each gallery
BEAM = 5  # width of the beam whose hypotheses are shown
DRAWN = 60  # limit of pictures in a PNG: twenty rows of three
SCORE_NAME = "sentence BLEU-4"
SIMILAR = 5  # training photos that explain a caption
SMALL = 96  # pixels of their long side
OVERLAP = 2  # displayed pixels of the area that the mask covers, to hide a bright seam
ROUNDING = 1e-3  # a probability may lie this far outside 0..1
MAX_WORDS = 200  # shown of a caption
MAX_REFERENCES = 50  # shown of a picture
MAX_ROWS = 1000  # shown of a table
MAX_HYPOTHESES = 20  # shown of a beam
# Parts of a picture's card; the first gallery that has one explains it in a sentence
EXPLAINED = "words", "references", "attention", "reasons", "hypotheses"
PictureFinder = Callable[[str], np.ndarray | None]  # a picture by its name; None: not found


class Gallery(NamedTuple):
    """Pictures chosen by one rule."""

    title: str  # "Best"
    about: str  # a sentence about the rule
    captions: Iterable[PictureCaption]  # read once, so a generator holds one picture in memory


def write_progress_page(folder: str | Path, epochs: int, history: Sequence[Record]) -> None:
    """Write the page of a run during training, with its curves so far."""
    folder = Path(folder)
    first = sum("train_loss" in record for record in history)
    is_second = "train_reward" in history[-1] and first > 0
    stages = f" (the first {first} by cross entropy, then self-critical)" if is_second else ""
    summary = (
        f"After epoch {history[-1]['epoch']} of {epochs}{stages}. Scores and captions follow"
        " when training ends."
    )
    page = render_page(f"{folder.name}, in training", summary=summary, history=history)
    _replace_page(folder, page)


def write_run_page(
    run: Run, history: Sequence[Record], evaluation: Scores | None, data: CaptionData
) -> None:
    """Write the page of a finished run: curves, settings and, if scored, captions and scores.

    It starts with a few captions; the galleries also show the hypotheses of a beam search. `data`
    is the data set of the scores.
    """
    find_picture = picture_finder(run, run.source)
    opening = None
    scored = ""
    if evaluation:
        scored = f", scored on the {evaluation.n:,} pictures of {evaluation.split}"
        captions = [replace(caption, n_best=()) for caption in evaluation.spread(count=FIRST_SHOWN)]
        about = f"Pictures spread evenly over {evaluation.split}."
        opening = Gallery("Captions", about, with_pictures(run, captions, find_picture))
    page = render_page(
        run.name,
        summary=f"A{cell_title(run.config.recipe.cell)[1:]} captioner{scored}."
        f" {provenance_text(run, quote=_name)}",
        opening=opening,
        scores=evaluation,
        history=history,
        galleries=_galleries(run, evaluation, data, find_picture) if evaluation else (),
        facts=_facts(run),
        find_photo=find_picture,
    )
    _replace_page(run.path, page)


def _replace_page(folder: Path, page: bytes) -> None:
    """Write or replace the page of a run."""
    with atomic(folder / PAGE) as file:
        file.write(page)


def caption_page(
    run: Run, captions: Iterable[PictureCaption], *, skipped: Sequence[Skipped] = ()
) -> bytes:
    """An HTML page of captions with their pictures, as `caption_files` returns with `show`.

    ValueError : as in `render_page`.
    """
    captions = list(captions)
    has_references = any(caption.references for caption in captions)
    about = "Spread evenly over the split." if has_references else "In the given order."
    return render_page(
        f"Captions by {run.name}",
        opening=Gallery("Pictures", about, bar(captions, "writing the page")),
        skipped=skipped,
        find_photo=picture_finder(run, run.source),
    )


def caption_png(captions: Iterable[PictureCaption]) -> bytes:
    """A PNG of the first 60 captioned pictures that were found. DataError : none was found."""
    captions = list(captions)
    shown = [
        CaptionedPicture(caption.picture, caption.caption, *caption.references[:1])
        for caption in captions
        if isinstance(caption.picture, np.ndarray)
    ][:DRAWN]
    if not shown:
        raise DataError(
            f"none of {len(captions)} pictures was found, expected the folder of pictures that the"
            " data set names; was it moved?"
        )
    return draw_captions(shown)


def picture_finder(run: Run, source: Source) -> PictureFinder:
    """A function that finds a data set's pictures, by name, in the folder that `source` names.

    Generated pictures come from the run folder, or are drawn again. Names are untrusted: no name
    leads out of the folder, except through a link in it, which `prepare` follows as well.
    """
    folder = run.path / PICTURES if source.pictures is None else Path(source.pictures)
    roots = roots_of(folder) if os.path.isdir(folder) else ()  # noqa: PTH112 - any text

    def find_picture(name: str) -> np.ndarray | None:
        file = folder / (path_inside(roots, name) or "")
        try:
            if os.path.isfile(file):  # noqa: PTH113 - any text
                return read_picture(file)
            if source.generated == GENERATOR and source.seed is not None:
                return picture_of(name, source.seed)
        except DataError:  # it is unreadable, or of another data set, as in an inherited index
            pass
        return None

    return find_picture


def with_pictures(
    run: Run, captions: Iterable[PictureCaption], find_picture: PictureFinder
) -> Iterator[PictureCaption]:
    """Captions with their pictures, one at a time in memory, and the area of their attention."""
    return (with_picture(run, caption, find_picture(caption.image)) for caption in captions)


def _name(path: str) -> str:
    """The name without the folder, which a published page should not reveal."""
    return Path(path).name


def _facts(run: Run) -> list[tuple[str, str]]:
    config = run.config.to_json()
    source = {key: value for key, value in config["source"].items() if key != "pictures"}
    rows = [
        (key, _name(value) if key == "start" and value else str(value))
        for key, value in config.items()
        if key not in ("format", "source", "data_stamp", "data")
    ]
    rows += [("parameters", f"{run.model.size:,}"), ("data", run.config.data.name)]
    return rows + [(f"data: {key}", in_folder(str(value))) for key, value in source.items()]


def _galleries(
    run: Run, evaluation: Scores, data: CaptionData, find_picture: PictureFinder
) -> list[Gallery]:
    """Best, worst and random captions of the scored split."""
    scores = evaluation.per_picture["bleu"]
    order = sorted(range(evaluation.n), key=lambda i: -scores[i])
    count = min(SHOWN, max(1, len(order) // 3))
    drawn = np.random.default_rng(0).choice(len(order), count, replace=False)
    chosen = {
        "Best": (
            f"The {count} captions with the highest smoothed sentence BLEU-4 of {len(order):,}.",
            order[:count],
        ),
        "Worst": (f"The {count} with the lowest.", order[::-1][:count]),
        "Random": (f"{count} drawn at random.", sorted(drawn.tolist())),
    }
    shown = sorted({i for _, numbers in chosen.values() for i in numbers})
    searched = _searched(run, evaluation, data, shown)
    captions = {
        i: replace(caption, score_text=f"{SCORE_NAME} {scores[i]:.2f}")
        for i, caption in searched.items()
    }
    return [
        Gallery(title, about, with_pictures(run, [captions[i] for i in numbers], find_picture))
        for title, (about, numbers) in chosen.items()
    ]


def _searched(
    run: Run, evaluation: Scores, data: CaptionData, numbers: Sequence[int]
) -> dict[int, PictureCaption]:
    """Scored captions by number, each with the n-best list of a beam and its attention map."""
    dataset = run.data(data)
    pictures = captioned(dataset, evaluation.split)[list(numbers)]
    policy: Policy = Beam(BEAM, n_best=BEAM, max_length=run.config.max_words)
    if run.reranker is not None:
        policy = default_policy(run, n_best=BEAM)
    decoder = run.decoder(policy, explain=True)
    beams = caption_chosen(decoder, dataset, evaluation.split, pictures)
    scored = [evaluation.captions[i] for i in numbers]
    features = dataset.features(evaluation.split, pictures)
    maps = decoder.attention(features, [caption.words for caption in scored])
    rows = zip(numbers, scored, beams, maps, strict=True)
    return {
        i: replace(caption, n_best=beam.n_best, attention=weights, explanation=beam.explanation)
        for i, caption, beam, weights in rows
    }


# The page


def render_page(
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
) -> bytes:
    """A self-contained HTML page; equal arguments give equal bytes.

    Sections without content are omitted. The page needs no network and no script, and follows the
    reader's light or dark theme. Text may be untrusted: it is escaped, control and bidi characters
    are spelt out, and long text is cut.

    summary : one or two sentences below the title
    opening : pictures at the top of the page
    scores : three of them follow, next to people's; all are in a folded section below
    history : a solver's records, one per epoch, with ``epoch``, ``train_loss`` and, if measured,
        ``val_loss``, ``val_perplexity``, ``val_accuracy``, ``learning_rate``
    facts : (name, value) of each setting
    find_photo : finds the training photos that explain a caption
    ValueError : a probability is outside 0 to 1, a picture is not uint8 of shape (h, w, 3), or the
        attention weights of a word do not sum to 1.
    """
    album = _Album(find_photo)

    explained: list[str] = []  # parts of cards that earlier sections have explained

    def show(gallery: Gallery) -> dict[str, Any]:
        cards = [_card(caption, album) for caption in gallery.captions]
        parts = [part for part in EXPLAINED if any(card[part] for card in cards)]
        new = [part for part in parts if part not in explained]
        explained.extend(new)
        return {"title": gallery.title, "about": gallery.about, "cards": cards, "new": new}

    first = show(opening) if opening else None
    rest = list(map(show, galleries))
    return render(
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
        skipped=_first([*map(astuple, skipped)]),
        explained=explained,
        photos=album.photos,
        nothing=NOTHING,
    )


def _first(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The first rows of a table, and a row with the number of the rest."""
    first = list(rows[:MAX_ROWS])
    rest = len(rows) - MAX_ROWS
    if rest > 0:
        more = f"{rest:,} more", "not shown", "", "", "", ""
        first.append(more[: len(rows[0])])
    return first


# A picture


class _Album:
    """Numbered photos; each is read and stored once, though several cards may show it."""

    def __init__(self, find: PictureFinder) -> None:
        self._find = find
        self._numbers = dict[str, int | None]()
        self.photos: list[Embedded] = []

    def number(self, name: str) -> int | None:
        """The number of a photo; None: it was not found."""
        if name not in self._numbers:
            photo = self._find(name)
            self._numbers[name] = None
            if photo is not None:
                self._numbers[name] = len(self.photos)
                self.photos.append(embed(name, photo, SMALL))
        return self._numbers[name]


def _card(caption: PictureCaption, album: _Album) -> dict[str, Any]:
    """The values of a captioned picture that the template shows."""
    words = caption.split()
    references = [reference for reference in caption.references if reference.strip()]
    image = None if caption.picture is None else embed(caption.image, caption.picture)
    return {
        "name": caption.image,
        "image": image,
        "attention": image and _overlays(caption, words, image),
        "words": _words(list(zip(words, caption.probabilities, strict=True))[:MAX_WORDS]),
        "cut": len(words) > MAX_WORDS,
        "references": references[:MAX_REFERENCES],
        "more": len(references) - 1,
        "score_text": caption.score_text,
        "hypotheses": caption.n_best[:MAX_HYPOTHESES],
        "reasons": caption.explanation and _reasons(caption.explanation, album),
    }


def _reasons(explanation: Explanation, album: _Album) -> dict[str, Any]:
    similar = [
        (neighbour, sample_caption(neighbour), album.number(neighbour.image))
        for neighbour in explanation.neighbours[:SIMILAR]
    ]
    compared = compare_candidates(explanation)
    largest = max((abs(x) for item in compared for x in item.parts.values()), default=0) or 1
    rows = [
        (
            item.candidate.caption,
            item.origin,
            signed(item.score),
            [(signed(x), x / largest) for x in item.parts.values()],
        )
        for item in compared
    ]
    heads = [PARTS[name][0] for name in compared[0].parts] if compared else []
    return {"sentence": decision(explanation), "similar": similar, "heads": heads, "rows": rows}


def _words(words: Sequence[tuple[str, float]]) -> list[tuple[str, float, str, bool]]:
    """Each word with its probability, the gap after it, and whether it touches a neighbour."""
    after = gaps([word for word, _ in words])
    before = [" ", *after]
    last = len(words) - 1
    return [
        (
            word,
            _probability(word, p),
            after[i],
            not (before[i] and (after[i] or i == last)),
        )
        for i, (word, p) in enumerate(words)
    ]


def _probability(word: str, p: float) -> float:
    """A word's probability, clipped to 0..1. ValueError : it is far outside."""
    if not -ROUNDING <= p <= 1 + ROUNDING:
        raise InvalidValueError(
            f"word {word!r} has probability {p}, expected one from 0 to 1; a logarithm?"
        )
    return min(max(float(p), 0.0), 1.0)


def _overlays(
    caption: PictureCaption, words: Sequence[str], image: Embedded
) -> dict[str, Any] | None:
    """For each word an overlay image, one pixel per region, and its alt text.

    It also has, in displayed pixels, the rectangle of the overlay and the hole in the mask around
    it. None: there is no attention, or not over K x K regions of a known area.
    """
    from PIL import Image

    weights = np.array(() if caption.attention is None else caption.attention)
    side = math.isqrt(weights.shape[-1]) if weights.size else 0
    if not words or not side or caption.area is None or side * side != weights.shape[-1]:
        return None
    check_weights(caption.image, weights, words)
    shown = []
    for word, region_weights in zip(
        words[:MAX_WORDS], weights.reshape(-1, side, side), strict=False
    ):
        row, column, weight = heaviest(region_weights)
        black = Image.new("L", (side, side))
        alpha = Image.fromarray(overlay_alpha(region_weights))
        uri = image_uri("png", Image.merge("LA", (black, alpha)), optimize=True)
        shown.append((word, uri, f"{weight:.0%} on row {row}, column {column} of {side} x {side}"))
    return {"words": shown, "dimmest": DIMMEST, **_boxes(caption.area, image)}


def _boxes(area: Area, image: Embedded) -> dict[str, list[str]]:
    top, left, bottom, right = astuple(area)
    x = left * image.width
    y = top * image.height
    width = (right - left) * image.width
    height = (bottom - top) * image.height
    hole = x + OVERLAP, y + OVERLAP, max(0, width - 2 * OVERLAP), max(0, height - 2 * OVERLAP)
    boxes = {"box": (x, y, width, height), "hole": () if area == WHOLE_PICTURE else hole}
    return {name: [f"{side:.1f}" for side in box] for name, box in boxes.items()}


# The table of epochs


def _epochs(history: History) -> dict[str, Any]:
    """The history as a table of text; a long history shows every second, third, ... epoch."""
    every = -(-len(history) // MAX_ROWS)
    last = len(history) - 1
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
