"""Captions of drawings unlike a run's training pictures: the share named exactly, by sheet.

`python tools/drawings.py RUN` prints it.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from xpcap.encoders import HistogramEncoder
from xpcap.runs import Run, open_run
from xpcap.shapes import named

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
LAYOUTS = {  # centres, in widths and heights of the sheet
    1: [[(x, y)] for x in (0.2, 0.5, 0.8) for y in (0.2, 0.5, 0.8)],
    2: [[(0.25, 0.5), (0.75, 0.5)], [(0.5, 0.25), (0.5, 0.75)]],
    3: [[(0.18, 0.5), (0.5, 0.5), (0.82, 0.5)], [(0.5, 0.2), (0.2, 0.8), (0.8, 0.8)]],
}
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


def drawing(
    rng: np.random.Generator, sheet: tuple[int, int], things: int, style: str = STYLES[0]
) -> tuple[np.ndarray, set[tuple[str, str]]]:
    """Draw `things` shapes on a white sheet (width, height). Returns the picture and its set of
    (colour, shape) pairs.
    """
    picture = Image.new("RGB", sheet, "white")
    pen, pairs = ImageDraw.Draw(picture), set()
    for x, y in LAYOUTS[things][rng.integers(len(LAYOUTS[things]))]:
        colour, shape = (
            str(rng.choice(list(PAINTS))),
            str(rng.choice(("circle", "square", "triangle", "star"))),
        )
        paint = PAINTS[colour][rng.integers(len(PAINTS[colour]))]
        draw(pen, shape, x * sheet[0], y * sheet[1], min(sheet) * rng.uniform(*SIZES), paint, style)
        pairs.add((colour, shape))
    return np.asarray(picture), pairs


def share_named(run: Run, drawings: Sequence[tuple[np.ndarray, set[tuple[str, str]]]]) -> float:
    """Share of drawings whose caption names exactly their (colour, shape) pairs."""
    features = run.scaling(HistogramEncoder().encode(picture for picture, _ in drawings))
    captions = run.decoder()([""] * len(drawings), features)
    return float(
        np.mean(
            [
                named(one.caption.split()) == pairs
                for one, (_, pairs) in zip(captions, drawings, strict=True)
            ]
        )
    )


def main(path: str) -> None:
    run = open_run(Path(path))
    print("| sheet | drawn | one thing | two | three |\n|---|---|---|---|---|")
    for width, height in SHEETS:
        for style in STYLES if (width, height) == SHEETS[1] else STYLES[:1]:
            shares = [
                share_named(
                    run,
                    [
                        drawing(np.random.default_rng([things, k]), (width, height), things, style)
                        for k in range(COUNT)
                    ],
                )
                for things in LAYOUTS
            ]
            print(
                f"| {width} x {height} | {style} |"
                f" {' | '.join(f'{share:.0%}' for share in shares)} |"
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
