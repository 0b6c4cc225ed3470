"""Serves an exported page, and drives it in the browser."""

import functools
import http.server
import io
import tarfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from browser import Browser


class Server:
    """A folder as `python -m http.server` serves it, and the paths that were asked for.

    types : Content-Type of paths that end so; "": there is no such file
    headers : of every answer
    """

    def __init__(
        self,
        folder: Path,
        types: Mapping[str, str] = MappingProxyType({}),
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.asked: list[str] = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(handler, *_: Any) -> None:  # noqa: N805
                self.asked.append(handler.path)

            def guess_type(handler, path: Any) -> str:  # noqa: N805
                found = (types[end] for end in types if str(path).endswith(end))
                return next(found, None) or super().guess_type(path)

            def translate_path(handler, path: str) -> str:  # noqa: N805
                lost = any(path.endswith(end) for end in types if not types[end])
                return "" if lost else super().translate_path(path)

            def end_headers(handler) -> None:  # noqa: N805
                for name, value in headers.items():
                    handler.send_header(name, value)
                super().end_headers()

        handler = functools.partial(Handler, directory=str(folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def wait(browser: Browser, condition: str) -> None:
    """Until a JavaScript expression is true."""
    browser.evaluate(
        f"new Promise((done) => {{ const timer = setInterval(() => {{ if ({condition}) {{"
        " clearInterval(timer); done(); } }, 10); })"
    )


def shown(identity: str) -> str:
    return f"!document.getElementById({identity!r}).hidden"


READY = "document.getElementById('status').textContent === 'Ready.'"
CAPTIONED = f"document.querySelector('#captions li') || {shown('trouble')}"


def give(browser: Browser, path: Path) -> None:
    """Choose a file as a person does, and wait for captions, or a message."""
    browser.evaluate("document.getElementById('captions').replaceChildren()")
    choose(browser, path, "#file")
    wait(browser, CAPTIONED)


def choose(browser: Browser, path: Path, selector: str) -> None:
    """A file for an input."""
    root = browser.call("DOM.getDocument")["root"]["nodeId"]
    node = browser.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
    browser.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])


def captions_on(browser: Browser) -> list[list[tuple[str, float]]]:
    """Words of the captions, with their probabilities to three digits."""
    found = browser.evaluate(
        "[...document.querySelectorAll('#captions .caption')].map((one) =>"
        " [...one.querySelectorAll('.word')].map((word) =>"
        " [word.textContent, Number(word.style.getPropertyValue('--p'))]))"
    )
    return [[(word, p) for word, p in caption] for caption in found]


def text_of(browser: Browser, identity: str) -> str:
    text: str = browser.evaluate(f"document.getElementById({identity!r}).textContent")
    return text


def tar(path: Path, contents: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path
