"""Functions above wrong ones: asked above right ones, they have the points that they earn."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from students import FILES

from xpcap.exercise.grading import Report, grade

LAYERS, RNN = FILES["rnn_layers.py"], FILES["classifiers/rnn.py"]
STEPS, LOOPS = (LAYERS.index(f"def {name}(") for name in ("lstm_step_forward", "lstm_forward"))
WRONG_STEP = ("o * tanh_next_c", "f * tanh_next_c")


def graded(folder: Path, files: Mapping[str, str], **options: Any) -> Report:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return grade(folder, seed=0, **options)


def failed(report: Report) -> dict[str, str]:
    return {result.function: result.kind for result in report if not result.passed}


def changed(text: str, *changes: tuple[str, str]) -> str:
    for right, wrong in changes:
        assert right in text, right
        text = text.replace(right, wrong, 1)
    return text


def bare(text: str) -> str:
    """A file whose imports lead to a file beside it, not into a package."""
    return text.replace("from ..rnn_layers", "from rnn_layers")


FAIR = {  # honest code above a wrong LSTM step, in the forms that it has
    "in a package": {"rnn_layers.py": LAYERS, "classifiers/rnn.py": RNN},
    "in two files": {"rnn_layers.py": LAYERS, "rnn.py": bare(RNN)},
    "in one file": {"solution.py": LAYERS + RNN.replace("from ..rnn_layers import *\n", "")},
    "a helper named sigmoid": {
        "rnn_layers.py": LAYERS,
        "rnn.py": bare(RNN) + "def sigmoid(x): return 1 / (1 + np.exp(-x))\n",
    },
    "a helper that the captioner imports": {
        "rnn_layers.py": LAYERS,
        "utils.py": "import numpy as np\ndef sigmoid(x): return x\ndef unlike(a, b): return a != b\n",
        "rnn.py": "from utils import unlike\n"
        + changed(bare(RNN), ("captions_out != self._null", "unlike(captions_out, self._null)")),
    },
    "caches of their own form": {
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
        "rnn.py": bare(RNN),
    },
    "caches that a loop builds anew": {
        "rnn_layers.py": changed(
            LAYERS.replace("cache.append(step)", "cache.append([1 * array for array in step])"),
            ("dnext_c, cache[t])", "dnext_c, tuple(cache[t]))"),
        ),
        "rnn.py": bare(RNN),
    },
    "arguments of their own": {
        "rnn_layers.py": changed(
            LAYERS,
            (
                "step_forward(x, prev_h, prev_c, Wx, Wh, b):",
                "step_forward(x, h, c, Wx, Wh, b, at=0):",
            ),
            ("    H = prev_h.shape[1]\n", "    prev_h, prev_c = h, c\n    H = prev_h.shape[1]\n"),
            ("prev_h, prev_c, Wx, Wh, b)", "h=prev_h, c=prev_c, Wx=Wx, Wh=Wh, b=b, at=t)"),
        ),
        "rnn.py": bare(RNN),
    },
    "two files in a circle": {
        "rnn_layers.py": LAYERS[:STEPS]
        + LAYERS[LOOPS:]
        + "from steps import lstm_step_forward, lstm_step_backward\n",
        "steps.py": "import numpy as np\nimport rnn_layers\n"
        + LAYERS[STEPS:LOOPS].replace("sigmoid(", "rnn_layers.sigmoid("),
        "rnn.py": bare(RNN),
    },
    "decorated, under other names": {
        "rnn_layers.py": "def traced(f):\n    def call(*a): return f(*a)\n    return call\n"
        + LAYERS.replace("def lstm_", "@traced\ndef lstm_"),
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
    form: str, tmp_path: Path
) -> None:
    files = {
        name: text.replace(*WRONG_STEP).replace("dgate_f * f * (1 - f)", "dgate_f")
        for name, text in FAIR[form].items()
    }
    report = graded(tmp_path, files)
    assert set(failed(report)) == {"lstm_step_forward", "lstm_step_backward"}
    assert report.score == 100 - 8 - 14


def test_a_captioner_keeps_its_points_where_layers_are_missing_or_not_written(
    tmp_path: Path,
) -> None:
    names = ", ".join(re.findall(r"^def (\w+)\(", LAYERS, re.MULTILINE))
    start, end = LAYERS.index("def lstm_forward"), LAYERS.index("def temporal_affine_forward")
    written = LAYERS[:start] + "def lstm_backward(dh, cache):\n    raise NotImplementedError\n\n"
    files = {
        "rnn_layers.py": written + LAYERS[end:],
        "rnn.py": bare(RNN).replace("import *", f"import {names}"),
    }
    report = graded(tmp_path, files)
    assert set(failed(report)) == {"lstm_forward", "lstm_backward"}


def test_a_given_function_that_is_broken_is_told_and_costs_what_it_makes_fail(
    tmp_path: Path,
) -> None:
    broken = changed(LAYERS, ("    dx_flat *= mask_flat[:, None]\n", ""))
    report = graded(tmp_path, {"rnn_layers.py": broken, "classifiers/rnn.py": RNN})
    assert report.score == 100 - 7 - 7
    found = {result.function: result.advice for result in report if not result.passed}
    assert "The course gives temporal_softmax_loss" in found["temporal_softmax_loss"]
    assert "Fix temporal_softmax_loss first" in found["CaptioningRNN.loss (lstm)"]


def test_random_numbers_are_the_same_in_each_pass(tmp_path: Path) -> None:
    start = "    prev_c = np.zeros((N, H))\n"
    text = changed(LAYERS, WRONG_STEP, (start, f"{start}    prev_c += np.random.rand()\n"))
    report = graded(tmp_path, {"rnn_layers.py": text}, expect=["rnn_layers"], only=["lstm_*"])
    assert failed(report)["lstm_forward"] == "random results"


def test_complex_steps_are_named_and_pass(tmp_path: Path) -> None:
    numeric = """
def rnn_step_backward(dnext_h, cache):
    x, prev_h, Wx, Wh, b, _ = cache
    arguments = [np.array(one, complex) for one in (x, prev_h, Wx, Wh, b)]
    def f(x, prev_h, Wx, Wh, b): return np.tanh(x @ Wx + prev_h @ Wh + b)
    grads = []
    for array in arguments:
        grad = np.zeros(array.shape)
        for index in np.ndindex(array.shape):
            array[index] += 1e-30j
            grad[index] = (f(*arguments).imag * dnext_h).sum() / 1e-30
            array[index] -= 1e-30j
        grads.append(grad)
    return tuple(grads)
"""
    report = graded(
        tmp_path, {"rnn_layers.py": LAYERS + numeric}, expect=["rnn_layers"], only=["rnn_step_*"]
    )
    assert failed(report) == {}
    assert [result.kind for result in report if result.kind] == ["complex step"]
