"""Model card, README.md in Hugging Face's format, and the strip of pictures in it.

card.md.jinja is the card. All text that it prints is escaped, but for what a filter marks as ours or
shows as code: text of the data is only ever code, so that none of it is Markdown, HTML or YAML.
"""

import functools
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from xpcap.data import CaptionData
from xpcap.data.dataset import Source
from xpcap.data.vocabulary import SPECIAL, TOKENISATION, Vocabulary
from xpcap.encoders import ENCODERS
from xpcap.errors import install
from xpcap.files import atomic, write_text
from xpcap.models import ModelConfig
from xpcap.report.text import NOTHING, escape_control
from xpcap.runs.config import Config
from xpcap.runs.folder import (
    BEST,
    CONFIG,
    DATA,
    FIRST,
    HISTORY,
    LAST,
    LOCK,
    PICTURES,
    PROJECTION,
    RANKING,
    START_RANKING,
    TIMES,
    VOCAB,
    cell_title,
)
from xpcap.runs.pages import PAGE, PictureFinder, picture_finder
from xpcap.runs.recipe import table
from xpcap.runs.records import PictureCaption
from xpcap.runs.run import Run, provenance_text
from xpcap.runs.scores import Scores
from xpcap.shapes import is_generated

if TYPE_CHECKING:
    from jinja2 import Template

CARD, EXAMPLES = "README.md", "examples.jpg"
SHOWN = 3  # pictures in EXAMPLES
SIDE, GAP, QUALITY = 256, 8, 90  # pixels of a picture's longer side, and between two; of the JPEG
LONGEST, MAX_FILES = 200, 20  # characters of a name or caption; caption files named
MEANINGS = {
    "W_proj": "image feature to state",
    "b_proj": "its bias",
    "W_embed": "word vectors, one row per word",
    "Wx": "word vector to pre-activation",
    "Wh": "state to pre-activation",
    "b": "bias of the pre-activation",
    "W_vocab": "state to a logit a word",
    "b_vocab": "its bias",
    "W_image": "projected image to pre-activation, at every step",
    "Wattn": "attended regions to pre-activation",
    "feature_scaling.mean": "subtracted from a feature",
    "feature_scaling.scale": "then divides it",
}


class RunFile(NamedTuple):
    """A file, or folder, that a run folder may have."""

    name: str
    content: str  # in Markdown
    in_card: bool = True  # the model card names it


FILES = (
    RunFile(BEST, "the parameters of the epoch that captions come from, and its record"),
    RunFile(
        CONFIG, "options, versions, and where data and pictures lay on the machine that trained"
    ),
    RunFile(VOCAB, "the words; row k of `W_embed` is the k-th"),
    RunFile(PROJECTION, "the PCA that features go through; needed with the parameters"),
    RunFile(
        RANKING,
        "index of the training photos with their names and captions, and the fitted weights;"
        " without it captions are greedy",
    ),
    RunFile(
        START_RANKING,
        "after a head start: the ranking of the run that it started from",
        in_card=False,
    ),
    RunFile(HISTORY, "one line per epoch; epoch 0 is the run that training started from"),
    RunFile(TIMES, "seconds of each epoch", in_card=False),
    RunFile(PAGE, "page with curves and captions; it shows pictures of the data"),
    RunFile(CARD, "model card", in_card=False),
    RunFile(EXAMPLES, "the pictures of the model card"),
    RunFile(LAST, "the state that training resumes from; nothing else needs it"),
    RunFile(
        f"{FIRST}/",
        "run folder of the first stage, if there are two; captions do not need it",
        in_card=False,
    ),
    RunFile(DATA, "the data of a run on generated pictures", in_card=False),
    RunFile(f"{PICTURES}/", "val pictures of such a run", in_card=False),
    RunFile(
        LOCK,
        "empty; held by the process that trains, so that no second one can train in the folder",
        in_card=False,
    ),
)


class Markdown(str):
    """Text that is Markdown of ours."""

    __slots__ = ()


def code(text: str) -> Markdown:
    """Untrusted text as a Markdown code span on one line, cut if long."""
    shown = escape_control(text, LONGEST).strip() or NOTHING
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    pad = " " if "`" in (shown[0], shown[-1]) else ""
    return Markdown(f"{fence}{pad}{shown}{pad}{fence}")


def write_run_card(run: Run, evaluation: Scores | None, data: CaptionData) -> None:
    """Write the model card of a finished run, and a strip of captioned pictures if it is scored.

    Equal runs give equal bytes.

    evaluation : the run's scores; None: not scored
    data : that it was trained on
    OSError : a file cannot be written.
    """
    folder, config, model, source = run.path, run.config, run.model.config, run.source
    stages = [config]
    if (folder / FIRST / CONFIG).is_file():
        stages.insert(0, Config.read(folder / FIRST))
    start = stages[0].recipe.start
    chosen = {
        "the epoch": config.recipe.select in ("cider", "loss"),
        "the weights of the ranking": run.ranker is not None,
    }
    captions = evaluation.spread(count=SHOWN) if evaluation else []
    shown = _write_examples(folder / EXAMPLES, captions, picture_finder(run, source))
    encoder = ENCODERS.get((source.encoder or "").partition(":")[0])
    text = _template().render(
        run=run,
        config=config,
        model=model,
        source=source,
        scores=evaluation,
        front=_front_matter(run, evaluation),
        cell=cell_title(model.cell),
        provenance=provenance_text(run, quote=lambda start: code(Path(start).name)),
        captions=captions,
        shown=shown,
        examples=EXAMPLES,
        install=install(encoder.extra) if encoder and encoder.extra else "",
        caption_files=_caption_files(source),
        max_files=MAX_FILES,
        splits=_splits(data, run.vocabulary),
        words=len(run.vocabulary) - len(SPECIAL),
        special=len(SPECIAL),
        tokeniser=TOKENISATION,
        start=(Path(start).name, str(stages[0].start_digest)) if start else None,
        stages=stages,
        options=table([stage.recipe for stage in stages]),
        chosen=[what for what, did in chosen.items() if did],
        tensors=_tensors(run),
        step=_step(model),
        drawn=is_generated(source),
        licence=encoder.licence if encoder else "not stated in the dataset file",
        best=BEST,
        options_file=CONFIG,
        files=[file for file in FILES if file.in_card and (folder / file.name).is_file()],
    )
    write_text(folder / CARD, text)


@functools.cache
def _template() -> "Template":
    from jinja2 import Environment, StrictUndefined

    environment = Environment(  # noqa: S701 - it is Markdown
        finalize=_escape,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"code": code, "ours": Markdown}
    text = resources.files("xpcap.report").joinpath("card.md.jinja").read_text(encoding="utf-8")
    return environment.from_string(text)


def _escape(value: object) -> object:
    """Text without Markdown or HTML in it, also within a table; other values as they are."""
    if not isinstance(value, str) or isinstance(value, Markdown):
        return value
    return re.sub(r"[\\`*_\[\]<>&|#~$]", lambda sign: f"&#{ord(sign[0])};", escape_control(value))


# ---- Parts of a card


def _front_matter(run: Run, scores: Scores | None) -> Markdown:
    """The fields that a hub looks for: each value as JSON, which is YAML."""
    fields: dict[str, Any] = {
        "license": "unknown",
        "library_name": "xpcap",
        "pipeline_tag": "image-to-text",
        "tags": ["image-captioning", run.model.config.cell, "numpy", "cupy", "safetensors"],
    }
    measured = [
        {"type": hub.metric, "value": round(value, 4), "name": hub.title}
        for result in (scores.results if scores else ())
        if (hub := result.metric.hub)
        and math.isfinite(value := result.scored.corpus.get(hub.score, math.nan))
    ]
    if scores and measured:
        stem = run.source.generated or run.config.data.stem
        data = escape_control(stem, LONGEST)
        result = {
            "task": {"type": "image-to-text", "name": "image captioning"},
            "dataset": {"type": data, "name": data, "split": escape_control(scores.split)},
            "metrics": measured,
        }
        fields["metrics"] = [metric["type"] for metric in measured]
        fields["model-index"] = [{"name": escape_control(run.name, LONGEST), "results": [result]}]
    lines = (
        f"{name}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
        for name, value in fields.items()
    )
    return Markdown("\n".join(lines))


def _caption_files(source: Source) -> list[str]:
    """Names of the files that captions came from."""
    files = source.record.get("captions")
    return [str(file) for file in files] if isinstance(files, list) else []


def _splits(
    data: CaptionData, vocabulary: Vocabulary
) -> Iterator[tuple[str, int, int, float | None]]:
    """Name, pictures and captions of each split, and the share of their words that is unknown.

    None: it has no words, or its words are not the model's, as after a warm start.
    """
    words = data.vocabulary
    same = words.idx_to_word == vocabulary.idx_to_word
    for name, split in sorted(data.splits.items()):
        ids = split.captions
        inside = int(words.is_word(ids).sum())
        unknown = float((ids == words.unk).sum() / inside) if same and inside else None
        yield name, len(split.images), len(ids), unknown


def _tensors(run: Run) -> list[tuple[str, str, str]]:
    shapes: dict[str, tuple[int, ...]] = dict(run.model.config.shapes())
    if run.scaling.mean is not None:
        size = run.model.config.feature_shape[-1:]
        shapes |= {f"feature_scaling.{name}": size for name in ("mean", "scale")}
    return [
        (name, " × ".join(map(str, shape)), MEANINGS.get(name, "of the cell"))
        for name, shape in shapes.items()
    ]


def _step(model: ModelConfig) -> list[str]:
    """The equations of a step, a line each; none if the cell tells none."""
    cell, term = model.recurrent, " + h0 W_image" if model.every_step else ""
    if not cell.equations:
        return []
    _, *others = cell.states
    if model.attends:
        states = " = ".join(("h", *others))
        start = [
            f"A = features W_proj + b_proj;  h0 = mean of A over regions;  {states} = h0",
            "context = softmax(A h / sqrt(H)) A",
        ]
        term += " + context Wattn"
    else:
        zeros = "".join(f";  {name} = 0" for name in others)
        start = [f"h0 = feature W_proj + b_proj;  h = h0{zeros}"]
    lines = [line.format(term=term) for line in cell.equations]
    return [*start, *lines, "logits = h W_vocab + b_vocab"]


# ---- The picture


def _write_examples(
    path: Path, captions: Sequence[PictureCaption], find_picture: PictureFinder
) -> list[PictureCaption]:
    """Write the captioned pictures that are at hand side by side, and return their captions."""
    from PIL import Image, ImageOps

    examples = [
        (caption, picture)
        for caption in captions
        if (picture := find_picture(caption.image)) is not None
    ]
    if not examples:
        path.unlink(missing_ok=True)  # of an earlier training
        return []
    strip = Image.new("RGB", (len(examples) * (SIDE + GAP) - GAP, SIDE), "white")
    for column, (_, picture) in enumerate(examples):
        enlarged = max(picture.shape[:2]) < SIDE
        method = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
        small = ImageOps.contain(Image.fromarray(picture), (SIDE, SIDE), method)
        left = column * (SIDE + GAP) + (SIDE - small.width) // 2
        strip.paste(small, (left, (SIDE - small.height) // 2))
    content = io.BytesIO()
    strip.save(content, format="jpeg", quality=QUALITY, optimize=True)
    with atomic(path) as file:
        file.write(content.getvalue())
    return [caption for caption, _ in examples]
