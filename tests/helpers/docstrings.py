"""Check public docstrings as numpydoc reads them: types on the line of a name, prose below it."""

import functools
import inspect
import re
import types
from collections.abc import Iterator

import xpcap
from xpcap import gradcheck, layers, optim
from xpcap.exercise.grading import Result, grade
from xpcap.models import Policy
from xpcap.runs import PictureCaptioner
from xpcap.verify import verify

SECTION = re.compile(r"^(\w+)\n-{3,}\n", re.MULTILINE)
ENTRY = re.compile(r"^\S.*$", re.MULTILINE)
NAMED = ("Parameters", "Returns", "Yields", "Attributes")


def public() -> Iterator[tuple[str, object]]:
    """What `xpcap.__all__` names, the functions of layers, optim and checks, and their methods."""
    # the docstring of a policy is written by its options
    exported = {name: getattr(xpcap, name) for name in xpcap.__all__}
    objects = {
        name: one
        for name, one in exported.items()
        if not (inspect.isclass(one) and issubclass(one, Policy))
    }
    objects |= {f"layers.{name}": getattr(layers, name) for name in layers.__all__}
    for module in (optim, gradcheck):
        objects |= {
            f"{module.__name__.removeprefix('xpcap.')}.{name}": one
            for name, one in vars(module).items()
            if getattr(one, "__module__", "") == module.__name__ and not name.startswith("_")
        }
    objects |= {
        "runs.PictureCaptioner": PictureCaptioner,
        "verify": verify,
        "grade": grade,
        "Result": Result,
    }
    for name, one in objects.items():
        defined = getattr(one, "__module__", "")
        if inspect.isfunction(one) or (inspect.isclass(one) and not defined.endswith("ops.packed")):
            yield name, one
            yield from ((f"{name}.{method}", found) for method, found in methods(one))


def methods(cls: object) -> Iterator[tuple[str, object]]:
    """Public methods of a class, inherited ones too if they are xpcap's own."""
    for name in dir(cls) if inspect.isclass(cls) else ():
        found = inspect.getattr_static(cls, name)
        if not name.startswith("_") and isinstance(found, types.FunctionType | classmethod):
            method = getattr(cls, name)
            if method.__module__.startswith("xpcap."):
                yield name, method


@functools.cache
def sections(docstring: str) -> dict[str, list[str]]:
    """First lines of the entries of each section, by its heading."""
    _, *parts = SECTION.split(docstring)
    return {name: ENTRY.findall(text) for name, text in zip(parts[::2], parts[1::2], strict=True)}


def faults(one: object) -> list[str]:
    """All that is wrong with the docstring of a function, a method or a class."""
    found = sections(inspect.getdoc(one) or "")
    plain_error = (
        inspect.isclass(one) and issubclass(one, Exception) and "__init__" not in vars(one)
    )
    signature = inspect.Signature() if plain_error else inspect.signature(one)  # type: ignore[arg-type]
    wanted = [
        "*" * (parameter.kind.name == "VAR_POSITIONAL") + name
        for name, parameter in signature.parameters.items()
        if name != "self" and parameter.kind.name != "VAR_KEYWORD"
    ]
    wrong = []
    for heading in NAMED:
        for entry in found.get(heading, []):
            _, colon, kind = entry.partition(" : ")
            if not colon or not kind or ";" in kind or kind.endswith("."):
                wrong.append(f"{heading}: {entry!r}, expected `name : type`, prose below")
    listed = [
        name for entry in found.get("Parameters", []) for name in entry.split(" : ")[0].split(", ")
    ]
    if listed != wanted:
        wrong.append(f"Parameters: {listed}, expected {wanted}")
    returns = signature.return_annotation not in (None, "None", signature.empty)
    if returns and not inspect.isclass(one) and not found.keys() & {"Returns", "Yields"}:
        wrong.append(f"no Returns, expected {signature.return_annotation}")
    wrong += [
        f"Raises: {entry!r}, expected names of errors alone, prose below"
        for entry in found.get("Raises", [])
        if not re.fullmatch(r"[A-Z]\w+(, [A-Z]\w+)*", entry)
    ]
    return wrong
