"""CS231n's coco_captioning folder: the course's functions that read it, and conversion to CaptionData."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.data.dataset import CaptionData, Source, Split, check_data
from xpcap.data.hdf5 import open_hdf5
from xpcap.data.vocabulary import Vocabulary
from xpcap.errors import DataError, InvalidTypeError, one_of
from xpcap.files.json_text import check_json, read_json
from xpcap.files.read_write import read_text
from xpcap.options import Flag

CAPTIONS = "coco2014_captions.h5"
VOCABULARY = "coco2014_vocab.json"
SPLITS = ("train", "val")
ARRAYS = ("captions", "image_idxs", "features")  # of each split
MAX_TEXT_BYTES = 64 * 2**20  # the course's longest list of URLs has 5 MB
# Relative to cs231n/ and to the assignment's folder, at Stanford and at Berkeley
USUAL = tuple(f"{parent}datasets/coco_captioning" for parent in ("", "cs231n/", "deeplearning/"))
FOLDER = "the folder that the course's coco_captioning.zip unpacks to"


def load_coco_data(
    base_dir: str | Path | None = None, max_train: int | None = None, pca_features: bool = True
) -> dict[str, Any]:
    """Read the course's COCO captions, features and vocabulary; print the folder, as the course does.

    Parameters
    ----------
    base_dir : str, Path or None
        The folder that coco_captioning.zip unpacks to. None: the first of datasets/coco_captioning,
        and the same in cs231n/ and deeplearning/, that exists.
    max_train : int or None
        Draw this many training captions with replacement from NumPy's legacy global stream, as the
        course does. None: take all.
    pca_features : bool
        Read the 512-d features instead of the 4096-d ones.

    Returns
    -------
    data : dict
        ``train_captions`` (n, 17), ``train_image_idxs`` (n,), ``train_features`` (m, D),
        ``train_urls`` (m,), likewise for ``val``, ``idx_to_word`` (list), ``word_to_idx`` (dict).

    Raises
    ------
    DataError
        A file is missing, truncated, or not as the course ships it.
    OptionError
        `pca_features` is neither True nor False.
    """
    pca_features = Flag().check("`pca_features`", pca_features)
    base_dir = _find() if base_dir is None else base_dir
    print("base dir", base_dir)
    data = _load(Path(base_dir), pca_features)
    if max_train is not None:
        drawn = np.random.randint(len(data["train_captions"]), size=max_train)
        for key in ("train_captions", "train_image_idxs"):
            data[key] = data[key][drawn]
    return data


def sample_coco_minibatch(
    data: Mapping[str, Any], batch_size: int = 100, split: str = "train"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw captions with replacement from NumPy's legacy global stream, as the course does.

    Parameters
    ----------
    data : mapping
        As load_coco_data returns it.
    batch_size : int
        N.
    split : str
        "train" or "val".

    Returns
    -------
    captions : array (N, T+1), int
    image_features : array (N, D), float
    urls : array (N,), str

    Raises
    ------
    DataError
        There is no such split.
    """
    if f"{split}_captions" not in data:
        raise DataError(f"split {split!r} does not exist, expected {one_of(SPLITS, split)}")
    drawn = np.random.choice(len(data[f"{split}_captions"]), batch_size)
    images = data[f"{split}_image_idxs"][drawn]
    return (
        data[f"{split}_captions"][drawn],
        data[f"{split}_features"][images],
        data[f"{split}_urls"][images],
    )


def from_coco(
    data: Mapping[str, Any],
    source: Source | None = None,
    start: bool = False,
    label: object = "the dict",
) -> CaptionData:
    """CaptionData of the dict that load_coco_data returns.

    Splits without captions are left out; URLs serve as names of pictures.

    data : the course's keys; those of val may be missing
    source : origin of the data
    start : require each caption to begin with ``<START>``
    label : name of the data in messages
    DataError : a key is missing, or arrays do not fit together. TypeError : `data` is no mapping.

    Examples
    --------
    >>> from xpcap import generate
    >>> from_coco(to_coco(generate(train=4, val=2, progress=False))).feature_shape
    (2101,)
    """
    if not isinstance(data, Mapping):
        raise InvalidTypeError(
            f"data is a {type(data).__name__}, expected CaptionData, or the dict that"
            " load_coco_data returns; open_data opens a file"
        )
    names = [name for name in SPLITS if np.size(data.get(f"{name}_captions", ()))]
    required = ["idx_to_word", *(f"{name}_{array}" for name in names for array in ARRAYS)]
    if missing := [key for key in required if key not in data]:
        raise DataError(f"{label} lacks {', '.join(missing)}, expected what load_coco_data returns")
    _require_agreement(label, data, names)
    splits = {}
    for name in names:
        captions, image_idxs, features = (data[f"{name}_{array}"] for array in ARRAYS)
        images = data.get(f"{name}_urls", np.arange(len(features)))
        splits[name] = Split(captions, image_idxs, features, [str(url) for url in images])
    converted = CaptionData(Vocabulary(data["idx_to_word"]), splits, source=source or Source())
    check_data(label, converted, start)
    return converted


def to_coco(data: CaptionData) -> dict[str, Any]:
    """The dict that load_coco_data returns, for code written for the course; inverse of from_coco.

    Parameters
    ----------
    data : CaptionData
        With a train or a val split; other splits are left out, as the course has no keys for them.

    Returns
    -------
    data : dict
        ``train_captions`` (n, T+1) int32, ``train_image_idxs`` (n,) int32, ``train_features`` (m, D)
        float, scaled and in memory, ``train_urls`` (m,) str, the names of the pictures; likewise for
        ``val``; ``idx_to_word`` (list), ``word_to_idx`` (dict). Arrays may be shared with `data`.

    Raises
    ------
    DataError
        There is neither split, or a feature on disk is not finite.

    Examples
    --------
    >>> from xpcap import generate
    >>> data = to_coco(generate(train=4, val=2, progress=False))
    >>> data["val_features"].shape
    (2, 2101)
    """
    names = [name for name in SPLITS if name in data.splits]
    if not names:
        raise DataError(
            f"the data has the splits {', '.join(data.splits) or 'none'}, expected train or val:"
            " the course has no others"
        )
    arrays: dict[str, Any] = {}
    for name in names:
        split = data.split(name)
        arrays[f"{name}_captions"] = split.captions
        arrays[f"{name}_image_idxs"] = split.image_idxs
        arrays[f"{name}_features"] = data.features(name, np.arange(len(split.images)))
        arrays[f"{name}_urls"] = np.array(split.images, dtype=str)
    words = data.vocabulary
    return {**arrays, "idx_to_word": [*words.idx_to_word], "word_to_idx": {**words.word_to_idx}}


def read_coco_folder(folder: Path) -> CaptionData:
    """CaptionData of a coco_captioning folder, checked; with 4096-d features if it has no others."""
    if not (folder / CAPTIONS).exists():
        raise DataError(
            f"{folder} is a folder without {CAPTIONS}, expected a dataset file from 'prepare', or"
            f" {FOLDER}"
        )
    pca = (folder / "train2014_vgg16_fc7_pca.h5").exists()
    return from_coco(
        _load(folder, pca),
        Source(record={"folder": folder.resolve().name, "pca_features": pca}),
        start=True,
        label=folder,
    )


def _find() -> Path:
    for folder in USUAL:
        if Path(folder).is_dir():
            return Path(folder)
    raise DataError(
        f"{Path.cwd()} has none of {', '.join(USUAL)}, expected {FOLDER}; give its path as"
        " `base_dir`, or make a small one: python -m xpcap.cs231n.write_data"
    )


def _load(folder: Path, pca: bool) -> dict[str, Any]:
    names = [f"{split}_{array}" for split in SPLITS for array in ("captions", "image_idxs")]
    data: dict[str, Any] = _arrays(folder / CAPTIONS, names)
    for split in SPLITS:
        path = folder / f"{split}2014_vgg16_fc7{'_pca' if pca else ''}.h5"
        data[f"{split}_features"] = _arrays(path, ["features"])["features"]
        path = folder / f"{split}2014_urls.txt"
        lines = read_text(path, MAX_TEXT_BYTES, FOLDER).splitlines()
        data[f"{split}_urls"] = np.array([line for line in lines if line])
    data |= _vocabulary(folder / VOCABULARY)
    _require_agreement(folder, data, SPLITS)
    return data


def _require_agreement(source: object, data: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise DataError unless each row of features has a URL, and both vocabularies agree."""
    for name in names:
        features = data[f"{name}_features"]
        if len(urls := data.get(f"{name}_urls", features)) != len(features):
            raise DataError(
                f"{source} has {len(urls)} {name}_urls for {len(features)} feature rows, expected"
                f" a URL for each row; {name}2014_urls.txt cut short?"
            )
    ids = {word: i for i, word in enumerate(data["idx_to_word"])}
    stored = data.get("word_to_idx", ids)
    if odd := [word for word, i in stored.items() if i != ids.get(word)]:
        word = odd[0]
        i = ids.get(odd[0])
        listed = "lacks the word" if i is None else f"gives it {i}"
        raise DataError(
            f"{source}: word_to_idx gives {word!r} the id {stored[word]}, but idx_to_word {listed},"
            " expected one id for each word; of two vocabularies?"
        )


def _vocabulary(path: Path) -> dict[str, Any]:
    form = {"idx_to_word": [str], "word_to_idx": {"*": int}}
    stored = read_json(path, MAX_TEXT_BYTES, FOLDER)
    check_json(path, stored, form)
    return {name: stored[name] for name in form}


def _arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """All arrays of an HDF5 file, which must include `names`."""
    if not path.exists():
        raise DataError(f"{path} is missing, expected {FOLDER}")
    expected = "what the course ships"
    file = open_hdf5(path, expected)
    try:
        with file:
            arrays = {key: file[key][:] for key in file}
    except Exception as error:  # damaged HDF5 raises errors of many types
        raise DataError(
            f"{path} cannot be read, expected {expected}; truncated download? ({error!r})"
        ) from error
    if missing := [name for name in names if name not in arrays]:
        raise DataError(
            f"{path} lacks {', '.join(missing)}, holds {', '.join(map(repr, arrays)) or 'nothing'},"
            f" expected {expected}"
        )
    return arrays
