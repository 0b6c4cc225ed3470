"""A minibatch for a model: features, captions, and a weight for each caption."""

from typing import NamedTuple

import numpy as np

from xpcap.backend import Array, get_array_module
from xpcap.layers.checks import all_below


class FeatureRows(NamedTuple):
    """Features of a batch as table[rows], for a table that is already on the model's device."""

    table: Array  # (m, D), or grids (m, P, D)
    rows: np.ndarray  # (N,) int, on the host

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D) or (N, P, D), the shape of table[rows]."""
        return len(self.rows), *self.table.shape[1:]

    def checked(self, function: str, like: Array) -> Array:
        """Check that the table has the library and dtype of `like` and that all rows exist, and return the table."""
        if get_array_module(self.table) is not get_array_module(like) or self.table.dtype != like.dtype:
            raise TypeError(
                f"{function}: the table of features is a {type(self.table).__module__} array of {self.table.dtype}, "
                f"expected the model's library and {like.dtype}; was it made for another model?"
            )
        if not all_below(self.rows, len(self.table)):
            raise ValueError(
                f"{function}: feature rows are {self.rows.min()}..{self.rows.max()}, expected 0..{len(self.table) - 1}; are they from another split?"
            )
        return self.table


class Batch(NamedTuple):
    """A minibatch of N captions. Its loss is sum(weights * cross entropy of each caption, summed over words) / total.

    Where processes share a batch, each has all captions, which decide how dropout masks are numbered, and computes those in `mine`.
    """

    features: Array | FeatureRows  # (N, D), or grids (N, P, D), host or device; n of them with `mine`
    captions: np.ndarray  # (N, T+1) int
    pictures: np.ndarray | None = None  # (N,) int, picture number of each caption, within its split
    weights: np.ndarray | None = None  # (N,) float, weight of each caption; None: 1 each
    total: float | None = None  # divisor of the loss; None: N
    mine: np.ndarray | None = None  # (n,) int, numbers of the captions that this process computes; it has features for them alone. None: all
    step: int | None = None  # number of the training step, from 0, that dropout masks are drawn for; None: one more than the last
