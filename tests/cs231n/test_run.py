"""Processes of a submission: what comes back of errors and ends, and the line of each."""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from xpcap.cs231n.grading import run
from xpcap.cs231n.grading.run import Line, Observation, Question, Stopped, ask, bubblewrap

CASES = {"first": {"w": np.ones((2, 3)), "gradients": np.ones((2, 2, 3))}}
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux holds to it")


def rules(
    bodies: Mapping[str, str], head: str = "", seconds: float = 10.0
) -> dict[str, Observation | Stopped]:
    """The answers of update rules with these bodies, in one file."""
    source = head + "".join(
        f"def {name}(w, dw, config):\n    {body}\n" for name, body in bodies.items()
    )
    questions = [
        Question(name, "rule", ["cs231n.work"], [f"cs231n.work:{name}"], (), CASES)
        for name in bodies
    ]
    files, shown = {"work.py": source.encode()}, {"work.py": "my work.py"}
    answers = ask(files, shown, questions, seconds=seconds, memory=0.5)
    return dict(zip(bodies, answers, strict=True))


ERRORS = {  # body of a rule: the error's type and message, and the line
    "name": ("return w @ b, config", "NameError", "name 'b' is not defined"),
    "system_exit": ("sys.exit(3)", "SystemExit", "3"),
    "interrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
    "recursion": ("return recursion(w, dw, config)", "RecursionError", "maximum recursion depth"),
    "unprintable": ("raise Odd", "Odd", "an error that cannot be printed"),
    "xpcap": ("import xpcap", "ModuleNotFoundError", "No module named 'xpcap'"),
    "unpacked": ("a, b = w[0]", "ValueError", "too many values to unpack"),
}
HEAD = """import contextlib, faulthandler, os, signal, sys, time
import numpy as np
class Odd(Exception):
    def __str__(self): raise self
"""


def test_an_error_names_its_type_and_line_and_a_large_array_its_shape() -> None:
    bodies = {name: body for name, (body, *_) in ERRORS.items()}
    answers = rules({**bodies, "large": "return np.ones((2 * 10**5, 2, 3)), config"}, HEAD)
    large = answers.pop("large")
    assert isinstance(large, Observation)
    told = large.note("out").types["the weights after step 1"]
    assert told == "an array of shape (200000, 2, 3)"  # too large to send
    for name, answer in answers.items():
        body, kind, message = ERRORS[name]
        assert isinstance(answer, Observation), answer
        found = answer.error("out")
        assert found is not None
        assert (found[0], found[1][: len(message)]) == (kind, message)
        at = 5 + 2 * list(ERRORS).index(name) + 1
        assert found[2] == Line("my work.py", at, body)


@pytest.mark.parametrize(
    ("source", "kind", "line"),
    [
        ("def sgd(w):\n  return w +\n", "SyntaxError", 2),
        ("import torch_is_not_here\n", "ModuleNotFoundError", 1),
        ("def f():\n    raise ValueError('x')\nf()\n", "ValueError", 2),
    ],
)
def test_a_file_that_cannot_be_imported_says_so_once(source: str, kind: str, line: int) -> None:
    questions = [Question("", "", ["cs231n.work"])]
    (answer,) = ask(
        {"work.py": source.encode()},
        {"work.py": "work.py"},
        questions,
        seconds=10.0,
        memory=0.5,
    )
    assert isinstance(answer, Observation)
    found = answer.error("import")
    assert found is not None
    assert (found[0], found[2].file, found[2].number) == (kind, "work.py", line)


ENDS = {  # body of a rule: the reason, and whether the line is known
    "leaves": ("os._exit(3)", "ended its process (exit status 3)", False),
    "crashes": ("faulthandler._sigsegv()", "ended its process (SIGSEGV)", True),
    "hungry": ("return np.ones(50 * 10**9 // 8), config", "needed more than 0.5 GB", True),
}


@linux
def test_an_end_costs_one_function_and_the_rest_is_asked() -> None:
    bodies = {name: body for name, (body, *_) in ENDS.items()}
    answers = rules({**bodies, "right": "return w - config['learning_rate'] * dw, config"}, HEAD)
    for name, (body, reason, has_line) in ENDS.items():
        answer = answers[name]
        assert isinstance(answer, Stopped), answer
        assert answer.reason.startswith(reason)
        if has_line:
            assert answer.line == Line("my work.py", 6 + 2 * list(ENDS).index(name), body)
    right = answers["right"]
    assert isinstance(right, Observation)
    np.testing.assert_allclose(right.arrays["out.the weights after step 2"], -0.074)


def test_a_loop_is_stopped_at_its_line_and_what_calls_it_is_not_asked() -> None:
    bodies = dict.fromkeys(
        ("lstm_step_forward", "lstm_backward", "rnn_forward"), "return w, config"
    )
    bodies["lstm_step_forward"] = "while True: pass"
    answers = rules(bodies, HEAD, seconds=0.3)
    line = Line("my work.py", 6, "while True: pass")
    stopped = Stopped("did not end within 0.3 seconds", line, is_slow=True)
    assert answers["lstm_step_forward"] == stopped
    assert answers["lstm_backward"] == Stopped("was not run: lstm_step_forward does not end")
    assert isinstance(answers["rnn_forward"], Observation)


def test_the_functions_of_a_file_have_a_time_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "START_SECONDS", 2e-9)
    monkeypatch.setattr(run, "TOTAL_FACTOR", 1e-10)
    answers = rules({"one": "return w, config", "two": "return w, config"})
    assert {answer.reason for answer in answers.values() if isinstance(answer, Stopped)} == {
        "was not finished when all functions had used their 3e-09 seconds"
    }
    assert len(answers) == 2


def test_bubblewrap_where_it_is_installed_keeps_files_as_they_are(tmp_path: Path) -> None:
    if not bubblewrap():
        pytest.skip("bubblewrap is not installed, or may not start here")
    body = f"open({str(tmp_path / 'mark')!r}, 'w')"
    (answer,) = rules({"writes": body}, HEAD).values()
    assert isinstance(answer, Observation)
    found = answer.error("out")
    assert found is not None
    assert found[0] == "OSError"
    assert not (tmp_path / "mark").exists()


@linux
def test_a_file_may_not_grow_without_end() -> None:
    body = "with open('large', 'wb') as file: file.write(bytes(11 * 2**20))"
    (answer,) = rules({"writes": body}, HEAD).values()
    assert isinstance(answer, Observation)
    found = answer.error("out")
    assert found is not None
    assert (found[0], found[2].number) == ("OSError", 6)
    assert "File too large" in found[1]
