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
from xpcap.encoders import read_picture
from xpcap.encoders.download import local_path
from xpcap.errors import DataError
from xpcap.files import new_folder, require_new_file
from xpcap.progress import say
from xpcap.shapes import generate, write_pictures

TRAIN, VAL = 2000, 200  # pictures: enough that few of fifty captions share one
WORDS = 15  # of a caption, at most, as in the course
REDUCED = 512  # numbers of a feature after PCA, as in the course
# of features, which then vary by about 1: at the course's learning rates an RNN learns fifty
# captions by heart to a loss below 0.1, as its notebook asks
SCALE = np.float32(10)


def write_course_data(
    folder: str | Path, *, seed: int = 0, train: int = TRAIN, val: int = VAL, progress: bool = False
) -> CaptionData:
    """Draw pictures and captions, and write them as the course lays out its data.

    The data that it returns has the features before PCA. Features in ``*2014_vgg16_fc7.h5`` are 10
    times those of HistogramEncoder, those in ``*_pca.h5`` their 512 principal components, fitted on
    the train split: file names are the course's, and nothing here is VGG-16's. Captions of more than 15
    words are left out, as there. The lists of URLs hold ``file:`` URLs of the pictures, which lie
    in the folder as well; they lead nowhere once it is moved.

    folder : to make, with its parents
    seed, train, val, progress : as in `generate`
    DataError : the folder exists, or may not be made. OSError : it cannot be written; then there is
        none.
    """
    folder = Path(folder).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    require_new_file("write_course_data", folder)
    data = _short(generate(seed, train=train, val=val, progress=progress))
    with new_folder("write_course_data", folder) as part:
        _write(part, folder, data)
    return data


def _short(data: CaptionData) -> CaptionData:
    """The data with captions of at most WORDS words, in as many columns as the course's."""
    splits = {}
    for name, split in data.splits.items():
        captions = split.captions
        rows = np.flatnonzero((captions[:, WORDS + 2 :] == data.vocabulary.null).all(axis=1))
        assert split.text is not None
        splits[name] = replace(
            split,
            captions=captions[rows, : WORDS + 2],
            image_idxs=split.image_idxs[rows],
            features=split.features[:] * SCALE,
            text=[split.text[row] for row in rows.tolist()],
        )
    return replace(data, splits=splits)


def _write(part: Path, folder: Path, data: CaptionData) -> None:
    """Write all files to `part`, which is to become `folder`."""
    words = data.vocabulary
    vocabulary = {"idx_to_word": words.idx_to_word, "word_to_idx": words.word_to_idx}
    (part / VOCABULARY).write_text(json.dumps(vocabulary), encoding="utf-8")
    projection = fit_projection(data.split("train").features, REDUCED)
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

    An error prints a line and gives None. For http and https it is
    xpcap.encoders.image_from_url; a ``file:`` URL, as write_course_data makes them, leads to a
    picture on this machine.
    """
    path = local_path(str(url))
    if path is None:
        return encoders.image_from_url(url)
    try:
        return read_picture(path)
    except DataError as error:
        say(f"image_from_url: {error}; was the folder of the data moved?")
        return None
