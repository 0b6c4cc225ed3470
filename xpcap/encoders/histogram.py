"""Colours, edges and corners counted on a grid: features that need nothing but NumPy, for pictures of plain shapes."""

import functools
from collections.abc import Iterable

import numpy as np

from xpcap.encoders.fitting import fit

SIDE = 128  # pixels; pictures are fitted to the area of a square of it
HUES = (0, 33, 54, 125, 165, 222, 285, 335, 360)  # degrees: red, orange, yellow, green, cyan, blue, purple, pink, and red again
COLOURS = 3 + len(HUES) - 1  # black, grey, white, then the hues
DIRECTIONS = 12  # of an edge, from 0 to 330 degrees
TURNS = DIRECTIONS // 2  # between two edges, from 30 to 180 degrees
TURNED = (np.arange(DIRECTIONS) - np.arange(1, TURNS + 1)[:, None]) % DIRECTIONS  # (6, 12), the direction that each turns to
GRIDS = (1, 3)  # cells across and down, of each layer of the pyramid
BLOCK = 5  # pixels; edges in neighbouring blocks make corners
BLUR = 0.5  # of the borders between cells, in cells
BITS = 6  # of a colour channel that count
FAINT = 0.05  # edges below this are noise
FEW = 20.0  # edge strength that counts as half an outline


class HistogramEncoder:
    """What colours lie where, which way their edges face, and how sharply their outlines turn.

    A picture is scaled to the area of 128 x 128 pixels. Each pixel belongs, in parts, to eleven colours (black, grey, white, eight hues).
    For the whole picture and each cell of a 3 x 3 grid, whose cells fade into each other, and for each colour: the square root of its share
    of the pixels; the shares that twelve directions have in its edges; and how often edges that differ by 30, 60, ... 180 degrees lie side
    by side, per edge. Shares, so that a small triangle looks like a large one.

    Notes
    -----
    Histograms of gradient directions: Dalal & Triggs 2005; their products, for corners: Watanabe et al. 2009; the pyramid of grids:
    Lazebnik et al. 2006; square roots of shares: Arandjelović & Zisserman 2012.
    """

    name = "histogram"
    dim = sum(grid**2 for grid in GRIDS) * COLOURS * (1 + DIRECTIONS + TURNS)

    def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        """Pictures, each (height, width, 3) uint8 of any size, to features (n, 2090), float32. They are taken one after the other.

        Raises
        ------
        ValueError : an array that is no such picture.
        """
        return np.fromiter((_encode_one(_codes(fit(picture, SIDE))) for picture in pictures), np.dtype((np.float32, self.dim)))


def _codes(picture: np.ndarray) -> np.ndarray:
    """Rows of `_colours`, one for each pixel: (height, width)."""
    r, g, b = (picture[..., channel].astype(np.int32) >> (8 - BITS) for channel in range(3))
    return (r << (2 * BITS)) | (g << BITS) | b


@functools.cache
def _colours() -> np.ndarray:
    """How far each of 2**18 colours belongs to each of the eleven: (2**18, 11) float32, rows of sum 1 up to the fading between names."""
    levels = (np.arange(2**BITS, dtype=np.float32) + 0.5) / 2**BITS
    r, g, b = (channel.ravel() for channel in np.meshgrid(levels, levels, levels, indexing="ij"))
    brightest = np.maximum(np.maximum(r, g), b)
    spread = brightest - np.minimum(np.minimum(r, g), b)
    safe = np.maximum(spread, 1e-6)
    hue = 60 * np.where(brightest == r, ((g - b) / safe) % 6, np.where(brightest == g, (b - r) / safe + 2, (r - g) / safe + 4))
    black = np.clip((0.4 - brightest) / 0.15, 0, 1)
    vivid = np.clip((spread / np.maximum(brightest, 1e-6) - 0.1) / 0.15, 0, 1) * (1 - black)
    white = np.clip((brightest - 0.6) / 0.2, 0, 1)
    place = np.interp(hue, HUES, np.arange(len(HUES)))  # red is both the first and the last
    count = len(HUES) - 1
    light = np.clip((0.6 - spread / np.maximum(brightest, 1e-6)) / 0.2, 0, 1) * (place > count - 1)
    place -= light * (place - (count - 1))  # a light red towards pink is pink
    away = np.abs((place[:, None] - np.arange(count) + count / 2) % count - count / 2)  # (2**18, 8)
    hues = vivid[:, None] * np.clip(1.5 - 2 * away, 0, 1)
    pale = np.maximum(1 - vivid - black, 0)  # rounding may leave it a little below
    plain = np.stack((black, pale * (1 - white), pale * white), axis=1)
    return np.concatenate((plain, hues), axis=1).astype(np.float32)


def _encode_one(codes: np.ndarray) -> np.ndarray:
    table = _colours()
    rows, columns = (_shares(pixels, 1) for pixels in codes.shape)
    # np.take is several times faster than indexing
    colours = np.take(table, codes.ravel(), axis=0).reshape(*codes.shape, COLOURS)
    area = (rows.T @ colours.reshape(len(codes), -1)).reshape(GRIDS[-1], -1, COLOURS)  # (3, width, 11)
    area = (columns.T @ area).reshape(-1, COLOURS)
    whole = area.sum(axis=0, keepdims=True) / codes.size
    area /= (rows.sum(axis=0)[:, None] * columns.sum(axis=0)).reshape(-1, 1)
    edges, turns = _outlines(codes, table)
    layers = []
    for shares, e, t in ((whole, edges.sum(axis=0, keepdims=True), turns.sum(axis=0, keepdims=True)), (area, edges, turns)):
        strength = e.sum(axis=-1, keepdims=True) + FEW
        layers += [np.sqrt(np.maximum(shares, 0)), e / strength, t / (4 * strength)]  # each edge is in four windows
    return np.concatenate([layer.ravel() for layer in layers]).astype(np.float32)


@functools.cache
def _shares(pixels: int, step: int) -> np.ndarray:
    """How far each `step` pixels along a side of so many belong to each third of it: (steps, 3), rows of sum 1."""
    third = (np.arange(-(-pixels // step)) + 0.5) * step * 3 / pixels  # thirds have their centres at 0.5, 1.5 and 2.5
    first = np.clip((1 + BLUR / 2 - third) / BLUR, 0, 1)
    last = np.clip((third - 2 + BLUR / 2) / BLUR, 0, 1)
    return np.stack((first, 1 - first - last, last), axis=1).astype(np.float32)


def _outlines(codes: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edge strength of each colour in each cell by direction (9, 11, 12), and by turns to other edges nearby (9, 11, 6)."""
    left, right, up, down = (x.ravel() for x in (codes[1:-1, :-2], codes[1:-1, 2:], codes[:-2, 1:-1], codes[2:, 1:-1]))
    at = np.flatnonzero((left != right) | (up != down))  # where anything changes at all: a small part of a drawing
    x = np.take(table, right[at], axis=0) - np.take(table, left[at], axis=0)  # (P, 11), how each colour comes and goes
    y = np.take(table, down[at], axis=0) - np.take(table, up[at], axis=0)
    strength = np.hypot(x, y)
    pixel, colour = np.nonzero(strength > FAINT)
    strength = strength[pixel, colour]
    angle = np.arctan2(y[pixel, colour], x[pixel, colour]) * (DIRECTIONS / (2 * np.pi)) % DIRECTIONS
    direction = angle.astype(np.int64)
    late = strength * (angle - direction)  # shared between the two nearest directions
    direction %= DIRECTIONS
    height, width = codes.shape
    row, column = (1 + k for k in np.divmod(at[pixel], width - 2))
    row, column = row // BLOCK, column // BLOCK
    shares = _shares(height, BLOCK), _shares(width, BLOCK)
    across = len(shares[1])

    def gather(row: np.ndarray, column: np.ndarray, repeats: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Direction histograms of the blocks and colours that have any (K, 12), their shares in the nine cells (K, 9), and colours (K,)."""
        key = (row * across + column) * COLOURS + np.tile(colour, repeats)
        used, slot = np.unique(key, return_inverse=True)
        first, second = np.tile(direction, repeats), np.tile((direction + 1) % DIRECTIONS, repeats)
        bins = np.concatenate((slot * DIRECTIONS + first, slot * DIRECTIONS + second))
        weights = np.concatenate((np.tile(strength - late, repeats), np.tile(late, repeats)))
        histograms = np.bincount(bins, weights, len(used) * DIRECTIONS).reshape(-1, DIRECTIONS)
        block, of = np.divmod(used, COLOURS)
        cells = shares[0][block // across][:, :, None] * shares[1][block % across][:, None, :]
        return histograms, cells.reshape(-1, GRIDS[-1] ** 2), of

    def collect(histograms: np.ndarray, cells: np.ndarray, of: np.ndarray) -> np.ndarray:
        places = cells[:, :, None] * (of[:, None] == np.arange(COLOURS))[:, None, :]  # (K, 9, 11)
        return (places.reshape(len(of), GRIDS[-1] ** 2 * COLOURS).T @ histograms).reshape(-1, COLOURS, histograms.shape[1])

    edges = collect(*gather(row, column, 1))
    # windows of 2 x 2 blocks, so that a corner on a border between blocks counts as well
    rows = np.concatenate([np.maximum(row - k, 0) for k in (0, 0, 1, 1)])
    columns = np.concatenate([np.maximum(column - k, 0) for k in (0, 1, 0, 1)])
    histograms, cells, of = gather(rows, columns, 4)
    roots = np.sqrt(histograms)
    return edges, collect(np.einsum("kd,ktd->kt", roots, roots[:, TURNED]), cells, of)
