"""CS231n's coco_captioning folder, exactly as downloaded: the course's functions on it, and the same data as CaptionData."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from xpcap.data.dataset import CaptionData, Split
from xpcap.data.hdf5 import check_split
from xpcap.data.vocabulary import Vocabulary
from xpcap.errors import DataError, unknown

CAPTIONS, VOCABULARY = "coco2014_captions.h5", "coco2014_vocab.json"
SPLITS = ("train", "val")


def load_coco_data(base_dir: str | Path = "datasets/coco_captioning", max_train: int | None = None, pca_features: bool = True) -> dict[str, Any]:
    """Read the course's COCO captions, features and vocabulary into memory.

    Parameters
    ----------
    base_dir : the folder that coco_captioning.zip unpacks to
    max_train : draw this many training captions, with replacement, from NumPy's legacy global stream, as the course does
    pca_features : the 512-d features, else the 4096-d ones

    Returns
    -------
    dict : ``train_captions`` (n, 17), ``train_image_idxs`` (n,), ``train_features`` (m, D), ``train_urls`` (m,), the same for ``val``,
        ``idx_to_word`` (list), ``word_to_idx`` (dict)

    Raises
    ------
    DataError : a file is missing, truncated, or not what the course ships.
    """
    folder = Path(base_dir)
    print("base dir", folder)
    data: dict[str, Any] = {}
    with _open(folder / CAPTIONS) as file:
        for key in file:
            data[key] = file[key][:]
    for split in SPLITS:
        path = folder / f"{split}2014_vgg16_fc7{'_pca' if pca_features else ''}.h5"
        with _open(path) as file:
            if "features" not in file:
                raise DataError(f"load_coco_data: {path} holds {', '.join(file) or 'nothing'}, expected a dataset 'features'")
            data[f"{split}_features"] = file["features"][:]
        data[f"{split}_urls"] = np.array(_read(folder / f"{split}2014_urls.txt").split())
    try:
        data.update(json.loads(_read(folder / VOCABULARY)))
    except ValueError as error:
        raise DataError(f"load_coco_data: {folder / VOCABULARY} is not JSON, expected the course's vocabulary; truncated? ({error})") from error
    _check_keys("load_coco_data", data)
    if max_train is not None:
        drawn = np.random.randint(len(data["train_captions"]), size=max_train)
        data["train_captions"], data["train_image_idxs"] = data["train_captions"][drawn], data["train_image_idxs"][drawn]
    return data


def sample_coco_minibatch(data: Mapping[str, Any], batch_size: int = 100, split: str = "train") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw captions with replacement from NumPy's legacy global stream, as the course does.

    Returns
    -------
    captions (N, T+1) int, image_features (N, D) float, urls (N,) str

    Raises
    ------
    DataError : no such split.
    """
    if f"{split}_captions" not in data:
        raise unknown("sample_coco_minibatch", "split", split, SPLITS, DataError)
    drawn = np.random.choice(len(data[f"{split}_captions"]), batch_size)
    images = data[f"{split}_image_idxs"][drawn]
    return data[f"{split}_captions"][drawn], data[f"{split}_features"][images], data[f"{split}_urls"][images]


def from_coco(data: Mapping[str, Any], source: Mapping[str, Any] | None = None) -> CaptionData:
    """The dict of load_coco_data as CaptionData. Splits without captions are left out; URLs serve as the pictures' names."""
    _check_keys("from_coco", data)
    splits = {}
    for name in SPLITS:
        if len(data.get(f"{name}_captions", ())):
            features = data[f"{name}_features"]
            images = data.get(f"{name}_urls", np.arange(len(features)))
            splits[name] = Split(data[f"{name}_captions"], data[f"{name}_image_idxs"], features, [str(url) for url in images])
    return CaptionData(Vocabulary(data["idx_to_word"]), splits, dict(source or {}))


def read_coco_folder(folder: Path) -> CaptionData:
    """Open a coco_captioning folder, with its 512-d features where they are there, and check it as a dataset file is checked."""
    pca = (folder / "train2014_vgg16_fc7_pca.h5").exists()
    data = from_coco(load_coco_data(folder, pca_features=pca), {"folder": folder.name, "pca_features": pca})
    for name, split in data.splits.items():
        check_split(f"{folder}, split {name!r}", split, data.vocabulary)
    return data


def _check_keys(function: str, data: Mapping[str, Any]) -> None:
    wanted = ("train_captions", "train_image_idxs", "train_features", "idx_to_word", "word_to_idx")
    if missing := [key for key in wanted if key not in data]:
        raise DataError(f"{function}: {', '.join(missing)} missing, expected the course's keys {', '.join(wanted)} and the same for val")


def _open(path: Path) -> h5py.File:
    if not path.exists():
        raise DataError(f"load_coco_data: {path} is missing, expected the folder that the course's coco_captioning.zip unpacks to")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"load_coco_data: {path} cannot be opened as HDF5; truncated download? ({error})") from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"load_coco_data: {path} is missing, expected the folder that the course's coco_captioning.zip unpacks to") from None
