"""Encoders that ONNX Runtime runs: sessions, pictures as their input, and `onnx:FILE`."""

import hashlib
import math
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.encoders.extras import require, require_digest, split_options, telemetry_off
from xpcap.encoders.grid import grid_of, pool, require_regions
from xpcap.encoders.pictures import require_picture
from xpcap.errors import DataError, unknown


def open_session(where: str, model: bytes) -> Any:
    """An ONNX Runtime session on one thread, since pictures run in parallel, each on its own core.

    `where` names the model in messages. DataError : it is no model, or has unknown operators.
    """
    with telemetry_off():
        import onnxruntime

    # for two cases without the variable: imported before, or a version for Windows
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # fatal errors; our error reports others
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no type in common
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            "find_encoder",
            where,
            f"cannot be opened by ONNX Runtime {onnxruntime.__version__}: {reason}",
            cause="damaged, or too new?",
        ) from error


class OnnxEncoder:
    """An encoder that runs a network on each picture alone: features do not depend on the batch.

    A picture is scaled to the network's input (bicubic, not cropped); its levels, 0 to 255, become
    ``(level - offset) / scale``.

    Parameters
    ----------
    session : of ONNX Runtime
    read : the ONNX file that it runs
    output : name of the output that is a feature (1, D), (1, D, 1, 1), or for a grid a map (1, D,
        h, w), or (1, h, w, D) if the input has its channels last
    size : height and width of its input
    channels_last : True if that is (1, height, width, 3), not (1, 3, height, width)
    offset, scale : one number or three
    grid : K, to average a map over K x K regions

    All but the session are also attributes.

    Raises
    ------
    DataError : the map is coarser than the grid.
    """

    def __init__(
        self,
        name: str,
        session: Any,
        read: Callable[[], bytes],
        output: str,
        size: tuple[int, int],
        offset: np.ndarray,
        scale: np.ndarray,
        channels_last: bool = False,
        grid: int | None = None,
    ) -> None:
        self.name = name
        self._session, self._input = session, session.get_inputs()[0].name
        self.read, self.output, self.size, self.channels_last = read, output, size, channels_last
        self.offset, self.scale = np.asarray(offset, np.float32), np.asarray(scale, np.float32)
        self.grid = grid
        self.shape = self._run(np.zeros((*size, 3), np.uint8)).shape

    def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        """Features (n, *shape), float32, of pictures (height, width, 3), uint8, of any sizes.

        Raises
        ------
        ValueError : an array is not such a picture.
        """
        return np.fromiter(
            (self._run(self._fit(picture)) for picture in pictures),
            np.dtype((np.float32, self.shape)),
        )

    def _fit(self, picture: np.ndarray) -> np.ndarray:
        from PIL import Image

        require_picture("encode", picture)
        size, how = self.size[::-1], Image.Resampling.BICUBIC
        return np.asarray(Image.fromarray(picture).resize(size, how))

    def _run(self, picture: np.ndarray) -> np.ndarray:
        if self.grid is None:
            return self._output_of(picture).reshape(-1)
        map_ = self.map_of(picture)
        require_regions(self.name, map_.shape, self.grid)
        return pool(map_, self.grid)

    def map_of(self, picture: np.ndarray) -> np.ndarray:
        """The map (h, w, D) of a picture of the input's size, of a network that makes one."""
        (map_,) = self._output_of(picture)
        return map_ if self.channels_last else map_.transpose(1, 2, 0)

    def _output_of(self, picture: np.ndarray) -> np.ndarray:
        levels = (picture.astype(np.float32) - self.offset) / self.scale
        x = levels if self.channels_last else np.ascontiguousarray(levels.transpose(2, 0, 1))
        out: np.ndarray = self._session.run([self.output], {self._input: x[None]})[0]
        return out


OPTIONS = ("size", "mean", "std", "output", "grid", "sha256")
MOST_BYTES = (1 << 31) - 1  # what ONNX holds in one file
MOST_SIDE = 4096


def onnx_file(name: str) -> OnnxEncoder:
    """The encoder ``onnx:FILE``, with options: ``onnx:model.onnx:size=224:mean=0.5:std=0.25``.

    Options go before the file's own metadata:

    - size : side of the square that pictures are scaled to; needed where the model's input has no
        fixed height and width
    - mean, std : of red, green and blue, as ``0.485,0.456,0.406``, or one number for all, where
        levels are 0 to 1; needed unless the model's metadata has them
    - output : name of the output that is the feature, if not the first
    - grid : K, to average an output that is a map over K x K regions
    - sha256 : the first digits of the file's digest; the encoder's own name has 16

    Raises
    ------
    DataError : ONNX Runtime is missing; the file is none, or has changed; an option is wrong or
        lacks; the model is of another kind.
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
        raise DataError(
            "find_encoder", f"{path}: std", f"is {given['std']}", expected="numbers other than 0"
        )
    grid = grid_of(name, options)
    output = _output(path, session, options.get("output"), grid is not None)
    options["sha256"] = digest
    named = [f"{key}={options[key]}" for key in OPTIONS if key in options]
    whole = ":".join((f"onnx:{path.resolve()}", *named))
    offset, scale = 255 * scaling["mean"], 255 * scaling["std"]
    return OnnxEncoder(
        whole, session, lambda: _read(path), output, size, offset, scale, channels_last, grid
    )


def _read(path: Path) -> bytes:
    try:
        about = path.stat()
        is_file = stat.S_ISREG(about.st_mode)  # opening a pipe would wait for a writer
        if not is_file or about.st_size > MOST_BYTES:
            came = f"has {about.st_size:,} bytes" if is_file else "is a folder, a pipe or a device"
            raise DataError(
                "find_encoder",
                path,
                came,
                expected=f"an ONNX file of at most {MOST_BYTES:,} bytes",
            )
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            "find_encoder",
            path,
            f"cannot be read: {error.strerror}",
            expected="an ONNX file",
            cause="moved, or is the path wrong?",
        ) from error


def _size(path: Path, session: Any, given: str | None) -> tuple[bool, tuple[int, int]]:
    """True if the input has its channels last, else False; and its height and width."""
    if given is not None and not (given.isdecimal() and 0 < int(given) <= MOST_SIDE):
        raise DataError(
            "find_encoder", f"{path}: size", f"is {given!r}", expected=f"pixels, 1 to {MOST_SIDE:,}"
        )
    inputs = session.get_inputs()
    shape = inputs[0].shape if len(inputs) == 1 and inputs[0].type == "tensor(float)" else []
    one_picture = len(shape) == 4 and (shape[0] == 1 or not isinstance(shape[0], int))
    if not one_picture or 3 not in (shape[1], shape[3]):
        came = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)[:300]
        raise DataError(
            "find_encoder",
            path,
            f"takes {came}",
            expected="one float input (N, 3, height, width) or (N, height, width, 3)",
        )
    channels_last = shape[1] != 3
    fixed = shape[1:3] if channels_last else shape[2:]
    height, width = (side if isinstance(side, int) else int(given or 0) for side in fixed)
    if not height or not width:
        raise DataError(
            "find_encoder",
            path,
            "takes pictures of any size",
            expected="one to scale them to",
            cause="add :size=224, or what it was trained with",
        )
    if given is not None and (height, width) != (int(given), int(given)):
        raise DataError(
            "find_encoder",
            path,
            f"takes pictures of {height} x {width}",
            expected=f"the size {given} that was asked for",
        )
    return channels_last, (height, width)


def _numbers(path: Path, key: str, text: str | None) -> np.ndarray:
    if text is None:
        raise DataError(
            "find_encoder",
            path,
            "does not say how its input is scaled",
            expected="`mean` and `std` in its metadata or behind its name",
            cause="most models trained on ImageNet want"
            " :mean=0.485,0.456,0.406:std=0.229,0.224,0.225",
        )
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)):
        raise DataError(
            "find_encoder",
            f"{path}: {key}",
            f"is {text[:60]!r}",
            expected="one number, or three with commas between them",
        )
    return np.array(numbers)


def _output(path: Path, session: Any, wanted: str | None, is_map: bool) -> str:
    outputs = {output.name: output for output in session.get_outputs()}
    if wanted is not None and wanted not in outputs:
        raise unknown("find_encoder", f"{path}: output", wanted, outputs, DataError)
    name = wanted or next(iter(outputs))
    shape = outputs[name].shape
    is_pooled = len(shape) in (2, 4) and list(shape[2:]) == [1] * (len(shape) - 2)
    fits = len(shape) == 4 if is_map else is_pooled
    if outputs[name].type != "tensor(float)" or not fits:
        wanted = "pooled features, float (N, D) or (N, D, 1, 1)"
        if is_map:
            wanted = "a map, float (N, D, height, width)"
        raise DataError(
            "find_encoder",
            path,
            f"gives {name} {outputs[name].type} {shape}",
            expected=wanted,
            cause=f"its outputs are {', '.join(outputs)}: choose one with :output=NAME",
        )
    return name
