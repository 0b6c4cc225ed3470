"""Marks: what earns points and what does not, and what is said of it."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from refusals import refuses
from students import FILES, STYLES

from xpcap.cs231n import table
from xpcap.cs231n.grading import grade
from xpcap.cs231n.grading.report import Report
from xpcap.errors import OptionError

LAYERS, RNN = FILES["rnn_layers.py"], FILES["classifiers/rnn.py"]
POINTS = [row.name for row in table.functions(["rnn_layers"]) if row.points]
STEPS, MAX_STEPS = (LAYERS.index(f"def {name}(") for name in ("lstm_step_forward", "lstm_forward"))
TRACED = "def traced(f):\n    def call(*a, **options): return f(*a, **options)\n    return call\n"
WRONG_STEP = ("o * tanh_next_c", "f * tanh_next_c")


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


def changed(text: str, *changes: tuple[str, str], at: str = "") -> str:
    """A file with some texts in the place of others, after one of its texts."""
    for right, wrong in changes:
        start = text.index(right, text.index(at))
        text = text[:start] + wrong + text[start + len(right) :]
    return text


def bare(text: str) -> str:
    """A file whose imports lead to a file beside it, not into a package."""
    return text.replace("from ..rnn_layers", "from rnn_layers")


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
    assert sum(mark.max_points for mark in report.marks) == pytest.approx(100)


def test_expect_says_what_a_mark_is_of(marked: Callable[..., Report]) -> None:
    report = marked({"optim.py": FILES["optim.py"]}, expect=["optim", "rnn_layers"])
    assert report.missing == ["rnn_layers"]
    lists = {"expect": iter(["optim", "rnn_layers"]), "only": iter(["adam"])}
    drawn = marked({}, **lists)
    assert (drawn.missing, [one.function for one in drawn.results]) == (["rnn_layers"], ["adam"])
    most = table.points(["optim", "rnn_layers"])
    assert report.score == pytest.approx(most["adam"] + most["rmsprop"] + most["sgd_momentum"])
    with refuses(OptionError, "`expect`", "rnn_layer"):
        marked({}, expect=["rnn_layer"])


THEIRS = {  # files that hand over what the course gives
    "from the package": {
        "a.py": "import cs231n.rnn_layers as r\n" + "".join(f"{n} = r.{n}\n" for n in POINTS),
        "b.py": "from cs231n.classifiers import rnn as r\nCaptioningRNN = r.CaptioningRNN\n",
    },
    "from its own name": {
        "rnn_layers.py": "from ..rnn_layers import *\n"
        + "".join(f"{name} = globals().get('{name}')\n" for name in POINTS),
    },
    "by bare names": {
        "my_layers.py": "import rnn_layers as r\n"
        + "".join(f"def {n}(*a): return r.{n}(*a)\n" for n in POINTS),
        "my_rnn.py": "from classifiers.rnn import CaptioningRNN as C\nclass CaptioningRNN(C): pass\n",
    },
    "from the library": {
        "rnn_layers.py": "from xpcap.layers import *\n"
        + "".join(f"{name} = globals().get('{name}')\n" for name in POINTS),
    },
}


@pytest.mark.parametrize("way", THEIRS)
def test_no_file_of_ours_earns_the_points_of_one_that_they_were_to_write(
    way: str, marked: Callable[..., Report]
) -> None:
    assert marked(THEIRS[way]).score == 0


# One mistake costs once, and what is above a wrong function is asked above a right one

LISTS = LAYERS.replace("cache.append(step)", "cache.append([1 * array for array in step])")
OTHER_ARGUMENTS = changed(  # and a loop that builds caches anew
    LISTS,
    ("dnext_c, cache[t])", "dnext_c, tuple(cache[t]))"),
    ("step_forward(x, prev_h, prev_c, Wx, Wh, b):", "step_forward(x, h, c, Wx, Wh, b, at=0):"),
    ("    H = prev_h.shape[1]\n", "    prev_h, prev_c = h, c\n    H = prev_h.shape[1]\n"),
    ("prev_h, prev_c, Wx, Wh, b)", "h=prev_h, c=prev_c, Wx=Wx, Wh=Wh, b=b, at=t)"),
)
FAIR = {  # honest code above a wrong LSTM step, in the forms that it has
    "in a package, with caches as dict": {
        "rnn_layers.py": changed(
            LAYERS,
            ("cache = (x, prev_h, prev_c,", "cache = dict(x=x, all=(x, prev_h, prev_c,"),
            ("o, g, tanh_next_c)\n", "o, g, tanh_next_c))\n"),
            ("o, g, tanh_next_c = cache", "o, g, tanh_next_c = cache['all']"),
            (
                "def lstm_backward(dh, cache):\n    N, T, H = dh.shape\n    D = cache[0][0]",
                "def lstm_backward(dh, cache):\n    N, T, H = dh.shape\n    D = cache[0]['x']",
            ),
        ),
        "classifiers/rnn.py": RNN,
    },
    "in one file": {"solution.py": LAYERS + RNN.replace("from ..rnn_layers import *\n", "")},
    "in two files, with helpers and a sigmoid of the captioner's own": {
        "rnn_layers.py": OTHER_ARGUMENTS,
        "utils.py": "import numpy as np\ndef sigmoid(x): return x\ndef unlike(a, b): return a != b\n",
        "rnn.py": "from utils import unlike\n"
        + changed(bare(RNN), ("captions_out != self._null", "unlike(captions_out, self._null)"))
        + "def sigmoid(x): return 1 / (1 + np.exp(-x))\n",
    },
    "two files in a circle, decorated, under other names": {
        "rnn_layers.py": TRACED
        + LAYERS[:STEPS]
        + LAYERS[MAX_STEPS:].replace("def lstm_", "@traced\ndef lstm_")
        + "from steps import lstm_step_forward, lstm_step_backward\n",
        "steps.py": f"import numpy as np\nimport rnn_layers\n{TRACED}"
        + LAYERS[STEPS:MAX_STEPS]
        .replace("sigmoid(", "rnn_layers.sigmoid(")
        .replace("def lstm_", "@traced\ndef lstm_"),
        "rnn.py": changed(
            bare(RNN),
            (
                "import *",
                "import *\nfrom rnn_layers import lstm_forward as run, lstm_backward as back",
            ),
            ("cache_rnn = lstm_forward(", "cache_rnn = run("),
            ('grads["b"] = lstm_backward(', 'grads["b"] = back('),
        ),
    },
}


@pytest.mark.parametrize("form", FAIR)
def test_a_wrong_step_costs_its_own_points_in_whatever_form_the_code_is(
    form: str, marked: Callable[..., Report]
) -> None:
    files = {
        name: text.replace(*WRONG_STEP).replace("dgate_f * f * (1 - f)", "dgate_f")
        for name, text in FAIR[form].items()
    }
    report = marked(files)
    assert failed(report) == {
        "lstm_step_forward": "wrong gate",
        "lstm_step_backward": "follows from another function",
    }
    follows = {result.function for result in report if result.kind.startswith("follows")}
    assert {"lstm_forward", "lstm_backward"} <= follows
    assert report.score == 100 - 8 - 14


def test_a_captioner_keeps_its_points_where_layers_are_missing_or_not_written(
    marked: Callable[..., Report],
) -> None:
    names = ", ".join(re.findall(r"^def (\w+)\(", LAYERS, re.MULTILINE))
    start, end = LAYERS.index("def lstm_forward"), LAYERS.index("def temporal_affine_forward")
    written = LAYERS[:start] + "def lstm_backward(dh, cache):\n    raise NotImplementedError\n\n"
    files = {
        "rnn_layers.py": written + LAYERS[end:],
        "rnn.py": bare(RNN).replace("import *", f"import {names}"),
    }
    report = marked(files)
    assert set(failed(report)) == {"lstm_forward", "lstm_backward"}


def test_a_given_function_that_is_broken_is_told_and_costs_what_it_makes_fail(
    marked: Callable[..., Report],
) -> None:
    broken = changed(LAYERS, ("* counts[:, None] / N", "/ N"))
    report = marked({"rnn_layers.py": broken, "classifiers/rnn.py": RNN})
    assert report.score == 100 - 7 - 7
    found = {result.function: result.advice for result in report if not result.passed}
    assert "The course gives temporal_softmax_loss" in found["temporal_softmax_loss"]
    assert "Fix temporal_softmax_loss first" in found["CaptioningRNN.loss (lstm)"]


def test_random_numbers_are_the_same_in_each_pass(marked: Callable[..., Report]) -> None:
    start = "    prev_c = np.zeros((N, H))\n"
    text = changed(LAYERS, WRONG_STEP, (start, f"{start}    prev_c += np.random.rand()\n"))
    report = marked({"rnn_layers.py": text}, expect=["rnn_layers"], only=["lstm_*"])
    assert failed(report)["lstm_forward"] == "random results"


def test_numeric_gradients_are_named_and_pass(marked: Callable[..., Report]) -> None:
    """By finite differences in one function, by complex steps in another."""
    numeric = """
def slopes(f, arguments, dout, step):
    arguments, grads = [np.array(one, type(step)) for one in arguments], []
    for array in arguments:
        grads.append(np.zeros(array.shape))
        for index in np.ndindex(array.shape):
            array[index] += step
            above = f(*arguments)[0]
            array[index] -= 2 * step
            slope = (above - f(*arguments)[0]) / 2 / step
            grads[-1][index] = (slope.real * dout).sum()
            array[index] += step
    return tuple(grads)
def rnn_step_backward(dnext_h, cache):
    return slopes(rnn_step_forward, cache[:5], dnext_h, 1e-5)
def affine_backward(dout, cache):
    return slopes(lambda x, w, b: [x.reshape(len(x), -1) @ w + b], cache, dout, 1e-30j)
"""
    files = {"cs231n/rnn_layers.py": LAYERS + numeric, "cs231n/classifiers/rnn.py": RNN}
    only = ["rnn_step_*", "affine_*", "CaptioningRNN.loss (rnn)"]
    report = marked(files, only=only)
    assert {result.function: result.kind for result in report if result.kind} == {
        "rnn_step_backward": "finite differences",
        "affine_backward": "complex step",
    }
    assert failed(report) == {}


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
    odd = [
        ("rnn_step_forward", "return next_h, cache", "return next_h"),
        ("rnn_step_backward", "return dx,", "return [[1], [2, 3]], dx.tolist(),"),
        ("word_embedding_forward", "return out, cache", "return out.tolist(), cache"),
        ("word_embedding_backward", "return dW", "return object()"),
    ]
    text = LAYERS
    for function, right, wrong in odd:
        text = changed(text, (right, wrong), at=f"def {function}(")
    rnn = changed(RNN, ("return captions", "return ()"), at="def sample(")
    kinds = failed(marked({"cs231n/rnn_layers.py": text, "cs231n/classifiers/rnn.py": rnn}))
    assert kinds.pop("CaptioningRNN.sample (rnn)") == "wrong results"
    assert kinds.pop("CaptioningRNN.sample (lstm)") == "wrong results"
    assert kinds.pop("word_embedding_backward") == "wrong results"
    assert kinds.pop("rnn_step_forward") == "wrong results"
    assert set(kinds) <= {"rnn_step_backward", "rnn_backward"}


@pytest.mark.parametrize("style", STYLES)
def test_right_solutions_pass_in_any_style(style: str, marked: Callable[..., Report]) -> None:
    report = marked({f"cs231n/{name}": text for name, text in STYLES[style].items()})
    assert failed(report) == {}
    assert len({result.function for result in report}) == 25
    assert report.score == 100
