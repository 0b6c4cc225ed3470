"""Captions of drawings unlike a run's training pictures: the shares named exactly, and with a thing
too many, by sheet and layout.

`python tools/drawings.py RUN` prints it.
"""

import itertools
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from xpcap.encoders import HistogramEncoder
from xpcap.runs import Run, open_run
from xpcap.shapes import named_things

SHEETS = ((600, 600), (800, 600), (1920, 1080), (1080, 1920))
COUNT = 100  # drawings for each sheet, style and number of things
SIZES = (0.08, 0.13)  # radius, as a share of the shorter side of the sheet
PAINTS = {  # of common drawing programs, by common colour name
    "red": ((255, 0, 0), (237, 28, 36)),
    "orange": ((255, 127, 39), (255, 165, 0)),
    "yellow": ((255, 255, 0), (255, 242, 0)),
    "green": ((0, 128, 0), (34, 177, 76), (0, 255, 0)),
    "blue": ((0, 0, 255), (63, 72, 204), (0, 162, 232)),
    "purple": ((128, 0, 128), (163, 73, 164)),
    "pink": ((255, 174, 201), (255, 105, 180), (255, 192, 203)),
    "black": ((0, 0, 0),),
}
LAYOUTS = {  # number of things, and how they lie
    "one": (1, "anywhere"),
    "two in line": (2, "in line"),
    "two diagonal": (2, "diagonal"),
    "two anywhere": (2, "anywhere"),
    "three in line": (3, "in line"),
    "three anywhere": (3, "anywhere"),
}
ASTRAY = 0.04  # most that a thing is off its line, as a share of the sheet
STYLES = ("filled", "filled, with a black line", "a coloured line")


def draw(
    pen: ImageDraw.ImageDraw,
    shape: str,
    x: float,
    y: float,
    radius: float,
    paint: tuple[int, int, int],
    style: str = STYLES[0],
) -> None:
    """Draw one shape with its centre at (x, y)."""
    width = max(2, round(radius / 20))
    fill, line = {
        "filled": (paint, paint),
        "filled, with a black line": (paint, (0, 0, 0)),
        "a coloured line": (None, paint),
    }[style]
    if shape == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill, line, width)
    elif shape == "square":
        pen.rectangle((x - radius, y - radius, x + radius, y + radius), fill, line, width)
    else:
        corners = 3 if shape == "triangle" else 10
        reach = [1.2 if shape == "triangle" or k % 2 == 0 else 0.5 for k in range(corners)]
        turns = [2 * math.pi * k / corners for k in range(corners)]
        outline = [
            (x + radius * r * math.sin(turn), y - radius * r * math.cos(turn))
            for r, turn in zip(reach, turns, strict=True)
        ]
        pen.polygon(outline, fill, line, width)


def centres(rng: np.random.Generator, layout: str) -> np.ndarray:
    """Centres (count, 2) of things of a layout, as shares of the sheet's sides."""
    count, way = LAYOUTS[layout]
    while True:
        at = rng.uniform(0.18, 0.82, (count, 2))
        if way != "anywhere":
            off = rng.uniform(-ASTRAY, ASTRAY, count)
            at[:, 0] = np.linspace(0.22, 0.78, count) + off
            at[:, 1] = at[0, 1] + off if way == "in line" else at[:, 0]
            at[:, 1] += rng.uniform(-ASTRAY, ASTRAY, count)
            if rng.random() < 0.5:  # a column, or the other diagonal
                at = at[:, ::-1] if way == "in line" else at * (-1, 1) + (1, 0)
        gaps = [math.dist(one, other) for one, other in itertools.combinations(at, 2)]
        if all(gap > 2.1 * SIZES[1] for gap in gaps):
            return at


def drawing(
    rng: np.random.Generator, sheet: tuple[int, int], layout: str, style: str = STYLES[0]
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Draw the shapes of a layout on a white sheet (width, height). Returns the picture and its
    (colour, shape) pairs.
    """
    picture = Image.new("RGB", sheet, "white")
    pen, pairs = ImageDraw.Draw(picture), []
    for x, y in centres(rng, layout):
        colour, shape = (
            str(rng.choice(list(PAINTS))),
            str(rng.choice(("circle", "square", "triangle", "star"))),
        )
        paint = PAINTS[colour][rng.integers(len(PAINTS[colour]))]
        radius = min(sheet) * rng.uniform(*SIZES)
        draw(pen, shape, x * sheet[0], y * sheet[1], radius, paint, style)
        pairs.append((colour, shape))
    return np.asarray(picture), pairs


def shares_named(
    run: Run, drawings: Sequence[tuple[np.ndarray, list[tuple[str, str]]]]
) -> tuple[float, float]:
    """Shares of drawings whose caption names exactly their (colour, shape) pairs, and of those whose
    caption names more of them than there are.
    """
    features = run.scaling(HistogramEncoder().encode(picture for picture, _ in drawings))
    captions = run.decoder()([""] * len(drawings), features)
    exact = invented = 0
    for one, (_, pairs) in zip(captions, drawings, strict=True):
        found = named_things(one.caption.split())
        exact += found == set(pairs)
        invented += len(found) > len(set(pairs))
    return exact / len(drawings), invented / len(drawings)


def main(path: str) -> None:
    run = open_run(Path(path))
    print(f"| sheet | drawn | {' | '.join(LAYOUTS)} |\n|---|---|{'---|' * len(LAYOUTS)}")
    for width, height in SHEETS:
        for style in STYLES if (width, height) == SHEETS[1] else STYLES[:1]:
            cells = []
            for k, layout in enumerate(LAYOUTS):
                streams = (np.random.default_rng([k, number]) for number in range(COUNT))
                drawings = [drawing(rng, (width, height), layout, style) for rng in streams]
                exact, invented = shares_named(run, drawings)
                cells.append(f"{exact:.0%}, {invented:.0%}")
            print(f"| {width} x {height} | {style} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
