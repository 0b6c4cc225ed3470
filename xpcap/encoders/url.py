"""Pictures by URL: one URL in, one array out, within limits on size, time and kind."""

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

import numpy as np

from xpcap.encoders.pictures import read_picture
from xpcap.errors import DataError, NetworkError, sentence
from xpcap.progress import say

MOST_BYTES, SECONDS = 20_000_000, 20.0
BUSY = (408, 425, 429)  # HTTP statuses that, with those of 500 and more, may pass


def is_url(text: object) -> bool:
    """True for the text of an http or https URL, which is no path."""
    return isinstance(text, str) and text.lower().startswith(("http://", "https://"))


def local_path(text: str) -> Path | None:
    """Path of a ``file:`` URL of this machine; None for any other text. Nothing is opened."""
    if not text.lower().startswith("file:///") or text.startswith("//", len("file://")):
        return None  # of another machine: opening it would call there, at least on Windows
    return Path(url2pathname(text[len("file://") :]))


def read_url(url: str, *, timeout: float = SECONDS) -> np.ndarray:
    """Download a picture: array (height, width, 3), uint8, RGB.

    Any server that this machine reaches may be asked, also its own, through the proxies that the
    environment or the system names, and redirects are followed: do not pass on a stranger's URL.

    timeout : seconds, for everything
    DataError : the download failed, for the reason in the message; NetworkError, a kind of it, if
        another try may succeed.
    """
    body: Future[bytes] = Future()

    def work() -> None:
        try:
            body.set_result(_download(url, timeout))
        except Exception as error:
            body.set_exception(error)

    # in a thread that can be abandoned: a resolver has no time limit
    threading.Thread(target=work, daemon=True).start()
    try:
        return read_picture(body.result(timeout))
    except DataError as error:
        raise DataError("read_url", url, *error.args[2:]) from error
    except HTTPError as error:
        error.close()
        came = f"gives HTTP Error {error.code}: {' '.join(error.reason.split())}"
        came = came if error.url == _sent(url) else f"leads to {error.url}, which {came}"
        may_pass = error.code >= 500 or error.code in BUSY
        kind = NetworkError if may_pass else DataError
        raise kind("read_url", url, came, expected="a picture") from error
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)  # of urllib's errors about others
        late = isinstance(reason, TimeoutError)
        said = f"timed out after {timeout:g} seconds" if late else " ".join(str(reason).split())
        kind = DataError if isinstance(error, ValueError | InvalidURL) else NetworkError
        raise kind("read_url", url, f"cannot be read: {said}", expected="a picture") from error


def image_from_url(url: str, *, timeout: float = SECONDS) -> np.ndarray | None:
    """CS231n's function: `read_url` that prints errors and returns None: a notebook goes on."""
    try:
        return read_url(str(url), timeout=timeout)
    except DataError as error:
        say(sentence("image_from_url", *error.args[1:]))
        return None


def _download(url: str, timeout: float) -> bytes:
    request = Request(_sent(url), headers={"User-Agent": "xpcap"})
    with build_opener(_Web, _Redirects).open(request, timeout=timeout) as answer:
        content: bytes = answer.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise DataError("", "", f"has more than {MOST_BYTES:,} bytes", expected="a picture")
        if answer.length:  # of what was announced, and did not come
            raise IncompleteRead(content, answer.length)
        return content


def _sent(url: str) -> str:
    """A URL in ASCII, of one as people paste it. DataError : it is neither http nor https."""
    parts = urlsplit(url)
    if not is_url(url) or not parts.hostname or parts.port == 0:
        raise DataError("", "", "is no URL", expected="one of http or https")
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
