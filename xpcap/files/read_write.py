"""Read and write files: a reader finds the old file or the new one, never half of one."""

import contextlib
import errno
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from xpcap.errors import DataError, XpcapError

PART = ".part"  # suffix of unfinished files
NO_ROOM = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)  # for a file


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A new file, open for writing bytes, that replaces `path` if the ``with`` block succeeds.

    It is written in the same folder under a name that cannot be guessed, flushed to disk and
    renamed; then its folder is flushed. If the block fails it is removed. If `path` is a link, the
    link is replaced and its target left alone.

    OSError : the file cannot be written; it names `path`, not the temporary name.
    """
    temporary = _part_of(path)
    try:
        with _create(temporary) as file:
            yield file
            _flush(file)
        _rename(temporary, path)
        _flush_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno or 0, error.strerror or str(error), str(path)) from error
    finally:
        # if the parent is no folder, there is nothing to remove
        with contextlib.suppress(NotADirectoryError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_path(
    path: str | Path, suffix: str = "", error: type[XpcapError] = DataError
) -> Iterator[Path]:
    """A temporary path for a file or folder, which becomes `path` if the ``with`` block succeeds.

    Nothing is overwritten, not even a file that another process creates at `path` meanwhile. If the
    block fails, the temporary file or folder is removed.

    XpcapError : of the class `error`, as `require_new_file` raises it, before the block or after it.
    OSError : `path` cannot be made; the error does not name the temporary path.
    """
    path = Path(path)
    require_new_file(path, suffix, error)
    part = _part_of(path)
    try:
        yield part
        try:
            _place(part, path)
        except FileExistsError as exists:
            raise _exists(error, path) from exists
        _flush_folder(path.parent)
    except OSError as failure:
        file = Path(failure.filename or part)
        if not file.is_relative_to(part):
            raise  # the block failed at another file, such as its input
        name = str(path / file.relative_to(part))
        raise OSError(failure.errno or 0, failure.strerror or str(failure), name) from failure
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def new_file(
    path: str | Path, suffix: str = "", error: type[XpcapError] = DataError
) -> Iterator[BinaryIO]:
    """A new file, open for writing bytes, which becomes `path` as in `new_path`."""
    with new_path(path, suffix, error) as part, _create(part) as file:
        yield file
        _flush(file)


def write_new(
    path: str | Path,
    content: bytes | str,
    suffix: str = "",
    error: type[XpcapError] = DataError,
) -> None:
    """Write a new file whole, or not at all, as in `new_path`. Text is written in UTF-8."""
    with new_file(path, suffix, error) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


@contextlib.contextmanager
def new_folder(path: str | Path, error: type[XpcapError] = DataError) -> Iterator[Path]:
    """A folder to fill, which becomes `path` as in `new_path`."""
    with new_path(path, error=error) as part:
        part.mkdir()
        yield part


def _part_of(path: Path) -> Path:
    """A path in the same folder with a name that cannot be guessed."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")


def lock(file: BinaryIO, held: XpcapError) -> None:
    """Lock an open file against other processes until it is closed or this process ends.

    The file's position may change.

    held : the error to raise if another process has the lock. OSError : the file system has no locks.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(file.fileno(), 1 << 60, os.SEEK_SET)  # beyond every byte that is used
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        raise held from error
    except OSError as error:
        reason = f"no file locks there ({error}); choose a local disk"
        raise OSError(error.errno or 0, reason, str(file.name)) from error


def is_text(name: str) -> bool:
    """True if a file's name is text that UTF-8 can encode, not just bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def remove_parts(folder: Path) -> None:
    """Remove the unfinished files of a killed process from a folder that no process writes to."""
    for path in folder.glob(f".*{PART}"):
        if re.fullmatch(rf"\..+\.[0-9a-f]{{8}}{re.escape(PART)}", path.name):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def size_of(path: Path, expected: str) -> int:
    """The size of a file in bytes. DataError : it is missing, or not a file."""
    try:
        if path.is_file():
            return path.stat().st_size
        got = "is not a file" if path.exists() else "does not exist"
    except OSError as error:
        got = f"cannot be read: {error.strerror}"
    raise DataError(f"{path} {got}, expected {expected}; is the path right?")


def read_bytes(path: Path, max_bytes: int, expected: str) -> bytes:
    """The content of a file. DataError : it is missing, not a file, or larger than `max_bytes`."""
    if (size := size_of(path, expected)) > max_bytes:
        expected = f"{expected}, of at most {max_bytes:,} bytes"
        raise DataError(f"{path} has {size:,} bytes, expected {expected}; is the path right?")
    return path.read_bytes()


def read_text(path: Path, max_bytes: int, expected: str) -> str:
    """The text of a UTF-8 file. DataError : as of `read_bytes`, or it is not UTF-8."""
    try:
        return read_bytes(path, max_bytes, expected).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text: {error}, expected {expected}; damaged?") from error


def check_format(path: object, version: object, known: int) -> None:
    """Raise DataError if a file has another format version than `known`."""
    got = f"has format {version!r:.60}"
    if type(version) is int and version > known:
        raise DataError(
            f"{path} {got}, expected {known}; it was made by a newer xpcap: upgrade this one"
        )
    if type(version) is not int or version != known:
        raise DataError(f"{path} {got}, expected {known}; damaged, or another program's?")


def require_new_file(
    path: str | Path, suffix: str = "", error: type[XpcapError] = DataError
) -> None:
    """Raise `error` if no new file can be made at `path`, or its name lacks the suffix.

    Call it before long work; `new_path` asks again.
    """
    path = Path(path)
    folder = path.parent
    if suffix and path.suffix.lower() != suffix:
        raise error(
            f"{path} does not end in {suffix}, expected a name that does; are the arguments in"
            " order?"
        )
    if os.path.lexists(path):
        raise _exists(error, path)
    if not folder.is_dir():
        raise error(
            f"{path} is to go into {folder}, which is not a folder, expected an existing one; is"
            " the path right?"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise error(
            f"{path} is to go into {folder}, which may not be written to: Permission denied,"
            " expected a writable folder"
        )


def first_free(folder: Path, stem: str, suffix: str = "") -> Path:
    """The first unused path in a folder: STEM, STEM-2, STEM-3, ..., with the suffix."""
    k = 1
    while (path := folder / f"{stem}{'' if k == 1 else f'-{k}'}{suffix}").exists():
        k += 1
    return path


def _exists(error: type[XpcapError], path: Path) -> XpcapError:
    return error(f"{path} exists, and is not overwritten; remove it, or choose another name")


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic(path) as file:
        file.write(text.encode("utf-8"))


def write_advice(error: OSError, folder: Path) -> str:
    """Advice after a failed write to a folder: what it needed, and what to do."""
    if error.errno in NO_ROOM and error.errno != errno.EFBIG:
        while not folder.exists() and folder.parent != folder:
            folder = folder.parent  # a new folder has been removed again
        try:
            megabytes = shutil.disk_usage(folder).free / 1e6
            free = f"{megabytes:,.1f} MB are free on the disk of {folder}"
        except OSError as problem:
            free = f"free space unknown: {problem.strerror}"
        return (
            f"expected room for a new file, and an old one until it is replaced ({free}); free some"
            " space, or raise your quota"
        )
    if error.errno == errno.EFBIG:
        return "expected a higher limit on file sizes; raise it (ulimit -f)"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"expected a folder that may be written to; check the permissions of {folder}, and that"
            " its disk is not mounted read-only"
        )
    return "expected a working disk; check that it is not failing or unplugged"


# Each step of a write is a function, so that tests can make any of them fail.


def _create(path: Path) -> BinaryIO:
    return path.open("xb+")


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _rename(temporary: Path, path: Path) -> None:
    temporary.replace(path)


def _place(part: Path, path: Path) -> None:
    """Move a new file or folder to its name. FileExistsError : the name is taken by now."""
    if os.name == "nt":
        part.rename(path)  # fails if `path` exists
    elif part.is_dir():
        path.mkdir()
        part.rename(path)  # replaces the empty folder
    else:
        try:
            os.link(part, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links, such as FAT
            path.touch(exist_ok=False)
            part.replace(path)


def _flush_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # Windows cannot open a folder to flush it
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
