"""Writing files so that a reader finds the old one or the new one, whole, and never a half."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`: what is written there is flushed to disk and renamed when the ``with`` ends well, else removed.

    Raises
    ------
    OSError : the place cannot be written to; it names `path`, not the temporary one.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno or 0, error.strerror or str(error), str(path)) from error
    finally:
        with contextlib.suppress(NotADirectoryError):  # a parent that is no folder: there is nothing to remove
            temporary.unlink(missing_ok=True)


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
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _flush_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # Windows cannot open a folder; its rename is as durable as it gets
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
