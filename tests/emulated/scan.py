"""Sums along rows as CuPy adds them, in trees: its batch scan (cupy/_core/_routines_math.pyx).

A row is cut into blocks of 512, each scanned by halving and doubling (Brent and Kung 1982). The last
sums of blocks are scanned likewise and added to the block after. So sums need not rise, and differ
across numbers that are 0, unlike NumPy's, which adds one number after the other.
"""

import numpy as np

BLOCK = 512
# Launches: a copy and a scan; beyond a block the scan of the blocks' sums and their addition too
FEW = (("copy", "cumsum: copy"), ("scan", "cumsum"))
MANY = (*FEW, ("scan", "cumsum: of blocks"), ("elementwise", "cumsum: add blocks"))


def sums_along_rows(x: np.ndarray) -> np.ndarray:
    """Cumulative sums of the rows of x (n, V)."""
    n, V = x.shape
    if V <= BLOCK:
        return _tree(x)
    blocks = -(-V // BLOCK)
    padded = np.zeros((n, blocks * BLOCK), x.dtype)
    padded[:, :V] = x
    sums = _tree(padded.reshape(n * blocks, BLOCK)).reshape(n, blocks, BLOCK)
    sums[:, :, -1] = sums_along_rows(np.ascontiguousarray(sums[:, :, -1]))
    sums[:, 1:, :-1] += sums[:, :-1, -1:]
    return np.ascontiguousarray(sums.reshape(n, -1)[:, :V])


def _tree(x: np.ndarray) -> np.ndarray:
    n, V = x.shape
    size = 1 << max(V - 1, 1).bit_length()
    sums = np.zeros((n, size), x.dtype)
    sums[:, :V] = x
    step = 1
    while step < size:  # sums of pairs, of fours, and so on
        ends = np.arange(2 * step - 1, size, 2 * step)
        sums[:, ends] += sums[:, ends - step]
        step *= 2
    while step > 1:  # and of what lies between them
        step //= 2
        ends = np.arange(2 * step - 1, size - step, 2 * step)
        sums[:, ends + step] += sums[:, ends]
    return np.ascontiguousarray(sums[:, :V])
