"""Fetches a URL within limits: urllib with one deadline for everything, that connects to public addresses alone."""

import io
import queue
import socket
import ssl
import threading
import time
from functools import partial
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from string import punctuation
from types import SimpleNamespace
from typing import Any
from urllib import request
from urllib.parse import quote, urlsplit

from xpcap.encoders.addresses import is_public
from xpcap.errors import DataError

Found = tuple[int, int, int, Any]  # family, type and protocol of a socket, and the address to connect it to


class Visit:
    """What one download may do, redirects included: until when, and at which addresses.

    Parameters
    ----------
    timeout : seconds for everything together
    may_be_private : whether addresses that are not public will do, until it has been at a public one
    """

    def __init__(self, timeout: float, may_be_private: bool) -> None:
        self.timeout, self.may_be_private = timeout, may_be_private
        self._deadline = time.monotonic() + timeout

    def left(self) -> float:
        """Seconds that are left. TimeoutError : none are."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"timed out after {self.timeout:g} seconds")
        return left

    def open(self, url: str) -> Any:
        """The response to a GET of `url`, to be closed."""
        return _opener().open(_Request(url, self), timeout=self.left())

    def check(self, host: str, addresses: list[str]) -> None:
        """DataError : one of a host's addresses may not be connected to."""
        private = [address for address in addresses if not is_public(address)]
        if private and not self.may_be_private:
            has = f"{host} is" if private[0] == host else f"{host} has the address {private[0]},"
            raise DataError(f"{has} private, local or reserved, expected a public address; fetch the picture yourself and give the file")
        self.may_be_private &= bool(private)

    def check_unresolved(self, host: str) -> None:
        """As `check`, for a host that a proxy will resolve: localhost, and all forms of a numeric address that a system may understand."""
        try:
            self.check(host, [socket.inet_ntoa(socket.inet_aton(host))])  # also 127.1, 0x7f000001 and 2130706433
        except OSError:
            plain = host.rstrip(".").lower()
            if ":" in host or plain == "localhost" or plain.endswith(".localhost"):
                self.check(host, [host])
            else:
                self.may_be_private = False

    def connect(self, host: str, port: int) -> socket.socket:
        """A socket that is connected to an address of `host` that has been checked: the name is resolved once."""
        if not 0 < port < 1 << 16:
            raise DataError(f"port {port} does not exist, expected 1 to 65535")
        found = _resolve(host, port, self.left())
        self.check(host, [address[0] for *_, address in found])
        failure: OSError = OSError(f"{host} has no address")
        for i, one in enumerate(found):
            try:
                return _dial(one, self.left() / (len(found) - i))  # an address that never answers leaves time for the next
            except OSError as error:
                failure = error
        raise failure


def _resolve(host: str, port: int, timeout: float) -> list[Found]:
    """The addresses of a host. The system's resolver knows no time limit, so a thread asks it, and is left behind if it takes too long."""
    answers: queue.SimpleQueue[list[Found] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put([(*one[:3], one[4]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)])
        except (OSError, ValueError) as error:  # ValueError: a name that cannot be one
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=timeout)
    except queue.Empty:
        raise TimeoutError(f"{host} could not be looked up in time") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _dial(found: Found, timeout: float) -> socket.socket:
    """Connect to a numeric address."""
    *kind, address = found
    connected = socket.socket(*kind)
    try:
        connected.settimeout(timeout)
        connected.connect(address)
    except OSError:
        connected.close()
        raise
    return connected


# Parts of urllib that keep to a visit


class _Request(request.Request):
    """A request on a visit."""

    def __init__(self, url: str, visit: Visit) -> None:
        super().__init__(quote(url, safe=punctuation), headers={"User-Agent": "xpcap"})  # as people paste them, with spaces and umlauts
        self.visit, self.by_proxy = visit, False

    def set_proxy(self, host: str, type: str) -> None:
        """urllib calls this before it asks a proxy."""
        if not self.by_proxy:  # else this is the proxy of a proxy
            self.visit.check_unresolved(urlsplit(f"//{self.host}").hostname or "")
        self.by_proxy = True
        super().set_proxy(host, type)


class _Redirects(request.HTTPRedirectHandler):
    """Follows redirects without reading their bodies, which may be of any length."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> request.Request | None:
        fp.close()
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        return new and _Request(new.full_url, req.visit)


class _Timed(io.RawIOBase):
    """What a socket receives until the visit is over, however slowly it drips."""

    def __init__(self, connected: Any, visit: Visit) -> None:
        self._socket, self._visit = connected, visit
        self._raw = connected.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._socket.settimeout(self._visit.left())
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def _response(connected: Any, *args: Any, visit: Visit, **options: Any) -> HTTPResponse:
    return HTTPResponse(SimpleNamespace(makefile=lambda mode: io.BufferedReader(_Timed(connected, visit))), *args, **options)  # type: ignore[arg-type]


class _Connection(HTTPConnection):
    """Connects where its visit may go, or to the user's proxy."""

    def __init__(self, host: str, *, asked: _Request, **options: Any) -> None:
        super().__init__(host, **options)
        self.visit, self.by_proxy = asked.visit, asked.by_proxy
        self.response_class = partial(_response, visit=self.visit)  # type: ignore[assignment]

    def connect(self) -> None:
        if self.by_proxy:
            self.timeout = self.visit.left()
            super().connect()
        else:
            self.sock = self.visit.connect(self.host, self.port)


class _SecureConnection(_Connection, HTTPSConnection):
    """The same over TLS."""

    def __init__(self, host: str, *, context: ssl.SSLContext, **options: Any) -> None:
        super().__init__(host, context=context, **options)
        self._tls = context

    def connect(self) -> None:
        super().connect()
        if not self.by_proxy:
            self.sock.settimeout(self.visit.left())
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host)


class _Connections(request.AbstractHTTPHandler):
    """Opens http and https through connections of the visit."""

    http_request = https_request = request.AbstractHTTPHandler.do_request_

    def http_open(self, req: Any) -> Any:
        return self.do_open(partial(_Connection, asked=req), req)

    def https_open(self, req: Any) -> Any:
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        return self.do_open(partial(_SecureConnection, asked=req, context=context), req)


def _opener() -> request.OpenerDirector:
    """An opener for http and https, through the proxies of the environment. urllib's default also reads file:, ftp: and data:."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler,
        _Connections,
        _Redirects,
        request.HTTPDefaultErrorHandler,
        request.HTTPErrorProcessor,
        request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener
