"""The contract of a recurrent cell: what a captioner relies on, a function for each claim.

::

    from xpcap.testing import check_cell
    check_cell("mgu")

checks all claims for a cell in `xpcap.layers.CELLS`.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import DTypeLike

from xpcap.backend import Array, asarray, get_array_module, to_numpy
from xpcap.backend.memory import Workspace
from xpcap.errors import OptionError, one_of
from xpcap.layers.attention import Attention
from xpcap.layers.cell import Cell, Shapes
from xpcap.layers.cells import CELLS
from xpcap.models.captioning_rnn import CaptioningRNN
from xpcap.models.config import INJECT, has_attention
from xpcap.models.network import Network
from xpcap.ops import PackedSequences, State
from xpcap.testing.claims import check, check_close, check_slopes, fail

WORDS = {"<NULL>": 0, "<START>": 1, "<END>": 2, "a": 3, "dog": 4, "runs": 5}
CAPTIONS = np.array(
    [
        [1, 3, 4, 5, 2],
        [1, 4, 0, 5, 2],  # a step without a target
        [1, 3, 2, 0, 0],
        [1, 5, 4, 3, 2],
        [1, 0, 0, 0, 0],  # no words
    ]
)
STEPS = (3, 3, 1, 0)  # of the sequences of a loop
D = 5
P = 2
W = 4
H = 3
DROPOUT = 0.4
STEP = 11  # of training, which decides the dropout masks


# ---- The objects of claims


class Trial(NamedTuple):
    """A cell, and options of a captioner to test it in."""

    cell: str
    inject: str = "init"
    dropout: float = 0.0

    def __str__(self) -> str:
        return f"cell {self.cell!r} with inject {self.inject!r} and dropout {self.dropout}"

    def captioner(self, dtype: Any = np.float64) -> CaptioningRNN:
        """A captioner whose weights are all large enough to affect results."""
        shape = (P, D) if has_attention(self.inject) else D
        model = CaptioningRNN(
            WORDS, shape, W, H, self.cell, dtype, dropout=self.dropout, inject=self.inject, seed=5
        )
        draws = np.random.default_rng(1).standard_normal(model.params.flat.shape) / 2
        model.params.flat[...] = asarray(draws, dtype=dtype, like=model.params.flat)
        return model

    def features(self) -> np.ndarray:
        """Features of CAPTIONS."""
        grid = (P,) if has_attention(self.inject) else ()
        return np.random.default_rng(2).standard_normal((len(CAPTIONS), *grid, D))

    def words(self, t: int, model: CaptioningRNN) -> Array:
        """The words of CAPTIONS at time step t, on the model's device."""
        return asarray(CAPTIONS[:, t], like=model.params.flat)

    def loop(self, dtype: Any = np.float64, seed: int = 3) -> "Loop":
        """The cell's loop without a captioner, over sequences of STEPS."""
        model = self.captioner(dtype)
        rng = np.random.default_rng(seed)
        cell = CELLS[self.cell]
        G = model.config.columns
        N = len(STEPS)
        rows = PackedSequences.of([3, 2, 2], N)
        params = Network(model.config, model.params).cell_params
        shapes: Shapes = {"the pre-activation": (rows.R, G)}
        shapes |= {f"initial {name}": (N, H) for name in cell.states}
        shapes |= {name: x.shape for name, x in params.items() if name not in cell.inputs}
        if has_attention(self.inject):
            shapes |= {"the regions": (N, P, H), "Wattn": (H, G)}
        draws = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
        like = model.params.flat
        arrays = {name: asarray(x, dtype=dtype, like=like) for name, x in draws.items()}
        inputs = {name: x for name, x in params.items() if name in cell.inputs}
        dh = asarray(rng.standard_normal((rows.R, H)), dtype=dtype, like=like)
        return Loop(cell, rows, STEPS, arrays, inputs, dh)


class Loop(NamedTuple):
    """A loop of a cell over rows, with all its arguments."""

    cell: Cell
    rows: PackedSequences
    steps: tuple[int, ...]  # of each sequence
    arrays: dict[str, Array]  # all arrays that have a gradient, by their name in messages
    inputs: dict[str, Array]  # weight and bias of the pre-activation
    dh: Array  # (R, H), the upstream gradient

    @property
    def a(self) -> Array:
        """The pre-activation (R, G)."""
        return self.arrays["the pre-activation"]

    @property
    def state0(self) -> State:
        """The state before the first step."""
        return tuple(self.arrays[f"initial {name}"] for name in self.cell.states)

    @property
    def params(self) -> dict[str, Array]:
        """The cell's parameters."""
        names = [name for name in self.cell.shapes(W, H) if name in self.arrays]
        return {name: self.arrays[name] for name in names} | self.inputs

    def attention(self) -> Attention | None:
        """The attention, if there is any."""
        if "Wattn" not in self.arrays:
            return None
        return Attention(self.arrays["the regions"], self.arrays["Wattn"])

    def forward(self, memory: Workspace | None = None) -> tuple[Array, Any]:
        """h (R, H), and the cache for `backward`."""
        term = self.attention()
        h, cache = self.cell.rows_forward(self.a, self.state0, self.params, self.rows, memory, term)
        return h, (cache, term)

    def backward(self, cache: Any, memory: Workspace | None = None) -> dict[str, Array]:
        """Gradients by the names of `arrays`."""
        loop, term = cache
        da, dstate0, param_grads = self.cell.rows_backward(self.dh, loop, memory)
        names = self.cell.states
        if len(dstate0) != len(names):
            fail("rows_backward", f"returns {len(dstate0)} gradients of the state", len(names))
        grads = {"the pre-activation": da}
        grads |= {f"initial {name}": x for name, x in zip(names, dstate0, strict=True)}
        grads |= {name: x for name, x in param_grads.items() if name not in self.inputs}
        if term is not None:
            dh0 = get_array_module(da).zeros_like(self.state0[0])  # h0 is not made of regions here
            grads["the regions"], grads["Wattn"] = term.gradients(da, dh0, self.rows)
        for name in self.arrays:
            if name not in grads:
                fail("rows_backward", "lacks a gradient", f"the gradient of {name}")
        return {name: grads[name] for name in self.arrays}

    def run(self, memory: Workspace | None = None) -> dict[str, Array]:
        """h and all gradients."""
        h, cache = self.forward(memory)
        h = h.copy()  # it may be in `memory`, which is reused
        grads = self.backward(cache, memory)
        return {"h": h} | {f"the gradient of {name}": x for name, x in grads.items()}

    def rows_of(self, sequence: int) -> list[int]:
        """Rows of a sequence."""
        firsts = [0, *itertools.accumulate(self.rows.batch_sizes)]
        return [first + sequence for first in firsts[: self.steps[sequence]]]

    def single(self, sequence: int) -> Self:
        """The loop over only this sequence."""
        numbers = self.rows_of(sequence)
        only = slice(sequence, sequence + 1)
        arrays = dict(self.arrays)
        arrays["the pre-activation"] = self.a[numbers]
        for name in arrays:
            if name.startswith("initial ") or name == "the regions":
                arrays[name] = arrays[name][only]
        rows = PackedSequences.full(1, len(numbers))
        return self._replace(rows=rows, steps=self.steps[only], arrays=arrays, dh=self.dh[numbers])


Claim = Callable[[Trial], None]


# ---- The claims


def step_gradient(trial: Trial) -> None:
    """The gradients of a time step match finite differences.

    Blocks of the pre-activation, arrays of the state and parameters are checked separately; a loop
    would mix them.
    """
    loop = trial.loop()
    cell = loop.cell
    a = loop.a[: len(STEPS)]
    state = loop.state0
    params = loop.params
    after, cache = cell.step_forward(a, state, params)
    if len(after) != len(cell.states):
        got = f"returns a state of {len(after)}"
        names = ", ".join(cell.states)
        fail("step_forward", got, f"{len(cell.states)}, as in `states`: {names}")
    draw = np.random.default_rng(7).standard_normal
    dafter = tuple(asarray(draw(x.shape), like=a) for x in after)
    da, dstate, param_grads = cell.step_backward(dafter, cache, params)

    def named(x: Array, states: State) -> dict[str, Array]:
        blocks = zip(cell.blocks, cell.split(x), strict=True) if cell.blocks else ()
        by_name = {f"block {name}": block for name, block in blocks} or {"a": x}
        return by_name | {f"{name} before": y for name, y in zip(cell.states, states, strict=True)}

    def loss() -> Array:
        results, _ = cell.step_forward(a, state, params)
        return sum((x * dx).sum() for x, dx in zip(results, dafter, strict=True))

    arrays = named(a, state) | {name: params[name] for name in cell.recurrent_names()}
    check_slopes("the step's", loss, arrays, named(da, dstate) | dict(param_grads))


def gradient(trial: Trial) -> None:
    """Gradients match finite differences.

    They are those of each parameter of the captioner, and in the loop of the pre-activation, the
    initial state, the cell's parameters and its attention.
    """
    model = trial.captioner()
    features = trial.features()

    def loss() -> tuple[Array, Mapping[str, Array]]:
        return model.loss(features, CAPTIONS, step=STEP, smoothing=trial.dropout / 2)

    check_slopes("the captioner's", lambda: loss()[0], model.params, loss()[1])
    loop = trial.loop()
    grads = loop.backward(loop.forward()[1])
    check_slopes("the loop's", lambda: (loop.forward()[0] * loop.dh).sum(), loop.arrays, grads)


def dtype_kept(trial: Trial) -> None:
    """float32 parameters give float32 results, float64 parameters float64 results."""
    for dtype in (np.float32, np.float64):
        model = trial.captioner(dtype)
        features = trial.features()
        loss, grads = model.loss(features, CAPTIONS, step=STEP)
        results = {"the loss": loss, **{f"the gradient of {name}": x for name, x in grads.items()}}
        scores, state = model.step(trial.words(0, model), model.start(features))
        results |= {"scores of a step": scores, **{f"state {k}": x for k, x in enumerate(state)}}
        for name, x in (results | trial.loop(dtype).run()).items():
            if x.dtype != dtype:
                fail(name, f"has dtype {x.dtype}", f"{np.dtype(dtype)}, as the parameters have")


def inputs_unchanged(trial: Trial) -> None:
    """The captioner, the loop and a step do not write to their arguments."""
    model = trial.captioner()
    features = trial.features()
    loop = trial.loop()
    inputs = {"features": features, "captions": CAPTIONS, **model.params}
    inputs |= {f"{name} of the loop": x for name, x in (loop.arrays | loop.inputs).items()}
    inputs["the upstream gradient of the loop"] = loop.dh
    before = {name: to_numpy(x).copy() for name, x in inputs.items()}
    model.loss(features, CAPTIONS, step=STEP)
    loop.run()
    loop.cell.advance(
        loop.a[: len(STEPS) - 1],
        tuple(x[:-1] for x in loop.state0),
        loop.params,
        Workspace.fresh(loop.a),
        loop.attention(),
    )
    for name, x in inputs.items():
        if not np.array_equal(to_numpy(x), before[name]):
            fail(name, "has changed", "unchanged inputs")


def caches_apart(trial: Trial) -> None:
    """Two forward passes may be in flight without affecting each other's backward pass."""
    loop = trial.loop()
    other = trial.loop(seed=4)
    _, first = loop.forward()
    _, second = other.forward()
    other.backward(second)
    grads = {f"the gradient of {name}": x for name, x in loop.backward(first).items()}
    expected = loop.run()
    for name, x in grads.items():
        check_close(f"{name}, with another cache alive,", x, expected[name], "the one without")


class SpoiledWorkspace(Workspace):
    """A workspace whose memory is full of NaN."""

    def take(self, name: str, shape: tuple[int, ...], dtype: DTypeLike | None = None) -> Array:
        array = super().take(name, shape, dtype)
        array[...] = np.nan if dtype is None else 7
        return array


def memory_reused(trial: Trial) -> None:
    """Results do not depend on what a workspace's memory holds before."""
    loop = trial.loop()
    expected = loop.run()
    for name, x in loop.run(SpoiledWorkspace(loop.a)).items():
        check_close(f"{name}, in memory of NaN,", x, expected[name], "the one in new memory")
    model = trial.captioner()
    features = trial.features()
    workspace = Workspace(model.params.flat)
    model.loss(3 * features, CAPTIONS[:, ::-1], step=STEP, workspace=workspace)
    _, grads = model.loss(features, CAPTIONS, step=STEP, workspace=workspace)
    for name, x in model.loss(features, CAPTIONS, step=STEP)[1].items():
        check_close(f"the gradient of {name}, in a used workspace,", grads[name], x, "a fresh one")


def rows_alone(trial: Trial) -> None:
    """Sequences do not affect each other: each has the same states and gradients by itself."""
    loop = trial.loop()
    totals = dict[str, Any]()
    batch = loop.run()
    for k in range(len(STEPS)):
        for name, x in loop.single(k).run().items():
            if name in ("h", "the gradient of the pre-activation"):
                in_batch = batch[name][loop.rows_of(k)]
            elif name.startswith(("the gradient of initial ", "the gradient of the regions")):
                in_batch = batch[name][k : k + 1]
            else:
                totals[name] = totals.get(name, 0) + x
                continue
            check_close(f"{name} of sequence {k}", in_batch, x, "that of the sequence by itself")
    for name, x in totals.items():
        check_close(name, batch[name], x, "the sum over single sequences")
    model = trial.captioner()
    features = trial.features()
    _, grads = model.loss(features, CAPTIONS, step=STEP)
    shards = [np.array([k]) for k in range(len(CAPTIONS))]
    single = [model.loss(features[k], CAPTIONS, step=STEP, shard=k)[1] for k in shards]
    for name, x in grads.items():
        total = sum(caption_grads[name] for caption_grads in single)
        check_close(f"the gradient of {name}", x, total, "the sum over single captions")


def steps_compose(trial: Trial) -> None:
    """Steps of sampling match the loop, and do not write to the state of the previous step."""
    loop = trial.loop()
    h, _ = loop.forward()
    state = loop.state0
    memory = Workspace(loop.a)
    first = 0
    steps = []
    for n in loop.rows.batch_sizes:
        rows = slice(first, first + n)
        state = tuple(x[:n] for x in state)
        state = loop.cell.advance(loop.a[rows], state, loop.params, memory, loop.attention())
        if len(state) != len(loop.cell.states):
            fail("advance", f"returns a state of {len(state)} arrays", loop.cell.states)
        steps.append((rows, state[0]))
        first += n
    for t, (rows, x) in enumerate(steps):
        check_close(f"h of step {t}", x, h[rows], "that of the loop")
    model = trial.captioner()
    features = trial.features()
    captions_state = model.start(features)
    nll = 0.0
    for t in range(CAPTIONS.shape[1] - 1):
        scores, captions_state = model.step(trial.words(t, model), captions_state)
        log_p = to_numpy(scores) - np.logaddexp.reduce(to_numpy(scores), axis=1, keepdims=True)
        targets = CAPTIONS[:, t + 1]
        nll -= log_p[np.arange(len(targets)), targets][targets != WORDS["<NULL>"]].sum()
    score = np.asarray(float(model.score(features, CAPTIONS).nll))
    check_close("the likelihood of captions by steps", np.asarray(nll), score, "that by the loop")


def no_words(trial: Trial) -> None:
    """Loss and gradients of captions without words are zero."""
    model = trial.captioner()
    captions = np.zeros_like(CAPTIONS)
    captions[:, 0] = WORDS["<START>"]
    loss, grads = model.loss(trial.features(), captions, step=STEP)
    for name, x in {"the loss": loss, **grads}.items():
        if to_numpy(x).any():
            fail(f"{name} of captions without words", f"is {to_numpy(x).ravel()[:3]}", "zeros")


def watched(trial: Trial) -> None:
    """The arrays of `block_values` and `activations` have the shape (R, H) of the loop's h."""
    loop = trial.loop()
    h, (cache, _) = loop.forward()
    named = dict(loop.cell.block_values(cache))
    named |= {name: activation.values for name, activation in loop.cell.activations(cache).items()}
    for name, x in named.items():
        if x.shape != h.shape:
            fail(name, f"has shape {x.shape}", f"(R, H) = {h.shape}")


CELL: tuple[Claim, ...] = (
    step_gradient,
    gradient,
    dtype_kept,
    inputs_unchanged,
    caches_apart,
    memory_reused,
    rows_alone,
    steps_compose,
    no_words,
    watched,
)


def check_cell(cell: str, contract: Iterable[Claim] = CELL) -> None:
    """Check the contract of a cell, in tiny models: each `inject`, with dropout and without.

    It runs on the current backend; NumPy is faster for such sizes.

    Parameters
    ----------
    cell : str
        A name in xpcap.layers.CELLS.
    contract : iterable of callable
        Claims of CELL to check.

    Raises
    ------
    ContractError
        A claim does not hold. The error names the captioner, the array, and what was expected. Other
        errors of the cell are passed on, with a note of captioner and claim.
    OptionError
        The cell is unknown, or its parameters are invalid.

    Examples
    --------
    >>> from xpcap.testing.cell import dtype_kept
    >>> check_cell("lstm", [dtype_kept])
    """
    if cell not in CELLS:
        raise OptionError(f"cell {cell!r} does not exist, expected {one_of(CELLS, cell)}")
    for claim, inject, dropout in itertools.product(contract, INJECT, (0.0, DROPOUT)):
        check(Trial(cell, inject, dropout), [claim])
