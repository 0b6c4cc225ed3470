"""A minibatch as it reaches a model: features, captions, and what each caption counts."""

from typing import NamedTuple

import numpy as np

from xpcap.backend import Array, get_array_module


class FeatureRows(NamedTuple):
    """Features of a batch as rows of a table that already lies on the model's device: table[rows]."""

    table: Array  # (m, D)
    rows: np.ndarray  # (N,) int, on the host

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D), as if they were gathered."""
        return len(self.rows), self.table.shape[1]

    def checked(self, function: str, like: Array) -> Array:
        """The table, once it is known to have the library and dtype of `like`, and all the rows."""
        if get_array_module(self.table) is not get_array_module(like) or self.table.dtype != like.dtype:
            raise TypeError(
                f"{function}: the table of features is a {type(self.table).__module__} array of {self.table.dtype}, "
                f"expected the model's library and {like.dtype}; made for another model?"
            )
        if self.rows.min() < 0 or self.rows.max() >= len(self.table):
            raise ValueError(
                f"{function}: feature rows are {self.rows.min()}..{self.rows.max()}, expected 0..{len(self.table) - 1}; another split's?"
            )
        return self.table


class Batch(NamedTuple):
    """A minibatch of N captions. The loss is the sum over captions of weight times summed cross entropy, divided by `total`."""

    features: Array | FeatureRows  # (N, D), host or device
    captions: np.ndarray  # (N, T+1) int
    pictures: np.ndarray | None = None  # (N,) int, the number of each caption's picture in its split
    weights: np.ndarray | None = None  # (N,) float, what each caption counts; None: 1 each
    total: float | None = None  # what the loss is divided by: the captions of the whole batch, over all ranks; None: N
