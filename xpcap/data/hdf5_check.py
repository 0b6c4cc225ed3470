"""The process that screens an HDF5 file for `xpcap.data.hdf5`: it reads the file to its end.

A script, run once a file with little time and memory, since HDF5 may loop for ever on a damaged
one. It imports nothing of this package. Beyond that, a file may hold no more than its size can, and
nothing that lies in other files.
"""

import contextlib
import json
import os
import signal
import sys

import h5py

ATTRIBUTE = "xpcap"
DTYPE_KINDS = "iufSO"  # of NumPy; what else HDF5 knows may hide texts that share what is stored
RATIO = 200  # most bytes for each stored one, of compressed data; lzf reaches 90, sorted numbers 50
SPARE = 2**18  # bytes beyond that: fill values, and small things that compress well
AT_ONCE = 8 * 2**20  # bytes
STRINGS_AT_ONCE = 128
SECONDS, BYTES_A_SECOND = 0.5, 20e6  # of CPU time; several times what good files take
# bytes of memory beyond what the process has
ROOM, ROOM_A_BYTE, ROOM_AT_MOST = 64 * 2**20, 16, 320 * 2**20


class InvalidFileError(Exception):
    """A fault of a file, in words."""


def check(path: str, most: int | None) -> None:
    """Read all members and values of a file, except features of more than `most` bytes.

    InvalidFileError : it leads to other files, or claims more than it stores. h5py may raise
        anything else.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InvalidFileError(f"cannot be opened as HDF5 ({error})") from error
    file.attrs.get(ATTRIBUTE)
    links: list[tuple[str, object]] = []
    file.visititems_links(lambda *link: links.append(link))  # each group once, in a circle too
    size = os.path.getsize(path)  # noqa: PTH202 - a path that is bytes or text
    left = float(size + SPARE)
    for name, link in links:
        if not isinstance(link, h5py.HardLink):
            raise InvalidFileError(
                f"has a link that leads elsewhere, {name[:60]!r} ({type(link).__name__})"
            )
        data = file[name]
        if not isinstance(data, h5py.Dataset):
            continue
        plan = data.id.get_create_plist()
        if data.is_virtual or plan.get_external_count():
            raise InvalidFileError(f"has a data set {name[:60]!r} that is stored in another file")
        if data.dtype.kind not in DTYPE_KINDS:
            raise InvalidFileError(
                f"has a data set {name[:60]!r} of unusual type, expected numbers or text"
            )
        left -= data.nbytes / (RATIO if plan.get_nfilters() else 1)
        if left >= 0 and (most is None or data.nbytes <= most or not name.endswith("features")):
            left -= _read(data, left)
        if left < 0:
            raise InvalidFileError(
                f"says that it holds more than fits into its {size:,} bytes, with {name[:60]!r}"
                f" of {data.nbytes:,} bytes"
            )


def _read(data: h5py.Dataset, most: float) -> int:
    """Read a data set; return the bytes of its texts, which may share what is stored.

    Of more than `most` bytes the rest is not read.
    """
    if not data.shape:
        data[()]
    elif data.dtype.kind == "O":
        text = 0
        for start in range(0, data.shape[0], STRINGS_AT_ONCE):
            text += sum(map(len, data[start : start + STRINGS_AT_ONCE].ravel()))
            if text > most:
                break
        return text
    elif data.chunks:
        for piece in data.iter_chunks():
            data[piece]
    else:
        rows = max(1, AT_ONCE // max(1, data.nbytes // max(1, data.shape[0])))
        for start in range(0, data.shape[0], rows):
            data[start : start + rows]
    return 0


# The screening process


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
