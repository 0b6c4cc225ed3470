"""What is read of a submission, under which names, and what is refused."""

import errno
import itertools
import os
import string
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from refusals import refuses

from xpcap.errors import DataError
from xpcap.exercise.grading.files import HandedIn, dotted, read

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
        ("Ada Lovelace_123456_assignsubmission_file_/", "."),
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
    assert found.notes == []


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


def test_lines_that_are_empty_take_no_time(tmp_path: Path) -> None:
    file = tmp_path / "optim.py"
    file.write_bytes(b"def sgd(w): return w" + b"\n" * 900_000)
    assert homes(read(file)) == {"optim": {"sgd"}}


@pytest.mark.parametrize(
    ("names", "taken", "left"),
    [
        (["rnn_layers-1.py", "rnn.py"], "rnn_layers-1.py", []),
        (["rnn_layers (1).py", "rnn.py"], "rnn_layers (1).py", []),
        (["rnn_layers.py", "rnn_layers-2.py", "rnn_layers-10.py"], "rnn_layers-10.py", [0, 1]),
        (
            ["student_48812_771_rnn_layers.py", "student_48812_772_rnn.py"],
            "student_48812_771_rnn_layers.py",
            [],
        ),
        (
            ["ada_LATE_12345_678_rnn_layers-1.py", "ada_LATE_12345_679_rnn_layers-2.py"],
            "ada_LATE_12345_679_rnn_layers-2.py",
            [0],
        ),
        (["Ada O'Neill_12_assignsubmission_file_rnn_layers.py"], None, []),
    ],
)
def test_a_name_that_an_upload_left_is_taken_for_the_courses_and_said(
    names: list[str], taken: str | None, left: list[int], tmp_path: Path
) -> None:
    sources = {name: CAPTIONER if "rnn_layers" not in name else LAYERS for name in names}
    taken = taken or names[0]
    sources[taken] += "the = 'last'\n"
    found = read(write(tmp_path, sources))
    assert found.files["rnn_layers.py"].endswith(b"the = 'last'\n")
    assert found.shown["rnn_layers.py"] == taken
    assert len(found.files) == len(names) - len(left)
    instead = f", in place of {', '.join(names[one] for one in left)}" if left else ""
    assert f"{taken} is taken as rnn_layers.py{instead}" in found.notes
    assert not [note for note in found.notes if note.startswith("rnn.py")]


def test_a_helper_is_taken_by_the_name_that_others_import_and_other_names_stay(
    tmp_path: Path,
) -> None:
    files = {
        "rnn_layers.py": f"from .gates import gate\nimport mine_2_tools\n{LAYERS}",
        "gates-1.py": "gate = 1\n",
        "mine_2_tools.py": "tool = 1\n",
        "part-1.py": "def sgd(w): 0\n",
        "part-2.py": "def adam(w): 0\n",
        "old_2_rnn_layers.py": "",
    }
    found = read(write(tmp_path, files))
    assert found.notes == ["gates-1.py is taken as gates.py"]
    assert {file: name for file, name in found.shown.items() if file != name} == {
        "gates.py": "gates-1.py",
        "part_1.py": "part-1.py",
        "part_2.py": "part-2.py",
    }
    assert found.homes["optim"] == {"sgd": "part_1.py", "adam": "part_2.py"}


def test_a_file_beside_the_package_is_not_left_out_in_silence(tmp_path: Path) -> None:
    found = read(write(tmp_path, {"cs231n/rnn_layers.py": LAYERS, "rnn_layers.py": LAYERS}))
    assert found.notes == ["rnn_layers.py lies outside cs231n, and is not graded"]


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


def test_links_that_lead_elsewhere_are_left_and_said(tmp_path: Path) -> None:
    write(tmp_path, {"secret.py": "def adam(w): 0\n", "in/optim.py": "def sgd(w): 0\n"})
    links = {
        "in/broken.py": tmp_path / "none.py",
        "in/data.npz": tmp_path / "secret.py",
        "in/datasets": tmp_path,
        "in/folder": tmp_path,
        "in/inside.py": tmp_path / "in/optim.py",
        "in/loop.py": tmp_path / "in/loop.py",
        "in/rnn.py": tmp_path / "secret.py",
    }
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    before = read(tmp_path / "in")
    assert homes(before) == {"optim": {"sgd"}}
    assert sorted(before.files) == ["inside.py", "optim.py"]
    assert before.notes == [
        "broken.py is a link that leads nowhere: No such file or directory",
        "folder is a link that leads out of the submission, and is not read",
        "loop.py is a link that leads nowhere: Too many levels of symbolic links",
        "rnn.py is a link that leads out of the submission, and is not read",
    ]
    write(tmp_path, {"secret.py": "def adam(w): 1\n"})
    assert read(tmp_path / "in").digest(0) == before.digest(0)


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names that cannot be opened or listed: whoever runs the tests may read all files."""
    names: set[str] = set()
    open_file, scan = Path.open, os.scandir

    def refuse(path: Any) -> None:
        if Path(path).name in names:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

    def opened(path: Path, *arguments: Any, **options: Any) -> Any:
        refuse(path)
        return open_file(path, *arguments, **options)

    def scanned(path: Any) -> Any:
        refuse(path)
        return scan(path)

    monkeypatch.setattr(Path, "open", opened)
    monkeypatch.setattr(os, "scandir", scanned)
    return names


def test_what_cannot_be_read_is_said_and_the_rest_is_read(closed: set[str], tmp_path: Path) -> None:
    files = {"rnn_layers.py": LAYERS, "rnn.py": CAPTIONER, "own/a.py": "", "data": "1"}
    write(tmp_path / "in", dict(files))
    closed |= {"rnn.py", "own", "data"}
    found = read(tmp_path / "in")
    assert homes(found) == {"rnn_layers": {"lstm_step_forward", "sigmoid"}}
    assert found.notes == [
        "own cannot be listed: Permission denied",
        "rnn.py cannot be read: Permission denied",
    ]
    closed |= {"rnn_layers.py"}
    with refuses(DataError, function="grade", cause="rnn.py cannot be read: Permission denied"):
        read(tmp_path / "in")
    with refuses(DataError, function="grade", got="cannot be read: Permission denied"):
        read(tmp_path / "in/rnn.py")
    closed |= {"in"}
    with refuses(DataError, function="grade", got="cannot be listed: Permission denied"):
        read(tmp_path / "in")


def test_notes_and_folders_have_an_end(tmp_path: Path) -> None:
    write(tmp_path, {"optim.py": "def sgd(w): 0\n"})
    for k in range(30):
        (tmp_path / f"link{k:02}.py").symlink_to(tmp_path / "none.py")
    assert read(tmp_path).notes[-2:] == [
        "link19.py is a link that leads nowhere: No such file or directory",
        "and 10 more such notes",
    ]
    (tmp_path / ("a/" * 101)).mkdir(parents=True)
    with refuses(DataError, function="grade", got="more than 100 deep"):
        read(tmp_path)


def test_many_names_take_little_memory(tmp_path: Path) -> None:
    letters = string.ascii_letters + "_"
    names = ["".join(each) for each in itertools.product(letters, repeat=3)]
    content = f"import {','.join(names)}\ndef sgd(w): 0\n"
    write(tmp_path, {"optim.py": content, "aaa-1.py": ""})
    tracemalloc.start()
    found = read(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.notes == ["aaa-1.py is taken as aaa.py"]
    assert homes(found) == {"optim": {"sgd"}}
    assert peak < 8 * len(content)


@pytest.mark.parametrize(
    "change",
    [
        {"stats.npy": b"\0"},
        {".hidden": b""},
        {"deep/er/notes.txt": b"a"},
        {"data.bin": b"\0" * 10**6 + b"\1"},
        {"data.bin": b"\0" * 10**7},
        {"rnn_layers.py": LAYERS + "#"},
    ],
    ids=["data", "hidden", "below", "last byte", "size", "code"],
)
def test_the_digest_is_of_every_file_of_whatever_kind_and_of_the_seed(
    change: dict[str, str | bytes], tmp_path: Path
) -> None:
    one = read(write(tmp_path / "one", {"rnn_layers.py": LAYERS, "data.bin": b"\0" * (10**6 + 1)}))
    same = read(
        write(tmp_path / "same", {"rnn_layers.py": LAYERS, "data.bin": b"\0" * (10**6 + 1)})
    )
    assert one.digest(0) == same.digest(0)
    assert one.digest(0) != one.digest(1)
    assert int(one.digest(0), 16) < 2**64
    assert read(write(tmp_path / "same", change)).digest(0) != one.digest(0)


@pytest.mark.parametrize(
    ("files", "path", "got", "more"),
    [
        ({}, "none.py", "does not exist", {"expected": "the name of a module"}),
        ({}, "no.such.module", "does not exist", {}),
        ({"a.py": "x = 1\n"}, "a.py", "defines nothing of the course", {"expected": "adam"}),
        ({"a.py": b"#" * 1_000_001}, "a.py", "has more than 1,000,000 bytes", {}),
        ({f"f{i}.py": "" for i in range(501)}, ".", "has more than 500 Python files", {}),
        ({f"f{i}.py": b"#" * 10**6 for i in range(5)}, ".", "4,000,000 bytes of them", {}),
        (
            {"a.ipynb": '{"cells": ["def sgd(w):"]}', "work.zip": b"PK"},
            ".",
            "defines nothing of the course",
            {"cause": "it holds a.ipynb, work.zip"},
        ),
        ({"work.zip": b"PK"}, "work.zip", "is an archive", {"expected": "a folder"}),
    ],
)
def test_what_is_no_submission_is_refused(
    files: dict[str, str | bytes],
    path: str,
    got: str,
    more: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(write(tmp_path, files))
    with refuses(DataError, function="grade", got=got, **more):
        read(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX has pipes")
def test_a_pipe_is_not_waited_at(tmp_path: Path) -> None:
    write(tmp_path, {"in/rnn_layers.py": LAYERS})
    for name in ("pipe", "in/rnn.py", "in/data"):
        os.mkfifo(tmp_path / name)
    assert homes(read(tmp_path / "in")) == {"rnn_layers": {"lstm_step_forward", "sigmoid"}}
    with refuses(DataError, function="grade", got="is a pipe"):
        read(tmp_path / "pipe")
