"""Encoders from timm, which downloads the weights: any model without its last layer."""

import contextlib
import hashlib
import math
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from xpcap.encoders.grid import pool, require_grid
from xpcap.encoders.kinds import EncoderSpec, encoder_name, require_digest, telemetry_off
from xpcap.encoders.pictures import require_picture
from xpcap.errors import DataError, one_of


class TimmEncoder:
    """The input of a timm model's classifier: pooled features, or the last hidden layer.

    ``timm:vgg16`` gives the course's fc7. Pictures are encoded one at a time, on one thread, so that
    features do not depend on the batch.

    name : ``timm:MODEL``, or ``timm:MODEL.TAG`` for other weights, as listed by
        ``timm.list_models(pretrained=True)``
    grid : K, to average the map of its last layers over K x K regions
    sha256 : the first digits of the digest of the weights, as in the encoder's `name`
    pretrained : False leaves the weights random
    DataError : timm has no such model, or cannot download its weights; their digest differs; or the
        model has no map, or one that is coarser than the grid.
    """

    def __init__(
        self,
        name: str,
        *,
        grid: int | None = None,
        sha256: str | None = None,
        pretrained: bool = True,
    ) -> None:
        import torch

        with telemetry_off():
            import timm

        self._grid = grid
        model_name = name.removeprefix("timm:")
        # timm also accepts addresses and paths as names
        if not timm.is_model(model_name):
            known = timm.list_models()
            raise DataError(
                f"model of timm {model_name!r} does not exist, expected {one_of(known, model_name)}"
            )
        try:
            self._model = timm.create_model(model_name, pretrained=pretrained, num_classes=0).eval()
        except Exception as error:  # timm and its downloads raise errors of many types
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"timm cannot make {model_name!r} with its weights: {reason}; is there a network"
                " connection, and does the tag exist?"
            ) from error
        data = timm.data.resolve_model_data_config(self._model)
        self._transform = timm.data.create_transform(**data, is_training=False)
        digest = require_digest(name, _digest(self._model), sha256)
        weights = self._model.pretrained_cfg
        labels = weights.get("architecture") or model_name, weights.get("tag")
        tagged = ".".join(label for label in labels if label)
        self.name = encoder_name(f"timm:{tagged}", grid=grid, sha256=digest)
        with torch.inference_mode():
            self.shape = self._feature(torch.zeros((1, *data["input_size"]))).shape

    def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        """Features (n, *shape), float32, of pictures (height, width, 3), uint8, of any sizes."""
        return np.fromiter(
            (self._encode_one(picture) for picture in pictures), np.dtype((np.float32, self.shape))
        )

    def _encode_one(self, picture: np.ndarray) -> np.ndarray:
        import torch
        from PIL import Image

        require_picture(picture)
        with one_thread(torch), torch.inference_mode():
            return self._feature(self._transform(Image.fromarray(picture))[None])

    def _feature(self, x: Any) -> np.ndarray:
        if self._grid is None:
            return np.asarray(self._model(x).numpy().reshape(-1))
        map_ = _map(self.name, self._model.forward_features(x)[0].numpy(), self._model)
        require_grid(self.name, map_.shape, self._grid)
        return pool(map_, self._grid)


_numbers: list[int] = []  # PyTorch's former number of threads, for each thread in `one_thread`
_numbers_lock = threading.Lock()


@contextlib.contextmanager
def one_thread(torch: Any) -> Iterator[None]:
    """Run PyTorch on one thread; afterwards on as many as before.

    Each thread of the program has its own number, and a new one starts with the number that any
    thread set last, which may be the 1 of this function.
    """
    with _numbers_lock:
        number = torch.get_num_threads()
        number = _numbers[0] if number == 1 and _numbers else number
        _numbers.append(number)
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _numbers_lock:
            _numbers.remove(number)
            torch.set_num_threads(number)


TIMM = EncoderSpec(
    "timm:MODEL",
    TimmEncoder,
    licence="not stated here; timm's page of the model has it",
    help="a model of timm, which downloads its weights",
    options=("grid", "sha256"),
    extra="timm",
    packages=("timm",),
    area=lambda name, picture: None,  # usually a crop that depends on the model
)


def _map(name: str, out: np.ndarray, model: Any) -> np.ndarray:
    """The output of the last layers as a map (h, w, D), from channels first or last, or tokens."""
    channels = model.num_features
    if out.ndim == 3:
        return out if out.shape[2] == channels != out.shape[0] else out.transpose(1, 2, 0)
    tokens = out[getattr(model, "num_prefix_tokens", 0) :] if out.ndim == 2 else out
    side = math.isqrt(len(tokens))
    if tokens.ndim != 2 or side * side != len(tokens):
        raise DataError(
            f"encoder {name!r} gives {out.shape}, expected a map or a square of patches; use it"
            " without a grid"
        )
    return tokens.reshape(side, side, -1)


def _digest(model: Any) -> str:
    """SHA-256 of a model's weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()
