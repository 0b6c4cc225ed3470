"""Batches and features on their way into a model: checked, packed, and sent to its device."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

from xpcap.backend import Array, asarray, is_device_array, to_numpy
from xpcap.memory import Buffer
from xpcap.models.batch import FeatureRows
from xpcap.models.checks import as_array, check_batch, check_features, check_finite
from xpcap.models.config import ModelConfig
from xpcap.models.masks import Draw, Masks, masks_of, row_numbers
from xpcap.models.network import Part
from xpcap.models.packing import PackedCaptions, pack, send


def prepare_batch(
    where: str,
    config: ModelConfig,
    like: Array,
    null: int,
    features: Array | FeatureRows,
    captions: Array,
    buffers: Sequence[Buffer],
    *,
    scale: np.ndarray | float = 1.0,
    draw: Draw | None = None,
    shard: np.ndarray | None = None,
) -> list[Part]:
    """Check a batch and pack it in parts; send them to the device; draw dropout masks there.

    Parameters
    ----------
    where : begins messages
    like : the model's flat buffer: its library, device and dtype are those of the parts
    null : id of the padding word
    features, captions, shard : as in CaptioningRNN.loss
    buffers : memory for what is sent and for masks, one for each part
    scale : array (N,), the factor of each caption's loss; or one number for all
    draw : seed and step of the dropout masks; None: no dropout
    """
    captions = to_numpy(as_array(where, "captions", captions))
    if not isinstance(features, FeatureRows):
        features = as_array(where, "features", features)
    weights = None if isinstance(scale, float) else scale
    check_batch(where, features, captions, config.feature_shape, config.vocabulary, weights, shard)

    # On the host: which captions each part has, in which order, and the numbers of its mask rows.
    packed = [pack(captions, null, part, len(buffers), shard) for part in range(len(buffers))]
    numbers: Sequence[Sequence[np.ndarray]] = [()] * len(packed)
    counts: Sequence[int] = ()
    if draw is not None:
        whole = None if shard is None else [pack(captions, null)]
        numbers, counts = row_numbers(packed, whole)

    # Features: a table on the device, and which of its rows each caption has.
    if isinstance(features, FeatureRows):
        table, rows = features.checked(where, like), features.rows
        if not is_device_array(table):
            check_finite(where, table[rows])
    else:
        table, rows = to_device(where, features, like, buffers[0]), np.arange(len(features))
    if shard is not None:  # there are features for its captions alone
        all_rows = np.zeros(len(captions), rows.dtype)
        all_rows[shard] = rows
        rows = all_rows

    # To the device: index arrays, masks, and the factors of the rows with a target.
    sent = [send(p, table, rows[p.order], more, buffer) for p, more, buffer in zip(packed, numbers, buffers, strict=True)]
    masks = [Masks()] * len(packed)
    if draw is not None:
        masks = masks_of(config, draw, [more for _, more in sent], counts, buffers)
    scales: Sequence[Array | float] = [
        scale if isinstance(scale, float) else _by_target(scale, p, buffer, like.dtype) for p, buffer in zip(packed, buffers, strict=True)
    ]
    return [Part(table, p, m, factor) for (p, _), m, factor in zip(sent, masks, scales, strict=True)]


def _by_target(scale: np.ndarray, packed: PackedCaptions, buffer: Buffer, dtype: DTypeLike) -> Array:
    """Factors of captions (N,) for the rows with a target, (L,), where `buffer` lies."""
    by_row = scale[packed.order][packed.rows.caption]
    by_target = by_row if packed.kept is None else by_row[packed.kept]
    return buffer.upload("scale", by_target.astype(dtype))


def prepare_features(where: str, features: Array, shape: tuple[int, ...], like: Array, *, read: bool = True) -> Array:
    """Features (N, *shape), checked, on the device of `like` and in its dtype.

    ValueError : features that are not finite. Without `read` those of a device are not looked at.
    """
    features = as_array(where, "features", features)
    check_features(where, features, shape)
    if read and is_device_array(features):
        check_finite(where, features)
    return to_device(where, features, like)


def to_device(where: str, features: Array, like: Array, buffer: Buffer | None = None) -> Array:
    """Features on the device of `like`, in its dtype; those of the host in memory from `buffer`.

    ValueError : features of the host that are not finite in that dtype. Those of a device are not
    looked at: nothing is read from it.
    """
    if is_device_array(features):
        return asarray(features, dtype=like.dtype, like=like)
    with np.errstate(over="ignore"):
        cast = np.asarray(features, like.dtype)
    check_finite(where, cast, features)
    return asarray(cast, like=like) if buffer is None else buffer.upload("features", cast)
