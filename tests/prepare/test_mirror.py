"""Mirror images: further views of the pictures of the train split, from prepare to the dataset file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import failing, good
from photos import PREPARE, photos
from PIL import Image
from refusals import refuses

from xpcap import open_data
from xpcap.encoders import HistogramEncoder
from xpcap.errors import DataError
from xpcap.prepare import CaptionRow, assemble
from xpcap.prepare.features import mirror_of


def test_prepare_adds_mirror_images_to_the_train_split_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photos(10)
    good(*PREPARE, "--out", "plain.h5")
    output = good(*PREPARE, "--out", "m.h5", "--mirror", "--float16").output
    assert "train: each picture also as its mirror image" in output
    data, plain = open_data("m.h5"), open_data("plain.h5")
    views = {name: split.views for name, split in data.splits.items()}
    assert views == {"train": 2, "val": 1, "test": 1}
    assert data.source.record["mirror"] is True
    features, m = data.split("train").features, len(data.split("train").images)
    np.testing.assert_array_equal(features[:m], plain.split("train").features.astype("f2"))
    pictures = [np.asarray(Image.open(f"photos/{name}")) for name in data.split("train").images]
    mirrors = HistogramEncoder().encode([np.ascontiguousarray(x[:, ::-1]) for x in pictures])
    np.testing.assert_allclose(features[m:], mirrors, rtol=1e-3, atol=1e-4)
    assert np.abs(features[m:].astype(float) - features[:m]).max() > 1e-3
    wanted = ["prepare", "test=captions.csv", *PREPARE[2:], "--mirror", "--out", "o.h5"]
    failing(wanted, "a train split", status=2)


def test_mirror_images_may_be_brought_along() -> None:
    features = {"a.jpg": [1.0, 2.0], mirror_of("a.jpg"): [2.0, 1.0], "b.jpg": [5.0, 6.0]}
    rows = [CaptionRow("a.jpg", "a dog", "train"), CaptionRow("b.jpg", "a dog", "val")]
    how: dict[str, Any] = {"features": features, "min_count": 1, "mirror": True}
    data = assemble(rows, **how)
    np.testing.assert_array_equal(data.split("train").features, [[1, 2], [2, 1]])
    assert (data.split("train").views, data.split("val").views) == (2, 1)
    with refuses(DataError, "1 of 1 pictures", "have no mirror image"):
        assemble([rows[1]._replace(split="train")], **how)
