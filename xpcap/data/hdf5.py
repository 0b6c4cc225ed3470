"""The dataset file: CaptionData in HDF5, checked when it is written and when it is read.

HDF5 files from strangers are validated in a separate process with limits before they are opened
here: a call into HDF5 cannot be interrupted.
"""

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np

from xpcap.data.dataset import RESERVED, CaptionData, Source, Split, check_data, may_name_a_split
from xpcap.data.features import Projection, RowSource, blocks
from xpcap.data.vocabulary import TOKENISER, Vocabulary, has_word
from xpcap.errors import DataError
from xpcap.files import atomic, new_path, require_new_file

SCRIPT = Path(__file__).with_name("hdf5_check.py")
# the child needs no more threads
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
WALL_SECONDS, BYTES_A_SECOND = 30.0, 5e6  # last resort, if the limit on CPU time fails
OUT_OF_TIME = -getattr(signal, "SIGPROF", 0)  # exit status of a child that has used up its CPU time
TOO_LONG = "takes far longer to go through than a file of its size should"

# files that this process wrote or has validated, by path, inode, size and times
_known: set[tuple[str | int | None, ...]] = set()


def validate_hdf5(function: str, path: Path, most: int | None, expected: str) -> None:
    """Screen an HDF5 file: it must be plain, and HDF5 must read it to its end.

    Features of more than `most` bytes are not read. `function` and `expected` are for messages.
    DataError : it links to another file, claims more than it stores, takes too long, or makes HDF5
    fail.
    """
    try:
        now = (*_state_of(path), most)
    except OSError as error:
        raise DataError(
            function,
            path,
            "cannot be opened",
            expected=expected,
            cause=f"is the path right? ({error})",
        ) from error
    if now in _known:
        return
    if wrong := _validate(path.resolve(), most):
        raise DataError(
            function,
            path,
            wrong,
            expected=expected,
            cause="truncated, damaged or of another kind?",
        )
    _known.add(now)


def mark_validated(path: Path, most: int | None) -> None:
    """Let `validate_hdf5` accept a file that this process wrote, as long as it is unchanged."""
    _known.add((*_state_of(path), most))


def _state_of(path: Path) -> tuple[str | int, ...]:
    about = path.stat()
    times = about.st_mtime_ns, about.st_ctime_ns
    return (str(path.resolve()), about.st_dev, about.st_ino, about.st_size, *times)


def _validate(path: Path, most: int | None) -> str:
    """The fault that a child process with limits finds in a file; empty if there is none."""
    command = [sys.executable, "-P", str(SCRIPT), json.dumps({"path": str(path), "most": most})]
    try:
        child = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            env={**os.environ, **ONE_THREAD},
            start_new_session=True,  # Ctrl-C is for this process alone, which ends the other
            timeout=WALL_SECONDS + path.stat().st_size / BYTES_A_SECOND,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return TOO_LONG
    started, _, answer = child.stdout.partition("\n")
    if started != "ready":
        raise OSError(
            f"validate_hdf5: {sys.executable} does not run {SCRIPT}, expected it to with h5py; is"
            " the installation whole?"
        )
    if answer:
        return str(json.loads(answer))
    return TOO_LONG if child.returncode == OUT_OF_TIME else "makes the HDF5 library fail"


FORMAT = 1
IN_MEMORY = 512 * 2**20  # bytes of features of all splits; larger ones are read by the batch
FIELDS = ("captions", "image_idxs", "features", "images", "text", "text_offsets")


def write_dataset(path: str | Path, data: CaptionData) -> None:
    """Check a data set, and write it with its fingerprint, whole or not at all.

    Parameters
    ----------
    path : str or Path
        Dataset file to create.
    data : CaptionData

    Raises
    ------
    DataError
        The data are at fault, `path` exists, or its folder does not.
    OSError
        The file cannot be written.
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
    require_new_file("write_dataset", path)
    check_data("write_dataset", data)
    _check_names(data)


def _write(path: Path, data: CaptionData) -> None:
    views = {name: split.views for name, split in data.splits.items() if split.views > 1}
    facts = {
        "format": FORMAT,
        "source": data.source.to_json(),
        "stamp": data.fingerprint,
        "tokeniser": TOKENISER,
    }
    about = json.dumps({**facts, **({"views": views} if views else {})}, sort_keys=True)
    # h5py gets an open file, not a name: a full disk is then an OSError; with files that h5py opens
    # itself it is a crash
    with (
        new_path("write_dataset", path) as part,
        atomic(part) as stream,
        h5py.File(stream, "w") as file,
    ):
        file.attrs["xpcap"] = about
        file.create_dataset("vocab", data=data.vocabulary.idx_to_word, dtype=h5py.string_dtype())
        if data.projection is not None:
            file["pca_mean"], file["pca_components"] = data.projection
        for name, split in data.splits.items():
            encoded = [text.encode("utf-8") for text in data.texts(name)]
            group = file.create_group(name)
            group["captions"], group["image_idxs"] = split.captions, split.image_idxs
            shape, dtype = split.features.shape, split.features.dtype
            compression = "lzf" if _mostly_zero(split.features) else None
            features = group.create_dataset("features", shape, dtype, compression=compression)
            for where, rows in blocks(split.features):
                features[where] = rows
            group.create_dataset("images", data=list(split.images), dtype=h5py.string_dtype())
            group["text"] = np.frombuffer(b"".join(encoded), np.uint8)
            group["text_offsets"] = np.cumsum([0, *(len(text) for text in encoded)])
    mark_validated(path, IN_MEMORY)


def read_dataset(path: str | Path) -> CaptionData:
    """Open a dataset file and check its fingerprint and contents; features on disk when they are read.

    Files that this process did not write are validated first, by `validate_hdf5`.

    Raises
    ------
    DataError : not HDF5, truncated, not ours, of a newer format, altered since it was written, or
        malicious.
    """
    path = Path(path)
    validate_hdf5("read_dataset", path, IN_MEMORY, "a file from 'prepare'")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(
            "read_dataset",
            path,
            "cannot be opened as HDF5",
            expected="a file from 'prepare'",
            cause=f"truncated or of another kind? ({error})",
        ) from error
    keep_open = False
    try:
        data = _read(path, file)
        check_data(f"read_dataset: {path}", data)
        if data.fingerprint != fingerprint_of(data):
            raise DataError(
                "read_dataset",
                path,
                "does not match its stamp",
                cause="changed since 'prepare' wrote it? Prepare it again",
            )
        keep_open = any(
            not isinstance(split.features, np.ndarray) for split in data.splits.values()
        )
    except DataError:
        raise
    # damaged HDF5 raises errors of many types, from h5py and from whatever uses its values
    except Exception as error:
        raise DataError(
            "read_dataset",
            path,
            "is not a whole dataset file",
            expected="what 'prepare' writes",
            cause=f"damaged? ({error!r})",
        ) from error
    finally:
        if not keep_open:
            file.close()
    return data


def _mostly_zero(features: RowSource) -> bool:
    """True if compression pays: histograms of drawings shrink to a tenth, activations do not."""
    return isinstance(features, np.ndarray) and bool(np.count_nonzero(features) < features.size / 2)


def _check_names(data: CaptionData) -> None:
    """Checks for writing alone: distinct names, and a word in every text."""
    for name, split in data.splits.items():
        if not may_name_a_split(name):
            raise DataError(
                "write_dataset",
                "a split",
                f"is called {name!r}",
                expected=f"letters, digits and _, and none of {', '.join(RESERVED)}",
            )
        if len(set(split.images)) < len(split.images) or any(
            "\0" in image for image in split.images
        ):
            raise DataError(
                "write_dataset",
                f"split {name!r}",
                "has a picture name twice, or one with a NUL in it",
                expected="distinct names",
            )
        if not all(has_word(text) for text in data.texts(name)):
            raise DataError(
                "write_dataset",
                f"split {name!r}",
                "has a caption without a word",
                expected="words in each",
            )


def _read(path: Path, file: h5py.File) -> CaptionData:
    if "xpcap" not in file.attrs:
        raise DataError(
            "read_dataset",
            path,
            f"is HDF5 without xpcap's stamp (it holds {', '.join(map(repr, file)) or 'nothing'})",
            expected="a file from 'prepare'",
            cause="another program's?",
        )
    about = _about(path, str(file.attrs["xpcap"]))
    groups = {name: file[name] for name in file if name not in RESERVED}
    in_memory = (
        sum(group["features"].nbytes for group in groups.values() if "features" in group)
        <= IN_MEMORY
    )
    splits = {
        name: _read_split(path, name, group, about["views"].get(name, 1), in_memory)
        for name, group in groups.items()
    }
    projection = (
        Projection(file["pca_mean"][:], file["pca_components"][:]) if "pca_mean" in file else None
    )
    source = Source.from_json(f"read_dataset: {path}", about["source"])
    vocabulary = Vocabulary(_strings(file["vocab"]))
    return CaptionData(
        vocabulary, splits, source=source, fingerprint=about["stamp"], projection=projection
    )


def _about(path: Path, text: str) -> dict[str, Any]:
    """The object in a dataset file's attribute; its format is checked before all else."""
    try:
        about = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            "read_dataset",
            path,
            "is not a whole dataset file, its attribute 'xpcap' is no JSON",
            expected="it",
            cause=f"damaged? ({error})",
        ) from error
    if not isinstance(about, dict):
        raise DataError(
            "read_dataset",
            path,
            f"is not a whole dataset file, its attribute 'xpcap' is a {type(about).__name__}",
            expected="an object",
            cause="damaged?",
        )
    if about.get("format") != FORMAT:
        raise DataError(
            "read_dataset",
            path,
            f"has format {about.get('format')!r:.60}",
            expected=FORMAT,
            cause="made by a newer xpcap?",
        )
    if not isinstance(about.get("source"), dict) or not isinstance(about.get("stamp"), str):
        raise DataError(
            "read_dataset",
            path,
            "is not a whole dataset file, its attribute 'xpcap' lacks source or stamp",
            expected="both",
            cause="damaged?",
        )
    views = about.setdefault("views", {})
    if not isinstance(views, dict) or not all(
        type(count) is int and count >= 1 for count in views.values()
    ):
        raise DataError(
            "read_dataset",
            path,
            f"has views {str(views)[:60]}",
            expected="a count by split",
            cause="damaged?",
        )
    if about.get("tokeniser") != TOKENISER:
        raise DataError(
            "read_dataset",
            path,
            f"has words by the tokeniser {about.get('tokeniser')!r:.60}",
            expected=repr(TOKENISER),
            cause="made by another version of xpcap? Prepare it again",
        )
    return cast("dict[str, Any]", about)


def _read_split(path: Path, name: str, group: h5py.Group, views: int, in_memory: bool) -> Split:
    if missing := [field for field in FIELDS if field not in group]:
        raise DataError(
            "read_dataset",
            f"{path}, split {name!r}",
            f"lacks {', '.join(missing)}",
            expected=", ".join(FIELDS),
        )
    features = group["features"]
    captions = group["captions"][:]
    return Split(
        captions=captions,
        image_idxs=group["image_idxs"][:],
        features=features[:] if in_memory else features,
        images=_strings(group["images"]),
        text=_texts(
            f"read_dataset: {path}, split {name!r}",
            group["text"][:],
            group["text_offsets"][:],
            len(captions),
        ),
        views=views,
    )


def _texts(where: str, blob: np.ndarray, offsets: np.ndarray, n: int) -> list[str]:
    """The texts of `n` captions, cut out of the blob that holds them all."""
    if n == 0:
        return []
    if (
        offsets.shape != (n + 1,)
        or offsets.dtype.kind not in "iu"
        or blob.ndim != 1
        or blob.dtype != np.uint8
    ):
        raise DataError(
            where,
            "text",
            f"has shape {blob.shape} and dtype {blob.dtype}, text_offsets {offsets.shape}"
            f" and {offsets.dtype}",
            expected=f"bytes, and {n + 1} integers for {n} captions",
            cause="damaged?",
        )
    if offsets[0] != 0 or offsets[-1] != len(blob) or (offsets[1:] < offsets[:-1]).any():
        raise DataError(
            where,
            "text_offsets",
            f"run from {offsets[0]} to {offsets[-1]}",
            expected=f"a rise from 0 to {len(blob)}, where text ends",
            cause="damaged?",
        )
    return [
        bytes(blob[start:end]).decode("utf-8")
        for start, end in itertools.pairwise(offsets.tolist())
    ]


def _strings(dataset: h5py.Dataset) -> list[str]:
    return [str(word) for word in dataset.asstr()[:]]


def fingerprint_of(data: CaptionData) -> str:
    """A digest of all but the values of features, which may be large, and slow to read."""
    digest = hashlib.sha256("\n".join(data.vocabulary.idx_to_word).encode())
    for numbers in data.projection or ():
        digest.update(np.ascontiguousarray(numbers, "<f4").tobytes())
    for name in sorted(data.splits):
        split = data.splits[name]
        digest.update(f"{name} {split.features.shape} {split.features.dtype}".encode())
        for text in (*split.images, *data.texts(name)):
            digest.update(text.encode() + b"\0")
        for numbers in (split.captions, split.image_idxs):
            digest.update(
                f"{numbers.shape} {numbers.dtype.kind}".encode()
                + np.ascontiguousarray(numbers, "<i8").tobytes()
            )
    return digest.hexdigest()
