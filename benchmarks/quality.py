"""Recipes of docs/explain/quality.md: each trained with three seeds and scored on the val split.

    python -m benchmarks.quality flickr8k.h5 FOLDER [RECIPE...]
    python -m benchmarks.quality --curves FOLDER

Prints rows of docs/develop/results/quality.csv, or of stages.csv, without what stands before the
recipe or the seed. Runs and scores gather in FOLDER; what is there already is not made again, so
that it can be stopped and given again. Minutes are those of training and validation in
`times.jsonl`: they mean something if nothing else ran.
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
ATTENTION = "attention to 25 regions"  # of grids, so only where it is asked for
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
    *(f"{way}{end}" for way in ("greedy", "beam_5") for end in ("", "_lowest", "_highest")),
    *("bleu4_greedy", "bleu4_beam", "perplexity", "minutes"),
    *(f"ranked{end}" for end in ("", "_lowest", "_highest")),
)
SCORES = ("val_perplexity", "val_cider")


def place_of(folder: Path, recipe: str, seed: int) -> Path:
    """The folder in which a recipe is trained with a seed."""
    return folder / f"{recipe.replace(' ', '-')}-{seed}"


def scored(data: Path, folder: Path, recipe: str, seed: int) -> dict[str, Any]:
    """Scores of a recipe by decoding, and the minutes of its training, done here if need be."""
    run = place_of(folder, recipe, seed)
    if not (run / "index.html").exists():
        how = ["--seed", str(seed), "--resume", *RECIPES[recipe]]
        subprocess.run([*COMMAND, "train", data, "--out", run, *how], check=True)
    scores: dict[str, Any] = {}
    for way, options in DECODING.items():
        kept = run.with_name(f"{run.name}.{way}.json")
        if not kept.exists():
            command = [*COMMAND, "evaluate", str(run), "--json", *options]
            kept.write_bytes(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        scores[way] = json.loads(kept.read_text())["scores"]
    times = [json.loads(line) for line in (run / "times.jsonl").read_text().splitlines()]
    seconds = sum(time["train_seconds"] + time["check_seconds"] for time in times)
    return scores | {"minutes": seconds / 60}


def row(recipe: str, results: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Means over the seeds; of CIDEr-D also the lowest and the highest."""

    def mean(way: str, score: str, digits: int = 3) -> str:
        return f"{statistics.fmean(result[way][score] for result in results):.{digits}f}"

    cells = {"recipe": recipe, "seeds": str(len(results))}
    for way in DECODING:
        ciders = [result[way]["cider_d"] for result in results]
        ends = f"{min(ciders):.3f}", f"{max(ciders):.3f}"
        cells |= {way: mean(way, "cider_d"), f"{way}_lowest": ends[0], f"{way}_highest": ends[1]}
    cells |= {"bleu4_greedy": mean("greedy", "bleu4"), "bleu4_beam": mean("beam_5", "bleu4")}
    minutes = statistics.fmean(result["minutes"] for result in results)
    return cells | {"perplexity": mean("greedy", "perplexity", 1), "minutes": f"{minutes:.1f}"}


def curves(folder: Path) -> list[list[str]]:
    """Validation scores of the default by seed, stage and epoch."""
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
    writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for recipe in sys.argv[3:] or [name for name in RECIPES if name != ATTENTION]:
        writer.writerow(row(recipe, [scored(data, folder, recipe, seed) for seed in SEEDS]))


if __name__ == "__main__":
    main()
