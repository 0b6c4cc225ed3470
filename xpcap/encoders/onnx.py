"""Encoders that ONNX Runtime runs: sessions, scaling of pictures, and `onnx:FILE`."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.encoders.grid import pool, require_grid
from xpcap.encoders.kinds import EncoderSpec, encoder_name, require_digest, telemetry_off
from xpcap.encoders.pictures import require_picture
from xpcap.errors import DataError, one_of
from xpcap.files.read_write import read_bytes


def open_session(name: str, model: bytes) -> Any:
    """An ONNX Runtime session on one thread, since pictures are encoded in parallel, one per core.

    `name` is the model, for messages. DataError : it is not a model, or has unknown operators.
    """
    with telemetry_off():
        import onnxruntime

    # The variable has no effect if onnxruntime was imported before, or on Windows
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # fatal errors; our error reports others
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no type in common
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"{name} cannot be opened by ONNX Runtime {onnxruntime.__version__}: {reason};"
            " damaged, or newer than this ONNX Runtime?"
        ) from error


@dataclass(eq=False)
class OnnxEncoder:
    """An encoder that runs a network on one picture at a time: features do not depend on the batch.

    A picture is scaled to the network's input (bicubic, not cropped); its levels, 0 to 255, become
    ``(level - offset) / scale``.

    DataError : the map is coarser than the grid.
    """

    name: str
    session: Any  # of ONNX Runtime
    read: Callable[[], bytes]  # the ONNX file that it runs
    # Name of the output, a feature (1, D), (1, D, 1, 1), or for a grid a map (1, D, h, w), or
    # (1, h, w, D) if the input has its channels last
    output: str
    size: tuple[int, int]  # height and width of its input
    offset: np.ndarray  # a number or three, as is `scale`
    scale: np.ndarray
    channels_last: bool = False  # the input is (1, height, width, 3), not (1, 3, height, width)
    grid: int | None = None  # K, to average a map over K x K regions

    def __post_init__(self) -> None:
        self.offset, self.scale = (x.astype(np.float32) for x in (self.offset, self.scale))
        self.shape = self._run(np.zeros((*self.size, 3), np.uint8)).shape

    def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        """Features (n, *shape), float32, of pictures (height, width, 3), uint8, of any sizes."""
        return np.fromiter(
            (self._run(self._fit(picture)) for picture in pictures),
            np.dtype((np.float32, self.shape)),
        )

    def _fit(self, picture: np.ndarray) -> np.ndarray:
        from PIL import Image

        require_picture(picture)
        resampling = Image.Resampling.BICUBIC
        return np.asarray(Image.fromarray(picture).resize(self.size[::-1], resampling))

    def _run(self, picture: np.ndarray) -> np.ndarray:
        if self.grid is None:
            return self._output_of(picture).reshape(-1)
        map_ = self.map_of(picture)
        require_grid(self.name, map_.shape, self.grid)
        return pool(map_, self.grid)

    def map_of(self, picture: np.ndarray) -> np.ndarray:
        """The map (h, w, D) of a picture that has the input's size, if the output is a map."""
        (map_,) = self._output_of(picture)
        return map_ if self.channels_last else map_.transpose(1, 2, 0)

    def _output_of(self, picture: np.ndarray) -> np.ndarray:
        levels = (picture.astype(np.float32) - self.offset) / self.scale
        x = levels if self.channels_last else np.ascontiguousarray(levels.transpose(2, 0, 1))
        (source,) = self.session.get_inputs()
        out: np.ndarray = self.session.run([self.output], {source.name: x[None]})[0]
        return out


MAX_BYTES = (1 << 31) - 1  # limit of a file in ONNX
MAX_SIDE = 4096


def _onnx_file(name: str, *, grid: int | None, **options: str) -> OnnxEncoder:
    """The encoder ``onnx:FILE``, with options: ``onnx:model.onnx:size=224:mean=0.5:std=0.25``.

    Options override the file's metadata:

    - size : side of the square to which pictures are scaled; required if the model's input has no
        fixed height and width
    - mean, std : of red, green and blue, as ``0.485,0.456,0.406``, or one number for all, for levels
        of 0 to 1; required unless the model's metadata has them
    - output : name of the output that is the feature, if not the first
    - grid : K, to average an output that is a map over K x K regions
    - sha256 : at least 4 first digits of the file's digest; the encoder's `name` has 16

    DataError : the file does not exist, or has changed; an option is wrong or missing; or the model
        is not an image encoder.
    """
    path = Path(name.removeprefix("onnx:"))
    model = _read(path)
    wanted = options.pop("sha256", None)
    digest = require_digest(name, hashlib.sha256(model).hexdigest(), wanted)
    session = open_session(str(path), model)
    settings = {**session.get_modelmeta().custom_metadata_map, **options}
    channels_last, size = _size(path, session, settings.get("size"))
    mean, std = (_numbers(path, key, settings.get(key)) for key in ("mean", "std"))
    if not (255 * std).astype(np.float32).all():
        raise DataError(
            f"{path}: std is {settings['std']}, expected numbers other than 0, also in float32"
        )
    return OnnxEncoder(
        encoder_name(f"onnx:{path.resolve()}", **options, grid=grid, sha256=digest),
        session,
        lambda: _read(path),
        _output(path, session, options.get("output"), grid is not None),
        size,
        255 * mean,
        255 * std,
        channels_last,
        grid,
    )


ONNX = EncoderSpec(
    "onnx:FILE",
    _onnx_file,
    licence="not stated; it is a custom file",
    help="a custom network",
    options=("size", "mean", "std", "output", "grid", "sha256"),
    extra="images",
    packages=("onnxruntime",),
)


def _read(path: Path) -> bytes:
    return read_bytes(path, MAX_BYTES, "an ONNX file")


def _size(path: Path, session: Any, text: str | None) -> tuple[bool, tuple[int, int]]:
    """True if channels are the last axis, and the input's height and width; `text` is the option."""
    if text is not None and not (text.isdecimal() and 0 < int(text) <= MAX_SIDE):
        raise DataError(f"{path}: size is {text!r}, expected pixels, 1 to {MAX_SIDE:,}")
    inputs = session.get_inputs()
    shape = inputs[0].shape if len(inputs) == 1 and inputs[0].type == "tensor(float)" else []
    one_picture = len(shape) == 4 and (shape[0] == 1 or not isinstance(shape[0], int))
    if not one_picture or 3 not in (shape[1], shape[3]):
        got = ", ".join(f"{x.name} {x.type} {x.shape}" for x in inputs)[:300]
        raise DataError(
            f"{path} takes {got}, expected one float input (N, 3, height, width) or (N, height,"
            " width, 3)"
        )
    channels_last = shape[1] != 3
    fixed = shape[1:3] if channels_last else shape[2:]
    height, width = (side if isinstance(side, int) else int(text or 0) for side in fixed)
    if not height or not width:
        raise DataError(
            f"{path} takes pictures of any size, expected a size to which to scale them; add"
            " :size=224, or the size of its training"
        )
    if text is not None and (height, width) != (int(text), int(text)):
        raise DataError(
            f"{path} takes pictures of {height} x {width}, expected the size {text} of the option"
        )
    return channels_last, (height, width)


def _numbers(path: Path, key: str, text: str | None) -> np.ndarray:
    if text is None:
        raise DataError(
            f"{path} does not state how to scale its input, expected 'mean' and 'std' in its"
            " metadata or after its name; most models trained on ImageNet need"
            " :mean=0.485,0.456,0.406:std=0.229,0.224,0.225"
        )
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    limit = float(np.finfo(np.float32).max) / 255  # levels are scaled by 255 times a number
    if len(numbers) not in (1, 3) or not all(abs(number) <= limit for number in numbers):
        raise DataError(
            f"{path}: {key} is {text[:60]!r}, expected a number, or three with commas between them"
        )
    return np.array(numbers)


def _output(path: Path, session: Any, wanted: str | None, is_map: bool) -> str:
    outputs = {output.name: output for output in session.get_outputs()}
    if wanted is not None and wanted not in outputs:
        raise DataError(
            f"{path}: output {wanted!r} does not exist, expected {one_of(outputs, wanted)}"
        )
    name = wanted or next(iter(outputs))
    shape = outputs[name].shape
    kind = outputs[name].type
    is_pooled = len(shape) in (2, 4) and list(shape[2:]) == [1] * (len(shape) - 2)
    if kind != "tensor(float)" or not (len(shape) == 4 if is_map else is_pooled):
        got = f"gives {name} {kind} {shape}"
        expected = "pooled features, float (N, D) or (N, D, 1, 1)"
        expected = "a map, float (N, D, height, width)" if is_map else expected
        raise DataError(
            f"{path} {got}, expected {expected}; its outputs are {', '.join(outputs)}: choose one"
            " with :output=NAME"
        )
    return name
