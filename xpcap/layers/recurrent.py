"""The fast form of a cell, with one product per step, and its loop over packed rows.

    a = x @ Wx + b              of all rows, one product before the loop
    at each step, of the n sequences alive:
        r = h @ Wh
        r += context @ Wattn    with attention, or another RecurrentTerm
        h, ... = cell(a, r, h, ...)

Backward, the steps run in reverse, and the gradients of Wx, Wh and b are one product each after the
loop. The cells are lstm.py, rnn.py and gru.py.
"""

from typing import Any, ClassVar, NamedTuple

from xpcap.backend import Array, asarray, get_array_module
from xpcap.layers.cell import Cell, Params, StepCache, with_term
from xpcap.layers.checks import check_upstream
from xpcap.memory import Buffer, allocator, one_block
from xpcap.ops import (
    CellBuffers,
    CellGradients,
    Factor,
    PackedSequences,
    RecurrentTerm,
    State,
    StepFn,
    constant_factor,
    contiguous,
    get_ops,
    single_step,
    zero_without_steps,
)
from xpcap.threads import in_turn


class RowsCache(NamedTuple):
    """Cache of the loop."""

    cell: "Pointwise"
    states: State  # stacks, each (N+R, H): initial states, then those after each row
    saved: dict[str, Array]  # (R, .), as the cell names them
    Wh: Array  # (H, G)
    rows: PackedSequences
    extra_term: RecurrentTerm | None

    @property
    def sizes(self) -> dict[str, int]:
        """R rows of N sequences, H units."""
        return {"R": self.rows.R, "N": self.rows.N, "H": len(self.Wh)}


class Pointwise(Cell):
    """The fast form of a cell: one product per step, h @ Wh, and all but that product.

    `equation` and `gradient` are pure, and enough: the loop runs them on any library. Versions in
    place for NumPy may be added. The parameters are Wx (W, G), Wh (H, G) and b (G,), with H columns
    in G for each of `blocks`.

    Attributes
    ----------
    saved : dict of str to int
        What `gradient` reads besides states, by name, in so many times H columns. An array `blocks`
        has the blocks after their nonlinearity.
    product_buffer : str
        What r = h @ Wh lies in until the step overwrites it: an array of `saved`, or ``h``.
    scales_recurrence : bool
        True if a gate scales a part of r, as a GRU's reset gate does, or h enters besides r. Then
        the gradients of a and r differ, and the term of attention is added to a.
    kernel : str
        The CUDA kernel of a step; that of its gradient has the same name and ``_backward``. Empty:
        there is none, and CuPy computes `equation` and `gradient`.
    """

    saved: ClassVar[dict[str, int]] = {}
    product_buffer: str
    scales_recurrence = False

    def __init_subclass__(cls) -> None:
        """Let a class run its equations, or those it inherits, without fast versions or a gate of others.

        A fast version belongs to the equations of its class, or of one further up: a mixin's
        `equation` leaves it behind as one of the class itself does.
        """

        def owner(name: str) -> int:
            return next(k for k, base in enumerate(cls.__mro__) if name in vars(base))

        equations = min(owner("equation"), owner("gradient"))
        for name in ("in_place", "gradient_in_place", "kernel"):
            if owner(name) > equations:
                setattr(cls, name, getattr(Pointwise, name))
        if owner("memory_gate") > owner("equation"):
            cls.memory_gate = None

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
            The state after it.
        saved : tuple of array (n, .), float
            What `saved` names.
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
            The states before and after it.
        saved : tuple of array (n, .), float

        Returns
        -------
        da, dr : array (n, G), float
            The same array, unless `scales_recurrence`.
        dbefore : tuple of array (n, H), float
            The gradient of the state before; of h only what it has besides r = h @ Wh, None for
            nothing.
        """
        raise NotImplementedError(
            f"{type(self).__name__}.gradient is missing: write the gradients of its equation"
        )

    def in_place(self, loop: CellBuffers) -> StepFn | None:
        """Steps of `equation` on whole buffers, in place, for NumPy.

        Parameters
        ----------
        loop : CellBuffers

        Returns
        -------
        step_fn : callable or None
            Function of one Step. None: `equation` runs as it stands.
        """
        return None

    def gradient_in_place(self, loop: CellBuffers, grads: CellGradients) -> StepFn | None:
        """Steps of `gradient` on whole buffers, in place, for NumPy.

        Parameters
        ----------
        loop : CellBuffers
        grads : CellGradients

        Returns
        -------
        step_fn : callable or None
            Function of one Step, called from the last step on. None: `gradient` runs as it stands.
        """
        return None

    # ---- What it gets

    def step_forward(self, a: Array, state: State, params: Params) -> tuple[State, StepCache]:
        r = state[0] @ params["Wh"]
        (n, H), empty = state[0].shape, get_array_module(a).empty

        def array(name: str, columns: int = 1) -> Array:
            return r if name == self.product_buffer else empty((n, columns * H), a.dtype)

        after = tuple(map(array, self.states))
        saved = tuple(array(name, columns) for name, columns in self.saved.items())
        get_ops(a).cell_steps(self, CellBuffers(a, r, state, after, saved))(single_step(n))
        return after, {"before": state, "after": after, "saved": saved}

    def step_backward(
        self, dafter: State, cache: StepCache, params: Params
    ) -> tuple[Array, State, Params]:
        before, after, saved = cache["before"], cache["after"], cache["saved"]
        da, dr, (direct, *others) = self.gradient(dafter, before, after, saved)
        dh = dr @ params["Wh"].T
        return da, (dh if direct is None else dh + direct, *others), {"Wh": before[0].T @ dr}

    def advance(
        self,
        a: Array,
        state: State,
        params: Params,
        buffer: Buffer,
        extra_term: RecurrentTerm | None = None,
    ) -> State:
        n, H = state[0].shape
        after = tuple(get_array_module(a).empty_like(x) for x in state)
        saved = {name: buffer(name, (n, columns * H)) for name, columns in self.saved.items()}
        Wh = constant_factor(params["Wh"], buffer.scope("Wh"))
        forward_steps(self, a, Wh, state, after, saved, buffer, extra_term)(single_step(n))
        return after

    @in_turn
    def rows_forward(
        self,
        a: Array,
        state0: tuple[Any, ...],
        params: Params,
        rows: PackedSequences,
        buffer: Buffer | None = None,
        extra_term: RecurrentTerm | None = None,
    ) -> tuple[Array, RowsCache]:
        self._check_rows(a, state0, params, rows)
        state0 = tuple(map(contiguous, state0))  # which `layer` does not see in a tuple
        return forward_loop(a, state0, params["Wh"], rows, self, buffer, extra_term)

    @in_turn
    def rows_backward(
        self, dh: Array, cache: Any, buffer: Buffer | None = None, grads: Params | None = None
    ) -> tuple[Array, State, Params]:
        shape, h = (cache.rows.R, len(cache.Wh)), cache.states[0]
        check_upstream(f"{type(self).__name__}.rows_backward", "dh", dh, shape, h)
        da, dstate0, dWh = backward_loop(dh, cache, buffer, None if grads is None else grads["Wh"])
        return da, dstate0, {"Wh": dWh}

    def block_values(self, cache: RowsCache) -> dict[str, Array]:
        values = cache.saved.get("blocks")
        return {} if values is None else dict(zip(self.blocks, self.split(values), strict=True))


# ---- The loop


def forward_loop(
    a: Array,
    state0: tuple[Array | None, ...],
    Wh: Array,
    rows: PackedSequences,
    cell: Pointwise,
    buffer: Buffer | None = None,
    extra_term: RecurrentTerm | None = None,
) -> tuple[Array, RowsCache]:
    """Pointwise.rows_forward without its checks: h (R, H), a view into the cache."""
    R, N, H = len(a), rows.N, len(Wh)
    shapes = [(N + R, H)] * len(cell.states) + [(R, k * H) for k in cell.saved.values()]
    if buffer is None:
        arrays = one_block(a, shapes)
    else:
        arrays = [*map(buffer, (*cell.states, *cell.saved), shapes)]
    states = tuple(arrays[: len(cell.states)])
    saved = dict(zip(cell.saved, arrays[len(states) :], strict=True))
    get_ops(a).start_states(state0, states)
    factor = get_ops(a).factor(Wh, buffer)
    step_fn = forward_steps(cell, a, factor, states, states, saved, buffer, extra_term)
    for step in rows.steps:
        step_fn(step)
    return states[0][N:], RowsCache(cell, states, saved, Wh, rows, extra_term)


def forward_steps(
    cell: Pointwise,
    a: Array,
    Wh: Factor,
    before: State,
    after: State,
    saved: dict[str, Array],
    buffer: Buffer | None,
    extra_term: RecurrentTerm | None,
) -> StepFn:
    """A step of a cell, from stacks of states before steps to stacks of those after them."""
    ops, h = get_ops(a), after[0]
    # The rows of a stack of states begin behind the initial ones
    r = saved[cell.product_buffer] if cell.product_buffer in saved else h[len(h) - len(a) :]
    add = None
    if extra_term is not None and not cell.scales_recurrence:
        add = extra_term.forward_steps(before[0], r)
    elif extra_term is not None:
        a, add = with_term(a, before[0], extra_term, buffer or allocator(a))
    loop = CellBuffers(a, r, before, after, tuple(saved.values()))
    if add is None and (fused := ops.fused_cell_steps(cell, loop, Wh)):
        return fused
    multiply, cell_step = ops.row_matmul(before[0], Wh, r), ops.cell_steps(cell, loop)

    def step_fn(step: Any) -> None:
        multiply(step.before, step.first, step.n)  # r = h @ Wh
        if add is not None:
            add(step)
        cell_step(step)

    return step_fn


def backward_loop(
    dh: Array,
    cache: RowsCache,
    buffer: Buffer | None = None,
    dWh: Array | None = None,
    last: tuple[Array | None, ...] | None = None,
) -> tuple[Array, State, Array]:
    """Pointwise.rows_backward without its checks: da (R, G), those of the states before, and dWh.

    `last`, each (N, H), is the upstream gradient of each sequence's state after its last step; None:
    zeros.
    """
    cell, states, saved, Wh, rows, extra_term = cache
    (H, G), R, N, h = Wh.shape, rows.R, rows.N, states[0]
    ops, buffer = get_ops(h), buffer or allocator(h)
    da = buffer("da", (R, G))
    dr, direct = (
        (buffer("dr", (R, G)), buffer("dh_direct", (N, H)))
        if cell.scales_recurrence
        else (da, None)
    )
    dstate = tuple(buffer(f"d{name}", (N, H)) for name in cell.states)
    loop = CellBuffers(da, da, states, states, tuple(saved.values()))
    grads = CellGradients(dh, dstate, last or (None,) * len(states), da, dr, direct)
    step_fn = backward_steps(cell, loop, grads, Wh, extra_term)
    for step in reversed(rows.steps):
        step_fn(step)
    if last is None:
        zero_without_steps(rows, *dstate)
    dWh = buffer("dWh", Wh.shape) if dWh is None else dWh
    return da, dstate, ops.matmul(_states_before(rows, h, buffer).T, dr, out=dWh)


def _states_before(rows: PackedSequences, stack: Array, buffer: Buffer) -> Array:
    """The state (R, H) that each row starts from."""
    if rows.previous is None:
        return stack[: rows.R]
    out = buffer("previous", (rows.R, stack.shape[1]))
    return get_ops(stack).gather(stack, contiguous(asarray(rows.previous, like=stack)), out)


def backward_steps(
    cell: Pointwise,
    loop: CellBuffers,
    grads: CellGradients,
    Wh: Array,
    extra_term: RecurrentTerm | None,
) -> StepFn:
    """Gradients of forward_steps, later steps first."""
    ops, dh = get_ops(Wh), grads.dstate[0]
    plain = extra_term is None and not grads.carries
    if plain and (fused := ops.fused_cell_backward_steps(cell, loop, grads, Wh)):
        return fused
    cell_step = ops.cell_backward_steps(cell, loop, grads)
    multiply = ops.row_matmul_nt(grads.dr, Wh, dh)
    add = None if extra_term is None else extra_term.backward_steps(grads.da, dh)

    def step_fn(step: Any) -> None:
        cell_step(step)
        multiply(step.first, 0, step.n)  # dh = dr @ Wh.T
        if grads.dh_direct is not None:
            dh[: step.n] += grads.dh_direct[: step.n]
        if add is not None:
            add(step)

    return step_fn
