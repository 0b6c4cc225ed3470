"""The doctor: measures the symptoms of bad captions in a run, and diagnoses each with advice.

Each symptom is a function that `symptom` decorates with a title and two limits: a value beyond the
first is worth a check, beyond the second it is bad. To add a symptom, add a function.

Comments give the figures behind the limits, on Flickr8k's val split. Good runs were trained on
6,000 pictures and have a CIDEr of 0.4 or more; poor runs were trained on 250.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpcap.captioning.captions import captioned
from xpcap.captioning.scores import Scores
from xpcap.data import CaptionData
from xpcap.data.dataset import evenly_spaced
from xpcap.data.vocabulary import UNK, detokenize
from xpcap.errors import InvalidValueError
from xpcap.metrics import Words
from xpcap.metrics.variety import repeated
from xpcap.runs.folder import read_history
from xpcap.runs.run import Run
from xpcap.training.evaluate import teacher_forced
from xpcap.training.objectives import SELF_CRITICAL

# Verdicts
OK = "ok"
CHECK = "check"
BAD = "bad"
UNKNOWN = "unknown"
Limits = tuple[float, float]  # of CHECK and BAD; the second is smaller if small values are bad


@dataclass(frozen=True)
class Case:
    """A run, the scores of its captions, and the data set that `Run.data` opened for them."""

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
        """The end of an advice to add captions: options that enlarge the vocabulary, if any."""
        record = self.run.source.record
        min_count = record.get("min_count")
        size = record.get("vocabulary_size")
        if size is not None:
            return f", prepared with a larger `vocabulary_size` than {size}"
        if min_count == 1:
            return ""
        if min_count is not None:
            return f", prepared with a lower `min_count` than {min_count}"
        return ", prepared with a lower `min_count` or a larger `vocabulary_size`"

    def score(self, name: str) -> tuple[float, float]:
        """A score of the captions, and of people's. UnmeasurableError : it was not computed."""
        if name not in self.scores.human_scores:
            reason = self.scores.unscored.get(name)  # "too few ..."
            no_split = "This data has no train split to compare captions with."
            raise UnmeasurableError(f"There are {reason}." if reason else no_split)
        return self.scores.scores[name], self.scores.human_scores[name]


class UnmeasurableError(Exception):
    """A symptom cannot be measured in a case; the message is a sentence with the reason."""


class Finding(NamedTuple):
    """The value of a symptom, its meaning, and a remedy."""

    value: float
    meaning: str
    advice: str
    limits: Limits | None = None  # they replace the symptom's limits


class Diagnosis(NamedTuple):
    """The diagnosis of a symptom: its value, and a verdict."""

    name: str  # of the symptom, as in the docs
    title: str  # of the symptom
    value: float | None  # None if it could not be measured
    limit: float  # a value beyond it is worth a check
    verdict: str  # OK, CHECK, BAD or UNKNOWN
    text: str  # the meaning of the value and, unless the verdict is OK, the advice
    row: tuple[str, str, str, str, str]  # cells of a table

    def to_json(self) -> dict[str, Any]:
        """The diagnosis as an object for JSON."""
        return {name: getattr(self, name) for name in ("name", "value", "limit", "verdict", "text")}


Measure = Callable[[Case], Finding]  # raises UnmeasurableError


@dataclass(frozen=True)
class Symptom:
    """A symptom of bad captions.

    share : show values in per cent
    cause : the usual cause, in which `name` is an option
    above_people : limits are added to the score of the same name of people's captions
    """

    name: str
    title: str
    limits: Limits
    measure: Measure
    share: bool = True
    cause: str = ""
    above_people: bool = False

    def diagnose(self, case: Case) -> Diagnosis:
        """Measure the symptom in a case and judge it. A value equal to a limit is within it."""
        value = None
        verdict = UNKNOWN
        check, bad = self.limits
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
    """Add a symptom to SYMPTOMS; the decorated function measures it and names it."""

    def add(measure: Measure) -> Measure:
        name = measure.__name__
        limits = (check, bad)
        SYMPTOMS.append(Symptom(name, title, limits, measure, share, cause, above_people))
        return measure

    return add


def examine_run(
    run: Run, evaluation: Scores, data: CaptionData | str | Path | None = None
) -> list[Diagnosis]:
    """Measure each of SYMPTOMS in a run, and return their diagnoses in the same order.

    evaluation : scores of the run, from `evaluate_run`
    data : the data set of the evaluation; None: the one that the run was trained on
    DataError : the data set or the split is missing, or does not fit the run. ValueError : the
        evaluation has other pictures than the data.
    """
    dataset = run.data(data)
    split = evaluation.split
    images = dataset.split(split).images
    names = [images[i] for i in captioned(dataset, split).tolist()]
    if [caption.image for caption in evaluation.captions] != names:
        raise InvalidValueError(
            f"the evaluation of {evaluation.n} pictures is not of the {len(names)} pictures of"
            f" {split}, expected a caption for each; was other data evaluated?"
        )
    case = Case(run, evaluation, dataset)
    return [symptom.diagnose(case) for symptom in SYMPTOMS]


# Symptoms in captions


# The ratio is 1.6 to 3.5 after training on 250 to 6,000 photographs, 13 on generated pictures, and
# 1.00 on meaningless features.
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
            "A single picture cannot be exchanged for another: score a split with more pictures."
        )
    order = np.random.default_rng([0, 0]).permutation(pictures)
    others = np.zeros(len(split_data.features), split_data.image_idxs.dtype)
    others[order] = np.roll(order, 1)  # no picture gets its own feature
    mixed_data = replace(split_data, image_idxs=others[split_data.image_idxs])
    mixed = replace(case.encoded, splits={split: mixed_data})
    captions = evenly_spaced(
        len(split_data.captions), 1000
    )  # the ratio is then off by a few per cent
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
        " belong together and that features differ from picture to picture. Train with"
        " `feature_scaling` standardize, and for more epochs.",
    )


# The share is 0.99 to 1 in 1,000 captions by people. Good runs have 745 to 855 distinct captions for
# 1,000 pictures; the first run had 278 after two epochs.
@symptom(
    "different captions, relative to people's",
    check=0.25,
    bad=0.10,
    cause="those of *features*; a high `lr`",
)
def variety(case: Case) -> Finding:
    share, human = case.score("distinct")
    counts = Counter(map(detokenize, case.captions))
    ((mode, times),) = counts.most_common(1)
    return Finding(
        share / human,
        f"{len(counts):,} of {len(case.captions):,} captions differ; the most frequent, {mode!r},"
        f" occurs {times:,} times.",
        "The model has collapsed to a few general captions. See the symptom 'features'; if it is"
        " ok, train for more epochs, or with a lower `lr` if the loss jumps.",
    )


# The share is 0.0003 in references, 0.002 in captions of generated pictures, 0.03 in good greedy
# runs, and 0.62 to 0.83 after training on 400 to 450 photos with a caption each.
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
        f"{repetitions.total():,} of {len(case.captions):,} captions repeat one to three words"
        f" immediately{_often(repetitions, 1, '{!r}')}; {human:.1%} of people's do.",
        "The model does not know how to continue: it has seen too few captions, or too many <UNK>"
        " in them. See the symptom 'unknown'; train on more captions. `no_repeat_trigram` hides"
        " some repetitions.",
    )


# The share is 0.002 in good greedy runs, 0.009 if words are sampled at temperature 0.5, 0.24 at
# temperature 1, where many captions make no sense, and 0.12 in people's captions, which have more
# words. After training on 450 photos with a caption each it is 0.23 greedy with a vocabulary of 159
# words, 0.31 with a larger one, and 0.46 sampled.
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
        f"{share:.1%} of the pairs of neighbouring words are in no training caption; in people's"
        f" captions {human:.1%} are.",
        "A model learns word pairs from its training captions alone, so new pairs are rarely good."
        " When sampling, lower `temperature` or `top_p`; otherwise search with a beam, and train on"
        " more captions or for more epochs.",
    )


# The share is 0.03 in good greedy runs, 0.01 with a beam, 0.11 to 0.16 after training on 450 photos
# with a caption each, and 0.000 to 0.006 in people's captions.
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
        f" training caption{_often(endings, 3, '{!r} ({:,})')}; {human:.1%} of people's do.",
        "These captions break off. If they stop at the length limit, see the symptom 'ending';"
        " otherwise use beam search, train for more epochs, or on more captions.",
    )


# The share is 0.00 to 0.03 in good runs, 0.14 in poor ones, and 0.03 in the references. A quarter
# cannot be due to a few unusual pictures.
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
        " the symptom 'unknown'."
    )
    return Finding(
        share,
        f"{share:.1%} of the captions stop at the limit of {max_words} words.",
        short_limit if human > share / 2 else no_end,
    )


# The ratio is 0.97 to 1.03 in good and in poor runs. BLEU's brevity penalty is 0.78 at a ratio of
# 0.8, and 0.51 at 0.6; above 1, precision falls as fast.
@symptom(
    "words per caption divided by words per reference",
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
        "BLEU's brevity penalty lowers the score of short captions. Search with a higher"
        " `length_penalty` if you use a beam; otherwise train for more epochs."
    )
    longer = (
        "Long captions repeat themselves. See the symptom 'ending', and check whether the training"
        " captions are as long as these references."
    )
    if ratio < 1:
        return Finding(ratio, meaning, shorter)
    return Finding(ratio, meaning, longer, limits=(1.25, 1.6))


# The share is 0.01 in good runs, 0.11 after training on 1,000 pictures, and 0.39 on 250. Since <UNK>
# is never decoded, a less likely word replaces it.
@symptom(
    "words that would be <UNK> if allowed",
    check=0.05,
    bad=0.20,
    cause="many rare words: lower `min_count`, or add captions",
)
def unknown(case: Case) -> Finding:
    """Share of UNK in captions of at most 500 pictures, decoded with UNK allowed."""
    split = case.scores.split
    vocabulary = case.run.vocabulary
    pictures = np.unique(case.encoded.split(split).image_idxs)
    features = case.encoded.features(split, pictures[evenly_spaced(len(pictures), 500)])
    forbid = (vocabulary.null, vocabulary.start)
    ids = case.run.model.sample(features, case.run.config.max_words, forbid=forbid)
    words = ids[vocabulary.is_word(ids)]
    share = np.count_nonzero(words == vocabulary.unk) / max(len(words), 1)
    return Finding(
        share,
        f"The model would write <UNK> for {share:.1%} of its words if it were allowed;"
        f" {case.missing_share:.1%} of the references' words are <UNK> for it.",
        "The training captions have too many rare words: train on more"
        f" captions{case.vocabulary_advice}.",
    )


# With the words that occur at least five times, the share is 0.03 for captions of 6,000 pictures,
# 0.09 for 1,000, and 0.18 for 250.
@symptom(
    "words of the references missing from the vocabulary",
    check=0.05,
    bad=0.15,
    cause="those of *unknown*; pictures of other things",
)
def vocabulary(case: Case) -> Finding:
    return Finding(
        case.missing_share,
        f"The vocabulary lacks {case.missing_share:.1%} of the references'"
        f" words{_often(case.missing_words, 5, '{} ({:,})')}.",
        "Captions cannot contain these words: train on more captions about the same"
        f" things{case.vocabulary_advice}.",
    )


def _often(counts: Counter[str], n: int, form: str) -> str:
    """The n most frequent texts as the end of a clause; `form` formats a text and its count."""
    pairs = ", ".join(form.format(*pair) for pair in counts.most_common(n))
    return f", most often {pairs}" if pairs else ""


# Symptoms in the model


# At a perplexity near 16, 2 % more loss is 6 % more perplexity, and 10 % more loss a third more. The
# limits are wider for runs that select the epoch by CIDEr: with `inject` every-step their CIDEr rose
# from 0.44 to 0.51 while the loss rose by 4 %.
@symptom(
    "rise of validation loss since its lowest",
    check=0.02,
    bad=0.10,
    cause="few captions, a low `dropout`",
)
def overfitting(case: Case) -> Finding:
    meta = case.run.meta
    if "train_reward" in meta or case.run.config.recipe.objective == SELF_CRITICAL:
        parameters = (
            f"of epoch {meta['epoch']}, the best by CIDEr-D"
            if meta.get("epoch")
            else "that it started from, since no epoch was better by CIDEr-D"
        )
        raise UnmeasurableError(
            f"Self-critical training does not minimise the loss; the run has the parameters {parameters}."
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
            "history.jsonl has fewer than two epochs with a validation loss to compare."
        )
    best = min(records, key=lambda record: record["val_loss"])
    last = records[-1]
    (best_train, best_val), (last_train, last_val) = (
        (record["train_loss"], record["val_loss"]) for record in (best, last)
    )
    course = (
        f"from {best_val:.1f} after epoch {best['epoch']} to {last_val:.1f} after epoch"
        f" {last['epoch']}, training loss from {best_train:.1f} to {last_train:.1f}"
    )
    overfits = (
        f"The later epochs overfit the training captions; the run keeps epoch {meta.get('epoch')}. More"
        " captions, more `dropout`, or fewer `hidden` units lower the minimum."
    )
    diverging = "Training loss rose as well, so this is not overfitting: train with a lower `lr`."
    return Finding(
        last_val / best_val - 1,
        f"Validation loss went {course}."
        if last is not best
        else f"Validation loss was lowest in the last epoch, {last['epoch']}.",
        overfits if last_train <= best_train else diverging,
        limits=(0.10, 0.25) if "val_cider" in last else None,
    )
