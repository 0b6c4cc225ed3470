"""A data set is checked where it enters: each fault, fed at each entry that takes such data."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from refusals import Refusal, refusals

from xpcap import CaptioningRNN, CaptioningSolver, Recipe, open_data, train_run, write_dataset
from xpcap.data import CaptionData, hdf5
from xpcap.data.cs231n import from_coco
from xpcap.data.synthetic import draw_data
from xpcap.errors import DataError

N, D, V = 6, 3, 30
GOOD = draw_data(N, D, V, seed=0)
SPLIT = replace(GOOD.split("train"), text=GOOD.texts("train"))


def with_number(array: np.ndarray, number: float) -> np.ndarray:
    changed = array.copy()
    changed[1, -1] = number
    return changed


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


ENTRIES: dict[str, Callable[[CaptionData, Path], object]] = {
    "write_dataset": lambda data, folder: write_dataset(folder / "data.h5", data),
    "open_data": lambda data, folder: open_data(written(data, folder)),
    "from_coco": convert,
    "CaptioningSolver": lambda data, _: CaptioningSolver(model(), data),
    "train_run": lambda data, folder: train_run(Recipe(written(data, folder), out=folder / "run")),
}


BUT_COURSE = {*ENTRIES} - {"from_coco"}
# entries that take a fault, if not all do, by a word of its row
ONLY = {
    "views": BUT_COURSE,
    "text": BUT_COURSE,
    "captions[:0]": BUT_COURSE,
    "tolist": {"write_dataset", "from_coco", "CaptioningSolver"},
    "::-1": {"write_dataset", "open_data", "train_run"},
}


@refusals(
    """
    captions=SPLIT.captions.astype("f4") | captions | dtype float32 | integers of shape (n > 0
    captions=SPLIT.captions[:, 0] | captions | shape (6,) | (n > 0, T+1 > 2)
    captions=SPLIT.captions[:, :2] | captions | shape (6, 2) | (n > 0, T+1 > 2)
    captions=np.ones((6, 1003), int) | captions | up to 1,001 words | at most 1,000
    captions=with_number(SPLIT.captions, V) | captions | hold 0..30 | 0..29
    captions=with_number(SPLIT.captions, -1) | captions | hold -1.. | 0..29
    captions=SPLIT.captions.tolist() | captions | are a list | array of integers
    captions=SPLIT.captions[:, ::-1].copy() | caption 0 (1 of 6) | does not begin with <START>
    captions=SPLIT.captions[:0], image_idxs=SPLIT.image_idxs[:0] | captions | shape (0, 17) | (n > 0, T+1 > 2)
    image_idxs=SPLIT.image_idxs.astype("f4") | image_idxs | dtype float32 | integers of shape (n,)
    image_idxs=SPLIT.image_idxs[1:] | image_idxs | shape (5,) | (n,) = (6,)
    image_idxs=SPLIT.image_idxs + 1 | image_idxs | hold 1..6 | 0..5
    image_idxs=SPLIT.image_idxs - 1 | image_idxs | hold -1..4 | 0..5
    features=SPLIT.features.astype(int) | features | dtype int64 | floats of shape (r > 0, D > 0)
    features=SPLIT.features[:, 0] | features | shape (6,) | or (r > 0, P > 0, D > 0)
    features=SPLIT.features[:, :0] | features | shape (6, 0) | (r > 0, D > 0)
    features=with_number(SPLIT.features, np.nan) | the feature of 'picture1' | is not finite
    features=with_number(SPLIT.features.astype("f8"), 1e300) | the feature of 'picture1' | is not finite
    features=np.concatenate([SPLIT.features, with_number(SPLIT.features, np.nan)]), views=2 | the feature of 'picture1' (1 of 1) | is not finite
    views=2 | features | shape (6, 3) | 2 views for each of 6 pictures
    images=[*SPLIT.images, "more"] | 6 | each
    text=["a dog"] * 5 | 5 texts for 6 captions | a text per caption
    """,
    error=DataError,
)
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_fault_of_the_data_is_named_where_they_enter(
    refusal: Refusal, entry: str, tmp_path: Path
) -> None:
    if all(entry in ONLY[word] for word in ONLY if word in refusal.statement):
        changed = "enter(replace(GOOD, splits={{'train': replace(SPLIT, {})}}), folder)"
        refusal.check(globals() | {"enter": ENTRIES[entry], "folder": tmp_path}, changed)
        assert not (tmp_path / "run").exists()
