"""Downloads pictures: one URL in, one array out, within limits on size, time and the addresses it connects to."""

import io
from http.client import HTTPException
from urllib.error import HTTPError, URLError

import numpy as np

from xpcap.encoders.visiting import Visit
from xpcap.errors import DataError
from xpcap.progress import say

MOST_BYTES = 20_000_000
CHUNK = 65_536
SECONDS = 20.0


def is_url(text: object) -> bool:
    """Whether something is the text of an http or https URL, and no path."""
    return isinstance(text, str) and text.lower().startswith(("http://", "https://"))


def read_url(url: str, *, timeout: float = SECONDS) -> np.ndarray:
    """Download a picture from a public address. Nothing is written to disk.

    Parameters
    ----------
    url : http or https, also after redirects
    timeout : seconds for the whole download, name resolution and redirects included

    Returns
    -------
    array (height, width, 3), uint8, RGB

    Raises
    ------
    DataError : the download failed, took too long, had more than 20 MB, or was not a picture; or the URL, or a redirect, leads to an address that
        is private, loopback, link-local, multicast or reserved.

    Notes
    -----
    A name is resolved once: if all its addresses are public, one of them is connected to. Through a proxy of the environment, the proxy resolves
    names, and its rules decide where they may lead; only ``localhost`` and numeric addresses are checked here.
    """
    try:
        return _read(url, Visit(timeout, may_be_private=False))
    except ValueError as error:
        raise DataError(f"read_url: {url}: {error}") from error


def image_from_url(url: str, *, timeout: float = SECONDS) -> np.ndarray | None:
    """Download a picture. On failure print ``image_from_url: URL: reason`` and return None, so that a notebook goes on.

    Parameters
    ----------
    url : http or https, also after redirects
    timeout : seconds for the whole download

    Returns
    -------
    array (height, width, 3), uint8, RGB; None if the download failed, took too long, had more than 20 MB, or was not a picture

    Notes
    -----
    CS231n's function of that name. Nothing is written to disk. Unlike `read_url`, it connects to private addresses too: a course may serve its
    pictures on localhost or on its own network, and the code that calls this chose the URL. Once it has been at a public address it follows no
    redirect to a private one, so that a page of the internet cannot reach into a network.
    """
    try:
        return _read(str(url), Visit(timeout, may_be_private=True))
    except ValueError as error:
        say(f"image_from_url: {url}: {error}")
        return None


def _read(url: str, visit: Visit) -> np.ndarray:
    """The picture at a URL. ValueError : the reason why not, in one line."""
    from xpcap.encoders.reading import read_picture

    kind = ""
    try:
        body, kind = _download(url, visit)
        return read_picture(io.BytesIO(body))
    except (OSError, HTTPException, ValueError) as error:  # ValueError: not a URL, or the DataError of what was downloaded
        page = f" The server calls it {kind}." if kind.startswith("text/") else ""  # a page about the picture, most likely
        raise ValueError(" ".join(f"{_reason(error, visit)}{page}".split())) from error


def _reason(error: Exception, visit: Visit) -> str:
    if isinstance(error, HTTPError):
        error.close()  # it is also an open response
    elif isinstance(error, URLError):
        error = error.reason if isinstance(error.reason, Exception) else OSError(error.reason)
    if isinstance(error, TimeoutError) and error.errno is None:
        return f"timed out after {visit.timeout:g} seconds"
    return str(error).removeprefix("read_picture: the picture ") or type(error).__name__


def _download(url: str, visit: Visit) -> tuple[bytes, str]:
    """The body of the response, of at most MOST_BYTES, and its content type."""
    parts: list[bytes] = []
    size = 0
    with visit.open(url) as answer:
        while part := answer.read1(CHUNK):
            parts.append(part)
            size += len(part)
            if size > MOST_BYTES:
                raise DataError(f"more than {MOST_BYTES:,} bytes, expected a picture of at most that")
        if answer.length:
            raise DataError(f"the answer broke off {answer.length:,} bytes before its end")
        return b"".join(parts), answer.headers.get_content_type()
