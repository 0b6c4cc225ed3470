"""The course's published numbers and gradient checks, on the backend in force. Open published.py.

They check our modules, or other people's of the same names. lockstep.py compares two training runs.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from xpcap import layers as our_layers
from xpcap import optim as our_optim
from xpcap.backend import get_backend
from xpcap.models import CaptioningRNN
from xpcap.verify import lockstep, published
from xpcap.verify.published import Row, mixed_error, read_cases

__all__ = ["Row", "mixed_error", "read_cases", "verify"]


def verify(
    *, layers: Any = our_layers, optim: Any = our_optim, captioner: type = CaptioningRNN
) -> Iterator[Row]:
    """Compare with the published numbers and with finite differences, on the backend in force.

    Parameters
    ----------
    layers : module or object
        With the functions of the course's ``rnn_layers``; attention is checked if it has that too.
    optim : module or object
        With the functions of the course's ``optim``.
    captioner : type
        A class like the course's ``CaptioningRNN``.

    Yields
    ------
    row : Row
        One for each comparison. On CuPy our own captioner also trains in lock-step with NumPy's:
        see xpcap.verify.lockstep.

    Notes
    -----
    Draws on NumPy's legacy global stream, as the course's checks do, and leaves that stream as it
    was.
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
