"""Features for importers: read from an .npz, or encoded from a folder of pictures. Either is a table by picture, on disk where it is large."""

import base64
import collections
import contextlib
import hashlib
import json
import math
import sys
import threading
import zlib
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from xpcap.data.dataset import check_finite
from xpcap.data.features import IN_MEMORY, Stored, Table, whole
from xpcap.data.npz import read_npz
from xpcap.distributed import SINGLE, Group, RankDone, batches
from xpcap.encoders import Encoder, read_picture
from xpcap.errors import DataError
from xpcap.progress import bar
from xpcap.threads import blas, cores, parallel_map

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


BLOCK = 16  # pictures encoded in one call, and done again after a kill
ROUND = 16  # blocks that a rank encodes before it hands them over


def read_features(path: str | Path) -> Table:
    """Features by picture name, from an .npz with ``names`` (m,) and ``features`` (m, D), or grids (m, P, D), of floats.

    More than 64 MB that `numpy.savez` wrote stay on disk, and are read from there as they are needed.

    Raises
    ------
    DataError : not an .npz, other arrays, names that do not match the rows, or a value that is not finite. OSError : it cannot be opened.
    """
    path = Path(path)
    names, features = read_npz(path, ("names", "features"))
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise DataError(f"read_features: {path}, 'names' has shape {names.shape} and dtype {names.dtype}, expected (m,) of text")
    shape, dtype = features.shape, features.dtype.newbyteorder("=")
    if len(shape) not in (2, 3) or min(shape[1:]) < 1 or dtype not in (np.float16, np.float32, np.float64):
        raise DataError(f"read_features: {path}, 'features' has shape {shape} and dtype {dtype}, expected (m, D) of floats, D at least 1")
    if isinstance(features, np.ndarray):
        features = features.astype(dtype, copy=False)
    if len(names) != len(features):
        raise DataError(f"read_features: {path} has {len(names)} names for {len(features)} feature rows, expected one each")
    rows: dict[str, int] = {}
    for row, name in enumerate(_texts(path, names)):  # stops at the first double: a small archive may repeat one name millions of times
        if rows.setdefault(name, row) != row:
            raise DataError(f"read_features: {path} names a picture twice among {len(names):,}, {name[:100]!r}, expected each once")
    check_finite(f"read_features: {path}", features, list(rows))
    return Table(rows, features)


def encode_folder(
    folder: str | Path,
    names: Sequence[str],
    encoder: Encoder,
    *,
    progress: bool = False,
    kept: str | Path | None = None,
    unreadable: dict[str, str] | None = None,
    mirrored: Collection[str] = (),
    group: Group = SINGLE,
) -> Table:
    """Features of the pictures called `names` in a folder. They are read and encoded side by side, on all cores.

    Parameters
    ----------
    progress : show a bar, or lines where there is no terminal
    kept : file that features go to as they are made. If it is there already, left by a killed process, that work is not done again and the
        features are the same bits; what another encoder made, or from a picture that has changed, is. More than 64 MB of features are left there
        and read from there as they are needed: remove it once they are safe elsewhere
    unreadable : where pictures that cannot be read are put, name to reason; the result lacks them. None: the first is an error
    mirrored : those whose mirror image is encoded as well; the result has it under `mirror_of` the name
    group : ranks that share the pictures out. Rank 0 keeps and returns the features

    Raises
    ------
    RankDone : this is another rank than 0, and all is encoded.
    DataError : a picture is missing, cannot be read, or would lie outside the folder; or `kept` is another file. OSError : it cannot be written.
    """
    folder = Path(folder)
    stay_in("encode_folder", folder, names)
    covered("encode_folder", names, {name for name in names if _exists(folder / name)}, f"file in {folder}")  # before the slow part
    kept = kept if group.rank == 0 else None
    blocks = [names[start : start + BLOCK] for start in range(0, len(names), BLOCK)]
    keys = {name: key for block in blocks for name, key in _keys(folder, block, encoder, mirrored)} if kept else {}
    with Kept(Path(kept), encoder.shape) if kept else contextlib.nullcontext() as store:
        done = store.find({key: name for name, key in keys.items()}) if store else set()
        left = [block for block in blocks if not done >= {*block, *_mirrors(block, mirrored)}]  # whole: some encoders' bits depend on the batch
        begun = len(names) - sum(map(len, left))
        with bar((), progress and group.rank == 0, "encoding pictures", total=len(names), done=begun, lines=True) as shown:
            made = _Made(store, keys, shown)

            def encode(block: Sequence[str]) -> Encoded:
                return _encode_block(folder, block, encoder, mirrored, strict=unreadable is None)

            if group.size == 1:
                _share_out(lambda block: made.take(encode(block)), left)
            else:
                _encode_on_ranks(group, left, encode, made, encoder.shape)
    if group.rank:
        raise RankDone
    if unreadable is not None:
        unreadable.update((name, made.faults[name]) for name in names if name in made.faults)
    there = [*(read := [name for name in names if name not in made.faults]), *_mirrors(read, mirrored)]
    if store:
        return store.table(there)
    rows = np.stack([made.features.pop(name) for name in there]) if there else np.empty((0, *encoder.shape), np.float32)
    return Table({name: row for row, name in enumerate(there)}, rows)


class Encoded(NamedTuple):
    """A block of pictures: features by name, the reasons why others could not be read, and how many pictures there were."""

    features: dict[str, np.ndarray]
    faults: dict[str, str]
    pictures: int


class _Made:
    """Takes in what has been encoded, from any thread; features go to `store` if there is one."""

    def __init__(self, store: Kept | None, keys: Mapping[str, bytes], shown: Any) -> None:
        self._store, self._keys, self._shown = store, keys, shown
        self._lock = threading.Lock()
        self.features: dict[str, np.ndarray] = {}
        self.faults: dict[str, str] = {}

    def take(self, block: Encoded) -> None:
        with self._lock:
            self.faults.update(block.faults)
            if self._store:
                self._store.add({name: self._keys[name] for name in block.features}, block.features.values())
            else:
                self.features.update(block.features)
            self._shown.update(block.pictures)


def _encode_on_ranks(
    group: Group, blocks: Sequence[Sequence[str]], encode: Callable[[Sequence[str]], Encoded], made: _Made, shape: tuple[int, ...]
) -> None:
    """Rank 0 says which blocks are left. Each rank encodes its share, a round at a time; then rank 0 takes in what all have made."""
    blocks = json.loads(group.all_gather(json.dumps(blocks) if group.rank == 0 else "")[0])
    for batch in batches(group, len(blocks), ROUND):
        mine: list[Encoded] = []
        _share_out(lambda block, mine=mine: mine.append(encode(block)), blocks[batch])  # type: ignore[misc]  # bound at once
        told = group.all_gather(json.dumps([[[[name, _told(row)] for name, row in one.features.items()], one.faults, one.pictures] for one in mine]))
        for features, faults, count in (one for share in told for one in json.loads(share) if group.rank == 0):
            made.take(Encoded({name: np.frombuffer(base64.b64decode(row), "<f4").reshape(shape) for name, row in features}, faults, count))


def _told(row: np.ndarray) -> str:
    return base64.b64encode(row.astype("<f4").tobytes()).decode()


def mirror_of(name: str) -> str:
    """What the mirror image of a picture is called in a table of features; no file is called so."""
    return f"{name}\0mirrored"


def _mirrors(names: Iterable[str], mirrored: Collection[str]) -> list[str]:
    return [mirror_of(name) for name in names if name in mirrored]


def _keys(folder: Path, block: Sequence[str], encoder: Encoder, mirrored: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """What the feature of each picture of a block depends on, as a digest: the encoder, and the names, sizes and times of the block's files."""
    files = [(name, about.st_size, about.st_mtime_ns) for name in block for about in [(folder / name).stat()]]
    for name in (*block, *_mirrors(block, mirrored)):
        yield name, hashlib.sha256(json.dumps([encoder.name, files, name]).encode()).digest()


def _encode_block(folder: Path, block: Sequence[str], encoder: Encoder, mirrored: Collection[str], strict: bool) -> Encoded:
    """Encode a block; with `strict`, a picture that cannot be read is an error."""
    read: list[str] = []
    turned: dict[str, np.ndarray] = {}
    faults: dict[str, str] = {}

    def pictures() -> Iterator[np.ndarray]:
        for name in block:
            try:
                picture = read_picture(folder / name)
            except DataError as error:
                if strict:
                    raise
                faults[name] = str(error)
            else:
                read.append(name)
                if name in mirrored:
                    turned[mirror_of(name)] = np.ascontiguousarray(picture[:, ::-1])
                yield picture

    features = dict(zip(read, encoder.encode(pictures()), strict=True))
    if turned:
        features.update(zip(turned, encoder.encode(turned.values()), strict=True))
    return Encoded(features, faults, len(block))


def _share_out(work: Callable[[Sequence[str]], None], blocks: Iterable[Sequence[str]]) -> None:
    """Work on blocks on all cores, each taking the next one when it is free. After an error, or Ctrl-C, none is begun.

    Another thread of the program that waits for the cores has a turn between two blocks.
    """
    queue = collections.deque(blocks)

    def following() -> Sequence[str] | None:
        try:
            return queue.popleft()
        except IndexError:
            return None

    def take(_: int) -> None:
        try:
            for block in iter(following, None):
                work(block)
                if blas().wanted():
                    break
        except BaseException:
            queue.clear()
            raise

    while queue:
        parallel_map(take, range(min(cores(), len(queue))))
        blas().give_way()


def covered(where: str, pictures: Sequence[str], known: Container[str], thing: str) -> None:
    """DataError : some of the `pictures` are not among the `known`; they lack a `thing`."""
    if missing := [picture for picture in pictures if picture not in known]:
        raise DataError(
            f"{where}: {len(missing)} of {len(pictures)} pictures have no {thing}, {missing[0][:100]!r} among them; do the files belong together?"
        )


def leads_out(name: str, kind: type[PurePath] = PurePath) -> bool:
    """Whether a name, read as a path, could lead out of the folder that it is looked up in."""
    path = kind(name)
    return bool(path.anchor) or ".." in path.parts or "\0" in name


def stay_in(where: str, folder: Path, names: Iterable[str]) -> None:
    """DataError : one of the names could lead out of the folder."""
    if astray := next((name for name in names if leads_out(name)), None):
        raise DataError(f"{where}: picture {astray[:100]!r} would lie outside {folder}, expected the name of a file in it; who wrote the list?")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _texts(path: Path, names: np.ndarray) -> Iterator[str]:
    if names.dtype.kind == "U" and (most := int(names.view(f"{names.dtype.byteorder}u4").max(initial=0))) > sys.maxunicode:
        raise DataError(f"read_features: {path}, 'names' holds a character of number {most:,}, expected at most {sys.maxunicode:,}; damaged?")
    for name in names:
        yield name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else str(name)
