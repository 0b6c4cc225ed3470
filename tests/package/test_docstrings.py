"""Public docstrings name every parameter with its type, in the form that the site is built from."""

import ast
import inspect
import keyword
import pydoc
import re
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import pytest

import xpcap
from xpcap import gradcheck, grading, layers, optim, testing
from xpcap.runs import PictureCaptioner
from xpcap.verify import verify

MISSING = "numpydoc, of the dev extra, is missing"
numpydoc = pytest.importorskip("numpydoc.validate", reason=MISSING)
docscrape = pytest.importorskip("numpydoc.docscrape", reason=MISSING)

# Sections known and in order, a docstring, parameters complete, in order and typed, what comes back
CHECKS = "GL06 GL07 GL08 PR01 PR02 PR03 PR04 PR05 RT01 YD01".split()
# Of a layer all but its parameters and results, which are in its section Shapes
LAYER_CHECKS = [check for check in CHECKS if check not in ("PR01", "RT01")]
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


def faults(name: str, checks: list[str]) -> list[tuple[str, str]]:
    return [error for error in numpydoc.validate(name)["errors"] if error[0] in checks]


NAMES = sorted(set(public()))
LAYERS = [name for name in NAMES if hasattr(pydoc.locate(name), "spec")]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LAYERS])
def test_docstrings_give_a_type_to_every_parameter_in_order(name: str) -> None:
    assert faults(name, CHECKS) == []


@pytest.mark.parametrize("name", LAYERS)
def test_docstrings_of_layers_tell_meanings_shapes_and_errors(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numpydoc, "ALLOWED_SECTIONS", [*numpydoc.ALLOWED_SECTIONS, "Shapes"])
    monkeypatch.setitem(docscrape.NumpyDocString.sections, "Shapes", [])  # as docs/conf.py does
    function: Any = pydoc.locate(name)
    prose, _, shapes = function.__doc__.partition("\n\nShapes\n------\n")
    assert faults(name, LAYER_CHECKS) == []
    assert re.match(r"[A-Z].*\.$", prose.splitlines()[0]), "a summary of one line"
    assert shapes.startswith(f"{function.spec}\n\nRaises TypeError")
    arrays = {entry.name for entry in function.spec.entries}
    for parameter in inspect.signature(function).parameters:
        text = shapes if parameter in arrays else prose
        assert re.search(rf"\b{parameter}\b", text), f"says nothing of {parameter}"
    if "raise " in inspect.getsource(function):
        assert "\nRaises\n------\n" in prose


def test_what_people_import_is_among_the_public_names() -> None:
    assert {
        "xpcap.models.captioner.Captioner.sample",
        "xpcap.layers.lstm.lstm_backward",
        "xpcap.optim.adam",
        "xpcap.runs.train.train_run",
        "xpcap.testing.cell.check_cell",
    } <= set(public())


def test_what_errors_put_in_backquotes_can_be_typed() -> None:
    names, quoted = set(keyword.kwlist), set()
    for path in Path(xpcap.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                fields = [item.target for item in node.body if isinstance(item, ast.AnnAssign)]
                names |= {node.name, *(field.id for field in fields if isinstance(field, ast.Name))}
            if not isinstance(node, ast.FunctionDef):
                continue
            if not node.name.startswith("_") or node.name == "__init__":
                arguments = (*node.args.args, *node.args.kwonlyargs)
                names |= {node.name, *(argument.arg for argument in arguments)}
            inside = [*ast.walk(node)]
            if any(isinstance(statement, ast.Raise) for statement in inside):
                docstring = ast.get_docstring(node, clean=False)
                texts = {item.value for item in inside if isinstance(item, ast.Constant)}
                for text in texts - {docstring}:
                    quoted |= {*re.findall(r"(?<!\S)`(\w+)`", str(text))}
    assert len(quoted) > 50
    assert quoted - names == set()
