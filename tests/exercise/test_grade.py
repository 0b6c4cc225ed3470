"""Marks: what earns points and what does not, and what is said of it."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from refusals import refuses
from students import FILES, STYLES, written

from xpcap.errors import OptionError
from xpcap.exercise import table
from xpcap.exercise.grading import Report, grade

LAYERS, RNN = FILES["rnn_layers.py"], FILES["classifiers/rnn.py"]
STEPS = [one.name for one in table.functions(["rnn_layers"]) if one.points]


@pytest.fixture
def marked(tmp_path: Path) -> Callable[..., Report]:
    """Grade a folder of files."""

    def mark(files: Mapping[str, str], **options: object) -> Report:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return grade(tmp_path, **{"seed": 0, **options})  # type: ignore[arg-type]

    return mark


def changed(text: str, function: str, right: str, wrong: str) -> str:
    """A file with one text in the place of another in a function."""
    start = text.index(f"def {function}(")
    assert right in text[start:], right
    return text[:start] + text[start:].replace(right, wrong, 1)


def failed(report: Report) -> dict[str, str]:
    return {one.function: one.kind for one in report.results if not one.passed}


# The denominator


@pytest.mark.parametrize(
    ("files", "score"),
    [
        ({"rnn_layers.py": "", "rnn.py": "", "optim.py": FILES["optim.py"]}, 0),
        ({"rnn_layers.py": LAYERS}, 76),
        ({"rnn.py": RNN.replace("..rnn_layers", "rnn_layers")}, 24),
        ({"rnn_layers.py": LAYERS, "rnn.py": "raise ValueError\n"}, 76),
    ],
    ids=["empty files", "no captioner", "no layers", "a captioner that is none"],
)
def test_a_mark_is_of_all_that_was_to_be_written(
    files: Mapping[str, str], score: float, marked: Callable[..., Report]
) -> None:
    report = marked(files)
    assert report.score == score
    assert sum(mark.most for mark in report.marks) == pytest.approx(100)


def test_expect_says_what_a_mark_is_of(marked: Callable[..., Report]) -> None:
    report = marked({"optim.py": FILES["optim.py"]}, expect=["optim", "rnn_layers"])
    assert report.missing == ["rnn_layers"]
    lists = {"expect": iter(["optim", "rnn_layers"]), "only": iter(["adam"])}
    drawn = marked({}, **lists)
    assert (drawn.missing, [one.function for one in drawn.results]) == (["rnn_layers"], ["adam"])
    most = table.points(["optim", "rnn_layers"])
    assert report.score == pytest.approx(most["adam"] + most["rmsprop"] + most["sgd_momentum"])
    with refuses(OptionError, function="grade", thing="`expect`", got="rnn_layer"):
        marked({}, expect=["rnn_layer"])


THEIRS = {  # files that hand over what the course gives
    "from the package": {
        "a.py": "import cs231n.rnn_layers as r\n" + "".join(f"{n} = r.{n}\n" for n in STEPS),
        "b.py": "from cs231n.classifiers import rnn as r\nCaptioningRNN = r.CaptioningRNN\n",
    },
    "from its own name": {
        "rnn_layers.py": "from ..rnn_layers import *\n"
        + "".join(f"{name} = globals().get('{name}')\n" for name in STEPS),
    },
    "by bare names": {
        "my_layers.py": "import rnn_layers as r\n"
        + "".join(f"def {n}(*a): return r.{n}(*a)\n" for n in STEPS),
        "my_rnn.py": "from classifiers.rnn import CaptioningRNN as C\nclass CaptioningRNN(C): pass\n",
    },
    "from the library": {
        "rnn_layers.py": "from xpcap.layers import *\n"
        + "".join(f"{name} = globals().get('{name}')\n" for name in STEPS),
    },
}


@pytest.mark.parametrize("way", THEIRS)
def test_no_file_of_ours_earns_the_points_of_one_that_they_were_to_write(
    way: str, marked: Callable[..., Report]
) -> None:
    assert marked(THEIRS[way]).score == 0


# One mistake costs once


def test_a_loop_over_a_wrong_step_and_a_captioner_of_wrong_layers_are_right_in_themselves(
    marked: Callable[..., Report],
) -> None:
    text = changed(LAYERS, "lstm_step_forward", "o * tanh_next_c", "f * tanh_next_c")
    text = changed(text, "lstm_step_backward", "dgate_f * f * (1 - f)", "dgate_f")
    report = marked({"cs231n/rnn_layers.py": text, "cs231n/classifiers/rnn.py": RNN})
    follows = {one.function for one in report.results if one.kind.startswith("follows")}
    assert {"lstm_forward", "lstm_backward"} <= follows
    assert failed(report) == {
        "lstm_step_forward": "gates swapped",
        "lstm_step_backward": "follows from another function",
    }


def test_a_step_that_is_not_written_costs_its_own_points(marked: Callable[..., Report]) -> None:
    start = LAYERS.index("def lstm_step_backward")
    text = LAYERS[:start] + LAYERS[start:].replace(
        "    x, prev_h", "    raise NotImplementedError\n    x, prev_h", 1
    )
    report = marked({"rnn_layers.py": text}, expect=["rnn_layers"])
    assert failed(report) == {"lstm_step_backward": "not written yet"}


def test_a_loop_of_nothing_earns_nothing(marked: Callable[..., Report]) -> None:
    zeros = """
import numpy as np
def lstm_step_forward(x, prev_h, prev_c, Wx, Wh, b):
    return np.zeros_like(prev_h), np.zeros_like(prev_h), (x, prev_h, Wx, Wh, b)
def lstm_step_backward(dnext_h, dnext_c, cache):
    x, prev_h, *weights = (np.zeros_like(one) for one in cache)
    return (x, prev_h, prev_h, *weights)
def lstm_forward(x, h0, Wx, Wh, b):
    return np.zeros((*x.shape[:2], h0.shape[1])), [x, h0, Wx, Wh, b]
def lstm_backward(dh, cache):
    return tuple(np.zeros_like(one) for one in cache)
"""
    assert marked({"rnn_layers.py": zeros}).score == 0


# Honest files


def test_a_file_that_cannot_be_imported_is_one_result(marked: Callable[..., Report]) -> None:
    broken = LAYERS.replace("    return dx, dh0, dWx, dWh, db\n", "    return (dx, dh0\n", 1)
    report = marked({"cs231n/rnn_layers.py": broken, "cs231n/classifiers/rnn.py": RNN})
    assert failed(report) == {"rnn_layers.py": "raises an error"}
    assert "SyntaxError" in next(one.advice for one in report.results if not one.passed)
    assert report.score == 24  # of the captioner, above right layers
    assert report.missing == ["rnn_layers"]
    steps = next(mark for mark in report.marks if mark.function == "lstm_step_forward")
    assert "cannot be imported" in steps.results[0].advice


def test_odd_results_are_verdicts(marked: Callable[..., Report]) -> None:
    text = changed(LAYERS, "rnn_step_forward", "return next_h, cache", "return next_h")
    text = changed(text, "rnn_step_backward", "return dx,", "return [[1], [2, 3]], dx.tolist(),")
    text = changed(
        text, "word_embedding_forward", "return out, cache", "return out.tolist(), cache"
    )
    text = changed(text, "word_embedding_backward", "return dW", "return object()")
    rnn = changed(RNN, "sample", "return captions", "return ()")
    kinds = failed(marked({"cs231n/rnn_layers.py": text, "cs231n/classifiers/rnn.py": rnn}))
    assert kinds.pop("CaptioningRNN.sample (rnn)") == "wrong results"
    assert kinds.pop("CaptioningRNN.sample (lstm)") == "wrong results"
    assert kinds.pop("word_embedding_backward") == "wrong results"
    assert kinds.pop("rnn_step_forward") == "wrong results"
    assert set(kinds) <= {"rnn_step_backward", "rnn_backward"}


def test_plots_prints_and_settings_of_numpy_cost_nothing(marked: Callable[..., Report]) -> None:
    head = """
import builtins, sys
import numpy as np
import matplotlib.pyplot as plt
from matplotlib import pyplot, rcParams
rcParams["figure.figsize"] = (10.0, 8.0)
figure, axes = plt.subplots(nrows=2)
axes[0].plot([1, 2], label="loss").set(title="tanh")
plt.show()
np.seterr(all="raise")
np.set_printoptions(precision=2)
np.random.seed(231)
dot = np.dot
np.dot = lambda *a, **k: (print(*a), dot(*a, **k))[1]
sys.stdout.write("x" * 10**6)
"""
    assert marked({"rnn_layers.py": head + LAYERS}, expect=["rnn_layers"]).score == 100


def test_finite_differences_are_named_and_pass(marked: Callable[..., Report]) -> None:
    numeric = """
def rnn_step_backward(dnext_h, cache):
    x, prev_h, Wx, Wh, b, _ = cache
    arguments, grads = [np.array(one) for one in (x, prev_h, Wx, Wh, b)], []
    for array in arguments:
        grad = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            array[index] += 1e-5
            above = rnn_step_forward(*arguments)[0]
            array[index] -= 2e-5
            grad[index] = ((above - rnn_step_forward(*arguments)[0]) * dnext_h).sum() / 2e-5
            array[index] += 1e-5
        grads.append(grad)
    return tuple(grads)
"""
    files = {"cs231n/rnn_layers.py": LAYERS + numeric, "cs231n/classifiers/rnn.py": RNN}
    report = marked(files, only=["rnn_step_*", "CaptioningRNN.loss (rnn)"])
    assert {one.function: one.kind for one in report.results if one.kind} == {
        "rnn_step_backward": "finite differences"
    }
    assert failed(report) == {}


@pytest.mark.parametrize("style", STYLES)
def test_right_solutions_pass_in_any_style(style: str, tmp_path: Path) -> None:
    report = grade(written(STYLES[style], tmp_path), seed=0)
    assert failed(report) == {}
    assert len({one.function for one in report.results}) == 25
    assert report.score == 100
