"""The equations of a cell, and the arrays of a loop over packed rows that they work on."""

from typing import ClassVar, NamedTuple

from xpcap.backend import Array
from xpcap.ops.packed import StepFn

State = tuple[Array, ...]  # h first; each array (n, H)


class CellBuffers(NamedTuple):
    """Arrays of a cell's forward loop, written to but for `a` and `before`."""

    a: Array  # (R, G), by row; x @ Wx + b, and a term that each step adds if the cell scales r
    r: Array  # (R, G), by row; h @ Wh before the cell's part of a step, undefined after it
    before: State  # stacks of the states before a step
    after: State  # of those after it, which may be the same stacks
    saved: State  # (R, .), by row; what the backward pass reads


class CellGradients(NamedTuple):
    """Arrays of a cell's backward loop.

    `dstate` (N, H) hands gradients from a step to the one before it: a step reads its first n rows
    and overwrites them. Only the first `n_next` sequences of a step have a next one, which has just
    written their rows. The others end here: theirs are as the loop began, 0 or `last`. So sequences
    may end at any step, without a test or a mask.
    """

    dh: Array  # (R, H), by row; upstream gradient of h
    dstate: State  # each (N, H); with dh the gradient of the state after a step
    last: tuple[Array | None, ...]  # each (N, H), gradient of a sequence's last state; None: 0
    da: Array  # (R, G), by row; written to
    dr: Array  # (R, G), by row; da itself, unless the cell scales r
    dh_direct: Array | None  # (N, H), gradient of h before, besides dr @ Wh.T; if the cell scales r

    @property
    def carries(self) -> bool:
        """True if a last state has a gradient."""
        return any(last is not None for last in self.last)

    def begin(self) -> None:
        """Put what the last states have into dstate."""
        for x, last in zip(self.dstate, self.last, strict=True):
            x[...] = 0 if last is None else last


class Pointwise:
    """The pointwise half of a cell's step: all but its products.

    `equation` and `gradient` are pure, and enough: the loop runs them on any library. Versions in
    place for NumPy may stand beside them.

    Attributes
    ----------
    name : str
        For messages.
    blocks : str
        A letter for each block of H columns in a pre-activation (n, G), as they are stacked.
    gates : str
        Those of them that the logistic function makes gates, in 0..1.
    states : tuple of str
        Names of the arrays of a state, each (n, H). The first is h, the output.
    saved : dict of str to int
        What `gradient` reads besides states, by name, in so many times H columns. An array `blocks`
        has the blocks after their nonlinearity.
    product : str
        What r = h @ Wh lies in until the step overwrites it: an array of `saved`, or ``h``.
    scales : bool
        True if a gate scales a part of r, as a GRU's reset gate does, or h enters besides r. Then
        the gradients of a and r differ, and the term of attention is added to a.
    kernel : str
        The CUDA kernel of a step; that of its gradient has the same name and ``_backward``. Empty:
        there is none, and CuPy computes `equation` and `gradient`.
    equations : tuple of str
        Lines of a step's equations, for the model card. ``{term}`` stands for the terms that a
        captioner adds to a.
    meanings : dict of str to tuple of str
        Of blocks and states by name: a title, and what it is.
    keeps : tuple of str or None
        A gate that alone multiplies a state on its way to the next step: its name, the state's, and
        the line of the equations. None: there is no such gate.
    """

    name: str
    blocks: str
    gates = ""
    states: tuple[str, ...] = ("h",)
    saved: ClassVar[dict[str, int]] = {}
    product: str
    scales = False
    kernel = ""
    equations: tuple[str, ...] = ()
    meanings: ClassVar[dict[str, tuple[str, str]]] = {}
    keeps: tuple[str, str, str] | None = None

    def __init_subclass__(cls) -> None:
        """Let a class run its equations, or those it inherits, without fast versions or texts of others.

        A fast version belongs to the equations of its class, or of one further up: a mixin's
        `equation` leaves it behind as one of the class itself does.
        """

        def owner(name: str) -> int:
            return next(k for k, base in enumerate(cls.__mro__) if name in vars(base))

        equations = min(owner("equation"), owner("gradient"))
        for name in ("in_place", "gradient_in_place", "kernel"):
            if owner(name) > equations:
                setattr(cls, name, vars(Pointwise)[name])
        for name in ("equations", "keeps"):
            if owner(name) > owner("equation"):
                setattr(cls, name, vars(Pointwise)[name])

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
            The same array, unless `scales`.
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

    @property
    def order(self) -> str:
        """The order of blocks, a likely cause of a wrong shape; empty if there is one block."""
        return f"gates stack {', '.join(self.blocks)}" if len(self.blocks) > 1 else ""

    def split(self, x: Array) -> list[Array]:
        """Views of the blocks of a pre-activation.

        Parameters
        ----------
        x : array (n, G), float

        Returns
        -------
        blocks : list of array (n, H), float
        """
        H = x.shape[1] // len(self.blocks)
        return [x[:, k * H : (k + 1) * H] for k in range(len(self.blocks))]
