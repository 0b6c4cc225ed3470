"""Mirror images: further views of the pictures of the train split, from prepare through the dataset
file to training.
"""

from pathlib import Path

import caption_formats
import numpy as np
import pytest
from commands import call, failing, good
from refusals import refuses

pytest.importorskip("PIL")

from PIL import Image

from xpcap import open_data
from xpcap.encoders import HistogramEncoder
from xpcap.errors import DataError
from xpcap.prepare import CaptionRow, assemble
from xpcap.prepare.features import mirror_of

NAMES = [f"{number:02}.png" for number in range(10)]
RNG = np.random.default_rng(0)
PHOTOS = {name: RNG.integers(0, 256, (6, 9, 3), np.uint8) for name in NAMES}


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for name, photo in PHOTOS.items():
        Image.fromarray(photo).save(Path("photos") / name)
    Path("captions.csv").write_bytes(
        caption_formats.table({name: ["a dog runs", "the dog"] for name in NAMES})
    )
    return tmp_path


ARGUMENTS = "prepare captions.csv --pictures photos --encoder histogram --min-count 1".split()


def encoded(names: list[str], step: int = 1) -> np.ndarray:
    return HistogramEncoder().encode(
        [np.ascontiguousarray(PHOTOS[name][:, ::step]) for name in names]
    )


@pytest.mark.parametrize("options", [[], ["--float16"]], ids=str)
@pytest.mark.slow
def test_prepare_adds_mirror_images_to_the_train_split_alone(
    options: list[object], prepared: Path
) -> None:
    result = good(*ARGUMENTS, "--out", "m.h5", "--mirror", *options).output
    good(*ARGUMENTS, "--out", "plain.h5", *options)
    assert "train: each picture also as its mirror image" in result
    data, plain = open_data("m.h5"), open_data("plain.h5")
    assert {name: split.views for name, split in data.splits.items()} == {
        "train": 2,
        "val": 1,
        "test": 1,
    }
    assert data.source.record["mirror"] is True
    train, m = data.split("train"), len(data.split("train").images)
    np.testing.assert_array_equal(train.features[:m], plain.split("train").features)
    wanted = encoded(list(train.images), -1)
    np.testing.assert_allclose(train.features[m:], wanted, rtol=1e-3, atol=1e-4)
    assert np.abs(train.features[m:].astype(float) - train.features[:m]).max() > 1e-3
    good(*"train m.h5 --out run --hidden 8 --wordvec 4 --epochs 1 --batch-size 8".split())


def test_mirror_images_need_pictures(prepared: Path) -> None:
    np.savez("f.npz", names=NAMES, features=encoded(NAMES))
    result = call("prepare", "captions.csv", "--features", "f.npz", "--mirror", "--out", "m.h5")
    assert (result.exit_code, "--features and --mirror are both given" in result.output) == (
        2,
        True,
    )


def test_mirror_images_need_a_train_split(prepared: Path) -> None:
    failing(
        ["prepare", "test=captions.csv", *ARGUMENTS[2:], "--mirror", "--out", "m.h5"],
        "a train split",
        status=2,
    )


def test_mirror_images_may_be_brought_along() -> None:
    features = {"a.jpg": [1.0, 2.0], mirror_of("a.jpg"): [2.0, 1.0], "b.jpg": [5.0, 6.0]}
    data = assemble(
        [CaptionRow("a.jpg", "a dog", "train"), CaptionRow("b.jpg", "a dog", "val")],
        features=features,
        min_count=1,
        mirror=True,
    )
    np.testing.assert_array_equal(data.split("train").features, [[1, 2], [2, 1]])
    assert (data.split("train").views, data.split("val").views) == (2, 1)
    with refuses(DataError, thing="1 of 1 pictures", got="have no mirror image"):
        assemble(
            [CaptionRow("b.jpg", "a dog", "train")], features=features, min_count=1, mirror=True
        )
