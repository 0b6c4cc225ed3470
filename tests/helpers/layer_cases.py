"""The public layers as cases: arrays drawn from the shapes that each pair of functions states, and its
forward and backward pass by the names of arrays. `xpcap.layers` is walked, so a new pair has a case
by itself.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from xpcap import layers
from xpcap.layers import CELLS, PackedSequences
from xpcap.spec import Spec

SIZES = {"N": 3, "T": 4, "D": 5, "H": 2, "M": 6, "V": 9, "P": 8, "J": 2, "K": 4}
PAIRS = [
    name.removesuffix("_forward")
    for name in layers.__all__
    if name.replace("_forward", "_backward") in set(layers.__all__) - {name}
]
SHAPES = {  # of pairs whose own leave axes open
    "affine": "x:N,2,D w:2D,M b:M -> out:N,M",
    "word_embedding": "x:N,T=i W:V,D -> out:N,T,D",
    "dropout": "x:N,T,D -> out:N,T,D",
}
OTHERS: dict[str, list[dict[str, Any]]] = {  # what pairs take besides arrays
    "attention": [{"cell": cell} for cell in CELLS],
    "dropout": [
        {"dropout_param": {"p": 0.6, "mode": mode, "seed": 3}} for mode in ("train", "test")
    ],
}
ROWS = PackedSequences.of([3, 2, 2], 4)  # sequences of 3, 3, 1 and no steps


class Case(NamedTuple):
    """A layer with the shapes of its arguments."""

    name: str
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    shapes: dict[str, tuple[int, ...]]  # of all arrays, by argument
    ids: dict[str, int]  # arguments that are word ids, with their number
    results: dict[str, tuple[int, ...]]
    upstream: tuple[str, ...]  # upstream gradients of the backward pass
    others: dict[str, Any]

    def __str__(self) -> str:
        return self.name

    @property
    def floats(self) -> list[str]:
        """Arguments that have gradients."""
        return [name for name in self.shapes if name not in self.ids]

    def draw(self, rng: np.random.Generator, dtype: Any = "float64") -> dict[str, np.ndarray]:
        """Arguments."""
        arrays = {name: rng.integers(0, V, self.shapes[name]) for name, V in self.ids.items()}
        floats = {name: rng.standard_normal(self.shapes[name]) for name in self.floats}
        return {name: x.astype(dtype) for name, x in floats.items()} | arrays

    def draw_upstream(
        self, rng: np.random.Generator, dtype: Any = "float64"
    ) -> dict[str, np.ndarray]:
        """Upstream gradients."""
        shapes = {name: self.results[name[1:]] for name in self.upstream}
        return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}

    def run(self, arrays: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        """Results by name, and the cache."""
        *results, cache = self.forward(**arrays, **self.others)
        return dict(zip(self.results, results, strict=True)), cache

    def gradients(self, upstream: Mapping[str, Any], cache: Any) -> dict[str, Any]:
        """Gradients by argument."""
        grads = self.backward(**upstream, cache=cache)
        grads = grads if isinstance(grads, tuple) else (grads,)
        return dict(zip(self.floats, grads, strict=True))


def cases(sizes: Mapping[str, int] = SIZES) -> dict[str, Case]:
    """All cases by name; several of a pair with optional arrays, other forms or other arguments."""
    return {case.name: case for pair in PAIRS for case in _cases(pair, sizes)}


def _cases(pair: str, sizes: Mapping[str, int]) -> Iterator[Case]:
    forward, backward = (getattr(layers, f"{pair}_{way}") for way in ("forward", "backward"))
    if pair.endswith("_rows"):
        yield from _packed(pair, forward, backward, sizes)
        return
    if pair not in SHAPES and not hasattr(forward, "spec"):
        return  # test_layers.py names it
    spec = Spec(SHAPES[pair]) if pair in SHAPES else forward.spec
    optional = [entry.name for entry in spec.entries if entry.optional]
    parameters = inspect.signature(backward).parameters
    for others in OTHERS.get(pair, [{}]):
        known = dict(sizes)
        if "cell" in others:
            (known["G"],) = CELLS[others["cell"]].shapes(1, known["H"])["b"]
        for form in range(max(len(entry.forms) for entry in spec.entries)):
            for left_out in [optional, []] if optional else [[]]:
                entries = [entry for entry in spec.entries if entry.name not in left_out]

                def shape(entry: Any, form: int = form, known: Any = known) -> tuple[int, ...]:
                    return entry.forms[min(form, len(entry.forms) - 1)].shape(known)

                results = {
                    entry.name: shape(entry)
                    for entry in spec.results
                    if not (left_out and entry.optional)
                }
                yield Case(
                    ", ".join([pair, *map(str, others.values())] + [f"form {form}"] * (form > 0))
                    + "".join(f", {name}" for name in optional if not left_out),
                    forward,
                    backward,
                    {entry.name: shape(entry) for entry in entries},
                    {entry.name: known["V"] for entry in entries if entry.kind == "i"},
                    results,
                    tuple(f"d{name}" for name in results if f"d{name}" in parameters),
                    others,
                )


def _packed(
    pair: str, forward: Callable[..., Any], backward: Callable[..., Any], sizes: Mapping[str, int]
) -> Iterator[Case]:
    """Loops over rows, which take their state as a tuple; also with a gradient of the last c."""
    cell, H, N = CELLS[pair.removesuffix("_rows")], sizes["H"], ROWS.N
    (G,) = cell.shapes(1, H)["b"]
    states = [f"{name}0" for name in cell.state_names]

    def run(a: Any, Wh: Any, **state0: Any) -> Any:
        return forward(a, tuple(state0[name] for name in states), Wh, ROWS)

    def run_carried(**arrays: Any) -> Any:
        """The last c of a sequence is that row of the stack, or c0."""
        h, cache = run(**arrays)
        return h, cache.states[1][[N + 5, N + 6, N + 2, 3]], cache

    def flat(**upstream: Any) -> tuple[Any, ...]:
        da, dstate0, dWh = backward(**upstream)
        return da, *dstate0, dWh

    shapes = {"a": (ROWS.R, G), **dict.fromkeys(states, (N, H)), "Wh": (H, G)}
    h = {"h": (ROWS.R, H)}
    yield Case(pair, run, flat, shapes, {}, h, ("dh",), {})
    if "dc_T" in inspect.signature(backward).parameters:
        results = {**h, "c_T": (N, H)}
        yield Case(f"{pair}, c_T", run_carried, flat, shapes, {}, results, ("dh", "dc_T"), {})
