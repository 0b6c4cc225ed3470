"""From a batch as it comes to packed parts on the model's device: the one place where data enters a model."""

import numpy as np

from xpcap.backend import Array, asarray, to_numpy
from xpcap.models.batch import FeatureRows
from xpcap.models.checks import check_batch
from xpcap.models.config import ModelConfig
from xpcap.models.masks import Masks, draw_masks
from xpcap.models.network import Part
from xpcap.models.packing import PackedCaptions, pack, send


def enter(
    where: str, config: ModelConfig, like: Array, null: int, features: Array | FeatureRows, captions: Array, parts: int,
    rng: np.random.Generator | None, weights: np.ndarray | None,
) -> list[Part]:  # fmt: skip
    """Check a batch, pack it in parts and draw dropout masks, all on the host; then send everything to the device of `like`.

    Parameters
    ----------
    where : begins messages
    like : the model's flat buffer: its library, device and dtype are those of the parts
    null : id of the padding word
    features, captions, weights : as in CaptioningRNN.loss; weights already divided by the batch's total
    rng : draws dropout masks; None: no dropout
    """
    captions = to_numpy(captions)
    check_batch(where, features, captions, config.feature_shape, config.vocabulary, weights)
    packed = [pack(captions, null, part, parts) for part in range(parts)]
    masks = [Masks()] * parts if rng is None else draw_masks(rng, config, packed, like)
    if isinstance(features, FeatureRows):
        table, rows = features.checked(where, like), features.rows
    else:
        table, rows = to_device(where, features, like), np.arange(len(captions))
    return [_send(p, m, table, rows, weights) for p, m in zip(packed, masks, strict=True)]


def _send(packed: PackedCaptions, masks: Masks, table: Array, rows: np.ndarray, weights: np.ndarray | None) -> Part:
    """Send a part to the device of `table`. `rows` are the rows of `table` with the features of the batch's captions."""
    if weights is not None:
        by_row = weights[packed.order][packed.rows.caption]
        weights = asarray(by_row if packed.kept is None else by_row[packed.kept], dtype=table.dtype, like=table)
    return Part(table, send(packed, table, rows[packed.order].astype(np.int32)), masks, weights)


def to_device(where: str, features: Array, like: Array) -> Array:
    """Features on the device of `like`, in its dtype. TypeError : they are not real numbers."""
    kind = getattr(features, "dtype", np.asarray(0.0).dtype).kind
    if kind not in "fiub":
        raise TypeError(f"{where}: features have dtype {features.dtype}, expected real numbers")
    return asarray(features, dtype=like.dtype, like=like)
