"""The contract of a layer: a forward and a backward pass, and the cache between them.

::

    from xpcap.testing import check_layer
    check_layer(relu_forward, relu_backward, "x:N,D -> out:N,D")

checks all claims for the pair.
"""

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from xpcap.backend import Array, asarray, to_numpy
from xpcap.backend.shape_specs import Entry, Sizes, Spec
from xpcap.errors import OptionError, one_of
from xpcap.testing.claims import check, check_close, check_slopes, fail

SMALLEST = 3  # size of the first letter
OPEN = (2, 3)  # sizes of "..."
Arrays = Mapping[str, Array]


# ---- The objects of claims


class Trial(NamedTuple):
    """A layer, and shapes to test it with."""

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    shapes: dict[str, tuple[int, ...]]  # of all arrays, by argument
    kinds: dict[str, str]  # kinds of arguments that are not floats, as in xpcap.backend.shape_specs
    results: dict[str, tuple[int, ...]]
    ids: int  # integers are below this
    options: Mapping[str, Any]  # arguments that are not arrays

    def __str__(self) -> str:
        shapes = (f"{name} {shape}" for name, shape in self.shapes.items())
        options = (f"{name} {value!r}" for name, value in self.options.items())
        return f"{self.forward.__name__} of {', '.join((*shapes, *options))}"

    @property
    def upstream(self) -> list[str]:
        """Upstream gradients that the backward pass takes."""
        parameters = inspect.signature(self.backward).parameters
        return [f"d{name}" for name in self.results if f"d{name}" in parameters]

    @property
    def floats(self) -> list[str]:
        """Arguments that have gradients."""
        return [name for name in self.shapes if name not in self.kinds]

    def draw(self, dtype: Any = np.float64, seed: int = 1) -> tuple[dict[str, Any], dict[str, Any]]:
        """Arguments, and upstream gradients."""
        rng = np.random.default_rng(seed)
        shapes = self.shapes | {name: self.results[name[1:]] for name in self.upstream}
        draws = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
        for name, kind in self.kinds.items():
            numbers = rng.integers(0, self.ids, self.shapes[name])
            draws[name] = numbers % 2 == 0 if kind == "b" else numbers
        arrays = {name: asarray(x) for name, x in draws.items()}
        return (
            {name: arrays[name] for name in self.shapes},
            {name: arrays[name] for name in self.upstream},
        )

    def run(self, arguments: Arrays) -> tuple[dict[str, Array], Any]:
        """Results by name, and the cache."""
        *results, cache = self.forward(**arguments, **self.options)
        if len(results) != len(self.results):
            count = f"returns {len(results)} results and a cache"
            fail(self.forward.__name__, count, f"{', '.join(self.results)} and a cache")
        return dict(zip(self.results, results, strict=True)), cache

    def gradients(self, upstream: Arrays, cache: Any) -> dict[str, Array]:
        """Gradients by argument."""
        grads = self.backward(**upstream, cache=cache)
        grads = grads if isinstance(grads, tuple) else (grads,)
        if len(grads) != len(self.floats):
            count = f"returns {len(grads)} gradients"
            fail(self.backward.__name__, count, f"gradients of {', '.join(self.floats)}")
        return dict(zip(self.floats, grads, strict=True))

    def outcome(self, arguments: Arrays, upstream: Arrays) -> tuple[dict[str, Array], Any]:
        """Results and gradients, and the cache."""
        results, cache = self.run(arguments)
        grads = self.gradients(upstream, cache)
        return results | {f"the gradient of {name}": x for name, x in grads.items()}, cache


def trials(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    shapes: str = "",
    sizes: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Trial]:
    """All trials of a layer, with the arguments of `check_layer`."""
    spec = Spec(shapes) if shapes else getattr(forward, "spec", None)
    if spec is None:
        raise OptionError(
            '`shapes` are missing, expected a line such as "x:N,D w:D,M b:M -> out:N,M";'
            f" {forward.__name__} is not decorated with `layer`, which would give its line"
        )
    optional = [entry.name for entry in spec.entries if entry.optional]
    cases = []
    for known, form, omitted in itertools.product(
        _sizes(spec, sizes or {}),
        range(max(len(entry.forms) for entry in spec.entries)),
        [optional, []] if optional else [[]],
    ):
        entries = [entry for entry in spec.entries if entry.name not in omitted]
        results = [entry for entry in spec.results if not (omitted and entry.optional)]
        kinds = {entry.name: entry.kind for entry in entries if entry.kind}
        numbers = [size for size in known.values() if isinstance(size, int)]
        arrays = _shapes(entries, form, known), kinds, _shapes(results, form, known)
        cases.append(
            Trial(forward, backward, *arrays, max(1, min(numbers, default=1)), options or {})
        )
    gradients = {"cache", *(f"d{entry.name}" for entry in spec.results)}
    if not cases[0].upstream or not inspect.signature(backward).parameters.keys() <= gradients:
        names = ", ".join(sorted(gradients - {"cache"}))
        raise OptionError(
            f"`backward` takes {inspect.signature(backward)}, expected cache and at least one of"
            f" {names}, by the names in `shapes`"
        )
    return cases


def _sizes(spec: Spec, fixed: Mapping[str, Any]) -> Iterator[Sizes]:
    """Sizes that all differ, then the same with each size, other than the fixed ones, set to 1."""
    forms = [form for entry in (*spec.entries, *spec.results) for form in entry.forms]
    letters = dict.fromkeys(axis.letter for form in forms for axis in form.axes if axis.letter)
    for letter in fixed:
        if letter not in {*letters, "..."}:
            raise OptionError(f"size {letter!r} does not exist, expected {one_of(letters, letter)}")
    free = [letter for letter in letters if letter not in fixed]
    usual: Sizes = {letter: SMALLEST + k for k, letter in enumerate(free)}
    if any(form.open >= 0 for form in forms) and "..." not in fixed:
        usual["..."] = OPEN
    for size_of_1 in ({}, *({letter: (1,) if letter == "..." else 1} for letter in usual)):
        yield usual | size_of_1 | dict(fixed)


def _shapes(entries: list[Entry], form: int, sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Shapes by name, each in form number `form`, or in its last form."""
    return {
        entry.name: entry.forms[min(form, len(entry.forms) - 1)].shape(sizes) for entry in entries
    }


Claim = Callable[[Trial], None]


def writable(outcome: Arrays) -> Arrays:
    """Results that are arrays; a loss may be a number."""
    return {name: x for name, x in outcome.items() if x.shape}


# ---- The claims


def gradient(trial: Trial) -> None:
    """Gradients match finite differences, for random upstream gradients."""
    arguments, upstream = trial.draw()

    def f() -> Any:
        results, _ = trial.run(arguments)
        return sum((results[name[1:]] * dout).sum() for name, dout in upstream.items())

    grads = trial.gradients(upstream, trial.run(arguments)[1])
    check_slopes("the", f, {name: arguments[name] for name in grads}, grads)


def shapes_stated(trial: Trial) -> None:
    """Results have the shapes of the line, gradients the shapes of arguments."""
    expected = {f"the gradient of {name}": trial.shapes[name] for name in trial.floats}
    for name, x in trial.outcome(*trial.draw())[0].items():
        shape = (trial.results | expected)[name]
        if x.shape != shape:
            fail(name, f"has shape {x.shape}", shape)


def dtype_kept(trial: Trial) -> None:
    """float32 arguments give float32 results, float64 arguments float64 results."""
    for dtype in (np.float32, np.float64):
        for name, x in trial.outcome(*trial.draw(dtype))[0].items():
            if x.dtype != dtype:
                fail(name, f"has dtype {x.dtype}", f"{np.dtype(dtype)}, as the arguments have")


def inputs_unchanged(trial: Trial) -> None:
    """Arguments and upstream gradients do not change, even if the caller writes to the results."""
    arguments, upstream = trial.draw()
    before = {name: to_numpy(x).copy() for name, x in (arguments | upstream).items()}

    def compare(change: str) -> None:
        for name, x in (arguments | upstream).items():
            if not np.array_equal(to_numpy(x), before[name]):
                fail(name, change, "unchanged inputs")

    outcome, _ = trial.outcome(arguments, upstream)
    compare("has changed")
    for x in writable(outcome).values():
        x[...] = 7
    compare("changes with the results")


def results_fresh(trial: Trial) -> None:
    """The caller may write to the results: they share no memory with each other or the cache."""
    arguments, upstream = trial.draw()
    outcome, cache = trial.outcome(arguments, upstream)
    expected = {name: x.copy() for name, x in outcome.items()}
    for k, x in enumerate(writable(outcome).values()):
        x[...] = k
    for k, (name, x) in enumerate(writable(outcome).items()):
        if (x != k).any():
            fail(name, "shares memory with another result", "separate memory")
    for name, x in trial.gradients(upstream, cache).items():
        thing = f"the gradient of {name}"
        check_close(
            f"{thing}, after a write to the results,", x, expected[thing], "the one before", 0
        )


def caches_apart(trial: Trial) -> None:
    """Two forward passes may be in flight, and each cache serves more than one backward pass."""
    arguments, upstream = trial.draw()
    others, _ = trial.draw(seed=2)
    expected = trial.gradients(upstream, trial.run(arguments)[1])
    _, cache = trial.run(arguments)
    _, other = trial.run(others)
    trial.gradients(upstream, other)
    for _ in range(2):
        for name, x in trial.gradients(upstream, cache).items():
            thing = f"the gradient of {name}, with another cache alive,"
            check_close(thing, x, expected[name], "the one without", 0)


def views_taken(trial: Trial) -> None:
    """Arguments may be views of larger arrays."""

    def as_view(x: Array) -> Array:
        return asarray(np.repeat(to_numpy(x), 2, axis=-1), like=x)[..., ::2] if x.ndim else x

    draws = trial.draw()
    views = ({name: as_view(x) for name, x in arrays.items()} for arrays in draws)
    expected, _ = trial.outcome(*draws)
    for name, x in trial.outcome(*views)[0].items():
        check_close(f"{name}, of views,", x, expected[name], "the one of contiguous arrays")


LAYER: tuple[Claim, ...] = (
    gradient,
    shapes_stated,
    dtype_kept,
    inputs_unchanged,
    results_fresh,
    caches_apart,
    views_taken,
)


def check_layer(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    shapes: str = "",
    *,
    sizes: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    contract: Iterable[Claim] = LAYER,
) -> None:
    """Check the contract of a layer: pure functions with correct gradients.

    Arguments are drawn in small sizes that all differ, and again with each size at 1; in each form
    of a shape; with optional arrays, and without. It runs on the current backend.

    Parameters
    ----------
    forward : callable
        ``forward(x, w, ...) -> (out, ..., cache)``.
    backward : callable
        ``backward(dout, ..., cache) -> (dx, dw, ...)``, gradients of all arguments that are floats,
        in their order. The upstream gradient of a result ``out`` is called ``dout``.
    shapes : str
        Names and shapes of arguments and results, ``"x:N,D w:D,M -> out:N,M"``, in the language of
        `xpcap.backend.shape_specs`. Empty: those of the decorator `layer`. Integers, ``x:N=i``, are
        drawn below the smallest size, so that they can index the rows of any array.
    sizes : mapping of str to int, or None
        Fixed sizes by letter; ``"..."`` has a tuple.
    options : mapping, or None
        Arguments of `forward` that are not arrays.
    contract : iterable of callable
        Claims of LAYER to check.

    Raises
    ------
    ContractError
        A claim does not hold. The error names the function with all shapes, the array, and what was
        expected. Other errors of the layer are passed on, with a note of shapes and claim.
    OptionError
        No shapes are known, or `backward` takes no upstream gradient of a result.

    Examples
    --------
    >>> def square_forward(x):
    ...     return x**2, x
    >>> def square_backward(dout, cache):
    ...     return 2 * cache * dout
    >>> check_layer(square_forward, square_backward, "x:N,D -> out:N,D")
    """
    for claim, trial in itertools.product(
        contract, trials(forward, backward, shapes, sizes, options)
    ):
        check(trial, [claim])
