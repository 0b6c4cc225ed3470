"""Captioners: the published losses and gradients, and gradients against finite differences."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from xpcap.backend import Array, to_numpy
from xpcap.gradcheck import directional_errors, eval_numerical_gradient, rel_error
from xpcap.models import CaptioningRNN
from xpcap.verify.rows import Row, make_row, mixed_error, read_array

FIXED_LOSS_TOLERANCE = 1e-10  # absolute, on the two published losses
FIXED_GRADIENT_TOLERANCE = 1e-11  # on the mixed error: sums over up to 6,400 elements
MODEL_TOLERANCE = 1e-8  # on the mixed error of numeric gradients with step 1e-6
DIRECTION_TOLERANCE = 1e-6  # of a whole model's slope along a random direction, step 1e-5


def values(captioner: Any, cases: Mapping[str, Any]) -> Iterator[Row]:
    """Loss and gradients at the published weights."""
    for case in cases["captioners"]:
        N, D, W, H, V, T1 = (case["sizes"][key] for key in ("N", "D", "W", "H", "V", "T_plus_1"))
        model = captioner(case["word_to_idx"], D, W, H, case["cell"], np.float64)
        for name, value in model.params.items():
            model.params[name] = read_array({**case["params"], "shape": value.shape}, "float64")
        loss, grads = model.loss(read_array(case["features"], "float64"), (np.arange(N * T1) % V).reshape(N, T1))
        label = f"captioner fixed {case['cell']}"
        yield make_row(f"{label} loss (absolute)", "float64", abs(float(loss) - case["published_loss"]), FIXED_LOSS_TOLERANCE)
        for name, expected in case["grads"].items():
            flat = to_numpy(grads[name]).ravel()
            got = {"sum": flat.sum(), "abs_sum": np.abs(flat).sum(), "first": flat[0], "last": flat[-1]}
            error = max(mixed_error(got[key], expected[key]) for key in got)
            yield make_row(f"{label} d{name} (mixed)", "float64", error, FIXED_GRADIENT_TOLERANCE)


def gradients(captioner: Any, cases: Mapping[str, Any]) -> Iterator[Row]:
    """Every gradient of a tiny model, element by element."""
    check = cases["gradient_checks"]["captioner"]
    for cell in ("rnn", "lstm"):
        np.random.seed(cases["seed"])
        captions, features = np.random.randint(3, size=(2, 3)), np.random.randn(2, 4)
        model = captioner({"<NULL>": 0, "cat": 2, "dog": 3}, 4, 5, 6, cell, np.float64)
        loss = _loss_of(model, features, captions)
        _, grads = model.loss(features, captions)
        for name, x in model.params.items():
            numeric = eval_numerical_gradient(loss, x, verbose=False, h=check["step"])
            if cell == "rnn":  # the course's own check
                yield make_row(f"captioner rnn d{name}", "float64", rel_error(grads[name], numeric), check["accept"])
            else:  # many of an LSTM's slopes here are near 1e-10, where differences are all rounding
                yield make_row(f"captioner lstm d{name} (mixed)", "float64", mixed_error(grads[name], numeric), MODEL_TOLERANCE)


def directions(captioner: Any, cases: Mapping[str, Any]) -> Iterator[Row]:
    """Slopes of a larger model along random directions, all parameters at once; with dropout in our own class, the only one that has it."""
    ours = issubclass(captioner, CaptioningRNN)
    for cell in ("rnn", "lstm"):
        rng = np.random.default_rng(cases["seed"])
        words = {"<NULL>": 0, "<START>": 1, "<END>": 2, **{f"word{i}": i for i in range(3, 40)}}
        model = captioner(words, 32, 16, 24, cell, np.float64, **({"dropout": 0.3, "seed": cases["seed"]} if ours else {}))
        features, captions = rng.standard_normal((12, 32)), rng.integers(0, 40, (12, 9))
        options = {"step": 0} if ours else {}  # the same dropout masks each time
        _, grads = model.loss(features, captions, **options)
        errors = directional_errors(_loss_of(model, features, captions, **options), model.params, grads, rng)
        yield make_row(f"captioner {cell} along {len(errors)} directions", "float64", max(errors), DIRECTION_TOLERANCE)
        if ours:
            attentive = captioner(words, (9, 8), 16, 24, cell, np.float64, dropout=0.3, inject="attention+every-step", seed=cases["seed"])
            features = rng.standard_normal((12, 9, 8))
            _, grads = attentive.loss(features, captions, **options)
            errors = directional_errors(_loss_of(attentive, features, captions, **options), attentive.params, grads, rng)
            yield make_row(f"captioner {cell} that attends along {len(errors)} directions", "float64", max(errors), DIRECTION_TOLERANCE)


def _loss_of(model: Any, features: Array, captions: Array, **options: Any) -> Callable[..., Any]:
    """The model's loss at its present parameters, whatever it is called with."""
    return lambda *_: model.loss(features, captions, **options)[0]
