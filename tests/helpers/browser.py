"""Drives a headless Chromium over a pair of pipes with the DevTools protocol: no package, port or
network needed.
"""

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage --no-first-run --no-default-browser-check
    --disable-background-networking --disable-component-update --disable-sync --disable-extensions --hide-scrollbars --remote-debugging-pipe""".split()

LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD_CLOEXEC, 10) for end in sys.argv[1:3]]  # away from 3 and 4, which the browser reads and writes
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find_browser() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A browser with one tab. `folder` is an empty folder for its files; no answer within `seconds`
    raises a TimeoutError.
    """

    def __init__(self, program: str, folder: Path, seconds: float = 60) -> None:
        self._seconds, self._read, self._buffer, self._count = seconds, b"", b"", 0
        self.requested: set[str] = set()
        (theirs_in, self._out), (self._in, theirs_out) = os.pipe(), os.pipe()
        launch = [sys.executable, "-c", LAUNCH, str(theirs_in), str(theirs_out), program]
        self._process = subprocess.Popen(
            [*launch, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
            pass_fds=(theirs_in, theirs_out),
            env={**os.environ, "HOME": str(folder)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._session: str | None = None

    def __enter__(self) -> "Browser":
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
            self._session = attached["sessionId"]
            self.call("Page.enable")
            self.call("Network.enable")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # With its child processes, or they keep writing to the folder
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def show(self, page: Path | str, width: int, dark: bool, scale: float = 1) -> None:
        """Load a page, a file or a URL, in a window of this width and theme."""
        size = {"width": width, "height": 844, "deviceScaleFactor": scale, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[theme])
        url = page if isinstance(page, str) else page.as_uri()
        self.call("Page.navigate", until="Page.loadEventFired", url=url)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page; promises are awaited."""
        how = {"returnByValue": True, "awaitPromise": True}
        answer = self.call("Runtime.evaluate", expression=expression, **how)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, whole: bool = False) -> bytes:
        """PNG of the visible part, or of the whole page."""
        taken = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        return base64.b64decode(taken["data"])

    def call(self, method: str, until: str | None = None, **parameters: Any) -> Any:
        """Call a method of the protocol and return its result. If `until` names an event, wait for
        it first.
        """
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline, result, waiting = time.monotonic() + self._seconds, None, until
        while result is None or waiting is not None:
            answer = self._receive(deadline)
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                result = answer["result"]
            elif answer.get("method") == waiting:
                waiting = None
            elif answer.get("method") == "Network.requestWillBeSent":
                self.requested.add(answer["params"]["request"]["url"].split(":")[0])
        return result

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._in], [], [], max(0, deadline - time.monotonic()))[0]:
                raise TimeoutError("the browser did not answer")
            chunk = os.read(self._in, 1 << 20)
            if not chunk:
                raise ConnectionError("the browser ended")
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(line)
