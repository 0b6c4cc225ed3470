"""The doctor: usual causes of bad captions in a run, measured, judged, and answered with advice.

A symptom is a function of that name below `symptom`, which has its title and its limits: from the
first a value is worth a check, beyond the second it is bad. To add one, add a function.

The reasons for the limits give figures of Flickr8k's val split. Good runs learnt from 6,000 pictures
and score CIDEr 0.4 and more, poor ones learnt from 250.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpcap.data import CaptionData
from xpcap.data.dataset import evenly_spaced
from xpcap.data.vocabulary import UNK, detokenize
from xpcap.errors import InvalidValueError
from xpcap.metrics import Words
from xpcap.metrics.variety import repeated
from xpcap.runs.captions import captioned
from xpcap.runs.folder import read_history
from xpcap.runs.run import Run
from xpcap.runs.scores import Scores
from xpcap.training.evaluate import teacher_forced
from xpcap.training.objectives import SELF_CRITICAL

OK, CHECK, BAD, UNKNOWN = "ok", "check", "bad", "unknown"
Limits = tuple[float, float]  # of `check` and of `bad`: the smaller if small values are bad


@dataclass(frozen=True)
class Case:
    """A run, the scores of its captions of a split, and their data set, as `Run.data` opens it."""

    run: Run
    scores: Scores
    data: CaptionData

    @property
    def captions(self) -> list[Words]:
        """The run's captions as words."""
        return [caption.words for caption in self.scores.captions]

    @cached_property
    def references(self) -> list[list[str]]:
        """The split's captions as words."""
        return self.data.words(self.scores.split)

    @cached_property
    def encoded(self) -> CaptionData:
        """The split alone, encoded with the run's vocabulary."""
        return self.data.encoded_with(self.run.vocabulary, self.scores.split, self.references)

    @cached_property
    def missing_words(self) -> Counter[str]:
        """Words of the references that the vocabulary lacks."""
        vocabulary = set(self.run.vocabulary.idx_to_word) - {UNK}
        return Counter(
            word for words in self.references for word in words if word not in vocabulary
        )

    @property
    def missing_share(self) -> float:
        return self.missing_words.total() / max(sum(map(len, self.references)), 1)

    @property
    def vocabulary_advice(self) -> str:
        """The options that enlarge the vocabulary, with their present values."""
        record = self.run.source.record
        min_count, size = record.get("min_count"), record.get("vocabulary_size")
        if size is not None:
            return f"a larger `vocabulary_size` than {size}"
        if min_count is not None:
            return f"a lower `min_count` than {min_count}"
        return "a lower `min_count` or a larger `vocabulary_size`"

    def score(self, name: str) -> tuple[float, float]:
        """A score of the captions, and of human captions. UnmeasurableError : no such score."""
        if name not in self.scores.human_scores:
            reason = self.scores.unscored.get(name)  # too few captions
            no_split = "This data has no train split to compare captions with."
            raise UnmeasurableError(f"There are {reason}." if reason else no_split)
        return self.scores.scores[name], self.scores.human_scores[name]


class UnmeasurableError(Exception):
    """A case has nothing to measure a symptom on; the message is a sentence that says why."""


class Finding(NamedTuple):
    """The value of a symptom, its meaning, and a remedy."""

    value: float
    meaning: str
    advice: str
    limits: Limits | None = None  # in place of the symptom's


class Diagnosis(NamedTuple):
    """The value of a symptom with its verdict."""

    name: str  # key, as in the docs
    title: str  # what is measured
    value: float | None  # None if it could not be measured
    limit: float  # from here on it is worth checking
    verdict: str  # OK, CHECK, BAD or UNKNOWN
    text: str  # what it means, and what to do unless it is well
    row: tuple[str, str, str, str, str]  # as tables show it

    def to_json(self) -> dict[str, Any]:
        """The diagnosis as an object for JSON."""
        return {name: getattr(self, name) for name in ("name", "value", "limit", "verdict", "text")}


Measure = Callable[[Case], Finding]  # raises UnmeasurableError


@dataclass(frozen=True)
class Symptom:
    """A row of the doctor's table.

    share : show values in per cent
    cause : the usual one, in which `name` is an option
    above_people : limits count from the score of that name of human captions
    """

    name: str
    title: str
    limits: Limits
    measure: Measure
    share: bool = True
    cause: str = ""
    above_people: bool = False

    def diagnose(self, case: Case) -> Diagnosis:
        """Measure and judge. A value at a limit is on its good side."""
        value, verdict, (check, bad) = None, UNKNOWN, self.limits
        try:
            value, meaning, advice, limits = self.measure(case)
            human = case.score(self.name)[1] if self.above_people else 0.0
        except UnmeasurableError as error:
            text = str(error)
        else:
            check, bad = (limit + human for limit in limits or self.limits)
            sign = 1 if bad > check else -1
            verdict = (OK, CHECK, BAD)[sum(sign * value > sign * limit for limit in (check, bad))]
            text = meaning if verdict == OK else f"{meaning} {advice}"
        form = "{:.1%}" if self.share else "{:.2f}"
        limit_text = f"at {'most' if bad > check else 'least'} {form.format(check)}"
        value_text = "" if value is None else form.format(value)
        row = (verdict, self.name, value_text, limit_text, self.title)
        return Diagnosis(self.name, self.title, value, check, verdict, text, row)


SYMPTOMS: list[Symptom] = []  # in the order of the file


def symptom(
    title: str,
    check: float,
    bad: float,
    *,
    cause: str,
    share: bool = True,
    above_people: bool = False,
) -> Callable[[Measure], Measure]:
    """Add a symptom with the decorated measure, and its name, to the table."""

    def add(measure: Measure) -> Measure:
        name, limits = measure.__name__, (check, bad)
        SYMPTOMS.append(Symptom(name, title, limits, measure, share, cause, above_people))
        return measure

    return add


def examine_run(
    run: Run, evaluation: Scores, data: CaptionData | str | Path | None = None
) -> list[Diagnosis]:
    """Measure the usual causes of bad captions in a run: a Diagnosis a symptom, in the same order.

    evaluation : of the run, as `evaluate_run` returns it
    data : that it was evaluated on; None: the run's own
    DataError : the data set or the split is missing, or does not fit the run. ValueError : the
        evaluation is not of these pictures.
    """
    dataset, split = run.data(data), evaluation.split
    images = dataset.split(split).images
    names = [images[i] for i in captioned(dataset, split).tolist()]
    if [caption.image for caption in evaluation.captions] != names:
        thing = f"the evaluation, of {evaluation.n} pictures,"
        got = f"is not of the {len(names)} of {split}"
        expected = "a caption for each"
        raise InvalidValueError("examine_run", thing, got, expected, "was it on other data?")
    case = Case(run, evaluation, dataset)
    return [row.diagnose(case) for row in SYMPTOMS]


# Symptoms in captions


# Runs learnt from 250 to 6,000 photographs 1.6 to 3.5, from generated pictures 13; from meaningless
# features 1.00.
@symptom(
    "perplexity ratio, wrong picture to right picture",
    check=1.2,
    bad=1.05,
    share=False,
    cause="features in another order than the names, features that hardly differ, too few epochs",
)
def features(case: Case) -> Finding:
    split = case.scores.split
    split_data = case.encoded.split(split)
    pictures = np.unique(split_data.image_idxs)
    if len(pictures) < 2:
        raise UnmeasurableError(
            "One picture cannot be exchanged for another: score a split with more pictures."
        )
    order = np.random.default_rng([0, 0]).permutation(pictures)
    others = np.zeros(len(split_data.features), split_data.image_idxs.dtype)
    others[order] = np.roll(order, 1)  # no picture keeps its own
    mixed_data = replace(split_data, image_idxs=others[split_data.image_idxs])
    mixed = replace(case.encoded, splits={split: mixed_data})
    captions = evenly_spaced(len(split_data.captions), 1000)  # ratio good to a few per cent
    right, wrong = (
        teacher_forced(case.run.model, data, split, captions=captions)
        for data in (case.encoded, mixed)
    )
    ratio = math.exp(min((wrong.loss - right.loss) * right.n / max(right.tokens, 1), 700.0))
    return Finding(
        ratio,
        f"With the features of another picture, the perplexity of the references is {ratio:.2f}"
        " times as high.",
        "The captions hardly depend on the picture. Check that features and names of pictures"
        " belong together and that features differ from picture to picture, train with"
        " `feature_scaling` standardize, and for more epochs.",
    )


# Of 1,000 captions by people 0.99 to 1 differ. Good runs have 745 to 855 distinct captions on 1,000
# pictures, the first after two epochs 278.
@symptom(
    "different captions, relative to people's",
    check=0.25,
    bad=0.10,
    cause="as of *features*; a high `lr`",
)
def variety(case: Case) -> Finding:
    share, human = case.score("distinct")
    counts = Counter(map(detokenize, case.captions))
    ((mode, times),) = counts.most_common(1)
    return Finding(
        share / human,
        f"{len(counts):,} of {len(case.captions):,} captions differ; the most frequent, {mode!r}, is"
        f" said {times:,} times.",
        "The model has collapsed to a few general captions. See the check of features; if"
        " it is fine, train for more epochs, or with a lower `lr` if the loss jumps.",
    )


# References 0.0003, generated captions 0.002; good greedy runs 0.03; runs learnt from 400 to 450
# photos with a caption each 0.62 to 0.83.
@symptom(
    "captions with one to three words twice in a row",
    check=0.05,
    bad=0.20,
    above_people=True,
    cause="few captions, decoding without the reranking",
)
def repeats(case: Case) -> Finding:
    share, human = case.score("repeats")
    repetitions = Counter(text for text in map(repeated, case.captions) if text)
    return Finding(
        share,
        f"{repetitions.total():,} of {len(case.captions):,} captions repeat one to three words at"
        f" once{_often(repetitions, 1, '{!r}')}; {human:.1%} of people's do.",
        "The model does not know how to continue: it has seen too few captions, or too many <UNK>"
        " in them. See the check of unknown words; train on more captions. `no_repeat_trigram`"
        " hides some of it.",
    )


# Good greedy runs 0.002, draws at temperature 0.5 0.009; at temperature 1, where many captions are
# word salad, 0.24; people, who know more words, 0.12. Learnt from 450 photos with a caption each,
# greedy 0.23 with 159 words and 0.31 with more, drawn 0.46.
@symptom(
    "word pairs absent from the training captions",
    check=0.05,
    bad=0.15,
    above_people=True,
    cause="few captions, a high `temperature`",
)
def unseen_bigrams(case: Case) -> Finding:
    share, human = case.score("unseen_bigrams")
    return Finding(
        share,
        f"{share:.1%} of the pairs of neighbouring words are in no training caption; of people's"
        f" {human:.1%}.",
        "A model learns word pairs from its training captions alone, so new pairs are rarely good."
        " When sampling, lower `temperature` or `top_p`; otherwise search with a beam, and train on"
        " more captions or for more epochs.",
    )


# Good greedy runs 0.03, their beams 0.01; learnt from 450 photos with a caption each 0.11 to 0.16.
# People's 0.000 to 0.006.
@symptom(
    "captions with an unlikely last word",
    check=0.05,
    bad=0.15,
    above_people=True,
    cause="few captions, greedy decoding",
)
def bad_endings(case: Case) -> Finding:
    share, human = case.score("bad_endings")
    bad = case.scores.per_picture["bad_endings"]
    endings = Counter(words[-1] for words, ends in zip(case.captions, bad, strict=True) if ends)
    return Finding(
        share,
        f"{endings.total():,} of {len(case.captions):,} captions end in a word that hardly ever ends a"
        f" training caption{_often(endings, 3, '{!r} ({:,})')}; of people's {human:.1%}.",
        "They break off: search with a beam; see whether captions stop at the length limit; else"
        " train for more epochs, or on more captions.",
    )


# Good runs 0.00 to 0.03, poor ones 0.14; of the references 0.03 are that long. A quarter is no
# accident of a few odd pictures.
@symptom(
    "captions cut off at the length limit",
    check=0.05,
    bad=0.25,
    cause="few captions, a low `max_words`",
)
def ending(case: Case) -> Finding:
    max_words = case.run.config.max_words
    share, human = (
        sum(len(words) >= max_words for words in texts) / max(len(texts), 1)
        for texts in (case.captions, case.references)
    )
    short_limit = (
        f"{human:.1%} of the references are that long: prepare the data with a larger `max_words`."
    )
    no_end = (
        "The model does not learn to end captions: train for more epochs, on more captions, and see"
        " the check of unknown words."
    )
    return Finding(
        share,
        f"{share:.1%} of the captions stop at the limit of {max_words} words.",
        short_limit if human > share / 2 else no_end,
    )


# Good and poor runs 0.97 to 1.03. BLEU's brevity penalty is 0.78 at 0.8 and 0.51 at 0.6; above,
# precision falls as fast.
@symptom(
    "words in a caption, over those in a reference",
    check=0.8,
    bad=0.6,
    share=False,
    cause="`length_penalty` 0, training captions of another length",
)
def length(case: Case) -> Finding:
    mean, _ = case.score("length")
    human = sum(map(len, case.references)) / max(len(case.references), 1)
    ratio = mean / max(human, 1e-9)
    meaning = f"A caption has {mean:.1f} words on average, a reference {human:.1f}."
    shorter = (
        "Short captions lose to BLEU's brevity penalty. Search with a higher `length_penalty`"
        " if you use a beam; else train for more epochs."
    )
    longer = (
        "Long captions repeat themselves. Check whether captions end, and whether the training"
        " captions are as long as these references."
    )
    if ratio < 1:
        return Finding(ratio, meaning, shorter)
    return Finding(ratio, meaning, longer, limits=(1.25, 1.6))


# Good runs 0.01, 1,000 pictures to learn from 0.11, 250 pictures 0.39. As <UNK> is never decoded,
# a less likely word replaces it.
@symptom(
    "words that would be <UNK> if allowed",
    check=0.05,
    bad=0.20,
    cause="many rare words: lower `min_count`, or add captions",
)
def unknown(case: Case) -> Finding:
    """Share of UNK in captions of at most 500 of the pictures, in which the model may say it."""
    split, vocabulary = case.scores.split, case.run.vocabulary
    pictures = np.unique(case.encoded.split(split).image_idxs)
    features = case.encoded.features(split, pictures[evenly_spaced(len(pictures), 500)])
    forbid = (vocabulary.null, vocabulary.start)
    ids = case.run.model.sample(features, case.run.config.max_words, forbid=forbid)
    words = ids[vocabulary.is_word(ids)]
    share = np.count_nonzero(words == vocabulary.unk) / max(len(words), 1)
    return Finding(
        share,
        f"If it could, the model would say <UNK> for {share:.1%} of its words; of the references'"
        f" words {case.missing_share:.1%} are <UNK> to it.",
        "It learnt from captions with too many rare words: prepare the data with"
        f" {case.vocabulary_advice}, or with more captions.",
    )


# Words that occur five times in 6,000 pictures' captions leave 0.03, those of 1,000 pictures 0.09,
# of 250 pictures 0.18.
@symptom(
    "words of the references missing from the vocabulary",
    check=0.05,
    bad=0.15,
    cause="as of *unknown*; pictures of other things",
)
def vocabulary(case: Case) -> Finding:
    return Finding(
        case.missing_share,
        f"The vocabulary lacks {case.missing_share:.1%} of the references'"
        f" words{_often(case.missing_words, 5, '{} ({:,})')}.",
        "No caption can name what has no word: train on captions about the same things, prepared"
        f" with {case.vocabulary_advice}.",
    )


def _often(counts: Counter[str], n: int, form: str) -> str:
    """The n most frequent, as the end of a clause; `form` of each and its count."""
    pairs = ", ".join(form.format(*pair) for pair in counts.most_common(n))
    return f", most often {pairs}" if pairs else ""


# Symptoms in the model


# At a perplexity near 16, two per cent more loss are 6 % more perplexity, and ten per cent a third
# more. Runs that chose their epoch by captions got better (CIDEr 0.44 to 0.51) with an image in
# every step, at 4 % more loss: they may rise further.
@symptom(
    "rise of validation loss since its lowest",
    check=0.02,
    bad=0.10,
    cause="few captions, a low `dropout`",
)
def overfitting(case: Case) -> Finding:
    meta = case.run.meta
    if "train_reward" in meta or case.run.config.recipe.objective == SELF_CRITICAL:
        keeps = (
            f"epoch {meta['epoch']}, the best by CIDEr-D"
            if meta.get("epoch")
            else "what it started from, since no epoch was better by CIDEr-D"
        )
        raise UnmeasurableError(
            f"The run was trained on the score of captions, not on their loss; it keeps {keeps}."
        )

    def is_positive(value: object) -> bool:
        return isinstance(value, int | float) and math.isfinite(value) and value > 0

    losses = "train_loss", "val_loss"
    records = [
        row
        for row in read_history(case.run.path)
        if all(is_positive(row.get(key)) for key in losses)
    ]
    if len(records) < 2:
        raise UnmeasurableError(
            "history.jsonl has fewer than two epochs with a validation loss: nothing to compare."
        )
    best, last = min(records, key=lambda record: record["val_loss"]), records[-1]
    (best_train, best_val), (last_train, last_val) = (
        (record["train_loss"], record["val_loss"]) for record in (best, last)
    )
    course = (
        f"from {best_val:.1f} after epoch {best['epoch']} to {last_val:.1f} after epoch"
        f" {last['epoch']}, training loss from {best_train:.1f} to {last_train:.1f}"
    )
    by_heart = (
        f"The later epochs overfit the training captions; the run keeps epoch {meta.get('epoch')}. More"
        " captions, more `dropout`, or fewer `hidden` units move the lowest point down."
    )
    diverging = "Training loss rose as well, so it is not the captions: train with a lower `lr`."
    return Finding(
        last_val / best_val - 1,
        f"Validation loss went {course}."
        if last is not best
        else f"Validation loss was lowest in the last epoch, {last['epoch']}.",
        by_heart if last_train <= best_train else diverging,
        limits=(0.10, 0.25) if "val_cider" in last else None,
    )
