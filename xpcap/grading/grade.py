"""Checks of each function of a submission: right or wrong, where, and which mistake explains it.

Inputs are random and small; wanted results come from plain/, and of a backward pass whose forward
pass is wrong, from numeric gradients of that forward pass. The student's functions run in a process
of their own, see submission.py; nothing here runs them. What is wrong is explained by mutants.py.
"""

import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from xpcap.errors import OptionError
from xpcap.gradcheck import eval_numerical_gradient_array
from xpcap.grading import drivers
from xpcap.grading.known import LABELS, SPECIAL
from xpcap.grading.mutants import Change, Found, explain
from xpcap.grading.plain import captioning_solver, optim, rnn, rnn_layers
from xpcap.grading.submission import Foreign, Kept, Stopped, StudentError, Submission
from xpcap.verify.course import read_array, read_cases

PLAIN = SimpleNamespace(
    rnn_layers=rnn_layers, rnn=rnn, optim=optim, captioning_solver=captioning_solver
)
TOLERANCE = 1e-5  # of max |difference| / max |wanted|: some students compute in float32 throughout
NUMERIC_TOLERANCE = 1e-4
NOT_WRITTEN = "not written yet"
FOLLOWS = "follows from another function"


class Result(NamedTuple):
    """What grading found of one function.

    Attributes
    ----------
    function : name in the course's files, such as "lstm_step_backward", "CaptioningRNN.loss (lstm)"
    passed : right; a function that passes may still have a remark in `kind` and `advice`
    where : outputs, gate and time steps that are wrong, or the line that raised; "" for nowhere
    kind : kind of mistake, such as "missing derivative of tanh"; "" for none
    advice : one sentence, and the page and line of the derivation
    error : max |got - wanted| / max |wanted| of the worst output; None where nothing was compared
    """

    function: str
    passed: bool
    where: str = ""
    kind: str = ""
    advice: str = ""
    error: float | None = None


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
# What the course has its students write; the rest is graded where a submission has it
TO_WRITE = {
    "rnn_layers": [
        f"{layer}_{way}"
        for layer in ("rnn_step", "rnn", "word_embedding", "lstm_step", "lstm")
        for way in ("forward", "backward")
    ],
    "rnn": ["CaptioningRNN"],
    "optim": [],
    "captioning_solver": ["CaptioningSolver"],
}
SIZES = {"N": 3, "T": 4, "D": 5, "H": 6, "G": 24, "M": 7, "V": 8, "Q": 20}
# With which products of transposed arrays have fitting shapes
SQUARE = {
    "rnn": {"N": 4, "T": 3, "D": 4, "H": 4, "G": 16, "M": 4, "V": 8, "Q": 12},
    "lstm": {"N": 8, "T": 3, "D": 8, "H": 2, "G": 8, "M": 8, "V": 8, "Q": 24},
}
# Factors by which results may be wrong: N is 3, of captioners 12, and T is 4
FACTORS = [(-1.0, "sign", "the sign")]
FACTORS += [
    entry
    for number, name in ((3, "N"), (4, "T"), (12, "N, or N T"))
    for entry in (
        (1 / number, "mean for a sum", f"1 / {number}, a mean over {name} where a sum belongs"),
        (float(number), "sum for a mean", f"{number}, a sum over {name} where a mean belongs"),
    )
]
FACTORS += [(2.0, "added twice", "2"), (0.5, "wrong factor", "1 / 2")]


def grade(
    submission: str | Path,
    *,
    only: Sequence[str] = (),
    seconds: float = 10.0,
    memory: float = 2.0,
) -> Iterator[Result]:
    """Grade the functions of a student's file, folder or module, in the order of the course.

    Parameters
    ----------
    submission : a file such as rnn_layers.py, a folder such as cs231n/, or a module's dotted name
    only : patterns of function names, as in a shell; none: all
    seconds, memory : limits of each call, and of the process, in GB

    Yields
    ------
    Result : one a function; a second one where two mistakes were found

    Raises
    ------
    OptionError : no such file or module, or nothing of the course in it.
    """
    with Submission(submission, seconds=seconds, memory=memory) as student:
        found = False
        for result in _Grading(student, only).results():
            found = True
            yield result
    if not found:
        raise OptionError(
            f"grade: {submission} has none of the functions {', '.join(only) or 'of the course'},"
            " expected those of rnn_layers.py, rnn.py, optim.py or captioning_solver.py"
        )


class _FaultError(Exception):
    """A fault found before results could be compared."""

    def __init__(self, kind: str, advice: str, where: str = "") -> None:
        super().__init__(kind)
        self.kind, self.advice, self.where = kind, advice, where


class _Answer(NamedTuple):
    """Results of a student's function, checked for number and shape."""

    values: list[np.ndarray]
    kept: Kept | None
    arguments: Sequence[Any]


class _Grading:
    """One grading: the student's process, and what is known of the functions graded so far."""

    def __init__(self, student: Submission, only: Sequence[str]) -> None:
        self.student, self.only = student, only
        self.verdicts: dict[str, Result] = {}  # the first of each function

    def results(self) -> Iterator[Result]:
        for module, grading in (
            ("rnn_layers", self._layers),
            ("rnn", self._captioner),
            ("optim", self._rules),
            ("captioning_solver", self._solver),
        ):
            if defined := self.student.defines.get(module):
                missing = [name for name in TO_WRITE[module] if name not in defined]
                for name, work in grading({*defined, *missing}):
                    if any(fnmatch.fnmatchcase(name, one) for one in self.only or ("*",)):
                        for number, result in enumerate(self._judged(name, work)):
                            if not number:
                                self.verdicts[name] = result
                            yield result

    def _judged(self, name: str, work: Callable[[], Iterator[Result]]) -> Iterator[Result]:
        try:
            yield from work()
        except _FaultError as fault:
            wrong = self._wrong_below(name)
            if wrong and fault.kind not in (NOT_WRITTEN, FOLLOWS):
                advice = f"Mend {wrong} first: {name} calls it. {fault.advice}"
                yield Result(name, False, fault.where, FOLLOWS, advice)
            else:
                yield Result(name, False, fault.where, fault.kind, fault.advice)

    def _wrong_below(self, name: str) -> str:
        """The first function that is wrong, of those that a function calls."""
        wrong = (other for other, verdict in self.verdicts.items() if not verdict.passed)
        return next((other for other in wrong if _calls(other, name)), "")

    # ---- calls ----

    def _ask(self, name: str, call: Callable[[], Any]) -> Any:
        """What the student's side answers; its failures become faults."""
        try:
            return call()
        except StudentError as error:
            raise self._fault_of(name, error) from error
        except Stopped as stopped:
            raise _FaultError("stopped", f"{name} was stopped: {stopped}.") from stopped

    def _fault_of(self, name: str, error: StudentError) -> _FaultError:
        where = f"line {error.line}: {error.text}" if error.line else ""
        for other, verdict in self.verdicts.items():
            if verdict.kind == NOT_WRITTEN and _calls(other, name):
                return _FaultError(FOLLOWS, f"Write {other} first: {name} calls it.", where)
        if error.type == "NotImplementedError":
            return _FaultError(NOT_WRITTEN, f"Write {name}.", where)
        return _FaultError("raises an error", f"{name} raises {error.type}: {error.message}", where)

    def _defined(self, module: str, name: str) -> None:
        if name.split(".")[0] not in self.student.defines.get(module, ()):
            raise _FaultError(NOT_WRITTEN, f"Write {name}.")

    def _answer(
        self,
        name: str,
        outputs: Sequence[str],
        arguments: Sequence[Any],
        wanted: Sequence[np.ndarray],
        keep: bool = False,
    ) -> _Answer:
        """Call a layer's function; a fault unless it returns as many arrays of these shapes."""
        returned = self._ask(
            name,
            lambda: self.student.call(
                name, *arguments, keep=keep, arguments=True, module="rnn_layers"
            ),
        )
        values = list(returned.values)
        if len(values) == 1 < len(outputs) and isinstance(values[0], list):
            values = values[0]
        kept = values.pop() if keep and values and isinstance(values[-1], Kept) else None
        if any(value is None for value in values) or not values:
            raise _FaultError(NOT_WRITTEN, f"Write {name}: it returns None.")
        if len(values) != len(outputs) or (keep and kept is None):
            expected = ", ".join([*outputs, *(["cache"] if keep else [])])
            came = len(values) + (kept is not None)
            raise _FaultError("wrong results", f"{name} returns {came} results, not {expected}.")
        arrays = [
            _array(name, output, value) for output, value in zip(outputs, values, strict=True)
        ]
        for output, value, right in zip(outputs, arrays, wanted, strict=True):
            if value.shape != np.shape(right):
                raise _FaultError(*_wrong_shape(name, output, value.shape, np.shape(right)), output)
        return _Answer(arrays, kept, returned.arguments)

    # ---- layers ----

    def _layers(self, names: set[str]) -> Iterator[tuple[str, Callable[[], Iterator[Result]]]]:
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
        self._defined("rnn_layers", name)
        inputs = _drawn(spec.inputs, SIZES)
        wanted = _plain(name)(*inputs)[:-1]
        try:
            answer = self._answer(name, spec.outputs, inputs, wanted, keep=True)
        except _FaultError as fault:
            self._explain_raised(layer, "forward", fault)
            raise
        error = _worst(answer.values, wanted)
        if error <= TOLERANCE:
            self._published(name, spec)
            self._pure(name, spec.inputs, inputs, answer.arguments)
            self._repeatable(name, inputs, _drawn(spec.inputs, SIZES, seed=1), wanted)
            yield self._passed(name, spec, answer, inputs, error)
            return
        observed = _observed(spec.outputs, answer.values, wanted, spec)
        if layer == "lstm_step":
            observed = f"{observed}{self._gate(inputs, answer.values, wanted)}"
        if spec.step and self._composed(layer, inputs, answer.values) is not None:
            step = f"{spec.step}_forward"
            yield Result(
                name, False, observed, FOLLOWS, f"Mend {step} first: the loop is right.", error
            )
            return
        found = self._search(name, spec, lambda mutant: mutant(*inputs)[:-1], answer.values)
        yield from _explained(name, spec.page, observed, error, found, answer.values, wanted)

    def _backward(self, layer: str) -> Iterator[Result]:
        name, forward, spec = f"{layer}_backward", f"{layer}_forward", LAYERS[layer]
        self._defined("rnn_layers", name)
        self._require_forward(name, forward, layer)
        inputs, upstream = _drawn(spec.inputs, SIZES), _upstream(spec, SIZES)
        *outputs, cache = _plain(forward)(*inputs)
        wanted = _as_tuple(_plain(name)(*upstream, cache))
        answered = self._answer(forward, spec.outputs, inputs, outputs, keep=True)
        forward_is_right = _worst(answered.values, outputs) <= TOLERANCE
        try:
            answer = self._answer(name, spec.grads, [*upstream, answered.kept], wanted)
        except _FaultError as fault:
            self._explain_raised(layer, "backward", fault)
            raise
        error = _worst(answer.values, wanted)
        if error <= TOLERANCE:
            self._two_caches(name, layer, inputs, upstream, wanted)
            yield self._passed(name, spec, answer, upstream, error)
            return
        observed = _observed(spec.grads, answer.values, wanted, spec)
        if not forward_is_right:
            numeric = self._numeric(forward, spec, inputs, upstream)
            error = _worst(answer.values, numeric)
            if error <= NUMERIC_TOLERANCE:
                remark = f"Right for {forward} as you wrote it, which is wrong: mend that one."
                yield Result(name, True, "", FOLLOWS, remark, error)
            else:
                advice = f"Mend {forward} first: its cache is what {name} reads."
                yield Result(name, False, observed, FOLLOWS, advice, error)
            return
        if spec.step:
            composed = self._composed(layer, inputs, answered.values, upstream, answer.values)
            if composed is not None:
                advice = f"Mend {composed} first: the loop is right."
                yield Result(name, False, observed, FOLLOWS, advice, error)
                return
        found = self._search(
            name, spec, lambda mutant: _as_tuple(mutant(*upstream, cache)), answer.values
        )
        yield from _explained(name, spec.page, observed, error, found, answer.values, wanted)

    def _gate(
        self, inputs: list[np.ndarray], values: Sequence[np.ndarray], wanted: Sequence[np.ndarray]
    ) -> str:
        """The gate of a wrong LSTM step: o if the cell is right, f if it is with an empty old cell."""
        if _worst(values[1:], wanted[1:]) <= TOLERANCE:
            return "; gate o, or the tanh"
        name = "lstm_step_forward"
        empty = [*inputs[:2], np.zeros_like(inputs[2]), *inputs[3:]]
        _, right, _ = rnn_layers.lstm_step_forward(*empty)
        answer = self._answer(name, ["next_h", "next_c"], empty, wanted, keep=True)
        return "; gate f" if _worst(answer.values[1:], [right]) <= TOLERANCE else "; gate i or g"

    def _search(
        self,
        name: str,
        spec: Layer,
        run: Callable[[Callable[..., Any]], Sequence[Any]],
        values: Sequence[np.ndarray],
    ) -> Found | None:
        special = SPECIAL.get(name, ())
        return explain(rnn_layers, name, run, values, gates=spec.gates, special=special)

    def _require_forward(self, name: str, forward: str, layer: str) -> None:
        """A fault unless the forward pass can make a cache."""
        verdict = self.verdicts.get(forward)
        missing = forward not in self.student.defines["rnn_layers"]
        if missing or (verdict and verdict.kind == NOT_WRITTEN):
            raise _FaultError(FOLLOWS, f"Write {forward} first: {name} reads its cache.")
        if verdict and verdict.error is None and not verdict.passed:
            raise _FaultError(FOLLOWS, f"Mend {forward} first: {name} reads its cache.")

    def _explain_raised(self, layer: str, way: str, fault: _FaultError) -> None:
        """Name a transposed array where shapes do not fit, by sizes for which they do."""
        if fault.kind not in ("raises an error", "wrong shape"):
            return
        name, spec = f"{layer}_{way}", LAYERS[layer]
        sizes = SQUARE["lstm" if spec.gates else "rnn"]
        inputs, upstream = _drawn(spec.inputs, sizes), _upstream(spec, sizes)
        *outputs, cache = _plain(f"{layer}_forward")(*inputs)
        try:
            answer = self._answer(f"{layer}_forward", spec.outputs, inputs, outputs, keep=True)
            if way == "backward":
                wanted = _as_tuple(_plain(name)(*upstream, cache))
                answer = self._answer(name, spec.grads, [*upstream, answer.kept], wanted)
        except _FaultError:
            return
        if way == "backward":
            found = self._search(
                name, spec, lambda mutant: _as_tuple(mutant(*upstream, cache)), answer.values
            )
        else:
            found = self._search(name, spec, lambda mutant: mutant(*inputs)[:-1], answer.values)
        if found and found.whole:
            change = found.changes[0]
            fault.kind = change.kind
            fault.advice = _advice(name, spec.page, change)

    def _composed(
        self,
        layer: str,
        inputs: Sequence[np.ndarray],
        h: Sequence[np.ndarray],
        upstream: Sequence[np.ndarray] = (),
        grads: Sequence[np.ndarray] = (),
    ) -> str | None:
        """The step that makes a sequence wrong: the student's steps in the plain loop give the same."""
        spec = LAYERS[layer]
        step = spec.step
        forward, backward = f"{step}_forward", f"{step}_backward"
        defined = self.student.defines["rnn_layers"]
        if forward not in defined or (upstream and backward not in defined):
            return None
        wrong = next(
            (
                name
                for name in (forward, backward)
                if (verdict := self.verdicts.get(name)) and not verdict.passed
            ),
            None,
        )
        if wrong is None:
            return None
        call = self.student.call
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
        return wrong if _worst(grads or h, composed) <= TOLERANCE else None

    def _proxy(self, name: str, keep: bool) -> Callable[..., Any]:
        """A function of the student, to be called from a plain one."""

        def call(*arguments: Any) -> Any:
            flat = [_contiguous(argument) for argument in arguments]
            values = self.student.call(name, *flat, keep=keep, module="rnn_layers").values
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

                total += self._ask(forward, slopes)
            gradients.append(total)
        return gradients

    def _published(self, name: str, spec: Layer) -> None:
        """A fault unless the course's published values come out."""
        for case in read_cases()["layers"]:
            if case["name"] != name:
                continue
            inputs = [np.asarray(read_array(value, "float64")) for value in case["inputs"].values()]
            wanted = [np.asarray(value) for value in case["expected"].values()]
            answer = self._answer(name, spec.outputs[: len(wanted)], inputs, wanted, keep=True)
            if _worst(answer.values, wanted) > TOLERANCE:
                raise _FaultError(
                    "wrong values",
                    f"{name} is right on other inputs; are sizes or values written into it?",
                    "the course's published case",
                )

    def _pure(
        self, name: str, names: Mapping[str, Any], before: Sequence[Any], after: Sequence[Any]
    ) -> None:
        for key, old, new in zip(names, before, after, strict=True):
            if not np.array_equal(old, new):
                raise _FaultError(
                    "overwrites its arguments",
                    f"{name} changes its argument {key}, which others still use: work on a copy.",
                    key,
                )

    def _repeatable(
        self, name: str, first: Sequence[Any], second: Sequence[Any], wanted: Sequence[np.ndarray]
    ) -> None:
        """A fault if a call changes the results of one before, or depends on it."""
        returned = self._ask(
            name,
            lambda: self.student.call(
                "driver.twice", "rnn_layers", name, list(first), list(second)
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
            if _worst([np.asarray(value) for value in _as_tuple(values)], wanted) > TOLERANCE:
                raise _FaultError(kind, advice)

    def _two_caches(
        self,
        name: str,
        layer: str,
        inputs: Sequence[Any],
        upstream: Sequence[Any],
        wanted: Sequence[np.ndarray],
    ) -> None:
        second = _drawn(LAYERS[layer].inputs, SIZES, seed=1)
        returned = self._ask(
            name,
            lambda: self.student.call(
                "driver.two_caches",
                layer,
                list(inputs),
                second,
                list(upstream),
                module="rnn_layers",
            ),
        )
        once, _ = returned.values
        if _worst([np.asarray(value) for value in _as_tuple(once)], wanted) > TOLERANCE:
            raise _FaultError(
                "state outside the cache",
                f"After a second forward pass {name} is wrong for the first: what it needs belongs"
                " into the cache, in arrays of its own.",
            )

    def _passed(
        self, name: str, spec: Layer, answer: _Answer, arguments: Sequence[Any], error: float
    ) -> Result:
        """A pass, with a remark on dtypes or on upstream gradients that were overwritten."""
        if not name.endswith("_forward"):
            for key, old, new in zip(spec.upstream, arguments, answer.arguments, strict=False):
                if not np.array_equal(old, new):
                    remark = f"Right, but {name} changes its argument {key}: work on a copy."
                    return Result(name, True, key, "overwrites its arguments", remark, error)
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
        answer = self._answer("sigmoid", ["out"], [x], wanted)
        error = _worst(answer.values, wanted)
        self._pure("sigmoid", {"x": ""}, [x], answer.arguments)
        if error > TOLERANCE:
            raise _FaultError(
                "wrong values",
                "sigmoid(x) is 1 / (1 + exp(-x)); for large |x| without overflow."
                " Derivation: docs/notation.md#five-rules, rule 3.",
            )
        yield Result("sigmoid", True, error=error)

    def _softmax(self) -> Iterator[Result]:
        name = "temporal_softmax_loss"
        rng = np.random.default_rng(0)
        N, T, V = 3, 4, 8
        x, y = rng.standard_normal((N, T, V)), rng.integers(0, V, (N, T))
        mask = np.arange(T) < np.array([[4], [2], [3]])
        wanted = [np.asarray(value) for value in rnn_layers.temporal_softmax_loss(x, y, mask)]
        answer = self._answer(name, ["loss", "dx"], [x, y, mask], wanted)
        error = _worst(answer.values, wanted)
        if error > TOLERANCE:
            observed = _observed(("loss", "dx"), answer.values, wanted)
            found = explain(
                rnn_layers,
                name,
                lambda mutant: mutant(x, y, mask),
                answer.values,
                special=SPECIAL[name],
            )
            yield from _explained(name, "the-loss", observed, error, found, answer.values, wanted)
            return
        self._pure(name, {"x": "", "y": "", "mask": ""}, [x, y, mask], answer.arguments)
        large = self._answer(name, ["loss", "dx"], [x + 1000, y, mask], wanted)
        if _worst(large.values, wanted) > TOLERANCE:
            raise _FaultError(
                "not stable",
                "With scores near 1000 the loss is not finite: subtract the largest score of each"
                " step first. Derivation: docs/notation.md#the-loss.",
            )
        yield Result(name, True, error=error)

    # ---- captioner ----

    def _captioner(self, names: set[str]) -> Iterator[tuple[str, Callable[[], Iterator[Result]]]]:
        for cell in ("rnn", "lstm"):
            yield f"CaptioningRNN.loss ({cell})", lambda cell=cell: self._loss(cell)  # type: ignore[misc]
        for cell in ("rnn", "lstm"):
            yield f"CaptioningRNN.sample ({cell})", lambda cell=cell: self._sample(cell)  # type: ignore[misc]

    def _model_answer(self, name: str, driver: str, *arguments: Any) -> Sequence[Any]:
        self._defined("rnn", "CaptioningRNN")
        values: Sequence[Any] = self._ask(
            name, lambda: self.student.call(f"driver.{driver}", *arguments, module="rnn")
        ).values
        return values

    def _loss(self, cell: str) -> Iterator[Result]:
        name = f"CaptioningRNN.loss ({cell})"
        settings, features, captions = _captioner_case(cell)
        (shapes,) = self._model_answer(name, "captioner_parameters", settings)
        for key, (shape, _) in drivers.captioner_parameters(PLAIN, settings).items():
            if shapes.get(key, [None])[0] != shape:
                came = f"has shape {tuple(shapes[key][0])}" if key in shapes else "is missing"
                advice = f"The parameter {key} {came}; CaptioningRNN makes it {tuple(shape)}."
                raise _FaultError("wrong shape", advice, key)
        loss, grads = _two(
            name, self._model_answer(name, "captioner_loss", settings, features, captions)
        )
        if loss is None or (not grads and float(loss) == 0):
            raise _FaultError(NOT_WRITTEN, "Write CaptioningRNN.loss.")
        keys = list(settings["params"])
        if missing := [key for key in keys if not isinstance(grads, dict) or key not in grads]:
            advice = f"grads has no {', '.join(missing)}; it has a gradient for each key of params."
            raise _FaultError("gradient missing", advice, ", ".join(missing))
        labels = ["loss", *(f"d{key}" for key in keys)]
        values = [
            _array(name, label, value)
            for label, value in zip(labels, [loss, *(grads[key] for key in keys)], strict=True)
        ]

        def results(captioner: type) -> list[np.ndarray]:
            modules = SimpleNamespace(rnn=SimpleNamespace(CaptioningRNN=captioner))
            ours, gradients = drivers.captioner_loss(modules, settings, features, captions)
            return [np.asarray(ours), *(np.asarray(gradients[key]) for key in keys)]

        wanted = results(rnn.CaptioningRNN)
        for label, value, right in zip(labels, values, wanted, strict=True):
            if value.shape != right.shape:
                raise _FaultError(*_wrong_shape(name, label, value.shape, right.shape), label)
        error = _worst(values, wanted)
        if error <= TOLERANCE:
            yield Result(name, True, error=error)
            return
        observed = _observed(labels, values, wanted)
        yield from self._explained_model(name, "loss", cell, values, wanted, observed, results)

    def _sample(self, cell: str) -> Iterator[Result]:
        name = f"CaptioningRNN.sample ({cell})"
        settings, features, _ = _captioner_case(cell)
        length = 7
        (captions,) = self._model_answer(name, "captioner_sample", settings, features, length)
        if captions is None or not (np.any(captions) or self._wrong_below(name)):
            raise _FaultError(NOT_WRITTEN, "Write CaptioningRNN.sample.")
        value = _array(name, "captions", captions)

        def results(captioner: type) -> list[np.ndarray]:
            modules = SimpleNamespace(rnn=SimpleNamespace(CaptioningRNN=captioner))
            sampled = drivers.captioner_sample(modules, settings, features, length)
            return [np.asarray(sampled, dtype=float)]

        wanted = results(rnn.CaptioningRNN)
        if value.shape != wanted[0].shape:
            fault = _wrong_shape(name, "captions", value.shape, wanted[0].shape)
            raise _FaultError(*fault, "captions")
        end = settings["word_to_idx"]["<END>"]
        got, right = (_until_end(one, end) for one in (value, wanted[0]))
        if np.array_equal(got, right):
            yield Result(name, True, error=0.0)
            return
        observed = _observed(("captions",), [got], [right], steps=True)
        yield from self._explained_model(name, "sample", cell, [value], wanted, observed, results)

    def _explained_model(
        self,
        name: str,
        method: str,
        cell: str,
        values: Sequence[np.ndarray],
        wanted: Sequence[np.ndarray],
        observed: str,
        results: Callable[[type], Sequence[np.ndarray]],
    ) -> Iterator[Result]:
        error = _worst(values, wanted)
        if wrong := self._wrong_below(name):
            advice = f"Mend {wrong} first: CaptioningRNN calls it."
            yield Result(name, False, observed, FOLLOWS, advice, error)
            return

        def run(mutant: Callable[..., Any]) -> Sequence[np.ndarray]:
            return results(type("Mutant", (rnn.CaptioningRNN,), {method: mutant}))

        key = f"CaptioningRNN.{method}"
        found = explain(rnn, key, run, values, special=SPECIAL[key])
        yield from _explained(name, "all-of-it-at-once", observed, error, found, values, wanted)

    # ---- update rules and solver ----

    def _rules(self, names: set[str]) -> Iterator[tuple[str, Callable[[], Iterator[Result]]]]:
        for name in ("sgd", "sgd_momentum", "rmsprop", "adam"):
            if name in names:
                yield name, lambda name=name: self._rule(name)  # type: ignore[misc]

    def _rule(self, name: str) -> Iterator[Result]:
        rng = np.random.default_rng(3)
        w, gradients = rng.standard_normal((3, 4)), list(rng.standard_normal((3, 3, 4)))
        config = {"learning_rate": 0.05, "epsilon": 0.1}
        (values,) = self._ask(
            name,
            lambda: self.student.call("driver.rule", name, w, gradients, config, module="optim"),
        ).values
        if any(value is None or isinstance(value, Foreign) for value in values):
            raise _FaultError(NOT_WRITTEN, f"Write {name}: it returns no weights.")
        steps = [f"the weights after {k + 1} steps" for k in range(len(gradients))]
        arrays = [_array(name, step, value) for step, value in zip(steps, values, strict=True)]

        def run(mutant: Callable[..., Any]) -> list[np.ndarray]:
            modules = SimpleNamespace(optim=SimpleNamespace(**{name: mutant}))
            weights = drivers.rule(modules, name, w, gradients, config)
            return [np.asarray(value) - w for value in weights]

        wanted = run(getattr(optim, name))
        for step, value in zip(steps, arrays, strict=True):
            if value.shape != w.shape:
                raise _FaultError(*_wrong_shape(name, step, value.shape, w.shape), step)
        moves = [value - w for value in arrays]
        error = _worst(moves, wanted)
        if name == "adam":
            error = min(error, _worst(moves, run(_adam_with_one_rate)))
        if error <= TOLERANCE:
            yield Result(name, True, error=error)
            return
        observed = _observed(steps, moves, wanted)
        found = explain(optim, name, run, moves, special=SPECIAL.get(name, ()))
        yield from _explained(name, "", observed, error, found, moves, wanted)

    def _solver(self, names: set[str]) -> Iterator[tuple[str, Callable[[], Iterator[Result]]]]:
        yield "CaptioningSolver", self._solved

    def _solved(self) -> Iterator[Result]:
        name = "CaptioningSolver"
        self._defined("captioning_solver", name)
        options = {
            "update_rule": "sgd",
            "optim_config": {"learning_rate": 0.1},
            "lr_decay": 0.5,
            "num_epochs": 3,
        }
        values = self._ask(
            name, lambda: self.student.call("driver.solver", options, module="captioning_solver")
        ).values
        labels = ["loss_history", "params a", "params b", "batches", "captions of other pictures"]
        arrays = [_array(name, label, value) for label, value in zip(labels, values, strict=True)]

        def run_with(method: str) -> Callable[[Callable[..., Any]], list[np.ndarray]]:
            def run(mutant: Callable[..., Any]) -> list[np.ndarray]:
                made = type("Mutant", (captioning_solver.CaptioningSolver,), {method: mutant})
                modules = SimpleNamespace(captioning_solver=SimpleNamespace(CaptioningSolver=made))
                return [np.asarray(value) for value in drivers.solver(modules, options)]

            return run

        wanted = run_with("train")(captioning_solver.CaptioningSolver.train)
        if arrays[0].shape != wanted[0].shape:
            advice = (
                f"loss_history has {arrays[0].size} losses, not {wanted[0].size}: one for each of"
                " num_epochs * max(num_train // batch_size, 1) iterations."
            )
            raise _FaultError("wrong number of steps", advice, "loss_history")
        error = _worst(arrays, wanted)
        if error <= TOLERANCE:
            if (adam_verdict := self.verdicts.get("adam")) and not adam_verdict.passed:
                yield Result(name, True, error=error)
                return
            adam = {"update_rule": "adam", "optim_config": {"learning_rate": 0.1}, "num_epochs": 2}
            values = self._ask(
                name, lambda: self.student.call("driver.solver", adam, module="captioning_solver")
            ).values
            second = [np.asarray(value, dtype=float) for value in values]
            error = _worst(second, [np.asarray(one) for one in drivers.solver(PLAIN, adam)])
            if error > TOLERANCE:
                raise _FaultError(
                    "state shared",
                    "Right with sgd, wrong with adam: each parameter needs a config of its own,"
                    " and the config that the rule returns.",
                    "optim_configs",
                )
            yield Result(name, True, error=error)
            return
        observed = _observed(labels, arrays, wanted)
        if wrong := self._wrong_below(name):
            yield Result(
                name, False, observed, FOLLOWS, f"Mend {wrong} first: {name} calls it.", error
            )
            return
        for method in ("train", "_step"):
            key = f"CaptioningSolver.{method}"
            found = explain(
                captioning_solver, key, run_with(method), arrays, special=SPECIAL.get(key, ())
            )
            if found and found.whole:
                break
        yield from _explained(name, "", observed, error, found, arrays, wanted)


# ---- what is compared, and words for it ----


def _plain(name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(rnn_layers, name)
    return function


def _adam_with_one_rate(w: Any, dw: Any, config: Any) -> Any:
    """Adam in the form of Kingma and Ba 2015, end of section 2: epsilon is not corrected."""
    t = config.get("t", 0) + 1
    m = 0.9 * config.get("m", 0) + 0.1 * dw
    v = 0.999 * config.get("v", 0) + 0.001 * dw**2
    rate = config["learning_rate"] * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    return w - rate * m / (np.sqrt(v) + config["epsilon"]), {**config, "t": t, "m": m, "v": v}


def _calls(called: str, name: str) -> bool:
    """Whether a function of the course is built on another."""
    if name == "CaptioningSolver":
        return called in ("sgd", "adam")
    if name.startswith("CaptioningRNN.sample"):
        cell = "lstm" if "lstm" in name else "rnn"
        layers = (f"{cell}_step_forward", "word_embedding_forward", "affine_forward")
        return called in (*layers, "temporal_affine_forward")
    if name.startswith("CaptioningRNN.loss"):
        cell, other = ("lstm", "rnn") if "lstm" in name else ("rnn", "lstm")
        layer = called.removesuffix("_forward").removesuffix("_backward")
        return called == "temporal_softmax_loss" or (
            layer in LAYERS and not layer.startswith(other)
        )
    layer, _, way = name.rpartition("_")
    if layer not in LAYERS:
        return False
    step = LAYERS[layer].step
    if way == "backward":
        return called in (f"{layer}_forward", f"{step}_forward", f"{step}_backward")
    return called == f"{step}_forward"


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


def _captioner_case(cell: str) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Settings with random parameters, features, and captions of different lengths."""
    rng = np.random.default_rng(4)
    words = ["<NULL>", "<START>", "<END>", *(f"word{k}" for k in range(6))]
    settings: dict[str, Any] = {
        "word_to_idx": {word: index for index, word in enumerate(words)},
        "input_dim": 5,
        "wordvec_dim": 4,
        "hidden_dim": 6,
        "cell_type": cell,
        "params": {},
    }
    state = np.random.get_state()
    try:
        shapes = drivers.captioner_parameters(PLAIN, settings)
    finally:
        np.random.set_state(state)
    settings["params"] = {name: rng.standard_normal(shape) for name, (shape, _) in shapes.items()}
    settings["params"]["b_vocab"][words.index("<END>")] -= 4  # so that sampled captions are long
    captions = np.array([[1, 5, 7, 2, 0, 0], [1, 3, 8, 4, 5, 2], [1, 6, 2, 0, 0, 0]] * 4)
    return settings, rng.standard_normal((len(captions), 5)), captions


def _until_end(captions: np.ndarray, end: int) -> np.ndarray:
    """Captions with zeros after END, where solutions differ."""
    ended = np.cumsum(captions == end, axis=1) - (captions == end)
    return np.where(ended > 0, 0, captions)


def _as_tuple(values: Any) -> list[Any]:
    return list(values) if isinstance(values, tuple | list) else [values]


def _two(name: str, values: Sequence[Any]) -> tuple[Any, Any]:
    if len(values) != 2:
        raise _FaultError(
            "wrong results", f"{name} returns {len(values)} results, not loss, grads."
        )
    return values[0], values[1]


def _contiguous(argument: Any) -> Any:
    return np.ascontiguousarray(argument) if isinstance(argument, np.ndarray) else argument


def _array(name: str, output: str, value: Any) -> np.ndarray:
    """A result as an array; a fault if it is none."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):
        array = np.asarray(None)
    if array.dtype.kind not in "fiub":
        kind = "wrong results"
        came = value.type if isinstance(value, Foreign) else type(value).__name__
        raise _FaultError(kind, f"{name} returns {came} as {output}, not an array.", output)
    return array


def _worst(values: Sequence[Any], wanted: Sequence[Any]) -> float:
    """The largest max |got - wanted| / max |wanted|; infinite where not finite or misshapen."""
    worst = 0.0
    for value, right in zip(values, wanted, strict=True):
        value, right = np.asarray(value, dtype=float), np.asarray(right, dtype=float)
        if value.shape != right.shape or not np.isfinite(value).all():
            return float("inf")
        scale = float(np.abs(right).max(initial=0.0)) or 1.0
        worst = max(worst, float(np.abs(value - right).max(initial=0.0)) / scale)
    return worst


def _wrong_shape(
    name: str, output: str, came: tuple[int, ...], right: tuple[int, ...]
) -> tuple[str, str]:
    """Kind and advice for a result of another shape."""
    advice = f"{output} has shape {came}, not {right}"
    if came == right[::-1] and len(right) == 2:
        return "transposed", f"{advice}: it is the transpose."
    if came[1:] == right or came[2:] == right:
        kind = "sum over the batch missing"
        return kind, f"{advice}: add up over all samples."
    return "wrong shape", f"{advice}."


def _observed(
    names: Sequence[str],
    values: Sequence[np.ndarray],
    wanted: Sequence[np.ndarray],
    spec: Layer | None = None,
    steps: bool = False,
) -> str:
    """Which outputs are wrong, and of these which gates and time steps alone."""
    wrong, gates, times = [], set(), set()
    all_steps = False
    for name, value, right in zip(names, values, wanted, strict=True):
        scale = float(np.abs(right).max(initial=0.0)) or 1.0
        off = ~(np.abs(np.asarray(value, dtype=float) - right) <= TOLERANCE * scale)
        if not off.any():
            continue
        wrong.append(name)
        if spec and spec.gates and name in ("dWx", "dWh", "db"):
            blocks = np.split(off, 4, axis=-1)
            gates |= {gate for gate, block in zip("ifog", blocks, strict=True) if block.any()}
        sequence = steps or (spec is not None and spec.step and name in ("h", "dx"))
        if sequence:
            late = np.flatnonzero(off.any(axis=(0, *range(2, off.ndim))))
            times |= set(late.tolist())
            all_steps |= len(late) == off.shape[1]
    text = ", ".join(wrong)
    if gates and len(gates) < 4:
        text += f"; gate {', '.join(gate for gate in 'ifog' if gate in gates)}"
    if times and not all_steps:
        text += f"; time step {', '.join(str(step) for step in sorted(times))}"
    return text


def _explained(
    name: str,
    page: str,
    observed: str,
    error: float,
    found: Found | None,
    values: Sequence[np.ndarray],
    wanted: Sequence[np.ndarray],
) -> Iterator[Result]:
    """Results for the changes that explain what came, or for what can be seen without."""
    if found is None:
        kind, advice = _seen(name, values, wanted)
        yield Result(name, False, observed, kind, f"{advice}{_derivation(name, page, '')}", error)
        return
    for change in found.changes:
        where = f"gate {change.gate}: {observed.split('; gate')[0]}" if change.gate else observed
        advice = _advice(name, page, change)
        if not found.whole:
            advice += " That does not explain all: mend this, then grade again."
        yield Result(name, False, where, change.kind, advice, error)


def _seen(name: str, values: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> tuple[str, str]:
    """Kind and advice for what no change of the plain function explains."""
    if not all(np.isfinite(value).all() for value in values):
        return "not finite", f"{name} gives NaN or infinity on small numbers."
    wrong = [
        (value, right)
        for value, right in zip(values, wanted, strict=True)
        if _worst([value], [right]) > TOLERANCE
    ]
    for factor, kind, words in FACTORS:
        if all(_worst([value], [factor * right]) <= TOLERANCE for value, right in wrong):
            return kind, f"All that is wrong of {name} is wrong by one factor: {words}."
    if all(not value.any() for value, _ in wrong):
        return (
            "left at zero",
            f"What is wrong of {name} is all zeros: is it computed, and returned?",
        )
    return "wrong values", f"No single slip explains {name}: go through it line by line."


def _advice(name: str, page: str, change: Change) -> str:
    detail = change.detail[0].upper() + change.detail[1:]
    instead = "without that line" if change.instead == "pass" else f"of `{change.instead}`"
    return f"{detail}. Your results are those {instead}.{_derivation(name, page, change.target)}"


def _derivation(name: str, page: str, target: str) -> str:
    if not page:
        return ""
    label = LABELS.get(name, {}).get(target, "")
    place = f", line {label}" if label.startswith("F") else ""
    return f" Derivation: docs/notation.md#{page}{place}."
