"""The doctor: common causes of bad captions in a run, measured and judged, with advice."""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import to_numpy
from xpcap.data import CaptionData
from xpcap.data.dataset import evenly_spaced
from xpcap.data.vocabulary import UNK, detokenize
from xpcap.errors import InvalidValueError
from xpcap.metrics import CorpusStatistics, Words
from xpcap.metrics.variety import bigrams, repeated
from xpcap.models import Captioner
from xpcap.models.captioning_rnn import CaptioningRNN
from xpcap.runs.captioning import captioned, data_of
from xpcap.runs.folder import Run, provenance
from xpcap.runs.scoring import TOO_FEW, train_statistics
from xpcap.training.evaluate import teacher_forced
from xpcap.training.state import Record

OK, CHECK, BAD, UNKNOWN = "ok", "check", "bad", "unknown"


class Diagnosis(NamedTuple):
    """One measurement of a run, with its verdict."""

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


@dataclass(frozen=True)
class Symptom:
    """A measurement and the limits of its verdicts.

    Parameters
    ----------
    name, title : as in Diagnosis
    check, bad : limits of the verdicts; smaller numbers are worse if `bad` is the smaller one
    share : show the value in per cent
    """

    name: str
    title: str
    check: float
    bad: float
    share: bool = True

    def verdict(self, value: float) -> str:
        """OK, CHECK or BAD. A value at a limit is on its good side."""
        sign = 1 if self.bad > self.check else -1
        if sign * value > sign * self.bad:
            return BAD
        return CHECK if sign * value > sign * self.check else OK

    def above(self, human: float) -> "Symptom":
        """The symptom with limits that lie so far above `human`, the value of what people wrote."""
        return replace(self, check=human + self.check, bad=human + self.bad)

    def found(self, value: float, meaning: str, advice: str) -> Diagnosis:
        """The diagnosis for a value: its meaning, then the advice unless the verdict is OK."""
        verdict = self.verdict(value)
        return self._diagnosis(value, verdict, meaning if verdict == OK else f"{meaning} {advice}")

    def unknown(self, why: str) -> Diagnosis:
        """The diagnosis without a measurement, and the reason."""
        return self._diagnosis(None, UNKNOWN, why)

    def _diagnosis(self, value: float | None, verdict: str, text: str) -> Diagnosis:
        limit = f"at {'most' if self.bad > self.check else 'least'} {self._shown(self.check)}"
        row = (verdict, self.name, "" if value is None else self._shown(value), limit, self.title)
        return Diagnosis(self.name, self.title, value, self.check, verdict, text, row)

    def _shown(self, value: float) -> str:
        return f"{value:.1%}" if self.share else f"{value:.2f}"


# The examination


MOST_DIFFERENT = 1000  # captions compared with one another: the more there are, the more repeat
MOST_UNFORBIDDEN = 500  # pictures captioned once more, with UNK allowed


def examine_run(
    run: Run,
    captions: Sequence[Sequence[str]],
    data: CaptionData | str | Path | None = None,
    split: str = "val",
) -> list[Diagnosis]:
    """Measure the common causes of bad captions.

    Parameters
    ----------
    captions : the run's captions as lists of words, one for each picture of the split that has
        references, in the order of the pictures, as `evaluate_run` returns them
    data, split : of the captions, as in `evaluate_run`

    Returns
    -------
    one Diagnosis for each symptom, always the same ones in the same order

    Raises
    ------
    DataError : the data set or the split is missing, or does not fit the run. ValueError : the
        captions are not those of the split.
    """
    seen = data_of(run, data)
    pictures, firsts = np.unique(seen.split(split).image_idxs, return_index=True)
    if len(captions) != len(pictures):
        raise InvalidValueError(
            "examine_run",
            "",
            f"got {len(captions)} captions",
            expected=f"one for each of the {len(pictures)} pictures of {split}",
            cause="of another split?",
        )
    references = seen.words(split)
    encoded = seen.encoded_with(run.vocabulary, split, references)
    compared, human = evenly_spaced(len(pictures), MOST_DIFFERENT), [references[i] for i in firsts]
    statistics = train_statistics(seen) if "train" in seen.splits else None
    known, prepared = run.vocabulary.idx_to_word, run.config.get("source", {})
    same = alike(_training_captions(run, seen))
    unforbidden = _unforbidden(run, seen, split)
    return [
        same,
        features(run.model, encoded, split, same.verdict not in (OK, UNKNOWN)),
        variety([captions[i] for i in compared], [human[i] for i in compared]),
        repeats(captions, human),
        unseen_bigrams(captions, human, statistics, known),
        bad_endings(captions, human, statistics),
        ending(captions, references, run.config["max_words"]),
        length(captions, references),
        unknown_words(unforbidden, lacking_words(references, known)[0], prepared),
        vocabulary(references, known, prepared),
        overfitting(*provenance(run)),
        gates(run.model, encoded, split),
    ]


def _training_captions(run: Run, data: CaptionData) -> list[bytes] | None:
    """A sample of the run's training captions, as encoded bytes; None: this is other data."""
    if (
        "train" not in data.splits
        or run.config.get("data_stamp", data.fingerprint) != data.fingerprint
    ):
        return None
    captions = data.split("train").captions
    chosen = evenly_spaced(len(captions), MOST_DIFFERENT)
    return [np.asarray(captions[i]).tobytes() for i in chosen.tolist()]


def _unforbidden(run: Run, data: CaptionData, split: str) -> list[list[str]]:
    """Captions of a sample of the pictures, without END, by a model that may say UNK."""
    pictures = captioned(data, split)
    rows = pictures[evenly_spaced(len(pictures), MOST_UNFORBIDDEN)]
    vocabulary = run.vocabulary
    forbid, most = (vocabulary.null, vocabulary.start), run.config["max_words"]
    captions = run.model.sample(data.features(split, rows), most, forbid=forbid)
    return [
        [vocabulary.idx_to_word[i] for i in ids if i not in (vocabulary.end, vocabulary.null)]
        for ids in captions.tolist()
    ]


# Symptoms in captions


# The reasons for the limits give figures of Flickr8k's val split. Good runs learnt from 6,000
# pictures and score CIDEr 0.4 and more, poor ones learnt from 250.

# Of 1,000 captions of Flickr8k all differ, of generated ones 98 in 100. Of a handful to learn from
# each is a large share.
ALIKE = Symptom(
    "alike", "training captions that are one and the same, among at most 1,000", check=0.5, bad=0.9
)
# Good runs have 745 to 855 distinct captions on 1,000 pictures, the first after two epochs 278.
# Both limits are relative to the share of distinct references.
VARIETY = Symptom("variety", "captions that differ, among at most 1,000", check=0.25, bad=0.10)
# Limits of the next three are above people's share. References 0.0003, generated captions 0.002;
# good greedy runs 0.03; runs learnt from 400 to 450 photos with a caption each 0.62 to 0.83.
REPEATS = Symptom(
    "repeats", "captions with one to three words twice in a row", check=0.05, bad=0.20
)
# Good greedy runs 0.002, draws at temperature 0.5 0.009; at temperature 1, where many captions are
# word salad, 0.24, people 0.075. Learnt from 450 photos with a caption each, greedy 0.23 with 159
# words and 0.31 with more, drawn 0.46; people 0.14 and 0.21.
UNSEEN_BIGRAMS = Symptom(
    "unseen_bigrams",
    "pairs of neighbouring words that are in no training caption",
    check=0.05,
    bad=0.15,
)
# Good greedy runs 0.03, their beams 0.01; learnt from 450 photos with a caption each 0.11 to 0.16.
# People's 0.000 to 0.006.
BAD_ENDINGS = Symptom(
    "bad_endings", "captions that end in a word that hardly ever ends one", check=0.05, bad=0.15
)
# Good runs 0.00 to 0.03, poor ones 0.14; of the references 0.03 are that long. A quarter is no
# accident of a few odd pictures.
ENDING = Symptom(
    "ending", "captions that ran to the length limit without an end", check=0.05, bad=0.25
)
# Good and poor runs 0.97 to 1.03. BLEU's brevity penalty is 0.78 at 0.8 and 0.51 at 0.6; above,
# precision falls as fast.
SHORT = Symptom(
    "length", "words in a caption, over those in a reference", check=0.8, bad=0.6, share=False
)
LONG = Symptom(
    "length", "words in a caption, over those in a reference", check=1.25, bad=1.6, share=False
)
# Good runs 0.01, 1,000 pictures to learn from 0.11, 250 pictures 0.39. As <UNK> is never decoded,
# a less likely word replaces it.
UNKNOWN_WORDS = Symptom(
    "unknown", "words that would be <UNK> if that could be said", check=0.05, bad=0.20
)
# Words that occur five times in 6,000 pictures' captions leave 0.03, those of 1,000 pictures 0.09,
# of 250 pictures 0.18.
VOCABULARY = Symptom(
    "vocabulary", "words of the references that the vocabulary lacks", check=0.05, bad=0.15
)


def alike(captions: Sequence[Hashable] | None) -> Diagnosis:
    """Share of training captions equal to the most frequent one, of at most 1,000.

    `captions` None: they are not at hand.
    """
    if not captions:
        return ALIKE.unknown("The captions that the run learnt from are not in this data.")
    share = Counter(captions).most_common(1)[0][1] / len(captions)
    return ALIKE.found(
        share,
        f"The most frequent training caption is {share:.1%} of those looked at.",
        "All or most training captions are the same, and the model learns to repeat it for every"
        " picture. Train on captions that describe each picture.",
    )


def variety(captions: Sequence[Words], references: Sequence[Words]) -> Diagnosis:
    """Share of distinct captions.

    Parameters
    ----------
    captions : one a picture, of at most 1,000: the share falls with the number of pictures
    references : one reference for each, since limits scale with the share of distinct references
    """
    counts = Counter(map(detokenize, captions))
    human = len({tuple(words) for words in references}) / len(references)
    (most, times), share = counts.most_common(1)[0], len(counts) / len(captions)
    symptom = Symptom(VARIETY.name, VARIETY.title, VARIETY.check * human, VARIETY.bad * human)
    return symptom.found(
        share,
        f"{len(counts):,} of {len(captions):,} captions differ; the most frequent, {most!r}, is"
        f" said {times:,} times.",
        "The model has collapsed to what fits most pictures. See what is said of the training"
        " captions and of the features; if they are fine, train for more epochs, or with a lower"
        " `lr` if the loss jumps.",
    )


def repeats(captions: Sequence[Words], human: Sequence[Words]) -> Diagnosis:
    """Share of captions in which one to three words stand twice in a row."""
    twice = [found for words in captions if (found := repeated(words))]
    most = f", most often {Counter(twice).most_common(1)[0][0]!r}" if twice else ""
    theirs = _share(bool(repeated(words)) for words in human)
    return REPEATS.above(theirs).found(
        len(twice) / max(len(captions), 1),
        f"{len(twice):,} of {len(captions):,} captions repeat one to three words at once{most};"
        f" {theirs:.1%} of people's do.",
        "The model does not know how to continue: it has seen too few captions, or too many <UNK>"
        " in them. See the check of unknown words; train on more captions. `no_repeat_trigram`"
        " hides some of it.",
    )


def unseen_bigrams(
    captions: Sequence[Words],
    human: Sequence[Words],
    train: CorpusStatistics | None,
    known: Sequence[str],
) -> Diagnosis:
    """Share of pairs of neighbouring words that no train caption holds.

    Parameters
    ----------
    train : None: the data has no train split
    known : the run's vocabulary; pairs with other words are not counted, since people use many
    """
    if train is None:
        return UNSEEN_BIGRAMS.unknown(
            "This data has no train split to compare pairs of words with."
        )
    words = {None, *known}
    ours, theirs = (
        [pair for caption in texts for pair in bigrams(caption) if words.issuperset(pair)]
        for texts in (captions, human)
    )
    unseen = [pair for pair in ours if pair not in train.bigrams]
    share, human_share = (
        len(unseen) / max(len(ours), 1),
        _share(p not in train.bigrams for p in theirs),
    )
    named = ", ".join(repr(_phrase(pair)) for pair, _ in Counter(unseen).most_common(3))
    return UNSEEN_BIGRAMS.above(human_share).found(
        share,
        f"{share:.1%} of the pairs of neighbouring words are in no training"
        f" caption{f', most often {named}' if named else ''}; of people's, without words that the"
        f" vocabulary lacks, {human_share:.1%}.",
        "A model has only its training captions to learn from which words go together: pairs that"
        " it makes up are rarely good. If words are drawn, draw them with a lower `temperature` or"
        " `top_p`; else search with a beam, and learn from more captions or for more epochs.",
    )


def _phrase(pair: tuple[str | None, str | None]) -> str:
    first, second = pair
    return f"{first or '(start)'} {second or '(end)'}"


def bad_endings(
    captions: Sequence[Words], human: Sequence[Words], train: CorpusStatistics | None
) -> Diagnosis:
    """Share of captions whose last word hardly ever ends a train caption.

    `train` None: the data has no train split.
    """
    if train is None or not train.never_last:
        return BAD_ENDINGS.unknown(
            "This data has no train split to learn from which words hardly ever end a caption."
            if train is None
            else f"There are {TOO_FEW}."
        )
    last, theirs = (
        [words[-1] for words in texts if words and words[-1] in train.never_last]
        for texts in (captions, human)
    )
    human_share = len(theirs) / max(len(human), 1)
    named = ", ".join(f"{word!r} ({n:,})" for word, n in Counter(last).most_common(3))
    return BAD_ENDINGS.above(human_share).found(
        len(last) / max(len(captions), 1),
        f"{len(last):,} of {len(captions):,} captions end in a word that hardly ever ends a"
        f" training caption{f', most often {named}' if named else ''}; of people's"
        f" {human_share:.1%}.",
        "They break off: search with a beam; see whether captions stop at the length limit; else"
        " train for more epochs, or on more captions.",
    )


def ending(captions: Sequence[Words], references: Sequence[Words], limit: int) -> Diagnosis:
    """Share of captions without END within `limit` words."""
    share, human = (
        _share(len(words) >= limit for words in texts) for texts in (captions, references)
    )
    short_limit = (
        f"Of the references {human:.1%} are that long: prepare the data with a larger `max_words`."
    )
    no_end = (
        "It goes on and on where it does not know what to say: train for more epochs, on more"
        " captions, and see what is said of unknown words."
    )
    return ENDING.found(
        share,
        f"{share:.1%} of the captions stop at {limit} words because they must.",
        short_limit if human > share / 2 else no_end,
    )


def length(captions: Sequence[Words], references: Sequence[Words]) -> Diagnosis:
    """Mean length of captions over that of references."""
    ours, theirs = _mean(captions), _mean(references)
    ratio = ours / max(theirs, 1e-9)
    shorter = (
        "Short captions lose to BLEU's brevity penalty. Search with a higher `length_penalty`"
        " if you use a beam; else train for more epochs."
    )
    longer = (
        "Long captions repeat themselves. Check whether captions end, and whether the training"
        " captions are as long as these references."
    )
    meaning = f"A caption has {ours:.1f} words on average, a reference {theirs:.1f}."
    return SHORT.found(ratio, meaning, shorter) if ratio < 1 else LONG.found(ratio, meaning, longer)


def unknown_words(
    captions: Sequence[Words], targets: float, prepared: Mapping[str, Any]
) -> Diagnosis:
    """Share of UNK in `captions`, of a model that may say it.

    Parameters
    ----------
    targets : share of UNK in the references, as the model reads them
    prepared : the record of the training data
    """
    share = _share(word == UNK for words in captions for word in words)
    return UNKNOWN_WORDS.found(
        share,
        f"If it could, the model would say <UNK> for {share:.1%} of its words; of the references'"
        f" words {targets:.1%} are <UNK> to it.",
        "It learnt from captions with too many rare words: prepare the data with"
        f" {_more_words(prepared)}, or with more captions.",
    )


def vocabulary(
    references: Sequence[Words], known: Sequence[str], prepared: Mapping[str, Any]
) -> Diagnosis:
    """Share of the references' words outside the vocabulary. `prepared` as in `unknown_words`."""
    share, lacking = lacking_words(references, known)
    named = ", ".join(f"{word} ({n:,})" for word, n in lacking.most_common(5))
    return VOCABULARY.found(
        share,
        f"The vocabulary lacks {share:.1%} of the references'"
        f" words{f', most often {named}' if named else ''}.",
        "No caption can name what has no word: train on captions about the same things, prepared"
        f" with {_more_words(prepared)}.",
    )


def _more_words(prepared: Mapping[str, Any]) -> str:
    """The options that enlarge the vocabulary, with their present values."""
    fewest, most = prepared.get("min_count"), prepared.get("vocabulary_size")
    if most is not None:
        return f"a larger `vocabulary` than {most}"
    return (
        "a lower `min_count` or a larger `vocabulary`"
        if fewest is None
        else f"a lower `min_count` than {fewest}"
    )


def lacking_words(references: Sequence[Words], known: Iterable[str]) -> tuple[float, Counter[str]]:
    """The share of words that are not among the `known` ones, and their counts."""
    words, known = Counter(word for caption in references for word in caption), set(known) - {UNK}
    lacking = Counter({word: n for word, n in words.items() if word not in known})
    return lacking.total() / max(words.total(), 1), lacking


def _share(facts: Iterable[bool]) -> float:
    found = list(facts)
    return sum(found) / max(len(found), 1)


def _mean(captions: Sequence[Words]) -> float:
    return sum(map(len, captions)) / max(len(captions), 1)


# Symptoms in the model


SCORED = (
    1000  # captions scored with the wrong picture, at most: the ratio is good to a few per cent
)
READ = 256  # captions whose gates are measured, at most: millions of activations
EXCHANGE = 0  # random stream of the exchange of pictures

# Runs learnt from 250 to 6,000 photographs 1.6 to 3.5, from generated pictures 13; from meaningless
# features 1.00.
FEATURES = Symptom(
    "features",
    "perplexity with the wrong picture, over that with its own",
    check=1.2,
    bad=1.05,
    share=False,
)
# At a perplexity near 16, two per cent more loss are 6 % more perplexity, and ten per cent a third
# more.
OVERFITTING = Symptom(
    "overfitting", "rise of validation loss since its lowest", check=0.02, bad=0.10
)
# For runs that choose their epoch by captions: these got better (CIDEr 0.44 to 0.51) with an image
# in every step, at 4 % more loss.
OVERFITTING_BY_CAPTIONS = Symptom(OVERFITTING.name, OVERFITTING.title, check=0.10, bad=0.25)
# Good runs 0.3 with the image in the initial state, 0.65 with it in every step, 0.53 on generated
# pictures; with all weights three times as large 0.72 to 0.88, ten times 0.91 to 0.96. On toy data
# learning rates of 0.01, 0.1, 0.3 and 1 leave 0.42, 0.76, 0.94 and 0.99, and worse captions.
GATES = Symptom(
    "gates", "gates, or units of an RNN, at the ends of their range", check=0.8, bad=0.95
)


def features(model: Captioner, data: CaptionData, split: str, alike: bool = False) -> Diagnosis:
    """Perplexity of the references with another picture's features, over that with their own.

    Parameters
    ----------
    data : encoded with the model's vocabulary, features scaled
    alike : the training captions are the same, so that features cannot help
    """
    of, pictures = data.split(split), captioned(data, split)
    if len(pictures) < 2:
        return FEATURES.unknown(
            "One picture cannot be exchanged for another: score a split with more pictures."
        )
    order = np.random.default_rng([0, EXCHANGE]).permutation(pictures)
    others = np.zeros(len(of.features), of.image_idxs.dtype)
    others[order] = np.roll(order, 1)  # no picture keeps its own
    exchanged = replace(data, splits={split: replace(of, image_idxs=others[of.image_idxs])})
    chosen = evenly_spaced(len(of.captions), SCORED)
    own, wrong = (teacher_forced(model, seen, split, captions=chosen) for seen in (data, exchanged))
    ratio = math.exp(min((wrong.loss - own.loss) * own.n / max(own.tokens, 1), 700.0))
    same = (
        "The captions hardly depend on the picture, as the training captions are the same: see"
        " above."
    )
    mixed_up = (
        "The captions hardly depend on the picture. Check that features and names of pictures"
        " belong together and that features differ from picture to picture, train with"
        " `feature_scaling` standardize, and for more epochs."
    )
    return FEATURES.found(
        ratio,
        f"With the features of another picture, the perplexity of the references is {ratio:.2f}"
        " times as high.",
        same if alike else mixed_up,
    )


def overfitting(history: Sequence[Record], epoch: object) -> Diagnosis:
    """Rise of the validation loss since its lowest, from records of epochs.

    `epoch` is the number of the epoch whose parameters the run holds.
    """
    if any("train_reward" in record for record in history):
        keeps = (
            f"epoch {epoch}, the best by CIDEr-D"
            if epoch
            else "what it started from, since no epoch was better by CIDEr-D"
        )
        return OVERFITTING.unknown(
            f"The run was trained on the score of captions, not on their loss; it keeps {keeps}."
        )
    records = [
        record
        for record in history
        if all(_positive(record.get(key)) for key in ("train_loss", "val_loss"))
    ]
    if len(records) < 2:
        return OVERFITTING.unknown(
            "history.jsonl has fewer than two epochs with a validation loss: nothing to compare."
        )
    best, last = min(records, key=lambda record: record["val_loss"]), records[-1]
    symptom = OVERFITTING_BY_CAPTIONS if "val_cider" in last else OVERFITTING
    first, then = ((record["train_loss"], record["val_loss"]) for record in (best, last))
    course = (
        f"from {first[1]:.1f} after epoch {best['epoch']} to {then[1]:.1f} after epoch"
        f" {last['epoch']}, training loss from {first[0]:.1f} to {then[0]:.1f}"
    )
    meaning = (
        f"Validation loss went {course}."
        if last is not best
        else f"Validation loss was lowest in the last epoch, {last['epoch']}."
    )
    by_heart = (
        f"The later epochs overfit the training captions; the run keeps epoch {epoch}. More captions,"
        " more `dropout`, or fewer `hidden` units move the lowest point down."
    )
    diverging = "Training loss rose as well, so it is not the captions: train with a lower `lr`."
    return symptom.found(
        then[1] / first[1] - 1, meaning, by_heart if then[0] <= first[0] else diverging
    )


def gates(model: CaptioningRNN, data: CaptionData, split: str) -> Diagnosis:
    """Share of the cell's activations that are saturated on references. `data` as in `features`."""
    batch = data.minibatch(split, evenly_spaced(len(data.split(split).captions), READ))
    shares = {}
    for name, (values, low, high) in model.activations(*batch).items():
        shares[name] = float(to_numpy(((values < low) | (values > high)).mean()))
    if not shares:
        return GATES.unknown("The cell does not say where its gates are.")
    share = sum(shares.values()) / len(shares)
    each = ", ".join(f"{name} {part:.1%}" for name, part in shares.items())
    return GATES.found(
        share,
        f"{share:.1%} of the cell's activations are so near an end of their range that hardly any"
        f" gradient passes ({each}).",
        "Such a cell has stopped learning. Train with a lower `lr` and a lower `clip`, and with"
        " `feature_scaling` standardize if features are large.",
    )


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0
