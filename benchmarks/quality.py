"""Recipes of docs/explain/quality.md: each trained with three seeds and scored on the val split.

    python -m benchmarks.quality flickr8k.h5 FOLDER [RECIPE...]
    python -m benchmarks.quality --curves FOLDER

Runs and scores gather in FOLDER; what is there already is not made again, so that it can be stopped
and given again. Minutes are those of training and validation in `times.jsonl`: they mean something
if nothing else ran.
"""

import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.runs.folder import read_history

COMMAND = [sys.executable, str(Path(__file__).parent.parent / "cli.py")]
SEEDS = (0, 1, 2)
BEFORE = {
    "--inject": "init",
    "--lr-decay": 0.9,
    "--dropout": 0.5,
    "--smoothing": 0,
    "--select": "loss",
    "--epochs": 12,
    "--score-epochs": 0,
}
RECIPES: dict[str, dict[str, Any]] = {
    "init": BEFORE,
    "every step": {**BEFORE, "--inject": "every-step"},
    "default": {},
    # the default but for one thing
    "first stage": {"--score-epochs": 0},
    "not sharpened": {"--sharpen": 1},
    "no smoothing": {"--smoothing": 0},
    "attention": {"--inject": "attention+every-step", "--epochs": 8, "--score-epochs": 3},
    "longer attention": {"--inject": "attention+every-step", "--epochs": 15, "--score-epochs": 3},
}
ON_GRIDS = ("attention", "longer attention")  # so only where they are asked for
SCORES = ("val_perplexity", "val_cider")
DECODING: dict[str, list[str]] = {
    "ranked": [],
    "greedy": ["--greedy"],
    "beam": ["--beam", "5"],
    "beam at 0.7": ["--beam", "5", "--length-penalty", "0.7"],
    "beam, no repeats": ["--beam", "5", "--no-repeat"],
}


def place_of(folder: Path, recipe: str, seed: int) -> Path:
    """The folder in which a recipe is trained with a seed."""
    return folder / f"{recipe.replace(' ', '-')}-{seed}"


def scored(data: Path, folder: Path, recipe: str, seed: int) -> dict[str, Any]:
    """Scores of a recipe by decoding, and the minutes of its training, done here if need be."""
    out = place_of(folder, recipe, seed)
    if not (out / "index.html").exists():
        options = [str(x) for pair in RECIPES[recipe].items() for x in pair]
        subprocess.run(
            [*COMMAND, "train", data, "--out", out, "--seed", str(seed), "--resume", *options],
            check=True,
        )
    scores: dict[str, Any] = {}
    for name, options in DECODING.items():
        kept = (
            folder
            / f"{recipe.replace(' ', '-')}-{seed}.{name.replace(',', '').replace(' ', '-')}.json"
        )
        if not kept.exists():
            done = subprocess.run(
                [*COMMAND, "evaluate", out, "--json", *options],
                check=True,
                capture_output=True,
                text=True,
            )
            kept.write_text(done.stdout)
        scores[name] = json.loads(kept.read_text())["scores"]
    times = [json.loads(line) for line in (out / "times.jsonl").read_text().splitlines()]
    return scores | {
        "minutes": sum(time["train_seconds"] + time["check_seconds"] for time in times) / 60
    }


def row(recipe: str, results: Sequence[dict[str, Any]]) -> list[str]:
    """Means over the seeds; of CIDEr also the lowest and the highest."""

    def cell(decoding: str, score: str, digits: int = 3, ends: bool = False) -> str:
        if decoding not in results[0]:
            return ""
        values = [result[decoding][score] for result in results]
        return f"{np.mean(values):.{digits}f}" + (
            f" ({min(values):.3f} to {max(values):.3f})" if ends else ""
        )

    ciders = [cell(decoding, "cider_d", ends=True) for decoding in DECODING]
    others = [
        cell("greedy", "bleu4"),
        cell("beam", "bleu4"),
        cell("greedy", "perplexity", 1),
        cell("greedy", "distinct", 2),
    ]
    return [
        recipe,
        str(len(results)),
        *ciders,
        *others,
        f"{np.mean([result['minutes'] for result in results]):.1f}",
    ]


def curves(folder: Path) -> list[list[str]]:
    """Rows for docs/develop/results/stages.csv, after its date, machine and versions: validation
    scores of the default by seed and epoch.
    """
    return [
        [
            str(seed),
            "self-critical" if "train_reward" in record else "cross entropy",
            str(record["epoch"]),
            *(f"{record[score]:.4f}" for score in SCORES),
        ]
        for seed in SEEDS
        for record in read_history(place_of(folder, "default", seed))
    ]


def main() -> None:
    if sys.argv[1] == "--curves":
        csv.writer(sys.stdout, lineterminator="\n").writerows(curves(Path(sys.argv[2])))
        return
    data, folder = map(Path, sys.argv[1:3])
    folder.mkdir(exist_ok=True)
    heads = [
        "recipe",
        "seeds",
        *(f"CIDEr-D, {name}" for name in DECODING),
        "BLEU-4, greedy",
        "BLEU-4, beam",
        "perplexity",
        "distinct",
        "minutes",
    ]
    rows = [
        row(recipe, [scored(data, folder, recipe, seed) for seed in SEEDS])
        for recipe in sys.argv[3:] or [name for name in RECIPES if name not in ON_GRIDS]
    ]
    for cells in (heads, ["---"] * len(heads), *rows):
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
