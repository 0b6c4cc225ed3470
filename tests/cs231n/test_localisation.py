"""Grading of whole submissions: right solutions pass, mistakes are named where they are."""

import ast
import functools
import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from string import Formatter
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
from students import FILES, written

from xpcap.cs231n import table
from xpcap.cs231n.grading import Result, grade, mutants, rules
from xpcap.cs231n.reference import captioning_solver, optim, rnn, rnn_layers

# What is searched for a mistake
SEARCHED: list[tuple[ModuleType, str]] = [
    (module, name)
    for module, names in {
        rnn_layers: [name for name, thing in vars(rnn_layers).items() if callable(thing)],
        rnn: ["CaptioningRNN.loss", "CaptioningRNN.sample"],
        optim: ["sgd", "sgd_momentum", "rmsprop", "adam"],
        captioning_solver: ["CaptioningSolver.train", "CaptioningSolver._step"],
    }.items()
    for name in names
]


class Mistake(NamedTuple):
    """A row of MISTAKES: text of a function and what stands in its place, and what grading says."""

    function: str
    name: str
    right: str
    wrong: str
    kind: str
    words: str = ""

    def is_named(self, results: Iterable[Result]) -> bool:
        """Whether results have the kind, and the words in place or advice."""
        named = [result for result in results if self.kind in result.kind]
        text = " ".join(f"{result.where} {result.advice}" for result in named)
        return bool(named) and all(words in text for words in self.words.split(" && "))


# Rows: function | name | right | wrong | kind | words in place or advice. Places that change together
# are joined by "&&", and so are words; "\\n" is a new line. The first ones run in the fast suite.
MISTAKES = r"""
CaptioningRNN.loss | features' gradient of squares | T.dot(dh0) | T.dot(dh0 ** 2) | wrong values | dW_{proj} = featuresᵀ dh_0
CaptioningRNN.loss | features' gradient downhill | T.dot(dh0) | T.dot(-dh0) | sign | are off by the factor -1.
CaptioningRNN.loss | gradients added up over calls | return loss, grads | self.sums = getattr(self, "sums", {})\n        for key in grads: self.sums[key] = self.sums.get(key, 0) + grads[key]\n        return loss, dict(self.sums) | state not reset
CaptioningRNN.loss | captions zeroed | return loss, grads | captions[:] = 0\n        return loss, grads | overwrites its arguments
CaptioningRNN.loss | parameters changed | return loss, grads | self.params["b"] -= 0.1\n        return loss, grads | changes the parameters
CaptioningRNN.loss | captions squeezed | captions_in = | captions = np.squeeze(captions)\n        captions_in = | wrong for one sample
CaptioningRNN.loss | sixteen words of a caption | captions_in = | captions = captions[:, :17]\n        captions_in = | wrong over many steps
CaptioningRNN.loss | large gradients clipped | return loss, grads | return loss, {key: np.clip(grads[key], -300, 300) for key in grads} | cut off
CaptioningRNN.loss | targets are the inputs | captions_out = captions[:, 1:] | captions_out = captions[:, :-1] | captions off by one
CaptioningRNN.loss | no bias of the image | features.dot(W_proj) + b_proj | features.dot(W_proj) | bias missing
CaptioningRNN.loss | gradient of the image forgotten | grads["W_proj"] = features.T.dot(dh0) | pass | gradient missing | W_proj
CaptioningRNN.loss | image's gradient of the first step | features.T.dot(dh0) && dh0.sum(axis=0) | features.T.dot(dh[:, 0]) && dh[:, 0].sum(axis=0) | dh not carried | W_proj
CaptioningRNN.sample | the cell kept | c = np.zeros_like(h) && return captions | c = getattr(self, "c", np.zeros_like(h))[: len(h)] && self.c = c\n        return captions | state not reset
CaptioningRNN.sample | not written | N = features.shape[0] | raise NotImplementedError\n        N = features.shape[0] | not written yet
CaptioningRNN.sample | a batch that stops together | captions[:, t] = word | captions[:, t] = word\n            if (word == self._end).any(): break | wrong values
CaptioningRNN.sample | an axis of one squeezed | scores = h.dot | h = np.squeeze(h)\n            scores = h.dot | wrong for one sample
CaptioningRNN.sample | sixteen words at most | for t in range(max_length): | for t in range(min(max_length, 16)): | wrong over many steps
CaptioningRNN.sample | word not fed back | word = np.argmax(scores, axis=1)\n            captions[:, t] = word | captions[:, t] = np.argmax(scores, axis=1) | word not fed back
CaptioningRNN.sample | starts with NULL | word = self._start * | word = self._null * | wrong start
CaptioningRNN.sample | word of two steps before | word = np.argmax(scores, axis=1)\n            captions[:, t] = word | captions[:, t] = np.argmax(scores, axis=1)\n            word = captions[:, t - 1] | word fed late
CaptioningRNN.sample | lowest score | np.argmax(scores, axis=1) | np.argmin(scores, axis=1) | wrong word
CaptioningRNN.sample | START in the first column | captions[:, t] = word | captions[:, (t + 1) % max_length] = word\n        captions[:, 0] = self._start | captions off by one
CaptioningRNN.sample | first word left out | np.argmax(scores, axis=1) | np.argmax(scores[:, 1:], axis=1) | words off by one
rnn_step_forward | overflow | next_h = np.tanh(forward) | e = np.exp(2 * forward); next_h = (e - 1) / (e + 1) | not stable
rnn_step_forward | dropout | next_h = np.tanh(forward) | next_h = np.tanh(forward) * (np.random.rand(*forward.shape) < 0.9) | random results
rnn_step_forward | input and state mixed up | np.dot(prev_h, Wh) | np.dot(prev_h, Wh.T) | transposed weight | next_h
rnn_step_forward | bias outside the tanh | + b\n    next_h = np.tanh(forward) | \n    next_h = np.tanh(forward) + b | activation of a part
rnn_step_forward | old state added | np.tanh(forward) | np.tanh(forward) + prev_h | term added
rnn_step_forward | product of input and state | np.dot(x, Wx) + np.dot(prev_h, Wh) | np.dot(x, Wx) * np.dot(prev_h, Wh) | product for a sum
rnn_step_backward | large gradients clipped | return dx, dprev_h, dWx, dWh, db | return dx, dprev_h, dWx, np.clip(dWh, -300, 300), db | cut off
rnn_step_backward | weights' gradient transposed | np.dot(x.T, dforward) | np.dot(dforward.T, x) | transposed | dWx
rnn_step_backward | no sum over the batch | np.sum(dforward, axis=0) | dforward | sum over the batch missing | db
rnn_step_backward | cache in a global | b, next_h = cache && cache = (x, prev_h, Wx, Wh, b, next_h) | b, next_h = LAST && global LAST\n    cache = LAST = (x, prev_h, Wx, Wh, b, next_h) | state outside the cache
rnn_step_backward | keepdims | np.sum(dforward, axis=0) | np.sum(dforward, axis=0, keepdims=True) | axis of one | db
rnn_step_backward | clipped | return dx, dprev_h, dWx, dWh, db | return dx, dprev_h, np.clip(dWx, -5, 5), dWh, db | gradient clipped | dWx
rnn_step_backward | dprev_h by derivative of the old state | dprev_h = np.dot(dforward, Wh.T) | dprev_h = np.dot(dforward, Wh.T) * (1 - prev_h ** 2) | derivative of tanh twice
rnn_forward | sixteen steps at most | for t in range(T): | for t in range(min(T, 16)): | wrong over many steps
rnn_forward | last step left out | for t in range(T): | for t in range(T - 1): | step left out | time step
rnn_forward | tanh of h0 | prev = h0 | prev = np.tanh(h0) | activation twice
rnn_forward | state kept before the step | prev, step = rnn_step_forward(x[:, t, :], prev, Wx, Wh, b)\n        h[:, t, :] = prev | h[:, t, :] = prev\n        prev, step = rnn_step_forward(x[:, t, :], prev, Wx, Wh, b) | statements in the wrong order
rnn_forward | input of the step before | x[:, t, :], prev | x[:, t - 1, :], prev | wrong time step
rnn_forward | integers | h = np.zeros((N, T, H)) | h = np.zeros((N, T, H), dtype=int) | integers
rnn_forward | last state alone | return h, cache | return prev, cache | summed too far
rnn_forward | step called twice | h[:, t, :] = prev | prev, step = rnn_step_forward(x[:, t, :], prev, Wx, Wh, b)\n        h[:, t, :] = prev | step taken twice
rnn_backward | state's gradient not carried | dh[:, t, :] + dprev | dh[:, t, :] | dh not carried | The term `dstate` is
rnn_backward | forward in time | range(T - 1, -1, -1) | range(T) | steps in the wrong order
rnn_backward | dh0 forgotten | dh0 = dprev | dh0 = np.zeros((N, H)) | left at zero | dh0
rnn_backward | mean over steps | dh0 = dprev | dWx, dWh, db = dWx / T, dWh / T, db / T\n    dh0 = dprev | mean for a sum
rnn_backward | dh added twice | dcurrent = dh[:, t, :] + dprev | dcurrent = 2 * dh[:, t, :] + dprev | added twice
rnn_backward | sign of what is carried | dh[:, t, :] + dprev | dh[:, t, :] - dprev | sign
word_embedding_forward | overwrites its ids | out = W[x, :] | out = W[x, :].copy()\n    x[:] = 0 | overwrites its arguments
word_embedding_forward | ids off by one | W[x, :] | W[x - 1, :] | words off by one
word_embedding_forward | scaled | W[x, :] | W[x, :] * np.sqrt(W.shape[1]) | vectors changed
word_embedding_backward | a typing error | np.zeros(shape) | np.zeros(*shape) | raises an error | np.zeros(*shape)
word_embedding_backward | scatter by += | np.add.at(dW, x, dout) | dW[x] += dout | scatter without adding
word_embedding_backward | sized by the words seen | dW = np.zeros(shape) | dW = np.zeros((x.max() + 1, shape[1])) | table too small
word_embedding_backward | starts as ones | dW = np.zeros(shape) | dW = np.ones(shape) | not started at zero
word_embedding_backward | START's place left out | np.add.at(dW, x, dout) | np.add.at(dW, x[:, 1:], dout[:, 1:]) | scatter wrong
lstm_step_forward | i + g | i * g\n | i + g\n | sum for a product | adds `i` and `g`; they are multiplied.
lstm_step_forward | an axis of one squeezed | return next_h, next_c, | return np.squeeze(next_h), next_c, | wrong for one sample
lstm_step_forward | large cells clipped | tanh_next_c = np | next_c = np.clip(next_c, -8, 8)\n    tanh_next_c = np | cut off
lstm_step_forward | large gates cut off | i = sigmoid | a = a * (np.abs(a) < 400)\n    i = sigmoid | cut off
lstm_step_forward | gates i, f, g, o | o = sigmoid(a[:, 2 * H:3 * H]) && g = np.tanh(a[:, 3 * H:]) | o = sigmoid(a[:, 3 * H:]) && g = np.tanh(a[:, 2 * H:3 * H]) | gates swapped | o, g
lstm_step_forward | no tanh of the cell | o * tanh_next_c | o * next_c | missing activation | next_h
lstm_step_forward | sigmoid for g | g = np.tanh( | g = sigmoid( | wrong activation | gate g
lstm_step_forward | gates interleaved | 0:H] && H:2 * H] && 2 * H:3 * H] && 3 * H:] | 0::4] && 1::4] && 2::4] && 3::4] | gates interleaved
lstm_step_forward | tanh of the old cell | tanh_next_c = np.tanh(next_c) | tanh_next_c = np.tanh(prev_c) | wrong variable | next_h
lstm_step_forward | bias of one in f | f = sigmoid(a[:, H:2 * H]) | f = sigmoid(a[:, H:2 * H] + 1) | bias added | gate f
lstm_step_forward | gates transposed in a reshape | i = sigmoid(a[:, 0:H])\n    f = sigmoid(a[:, H:2 * H])\n    o = sigmoid(a[:, 2 * H:3 * H])\n    g = np.tanh(a[:, 3 * H:]) | parts = a.reshape(4, len(a), H)\n    i, f, o = (sigmoid(part) for part in parts[:3])\n    g = np.tanh(parts[3]) | reshape for a transpose
lstm_step_forward | i squared | f * prev_c + i * g | f * prev_c + i * i * g | factor twice
lstm_step_backward | a size written in | dcell = dnext_c | assert dnext_c.shape[1] == 6\n    dcell = dnext_c | raises an error
lstm_step_backward | i in the gradient of i | dgate_i = dcell * g | dgate_i = dcell * i | wrong gate | gate i:
lstm_step_backward | f in the gradient of i | dgate_i = dcell * g | dgate_i = dcell * f | wrong gate | gate i:
lstm_step_backward | g in the gradient of g | dgate_g = dcell * i | dgate_g = dcell * g | wrong gate | gate g:
lstm_step_backward | stacked i, f, g, o | dao, dag)) | dag, dao)) | gates swapped | gate o, g && Your gates are stacked i, f, g, o; their order
lstm_step_backward | a cube that no row knows | dcell * prev_c | dcell * prev_c ** 3 | wrong values | df = δ ⊙ c_{t-1}
lstm_step_backward | no sigmoid derivative of f | dgate_f * f * (1 - f) | dgate_f | missing derivative of sigmoid | gate f
lstm_step_backward | no tanh derivative of g | dgate_g * (1 - g ** 2) | dgate_g | missing derivative of tanh | gate g
lstm_step_backward | sigmoid derivative for g | (1 - g ** 2) | g * (1 - g) | derivative of sigmoid instead of tanh | gate g
lstm_step_backward | tanh derivative for o | dgate_o * o * (1 - o) | dgate_o * (1 - o ** 2) | derivative of tanh instead of sigmoid | gate o
lstm_step_backward | half a sigmoid derivative | dgate_i * i * (1 - i) | dgate_i * (1 - i) | derivative of sigmoid wrong | gate i
lstm_step_backward | o forgotten | o * (1 - tanh_next_c ** 2) | (1 - tanh_next_c ** 2) | factor missing | dx
lstm_step_backward | dc not carried | dnext_c + o * ( | o * ( | dc not carried
lstm_step_backward | dh does not reach the cell |  + o * (1 - tanh_next_c ** 2) * dnext_h |  | dh not added
lstm_step_backward | derivatives of what goes in | dai = dgate_i | i, f, o = (np.log(s / (1 - s)) for s in (i, f, o))\n    g = np.arctanh(g)\n    dai = dgate_i | derivative of | gate i && gate f && gate o && gate g
lstm_step_backward | all factors for the upstream cell | dcell = dnext_c + o * (1 - tanh_next_c ** 2) * dnext_h | dcell = (dnext_c + dnext_h) * o * (1 - tanh_next_c ** 2) | brackets wrong
lstm_step_backward | dprev_h and dprev_c returned the wrong way round | return dx, dprev_h, dprev_c, dWx | return dx, dprev_c, dprev_h, dWx | results swapped
lstm_step_backward | upstream gradients unpacked the wrong way round | dcell = dnext_c + o | dnext_h, dnext_c = dnext_c, dnext_h\n    dcell = dnext_c + o | arguments swapped
lstm_step_backward | square forgotten | (1 - tanh_next_c ** 2) | (1 - tanh_next_c) | derivative of tanh wrong
lstm_step_backward | three mistakes | daf = dgate_f * f * (1 - f) && dag = dgate_g * (1 - g ** 2) && dprev_c = dcell * f | daf = dgate_f && dag = dgate_g && dprev_c = dcell | missing derivative
lstm_forward | a cache in a default argument | def lstm_forward(x, h0, Wx, Wh, b): && cache = []\n | def lstm_forward(x, h0, Wx, Wh, b, cache=[]): && pass\n | state not reset
lstm_forward | a cell clipped between steps | cache.append(step) | cache.append(step)\n        prev_c = np.clip(prev_c, -8, 8) | wrong over many steps
lstm_forward | cell not carried | prev_h, prev_c, step = lstm | prev_h, _, step = lstm | state not carried
lstm_forward | cell starts as h0 | prev_c = np.zeros((N, H)) | prev_c = h0 | state not reset
lstm_backward | gradient of the loss not added | dh[:, t, :] + dprev_h | dprev_h | dh not added | The term `dh[:, t]` is
lstm_backward | truncated every eight steps | dnext_c = dprev_c | dnext_c = dprev_c * (t % 8 != 7) | wrong over many steps
lstm_backward | gradient of the cell not carried | dnext_c = dprev_c | dnext_c = np.zeros((N, H)) | dc not carried
lstm_backward | bias gradient overwritten | db += dbt | db = dbt | not added up over steps | db
lstm_backward | cell's gradient added up | dprev_c, dWxt, dWht, dbt = lstm_step_backward(dnext_h, dnext_c, cache[t]) | more, dWxt, dWht, dbt = lstm_step_backward(dnext_h, dnext_c, cache[t])\n        dprev_c = dprev_c + more | added up over steps | cell
lstm_backward | dh into the cell, too | dnext_c = dprev_c | dnext_c = dprev_c + dh[:, t, :] | dh added twice
temporal_softmax_loss | loss not divided | ).sum() / N | ).sum() | sum for a mean | by the number of samples
temporal_softmax_loss | overflow | scores - scores.max(axis=1, keepdims=True) | scores | not stable
temporal_softmax_loss | one not subtracted | dscores[rows, words] -= 1 | pass | term missing | dx
temporal_softmax_loss | mean over words in both | .sum() / N && counts[:, None] / N | .sum() / counts.sum() && counts[:, None] / counts.sum() | mean for a sum
temporal_softmax_loss | no mask at all | mask.reshape(N * T) | np.ones(N * T, dtype=bool) | mask ignored
temporal_softmax_loss | one subtracted in every row | dscores[rows, words] | dscores[:, words] | wrong rows | dx
temporal_softmax_loss | targets shifted | y.reshape(N * T) | np.roll(y, 1, axis=1).reshape(N * T) | captions off by one
temporal_softmax_loss | no logarithm | (log_p[rows, words] * | (np.exp(log_p[rows, words]) * | logarithm missing | loss
temporal_softmax_loss | softmax over steps | shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)) | (x - np.log(np.exp(x).sum(axis=1, keepdims=True))).reshape(N * T, V) | wrong axis
temporal_softmax_loss | base 2 | (log_p[rows, words] * | (log_p[rows, words] / np.log(2) * | wrong logarithm | loss
temporal_softmax_loss | gradient of scores | dscores = np.exp(log_p) | dscores = scores.copy() | exponential missing | dx
temporal_softmax_loss | entropy | (log_p[rows, words] * | (np.exp(log_p[rows, words]) * log_p[rows, words] * | wrong words
affine_forward | bias twice | rows @ w + b | rows @ w + b + b | added twice
affine_backward | not reshaped back | (dout @ w.T).reshape(x.shape) | dout @ w.T | not reshaped back | dx
temporal_affine_forward | no bias | x @ w + b | x @ w | bias missing
temporal_affine_backward | reshape for a transpose | x.reshape(N * T, D).T @ rows | x.reshape(D, N * T) @ rows | reshape for a transpose | dw
sgd | uphill | w -= config["learning_rate"] * dw | w += config["learning_rate"] * dw | sign
sgd | learning rate divides | config["learning_rate"] * dw | dw / config["learning_rate"] | wrong step
sgd_momentum | Nesterov | next_w = w + v | next_w = w + config["momentum"] * v - config["learning_rate"] * dw | Nesterov
sgd_momentum | damped | - config["learning_rate"] * dw | - (1 - config["momentum"]) * config["learning_rate"] * dw | factor wrong
sgd_momentum | momentum of both | config["momentum"] * v - config["learning_rate"] * dw | config["momentum"] * (v - config["learning_rate"] * dw) | brackets wrong
rmsprop | no root | np.sqrt(cache) | cache | square root missing
rmsprop | decay at the other term | config["decay_rate"] * cache + (1 - config["decay_rate"]) * dw**2 | (1 - config["decay_rate"]) * cache + config["decay_rate"] * dw**2 | weights of a mean swapped
rmsprop | epsilon inside the root | (np.sqrt(cache) + config["epsilon"]) | np.sqrt(cache + config["epsilon"]) | epsilon inside the root
rmsprop | square root of the mean stored | config["decay_rate"] * cache | config["decay_rate"] * np.sqrt(cache) | square root twice
adam | t not counted | config.get("t", 0) + 1 | 1 | step not counted
adam | t from 0 | config.get("t", 0) + 1 && = t, m, v | config.get("t", 0) && = t + 1, m, v | step counted from 0
adam | t twice | config.get("t", 0) + 1 | config.get("t", 0) + 2 | step counted twice
adam | no correction at all | m / (1 - beta1**t) && v / (1 - beta2**t) | m && v | bias correction missing
adam | correction without the power | (1 - beta1**t) | (1 - beta1) | bias correction wrong
adam | another default | "beta2", 0.999 | "beta2", 0.99 | another default
CaptioningSolver | configs shared | {name: copy.deepcopy(optim_config or {}) for name in model.params} | dict.fromkeys(model.params, optim_config) | state shared
CaptioningSolver | learning rate never falls | *= self.lr_decay | *= 1.0 | learning rate not decayed
CaptioningSolver | losses not recorded | self.loss_history.append(loss) | self.loss_history = [loss] | wrong number of steps
CaptioningSolver | decayed at each step | if (iteration + 1) % per_epoch == 0: | if True: | condition missing
"""


def with_mistakes(mistakes: Iterable[Mistake]) -> dict[str, str]:
    """The files of the solution with mistakes, each in the first such place of its function."""
    files = dict(FILES)
    for mistake in mistakes:
        head = rf"(def|class) {mistake.function.rpartition('.')[2]}\b"
        (file,) = (name for name, text in files.items() if re.search(head, text))
        text = files[file]
        start = re.search(head, text).start()  # type: ignore[union-attr]
        places = zip(mistake.right.split(" && "), mistake.wrong.split(" && "), strict=True)
        for right, wrong in places:
            place = text.find(right, start)
            place = text.find(right) if place < 0 else place  # of what another function leaves
            assert place >= 0, f"{mistake.name}: {right!r} is not in {file}"
            text = text[:place] + wrong + text[place + len(right) :]
        files[file] = text
    return files


@functools.cache
def hiding(function: str) -> frozenset[str]:
    """Functions whose mistakes hide one of this function: it, and those that it is graded above.

    Loops are graded above right steps, and captioners above right layers but for given ones.
    """
    rows = [row for row in table.FUNCTIONS.values() if row.method == function]
    below = [(row, table.FUNCTIONS[name]) for row in rows for name in table.builds_on(row.name)]
    return frozenset([function]) | {
        other.method
        for row, other in below
        if not ((row.step and "_step_" in other.name) or (row.module == "rnn" and other.points))
    }


def submissions() -> list[list[Mistake]]:
    """The mistakes, each in the first submission where none hides it and it hides none."""
    together: list[list[Mistake]] = []
    for row in MISTAKES.strip("\n").splitlines():
        mistake = Mistake(*row.replace("\\n", "\n").split(" | "))
        for others in together:
            if not any(
                other.function in hiding(mistake.function)
                or mistake.function in hiding(other.function)
                for other in others
            ):
                others.append(mistake)
                break
        else:
            together.append([mistake])
    return together


@pytest.mark.parametrize(
    "mistakes",
    [
        pytest.param(mistakes, marks=[pytest.mark.slow] if k >= 4 else [])
        for k, mistakes in enumerate(submissions())
    ],
)
def test_mistakes_are_named_where_they_are_and_nothing_else(
    mistakes: list[Mistake], tmp_path: Path
) -> None:
    faults: dict[str, list[Result]] = {mistake.function: [] for mistake in mistakes}
    others = []
    for result in grade(written(with_mistakes(mistakes), tmp_path), seed=0):
        function = result.function.partition(" ")[0]
        if function in faults:
            faults[function].append(result)
        elif not result.passed and not result.kind.startswith("follows"):
            others.append(result)
    assert [one for one in mistakes if not one.is_named(faults[one.function])] == []
    assert others == []


def test_what_is_not_written_is_a_row_and_the_rest_is_graded(tmp_path: Path) -> None:
    layers = FILES["rnn_layers.py"]
    start = layers.index("def rnn_step_backward")
    body = layers.index("    x, prev_h", start)
    unwritten = layers[:body] + "    raise NotImplementedError\n\n" + layers[body:]
    missing = re.sub(r"def lstm_forward.*?(?=\ndef )", "", unwritten, flags=re.DOTALL)
    none = missing.replace("    return dW\n", "    dW = None\n    return dW\n")
    (tmp_path / "mine.py").write_text(none)
    results = {result.function: result for result in grade(tmp_path / "mine.py", seed=0)}
    kinds = {name: result.kind for name, result in results.items() if not result.passed}
    assert kinds == {
        "rnn_step_backward": "not written yet",
        "word_embedding_backward": "not written yet",
        "lstm_forward": "not written yet",
        "lstm_backward": "follows from another function",
    }
    assert results["lstm_step_backward"].passed
    assert results["temporal_softmax_loss"].passed


def test_a_mistake_that_nothing_explains_is_still_narrowed_down(tmp_path: Path) -> None:
    odd = Mistake(
        "lstm_step_forward", "", "f = sigmoid(a[:, H:", "f = 0.9 * sigmoid(a[:, H:", "wrong values"
    )
    results = {
        result.function: result for result in grade(written(with_mistakes([odd]), tmp_path), seed=0)
    }
    assert results["lstm_step_forward"].kind == "wrong values"
    assert results["lstm_step_forward"].where.endswith("gate f")
    # right for the forward pass as it is
    assert results["lstm_forward"].kind == "follows from another function"


@pytest.fixture(scope="module")
def edits() -> list[mutants.Edit]:
    return [
        edit
        for module, name in SEARCHED
        for edit in mutants.mutants(mutants.parsed(module, name), name)
    ]


def letters(trees: Iterable[ast.AST]) -> set[str]:
    """The letters of patterns that stand for expressions."""
    names = {node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return {name for name in names if re.fullmatch(r"_[a-zVW]", name)}


def test_each_row_of_mistakes_is_whole() -> None:
    form = "pattern | instead | rank | kind | detail"
    for row in rules.TABLE.splitlines():
        if not row or row.startswith("#"):
            continue
        cells = row.split(" | ")
        assert len(cells) in (4, 5), f"{row!r} has {len(cells)} cells, expected {form}"
        assert all(cells), f"{row!r} has an empty cell, expected {form}"
        for rule in rules.rules(row):
            old, new = ([place[k] for place in rule.places] for k in (0, 1))
            assert [*map(ast.unparse, old)] != [*map(ast.unparse, new)], f"{row!r} changes nothing"
            fields = {field for _, field, *_ in Formatter().parse(rule.detail) if field}
            unbound = (letters(new) | fields) - letters(old) - {"old", "new", "target"}
            assert not unbound, f"{row!r} names {unbound}, which its pattern lacks"


def test_each_rule_changes_some_function(edits: list[mutants.Edit]) -> None:
    fired = {id(edit.rule) for edit in edits}
    dead = [rule for rule in rules.all_rules() if id(rule) not in fired]
    assert [[ast.unparse(tree) for place in rule.places for tree in place] for rule in dead] == []


def test_no_mutant_can_loop_without_end(edits: list[mutants.Edit]) -> None:
    new = [node for edit in edits for slot in edit.slots for node in _nodes(slot.new)]
    assert not any(isinstance(node, ast.While) for node in new)
    loops = {ast.unparse(node.iter) for node in new if isinstance(node, ast.For)}
    assert all(re.match(r"(reversed\()?range\(|self\.", loop) for loop in loops)
    assert mutants._range(mutants.MAX_STEPS) == range(mutants.MAX_STEPS)
    with pytest.raises(ValueError, match="a loop of"):
        mutants._range(mutants.MAX_STEPS + 1)


def _nodes(new: object) -> list[ast.AST]:
    trees = new if isinstance(new, list) else [new]
    return [node for tree in trees for node in ast.walk(tree)]


def test_a_search_ends_after_so_many_mutants_whatever_the_clock_says() -> None:
    for module in (mutants, rules):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {node.module} if isinstance(node, ast.ImportFrom) else set()
                names |= {alias.name for alias in node.names}
                assert not names & {"time", "datetime", "signal", "threading"}
    ran = []
    rng = np.random.default_rng(0)
    x, prev_h, Wx, Wh, b = (rng.standard_normal(s) for s in ((3, 5), (3, 4), (5, 4), (4, 4), (4,)))

    def run(mutant):  # type: ignore[no-untyped-def]
        ran.append(mutant)
        return mutant(x, prev_h, Wx, Wh, b)[:1]

    wrong = [np.tanh(x @ Wx + prev_h @ Wh)]
    found = mutants.localise(rnn_layers, "rnn_step_forward", run, wrong)
    assert found is not None
    assert (found.complete, found.changes[0].kind) == (True, "bias missing")
    needed = len(ran)
    again = mutants.localise(rnn_layers, "rnn_step_forward", run, wrong, budget=needed)
    assert again is not None
    assert again[:2] == found[:2]
    ran.clear()
    assert mutants.localise(rnn_layers, "rnn_step_forward", run, wrong, budget=5) is None
    assert len(ran) == 5


def test_edits_leave_the_tree_as_it_was() -> None:
    tree = mutants.parsed(rnn_layers, "lstm_backward")
    before = ast.unparse(tree)
    for edit in mutants.mutants(tree, "lstm_backward"):
        assert edit.described().kind
    assert ast.unparse(tree) == before


@pytest.mark.parametrize(
    ("name", "got", "right", "kind"),
    [
        ("db", (1, 6), (6,), "axis of one"),
        ("db", (3, 6), (6,), "sum over the batch missing"),
        ("db", (), (6,), "summed too far"),
        ("dWx", (6, 5), (5, 6), "transposed"),
        ("h", (4, 3, 6), (3, 4, 6), "transposed"),
        ("h", (3, 6), (3, 4, 6), "summed too far"),
        ("dW", (7, 5), (8, 5), "table too small"),
        ("dx", (3, 20), (3, 4, 5), "not reshaped back"),
        ("dWx", (6, 24), (5, 24), "results swapped"),
        ("dx", (3, 9), (3, 5), "wrong shape"),
    ],
)
def test_a_wrong_shape_is_named(
    name: str, got: tuple[int, ...], right: tuple[int, ...], kind: str
) -> None:
    found, advice = rules.wrong_shape(name, got, right, {"dWx": (5, 24), "dWh": (6, 24)})
    assert found == kind
    assert advice.startswith(f"{name} has shape {got}, not {right}")
