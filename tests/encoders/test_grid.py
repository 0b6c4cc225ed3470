"""Grids of features: averages over K x K regions, from every encoder, through the dataset file and a
run that attends to them.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import failing, good
from photos import PREPARE, photos
from PIL import Image
from refusals import refuses
from test_photo_encoders import needs_runtime, needs_timm, needs_weights

from xpcap import open_run
from xpcap.captioning.captions import caption_chosen
from xpcap.data import open_data
from xpcap.encoders import HistogramEncoder, TimmEncoder, find_encoder, read_picture
from xpcap.encoders.grid import pool
from xpcap.errors import DataError
from xpcap.files.onnx_file import Graph

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (40, 60, 3), np.uint8)


@pytest.mark.parametrize(("height", "width", "grid"), [(9, 9, 5), (7, 4, 3), (6, 6, 6), (5, 8, 1)])
def test_pooling_averages_the_rows_and_columns_that_a_place_covers(
    height: int, width: int, grid: int
) -> None:
    x = RNG.standard_normal((height, width, 2))
    wanted = [
        x[
            i * height // grid : -(-(i + 1) * height // grid),
            j * width // grid : -(-(j + 1) * width // grid),
        ].mean((0, 1))
        for i in range(grid)
        for j in range(grid)
    ]
    np.testing.assert_allclose(pool(x, grid), wanted, atol=1e-12)


@needs_weights
def test_lite2s_single_place_is_its_pooled_feature() -> None:
    pooled, one, five = (
        find_encoder(f"efficientnet-lite2{end}") for end in ("", ":grid=1", ":grid=5")
    )
    assert (five.name, five.shape) == ("efficientnet-lite2:grid=5", (25, 1280))
    np.testing.assert_allclose(
        one.encode([PHOTO])[0, 0], pooled.encode([PHOTO])[0], rtol=1e-4, atol=1e-5
    )
    grey = np.full((100, 100, 3), 128, np.uint8)
    for row, column in ((0, 4), (4, 0), (2, 3)):
        picture = grey.copy()
        picture[20 * row : 20 * row + 20, 20 * column : 20 * column + 20] = PHOTO[:20, :20]
        change = np.abs(five.encode([picture])[0] - five.encode([grey])[0]).mean(axis=1)
        found = np.array(divmod(int(change.argmax()), 5))
        assert np.abs(found - (row, column)).max() <= 1  # fields of view overlap


@needs_runtime
@pytest.mark.parametrize(
    "shape", [["N", 3, 6, 8], ["N", 6, 8, 3]], ids=["channels first", "channels last"]
)
def test_an_exported_models_map_becomes_a_grid(shape: list[Any], tmp_path: Path) -> None:
    graph = Graph()
    x = graph.node("Relu", graph.input("pictures", np.float32, shape))
    graph.output(x, x, np.float32, shape)
    (tmp_path / "m.onnx").write_bytes(graph.to_bytes())
    encoder = find_encoder(f"onnx:{tmp_path}/m.onnx:mean=0:std=1:grid=2")
    assert ":grid=2:" in encoder.name
    assert encoder.shape == find_encoder(encoder.name).shape == (4, 3)
    scaled = np.asarray(Image.fromarray(PHOTO).resize((8, 6), Image.Resampling.BICUBIC)) / 255
    wanted = scaled.reshape(2, 3, 2, 4, 3).mean((1, 3)).reshape(4, 3)
    np.testing.assert_allclose(encoder.encode([PHOTO])[0], wanted, atol=1e-6)
    with refuses(DataError, "has only 6 x 8 regions", "a grid of at most 6"):
        find_encoder(f"onnx:{tmp_path}/m.onnx:mean=0:std=1:grid=7")


@needs_timm
@pytest.mark.parametrize(
    ("model", "shape"),
    [
        ("resnet10t", (9, 512)),
        ("vit_tiny_patch16_224", (9, 192)),
        ("swin_tiny_patch4_window7_224", (9, 768)),
    ],
)
def test_timms_maps_and_patches_become_grids(model: str, shape: tuple[int, int]) -> None:
    encoder = TimmEncoder(f"timm:{model}", grid=3, pretrained=False)
    features = encoder.encode([PHOTO])
    assert (features.shape, encoder.shape) == ((1, *shape), shape)
    assert ":grid=3:sha256=" in encoder.name
    assert features.std(axis=1).max() > 0  # places differ


def test_histograms_of_the_cells_are_a_grid() -> None:
    cells, whole = HistogramEncoder(grid=3), HistogramEncoder()
    assert (cells.shape, cells.name) == ((9, 209), "histogram:grid=3")
    colours = whole.encode([PHOTO])[0, 209 : 209 + 99].reshape(
        9, 11
    )  # what `HistogramEncoder` puts behind the whole picture's
    np.testing.assert_array_equal(cells.encode([PHOTO])[0, :, :11], colours)
    np.testing.assert_allclose(
        HistogramEncoder(grid=1).encode([PHOTO])[0, 0],
        cells.encode([PHOTO])[0].mean(axis=0),
        rtol=1e-5,
    )


def test_pictures_of_noise_are_the_same_whatever_was_drawn_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for name, count in (("one", 3), ("other", 2)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        made.append([(Path("photos") / picture).read_bytes() for picture in photos(count)])
    assert made[0][:2] == made[1]
    assert len(set(made[0])) == 3


def test_a_grid_goes_through_the_dataset_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photos(30)
    prepared = good(*PREPARE, "--grid", 2, "--float16", "--out", "grid.h5")
    assert "features of size 4 x 209" in prepared.output
    data = open_data("grid.h5")
    assert (data.feature_shape, data.source.encoder) == ((4, 209), "histogram:grid=2")
    val = data.split("val")
    pictures = (read_picture(Path("photos") / name) for name in val.images)
    wanted = HistogramEncoder(grid=2).encode(pictures).astype(np.float16)
    np.testing.assert_array_equal(val.features, wanted)


def test_grids_need_attention_and_attention_needs_grids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photos(30)
    good(*PREPARE, "--grid", 2, "--out", "grid.h5")
    good(*PREPARE, "--out", "whole.h5")
    for arguments, *words in (
        ("grid.h5", "--inject is every-step", "grids of 4 regions", "expected --inject attention"),
        ("whole.h5 --inject attention", "--inject is attention", "of size 2", "every-step"),
    ):
        failing(["train", *arguments.split(), "--out", "run"], *words, status=2)
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("cell", "inject"), [("lstm", "attention"), ("gru", "attention+every-step")]
)
@pytest.mark.slow
def test_a_run_that_attends_trains_resumes_scores_and_captions_new_pictures(
    cell: str, inject: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """From float16 grids that are read from disk by the batch, scaled place by place."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("xpcap.data.hdf5.IN_MEMORY", 0)
    names = photos(30)
    good(*PREPARE, "--grid", 3, "--float16", "--out", "grid.h5")
    settings = f"--inject {inject} --cell {cell} --hidden 12 --wordvec 8 --batch-size 8".split()
    settings += "--lr-decay 0.9 --lr 0.01 --score-epochs 0".split()
    good("train", "grid.h5", "--out", "whole", *settings, "--epochs", 3)
    good("train", "grid.h5", "--out", "run", *settings, "--epochs", 1)
    good("train", "--out", "run", "--resume", "--epochs", 3)
    assert Path("run/best.safetensors").read_bytes() == Path("whole/best.safetensors").read_bytes()
    run = open_run("run")
    assert run.model.config.feature_shape == (9, 209)
    assert run.model.config.inject == inject
    assert run.scaling.mean is not None
    assert run.scaling.mean.shape == (209,)
    for policy in ([], ["--beam", 3], ["--temperature", 1]):
        assert json.loads(good("evaluate", "run", "--json", *policy).output)["captions"]
    assert "doctor: " in good("evaluate", "run", "--doctor").output
    said = good("caption", "run", *(Path("photos") / name for name in names[:3]), "--json").output
    captions = {Path(one["image"]).name: one["caption"] for one in json.loads(said)}
    data = run.data()
    train = data.split("train").images
    chosen = [train.index(name) for name in names[:3] if name in train]
    for one in caption_chosen(run.decoder(), data, "train", np.array(chosen)):
        # the encoder that the data set remembers makes the same grids, before float16
        assert captions[one.image] == one.caption
    weights = run.model.attention(*data.minibatch("train", np.arange(4)))
    np.testing.assert_allclose(weights.sum(axis=2)[:, 0], 1, rtol=1e-5)
