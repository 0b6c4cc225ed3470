"""Whole folders of pictures to features: on all cores, killed and resumed, and the cache of
features meanwhile.
"""

import os
import signal
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import failing, good
from PIL import Image
from programs import program
from refusals import Refusal, refusals, refuses

from xpcap.encoders import HistogramEncoder, read_picture
from xpcap.errors import DataError
from xpcap.prepare import encode_folder
from xpcap.prepare.features import BLOCK, FeatureFile, mirror_of

ROOT = Path(__file__).parents[2]
COUNT = 5 * BLOCK + 3


class Levels:
    """An encoder of grey pictures that notes what it encoded."""

    def __init__(self, name: str = "levels", fatal: int = 10**6, size: int = 4) -> None:
        self.name, self.fatal, self.shape = name, fatal, (size,)
        self.encoded: list[int] = []
        self.threads: set[int] = set()

    def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        levels = [int(picture[0, 0, 0]) for picture in pictures]
        self.encoded += levels
        self.threads.add(threading.get_ident())
        if len(self.encoded) > self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.array([[level, level**2, 1 / (level + 1), 1 / 3] for level in levels], np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures 000.bmp, 001.bmp, ..., each of its number's grey."""
    place = tmp_path / "photos"
    place.mkdir()
    for number in range(COUNT):
        Image.new("L", (4, 4), number).save(place / f"{number:03}.bmp")
    return place


NAMES = [f"{number:03}.bmp" for number in range(COUNT)]


def same(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    return list(a) == list(b) and all(a[name].tobytes() == b[name].tobytes() for name in a)


@pytest.mark.threads
def test_pictures_are_encoded_on_several_cores_and_come_in_the_order_of_their_names(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xpcap.prepare.features.cores", lambda: 2)
    both = threading.Barrier(2)

    class Together(Levels):
        def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
            both.wait()
            return super().encode(pictures)

    names = NAMES[: 4 * BLOCK][::-1]
    features = encode_folder(folder, names, encoder := Together())
    assert len(encoder.threads) == 2
    assert list(features) == names
    assert [int(feature[0]) for feature in features.values()] == [*range(4 * BLOCK)][::-1]
    assert {(row.shape, row.dtype) for row in features.values()} == {((4,), np.dtype("f4"))}


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_killed_encoding_goes_on_where_it_was_with_the_same_bytes(
    folder: Path, tmp_path: Path
) -> None:
    code = (
        "import sys; from test_encoding import *; encode_folder(sys.argv[1], NAMES,"
        " Levels(fatal=2 * BLOCK), cache=sys.argv[2], mirrored=NAMES[::2])"
    )
    cache, paths = tmp_path / "cache", (ROOT / "tests/helpers", Path(__file__).parent)
    program(code, folder, cache, paths=paths, status=-signal.SIGKILL, OPENBLAS_NUM_THREADS="1")

    def encoded(place: Path | str | None) -> tuple[Mapping[str, np.ndarray], int]:
        encoder = Levels()
        features = encode_folder(folder, NAMES, encoder, cache=place, mirrored=NAMES[::2])
        return features, len(encoder.encoded)

    features, count = encoded(cache)
    assert count == COUNT + (COUNT + 1) // 2 - BLOCK * 3 // 2  # all but the first block
    assert same(features, encoded(None)[0])
    again, count = encoded(str(cache))
    assert same(features, again)
    assert count == 0


def test_of_a_folder_that_changed_only_what_is_new_is_encoded(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"

    def encoded(names: list[str], **options: Any) -> list[int]:
        features = encode_folder(folder, names, encoder := Levels(), cache=cache, **options)
        assert same(features, encode_folder(folder, names, Levels(), **options))
        return sorted(encoder.encoded)

    assert encoded(NAMES[:-1]) == list(range(COUNT - 1))
    assert encoded(NAMES) == [COUNT - 1]
    assert encoded(NAMES[:0:-1]) == []
    assert encoded(NAMES, mirrored=NAMES[:1]) == [0, 0]
    assert encoded(NAMES, mirrored=NAMES[:1]) == []


class Ends(Levels):
    """An encoder that makes the first and the last number of a row."""

    def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        return np.array([picture[0, [0, -1], 0] for picture in pictures], np.float32)


def test_mirror_images_are_encoded_of_those_that_were_asked_for(folder: Path) -> None:
    for number in range(3):
        picture = np.array([[number, 50 + number]], np.uint8)
        Image.fromarray(picture).save(folder / f"{number:03}.bmp")
    (folder / "001.bmp").write_bytes(b"broken")
    unreadable: dict[str, str] = {}
    how: dict[str, Any] = {"mirrored": iter(NAMES[1:3]), "unreadable": unreadable}
    features = encode_folder(folder, NAMES[:3], Ends(size=2), **how)
    assert list(unreadable) == ["001.bmp"]
    assert {name: list(value) for name, value in features.items()} == {
        "000.bmp": [0, 50], "002.bmp": [2, 52], mirror_of("002.bmp"): [52, 2],
    }  # fmt: skip


@refusals(
    """
    [7] | the encoder levels | of shape (2, 1) | (2, 2)
    [1, 2, 3] | the encoder levels | of shape (2, 3) | (2, 2)
    [1, 1e300] | '000.bmp' | not finite
    [1, float("nan")] | '000.bmp' | not finite
    """,
    error=DataError,
)
def test_features_are_of_the_shape_that_the_encoder_says_and_finite(
    refusal: Refusal, folder: Path
) -> None:
    def encode(feature: list[float]) -> None:
        encoder: Any = Levels(size=2)
        encoder.encode = lambda pictures: np.array([feature for _ in pictures])
        encode_folder(folder, NAMES[:2], encoder)

    refusal.check({"encode": encode}, "encode({})")


ROW = 16 + 16 + 16  # bytes of a row of the cache: key, checksum and feature
HEADER = b"xpcap features, 4 numbers a row\n"


def test_a_row_that_is_not_whole_is_made_again(folder: Path, tmp_path: Path) -> None:
    """What a kill, or a failure of power with parts of the file not on disk, can leave."""
    cache, names = tmp_path / "cache", NAMES[: 2 * BLOCK]
    wanted = encode_folder(folder, names, Levels(), cache=cache)
    whole = cache.read_bytes()
    rows = [whole[start : start + ROW] for start in range(len(HEADER), len(whole), ROW)]
    before, digest, feature = whole[:-ROW], whole[-ROW:-16], whole[-16:]
    for broken in (
        whole[:-7],
        before + digest + feature[:-1] + bytes([feature[-1] ^ 1]),
        before + bytes([digest[0] ^ 1]) + digest[1:] + feature,
        before + bytes(32) + feature,
        before + digest + bytes(16),
        *(whole[:size] for size in (0, len(HEADER) + 200, len(whole) // 2)),
    ):
        cache.write_bytes(broken)
        left = 1 if len(broken) > len(before) else len(rows) - max(0, len(broken) - 32) // ROW
        for count in (left, 0):
            assert same(encode_folder(folder, names, encoder := Levels(), cache=cache), wanted)
            assert len(encoder.encoded) == count
        made = cache.read_bytes()  # cores write their rows as they are done
        assert sorted(rows) == sorted(made[at : at + ROW] for at in range(32, len(made), ROW))


def test_a_cache_is_one_process_at_a_time_and_gone_if_it_stays_empty(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.csv").write_text("image,caption\n" + "".join(f"{name},a dog\n" for name in NAMES[:9]))
    command = "prepare train=c.csv --pictures photos --encoder histogram --out own.h5".split()
    cache = Path("photos.histogram.features")
    with FeatureFile(cache, HistogramEncoder().shape):
        before = cache.read_bytes()
        failing(command, "photos.histogram.features is in use by another process")
        assert cache.read_bytes() == before
    assert not cache.exists()
    good(*command)


def test_what_another_encoder_made_or_from_another_picture_is_made_again(
    folder: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    encode_folder(folder, NAMES, Levels(), cache=cache)
    place = folder / NAMES[BLOCK]
    before = place.stat()
    Image.new("L", (4, 4), 255).save(place)
    os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000_000))
    assert place.stat().st_size == before.st_size  # its time alone gives it away
    features = encode_folder(folder, NAMES, encoder := Levels(), cache=cache)
    assert encoder.encoded == [255]
    assert same(features, encode_folder(folder, NAMES, Levels()))
    for name, count in (("another", COUNT), ("levels", 0)):  # the former's rows stay
        encode_folder(folder, NAMES, encoder := Levels(name), cache=cache)
        assert len(encoder.encoded) == count
    with refuses(DataError, "cache", "is another file"):
        encode_folder(folder, NAMES, Levels("wider", size=7), cache=cache)


def test_no_other_file_is_written_to(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", np.zeros((COUNT, 4), np.float32))
    contents = {"letter": b"dear", "mine.npy": (tmp_path / "mine.npy").read_bytes()}
    contents["cut.npy"] = contents["mine.npy"][:40]
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with refuses(DataError, "is another file"):
            encode_folder(folder, NAMES, Levels(), cache=tmp_path / name)
        assert (tmp_path / name).read_bytes() == content
    with refuses(DataError, "a folder"):
        encode_folder(folder, NAMES, Levels(), cache=folder)


def test_pictures_that_cannot_be_read_end_it_or_are_left_out_with_the_reason(
    folder: Path, tmp_path: Path
) -> None:
    (folder / NAMES[3]).write_bytes(b"not a picture")
    (folder / NAMES[60]).write_bytes(b"")
    with refuses(DataError, "cannot be read as a picture"):
        encode_folder(folder, NAMES, Levels())
    for _ in range(2):  # also where the others are encoded already
        unreadable: dict[str, str] = {}
        how: dict[str, Any] = {"cache": tmp_path / "cache", "unreadable": unreadable}
        features = encode_folder(folder, NAMES, Levels(), **how)
        assert list(features) == [name for name in NAMES if name not in (NAMES[3], NAMES[60])]
        assert list(unreadable) == [NAMES[3], NAMES[60]]
        assert "it is text" in unreadable[NAMES[3]]
        assert "is empty" in unreadable[NAMES[60]]


@pytest.mark.threads
def test_no_block_is_begun_after_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xpcap.prepare.features.cores", lambda: 2)
    failed = threading.Event()

    def read(path: Path) -> np.ndarray:
        if path.name != NAMES[3]:
            return read_picture(path)
        failed.set()
        raise DataError(f"{path} is bad")

    class Waiting(Levels):
        def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
            failed.wait()
            return super().encode(pictures)

    monkeypatch.setattr("xpcap.prepare.features.read_picture", read)
    with refuses(DataError, "is bad"):
        encode_folder(folder, NAMES, encoder := Waiting())
    assert len(encoder.encoded) <= 2 * BLOCK  # what the other core was at, and at most one more


@pytest.mark.skipif(
    os.name != "posix", reason="needs a limit on the size of files, which stands for a full disk"
)
def test_a_full_disk_is_an_error_that_names_the_file_and_leaves_whole_rows(
    folder: Path, tmp_path: Path
) -> None:
    import resource

    cache = tmp_path / "cache"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2010, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            encode_folder(folder, NAMES, encoder := Levels(), cache=cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(cache)
    done, part = divmod(cache.stat().st_size - len(HEADER), ROW)
    assert 0 < done < len(encoder.encoded)
    assert part == 0  # though the limit is within a row
    features = encode_folder(folder, NAMES, encoder := Levels(), cache=cache)
    assert same(features, encode_folder(folder, NAMES, Levels()))
    assert len(encoder.encoded) == COUNT - done
