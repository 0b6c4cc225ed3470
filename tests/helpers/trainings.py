"""Small trainings whose options are asked from the recipe, so that a new one takes part by itself."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpcap.data import CaptionData, Vocabulary, write_dataset
from xpcap.data.dataset import Split
from xpcap.options import Checked, Flag, Names, OptionKind, Real, Whole
from xpcap.runs.recipe import (
    AFTER,
    LENGTH,
    MODEL,
    OPTIONS,
    PRESETS,
    SOURCE,
    TRAINING,
    UNSTORED,
    Recipe,
    preset_for,
)
from xpcap.trainer.train import train_run
from xpcap.training.objectives import CROSS_ENTROPY, SELF_CRITICAL

D = 10
RATE = 0.003  # at which training that starts from a run improves it
THINGS = ("dog", "cat", "boat", "tree", "car", "ball")
# Small where the default takes long; a rate and a clip at which epochs differ and overshoot
SMALL: dict[str, Any] = {
    **{"hidden": 6, "wordvec": 4, "epochs": 3, "score_epochs": 1, "batch_size": 16},
    **{"lr": 0.3, "clip": 1.0, "smoothing": 0.1, "select": "cider"},
}


def data_set(
    path: Path,
    seed: int = 0,
    things: tuple[str, ...] = THINGS,
    *,
    train: int = 60,
    val: int = 20,
) -> Path:
    """Photos whose features and captions both tell two things apart, in a dataset file."""
    rng = np.random.default_rng(seed)
    texts, features = {}, {}
    for name, n in (("train", train), ("val", val)):
        pairs = rng.integers(0, len(things), (n, 2))
        features[name] = rng.standard_normal((n, D)).astype(np.float32)
        for kinds, strength in zip(pairs.T, (4, 3), strict=True):
            features[name] += strength * np.eye(len(THINGS), D, dtype=np.float32)[kinds]
        forms = ("a {} near a {}", "there is a {} and a {}", "the {} is by the {}")
        texts[name] = [
            forms[rng.integers(3)].format(*(things[k] for k in pair))
            for pair in pairs
            for _ in "ab"
        ]
    vocabulary = Vocabulary.build(texts["train"], 1)
    splits = {
        name: Split(
            vocabulary.encode(texts[name], 8),
            np.repeat(np.arange(len(x)), 2).astype(np.int32),
            x,
            [f"{name}{seed}-{i}.jpg" for i in range(len(x))],
            texts[name],
        )
        for name, x in features.items()
    }
    write_dataset(path, CaptionData(vocabulary, splits))
    return path


def other(kind: OptionKind, value: Any) -> Any:
    """A value of a kind that is another than the one given, and near it."""
    if isinstance(kind, Flag):
        return not value
    if isinstance(kind, Names):
        names = list(kind.names)
        return names[names.index(value) - 1]
    if isinstance(kind, Whole):
        return value + 1
    if isinstance(kind, Checked):  # `save_every`
        return "1"
    assert isinstance(kind, Real), f"{kind}: name another value of such a kind here"
    return 1.0 if isinstance(value, str) else 2 * value or 0.25


# Not a value to vary: what training starts from, and what it stores nowhere
VARIED = [
    name
    for name, option in OPTIONS.items()
    if option.role not in (SOURCE, UNSTORED) and name != "objective"
]


def completed_for(captions: int, **given: Any) -> Recipe:
    """The recipe of given options for a train split of so many captions."""
    recipe = Recipe(**given)
    return recipe.settled(preset_for(captions, recipe.batch_size), PRESETS["usual"])


def small() -> dict[str, Any]:
    """Options of a training of two stages, reranked, that takes a quarter of a second."""
    recipe = completed_for(captions=48, **SMALL)
    return {name: getattr(recipe, name) for name in VARIED}


def varied() -> dict[str, Any]:
    """Another value for each of them."""
    return {name: other(OPTIONS[name].kind, value) for name, value in small().items()}


def of_roles(options: Mapping[str, Any], *roles: str) -> dict[str, Any]:
    """Options that have one of the roles."""
    return {name: value for name, value in options.items() if OPTIONS[name].role in roles}


class Training(NamedTuple):
    """What to train: a data set, or that of a start, and options."""

    data: Path | None
    options: dict[str, Any]

    @property
    def start(self) -> Path | None:
        """The run that training starts from."""
        return self.options.get("start")

    def arguments(self) -> list[object]:
        """The command line of `train`, but for --out."""
        arguments: list[object] = [] if self.data is None else [self.data]
        for name, value in self.options.items():
            flag = "from" if name == "start" else name.replace("_", "-")
            if isinstance(value, bool):
                arguments.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                arguments += [f"--{flag}", value]
        return arguments


def _usual(folder: Path) -> Training:
    return Training(_data(folder), small())


def _varied(folder: Path) -> Training:
    return Training(_data(folder), varied())


def _on_score(folder: Path) -> Training:
    options = of_roles(small(), TRAINING, LENGTH, SELF_CRITICAL, AFTER)
    changes = {"start": _one_stage(folder), "objective": SELF_CRITICAL, "lr": RATE}
    return Training(None, options | changes)


def _warm(folder: Path) -> Training:
    data = data_set(folder / "own.h5", seed=1, things=("dog", "bird", "boat"), train=24, val=8)
    options = of_roles(small(), TRAINING, LENGTH, CROSS_ENTROPY, AFTER)
    return Training(data, options | {"start": _one_stage(folder), "lr": RATE})


def _data(folder: Path) -> Path:
    return data_set(folder / "data.h5", train=24, val=8)


def _one_stage(folder: Path) -> Path:
    options = of_roles(small(), TRAINING, CROSS_ENTROPY) | of_roles(varied(), MODEL)
    options |= {"epochs": 8, "lr": 0.03, "score_epochs": 0}
    return train_run(Recipe(_data(folder), out=folder / "start", **options)).run.path


TRAININGS: dict[str, Callable[[Path], Training]] = {
    "usual options": _usual,
    "other options": _varied,
    "on the score of another run": _on_score,
    "warm start": _warm,
}
