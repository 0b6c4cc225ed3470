"""What a teacher is told of imports and words that no solution needs."""

import pytest

from xpcap.exercise import table
from xpcap.exercise.grading.unusual import unusual

HOMES = {"rnn_layers": {"lstm_forward": "rnn_layers.py"}}
TABLE = r"""
import fcntl | fcntl
import numpy as np, os.path as p; import gc | os, gc
from multiprocessing.shared_memory import (SharedMemory) | multiprocessing
from . import gates; from .sub.helper import x; from cs231n.layers import * |
import gates, sub.helper, rnn_layers, math, random, typing, abc |
from __future__ import print_function; from builtins import range; import matplotlib.pyplot as plt |
import sys; sys._getframe(1).f_back.f_locals; sys.modules | sys, sys.modules, f_locals, f_back, _getframe
().__class__.__base__.__subclasses__() | __subclasses__
getattr(x, '_getframe') | _getframe
y = f'{eval(x)} of {exec}' | eval, exec
model.eval(); open = re.compile(x).match | open
mode = 'eval'  # exec |
x = np.zeros(3, complex).imag + 1e-20j | complex numbers
x.astype('complex128') | complex numbers
complex_grad = 0x1f + 2 * imaginary |
this is = no (Python | 21 bytes that cannot be read
""".strip().splitlines()


@pytest.mark.parametrize("row", TABLE)
def test_words_and_imports_that_no_solution_needs_are_listed(row: str) -> None:
    source, _, words = row.rpartition(" |")
    files = {
        "rnn_layers.py": f"{source}\n",
        "gates.py": "",
        "fcntl.py": "",  # which Python does not import by this name
        "sub/helper.py": "",
        "never_imported.py": "import torch\n",
    }
    found = unusual({name: text.encode() for name, text in files.items()}, HOMES)
    assert sorted(found) == sorted(filter(None, words.strip().split(", ")))


def test_a_helper_is_read_and_what_is_listed_has_an_end() -> None:
    many = "".join(f"import a{k}{'x' * 99}\n" for k in range(2000))
    files = {"rnn_layers.py": b"from .sub.helper import sgd\n", "sub/helper.py": many.encode()}
    found = unusual(files, HOMES)
    assert len(found) == 21
    assert max(map(len, found)) <= 50
    assert found[-1] == "and more"


def test_what_students_are_given_has_nothing_unusual() -> None:
    files = {file: table.source(module, "cs231n") for module, file in table.FILES.items()}
    homes = {module: {module: file} for module, file in table.FILES.items()}
    assert unusual({name: text.encode() for name, text in files.items()}, homes) == []
