"""Lock-step: two trainings on the same batches, compared after each step.

Two backends that do the same operations in the same order differ by rounding, which grows during
training. A comparison after each step finds a mistake where it begins.
"""

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import Array, get_backend, to_numpy, use_backend
from xpcap.backend.memory import Workspace
from xpcap.backend.plain_code import is_plain
from xpcap.backend.replay import Replay
from xpcap.backend.selfcheck import TOLERANCE, relative_max_error
from xpcap.cs231n.verify.published import Row, make_row, variants
from xpcap.data.dataset import CaptionData
from xpcap.data.synthetic import Lengths, draw_data
from xpcap.layers.cells import CELLS
from xpcap.models import Batch, CaptioningRNN, ModelConfig
from xpcap.models.config import has_attention
from xpcap.models.device_batch import DeviceWorkspace
from xpcap.models.parameters import Parameters
from xpcap.ops import get_ops, has_kernels
from xpcap.training.solver import CaptioningSolver

LENGTHS = Lengths(6, 3, 1, 10)
# A backend, entered to create a run and for each of its steps
Scope = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Setup:
    """Settings of both runs: Adam with clipping and dropout, in two batches of N and a smaller one.

    Captions are of many lengths, some with a NULL inside.
    """

    cell: str
    dtype: str
    N: int = 20
    D: int = 40
    W: int = 24
    H: int = 48
    V: int = 300  # more than a block of threads, and not a multiple of it
    steps: int = 6  # twice through the batches
    dropout: float = 0.3
    clip: float = 2.0  # an LSTM's steps have norms on both sides of it
    learning_rate: float = 2e-3
    epsilon: float = 1e-3  # Adam's
    seed: int = 0
    inject: str = "init"
    P: int = 12  # regions of a picture, for attention

    @property
    def features(self) -> int | tuple[int, int]:
        """Size of a feature, or of a grid."""
        return (self.P, self.D) if has_attention(self.inject) else self.D


class Outcome(NamedTuple):
    """The first step, from 1, and tensor at which runs diverge, or those of the largest error."""

    step: int
    tensor: str
    error: float
    diverged: bool
    repeated: int = 0  # steps of the left run that repeated a record


def on(backend: str) -> Scope:
    """The scope of a backend."""
    return functools.partial(use_backend, backend)


def rows() -> Iterator[Row]:
    """Rows of `verify` that compare training on the current backend with NumPy's, and with itself.

    With plain code, repetitions may differ by rounding: CuPy adds up rows of a word in any order.
    """
    for dtype, tolerance in TOLERANCE.items():
        title, bound = ("twice", tolerance) if is_plain() else ("same bits twice", 0.0)
        for label, cell, inject in variants(CaptioningRNN):
            setup = Setup(cell, dtype, inject=inject)
            yield _compare(f"lock-step {label} with numpy", setup, on("numpy"), tolerance)
            yield _compare(f"{title} {label}", setup, on(get_backend()), bound)


def _compare(label: str, setup: Setup, other: Scope, tolerance: float) -> Row:
    """A row that compares a training on the current backend, with recorded steps, with another."""
    outcome = lock_step(setup, on(get_backend()), other, tolerance)
    error = outcome.error
    if outcome.diverged:
        label += f": {outcome.tensor} diverges at step {outcome.step}"
    elif is_plain() or not has_kernels(CELLS[setup.cell]):
        label += f", {setup.steps} steps"
    elif not outcome.repeated:
        label = f"{label}: no recorded step was repeated"
        error = math.inf
    else:
        label += f", {setup.steps} steps, {outcome.repeated} of them repeated"
    return make_row(label, error, tolerance, setup.dtype)


def lock_step(setup: Setup, left: Scope, right: Scope, tolerance: float | None = None) -> Outcome:
    """Train two captioners in the same way, and compare after each step.

    left, right : make a context to enter while a training is created and for each of its steps, such
        as `on(backend)`
    tolerance : maximum error of each tensor, max |x - y| over the largest element of either; None:
        TOLERANCE of the dtype; 0: equal bits

    Tensors are compared in the order in which a step computes them: loss, gradients from the last
    layer to the first, norm, moments, parameters. So the first to diverge is the nearest to the
    mistake.

    The tolerances require Adam's epsilon to be large. With the usual 1e-8, an element whose gradient
    is only rounding moves by the sign of that rounding; the parameters of a correct float32 training
    then differed by 9e-3 from those in float64.

    Examples
    --------
    >>> lock_step(Setup("lstm", "float64", steps=2), on("numpy"), on("numpy")).diverged
    False
    """
    if tolerance is None:
        tolerance = TOLERANCE[setup.dtype]
    data = _draw(setup)
    runs = [_Run(setup, data, left), _Run(setup, data, right)]
    worst = Outcome(1, "loss", 0.0, False)
    for step, batch in enumerate(_batches(setup, data), start=1):
        tensors, expected = (run.step(*batch) for run in runs)
        for name, x in tensors.items():
            error = relative_max_error(x, expected[name])
            if not error <= tolerance:  # NaN diverges too
                return Outcome(step, name, error, True)
            if error > worst.error:
                worst = Outcome(step, name, error, False)
    replay = runs[0].replay
    return worst._replace(repeated=0 if replay is None else replay.repeats)


def _draw(setup: Setup) -> CaptionData:
    """Captions for two and a half batches; every third has a NULL in place of a word."""
    data = draw_data(2 * setup.N + setup.N // 2, setup.features, setup.V, setup.seed, LENGTHS)
    captions = data.split("train").captions
    null = data.vocabulary.null
    captions[::3, 2] = np.where(captions[::3, 3] == null, captions[::3, 2], null)
    return data


def backward_order(config: ModelConfig) -> list[str]:
    """Names of parameters in the order in which a step computes their gradients."""
    weight, bias = config.recurrent.inputs
    recurrent = [name for name in config.cell_shapes() if name not in (weight, bias)]
    first = ["W_vocab", "b_vocab", *recurrent, bias]
    return [*first, "W_image", "Wattn", "W_proj", "b_proj", weight, "W_embed"]


def _batches(setup: Setup, data: CaptionData) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """A batch for each step, on the host."""
    starts = range(0, len(data.split("train").captions), setup.N)
    for step in range(setup.steps):
        start = starts[step % len(starts)]
        yield data.minibatch("train", np.arange(start, min(start + setup.N, starts.stop)))


class _GradientRecorder(CaptioningRNN):
    """A captioner that stores its latest gradients before they are clipped."""

    grads: Parameters

    def loss(
        self, features: Array, captions: Array, workspace: Workspace | None = None, **counts: Any
    ) -> tuple[Array, Parameters]:
        loss, grads = super().loss(features, captions, workspace=workspace, **counts)
        self.grads = grads.copy()
        return loss, grads


class _Run:
    def __init__(self, setup: Setup, data: CaptionData, scope: Scope) -> None:
        words = data.vocabulary.word_to_idx
        sizes = (setup.features, setup.W, setup.H)
        self._scope = scope
        with scope():
            self._model = _GradientRecorder(
                words,
                *sizes,
                setup.cell,
                setup.dtype,
                dropout=setup.dropout,
                inject=setup.inject,
                seed=setup.seed,
            )
            self._solver = CaptioningSolver(
                self._model,
                data,
                update_rule="adam",
                optim_config={"learning_rate": setup.learning_rate, "epsilon": setup.epsilon},
                batch_size=setup.N,
                clip_norm=setup.clip,
                seed=setup.seed,
            )

    @property
    def replay(self) -> Replay[Any] | None:
        """Its recorded step; None on the host."""
        workspace = self._solver._workspace
        return workspace.replay if isinstance(workspace, DeviceWorkspace) else None

    def step(self, features: np.ndarray, captions: np.ndarray) -> dict[str, np.ndarray]:
        """Take a step, and copy its tensors to the host, in the order in which it computes them."""
        with self._scope():
            # Unlike `step`, `_step` does not stop if a number is not finite
            loss, _ = self._solver._step(Batch(features, captions))
            tensors = {"loss": loss.copy()}
            grads = self._model.grads
            order = backward_order(self._model.config)
            tensors |= {f"d{name}": grads[name] for name in order if name in grads}
            tensors["norm"] = get_ops(grads.flat).global_norm(grads.flat)
            states = self._solver.optim_configs
            for moment in ("m", "v"):
                tensors |= {f"{moment} of {name}": states[name][moment] for name in states}
            tensors |= self._model.params
            return {name: to_numpy(x) for name, x in tensors.items()}
