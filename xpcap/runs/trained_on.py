"""The pictures that a run was trained on: recorded in its folder, and found among others."""

import json
from itertools import islice
from pathlib import Path

import numpy as np

from xpcap.data import CaptionData
from xpcap.data.features import LazyRows, RowSource, row_digests
from xpcap.errors import DataError
from xpcap.files import write_text
from xpcap.json_text import check_json, read_json
from xpcap.runs.folder import A_RUN, TRAINED_ON
from xpcap.runs.run import Run
from xpcap.work import notice

DIGITS = 16  # of a digest: enough to tell millions of pictures apart
MAX_BYTES = 2**28  # some millions of pictures
NAMED = 3  # pictures in a notice


def write_trained_on(folder: Path, data: CaptionData, start: Run | None) -> None:
    """Record the pictures of the train split, and those of the run that training starts from.

    Mirror images have features of their own.
    """
    train = data.split("train")
    record = {"features": {*_digests(train.features)}, "names": {*train.images}}
    if start is not None and (earlier := _read(start)):
        record = {key: values | earlier[key] for key, values in record.items()}
    content = {key: sorted(values) for key, values in record.items()}
    write_text(folder / TRAINED_ON, json.dumps(content, ensure_ascii=False, indent=0) + "\n")


def trained_on(run: Run, data: CaptionData, split: str, pictures: np.ndarray) -> int | None:
    """The number of pictures of a split that a run was trained on; None: it is not known.

    They are told by their features or names. A notice gives the number and the first names.

    pictures : numbers of those that are looked for, in rising order
    """
    if (record := _read(run)) is None:
        return None
    images, rows = data.split(split).images, LazyRows(data.split(split).features, pictures)
    names = [
        images[number]
        for number, digest in zip(pictures.tolist(), _digests(rows), strict=True)
        if digest in record["features"] or images[number] in record["names"]
    ]
    if names:
        first = ", ".join(name[:100] for name in islice(names, NAMED))
        notice(
            f"{run.path} was trained on {len(names):,} of the {len(pictures):,} pictures of {split},"
            f" by their features or names ({first}{', ...' * (len(names) > NAMED)}): scores of"
            " these are too good"
        )
    return len(names)


def _digests(rows: RowSource) -> list[str]:
    return [digest.hex()[:DIGITS] for digest in row_digests(rows)]


def _read(run: Run) -> dict[str, set[str]] | None:
    """The record of a run; None, and a notice: it is missing or damaged."""
    path = run.path / TRAINED_ON
    try:
        content = read_json("trained_on", path, MAX_BYTES, A_RUN)
        check_json("trained_on", path, content, {"features": [str], "names": [str]})
    except DataError as error:
        notice(f"which pictures {run.path} was trained on is not known: {error}")
        return None
    return {key: set(values) for key, values in content.items()}
