"""Attention, which the course does not have: values of our own, computed apart from this library, and gradients against finite differences."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from xpcap.verify.course import compare, randn, values
from xpcap.verify.rows import Row, read_cases

Shape = tuple[int, ...]
SHAPES: dict[
    str, tuple[dict[str, Shape], list[Shape]]
] = {  # of the random check of a layer: its inputs, and its outputs that have an upstream gradient
    "dot_product_attention": ({"prev_h": (4, 6), "A": (4, 9, 6)}, [(4, 6)]),
    "attention_lstm_step": (
        {"x": (4, 5), "prev_h": (4, 6), "prev_c": (4, 6), "attn": (4, 6), "Wx": (5, 24), "Wh": (6, 24), "Wattn": (6, 24), "b": (24,)},
        [(4, 6), (4, 6)],
    ),
    "attention": ({"x": (2, 7, 3), "A": (2, 4, 6), "Wx": (3, 24), "Wh": (6, 24), "Wattn": (6, 24), "b": (24,)}, [(2, 7, 6)]),
}


def rows(layers: Any) -> Iterator[Row]:
    """Rows for layers that have attention; none for those that do not."""
    if not all(hasattr(layers, f"{layer}_{way}") for layer in SHAPES for way in ("forward", "backward")):
        return
    cases = read_cases("attention")
    yield from values(layers, cases)
    for layer, (inputs, outputs) in SHAPES.items():
        np.random.seed(cases["seed"])
        drawn = dict(zip(inputs, randn(*inputs.values()), strict=True))
        yield from compare(layers, layer, cases["gradient_checks"][f"{layer}_backward"], drawn, outputs)
