"""Reads arrays from an .npz archive that nobody vouches for: its claims are checked before memory is allocated."""

import io
import math
import stat
import struct
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from xpcap.data.features import IN_MEMORY, Stored
from xpcap.errors import DataError

FREE = 64 << 20  # bytes: arrays up to this size may be compressed as much as they like
RATIO = 200  # most times that a larger array may exceed its compressed size; real features stay far below
BLOCK = 1 << 20  # bytes read at once, and the longest list of members
KINDS = "fiubUS"  # kinds of dtypes that are read: numbers and text


def read_npz(path: Path, names: Sequence[str]) -> list[Any]:
    """Read the arrays called `names`; whatever else the archive holds is ignored.

    Returns
    -------
    arrays; one of more than 64 MB of floats that is not compressed, and lies there row by row, is `Stored`: it has been read once, for its checksum, and
        stays on disk

    Raises
    ------
    DataError : no .npz, one without these arrays, or one that lies about its contents. OSError : it cannot be opened.
    """
    if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():  # opening a pipe would wait for a writer; opening a folder raises anyway
        raise DataError(f"read_npz: {path} is a pipe or a device, expected an .npz file; is the path right?")
    with Sparing(io.FileIO(path)) as file:
        if file.peek(6)[:6] == npy.MAGIC_PREFIX:
            raise DataError(f"read_npz: {path} is a single array, expected an .npz with {_listed(names)}")
        try:
            with zipfile.ZipFile(file) as archive:
                return [_array(path, archive, member) for member in _members(archive, names, path)]
        except DataError:
            raise
        except Exception as error:  # damaged archives raise errors of many types, from zipfile, zlib and NumPy
            raise DataError(
                f"read_npz: {path} cannot be read as .npz, expected {_listed(names)}; truncated, or of another kind? ({str(error)[:200]!r})"
            ) from error


class Sparing(io.BufferedReader):
    """A file that refuses large reads: zipfile would read a list of members of any length."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > BLOCK:
            raise ValueError(f"a list of members of {size:,} bytes, expected at most {BLOCK:,}")
        return super().read(size)


def _members(archive: zipfile.ZipFile, names: Sequence[str], path: Path) -> list[zipfile.ZipInfo]:
    """The members that hold these arrays, each of them once."""
    held = [info.filename.removesuffix(".npy") for info in archive.infolist()]
    if missing := [name for name in names if f"{name}.npy" not in archive.NameToInfo]:
        raise DataError(f"read_npz: {path} holds {_listed(held) or 'nothing'} and lacks {_listed(missing)}, expected {_listed(names)}")
    for name in names:
        if held.count(name) > 1:
            raise ValueError(f"{name} is there {held.count(name)} times")
    return [archive.getinfo(f"{name}.npy") for name in names]


def _array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Any:
    """Read one array from an archive."""
    most = path.stat().st_size
    if member.flag_bits & 0x1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename} is encrypted, or compressed in a way of its own")
    if member.compress_size > most:
        raise ValueError(f"{member.filename} is to take {member.compress_size:,} bytes of a file of {most:,}")
    if member.file_size > max(FREE, RATIO * member.compress_size):
        raise ValueError(
            f"{member.filename} is to hold {member.file_size:,} bytes in {member.compress_size:,}, expected at most {RATIO} times as many"
        )
    with archive.open(member) as stream:
        shape, by_column, dtype = _header(stream)
        size = math.prod(shape) * dtype.itemsize
        if dtype.kind not in KINDS or not dtype.itemsize or dtype.hasobject:
            raise ValueError(f"{member.filename} has dtype {str(dtype)[:60]}, expected numbers or text")
        if min(shape, default=0) < 0 or size != member.file_size - stream.tell():
            raise ValueError(f"{member.filename} has shape {str(shape)[:60]} and dtype {dtype}, which {member.file_size:,} bytes do not make up")
        if size > IN_MEMORY and dtype.kind == "f" and member.compress_type == zipfile.ZIP_STORED and shape and shape[0] and not by_column:
            start = _content(path, member) + stream.tell()
            _skim(stream, size)
            return Stored(path, start, size // shape[0], shape, dtype)
        flat = _fill(stream, size).view(dtype)
    return flat.reshape(shape[::-1]).T if by_column else flat.reshape(shape)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = npy.read_magic(stream)
    if version == (1, 0):
        return npy.read_array_header_1_0(stream)
    if version == (2, 0):
        return npy.read_array_header_2_0(stream)
    raise ValueError(f"an array in version {version} of its format, expected (1, 0) or (2, 0)")


def _fill(stream: IO[bytes], size: int) -> np.ndarray:
    """Read `size` bytes and the end after them, where zipfile compares the checksum."""
    content = np.empty(size, np.uint8)
    start = 0
    for part in _parts(stream, size):
        content[start : start + len(part)] = np.frombuffer(part, np.uint8)
        start += len(part)
    return content


def _skim(stream: IO[bytes], size: int) -> None:
    """The same, kept nowhere."""
    for _ in _parts(stream, size):
        pass


def _parts(stream: IO[bytes], size: int) -> Iterator[bytes]:
    for start in range(0, size, BLOCK):
        part = stream.read(min(BLOCK, size - start))
        if start + len(part) < min(size, start + BLOCK):
            raise EOFError(f"the archive ends {size - start - len(part):,} bytes before an array does")
        yield part
    stream.read(1)


def _content(path: Path, member: zipfile.ZipInfo) -> int:
    """Where in the file the content of a member begins: behind a header of 30 bytes, the name and the extra field."""
    with path.open("rb", buffering=0) as file:
        file.seek(member.header_offset + 26)
        return member.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
    return ", ".join(repr(name[:100]) for name in names[:10]) + more
