"""Archives and pictures that lie, made byte by byte."""

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy
from PIL import Image

MB = 1 << 20


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
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
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


def two_of_a_name(path: Path) -> None:
    archive(path)
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("names.npy", GOOD["names.npy"])


def many_strange_names(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for i in range(1000):
            file.writestr(f"\x1b[31m{i}", b"")


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


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
    """A PNG of zeros, compressed two hundredfold, that is made without holding them."""
    squeeze = zlib.compressobj(1)
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
