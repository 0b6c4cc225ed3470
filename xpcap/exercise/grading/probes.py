"""Uses of a student's functions and classes that take several calls, on the student's side.

They run in the process of the submission, on its modules, and in the grader's own on those of
reference/, to compare. Only NumPy is imported here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

CAPTIONS, BATCH = 12, 4  # of the solver's data, and of its minibatches


def twice(modules: Any, module: str, function: str, first: Any, second: Any) -> Any:
    """Results of two calls on `first`, cache left out, with one on `second` between them."""
    call = getattr(getattr(modules, module), function)
    before = call(*_copied(first))
    call(*_copied(second))
    after = call(*_copied(first))
    return _without_cache(before), _without_cache(after)


def first_cache(modules: Any, layer: str, first: Any, second: Any, upstream: Any) -> Any:
    """Gradients of a backward pass on the cache of `first`, which is older than that of `second`."""
    forward = getattr(modules.rnn_layers, f"{layer}_forward")
    backward = getattr(modules.rnn_layers, f"{layer}_backward")
    cache = forward(*_copied(first))[-1]
    forward(*_copied(second))
    return backward(*_copied(upstream), cache)


def _copied(arrays: Sequence[Any]) -> list[Any]:
    return [np.array(array) if isinstance(array, np.ndarray) else array for array in arrays]


def _without_cache(results: Any) -> Any:
    return results[:-1] if isinstance(results, tuple) else results


def captioner(modules: Any, settings: Mapping[str, Any]) -> Any:
    """A CaptioningRNN in float64 with given parameters."""
    model = modules.rnn.CaptioningRNN(
        settings["word_to_idx"],
        input_dim=settings["input_dim"],
        wordvec_dim=settings["wordvec_dim"],
        hidden_dim=settings["hidden_dim"],
        cell_type=settings["cell_type"],
        dtype=np.float64,
    )
    for name, value in settings["params"].items():
        model.params[name] = np.array(value)
    return model


def captioner_parameters(modules: Any, settings: Mapping[str, Any]) -> Any:
    """Shapes and types of the parameters that a CaptioningRNN begins with."""
    model = captioner(modules, {**settings, "params": {}})
    return {name: [list(value.shape), str(value.dtype)] for name, value in model.params.items()}


def captioner_loss(modules: Any, settings: Mapping[str, Any], features: Any, captions: Any) -> Any:
    """Loss and gradients of a CaptioningRNN."""
    loss, grads = captioner(modules, settings).loss(features, captions)
    return loss, grads


def captioner_sample(modules: Any, settings: Mapping[str, Any], features: Any, length: int) -> Any:
    """Captions that a CaptioningRNN samples."""
    return captioner(modules, settings).sample(features, max_length=length)


def rule(modules: Any, name: str, w: Any, gradients: Sequence[Any], config: Any) -> Any:
    """Weights after each of some steps of an update rule."""
    weights = []
    w, config = np.array(w), dict(config)
    for gradient in gradients:
        w, config = getattr(modules.optim, name)(w, np.array(gradient), config)
        weights.append(np.array(w))
    return weights


class _Bowl:
    """A model for solvers: its loss is half of the sum of squares of its parameters.

    It counts captions that come with the features of another picture.
    """

    def __init__(self) -> None:
        self.params = {"a": np.linspace(1, 2, 6).reshape(2, 3), "b": np.linspace(-1, 1, 4)}
        self.mismatched, self.batches = 0, 0

    def loss(self, features: Any, captions: Any) -> Any:
        self.batches += len(captions) == BATCH == len(features)
        self.mismatched += int((np.asarray(captions)[:, 1] % 5 != np.asarray(features)[:, 0]).sum())
        loss = 0.5 * sum(float((value**2).sum()) for value in self.params.values())
        return loss, {name: np.array(value) for name, value in self.params.items()}


def solver(modules: Any, options: Mapping[str, Any]) -> Any:
    """Losses, parameters and counts after a solver trained `_Bowl`."""
    np.random.seed(0)
    numbers = np.arange(CAPTIONS)
    data = {
        "train_captions": np.stack([np.ones(CAPTIONS, int), numbers + 5, numbers * 0], axis=1),
        "train_image_idxs": numbers % 5,
        "train_features": np.arange(5.0)[:, None] * np.ones((1, 3)),
        "train_urls": np.array([f"picture {k}" for k in range(5)]),
        # of other pictures, to count
        "val_captions": np.stack([np.ones(2, int), numbers[:2] + 5, numbers[:2] * 0], axis=1),
        "val_image_idxs": 1 - numbers[:2],
        "val_features": np.arange(2.0)[:, None] * np.ones((1, 3)),
        "val_urls": np.array(["picture 0", "picture 1"]),
        "idx_to_word": ["<NULL>", "<START>", "<END>"],
        "word_to_idx": {"<NULL>": 0, "<START>": 1, "<END>": 2},
    }
    model = _Bowl()
    trained = modules.captioning_solver.CaptioningSolver(
        model, data, batch_size=BATCH, verbose=False, **options
    )
    trained.train()
    losses = np.array([float(loss) for loss in trained.loss_history])
    return losses, model.params["a"], model.params["b"], model.batches, model.mismatched
