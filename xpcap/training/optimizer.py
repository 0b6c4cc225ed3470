"""Optimizer: an update rule with its state, and the schedule of the learning rate."""

from collections.abc import Mapping
from typing import Any

from xpcap.backend import Array, get_array_module
from xpcap.models.parameters import Parameters
from xpcap.optim import UpdateRule, as_rule
from xpcap.options import Real

LINEAR = "linear"  # an lr_decay: the rate falls to zero, step by step
DECAY = Real(above=0, word=LINEAR)


class Optimizer:
    """An update rule with its hyperparameters and its state.

    rule : a name in optim.RULES, or an UpdateRule
    config : hyperparameters; the others have the rule's defaults
    params : parameters with the shapes, library and dtype of those to update

    Attributes:
    config : all hyperparameters, with their current values
    first_rate : the rate from which a linear decay begins again; set it with the rate
    state : name of each state array to the arrays of the parameters
    """

    def __init__(
        self, rule: str | UpdateRule, config: Mapping[str, Any], params: Parameters
    ) -> None:
        self.rule = as_rule(rule)
        self.config = self.rule.complete(config)
        self.state = {}
        self.first_rate: float = self.config["learning_rate"]
        xp = get_array_module(params.flat)
        dtype = params.flat.dtype
        for key, shapes in state_shapes(self.rule, params.shapes).items():
            self.state[key] = Parameters.empty(shapes, dtype, xp)
            self.state[key].flat[...] = 0

    def state_of(self, name: str) -> dict[str, Array]:
        """State arrays of a parameter."""
        return {key: arrays[name] for key, arrays in self.state.items() if name in arrays}

    def update(self, params: Parameters, grads: Parameters) -> None:
        """Update parameters in place by their gradient."""
        if self.rule.elementwise:
            state = {key: arrays.flat for key, arrays in self.state.items()}
            self.rule.step([(params.flat, grads.flat, state)], self.config)
        else:
            arrays = [(w, grads[name], self.state_of(name)) for name, w in params.items()]
            self.rule.step(arrays, self.config)

    def end_step(self, lr_decay: float | str, steps_left: int) -> None:
        """Lower a linear rate; `steps_left` includes this step. After the last step it stays."""
        if lr_decay == LINEAR and steps_left > 0:
            self.config["learning_rate"] *= (steps_left - 1) / steps_left

    def end_epoch(self, lr_decay: float | str) -> None:
        """Lower the rate by a factor, unless it is linear."""
        if not isinstance(lr_decay, str):
            self.config["learning_rate"] *= lr_decay

    def begin_again(self, lr_decay: float | str) -> None:
        """Restore a linear rate, before more epochs than were planned."""
        if lr_decay == LINEAR:
            self.config["learning_rate"] = self.first_rate


def state_shapes(
    rule: UpdateRule, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of a rule's state arrays by name and parameter, from those of the parameters."""
    by_key: dict[str, dict[str, tuple[int, ...]]] = {key: {} for key in rule.state}
    for name, shape in shapes.items():
        for key, size in rule.state_shapes(shape).items():
            by_key[key][name] = size
    return by_key
