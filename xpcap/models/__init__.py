"""Captioning models: configuration, parameters, loss and gradients. Open network.py first.

batch.py packs a batch for it, and device_batch.py sends the batch to a device; captioning_rnn.py has the
public model.
"""

from xpcap.decoding.beam import Beam
from xpcap.decoding.decode import Decoded
from xpcap.decoding.policies import Choice, Greedy, Policy, Sampling
from xpcap.models.batch import Batch, FeatureRows
from xpcap.models.captioning_rnn import CaptioningRNN, build_model
from xpcap.models.config import ModelConfig
from xpcap.models.network import Score
from xpcap.models.parameters import Parameters
from xpcap.models.trace import Saturation, Trace

__all__ = [
    "Batch",
    "Beam",
    "CaptioningRNN",
    "Choice",
    "Decoded",
    "FeatureRows",
    "Greedy",
    "ModelConfig",
    "Parameters",
    "Policy",
    "Sampling",
    "Saturation",
    "Score",
    "Trace",
    "build_model",
]
