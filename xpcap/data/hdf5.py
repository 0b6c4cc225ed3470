"""The dataset file: CaptionData in HDF5, checked when it is written and when it is read.

Texts are JSON in arrays of bytes, since HDF5's own texts have no checksum, and a damaged length may
make HDF5 loop forever.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xpcap.data.dataset import (
    HEADER,
    CaptionData,
    Source,
    Split,
    check_data,
    evenly_spaced,
    may_name_a_split,
)
from xpcap.data.features import LazyRows, RowSource, blocks, row_digests
from xpcap.data.vocabulary import TOKENISER, Vocabulary, has_word
from xpcap.errors import DataError
from xpcap.files.json_text import JsonForm, check_json, parse_json
from xpcap.files.read_write import check_format, is_text, new_file, require_new_file, size_of

if TYPE_CHECKING:
    import h5py

# An array may have RATIO times the bytes of its file, plus SPARE; gzip compresses by up to 1,032
RATIO = 1100
SPARE = 2**18
# gzip, since lzf does not always write the same bytes
GZIP: dict[str, Any] = {"compression": "gzip", "compression_opts": 1}


def open_hdf5(path: Path, expected: str) -> "h5py.File":
    """Open an HDF5 file for reading; `expected` says in messages what it should be.

    DataError : it is missing or damaged, refers to other files, or declares impossibly large arrays.
    """
    import h5py

    size = size_of(path, expected)

    def fault(name: str, link: object) -> str | None:
        if not isinstance(link, h5py.HardLink):
            return f"has a link to elsewhere, {name[:60]!r} ({type(link).__name__})"
        data = file[name]
        if isinstance(data, h5py.Dataset) and (data.is_virtual or data.external):
            return f"has a data set {name[:60]!r} that is stored in another file"
        if isinstance(data, h5py.Dataset) and data.nbytes > RATIO * size + SPARE:
            return f"has {size:,} bytes, and a data set {name[:60]!r} of {data.nbytes:,}"
        return None

    try:
        file = h5py.File(path, "r")
        links: list[tuple[str, object]] = []
        file.visititems_links(lambda *link: links.append(link))
        found = next(filter(None, (fault(*link) for link in links)), None)
        if found:
            file.close()
    except Exception as error:  # damaged HDF5 raises errors of many types
        raise DataError(
            f"{path} cannot be opened as HDF5, expected {expected}; cut short, or of another kind?"
            f" ({error})"
        ) from error
    if found:
        raise DataError(f"{path} {found}, expected {expected}")
    return file


FORMAT = 1
IN_MEMORY = 512 * 2**20  # bytes of features of all splits; larger ones are read batch by batch
STAMPED = 64 * 2**20  # bytes of evenly spaced rows that the fingerprint of a large split covers
FIELDS = ("captions", "image_idxs", "features", "images")  # required in a split; text is optional
# The JSON object of the file's header
ABOUT = {"source": {}, "stamp": str, "vocabulary": [str], "views?": {"*": int}}


def write_dataset(path: str | Path, data: CaptionData) -> None:
    """Check a data set, and write it with its fingerprint; after an error there is no file.

    Parameters
    ----------
    path : str or Path
        Dataset file to create.
    data : CaptionData

    Raises
    ------
    DataError
        The data is invalid, `path` exists, or its folder does not.
    OSError
        The file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from xpcap import generate
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "data.h5")
    ...     write_dataset(path, generate(train=4, val=2, progress=False))
    ...     read_dataset(path).split("val")
    Split(10 captions of 2 pictures)
    """
    _check(Path(path), data)
    _write(Path(path), with_fingerprint(data))


def with_fingerprint(data: CaptionData) -> CaptionData:
    """The data with the fingerprint that its file has."""
    return replace(data, fingerprint=fingerprint_of(data))


def write_fingerprinted(path: str | Path, data: CaptionData) -> None:
    """`write_dataset` for the result of `with_fingerprint`, which is not hashed again."""
    _check(Path(path), data)
    _write(Path(path), data)


def _check(path: Path, data: CaptionData) -> None:
    require_new_file(path)
    check_data("the data", data)
    _check_names(data)


def _write(path: Path, data: CaptionData) -> None:
    import h5py

    facts = {
        "format": FORMAT,
        "source": data.source.to_json(),
        "stamp": data.fingerprint,
        "tokeniser": TOKENISER,
        "vocabulary": data.vocabulary.idx_to_word,
        "views": {name: split.views for name, split in data.splits.items() if split.views > 1},
    }
    # h5py gets an open file, since a full disk crashes h5py if it opens the file itself. From version
    # 1.10 on, HDF5 has checksums of everything but the arrays
    with new_file(path) as stream, h5py.File(stream, "w", libver="v110") as file:
        file[HEADER] = _json_bytes(facts)
        for name, split in data.splits.items():
            group = file.create_group(name)
            group["captions"] = split.captions
            group["image_idxs"] = split.image_idxs
            dtype = split.features.dtype
            packing = GZIP if _mostly_zero(split.features) else {}
            features = group.create_dataset("features", split.features.shape, dtype, **packing)
            for where, rows in blocks(split.features):
                features[where] = rows
            group["images"] = _json_bytes(list(split.images))
            if split.text is not None:
                group["text"] = _json_bytes(list(split.text))


def _json_bytes(value: object) -> np.ndarray:
    return np.frombuffer(json.dumps(value, ensure_ascii=False).encode(), np.uint8)


def read_dataset(path: str | Path) -> CaptionData:
    """Open a dataset file and check its contents; features on disk are checked as they are read.

    DataError : it is not HDF5, truncated, another program's, of a newer format, or altered since it
        was written.
    """
    path = Path(path)
    file = open_hdf5(path, "a file from 'prepare'")
    with contextlib.ExitStack() as stack:
        stack.enter_context(file)
        try:
            data = _read(path, file)
            check_data(path, data)
            if data.fingerprint != fingerprint_of(data):
                raise DataError(
                    f"{path} does not match its stamp, a digest of its contents; changed since"
                    " 'prepare' wrote it? Prepare it again"
                )
        except DataError:
            raise
        # Damaged HDF5 raises errors of many types, in h5py and in code that uses its values
        except Exception as error:
            raise DataError(
                f"{path} is not a complete dataset file, expected what 'prepare' writes; damaged?"
                f" ({error!r})"
            ) from error
        if not all(isinstance(split.features, np.ndarray) for split in data.splits.values()):
            stack.pop_all()  # the file stays open, since features are read from it
    return data


def _mostly_zero(features: RowSource) -> bool:
    """True if compression pays: histograms of drawings shrink to a tenth, activations do not."""
    return isinstance(features, np.ndarray) and bool(np.count_nonzero(features) < features.size / 2)


def _check_names(data: CaptionData) -> None:
    """Checks only for writing: distinct names, and a word in every text."""
    for name, split in data.splits.items():
        fault = ""
        if not may_name_a_split(name):
            fault = f"is not a name, expected letters, digits and _, not {HEADER}"
        elif not all(map(is_text, split.images)):
            fault = "has a picture name that is not text, expected names that UTF-8 can hold"
        elif len(set(split.images)) < len(split.images) or "\0" in "".join(split.images):
            fault = "repeats a picture name, or has one with a NUL in it, expected distinct names"
        elif not all(map(has_word, data.texts(name))):
            fault = "has a caption without a word, expected words in each caption"
        if fault:
            raise DataError(f"split {name!r} {fault}")


def _read(path: Path, file: "h5py.File") -> CaptionData:
    if HEADER not in file:
        members = ", ".join(map(repr, file))[:200] or "nothing"
        raise DataError(
            f"{path} is HDF5 without the member {HEADER} (it holds {members}), expected a file from"
            " 'prepare'; another program's?"
        )
    about = _json(path, file[HEADER], {})
    thing = f"{path}: {HEADER}"
    check_format(thing, about.get("format"), FORMAT)
    check_json(thing, about, ABOUT)
    if about.get("tokeniser") != TOKENISER:
        raise DataError(
            f"{path} has words by the tokeniser {about.get('tokeniser')!r:.60}, expected"
            f" {TOKENISER!r}; made by another version of xpcap? Prepare it again"
        )
    views = about.get("views") or {}
    if min(views.values(), default=1) < 1:
        raise DataError(
            f"{path}: views are {str(views)[:60]}, expected at least 1 per split; damaged?"
        )
    groups = {name: file[name] for name in file if name != HEADER}
    in_memory = _fit(group["features"] for group in groups.values() if "features" in group)
    splits = {
        name: _read_split(path, name, group, views.get(name, 1), in_memory)
        for name, group in groups.items()
    }
    source = Source.from_json(path, about["source"])
    vocabulary = Vocabulary(about["vocabulary"])
    return CaptionData(vocabulary, splits, source=source, fingerprint=about["stamp"])


def _read_split(path: Path, name: str, group: "h5py.Group", views: int, in_memory: bool) -> Split:
    if missing := [field for field in FIELDS if field not in group]:
        raise DataError(
            f"{path}, split {name!r} lacks {', '.join(missing)}, expected {', '.join(FIELDS)}"
        )
    return Split(
        captions=group["captions"][()],
        image_idxs=group["image_idxs"][()],
        features=group["features"][()] if in_memory else group["features"],
        images=_json(path, group["images"], [str]),
        text=_json(path, group["text"], [str]) if "text" in group else None,
        views=views,
    )


def _json(path: Path, dataset: "h5py.Dataset", form: JsonForm) -> Any:
    """The value of a member of the file that holds JSON as bytes. DataError : it has another form."""
    thing = f"{path}: {dataset.name.removeprefix('/')}"
    text = dataset[()].view(np.uint8).tobytes().decode()
    value = parse_json(thing, text, "what 'prepare' writes")
    check_json(thing, value, form)
    return value


def _fit(features: Iterable[RowSource]) -> bool:
    """True if features of all splits fit in memory."""
    return sum(math.prod(rows.shape) * rows.dtype.itemsize for rows in features) <= IN_MEMORY


def fingerprint_of(data: CaptionData) -> str:
    """A digest of all that training sees: words, pictures, captions, features and their encoder.

    If features do not fit in memory, it covers evenly spaced rows, since every opening computes it.
    """
    digest = hashlib.sha256(json.dumps([data.vocabulary.idx_to_word, data.source.encoder]).encode())
    is_complete = _fit(split.features for split in data.splits.values())
    for name in sorted(data.splits):
        split = data.splits[name]
        rows = data.splits[name].features
        digest.update(f"{name} {split.views} {rows.shape} {rows.dtype}".encode())
        if not is_complete:
            count = max(1, STAMPED // (math.prod(rows.shape[1:]) * rows.dtype.itemsize))
            rows = LazyRows(rows, evenly_spaced(len(rows), count))
        for piece in (*row_digests(rows), *map(str.encode, (*split.images, *(split.text or ())))):
            digest.update(piece + b"\0")
        for numbers in (split.captions, split.image_idxs):
            digest.update(
                f"{numbers.shape} {numbers.dtype.kind}".encode()
                + np.ascontiguousarray(numbers, "<i8").tobytes()
            )
    return digest.hexdigest()
