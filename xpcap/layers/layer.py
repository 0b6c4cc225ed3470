"""The decorators `layer` and `gradient` check arrays by a line of shapes, and append it to the docstring.

They also hold BLAS to one thread.

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
from xpcap.backend.shape_specs import Spec
from xpcap.backend.threads import one_blas_thread
from xpcap.errors import InvalidTypeError
from xpcap.layers.checks import check_upstream
from xpcap.ops import contiguous

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Arguments = dict[str, Any]  # the arguments of a call, by name
ERRORS = """Raises TypeError unless floats share one dtype, float32 or float64, and arrays one
library; ValueError if a shape does not fit."""


class Layer(Protocol[P, R_co]):
    """A function that `layer` or `gradient` has decorated."""

    __name__: str
    spec: Spec

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


def layer(shapes: str, cause: str = "") -> Callable[[Callable[P, R]], Layer[P, R]]:
    """A decorator for a forward pass, or any function of arrays.

    Entries are matched to parameters by name; other parameters are passed on. On the host the
    function gets the arrays unchanged. On a device it gets C-contiguous arrays, with int32 instead of
    other integers, as kernels require. The spec is stored as `function.spec`.

    shapes : in the language of `xpcap.backend.shape_specs`, with the results
    cause : likely cause of a wrong shape
    """
    spec = Spec(shapes, cause)
    names = [entry.name for entry in spec.entries]
    first = next(entry.name for entry in spec.entries if not (entry.kind or entry.optional))

    def decorate(function: Callable[P, R]) -> Layer[P, R]:
        def check(arguments: Arguments) -> Array:
            spec.check(*map(arguments.get, names), function=function.__name__)
            return arguments[first]

        return _decorated(function, spec, check)

    return decorate


def gradient(forward: Callable[..., Any]) -> Callable[[Callable[P, R]], Layer[P, R]]:
    """A decorator for the backward pass of `forward`, a function of upstream gradients and `cache`.

    Upstream gradients must have the shape, dtype and library of the forward pass's results. The cache
    must have fields with the names of arguments: they determine the sizes, and the first array of
    floats the dtype and library. An upstream gradient of an optional result may be None; the function
    may lack a parameter for it.

    forward : a function that `layer` has decorated
    """
    shapes = cast(Layer[..., Any], forward).spec

    def decorate(function: Callable[P, R]) -> Layer[P, R]:
        name = function.__name__
        parameters = inspect.signature(function).parameters
        spec = copy.copy(shapes.backward)
        spec.entries = tuple(entry for entry in spec.entries if entry.name in parameters)
        kind = parameters["cache"].annotation

        def check(arguments: Arguments) -> Array:
            cache = arguments["cache"]
            sizes = dict[str, int]()
            fields = {
                entry: getattr(cache, entry.name)
                for entry in shapes.entries
                if hasattr(cache, entry.name) and not entry.optional
            }
            of_kind = isinstance(cache, kind) if hasattr(kind, "_fields") else True
            if not (of_kind and all(entry.bind(x.shape, sizes) for entry, x in fields.items())):
                raise InvalidTypeError(
                    f"{name}: cache is a {type(cache).__name__}, expected the cache of"
                    f" {forward.__name__}; that of another layer?"
                )
            like = next((x for entry, x in fields.items() if not entry.kind), None)
            if like is None:
                raise InvalidTypeError(
                    f"{name}: cache is a {type(cache).__name__} without an argument of"
                    f" {forward.__name__}, expected a field with one"
                )
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
    """The function with checks of its arrays, BLAS on one thread, and shapes in its docstring."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # raises Python's TypeError
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
