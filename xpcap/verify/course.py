"""Layers: their published values, and their gradients against finite differences."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from xpcap.backend import Array, asarray
from xpcap.gradcheck import eval_numerical_gradient, eval_numerical_gradient_array, rel_error
from xpcap.verify.rows import Row, make_row, mixed_error, read_array

FLOAT32_TOLERANCE = 2e-6  # some 16 roundings of float32, on the mixed error


def values(layers: Any, cases: Mapping[str, Any]) -> Iterator[Row]:
    """Outputs on the published inputs, in float64 and in float32."""
    for dtype in ("float64", "float32"):
        for case in cases["layers"]:
            inputs = [read_array(spec, dtype) for spec in case["inputs"].values()]
            outputs = getattr(layers, case["name"])(*inputs)
            for (name, expected), got in zip(case["expected"].items(), outputs, strict=False):
                single = dtype == "float32"
                error = mixed_error(got, expected) if single else rel_error(got, np.asarray(expected))
                yield make_row(f"{case.get('label', case['name'])} {name}", dtype, error, FLOAT32_TOLERANCE if single else case["rtol"])


def losses(layers: Any, cases: Mapping[str, Any]) -> Iterator[Row]:
    """Losses of near-zero scores, log(V) a step; then, on the same random stream, the gradient check that follows them in the notebook."""
    np.random.seed(cases["seed"])
    for case in cases["sanity_losses"]:
        N, T, V, p = (case[key] for key in ("N", "T", "V", "p"))
        x, y, mask = 0.001 * np.random.randn(N, T, V), np.random.randint(V, size=(N, T)), np.random.rand(N, T) <= p
        loss = float(layers.temporal_softmax_loss(asarray(x), asarray(y), asarray(mask))[0])
        low, high = case["about"]
        yield make_row(f"softmax loss N{N} T{T} p{p} off its middle", "float64", abs(loss - (low + high) / 2), (high - low) / 2)
    x, y, mask = np.random.randn(7, 8, 9), np.random.randint(9, size=(7, 8)), np.random.rand(7, 8) > 0.5
    x, y, mask = asarray(x), asarray(y), asarray(mask)
    check = cases["gradient_checks"]["temporal_softmax_loss"]
    numeric = eval_numerical_gradient(lambda x: layers.temporal_softmax_loss(x, y, mask)[0], x, verbose=False, h=check["step"])
    yield make_row("temporal_softmax_loss dx", "float64", rel_error(layers.temporal_softmax_loss(x, y, mask)[1], numeric), check["accept"])


def gradients(layers: Any, cases: Mapping[str, Any]) -> Iterator[Row]:
    """Every backward function of the notebooks, input by input."""

    def inputs(names: str, *shapes: tuple[int, ...]) -> dict[str, Array]:
        np.random.seed(cases["seed"])
        return dict(zip(names.split(), randn(*shapes), strict=True))

    def check(layer: str, x: Mapping[str, Array], *shapes: tuple[int, ...], fixed: tuple[Array, ...] = ()) -> Iterator[Row]:
        return compare(layers, layer, cases["gradient_checks"][f"{layer}_backward"], x, shapes, fixed)

    yield from check("rnn_step", inputs("x prev_h Wx Wh b", (4, 5), (4, 6), (5, 6), (6, 6), (6,)), (4, 6))
    yield from check("rnn", inputs("x h0 Wx Wh b", (2, 10, 3), (2, 5), (3, 5), (5, 5), (5,)), (2, 10, 5))
    np.random.seed(cases["seed"])
    words = asarray(np.random.randint(5, size=(50, 3)))
    (W,) = randn((5, 6))
    yield from check("word_embedding", {"W": W}, (50, 3, 6), fixed=(words,))
    yield from check("temporal_affine", inputs("x w b", (2, 3, 4), (4, 5), (5,)), (2, 3, 5))
    yield from check("lstm_step", inputs("x prev_h prev_c Wx Wh b", (4, 5), (4, 6), (4, 6), (5, 24), (6, 24), (24,)), (4, 6), (4, 6))
    yield from check("lstm", inputs("x h0 Wx Wh b", (2, 10, 3), (2, 6), (3, 24), (6, 24), (24,)), (2, 10, 6))


def compare(
    layers: Any,
    layer: str,
    check: Mapping[str, float],
    inputs: Mapping[str, Array],
    shapes: Sequence[tuple[int, ...]],
    fixed: tuple[Array, ...] = (),
) -> Iterator[Row]:
    """Draw upstream gradients of these shapes, and check a layer's backward against differences of its forward."""
    forward, upstream = getattr(layers, f"{layer}_forward"), randn(*shapes)

    def output(k: int) -> Callable[[Array], Array]:
        """The k-th output as a function of whichever input is being moved."""
        return lambda _: forward(*fixed, *inputs.values())[k]

    grads = getattr(layers, f"{layer}_backward")(*upstream, forward(*fixed, *inputs.values())[-1])
    grads = grads if isinstance(grads, tuple) else (grads,)
    for (key, x), grad in zip(inputs.items(), grads, strict=True):
        numeric = sum(eval_numerical_gradient_array(output(k), x, df, check["step"]) for k, df in enumerate(upstream))
        yield make_row(f"{layer}_backward d{key}", "float64", rel_error(grad, numeric), check.get(f"accept_d{key}", check["accept"]))


def randn(*shapes: tuple[int, ...]) -> list[Array]:
    return [asarray(np.random.randn(*shape)) for shape in shapes]
