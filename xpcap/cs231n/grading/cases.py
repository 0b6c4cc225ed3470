"""Inputs of probes, drawn by a seed."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from xpcap.cs231n import table
from xpcap.cs231n.grading import probes
from xpcap.cs231n.reference import rnn

Cases = dict[str, dict[str, np.ndarray]]
Sizes = dict[str, int]
UPSTREAM_SCALE = 10.0  # of upstream gradients, so that clipping shows
LARGE = 1000.0  # pre-activations and scores at which exp overflows
LARGE_FACTOR = 2.0**14  # of gradients
OLD_CELL_FACTOR = 2.0**6  # of cells after many steps
LONG = 40  # time steps
# Sizes at which products with transposed arrays have matching shapes
SQUARE = {
    "rnn": {"N": 4, "T": 3, "D": 4, "H": 4, "M": 4, "V": 8},
    "lstm": {"N": 8, "T": 3, "D": 8, "H": 2, "M": 8, "V": 8},
}
SIZES = range(3, 15)  # of axes
LENGTH = 9  # words of a sampled caption
TRIES = 500  # captioners drawn to find one that ends some of its captions, but not all


class Draw:
    """Draws the cases of functions from a seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def sizes(self, name: str, turn: int) -> Sizes:
        """Sizes N, T, D, H, M, V, all different; each turn has its own."""
        sizes = self._rng(name, 0).permutation(SIZES[2:])
        return {"T": SIZES[turn], **dict(zip("NDHMV", map(int, sizes[5 * turn :]), strict=False))}

    def _rng(self, name: str, turn: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, zlib.crc32(name.encode()), turn])

    def cases(self, name: str) -> Cases:
        """The cases of a function's probe; a backward pass has the inputs of its forward pass."""
        row = table.FUNCTIONS[name]
        if row.module == "rnn":
            return self._captioner(row)
        if row.module == "optim":
            return {
                turn: {
                    "w": rng.standard_normal((m, n)),
                    "gradients": rng.standard_normal((3, m, n)),
                }
                for k, turn in enumerate(("first", "other"))
                for rng in [self._rng(name, k)]
                for m, n in [[self.sizes(name, k)[letter] for letter in "ND"]]
            }
        if row.module == "captioning_solver":
            rng = self._rng(name, 0)
            return {"first": {"a": rng.standard_normal((2, 3)), "b": rng.standard_normal(4)}}
        return self._layer(row)

    def _layer(self, row: table.Function) -> Cases:
        layer = row.forward or row.name
        sizes = self.sizes(layer, 0)
        variants = {"first": (sizes, 1), "second": (sizes, 2), "other": (self.sizes(layer, 1), 3)}
        variants["square"] = SQUARE["lstm" if row.cell == "lstm" else "rnn"], 4
        variants["single"] = {**sizes, "N": 1}, 5
        if row.step:
            variants["long"] = {**sizes, "N": 2, "T": LONG}, 6
        cases = {}
        for case, (size, turn) in variants.items():
            rng = self._rng(layer, turn)
            cases[case] = drawn(table.FUNCTIONS[layer].arguments, size, rng)
            if case == "long":
                cases[case] |= _contracting(cases[case])
            if row.forward:
                outputs = table.FUNCTIONS[layer].results
                upstream = drawn(outputs, size, rng)
                cases[case] |= {
                    f"{probes.UPSTREAM}d{key}": UPSTREAM_SCALE * value
                    for key, value in upstream.items()
                }
        if not row.forward:
            cases |= _special(row, cases["first"])
        return cases | _scaled(cases["first"])

    def _captioner(self, row: table.Function) -> Cases:
        """Cases of a captioner that ends some of its sampled captions early, but not all."""
        sizes = {turn: self.sizes(row.method, turn) for turn in (0, 1)}
        long = {**sizes[0], "N": 2, "T": LONG}
        cases: Cases = {}
        for case, size, turn, fits in (
            ("first", sizes[0], 0, _has_ended_and_open),
            ("other", sizes[1], 1, _has_ended_and_open),
            ("long", long, 2, _is_clear),
        ):
            for k in range(TRIES):
                drawn = _captioner(row, size, self._rng(row.name, 100 * turn + k))
                cases[case] = drawn | (_endless(row, drawn) if case == "long" else {})
                if row.method.endswith("loss") or fits(cases[case]):
                    break
        first = cases["first"]
        second = _captioner(row, sizes[0], self._rng(row.name, 99))
        cases["second"] = first | {key: second[key] for key in ("features", "captions")}
        cases["single"] = first | {key: first[key][:1] for key in ("features", "captions")}
        # Factors of an input and its weights cancel out, so only the gradients of the weights grow
        cases["far"] = first | {key: LARGE_FACTOR * first[key] for key in ("features", "W_embed")}
        cases["far"] |= {key: first[key] / LARGE_FACTOR for key in ("W_proj", "Wx")}
        return cases


def drawn(
    entries: Mapping[str, Any], sizes: Sizes, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Random arrays with the shapes of a table's entries; ids omit two words and repeat others."""
    arrays: dict[str, np.ndarray] = {}
    for name, entry in entries.items():
        shape = tuple(axis.size(sizes) for axis in entry.forms[0].axes)
        if entry.kind == "i":
            arrays[name] = rng.integers(0, sizes["V"] - 2, shape)
        elif entry.kind == "b":
            lengths = rng.integers(1, shape[1], (shape[0], 1))
            lengths[0] = shape[1]  # one caption has no padding
            arrays[name] = np.arange(shape[1]) < lengths
        else:
            arrays[name] = 0.7 * rng.standard_normal(shape)
    return arrays


def _contracting(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights of a long sequence with contracting states; else rounding would grow with the steps.

    Cells of an LSTM grow to about 25 over three quarters of the steps, then shrink.
    """
    Wh = case["Wh"]
    Wx = np.array(case["Wx"])
    x = np.array(case["x"])
    if Wh.shape[1] > len(Wh):
        x[:, :, 0] = np.where(np.arange(LONG) < 0.75 * LONG, 1, -0.2)
        Wx[0] = np.repeat((4, 5, 0, 4), len(Wh))  # of gates i, f, o, g
    return {"Wh": 0.5 / np.linalg.norm(Wh, 2) * Wh, "Wx": Wx, "x": x}


def _scaled(first: Mapping[str, np.ndarray]) -> Cases:
    """The case "far" of large upstream gradients or a large previous cell, if there is either."""
    factors = {name: LARGE_FACTOR for name in first if name.startswith(probes.UPSTREAM)}
    factors |= {name: OLD_CELL_FACTOR for name in first if name == "prev_c"}
    scaled = {name: factor * first[name] for name, factor in factors.items()}
    return {"far": {**first, **scaled}} if scaled else {}


def _special(row: table.Function, first: Mapping[str, np.ndarray]) -> Cases:
    """Cases of large numbers, and of a step whose previous cell is zero."""
    if "b" in first and row.cell:
        signs = np.where(np.arange(len(first["b"])) % 3 == 1, -LARGE, LARGE)
        large = {**first, "b": signs}
    elif row.name in ("sigmoid", "temporal_softmax_loss"):
        large = {**first, "x": first["x"] + LARGE if "y" in first else first["x"] * LARGE}
    else:
        return {}
    cases = {"large": large}
    if "prev_c" in first:
        cases["empty"] = {**first, "prev_c": np.zeros_like(first["prev_c"])}
    return cases


def _captioner(row: table.Function, sizes: Sizes, rng: np.random.Generator) -> dict[str, Any]:
    N, T, D, H, W, V = (sizes[letter] for letter in "NTDHMV")
    start, end = rng.permutation(np.arange(1, V))[:2]
    words = {0: "<NULL>", int(start): "<START>", int(end): "<END>"}
    vocabulary = np.array([words.get(index, f"word {index}") for index in range(V)])
    case: dict[str, Any] = {
        "sizes": np.array([D, W, H, row.cell == "lstm"], int),
        "vocabulary": vocabulary,
        "length": np.array([LENGTH]),
        "features": rng.standard_normal((N, D)),
        "captions": _captions(N, T, V, (int(start), int(end)), rng),
    }
    model = probes.captioner(rnn.CaptioningRNN, case, parameters=False)
    # A loss gets small parameters: if all states are near 1, their slopes are mostly rounding
    scale = 0.5 if row.method.endswith("loss") else 1.0
    for name, value in model.params.items():
        case[name] = scale * rng.standard_normal(value.shape)
    case["b_vocab"][end] += rng.uniform(-2, 2)
    return case


def _captions(
    N: int, T: int, V: int, marks: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Captions (N, T + 1): START, words, END and NULLs; the first is too long to have an END."""
    plain = [index for index in range(1, V) if index not in marks]
    captions = rng.choice(plain, (N, T + 1))
    captions[:, 0] = marks[0]
    for caption in captions[1:]:
        length = int(rng.integers(2, T + 1))
        caption[length] = marks[1]
        caption[length + 1 :] = 0
    return captions


def _endless(row: table.Function, case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Parameters of a long case: states contract, and samples have no END or NULL."""
    Wh = 0.5 / np.linalg.norm(case["Wh"], 2) * case["Wh"]
    if row.method.endswith("loss"):  # the course's loss is NaN for a target of probability 0
        return {"Wh": Wh}
    b_vocab = case["b_vocab"] - LARGE * np.isin(case["vocabulary"], ("<NULL>", "<END>"))
    return {"length": np.array([LONG]), "b_vocab": b_vocab, "Wh": Wh}


def _is_clear(case: Mapping[str, np.ndarray]) -> bool:
    """True if parameters in half precision give the same captions, so that rounding changes no word."""
    model = probes.captioner(rnn.CaptioningRNN, case)
    captions = model.sample(case["features"], max_length=LONG)
    model.params = {key: value.astype("f2").astype(float) for key, value in model.params.items()}
    return np.array_equal(captions, model.sample(case["features"], max_length=LONG))


def _has_ended_and_open(case: Mapping[str, Any]) -> bool:
    """True if some of the reference's captions end early, most do not end, and words vary."""
    model = probes.captioner(rnn.CaptioningRNN, case)
    captions = model.sample(case["features"], max_length=LENGTH)
    ended = (captions == model._end).cumsum(axis=1) > 0
    varied = np.mean([len(set(caption)) for caption in captions]) > LENGTH / 3
    return bool(ended[:, LENGTH - 4].any() and ended[:, -1].mean() < 0.5 and varied)
