"""Run folders: what a training run leaves behind, written in whole files, readable on either device and without pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import Array, to_numpy
from xpcap.data.scaling import FeatureScaling
from xpcap.data.vocabulary import Vocabulary
from xpcap.errors import DataError
from xpcap.files import atomic, write_text
from xpcap.models import CaptioningRNN

FORMAT = 1
CONFIG, VOCAB, HISTORY, TIMES = "config.json", "vocab.json", "history.jsonl", "times.jsonl"
BEST, LAST = "best.safetensors", "last.safetensors"
_MEAN, _SCALE = "feature_scaling.mean", "feature_scaling.scale"


class Run(NamedTuple):
    """A run folder opened for use: the model with its best parameters, and what goes with it."""

    path: Path
    config: dict[str, Any]
    vocabulary: Vocabulary
    scaling: FeatureScaling
    model: CaptioningRNN
    meta: dict[str, Any]


def create_run(path: Path, config: Mapping[str, Any], vocabulary: Vocabulary) -> None:
    """Make a run folder with its config and vocabulary.

    Raises
    ------
    DataError : there is something at `path` already. OSError : the place cannot be written to.
    """
    if path.exists():
        raise DataError(f"create_run: {path} exists, and a run is not overwritten; choose another --out, or remove it")
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
    with atomic(path) as temporary:
        temporary.write_bytes(save(tensors, {"xpcap": json.dumps(dict(meta), sort_keys=True)}))


def load_parameters(path: Path) -> tuple[dict[str, np.ndarray], FeatureScaling, dict[str, Any]]:
    """Read what save_parameters wrote, as host arrays.

    Raises
    ------
    DataError : missing, damaged, or not ours.
    """
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        raise DataError(f"load_parameters: {path} is missing, expected the parameters of a run; was it stopped before its first epoch ended?")
    try:
        with safe_open(path, framework="numpy") as file:
            meta = (file.metadata() or {}).get("xpcap")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise DataError(f"load_parameters: {path} cannot be read as safetensors, expected a run's parameters; damaged? ({error})") from error
    if meta is None:
        raise DataError(f"load_parameters: {path} has no xpcap metadata, expected a run's parameters; written by another program?")
    scaling = FeatureScaling(tensors.pop(_MEAN, None), tensors.pop(_SCALE, None))
    return tensors, scaling, json.loads(meta)


def read_config(path: Path) -> dict[str, Any]:
    """The config of a run folder.

    Raises
    ------
    DataError : no run folder, a damaged config, or one of a newer format.
    """
    if not (path / CONFIG).is_file():
        raise DataError(f"open_run: {path} {'has no config.json' if path.exists() else 'does not exist'}, expected a run folder from 'train'")
    config = _read_json(path / CONFIG)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else type(config).__name__
        raise DataError(f"open_run: {path / CONFIG} has format {found}, expected {FORMAT}; made by a newer xpcap?")
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
    try:
        shape = {key: int(config[key]) for key in ("feature_dim", "wordvec", "hidden")}
        model = CaptioningRNN(vocabulary.word_to_idx, shape["feature_dim"], shape["wordvec"], shape["hidden"], str(config["cell"]), seed=0)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"open_run: {path / CONFIG} describes no model, expected what 'train' writes; damaged? ({error!r})") from error
    if set(tensors) != set(model.params):
        raise DataError(f"open_run: {path / BEST} holds {', '.join(sorted(tensors))}, expected {', '.join(sorted(model.params))}; from another run?")
    for name, tensor in tensors.items():
        if tensor.shape != model.params[name].shape:
            raise DataError(f"open_run: {path / BEST}, {name} has shape {tensor.shape}, expected {model.params[name].shape}; from another run?")
        model.params[name] = tensor
    return Run(path, config, vocabulary, scaling, model, meta)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"open_run: {path} is missing, expected a run folder from 'train'") from None
    except ValueError as error:
        raise DataError(f"open_run: {path} is not JSON, expected what 'train' writes; damaged? ({error})") from error
