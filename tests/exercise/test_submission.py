"""A student's code in a process of its own: what goes in and comes out, and what it cannot do."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from refusals import refuses

from xpcap.errors import DataError
from xpcap.exercise.grading.submission import (
    Handle,
    Opaque,
    Stopped,
    StudentError,
    Submission,
    course_files,
)

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux holds to it")


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


ODDS = """
import sys, threading, warnings
import numpy as np

def rnn_step_forward(x, y, kind):
    if kind == "views":
        return x[1:], x[:2], y + 1, {"cache": x}
    if kind == "overwrite":
        x *= 2
        return None
    if kind == "warn":
        return np.log(x)
    if kind == "print":
        print("shape \\x1b[31m" + "é" * 5000)
        return 1
    if kind == "odd":
        return np.matrix([[1.0]]), object(), [1, (2.5, None)], {"a": True}, 2**80, x.astype(object)

def rnn_step_backward(dnext_h, cache):
    return dnext_h * cache["cache"]

def sigmoid(x):
    return x
"""


@pytest.fixture(scope="module")
def odds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Submission]:
    folder = tmp_path_factory.mktemp("odds")
    with Submission(write(folder, {"my work.py": ODDS}) / "my work.py") as submission:
        yield submission


SENT = [
    None,
    True,
    -7,
    0.1,
    float("inf"),
    "é\ud800\n",
    [1, [2, ("a",)]],
    {"a": [1.5], 3: {}},
    np.float32(0.1),
    np.arange(6.0).reshape(2, 3).T,
    np.zeros((0, 3), np.float32),
    np.array(5),
    np.array([True, False]),
    np.array([1, -2], ">i2"),
    np.array(["http://é", ""]),
    np.array([1 + 2j]),
]


@pytest.mark.parametrize("value", SENT, ids=repr)
def test_values_travel_there_and_back(value: object, odds: Submission) -> None:
    returned = odds.call("sigmoid", value)
    assert returned.is_tuple is False
    (back,) = returned.values
    assert type(back) is type(value)
    np.testing.assert_equal(back, value)
    if isinstance(value, np.ndarray):
        assert back.dtype == value.dtype


def test_a_tuple_comes_back_as_one_with_its_cache_left_there(odds: Submission) -> None:
    x = np.arange(6.0).reshape(3, 2)
    returned = odds.call("rnn_step_forward", x, x, "views", keep=True)
    assert returned.is_tuple
    *values, cache = returned.values
    assert isinstance(cache, Handle)
    for value, expected in zip(values, (x[1:], x[:2], x + 1), strict=True):
        np.testing.assert_array_equal(value, expected)
    (product,) = odds.call("rnn_step_backward", 2 * x, cache).values
    np.testing.assert_array_equal(product, 2 * x * x)
    odds.forget()
    with pytest.raises(StudentError, match="KeyError"):
        odds.call("rnn_step_backward", x, cache)


def test_results_that_share_memory_with_arguments_or_each_other_are_named(
    odds: Submission,
) -> None:
    x = np.ones((3, 2))
    returned = odds.call("rnn_step_forward", x, x, "views")
    assert returned.shared == ((0, 0), (1, 0))
    assert returned.shared_results == ((0, 1),)


def test_an_overwritten_argument_shows(odds: Submission) -> None:
    x = np.ones((3, 2))
    x.flags.writeable = False
    returned = odds.call("rnn_step_forward", x, x, "overwrite", arguments=True)
    assert returned.values == (None,)
    overwritten, other, _ = returned.arguments
    np.testing.assert_array_equal(overwritten, 2 * x)
    np.testing.assert_array_equal(other, x)


def test_warnings_name_their_line_and_come_at_every_call(odds: Submission) -> None:
    line = ODDS.splitlines().index("        return np.log(x)") + 1
    for _ in range(2):
        returned = odds.call("rnn_step_forward", np.zeros(2), None, "warn")
        assert returned.warnings == (
            f"RuntimeWarning: divide by zero encountered in log (my work.py, line {line})",
        )
    assert odds.call("sigmoid", 1).warnings == ()


def test_the_beginning_of_what_is_printed_comes_back(odds: Submission) -> None:
    printed = odds.call("rnn_step_forward", 1, 1, "print").printed
    assert printed.startswith("shape \x1b[31mééé")
    assert len(printed) == 2000
    assert odds.call("sigmoid", 1).printed == ""


def test_results_of_other_types_are_foreign(odds: Submission) -> None:
    values = odds.call("rnn_step_forward", np.ones(2), 1, "odd").values
    assert values == (
        Opaque("matrix"),
        Opaque("object"),
        [1, (2.5, None)],
        {"a": True},
        Opaque("int"),
        Opaque("array of object"),
    )


def test_a_driver_gets_the_students_modules(odds: Submission) -> None:
    returned = odds.call("probe.twice", "rnn_layers", "sigmoid", [1.5], [2.5])
    assert returned.values == (1.5, 1.5)


# Files


def test_only_what_the_submission_itself_defines_is_graded_and_the_rest_is_there(
    tmp_path: Path,
) -> None:
    source = course_files()["classifiers/rnn.py"].replace(b"cs231n.", b"..")
    write(tmp_path, {"final version.py": source})
    with Submission(tmp_path / "final version.py") as submission:
        assert submission.defines == {"rnn": {"CaptioningRNN"}}
        settings = {"word_to_idx": {"<NULL>": 0}, "input_dim": 2, "wordvec_dim": 3, "hidden_dim": 4}
        (shapes,) = submission.call(
            "probe.captioner_parameters", {**settings, "cell_type": "rnn"}, module="rnn"
        ).values
        assert shapes["Wx"] == [[3, 4], "float64"]


@pytest.mark.parametrize("shape", ["package", "assignment", "flat", "absolute", "module"])
def test_a_folder_is_graded_whatever_is_around_it(
    shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    course = course_files()
    inside = {
        "rnn_layers.py": course["rnn_layers.py"].replace(b"def rnn_forward", b"def missing"),
        "classifiers/rnn.py": b"from ..rnn_layers import *\nclass CaptioningRNN:\n    pass\n",
        "optim.py": b"from cs231n.layers import affine_forward\nadam = None\nif 1:\n    sgd = max\n",
        "helpers.py": b"def relu(x): pass\n",
    }
    if shape in ("flat", "absolute"):
        source = inside.pop("classifiers/rnn.py")
        inside["rnn.py"] = source if shape == "flat" else source.replace(b"..", b"")
    prefix = {"assignment": "assignment3/cs231n/", "module": "cs231n_of_ada/part/"}.get(shape, "")
    write(tmp_path, {f"{prefix}{name}": content for name, content in inside.items()})
    (tmp_path / prefix / "datasets").mkdir()
    (tmp_path / prefix / "datasets" / "big.py").write_bytes(b"#" * 2_000_000)
    monkeypatch.chdir(tmp_path)
    with Submission("cs231n_of_ada.part" if shape == "module" else tmp_path) as submission:
        assert set(submission.defines) == {"rnn_layers", "rnn", "optim"}
        assert "rnn_forward" not in submission.defines["rnn_layers"]
        assert {"lstm_forward", "sigmoid"} < submission.defines["rnn_layers"]
        assert submission.defines["optim"] == {"adam", "sgd"}
        assert submission.call("sigmoid", 0.0).values == (0.5,)
        assert submission.call("sgd", 2, 3).values == (3,)
        assert submission.call("CaptioningRNN").values == (Opaque("CaptioningRNN"),)
    assert not (tmp_path / prefix / "__pycache__").exists()


def test_a_module_is_found_without_being_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = f"open({str(tmp_path / 'mark')!r}, 'w')\n"
    write(tmp_path, {"one/__init__.py": marked, "one/two.py": marked + "def sgd(w): return w\n"})
    monkeypatch.chdir(tmp_path)
    assert Submission("one.two").defines == {"optim": {"sgd"}}
    assert not (tmp_path / "mark").exists()
    assert "one" not in sys.modules


def test_reference_files_stand_in_for_a_module_that_is_not_to_be_judged(tmp_path: Path) -> None:
    write(tmp_path, {"rnn_layers.py": "def sigmoid(x): return 7\n", "optim.py": "def sgd(w): 0\n"})
    with Submission(tmp_path, reference=["rnn_layers"]) as submission:
        assert submission.defines == {"optim": {"sgd"}}
        assert submission.call("sigmoid", 0.0, module="rnn_layers").values == (0.5,)


@pytest.mark.parametrize(
    ("files", "path", "came", "expected"),
    [
        ({}, "none.py", "does not exist", "a file, a folder, or the name of a module"),
        ({}, "no.such.module", "does not exist", ""),
        ({"a.py": "x = 1\n"}, "a.py", "defines nothing of the course", "functions such as"),
        ({"a.py": b"#" * 1_000_001}, "a.py", "has more than 1,000,000 bytes", ""),
        ({f"f{i}.py": "" for i in range(501)}, ".", "has more than 500 Python files", ""),
        (
            {f"f{i}.py": b"#" * 10**6 for i in range(5)},
            ".",
            "or more than 4,000,000 bytes of them",
            "",
        ),
        ({"a.ipynb": '{"cells": ["def sgd(w):"]}'}, ".", "defines nothing of the course", ""),
    ],
)
def test_what_is_no_submission_is_refused(
    files: dict[str, str | bytes],
    path: str,
    came: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(write(tmp_path, files))
    with refuses(DataError, function="grade", came=came, expected=expected):
        Submission(path)


def test_a_link_that_leads_out_is_left_where_it_is(tmp_path: Path) -> None:
    write(
        tmp_path, {"secret.py": "def adam(w): return 'secret'\n", "in/optim.py": "def sgd(w): 0\n"}
    )
    (tmp_path / "in/link.py").symlink_to(tmp_path / "secret.py")
    assert Submission(tmp_path / "in").defines == {"optim": {"sgd"}}


# Errors


@pytest.mark.parametrize(
    ("source", "says", "line", "text"),
    [
        (
            "def sgd(w):\n    return w @ b\n",
            "NameError: name 'b' is not defined",
            2,
            "return w @ b",
        ),
        ("def sgd(w, dw):\n    0\n", "TypeError: sgd() missing 1 required", 1, "def sgd(w, dw):"),
        ("import sys\ndef sgd(w):\n    sys.exit(3)\n", "SystemExit: 3", 3, "sys.exit(3)"),
        (
            "def sgd(w):\n    raise KeyboardInterrupt\n",
            "KeyboardInterrupt",
            2,
            "raise KeyboardInterrupt",
        ),
        ("def sgd(w):\n  return w +\n", "SyntaxError: invalid syntax", 2, "return w +"),
        ("import torch_is_not_here\ndef sgd(w): 0\n", "ModuleNotFoundError", 1, "import torch_is"),
        ("import xpcap\ndef sgd(w): 0\n", "is what this code is graded against", 1, "import xpcap"),
        ("from xpcap.optim import sgd as s\ndef sgd(w): 0\n", "cannot import it", 1, "from xpcap"),
        (
            f"def sgd(w):\n    return open({str(Path(np.__file__).parents[0])!r}).read()\n",
            "IsADirectoryError",
            2,
            "return open(",
        ),
        (
            f"def sgd(w):\n    return open({__file__.split('tests')[0]!r} + 'xpcap/optim.py').read()\n",
            "cannot read the files of its grader",
            2,
            "return open(",
        ),
        (
            "def sgd(w):\n    open('FOLDER/written', 'w')\n",
            "cannot change files outside",
            2,
            "open(",
        ),
        (
            "import os\ndef sgd(w):\n    os.remove('FOLDER/work.py')\n",
            "cannot change files outside",
            3,
            "os.remove(",
        ),
        (
            "import subprocess\ndef sgd(w):\n    subprocess.run(['true'])\n",
            "cannot start or end processes",
            3,
            "subprocess.run(['true'])",
        ),
        (
            "import os\ndef sgd(w):\n    while True:\n        os.mkdir('a')\n        os.chdir('a')\n",
            "cannot change files outside",
            4,
            "os.mkdir('a')",
        ),
        ("import os\ndef sgd(w):\n    os.fork()\n", "cannot start or end", 3, "os.fork()"),
        (
            "import socket\ndef sgd(w):\n    socket.create_connection(('127.0.0.1', 9))\n",
            "cannot use the network",
            3,
            "socket.create",
        ),
        (
            "class E(Exception):\n    def __str__(self): raise self\ndef sgd(w):\n    raise E\n",
            "E: an error that cannot be printed",
            4,
            "raise E",
        ),
        ("def sgd(w):\n    return sgd(w)\n", "RecursionError", 2, "return sgd(w)"),
    ],
)
def test_an_error_names_the_students_line(
    source: str, says: str, line: int, text: str, tmp_path: Path
) -> None:
    """FOLDER in a source is that of the submission."""
    write(tmp_path, {"work.py": source.replace("FOLDER", tmp_path.as_posix())})
    with Submission(tmp_path / "work.py") as submission:
        for _ in range(2):
            with pytest.raises(StudentError) as caught:
                submission.call("sgd", 1)
            error = caught.value
            assert says in f"{error.type}: {error.message}"
            assert (error.file, error.line) == ("work.py", line)
            assert error.text.startswith(text)


def test_what_it_writes_in_its_working_folder_goes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = """
import os, tempfile
def sgd(w):
    open("results.txt", "w").write("x")
    with tempfile.TemporaryDirectory() as folder:
        open(folder + "/a", "w").close()
    return os.getcwd(), os.listdir("."), os.environ.get("SECRET")
"""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET", "token")
    write(tmp_path, {"work.py": source})
    with Submission("work.py") as submission:
        folder, files, secret = submission.call("sgd", 1).values
        assert Path(folder).is_dir()
    assert (files, secret) == (["results.txt"], None)
    assert not Path(folder).exists()
    assert list(tmp_path.iterdir()) == [tmp_path / "work.py"]


# Hostile code


@pytest.mark.parametrize(
    ("body", "says", "at"),
    [
        ("while True: pass", "did not end within 2 seconds", True),
        ("print('x' * 10**8)", "printed, or wrote to a file, more than 10 MB", False),
        ("for _ in range(10**6): print('a line of text')", "more than 10 MB", False),
        ("open('f', 'wb').write(bytes(2 * 10**7))", "more than 10 MB", False),
        ("os._exit(3)", "ended its process (exit status 3)", False),
        (
            "for i in range(3, 20):\n        with contextlib.suppress(OSError): os.write(i, b'A' * 99)",
            "answered what no function returns",
            False,
        ),
        ("faulthandler._sigsegv()", "ended its process (SIGSEGV)", True),
        pytest.param("signal.raise_signal(50)", "process (signal 50)", False, marks=linux),
        ("signal.signal(signal.SIGALRM, signal.SIG_IGN); time.sleep(99)", "did not end", True),
        ("[os.close(i) for i in range(3, 20)]", "ended its process", False),
        pytest.param("np.ones(50 * 10**9 // 8)", "needed more than 1 GB", True, marks=linux),
        pytest.param(
            "x = [0]\n    while True: x += x", "needed more than 1 GB of memory", True, marks=linux
        ),
    ],
)
@pytest.mark.skipif(os.name != "posix", reason="some of these signals are POSIX's")
def test_hostile_code_is_stopped_with_a_message_and_the_next_call_works(
    body: str, says: str, at: bool, tmp_path: Path
) -> None:
    source = f"import contextlib, faulthandler, os, signal, time\nimport numpy as np\ndef sgd(w):\n    {body}\n"
    write(tmp_path, {"work.py": source + "def adam(w): return w\n"})
    with Submission(tmp_path / "work.py", seconds=2, memory=1) as submission:
        with pytest.raises(Stopped) as caught:
            submission.call("sgd", 1)
        assert says in caught.value.reason
        if at:
            assert caught.value.file == "work.py"
            assert caught.value.text in source.splitlines()[caught.value.line - 1]
            assert caught.value.line >= 4
        assert submission.call("adam", 5).values == (5,)


def test_a_handle_is_not_mistaken_for_one_of_a_later_process(tmp_path: Path) -> None:
    source = (
        "import os\ndef sgd(w): return 1, w\ndef adam(w): return w\ndef rmsprop(): os._exit(1)\n"
    )
    write(tmp_path, {"work.py": source})
    with Submission(tmp_path / "work.py") as submission:
        before = submission.call("sgd", 2, keep=True).values[1]
        assert submission.call("adam", before).values == (2,)
        with pytest.raises(Stopped):
            submission.call("rmsprop")
        submission.call("sgd", 3, keep=True)
        with pytest.raises(StudentError, match="KeyError"):
            submission.call("adam", before)


def test_a_module_that_does_not_end_costs_its_seconds_once(tmp_path: Path) -> None:
    write(tmp_path, {"work.py": "def sgd(w): 0\nwhile True:\n    pass\n"})
    with Submission(tmp_path / "work.py", seconds=2) as submission:
        with pytest.raises(Stopped, match=r"2 seconds \(work.py, line [23]: ") as first:
            submission.load("optim")
        with pytest.raises(Stopped) as second:
            submission.call("sgd", 1)
    assert first.value is second.value


@linux
def test_nothing_outlives_the_block(tmp_path: Path) -> None:
    """Threads, atexit functions, and a child that native code starts past all refusals."""
    source = f"""
import atexit, ctypes, os, threading, time
atexit.register(lambda: ctypes.CDLL(None).creat({str(tmp_path / "mark").encode()!r}, 0o644))
def sgd(w):
    threading.Thread(target=lambda: time.sleep(1000)).start()
    pid = ctypes.CDLL(None).fork()
    if pid == 0:
        time.sleep(1000)
    return os.getpid(), pid
"""
    write(tmp_path, {"work.py": source})
    with Submission(tmp_path / "work.py") as submission:
        pids = submission.call("sgd", 1).values
        assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    for _ in range(1000):  # the orphan is reaped by whoever inherits it
        if not any(_alive(pid) for pid in pids):
            break
        time.sleep(0.01)
    assert not any(_alive(pid) for pid in pids)
    assert not (tmp_path / "mark").exists()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
