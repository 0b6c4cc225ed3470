"""Judge observations: a function fails if an array differs from the reference's.

`judge` compares the stages of a probe in order. explain.py explains wrong results of the first
stage, "out"; FAULTS has what a difference in a later stage means. `pass_on_reference` and
`pass_on_own_forward` pass functions whose results are wrong only because another function is.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xpcap.cs231n import table
from xpcap.cs231n.grading import probes
from xpcap.cs231n.grading.cases import Cases
from xpcap.cs231n.grading.derivation import derivation
from xpcap.cs231n.grading.expected import (
    MODULES,
    TOLERANCE,
    adam_with_one_rate,
    first_use,
    gradients,
    names_of,
    relative_max_error,
    same,
)
from xpcap.cs231n.grading.explain import (
    advice_of,
    explained,
    gate,
    observe,
    search,
    transposed,
    with_derivation,
)
from xpcap.cs231n.grading.mutants import Localisation
from xpcap.cs231n.grading.report import Result
from xpcap.cs231n.grading.rules import wrong_shape
from xpcap.cs231n.grading.run import Line, Observation, Stopped
from xpcap.gradcheck import eval_numerical_gradient

NUMERIC_TOLERANCE = 1e-4  # of gradients by central differences
DIFFERENCE_ERRORS = 1e-11, 2e-9  # float64 errors in this range show finite differences
NOT_WRITTEN = "not written yet"
NUMERIC = "finite differences"
FOLLOWS = "follows from another function"
UNWRITTEN = "NotImplementedError"  # error of a function that is not written yet

# Stages in which a function with right first results may fail: stage, kind, how it is called, advice
FAULTS = """
after | overwrites its arguments |  | {name} overwrites {names}, which its caller still uses: work on a copy.
parameters | changes the parameters |  | {name} changes {names} of self.params; only the solver should.
kept | results share memory | called again | A second call of {name} changes the results of the first: return fresh arrays.
used | state not reset | called again | {name} is wrong on a model that was used before: keep no state on the model between calls.
second | state not reset | called again | {name} depends on the calls before it: keep no state between calls.
again | state not reset | called again | {name} depends on the calls before it: keep no state between calls.
later | state outside the cache | after another forward pass | After a second forward pass {name} is wrong for the second: does its cache still hold values of the first?
older | state outside the cache | with the cache of an earlier forward pass | After a second forward pass {name} is wrong for the first: keep what it needs in the cache, in separate arrays.
other | sizes hard-coded | with arrays of other sizes | {name} is right for arrays of one shape and wrong for others: are sizes or values hard-coded?
empty | wrong values | with a zero cell | {name} is wrong if the previous cell is zero.
single | wrong for one sample | for N = 1 | {name} is right for N > 1 and wrong for N = 1: is an axis of length 1 squeezed away?
long | wrong over many steps | for T = 40 | {name} is right over a few steps and wrong for T = 40: does a loop end early, or clip the state or gradient that it carries?
large | not stable | with large numbers | {name} gives NaN or infinity for pre-activations or scores near 1000, where exp overflows: use a stable form.
large | cut off | with large numbers | {name} is wrong for pre-activations or scores near 1000: is something clipped?
far | cut off | with large numbers | {name} is right for small numbers and wrong for large ones: is something clipped?
adam | state shared | with adam | Right with sgd, wrong with adam: give each parameter a separate config, and keep the config that the rule returns.
"""


class Judged(NamedTuple):
    """Verdict on a function.

    named : changes of the reference that explain the wrong results; None if there are none, or if a
        captioner with these changes would not use its cell
    raised : the line that raised an error in the first stage
    """

    results: list[Result]
    named: Localisation | None = None
    raised: Line | None = None

    @property
    def passed(self) -> bool:
        return all(result.passed for result in self.results)

    @property
    def follows(self) -> bool:
        """True if the function is, or may be, wrong only because another one is."""
        return self.results[0].kind == FOLLOWS


# Verdicts


def judge(
    row: table.Function,
    seen: Observation | Stopped,
    right: Observation,
    cases: Cases,
    wrong: Sequence[str],
    verdicts: Mapping[str, Judged],
) -> Judged:
    """The verdict on a function.

    wrong : the wrong functions among those that it calls or whose cache it reads
    verdicts : verdicts on the functions before it
    """
    name = row.name
    if isinstance(seen, Stopped):
        return Judged([Result(name, False, _where(seen.line), "stopped", f"{name} {seen.reason}.")])
    forward = verdicts[row.forward] if row.forward in wrong else None  # its forward pass, if wrong
    raised = seen.error("out")
    is_written = raised is None or raised[0] != UNWRITTEN
    is_bad_cache = forward and is_written and (forward.results[0].error is None or raised)
    if seen.error("cache") or is_bad_cache:
        return Judged([_follows(row, _first_fix(row, row.forward, verdicts))])
    # The first stage of a solver uses sgd, so a wrong adam does not matter there
    causes = (cause for cause in wrong if cause not in (row.forward, "adam"))
    below = next((_first_fix(row, cause, verdicts) for cause in causes), "")
    fault = _raised(row, seen, cases, right, below, verdicts)
    fault = fault or _malformed(row, seen, right, cases, below)
    if fault:
        return Judged([fault], raised=raised and raised[2])
    outputs = [key[4:] for key in right.arrays if key.startswith("out.")]
    values, wanted = ([side.arrays[f"out.{key}"] for key in outputs] for side in (seen, right))
    error = relative_max_error(values, wanted)
    variant = relative_max_error(values, adam_with_one_rate(cases)) if name == "adam" else error
    if variant <= TOLERANCE < error:
        return Judged([Result(name, True, error=variant)])
    if error <= TOLERANCE:
        is_numeric = (seen.note("calls").number or 0) > probes.MAX_FORWARDS
        later = None if is_numeric else _later(row, seen, right, error, wrong)
        if later and forward:  # its cache is wrong from the second call on
            return pass_on_reference(row, Judged([later]), [row.forward])
        return Judged([later or _passed(row, seen, right, error)])
    if not forward and _repeat_error(seen, outputs) > TOLERANCE:
        advice = (
            f"Two calls of {name} on the same arguments give different results: does it draw random"
            " numbers, or use state of the call before?"
        )
        return Judged([Result(name, False, "", "random results", advice, error)])
    where = observe(outputs, values, wanted, row)
    if name == "lstm_step_forward":
        where += gate(seen, right)
    if below:
        return Judged([_follows(row, below, where, error)])
    if forward and forward.named and forward.named.complete:
        grads = gradients(row, cases["first"], forward.named.function)
        # If all gradients are zero, as those of `sign`, returning zeros does not earn a pass
        if any(map(np.any, grads)) and relative_max_error(values, grads) <= TOLERANCE:
            return pass_on_reference(
                row, Judged([Result(name, False, where, error=error)]), [row.forward]
            )
    if forward:
        return Judged([_follows(row, _first_fix(row, row.forward, verdicts), where, error)])
    mistake = search(row, cases, values)
    first = cases["first"]
    results = explained(row, where, error, mistake, first, outputs, values, wanted)
    is_sound = row.module != "rnn" or _reads_cell(row, first, mistake)
    return Judged(results, mistake if is_sound else None)


def _reads_cell(
    row: table.Function, case: Mapping[str, np.ndarray], mistake: Localisation | None
) -> bool:
    """True if most results of a captioner with known mistakes depend on the weights of its cell.

    Code that returns zeros, or always the same word, may match some mistake, but is no captioner.
    """
    if mistake is None:
        return False
    method = row.method.rpartition(".")[2]
    model_class = type("Changed", (MODULES["rnn"].CaptioningRNN,), {method: mistake.function})
    flipped = {**case, **{name: -case[name] for name in ("Wx", "Wh")}}
    with np.errstate(all="ignore"):
        try:
            before, after = (first_use(row, model_class, c).arrays for c in (case, flipped))
        except (ValueError, LookupError):  # a changed sample may give an invalid word
            return False
    differs = [not np.array_equal(before[key], after[key], equal_nan=True) for key in before]
    return 2 * sum(differs) > len(differs)


def _repeat_error(seen: Observation, outputs: Iterable[str]) -> float:
    """The difference between two calls with the same arguments."""
    pairs = [(seen.arrays.get(f"again.{key}"), seen.arrays[f"out.{key}"]) for key in outputs]
    finite = [(a, b) for a, b in pairs if a is not None and np.isfinite(b).all()]
    return relative_max_error([a for a, _ in finite], [b for _, b in finite])


def _first_fix(row: table.Function, name: str, verdicts: Mapping[str, Judged]) -> str:
    """Advice to fix a wrong function below first, or the function that makes that one wrong."""
    kinds = {key: judged.results[0].kind for key, judged in verdicts.items()}
    while kinds.get(name) == FOLLOWS:
        below = (key for key in table.calls(name) if key in kinds and not verdicts[key].passed)
        if not (cause := min(below, key=list(kinds).index, default="")):
            break
        name = cause
    verb = "Write" if kinds.get(name) == NOT_WRITTEN else "Fix"
    use = "calls it" if name in table.calls(row.name) else "builds on it"
    return f"{verb} {name} first: {row.name} {'reads its cache' if name == row.forward else use}."


def _where(line: Line) -> str:
    return f"line {line.number}: {line.text}" if line.number else ""


def _follows(
    row: table.Function, advice: str, where: str = "", error: float | None = None
) -> Result:
    return Result(row.name, False, where, FOLLOWS, advice, error)


def _raised(
    row: table.Function,
    seen: Observation,
    cases: Cases,
    right: Observation,
    below: str,
    verdicts: Mapping[str, Judged],
) -> Result | None:
    """The verdict on an error in the first stage."""
    error = seen.error("import") or seen.error("shapes") or seen.error("out")
    if error is None:
        return None
    kind, message, line = error
    name = row.name
    where = _where(line)
    if kind == UNWRITTEN:
        # The line shows which function raised; the method of the other cell has the same line
        raised = (key for key in verdicts if verdicts[key].raised == line)
        if cause := next((key for key in raised if not key.startswith(row.method)), ""):
            return _follows(row, _first_fix(row, cause, verdicts), where)
        return Result(name, False, where, NOT_WRITTEN, f"Write {row.method}.")
    if below:
        return _follows(row, below, where)
    if change := transposed(row, seen, right, cases):
        return Result(name, False, where, change.kind, advice_of(name, change))
    text = f": {message}" if message else "."
    return Result(name, False, where, "raises an error", f"{name} raises {kind}{text}")


def _malformed(
    row: table.Function, seen: Observation, right: Observation, cases: Cases, below: str
) -> Result | None:
    """The verdict on results of a wrong number, type or shape."""
    name = row.name
    note = seen.note("out")
    if note.none:
        return Result(name, False, "", NOT_WRITTEN, f"Write {name}: it returns None.")
    if row.module == "rnn" and (fault := _captioner_fault(row, seen, right)):
        return fault
    if note.number is not None:
        expected = ", ".join(names_of(row))
        number = f"{note.number} result{'s' * (note.number != 1)}"
        advice = f"{name} returns {number}, not {len(names_of(row))}: {expected}."
        return Result(name, False, "", "wrong results", advice)
    for output in (key[4:] for key in right.arrays if key.startswith("out.")):
        if (value := seen.arrays.get(f"out.{output}")) is None:
            got = note.types.get(output, "nothing")
            shape = right.arrays[f"out.{output}"].shape
            advice = f"{name} returns {got} as {output}, not an array of shape {shape}."
            return Result(name, False, output, "wrong results", advice)
        wanted = right.arrays[f"out.{output}"]
        if output == "loss_history" and value.shape != wanted.shape:
            advice = (
                f"loss_history has length {value.size}, not {wanted.size}: it needs a loss for each"
                " of num_epochs * max(num_train // batch_size, 1) iterations."
            )
            return Result(name, False, output, "wrong number of steps", advice)
        if value.shape != wanted.shape:
            if below:
                return _follows(row, below, output)
            if change := transposed(row, seen, right, cases):
                return Result(name, False, output, change.kind, advice_of(name, change))
            shapes = {k[4:]: array.shape for k, array in right.arrays.items() if k[:4] == "out."}
            del shapes[output]
            kind, advice = wrong_shape(output, value.shape, wanted.shape, shapes)
            shown = derivation(name, output)
            return Result(name, False, output, kind, with_derivation(advice, shown))
    return None


def _captioner_fault(row: table.Function, seen: Observation, right: Observation) -> Result | None:
    """Faults of a captioner's parameters and gradients."""
    name = row.name
    if row.method.endswith("sample"):
        captions = seen.arrays.get("out.captions")
        if captions is not None and not captions.any():
            return Result(name, False, "", NOT_WRITTEN, f"Write {row.method}: all words are NULL.")
        return None
    for key in probes.PARAMETERS:
        shape, wanted = (side.arrays.get(f"shapes.{key}") for side in (seen, right))
        if wanted is not None and not np.array_equal(
            () if shape is None else shape.ravel(), wanted
        ):
            got = "is missing" if shape is None else f"has shape {tuple(shape.tolist())}"
            advice = f"The parameter {key} {got}, not {tuple(wanted.tolist())}."
            return Result(name, False, key, "wrong shape", advice)
    note = seen.note("out")
    loss = seen.arrays.get("out.loss")
    if note.number is not None:
        advice = f"{name} has to return loss, grads, where grads is a dict."
        return Result(name, False, "", "wrong results", advice)
    if loss is not None and not loss.any() and len(note.missing) == len(probes.PARAMETERS):
        advice = f"Write {row.method}: it returns 0 and no gradients."
        return Result(name, False, "", NOT_WRITTEN, advice)
    if note.missing:
        keys = ", ".join(note.missing)
        advice = f"grads has no {keys}; it needs a gradient for each key of params."
        return Result(name, False, keys, "gradient missing", advice)
    return None


def _later(
    row: table.Function,
    seen: Observation,
    right: Observation,
    error: float,
    wrong: Collection[str],
) -> Result | None:
    """The verdict on the first later stage that is wrong."""
    if names := seen.note("defaults").names:
        text = ", ".join(names)
        advice = (
            f"The default of {row.name}'s argument {text} is made once, so values that one call puts"
            " into it are there in the next call: make it inside the function."
        )
        return Result(row.name, False, text, "state not reset", advice, error)
    for stage, kind, use, words in (line.split(" | ") for line in FAULTS.strip().splitlines()):
        keys = [key for key in right.arrays if key.startswith(f"{stage}.")]
        # A backward pass that overwrites its arguments passes, with advice; `wrong` may have "adam"
        if not keys or stage in wrong or (row.forward and stage == "after"):
            continue
        if fault := seen.error(stage):
            type_, message, line = fault
            advice = f"{row.name}, {use}, raises {type_}: {message}"
            return Result(row.name, False, _where(line), kind, advice, error)
        off = [key.partition(".")[2] for key in keys if not same(seen, right, key)]
        if off and (kind != "not stable" or not _is_finite(seen, stage)):
            advice = words.format(name=row.name, names=", ".join(off))
            where = "" if use == "called again" else ", ".join(off)
            return Result(row.name, False, where, kind, advice, error)
    return None


def _is_finite(seen: Observation, stage: str) -> bool:
    values = (value for key, value in seen.arrays.items() if key.startswith(f"{stage}."))
    return all(np.isfinite(np.asarray(value, dtype=float)).all() for value in values)


def _passed(row: table.Function, seen: Observation, right: Observation, error: float) -> Result:
    """A pass, perhaps with advice on finite differences, arguments, memory or dtypes."""
    name = row.name
    steps = max(
        (value.shape[1] for key, value in seen.arrays.items() if key == "out.dx"), default=1
    )
    calls = seen.note("calls").number or 0
    floats = {
        key[4:]: value.dtype
        for key, value in seen.arrays.items()
        if key.startswith("out.") and value.dtype.kind == "f"
    }
    exact = all(dtype == np.float64 for dtype in floats.values())
    if row.forward and (
        calls > 2 * steps + 2 or (exact and DIFFERENCE_ERRORS[0] < error < DIFFERENCE_ERRORS[1])
    ):
        why = f"calls {row.forward} {calls:,} times" if calls > 2 else f"has errors of {error:.0e}"
        advice = (
            f"Right, but {name} {why}, like finite differences: derived by hand, it has an error"
            " near 1e-14."
        )
        return Result(name, True, "", NUMERIC, advice, error)
    if seen.note("complex").number:
        advice = (
            f"Right, but {name} computes with complex numbers, like complex-step differentiation:"
            " derived by hand, it needs none."
        )
        return Result(name, True, "", "complex step", advice, error)
    after = [key for key in right.arrays if key.startswith("after.")]
    if changed := [key[6:] for key in after if not same(seen, right, key)]:
        keys = ", ".join(changed)
        advice = f"Right, but {name} overwrites {keys}: work on a copy."
        return Result(name, True, keys, "overwrites its arguments", advice, error)
    if names := seen.note("shared").names:
        advice = f"Right, but {name} returns memory of its arguments: return a copy."
        return Result(name, True, ", ".join(names), "results share memory", advice, error)
    if row.module == "rnn_layers" and not exact:
        inexact = {key: dtype for key, dtype in floats.items() if dtype != np.float64}
        advice = (
            f"Right, but {name} returns {next(iter(inexact.values()))} for float64 arguments, so"
            " gradient checks lose digits: make arrays of the dtype of the inputs."
        )
        return Result(name, True, ", ".join(inexact), "dtype changed", advice, error)
    return Result(name, True, error=error)


# Wrong results that follow from a mistake elsewhere


def pass_on_reference(row: table.Function, judged: Judged, below: Sequence[str]) -> Judged:
    """Pass a function that is correct on reference dependencies, though wrong on the submission's."""
    if not below:
        return judged
    *others, last = below
    names = f"{', '.join(others)} and {last} are" if others else f"{last} is"
    advice = f"Right once {names} right."
    return Judged([Result(row.name, True, "", FOLLOWS, advice, judged.results[0].error)])


def report_shared_mistakes_once(verdicts: Mapping[str, Judged]) -> dict[str, Judged]:
    """The verdicts on captioners; a mistake in a line that both cells run fails only the first."""
    reported: dict[Any, str] = {}  # mistake to the function that it fails
    results = {}
    for name, judged in verdicts.items():
        changes = judged.named.changes if judged.named and judged.named.complete else []
        key = table.FUNCTIONS[name].method, [(c.statement, c.instead) for c in changes]
        if changes and (first := reported.setdefault(str(key), name)) != name:
            advice = f"The same mistake as in {first}: fix it there."
            result = Result(name, True, "", FOLLOWS, advice, judged.results[0].error)
            judged = judged._replace(results=[result])
        results[name] = judged
    return results


def pass_on_own_forward(
    row: table.Function,
    seen: Observation,
    case: Mapping[str, np.ndarray],
    forward: Callable[..., Any],
) -> Judged | None:
    """Pass a backward pass that is right for a forward pass with a known mistake, else None.

    forward : the reference with that mistake; its gradients are taken by central differences
    """
    inputs, gradients = probes.split_case(case)
    upstream = list(gradients.values())

    def loss(_: np.ndarray) -> float:
        results = forward(*probes.copied(inputs).values())[: len(upstream)]
        return sum(float((out * dout).sum()) for out, dout in zip(results, upstream, strict=True))

    wanted = [
        eval_numerical_gradient(loss, inputs[name], verbose=False)
        for name in inputs
        if table.gradient(name) in row.results
    ]
    values = [seen.arrays.get(f"out.{name}") for name in row.results]
    error = relative_max_error(values, wanted)
    if error > NUMERIC_TOLERANCE or not all(map(np.any, wanted)):
        return None
    advice = f"Right for {row.forward} as you wrote it, which is wrong: fix {row.forward}."
    return Judged([Result(row.name, True, "", FOLLOWS, advice, error)])
