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
from xpcap.layers.checks import check_upstream
from xpcap.ops import contiguous
from xpcap.spec import Spec
from xpcap.threads import one_blas_thread

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Arguments = dict[str, Any]  # of a call, by name
ERRORS = """Raises TypeError unless floats share one dtype, float32 or float64, and arrays one
library; ValueError if a shape does not fit."""


class Layer(Protocol[P, R_co]):
    """A function that `layer` or `gradient` has decorated."""

    __name__: str
    spec: Spec

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


def layer(shapes: str, note: str = "") -> Callable[[Callable[P, R]], Layer[P, R]]:
    """Decorator of a forward pass, or of any function of arrays.

    Entries are matched to parameters by name; other parameters are passed on. On the host the
    function gets the arrays as they are. On a device, whose kernels take nothing else, it gets
    C-contiguous arrays, and int32 in place of other integers. The spec stays as `function.spec`.

    shapes : in the language of `xpcap.spec`, results included
    note : likely cause of a shape that does not fit
    """
    spec = Spec(shapes, note)
    names = [entry.name for entry in spec.entries]
    first = next(entry.name for entry in spec.entries if not (entry.kind or entry.optional))

    def decorate(function: Callable[P, R]) -> Layer[P, R]:
        def check(arguments: Arguments) -> Array:
            spec.check(function.__name__, *map(arguments.get, names))
            return arguments[first]

        return _decorated(function, spec, check)

    return decorate


def gradient(forward: Layer[..., Any]) -> Callable[[Callable[P, R]], Layer[P, R]]:
    """Decorator of the backward pass of `forward`, a function of upstream gradients and `cache`.

    Upstream gradients must be as the results of the forward pass were. The fields of the cache that
    are named as its arguments are tell its sizes, the first of floats its dtype and library. An
    upstream gradient that is optional in the shapes may be None; a result may have none at all.

    forward : decorated with `layer`
    """

    def decorate(function: Callable[P, R]) -> Layer[P, R]:
        name, parameters = function.__name__, inspect.signature(function).parameters
        spec = copy.copy(forward.spec.backward)
        spec.entries = tuple(entry for entry in spec.entries if entry.name in parameters)

        def check(arguments: Arguments) -> Array:
            sizes, like = _sizes(forward.spec, arguments["cache"])
            for entry in spec.entries:
                dout = arguments.get(entry.name)
                if dout is not None or not entry.optional:
                    check_upstream(name, entry.name, dout, entry.shape(sizes), like)
            return like

        return _decorated(function, spec, check)

    return decorate


def _sizes(spec: Spec, cache: Any) -> tuple[dict[str, Any], Array]:
    """Sizes of a forward pass, and an array like its others, from its cache."""
    sizes: dict[str, Any] = {}
    fields = [entry for entry in spec.entries if hasattr(cache, entry.name) and not entry.optional]
    floats = [getattr(cache, entry.name) for entry in fields if not entry.kind]
    if not floats:
        raise TypeError(
            f"{type(cache).__name__}: has no array named as an argument of the forward pass, expected"
            " one that tells dtype and library"
        )
    for entry in fields:
        entry.bind(getattr(cache, entry.name).shape, sizes)
    return sizes, floats[0]


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
            return function(*args, **kwargs)  # Python's own error
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
