"""The course's published numbers and gradient checks, on the current backend. Open published.py.

They check xpcap's modules, or others with the same functions. lockstep.py compares two trainings.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from xpcap import layers as our_layers
from xpcap import optim as our_optim
from xpcap.backend import get_backend
from xpcap.cs231n.verify import lockstep, published
from xpcap.cs231n.verify.published import Row, mixed_error, read_cases
from xpcap.models import CaptioningRNN

__all__ = ["Row", "mixed_error", "read_cases", "verify"]


def verify(
    *, layers: Any = our_layers, optim: Any = our_optim, captioner: type = CaptioningRNN
) -> Iterator[Row]:
    """Compare with the published numbers and with finite differences, on the current backend.

    Parameters
    ----------
    layers : module or object
        With the functions of the course's ``rnn_layers``; attention is checked if it has it.
    optim : module or object
        With the functions of the course's ``optim``.
    captioner : type
        A class like the course's ``CaptioningRNN``.

    Yields
    ------
    row : Row
        A comparison. On CuPy, xpcap's captioner also trains in lock-step with NumPy's; see
        xpcap.cs231n.verify.lockstep.

    Notes
    -----
    Draws from NumPy's legacy global stream, as the course's checks do, and restores its state.

    Examples
    --------
    >>> row = next(verify())
    >>> row.case, row.passed
    ('rnn_step_forward next_h', True)
    """
    cases = read_cases()
    state = np.random.get_state()
    try:
        yield from published.layer_values(layers, cases)
        yield from published.captioner_values(captioner, cases)
        yield from published.rules(optim, cases)
        yield from published.layer_losses(layers, cases)
        yield from published.layer_gradients(layers, cases)
        yield from published.attention_rows(layers)
        yield from published.captioner_gradients(captioner, cases)
        yield from published.captioner_directions(captioner, cases)
        if get_backend() != "numpy" and captioner is CaptioningRNN:
            yield from lockstep.rows()
    finally:
        np.random.set_state(state)
