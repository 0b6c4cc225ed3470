"""Run folders: what a training run leaves behind, written in whole files, readable on either device and without pickle."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import Array, to_numpy
from xpcap.data.scaling import KINDS, FeatureScaling
from xpcap.data.source import Source
from xpcap.data.vocabulary import Vocabulary
from xpcap.errors import DataError
from xpcap.files import PART, read_text, write_text
from xpcap.layers import CELLS
from xpcap.models import CaptioningRNN, ModelConfig
from xpcap.tensors import check_format, read_tensors, write_tensors
from xpcap.training.state import TrainingState
from xpcap.training.state_tensors import from_tensors, to_tensors

FORMAT = 1
CONFIG, VOCAB, HISTORY, TIMES = "config.json", "vocab.json", "history.jsonl", "times.jsonl"
BEST, LAST, LOCK = "best.safetensors", "last.safetensors", ".lock"
LARGEST = 10**6  # of any size in a config: what is larger is a mistake or a trap
MOST_CONFIG, MOST_VOCAB = 2**20, 16 * 2**20  # bytes
_MEAN, _SCALE = "feature_scaling.mean", "feature_scaling.scale"


class Run(NamedTuple):
    """A run folder opened for use: the model with its best parameters, and what goes with it."""

    path: Path
    config: dict[str, Any]
    vocabulary: Vocabulary
    scaling: FeatureScaling
    model: CaptioningRNN
    meta: dict[str, Any]


class Saved(NamedTuple):
    """What last.safetensors holds: where training stood, and what belongs to the run as a whole."""

    state: TrainingState
    scaling: FeatureScaling
    vocabulary: str  # its digest


def check_free(path: Path) -> None:
    """DataError : there is something at `path` already."""
    if path.exists() or path.is_symlink():
        raise DataError(
            f"train: {path} exists, and a run is not overwritten; choose another --out, go on with it by --resume where it is a run, or remove it"
        )


def is_begun(path: Path) -> bool:
    """Whether there is a run at `path` to go on with. A folder that a run was killed in before it had a config is a place to begin one.

    Raises
    ------
    DataError : there is something else at `path`.
    """
    if (path / CONFIG).is_file():
        return True
    left = [file.name for file in path.iterdir()] if path.is_dir() else ["a file"] if path.exists() or path.is_symlink() else []
    if strange := [name for name in left if name != LOCK and not name.endswith(PART)]:
        raise DataError(f"train: {path} holds {strange[0]!r} and no {CONFIG}, expected a run to go on with, or a place to begin one; is --out right?")
    return False


def is_saved(path: Path | None) -> bool:
    """Whether there is training at `path` that can be gone on with from where it was saved."""
    return path is not None and (path / CONFIG).is_file() and (path / LAST).is_file()


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Keep other trainers out of a run folder meanwhile. The lock is the operating system's, so it ends with the process, however that ends.

    Raises
    ------
    DataError : another process has it. OSError : the file system has no locks, or the folder cannot be written to.
    """
    from filelock import FileLock, Timeout

    held = FileLock(path / LOCK, timeout=0)
    try:
        held.acquire()
    except Timeout:
        raise DataError(f"train: {path} is being trained by another process, expected none; wait for it to end, or stop it first") from None
    except NotImplementedError as error:
        raise OSError(0, f"no file locks there ({error}); choose a local disk", str(path)) from error
    try:
        yield
    finally:
        held.release()


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Write the config of a run folder."""
    write_text(path / CONFIG, json.dumps({"format": FORMAT, **config}, indent=2, sort_keys=True) + "\n")


def write_vocabulary(path: Path, vocabulary: Vocabulary) -> None:
    """Write the vocabulary of a run folder."""
    write_text(path / VOCAB, json.dumps(vocabulary.idx_to_word, ensure_ascii=False) + "\n")


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """One JSON object a line."""
    write_text(path, "".join(json.dumps(record, sort_keys=True) + "\n" for record in records))


def read_times(path: Path, epochs: int) -> list[dict[str, Any]]:
    """The records of times.jsonl of the first `epochs` epochs. Clock times decide nothing: what cannot be read of them is left out."""
    try:
        lines = read_text(path / TIMES, MOST_VOCAB).splitlines()
        records = [json.loads(line) for line in lines]
    except (OSError, ValueError, RecursionError):
        return []
    return [record for record in records if isinstance(record, dict) and type(record.get("epoch")) is int and 1 <= record["epoch"] <= epochs]


def save_parameters(path: Path, params: Mapping[str, Array], scaling: FeatureScaling, meta: Mapping[str, Any]) -> None:
    """Write parameters and feature scaling, with `meta` beside them: equal runs give equal bytes."""
    write_tensors(path, {**{name: to_numpy(x) for name, x in params.items()}, **_scaling_tensors(scaling)}, meta)


def load_parameters(path: Path) -> tuple[dict[str, np.ndarray], FeatureScaling, dict[str, Any]]:
    """Read what save_parameters wrote, as host arrays.

    Raises
    ------
    DataError : missing, damaged, or not ours.
    """
    if not path.is_file():
        raise DataError(
            f"open_run: {path} is missing, expected the parameters of a run; was it stopped before its first epoch ended? train --resume goes on"
        )
    tensors, meta = read_tensors(path, "open_run")
    return tensors, _pop_scaling(tensors), meta


def save_state(path: Path, state: TrainingState, scaling: FeatureScaling | None = None, vocabulary: str = "") -> None:
    """Write where training stands, with the feature scaling and the digest of the vocabulary of its run: equal states give equal bytes.

    Raises
    ------
    OSError : the place cannot be written to; what was there before is still there then.
    """
    tensors, meta = to_tensors(state)
    write_tensors(path, {**tensors, **_scaling_tensors(scaling or FeatureScaling())}, {**meta, "vocabulary": vocabulary})


def load_state(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> TrainingState:
    """Read what save_state wrote, for a model whose parameters have these `shapes`.

    Raises
    ------
    DataError : missing, damaged, not ours, or of another model.
    """
    return load_saved(path, shapes).state


def load_saved(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Saved:
    """The same with the scaling and the vocabulary's digest."""
    tensors, meta = read_tensors(path, "load_state")
    scaling, vocabulary = _pop_scaling(tensors), meta.get("vocabulary")
    if not isinstance(vocabulary, str):
        raise DataError(
            f"load_state: {path} has no digest of a vocabulary, expected training that can go on; is it a {BEST}, or from an older xpcap?"
        )
    return Saved(from_tensors(f"load_state: {path}", tensors, meta, shapes), scaling, vocabulary)


def _scaling_tensors(scaling: FeatureScaling) -> dict[str, np.ndarray]:
    if scaling.mean is None or scaling.scale is None:
        return {}
    return {_MEAN: scaling.mean, _SCALE: scaling.scale}


def _pop_scaling(tensors: dict[str, np.ndarray]) -> FeatureScaling:
    return FeatureScaling(tensors.pop(_MEAN, None), tensors.pop(_SCALE, None))


def read_config(path: Path) -> dict[str, Any]:
    """The config of a run folder, with the settings that a run is used by checked.

    Raises
    ------
    DataError : no run folder, a damaged config, or one of a newer format.
    """
    if not (path / CONFIG).is_file():
        raise DataError(f"open_run: {path} {'has no config.json' if path.exists() else 'does not exist'}, expected a run folder from 'train'")
    config = _read_json(path / CONFIG, MOST_CONFIG)
    check_format("open_run", path / CONFIG, config.get("format") if isinstance(config, dict) else type(config).__name__, FORMAT)
    for key in ("feature_dim", "wordvec", "hidden", "max_words"):
        if type(config.get(key)) is not int or not 1 <= config[key] <= LARGEST:
            raise DataError(f"open_run: {path / CONFIG} has {key} {config.get(key)!r}, expected a whole number in 1..{LARGEST}; damaged?")
    for key in ("data", "data_stamp", "cell", "feature_scaling"):
        if not isinstance(config.get(key), str):
            raise DataError(f"open_run: {path / CONFIG} has {key} {config.get(key)!r}, expected text; damaged?")
    for key, names in (("cell", CELLS), ("feature_scaling", KINDS)):
        if config[key] not in names:
            raise DataError(f"open_run: {path / CONFIG} has {key} {config[key]!r}, expected one of {', '.join(names)}; damaged?")
    source = config.get("source", {})
    if not isinstance(source, dict):
        raise DataError(f"open_run: {path / CONFIG} has source {str(source)[:60]!r}, expected an object; damaged?")
    Source.from_json(f"open_run: {path / CONFIG}", source)
    return config


def open_run(path: Path) -> Run:
    """Open a run folder and build its model, with the best parameters, on the backend in force.

    Raises
    ------
    DataError : no run folder, or one that is damaged, incomplete or of a newer format.
    """
    config = read_config(path)
    words = _read_json(path / VOCAB, MOST_VOCAB)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise DataError(f"open_run: {path / VOCAB} holds no list of words, expected the run's vocabulary; damaged?")
    vocabulary = Vocabulary(words)
    tensors, scaling, meta = load_parameters(path / BEST)
    if meta.get("vocabulary") != digest(vocabulary):
        raise DataError(f"open_run: {path / VOCAB} is not the vocabulary that {BEST} was trained with; changed, or from another run?")
    check_scaling(path / BEST, scaling, config)
    shape = ModelConfig(len(vocabulary), (config["feature_dim"],), config["wordvec"], config["hidden"], config["cell"])
    check_parameters(path / BEST, tensors, shape.shapes())
    model = CaptioningRNN.from_config(shape, vocabulary.word_to_idx, params=tensors)
    return Run(path, config, vocabulary, scaling, model, meta)


def check_parameters(path: Path, tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """DataError : what was read from `path` are not finite float32 parameters of these `shapes`."""
    if set(tensors) != set(shapes):
        raise DataError(f"open_run: {path} holds {', '.join(sorted(tensors))[:200]}, expected {', '.join(sorted(shapes))}; from another run?")
    for name, tensor in tensors.items():
        if tensor.shape != shapes[name] or tensor.dtype != np.float32 or not np.isfinite(tensor).all():
            raise DataError(
                f"open_run: {path}, {name} has shape {tensor.shape} and dtype {tensor.dtype}, expected {shapes[name]} "
                "and finite float32; damaged, or from another run?"
            )


def digest(vocabulary: Vocabulary) -> str:
    """What tells a vocabulary from another, the order of its words included."""
    return hashlib.sha256("\n".join(vocabulary.idx_to_word).encode()).hexdigest()


def check_scaling(path: Path, scaling: FeatureScaling, config: Mapping[str, Any]) -> None:
    """DataError : a feature scaling read from `path` is not one that a run with that config has."""
    expected = () if config["feature_scaling"] == "none" else (config["feature_dim"],)
    for name, values in (("mean", scaling.mean), ("scale", scaling.scale)):
        fits = (
            values is None
            if not expected
            else values is not None and values.shape == expected and values.dtype == np.float32 and bool(np.isfinite(values).all())
        )
        if not fits or (name == "scale" and values is not None and not (values > 0).all()):
            shape = None if values is None else values.shape
            raise DataError(
                f"open_run: {path} has a feature scaling whose {name} has shape {shape}, expected {expected or None} for "
                f"{config['feature_scaling']!r}, finite float32, a scale above 0; damaged?"
            )


def _read_json(path: Path, most: int) -> Any:
    try:
        return json.loads(read_text(path, most))
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(f"open_run: {path} is missing, expected a run folder from 'train'") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"open_run: {path} is not JSON, expected what 'train' writes; damaged? ({str(error)[:100]})") from error
