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
        """The table, once it has the library and dtype of `like` and all rows exist."""
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
    """A minibatch of N captions.

    Its loss is sum(weights * cross entropy of each caption, summed over words) / total. Where
    processes share a batch, each has all captions, since they number the rows of dropout masks, and
    computes those in `shard`.
    """

    features: Array | FeatureRows  # (N, D), or grids (N, P, D), host or device; n with `shard`
    captions: np.ndarray  # (N, T+1) int
    pictures: np.ndarray | None = None  # (N,) int, picture number of each caption, within its split
    weights: np.ndarray | None = None  # (N,) float, weight of each caption; None: 1 each
    total: float | None = None  # divisor of the loss; None: N
    shard: np.ndarray | None = None  # (n,) int, captions that this process computes; None: all
    step: int | None = None  # training step of the dropout masks, from 0; None: one after the last
