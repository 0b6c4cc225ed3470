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


def mixed_error(x: Any, y: Any) -> float:
    """max(|x - y| / (1 + |y|)): absolute for small values, relative for large ones."""
    a, b = to_numpy(x).astype(np.float64), to_numpy(y)
    return float(np.max(np.abs(a - b) / (1 + np.abs(b))))


def read_cases(name: str = "conformance") -> dict[str, Any]:
    """The cases of a file here, with their source: the course's, or our own of "attention"."""
    return json.loads(
        resources.files("xpcap.verify").joinpath(f"{name}.json").read_text(encoding="utf-8")
    )


def read_array(spec: Any, dtype: str | None) -> Array:
    """An array of a case: a linspace over a shape, or the numbers listed; floats get `dtype`."""
    if isinstance(spec, Mapping):
        spec = np.linspace(
            spec["linspace"][0], spec["linspace"][1], int(np.prod(spec["shape"]))
        ).reshape(spec["shape"])
    host = np.asarray(spec)
    return asarray(host.astype(dtype) if host.dtype.kind == "f" and dtype else host)


FLOAT32_TOLERANCE = 2e-6  # some 16 roundings of float32, on the mixed error


def layer_values(layers: Any, cases: Mapping[str, Any]) -> Iterator[Row]:
    """Outputs on the published inputs, in float64 and in float32."""
    for dtype in ("float64", "float32"):
        for case in cases["layers"]:
            inputs = [read_array(spec, dtype) for spec in case["inputs"].values()]
            outputs = getattr(layers, case["name"])(*inputs)
            for (name, expected), got in zip(case["expected"].items(), outputs, strict=False):
                single = dtype == "float32"
                error = (
                    mixed_error(got, expected) if single else rel_error(got, np.asarray(expected))
                )
                yield make_row(
                    f"{case.get('label', case['name'])} {name}",
                    dtype,
                    error,
                    FLOAT32_TOLERANCE if single else case["rtol"],
                )


def layer_losses(layers: Any, cases: Mapping[str, Any]) -> Iterator[Row]:
    """Losses of near-zero scores, log(V) a step; then the notebook's gradient check."""
    np.random.seed(cases["seed"])
    for case in cases["sanity_losses"]:
        N, T, V, p = (case[key] for key in ("N", "T", "V", "p"))
        x, y, mask = (
            0.001 * np.random.randn(N, T, V),
            np.random.randint(V, size=(N, T)),
            np.random.rand(N, T) <= p,
        )
        loss = float(layers.temporal_softmax_loss(asarray(x), asarray(y), asarray(mask))[0])
        low, high = case["about"]
        yield make_row(
            f"softmax loss N{N} T{T} p{p} off its middle",
            "float64",
            abs(loss - (low + high) / 2),
            (high - low) / 2,
        )
    x, y, mask = (
        np.random.randn(7, 8, 9),
        np.random.randint(9, size=(7, 8)),
        np.random.rand(7, 8) > 0.5,
    )
    x, y, mask = asarray(x), asarray(y), asarray(mask)
    check = cases["gradient_checks"]["temporal_softmax_loss"]
    numeric = eval_numerical_gradient(
        lambda x: layers.temporal_softmax_loss(x, y, mask)[0], x, verbose=False, h=check["step"]
    )
    yield make_row(
        "temporal_softmax_loss dx",
        "float64",
        rel_error(layers.temporal_softmax_loss(x, y, mask)[1], numeric),
        check["accept"],
    )


def layer_gradients(layers: Any, cases: Mapping[str, Any]) -> Iterator[Row]:
    """Every backward function of the notebooks, input by input."""

    def inputs(names: str, *shapes: tuple[int, ...]) -> dict[str, Array]:
        np.random.seed(cases["seed"])
        return dict(zip(names.split(), randn(*shapes), strict=True))

    def check(
        layer: str, x: Mapping[str, Array], *shapes: tuple[int, ...], fixed: tuple[Array, ...] = ()
    ) -> Iterator[Row]:
        return compare(
            layers, layer, cases["gradient_checks"][f"{layer}_backward"], x, shapes, fixed
        )

    yield from check(
        "rnn_step", inputs("x prev_h Wx Wh b", (4, 5), (4, 6), (5, 6), (6, 6), (6,)), (4, 6)
    )
    yield from check(
        "rnn", inputs("x h0 Wx Wh b", (2, 10, 3), (2, 5), (3, 5), (5, 5), (5,)), (2, 10, 5)
    )
    np.random.seed(cases["seed"])
    words = asarray(np.random.randint(5, size=(50, 3)))
    (W,) = randn((5, 6))
    yield from check("word_embedding", {"W": W}, (50, 3, 6), fixed=(words,))
    yield from check("temporal_affine", inputs("x w b", (2, 3, 4), (4, 5), (5,)), (2, 3, 5))
    yield from check(
        "lstm_step",
        inputs("x prev_h prev_c Wx Wh b", (4, 5), (4, 6), (4, 6), (5, 24), (6, 24), (24,)),
        (4, 6),
        (4, 6),
    )
    yield from check(
        "lstm", inputs("x h0 Wx Wh b", (2, 10, 3), (2, 6), (3, 24), (6, 24), (24,)), (2, 10, 6)
    )


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
        """The k-th output as a function of whichever input is being moved."""
        return lambda _: forward(*fixed, *inputs.values())[k]

    grads = getattr(layers, f"{layer}_backward")(*upstream, forward(*fixed, *inputs.values())[-1])
    grads = grads if isinstance(grads, tuple) else (grads,)
    for (key, x), grad in zip(inputs.items(), grads, strict=True):
        numeric = sum(
            eval_numerical_gradient_array(output(k), x, df, check["step"])
            for k, df in enumerate(upstream)
        )
        yield make_row(
            f"{layer}_backward d{key}",
            "float64",
            rel_error(grad, numeric),
            check.get(f"accept_d{key}", check["accept"]),
        )


def randn(*shapes: tuple[int, ...]) -> list[Array]:
    return [asarray(np.random.randn(*shape)) for shape in shapes]


def rules(optim: Any, cases: Mapping[str, Any]) -> Iterator[Row]:
    """One step of each rule: the weights after it, and the state."""
    for case in cases["rules"]:
        config = {
            key: read_array(value, "float64") if isinstance(value, Mapping) else value
            for key, value in case["config"].items()
        }
        next_w, config = getattr(optim, case["name"])(
            read_array(case["w"], "float64"), read_array(case["dw"], "float64"), config
        )
        for name, expected in case["expected"].items():
            got = next_w if name == "next_w" else config[name]
            yield make_row(
                f"{case['name']} {name}",
                "float64",
                rel_error(got, np.asarray(expected)),
                case["rtol"],
            )


Shape = tuple[int, ...]
SHAPES: dict[
    str, tuple[dict[str, Shape], list[Shape]]
] = {  # of the random check of a layer: its inputs, and its outputs that have an upstream gradient
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
    if not all(
        hasattr(layers, f"{layer}_{way}") for layer in SHAPES for way in ("forward", "backward")
    ):
        return
    cases = read_cases("attention")
    yield from layer_values(layers, cases)
    for layer, (inputs, outputs) in SHAPES.items():
        np.random.seed(cases["seed"])
        drawn = dict(zip(inputs, randn(*inputs.values()), strict=True))
        yield from compare(
            layers, layer, cases["gradient_checks"][f"{layer}_backward"], drawn, outputs
        )


COURSE_CELLS = ("rnn", "lstm")
FIXED_LOSS_TOLERANCE = 1e-10  # absolute, on the two published losses
FIXED_GRADIENT_TOLERANCE = 1e-11  # on the mixed error: sums over up to 6,400 elements
MODEL_TOLERANCE = 1e-8  # on the mixed error of numeric gradients with step 1e-6
DIRECTION_TOLERANCE = 1e-6  # of a whole model's slope along a random direction, step 1e-5


def captioner_values(captioner: Any, cases: Mapping[str, Any]) -> Iterator[Row]:
    """Loss and gradients at the published weights."""
    for case in cases["captioners"]:
        N, D, W, H, V, T1 = (case["sizes"][key] for key in ("N", "D", "W", "H", "V", "T_plus_1"))
        model = captioner(case["word_to_idx"], D, W, H, case["cell"], np.float64)
        for name, value in model.params.items():
            model.params[name] = read_array({**case["params"], "shape": value.shape}, "float64")
        loss, grads = model.loss(
            read_array(case["features"], "float64"), (np.arange(N * T1) % V).reshape(N, T1)
        )
        label = f"captioner fixed {case['cell']}"
        yield make_row(
            f"{label} loss (absolute)",
            "float64",
            abs(float(loss) - case["published_loss"]),
            FIXED_LOSS_TOLERANCE,
        )
        for name, expected in case["grads"].items():
            flat = to_numpy(grads[name]).ravel()
            got = {
                "sum": flat.sum(),
                "abs_sum": np.abs(flat).sum(),
                "first": flat[0],
                "last": flat[-1],
            }
            error = max(mixed_error(got[key], expected[key]) for key in got)
            yield make_row(f"{label} d{name} (mixed)", "float64", error, FIXED_GRADIENT_TOLERANCE)


def captioner_gradients(captioner: Any, cases: Mapping[str, Any]) -> Iterator[Row]:
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
            if cell == "rnn":  # the course's own check
                yield make_row(
                    f"captioner rnn d{name}",
                    "float64",
                    rel_error(grads[name], numeric),
                    check["accept"],
                )
            # many of an LSTM's slopes here are near 1e-10, where differences are all rounding
            else:
                yield make_row(
                    f"captioner {cell} d{name} (mixed)",
                    "float64",
                    mixed_error(grads[name], numeric),
                    MODEL_TOLERANCE,
                )


def captioner_directions(captioner: Any, cases: Mapping[str, Any]) -> Iterator[Row]:
    """Slopes of a larger model along random directions; with dropout in our own class."""
    ours = issubclass(captioner, CaptioningRNN)
    for cell in _cells_of(captioner):
        rng = np.random.default_rng(cases["seed"])
        words = {"<NULL>": 0, "<START>": 1, "<END>": 2, **{f"word{i}": i for i in range(3, 40)}}
        model = captioner(
            words,
            32,
            16,
            24,
            cell,
            np.float64,
            **({"dropout": 0.3, "seed": cases["seed"]} if ours else {}),
        )
        features, captions = rng.standard_normal((12, 32)), rng.integers(0, 40, (12, 9))
        options = {"step": 0} if ours else {}  # the same dropout masks each time
        _, grads = model.loss(features, captions, **options)
        errors = directional_errors(
            _loss_of(model, features, captions, **options), model.params, grads, rng
        )
        yield make_row(
            f"captioner {cell} along {len(errors)} directions",
            "float64",
            max(errors),
            DIRECTION_TOLERANCE,
        )
        if ours and CELLS[cell].takes_extra_term:
            attentive = captioner(
                words,
                (9, 8),
                16,
                24,
                cell,
                np.float64,
                dropout=0.3,
                inject="attention+every-step",
                seed=cases["seed"],
            )
            features = rng.standard_normal((12, 9, 8))
            _, grads = attentive.loss(features, captions, **options)
            errors = directional_errors(
                _loss_of(attentive, features, captions, **options), attentive.params, grads, rng
            )
            yield make_row(
                f"captioner {cell} that attends along {len(errors)} directions",
                "float64",
                max(errors),
                DIRECTION_TOLERANCE,
            )


def _cells_of(captioner: type) -> Iterable[str]:
    """All cells of our own captioner; of others, those that the course has."""
    return CELLS if issubclass(captioner, CaptioningRNN) else COURSE_CELLS


def _loss_of(model: Any, features: Array, captions: Array, **options: Any) -> Callable[..., Any]:
    """The model's loss at its present parameters, whatever the arguments."""
    return lambda *_: model.loss(features, captions, **options)[0]
