"""The names and signatures of the real cupy package, which can be imported, though not used, on a
machine without a device.
"""

import functools
import importlib
import inspect
import re
import sys
import warnings
from types import ModuleType
from typing import Any


@functools.cache
def cupy() -> ModuleType:
    """The real package, whatever stands in its place at the moment."""
    if hasattr(sys.modules.get("cupy"), "_core"):
        return sys.modules["cupy"]
    nothing = object()
    there = sys.modules.pop("cupy", nothing)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("cupy")
    finally:
        if there is not nothing:
            sys.modules["cupy"] = there  # type: ignore[assignment]


def is_installed() -> bool:
    """Whether the real package can be imported."""
    try:
        return hasattr(cupy(), "ndarray")
    except Exception:  # a broken installation raises far more than ImportError
        return False


def look_up(name: str) -> Any:
    """cupy's own `name`, as in ``"exp"`` or ``"cuda.runtime.getDevice"``; where it has none, the
    AttributeError it would raise itself.
    """
    found: Any = cupy()
    done = "cupy"
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise AttributeError(f"module {done!r} has no attribute {part!r}") from None
        done += f".{part}"
    return found


@functools.cache
def signature(name: str) -> inspect.Signature:
    """Of a function of cupy, or, as ``"ndarray.sum"``, of a method."""
    found = look_up(name)
    try:
        return inspect.signature(found)
    except ValueError:  # compiled: its first line of documentation shows it
        return documented(found.__doc__ or "")


def documented(text: str) -> inspect.Signature:
    """The signature in a line like ``_ndarray_base.squeeze(self, axis=None) -> _ndarray_base``, C
    types left out.
    """
    found = re.match(
        r"[\w.]+\((.*?)\)(?: ->.*)?$", text.strip().splitlines()[0] if text.strip() else ""
    )
    if not found:
        raise ValueError(f"no signature in {text[:60]!r}")
    parameters, kind = [], inspect.Parameter.POSITIONAL_OR_KEYWORD
    for part in filter(None, (part.strip() for part in found[1].split(","))):
        left, _, default = part.partition("=")
        name = left.split()[-1]
        if name in ("*", "/"):
            kind = inspect.Parameter.KEYWORD_ONLY if name == "*" else kind
        elif name.startswith("**"):
            parameters.append(inspect.Parameter(name[2:], inspect.Parameter.VAR_KEYWORD))
        elif name.startswith("*"):
            parameters.append(inspect.Parameter(name[1:], inspect.Parameter.VAR_POSITIONAL))
            kind = inspect.Parameter.KEYWORD_ONLY
        else:
            parameters.append(
                inspect.Parameter(name, kind, default=default or inspect.Parameter.empty)
            )
    return inspect.Signature(parameters)


def bind(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by the names that cupy gives them, those left out left out; a
    TypeError where cupy would not take them.
    """
    return {**dict(zip(positional(name, len(args), tuple(kwargs)), args, strict=False)), **kwargs}


@functools.cache
def positional(name: str, count: int, keywords: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the first `count` arguments in a call with these keywords; a TypeError where
    cupy would not take it.
    """
    try:
        bound = signature(name).bind(*range(count), **dict.fromkeys(keywords))
    except TypeError as error:
        raise TypeError(f"cupy.{name}() {error}") from None
    return tuple(
        parameter for parameter, value in bound.arguments.items() if isinstance(value, int)
    )
