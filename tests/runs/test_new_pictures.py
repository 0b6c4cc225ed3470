"""Captions of new pictures in a program: any kind of picture, from any thread."""

import asyncio
import io
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import answer
from refusals import refuses

from xpcap import DataError, open_captioner, open_run
from xpcap.errors import NetworkError
from xpcap.models import Beam, Sampling
from xpcap.report.records import Postponed
from xpcap.runs import PictureCaption, PictureCaptioner, Skipped, pictures
from xpcap.shapes import picture_of

Image = pytest.importorskip("PIL.Image")

SERVE = Path(__file__).parents[2] / "docs" / "howto" / "serve.md"

pytestmark = pytest.mark.usefixtures("few_pictures")


@pytest.fixture
def captioner(ranked: Path) -> PictureCaptioner:
    return open_captioner(ranked)


def photo(number: int) -> np.ndarray:
    return picture_of(f"val{number:05d}.png")


def png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def test_a_picture_has_the_commands_caption_to_the_bit_in_every_form(
    ranked: Path, captioner: PictureCaptioner, tmp_path: Path
) -> None:
    content, path = png(photo(1)), tmp_path / "one.png"
    path.write_bytes(content)
    (expected,) = answer("caption", ranked, path)
    with path.open("rb") as file, Image.open(path) as lazy:
        for picture in (
            str(path),
            path,
            content,
            bytearray(content),
            memoryview(content),
            file,
            lazy,
            photo(1),
        ):
            one = captioner.caption(picture)
            name = str(path) if isinstance(picture, str | Path) or picture is file else ""
            assert (one.image, one.caption, one.probabilities) == (
                name,
                expected["caption"],
                expected["probabilities"],
            )
    assert expected["probabilities"] != captioner.caption(photo(3)).probabilities


@pytest.mark.threads
def test_eight_threads_get_the_bits_of_one(captioner: PictureCaptioner) -> None:
    contents = [png(photo(number)) for number in range(6)]
    policies = (None, Beam(3, n_best=3), Sampling(seed=1))
    work = [(content, policy) for content in contents for policy in policies]

    def caption(one: tuple[bytes, Beam | Sampling | None]) -> PictureCaption:
        return captioner.caption(one[0], policy=one[1], explain=True)

    alone = list(map(caption, work))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(caption, work)) == alone
    assert len(alone[1].n_best) == 3
    assert alone[0].explanation is not None


def test_many_pictures_are_read_block_by_block_and_the_bad_ones_keep_their_turn(
    captioner: PictureCaptioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "BATCH", 3)
    read: list[int] = []
    bad = {1: b"", 2: b"<html>not found</html>", 8: png(photo(8))[:200]}

    def sources() -> Iterator[bytes]:
        for number in range(10):
            read.append(number)
            yield bad.get(number, png(photo(number)))

    results = captioner.captions(sources())
    first = next(results)
    assert read == [0, 1, 2, 3, 4]  # three that can be read
    found = [first, *results]
    assert [n for n, one in enumerate(found) if isinstance(one, Skipped)] == list(bad)
    reasons = [one.reason for one in found if isinstance(one, Skipped)]
    for reason, words in zip(reasons, ("is empty", "it is an HTML page", "damaged"), strict=True):
        assert words in reason
    for number, one in enumerate(found):
        if isinstance(one, PictureCaption):
            assert one.caption == captioner.caption(photo(number)).caption


def test_what_cannot_be_read_is_told_at_once_and_holds_up_no_more_than_a_block(
    captioner: PictureCaptioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "BATCH", 3)
    read: list[int] = []

    def sources() -> Iterator[bytes]:
        for number in range(12):
            read.append(number)
            yield png(photo(2)) if number == 2 else b""

    results = captioner.captions(sources())
    taken = [(len(read), type(one).__name__) for one in results]
    assert taken == [
        (1, "Skipped"),
        (2, "Skipped"),
        (6, "PictureCaption"),  # with three behind it that cannot be read
        *[(6, "Skipped")] * 3,
        *((number, "Skipped") for number in range(7, 13)),
    ]


def test_a_download_that_may_succeed_another_time_is_postponed(
    captioner: PictureCaptioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(url: str) -> np.ndarray:
        kind = NetworkError if "slow" in url else DataError
        raise kind("read_url", url, "cannot be read")

    monkeypatch.setattr(pictures, "read_url", read)
    kinds = map(type, captioner.captions(["http://a.example/slow", "http://a.example/gone"]))
    assert list(kinds) == [Postponed, Skipped]
    Path("empty").mkdir()
    (empty,) = pictures.find_sources("empty")[1]
    assert isinstance(empty, Postponed)


def test_a_bad_picture_is_an_error_that_says_why(captioner: PictureCaptioner) -> None:
    unreadable = {"thing": "the picture", "came": "cannot be read as a picture"}
    for picture, error, fields in (
        (b"\xff\xd8\xff\xe0 and no more", DataError, unreadable),
        (b"%PDF-1.7", DataError, {"cause": "it is a PDF"}),
        ("none.png", DataError, {"thing": "none.png", "came": "does not exist"}),
        (photo(0)[..., 0] / 255, TypeError, {"cause": "multiply levels of 0 to 1 by 255"}),
        (photo(0).transpose(2, 0, 1), ValueError, {"cause": "are its channels the first axis?"}),
        (None, TypeError, {"expected": "a path, bytes"}),
    ):
        with refuses(error, **fields):
            captioner.caption(picture)  # type: ignore[arg-type]
    with (
        Image.open(io.BytesIO(png(photo(0))[:200])) as cut,
        refuses(DataError, **unreadable),
    ):
        captioner.caption(cut)


def test_a_captioner_opens_from_a_run_that_is_open_and_from_several(
    run: Path, ranked: Path
) -> None:
    alone = open_captioner(open_run(run)).caption(photo(2))
    assert open_captioner(run).caption(photo(2)) == alone
    Path("val.png").write_bytes(png(photo(2)))
    (both,) = answer("caption", run, run, "val.png")
    assert open_captioner([run, run]).caption("val.png").probabilities == both["probabilities"]


CHUNK = 1 << 16


async def post(app: Any, content: bytes) -> tuple[int, dict[str, Any], int]:
    """Status and answer of an ASGI application, and how many bytes of the content it read."""
    starts = list(range(0, len(content), CHUNK)) or [0]
    sent: list[dict[str, Any]] = []
    read = 0

    async def receive() -> dict[str, Any]:
        nonlocal read
        start = starts.pop(0)
        read += len(part := content[start : start + CHUNK])
        return {"type": "http.request", "body": part, "more_body": bool(starts)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/caption",
        "raw_path": b"/caption",
        "query_string": b"",
        "headers": [],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], json.loads(body), read


def test_the_service_of_the_docs_serves_eight_clients_and_refuses_bad_uploads(
    ranked: Path, captioner: PictureCaptioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fastapi", reason="FastAPI is not installed")
    monkeypatch.setenv("RUN", str(ranked))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # the service sets it
    code = re.search(r"^```python service\n(.*?)^```", SERVE.read_text(), re.S | re.M)
    assert code
    service: dict[str, Any] = {}
    exec(compile(code[1], "service.py", "exec"), service)
    app = service["app"]
    contents = [png(photo(number)) for number in range(8)]

    async def eight() -> list[tuple[int, dict[str, Any], int]]:
        return await asyncio.gather(*(post(app, content) for content in contents))

    for content, (status, reply, _) in zip(contents, asyncio.run(eight()), strict=True):
        one = captioner.caption(content)
        assert status == 200
        assert reply == {"caption": one.caption, "probabilities": one.probabilities}
    for content, status, words in (
        (b"", 422, "is empty"),
        (b"<html>not found</html>", 422, "it is an HTML page"),
        (contents[0][:200], 422, "damaged"),
        (png(np.zeros((5001, 5000, 3), np.uint8)), 422, "5000 x 5001 pixels"),
        (bytes(30_000_000), 413, "20,000,000 bytes"),
    ):
        found, reply, read = asyncio.run(post(app, content))
        assert found == status
        assert words in reply["detail"]
        assert read <= 20_000_000 + CHUNK  # the rest of a huge upload is not taken
    assert asyncio.run(post(app, contents[0]))[0] == 200
    service["pool"].shutdown()
