"""Probes of the reference functions, and of references with a mistake."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from xpcap.cs231n import table
from xpcap.cs231n.grading import probes
from xpcap.cs231n.grading.cases import Cases
from xpcap.cs231n.grading.run import Observation, Stopped
from xpcap.cs231n.reference import captioning_solver, optim, rnn, rnn_layers

TOLERANCE = 1e-5  # of `relative_max_error`; some students compute in float32
MODULES = {
    "rnn_layers": rnn_layers,
    "rnn": rnn,
    "optim": optim,
    "captioning_solver": captioning_solver,
}
Seen = TypeVar("Seen", Observation, Observation | Stopped)


def probe_of(row: table.Function) -> str:
    """The name of a function's probe."""
    if row.module == "rnn":
        return f"captioner_{row.method.rpartition('.')[2]}"
    if row.module == "rnn_layers":
        return "backward" if row.forward else "forward"
    return {"optim": "rule", "captioning_solver": "solver"}[row.module]


def names_of(row: table.Function) -> list[str]:
    """Names of a function's results, including a layer's cache."""
    has_cache = row.name.endswith("_forward")
    return [*row.results, *["cache"] * has_cache]


def reference(row: table.Function, cases: Cases) -> Observation:
    """Observation of the reference by the probe of a function."""
    called = [getattr(MODULES[row.module], name) for name in row.passes]
    record = probes.Record()
    probed: Any = called if probe_of(row) == "backward" else called[0]
    probes.PROBES[probe_of(row)](probed, names_of(row), cases, record)
    return cut_after_end(row, Observation(record.arrays, {}), cases)


def cut_after_end(row: table.Function, seen: Seen, cases: Cases) -> Seen:
    """An observation whose sampled captions are zero after END, where right solutions differ."""
    if not row.method.endswith("sample") or isinstance(seen, Stopped):
        return seen
    arrays = {}
    for key, captions in seen.arrays.items():
        stage, _, name = key.partition(".")
        arrays[key] = captions
        if name == "captions" and captions.ndim == 2:
            case = cases.get(stage, cases["first"])
            ended = captions == list(case["vocabulary"]).index("<END>")
            arrays[key] = np.where(ended.cumsum(axis=1) - ended > 0, 0, captions)
    return seen._replace(arrays=arrays)


def adam_with_one_rate(cases: Cases) -> list[np.ndarray]:
    """Adam's steps by Kingma and Ba 2015, end of section 2, whose epsilon has no bias correction."""

    def rule(w: Any, dw: Any, config: Any) -> Any:
        t = config.get("t", 0) + 1
        m = 0.9 * config.get("m", 0) + 0.1 * dw
        v = 0.999 * config.get("v", 0) + 0.001 * dw**2
        rate = config["learning_rate"] * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        w = w - rate * m / (np.sqrt(v) + config["epsilon"])
        return w, {**config, "t": t, "m": m, "v": v}

    record = probes.Record()
    probes.rule(rule, (), {"first": cases["first"]}, record)
    return [value for key, value in record.arrays.items() if key.startswith("out.")]


def gradients(
    row: table.Function, case: Mapping[str, np.ndarray], forward: Callable[..., Any]
) -> Sequence[Any]:
    """Gradients of the reference's backward pass on the cache of a changed forward pass."""
    inputs, upstream = probes.split_case(case)
    with np.errstate(all="ignore"):
        try:
            return as_tuple(
                getattr(rnn_layers, row.name)(*upstream.values(), forward(*inputs.values())[-1])
            )
        except (ValueError, TypeError, LookupError):  # the changed cache may not fit
            return ()


def first_use(row: table.Function, probed: Any, first: Mapping[str, np.ndarray]) -> Observation:
    """The first stage of a probe of a reference function, or of a changed one."""
    record = probes.Record()
    if row.module == "rnn":
        model = probes.captioner(probed, first)
        if row.method.endswith("loss"):
            loss, grads = model.loss(np.array(first["features"]), np.array(first["captions"]))
            values = {"loss": loss, **{f"d{key}": grads[key] for key in probes.PARAMETERS}}
        else:
            values = {"captions": model.sample(first["features"], int(first["length"][0]))}
        record.all("out", values)
    else:
        probes.PROBES[probe_of(row)](probed, names_of(row), {"first": first}, record)
    return Observation(record.arrays, {})


def as_tuple(results: Any) -> tuple[Any, ...]:
    return results if isinstance(results, tuple) else (results,)


def relative_max_error(values: Sequence[Any], wanted: Sequence[Any]) -> float:
    """The largest max |got - wanted| / max |wanted|; infinite if values cannot be compared."""
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


def same(seen: Observation, right: Observation, key: str) -> bool:
    if key not in seen.arrays:
        return False
    return relative_max_error([seen.arrays[key]], [right.arrays[key]]) <= TOLERANCE
