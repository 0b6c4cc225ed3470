"""A run as a case for the doctor, whose table of symptoms is in report/doctor.py."""

from pathlib import Path

import numpy as np

from xpcap.data import CaptionData
from xpcap.data.dataset import evenly_spaced
from xpcap.errors import InvalidValueError
from xpcap.report.doctor import Case, Diagnosis, diagnose
from xpcap.report.scores import Scores
from xpcap.runs.captions import captioned
from xpcap.runs.run import Run, provenance

MOST_LEARNT = 1000  # training captions, at most, that are looked at


def examine_run(
    run: Run, evaluation: Scores, data: CaptionData | str | Path | None = None
) -> list[Diagnosis]:
    """Measure the usual causes of bad captions in a run: a Diagnosis a symptom.

    evaluation : of the run, as `evaluate_run` returns it
    data : that it was evaluated on; None: the run's own
    DataError : the data set or the split is missing, or does not fit the run. ValueError : the
        evaluation is not of these pictures.
    """
    seen, split = run.data(data), evaluation.split
    images = seen.split(split).images
    names = [images[i] for i in captioned(seen, split).tolist()]
    if [one.image for one in evaluation.captions] != names:
        thing = f"the evaluation, of {evaluation.n} pictures,"
        got = f"is not of the {len(names)} of {split}"
        expected = "a caption for each"
        raise InvalidValueError("examine_run", thing, got, expected, "was it on other data?")
    learnt: list[bytes] = []
    if "train" in seen.splits and run.config.data_stamp == seen.fingerprint:
        captions = seen.split("train").captions
        chosen = evenly_spaced(len(captions), MOST_LEARNT).tolist()
        learnt = [np.asarray(captions[i]).tobytes() for i in chosen]
    words = seen.words(split)
    history, epoch = provenance(run)
    case = Case(
        run.model,
        run.vocabulary,
        run.config.max_words,
        run.source.record,
        evaluation,
        seen.encoded_with(run.vocabulary, split, words),
        words,
        learnt,
        history,
        epoch,
    )
    return diagnose(case)
