"""Examples in docstrings run, and print what stands there."""

import doctest
import importlib
import pkgutil

import xpcap


def test_examples_of_docstrings_print_what_stands_there() -> None:
    """An example has the names of its module, and its own variables."""
    names = [module.name for module in pkgutil.walk_packages(xpcap.__path__, "xpcap.")]
    finder, runner, report = doctest.DocTestFinder(exclude_empty=True), doctest.DocTestRunner(), []
    with xpcap.use_backend("numpy"):
        for name in names:
            if name.endswith("__main__"):
                continue
            for example in finder.find(importlib.import_module(name)):
                runner.run(example, out=report.append)
    assert not runner.failures, "".join(report)
    assert runner.tries > 30
