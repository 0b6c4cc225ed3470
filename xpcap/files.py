"""Writing files so that a reader finds the old one or the new one, whole, and never a half."""

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PART = ".part"  # how names of files that are being written end


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A new file, open for writing bytes, that takes the place of `path` when the ``with`` ends well and is removed when it does not.

    It is written beside `path` under a name that nobody can guess, flushed to disk, and renamed; then its folder is flushed. Where `path` is a
    link, the link is replaced, and what it led to is left alone.

    Raises
    ------
    OSError : the place cannot be written to; it names `path`, not the temporary one.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
    try:
        with _create(temporary) as file:
            yield file
            _flush(file)
        _rename(temporary, path)
        _flush_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno or 0, error.strerror or str(error), str(path)) from error
    finally:
        with contextlib.suppress(NotADirectoryError):  # a parent that is no folder: there is nothing to remove
            temporary.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Remove what `atomic` was writing in a folder when its process was killed. To be called by whoever alone writes there."""
    for path in folder.glob(f".*{PART}"):
        if re.fullmatch(rf"\..+\.[0-9a-f]{{8}}{re.escape(PART)}", path.name):
            path.unlink()


def read_text(path: Path, most: int) -> str:
    """The text of a file of UTF-8 that holds at most `most` bytes.

    Raises
    ------
    ValueError : more bytes, no UTF-8, or no file but a pipe or device, which might never end. OSError : it cannot be opened.
    """
    # NONBLOCK: else opening a pipe waits for somebody to write to it. BINARY: else Windows changes line ends
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    about = os.fstat(handle)
    wrong = (
        "" if stat.S_ISREG(about.st_mode) else "a folder, expected a file" if stat.S_ISDIR(about.st_mode) else "a pipe or a device, expected a file"
    )
    if wrong or about.st_size > most:
        os.close(handle)
        raise ValueError(wrong or f"{about.st_size:,} bytes, expected at most {most:,}")
    with os.fdopen(handle, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"more than {most:,} bytes, expected at most that")
    return content.decode("utf-8")


def obstacle(path: Path) -> str:
    """Why a new file cannot be made at `path`, empty where it can: to be asked before the work that is to end there."""
    if path.exists() or path.is_symlink():
        return "exists, and is not overwritten; remove it or choose another name"
    if not path.parent.is_dir():
        return f"is to be in {path.parent}, which is no folder, expected one that is there; is the path right?"
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return f"is to be in {path.parent}, which may not be written to: Permission denied, expected a folder of your own"
    return ""


def write_text(path: Path, text: str) -> None:
    """Write a small text file in one piece."""
    with atomic(path) as file:
        file.write(text.encode("utf-8"))


# The steps of a write, one function each, so that tests can let any of them fail.


def _create(path: Path) -> BinaryIO:
    return path.open("xb+")


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _rename(temporary: Path, path: Path) -> None:
    temporary.replace(path)


def _flush_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # Windows cannot open a folder; its rename is as durable as it gets
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
