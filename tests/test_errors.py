"""Errors: a sentence each, of the classes that people catch, and bounded."""

import copy
import importlib.metadata
import pickle
import shlex
from pathlib import Path

import numpy as np
import pytest
from refusals import refuses

import xpcap
from xpcap import errors
from xpcap.errors import DataError, InvalidTypeError, InvalidValueError, XpcapError, one_of

CLASSES = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, XpcapError) and kind is not XpcapError
]


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_copies_and_pickles(kind: type[XpcapError]) -> None:
    error = kind("Wh has shape (4, 12), expected (H, 4H), H = 4; i, f, o, g?")
    for other in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(other) is kind
        assert (
            str(other) == str(error) == "Wh has shape (4, 12), expected (H, 4H), H = 4; i, f, o, g?"
        )


def test_a_message_has_no_empty_cause() -> None:
    assert (
        str(DataError("a.csv is empty, expected captions; ")) == "a.csv is empty, expected captions"
    )


def test_a_long_message_keeps_its_ends() -> None:
    message = str(DataError(f"a.csv holds {'x' * 10_000}, expected captions; cut short?"))
    assert len(message) < 1000
    assert message.startswith("a.csv holds xxx")
    assert message.endswith("xxx, expected captions; cut short?")


def test_an_unknown_name_is_answered_by_the_nearest() -> None:
    assert one_of(["sgd", "adam"], "adan") == "one of sgd, adam; did you mean 'adam'?"


def test_an_error_is_of_the_class_that_people_catch() -> None:
    x, w = np.zeros((2, 3), np.float32), np.zeros((4, 5), np.float32)
    with refuses(ValueError, "affine_forward: w has shape (4, 5)"):
        xpcap.layers.affine_forward(x, w, np.zeros(5, np.float32))
    with refuses(TypeError, "w", "dtype int64", "float32 or float64"):
        xpcap.layers.affine_forward(x, w.astype(int), np.zeros(5, np.float32))
    assert issubclass(InvalidValueError, ValueError)
    assert issubclass(InvalidTypeError, TypeError)


def test_a_clone_that_is_not_installed_names_its_folder_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`.[timm]` was an error in any other folder."""

    def nowhere(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.requires", nowhere)
    clone = Path(xpcap.__file__).parents[1]
    assert shlex.split(errors.install("timm")) == ["pip", "install", f"{clone}[timm]"]
