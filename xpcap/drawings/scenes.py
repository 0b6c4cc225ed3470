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
COLOURED_SHAPES = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
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
LINES = (22.0, 64.0, 106.0)  # pixels; columns (left to right) and rows (top to bottom) of POSITIONS
PAIRS = ("beside", "above", "above left", "above right")
TRIPLES = (
    "row",
    "column",
    "falling",
    "rising",
    "one above two",
    "two above one",
    "one left of two",
    "two left of one",
)
MAX_OFFSET = 6.0  # pixels between a thing and its line
# Layouts of two or three things: anywhere, in rows and columns, on two diagonals. Each has its share of
# the scenes, the slope of its line, and the line's maximum distance from the centre in pixels
LAYOUTS = ((0.5, 0.0, 0.0), (0.3, 0.0, 44.0), (0.1, 1.0, 16.0), (0.1, -1.0, 16.0))
SIDEWAYS = 0.5  # weight of horizontal gaps relative to vertical ones
MAX_SLOPE = 0.5  # of a row; columns mirror it, and steeper lines between the two are diagonal
MARGIN = 1.3  # minimum distance to the edge, in radii
GAP = 1.15  # minimum distance of two shapes, in sums of their radii
# Radius in pixels
SMALL = (7.5, 10.0)
LARGE = (13.0, 15.0)
LARGE_ALONE = (14.5, 37.0)
GROUP = 4  # kinds in a group, of which no two are together in a training picture
PAIR_SHARE = 0.1  # share of scenes of two or three things that have two of the same kind
LINED_SHARE = 0.3  # share of scenes whose things have a dark outline
SPLITS = ("train", "val")
# Shares of scenes of one, two and three things; three are the hardest to learn
COUNTS = {"train": (0.1, 0.3, 0.6), "val": (0.3, 0.4, 0.3)}
SMOOTH = 3  # pictures are painted at this scale, then scaled down, for smooth edges


class Thing(NamedTuple):
    """A shape of a scene, with details that captions omit."""

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


def is_held_out_pair(kind: tuple[str, str], other: tuple[str, str]) -> bool:
    """True if two kinds, each (colour, shape), are never together in a training picture.

    The 32 kinds form eight groups of four. Two kinds of the same group are never together, nor are
    two things of a group's first kind.
    """
    return _index(kind) // GROUP == _index(other) // GROUP and (
        kind != other or _index(kind) % GROUP == 0
    )


def is_held_out_position(kind: tuple[str, str], position: str) -> bool:
    """True if no training picture has a single thing of this kind at this position.

    Each kind has one such position of the nine.
    """
    return (_index(kind) + POSITIONS.index(position)) % len(POSITIONS) == 0


def _index(kind: tuple[str, str]) -> int:
    """Index of a kind in a fixed shuffle: triangular numbers modulo 32 are a permutation."""
    number = COLOURED_SHAPES.index(kind)
    return 7 * number * (number + 1) // 2 % len(COLOURED_SHAPES)


def split_of(kinds: Sequence[tuple[str, str]], arrangement: str) -> str | None:
    """The split of a scene: val if all its pairs of kinds are held out, train if none, else None.

    A single thing's position decides.
    """
    if len(kinds) == 1:
        return "val" if is_held_out_position(kinds[0], arrangement) else "train"
    held_out = [is_held_out_pair(kind, other) for kind, other in itertools.combinations(kinds, 2)]
    if all(held_out):
        return "val"
    return None if any(held_out) else "train"


def make_scene(split: str, number: int, seed: int) -> Scene:
    """Scene `number` of a split, drawn from its own random stream."""
    rng = np.random.default_rng([seed, SPLITS.index(split), number])
    count = 1 + int(rng.choice(3, p=COUNTS[split]))
    sizes = rng.choice(("small", "large"), count)
    large = LARGE if count > 1 else LARGE_ALONE
    radii = np.array([rng.uniform(*(SMALL if size == "small" else large)) for size in sizes])
    if count == 1:
        arrangement, centres = _draw_single(radii, rng)
        order = [0]
    else:
        centres = _draw_centres(radii, rng)
        arrangement, order = arranged(centres.tolist())
    things = []
    for (colour, shape), k in zip(_choose(split, arrangement, count, rng), order, strict=True):
        shades = (int(np.clip(level + rng.uniform(-14, 14), 0, 255)) for level in COLOURS[colour])
        red, green, blue = shades
        x, y = centres[k].tolist()
        turn = rng.uniform(-0.15, 0.15)
        paint = (red, green, blue)
        things.append(Thing(str(sizes[k]), colour, shape, x, y, float(radii[k]), turn, paint))
    light = rng.uniform(215, 255) + rng.uniform(-8, 8, 3) if rng.random() < 0.8 else np.full(3, 255)
    red, green, blue = (int(level) for level in np.clip(light, 0, 255))
    line = float(rng.uniform(0.7, 1.5)) if rng.random() < LINED_SHARE else 0.0
    return Scene(tuple(things), arrangement, (red, green, blue), line)


def scene_of(name: str, seed: int) -> Scene:
    """The scene of a picture's name, such as ``val00012.png``. DataError : it is no such name."""
    match = re.fullmatch(rf"({'|'.join(SPLITS)})(\d{{1,9}})\.png", name)
    if match is None:
        raise DataError(
            f"{name!r} is not a generated picture, expected a name such as val00012.png"
        )
    return make_scene(match[1], int(match[2]), seed)


def _choose(
    split: str, arrangement: str, count: int, rng: np.random.Generator
) -> list[tuple[str, str]]:
    """Draw kinds for a scene of the split; with probability PAIR_SHARE two are equal."""
    has_pair = count > 1 and rng.random() < PAIR_SHARE
    while True:
        numbers = rng.integers(len(COLOURED_SHAPES), size=count - has_pair)
        kinds = [COLOURED_SHAPES[i] for i in numbers]
        if len(set(kinds)) < len(kinds):
            continue
        if has_pair:
            kinds.insert(int(rng.integers(count)), kinds[int(rng.integers(len(kinds)))])
        if split_of(kinds, arrangement) == split:
            return kinds


def _draw_single(radii: np.ndarray, rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """Draw one of POSITIONS for a single thing, and its centre (1, 2)."""
    position = int(rng.integers(len(POSITIONS)))
    centre = np.array([[LINES[position % 3], LINES[position // 3]]])
    offset = rng.uniform(-MAX_OFFSET, MAX_OFFSET, (1, 2))
    return POSITIONS[position], _inside(centre + offset, radii)


def _draw_centres(radii: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw centres (count, 2) of things that do not touch: anywhere, or near a line."""
    count = len(radii)
    middle = SIDE / 2
    layout = int(rng.choice(len(LAYOUTS), p=[share for share, _, _ in LAYOUTS]))
    _, slope, spread = LAYOUTS[layout]
    pairs = list(itertools.combinations(range(count), 2))
    while True:
        centres = rng.uniform(MARGIN * LARGE[0], SIDE - MARGIN * LARGE[0], (count, 2))
        if spread:
            offsets = rng.uniform(-spread, spread) + rng.uniform(-MAX_OFFSET, MAX_OFFSET, count)
            centres[:, 1] = middle + slope * (centres[:, 0] - middle) + offsets
            centres = centres[:, :: int(rng.choice((1, -1)))]  # columns are as frequent as rows
        centres = _inside(centres, radii)
        if all(math.dist(centres[i], centres[j]) > GAP * (radii[i] + radii[j]) for i, j in pairs):
            return centres


def _inside(centres: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Centres (count, 2), moved so that each thing is entirely in the picture."""
    edge = MARGIN * radii[:, None]
    return np.clip(centres, edge, SIDE - edge)


def arranged(centres: Sequence[Sequence[float]]) -> tuple[str, list[int]]:
    """The arrangement of two or three things by their centres (x, y), and their reading order.

    Three things that are not in a line are divided into one and two at the widest gap, horizontal or
    vertical.
    """
    across, down = (sorted(range(len(centres)), key=lambda k: centres[k][axis]) for axis in (0, 1))
    for order, lines in (
        (across, {"beside": "row"}),
        (down, {"above": "column", "above left": "falling", "above right": "rising"}),
    ):
        relations = {_relation(centres[i], centres[j]) for i, j in itertools.pairwise(order)}
        if len(relations) == 1 and (relation := relations.pop()) in lines:
            return relation if len(order) == 2 else lines[relation], order
    gaps = {}
    for axis, order, side, weight in ((1, down, "above", 1.0), (0, across, "left of", SIDEWAYS)):
        first, second, third = (centres[k][axis] for k in order)
        gaps[f"one {side} two"] = weight * (second - first), order[:1], order[1:]
        gaps[f"two {side} one"] = weight * (third - second), order[:2], order[2:]
    arrangement = max(gaps, key=lambda name: gaps[name][0])
    groups = gaps[arrangement][1:]
    return arrangement, [k for group in groups for k in _in_order(centres, group)]


def _relation(first: Sequence[float], second: Sequence[float]) -> str:
    """Arrangement of two things, the first left of the second or above it."""
    x = second[0] - first[0]
    y = second[1] - first[1]
    if abs(y) <= MAX_SLOPE * abs(x):
        return "beside"
    if abs(x) <= MAX_SLOPE * abs(y):
        return "above"
    return "above left" if x * y > 0 else "above right"


def _in_order(centres: Sequence[Sequence[float]], group: list[int]) -> list[int]:
    """One or two of three things, in reading order."""
    if len(group) == 1:
        return group
    _, order = arranged([centres[k] for k in group])
    return [group[k] for k in order]


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
