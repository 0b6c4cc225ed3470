"""From a batch as it comes to packed parts on the model's device: the one place where data enters a model."""

from collections.abc import Sequence

import numpy as np

from xpcap.backend import Array, asarray, to_numpy
from xpcap.models.batch import FeatureRows
from xpcap.models.checks import check_batch
from xpcap.models.config import ModelConfig
from xpcap.models.masks import Draw, Masks, masks_of, row_numbers
from xpcap.models.network import Part
from xpcap.models.packing import pack, send
from xpcap.ops import gather
from xpcap.workspace import Buffer


def enter(
    where: str, config: ModelConfig, like: Array, null: int, features: Array | FeatureRows, captions: Array, buffers: Sequence[Buffer],
    draw: Draw | None, weights: np.ndarray | None,
) -> list[Part]:  # fmt: skip
    """Check a batch and pack it in parts, on the host; send everything to the device of `like`; draw dropout masks there.

    Parameters
    ----------
    where : begins messages
    like : the model's flat buffer: its library, device and dtype are those of the parts
    null : id of the padding word
    features, captions, weights : as in CaptioningRNN.loss; weights already divided by the batch's total
    buffers : memory for features and masks, one for each part
    draw : what dropout masks are drawn from; None: no dropout
    """
    captions = to_numpy(captions)
    check_batch(where, features, captions, config.feature_shape, config.vocabulary, weights)
    packed = [pack(captions, null, part, len(buffers)) for part in range(len(buffers))]
    numbers, counts = ([()] * len(packed), ()) if draw is None else row_numbers(packed)
    if isinstance(features, FeatureRows):
        table, rows = features.checked(where, like), features.rows
    else:
        table, rows = to_device(where, features, like), np.arange(len(captions))
    sent = [send(p, table, rows[p.order].astype(np.int32), more) for p, more in zip(packed, numbers, strict=True)]
    masks = [Masks()] * len(packed) if draw is None else masks_of(config, draw, [more for _, more in sent], counts, buffers)
    parts = []
    for (p, _), m, order, buffer in zip(sent, masks, (p.order for p in packed), buffers, strict=True):
        x = gather(table, p.order, out=buffer("features", (len(order), table.shape[1])))
        parts.append(Part(x, p, m, None if weights is None else asarray(weights[order], dtype=table.dtype, like=table)))
    return parts


def to_device(where: str, features: Array, like: Array) -> Array:
    """Features on the device of `like`, in its dtype. TypeError : they are not real numbers."""
    kind = getattr(features, "dtype", np.asarray(0.0).dtype).kind
    if kind not in "fiub":
        raise TypeError(f"{where}: features have dtype {features.dtype}, expected real numbers")
    return asarray(features, dtype=like.dtype, like=like)
