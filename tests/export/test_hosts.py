"""The page and its module as hosts serve them, in Chromium: nginx, wrong types, frames, and a page of somebody else."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the extra `export` is not installed")

from browser import Browser
from PIL import Image
from web_pages import READY, Server, captions_on, choose, give, shown, text_of, wait

from xpcap.captioning.captions import open_captioner
from xpcap.drawings import picture_of
from xpcap.runs.records import PictureCaption
from xpcap.runs.run import default_policy, open_run

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # test_page.py has the page in a browser
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
TYPES = Path("/etc/nginx/mime.types")
CONFIG = """
daemon off; master_process off; pid FOLDER/pid; error_log stderr;
events {}
http {
  include /etc/nginx/mime.types; default_type application/octet-stream; access_log off;
  client_body_temp_path FOLDER/body; proxy_temp_path FOLDER/proxy; fastcgi_temp_path FOLDER/fast;
  uwsgi_temp_path FOLDER/uwsgi; scgi_temp_path FOLDER/scgi;
  server { listen 127.0.0.1:PORT; root PAGE; }
}
"""


@pytest.fixture
def nginx(page_of_reranked: Path, tmp_path: Path) -> Iterator[str]:
    """The URL of the page as nginx serves it with the types that it is installed with."""
    if NGINX is None or not TYPES.exists():
        pytest.skip(f"nginx is not installed, or without {TYPES}")
    with socket.create_server(("127.0.0.1", 0)) as listening:  # handed on: no port to lose
        config = CONFIG.replace("FOLDER", str(tmp_path)).replace("PAGE", str(page_of_reranked))
        port = listening.getsockname()[1]
        (tmp_path / "nginx.conf").write_text(config.replace("PORT", str(port)))
        process = subprocess.Popen(
            [NGINX, "-e", "stderr", "-c", str(tmp_path / "nginx.conf")],
            env={**os.environ, "NGINX": f"{listening.fileno()};"},
            pass_fds=[listening.fileno()],
            stderr=subprocess.PIPE,
        )
        try:
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()
            process.communicate()


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "val00000.png"
    Image.fromarray(picture_of(path.name, 0)).save(path)
    return path


@pytest.fixture(scope="module")
def wanted(reranked: Path, picture: Path) -> PictureCaption:
    captioner = open_captioner(open_run(reranked))
    policy = replace(default_policy(captioner.run), n_best=5)
    return captioner.caption(picture, policy=policy)


def test_the_page_captions_on_nginx(
    browser: Browser, nginx: str, picture: Path, wanted: PictureCaption
) -> None:
    browser.show(nginx, 1000, dark=False)
    wait(browser, f"{READY} || {shown('problem')}")
    assert text_of(browser, "problem") == ""
    give(browser, picture)
    assert " ".join(word for word, _ in captions_on(browser)[0]) == wanted.caption


OCTETS = "application/octet-stream"


UNSERVED: list[tuple[dict[str, str], str]] = [
    ({"runtime/ort.js": OCTETS}, f"runtime/ort.js was served as {OCTETS}, and browsers"),
    ({"engine.js": "text/html"}, "engine.js was served as text/html, and browsers run modules only as JavaScript. Was the whole"),
    ({".js": " "}, "page.js was served without a Content-Type, and browsers run modules"),
    ({"reranking.js": ""}, "reranking.js is missing (404). Was the whole folder copied?"),
    ({"drawing.js": ""}, "drawing.js is missing (404). Was the whole folder copied?"),
]  # fmt: skip


def test_a_module_that_does_not_load_is_named_with_what_was_served(
    browser: Browser, page_of_reranked: Path
) -> None:
    for types, words in UNSERVED:
        with Server(page_of_reranked, types) as server:
            browser.show(server.url, 1000, dark=False)
            wait(browser, shown("problem"))
            assert text_of(browser, "problem").startswith(words)
            assert not browser.evaluate(shown("app"))


def test_a_frame_shows_the_page_and_a_sandbox_says_what_it_lacks(
    browser: Browser, page_of_reranked: Path, tmp_path: Path
) -> None:
    (tmp_path / "page").symlink_to(page_of_reranked)
    (tmp_path / "index.html").write_text('<iframe src="page/index.html"></iframe>')
    inside = "document.querySelector('iframe').contentDocument"
    with Server(tmp_path) as server:
        browser.show(server.url, 1000, dark=False)
        wait(browser, f"{inside}.getElementById('status').textContent === 'Ready.'")
    sandboxed = {"Content-Security-Policy": "sandbox allow-scripts"}  # as the attribute of a frame
    with Server(page_of_reranked, headers=sandboxed) as server:
        browser.show(server.url, 1000, dark=False)
        wait(browser, shown("problem"))
        assert "Add allow-same-origin to the frame's sandbox" in text_of(browser, "problem")


def test_the_pages_example_captions_in_a_page_of_somebody_else(
    browser: Browser, page_of_reranked: Path, tmp_path: Path, picture: Path, wanted: PictureCaption
) -> None:
    """The example of docs/howto/web-page.md in a document that lies beside the folder, under the
    Content-Security-Policy that the page names.
    """
    text = (ROOT / "docs/howto/web-page.md").read_text("utf-8")
    (example,) = re.findall(r"```html\n(.*?)```", text, re.DOTALL)
    (tmp_path / "index.html").write_text(example)
    (tmp_path / "page").symlink_to(page_of_reranked)
    fields = set(re.findall(r"`(\w+)`", text.partition("| field | is |")[2].partition("\n\n")[0]))
    (policy,) = re.findall(r"`(script-src .*)`", text)
    policy = "default-src 'none'; " + policy.replace("script-src", "script-src 'unsafe-inline'")
    said = "document.querySelector('p').textContent"
    with Server(tmp_path, headers={"Content-Security-Policy": policy}) as server:
        browser.show(server.url, 1000, dark=False)
        wait(browser, f"{said} === 'Ready.'")
        choose(browser, picture, "input")
        wait(browser, f"{said} !== 'Ready.'")
        assert browser.evaluate(said) == wanted.caption
        found = browser.evaluate(SEVERAL)
    assert wanted.n_best is not None
    for captions in found["captions"]:
        assert [one["text"] for one in captions] == [one.caption for one in wanted.n_best]
        assert set(captions[0]) == fields
        np.testing.assert_allclose(captions[0]["probabilities"], wanted.probabilities, atol=1e-4)
    assert found["received"] == [0, found["all"], found["all"]]
    assert "PictureError: This file cannot be read as a picture" in found["bad"]
    assert "TypeError" in found["no picture"]
    assert found["told"] == ["The caption is no longer wanted.", "captioned", "captioned"]
    assert found["closed"] == "Error: The captioner is closed."


SEVERAL = """(async () => {
  const { openCaptioner } = await import("./page/captioner.js");
  const calls = [];
  const captioner = await openCaptioner({ onBytes: (...call) => calls.push(call) });
  const [file] = document.querySelector("input").files;
  const bitmap = await createImageBitmap(file);
  const canvas = Object.assign(document.createElement("canvas"), bitmap_size(bitmap));
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const data = context.getImageData(0, 0, canvas.width, canvas.height);
  const pictures = [file, await captioner.read(file), canvas, data];
  const captions = await Promise.all(pictures.map((one) => captioner.caption(one)));
  const tell = (one) => one.then(() => "captioned", ({ message }) => message);
  const [early, late] = [new AbortController(), new AbortController()];
  const given = [early, late, {}].map(({ signal }) => captioner.caption(data, { signal }));
  for (let turn = 0; turn < 9; turn++) await null; // until the worker was asked
  early.abort();
  const told = await Promise.all(given.map(tell));
  const why = (promise) => promise.then(() => "", String);
  const bad = await why(captioner.caption(new Blob(["a dog"])));
  const none = await why(captioner.caption("dog.jpg"));
  captioner.close();
  return {
    captions: captions.map((one) => one.captions), received: [calls[0][0], ...calls.at(-1)],
    all: calls[0][1], bad, told, "no picture": none, closed: await why(captioner.caption(data)),
  };
})()""".replace("bitmap_size(bitmap)", "{ width: bitmap.width, height: bitmap.height }")
