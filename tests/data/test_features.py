"""Features larger than memory, which make the same data set as those in memory, and projections by
PCA, of which the index of photos has one.
"""

import sys
from pathlib import Path

import caption_formats
import numpy as np
import pytest
from commands import good
from programs import program
from refusals import refuses
from threadpoolctl import threadpool_limits

from xpcap.data import npz, open_data
from xpcap.data.features import LazyRows, blocks, fit_projection, materialise, row_digests
from xpcap.data.npz import read_npz
from xpcap.errors import DataError
from xpcap.prepare import read_features

NAMES = [f"{number:02}.jpg" for number in range(40)]


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of any size stay on disk."""
    monkeypatch.setattr(npz, "IN_MEMORY", 0)
    monkeypatch.setattr("xpcap.prepare.features.IN_MEMORY", 0)


def features(dtype: str = "f4", shape: tuple[int, ...] = (6,)) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((len(NAMES), *shape)).astype(dtype)


@pytest.mark.usefixtures("on_disk")
@pytest.mark.parametrize(
    ("dtype", "shape", "kind"), [("f4", (6,), "U"), ("f2", (4, 5), "S"), (">f4", (4, 5), "U")]
)
def test_a_table_on_disk_has_the_rows_of_the_array(
    dtype: str, shape: tuple[int, ...], kind: str, tmp_path: Path
) -> None:
    array = features(dtype, shape)
    np.savez(tmp_path / "f.npz", other=np.arange(3), features=array, names=np.array(NAMES, kind))
    table = read_features(tmp_path / "f.npz")
    assert isinstance(table.rows, np.memmap) == (dtype != ">f4")
    assert (list(table), len(table), "x.jpg" in table) == (NAMES, 40, False)
    np.testing.assert_array_equal(table["07.jpg"], array[7])
    picked = table.pick(["30.jpg", "07.jpg", "30.jpg"])
    assert (picked.shape, len(picked)) == ((3, *shape), 3)
    assert picked.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(picked[np.array([2, 1])], array[[30, 7]])
    np.testing.assert_array_equal(picked[1:], array[[7, 30]])


def test_blocks_cover_all_rows_once(monkeypatch: pytest.MonkeyPatch) -> None:
    array = features()
    monkeypatch.setattr("xpcap.data.features.BLOCK_BYTES", 7 * array[0].nbytes)
    assert [len(block) for _, block in blocks(array)] == [7, 7, 7, 7, 7, 5]
    order = np.random.default_rng(0).permutation(40)
    doubled = materialise(LazyRows(array, order, lambda block: 2 * block))
    np.testing.assert_array_equal(doubled, 2 * array[order])


def test_equal_rows_alone_have_equal_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    array = features(shape=(2, 3))
    array[7] = array[30]
    digests = row_digests(array)
    assert [len(digest) for digest in digests] == [16] * 40
    assert digests[7] == digests[30]
    assert len(set(digests)) == 39
    monkeypatch.setattr("xpcap.data.features.BLOCK_BYTES", 7 * array[0].nbytes)
    assert row_digests(LazyRows(array, np.arange(40)[::-1])) == digests[::-1]
    assert not {*row_digests(array.astype("f2"))} & {*digests}


@pytest.mark.parametrize(
    "options", ["--features f.npz", "--features f.npz --float16", "--pictures ."]
)
def test_a_data_set_is_the_same_made_from_disk_or_from_memory(
    options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("captions.csv").write_bytes(
        caption_formats.table({name: ["a dog", "the dog runs"] for name in NAMES})
    )
    if options == "--pictures .":
        from PIL import Image

        options += " --encoder histogram"
        for number, name in enumerate(NAMES):
            Image.new("RGB", (9, 9), (6 * number, 0, 0)).save(name)
    np.savez("f.npz", names=NAMES, features=features())
    arguments = f"prepare captions.csv --min-count 1 {options} --out".split()
    good(*arguments, "memory.h5")
    request.getfixturevalue("on_disk")
    good(*arguments, "disk.h5")
    assert open_data("disk.h5").fingerprint == open_data("memory.h5").fingerprint
    # what is mostly zero is compressed, for which what is on disk is not looked through
    if "--features" in options:
        assert Path("disk.h5").read_bytes() == Path("memory.h5").read_bytes()


@pytest.mark.usefixtures("on_disk")
def test_a_table_may_be_packed_or_transposed_and_damage_is_found_before_it_is_used(
    tmp_path: Path,
) -> None:
    np.savez_compressed(tmp_path / "packed.npz", features=features())
    np.savez(tmp_path / "f.npz", features=np.asfortranarray(features()))
    for name in ("packed.npz", "f.npz"):
        (array,) = read_npz(tmp_path / name, ["features"])
        np.testing.assert_array_equal(array, features())
    content = bytearray((tmp_path / "f.npz").read_bytes())
    content[400] ^= 1
    (tmp_path / "f.npz").write_bytes(content)
    with refuses(DataError, "Bad CRC-32"):
        read_npz(tmp_path / "f.npz", ["features"])


LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_DATA, (180 << 20, 180 << 20))
from xpcap.cli import main
main()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the limit counts other memory")
def test_preparing_takes_far_less_memory_than_the_features(tmp_path: Path) -> None:
    """197 MB of features, of which a process with 180 MB maps the file, whose pages the system may
    take back.
    """
    names = [f"{number:05}.jpg" for number in range(12_000)]
    features = np.random.default_rng(0).standard_normal((len(names), 4096), np.float32)
    np.savez(tmp_path / "f.npz", names=names, features=features)
    table = caption_formats.table({name: ["a dog runs"] for name in names})
    (tmp_path / "captions.csv").write_bytes(table)
    command = "prepare captions.csv --features f.npz --out big.h5".split()
    program(LIMITED, *command, folder=tmp_path, OPENBLAS_NUM_THREADS="1")


def correlated(m: int, D: int, rank: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((m, rank)) * np.arange(rank, 0, -1)
    return (directions @ rng.standard_normal((rank, D)) + 5).astype(np.float32)


def test_components_are_the_right_singular_vectors_of_centred_features() -> None:
    x = correlated(90, 12, 12)
    projection = fit_projection(x, 4)
    rows = np.linalg.svd(x.astype(np.float64) - x.mean(axis=0, dtype=np.float64))[2]
    np.testing.assert_allclose(np.abs(projection.components), np.abs(rows[:4].T), atol=1e-5)
    np.testing.assert_allclose(projection(x).mean(axis=0), 0, atol=1e-4)
    assert (projection.components[np.abs(projection.components).argmax(axis=0), range(4)] > 0).all()


def test_the_number_of_cores_does_not_change_a_bit() -> None:
    x = correlated(300, 96, 96)
    with threadpool_limits(1):
        alone = fit_projection(x, 20)
    assert all(map(np.array_equal, fit_projection(x, 20), alone))


# few pictures, features that repeat each other, one picture
@pytest.mark.parametrize(("m", "rank", "fits"), [(5, 9, 4), (50, 3, 3), (1, 3, 0)])
def test_there_are_no_more_components_than_directions(m: int, rank: int, fits: int) -> None:
    assert fit_projection(correlated(m, 9, rank), 8).components.shape == (9, fits)
