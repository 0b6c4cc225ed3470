"""Errors with fields: one sentence of all of them, copies, pickles, and what the CLI prints."""

import copy
import importlib.metadata
import pickle
import shlex
from pathlib import Path

import numpy as np
import pytest
from refusals import FIELDS, refuses

import xpcap
from xpcap import errors
from xpcap.errors import DataError, InvalidTypeError, InvalidValueError, XpcapError, sentence

CLASSES = [
    one
    for one in vars(errors).values()
    if isinstance(one, type) and issubclass(one, XpcapError) and one is not XpcapError
]


def test_sentence_has_every_field() -> None:
    text = sentence("lstm_forward", "Wh", "has shape (4, 12)", "(H, 4H), H = 4", "i, f, o, g?")
    assert text == "lstm_forward: Wh has shape (4, 12), expected (H, 4H), H = 4; i, f, o, g?"
    assert sentence("open_run", "runs/a", "is missing") == "open_run: runs/a is missing"
    assert (
        sentence("", "CAPTIONS", "is missing", "a file") == "CAPTIONS is missing, expected a file"
    )
    assert sentence("use_backend", "", "got 3", cause="a name?") == "use_backend: got 3; a name?"
    assert sentence("any text; as it is") == "any text; as it is"


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_error_copies_and_pickles_with_its_fields(error: type[XpcapError]) -> None:
    one = error("function", "thing", "got", expected="expected", cause="cause")
    for other in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert type(other) is error
        assert [getattr(other, name) for name in FIELDS] == list(FIELDS)
        assert str(other) == str(one) == "function: thing got, expected expected; cause"


def test_error_is_of_the_class_that_people_catch() -> None:
    x, w = np.zeros((2, 3), np.float32), np.zeros((4, 5), np.float32)
    with refuses(ValueError, function="affine_forward", thing="w", got="shape (4, 5)"):
        xpcap.layers.affine_forward(x, w, np.zeros(5, np.float32))
    with refuses(TypeError, thing="w", got="dtype int64", expected="float32 or float64"):
        xpcap.layers.affine_forward(x, w.astype(int), np.zeros(5, np.float32))
    assert issubclass(InvalidValueError, ValueError)
    assert issubclass(InvalidTypeError, TypeError)


def test_function_and_file_begin_function_and_thing() -> None:
    error = DataError("open_run: runs/a", "W_proj", "has shape (3,)", expected="(D, H)")
    assert (error.function, error.thing) == ("open_run", "runs/a: W_proj")
    assert str(error) == "open_run: runs/a: W_proj has shape (3,), expected (D, H)"
    error = DataError("read_captions: a.csv", "", "is empty", expected="captions")
    assert (error.function, error.thing) == ("read_captions", "a.csv")
    assert str(error) == "read_captions: a.csv is empty, expected captions"


def test_a_tuple_asks_a_field_for_each_of_its_texts() -> None:
    with refuses(DataError, got=("has shape", "(3,)")):
        raise DataError("f", "x", "has shape (3,)")
    with pytest.raises(AssertionError), refuses(DataError, got=("has shape", "(4,)")):
        raise DataError("f", "x", "has shape (3,)")


def test_a_clone_that_is_not_installed_names_its_folder_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`.[timm]` was an error in any other folder."""

    def nowhere(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.requires", nowhere)
    clone = Path(xpcap.__file__).parents[1]
    assert shlex.split(errors.install("timm")) == ["pip", "install", f"{clone}[timm]"]
