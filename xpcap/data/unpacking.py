"""Unpacks a zip archive that nobody vouches for into one folder: everything is checked first, then each file is written whole."""

import io
import re
import stat
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xpcap.data.fetching import amount, check_room
from xpcap.data.npz import Sparing
from xpcap.errors import DataError
from xpcap.files import atomic, remove_parts
from xpcap.progress import byte_bar

CHUNK = 1 << 18
LONGEST_NAME = 200
RECORD = "download.json"  # in the folder, written last: where it came from, and the size and CRC of each file
DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)  # what Windows takes for a device in any folder


@dataclass(frozen=True)
class Limits:
    """The most that an archive may hold."""

    members: int
    bytes: int


@dataclass(frozen=True)
class Stored:
    """A file as an archive has it."""

    name: str  # its place in the folder, with "/"
    bytes: int
    crc: int


def unpack(path: Path, folder: Path, top: str, limits: Limits, shown: bool = False) -> list[Stored]:
    """Unpack an archive into `folder`. Names may begin with the folder `top`, which stands for `folder`; dates and permissions are dropped.

    Files that are there already are compared with the archive and left as they are. Nothing is written if any of them differs, or if the
    archive holds anything but files and folders, a name that leads out of the folder, a name twice, or more than `limits`.

    Raises
    ------
    DataError : one of these, or a damaged archive; files written before the damage was met are whole. OSError : the disk cannot take it.
    """
    with Sparing(io.FileIO(path)) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = _members(archive, top, limits)
                missing = [stored for stored in members if not _is_there(folder, stored, path)]
                folder.mkdir(parents=True, exist_ok=True)
                remove_parts(folder)
                check_room("unpack", folder, sum(stored.bytes for stored in missing), "what the archive holds")
                with byte_bar(shown, folder.name, sum(stored.bytes for stored in missing)) as progress:
                    for stored in missing:
                        _write_one(archive, members[stored], folder / stored.name, progress)
        except (DataError, OSError):
            raise
        except Exception as error:  # damaged archives raise errors of many types, from zipfile, zlib and struct
            raise DataError(
                f"unpack: {path} is damaged ({str(error)[:200]!r}), expected a zip archive; remove it and run the same command again to fetch it anew"
            ) from error
    return list(members)


def damaged(folder: Path, files: Sequence[Stored]) -> tuple[list[str], list[str]]:
    """Which of `files` are missing in `folder`, and which have other contents."""
    missing = [stored.name for stored in files if not (folder / stored.name).exists()]
    return missing, [stored.name for stored in files if stored.name not in missing and not _is_same(folder / stored.name, stored)]


def place_of(name: str) -> str:
    """A name in an archive, if it stays inside the folder on every system. ValueError : it does not."""
    parts = name.split("/")
    out = any(part in ("", ".", "..") or part != part.rstrip(". ") or DEVICES.fullmatch(part) for part in parts)
    if out or len(name) > LONGEST_NAME or not name.isprintable() or re.search(r'[\\:*?"<>|]', name):
        raise ValueError(f"the name {name[:100]!r}, expected a relative one without .., drive or device")
    return name


def _members(archive: zipfile.ZipFile, top: str, limits: Limits) -> dict[Stored, zipfile.ZipInfo]:
    """The files of an archive; its folders come with them."""
    infos = archive.infolist()
    if len(infos) > limits.members:
        raise _refused(archive, f"{len(infos):,} members, expected at most {limits.members:,}")
    if (size := sum(info.file_size for info in infos)) > limits.bytes:
        raise _refused(archive, f"{amount(size)} once unpacked, expected at most {amount(limits.bytes)}")
    members: dict[Stored, zipfile.ZipInfo] = {}
    for info in infos:
        if stored := _stored(archive, info, top):
            members[stored] = info
    names = [name.casefold() for name in (stored.name for stored in members)]
    if RECORD in names:
        raise _refused(archive, f"a file {RECORD}, expected none of that name")
    folders = {name[: match.start()] for name in names for match in re.finditer("/", name)}
    if len(set(names)) < sum(not info.is_dir() for info in infos) or folders & set(names):
        raise _refused(archive, "a name twice, expected each once")
    return members


def _stored(archive: zipfile.ZipFile, info: zipfile.ZipInfo, top: str) -> Stored | None:
    """One member as a file; None for a folder."""
    name = info.orig_filename  # zipfile's own `filename` is tidied up
    try:
        place = place_of(name.removesuffix("/"))
    except ValueError as error:
        raise _refused(archive, str(error)) from error
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _refused(archive, f"{name!r}, which is a link or a device, expected files")
    if info.flag_bits & 0x1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _refused(archive, f"{name!r}, which is encrypted, or compressed in a way of its own, expected deflate")
    if info.is_dir():
        return None
    return Stored(place.removeprefix(f"{top}/"), info.file_size, info.CRC)


def _refused(archive: zipfile.ZipFile, what: str) -> DataError:
    return DataError(f"unpack: {archive.fp.name} holds {what}; is it another archive? Nothing was unpacked")  # type: ignore[union-attr]


def _is_there(folder: Path, stored: Stored, archive: Path) -> bool:
    """Whether a file has been unpacked already. DataError : something else is in its place."""
    target = folder / stored.name
    inner = [folder.joinpath(*parents) for parents in _beginnings(stored.name)]
    if link := next((path for path in (*inner, target) if path.is_symlink() or (path in inner and path.exists() and not path.is_dir())), None):
        raise DataError(f"unpack: {link} is a link, or a file where a folder is to be, expected neither; move it away. Nothing was unpacked")
    if not target.exists():
        return False
    if not _is_same(target, stored):
        raise DataError(
            f"unpack: {target} is there and differs from {archive.name}, expected {stored.bytes:,} bytes with CRC {stored.crc:08x}; it is not "
            f"overwritten: move it away, or choose another folder with `to`. Nothing was unpacked"
        )
    return True


def _beginnings(name: str) -> list[list[str]]:
    parts = name.split("/")
    return [parts[:end] for end in range(1, len(parts))]


def _is_same(path: Path, stored: Stored) -> bool:
    if path.is_symlink() or not path.is_file() or path.stat().st_size != stored.bytes:
        return False
    crc = 0
    with path.open("rb") as file:
        while part := file.read(CHUNK):
            crc = zlib.crc32(part, crc)
    return crc == stored.crc


def _write_one(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, progress: Any) -> None:
    """Write one file, whole or not at all. At its end zipfile compares the CRC."""
    target.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with atomic(target) as file, archive.open(info) as stream:
        while part := stream.read(CHUNK):
            _write(file, part)
            size += len(part)
            progress.update(len(part))
        if size != info.file_size:
            raise ValueError(f"{info.filename} has {size:,} bytes, expected {info.file_size:,}")


def _write(file: Any, part: bytes) -> None:
    file.write(part)
