"""Descent: how a gradient changes parameters. The update rule's state, the learning rate that falls, and the average that follows."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from xpcap import optim
from xpcap.backend import Array
from xpcap.errors import OptionError
from xpcap.models.parameters import Parameters
from xpcap.ops import average_update

LINEAR = "linear"


class Descent:
    """The state of a descent.

    Parameters
    ----------
    rule, config : as in optim.init, for parameters that are laid out like `like`
    average : Parameters, changed in place; None: there is no average

    Attributes
    ----------
    config : of the rule, with its state arrays
    """

    def __init__(self, rule: str, config: Mapping[str, Any], like: Array, average: Parameters | None) -> None:
        self.rule, self.average = rule, average
        self.config = optim.init(rule, like, config)
        self._first_rate = self.config["learning_rate"]

    def update(self, params: Array, grads: Array, ema: float, step: int) -> None:
        """Update flat parameters in place by a flat gradient, in step number `step`, from 1, and move the average towards them.

        The decay of the average is `ema`, but at most (1 + step) / (10 + step): early in training it soon forgets the initial weights.
        """
        optim.update(self.rule, params, grads, self.config)
        if self.average is not None:
            average_update(self.average.flat, params, 1 - min(ema, (1 + step) / (10 + step)))

    def end_step(self, lr_decay: float | str, left: int) -> None:
        """Lower the learning rate after a step, one of `left` to the end of training."""
        if lr_decay == LINEAR:
            self.config["learning_rate"] *= (left - 1) / left

    def end_epoch(self, lr_decay: float | str) -> None:
        """Lower the learning rate after an epoch."""
        if not isinstance(lr_decay, str):
            self.config["learning_rate"] *= float(lr_decay)  # a NumPy scalar would spread into what is saved

    def begin_again(self, lr_decay: float | str) -> None:
        """Before more epochs than were planned: a learning rate that has fallen to zero starts anew."""
        if lr_decay == LINEAR:
            self.config["learning_rate"] = self._first_rate


def check_decays(lr_decay: Any, ema: Any) -> None:
    """OptionError : not decays that a Descent can take."""
    number = isinstance(lr_decay, int | float | np.number) and 0 < lr_decay < float("inf")
    if not number and lr_decay != LINEAR:
        raise OptionError(f"CaptioningSolver: lr_decay is {lr_decay!r}, expected a positive number, or {LINEAR!r}")
    if not (isinstance(ema, int | float | np.number) and 0 <= ema < 1):
        raise OptionError(f"CaptioningSolver: ema is {ema!r}, expected the decay of an average, in [0, 1)")
