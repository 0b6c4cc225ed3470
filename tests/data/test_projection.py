"""PCA: fitted on the train split, kept with the data, and applied by a run to every new picture."""

import shutil
from pathlib import Path

import caption_formats
import numpy as np
import pytest
from commands import SMALL, call, failing, good
from refusals import refuses

from xpcap.data import CaptionData, open_data
from xpcap.data.features import Projection, fit_projection
from xpcap.errors import DataError
from xpcap.runs import caption_files, evaluate_run, open_run
from xpcap.shapes import generate, picture_of
from xpcap.threads import cores

threadpoolctl = pytest.importorskip("threadpoolctl")


def correlated(m: int, D: int, rank: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (
        rng.standard_normal((m, rank)) * np.arange(rank, 0, -1) @ rng.standard_normal((rank, D)) + 5
    ).astype(np.float32)


def test_components_are_the_right_singular_vectors_of_centred_features() -> None:
    x = correlated(90, 12, 12)
    projection, share = fit_projection(x, 4)
    _, sizes, rows = np.linalg.svd(
        x.astype(np.float64) - x.mean(axis=0, dtype=np.float64), full_matrices=False
    )
    np.testing.assert_allclose(np.abs(projection.components), np.abs(rows[:4].T), atol=1e-5)
    assert share == pytest.approx((sizes[:4] ** 2).sum() / (sizes**2).sum(), rel=1e-9)
    np.testing.assert_allclose(projection(x).mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(
        projection.components.T @ projection.components, np.eye(4), atol=1e-6
    )
    assert (projection.components[np.abs(projection.components).argmax(axis=0), range(4)] > 0).all()


def test_each_place_of_a_grid_is_a_sample() -> None:
    x = correlated(60, 8, 8)
    flat, grid = fit_projection(x, 3)[0], fit_projection(x.reshape(15, 4, 8), 3)[0]
    np.testing.assert_allclose(grid.components, flat.components, atol=1e-6)
    assert grid(x.reshape(15, 4, 8)).shape == (15, 4, 3)


def test_the_number_of_cores_does_not_change_a_bit() -> None:
    x = correlated(300, 96, 96)
    with threadpoolctl.threadpool_limits(1):
        one = fit_projection(x, 20)[0]
    assert all(map(np.array_equal, fit_projection(x, 20)[0], one)), cores()


@pytest.mark.parametrize(
    ("m", "rank", "fits"),
    [(5, 9, 4), (50, 3, 3)],
    ids=["few pictures", "features that repeat each other"],
)
def test_no_more_components_than_there_are_directions(m: int, rank: int, fits: int) -> None:
    x = correlated(m, 9, rank)
    fit_projection(x, fits)
    with refuses(
        DataError,
        got=f"vary in {fits} directions",
        expected=f"at least {fits + 1}",
        cause="choose a smaller `pca`",
    ):
        fit_projection(x, fits + 1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawings, their captions, a data set of them with and without PCA, and a run on that with."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("pca")
    data = generate(0, train=40, val=10)
    (folder / "photos").mkdir()
    said: dict[str, dict[str, list[str]]] = {}
    for split in ("train", "val"):
        for number, texts in data.references(split).items():
            name = data.split(split).images[number]
            Image.fromarray(picture_of(name)).save(folder / "photos" / name)
            said.setdefault(split, {})[name] = texts
    (folder / "k.json").write_bytes(caption_formats.karpathy(said))
    how = "--encoder histogram --min-count 1".split()
    arguments = ["prepare", folder / "k.json", "--pictures", folder / "photos", *how]
    shown = good(*arguments, "--pca", 20, "--out", folder / "pca.h5").output
    assert "PCA: 2,101 numbers of a feature to 20, which keep" in shown
    good(*arguments, "--out", folder / "raw.h5")
    good("train", folder / "pca.h5", "--out", folder / "run", *SMALL)
    return folder


def test_the_data_set_keeps_its_projection(place: Path) -> None:
    data, raw = open_data(place / "pca.h5"), open_data(place / "raw.h5")
    assert data.projection is not None
    assert (data.feature_shape, raw.feature_shape, raw.projection) == ((20,), (2101,), None)
    np.testing.assert_allclose(
        data.split("val").features, data.projection(raw.split("val").features), atol=1e-6
    )
    fitted, share = fit_projection(raw.split("train").features, 20)
    assert all(map(np.array_equal, fitted, data.projection))
    assert data.source.record["pca"] == {"from": 2101, "to": 20, "variance": round(share, 4)}


def test_a_run_captions_photos_and_raw_data_as_it_captions_its_own(place: Path) -> None:
    run = open_run(place / "run")
    own = evaluate_run(run, split="val")
    raw = evaluate_run(run, place / "raw.h5", "val")
    assert [caption.caption for caption in raw.captions] == [
        caption.caption for caption in own.captions
    ]
    assert raw.scores["loss"] == pytest.approx(own.scores["loss"], rel=1e-5)
    captions, _ = caption_files(run, [place / "photos" / caption.image for caption in own.captions])
    assert [caption.caption for caption in captions] == [
        caption.caption for caption in own.captions
    ]


def test_a_run_refuses_features_of_another_projection(place: Path) -> None:
    data = open_data(place / "pca.h5")
    assert data.projection is not None
    other = CaptionData(
        data.vocabulary,
        data.splits,
        projection=Projection(data.projection.mean, -data.projection.components),
    )
    with refuses(DataError, got="has features after another PCA"):
        evaluate_run(open_run(place / "run"), other, "val")


def test_a_run_without_its_projection_says_so_and_resume_brings_it_back(
    place: Path, tmp_path: Path
) -> None:
    shutil.copytree(place / "run", tmp_path / "run")
    (tmp_path / "run" / "projection.safetensors").unlink()
    result = call("caption", tmp_path / "run", place / "photos")
    assert result.exit_code == 1
    assert (
        "projection.safetensors is missing, expected the PCA that the run's features go through"
        in result.output
    )
    good("train", place / "pca.h5", "--out", tmp_path / "run", *SMALL, "--resume")
    assert (tmp_path / "run" / "projection.safetensors").read_bytes() == (
        place / "run" / "projection.safetensors"
    ).read_bytes()


def test_too_many_components_are_refused_and_nothing_is_left(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    arguments = (
        "prepare k.json --pictures photos --encoder histogram --pca 400 --out new.h5".split()
    )
    failing(
        arguments,
        "features of 2,101 numbers vary in",
        "expected at least 400",
        "choose a smaller --pca",
        left=("new.h5.encoding",),
    )
    Path("new.h5.encoding").unlink()
