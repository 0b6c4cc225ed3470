"""Records the pictures that a run was trained on, and finds them in a data set."""

import json
from itertools import islice
from pathlib import Path

import numpy as np

from xpcap.data import CaptionData
from xpcap.data.features import LazyRows, RowSource, row_digests
from xpcap.distributed.work import notice
from xpcap.errors import DataError
from xpcap.files.json_text import check_json, read_json
from xpcap.files.read_write import write_text
from xpcap.runs.folder import A_RUN, TRAINED_ON
from xpcap.runs.run import Run

DIGITS = 16  # of a digest: enough to distinguish millions of pictures
MAX_BYTES = 2**28  # of the record: some millions of pictures
NAMED = 3  # pictures that a notice names


def write_trained_on(folder: Path, data: CaptionData, start: Run | None) -> None:
    """Record the pictures of the train split, and those that the run `start` recorded.

    A mirrored picture has another feature, and so another digest.
    """
    train = data.split("train")
    record = {"features": {*_digests(train.features)}, "names": {*train.images}}
    if start is not None and (earlier := _read(start)):
        record = {key: values | earlier[key] for key, values in record.items()}
    content = {key: sorted(values) for key, values in record.items()}
    write_text(folder / TRAINED_ON, json.dumps(content, ensure_ascii=False, indent=0) + "\n")


def trained_on(run: Run, data: CaptionData, split: str, pictures: np.ndarray) -> int | None:
    """The number of `pictures` of a split that the run was trained on; None: it is not known.

    Pictures are recognised by feature or name. A notice has their number and the first names.

    pictures : sorted numbers of pictures
    """
    if (record := _read(run)) is None:
        return None
    images = data.split(split).images
    rows = LazyRows(data.split(split).features, pictures)
    names = [
        images[number]
        for number, digest in zip(pictures.tolist(), _digests(rows), strict=True)
        if digest in record["features"] or images[number] in record["names"]
    ]
    if names:
        first = ", ".join(name[:100] for name in islice(names, NAMED))
        notice(
            f"{run.path} was trained on {len(names):,} of the {len(pictures):,} pictures of {split},"
            f" recognised by feature or name ({first}{', ...' * (len(names) > NAMED)}): their scores"
            " are too good"
        )
    return len(names)


def _digests(rows: RowSource) -> list[str]:
    return [digest.hex()[:DIGITS] for digest in row_digests(rows)]


def _read(run: Run) -> dict[str, set[str]] | None:
    """The record of a run; None, with a notice, if it is missing or damaged."""
    path = run.path / TRAINED_ON
    try:
        content = read_json(path, MAX_BYTES, A_RUN)
        check_json(path, content, {"features": [str], "names": [str]})
    except DataError as error:
        notice(f"the pictures that {run.path} was trained on are unknown: {error}")
        return None
    return {key: set(values) for key, values in content.items()}
