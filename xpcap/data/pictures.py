"""Generated pictures: seeded scenes of one or two shapes, each with five captions, to try everything without a download."""

from typing import NamedTuple

import numpy as np

from xpcap.data.dataset import CaptionData, Split
from xpcap.data.vocabulary import Vocabulary
from xpcap.encoders import HistogramEncoder

SIDE = 64  # pixels
SHAPES = ("circle", "square", "triangle")
COLOURS = {
    "red": (214, 39, 40),
    "green": (44, 150, 60),
    "blue": (38, 90, 200),
    "yellow": (240, 205, 40),
    "purple": (140, 60, 170),
    "black": (25, 25, 25),
}
SIZES = {"small": 7, "large": 12}  # radius in pixels
PLACES = {"on the left": (16, 32), "on the right": (48, 32), "at the top": (32, 16), "at the bottom": (32, 48), "in the middle": (32, 32)}  # x, y
PAIRS = {  # where the first and the second thing lie, and how one says so, either way round
    "beside": ((16, 32), (48, 32), ("to the left of", "to the right of")),
    "above": ((32, 16), (32, 48), ("above", "below")),
}
CAPTIONS = 5  # for each picture
MAX_WORDS = 20


class Thing(NamedTuple):
    """One shape of a scene."""

    size: str
    colour: str
    shape: str
    x: float
    y: float


class Scene(NamedTuple):
    """What is in a picture: one thing at a place of PLACES, or two as in PAIRS."""

    things: tuple[Thing, ...]
    arrangement: str


def draw_scene(rng: np.random.Generator) -> Scene:
    """A random scene: its things, and where they are up to a few pixels."""
    pair = rng.random() < 0.6
    arrangement = str(rng.choice(list(PAIRS if pair else PLACES)))
    centres = PAIRS[arrangement][:2] if pair else (PLACES[arrangement],)
    things = [
        Thing(
            str(rng.choice(list(SIZES))),
            str(rng.choice(list(COLOURS))),
            str(rng.choice(SHAPES)),
            *(np.array(centre) + rng.uniform(-3, 3, 2)).tolist(),
        )
        for centre in centres
    ]
    return Scene(tuple(things), arrangement)


def render(scene: Scene) -> np.ndarray:
    """The scene as a picture (64, 64, 3), uint8."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (SIDE, SIDE), (236, 236, 232))
    pen = ImageDraw.Draw(picture)
    for thing in scene.things:
        r, x, y, fill = SIZES[thing.size], thing.x, thing.y, COLOURS[thing.colour]
        if thing.shape == "circle":
            pen.ellipse((x - r, y - r, x + r, y + r), fill)
        elif thing.shape == "square":
            pen.rectangle((x - r, y - r, x + r, y + r), fill)
        else:
            pen.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill)
    return np.asarray(picture)


def describe(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Five captions of a scene: sizes left out now and then, several ways to say where things are."""

    def name(thing: Thing) -> str:
        return f"a {thing.size} {thing.colour} {thing.shape}" if rng.random() < 0.7 else f"a {thing.colour} {thing.shape}"

    captions = []
    for _ in range(CAPTIONS):
        if len(scene.things) == 1:
            thing, place = name(scene.things[0]), scene.arrangement
            ways = (f"{thing} {place}", f"there is {thing} {place}", f"{place} there is {thing}", f"{thing} is {place} of the picture")
        else:
            (a, b), (forth, back) = map(name, scene.things), PAIRS[scene.arrangement][2]
            ways = (f"{a} {forth} {b}", f"{b} {back} {a}", f"there is {a} {forth} {b}", f"{a} and {b}")
        captions.append(str(rng.choice(ways)))
    return captions


def scenes(seed: int, count: int) -> list[Scene]:
    """The first `count` scenes of a seed."""
    rng = np.random.default_rng(seed)
    return [draw_scene(rng) for _ in range(count)]


def generate(seed: int = 0, train: int = 2000, val: int = 300) -> CaptionData:
    """Generated pictures as CaptionData, features by HistogramEncoder. `picture_of` draws one of them again from its name."""
    everything = scenes(seed, train + val)
    features = HistogramEncoder().encode(np.stack([render(scene) for scene in everything]))
    rng = np.random.default_rng([seed, 1])
    captions = [describe(scene, rng) for scene in everything]
    vocabulary = Vocabulary.build((text for texts in captions[:train] for text in texts), min_count=1)
    splits = {}
    for name, rows in (("train", range(train)), ("val", range(train, train + val))):
        text = [caption for i in rows for caption in captions[i]]
        image_idxs = np.repeat(np.arange(len(rows), dtype=np.int32), CAPTIONS)
        images = [f"scene{i:05d}.png" for i in rows]
        splits[name] = Split(vocabulary.encode(text, MAX_WORDS), image_idxs, features[rows.start : rows.stop], images, text)
    return CaptionData(vocabulary, splits, {"generated": "pictures", "seed": seed, "train": train, "val": val})


def picture_of(name: str, seed: int) -> np.ndarray:
    """The generated picture called `name`, drawn again."""
    number = int(name.removeprefix("scene").removesuffix(".png"))
    return render(scenes(seed, number + 1)[number])
