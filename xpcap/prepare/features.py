"""Features by picture, read from an .npz or encoded from a folder; large ones stay on disk."""

import collections
import hashlib
import io
import json
import os
import sys
import threading
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

from xpcap.data.dataset import check_finite
from xpcap.data.features import IN_MEMORY, Function, LazyRows, RowSource, Stored, materialise
from xpcap.data.npz import read_npz
from xpcap.encoders import Encoder, read_picture
from xpcap.errors import DataError
from xpcap.files import lock
from xpcap.prepare.names import require_inside
from xpcap.progress import bar
from xpcap.spec import Spec
from xpcap.threads import cores, parallel_map
from xpcap.work import work

BLOCK = 16  # pictures encoded in one call, and done again after a kill
DIGEST = 32  # bytes
T = TypeVar("T")
STORED = Spec("names:m=t features:m,D>0|m,P>0,D>0=f")


class Table(Mapping[str, np.ndarray]):
    """Features by the name of their picture.

    numbers : name to row
    rows : (m, *shape), an array or `Stored`
    """

    def __init__(self, numbers: Mapping[str, int], rows: RowSource) -> None:
        self.numbers, self.rows = numbers, rows

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
        return materialise(picked) if isinstance(self.rows, np.ndarray) else picked


def read_features(path: str | Path) -> Table:
    """Features by picture name, from the arrays of an .npz.

    If uncompressed, as `numpy.savez` writes them, more than 64 MB stay on disk and are read as
    needed.

    path : of an .npz with ``names`` (m,) and ``features`` (m, D), or grids (m, P, D), of floats
    DataError : not an .npz, other arrays, names that do not match the rows, a value not finite.
    OSError : it cannot be opened.
    """
    path = Path(path)
    caller = f"read_features: {path}"
    names, features = read_npz(path, ("names", "features"))
    STORED.check_file(caller, {"names": names, "features": features})
    assert isinstance(names, np.ndarray)
    if isinstance(features, np.ndarray):
        features = features.astype(features.dtype.newbyteorder("="), copy=False)
    rows: dict[str, int] = {}
    # stop at the first double: a small archive may repeat one name millions of times
    for row, name in enumerate(_texts(caller, names)):
        if rows.setdefault(name, row) != row:
            got = f"names a picture twice among {len(names):,}, {name[:100]!r}"
            raise DataError(caller, "", got, expected="each once")
    check_finite(caller, features, list(rows))
    return Table(rows, features)


def _texts(caller: str, names: np.ndarray) -> Iterator[str]:
    if names.dtype.kind == "U":
        most = int(names.view(f"{names.dtype.byteorder}u4").max(initial=0))
        if most > sys.maxunicode:
            got, expected = f"holds a character of number {most:,}", f"at most {sys.maxunicode:,}"
            raise DataError(caller, "'names'", got, expected, cause="damaged?")
    for name in names:
        yield name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else str(name)


def encode_folder(
    folder: str | Path,
    names: Sequence[str],
    encoder: Encoder,
    *,
    progress: bool | None = None,
    cache: str | Path | BinaryIO | None = None,
    unreadable: dict[str, str] | None = None,
    mirrored: Collection[str] = (),
) -> Table:
    """Features of the pictures called `names` in a folder, encoded in parallel on all cores.

    progress : show a bar, or lines where there is no terminal; None: as the work in hand
    cache : file for the features as they are computed, or one that `open_cache` opened. If it
        exists, left by a killed process, its features are reused unchanged; those of another
        encoder or a changed picture are computed again. More than 64 MB of features stay in the
        file and are read from it as needed: remove it once they are saved elsewhere
    unreadable : takes pictures that cannot be read, name to reason; the result lacks them. None:
        the first is an error, a missing one before any is encoded
    mirrored : pictures whose mirror image is encoded as well, under `mirror_of` the name
    DataError : a picture cannot be read, or would lie outside the folder; a feature is of another
        shape than the encoder says, or not finite; or `cache` is another file, or in use.
    OSError : the cache cannot be written.
    """
    folder, mirrored = Path(folder), set(mirrored)
    require_inside("encode_folder", folder, names)
    states = {name: _state(folder / name) for name in names}
    if unreadable is None:
        there = {name for name, state in states.items() if state}
        require_all("encode_folder", names, there, f"file in {folder}")
    blocks = [
        Block(names[start : start + BLOCK], encoder, states, mirrored)
        for start in range(0, len(names), BLOCK)
    ]
    opened = open_cache(Path(cache)) if isinstance(cache, str | Path) else nullcontext(cache)
    faults: dict[str, str] = {}
    taking = threading.Lock()
    with work(progress=progress), opened as file:
        store = Store(file, [row for block in blocks for row in block.rows], encoder.shape)
        left = [block for block in blocks if not store.holds(block)]
        done = len(names) - sum(len(block.names) for block in left)
        label = "encoding pictures"
        with bar((), label, total=len(names), done=done, lines=True) as shown:

            def encode(block: Block) -> None:
                features, unread = block.encode(folder, encoder, strict=unreadable is None)
                with taking:
                    store.put(block, features)
                    faults.update(unread)
                    shown.update(len(block.names))

            _in_parallel(encode, left)
        if unreadable is not None:
            unreadable.update((name, faults[name]) for name in names if name in faults)
        return store.table(without={*faults, *map(mirror_of, faults)})


def mirror_of(name: str) -> str:
    """The name of a picture's mirror image in a table of features; no file is called so."""
    return f"{name}\0mirrored"


class Block:
    """Pictures that are encoded in one call, since the last bits of some encoders depend on it.

    names : of the pictures
    rows : names of its features: those of the pictures, then of their mirror images
    key : digest of what these depend on: the encoder, and name, size and time of each file
    """

    def __init__(
        self,
        names: Sequence[str],
        encoder: Encoder,
        states: Mapping[str, tuple[int, int] | None],
        mirrored: Collection[str],
    ) -> None:
        self.names = names
        self.rows = [*names, *(mirror_of(name) for name in names if name in mirrored)]
        about = [encoder.name, self.rows, [states[name] for name in names]]
        self.key = hashlib.sha256(json.dumps(about).encode()).digest()

    def encode(
        self, folder: Path, encoder: Encoder, strict: bool
    ) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Features by row; and why pictures cannot be read, which is an error if `strict`."""
        pictures: dict[str, np.ndarray] = {}
        faults: dict[str, str] = {}
        for name in self.names:
            try:
                pictures[name] = read_picture(folder / name)
            except DataError as error:
                if strict:
                    raise
                faults[name] = error.reason
        features = _encoded(encoder, [*pictures], pictures.values())
        if mirrored := [name for name in pictures if mirror_of(name) in self.rows]:
            mirrors = (np.ascontiguousarray(pictures[name][:, ::-1]) for name in mirrored)
            features |= _encoded(encoder, [*map(mirror_of, mirrored)], mirrors)
        return features, faults


def _encoded(
    encoder: Encoder, names: Sequence[str], pictures: Iterable[np.ndarray]
) -> dict[str, np.ndarray]:
    """Features of pictures by name. DataError : not of the encoder's shape, or not finite."""
    if not names:
        return {}
    features, shape = np.asarray(encoder.encode(pictures)), (len(names), *encoder.shape)
    if features.shape != shape:
        thing, got = f"the encoder {encoder.name}", f"makes features of shape {features.shape}"
        raise DataError("encode_folder", thing, got, f"{shape}, as it says itself")
    check_finite("encode_folder", features, names)
    return dict(zip(names, features, strict=True))


class Store:
    """Rows of features with a digest each: in memory, or in a cache, an .npy that survives a kill.

    A digest covers the feature and all that it depends on. So a row that is half written, of
    another encoder or of a picture that has changed does not match, in whatever order the parts of
    the file reached the disk.

    file : the cache, from `open_cache`; None: in memory
    rows : names of all features to come
    shape : of a feature
    DataError : `file` is no cache. OSError : it cannot be written.
    """

    def __init__(self, file: BinaryIO | None, rows: Sequence[str], shape: Sequence[int]) -> None:
        self._path = None if file is None else Path(file.name)
        self._numbers = {name: number for number, name in enumerate(rows)}
        dtype = np.dtype([("digest", "u1", (DIGEST,)), ("feature", "<f4", tuple(shape))])
        self._rows: np.ndarray = np.zeros(0 if file else len(rows), dtype)
        if file is not None:
            _make_room(file, dtype, len(rows))
            # opened by name: a map of the open file would keep its lock, as long as it lives
            self._rows = np.lib.format.open_memmap(file.name, mode="r+")

    def holds(self, block: Block) -> bool:
        """True if all features of a block are there, from an earlier process."""
        return self._path is not None and all(
            self._rows[self._numbers[name]]["digest"].tobytes() == self._digest(block, name)
            for name in block.rows
        )

    def put(self, block: Block, features: Mapping[str, np.ndarray]) -> None:
        """Store features of a block."""
        for name, feature in features.items():
            number = self._numbers[name]
            self._rows["feature"][number] = feature
            if self._path is not None:
                digest = np.frombuffer(self._digest(block, name), np.uint8)
                self._rows["digest"][number] = digest

    def _digest(self, block: Block, name: str) -> bytes:
        feature = self._rows["feature"][self._numbers[name]]
        about = block.key + name.encode("utf-8", "surrogatepass")
        return hashlib.sha256(about + feature.tobytes()).digest()

    def table(self, without: Collection[str]) -> Table:
        """The features of all names but some; more than 64 MB stay in the file."""
        numbers = {name: n for name, n in self._numbers.items() if name not in without}
        features = self._rows["feature"]
        if self._path is None or features.nbytes <= IN_MEMORY:
            return Table(numbers, np.ascontiguousarray(features))
        assert isinstance(self._rows, np.memmap)
        self._rows.flush()  # the file's time must not change while it is read
        start, step = self._rows.offset + DIGEST, self._rows.itemsize
        return Table(numbers, Stored(self._path, start, step, features.shape, features.dtype))


@contextmanager
def open_cache(path: Path) -> Iterator[BinaryIO]:
    """Open a cache of features for one process at a time; if it stays empty, it is removed.

    DataError : it is a link, a folder or a device; or another process has it open.
    OSError : it cannot be opened.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise _no_cache(path, "is a link, a folder or a device", "remove it")
    cause = "does another command make the same data set? Wait for it, or choose another name"
    used = DataError("encode_folder", path, "is in use by another process", "one at a time", cause)
    unused = False
    try:
        with path.open("a+b", buffering=0) as file:
            lock(file, used)
            try:
                yield file
            finally:
                unused = not os.fstat(file.fileno()).st_size
    finally:
        if unused:
            path.unlink(missing_ok=True)


def _make_room(file: BinaryIO, dtype: np.dtype, count: int) -> None:
    """Give a cache so many rows: as far as it has such rows, they stay; the others are zeros.

    They are written, for a hole could meet a full disk when it is filled.
    """
    header = io.BytesIO()
    about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False}
    np.lib.format.write_array_header_1_0(header, {**about, "shape": (count,)})
    start = header.getvalue()
    file.seek(0)
    begun = file.read(len(start))
    if begun and begun[10:64] != start[10:64]:  # the names and kinds of the fields
        raise _no_cache(file.name, "is another file", "remove it, or move it away")
    try:
        if begun != start:
            file.truncate(0)
            file.write(start)
        left = len(start) + count * dtype.itemsize - os.fstat(file.fileno()).st_size
        while left > 0:
            left -= file.write(bytes(min(left, 1 << 20)))
    except OSError as error:
        file.truncate(0)
        raise OSError(error.errno or 0, error.strerror, file.name) from error


def _no_cache(path: str | Path, got: str, cause: str) -> DataError:
    return DataError("encode_folder", path, got, "a cache of features, or no file", cause)


def _state(path: Path) -> tuple[int, int] | None:
    """Size and time of a file; None: there is none, or none can have such a name."""
    try:
        about = path.stat()
    except (OSError, ValueError):
        return None
    return about.st_size, about.st_mtime_ns


def _in_parallel(work: Callable[[T], None], blocks: Iterable[T]) -> None:
    """Work on blocks on all cores, each taking the next one when it is free.

    After an error, or Ctrl-C, no block is started.
    """
    queue = collections.deque(blocks)

    def following() -> T | None:
        try:
            return queue.popleft()
        except IndexError:
            return None

    def take(_: int) -> None:
        try:
            for block in iter(following, None):
                work(block)
        except BaseException:
            queue.clear()
            raise

    parallel_map(take, range(min(cores(), len(queue))))


def require_all(caller: str, pictures: Sequence[str], known: Container[str], thing: str) -> None:
    """Raise DataError if `pictures` are not among the `known`, and so lack a `thing`."""
    if missing := [picture for picture in pictures if picture not in known]:
        lack = f"{len(missing)} of {len(pictures)} pictures"
        got = f"have no {thing}, {missing[0][:100]!r} among them"
        raise DataError(caller, lack, got, cause="do the files belong together?")
