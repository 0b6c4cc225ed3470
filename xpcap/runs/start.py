"""Start of training from another run: what must agree, the words of both, the first parameters."""

from pathlib import Path

from xpcap.data import CaptionData
from xpcap.errors import DataError
from xpcap.models import ModelConfig, Parameters
from xpcap.models.parameters import add_words
from xpcap.ranking.file import write_ranker
from xpcap.runs.folder import (
    BEST,
    START_RANKING,
    VOCAB,
    best_digest,
    digest,
    read_vocabulary,
)
from xpcap.runs.plan import Stage
from xpcap.runs.run import Run, open_run
from xpcap.training.objectives import SELF_CRITICAL

MIN_GAIN = 0.02  # share of the validation loss by which a warm start must lower it


def open_base(stage: Stage, data: CaptionData) -> Run:
    """Open the run that a stage starts from.

    DataError : it is no run, or has changed since the stage began; or the data do not fit it.
    """
    start = Path(stage.options.start or "")
    run = open_run(start)
    run.data(data)
    recorded = stage.config and stage.config.start_digest
    if recorded is not None and recorded != best_digest(start):
        got = "has changed since the run that starts from it began"
        raise DataError("train_run", start / BEST, got, cause="begin another run")
    return run


def data_from(stage: Stage, data: CaptionData, base: Run | None) -> CaptionData:
    """The data as a stage trains on it that starts, or once started, from a run.

    Captions are encoded by the run's words and, behind them, the data's others.

    base : the run; None: the stage goes on from a checkpoint, and its own folder has the words
    """
    vocabulary = data.vocabulary
    if base is not None:
        vocabulary = base.vocabulary
    elif (stage.folder / VOCAB).exists():
        vocabulary = read_vocabulary(stage.folder)
    if digest(vocabulary) != digest(data.vocabulary):
        data = data.with_vocabulary(vocabulary.union(data.vocabulary))
    return data


def first_parameters(base: Run, model: ModelConfig) -> Parameters:
    """The run's parameters, for perhaps more words."""
    vocabulary = base.vocabulary
    silent = {vocabulary.null, vocabulary.start, vocabulary.end, vocabulary.unk}
    known = [i for i in range(len(vocabulary)) if i not in silent]
    return add_words(base.model.params, model.shapes(), known)


def write_inherited(folder: Path, base: Run) -> None:
    """Write the ranking of the run that a warm start begins from, to be extended at its end."""
    if base.ranker is not None:
        write_ranker(folder / START_RANKING, base.ranker, {})


def inverse_temperature(base: Run) -> float:
    """Factor that self-critical training began with on the logits of a run's parameters."""
    recipe = base.config.recipe
    is_base_sharpened = recipe.objective == SELF_CRITICAL and base.meta.get("epoch") != 0
    return recipe.sharpen if is_base_sharpened else 1.0
