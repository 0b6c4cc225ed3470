"""image_from_url against a server of its own: a picture comes as an array, anything else as a line and None."""

import io
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from xpcap.encoders import image_from_url, url

PICTURE = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


def png() -> bytes:
    image = pytest.importorskip("PIL.Image")
    stream = io.BytesIO()
    image.fromarray(PICTURE).save(stream, "png")
    return stream.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Pages by path; `/to/URL` redirects to URL."""

    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        body = {"/good": png(), "/text": b"<html>no picture</html>", "/long": bytes(200_000), "/short": png()}.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) + (self.path == "/short")))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        patch.setenv("no_proxy", "127.0.0.1")
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nobody listens on: it is bound, so nobody else can."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.mark.parametrize("path", ["/good", "/to//good", "/to//to//good"])
def test_a_picture_comes_as_an_array_also_through_redirects(server: str, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    picture = image_from_url(server + path)
    assert picture is not None
    assert (picture.shape, picture.dtype) == ((5, 7, 3), np.uint8)
    np.testing.assert_array_equal(picture, PICTURE)
    assert capsys.readouterr().out == ""


def refused(address: str, capsys: pytest.CaptureFixture[str], **options: float) -> str:
    """The reason in the one line that is printed about `address`."""
    assert image_from_url(address, **options) is None
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(f"image_from_url: {address}: ")
    assert out.count("\n") == 1
    return out.removeprefix(f"image_from_url: {address}: ").strip()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/nothing", "HTTP Error 404: Not Found"),
        ("/text", "picture"),
        ("/long", "more than 100,000 bytes"),
        ("/short", "broke off 1 bytes before its end"),
        ("/to/ftp://127.0.0.1/x.png", "unknown url type: ftp"),
        ("/to//nothing", "HTTP Error 404: Not Found"),
    ],
)
def test_what_is_no_picture_gives_a_line_and_none(
    server: str, path: str, reason: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(url, "MOST_BYTES", 100_000)
    assert reason in refused(server + path, capsys)


@pytest.mark.parametrize("address", ["ftp://127.0.0.1/x.png", "data:image/png;base64,AAAA", "no url", "http://[", "http://a b/"])
def test_only_http_and_https_are_asked(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(address, capsys)


@pytest.mark.parametrize("through", ["", "/to/"])
def test_a_picture_on_disk_is_not_read_through_a_redirect_either(
    server: str, through: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.png").write_bytes(png())
    address = (tmp_path / "x.png").as_uri()
    assert refused(server + through + address if through else address, capsys)


def test_a_closed_port_gives_a_line_and_none(closed_port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert "refused" in refused(f"http://127.0.0.1:{closed_port}/x.png", capsys)


def test_a_server_that_says_nothing_is_given_up(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert "timed out" in refused(f"http://127.0.0.1:{silent.getsockname()[1]}/x.png", capsys, timeout=0.1)


def test_a_download_that_takes_too_long_is_given_up(server: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow drip never lets a single wait run out: the whole has its limit too. The clock here jumps ten seconds at every look."""
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(url, "time", SimpleNamespace(monotonic=lambda: next(now)))
    assert "timed out after 15 seconds" in refused(server + "/long", capsys, timeout=15)
