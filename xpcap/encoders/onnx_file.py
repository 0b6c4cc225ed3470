"""Encoders from an exported ONNX file: its input has the size of pictures, its metadata or the encoder's name their scaling."""

import hashlib
import math
import stat
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.encoders.extras import require, require_digest, split_options
from xpcap.encoders.grid import grid_of
from xpcap.encoders.network import Network, open_session
from xpcap.errors import DataError, unknown

OPTIONS = ("size", "mean", "std", "output", "grid", "sha256")
MOST_BYTES = (1 << 31) - 1  # what ONNX holds in one file
MOST_SIDE = 4096


def onnx_file(name: str) -> Network:
    """The encoder ``onnx:FILE``, with options: ``onnx:model.onnx:size=224:mean=0.485,0.456,0.406:std=0.229,0.224,0.225``.

    Parameters
    ----------
    name : FILE and any of these, each of which goes before what the file says
        size : side of the square that pictures are scaled to; needed where the model's input has no fixed
            height and width
        mean, std : of red, green and blue, or one number for all, where levels are 0 to 1; needed unless the
            model's metadata has them
        output : name of the output that is the feature, if not the first
        grid : K, to average an output that is a map over K x K regions
        sha256 : the first digits of the file's digest; the encoder's own name has 16

    Raises
    ------
    DataError : ONNX Runtime is missing; the file is none, or other than it was; an option is wrong or lacks; the
        model is of another kind.
    """
    where, options = split_options(name, OPTIONS)
    require(name, "images", "onnxruntime")
    path = Path(where.removeprefix("onnx:"))
    model = _read(path)
    digest = require_digest(name, hashlib.sha256(model).hexdigest(), options.get("sha256"))
    session = open_session(str(path), model)
    given = {**session.get_modelmeta().custom_metadata_map, **options}
    channels_last, size = _size(path, session, given.get("size"))
    scaling = {key: _numbers(path, key, given.get(key)) for key in ("mean", "std")}
    if not scaling["std"].all():
        raise DataError(f"find_encoder: {path}: std is {given['std']}, expected numbers other than 0")
    grid = grid_of(name, options)
    output = _output(path, session, options.get("output"), grid is not None)
    kept = {key: options[key] for key in ("size", "mean", "std", "output", "grid") if key in options} | {"sha256": digest}
    whole = ":".join((f"onnx:{path.resolve()}", *(f"{key}={value}" for key, value in kept.items())))
    return Network(whole, session, output, size, 255 * scaling["mean"], 255 * scaling["std"], channels_last, grid)


def _read(path: Path) -> bytes:
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode) or about.st_size > MOST_BYTES:  # opening a pipe would wait for a writer
            came = f"has {about.st_size:,} bytes" if stat.S_ISREG(about.st_mode) else "is a folder, a pipe or a device"
            raise DataError(f"find_encoder: {path} {came}, expected an ONNX file of at most {MOST_BYTES:,} bytes")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"find_encoder: {path}: {error.strerror}, expected an ONNX file; moved, or is the path wrong?") from error


def _size(path: Path, session: Any, given: str | None) -> tuple[bool, tuple[int, int]]:
    """Whether the input has its channels last, and its height and width."""
    if given is not None and not (given.isdecimal() and 0 < int(given) <= MOST_SIDE):
        raise DataError(f"find_encoder: {path}: size is {given!r}, expected pixels, 1 to {MOST_SIDE:,}")
    inputs = session.get_inputs()
    shape = inputs[0].shape if len(inputs) == 1 and inputs[0].type == "tensor(float)" else []
    one_picture = len(shape) == 4 and (shape[0] == 1 or not isinstance(shape[0], int))
    if not one_picture or 3 not in (shape[1], shape[3]):
        came = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)[:300]
        raise DataError(f"find_encoder: {path} takes {came}, expected one float input (N, 3, height, width) or (N, height, width, 3)")
    channels_last = shape[1] != 3
    fixed = shape[1:3] if channels_last else shape[2:]
    height, width = (side if isinstance(side, int) else int(given or 0) for side in fixed)
    if not height or not width:
        raise DataError(f"find_encoder: {path} takes pictures of any size, expected one to scale them to; add :size=224, or what it was trained with")
    if given is not None and (height, width) != (int(given), int(given)):
        raise DataError(f"find_encoder: {path} takes pictures of {height} x {width}, expected the size {given} that was asked for")
    return channels_last, (height, width)


def _numbers(path: Path, key: str, text: str | None) -> np.ndarray:
    if text is None:
        raise DataError(
            f"find_encoder: {path} does not say how its input is scaled, expected `mean` and `std` in its metadata or behind its name; "
            "most models trained on ImageNet want :mean=0.485,0.456,0.406:std=0.229,0.224,0.225"
        )
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)):
        raise DataError(f"find_encoder: {path}: {key} is {text[:60]!r}, expected one number, or three with commas between them")
    return np.array(numbers)


def _output(path: Path, session: Any, wanted: str | None, is_map: bool) -> str:
    outputs = {output.name: output for output in session.get_outputs()}
    if wanted is not None and wanted not in outputs:
        raise unknown("find_encoder", f"{path}: output", wanted, outputs, DataError)
    name = wanted or next(iter(outputs))
    shape = outputs[name].shape
    fits = len(shape) == 4 if is_map else len(shape) in (2, 4) and list(shape[2:]) == [1] * (len(shape) - 2)
    if outputs[name].type != "tensor(float)" or not fits:
        wanted = "a map, float (N, D, height, width)" if is_map else "pooled features, float (N, D) or (N, D, 1, 1)"
        raise DataError(
            f"find_encoder: {path} gives {name} {outputs[name].type} {shape}, expected {wanted}; "
            f"its outputs are {', '.join(outputs)}: choose one with :output=NAME"
        )
    return name
