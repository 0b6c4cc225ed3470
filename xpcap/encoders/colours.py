"""Mean colours of a picture or of its regions, the smallest encoder there is."""

from collections.abc import Iterable

import numpy as np

from xpcap.encoders.grid import pool, require_regions
from xpcap.encoders.kinds import Kind, named


class ColourEncoder:
    """Mean levels of red, green and blue, of the picture or of K x K regions."""

    def __init__(self, name: str, *, grid: int | None = None) -> None:
        self.name, self._grid = named(name, grid=grid), grid
        self.shape: tuple[int, ...] = (3,) if grid is None else (grid * grid, 3)

    def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        """Features (n, *shape), float32, of pictures (height, width, 3), uint8, of any sizes."""
        one = np.dtype((np.float32, self.shape))
        return np.fromiter((self._encode(picture / 255) for picture in pictures), one)

    def _encode(self, levels: np.ndarray) -> np.ndarray:
        if self._grid is not None:
            require_regions(self.name, levels.shape, self._grid)
        return pool(levels, self._grid or 1).reshape(self.shape)


COLOURS = Kind("colours", ColourEncoder, licence="none needed, it has no weights")
