"""The dataset file: how CaptionData lies in HDF5, and what is checked before it is believed."""

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from xpcap.data.dataset import CaptionData, Split
from xpcap.data.vocabulary import Vocabulary
from xpcap.errors import DataError
from xpcap.files import atomic

FORMAT = 1
IN_MEMORY = 512 * 2**20  # bytes: features up to this size are held in memory, larger ones are read from disk by the batch
FIELDS = ("captions", "image_idxs", "features", "images", "text", "text_offsets")


def write_dataset(path: Path, data: CaptionData) -> None:
    """Validate `data` and write it to `path` in one piece, stamped.

    Raises
    ------
    DataError : something in it is wrong, or `path` exists. OSError : the place cannot be written to. Nothing is left behind then.
    """
    if path.exists():
        raise DataError(f"write_dataset: {path} exists, and is not overwritten; remove it or choose another name")
    for name, split in data.splits.items():
        check_split(f"split {name!r}", split, data.vocabulary)
        data.features(name, np.arange(len(split.images)))
    with atomic(path) as temporary, h5py.File(temporary, "w") as file:
        file.create_dataset("vocab", data=data.vocabulary.idx_to_word, dtype=h5py.string_dtype())
        for name, split in data.splits.items():
            encoded = [text.encode("utf-8") for text in data.texts(name)]
            group = file.create_group(name)
            group["captions"], group["image_idxs"], group["features"] = split.captions, split.image_idxs, split.features
            group.create_dataset("images", data=list(split.images), dtype=h5py.string_dtype())
            group["text"] = np.frombuffer(b"".join(encoded), np.uint8)
            group["text_offsets"] = np.cumsum([0, *(len(text) for text in encoded)])
        file.attrs["xpcap"] = json.dumps({"format": FORMAT, "source": dict(data.source), "stamp": _stamp(data)}, sort_keys=True)


def read_dataset(path: Path) -> CaptionData:
    """Open a dataset file, checking its stamp and everything but feature values, which are checked as they are handed out.

    Raises
    ------
    DataError : not HDF5, truncated, not ours, of a newer format, or altered since it was stamped.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(
            f"read_dataset: {path} cannot be opened as HDF5, expected a file from 'prepare'; truncated or of another kind? ({error})"
        ) from error
    try:
        about = _about(path, file)
        vocabulary = Vocabulary(_strings(file["vocab"]))
        splits = {name: _read_split(path, name, group) for name, group in file.items() if name != "vocab"}
    except (KeyError, OSError, TypeError, UnicodeDecodeError) as error:
        file.close()
        raise DataError(f"read_dataset: {path} is not a whole dataset file, expected what 'prepare' writes; damaged? ({error})") from error
    except DataError:
        file.close()
        raise
    if all(isinstance(split.features, np.ndarray) for split in splits.values()):
        file.close()  # else it stays open for the features on disk
    data = CaptionData(vocabulary, splits, about["source"])
    for name, split in splits.items():
        check_split(f"{path}, split {name!r}", split, vocabulary)
    if about.get("stamp") != _stamp(data):
        raise DataError(f"read_dataset: {path} does not match its stamp; changed since 'prepare' wrote it? Prepare it again")
    return data


def check_split(where: str, split: Split, vocabulary: Vocabulary) -> None:
    """Check everything about a split that is cheap to check: shapes that agree, indices in range, captions that begin with START.

    Raises
    ------
    DataError : the first thing found wrong.
    """
    n, m = len(split.captions), len(split.images)
    if n == 0 or m == 0:
        raise DataError(f"{where} is empty: {n} captions of {m} pictures, expected at least one of each")
    if split.captions.ndim != 2 or split.captions.shape[1] < 3 or split.captions.dtype.kind not in "iu":
        raise DataError(
            f"{where}: captions have shape {split.captions.shape} and dtype {split.captions.dtype}, expected integers (n, T+1), T+1 at least 3"
        )
    if split.features.ndim != 2 or len(split.features) != m or split.features.dtype.kind != "f":
        raise DataError(
            f"{where}: features have shape {split.features.shape} and dtype {split.features.dtype}, expected floats, one row for each of {m} pictures"
        )
    if split.image_idxs.shape != (n,) or split.image_idxs.min() < 0 or split.image_idxs.max() >= m:
        raise DataError(
            f"{where}: image_idxs have shape {split.image_idxs.shape} and reach {split.image_idxs.max()}, expected {n} numbers in 0..{m - 1}"
        )
    if split.captions.min() < 0 or split.captions.max() >= len(vocabulary):
        raise DataError(
            f"{where}: captions hold ids {split.captions.min()}..{split.captions.max()}, expected 0..{len(vocabulary) - 1}; another vocabulary?"
        )
    if (without := np.flatnonzero(split.captions[:, 0] != vocabulary.start)).size:
        raise DataError(
            f"{where}: {without.size} captions, number {without[0]} among them, do not begin with <START>, expected it in the first column"
        )
    if split.text is not None and len(split.text) != n:
        raise DataError(f"{where}: {len(split.text)} texts for {n} captions, expected one each")


def _about(path: Path, file: h5py.File) -> dict[str, Any]:
    if "xpcap" not in file.attrs:
        raise DataError(
            f"read_dataset: {path} is HDF5 without xpcap's stamp (it holds {', '.join(file) or 'nothing'}), expected a file from 'prepare'"
        )
    about = json.loads(str(file.attrs["xpcap"]))
    if about.get("format") != FORMAT:
        raise DataError(f"read_dataset: {path} has format {about.get('format')}, expected {FORMAT}; made by a newer xpcap?")
    return about


def _read_split(path: Path, name: str, group: Any) -> Split:
    if missing := [field for field in FIELDS if field not in group]:
        raise DataError(f"read_dataset: {path}, split {name!r} lacks {', '.join(missing)}, expected {', '.join(FIELDS)}")
    features = group["features"]
    blob, offsets = group["text"][:].tobytes(), group["text_offsets"][:].tolist()
    return Split(
        captions=group["captions"][:],
        image_idxs=group["image_idxs"][:],
        features=features[:] if features.nbytes <= IN_MEMORY else features,
        images=_strings(group["images"]),
        text=[blob[start:end].decode("utf-8") for start, end in itertools.pairwise(offsets)],
    )


def _strings(dataset: Any) -> list[str]:
    return [str(word) for word in dataset.asstr()[:]]


def _stamp(data: CaptionData) -> str:
    """A digest of everything but feature values: what can be read in full each time a file is opened."""
    digest = hashlib.sha256("\n".join(data.vocabulary.idx_to_word).encode())
    for name in sorted(data.splits):
        split = data.splits[name]
        digest.update(f"{name} {split.features.shape} {split.features.dtype}".encode())
        for text in (*split.images, *data.texts(name)):
            digest.update(text.encode() + b"\0")
        digest.update(np.ascontiguousarray(split.captions, "<i4").tobytes() + np.ascontiguousarray(split.image_idxs, "<i4").tobytes())
    return digest.hexdigest()
