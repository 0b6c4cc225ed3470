"""Downloads over http and https, within limits on size and time: the one file that opens connections.

It loads ssl and http.client, so the first URL imports it.
"""

import time
from http.client import HTTPException, IncompleteRead, InvalidURL
from pathlib import Path
from string import punctuation
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import (
    HTTPRedirectHandler,
    Request,
    build_opener,
    url2pathname,
)

from xpcap.encoders.pictures import is_url
from xpcap.errors import DataError, NetworkError

MAX_BYTES = 20_000_000
PIECE = 1 << 16  # bytes read between two looks at the clock, at most
BUSY = (408, 425, 429)  # HTTP statuses that, with those of 500 and more, may pass


def local_path(text: str) -> Path | None:
    """Path of a ``file:`` URL of this machine; None for any other text. Nothing is opened."""
    if not text.lower().startswith("file:///") or text.startswith("//", len("file://")):
        return None  # of another machine: opening it would call there, at least on Windows
    return Path(url2pathname(text[len("file://") :]))


def download(url: str, timeout: float) -> bytes:
    """Download a URL for `read_url`, with its name in errors."""
    try:
        return _content(url, timeout)
    except DataError:
        raise
    except HTTPError as error:
        error.close()
        got = f"gives HTTP Error {error.code}: {' '.join(error.reason.split())}"
        got = got if error.url == _ascii_url(url) else f"leads to {error.url}, which {got}"
        may_pass = error.code >= 500 or error.code in BUSY
        kind = NetworkError if may_pass else DataError
        raise kind("read_url", url, got, expected="a picture") from error
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)  # of urllib's errors about others
        if isinstance(reason, TimeoutError):
            reason = f"timed out after {timeout:g} seconds"
        got = f"cannot be read: {' '.join(str(reason).split())}"
        kind = DataError if isinstance(error, ValueError | InvalidURL) else NetworkError
        raise kind("read_url", url, got, expected="a picture") from error


def _content(url: str, timeout: float) -> bytes:
    end = time.monotonic() + timeout  # the socket's own limit begins anew with each byte
    headers = {"User-Agent": "xpcap"}
    request = Request(_ascii_url(url), headers=headers)  # noqa: S310 - of http or https
    content = bytearray()
    with build_opener(_Redirects).open(request, timeout=timeout) as answer:
        length = answer.length  # None: not announced. Python 3.11.7 does not count down in read1
        while len(content) != length and (piece := answer.read1(PIECE)):
            content += piece
            if len(content) > MAX_BYTES:
                got = f"has more than {MAX_BYTES:,} bytes"
                raise DataError("read_url", url, got, expected="a picture")
            if time.monotonic() > end:
                raise TimeoutError
    if length is not None and len(content) < length:
        raise IncompleteRead(bytes(content), length - len(content))
    return bytes(content)


def _ascii_url(url: str) -> str:
    """A URL in ASCII, of one as people paste it. DataError : it is neither http nor https."""
    parts = urlsplit(url)
    if not is_url(url) or not parts.hostname or parts.port == 0:
        raise DataError("read_url", url, "is not a URL", expected="one of http or https")
    host = unquote(parts.netloc.rpartition("@")[2]).encode("idna").decode()
    return quote(parts._replace(netloc=host).geturl(), safe=punctuation)


class _Redirects(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        """The next request, if it is one of http or https."""
        fp.close()  # the content of a redirect is not read, however long it is
        if not is_url(newurl):
            raise HTTPError(req.full_url, code, f"{msg}, to {newurl}", headers, None)
        return super().redirect_request(req, fp, code, msg, headers, newurl)
