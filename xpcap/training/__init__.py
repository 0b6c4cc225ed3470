"""Minibatches in, updates out: the solver, and what it keeps of the way."""

from xpcap.training.solver import CaptioningSolver

__all__ = ["CaptioningSolver"]
