"""The course's published numbers and random gradient checks, run on the backend in force: one row for each thing that must agree."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from xpcap import layers, optim
from xpcap.backend import Array, asarray, get_backend, to_numpy
from xpcap.gradcheck import directional_errors, eval_numerical_gradient, eval_numerical_gradient_array, rel_error
from xpcap.models import CaptioningRNN
from xpcap.verify.lockstep import TOLERANCE, Place, Setup, lock_step, on

FLOAT32_TOLERANCE = 2e-6  # some 16 roundings of float32, on the mixed error
FIXED_LOSS_TOLERANCE = 1e-10  # absolute, on the two published losses
FIXED_GRADIENT_TOLERANCE = 1e-11  # on the mixed error: sums over up to 6,400 elements
MODEL_TOLERANCE = 1e-8  # on the mixed error of numeric gradients with step 1e-6
DIRECTION_TOLERANCE = 1e-6  # of a whole model's slope along a random direction, step 1e-5


class Row(NamedTuple):
    """One comparison. `error` is the course's relative error in float64, the mixed error |x - y| / (1 + |y|) where the case says so."""

    case: str
    backend: str
    dtype: str
    error: float
    tolerance: float
    passed: bool


def read_cases() -> dict[str, Any]:
    """The numbers, with their source, from conformance.json."""
    return json.loads(resources.files("xpcap.verify").joinpath("conformance.json").read_text(encoding="utf-8"))


def verify() -> Iterator[Row]:
    """Every comparison on the backend in force, in turn.

    Draws on NumPy's legacy global stream, as the course's checks do, and leaves that stream as it was.
    """
    cases = read_cases()
    state = np.random.get_state()
    try:
        for dtype in ("float64", "float32"):
            yield from _layers(cases["layers"], dtype)
        for case in cases["captioners"]:
            yield from _captioner(case)
        for case in cases["rules"]:
            yield from _rule(case)
        yield from _sanity_losses(cases)
        yield from _gradients(cases)
        yield from _directions(cases["seed"])
        if get_backend() != "numpy":
            yield from _lock_step()
    finally:
        np.random.set_state(state)


def _row(case: str, dtype: str, error: float, tolerance: float) -> Row:
    return Row(case, get_backend(), dtype, error, tolerance, bool(error <= tolerance))  # NaN does not pass


def mixed_error(x: Any, y: Any) -> float:
    """max(|x - y| / (1 + |y|)): absolute for small values, relative for large ones."""
    a, b = to_numpy(x).astype(np.float64), to_numpy(y)
    return float(np.max(np.abs(a - b) / (1 + np.abs(b))))


def _array(spec: Any, dtype: str | None) -> Array:
    """A case's array: a linspace over a shape, or what is listed."""
    if isinstance(spec, Mapping):
        spec = np.linspace(spec["linspace"][0], spec["linspace"][1], int(np.prod(spec["shape"]))).reshape(spec["shape"])
    host = np.asarray(spec)
    return asarray(host.astype(dtype) if host.dtype.kind == "f" and dtype else host)


def _layers(cases: Sequence[Mapping[str, Any]], dtype: str) -> Iterator[Row]:
    for case in cases:
        inputs = [_array(spec, dtype) for spec in case["inputs"].values()]
        outputs = getattr(layers, case["name"])(*inputs)
        for (name, expected), got in zip(case["expected"].items(), outputs, strict=False):
            single = dtype == "float32"
            error = mixed_error(got, expected) if single else rel_error(got, np.asarray(expected))
            yield _row(f"{case['name']} {name}", dtype, error, FLOAT32_TOLERANCE if single else case["rtol"])


def _captioner(case: Mapping[str, Any]) -> Iterator[Row]:
    N, D, W, H, V, T1 = (case["sizes"][key] for key in ("N", "D", "W", "H", "V", "T_plus_1"))
    model = CaptioningRNN(case["word_to_idx"], D, W, H, case["cell"], np.float64)
    for name, value in model.params.items():
        model.params[name] = _array({**case["params"], "shape": value.shape}, "float64")
    loss, grads = model.loss(_array(case["features"], "float64"), (np.arange(N * T1) % V).reshape(N, T1))
    label = f"captioner fixed {case['cell']}"
    yield _row(f"{label} loss (absolute)", "float64", abs(float(loss) - case["published_loss"]), FIXED_LOSS_TOLERANCE)
    for name, expected in case["grads"].items():
        flat = to_numpy(grads[name]).ravel()
        got = {"sum": flat.sum(), "abs_sum": np.abs(flat).sum(), "first": flat[0], "last": flat[-1]}
        error = max(mixed_error(got[key], expected[key]) for key in got)
        yield _row(f"{label} d{name} (mixed)", "float64", error, FIXED_GRADIENT_TOLERANCE)


def _rule(case: Mapping[str, Any]) -> Iterator[Row]:
    config = {key: _array(value, "float64") if isinstance(value, Mapping) else value for key, value in case["config"].items()}
    next_w, config = getattr(optim, case["name"])(_array(case["w"], "float64"), _array(case["dw"], "float64"), config)
    for name, expected in case["expected"].items():
        got = next_w if name == "next_w" else config[name]
        yield _row(f"{case['name']} {name}", "float64", rel_error(got, np.asarray(expected)), case["rtol"])


def _sanity_losses(cases: Mapping[str, Any]) -> Iterator[Row]:
    """Losses of near-zero scores, log(V) a step; then, on the same stream, the gradient check that follows them in the notebook."""
    np.random.seed(cases["seed"])
    for case in cases["sanity_losses"]:
        N, T, V, p = (case[key] for key in ("N", "T", "V", "p"))
        x, y, mask = 0.001 * np.random.randn(N, T, V), np.random.randint(V, size=(N, T)), np.random.rand(N, T) <= p
        loss = float(layers.temporal_softmax_loss(asarray(x), asarray(y), asarray(mask))[0])
        low, high = case["about"]
        yield _row(f"softmax loss N{N} T{T} p{p} off its middle", "float64", abs(loss - (low + high) / 2), (high - low) / 2)
    x, y, mask = np.random.randn(7, 8, 9), np.random.randint(9, size=(7, 8)), np.random.rand(7, 8) > 0.5
    x, y, mask = asarray(x), asarray(y), asarray(mask)
    check = cases["gradient_checks"]["temporal_softmax_loss"]
    numeric = eval_numerical_gradient(lambda x: layers.temporal_softmax_loss(x, y, mask)[0], x, verbose=False, h=check["step"])
    yield _row("temporal_softmax_loss dx", "float64", rel_error(layers.temporal_softmax_loss(x, y, mask)[1], numeric), check["accept"])


def _randn(*shapes: tuple[int, ...]) -> list[Array]:
    return [asarray(np.random.randn(*shape)) for shape in shapes]


def _gradients(cases: Mapping[str, Any]) -> Iterator[Row]:
    checks: Mapping[str, Mapping[str, float]] = cases["gradient_checks"]

    def compare(
        name: str, forward: Callable[..., Any], inputs: Mapping[str, Array], shapes: Sequence[tuple[int, ...]], fixed: tuple[Array, ...] = ()
    ) -> Iterator[Row]:
        """Draw upstream gradients of these shapes and check `name` against differences of `forward`, input by input."""
        check, upstream = checks[name], _randn(*shapes)

        def output(k: int) -> Callable[[Array], Array]:
            """The k-th output as a function of whichever input is being moved."""
            return lambda _: forward(*fixed, *inputs.values())[k]

        grads = getattr(layers, name)(*upstream, forward(*fixed, *inputs.values())[-1])
        grads = grads if isinstance(grads, tuple) else (grads,)
        for (key, x), grad in zip(inputs.items(), grads, strict=True):
            numeric = sum(eval_numerical_gradient_array(output(k), x, df, check["step"]) for k, df in enumerate(upstream))
            yield _row(f"{name} d{key}", "float64", rel_error(grad, numeric), check.get(f"accept_d{key}", check["accept"]))

    def inputs(names: str, *shapes: tuple[int, ...]) -> dict[str, Array]:
        np.random.seed(cases["seed"])
        return dict(zip(names.split(), _randn(*shapes), strict=True))

    x = inputs("x prev_h Wx Wh b", (4, 5), (4, 6), (5, 6), (6, 6), (6,))
    yield from compare("rnn_step_backward", layers.rnn_step_forward, x, [(4, 6)])
    x = inputs("x h0 Wx Wh b", (2, 10, 3), (2, 5), (3, 5), (5, 5), (5,))
    yield from compare("rnn_backward", layers.rnn_forward, x, [(2, 10, 5)])
    np.random.seed(cases["seed"])
    words = asarray(np.random.randint(5, size=(50, 3)))
    (W,) = _randn((5, 6))
    yield from compare("word_embedding_backward", layers.word_embedding_forward, {"W": W}, [(50, 3, 6)], fixed=(words,))
    x = inputs("x w b", (2, 3, 4), (4, 5), (5,))
    yield from compare("temporal_affine_backward", layers.temporal_affine_forward, x, [(2, 3, 5)])
    x = inputs("x prev_h prev_c Wx Wh b", (4, 5), (4, 6), (4, 6), (5, 24), (6, 24), (24,))
    yield from compare("lstm_step_backward", layers.lstm_step_forward, x, [(4, 6), (4, 6)])
    x = inputs("x h0 Wx Wh b", (2, 10, 3), (2, 6), (3, 24), (6, 24), (24,))
    yield from compare("lstm_backward", layers.lstm_forward, x, [(2, 10, 6)])
    yield from _model_gradients(cases["seed"], checks["captioner"])


def _model_gradients(seed: int, check: Mapping[str, float]) -> Iterator[Row]:
    for cell in ("rnn", "lstm"):
        np.random.seed(seed)
        captions, features = np.random.randint(3, size=(2, 3)), np.random.randn(2, 4)
        model = CaptioningRNN({"<NULL>": 0, "cat": 2, "dog": 3}, 4, 5, 6, cell, np.float64)
        loss = _loss_of(model, features, captions)
        _, grads = model.loss(features, captions)
        for name, x in model.params.items():
            numeric = eval_numerical_gradient(loss, x, verbose=False, h=check["step"])
            if cell == "rnn":  # the course's own check
                yield _row(f"captioner rnn d{name}", "float64", rel_error(grads[name], numeric), check["accept"])
            else:  # many of an LSTM's slopes here are near 1e-10, where differences are all rounding
                yield _row(f"captioner lstm d{name} (mixed)", "float64", mixed_error(grads[name], numeric), MODEL_TOLERANCE)


def _directions(seed: int) -> Iterator[Row]:
    """A model of some size, dropout on, all parameters at once."""
    for cell in ("rnn", "lstm"):
        rng = np.random.default_rng(seed)
        words = {"<NULL>": 0, "<START>": 1, "<END>": 2, **{f"word{i}": i for i in range(3, 40)}}
        model = CaptioningRNN(words, 32, 16, 24, cell, np.float64, dropout=0.3, seed=seed)
        features, captions = rng.standard_normal((12, 32)), rng.integers(0, 40, (12, 9))
        state = model.rng.bit_generator.state
        _, grads = model.loss(features, captions)
        errors = directional_errors(_loss_of(model, features, captions, state), model.params, grads, rng)
        yield _row(f"captioner {cell} along {len(errors)} directions", "float64", max(errors), DIRECTION_TOLERANCE)


def _lock_step() -> Iterator[Row]:
    """Training on a device beside NumPy's, and beside itself: see xpcap.verify.lockstep."""
    for dtype, tolerance in TOLERANCE.items():
        for cell in ("rnn", "lstm"):
            yield _together(f"lock-step {cell} with numpy", Setup(cell, dtype), on("numpy"), tolerance)
            yield _together(f"same bits twice {cell}", Setup(cell, dtype), on(get_backend()), 0.0)


def _together(label: str, setup: Setup, other: Place, tolerance: float) -> Row:
    outcome = lock_step(setup, on(get_backend()), other, tolerance)
    where = f": {outcome.tensor} parts at step {outcome.step}" if outcome.parted else f", {setup.steps} steps"
    return _row(label + where, setup.dtype, outcome.error, tolerance)


def _loss_of(model: CaptioningRNN, features: Array, captions: Array, rng_state: Any = None) -> Callable[..., Any]:
    """The model's loss at its present parameters, whatever it is called with; with `rng_state` the dropout mask is always the same."""

    def loss(*_: Any) -> Any:
        if rng_state is not None:
            model.rng.bit_generator.state = rng_state
        return model.loss(features, captions)[0]

    return loss
