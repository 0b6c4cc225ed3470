"""Downloads pictures: one URL in, one array out. A dead link prints a line and does not raise."""

import io
import time
from http.client import HTTPException
from typing import Any
from urllib import request
from urllib.error import HTTPError, URLError

import numpy as np

from xpcap.errors import DataError
from xpcap.progress import say

MOST_BYTES = 20_000_000
CHUNK = 65_536


def image_from_url(url: str, timeout: float = 20.0) -> np.ndarray | None:
    """Download a picture. On failure print ``image_from_url: URL: reason`` and return None, so that a notebook goes on.

    Parameters
    ----------
    url : http or https, also after redirects
    timeout : seconds, for each wait and for the whole download

    Returns
    -------
    array (height, width, 3), uint8, RGB; None if the download failed, took too long, had more than 20 MB, or was not a picture

    Notes
    -----
    CS231n's function of that name. Nothing is written to disk.
    """
    from xpcap.encoders.reading import read_picture

    try:
        return read_picture(io.BytesIO(_download(str(url), timeout)))
    except URLError as error:
        with error if isinstance(error, HTTPError) else io.BytesIO():  # an HTTPError is also an open response
            reason = str(error) if isinstance(error, HTTPError) else str(error.reason)
    except (OSError, HTTPException, ValueError) as error:  # ValueError: not a URL, or the DataError of what was downloaded
        reason = str(error) or type(error).__name__
    say(f"image_from_url: {url}: {' '.join(reason.split())}")
    return None


def _download(url: str, timeout: float) -> bytes:
    """The body of the response: at most MOST_BYTES, within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    parts: list[bytes] = []
    size = 0
    with _opener().open(request.Request(url, headers={"User-Agent": "xpcap"}), timeout=timeout) as answer:
        while part := answer.read1(CHUNK):
            parts.append(part)
            size += len(part)
            if size > MOST_BYTES:
                raise DataError(f"more than {MOST_BYTES:,} bytes, expected a picture of at most that")
            if time.monotonic() > deadline:
                raise TimeoutError(f"timed out after {timeout:g} seconds and {size:,} bytes")
        if answer.length:
            raise DataError(f"the answer broke off {answer.length:,} bytes before its end")
    return b"".join(parts)


class _Redirects(request.HTTPRedirectHandler):
    """Follows redirects without reading their bodies, which may be of any length."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> request.Request | None:
        fp.close()
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> request.OpenerDirector:
    """An opener for http and https, through the proxies of the environment. urllib's default also reads file:, ftp: and data:."""
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
