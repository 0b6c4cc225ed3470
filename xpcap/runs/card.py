"""Model card of a run, README.md in Hugging Face's format, and the picture in it."""

import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from xpcap.data import CaptionData
from xpcap.data.vocabulary import SPECIAL, TOKENISERS
from xpcap.encoders import LICENCES
from xpcap.errors import install
from xpcap.files import atomic, write_text
from xpcap.models import ModelConfig
from xpcap.report import escape_control
from xpcap.report.captions import NOTHING
from xpcap.report.records import PictureCaption
from xpcap.report.scores import Evaluation
from xpcap.runs.folder import (
    BEST,
    CONFIG,
    FIRST,
    FIRST_STAGE_FILE,
    HISTORY,
    LAST,
    PROJECTION,
    RANKING,
    VOCAB,
    Config,
    cell_title,
    read_config,
)
from xpcap.runs.pages import PAGE, PictureFinder, picture_finder
from xpcap.runs.recipe import Recipe, table
from xpcap.runs.run import Run, provenance_text
from xpcap.shapes import KIND

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
EXTRAS = {"efficientnet-lite2": "images", "onnx": "images", "timm": "timm"}  # by kind of encoder
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
FILES = {
    BEST: "the parameters, and the record of their epoch",
    CONFIG: "options, versions, and where data and pictures lay on the machine that trained",
    VOCAB: "the words; row k of `W_embed` is the k-th",
    PROJECTION: "the PCA that features go through; needed with the parameters",
    RANKING: "index of the training photos with their names and captions, and the fitted weights;"
    " without it captions are greedy",
    FIRST_STAGE_FILE: "the first stage, for candidates; needed with the ranking",
    HISTORY: "one line an epoch",
    PAGE: "page with curves and captions; it shows pictures of the data",
    EXAMPLES: "the pictures above",
    LAST: "the state that training resumes from; nothing else needs it",
}


def write_card(run: Run, evaluation: Evaluation | None, data: CaptionData) -> None:
    """Write the model card of a finished run, and a picture of captioned pictures if it has scores.

    Equal runs have equal cards. Text of the data is shown as code, so that none of it is Markdown,
    HTML or YAML.

    Parameters
    ----------
    evaluation : its scores; None: not scored
    data : the run's own data set

    Raises
    ------
    OSError : a file cannot be written.
    """
    captions = evaluation.spread(count=SHOWN) if evaluation else []
    shown = _write_examples(run.path / EXAMPLES, captions, picture_finder(run, run.source))
    parts = [
        _front_matter(run, evaluation),
        _overview(run),
        _examples(captions, shown),
        _use(run),
        _scores(evaluation),
        _data(run, data),
        _recipe(run),
        _tensors(run),
        _limits(run, evaluation),
        _licences(run),
        _files(run),
    ]
    write_text(run.path / CARD, "\n".join(parts))


# Untrusted text


def code(text: str) -> str:
    """Untrusted text as a Markdown code span on one line, cut if long."""
    shown = escape_control(text, LONGEST).strip() or NOTHING
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    pad = " " if "`" in (shown[0], shown[-1]) else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def _plain(text: str) -> str:
    """Text without Markdown or HTML in it, also within a table."""
    return re.sub(r"[\\`*_\[\]<>&|#~$]", lambda sign: f"&#{ord(sign[0])};", escape_control(text))


def _yaml(value: object) -> str:
    """A value as JSON, which is YAML."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


# Parts of a card


def _front_matter(run: Run, evaluation: Evaluation | None) -> str:
    fields: dict[str, Any] = {
        "license": "unknown",
        "library_name": "xpcap",
        "pipeline_tag": "image-to-text",
        "tags": ["image-captioning", run.config["cell"], "numpy", "cupy", "safetensors"],
    }
    measured = [
        {"type": kind, "value": round(value, 4), "name": title}
        for name, (kind, title) in METRIC_IDS.items()
        if evaluation and math.isfinite(value := evaluation.scores.get(name, math.nan))
    ]
    if evaluation and measured:
        stem = run.source.generated or Path(run.config["data"]).stem
        dataset = escape_control(stem, LONGEST)
        result = {
            "task": {"type": "image-to-text", "name": "image captioning"},
            "dataset": {
                "type": dataset,
                "name": dataset,
                "split": escape_control(evaluation.split),
            },
            "metrics": measured,
        }
        fields["metrics"] = [one["type"] for one in measured]
        fields["model-index"] = [{"name": escape_control(run.name, LONGEST), "results": [result]}]
    lines = [f"{name}: {_yaml(value)}" for name, value in fields.items()]
    return "\n".join(("---", *lines, "---", ""))


def _overview(run: Run) -> str:
    config: ModelConfig = run.model.config
    if config.attends:
        image = "every step attends to a grid of the image's regions"
        image += ", and has a term of the whole image" if config.every_step else ""
    else:
        image = "the image is its initial state"
        image += " and a term of every step" if config.every_step else ""
    return f"""<!-- Written by xpcap when training ends, and rewritten when training continues. -->
# {code(run.name)}

An image captioner: {cell_title(config.cell)} of {config.hidden} units writes a caption word by word; {image}. It has
{run.model.size:,} parameters, and was trained with xpcap, a library for NumPy and CuPy. {provenance_text(run, quote=_base)}
"""


def _base(start: str) -> str:
    return code(Path(start).name)


def _examples(captions: Sequence[PictureCaption], shown: Sequence[PictureCaption]) -> str:
    if not captions:
        return ""
    lines = ["## Examples\n"]
    if shown:
        lines.append(f"![The pictures of the captions below, from left to right]({EXAMPLES})\n")
    else:
        lines.append("The pictures are not at hand.\n")
    for number, one in enumerate(shown or captions, start=1):
        lines.append(f"{number}. {code(one.image)}: {code(one.caption)}")
    lines.append("\nThey are spread evenly over the scored split, not chosen.\n")
    return "\n".join(lines)


def _use(run: Run) -> str:
    encoder = run.source.encoder
    if encoder is None:
        photos = (
            "The data came with features, without the encoder that made them: this run captions the"
            " pictures of such data, no photographs.\n"
        )
        return f"## Use\n\n{photos}"
    extra = EXTRAS.get(encoder.partition(":")[0])
    lines = f"{install(extra)}  # in a clone of xpcap: the encoder\n" if extra else ""
    return f"""## Use

With this folder as RUN:

```
{lines}xpcap caption RUN photo.jpg
```

```python
from xpcap import caption_files, open_run

run = open_run("RUN")
captions, skipped = caption_files(run, ["photo.jpg"])
print(captions[0].caption)
```
"""


def _scores(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "## Scores\n\nNone: the data has no val split.\n"
    rows = [
        (
            _plain(row.title),
            row.value,
            row.width.removeprefix("± "),
            row.human,
            _plain(row.protocol),
        )
        for row in evaluation.rows()
    ]
    return "\n".join(
        (
            "## Scores\n",
            f"Captions of the {evaluation.n:,} pictures of {code(evaluation.split)},"
            f" {_plain(evaluation.decoding)}. ± is half of the 95 % interval, over pictures.\n",
            "| score | captions | ± | people | how it is measured |",
            "|---|---|---|---|---|",
            *(f"| {' | '.join(row)} |" for row in rows),
            f"\nPeople: {_plain(evaluation.human_protocol)}.\n",
        )
    )


def _data(run: Run, data: CaptionData) -> str:
    source, vocabulary = run.source, run.vocabulary
    lines = [f"- File: {code(Path(run.config['data']).name)}"]
    if run.config["data_stamp"]:
        lines[0] += f", SHA-256 of its content {code(run.config['data_stamp'])}"
    if source.generated is not None:
        lines.append(f"- Generated: {code(source.generated)}, seed {source.seed}; no photographs")
    files = source.record.get("captions")
    if isinstance(files, list) and files:
        more = f" and {len(files) - MOST_FILES} more" if len(files) > MOST_FILES else ""
        lines.append(f"- Captions from {', '.join(code(str(f)) for f in files[:MOST_FILES])}{more}")
    lines += list(_splits(run, data))
    encoder = "given; no encoder is recorded" if source.encoder is None else code(source.encoder)
    lines += [
        f"- Features: {encoder}; shape {run.raw_shape}",
        f"- Vocabulary: {len(vocabulary) - len(SPECIAL):,} words and {len(SPECIAL)} special ones;"
        f" {_plain(TOKENISERS[vocabulary.tokeniser])}",
        f"- Longest caption: {run.config['max_words']} words",
    ]
    return "\n".join(("## Data\n", *lines, ""))


def _splits(run: Run, data: CaptionData) -> Iterator[str]:
    words = data.vocabulary
    same = words.idx_to_word == run.vocabulary.idx_to_word
    for name, split in sorted(data.splits.items()):
        ids, line = split.captions, f"- Split {code(name)}: {len(split.images):,} pictures"
        line += f", {len(ids):,} captions"
        inside = int(((ids != words.null) & (ids != words.start) & (ids != words.end)).sum())
        if same and inside:  # of a warm start the words are the first run's
            line += f", {(ids == words.unk).sum() / inside:.2%} of their words unknown"
        yield line


def _recipe(run: Run) -> str:
    """A table with a column for each stage."""
    stages: list[Config] = [run.config]
    if (run.path / FIRST / CONFIG).is_file():
        stages.insert(0, read_config(run.path / FIRST))
    recipes = [Recipe.from_config(config, run.path) for config in stages]
    rows = [[code(name), *map(_plain, values)] for name, *values in table(recipes)]
    rows = [["option", *(c["objective"] for c in stages)], ["---"] * (1 + len(stages)), *rows]
    versions = ", ".join(
        f"{title} {run.config[name]}"
        for name, title in (("python", "Python"), ("numpy", "NumPy"), ("backend", "backend"))
        if name in run.config
    )
    first = stages[0]
    began = (
        f"Training started from the run {_base(first['start'])}, SHA-256 of its `{BEST}`"
        f" {code(str(first.get('start_digest')))}, and so from the data of that run too. "
    )
    return "\n".join(
        (
            "## Training\n",
            f"{began if first['start'] else ''}Adam, with the options of `xpcap train`:\n",
            *(f"| {' | '.join(map(str, row))} |" for row in rows),
            f"\n{_plain(versions)}. All options are in `{CONFIG}`.\n",
        )
    )


def _tensors(run: Run) -> str:
    config: ModelConfig = run.model.config
    shapes: dict[str, tuple[int, ...]] = dict(config.shapes())
    if run.scaling.mean is not None:
        shapes |= {
            f"feature_scaling.{name}": config.feature_shape[-1:] for name in ("mean", "scale")
        }
    rows = [
        f"| {code(name)} | {' × '.join(map(str, shape))} | {MEANINGS.get(name, 'of the cell')} |"
        for name, shape in shapes.items()
    ]
    cell, term = config.recurrent, " + h0 W_image" if config.every_step else ""
    _, *others = cell.names_of_states()
    if config.attends:
        start = (
            f"A = features W_proj + b_proj;  h0 = mean of A over regions;  "
            f"{' = '.join(('h', *others))} = h0\n"
            "    context = softmax(A h / sqrt(H)) A"
        )
        term += " + context Wattn"
    else:
        zeros = "".join(f";  {name} = 0" for name in others)
        start = f"h0 = feature W_proj + b_proj;  h = h0{zeros}"
    lines = [line.format(term=term) for line in cell.equations]
    step = "\n    ".join((start, *lines, "logits = h W_vocab + b_vocab"))
    about = "A step, with word vector x and state h; a caption is begun with `<START>`:"
    equations = f"\n{about}\n\n    {step}\n" if lines else ""
    return "\n".join(
        (
            "## Tensors\n",
            f"`{BEST}` is a safetensors file of float32 arrays; its metadata, `xpcap`, is JSON.\n",
            "| tensor | shape | meaning |",
            "|---|---|---|",
            *rows,
            equations,
        )
    )


def _limits(run: Run, evaluation: Evaluation | None) -> str:
    source = run.source
    lines = [
        "- It describes what its training pictures show. Of other pictures it writes captions that"
        " read well and are wrong.",
        f"- It knows {len(run.vocabulary) - len(SPECIAL):,} words and writes no other.",
    ]
    if source.generated == KIND:
        lines[0] = (
            "- It describes drawings of coloured shapes on a light ground, and nothing else; of a"
            " photograph it writes nonsense."
        )
    else:
        lines.append(
            "- It repeats what people wrote about people, wrong guesses and stereotypes included."
        )
    chosen = ["the epoch"] if run.config["select"] in ("cider", "loss") else []
    chosen += ["the weights of the ranking"] if run.ranker is not None else []
    if evaluation and chosen:
        lines.append(
            f"- The val split also chose {' and '.join(chosen)}: expect lower scores on new"
            " pictures."
        )
    lines.append("- Do not rely on a caption where a wrong one does harm.")
    return "\n".join(("## Limits\n", *lines, ""))


def _licences(run: Run) -> str:
    source = run.source
    data = "not stated in the dataset file"
    if source.generated == KIND:
        data = "drawn by xpcap"
    kind = (source.encoder or "").partition(":")[0]
    weights = LICENCES.get(kind, "not stated in the dataset file")
    return f"""## Licences

- Data: {data}
- Weights of the encoder: {weights}. They are not in this folder
- xpcap: MIT
- This model: not stated. Before you publish it, choose a licence that those of the data allow, and set `license` at
  the top
"""


def _files(run: Run) -> str:
    there = [f"- `{name}`: {what}" for name, what in FILES.items() if (run.path / name).is_file()]
    return "\n".join(("## Files\n", *there, ""))


# The picture


def _write_examples(
    path: Path, captions: Sequence[PictureCaption], find_picture: PictureFinder
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
