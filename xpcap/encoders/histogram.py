"""Histograms of colours, edges and corners: features of plain drawings, without a trained network."""

import functools
from collections.abc import Iterable

import numpy as np

from xpcap.backend.threads import one_blas_thread
from xpcap.encoders.grid import Area, pool, require_grid
from xpcap.encoders.kinds import EncoderSpec, encoder_name
from xpcap.encoders.pictures import border_colour, corner, letterbox, letterbox_sizes

SIDE = 128  # pixels; pictures are scaled to the area of a square with this side
# Degrees of red, orange, yellow, green, cyan, blue, purple, pink, and red again
HUES = (0, 33, 54, 125, 165, 222, 285, 335, 360)
COLOURS = 3 + len(HUES) - 1  # black, grey, white, then the hues
DIRECTIONS = 12  # of an edge, from 0 to 330 degrees
TURNS = DIRECTIONS // 2  # between two edges, from 30 to 180 degrees
# (6, 12): the direction of the second edge
TURNED = (np.arange(DIRECTIONS) - np.arange(1, TURNS + 1)[:, None]) % DIRECTIONS
CELLS = 9  # of a 3 x 3 grid over the drawing
BLOCK = 4  # pixels; edges in neighbouring blocks make corners
BLUR = 0.5  # width of the fade between cells, in cells
BITS = 6  # bits used of a colour channel
PAPER = 40  # levels of a channel by which paper may differ from the colour of the border
FAINT = 0.05  # edges below this are noise
EDGES_ADDED = 20.0  # added to edge strength in shares, so that few edges have small shares
CELL_SIZE = COLOURS * (1 + DIRECTIONS + TURNS)
FEATURE_SIZE = (1 + CELLS) * CELL_SIZE + CELLS + 2
Box = tuple[tuple[int, int], tuple[int, int]]  # (first, end) of rows, then of columns


class HistogramEncoder:
    """Histograms of colours, of directions of edges, and of angles between neighbouring edges.

    A picture is scaled to the area of 128 x 128 pixels. Each pixel is a mixture of eleven colours
    (black, grey, white, eight hues). For the whole picture and each cell of a 3 x 3 grid, the feature
    has for each colour: the square root of its share of the pixels; a histogram of the directions of
    its edges, in twelve bins; and per edge, how often edges that differ by 30, 60, ... 180 degrees
    are neighbours. All are shares, so that a small triangle looks like a large one. The grid covers
    everything that differs from the paper, the commonest colour along the border, so that a drawing
    falls into the same cells wherever it is; neighbouring cells overlap. The last numbers are the
    position of the grid's centre on the canvas, as shares of nine cells, and its height and width.

    grid : K, at most 3: only the features of the cells, averaged over K x K regions, (K*K, 209);
        None: all features, (2101,)

    Histograms of gradient directions: Dalal & Triggs 2005; their products, for corners: Watanabe et
    al. 2009; the pyramid of grids: Lazebnik et al. 2006; square roots of shares: Arandjelović &
    Zisserman 2012.
    """

    def __init__(self, *, grid: int | None = None) -> None:
        self.name = encoder_name("histogram", grid=grid)
        if grid is not None:
            require_grid(self.name, (3, 3), grid)
        self.shape: tuple[int, ...] = (FEATURE_SIZE,) if grid is None else (grid**2, CELL_SIZE)
        self.grid = grid

    def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        """Features (n, *shape), float32, of pictures (height, width, 3), uint8, of any sizes."""
        return np.fromiter(
            (self._encode(picture) for picture in pictures), np.dtype((np.float32, self.shape))
        )

    def _encode(self, picture: np.ndarray) -> np.ndarray:
        layers, position = _encode_one(letterbox(picture, SIDE))
        if self.grid is None:
            return np.concatenate([x.ravel() for x in (*layers, position)]).astype(np.float32)
        # The first three layers are of the whole picture
        cells = np.concatenate([layer.reshape(CELLS, -1) for layer in layers[3:]], axis=1)
        return pool(cells.reshape(3, 3, -1), self.grid).astype(np.float32)


def drawn_area(picture: np.ndarray) -> Area:
    """The bounding box of everything that differs from the paper; the grid covers it."""
    height, width, _ = picture.shape
    canvas, content = letterbox_sizes(height, width, SIDE)
    scaled = letterbox(picture, SIDE)
    sides = zip(
        _drawn(scaled, border_colour(scaled)), corner(canvas, content), content, strict=True
    )
    (top, bottom), (left, right) = (
        ((start - first) / pixels, (stop - first) / pixels)
        for (start, stop), first, pixels in sides
    )
    return Area(top, left, bottom, right)


HISTOGRAM = EncoderSpec(
    "histogram",
    lambda name, **options: HistogramEncoder(**options),
    licence="none needed, it has no weights",
    help="drawings on a plain ground: 2,101 features",
    area=lambda name, picture: drawn_area(picture),
)


def _codes(picture: np.ndarray) -> np.ndarray:
    """The row of `_colours` for each pixel: (height, width), int."""
    r, g, b = (picture[..., channel].astype(np.int32) >> (8 - BITS) for channel in range(3))
    return (r << (2 * BITS)) | (g << BITS) | b


@functools.cache
def _colours() -> np.ndarray:
    """Shares of 11 colours at each level of RGB: (2**18, 11) float32; rows sum to about 1."""
    levels = (np.arange(2**BITS, dtype=np.float32) + 0.5) / 2**BITS
    r, g, b = (channel.ravel() for channel in np.meshgrid(levels, levels, levels, indexing="ij"))
    brightest = np.maximum(np.maximum(r, g), b)
    spread = brightest - np.minimum(np.minimum(r, g), b)
    safe = np.maximum(spread, 1e-6)
    hue = 60 * np.where(
        brightest == r,
        ((g - b) / safe) % 6,
        np.where(brightest == g, (b - r) / safe + 2, (r - g) / safe + 4),
    )
    black = np.clip((0.4 - brightest) / 0.15, 0, 1)
    vivid = np.clip((spread / np.maximum(brightest, 1e-6) - 0.1) / 0.15, 0, 1) * (1 - black)
    white = np.clip((brightest - 0.6) / 0.2, 0, 1)
    position = np.interp(hue, HUES, np.arange(len(HUES)))  # red is both the first and the last
    count = len(HUES) - 1
    pink = position > count - 1
    light = np.clip((0.6 - spread / np.maximum(brightest, 1e-6)) / 0.2, 0, 1) * pink
    position -= light * (position - (count - 1))  # light red is pink
    # (2**18, 8)
    away = np.abs((position[:, None] - np.arange(count) + count / 2) % count - count / 2)
    hues = vivid[:, None] * np.clip(1.5 - 2 * away, 0, 1)
    pale = np.maximum(1 - vivid - black, 0)  # rounding may leave it slightly negative
    plain = np.stack((black, pale * (1 - white), pale * white), axis=1)
    return np.concatenate((plain, hues), axis=1).astype(np.float32)


@one_blas_thread()
def _encode_one(picture: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Shares, edges and turns of the picture (1, ...) and of cells (9, ...); position (11,)."""
    table = _colours()
    codes = _codes(picture)
    paper = border_colour(picture)
    box = _drawn(picture, paper)
    (top, bottom), (left, right) = box
    # np.take is several times faster than indexing
    inside = np.take(table, codes[top:bottom, left:right].ravel(), axis=0)
    rows, columns = (_thirds(np.arange(start, stop) + 0.5, start, stop) for start, stop in box)
    area = columns.T @ (rows.T @ inside.reshape(bottom - top, -1)).reshape(3, -1, COLOURS)
    area = area.reshape(-1, COLOURS)
    pixels = len(rows) * len(columns)
    outside = (codes.size - pixels) * table[_codes(paper)]  # all of it is paper
    total = (area.sum(axis=0) + outside)[None] / codes.size
    area *= CELLS / pixels
    edges, turns = _outlines(codes, table, box)
    layers = []
    totals = total, edges.sum(axis=0, keepdims=True), turns.sum(axis=0, keepdims=True)
    for shares, e, t in (totals, (area, edges, turns)):
        strength = e.sum(axis=-1, keepdims=True) + EDGES_ADDED
        # Each edge is in four windows
        layers += [np.sqrt(np.maximum(shares, 0)), e / strength, t / (4 * strength)]
    return layers, _position(box, codes.shape)


def _drawn(picture: np.ndarray, paper: np.ndarray) -> Box:
    """The bounding box of everything that is not paper."""
    low, high = (
        np.clip(paper.astype(np.int16) + step, 0, 255).astype(np.uint8) for step in (-PAPER, PAPER)
    )
    differs = (picture < low) | (picture > high)
    drawn = differs[..., 0] | differs[..., 1] | differs[..., 2]
    box = []
    for axis, pixels in ((1, len(picture)), (0, len(picture[0]))):
        at = np.flatnonzero(drawn.any(axis=axis))
        span = (max(int(at[0]) - 1, 0), min(int(at[-1]) + 2, pixels)) if len(at) else (0, pixels)
        box.append(span)
    return box[0], box[1]


def _position(box: Box, shape: tuple[int, ...]) -> np.ndarray:
    """The drawing's middle on the canvas, as shares of nine cells, and its relative size."""
    down, across = (
        _thirds(np.array([(start + stop) / 2]), 0, pixels)[0]
        for (start, stop), pixels in zip(box, shape, strict=True)
    )
    spans = [(stop - start) / np.sqrt(shape[0] * shape[1]) for start, stop in box]
    return np.concatenate((np.outer(down, across).ravel(), spans))


def _thirds(at: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Weights (n, 3) of positions `at` (n,) in each third of start..stop; rows sum to 1."""
    third = (at - start) * (3 / (stop - start))  # thirds have their centres at 0.5, 1.5 and 2.5
    first = np.clip((1 + BLUR / 2 - third) / BLUR, 0, 1)
    last = np.clip((third - 2 + BLUR / 2) / BLUR, 0, 1)
    return np.stack((first, 1 - first - last, last), axis=1).astype(np.float32)


def _outlines(codes: np.ndarray, table: np.ndarray, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """Edges of each cell and colour by direction (9, 11, 12), and pairs by turn (9, 11, 6)."""
    left, right, up, down = (
        x.ravel() for x in (codes[1:-1, :-2], codes[1:-1, 2:], codes[:-2, 1:-1], codes[2:, 1:-1])
    )
    at = np.flatnonzero((left != right) | (up != down))  # few pixels in a drawing
    # (P, 11), horizontal and vertical change of each colour
    x = np.take(table, right[at], axis=0) - np.take(table, left[at], axis=0)
    y = np.take(table, down[at], axis=0) - np.take(table, up[at], axis=0)
    strength = np.hypot(x, y)
    pixel, colour = np.nonzero(strength > FAINT)
    strength = strength[pixel, colour]
    angle = np.arctan2(y[pixel, colour], x[pixel, colour]) * (DIRECTIONS / (2 * np.pi)) % DIRECTIONS
    direction = angle.astype(np.int64)
    late = strength * (angle - direction)  # the second nearest direction's share
    direction %= DIRECTIONS
    row, column = (1 + k for k in np.divmod(at[pixel], codes.shape[1] - 2))
    across = codes.shape[1] // BLOCK + 1

    def gather(
        row: np.ndarray, column: np.ndarray, size: int, repeats: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Histograms (K, 12), shares of cells (K, 9), colours (K,) of K pairs of block and colour."""
        key = (row * across + column) * COLOURS + np.tile(colour, repeats)
        # np.unique sorts, and would take a quarter of the time of a picture
        is_used = np.zeros((codes.shape[0] // BLOCK + 1) * across * COLOURS, bool)
        is_used[key] = True
        used = np.flatnonzero(is_used)
        slot = (np.cumsum(is_used) - 1)[key]
        first = np.tile(direction, repeats)
        second = np.tile((direction + 1) % DIRECTIONS, repeats)
        bins = np.concatenate((slot * DIRECTIONS + first, slot * DIRECTIONS + second))
        weights = np.concatenate((np.tile(strength - late, repeats), np.tile(late, repeats)))
        histograms = np.bincount(bins, weights, len(used) * DIRECTIONS).reshape(-1, DIRECTIONS)
        block, colours = np.divmod(used, COLOURS)
        middles = ((k * BLOCK + size * BLOCK / 2) for k in np.divmod(block, across))
        down, along = (_thirds(middle, *span) for middle, span in zip(middles, box, strict=True))
        return histograms, (down[:, :, None] * along[:, None, :]).reshape(-1, CELLS), colours

    def collect(histograms: np.ndarray, cells: np.ndarray, colours: np.ndarray) -> np.ndarray:
        is_colour = colours[:, None] == np.arange(COLOURS)
        weights = cells[:, :, None] * is_colour[:, None, :]  # (K, 9, 11)
        return (weights.reshape(len(colours), CELLS * COLOURS).T @ histograms).reshape(
            -1, COLOURS, histograms.shape[1]
        )

    edges = collect(*gather(row // BLOCK, column // BLOCK, 1, 1))
    # Windows of 2 x 2 blocks, so that corners on the border between blocks count
    rows = np.concatenate([np.maximum(row // BLOCK - k, 0) for k in (0, 0, 1, 1)])
    columns = np.concatenate([np.maximum(column // BLOCK - k, 0) for k in (0, 1, 0, 1)])
    histograms, cells, colours = gather(rows, columns, 2, 4)
    roots = np.sqrt(histograms)
    return edges, collect(np.einsum("kd,ktd->kt", roots, roots[:, TURNED]), cells, colours)
