"""CIDEr-D beside pycocoevalcap's values and beside the formula as one writes it down."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import drawn_captions
import numpy as np
import pytest
from drawn_captions import Captions, Pictures, draw_captions, draw_pictures
from programs import program
from refusals import Refusal, refusals

from xpcap.metrics.cider import CiderD, DocumentFrequencies

# a picture: its references, a caption, and pycocoevalcap 1.2's CIDEr of it among these five
PICTURES = [
    (
        ["a dog runs over the grass", "a brown dog runs fast", "the dog plays in the grass"],
        *("a dog runs in the grass", 3.156432432102365),
    ),
    (
        ["two men play football", "men in red play with a ball in a field"],
        *("two men in red play football in a field", 3.320309127968846),
    ),
    # counted as often as a reference has it
    (["a girl on a swing", "a small girl swings"], "a girl girl girl", 0.8124855953689427),
    (["the man climbs a rock", "a climber on a steep rock wall"], "zebra", 0.0),
    (
        ["a boy jumps into the water", "a boy jumps off a pier"],
        *("a boy jumps into the water", 6.42977538331375),
    ),
]
REFERENCES = [[caption.split() for caption in written] for written, _, _ in PICTURES]
HYPOTHESES = [said.split() for _, said, _ in PICTURES]


def test_values_are_pycocoevalcaps() -> None:
    scores = CiderD(REFERENCES).scores(HYPOTHESES)
    assert scores.dtype == np.float64
    assert scores.tolist() == pytest.approx([score for _, _, score in PICTURES], rel=1e-12)


def plain_cider_d(
    references: Pictures, hypotheses: Captions, seen: Sequence[Captions]
) -> list[float]:
    """The formula with dictionaries; document frequencies are of `seen`."""

    def grams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    def weight(gram: tuple[str, ...]) -> float:
        count = sum(any(gram in grams(words, len(gram)) for words in captions) for captions in seen)
        return math.log(len(seen) / max(1, count))

    def similarity(said: list[str], written: list[str], n: int) -> float:
        c, r = ({g: k * weight(g) for g, k in grams(x, n).items()} for x in (said, written))
        norms = math.hypot(*c.values()) * math.hypot(*r.values())
        if not norms:
            return 0.0
        gap = max(len(said) - 1, 0) - max(len(written) - 1, 0)
        product = sum(min(c[g], r[g]) * r[g] for g in c.keys() & r.keys())
        return product / norms * math.exp(-(gap**2) / 72)

    pairs = zip(references, hypotheses, strict=True)
    return [
        10 * float(np.mean([similarity(said, one, n) for one in written for n in (1, 2, 3, 4)]))
        for written, said in pairs
    ]


def test_values_are_the_formulas_for_random_words_and_for_frequencies_of_other_pictures() -> None:
    rng = np.random.default_rng(0)
    references, others = (
        [draw_captions(rng, k) for k in counts] for counts in ([1, 2, 3, 4] * 3, [3] * 9)
    )
    hypotheses = draw_captions(rng, 12)
    frequencies = DocumentFrequencies.of(others)
    for cider, seen in (
        (CiderD(references), references),
        (CiderD(references, frequencies), others),
    ):
        expected = plain_cider_d(references, hypotheses, seen)
        np.testing.assert_allclose(cider.scores(hypotheses), expected, rtol=1e-12)
        assert (np.array(expected) > 0).sum() > 5


def test_captions_of_chosen_pictures_score_as_among_all_of_them() -> None:
    """The same sums in the same order."""
    references, hypotheses = draw_pictures(3, 40)
    cider = CiderD(references)
    whole = cider.scores(hypotheses)
    assert (whole > 0).sum() > 10
    for chosen in ([4, 0, 4, 2], np.arange(40)[::-1], [7]):
        few = cider.scores([hypotheses[i] for i in chosen], chosen)
        np.testing.assert_array_equal(few, whole[chosen])
    best = int(whole.argmax())
    assert cider.scores([hypotheses[best]], [best - 1]) < whole[best]
    assert cider.scores([], []).shape == (0,)


def test_nothing_scores_where_nothing_is_to_be_found() -> None:
    assert CiderD(REFERENCES).scores([[]] * 5).tolist() == [0.0] * 5
    alone = CiderD([[["a", "dog"]]])  # of one picture every n-gram is in all pictures
    assert alone.scores([["a", "dog"]]).tolist() == [0.0]
    assert CiderD([[[]], [["dog"]]]).scores([["dog"], ["dog"]]).tolist() == [0.0, 2.5]
    assert CiderD([]).scores([]).shape == (0,)


def test_scores_have_the_same_bits_in_every_process() -> None:
    """Python draws its hashes of words anew in each; the order of sums must not follow them."""
    code = (
        "from drawn_captions import draw_pictures; from xpcap.metrics.cider import CiderD; r, c ="
        " draw_pictures(1, 40); print(CiderD(r).scores(c).tobytes().hex())"
    )
    helpers = [Path(drawn_captions.__file__).parent]
    seen = {program(code, paths=helpers, PYTHONHASHSEED=seed).stdout for seed in ("1", "2")}
    assert len(seen) == 1


@refusals(
    """
    CiderD([[["dog"]], []]) | ValueError | picture 1 | has no reference
    | at least one
    cider.scores([["dog"], ["cat"]]) | ValueError | got 2 captions of 5 pictures
    | one caption per picture number
    cider.scores([["dog"], ["cat"]], [-1, 5]) | ValueError | pictures | holds -1..5
    | 0..4
    cider.scores([["dog"], ["cat"]], [True, False]) | TypeError | pictures
    | has dtype bool | integers
    cider.scores([["dog"]], [0.9]) | TypeError | pictures | has dtype float64
    | integers
    cider.scores([["dog"]] * 5, weights=np.ones(99)) | ValueError | weights
    | has shape (99,) | one for each reference
    CiderD(["a dog runs"]) | TypeError | references | is the text 'a'
    | a list of words
    cider.scores(["a dog runs"] * 5) | TypeError | a caption | is the text 'a dog runs'
    | a list of words
    """
)
def test_errors_say_what_does_not_fit(refusal: Refusal) -> None:
    names = {"CiderD": CiderD, "cider": CiderD(REFERENCES), "np": np}
    refusal.check(names)
