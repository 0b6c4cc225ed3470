"""Data sets: captions and features, from a file to minibatches. Open dataset.py first.

hdf5.py reads and writes files, loader.py makes minibatches, vocabulary.py converts text to ids.
"""

from pathlib import Path

from xpcap.data.cs231n import load_coco_data, read_coco_folder, sample_coco_minibatch, to_coco
from xpcap.data.dataset import CaptionData, Source, Split
from xpcap.data.hdf5 import read_dataset, with_fingerprint, write_dataset
from xpcap.data.vocabulary import Vocabulary, decode_captions, detokenize, tokenize
from xpcap.errors import DataError


def open_data(path: str | Path) -> CaptionData:
    """Open a dataset file, or CS231n's coco_captioning folder.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    data : CaptionData

    Raises
    ------
    DataError
        It does not exist, is damaged, or is not a data set.

    Examples
    --------
    >>> import tempfile
    >>> from xpcap import generate
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_dataset(f"{folder}/data.h5", generate(train=4, val=2, progress=False))
    ...     data = open_data(f"{folder}/data.h5")
    >>> len(data.split("train").images)
    4
    """
    path = Path(path)
    if path.is_dir():
        return with_fingerprint(read_coco_folder(path))
    if not path.exists():
        raise DataError(
            f"{path} does not exist, expected a dataset file from 'prepare' or a coco_captioning"
            " folder"
        )
    return read_dataset(path)


__all__ = [
    "CaptionData",
    "Source",
    "Split",
    "Vocabulary",
    "decode_captions",
    "detokenize",
    "load_coco_data",
    "open_data",
    "read_dataset",
    "sample_coco_minibatch",
    "to_coco",
    "tokenize",
    "write_dataset",
]
