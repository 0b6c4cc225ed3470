"""What is read of a submission, under which names, and what is refused."""

import sys
from pathlib import Path

import pytest
from refusals import refuses

from xpcap.cs231n.grading.files import HandedIn, dotted, read
from xpcap.errors import DataError

LAYERS = "import numpy as np\ndef lstm_step_forward(x): return x\ndef sigmoid(x): return x\n"
CAPTIONER = "from rnn_layers import *\nclass CaptioningRNN: pass\n"


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def homes(handed_in: HandedIn) -> dict[str, set[str]]:
    return {module: set(files) for module, files in handed_in.homes.items()}


@pytest.mark.parametrize(
    ("prefix", "at"),
    [
        ("", "."),
        ("cs231n/", "."),
        ("assignment3/cs231n/", "."),
        ("homework/three/", "."),
        ("package_of_ada/part/", "package_of_ada.part"),
    ],
)
def test_a_folder_is_read_whatever_is_around_it(
    prefix: str, at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = {
        "rnn_layers.py": LAYERS,
        "classifiers/rnn.py": CAPTIONER.replace("rnn_layers", "..rnn_layers"),
        "optim.py": "adam, rmsprop = None, max\nif 1:\n    sgd: object = max\n",
        "helpers.py": "def relu(x): pass\n",
        "datasets/big.py": b"#" * 2_000_000,
        "__MACOSX/._rnn.py": b"\0",
    }
    write(tmp_path, {f"{prefix}{name}": content for name, content in inside.items()})
    monkeypatch.chdir(tmp_path)
    found = read(at)
    assert sorted(found.files) == ["classifiers/rnn.py", "helpers.py", "optim.py", "rnn_layers.py"]
    assert homes(found) == {
        "rnn_layers": {"lstm_step_forward", "sigmoid"},
        "rnn": {"CaptioningRNN"},
        "optim": {"adam", "rmsprop", "sgd"},
    }
    assert dotted(found.homes["rnn"]["CaptioningRNN"]) == "cs231n.classifiers.rnn"
    assert found.shown["optim.py"] == ("" if at != "." else prefix) + "optim.py"
    assert found.notices == []


def test_a_file_of_any_name_is_where_its_imports_lead(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"final version.py": CAPTIONER.replace("rnn_layers", "..rnn_layers"), "b.py": LAYERS},
    )
    alone = read(tmp_path / "final version.py")
    assert alone.shown == {"classifiers/final_version.py": "final version.py"}
    together = read(tmp_path)
    assert together.shown == {"b.py": "b.py", **alone.shown}
    assert together.homes == {
        "rnn_layers": {"lstm_step_forward": "b.py", "sigmoid": "b.py"},
        "rnn": {"CaptioningRNN": "classifiers/final_version.py"},
    }


def test_a_file_beside_the_package_is_not_left_out_in_silence(tmp_path: Path) -> None:
    found = read(write(tmp_path, {"cs231n/rnn_layers.py": LAYERS, "rnn_layers.py": LAYERS}))
    assert found.notices == ["rnn_layers.py is outside cs231n, and is not graded"]


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + LAYERS.replace("\n", "\r\n").encode(),
        b"# -*- coding: latin-1 -*-\n# \xe9\n" + LAYERS.encode(),
        LAYERS.encode() + b"x = '\\d'\ndef broken(:\n",
    ],
    ids=["BOM and CRLF", "latin-1", "no Python"],
)
def test_functions_are_found_in_any_encoding_and_beside_mistakes(
    content: bytes, tmp_path: Path
) -> None:
    write(tmp_path, {"rnn_layers.py": content})
    assert homes(read(tmp_path)) == {"rnn_layers": {"lstm_step_forward", "sigmoid"}}


def test_a_module_is_found_without_being_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = f"open({str(tmp_path / 'mark')!r}, 'w')\n"
    write(tmp_path, {"one/__init__.py": marked, "one/two.py": marked + "def sgd(w): return w\n"})
    monkeypatch.chdir(tmp_path)
    assert homes(read("one.two")) == {"optim": {"sgd"}}
    assert not (tmp_path / "mark").exists()
    assert "one" not in sys.modules


def test_what_cannot_be_read_is_said_and_the_rest_is_read(tmp_path: Path) -> None:
    write(tmp_path, {"optim.py": "def sgd(w): 0\n"})
    (tmp_path / "rnn.py").symlink_to(tmp_path / "none.py")
    found = read(tmp_path)
    assert homes(found) == {"optim": {"sgd"}}
    assert found.notices == ["rnn.py cannot be read: No such file or directory"]


@pytest.mark.parametrize(
    ("files", "path", "got", "more"),
    [
        ({}, "none.py", "does not exist", ("the name of a module",)),
        ({}, "no.such.module", "does not exist", ()),
        ({"a.py": "x = 1\n"}, "a.py", "defines nothing of the course", ("adam",)),
        ({f"f{i}.py": "" for i in range(501)}, ".", "has more than 500 Python files", ()),
        (
            {"a.ipynb": '{"cells": ["def sgd(w):"]}', "work.zip": b"PK"},
            ".",
            "defines nothing of the course",
            ("it contains a.ipynb, work.zip",),
        ),
        ({"work.zip": b"PK"}, "work.zip", "is an archive", ("a folder",)),
    ],
)
def test_what_is_no_submission_is_refused(
    files: dict[str, str | bytes],
    path: str,
    got: str,
    more: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(write(tmp_path, files))
    with refuses(DataError, got, *more):
        read(path)
