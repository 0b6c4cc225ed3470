"""Downloads against a server of the test's own: a picture comes as an array, anything else as a
reason; read_url stays on public addresses.
"""

import contextlib
import io
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import refuses

from xpcap.encoders import image_from_url, read_url, url
from xpcap.encoders.url import is_public
from xpcap.errors import DataError, NetworkError

asked: list[tuple[str, str]] = []  # host and path of each request that reached the server
PICTURE = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


def png() -> bytes:
    image = pytest.importorskip("PIL.Image")
    stream = io.BytesIO()
    image.fromarray(PICTURE).save(stream, "png")
    return stream.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Pages by path; `/to/URL` redirects to URL."""

    def do_GET(self) -> None:
        asked.append((self.headers["Host"], self.path))
        if self.path == "/drip":  # a response that never begins
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return
        if self.path == "/endless":
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(bytes(10_000))
            return
        if self.path.startswith(("/to/", "/round")):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        body = {
            "/good": png(),
            "/text": b"<html>no picture</html>",
            "/long": bytes(200_000),
            "/short": png(),
        }.get(self.path)
        if body is None:
            self.send_error(503 if self.path == "/busy" else 404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) + (self.path == "/short")))
        self.send_header("Content-Type", "text/html" if self.path == "/text" else "image/png")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
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
def test_a_picture_comes_as_an_array_also_through_redirects(
    server: str, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
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
    assert out.startswith(f"image_from_url: {address} ")
    assert out.count("\n") == 1
    return out.removeprefix(f"image_from_url: {address} ").strip()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/nothing", "HTTP Error 404: Not Found"),
        ("/text", "picture"),
        ("/long", "more than 100,000 bytes"),
        ("/endless", "more than 100,000 bytes"),
        ("/short", "1 more expected"),
        (
            "/to/ftp://127.0.0.1/x.png",
            "ftp://127.0.0.1/x.png, which is no URL, expected one of http or https",
        ),
        ("/to/data:image/png;base64,AAAA", "is no URL, expected one of http or https"),
        ("/round", "redirects more than 10 times"),
        ("/to//nothing", "HTTP Error 404: Not Found"),
    ],
)
def test_what_is_no_picture_gives_a_line_and_none(
    server: str,
    path: str,
    reason: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(url, "MOST_BYTES", 100_000)
    assert reason in refused(server + path, capsys)


@pytest.mark.parametrize(
    "address",
    ["ftp://127.0.0.1/x.png", "data:image/png;base64,AAAA", "no url", "http://[", "http://a b/"],
)
def test_only_http_and_https_are_asked(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(address, capsys)


@pytest.mark.parametrize("through", ["", "/to/"])
def test_a_picture_on_disk_is_not_read_through_a_redirect_either(
    server: str, through: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.png").write_bytes(png())
    address = (tmp_path / "x.png").as_uri()
    assert refused(server + through + address if through else address, capsys)


def test_a_closed_port_gives_a_line_and_none(
    closed_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "refused" in refused(f"http://127.0.0.1:{closed_port}/x.png", capsys)


def test_a_server_that_says_nothing_is_given_up(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/x.png"
        assert (
            refused(address, capsys, timeout=0.1)
            == "cannot be read: timed out after 0.1 seconds, expected a picture"
        )


@pytest.mark.parametrize("path", ["/drip", "/endless"])
def test_an_answer_that_never_ends_is_given_up_and_not_waited_for_by_a_thread(
    path: str, server: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each wait is short here, and http.client alone would wait for the true response for ever."""
    monkeypatch.setattr(url, "MOST_BYTES", 10**12)
    before = set(threading.enumerate())
    assert (
        refused(server + path, capsys, timeout=0.2)
        == "cannot be read: timed out after 0.2 seconds, expected a picture"
    )
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive()


def test_a_resolver_that_says_nothing_is_given_up(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = threading.Event()
    monkeypatch.setattr(url.socket, "getaddrinfo", lambda *args, **options: said.wait(60) and [])
    assert (
        refused("http://pictures.example/good", capsys, timeout=0.1)
        == "cannot be read: timed out after 0.1 seconds, expected a picture"
    )
    said.set()


# Public addresses alone


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *(
            (address, True)
            for address in (
                "93.184.216.34",
                "192.1.0.1",
                "2606:2800:220:1::1",
                "64:ff9b::93.184.216.34",
                "::ffff:93.184.216.34",
            )
        ),
        *(
            (address, False)
            for address in (
                "127.0.0.1",
                "127.9.9.9",
                "0.0.0.0",
                "10.0.0.1",
                "172.31.0.1",
                "192.168.1.1",
                "169.254.169.254",
            )
        ),
        *(
            (address, False)
            for address in (
                "100.64.0.1",
                "192.0.0.8",
                "198.18.0.1",
                "203.0.113.7",
                "224.0.0.251",
                "239.1.1.1",
                "240.0.0.1",
            )
        ),
        *(
            (address, False)
            for address in (
                "255.255.255.255",
                "::",
                "::1",
                "fe80::1",
                "fe80::1%eth0",
                "fc00::1",
                "fd12::1",
                "fec0::1",
                "ff02::1",
            )
        ),
        *(
            (address, False)
            for address in (
                "::ffff:127.0.0.1",
                "::ffff:a00:1",
                "::127.0.0.1",
                "64:ff9b::10.0.0.1",
                "64:ff9b:1::1",
                "2001::1",
            )
        ),
        *((address, False) for address in ("2002:7f00:1::", "2001:db8::1", "3fff::1", "4000::1")),
    ],
)
def test_public_addresses_are_told_from_all_others(address: str, public: bool) -> None:
    assert is_public(address) == public


PUBLIC, OTHER = "93.184.216.34", "2606:2800:220:1::1"
NAMES = {
    "pictures.example": [PUBLIC],
    "both.example": [OTHER, PUBLIC],
    "home.example": ["127.0.0.1"],
    "mixed.example": [PUBLIC, "10.0.0.1"],
    "mixed6.example": [PUBLIC, "::1"],
    "mapped.example": ["::ffff:192.168.0.1"],
}


@pytest.fixture
def internet(server: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of a little internet whose public addresses all lead to the server. Gives the addresses
    that were connected to, as they come.
    """
    port, resolve, connect = (
        int(server.rpartition(":")[2]),
        socket.getaddrinfo,
        socket.create_connection,
    )
    dialled: list[str] = []

    def resolved(host: str, service: int, *args: Any, **options: Any) -> list[Any]:
        if host not in NAMES:
            return resolve(host, service, flags=socket.AI_NUMERICHOST, type=socket.SOCK_STREAM)
        return [
            (
                socket.AF_INET6 if ":" in a else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (a, service),
            )
            for a in NAMES[host]
        ]

    def dial(address: tuple[str, int], timeout: float) -> socket.socket:
        dialled.append(address[0])
        if dialled[-1] == OTHER:
            assert timeout <= url.SECONDS / 2  # some is left for the next address
            raise OSError("no route to host")
        return connect(("127.0.0.1", port), timeout)

    monkeypatch.setattr(url.socket, "getaddrinfo", resolved)
    monkeypatch.setattr(url.socket, "create_connection", dial)
    asked.clear()
    return dialled


def test_urls_are_taken_as_people_paste_them(internet: list[str]) -> None:
    with refuses(DataError, came="404"):
        read_url("HTTP://pictures.example/ü b%20c.png?d=é#top")
    assert asked == [("pictures.example", "/%C3%BC%20b%20c.png?d=%C3%A9")]


@pytest.mark.parametrize("path", ["/good", "/to//good", "/to/http://both.example/good"])
def test_public_names_are_visited_at_the_address_that_was_checked(
    internet: list[str], path: str
) -> None:
    np.testing.assert_array_equal(read_url(f"http://pictures.example{path}"), PICTURE)
    assert internet[0] == PUBLIC
    assert set(internet) <= {PUBLIC, OTHER}


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "169.254.169.254",
        "224.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "127.0.0.%31",
    ]
    + [name for name in NAMES if name not in ("pictures.example", "both.example")],
)
@pytest.mark.parametrize("through", ["", "http://pictures.example/to/"])
def test_no_request_and_no_redirect_reaches_an_address_that_is_not_public(
    internet: list[str], host: str, through: str
) -> None:
    address = f"{through}http://{host}/good"
    with refuses(DataError, came="private, local or reserved") as caught:
        read_url(address)
    assert (caught.value.function, caught.value.thing) == ("read_url", address)
    assert internet == [PUBLIC] * bool(through)
    assert len(asked) == bool(through)


def test_a_name_that_changes_its_address_after_the_check_is_not_asked_again(
    internet: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, answers = socket.getaddrinfo, iter([PUBLIC])

    def resolve(host: str, port: int, *args: Any, **options: Any) -> list[Any]:
        return real(next(answers) if host == "rebinding.example" else host, port, *args, **options)

    monkeypatch.setattr(url.socket, "getaddrinfo", resolve)
    np.testing.assert_array_equal(read_url("http://rebinding.example/good"), PICTURE)
    assert internet == [PUBLIC]


def test_https_is_checked_too_and_asks_for_the_certificate_of_the_name(
    internet: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with refuses(DataError, came="private, local or reserved"):
        read_url("https://mixed.example/good")
    assert internet == []
    near, far = socket.socketpair()
    far.sendall(b"no TLS")
    monkeypatch.setattr(url.socket, "create_connection", lambda address, timeout: near)
    with far:
        with refuses(DataError, came="SSL"):
            read_url("https://pictures.example/good")
        assert b"pictures.example" in far.recv(10_000)


def test_a_notebook_may_ask_localhost_but_is_not_led_there(
    internet: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert image_from_url("http://home.example/to/http://127.0.0.1/good") is not None
    assert "private, local or reserved" in refused(
        "http://pictures.example/to/http://home.example/good", capsys
    )
    assert "private, local or reserved" in refused(
        "http://home.example/to/http://pictures.example/to/http://127.0.0.1/good", capsys
    )


def test_no_proxy_of_the_environment_is_asked(
    internet: list[str], closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would resolve names by itself, and lead where it likes."""
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port}")
    np.testing.assert_array_equal(read_url("http://pictures.example/good"), PICTURE)
    assert internet == [PUBLIC]


@pytest.mark.parametrize(
    ("path", "came", "cause"),
    [
        ("/nothing", "HTTP Error 404: Not Found", ""),
        ("/text", "cannot be read as a picture", "it is an HTML page"),
        ("/long", "more than 100,000 bytes", ""),
        ("/endless", "more than 100,000 bytes", ""),
        ("/short", ("IncompleteRead", "1 more expected"), ""),
        ("/drip", "more than 100,000 bytes", ""),
        ("/busy", "HTTP Error 503", ""),
        ("/to//busy", "HTTP Error 503", ""),
    ],
)
def test_what_is_no_picture_is_an_error_with_the_reason_and_says_if_another_try_may_bring_it(
    internet: list[str], path: str, came: Any, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(url, "MOST_BYTES", 100_000)
    with refuses(
        DataError,
        function="read_url",
        thing=f"http://pictures.example{path}",
        came=came,
        cause=cause,
    ) as refused:
        read_url(f"http://pictures.example{path}")
    assert isinstance(refused.value, NetworkError) == (path in ("/short", "/busy", "/to//busy"))


def test_ports_that_do_not_exist_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The system would take 99999 for another port, and fail on larger ones with an error of its
    own.
    """
    for port in (99_999, 10**30):
        assert "Port out of range 0-65535" in refused(f"http://127.0.0.1:{port}/", capsys)
