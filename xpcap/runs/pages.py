"""Pages of a run (scores, curves, captions), and pages or PNGs of any captioned pictures."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from xpcap.data import CaptionData
from xpcap.data.dataset import Source
from xpcap.encoders import read_picture
from xpcap.errors import DataError
from xpcap.files import new_path
from xpcap.models import Beam, Policy
from xpcap.prepare.matching import escapes
from xpcap.progress import bar
from xpcap.report import Gallery, draw_captions, write_page
from xpcap.report.page import PictureFinder
from xpcap.report.records import PictureCaption, Skipped
from xpcap.report.scores import Scores
from xpcap.runs.captions import caption_chosen, captioned, with_picture
from xpcap.runs.folder import FIRST, PICTURES, cell_title, read_history
from xpcap.runs.run import Run, default_policy, provenance_text
from xpcap.shapes import GENERATOR, picture_of
from xpcap.training.state import Record

PAGE = "index.html"
FIRST_SHOWN, SHOWN = 4, 9  # pictures that a run's page opens with, and in each gallery
BEAM = 5  # hypotheses of a picture, all of them shown
DRAWN = 60  # most pictures in a PNG: twenty rows of three
NOTE = "sentence BLEU-4"


def whole_history(folder: Path, records: Sequence[Record]) -> tuple[list[Record], int]:
    """Records of both stages in a row, epochs counted on, and how many are the first stage's."""
    epochs = [record for record in read_history(folder / FIRST) if record.get("epoch") != 0]
    first = [{**record, "epoch": number} for number, record in enumerate(epochs, start=1)]
    second = [
        {**record, "epoch": len(first) + record["epoch"]}
        for record in records
        if record["epoch"] or not first
    ]
    return first + second, len(first)


def write_progress_page(folder: str | Path, epochs: int, records: Sequence[Record]) -> None:
    """Write the page of a run in training: its curves so far."""
    folder = Path(folder)
    whole, before = whole_history(folder, records)
    stages = f" (the first {before} by cross entropy, then on the score)" if before else ""
    summary = (
        f"After epoch {whole[-1]['epoch']} of {before + epochs}{stages}. Scores and captions follow"
        " when training ends."
    )
    write_page(folder / PAGE, f"{folder.name}, in training", summary=summary, history=whole)


def write_run_page(
    run: Run, records: Sequence[Record], evaluation: Scores | None, data: CaptionData
) -> None:
    """Write the page of a finished run: curves, settings and, if scored, captions and scores.

    It opens with a few captions; those of the galleries have the `BEAM` best of a beam search too.
    `data` is the data set of the scores.
    """
    find_picture = picture_finder(run, run.source)
    opening, scored = None, ""
    if evaluation:
        scored = f", scored on the {evaluation.n:,} pictures of {evaluation.split}"
        plain = [one._replace(n_best=()) for one in evaluation.spread(count=FIRST_SHOWN)]
        about = f"Pictures spread evenly over {evaluation.split}."
        opening = Gallery("Captions", about, with_pictures(run, plain, find_picture))
    write_page(
        run.path / PAGE,
        run.name,
        summary=f"A{cell_title(run.config.recipe.cell)[1:]} captioner{scored}. {provenance_text(run)}",
        opening=opening,
        scores=evaluation,
        history=whole_history(run.path, records)[0],
        galleries=_galleries(run, evaluation, data, find_picture) if evaluation else (),
        facts=_facts(run),
        find_photo=find_picture,
    )


def write_caption_page(
    path: str | Path,
    run: Run,
    captions: Iterable[PictureCaption],
    *,
    skipped: Sequence[Skipped] = (),
) -> None:
    """Write a page of captions with their pictures, as `caption_files` shows them.

    DataError : `path` exists, or cannot be written to.
    """
    captions = list(captions)
    of_split = any(caption.references for caption in captions)
    about = "Spread evenly over the split." if of_split else "In the order they were given."
    with new_path("caption", path, ".html") as part:
        write_page(
            part,
            f"Captions by {run.name}",
            opening=Gallery("Pictures", about, bar(captions, "writing the page")),
            skipped=skipped,
            find_photo=picture_finder(run, run.source),
        )


def write_caption_png(path: str | Path, captions: Sequence[PictureCaption]) -> int:
    """Write captioned pictures as one PNG: the first 60 at hand, whose number it returns.

    DataError : `path` exists, cannot be written to, or no picture is at hand.
    """
    shown = [one for one in captions if one.picture is not None][:DRAWN]
    if not shown:
        got = f"is at hand to be drawn in {path}"
        expected = "the folder that the data set remembers"
        cause = "was it moved?"
        raise DataError("caption", f"none of {len(captions)} pictures", got, expected, cause)
    with new_path("caption", path, ".png") as part:
        draw_captions(part, shown)
    return len(shown)


def picture_finder(run: Run, source: Source) -> PictureFinder:
    """Lookup of a data set's pictures in the folder that `source` names.

    Generated ones come from the run folder, or are drawn again, but for those of a former version,
    which drew others. Names may be hostile: none leads out of
    the folder, unless by a link in it, which `prepare` follows as well.
    """
    folder = run.path / PICTURES if source.pictures is None else Path(source.pictures)

    def find_picture(name: str) -> np.ndarray | None:
        try:
            there = not escapes(name) and (folder / name).is_file()
        except (OSError, ValueError):  # a name that no file can have
            there = False
        try:
            if source.generated == GENERATOR and source.seed is not None and not there:
                return picture_of(name, source.seed)
            return read_picture(folder / name) if there else None
        except DataError:  # unreadable, or of another data set, as in an inherited index
            return None  # the page shows an empty frame with a note

    return find_picture


def with_pictures(
    run: Run, captions: Iterable[PictureCaption], find_picture: PictureFinder
) -> Iterator[PictureCaption]:
    """Captions with their pictures, one in memory at a time, and the area of their attention."""
    return (with_picture(run, one, find_picture(one.image)) for one in captions)


def _facts(run: Run) -> list[tuple[str, str]]:
    config = run.config.to_json()
    source = {key: value for key, value in config["source"].items() if key != "pictures"}
    rows = [
        (key, str(value))
        for key, value in config.items()
        if key not in ("format", "source", "data_stamp", "data")
    ]
    rows += [("parameters", f"{run.model.size:,}"), ("data", run.config.data.name)]
    return rows + [(f"data: {key}", str(value)) for key, value in source.items()]


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
    noted = {i: one._replace(note=f"{NOTE} {scores[i]:.2f}") for i, one in searched.items()}
    return [
        Gallery(title, about, with_pictures(run, [noted[i] for i in numbers], find_picture))
        for title, (about, numbers) in chosen.items()
    ]


def _searched(
    run: Run, evaluation: Scores, data: CaptionData, numbers: Sequence[int]
) -> dict[int, PictureCaption]:
    """Scored captions by number, each with the n-best list of a beam and its attention map."""
    seen = run.data(data)
    pictures = captioned(seen, evaluation.split)[list(numbers)]
    policy: Policy = Beam(BEAM, n_best=BEAM, max_length=run.config.max_words)
    if run.ranker is not None:
        policy = default_policy(run, n_best=BEAM)
    decoder = run.decoder(policy, explain=True)
    beams = caption_chosen(decoder, seen, evaluation.split, pictures)
    scored = [evaluation.captions[i] for i in numbers]
    features = seen.features(evaluation.split, pictures)
    maps = decoder.attention(features, [one.words for one in scored])
    found = zip(numbers, scored, beams, maps, strict=True)
    return {
        i: one._replace(n_best=beam.n_best, attention=of, explanation=beam.explanation)
        for i, one, beam, of in found
    }
