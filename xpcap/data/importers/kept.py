"""Features kept on disk while more are made, so that a killed encoding goes on where it was."""

import contextlib
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

import numpy as np

from xpcap.errors import DataError

BEGINNING = b"xpcap: features kept while more are made\n"
KEY = 32  # bytes


class Kept:
    """A file that features are appended to, each under a key, and read back from by the next process. Use it in a ``with`` block.

    A record is key, feature and checksum. The first one that is broken, by a kill in the middle of a write, and what follows are written over.

    Parameters
    ----------
    path : of the file; made if it is missing
    dim : numbers of a feature

    Raises
    ------
    DataError : `path` is another file, or a link. OSError : it cannot be opened or written.
    """

    def __init__(self, path: Path, dim: int) -> None:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise DataError(f"encode_folder: {path} is a link, a folder or a device, expected features kept by a run before, or no file; remove it")
        self._path = path
        self._record = np.dtype([("key", f"V{KEY}"), ("feature", "<f4", (dim,)), ("sum", "<u4")])
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

    def read(self, names: Mapping[bytes, str]) -> dict[str, np.ndarray]:
        """The features whose keys are among those of `names`, under these names."""
        found: dict[str, np.ndarray] = {}
        good = len(BEGINNING)
        self._file.seek(good)
        while len(content := self._file.read(self._record.itemsize)) == self._record.itemsize:
            record = np.frombuffer(content, self._record)[0]
            if zlib.crc32(content[:-4]) != record["sum"]:
                break
            good += len(content)
            if (name := names.get(content[:KEY])) is not None:
                found[name] = record["feature"]
        self._file.seek(good)
        return found

    def add(self, keys: Iterable[bytes], features: Iterable[np.ndarray]) -> None:
        """Append features (dim,) with their keys, in one write, which outlives the process if not the machine.

        Raises
        ------
        OSError : they cannot be written; it names the file.
        """
        records = [key + feature.astype("<f4").tobytes() for key, feature in zip(keys, features, strict=True)]
        try:
            self._file.write(b"".join(record + zlib.crc32(record).to_bytes(4, "little") for record in records))
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno or 0, error.strerror or str(error), str(self._path)) from error
