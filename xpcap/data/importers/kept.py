"""Features kept on disk while more are made, so that a killed encoding goes on where it was, and they need not all be in memory."""

import contextlib
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from xpcap.data.features import IN_MEMORY, Stored, Table, whole
from xpcap.errors import DataError

BEGINNING = b"xpcap: features kept while more are made\n"
KEY = 32  # bytes


class Kept:
    """A file that features are appended to, each under a key, where the next process finds them. Use it in a ``with`` block.

    A record is key, feature and checksum. The first one that is broken, by a kill in the middle of a write, and what follows are written over.

    Parameters
    ----------
    path : of the file; made if it is missing
    shape : of a feature

    Raises
    ------
    DataError : `path` is another file, or a link. OSError : it cannot be opened or written.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise DataError(f"encode_folder: {path} is a link, a folder or a device, expected features kept by a run before, or no file; remove it")
        self._path, self._shape = path, shape
        self._size = KEY + 4 * math.prod(shape) + 4  # bytes of a record
        self._numbers: dict[str, int] = {}  # record of each picture
        self._count = 0  # records
        self._file = path.open("r+b" if path.exists() else "x+b")
        beginning = self._file.read(len(BEGINNING))
        if not BEGINNING.startswith(beginning):
            self._file.close()
            raise DataError(f"encode_folder: {path} is another file, expected features kept by a run before, or no file; remove it, or move it away")
        if beginning != BEGINNING:  # new, or killed while it was begun
            self._file.seek(0)
            self._file.write(BEGINNING)

    def __enter__(self) -> "Kept":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError) if error else contextlib.nullcontext():  # a full disk is told once
            self._file.close()

    def find(self, names: Mapping[bytes, str]) -> set[str]:
        """The pictures, called as `names` calls their keys, whose features are there. Call it once, before `add`."""
        self._file.seek(len(BEGINNING))
        while len(content := self._file.read(self._size)) == self._size and zlib.crc32(content[:-4]) == int.from_bytes(content[-4:], "little"):
            if (name := names.get(content[:KEY])) is not None:
                self._numbers[name] = self._count
            self._count += 1
        self._file.seek(len(BEGINNING) + self._count * self._size)
        return set(self._numbers)

    def add(self, keys: Mapping[str, bytes], features: Iterable[np.ndarray]) -> None:
        """Append features with the keys of their pictures, in one write, which outlives the process if not the machine.

        Raises
        ------
        OSError : they cannot be written; it names the file.
        """
        records = [key + feature.astype("<f4").tobytes() for key, feature in zip(keys.values(), features, strict=True)]
        try:
            self._file.write(b"".join(record + zlib.crc32(record).to_bytes(4, "little") for record in records))
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno or 0, error.strerror or str(error), str(self._path)) from error
        self._numbers.update((name, self._count + i) for i, name in enumerate(keys))
        self._count += len(records)

    def table(self, names: Sequence[str]) -> Table:
        """The features of pictures that are there, once the ``with`` block is left; more than 64 MB stay in the file."""
        stored = Stored(self._path, len(BEGINNING) + KEY, self._size, (self._count, *self._shape), np.dtype("<f4"))
        table = Table({name: self._numbers[name] for name in names}, stored)
        if len(names) * (self._size - KEY - 4) > IN_MEMORY:
            return table
        return Table({name: row for row, name in enumerate(names)}, whole(table.pick(names)) if names else np.empty((0, *self._shape), np.float32))
