"""Pictures by URL: one URL in, one array out, within limits on size, time and addresses."""

import contextlib
import io
import socket
import ssl
import threading
from concurrent.futures import Future
from http.client import HTTPConnection, HTTPException, HTTPResponse
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from string import punctuation
from types import SimpleNamespace
from urllib.parse import quote, unquote, urljoin, urlsplit

import numpy as np

from xpcap.encoders.pictures import read_picture
from xpcap.errors import DataError, NetworkError, XpcapError
from xpcap.progress import say

MOST_BYTES, SECONDS, MOST_REDIRECTS, CHUNK = 20_000_000, 20.0, 10, 65_536
BUSY = (408, 425, 429)  # HTTP statuses that, with those of 500 and more, may pass
PORTS = {"http": 80, "https": 443}
# protocols, 6to4, multicast, Teredo, examples, all but unicast: global to some versions of Python
RESERVED = (
    "192.0.0.0/24 192.88.99.0/24 224.0.0.0/3 2001::/23 2001:db8::/32 2002::/16 3fff::/20 ::/3"
    " 4000::/2 8000::/1"
)


def is_url(text: object) -> bool:
    """True for the text of an http or https URL, which is no path."""
    return isinstance(text, str) and text.lower().startswith(("http://", "https://"))


def local_path(text: str) -> Path | None:
    """Path of a ``file:`` URL of this machine; None for any other text. Nothing is opened."""
    if not text.lower().startswith("file:///") or text.startswith("//", len("file://")):
        return None  # of another machine: opening it would call there, at least on Windows
    from urllib.request import url2pathname

    return Path(url2pathname(text[len("file://") :]))


def read_url(url: str, *, timeout: float = SECONDS) -> np.ndarray:
    """Download a picture from a public address: array (height, width, 3), uint8, RGB.

    `timeout` is in seconds, for everything. A name is resolved once, and the address that was
    checked is the one connected to, so no proxy is used.

    Raises
    ------
    DataError : the download failed, for the reason in the message; NetworkError, a kind of it, if
        another try may succeed.
    """
    return _read("read_url", url, timeout, private=False)


def image_from_url(url: str, *, timeout: float = SECONDS) -> np.ndarray | None:
    """CS231n's function: `read_url` that prints errors and returns None: a notebook goes on.

    It may start at a private address, as of a course on localhost; no public one redirects it
    there.
    """
    try:
        return _read("image_from_url", str(url), timeout, private=True)
    except DataError as error:
        say(str(error))
        return None


def _read(where: str, url: str, timeout: float, private: bool) -> np.ndarray:
    """The picture at a URL, also a private one if `private`. DataError : why not, in one line."""
    body: Future[bytes] = Future()
    over = threading.Event()

    def work() -> None:
        try:
            body.set_result(_download(url, timeout, private, over))
        except Exception as error:
            body.set_exception(error)

    # in a thread that can be abandoned: a resolver has no time limit, and drips outlast a socket's
    threading.Thread(target=work, daemon=True).start()
    try:
        return read_picture(io.BytesIO(body.result(timeout)))
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, XpcapError):
            same = error.thing in ("the picture", url)
            came = error.came if same else f"leads to {error.thing}, which {error.came}"
            kind = NetworkError if isinstance(error, NetworkError) else DataError
            raise kind(where, url, came, error.expected, error.cause) from error
        reason = str(error)
        if isinstance(error, TimeoutError):
            reason = f"timed out after {timeout:g} seconds"
        came = f"cannot be read: {' '.join(reason.split())}"
        kind = DataError if isinstance(error, ValueError) else NetworkError
        raise kind(where, url, came, expected="a picture") from error
    finally:
        over.set()


def _download(url: str, timeout: float, private: bool, over: threading.Event) -> bytes:
    """The content of a URL; `private` addresses count until a public one was visited."""
    for _ in range(MOST_REDIRECTS + 1):
        parts = urlsplit(quote(url, safe=punctuation))  # spaces and umlauts, as people paste them
        if parts.scheme not in PORTS or not parts.hostname:
            raise DataError("", url, "is no URL", expected="one of http or https")
        host, port = unquote(parts.hostname), parts.port or PORTS[parts.scheme]
        addresses = [
            str(one[4][0]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        ]
        inside = [address for address in addresses if not is_public(address)]
        if inside and not private:
            raise DataError(
                "",
                url,
                "is private, local or reserved"
                if inside[0] == host
                else f"has the address {inside[0]}, which is private, local or reserved",
                expected="a public address",
                cause="fetch the picture yourself and give the file",
            )
        private = bool(inside)
        line = _connect(addresses, port, timeout)
        if parts.scheme == "https":
            line = ssl.create_default_context().wrap_socket(line, server_hostname=host)
        connection = HTTPConnection(host, port)
        connection.default_port = PORTS[parts.scheme]
        with line as connection.sock:
            path = f"{parts.path or '/'}{'?' * bool(parts.query)}{parts.query}"
            connection.request("GET", path, headers={"User-Agent": "xpcap", "Connection": "close"})
            received = bytearray()
            while (part := connection.sock.recv(CHUNK)) and not over.is_set():
                received += part
                if len(received) > MOST_BYTES:
                    raise DataError(
                        "", url, f"has more than {MOST_BYTES:,} bytes", expected="a picture"
                    )
        opened = SimpleNamespace(makefile=lambda _, got=received: io.BytesIO(got))
        answer = HTTPResponse(opened)  # type: ignore[arg-type]
        answer.begin()
        if answer.status == 200:
            return answer.read()
        if answer.status not in (301, 302, 303, 307, 308) or "Location" not in answer.headers:
            came = f"gives HTTP Error {answer.status}: {answer.reason}"
            kind = NetworkError if answer.status >= 500 or answer.status in BUSY else DataError
            raise kind("", url, came, expected="a picture")
        target = quote(answer.headers["Location"], safe=punctuation, encoding="iso-8859-1")
        url = urljoin(parts.geturl(), target)
    raise DataError("", url, f"redirects more than {MOST_REDIRECTS} times", expected="a picture")


def is_public(address: str) -> bool:
    """True if a numeric address is neither private, local nor reserved."""
    found = ip_address(address)
    if any(found in ip_network(one) for one in ("::ffff:0:0/96", "64:ff9b::/96")):  # mapped, NAT64
        found = IPv4Address(int(found) & 0xFFFF_FFFF)
    return found.is_global and not any(found in ip_network(one) for one in RESERVED.split())


def _connect(addresses: list[str], port: int, timeout: float) -> socket.socket:
    for address in addresses[:-1]:
        with contextlib.suppress(OSError):
            return socket.create_connection((address, port), timeout / len(addresses))
    return socket.create_connection((addresses[-1], port), timeout / len(addresses))
