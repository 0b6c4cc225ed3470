"""The derivation of a line that a report names: rules and equations, without code.

The rows are those of docs/explain/lstm.md, which has the reasons; a test compares them. Reports
contain the text, since a student has no docs/.
"""

import re
from typing import NamedTuple

RULES = {
    "1": "product, y = x w: dx = dy wᵀ, dw = xᵀ dy",
    "2": "bias, y = x + b: db = Σ_n dy_n",
    "3": "function of each element, y = φ(x): dx = dy ⊙ φ'(x)",
    "4": "a value that is used twice receives the sum of both gradients",
    "5": "choice of rows, y_r = E_{k(r)}: dE_k = Σ_{r: k(r) = k} dy_r",
    "⊙": "product of elements: each factor receives the gradient times the other factor",
    "tanh": "tanh' = 1 - tanh²",
    "σ": "σ'(x) = σ(x) (1 - σ(x))",
}
SYMBOLS = {  # text of an equation to its meaning
    "δ ⊙": "δ = dc_t + dh_t ⊙ o ⊙ (1 - tanh² c_t), all of the gradient of c_t",
    "^{own}": "dh^{own}_t is the gradient from the loss of step t, dh[:, t]",
    "w(n,t)": "w(n,t) is the word, E the table of vectors",
    "[v = y]": "p is the softmax of the scores s, y the target",
}
# functions | variables | line of the LSTM step | forward | rules | gradient
ROWS = """
lstm_step_forward | a | F1 | a = x Wx + h_{t-1} Wh + b | |
lstm_step_forward | a_i a_f a_o a_g | | four blocks of H columns stand in the order i, f, o, g | |
lstm_step_forward | i f o | F2 | i = σ(a_i), f = σ(a_f), o = σ(a_o) | |
lstm_step_forward | g | F3 | g = tanh(a_g) | |
lstm_step_forward | next_c | F4 | c_t = f ⊙ c_{t-1} + i ⊙ g | |
lstm_step_forward | next_h | F6 | h_t = o ⊙ tanh c_t | |
lstm_step_backward | do | F6 | h_t = o ⊙ tanh c_t | ⊙ | do = dh_t ⊙ tanh c_t
lstm_step_backward | tanh_c dc | F6, F5 | h_t = o ⊙ tanh c_t | ⊙ tanh 4 | δ = dc_t + dh_t ⊙ o ⊙ (1 - tanh² c_t)
lstm_step_backward | di | F4 | c_t = f ⊙ c_{t-1} + i ⊙ g | ⊙ | di = δ ⊙ g
lstm_step_backward | df | F4 | c_t = f ⊙ c_{t-1} + i ⊙ g | ⊙ | df = δ ⊙ c_{t-1}
lstm_step_backward | dg | F4 | c_t = f ⊙ c_{t-1} + i ⊙ g | ⊙ | dg = δ ⊙ i
lstm_step_backward | dprev_c | F4 | c_t = f ⊙ c_{t-1} + i ⊙ g | ⊙ | dc_{t-1} = δ ⊙ f
lstm_step_backward | da_g | F3 | g = tanh(a_g) | 3 tanh | da_g = dg ⊙ (1 - g²)
lstm_step_backward | da_i da_f da_o | F2 | i = σ(a_i), f = σ(a_f), o = σ(a_o) | 3 σ | da_i = di ⊙ i ⊙ (1 - i), and the same for f and o
lstm_step_backward | da | | four blocks of H columns stand in the order i, f, o, g | | the four blocks of da side by side
rnn_step_forward | next_h | | a = x Wx + h_{t-1} Wh + b; h_t = tanh(a) | |
rnn_step_backward | da | | h_t = tanh(a) | 3 tanh | da = dh_t ⊙ (1 - h_t²)
rnn_step_backward lstm_step_backward | dx | F1 | a = x Wx + h_{t-1} Wh + b | 1 | dx = da Wxᵀ
rnn_step_backward lstm_step_backward | dprev_h | F1 | a = x Wx + h_{t-1} Wh + b | 1 | dh_{t-1} = da Whᵀ
rnn_step_backward lstm_step_backward | dWx | F1 | a = x Wx + h_{t-1} Wh + b | 1 | dWx = xᵀ da
rnn_step_backward lstm_step_backward | dWh | F1 | a = x Wx + h_{t-1} Wh + b | 1 | dWh = h_{t-1}ᵀ da
rnn_step_backward lstm_step_backward | db | F1 | a = x Wx + h_{t-1} Wh + b | 2 | db = Σ_n da_n
lstm_forward | cell | | c_0 is zero | |
rnn_backward lstm_backward | dstate | | h_t is used twice | 4 | dh_t = dh^{own}_t + da_{t+1} Whᵀ; da_{T+1} = 0
lstm_backward | dcell | | c_t is passed to the next step alone | | dc_t = δ_{t+1} ⊙ f_{t+1}; dc_T = 0
rnn_backward lstm_backward | dh0 | | | 1 | dh_0 = da_1 Whᵀ
rnn_backward lstm_backward | dx | | | 1 | dx_t = da_t Wxᵀ
rnn_backward lstm_backward CaptioningRNN.loss | dWx Wx | | Every step uses the same weights | 1 4 | dWx = Σ_t x_tᵀ da_t
rnn_backward lstm_backward CaptioningRNN.loss | dWh Wh | | Every step uses the same weights | 1 4 | dWh = Σ_t h_{t-1}ᵀ da_t
rnn_backward lstm_backward CaptioningRNN.loss | db b | | Every step uses the same weights | 2 4 | db = Σ_{n,t} da_{nt}
word_embedding_forward | out | | x_{nt} = E_{w(n,t)} | |
word_embedding_backward CaptioningRNN.loss | dW W_embed dW_embed | | x_{nt} = E_{w(n,t)} | 5 | dE_v = Σ_{n,t: w(n,t) = v} dx_{nt}
affine_backward | dx dw | | y = x w | 1 | dx = dy wᵀ, dw = xᵀ dy
affine_backward | db | | y = x + b | 2 | db = Σ_n dy_n
temporal_affine_forward | out | | s_{nt} = h_{nt} W_{vocab} + b_{vocab} | |
temporal_affine_backward | dx | | s_{nt} = h_{nt} W_{vocab} + b_{vocab} | 1 | dh = ds W_{vocab}ᵀ
temporal_affine_backward CaptioningRNN.loss | dw W_vocab dW_vocab | | s_{nt} = h_{nt} W_{vocab} + b_{vocab} | 1 4 | dW_{vocab} = Σ_{n,t} h_{nt}ᵀ ds_{nt}
temporal_affine_backward CaptioningRNN.loss | db b_vocab db_vocab | | s_{nt} = h_{nt} W_{vocab} + b_{vocab} | 2 4 | db_{vocab} = Σ_{n,t} ds_{nt}
temporal_softmax_loss | shifted log_p | | log p_v = (s_v - m) - log Σ_u e^{s_u - m}, m = max_u s_u | |
temporal_softmax_loss | loss | | loss = 1/N Σ_{n,t} mask_{nt} (-log p_{nt}(y_{nt})) | |
temporal_softmax_loss | dscores dx | | -log p_y = -s_y + log Σ_u e^{s_u} | | p_v - [v = y]; times mask_{nt} / N
CaptioningRNN.loss | captions_in captions_out | | The inputs are all of them but the last, the targets all but the first | |
CaptioningRNN.loss | mask | | a target counts unless it is <NULL> | |
CaptioningRNN.loss | h0 | | h_0 = features · W_{proj} + b_{proj} | |
CaptioningRNN.sample | h | | h_0 = features · W_{proj} + b_{proj} | |
CaptioningRNN.loss | W_proj dW_proj | | h_0 = features · W_{proj} + b_{proj} | 1 | dW_{proj} = featuresᵀ dh_0
CaptioningRNN.loss | b_proj db_proj | | h_0 = features · W_{proj} + b_{proj} | 2 | db_{proj} = Σ_n dh_{0,n}
CaptioningRNN.sample | c | | c_0 is zero; c_t is passed to the next step alone | |
"""


class Row(NamedTuple):
    """A line of the derivation."""

    functions: list[str]
    variables: list[str]
    label: str
    forward: str
    rules: list[str]
    gradient: str


def _row(line: str) -> Row:
    functions, variables, label, forward, rules, gradient = (
        part.strip() for part in f"{line} ".split(" |")
    )
    return Row(functions.split(), variables.split(), label, forward, rules.split(), gradient)


LINES = [_row(line) for line in ROWS.strip().splitlines()]


def derivation(function: str, variable: str) -> str:
    """Lines of text that derive what a statement computes; "" for none.

    function : name in the table, "lstm_step_backward" or "CaptioningRNN.loss (lstm)"
    variable : target of the statement, or its targets: "da_i", "grads['W_proj']", "dx[:, t], dstate"
    """
    method = function.partition(" ")[0]
    names = re.findall(r"\w+", variable)
    texts = [
        _text(row)
        for row in LINES
        if method in row.functions and not set(names).isdisjoint(row.variables)
    ]
    return "\n".join(texts)


def _text(row: Row) -> str:
    lines = [f"{row.label}: {row.forward}" if row.label else row.forward]
    lines += [f"Rule: {RULES[rule]}" for rule in row.rules]
    lines += [row.gradient]
    equations = f"{row.forward} {row.gradient}"
    lines += [f"({meaning})" for symbol, meaning in SYMBOLS.items() if symbol in equations]
    return "\n".join(filter(None, lines))
