"""Run folders: every file spoilt, and safetensors with lying headers, spoilt values and odd metadata."""

import json
import random
from pathlib import Path
from typing import Any

import damage
import numpy as np

from fuzzing.spoiling import NUMBERS, ODD_JSON, spoil_bytes, spoil_json, spoil_json_text
from xpcap import CaptioningRNN, CaptioningSolver
from xpcap.data import open_data
from xpcap.runs.folder import LAST, check_scaling, load_checkpoint, read_times
from xpcap.runs.run import open_run

DTYPES = (
    *("F32", "F64", "F16", "BF16", "I8", "I32", "I64", "U8", "BOOL", "F8_E4M3", "C64", "X", ""),
    3,
)
BITS = (0x7FC00000, 0x7F800000, 0xFF800000, 0, 0xFFFFFFFF, 1)  # NaN, infinities and others


def make(draw: random.Random, folder: Path) -> None:
    """A run that is spoilt in one of its files, or lacks it."""
    damage.write_run(folder)
    path = draw.choice(sorted(folder.iterdir()))
    content = path.read_bytes()
    if draw.random() < 0.02:
        path.unlink()
    elif path.suffix == ".json":
        path.write_bytes(spoil_json_text(content.decode(), draw))
    elif path.suffix == ".jsonl":
        line = content.decode().splitlines()[0]
        path.write_bytes(spoil_json_text(line, draw) + b"\n" + content)
    else:
        path.write_bytes(_spoil_tensors(content, draw))


def use(folder: Path) -> None:
    """What `info`, `evaluate`, `caption` and `train --resume` open."""
    run = open_run(folder)
    json.dumps((run.config.to_json(), run.meta))
    config, data = run.config, run.data(open_data(Path(damage.MADE, "data.h5")))
    # as commands have it: finite numbers may be large enough to overflow
    with np.errstate(all="ignore"):
        run.model.sample(data.features("train", np.arange(1)), 3)
    saved = load_checkpoint(folder / LAST, run.model.params.shapes)
    size = config.model.feature_shape[-1]
    check_scaling(folder / LAST, saved.scaling, config.recipe.feature_scaling, size)
    read_times(folder, saved.state.epoch)
    model = CaptioningRNN.from_config(config.model, run.vocabulary.word_to_idx, seed=0)
    solver = CaptioningSolver(
        model, data, update_rule="adam", batch_size=12, num_epochs=24, seed=0, verbose=False
    )
    solver.restore(saved.state)
    with np.errstate(all="ignore"):
        solver.step(*data.minibatch("train", np.arange(4)))
    json.dumps(solver.history)


def _spoil_tensors(content: bytes, draw: random.Random) -> bytes:
    """A safetensors file: its length, its header, the metadata in it, the numbers, or any bytes."""
    length = int.from_bytes(content[:8], "little")
    header, numbers = json.loads(content[8 : 8 + length]), content[8 + length :]
    change = draw.randrange(6)
    if change == 0:
        return (draw.choice(NUMBERS) % 2**64).to_bytes(8, "little") + content[8:]
    if change == 1:
        meta = spoil_json_text(header["__metadata__"]["xpcap"], draw)
        header["__metadata__"]["xpcap"] = meta.decode("utf-8", "replace")
    elif change == 2:
        entry = header[draw.choice([name for name in header if name != "__metadata__"])]
        header[draw.choice(list(header))] = _odd_entry(entry, draw)
    elif change == 3:
        header = spoil_json(header, draw)
    elif change == 4:
        values = np.frombuffer(numbers[: len(numbers) // 4 * 4], np.uint32).copy()
        at = draw.randrange(len(values))
        values[at : at + draw.choice((1, 5, 1000))] = draw.choice(BITS)
        numbers = values.tobytes() + numbers[values.nbytes :]
    else:
        return spoil_bytes(content, draw, 8 + length)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + numbers


def _odd_entry(entry: dict[str, Any], draw: random.Random) -> Any:
    odd = {
        "dtype": draw.choice(DTYPES),
        "shape": [draw.choice(NUMBERS) for _ in range(draw.randrange(4))],
        "data_offsets": [draw.choice(NUMBERS), 8],
    }
    key = draw.choice((*odd, ""))
    return {**entry, key: odd[key]} if key else draw.choice(ODD_JSON)
