"""The pairs of `xpcap.layers`, as `check_layer` takes them. A new pair is one of them by itself."""

import inspect
from collections.abc import Iterator
from typing import Any

from xpcap import layers
from xpcap.layers import CELLS, PackedSequences
from xpcap.spec import Spec
from xpcap.testing.layer import Trial, trials

Pair = dict[str, Any]  # arguments of check_layer

H = 2


def columns(cell: str) -> dict[str, int]:
    """Sizes of a cell."""
    return {"H": H, "G": CELLS[cell].shapes(1, H)["b"][0]}


GIVEN: dict[str, list[Pair]] = {  # what the shapes of a pair leave open
    "affine": [{"sizes": {"...": (2, 3), "D": 6}}],
    "attention": [{"options": {"cell": cell}, "sizes": columns(cell)} for cell in CELLS],
    "dropout": [
        {"options": {"dropout_param": {"p": 0.6, "mode": mode, "seed": 3}}}
        for mode in ("train", "test")
    ],
}
ROWS = PackedSequences.of([3, 2, 2], 4)  # sequences of 3, 3, 1 and no steps


def _pairs() -> Iterator[tuple[str, Pair]]:
    for name in layers.__all__:
        pair, suffix, _ = name.partition("_forward")
        if not suffix:
            continue
        functions = {way: getattr(layers, f"{pair}_{way}") for way in ("forward", "backward")}
        if pair.endswith("_rows"):
            yield from _packed(pair, **functions)
            continue
        for given in GIVEN.get(pair, [{}]):
            yield " ".join([pair, *map(str, given.get("options", {}).values())]), functions | given


def _packed(pair: str, forward: Any, backward: Any) -> Iterator[tuple[str, Pair]]:
    """Loops over rows, which take their state as a tuple; also with a gradient of the last c."""
    cell = pair.removesuffix("_rows")
    states = [f"{state}0" for state in CELLS[cell].state_names]
    arguments = " ".join(["a:R,G", *(f"{state}:N,H" for state in states), "Wh:H,G"])

    def run(a: Any, Wh: Any, **state0: Any) -> Any:
        return forward(a, tuple(state0[state] for state in states), Wh, ROWS)

    def run_carried(**arrays: Any) -> Any:
        """The last c of a sequence is that row of the stack, or c0."""
        h, cache = run(**arrays)
        return h, cache.states[1][[ROWS.N + 5, ROWS.N + 6, ROWS.N + 2, 3]], cache

    def flat(dh: Any, cache: Any) -> tuple[Any, ...]:
        da, dstate0, dWh = backward(dh, cache)
        return da, *dstate0, dWh

    def flat_carried(dh: Any, dc_T: Any, cache: Any) -> tuple[Any, ...]:
        da, dstate0, dWh = backward(dh, cache, dc_T=dc_T)
        return da, *dstate0, dWh

    sizes = {"R": ROWS.R, "N": ROWS.N, **columns(cell)}
    shapes = f"{arguments} -> h:R,H"
    yield pair, {"forward": run, "backward": flat, "shapes": shapes, "sizes": sizes}
    if "dc_T" in inspect.signature(backward).parameters:
        carried = {"forward": run_carried, "backward": flat_carried, "shapes": f"{shapes} c_T:N,H"}
        yield f"{pair} c_T", carried | {"sizes": sizes}


PAIRS = dict(_pairs())


def trial(pair: str, **sizes: int) -> Trial:
    """The first trial of a pair, in those of the sizes that its shapes have."""
    arguments = PAIRS[pair]
    spec = Spec(arguments["shapes"]) if "shapes" in arguments else arguments["forward"].spec
    forms = [form for entry in (*spec.entries, *spec.results) for form in entry.forms]
    known = {letter for form in forms for letter in form.letters}
    stated = {letter: size for letter, size in sizes.items() if letter in known}
    return trials(**arguments | {"sizes": stated | arguments.get("sizes", {})})[0]
