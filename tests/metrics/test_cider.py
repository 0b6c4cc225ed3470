"""CIDEr-D beside pycocoevalcap's values and beside the formula as one writes it down."""

import math
import sys
from collections import Counter

import numpy as np
import pytest
from programs import program
from refusals import Refusal, refusals

from xpcap.metrics.cider import CiderD, DocumentFrequencies

# a picture: its references, a caption, and pycocoevalcap 1.2's CIDEr of it among these five
PICTURES = [
    (
        ["a dog runs over the grass", "a brown dog runs fast", "the dog plays in the grass"],
        "a dog runs in the grass",
        3.156432432102365,
    ),
    (
        ["two men play football", "men in red play with a ball in a field"],
        "two men in red play football in a field",
        3.320309127968846,
    ),
    (
        ["a girl on a swing", "a small girl swings"],
        "a girl girl girl",
        0.8124855953689427,
    ),  # counted as often as a reference has it
    (["the man climbs a rock", "a climber on a steep rock wall"], "zebra", 0.0),
    (
        ["a boy jumps into the water", "a boy jumps off a pier"],
        "a boy jumps into the water",
        6.42977538331375,
    ),
]
REFERENCES = [[caption.split() for caption in written] for written, _, _ in PICTURES]
HYPOTHESES = [said.split() for _, said, _ in PICTURES]


def test_values_are_pycocoevalcaps() -> None:
    scores = CiderD(REFERENCES).scores(HYPOTHESES)
    assert scores.dtype == np.float64
    assert scores.tolist() == pytest.approx([score for _, _, score in PICTURES], rel=1e-12)


def random_captions(rng: np.random.Generator, n: int) -> list[list[str]]:
    """Captions of 0 to 9 words, some words often, so that n-grams repeat within a caption and
    between captions.
    """
    return [
        [f"w{min(int(word), 30)}" for word in rng.geometric(0.2, rng.integers(0, 10))]
        for _ in range(n)
    ]


def plain_cider_d(
    references: list[list[list[str]]], hypotheses: list[list[str]], seen: list[list[list[str]]]
) -> list[float]:
    """The formula with dictionaries; document frequencies are of `seen`."""

    def grams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    def vector(words: list[str], n: int) -> dict[tuple[str, ...], float]:
        return {
            g: (
                k
                * math.log(
                    len(seen) / max(1, sum(any(g in grams(c, n) for c in cs) for cs in seen))
                )
            )
            for g, k in grams(words, n).items()
        }

    def similarity(said: list[str], written: list[str], n: int) -> float:
        c, r = vector(said, n), vector(written, n)
        norms = math.hypot(*c.values()) * math.hypot(*r.values())
        gap = max(len(said) - 1, 0) - max(len(written) - 1, 0)
        return (
            sum(min(c[g], r[g]) * r[g] for g in c.keys() & r.keys())
            / norms
            * math.exp(-(gap**2) / 72)
            if norms
            else 0.0
        )

    pairs = zip(references, hypotheses, strict=True)
    return [
        10 * float(np.mean([similarity(said, one, n) for one in written for n in (1, 2, 3, 4)]))
        for written, said in pairs
    ]


def test_values_are_the_formulas_for_random_words_and_for_frequencies_of_other_pictures() -> None:
    rng = np.random.default_rng(0)
    references = [random_captions(rng, int(rng.integers(1, 5))) for _ in range(12)]
    others = [random_captions(rng, 3) for _ in range(9)]
    hypotheses = random_captions(rng, 12)
    own, lent = CiderD(references), CiderD(references, DocumentFrequencies.of(others))
    np.testing.assert_allclose(
        own.scores(hypotheses), plain_cider_d(references, hypotheses, references), rtol=1e-12
    )
    np.testing.assert_allclose(
        lent.scores(hypotheses), plain_cider_d(references, hypotheses, others), rtol=1e-12
    )
    assert (own.scores(hypotheses) > 0).sum() > 6


def test_captions_of_chosen_pictures_score_as_among_all_of_them() -> None:
    """The same sums in the same order."""
    rng = np.random.default_rng(3)
    references, hypotheses = [random_captions(rng, 3) for _ in range(40)], random_captions(rng, 40)
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
    assert CiderD([[["a", "dog"]]]).scores([["a", "dog"]]).tolist() == [
        0.0
    ]  # of one picture every n-gram is in all pictures
    assert CiderD([[[]], [["dog"]]]).scores([["dog"], ["dog"]]).tolist() == [0.0, 2.5]
    assert CiderD([]).scores([]).shape == (0,)


def test_scores_have_the_same_bits_in_every_process() -> None:
    """Python draws its hashes of words anew in each; the order of sums must not follow them."""
    code = (
        "import test_cider as t; rng = t.np.random.default_rng(1); r ="
        " [t.random_captions(rng, 5) for _ in range(40)]"
    )
    code += "; print(t.CiderD(r).scores(t.random_captions(rng, 40)).tobytes().hex())"
    seen = {program(code, paths=sys.path, PYTHONHASHSEED=seed).stdout for seed in ("1", "2")}
    assert len(seen) == 1


@refusals(
    """
    CiderD([[["dog"]], []]) | ValueError | thing: picture 1 | got: has no reference
    | expected: at least one
    cider.scores([["dog"], ["cat"]]) | ValueError | got: got 2 captions of 5 pictures
    | expected: as many of one as of the other
    cider.scores([["dog"], ["cat"]], [-1, 5]) | ValueError | thing: pictures | got: holds -1..5
    | expected: 0..4
    cider.scores([["dog"], ["cat"]], [True, False]) | TypeError | thing: pictures
    | got: has dtype bool | expected: integers
    cider.scores([["dog"]], [0.9]) | TypeError | thing: pictures | got: has dtype float64
    | expected: integers
    cider.scores([["dog"]] * 5, weights=np.ones(99)) | ValueError | thing: weights
    | got: has shape (99,) | expected: one for each reference
    CiderD(["a dog runs"]) | TypeError | thing: references | got: is the text 'a'
    | expected: a list of words
    cider.scores(["a dog runs"] * 5) | TypeError | thing: captions | got: is the text 'a dog runs'
    | expected: a list of words
    """
)
def test_errors_say_what_does_not_fit(refusal: Refusal) -> None:
    names = {"CiderD": CiderD, "cider": CiderD(REFERENCES), "np": np}
    refusal.check(names, function=refusal.statement.split("(")[0].replace("cider.", "CiderD."))
