"""Recurrent cells: a step and its gradient, and a plain loop that runs them over packed rows."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from xpcap.backend import Array, get_array_module
from xpcap.backend.memory import Workspace
from xpcap.backend.shape_specs import check_float, spec
from xpcap.backend.threads import one_blas_thread
from xpcap.errors import InvalidTypeError, InvalidValueError
from xpcap.layers.checks import check_upstream
from xpcap.ops import PackedSequences, RecurrentTerm, State, contiguous, get_ops, single_step

Shapes = dict[str, tuple[int, ...]]
Params = Mapping[str, Array]
StepCache = Mapping[str, Any]  # the cache of one step


class Activation(NamedTuple):
    """Activations (R, H) of a nonlinearity, which has hardly any gradient outside low..high."""

    values: Array  # (R, H)
    low: float
    high: float


class LoopCache(NamedTuple):
    """Cache of Cell.rows_forward."""

    h: Array  # (N+R, H): the initial states, then the state after each row
    G: int
    steps: list[StepCache]
    params: Params
    rows: PackedSequences
    extra_term: RecurrentTerm | None

    @property
    def output(self) -> Array:
        """h after each row (R, H)."""
        return self.h[self.rows.N :]


class Cell:
    """A recurrent cell: a step and its gradient, with named parameters.

    A subclass writes `step_forward` and `step_backward`, with any products they need, and names the
    parameters in `shapes`. The base class runs them over packed rows on any array library, and sums
    the gradients of the parameters. A captioner can train, sample, attend and be exported with each
    instance in `CELLS`.

    A step gets pre-activations a = x @ Wx + b, (n, G). The captioner computes them, once for each
    distinct word, adds the terms of the image and of attention, and computes the gradients of Wx and
    b. It also applies dropout to image features, word vectors and h; a cell has no dropout.

    Attributes
    ----------
    blocks : str
        A letter for each block of H columns in a, in the order of stacking. `CaptioningRNN.trace` and
        ``look`` show the arrays with these names in a step's cache.
    gates : str
        The blocks with a logistic function, so in 0..1. `look` shows their saturation.
    states : tuple of str
        Names of a state's arrays, each (n, H). The first is h, the output.
    inputs : tuple of two str
        Names of the weight (W, G) and the bias (G,) that make a.
    meanings : dict of str to tuple of str
        For blocks and states, a title and a description for the page of ``look``.
    memory_gate : tuple of str or None
        Names of a gate and of the state that it multiplies from one step to the next. None: the cell
        has no such gate.
    """

    blocks: str = ""
    gates: str = ""
    states: tuple[str, ...] = ("h",)
    inputs: tuple[str, str] = ("Wx", "b")
    meanings: ClassVar[dict[str, tuple[str, str]]] = {}
    memory_gate: tuple[str, str] | None = None
    # Methods that a subclass may not override, since the loop would ignore it: what to write instead
    fixed: ClassVar[dict[str, str]] = {
        "rows_forward": "a `step_forward`",
        "rows_backward": "a `step_backward`",
    }

    def __init_subclass__(cls) -> None:
        """Refuse an override that the loop would ignore."""
        for kind in cls.__mro__:
            for name, expected in vars(kind).get("fixed", {}).items():
                if getattr(cls, name) is not getattr(kind, name):
                    raise InvalidTypeError(
                        f"{cls.__name__}: {name} is overridden, which the loop would ignore,"
                        f" expected {expected}; or subclass Cell"
                    )

    # ---- Methods that a cell writes

    def shapes(self, W: int, H: int) -> Shapes:
        """Names and shapes of the parameters, in the order of the flat buffer.

        Initial matrices are randn / sqrt(rows); initial vectors are zero.

        Parameters
        ----------
        W : int
            Size of a word vector.
        H : int
            Size of a state.

        Returns
        -------
        shapes : dict of str to tuple of int
            Here Wx (W, G), Wh (H, G) and b (G,), with H columns for each block.
        """
        G = len(self.blocks) * H
        return {"Wx": (W, G), "Wh": (H, G), "b": (G,)}

    def step_forward(self, a: Array, state: State, params: Params) -> tuple[State, StepCache]:
        """One step of n sequences; it must not change its arguments.

        Parameters
        ----------
        a : array (n, G), float
            Pre-activations.
        state : tuple of array (n, H), float
            The state before the step.
        params : mapping of str to array
            The parameters by name.

        Returns
        -------
        after : tuple of array (n, H), float
            The state after the step.
        cache : dict
            The values that `step_backward` reads, by name.
        """
        raise NotImplementedError(
            f"{type(self).__name__}.step_forward is missing: write a step, which returns the next state"
            " and a dict for step_backward, given a (n, G), the state and the parameters"
        )

    def step_backward(
        self, dafter: State, cache: StepCache, params: Params
    ) -> tuple[Array, State, Params]:
        """Gradients of `step_forward`.

        Parameters
        ----------
        dafter : tuple of array (n, H), float
            The gradient of the state after the step.
        cache : dict
        params : mapping of str to array

        Returns
        -------
        da : array (n, G), float
        dstate : tuple of array (n, H), float
            The gradient of the state before the step.
        grads : dict of str to array
            This step's gradients of all parameters but the two `inputs`, by name.
        """
        raise NotImplementedError(
            f"{type(self).__name__}.step_backward is missing: write the gradients of its step"
        )

    # ---- Methods of the base class

    @property
    def order(self) -> str:
        """The order of the blocks, for messages about a wrong shape; empty for a single block."""
        return f"gates stack {', '.join(self.blocks)}" if len(self.blocks) > 1 else ""

    def split(self, x: Array) -> list[Array]:
        """Views of a pre-activation's blocks.

        Parameters
        ----------
        x : array (n, G), float

        Returns
        -------
        blocks : list of array (n, H), float
        """
        if not self.blocks:
            raise InvalidValueError(
                f"{type(self).__name__}.split: blocks is empty, expected a letter for each block of"
                " H columns"
            )
        H = x.shape[1] // len(self.blocks)
        return [x[:, k * H : (k + 1) * H] for k in range(len(self.blocks))]

    def recurrent_names(self) -> list[str]:
        """Names of all parameters but the two `inputs`.

        Returns
        -------
        names : list of str
            In the order of the flat buffer.
        """
        return [name for name in self.shapes(1, 1) if name not in self.inputs]

    def laid_out(self, params: Params, memory: Workspace) -> Params:
        """Parameters for `advance` in a layout that suits many steps, while they do not change.

        Parameters
        ----------
        params : mapping of str to array
        memory : Workspace

        Returns
        -------
        params : mapping of str to array or to a Factor of `xpcap.ops`
        """
        return params

    def advance(
        self,
        a: Array,
        state: State,
        params: Params,
        memory: Workspace,
        extra_term: RecurrentTerm | None = None,
    ) -> State:
        """The state after one step, in new arrays; for sampling.

        Parameters
        ----------
        a : array (n, G), float
            Pre-activations.
        state : tuple of array (n, H), float
            The state before the step.
        params : mapping of str to array
            The parameters by name, or as `laid_out` returns them.
        memory : Workspace
            Memory for temporaries.
        extra_term : RecurrentTerm or None
            A term to add to a, such as attention.

        Returns
        -------
        after : tuple of array (n, H), float
        """
        a = a.copy()  # the caller reuses its memory, and a state may be a view of it
        if extra_term is not None:
            extra_term.forward_steps(state[0], a, len(a))(single_step(len(a)))
        after, _ = self._checked_step(a, state, params)
        return after

    @one_blas_thread()
    def rows_forward(
        self,
        a: Array,
        state0: tuple[Any, ...],
        params: Params,
        rows: PackedSequences,
        memory: Workspace | None = None,
        extra_term: RecurrentTerm | None = None,
    ) -> tuple[Array, Any]:
        """Run the cell over packed rows.

        Parameters
        ----------
        a : array (R, G), float
            Pre-activations of every row, time-major.
        state0 : tuple of array (N, H), float, or None
            The state before the first step. None means zeros; h may not be None.
        params : mapping of str to array
        rows : PackedSequences
        memory : Workspace or None
            Memory for results and cache. None: new arrays.
        extra_term : RecurrentTerm or None
            A term that each step adds to its pre-activations, such as attention.

        Returns
        -------
        h : array (R, H), float
            A view into the cache.
        cache : object
            For `rows_backward`, `block_values` and `activations`.

        Raises
        ------
        TypeError, ValueError
            Libraries, dtypes, shapes or sizes do not match, in the arguments or a step's results.
        """
        self._check_rows(a, state0, params, rows)
        state0 = tuple(map(contiguous, state0))  # `layer` makes only plain arguments contiguous
        return self.run_forward(a, state0, params, rows, memory, extra_term)

    def run_forward(
        self,
        a: Array,
        state0: tuple[Any, ...],
        params: Params,
        rows: PackedSequences,
        memory: Workspace | None = None,
        extra_term: RecurrentTerm | None = None,
    ) -> tuple[Array, Any]:
        """`rows_forward` without its checks.

        Parameters
        ----------
        a, state0, params, rows, memory, extra_term : object
            As in `rows_forward`.

        Returns
        -------
        h, cache : array, object
            As in `rows_forward`.
        """
        memory = memory or Workspace.fresh(a)
        shape = (rows.N + rows.R, state0[0].shape[1])
        stacks = tuple(memory.take(f"state {name}", shape) for name in self.states)
        get_ops(a).start_states(state0, stacks)
        add = None
        caches = []
        if extra_term is not None:
            with_term = memory.take("a with term", (rows.N, a.shape[1]))
            add = extra_term.forward_steps(stacks[0], with_term, len(a))
        for step in rows.steps:
            step_a = _read_only(a[step.rows])
            if add is not None:
                with_term[: step.n] = step_a
                add(step)
                step_a = with_term[: step.n].copy()  # the cache may hold it
            state = tuple(_read_only(stack[step.states_before]) for stack in stacks)
            after, cache = self._checked_step(step_a, state, params)
            for name, stack, x in zip(self.states, stacks, after, strict=True):
                self._check("step_forward", f"state {name}", x, stack[step.states_after])
                stack[step.states_after] = x
            caches.append(cache)
        return stacks[0][rows.N :], LoopCache(
            stacks[0], a.shape[1], caches, params, rows, extra_term
        )

    @one_blas_thread()
    def rows_backward(
        self, dh: Array, cache: Any, memory: Workspace | None = None, grads: Params | None = None
    ) -> tuple[Array, State, Params]:
        """Gradients of `rows_forward`.

        Parameters
        ----------
        dh : array (R, H), float
            The upstream gradient of each row, from the layers above.
        cache : object
        memory : Workspace or None
            Memory for results. None: new arrays.
        grads : mapping of str to array, or None
            Memory for the gradients of all parameters but the two `inputs`, by name. None: new
            arrays.

        Returns
        -------
        da : array (R, G), float
        dstate0 : tuple of array (N, H), float
        grads : mapping of str to array
            The argument `grads`, if given.

        Raises
        ------
        TypeError, ValueError
            Libraries, dtypes or shapes do not match, in the arguments or the results of
            `step_backward`, or a gradient is missing.
        """
        h = cache.output
        check_upstream(f"{type(self).__name__}.rows_backward", "dh", dh, h.shape, h)
        return self.run_backward(dh, cache, memory, grads)

    def run_backward(
        self, dh: Array, cache: Any, memory: Workspace | None = None, grads: Params | None = None
    ) -> tuple[Array, State, Params]:
        """`rows_backward` without its checks.

        Parameters
        ----------
        dh, cache, memory, grads : object
            As in `rows_backward`.

        Returns
        -------
        da, dstate0, grads : array, tuple of array, mapping
            As in `rows_backward`.
        """
        h, G, caches, params, rows, extra_term = cache
        N = rows.N
        H = h.shape[1]
        memory = memory or Workspace.fresh(h)
        da = memory.take("da", (rows.R, G))
        dstate = tuple(memory.take(f"dstate {name}", (N, H)) for name in self.states)
        if grads is None:
            names = self.recurrent_names()
            grads = {name: memory.take(f"gradient {name}", params[name].shape) for name in names}
        for total in (*dstate, *grads.values()):
            total[...] = 0
        add = None if extra_term is None else extra_term.backward_steps(da, dstate[0])
        for step, step_cache in zip(reversed(rows.steps), reversed(caches), strict=True):
            dafter = tuple(x[: step.n].copy() for x in dstate)
            dafter[0][...] += dh[step.rows]
            self._backward(step_cache, params, dafter, da[step.rows], dstate, grads)
            if add is not None:
                add(step)
        return da, dstate, grads

    def _backward(
        self,
        cache: StepCache,
        params: Params,
        dafter: State,
        da: Array,
        dstate: State,
        grads: Params,
    ) -> None:
        """Write a step's gradients to da (n, G) and the first n rows of dstate; add them to grads."""
        function = "step_backward"
        names = [f"gradient of state {name}" for name in self.states]
        results = self.step_backward(dafter, cache, params)
        step_da, dbefore, step_grads = self._unpacked(function, results, "da", "dstate", "grads")
        self._check(function, "da", step_da, da)
        da[...] = step_da
        dbefore = self._unpacked(f"{function}, dstate", dbefore, *names)
        for name, total, x in zip(names, dstate, dbefore, strict=True):
            self._check(function, name, x, total[: len(da)])
            total[: len(da)] = x
        if set(step_grads) != set(grads):
            got, wanted = (", ".join(names) or "nothing" for names in (step_grads, grads))
            raise InvalidValueError(
                f"{self._name(function)}: grads are those of {got}, expected of {wanted}; the"
                " caller computes those of the inputs, from da"
            )
        for name, total in grads.items():
            self._check(function, f"gradient of {name}", step_grads[name], total)
            total[...] += step_grads[name]

    def block_values(self, cache: Any) -> dict[str, Array]:
        """The blocks after their nonlinearities.

        Parameters
        ----------
        cache : object
            As `rows_forward` returns it.

        Returns
        -------
        values : dict of str to array (R, H)
            The blocks that the cache of a step contains, by name.
        """
        xp = get_array_module(cache.h)
        steps = cache.steps
        return {
            name: xp.concatenate([cache.h[:0], *(step[name] for step in steps)])
            for name in self.blocks
            if all(name in step for step in steps)
        }

    def activations(self, cache: Any) -> dict[str, Activation]:
        """The nonlinearities whose saturation is shown.

        Parameters
        ----------
        cache : object
            As `rows_forward` returns it.

        Returns
        -------
        activations : dict of str to Activation
            The gates. At 0.05 and 0.95 the slope of a sigmoid is a fifth of its largest.
        """
        values = self.block_values(cache)
        if missing := [name for name in self.gates if name not in values]:
            raise InvalidValueError(
                f"{self._name('gates')}: names {missing[0]!r}, which a step's cache lacks,"
                f" expected one of {', '.join(values) or 'no gates'}"
            )
        return {f"gate {name}": Activation(values[name], 0.05, 0.95) for name in self.gates}

    # ---- Checks

    def _check_rows(
        self,
        a: Array,
        state0: tuple[Any, ...],
        params: Params,
        rows: PackedSequences,
    ) -> None:
        """TypeError, ValueError : the arguments of `rows_forward` do not fit together."""
        function = self._name("rows_forward")
        h0, *others = self._unpacked("rows_forward, state0", state0, *self.states)
        H = np.shape(h0)[-1] if np.ndim(h0) else 1
        shapes = self.shapes(1, H)
        names = [name for name in shapes if name not in self.inputs]
        h, *more = self.states
        (G,) = shapes[self.inputs[1]]

        def axes(shape: tuple[int, ...]) -> str:
            return (
                ",".join(f"{n // H}H" if H and n and not n % H else str(n) for n in shape) or "()"
            )

        entries = [f"a:R,{axes((G,))}", f"{h}0:N,H"]
        entries += [f"{name}:{axes(shapes[name])}" for name in names]
        entries += [f"{name}0?:N,H" for name in more]
        arrays = (a, h0, *(params[name] for name in names), *others)
        sizes = spec(" ".join(entries)).check(*arrays, function=function, cause=self.order)
        rows.check(function, len(a), sizes["N"])

    def _checked_step(self, a: Array, state: State, params: Params) -> tuple[State, StepCache]:
        """`step_forward`; TypeError if its results have the wrong form."""
        function = "step_forward"
        results = self.step_forward(a, state, params)
        after, cache = self._unpacked(
            function, results, "the state after", "a dict for the gradient"
        )
        if not isinstance(cache, Mapping):
            raise InvalidTypeError(
                f"{self._name(function)}: cache is {_described(cache)}, expected a dict of arrays"
                " by name"
            )
        return self._unpacked(f"{function}, state", after, *self.states), cache

    def _unpacked(self, function: str, results: Any, *names: str) -> tuple[Any, ...]:
        """The results; TypeError unless they are a tuple with an item for each name."""
        if isinstance(results, tuple) and len(results) == len(names):
            return results
        expected = f"a tuple of {', '.join(names)}"
        got = _described(results)
        cause = "a tuple of one has a comma, (h,)" if len(names) == 1 else ""
        raise InvalidTypeError(f"{self._name(function)}: got {got}, expected {expected}; {cause}")

    def _check(self, function: str, name: str, x: Array, like: Array) -> None:
        """Raise TypeError or ValueError if a result differs from `like` in library, dtype or shape."""
        check_float(f"{self._name(function)}: {name}", x, "the pre-activation", like)
        if x.shape != like.shape:
            raise InvalidValueError(
                f"{self._name(function)}: {name} has shape {x.shape}, expected {like.shape}"
            )

    def _name(self, function: str) -> str:
        return f"{type(self).__name__}.{function}"


def _read_only(x: Array) -> Array:
    """A read-only view of a host array; a device array itself, which has no such flag."""
    if isinstance(x, np.ndarray):
        x = x.view()
        x.flags.writeable = False
    return x


def _described(x: object) -> str:
    return f"a tuple of {len(x)}" if isinstance(x, tuple) else f"a {type(x).__name__}"
