"""Probes with code of ours that students were to write: for processes that mark nothing of it.

A loop over steps and slopes by differences tell whether a sequence, or a backward pass, is right in
itself though what it builds on is wrong.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING or __package__:
    from xpcap.exercise.grading.probes import Record, copied, parted
else:
    from probes import copied, parted  # of the folder of a process


def by_steps(
    passes: Sequence[Callable[..., Any]], names: Sequence[str], cases: Any, record: "Record"
) -> None:
    """A sequence by calls of a step, forward and, of two passes, backward."""
    step, *back = passes
    with record.stage("out"):
        inputs, upstream = parted(cases["first"])
        x, state, *weights = inputs.values()
        cell = [np.zeros_like(state)] * ("prev_c" in names)
        states, caches = [], []
        for t in range(x.shape[1]):
            state, *cell, cache = step(np.array(x[:, t]), state, *cell, *weights)
            states.append(state)
            caches.append(cache)
        if not back:
            record.value("out", "h", np.stack(states, axis=1))
            return
        (dh,) = upstream.values()
        dstate, dcell = np.zeros_like(state), [np.zeros_like(one) for one in cell]
        sums: list[Any] = [0.0] * len(weights)
        dx: list[Any] = []
        for t in reversed(range(x.shape[1])):
            dx_t, dstate, *rest = back[0](dh[:, t] + dstate, *dcell, caches[t])
            dcell, terms = rest[: len(cell)], rest[len(cell) :]
            sums = [total + term for total, term in zip(sums, terms, strict=True)]
            dx.insert(0, dx_t)
        found = (np.stack(dx, axis=1), dstate, *sums)
        record.results("out", ("dx", "dh0", "dWx", "dWh", "db"), found)


def slopes(call: Callable[..., Any], names: Sequence[str], cases: Any, record: "Record") -> None:
    """Gradients of a forward pass by central differences; `names` are the arguments."""
    inputs, gradients = parted(cases["first"])
    upstream = list(gradients.values())

    def loss() -> float:
        outputs = call(*copied(inputs).values())[: len(upstream)]
        pairs = zip(outputs, upstream, strict=True)
        return sum(float((np.asarray(out) * dout).sum()) for out, dout in pairs)

    with record.stage("out"):
        for name in names:
            x, step = inputs[name], 1e-5
            found = np.zeros_like(x)
            for index in np.ndindex(x.shape):
                value = x[index]
                x[index] = value + step
                above = loss()
                x[index] = value - step
                found[index] = (above - loss()) / (2 * step)
                x[index] = value
            record.value("out", f"d{name}", found)


PROBES = {probe.__name__: probe for probe in (by_steps, slopes)}
