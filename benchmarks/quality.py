"""Trains the recipes of docs/explain/quality.md with three seeds, and scores them on the val split.

    python -m benchmarks.quality flickr8k.h5 FOLDER [RECIPE...]
    python -m benchmarks.quality --curves FOLDER

Prints rows of docs/develop/results/quality.csv or, with --curves, of stages.csv, without the columns
before recipe or seed. FOLDER keeps runs and scores, and a repeated command makes only missing ones.
Minutes of training and validation come from `times.jsonl`; they are valid if nothing else ran.
"""

import csv
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xpcap.runs.folder import read_history

COMMAND = [sys.executable, str(Path(__file__).parent.parent / "cli.py")]
SEEDS = (0, 1, 2)
EARLY = (
    "--lr-decay 0.9 --dropout 0.5 --smoothing 0 --select loss --epochs 12 --score-epochs 0".split()
)
ATTENTION = "attention to 25 regions"  # needs data with grids, so it is trained only on request
RECIPES: dict[str, Sequence[str]] = {
    "image at the start": ("--inject", "init", *EARLY),
    "image at every step": ("--inject", "every-step", *EARLY),
    "first stage of the default": ("--score-epochs", "0"),
    "default": (),
    ATTENTION: "--inject attention+every-step --epochs 8 --score-epochs 3".split(),
}
DECODING = {"greedy": ["--greedy"], "beam_5": ["--beam", "5"], "ranked": []}
COLUMNS = (
    "recipe",
    "seeds",
    *(f"{name}{end}" for name in ("greedy", "beam_5") for end in ("", "_lowest", "_highest")),
    *("bleu4_greedy", "bleu4_beam", "perplexity", "minutes"),
    *(f"ranked{end}" for end in ("", "_lowest", "_highest")),
)
SCORES = ("val_perplexity", "val_cider")


def run_folder(folder: Path, recipe: str, seed: int) -> Path:
    """The folder of the run of a recipe with a seed."""
    return folder / f"{recipe.replace(' ', '-')}-{seed}"


def scored(data: Path, folder: Path, recipe: str, seed: int) -> dict[str, Any]:
    """Scores of a recipe by decoding, and minutes of its training; both are computed if missing."""
    run = run_folder(folder, recipe, seed)
    if not (run / "index.html").exists():
        how = ["--seed", str(seed), "--resume", *RECIPES[recipe]]
        subprocess.run([*COMMAND, "train", data, "--out", run, *how], check=True)
    scores: dict[str, Any] = {}
    for decoding, options in DECODING.items():
        file = run.with_name(f"{run.name}.{decoding}.json")
        if not file.exists():
            command = [*COMMAND, "evaluate", str(run), "--json", *options]
            file.write_bytes(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        scores[decoding] = json.loads(file.read_text())["scores"]
    times = [json.loads(line) for line in (run / "times.jsonl").read_text().splitlines()]
    seconds = sum(time["train_seconds"] + time["check_seconds"] for time in times)
    return scores | {"minutes": seconds / 60}


def row(recipe: str, results: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Means over the seeds, with the lowest and highest CIDEr-D."""

    def mean(decoding: str, score: str, digits: int = 3) -> str:
        return f"{statistics.fmean(result[decoding][score] for result in results):.{digits}f}"

    cells = {"recipe": recipe, "seeds": str(len(results))}
    for name in DECODING:
        ciders = [result[name]["cider_d"] for result in results]
        ends = f"{min(ciders):.3f}", f"{max(ciders):.3f}"
        cells |= {
            name: mean(name, "cider_d"),
            f"{name}_lowest": ends[0],
            f"{name}_highest": ends[1],
        }
    cells |= {"bleu4_greedy": mean("greedy", "bleu4"), "bleu4_beam": mean("beam_5", "bleu4")}
    minutes = statistics.fmean(result["minutes"] for result in results)
    return cells | {"perplexity": mean("greedy", "perplexity", 1), "minutes": f"{minutes:.1f}"}


def curves(folder: Path) -> list[list[str]]:
    """Validation scores of the default recipe by seed, stage and epoch."""
    return [
        [
            str(seed),
            "self-critical" if "train_reward" in record else "cross entropy",
            str(record["epoch"]),
            *(f"{record[score]:.4f}" for score in SCORES),
        ]
        for seed in SEEDS
        for record in read_history(run_folder(folder, "default", seed))
    ]


def main() -> None:
    if sys.argv[1] == "--curves":
        csv.writer(sys.stdout, lineterminator="\n").writerows(curves(Path(sys.argv[2])))
        return
    data, folder = map(Path, sys.argv[1:3])
    folder.mkdir(exist_ok=True)
    writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for recipe in sys.argv[3:] or [name for name in RECIPES if name != ATTENTION]:
        writer.writerow(row(recipe, [scored(data, folder, recipe, seed) for seed in SEEDS]))


if __name__ == "__main__":
    main()
