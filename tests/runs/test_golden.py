"""Results stay as they were: short runs against recorded numbers, and files of an earlier version.

golden.json holds the numbers; `PYTHONPATH=tests/helpers python tests/runs/test_golden.py` records
them anew, which a change of results needs and a change of code does not. The folder kept has a data
set and a run on it that was stopped after 22 of 24 epochs, as version 1 of either format was
written. Numbers are compared loosely enough for another machine; tools/golden.py compares every byte
on one machine.
"""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from commands import answer, good

from xpcap import open_run

TESTS = Path(__file__).parent
KEPT, RECORDED = TESTS / "kept", TESTS / "golden.json"
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
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return {
        name: f"{tensor['dtype']} {tensor['shape']}"
        for name, tensor in header.items()
        if name != "__metadata__"
    }


def losses(path: Path) -> list[float]:
    """The loss of each step, from a training state."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    begin, end = json.loads(content[8:start])["losses"]["data_offsets"]
    return np.frombuffer(content[start + begin : start + end], "<f4").tolist()


def arrays(path: Path) -> dict[str, str]:
    """Data type and shape of each array of an HDF5 file."""
    found = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = f"{'text' if item.dtype.hasobject else item.dtype} {list(item.shape)}"

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def history(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def scored(run: Path, *arguments: object) -> Outcome:
    found = answer("evaluate", run, *arguments)
    numbers = {name: found["scores"][name] for name in ("bleu4", "cider", "loss", "perplexity")}
    return {"captions": found["captions"], "scores": numbers}


def left_by(run: Path) -> Outcome:
    """What a run of ten steps leaves: names, forms and numbers."""
    return {
        "best": tensors(run / "best.safetensors"),
        "last": tensors(run / "last.safetensors"),
        "losses": losses(run / "last.safetensors"),
        "history": history(run),
    }


def lstm(folder: Path) -> Outcome:
    """An LSTM that attends, on the kept data set."""
    good("train", KEPT / "data.h5", "--out", folder / "run", *TRAIN, *LSTM, "--no-neighbours")
    return {**left_by(folder / "run"), **scored(folder / "run", "--beam", 3)}


def ranked(folder: Path) -> Outcome:
    """An LSTM on the kept data set, whose captions are ranked by similar photos."""
    good("train", KEPT / "data.h5", "--out", folder / "run", *TRAIN, *LSTM)
    fit = open_run(folder / "run").ranking["fit"]
    return {
        "ranking": tensors(folder / "run" / "ranking.safetensors"),
        "fit": fit,
        **scored(folder / "run"),
    }


def rnn(folder: Path) -> Outcome:
    """An RNN on a data set of other features, made here."""
    things, names = ("dog", "cat", "bird", "fish"), [f"{k:02d}.png" for k in range(36)]
    with (folder / "captions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "caption", "split"))
        for k, name in enumerate(names):
            for form in ("A {} runs.", "the {} runs again", "There is a {}"):
                writer.writerow((name, form.format(things[k % 4]), "train" if k < 30 else "val"))
    features = np.random.default_rng(0).standard_normal((36, 10)).astype(np.float32)
    features += 3 * np.eye(4, 10, dtype=np.float32)[np.arange(36) % 4]
    np.savez(folder / "features.npz", names=names, features=features)
    given = ("--features", folder / "features.npz", "--min-count", 1, "--float16")
    good("prepare", folder / "captions.csv", *given, "--out", folder / "data.h5")
    good("train", folder / "data.h5", "--out", folder / "run", *TRAIN, *RNN, "--no-neighbours")
    found = {**left_by(folder / "run"), **scored(folder / "run")}
    return {**found, "data": arrays(folder / "data.h5"), "words": vocabulary(folder / "run")}


def vocabulary(run: Path) -> Any:
    return json.loads((run / "vocab.json").read_text())


def kept_run(folder: Path) -> Path:
    return Path(shutil.copytree(KEPT / "run", folder / "run"))


def used(folder: Path) -> Outcome:
    """The kept run captions its val split and a new picture, and draws words."""
    from PIL import Image, ImageDraw  # machines with a GPU do without it

    run, sheet = kept_run(folder), Image.new("RGB", (64, 48), "white")
    ImageDraw.Draw(sheet).ellipse((20, 10, 38, 28), "red")
    sheet.save(folder / "circle.png")
    kept, draws = ("--data", KEPT / "data.h5"), ("--temperature", 0.8, "--sample-seed", 3)
    return {
        "greedy": scored(run, *kept),
        "drawn": scored(run, *kept, *draws)["captions"],
        "picture": answer("caption", run, folder / "circle.png", "--beam", 3)[0]["caption"],
        "data": arrays(KEPT / "data.h5"),
    }


def resumed(folder: Path) -> Outcome:
    """The kept run is continued to its end."""
    run = kept_run(folder)
    good("train", KEPT / "data.h5", "--out", run, "--resume")
    return {**left_by(run), **scored(run, "--data", KEPT / "data.h5")}


OUTCOMES: dict[str, Callable[[Path], Outcome]] = {
    "lstm": lstm,
    "ranked": ranked,
    "rnn": rnn,
    "used": used,
    "resumed": resumed,
}


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
    """Write what is found now to golden.json."""
    found = {}
    for name, outcome in OUTCOMES.items():
        (folder / name).mkdir()
        found[name] = outcome(folder / name)
    RECORDED.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        record(Path(temporary))
