"""Run folders: what a training run leaves behind, written in whole files, readable on either device and without pickle."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import Array, to_numpy
from xpcap.data.scaling import KINDS, FeatureScaling
from xpcap.data.vocabulary import Vocabulary
from xpcap.errors import DataError
from xpcap.files import atomic, write_text
from xpcap.models.captioning_rnn import CELLS, CaptioningRNN, parameter_shapes

FORMAT = 1
CONFIG, VOCAB, HISTORY, TIMES = "config.json", "vocab.json", "history.jsonl", "times.jsonl"
BEST, LAST = "best.safetensors", "last.safetensors"
LARGEST = 10**6  # of any size in a config: what is larger is a mistake or a trap
_MEAN, _SCALE = "feature_scaling.mean", "feature_scaling.scale"


class Run(NamedTuple):
    """A run folder opened for use: the model with its best parameters, and what goes with it."""

    path: Path
    config: dict[str, Any]
    vocabulary: Vocabulary
    scaling: FeatureScaling
    model: CaptioningRNN
    meta: dict[str, Any]


def check_free(path: Path) -> None:
    """DataError : there is something at `path` already."""
    if path.exists() or path.is_symlink():
        raise DataError(f"train: {path} exists, and a run is not overwritten; choose another --out, or remove it")


def create_run(path: Path, config: Mapping[str, Any], vocabulary: Vocabulary) -> None:
    """Make a run folder with its config and vocabulary.

    Raises
    ------
    DataError : there is something at `path` already. OSError : the place cannot be written to.
    """
    check_free(path)
    path.mkdir(parents=True)
    write_text(path / CONFIG, json.dumps({"format": FORMAT, **config}, indent=2, sort_keys=True) + "\n")
    write_text(path / VOCAB, json.dumps(vocabulary.idx_to_word, ensure_ascii=False) + "\n")


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """One JSON object a line."""
    write_text(path, "".join(json.dumps(record, sort_keys=True) + "\n" for record in records))


def save_parameters(path: Path, params: Mapping[str, Array], scaling: FeatureScaling, meta: Mapping[str, Any]) -> None:
    """Write parameters and feature scaling as safetensors, with `meta` as sorted JSON under one key: equal runs give equal bytes."""
    from safetensors.numpy import save

    tensors = {name: np.ascontiguousarray(to_numpy(x)) for name, x in params.items()}
    if scaling.mean is not None and scaling.scale is not None:
        tensors |= {_MEAN: scaling.mean, _SCALE: scaling.scale}
    with atomic(path) as file:
        file.write(save(tensors, {"xpcap": json.dumps(dict(meta), sort_keys=True)}))


def load_parameters(path: Path) -> tuple[dict[str, np.ndarray], FeatureScaling, dict[str, Any]]:
    """Read what save_parameters wrote, as host arrays.

    Raises
    ------
    DataError : missing, damaged, or not ours.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DataError(f"open_run: {path} is missing, expected the parameters of a run; was it stopped before its first epoch ended?")
    try:
        with safe_open(path, framework="numpy") as file:
            meta = json.loads((file.metadata() or {})["xpcap"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"open_run: {path} cannot be read as a run's safetensors; damaged, or another program's? ({error!r})") from error
    if not isinstance(meta, dict):
        raise DataError(f"open_run: {path} has metadata {meta!r}, expected an object; damaged?")
    scaling = FeatureScaling(tensors.pop(_MEAN, None), tensors.pop(_SCALE, None))
    return tensors, scaling, meta


def read_config(path: Path) -> dict[str, Any]:
    """The config of a run folder, with the settings that a run is used by checked.

    Raises
    ------
    DataError : no run folder, a damaged config, or one of a newer format.
    """
    if not (path / CONFIG).is_file():
        raise DataError(f"open_run: {path} {'has no config.json' if path.exists() else 'does not exist'}, expected a run folder from 'train'")
    config = _read_json(path / CONFIG)
    found = config.get("format") if isinstance(config, dict) else type(config).__name__
    if type(found) is not int or found != FORMAT:
        raise DataError(f"open_run: {path / CONFIG} has format {found}, expected {FORMAT}; made by a newer xpcap?")
    for key in ("feature_dim", "wordvec", "hidden", "max_words"):
        if type(config.get(key)) is not int or not 1 <= config[key] <= LARGEST:
            raise DataError(f"open_run: {path / CONFIG} has {key} {config.get(key)!r}, expected a whole number in 1..{LARGEST}; damaged?")
    for key in ("data", "data_stamp", "cell", "feature_scaling"):
        if not isinstance(config.get(key), str):
            raise DataError(f"open_run: {path / CONFIG} has {key} {config.get(key)!r}, expected text; damaged?")
    for key, names in (("cell", CELLS), ("feature_scaling", KINDS)):
        if config[key] not in names:
            raise DataError(f"open_run: {path / CONFIG} has {key} {config[key]!r}, expected one of {', '.join(names)}; damaged?")
    return config


def open_run(path: Path) -> Run:
    """Open a run folder and build its model, with the best parameters, on the backend in force.

    Raises
    ------
    DataError : no run folder, or one that is damaged, incomplete or of a newer format.
    """
    config = read_config(path)
    words = _read_json(path / VOCAB)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise DataError(f"open_run: {path / VOCAB} holds no list of words, expected the run's vocabulary; damaged?")
    vocabulary = Vocabulary(words)
    tensors, scaling, meta = load_parameters(path / BEST)
    if meta.get("vocabulary") != digest(vocabulary):
        raise DataError(f"open_run: {path / VOCAB} is not the vocabulary that {BEST} was trained with; changed, or from another run?")
    _check_scaling(path, scaling, config)
    shapes = parameter_shapes(config["feature_dim"], config["wordvec"], config["hidden"], len(vocabulary), config["cell"])
    if set(tensors) != set(shapes):
        raise DataError(f"open_run: {path / BEST} holds {', '.join(sorted(tensors))}, expected {', '.join(sorted(shapes))}; from another run?")
    for name, tensor in tensors.items():
        if tensor.shape != shapes[name] or tensor.dtype != np.float32 or not np.isfinite(tensor).all():
            raise DataError(
                f"open_run: {path / BEST}, {name} has shape {tensor.shape} and dtype {tensor.dtype}, expected {shapes[name]} "
                "and finite float32; damaged, or from another run?"
            )
    model = CaptioningRNN(vocabulary.word_to_idx, config["feature_dim"], config["wordvec"], config["hidden"], config["cell"], seed=0)
    for name, tensor in tensors.items():
        model.params[name] = tensor
    return Run(path, config, vocabulary, scaling, model, meta)


def digest(vocabulary: Vocabulary) -> str:
    """What tells a vocabulary from another, the order of its words included."""
    return hashlib.sha256("\n".join(vocabulary.idx_to_word).encode()).hexdigest()


def _check_scaling(path: Path, scaling: FeatureScaling, config: Mapping[str, Any]) -> None:
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
                f"open_run: {path / BEST} has a feature scaling whose {name} has shape {shape}, expected {expected or None} for "
                f"{config['feature_scaling']!r}, finite float32, a scale above 0; damaged?"
            )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(f"open_run: {path} is missing, expected a run folder from 'train'") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"open_run: {path} is not JSON, expected what 'train' writes; damaged? ({error})") from error
