"""Find picture files in folders and their subfolders, by their suffixes."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from xpcap.distributed.work import notice
from xpcap.errors import DataError

SUFFIXES = tuple(
    ".jpg .jpeg .jfif .png .gif .webp .avif .bmp .tif .tiff .ppm .pgm .heic .heif".split()
)
RAW = (".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".dng", ".pef", ".srw")  # of cameras
SYSTEM_FILES = ("thumbs.db", "desktop.ini")  # Windows puts these into folders of pictures
MAX_SUFFIXES = 6  # in a notice


class FolderFiles(NamedTuple):
    """Pictures and other files of a folder, and unreadable subfolders with the reason."""

    pictures: list[Path]
    others: list[Path]
    unreadable: dict[Path, str]


def search_folder(folder: Path) -> FolderFiles:
    """Search a folder and its subfolders: a folder's files by name, then those of its subfolders.

    Hidden files and folders, whose names begin with a dot, are skipped, as are the `text_names` of a
    picture, which `caption` writes. Links are followed, but no folder is searched twice.

    DataError : the folder cannot be read. Unreadable subfolders are skipped.
    """
    files_found = FolderFiles([], [], {})
    searched: set[tuple[int, int]] = set()
    stack = [folder]
    while stack:
        current = stack.pop()
        try:
            status = current.stat()
            if (status.st_dev, status.st_ino) in searched:
                continue
            searched.add((status.st_dev, status.st_ino))
            with os.scandir(current) as entries:
                inside = sorted(
                    (entry.name, _is_folder(entry))
                    for entry in entries
                    if not entry.name.startswith(".")
                )
        except OSError as error:
            if current is folder:
                raise _unreadable(folder, error) from error
            files_found.unreadable[current] = error.strerror or str(error)
            continue
        stack += [current / name for name, is_folder in reversed(inside) if is_folder]
        files = [current / name for name, is_folder in inside if not is_folder]
        pictures = [file for file in files if file.suffix.lower() in SUFFIXES]
        texts = (picture.with_name(name) for picture in pictures for name in text_names(picture))
        expected = {*pictures, *texts}
        files_found.pictures.extend(pictures)
        files_found.others.extend(
            file for file in files if file not in expected and file.name.lower() not in SYSTEM_FILES
        )
    return files_found


def text_names(picture: Path) -> tuple[str, str]:
    """Names of the text of a picture; the second is for pictures that share their stem."""
    return f"{picture.stem}.txt", f"{picture.name}.txt"


def find_pictures(paths: Iterable[str | Path] | str | Path) -> list[Path]:
    """The files among `paths`, each folder replaced by its pictures in `search_folder` order.

    No file is opened, so a path of `paths` need not be a picture. Notices name other files of a
    folder, and subfolders that cannot be read.

    paths : files and folders, or one of them
    DataError : a folder has no picture, or cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Path(folder, "b.png").touch()
    ...     [path.name for path in find_pictures(["a.jpg", folder])]
    ['a.jpg', 'b.png']
    """
    pictures: list[Path] = []
    listed = [paths] if isinstance(paths, str | Path) else paths
    for path in map(Path, listed):
        try:
            is_folder = path.is_dir()
        except OSError as error:
            raise _unreadable(path, error) from error
        if not is_folder:
            pictures.append(path)
            continue
        inside = search_folder(path)
        notices = describe_rest(path, inside.others, inside.unreadable)
        if not inside.pictures:
            raise DataError(
                f"{path} holds no picture, nor do its subfolders, expected files that end in"
                f" {', '.join(SUFFIXES)}; {'; '.join(notices)}"
            )
        for text in notices:
            notice(text)
        pictures += inside.pictures
    return pictures


def describe_rest(
    folder: Path, others: Sequence[str | Path], unreadable: Mapping[Path, str]
) -> list[str]:
    """Notices of a folder's other files, and of each subfolder that cannot be read.

    Such as ``4 other files in photos ignored: 2 .cr2, 1 .mp4, 1 .pdf``, with a hint for RAW files.
    """
    notices = []
    if others:
        counts = Counter(Path(file).suffix.lower() or "without a suffix" for file in others)
        shown = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        listed = ", ".join(f"{count:,} {suffix[:20]}" for suffix, count in shown[:MAX_SUFFIXES])
        more = ", ..." if len(shown) > MAX_SUFFIXES else ""
        raw = "; RAW files of cameras cannot be read: export them as JPEG"
        hint = raw if counts.keys() & set(RAW) else ""
        files = f"{len(others):,} other {'file' if len(others) == 1 else 'files'}"
        notices.append(f"{files} in {folder} ignored: {listed}{more}{hint}")
    return notices + [f"folder {inner} cannot be read: {why}" for inner, why in unreadable.items()]


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"{path} cannot be read: {error.strerror or error}, expected pictures; check the path and"
        " its permissions"
    )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and Path(entry).is_dir())
