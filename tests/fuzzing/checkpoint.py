"""Run folders: config, vocabulary, times, and safetensors with lying headers, spoilt values and odd metadata."""

import json
import random
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest

from fuzzing.mutate import NUMBERS, ODD, spoil_bytes, spoil_json, spoil_json_text
from xpcap import CaptioningRNN, CaptioningSolver, checkpoint
from xpcap.runs import training
from xpcap.runs.options import options_of

FILES = ("config.json", "vocab.json", "times.jsonl", "best.safetensors", "last.safetensors")
DTYPES = ("F32", "F64", "F16", "BF16", "I8", "I32", "I64", "U8", "BOOL", "F8_E4M3", "C64", "X", "", 3)


class Kind:
    """A small run, spoilt in one of its files."""

    def __init__(self, place: Path) -> None:
        self._good = place / "good"
        self._data = commands.few(0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "generate", commands.few)
            commands.good("train", "--out", self._good, "--hidden", 8, "--wordvec", 4, "--epochs", 2, "--patience", 1)
        self._content = {name: (self._good / name).read_bytes() for name in FILES}

    def make(self, draw: random.Random, folder: Path) -> None:
        for name in FILES:
            (folder / name).write_bytes(self._content[name])
        name = draw.choice((*FILES, *FILES[3:]))
        content = self._content[name]
        if draw.random() < 0.02:
            (folder / name).unlink()
        elif name.endswith(".json"):
            (folder / name).write_bytes(spoil_json_text(draw, content.decode()))
        elif name.endswith(".jsonl"):
            (folder / name).write_bytes(spoil_json_text(draw, content.decode().splitlines()[0]) + b"\n" + content)
        else:
            (folder / name).write_bytes(_spoil_tensors(draw, content))

    def use(self, folder: Path) -> None:
        """What `info`, `evaluate`, `caption` and `train --resume` open."""
        config = checkpoint.read_config(folder)
        options = options_of(config, folder)
        run = checkpoint.open_run(folder)
        json.dumps((run.config, run.meta))
        run.model.sample(run.scaling(np.zeros((1, config["feature_dim"]), np.float32)), 3)
        saved = checkpoint.load_saved(folder / checkpoint.LAST, run.model.params.shapes)
        checkpoint.check_scaling(folder / checkpoint.LAST, saved.scaling, config)
        checkpoint.read_times(folder, saved.state.epoch)
        model = CaptioningRNN(run.vocabulary.word_to_idx, config["feature_dim"], options.wordvec, options.hidden, options.cell, seed=0)
        solver = CaptioningSolver(model, self._data, update_rule="adam", batch_size=32, num_epochs=3, seed=0, verbose=False)
        solver.restore(saved.state)
        solver.step(*self._data.minibatch("train", np.arange(4)))
        json.dumps(solver.history)


def _spoil_tensors(draw: random.Random, content: bytes) -> bytes:
    """A safetensors file: its length, its header, the metadata in it, the numbers, or any bytes."""
    length = int.from_bytes(content[:8], "little")
    header, numbers = json.loads(content[8 : 8 + length]), content[8 + length :]
    change = draw.randrange(6)
    if change == 0:
        return (draw.choice(NUMBERS) % 2**64).to_bytes(8, "little") + content[8:]
    if change == 1:
        header["__metadata__"]["xpcap"] = spoil_json_text(draw, header["__metadata__"]["xpcap"]).decode("utf-8", "replace")
    elif change == 2:
        header[draw.choice(list(header))] = _odd_entry(draw, header[draw.choice([name for name in header if name != "__metadata__"])])
    elif change == 3:
        header = spoil_json(draw, header)
    elif change == 4:
        values = np.frombuffer(numbers, np.uint32).copy()
        values[draw.randrange(len(values)) :][: draw.choice((1, 5, 1000))] = draw.choice((0x7FC00000, 0x7F800000, 0xFF800000, 0, 0xFFFFFFFF, 1))
        numbers = values.tobytes()
    else:
        return spoil_bytes(draw, content, 8 + length)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + numbers


def _odd_entry(draw: random.Random, entry: dict[str, Any]) -> Any:
    key = draw.choice(("dtype", "shape", "data_offsets", ""))
    if not key:
        return draw.choice(ODD)
    odd = {"dtype": draw.choice(DTYPES), "shape": [draw.choice(NUMBERS) for _ in range(draw.randrange(4))], "data_offsets": [draw.choice(NUMBERS), 8]}
    return {**entry, key: odd[key]}
