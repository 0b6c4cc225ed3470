"""Model card: README.md of a run, with its use, scores, data, limits and files.

Text from the data appears only as code, so that it cannot act as Markdown, HTML or YAML.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xpcap.captioning.pages import PAGE
from xpcap.captioning.scores import Scores
from xpcap.data import CaptionData
from xpcap.data.vocabulary import SPECIAL
from xpcap.drawings import is_generated
from xpcap.encoders import ENCODERS
from xpcap.encoders.kinds import in_folder
from xpcap.files.read_write import write_text
from xpcap.report.text import NOTHING, escape_control
from xpcap.runs.folder import (
    BEST,
    CONFIG,
    DATA,
    HISTORY,
    LAST,
    LOCK,
    PICTURES,
    RERANKING,
    START_RERANKING,
    TIMES,
    TRAINED_ON,
    VOCAB,
    cell_title,
)
from xpcap.runs.run import Run, provenance_text

MODEL_CARD = "README.md"
MAX_LENGTH = 200  # characters of a name that are shown
MAX_FILES = 20  # caption files that are shown
FILES = {  # files of a run folder, and their content in Markdown
    BEST: "the parameters of the best epoch, and its record",
    CONFIG: "options, versions, and the paths of data and pictures on the machine that trained",
    VOCAB: "the words; row k of `W_embed` is the vector of word k",
    RERANKING: "index of the training photos with their names and captions, and the fitted weights;"
    " without it captions are greedy",
    START_RERANKING: "after a warm start: the reranker of the run that it started from",
    TRAINED_ON: "names of the training pictures, and digests of their features; also those of a run"
    " that training started from",
    HISTORY: "one line per epoch, of both stages if there are two; epoch 0 is the run that training"
    " started from",
    TIMES: "seconds of each epoch",
    PAGE: "page with curves and captions; it shows pictures of the data",
    MODEL_CARD: "model card",
    LAST: "the state that training resumes from; nothing else needs it",
    DATA: "the data of a run on generated pictures",
    f"{PICTURES}/": "val pictures of such a run",
    LOCK: "empty; the process that trains locks it, so that no other trains in the folder",
}
TEXT = """\
---
{front}
---

<!-- Written by xpcap when training ends, and rewritten when training continues. -->
# {name}

An image captioner: {cell} of {model.hidden:,} units writes a caption word by word. It has {size:,} parameters, and was
trained with xpcap, a library for NumPy and CuPy. {provenance}

## Use

{use}

## Scores

{scores}

## Data and licences

{data}
- xpcap: MIT
- This model: not stated. Before you publish it, choose a licence that those of the data allow, and set `license` at
  the top

## Limits

{limits}
- It knows {words:,} words and writes no other.
- Do not rely on a caption where a wrong one does harm.

## Files

{files}
"""
USE = """\
In a clone of xpcap, with this folder as RUN:

    {install}
    xpcap caption RUN picture.jpg

```python
from xpcap import open_captioner

print(open_captioner("RUN").caption("picture.jpg").caption)
```"""
NO_USE = (
    "The data came with features, and their encoder is unknown: this run captions the pictures of"
    " such data, not photographs."
)
DRAWN = """\
- It describes drawings of coloured shapes on a light ground, and nothing else; of a photograph it writes nonsense."""
PHOTOS = """\
- It describes what its training pictures show. Its captions of other pictures are wrong, however well they read.
- It repeats what the authors of its training captions wrote, including wrong guesses about people and stereotypes."""


def code(text: str) -> str:
    """Untrusted text as a Markdown code span on one line, cut if long."""
    shown = escape_control(text, MAX_LENGTH).strip() or NOTHING
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    pad = " " if "`" in (shown[0], shown[-1]) else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def write_model_card(run: Run, evaluation: Scores | None, data: CaptionData) -> None:
    """Write README.md of a finished run. Equal runs give equal bytes.

    evaluation : the run's scores; None: it was not scored
    data : the data set that it was trained on
    OSError : the file cannot be written.
    """
    encoder = ENCODERS.get((run.source.encoder or "").partition(":")[0])
    use = USE.format(
        install=f"pip install '.[{encoder.extra}]'"
        if encoder and encoder.extra
        else "pip install ."
    )
    present = [name for name in FILES if name != MODEL_CARD and (run.path / name).exists()]
    text = TEXT.format(
        front="\n".join(_front_matter(run, evaluation)),
        name=code(run.name),
        cell=cell_title(run.model.config.cell),
        model=run.model.config,
        size=run.model.size,
        provenance=provenance_text(run, quote=lambda start: code(Path(start).name)),
        use=use if run.source.encoder else NO_USE,
        scores="\n".join(_scores(run, evaluation)),
        data="\n".join(f"- {line}" for line in _data(run, data)),
        limits=DRAWN if is_generated(run.source) else PHOTOS,
        words=len(run.vocabulary) - len(SPECIAL),
        files="\n".join(f"- `{name}`: {FILES[name]}" for name in present),
    )
    write_text(run.path / MODEL_CARD, text)


def _front_matter(run: Run, scores: Scores | None) -> Iterator[str]:
    """The lines of the YAML fields that model hubs read; JSON values are valid YAML."""
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
        data = escape_control(run.source.generated or run.config.data.stem, MAX_LENGTH)
        result = {
            "task": {"type": "image-to-text", "name": "image captioning"},
            "dataset": {"type": data, "name": data, "split": escape_control(scores.split)},
            "metrics": measured,
        }
        fields["metrics"] = [metric["type"] for metric in measured]
        fields["model-index"] = [
            {"name": escape_control(run.name, MAX_LENGTH), "results": [result]}
        ]
    for name, value in fields.items():
        yield f"{name}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"


def _scores(run: Run, scores: Scores | None) -> Iterator[str]:
    if scores is None:
        yield "None: the data has no val split."
        return
    yield (
        f"Captions of the {scores.n:,} pictures of {code(scores.split)}, {_plain(scores.decoding)}."
        " ± is half of the 95 % interval, over pictures.\n"
    )
    yield "| score | captions | ± | people | how it is measured |\n|---|---|---|---|---|"
    for row in scores.rows():
        cells = row.title, row.value, row.width.removeprefix("± "), row.human, row.protocol
        yield f"| {' | '.join(map(_plain, cells))} |"
    yield f"\nPeople: {_plain(scores.human_protocol)}."
    if scores.trained_on:
        yield f"The run was trained on {scores.trained_on:,} of these pictures: its scores are too good."
    chosen = ["the epoch"] if run.config.recipe.select in ("cider", "loss") else []
    chosen += ["the weights of the reranking"] if run.reranker is not None else []
    if chosen:
        subject = " and ".join(chosen)
        yield f"The val split was also used to choose {subject}: expect lower scores on new pictures."


def _data(run: Run, data: CaptionData) -> Iterator[str]:
    source = run.source
    name = code(run.config.data.name)
    listed = source.record.get("captions")
    files = [str(file) for file in listed] if isinstance(listed, list) else []
    more = f" and {len(files) - MAX_FILES} more" if len(files) > MAX_FILES else ""
    if is_generated(source):
        yield f"Data: {name}, drawn by xpcap ({code(str(source.generated))}, seed {source.seed})"
    else:
        captions = (
            f", captions from {', '.join(map(code, files[:MAX_FILES]))}{more}" if files else ""
        )
        yield f"Data: {name}{captions}. Its licence is not stated in the dataset file"
    for split, content in sorted(data.splits.items()):
        counts = f"{len(content.images):,} pictures, {len(content.captions):,} captions"
        yield f"Split {code(split)}: {counts}"
    if start := run.config.recipe.start:
        yield f"Training started from the run {code(Path(start).name)}, and so from its data too"
    encoder = ENCODERS.get((source.encoder or "").partition(":")[0])
    features = (
        code(in_folder(source.encoder)) if source.encoder else "given; no encoder is recorded"
    )
    if source.record.get("encoder_checked") == 0:
        features += ", as named when the data was prepared; not checked against a picture"
    licence = encoder.licence if encoder else "not stated in the dataset file"
    yield f"Features: {features}. Licence of the encoder's weights: {_plain(licence)}"


def _plain(text: str) -> str:
    """Text escaped so that none of it acts as Markdown or HTML, also within a table."""
    return re.sub(r"[\\`*_\[\]<>&|#~$]", lambda sign: f"&#{ord(sign[0])};", escape_control(text))
