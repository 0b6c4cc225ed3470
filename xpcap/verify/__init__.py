"""The course's published numbers and gradient checks, run on the backend in force: ours, or other people's modules of the same names."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from xpcap import layers as our_layers
from xpcap import optim as our_optim
from xpcap.backend import get_backend
from xpcap.models import CaptioningRNN
from xpcap.verify import attention, lockstep
from xpcap.verify import captioner as captioners
from xpcap.verify import course as of_layers
from xpcap.verify.optim import rules
from xpcap.verify.rows import Row, mixed_error, read_cases

__all__ = ["Row", "mixed_error", "read_cases", "verify"]


def verify(*, layers: Any = our_layers, optim: Any = our_optim, captioner: type = CaptioningRNN) -> Iterator[Row]:
    """Compare with the published numbers and with finite differences, on the backend in force.

    Parameters
    ----------
    layers : module, or any object, with the functions of the course's ``rnn_layers``; attention is checked where it has that as well
    optim : with those of its ``optim``
    captioner : a class like its ``CaptioningRNN``

    Yields
    ------
    Row : one a comparison. On CuPy our own captioner also trains beside NumPy's, and beside itself: see xpcap.verify.lockstep

    Notes
    -----
    Draws on NumPy's legacy global stream, as the course's checks do, and leaves that stream as it was.
    """
    cases = read_cases()
    state = np.random.get_state()
    try:
        yield from of_layers.values(layers, cases)
        yield from captioners.values(captioner, cases)
        yield from rules(optim, cases)
        yield from of_layers.losses(layers, cases)
        yield from of_layers.gradients(layers, cases)
        yield from attention.rows(layers)
        yield from captioners.gradients(captioner, cases)
        yield from captioners.directions(captioner, cases)
        if get_backend() != "numpy" and captioner is CaptioningRNN:
            yield from lockstep.rows()
    finally:
        np.random.set_state(state)
