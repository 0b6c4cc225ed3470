"""The doctor: looks for the usual reasons of bad captions in a run, names them, and says what to do."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xpcap.data import CaptionData
from xpcap.data.dataset import spread
from xpcap.runs import symptoms_captions as of_captions
from xpcap.runs import symptoms_model as of_model
from xpcap.runs.captioning import captioned, data_of
from xpcap.runs.findings import OK, UNKNOWN, Finding
from xpcap.runs.folder import Run
from xpcap.runs.stages import learnt

MOST_DIFFERENT = 1000  # pictures among which captions are compared with one another: the more there are, the more repeat
MOST_UNFORBIDDEN = 500  # pictures captioned once more, with UNK allowed


def examine_run(
    run: Run, said: Sequence[Sequence[str]], data: CaptionData | str | Path | None = None, split: str = "val"
) -> list[Finding]:  # fmt: skip
    """Look for the usual reasons of bad captions.

    Parameters
    ----------
    said : the run's captions as lists of words, one for each picture of the split that has references, in the order of the pictures, as
        `evaluate_run` gives them
    data, split : that they are of, as in `evaluate_run`

    Returns
    -------
    one Finding for each symptom, always the same ones in the same order

    Raises
    ------
    DataError : the data set, or the split, is not there or does not fit the run. ValueError : the captions are not those of the split.
    """
    seen = data_of(run, data)
    pictures, firsts = np.unique(seen.split(split).image_idxs, return_index=True)
    if len(said) != len(pictures):
        raise ValueError(
            f"examine_run: got {len(said)} captions, expected one for each of the {len(pictures)} pictures of {split}; of another split?"
        )
    written = seen.words(split)
    encoded = seen.encoded_with(run.vocabulary, split, written)
    compared = spread(len(pictures), MOST_DIFFERENT)
    known, prepared = run.vocabulary.idx_to_word, run.config.get("source", {})
    alike = of_captions.alike(_learnt(run, seen))
    return [
        alike,
        of_model.features(run.model, encoded, split, alike.verdict not in (OK, UNKNOWN)),
        of_captions.variety([said[i] for i in compared], [written[i] for i in firsts[compared]]),
        of_captions.repeats(said),
        of_captions.ending(said, written, run.config["max_words"]),
        of_captions.length(said, written),
        of_captions.unknown_words(_unforbidden(run, seen, split), of_captions.lacking_words(written, known)[0], prepared),
        of_captions.vocabulary(written, known, prepared),
        of_model.overfitting(*learnt(run)),
        of_model.gates(run.model, encoded, split),
    ]


def _learnt(run: Run, data: CaptionData) -> list[bytes] | None:
    """Some of the captions that the run learnt from, as it read them; None: this is other data."""
    if "train" not in data.splits or run.config.get("data_stamp", data.stamp) != data.stamp:
        return None
    captions = data.split("train").captions
    return [np.asarray(captions[i]).tobytes() for i in spread(len(captions), MOST_DIFFERENT).tolist()]


def _unforbidden(run: Run, data: CaptionData, split: str) -> list[list[str]]:
    """What the run would say, END left out, of some pictures of a split if UNK were a word like any other."""
    pictures = captioned(data, split)
    rows = pictures[spread(len(pictures), MOST_UNFORBIDDEN)]
    vocabulary = run.vocabulary
    captions = run.model.sample(data.features(split, rows), run.config["max_words"], forbid=(vocabulary.null, vocabulary.start))
    return [[vocabulary.idx_to_word[i] for i in ids if i not in (vocabulary.end, vocabulary.null)] for ids in captions.tolist()]
