"""Projections by PCA: fitted for the index of photos; of data and runs of earlier checkouts, read."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import call, good
from refusals import refuses

from xpcap.data import CaptionData, open_data, write_dataset
from xpcap.data.features import Projection, fit_projection
from xpcap.errors import DataError
from xpcap.prepare import assemble
from xpcap.prepare.rows import CaptionRow
from xpcap.runs import Run, caption_files, evaluate_run, open_run
from xpcap.shapes import generate, picture_of
from xpcap.threads import cores

threadpoolctl = pytest.importorskip("threadpoolctl")
KEPT = Path(__file__).parents[1] / "runs" / "kept"


def correlated(m: int, D: int, rank: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (
        rng.standard_normal((m, rank)) * np.arange(rank, 0, -1) @ rng.standard_normal((rank, D)) + 5
    ).astype(np.float32)


def test_components_are_the_right_singular_vectors_of_centred_features() -> None:
    x = correlated(90, 12, 12)
    projection = fit_projection(x, 4)
    rows = np.linalg.svd(
        x.astype(np.float64) - x.mean(axis=0, dtype=np.float64), full_matrices=False
    )[2]
    np.testing.assert_allclose(np.abs(projection.components), np.abs(rows[:4].T), atol=1e-5)
    np.testing.assert_allclose(projection(x).mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(
        projection.components.T @ projection.components, np.eye(4), atol=1e-6
    )
    assert (projection.components[np.abs(projection.components).argmax(axis=0), range(4)] > 0).all()


def test_the_number_of_cores_does_not_change_a_bit() -> None:
    x = correlated(300, 96, 96)
    with threadpoolctl.threadpool_limits(1):
        one = fit_projection(x, 20)
    assert all(map(np.array_equal, fit_projection(x, 20), one)), cores()


@pytest.mark.parametrize(
    ("m", "rank", "fits"),
    [(5, 9, 4), (50, 3, 3), (1, 3, 0)],
    ids=["few pictures", "features that repeat each other", "one picture"],
)
def test_there_are_no_more_components_than_directions(m: int, rank: int, fits: int) -> None:
    assert fit_projection(correlated(m, 9, rank), 8).components.shape == (9, fits)


# ---- The kept data set, which an earlier checkout projected from 209 numbers to 6, and its run


def projected(data: CaptionData, projection: Projection) -> CaptionData:
    """The data as an earlier checkout prepared it with this PCA."""
    splits = {
        name: replace(split, features=projection(split.features[:]))
        for name, split in data.splits.items()
    }
    return replace(data, splits=splits, projection=projection)


@pytest.fixture
def run() -> Run:
    return open_run(KEPT / "run")


def test_the_run_captions_photos_whole_and_projected_features_alike(
    run: Run, tmp_path: Path
) -> None:
    from PIL import Image

    drawn = generate(0, train=3, val=9)
    names, rows = drawn.split("val").images, []
    for name, texts in zip(names, drawn.references("val").values(), strict=True):
        Image.fromarray(picture_of(name)).save(tmp_path / name)
        rows += [CaptionRow(name, text, "val") for text in texts]
    whole = assemble(rows, pictures=tmp_path, encoder="histogram", grid=2, min_count=1)
    assert run.projection is not None
    data = projected(whole, run.projection)
    assert (whole.feature_shape, data.feature_shape) == ((4, 209), (4, 6))
    write_dataset(tmp_path / "data.h5", data)
    of_whole = evaluate_run(run, whole, "val")
    of_projected = evaluate_run(run, tmp_path / "data.h5", "val")
    assert of_whole.scores["loss"] == pytest.approx(of_projected.scores["loss"], rel=1e-5)
    captions, _ = caption_files(run, [tmp_path / caption.image for caption in of_whole.captions])
    for others in (of_projected.captions, captions):
        assert [caption.caption for caption in others] == [
            caption.caption for caption in of_whole.captions
        ]
    assert len({caption.caption for caption in captions}) > 1


def test_the_run_refuses_features_of_another_projection(run: Run) -> None:
    data = open_data(KEPT / "data.h5")
    assert data.projection is not None
    other = data.projection._replace(components=-data.projection.components)
    with refuses(DataError, got="has features after another PCA"):
        evaluate_run(run, replace(data, projection=other), "val")


def test_a_run_without_its_projection_says_so_and_resume_brings_it_back(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(KEPT / "run", folder)
    (folder / "projection.safetensors").unlink()
    result = call("evaluate", folder, "--data", KEPT / "data.h5")
    assert result.exit_code == 1
    assert (
        "projection.safetensors is missing, expected the PCA that the run's features go through"
        in result.output
    )
    good("train", KEPT / "data.h5", "--out", folder, "--resume")
    written, kept = (path / "projection.safetensors" for path in (folder, KEPT / "run"))
    assert written.read_bytes() == kept.read_bytes()
