"""A student's functions as checks call them: failures become faults, verdicts are remembered."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from xpcap.exercise.grading.submission import Handle, Returned, Stopped, StudentError, Submission
from xpcap.exercise.grading.verdicts import (
    FOLLOWS,
    NOT_WRITTEN,
    FaultError,
    Result,
    as_array,
    wrong_shape,
)

Check = Callable[[], Iterator[Result]]


class Answer(NamedTuple):
    """Results of a student's function, checked for number and shape."""

    values: list[np.ndarray]
    handle: Handle | None
    returned: Returned


class Student:
    """A submission, and the verdicts on its functions so far.

    Attributes
    ----------
    verdicts : the first result of each function
    """

    def __init__(self, submission: Submission) -> None:
        self.submission = submission
        self.verdicts: dict[str, Result] = {}
        self._broken: set[str] = set()  # modules that cannot be imported

    def judge(self, name: str, module: str, check: Check) -> Iterator[Result]:
        """The results of a check, whose faults are results too."""
        for result in self._results(name, module, check):
            self.verdicts.setdefault(name, result)
            yield result

    def _results(self, name: str, module: str, check: Check) -> Iterator[Result]:
        try:
            self._load(name, module)
            yield from check()
        except FaultError as fault:
            wrong = self.wrong_below(name)
            if wrong and fault.kind not in (NOT_WRITTEN, FOLLOWS):
                advice = f"Fix {wrong} first: {name} calls it. {fault.advice}"
                yield Result(name, False, fault.where, FOLLOWS, advice)
            else:
                yield Result(name, False, fault.where, fault.kind, fault.advice)

    def _load(self, name: str, module: str) -> None:
        """A fault if a module of the submission cannot be imported; told whole the first time."""
        if module in self._broken:
            advice = f"Fix {module} first: importing it fails."
            raise FaultError(FOLLOWS, advice)
        try:
            self.ask(name, lambda: self.submission.load(module))
        except FaultError as fault:
            self._broken.add(module)
            advice = f"Importing {module} fails, so nothing of it can be graded. {fault.advice}"
            raise FaultError(fault.kind, advice, fault.where) from fault

    def wrong_below(self, name: str) -> str:
        """The first function that is wrong, of those that a function calls."""
        wrong = (other for other, verdict in self.verdicts.items() if not verdict.passed)
        return next((other for other in wrong if builds_on(name, other)), "")

    def ask(self, name: str, call: Callable[[], Any]) -> Any:
        """The answer to a call for the check of `name`; failures become faults."""
        try:
            return call()
        except StudentError as error:
            raise self._fault_of(name, error) from error
        except Stopped as stopped:
            where = f"line {stopped.line}: {stopped.text}" if stopped.line else ""
            raise FaultError("stopped", f"{name} {stopped.reason}.", where) from stopped

    def _fault_of(self, name: str, error: StudentError) -> FaultError:
        where = f"line {error.line}: {error.text}" if error.line else ""
        for other, verdict in self.verdicts.items():
            if verdict.kind == NOT_WRITTEN and builds_on(name, other):
                return FaultError(FOLLOWS, f"Write {other} first: {name} calls it.", where)
        if error.type == "NotImplementedError":
            return FaultError(NOT_WRITTEN, f"Write {name}.", where)
        return FaultError("raises an error", f"{name} raises {error.type}: {error.message}", where)

    def probe(self, name: str, function: str, *arguments: Any, module: str) -> tuple[Any, ...]:
        """The results of a function of probes.py, for the check of `name`."""
        values: tuple[Any, ...] = self.ask(
            name, lambda: self.submission.call(f"probe.{function}", *arguments, module=module)
        ).values
        return values

    def require(self, module: str, name: str) -> None:
        """A fault if the submission does not define a name of a module that it brings."""
        if name not in self.submission.defines.get(module, ()):
            raise FaultError(NOT_WRITTEN, f"Write {name}.")

    def answer(
        self,
        name: str,
        outputs: Sequence[str],
        arguments: Sequence[Any],
        wanted: Sequence[np.ndarray],
        keep: bool = False,
    ) -> Answer:
        """Call a layer's function; a fault unless it returns as many arrays of these shapes."""
        returned = self.ask(
            name,
            lambda: self.submission.call(
                name, *arguments, keep=keep, arguments=True, module="rnn_layers"
            ),
        )
        values = list(returned.values)
        if len(values) == 1 < len(outputs) and isinstance(values[0], list):
            values = values[0]
        handle = values.pop() if keep and values and isinstance(values[-1], Handle) else None
        if any(value is None for value in values) or not values:
            raise FaultError(NOT_WRITTEN, f"Write {name}: it returns None.")
        if len(values) != len(outputs) or (keep and handle is None):
            expected = ", ".join([*outputs, *(["cache"] if keep else [])])
            came = len(values) + (handle is not None)
            raise FaultError("wrong results", f"{name} returns {came} results, not {expected}.")
        arrays = [
            as_array(name, output, value) for output, value in zip(outputs, values, strict=True)
        ]
        for output, value, right in zip(outputs, arrays, wanted, strict=True):
            if value.shape != np.shape(right):
                raise FaultError(*wrong_shape(name, output, value.shape, np.shape(right)), output)
        return Answer(arrays, handle, returned)


def builds_on(name: str, other: str) -> bool:
    """True if a function of the course calls another, or reads its cache."""
    if name == "CaptioningSolver":
        return other in ("sgd", "adam")
    layer, _, way = other.rpartition("_")
    if name.startswith("CaptioningRNN"):
        strange = "rnn" if "(lstm)" in name else "lstm"
        if layer.startswith(strange):
            return False
        if ".sample" in name:
            return way == "forward" and layer not in ("rnn", "lstm")
        return way in ("forward", "backward") or other == "temporal_softmax_loss"
    own, _, own_way = name.rpartition("_")
    below = ["sigmoid"] * own.startswith("lstm") + [f"{own}_step_forward"]
    if own_way == "backward":
        below += [f"{own}_forward", f"{own}_step_backward"]
    return other in below
