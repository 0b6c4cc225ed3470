"""Captions from a run: of the pictures of a data set, beside what people wrote."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpcap.data import CaptionData, open_data
from xpcap.data.dataset import size, spread
from xpcap.data.source import Source
from xpcap.data.tokens import detokenize
from xpcap.data.vocabulary import Vocabulary
from xpcap.errors import DataError, OptionError
from xpcap.groups import ALONE, Group
from xpcap.models import Policy
from xpcap.models.policies import check_ids
from xpcap.progress import bar
from xpcap.runs.folder import Run


class Ranked(NamedTuple):
    """One of the captions that came out of a beam, and its total log-probability, END included."""

    caption: str
    log_probability: float


class Caption(NamedTuple):
    """What a model says, word by word, the probability it gave each word, and, if asked of a model that attends, where it looked for each, (T, P)."""

    words: list[str]
    probabilities: list[float]
    attention: Sequence[Sequence[float]] | None = None

    @property
    def text(self) -> str:
        """The caption as one line."""
        return detokenize(self.words)


class PictureCaption(NamedTuple):
    """A picture's name, its caption with the probability of each word, its references, of a beam the n best captions, and `where_looked`, if asked.

    `words` are the caption's; of a caption that was made without them, what stands between white space.
    """

    image: str
    caption: str
    probabilities: list[float]
    references: list[str]
    n_best: Sequence[Ranked] = ()
    attention: Sequence[Sequence[float]] | None = None
    words: Sequence[str] = ()


def data_of(run: Run, data: CaptionData | str | Path | None = None) -> CaptionData:
    """A data set as the run sees it: checked to fit, and its features scaled, and projected unless they have been, as the run does it.

    Parameters
    ----------
    data : an open data set, or the path of one; None: the one that the run was trained on

    Raises
    ------
    DataError : it is not there, does not fit the run, or is the run's own and has changed since.
    """
    where = "the data set"
    if not isinstance(data, CaptionData):
        where = str(_own(run) if data is None else data)
        opened = open_data(where)
        if data is None and run.config["data_stamp"] not in ("", opened.stamp):
            raise DataError(
                f"data_of: {where}, the data of {run.path}, has changed since training, expected it unchanged; give it as `data` to use it anyway"
            )
        data = opened
    if data.projection is not None and not data.projection.is_like(run.projection):
        raise DataError(f"data_of: {where} was prepared with another PCA than the data of {run.path}, expected the same, or none; prepare it without")
    expected = run.raw_shape if data.projection is None else run.model.config.feature_shape
    if data.feature_shape != expected:
        raise DataError(
            f"data_of: {where} has features of size {size(data.feature_shape)}, expected the run's {size(expected)}; made by another encoder?"
        )
    return replace(data, scaling=run.preprocessing if data.projection is None else run.scaling)


def _own(run: Run) -> Path:
    """The path of the data that a run was trained on."""
    path = run.path / run.config["data"]  # an absolute path stays what it is
    if not path.exists():
        raise DataError(
            f"data_of: {path}, the data of {run.path}, is gone, expected the file it was trained on; if it was moved, give its new path as `data`"
        )
    return path


def source_of(run: Run) -> Source:
    """How the data that a run was trained on came about."""
    return Source.from_json(f"open_run: {run.path}", run.config.get("source", {}))


def caption_run(
    run: Run,
    data: CaptionData | str | Path | None = None,
    split: str = "val",
    *,
    count: int = 10,
    policy: Policy | None = None,
    attend: bool = False,
) -> list[PictureCaption]:
    """Captions of `count` pictures spread evenly over a split, each beside its references.

    Parameters
    ----------
    data : as in `data_of`
    policy : as in `caption_features`
    attend : whether to tell where a model that attends looked, as `attention` of each caption

    Raises
    ------
    DataError : the data set, or the split, is not there or does not fit the run.
    """
    seen = data_of(run, data)
    pictures = captioned(seen, split)
    return caption_chosen(run, seen, split, pictures[spread(len(pictures), count)], policy=policy, attend=attend)


def captioned(data: CaptionData, split: str) -> np.ndarray:
    """Numbers of the pictures of a split that have captions, in rising order."""
    return np.unique(data.split(split).image_idxs)


def caption_chosen(
    run: Run,
    data: CaptionData,
    split: str,
    pictures: np.ndarray,
    *,
    progress: bool = False,
    policy: Policy | None = None,
    group: Group = ALONE,
    attend: bool = False,
) -> list[PictureCaption]:
    """Captions of the pictures numbered `pictures` of a split of `data_of`, each beside its references. `policy` is as in `caption_features`.

    The ranks of `group` share the pictures out; each returns all captions.
    """
    references, images = data.references(split), data.split(split).images
    mine = pictures[group.share(len(pictures))]
    said = _say_pictures(run.model, run.vocabulary, data, split, mine, run.config["max_words"], progress=progress, policy=policy, attend=attend)
    captions = [of_picture(images[i], *found, []) for i, found in zip(mine.tolist(), said, strict=True)]
    return [one._replace(references=references[i]) for i, one in zip(pictures.tolist(), from_all(group, captions), strict=True)]


def of_picture(name: str, said: Caption, n_best: Sequence[Ranked], references: list[str]) -> PictureCaption:
    """What `say` gave for a picture, with its name and references."""
    return PictureCaption(name, said.text, said.probabilities, references, n_best, said.attention, said.words)


def from_all(group: Group, mine: list[PictureCaption]) -> list[PictureCaption]:
    """The captions of all ranks, in their order, on every rank."""
    if group.size == 1:
        return mine
    everything = [PictureCaption(*one) for share in group.collect(json.dumps(mine)) for one in json.loads(share)]
    return [one._replace(n_best=[Ranked(*best) for best in one.n_best]) for one in everything]


def caption_features(
    model: Any, vocabulary: Vocabulary, features: np.ndarray, max_words: int, *, policy: Policy | None = None, numbers: np.ndarray | None = None
) -> list[Caption]:
    """Captions for scaled features (n, D). They end at END or after `max_words`, and never hold NULL, START or UNK.

    Parameters
    ----------
    policy : chooses the words; captions keep to its limits as well. None: greedy
    numbers : (n,), of the pictures, for a policy that draws. None: 0..n-1

    Raises
    ------
    OptionError : the policy wants longer captions than there are, or no word is left to it.
    """
    return [caption for caption, _ in say(model, vocabulary, features, max_words, policy, numbers)]


def say(
    model: Any,
    vocabulary: Vocabulary,
    features: np.ndarray,
    max_words: int,
    policy: Policy | None,
    numbers: np.ndarray | None,
    attend: bool = False,
) -> Iterator[tuple[Caption, list[Ranked]]]:
    """The same as `caption_features`, each with the n best captions if they come out of a beam; with `attend` also `where_looked`."""
    policy = policy or Policy(max_length=max_words)
    said = model.decode(features, _within(policy, vocabulary, max_words), numbers=numbers)
    captions = [vocabulary.words(ids[0]) for ids in said.captions]
    looked = where_looked(model, vocabulary, features, captions) if attend else [None] * len(captions)
    for words, where, ids, probabilities, totals in zip(captions, looked, *said, strict=True):
        best = zip(ids, totals.tolist(), strict=True) if policy.n_best else ()
        ranked = [Ranked(detokenize(vocabulary.words(one)), total) for one, total in best if total > -np.inf]
        yield Caption(words, [float(p) for p in probabilities[0][: len(words)]], where), ranked


def where_looked(
    model: Any, vocabulary: Vocabulary, features: np.ndarray, captions: Sequence[Sequence[str]]
) -> Sequence[Sequence[Sequence[float]] | None]:  # fmt: skip
    """For each caption, given as words, what each place weighed as each word was chosen: (T, P), rows add up to 1. None if the model does not attend."""
    if not model.config.attends:
        return [None] * len(captions)
    weights = model.attention(features, vocabulary.encode_words(captions, max(1, *map(len, captions))))
    return [of_one[: len(words)].tolist() for of_one, words in zip(weights, captions, strict=True)]


def _within(policy: Policy, vocabulary: Vocabulary, max_words: int) -> Policy:
    """A policy that keeps to `max_words` too, and to words that mean something."""
    most, silent = min(policy.max_length, max_words), {vocabulary.null, vocabulary.start, vocabulary.unk, *check_ids("caption", policy.forbid)}
    if not set(range(len(vocabulary))) - silent - {vocabulary.end}:
        raise OptionError(f"caption: `forbid` leaves none of {len(vocabulary)} words, expected some to be left; which are to be said?")
    return replace(policy, max_length=most, forbid=tuple(sorted(silent)))


def caption_pictures(
    model: Any,
    vocabulary: Vocabulary,
    data: CaptionData,
    split: str,
    pictures: Sequence[int] | np.ndarray,
    max_words: int,
    *,
    batch_size: int = 500,
    progress: bool = False,
    policy: Policy | None = None,
) -> list[Caption]:
    """Captions for the pictures numbered `pictures` (n,) of a split, in that order. `policy` is as in `caption_features`."""
    return [
        caption
        for caption, _ in _say_pictures(model, vocabulary, data, split, pictures, max_words, batch_size=batch_size, progress=progress, policy=policy)
    ]


def _say_pictures(
    model: Any,
    vocabulary: Vocabulary,
    data: CaptionData,
    split: str,
    pictures: Sequence[int] | np.ndarray,
    max_words: int,
    *,
    batch_size: int = 500,
    progress: bool = False,
    policy: Policy | None = None,
    attend: bool = False,
) -> Iterator[tuple[Caption, list[Ranked]]]:
    for start in bar(range(0, len(pictures), batch_size), progress, f"captioning {split}"):
        numbers = np.asarray(pictures[start : start + batch_size])
        yield from say(model, vocabulary, data.features(split, numbers), max_words, policy, numbers, attend)
