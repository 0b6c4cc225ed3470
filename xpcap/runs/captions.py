"""Captions of a data set's pictures by a run.

Of new pictures, as in ``caption RUN photos``: pictures.py.
"""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.data import CaptionData
from xpcap.data.dataset import evenly_spaced
from xpcap.distributed import SINGLE, Group
from xpcap.errors import DataError
from xpcap.models import Policy
from xpcap.options import Whole
from xpcap.progress import bar
from xpcap.runs.decoder import Decoder
from xpcap.runs.explanation import CandidateCaption, Explanation, Neighbour
from xpcap.runs.records import Hypothesis, PictureCaption
from xpcap.runs.run import Run
from xpcap.work import current, work

AT_ONCE = 500  # pictures, captioned together


def caption_run(
    run: Run,
    data: CaptionData | str | Path | None = None,
    split: str = "val",
    *,
    count: int = 10,
    policy: Policy | None = None,
    attend: bool = False,
    explain: bool = False,
) -> list[PictureCaption]:
    """Captions of pictures spread evenly over a split, each with its references.

    data : an open data set, or the path of one. None: the one that the run was trained on
    count : number of pictures
    policy : chooses the words; captions keep to the run's limits as well. None: a beam, ranked by
        the run's ranker; greedy if the run has none. `Policy()` is greedy
    attend : fill `attention` of each caption, for a model that attends
    explain : fill `explanation` of each caption that is ranked
    DataError : the data set or the split is missing, or does not fit the run
    OptionError : the policy's captions are longer than the run's, or it forbids every word; a count
        below 0
    """
    count = Whole(0).check("caption_run", "`count`", count)
    seen = run.data(data)
    pictures = captioned(seen, split)
    chosen = pictures[evenly_spaced(len(pictures), count)]
    with work(group=SINGLE):
        return caption_chosen(run.decoder(policy, attend, explain), seen, split, chosen)


def captioned(data: CaptionData, split: str) -> np.ndarray:
    """Numbers of the pictures of a split that have captions, in rising order. DataError : none."""
    pictures = np.unique(data.split(split).image_idxs)
    if not pictures.size:
        raise DataError("this data set", f"split {split!r}", "has no caption", expected="some")
    return pictures


def caption_chosen(
    decoder: Decoder, data: CaptionData, split: str, pictures: np.ndarray
) -> list[PictureCaption]:
    """Captions of the pictures numbered `pictures` of a split of `Run.data`, with references.

    The ranks in the work in hand share it; each returns all captions.
    """
    images, group = data.split(split).images, current().group
    shard = pictures[group.shard(len(pictures))]
    captions: list[PictureCaption] = []
    for start in bar(range(0, len(shard), AT_ONCE), f"captioning {split}"):
        numbers = shard[start : start + AT_ONCE]
        names = [images[i] for i in numbers.tolist()]
        captions += decoder(names, data.features(split, numbers), numbers)
    references = data.references(split)
    everything = zip(pictures.tolist(), _gather(group, captions), strict=True)
    return [caption._replace(references=references[i]) for i, caption in everything]


def _gather(group: Group, captions: list[PictureCaption]) -> list[PictureCaption]:
    """The captions of all ranks, which come as JSON."""
    if group.size == 1:
        return captions
    everything = [PictureCaption(*one) for one in chain.from_iterable(group.gather(captions))]
    return [
        one._replace(
            n_best=[Hypothesis(*best) for best in one.n_best],
            explanation=one.explanation and _explanation(*one.explanation),
        )
        for one in everything
    ]


def _explanation(neighbours: Sequence[Any], candidates: Sequence[Any]) -> Explanation:
    """An explanation that was JSON."""
    return Explanation(
        [Neighbour(*one) for one in neighbours], [CandidateCaption(*one) for one in candidates]
    )
