"""Checks of rnn_layers.py: values, gradients, purity, and which mistake explains wrong results."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xpcap.exercise.grading.calls import Answer, Check, Student
from xpcap.exercise.grading.mutants import Localisation, localise
from xpcap.exercise.grading.submission import Stopped, StudentError
from xpcap.exercise.grading.verdicts import (
    FOLLOWS,
    NOT_WRITTEN,
    TOLERANCE,
    FaultError,
    Result,
    advice_of,
    derivation,
    explained,
    observe,
    relative_max_error,
)
from xpcap.exercise.published import read_array, read_cases
from xpcap.exercise.reference import rnn_layers
from xpcap.gradcheck import eval_numerical_gradient_array

NUMERIC_TOLERANCE = 1e-4  # of gradients by central differences


class Layer(NamedTuple):
    """A pair of functions: shapes of inputs and upstream gradients, names of outputs and gradients.

    Letters are sizes: G is 4 H, Q is T D.
    """

    inputs: Mapping[str, str]
    outputs: tuple[str, ...]
    upstream: Mapping[str, str]
    grads: tuple[str, ...]
    page: str
    step: str = ""  # the layer of one step, of a sequence

    @property
    def gates(self) -> bool:
        return "G" in self.inputs.get("Wx", "")

    @property
    def sequences(self) -> tuple[str, ...]:
        """Outputs and gradients whose second axis is time."""
        return ("h", "dx") if self.step else ()


_RNN = {"Wx": "DH", "Wh": "HH", "b": "H"}
_LSTM = {"Wx": "DG", "Wh": "HG", "b": "G"}
_AFFINE = {"w": "DM", "b": "M"}
LAYERS = {
    "affine": Layer(
        {"x": "NTD", "w": "QM", "b": "M"},
        ("out",),
        {"dout": "NM"},
        ("dx", "dw", "db"),
        "temporal-affine",
    ),
    "rnn_step": Layer(
        {"x": "ND", "prev_h": "NH", **_RNN},
        ("next_h",),
        {"dnext_h": "NH"},
        ("dx", "dprev_h", "dWx", "dWh", "db"),
        "the-vanilla-rnn-step",
    ),
    "rnn": Layer(
        {"x": "NTD", "h0": "NH", **_RNN},
        ("h",),
        {"dh": "NTH"},
        ("dx", "dh0", "dWx", "dWh", "db"),
        "the-sequence",
        "rnn_step",
    ),
    "word_embedding": Layer(
        {"x": "NT", "W": "VD"}, ("out",), {"dout": "NTD"}, ("dW",), "word-embedding"
    ),
    "lstm_step": Layer(
        {"x": "ND", "prev_h": "NH", "prev_c": "NH", **_LSTM},
        ("next_h", "next_c"),
        {"dnext_h": "NH", "dnext_c": "NH"},
        ("dx", "dprev_h", "dprev_c", "dWx", "dWh", "db"),
        "the-lstm-step",
    ),
    "lstm": Layer(
        {"x": "NTD", "h0": "NH", **_LSTM},
        ("h",),
        {"dh": "NTH"},
        ("dx", "dh0", "dWx", "dWh", "db"),
        "the-sequence",
        "lstm_step",
    ),
    "temporal_affine": Layer(
        {"x": "NTD", **_AFFINE}, ("out",), {"dout": "NTM"}, ("dx", "dw", "db"), "temporal-affine"
    ),
}
SIZES = {"N": 3, "T": 4, "D": 5, "H": 6, "G": 24, "M": 7, "V": 8, "Q": 20}
# With which products of transposed arrays have fitting shapes
SQUARE = {
    "rnn": {"N": 4, "T": 3, "D": 4, "H": 4, "G": 16, "M": 4, "V": 8, "Q": 12},
    "lstm": {"N": 8, "T": 3, "D": 8, "H": 2, "G": 8, "M": 8, "V": 8, "Q": 24},
}


class LayerChecks:
    """Checks of a student's layers."""

    def __init__(self, student: Student) -> None:
        self.student = student

    def checks(self, names: Collection[str]) -> Iterator[tuple[str, Check]]:
        """Name and check of each of some functions, in the order of the course."""
        if "sigmoid" in names:
            yield "sigmoid", self._sigmoid
        for layer in LAYERS:
            for way, work in (("forward", self._forward), ("backward", self._backward)):
                if (name := f"{layer}_{way}") in names:
                    yield name, lambda layer=layer, work=work: work(layer)  # type: ignore[misc]
        if "temporal_softmax_loss" in names:
            yield "temporal_softmax_loss", self._softmax

    def _forward(self, layer: str) -> Iterator[Result]:
        name, spec = f"{layer}_forward", LAYERS[layer]
        self.student.require("rnn_layers", name)
        inputs = _drawn(spec.inputs, SIZES)
        wanted = _reference(name)(*inputs)[:-1]
        try:
            answer = self.student.answer(name, spec.outputs, inputs, wanted, keep=True)
        except FaultError as fault:
            self._localise_raised(layer, "forward", fault)
            raise
        error = relative_max_error(answer.values, wanted)
        if error <= TOLERANCE:
            self._published(name, spec)
            self._pure(name, spec.inputs, inputs, answer.returned.arguments)
            self._repeatable(name, inputs, _drawn(spec.inputs, SIZES, seed=1), wanted)
            yield self._passed(name, spec, answer, inputs, error)
            return
        observed = observe(spec.outputs, answer.values, wanted, spec.gates, spec.sequences)
        if layer == "lstm_step":
            observed = f"{observed}{self._gate(inputs, answer.values, wanted)}"
        if spec.step and self._composed(layer, inputs, answer.values) is not None:
            step = f"{spec.step}_forward"
            yield Result(
                name, False, observed, FOLLOWS, f"Fix {step} first: the loop is right.", error
            )
            return
        if self.student.wrong_below(name) == "sigmoid":
            advice = f"Fix sigmoid first: {name} calls it."
            yield Result(name, False, observed, FOLLOWS, advice, error)
            return
        found = self._search(name, spec, lambda mutant: mutant(*inputs)[:-1], answer.values)
        yield from explained(name, spec.page, observed, error, found, answer.values, wanted)

    def _backward(self, layer: str) -> Iterator[Result]:
        name, forward, spec = f"{layer}_backward", f"{layer}_forward", LAYERS[layer]
        self.student.require("rnn_layers", name)
        self._require_forward(name, forward, layer)
        inputs, upstream = _drawn(spec.inputs, SIZES), _upstream(spec, SIZES)
        *outputs, cache = _reference(forward)(*inputs)
        wanted = as_list(_reference(name)(*upstream, cache))
        answered = self.student.answer(forward, spec.outputs, inputs, outputs, keep=True)
        forward_is_right = relative_max_error(answered.values, outputs) <= TOLERANCE
        try:
            answer = self.student.answer(name, spec.grads, [*upstream, answered.handle], wanted)
        except FaultError as fault:
            self._localise_raised(layer, "backward", fault)
            raise
        error = relative_max_error(answer.values, wanted)
        if error <= TOLERANCE:
            self._two_caches(name, layer, inputs, upstream, wanted)
            yield self._passed(name, spec, answer, upstream, error)
            return
        observed = observe(spec.grads, answer.values, wanted, spec.gates, spec.sequences)
        if not forward_is_right:
            numeric = self._numeric(forward, spec, inputs, upstream)
            error = relative_max_error(answer.values, numeric)
            if error <= NUMERIC_TOLERANCE:
                remark = f"Right for {forward} as you wrote it, which is wrong: fix that one."
                yield Result(name, True, "", FOLLOWS, remark, error)
            else:
                advice = f"Fix {forward} first: its cache is what {name} reads."
                yield Result(name, False, observed, FOLLOWS, advice, error)
            return
        if spec.step:
            composed = self._composed(layer, inputs, answered.values, upstream, answer.values)
            if composed is not None:
                advice = f"Fix {composed} first: the loop is right."
                yield Result(name, False, observed, FOLLOWS, advice, error)
                return
        found = self._search(
            name, spec, lambda mutant: as_list(mutant(*upstream, cache)), answer.values
        )
        yield from explained(name, spec.page, observed, error, found, answer.values, wanted)

    def _gate(
        self, inputs: list[np.ndarray], values: Sequence[np.ndarray], wanted: Sequence[np.ndarray]
    ) -> str:
        """The gate of a wrong LSTM step: o if the cell is right, f if it is with an empty old cell."""
        if relative_max_error(values[1:], wanted[1:]) <= TOLERANCE:
            return "; gate o, or the tanh"
        name = "lstm_step_forward"
        empty = [*inputs[:2], np.zeros_like(inputs[2]), *inputs[3:]]
        _, right, _ = rnn_layers.lstm_step_forward(*empty)
        answer = self.student.answer(name, ["next_h", "next_c"], empty, wanted, keep=True)
        return (
            "; gate f"
            if relative_max_error(answer.values[1:], [right]) <= TOLERANCE
            else "; gate i or g"
        )

    def _search(
        self,
        name: str,
        spec: Layer,
        run: Callable[[Callable[..., Any]], Sequence[Any]],
        values: Sequence[np.ndarray],
    ) -> Localisation | None:
        return localise(rnn_layers, name, run, values, gates=spec.gates)

    def _require_forward(self, name: str, forward: str, layer: str) -> None:
        """A fault unless the forward pass can make a cache."""
        verdict = self.student.verdicts.get(forward)
        missing = forward not in self.student.submission.defines["rnn_layers"]
        if missing or (verdict and verdict.kind == NOT_WRITTEN):
            raise FaultError(FOLLOWS, f"Write {forward} first: {name} reads its cache.")
        if verdict and verdict.error is None and not verdict.passed:
            raise FaultError(FOLLOWS, f"Fix {forward} first: {name} reads its cache.")

    def _localise_raised(self, layer: str, way: str, fault: FaultError) -> None:
        """Name a transposed array where shapes do not fit, by sizes for which they do."""
        name, spec = f"{layer}_{way}", LAYERS[layer]
        if fault.where in (*spec.outputs, *spec.grads):
            fault.advice += derivation(name, spec.page, fault.where)
        if fault.kind not in ("raises an error", "wrong shape"):
            return
        sizes = SQUARE["lstm" if spec.gates else "rnn"]
        inputs, upstream = _drawn(spec.inputs, sizes), _upstream(spec, sizes)
        *outputs, cache = _reference(f"{layer}_forward")(*inputs)
        try:
            answer = self.student.answer(
                f"{layer}_forward", spec.outputs, inputs, outputs, keep=True
            )
            if way == "backward":
                wanted = as_list(_reference(name)(*upstream, cache))
                answer = self.student.answer(name, spec.grads, [*upstream, answer.handle], wanted)
        except FaultError:
            return
        if way == "backward":
            found = self._search(
                name, spec, lambda mutant: as_list(mutant(*upstream, cache)), answer.values
            )
        else:
            found = self._search(name, spec, lambda mutant: mutant(*inputs)[:-1], answer.values)
        if found and found.whole:
            change = found.changes[0]
            fault.kind = change.kind
            fault.advice = advice_of(name, spec.page, change)

    def _composed(
        self,
        layer: str,
        inputs: Sequence[np.ndarray],
        h: Sequence[np.ndarray],
        upstream: Sequence[np.ndarray] = (),
        grads: Sequence[np.ndarray] = (),
    ) -> str | None:
        """The step that makes a sequence wrong: a loop over the student's steps is wrong alike."""
        spec = LAYERS[layer]
        step = spec.step
        forward, backward = f"{step}_forward", f"{step}_backward"
        defined = self.student.submission.defines["rnn_layers"]
        if forward not in defined or (upstream and backward not in defined):
            return None
        wrong = next(
            (
                name
                for name in (forward, backward)
                if (verdict := self.student.verdicts.get(name)) and not verdict.passed
            ),
            None,
        )
        if wrong is None:
            return None
        call = self.student.submission.call
        try:
            x, state, *weights = inputs
            cell = [np.zeros_like(state)] * (step == "lstm_step")
            states, caches = [], []
            for t in range(x.shape[1]):
                *carried, cache = call(
                    forward,
                    np.array(x[:, t]),
                    state,
                    *cell,
                    *weights,
                    keep=True,
                    module="rnn_layers",
                ).values
                state, cell = carried[0], carried[1:]
                states.append(state)
                caches.append(cache)
            composed = [np.stack(states, axis=1)]
            if upstream:
                (dh,) = upstream
                dstate, dcell, sums = np.zeros_like(state), np.zeros_like(state), None
                dx: list[np.ndarray] = []
                for t in reversed(range(x.shape[1])):
                    more = [dcell] * len(cell)
                    dx_t, dstate, *rest = call(
                        backward, dh[:, t] + dstate, *more, caches[t], module="rnn_layers"
                    ).values
                    dcell, terms = (rest[0], rest[1:]) if more else (dcell, rest)
                    sums = (
                        terms if sums is None else [a + b for a, b in zip(sums, terms, strict=True)]
                    )
                    dx.insert(0, dx_t)
                composed = [np.stack(dx, axis=1), dstate, *(sums or [])]
        except (StudentError, Stopped, ValueError, TypeError):
            return None
        return wrong if relative_max_error(grads or h, composed) <= TOLERANCE else None

    def _proxy(self, name: str, keep: bool) -> Callable[..., Any]:
        """A function of the student, to be called from a reference one."""

        def call(*arguments: Any) -> Any:
            flat = [_contiguous(argument) for argument in arguments]
            values = self.student.submission.call(
                name, *flat, keep=keep, module="rnn_layers"
            ).values
            return values[0] if len(values) == 1 else values

        return call

    def _numeric(
        self, forward: str, spec: Layer, inputs: list[Any], upstream: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """Gradients of the student's own forward pass by central differences."""
        gradients = []
        call = self._proxy(forward, True)
        for index, (key, x) in enumerate(zip(spec.inputs, inputs, strict=True)):
            if f"d{key}" not in spec.grads and f"d{key.removeprefix('prev_')}" not in spec.grads:
                continue
            total = np.zeros_like(x)
            for k, dout in enumerate(upstream):

                def slopes(
                    index: int = index, k: int = k, x: np.ndarray = x, dout: np.ndarray = dout
                ) -> np.ndarray:
                    def output(moved: np.ndarray) -> np.ndarray:
                        value: np.ndarray = call(*inputs[:index], moved, *inputs[index + 1 :])[k]
                        return value

                    return eval_numerical_gradient_array(output, np.array(x), dout)

                total += self.student.ask(forward, slopes)
            gradients.append(total)
        return gradients

    def _published(self, name: str, spec: Layer) -> None:
        """A fault unless the course's published values come out."""
        for case in read_cases()["layers"]:
            if case["name"] != name:
                continue
            inputs = [np.asarray(read_array(value, "float64")) for value in case["inputs"].values()]
            wanted = [np.asarray(value) for value in case["expected"].values()]
            answer = self.student.answer(
                name, spec.outputs[: len(wanted)], inputs, wanted, keep=True
            )
            if relative_max_error(answer.values, wanted) > TOLERANCE:
                raise FaultError(
                    "wrong values",
                    f"{name} is right on other inputs; are sizes or values written into it?",
                    "the course's published case",
                )

    def _pure(
        self, name: str, names: Mapping[str, Any], before: Sequence[Any], after: Sequence[Any]
    ) -> None:
        for key, old, new in zip(names, before, after, strict=True):
            if not np.array_equal(old, new):
                raise FaultError(
                    "overwrites its arguments",
                    f"{name} changes its argument {key}, which others still use: work on a copy.",
                    key,
                )

    def _repeatable(
        self, name: str, first: Sequence[Any], second: Sequence[Any], wanted: Sequence[np.ndarray]
    ) -> None:
        """A fault if a call changes the results of one before, or depends on it."""
        returned = self.student.ask(
            name,
            lambda: self.student.submission.call(
                "probe.twice", "rnn_layers", name, list(first), list(second)
            ),
        )
        for values, kind, advice in zip(
            returned.values,
            ("results share memory", "state not reset"),
            (
                f"A second call of {name} changes the results of the first: return fresh arrays.",
                f"{name} depends on the calls before it: nothing may stay between calls.",
            ),
            strict=True,
        ):
            if relative_max_error(as_list(values), wanted) > TOLERANCE:
                raise FaultError(kind, advice)

    def _two_caches(
        self,
        name: str,
        layer: str,
        inputs: Sequence[Any],
        upstream: Sequence[Any],
        wanted: Sequence[np.ndarray],
    ) -> None:
        second = _drawn(LAYERS[layer].inputs, SIZES, seed=1)
        returned = self.student.ask(
            name,
            lambda: self.student.submission.call(
                "probe.first_cache",
                layer,
                list(inputs),
                second,
                list(upstream),
                module="rnn_layers",
            ),
        )
        if relative_max_error(_flat(returned.values), wanted) > TOLERANCE:
            raise FaultError(
                "state outside the cache",
                f"After a second forward pass {name} is wrong for the first: what it needs belongs"
                " into the cache, in arrays of its own.",
            )

    def _passed(
        self, name: str, spec: Layer, answer: Answer, arguments: Sequence[Any], error: float
    ) -> Result:
        """A pass, with a remark on dtypes or on upstream gradients that were overwritten."""
        if not name.endswith("_forward"):
            for key, old, new in zip(
                spec.upstream, arguments, answer.returned.arguments, strict=False
            ):
                if not np.array_equal(old, new):
                    remark = f"Right, but {name} changes its argument {key}: work on a copy."
                    return Result(name, True, key, "overwrites its arguments", remark, error)
        if answer.returned.shared:
            remark = f"Right, but {name} returns memory of its arguments: return a copy."
            return Result(name, True, "", "results share memory", remark, error)
        if any(value.dtype != np.float64 for value in answer.values):
            remark = (
                f"Right, but {name} returns {answer.values[0].dtype} for float64: gradient checks"
                " lose digits; make arrays of the dtype of the inputs."
            )
            return Result(name, True, "", "dtype changed", remark, error)
        return Result(name, True, error=error)

    def _sigmoid(self) -> Iterator[Result]:
        x = np.array([[-1000.0, -2.0, -0.5], [0.0, 1.0, 1000.0]])
        wanted = [rnn_layers.sigmoid(x)]
        answer = self.student.answer("sigmoid", ["out"], [x], wanted)
        error = relative_max_error(answer.values, wanted)
        self._pure("sigmoid", {"x": ""}, [x], answer.returned.arguments)
        if error > TOLERANCE:
            raise FaultError(
                "wrong values",
                "sigmoid(x) is 1 / (1 + exp(-x)); for large |x| without overflow."
                " Derivation: docs/explain/backward.md#five-rules, rule 3.",
            )
        yield Result("sigmoid", True, error=error)

    def _softmax(self) -> Iterator[Result]:
        name = "temporal_softmax_loss"
        rng = np.random.default_rng(0)
        N, T, V = 3, 4, 8
        x, y = rng.standard_normal((N, T, V)), rng.integers(0, V, (N, T))
        mask = np.arange(T) < np.array([[4], [2], [3]])
        wanted = [np.asarray(value) for value in rnn_layers.temporal_softmax_loss(x, y, mask)]
        answer = self.student.answer(name, ["loss", "dx"], [x, y, mask], wanted)
        error = relative_max_error(answer.values, wanted)
        if error > TOLERANCE:
            observed = observe(("loss", "dx"), answer.values, wanted)
            found = localise(
                rnn_layers,
                name,
                lambda mutant: mutant(x, y, mask),
                answer.values,
            )
            yield from explained(name, "the-loss", observed, error, found, answer.values, wanted)
            return
        self._pure(name, {"x": "", "y": "", "mask": ""}, [x, y, mask], answer.returned.arguments)
        large = self.student.answer(name, ["loss", "dx"], [x + 1000, y, mask], wanted)
        if relative_max_error(large.values, wanted) > TOLERANCE:
            raise FaultError(
                "not stable",
                "With scores near 1000 the loss is not finite: subtract the largest score of each"
                " step first. Derivation: docs/explain/backward.md#the-loss.",
            )
        yield Result(name, True, error=error)


def _reference(name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(rnn_layers, name)
    return function


def _drawn(shapes: Mapping[str, str], sizes: Mapping[str, int], seed: int = 0) -> list[np.ndarray]:
    """Random arrays; an `x` that goes with a table W holds word ids, some of them twice."""
    rng = np.random.default_rng(seed)
    drawn: list[np.ndarray] = []
    for name, letters in shapes.items():
        shape = tuple(sizes[letter] for letter in letters)
        if name == "x" and "W" in shapes:
            drawn.append(rng.integers(0, sizes["V"] - 2, shape))
        else:
            drawn.append(0.7 * rng.standard_normal(shape))
    return drawn


def _upstream(spec: Layer, sizes: Mapping[str, int]) -> list[np.ndarray]:
    """Random upstream gradients, of a size at which clipped gradients show."""
    return [10 * array for array in _drawn(spec.upstream, sizes, seed=2)]


def _flat(values: Sequence[Any]) -> list[Any]:
    """Results, also of a function that returns them in a list."""
    return as_list(values[0]) if len(values) == 1 else list(values)


def as_list(values: Any) -> list[Any]:
    return list(values) if isinstance(values, tuple | list) else [values]


def _contiguous(argument: Any) -> Any:
    return np.ascontiguousarray(argument) if isinstance(argument, np.ndarray) else argument
