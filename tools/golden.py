"""Run small seeded commands and keep their files, so that `diff` shows the effect of a change.

    python tools/golden.py before                          # with this script's checkout
    python tools/golden.py after --threads 1 --checkout ../other
    diff -r before after

The folder gets data sets, runs, pages and exports, and what commands print as JSON, without durations.
Bytes depend on the machine, its packages and the number of BLAS threads: compare on one machine, in
one environment.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

# Commands run in this folder, since data sets and runs contain paths; it is moved afterwards
WORK = Path(tempfile.gettempdir(), "xpcap-golden")
CLOCK = {"times.jsonl", ".lock"}  # files with times, as are caches of features
DURATION = re.compile(
    r"\b\d+(\.\d+)?&?(nbsp;)?[ \xa0]?(s|seconds?|minutes?|h|hours?)\b"  # in pages
    r'|(?<=seconds": )[\d.]+'  # in JSON
)
COLOURS = ("red", "green", "blue", "purple", "orange", "black")
WORDS = ("A {} circle and a {} bar.", "a {} circle left of a {} bar", "there is a {0}, and a {1}!")
COMMANDS = """
prepare captions.csv --pictures pictures --encoder histogram --min-count 1 --out plain.h5
prepare captions.csv --pictures pictures --encoder histogram --mirror --vocabulary 14 --out mirror.h5
prepare captions.csv --pictures pictures --encoder histogram --grid 2 --float16 --out grid.h5
train plain.h5 --out runs/rnn TRAIN --cell rnn --inject init --lr-decay 0.5 --select loss --dropout 0 --clip 0
train mirror.h5 --out runs/lstm TRAIN --dropout 0.3 --smoothing 0.1 --lr-decay linear --select cider
train grid.h5 --out runs/attention TRAIN --cell gru --inject attention+every-step --lr-decay 0.8
train plain.h5 --out runs/stages TRAIN --score-epochs 2 --samples 3 --clip 0.5 --seed 5
train plain.h5 --out runs/rnn --epochs 3 --resume
train grid.h5 --out runs/warm --from runs/attention --objective self-critical --epochs 1
evaluate runs/attention --json
evaluate runs/lstm --split test --beam 3 --length-penalty 0.7 --no-repeat --json
evaluate runs/stages --against runs/rnn --doctor --json
caption runs/lstm pictures --json
caption runs/lstm pictures --greedy --csv table.csv
caption runs/stages pictures --beam 4 --groups 2 --diversity 0.8 --ban red --n-best 3 --json
caption runs/lstm pictures --temperature 0.9 --top-k 12 --top-p 0.95 --sample-seed 4 --json
caption runs/attention --html page.html -n 6
look runs/attention pictures/00.png --out look.html
score theirs.json --data plain.h5 --json
info runs/attention --json
export runs/attention --onnx onnx-attention
export runs/lstm --onnx onnx-lstm --weights float16
verify --json
"""
TRAIN = "--hidden 48 --wordvec 24 --batch-size 40 --epochs 2 --score-epochs 0 --lr 0.01"


def draw(folder: Path) -> None:
    """Sixty pictures of two shapes each, and a table of their captions."""
    (folder / "pictures").mkdir(parents=True)
    lines, theirs = ["image,caption,split"], {}
    for k in range(60):
        name, colours = f"{k:02d}.png", (COLOURS[k % 6], COLOURS[k * 7 % 5])
        picture = Image.new("RGB", (72, 56), "white")
        pen = ImageDraw.Draw(picture)
        pen.ellipse((6, 4 + k % 20, 30, 28 + k % 20), colours[0])
        pen.rectangle((40, 30 - k % 17, 66, 40 - k % 17), colours[1])
        picture.save(folder / "pictures" / name)
        split = "train" if k < 44 else "val" if k < 54 else "test"
        lines += [f'{name},"{words.format(*colours)}",{split}' for words in WORDS]
        if split == "val":
            theirs[name] = f"a {colours[1]} circle"
    (folder / "captions.csv").write_text("\n".join(lines))
    (folder / "theirs.json").write_text(json.dumps(theirs))


def run(command: str, number: int, folder: Path, environment: dict[str, str]) -> None:
    """Run a command of the checkout; JSON output becomes a file."""
    words = shlex.split(command.replace("TRAIN", TRAIN))
    program = str(Path(environment["PYTHONPATH"], "cli.py"))
    result = subprocess.run(
        [sys.executable, program, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    if result.returncode:
        print(f"{command} failed with {result.returncode}:\n{result.stderr}")
    if words[-1] == "--json":
        (folder / f"{number:02d}-{words[0]}.json").write_text(result.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of the results, new")
    parser.add_argument("--checkout", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--threads", default="2", help="BLAS threads (default: 2)")
    options = parser.parse_args()
    environment = {
        **os.environ,
        "OPENBLAS_NUM_THREADS": options.threads,
        "XPCAP_BACKEND": "numpy",
        "PYTHONPATH": str(options.checkout.resolve()),
    }
    if options.folder.exists():
        raise SystemExit(f"{options.folder} exists")
    shutil.rmtree(WORK, ignore_errors=True)  # an earlier call may have been stopped
    draw(WORK)
    for number, command in enumerate(COMMANDS.strip().splitlines()):
        run(command, number, WORK, environment)
    for path in WORK.rglob("*"):
        if path.name in CLOCK or path.suffix == ".features":
            path.unlink()
        elif path.suffix in (".html", ".md", ".json"):
            path.write_text(DURATION.sub("...", path.read_text()))
    shutil.move(WORK, options.folder)


if __name__ == "__main__":
    main()
