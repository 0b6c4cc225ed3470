"""The dataset file: CaptionData in HDF5, checked when it is written and when it is read.

HDF5 files from strangers are read to their end in a separate process with limits before they are opened
here: a call into HDF5 cannot be interrupted.
"""

import contextlib
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xpcap.data.dataset import VOCAB, CaptionData, Source, Split, check_data, may_name_a_split
from xpcap.data.features import RowSource, blocks
from xpcap.data.vocabulary import TOKENISER, Vocabulary, has_word
from xpcap.errors import DataError
from xpcap.files import check_format, is_text, new_file, require_new_file, size_of
from xpcap.json_text import check_json, parse_json
from xpcap.spec import spec

if TYPE_CHECKING:
    import h5py

SCRIPT = Path(__file__).with_name("hdf5_check.py")
# the child needs no more threads
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
WALL_SECONDS, BYTES_A_SECOND = 30.0, 5e6  # last resort, if the limit on CPU time fails
OUT_OF_TIME = -getattr(signal, "SIGPROF", 0)  # exit status of a child that has used up its CPU time
TOO_LONG = "takes far longer to go through than a file of its size should"

# files that this process wrote or has screened, by path, inode, size and times
_known: set[tuple[str | int | None, ...]] = set()


def open_hdf5(caller: str, path: Path, most: int | None, expected: str) -> "h5py.File":
    """Open an HDF5 file that a process with limits has read to its end before.

    Features of more than `most` bytes are not read. `caller` and `expected` are for messages.

    DataError : it is missing, leads to other files, claims more than it stores, takes too long,
        makes HDF5 fail, or is replaced meanwhile.
    """
    import h5py

    size_of(caller, path, expected)
    screened = _state_of(path, most)
    if screened not in _known:
        if wrong := _screen(path.resolve(), most):
            cause = "truncated, damaged or of another kind?"
            raise DataError(caller, path, wrong, expected, cause)
        _known.add(screened)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        cause = f"truncated or of another kind? ({error})"
        raise DataError(caller, path, "cannot be opened as HDF5", expected, cause) from error
    if _state_of(path, most) != screened:
        file.close()
        cause = "does another program write it?"
        raise DataError(caller, path, "changed while it was opened", expected, cause)
    return file


def _state_of(path: Path, most: int | None) -> tuple[str | int | None, ...]:
    about = path.stat()
    times = about.st_mtime_ns, about.st_ctime_ns
    return (str(path.resolve()), about.st_dev, about.st_ino, about.st_size, *times, most)


def _screen(path: Path, most: int | None) -> str:
    """The fault that a child process with limits finds in a file; empty if there is none."""
    command = [sys.executable, "-P", str(SCRIPT), json.dumps({"path": str(path), "most": most})]
    try:
        child = subprocess.run(  # noqa: S603 - a list: this Python, on a file of ours
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
            f"open_hdf5: {sys.executable} does not run {SCRIPT}, expected it to with h5py; is"
            " the installation whole?"
        )
    if answer:
        return str(json.loads(answer))
    return TOO_LONG if child.returncode == OUT_OF_TIME else "makes the HDF5 library fail"


FORMAT = 1
IN_MEMORY = 512 * 2**20  # bytes of features of all splits; larger ones are read by the batch
FIELDS = ("captions", "image_idxs", "features", "images")
TEXT_FIELDS = ("text", "text_offsets")  # both or neither: the words are those of the ids
TEXTS = spec("text:b=u1 text_offsets:k>0=i")  # the rest is as of any data set
ABOUT = {"source": {}, "stamp": str, "views?": {"*": int}}  # of an attribute, as JSON


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
    import h5py

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
    with new_file("write_dataset", path) as stream, h5py.File(stream, "w") as file:
        file.attrs["xpcap"] = about
        file.create_dataset(VOCAB, data=data.vocabulary.idx_to_word, dtype=h5py.string_dtype())
        for name, split in data.splits.items():
            group = file.create_group(name)
            group["captions"], group["image_idxs"] = split.captions, split.image_idxs
            shape, dtype = split.features.shape, split.features.dtype
            compression = "lzf" if _mostly_zero(split.features) else None
            features = group.create_dataset("features", shape, dtype, compression=compression)
            for caller, rows in blocks(split.features):
                features[caller] = rows
            group.create_dataset("images", data=list(split.images), dtype=h5py.string_dtype())
            if split.text is not None:  # else words are those of the ids
                encoded = [text.encode("utf-8") for text in split.text]
                group["text"] = np.frombuffer(b"".join(encoded), np.uint8)
                group["text_offsets"] = np.cumsum([0, *(len(text) for text in encoded)])
    _known.add(_state_of(path, IN_MEMORY))


def read_dataset(path: str | Path) -> CaptionData:
    """Open a dataset file and check its fingerprint and contents; features on disk when they are read.

    Files that this process did not write are screened first, by `open_hdf5`.

    DataError : not HDF5, truncated, not ours, of a newer format, altered since it was written, or
        malicious.
    """
    path = Path(path)
    file = open_hdf5("read_dataset", path, IN_MEMORY, "a file from 'prepare'")
    with contextlib.ExitStack() as stack:
        stack.enter_context(file)
        try:
            data = _read(path, file)
            check_data(f"read_dataset: {path}", data)
            if data.fingerprint != fingerprint_of(data):
                cause = "changed since 'prepare' wrote it? Prepare it again"
                got = "does not match its stamp, a digest of its contents"
                raise DataError("read_dataset", path, got, cause=cause)
        except DataError:
            raise
        # damaged HDF5 raises errors of many types, from h5py and from whatever uses its values
        except Exception as error:
            expected, cause = "what 'prepare' writes", f"damaged? ({error!r})"
            got = "is not a whole dataset file"
            raise DataError("read_dataset", path, got, expected, cause) from error
        if not all(isinstance(split.features, np.ndarray) for split in data.splits.values()):
            stack.pop_all()  # features stay on disk, in the open file
    return data


def _mostly_zero(features: RowSource) -> bool:
    """True if compression pays: histograms of drawings shrink to a tenth, activations do not."""
    return isinstance(features, np.ndarray) and bool(np.count_nonzero(features) < features.size / 2)


def _check_names(data: CaptionData) -> None:
    """Checks for writing alone: distinct names, and a word in every text."""
    for name, split in data.splits.items():
        got = expected = ""
        if not may_name_a_split(name):
            got, expected = "is not a name", f"letters, digits and _, not {VOCAB}"
        elif not all(map(is_text, split.images)):
            got, expected = "has a picture name that is not text", "names that UTF-8 can hold"
        elif len(set(split.images)) < len(split.images) or "\0" in "".join(split.images):
            got, expected = "has a picture name twice, or one with a NUL in it", "distinct names"
        elif not all(map(has_word, data.texts(name))):
            got, expected = "has a caption without a word", "words in each"
        if got:
            raise DataError("write_dataset", f"split {name!r}", got, expected)


def _read(path: Path, file: "h5py.File") -> CaptionData:
    if "xpcap" not in file.attrs:
        held = ", ".join(map(repr, file))[:200] or "nothing"
        got = f"is HDF5 without xpcap's stamp (it holds {held})"
        raise DataError("read_dataset", path, got, "a file from 'prepare'", "another program's?")
    thing, text = f"{path}: attribute 'xpcap'", str(file.attrs["xpcap"])
    about = parse_json("read_dataset", thing, text, "what 'prepare' writes")
    check_json("read_dataset", thing, about, {})
    check_format("read_dataset", thing, about.get("format"), FORMAT)
    check_json("read_dataset", thing, about, ABOUT)
    if about.get("tokeniser") != TOKENISER:
        got = f"has words by the tokeniser {about.get('tokeniser')!r:.60}"
        cause = "made by another version of xpcap? Prepare it again"
        raise DataError("read_dataset", path, got, repr(TOKENISER), cause)
    views = about.get("views") or {}
    if min(views.values(), default=1) < 1:
        got = f"are {str(views)[:60]}"
        raise DataError("read_dataset", f"{path}: views", got, "at least 1 a split", "damaged?")
    groups = {name: file[name] for name in file if name != VOCAB}
    in_memory = (
        sum(group["features"].nbytes for group in groups.values() if "features" in group)
        <= IN_MEMORY
    )
    splits = {
        name: _read_split(path, name, group, views.get(name, 1), in_memory)
        for name, group in groups.items()
    }
    source = Source.from_json(f"read_dataset: {path}", about["source"])
    vocabulary = Vocabulary(_strings(file[VOCAB]))
    return CaptionData(vocabulary, splits, source=source, fingerprint=about["stamp"])


def _read_split(path: Path, name: str, group: "h5py.Group", views: int, in_memory: bool) -> Split:
    caller = f"read_dataset: {path}, split {name!r}"
    held = {field: group[field] for field in (*FIELDS, *TEXT_FIELDS) if field in group}
    wanted = FIELDS if not set(TEXT_FIELDS) & held.keys() else (*FIELDS, *TEXT_FIELDS)
    if missing := [field for field in wanted if field not in held]:
        raise DataError(caller, "", f"lacks {', '.join(missing)}", expected=", ".join(wanted))
    return Split(
        captions=held["captions"][()],
        image_idxs=held["image_idxs"][:],
        features=held["features"][:] if in_memory else held["features"],
        images=_strings(held["images"]),
        text=_read_texts(caller, held) if "text" in held else None,
        views=views,
    )


def _read_texts(caller: str, held: Mapping[str, "h5py.Dataset"]) -> list[str]:
    """Captions as written. DataError : their offsets do not cut the text."""
    text = {field: held[field][()] for field in TEXT_FIELDS}
    TEXTS.check_file(caller, text, "damaged?")
    blob, offsets = text["text"], text["text_offsets"]
    if offsets[0] != 0 or offsets[-1] != len(blob) or (offsets[1:] < offsets[:-1]).any():
        got = f"run from {offsets[0]} to {offsets[-1]}"
        expected = f"a rise from 0 to {len(blob)}, where text ends"
        raise DataError(caller, "text_offsets", got, expected, "damaged?")
    cuts = itertools.pairwise(offsets.tolist())
    return [bytes(blob[start:end]).decode("utf-8") for start, end in cuts]


def _strings(dataset: "h5py.Dataset") -> list[str]:
    return [str(word) for word in dataset.asstr()[:]]


def fingerprint_of(data: CaptionData) -> str:
    """A digest of all but the values of features, which may be large, and slow to read."""
    digest = hashlib.sha256("\n".join(data.vocabulary.idx_to_word).encode())
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
