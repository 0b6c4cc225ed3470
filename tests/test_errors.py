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
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, XpcapError) and kind is not XpcapError
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


def test_error_copies_and_pickles_with_its_fields() -> None:
    for kind in CLASSES:
        error = kind("function", "thing", "got", expected="expected", cause="cause")
        for other in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
            assert type(other) is kind
            assert [getattr(other, name) for name in FIELDS] == list(FIELDS)
            assert str(other) == str(error) == "function: thing got, expected expected; cause"


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


def test_a_clone_that_is_not_installed_names_its_folder_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`.[timm]` was an error in any other folder."""

    def nowhere(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.requires", nowhere)
    clone = Path(xpcap.__file__).parents[1]
    assert shlex.split(errors.install("timm")) == ["pip", "install", f"{clone}[timm]"]
