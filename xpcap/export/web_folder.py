"""Export a run as a static page that captions in the browser: files, manifest, and checks."""

import gzip
import hashlib
import json
import tarfile
import zlib
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from xpcap import __version__
from xpcap.data.vocabulary import gaps
from xpcap.drawings.scenes import COLOURS
from xpcap.encoders import Encoder, HistogramEncoder
from xpcap.encoders.histogram import SIDE
from xpcap.encoders.onnx import OnnxEncoder
from xpcap.encoders.pictures import LONGEST, MAX_BYTES
from xpcap.errors import DataError
from xpcap.export.onnx_encoder import add_encoder, load_encoder, opset_of
from xpcap.export.onnx_folder import (
    START,
    STEP,
    Exported,
    checked_model,
    require_exportable,
    write_folder,
)
from xpcap.export.onnx_graphs import GraphCaptioner, start_graph, step_graph
from xpcap.export.tensor import graph_output
from xpcap.files.onnx_file import Graph
from xpcap.metrics.cider import Hashes
from xpcap.models import Beam
from xpcap.report.markup import render
from xpcap.reranking import Reranker
from xpcap.reranking.file import arrays_of
from xpcap.runs.run import Run

FORMAT = 3  # of the manifest, which captioner.js reads
RUNTIME = "onnxruntime-web"
VERSION = "1.30.0"
SHA256 = {  # digests of the files that a page needs
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
}
TARBALL = f"{RUNTIME}-{VERSION}.tgz"
RUNTIME_PATHS = (TARBALL, f"node_modules/{RUNTIME}")  # where npm puts it
MAX_RUNTIME_BYTES = 64 << 20  # of a file of the runtime
WIDTH = 5  # of the beam of a run without reranking; also the number of captions shown
# Suffix of compressed files; some servers refuse suffixes without a known type
PACKED = ".bin"


def export_web(
    run: Run,
    folder: str | Path,
    *,
    runtime: str | Path | None = None,
    weights: str = "float16",
) -> Exported:
    """Write a page that captions pictures in the browser to a new folder.

    The page computes a picture's features, decodes with a beam, and reranks the captions as the run
    does. Without reranking, the beam has width 5. Pictures do not leave the browser.

    Parameters
    ----------
    runtime : npm's package onnxruntime-web, version `VERSION`, as a .tgz or unpacked. None: the one
        in the working folder or its node_modules
    weights : dtype of the matrices, as in `export_onnx`

    Raises
    ------
    DataError : the package onnx or the runtime is missing, or has another version; the folder exists
        or cannot be written; the run's encoder is neither an ONNX graph nor histogram.
    OptionError : as in `export_onnx`.
    """
    from PIL import Image

    folder = Path(folder)
    require_exportable(run, folder, weights)
    encoder = _encoder_of(run)
    engine = _runtime(runtime)
    reranker = run.reranker
    graphs: dict[str, bytes] = {}
    network = None
    encoder_settings: dict[str, Any] = {"kind": "histogram", "side": SIDE, "grid": None}
    if isinstance(encoder, OnnxEncoder):
        network = load_encoder(encoder)
        graph = Graph("encoder")
        features = add_encoder(graph, encoder, network, weights)
        graph_output(graph, "features", features)
        graphs["encoder.onnx"] = checked_model(graph, {"graph": "encoder"}, network)
        encoder_settings = {"kind": "network", "grid": encoder.grid}
    elif isinstance(encoder, HistogramEncoder):
        encoder_settings["grid"] = encoder.grid
    captioner = GraphCaptioner(run.model, run.scaling, weights)
    start = start_graph(captioner, reranker.index.projection if reranker else None)
    for name, graph in ((START, start), (STEP, step_graph(captioner))):
        graphs[name] = checked_model(graph, {"graph": name})
    if reranker:
        graphs["reranking.safetensors"] = _reranking(reranker)
    files: dict[str, bytes] = {}
    entries: dict[str, Any] = {}
    program = {"ort.wasm": engine["ort-wasm-simd-threaded.wasm"]}
    for subfolder, itemsize, contents in (("weights", 2, graphs), ("runtime", 1, program)):
        for name, content in contents.items():
            path = f"{subfolder}/{name}{PACKED}"
            files[path] = stored = compress(content, itemsize)
            entries[name] = {
                "path": path,
                "planes": itemsize,
                "bytes": len(content),
                "stored": len(stored),
                "sha256": hashlib.sha256(stored).hexdigest(),
            }
    policy = _policy(run)
    vocabulary = run.vocabulary
    words = vocabulary.idx_to_word
    manifest = {
        "format": FORMAT,
        "run": run.name,
        "xpcap": __version__,
        "runtime": f"{RUNTIME} {VERSION}",
        "weights": weights,
        "files": entries,
        "vocabulary": words,
        "unspaced": [i for i, word in enumerate(words) if gaps([word, word])[0] == ""],
        "special": {name: getattr(vocabulary, name) for name in ("null", "start", "end", "unk")},
        "encoder": encoder_settings,
        "model": {"state": captioner.state, "constants": captioner.constants},
        "attends": run.model.config.attends,
        "policy": {
            name: getattr(policy, name)
            for name in ("width", "length_penalty", "max_length", "forbid", "no_stutter")
        },
        "best": WIDTH,
        "reranking": _reranking_settings(reranker),
        "pictures": {
            "most_pixels": Image.MAX_IMAGE_PIXELS or 1 << 53,
            "most_bytes": MAX_BYTES,
            "longest": LONGEST,
        },
    }
    files["captioner.json"] = json.dumps(manifest, ensure_ascii=False, indent=1).encode()
    files["index.html"] = render(
        "web.html",
        title=f"{run.name} captions pictures",
        run=run.name,
        draws=isinstance(encoder, HistogramEncoder),
        colours={name: "#{:02x}{:02x}{:02x}".format(*rgb) for name, rgb in COLOURS.items()},
        megabytes=round(sum(map(len, files.values())) / 1e6),
        runtime=f"{RUNTIME} {VERSION}",
    )
    files["runtime/ort.js"] = engine["ort.wasm.bundle.min.mjs"]  # nginx has no type for .mjs
    source = resources.files("xpcap.export") / "web"
    files["runtime/LICENSE.txt"] = (source / "runtime-licence.txt").read_bytes()
    files |= {
        file.name: file.read_bytes() for file in source.iterdir() if file.name.endswith(".js")
    }
    write_folder(folder, files)
    return Exported([folder / name for name in files], opset_of(network))


def _encoder_of(run: Run) -> Encoder:
    encoder = run.encoder()
    if not isinstance(encoder, OnnxEncoder | HistogramEncoder):
        raise DataError(
            f"{run.path} has the encoder {encoder.name!r}, which runs only in Python, expected"
            " efficientnet-lite2, onnx:FILE or histogram; export the encoder as ONNX, and train on"
            " its features"
        )
    return encoder


def _policy(run: Run) -> Beam:
    """The beam that decodes captions, within the limits of the run."""
    policy = run.decoder(None if run.reranker else Beam(WIDTH, n_best=WIDTH)).policy
    assert isinstance(policy, Beam)
    return policy


def _reranking_settings(reranker: Reranker | None) -> dict[str, Any] | None:
    if reranker is None:
        return None
    return {
        "weights": dict(reranker.weights),
        "photos": len(reranker.index),
        "neighbours": reranker.neighbours,
        "bandwidth": reranker.bandwidth,
        "retrieved": reranker.retrieved,
    }


def _reranking(reranker: Reranker) -> bytes:
    """The index of photos, without their names, as safetensors, with the hash of each word."""
    from safetensors.numpy import save

    arrays = arrays_of(reranker.index)
    hashes = Hashes()
    for name in ("mean", "components", "images"):
        del arrays[name]
    arrays |= {name: arrays[name].astype(np.uint32) for name in ("words", "ends")}
    words = reranker.index.vocabulary.idx_to_word
    arrays["hashes"] = np.array([hashes[word] for word in words], np.uint64)
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


# ---- The runtime


def _runtime(package: str | Path | None) -> dict[str, bytes]:
    """The runtime's files by name, each checked by its digest."""
    remedy = f"`npm pack {RUNTIME}@{VERSION}` downloads {TARBALL}"
    path = next((Path(usual) for usual in RUNTIME_PATHS if Path(usual).exists()), None)
    path = path if package is None else Path(package)
    if path is None or not path.exists():
        expected = " or ".join(RUNTIME_PATHS) + " in this folder" if path is None else str(path)
        raise DataError(
            f"{RUNTIME} {VERSION} is missing, expected {expected}; {remedy}; if it is elsewhere,"
            " give `runtime`"
        )
    try:
        files = _unpacked(path) if path.is_dir() else _untarred(path)
    except (OSError, EOFError, KeyError, tarfile.TarError, zlib.error) as error:
        got = f"cannot be read as npm's package {RUNTIME}"
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{path} {got}, expected its .tgz, or the folder that it unpacks to: {reason}; {remedy}"
        ) from error
    for name, content in files.items():
        if (digest := hashlib.sha256(content).hexdigest()) != SHA256[name]:
            raise DataError(
                f"{name} of {path} has SHA-256 {digest}, expected {SHA256[name]}, as in {RUNTIME}"
                f" {VERSION}; another version, or damaged? {remedy}"
            )
    return files


def _unpacked(folder: Path) -> dict[str, bytes]:
    inner = folder / "package" if (folder / "package").is_dir() else folder
    return {name: (inner / "dist" / name).read_bytes() for name in SHA256}


def _untarred(path: Path) -> dict[str, bytes]:
    """Members of a tar file, read into memory, so that no path of the file is written."""
    files = {}
    with tarfile.open(path, "r:gz") as tar:
        for name in SHA256:
            member = tar.extractfile(f"package/dist/{name}")
            if member is None:
                raise KeyError(f"{name} is no file")
            with member:
                files[name] = member.read(MAX_RUNTIME_BYTES)
    return files


# ---- Packed files


def compress(content: bytes, itemsize: int = 1) -> bytes:
    """Shuffle and gzip bytes: the first byte of each item of `itemsize` bytes, then the second, ...

    The high bytes of float16 weights are similar, and compress better next to each other. Browsers
    decompress gzip, and detect damage.
    """
    shuffled = b"".join(content[first::itemsize] for first in range(itemsize))
    return gzip.compress(shuffled, 9, mtime=0)
