"""One loop over packed rows, whatever the cell: a cell is the pointwise half of a step.

    a = x @ Wx + b              of all rows, one product before the loop
    at each step, of the n sequences alive:
        r = h @ Wh
        r += context @ Wattn    with attention, or another RecurrentTerm
        h, ... = cell(a, r, h, ...)

Backward, the steps run in reverse, and the gradients of Wx, Wh and b are one product each after the
loop. The cells are lstm.py, rnn.py and gru.py; cells.py offers them to captioners.
"""

from typing import Any, NamedTuple

from xpcap.backend import Array, asarray, get_array_module
from xpcap.layers.checks import check_upstream
from xpcap.memory import Buffer, allocator, one_block
from xpcap.ops import (
    CellBuffers,
    CellGradients,
    PackedSequences,
    Pointwise,
    RecurrentTerm,
    State,
    StepFn,
    contiguous,
    from_rows,
    get_ops,
    single_step,
    to_rows,
    zero_without_steps,
)
from xpcap.spec import Spec, spec
from xpcap.threads import in_turn

# ---- The loop


class RowsCache(NamedTuple):
    """Cache of rows_forward."""

    cell: Pointwise
    states: State  # stacks, each (N+R, H): initial states, then those after each row
    saved: dict[str, Array]  # (R, .), as the cell names them
    Wh: Array  # (H, G)
    rows: PackedSequences
    extra_term: RecurrentTerm | None

    @property
    def sizes(self) -> dict[str, int]:
        """R rows of N sequences, H units."""
        return {"R": self.rows.R, "N": self.rows.N, "H": len(self.Wh)}


@in_turn
def rows_forward(
    a: Array,
    state0: tuple[Array | None, ...],
    Wh: Array,
    rows: PackedSequences,
    cell: Pointwise,
    buffer: Buffer | None = None,
    extra_term: RecurrentTerm | None = None,
) -> tuple[Array, RowsCache]:
    """Run a cell over packed rows: steps on a_t and h_{t-1} @ Wh of the sequences alive at each t.

    a (R, G) is x @ Wx + b of every row, time-major; an array of `state0`, each (N, H), may be None
    but for h0: zeros. Memory for results and cache comes from `buffer`; None allocates.
    `extra_term`, such as attention, adds to the pre-activation of each step. h (R, H) is a view
    into the cache. TypeError, ValueError : libraries, dtypes, shapes or sizes do not match.
    """
    function, (h0, *others) = f"{cell.name}_rows_forward", state0
    sizes = loop_spec(cell).check(function, a, h0, Wh, *others, note=cell.order)
    rows.check(function, len(a), sizes["N"])
    state0 = tuple(map(contiguous, state0))  # which `layer` does not see in a tuple
    return forward_loop(a, state0, Wh, rows, cell, buffer, extra_term)


def forward_loop(
    a: Array,
    state0: tuple[Array | None, ...],
    Wh: Array,
    rows: PackedSequences,
    cell: Pointwise,
    buffer: Buffer | None = None,
    extra_term: RecurrentTerm | None = None,
) -> tuple[Array, RowsCache]:
    """rows_forward without its checks."""
    R, N, H = len(a), rows.N, len(Wh)
    shapes = [(N + R, H)] * len(cell.states) + [(R, k * H) for k in cell.saved.values()]
    if buffer is None:
        arrays = one_block(a, shapes)
    else:
        arrays = [*map(buffer, (*cell.states, *cell.saved), shapes)]
    states = tuple(arrays[: len(cell.states)])
    saved = dict(zip(cell.saved, arrays[len(states) :], strict=True))
    get_ops(a).start_states(state0, states)
    step_fn = forward_steps(cell, a, Wh, states, states, saved, buffer, extra_term)
    for step in rows.steps:
        step_fn(step)
    return states[0][N:], RowsCache(cell, states, saved, Wh, rows, extra_term)


def forward_steps(
    cell: Pointwise,
    a: Array,
    Wh: Array,
    before: State,
    after: State,
    saved: dict[str, Array],
    buffer: Buffer | None,
    extra_term: RecurrentTerm | None,
) -> StepFn:
    """A step of a cell, from stacks of states before steps to stacks of those after them."""
    ops, h = get_ops(a), after[0]
    # The rows of a stack of states begin behind the initial ones
    r = saved[cell.product] if cell.product in saved else h[len(h) - len(a) :]
    add = None
    if extra_term is not None and not cell.scales:
        add = extra_term.forward_steps(before[0], r)
    elif extra_term is not None:
        with_term = (buffer or allocator(a))("a", a.shape)
        with_term[...] = a
        a, add = with_term, extra_term.forward_steps(before[0], with_term)
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


@in_turn
def rows_backward(
    dh: Array,
    cache: RowsCache,
    buffer: Buffer | None = None,
    dWh: Array | None = None,
    last: tuple[Array | None, ...] | None = None,
) -> tuple[Array, State, Array]:
    """Gradients of rows_forward: da (R, G), those of the states before, each (N, H), and dWh (H, G).

    dh (R, H) is the upstream gradient of each row, from the layers above; `last`, each (N, H), that
    of each sequence's state after its last step, None: zeros. dWh is memory for that gradient.
    TypeError, ValueError : libraries, dtypes or shapes do not match.
    """
    N, H, h = cache.rows.N, len(cache.Wh), cache.states[0]
    function = f"{cache.cell.name}_rows_backward"
    check_upstream(function, "dh", dh, (cache.rows.R, H), h)
    for name, x in zip(cache.cell.states, last or (), strict=False):
        if x is not None:
            check_upstream(function, f"d{name}_T", x, (N, H), h)
    last = last and tuple(map(contiguous, last))
    return backward_loop(dh, cache, buffer, dWh, last)


def backward_loop(
    dh: Array,
    cache: RowsCache,
    buffer: Buffer | None = None,
    dWh: Array | None = None,
    last: tuple[Array | None, ...] | None = None,
) -> tuple[Array, State, Array]:
    """rows_backward without its checks."""
    cell, states, saved, Wh, rows, extra_term = cache
    (H, G), R, N, h = Wh.shape, rows.R, rows.N, states[0]
    ops, buffer = get_ops(h), buffer or allocator(h)
    da = buffer("da", (R, G))
    dr, direct = (buffer("dr", (R, G)), buffer("dh_direct", (N, H))) if cell.scales else (da, None)
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


def loop_spec(cell: Pointwise) -> Spec:
    """Shapes of a loop's arguments: ``a:R,4H h0:N,H Wh:H,4H c0?:N,H``."""
    G, (h, *others) = f"{len(cell.blocks)}H", cell.states
    return spec(" ".join((f"a:R,{G} {h}0:N,H Wh:H,{G}", *(f"{name}0?:N,H" for name in others))))


# ---- One step: of sampling, and by itself


def advance(
    a: Array,
    state: State,
    Wh: Array,
    cell: Pointwise,
    buffer: Buffer,
    extra_term: RecurrentTerm | None = None,
) -> State:
    """The state after one step from a (n, G) and a state, in fresh memory; for sampling."""
    n, H = state[0].shape
    after = tuple(get_array_module(a).empty_like(x) for x in state)
    saved = {name: buffer(name, (n, columns * H)) for name, columns in cell.saved.items()}
    forward_steps(cell, a, Wh, state, after, saved, buffer, extra_term)(single_step(n))
    return after


class StepCache(NamedTuple):
    """Cache of step_forward: its arguments and results."""

    cell: Pointwise
    x: Array  # (N, D)
    before: State
    Wx: Array
    Wh: Array
    after: State
    saved: State

    @property
    def sizes(self) -> dict[str, int]:
        """N sequences, D inputs, H units."""
        return {"N": len(self.x), "D": len(self.Wx), "H": len(self.Wh)}


def step_forward(
    cell: Pointwise, x: Array, before: State, Wx: Array, Wh: Array, b: Array
) -> tuple[State, StepCache]:
    """The state after one step of a cell from x (N, D); the cache keeps its own copy."""
    a, r = x @ Wx + b, before[0] @ Wh
    (N, H), empty = before[0].shape, get_array_module(x).empty

    def array(name: str, columns: int = 1) -> Array:
        return r if name == cell.product else empty((N, columns * H), a.dtype)

    after = tuple(map(array, cell.states))
    saved = tuple(array(name, columns) for name, columns in cell.saved.items())
    get_ops(x).cell_steps(cell, CellBuffers(a, r, before, after, saved))(single_step(N))
    copies = tuple(state.copy() for state in after)  # which the caller may write to
    return copies, StepCache(cell, x, before, Wx, Wh, after, saved)


def step_backward(dstate: State, cache: StepCache) -> tuple[Array, State, Array, Array, Array]:
    """Gradients of step_forward: dx, those of the state before, dWx, dWh and db."""
    cell, x, before, Wx, Wh, after, saved = cache
    da, dr, (direct, *others) = cell.gradient(dstate, before, after, saved)
    dh = dr @ Wh.T if direct is None else dr @ Wh.T + direct
    return da @ Wx.T, (dh, *others), x.T @ da, before[0].T @ dr, da.sum(axis=0)


# ---- Sequences (N, T, D), all of one length


class SequenceCache(NamedTuple):
    """Cache of sequence_forward."""

    x: Array  # (T*N, D), time-major
    Wx: Array  # (D, G)
    loop: RowsCache
    carried: bool  # the state besides h was given, and its last value returned

    @property
    def sizes(self) -> dict[str, int]:
        """N sequences of T steps, D inputs, H units."""
        rows = self.loop.rows
        return {"N": rows.N, "T": len(rows.batch_sizes), "D": len(self.Wx), "H": len(self.loop.Wh)}

    @property
    def last_state(self) -> State:
        """The state (N, H) after the last step."""
        return tuple(x[len(x) - self.loop.rows.N :].copy() for x in self.loop.states)


def sequence_forward(
    cell: Pointwise, x: Array, state0: tuple[Array | None, ...], Wx: Array, Wh: Array, b: Array
) -> tuple[Array, SequenceCache]:
    """States (N, T, H) of a cell over a whole sequence x (N, T, D)."""
    N, T, _ = x.shape
    x_rows = to_rows(x)
    a = x_rows @ Wx  # (T*N, G)
    a += b
    h, loop = forward_loop(a, state0, Wh, PackedSequences.full(N, T), cell)
    return from_rows(h, N, T), SequenceCache(x_rows, Wx, loop, state0[-1] is not None)


def sequence_backward(
    dh: Array, cache: SequenceCache, last: tuple[Array | None, ...] | None = None
) -> tuple[Array, State, Array, Array, Array]:
    """Gradients of sequence_forward: dx, those of state0, dWx, dWh and db."""
    x, Wx, loop, _ = cache
    da, dstate0, dWh = backward_loop(to_rows(dh), loop, last=last)
    dx = from_rows(da @ Wx.T, loop.rows.N, len(loop.rows.batch_sizes))
    return dx, dstate0, x.T @ da, dWh, da.sum(axis=0)
