"""Mistakes that no single change of an expression makes, and the lines of the derivation.

A mistake is a line of a function of reference/, what a student's code has in its place, the kind,
and the sentence that the advice begins with.
"""

from xpcap.exercise.grading.mutants import Special

# Lines of the derivation in docs/explain/backward.md, by the variable that a statement computes
LABELS = {
    "lstm_step_forward": {"a": "F1", "i": "F2", "f": "F2", "o": "F2", "g": "F3", "next_c": "F4"}
    | {"next_h": "F6", "a_i, a_f, a_o, a_g": "gate order"},
    "lstm_step_backward": {"do": "F6", "dc": "F6, F5", "tanh_c": "F5", "dprev_c": "F4"}
    | {f"da_{gate}": "F2" for gate in "ifo"}
    | {"da_g": "F3", "da": "gate order"}
    | {f"d{gate}": "F4" for gate in "ifg"}
    | dict.fromkeys(("dx", "dprev_h", "dWx", "dWh", "db"), "F1"),
}
_ADD_AT = "np.add.at(dW, x, dout)"
_LOSS = "loss = -(log_p[rows, words] * counts).sum() / N"
_DSCORES = "dscores = dscores * counts[:, None] / N"
_LOSES = "of the gradients of a word that repeats only the last one is kept: add each, by np.add.at"
SPECIAL: dict[str, list[Special]] = {
    "word_embedding_backward": [
        (_ADD_AT, "dW[x] += dout", "scatter without adding", _LOSES),
        (_ADD_AT, "dW[x] = dout", "scatter without adding", _LOSES),
    ],
    "lstm_forward": [
        (
            "state, cell = (h0, np.zeros_like(h0))",
            f"state, cell = {start}",
            "state not reset",
            detail,
        )
        for start, detail in (
            ("h0, h0", "the cell starts as h0, not as zeros"),
            ("np.zeros_like(h0), np.zeros_like(h0)", "the state starts as zeros, not as h0"),
            ("h0, np.ones_like(h0)", "the cell starts as ones, not as zeros"),
            ("np.zeros_like(h0), h0", "state and cell start in each other's place"),
        )
    ],
    "rnn_forward": [
        (
            "state = h0",
            "state = np.zeros_like(h0)",
            "state not reset",
            "the state starts as zeros, not as h0",
        )
    ],
    "temporal_softmax_loss": [
        (line, line.removesuffix("/ N") + instead, "mean for a sum", detail)
        for line in (_LOSS, _DSCORES)
        for instead, detail in (
            ("/ (N * T)", "the mean is over captions alone, of sums over steps"),
            ("/ counts.sum()", "the mean is over captions, not over the words that count"),
        )
    ],
    "CaptioningRNN.loss": [
        (
            "captions_in = captions[:, :-1]",
            "captions_in = captions;"
            " captions = np.concatenate((captions[:, :1], captions), axis=1)",
            "captions off by one",
            "inputs and targets are the same captions: a step predicts the word that it reads",
        ),
        (
            "mask = captions_out != self._null",
            "mask = captions_in != self._null",
            "mask ignored",
            "the mask is that of the inputs; it belongs to the targets",
        ),
        (
            "mask = captions_out != self._null",
            "mask = captions_out >= 0",
            "mask ignored",
            "the mask is true everywhere",
        ),
    ],
    "CaptioningRNN.sample": [
        (
            "captions[:, t] = words",
            "captions[:, t] = words; words = np.full(N, self._start)",
            "word not fed back",
            "every step reads START, not the word of the step before",
        ),
        (
            "x, _ = word_embedding_forward(words, p['W_embed'])",
            "x, _ = word_embedding_forward(words, p['W_embed']);"
            " h, _ = affine_forward(features, p['W_proj'], p['b_proj'])",
            "state not carried",
            "every step starts from the picture, not from the state before",
        ),
        (
            "c = np.zeros_like(h)",
            "c = h",
            "state not reset",
            "the cell starts as the state, not as zeros",
        ),
        (
            "words = np.full(N, self._start)",
            "words = np.full(N, self._null)",
            "wrong start",
            "the first step reads NULL, not START",
        ),
        (
            "words = np.full(N, self._start)",
            "words = np.full(N, self._end)",
            "wrong start",
            "the first step reads END, not START",
        ),
        (
            "captions[:, t] = words",
            "captions[:, (t + 1) % max_length] = words; captions[:, 0] = self._start",
            "captions off by one",
            "the first column is START, not the first word",
        ),
    ],
    "adam": [
        (
            "t = config.get('t', 0) + 1",
            "t = 1",
            "step not counted",
            "`t` stays 1: count it up at each call",
        ),
        (
            "m_hat = m / (1 - beta1 ** t)",
            "m_hat = m",
            "bias correction missing",
            "`m` is not divided by 1 - beta1^t",
        ),
        (
            "v_hat = v / (1 - beta2 ** t)",
            "v_hat = v",
            "bias correction missing",
            "`v` is not divided by 1 - beta2^t",
        ),
    ],
    "CaptioningSolver.train": [
        (
            "config['learning_rate'] *= self.lr_decay",
            "config['learning_rate'] *= self.lr_decay ** len(self.optim_configs)",
            "state shared",
            "the learning rate falls once for each parameter: they share one config, and each needs"
            " its own",
        ),
        (
            "config['learning_rate'] *= self.lr_decay",
            "pass",
            "learning rate not decayed",
            "the learning rate is not multiplied by lr_decay after each epoch",
        ),
    ],
}
for _layer in ("rnn", "lstm"):
    SPECIAL[f"{_layer}_backward"] = [
        (
            "dstate = np.zeros((N, H), dh.dtype)",
            "dstate = dh[:, -1]",
            "dh added twice",
            "what is carried starts as dh of the last step, which the loop adds as well; it starts"
            " as zeros",
        ),
        (
            "return (dx, dstate, dWx, dWh, db)",
            "return (dx, dh[:, 0], dWx, dWh, db)",
            "dh not carried",
            "dh0 is the gradient of the first step's loss, not what the loop carries to h0",
        ),
        (
            "dstate = dh[:, t] + dstate",
            "dstate = dh[:, t] if t == T - 1 else dstate",
            "dh not added",
            "`dh[:, t]` reaches the last step alone",
        ),
    ]
SPECIAL["lstm_backward"] += [
    ("dcell = np.zeros((N, H), dh.dtype)", f"dcell = {start}", "state not reset", detail)
    for start, detail in (
        ("np.ones((N, H))", "the gradient of the last cell is ones; it is zeros"),
        ("dh[:, -1]", "the gradient of the last cell is that of the last state; it is zeros"),
    )
]
SPECIAL["lstm_backward"].append(
    (
        "dstate = dh[:, t] + dstate",
        "dcell = dstate; dstate = dh[:, t] + dstate",
        "dc not carried",
        "the cell is given the gradient of the state of the next step, not that of its cell",
    )
)
for _rule, _state in (("sgd_momentum", "velocity"), ("rmsprop", "cache")):
    _variable = "v" if _rule == "sgd_momentum" else "cache"
    SPECIAL[_rule] = [
        (
            f"config['{_state}'] = {_variable}",
            "pass",
            "state not carried",
            f"`{_state}` is not put back into config",
        )
    ]
_ROOT = "next_w = w - config['learning_rate'] * {0} / (np.sqrt({1}) + config['epsilon'])"
for _rule, _names in (("rmsprop", ("dw", "cache")), ("adam", ("m_hat", "v_hat"))):
    _line = _ROOT.format(*_names)
    _moved = _line.replace(f"(np.sqrt({_names[1]}) + config['epsilon'])", "")
    SPECIAL[_rule].append(
        (
            _line,
            f"{_moved}np.sqrt({_names[1]} + config['epsilon'])",
            "epsilon inside the root",
            "epsilon is added to the root, not inside it",
        )
    )
SPECIAL["adam"] += [
    (
        "config['t'], config['m'], config['v'] = (t, m, v)",
        instead,
        "state not carried",
        f"{name} is not put back into config",
    )
    for instead, name in (
        ("config['m'], config['v'] = (m, v)", "t"),
        ("config['t'], config['v'] = (t, v)", "m"),
        ("config['t'], config['m'] = (t, m)", "v"),
        ("pass", "the state"),
    )
]
