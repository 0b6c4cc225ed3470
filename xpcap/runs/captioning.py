"""Captions from a run: of the pictures of a data set, beside what people wrote, and of picture files and URLs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpcap.data import CaptionData, open_data
from xpcap.data.dataset import size, spread
from xpcap.data.source import Source
from xpcap.data.vocabulary import Vocabulary
from xpcap.encoders import Encoder, find_encoder, find_pictures, is_url, read_picture, read_url
from xpcap.errors import DataError, OptionError
from xpcap.models import Beam, Policy
from xpcap.progress import bar
from xpcap.runs.folder import Run

BATCH = 64  # pictures captioned at once


class Ranked(NamedTuple):
    """One of the captions that came out of a beam, and its total log-probability, END included."""

    caption: str
    log_probability: float


class Caption(NamedTuple):
    """What a model says, word by word, and the probability it gave each word."""

    words: list[str]
    probabilities: list[float]

    @property
    def text(self) -> str:
        """The caption as one line."""
        return " ".join(self.words)


class PictureCaption(NamedTuple):
    """A picture's name, its caption with the probability of each word, its references, and of a beam the n best captions."""

    image: str
    caption: str
    probabilities: list[float]
    references: list[str]
    n_best: Sequence[Ranked] = ()


class Skipped(NamedTuple):
    """A picture that could not be captioned, and why."""

    image: str
    reason: str


def data_of(run: Run, data: CaptionData | str | Path | None = None) -> CaptionData:
    """A data set as the run sees it: checked to fit, and its features scaled, and projected unless they have been, as the run does it.

    Parameters
    ----------
    data : an open data set, or the path of one; None: the one that the run was trained on

    Raises
    ------
    DataError : it is not there, does not fit the run, or is the run's own and has changed since.
    """
    where = "the data set"
    if not isinstance(data, CaptionData):
        where = str(_own(run) if data is None else data)
        opened = open_data(where)
        if data is None and run.config["data_stamp"] not in ("", opened.stamp):
            raise DataError(
                f"data_of: {where}, the data of {run.path}, has changed since training, expected it unchanged; give it as `data` to use it anyway"
            )
        data = opened
    if data.projection is not None and not data.projection.is_like(run.projection):
        raise DataError(f"data_of: {where} was prepared with another PCA than the data of {run.path}, expected the same, or none; prepare it without")
    expected = run.raw_shape if data.projection is None else run.model.config.feature_shape
    if data.feature_shape != expected:
        raise DataError(
            f"data_of: {where} has features of size {size(data.feature_shape)}, expected the run's {size(expected)}; made by another encoder?"
        )
    return replace(data, scaling=run.preprocessing if data.projection is None else run.scaling)


def _own(run: Run) -> Path:
    """The path of the data that a run was trained on."""
    path = run.path / run.config["data"]  # an absolute path stays what it is
    if not path.exists():
        raise DataError(
            f"data_of: {path}, the data of {run.path}, is gone, expected the file it was trained on; if it was moved, give its new path as `data`"
        )
    return path


def source_of(run: Run) -> Source:
    """How the data that a run was trained on came about."""
    return Source.from_json(f"open_run: {run.path}", run.config.get("source", {}))


def caption_run(
    run: Run, data: CaptionData | str | Path | None = None, split: str = "val", count: int = 10, policy: Policy | None = None
) -> list[PictureCaption]:
    """Captions of `count` pictures spread evenly over a split, each beside its references.

    Parameters
    ----------
    data : as in `data_of`
    policy : as in `caption_features`

    Raises
    ------
    DataError : the data set, or the split, is not there or does not fit the run.
    """
    seen = data_of(run, data)
    pictures = captioned(seen, split)
    return caption_chosen(run, seen, split, pictures[spread(len(pictures), count)], policy=policy)


def captioned(data: CaptionData, split: str) -> np.ndarray:
    """Numbers of the pictures of a split that have captions, in rising order."""
    return np.unique(data.split(split).image_idxs)


def caption_chosen(
    run: Run, data: CaptionData, split: str, pictures: np.ndarray, progress: bool = False, policy: Policy | None = None
) -> list[PictureCaption]:
    """Captions of the pictures numbered `pictures` of a split of `data_of`, each beside its references. `policy` is as in `caption_features`."""
    references, images = data.references(split), data.split(split).images
    said = _say_pictures(run.model, run.vocabulary, data, split, pictures, run.config["max_words"], progress=progress, policy=policy)
    return [_of_picture(images[i], *found, references[i]) for i, found in zip(pictures.tolist(), said, strict=True)]


def _of_picture(name: str, said: Caption, n_best: Sequence[Ranked], references: list[str]) -> PictureCaption:
    return PictureCaption(name, said.text, said.probabilities, references, n_best)


def caption_files(
    run: Run,
    paths: str | Path | Iterable[str | Path],
    progress: bool = False,
    keep: Callable[[str, np.ndarray], object] | None = None,
    policy: Policy | None = None,
) -> tuple[list[PictureCaption], list[Skipped]]:
    """Captions of picture files, of the pictures in folders, and of pictures behind URLs, through the encoder that made the run's features.

    Parameters
    ----------
    paths : files, folders and URLs, or one of them; text that begins with ``http://`` or ``https://`` is a URL
    keep : is given each URL and its picture, to show it without another download
    policy : as in `caption_features`

    Returns
    -------
    captions, in the order of `paths`; and what could not be read, with the reason: pictures, folders without one, and URLs, which are limited
        as in `read_url`

    Raises
    ------
    DataError : the run was trained on features that no encoder of this package made.
    """
    encoder = _encoder_of(run)
    captions: list[PictureCaption] = []
    places, skipped = _find([paths] if isinstance(paths, str | Path) else paths)
    encoded = _encode(bar(places, progress, "captioning pictures"), encoder, skipped, keep)
    while batch := list(islice(encoded, BATCH)):
        features = run.preprocessing(np.stack([feature for _, feature in batch]))
        numbers = np.arange(len(captions), len(captions) + len(batch))
        said = _say(run.model, run.vocabulary, features, run.config["max_words"], policy, numbers)
        captions += [_of_picture(name, *found, []) for (name, _), found in zip(batch, said, strict=True)]
    return captions, skipped


def _encode(
    places: Iterable[str | Path], encoder: Encoder, skipped: list[Skipped], keep: Callable[[str, np.ndarray], object] | None
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and feature of each picture that can be read; the others go to `skipped`."""
    for place in places:
        try:
            picture = read_url(place) if isinstance(place, str) else read_picture(place)
            feature = encoder.encode([picture])[0]
        except DataError as error:
            skipped.append(_skipped(place, error))
            continue
        if keep and isinstance(place, str):
            keep(place, picture)
        yield str(place), feature


def _encoder_of(run: Run) -> Encoder:
    name = source_of(run).encoder
    if name is None:
        raise DataError(
            f"caption_files: {run.path} learnt from features that were given to it, expected a run whose data was prepared from pictures; "
            "new pictures need the encoder that made those features; the command 'prepare' encodes a folder of pictures by a known one, to train on"
        )
    encoder = find_encoder(name)
    if encoder.shape != run.raw_shape:
        raise DataError(
            f"caption_files: {run.path} learnt from features of size {size(run.raw_shape)}, expected the {size(encoder.shape)} of the {name} encoder; "
            "prepared by another version?"
        )
    return encoder


def _find(paths: Iterable[str | Path]) -> tuple[list[str | Path], list[Skipped]]:
    """URLs as text and picture files as paths, in order; and what holds none."""
    places: list[str | Path] = []
    skipped: list[Skipped] = []
    for path in paths:
        try:
            places += [path] if isinstance(path, str) and is_url(path) else find_pictures([path])
        except DataError as error:
            skipped.append(_skipped(Path(path), error))
    return places, skipped


def _skipped(place: str | Path, error: DataError) -> Skipped:
    """The reason, without the function and place that the message begins with: the place stands beside it."""
    return Skipped(str(place), str(error).partition(f": {place}")[2].lstrip(": ") or str(error))


def caption_features(
    model: Any, vocabulary: Vocabulary, features: np.ndarray, max_words: int, policy: Policy | None = None, numbers: np.ndarray | None = None
) -> list[Caption]:
    """Captions for scaled features (n, D). They end at END or after `max_words`, and never hold NULL, START or UNK.

    Parameters
    ----------
    policy : chooses the words; captions keep to its limits as well. None: greedy
    numbers : (n,), of the pictures, for a policy that draws. None: 0..n-1

    Raises
    ------
    OptionError : the policy wants longer captions than there are, or no word is left to it.
    """
    return [caption for caption, _ in _say(model, vocabulary, features, max_words, policy, numbers)]


def _say(
    model: Any, vocabulary: Vocabulary, features: np.ndarray, max_words: int, policy: Policy | None, numbers: np.ndarray | None
) -> Iterator[tuple[Caption, list[Ranked]]]:
    """The same, each with the n best captions if they come out of a beam."""
    said = model.say(features, _within(policy or Policy(max_length=max_words), vocabulary, max_words), numbers)
    for ids, probabilities, totals in zip(*said, strict=True):
        words = vocabulary.words(ids[0])
        best = zip(ids, totals.tolist(), strict=True) if isinstance(policy, Beam) else ()
        ranked = [Ranked(" ".join(vocabulary.words(one)), total) for one, total in best if total > -np.inf]
        yield Caption(words, [float(p) for p in probabilities[0][: len(words)]]), ranked


def _within(policy: Policy, vocabulary: Vocabulary, max_words: int) -> Policy:
    """A policy that keeps to `max_words` too, and to words that mean something."""
    most, silent = min(policy.max_length, max_words), {vocabulary.null, vocabulary.start, vocabulary.unk, *policy.forbid}
    if not set(range(len(vocabulary))) - silent - {vocabulary.end}:
        raise OptionError(f"caption: `forbid` leaves none of {len(vocabulary)} words, expected some to be left; which are to be said?")
    return replace(policy, max_length=most, forbid=tuple(sorted(silent)))


def caption_pictures(
    model: Any,
    vocabulary: Vocabulary,
    data: CaptionData,
    split: str,
    pictures: Sequence[int] | np.ndarray,
    max_words: int,
    batch_size: int = 500,
    progress: bool = False,
    policy: Policy | None = None,
) -> list[Caption]:
    """Captions for the pictures numbered `pictures` (n,) of a split, in that order. `policy` is as in `caption_features`."""
    return [caption for caption, _ in _say_pictures(model, vocabulary, data, split, pictures, max_words, batch_size, progress, policy)]


def _say_pictures(
    model: Any,
    vocabulary: Vocabulary,
    data: CaptionData,
    split: str,
    pictures: Sequence[int] | np.ndarray,
    max_words: int,
    batch_size: int = 500,
    progress: bool = False,
    policy: Policy | None = None,
) -> Iterator[tuple[Caption, list[Ranked]]]:
    for start in bar(range(0, len(pictures), batch_size), progress, f"captioning {split}"):
        numbers = np.asarray(pictures[start : start + batch_size])
        yield from _say(model, vocabulary, data.features(split, numbers), max_words, policy, numbers)
