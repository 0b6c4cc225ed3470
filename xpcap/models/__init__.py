"""Captioning models: config, parameters, loss and gradients, decoding."""

from xpcap.models.batch import Batch, FeatureRows
from xpcap.models.captioning_rnn import CaptioningRNN
from xpcap.models.config import ModelConfig
from xpcap.models.decoding import Choice, Policy
from xpcap.models.network import Score
from xpcap.models.parameters import Parameters

__all__ = ["Batch", "CaptioningRNN", "Choice", "FeatureRows", "ModelConfig", "Parameters", "Policy", "Score"]
