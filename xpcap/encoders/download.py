"""Downloads over http and https, with limits on size and time; no other file opens connections.

It imports ssl and http.client, so it is imported only for the first URL.
"""

import time
from http.client import HTTPException, IncompleteRead, InvalidURL
from pathlib import Path
from string import punctuation
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener, url2pathname

from xpcap.encoders.pictures import is_url
from xpcap.errors import DataError, NetworkError

MAX_BYTES = 20_000_000
CHUNK_BYTES = 1 << 16  # bytes read before the time is checked
TEMPORARY = (408, 425, 429)  # temporary HTTP statuses, besides those from 500 on


def local_path(text: str) -> Path | None:
    """Path of a ``file:`` URL of this machine; None for any other text. Nothing is opened."""
    if not text.lower().startswith("file:///") or text.startswith("//", len("file://")):
        return None  # opening a file of another machine would connect to it on Windows
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
        is_temporary = error.code >= 500 or error.code in TEMPORARY
        kind = NetworkError if is_temporary else DataError
        raise kind(f"{url} {got}, expected a picture") from error
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)  # urllib wraps errors
        if isinstance(reason, TimeoutError):
            reason = f"timed out after {timeout:g} seconds"
        got = f"cannot be read: {' '.join(str(reason).split())}"
        kind = DataError if isinstance(error, ValueError | InvalidURL) else NetworkError
        raise kind(f"{url} {got}, expected a picture") from error


def _content(url: str, timeout: float) -> bytes:
    end = time.monotonic() + timeout  # the socket's limit restarts with each byte
    headers = {"User-Agent": "xpcap"}
    request = Request(_ascii_url(url), headers=headers)  # noqa: S310 - http or https
    content = bytearray()
    with build_opener(_Redirects).open(request, timeout=timeout) as response:
        length = response.length  # None if unknown. Python 3.11.7 does not update it in read1
        while len(content) != length and (chunk := response.read1(CHUNK_BYTES)):
            content += chunk
            if len(content) > MAX_BYTES:
                raise DataError(f"{url} has more than {MAX_BYTES:,} bytes, expected a picture")
            if time.monotonic() > end:
                raise TimeoutError
    if length is not None and len(content) < length:
        raise IncompleteRead(bytes(content), length - len(content))
    return bytes(content)


def _ascii_url(url: str) -> str:
    """A pasted URL in ASCII. DataError : it is neither http nor https."""
    parts = urlsplit(url)
    if not is_url(url) or not parts.hostname or parts.port == 0:
        raise DataError(f"{url} is not a URL, expected an http or https URL")
    host = unquote(parts.netloc.rpartition("@")[2]).encode("idna").decode()
    return quote(parts._replace(netloc=host).geturl(), safe=punctuation)


class _Redirects(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        """The next request, which must be http or https."""
        fp.close()  # the redirect's content may be long, and is not read
        if not is_url(newurl):
            raise HTTPError(req.full_url, code, f"{msg}, to {newurl}", headers, None)
        return super().redirect_request(req, fp, code, msg, headers, newurl)
