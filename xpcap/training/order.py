"""The order in which an epoch visits the training captions."""

from collections.abc import Iterator

import numpy as np

ORDER_STREAM = 2  # of a seed; CaptioningRNN draws from streams 0 and 1


class EpochOrder:
    """All training captions once, in an order drawn anew for each epoch, and how far the epoch under way has come.

    Parameters
    ----------
    count : training captions
    seed : None draws one from NumPy's legacy global stream

    Attributes
    ----------
    rng : numpy.random.Generator that draws the orders
    captions : array (count,), int, of the epoch under way; None between two epochs
    position : batches of it done
    """

    def __init__(self, count: int, seed: int | None) -> None:
        self.count = count
        self.rng = np.random.default_rng([np.random.randint(2**31) if seed is None else int(seed), ORDER_STREAM])
        self.captions: np.ndarray | None = None
        self.position = 0

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Numbers of the captions of each batch from `position` on; draws an order if no epoch is under way. The caller moves `position` on."""
        if self.captions is None:
            self.captions, self.position = self.rng.permutation(self.count), 0
        captions, first = self.captions, self.position
        return (captions[start : start + size] for start in range(first * size, self.count, size))

    def end(self) -> None:
        """End the epoch under way, done or not: the next batch begins another."""
        self.captions, self.position = None, 0
