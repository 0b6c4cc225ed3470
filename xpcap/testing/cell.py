"""The contract of a recurrent cell: what a captioner relies on, one function for each claim.

::

    from xpcap.testing import check_cell
    check_cell("mgu")

holds a cell in `xpcap.layers.CELLS` to all of it.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import DTypeLike

from xpcap.backend import Array, asarray, get_array_module, to_numpy
from xpcap.errors import unknown
from xpcap.layers.attention import Attention
from xpcap.layers.cell import Cell, Shapes
from xpcap.layers.cells import CELLS
from xpcap.memory import Workspace
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
D, P, W, H = 5, 2, 4, 3
DROPOUT = 0.4
STEP = 11  # of training, which decides the dropout masks


# ---- What claims are about


class Trial(NamedTuple):
    """A cell, and the captioner to try it in."""

    cell: str
    inject: str = "init"
    dropout: float = 0.0

    def __str__(self) -> str:
        return f"cell {self.cell!r} with inject {self.inject!r} and dropout {self.dropout}"

    def captioner(self, dtype: Any = np.float64) -> CaptioningRNN:
        """A captioner whose weights are all large enough to matter."""
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
        """The words of CAPTIONS at step t, where the model is."""
        return asarray(CAPTIONS[:, t], like=model.params.flat)

    def loop(self, dtype: Any = np.float64, seed: int = 3) -> "Loop":
        """The cell's loop by itself, over sequences of STEPS."""
        model, rng = self.captioner(dtype), np.random.default_rng(seed)
        cell, G, N = CELLS[self.cell], model.config.columns, len(STEPS)
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
    """A loop of a cell over rows, and all that it takes."""

    cell: Cell
    rows: PackedSequences
    steps: tuple[int, ...]  # of each sequence
    arrays: dict[str, Array]  # whatever has a gradient, under the name that messages have for it
    inputs: dict[str, Array]  # the weight and the bias of the pre-activation
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
        """The term of attention, if there is one."""
        if "Wattn" not in self.arrays:
            return None
        return Attention(self.arrays["the regions"], self.arrays["Wattn"])

    def forward(self, memory: Workspace | None = None) -> tuple[Array, Any]:
        """h (R, H), and what `backward` takes."""
        term = self.attention()
        h, cache = self.cell.rows_forward(self.a, self.state0, self.params, self.rows, memory, term)
        return h, (cache, term)

    def backward(self, cache: Any, memory: Workspace | None = None) -> dict[str, Array]:
        """Gradients by the names of `arrays`."""
        loop, term = cache
        da, dstate0, param_grads = self.cell.rows_backward(self.dh, loop, memory)
        names = self.cell.states
        if len(dstate0) != len(names):
            fail("rows_backward", f"returns {len(dstate0)} gradients of a state", len(names))
        grads = {"the pre-activation": da}
        grads |= {f"initial {name}": x for name, x in zip(names, dstate0, strict=True)}
        grads |= {name: x for name, x in param_grads.items() if name not in self.inputs}
        if term is not None:
            dh0 = get_array_module(da).zeros_like(self.state0[0])  # no state is made of regions
            grads["the regions"], grads["Wattn"] = term.gradients(da, dh0, self.rows)
        for name in self.arrays:
            if name not in grads:
                fail("rows_backward", "returns no gradient", f"one of {name}")
        return {name: grads[name] for name in self.arrays}

    def run(self, memory: Workspace | None = None) -> dict[str, Array]:
        """h and all gradients."""
        h, cache = self.forward(memory)
        h = h.copy()  # may lie in the memory
        grads = self.backward(cache, memory)
        return {"h": h} | {f"the gradient of {name}": x for name, x in grads.items()}

    def rows_of(self, sequence: int) -> list[int]:
        """Rows of a sequence."""
        firsts = [0, *itertools.accumulate(self.rows.batch_sizes)]
        return [first + sequence for first in firsts[: self.steps[sequence]]]

    def alone(self, sequence: int) -> Self:
        """The loop over one of the sequences."""
        rows_of, only, arrays = (
            self.rows_of(sequence),
            slice(sequence, sequence + 1),
            dict(self.arrays),
        )
        arrays["the pre-activation"] = self.a[rows_of]
        for name in arrays:
            if name.startswith("initial ") or name == "the regions":
                arrays[name] = arrays[name][only]
        rows, steps = PackedSequences.full(1, len(rows_of)), self.steps[only]
        return self._replace(rows=rows, steps=steps, arrays=arrays, dh=self.dh[rows_of])


Claim = Callable[[Trial], None]


# ---- The claims


def step_gradient(trial: Trial) -> None:
    """The gradient of one step is that of finite differences.

    Of each block of the pre-activation, array of the state and parameter, by itself: a loop would
    mix them.
    """
    loop = trial.loop()
    cell, a, state, params = loop.cell, loop.a[: len(STEPS)], loop.state0, loop.params
    after, cache = cell.step_forward(a, state, params)
    if len(after) != len(cell.states):
        got, names = f"returns a state of {len(after)}", ", ".join(cell.states)
        fail("step_forward", got, f"{len(cell.states)}, as in `states`: {names}")
    draw = np.random.default_rng(7).standard_normal
    dafter = tuple(asarray(draw(x.shape), like=a) for x in after)
    da, dstate, param_grads = cell.step_backward(dafter, cache, params)

    def named(x: Array, states: State) -> dict[str, Array]:
        blocks = zip(cell.blocks, cell.split(x), strict=True) if cell.blocks else ()
        by_name = {f"block {name}": block for name, block in blocks} or {"a": x}
        return by_name | {f"{name} before": y for name, y in zip(cell.states, states, strict=True)}

    def loss() -> Array:
        moved, _ = cell.step_forward(a, state, params)
        return sum((x * dx).sum() for x, dx in zip(moved, dafter, strict=True))

    arrays = named(a, state) | {name: params[name] for name in cell.recurrent_names()}
    check_slopes("the step's", loss, arrays, named(da, dstate) | dict(param_grads))


def gradient(trial: Trial) -> None:
    """Gradients are those of finite differences.

    Of each parameter of the captioner; and in the loop of the pre-activation, of each array of the
    initial state, of the cell's parameters and of what it attends with.
    """
    model, features = trial.captioner(), trial.features()

    def loss() -> tuple[Array, Mapping[str, Array]]:
        return model.loss(features, CAPTIONS, step=STEP, smoothing=trial.dropout / 2)

    check_slopes("the captioner's", lambda: loss()[0], model.params, loss()[1])
    loop = trial.loop()
    grads = loop.backward(loop.forward()[1])
    check_slopes("the loop's", lambda: (loop.forward()[0] * loop.dh).sum(), loop.arrays, grads)


def dtype_kept(trial: Trial) -> None:
    """Of float32 comes float32, of float64 float64."""
    for dtype in (np.float32, np.float64):
        model, features = trial.captioner(dtype), trial.features()
        loss, grads = model.loss(features, CAPTIONS, step=STEP)
        found = {"the loss": loss, **{f"the gradient of {name}": x for name, x in grads.items()}}
        scores, state = model.step(trial.words(0, model), model.start(features))
        found |= {"scores of a step": scores, **{f"state {k}": x for k, x in enumerate(state)}}
        for name, x in (found | trial.loop(dtype).run()).items():
            if x.dtype != dtype:
                fail(name, f"has dtype {x.dtype}", f"{np.dtype(dtype)}, as the parameters have")


def inputs_unchanged(trial: Trial) -> None:
    """Parameters, features and captions, and whatever the loop and a step are given, stay."""
    model, features, loop = trial.captioner(), trial.features(), trial.loop()
    given = {"features": features, "captions": CAPTIONS, **model.params}
    given |= {f"{name} of the loop": x for name, x in (loop.arrays | loop.inputs).items()}
    given["the upstream gradient of the loop"] = loop.dh
    before = {name: to_numpy(x).copy() for name, x in given.items()}
    model.loss(features, CAPTIONS, step=STEP)
    loop.run()
    loop.cell.advance(
        loop.a[: len(STEPS) - 1],
        tuple(x[:-1] for x in loop.state0),
        loop.params,
        Workspace.fresh(loop.a),
        loop.attention(),
    )
    for name, x in given.items():
        if not np.array_equal(to_numpy(x), before[name]):
            fail(name, "has changed", "no input to be written to")


def caches_apart(trial: Trial) -> None:
    """Two forward passes may be in flight; the backward pass of each is as without the other."""
    loop, other = trial.loop(), trial.loop(seed=4)
    (_, first), (_, second) = loop.forward(), other.forward()
    other.backward(second)
    together = {f"the gradient of {name}": x for name, x in loop.backward(first).items()}
    alone = loop.run()
    for name, x in together.items():
        check_close(f"{name}, while another cache is alive,", x, alone[name], "the one alone")


class Spoiled(Workspace):
    """Memory of NaN."""

    def take(self, name: str, shape: tuple[int, ...], dtype: DTypeLike | None = None) -> Array:
        array = super().take(name, shape, dtype)
        array[...] = np.nan if dtype is None else 7
        return array


def memory_reused(trial: Trial) -> None:
    """Buffers may hold anything, such as the step before."""
    loop = trial.loop()
    expected = loop.run()
    for name, x in loop.run(Spoiled(loop.a)).items():
        check_close(f"{name}, in arrays of NaN,", x, expected[name], "the one in new memory")
    model, features = trial.captioner(), trial.features()
    workspace = Workspace(model.params.flat)
    model.loss(3 * features, CAPTIONS[:, ::-1], step=STEP, workspace=workspace)
    _, grads = model.loss(features, CAPTIONS, step=STEP, workspace=workspace)
    for name, x in model.loss(features, CAPTIONS, step=STEP)[1].items():
        check_close(f"the gradient of {name}, in a used workspace,", grads[name], x, "a fresh one")


def rows_alone(trial: Trial) -> None:
    """Sequences do not affect one another: each alone has the same states and gradients."""
    loop, totals = trial.loop(), dict[str, Any]()
    whole = loop.run()
    for k in range(len(STEPS)):
        for name, x in loop.alone(k).run().items():
            if name in ("h", "the gradient of the pre-activation"):
                part = whole[name][loop.rows_of(k)]
            elif name.startswith(("the gradient of initial ", "the gradient of the regions")):
                part = whole[name][k : k + 1]
            else:
                totals[name] = totals.get(name, 0) + x
                continue
            check_close(f"{name} of sequence {k}", part, x, "that of the sequence alone")
    for name, x in totals.items():
        check_close(name, whole[name], x, "the sum over sequences alone")
    model, features = trial.captioner(), trial.features()
    _, grads = model.loss(features, CAPTIONS, step=STEP)
    shards = [np.array([k]) for k in range(len(CAPTIONS))]
    parts = [model.loss(features[k], CAPTIONS, step=STEP, shard=k)[1] for k in shards]
    for name, x in grads.items():
        total = sum(part[name] for part in parts)
        check_close(f"the gradient of {name}", x, total, "the sum over captions alone")


def steps_compose(trial: Trial) -> None:
    """Steps of sampling are those of the loop, and their states stay when a next one is taken."""
    loop = trial.loop()
    h, _ = loop.forward()
    state, memory, first, steps = loop.state0, Workspace(loop.a), 0, []
    for n in loop.rows.batch_sizes:
        rows = slice(first, first + n)
        state = tuple(x[:n] for x in state)
        state = loop.cell.advance(loop.a[rows], state, loop.params, memory, loop.attention())
        if len(state) != len(loop.cell.states):
            fail("advance", f"returns {len(state)} arrays of a state", loop.cell.states)
        steps.append((rows, state[0]))
        first += n
    for t, (rows, x) in enumerate(steps):
        check_close(f"h of step {t}", x, h[rows], "that of the loop")
    model, features = trial.captioner(), trial.features()
    captions_state, nll = model.start(features), 0.0
    for t in range(CAPTIONS.shape[1] - 1):
        scores, captions_state = model.step(trial.words(t, model), captions_state)
        log_p = to_numpy(scores) - np.logaddexp.reduce(to_numpy(scores), axis=1, keepdims=True)
        targets = CAPTIONS[:, t + 1]
        nll -= log_p[np.arange(len(targets)), targets][targets != WORDS["<NULL>"]].sum()
    score = np.asarray(float(model.score(features, CAPTIONS).nll))
    check_close("the likelihood of captions by steps", np.asarray(nll), score, "that by the loop")


def no_words(trial: Trial) -> None:
    """Captions of no words have no loss and no gradients."""
    model, captions = trial.captioner(), np.zeros_like(CAPTIONS)
    captions[:, 0] = WORDS["<START>"]
    loss, grads = model.loss(trial.features(), captions, step=STEP)
    for name, x in {"the loss": loss, **grads}.items():
        if to_numpy(x).any():
            fail(f"{name} of captions without words", f"is {to_numpy(x).ravel()[:3]}", "zeros")


def watched(trial: Trial) -> None:
    """Arrays that `block_values` and `activations` name have a row for each of the loop's, and H columns."""
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

    The backend in use does the work; NumPy is the faster one here.

    Parameters
    ----------
    cell : str
        A name in xpcap.layers.CELLS.
    contract : iterable of callable
        Claims, of CELL.

    Raises
    ------
    ContractError
        A claim does not hold. It names the captioner, the array, and what was expected. An error of
        the cell itself goes through, with a note of captioner and claim.
    OptionError
        The cell is unknown, or its parameters do not fit in.
    """
    if cell not in CELLS:
        raise unknown("check_cell", "cell", cell, CELLS)
    for claim, inject, dropout in itertools.product(contract, INJECT, (0.0, DROPOUT)):
        check("check_cell", Trial(cell, inject, dropout), [claim])
