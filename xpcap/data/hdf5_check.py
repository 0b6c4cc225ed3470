"""The process that validates an HDF5 file for `xpcap.data.hdf5`: plain, and readable to its end?

A script, run once a file with little time and memory, since HDF5 may loop for ever on a damaged
one. It imports nothing of this package.
"""

import contextlib
import json
import math
import os
import signal
import stat
import sys
from collections.abc import Iterator

import h5py

MEMBERS, DEPTH = 64, 2  # a dataset file has one group a split, with 6 data sets
ATTRIBUTE = "xpcap"
ATTRIBUTE_BYTES = 2**20
CHUNK_BYTES = 64 * 2**20
# bytes that a data set may hold beyond RATIO: fill values, and small things that compress well
SPARE = 2**20
# most bytes for each stored one, of compressed data; lzf reaches 90, sorted numbers 50
RATIO = {"f": 200, "i": 100, "u": 100, "S": 100, "O": 100}
FILTERS = {
    h5py.h5z.FILTER_DEFLATE: "gzip",
    h5py.h5z.FILTER_SHUFFLE: "shuffle",
    h5py.h5z.FILTER_FLETCHER32: "fletcher32",
    h5py.h5z.FILTER_LZF: "lzf",
}
CLASSES = (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.STRING)
AT_ONCE = 8 * 2**20  # bytes
STRINGS_AT_ONCE = 128
SECONDS, BYTES_A_SECOND = 0.5, 20e6  # of CPU time; several times what good files take
# bytes of memory beyond what the process has
ROOM, ROOM_A_BYTE, ROOM_AT_MOST = 64 * 2**20, 16, 320 * 2**20


class InvalidFileError(Exception):
    """A fault of a file, in words."""


def check(path: str, most: int | None) -> None:
    """Read all members and values of a file, except features of more than `most` bytes.

    Raises
    ------
    InvalidFileError : it is not a plain file of arrays. h5py may raise anything else.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - a path that is bytes or text
        raise InvalidFileError("is a folder, pipe or device")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InvalidFileError(f"cannot be opened as HDF5 ({error})") from error
    with file:
        _check_attribute(file)
        size = os.path.getsize(path)  # noqa: PTH202
        stored, text = 0, 0
        for name, data in _data_sets(file, DEPTH):
            stored += _check_described(name, data)
            if stored > size:
                raise InvalidFileError(
                    f"has data sets that share what is stored: {stored:,} bytes in a file of"
                    f" {size:,}"
                )
            if data.dtype.kind == "O":
                text = _read_strings(name, data, text, 4 * size + SPARE)
            elif most is None or data.nbytes <= most or not name.endswith("features"):
                _read(data)


def _check_attribute(file: h5py.File) -> None:
    if ATTRIBUTE not in file.attrs:
        return
    kind = file.attrs.get_id(ATTRIBUTE)
    if kind.get_type().get_class() != h5py.h5t.STRING or kind.shape != ():
        raise InvalidFileError(f"has an attribute {ATTRIBUTE!r} that is not a text")
    if len(str(file.attrs[ATTRIBUTE])) > ATTRIBUTE_BYTES:
        raise InvalidFileError(
            f"has an attribute {ATTRIBUTE!r} of more than {ATTRIBUTE_BYTES:,} characters"
        )


def _data_sets(
    group: h5py.Group, depth: int, seen: list[str] | None = None
) -> Iterator[tuple[str, h5py.Dataset]]:
    """Every data set with its full name, reached through hard links alone."""
    seen = [] if seen is None else seen
    for name in group:
        seen.append(name)
        if len(seen) > MEMBERS:
            raise InvalidFileError(f"has more than {MEMBERS} members")
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise InvalidFileError(
                f"has a link that leads elsewhere, {_short(name)} ({type(link).__name__})"
            )
        member = group[name]
        if isinstance(member, h5py.Dataset):
            yield f"{group.name.rstrip('/')}/{name}", member
        elif not isinstance(member, h5py.Group):
            raise InvalidFileError(
                f"has a member {_short(name)} that is neither a group nor a data set"
            )
        elif depth == 1:
            raise InvalidFileError(
                f"has groups more than {DEPTH - 1} deep, {_short(name)} among them"
            )
        else:
            yield from _data_sets(member, depth - 1, seen)


def _check_described(name: str, data: h5py.Dataset) -> int:
    """Check a data set's description before reading any of it; return its bytes as stored."""
    what = f"has a data set {_short(name)}"
    plan = data.id.get_create_plist()
    if data.is_virtual:
        raise InvalidFileError(f"{what} that is virtual, made of those of other files")
    if plan.get_external_count():
        raise InvalidFileError(f"{what} that is stored in another file")
    if data.id.get_type().get_class() not in CLASSES:
        raise InvalidFileError(
            f"{what} of compound or other unusual type, expected numbers or text"
        )
    filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
    if unknown := [number for number in filters if number not in FILTERS]:
        raise InvalidFileError(
            f"{what} with filter {unknown[0]}, expected {', '.join(FILTERS.values())} or none"
        )
    if data.shape is None:
        raise InvalidFileError(f"{what} without a shape")
    if data.chunks and (chunk := math.prod(data.chunks) * data.dtype.itemsize) > CHUNK_BYTES:
        raise InvalidFileError(
            f"{what} in chunks of {chunk:,} bytes, expected at most {CHUNK_BYTES:,}"
        )
    whole, stored = math.prod(data.shape) * data.dtype.itemsize, data.id.get_storage_size()
    ratio = RATIO[data.dtype.kind] if filters else 1
    if whole > ratio * stored + SPARE:
        raise InvalidFileError(
            f"{what} that says it holds {whole:,} bytes and stores {stored:,}, expected at most"
            f" {ratio} for each that is stored"
        )
    return stored


def _read(data: h5py.Dataset) -> None:
    if data.chunks:
        for piece in data.iter_chunks():
            data[piece]
    elif not data.shape:
        data[()]
    else:
        rows = max(1, AT_ONCE // max(1, data.nbytes // max(1, data.shape[0])))
        for start in range(0, data.shape[0], rows):
            data[start : start + rows]


def _read_strings(name: str, data: h5py.Dataset, before: int, most: int) -> int:
    """Read texts a few at a time, since many may share one long one; return the bytes so far."""
    if data.ndim != 1:
        raise InvalidFileError(
            f"has texts of shape {data.shape} in {_short(name)}, expected a list"
        )
    for start in range(0, data.shape[0], STRINGS_AT_ONCE):
        before += sum(len(text) for text in data[start : start + STRINGS_AT_ONCE])
        if before > most:
            raise InvalidFileError(
                f"has more text in {_short(name)} than fits into the file, one text many times"
            )
    return before


def _short(name: str) -> str:
    return repr(name if len(name) <= 60 else f"{name[:60]}...")


# The validating process


def report(path: str, most: int | None) -> str:
    """The fault of a file; empty if there is none."""
    try:
        check(path, most)
    except InvalidFileError as error:
        return str(error)
    except Exception as error:  # damaged HDF5 raises errors of many types
        no_memory = "memory allocation failed"  # HDF5's words
        if isinstance(error, MemoryError) or no_memory in str(error):
            return "needs far more memory than a file of its size should"
        return f"is not whole HDF5 ({str(error)[:300]!r})"
    return ""


def limit(size: int) -> None:
    """Limit this process to several times the time and memory that a good file of `size` needs."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with (
        contextlib.suppress(OSError),
        open("/proc/self/statm", encoding="ascii") as file,  # noqa: PTH123 - not on every system
    ):
        present = int(file.read().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = present + ROOM + min(ROOM_A_BYTE * size, ROOM_AT_MOST)
        resource.setrlimit(
            resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard)
        )
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    # its signal ends the process even inside HDF5
    signal.setitimer(signal.ITIMER_PROF, SECONDS + size / BYTES_A_SECOND)


def main() -> None:
    """Print a line once running, then the fault of the file in the argument, as a line of JSON."""
    print("ready", flush=True)
    request = json.loads(sys.argv[1])
    if hasattr(signal, "setitimer"):
        limit(os.path.getsize(request["path"]))  # noqa: PTH202
    fault = report(request["path"], request["most"]).encode("utf-8", "backslashreplace").decode()
    print(json.dumps(fault[:2000]), flush=True)
    os._exit(0)  # without HDF5's own closing of a damaged file


if __name__ == "__main__":
    main()
