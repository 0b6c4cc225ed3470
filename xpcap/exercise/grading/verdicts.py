"""Verdicts on a function: the result, faults, and the words for what is wrong and where."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from xpcap.exercise.grading import rules
from xpcap.exercise.grading.known import LABELS
from xpcap.exercise.grading.mutants import Change, Localisation
from xpcap.exercise.grading.submission import Opaque

TOLERANCE = 1e-5  # of `relative_max_error`: some students compute in float32 throughout
NOT_WRITTEN = "not written yet"
FOLLOWS = "follows from another function"
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


class Result(NamedTuple):
    """Finding of one function.

    Parameters
    ----------
    function : str
        Name in the course's files, such as "lstm_step_backward", "CaptioningRNN.loss (lstm)".
    passed : bool
        True if the function is right. It may still have a remark in `kind` and `advice`.
    where : str
        Outputs, gate and time steps that are wrong, or the line that raised. "" for nowhere.
    kind : str
        Kind of mistake, such as "missing derivative of tanh". "" for none.
    advice : str
        One sentence, and the page and line of the derivation.
    error : float or None
        ``max |got - wanted| / max |wanted|`` of the worst output. None if nothing was compared.
    """

    function: str
    passed: bool
    where: str = ""
    kind: str = ""
    advice: str = ""
    error: float | None = None


class FaultError(Exception):
    """A fault found before results could be compared."""

    def __init__(self, kind: str, advice: str, where: str = "") -> None:
        super().__init__(kind)
        self.kind, self.advice, self.where = kind, advice, where


def as_array(name: str, output: str, value: Any) -> np.ndarray:
    """A result as an array; a fault if it is none."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):
        array = np.asarray(None)
    if array.dtype.kind not in "fiub":
        kind = "wrong results"
        came = value.type if isinstance(value, Opaque) else type(value).__name__
        raise FaultError(kind, f"{name} returns {came} as {output}, not an array.", output)
    return array


def relative_max_error(values: Sequence[Any], wanted: Sequence[Any]) -> float:
    """The largest max |got - wanted| / max |wanted|; infinite for what cannot be compared."""
    if len(values) != len(wanted):
        return float("inf")
    worst = 0.0
    for value, right in zip(values, wanted, strict=True):
        try:
            got = np.asarray(value, dtype=float)
        except (TypeError, ValueError):
            return float("inf")
        if got.shape != np.shape(right) or not np.isfinite(got).all():
            return float("inf")
        scale = float(np.abs(right).max(initial=0.0)) or 1.0
        worst = max(worst, float(np.abs(got - right).max(initial=0.0)) / scale)
    return worst


def wrong_shape(
    name: str, output: str, came: tuple[int, ...], right: tuple[int, ...]
) -> tuple[str, str]:
    """Kind and advice for a result of another shape."""
    return rules.wrong_shape(output, came, right)


def observe(
    names: Sequence[str],
    values: Sequence[np.ndarray],
    wanted: Sequence[np.ndarray],
    gates: bool = False,
    sequences: Collection[str] = (),
) -> str:
    """Names of wrong outputs, and the gates or time steps if only some are wrong.

    Parameters
    ----------
    names, values, wanted : of the outputs
    gates : the last axis of dWx, dWh and db has four gates
    sequences : outputs whose second axis is time
    """
    wrong = []
    wrong_gates: set[str] = set()
    steps: set[int] = set()
    length = 0
    for name, value, right in zip(names, values, wanted, strict=True):
        scale = float(np.abs(right).max(initial=0.0)) or 1.0
        off = ~(np.abs(np.asarray(value, dtype=float) - right) <= TOLERANCE * scale)
        if not off.any():
            continue
        wrong.append(name)
        if gates and name in ("dWx", "dWh", "db"):
            blocks = np.split(off, 4, axis=-1)
            wrong_gates |= {gate for gate, block in zip("ifog", blocks, strict=True) if block.any()}
        if name in sequences:
            steps |= set(np.flatnonzero(off.any(axis=(0, *range(2, off.ndim)))).tolist())
            length = off.shape[1]
    text = ", ".join(wrong)
    if 0 < len(wrong_gates) < 4:
        text += f"; gate {', '.join(gate for gate in 'ifog' if gate in wrong_gates)}"
    if 0 < len(steps) < length:
        text += f"; time step {', '.join(str(step) for step in sorted(steps))}"
    return text


def explained(
    name: str,
    page: str,
    observed: str,
    error: float,
    found: Localisation | None,
    values: Sequence[np.ndarray],
    wanted: Sequence[np.ndarray],
) -> Iterator[Result]:
    """Results for the changes that explain what came, or for what can be seen without."""
    if found is None:
        kind, advice = _seen(name, values, wanted)
        yield Result(name, False, observed, kind, f"{advice}{derivation(name, page, '')}", error)
        return
    for change in found.changes:
        where = f"gate {change.gate}: {observed.split('; gate')[0]}" if change.gate else observed
        advice = advice_of(name, page, change)
        if not found.whole:
            advice += " That does not explain all: fix this, then grade again."
        yield Result(name, False, where, change.kind, advice, error)


def _seen(name: str, values: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> tuple[str, str]:
    """Kind and advice for what no change of the reference function explains."""
    if not all(np.isfinite(value).all() for value in values):
        return "not finite", f"{name} gives NaN or infinity on small numbers."
    wrong = [
        (value, right)
        for value, right in zip(values, wanted, strict=True)
        if relative_max_error([value], [right]) > TOLERANCE
    ]
    for factor, kind, words in FACTORS:
        if all(
            relative_max_error([value], [factor * right]) <= TOLERANCE for value, right in wrong
        ):
            return kind, f"All that is wrong of {name} is wrong by one factor: {words}."
    if all(not value.any() for value, _ in wrong):
        return (
            "left at zero",
            f"What is wrong of {name} is all zeros: is it computed, and returned?",
        )
    return "wrong values", f"No known mistake explains {name}: go through it line by line."


def advice_of(name: str, page: str, change: Change) -> str:
    detail = change.detail[0].upper() + change.detail[1:]
    match = "" if change.instead == "pass" else f" Your results match `{change.instead}`."
    return f"{detail}.{match}{derivation(name, page, change.target)}"


def derivation(name: str, page: str, target: str) -> str:
    """The sentence that leads to a section of docs/explain/backward.md, and to the line of a variable."""
    if not page:
        return ""
    label = LABELS.get(name, {}).get(target, "")
    line = f", line {label}" if label.startswith("F") else ""
    return f" Derivation: docs/explain/backward.md#{page}{line}."
