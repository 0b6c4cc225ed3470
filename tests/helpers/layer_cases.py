"""The pairs of `xpcap.layers`, as `check_layer` takes them. A new pair is one of them by itself."""

from collections.abc import Iterator
from typing import Any

from xpcap import layers
from xpcap.backend.shape_specs import Spec
from xpcap.layers import CELLS
from xpcap.testing.layer import Trial, trials

Pair = dict[str, Any]  # arguments of check_layer

H = 2


GIVEN: dict[str, list[Pair]] = {  # what the shapes of a pair leave open
    "affine": [{"sizes": {"...": (2, 3), "D": 6}}],
    "attention": [
        {"options": {"cell": name}, "sizes": {"H": H, "G": cell.shapes(1, H)["b"][0]}}
        for name, cell in CELLS.items()
        if set(cell.shapes(1, H)) == {"Wx", "Wh", "b"}
    ],
    "dropout": [
        {"options": {"dropout_param": {"p": 0.6, "mode": mode, "seed": 3}}}
        for mode in ("train", "test")
    ],
}


def _pairs() -> Iterator[tuple[str, Pair]]:
    for name in layers.__all__:
        pair, suffix, _ = name.partition("_forward")
        if not suffix:
            continue
        functions = {way: getattr(layers, f"{pair}_{way}") for way in ("forward", "backward")}
        for given in GIVEN.get(pair, [{}]):
            yield " ".join([pair, *map(str, given.get("options", {}).values())]), functions | given


PAIRS = dict(_pairs())


def trial(pair: str, **sizes: int) -> Trial:
    """The first trial of a pair, in those of the sizes that its shapes have."""
    arguments = PAIRS[pair]
    spec = Spec(arguments["shapes"]) if "shapes" in arguments else arguments["forward"].spec
    forms = [form for entry in (*spec.entries, *spec.results) for form in entry.forms]
    known = {letter for form in forms for letter in form.letters}
    stated = {letter: size for letter, size in sizes.items() if letter in known}
    return trials(**arguments | {"sizes": stated | arguments.get("sizes", {})})[0]
