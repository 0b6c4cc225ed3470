"""What made the runs beside it: in a checkout of 9c79368, and once more in one of acb0592a.

    mkdir /kept && cd /kept && PYTHONPATH=CHECKOUT python THIS/make.py

It draws pictures, prepares and trains by the commit's own commands, and writes to expected.json what
the commit's `evaluate` and `caption` then print. Both commits wrote the same bytes (Python 3.11,
NumPy 2.4.6, one thread), but for the seconds in times.jsonl; those of 9c79368 are kept. Of 18 seeds
of `both` the fit chose both stages with two, the second alone with sixteen. Pages, curves, model
cards, locks, pictures and captions.csv were removed.
"""

import csv
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

FORMS = ("a {} and a {}", "there is a {} by a {}", "the {} is by the {}")
PREPARE = "--encoder histogram --grid 2 --min-count 1 --float16".split()
STAGED: dict[str, Any] = {
    **{"hidden": 8, "wordvec": 4, "inject": "attention", "batch_size": 12, "epochs": 12},
    **{"score_epochs": 6, "lr": 0.03, "samples": 3, "select": "cider"},
}
WARM: dict[str, Any] = {"epochs": 8, "batch_size": 9, "lr": 0.01}
DATA = {
    **{"both": "data.h5", "second": "projected.h5", "stopped": "projected.h5"},
    **{"warm": "own.h5", "warm-both": "own.h5", "warm-stopped": "own.h5"},
}


def draw(path: Path, things: list[tuple[str, str]], tops: list[int]) -> None:
    image = Image.new("RGB", (64, 48), "white")
    pen = ImageDraw.Draw(image)
    for left, top, (colour, shape) in zip((4, 36), tops, things, strict=True):
        outline = pen.rectangle if shape == "square" else pen.ellipse
        outline((left, top, left + 22, top + 22), colour)
    image.save(path)


def drawings(
    name: str, seed: int, shapes: tuple[str, ...], colours: tuple[str, ...], train: int
) -> None:
    """A folder of `train` pictures and eight for val, and its captions.csv."""
    rng, rows = random.Random(seed), []
    Path(name, "pictures").mkdir(parents=True)
    for number in range(train + 8):
        things, tops = [], []
        for _ in range(2):
            shape, colour = rng.choice(shapes), rng.choice(colours)
            things.append((colour, shape))
            tops.append(rng.randint(2, 20))
        file = f"{name}-{number:02d}.png"
        draw(Path(name, "pictures", file), things, tops)
        split, said = "train" if number < train else "val", [" ".join(one) for one in things]
        rows += [(file, form.format(*said), split) for form in FORMS]
    with Path(name, "captions.csv").open("w", newline="") as out:
        csv.writer(out).writerows([("image", "caption", "split"), *rows])


def xpcap(*arguments: object) -> str:
    command = [sys.executable, "-m", "xpcap", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def flags(options: dict[str, Any]) -> list[object]:
    return [x for name, value in options.items() for x in (f"--{name.replace('_', '-')}", value)]


def stopped(data: str, epoch: int, out: str, **options: Any) -> None:
    """A run that gets SIGTERM after its epoch of that number, counted over both stages."""
    from xpcap.runs import Stopped, choose, train_run

    epochs = iter(range(1, 99))

    def on_epoch(solver: object) -> None:
        if next(epochs) == epoch:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        train_run(choose(Path(data), {**options, "out": Path(out)}), on_epoch=on_epoch)
    except Stopped as error:
        print(error)


def outcome(run: str) -> dict[str, Any]:
    """Captions and scores of the val split, and the caption of a new picture."""
    found: dict[str, Any] = {}
    for decoding, how in (("greedy", ["--greedy"]), ("default", [])):
        said = json.loads(xpcap("evaluate", run, "--data", DATA[run], *how, "--json"))
        scores = {name: said["scores"][name] for name in ("bleu4", "cider", "loss", "perplexity")}
        picture = json.loads(xpcap("caption", run, "picture.png", *how, "--json"))[0]["caption"]
        found[decoding] = {"captions": said["captions"], "scores": scores, "picture": picture}
    return found


def main() -> None:
    drawings("base", 0, ("square", "circle"), ("red", "green", "blue"), train=24)
    drawings("own", 1, ("square", "disc"), ("red", "yellow"), train=9)
    draw(Path("picture.png"), [("red", "square"), ("blue", "circle")], [12, 5])
    for name, out, how in (
        ("base", "data.h5", []),
        ("base", "projected.h5", ["--pca", 6]),
        ("own", "own.h5", []),
    ):
        given = [f"{name}/captions.csv", "--pictures", f"{name}/pictures", *PREPARE, *how]
        xpcap("prepare", *given, "--out", out)
    xpcap("train", "data.h5", "--out", "both", *flags(STAGED), "--seed", 1)
    xpcap("train", "projected.h5", "--out", "second", *flags(STAGED), "--seed", 2)
    xpcap("train", "own.h5", "--from", "second", "--out", "warm", *flags(WARM), "--seed", 3)
    # none of its three epochs is better than the run that it started from
    short = [*flags({**WARM, "epochs": 3, "batch_size": 64}), "--seed", 0]
    xpcap("train", "own.h5", "--from", "both", "--out", "warm-both", *short)
    stopped("/kept/projected.h5", 14, "/kept/stopped", **STAGED, seed=2)
    stopped("/kept/own.h5", 4, "/kept/warm-stopped", start=Path("/kept/second"), **WARM, seed=3)
    outcomes = {run: outcome(run) for run in DATA}
    Path("expected.json").write_text(json.dumps(outcomes, indent=1) + "\n")


if __name__ == "__main__":
    main()
