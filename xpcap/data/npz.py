"""Read arrays of an .npz archive; large uncompressed ones stay on disk."""

import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from xpcap.data.features import IN_MEMORY
from xpcap.errors import DataError
from xpcap.files.read_write import size_of

CHUNK_BYTES = 1 << 20


def read_npz(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """Read the arrays called `names`; others in the archive are ignored.

    An uncompressed array of more than 64 MB of floats is memory-mapped, so the file must not change
    later; it is read once, to verify its checksum.

    DataError : it is not an .npz, lacks an array, has arrays of objects, or is damaged.
        OSError : it cannot be opened.
    """
    expected = f"an .npz with {_listed(names)}"
    size_of(path, expected)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name.removesuffix(".npy") for name in archive.namelist()]
            if any(members.count(name) != 1 for name in names):
                raise DataError(
                    f"{path} holds {_listed(members) or 'nothing'}, expected {_listed(names)}, each"
                    " once"
                )
            return [_array(path, archive, f"{name}.npy") for name in names]
    except DataError:
        raise
    # Damaged archives raise errors of many types, from zipfile, zlib and NumPy
    except Exception as error:
        raise DataError(
            f"{path} cannot be read as .npz, expected {expected}; cut short, or of another kind?"
            f" ({error!r:.200})"
        ) from error


def _array(path: Path, archive: zipfile.ZipFile, name: str) -> np.ndarray:
    member = archive.getinfo(name)
    if member.compress_type == zipfile.ZIP_STORED and member.file_size > IN_MEMORY:
        with archive.open(member) as stream:
            old = npy.read_magic(stream) == (1, 0)
            read_header = npy.read_array_header_1_0 if old else npy.read_array_header_2_0
            shape, by_column, dtype = read_header(stream)
            start = stream.tell()
            while stream.read(CHUNK_BYTES):  # at the end, zipfile verifies the checksum
                pass
        if dtype.kind == "f" and dtype.isnative and not by_column:
            with path.open("rb") as file:  # the data follows a header of 30 bytes, name and extras
                file.seek(member.header_offset + 26)
                start += member.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
            return np.memmap(path, dtype, "r", start, shape)
    with archive.open(member) as stream:
        return np.load(stream, allow_pickle=False)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
    return ", ".join(repr(name[:100]) for name in names[:10]) + more
