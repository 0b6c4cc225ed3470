"""Processes of a submission: what comes back of errors, ends and nonsense, and the line of each."""

import json
import math
import os
import random
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from xpcap.exercise.grading import run
from xpcap.exercise.grading.confine import Confinement, confinement
from xpcap.exercise.grading.run import Line, Observation, Question, Stopped, ask, observation

CASES = {"first": {"w": np.ones((2, 3)), "gradients": np.ones((2, 2, 3))}}
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux holds to it")


@pytest.fixture(scope="module")
def unconfined() -> Confinement:
    """Of the quickest start: test_confine.py has what the others hold."""
    return confinement(rung="none")


def rules(
    bodies: Mapping[str, str], confined: Confinement, head: str = "", seconds: float = 10.0
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
    answers = ask(files, shown, questions, confined, seconds=seconds, memory=0.5)
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


def test_an_error_names_its_type_and_the_students_line(unconfined: Confinement) -> None:
    bodies = {name: body for name, (body, *_) in ERRORS.items()}
    for name, answer in rules(bodies, unconfined, HEAD).items():
        body, kind, message = ERRORS[name]
        assert isinstance(answer, Observation), answer
        found = answer.error("out")
        assert found is not None
        assert (found[0], found[1][: len(message)]) == (kind, message)
        at = 5 + 2 * list(ERRORS).index(name) + 1
        assert found[2] == Line("my work.py", at, body)


def test_an_array_that_is_too_large_to_send_is_told_by_its_shape(unconfined: Confinement) -> None:
    (answer,) = rules(
        {"large": "return np.ones((2 * 10**5, 2, 3)), config"}, unconfined, HEAD
    ).values()
    assert isinstance(answer, Observation)
    told = answer.note("out").types["the weights after step 1"]
    assert told == "an array of shape (200000, 2, 3)"


@pytest.mark.parametrize(
    ("source", "kind", "line"),
    [
        ("def sgd(w):\n  return w +\n", "SyntaxError", 2),
        ("import torch_is_not_here\n", "ModuleNotFoundError", 1),
        ("def f():\n    raise ValueError('x')\nf()\n", "ValueError", 2),
    ],
)
def test_a_file_that_cannot_be_imported_says_so_once(
    source: str, kind: str, line: int, unconfined: Confinement
) -> None:
    questions = [Question("", "", ["cs231n.work"])]
    (answer,) = ask(
        {"work.py": source.encode()},
        {"work.py": "work.py"},
        questions,
        unconfined,
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
    "forges": (
        "[os.write(one, b'A' * 99) for one in range(3, 30) if os.path.exists(f'/proc/self/fd/{one}')"
        " and os.readlink(f'/proc/self/fd/{one}').startswith('pipe')]; os._exit(0)",
        run.NONSENSE,
        False,
    ),
    "hungry": ("return np.ones(50 * 10**9 // 8), config", "needed more than 0.5 GB", True),
}


@linux
def test_an_end_costs_one_function_and_the_rest_is_asked(unconfined: Confinement) -> None:
    bodies = {name: body for name, (body, *_) in ENDS.items()}
    answers = rules(
        {**bodies, "right": "return w - config['learning_rate'] * dw, config"}, unconfined, HEAD
    )
    for name, (body, reason, has_line) in ENDS.items():
        answer = answers[name]
        assert isinstance(answer, Stopped), answer
        assert answer.reason.startswith(reason)
        if has_line:
            assert answer.line == Line("my work.py", 6 + 2 * list(ENDS).index(name), body)
    right = answers["right"]
    assert isinstance(right, Observation)
    np.testing.assert_allclose(right.arrays["out.the weights after step 2"], -0.074)


def test_a_loop_is_stopped_at_its_line_also_where_it_evades_the_watch(
    unconfined: Confinement, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "LATER", 1.0)
    bodies = {"loop": "while True: pass"}
    if sys.platform.startswith("linux"):
        bodies["evades"] = "faulthandler.cancel_dump_traceback_later(); time.sleep(99)"
    answers = rules(bodies, unconfined, HEAD, seconds=0.3)
    for answer in answers.values():
        assert isinstance(answer, Stopped)
        assert answer.reason == "did not end within 0.3 seconds"
    assert answers["loop"][:2] == (
        "did not end within 0.3 seconds",
        Line("my work.py", 6, "while True: pass"),
    )


FLOODS = {  # what is written to the answers or the faults again and again: the reason
    "0, bytes(8)": run.NONSENSE,  # a question begins, and begins
    "0, bytes([1, 0, 0, 0, 0, 0, 0, 0, 0])": run.NONSENSE,
    "0, bytes([255]) * 2**16": run.NONSENSE,
    "1, bytes(2**16)": "did not end within 0.5 seconds",
}
PIPES = """import faulthandler, os, select, signal, stat
def pipes():
    for number in range(3, 30):
        try:
            if stat.S_ISFIFO(os.fstat(number).st_mode): yield number
        except OSError: pass
def flood(which, data):
    faulthandler.cancel_dump_traceback_later()
    while True: os.write(list(pipes())[which], data)
def outlive(path, apart, floods=False):
    if os.fork():
        return floods or os._exit(3)
    if apart: os.setsid()
    try:
        file = os.open(path, os.O_WRONLY)
        signal.alarm(20)
        reader = select.poll()
        reader.register(file, 0)
        while not reader.poll(0 if floods else 10_000):  # until the test closes it
            os.write(list(pipes())[1] if floods else file, bytes(2**16))
    finally:
        os._exit(0)
"""


@linux
def test_floods_end_within_the_limit(
    unconfined: Confinement, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "LATER", 1.0)
    bodies = {f"flood{k}": f"flood({data})" for k, data in enumerate(FLOODS)}
    answers = rules(bodies, unconfined, PIPES, seconds=0.5).values()
    reasons = [answer.reason for answer in answers if isinstance(answer, Stopped)]
    assert reasons == list(FLOODS.values())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX forks")
@pytest.mark.parametrize("apart", [False, True], ids=["in its group", "in a session of its own"])
def test_a_process_that_outlives_its_parent_is_not_waited_for(
    apart: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "LATER", 0.5)
    free = Confinement("none", "not confined", ())  # no filter forbids processes
    os.mkfifo(fifo := tmp_path / "fifo")
    with os.fdopen(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as alive:
        call = f"outlive({str(fifo)!r}, {apart}"
        bodies = {"ends": f"{call})", "right": f"return {call}, True) and w, config"}
        ends, right = rules(bodies, free, PIPES, seconds=2.0).values()
        assert isinstance(right, Observation)
        assert isinstance(ends, Stopped)
        assert ends.reason == run.LEFT_BEHIND
        os.set_blocking(alive.fileno(), apart is False)
        assert alive.read(1) == (None if apart else b"")  # nothing yet, or nobody any more


def test_what_calls_a_function_that_does_not_end_is_not_asked(unconfined: Confinement) -> None:
    bodies = dict.fromkeys(
        ("lstm_step_forward", "lstm_backward", "rnn_forward"), "return w, config"
    )
    bodies["lstm_step_forward"] = "while True: pass"
    answers = rules(bodies, unconfined, HEAD, seconds=0.3)
    assert answers["lstm_backward"] == Stopped("was not asked: lstm_step_forward does not end")
    assert isinstance(answers["rnn_forward"], Observation)


def test_the_functions_of_a_file_have_a_time_in_all(
    unconfined: Confinement, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "START", 2e-9)
    monkeypatch.setattr(run, "IN_ALL", 1e-10)
    answers = rules({"one": "return w, config", "two": "return w, config"}, unconfined)
    assert {answer.reason for answer in answers.values() if isinstance(answer, Stopped)} == {
        "was not reached: the file took its 3e-09 seconds"
    }
    assert len(answers) == 2


def frame(arrays: Mapping[str, np.ndarray], notes: object) -> bytes:
    return save(dict(arrays), {"notes": json.dumps(notes)})


def test_an_answer_is_arrays_and_notes_of_the_types_that_they_are_to_have() -> None:
    error = {"type": "E", "message": "m", "file": "f.py", "line": 3, "text": "t"}
    notes = {"out": {"error": error, "count": 2}, "again": {"types": {"dx": "list"}, "none": True}}
    seen = observation(frame({"out.dx": np.arange(3.0)}, notes))
    assert seen.error("out") == ("E", "m", Line("f.py", 3, "t"))
    assert seen.note("out").number == 2
    assert seen.note("again").types == {"dx": "list"}
    assert seen.note("again").none
    np.testing.assert_array_equal(seen.arrays["out.dx"], np.arange(3.0))


LONG = "\ud800" * 600
ODD = (math.inf, math.nan, 2.5, 10**30, -1, -2, True, None, LONG, ["dx" * 50] * 99, {}, [[]])
DTYPES = ("BF16", "F8_E4M3", "C64", "BOOL", "I8", "U64", "F16", None, LONG)
SHAPES = ([2**63, 0], [1] * 8 + [3], [1] * 70, [-1], [24], [3, True], [2.5], None)


def changed(content: bytes, rng: random.Random) -> bytes:
    """A frame with a change of its bytes, of an array's description, or of its notes."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    kind = rng.choice(["bytes", "array", "notes"])
    if kind == "bytes":
        start, stop = (rng.randrange(len(content)) for _ in range(2))
        end = stop if rng.random() < 0.1 else start + rng.randrange(4)
        return content[:start] + rng.randbytes(rng.randrange(4)) + content[end:]
    if kind == "array":
        change = rng.choice([("dtype", rng.choice(DTYPES)), ("shape", rng.choice(SHAPES))])
        header[rng.choice(["out.dx", LONG])] = {**header.pop("out.dx"), **dict([change])}
    else:
        place = notes = json.loads(header["__metadata__"]["notes"])
        while isinstance(place[key := rng.choice(list(place))], dict) and rng.random() < 0.8:
            place = place[key]
        place[rng.choice([key, LONG])] = rng.choice(ODD)
        text = json.dumps(notes)
        # more digits than Python reads
        header["__metadata__"]["notes"] = text.replace(": -1", f": {'1' * 5000}")
    text = json.dumps(header)
    return struct.pack("<Q", len(text)) + text.encode() + content[8 + size :]


def texts(value: Any) -> Iterator[str]:
    """All text in an observation or a part of it."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from texts([*value, *value.values()])
    elif isinstance(value, Sequence):
        for part in value:
            yield from texts(part)


NONSENSE: Sequence[bytes] = (
    b"",
    b"A" * 99,
    struct.pack("<Q", 2**40) + b"{}",
    frame({}, []),
    frame({}, {"out": 3}),
    frame({}, {"out": {"error": 3}}),
    frame({}, {"out": {"count": "many"}}),
    save({"a": np.ones(1)}),
    struct.pack("<Q", 200_000) + b"[" * 200_000,
)


@pytest.mark.parametrize("content", NONSENSE, ids=range(len(NONSENSE)))
def test_an_answer_of_another_form_is_nonsense(content: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of many kinds
        observation(content)


def test_any_frame_is_an_observation_within_bounds_or_nonsense() -> None:
    error = {"type": "E", "message": "m", "file": "f.py", "line": 3, "text": "t"}
    names = {"names": ["dx"], "missing": ["Wx"], "types": {"dx": "list"}}
    notes = {"out": {"error": error, "count": 2, "none": False, **names}}
    whole = frame({"out.dx": np.arange(3.0)}, notes)
    rng, kinds = random.Random(0), set()
    for _ in range(2000):
        try:
            seen = observation(changed(whole, rng))
        except ValueError:
            kinds.add("nonsense")
            continue
        kinds.add("an observation")
        "".join(texts(seen)).encode()  # can be written
        assert max(map(len, texts(seen))) <= 500
        assert (
            len("".join(texts([note._replace(error=None) for note in seen.notes.values()]))) < 9000
        )
        for note in seen.notes.values():
            assert type(note.none) is bool
            numbers = [note.number or 0, note.error[2].number if note.error else 0]
            assert all(type(number) is int and 0 <= number < 2**31 for number in numbers)
        for array in seen.arrays.values():
            assert array.dtype.kind in "fiub"
            assert array.ndim <= 8
    assert kinds == {"nonsense", "an observation"}
