"""Stacked cells as one Cell."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from xpcap.backend import Array, get_array_module
from xpcap.backend.memory import Workspace
from xpcap.errors import InvalidTypeError, InvalidValueError
from xpcap.layers.cell import Activation, Cell, Params, Shapes, StepCache
from xpcap.ops import PackedSequences, RecurrentTerm, State, get_ops


def stack(*cells: Cell) -> Cell:
    """Stack cells, bottom first: each cell runs over the states of the one below it.

    The number of a layer follows the names of its parameters: Wx1, Wh1, b1, Wx2 and so on. The state
    has the arrays of the top layer first. An extra term, such as attention, is added in the bottom
    layer. There is no dropout between layers.

    Parameters
    ----------
    *cells : Cell
        Two or more cells.

    Returns
    -------
    cell : Cell

    Raises
    ------
    TypeError
        An argument is no Cell.
    ValueError
        There are fewer than two cells.

    Examples
    --------
    >>> from xpcap.layers import CELLS
    >>> cell = stack(CELLS["lstm"], CELLS["lstm"])  # CELLS["lstm2"] = cell lets a model use it
    >>> list(cell.shapes(W=8, H=16))
    ['Wx1', 'Wh1', 'b1', 'Wx2', 'Wh2', 'b2']
    """
    for cell in cells:
        if not isinstance(cell, Cell):
            raise InvalidTypeError(
                f'stack: got a {type(cell).__name__}, expected cells; give CELLS["lstm"], not its'
                " name"
            )
    if len(cells) < 2:
        raise InvalidValueError(
            f"stack: got {'one cell' if cells else 'no cell'}, expected two or more"
        )
    return _Stack(cells)


class StackCache(NamedTuple):
    """Cache of a stack."""

    layers: list[tuple[Any, Array | None, Params]]  # cache, input from the layer below, parameters

    @property
    def output(self) -> Array:
        """h of the top layer (R, H)."""
        return self.layers[-1][0].output


class _Stack(Cell):
    """A stack, which runs each cell's loop. Layers are numbered 1, 2, ... from the bottom."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._cells = dict(enumerate(cells, 1))
        self.states = tuple(
            f"{name}{k}" for k in reversed(self._cells) for name in self._cells[k].states
        )
        weight, bias = cells[0].inputs
        self.inputs = f"{weight}1", f"{bias}1"

    def shapes(self, W: int, H: int) -> Shapes:
        layer_shapes = {k: cell.shapes(W if k == 1 else H, H) for k, cell in self._cells.items()}
        return {
            f"{name}{k}": shape
            for k, shapes in layer_shapes.items()
            for name, shape in shapes.items()
        }

    def step_forward(self, a: Array, state: State, params: Params) -> tuple[State, StepCache]:
        after: State = ()
        caches = {}
        for k, cell in self._cells.items():
            layer_params = self._of_layer(params, k)
            below = after[0] if after else None
            if below is not None:
                weight, bias = (layer_params[name] for name in cell.inputs)
                a = below @ weight + bias
            states, cache = cell.step_forward(a, self._state(state, k), layer_params)
            after = states + after
            caches[str(k)] = (cache, below)
        return after, caches

    def step_backward(
        self, dafter: State, cache: StepCache, params: Params
    ) -> tuple[Array, State, Params]:
        dstate: State = ()
        grads: dict[str, Array] = {}
        dbelow: Any = 0
        for k, cell in reversed(self._cells.items()):
            layer_cache, below = cache[str(k)]
            layer_params = self._of_layer(params, k)
            dh, *others = self._state(dafter, k)
            da, dbefore, step_grads = cell.step_backward(
                (dh + dbelow, *others), layer_cache, layer_params
            )
            layer_grads = dict(step_grads)
            dstate = dstate + dbefore
            if below is not None:
                weight, bias = cell.inputs
                layer_grads |= {weight: below.T @ da, bias: da.sum(axis=0)}
                dbelow = da @ layer_params[weight].T
            grads |= {f"{name}{k}": grad for name, grad in layer_grads.items()}
        return da, dstate, grads

    def laid_out(self, params: Params, memory: Workspace) -> Params:
        return {
            f"{name}{k}": x
            for k, cell in self._cells.items()
            for name, x in cell.laid_out(self._of_layer(params, k), memory.scope(str(k))).items()
        }

    def advance(
        self,
        a: Array,
        state: State,
        params: Params,
        memory: Workspace,
        extra_term: RecurrentTerm | None = None,
    ) -> State:
        after: State = ()
        for k, cell in self._cells.items():
            scope = memory.scope(str(k))
            layer_params = self._of_layer(params, k)
            a = self._inputs(k, after[0], layer_params, scope) if after else a
            term = extra_term if k == 1 else None
            after = cell.advance(a, self._state(state, k), layer_params, scope, term) + after
        return after

    def run_forward(
        self,
        a: Array,
        state0: tuple[Any, ...],
        params: Params,
        rows: PackedSequences,
        memory: Workspace | None = None,
        extra_term: RecurrentTerm | None = None,
    ) -> tuple[Array, StackCache]:
        memory = memory or Workspace.fresh(a)
        h: Array | None = None
        caches: list[Any] = []
        for k, cell in self._cells.items():
            scope = memory.scope(str(k))
            layer_params = self._of_layer(params, k)
            a = a if h is None else self._inputs(k, h, layer_params, scope)
            h0, *others = self._state(state0, k)
            if h0 is None:
                h0 = get_array_module(a).zeros_like(state0[0])
            below = h
            term = extra_term if k == 1 else None
            h, cache = cell.run_forward(a, (h0, *others), layer_params, rows, scope, term)
            caches.append((cache, below, layer_params))
        return h, StackCache(caches)

    def run_backward(
        self,
        dh: Array,
        cache: Any,
        memory: Workspace | None = None,
        grads: Params | None = None,
    ) -> tuple[Array, State, Params]:
        ops = get_ops(dh)
        memory = memory or Workspace.fresh(dh)
        if grads is None:
            params = {
                f"{name}{k}": x
                for k, (*_, layer_params) in enumerate(cache.layers, 1)
                for name, x in layer_params.items()
            }
            grads = {
                name: memory.take(f"d{name}", params[name].shape) for name in self.recurrent_names()
            }
        dstate0: State = ()
        for k, cell in reversed(self._cells.items()):
            loop, below, params = cache.layers[k - 1]
            layer_grads = self._of_layer(grads, k)
            scope = memory.scope(str(k))
            recurrent = {name: layer_grads[name] for name in cell.recurrent_names()}
            da, dstate, _ = cell.run_backward(dh, loop, scope, recurrent)
            dstate0 += dstate
            if below is not None:
                weight, bias = cell.inputs
                ops.matmul(below.T, da, out=layer_grads[weight])
                ops.column_sum(da, out=layer_grads[bias])
                dh = ops.matmul(da, params[weight].T, out=scope.take("dh_below", below.shape))
        return da, dstate0, grads

    def activations(self, cache: Any) -> dict[str, Activation]:
        return self._numbered(cache, "activations")

    def block_values(self, cache: Any) -> dict[str, Array]:
        return self._numbered(cache, "block_values")

    def _numbered(self, cache: Any, method: str) -> dict[str, Any]:
        """The results of a cell method for each layer's cache, under numbered names."""
        layers = zip(self._cells.items(), cache.layers, strict=True)
        return {
            f"{name}{k}": x
            for (k, cell), (loop, *_) in layers
            for name, x in getattr(cell, method)(loop).items()
        }

    def _of_layer(self, params: Mapping[str, Array], k: int) -> dict[str, Array]:
        """The parameters of layer k, or their gradients, under its cell's names."""
        names = self._cells[k].shapes(1, 1)
        return {name: params[f"{name}{k}"] for name in names if f"{name}{k}" in params}

    def _state(self, state: tuple[Any, ...], k: int) -> tuple[Any, ...]:
        """The arrays of layer k in the state of the stack."""
        above = sum(len(cell.states) for number, cell in self._cells.items() if number > k)
        return state[above : above + len(self._cells[k].states)]

    def _inputs(self, k: int, h: Array, layer_params: Params, memory: Workspace) -> Array:
        """Pre-activations (n, G) of layer k from the states below it."""
        weight, bias = (layer_params[name] for name in self._cells[k].inputs)
        ops = get_ops(h)
        return ops.add_rows(ops.matmul(h, weight, memory.take("inputs", (len(h), len(bias)))), bias)
