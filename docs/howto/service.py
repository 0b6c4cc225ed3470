"""A web service that captions pictures: RUN=runs/tiny uvicorn service:app

One thread captions, all pictures that wait at once, so that the event loop is never blocked.
Whatever could pile up is bounded: bytes of uploads, their time, and pictures that wait.
"""

import asyncio
import base64
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from PIL import Image
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.types import Message

from xpcap import PictureCaption, Skipped, open_captioner
from xpcap.captioning import PictureCaptioner

MOST = 20_000_000  # bytes of a request
HELD = 100_000_000  # bytes of all requests
SECONDS = 30.0  # to receive a request
WAITING = 32  # pictures that wait
TOGETHER = 8  # pictures that are captioned at once
Image.MAX_IMAGE_PIXELS = 25_000_000  # a JPEG may have twice as many


class Queue:
    """Pictures that wait for the model, each with the future of its result."""

    def __init__(self) -> None:
        self.waiting: dict[asyncio.Future[PictureCaption | Skipped], bytes] = {}
        self.arrived, self.stopped = asyncio.Event(), asyncio.Event()
        self.held = 0  # bytes of requests

    async def work(self, captioner: PictureCaptioner) -> None:
        while await self.arrived.wait():
            self.arrived.clear()
            while turns := [*self.waiting][:TOGETHER]:
                pictures = [self.waiting.pop(turn) for turn in turns]
                try:
                    results = await asyncio.to_thread(list, captioner.captions(pictures))
                    for turn, result in zip(turns, results, strict=True):
                        turn.set_result(result)
                except Exception as error:  # they are answered by 500, and the next ones served
                    for turn in turns:
                        turn.set_exception(error)

    def stop(self) -> None:
        """Refuse every request but those that are being captioned, so that the server can exit."""
        self.stopped.set()
        for turn in self.waiting:
            turn.set_exception(busy("the service is stopping"))
        self.waiting.clear()

    @contextlib.asynccontextmanager
    async def picture(self, request: Request) -> AsyncIterator[bytes]:
        """The picture in a request, which counts as held inside the context."""
        size = 0

        async def receive() -> Message:
            nonlocal size
            message = await request.receive()
            more = len(message.get("body", b""))
            if size + more > MOST:
                raise HTTPException(413, f"a request may have {MOST:,} bytes")
            if self.held + more > HELD:
                raise busy("too many uploads at once")
            size += more
            self.held += more
            return message

        upload = asyncio.create_task(read(Request(request.scope, receive)))
        try:
            await either(upload, self.stopped.wait(), SECONDS)
            if self.stopped.is_set():
                raise busy("the service is stopping")
            if not upload.done():
                late = f"a request may take {SECONDS:g} s to arrive"
                raise HTTPException(408, late, {"Connection": "close"})
            yield upload.result()
        finally:
            upload.cancel()
            self.held -= size

    async def result(self, picture: bytes, request: Request) -> PictureCaption | Skipped:
        """The caption of a picture, which is dropped if its client leaves before its turn."""
        if len(self.waiting) >= WAITING:
            raise busy(f"{WAITING} pictures are waiting")
        turn = asyncio.get_running_loop().create_future()
        self.waiting[turn] = picture
        self.arrived.set()
        try:
            await either(turn, left(request))
        finally:
            self.waiting.pop(turn, None)
        if not turn.done():
            raise ClientDisconnect
        return turn.result()


def busy(why: str) -> HTTPException:
    return HTTPException(503, why, {"Retry-After": "1"})


async def either(
    work: asyncio.Future[Any], event: Coroutine[Any, Any, Any], seconds: float | None = None
) -> None:
    """Wait until the work is done, the event has come, or the seconds are over."""
    coming = asyncio.create_task(event)
    await asyncio.wait({work, coming}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    coming.cancel()


async def left(request: Request) -> None:
    """Wait until the client of a request, which was received, leaves."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def read(request: Request) -> bytes:
    """The picture in the `file` of a form, or in the body; there or here, perhaps as a data URL."""
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        async with request.form(max_files=1, max_part_size=MOST) as form:
            if (file := form.get("file")) is None:
                raise HTTPException(422, "the form has no field of the name `file`")
            content = file.encode() if isinstance(file, str) else await file.read()
    else:
        content = await request.body()
    if not content.startswith(b"data:"):
        return content
    try:
        _, encoded = content.split(b";base64,", 1)
        return base64.b64decode(encoded, validate=True)
    except ValueError as error:
        raise HTTPException(422, "a data URL must be data:image/...;base64,...") from error


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.queue = queue = Queue()
    loop = asyncio.get_running_loop()
    server: Any = signal.getsignal(signal.SIGTERM)

    def terminate(*args: Any) -> None:
        loop.call_soon_threadsafe(queue.stop)
        server(*args)

    if callable(server):  # it lets the application know only when all requests are answered
        signal.signal(signal.SIGTERM, terminate)
    captioner = open_captioner(os.environ.get("RUN", "runs/tiny"))
    work = asyncio.create_task(queue.work(captioner))
    yield
    work.cancel()


class Caption(BaseModel):
    caption: str
    words: list[str]
    probabilities: list[float]  # of the words


class Problem(BaseModel):
    detail: str


PROBLEMS = {
    400: "A damaged form",
    408: "The request took too long to arrive",
    413: "The request is too large",
    422: "No picture, a damaged one, or too many pixels",
    503: "Too much to do: try again after Retry-After seconds",
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "description": why} for code, why in PROBLEMS.items()
}
RESPONSES[500] = {"description": "A fault of the service, which its log has"}
FILE = {"type": "string", "format": "binary"}
BODIES = {
    "multipart/form-data": {"type": "object", "properties": {"file": FILE}, "required": ["file"]},
    "application/octet-stream": FILE,
    "text/plain": {"type": "string", "example": "data:image/png;base64,iVBORw0KGgo="},
}
app = FastAPI(title="Captions of pictures", lifespan=lifespan)


@app.post(
    "/caption",
    responses=RESPONSES,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {kind: {"schema": schema} for kind, schema in BODIES.items()},
        }
    },
)
async def caption(request: Request) -> Caption:
    """Caption a picture."""
    queue: Queue = request.app.state.queue
    async with queue.picture(request) as picture:
        result = await queue.result(picture, request)
    if isinstance(result, Skipped):
        raise HTTPException(422, result.reason)
    words = list(result.split())
    return Caption(caption=result.caption, words=words, probabilities=result.probabilities)


@app.get("/health")
async def health(request: Request) -> dict[str, int]:
    """The pictures that wait. The status is 200 even if no more may: a busy service is healthy."""
    return {"waiting": len(request.app.state.queue.waiting)}


@app.exception_handler(ClientDisconnect)
async def gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # for the log, as nginx has it: nobody receives it
