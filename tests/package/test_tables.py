"""What is written for a table of the package stands in it: a row that is forgotten is named."""

import inspect
import pkgutil
from collections.abc import Callable, Collection
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

from xpcap import decoding, encoders, layers, models, prepare
from xpcap.encoders import ENCODERS, EncoderSpec
from xpcap.layers import CELLS, Cell
from xpcap.models import Policy
from xpcap.prepare.detect import FORMATS
from xpcap.prepare.rows import Format
from xpcap.runs import doctor, outputs
from xpcap.runs.doctor import SYMPTOMS, Finding
from xpcap.runs.outputs import SINKS, Sink


def modules(package: ModuleType) -> list[ModuleType]:
    """A package's modules; a module by itself."""
    path = getattr(package, "__path__", ())
    return [
        package,
        *(import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(path)),
    ]


def is_policy(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Policy)


def is_sink(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Sink) and hasattr(value, "flag")


def is_measure(value: object) -> bool:
    return inspect.isfunction(value) and inspect.signature(value).return_annotation is Finding


POLICIES = [getattr(models, name) for name in models.__all__]
MEASURES = [symptom.measure for symptom in SYMPTOMS]
WRITTEN: dict[str, tuple[ModuleType, Callable[[Any], bool], Collection[Any]]] = {
    "layers.CELLS": (layers, lambda value: isinstance(value, Cell), CELLS.values()),
    "encoders.ENCODERS": (encoders, lambda x: isinstance(x, EncoderSpec), ENCODERS.values()),
    "prepare.detect.FORMATS": (prepare, lambda value: isinstance(value, Format), FORMATS),
    "models.__all__": (decoding, is_policy, POLICIES),
    "runs.outputs.SINKS": (outputs, is_sink, SINKS),
    "runs.doctor.SYMPTOMS": (doctor, is_measure, MEASURES),
}


@pytest.mark.parametrize("table", WRITTEN)
def test_what_is_written_for_a_table_is_in_it(table: str) -> None:
    package, is_row, rows = WRITTEN[table]
    found = {
        f"{module.__name__}.{name}": value
        for module in modules(package)
        for name, value in vars(module).items()
        if not name.startswith("_") and is_row(value)
    }
    assert found, f"nothing for xpcap.{table} is found in {package.__name__}"
    lacking = [name for name, value in found.items() if not any(value is row for row in rows)]
    assert lacking == [], f"{lacking[:1]} is not in xpcap.{table}: nobody can ask for it"
