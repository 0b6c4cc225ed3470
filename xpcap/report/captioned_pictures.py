"""Draws pictures with captions below them in one PNG."""

import io
import warnings
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xpcap.distributed.work import notice
from xpcap.errors import InvalidValueError
from xpcap.report.fonts import explain_lacking, find_fonts
from xpcap.report.text import NOTHING, escape_control, pieces

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110
CELL = 3.0  # width of a column, inches
PICTURE = (2.7, 2.05)  # box of a picture, inches
GAP = 0.09  # inches
MARGIN = 0.16  # inches
COLUMNS = 3
LEADING = 1.3  # line height, in font sizes
MAX_LINES = 8  # of a text; longer text is cut and ends in an ellipsis
# Points, colour
CAPTION = (9.0, "#222222")
REFERENCE = (7.5, "#666666")
Texts = tuple[list[str], list[str]]  # the lines of a caption and of a reference


class CaptionedPicture(NamedTuple):
    """A picture, and the texts below it."""

    picture: np.ndarray  # (h, w, 3) uint8
    caption: str
    reference: str = ""


def draw_captions(pictures: Sequence[CaptionedPicture]) -> bytes:
    """A PNG of pictures, each above its caption (dark) and its reference (grey).

    Text may be untrusted: control and bidi characters are escaped, and long text is cut. Characters
    that Matplotlib's font lacks are drawn with other fonts of the machine; a notice names the
    scripts that no font has.

    ValueError : there is no picture.
    """
    from matplotlib import rc_context

    texts = [
        (escape_control(caption).strip() or NOTHING, escape_control(reference))
        for _, caption, reference in pictures
    ]
    if not pictures:
        raise InvalidValueError("there is no picture to draw, expected at least one")
    families, lacking = find_fonts(text for pair in texts for text in pair)
    if lacking:
        notice(f"draw_captions: {explain_lacking(lacking)}")
    with warnings.catch_warnings(), rc_context({"font.family": families} if families else {}):
        # A missing glyph is drawn as a box; the notice above has named it
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        large, small = (_measure(size) for size, _ in (CAPTION, REFERENCE))
        lines = [(wrap(caption, large), wrap(reference, small)) for caption, reference in texts]
        figure = _draw([picture for picture, *_ in pictures], lines)
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=DPI, metadata={"Software": None})
    return content.getvalue()


def _draw(pictures: Sequence[np.ndarray], texts: Sequence[Texts]) -> "Figure":
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(pictures))
    starts = range(0, len(pictures), columns)
    heights = [
        PICTURE[1] + GAP + max(map(_height, texts[start : start + columns])) for start in starts
    ]
    size = CELL * columns, sum(heights) + 2 * MARGIN * len(heights)
    figure = Figure(figsize=size)
    top = size[1]
    for start, height in zip(starts, heights, strict=True):
        for column, i in enumerate(range(start, min(start + columns, len(pictures)))):
            _draw_cell(figure, (CELL * column, top - MARGIN), pictures[i], texts[i])
        top -= height + 2 * MARGIN
    return figure


def _draw_cell(
    figure: "Figure", corner: tuple[float, float], picture: np.ndarray, texts: Texts
) -> None:
    """Draw a picture and its texts; `corner` is in inches from the figure's lower left."""
    width, height = figure.get_size_inches()
    left, top = corner
    # The picture is fitted into its box, and aligned with the lower edge
    x = left + (CELL - PICTURE[0]) / 2
    y = top - PICTURE[1]
    box = x / width, y / height, PICTURE[0] / width, PICTURE[1] / height
    axes = figure.add_axes(box, anchor="S")
    flat = max(picture.shape[:2]) <= 128
    axes.imshow(picture, interpolation="nearest" if flat else "antialiased")
    axes.set_axis_off()
    top -= PICTURE[1] + GAP
    x = (left + CELL / 2) / width
    for lines, (size, colour) in zip(texts, (CAPTION, REFERENCE), strict=True):
        for line in lines:
            y = top / height
            figure.text(
                x, y, line, ha="center", va="top", fontsize=size, color=colour, parse_math=False
            )
            top -= size * LEADING / 72
        top -= GAP / 2


def _height(texts: Texts) -> float:
    sizes = CAPTION[0], REFERENCE[0]
    heights = [len(lines) * size * LEADING / 72 for lines, size in zip(texts, sizes, strict=True)]
    return sum(heights) + GAP / 2


def _measure(size: float) -> Callable[[str], float]:
    """A function that measures a text of `size` points, in inches."""
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    renderer = RendererAgg(1, 1, DPI)
    font = FontProperties(size=size)
    return lambda text: renderer.get_text_width_height_descent(text, font, ismath=False)[0] / DPI


def wrap(text: str, width: Callable[[str], float], max_width: float = PICTURE[0]) -> list[str]:
    """Break a text into lines of at most `max_width`, measured by `width`; long words are broken."""
    lines: list[str] = []
    for word in text.split():
        if lines and width(f"{lines[-1]} {word}") <= max_width:
            lines[-1] += f" {word}"
            continue
        parts = pieces(word)
        while len(parts) > 1 and len(lines) <= MAX_LINES and width("".join(parts)) > max_width:
            fitting = bisect_right(
                range(len(parts)), max_width, key=lambda n: width("".join(parts[:n]))
            )
            cut = max(1, fitting - 1)
            lines.append("".join(parts[:cut]))
            parts = parts[cut:]
        lines.append("".join(parts))
        if len(lines) > MAX_LINES:
            return [*lines[: MAX_LINES - 1], _cut(lines[MAX_LINES - 1], width, max_width)]
    return lines


def _cut(line: str, width: Callable[[str], float], max_width: float) -> str:
    """The longest beginning of a line that fits with an ellipsis."""
    parts = pieces(line)

    def measure(n: int) -> float:
        return width(f"{''.join(parts[:n])} …")

    fitting = bisect_right(range(len(parts) + 1), max_width, key=measure) - 1
    return f"{''.join(parts[: max(0, fitting)])} …"
