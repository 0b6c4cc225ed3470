"""Features larger than memory: read from disk as they are needed, they make the same data set as
features in memory.
"""

import subprocess
import sys
from pathlib import Path

import caption_formats
import numpy as np
import pytest
from commands import good
from from_disk import write_features
from refusals import refuses

from xpcap.data import npz, open_data
from xpcap.data.features import LazyRows, blocks, materialise, row_digests
from xpcap.data.npz import read_npz
from xpcap.errors import DataError
from xpcap.prepare import read_features
from xpcap.prepare.features import Table

NAMES = [f"{number:02}.jpg" for number in range(40)]


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of any size stay on disk."""
    monkeypatch.setattr(npz, "IN_MEMORY", 0)
    monkeypatch.setattr("xpcap.prepare.features.IN_MEMORY", 0)


def features(dtype: str = "f4", shape: tuple[int, ...] = (6,)) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((len(NAMES), *shape)).astype(dtype)


@pytest.mark.usefixtures("on_disk")
@pytest.mark.parametrize("dtype", ["f4", "f2", "f8", ">f4"])
@pytest.mark.parametrize("shape", [(6,), (4, 5)])
def test_a_table_on_disk_has_the_rows_of_the_array(
    dtype: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    array = features(dtype, shape)
    np.savez(tmp_path / "f.npz", other=np.arange(3), features=array, names=NAMES)
    table = read_features(tmp_path / "f.npz")
    assert isinstance(table.rows, np.memmap) == (dtype != ">f4")
    assert (list(table), len(table)) == (NAMES, 40)
    np.testing.assert_array_equal(table["07.jpg"], array[7])
    picked = table.pick(["30.jpg", "07.jpg", "30.jpg"])
    assert (picked.shape, len(picked), picked.dtype) == (
        (3, *shape),
        3,
        np.dtype(dtype).newbyteorder("="),
    )
    np.testing.assert_array_equal(picked[np.array([2, 1])], array[[30, 7]])
    np.testing.assert_array_equal(picked[1:], array[[7, 30]])


def test_blocks_cover_all_rows_once(monkeypatch: pytest.MonkeyPatch) -> None:
    array = features()
    monkeypatch.setattr("xpcap.data.features.AT_ONCE", 7 * array[0].nbytes)
    assert [len(block) for _, block in blocks(array)] == [7, 7, 7, 7, 7, 5]
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_array_equal(
        materialise(LazyRows(array, order, lambda block: 2 * block)), 2 * array[order]
    )


def test_equal_rows_alone_have_equal_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    array = features(shape=(2, 3))
    array[7] = array[30]
    digests = row_digests(array)
    assert [len(digest) for digest in digests] == [16] * 40
    assert digests[7] == digests[30]
    assert len(set(digests)) == 39
    monkeypatch.setattr("xpcap.data.features.AT_ONCE", 7 * array[0].nbytes)
    assert row_digests(LazyRows(array, np.arange(40)[::-1])) == digests[::-1]
    assert not {*row_digests(array.astype("f2"))} & {*digests}


@pytest.mark.parametrize("options", [[], ["--float16"]], ids=" ".join)
def test_a_data_set_has_the_same_bytes_made_from_disk_or_from_memory(
    options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("captions.csv").write_bytes(
        caption_formats.table({name: ["a dog", "the dog runs"] for name in NAMES})
    )
    np.savez("f.npz", names=NAMES, features=features())
    arguments = ["prepare", "captions.csv", "--features", "f.npz", "--min-count", 1, *options]
    good(*arguments, "--out", "memory.h5")
    request.getfixturevalue("on_disk")
    good(*arguments, "--out", "disk.h5")
    assert Path("disk.h5").read_bytes() == Path("memory.h5").read_bytes()


def test_pictures_that_are_encoded_are_read_from_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for number, name in enumerate(NAMES):
        Image.new("RGB", (9, 9), (6 * number, 0, 0)).save(Path("photos") / name)
    Path("captions.csv").write_bytes(caption_formats.table({name: ["a dog"] for name in NAMES}))
    arguments = "prepare captions.csv --pictures photos --encoder histogram --min-count 1".split()
    good(*arguments, "--out", "memory.h5")
    request.getfixturevalue("on_disk")
    good(*arguments, "--out", "disk.h5")
    # bytes differ: what is mostly zero is compressed, for which what is on disk is not looked through
    assert open_data("disk.h5").fingerprint == open_data("memory.h5").fingerprint


@pytest.mark.usefixtures("on_disk")
def test_a_damaged_table_on_disk_is_found_before_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    np.savez(path, features=features())
    content = bytearray(path.read_bytes())
    content[400] ^= 1
    path.write_bytes(content)
    with refuses(DataError, cause="Bad CRC-32"):
        read_npz(path, ["features"])


@pytest.mark.usefixtures("on_disk")
def test_compressed_and_transposed_arrays_are_read_into_memory(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", features=features())
    np.savez(tmp_path / "b.npz", features=np.asfortranarray(features()))
    for name in ("a.npz", "b.npz"):
        (read,) = read_npz(tmp_path / name, ["features"])
        assert isinstance(read, np.ndarray)
        np.testing.assert_array_equal(read, features())


LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_DATA, (300 << 20, 300 << 20))
from xpcap.cli import main
main()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the limit counts other memory")
def test_preparing_takes_far_less_memory_than_the_features(tmp_path: Path) -> None:
    """410 MB of features, of which a process with 300 MB maps the file, whose pages the system may
    take back; `from_disk.py` is the same at COCO's size, with training.
    """
    names = [f"{number:05}.jpg" for number in range(25_000)]
    write_features(tmp_path / "f.npz", names, 4096)
    table = caption_formats.table({name: ["a dog runs"] for name in names})
    (tmp_path / "captions.csv").write_bytes(table)
    command = "prepare captions.csv --features f.npz --out big.h5".split()
    subprocess.run([sys.executable, "-c", LIMITED, *command], cwd=tmp_path, check=True)


def test_tables_are_mappings() -> None:
    array = features()
    table = Table({name: row for row, name in enumerate(NAMES)}, array)
    assert "00.jpg" in table
    assert "x.jpg" not in table
    with pytest.raises(KeyError):
        table["x.jpg"]
    assert all(np.array_equal(feature, array[row]) for row, feature in enumerate(table.values()))
