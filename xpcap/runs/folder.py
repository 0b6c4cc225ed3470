"""Format of a run folder: files are written atomically, checked when read, and never pickled."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xpcap.backend import Array, to_numpy
from xpcap.backend.shape_specs import Spec
from xpcap.data.features import FeatureScaling
from xpcap.data.vocabulary import Vocabulary
from xpcap.errors import DataError, InvalidTypeError, InvalidValueError
from xpcap.files import read_write
from xpcap.files.json_text import check_json, read_json
from xpcap.files.read_write import PART, read_text, remove_parts, write_text
from xpcap.files.safetensors_file import read_tensors, write_tensors
from xpcap.optim import UpdateRule
from xpcap.options import Text
from xpcap.training.state import RECORD, Record, TrainingState, read_state

CONFIG = "config.json"
VOCAB = "vocab.json"
HISTORY = "history.jsonl"
TIMES = "times.jsonl"
BEST = "best.safetensors"
LAST = "last.safetensors"
RERANKING = "reranking.safetensors"  # the reranker
TRAINED_ON = "trained-on.json"  # the training pictures, also those of the run `start`
START_RERANKING = "start-reranking.safetensors"  # the reranker of the run of a warm start
DATA = "data.h5"  # generated data
PICTURES = "pictures"  # its val pictures as PNGs
LOCK = ".lock"
A_RUN = "a run folder from 'train'"
MAX_VALUE = 1e15  # in a history; a chart can draw it
MAX_BYTES = 16 * 2**20  # of a text file


def is_run(path: str | Path) -> bool:
    """True if `path` is a run folder, perhaps a damaged one; False if it cannot be read."""
    try:
        return all((Path(path) / name).is_file() for name in (CONFIG, VOCAB))
    except (OSError, ValueError):
        return False


# vocab.json, history.jsonl, times.jsonl


def write_vocabulary(path: Path, vocabulary: Vocabulary) -> None:
    """Write vocab.json."""
    write_text(path / VOCAB, json.dumps(vocabulary.idx_to_word, ensure_ascii=False) + "\n")


def read_vocabulary(path: Path) -> Vocabulary:
    """Read vocab.json. DataError : missing, or damaged."""
    words = read_json(path / VOCAB, MAX_BYTES, A_RUN)
    check_json(path / VOCAB, words, [str])
    return Vocabulary(words)


def digest(vocabulary: Vocabulary) -> str:
    """SHA-256 of the words in their order."""
    return hashlib.sha256("\n".join(vocabulary.idx_to_word).encode()).hexdigest()


def write_lines(path: Path, records: list[Record]) -> None:
    """Write records, one JSON object per line."""
    write_text(path, "".join(json.dumps(record, sort_keys=True) + "\n" for record in records))


def read_times(path: Path, epochs: int) -> list[Record]:
    """The records of times.jsonl for the first `epochs` epochs, without unreadable ones."""
    return [record for record in _records(path / TIMES) if record["epoch"] <= epochs]


def read_history(path: Path) -> list[Record]:
    """The records of history.jsonl, for display; training reads them from its checkpoint.

    Epoch 0 is the start, if it was scored. Values that are not numbers are left out.
    """
    return [
        {name: x for name, x in record.items() if type(x) in (int, float) and abs(x) <= MAX_VALUE}
        for record in _records(path / HISTORY)
    ]


def _records(file: Path) -> list[Record]:
    """The records of a file with a JSON object per epoch; none if the file cannot be read."""
    try:
        records = [json.loads(line) for line in read_text(file, MAX_BYTES, "").splitlines()]
    except (OSError, ValueError, RecursionError):
        return []
    return [
        record
        for record in records
        if isinstance(record, dict) and type(record.get("epoch")) is int and record["epoch"] >= 0
    ]


# best.safetensors


def save_parameters(
    path: Path, params: Mapping[str, Array], scaling: FeatureScaling, meta: Record
) -> None:
    """Write parameters, feature scaling and `meta`. Equal content gives equal bytes."""
    tensors = {name: to_numpy(x) for name, x in params.items()}
    write_tensors(path, {**tensors, **scaling_tensors(scaling)}, meta)


def load_parameters(path: Path) -> tuple[dict[str, np.ndarray], FeatureScaling, Record]:
    """Read the file of `save_parameters` to host arrays. DataError : it is missing or damaged."""
    if not path.is_file():
        raise nothing_yet(path.parent, path.name)
    tensors, meta = read_tensors(path)
    return tensors, pop_scaling(tensors), meta


def nothing_yet(folder: Path, file: str) -> DataError:
    """The error for a file that a run lacks until its first epoch is done."""
    return DataError(
        f"{folder / file} is missing, so there is nothing to caption with yet, expected a run after"
        " its first epoch; if training was stopped before that, continue it with `resume`"
    )


def check_parameters(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    kind: str = "f4!",
) -> None:
    """Raise DataError unless the tensors of `path` are finite parameters of these `shapes`."""
    Spec.of(shapes, kind).check_file(path, tensors, "damaged, or from another run?")


# The feature scaling, as tensors


_MEAN = "feature_scaling.mean"
_SCALE = "feature_scaling.scale"


def check_scaling(path: Path, scaling: FeatureScaling, kind: str, d: int) -> None:
    """Raise DataError unless a scaling read from `path` is of that kind, for d features."""
    shape = None if kind == "none" else (d,)  # all regions are scaled alike
    real = np.finfo(np.float32)
    expected = f"{shape} for {kind!r}, finite float32, a scale of at least {real.tiny:.2g}"
    # `fit_scaling` returns no smaller scale, by which features would overflow
    for name, values, low in (
        ("mean", scaling.mean, real.min),
        ("scale", scaling.scale, real.tiny),
    ):
        fits = shape is None
        if values is not None:
            within = bool(((values >= low) & (values <= real.max)).all())
            fits = within and (values.shape, values.dtype) == (shape, np.float32)
        if not fits:
            raise DataError(
                f"{path} has a feature scaling whose {name} has shape"
                f" {getattr(values, 'shape', None)}, expected {expected}; damaged?"
            )


def scaling_tensors(scaling: FeatureScaling) -> dict[str, np.ndarray]:
    """The scaling's arrays by their names in a file."""
    if scaling.mean is None or scaling.scale is None:
        return {}
    return {_MEAN: scaling.mean, _SCALE: scaling.scale}


def pop_scaling(tensors: dict[str, np.ndarray]) -> FeatureScaling:
    """Remove the scaling from the tensors of a file, and return it."""
    return FeatureScaling(tensors.pop(_MEAN, None), tensors.pop(_SCALE, None))


# last.safetensors


class Checkpoint(NamedTuple):
    """Content of last.safetensors: the state of a stage, and the run's scaling and vocabulary."""

    state: TrainingState
    scaling: FeatureScaling
    vocabulary: str  # digest
    earlier: list[Record]  # records of the stage before; empty in the first stage


def save_state(
    path: str | Path,
    state: TrainingState,
    *,
    scaling: FeatureScaling | None = None,
    vocabulary: str = "",
    earlier: Sequence[Record] = (),
) -> None:
    """Write a training state. Equal states give equal bytes.

    Parameters
    ----------
    path : str or Path
        File to write or replace.
    state : TrainingState
    scaling : FeatureScaling or None
        Scaling of the run's features.
    vocabulary : str
        Digest of the run's vocabulary.
    earlier : sequence of dict
        Records of the stage before that of `state`.

    Raises
    ------
    OSError
        The file cannot be written; an existing one is intact.
    TypeError
        `state` is no TrainingState.
    ValueError
        `vocabulary` is no text; `scaling` has only a mean or only a scale.
    """
    if not isinstance(state, TrainingState):
        raise InvalidTypeError(
            f"state is a {type(state).__name__}, expected what CaptioningSolver.state() returns"
        )
    vocabulary = Text().check("`vocabulary`", vocabulary)
    if scaling is not None and (scaling.mean is None) != (scaling.scale is None):
        raise InvalidValueError(
            "scaling has a mean or a scale, but not both, expected both or neither"
        )
    arrays = {**state.arrays, **scaling_tensors(scaling or FeatureScaling())}
    meta = {**state.meta, "vocabulary": vocabulary, "earlier": list(earlier)}
    write_tensors(Path(path), arrays, meta)


def load_state(
    path: str | Path, shapes: Mapping[str, tuple[int, ...]], *, rule: UpdateRule | None = None
) -> TrainingState:
    """Read a training state.

    Parameters
    ----------
    path : str or Path
    shapes : mapping of str to tuple of int
        Parameter shapes of the model that is to continue, ``model.params.shapes``.
    rule : UpdateRule or None
        A custom update rule, if any.

    Returns
    -------
    state : TrainingState

    Raises
    ------
    DataError
        The file is missing, damaged, no training state, or of another model.
    """
    return load_checkpoint(Path(path), shapes, rule).state


def load_checkpoint(
    path: Path, shapes: Mapping[str, tuple[int, ...]], rule: UpdateRule | None = None
) -> Checkpoint:
    """Read a checkpoint as `load_state` does, with the run's scaling, vocabulary and records."""
    tensors, meta = read_tensors(path)
    scaling = pop_scaling(tensors)
    state = read_state(path, tensors, meta, shapes, rule)
    check_json(path, meta, {"vocabulary": str, "earlier": RECORD})
    return Checkpoint(state, scaling, meta["vocabulary"], meta["earlier"])


def load_earlier(path: Path) -> list[Record]:
    """The records of the stage before that of a checkpoint; none without a checkpoint."""
    if not path.exists():
        return []
    _, meta = read_tensors(path)
    check_json(path, meta, {"earlier": RECORD})
    return meta["earlier"]


# The provenance of the parameters


def best_digest(path: str | Path) -> str:
    """SHA-256 of the run's file of best parameters."""
    return hashlib.sha256((Path(path) / BEST).read_bytes()).hexdigest()


def cell_title(cell: str) -> str:
    """A cell's name with its article: "an LSTM", "a GRU"."""
    return f"{'an' if cell[:1] in 'aefhilmnorsx' else 'a'} {cell.upper()}"


# Reserving a folder to train in


@contextlib.contextmanager
def reserved(path: Path, resume: bool) -> Iterator[None]:
    """Create a run folder if need be, remove leftovers, and lock it against other trainings.

    If the block fails before the first checkpoint, a folder that was created here is removed.

    DataError : the path exists, or with `resume` is something other than a run; or another process
        trains there. OSError : the folder cannot be created or locked.
    """
    if resume:
        check_resumable(path)
    else:
        check_free(path)
    created = _create(path, may_exist=resume)
    try:
        with lock(path):
            try:
                _tidy(path)
                yield
            except BaseException:
                if created and not (path / LAST).is_file():
                    shutil.rmtree(path, ignore_errors=True)
                raise
    except BaseException:
        _remove_empty(created)  # after the lock is closed: Windows deletes no open file
        raise


def check_free(path: Path) -> None:
    """Raise DataError if something exists at `path`."""
    if path.exists() or path.is_symlink():
        raise DataError(
            f"{path} exists, and a run is never overwritten; choose another `out`, continue it with"
            " `resume` if it is a run, or remove it"
        )


def check_resumable(path: Path) -> None:
    """Raise DataError if something other than a run exists at `path`.

    A folder counts as free if a run was killed there before it wrote its config.
    """
    if (path / CONFIG).is_file():
        return
    names = ["a file"] if path.exists() or path.is_symlink() else []
    if path.is_dir():
        names = [file.name for file in path.iterdir()]
    if strange := [name for name in names if name != LOCK and not name.endswith(PART)]:
        raise DataError(
            f"{path} holds {strange[0]!r} and no {CONFIG}, expected a run to continue, or an empty"
            " folder; is `out` right?"
        )


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Lock a run folder against other trainings. DataError, OSError : as in `read_write.lock`."""
    if (path / LOCK).is_symlink():
        (path / LOCK).unlink()  # its target may lie outside the run
    with (path / LOCK).open("a+b") as file:
        busy = f"{path} is being trained by another process; wait for it to end, or stop it first"
        read_write.lock(file, DataError(busy))
        yield


def _tidy(path: Path) -> None:
    """Remove files that a killed process was writing."""
    remove_parts(path)
    pictures = path / f".{PICTURES}{PART}"
    if pictures.is_dir() and not pictures.is_symlink():
        shutil.rmtree(pictures)


def _create(path: Path, may_exist: bool) -> list[Path]:
    """Create a folder and its parents; return the folders that were missing."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=may_exist)
    except OSError:
        _remove_empty(missing)
        raise
    return missing


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):  # missing, or in use by another process by now
            folder.rmdir()
