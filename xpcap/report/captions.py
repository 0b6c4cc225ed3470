"""Pictures with their captions below them, as one PNG; beside each, if it is known, where the model looked for each word."""

import warnings
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpcap.encoders.area import WHOLE_PICTURE, Area
from xpcap.files import atomic
from xpcap.report.fonts import explain_lacking, find_fonts
from xpcap.report.text import pieces, visible

DIMMEST = 0.75  # opacity of the black veil where it is densest
ROUNDING = 1e-3  # the weights of a word may add up to so much more or less than 1


class Looked(NamedTuple):
    """Where a model looked for each of T words."""

    weights: np.ndarray  # (T, K, K): what each place weighed, row by row; those of a word add up to 1
    area: Area  # of the picture, that the K x K places share out evenly


def check_looked(function: str, name: str, looked: Looked, words: Sequence[str]) -> None:
    """ValueError : not a square of places for each word, with weights that add up to 1."""
    weights = looked.weights
    if weights.ndim != 3 or weights.shape[0] != len(words) or not 0 < weights.shape[1] == weights.shape[2]:
        raise ValueError(f"{function}: picture {name!r} has weights of shape {weights.shape}, expected (T, K, K) with T = {len(words)} words")
    odd = [word for word, total, least in zip(words, weights.sum(axis=(1, 2)), weights.min(axis=(1, 2)), strict=True)
           if not (abs(total - 1) <= ROUNDING and least >= 0)]  # fmt: skip
    if odd:
        raise ValueError(f"{function}: picture {name!r}: weights of {odd[0]!r} do not add up to 1, or some are below 0; a softmax over the places?")


def veil(weights: np.ndarray) -> np.ndarray:
    """How dense it is over each place (K, K), as uint8: 0 where the weight is largest, 255 where it is 0, and between them in proportion."""
    density: np.ndarray = np.round(255 * (1 - weights / weights.max())).astype(np.uint8)
    return density


def dim(picture: np.ndarray, weights: np.ndarray, area: Area = WHOLE_PICTURE) -> np.ndarray:
    """A picture under the veil of one word.

    Parameters
    ----------
    picture : (h, w, 3) uint8
    weights : (K, K), of the places, which share the `area` out evenly; the veil fades from the middle of a place to the next

    Returns
    -------
    (h, w, 3) uint8
    """
    from PIL import Image

    height, width = picture.shape[:2]
    top, left, bottom, right = (round(share * side) for share, side in zip(area, (height, width) * 2, strict=True))
    over = Image.new("L", (width, height), 255)
    size = max(1, right - left), max(1, bottom - top)
    over.paste(Image.fromarray(veil(weights)).resize(size, Image.Resampling.BILINEAR), (left, top))
    dimmed: np.ndarray = np.round(picture * (1 - np.asarray(over)[..., None] * (DIMMEST / 255))).astype(np.uint8)
    return dimmed


def peak(weights: np.ndarray) -> tuple[int, int, float]:
    """Row and column, from 1, of the place (K, K) that weighs most, and its weight."""
    row, column = divmod(int(weights.argmax()), weights.shape[1])
    return row + 1, column + 1, float(weights[row, column])


DPI = 110
CELL, PICTURE = 3.0, (2.7, 2.05)  # inches: width of a column; the box that a picture is fitted into
GAP, MARGIN = 0.09, 0.16  # inches
LEADING = 1.3  # line height, in font sizes
MOST_LINES = 8  # of a text; a longer one is cut and ends in an ellipsis
NOTHING = "(nothing)"  # a caption without a word
ACROSS, THUMB = 6, (0.95, 0.72)  # small pictures in a row beside a picture; the box of one, in inches
MOST_WORDS = 60  # of a caption that have a small picture
WORD = 7.0  # points
CAPTION, REFERENCE = (9.0, "#222222"), (7.5, "#666666")  # points, colour
Texts = tuple[list[str], list[str]]  # the lines of a caption and of a reference


def draw_captions(
    path: str | Path,
    pictures: Sequence[np.ndarray],
    captions: Sequence[str],
    references: Sequence[str],
    columns: int = 3,
    looked: Sequence[Looked | None] = (),
    words: Sequence[Sequence[str]] = (),
    on_remark: Callable[[str], object] = warnings.warn,
) -> None:
    """Write pictures with the model's caption (dark) and one human's (grey) under each, as a PNG.

    Characters that Matplotlib's own font lacks are drawn with other fonts of the machine.

    Parameters
    ----------
    pictures : (h, w, 3) uint8 each, of any size
    captions, references : one a picture; a reference may be empty. The text may be untrusted: control and bidi characters are escaped,
        and long text is cut
    columns : pictures in a row
    looked : for each picture where the model looked for each word of its caption, None: not known; (): for none. If it is known of any, each
        picture has a row of its own, with a small copy for each word, dark where the model did not look
    words : of each caption, for those that are `looked`; (): what stands between white space
    on_remark : called with a sentence if no font has some of the characters

    Raises
    ------
    ValueError : no picture, or another number of captions, references or `looked`; weights that do not fit. OSError : the place cannot be written to.
    """
    from matplotlib import rc_context

    if not pictures or not len(pictures) == len(captions) == len(references):
        counts = f"{len(pictures)} pictures, {len(captions)} captions and {len(references)} references"
        raise ValueError(f"draw_captions: got {counts}, expected the same number of each, at least one")
    looked, words = looked or [None] * len(pictures), words or [caption.split() for caption in captions]
    for caption, where, said in zip(captions, looked, words, strict=True):
        if where is not None:
            check_looked("draw_captions", caption, where, said)
    columns = 1 if any(looked) else min(columns, len(pictures))
    families, lacking = find_fonts(map(visible, (*captions, *references)))
    if lacking:
        on_remark(f"draw_captions: {explain_lacking(lacking)}")
    with warnings.catch_warnings(), rc_context({"font.family": families} if families else {}):
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # drawn as a box; the remark above says so
        figure = _draw(pictures, [_wrap_both(*both) for both in zip(captions, references, strict=True)], columns, looked, words)
        with atomic(Path(path)) as file:
            figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})


def _draw(
    pictures: Sequence[np.ndarray], texts: Sequence[Texts], columns: int, looked: Sequence[Looked | None], words: Sequence[Sequence[str]]
) -> Any:  # fmt: skip
    from matplotlib.figure import Figure

    starts = range(0, len(pictures), columns)
    heights = [max(_strip_height(looked[start]), PICTURE[1] + GAP + max(map(_height, texts[start : start + columns]))) for start in starts]
    size = (CELL * columns + (ACROSS * (THUMB[0] + GAP) + MARGIN if any(looked) else 0), sum(heights) + 2 * MARGIN * len(heights))
    figure = Figure(figsize=size)
    top = size[1]
    for start, height in zip(starts, heights, strict=True):
        for column, i in enumerate(range(start, min(start + columns, len(pictures)))):
            _draw_cell(figure, (CELL * column, top - MARGIN), pictures[i], texts[i])
            if (where := looked[i]) is not None:
                _draw_strip(figure, (CELL, top - MARGIN), pictures[i], words[i], where)
        top -= height + 2 * MARGIN
    return figure


def _draw_cell(figure: Any, corner: tuple[float, float], picture: np.ndarray, texts: Texts) -> None:
    """Draw one picture and its texts. `corner` is their upper left, in inches from the lower left of the figure."""
    width, height = figure.get_size_inches()
    left, top = corner
    _draw_picture(figure, (left + (CELL - PICTURE[0]) / 2, top), PICTURE, picture)
    top -= PICTURE[1] + GAP
    for lines, (size, colour) in zip(texts, (CAPTION, REFERENCE), strict=True):
        for line in lines:
            figure.text((left + CELL / 2) / width, top / height, line, ha="center", va="top", fontsize=size, color=colour, parse_math=False)
            top -= size * LEADING / 72
        top -= GAP / 2


def _draw_picture(figure: Any, corner: tuple[float, float], box: tuple[float, float], picture: np.ndarray) -> None:
    """Fit a picture into a box, of which `corner` is the upper left, all in inches, on its lower edge."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((corner[0] / width, (corner[1] - box[1]) / height, box[0] / width, box[1] / height), anchor="S")
    axes.imshow(picture, interpolation="nearest" if max(picture.shape[:2]) <= 128 else "antialiased")
    axes.set_axis_off()


def _draw_strip(figure: Any, corner: tuple[float, float], picture: np.ndarray, words: Sequence[str], looked: Looked) -> None:
    """Draw a small copy of the picture for each word, under its veil, with the word below. `corner` is their upper left, in inches."""
    width, height = figure.get_size_inches()
    measure = _measure(WORD)
    for k, (word, weights) in enumerate(zip(words[:MOST_WORDS], looked.weights, strict=False)):
        row, column = divmod(k, ACROSS)
        left, top = corner[0] + column * (THUMB[0] + GAP), corner[1] - row * _strip_row()
        _draw_picture(figure, (left, top), THUMB, dim(picture, weights, looked.area))
        text = visible(word)
        text = text if measure(text) <= THUMB[0] else _cut(text, measure, THUMB[0])
        at = (left + THUMB[0] / 2) / width, (top - THUMB[1] - GAP / 2) / height
        figure.text(*at, text, ha="center", va="top", fontsize=WORD, color=CAPTION[1], parse_math=False)


def _strip_row() -> float:
    return THUMB[1] + GAP / 2 + WORD * LEADING / 72 + GAP


def _strip_height(looked: Looked | None) -> float:
    return 0 if looked is None else _strip_row() * -(-min(len(looked.weights), MOST_WORDS) // ACROSS)


def _height(texts: Texts) -> float:
    return sum(len(lines) * size * LEADING / 72 for lines, (size, _) in zip(texts, (CAPTION, REFERENCE), strict=True)) + GAP / 2


def _measure(size: float) -> Callable[[str], float]:
    """The width of a text of a size in points, in inches."""
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    renderer, font = RendererAgg(1, 1, DPI), FontProperties(size=size)
    return lambda text: renderer.get_text_width_height_descent(text, font, ismath=False)[0] / DPI


def _wrap_both(caption: str, reference: str) -> Texts:
    large, small = (_measure(size) for size, _ in (CAPTION, REFERENCE))
    return wrap(visible(caption).strip() or NOTHING, large), wrap(visible(reference), small)


def wrap(text: str, width: Callable[[str], float], most: float = PICTURE[0]) -> list[str]:
    """Break a text into lines no wider than `most`, as measured by `width`; a single wider word is broken too."""
    lines: list[str] = []
    for word in text.split():
        if lines and width(f"{lines[-1]} {word}") <= most:
            lines[-1] += f" {word}"
            continue
        parts = pieces(word)
        while len(parts) > 1 and len(lines) <= MOST_LINES and width("".join(parts)) > most:
            cut = max(1, bisect_right(range(len(parts)), most, key=lambda n: width("".join(parts[:n]))) - 1)
            lines.append("".join(parts[:cut]))
            parts = parts[cut:]
        lines.append("".join(parts))
        if len(lines) > MOST_LINES:
            return [*lines[: MOST_LINES - 1], _cut(lines[MOST_LINES - 1], width, most)]
    return lines


def _cut(line: str, width: Callable[[str], float], most: float) -> str:
    """The longest beginning of a line that fits with an ellipsis."""
    parts = pieces(line)
    fitting = bisect_right(range(len(parts) + 1), most, key=lambda n: width(f"{''.join(parts[:n])} …")) - 1
    return f"{''.join(parts[: max(0, fitting)])} …"
