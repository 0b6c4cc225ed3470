"""Scenes: which things lie where in a generated picture, drawn from a seed, and how the picture is painted."""

import math
import zlib
from typing import NamedTuple

import numpy as np

SIDE = 96  # pixels
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
LINES = (17, 48, 79)  # columns, left to right, and rows, top to bottom, near which things lie; pixels
PLACES = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")
PAIRS, TRIPLES = ("beside", "above"), ("row", "column", "pyramid")
SMALL, LARGE, LARGE_ALONE = (6.5, 8.0), (10.5, 12.5), (11.0, 28.0)  # radius in pixels
HELD_OUT = 10  # one combination in so many is never trained on
SPLITS = ("train", "val")
SMOOTH = 4  # pixels painted for each one kept, along each side


class Thing(NamedTuple):
    """One shape of a scene, with the particulars that captions leave out."""

    size: str  # small or large
    colour: str
    shape: str
    x: float
    y: float
    radius: float
    turn: float  # radians
    paint: tuple[int, int, int]


class Scene(NamedTuple):
    """One to three things in reading order, and how they lie: a place of PLACES for one, else one of PAIRS or TRIPLES."""

    things: tuple[Thing, ...]
    arrangement: str
    background: tuple[int, int, int]


def combination(scene: Scene) -> str:
    """What is held out: the (colour, shape) pairs of a scene; for a single thing, where it lies as well."""
    kinds = sorted(f"{thing.colour} {thing.shape}" for thing in scene.things)
    return ", ".join([*kinds, scene.arrangement] if len(kinds) == 1 else kinds)


def held_out(scene: Scene) -> bool:
    """Whether a scene's combination belongs to val. A tenth of all do, whatever the seed, by a checksum of their name."""
    return zlib.crc32(combination(scene).encode()) % HELD_OUT == 0


def make_scene(split: str, number: int, seed: int) -> Scene:
    """Scene `number` of a split: the first with a combination of that split in a stream of its own."""
    rng = np.random.default_rng([seed, SPLITS.index(split), number])
    while True:
        scene = draw_scene(rng)
        if held_out(scene) == (split == "val"):
            return scene


def draw_scene(rng: np.random.Generator) -> Scene:
    """Any scene."""
    count = int(rng.choice((1, 2, 3), p=(0.3, 0.45, 0.25)))
    arrangement, centres = _arrange(count, rng)
    kinds = [(str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))) for _ in centres]
    if count == 2 and rng.random() < 0.1:
        kinds[1] = kinds[0]  # two of a kind, more often than chance would have it
    things = []
    for (colour, shape), (x, y) in zip(kinds, centres, strict=True):
        size = str(rng.choice(("small", "large")))
        radius = rng.uniform(*(SMALL if size == "small" else LARGE if count > 1 else LARGE_ALONE))
        x, y = (float(np.clip(at + rng.uniform(-3, 3), 1.3 * radius, SIDE - 1.3 * radius)) for at in (x, y))
        red, green, blue = (int(np.clip(part + rng.uniform(-14, 14), 0, 255)) for part in COLOURS[colour])
        things.append(Thing(size, colour, shape, x, y, radius, rng.uniform(-0.15, 0.15), (red, green, blue)))
    light = rng.uniform(215, 255) + rng.uniform(-8, 8, 3) if rng.random() < 0.8 else np.full(3, 255)
    red, green, blue = (int(part) for part in np.clip(light, 0, 255))
    return Scene(tuple(things), arrangement, (red, green, blue))


def _arrange(count: int, rng: np.random.Generator) -> tuple[str, list[tuple[float, float]]]:
    """An arrangement of so many things, and their centres (x, y) in reading order."""
    if count == 1:
        place = int(rng.integers(len(PLACES)))
        return PLACES[place], [(LINES[place % 3], LINES[place // 3])]
    arrangement = str(rng.choice(PAIRS if count == 2 else TRIPLES))
    if arrangement == "pyramid":
        return arrangement, [(LINES[1], LINES[0]), (LINES[0], LINES[2]), (LINES[2], LINES[2])]
    across = LINES[rng.integers(3)]
    along = LINES if count == 3 else ((LINES[0], LINES[1]), (LINES[1], LINES[2]), (LINES[0], LINES[2]))[rng.integers(3)]
    return arrangement, [(at, across) if arrangement in ("beside", "row") else (across, at) for at in along]


def paint(scene: Scene) -> np.ndarray:
    """The scene as a picture (96, 96, 3), uint8."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (SIDE * SMOOTH, SIDE * SMOOTH), scene.background)
    pen = ImageDraw.Draw(picture)
    for thing in scene.things:
        pen.polygon([((thing.x + x) * SMOOTH, (thing.y + y) * SMOOTH) for x, y in _outline(thing)], thing.paint)
    return np.asarray(picture.reduce(SMOOTH))


def _outline(thing: Thing) -> list[tuple[float, float]]:
    """Corners of a thing's outline around its centre, clockwise from the top."""
    corners, radii = {
        "circle": (48, (1.0,)),
        "square": (4, (1.25,)),
        "triangle": (3, (1.3,)),
        "star": (10, (1.25, 0.55)),
    }[thing.shape]
    first = math.pi / 4 if thing.shape == "square" else 0.0
    points = []
    for k in range(corners):
        angle, radius = first + thing.turn + 2 * math.pi * k / corners, thing.radius * radii[k % len(radii)]
        points.append((radius * math.sin(angle), -radius * math.cos(angle)))
    return points
