"""Downloads from a server of the test's own: a picture comes as an array, anything else as a reason."""

import contextlib
import io
import itertools
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from refusals import Refusal, refusals, refuses

from xpcap.encoders import download, image_from_url, read_url
from xpcap.errors import DataError, NetworkError

asked: list[tuple[str, str]] = []  # host and path of each request that reached the server
PICTURE = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


def png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PICTURE).save(stream, "png")
    return stream.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Pages by path; `/to/URL` redirects to URL, `/flood/URL` with content without end."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        asked.append((self.headers["Host"], self.path))
        name = self.path.rpartition("/")[2]
        head, _, target = self.path[1:].partition("/")
        if head in ("to", "flood", "round", "hop"):
            self.answer(
                302, Location={"round": "/round", "hop": f"/hop/{target}x"}.get(head, target)
            )
            if head == "flood":
                self.endless(bytes(10_000))
        elif name == "endless":
            self.answer(200)
            self.endless(bytes(10_000))
        elif name in ("nothing", "busy"):
            self.send_error(503 if name == "busy" else 404)
        else:
            content = {"text": b"<html>no picture</html>", "long": bytes(200_000)}.get(name, png())
            self.answer(200, Content_Length=str(len(content) + (name == "short")))
            self.wfile.write(content)
            # to a server that keeps connections, "Connection: close" is but a wish
            self.close_connection = name != "kept"

    def do_CONNECT(self) -> None:
        asked.append(("CONNECT", self.path))
        self.send_error(403)

    def answer(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def endless(self, content: bytes) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Its threads end with it; one that writes to a client who has left says nothing of that."""

    daemon_threads = False

    def handle_error(self, *_: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            raise


@pytest.fixture
def server() -> Iterator[str]:
    with Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    asked.clear()


def refused(address: str, capsys: pytest.CaptureFixture[str], *texts: str) -> DataError:
    """The error about an address, which image_from_url prints in one line, for its None."""
    with refuses(DataError, address, *texts) as caught:
        read_url(address)
    assert image_from_url(address) is None
    line = f"image_from_url: {caught.value}"
    assert capsys.readouterr() == (f"{line}\n", "")
    assert "\n" not in line
    return caught.value


@pytest.mark.parametrize("path", ["/good", "/kept", "/to//good", "/to//to//kept", "/flood//good"])
def test_a_picture_comes_as_an_array_from_any_server_and_through_redirects(
    server: str, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for read in (read_url, image_from_url):
        picture = read(server + path)
        assert picture is not None
        np.testing.assert_array_equal(picture, PICTURE)
        assert picture.dtype == np.uint8
    assert capsys.readouterr().out == ""


@refusals(
    """
    /nothing | DataError | gives HTTP Error 404: Not Found
    /busy | NetworkError | gives HTTP Error 503
    /text | DataError | cannot be read as a picture | it is an HTML page
    /long | DataError | has more than 100,000 bytes
    /endless | DataError | has more than 100,000 bytes
    /short | NetworkError | IncompleteRead | 1 more expected
    /to//nothing | DataError | leads to | /nothing, which gives HTTP Error 404
    /to//busy | NetworkError | leads to | /busy, which gives HTTP Error 503
    /round | DataError | infinite loop
    /hop/ | DataError | infinite loop
    /to/ftp://127.0.0.1/x.png | DataError | 302: Found, to ftp://127.0.0.1/x.png
    /to/data:image/png;base64,AAAA | DataError | 302 | not allowed
    """
)
def test_what_is_no_picture_gives_the_reason_and_if_another_try_may_succeed(
    refusal: Refusal,
    server: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", 100_000)
    error = refused(server + refusal.statement, capsys, *refusal.texts)
    assert type(error) is refusal.error


@refusals(
    """
    ftp://127.0.0.1/x.png | is not a URL
    data:image/png;base64,AAAA | is not a URL
    no url | is not a URL
    http:///x.png | is not a URL
    http://127.0.0.1:0/ | is not a URL
    http://[ | Invalid IPv6 URL
    http://a..b/ | label empty
    http://a b/ | can't contain control characters
    http://127.0.0.1:99999/ | Port out of range 0-65535
    """,
    error=DataError,
)
def test_what_is_no_url_of_http_is_refused(
    refusal: Refusal, capsys: pytest.CaptureFixture[str]
) -> None:
    assert type(refused(refusal.statement, capsys, *refusal.texts)) is refusal.error


@pytest.mark.parametrize("through", ["", "/to/"])
def test_a_picture_on_disk_is_not_read(
    server: str, through: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.png").write_bytes(png())
    address = (tmp_path / "x.png").as_uri()
    refused(server + through + address if through else address, capsys)


def test_urls_are_taken_as_people_paste_them(server: str) -> None:
    place = server.removeprefix("http://")
    read_url(f"HTTP://me:secret@{place}/ü b%20c.png?d=é#top")
    assert asked == [(place, "/%C3%BC%20b%20c.png?d=%C3%A9")]


def test_proxies_of_the_environment_are_asked(
    server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("http_proxy", server)
    monkeypatch.setenv("https_proxy", server)
    np.testing.assert_array_equal(read_url("http://bücher.example/good"), PICTURE)
    address = "http://xn--bcher-kva.example/good"
    assert asked == [("xn--bcher-kva.example", address)]
    refused("https://pictures.example/x", capsys, "Tunnel connection failed: 403")
    assert ("CONNECT", "pictures.example:443") in asked
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    read_url(f"{server}/good")
    assert asked[-1][1] == "/good"


def test_a_server_that_cannot_be_reached_is_named(
    server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as bound:  # so that nobody else can listen there
        bound.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{bound.getsockname()[1]}/x.png"
        assert isinstance(refused(address, capsys, "refused"), NetworkError)
    refused(f"https{server.removeprefix('http')}/good", capsys, "SSL")


def test_a_server_that_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/x.png"
        with refuses(NetworkError, address, "timed out after 0.01 seconds"):
            read_url(address, timeout=0.01)


def test_a_picture_whose_bytes_take_too_long_together_is_given_up(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that is an hour on at each look; no wait for a byte is long."""
    hours = SimpleNamespace(monotonic=itertools.count(step=3600).__next__)
    monkeypatch.setattr(download, "time", hours)
    with refuses(NetworkError, f"{server}/endless", "timed out after 600 seconds"):
        read_url(f"{server}/endless", timeout=600)
