"""The web service of the docs answers every form of upload, and bounds what can pile up."""

import asyncio
import base64
import contextlib
import http.client
import importlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from programs import HANG_SECONDS

from xpcap import PictureCaption, Skipped, open_captioner
from xpcap.drawings import picture_of

for package in ("uvicorn", "python_multipart"):
    pytest.importorskip(package, reason="the serve extra is not installed")
fastapi = pytest.importorskip("fastapi", reason="the serve extra is not installed")

ROOT = Path(__file__).parents[2]
HOWTO = ROOT / "docs" / "howto"
CHUNK = 1 << 16


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of its own for each test, which may set its limits."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # the service sets it
    monkeypatch.syspath_prepend(HOWTO)
    monkeypatch.delitem(sys.modules, "service", raising=False)
    return importlib.import_module("service")


def answers(service: ModuleType, *requests: dict[str, Any]) -> list[Any]:
    """Answers to requests that are sent at once."""

    async def send() -> list[Any]:
        transport = httpx.ASGITransport(service.app, raise_app_exceptions=False)
        async with (
            service.lifespan(service.app),
            httpx.AsyncClient(transport=transport, base_url="http://service") as client,
        ):
            sent = [client.post("/caption", **one) for one in requests]
            found = await asyncio.wait_for(asyncio.gather(*sent), HANG_SECONDS)
            assert service.app.state.queue.held == 0
            stated = service.app.openapi()["paths"]["/caption"]["post"]["responses"]
            assert {str(reply.status_code) for reply in found} <= {*stated}
            return found

    return asyncio.run(send())


def png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


@pytest.mark.usefixtures("few_pictures")
def test_every_form_of_upload_is_captioned_as_by_the_captioner_and_bad_ones_say_why(
    service: ModuleType, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUN", str(trained))
    read = 0

    async def huge() -> AsyncIterator[bytes]:
        nonlocal read
        while read < 2 * service.MOST:
            read += CHUNK
            yield bytes(CHUNK)

    content = png(picture_of("val00001.png"))
    url = b"data:image/png;base64," + base64.b64encode(content)
    good: list[dict[str, Any]] = [
        {"content": content},
        {"content": content, "headers": {"content-type": "application/x-www-form-urlencoded"}},
        {"files": {"file": content}},
        {"content": url},
        {"data": {"file": url}, "files": {"ignored": b""}},
    ]
    large = png(np.zeros((5001, 5000, 3), np.uint8))
    form = {"content-type": "multipart/form-data; boundary=b"}
    bad: list[tuple[dict[str, Any], int, str]] = [
        ({"content": b""}, 422, "is empty"),
        ({"content": b"<html>not found</html>"}, 422, "it is an HTML page"),
        ({"content": content[:200]}, 422, "damaged"),
        ({"content": large}, 422, "5000 x 5001 pixels"),
        ({"files": {"photo": content}}, 422, "no field of the name `file`"),
        ({"content": b"data:image/png,abc"}, 422, "data:image/...;base64"),
        ({"content": url + b"!"}, 422, "data:image/...;base64"),
        ({"files": [("file", content), ("file", content)]}, 400, "Too many files"),
        ({"content": b"no form", "headers": form}, 400, "Invalid multipart data"),
        ({"content": huge()}, 413, "20,000,000 bytes"),
    ]
    found = answers(service, *good, *(request for request, _, _ in bad))
    right = open_captioner(trained).caption(content)
    for reply in found[: len(good)]:
        assert reply.status_code == 200, reply.text
        told = reply.json()
        assert (told["caption"], told["words"]) == (right.caption, [*right.split()])
        assert told["probabilities"] == pytest.approx(right.probabilities, abs=1e-6)
    for reply, (_, status, words) in zip(found[len(good) :], bad, strict=True):
        assert (reply.status_code, words in reply.json()["detail"]) == (status, True), reply.text
    assert read <= service.MOST + CHUNK


def test_a_service_may_return_what_a_captioner_does(reranked: Path) -> None:
    pictures = [picture_of("val00001.png"), b"no picture"]
    results = [*open_captioner(reranked).captions(pictures, explain=True)]
    app = fastapi.FastAPI()

    @app.get("/")
    def answer() -> list[PictureCaption | Skipped]:
        return results

    async def get(path: str) -> Any:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return (await client.get(path)).json()

    assert asyncio.run(get("/")) == json.loads(json.dumps([*map(asdict, results)]))
    assert {"PictureCaption", "Skipped"} <= {
        *asyncio.run(get("/openapi.json"))["components"]["schemas"]
    }


class Stub:
    """Gives pictures back as captions."""

    def captions(self, pictures: list[bytes]) -> Iterator[PictureCaption]:
        for picture in pictures:
            if picture == b"fault":
                raise MemoryError
            yield PictureCaption("", picture.decode(), [1.0], [])


@pytest.fixture
def stubbed(service: ModuleType) -> ModuleType:
    service.open_captioner = lambda run: Stub()
    return service


def test_an_upload_that_stalls_is_ended(stubbed: ModuleType) -> None:
    async def stalling() -> AsyncIterator[bytes]:
        yield b"part"
        await asyncio.Event().wait()

    stubbed.SECONDS = 0.01
    (reply,) = answers(stubbed, {"content": stalling()})
    assert (reply.status_code, reply.headers["connection"]) == (408, "close")


def test_an_upload_is_refused_while_others_hold_all_bytes(stubbed: ModuleType) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def early() -> AsyncIterator[bytes]:
        yield b"abc"
        begun.set()
        await ended.wait()

    async def late() -> AsyncIterator[bytes]:
        await begun.wait()
        ended.set()
        yield b"def"

    stubbed.HELD = 5
    served, refused = answers(stubbed, {"content": early()}, {"content": late()})
    assert served.json() == {"caption": "abc", "words": ["abc"], "probabilities": [1.0]}
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")


def test_a_fault_of_the_model_is_answered_and_the_next_picture_captioned(
    stubbed: ModuleType,
) -> None:
    stubbed.TOGETHER = 1
    found = answers(stubbed, {"content": b"fault"}, {"content": b"abc"})
    assert [reply.status_code for reply in found] == [500, 200]


def test_its_description_has_uploads_of_files_words_probabilities_and_every_status(
    service: ModuleType,
) -> None:
    told = service.app.openapi()
    post = told["paths"]["/caption"]["post"]
    body = post["requestBody"]["content"]
    assert body["multipart/form-data"]["schema"]["properties"]["file"]["format"] == "binary"
    assert body["application/octet-stream"]["schema"]["format"] == "binary"
    assert "text/plain" in body
    required = told["components"]["schemas"]["Caption"]["required"]
    assert required == ["caption", "words", "probabilities"]
    table = (
        (HOWTO / "caption-in-programs.md")
        .read_text("utf-8")
        .split("| status | cause |\n|---|---|\n")[1]
    )
    rows = re.findall(r"^\| (\d+) ", table.split("\n\n")[0], re.MULTILINE)
    assert rows == sorted(post["responses"])


SERVER = """
import sys, service, uvicorn
from test_service import Stub

class Slow(Stub):
    def captions(self, pictures):
        print(len(pictures), flush=True)
        sys.stdin.readline()
        yield from super().captions(pictures)

service.open_captioner = lambda run: Slow()
uvicorn.run(service.app, fd=int(sys.argv[1]), log_level="warning", access_log=False)
"""


@pytest.fixture
def server() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A service whose captioner says how many pictures it was given, and reads a line for each
    call before it answers; and its port, to which connections may be made at once.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        paths = map(str, (HOWTO, Path(__file__).parent, ROOT, ROOT / "tests" / "helpers"))
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(listening.fileno())],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            pass_fds=[listening.fileno()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        port = listening.getsockname()[1]
    with process:
        end = threading.Timer(HANG_SECONDS, process.kill)  # then no read waits for it
        end.start()
        yield process, port
        end.cancel()
        process.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to wait for")
def test_a_full_queue_refuses_drops_who_leaves_and_ends_at_sigterm(
    service: ModuleType, server: tuple[subprocess.Popen[str], int]
) -> None:
    process, port = server
    assert process.stdin is not None
    assert process.stdout is not None

    def send(method: str = "POST", path: str = "/caption") -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HANG_SECONDS)
        connection.request(method, path, b"a" if method == "POST" else None)
        return opened.enter_context(contextlib.closing(connection))

    def until_waiting(count: int) -> None:
        while json.load(send("GET", "/health").getresponse()) != {"waiting": count}:
            pass

    def go_on() -> None:
        process.stdin.write("\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]

    with contextlib.ExitStack() as opened:
        first = send()
        assert process.stdout.readline() == "1\n"
        later = [send() for _ in range(service.WAITING)]
        until_waiting(service.WAITING)
        refused = send().getresponse()
        assert (refused.status, refused.getheader("Retry-After")) == (503, "1")
        for one in later[::2]:
            one.close()
        until_waiting(service.WAITING // 2)
        go_on()
        assert first.getresponse().status == 200
        assert process.stdout.readline() == f"{service.TOGETHER}\n"  # at once
        uploading = opened.enter_context(
            socket.create_connection(("127.0.0.1", port), timeout=HANG_SECONDS)
        )
        head = b"POST /caption HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue"
        uploading.sendall(head + b"\r\n\r\n")
        assert uploading.recv(CHUNK).startswith(b"HTTP/1.1 100 ")  # it is being received
        process.send_signal(signal.SIGTERM)
        assert uploading.recv(CHUNK).startswith(b"HTTP/1.1 503 ")
        stayed = later[1::2]
        captioned, rest = stayed[: service.TOGETHER], stayed[service.TOGETHER :]
        assert {one.getresponse().status for one in rest} == {503}
        go_on()
        assert {one.getresponse().status for one in captioned} == {200}
        assert process.stdout.read() == ""  # nothing else was captioned
        assert process.wait() == -signal.SIGTERM
