"""Cells with one product per step, and the loop that runs them over packed rows.

    a = x @ Wx + b              for all rows, one product before the loop
    at each step, for its n sequences:
        r = h @ Wh
        r += context @ Wattn    with attention, or another RecurrentTerm
        h, ... = cell.equation(a, r, h, ...)

Backward, the steps run in reverse with `cell.gradient`, and the gradients of Wx, Wh and b are one
product each after the loop. The public functions of lstm.py, rnn.py and gru.py call the last two
sections of this file.
"""

from typing import Any, ClassVar, NamedTuple

from xpcap.backend import Array, asarray, get_array_module
from xpcap.backend.memory import Workspace, one_block
from xpcap.errors import InvalidTypeError, InvalidValueError
from xpcap.layers.cell import Cell, Params, StepCache
from xpcap.layers.checks import check_upstream
from xpcap.ops import (
    CellBuffers,
    CellGradients,
    Factor,
    Ops,
    PackedSequences,
    RecurrentTerm,
    State,
    Step,
    StepFn,
    contiguous,
    from_rows,
    get_ops,
    single_step,
    to_rows,
    zero_without_steps,
)


class RowsCache(NamedTuple):
    """Cache of the loop."""

    cell: "Pointwise"
    states: State  # stacks, each (N+R, H): the initial states, then the state after each row
    saved: State  # (R, .), the arrays that `cell.saved` names
    Wh: Array  # (H, G)
    rows: PackedSequences
    extra_term: RecurrentTerm | None

    @property
    def output(self) -> Array:
        """h after each row (R, H)."""
        return self.states[0][self.rows.N :]


class Pointwise(Cell):
    """A cell with one product per step, h @ Wh: a subclass writes the rest of the step.

    It writes `equation` and its `gradient` as pure functions, which the loop runs on any array library.
    The parameters are Wx (W, G), Wh (H, G) and b (G,), with H columns in G for each of `blocks`.
    `xpcap.ops` has faster versions of some equations: STEPS_IN_PLACE in host.py and CELL_KERNELS in
    device.py. A class that overrides `equation` or `gradient` does not use them.

    Attributes
    ----------
    saved : dict of str to int
        Arrays that `gradient` reads besides the states: each name with its number of columns in
        multiples of H. An array ``blocks`` has the blocks after their nonlinearities.
    scales_recurrence : bool
        True if a gate scales a part of r, as a GRU's reset gate does, or if h enters other than by r.
        Then the gradients of a and r differ, and the term of attention is added to a.
    """

    saved: ClassVar[dict[str, int]] = {}
    scales_recurrence = False
    fixed: ClassVar = {
        "shapes": "Wx, Wh and b",
        "split": "blocks of H columns side by side",
        "step_forward": "an `equation`",
        "step_backward": "a `gradient`",
    }

    def __init_subclass__(cls) -> None:
        """Drop the memory gate of an overridden equation, and refuse its gradient."""
        super().__init_subclass__()

        def owner(name: str) -> int:
            return next(k for k, base in enumerate(cls.__mro__) if name in vars(base))

        if owner("memory_gate") > owner("equation"):
            cls.memory_gate = None
        if owner("gradient") > owner("equation") and cls.gradient is not Pointwise.gradient:
            base = cls.__mro__[owner("gradient")].__name__
            raise InvalidTypeError(
                f"{cls.__name__}: gradient is that of another equation, expected one for its"
                f" equation; if it is right, write gradient = {base}.gradient"
            )

    def equation(self, a: Array, r: Array, *state: Array) -> tuple[State, State]:
        """The pointwise half of a step.

        Parameters
        ----------
        a : array (n, G), float
            x @ Wx + b.
        r : array (n, G), float
            h @ Wh.
        *state : array (n, H), float
            Each array of the state before the step.

        Returns
        -------
        after : tuple of array (n, H), float
            The state after the step.
        saved : tuple of array (n, .), float
            The arrays that the attribute `saved` names.
        """
        raise NotImplementedError(f"{type(self).__name__}.equation is missing: write a step")

    def gradient(
        self, dstate: State, before: State, after: State, saved: State
    ) -> tuple[Array, Array, tuple[Array | None, ...]]:
        """Gradients of `equation`.

        Parameters
        ----------
        dstate : tuple of array (n, H), float
            The gradient of the state after the step.
        before, after : tuple of array (n, H), float
            The states before and after the step.
        saved : tuple of array (n, .), float

        Returns
        -------
        da, dr : array (n, G), float
            The same array, unless `scales_recurrence`.
        dbefore : tuple of array (n, H), float
            The gradient of the state before; for h without the part through r = h @ Wh, or None if
            that is all.
        """
        raise NotImplementedError(
            f"{type(self).__name__}.gradient is missing: write the gradients of its equation"
        )

    # ---- Methods of the base class

    def step_forward(self, a: Array, state: State, params: Params) -> tuple[State, StepCache]:
        if len(a) != len(state[0]):
            raise InvalidValueError(
                f"{self._name('step_forward')}: a has {len(a)} rows, expected {len(state[0])}, as"
                " the state has"
            )
        after, saved = self.equation(a, state[0] @ params["Wh"], *state)
        return after, {"before": state, "after": after, "saved": saved}

    def step_backward(
        self, dafter: State, cache: StepCache, params: Params
    ) -> tuple[Array, State, Params]:
        before = cache["before"]
        after = cache["after"]
        saved = cache["saved"]
        for name, dout, x in zip(self.states, dafter, after, strict=True):
            check_upstream(self._name("step_backward"), f"d{name}", dout, x.shape, x)
        da, dr, (direct, *others) = self.gradient(dafter, before, after, saved)
        dh = dr @ params["Wh"].T
        return da, (dh if direct is None else dh + direct, *others), {"Wh": before[0].T @ dr}

    def laid_out(self, params: Params, memory: Workspace) -> Params:
        return {**params, "Wh": get_ops(params["Wh"]).factor(params["Wh"], memory)}

    def advance(
        self,
        a: Array,
        state: State,
        params: Params,
        memory: Workspace,
        extra_term: RecurrentTerm | None = None,
    ) -> State:
        n, H = state[0].shape
        after = tuple(get_array_module(a).empty_like(x) for x in state)
        saved = tuple(
            memory.take(f"saved {name}", (n, columns * H)) for name, columns in self.saved.items()
        )
        loop = CellBuffers(a, memory.take("r", a.shape), state, after, saved)
        forward_steps(get_ops(a), self, loop, params["Wh"], memory, extra_term)(single_step(n))
        return after

    def run_forward(
        self,
        a: Array,
        state0: tuple[Any, ...],
        params: Params,
        rows: PackedSequences,
        memory: Workspace | None = None,
        extra_term: RecurrentTerm | None = None,
    ) -> tuple[Array, RowsCache]:
        return forward_loop(self, a, state0, params["Wh"], rows, memory, extra_term)

    def run_backward(
        self, dh: Array, cache: Any, memory: Workspace | None = None, grads: Params | None = None
    ) -> tuple[Array, State, Params]:
        da, dstate0, dWh = backward_loop(dh, cache, memory, None if grads is None else grads["Wh"])
        return da, dstate0, {"Wh": dWh}

    def block_values(self, cache: RowsCache) -> dict[str, Array]:
        saved = dict(zip(self.saved, cache.saved, strict=True))
        if "blocks" not in saved:
            return {}
        return dict(zip(self.blocks, self.split(saved["blocks"]), strict=True))


# ---- The loop over packed rows


def forward_loop(
    cell: Pointwise,
    a: Array,
    state0: tuple[Array | None, ...],
    Wh: Array,
    rows: PackedSequences,
    memory: Workspace | None = None,
    extra_term: RecurrentTerm | None = None,
) -> tuple[Array, RowsCache]:
    """Pointwise.rows_forward without its checks; h (R, H) is a view into the cache."""
    ops = get_ops(a)
    loop = _loop_buffers(cell, a, len(Wh), rows, memory)
    memory = memory or Workspace.fresh(a)
    ops.start_states(state0, loop.after)
    run_step = forward_steps(ops, cell, loop, ops.factor(Wh, memory), memory, extra_term)
    for step in rows.steps:
        run_step(step)
    cache = RowsCache(cell, loop.after, loop.saved, Wh, rows, extra_term)
    return cache.output, cache


def backward_loop(
    dh: Array,
    cache: RowsCache,
    memory: Workspace | None = None,
    dWh: Array | None = None,
    last: tuple[Array | None, ...] | None = None,
) -> tuple[Array, State, Array]:
    """Pointwise.rows_backward without its checks: da (R, G), dstate0 and dWh.

    `last`, each (N, H), is the upstream gradient of each sequence's state after its last step; None
    means zeros.
    """
    cell, states, saved, Wh, rows, extra_term = cache
    h = states[0]
    ops = get_ops(h)
    memory = memory or Workspace.fresh(h)
    da = memory.take("da", (rows.R, Wh.shape[1]))
    dr = memory.take("dr", da.shape) if cell.scales_recurrence else da
    dstate = tuple(memory.take(f"dstate {name}", (rows.N, len(Wh))) for name in cell.states)
    for x, dx in zip(last or (), dstate, strict=False):
        dx[...] = 0 if x is None else x
    grads = CellGradients(states, saved, dh, dstate, last is not None, da, dr)
    run_step = backward_steps(ops, cell, grads, Wh, extra_term)
    for step in reversed(rows.steps):
        run_step(step)
    if last is None:
        zero_without_steps(rows, *dstate)
    dWh = memory.take("dWh", Wh.shape) if dWh is None else dWh
    return da, dstate, ops.matmul(_states_before(rows, h, memory).T, dr, out=dWh)


def _loop_buffers(
    cell: Pointwise, a: Array, H: int, rows: PackedSequences, memory: Workspace | None
) -> CellBuffers:
    """Buffers of the loop over a (R, G), in `memory`, or new ones in one block."""
    R, G = a.shape
    N = rows.N
    shapes = {"r": (N, G)}
    shapes |= {f"state {name}": (N + R, H) for name in cell.states}
    shapes |= {f"saved {name}": (R, columns * H) for name, columns in cell.saved.items()}
    if memory is None:
        r, *arrays = one_block(a, [*shapes.values()])
    else:
        r, *arrays = map(memory.take, shapes, shapes.values())
    states = tuple(arrays[: len(cell.states)])
    return CellBuffers(a, r, states, states, tuple(arrays[len(cell.states) :]))


def _states_before(rows: PackedSequences, stack: Array, memory: Workspace) -> Array:
    """The state (R, H) that each row starts from."""
    if rows.previous is None:
        return stack[: rows.R]
    out = memory.take("previous", (rows.R, stack.shape[1]))
    return get_ops(stack).gather(stack, contiguous(asarray(rows.previous, like=stack)), out)


# ---- A step of the loop


def forward_steps(
    ops: Ops,
    cell: Pointwise,
    loop: CellBuffers,
    Wh: Factor,
    memory: Workspace,
    extra_term: RecurrentTerm | None = None,
) -> StepFn:
    """A function that runs a step: the faster version of `ops` if there is one, else the equation."""
    h = loop.before[0]
    add = None
    a_with_term = None
    if extra_term is not None:
        if cell.scales_recurrence:  # a gate would scale a term of r, so it is added to a
            a_with_term = memory.take("a with term", loop.r.shape)
        with_term = loop.r if a_with_term is None else a_with_term
        add = extra_term.forward_steps(h, with_term, len(loop.a))
    if a_with_term is None and (fast := ops.cell_steps(cell, loop, Wh, add)):
        return fast
    multiply = ops.row_matmul(h, Wh, loop.r)

    def run_step(step: Step) -> None:
        n = step.n
        a = loop.a[step.rows]
        multiply(step.before, 0, n)  # r = h @ Wh
        if a_with_term is not None:
            a_with_term[:n] = a
            a = a_with_term[:n]
        if add is not None:
            add(step)
        results = cell.equation(a, loop.r[:n], *(x[step.states_before] for x in loop.before))
        if not step.first:  # the first step has the most rows, so no wrong shape broadcasts
            _check_equation(cell, results, loop, step)
        after, saved = results
        for x, value in zip(loop.after, after, strict=True):
            x[step.states_after] = value
        for x, value in zip(loop.saved, saved, strict=True):
            x[step.rows] = value

    return run_step


def backward_steps(
    ops: Ops,
    cell: Pointwise,
    grads: CellGradients,
    Wh: Array,
    extra_term: RecurrentTerm | None = None,
) -> StepFn:
    """A function that runs the gradient of a step; later steps run first."""
    dh_next, *dcarried = grads.dstate
    add = None if extra_term is None else extra_term.backward_steps(grads.da, dh_next)
    if fast := ops.cell_backward_steps(cell, grads, Wh, add):
        return fast
    multiply = ops.row_matmul_nt(grads.dr, Wh, dh_next)
    if not grads.begun:
        for x in grads.dstate:
            x[...] = 0

    def run_step(step: Step) -> None:
        n = step.n
        dafter = grads.dh[step.rows] + dh_next[:n], *(x[:n] for x in dcarried)
        before = tuple(x[step.states_before] for x in grads.states)
        after = tuple(x[step.states_after] for x in grads.states)
        saved = tuple(x[step.rows] for x in grads.saved)
        results = cell.gradient(dafter, before, after, saved)
        if not (step.first and step.n_next):  # the first to run, and the one with the most rows
            _check_gradient(cell, results, grads, step)
        da, dr, (direct, *carried) = results
        grads.da[step.rows] = da
        if grads.dr is not grads.da:
            grads.dr[step.rows] = dr
        for x, value in zip(dcarried, carried, strict=True):
            x[:n] = value
        multiply(step.first, 0, n)  # dh_next = dr @ Wh.T
        if direct is not None:
            dh_next[:n] += direct
        if add is not None:
            add(step)

    return run_step


def _check_equation(cell: Pointwise, results: Any, loop: CellBuffers, step: Step) -> None:
    """Raise TypeError or ValueError if the results of an equation do not fit their arrays."""
    after, saved = cell._unpacked("equation", results, "the state after", "the saved arrays")
    states = cell._unpacked("equation, state", after, *cell.states)
    others = cell._unpacked("equation, saved", saved, *cell.saved)
    for name, x, array in zip(cell.states, states, loop.after, strict=True):
        cell._check("equation", f"state {name}", x, array[step.states_after])
    for name, x, array in zip(cell.saved, others, loop.saved, strict=True):
        cell._check("equation", f"saved {name}", x, array[step.rows])


def _check_gradient(cell: Pointwise, results: Any, grads: CellGradients, step: Step) -> None:
    """Raise TypeError or ValueError if the results of a gradient do not fit their arrays."""
    da, dr, dbefore = cell._unpacked("gradient", results, "da", "dr", "the gradient of a state")
    direct, *others = cell._unpacked("gradient, state", dbefore, *cell.states)
    if grads.dr is grads.da and (dr is not da or direct is not None):
        raise InvalidValueError(
            f"{type(cell).__name__}.gradient: the result has separate gradients of a and r, or one"
            " of h, expected one array for both a and r, and None for h; set scales_recurrence ="
            " True"
        )
    cell._check("gradient", "da", da, grads.da[step.rows])
    cell._check("gradient", "dr", dr, grads.dr[step.rows])
    states = others if direct is None else (direct, *others)
    arrays = grads.dstate[-len(states) :]
    for name, x, array in zip(cell.states[-len(states) :], states, arrays, strict=False):
        cell._check("gradient", f"gradient of state {name}", x, array[: step.n])


# ---- A step with inputs x (N, D)


class InputStepCache(NamedTuple):
    """Cache of step_forward."""

    cell: Pointwise
    x: Array  # (N, D)
    Wx: Array
    Wh: Array
    step: StepCache


def step_forward(
    cell: Pointwise, x: Array, before: State, Wx: Array, Wh: Array, b: Array
) -> tuple[State, InputStepCache]:
    """The state after one step of a cell with inputs x (N, D)."""
    after, step = cell.step_forward(x @ Wx + b, before, {"Wh": Wh})
    copies = tuple(state.copy() for state in after)  # the caller may change them, not the cache
    return copies, InputStepCache(cell, x, Wx, Wh, step)


def step_backward(dafter: State, cache: InputStepCache) -> tuple[Array, State, Array, Array, Array]:
    """Gradients of step_forward: dx, dbefore, dWx, dWh and db."""
    cell, x, Wx, Wh, step = cache
    da, dbefore, grads = cell.step_backward(dafter, step, {"Wh": Wh})
    return da @ Wx.T, dbefore, x.T @ da, grads["Wh"], da.sum(axis=0)


# ---- Sequences of one length with inputs x (N, T, D)


class SequenceCache(NamedTuple):
    """Cache of sequence_forward."""

    x: Array  # (N, T, D)
    x_rows: Array  # (T*N, D), time-major
    Wx: Array  # (D, G)
    Wh: Array  # (H, G)
    loop: RowsCache
    carried: bool  # True if c0 was given, and c_T returned

    @property
    def last_state(self) -> State:
        """The state (N, H) after the last step."""
        return tuple(x[len(x) - self.loop.rows.N :].copy() for x in self.loop.states)


def sequence_forward(
    cell: Pointwise, x: Array, state0: tuple[Array | None, ...], Wx: Array, Wh: Array, b: Array
) -> tuple[Array, SequenceCache]:
    """States (N, T, H) of a cell over sequences x (N, T, D)."""
    N, T, _ = x.shape
    x_rows = to_rows(x)
    a = get_ops(x).matmul(x_rows, Wx)  # (T*N, G)
    a += b
    h, loop = forward_loop(cell, a, state0, Wh, PackedSequences.full(N, T))
    cache = SequenceCache(x, x_rows, Wx, Wh, loop, state0[-1] is not None)
    return from_rows(h, N, T), cache


def sequence_backward(
    dh: Array, cache: SequenceCache, last: tuple[Array | None, ...] | None = None
) -> tuple[Array, State, Array, Array, Array]:
    """Gradients of sequence_forward: dx, dstate0, dWx, dWh and db."""
    x, x_rows, Wx, _, loop, _ = cache
    matmul = get_ops(dh).matmul
    da, dstate0, dWh = backward_loop(to_rows(dh), loop, last=last)
    dx = from_rows(matmul(da, Wx.T), *x.shape[:2])
    return dx, dstate0, matmul(x_rows.T, da), dWh, da.sum(axis=0)
