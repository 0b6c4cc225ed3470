"""Update rules for tests that hold of all: the library's, and two whose state has other shapes."""

from collections.abc import Mapping
from typing import Any

from xpcap import get_array_module, optim


def _row_adagrad(w: Any, dw: Any, state: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    xp = get_array_module(w)
    if "row" in state:
        state["row"][...] += (dw * dw).mean(axis=1)
        scale = xp.sqrt(state["row"])[:, None]
    else:
        state["v"][...] += dw * dw
        scale = xp.sqrt(state["v"])
    w -= config["learning_rate"] * dw / (scale + 1e-8)


ROW_ADAGRAD = optim.UpdateRule(
    "row_adagrad",
    _row_adagrad,
    {"learning_rate": (1e-2, optim.RATE), "t": (0, optim.STEPS)},
    {
        "row": lambda shape: shape[:1] if len(shape) == 2 else None,
        "v": lambda shape: None if len(shape) == 2 else shape,
    },
    squares=("row", "v"),
)


def _counting_sgd(w: Any, dw: Any, state: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    state["steps"][...] += 1
    w -= config["learning_rate"] / state["steps"] * dw


COUNTING_SGD = optim.UpdateRule(
    "counting_sgd",
    _counting_sgd,
    {"learning_rate": (1e-2, optim.RATE)},
    {"steps": lambda shape: ()},  # a single number
)
RULES = {rule.name: rule for rule in (*optim.RULES.values(), ROW_ADAGRAD, COUNTING_SGD)}
