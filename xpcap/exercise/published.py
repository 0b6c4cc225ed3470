"""The course's published numbers, and gradients against finite differences.

Of layers, update rules, attention and captioners: one Row a comparison. Attention, which the
course does not have, is compared with values of our own, computed apart from this library.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import Array, asarray, get_backend, to_numpy
from xpcap.gradcheck import (
    directional_errors,
    eval_numerical_gradient,
    eval_numerical_gradient_array,
    rel_error,
)
from xpcap.layers.cells import CELLS
from xpcap.models import CaptioningRNN

Cases = Mapping[str, Any]  # content of a JSON file here


class Row(NamedTuple):
    """One comparison: the course's relative error, or where the case says so the mixed error."""

    case: str
    backend: str
    dtype: str
    error: float
    tolerance: float
    passed: bool


def make_row(case: str, dtype: str, error: float, tolerance: float) -> Row:
    """A row on the backend in force. NaN does not pass."""
    return Row(case, get_backend(), dtype, error, tolerance, bool(error <= tolerance))


def mixed_error(x: Array, y: Array) -> float:
    """max(|x - y| / (1 + |y|)): absolute for small values, relative for large ones."""
    a, b = to_numpy(x).astype(np.float64), to_numpy(y)
    return float(np.max(np.abs(a - b) / (1 + np.abs(b))))


def read_cases(name: str = "conformance") -> Cases:
    """The cases of a file here, with their source: the course's, or our own of "attention"."""
    file = resources.files("xpcap.exercise").joinpath(f"{name}.json")
    cases: Cases = json.loads(file.read_text(encoding="utf-8"))
    return cases


def read_array(spec: Any, dtype: str | None) -> Array:
    """An array of a case: a linspace over a shape, or the numbers listed; floats get `dtype`."""
    if isinstance(spec, Mapping):
        (first, last), shape = spec["linspace"], spec["shape"]
        spec = np.linspace(first, last, int(np.prod(shape))).reshape(shape)
    host = np.asarray(spec)
    return asarray(host.astype(dtype) if host.dtype.kind == "f" and dtype else host)


FLOAT32_TOLERANCE = 2e-6  # some 16 roundings of float32, on the mixed error


def layer_values(layers: Any, cases: Cases) -> Iterator[Row]:
    """Outputs on the published inputs, in float64 and in float32."""
    for dtype in ("float64", "float32"):
        for case in cases["layers"]:
            label, tolerance = case.get("label", case["name"]), case["rtol"]
            inputs = [read_array(spec, dtype) for spec in case["inputs"].values()]
            outputs = getattr(layers, case["name"])(*inputs)
            for (name, expected), got in zip(case["expected"].items(), outputs, strict=False):
                if dtype == "float32":
                    error, tolerance = mixed_error(got, expected), FLOAT32_TOLERANCE
                else:
                    error = rel_error(got, np.asarray(expected))
                yield make_row(f"{label} {name}", dtype, error, tolerance)


def layer_losses(layers: Any, cases: Cases) -> Iterator[Row]:
    """Losses of near-zero scores, log(V) a step; then the notebook's gradient check."""
    np.random.seed(cases["seed"])
    for case in cases["sanity_losses"]:
        N, T, V, p = (case[key] for key in ("N", "T", "V", "p"))
        x = asarray(0.001 * np.random.randn(N, T, V))
        y = asarray(np.random.randint(V, size=(N, T)))
        mask = asarray(np.random.rand(N, T) <= p)
        loss = float(layers.temporal_softmax_loss(x, y, mask)[0])
        low, high = case["about"]
        label, error = f"softmax loss N{N} T{T} p{p} off its middle", abs(loss - (low + high) / 2)
        yield make_row(label, "float64", error, (high - low) / 2)
    x = asarray(np.random.randn(7, 8, 9))
    y = asarray(np.random.randint(9, size=(7, 8)))
    mask = asarray(np.random.rand(7, 8) > 0.5)
    check = cases["gradient_checks"]["temporal_softmax_loss"]
    numeric = eval_numerical_gradient(
        lambda x: layers.temporal_softmax_loss(x, y, mask)[0], x, verbose=False, h=check["step"]
    )
    error = rel_error(layers.temporal_softmax_loss(x, y, mask)[1], numeric)
    yield make_row("temporal_softmax_loss dx", "float64", error, check["accept"])


def layer_gradients(layers: Any, cases: Cases) -> Iterator[Row]:
    """Every backward function of the notebooks, input by input."""

    def inputs(names: str, *shapes: tuple[int, ...]) -> dict[str, Array]:
        np.random.seed(cases["seed"])
        return dict(zip(names.split(), randn(*shapes), strict=True))

    def check(
        layer: str, x: Mapping[str, Array], *shapes: tuple[int, ...], fixed: tuple[Array, ...] = ()
    ) -> Iterator[Row]:
        settings = cases["gradient_checks"][f"{layer}_backward"]
        return compare(layers, layer, settings, x, shapes, fixed)

    x = inputs("x prev_h Wx Wh b", (4, 5), (4, 6), (5, 6), (6, 6), (6,))
    yield from check("rnn_step", x, (4, 6))
    x = inputs("x h0 Wx Wh b", (2, 10, 3), (2, 5), (3, 5), (5, 5), (5,))
    yield from check("rnn", x, (2, 10, 5))
    np.random.seed(cases["seed"])
    words = asarray(np.random.randint(5, size=(50, 3)))
    (W,) = randn((5, 6))
    yield from check("word_embedding", {"W": W}, (50, 3, 6), fixed=(words,))
    yield from check("temporal_affine", inputs("x w b", (2, 3, 4), (4, 5), (5,)), (2, 3, 5))
    x = inputs("x prev_h prev_c Wx Wh b", (4, 5), (4, 6), (4, 6), (5, 24), (6, 24), (24,))
    yield from check("lstm_step", x, (4, 6), (4, 6))
    x = inputs("x h0 Wx Wh b", (2, 10, 3), (2, 6), (3, 24), (6, 24), (24,))
    yield from check("lstm", x, (2, 10, 6))


def compare(
    layers: Any,
    layer: str,
    check: Mapping[str, float],
    inputs: Mapping[str, Array],
    shapes: Sequence[tuple[int, ...]],
    fixed: tuple[Array, ...] = (),
) -> Iterator[Row]:
    """A layer's backward, on drawn upstream gradients of `shapes`, against numeric gradients."""
    forward, upstream = getattr(layers, f"{layer}_forward"), randn(*shapes)

    def output(k: int) -> Callable[[Array], Array]:
        """The k-th output as a function of the input that is being moved in place."""
        return lambda _: forward(*fixed, *inputs.values())[k]

    grads = getattr(layers, f"{layer}_backward")(*upstream, forward(*fixed, *inputs.values())[-1])
    grads = grads if isinstance(grads, tuple) else (grads,)
    for (key, x), grad in zip(inputs.items(), grads, strict=True):
        numeric = sum(
            eval_numerical_gradient_array(output(k), x, df, check["step"])
            for k, df in enumerate(upstream)
        )
        tolerance = check.get(f"accept_d{key}", check["accept"])
        yield make_row(f"{layer}_backward d{key}", "float64", rel_error(grad, numeric), tolerance)


def randn(*shapes: tuple[int, ...]) -> list[Array]:
    return [asarray(np.random.randn(*shape)) for shape in shapes]


def rules(optim: Any, cases: Cases) -> Iterator[Row]:
    """One step of each rule: the weights after it, and the state."""
    for case in cases["rules"]:
        config = {
            key: read_array(value, "float64") if isinstance(value, Mapping) else value
            for key, value in case["config"].items()
        }
        w, dw = (read_array(case[key], "float64") for key in ("w", "dw"))
        next_w, config = getattr(optim, case["name"])(w, dw, config)
        for name, expected in case["expected"].items():
            error = rel_error(next_w if name == "next_w" else config[name], np.asarray(expected))
            yield make_row(f"{case['name']} {name}", "float64", error, case["rtol"])


Shape = tuple[int, ...]
# For the random check of a layer: its inputs, and its outputs that have an upstream gradient
SHAPES: dict[str, tuple[dict[str, Shape], list[Shape]]] = {
    "dot_product_attention": ({"prev_h": (4, 6), "A": (4, 9, 6)}, [(4, 6)]),
    "attention_lstm_step": (
        {
            "x": (4, 5),
            "prev_h": (4, 6),
            "prev_c": (4, 6),
            "attn": (4, 6),
            "Wx": (5, 24),
            "Wh": (6, 24),
            "Wattn": (6, 24),
            "b": (24,),
        },
        [(4, 6), (4, 6)],
    ),
    "attention": (
        {
            "x": (2, 7, 3),
            "A": (2, 4, 6),
            "Wx": (3, 24),
            "Wh": (6, 24),
            "Wattn": (6, 24),
            "b": (24,),
        },
        [(2, 7, 6)],
    ),
}


def attention_rows(layers: Any) -> Iterator[Row]:
    """Rows for layers that have attention; none for those that do not."""
    ways = ("forward", "backward")
    if not all(hasattr(layers, f"{layer}_{way}") for layer in SHAPES for way in ways):
        return
    cases = read_cases("attention")
    yield from layer_values(layers, cases)
    for layer, (inputs, outputs) in SHAPES.items():
        np.random.seed(cases["seed"])
        drawn = dict(zip(inputs, randn(*inputs.values()), strict=True))
        check = cases["gradient_checks"][f"{layer}_backward"]
        yield from compare(layers, layer, check, drawn, outputs)


COURSE_CELLS = ("rnn", "lstm")
FIXED_LOSS_TOLERANCE = 1e-10  # absolute, on the two published losses
FIXED_GRADIENT_TOLERANCE = 1e-11  # on the mixed error: sums over up to 6,400 elements
MODEL_TOLERANCE = 1e-8  # on the mixed error of numeric gradients with step 1e-6
DIRECTION_TOLERANCE = 1e-6  # of a whole model's slope along a random direction, step 1e-5


def captioner_values(captioner: type, cases: Cases) -> Iterator[Row]:
    """Loss and gradients at the published weights."""
    for case in cases["captioners"]:
        N, D, W, H, V, T1 = (case["sizes"][key] for key in ("N", "D", "W", "H", "V", "T_plus_1"))
        model = captioner(case["word_to_idx"], D, W, H, case["cell"], np.float64)
        for name, value in model.params.items():
            model.params[name] = read_array({**case["params"], "shape": value.shape}, "float64")
        captions = (np.arange(N * T1) % V).reshape(N, T1)
        loss, grads = model.loss(read_array(case["features"], "float64"), captions)
        label, error = f"captioner fixed {case['cell']}", abs(float(loss) - case["published_loss"])
        yield make_row(f"{label} loss (absolute)", "float64", error, FIXED_LOSS_TOLERANCE)
        for name, expected in case["grads"].items():
            flat = to_numpy(grads[name]).ravel()
            got = {"sum": flat.sum(), "abs_sum": np.abs(flat).sum()}
            got |= {"first": flat[0], "last": flat[-1]}
            error = max(mixed_error(got[key], expected[key]) for key in got)
            yield make_row(f"{label} d{name} (mixed)", "float64", error, FIXED_GRADIENT_TOLERANCE)


def captioner_gradients(captioner: type, cases: Cases) -> Iterator[Row]:
    """Every gradient of a tiny model, element by element."""
    check = cases["gradient_checks"]["captioner"]
    for cell in _cells_of(captioner):
        np.random.seed(cases["seed"])
        captions, features = np.random.randint(3, size=(2, 3)), np.random.randn(2, 4)
        model = captioner({"<NULL>": 0, "cat": 2, "dog": 3}, 4, 5, 6, cell, np.float64)
        loss = _loss_of(model, features, captions)
        _, grads = model.loss(features, captions)
        for name, x in model.params.items():
            numeric = eval_numerical_gradient(loss, x, verbose=False, h=check["step"])
            label = f"captioner {cell} d{name}"
            if cell == "rnn":  # the course's own check
                error = rel_error(grads[name], numeric)
                yield make_row(label, "float64", error, check["accept"])
            else:
                # Many of an LSTM's slopes here are near 1e-10, where differences are all rounding
                error = mixed_error(grads[name], numeric)
                yield make_row(f"{label} (mixed)", "float64", error, MODEL_TOLERANCE)


def captioner_directions(captioner: type, cases: Cases) -> Iterator[Row]:
    """Slopes of a larger model along random directions; with dropout in our own class."""
    ours = issubclass(captioner, CaptioningRNN)
    settings = {"dropout": 0.3, "seed": cases["seed"]} if ours else {}
    options = {"step": 0} if ours else {}  # the same dropout masks each time
    for cell in _cells_of(captioner):
        rng = np.random.default_rng(cases["seed"])
        words = {"<NULL>": 0, "<START>": 1, "<END>": 2, **{f"word{i}": i for i in range(3, 40)}}
        model = captioner(words, 32, 16, 24, cell, np.float64, **settings)
        features, captions = rng.standard_normal((12, 32)), rng.integers(0, 40, (12, 9))
        _, grads = model.loss(features, captions, **options)
        loss = _loss_of(model, features, captions, **options)
        errors = directional_errors(loss, model.params, grads, rng)
        label = f"captioner {cell} along {len(errors)} directions"
        yield make_row(label, "float64", max(errors), DIRECTION_TOLERANCE)
        if ours and CELLS[cell].takes_extra_term:
            inject = "attention+every-step"
            model = captioner(words, (9, 8), 16, 24, cell, np.float64, inject=inject, **settings)
            features = rng.standard_normal((12, 9, 8))
            _, grads = model.loss(features, captions, **options)
            loss = _loss_of(model, features, captions, **options)
            errors = directional_errors(loss, model.params, grads, rng)
            label = f"captioner {cell} that attends along {len(errors)} directions"
            yield make_row(label, "float64", max(errors), DIRECTION_TOLERANCE)


def _cells_of(captioner: type) -> Iterable[str]:
    """All cells of our own captioner; of others, those that the course has."""
    return CELLS if issubclass(captioner, CaptioningRNN) else COURSE_CELLS


def _loss_of(model: Any, features: Array, captions: Array, **options: Any) -> Callable[..., Any]:
    """The model's loss at its present parameters, whatever the arguments."""
    return lambda *_: model.loss(features, captions, **options)[0]
