"""The course's files in plain NumPy equal the library; test_handout.py has the published numbers.

frozen.json has float64 results of `rnn_layers` as it was when the layers were last rewritten: neither
text can drift along with the other.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpcap
from xpcap import layers, optim
from xpcap.cs231n.reference import captioning_solver, coco_utils, rnn, rnn_layers
from xpcap.cs231n.reference import optim as reference_optim
from xpcap.data import to_coco

N, T, D, H, V = 3, 5, 4, 6, 7
DTYPES = pytest.mark.parametrize("dtype", ["float64", "float32"])
TOLERANCE = {"float64": 1e-13, "float32": 1e-5}


def assert_equal(got: Any, expected: Any, dtype: str) -> None:
    """Same dtype and shape, and values equal to rounding."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.dtype == expected.dtype == dtype
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def shapes_of(layer: str) -> list[tuple[int, ...]]:
    return {
        "lstm_step": [(N, D), (N, H), (N, H), (D, 4 * H), (H, 4 * H), (4 * H,)],
        "lstm": [(N, T, D), (N, H), (D, 4 * H), (H, 4 * H), (4 * H,)],
        "rnn_step": [(N, D), (N, H), (D, H), (H, H), (H,)],
        "rnn": [(N, T, D), (N, H), (D, H), (H, H), (H,)],
        "word_embedding": [(V, D)],
        "affine": [(N, 2, D), (2 * D, H), (H,)],
        "temporal_affine": [(N, T, D), (D, H), (H,)],
    }[layer]


LAYERS = ["lstm_step", "lstm", "rnn_step", "rnn", "word_embedding", "affine", "temporal_affine"]
FROZEN = json.loads(Path(__file__).with_name("frozen.json").read_text())


def wave(*shape: int, number: int) -> np.ndarray:
    """Numbers in -1..1 that no generator draws, others for each `number`."""
    return np.sin((number + 1.3) * np.arange(1.0, np.prod(shape) + 1)).reshape(shape)


@pytest.mark.parametrize("functions", [rnn_layers, layers], ids=["reference", "library"])
@pytest.mark.parametrize("layer", LAYERS)
@DTYPES
def test_a_layer_gives_its_frozen_values(layer: str, functions: Any, dtype: str) -> None:
    """Outputs, then gradients of them for upstream gradients that are waves too."""
    inputs = [wave(*shape, number=k).astype(dtype) for k, shape in enumerate(shapes_of(layer))]
    if layer == "word_embedding":
        inputs = [np.arange(N * T).reshape(N, T) % V, *inputs]
    *outputs, cache = getattr(functions, f"{layer}_forward")(*inputs)
    upstream = [wave(*out.shape, number=7 + k).astype(dtype) for k, out in enumerate(outputs)]
    grads = getattr(functions, f"{layer}_backward")(*upstream, cache)
    results = (*outputs, *(grads if isinstance(grads, tuple) else (grads,)))
    assert len(results) == len(FROZEN[layer])
    for got, values in zip(results, FROZEN[layer], strict=True):
        expected = np.reshape(values, got.shape)
        assert got.dtype == dtype
        np.testing.assert_allclose(got, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] / 10)


@DTYPES
def test_sigmoid_and_loss_equal_the_librarys(dtype: str, rng: np.random.Generator) -> None:
    x = (40 * rng.standard_normal((N, T, V))).astype(dtype)
    assert_equal(rnn_layers.sigmoid(x), layers.sigmoid(x), dtype)
    y, mask = rng.integers(0, V, (N, T)), rng.random((N, T)) < 0.6
    (loss, dx), (our_loss, our_dx) = (
        functions.temporal_softmax_loss(x, y, mask) for functions in (rnn_layers, layers)
    )
    np.testing.assert_allclose(loss, our_loss, rtol=TOLERANCE[dtype])
    assert_equal(dx, our_dx, dtype)


def two_captioners(word_to_idx: dict[str, int], cell: str, dtype: str) -> tuple[Any, Any]:
    """A reference captioner and the library's, drawn from one seed of NumPy's global stream."""
    both = []
    for captioner in (rnn.CaptioningRNN, xpcap.CaptioningRNN):
        np.random.seed(231)
        both.append(captioner(word_to_idx, D, 5, H, cell, np.dtype(dtype).type))
    return both[0], both[1]


@DTYPES
@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_the_captioner_equals_the_librarys(
    cell: str, dtype: str, word_to_idx: dict[str, int], rng: np.random.Generator
) -> None:
    """Parameters, loss, gradients and captions."""
    reference, ours = two_captioners(word_to_idx, cell, dtype)
    features = rng.standard_normal((N, D)).astype(dtype)
    captions = rng.integers(0, len(word_to_idx), (N, T + 1))
    loss, grads = reference.loss(features, captions)
    our_loss, our_grads = ours.loss(features, captions)
    np.testing.assert_allclose(loss, our_loss, rtol=TOLERANCE[dtype])
    assert grads.keys() == reference.params.keys() == ours.params.keys()
    for name, value in ours.params.items():
        assert_equal(reference.params[name], value, dtype)
        assert_equal(grads[name], our_grads[name], dtype)
    for name, value in reference.params.items():  # large, so that captions differ
        if name != "b_vocab":
            drawn = 2 * rng.standard_normal(value.shape).astype(dtype)
            reference.params[name] = ours.params[name] = drawn
    features = rng.standard_normal((20, D)).astype(dtype)
    captions = reference.sample(features, max_length=9)
    assert len(np.unique(captions, axis=0)) > 4
    ends = np.cumsum(captions == reference._end, axis=1) - (captions == reference._end) > 0
    captions[ends] = reference._null  # after END the library's are empty
    np.testing.assert_array_equal(captions, ours.sample(features, max_length=9))


@pytest.mark.parametrize("rule", ["sgd", "sgd_momentum", "rmsprop", "adam"])
def test_three_steps_of_an_update_rule_equal_the_librarys(
    rule: str, rng: np.random.Generator
) -> None:
    """With Adam's epsilon as good as zero: it is added to the root of v-hat here, of v there."""

    def after(rules: Any) -> np.ndarray:
        w, config = start, {"epsilon": 1e-300} if rule == "adam" else None
        for dw in gradients:
            w, config = getattr(rules, rule)(w, dw, config)
        return w

    start, *gradients = rng.standard_normal((4, N, D))
    assert_equal(after(reference_optim), after(optim), "float64")


def test_the_solvers_losses_are_those_of_a_loop_with_the_library() -> None:
    """The same batches, since both draw captions with replacement from NumPy's global stream."""
    data = to_coco(xpcap.generate(seed=0, train=12, val=4))
    size, words = data["train_features"].shape[1], data["word_to_idx"]

    def losses(captioner: type, train: Callable[[Any], list[float]]) -> list[float]:
        np.random.seed(231)
        return train(captioner(words, size, 8, 10, "lstm", np.float32))

    def reference(model: Any) -> list[float]:
        solver = captioning_solver.CaptioningSolver(
            model, data, "adam", {"learning_rate": 2e-2}, 0.5, 20, num_epochs=2, verbose=False
        )
        solver.train()
        return solver.loss_history

    def ours(model: Any) -> list[float]:
        history, configs = [], {name: {"learning_rate": 2e-2} for name in model.params}
        for step in range(6):
            captions, features, _ = xpcap.sample_coco_minibatch(data, batch_size=20)
            loss, grads = model.loss(features, captions)
            history.append(float(loss))
            for name, config in configs.items():
                config["learning_rate"] = 2e-2 if step < 3 else 1e-2
                model.params[name], configs[name] = optim.adam(
                    model.params[name].copy(), grads[name], config
                )
        return history

    expected = losses(xpcap.CaptioningRNN, ours)
    assert expected[-1] < expected[0] - 0.5
    np.testing.assert_allclose(losses(rnn.CaptioningRNN, reference), expected, rtol=1e-5)


def test_minibatches_and_texts_are_the_librarys() -> None:
    data = to_coco(xpcap.generate(seed=0, train=12, val=4))
    both = []
    for room in (coco_utils, xpcap):
        np.random.seed(231)
        captions, features, urls = room.sample_coco_minibatch(data, batch_size=6, split="val")
        texts = [room.decode_captions(ids, data["idx_to_word"]) for ids in (captions, captions[0])]
        both.append((captions, features, urls, *texts))
    for got, expected in zip(*both, strict=True):
        np.testing.assert_array_equal(got, expected)
