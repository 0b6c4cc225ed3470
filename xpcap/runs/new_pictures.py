"""Captions of new pictures: files, folders of them, and pictures behind URLs, through the encoder that made a run's features."""

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xpcap.data.dataset import size
from xpcap.distributed import SINGLE, Group
from xpcap.encoders import Encoder, find_encoder, find_pictures, is_url, read_picture, read_url
from xpcap.errors import DataError
from xpcap.models import Policy
from xpcap.progress import bar
from xpcap.runs.captioning import PictureCaption, from_all, of_picture, say, source_of
from xpcap.runs.folder import Run

BATCH = 64  # pictures captioned at once


class Skipped(NamedTuple):
    """A picture that could not be captioned, and why."""

    image: str
    reason: str


def caption_files(
    run: Run,
    paths: str | Path | Iterable[str | Path],
    *,
    progress: bool = False,
    keep: Callable[[str, np.ndarray], object] | None = None,
    policy: Policy | None = None,
    group: Group = SINGLE,
    attend: bool = False,
    on_remark: Callable[[str], object] | None = None,
) -> tuple[list[PictureCaption], list[Skipped]]:
    """Captions of picture files, of the pictures in folders and the folders in those, and of pictures behind URLs, through the encoder that made the run's features.

    Parameters
    ----------
    paths : files, folders and URLs, or one of them; text that begins with ``http://`` or ``https://`` is a URL
    keep : is given each URL and its picture, to show it without another download
    policy : as in `caption_features`
    group : ranks that share the pictures out; each returns all captions. Rank 0 does all if there are URLs
    attend : whether to tell where a model that attends looked, as `attention` of each caption
    on_remark : is given a line on each folder's other files, and on folders in it that cannot be read

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
    unreadable: list[Skipped] = []
    places, skipped = _find([paths] if isinstance(paths, str | Path) else paths, on_remark)
    share = group.shard(len(places))
    if any(isinstance(place, str) for place in places):  # what is downloaded is shown later, by rank 0
        share = slice(0, len(places) if group.rank == 0 else 0)
    mine = list(enumerate(places))[share]
    encoded = _encode(bar(mine, progress and group.rank == 0, "captioning pictures", lines=True), encoder, unreadable, keep)
    while batch := list(islice(encoded, BATCH)):
        numbers, names, rows = zip(*batch, strict=True)
        said = say(run.model, run.vocabulary, run.preprocessing(np.stack(rows)), run.config["max_words"], policy, np.array(numbers), attend)
        captions += [of_picture(name, *found, []) for name, found in zip(names, said, strict=True)]
    skipped += [Skipped(*one) for share in group.all_gather(json.dumps(unreadable)) for one in json.loads(share)]
    return from_all(group, captions), skipped


def _encode(
    places: Iterable[tuple[int, str | Path]], encoder: Encoder, skipped: list[Skipped], keep: Callable[[str, np.ndarray], object] | None
) -> Iterator[tuple[int, str, np.ndarray]]:
    """Number, name and feature of each picture that can be read; the others go to `skipped`."""
    for number, place in places:
        try:
            picture = read_url(place) if isinstance(place, str) else read_picture(place)
            feature = encoder.encode([picture])[0]
            if not np.isfinite(feature).all():
                raise DataError(f"caption_files: {place}: the encoder {encoder.name} makes a feature of it that is not finite")
        except DataError as error:
            skipped.append(_skipped(place, error))
            continue
        if keep and isinstance(place, str):
            keep(place, picture)
        yield number, str(place), feature


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


def _find(paths: Iterable[str | Path], on_remark: Callable[[str], object] | None) -> tuple[list[str | Path], list[Skipped]]:
    """URLs as text and picture files as paths, in order; and what holds none."""
    places: list[str | Path] = []
    skipped: list[Skipped] = []
    remarks: list[str] = []
    for path in paths:
        try:
            places += [path] if isinstance(path, str) and is_url(path) else find_pictures([path], remarks=remarks)
        except DataError as error:
            skipped.append(_skipped(Path(path), error))
    for remark in remarks if on_remark else ():
        on_remark(remark)  # type: ignore[misc]  # there is one
    return places, skipped


def _skipped(place: str | Path, error: DataError) -> Skipped:
    """The reason, without the function and place that the message begins with: the place stands beside it."""
    return Skipped(str(place), str(error).partition(f": {place}")[2].lstrip(": ") or str(error))
