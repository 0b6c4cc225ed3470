"""The model card of a run: the record that report/card.py draws."""

from pathlib import Path

from xpcap.data import CaptionData
from xpcap.report.card import EXAMPLES, Card, code, write_card
from xpcap.report.scores import Scores
from xpcap.runs.config import Config
from xpcap.runs.folder import (
    BEST,
    CONFIG,
    FIRST,
    HISTORY,
    LAST,
    PROJECTION,
    RANKING,
    VOCAB,
    cell_title,
)
from xpcap.runs.pages import PAGE, picture_finder
from xpcap.runs.recipe import table
from xpcap.runs.run import Run, provenance_text

FILES = {
    BEST: "the parameters, and the record of their epoch",
    CONFIG: "options, versions, and where data and pictures lay on the machine that trained",
    VOCAB: "the words; row k of `W_embed` is the k-th",
    PROJECTION: "the PCA that features go through; needed with the parameters",
    RANKING: "index of the training photos with their names and captions, and the fitted weights;"
    " without it captions are greedy",
    HISTORY: "one line an epoch",
    PAGE: "page with curves and captions; it shows pictures of the data",
    EXAMPLES: "the pictures above",
    LAST: "the state that training resumes from; nothing else needs it",
}


def write_run_card(run: Run, evaluation: Scores | None, data: CaptionData) -> None:
    """Write the model card of a finished run, trained on `data`; `evaluation` as in `write_card`."""
    config, source = run.config, run.source
    stages = [config]
    if (run.path / FIRST / CONFIG).is_file():
        stages.insert(0, Config.read(run.path / FIRST))
    first, recipes = stages[0], [stage.recipe for stage in stages]
    start = first.recipe.start
    chosen = {
        "the epoch": config.recipe.select in ("cider", "loss"),
        "the weights of the ranking": run.ranker is not None,
    }
    card = Card(
        name=run.name,
        cell=cell_title(run.model.config.cell),
        model=run.model.config,
        provenance=provenance_text(run, quote=lambda start: code(Path(start).name)),
        vocabulary=run.vocabulary,
        max_words=config.max_words,
        raw_shape=run.raw_shape,
        scaled=run.scaling.mean is not None,
        data=data,
        data_name=config.data.name,
        stamp=config.data_stamp,
        source=source,
        start=(Path(start).name, str(first.start_digest)) if start else None,
        objectives=[recipe.objective for recipe in recipes],
        recipe=table(recipes),
        versions=f"Python {config.python}, NumPy {config.numpy}, backend {config.backend}",
        chosen=[what for what, did in chosen.items() if did],
        best=BEST,
        config=CONFIG,
        contents=FILES,
    )
    write_card(run.path, card, evaluation, picture_finder(run, source))
