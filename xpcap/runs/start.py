"""Start of training from another run: what must agree, the words of both, the first parameters."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from xpcap.backend import Array
from xpcap.data import CaptionData
from xpcap.errors import DataError
from xpcap.models import ModelConfig
from xpcap.models.parameters import add_words
from xpcap.runs.folder import BEST, VOCAB, best_digest, digest, read_vocabulary
from xpcap.runs.plan import Plan
from xpcap.runs.run import Run, open_run
from xpcap.training.objectives import SELF_CRITICAL

MIN_GAIN = 0.02  # share of the validation loss by which a warm start must lower it


class Start(NamedTuple):
    """Parameters that a stage starts from."""

    params: Mapping[str, Array]
    epoch: int = 0  # that they are scored as
    factor: float = 1.0  # on the logits, once they are scored
    min_gain: float | None = None  # share of the validation loss by which an epoch must lower it


def open_base(plan: Plan) -> Run:
    """Open the run that training starts from.

    DataError : it is no run, or has changed since training began; or the data do not fit it.
    """
    start = Path(plan.options.start or "")
    run = open_run(start)
    run.data(plan.data)
    recorded = plan.config and plan.config.start_digest
    if recorded is not None and recorded != best_digest(start):
        got = "has changed since the run that starts from it began"
        raise DataError("train_run", start / BEST, got, cause="begin another run")
    return run


def with_words(data: CaptionData, out: Path, base: Run | None) -> CaptionData:
    """The data as a run trains on it that starts, or once started, from another.

    Captions are encoded by the other run's words and, behind them, the data's others.

    base : the other run; None: the run goes on, and its own folder has the words
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
    """The start from a run, whose parameters are made to fit perhaps more words.

    Self-critical training sharpens them. On other data, which is a warm start, cross entropy undoes
    that; and CIDEr-D of few pictures is too noisy to tell alone whether an epoch is better.
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
