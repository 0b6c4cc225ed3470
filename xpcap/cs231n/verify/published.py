"""Compare results with the course's published numbers, and gradients with finite differences.

Each comparison of a layer, update rule, attention or captioner is a Row. The course has no attention;
it is compared with values that were computed without this library.
"""

import json
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import Array, asarray, get_backend, to_numpy
from xpcap.backend.shape_specs import Entry, Sizes, Spec
from xpcap.cs231n import table
from xpcap.errors import InvalidValueError
from xpcap.gradcheck import (
    directional_errors,
    eval_numerical_gradient,
    eval_numerical_gradient_array,
    rel_error,
)
from xpcap.layers.cells import CELLS
from xpcap.models import CaptioningRNN
from xpcap.models.config import has_attention

Cases = Mapping[str, Any]  # content of a JSON file of this folder


class Row(NamedTuple):
    """A comparison by the course's relative error, or by the mixed error if `case` says so."""

    case: str
    backend: str
    dtype: str
    error: float
    tolerance: float
    passed: bool


def make_row(case: str, error: float, tolerance: float, dtype: str = "float64") -> Row:
    """A row for the current backend. NaN does not pass."""
    return Row(case, get_backend(), dtype, error, tolerance, bool(error <= tolerance))


def mixed_error(x: Array, y: Array) -> float:
    """max(|x - y| / (1 + |y|)): absolute for small values, relative for large ones.

    It suits arrays with some values that are only rounding, which a relative error would magnify.

    ValueError : x and y differ in shape.

    Examples
    --------
    >>> mixed_error(np.array([0.0, 3.0]), np.array([1e-9, 3.0])) < 1e-8
    True
    """
    a = to_numpy(x).astype(np.float64)
    b = np.asarray(to_numpy(y))
    if a.shape != b.shape:
        raise InvalidValueError(
            f"mixed_error got shapes {a.shape} and {b.shape}, expected equal shapes"
        )
    return float(np.max(np.abs(a - b) / (1 + np.abs(b))))


def read_cases(name: str = "published") -> Cases:
    """The cases of a file of this folder, with their source; "attention" has those of attention."""
    file = resources.files("xpcap.cs231n.verify").joinpath(f"{name}.json")
    cases: Cases = json.loads(file.read_text(encoding="utf-8"))
    return cases


def read_array(spec: Any, dtype: str | None) -> Array:
    """An array of a case: a linspace over a shape, or listed numbers; floats get `dtype`."""
    if isinstance(spec, Mapping):
        first, last = spec["linspace"]
        shape = spec["shape"]
        spec = np.linspace(first, last, int(np.prod(shape))).reshape(shape)
    host = np.asarray(spec)
    return asarray(host.astype(dtype) if host.dtype.kind == "f" and dtype else host)


FLOAT32_TOLERANCE = 2e-6  # of the mixed error; about 16 roundings of float32


def layer_values(layers: Any, cases: Cases) -> Iterator[Row]:
    """Outputs on the published inputs, in float64 and in float32."""
    for dtype in ("float64", "float32"):
        for case in cases["layers"]:
            label = case.get("label", case["name"])
            tolerance = case["rtol"]
            inputs = [read_array(spec, dtype) for spec in case["inputs"].values()]
            outputs = getattr(layers, case["name"])(*inputs)
            for (name, expected), got in zip(case["expected"].items(), outputs, strict=False):
                if dtype == "float32":
                    error = mixed_error(got, expected)
                    tolerance = FLOAT32_TOLERANCE
                else:
                    error = rel_error(got, np.asarray(expected))
                yield make_row(f"{label} {name}", error, tolerance, dtype)


def layer_losses(layers: Any, cases: Cases) -> Iterator[Row]:
    """Losses of near-zero logits, log(V) per time step; then the notebook's gradient check."""
    np.random.seed(cases["seed"])
    for case in cases["sanity_losses"]:
        N, T, V, p = (case[key] for key in ("N", "T", "V", "p"))
        x = asarray(0.001 * np.random.randn(N, T, V))
        y = asarray(np.random.randint(V, size=(N, T)))
        mask = asarray(np.random.rand(N, T) <= p)
        loss = float(layers.temporal_softmax_loss(x, y, mask)[0])
        low, high = case["about"]
        label = f"softmax loss N{N} T{T} p{p} off its middle"
        error = abs(loss - (low + high) / 2)
        yield make_row(label, error, (high - low) / 2)
    check = cases["loss_check"]
    arguments = table.FUNCTIONS["temporal_softmax_loss"].arguments.values()
    x, y, mask = draw(arguments, check["sizes"]).values()
    numeric = eval_numerical_gradient(
        lambda x: layers.temporal_softmax_loss(x, y, mask)[0], x, verbose=False, h=check["step"]
    )
    error = rel_error(layers.temporal_softmax_loss(x, y, mask)[1], numeric)
    yield make_row("temporal_softmax_loss dx", error, check["accept"])


def draw(entries: Iterable[Entry], sizes: Sizes) -> dict[str, Array]:
    """Draw arrays by name from NumPy's legacy stream: normal numbers, ids below V, booleans."""
    kinds: dict[str, Callable[..., np.ndarray]] = {
        "": np.random.randn,
        "i": lambda *shape: np.random.randint(sizes["V"], size=shape),
        "b": lambda *shape: np.random.rand(*shape) > 0.5,
    }
    return {entry.name: asarray(kinds[entry.kind](*entry.shape(sizes))) for entry in entries}


def layer_gradients(layers: Any, cases: Cases) -> Iterator[Row]:
    """Gradients of every backward function of the cases, by input."""
    for name, check in cases["gradient_checks"].items():
        np.random.seed(cases["seed"])
        yield from compare(layers, name, check)


def compare(layers: Any, backward: str, check: Mapping[str, Any]) -> Iterator[Row]:
    """Compare a backward pass with numeric gradients of its forward pass, on drawn arrays.

    The arrays are those of the table, or of the case for functions that the course does not have.
    """
    name = backward.replace("_backward", "_forward")
    if "arrays" in check:
        spec = Spec(check["arrays"])
        arguments = spec.entries
        results = spec.results
    else:
        row = table.FUNCTIONS[name]
        arguments = tuple(row.arguments.values())
        results = tuple(row.results.values())
    inputs = draw(arguments, check["sizes"])
    upstream = draw(results, check["sizes"]).values()
    forward = getattr(layers, name)

    def output(k: int) -> Callable[[Array], Array]:
        """The k-th output as a function of the input, which is changed in place."""
        return lambda _: forward(*inputs.values())[k]

    grads = getattr(layers, backward)(*upstream, forward(*inputs.values())[-1])
    grads = grads if isinstance(grads, tuple) else (grads,)
    floats = [entry.name for entry in arguments if not entry.kind]
    for key, grad in zip(floats, grads, strict=True):
        numeric = sum(
            eval_numerical_gradient_array(output(k), inputs[key], df, check["step"])
            for k, df in enumerate(upstream)
        )
        tolerance = check.get(f"accept_d{key}", check["accept"])
        yield make_row(f"{backward} d{key}", rel_error(grad, numeric), tolerance)


def rules(optim: Any, cases: Cases) -> Iterator[Row]:
    """Weights and state after a step of each rule."""
    for case in cases["rules"]:
        config = {
            key: read_array(value, "float64") if isinstance(value, Mapping) else value
            for key, value in case["config"].items()
        }
        w, dw = (read_array(case[key], "float64") for key in ("w", "dw"))
        next_w, config = getattr(optim, case["name"])(w, dw, config)
        for name, expected in case["expected"].items():
            error = rel_error(next_w if name == "next_w" else config[name], np.asarray(expected))
            yield make_row(f"{case['name']} {name}", error, case["rtol"])


def attention_rows(layers: Any) -> Iterator[Row]:
    """Rows of attention, if the layers have it."""
    cases = read_cases("attention")
    names = (*cases["gradient_checks"], *(case["name"] for case in cases["layers"]))
    if all(hasattr(layers, name) for name in names):
        yield from layer_values(layers, cases)
        yield from layer_gradients(layers, cases)


captioner_sizes = operator.itemgetter("N", "D", "W", "H", "V", "T_plus_1")
FIXED_LOSS_TOLERANCE = 1e-10  # absolute, of the two published losses
FIXED_GRADIENT_TOLERANCE = 1e-11  # of the mixed error; sums over up to 6,400 elements


def captioner_values(captioner: type, cases: Cases) -> Iterator[Row]:
    """Loss and gradients at the published weights."""
    for case in cases["captioners"]:
        N, D, W, H, V, T1 = captioner_sizes(case["sizes"])
        model = captioner(case["word_to_idx"], D, W, H, case["cell"], np.float64)
        for name, value in model.params.items():
            model.params[name] = read_array({**case["params"], "shape": value.shape}, "float64")
        captions = (np.arange(N * T1) % V).reshape(N, T1)
        loss, grads = model.loss(read_array(case["features"], "float64"), captions)
        label = f"captioner fixed {case['cell']}"
        error = abs(float(loss) - case["published_loss"])
        yield make_row(f"{label} loss (absolute)", error, FIXED_LOSS_TOLERANCE)
        for name, expected in case["grads"].items():
            flat = to_numpy(grads[name]).ravel()
            got = {"sum": flat.sum(), "abs_sum": np.abs(flat).sum()}
            got |= {"first": flat[0], "last": flat[-1]}
            error = max(mixed_error(got[key], expected[key]) for key in got)
            yield make_row(f"{label} d{name} (mixed)", error, FIXED_GRADIENT_TOLERANCE)


def captioner_gradients(captioner: type, cases: Cases) -> Iterator[Row]:
    """All gradients of a tiny model, for each element."""
    check = cases["captioner_check"]
    N, D, W, H, V, T1 = captioner_sizes(check["sizes"])
    for cell in _cells_of(captioner):
        np.random.seed(cases["seed"])
        captions = np.random.randint(V, size=(N, T1))
        features = np.random.randn(N, D)
        model = captioner(check["word_to_idx"], D, W, H, cell, np.float64)
        loss = _loss_of(model, features, captions)
        _, grads = model.loss(features, captions)
        for name, x in model.params.items():
            numeric = eval_numerical_gradient(loss, x, verbose=False, h=check["step"])
            label = f"captioner {cell} d{name}"
            if cell == "rnn":  # the course's own check
                yield make_row(label, rel_error(grads[name], numeric), check["accept"])
            else:
                # Many slopes of this LSTM are near 1e-10, where differences are only rounding
                error = mixed_error(grads[name], numeric)
                yield make_row(f"{label} (mixed)", error, check["accept_mixed"])


def captioner_directions(captioner: type, cases: Cases) -> Iterator[Row]:
    """Slopes of larger models along random directions; with dropout for xpcap's class."""
    check = cases["captioner_directions"]
    ours = issubclass(captioner, CaptioningRNN)
    N, D, W, H, V, T1 = captioner_sizes(check["sizes"])
    words = {"<NULL>": 0, "<START>": 1, "<END>": 2, **{f"word{i}": i for i in range(3, V)}}
    options = {"step": 0} if ours else {}  # the same dropout masks each time
    for variant, cell, inject in variants(captioner):
        rng = np.random.default_rng(cases["seed"])
        size = (check["sizes"]["P"], D) if has_attention(inject) else (D,)
        features = rng.standard_normal((N, *size))
        captions = rng.integers(0, V, (N, T1))
        settings = {"dropout": check["dropout"], "seed": cases["seed"], "inject": inject}
        input_dim = size if len(size) > 1 else D
        model = captioner(words, input_dim, W, H, cell, np.float64, **settings if ours else {})
        for x in model.params.values():
            if x.ndim == 1:  # vectors begin at zero, where a cell's products with them vanish
                x += asarray(np.random.default_rng(len(x)).standard_normal(x.shape) / 2, like=x)
        _, grads = model.loss(features, captions, **options)
        loss = _loss_of(model, features, captions, **options)
        errors = directional_errors(loss, model.params, grads, rng, h=check["step"])
        label = f"captioner {variant} along {len(errors)} directions"
        yield make_row(label, max(errors), check["accept"])


def variants(captioner: type) -> Iterator[tuple[str, str, str]]:
    """The models to check as label, cell and `inject`; xpcap's class also with attention."""
    for cell in _cells_of(captioner):
        yield cell, cell, "init"
        if issubclass(captioner, CaptioningRNN):
            yield f"{cell} that attends", cell, "attention+every-step"


def _cells_of(captioner: type) -> Iterable[str]:
    """All cells of xpcap's captioner; for other captioners the cells of the course."""
    return CELLS if issubclass(captioner, CaptioningRNN) else table.CELLS


def _loss_of(model: Any, features: Array, captions: Array, **options: Any) -> Callable[..., Any]:
    """A function that returns the model's loss at its current parameters, ignoring its arguments."""
    return lambda *_: model.loss(features, captions, **options)[0]
