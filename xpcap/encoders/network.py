"""A network in ONNX form as an encoder: pictures scaled to its input, and its output as features."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from xpcap.encoders.extras import telemetry_off
from xpcap.encoders.grid import pool, require_regions
from xpcap.encoders.reading import require_picture
from xpcap.errors import DataError


def open_session(where: str, model: bytes) -> Any:
    """An ONNX Runtime session on one thread, since pictures run side by side, each on a core of its own.

    Parameters
    ----------
    where : name of the model in messages

    Raises
    ------
    DataError : it is no model, or has operators that this version does not know.
    """
    with telemetry_off():
        import onnxruntime

    # More than the variable in two cases: it was imported before, or is a version for Windows without it
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # fatal errors; what it logs about others, our error says
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no type in common
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"find_encoder: {where} cannot be opened by ONNX Runtime {onnxruntime.__version__}: {reason}; damaged, or too new?"
        ) from error


class Network:
    """An encoder that runs a network on one picture after the other, so that features do not depend on the batch.

    A picture is scaled to the network's input (bicubic, not cropped); its levels, 0 to 255, become
    ``(level - offset) / scale``.

    Parameters
    ----------
    session : of ONNX Runtime
    output : name of the output that is a feature (1, D), (1, D, 1, 1), or for a grid a map (1, D, h, w), or
        (1, h, w, D) if the input has its channels last
    size : height and width of its input
    channels_last : whether that is (1, height, width, 3), not (1, 3, height, width)
    offset, scale : one number or three
    grid : K, to average a map over K x K regions

    Raises
    ------
    DataError : the map is coarser than the grid.
    """

    def __init__(
        self,
        name: str,
        session: Any,
        output: str,
        size: tuple[int, int],
        offset: np.ndarray,
        scale: np.ndarray,
        channels_last: bool = False,
        grid: int | None = None,
    ) -> None:
        self.name = name
        self._session, self._input, self._output = session, session.get_inputs()[0].name, output
        self._size, self._channels_last = size, channels_last
        self._offset, self._scale = np.asarray(offset, np.float32), np.asarray(scale, np.float32)
        self._grid = grid
        self.shape = self._run(np.zeros((*size, 3), np.uint8)).shape

    def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        """Encode pictures, each (height, width, 3) uint8 of any size, as features (n, *shape), float32.

        Raises
        ------
        ValueError : an array is not such a picture.
        """
        return np.fromiter((self._run(self._fit(picture)) for picture in pictures), np.dtype((np.float32, self.shape)))

    def _fit(self, picture: np.ndarray) -> np.ndarray:
        from PIL import Image

        require_picture("encode", picture)
        return np.asarray(Image.fromarray(picture).resize(self._size[::-1], Image.Resampling.BICUBIC))

    def _run(self, picture: np.ndarray) -> np.ndarray:
        levels = (picture.astype(np.float32) - self._offset) / self._scale
        x = levels[None] if self._channels_last else np.ascontiguousarray(levels.transpose(2, 0, 1))[None]
        (out,) = self._session.run([self._output], {self._input: x})
        if self._grid is None:
            return out.reshape(-1)
        map_ = out[0] if self._channels_last else out[0].transpose(1, 2, 0)  # (h, w, D)
        require_regions(self.name, map_.shape, self._grid)
        return pool(map_, self._grid)
