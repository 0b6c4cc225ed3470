"""Mistakes as rows: code of a reference function, and what a student may write instead.

A row is `pattern | instead | rank | kind | detail`. In a pattern, _a, _b and so on match any
expression, the same letter the same expression; _W matches a weight, _V anything but a number. The
rank is how unlikely the mistake is: 0 is tried first. The detail describes it: {_a} inserts what a
letter matched, {old} and {new} the expression before and after, {target} the variable that is
computed; the default is "`{new}` is used instead of `{old}`". "your" refers to the student's code,
sentences without it to right code. TERMS refines the kind "term missing".

A pattern may begin with functions to which it applies and a context, then a colon. Contexts are
"value" (assigned outside loops), "result" (returned), "argument" (a name passed to a function) and
"test" (of an if). "or" separates alternatives, "&&" places that change together. A pattern that is
not an expression is a statement.

To add a mistake, add a row.
"""

import ast
import copy
import fnmatch
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

TABLE = """
# Slopes of activations
_a * (_b * (1 - _b)) | _a | 1 | missing derivative of sigmoid | the factor `{_b} * (1 - {_b})`, the derivative of the sigmoid, is missing
_a * (1 - _b ** 2) | _a | 1 | missing derivative of tanh | the factor `1 - {_b} ** 2`, the derivative of the tanh, is missing
_a * (1 - _a) | 1 - _a ** 2 | 1 | derivative of tanh instead of sigmoid
1 - _a ** 2 | _a * (1 - _a) | 1 | derivative of sigmoid instead of tanh
_a * (1 - _a) | sigmoid(_a) * (1 - sigmoid(_a)) | 1 | derivative of sigmoid wrong | `{_a}` is the output of the sigmoid already; the derivative does not apply it again
1 - _a ** 2 | 1 - np.tanh(_a) ** 2 | 1 | derivative of tanh wrong | `{_a}` is the output of the tanh already; the derivative does not apply it again
_a * (1 - _a) | logit(_a) * (1 - logit(_a)) | 1 | derivative of sigmoid wrong | the derivative takes `{_a}`, the output of the sigmoid; yours takes its input
lstm_step_backward: 1 - tanh_c ** 2 | 1 - next_c ** 2 | 1 | derivative of tanh wrong | the derivative takes `tanh_c`, the output of the tanh; yours takes its input
1 - _a ** 2 | 1 - np.arctanh(_a) ** 2 | 1 | derivative of tanh wrong | the derivative takes `{_a}`, the output of the tanh; yours takes its input
_a * (1 - _a) | 1 - _a or _a or 1 + _a ** 2 or _a * (1 + _a) or _a ** 2 or _a * (1 - _a ** 2) or (_a * (1 - _a)) ** 2 or _a * (1 - _a) ** 2 | 2 | derivative of sigmoid wrong
1 - _a ** 2 | 1 - _a or _a or 1 + _a ** 2 or (1 - _a) ** 2 or _a ** 2 or 1 - 2 * _a or _a * (1 - _a ** 2) or (1 - _a ** 2) ** 2 or 1 - _a ** 3 or 1 - np.abs(_a) | 2 | derivative of tanh wrong
_a * (1 - _a) | _a ** 2 - 1 or -(_a * (1 - _a)) | 4 | derivative of sigmoid wrong
1 - _a ** 2 | _a ** 2 - 1 | 4 | derivative of tanh wrong
_a * (1 - _a) | _a > 0 or logit(_a) > 0 | 3 | derivative of sigmoid wrong | your derivative is that of a ReLU
1 - _a ** 2 | _a > 0 | 3 | derivative of tanh wrong | your derivative is that of a ReLU
_a * (_b * (1 - _b)) | _a * _b - _b or _a * (_b - _b) | 2 | brackets wrong | the factor is `{_b} * (1 - {_b})`: it needs its brackets

# Activations
sigmoid(_a) | np.tanh(_a) | 1 | wrong activation | tanh is used instead of sigmoid, in `{old}`
np.tanh(_a) | sigmoid(_a) | 1 | wrong activation | sigmoid is used instead of tanh, in `{old}`
sigmoid(_a) | _a | 1 | missing activation | the sigmoid of `{_a}` is missing
np.tanh(_a) | _a | 1 | missing activation | the tanh of `{_a}` is missing
sigmoid(_a) or np.tanh(_a) | np.maximum(_a, 0) or np.maximum(_a, 0.01 * _a) | 2 | wrong activation | ReLU is used instead of `{old}`
sigmoid(_a) or np.tanh(_a) | _a / (1 + np.abs(_a)) | 2 | wrong activation | softsign is used instead of `{old}`
sigmoid(_a) or np.tanh(_a) | np.log1p(np.exp(_a)) | 3 | wrong activation | softplus is used instead of `{old}`
sigmoid(_a) or np.tanh(_a) | np.sin(_a) or np.arctan(_a) or np.sign(_a) or 2 * sigmoid(_a) - 1 or np.tanh(_a / 2) or (np.tanh(_a) + 1) / 2 | 3 | wrong activation
sigmoid(_a) | np.clip(0.2 * _a + 0.5, 0, 1) or np.clip((_a + 1) / 2, 0, 1) or np.clip(_a / 6 + 0.5, 0, 1) or np.clip(0.25 * _a + 0.5, 0, 1) | 2 | wrong activation | a hard sigmoid is used instead of `{old}`
np.tanh(_a) | np.clip(_a, -1, 1) | 2 | wrong activation | a hard tanh is used instead of `{old}`
sigmoid(_a) | np.exp(_a) / np.exp(_a).sum(axis=1, keepdims=True) | 3 | wrong activation | a softmax is used instead of `{old}`
sigmoid(_a) | sigmoid(-_a) | 2 | sign | the sigmoid is 1 / (1 + exp(-x)); yours is that of -`{_a}`
np.tanh(_a) | np.tanh(-_a) or 1 - np.tanh(_a) | 3 | sign | `{new}` is used instead of `{old}`
sigmoid(_a) | sigmoid(sigmoid(_a)) or np.tanh(sigmoid(_a)) or sigmoid(np.tanh(_a)) | 2 | activation twice | your `{_a}` goes through two activations
np.tanh(_a) | np.tanh(np.tanh(_a)) or np.tanh(sigmoid(_a)) or sigmoid(np.tanh(_a)) | 2 | activation twice | your `{_a}` goes through two activations
np.tanh(_a + _b) | np.tanh(_a) + _b or _a + np.tanh(_b) or np.tanh(_a) + np.tanh(_b) | 2 | activation of a part | take the tanh of the whole sum
np.tanh(_a + _b + _c) | np.tanh(_a) + _b + _c or _a + np.tanh(_b + _c) or _a + np.tanh(_b) + _c or np.tanh(_a) + np.tanh(_b + _c) or np.tanh(_a + _c) + np.tanh(_b) | 2 | activation of a part | take the tanh of the whole sum
lstm_step_forward: sigmoid(a_i) && sigmoid(a_f) && sigmoid(a_o) | np.tanh(a_i) && np.tanh(a_f) && np.tanh(a_o) | 1 | wrong activation | tanh is used instead of sigmoid, in all gates
lstm_step_forward: sigmoid(a_i) && sigmoid(a_f) && sigmoid(a_o) | a_i && a_f && a_o | 1 | missing activation | the sigmoid is missing in all gates
lstm_step_forward: sigmoid(a_i) && sigmoid(a_f) && sigmoid(a_o) && np.tanh(a_g) | a_i && a_f && a_o && a_g | 1 | missing activation | all activations are missing
lstm_step_forward: np.tanh(a_g) && np.tanh(next_c) | sigmoid(a_g) && sigmoid(next_c) | 1 | wrong activation | sigmoid is used instead of tanh, twice
lstm_step_forward: np.tanh(a_g) && np.tanh(next_c) | a_g && next_c | 1 | missing activation | the tanh is missing, twice
lstm_step_forward: np.tanh(a_g) && np.tanh(next_c) | np.maximum(a_g, 0) && np.maximum(next_c, 0) | 2 | wrong activation | ReLU is used instead of tanh, twice
sigmoid: return _a | return 1 - _a | 0 | sign | the sigmoid is 1 / (1 + exp(-x)); yours is that of -x
sigmoid: return _a | return np.tanh(x) or return 1 / (1 - np.exp(-x)) or return np.exp(-x) / (1 - np.exp(-x)) or return 1 + np.exp(-x) or return np.maximum(x, 0) or return np.exp(x) or return 1 / np.exp(-x) or return _a * (1 - _a) or return np.clip(0.2 * x + 0.5, 0, 1) | 1 | wrong activation | the sigmoid is 1 / (1 + exp(-x))

# Products, sums, brackets
_a * counts or _a * counts[:, None] | _a | 3 | mask ignored | the mask is missing
_a * counts | _a * ~counts | 1 | mask ignored | your mask is inverted
_a * counts[:, None] | _a * ~counts[:, None] | 1 | mask ignored | your mask is inverted
_a * _b or _b * _a | _a | 3 | factor missing | the factor `{_b}` is missing
_a * _b | _a + _b | 3 | sum for a product | your code adds `{_a}` and `{_b}`; they are multiplied
_a * _b | _a / _b | 4 | factor wrong | your code divides by `{_b}`, which is a factor
_a * _b | _a * _b ** 2 or _a ** 2 * _b | 4 | factor twice | a factor of `{old}` occurs twice
1 + _b or 1 - _b or _b + 1 | 1 | 4 | term missing | the term `{_b}` is missing
_V + _b or _V - _b or _b + _V or _b - _V | _V | 2 | term missing | the term `{_b}` is missing
_a + _b or _b + _a | _a + _b + _b | 3 | added twice | the term `{_b}` occurs twice
_a - _b | _a - _b - _b or _a - _b - _a | 3 | added twice | a term of `{old}` occurs twice
_a + _b | _a - _b or _b - _a | 3 | sign | a sign in `{old}` is wrong
_a - _b | _a + _b | 3 | sign | a sign in `{old}` is wrong
_a + _b | _a * _b | 3 | product for a sum | your code multiplies `{_a}` and `{_b}`; they are added
_a + _b | (_a + _b) / 2 | 4 | mean for a sum | `{new}` is a mean instead of a sum
_a / N | _a | 2 | sum for a mean | the division by the number of samples is missing
_a / _b | _a | 2 | factor missing | the division by `{_b}` is missing
_a / _b | _a * _b | 5 | factor wrong | your code multiplies by `{_b}`, which divides
_a ** _b | _a | 3 | factor wrong | the power `** {_b}` is missing
_a ** 2 | np.abs(_a) or 2 * _a or _a ** 3 | 4 | factor wrong
-_a | _a | 2 | sign | the minus of `{old}` is missing
_a + _b * _c | (_a + _b) * _c | 2 | brackets wrong
_a + _b * _c * _d | (_a + _b) * _c * _d | 2 | brackets wrong | the factors apply only to `{_b}`
_a * _b + _c | _a * (_b + _c) | 2 | brackets wrong
_a * _b + _c * _d | _a * (_b + _c) * _d | 2 | brackets wrong
_a * _b - _c * _d | _a * (_b - _c * _d) or (_a * _b - _c) * _d | 2 | brackets wrong
_a * (_b - _c) | _a * _b - _c | 2 | brackets wrong
_a * (_b + _c) | _a * _b + _c | 2 | brackets wrong
_a / (_b + _c) | _a / _b + _c | 2 | brackets wrong
_d - _a / (_b + _c) | _d - _a / _b + _c | 2 | brackets wrong
_a / (_b - _c) | _a / _b - _c | 2 | brackets wrong
np.sqrt(_a) | _a | 1 | square root missing | the root of `{_a}` is missing
np.sqrt(_a) | np.sqrt(np.sqrt(_a)) or _a ** 2 | 3 | square root wrong
np.exp(_a) | _a | 2 | exponential missing | the exponential of `{_a}` is missing
np.log(_a) | _a | 2 | logarithm missing | the logarithm of `{_a}` is missing

# Products of matrices
_W.T | _W | 1 | transposed weight
_a.T | _a | 1 | transposed
_a @ _W | np.tanh(_a) @ _W | 3 | activation twice | your `{_a}` goes through a tanh on the way into `{old}`
_a @ _W | _a @ _W.T | 2 | transposed weight
_W.T | _W.reshape(_W.shape[::-1]) | 2 | reshape for a transpose | a reshape to the shape of `{old}` does not exchange the axes
_a.T | _a.reshape(_a.shape[::-1]) | 2 | reshape for a transpose | a reshape to the shape of `{old}` does not exchange the axes
_a.reshape(_b, _c).T | _a.reshape(_c, _b) | 2 | reshape for a transpose | a reshape to the shape of `{old}` does not exchange the axes
_a @ _b | _a.T @ _b or _a @ _b.T | 2 | transposed
_a @ _b | _b @ _a | 4 | factors in the wrong order
value: _a | _a.T | 4 | transposed | your `{target}` is transposed

# Sums over samples
_a.sum(axis=0) | _a.mean(axis=0) | 1 | mean for a sum
_a.sum(axis=0) | _a[0] or _a[-1] | 2 | sum over the batch missing
_a.sum(axis=0) | _a.sum(axis=1) | 2 | wrong axis
_a.sum(axis=0) | _a.max(axis=0) or np.abs(_a).sum(axis=0) or np.prod(_a, axis=0) or np.cumsum(_a, axis=0)[-2] | 4 | sum wrong
_a.sum(axis=1, keepdims=True) | _a.sum(axis=0, keepdims=True) or _a.sum() | 2 | wrong axis
_a.sum(axis=1, keepdims=True) | _a.mean(axis=1, keepdims=True) or _a.max(axis=1, keepdims=True) | 2 | sum wrong
(_a).sum() | (_a).mean() | 2 | mean for a sum

# Steps
reversed(_a) | _a | 1 | steps in the wrong order | your loop runs from the first step to the last; gradients go from the last to the first
range(_a) | range(_a - 1) or range(1, _a) | 2 | step left out | your loop runs over `{new}`
range(_a) | range(0, _a, 2) | 4 | step left out | your loop runs over `{new}`
range(_a) | reversed(range(_a)) | 3 | steps in the wrong order | your loop runs backwards
_a[t] | _a[0] or _a[-1] or _a[t - 1] or _a[(t + 1) % T] or _a[T - 1 - t] | 2 | wrong time step
_a[:, t] | _a[:, t - 1] or _a[:, 0] or _a[:, -1] or _a[:, (t + 1) % T] or _a[:, T - 1 - t] | 2 | wrong time step
_a[:, t] | _a[:, :t + 1].sum(axis=1) or _a[:, t:].sum(axis=1) or _a.sum(axis=1) or _a.mean(axis=1) | 3 | wrong time step
_a[:, t] = _b | pass | 3 | left at zero | `{_a}` is never filled in
_a[:, t] = _b | _a[:, t] += _a[:, t - 1] + _b | 3 | added up over steps | your `{_a}` is added up over steps; each step fills in its own
_a += _b | _a = _b if t == T - 1 else _a | 2 | not added up over steps | your `{_a}` is that of the last step only; all steps add to it
_a += _b | _a -= _b | 3 | sign | your code subtracts `{_b}`, which is added
_a -= _b | _a += _b | 2 | sign | your code adds `{_b}`, which is subtracted

# Whole results
value: _a | -(_a) | 2 | sign | your `{target}` has the wrong sign
value: _a | (_a) / N or (_a) / len(x) or (_a) / len(dout) or (_a) / len(dnext_h) | 2 | mean for a sum | your `{target}` is divided by the number of samples
value: _a | (_a) / T | 2 | mean for a sum | your `{target}` is divided by the number of steps
value: _a | (_a) / (N * T) | 2 | mean for a sum | your `{target}` is divided by the number of steps of all samples
value: _a | (_a) * 2 | 3 | added twice | your `{target}` is twice what it should be
value: _a | (_a) / 2 | 3 | factor wrong | your `{target}` is half of what it should be
value: _a | (_a) * 0 | 4 | term missing | your `{target}` stays zero
result: _a | np.zeros_like(_a) | 2 | left at zero | zeros are used instead of `{old}`
result: _a | -_a | 3 | sign | your `{old}` has the wrong sign
result: _a | _a / len(x) or _a / len(dh) | 3 | mean for a sum | your `{old}` is divided by the number of samples
result: _a | _a / T | 3 | mean for a sum | your `{old}` is divided by the number of steps
result: _a | _a / (N * T) | 3 | mean for a sum | your `{old}` is divided by the number of steps of all samples
result: _a | 2 * _a | 4 | added twice | your `{old}` is twice what it should be
result: _a | np.clip(_a, -1, 1) or np.clip(_a, -5, 5) or np.clip(_a, -10, 10) | 3 | gradient clipped | your `{old}` is clipped
result: _a | _a.T | 3 | transposed | your `{old}` is transposed
result: _a | np.abs(_a) | 4 | sign | your `{old}` has lost its signs
result: _a | np.round(_a) or np.trunc(_a) | 4 | integers | your `{old}` holds integers: values put into it lose their fraction
result: _a | _a.astype(np.float16) | 4 | float16 | your `{old}` is rounded to float16
result: _a | _a / np.linalg.norm(_a) or _a - _a.mean() | 5 | normalised | your `{old}` is normalised
argument: _W | _W.T | 2 | transposed weight
argument: _a | np.zeros_like(_a) | 2 | term missing | zeros are used instead of `{_a}`
np.zeros_like(_a) | np.ones_like(_a) | 3 | not started at zero | your `{target}` starts as ones, not as zeros
np.zeros(_a, _b) | np.ones(_a, _b) | 3 | not started at zero | your `{target}` starts as ones, not as zeros
np.zeros_like(_a) | _a.copy() | 3 | not started at zero | your `{target}` starts as `{_a}`, not as zeros
np.zeros(_a, _b) | np.zeros(_a, int) | 2 | integers | your `{target}` is an array of integers: values put into it lose their fraction
test: _a == _b | True | 2 | condition missing | the condition `{old}` is missing
*step_forward value: _a | (_a) + prev_h | 4 | term added | your code adds `prev_h` to `{target}`

# Gates of the LSTM
lstm_step_forward: np.split(a, 4, axis=1) | (a[:, 0::4], a[:, 1::4], a[:, 2::4], a[:, 3::4]) | 0 | gates interleaved | your code takes every fourth column for a gate: a gate is a block of H columns
lstm_step_forward: np.split(a, 4, axis=1) | a.reshape(4, len(a), -1) | 0 | reshape for a transpose | a reshape to four blocks mixes samples and gates: a gate is a block of H columns
lstm_step_backward: np.concatenate(_a, axis=1) | np.stack(_a, axis=2).reshape(len(x), -1) | 0 | gates interleaved | the columns of your gates alternate: a gate is a block of H columns
lstm_step_forward: sigmoid(a_i) | 1 - f | 2 | wrong gate | your input gate is 1 - f; it has its own columns
lstm_step_forward: i * g | (1 - f) * g | 1 | wrong gate | `1 - f` is used instead of `i`
lstm_step_forward: f * prev_c | (1 - i) * prev_c or (1 - f) * prev_c | 1 | wrong gate | `{new}` is used instead of `{old}`
lstm_step_forward: sigmoid(a_f) | sigmoid(a_f + 1) | 1 | bias added | your code adds 1 to the forget gate's sum; its bias is in b
lstm_step_forward: sigmoid(_a) | sigmoid(_a + prev_c) | 2 | term added | your code adds the cell to a gate's pre-activation: gates see only x and prev_h
lstm_step_forward: sigmoid(a_i) && sigmoid(a_f) | sigmoid(a_i + prev_c) && sigmoid(a_f + prev_c) | 1 | term added | your code adds the cell to two gates' pre-activations: gates see only x and prev_h
lstm_step_forward: sigmoid(a_i) && sigmoid(a_f) && sigmoid(a_o) | sigmoid(a_i + prev_c) && sigmoid(a_f + prev_c) && sigmoid(a_o + prev_c) | 1 | term added | your code adds the cell to the gates' pre-activations: gates see only x and prev_h
lstm_step_forward: sigmoid(a_i) && sigmoid(a_f) && next_h = o * _a | sigmoid(a_i + prev_c) && sigmoid(a_f + prev_c) && next_h = sigmoid(a_o + next_c) * _a | 1 | term added | your code adds the cell to the gates' pre-activations: gates see only x and prev_h
lstm_step_forward: next_h = o * np.tanh(next_c) | next_h = sigmoid(a_o + next_c) * np.tanh(next_c) | 2 | term added | your code adds the cell to the output gate's pre-activation: gates see only x and prev_h
lstm_step_forward: np.tanh(a_g) | np.tanh(a_g + prev_c) | 3 | term added | your code adds the cell to the pre-activation of `g`
lstm_step_forward: next_c = _a | next_c = np.tanh(_a) | 2 | activation twice | `next_c` has no activation; only `next_h` takes the tanh of the cell
lstm_step_forward: next_c = _a | next_c = sigmoid(_a) | 3 | activation twice | `next_c` has no activation
lstm_step_forward: return (next_h, next_c, _a) | return (next_h, np.tanh(next_c), _a) | 1 | wrong variable | your code returns the tanh of the cell, not the cell
lstm_step_forward: next_h = o * np.tanh(next_c) | next_h = o * np.tanh(next_c) + prev_h or next_h = np.tanh(o * next_c) or next_h = np.tanh(o) * next_c or next_h = o * np.tanh(g) or next_h = np.tanh(o * np.tanh(next_c)) | 2 | activation of a part | `next_h` is `o * np.tanh(next_c)`
*step_backward: dprev_h = _a | dprev_h = _a + dnext_h | 1 | term added | your code adds `dnext_h` to `dprev_h`; it reaches the previous state only through `da`
rnn_step_backward: dx = da @ _a | dx = (da * (1 - next_h ** 2)) @ _a | 2 | derivative of tanh twice | the derivative is in `da` already
rnn_step_backward: dprev_h = da @ _a | dprev_h = (da * (1 - next_h ** 2)) @ _a | 2 | derivative of tanh twice | the derivative is in `da` already
rnn_step_backward: dprev_h = _a | dprev_h = _a * (1 - prev_h ** 2) | 2 | derivative of tanh twice | the previous step applies its own derivative
lstm_step_backward: dprev_c = _a | dprev_c = _a + dnext_c | 1 | term added | your code adds `dnext_c` to `dprev_c` a second time
lstm_step_backward: dnext_h * tanh_c | dnext_h * np.tanh(prev_c) | 1 | wrong variable | the tanh of the old cell is used instead of that of the new cell
lstm_step_backward: i * (1 - i) | f * (1 - f) or o * (1 - o) or g * (1 - g) | 2 | wrong gate
lstm_step_backward: f * (1 - f) | i * (1 - i) or o * (1 - o) or g * (1 - g) | 2 | wrong gate
lstm_step_backward: o * (1 - o) | i * (1 - i) or f * (1 - f) or g * (1 - g) | 2 | wrong gate
lstm_step_backward: da_o = do * _a | da_o = dc * tanh_c * _a | 1 | wrong variable | your `do` is from `dc`; it is from `dnext_h`
lstm_step_backward: prev_h.T | (o * tanh_c).T | 1 | wrong variable | the new state is used instead of `prev_h`
lstm_step_backward: 1 - tanh_c ** 2 | 1 - np.tanh(prev_c) ** 2 | 1 | wrong variable | the tanh of the old cell is used instead of that of the new cell
lstm_step_backward: dc = dnext_c + _b | dc = dnext_c + dnext_h | 2 | factor missing | your `dnext_h` reaches the cell without its factors

# Sequences
rnn_forward: state = h0 | state = np.zeros_like(h0) | 0 | state not reset | your state starts as zeros, not as h0
lstm_forward: state, cell = (h0, np.zeros_like(h0)) | state, cell = h0, h0 | 0 | state not reset | your cell starts as h0, not as zeros
lstm_forward: state, cell = (h0, np.zeros_like(h0)) | state, cell = np.zeros_like(h0), np.zeros_like(h0) | 0 | state not reset | your state starts as zeros, not as h0
lstm_forward: state, cell = (h0, np.zeros_like(h0)) | state, cell = h0, np.ones_like(h0) | 0 | state not reset | your cell starts as ones, not as zeros
lstm_forward: state, cell = (h0, np.zeros_like(h0)) | state, cell = np.zeros_like(h0), h0 | 0 | state not reset | your code swaps the initial state and cell
rnn_forward: state = h0 | state = np.tanh(h0) | 1 | activation twice | your h0 goes through a tanh; use it unchanged as the first state
lstm_forward: state, cell = (h0, np.zeros_like(h0)) | state, cell = np.tanh(h0), np.zeros_like(h0) | 1 | activation twice | your h0 goes through a tanh; use it unchanged as the first state
rnn_forward, lstm_forward: h[:, t] = state | h[:, t] = state; state = np.zeros_like(h0) | 1 | state not carried | each of your steps starts from zeros, not from the state before
rnn_forward, lstm_forward: h[:, t] = state | h[:, t] = state + h0 or state = state + h0; h[:, t] = state | 2 | term added | your code adds `h0` to the states
rnn_forward: state, step = _a | state, step = _a; state, step = _a | 1 | step taken twice | your loop makes each step twice
lstm_forward: state, cell, step = _a | state, cell, step = _a; state, cell, step = _a | 1 | step taken twice | your loop makes each step twice
rnn_forward: state, step = _a | before = state; state, step = _a; state = state + before or before = state; state, step = _a; state = (state + before) / 2 | 2 | term added | your code adds the state before to the new one; the step replaces it
lstm_forward: state, cell, step = _a | before = state; state, cell, step = _a; state = state + before | 2 | term added | your code adds the state before to the new one; the step replaces it
lstm_forward: state, cell, step = _a | before = cell; state, cell, step = _a; cell = cell + before | 2 | term added | your code adds the cell before to the new one; the step replaces it
rnn_forward, lstm_forward: h[:, t] = state | h[:, t] = np.tanh(state) | 2 | activation twice | your states go through a second tanh
lstm_forward: h[:, t] = state | h[:, t] = np.tanh(cell) | 2 | wrong variable | your h holds the tanh of the cells, not the states
lstm_forward: h[:, t] = state | h[:, t] = state; cell = state | 1 | state not carried | your code passes the state to the next step as its cell
lstm_forward: h[:, t] = state | h[:, t] = state; state = cell | 1 | state not carried | your code passes the cell to the next step as its state
rnn_forward, lstm_forward: return (h, cache) | return (h.transpose(1, 0, 2).reshape(h.shape), cache) | 0 | reshape for a transpose | your code reshapes states of (T, N, H) to (N, T, H): exchange the axes, by transpose(1, 0, 2)
rnn_forward, lstm_forward: return (h, cache) | return (h[:, ::-1], cache) | 0 | steps in the wrong order | your h has the last step first
rnn_backward, lstm_backward: return (dx, _a, _b, _c, _d) | return (dx.transpose(1, 0, 2).reshape(dx.shape), _a, _b, _c, _d) | 0 | reshape for a transpose | your code reshapes gradients of (T, N, D) to (N, T, D): exchange the axes, by transpose(1, 0, 2)
rnn_backward, lstm_backward: return (dx, _a, _b, _c, _d) | return (dx[:, ::-1], _a, _b, _c, _d) | 0 | steps in the wrong order | your dx has the last step first: the loop runs backwards, so a list that it appends to is reversed
rnn_backward, lstm_backward: dstate = np.zeros((N, H), dh.dtype) | dstate = dh[:, -1] | 0 | dh added twice | your carried gradient starts as dh of the last step, which the loop adds too; start it as zeros
rnn_backward, lstm_backward: return (dx, dstate, _b, _c, _d) | return (dx, dh[:, 0], _b, _c, _d) | 0 | dh not carried | your dh0 is the gradient of the first step's loss, not the gradient that the loop carries to h0
rnn_backward, lstm_backward: return (dx, dstate, _b, _c, _d) | return (dx, dstate + dh[:, 0], _b, _c, _d) | 0 | dh added twice | your code adds dh of the first step to dh0 a second time
rnn_backward, lstm_backward: return (dx, dstate, _b, _c, _d) | return (dx, dh.sum(axis=1), _b, _c, _d) | 1 | dh not carried | your dh0 is a sum of dh, not the gradient that the loop carries to h0
lstm_backward: return (dx, dstate, _b, _c, _d) | return (dx, dcell, _b, _c, _d) | 0 | results swapped | your dh0 is the gradient of the first cell, not of the first state
rnn_backward, lstm_backward: dstate = dh[:, t] + dstate && return (dx, dstate, _b, _c, _d) | dstate = dh[:, t] + dstate; dh0 = dstate && return (dx, dh0, _b, _c, _d) | 0 | dh not carried | your dh0 is the gradient of the first step's result, not the one that the step returns for h0
rnn_backward, lstm_backward: dstate = dh[:, t] + dstate | dstate = dh[:, t] if t == T - 1 else dstate | 0 | dh not added | your code adds `dh[:, t]` only at the last step
rnn_backward, lstm_backward: dstate = dh[:, t] + dstate | dstate = dh[:, t] + dh[:, t] + dstate | 1 | dh added twice | your code adds `dh[:, t]` twice
rnn_backward: db += db_t | db += db_t; dstate = dstate + dh[:, t - 1] if t else dstate | 1 | dh added twice | your code adds dh of a step both before and after it
rnn_backward: dx[:, t], dstate, dWx_t, dWh_t, db_t = _a | before = dstate - dh[:, t]; dx[:, t], dstate, dWx_t, dWh_t, db_t = _a; dstate = before + dstate | 0 | added up over steps | your gradient of the state is added up over the steps; each step replaces it
lstm_backward: dx[:, t], dstate, dcell, dWx_t, dWh_t, db_t = _a | before = dstate - dh[:, t]; dx[:, t], dstate, dcell, dWx_t, dWh_t, db_t = _a; dstate = before + dstate | 0 | added up over steps | your gradient of the state is added up over the steps; each step replaces it
lstm_backward: dx[:, t], dstate, dcell, dWx_t, dWh_t, db_t = _a | before = dcell; dx[:, t], dstate, dcell, dWx_t, dWh_t, db_t = _a; dcell = before + dcell | 0 | added up over steps | your gradient of the cell is added up over the steps; each step replaces it
lstm_backward: dx[:, t], dstate, dcell, dWx_t, dWh_t, db_t = _a | before = dstate - dh[:, t], dcell; dx[:, t], dstate, dcell, dWx_t, dWh_t, db_t = _a; dstate, dcell = before[0] + dstate, before[1] + dcell | 0 | added up over steps | your gradients of state and cell are added up over the steps; each step replaces them
rnn_backward: dx[:, t], dstate, dWx_t, dWh_t, db_t = _a | before = dstate; dx[:, t], dstate, dWx_t, dWh_t, db_t = _a; dstate = before + dstate | 1 | added up over steps | your gradient of the state is added up over the steps, `dh` with it; each step replaces it
lstm_backward: dx[:, t], dstate, dcell, dWx_t, dWh_t, db_t = _a | before = dstate; dx[:, t], dstate, dcell, dWx_t, dWh_t, db_t = _a; dstate = before + dstate | 1 | added up over steps | your gradient of the state is added up over the steps, `dh` with it; each step replaces it
lstm_backward: dcell = np.zeros((N, H), dh.dtype) | dcell = np.ones((N, H)) | 0 | state not reset | your gradient of the last cell is ones; it is zeros
lstm_backward: dcell = np.zeros((N, H), dh.dtype) | dcell = dh[:, -1] | 0 | state not reset | your gradient of the last cell is that of the last state; it is zeros
lstm_backward: dstate = dh[:, t] + dstate | dcell = dstate; dstate = dh[:, t] + dstate | 0 | dc not carried | your code gives the cell the gradient of the state of the next step, not that of its cell
lstm_backward: dstate = dh[:, t] + dstate | dstate = dh[:, t] + dstate; dcell = dstate | 0 | dc not carried | your code gives the cell the gradient of its step's state, not that of the next cell
lstm_backward: dstate = dh[:, t] + dstate | dcell = dh[:, t] + dcell | 0 | dh not added | your code adds `dh[:, t]` to the gradient of the cell; it belongs to that of the state
lstm_backward: dstate = dh[:, t] + dstate | dstate = dh[:, t] + dstate; dcell = dh[:, t] + dcell | 0 | dh added twice | your code adds `dh[:, t]` to the gradient of the cell, too
lstm_backward: dstate = dh[:, t] + dstate | dstate, dcell = dh[:, t] + dcell, dstate | 0 | results swapped | your code swaps the carried gradients of state and cell
rnn_backward, lstm_backward: dWx += dWx_t && dWh += dWh_t && db += db_t | dWx = dWx_t && dWh = dWh_t && db = db_t | 0 | not added up over steps | your gradients of the weights are overwritten at each step, not added to

# Words
word_embedding_forward: W[x] | W[x - 1] or W[np.maximum(x - 1, 0)] or W[(x + 1) % len(W)] or np.take(W, x - 1, axis=0) | 1 | words off by one
word_embedding_forward: W[x] | W[x] * np.sqrt(W.shape[1]) or W[x] / W.shape[1] or np.tanh(W[x]) or W[np.maximum(x, 1)] or W[x] * (x > 0)[..., None] or W[x] / np.linalg.norm(W[x], axis=-1, keepdims=True) or W[x[:, :1]].repeat(x.shape[1], axis=1) or W[x[:, ::-1]] or W[::-1][x] | 2 | vectors changed | a word's vector is its unchanged row of W: `W[x]`
word_embedding_backward: np.add.at(dW, x, dout) | dW[x] += dout or dW[x] = dout | 0 | scatter without adding | for a repeated word, your code keeps only the last gradient: add each, by np.add.at
word_embedding_backward: np.add.at(dW, x, dout) | for n in range(len(x)): dW[x[n]] += dout[n] | 0 | scatter without adding | a word that repeats within a caption loses gradients: add each, by np.add.at
word_embedding_backward: np.add.at(dW, x, dout) | for t in range(x.shape[1]): dW[x[:, t]] += dout[:, t] | 0 | scatter without adding | a word that repeats within a step loses gradients: add each, by np.add.at
word_embedding_backward: np.add.at(dW, x, dout) | for n in range(len(x)): dW[x[n]] = dout[n] | 0 | scatter without adding | gradients of a word are overwritten by those of the next caption: add each, by np.add.at
word_embedding_backward: np.add.at(dW, x, dout) | np.add.at(dW, x, dout); dW /= np.maximum(np.bincount(x.ravel(), minlength=len(W)), 1)[:, None] | 0 | mean for a sum | your gradient of a word is the mean over its occurrences, not their sum
word_embedding_backward: np.add.at(dW, x, dout) | np.add.at(dW, x, dout); dW /= len(x) or np.add.at(dW, x, dout); dW /= x.size or np.add.at(dW, x, dout); dW /= x.shape[1] | 1 | mean for a sum | your `dW` is divided: a word's gradient is the sum over its occurrences
word_embedding_backward: np.add.at(dW, x, dout) | np.add.at(dW, x, dout); dW[0] = 0 | 1 | mask ignored | your code leaves out the gradient of word 0: the loss masks NULL, the layer does not
word_embedding_backward: np.add.at(dW, x, dout) | np.add.at(dW, x, 1.0) or np.add.at(dW, x, dout * W[x]) or np.add.at(dW, x - 1, dout) or np.subtract.at(dW, x, dout) or np.maximum.at(dW, x, dout) or np.add.at(dW, x[:, ::-1], dout) or np.add.at(dW, x[:, :-1], dout[:, :-1]) or np.add.at(dW, x[:, 1:], dout[:, 1:]) or np.add.at(dW, x[:, :1], dout[:, :1]) or np.add.at(dW, x[:1], dout[:1]) or np.add.at(dW, x, dout.sum(axis=0)) or np.add.at(dW, x, dout.sum(axis=1, keepdims=True)) or np.add.at(dW, x, dout.mean(axis=2, keepdims=True)) or np.add.at(dW, x, dout.sum(axis=2, keepdims=True)) | 2 | scatter wrong | each entry of x adds its row of dout to the row of its word
word_embedding_backward: np.add.at(dW, x, dout) | np.add.at(dW, x, dout); dW = np.trunc(dW) or np.add.at(dW, x, np.trunc(dout)) | 2 | integers | your `dW` is an array of integers: gradients lose their fraction

# Loss
temporal_softmax_loss: mask.reshape(N * T) | np.ones(N * T, bool) | 0 | mask ignored | the mask is not used
temporal_softmax_loss: mask.reshape(N * T) | ~mask.reshape(N * T) | 0 | mask ignored | your mask is inverted
temporal_softmax_loss: y.reshape(N * T) | np.roll(y, 1, axis=1).reshape(N * T) or np.roll(y, -1, axis=1).reshape(N * T) or np.maximum(y.reshape(N * T) - 1, 0) | 1 | captions off by one | your targets are off by one
temporal_softmax_loss: loss = _a / N | loss = _a / (N * T) | 0 | mean for a sum | sum over steps, then take the mean over captions
temporal_softmax_loss: loss = _a / N | loss = _a / counts.sum() | 0 | mean for a sum | the mean is over captions, not over the words that count
temporal_softmax_loss: loss = _a / N | loss = _a / T | 1 | mean for a sum | the mean is over captions, not over steps
temporal_softmax_loss: dscores = _a / N | dscores = _a / (N * T) | 0 | mean for a sum | sum over steps, then take the mean over captions
temporal_softmax_loss: dscores = _a / N | dscores = _a / counts.sum() | 0 | mean for a sum | the mean is over captions, not over the words that count
temporal_softmax_loss: dscores = _a / N | dscores = _a / T | 1 | mean for a sum | the mean is over captions, not over steps
temporal_softmax_loss: loss = _a / N && dscores = _b / N | loss = _a / (N * T) && dscores = _b / (N * T) | 0 | mean for a sum | sum over steps, then take the mean over captions
temporal_softmax_loss: loss = _a / N && dscores = _b / N | loss = _a / counts.sum() && dscores = _b / counts.sum() | 0 | mean for a sum | the mean is over captions, not over the words that count
temporal_softmax_loss: loss = _a / N && dscores = _b / N | loss = _a / T && dscores = _b / T | 0 | mean for a sum | the mean is over captions, not over steps
temporal_softmax_loss: loss = _a / N && dscores = _b / N | loss = _a && dscores = _b | 0 | sum for a mean | the division by N is missing, in the loss and in its gradient
temporal_softmax_loss: loss = _a / N && dscores = _b / N | loss = -(_a) / N && dscores = -(_b) / N | 1 | sign | the loss is minus the logarithm; your loss and its gradient have the wrong sign
temporal_softmax_loss: loss = -(_b * counts).sum() / N | loss = -(_b * counts).mean() | 1 | mean for a sum | sum over steps, then take the mean over captions
temporal_softmax_loss: loss = -(_b * counts).sum() / N | loss = -(np.exp(_b) * counts).sum() / N or loss = ((1 - np.exp(_b)) ** 2 * counts).sum() / N or loss = -np.log((np.exp(_b) * counts).sum()) / N | 1 | logarithm missing | the loss adds up the logarithms of the words' probabilities
temporal_softmax_loss: loss = -(_b * counts).sum() / N | loss = -(scores[rows, words] * counts).sum() / N or loss = -(shifted[rows, words] * counts).sum() / N | 1 | logarithm missing | your loss is of scores, not of logarithms of probabilities
temporal_softmax_loss: loss = -(_b * counts).sum() / N | loss = -(log_p * counts[:, None]).sum() / N or loss = -(log_p.max(axis=1) * counts).sum() / N or loss = -(np.exp(log_p) * log_p * counts[:, None]).sum() / N or loss = -(np.exp(_b) * _b * counts).sum() / N | 1 | wrong words | the loss takes only the probability of the caption's word
temporal_softmax_loss: dscores[rows, words] -= 1 | dscores -= 1 | 1 | term missing | your code subtracts 1 everywhere; subtract it only at the caption's words
temporal_softmax_loss: dscores[rows, words] -= 1 | dscores[:, words] -= 1 | 1 | wrong rows | your code subtracts 1 in every row; subtract it only at each row's word
temporal_softmax_loss: dscores[rows, words] -= 1 | dscores[rows, words] -= counts | 2 | mask ignored | your code masks `dscores` only where 1 is subtracted
temporal_softmax_loss: dscores[rows, words] -= 1 && dscores = _a * counts[:, None] / N | dscores[rows, words] -= counts && dscores = _a / N | 1 | mask ignored | your mask applies only to the 1 that is subtracted; it has to cover the whole row
temporal_softmax_loss: dscores = np.exp(log_p) | dscores = log_p.copy() or dscores = scores.copy() or dscores = np.exp(scores) or dscores = np.exp(shifted) | 1 | exponential missing | the gradient starts from the probabilities, `exp(log_p)`
temporal_softmax_loss: dscores = np.exp(log_p) | dscores = np.exp(log_p) * (1 - np.exp(log_p)) or dscores = 1 - np.exp(log_p) | 2 | factor wrong | the gradient starts from the probabilities themselves
temporal_softmax_loss: log_p = _a - _b | log_p = (x - np.log(np.exp(x).sum(axis=1, keepdims=True))).reshape(N * T, V) | 1 | wrong axis | your softmax is over steps; it is over words
temporal_softmax_loss: log_p = _a - _b | log_p = (x - np.log(np.exp(x).sum(axis=(1, 2), keepdims=True))).reshape(N * T, V) or log_p = (x - np.log(np.exp(x).sum(axis=0, keepdims=True))).reshape(N * T, V) or log_p = scores - np.log(np.exp(scores).sum(axis=0, keepdims=True)) or log_p = scores - np.log(np.exp(scores).sum()) | 1 | wrong axis | your softmax is not only over words
temporal_softmax_loss: log_p = _a - _b | log_p = np.log(sigmoid(scores)) | 2 | wrong activation | a sigmoid is used instead of the softmax
temporal_softmax_loss: dscores.reshape(N, T, V) | dscores.reshape(T, N, V).transpose(1, 0, 2) or dscores.reshape(N, V, T).transpose(0, 2, 1) | 2 | reshape for a transpose | the axes of your gradient are mixed up on the way back to (N, T, V)

temporal_softmax_loss: loss = _a / N | loss = _a / N / np.log(2) or loss = _a / N / np.log(10) | 1 | wrong logarithm | the logarithm is the natural one, np.log

# Captioner
*.loss, *.sample: affine_forward(_a, _b, _c) | affine_forward(_a, _b, 2 * _c) | 2 | added twice | your code adds the bias twice, in `{old}`
*.loss: temporal_affine_forward(_a, _b, _c) | temporal_affine_forward(_a, _b, 2 * _c) | 2 | added twice | your code adds the bias twice, in `{old}`
*.loss: captions_out = captions[:, 1:] | captions_in, captions_out = captions[:, 1:], captions[:, :-1] | 0 | captions off by one | your inputs and targets are swapped: a step reads the word that it should predict
*.loss: captions_in = captions[:, :-1] | captions_in = captions; captions = np.concatenate((captions[:, :1], captions), axis=1) | 0 | captions off by one | your inputs and targets are the same captions: a step predicts the word that it reads
*.loss: captions[:, :-1] | captions[:, 1:] | 2 | captions off by one
*.loss: captions[:, 1:] | captions[:, :-1] | 2 | captions off by one
*.loss: captions_in = captions[:, :-1] && captions_out = captions[:, 1:] | captions_in = captions[:, :-2] && captions_out = captions[:, 1:-1] or captions_in = captions[:, 1:-1] && captions_out = captions[:, 2:] or captions_in = captions[:, :-2] && captions_out = captions[:, 2:] | 1 | captions off by one | your code leaves out a step of the captions
*.loss: mask = captions_out != self._null | mask = captions_in != self._null | 0 | mask ignored | your mask is made from the inputs, not from the targets
*.loss: mask = captions_out != self._null | mask = captions_out >= 0 | 0 | mask ignored | your mask is true everywhere
*.loss: captions_out != self._null | captions_out != self._end | 0 | mask ignored | your mask leaves out END, and counts NULL; it has to leave out only NULL
*.loss: captions_out != self._null | captions_out != self._start | 0 | mask ignored | your mask leaves out START, and counts NULL; it has to leave out only NULL
*.loss: captions_out != self._null | (captions_out != self._null) & (captions_out != self._end) | 0 | mask ignored | your mask leaves out END as well; the captioner learns from it to end captions
*.loss: captions_out != self._null | captions_out == self._null | 1 | mask ignored | your mask is inverted
*.loss: captions_out != self._null | captions[:, :-1] != self._end or (captions_out != self._null) & (captions_in != self._start) or (captions_in != self._null) & (captions_in != self._end) or captions_out > self._end | 1 | mask ignored | the mask is true where the targets are not NULL
*.loss: h0, proj_cache = _a | h0, proj_cache = _a; h0 = np.tanh(h0) | 0 | activation twice | your h0 goes through a tanh; it is affine in the features
*.loss: h0, proj_cache = _a | h0, proj_cache = _a; h0 = np.maximum(h0, 0) | 0 | activation twice | your h0 goes through a ReLU; it is affine in the features
*.loss: h0, proj_cache = _a && affine_backward(dh0, proj_cache) | h0, proj_cache = _a; h0 = np.tanh(h0) && affine_backward(dh0 * (1 - h0 ** 2), proj_cache) | 0 | activation twice | your h0 goes through a tanh; it is affine in the features
*.loss: h0, proj_cache = _a && affine_backward(dh0, proj_cache) | h0, proj_cache = _a; h0 = np.maximum(h0, 0) && affine_backward(dh0 * (h0 > 0), proj_cache) | 0 | activation twice | your h0 goes through a ReLU; it is affine in the features
*.loss: h0, proj_cache = _a && affine_backward(dh0, proj_cache) | h0, proj_cache = _a; h0 = sigmoid(h0) && affine_backward(dh0 * h0 * (1 - h0), proj_cache) | 1 | activation twice | your h0 goes through a sigmoid; it is affine in the features
*.loss: h, cache = _a | h, cache = _a; h = np.tanh(h) | 2 | activation twice | your states go through a tanh on the way to the scores
*.loss: affine_backward(dh0, _a) | affine_backward(dh[:, 0], _a) | 0 | dh not carried | your projection gets the gradient of the first step's state, not the dh0 that the sequence returns
*.loss: affine_backward(dh0, _a) | affine_backward(dh.sum(axis=1), _a) | 0 | dh not carried | your projection gets a sum of dh, not the dh0 that the sequence returns
*.loss: _, grads[_k], grads[_l] = affine_backward(_a, _c) | _, grads[_k], grads[_l] = affine_backward(_a, _c); grads[_l] = _a[0] or _, grads[_k], grads[_l] = affine_backward(_a, _c); grads[_l] = _a[-1] | 1 | sum over the batch missing | all images share the bias of the projection: add up its gradient over the batch
*.loss: _, grads[_k], grads[_l] = affine_backward(_a, _c) | _, grads[_k], grads[_l] = affine_backward(_a, _c); grads[_l] = _a.mean(axis=0) or _, grads[_k], grads[_l] = affine_backward(_a, _c); grads[_k] /= len(features) or _, grads[_k], grads[_l] = affine_backward(_a / len(features), _c) | 1 | mean for a sum | the gradients of the projection are sums over the batch, not means
*.loss: word_embedding_backward(dx, _a) | word_embedding_backward(dx, (captions_out, p['W_embed'])) | 1 | captions off by one | your gradient of the words is added to the targets, not to the inputs
*.loss: p[_k] | np.zeros_like(p[_k]) | 2 | term missing | zeros are used instead of `{old}`
*.loss: return (loss, grads) | return (loss / len(features), grads) | 1 | mean for a sum | your loss is divided by the number of captions a second time
*.loss: return (loss, grads) | return (loss / captions_out.shape[1], grads) | 1 | mean for a sum | your loss is divided by the number of steps
*.loss: return (loss, grads) | return (loss / mask.sum(), grads) | 1 | mean for a sum | your loss is divided by the number of words
*.loss: return (loss, grads) | return (loss * len(features), grads) | 1 | sum for a mean | your loss is multiplied by the number of captions
*.loss: return (loss, grads) | return (-loss, grads) | 1 | sign | your loss has the wrong sign
*.sample: p[_k] | np.zeros_like(p[_k]) | 2 | term missing | zeros are used instead of `{old}`
*.sample: captions[:, t] = words | captions[:, t] = words; words = np.full(N, self._start) | 0 | word not fed back | each of your steps reads START, not the word of the step before
*.sample: captions[:, t] = words | captions[:, t] = words; words = np.full(N, self._null) | 0 | word not fed back | each of your steps but the first reads NULL, not the word of the step before
*.sample: captions[:, t] = words | captions[:, t] = words; words = captions[:, t - 1] if t else np.full(N, self._start) | 0 | word fed late | your steps read the word of two steps before: START comes twice
*.sample: captions[:, t] = words | captions[:, t] = words; words = captions[:, t - 1] | 0 | word fed late | your steps read the word of two steps before, not the latest word
*.sample: captions[:, t] = words | captions[:, t] = words; words = captions[:, 0] | 1 | word not fed back | each of your steps reads the first word, not the word of the step before
*.sample: x, _ = _a | x, _ = _a; h, _ = affine_forward(features, p['W_proj'], p['b_proj']) | 0 | state not carried | each of your steps starts from the picture, not from the state before
*.sample: x, _ = _a | x, _ = _a; h = np.zeros_like(h) | 0 | state not carried | each of your steps starts from zeros, not from the state before
*.sample: c = np.zeros_like(h) | c = h | 0 | state not reset | your cell starts as the state, not as zeros
*.sample: c = np.zeros_like(h) | c = np.ones_like(h) | 1 | state not reset | your cell starts as ones, not as zeros
*.sample: c = np.zeros_like(h) | c = h; h = np.zeros_like(h) | 0 | state not reset | your cell starts from the picture; the state has to
*.sample: c = np.zeros_like(h) | c = np.zeros_like(h); h = np.zeros_like(h) | 0 | state not reset | your state starts as zeros, not from the picture
*.sample: c = np.zeros_like(h) | c = np.zeros_like(h); h = np.tanh(h) | 0 | activation twice | your first state goes through a tanh; it is affine in the features
*.sample: c = np.zeros_like(h) | c = np.zeros_like(h); h = np.maximum(h, 0) | 0 | activation twice | your first state goes through a ReLU; it is affine in the features
*.sample: words = np.full(N, self._start) | words = np.full(N, self._null) | 0 | wrong start | your first step reads NULL, not START
*.sample: words = np.full(N, self._start) | words = np.full(N, self._end) | 0 | wrong start | your first step reads END, not START
*.sample: captions[:, t] = words && words = np.full(N, self._start) | captions[:, t] = words; words = captions[:, t - 1] if t else np.full(N, self._null) && words = np.full(N, self._start) | 1 | word fed late | your steps read the word of two steps before, not the latest word
*.sample: captions[:, t] = words | captions[:, (t + 1) % max_length] = words; captions[:, 0] = self._start | 0 | captions off by one | your first column is START, not the first word
*.sample: captions[:, t] = words | captions[:, t] = words if t else self._start | 1 | captions off by one | your first column is START, not the first word
*.sample: _a.argmax(axis=1) | _a.argmin(axis=1) | 1 | wrong word | your code takes the word with the lowest score, not the one with the highest
*.sample: _a.argmax(axis=1) | _a[:, 1:].argmax(axis=1) | 1 | words off by one | your code leaves out the first word, and counts the others from 0
*.sample: _a.argmax(axis=1) | _a[:, 1:].argmax(axis=1) + 1 or _a[:, 2:].argmax(axis=1) + 2 or _a[:, 3:].argmax(axis=1) + 3 | 1 | wrong word | your code never chooses some of the words
*.sample: _a.argmax(axis=1) | np.abs(_a).argmax(axis=1) or (-np.abs(_a)).argmax(axis=1) or _a.argsort(axis=1)[:, -2] or _a.argsort(axis=1)[:, 0] or np.full(N, _a.mean(axis=0).argmax()) or np.full(N, _a[0].argmax()) or _a.argmax(axis=1) + 1 | 2 | wrong word | each caption's word is the one with the highest score
*.sample: scores, _ = affine_forward(h, _b, _c) | scores, _ = affine_forward(c, _b, _c) | 1 | wrong variable | your scores are of the cell, not of the state
*.sample: scores, _ = affine_forward(h, _b, _c) | scores, _ = affine_forward(np.tanh(h), _b, _c) | 2 | activation twice | your state goes through a second tanh on the way to the scores
*.sample: return captions | return captions[:, ::-1] | 1 | steps in the wrong order | your captions have the last word first
*.sample: affine_forward(_a, _b, _c) | affine_forward(_a, _b, np.zeros_like(_c)) | 1 | bias missing | the bias is missing, in `{old}`

# Update rules
adam: t = config.get('t', 0) + 1 | t = 1 | 0 | step not counted | your `t` stays 1: count it up at each call
adam: config.get('t', 0) + 1 | config.get('t', 0) | 0 | step counted from 0 | your `t` is 0 at the first step, and 1 - beta^0 divides by zero: count it up before it is used
adam: config.get('t', 0) + 1 | config.get('t', 0) + 2 | 0 | step counted twice | your `t` is 2 at the first step; it is 1
adam: config.get('t', 0) + 1 | 2 * config.get('t', 0) + 1 or 2 * config.get('t', 0) + 2 | 2 | step counted twice | your `t` grows by more than 1 a step
adam: config['t'], config['m'], config['v'] = _a | config['t'], config['m'], config['v'] = _a; config['t'] += 1 | 0 | step counted twice | your `t` grows by 2 at each call
adam: config.get('t', 0) + 1 | max(config.get('t', 0), 1) | 0 | step not counted | your `t` is 1 at the first step and at the second: count it up before it is used
adam: m_hat = m / _a | m_hat = m | 0 | bias correction missing | `m` is not divided by 1 - beta1^t
adam: v_hat = v / _a | v_hat = v | 0 | bias correction missing | `v` is not divided by 1 - beta2^t
adam: m_hat = m / _a && v_hat = v / _b | m_hat = m && v_hat = v | 0 | bias correction missing | neither `m` nor `v` is divided by 1 - beta^t
adam: m_hat = m / _a && v_hat = v / _b | m_hat = m * _a && v_hat = v * _b | 0 | bias correction wrong | your code multiplies `m` and `v` by 1 - beta^t instead of dividing
adam: m_hat = m / _a && v_hat = v / _b | m_hat = m / _b && v_hat = v / _a | 0 | bias correction wrong | your bias corrections swap beta1 and beta2
adam: 1 - _a ** t | 1 - _a | 1 | bias correction wrong | the power of t is missing: divide by 1 - beta^t
adam: 1 - beta1 ** t && 1 - beta2 ** t | 1 - beta1 && 1 - beta2 | 0 | bias correction wrong | the power of t is missing, twice: divide by 1 - beta^t
adam: 1 - _a ** t | 1 - _a * t or (1 - _a) ** t or 1 - _a ** (t - 1) or 1 - _a ** (t + 1) or 1 + _a ** t | 2 | bias correction wrong
adam: 1 - beta1 ** t && 1 - beta2 ** t | 1 - beta1 ** (t + 1) && 1 - beta2 ** (t + 1) | 1 | bias correction wrong | your `t` counts one too many
adam: beta1, beta2 = (_a, _b) | beta1, beta2 = (_b, _a) | 0 | wrong variable | your beta1 and beta2 are swapped
adam: m = beta1 * m + (1 - beta1) * dw | m = (1 - beta1) * m + beta1 * dw | 0 | weights of a mean swapped | the old mean has the factor beta1, the gradient 1 - beta1
adam: v = beta2 * v + (1 - beta2) * dw ** 2 | v = (1 - beta2) * v + beta2 * dw ** 2 | 0 | weights of a mean swapped | the old mean has the factor beta2, the squares 1 - beta2
adam: m = beta1 * m + (1 - beta1) * dw && v = beta2 * v + (1 - beta2) * dw ** 2 | m = (1 - beta1) * m + beta1 * dw && v = (1 - beta2) * v + beta2 * dw ** 2 | 0 | weights of a mean swapped | the old means have the factor beta, the new terms 1 - beta
adam: m = beta1 * m + (1 - beta1) * dw && v = beta2 * v + (1 - beta2) * dw ** 2 | m = beta1 * m + dw && v = beta2 * v + dw ** 2 | 0 | factor missing | the factors 1 - beta1 and 1 - beta2 are missing
sgd_momentum: config['learning_rate'] * dw | (1 - config['momentum']) * dw | 1 | factor wrong | your gradient is weighted by 1 - momentum, not by the learning rate
adam: dw ** 2 | dw * m or m ** 2 | 3 | wrong variable | `v` is a mean of the gradient's squares
adam: v = beta2 * v + _a | v = np.maximum(beta2 * v, np.abs(dw)) or v = np.maximum(v, beta2 * v + _a) or v = v + dw ** 2 | 3 | wrong variable | `v` is a moving mean of the gradient's squares
adam, rmsprop: dw ** 2 | dw.mean() ** 2 or (dw ** 2).sum() or (dw ** 2).mean() or w ** 2 | 3 | wrong variable | the mean is of the gradient's squares, elementwise
np.sqrt(_a) + _b | np.sqrt(_a + _b) | 0 | epsilon inside the root | epsilon is added to the root, not inside it
adam: config['t'], config['m'], config['v'] = (t, m, v) | config['m'], config['v'] = m, v | 0 | state not carried | `t` is not put back into config
adam: config['t'], config['m'], config['v'] = (t, m, v) | config['t'], config['v'] = t, v | 0 | state not carried | `m` is not put back into config
adam: config['t'], config['m'], config['v'] = (t, m, v) | config['t'], config['m'] = t, m | 0 | state not carried | `v` is not put back into config
adam: config['t'], config['m'], config['v'] = (t, m, v) | config['t'] = t | 0 | state not carried | `m` and `v` are not put back into config
adam: config['t'], config['m'], config['v'] = (t, m, v) | pass | 0 | state not carried | the state is not put back into config
adam: config['t'], config['m'], config['v'] = (t, m, v) | config['t'], config['m'], config['v'] = t, m_hat, v_hat | 0 | wrong variable | your code puts the corrected means back into config; put back m and v
adam: config['t'], config['m'], config['v'] = (t, m, v) | config['t'], config['m'], config['v'] = t, v, m | 1 | results swapped | your code swaps m and v when it puts them back
sgd_momentum: config['velocity'] = v | pass | 0 | state not carried | `velocity` is not put back into config
rmsprop: config['cache'] = cache | pass | 0 | state not carried | `cache` is not put back into config
sgd_momentum: next_w = w + v | next_w = w - v | 0 | sign | your code subtracts the velocity; it points against the gradient already, so add it
sgd_momentum: next_w = w + v | next_w = w + config['momentum'] * v - config['learning_rate'] * dw | 0 | Nesterov | yours is Nesterov's momentum; here the weights move by the velocity only
sgd_momentum: v = config['momentum'] * v - _a | v = config['momentum'] * v - (1 - config['momentum']) * _a | 0 | factor wrong | your gradient is weighted by 1 - momentum; the velocity is a sum, not a mean
sgd_momentum: v = config['momentum'] * v - _a | v = (1 - config['momentum']) * v - config['momentum'] * _a or v = (1 - config['momentum']) * v - _a | 1 | weights of a mean swapped | momentum weighs the old velocity
sgd_momentum: next_w = w + v | next_w = w + config['momentum'] * v or next_w = w + config['learning_rate'] * v or next_w = w + v - config['learning_rate'] * dw or next_w = w - config['learning_rate'] * v or next_w = w - config['learning_rate'] * dw or next_w = v | 3 | wrong step | the weights move by the unchanged velocity
sgd_momentum: config['velocity'] = v | config['velocity'] = -v or config['velocity'] = dw or config['velocity'] = v * config['learning_rate'] or config['velocity'] = config['momentum'] * v | 1 | wrong variable | your code puts something else than the velocity back into config
sgd_momentum: v = _a && config['velocity'] = v | u = v; v = _a && config['velocity'] = u | 1 | state not carried | your code puts back the old velocity, not the new one
rmsprop: cache = _a * cache + (1 - _a) * _b | cache = (1 - _a) * cache + _a * _b | 0 | weights of a mean swapped | the decay rate weighs the old mean, 1 - decay rate the squares
rmsprop: cache = _a * cache + (1 - _a) * _b | cache = cache + _b | 0 | factor missing | your code adds up the squares, as AdaGrad does; here they are a moving mean
rmsprop: cache = _a * cache + (1 - _a) * _b | cache = _b | 0 | state not carried | your cache has only the latest gradient
config.get(_a, np.zeros_like(w)) | config.get(_a, dw) or config.get(_a, w) | 2 | not started at zero | {_a} starts as zeros
rmsprop: cache = _a * cache + _b | cache = _a * np.sqrt(cache) + _b or cache = np.sqrt(_a * cache + _b) | 2 | square root twice | the cache holds squares; take the root only in the step
config.setdefault(_a, _b) | config.setdefault(_a, 1 - _b) or config.setdefault(_a, 10 * _b) or config.setdefault(_a, _b / 10) or config.setdefault(_a, 0.5) or config.setdefault(_a, 0.9) or config.setdefault(_a, 0.99) or config.setdefault(_a, 0.999) | 3 | another default | the default of {_a} is {_b}
config[_a] * dw | config[_a] ** 2 * dw or config[_a] * np.sign(dw) or config[_a] * dw / np.linalg.norm(dw) or config[_a] * dw * w or config[_a] * (dw + w) or dw / config[_a] | 2 | wrong step | the step is `{old}`

# Solver
*.train: config['learning_rate'] *= self.lr_decay | config['learning_rate'] *= self.lr_decay ** len(self.optim_configs) | 0 | state shared | your learning rate falls once for each parameter: they share a config, but each needs its own
*.train: config['learning_rate'] *= self.lr_decay | pass | 0 | learning rate not decayed | your learning rate is not multiplied by lr_decay after each epoch
*.train: config['learning_rate'] *= self.lr_decay | config['learning_rate'] /= self.lr_decay | 1 | learning rate not decayed | your code divides the learning rate by lr_decay instead of multiplying
*.train: config['learning_rate'] *= self.lr_decay | config['learning_rate'] -= self.lr_decay or config['learning_rate'] = self.lr_decay or config['learning_rate'] *= 1 - self.lr_decay or config['learning_rate'] *= self.lr_decay ** self.epoch | 1 | learning rate not decayed | the learning rate is multiplied by lr_decay after each epoch
*.train: (_a + 1) % _b | _a % _b | 1 | learning rate not decayed | your learning rate falls at the first step of an epoch; it falls after the last
*.train: (_a + 1) % _b == 0 | _a > 0 and _a % _b == 0 | 1 | learning rate not decayed | your learning rate falls one step too late
*._step: grads[name] | -grads[name] or grads[name] / self.batch_size or grads[name] * self.batch_size | 1 | wrong step | pass the unchanged gradient to the update rule
*._step: self.model.params[name], self.optim_configs[name] = _a | self.model.params[name], _ = _a | 1 | state not carried | the config that the rule returns is dropped; keep it
"""

# Pattern of a missing term to the kind of mistake
TERMS = [
    (r"\bdnext_c\b|\bdcell\b", "dc not carried"),
    (r"\bdstate\b", "dh not carried"),
    (r"\bdnext_h\b|\bdh\b", "dh not added"),
    (r"^b$|\['b(_\w+)?'\]$", "bias missing"),
    (r"\bcounts\b|\bmask\b", "mask ignored"),
    (r"\bprev_c\b|\bcell\b|^c$", "state not carried"),
    (r"\bprev_h\b|\bstate\b|^h$", "state not carried"),
    (r"^h0$", "state not reset"),
]
# Names that rows use and the reference functions do not define
SCOPE = {"logit": lambda s: np.log(s / (1 - s)), "sigmoid": lambda a: 1 / (1 + np.exp(-a))}
CONTEXTS = ("value", "result", "argument", "test")
Bound = dict[str, Any]  # letter of a pattern to the expression that it matches


class Rule(NamedTuple):
    """A row: places that change together, each a pattern and its replacement."""

    functions: tuple[str, ...]
    context: str
    places: list[tuple[ast.AST, ast.AST]]
    rank: int
    kind: str
    detail: str

    def concerns(self, function: str) -> bool:
        return any(fnmatch.fnmatchcase(function, name) for name in self.functions)


def rules(table: str) -> Iterator[Rule]:
    """The rules of a table, a rule for each alternative of a row."""
    for line in table.splitlines():
        if not line or line.startswith("#"):
            continue
        patterns, alternatives, rank, kind, *detail = line.split(" | ")
        scope = re.match(r"([\w*., ]+): ", patterns)
        words = re.split(r"[ ,]+", scope[1]) if scope else []
        patterns = patterns[scope.end() :] if scope else patterns
        context = next((word for word in words if word in CONTEXTS), "")
        functions = tuple(word for word in words if word not in CONTEXTS) or ("*",)
        for pattern in patterns.split(" or "):
            for instead in alternatives.split(" or "):
                places = [
                    _trees(old, new)
                    for old, new in zip(pattern.split(" && "), instead.split(" && "), strict=True)
                ]
                sentence = detail[0] if detail else "`{new}` is used instead of `{old}`"
                yield Rule(functions, context, places, int(rank), kind, sentence)


def _trees(pattern: str, instead: str) -> tuple[ast.AST, ast.AST]:
    """Syntax trees of a pattern and its replacement: two expressions, or two statements."""
    (old,) = ast.parse(pattern).body
    new = ast.parse(instead).body
    if isinstance(old, ast.Expr) and len(new) == 1 and isinstance(new[0], ast.Expr):
        return old.value, new[0].value
    return old, new[0] if len(new) == 1 else ast.If(ast.Constant(True), new, [])


def text_of(node: ast.AST) -> str:
    return ast.unparse(node)


def match(pattern: Any, node: Any, bound: Bound) -> bool:
    """True if a node matches a pattern; `bound` receives the expressions that its letters match."""
    if isinstance(pattern, ast.Name) and re.fullmatch(r"_[a-zVW]", pattern.id):
        if pattern.id == "_W" and not (isinstance(node, ast.Name) and node.id[0] in "wW"):
            return False
        if pattern.id == "_V" and isinstance(node, ast.Constant):
            return False
        matched = bound.setdefault(pattern.id, node)
        return matched is node or text_of(matched) == text_of(node)
    if isinstance(pattern, ast.AST):
        return type(pattern) is type(node) and all(
            match(getattr(pattern, field), getattr(node, field), bound)
            for field in pattern._fields
            if field != "ctx"
        )
    if isinstance(pattern, list):
        return len(pattern) == len(node) and all(
            match(item, other, bound) for item, other in zip(pattern, node, strict=True)
        )
    return bool(pattern == node)


def filled(instead: ast.AST, bound: Bound, node: ast.AST) -> Any:
    """The replacement of a node, with the expressions that the pattern's letters match."""

    def fill(part: Any) -> Any:
        if isinstance(part, list):
            return [fill(item) for item in part]
        if isinstance(part, ast.Name) and part.id in bound:
            return _in_context(bound[part.id], part.ctx)
        if isinstance(part, ast.AST):
            return type(part)(**{name: fill(getattr(part, name, None)) for name in part._fields})
        return part

    new = ast.fix_missing_locations(fill(instead))
    return _in_context(new, node.ctx) if hasattr(node, "ctx") and hasattr(new, "ctx") else new


def _in_context(node: Any, context: ast.expr_context) -> Any:
    """The node as one that is loaded or stored."""
    if type(node.ctx) is type(context) if hasattr(node, "ctx") else True:
        return node
    node = copy.copy(node)
    node.ctx = context
    return node


def kind_of_term(text: str, otherwise: str) -> str:
    """Kind of mistake if a term is missing."""
    return next((kind for pattern, kind in TERMS if re.search(pattern, text)), otherwise)


def wrong_shape(
    name: str,
    got: Sequence[int],
    right: Sequence[int],
    others: Mapping[str, Sequence[int]] | None = None,
) -> tuple[str, str]:
    """Kind and advice for a result of wrong shape; `others` are the shapes of the other results."""
    got = tuple(got)
    right = tuple(right)
    advice = f"{name} has shape {got}, not {right}"
    squeezed = tuple(size for size in got if size != 1)
    alike = [
        other
        for other, shape in (others or {}).items()
        if tuple(shape) == got and len(got) == len(right)
    ]
    cases = [
        (got == right[::-1], "transposed", "it is the transpose"),
        (sorted(got) == sorted(right), "transposed", "its axes are in another order"),
        (
            len(got) > len(right) and squeezed == tuple(size for size in right if size != 1),
            "axis of one",
            "sum without keepdims, or drop the axis of one",
        ),
        (
            len(got) > len(right) and got[len(got) - len(right) :] == right,
            "sum over the batch missing",
            "add up over all samples",
        ),
        (
            len(got) == len(right) > 1 and got[1:] == right[1:] and name in ("dW", "dW_embed"),
            "table too small",
            "it needs a row for each word of the table, even if the batch lacks the word",
        ),
        (not got, "summed too far", "it is one number, a sum over all axes"),
        (
            len(got) < len(right) and np.prod(got, dtype=int) == np.prod(right, dtype=int),
            "not reshaped back",
            "reshape it to the shape of the input",
        ),
        (
            len(got) < len(right) and set(got) <= set(right),
            "summed too far",
            "a sum or an index removes an axis",
        ),
    ]
    if alike:
        cases.insert(0, (True, "results swapped", f"that is the shape of {alike[0]}"))
    kind, hint = next(((kind, hint) for holds, kind, hint in cases if holds), ("wrong shape", ""))
    return kind, f"{advice}: {hint}." if hint else f"{advice}."


@functools.cache
def all_rules() -> list[Rule]:
    """The rules of `TABLE`, parsed on first use."""
    return list(rules(TABLE))
