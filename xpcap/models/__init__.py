"""Captioning models: config, parameters, loss and gradients, decoding."""

from xpcap.decoding.beam import Beam
from xpcap.decoding.decode import Decoded
from xpcap.decoding.policies import Choice, Policy, Sampling
from xpcap.models.batch import Batch, FeatureRows
from xpcap.models.captioner import Captioner
from xpcap.models.captioning_rnn import CaptioningRNN, build_model
from xpcap.models.config import ModelConfig
from xpcap.models.ensemble import Ensemble
from xpcap.models.network import Score
from xpcap.models.parameters import Parameters

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
