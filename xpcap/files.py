"""Reading and writing files: a reader finds the old file or the new one, never half of one."""

import contextlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from xpcap.errors import DataError, InvalidValueError, XpcapError

PART = ".part"  # suffix of files that are being written


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A new file, open for writing bytes, that replaces `path` if the ``with`` block succeeds.

    It is written in the same folder under a name that cannot be guessed, flushed to disk and
    renamed; then its folder is flushed. If the block fails it is removed. If `path` is a link, the
    link is replaced and its target left alone.

    Raises
    ------
    OSError : the file cannot be written; it names `path`, not the temporary name.
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
        # the parent may be no folder, with nothing to remove
        with contextlib.suppress(NotADirectoryError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` if the ``with`` block succeeds, and else is removed."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
    try:
        temporary.mkdir()
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_parts(folder: Path) -> None:
    """Remove temporary files of a killed process from a folder that nobody writes to now."""
    for path in folder.glob(f".*{PART}"):
        if re.fullmatch(rf"\..+\.[0-9a-f]{{8}}{re.escape(PART)}", path.name):
            path.unlink()


def read_text(path: Path, most: int) -> str:
    """The text of a UTF-8 file of at most `most` bytes.

    Raises
    ------
    ValueError : more bytes, not UTF-8, or a pipe or device, which might never end. OSError : it
        cannot be opened.
    """
    # NONBLOCK: a pipe may have no writer; BINARY: Windows would change line ends
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    about = os.fstat(handle)
    wrong = ""
    if not stat.S_ISREG(about.st_mode):
        kind = "a folder" if stat.S_ISDIR(about.st_mode) else "a pipe or a device"
        wrong = f"is {kind}"
    if wrong or about.st_size > most:
        os.close(handle)
        raise InvalidValueError(
            "read_text",
            path,
            wrong or f"has {about.st_size:,} bytes",
            expected=f"a file of at most {most:,} bytes",
        )
    with os.fdopen(handle, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        came = f"has more than {most:,} bytes"
        raise InvalidValueError("read_text", path, came, expected=f"at most {most:,}")
    return content.decode("utf-8")


def require_new_file(function: str, path: Path, error: type[XpcapError] = DataError) -> None:
    """Raise `error` if no new file can be made at `path`. Call it before long work."""
    folder = path.parent
    if path.exists() or path.is_symlink():
        cause = "remove it, or choose another name"
        raise error(function, path, "exists, and is not overwritten", cause=cause)
    if not folder.is_dir():
        came = f"is to go into {folder}, which is no folder"
        raise error(function, path, came, expected="an existing one", cause="is the path right?")
    if not os.access(folder, os.W_OK | os.X_OK):
        came = f"is to go into {folder}, which may not be written to: Permission denied"
        raise error(function, path, came, expected="a folder of your own")


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic(path) as file:
        file.write(text.encode("utf-8"))


# The steps of a write, one function each, so that tests can make any of them fail.


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
