"""Run folders: config, vocabulary, times, and safetensors with lying headers, spoilt values and odd
metadata.
"""

import functools
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest

from fuzzing.spoiling import spoil_bytes
from fuzzing.spoiling_json import NUMBERS, ODD, spoil_json, spoil_json_text
from xpcap import CaptioningRNN, CaptioningSolver
from xpcap.data import CaptionData
from xpcap.runs import train
from xpcap.runs.folder import LAST, check_scaling, load_checkpoint, read_times
from xpcap.runs.run import open_run

FILES = ("config.json", "vocab.json", "times.jsonl", "best.safetensors", "last.safetensors")
DTYPES = (
    "F32",
    "F64",
    "F16",
    "BF16",
    "I8",
    "I32",
    "I64",
    "U8",
    "BOOL",
    "F8_E4M3",
    "C64",
    "X",
    "",
    3,
)


@functools.cache
def _good() -> dict[str, bytes]:
    """The files of a small run."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "generate", commands.few)
        out = Path(folder, "run")
        commands.good(
            "train", "--out", out, "--hidden", 8, "--wordvec", 4, "--epochs", 2, "--patience", 1
        )
        return {name: (out / name).read_bytes() for name in FILES}


@functools.cache
def _data() -> CaptionData:
    return commands.few(0)


def make(draw: random.Random, folder: Path) -> None:
    """A run that is spoilt in one of its files, or lacks it."""
    for name, content in _good().items():
        (folder / name).write_bytes(content)
    name = draw.choice((*FILES, *FILES[3:]))
    content = _good()[name]
    if draw.random() < 0.02:
        (folder / name).unlink()
    elif name.endswith(".json"):
        (folder / name).write_bytes(spoil_json_text(content.decode(), draw))
    elif name.endswith(".jsonl"):
        (folder / name).write_bytes(
            spoil_json_text(content.decode().splitlines()[0], draw) + b"\n" + content
        )
    else:
        (folder / name).write_bytes(_spoil_tensors(content, draw))


def use(folder: Path) -> None:
    """What `info`, `evaluate`, `caption` and `train --resume` open."""
    run = open_run(folder)
    json.dumps((run.config.to_json(), run.meta))
    run.model.sample(run.scaling(np.zeros((1, *run.model.config.feature_shape), np.float32)), 3)
    saved = load_checkpoint(folder / LAST, run.model.params.shapes)
    config = run.config
    check_scaling(
        folder / LAST,
        saved.scaling,
        config.recipe.feature_scaling,
        config.model.feature_shape[-1],
    )
    read_times(folder, saved.state.epoch)
    model = CaptioningRNN.from_config(run.model.config, run.vocabulary.word_to_idx, seed=0)
    solver = CaptioningSolver(
        model, _data(), update_rule="adam", batch_size=32, num_epochs=3, seed=0, verbose=False
    )
    solver.restore(saved.state)
    with np.errstate(
        all="ignore"
    ):  # as `train` has it: finite numbers may be large enough to overflow
        solver.step(*_data().minibatch("train", np.arange(4)))
    json.dumps(solver.history)


def _spoil_tensors(content: bytes, draw: random.Random) -> bytes:
    """A safetensors file: its length, its header, the metadata in it, the numbers, or any bytes."""
    length = int.from_bytes(content[:8], "little")
    header, numbers = json.loads(content[8 : 8 + length]), content[8 + length :]
    change = draw.randrange(6)
    if change == 0:
        return (draw.choice(NUMBERS) % 2**64).to_bytes(8, "little") + content[8:]
    if change == 1:
        header["__metadata__"]["xpcap"] = spoil_json_text(
            header["__metadata__"]["xpcap"], draw
        ).decode("utf-8", "replace")
    elif change == 2:
        header[draw.choice(list(header))] = _odd_entry(
            header[draw.choice([name for name in header if name != "__metadata__"])], draw
        )
    elif change == 3:
        header = spoil_json(header, draw)
    elif change == 4:
        values = np.frombuffer(numbers, np.uint32).copy()
        values[draw.randrange(len(values)) :][: draw.choice((1, 5, 1000))] = draw.choice(
            (0x7FC00000, 0x7F800000, 0xFF800000, 0, 0xFFFFFFFF, 1)
        )
        numbers = values.tobytes()
    else:
        return spoil_bytes(content, draw, 8 + length)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + numbers


def _odd_entry(entry: dict[str, Any], draw: random.Random) -> Any:
    key = draw.choice(("dtype", "shape", "data_offsets", ""))
    if not key:
        return draw.choice(ODD)
    odd = {
        "dtype": draw.choice(DTYPES),
        "shape": [draw.choice(NUMBERS) for _ in range(draw.randrange(4))],
        "data_offsets": [draw.choice(NUMBERS), 8],
    }
    return {**entry, key: odd[key]}
