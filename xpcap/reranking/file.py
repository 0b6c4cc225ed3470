"""The file of a reranker, with its index of photos and its weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.backend.shape_specs import check_range, spec
from xpcap.data.dataset import Split
from xpcap.data.features import Projection
from xpcap.data.vocabulary import Vocabulary
from xpcap.errors import DataError, OptionError
from xpcap.files.safetensors_file import read_tensors, write_tensors
from xpcap.metrics.cider import DocumentFrequencies
from xpcap.reranking.index import PhotoIndex
from xpcap.reranking.reranker import FEATURES, SETTINGS, WEIGHT, Reranker

STORED = {"bandwidth": "fall", "retrieved": "borrowed"}  # settings with another name in the file
CAUSE = "damaged, or from another run?"
MAX_IDS = 1 << 28  # ids of all captions, padded to the longest: 1 GiB
ARRAYS = spec(
    "mean:D=f4! components:D,d=f4! directions:m,d=f2! images:b=u1 counts:m=u lengths:n=u"
    " words:w=u ends:e=u grams:g=u8 times:g=u4 predictor:d+1,V=f2!"
)


def arrays_of(index: PhotoIndex) -> dict[str, np.ndarray]:
    """The arrays of an index in its file.

    ``counts`` (m,) are the numbers of captions of the photos, ``lengths`` (n,) the numbers of words
    of the captions, photo by photo, ``words`` the ids of all words, and ``ends`` the sorted ids of
    words that end a caption which was not cut.
    """
    photos = index.photos
    is_word = index.vocabulary.is_word(index.photos.captions)
    lengths = is_word.sum(axis=1)
    words = photos.captions[is_word]
    is_whole = (photos.captions == index.vocabulary.end).any(axis=1) & (lengths > 0)
    ids = np.uint16 if index.predictor.shape[1] < 1 << 16 else np.uint32
    return {
        "mean": index.projection.mean,
        "components": index.projection.components,
        "directions": index.embeddings,
        "images": np.frombuffer(json.dumps(list(photos.images)).encode(), np.uint8),
        "counts": _small(np.bincount(photos.image_idxs)),
        "lengths": _small(lengths),
        "words": words.astype(ids),
        "ends": np.unique(words[np.cumsum(lengths)[is_whole] - 1]).astype(ids),
        "grams": index.frequencies.grams,
        "times": index.frequencies.times,
        "predictor": index.predictor,
    }


def write_reranker(path: Path, reranker: Reranker, meta: Mapping[str, Any]) -> None:
    """Write a reranker, and `meta`, a JSON object. OSError : the file cannot be written."""
    settings = {STORED.get(name, name): getattr(reranker, name) for name in ("weights", *SETTINGS)}
    meta = {**meta, **settings, "pictures": reranker.index.frequencies.pictures}
    write_tensors(path, arrays_of(reranker.index), meta)


def read_reranker(
    path: Path, vocabulary: Vocabulary, D: int, *, first_words: bool = False
) -> tuple[Reranker, dict[str, Any]]:
    """Read a reranker for features of size D, and the file's `meta`.

    first_words : accept a reranker that knows only the first words of the vocabulary
    DataError : the file is missing, damaged, of a newer format, or from another run.
    """
    tensors, meta = read_tensors(path)
    V = len(vocabulary)
    settings = _settings(path, meta)
    if first_words and "predictor" in tensors:
        V = min([V, *tensors["predictor"].shape[-1:]])
    m = ARRAYS.check_file(path, tensors, CAUSE, {"D": D, "V": V})["m"]
    if (total := meta.pop("pictures", None)) != m:
        raise _damaged(
            path, f"n-grams of {str(total)[:20]} pictures", f"the {m:,} that are indexed"
        )
    index = PhotoIndex(
        vocabulary,
        Projection(tensors["mean"], tensors["components"]),
        _photos(path, tensors, vocabulary, V),
        DocumentFrequencies(tensors["grams"], tensors["times"], m),
        tensors["predictor"],
    )
    return Reranker(index, **settings), meta


def _settings(path: Path, meta: dict[str, Any]) -> dict[str, Any]:
    """Checked weights and settings of a reranker, which are removed from `meta`."""
    weights = meta.pop("weights", None)
    if not isinstance(weights, dict) or set(weights) != set(FEATURES):
        raise _damaged(path, f"weights {str(weights)[:60]}", "one for each feature")
    try:
        settings: dict[str, Any] = {
            name: kind.check(stored := STORED.get(name, name), meta.pop(stored, None))
            for name, kind in SETTINGS.items()
        }
        settings["weights"] = {
            name: WEIGHT.check(f"the weight of {name}", weight) for name, weight in weights.items()
        }
    except OptionError as error:
        raise DataError(f"{path}: {error}; {CAUSE}") from error
    return settings


def _photos(path: Path, tensors: Mapping[str, np.ndarray], vocabulary: Vocabulary, V: int) -> Split:
    """The photos of a file. DataError : values are out of range, or contradict each other."""
    counts, lengths = (tensors[name].astype(np.int64) for name in ("counts", "lengths"))
    words, ends, grams = (tensors[name] for name in ("words", "ends", "grams"))
    m = len(counts)
    n = len(lengths)
    longest = int(lengths.max(initial=0))
    try:
        images = json.loads(tensors["images"].tobytes())
    except (ValueError, RecursionError):
        images = None
    if not isinstance(images, list) or {str, *map(type, images)} != {str} or len(images) != m:
        raise _damaged(path, f"images that are not a list of {m:,} names")
    for name, total, things in (("counts", n, "captions"), ("lengths", len(words), "words")):
        numbers = tensors[name].astype(np.float64)  # a sum of floats does not wrap
        if numbers.sum() != total:
            raise _damaged(path, f"{name} that do not add up to {total:,} {things}")
    if not (m and counts.all()):
        raise _damaged(path, "photos without captions", "at least one for each")
    if n * (longest + 2) > MAX_IDS:
        raise _damaged(path, f"{n:,} captions of up to {longest:,} words", "shorter ones")
    for name, ids in (("words", words), ("ends", ends)):
        check_range(f"{path}: {name}", ids, V, CAUSE, DataError)
    if (grams[1:] <= grams[:-1]).any() or (tensors["times"] < 1).any():
        raise _damaged(path, "n-grams that are not sorted, or occur in no picture")
    captions = np.full((n, longest + 2), vocabulary.null, np.int32)
    captions[:, 0] = vocabulary.start
    columns = np.arange(longest + 2)
    captions[(columns > 0) & (columns <= lengths[:, None])] = words
    last = captions[np.arange(n), lengths]
    (whole_captions,) = np.nonzero((lengths > 0) & np.isin(last, ends))
    captions[whole_captions, lengths[whole_captions] + 1] = vocabulary.end
    return Split(captions, np.repeat(np.arange(m), counts), tensors["directions"], images)


def _small(numbers: np.ndarray) -> np.ndarray:
    """Whole numbers in 16 bits, or in 32 bits if need be."""
    return numbers.astype(np.uint16 if numbers.max(initial=0) < 1 << 16 else np.uint32)


def _damaged(path: Path, content: str, expected: str = "others") -> DataError:
    return DataError(f"{path} has {content}, expected {expected}; {CAUSE}")
