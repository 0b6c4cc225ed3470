"""Generated pictures: held-out combinations, and captions that say what is there."""

import functools
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import Refusal, refusals, refuses

from xpcap.data import tokenize
from xpcap.drawings import MAX_WORDS, generate, named_things, picture_of, write_pictures
from xpcap.drawings.grammar import describe
from xpcap.drawings.scenes import (
    COLOURS,
    PAIRS,
    POSITIONS,
    SHAPES,
    SIDE,
    SPLITS,
    TRIPLES,
    Scene,
    arranged,
    make_scene,
    paint,
)
from xpcap.encoders import read_picture
from xpcap.errors import DataError


@functools.cache
def scenes(split: str) -> list[Scene]:
    """The first scenes of a split, made when a test needs them."""
    counts = {"train": 3000, "val": 300}
    return [make_scene(split, number, seed=0) for number in range(counts[split])]


class Choices:
    """A generator that makes the choices it is given, and then the first of each; their odds."""

    def __init__(self, choices: list[int]) -> None:
        self.choices, self.odds = choices, []

    def choice(self, count: int, p: list[float]) -> int:
        if len(self.odds) == len(self.choices):
            self.choices.append(0)
        self.odds.append(p)
        return self.choices[len(self.odds) - 1]


def language(scene: Scene) -> Iterator[tuple[str, float]]:
    """Every caption that the grammar has for a scene, with its probability."""
    choices: list[int] = []
    while True:
        rng: Any = Choices(choices)
        text = describe(scene, rng)
        yield text, math.prod(p[k] for p, k in zip(rng.odds, choices, strict=True))
        while choices and choices[-1] + 1 == len(rng.odds[len(choices) - 1]):
            choices.pop()
        if not choices:
            return
        choices[-1] += 1


def listed(scene: Scene) -> list[tuple[str, str]]:
    return [(thing.colour, thing.shape) for thing in scene.things]


def pairs_of(scene: Scene) -> Iterator[tuple[tuple[str, str], ...]]:
    return itertools.combinations(listed(scene), 2)


def kinds(scene: Scene) -> set[tuple[str, str]]:
    return set(listed(scene))


def test_scenes_depend_on_seed_split_and_number_alone() -> None:
    data, longer = generate(1, train=20, val=5), generate(1, train=25, val=9)
    other = generate(2, train=20, val=5)
    assert data.texts("val") == longer.texts("val")[:25]
    assert data.texts("val") != other.texts("val")
    np.testing.assert_array_equal(data.split("train").features, longer.split("train").features[:20])
    assert (data.split("train").features != other.split("train").features).any()


def test_no_two_things_of_a_held_out_scene_were_seen_together_and_alone_none_where_it_is() -> None:
    trained = [*scenes("train"), *(make_scene("train", number, seed=9) for number in range(100))]
    seen_together = {frozenset(pair) for scene in trained for pair in pairs_of(scene)}
    seen_alone = {
        (*listed(scene), scene.arrangement) for scene in trained if len(scene.things) == 1
    }
    for scene in scenes("val"):
        assert not seen_together & {frozenset(pair) for pair in pairs_of(scene)}
        assert (*listed(scene), scene.arrangement) not in seen_alone
    every = set(itertools.product(COLOURS, SHAPES))
    assert {kind for kind, _ in seen_alone} == every  # each kind was seen, alone and beside others
    assert {kind for pair in seen_together for kind in pair} == every
    assert {place for _, place in seen_alone} == set(POSITIONS)


def test_held_out_scenes_are_of_every_sort() -> None:
    sizes = Counter(len(scene.things) for scene in scenes("val"))
    assert all(sizes[count] > 40 for count in (1, 2, 3))
    found = Counter(scene.arrangement for scene in scenes("train"))
    assert set(found) == {*POSITIONS, *PAIRS, *TRIPLES}
    assert min(found.values()) > len(scenes("train")) / 200
    every = set(itertools.product(COLOURS, SHAPES))
    assert {kind for scene in scenes("val") for kind in listed(scene)} == every
    for split in SPLITS:
        alike = sum(len(scene.things) == 2 and len(kinds(scene)) == 1 for scene in scenes(split))
        assert 3 < alike < len(scenes(split)) / 10


@pytest.mark.parametrize(
    ("centres", "arrangement", "order"),
    [
        ([(90, 30), (30, 40)], "beside", [1, 0]),
        ([(60, 90), (70, 30)], "above", [1, 0]),
        ([(90, 100), (30, 30)], "above left", [1, 0]),
        ([(30, 100), (90, 30)], "above right", [1, 0]),
        ([(64, 60), (106, 66), (22, 70)], "row", [2, 0, 1]),
        ([(64, 60), (60, 106), (70, 22)], "column", [2, 0, 1]),
        ([(64, 64), (106, 100), (22, 28)], "falling", [2, 0, 1]),
        ([(64, 64), (22, 100), (106, 28)], "rising", [2, 0, 1]),
        ([(100, 90), (20, 90), (60, 30)], "one above two", [2, 1, 0]),
        ([(100, 30), (20, 30), (60, 90)], "two above one", [1, 0, 2]),
        ([(110, 80), (100, 30), (20, 60)], "one left of two", [2, 1, 0]),
        ([(100, 60), (20, 90), (10, 30)], "two left of one", [2, 1, 0]),
        ([(30, 30), (30, 100), (100, 100)], "one above two", [0, 1, 2]),  # an L
        ([(100, 30), (30, 30), (30, 100)], "two above one", [1, 0, 2]),
    ],
)
def test_things_are_arranged_as_they_lie(
    centres: list[tuple[int, int]], arrangement: str, order: list[int]
) -> None:
    assert arranged(centres) == (arrangement, order)


def test_pictures_show_each_thing_whole_in_its_colour_and_no_two_touch() -> None:
    for scene in scenes("val")[:50]:
        pixels = paint(scene)
        assert pixels.shape == (SIDE, SIDE, 3)
        for thing in scene.things:
            assert tuple(pixels[round(thing.y), round(thing.x)]) == thing.paint
            assert 1.2 * thing.radius <= min(thing.x, thing.y, SIDE - thing.x, SIDE - thing.y)
        for a, b in itertools.combinations(scene.things, 2):
            assert np.hypot(a.x - b.x, a.y - b.y) > 1.15 * (a.radius + b.radius)


def test_every_caption_of_the_language_names_exactly_what_is_in_the_scene() -> None:
    kinds_of_scene = {
        (scene.arrangement, *(thing.size for thing in scene.things), len(kinds(scene))): scene
        for scene in scenes("train")
    }
    for scene in kinds_of_scene.values():
        captions = list(language(scene))
        assert all(named_things(tokenize(text)) == kinds(scene) for text, _ in captions)
        alike = len(scene.things) == 2 and len({thing[:3] for thing in scene.things}) == 1
        assert {"two" in tokenize(text) for text, _ in captions} == {alike}
        assert max(len(tokenize(text)) for text, _ in captions) <= MAX_WORDS
        assert sum(p for _, p in captions) == pytest.approx(1)
        assert len({text for text, _ in captions}) == len(captions) > 10
        pairs = {pair for text, _ in captions for pair in itertools.pairwise(text.split())}
        assert all((a == "an") == (b[0] in "aeio") for a, b in pairs if a in ("a", "an"))


def test_phrasings_and_sizes_are_drawn_by_zipfs_law() -> None:
    """The k-th is 1/k times as likely as the first."""
    for scene in [scene for scene in scenes("val") if len(scene.things) == 1][:9]:
        rng: Any = Choices([])
        describe(scene, rng)
        *phrasings, (_, *sizes) = rng.odds  # a name is first without a size
        for odds in (*phrasings, sizes):
            np.testing.assert_allclose(odds[0] / np.array(odds), range(1, len(odds) + 1))


def test_named_things_reads_pairs_of_colour_and_shape() -> None:
    two = {("red", "circle"), ("blue", "star")}
    assert named_things("a red circle above a blue star".split()) == two
    assert named_things("two tiny red circles side by side".split()) == {("red", "circle")}
    assert named_things("a red and a circle".split()) == named_things([]) == set()


@refusals(
    """
    generate(train=-5, val=1) | OptionError | `train` | is -5
    generate(train=2, val=-1) | OptionError | `val` | is -1
    generate(train=True, val=1) | OptionError | `train` | is True
    generate(2**70, train=2, val=1) | OptionError | `seed` | is 1180591620717411303424
    picture_of("scene.png") | DataError | a name such as val00012.png
    picture_of("val1.jpg") | DataError | a name such as val00012.png
    picture_of("../val00001.png") | DataError | a name such as val00012.png
    picture_of("test00001.png") | DataError | a name such as val00012.png
    """
)
def test_what_is_no_number_or_name_of_a_scene_is_refused(refusal: Refusal) -> None:
    refusal.check(globals())


def test_pictures_are_drawn_again_by_name_and_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, folder = generate(3, train=np.int64(4), val=6), tmp_path / "pictures"
    assert json.dumps(data.source.record) == '{"train": 4, "val": 6}'
    scene = make_scene("val", 4, seed=3)
    np.testing.assert_array_equal(picture_of("val00004.png", seed=3), paint(scene))

    def full(name: str, seed: int) -> np.ndarray:
        raise OSError(28, f"No space left on device for {name} of {seed}")

    with monkeypatch.context() as patch:
        patch.setattr("xpcap.drawings.picture_of", full)
        with pytest.raises(OSError, match=r"No space left on device for val00000.png of 3"):
            write_pictures(folder, data, "val")
    for generated in ("pictures", None):  # by another version, or not at all
        other = replace(data, source=replace(data.source, generated=generated))
        with refuses(DataError, "was not generated by this"):
            write_pictures(folder, other, "val")
    assert list(tmp_path.iterdir()) == []
    write_pictures(folder, data, "val")
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]
    assert sorted(path.name for path in folder.iterdir()) == data.split("val").images
    written = read_picture(folder / "val00002.png")
    np.testing.assert_array_equal(written, picture_of("val00002.png", seed=3))
