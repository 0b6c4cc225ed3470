"""Features by picture, read from an .npz or encoded from a folder; large ones stay on disk."""

import base64
import collections
import hashlib
import json
import sys
import threading
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from xpcap.data.dataset import check_finite
from xpcap.data.features import IN_MEMORY, Stored, Table
from xpcap.data.npz import read_npz
from xpcap.distributed import SINGLE, Group, RankDone
from xpcap.encoders import Encoder, read_picture
from xpcap.errors import DataError
from xpcap.files import atomic
from xpcap.progress import bar
from xpcap.spec import Spec
from xpcap.threads import blas, cores, parallel_map

BLOCK = 16  # pictures encoded in one call, and done again after a kill
ROUND = 16  # blocks that a rank encodes before it hands them over
DIGEST = 32  # bytes
STORED = Spec("names:m=t features:m,D|m,P,D=f")


def read_features(path: str | Path) -> Table:
    """Features by picture name, from the arrays of an .npz.

    If uncompressed, as `numpy.savez` writes them, more than 64 MB stay on disk and are read as
    needed.

    Parameters
    ----------
    path : of an .npz with ``names`` (m,) and ``features`` (m, D), or grids (m, P, D), of floats

    Raises
    ------
    DataError : not an .npz, other arrays, names that do not match the rows, a value not finite.
    OSError : it cannot be opened.
    """
    path = Path(path)
    names, features = read_npz(path, ("names", "features"))
    where = f"read_features: {path}"
    STORED.check_file(where, {"names": names, "features": features})
    if 0 in features.shape[1:]:
        raise DataError(where, "features", f"has shape {features.shape}", expected="D at least 1")
    assert isinstance(names, np.ndarray)
    if isinstance(features, np.ndarray):
        features = features.astype(features.dtype.newbyteorder("="), copy=False)
    rows: dict[str, int] = {}
    # stop at the first double: a small archive may repeat one name millions of times
    for row, name in enumerate(_texts(path, names)):
        if rows.setdefault(name, row) != row:
            raise DataError(
                "read_features",
                path,
                f"names a picture twice among {len(names):,}, {name[:100]!r}",
                expected="each once",
            )
    check_finite(where, features, list(rows))
    return Table(rows, features)


def encode_folder(
    folder: str | Path,
    names: Sequence[str],
    encoder: Encoder,
    *,
    progress: bool = False,
    cache: str | Path | None = None,
    unreadable: dict[str, str] | None = None,
    mirrored: Collection[str] = (),
    group: Group = SINGLE,
) -> Table:
    """Features of the pictures called `names` in a folder, encoded in parallel on all cores.

    Parameters
    ----------
    progress : show a bar, or lines where there is no terminal
    cache : file for the features as they are computed. If it exists, left by a killed process, its
        features are reused unchanged; those of another encoder or a changed picture are computed
        again. More than 64 MB of features stay in the file and are read from it as needed: remove
        it once they are saved elsewhere
    unreadable : takes pictures that cannot be read, name to reason; the result lacks them. None:
        the first is an error
    mirrored : pictures whose mirror image is encoded as well, under `mirror_of` the name
    group : ranks that share the pictures. Rank 0 has the cache and returns the features

    Raises
    ------
    RankDone : on ranks other than 0, when all is encoded.
    DataError : a picture is missing, cannot be read, or would lie outside the folder; or `cache` is
        another file.
    OSError : the cache cannot be written.
    """
    folder = Path(folder)
    require_inside("encode_folder", folder, names)
    there = {name for name in names if _exists(folder / name)}
    require_all("encode_folder", names, there, f"file in {folder}")  # before the slow part

    path = Path(cache) if cache and group.rank == 0 else None
    store = FeatureCache(path, [*names, *_mirrors(names, mirrored)], encoder.shape)
    blocks = [names[start : start + BLOCK] for start in range(0, len(names), BLOCK)]
    keys: dict[str, bytes] = {}
    if path is not None:
        keys = dict(chain.from_iterable(_keys(folder, one, encoder, mirrored) for one in blocks))
    done = store.matching(keys)
    # whole blocks, since the last bits of some encoders depend on the batch
    left = [block for block in blocks if not done >= {*block, *_mirrors(block, mirrored)}]
    begun = len(names) - sum(map(len, left))
    faults: dict[str, str] = {}
    lock = threading.Lock()

    def encode(block: Sequence[str]) -> Encoded:
        return _encode_block(folder, block, encoder, mirrored, strict=unreadable is None)

    shown_here = progress and group.rank == 0
    label, total = "encoding pictures", len(names)
    with bar((), label, total=total, done=begun, lines=True, shown=shown_here) as shown:

        def take(encoded: Encoded) -> None:
            with lock:
                faults.update(encoded.faults)
                for name, feature in encoded.features.items():
                    store.put(name, feature, keys.get(name, b""))
                shown.update(encoded.pictures)

        if group.size == 1:
            _in_parallel(lambda block: take(encode(block)), left)
        else:
            _encode_on_ranks(group, left, encode, take, encoder.shape)
    if group.rank:
        raise RankDone
    if unreadable is not None:
        unreadable.update((name, faults[name]) for name in names if name in faults)
    read = [name for name in names if name not in faults]
    return store.table([*read, *_mirrors(read, mirrored)])


class FeatureCache:
    """Features by name with a digest each: in memory, or in an .npy file that survives a kill.

    A digest covers the feature and all that it depends on. So a row that is half written, of
    another encoder or of a picture that has changed does not match, in whatever order the parts of
    the file reached the disk.

    Parameters
    ----------
    path : of the file, created if it is missing; None: in memory
    names : of all features to come
    shape : of a feature

    Raises
    ------
    DataError : `path` is another file, or a link. OSError : it cannot be opened or written.
    """

    def __init__(self, path: Path | None, names: Sequence[str], shape: Sequence[int]) -> None:
        self._path, self._numbers = path, {name: number for number, name in enumerate(names)}
        dtype = np.dtype([("digest", "u1", (DIGEST,)), ("feature", "<f4", tuple(shape))])
        self._rows: np.ndarray = np.zeros(len(names), dtype)
        if path is not None:
            if not _is_cache(path, self._rows):
                _write_empty(path, self._rows)
            self._rows = np.lib.format.open_memmap(path, mode="r+")

    def matching(self, keys: Mapping[str, bytes]) -> set[str]:
        """The names whose stored features match their keys."""
        return {name for name, key in keys.items() if self._matches(name, key)}

    def _matches(self, name: str, key: bytes) -> bool:
        row = self._rows[self._numbers[name]]
        written = row["digest"].any()  # else there is no feature yet
        return bool(written) and row["digest"].tobytes() == _digest(key, row["feature"])

    def put(self, name: str, feature: np.ndarray, key: bytes) -> None:
        """Store a feature and its digest."""
        number = self._numbers[name]
        self._rows["feature"][number] = feature
        if self._path is not None:
            digest = _digest(key, self._rows["feature"][number])
            self._rows["digest"][number] = np.frombuffer(digest, np.uint8)

    def table(self, names: Sequence[str]) -> Table:
        """The features of these names; more than 64 MB stay in the file."""
        numbers = {name: self._numbers[name] for name in names}
        features = self._rows["feature"]
        if self._path is None or features.nbytes <= IN_MEMORY:
            return Table(numbers, np.ascontiguousarray(features))
        assert isinstance(self._rows, np.memmap)
        self._rows.flush()  # the file's time must not change while it is read
        start, step = self._rows.offset + DIGEST, self._rows.itemsize
        return Table(numbers, Stored(self._path, start, step, features.shape, features.dtype))


def _digest(key: bytes, feature: np.ndarray) -> bytes:
    return hashlib.sha256(key + feature.tobytes()).digest()


def _is_cache(path: Path, like: np.ndarray) -> bool:
    """True if a file is a cache of such rows, False if of others, or missing."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise DataError(
            "encode_folder",
            path,
            "is a link, a folder or a device",
            expected="a cache of features, or no file",
            cause="remove it",
        )
    if not path.exists():
        return False
    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError:
        dtype = np.dtype(np.void)
    if dtype.names != like.dtype.names:
        raise DataError(
            "encode_folder",
            path,
            "is another file",
            expected="a cache of features, or no file",
            cause="remove it, or move it away",
        )
    return bool(shape == like.shape and dtype == like.dtype)


def _write_empty(path: Path, like: np.ndarray) -> None:
    header = {
        "descr": np.lib.format.dtype_to_descr(like.dtype),
        "fortran_order": False,
        "shape": like.shape,
    }
    with atomic(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(len(like)):  # zeros and no hole, so that a full disk is an error here
            file.write(bytes(like.itemsize))


class Encoded(NamedTuple):
    """A block of pictures: features by name, why others could not be read, and their number."""

    features: dict[str, np.ndarray]
    faults: dict[str, str]
    pictures: int


def _encode_on_ranks(
    group: Group,
    blocks: Sequence[Sequence[str]],
    encode: Callable[[Sequence[str]], Encoded],
    take: Callable[[Encoded], None],
    shape: Sequence[int],
) -> None:
    """Encode the blocks that rank 0 lists, each rank its shard in rounds; results go to rank 0."""
    blocks = group.gather(blocks if group.rank == 0 else [])[0]
    for batch in group.batches(len(blocks), ROUND):
        encoded: list[Encoded] = []
        _in_parallel(
            lambda block, to=encoded: to.append(encode(block)),  # type: ignore[misc]
            blocks[batch],
        )
        gathered = group.gather([_to_json(block) for block in encoded])
        if group.rank == 0:
            for block in chain.from_iterable(gathered):
                take(_from_json(block, shape))


def _to_json(encoded: Encoded) -> dict[str, object]:
    rows = {
        name: base64.b64encode(row.astype("<f4").tobytes()).decode()
        for name, row in encoded.features.items()
    }
    return {**encoded._asdict(), "features": rows}


def _from_json(encoded: dict[str, Any], shape: Sequence[int]) -> Encoded:
    features = {
        name: np.frombuffer(base64.b64decode(row), "<f4").reshape(shape)
        for name, row in encoded["features"].items()
    }
    return Encoded(**{**encoded, "features": features})


def mirror_of(name: str) -> str:
    """The name of a picture's mirror image in a table of features; no file is called so."""
    return f"{name}\0mirrored"


def _mirrors(names: Iterable[str], mirrored: Collection[str]) -> list[str]:
    return [mirror_of(name) for name in names if name in mirrored]


def _keys(
    folder: Path, block: Sequence[str], encoder: Encoder, mirrored: Collection[str]
) -> Iterator[tuple[str, bytes]]:
    """Digests of what a block's features depend on: encoder, name, size and time of files."""
    stats = [(name, (folder / name).stat()) for name in block]
    files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    for name in (*block, *_mirrors(block, mirrored)):
        yield name, hashlib.sha256(json.dumps([encoder.name, files, name]).encode()).digest()


def _encode_block(
    folder: Path, block: Sequence[str], encoder: Encoder, mirrored: Collection[str], strict: bool
) -> Encoded:
    """Encode a block; with `strict`, a picture that cannot be read is an error."""
    read: list[str] = []
    mirrors: dict[str, np.ndarray] = {}
    faults: dict[str, str] = {}

    def pictures() -> Iterator[np.ndarray]:
        for name in block:
            try:
                picture = read_picture(folder / name)
            except DataError as error:
                if strict:
                    raise
                faults[name] = error.reason
            else:
                read.append(name)
                if name in mirrored:
                    mirrors[mirror_of(name)] = np.ascontiguousarray(picture[:, ::-1])
                yield picture

    features = dict(zip(read, encoder.encode(pictures()), strict=True))
    if mirrors:
        features.update(zip(mirrors, encoder.encode(mirrors.values()), strict=True))
    return Encoded(features, faults, len(block))


def _in_parallel(work: Callable[[Sequence[str]], None], blocks: Iterable[Sequence[str]]) -> None:
    """Work on blocks on all cores, each taking the next one when it is free.

    After an error, or Ctrl-C, no block is started. Between blocks, other threads that wait for the
    cores have their turn.
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


def require_all(where: str, pictures: Sequence[str], known: Container[str], thing: str) -> None:
    """DataError : some of the `pictures` are not among the `known`; they lack a `thing`."""
    if missing := [picture for picture in pictures if picture not in known]:
        raise DataError(
            where,
            f"{len(missing)} of {len(pictures)} pictures",
            f"have no {thing}, {missing[0][:100]!r} among them",
            cause="do the files belong together?",
        )


def escapes(name: str, kind: type[PurePath] = PurePath) -> bool:
    """True if a name, read as a path, could lead out of its folder."""
    path = kind(name)
    return bool(path.anchor) or ".." in path.parts or "\0" in name


def require_inside(where: str, folder: Path, names: Iterable[str]) -> None:
    """DataError : one of the names could lead out of the folder."""
    if astray := next((name for name in names if escapes(name)), None):
        raise DataError(
            where,
            f"picture {astray[:100]!r}",
            f"would lie outside {folder}",
            expected="the name of a file in it",
            cause="who wrote the list?",
        )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _texts(path: Path, names: np.ndarray) -> Iterator[str]:
    if names.dtype.kind == "U":
        most = int(names.view(f"{names.dtype.byteorder}u4").max(initial=0))
        if most > sys.maxunicode:
            raise DataError(
                "read_features",
                f"{path}, 'names'",
                f"holds a character of number {most:,}",
                expected=f"at most {sys.maxunicode:,}",
                cause="damaged?",
            )
    for name in names:
        yield name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else str(name)
