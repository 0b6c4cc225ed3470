"""Public docstrings name every parameter with its type, in the form that the site is built from."""

import inspect
import pydoc
from collections.abc import Iterator
from types import FunctionType, MethodType

from numpydoc import validate as numpydoc

import xpcap
from xpcap import gradcheck, layers, optim, testing
from xpcap.captioning.captions import PictureCaptioner
from xpcap.cs231n import grading
from xpcap.cs231n.verify import verify

# Sections known and in order, a docstring, parameters complete, in order and typed, what comes back
CHECKS = "GL06 GL07 GL08 PR01 PR02 PR03 PR04 PR05 RT01 YD01".split()
# Classes with a sentence on their fields; the options of policies write their docstrings
PROSE = ("xpcap.errors.", "xpcap.decoding.", "xpcap.ops.packed.")


def public() -> Iterator[str]:
    """Import paths of the functions and classes that people use, and of their methods."""
    documented = [verify, PictureCaptioner]
    for module in (xpcap, layers, grading, testing):
        documented += [getattr(module, name) for name in module.__all__]
    for module in (optim, gradcheck):
        documented += [
            item
            for name, item in vars(module).items()
            if getattr(item, "__module__", "") == module.__name__ and not name.startswith("_")
        ]
    classes = [item for item in documented if inspect.isclass(item)]
    for name, method in (pair for item in classes for pair in inspect.getmembers(item)):
        inherited = not method.__doc__ and inspect.getdoc(method)  # says what it overrides
        if isinstance(method, FunctionType | MethodType) and name[0] != "_" and not inherited:
            documented.append(method)
    for item in documented:
        path = f"{item.__module__}.{item.__qualname__}" if callable(item) else ""
        if path.startswith("xpcap.") and not path.startswith(PROSE):
            yield path


def test_docstrings_give_a_type_to_every_parameter_in_order() -> None:
    """Of layers their section Shapes does."""
    names = {name for name in public() if not hasattr(pydoc.locate(name), "spec")}
    assert "xpcap.training.solver.CaptioningSolver.train" in names
    found = [
        (name, error)
        for name in sorted(names)
        for error in numpydoc.validate(name)["errors"]
        if error[0] in CHECKS
    ]
    assert found == []
