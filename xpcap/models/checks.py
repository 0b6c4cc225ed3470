"""Checks of a vocabulary, of features and of a batch, before a captioner computes anything."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from xpcap.backend import Array, get_array_module, is_device_array, to_numpy
from xpcap.errors import check_number
from xpcap.layers.checks import all_below
from xpcap.memory import Workspace
from xpcap.models.batch import FeatureRows


def check_batch(
    where: str,
    features: Array | FeatureRows,
    captions: np.ndarray,
    shape: tuple[int, ...],
    V: int,
    weights: np.ndarray | None,
    shard: np.ndarray | None = None,
) -> None:
    """TypeError, ValueError : a batch is not what CaptioningRNN.loss takes."""
    n = len(np.atleast_1d(captions) if shard is None else shard)
    if captions.dtype.kind not in "iu":
        raise TypeError(f"{where}: captions have dtype {captions.dtype}, expected integer word ids")
    if not isinstance(features, FeatureRows) and features.dtype.kind not in "fiub":
        raise TypeError(f"{where}: features have dtype {features.dtype}, expected real numbers")
    if captions.ndim != 2 or captions.shape[0] < 1 or captions.shape[1] < 2 or np.shape(features) != (n, *shape):
        raise ValueError(
            f"{where}: features have shape {np.shape(features)} and captions {captions.shape}, "
            f"expected ({', '.join(map(str, ('N' if shard is None else n, *shape)))}) and (N, T+1), at least one caption of one step"
        )
    if shard is not None and (not all_below(shard, len(captions)) or len(np.unique(shard)) < n):
        raise ValueError(f"{where}: shard holds {np.min(shard)}..{np.max(shard)}, expected distinct numbers of {len(captions)} captions")
    if not all_below(captions, V):
        raise ValueError(f"{where}: captions hold ids {captions.min()}..{captions.max()}, expected 0..{V - 1}; are they from another vocabulary?")
    if weights is not None and (weights.shape != (len(captions),) or weights.dtype.kind != "f"):
        raise ValueError(f"{where}: weights have shape {weights.shape}, expected one real number for each of {len(captions)} captions")


def as_array(where: str, thing: str, x: Any) -> Array:
    """`x` as an array: those of a device stay there, everything else becomes a host array.

    Raises
    ------
    ValueError : nested lists of unequal lengths, or an array with masked numbers. TypeError : an
        object that NumPy cannot read, such as a tensor on a device or with a gradient.
    """
    if isinstance(x, np.ndarray) or is_device_array(x):
        if (mask := getattr(x, "mask", None)) is not None and np.any(mask):
            raise ValueError(f"{where}: {thing} are a masked array with {np.count_nonzero(mask)} masked numbers, expected none; fill them first")
        return x
    try:
        return np.asarray(x)
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(x, list | tuple):
            padded = "; pad short ones with the id of <NULL>" if thing == "captions" else ""
            raise ValueError(f"{where}: {thing} are {len(x)} rows of unequal lengths, expected an array{padded}") from error
        raise TypeError(
            f"{where}: {thing} are a {type(x).__module__}.{type(x).__name__} that NumPy cannot read, expected a NumPy or CuPy array; "
            f"of a PyTorch tensor give {thing}.detach().cpu().numpy(), with .float() before .numpy() if it is bfloat16 ({error})"
        ) from error


def check_features(where: str, features: Array, shape: tuple[int, ...]) -> None:
    """TypeError : features are not real numbers. ValueError : their shape is not (N, *shape)."""
    if features.dtype.kind not in "fiub":
        raise TypeError(f"{where}: features have dtype {features.dtype}, expected real numbers")
    if features.ndim != 1 + len(shape) or features.shape[1:] != shape:
        raise ValueError(f"{where}: features have shape {features.shape}, expected ({', '.join(map(str, ('N', *shape)))})")


def check_finite(where: str, features: Array, given: Array | None = None) -> None:
    """ValueError : features (N, D) or (N, P, D) are not finite. Of a device it reads one flag.

    Parameters
    ----------
    given : the same features before they were cast, for the message, which names the first such row
    """
    if get_array_module(features).isfinite(features).all():
        return
    values = to_numpy(features)
    row, *at = np.argwhere(~np.isfinite(values))[0].tolist()
    value = values[(row, *at)] if given is None else given[(row, *at)]
    axes = zip(("region", "column")[-len(at) :], at, strict=False)
    position = ", ".join(f"{name} {number}" for name, number in axes)
    raise ValueError(
        f"{where}: features of row {row} (of {len(values)}) hold {value} at {position}, expected finite {values.dtype} numbers; extract them again"
    )


def check_terms(where: str, workspace: Any, weights: Any, total: float | None, smoothing: float) -> None:
    """TypeError, ValueError : an option of CaptioningRNN.loss is out of range."""
    if not isinstance(workspace, Workspace | None):
        raise TypeError(f"{where}: workspace is a {type(workspace).__name__}, expected an xpcap.memory.Workspace, or None")
    if weights is not None and not np.isfinite(np.asarray(weights, np.float64)).all():
        raise ValueError(f"{where}: weights hold a number that is not finite, expected finite ones")
    if total is not None:
        check_number(where, "total", total, above=0, error=ValueError)
    share = "; it is a share of probability"
    check_number(where, "smoothing", smoothing, 0, below=1, hint=share, error=ValueError)


def check_words(word_to_idx: Mapping[str, int]) -> None:
    """TypeError, ValueError : not a mapping of words to distinct whole numbers.

    Ids from V on are allowed, as the course's fixture has one, but not for <NULL>.
    """
    if not isinstance(word_to_idx, Mapping):
        raise TypeError(
            f"CaptioningRNN: word_to_idx is a {type(word_to_idx).__name__}, expected a mapping of word to id; "
            "of a list of words in the order of their ids give {word: i for i, word in enumerate(words)}"
        )
    ids = list(word_to_idx.values())
    if odd := [(word, i) for word, i in word_to_idx.items() if not isinstance(i, int | np.integer) or i < 0]:
        raise ValueError(f"CaptioningRNN: word_to_idx gives {odd[0][0]!r} the id {odd[0][1]!r}, expected a whole number of at least 0")
    if len(set(ids)) < len(ids):
        raise ValueError(f"CaptioningRNN: word_to_idx gives {len(ids)} words only {len(set(ids))} ids, expected one each")
    if word_to_idx.get("<NULL>", len(ids)) >= len(ids):
        raise ValueError(f"CaptioningRNN: word_to_idx has {len(ids)} words but no <NULL> with an id below that, expected one: it marks padding")
