"""Golden hashes: small seeded runs and calls of every kind, and what each of their results hashes to.

python tools/golden.py write before.json                          # of the checkout that holds this script
python tools/golden.py compare before.json                        # names what differs; exit status 1
python tools/golden.py compare before.json --checkout ../other    # of another checkout
python tools/golden.py write some.json --only train,use --threads 1
python tools/golden.py write generated.json --only generated --threads 1

Knows the package by its command line, and golden_library.py by the names that users import, so
that one script serves checkouts whose insides differ. Results depend on the machine and on the versions of packages: compare on one machine,
with one environment. Each number of BLAS threads is a chain of commands of its own; the chains
run side by side. PARTS says what is run, and in which order; a part brings along those that it
needs; `generated` takes a minute and runs if it is named. A part whose tools the machine lacks, as
`ranks` without mpiexec, is skipped, and both actions say so. The file holds hashes by part, and `compare` compares the parts
that it runs: all that they left before must be there.
"""

import argparse
import contextlib
import csv
import hashlib
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image, ImageDraw

TOOLS = Path(__file__).parent
NEVER = {"times.jsonl", ".lock"}  # files that two equal runs need not have in common
VERSIONS = {"numpy", "python", "cupy", "xpcap"}  # of config.json
MEASURED = re.compile(r"seconds$|^(path|folder|out)$")  # keys of JSON outputs
DURATION = re.compile(
    rb"\b\d+(\.\d+)?&?(nbsp;)?( |\xc2\xa0)?(s|seconds?|minutes?|h|hours?)\b"
)  # in pages
COLOURS = ("red", "green", "blue", "purple", "orange", "black")
SHAPES = ("circle", "square", "bar")
TRAIN = [
    *("--hidden", "48", "--wordvec", "24", "--batch-size", "40"),
    *("--epochs", "2", "--score-epochs", "0", "--lr", "0.01", "--backend", "numpy"),
]
Hashes = dict[str, str]
Outcome = dict[str, Any]  # of a part: {"hashes": Hashes}, or {"skipped": the reason}


class Skip(Exception):  # noqa: N818 - no error
    """The machine lacks what a part needs."""


class Chain:
    """Commands of one checkout in one folder, on so many BLAS threads, and the hashes of a part.

    runtime : npm's package onnxruntime-web, for the page of a run; None: there is none
    """

    def __init__(
        self, checkout: Path, folder: Path, threads: int, runtime: Path | None = None
    ) -> None:
        self.checkout, self.folder, self.threads = checkout, folder, threads
        self.runtime = runtime
        self.hashes: Hashes = {}
        numbers = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "XPCAP_BACKEND"},
            **dict.fromkeys(numbers, str(threads)),
            "PYTHONPATH": str(checkout),
        }

    def start(
        self,
        *arguments: str,
        before: tuple[str, ...] = (sys.executable,),
        script: Path | None = None,
    ) -> "subprocess.Popen[str]":
        """Start a command of the checkout, or another script that imports it."""
        return subprocess.Popen(
            [*before, str(script or self.checkout / "cli.py"), *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, *arguments: str, status: int = 0, **how: Any) -> str:
        """What a command prints; it must end with the given status. `how` is of `start`."""
        process = self.start(*arguments, **how)
        out, err = process.communicate()
        if process.returncode != status:
            raise SystemExit(f"{' '.join(arguments)} failed with {process.returncode}:\n{out}{err}")
        return out

    def outcome(self, part: str) -> Outcome:
        """Run a part; its hashes, or why it was skipped."""
        self.hashes = {}
        try:
            PARTS[part][0](self)
        except Skip as reason:
            return {"skipped": str(reason)}
        return {"hashes": self.hashes}

    def keep(self, name: str) -> None:
        """Hash a file of the folder, or each file of a folder in it."""
        path = self.folder / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.name not in NEVER:
                for part, content in contents(file):
                    self.put(f"{file.relative_to(self.folder)}{part}", content)

    def answer(self, name: str, *arguments: str, status: int = 0) -> None:
        """Hash what a command prints as JSON, less times and paths."""
        printed = json.loads(self.call(*arguments, "--json", status=status))
        answer = without(printed, lambda key: bool(MEASURED.search(key)))
        self.put(name, json.dumps(answer, sort_keys=True).encode())

    def put(self, name: str, content: bytes) -> None:
        content = content.replace(str(self.folder).encode(), b".")
        self.hashes[name] = hashlib.sha256(content).hexdigest()


def contents(file: Path) -> Iterator[tuple[str, bytes]]:
    """The parts of a file, with names to append: its bytes less times and versions, and arrays."""
    content = file.read_bytes()
    if file.name == "config.json":
        content = json.dumps(
            without(json.loads(content), VERSIONS.__contains__), sort_keys=True
        ).encode()
    elif file.suffix in (".html", ".md"):
        content = DURATION.sub(b"...", content)
    yield "", content
    if file.suffix == ".h5":
        yield from ((f":{name}", value) for name, value in sorted(stored(file).items()))
    elif file.suffix == ".safetensors":
        length = int.from_bytes(content[:8], "little")
        for name, tensor in sorted(json.loads(content[8 : 8 + length]).items()):
            if name != "__metadata__":
                begin, end = (8 + length + offset for offset in tensor["data_offsets"])
                yield (
                    f":{name}",
                    f"{tensor['dtype']} {tensor['shape']}".encode() + content[begin:end],
                )


def stored(file: Path) -> dict[str, bytes]:
    """Arrays and attributes of an HDF5 file."""
    found: dict[str, bytes] = {}

    def visit(name: str, item: Any) -> None:
        found.update({f"{name}@{key}": repr(value).encode() for key, value in item.attrs.items()})
        if isinstance(item, h5py.Dataset):
            array = np.asarray(item[()])
            values = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
            found[name] = f"{array.dtype} {array.shape}".encode() + values

    with h5py.File(file) as opened:
        visit("", opened)
        opened.visititems(visit)
    return found


def without(value: Any, unwanted: Callable[[str], bool]) -> Any:
    """A JSON value less the unwanted keys of its objects."""
    if isinstance(value, dict):
        return {key: without(item, unwanted) for key, item in value.items() if not unwanted(key)}
    return [without(item, unwanted) for item in value] if isinstance(value, list) else value


def draw(folder: Path) -> None:
    """Sixty pictures of two shapes, a table of 300 captions with splits, and the same as COCO's
    JSON and as Flickr8k's token file with features of its own."""
    rng = random.Random(26)
    (folder / "pictures").mkdir()
    captions: dict[str, list[str]] = {}
    for k in range(60):
        sheet = Image.new("RGB", (72, 56), "white")
        pen, things = ImageDraw.Draw(sheet), []
        for x in (6, 40):
            colour, shape, size = rng.choice(COLOURS), rng.choice(SHAPES), rng.randrange(14, 26)
            y = rng.randrange(4, 50 - size)
            box = (x, y, x + size, y + (size if shape != "bar" else size // 3))
            (pen.ellipse if shape == "circle" else pen.rectangle)(box, colour)
            things.append(f"{colour} {shape}")
        name = f"{k:02d}.png"
        sheet.save(folder / "pictures" / name)
        forms = (
            "A {} and a {}.",
            "a {} left of a {}",
            "There is a {}, and a {}!",
            "a {}, then a {}",
        )
        said = [rng.choice(forms).format(*things) for _ in range(4)]
        captions[name] = [
            *said,
            f"a {things[1]} to the right of a {things[0]} of {rng.choice(SHAPES)}s",
        ]
    splits = {
        name: "train" if k < 44 else "val" if k < 54 else "test" for k, name in enumerate(captions)
    }
    with (folder / "captions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "caption", "split"))
        writer.writerows(
            (name, text, splits[name]) for name, texts in captions.items() for text in texts
        )
    for split in ("train", "val"):
        names = [name for name in captions if splits[name] == split]
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    lines = (
        f"{name}#{k}\t{text}\n" for name, texts in captions.items() for k, text in enumerate(texts)
    )
    (folder / "token.txt").write_text("".join(lines))
    images = [{"id": 3 * k, "file_name": name} for k, name in enumerate(captions)]
    notes = [
        {"image_id": 3 * k, "id": 10 * k + i, "caption": text}
        for k, texts in enumerate(captions.values())
        for i, text in enumerate(texts)
    ]
    (folder / "coco.json").write_text(json.dumps({"images": images, "annotations": notes}))
    features = np.random.default_rng(26).standard_normal((len(captions), 40)).astype(np.float32)
    np.savez(folder / "features.npz", names=np.array(list(captions)), features=features)


def prepare(chain: Chain) -> None:
    draw(chain.folder)
    table = ("captions.csv", "--pictures", "pictures", "--encoder", "histogram")
    every = ("--min-count", "1")
    listed = ("--split", "train=train.txt", "--split", "val=val.txt")
    kinds = {
        "plain": (*table, *every),
        "float16": (*table, "--float16", "--min-count", "3"),
        "mirror": (*table, "--mirror", "--vocabulary", "14"),
        "grid": (*table, *every, "--grid", "2"),
        "coco": (
            "coco.json",
            *table[1:],
            "--fractions",
            "0.7,0.2,0.1",
            "--seed",
            "3",
            "--max-words",
            "6",
        ),
        "token": ("token.txt", "--features", "features.npz", *listed, "--min-count", "2"),
    }
    for name, arguments in kinds.items():
        chain.call("prepare", *arguments, "--out", f"{name}.h5")
        chain.keep(f"{name}.h5")
    chain.answer("info grid", "info", "grid.h5")
    chain.answer("info coco", "info", "coco.h5")


ATTENTION = ("--inject", "attention+every-step", "--feature-scaling", "none", "--seed", "2")
REGULARISED = (
    *("mirror.h5", "--inject", "every-step", "--dropout", "0.3", "--smoothing", "0.1"),
    *("--lr-decay", "linear", "--feature-scaling", "standardize", "--select", "cider"),
)
RUNS = {
    "rnn": (
        *("plain.h5", "--cell", "rnn", "--inject", "init", "--lr-decay", "0.5"),
        *("--feature-scaling", "none", "--select", "loss", "--dropout", "0", "--clip", "0"),
    ),
    "lstm": REGULARISED,
    "attention": ("grid.h5", "--dropout", "0.2", "--lr-decay", "0.8", *ATTENTION),
    "stages": ("plain.h5", "--score-epochs", "2", "--samples", "3", "--clip", "0.5", "--seed", "5"),
    "float16": (
        "float16.h5",
        "--patience",
        "1",
        "--epochs",
        "4",
        "--lr",
        "0.1",
        "--save-every",
        "3",
    ),
    "token": ("token.h5", "--cell", "rnn", "--inject", "every-step", "--dropout", "0.1"),
    "no ranking": (
        "mirror.h5",
        "--no-neighbours",
        "--cell",
        "rnn",
        "--inject",
        "init",
        "--seed",
        "4",
    ),
}


def train(chain: Chain) -> None:
    for name, arguments in RUNS.items():
        chain.call("train", "--out", f"runs/{name}", *TRAIN, *arguments)
        chain.keep(f"runs/{name}")
    arguments = ("--objective", "self-critical", "--epochs", "1", "--sharpen", "1.2", "--seed", "9")
    chain.call("train", "--out", "runs/score", "--from", "runs/attention", *arguments)
    chain.keep("runs/score")


def resume(chain: Chain) -> None:
    """A run that was stopped and resumed has the hashes of the same run unbroken."""
    arguments = ("train", *TRAIN, *REGULARISED, "--epochs", "6", "--save-every", "2")
    chain.call(*arguments, "--out", "whole/run")
    chain.keep("whole/run")
    for _ in range(5):
        if stopped(chain, *arguments, "--out", "broken/run"):
            break
        shutil.rmtree(chain.folder / "broken/run")  # it ended before the signal came
    else:
        raise SystemExit("resume: training ended each time before it could be stopped")
    chain.call(*arguments, "--out", "broken/run", "--resume")
    chain.keep("broken/run")
    for name, value in chain.hashes.items():
        if name.startswith("whole/") and chain.hashes.get(f"broken{name[5:]}") != value:
            raise SystemExit(f"resume: {name} is not that of the run that was stopped and resumed")


def stopped(chain: Chain, *arguments: str) -> bool:
    """Start training and end it by a signal once an epoch is over; False: it was done by then."""
    process = chain.start(*arguments)
    history = chain.folder / "broken/run/history.jsonl"
    while process.poll() is None and not (history.exists() and history.stat().st_size):
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    if process.returncode not in (0, 143):
        raise SystemExit(f"resume: stopping failed with {process.returncode}:\n{err}")
    return process.returncode == 143


def ranks(chain: Chain) -> None:
    beside = Path(sys.executable).with_name("mpiexec")
    mpiexec = str(beside) if beside.exists() else shutil.which("mpiexec")
    if mpiexec is None:
        raise Skip("there is no mpiexec")
    before = (mpiexec, "-n", "2", sys.executable, "-m", "mpi4py")
    chain.call("train", "--out", "runs/ranks", *TRAIN, *RUNS["stages"], before=before)
    chain.keep("runs/ranks")
    chain.call("train", "--out", "runs/ranks-lstm", *TRAIN, *REGULARISED, before=before)
    chain.keep("runs/ranks-lstm")


def use(chain: Chain) -> None:
    draws = ("--temperature", "0.9", "--top-k", "12", "--top-p", "0.95", "--sample-seed", "4")
    choices = {
        "ranked": (),
        "greedy": ("--greedy",),
        "beam": ("--beam", "3", "--length-penalty", "0.7", "--no-repeat", "--least-words", "4"),
        "groups": ("--beam", "4", "--groups", "2", "--diversity", "0.8", "--ban", "red"),
        "sampling": draws,
    }
    for name, options in choices.items():
        chain.answer(f"evaluate {name}", "evaluate", "runs/attention", *options)
        chain.answer(f"caption {name}", "caption", "runs/lstm", "pictures", *options)
    chain.answer("evaluate rnn", "evaluate", "runs/rnn", "--beam", "2")
    chain.answer("evaluate test", "evaluate", "runs/lstm", "--split", "test", "--beam", "2")
    chain.answer("evaluate against", "evaluate", "runs/stages", "--against", "runs/rnn", "--doctor")
    page = ("--html", "page.html", "--png", "sheet.png", "-n", "6")
    chain.answer("caption split", "caption", "runs/attention", *page)
    chain.keep("page.html")
    chain.keep("sheet.png")
    chain.answer(
        "caption n-best",
        "caption",
        "runs/stages",
        "pictures/00.png",
        "--beam",
        "4",
        "--n-best",
        "3",
    )
    chain.answer("info run", "info", "runs/attention")
    chain.answer("caption explained", "caption", "runs/lstm", "pictures", "--explain")
    chain.answer("caption no ranking", "caption", "runs/no ranking", "pictures")
    chain.answer("caption attention", "caption", "runs/attention", "pictures", "--greedy")
    chain.call("look", "runs/attention", "pictures/00.png", "--out", "look.html")
    chain.keep("look.html")
    pictures = sorted(path.name for path in (chain.folder / "pictures").iterdir())
    captions = {name: f"a {name[0]} red circle" for name in pictures[44:54]}
    (chain.folder / "theirs.json").write_text(json.dumps(captions))
    chain.answer("score", "score", "theirs.json", "--data", "plain.h5", "--csv", "scores.csv")
    chain.keep("scores.csv")


def export(chain: Chain) -> None:
    if importlib.util.find_spec("onnx") is None:
        raise Skip("onnx is not installed")
    for run, weights in (("attention", "float32"), ("lstm", "float16"), ("token", "float32")):
        folder = f"onnx-{run}"
        chain.call("export", f"runs/{run}", "--onnx", folder, "--weights", weights)
        chain.keep(folder)


def web(chain: Chain) -> None:
    if chain.runtime is None:
        raise Skip("no --runtime was given")
    chain.call("export", "runs/lstm", "--web", "web", "--runtime", str(chain.runtime))
    chain.keep("web")


def verify(chain: Chain) -> None:
    chain.answer("verify", "verify", "--backend", "numpy")


def grade(chain: Chain) -> None:
    shutil.copy(TOOLS / "golden_submission.py", chain.folder / "rnn_layers.py")
    against = ("verify", "--against", "rnn_layers.py", "--seed", "0")
    chain.answer("grading", *against, status=1)
    chain.answer("grading rnn", *against, "--only", "rnn_*", "--html", "grading.html", status=1)
    chain.keep("grading.html")


def library(chain: Chain) -> None:
    file = chain.folder / "library.json"
    chain.call(str(file), script=TOOLS / "golden_library.py")
    chain.hashes.update(json.loads(file.read_text()))


def generated(chain: Chain) -> None:
    """Generated pictures, learnt in a few steps: a minute."""
    sizes = ("--hidden", "16", "--wordvec", "8", "--batch-size", "2048", "--epochs", "1")
    chain.call("train", "--out", "runs/generated", *sizes, "--backend", "numpy")
    chain.keep("runs/generated")


PARTS: dict[str, tuple[Callable[[Chain], None], tuple[str, ...]]] = {
    "prepare": (prepare, ()),
    "train": (train, ("prepare",)),
    "use": (use, ("train",)),
    "resume": (resume, ("prepare",)),
    "ranks": (ranks, ("prepare",)),
    "export": (export, ("train",)),
    "web": (web, ("train",)),
    "verify": (verify, ()),
    "grade": (grade, ()),
    "library": (library, ()),
    "generated": (generated, ()),
}
USUAL = [name for name in PARTS if name != "generated"]


def wanted(only: set[str]) -> list[str]:
    """The parts asked for and those that they need, in order."""
    if unknown := only - set(PARTS):
        raise SystemExit(
            f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}"
        )
    found = set(only)
    for name in reversed(PARTS):
        if name in found:
            found.update(PARTS[name][1])
    return [name for name in PARTS if name in found]


def run(checkout: Path, parts: list[str], threads: int, runtime: Path | None) -> dict[str, Outcome]:
    """The outcome of each part, on one number of threads."""
    with tempfile.TemporaryDirectory() as folder:
        chain = Chain(checkout, Path(folder).resolve(), threads, runtime)
        return {part: chain.outcome(part) for part in parts}


def golden(
    checkout: Path, parts: list[str], threads: list[int], runtime: Path | None = None
) -> dict[str, dict[str, Outcome]]:
    with ThreadPoolExecutor(len(threads)) as pool:
        chains = pool.map(lambda number: run(checkout, parts, number, runtime), threads)
        return {
            f"{number} BLAS threads": chain for number, chain in zip(threads, chains, strict=True)
        }


def differences(
    before: dict[str, dict[str, Outcome]], after: dict[str, dict[str, Outcome]]
) -> Iterator[str]:
    """A line for each hash that differs, is missing or is new, of the parts in `after`; and for
    each part that `before` lacks, or that was skipped on one side.
    """
    for number, chain in after.items():
        for part, new in chain.items():
            old = before.get(number, {}).get(part)
            for line in ["not in the file"] if old is None else of_part(old, new):
                yield f"{number}: {part}: {line}"


def of_part(old: Outcome, new: Outcome) -> Iterator[str]:
    """What differs between two outcomes of a part."""
    if "skipped" in old or "skipped" in new:
        if "skipped" not in new:
            yield f"skipped before: {old['skipped']}"
        elif "skipped" not in old:
            yield f"skipped, but not before: {new['skipped']}"
        return
    hashes, found = old["hashes"], new["hashes"]
    for name in sorted(hashes.keys() | found.keys()):
        if name not in found:
            yield f"{name} is missing"
        elif name not in hashes:
            yield f"{name} is new"
        elif hashes[name] != found[name]:
            yield f"{name} differs"


def count(chains: dict[str, dict[str, Outcome]]) -> int:
    """The number of hashes."""
    return sum(len(part.get("hashes", ())) for chain in chains.values() for part in chain.values())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("write", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--checkout", type=Path, default=TOOLS.parent)
    parser.add_argument("--only", default=",".join(USUAL), help="parts, separated by commas")
    parser.add_argument("--threads", default="1,2", help="numbers of BLAS threads (default: 1,2)")
    parser.add_argument("--runtime", type=Path, help="npm's onnxruntime-web, for the part web")
    options = parser.parse_args()
    if options.action == "write" and options.file.exists():
        raise SystemExit(f"{options.file} exists")
    parts = wanted(set(options.only.split(",")))
    threads = [int(number) for number in options.threads.split(",")]
    runtime = options.runtime and options.runtime.resolve()
    after = golden(options.checkout.resolve(), parts, threads, runtime)
    for number, chain in after.items():
        for part, outcome in chain.items():
            if "skipped" in outcome:
                print(f"{number}: {part} skipped: {outcome['skipped']}")
    if options.action == "write":
        options.file.write_text(json.dumps(after, indent=1) + "\n")
        print(f"wrote {count(after)} hashes to {options.file}")
        return
    found = list(differences(json.loads(options.file.read_text()), after))
    print("\n".join(found) or f"{count(after)} hashes are as they were")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
