"""Public docstrings name every parameter with its type, in the form that the site is built from."""

from collections.abc import Callable

import docstrings
import pytest

PUBLIC = dict(docstrings.public())


def test_what_people_import_is_among_the_public_names() -> None:
    assert {"CaptioningRNN.sample", "layers.lstm_backward", "optim.adam", "train_run"} <= set(
        PUBLIC
    )
    assert len(PUBLIC) > 100


@pytest.mark.parametrize("name", PUBLIC)
def test_docstrings_give_a_type_to_every_parameter_in_order(name: str) -> None:
    assert docstrings.faults(PUBLIC[name]) == []


def with_docstring(prose: str) -> Callable[[int, int], int]:
    def function(x: int, y: int) -> int:
        return x + y

    function.__doc__ = prose
    return function


GOOD = """The sum.

Parameters
----------
x, y : int

Returns
-------
z : int
    The sum.

Raises
------
TypeError, ValueError
    No numbers.
"""


@pytest.mark.parametrize(
    ("right", "wrong", "fault"),
    [
        ("x, y : int", "x : int", "expected ['x', 'y']"),
        ("x, y : int", "y, x : int", "expected ['x', 'y']"),
        ("x, y : int", "x, y", "expected `name : type`"),
        ("x, y : int", "x, y : int; what to add", "expected `name : type`"),
        ("z : int", "the sum", "expected `name : type`"),
        ("Returns\n-------\nz : int", "Notes\n-----\nz : int", "no Returns"),
        ("TypeError, ValueError\n   ", "TypeError :", "expected names of errors"),
    ],
)
def test_a_docstring_out_of_form_is_found(right: str, wrong: str, fault: str) -> None:
    assert docstrings.faults(with_docstring(GOOD)) == []
    assert right in GOOD
    (found,) = docstrings.faults(with_docstring(GOOD.replace(right, wrong)))
    assert fault in found
