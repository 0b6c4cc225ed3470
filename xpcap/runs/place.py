"""The place that a run is trained in: whether it is free, making it, keeping other trainers out, and clearing what a killed one left."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from xpcap.errors import DataError
from xpcap.files import PART, remove_parts
from xpcap.runs.folder import CONFIG, DATA, FIRST, LAST, LOCK, PICTURES


def check_free(path: Path) -> None:
    """DataError : something exists at `path`."""
    if path.exists() or path.is_symlink():
        raise DataError(
            f"train_run: {path} exists, and a run is never overwritten; choose another `out`, continue it with `resume` if it is a run, or remove it"
        )


def check_resumable(path: Path) -> None:
    """DataError : something other than a run exists at `path`. A folder in which a run was killed before it had a config counts as free."""
    if has_run(path):
        return
    left = [file.name for file in path.iterdir()] if path.is_dir() else ["a file"] if path.exists() or path.is_symlink() else []
    if strange := [name for name in left if name not in (LOCK, FIRST) and not name.endswith(PART)]:
        raise DataError(f"train_run: {path} holds {strange[0]!r} and no {CONFIG}, expected a run to continue, or a free place; is `out` right?")


def has_run(path: Path) -> bool:
    """Whether there is a run at `path`."""
    return (path / CONFIG).is_file()


def is_saved(path: str | Path | None) -> bool:
    """Whether there is a run at `path`, or the first stage of one, with a checkpoint to continue from."""
    return path is not None and any(has_run(folder) and (folder / LAST).is_file() for folder in (Path(path), Path(path) / FIRST))


def has_data(path: str | Path) -> bool:
    """True if the generated data of the run at `path`, or of its first stage, is there."""
    return any((folder / DATA).is_file() for folder in (Path(path), Path(path) / FIRST))


@contextlib.contextmanager
def reserved(path: Path, may_exist: bool) -> Iterator[None]:
    """Make a folder and keep other trainers out of it meanwhile. If the work fails before a first checkpoint, what was made is removed.

    Raises
    ------
    DataError : another process trains there. OSError : it cannot be made, or locked.
    """
    made = _make(path, may_exist)
    with lock(path):
        try:
            yield
        except BaseException:
            if made and not (path / LAST).exists() and not (path / FIRST / LAST).exists():
                shutil.rmtree(path, ignore_errors=True)
                _remove_empty(made)
            raise


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Keep other trainers out of a run folder meanwhile. The lock is the operating system's, so it ends with the process, however that ends.

    Raises
    ------
    DataError : another process holds it. OSError : the file system has no locks, or the folder cannot be written to.
    """
    from filelock import FileLock, Timeout

    held = FileLock(path / LOCK, timeout=0)
    try:
        held.acquire()
    except Timeout:
        raise DataError(f"train_run: {path} is being trained by another process, expected none; wait for it to end, or stop it first") from None
    except NotImplementedError as error:
        raise OSError(0, f"no file locks there ({error}); choose a local disk", str(path)) from error
    try:
        yield
    finally:
        held.release()


def tidy(path: Path) -> None:
    """Remove what a killed process was writing in a run folder."""
    remove_parts(path)
    pictures = path / f".{PICTURES}{PART}"
    if pictures.is_dir() and not pictures.is_symlink():
        shutil.rmtree(pictures)


def _make(path: Path, may_exist: bool) -> list[Path]:
    """Make a folder and its parents; return those that were missing. What another process makes meanwhile is its own."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=may_exist)
    except OSError:
        _remove_empty(missing)
        raise
    return missing


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):  # not made yet, or in use by another process by now
            folder.rmdir()
