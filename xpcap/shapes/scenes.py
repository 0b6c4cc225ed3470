"""Scenes of generated pictures: things and their positions, drawn from a seed, and painted."""

import itertools
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xpcap.errors import DataError

SIDE = 128  # pixels
SHAPES = ("circle", "square", "triangle", "star")
COLOURS = {
    "red": (210, 35, 40),
    "orange": (245, 140, 20),
    "yellow": (245, 215, 40),
    "green": (40, 150, 60),
    "blue": (35, 85, 205),
    "purple": (130, 50, 170),
    "pink": (245, 130, 190),
    "black": (25, 25, 28),
}
KINDS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
POSITIONS = (
    "top left",
    "top",
    "top right",
    "left",
    "middle",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
)
LINES = (22.0, 64.0, 106.0)  # columns, left to right, and rows, top to bottom, of POSITIONS; pixels
PAIRS, TRIPLES = ("beside", "above"), ("row", "column", "pyramid")
APART = {2: (40.0, 84.0), 3: (36.0, 42.0)}  # pixels from one thing to the next, by number of things
ASTRAY = 6.0  # most pixels that a thing is off its line
SMALL, LARGE, LARGE_ALONE = (7.5, 10.0), (13.0, 15.0), (14.5, 37.0)  # radius in pixels
GROUP = 4  # kinds in a group; no two of one group meet in a training picture
ALIKE = 0.1  # share of scenes of two or three things in which two are of one kind
LINED = 0.3  # share of scenes whose things have a dark line around them
SPLITS = ("train", "val")
SMOOTH = 3  # pictures are painted this many times as large and scaled down, for smooth edges


class Thing(NamedTuple):
    """One shape of a scene, with details that captions leave out."""

    size: str  # small or large
    colour: str
    shape: str
    x: float
    y: float
    radius: float
    turn: float  # radians
    paint: tuple[int, int, int]


class Scene(NamedTuple):
    """One to three things in reading order, and their arrangement.

    The arrangement is one of POSITIONS for one thing, of PAIRS for two, of TRIPLES for three.
    """

    things: tuple[Thing, ...]
    arrangement: str
    background: tuple[int, int, int]
    line: float = 0.0  # width of the dark line around each thing, in pixels


def apart(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """True if two kinds, each (colour, shape), never meet in a training picture.

    The 32 kinds are in eight groups of four. Two kinds of one group never meet, nor do two things
    of a group's first kind.
    """
    return _dealt(one) // GROUP == _dealt(other) // GROUP and (
        one != other or _dealt(one) % GROUP == 0
    )


def away(kind: tuple[str, str], position: str) -> bool:
    """True if a single thing of this kind never lies there in a training picture.

    Each kind is held out of one of the nine positions.
    """
    return (_dealt(kind) + POSITIONS.index(position)) % len(POSITIONS) == 0


def _dealt(kind: tuple[str, str]) -> int:
    """Rank of a kind in a fixed shuffle: triangular numbers modulo 32 are a permutation."""
    number = KINDS.index(kind)
    return 7 * number * (number + 1) // 2 % len(KINDS)


def split_of(kinds: Sequence[tuple[str, str]], arrangement: str) -> str | None:
    """The split of a scene: val if all its pairs of kinds are held out, train if none, else None.

    For a single thing its position decides.
    """
    if len(kinds) == 1:
        return "val" if away(kinds[0], arrangement) else "train"
    held = [apart(one, other) for one, other in itertools.combinations(kinds, 2)]
    return "val" if all(held) else None if any(held) else "train"


def make_scene(split: str, number: int, seed: int) -> Scene:
    """Scene `number` of a split, drawn from a random stream of its own."""
    rng = np.random.default_rng([seed, SPLITS.index(split), number])
    count = int(rng.choice((1, 2, 3), p=(0.3, 0.4, 0.3)))
    arrangement, centres = _arrange(count, rng)
    things = []
    kinds = _choose(split, arrangement, count, rng)
    for (colour, shape), (x, y) in zip(kinds, centres, strict=True):
        size = str(rng.choice(("small", "large")))
        radius = rng.uniform(*(SMALL if size == "small" else LARGE if count > 1 else LARGE_ALONE))
        x, y = (float(np.clip(at, 1.3 * radius, SIDE - 1.3 * radius)) for at in (x, y))
        shades = (int(np.clip(part + rng.uniform(-14, 14), 0, 255)) for part in COLOURS[colour])
        red, green, blue = shades
        turn = rng.uniform(-0.15, 0.15)
        things.append(Thing(size, colour, shape, x, y, radius, turn, (red, green, blue)))
    light = rng.uniform(215, 255) + rng.uniform(-8, 8, 3) if rng.random() < 0.8 else np.full(3, 255)
    red, green, blue = (int(part) for part in np.clip(light, 0, 255))
    line = float(rng.uniform(0.7, 1.5)) if rng.random() < LINED else 0.0
    return Scene(tuple(things), arrangement, (red, green, blue), line)


def scene_of(name: str, seed: int) -> Scene:
    """The scene behind a picture's name, such as ``val00012.png``. DataError : no such name."""
    match = re.fullmatch(rf"({'|'.join(SPLITS)})(\d{{1,9}})\.png", name)
    if match is None:
        raise DataError(
            "scene_of",
            f"{name!r}",
            "is no generated picture",
            expected="a name such as val00012.png",
        )
    return make_scene(match[1], int(match[2]), seed)


def _choose(
    split: str, arrangement: str, count: int, rng: np.random.Generator
) -> list[tuple[str, str]]:
    """Draw kinds for a scene of the split; in a share of ALIKE, two are equal."""
    alike = count > 1 and rng.random() < ALIKE
    while True:
        kinds = [KINDS[i] for i in rng.integers(len(KINDS), size=count - alike)]
        if len(set(kinds)) < len(kinds):
            continue
        if alike:
            kinds.insert(int(rng.integers(count)), kinds[int(rng.integers(len(kinds)))])
        if split_of(kinds, arrangement) == split:
            return kinds


def _arrange(count: int, rng: np.random.Generator) -> tuple[str, list[tuple[float, float]]]:
    """Draw an arrangement of `count` things, and their centres (x, y) in reading order."""
    off = rng.uniform(-ASTRAY, ASTRAY, (count, 2))
    if count == 1:
        position = int(rng.integers(len(POSITIONS)))
        centre = (LINES[position % 3] + off[0, 0], LINES[position // 3] + off[0, 1])
        return POSITIONS[position], [centre]
    arrangement = str(rng.choice(PAIRS if count == 2 else TRIPLES))
    gaps = rng.uniform(*APART[count], 2)
    span = float(gaps[: count - 1].sum())
    first = rng.uniform(LINES[0], LINES[2] - span) if span < LINES[2] - LINES[0] else LINES[0]
    across = rng.uniform(LINES[0], LINES[2])
    if arrangement == "pyramid":
        top = SIDE / 2 + rng.uniform(-ASTRAY, ASTRAY)
        height = rng.uniform(APART[2][0], LINES[2] - LINES[0])
        low = rng.uniform(LINES[0] + height, LINES[2])
        centres = [(top, low - height), (top - gaps[0], low), (top + gaps[1], low)]
        return arrangement, [(x, y + dy) for (x, y), (_, dy) in zip(centres, off, strict=True)]
    along = [first, first + gaps[0], first + span][:count]
    lines = [(at, across + astray) for at, astray in zip(along, off[:, 0], strict=True)]
    return arrangement, lines if arrangement in ("beside", "row") else [(x, y) for y, x in lines]


def paint(scene: Scene) -> np.ndarray:
    """Paint a scene: (128, 128, 3), uint8."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (SIDE * SMOOTH, SIDE * SMOOTH), scene.background)
    pen = ImageDraw.Draw(picture)
    for thing in scene.things:
        corners = [((thing.x + x) * SMOOTH, (thing.y + y) * SMOOTH) for x, y in _outline(thing)]
        pen.polygon(corners, thing.paint)
        if scene.line:
            width = round(scene.line * SMOOTH)
            pen.line([*corners, *corners[:2]], COLOURS["black"], width, joint="curve")
    return np.asarray(picture.reduce(SMOOTH))


def _outline(thing: Thing) -> list[tuple[float, float]]:
    """Corners (x, y) of a thing's outline relative to its centre, clockwise from the top."""
    corners, radii = {
        "circle": (48, (1.0,)),
        "square": (4, (1.25,)),
        "triangle": (3, (1.3,)),
        "star": (10, (1.25, 0.55)),
    }[thing.shape]
    first = math.pi / 4 if thing.shape == "square" else 0.0
    points = []
    for k in range(corners):
        angle = first + thing.turn + 2 * math.pi * k / corners
        radius = thing.radius * radii[k % len(radii)]
        points.append((radius * math.sin(angle), -radius * math.cos(angle)))
    return points
