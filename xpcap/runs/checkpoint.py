"""last.safetensors: where training stands, from which it goes on."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from xpcap.data.features import FeatureScaling
from xpcap.errors import DataError
from xpcap.runs.folder import BEST
from xpcap.runs.scaling import pop_scaling, scaling_tensors
from xpcap.safetensors_file import read_tensors, write_tensors
from xpcap.training.state import TrainingState
from xpcap.training.state_tensors import drew_masks_in_turn, from_tensors, to_tensors

OTHER_MASKS = "is from an older xpcap: training goes on from it with other dropout masks than that version would have drawn"


class Saved(NamedTuple):
    """What last.safetensors holds: where training stands, and what belongs to the run as a whole."""

    state: TrainingState
    scaling: FeatureScaling
    vocabulary: str  # its digest
    drew_masks_in_turn: bool  # it is from an older xpcap, whose dropout masks were others


def save_state(path: str | Path, state: TrainingState, *, scaling: FeatureScaling | None = None, vocabulary: str = "") -> None:
    """Write where training stands, with the feature scaling and the vocabulary's digest of its run. Equal states give equal bytes.

    Raises
    ------
    OSError : the place cannot be written to; what was there before is intact. TypeError : no state.
    """
    if not isinstance(state, TrainingState):
        raise TypeError(f"save_state: state is a {type(state).__name__}, expected what CaptioningSolver.state() returns")
    tensors, meta = to_tensors(state)
    write_tensors(Path(path), {**tensors, **scaling_tensors(scaling or FeatureScaling())}, {**meta, "vocabulary": vocabulary})


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
    scaling, vocabulary = pop_scaling(tensors), meta.get("vocabulary")
    if not isinstance(vocabulary, str):
        raise DataError(f"load_state: {path} has no digest of a vocabulary, expected a training state; is it a {BEST}, or from an older xpcap?")
    return Saved(from_tensors(f"load_state: {path}", tensors, meta, shapes), scaling, vocabulary, drew_masks_in_turn(meta))
