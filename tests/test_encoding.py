"""Whole folders of pictures to features: on all cores, killed and gone on with, and what is kept meanwhile."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image")

from xpcap.errors import DataError  # noqa: E402
from xpcap.prepare import encode_folder  # noqa: E402 - after the skip
from xpcap.prepare.features import BLOCK, mirror_of  # noqa: E402

ROOT = Path(__file__).parent.parent
COUNT = 5 * BLOCK + 3


class Batchwise:
    """An encoder whose features depend on which pictures come together, as some networks' last bits do. It notes what it encoded."""

    shape = (4,)

    def __init__(self, name: str = "batchwise", fatal: int | None = None) -> None:
        self.name, self.fatal = name, fatal
        self.encoded: list[int] = []
        self.threads: set[int] = set()

    def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        levels = [int(picture[0, 0, 0]) for picture in pictures]
        self.encoded += levels
        self.threads.add(threading.get_ident())
        if self.fatal is not None and len(self.encoded) > self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.array([[level, sum(levels), len(levels), 1 / 3] for level in levels], np.float32)


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
    features = encode_folder(folder, NAMES[::-1], Batchwise())
    assert list(features) == NAMES[::-1]
    assert [int(feature[0]) for feature in features.values()] == list(range(COUNT))[::-1]
    assert all((feature.shape, feature.dtype) == ((4,), np.float32) for feature in features.values())


@pytest.mark.threads
def test_pictures_are_encoded_on_several_cores(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xpcap.prepare.features.cores", lambda: 2)
    both = threading.Barrier(2, timeout=60)

    class Together(Batchwise):
        def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
            both.wait()
            return super().encode(pictures)

    encode_folder(folder, NAMES[: 4 * BLOCK], encoder := Together())
    assert len(encoder.threads) == 2


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_killed_encoding_goes_on_where_it_was_with_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    encode = "encode_folder(sys.argv[1], NAMES, Batchwise(fatal=2 * BLOCK), kept=sys.argv[2], mirrored=NAMES[::2])"
    code = f"import sys; from test_encoding import *; {encode}"
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", code, str(folder), str(kept)], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    features = encode_folder(folder, NAMES, encoder := Batchwise(), kept=kept, mirrored=NAMES[::2])
    assert len(encoder.encoded) == COUNT - BLOCK + (COUNT + 1 - BLOCK) // 2  # all but the first block and its mirror images
    assert same(features, encode_folder(folder, NAMES, Batchwise(), mirrored=NAMES[::2]))
    encoder = Batchwise()
    assert same(features, encode_folder(folder, NAMES, encoder, kept=str(kept), mirrored=NAMES[::2]))
    assert encoder.encoded == []
    plain = encode_folder(folder, NAMES, encoder, kept=kept)
    assert (list(plain), encoder.encoded) == (NAMES, [])  # they are kept under keys of their own


def test_mirror_images_are_encoded_of_those_that_were_asked_for(folder: Path) -> None:
    class Ends:
        name, shape = "ends", (2,)

        def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
            return np.array([picture[0, [0, -1], 0] for picture in pictures], np.float32)

    for number in range(3):
        Image.fromarray(np.array([[number, 50 + number]], np.uint8)).save(folder / f"{number:03}.bmp")
    (folder / "001.bmp").write_bytes(b"broken")
    unreadable: dict[str, str] = {}
    features = encode_folder(folder, NAMES[:3], Ends(), mirrored=NAMES[1:3], unreadable=unreadable)
    assert list(unreadable) == ["001.bmp"]
    assert {name: list(value) for name, value in features.items()} == {
        "000.bmp": [0, 50], "002.bmp": [2, 52], mirror_of("002.bmp"): [52, 2],
    }  # fmt: skip


@pytest.mark.parametrize("damage", ["cut", "flipped", "begun"])
def test_a_damaged_end_is_made_again(damage: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xpcap.prepare.features.cores", lambda: 1)  # blocks are kept in their order
    kept = tmp_path / "kept"
    wanted = encode_folder(folder, NAMES, Batchwise(), kept=kept)
    whole = kept.read_bytes()
    broken = {"cut": whole[:-7], "flipped": whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:], "begun": whole[:11]}[damage]
    kept.write_bytes(broken)
    assert same(encode_folder(folder, NAMES, encoder := Batchwise(), kept=kept), wanted)
    assert len(encoder.encoded) == (COUNT if damage == "begun" else 3)
    assert same(encode_folder(folder, NAMES, encoder := Batchwise(), kept=kept), wanted)
    assert encoder.encoded == []


def test_what_another_encoder_made_or_from_another_picture_is_made_again(folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    encode_folder(folder, NAMES, Batchwise(), kept=kept)
    place = folder / NAMES[BLOCK]
    before = place.stat()
    Image.new("L", (4, 4), 255).save(place)
    os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000_000))
    assert place.stat().st_size == before.st_size  # its time alone gives it away
    features = encode_folder(folder, NAMES, encoder := Batchwise(), kept=kept)
    assert len(encoder.encoded) == BLOCK
    assert features[NAMES[BLOCK]][0] == 255
    assert same(features, encode_folder(folder, NAMES, Batchwise()))
    encode_folder(folder, NAMES, encoder := Batchwise("another"), kept=kept)
    assert len(encoder.encoded) == COUNT


def test_no_other_file_and_no_link_is_written_to(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for name, says in (("letter", "is another file"), ("link", "is a link"), ("photos", "a folder")):
        with pytest.raises(DataError, match=says):
            encode_folder(folder, NAMES, Batchwise(), kept=tmp_path / name)
    assert (tmp_path / "letter").read_text() == "dear"
    assert not (tmp_path / "nothing").exists()


def test_pictures_that_cannot_be_read_end_it_or_are_left_out_with_the_reason(folder: Path, tmp_path: Path) -> None:
    (folder / NAMES[3]).write_bytes(b"not a picture")
    (folder / NAMES[60]).write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read as a picture"):
        encode_folder(folder, NAMES, Batchwise())
    unreadable: dict[str, str] = {}
    features = encode_folder(folder, NAMES, Batchwise(), kept=tmp_path / "kept", unreadable=unreadable)
    assert list(features) == [name for name in NAMES if name not in (NAMES[3], NAMES[60])]
    assert list(unreadable) == [NAMES[3], NAMES[60]]
    assert all(said in reason for said, reason in zip(("it is text", "is empty"), unreadable.values(), strict=True))
    again: dict[str, str] = {}
    assert same(encode_folder(folder, NAMES, Batchwise(), kept=tmp_path / "kept", unreadable=again), features)
    assert again == unreadable


@pytest.mark.threads
def test_no_block_is_begun_after_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xpcap.prepare.features.cores", lambda: 2)
    (folder / NAMES[3]).write_bytes(b"not a picture")
    failed = threading.Event()

    class Waiting(Batchwise):
        def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
            try:
                return super().encode(pictures)
            except DataError:
                failed.set()
                raise
            finally:
                assert failed.wait(60)

    with pytest.raises(DataError, match="cannot be read as a picture"):
        encode_folder(folder, NAMES, encoder := Waiting())
    assert len(encoder.encoded) <= 2 * BLOCK  # what the other core was at, and at most one more


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files, which stands for a full disk")
def test_a_full_disk_is_an_error_that_names_the_file_and_what_was_kept_counts(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr("xpcap.prepare.features.cores", lambda: 1)
    kept = tmp_path / "kept"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            encode_folder(folder, NAMES, Batchwise(), kept=kept)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(kept)
    features = encode_folder(folder, NAMES, encoder := Batchwise(), kept=kept)
    assert 0 < len(encoder.encoded) < COUNT
    assert same(features, encode_folder(folder, NAMES, Batchwise()))
