"""Checks of the captioner, the update rules and the solver."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from xpcap.exercise.grading import probes
from xpcap.exercise.grading.calls import Check, Student
from xpcap.exercise.grading.mutants import localise
from xpcap.exercise.grading.submission import Opaque
from xpcap.exercise.grading.verdicts import (
    FOLLOWS,
    NOT_WRITTEN,
    TOLERANCE,
    FaultError,
    Result,
    as_array,
    explained,
    observe,
    relative_max_error,
    wrong_shape,
)
from xpcap.exercise.reference import captioning_solver, optim, rnn

REFERENCE = SimpleNamespace(rnn=rnn, optim=optim, captioning_solver=captioning_solver)


class CaptionerChecks:
    """Checks of a student's CaptioningRNN."""

    def __init__(self, student: Student) -> None:
        self.student = student

    def checks(self, names: Collection[str]) -> Iterator[tuple[str, Check]]:
        """Name and check of loss and sample, for each cell."""
        for cell in ("rnn", "lstm"):
            yield f"CaptioningRNN.loss ({cell})", lambda cell=cell: self._loss(cell)  # type: ignore[misc]
        for cell in ("rnn", "lstm"):
            yield f"CaptioningRNN.sample ({cell})", lambda cell=cell: self._sample(cell)  # type: ignore[misc]

    def _loss(self, cell: str) -> Iterator[Result]:
        name = f"CaptioningRNN.loss ({cell})"
        settings, features, captions = _captioner_case(cell)
        (shapes,) = self.student.probe(name, "captioner_parameters", settings, module="rnn")
        for key, (shape, _) in probes.captioner_parameters(REFERENCE, settings).items():
            if shapes.get(key, [None])[0] != shape:
                came = f"has shape {tuple(shapes[key][0])}" if key in shapes else "is missing"
                advice = f"The parameter {key} {came}; CaptioningRNN makes it {tuple(shape)}."
                raise FaultError("wrong shape", advice, key)
        loss, grads = _loss_and_grads(
            name,
            self.student.probe(name, "captioner_loss", settings, features, captions, module="rnn"),
        )
        keys = list(settings["params"])
        if missing := [key for key in keys if key not in grads]:
            advice = f"grads has no {', '.join(missing)}; it has a gradient for each key of params."
            raise FaultError("gradient missing", advice, ", ".join(missing))
        labels = ["loss", *(f"d{key}" for key in keys)]
        values = [
            as_array(name, label, value)
            for label, value in zip(labels, [loss, *(grads[key] for key in keys)], strict=True)
        ]

        def results(captioner: type) -> list[np.ndarray]:
            modules = SimpleNamespace(rnn=SimpleNamespace(CaptioningRNN=captioner))
            ours, gradients = probes.captioner_loss(modules, settings, features, captions)
            return [np.asarray(ours), *(np.asarray(gradients[key]) for key in keys)]

        wanted = results(rnn.CaptioningRNN)
        for label, value, right in zip(labels, values, wanted, strict=True):
            if value.shape != right.shape:
                raise FaultError(*wrong_shape(name, label, value.shape, right.shape), label)
        error = relative_max_error(values, wanted)
        if error <= TOLERANCE:
            yield Result(name, True, error=error)
            return
        observed = observe(labels, values, wanted)
        yield from self._explained_model(name, "loss", values, wanted, observed, results)

    def _sample(self, cell: str) -> Iterator[Result]:
        name = f"CaptioningRNN.sample ({cell})"
        settings, features, _ = _captioner_case(cell)
        length = 7
        sampled = self.student.probe(
            name, "captioner_sample", settings, features, length, module="rnn"
        )
        if sampled[0] is None:
            raise FaultError(NOT_WRITTEN, "Write CaptioningRNN.sample.")
        if len(sampled) != 1:
            raise FaultError(
                "wrong results", f"{name} returns {len(sampled)} results, not captions."
            )
        value = as_array(name, "captions", sampled[0])
        if not (value.any() or self.student.wrong_below(name)):
            raise FaultError(NOT_WRITTEN, "Write CaptioningRNN.sample: all words are NULL.")

        def results(captioner: type) -> list[np.ndarray]:
            modules = SimpleNamespace(rnn=SimpleNamespace(CaptioningRNN=captioner))
            sampled = probes.captioner_sample(modules, settings, features, length)
            return [np.asarray(sampled, dtype=float)]

        wanted = results(rnn.CaptioningRNN)
        if value.shape != wanted[0].shape:
            fault = wrong_shape(name, "captions", value.shape, wanted[0].shape)
            raise FaultError(*fault, "captions")
        end = settings["word_to_idx"]["<END>"]
        got, right = (_until_end(one, end) for one in (value, wanted[0]))
        if np.array_equal(got, right):
            yield Result(name, True, error=0.0)
            return
        observed = observe(("captions",), [got], [right], sequences=["captions"])
        yield from self._explained_model(name, "sample", [value], wanted, observed, results)

    def _explained_model(
        self,
        name: str,
        method: str,
        values: Sequence[np.ndarray],
        wanted: Sequence[np.ndarray],
        observed: str,
        results: Callable[[type], Sequence[np.ndarray]],
    ) -> Iterator[Result]:
        error = relative_max_error(values, wanted)
        if wrong := self.student.wrong_below(name):
            advice = f"Fix {wrong} first: CaptioningRNN calls it."
            yield Result(name, False, observed, FOLLOWS, advice, error)
            return

        def run(mutant: Callable[..., Any]) -> Sequence[np.ndarray]:
            return results(type("Mutant", (rnn.CaptioningRNN,), {method: mutant}))

        key = f"CaptioningRNN.{method}"
        found = localise(rnn, key, run, values)
        yield from explained(name, "the-whole-captioner", observed, error, found, values, wanted)


class RuleChecks:
    """Checks of a student's update rules."""

    def __init__(self, student: Student) -> None:
        self.student = student

    def checks(self, names: Collection[str]) -> Iterator[tuple[str, Check]]:
        """Name and check of each of some rules."""
        for name in ("sgd", "sgd_momentum", "rmsprop", "adam"):
            if name in names:
                yield name, lambda name=name: self._rule(name)  # type: ignore[misc]

    def _rule(self, name: str) -> Iterator[Result]:
        rng = np.random.default_rng(3)
        w, gradients = rng.standard_normal((3, 4)), list(rng.standard_normal((3, 3, 4)))
        config = {"learning_rate": 0.05, "epsilon": 0.1}
        (values,) = self.student.probe(name, "rule", name, w, gradients, config, module="optim")
        if any(value is None or isinstance(value, Opaque) for value in values):
            raise FaultError(NOT_WRITTEN, f"Write {name}: it returns no weights.")
        steps = [f"the weights after {k + 1} steps" for k in range(len(gradients))]
        arrays = [as_array(name, step, value) for step, value in zip(steps, values, strict=True)]

        def run(mutant: Callable[..., Any]) -> list[np.ndarray]:
            modules = SimpleNamespace(optim=SimpleNamespace(**{name: mutant}))
            weights = probes.rule(modules, name, w, gradients, config)
            return [np.asarray(value) - w for value in weights]

        wanted = run(getattr(optim, name))
        for step, value in zip(steps, arrays, strict=True):
            if value.shape != w.shape:
                raise FaultError(*wrong_shape(name, step, value.shape, w.shape), step)
        moves = [value - w for value in arrays]
        error = relative_max_error(moves, wanted)
        if name == "adam":
            error = min(error, relative_max_error(moves, run(_adam_with_one_rate)))
        if error <= TOLERANCE:
            yield Result(name, True, error=error)
            return
        observed = observe(steps, moves, wanted)
        found = localise(optim, name, run, moves)
        yield from explained(name, "", observed, error, found, moves, wanted)


class SolverChecks:
    """Checks of a student's CaptioningSolver."""

    def __init__(self, student: Student) -> None:
        self.student = student

    def checks(self, names: Collection[str]) -> Iterator[tuple[str, Check]]:
        """Name and check of the solver."""
        yield "CaptioningSolver", self._solved

    def _solved(self) -> Iterator[Result]:
        name = "CaptioningSolver"
        self.student.require("captioning_solver", name)
        options = {
            "update_rule": "sgd",
            "optim_config": {"learning_rate": 0.1},
            "lr_decay": 0.5,
            "num_epochs": 3,
        }
        values = self.student.probe(name, "solver", options, module="captioning_solver")
        labels = ["loss_history", "params a", "params b", "batches", "captions of other pictures"]
        arrays = [as_array(name, label, value) for label, value in zip(labels, values, strict=True)]

        def run_with(method: str) -> Callable[[Callable[..., Any]], list[np.ndarray]]:
            def run(mutant: Callable[..., Any]) -> list[np.ndarray]:
                made = type("Mutant", (captioning_solver.CaptioningSolver,), {method: mutant})
                modules = SimpleNamespace(captioning_solver=SimpleNamespace(CaptioningSolver=made))
                return [np.asarray(value) for value in probes.solver(modules, options)]

            return run

        wanted = run_with("train")(captioning_solver.CaptioningSolver.train)
        if arrays[0].shape != wanted[0].shape:
            advice = (
                f"loss_history has {arrays[0].size} losses, not {wanted[0].size}: one for each of"
                " num_epochs * max(num_train // batch_size, 1) iterations."
            )
            raise FaultError("wrong number of steps", advice, "loss_history")
        error = relative_max_error(arrays, wanted)
        if error <= TOLERANCE:
            if (adam_verdict := self.student.verdicts.get("adam")) and not adam_verdict.passed:
                yield Result(name, True, error=error)
                return
            adam = {"update_rule": "adam", "optim_config": {"learning_rate": 0.1}, "num_epochs": 2}
            values = self.student.probe(name, "solver", adam, module="captioning_solver")
            second = [np.asarray(value, dtype=float) for value in values]
            error = relative_max_error(
                second, [np.asarray(one) for one in probes.solver(REFERENCE, adam)]
            )
            if error > TOLERANCE:
                raise FaultError(
                    "state shared",
                    "Right with sgd, wrong with adam: each parameter needs a config of its own,"
                    " and the config that the rule returns.",
                    "optim_configs",
                )
            yield Result(name, True, error=error)
            return
        observed = observe(labels, arrays, wanted)
        if wrong := self.student.wrong_below(name):
            yield Result(
                name, False, observed, FOLLOWS, f"Fix {wrong} first: {name} calls it.", error
            )
            return
        for method in ("train", "_step"):
            key = f"CaptioningSolver.{method}"
            found = localise(captioning_solver, key, run_with(method), arrays)
            if found and found.whole:
                break
        yield from explained(name, "", observed, error, found, arrays, wanted)


def _adam_with_one_rate(w: Any, dw: Any, config: Any) -> Any:
    """Adam in the form of Kingma and Ba 2015, end of section 2: epsilon is not corrected."""
    t = config.get("t", 0) + 1
    m = 0.9 * config.get("m", 0) + 0.1 * dw
    v = 0.999 * config.get("v", 0) + 0.001 * dw**2
    rate = config["learning_rate"] * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    return w - rate * m / (np.sqrt(v) + config["epsilon"]), {**config, "t": t, "m": m, "v": v}


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
        shapes = probes.captioner_parameters(REFERENCE, settings)
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


def _loss_and_grads(name: str, values: Sequence[Any]) -> tuple[np.ndarray, Mapping[str, Any]]:
    """The results of CaptioningRNN.loss; a fault if they are no loss and gradients."""
    if len(values) != 2 or not isinstance(values[1], dict):
        if values[0] is None:
            raise FaultError(NOT_WRITTEN, "Write CaptioningRNN.loss: it returns None.")
        raise FaultError(
            "wrong results", f"{name} does not return loss, grads, of which grads is a dict."
        )
    loss = as_array(name, "loss", values[0])
    if not (values[1] or loss.any()):
        raise FaultError(NOT_WRITTEN, "Write CaptioningRNN.loss: it returns 0 and no gradients.")
    return loss, values[1]
