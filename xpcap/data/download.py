"""Data sets from the network: a table of archives, and the way from a name to a folder that is complete and checked."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xpcap.data.cs231n import PLACES
from xpcap.data.fetching import NOTES, UNFINISHED, Remote, Say, fetch
from xpcap.data.unpacking import RECORD, Limits, Stored, damaged, place_of, unpack
from xpcap.errors import DataError, unknown
from xpcap.files import read_text, write_text

RECORD_BYTES = 1 << 20


@dataclass(frozen=True)
class Archive:
    """A zip archive and where it goes."""

    file: str
    remote: Remote
    top: str  # the folder that its names begin with
    places: tuple[str, ...]  # where its reader looks for that folder, first to last
    limits: Limits
    unpacked: str  # its size, for people


ARCHIVES = {
    # The address is that of the course's get_coco_captioning.sh, over https. The course publishes neither a size nor a digest. Unpacked it holds
    # 4096 and 512 float32 numbers for each of 82,783 + 40,504 pictures, 2.3 GB, and captions.
    "cs231n": Archive(
        file="coco_captioning.zip",
        remote=Remote("https://cs231n.stanford.edu/coco_captioning.zip", bytes=None, sha256=None, most=3 * 10**9),
        top="coco_captioning",
        places=PLACES,
        limits=Limits(members=64, bytes=8 * 10**9),
        unpacked="about 2.3 GB",
    )
}


@dataclass(frozen=True)
class Downloaded:
    """A folder that is complete: its files agree with the archive's sizes and CRCs."""

    folder: Path
    files: int
    bytes: int
    fetched: bool  # False: it was complete before


def download(name: str, to: str | Path | None = None, say: Say = lambda line: None, shown: bool = False) -> Downloaded:
    """Fetch an archive, check it and unpack it; or check the folder if that was done before.

    The archive is kept beside the folder until it is unpacked, then removed. One that is there already is used without a network, and kept.
    Whatever interrupts this, the same call goes on from there.

    Parameters
    ----------
    name : one of ARCHIVES
    to : the folder for its files; None: where its reader looks
    say : gets the lines that a user should see meanwhile, the size before the first byte among them
    shown : draw bars on a terminal

    Raises
    ------
    OptionError : no archive of that name. DataError : it cannot be had, is damaged or hostile, or the folder holds other files. OSError : the
        disk cannot take it.
    """
    if name not in ARCHIVES:
        raise unknown("download", "the data set", name, ARCHIVES)
    archive = ARCHIVES[name]
    folder = default_folder(archive) if to is None else Path(to)
    if complete := _complete(folder):
        return complete
    path = folder.parent / archive.file
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path):
        fetched = path.with_name(f".{path.name}.fetched")  # an archive without this mark is the user's
        if path.exists():
            say(f"{path}: is here already; nothing is fetched")
        else:
            compared = "; those that are there are compared" if folder.is_dir() and any(folder.iterdir()) else ""
            say(f"{name}: fetching {archive.file}; its files, {archive.unpacked}, go to {folder}{compared}")
            fetched.unlink(missing_ok=True)
            fetch(archive.remote, path, say, shown)
            fetched.touch()
        files = unpack(path, folder, archive.top, archive.limits, shown)
        stored = {file.name: [file.bytes, file.crc] for file in files}
        write_text(folder / RECORD, json.dumps({"url": archive.remote.url, "files": stored}, indent=1))
        if fetched.exists():
            path.unlink()
        for rest in (fetched, *(path.with_name(path.name + suffix) for suffix in (UNFINISHED, NOTES))):
            rest.unlink(missing_ok=True)
    return Downloaded(folder, len(files), sum(file.bytes for file in files), fetched=True)


def default_folder(archive: Archive) -> Path:
    """The first place that is there, else the first whose parent is there, else the first: there the reader finds it."""
    places = [Path(place) for place in archive.places]
    there = [place for place in places if place.is_dir()] + [place for place in places if place.parent.is_dir()]
    return (there + places)[0]


def _complete(folder: Path) -> Downloaded | None:
    """A folder with a record, checked; None without a record, or if files are missing that can be unpacked again."""
    path = folder / RECORD
    try:
        files = [Stored(place_of(name), size, crc) for name, (size, crc) in json.loads(read_text(path, RECORD_BYTES))["files"].items()]
        if not all(type(number) is int for stored in files for number in (stored.bytes, stored.crc)):
            raise TypeError("sizes and CRCs are whole numbers")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"download: {path} is not the record of a download, expected one or none; altered? Remove it ({error!r})") from error
    missing, wrong = damaged(folder, files)
    if wrong:
        raise DataError(
            f"download: {folder} holds {', '.join(wrong[:5])}, which differ from what was downloaded, expected them unchanged; "
            "remove them and run the same command again to fetch them anew"
        )
    return None if missing else Downloaded(folder, len(files), sum(stored.bytes for stored in files), fetched=False)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other downloads of the same archive out meanwhile. The lock is the operating system's, so it ends with the process."""
    from filelock import FileLock, Timeout

    held = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
    try:
        held.acquire()
    except Timeout:
        raise DataError(f"download: {path} is being fetched by another process, expected none; wait for it to end, or stop it first") from None
    except NotImplementedError as error:
        raise OSError(0, f"no file locks there ({error}); choose a local disk", str(path)) from error
    try:
        yield
    finally:
        held.release()
