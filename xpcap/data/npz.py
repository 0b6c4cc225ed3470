"""Arrays from an .npz archive that nobody vouches for; large uncompressed ones stay on disk."""

import io
import math
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from xpcap.data.features import IN_MEMORY, Stored
from xpcap.errors import DataError
from xpcap.files import size_of

FREE = 64 << 20  # bytes: arrays up to this size may be compressed as much as they like
RATIO = 200  # most times that a larger array may exceed its file; real features stay far below
BLOCK = 1 << 20  # bytes read at once, and the longest list of members


class BoundedReader(io.BufferedReader):
    """A file that refuses large reads: zipfile would read a list of members of any length."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > BLOCK:
            raise ValueError(f"a list of members of {size:,} bytes, expected at most {BLOCK:,}")
        return super().read(size)


def read_npz(path: Path, names: Sequence[str]) -> list[np.ndarray | Stored]:
    """Read the arrays called `names`; all else in the archive is ignored.

    An array of more than 64 MB of floats that is not compressed, and lies there row by row, is
    `Stored`: read once, for its checksum, it stays on disk.

    DataError : no .npz, one without these arrays, objects in them, or other bytes than it claims to
        hold. OSError : it cannot be opened.
    """
    expected = f"an .npz with {_listed(names)}"
    size = size_of("read_npz", path, expected)
    with BoundedReader(io.FileIO(path)) as file:
        if file.peek(6)[:6] == npy.MAGIC_PREFIX:
            raise DataError("read_npz", path, "is a single array", expected)
        try:
            with zipfile.ZipFile(file) as archive:
                held = [name.removesuffix(".npy") for name in archive.namelist()]
                if any(held.count(name) != 1 for name in names):
                    got = f"holds {_listed(held) or 'nothing'}"
                    raise DataError("read_npz", path, got, f"{_listed(names)}, each once")
                most = max(FREE, RATIO * size)
                return [_array(path, archive, f"{name}.npy", most) for name in names]
        except DataError:
            raise
        # damaged archives raise errors of many types, from zipfile, zlib and NumPy
        except Exception as error:
            got, cause = (
                "cannot be read as .npz",
                f"truncated, or of another kind? ({error!r:.200})",
            )
            raise DataError("read_npz", path, got, _listed(names), cause) from error


def _array(path: Path, archive: zipfile.ZipFile, name: str, most: int) -> np.ndarray | Stored:
    member = archive.getinfo(name)
    stored = member.compress_type == zipfile.ZIP_STORED
    if not stored and member.compress_type != zipfile.ZIP_DEFLATED:  # read by no block
        raise ValueError(f"{name} uses another compression than stored or deflated")
    if member.file_size > most:
        raise ValueError(
            f"{name} would unpack to {member.file_size:,} bytes, expected at most {RATIO} times the"
            " size of the file"
        )
    # zipfile compares the checksum when the last byte has been read
    with archive.open(member) as stream:
        version = npy.read_magic(stream)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, by_column, dtype = read_header(stream)
        size = math.prod(shape) * dtype.itemsize
        if size != member.file_size - stream.tell():
            raise ValueError(
                f"{name} has shape {str(shape)[:60]} and dtype {str(dtype)[:60]}, which"
                f" {member.file_size:,} bytes do not make up"
            )
        if size > IN_MEMORY and dtype.kind == "f" and stored and shape and not by_column:
            start = _content(path, member) + stream.tell()
            while stream.read(BLOCK):
                pass
            return Stored(path, start, size // shape[0], shape, dtype)
    with archive.open(member) as stream:
        return np.load(stream, allow_pickle=False)


def _content(path: Path, member: zipfile.ZipInfo) -> int:
    """Offset of a member's content, behind a header of 30 bytes, its name and its extra field."""
    with path.open("rb", buffering=0) as file:
        file.seek(member.header_offset + 26)
        return member.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
    return ", ".join(repr(name[:100]) for name in names[:10]) + more
