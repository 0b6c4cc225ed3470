"""Results stay as they were: short runs against recorded numbers.

golden.json holds the numbers; `PYTHONPATH=tests/helpers python tests/trainer/test_golden.py` records
them anew, which a change of results needs and a change of code does not. Numbers are compared
loosely enough for another machine; tools/golden.py compares every byte on one machine.
"""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from commands import answer, good
from safetensors.numpy import load_file

from xpcap import open_run

TESTS = Path(__file__).parent
RECORDED = TESTS / "golden.json"
LOOSELY = 1e-4  # relative: float32, summed in another order
TRAIN = (
    *("--epochs", "1", "--score-epochs", "0", "--batch-size", "9", "--lr", "0.02"),
    *("--hidden", "12", "--wordvec", "8", "--backend", "numpy"),
)
LSTM = (
    *("--inject", "attention", "--dropout", "0.2", "--smoothing", "0.1", "--lr-decay", "linear"),
    *("--feature-scaling", "standardize", "--select", "cider", "--seed", "1"),
)
RNN = (
    *("--cell", "rnn", "--inject", "init", "--dropout", "0", "--smoothing", "0"),
    *("--feature-scaling", "none", "--select", "loss"),
)
Outcome = dict[str, Any]


def tensors(path: Path) -> dict[str, str]:
    """Data type and shape of each tensor of a safetensors file."""
    return {name: f"{x.dtype} {list(x.shape)}" for name, x in load_file(path).items()}


def arrays(path: Path) -> dict[str, str]:
    """Data type and shape of each array of an HDF5 file."""
    found = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = f"{'text' if item.dtype.hasobject else item.dtype} {list(item.shape)}"

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def scored(run: Path, *arguments: object) -> Outcome:
    found = answer("evaluate", run, *arguments)
    numbers = {name: found["scores"][name] for name in ("bleu4", "cider", "loss", "perplexity")}
    return {"captions": found["captions"], "scores": numbers}


def left_by(run: Path) -> Outcome:
    """What a run of ten steps leaves: names, forms and numbers."""
    return {
        "best": tensors(run / "best.safetensors"),
        "last": tensors(run / "last.safetensors"),
        "losses": load_file(run / "last.safetensors")["losses"].tolist(),
        "history": [*map(json.loads, (run / "history.jsonl").read_text().splitlines())],
    }


def data_set(folder: Path, *shape: int) -> Path:
    """Captions of 36 pictures, and features of a shape that tell what is in them."""
    things, names = ("dog", "cat", "bird", "fish"), [f"{k:02d}.png" for k in range(36)]
    with (folder / "captions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "caption", "split"))
        for k, name in enumerate(names):
            for form in ("A {} runs.", "the {} runs again", "There is a {}"):
                writer.writerow((name, form.format(things[k % 4]), "train" if k < 30 else "val"))
    features = np.random.default_rng(0).standard_normal((36, *shape)).astype(np.float32)
    features.reshape(36, -1)[:, :10] += 3 * np.eye(4, 10, dtype=np.float32)[np.arange(36) % 4]
    np.savez(folder / "features.npz", names=names, features=features)
    given = ("--features", folder / "features.npz", "--min-count", 1, "--float16")
    good("prepare", folder / "captions.csv", *given, "--out", folder / "data.h5")
    return folder / "data.h5"


def lstm(folder: Path) -> Outcome:
    """An LSTM that attends to grids, and draws words."""
    data, run, draws = data_set(folder, 4, 6), folder / "run", ("--temperature", 0.8)
    good("train", data, "--out", run, *TRAIN, *LSTM, "--no-neighbours")
    drawn = scored(run, *draws, "--sample-seed", 3)["captions"]
    return {**left_by(run), **scored(run, "--beam", 3), "drawn": drawn}


def reranked(folder: Path) -> Outcome:
    """An LSTM whose captions are reranked by similar photos."""
    good("train", data_set(folder, 4, 6), "--out", folder / "run", *TRAIN, *LSTM)
    fit = open_run(folder / "run").reranking["fit"]
    return {
        "reranking": tensors(folder / "run" / "reranking.safetensors"),
        "fit": fit,
        **scored(folder / "run"),
    }


def rnn(folder: Path) -> Outcome:
    """An RNN on features of whole pictures."""
    data_set(folder, 10)
    good("train", folder / "data.h5", "--out", folder / "run", *TRAIN, *RNN, "--no-neighbours")
    found = {**left_by(folder / "run"), **scored(folder / "run")}
    words = json.loads((folder / "run" / "vocab.json").read_text())
    return {**found, "data": arrays(folder / "data.h5"), "words": words}


OUTCOMES: dict[str, Callable[[Path], Outcome]] = {"lstm": lstm, "reranked": reranked, "rnn": rnn}


def require_alike(found: Any, recorded: Any, where: str) -> None:
    """Floats to LOOSELY, everything else exactly."""
    assert type(found) is type(recorded), where
    if isinstance(recorded, dict):
        assert found.keys() == recorded.keys(), where
        for key, value in recorded.items():
            require_alike(found[key], value, f"{where}/{key}")
    elif isinstance(recorded, list):
        assert len(found) == len(recorded), where
        for k, value in enumerate(recorded):
            require_alike(found[k], value, f"{where}/{k}")
    elif isinstance(recorded, float):
        assert found == pytest.approx(recorded, rel=LOOSELY), where
    else:
        assert found == recorded, where


@pytest.mark.parametrize("name", list(OUTCOMES))
def test_results_are_those_recorded(name: str, tmp_path: Path) -> None:
    found = json.loads(json.dumps(OUTCOMES[name](tmp_path)))
    require_alike(found, json.loads(RECORDED.read_text())[name], name)


def record(folder: Path) -> None:
    """Write what is found now to golden.json, a thing a line."""
    runs = []
    for name, outcome in OUTCOMES.items():
        (folder / name).mkdir()
        things = outcome(folder / name).items()
        lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in things)
        runs.append(f" {json.dumps(name)}: {{\n{lines}\n }}")
    RECORDED.write_text("{\n" + ",\n".join(runs) + "\n}\n")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        record(Path(temporary))
