"""Descent: how a gradient changes parameters. The update rule's state, and the learning rate that falls."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from xpcap import optim
from xpcap.backend import Array
from xpcap.errors import OptionError

LINEAR = "linear"


class Descent:
    """The state of a descent.

    Parameters
    ----------
    rule, config : as in optim.init, for parameters that are laid out like `like`

    Attributes
    ----------
    config : of the rule, with its state arrays
    """

    def __init__(self, rule: str, config: Mapping[str, Any], like: Array) -> None:
        self.rule = rule
        self.config = optim.init(rule, like, config)
        self._first_rate = self.config["learning_rate"]

    def update(self, params: Array, grads: Array) -> None:
        """Update flat parameters in place by a flat gradient."""
        optim.update(self.rule, params, grads, self.config)

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


def check_lr_decay(lr_decay: Any) -> None:
    """OptionError : not a decay that a Descent can take."""
    number = isinstance(lr_decay, int | float | np.number) and 0 < lr_decay < float("inf")
    if not number and lr_decay != LINEAR:
        raise OptionError(f"CaptioningSolver: lr_decay is {lr_decay!r}, expected a positive number, or {LINEAR!r}")
