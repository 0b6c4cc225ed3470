"""Captioning models: config, parameters, loss and gradients, decoding."""

from xpcap.models.batch import Batch, FeatureRows
from xpcap.models.beam import Beam
from xpcap.models.captioner import Captioner
from xpcap.models.captioning_rnn import CaptioningRNN, build_model
from xpcap.models.config import ModelConfig
from xpcap.models.decoding import Decoded
from xpcap.models.ensemble import Ensemble
from xpcap.models.network import Score
from xpcap.models.parameters import Parameters
from xpcap.models.policies import Choice, Policy, Sampling

__all__ = [
    "Batch",
    "Beam",
    "Captioner",
    "CaptioningRNN",
    "Choice",
    "Decoded",
    "Ensemble",
    "FeatureRows",
    "ModelConfig",
    "Parameters",
    "Policy",
    "Sampling",
    "Score",
    "build_model",
]
