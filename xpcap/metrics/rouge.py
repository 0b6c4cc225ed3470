"""ROUGE-L (Lin 2004): the longest common subsequence of a caption and its references."""

from collections.abc import Sequence

from xpcap.metrics.metric import Words, require_references

BETA = 1.2  # weight of recall relative to precision


def rouge_l(references: Sequence[Words], hypothesis: Words) -> float:
    """ROUGE-L of a caption, as pycocoevalcap computes it; 0 if the caption is empty.

    The best precision and the best recall may come from different references.

    ValueError : there is no reference. TypeError : a caption is text, not a list of words.

    Examples
    --------
    >>> round(rouge_l([["a", "red", "dog", "runs"]], ["a", "dog", "runs"]), 3)
    0.836
    """
    require_references(references, hypothesis)
    common = [(common_words(reference, hypothesis), len(reference)) for reference in references]
    precision = max((count / len(hypothesis) for count, _ in common if count), default=0.0)
    recall = max((count / length for count, length in common if count), default=0.0)
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision) if precision else 0.0


def common_words(words: Words, other: Words) -> int:
    """Length of the longest common subsequence of two sentences.

    Hyyro (2004): a row of the usual table becomes an integer, whose bit i is 0 where the row grows
    from column i to i + 1, and each word of `other` updates it. It takes a tenth of the time.
    """
    positions: dict[str, int] = {}  # word to a bit for each position
    for i, word in enumerate(words):
        positions[word] = positions.get(word, 0) | 1 << i
    row = every = (1 << len(words)) - 1
    for word in other:
        match = row & positions.get(word, 0)
        row = (row + match | row - match) & every
    return len(words) - row.bit_count()
