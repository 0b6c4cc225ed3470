"""Captions from a run: of pictures of a data set, beside what people wrote, and of picture files."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xpcap.data import CaptionData, open_data
from xpcap.data.dataset import spread
from xpcap.encoders import find_encoder, find_pictures, read_picture
from xpcap.errors import DataError
from xpcap.progress import bar
from xpcap.runs.folder import Run
from xpcap.runs.sampling import Caption, caption_features, caption_pictures

BATCH = 64  # picture files captioned at once


class PictureCaption(NamedTuple):
    """A picture's name, the caption sampled for it with the probability of each word, and its references."""

    image: str
    caption: str
    probabilities: list[float]
    references: list[str]


class Skipped(NamedTuple):
    """A picture that was to be captioned and could not be."""

    image: str
    reason: str


def data_of(run: Run, file: Path | None, split: str) -> tuple[CaptionData, list[list[str]]]:
    """A split of the data set `file` (the run's own where None) as the run sees it, and its captions as words.

    As the run sees it: encoded with the run's vocabulary, uncut, and scaled as the run scales. The words are the data set's own.

    Raises
    ------
    DataError : the file or the split is not there, does not fit the run, or is the run's own and has changed since.
    """
    path = file or run.path / run.config["data"]  # an absolute path stays what it is
    if file is None and not path.exists():
        raise DataError(f"{run.path}: its data, {path}, is gone, expected the file it was trained on; name where it is now with --data")
    data = open_data(path)
    if file is None and run.config["data_stamp"] not in ("", data.stamp):
        raise DataError(f"{run.path}: its data, {path}, has changed since it was trained, expected the same; score it as another file with --data")
    if data.feature_dim != run.config["feature_dim"]:
        raise DataError(f"{path} has features of size {data.feature_dim}, expected the run's {run.config['feature_dim']}; made by another encoder?")
    words = data.words(split)
    data = data.encoded_with(run.vocabulary, split)
    data.scaling = run.scaling
    return data, words


def caption_run(run: Run, file: Path | None = None, split: str = "val", count: int = 10) -> list[PictureCaption]:
    """Greedy captions of `count` pictures spread evenly over a split, each beside its references."""
    data, _ = data_of(run, file, split)
    pictures = np.unique(data.split(split).image_idxs)  # those that have captions
    return caption_chosen(run, data, split, pictures[spread(len(pictures), count)])


def caption_chosen(run: Run, data: CaptionData, split: str, pictures: np.ndarray) -> list[PictureCaption]:
    """Greedy captions of the pictures numbered `pictures` of a split of data_of, each beside its references."""
    references, images = data.references(split), data.split(split).images
    captions = captions_of(run, data, split, pictures)
    return [PictureCaption(images[i], said.text, said.probabilities, references[i]) for i, said in zip(pictures.tolist(), captions, strict=True)]


def caption_files(run: Run, paths: Sequence[Path], progress: bool = False) -> tuple[list[PictureCaption], list[Skipped]]:
    """Greedy captions of picture files, and of the pictures in folders, through the encoder that made the run's features.

    Returns
    -------
    captions, in the order of the files, and what could not be read, folders without a picture among them, with the reason

    Raises
    ------
    DataError : the run learnt from features that no encoder of ours made.
    """
    name = run.config.get("source", {}).get("encoder")
    if name is None:
        raise DataError(
            f"caption: {run.path} learnt from features that were given to it, expected a run whose data was prepared from pictures; "
            "what made the features must make them for other pictures too"
        )
    encoder = find_encoder(name)
    if encoder.dim != run.config["feature_dim"]:
        raise DataError(
            f"caption: {run.path} learnt from features of size {run.config['feature_dim']}, expected the {encoder.dim} of the {name} encoder; "
            "prepared by another version?"
        )
    captions: list[PictureCaption] = []
    skipped: list[Skipped] = []
    files: list[Path] = []
    for path in paths:
        try:
            files += find_pictures([path])
        except DataError as error:
            skipped.append(_skipped(path, error))
    for start in bar(range(0, len(files), BATCH), progress, "captioning pictures"):
        read: list[tuple[Path, np.ndarray]] = []
        for file in files[start : start + BATCH]:
            try:
                read.append((file, encoder.encode([read_picture(file)])[0]))
            except DataError as error:
                skipped.append(_skipped(file, error))
        if read:
            features = run.scaling(np.stack([feature for _, feature in read]))
            said = caption_features(run.model, run.vocabulary, features, run.config["max_words"])
            captions += [PictureCaption(str(file), c.text, c.probabilities, []) for (file, _), c in zip(read, said, strict=True)]
    return captions, skipped


def _skipped(path: Path, error: DataError) -> Skipped:
    """The reason without the function and the path that it begins with: the path is told beside it."""
    return Skipped(str(path), str(error).partition(f": {path}")[2].lstrip(": "))


def captions_of(run: Run, data: CaptionData, split: str, pictures: np.ndarray, progress: bool = False) -> list[Caption]:
    """Captions of the pictures numbered `pictures` of a split of data_of."""
    return caption_pictures(run.model, data, split, pictures, max_words=run.config["max_words"], progress=progress)
