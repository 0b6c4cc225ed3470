"""What captions show of their model: too few different ones, words said again and again, no end, the wrong length, words that it does not know."""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from xpcap.data.vocabulary import UNK, detokenize
from xpcap.metrics import Words
from xpcap.runs.findings import Finding, Symptom

# The reasons give figures of Flickr8k's val split. Good runs learnt from 6,000 pictures and score CIDEr 0.4 and more, poor ones learnt from 250.

# Of 1,000 captions of Flickr8k all differ, of generated ones 98 in 100. Of a handful to learn from each is a large share.
ALIKE = Symptom("alike", "training captions that are one and the same, among at most 1,000", check=0.5, bad=0.9)
# Good runs say 745 to 855 different captions on 1,000 pictures, the first after two epochs 278. Both limits are shares of how much people's captions differ.
VARIETY = Symptom("variety", "captions that differ, among at most 1,000", check=0.25, bad=0.10)
# Of what people write 0.0003, of generated captions 0.002; runs learnt from 400 photos with a caption each 0.62 to 0.78.
REPEATS = Symptom("repeats", "captions with one to three words twice in a row", check=0.05, bad=0.20)
MOST_REPEATED = 3  # words
# Good runs 0.00 to 0.03, poor ones 0.14; of what people write, 0.03 is that long. A quarter is no accident of a few odd pictures.
ENDING = Symptom("ending", "captions that ran to the length limit without an end", check=0.05, bad=0.25)
# Good and poor runs 0.97 to 1.03. BLEU's brevity penalty is 0.78 at 0.8 and 0.51 at 0.6; above, precision falls as fast.
SHORT = Symptom("length", "words in a caption, over those in a reference", check=0.8, bad=0.6, share=False)
LONG = Symptom("length", "words in a caption, over those in a reference", check=1.25, bad=1.6, share=False)
# Good runs 0.01, 1,000 pictures to learn from 0.11, 250 pictures 0.39. As <UNK> is never said, each such word is replaced by a less likely one.
UNKNOWN_WORDS = Symptom("unknown", "words that would be <UNK> if that could be said", check=0.05, bad=0.20)
# Words that occur five times in 6,000 pictures' captions leave 0.03, those of 1,000 pictures 0.09, of 250 pictures 0.18.
VOCABULARY = Symptom("vocabulary", "words of the references that the vocabulary lacks", check=0.05, bad=0.15)


def alike(learnt: Sequence[Hashable] | None) -> Finding:
    """How many training captions are the same as the most frequent one.

    Parameters
    ----------
    learnt : at most 1,000 of those that the run learnt from, as it read them; None: they are not at hand
    """
    if not learnt:
        return ALIKE.unknown("The captions that the run learnt from are not in this data.")
    share = Counter(learnt).most_common(1)[0][1] / len(learnt)
    return ALIKE.found(
        share,
        f"The most frequent training caption is {share:.1%} of those looked at.",
        "All training captions are alike, or most are: a model learns to say that one of every picture. Train on captions that tell what each picture shows.",
    )


def variety(said: Sequence[Words], written: Sequence[Words]) -> Finding:
    """How many captions differ.

    Parameters
    ----------
    said : one caption a picture, of at most 1,000: among more pictures the share that differs is smaller
    written : one reference for each of them; what people say of alike pictures is alike as well
    """
    captions = Counter(map(detokenize, said))
    people = len({tuple(words) for words in written}) / len(written)
    (most, times), share = captions.most_common(1)[0], len(captions) / len(said)
    symptom = Symptom(VARIETY.name, VARIETY.title, VARIETY.check * people, VARIETY.bad * people)
    return symptom.found(
        share,
        f"{len(captions):,} of {len(said):,} captions differ; the most frequent, {most!r}, is said {times:,} times.",
        "The model has collapsed to what fits most pictures. See what is said of the training captions and of the features; if they are fine, train for "
        "more epochs, or with a lower `lr` if the loss jumps.",
    )


def repeats(said: Sequence[Words]) -> Finding:
    """How many captions say a word, or up to three words, twice in a row."""
    twice = [found for words in said if (found := repeated(words))]
    most = f", most often {Counter(twice).most_common(1)[0][0]!r}" if twice else ""
    return REPEATS.found(
        len(twice) / max(len(said), 1),
        f"{len(twice):,} of {len(said):,} captions say one to three words twice in a row{most}.",
        "The model does not know how to go on: it has seen too few captions, or too many <UNK> in them. See what is said of unknown words; learn from more "
        "captions. `no_repeat_trigram` hides some of it.",
    )


def repeated(words: Words) -> str:
    """The first word, or two or three words, that are said twice in a row; empty: none."""
    for n in range(1, MOST_REPEATED + 1):
        for i in range(len(words) - 2 * n + 1):
            if words[i : i + n] == words[i + n : i + 2 * n]:
                return " ".join(words[i : i + 2 * n])
    return ""


def ending(said: Sequence[Words], written: Sequence[Words], limit: int) -> Finding:
    """How many captions say no END within `limit` words."""
    share, people = _share(len(words) >= limit for words in said), _share(len(words) >= limit for words in written)
    short_limit = f"Of the references {people:.1%} are that long: prepare the data with a larger `max_words`."
    no_end = "It goes on and on where it does not know what to say: train for more epochs, on more captions, and see what is said of unknown words."
    return ENDING.found(share, f"{share:.1%} of the captions stop at {limit} words because they must.", short_limit if people > share / 2 else no_end)


def length(said: Sequence[Words], written: Sequence[Words]) -> Finding:
    """How long captions are beside references."""
    ours, theirs = _mean(said), _mean(written)
    ratio = ours / max(theirs, 1e-9)
    shorter, longer = (
        "Short captions lose to BLEU's brevity penalty. Search with a higher `length_penalty` if you use a beam; else train for more epochs.",
        "Long captions say things twice. See whether captions end, and whether the training captions are as long as these references.",
    )
    meaning = f"A caption has {ours:.1f} words on average, a reference {theirs:.1f}."
    return SHORT.found(ratio, meaning, shorter) if ratio < 1 else LONG.found(ratio, meaning, longer)


def unknown_words(said: Sequence[Words], targets: float, prepared: Mapping[str, Any]) -> Finding:
    """How many words would be UNK.

    Parameters
    ----------
    said : captions of a model that may say UNK
    targets : share of UNK in the references, as the model reads them
    prepared : the record of the data that the run learnt from
    """
    share = _share(word == UNK for words in said for word in words)
    return UNKNOWN_WORDS.found(
        share,
        f"If it could, the model would say <UNK> for {share:.1%} of its words; of the references' words {targets:.1%} are <UNK> to it.",
        f"It learnt from captions with too many rare words: prepare the data with {_more_words(prepared)}, or with more captions.",
    )


def vocabulary(written: Sequence[Words], known: Sequence[str], prepared: Mapping[str, Any]) -> Finding:
    """How many words of the references the vocabulary lacks. `prepared` is as in `unknown_words`."""
    share, lacking = lacking_words(written, known)
    named = ", ".join(f"{word} ({n:,})" for word, n in lacking.most_common(5))
    return VOCABULARY.found(
        share,
        f"The vocabulary lacks {share:.1%} of the references' words{f', most often {named}' if named else ''}.",
        f"No caption can name what has no word: train on captions about the same things, prepared with {_more_words(prepared)}.",
    )


def _more_words(prepared: Mapping[str, Any]) -> str:
    """The options that make a larger vocabulary, with their present values."""
    fewest, most = prepared.get("min_count"), prepared.get("vocabulary_size")
    if most is not None:
        return f"a larger `vocabulary` than {most}"
    return "a lower `min_count` or a larger `vocabulary`" if fewest is None else f"a lower `min_count` than {fewest}"


def lacking_words(written: Sequence[Words], known: Iterable[str]) -> tuple[float, Counter[str]]:
    """The share of words that are not among the `known` ones, and how often each occurs."""
    words, known = Counter(word for caption in written for word in caption), set(known) - {UNK}
    lacking = Counter({word: n for word, n in words.items() if word not in known})
    return lacking.total() / max(words.total(), 1), lacking


def _share(facts: Iterable[bool]) -> float:
    found = list(facts)
    return sum(found) / max(len(found), 1)


def _mean(captions: Sequence[Words]) -> float:
    return sum(map(len, captions)) / max(len(captions), 1)
