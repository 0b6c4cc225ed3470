"""A data set is checked where it enters: each fault, fed at each entry that takes such data."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import refuses

from xpcap import CaptioningRNN, CaptioningSolver, Recipe, open_data, train_run, write_dataset
from xpcap.data import CaptionData, hdf5
from xpcap.data.cs231n import from_coco
from xpcap.data.features import Projection
from xpcap.data.synthetic import draw_data
from xpcap.errors import DataError

N, D, V = 6, 3, 30
GOOD = draw_data(N, D, V, seed=0)
SPLIT = replace(GOOD.split("train"), text=GOOD.texts("train"))


def with_number(array: np.ndarray, number: float) -> np.ndarray:
    changed = array.copy()
    changed[1, -1] = number
    return changed


# name: changes of a split, and what is refused of it
FAULTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "captions in a list": (
        {"captions": SPLIT.captions.tolist()},
        {"thing": "captions", "came": "are a list", "expected": "array of integers"},
    ),
    "captions of floats": (
        {"captions": SPLIT.captions.astype("f4")},
        {"thing": "captions", "came": "dtype float32", "expected": "integers of shape (n > 0"},
    ),
    "captions without an axis": (
        {"captions": SPLIT.captions[:, 0]},
        {"thing": "captions", "came": "shape (6,)", "expected": "(n > 0, T+1 > 2)"},
    ),
    "captions without words": (
        {"captions": SPLIT.captions[:, :2]},
        {"thing": "captions", "came": "shape (6, 2)", "expected": "(n > 0, T+1 > 2)"},
    ),
    "no captions": (
        {"captions": SPLIT.captions[:0], "image_idxs": SPLIT.image_idxs[:0]},
        {"thing": "captions", "came": "shape (0, 17)", "expected": "(n > 0, T+1 > 2)"},
    ),
    "a word beyond the vocabulary": (
        {"captions": with_number(SPLIT.captions, V)},
        {"thing": "captions", "came": "hold 0..30", "expected": "0..29"},
    ),
    "a negative word": (
        {"captions": with_number(SPLIT.captions, -1)},
        {"thing": "captions", "came": "hold -1..", "expected": "0..29"},
    ),
    "no <START>": (
        {"captions": SPLIT.captions[:, ::-1].copy()},
        {"thing": "6 captions, number 0 among them", "came": "do not begin with <START>"},
    ),
    "numbers of pictures that are floats": (
        {"image_idxs": SPLIT.image_idxs.astype("f4")},
        {"thing": "image_idxs", "came": "dtype float32", "expected": "integers of shape (n,)"},
    ),
    "too few numbers of pictures": (
        {"image_idxs": SPLIT.image_idxs[1:]},
        {"thing": "image_idxs", "came": "shape (5,)", "expected": "(n,) = (6,)"},
    ),
    "a picture beyond the features": (
        {"image_idxs": SPLIT.image_idxs + 1},
        {"thing": "image_idxs", "came": "hold 1..6", "expected": "0..5"},
    ),
    "a negative picture": (
        {"image_idxs": SPLIT.image_idxs - 1},
        {"thing": "image_idxs", "came": "hold -1..4", "expected": "0..5"},
    ),
    "features of whole numbers": (
        {"features": SPLIT.features[:].astype(int)},
        {"thing": "features", "came": "dtype int64", "expected": "floats of shape (r > 0, D > 0)"},
    ),
    "features without an axis": (
        {"features": SPLIT.features[:, 0]},
        {"thing": "features", "came": "shape (6,)", "expected": "or (r > 0, P > 0, D > 0)"},
    ),
    "features of no numbers": (
        {"features": SPLIT.features[:, :0]},
        {"thing": "features", "came": "shape (6, 0)", "expected": "(r > 0, D > 0)"},
    ),
    "a feature that is nan": (
        {"features": with_number(SPLIT.features[:], np.nan)},
        {"thing": "'picture1' among them", "came": "features that are not finite"},
    ),
    "a feature beyond float32": (
        {"features": with_number(SPLIT.features[:].astype("f8"), 1e300)},
        {"thing": "'picture1' among them", "came": "features that are not finite"},
    ),
    "fewer views than there should be": (
        {"views": 2},
        {"thing": "features", "came": "shape (6, 3)", "expected": "2 views for each of 6 pictures"},
    ),
    "a view that is nan": (
        {"features": np.concatenate([SPLIT.features, with_number(SPLIT.features[:], np.nan)])}
        | {"views": 2},
        {"thing": "1 pictures, 'picture1' among them", "came": "features that are not finite"},
    ),
    "more pictures than features": (
        {"images": [*SPLIT.images, "more"]},
        {"came": "6", "expected": "each"},
    ),
    "fewer texts than captions": (
        {"text": ["a dog"] * 5},
        {"came": "5 texts for 6 captions", "expected": "one each"},
    ),
}


def written(data: CaptionData, folder: Path) -> Path:
    """A file that another program wrote."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hdf5, "check_data", lambda *_: None)
        write_dataset(folder / "data.h5", data)
    return folder / "data.h5"


def convert(data: CaptionData, folder: Path) -> object:
    split, words = data.split("train"), data.vocabulary.idx_to_word
    things = {"captions": split.captions, "image_idxs": split.image_idxs}
    things |= {"features": split.features, "urls": split.images}
    return from_coco({**{f"train_{k}": x for k, x in things.items()}, "idx_to_word": words})


def model() -> CaptioningRNN:
    return CaptioningRNN(GOOD.vocabulary.word_to_idx, D, 4, 4, dtype=np.float32)


OTHER_IN_FILES = {"captions in a list"}
COURSES = {"no captions", "no <START>", "fewer texts than captions"} | {
    fault for fault in FAULTS if "view" in fault
}
# entry: a function of the data and a folder, and the faults that it cannot meet
ENTRIES: dict[str, tuple[Callable[[CaptionData, Path], object], set[str]]] = {
    "write_dataset": (lambda data, folder: write_dataset(folder / "data.h5", data), set()),
    "open_data": (lambda data, folder: open_data(written(data, folder)), OTHER_IN_FILES),
    "from_coco": (convert, COURSES),
    "CaptioningSolver": (lambda data, _: CaptioningSolver(model(), data), {"no <START>"}),
    "train_run": (
        lambda data, folder: train_run(Recipe(written(data, folder), out=folder / "run")),
        OTHER_IN_FILES,
    ),
}


@pytest.mark.parametrize(
    ("entry", "fault"),
    [(e, f) for e, (_, others) in ENTRIES.items() for f in FAULTS if f not in others],
)
def test_a_fault_of_the_data_is_named_where_they_enter(
    entry: str, fault: str, tmp_path: Path
) -> None:
    changes, fields = FAULTS[fault]
    with refuses(DataError, **fields):
        ENTRIES[entry][0](replace(GOOD, splits={"train": replace(SPLIT, **changes)}), tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "fault",
    [
        "captions of floats",
        "captions without an axis",
        "a word beyond the vocabulary",
        "a negative word",
        "features without an axis",
        "features of no numbers",
        "a feature that is nan",
        "a feature beyond float32",
    ],
)
def test_a_model_names_the_faults_of_arrays_that_were_not_checked(fault: str) -> None:
    (changes, _) = FAULTS[fault]
    split = replace(SPLIT, **changes)
    with refuses((TypeError, ValueError), function="CaptioningRNN.loss", thing=next(iter(changes))):
        model().loss(split.features, split.captions)


@pytest.mark.parametrize(
    ("mean", "components", "fields"),
    [
        (np.zeros(5), np.zeros((5, D), "f4"), {"thing": "its PCA: mean", "came": "float64"}),
        (np.zeros(5, "f4"), np.zeros((4, D), "f4"), {"expected": "(C, D) = (5, 3)"}),
        (np.zeros(5, "f4"), np.zeros((5, 2), "f4"), {"expected": "(C, D) = (5, 3)"}),
        (np.full(5, np.nan, "f4"), np.zeros((5, D), "f4"), {"came": "holds nan at [0]"}),
    ],
)
def test_a_projection_that_does_not_fit_is_named(
    mean: np.ndarray, components: np.ndarray, fields: dict[str, str], tmp_path: Path
) -> None:
    with refuses(DataError, cause="damaged?", **fields):
        write_dataset(tmp_path / "data.h5", replace(GOOD, projection=Projection(mean, components)))
