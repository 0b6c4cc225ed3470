"""A run as a page: its folder, and its modules in Node.js compared with Python."""

import hashlib
import json
import shutil
import subprocess
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import failing, good
from web_pages import tar

from xpcap.data import Vocabulary
from xpcap.data.vocabulary import SPECIAL
from xpcap.decoding.decode import decode
from xpcap.drawings import picture_of
from xpcap.encoders import HistogramEncoder
from xpcap.encoders.histogram import drawn_area
from xpcap.encoders.pictures import letterbox
from xpcap.models import Beam, Policy
from xpcap.reranking import Candidate
from xpcap.runs.decoder import Decoder, limited
from xpcap.runs.run import open_run

pytest.importorskip("onnx", reason="the extra `export` is not installed")

import PIL
from PIL import Image

from xpcap.export import export_web, web_folder

ROOT = Path(__file__).parents[2]
SOURCE = Path(web_folder.__file__).parent / "web"
MODULES = {path.name for path in SOURCE.glob("*.js")}
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed")


# ---- The folder


def contents_of(folder: Path) -> dict[Path, bytes]:
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.usefixtures("few_pictures")
def test_the_command_writes_a_folder_and_never_over_one(run: Path, runtime: Path) -> None:
    said = good("export", run, "--web", "a page").output  # the runtime lies where npm left it
    assert "python -m http.server --directory 'a page'" in said
    before = contents_of(Path("a page"))
    names = {path.as_posix() for path in before}
    assert {"index.html", "captioner.json", "runtime/ort.js", *MODULES} <= names
    assert b"Copyright (c) Microsoft Corporation" in before[Path("runtime/LICENSE.txt")]
    failing(["export", run, "--web", "a page"], "a page exists, and is not overwritten")
    assert contents_of(Path("a page")) == before
    good("export", run, "--web", "other", "--runtime", runtime)
    assert contents_of(Path("other")) == before
    failing(["export", run, "--web", "none/page"], "none, which is not a folder")


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
        ([], "RUN requires --onnx or --web"),
        (["--web", "b", "--with-encoder"], "a page always has the encoder"),
    ):
        failing(["export", run, *args], words, status=2)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "format": 2}))
    failing(["export", run, "--web", "b"], "newer")
    del config["source"]["encoder"]
    (run / "config.json").write_text(json.dumps(config))
    failing(["export", run, "--web", "b"], "was trained on features from an unknown encoder")


# Of each that is installed as it is, what browsers run or fetch: nginx 1.26, Apache 2.4, Caddy,
# Python's http.server, GitHub Pages, ASP.NET Core, busybox. No .mjs: nginx and busybox send it as
# no JavaScript, ASP.NET Core not at all.
SERVED = {".html", ".js", ".json", ".txt", ".bin"}


def test_the_folder_is_what_servers_send_and_the_page_may_load_nothing_from_elsewhere(
    run: Path, runtime: Path, tmp_path: Path
) -> None:
    files = export_web(open_run(run), tmp_path / "page", runtime=runtime).files
    assert {one.suffix for one in files} <= SERVED
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
    pictures = [picture_of(f"val{number:05}.png", 0) for number in range(2)]
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
        {"pictures": list(map(of_python, pictures)), "grids": (grids := [None, 2])},
    )
    for picture, of_picture in zip(pictures, found, strict=True):
        for grid, (features, area) in zip(grids, of_picture, strict=True):
            (wanted,) = HistogramEncoder(grid=grid).encode([picture])
            np.testing.assert_allclose(features, wanted.ravel(), atol=1e-4)
            np.testing.assert_allclose(area, astuple(drawn_area(picture)), atol=1e-12)


class Chain:
    """A model whose next word depends on the last two words: a table of scores (V, V, V)."""

    def __init__(self, words: list[str], table: np.ndarray) -> None:
        self.word_to_idx = {word: i for i, word in enumerate(words)}
        self.like, self.table, self.dispatch = table, table, ()

    def start(self, features: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.zeros((len(features), 1), np.float32),)

    def stepper(self, memory: Any) -> "Chain":
        return self

    def project(self, words: np.ndarray) -> np.ndarray:
        return words[:, None].astype(np.float32)

    def advance(self, a: np.ndarray, state: Any) -> Any:
        last, before = a[:, 0].astype(int), state[0][:, 0].astype(int)
        return self.table[before, last].copy(), (a.copy(),)


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
        decoder = Decoder(one, vocabulary, None, beam)
        (wanted,) = decoder.candidates(np.zeros((1, 1), np.float32))
        assert [tuple(one["words"]) for one in candidates] == [one.words for one in wanted]
        totals = [one["log_probability"] for one in candidates]
        np.testing.assert_allclose(totals, [one.log_probability for one in wanted], rtol=1e-5)
        assert len(candidates) > 1


@needs_node
@pytest.mark.parametrize("retrieved", [0, 4])
def test_ranking_is_the_rankers(
    retrieved: int, script: Script, reranked: Path, runtime: Path, rng: np.random.Generator
) -> None:
    run = open_run(reranked)
    assert run.reranker is not None
    weights = {**run.reranker.weights, "borrowed": 0.5, "repeats": -2.0, "unseen": -3.0}
    reranker = replace(
        run.reranker, weights=weights, neighbours=7, bandwidth=0.2, retrieved=retrieved
    )
    index, vocabulary = reranker.index, run.vocabulary
    export_web(replace(run, reranker=reranker), script.folder / "page", runtime=runtime)
    manifest = json.loads((script.folder / "page/captioner.json").read_text())
    data = run.data()
    copies = data.features("train", np.arange(3))  # of photos in the index, but not the same
    copies = copies + np.float32(0.5) * rng.standard_normal(copies.shape).astype(np.float32)
    features = np.concatenate([data.features("val", np.arange(6)), copies])
    captions = [tuple(words) for photo in range(9) for words in index.captions(photo)]
    made = []
    for _ in features:
        some = {captions[i]: None for i in rng.integers(len(captions), size=5)}
        some = {tuple(rng.permutation(words).tolist()): None for words in some} | {(5, 5, 6): None}
        made.append([Candidate(words, float(-rng.random() * 9)) for words in some])

    def likelihood(numbers: Any, some: Any) -> np.ndarray:
        return np.array([-0.7 * len(words) for words in some])

    embeddings, near = reranker.near(features)
    allowed = Policy(max_length=12).allows
    wanted = reranker.rerank(
        embeddings, near, reranker.with_retrieved(near, made, likelihood, allowed)
    )
    assert any(
        one.candidate.photo >= 0 for reranking in wanted for one in reranking.candidates
    ) == bool(retrieved)
    centred = features - index.projection.mean
    found = script(
        """import { unpack } from "./engine.js";
        import { Reranker, readTensors } from "./reranking.js";
        const stored = new Uint8Array(readFileSync(`page/${given.file.path}`));
        const tensors = readTensors(await unpack(given.file, stored));
        const reranker = new Reranker(tensors, given.settings, given.special);
        const likelihood = (captions) => captions.map((words) => {
          return [...words.map(() => -0.7), 0];
        });
        const out = [];
        for (const [i, projected] of given.projected.entries()) {
          const made = given.made[i];
          const allowed = (words) => words.length < 12;
          const x = Float32Array.from(projected);
          out.push(await reranker.rerank(x, given.norms[i], made, likelihood, allowed));
        }
        console.log(JSON.stringify(out));""",
        {
            "file": manifest["files"]["reranking.safetensors"],
            "settings": manifest["reranking"],
            "special": {"unk": vocabulary.unk},
            "projected": (centred @ index.projection.components).tolist(),
            "norms": np.linalg.norm(centred, axis=1).tolist(),
            "made": [
                [
                    {"words": one.words, "log_probability": one.log_probability, "photo": -1}
                    for one in some
                ]
                for some in made
            ],
        },
    )
    for reranking, ours in zip(wanted, found, strict=True):
        candidates = [one.candidate for one in reranking.candidates]
        assert [tuple(one["words"]) for one in ours] == [one.words for one in candidates]
        assert [one["photo"] for one in ours] == [one.photo for one in candidates]
        scores = [one["score"] for one in ours]
        np.testing.assert_allclose(scores, [one.score for one in reranking.candidates], atol=1e-3)


@needs_node
def test_pixels_with_alpha_are_refused(script: Script) -> None:
    found = script(
        """globalThis.fetch = async () => ({ ok: true, json: async () => ({ files: {} }) });
        globalThis.Worker = class {
          constructor() { this.postMessage({ id: 0 }); }
          postMessage({ id }) {
            queueMicrotask(() => this.onmessage({ data: { id, result: "said" } }));
          }
        };
        const { openCaptioner } = await import("./captioner.js");
        const captioner = await openCaptioner();
        const out = [];
        for (const size of given) {
          const picture = { width: 2, height: 3, data: new Uint8Array(size) };
          out.push(await captioner.caption(picture).catch((error) => error.message));
        }
        console.log(JSON.stringify(out));""",
        [18, 24],
    )
    assert found[0] == "said"
    assert found[1].startswith("Pixels of a picture 2 x 3 are 24 numbers, expected 18")


@needs_node
def test_a_file_that_did_not_arrive_whole_is_named(
    script: Script, rng: np.random.Generator
) -> None:
    content = rng.integers(0, 9, 1001, np.uint8).tobytes()
    packed = web_folder.compress(content, 2)
    about = {
        "path": "weights/step.onnx.bin",
        "planes": 2,
        "bytes": len(content),
        "stored": len(packed),
        "sha256": hashlib.sha256(packed).hexdigest(),
    }
    turned = bytearray(packed)
    turned[200] ^= 1
    files = [packed, packed[:-1], bytes(turned), b""]
    found = script(
        """import { openEngine, unpack } from "./engine.js";
        const tell = (promise) => promise.then((bytes) => Array.from(bytes), (e) => e.message);
        const out = [];
        for (const bytes of given.files) {
          out.push(await tell(unpack(given.about, Uint8Array.from(bytes))));
        }
        out.push(await tell(openEngine({ format: 1 })));
        console.log(JSON.stringify(out));""",
        {"about": about, "files": [list(one) for one in files]},
    )
    assert bytes(found[0]) == content
    assert found[1].startswith("weights/step.onnx.bin is incomplete: ")
    assert found[2].startswith("weights/step.onnx.bin is damaged")
    assert found[3].startswith("weights/step.onnx.bin is incomplete: 0 of")
    assert "format 1, and this page reads 3" in found[4]
