"""From a batch as it comes to packed parts on the model's device: the one place where data enters a model."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from xpcap.backend import Array, asarray, is_device_array, to_numpy
from xpcap.memory import Buffer
from xpcap.models.batch import FeatureRows
from xpcap.models.checks import as_array, check_batch, check_finite
from xpcap.models.config import ModelConfig
from xpcap.models.masks import DropoutKey, Masks, masks_of, row_numbers
from xpcap.models.network import Part
from xpcap.models.packing import PackedCaptions, pack, send


def enter(
    where: str, config: ModelConfig, like: Array, null: int, features: Array | FeatureRows, captions: Array, buffers: Sequence[Buffer],
    draw: DropoutKey | None = None, weights: np.ndarray | None = None, mine: np.ndarray | None = None,
) -> list[Part]:  # fmt: skip
    """Check a batch and pack it in parts, on the host; send everything to the device of `like`; draw dropout masks there.

    Parameters
    ----------
    where : begins messages
    like : the model's flat buffer: its library, device and dtype are those of the parts
    null : id of the padding word
    features, captions, weights, mine : as in CaptioningRNN.loss; weights already divided by the batch's total
    buffers : memory for what is sent and for masks, one for each part
    draw : what dropout masks are drawn from; None: no dropout
    """
    captions = to_numpy(as_array(where, "captions", captions))
    features = features if isinstance(features, FeatureRows) else as_array(where, "features", features)
    check_batch(where, features, captions, config.feature_shape, config.vocabulary, weights, mine)
    packed = [pack(captions, null, part, len(buffers), mine) for part in range(len(buffers))]
    numbers, counts = ([()] * len(packed), ()) if draw is None else row_numbers(packed, None if mine is None else [pack(captions, null)])
    if isinstance(features, FeatureRows):
        table, rows = features.checked(where, like), features.rows
        if not is_device_array(table):
            check_finite(where, table[rows])
    else:
        table, rows = to_device(where, features, like, buffers[0]), np.arange(len(features))
    if mine is not None:
        places = np.zeros(len(captions), rows.dtype)
        places[mine] = rows
        rows = places
    sent = [send(p, table, rows[p.order], more, buffer) for p, more, buffer in zip(packed, numbers, buffers, strict=True)]
    masks = [Masks()] * len(packed) if draw is None else masks_of(config, draw, [more for _, more in sent], counts, buffers)
    scales = [None if weights is None else _by_target(weights, p, buffer, like.dtype) for p, buffer in zip(packed, buffers, strict=True)]
    return [Part(table, p, m, scale) for (p, _), m, scale in zip(sent, masks, scales, strict=True)]


def _by_target(weights: np.ndarray, packed: PackedCaptions, buffer: Buffer, dtype: Any) -> Array:
    """Caption weights (N,) for the rows with a target, (L,), where `buffer` lies."""
    by_row = weights[packed.order][packed.rows.sequence]
    return buffer.upload("weights", (by_row if packed.kept is None else by_row[packed.kept]).astype(dtype))


def to_device(where: str, features: Array, like: Array, buffer: Buffer | None = None) -> Array:
    """Features on the device of `like`, in its dtype, those of the host in memory from `buffer`.

    ValueError : features of the host that are not finite in that dtype. Those of a device are not looked at: nothing is read from it.
    """
    if is_device_array(features):
        return asarray(features, dtype=like.dtype, like=like)
    with np.errstate(over="ignore"):
        cast = np.asarray(features, like.dtype)
    check_finite(where, cast, features)
    return asarray(cast, like=like) if buffer is None else buffer.upload("features", cast)
