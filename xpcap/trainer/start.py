"""Start of training from another run: its checks, the common vocabulary, the first parameters."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from xpcap.backend import Array
from xpcap.data import CaptionData
from xpcap.errors import DataError
from xpcap.models import ModelConfig
from xpcap.models.parameters import add_words
from xpcap.runs.folder import BEST, VOCAB, best_digest, digest, read_vocabulary
from xpcap.runs.run import Run, open_run
from xpcap.trainer.plan import Plan
from xpcap.training.objectives import SELF_CRITICAL

MIN_GAIN = 0.02  # share of the validation loss by which a warm start must lower it


class Start(NamedTuple):
    """Parameters that a stage starts from."""

    params: Mapping[str, Array]
    epoch: int = 0  # number of the record of their scores
    factor: float = 1.0  # on the logits, after scoring
    min_gain: float | None = None  # share of the validation loss by which an epoch must lower it


def open_base(plan: Plan) -> Run:
    """Open the run `start`.

    DataError : it is no run, has changed since training began, or does not fit the data.
    """
    start = Path(plan.options.start or "")
    run = open_run(start)
    run.data(plan.data)
    recorded = plan.config and plan.config.start_digest
    if recorded is not None and recorded != best_digest(start):
        raise DataError(
            f"{start / BEST} has changed since the run that starts from it began; begin another run"
        )
    return run


def with_words(data: CaptionData, out: Path, base: Run | None) -> CaptionData:
    """The data encoded for a run with a `start`: words of that run first, then the data's others.

    base : the run `start`; None: training continues, and the run folder has the vocabulary
    """
    vocabulary = data.vocabulary
    if base is not None:
        vocabulary = base.vocabulary
    elif (out / VOCAB).exists():
        vocabulary = read_vocabulary(out)
    if digest(vocabulary) != digest(data.vocabulary):
        data = data.with_vocabulary(vocabulary.union(data.vocabulary))
    return data


def start_from(base: Run, plan: Plan, model: ModelConfig, is_warm: bool) -> Start:
    """The parameters of the run `start`, with rows for words that it lacks.

    Self-critical training sharpens the logits, and a warm start undoes that. Because CIDEr-D of few
    pictures is noisy, a warm start must also lower the validation loss for an epoch to be better.
    """
    vocabulary = base.vocabulary
    silent = {vocabulary.null, vocabulary.start, vocabulary.end, vocabulary.unk}
    known = [i for i in range(len(vocabulary)) if i not in silent]
    params = add_words(base.model.params, model.shapes(), known)
    if plan.options.objective == SELF_CRITICAL:
        return Start(params, factor=plan.options.sharpen)
    if not is_warm:
        return Start(params)
    is_sharpened = "train_reward" in base.meta
    factor = 1 / base.config.recipe.sharpen if is_sharpened else 1.0
    return Start(params, factor=factor, min_gain=MIN_GAIN if "val" in plan.data.splits else None)
