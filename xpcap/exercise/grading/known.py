"""Lines of the derivation in docs/explain/backward.md, by the variable that a statement computes."""

LABELS = {
    "lstm_step_forward": {"a": "F1", "i": "F2", "f": "F2", "o": "F2", "g": "F3", "next_c": "F4"}
    | {"next_h": "F6", "a_i, a_f, a_o, a_g": "gate order"},
    "lstm_step_backward": {"do": "F6", "dc": "F6, F5", "tanh_c": "F5", "dprev_c": "F4"}
    | {f"da_{gate}": "F2" for gate in "ifo"}
    | {"da_g": "F3", "da": "gate order"}
    | {f"d{gate}": "F4" for gate in "ifg"}
    | dict.fromkeys(("dx", "dprev_h", "dWx", "dWh", "db"), "F1"),
}
