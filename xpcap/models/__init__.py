"""Captioners: parameters, loss and gradients, and the step that samplers drive."""

from xpcap.models.captioning_rnn import CaptioningRNN, Score
from xpcap.models.parameters import Parameters

__all__ = ["CaptioningRNN", "Parameters", "Score"]
