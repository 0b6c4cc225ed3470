"""Picture files in folders and their subfolders, found by the ends of their names."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from xpcap.errors import DataError
from xpcap.work import notice

SUFFIXES = tuple(
    ".jpg .jpeg .jfif .png .gif .webp .avif .bmp .tif .tiff .ppm .pgm .heic .heif".split()
)
RAW = (".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".dng", ".pef", ".srw")  # of cameras
OF_THE_SYSTEM = ("thumbs.db", "desktop.ini")  # Windows leaves these in folders of pictures
LISTED = 6  # suffixes in a notice


class Found(NamedTuple):
    """Files of a folder, by the ends of their names, and unreadable folders, with the reason."""

    pictures: list[Path]
    others: list[Path]
    unreadable: dict[Path, str]


def search_folder(caller: str, folder: Path) -> Found:
    """Search a folder: its own files by name, then those of each folder in it.

    Hidden files and folders, whose names begin with a dot, are left out, and the `text_names` of a
    picture, as `caption` writes them. Links are followed, but no folder is searched twice.

    DataError : the folder cannot be read; one in it that cannot is left out.
    """
    found = Found([], [], {})
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
                raise _unreadable(caller, folder, error) from error
            found.unreadable[current] = error.strerror or str(error)
            continue
        stack += [current / name for name, is_folder in reversed(inside) if is_folder]
        files = [current / name for name, is_folder in inside if not is_folder]
        pictures = [file for file in files if file.suffix.lower() in SUFFIXES]
        texts = (picture.with_name(name) for picture in pictures for name in text_names(picture))
        no_others = {*pictures, *texts}
        found.pictures.extend(pictures)
        found.others.extend(
            file
            for file in files
            if file not in no_others and file.name.lower() not in OF_THE_SYSTEM
        )
    return found


def text_names(picture: Path) -> tuple[str, str]:
    """Names of the text next to a picture: of the only picture of its stem, and of one of several."""
    return f"{picture.stem}.txt", f"{picture.name}.txt"


def find_pictures(paths: Iterable[str | Path] | str | Path) -> list[Path]:
    """The files among `paths`, each folder replaced by its pictures in `search_folder` order.

    paths : of files and folders, or one of them

    No file is opened: one that is no picture is found out by reading. The other files of a folder,
    and folders in it that cannot be read, are named in a notice.

    DataError : a folder without a picture, or one that cannot be read.
    """
    pictures: list[Path] = []
    listed = [paths] if isinstance(paths, str | Path) else paths
    for path in map(Path, listed):
        try:
            is_folder = path.is_dir()
        except OSError as error:
            raise _unreadable("find_pictures", path, error) from error
        if not is_folder:
            pictures.append(path)
            continue
        inside = search_folder("find_pictures", path)
        notices = describe_rest(path, inside.others, inside.unreadable)
        if not inside.pictures:
            got = "holds no picture, nor do folders in it"
            expected = f"files that end in {', '.join(SUFFIXES)}"
            raise DataError("find_pictures", path, got, expected, "; ".join(notices))
        for text in notices:
            notice(text)
        pictures += inside.pictures
    return pictures


def describe_rest(
    folder: Path, others: Sequence[str | Path], unreadable: Mapping[Path, str]
) -> list[str]:
    """Notices on a folder's other files, and on each folder in it that cannot be read.

    ``4 other files in photos not looked at: 2 .cr2, 1 .mp4, 1 .pdf``, with a hint for a camera's
    RAW files.
    """
    notices = []
    if others:
        counts = Counter(Path(file).suffix.lower() or "without a suffix" for file in others)
        shown = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        listed = ", ".join(f"{count:,} {suffix[:20]}" for suffix, count in shown[:LISTED])
        more = ", ..." if len(shown) > LISTED else ""
        raw = "; a camera's RAW files are not read: export them as JPEG"
        hint = raw if counts.keys() & set(RAW) else ""
        files = f"{len(others):,} other {'file' if len(others) == 1 else 'files'}"
        notices.append(f"{files} in {folder} not looked at: {listed}{more}{hint}")
    return notices + [f"folder {inner} cannot be read: {why}" for inner, why in unreadable.items()]


def _unreadable(caller: str, path: Path, error: OSError) -> DataError:
    return DataError(
        caller,
        path,
        f"cannot be read: {error.strerror or error}",
        expected="pictures",
        cause="is the path right, and may it be read?",
    )


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and Path(entry).is_dir())
