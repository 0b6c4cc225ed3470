"""The file of a ranker: the index of photos, and weights."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.data.features import Projection
from xpcap.data.vocabulary import Vocabulary
from xpcap.errors import DataError
from xpcap.metrics.cider import DocumentFrequencies
from xpcap.ranking.index import PhotoIndex
from xpcap.ranking.ranker import FEATURES, Ranker
from xpcap.safetensors_file import read_tensors, write_tensors
from xpcap.spec import spec

LARGEST_WEIGHT, LEAST_BANDWIDTH = 1e6, 1e-3
LIMITS = {"neighbours": (1, 1000), "width": (1, 100), "retrieved": (0, 1000)}
STORED = {"bandwidth": "fall", "retrieved": "borrowed"}  # names of settings in files, if others
FUNCTION = "open_run"
ARRAYS = (
    "mean:D=f4! components:D,d=f4! directions:m,d=f2! images:b=u1 counts:m=u2 lengths:n=u2"
    " words:w={word} ends:e={word} grams:g=u8 times:g=u4 predictor:d+1,V=f2!"
)


def write_ranker(path: Path, ranker: Ranker, meta: Mapping[str, Any]) -> None:
    """Write a ranker, and `meta`, anything in JSON. OSError : it cannot be written."""
    index = ranker.index
    tensors = {
        "mean": index.projection.mean,
        "components": index.projection.components,
        "directions": index.embeddings,
        "images": np.frombuffer(json.dumps(list(index.images)).encode(), np.uint8),
        "counts": index.counts,
        "lengths": index.lengths,
        "words": index.words,
        "ends": index.ends,
        "grams": index.frequencies.grams,
        "times": index.frequencies.times,
        "predictor": index.predictor,
    }
    names = "weights", "bandwidth", "no_stutter", *LIMITS
    settings = {STORED.get(name, name): getattr(ranker, name) for name in names}
    write_tensors(path, tensors, {**meta, **settings, "pictures": index.frequencies.pictures})


def read_ranker(
    path: Path, vocabulary: Vocabulary, D: int, *, first_words: bool = False
) -> tuple[Ranker, dict[str, Any]]:
    """The ranker of a file for features of size D, and the file's `meta`.

    Parameters
    ----------
    first_words : the ranker may know the first words of the vocabulary alone

    Raises
    ------
    DataError : missing, damaged, not ours, of a newer format, or of another run.
    """
    tensors, meta = read_tensors(path, FUNCTION)
    where, V = f"{FUNCTION}: {path}", len(vocabulary)
    settings = _settings(where, meta)
    if first_words and "predictor" in tensors:
        V = min(V, tensors["predictor"].shape[-1])
    _check_shapes(where, tensors, D, V)
    try:
        images = json.loads(tensors["images"].tobytes())
    except (ValueError, RecursionError):
        images = None
    m = len(tensors["directions"])
    if not isinstance(images, list) or len(images) != m or not all(map(_is_text, images)):
        raise _damaged(where, f"images that are no list of {m:,} names")
    if (total := meta.pop("pictures", None)) != m:
        raise _damaged(
            where, f"n-grams of {str(total)[:20]} pictures", f"the {m:,} that are indexed"
        )
    index = PhotoIndex(
        Projection(tensors["mean"], tensors["components"]),
        tensors["directions"],
        images,
        tensors["counts"],
        tensors["lengths"],
        tensors["words"],
        tensors["ends"],
        DocumentFrequencies(tensors["grams"], tensors["times"], m),
        tensors["predictor"],
    )
    return Ranker(index, vocabulary, **settings), meta


def _settings(where: str, meta: dict[str, Any]) -> dict[str, Any]:
    """Weights and whole numbers of a ranker, taken out of `meta`, checked."""
    weights = meta.pop("weights", None)
    if (
        not isinstance(weights, dict)
        or set(weights) != set(FEATURES)
        or not all(
            type(x) in (int, float) and math.isfinite(x) and abs(x) <= LARGEST_WEIGHT
            for x in weights.values()
        )
    ):
        raise _damaged(where, f"weights {str(weights)[:60]}", "one of each feature")
    settings: dict[str, Any] = {"weights": weights}
    for name, (least, most) in LIMITS.items():
        stored = STORED.get(name, name)
        value = meta.pop(stored, None)
        if type(value) is not int or not least <= value <= most:
            raise _damaged(where, f"{stored} {str(value)[:20]}", f"{least} to {most}")
        settings[name] = value
    bandwidth = meta.pop(STORED["bandwidth"], None)
    if type(bandwidth) not in (int, float) or not LEAST_BANDWIDTH <= bandwidth <= 1:
        raise _damaged(where, f"fall {str(bandwidth)[:20]}", f"{LEAST_BANDWIDTH} to 1")
    settings["bandwidth"] = bandwidth
    settings["no_stutter"] = meta.pop("no_stutter", None) is True
    return settings


def _check_shapes(where: str, tensors: Mapping[str, np.ndarray], D: int, V: int) -> None:
    """DataError : arrays that do not fit together, or values out of range."""
    spec(ARRAYS.format(word="u2" if V < 1 << 16 else "u4")).check_file(
        where, tensors, "damaged, or from another run?", {"D": D, "V": V}
    )
    n, w = len(tensors["lengths"]), len(tensors["words"])
    if int(tensors["counts"].sum(dtype=np.int64)) != n or not len(tensors["directions"]):
        raise _damaged(where, f"counts that do not add up to {n:,} captions")
    if int(tensors["lengths"].sum(dtype=np.int64)) != w:
        raise _damaged(where, f"lengths that do not add up to {w:,} words")
    for name in ("words", "ends"):
        if tensors[name].size and (most := int(tensors[name].max())) >= V:
            raise _damaged(where, f"a word {most} in {name}", f"0..{V - 1}")
    if (tensors["grams"][1:] <= tensors["grams"][:-1]).any() or (tensors["times"] < 1).any():
        raise _damaged(where, "n-grams that do not rise, or occur in no picture")


def _is_text(name: object) -> bool:
    return isinstance(name, str)


def _damaged(where: str, what: str, expected: str = "") -> DataError:
    return DataError(where, "", f"has {what}", expected, "damaged, or from another run?")
