"""Files made to fill the memory, to take for ever, or to lead elsewhere: each is refused in words,
and none gets what it asks for.
"""

import io
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pytest
from effort import bounded_effort
from numpy.lib import format as npy
from refusals import refuses

Image = pytest.importorskip("PIL.Image")

from PIL import features as built  # noqa: E402 - after the skip

from xpcap.data import Vocabulary  # noqa: E402
from xpcap.data.vocabulary import SPECIAL  # noqa: E402
from xpcap.encoders import HistogramEncoder, read_picture  # noqa: E402
from xpcap.errors import DataError, unknown  # noqa: E402
from xpcap.prepare import encode_folder, import_captions, read_captions, read_features  # noqa: E402
from xpcap.prepare.features import escapes  # noqa: E402
from xpcap.prepare.text import read_list  # noqa: E402

ROOT = Path(__file__).parents[2]
MB = 1 << 20
# Of one process that meets all of these, and the largest pictures that are read: 1.13 GB measured
MOST_MEMORY = 1300 * MB


def header(shape: Any, descr: str) -> bytes:
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": descr})
    return file.getvalue()


GOOD = {"names.npy": header((2,), "|S1") + b"ab", "features.npy": header((2, 1), "<f4") + bytes(8)}


def archive(path: Path, compression: int = zipfile.ZIP_DEFLATED, **changed: bytes) -> None:
    """An .npz of members as they are given, in place of good ones."""
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in {
            **GOOD,
            **{f"{key}.npy": content for key, content in changed.items()},
        }.items():
            file.writestr(name, content)


def zeros(
    path: Path, shape: tuple[int, ...], descr: str, member: str = "features", **others: bytes
) -> None:
    """An .npz of which one member is an honest array of zeros, written without ever being held."""
    archive(path, **others)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in GOOD.keys() - {f"{member}.npy"}:
            file.writestr(name, others.get(name.removesuffix(".npy"), GOOD[name]))
        with file.open(f"{member}.npy", "w", force_zip64=True) as stream:
            stream.write(header(shape, descr))
            left = int(np.prod(shape)) * np.dtype(descr).itemsize
            while left:
                left -= stream.write(bytes(min(left, MB)))


def patched(path: Path, offset: int, value: bytes, member: bytes = b"features.npy") -> None:
    """An archive whose list of members says something else of one; what is said where is in the zip
    format's description.
    """
    archive(path)
    content = bytearray(path.read_bytes())
    entry = content.rindex(member) - 46
    assert content[entry : entry + 4] == b"PK\1\2"
    content[entry + offset : entry + offset + len(value)] = value
    path.write_bytes(content)


def endless_list(path: Path) -> None:
    """Three hundred thousand members."""
    entry = b"PK\1\2" + bytes(24) + struct.pack("<H", 1) + bytes(16) + b"a"
    with path.open("wb") as file:
        for _ in range(300):
            file.write(entry * 1000)
        file.write(
            b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 0xFFFE, 0xFFFE, len(entry) * 300_000, 0, 0)
        )


def two_of_a_name(path: Path) -> None:
    archive(path)
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("names.npy", GOOD["names.npy"])


def many_strange_names(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for i in range(1000):
            file.writestr(f"\x1b[31m{i}", b"")


ARCHIVES: dict[str, tuple[Callable[[Path], Any], dict[str, Any]]] = {
    "zeros without end": (
        lambda p: zeros(p, (2**27, 1), "<f4"),
        {"cause": ("features.npy would unpack to 536,871,040 bytes", "at most 200 times")},
    ),
    "the same name without end": (
        lambda p: zeros(
            p, (2**24,), "|S1", "names", features=header((2**24, 1), "<f2") + bytes(2**25)
        ),
        {"came": "names a picture twice among 16,777,216"},
    ),
    "shape beyond the bytes": (
        lambda p: archive(p, features=header((2**40, 2**20), "<f4") + bytes(8)),
        {"cause": ("shape (1099511627776, 1048576)", "do not make up")},
    ),
    "shape below them": (
        lambda p: archive(p, features=header((2, 1), "<f4") + bytes(9)),
        {"cause": ("shape (2, 1)", "do not make up")},
    ),
    "shape below nothing": (
        lambda p: archive(p, features=header((-2, -1), "<f4") + bytes(8)),
        {"came": "cannot be read as .npz"},
    ),
    "text of any length": (
        lambda p: archive(p, names=header((2,), "<U100000000")),
        {"cause": ("dtype <U100000000", "do not make up")},
    ),
    "text of no length": (
        lambda p: archive(p, names=header((2**50,), "<U0")),
        {"thing": "features", "came": "have shape (2, 1)"},
    ),
    "text that is none": (
        lambda p: archive(p, names=header((2,), "<U1") + b"\xff" * 8),
        {"thing": "'names'", "came": "holds a character of number 4,294,967,295"},
    ),
    "objects": (
        lambda p: archive(p, names=header((3,), "|O") + b"cos\nsystem\n(S'true'\ntR. "),
        {"cause": "Object arrays cannot be loaded"},
    ),
    "a header without end": (
        lambda p: archive(p, names=b"\x93NUMPY\2\0\xff\xff\xff\xff"),
        {"came": "cannot be read as .npz"},
    ),
    "a header that nests": (
        lambda p: archive(p, names=b"\x93NUMPY\1\0\x10\x27" + b"(" * 9999 + b"\n"),
        {"came": "cannot be read as .npz"},
    ),
    "a header that computes": (
        lambda p: archive(
            p, names=b"\x93NUMPY\1\0\x20\0" + b"__import__('os').abort()".ljust(31) + b"\n"
        ),
        {"came": "cannot be read"},
    ),
    "another version": (
        lambda p: archive(p, names=b"\x93NUMPY\3\0" + GOOD["names.npy"][8:]),
        {"came": "cannot be read as .npz"},
    ),
    "lzma": (lambda p: archive(p, zipfile.ZIP_LZMA), {"cause": "uses another compression"}),
    "encrypted": (lambda p: patched(p, 8, b"\1\0"), {"cause": ("features.npy", "is encrypted")}),
    "claims to be larger": (
        lambda p: patched(p, 24, struct.pack("<I", 2**31)),
        {"cause": "features.npy would unpack to 2,147,483,648 bytes"},
    ),
    "claims to be compressed less": (
        lambda p: patched(p, 20, struct.pack("<II", 2**31, 2**31)),
        {"cause": "features.npy would unpack to 2,147,483,648 bytes"},
    ),
    "claims to be smaller": (
        lambda p: patched(p, 24, struct.pack("<I", 130)),
        {"cause": "Bad CRC-32"},
    ),
    "damaged in the middle": (lambda p: patched(p, 16, b"\1\2\3\4"), {"cause": "Bad CRC-32"}),
    "members without end": (endless_list, {"cause": "a list of members of 14,100,000 bytes"}),
    "a name twice": (
        two_of_a_name,
        {
            "came": "holds 'names', 'features', 'names'",
            "expected": "'names', 'features', each once",
        },
    ),
    "names that a terminal obeys": (
        many_strange_names,
        {
            "came": ("holds '\\x1b[31m0',", "and 990 more"),
            "expected": "'names', 'features', each once",
        },
    ),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_that_lies_is_refused(name: str, tmp_path: Path) -> None:
    make, fields = ARCHIVES[name]
    make(tmp_path / "a.npz")
    refused(lambda: read_features(tmp_path / "a.npz"), "a.npz", **fields)


def read_one(path: Path) -> Any:
    return read_captions([(None, path)])


def refused(read: Callable[[], Any], about: str = "", **fields: str | tuple[str, ...]) -> None:
    with bounded_effort(), refuses(DataError, **fields) as caught:
        read()
    assert about in caught.value.thing
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


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def test_text_files_without_end_are_not_read(tmp_path: Path) -> None:
    for read in (read_one, read_list):
        refused(
            lambda read=read: read(sparse(tmp_path / "a.txt", 256 * MB + 1)),
            function="read_captions" if read is read_one else "read_list",
            came="268,435,457 bytes",
            expected="at most 256 MB",
        )  # type: ignore[misc]
        if hasattr(os, "mkfifo"):
            os.mkfifo(tmp_path / f"{read.__name__}.pipe")
            for path in (tmp_path / f"{read.__name__}.pipe", Path("/dev/zero")):
                refused(
                    lambda read=read, path=path: read(path),
                    came="a pipe or a device",
                    cause="is the path right?",
                )  # type: ignore[misc]
    if hasattr(os, "mkfifo"):
        refused(lambda: read_features(tmp_path / "read_list.pipe"), came="is a pipe or a device")


def test_the_last_of_many_names_is_found_to_be_there_twice_at_once(tmp_path: Path) -> None:
    names = "\n".join(map(str, range(300_000)))
    (tmp_path / "a.txt").write_text(f"{names}\n299999\n")
    refused(lambda: read_list(tmp_path / "a.txt"), came="lists '299999' twice")


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
    (tmp_path / "a.txt").write_text(line)
    refused(lambda: read_one(tmp_path / "a.txt"), came="is of no form known here")
    (tmp_path / "a.txt").write_text(f"a.jpg#0\ta dog\n{line}")
    with bounded_effort():
        assert len(read_one(tmp_path / "a.txt")) == 1


def test_names_that_a_terminal_obeys_are_written_out(tmp_path: Path) -> None:
    long = "\x1b[31m\u202e" + "x" * 10_000
    (tmp_path / "a.txt").write_text(f"{long}\n{long}", encoding="utf-8")
    refused(lambda: read_one(tmp_path / "a.txt"), came=r"its first line is '\x1b[31m\u202exxx")
    (tmp_path / "a.txt").write_text(f"{long}\n{long}", encoding="utf-8")
    refused(lambda: read_list(tmp_path / "a.txt"), came=r"lists '\x1b[31m\u202exxx")
    refused(
        lambda: (_ for _ in ()).throw(
            unknown("f", "split", "a", ["\x1b[31m", *map(str, range(50))], DataError)
        ),
        expected=(r"'\x1b[31m', 0, 1", "31 more"),
    )


# Names of pictures


@pytest.mark.parametrize(
    ("name", "posix", "windows"),
    [
        ("a.jpg", False, False),
        ("deeper/a..b.jpg", False, False),
        ("/etc/passwd", True, True),
        ("../a.jpg", True, True),
        ("a/../../b.jpg", True, True),
        ("..", True, True),
        ("a\0b", True, True),
        ("..\\a.jpg", False, True),
        ("C:a.jpg", False, True),
        ("C:\\a.jpg", False, True),
        ("\\\\server\\share\\a.jpg", False, True),
    ],
)
def test_names_that_climb_are_told_from_those_that_do_not(
    name: str, posix: bool, windows: bool
) -> None:
    assert escapes(name, PurePosixPath) is posix
    assert escapes(name, PureWindowsPath) is windows


def test_a_list_leads_to_no_picture_outside_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "secret.png")
    for name in ("../secret.png", str(tmp_path / "secret.png")):
        (tmp_path / "token.txt").write_text(f"{name}#0\ta dog")
        (tmp_path / "list.txt").write_text(name)
        lists = {"train": tmp_path / "list.txt"}
        read = lambda lists=lists: import_captions(  # noqa: E731
            [(None, tmp_path / "token.txt")], lists=lists, min_count=1, pictures=folder
        )
        refused(read, repr(name), came="would lie outside", cause="who wrote the list?")
    for name in ("a" * 5000, "\ud800.jpg", "none.jpg"):
        refused(
            lambda name=name: encode_folder(folder, [name], HistogramEncoder()),
            "1 of 1 pictures",
            came=("have no file in", repr(name[:50])[:-1]),
        )  # type: ignore[misc]


# Vocabularies


@pytest.mark.parametrize("word", ["", " ", "a b", "a\n", "\u2003", "a\u00a0b", "\x1c", "\u2028a"])
def test_what_is_no_single_word_is_in_no_vocabulary(word: str) -> None:
    refused(
        lambda: Vocabulary([*SPECIAL, "dog", word]),
        repr(word),
        function="Vocabulary",
        came="white space",
    )


def test_the_courses_words_are_words(real_data: Path) -> None:
    import json

    Vocabulary(
        json.loads((real_data / "coco_mini" / "coco2014_vocab.json").read_text())["idx_to_word"]
    )


# Pictures


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png(width: int, height: int, *chunks: bytes) -> bytes:
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + b"".join(chunks)
        + chunk(b"IEND", b"")
    )


def black(width: int, height: int) -> bytes:
    """A PNG of zeros, compressed a thousandfold, that is made without holding them."""
    squeeze = zlib.compressobj()
    row = bytes(1 + 3 * width)
    return png(
        width,
        height,
        chunk(
            b"IDAT", b"".join([*(squeeze.compress(row) for _ in range(height)), squeeze.flush()])
        ),
    )


def saved(size: tuple[int, int], form: str, mode: str = "L", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, form, **options)
    return file.getvalue()


def sized(jpeg: bytes, width: int, height: int) -> bytes:
    """A JPEG whose frame says that it has another size."""
    at = max(jpeg.find(b"\xff\xc0"), jpeg.find(b"\xff\xc2"))
    return jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]


def tiff(width: int, height: int, rows: int, compression: int = 8) -> bytes:
    """The header of a grey TIFF, and nothing else."""
    entries = (
        (256, width),
        (257, height),
        (258, 8),
        (259, compression),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, rows),
        (279, 9),
    )
    return (
        b"II*\0"
        + struct.pack("<IH", 8, len(entries))
        + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
        + bytes(4)
    )


def webp(width: int, height: int) -> bytes:
    """The header of a lossless WebP, and nothing else."""
    bits = struct.pack("<I", (width - 1) | (height - 1) << 14)
    return (
        b"RIFF"
        + struct.pack("<I", 22)
        + b"WEBPVP8L"
        + struct.pack("<I", 10)
        + b"\x2f"
        + bits
        + bytes(5)
    )


def gif(screen: tuple[int, int], frame: tuple[int, int]) -> bytes:
    """A GIF of one small frame that claims these sizes."""
    sizes = (struct.pack("<HH", *size) for size in (screen, frame))
    return (
        b"GIF89a"
        + next(sizes)
        + b"\x80\0\0"
        + bytes(6)
        + b","
        + bytes(4)
        + next(sizes)
        + b"\0\x02\x02D\x01\0;"
    )


MOST = f"at most {Image.MAX_IMAGE_PIXELS:,}"
COLOUR = {"mode": "RGB", "subsampling": 0}
PICTURES: dict[str, tuple[Callable[[], bytes], dict[str, Any]]] = {
    "90 million zeros.png": (
        lambda: black(9_500, 9_500),
        {"came": "9500 x 9500 pixels", "expected": MOST},
    ),
    "no pixel.png": (lambda: png(90_001, 1_000), {"expected": MOST}),
    "text.png": (
        lambda: png(8, 8, *[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100 * MB)))]),
        {"cause": "damaged"},
    ),
    "texts.png": (
        lambda: png(
            8,
            8,
            *[chunk(b"zTXt", b"a%d\0\0" % i + zlib.compress(bytes(1_000_000))) for i in range(100)],
        ),
        {"cause": "damaged"},
    ),
    "profile.png": (
        lambda: png(8, 8, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(100 * MB)))),
        {"cause": "damaged"},
    ),
    "chunk beyond the end.png": (
        lambda: png(8, 8)[:-12] + struct.pack(">I", 2**31 - 1) + b"IDAT",
        {"cause": "damaged"},
    ),
    "baseline.jpg": (
        lambda: sized(saved((80, 80), "JPEG", "RGB"), 60_000, 3_000),
        {"came": "too many pixels"},
    ),
    "progressive.jpg": (
        lambda: sized(saved((80, 80), "JPEG", progressive=True), 14_000, 14_000),
        {"came": "too many pixels"},
    ),
    "screen.gif": (lambda: gif((9_500, 9_500), (1, 1)), {"came": "9500 x 9500", "expected": MOST}),
    "frame.gif": (lambda: gif((1, 1), (65_535, 65_535)), {"came": "too many pixels"}),
    "large.tif": (lambda: tiff(9_500, 9_500, 8), {"expected": MOST}),
    "one strip.tif": (lambda: tiff(9_500, 9_500, 9_500), {"expected": MOST}),
    "no data.tif": (lambda: tiff(7000, 7000, 7000, 1), {"cause": "damaged"}),
    "plain.ppm": (lambda: b"P3 9500 9500 255\n", {"expected": MOST}),
    "fine.ppm": (lambda: b"P6 9500 9500 65535\n", {"expected": MOST}),
    "broken off.png": (lambda: black(7000, 7000)[:20_000], {"cause": "damaged"}),
    "broken off.jpg": (lambda: saved((5000, 5000), "JPEG")[:20_000], {"cause": "damaged"}),
    "broken off.gif": (lambda: saved((5000, 5000), "GIF")[:5_000], {"cause": "damaged"}),
}
if built.check("webp"):
    PICTURES["large.webp"] = (
        lambda: webp(9_000, 5_000),
        {"came": "9000 x 5000 pixels, which count double in WEBP", "expected": MOST},
    )
    PICTURES["no pixel.webp"] = (lambda: webp(4_000, 4_000), {"cause": "damaged"})


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_that_lies_is_refused(name: str, tmp_path: Path) -> None:
    make, fields = PICTURES[name]
    (tmp_path / name).write_bytes(make())
    refused(lambda: read_picture(tmp_path / name), name, function="read_picture", **fields)


def test_a_file_too_long_for_a_picture_is_not_opened(tmp_path: Path) -> None:
    refused(
        lambda: read_picture(sparse(tmp_path / "a.webp", 256 * MB + 1)),
        came="268,435,457 bytes",
        expected="at most 256 MB",
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


# All of them


LARGEST: dict[
    str, Callable[[], bytes]
] = {  # a hair below the limits, of formats that take little, more and most memory
    "largest.png": lambda: black(9_450, 9_460),
    "largest.jpg": lambda: saved((60_000, 2_900), "JPEG"),
    "largest progressive.jpg": lambda: sized(
        saved((80, 80), "JPEG", progressive=True, **COLOUR), 13_000, 13_700
    ),
}
if built.check("webp"):
    LARGEST["largest.webp"] = lambda: saved(
        (16_000, 2_795), "WEBP", "RGB", lossless=True, quality=0, method=0
    )


def meet_all(folder: Path) -> None:
    """Everything above in one process, made beforehand."""
    for name in ARCHIVES:
        with pytest.raises(DataError):
            read_features(folder / f"{name}.npz")
    for name in PICTURES:
        with pytest.raises(DataError):
            read_picture(folder / name)
    for read in (read_one, read_list):
        with pytest.raises(DataError):
            read(folder / "long.txt")
    for name in LARGEST:
        read_picture(folder / name)


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="Linux tells the most memory that a process held"
)
def test_all_of_them_together_take_little_memory(tmp_path: Path) -> None:
    for name, (spoil, _) in ARCHIVES.items():
        spoil(tmp_path / f"{name}.npz")
    for name, (make, _) in PICTURES.items():
        (tmp_path / name).write_bytes(make())
    sparse(tmp_path / "long.txt", 300 * MB)
    for name, make in LARGEST.items():
        (tmp_path / name).write_bytes(make())
    code = (
        "import sys; from pathlib import Path; from test_hostile_input import"
        " meet_all\nmeet_all(Path(sys.argv[1]))\nprint(next(line for line in"
        " open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            map(str, (ROOT, ROOT / "tests/helpers", ROOT / "tools", Path(__file__).parent))
        ),
    }
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert int(result.stdout) * 1024 < MOST_MEMORY
