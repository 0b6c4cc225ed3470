"""Damage to every kind of file that xpcap reads, in one table: what is done to which file of what,
and what the error then says. A new file of a run, or a new reader, gets its rows here.
"""

import atexit
import contextlib
import dataclasses
import functools
import json
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import lying_files as lying
import numpy as np
from coco_folder import build_coco
from lying_files import GOOD, MB, archive, chunk, header, patched, png, saved, sized, sparse, zeros
from PIL import Image
from PIL import features as built

from xpcap.data import CaptionData, Source, Split, Vocabulary, open_data, write_dataset
from xpcap.data.synthetic import Lengths, draw_data
from xpcap.encoders import read_picture
from xpcap.errors import EXPECTED
from xpcap.files.safetensors_file import KEY, read_tensors, write_tensors
from xpcap.layers import CELLS
from xpcap.prepare import read_captions, read_features
from xpcap.prepare.text import read_list
from xpcap.runs.folder import RERANKING
from xpcap.runs.recipe import Recipe
from xpcap.runs.run import open_run
from xpcap.trainer.reranking import fit_reranking
from xpcap.trainer.train import train_run
from xpcap.training import CaptioningSolver, Watcher

MADE = tempfile.mkdtemp()  # until this process ends
atexit.register(shutil.rmtree, MADE, ignore_errors=True)
Edit = Callable[[Path], Any]
Tensors = dict[str, np.ndarray]


class Damage(NamedTuple):
    """An edit of a file, and texts of the error, in the order of the message."""

    reader: str
    file: str
    edit: Edit
    got: str | tuple[str, ...] = ""
    expected: str = ""
    cause: str | tuple[str, ...] = ""
    thing: str = ""

    @property
    def texts(self) -> list[str]:
        parts = (self.thing, self.got, self.expected, self.cause)
        return [text for part in parts for text in ((part,) if isinstance(part, str) else part)]


# What is whole, and how it is read


NAMES = ["first.png", "second.png", "third.png"]
WORDS = ["<NULL>", "<START>", "<END>", "<UNK>", "dog"]


def small() -> CaptionData:
    captions = np.array([[1, 4, 2], [1, 3, 2], [1, 4, 2]], np.int32)
    features = np.random.default_rng(0).standard_normal((3, 4000)).astype(np.float32)
    splits = {
        name: Split(captions, np.arange(3, dtype=np.int32), features, NAMES, ["dog", "cat", "Dog!"])
        for name in ("train", "val")
    }
    return CaptionData(Vocabulary(WORDS), splits, source=Source(record={"importer": "test"}))


@functools.cache
def _run_files() -> dict[str, bytes]:
    data, folder = Path(MADE, "data.h5"), Path(MADE, "run")
    write_dataset(data, draw_data(84, (4, 6), 16, 0, Lengths(5, 1, 3, 7)))
    sizes: dict[str, Any] = {"hidden": 12, "wordvec": 8, "batch_size": 12, "epochs": 24}
    options = {**sizes, "score_epochs": 0, "inject": "attention", "select": "last"}

    class Stop(Watcher):
        def epoch(self, solver: CaptioningSolver) -> None:
            if solver.epoch == 2:
                raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        train_run(Recipe(data, out=folder, **options), watchers=[Stop()], verbose=False)
    run = open_run(folder)
    fit_reranking(run, run.data())
    stored = [path for path in folder.iterdir() if path.suffix not in ("", ".html")]
    return {path.name: path.read_bytes() for path in stored}


def write_run(folder: Path) -> None:
    """A run of 2 of 24 epochs, with a reranking."""
    for name, content in _run_files().items():
        (folder / name).write_bytes(content)


def resume(folder: Path) -> object:
    recipe = open_run(folder).config.recipe
    return train_run(dataclasses.replace(recipe, out=folder, resume=True))


READERS: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    # makes something whole in an empty folder, and reads it
    "dataset": (
        lambda folder: write_dataset(folder / "data.h5", small()),
        lambda folder: open_data(folder / "data.h5"),
    ),
    "course": (
        lambda folder: build_coco(folder, np.random.default_rng(0), sizes=(("_pca", 512),)),
        open_data,
    ),
    "run": (write_run, open_run),
    "checkpoint": (write_run, resume),
    "features": (
        lambda folder: archive(folder / "a.npz"),
        lambda folder: read_features(folder / "a.npz"),
    ),
    "captions": (
        lambda folder: (folder / "a.txt").write_text("a.jpg#0\ta dog"),
        lambda folder: read_captions([(None, folder / "a.txt")]),
    ),
    "list": (
        lambda folder: (folder / "a.txt").write_text("a.jpg"),
        lambda folder: read_list(folder / "a.txt"),
    ),
    "picture": (lambda folder: None, lambda folder: read_picture(next(folder.iterdir()))),
}


# Edits


def text(content: str) -> Edit:
    return lambda path: path.write_text(content)


def raw(change: Callable[[bytes], bytes]) -> Edit:
    return lambda path: path.write_bytes(change(path.read_bytes()))


def long(path: Path) -> None:
    """A sparse TB."""
    os.truncate(path, 2**40)


def member(**values: Any) -> Edit:
    """Other members of an object in JSON."""
    return lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def tensors(change: Callable[[Tensors, dict[str, Any]], object]) -> Edit:
    """A change to the tensors and the JSON of a safetensors file."""

    def run(path: Path) -> None:
        held, meta = read_tensors(path)
        change(held, meta)
        write_tensors(path, held, meta)

    return run


def other(**arrays: Any) -> Edit:
    """Other tensors of these names; a dot in a name is written as two underscores."""
    named = {name.replace("__", "."): x for name, x in arrays.items()}
    return tensors(lambda x, m: x.update(named))


def edit(change: Callable[[h5py.File], Any]) -> Edit:
    """A change to an HDF5 file."""

    def run(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return run


def about(**values: Any) -> Edit:
    """Other members of the JSON in a dataset file."""

    def change(file: h5py.File) -> None:
        stored = json.loads(file["xpcap"][()].tobytes())
        replace(file, "xpcap", as_bytes(json.dumps({**stored, **values})))

    return edit(change)


def as_bytes(content: str) -> np.ndarray:
    return np.frombuffer(content.encode(), np.uint8)


def replace(file: h5py.File, name: str, value: Any) -> None:
    del file[name]
    file[name] = value


def source(**values: Any) -> Edit:
    return about(source=values)


def put(name: str, at: Any, value: Any) -> Edit:
    return edit(lambda file: file[name].__setitem__(at, value))


def array(name: str, value: Any) -> Edit:
    return edit(lambda file: replace(file, name, value))


def features(**how: Any) -> Edit:
    """Other features than there were, without values."""

    def change(file: h5py.File) -> None:
        del file["train/features"]
        file["train"].create_dataset("features", **how)

    return edit(change)


def linked(name: str) -> Edit:
    return edit(lambda file: file.__setitem__(name, h5py.ExternalLink("elsewhere.h5", "/")))


def stored_elsewhere(file: h5py.File) -> None:
    file.create_dataset("train/x", (64,), "u1", external=[("elsewhere.bin", 0, 64)])


def of_other_files(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((3, 4000), "f4")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", (3, 4000))
    file.create_virtual_dataset("train/virtual", layout)


def zip_of(**members: bytes) -> Edit:
    """An archive with other members than there were."""
    return lambda path: archive(path, **members)


def claims(at: int, value: bytes) -> Edit:
    """An archive whose list of members says something else of one."""
    return lambda path: patched(path, at, value)


def swap_words(path: Path) -> None:
    words = json.loads(path.read_text())
    words[4], words[5] = words[5], words[4]
    path.write_text(json.dumps(words))


def newer(path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    save_file(load_file(path), path, {KEY: '{"format": 2}'})


def best_instead(path: Path) -> None:
    shutil.copy(path.with_name("best.safetensors"), path)


# The table


gone = Path.unlink
VOCABULARY, CAPTIONS = "coco2014_vocab.json", "coco2014_captions.h5"
REFERENCES, FLOATS = h5py.ref_dtype, h5py.vlen_dtype("f4")
COMPOUND = np.zeros(3, [("a", "i4"), ("b", "f4")])
UNOPENED = "cannot be opened as HDF5"

DATASET: list[tuple[Any, ...]] = [
    (gone, "does not exist"),
    (text("hello"), UNOPENED),
    (raw(lambda b: b[: len(b) // 2]), UNOPENED),
    (raw(lambda b: b.replace(b"captions", b"Captions", 1)), UNOPENED, "", "checksum"),
    (edit(lambda f: (f.clear(), f.create_group("\x1b[2J"))), "'\\x1b[2J'", "", "another program's"),
    # what lies in other files, or is larger than the file can hold
    (linked("train/out"), "elsewhere, 'train/out' (ExternalLink)"),
    (edit(lambda f: f.__setitem__("test", h5py.SoftLink("/train"))), "'test' (SoftLink)"),
    (edit(of_other_files), "'train/virtual' that is stored in another file"),
    (edit(stored_elsewhere), "in another file"),
    (features(shape=(2**20, 2**20), dtype="f4"), f"'train/features' of {2**42:,}"),
    (features(shape=(2**40,), dtype="f4", chunks=(2**10,)), f"'train/features' of {2**42:,}"),
    # what no data set holds
    (features(data=COMPOUND), "dtype [("),
    (features(data=np.zeros(3, "V9")), "dtype |V9"),
    (features(data=np.array([True])), "dtype bool"),
    (features(shape=(3,), dtype=FLOATS), "have shape (3,) and dtype object"),
    (edit(lambda f: f.create_group("a/b/c")), "lacks captions", "", "", "split 'a'"),
    (edit(lambda f: f.create_dataset("extra", data=[0.0])), "lacks captions", "", "", "'extra'"),
    (edit(lambda f: f["val"].__delitem__("features")), "lacks features", "", "", "split 'val'"),
    (edit(lambda f: (f.__delitem__("val/text"), f.create_group("val/text"))), "is not a complete dataset file"),
    (edit(lambda f: replace(f, "val/text", [f.ref])), "is not a complete dataset file"),
    (array("val/text", "a text"), "is not a complete dataset file", "", "has no attribute"),
    # what it says of itself
    (array("xpcap", as_bytes("[" * 50_000)), "is JSON nested too deep"),
    (array("xpcap", as_bytes("{")), "is not valid JSON", "prepare", "cut short", "data.h5: xpcap"),
    (array("xpcap", as_bytes("[1]")), "is a list", "an object"),
    (array("xpcap", as_bytes('{"format": 1}')), "is missing", "an object", "", "source"),
    (about(stamp=3), "is 3", "text", "", "stamp"),
    (about(tokeniser="ascii"), "'ascii'", "'unicode'", "Prepare it again"),
    (about(format="\x1b" * 900), "has format '\\x1b", "1", "damaged"),
    (about(format=9), "has format 9", "1", "newer"),
    (about(views=[2]), "is a list", "an object", "", "views"),
    (about(views={"train": 0}), "are {'train': 0}", "at least 1"),
    (about(views={"train": 10**9}), "", "1000000000 views for each"),
    (source(seed=True), "is True", "whole number", "", "source: seed"),
    (source(seed=10**4000), "is 1000", "2**63-1", "", "source: seed"),
    (source(generated="pictures"), "is None", "generated", "", "source: seed"),
    (source(generated=None), "is None", "text", "", "source: generated"),
    # the arrays
    (put("train/captions", (0, 1), 3), "does not match its stamp"),
    (put("train/text", 3, 66), "does not match its stamp"),
    (put("val/features", (0, 1), 66), "does not match its stamp"),
    (source(encoder="another"), "does not match its stamp"),
    (put("train/captions", (1, 0), 4), "<START>", "", "", "caption 1 (1 of 1)"),
    (put("val/captions", (0, 1), 600), "hold 1..600", "0..4", "", "captions"),
    (put("val/image_idxs", 0, 5), "hold 1..5", "0..2", "", "image_idxs"),
    (array("val/image_idxs", np.zeros(2, "f4")), "have shape (2,) and dtype float32"),
    (array("val/image_idxs", np.zeros(0, "i4")), "have shape (0,)", "", "", "image_idxs"),
    (array("train/features", np.zeros((1, 4), "f4")), "", "one row for each of 3 pictures"),
    (array("val/captions", np.zeros((0, 7), "i4")), "have shape (0, 7)", "(n > 0", "", "captions"),
    (put("train/images", 0, 66), "is not valid JSON", "", "", "train/images"),
    (array("train/images", as_bytes("[1]")), "is 1", "text", "", "train/images: [0]"),
]  # fmt: skip

COURSES: list[tuple[Any, ...]] = [
    (CAPTIONS, gone, "a folder without coco2014_captions.h5", "coco_captioning.zip"),
    ("val2014_vgg16_fc7_pca.h5", raw(lambda b: b[:1000]), UNOPENED, "", "truncated"),
    ("train2014_urls.txt", gone, "does not exist", "", "", "train2014_urls.txt"),
    (VOCABULARY, text('{"idx'), "is not valid JSON", "", "cut short", VOCABULARY),
    (VOCABULARY, raw(lambda b: b.replace(b"w7", b"\\ud800", 1)), "not a character", "whole characters"),
    (VOCABULARY, text("{}"), "is missing", "a list", "", f"{VOCABULARY}: idx_to_word"),
    (VOCABULARY, text('{"idx_to_word": "abc", "word_to_idx": {}}'), "is 'abc'", "a list"),
    (VOCABULARY, text('{"idx_to_word": [], "word_to_idx": {"a": "0"}}'), "'0'", "whole number"),
    (VOCABULARY, long, "", "at most 67,108,864"),
    ("val2014_urls.txt", long, "", "at most 67,108,864", "", "val2014_urls.txt"),
    ("val2014_urls.txt", text("http://one\n"), "1 val_urls for 5", "", "val2014_urls.txt"),
    ("val2014_vgg16_fc7_pca.h5", linked("x"), "has a link to elsewhere"),
    (CAPTIONS, edit(lambda f: f.create_dataset("x", (2**20, 2**20), "i4")), "'x' of"),
    (CAPTIONS, edit(lambda f: f.__delitem__("val_image_idxs")), "lacks val_image_idxs"),
    (CAPTIONS, put("val_captions", (0, 1), 100), "hold 0..100", "0..99", "", "captions"),
    (CAPTIONS, put("val_captions", (3, 0), 5), "<START>", "", "", "caption 3 (1 of 1)"),
    (CAPTIONS, put("val_image_idxs", 0, -1), "hold -1..", "", "", "image_idxs"),
    ("val2014_vgg16_fc7_pca.h5", array("features", np.zeros((5, 300), "f4")), "(512,), (300,)"),
    ("val2014_vgg16_fc7_pca.h5", put("features", (1, 1), np.nan), "not finite", "", "", "farm1"),
    ("train2014_vgg16_fc7_pca.h5", edit(lambda f: f.move("features", "x")), "lacks features"),
]  # fmt: skip

CONFIG, VOCAB, BEST, LAST = "config.json", "vocab.json", "best.safetensors", "last.safetensors"
MEAN, SCALE = "feature_scaling__mean", "feature_scaling__scale"
WRAPS = np.array([2**63] * 2 + [0] * 82, "u8")
HEADER = (2**40).to_bytes(8, "little") + b"{}" * 50

RUN: list[tuple[Any, ...]] = [
    (CONFIG, gone, "has no config.json"),
    (CONFIG, text("[]"), "is a list", "an object", "", CONFIG),
    (CONFIG, text("{}"), "format None", "1", "damaged"),
    (CONFIG, text("[" * 100_000), "is JSON nested too deep"),
    (CONFIG, text(" " * 2**20 + "1"), "", "at most 1,048,576"),
    (CONFIG, member(format=True), "format True"),
    (CONFIG, member(format=2), "format 2", "1", "made by a newer xpcap: upgrade"),
    (CONFIG, member(hidden=17), "has shape", "", "another run", BEST),
    (CONFIG, member(hidden=10**6), "has shape", "", "another run"),
    (CONFIG, member(hidden="many"), "is 'many'", "", "", "config.json: hidden"),
    (CONFIG, member(cell="qrnn"), "'qrnn'", ", ".join(CELLS), "", "config.json: cell"),
    (CONFIG, member(dropout=1), "is 1", "", "", "config.json: dropout"),
    (CONFIG, member(vocabulary=999), "has vocabulary 999", "words of vocab.json"),
    (CONFIG, member(source=["encoder"]), "is a list", "an object", "", "source"),
    (CONFIG, member(max_words=1001), "is 1001", "in 1..1000", "", "config.json: max_words"),
    (CONFIG, member(feature_shape=[10**12]), "(1000000000000,)"),
    (CONFIG, member(feature_shape=[]), "is ()", "", "", "config.json: feature_shape"),
    (CONFIG, member(data=None), "is None", "", "", "config.json: data"),
    (CONFIG, member(lr="x" * 500), "is 'xxx", "", "", "config.json: lr"),
    (CONFIG, member(select=3), "3", "", "", "config.json: select"),
    (CONFIG, member(start="a\0b"), "is", "", "", "config.json: start"),
    (CONFIG, member(average=0.9), "holds 'average'", "this version", "made by another version", CONFIG),
    (CONFIG, member(feature_scaling="foo"), "", "standardize, none", "", "feature_scaling"),
    (CONFIG, member(feature_scaling="none"), "feature scaling whose mean"),
    (VOCAB, text("[1]"), "is 1", "text", "", f"{VOCAB}: [0]"),
    (VOCAB, text("["), "is not valid JSON", "", "", VOCAB),
    (VOCAB, swap_words, "not the vocabulary that best.safetensors was trained with"),
    (BEST, gone, "is missing", "", "", BEST),
    (BEST, raw(lambda b: b[:-100]), "", "", "damaged", BEST),
    (BEST, raw(lambda b: b"12"), "claims a header", "", "", BEST),
    (BEST, raw(lambda b: HEADER), "header of 1,099,511,627,776", "", "", BEST),
    (BEST, other(**{MEAN: np.zeros(2101)}), "feature scaling whose mean", "float32"),
    (BEST, tensors(lambda x, m: x.pop("feature_scaling.scale")), "whose scale has shape None"),
    (BEST, tensors(lambda x, m: x["feature_scaling.scale"].fill(1e-45)), "whose scale", "1.2e-38"),
    (BEST, other(**{SCALE: np.zeros(6, "f4")}), "", "a scale of at least 1.2e-38"),
    (BEST, other(b=np.full(48, np.nan, "f4")), "holds nan at [0]", "", "", f"{BEST}: b"),
    (BEST, other(b=np.zeros(48)), "dtype float64", "", "", f"{BEST}: b"),
    (BEST, tensors(lambda x, m: x.pop("b")), "lacks b", "b_proj", "", BEST),
    (RERANKING, raw(lambda b: b[:-8]), "cannot be read", "", "", RERANKING),
    (RERANKING, tensors(lambda x, m: x.pop("words")), "lacks words"),
    (RERANKING, other(mean=np.zeros(5, "f4")), "has shape (5,)", "", "", "mean"),
    (RERANKING, other(counts=np.zeros(84, "f4")), "have shape", "", "", "counts"),
    (RERANKING, tensors(lambda x, m: x["words"].__setitem__(0, 999)), "..999", "", "", "words"),
    (RERANKING, tensors(lambda x, m: x.update(words=x["words"][1:])), "do not add up"),
    (RERANKING, tensors(lambda x, m: x["counts"].__setitem__(0, 9)), "do not add up"),
    (RERANKING, tensors(lambda x, m: x.update(counts=WRAPS + x["counts"])), "do not add up"),
    (RERANKING, tensors(lambda x, m: x["counts"].__setitem__(slice(2), [0, 2])), "without captions"),
    (RERANKING, tensors(lambda x, m: x["directions"].__setitem__(0, np.nan)), "hold nan at"),
    (RERANKING, tensors(lambda x, m: x.update(grams=x["grams"][::-1])), "are not sorted"),
    (RERANKING, other(images=np.frombuffer(b"[1]", "u1")), "images"),
    (RERANKING, tensors(lambda x, m: m["weights"].pop("words")), "weights"),
    (RERANKING, tensors(lambda x, m: m["weights"].update(words=1e300)), "", "", "", "of words"),
    (RERANKING, tensors(lambda x, m: m.pop("width")), "None", "", "", "width"),
    (RERANKING, tensors(lambda x, m: m.update(width=10**9)), "", "", "", "width"),
    (RERANKING, tensors(lambda x, m: m.update(pictures=3)), "n-grams of 3 pictures"),
    (RERANKING, tensors(lambda x, m: m.pop("no_stutter")), "is None", "", "", "no_stutter"),
    (RERANKING, tensors(lambda x, m: m.update(both=True)), "'both'", "none", "another version"),
]  # fmt: skip

CHECKPOINT: list[tuple[Any, ...]] = [
    (raw(lambda b: b[:-9]), "cannot be read"),
    (raw(lambda b: (100).to_bytes(8, "little") + b"{}" * 50), "as a safetensors file of xpcap"),
    (newer, "has format 2", "1", "made by a newer xpcap"),
    (best_instead, "is missing", "one of fast", "", "code"),
    (tensors(lambda x, m: x.update({"params.b": x["params.b"][:-1]})), "has shape", "", "", "b"),
    (tensors(lambda x, m: x.update(losses=x["losses"][:-1])), "have shape", "", "", "losses"),
    (other(order=np.zeros(84, "i4")), "order", "each of 0..83 once"),
    (tensors(lambda x, m: m.update(position=8)), "position 8 in 84 captions by 12"),
    (tensors(lambda x, m: m.update(captions=10**400)), "is 1000", "", "", "captions"),
    (tensors(lambda x, m: m["records"].pop()), "records"),
    (tensors(lambda x, m: m["records"][0].update(val_loss="low")), "is 'low'", "", "", "records[0]"),
    (tensors(lambda x, m: m["records"][0].update(epoch=2)), "record 1 is"),
    (tensors(lambda x, m: m["rng"].update(bit_generator="?")), "rng is"),
    (tensors(lambda x, m: m.update(rng=None)), "is null", "", "", "rng"),
    (tensors(lambda x, m: m.update({"update rule": "lion"})), "'lion' does not exist"),
    (tensors(lambda x, m: m["optimizer"].update(lr=1)), "adam has no config key 'lr'"),
    (tensors(lambda x, m: m["optimizer"].update(beta1=[])), "is []", "a number in"),
    (tensors(lambda x, m: m.update(vocabulary="0")), "another vocabulary"),
    (tensors(lambda x, m: m.pop("vocabulary")), "is missing", "text", "", "vocabulary"),
    (tensors(lambda x, m: m.update(batch_size=11)), "11, and this solver 12"),
]  # fmt: skip

TWICE = "'names', 'features', each once"
UNREADABLE = "cannot be read as .npz"
ARCHIVES: list[tuple[Any, ...]] = [
    (
        lambda p: zeros(
            p, (2**24,), "|S1", "names", features=header((2**24, 1), "<f2") + bytes(2**25)
        ),
        "names a picture twice among 16,777,216",
    ),
    (zip_of(features=header((2**40, 2**20), "<f4") + bytes(8)), UNREADABLE),
    (zip_of(features=header((2, 1), "<f4") + bytes(7)), UNREADABLE),
    (zip_of(features=header((-2, -1), "<f4") + bytes(8)), UNREADABLE),
    (zip_of(names=header((2**50,), "<U0")), "have shape (2, 1)", "", "", "features"),
    (zip_of(names=header((2,), "<U1") + b"\xff" * 8), "code point 4,294,967,295"),
    (zip_of(names=header((3,), "|O") + b"cos\nsystem\n(S'true'\ntR. "), "", "", "Object arrays"),
    (zip_of(names=b"\x93NUMPY\2\0\xff\xff\xff\xff"), UNREADABLE),
    (zip_of(names=b"\x93NUMPY\1\0\x10\x27" + b"(" * 9999 + b"\n"), UNREADABLE),
    (zip_of(names=b"\x93NUMPY\1\0\x20\0" + b"__import__('os').abort()".ljust(31)), UNREADABLE),
    (zip_of(names=b"\x93NUMPY\3\0" + GOOD["names.npy"][8:]), UNREADABLE),
    (claims(8, b"\1\0"), "", "", ("features.npy", "is encrypted")),
    (claims(24, struct.pack("<I", 130)), "", "", "Bad CRC-32"),
    (claims(16, b"\1\2\3\4"), "", "", "Bad CRC-32"),
    (lying.two_of_a_name, "holds 'names', 'features', 'names'", TWICE),
    (lying.many_strange_names, ("holds '\\x1b[31m0',", "and 990 more"), TWICE),
    (gone, "does not exist", "an .npz"),
]  # fmt: skip

LONG = "at most 268,435,456 bytes"
CAPTION_FILES: list[tuple[Any, ...]] = [
    ("captions", lambda p: sparse(p, 256 * MB + 1), "268,435,457 bytes", LONG),
    ("captions", gone, "does not exist", "", "is the path right?"),
    ("captions", text("\x1b[31m\u202e" + "x" * 10_000), r"its first line is '\x1b[31m\u202exxx"),
    ("list", lambda p: sparse(p, 256 * MB + 1), "268,435,457 bytes", LONG),
    ("list", gone, "does not exist", "", "is the path right?"),
]  # fmt: skip

MOST = f"at most {Image.MAX_IMAGE_PIXELS:,}"
RGB = {"mode": "RGB"}
COLOUR = {**RGB, "subsampling": 0}
TEXTS = [chunk(b"zTXt", b"a%d\0\0" % i + zlib.compress(bytes(1_000_000))) for i in range(100)]
PICTURES: list[tuple[Any, ...]] = [
    ("zeros.png", lambda: lying.black(9_500, 9_500), "9500 x 9500 pixels", MOST),
    ("no pixel.png", lambda: png(90_001, 1_000), "", MOST),
    (
        "text.png",
        lambda: png(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100 * MB)))),
        "", "", "damaged",
    ),
    ("texts.png", lambda: png(8, 8, *TEXTS), "", "", "damaged"),
    (
        "profile.png",
        lambda: png(8, 8, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(100 * MB)))),
        "", "", "damaged",
    ),
    ("chunk.png", lambda: png(8, 8)[:-12] + b"\x7f\xff\xff\xffIDAT", "", "", "damaged"),
    ("a.jpg", lambda: sized(saved((80, 80), "JPEG", "RGB"), 60_000, 3_000), "too many pixels"),
    (
        "progressive.jpg",
        lambda: sized(saved((80, 80), "JPEG", progressive=True), 14_000, 14_000),
        "too many pixels",
    ),
    ("screen.gif", lambda: lying.gif((9_500, 9_500), (1, 1)), "9500 x 9500", MOST),
    ("frame.gif", lambda: lying.gif((1, 1), (65_535, 65_535)), "too many pixels"),
    ("one strip.tif", lambda: lying.tiff(9_500, 9_500, 9_500), "", MOST),
    ("no data.tif", lambda: lying.tiff(7000, 7000, 7000, 1), "", "", "damaged"),
    ("plain.ppm", lambda: b"P3 9500 9500 255\n", "", MOST),
    ("fine.ppm", lambda: b"P6 9500 9500 65535\n", "", MOST),
    ("broken off.png", lambda: lying.black(7000, 7000)[:20_000], "", "", "damaged"),
    ("broken off.jpg", lambda: saved((5000, 5000), "JPEG")[:20_000], "", "", "damaged"),
    ("broken off.gif", lambda: saved((5000, 5000), "GIF")[:5_000], "", "", "damaged"),
    ("a.webp", lambda: lying.webp(9_000, 5_000), "9000 x 5000 pixels, which count double", MOST),
    ("no pixel.webp", lambda: lying.webp(4_000, 4_000), "", "", "damaged"),
]  # fmt: skip


# a hair below the limits, of formats that take little, more and most memory
LARGEST: dict[str, Callable[[], bytes]] = {
    "a.png": lambda: lying.black(9_450, 9_460),
    "a.jpg": lambda: saved((60_000, 2_900), "JPEG"),
    "progressive.jpg": lambda: sized(
        saved((80, 80), "JPEG", progressive=True, **COLOUR), 13_000, 13_700
    ),
    "a.webp": lambda: saved((16_000, 2_795), "WEBP", lossless=True, quality=0, method=0, **RGB),
}


def _written(make: Callable[[], bytes]) -> Edit:
    return lambda path: path.write_bytes(make())


DAMAGE = [
    *(Damage("dataset", "data.h5", *row) for row in DATASET),
    *(Damage("course", *row) for row in COURSES),
    *(Damage("run", *row) for row in RUN),
    *(Damage("checkpoint", LAST, *row) for row in CHECKPOINT),
    *(Damage("features", "a.npz", *row) for row in ARCHIVES),
    *(Damage(reader, "a.txt", *row) for reader, *row in CAPTION_FILES),
    *(
        Damage("picture", name, _written(make), *texts)
        for name, make, *texts in PICTURES
        if built.check("webp") or not name.endswith("webp")
    ),
    Damage(
        "picture", "long.webp", lambda p: sparse(p, 256 * MB + 1), "268,435,457 bytes", "256 MB"
    ),
]


def peak(reader: str) -> int:
    """MB that this process held at most, with all damage of a reader."""
    make, read = READERS[reader]
    for one in DAMAGE:
        if one.reader == reader:
            with tempfile.TemporaryDirectory() as folder:
                make(Path(folder))
                one.edit(Path(folder) / one.file)
                with contextlib.suppress(EXPECTED):
                    read(Path(folder))
                    raise AssertionError(f"{one} was read")
    for name, content in LARGEST.items() if reader == "picture" else ():
        if built.check("webp") or not name.endswith("webp"):
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, name).write_bytes(content())
                read(Path(folder))
    # of this program alone; ru_maxrss knows what was there before it
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024
