"""Tables of features by picture, from an .npz or encoded from a folder; large ones stay on disk."""

import collections
import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Self, TypeVar

import numpy as np

from xpcap.backend.shape_specs import Spec
from xpcap.backend.threads import cores, parallel_map
from xpcap.data.dataset import check_finite, size
from xpcap.data.features import IN_MEMORY, Function, LazyRows, RowSource, materialise
from xpcap.data.npz import read_npz
from xpcap.distributed.work import notice, work
from xpcap.encoders import Encoder, read_picture
from xpcap.errors import DataError, without_subject
from xpcap.files.read_write import lock
from xpcap.prepare.names import require_inside
from xpcap.progress import bar

BLOCK = 16  # pictures encoded in a call; a kill loses at most these
KEY = 16  # bytes of a digest
T = TypeVar("T")
STORED = Spec("names:m=t features:m,D>0|m,P>0,D>0=f")


class Table(Mapping[str, np.ndarray]):
    """Features by the name of their picture.

    numbers : name to row
    rows : (m, *shape), in memory or memory-mapped
    """

    def __init__(self, numbers: Mapping[str, int], rows: RowSource) -> None:
        self.numbers = numbers
        self.rows = rows

    def __getitem__(self, name: str) -> np.ndarray:
        number = self.numbers[name]
        row: np.ndarray = self.rows[number : number + 1][0]
        return row

    def __iter__(self) -> Iterator[str]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def pick(self, names: Sequence[str], then: Function | None = None) -> RowSource:
        """Rows of these pictures, mapped by `then`: an array if the table is, else `LazyRows`."""
        numbers = np.array([self.numbers[name] for name in names], np.int64)
        picked = LazyRows(self.rows, numbers, then)
        return picked if isinstance(self.rows, np.memmap) else materialise(picked)


def read_features(path: str | Path) -> Table:
    """Features by picture name, from the arrays of an .npz.

    Uncompressed arrays of more than 64 MB, as `numpy.savez` writes them, stay on disk and are read
    as needed.

    path : .npz with ``names`` (m,) and ``features`` (m, D), or grids (m, P, D), of floats
    DataError : it is not an .npz, lacks an array, has other than one name for each row, a name twice,
        or a value that is not finite. OSError : it cannot be opened.

    Examples
    --------
    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "features.npz")
    ...     np.savez(path, names=["a.jpg"], features=np.ones((1, 3)))
    ...     read_features(path)["a.jpg"]
    array([1., 1., 1.])
    """
    path = Path(path)
    names, features = read_npz(path, ("names", "features"))
    STORED.check_file(path, {"names": names, "features": features})
    features = features.astype(features.dtype.newbyteorder("="), copy=False)
    rows: dict[str, int] = {}
    # Stop at the first repetition: a small archive may repeat a name millions of times
    for row, name in enumerate(_texts(names)):
        if rows.setdefault(name, row) != row:
            raise DataError(
                f"{path} names a picture twice among {len(names):,}, {name[:100]!r}, expected each"
                " once"
            )
    check_finite(f"{path}: ", features, list(rows))
    return Table(rows, features)


def _texts(names: np.ndarray) -> Iterator[str]:
    if names.dtype.kind == "U":
        largest = int(names.view(f"{names.dtype.byteorder}u4").max(initial=0))
        if largest > sys.maxunicode:
            raise DataError(
                f"'names' holds the code point {largest:,}, expected at most {sys.maxunicode:,};"
                " damaged?"
            )
    for name in names:
        yield name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else str(name)


def encode_folder(
    folder: str | Path,
    names: Sequence[str],
    encoder: Encoder,
    *,
    progress: bool | None = None,
    cache: str | Path | None = None,
    unreadable: dict[str, str] | None = None,
    mirrored: Collection[str] = (),
) -> Table:
    """Features of the pictures called `names` in a folder, encoded in parallel on all cores.

    progress : show a bar, or lines if there is no terminal; None: as the current work
    cache : file that keeps the features, so that later calls, also after a kill, encode only new or
        changed pictures. More than 64 MB of features stay in the file and are read as needed. None:
        features are in memory
    unreadable : receives pictures that cannot be read, name to reason; the result lacks them. None:
        such a picture raises an error, a missing one before any picture is encoded
    mirrored : pictures whose mirror image is encoded too, under the name `mirror_of(name)`
    DataError : a picture cannot be read, or is outside the folder; a feature does not have the shape
        that the encoder declares, or is not finite; or `cache` is another file, or in use.
    OSError : the cache cannot be written.
    """
    folder = Path(folder)
    mirrored = set(mirrored)
    require_inside(folder, names)
    keys: dict[str, bytes] = {}  # by the names of pictures and mirror images
    missing: list[str] = []
    for name in names:
        state = _state(folder / name)
        missing += [name] if state is None else []
        for row in (name, mirror_of(name)) if name in mirrored else (name,):
            about = json.dumps([encoder.name, row, state]).encode()
            keys[row] = hashlib.blake2b(about, digest_size=KEY).digest()
    if unreadable is None:
        require_all("", names, {*names} - {*missing}, f"file in {folder}")
    faults: dict[str, str] = {}
    with work(progress=progress), FeatureFile(cache, encoder.shape) as file:
        pending = [
            name
            for name in names
            if keys[name] not in file.rows
            or (name in mirrored and keys[mirror_of(name)] not in file.rows)
        ]
        blocks = [pending[start : start + BLOCK] for start in range(0, len(pending), BLOCK)]
        if (done := len(names) - len(pending)) and cache is not None:
            notice(f"{cache} has the features of {done:,} of {len(names):,} pictures already")
        with bar((), "encoding pictures", total=len(names), done=done, lines=True) as shown:

            def encode(block: Sequence[str]) -> None:
                pictures: dict[str, np.ndarray] = {}
                for name in block:
                    try:
                        pictures[name] = read_picture(folder / name)
                    except DataError as error:
                        if unreadable is None:
                            raise
                        faults[name] = without_subject(error, folder / name)
                features = _encoded(encoder, [*pictures], pictures.values())
                if flipped := [name for name in pictures if name in mirrored]:
                    mirrors = (np.ascontiguousarray(pictures[name][:, ::-1]) for name in flipped)
                    features |= _encoded(encoder, [*map(mirror_of, flipped)], mirrors)
                file.add({keys[row]: feature for row, feature in features.items()})
                shown.update(len(block))

            _in_parallel(encode, blocks)
        if unreadable is not None:
            unreadable.update((name, faults[name]) for name in names if name in faults)
        absent = {*faults, *map(mirror_of, faults)}
        return file.table({row: key for row, key in keys.items() if row not in absent})


def mirror_of(name: str) -> str:
    """The name of a picture's mirror image in a table of features; no file can have it."""
    return f"{name}\0mirrored"


def _encoded(
    encoder: Encoder, names: Sequence[str], pictures: Iterable[np.ndarray]
) -> dict[str, np.ndarray]:
    """Features of pictures by name. DataError : their shape is not the encoder's, or not finite."""
    if not names:
        return {}
    features = np.asarray(encoder.encode(pictures))
    shape = (len(names), *encoder.shape)
    if features.shape != shape:
        raise DataError(
            f"the encoder {encoder.name} makes features of shape {features.shape}, expected"
            f" {shape}, as its `shape` declares"
        )
    check_finite("", features, names)
    return dict(zip(names, features, strict=True))


def feature_path(folder: Path, pictures: str | Path, encoder: Encoder) -> Path:
    """The cache file, in `folder`, of a folder of pictures and an encoder."""
    kind, _, options = encoder.name.partition(":")
    digest = hashlib.blake2b(encoder.name.encode(), digest_size=4).hexdigest() if options else ""
    names = (Path(pictures).resolve().name, kind, digest)
    return folder / f"{'.'.join(filter(None, names))}.features"


class FeatureFile:
    """A cache of features: rows of key, checksum and feature, appended to a file.

    A context. The key is a digest of everything on which a feature depends. Reading ends at the first
    row with a wrong checksum, which a kill or power cut may leave; new rows overwrite it.

    path : None: the features are in memory
    shape : of a feature
    DataError : it is another file, a link, a folder or a device, or in use by another process.
    OSError : it cannot be read or written.
    """

    def __init__(self, path: str | Path | None, shape: Sequence[int]) -> None:
        self._path = None if path is None else Path(path)
        self._dtype = np.dtype(
            [("key", f"V{KEY}"), ("check", f"V{KEY}"), ("feature", "<f4", tuple(shape))]
        )
        self._header = f"xpcap features, {size(shape)} numbers a row\n".encode()
        self._file: BinaryIO | None = None
        self._adding = threading.Lock()
        self._memory: list[np.ndarray] = []
        self._count = 0
        self.rows: dict[bytes, int] = {}  # keys to their rows

    def __enter__(self) -> Self:
        if self._path is None:
            return self
        path = self._path
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise DataError(
                f"{path} is a link, a folder or a device, expected features of this shape, or no"
                " file; remove it"
            )
        used = DataError(
            f"{path} is in use by another process; does another command encode the same pictures?"
            " Wait for it"
        )
        self._file = path.open("a+b", buffering=0)
        try:
            lock(self._file, used)
            self._file.seek(0)
            header = self._file.read(len(self._header))
            if not self._header.startswith(header):
                raise DataError(
                    f"{path} is another file, expected features of this shape, or no file;"
                    " remove it, or move it away"
                )
            if header != self._header:
                self._write(0, self._header)
            for number, row in enumerate(self._stored()):
                if row["check"].tobytes() != _check(row["key"].tobytes(), row["feature"]):
                    break
                self.rows[row["key"].tobytes()] = number
                self._count += 1
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._file is None or self._path is None:
            return
        self._file.close()
        if not self._count:
            self._path.unlink(missing_ok=True)
        elif isinstance(error, KeyboardInterrupt | OSError):
            error.add_note(f"{self._path} has the finished features; the same command continues")

    def add(self, features: Mapping[bytes, np.ndarray]) -> None:
        """Append rows to the file; an interrupted write leaves no valid row."""
        rows = np.zeros(len(features), self._dtype)
        for row, (key, feature) in zip(rows, features.items(), strict=True):
            row["feature"] = feature
            row["key"] = key
            row["check"] = _check(key, row["feature"])
        with self._adding:
            if self._file is None:
                self._memory += [*rows["feature"]]
            else:
                self._write(len(self._header) + self._count * self._dtype.itemsize, rows.tobytes())
            self.rows |= {key: self._count + number for number, key in enumerate(features)}
            self._count += len(features)

    def table(self, keys: Mapping[str, bytes]) -> Table:
        """The features of rows by name; more than 64 MB stay in the file."""
        numbers = {name: self.rows[key] for name, key in keys.items()}
        if self._file is None:
            return Table(numbers, np.stack(self._memory) if self._memory else np.empty(0))
        features = self._stored()["feature"]
        small = features.nbytes <= IN_MEMORY
        return Table(numbers, np.ascontiguousarray(features) if small else features)

    def _stored(self) -> np.ndarray:
        """The rows in the file, not yet checked."""
        assert self._file is not None
        assert self._path is not None
        start = len(self._header)
        end = os.fstat(self._file.fileno()).st_size
        if not (count := (end - start) // self._dtype.itemsize):
            return np.empty(0, self._dtype)
        # Opened by name: a map of the open file would keep its lock until it is deleted
        return np.memmap(self._path, self._dtype, "r", start, (count,))

    def _write(self, start: int, content: bytes) -> None:
        """Write `content` at `start`, the end of the file; after an error, truncate the file there."""
        assert self._file is not None
        try:
            self._file.truncate(start)
            while content:
                content = content[self._file.write(content) :]
        except OSError as error:
            self._file.truncate(start)
            raise OSError(error.errno or 0, error.strerror, str(self._path)) from error


def _check(key: bytes, feature: np.ndarray) -> bytes:
    return hashlib.blake2b(key + feature.tobytes(), digest_size=KEY).digest()


def _state(path: Path) -> tuple[int, int] | None:
    """Size and time of a file; None if it does not exist, or the name is invalid."""
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return None
    return stat.st_size, stat.st_mtime_ns


def _in_parallel(work: Callable[[T], None], blocks: Iterable[T]) -> None:
    """Work on blocks on all cores; a core takes the next block when it is free.

    After an error, or Ctrl-C, no block is started.
    """
    queue = collections.deque(blocks)

    def next_block() -> T | None:
        try:
            return queue.popleft()
        except IndexError:
            return None

    def work_off(_: int) -> None:
        try:
            for block in iter(next_block, None):
                work(block)
        except BaseException:
            queue.clear()
            raise

    parallel_map(work_off, range(min(cores(), len(queue))))


def require_all(prefix: str, pictures: Sequence[str], known: Container[str], thing: str) -> None:
    """Raise DataError if some `pictures` are not `known`; `thing` is what they lack.

    prefix : begins the message
    """
    if missing := [picture for picture in pictures if picture not in known]:
        raise DataError(
            f"{prefix}{len(missing)} of {len(pictures)} pictures have no {thing}, {missing[0][:100]!r}"
            " among them; do the files belong together?"
        )
