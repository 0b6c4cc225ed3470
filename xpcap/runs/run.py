"""A run: a captioner with its best parameters, opened from a run folder."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from xpcap.backend import to_numpy
from xpcap.data import CaptionData, open_data
from xpcap.data.dataset import Source, size
from xpcap.data.features import FeatureScaling
from xpcap.data.vocabulary import Vocabulary
from xpcap.distributed.work import notice
from xpcap.encoders import Encoder, find_encoder
from xpcap.encoders.kinds import in_folder, onnx_parts, same_encoder
from xpcap.errors import DataError
from xpcap.models import CaptioningRNN, Policy, build_model
from xpcap.options import described
from xpcap.reranking import Reranker
from xpcap.reranking.file import read_reranker
from xpcap.reranking.reranker import SETTINGS
from xpcap.runs.config import Config
from xpcap.runs.decoder import Decoder, RerankedBeam, limited
from xpcap.runs.folder import (
    BEST,
    CONFIG,
    RERANKING,
    VOCAB,
    best_digest,
    check_parameters,
    check_scaling,
    digest,
    load_parameters,
    read_history,
    read_vocabulary,
)
from xpcap.training.state import Record

DIGITS = 12  # of a digest that identifies a captioner


@dataclass(frozen=True, eq=False)
class Run:
    """An opened run folder: the model with its best parameters, and its context."""

    path: Path
    config: Config
    vocabulary: Vocabulary
    scaling: FeatureScaling  # of features, before the model reads them
    model: CaptioningRNN
    meta: Record  # of the epoch of the parameters
    reranker: Reranker | None = None  # None: captions are not reranked
    reranking: Record = field(default_factory=dict)  # record of the reranker's fit

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.path.resolve().name

    @property
    def source(self) -> Source:
        """The record of how the training data was prepared."""
        return self.config.source

    def require_features(self, thing: str, encoder: str | None, shape: tuple[int, ...]) -> None:
        """Raise DataError unless the features of `thing` fit the run.

        An unknown encoder, which is None, fits any.
        """
        trained = self.source.encoder
        if shape != (wanted := self.model.config.feature_shape):
            got = f"has features of size {size(shape)} instead of {size(wanted)}"
        elif None in (encoder, trained) or same_encoder(encoder, trained):
            return
        else:
            got = f"has features by the encoder {encoder!r} instead of {trained!r}"
        raise DataError(
            f"{thing} {got}, expected features as {self.path} was trained on; made by another"
            " encoder?"
        )

    def data(self, data: CaptionData | str | Path | None = None) -> CaptionData:
        """A data set that fits the run, with the run's scaling.

        If the encoder of the data or of the run is unknown, a notice says that they may not fit.

        data : an open data set, or its path. None: the data set that the run was trained on
        DataError : it is missing, does not fit, or has changed since the run was trained on it
        """
        name = "the data set"
        is_default = data is None
        if not isinstance(data, CaptionData):
            name = str(self._training_data() if data is None else data)
            data = open_data(name)
            if is_default and data.fingerprint != self.config.data_stamp:
                raise DataError(
                    f"{name}, the data of {self.path}, has changed since training, expected it"
                    " unchanged; give it as `data` to use it anyway"
                )
        self.require_features(name, data.source.encoder, data.feature_shape)
        encoders = {name: data.source.encoder, str(self.path): self.source.encoder}
        is_given = data.scaling is not self.scaling  # otherwise this method has returned it
        if is_given and data.fingerprint != self.config.data_stamp and None in encoders.values():
            unnamed = " and ".join(key for key, encoder in encoders.items() if encoder is None)
            notice(
                f"the encoder of the features of {unnamed} is unknown, so they may not fit: give"
                " the encoder when you prepare the data"
            )
        return replace(data, scaling=self.scaling)

    def _training_data(self) -> Path:
        path = self.config.data
        if not path.exists():
            raise DataError(
                f"{path}, the data of {self.path}, is gone, expected the file it was trained on; if"
                " it was moved, give its new path as `data`"
            )
        return path

    def decoder(
        self, policy: Policy | None = None, attend: bool = False, explain: bool = False
    ) -> Decoder:
        """A function that captions features.

        policy : chooses the words, within the run's limits. None: `default_policy`
        attend : fill `attention` of each caption, if the model attends
        explain : fill `explanation` of each reranked caption
        OptionError : the policy forbids every word. TypeError : it is no policy.
        """
        policy = default_policy(self) if policy is None else policy
        within = limited(policy, self.vocabulary, self.config.max_words)
        return Decoder(self.model, self.vocabulary, self.reranker, within, attend, explain)

    @cached_property
    def digest(self) -> str:
        """The first digits of the SHA-256 of all parameters and the reranker's settings."""
        content = hashlib.sha256()
        for name, array in self.model.params.items():
            content.update(name.encode() + to_numpy(array).tobytes())
        if self.reranker is not None:
            settings = [getattr(self.reranker, name) for name in ("weights", *SETTINGS)]
            content.update(json.dumps(settings, sort_keys=True).encode())
        return content.hexdigest()[:DIGITS]

    def signature(self, policy: Policy | None = None) -> str:
        """The captioner in a line: cell, digest, decoding, and limits that are not the default.

        Captions with equal signatures come from the same captioner, even if its run has been moved.
        Errors are those of `decoder`.
        """
        decoder = self.decoder(policy)
        usual = default_policy(self) if decoder.reranker is not None else Policy()
        usual = limited(usual, self.vocabulary, self.config.max_words)
        limits = []
        for name in described(Policy):
            value = getattr(decoder.policy, name)
            if value != getattr(usual, name):
                if name == "forbid":
                    ids = [i for i in value if i not in usual.forbid]
                    value = " ".join(self.vocabulary.idx_to_word[i] for i in ids)
                limits.append(name if value is True else f"{name} {value}")
        model = f"{self.model.config.cell.upper()} with parameters {self.digest}"
        return ", ".join([model, decoder.title, *limits])

    def encoder(self) -> Encoder:
        """The encoder of the run's features; its ONNX file may also be in the run folder.

        DataError : it is unknown or missing.
        """
        name = self.source.encoder
        if name is None:
            raise DataError(
                f"{self.path} was trained on features from an unknown encoder, expected a run whose"
                " encoder is known; new pictures need the same encoder; give the encoder when you"
                " prepare the data, and train again"
            )
        file = onnx_parts(name)[0]
        near = in_folder(name, self.path)
        if file and os.path.isfile(onnx_parts(near)[0]):  # noqa: PTH113 - any text
            name = near
        elif file and not os.path.isfile(file):  # noqa: PTH113
            raise DataError(
                f"{file}, the encoder of {self.path} is gone, expected the file of the features;"
                " copy it into the folder of the run"
            )
        encoder = find_encoder(name)
        self.require_features(f"the encoder {name}", name, encoder.shape)
        return encoder


def open_run(path: str | Path) -> Run:
    """Open a run folder: its model with the best parameters, on the current backend.

    It draws no random number. A notice says if the reranker was fitted to other parameters, as when
    the run was trained further and stopped.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    run : Run

    Raises
    ------
    DataError
        `path` is no run folder, or it is damaged, incomplete or of a newer format.
    """
    path = Path(path)
    config = Config.read(path)
    vocabulary = read_vocabulary(path)
    tensors, scaling, meta = load_parameters(path / BEST)
    if meta.get("vocabulary") != digest(vocabulary):
        raise DataError(
            f"{path / VOCAB} is not the vocabulary that {BEST} was trained with; changed, or from"
            " another run?"
        )
    shape = config.model
    if shape.vocabulary != len(vocabulary):
        raise DataError(
            f"{path / CONFIG} has vocabulary {shape.vocabulary}, expected the {len(vocabulary)}"
            f" words of {VOCAB}; damaged?"
        )
    d = shape.feature_shape[-1]
    check_scaling(path / BEST, scaling, config.recipe.feature_scaling, d)
    check_parameters(path / BEST, tensors, shape.shapes())
    model = build_model(shape, vocabulary.word_to_idx, params=tensors)
    run = Run(path, config, vocabulary, scaling, model, meta)
    file = path / RERANKING
    if not file.is_file():
        return run
    reranker, about = read_reranker(file, vocabulary, d)
    if strange := sorted(about.keys() - {"best", "fit"}):
        raise DataError(
            f"{file} has the member {strange[0][:60]!r}, expected none; made by another version?"
            " Remove it, and `resume` makes it anew"
        )
    if about.get("best") != best_digest(path):
        notice(
            f"the reranker of {path} was fitted to other parameters than its best; `resume` fits it"
            " anew when training ends"
        )
    return replace(run, reranker=reranker, reranking=about)


def default_policy(run: Run, **limits: Any) -> Policy:
    """The policy that a run uses by default; `limits` are fields of Policy."""
    if run.reranker is None:
        return Policy(**limits)
    return RerankedBeam(run.reranker.width, no_stutter=run.reranker.no_stutter, **limits)


# The provenance of the parameters


def provenance_text(run: Run, *, quote: Callable[[str], str] = str) -> str:
    """A sentence with the epoch and, if there are two, the stage of a run's parameters.

    `quote` is applied to the path of the run `start`.
    """

    def cider(records: Iterable[Record]) -> str:
        scores = [record["val_cider"] for record in records if "val_cider" in record]
        return f", CIDEr {max(scores):.3f} on val" if scores else ""

    records = read_history(run.path)
    epoch = run.meta.get("epoch")
    epochs = max((record["epoch"] for record in records), default=epoch)
    if epoch == 0:
        return (
            f"Captions come from the parameters of {quote(str(run.config.recipe.start))}, which"
            f" training started from: none of {epochs} epochs was better."
        )
    second = [record for record in records if "train_reward" in record]
    first = [record for record in records if "train_loss" in record]
    if not (first and second):
        return f"Captions come from epoch {epoch} of {epochs}."
    if "train_reward" not in run.meta:
        return (
            f"Captions come from the first of two stages, cross entropy (epoch {epoch} of"
            f" {len(first)}{cider(first)}): the second, self-critical training, was no"
            f" better{cider(second)}."
        )
    return (
        "Captions come from the second of two stages, self-critical training (epoch"
        f" {epoch} of {epochs}{cider([run.meta])}), after {len(first)} epochs of cross"
        f" entropy{cider(first)}."
    )
