"""Downloads over http and https, within limits on size and time: the one file that opens connections.

It loads ssl and http.client, so the first URL imports it.
"""

import threading
import time
from concurrent.futures import Future
from http.client import HTTPException, HTTPResponse, IncompleteRead, InvalidURL
from pathlib import Path
from string import punctuation
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import (
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    Request,
    build_opener,
    url2pathname,
)

from xpcap.encoders.pictures import is_url
from xpcap.errors import DataError, NetworkError

MOST_BYTES = 20_000_000
BUSY = (408, 425, 429)  # HTTP statuses that, with those of 500 and more, may pass


def local_path(text: str) -> Path | None:
    """Path of a ``file:`` URL of this machine; None for any other text. Nothing is opened."""
    if not text.lower().startswith("file:///") or text.startswith("//", len("file://")):
        return None  # of another machine: opening it would call there, at least on Windows
    return Path(url2pathname(text[len("file://") :]))


def download(url: str, timeout: float) -> bytes:
    """The content of a URL, for `read_url`, whose name and errors it has."""
    body: Future[bytes] = Future()

    def work() -> None:
        try:
            body.set_result(_content(url, timeout))
        except Exception as error:
            body.set_exception(error)

    # in a thread that can be abandoned: a resolver has no time limit
    threading.Thread(target=work, daemon=True).start()
    try:
        return body.result(timeout)
    except DataError:
        raise
    except HTTPError as error:
        error.close()
        got = f"gives HTTP Error {error.code}: {' '.join(error.reason.split())}"
        got = got if error.url == _sent(url) else f"leads to {error.url}, which {got}"
        may_pass = error.code >= 500 or error.code in BUSY
        kind = NetworkError if may_pass else DataError
        raise kind("read_url", url, got, expected="a picture") from error
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)  # of urllib's errors about others
        late = isinstance(reason, TimeoutError)
        said = f"timed out after {timeout:g} seconds" if late else " ".join(str(reason).split())
        kind = DataError if isinstance(error, ValueError | InvalidURL) else NetworkError
        raise kind("read_url", url, f"cannot be read: {said}", expected="a picture") from error


def _content(url: str, timeout: float) -> bytes:
    request = Request(_sent(url), headers={"User-Agent": "xpcap"})  # noqa: S310 - of http or https
    with build_opener(_Web, _Redirects).open(request, timeout=timeout) as answer:
        content: bytes = answer.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise DataError(
                "read_url", url, f"has more than {MOST_BYTES:,} bytes", expected="a picture"
            )
        if answer.length:  # of what was announced, and did not come
            raise IncompleteRead(content, answer.length)
        return content


def _sent(url: str) -> str:
    """A URL in ASCII, of one as people paste it. DataError : it is neither http nor https."""
    parts = urlsplit(url)
    if not is_url(url) or not parts.hostname or parts.port == 0:
        raise DataError("read_url", url, "is no URL", expected="one of http or https")
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


class _Answer(HTTPResponse):
    """An answer that ends in time: the limit of its socket begins anew with each byte."""

    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        raw, end = self.fp.raw, time.monotonic() + sock.gettimeout()
        read = raw.readinto

        def readinto(buffer: Any) -> int | None:
            if time.monotonic() > end:
                raise TimeoutError
            return read(buffer)

        raw.readinto = readinto  # type: ignore[method-assign]


class _Web(HTTPHandler, HTTPSHandler):
    def do_open(self, http_class: Any, req: Request, **options: Any) -> Any:
        def connection(*args: Any, **kwargs: Any) -> Any:
            made = http_class(*args, **kwargs)
            made.response_class = _Answer
            return made

        return super().do_open(connection, req, **options)
