"""What captions show of their model: too few different ones, no end, the wrong length, words that it does not know."""

from collections import Counter
from collections.abc import Iterable, Sequence

from xpcap.data.tokens import detokenize
from xpcap.data.vocabulary import UNK
from xpcap.metrics import Words
from xpcap.runs.findings import Finding, Symptom

# The reasons give figures of Flickr8k's val split. Good runs learnt from 6,000 pictures and score CIDEr 0.4 and more, poor ones learnt from 250.

# Good runs say 745 to 855 different captions on 1,000 pictures, the first after two epochs 278. Both limits are shares of how much people's captions differ.
VARIETY = Symptom("variety", "captions that differ, among at most 1,000", check=0.25, bad=0.10)
# Good runs 0.00 to 0.03, poor ones 0.14; of what people write, 0.03 is that long. A quarter is no accident of a few odd pictures.
ENDING = Symptom("ending", "captions that ran to the length limit without an end", check=0.05, bad=0.25)
# Good and poor runs 0.97 to 1.03. BLEU's brevity penalty is 0.78 at 0.8 and 0.51 at 0.6; above, precision falls as fast.
SHORT = Symptom("length", "words in a caption, over those in a reference", check=0.8, bad=0.6, share=False)
LONG = Symptom("length", "words in a caption, over those in a reference", check=1.25, bad=1.6, share=False)
# Good runs 0.01, 1,000 pictures to learn from 0.11, 250 pictures 0.39. As <UNK> is never said, each such word is replaced by a less likely one.
UNKNOWN_WORDS = Symptom("unknown", "words that would be <UNK> if that could be said", check=0.05, bad=0.20)
# Words that occur five times in 6,000 pictures' captions leave 0.03, those of 1,000 pictures 0.09, of 250 pictures 0.18.
VOCABULARY = Symptom("vocabulary", "words of the references that the vocabulary lacks", check=0.05, bad=0.15)


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
        "The model has collapsed to what fits most pictures. See what is said of the features; if they are fine, train for more epochs, or with a "
        "lower `lr` if the loss jumps.",
    )


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


def unknown_words(said: Sequence[Words], targets: float) -> Finding:
    """How many words would be UNK.

    Parameters
    ----------
    said : captions of a model that may say UNK
    targets : share of UNK in the references, as the model reads them
    """
    share = _share(word == UNK for words in said for word in words)
    return UNKNOWN_WORDS.found(
        share,
        f"If it could, the model would say <UNK> for {share:.1%} of its words; of the references' words {targets:.1%} are <UNK> to it.",
        "It learnt from captions with too many rare words: prepare the data with a lower `min_count` or a larger `vocabulary`, or with more captions.",
    )


def vocabulary(written: Sequence[Words], known: Sequence[str]) -> Finding:
    """How many words of the references the vocabulary lacks."""
    share, lacking = lacking_words(written, known)
    named = ", ".join(f"{word} ({n:,})" for word, n in lacking.most_common(5))
    return VOCABULARY.found(
        share,
        f"The vocabulary lacks {share:.1%} of the references' words{f', most often {named}' if named else ''}.",
        "No caption can name what has no word: train on captions about the same things, prepared with a lower `min_count` or a larger `vocabulary`.",
    )


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
