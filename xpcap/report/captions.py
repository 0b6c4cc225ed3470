"""Pictures with their captions below them, as one PNG."""

import warnings
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.files import atomic
from xpcap.report.text import visible

DPI = 110
CELL, PICTURE = 3.0, (2.7, 2.05)  # inches: width of a column; the box that a picture is fitted into
GAP, MARGIN = 0.09, 0.16  # inches
LEADING = 1.3  # line height, in font sizes
MOST_LINES = 8  # of a text; a longer one is cut and ends in an ellipsis
NOTHING = "(nothing)"  # a caption without a word
CAPTION, REFERENCE = (9.0, "#222222"), (7.5, "#666666")  # points, colour


def draw_captions(path: str | Path, pictures: Sequence[np.ndarray], captions: Sequence[str], references: Sequence[str], columns: int = 3) -> None:
    """Write pictures with the model's caption (dark) and one human's (grey) under each, as a PNG.

    Parameters
    ----------
    pictures : (h, w, 3) uint8 each, of any size
    captions, references : one a picture; a reference may be empty. The text may be untrusted: control and bidi characters are escaped,
        and long text is cut
    columns : pictures in a row

    Raises
    ------
    ValueError : no picture, or another number of captions or references. OSError : the place cannot be written to.
    """
    if not pictures or not len(pictures) == len(captions) == len(references):
        counts = f"{len(pictures)} pictures, {len(captions)} captions and {len(references)} references"
        raise ValueError(f"draw_captions: got {counts}, expected the same number of each, at least one")
    columns = min(columns, len(pictures))
    with warnings.catch_warnings():
        for harmless in ("Glyph .* missing from font", "Matplotlib currently does not support .* natively"):  # shown as a box, or unjoined
            warnings.filterwarnings("ignore", harmless)
        figure = _draw(pictures, captions, references, columns)
        with atomic(Path(path)) as file:
            figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})


def _draw(pictures: Sequence[np.ndarray], captions: Sequence[str], references: Sequence[str], columns: int) -> Any:
    from matplotlib.figure import Figure

    texts = [_wrap_both(caption, reference) for caption, reference in zip(captions, references, strict=True)]
    starts = range(0, len(pictures), columns)
    heights = [PICTURE[1] + GAP + max(map(_height, texts[start : start + columns])) for start in starts]
    size = (CELL * columns, sum(heights) + 2 * MARGIN * len(heights))
    figure = Figure(figsize=size)
    top = size[1]
    for start, height in zip(starts, heights, strict=True):
        for column, i in enumerate(range(start, min(start + columns, len(pictures)))):
            _draw_cell(figure, (CELL * column, top - MARGIN), pictures[i], texts[i])
        top -= height + 2 * MARGIN
    return figure


def _draw_cell(figure: Any, corner: tuple[float, float], picture: np.ndarray, texts: tuple[list[str], list[str]]) -> None:
    """Draw one picture and its texts. `corner` is their upper left, in inches from the lower left of the figure."""
    width, height = figure.get_size_inches()
    left, top = corner
    box = ((left + (CELL - PICTURE[0]) / 2) / width, (top - PICTURE[1]) / height, PICTURE[0] / width, PICTURE[1] / height)
    axes = figure.add_axes(box, anchor="S")
    axes.imshow(picture, interpolation="nearest" if max(picture.shape[:2]) <= 128 else "antialiased")
    axes.set_axis_off()
    top -= PICTURE[1] + GAP
    for lines, (size, colour) in zip(texts, (CAPTION, REFERENCE), strict=True):
        for line in lines:
            figure.text((left + CELL / 2) / width, top / height, line, ha="center", va="top", fontsize=size, color=colour, parse_math=False)
            top -= size * LEADING / 72
        top -= GAP / 2


def _height(texts: tuple[list[str], list[str]]) -> float:
    return sum(len(lines) * size * LEADING / 72 for lines, (size, _) in zip(texts, (CAPTION, REFERENCE), strict=True)) + GAP / 2


def _wrap_both(caption: str, reference: str) -> tuple[list[str], list[str]]:
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    renderer = RendererAgg(1, 1, DPI)

    def width(text: str, font: FontProperties) -> float:
        return renderer.get_text_width_height_descent(text, font, ismath=False)[0] / DPI

    large, small = (partial(width, font=FontProperties(size=size)) for size, _ in (CAPTION, REFERENCE))
    return wrap(visible(caption).strip() or NOTHING, large), wrap(visible(reference), small)


def wrap(text: str, width: Callable[[str], float], most: float = PICTURE[0]) -> list[str]:
    """Break a text into lines no wider than `most`, as measured by `width`; a single wider word is broken too."""
    lines: list[str] = []
    for word in text.split():
        if lines and width(f"{lines[-1]} {word}") <= most:
            lines[-1] += f" {word}"
            continue
        while len(word) > 1 and len(lines) <= MOST_LINES and width(word) > most:
            cut = max(1, bisect_right(range(len(word)), most, key=lambda n: width(word[:n])) - 1)
            lines.append(word[:cut])
            word = word[cut:]
        lines.append(word)
        if len(lines) > MOST_LINES:
            return [*lines[: MOST_LINES - 1], _cut(lines[MOST_LINES - 1], width, most)]
    return lines


def _cut(line: str, width: Callable[[str], float], most: float) -> str:
    while line and width(f"{line} …") > most:
        line = line[:-1]
    return f"{line} …"
