"""Recipe: the options of a training, each defined once, as a field.

A field has a kind, a default, a help text, a role, and presets: defaults for certain uses. Checks,
the options and help of the command line, config.json, what may change on resume, and the tables of
the docs are derived from the fields.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from xpcap.data.features import SCALINGS
from xpcap.data.few import FEW_CAPTIONS, MEDIUM_CAPTIONS
from xpcap.models import ModelConfig
from xpcap.ops import LossTerms
from xpcap.options import (
    SEED,
    Checked,
    Flag,
    Location,
    Names,
    Real,
    Whole,
    check_fields,
    described,
    documented,
    option,
)
from xpcap.runs.folder import DATA
from xpcap.training.objectives import CROSS_ENTROPY, OBJECTIVES, SAMPLES, SELF_CRITICAL
from xpcap.training.optimizer import DECAY, LINEAR
from xpcap.training.solver import CaptioningSolver

# Roles of options. An option of a single objective has the objective's name as its role
SOURCE = "source"  # data, and run to start from
MODEL = "model"  # determines the shapes of the parameters
STAGES = "stages"
TRAINING = "training"
LENGTH = "length"  # of training
AFTER = "after"  # after training
UNSTORED = "unstored"  # without effect on the result, so not in the config

FIXED = (MODEL, STAGES, TRAINING, *OBJECTIVES)  # roles of options that `resume` may not change

MAX_COUNT = 10**6  # limit of sizes and counts, to catch mistakes
MIN_STEPS = {"few": 1700, "many": 1200}
MIN_EPOCHS = 8
MAX_EPOCHS = 300  # even if the steps are fewer: a handful of captions is memorised long before


class SaveInterval(NamedTuple):
    """Interval between checkpoints within an epoch, in seconds or in steps."""

    seconds: float = math.inf
    steps: float = math.inf


def parse_save_interval(text: str) -> SaveInterval:
    """The interval that a text names; ValueError if it names none, or 0."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)s|(\d{1,9})", text)
    if match is None or not float(match[1] or match[2]):
        raise ValueError(text)
    return SaveInterval(seconds=float(match[1])) if match[1] else SaveInterval(steps=int(match[2]))


def _save_interval_text(text: Any) -> str:
    parse_save_interval(text)
    return str(text)


MODEL_OPTIONS, LOSS_OPTIONS, SOLVER_OPTIONS = map(
    described, (ModelConfig, LossTerms, CaptioningSolver)
)
SIZE = Whole(1, MAX_COUNT)
COUNT = Whole(0, MAX_COUNT)


@documented
@dataclass(frozen=True)
class Recipe:
    """The options of a training run, checked. None means the default that ``train --help`` shows.

    Presets are defaults of generated pictures (``generated``), of few, medium and many captions
    (``few``, ``medium`` where it differs from ``many``, ``many``), of self-critical training from a
    run (``score``), of a warm start, which is cross entropy from a run on other data (``warm``), and
    of everything else (``usual``).

    Generated scenes need few epochs and no regularisation. Their features stay unscaled:
    standardising would enlarge rare features, and a captioner that memorises these does not
    generalise to new combinations. Similar photos do not help either, so there is no reranking.

    Raises
    ------
    OptionError
        A value is not of its option's kind.

    Examples
    --------
    >>> recipe = Recipe("photos.h5", hidden=256, lr=1e-3)
    >>> recipe.given
    {'data': 'photos.h5', 'hidden': 256, 'lr': 0.001, 'resume': False}
    """

    # fmt: off
    data: str | Path | None = option(
        Location(), None, "Dataset file or coco_captioning folder. Default: the data of the run"
        " `start`, or generated pictures.", role=SOURCE)
    _: KW_ONLY
    out: str | Path | None = option(
        Location(), None, "Run folder to create. Default: runs/NAME-CELL, with a number if that exists.",
        role=UNSTORED)
    start: str | Path | None = option(
        Location(), None, "Run folder whose best parameters training starts from, with its data and"
        " options; with other `data`, a warm start.", role=SOURCE)
    objective: str = option(
        Names(OBJECTIVES), None, "Cross entropy of the training captions, or self-critical: CIDEr-D of"
        " sampled captions, which needs `start`.",
        role=STAGES, usual=CROSS_ENTROPY, score=SELF_CRITICAL)
    samples: int = option(
        SAMPLES, None, "Captions sampled per picture in self-critical training.",
        role=SELF_CRITICAL, usual=5)
    sharpen: float = option(
        Real(above=0), None, "Factor on the logits when self-critical training begins; above 1"
        " favours likely words.", role=SELF_CRITICAL, usual=1.5)
    cell: str = option(
        MODEL_OPTIONS["cell"].kind, None, "Recurrent cell.", role=MODEL, usual="lstm")
    hidden: int = option(
        SIZE, None, "H, size of the hidden state.", role=MODEL, usual=512, generated=256)
    wordvec: int = option(
        SIZE, None, "W, size of a word vector.", role=MODEL, usual=256, generated=64)
    epochs: int = option(
        COUNT, None, f"Passes over the training captions; 0: {MIN_EPOCHS}, or up to {MAX_EPOCHS} for small"
        " data sets.",
        role=LENGTH, usual=0, generated=2, score=5, warm=60)
    score_epochs: int = option(
        COUNT, None, "Epochs of self-critical training after cross entropy; 0: none.",
        role=STAGES, many=5, few=0, generated=0, score=0)
    batch_size: int = option(
        SIZE, None, "N, captions in a batch.",
        role=TRAINING, many=128, medium=64, few=16, generated=32, warm=64)
    lr: float = option(
        Real(above=0), None, "Adam's learning rate in the first epoch.", role=TRAINING,
        many=1.4e-3, medium=1e-3, few=1e-3, generated=2e-3, score=1.4e-4, warm=1e-3)
    lr_decay: float | str = option(
        DECAY, None, "Factor on the learning rate after each epoch, or linear, to zero at the last step.",
        role=TRAINING, usual=LINEAR, score=LINEAR, warm=LINEAR)
    select: str = option(
        SOLVER_OPTIONS["select"].kind, None, "Epoch to keep: lowest val loss, highest CIDEr-D of greedy val"
        " captions, or last.",
        role=TRAINING, many="cider", few="last", generated="loss", score="cider", warm="cider")
    clip: float = option(
        Real(0), None, "Maximum norm of the gradient, to which a larger one is scaled; 0: off.",
        role=TRAINING, usual=50.0)
    dropout: float = option(
        MODEL_OPTIONS["dropout"].kind, None, "Dropout rate of features, word vectors and hidden units.",
        role=TRAINING, usual=0.4, generated=0.0, warm=0.4)
    smoothing: float = option(
        LOSS_OPTIONS["smoothing"].kind, None, "Label smoothing: probability spread evenly over the"
        " vocabulary.", role=CROSS_ENTROPY, many=0.1, few=0.0, generated=0.0, score=0.0, warm=0.1)
    inject: str = option(
        MODEL_OPTIONS["inject"].kind, None, "How the image enters: as the initial state (init), also at"
        " every step (every-step), by attention to a grid (attention), or by both (attention+every-step).",
        role=MODEL, usual="every-step")
    feature_scaling: str = option(
        Names(SCALINGS), None, "Scaling of features: to mean 0 and deviation 1 on the train split"
        " (standardize), or none.",
        role=MODEL, usual="standardize", generated="none")
    seed: int = option(
        SEED, None, "Seed of weights, caption order, dropout and generated pictures.",
        role=TRAINING, usual=0)
    patience: int = option(
        COUNT, None, "Stop after this number of epochs without improvement; 0: never.",
        role=LENGTH, usual=0, score=0, warm=10)
    neighbours: bool = option(
        Flag(), None, "Index the training photos, to rerank captions by similar photos.",
        role=AFTER, usual=True, generated=False, warm=True)
    save_every: str = option(
        Checked(_save_interval_text, "seconds, as in 30s, or steps, as in 200"), None, "Save interval within an epoch, in seconds (30s) or steps (200).",
        role=UNSTORED, usual="60s")
    resume: bool = option(
        Flag(), False, "Continue the run at `out`, or begin it if none exists.", role=UNSTORED)
    # fmt: on

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def save_interval(self) -> SaveInterval:
        """`save_every`, parsed."""
        return parse_save_interval(self.save_every)

    @property
    def given(self) -> dict[str, Any]:
        """The options that are set; None and 0 epochs are not."""
        return {
            name: value
            for name, value in vars(self).items()
            if value is not None and (value or name != "epochs")
        }

    def settled(self, *sources: Mapping[str, Any]) -> "Recipe":
        """The recipe with its unset options filled in from the first source that has them.

        Parameters
        ----------
        *sources : mapping of str
            Options by name, such as a preset, or those of a run. None and 0 epochs are unset.

        Returns
        -------
        recipe : Recipe
        """
        options = self.given
        for source in sources:
            options = Recipe(**source).given | options
        return Recipe(**options)

    def to_config(self) -> dict[str, Any]:
        """The options as a run's config stores them.

        Returns
        -------
        config : dict
            `data` and `start` are absolute paths, or relative if they lie in the run folder.
            Options of an objective that no stage has are missing.
        """
        stored = {name: value for name, value in self.given.items() if name in STORED}
        data, start = (_stored_path(path, self.out) for path in (self.data, self.start))
        return {**stored, "data": data or DATA, "start": start}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], out: Path) -> "Recipe":
        """The options that a run was trained with: the inverse of `to_config`.

        Parameters
        ----------
        config : dict
        out : Path
            Folder of the run.

        Returns
        -------
        recipe : Recipe

        Raises
        ------
        OptionError
            An option is missing, or is not of its kind.
        """
        options: dict[str, Any] = {
            name: config.get(name)
            for name in STORED
            if name in config or OPTIONS[name].role not in OBJECTIVES
        }
        for name, value in options.items():
            OPTIONS[name].kind.check(name, value)
        options["data"] = None if options["data"] == DATA else out / options["data"]
        options["start"] = out / options["start"] if options["start"] else None
        return cls(**options, out=out)


OPTIONS = described(Recipe)
STORED = [name for name, entry in OPTIONS.items() if entry.role != UNSTORED]
PRESETS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        preset: {
            name: entry.presets[preset]
            for name, entry in OPTIONS.items()
            if preset in entry.presets
        }
        for preset in ("generated", "few", "medium", "many", "score", "warm", "usual")
    }
)


def preset_for(captions: int, batch_size: int | None) -> dict[str, Any]:
    """The preset for few, medium or many captions, with the number of epochs.

    There are 8 epochs of cross entropy, or more if it takes them to reach 1,700 steps on few
    captions or 1,200 steps on others, but at most 300.

    captions : number in the train split
    batch_size : None: the preset's
    """
    size = "few" if captions < FEW_CAPTIONS.number else "many"
    preset = dict(PRESETS[size])
    if FEW_CAPTIONS.number <= captions < MEDIUM_CAPTIONS.number:
        preset |= PRESETS["medium"]
    steps = math.ceil(captions / (batch_size or preset["batch_size"]))  # of an epoch
    epochs = min(max(math.ceil(MIN_STEPS[size] / steps), MIN_EPOCHS), MAX_EPOCHS)
    return {**preset, "epochs": epochs}


def different(given: Recipe, recipe: Recipe, roles: Collection[str]) -> list[str]:
    """Names of the given options of these roles whose values differ from the recipe's."""
    return [
        name
        for name, value in given.given.items()
        if OPTIONS[name].role in roles and value != getattr(recipe, name)
    ]


def _stored_path(path: str | Path | None, out: str | Path | None) -> str:
    if path is None:
        return ""
    absolute = Path(path).resolve()
    folder = None if out is None else Path(out).resolve()
    if folder is not None and absolute.is_relative_to(folder):
        return absolute.relative_to(folder).as_posix()
    return str(absolute)
