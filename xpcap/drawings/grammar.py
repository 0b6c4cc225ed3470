"""The grammar of captions, from which references are drawn."""

import itertools
import re
from collections.abc import Sequence

import numpy as np

from xpcap.drawings.scenes import COLOURS, SHAPES, Scene, Thing

CAPTIONS = 5  # drawn for each scene
SIZES = {"small": ("small", "little", "tiny"), "large": ("large", "big")}
PLAIN = 0.7  # probability that a size is not mentioned
TWO = "two of a kind"
CHOICE = re.compile(r"\(([^)]*)\)")

# Phrasings, choices in brackets and words for a size are listed from the likeliest to the rarest; see
# `_odds`
POSITION = {
    "top left": "(in the top left corner|at the top left)",
    "top": "(at the top|near the top)",
    "top right": "(in the top right corner|at the top right)",
    "left": "(on the left|at the left)",
    "middle": "(in the middle|in the centre)",
    "right": "(on the right|at the right)",
    "bottom left": "(in the bottom left corner|at the bottom left)",
    "bottom": "(at the bottom|near the bottom)",
    "bottom right": "(in the bottom right corner|at the bottom right)",
}
ALONE = (
    "{0} POSITION",
    "(there is|we see) {0} POSITION",
    "{0} is POSITION",
    "(a picture of|a drawing of) {0} POSITION",
    "POSITION there is {0}",
)
PHRASINGS = {
    "beside": (
        "{0} (to the left of|left of) {1}",
        "{0} (beside|next to) {1}",
        "(there is|we see) {0} (to the left of|beside) {1}",
        "{0} with {1} (to its right|on its right)",
        "{0} and {1} side by side",
    ),
    "above": (
        "{0} (above|over) {1}",
        "(there is|we see) {0} (above|over) {1}",
        "{0} with {1} (below it|under it)",
        "{0} at the top and {1} at the bottom",
        "{0} and below it {1}",
    ),
    "above left": (
        "{0} above and to the left of {1}",
        "(there is|we see) {0} above and to the left of {1}",
        "{0} with {1} below it (to the right|on the right)",
        "{0} at the top left and {1} at the bottom right",
    ),
    "above right": (
        "{0} above and to the right of {1}",
        "(there is|we see) {0} above and to the right of {1}",
        "{0} with {1} below it (to the left|on the left)",
        "{0} at the top right and {1} at the bottom left",
    ),
    "row": (
        "{0} {1} and {2} (in a row|side by side)",
        "from left to right {0} {1} and {2}",
        "(there is|we see) {0} next to {1} and {2}",
        "a row of {0} {1} and {2}",
    ),
    "column": (
        "{0} above {1} above {2}",
        "from top to bottom {0} {1} and {2}",
        "(there is|we see) {0} over {1} over {2}",
        "a column of {0} {1} and {2}",
    ),
    "falling": (
        "from top left to bottom right {0} {1} and {2}",
        "a diagonal of {0} {1} and {2}",
        "{0} {1} and {2} on a diagonal",
    ),
    "rising": (
        "from top right to bottom left {0} {1} and {2}",
        "a diagonal of {0} {1} and {2}",
        "{0} {1} and {2} on a diagonal",
    ),
    "one above two": (
        "{0} above {1} and {2}",
        "{0} at the top with {1} and {2} (below|below it)",
        "(there is|we see) {0} over {1} and {2}",
        "{0} and below it {1} and {2}",
    ),
    "two above one": (
        "{0} and {1} above {2}",
        "{0} and {1} at the top with {2} (below|below them)",
        "(there is|we see) {0} and {1} over {2}",
        "{0} and {1} and below them {2}",
    ),
    "one left of two": (
        "{0} (to the left of|left of) {1} and {2}",
        "{0} on the left with {1} and {2} (on the right|to its right)",
        "(there is|we see) {0} to the left of {1} and {2}",
    ),
    "two left of one": (
        "{0} and {1} (to the left of|left of) {2}",
        "{0} and {1} on the left with {2} (on the right|to their right)",
        "(there is|we see) {0} and {1} to the left of {2}",
    ),
    f"{TWO} beside": (
        "{0} (side by side|next to each other)",
        "(there are|we see) {0} side by side",
        "a row of {0}",
    ),
    f"{TWO} above": (
        "{0} (one above the other|in a column)",
        "(there are|we see) {0} one above the other",
        "a column of {0}",
    ),
    f"{TWO} above left": (
        "{0} on a diagonal",
        "{0} one at the top left and one at the bottom right",
        "(there are|we see) {0} on a diagonal",
    ),
    f"{TWO} above right": (
        "{0} on a diagonal",
        "{0} one at the top right and one at the bottom left",
        "(there are|we see) {0} on a diagonal",
    ),
}


def describe(scene: Scene, rng: np.random.Generator) -> str:
    """Draw a caption of a scene from the grammar."""
    phrasings, names = _phrasings(scene)
    phrasing = _draw(_odds(phrasings), rng)
    phrasing = CHOICE.sub(lambda choice: _draw(_odds(choice[1].split("|")), rng), phrasing)
    return phrasing.format(*(_draw(texts, rng) for texts in names))


def named_things(words: Sequence[str]) -> set[tuple[str, str]]:
    """The (colour, shape) pairs that a caption names.

    Examples
    --------
    >>> named_things("two large red circles".split())
    {('red', 'circle')}
    """
    singular = {**{shape: shape for shape in SHAPES}, **{f"{shape}s": shape for shape in SHAPES}}
    pairs = itertools.pairwise(words)
    return {
        (colour, singular[noun]) for colour, noun in pairs if colour in COLOURS and noun in singular
    }


def _odds(texts: Sequence[str]) -> dict[str, float]:
    """Texts with probabilities: the k-th is 1/k times as likely as the first (Zipf's law)."""
    total = sum(1 / k for k in range(1, len(texts) + 1))
    return {text: 1 / k / total for k, text in enumerate(texts, start=1)}


def _draw(odds: dict[str, float], rng: np.random.Generator) -> str:
    return list(odds)[rng.choice(len(odds), p=list(odds.values()))]


def _is_pair(scene: Scene) -> bool:
    """True for two equal things, which captions name together, as in "two red circles"."""
    looks = {(thing.size, thing.colour, thing.shape) for thing in scene.things}
    return len(scene.things) == 2 and len(looks) == 1


def _phrasings(scene: Scene) -> tuple[Sequence[str], list[dict[str, float]]]:
    """Phrasings of a scene's arrangement, and for each slot its texts with probabilities."""
    thing = scene.things[0]
    if len(scene.things) == 1:
        position = POSITION[scene.arrangement]
        return [phrasing.replace("POSITION", position) for phrasing in ALONE], [_names(thing)]
    if _is_pair(scene):
        plural = thing._replace(shape=f"{thing.shape}s")
        return PHRASINGS[f"{TWO} {scene.arrangement}"], [_names(plural, article="two")]
    return PHRASINGS[scene.arrangement], [_names(thing) for thing in scene.things]


def _names(thing: Thing, article: str = "") -> dict[str, float]:
    """Names of a thing, with and without its size, and their probabilities."""
    texts = {f"{thing.colour} {thing.shape}": PLAIN}
    for size, share in _odds(SIZES[thing.size]).items():
        texts[f"{size} {thing.colour} {thing.shape}"] = (1 - PLAIN) * share
    odds = {}
    for text, share in texts.items():
        odds[f"{article or ('an' if text[0] in 'aeio' else 'a')} {text}"] = share
    return odds
