"""Whole folders of pictures to features: on all cores, killed and resumed, and the cache of
features meanwhile.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import failing, good
from refusals import Refusal, refusals, refuses

Image = pytest.importorskip("PIL.Image")

from xpcap.encoders import read_picture  # noqa: E402
from xpcap.errors import DataError  # noqa: E402
from xpcap.prepare import encode_folder  # noqa: E402 - after the skip
from xpcap.prepare.features import BLOCK, FeatureFile, mirror_of  # noqa: E402

ROOT = Path(__file__).parents[2]
COUNT = 5 * BLOCK + 3


class Levels:
    """An encoder of grey pictures that notes what it encoded."""

    shape = (4,)

    def __init__(self, name: str = "levels", fatal: int | None = None) -> None:
        self.name, self.fatal = name, fatal
        self.encoded: list[int] = []
        self.threads: set[int] = set()

    def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        levels = [int(picture[0, 0, 0]) for picture in pictures]
        self.encoded += levels
        self.threads.add(threading.get_ident())
        if self.fatal is not None and len(self.encoded) > self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.array([[level, level**2, 1 / (level + 1), 1 / 3] for level in levels], np.float32)


class Wider(Levels):
    """Another size of features."""

    shape = (7,)  # type: ignore[assignment]

    def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        return np.array([[int(picture[0, 0, 0])] * 7 for picture in pictures], np.float32)


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


def test_features_come_in_the_order_of_the_names(folder: Path) -> None:
    features = encode_folder(folder, NAMES[::-1], Levels())
    assert list(features) == NAMES[::-1]
    assert [int(feature[0]) for feature in features.values()] == list(range(COUNT))[::-1]
    assert {(row.shape, row.dtype) for row in features.values()} == {((4,), np.dtype("f4"))}


@pytest.mark.threads
def test_pictures_are_encoded_on_several_cores(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xpcap.prepare.features.cores", lambda: 2)
    both = threading.Barrier(2)

    class Together(Levels):
        def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
            both.wait()
            return super().encode(pictures)

    encode_folder(folder, NAMES[: 4 * BLOCK], encoder := Together())
    assert len(encoder.threads) == 2


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_killed_encoding_goes_on_where_it_was_with_the_same_bytes(
    folder: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    encode = (
        "encode_folder(sys.argv[1], NAMES, Levels(fatal=2 * BLOCK), cache=sys.argv[2],"
        " mirrored=NAMES[::2])"
    )
    code = f"import sys; from test_encoding import *; {encode}"
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests/helpers", Path(__file__).parent)))
    environment = {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}
    killed = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(cache)], env=environment, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    features = encode_folder(folder, NAMES, encoder := Levels(), cache=cache, mirrored=NAMES[::2])
    mirrored = (COUNT + 1) // 2
    assert len(encoder.encoded) == COUNT + mirrored - BLOCK * 3 // 2  # all but the first block
    assert same(features, encode_folder(folder, NAMES, Levels(), mirrored=NAMES[::2]))
    encoder = Levels()
    assert same(
        features, encode_folder(folder, NAMES, encoder, cache=str(cache), mirrored=NAMES[::2])
    )
    assert encoder.encoded == []


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


def test_mirror_images_are_encoded_of_those_that_were_asked_for(folder: Path) -> None:
    class Ends:
        name, shape = "ends", (2,)

        def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
            return np.array([picture[0, [0, -1], 0] for picture in pictures], np.float32)

    for number in range(3):
        Image.fromarray(np.array([[number, 50 + number]], np.uint8)).save(
            folder / f"{number:03}.bmp"
        )
    (folder / "001.bmp").write_bytes(b"broken")
    unreadable: dict[str, str] = {}
    features = encode_folder(
        folder, NAMES[:3], Ends(), mirrored=iter(NAMES[1:3]), unreadable=unreadable
    )
    assert list(unreadable) == ["001.bmp"]
    assert {name: list(value) for name, value in features.items()} == {
        "000.bmp": [0, 50], "002.bmp": [2, 52], mirror_of("002.bmp"): [52, 2],
    }  # fmt: skip


@refusals(
    """
    [7] | thing: the encoder odd | got: of shape (2, 1) | expected: (2, 2)
    [1, 2, 3] | thing: the encoder odd | got: of shape (2, 3) | expected: (2, 2)
    [1, 1e300] | thing: '000.bmp' | got: not finite
    [1, float("nan")] | thing: '000.bmp' | got: not finite
    """,
    error=DataError,
    function="encode_folder",
)
def test_features_are_of_the_shape_that_the_encoder_says_and_finite(
    refusal: Refusal, folder: Path
) -> None:
    class Odd:
        name, shape = "odd", (2,)

        def __init__(self, feature: list[float]) -> None:
            self.feature = feature

        def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
            return np.array([self.feature for _ in pictures], np.float64)

    refusal.check(
        {**globals(), "folder": folder, "Odd": Odd}, "encode_folder(folder, NAMES[:2], Odd({}))"
    )


ROW = 16 + 16 + 16  # bytes of a row of the cache: key, checksum and feature
HEADER = b"xpcap features, 4 numbers a row\n"


@pytest.mark.parametrize(
    "damage", ["cut", "flipped feature", "flipped key", "no key", "no feature"]
)
def test_a_row_that_is_not_whole_is_made_again(damage: str, folder: Path, tmp_path: Path) -> None:
    """What a kill, or a failure of power with parts of the file not on disk, can leave of the last
    row.
    """
    cache = tmp_path / "cache"
    wanted = encode_folder(folder, NAMES, Levels(), cache=cache)
    whole = cache.read_bytes()
    row = whole[-ROW:]
    before, (digest, feature) = whole[:-ROW], (row[:32], row[32:])
    broken = {
        "cut": before + row[:-7],
        "flipped feature": before + digest + feature[:-1] + bytes([feature[-1] ^ 1]),
        "flipped key": before + bytes([digest[0] ^ 1]) + digest[1:] + feature,
        "no key": before + bytes(32) + feature,
        "no feature": before + digest + bytes(16),
    }
    cache.write_bytes(broken[damage])
    assert same(encode_folder(folder, NAMES, encoder := Levels(), cache=cache), wanted)
    assert len(encoder.encoded) == 1
    assert cache.read_bytes() == whole
    assert same(encode_folder(folder, NAMES, encoder := Levels(), cache=cache), wanted)
    assert encoder.encoded == []


def rows_of(content: bytes) -> list[bytes]:
    """The rows of a file of features, sorted: cores write theirs as they are done."""
    _, _, rows = content.partition(b"\n")
    return sorted(rows[start : start + ROW] for start in range(0, len(rows), ROW))


def test_what_a_kill_left_of_a_cache_that_was_being_made_is_filled(
    folder: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    wanted = encode_folder(folder, NAMES, Levels(), cache=cache)
    whole = cache.read_bytes()
    for size in (0, 200, len(whole) // 2):
        cache.write_bytes(whole[:size])
        assert same(encode_folder(folder, NAMES, Levels(), cache=cache), wanted)
        assert rows_of(cache.read_bytes()) == rows_of(whole)


def test_a_cache_is_one_process_at_a_time_and_gone_if_it_stays_empty(
    folder: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    with FeatureFile(cache, (4,)), refuses(DataError, thing="cache", got="is in use"):
        encode_folder(folder, NAMES, Levels(), cache=cache)
    assert not cache.exists()


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
    assert features[NAMES[BLOCK]][0] == 255
    assert same(features, encode_folder(folder, NAMES, Levels()))
    encode_folder(folder, NAMES, encoder := Levels("another"), cache=cache)
    assert len(encoder.encoded) == COUNT
    encode_folder(folder, NAMES, encoder := Levels(), cache=cache)  # the former's rows stay
    assert encoder.encoded == []
    with refuses(DataError, thing="cache", got="is another file"):
        encode_folder(folder, NAMES, Wider("wider"), cache=cache)


def test_no_other_file_is_written_to(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear")
    np.save(tmp_path / "mine.npy", np.zeros((COUNT, 4), np.float32))
    mine = (tmp_path / "mine.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(mine[:40])
    for name, got in (
        ("letter", "is another file"),
        ("mine.npy", "is another file"),
        ("cut.npy", "is another file"),
        ("photos", "a folder"),
    ):
        with refuses(DataError, got=got):
            encode_folder(folder, NAMES, Levels(), cache=tmp_path / name)
    assert (tmp_path / "letter").read_text() == "dear"
    assert [(tmp_path / name).read_bytes() for name in ("mine.npy", "cut.npy")] == [mine, mine[:40]]


def test_pictures_that_cannot_be_read_end_it_or_are_left_out_with_the_reason(
    folder: Path, tmp_path: Path
) -> None:
    (folder / NAMES[3]).write_bytes(b"not a picture")
    (folder / NAMES[60]).write_bytes(b"")
    with refuses(DataError, got="cannot be read as a picture"):
        encode_folder(folder, NAMES, Levels())
    unreadable: dict[str, str] = {}
    features = encode_folder(
        folder, NAMES, Levels(), cache=tmp_path / "cache", unreadable=unreadable
    )
    assert list(features) == [name for name in NAMES if name not in (NAMES[3], NAMES[60])]
    assert list(unreadable) == [NAMES[3], NAMES[60]]
    assert all(
        said in reason
        for said, reason in zip(("it is text", "is empty"), unreadable.values(), strict=True)
    )
    again: dict[str, str] = {}
    assert same(
        encode_folder(folder, NAMES, Levels(), cache=tmp_path / "cache", unreadable=again),
        features,
    )
    assert again == unreadable


@pytest.mark.threads
def test_no_block_is_begun_after_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xpcap.prepare.features.cores", lambda: 2)
    (folder / NAMES[3]).write_bytes(b"not a picture")
    failed = threading.Event()

    def read(path: Path) -> np.ndarray:
        try:
            return read_picture(path)
        except DataError:
            failed.set()
            raise

    class Waiting(Levels):
        def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
            failed.wait()
            return super().encode(pictures)

    monkeypatch.setattr("xpcap.prepare.features.read_picture", read)
    with refuses(DataError, got="cannot be read as a picture"):
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
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            encode_folder(folder, NAMES, encoder := Levels(), cache=cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(cache)
    done = (cache.stat().st_size - len(HEADER)) // ROW
    assert 0 < done < len(encoder.encoded)
    assert same(
        encode_folder(folder, NAMES, encoder := Levels(), cache=cache),
        encode_folder(folder, NAMES, Levels()),
    )
    assert len(encoder.encoded) == COUNT - done


WAITING = """
import sys
from xpcap.__main__ import main
from xpcap.encoders import HistogramEncoder
encode = HistogramEncoder.encode
def wait(self, pictures):
    print("encoding", flush=True)
    sys.stdin.readline()
    return encode(self, pictures)
HistogramEncoder.encode = wait
main()
"""


def test_a_second_command_is_refused_at_once_and_takes_nothing_from_the_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.csv").write_text("image,caption\n" + "".join(f"{name},a dog\n" for name in NAMES[:9]))
    command = "prepare train=c.csv --pictures photos --encoder histogram --out".split()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    first = subprocess.Popen(
        [sys.executable, "-c", WAITING, *command, "own.h5"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "encoding\n"
    for out in ("own.h5", "two.h5"):
        failing([*command, out], "photos.histogram.features is in use by another process")
    first.communicate("\n")
    assert first.returncode == 0
    good(*command, "alone.h5")
    assert Path("own.h5").read_bytes() == Path("alone.h5").read_bytes()
