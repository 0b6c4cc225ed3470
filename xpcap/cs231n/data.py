"""A small data set in the layout of the course's coco_captioning, with generated pictures."""

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from xpcap import encoders
from xpcap.data import CaptionData
from xpcap.data.cs231n import CAPTIONS, VOCABULARY
from xpcap.data.features import fit_projection
from xpcap.data.hdf5 import GZIP
from xpcap.drawings import generate, write_pictures
from xpcap.encoders import read_picture
from xpcap.encoders.download import local_path
from xpcap.errors import DataError
from xpcap.files.read_write import new_folder, require_new_file
from xpcap.progress import say

# Pictures, so that 50 sampled captions rarely share one
TRAIN = 2000
VAL = 200
MAX_WORDS = 15  # of a caption, as in the course
COMPONENTS = 512  # of the PCA of a feature, as in the course
# Scaled features have a deviation of about 1. The course's notebook overfits 50 captions to a loss below 0.1 at
# its learning rates, and an RNN needs that scale to do so
SCALE = np.float32(10)


def write_course_data(
    folder: str | Path, *, seed: int = 0, train: int = TRAIN, val: int = VAL, progress: bool = False
) -> CaptionData:
    """Draw pictures and captions, write them in the layout of the course's data, and return them.

    The file names are the course's, but the features are not VGG-16's: ``*2014_vgg16_fc7.h5`` has
    those of HistogramEncoder times 10, ``*_pca.h5`` their 512 principal components, fitted on the
    train split. The returned data has the features before PCA. As in the course, captions have at
    most 15 words. The lists of URLs name the pictures in the folder by ``file:`` URLs, which break
    once it is moved.

    folder : a new folder; missing parents are made
    seed, train, val, progress : as in `generate`
    DataError : the folder exists, or cannot be made. OSError : writing failed; no folder is left.
    """
    folder = Path(folder).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    require_new_file(folder)
    data = _short(generate(seed, train=train, val=val, progress=progress))
    with new_folder(folder) as part:
        _write(part, folder, data)
    return data


def _short(data: CaptionData) -> CaptionData:
    """The data without captions of more than MAX_WORDS words, in as many columns as the course's."""
    splits = {}
    for name, split in data.splits.items():
        captions = split.captions
        rows = np.flatnonzero((captions[:, MAX_WORDS + 2 :] == data.vocabulary.null).all(axis=1))
        assert split.text is not None
        splits[name] = replace(
            split,
            captions=captions[rows, : MAX_WORDS + 2],
            image_idxs=split.image_idxs[rows],
            features=split.features[:] * SCALE,
            text=[split.text[row] for row in rows.tolist()],
        )
    return replace(data, splits=splits)


def _write(part: Path, folder: Path, data: CaptionData) -> None:
    """Write all files to `part`, which will be renamed to `folder`."""
    words = data.vocabulary
    vocabulary = {"idx_to_word": words.idx_to_word, "word_to_idx": words.word_to_idx}
    (part / VOCABULARY).write_text(json.dumps(vocabulary), encoding="utf-8")
    projection = fit_projection(data.split("train").features, COMPONENTS)
    with h5py.File(part / CAPTIONS, "w") as file:
        for name, split in data.splits.items():
            pictures = f"{name}2014"
            file[f"{name}_captions"] = split.captions
            file[f"{name}_image_idxs"] = split.image_idxs
            features = np.asarray(split.features)
            for suffix, array in (("", features), ("_pca", projection(features))):
                with h5py.File(part / f"{pictures}_vgg16_fc7{suffix}.h5", "w") as features_file:
                    features_file.create_dataset("features", data=array, **GZIP)
            write_pictures(part / pictures, data, name)
            for thing, lines in (
                ("images", [f"{pictures}/{image}" for image in split.images]),
                ("urls", [(folder / pictures / image).as_uri() for image in split.images]),
            ):
                text = "".join(f"{line}\n" for line in lines)
                (part / f"{pictures}_{thing}.txt").write_text(text, encoding="utf-8")


def image_from_url(url: str) -> np.ndarray | None:
    """The course's function: the picture of an http, https or ``file:`` URL, (height, width, 3).

    After an error it prints a line and returns None. http and https URLs go to
    xpcap.encoders.image_from_url. ``file:`` URLs, such as those of write_course_data, are read from
    this machine.
    """
    path = local_path(str(url))
    if path is None:
        return encoders.image_from_url(url)
    try:
        return read_picture(path)
    except DataError as error:
        say(f"image_from_url: {error}; was the folder of the data moved?")
        return None
