"""Model card, README.md in Hugging Face's format, and the strip of pictures in it.

card.md.jinja is the card. All text that it prints is escaped, but for what a filter marks as ours or
shows as code: text of the data is only ever code, so that none of it is Markdown, HTML or YAML.
"""

import functools
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xpcap.data import CaptionData
from xpcap.data.dataset import Source
from xpcap.data.vocabulary import SPECIAL, TOKENISATION, Vocabulary
from xpcap.encoders import ENCODERS
from xpcap.errors import install
from xpcap.files import atomic, write_text
from xpcap.models import ModelConfig
from xpcap.report.records import PictureCaption
from xpcap.report.scores import Scores
from xpcap.report.text import NOTHING, escape_control
from xpcap.shapes import is_generated

if TYPE_CHECKING:
    from jinja2 import Template

CARD, EXAMPLES = "README.md", "examples.jpg"
SHOWN = 3  # pictures in EXAMPLES
SIDE, GAP, QUALITY = 256, 8, 90  # pixels of a picture's longer side, and between two; of the JPEG
LONGEST, MOST_FILES = 200, 20  # characters of a name or caption; caption files named
METRIC_IDS = {  # name of a score to Hugging Face's identifier of the metric, and its title
    "bleu4": ("bleu", "BLEU-4"),
    "rouge_l": ("rouge", "ROUGE-L"),
    "cider": ("cider", "CIDEr-D"),
    "perplexity": ("perplexity", "perplexity of the references"),
}
MEANINGS = {
    "W_proj": "image feature to state",
    "b_proj": "its bias",
    "W_embed": "word vectors, one row a word",
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


@dataclass(frozen=True)
class Card:
    """Facts of a model on its card, besides its scores."""

    name: str
    cell: str  # with its article: "an LSTM"
    model: ModelConfig
    provenance: str  # of the parameters, in a sentence of Markdown
    vocabulary: Vocabulary
    max_words: int
    raw_shape: tuple[int, ...]  # of a feature as the encoder computes it
    scaled: bool  # features are standardized
    data: CaptionData  # that it was trained on
    data_name: str
    stamp: str  # of the data; empty: none
    source: Source
    start: tuple[str, str] | None  # name and digest of the run that training started from
    objectives: Sequence[str]  # of each stage
    recipe: Sequence[Sequence[str]]  # name of each option, and its value in each stage
    versions: str
    chosen: Sequence[str]  # what the val split chose
    best: str  # name of the file of parameters
    config: str  # of that of options
    contents: dict[str, str]  # name of each file there may be to what it holds, in Markdown


class Markdown(str):
    """Text that is Markdown of ours."""

    __slots__ = ()


def code(text: str) -> Markdown:
    """Untrusted text as a Markdown code span on one line, cut if long."""
    shown = escape_control(text, LONGEST).strip() or NOTHING
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    pad = " " if "`" in (shown[0], shown[-1]) else ""
    return Markdown(f"{fence}{pad}{shown}{pad}{fence}")


def write_card(
    folder: Path,
    card: Card,
    scores: Scores | None,
    find_picture: Callable[[str], np.ndarray | None],
) -> None:
    """Write a model card, and a strip of captioned pictures if there are scores.

    Equal arguments give equal bytes.

    scores : the model's; None: not scored
    find_picture : a picture by its name; None: not at hand
    OSError : a file cannot be written.
    """
    captions = scores.spread(count=SHOWN) if scores else []
    shown = _write_examples(folder / EXAMPLES, captions, find_picture)
    encoder = ENCODERS.get((card.source.encoder or "").partition(":")[0])
    text = _template().render(
        vars(card),
        front=_front_matter(card, scores),
        size=sum(map(math.prod, card.model.shapes().values())),
        captions=captions,
        shown=shown,
        examples=EXAMPLES,
        install=install(encoder.extra) if encoder and encoder.extra else "",
        scores=scores,
        caption_files=_caption_files(card.source),
        most_files=MOST_FILES,
        splits=_splits(card.data, card.vocabulary),
        words=len(card.vocabulary) - len(SPECIAL),
        special=len(SPECIAL),
        tokeniser=TOKENISATION,
        tensors=_tensors(card),
        step=_step(card.model),
        drawn=is_generated(card.source),
        there=[item for item in card.contents.items() if (folder / item[0]).is_file()],
        licence=encoder.licence if encoder else "not stated in the dataset file",
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


def _front_matter(card: Card, scores: Scores | None) -> Markdown:
    """The fields that a hub looks for: each value as JSON, which is YAML."""
    fields: dict[str, Any] = {
        "license": "unknown",
        "library_name": "xpcap",
        "pipeline_tag": "image-to-text",
        "tags": ["image-captioning", card.model.cell, "numpy", "cupy", "safetensors"],
    }
    measured = [
        {"type": kind, "value": round(value, 4), "name": title}
        for name, (kind, title) in METRIC_IDS.items()
        if scores and math.isfinite(value := scores.scores.get(name, math.nan))
    ]
    if scores and measured:
        stem = card.source.generated or Path(card.data_name).stem
        data = escape_control(stem, LONGEST)
        result = {
            "task": {"type": "image-to-text", "name": "image captioning"},
            "dataset": {"type": data, "name": data, "split": escape_control(scores.split)},
            "metrics": measured,
        }
        fields["metrics"] = [one["type"] for one in measured]
        fields["model-index"] = [{"name": escape_control(card.name, LONGEST), "results": [result]}]
    lines = (
        f"{name}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
        for name, value in fields.items()
    )
    return Markdown("\n".join(lines))


def _caption_files(source: Source) -> list[str]:
    """Names of the files that captions came from."""
    found = source.record.get("captions")
    return [str(file) for file in found] if isinstance(found, list) else []


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


def _tensors(card: Card) -> list[tuple[str, str, str]]:
    shapes: dict[str, tuple[int, ...]] = dict(card.model.shapes())
    if card.scaled:
        size = card.model.feature_shape[-1:]
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
    path: Path, captions: Sequence[PictureCaption], find_picture: Callable[[str], np.ndarray | None]
) -> list[PictureCaption]:
    """Write the captioned pictures that are at hand side by side, and return their captions."""
    from PIL import Image, ImageOps

    found = [(one, picture) for one in captions if (picture := find_picture(one.image)) is not None]
    if not found:
        path.unlink(missing_ok=True)  # of an earlier training
        return []
    strip = Image.new("RGB", (len(found) * (SIDE + GAP) - GAP, SIDE), "white")
    for column, (_, picture) in enumerate(found):
        enlarged = max(picture.shape[:2]) < SIDE
        method = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
        small = ImageOps.contain(Image.fromarray(picture), (SIDE, SIDE), method)
        left = column * (SIDE + GAP) + (SIDE - small.width) // 2
        strip.paste(small, (left, (SIDE - small.height) // 2))
    content = io.BytesIO()
    strip.save(content, format="jpeg", quality=QUALITY, optimize=True)
    with atomic(path) as file:
        file.write(content.getvalue())
    return [one for one, _ in found]
