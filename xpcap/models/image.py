"""The image in the model: initial state, term of every step, regions to attend to; gradients."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from xpcap.backend import Array
from xpcap.layers.attention import Attention
from xpcap.memory import Buffer
from xpcap.models.config import ModelConfig
from xpcap.models.parameters import Parameters
from xpcap.ops import Rows, add_product, gather, gather_places, product, sequence_sum


class Image(NamedTuple):
    """Images of N captions, projected, and the cache of that."""

    x: Array  # (N, D) after dropout; of grids (N*P, D), region by region
    h0: Array  # (N, H)
    term: Array | None  # (N, G), added to the pre-activation of every step
    attention: Attention | None

    def start(self, states: int) -> tuple[Array | None, ...]:
        """`states` arrays before the first step: h0, then h0 with attention, else None: zeros."""
        return (self.h0, *[None if self.attention is None else self.h0] * (states - 1))


def image_forward(
    config: ModelConfig,
    params: Parameters,
    table: Array,
    order: Array,
    mask: Array | None,
    buffer: Buffer,
) -> Image:
    """Project the features table[order], with dropout if there is a mask (N, D)."""
    shape, N, keep = config.feature_shape, len(order), 1 - config.dropout
    take = gather_places if config.attends else gather
    return project_image(config, params, take(table, order, buffer("x", (N, *shape)), mask, keep), buffer)


def project_image(config: ModelConfig, params: Parameters, features: Array, buffer: Buffer) -> Image:
    """Project features (N, D), or grids (N, P, D)."""
    N, H, (*regions, D) = len(features), config.hidden, config.feature_shape
    x = features.reshape(math.prod((N, *regions)), D)
    projected = product(x, params["W_proj"], out=buffer("projected image", (len(x), H)))
    projected += params["b_proj"]
    h0, attention, term = projected, None, None
    if config.attends:
        A = projected.reshape(N, *regions, H)
        attention = Attention(A, params["Wattn"], buffer.scope("attention"))
        h0 = attention.start()
    if config.every_step:
        term = product(h0, params["W_image"], out=buffer("image", (N, config.columns)))
    return Image(x, h0, term, attention)


def image_backward(
    config: ModelConfig,
    params: Parameters,
    da: Array,
    dstate0: Sequence[Array],
    rows: Rows,
    image: Image,
    grads: Parameters,
    buffer: Buffer,
) -> None:
    """Write the gradients of W_proj, b_proj, W_image and Wattn to `grads`.

    They come from da (R, G) and dstate0 of a loop over rows; dstate0 is overwritten.
    """
    x, h0, term, attention = image
    dh0, *others = dstate0
    if term is not None:
        dterm = sequence_sum(da, rows, buffer("dimage", term.shape))  # (N, G)
        product(h0.T, dterm, out=grads["W_image"])
        add_product(dterm, params["W_image"].T, dh0, buffer("dh0 of image", dh0.shape))
    if attention is None:
        dprojected = dh0
    else:
        for other in others:  # c0 is h0
            dh0 += other
        dA, _ = attention.gradients(da, dh0, rows, grads["Wattn"])
        dprojected = dA.reshape(len(x), config.hidden)
    product(x.T, dprojected, out=grads["W_proj"])
    dprojected.sum(axis=0, out=grads["b_proj"])
