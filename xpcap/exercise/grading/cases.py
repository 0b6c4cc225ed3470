"""Inputs of probes: drawn afresh for each submission, in sizes that stand in none of its files."""

import ast
import warnings
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from xpcap.exercise import table
from xpcap.exercise.grading import probes
from xpcap.exercise.reference import rnn

Cases = dict[str, dict[str, np.ndarray]]
Sizes = dict[str, int]
STEEP = 10.0  # of upstream gradients: clipped ones show
LARGE = 1000.0  # pre-activations and scores at which exp overflows
# With which products of transposed arrays have fitting shapes
SQUARE = {
    "rnn": {"N": 4, "T": 3, "D": 4, "H": 4, "M": 4, "V": 8},
    "lstm": {"N": 8, "T": 3, "D": 8, "H": 2, "M": 8, "V": 8},
}
SIZES, CHOICE = range(3, 41), 12  # of axes; so many of them are drawn from
LENGTH = 9  # words of a sampled caption
TRIES = 500  # captioners drawn until one has captions that end and captions that do not


class Draw:
    """Cases of the functions of a submission.

    seed : in hexadecimal, of the submission's files and of the teacher's seed
    sources : its Python files, whose numbers are no sizes here
    """

    def __init__(self, seed: str, sources: Iterable[bytes]) -> None:
        self._seed = int(seed, 16)
        written = {number for source in sources for number in _numbers(source)}
        free = [size for size in SIZES if size not in written]
        self._free = free if len(free) >= CHOICE else list(SIZES)

    def sizes(self, name: str, turn: int) -> Sizes:
        """Sizes N, T, D, H, M, V, all different; of another turn others."""
        steps, *others = self._free[turn], *self._rng(name, 0).permutation(self._free[2:CHOICE])
        return {"T": steps, **dict(zip("NDHMV", map(int, others[5 * turn :]), strict=False))}

    def _rng(self, name: str, turn: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, zlib.crc32(name.encode()), turn])

    def cases(self, name: str) -> Cases:
        """The cases of the probe of a function, with those of its forward pass drawn alike."""
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
        ways = {"first": (sizes, 1), "second": (sizes, 2), "other": (self.sizes(layer, 1), 3)}
        ways["square"] = SQUARE["lstm" if row.cell == "lstm" else "rnn"], 4
        cases = {}
        for case, (size, turn) in ways.items():
            rng = self._rng(layer, turn)
            cases[case] = drawn(table.FUNCTIONS[layer].arguments, size, rng)
            if row.forward:
                outputs = table.FUNCTIONS[layer].results
                upstream = drawn(outputs, size, rng)
                cases[case] |= {
                    f"{probes.UPSTREAM}d{key}": STEEP * value for key, value in upstream.items()
                }
        if not row.forward:
            cases |= _special(row, cases["first"])
        return cases

    def _captioner(self, row: table.Function) -> Cases:
        """Cases of a captioner, some of whose sampled captions end early and some do not."""
        cases: Cases = {}
        for case, turn in (("first", 0), ("other", 1)):
            sizes = self.sizes(row.method, turn)
            for k in range(TRIES):
                cases[case] = _captioner(row, sizes, self._rng(row.name, 100 * turn + k))
                if row.method.endswith("loss") or _some_end(cases[case]):
                    break
        second = _captioner(row, self.sizes(row.method, 0), self._rng(row.name, 99))
        data = {key: second[key] for key in ("features", "captions")}
        return {**cases, "second": {**cases["first"], **data}}


def _numbers(source: bytes) -> set[int]:
    """Whole numbers in a file's code; none in what is no Python."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of the student's escapes
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    constants = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {value for value in constants if type(value) is int}


def drawn(
    entries: Mapping[str, Any], sizes: Sizes, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Random arrays of the shapes of a table's entries; ids leave two words out and repeat others."""
    arrays: dict[str, np.ndarray] = {}
    for name, entry in entries.items():
        shape = tuple(axis.size(sizes) for axis in entry.forms[0].axes)
        if entry.kind == "i":
            arrays[name] = rng.integers(0, sizes["V"] - 2, shape)
        elif entry.kind == "b":
            lengths = rng.integers(1, shape[1], (shape[0], 1))
            lengths[0] = shape[1]  # one that lasts to the end
            arrays[name] = np.arange(shape[1]) < lengths
        else:
            arrays[name] = 0.7 * rng.standard_normal(shape)
    return arrays


def _special(row: table.Function, first: Mapping[str, np.ndarray]) -> Cases:
    """Cases of large numbers, and of a step without an old cell."""
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
    made = probes.captioner(rnn.CaptioningRNN, case, parameters=False)
    for name, value in made.params.items():
        case[name] = rng.standard_normal(value.shape)
    case["b_vocab"][end] += rng.uniform(-2, 2)
    return case


def _captions(
    N: int, T: int, V: int, marks: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Captions (N, T + 1): START, words, END and NULLs; the first is too long to end."""
    plain = [index for index in range(1, V) if index not in marks]
    captions = rng.choice(plain, (N, T + 1))
    captions[:, 0] = marks[0]
    for caption in captions[1:]:
        length = int(rng.integers(2, T + 1))
        caption[length] = marks[1]
        caption[length + 1 :] = 0
    return captions


def _some_end(case: Mapping[str, Any]) -> bool:
    """True if some of the reference's captions end well before the last word, and most do not."""
    model = probes.captioner(rnn.CaptioningRNN, case)
    captions = model.sample(case["features"], max_length=LENGTH)
    ended = (captions == model._end).cumsum(axis=1) > 0
    varied = np.mean([len(set(caption)) for caption in captions]) > LENGTH / 3
    return bool(ended[:, LENGTH - 4].any() and ended[:, -1].mean() < 0.5 and varied)
