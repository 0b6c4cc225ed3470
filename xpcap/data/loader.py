"""Minibatches for a model; features stay on its device if they fit, else each batch is sent."""

import math

import numpy as np

from xpcap.backend import Array, asarray, get_array_module
from xpcap.backend.switch import free_memory, free_staging
from xpcap.data.dataset import CaptionData, Split
from xpcap.data.features import blocks
from xpcap.models.batch import Batch, FeatureRows

SHARE = 0.25  # of a device's free memory that the features of a split may take
BLOCK_NUMBERS = 1 << 23  # numbers scaled and sent at a time


class BatchLoader:
    """Minibatches of a data set for one model.

    data : its scaling must be set before the first minibatch
    like : array of the model's library, device and dtype, such as `model.params.flat`
    """

    def __init__(self, data: CaptionData, like: Array) -> None:
        self._data = data
        self._like = like
        self._tables: dict[str, Array | None] = {}

    def split(self, name: str) -> Split:
        """The split of that name."""
        return self._data.split(name)

    def minibatch(
        self,
        name: str,
        captions: np.ndarray,
        views: np.ndarray | None = None,
        shard: np.ndarray | None = None,
    ) -> Batch:
        """A batch, with features (N, D) or (N, P, D), or FeatureRows of the device's table.

        captions : array (N,), int; numbers of captions of the split
        views : array (N,), int; each caption's view of its picture. None: the pictures as they are
        shard : array (n,), int; the captions of the batch whose features to load. None: all
        """
        split = self.split(name)
        table = self._table(name)
        pictures = split.image_idxs[captions]
        rows = pictures if views is None else views * len(split.images) + pictures
        rows = rows if shard is None else rows[shard]
        features = (
            self._data.features(name, rows)
            if table is None
            else FeatureRows(table, rows, trusted=True)
        )
        return Batch(features, split.captions[captions], pictures, shard=shard)

    def _table(self, name: str) -> Array | None:
        if name not in self._tables:
            self._tables[name] = self._send(name)
        return self._tables[name]

    def _send(self, name: str) -> Array | None:
        """Scaled features of a split on the device; None on the host, or if they do not fit."""
        shape = self.split(name).features.shape
        free = free_memory(self._like)
        if free is None or math.prod(shape) * self._like.dtype.itemsize > SHARE * free:
            return None
        table = get_array_module(self._like).empty(shape, self._like.dtype)
        for block, numbers in blocks(np.arange(len(table)), BLOCK_NUMBERS // math.prod(shape[1:])):
            features = self._data.features(name, numbers)
            table[block] = asarray(features, dtype=self._like.dtype, like=self._like)
        free_staging(self._like)  # else CuPy holds this memory until the process ends
        return table
