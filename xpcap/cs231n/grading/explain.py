"""Locations of wrong results, by output, gate and time step, and the mistake that causes them."""

import re
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from xpcap.cs231n import table
from xpcap.cs231n.grading import probes
from xpcap.cs231n.grading.cases import Cases
from xpcap.cs231n.grading.derivation import derivation
from xpcap.cs231n.grading.expected import (
    MODULES,
    TOLERANCE,
    as_tuple,
    cut_after_end,
    first_use,
    relative_max_error,
    same,
)
from xpcap.cs231n.grading.mutants import Change, Localisation, localise
from xpcap.cs231n.grading.report import Result
from xpcap.cs231n.grading.run import Observation
from xpcap.cs231n.reference import rnn_layers


def observe(
    names: Sequence[str],
    values: Sequence[np.ndarray],
    wanted: Sequence[np.ndarray],
    row: table.Function,
) -> str:
    """Names of wrong outputs, with the gates or time steps if only some of them are wrong."""
    sequences: Collection[str] = ("h", "dx") if row.step else ("captions",)
    has_gates = row.cell == "lstm" and row.module == "rnn_layers"
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
        if has_gates and name in ("dWx", "dWh", "db"):
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


def gate(seen: Observation, right: Observation) -> str:
    """The wrong gate of an LSTM step: o if the cell is right, f if it is right for c = 0."""
    if same(seen, right, "out.next_c"):
        return "; gate o, or the tanh"
    empty = same(seen, right, "empty.next_c")
    return "; gate f" if empty else "; gate i or g"


def search(
    row: table.Function, cases: Cases, values: Sequence[np.ndarray], case: str = "first"
) -> Localisation | None:
    """Changes of the reference that give a student's results."""
    first = probes.copied(cases[case])
    inputs, upstream = probes.split_case(first)
    for value in (*first.values(), *inputs.values(), *upstream.values()):
        value.flags.writeable = False  # mutants share them
    if row.module == "rnn_layers":
        if row.forward:
            cache = getattr(rnn_layers, row.forward)(*inputs.values())[-1]

            def run(mutant: Callable[..., Any]) -> Sequence[Any]:
                return as_tuple(mutant(*upstream.values(), cache))
        else:
            number = len(row.results)

            def run(mutant: Callable[..., Any]) -> Sequence[Any]:
                return as_tuple(mutant(*inputs.values()))[:number]

        gates = row.cell == "lstm"
        return localise(rnn_layers, row.name, run, values, gates=gates)
    methods = {"rnn": [row.method.rpartition(".")[2]], "captioning_solver": ["train", "_step"]}
    mistake = None
    for method in methods.get(row.module, [""]):
        key = f"{row.defined}.{method}" if method else row.name

        def run_method(mutant: Callable[..., Any], method: str = method) -> Sequence[Any]:
            reference = getattr(MODULES[row.module], row.defined)
            probed = type("Mutant", (reference,), {method: mutant}) if method else mutant
            arrays = cut_after_end(row, first_use(row, probed, first), cases).arrays
            return [value for key, value in arrays.items() if key.startswith("out.")]

        mistake = localise(MODULES[row.module], key, run_method, values)
        if mistake and mistake.complete:
            break
    return mistake


def transposed(
    row: table.Function, seen: Observation, right: Observation, cases: Cases
) -> Change | None:
    """The change that explains a shape error, found with sizes at which transposed arrays fit."""
    names = [key.partition(".")[2] for key in right.arrays if key.startswith("square.")]
    keys = [f"square.{name}" for name in names]
    if not keys or any(key not in seen.arrays for key in keys):
        return None
    values = [seen.arrays[key] for key in keys]
    wanted = [right.arrays[key] for key in keys]
    if [value.shape for value in values] != [value.shape for value in wanted]:
        return None
    mistake = search(row, cases, values, "square")
    return mistake.changes[0] if mistake and mistake.complete else None


def explained(
    row: table.Function,
    observed: str,
    error: float,
    mistake: Localisation | None,
    case: Mapping[str, np.ndarray],
    names: Sequence[str],
    values: Sequence[np.ndarray],
    wanted: Sequence[np.ndarray],
) -> list[Result]:
    """A result for each change that explains the values, or one for an unknown mistake."""
    name = row.name
    if mistake is None:
        kind, advice, off = _unexplained(row, case, names, values, wanted)
        lines = derivation(name, _variables(row, observed) or off)
        return [Result(name, False, observed, kind, with_derivation(advice, lines), error)]
    results = []
    outputs = observed.split("; gate")[0]
    is_single = len(mistake.changes) == 1
    for change in mistake.changes:
        where = outputs if is_single or change.target not in names else change.target
        if change.gate:
            where = f"gate {change.gate}: {where}"
        elif is_single:
            where = observed
        advice = advice_of(name, change)
        if not mistake.complete:
            advice += " This does not explain all errors: fix it, then grade again."
        results.append(Result(name, False, where, change.kind, advice, error))
    return results


def _factors(case: Mapping[str, np.ndarray]) -> list[tuple[float, str, str]]:
    """Factors by which results may be off, each with a kind and a description."""
    factors = [
        (-1.0, "sign", "-1"),
        (2.0, "added twice", "2"),
        (0.5, "wrong factor", "1 / 2"),
    ]
    if "captions" in case:
        N, T = case["captions"][:, 1:].shape
    else:
        N, T, *_ = (*next(iter(case.values())).shape, 1)
    for size, name in ((N, "N"), (T, "T"), (N * T, "(N T)")):
        mean = f"1 / {name}, a mean instead of a sum"
        total = f"{name}, a sum instead of a mean"
        factors += [(1 / size, "mean for a sum", mean), (float(size), "sum for a mean", total)]
    return factors


def _unexplained(
    row: table.Function,
    case: Mapping[str, np.ndarray],
    names: Sequence[str],
    values: Sequence[np.ndarray],
    wanted: Sequence[np.ndarray],
) -> tuple[str, str, str]:
    """Kind, advice and output for values that no change of the reference function explains."""
    name = row.name
    wrong = [
        (output, value, right)
        for output, value, right in zip(names, values, wanted, strict=True)
        if relative_max_error([value], [right]) > TOLERANCE
    ]
    off = wrong[0][0]
    if not all(np.isfinite(np.asarray(value, dtype=float)).all() for value in values):
        return "not finite", f"{name} gives NaN or infinity on small numbers.", off
    for factor, kind, words in _factors(case):
        if all(
            relative_max_error([value], [factor * right]) <= TOLERANCE for _, value, right in wrong
        ):
            return kind, f"All wrong outputs of {name} are off by the factor {words}.", off
    if all(not value.any() for _, value, _ in wrong):
        advice = f"All wrong outputs of {name} are zeros: are they computed, and returned?"
        return "left at zero", advice, off
    return "wrong values", f"No known mistake explains {name}: check it line by line.", off


def _variables(row: table.Function, observed: str) -> str:
    """Variables of the wrong gates; for a forward pass also the wrong outputs."""
    gates = re.findall(r"\b[ifog]\b", observed.partition("; gate ")[2].partition(";")[0])
    if row.forward:
        return " ".join(f"d{gate} da_{gate}" for gate in gates)
    return " ".join([*gates, observed.partition(";")[0]]) if gates else ""


def advice_of(name: str, change: Change) -> str:
    detail = change.detail[0].upper() + change.detail[1:]
    line = "" if change.instead == "pass" else f" Your results match `{change.instead}`."
    results = list(table.FUNCTIONS[name].results)
    target = change.target or (results[0] if len(results) == 1 else "")
    return with_derivation(f"{detail}.{line}", derivation(name, target))


def with_derivation(advice: str, lines: str) -> str:
    """Advice, and below it the derivation, indented so that reports keep its lines."""
    return f"{advice} Derivation:\n{textwrap.indent(lines, '    ')}" if lines else advice
