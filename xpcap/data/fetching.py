"""Fetches one large file over http or https, goes on where an earlier attempt stopped, and leaves the file whole or not at all."""

import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib import request
from urllib.error import HTTPError, URLError

from xpcap.errors import DataError
from xpcap.files import read_text, settle, write_text
from xpcap.progress import byte_bar

CHUNK = 1 << 16
WAIT = 30.0  # seconds without a byte after which a connection counts as broken
UNFINISHED, NOTES = ".part", ".part.json"  # added to the file's name: the bytes so far, and what they are the beginning of
NOTE_BYTES = 1 << 16
Say = Callable[[str], None]


@dataclass(frozen=True)
class Remote:
    """A file to fetch: where it is, its size and digest if they are known, and the most bytes to accept."""

    url: str
    bytes: int | None
    sha256: str | None
    most: int


@dataclass(frozen=True)
class Notes:
    """What the server said about the file whose first bytes are here. `validator` is what If-Range takes; empty if the server gave none."""

    url: str
    validator: str
    bytes: int | None


class _CutError(Exception):
    """The connection broke off, or answered something other than the rest of the file."""


def fetch(remote: Remote, path: Path, say: Say = lambda line: None, shown: bool = False) -> None:
    """Fetch a file to `path`, which does not exist yet.

    Bytes collect in a file beside it and stay there if the connection breaks or the process ends; the next call asks for the rest alone, and
    for everything if the server has another file by now or cannot send parts. A broken connection is taken up again as long as each attempt
    gets further than those before.

    Parameters
    ----------
    say : gets a line with the size before the first byte, and one for each break
    shown : draw a bar with the time left on a terminal

    Raises
    ------
    DataError : the server cannot be reached, has no such file, or its file has another size or digest. OSError : the disk cannot take it.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    if unfinished.is_symlink():
        raise DataError(f"fetch: {unfinished} is a link, expected a file of our own or none; remove it")
    furthest = -1
    while True:
        try:
            _attempt(remote, path, say, shown)
            break
        except _CutError as cut:
            here = _size(unfinished)
            if here <= furthest:
                raise DataError(
                    f"fetch: {remote.url} broke off ({cut}), expected the whole file; {amount(here)} are kept: run the same command again to go on, "
                    f"or fetch it by other means, as {path}"
                ) from cut
            furthest = here
            say(f"{path.name}: broke off after {amount(here)} ({cut}); going on")
    _check_digest(remote, unfinished)
    settle(unfinished, path)
    path.with_name(path.name + NOTES).unlink(missing_ok=True)


def amount(count: int) -> str:
    """A number of bytes for people."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count:,} bytes"


def check_room(function: str, folder: Path, needed: int, thing: str) -> None:
    """DataError : less than `needed` bytes are free where `folder` is."""
    if (free := shutil.disk_usage(folder).free) < needed:
        raise DataError(f"{function}: {folder} has {amount(free)} free, expected {amount(needed)} for {thing}; make room, or choose another disk")


def _attempt(remote: Remote, path: Path, say: Say, shown: bool) -> None:
    """One connection, from where we are to the end. _CutError : it did not get there."""
    unfinished, notes_file = (path.with_name(path.name + suffix) for suffix in (UNFINISHED, NOTES))
    notes = _read_notes(notes_file, remote)
    start = _size(unfinished) if notes else 0
    if not (notes and start and start == notes.bytes):  # else all of it is here, and a process ended before it said so
        before = _size(unfinished)
        with _ask(remote, path, notes, start) as answer:
            now, start = _continued(answer, notes, start, unfinished) if answer.status == 206 else (_offered(answer, remote), 0)
            _check_size(remote, now.bytes)
            check_room("fetch", path.parent, (now.bytes or 0) - start, path.name)
            if not start:
                unfinished.unlink(missing_ok=True)
                write_text(notes_file, json.dumps(asdict(now)))
            whole = amount(now.bytes) if now.bytes is not None else "a size that the server does not give"
            again = "; all of it again, as the server cannot go on from what is here" if before else ""
            say(f"{path.name}: {whole} from {answer.url} to {path}{f'; {amount(start)} are here already' if start else again}")
            with byte_bar(shown, path.name, now.bytes, start) as progress:
                _store(answer, unfinished, start, remote.most, progress)
        notes = now
    if notes.bytes is not None and _size(unfinished) != notes.bytes:
        raise _CutError(f"{_size(unfinished):,} bytes came, expected {notes.bytes:,}")


def _ask(remote: Remote, path: Path, notes: Notes | None, start: int) -> HTTPResponse:
    """Open the file from byte `start` on."""
    headers = {"User-Agent": "xpcap", "Accept-Encoding": "identity"}
    if start and notes:
        headers["Range"] = f"bytes={start}-"
        headers |= {"If-Range": notes.validator} if notes.validator else {}
    try:
        answer: HTTPResponse = _opener().open(request.Request(remote.url, headers=headers), timeout=WAIT)
    except (OSError, HTTPException) as error:  # OSError: URLError, HTTPError, and what sockets raise
        with error if isinstance(error, HTTPError) else io.BytesIO():  # an HTTPError is also an open response
            reason = str(error.reason) if isinstance(error, URLError) and not isinstance(error, HTTPError) else str(error) or type(error).__name__
        if isinstance(error, HTTPError) and error.code == 416:  # the server's file has become shorter than what is here
            path.with_name(path.name + UNFINISHED).unlink(missing_ok=True)
            raise _CutError("the server's file is another one by now; what was here of the old one is removed") from error
        if start and not isinstance(error, HTTPError):
            raise _CutError(reason) from error
        raise DataError(
            f"fetch: {remote.url} cannot be had ({' '.join(reason.split())}), expected the file; is there a network, or has it moved? "
            f"By hand: fetch it where there is one, put it at {path} and run the same command again"
        ) from error
    return answer


def _offered(answer: HTTPResponse, remote: Remote) -> Notes:
    """What an answer says about the file that it is going to send whole."""
    tag = answer.headers.get("ETag", "")
    length = answer.headers.get("Content-Length", "")
    validator = tag if tag.startswith('"') else answer.headers.get("Last-Modified", "")  # If-Range takes no weak tags
    return Notes(remote.url, validator, int(length) if re.fullmatch("[0-9]{1,15}", length) else None)


def _continued(answer: HTTPResponse, notes: Notes | None, start: int, unfinished: Path) -> tuple[Notes, int]:
    """The notes, if an answer sends exactly what is missing; else what is here is given up."""
    said = answer.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15})", said.strip())
    if notes is None or match is None or int(match[1]) != start or notes.bytes not in (None, int(match[3])):
        unfinished.unlink(missing_ok=True)
        raise _CutError(f"the server sends {said[:60] or 'a part'!r} when asked to go on at byte {start:,}; what was here is removed")
    return Notes(notes.url, notes.validator, int(match[3])), start


def _store(answer: HTTPResponse, unfinished: Path, start: int, most: int, progress: Any) -> None:
    """Append what comes to the file. OSError : the disk cannot take it, and the file keeps what came before."""
    with unfinished.open("ab") as file:
        size = start
        try:
            for part in _parts(answer):
                size += len(part)
                if size > most:
                    raise DataError(f"fetch: {answer.url} sends more than {amount(most)}, expected at most that; is it another file?")
                _write(file, part)
                progress.update(len(part))
        except OSError as error:
            raise OSError(
                error.errno or 0, f"{error.strerror or error}; {amount(_size(unfinished))} are kept, and the same command goes on", str(unfinished)
            ) from error


def _parts(answer: HTTPResponse) -> Iterator[bytes]:
    """The body of an answer. _CutError : it broke off; so faults of the network are told from those of the disk."""
    while True:
        try:
            part = answer.read1(CHUNK)
        except (OSError, HTTPException, ValueError) as error:  # ValueError: a chunk whose length is no number
            raise _CutError(" ".join(str(error).split()) or type(error).__name__) from error
        if not part:
            return
        yield part


def _write(file: io.BufferedWriter, part: bytes) -> None:
    file.write(part)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _read_notes(path: Path, remote: Remote) -> Notes | None:
    """What was noted about an earlier attempt at the same file; None if there was none or its notes are damaged, and all is fetched again."""
    try:
        notes = Notes(**json.loads(read_text(path, NOTE_BYTES)))
    except (FileNotFoundError, ValueError, TypeError, RecursionError):
        return None
    sound = isinstance(notes.validator, str) and notes.validator.isprintable() and (notes.bytes is None or type(notes.bytes) is int)
    return notes if sound and notes.url == remote.url else None


def _check_size(remote: Remote, size: int | None) -> None:
    if remote.bytes is not None and size not in (None, remote.bytes):
        raise DataError(f"fetch: {remote.url} has {size:,} bytes, expected {remote.bytes:,}; has it been replaced? Nothing was fetched")
    if size is not None and size > remote.most:
        raise DataError(f"fetch: {remote.url} has {amount(size)}, expected at most {amount(remote.most)}; is it another file? Nothing was fetched")


def _check_digest(remote: Remote, unfinished: Path) -> None:
    """Compare size and digest, as far as they are known; what does not agree is removed, since going on would not mend it."""
    size, wrong = _size(unfinished), ""
    if remote.bytes is not None and size != remote.bytes:
        wrong = f"has {size:,} bytes, expected {remote.bytes:,}"
    elif remote.sha256 is not None:
        with unfinished.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        wrong = "" if digest == remote.sha256 else f"has SHA-256 {digest}, expected {remote.sha256}"
    if wrong:
        unfinished.unlink()
        raise DataError(f"fetch: what came from {remote.url} {wrong}; damaged on its way, or replaced? It is removed")


class _Redirects(request.HTTPRedirectHandler):
    """Follows redirects without reading their bodies, which may be of any length."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> request.Request | None:
        fp.close()
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> request.OpenerDirector:
    """An opener for http and https alone, through the proxies of the environment; redirects keep to the two as well."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler,
        request.HTTPHandler,
        request.HTTPSHandler,
        _Redirects,
        request.HTTPDefaultErrorHandler,
        request.HTTPErrorProcessor,
        request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener
