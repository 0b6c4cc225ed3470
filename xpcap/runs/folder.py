"""The format of a run folder: what its files are called and hold, written whole, and read with nothing taken on trust. No pickle."""

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import Array, to_numpy
from xpcap.data.scaling import KINDS, FeatureScaling
from xpcap.data.source import Source
from xpcap.data.vocabulary import Vocabulary
from xpcap.errors import DataError
from xpcap.files import read_text, write_text
from xpcap.models import CaptioningRNN, ModelConfig
from xpcap.tensors import check_format, read_tensors, write_tensors
from xpcap.training.state import TrainingState
from xpcap.training.state_tensors import drew_masks_in_turn, from_tensors, to_tensors

FORMAT = 1
CONFIG, VOCAB, HISTORY, TIMES = "config.json", "vocab.json", "history.jsonl", "times.jsonl"
BEST, LAST = "best.safetensors", "last.safetensors"
DATA, PICTURES = "data.h5", "pictures"  # of generated pictures: the data set, and its val split as PNGs
LARGEST = 10**6  # of any size in a config: what is larger is a mistake or a trap
MOST_CONFIG, MOST_VOCAB = 2**20, 16 * 2**20  # bytes
OTHER_MASKS = "is from an older xpcap: training goes on from it with other dropout masks than that version would have drawn"
_MEAN, _SCALE = "feature_scaling.mean", "feature_scaling.scale"


class Run(NamedTuple):
    """A run folder opened for use: the model with its best parameters, and what goes with it."""

    path: Path
    config: dict[str, Any]
    vocabulary: Vocabulary
    scaling: FeatureScaling
    model: CaptioningRNN
    meta: dict[str, Any]  # the record of the epoch that the parameters are from


class Saved(NamedTuple):
    """What last.safetensors holds: where training stands, and what belongs to the run as a whole."""

    state: TrainingState
    scaling: FeatureScaling
    vocabulary: str  # its digest
    drew_masks_in_turn: bool  # it is from an older xpcap, whose dropout masks were others


def open_run(path: str | Path) -> Run:
    """Open a run folder and build its model, with the best parameters, on the backend in force. No random number is drawn.

    Raises
    ------
    DataError : no run folder, or one that is damaged, incomplete or of a newer format.
    """
    path = Path(path)
    config = read_config(path)
    vocabulary = read_vocabulary(path)
    tensors, scaling, meta = load_parameters(path / BEST)
    if meta.get("vocabulary") != digest(vocabulary):
        raise DataError(f"open_run: {path / VOCAB} is not the vocabulary that {BEST} was trained with; changed, or from another run?")
    shape = model_config(path / CONFIG, config)
    if shape.vocabulary != len(vocabulary):
        raise DataError(f"open_run: {path / CONFIG} has vocabulary {shape.vocabulary}, expected the {len(vocabulary)} words of {VOCAB}; damaged?")
    check_scaling(path / BEST, scaling, config)
    check_parameters(path / BEST, tensors, shape.shapes())
    return Run(path, config, vocabulary, scaling, CaptioningRNN.from_config(shape, vocabulary.word_to_idx, params=tensors), meta)


# config.json


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Write the config of a run folder: the fields of its ModelConfig, the options it was trained with, and what it was made from."""
    write_text(path / CONFIG, json.dumps({"format": FORMAT, **config}, indent=2, sort_keys=True) + "\n")


def read_config(path: Path) -> dict[str, Any]:
    """Read the config of a run folder, and check the settings that a run is used by.

    Raises
    ------
    DataError : no run folder, a damaged config, or one of a newer format.
    """
    file = path / CONFIG
    if not file.is_file():
        raise DataError(f"open_run: {path} {f'has no {CONFIG}' if path.exists() else 'does not exist'}, expected a run folder from 'train'")
    config = _read_json(file, MOST_CONFIG)
    check_format("open_run", file, config.get("format") if isinstance(config, dict) else type(config).__name__, FORMAT)
    if "feature_shape" not in config and "feature_dim" in config:
        config["feature_shape"] = [config.pop("feature_dim")]  # as it was called before there were other shapes
    for key in ("data", "data_stamp", "cell", "feature_scaling"):
        if not isinstance(config.get(key), str):
            raise DataError(f"open_run: {file} has {key} {config.get(key)!r}, expected text; damaged?")
    if config["feature_scaling"] not in KINDS:
        raise DataError(f"open_run: {file} has feature_scaling {config['feature_scaling']!r}, expected one of {', '.join(KINDS)}; damaged?")
    _check_size(file, "max_words", config.get("max_words"))
    model_config(file, config)
    source = config.get("source", {})
    if not isinstance(source, dict):
        raise DataError(f"open_run: {file} has source {str(source)[:60]!r}, expected an object; damaged?")
    Source.from_json(f"open_run: {file}", source)
    return config


def model_config(file: Path, config: Mapping[str, Any]) -> ModelConfig:
    """The ModelConfig in a run's config. DataError : there is none; it names `file`."""
    shape = config.get("feature_shape")
    if not isinstance(shape, list):
        raise DataError(f"open_run: {file} has feature_shape {str(shape)[:60]!r}, expected a list of sizes; damaged?")
    sizes = {name: config.get(name) for name in ("vocabulary", "wordvec", "hidden")}
    for name, size in (*sizes.items(), *(("feature_shape", size) for size in shape)):
        _check_size(file, name, size)
    try:
        return ModelConfig(**sizes, feature_shape=tuple(shape), cell=config["cell"], dropout=config.get("dropout"))  # type: ignore[arg-type]
    except ValueError as error:
        raise DataError(f"open_run: {file} holds no model: {error}; damaged?") from error


def _check_size(file: Path, name: str, size: Any) -> None:
    if type(size) is not int or not 1 <= size <= LARGEST:
        raise DataError(f"open_run: {file} has {name} {str(size)[:60]!r}, expected a whole number in 1..{LARGEST}; damaged?")


# vocab.json, history.jsonl, times.jsonl


def write_vocabulary(path: Path, vocabulary: Vocabulary) -> None:
    """Write the vocabulary of a run folder."""
    write_text(path / VOCAB, json.dumps(vocabulary.idx_to_word, ensure_ascii=False) + "\n")


def read_vocabulary(path: Path) -> Vocabulary:
    """Read the vocabulary of a run folder. DataError : missing, or damaged."""
    words = _read_json(path / VOCAB, MOST_VOCAB)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise DataError(f"open_run: {path / VOCAB} holds no list of words, expected the run's vocabulary; damaged?")
    return Vocabulary(words)


def digest(vocabulary: Vocabulary) -> str:
    """A digest of the words and their order: equal for equal vocabularies only."""
    return hashlib.sha256("\n".join(vocabulary.idx_to_word).encode()).hexdigest()


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """Write records as one JSON object a line."""
    write_text(path, "".join(json.dumps(record, sort_keys=True) + "\n" for record in records))


def read_times(path: Path, epochs: int) -> list[dict[str, Any]]:
    """The records of times.jsonl for the first `epochs` epochs. Nothing is decided by clock times, so unreadable records are left out."""
    try:
        lines = read_text(path / TIMES, MOST_VOCAB).splitlines()
        records = [json.loads(line) for line in lines]
    except (OSError, ValueError, RecursionError):
        return []
    return [record for record in records if isinstance(record, dict) and type(record.get("epoch")) is int and 1 <= record["epoch"] <= epochs]


def _read_json(path: Path, most: int) -> Any:
    try:
        return json.loads(read_text(path, most))
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(f"open_run: {path} is missing, expected a run folder from 'train'") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"open_run: {path} is not JSON, expected what 'train' writes; damaged? ({str(error)[:100]})") from error


# best.safetensors


def save_parameters(path: Path, params: Mapping[str, Array], scaling: FeatureScaling, meta: Mapping[str, Any]) -> None:
    """Write parameters and feature scaling, with `meta` beside them. Equal content gives equal bytes."""
    write_tensors(path, {**{name: to_numpy(x) for name, x in params.items()}, **_scaling_tensors(scaling)}, meta)


def load_parameters(path: Path) -> tuple[dict[str, np.ndarray], FeatureScaling, dict[str, Any]]:
    """Read what save_parameters wrote, as host arrays.

    Raises
    ------
    DataError : missing, damaged, or not ours.
    """
    if not path.is_file():
        raise DataError(
            f"open_run: {path} is missing, expected the parameters of a run; was it stopped before its first epoch ended? resume its training then"
        )
    tensors, meta = read_tensors(path, "open_run")
    return tensors, _pop_scaling(tensors), meta


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


def check_scaling(path: Path, scaling: FeatureScaling, config: Mapping[str, Any]) -> None:
    """DataError : a feature scaling read from `path` does not fit a run with that config."""
    expected = None if config["feature_scaling"] == "none" else tuple(config["feature_shape"])
    for name, values in (("mean", scaling.mean), ("scale", scaling.scale)):
        shape = None if values is None else values.shape
        fits = shape == expected and (values is None or (values.dtype == np.float32 and bool(np.isfinite(values).all())))
        if not fits or (name == "scale" and values is not None and not (values > 0).all()):
            raise DataError(
                f"open_run: {path} has a feature scaling whose {name} has shape {shape}, expected {expected} for "
                f"{config['feature_scaling']!r}, finite float32, a scale above 0; damaged?"
            )


def _scaling_tensors(scaling: FeatureScaling) -> dict[str, np.ndarray]:
    if scaling.mean is None or scaling.scale is None:
        return {}
    return {_MEAN: scaling.mean, _SCALE: scaling.scale}


def _pop_scaling(tensors: dict[str, np.ndarray]) -> FeatureScaling:
    return FeatureScaling(tensors.pop(_MEAN, None), tensors.pop(_SCALE, None))


# last.safetensors


def save_state(path: str | Path, state: TrainingState, scaling: FeatureScaling | None = None, vocabulary: str = "") -> None:
    """Write where training stands, with the feature scaling and the vocabulary's digest of its run. Equal states give equal bytes.

    Raises
    ------
    OSError : the place cannot be written to; what was there before is intact.
    """
    tensors, meta = to_tensors(state)
    write_tensors(Path(path), {**tensors, **_scaling_tensors(scaling or FeatureScaling())}, {**meta, "vocabulary": vocabulary})


def load_state(path: str | Path, shapes: Mapping[str, tuple[int, ...]]) -> TrainingState:
    """Read what save_state wrote, for a model whose parameters have these `shapes`: ``model.params.shapes``.

    Raises
    ------
    DataError : missing, damaged, not ours, or of another model.

    Notes
    -----
    A state from an older xpcap, which drew its dropout masks from a generator in turn, can be gone on from, and is warned of.
    """
    saved = load_saved(Path(path), shapes)
    if saved.drew_masks_in_turn:
        warnings.warn(f"load_state: {path} {OTHER_MASKS}", stacklevel=2)
    return saved.state


def load_saved(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Saved:
    """Like load_state, with the scaling and the vocabulary's digest."""
    tensors, meta = read_tensors(path, "load_state")
    scaling, vocabulary = _pop_scaling(tensors), meta.get("vocabulary")
    if not isinstance(vocabulary, str):
        raise DataError(f"load_state: {path} has no digest of a vocabulary, expected a training state; is it a {BEST}, or from an older xpcap?")
    return Saved(from_tensors(f"load_state: {path}", tensors, meta, shapes), scaling, vocabulary, drew_masks_in_turn(meta))
