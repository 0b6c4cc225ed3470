"""Examples in docstrings run, and print what stands there."""

import doctest
import importlib
import pkgutil

import numpy as np

import xpcap


def test_examples_of_docstrings_print_what_stands_there() -> None:
    """An example has `np`, as in NumPy's docs, the names of its module, and its own variables."""
    names = [module.name for module in pkgutil.walk_packages(xpcap.__path__, "xpcap.")]
    finder, runner, report = doctest.DocTestFinder(exclude_empty=True), doctest.DocTestRunner(), []
    with xpcap.use_backend("numpy"):
        for name in names:
            if name.endswith("__main__"):
                continue
            for example in finder.find(importlib.import_module(name), extraglobs={"np": np}):
                runner.run(example, out=report.append)
    assert not runner.failures, "".join(report)
    assert runner.tries > 30
