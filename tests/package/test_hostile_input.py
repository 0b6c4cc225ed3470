"""Files made to fill the memory, to take for ever, or to lead elsewhere: each is refused in words,
and none gets what it asks for.
"""

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lying_files import black, chunk, png, saved, zeros
from PIL import Image
from refusals import refuses

from xpcap.data import Vocabulary
from xpcap.data.vocabulary import SPECIAL
from xpcap.encoders import HistogramEncoder, read_picture
from xpcap.encoders.kinds import same_encoder
from xpcap.errors import DataError, one_of
from xpcap.prepare import encode_folder, import_captions, read_captions, read_features
from xpcap.prepare.names import path_inside, roots_of
from xpcap.prepare.submission import read_submission

ROOT = Path(__file__).parents[2]


def refused(read: Callable[[], Any], *texts: str) -> None:
    with refuses(DataError, *texts) as caught:
        read()
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1000


def test_an_archive_may_be_as_compressed_as_it_likes_while_it_is_small(tmp_path: Path) -> None:
    zeros(tmp_path / "a.npz", (2, 2**22), "<f4")
    features = read_features(tmp_path / "a.npz")
    assert {name: feature.shape for name, feature in features.items()} == {
        "a": (2**22,),
        "b": (2**22,),
    }
    np.savez(
        tmp_path / "b.npz",
        names=np.array(["é", "\udce9"]),
        features=np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        other=np.zeros(3),
    )
    features = read_features(tmp_path / "b.npz")
    assert {name: feature.tolist() for name, feature in features.items()} == {
        "é": [0, 1, 2],
        "\udce9": [3, 4, 5],
    }


# Token files and lists


@pytest.mark.parametrize(
    "line",
    [
        "a#1" * 300_000,
        "#" * 900_000,
        "a#" + "1" * 900_000,
        " " * 900_000 + "x",
        "a#1" + "\t" * 900_000,
    ],
)
def test_long_lines_take_no_longer_than_they_are(line: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"a.jpg#0\ta dog\n{line}")
    assert len(read_captions([(None, tmp_path / "a.txt")])) == 1


def test_names_that_a_terminal_obeys_are_written_out() -> None:
    expected = one_of(["\x1b[31m", *map(str, range(50))], "a")
    assert r"'\x1b[31m', 0, 1" in expected
    assert "31 more" in expected


def test_texts_of_a_megabyte_are_no_work_for_a_lifetime(tmp_path: Path) -> None:
    """What takes the square of their length does not come back."""
    options, name = ":a=" * 300_000, "1" * 10**6 + "x"
    assert same_encoder(f"onnx:a.onnx{options}:sha256=ab", f"onnx:b.onnx{options}:sha256=ab")
    assert not same_encoder(f"onnx:a.onnx{options}", "onnx:a.onnx:sha256=ab")
    (tmp_path / "a.json").write_text(json.dumps({name: "a dog"}))
    assert read_submission(tmp_path / "a.json", [name]).captions == {name: "a dog"}


# Names of pictures


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a.jpg", "a.jpg"),
        ("deeper/a..b.jpg", "deeper/a..b.jpg"),
        ("../photos/./a.jpg", "a.jpg"),
        ("deeper/../a.jpg", "a.jpg"),
        ("{folder}/a.jpg", "a.jpg"),
        ("{target}/a.jpg", "a.jpg"),
        ("/etc/passwd", None),
        ("../a.jpg", None),
        ("../photos2/a.jpg", None),
        ("deeper/../../b.jpg", None),
        ("..", None),
        (".", None),
        ("a\0b", None),
    ],
)
def test_a_name_leads_to_a_path_inside_a_folder_or_nowhere(
    name: str, path: str | None, tmp_path: Path
) -> None:
    folder, target = tmp_path / "photos", tmp_path / "elsewhere"
    target.mkdir()
    folder.symlink_to(target)
    assert path_inside(roots_of(folder), name.format(folder=folder, target=target)) == path


def test_a_list_leads_to_no_picture_outside_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "secret.png")
    Image.new("RGB", (9, 9)).save(folder / "a.png")
    for name in ("../secret.png", str(tmp_path / "secret.png")):
        (tmp_path / "token.txt").write_text(f"{name}#0\ta dog")
        read = lambda: import_captions([(None, tmp_path / "token.txt")], pictures=folder)  # noqa: E731
        refused(read, "no picture left", f"{name!r} is not in", "where 'a.png'")
        refused(
            lambda name=name: encode_folder(folder, [name], HistogramEncoder()),  # type: ignore[misc]
            repr(name),
            "would be outside",
        )
    for name in ("a" * 5000, "\ud800.jpg", "none.jpg"):
        refused(
            lambda name=name: encode_folder(folder, [name], HistogramEncoder()),
            "1 of 1 pictures",
            "have no file in",
            repr(name[:50])[:-1],
        )  # type: ignore[misc]


# Vocabularies


@pytest.mark.parametrize("word", ["", " ", "a b", "a\n", "\u2003", "a\u00a0b", "\x1c", "\u2028a"])
def test_what_is_no_single_word_is_in_no_vocabulary(word: str) -> None:
    refused(
        lambda: Vocabulary([*SPECIAL, "dog", word]),
        repr(word),
        "white space",
    )


def test_the_courses_words_are_words(real_data: Path) -> None:
    Vocabulary(
        json.loads((real_data / "coco_mini" / "coco2014_vocab.json").read_text())["idx_to_word"]
    )


def test_exif_of_thousands_of_copies_of_itself_is_left_alone(tmp_path: Path) -> None:
    n = 20_000
    exif = (
        b"II*\0"
        + struct.pack("<IH", 8, n)
        + b"".join(struct.pack("<HHII", i, 1, 12 * n, 8) for i in range(n))
        + bytes(4)
    )
    pixels = chunk(b"IDAT", zlib.compress(bytes(25 * 8)))
    (tmp_path / "a.png").write_bytes(png(8, 8, chunk(b"eXIf", exif), pixels))
    assert read_picture(tmp_path / "a.png").shape == (8, 8, 3)


@pytest.mark.slow
def test_large_pictures_that_are_honest_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(black(7_000, 7_000))
    assert read_picture(tmp_path / "a.png").shape == (1024, 1024, 3)
    (tmp_path / "a.jpg").write_bytes(saved((50_000, 2_900), "JPEG"))
    assert read_picture(tmp_path / "a.jpg").shape == (59, 1024, 3)
    for size in ((5_000, 3_000), (3, 9_000)):
        for mode in ("I;16", "I", "F", "RGBA", "LA", "CMYK"):
            (tmp_path / "a.tif").write_bytes(saved(size, "TIFF", mode))
            assert read_picture(tmp_path / "a.tif").shape == (
                (614, 1024, 3) if size[0] > 3 else (1024, 1, 3)
            ), (mode, size)
