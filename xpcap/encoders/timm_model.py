"""Encoders from timm: any of its models without its last layer, with the preprocessing it was trained with. Weights are fetched by timm."""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from xpcap.encoders.extras import require, require_digest, split_options
from xpcap.encoders.fitting import require_picture
from xpcap.errors import DataError, unknown


class TimmEncoder:
    """What a model of timm gives to its classifier: pooled features, or the last hidden layer where it has some (``timm:vgg16``: the course's fc7).

    Pictures are encoded one after the other, each on one thread, so that features do not depend on which are encoded together.

    Parameters
    ----------
    name : ``timm:MODEL``, or ``timm:MODEL.TAG`` for other weights of it, as ``timm.list_models(pretrained=True)`` lists them; behind it may stand
        ``:sha256=DIGITS``, how the digest of the weights begins, as the encoder's own name has it
    pretrained : False leaves the weights random

    Raises
    ------
    DataError : timm is missing, has no such model, or cannot fetch its weights; or they are not those that the name has the digest of.
    """

    def __init__(self, name: str, pretrained: bool = True) -> None:
        asked, options = split_options(name, ("sha256",))
        require(name, "timm")
        import timm
        import torch

        model_name = asked.removeprefix("timm:")
        if not timm.is_model(model_name):  # nor any place on the network or the disk, which timm also takes for a name
            raise unknown("find_encoder", "model of timm", model_name, timm.list_models(), DataError)
        try:
            self._model = timm.create_model(model_name, pretrained=pretrained, num_classes=0).eval()
        except Exception as error:  # of many types, from timm and from what it downloads with
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"find_encoder: timm cannot make {model_name!r} with its weights: {reason}; is there a network, and such a tag?"
            ) from error
        data = timm.data.resolve_model_data_config(self._model)
        self._transform = timm.data.create_transform(**data, is_training=False)
        digest = require_digest(name, _digest(self._model), options.get("sha256"))
        about = self._model.pretrained_cfg
        tagged = ".".join(part for part in (about.get("architecture") or model_name, about.get("tag")) if part)
        self.name = f"timm:{tagged}:sha256={digest}"
        with torch.inference_mode():
            self.dim = self._model(torch.zeros((1, *data["input_size"]))).numel()

    def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        """Encode pictures, each (height, width, 3) uint8 of any size, as features (n, dim), float32, one after the other.

        Raises
        ------
        ValueError : an array is not such a picture.
        """
        import torch

        torch.set_num_threads(1)
        return np.fromiter((self._encode_one(picture) for picture in pictures), np.dtype((np.float32, self.dim)))

    def _encode_one(self, picture: np.ndarray) -> np.ndarray:
        import torch
        from PIL import Image

        require_picture("encode", picture)
        with torch.inference_mode():
            feature: Any = self._model(self._transform(Image.fromarray(picture))[None])
        return feature.numpy().reshape(-1)


def _digest(model: Any) -> str:
    """SHA-256 of a model's weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()
