"""`layer` and `gradient`: decorators that check arrays by one line of shapes, append it to the
docstring, and hold BLAS to one thread.

::

    @layer("x:N,T=i W:V,D -> out:N,T,D")
    def word_embedding_forward(x: Array, W: Array) -> tuple[Array, EmbeddingCache]:
        \"\"\"Word vectors, out[n, t] = W[x[n, t]], of word ids x in 0..V-1.\"\"\"

    @gradient(word_embedding_forward)
    def word_embedding_backward(dout: Array, cache: EmbeddingCache) -> Array:
        \"\"\"Gradient of W in word_embedding_forward, from dout and the cache.\"\"\"
"""

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from xpcap.backend import Array, is_device_array
from xpcap.errors import InvalidTypeError
from xpcap.layers.checks import check_upstream
from xpcap.ops import contiguous
from xpcap.spec import Spec
from xpcap.threads import one_blas_thread

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Arguments = dict[str, Any]  # a call's arguments by name
ERRORS = """Raises TypeError unless floats share one dtype, float32 or float64, and arrays one
library; ValueError if a shape does not fit."""


class Layer(Protocol[P, R_co]):
    """A function that `layer` or `gradient` has decorated."""

    __name__: str
    spec: Spec

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


def layer(shapes: str, cause: str = "") -> Callable[[Callable[P, R]], Layer[P, R]]:
    """Decorator of a forward pass, or of any function of arrays.

    Entries are matched to parameters by name; other parameters are passed on. On the host the
    function gets the arrays as they are. On a device, whose kernels take nothing else, it gets
    C-contiguous arrays, and int32 in place of other integers. The spec stays as `function.spec`.

    shapes : in the language of `xpcap.spec`, results included
    cause : likely cause of a shape that does not fit
    """
    spec = Spec(shapes, cause)
    names = [entry.name for entry in spec.entries]
    first = next(entry.name for entry in spec.entries if not (entry.kind or entry.optional))

    def decorate(function: Callable[P, R]) -> Layer[P, R]:
        def check(arguments: Arguments) -> Array:
            spec.check(function.__name__, *map(arguments.get, names))
            return arguments[first]

        return _decorated(function, spec, check)

    return decorate


def gradient(forward: Callable[..., Any]) -> Callable[[Callable[P, R]], Layer[P, R]]:
    """Decorator of the backward pass of `forward`, a function of upstream gradients and `cache`.

    Upstream gradients must have the shapes, dtype and library of the forward pass's results, which
    the cache tells by its fields that are named like arguments of the forward pass. An upstream
    gradient that is optional in the shapes may be None; some results have no upstream gradient.

    forward : decorated with `layer`
    """
    shapes = cast(Layer[..., Any], forward).spec

    def decorate(function: Callable[P, R]) -> Layer[P, R]:
        name, parameters = function.__name__, inspect.signature(function).parameters
        spec = copy.copy(shapes.backward)
        spec.entries = tuple(entry for entry in spec.entries if entry.name in parameters)
        kind = parameters["cache"].annotation

        def check(arguments: Arguments) -> Array:
            cache, sizes = arguments["cache"], dict[str, int]()
            fields = {
                entry: getattr(cache, entry.name)
                for entry in shapes.entries
                if hasattr(cache, entry.name) and not entry.optional
            }
            of_kind = isinstance(cache, kind) if hasattr(kind, "_fields") else True
            if not (of_kind and all(entry.bind(x.shape, sizes) for entry, x in fields.items())):
                got, expected = f"is a {type(cache).__name__}", f"the cache of {forward.__name__}"
                raise InvalidTypeError(name, "cache", got, expected, "that of another layer?")
            like = next((x for entry, x in fields.items() if not entry.kind), None)
            if like is None:
                got = f"is a {type(cache).__name__} without an argument of {forward.__name__}"
                raise InvalidTypeError(name, "cache", got, "one that tells dtype and library")
            for entry in spec.entries:
                dout = arguments.get(entry.name)
                if dout is not None or not entry.optional:
                    check_upstream(name, entry.name, dout, entry.shape(sizes), like)
            return like

        return _decorated(function, spec, check)

    return decorate


def _decorated(
    function: Callable[P, R], spec: Spec, check: Callable[[Arguments], Array]
) -> Layer[P, R]:
    """The function, with checks of its arrays, BLAS on one thread, and shapes in its docstring."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # Python raises its error
        if not is_device_array(check(bound.arguments)):
            with one_blas_thread():
                return function(*args, **kwargs)
        for entry in spec.entries:
            if entry.name in bound.arguments:
                bound.arguments[entry.name] = contiguous(bound.arguments[entry.name])
        return function(*bound.args, **bound.kwargs)

    text = inspect.cleandoc(function.__doc__ or "")
    checked.__doc__ = f"{text}\n\nShapes\n------\n{spec}\n\n{ERRORS}"
    checked.spec = spec  # type: ignore[attr-defined]
    return cast(Layer[P, R], checked)
