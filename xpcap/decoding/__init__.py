"""Decoding: from a model's probabilities to captions; it knows no model. Open decode.py first.

`decode` runs one loop over hypotheses; a `Policy` (policies.py, beam.py) chooses the next words.
"""

from xpcap.decoding.beam import Beam
from xpcap.decoding.decode import Decodable, Decoded
from xpcap.decoding.hypotheses import Hypotheses
from xpcap.decoding.policies import Choice, Policy, Sampling

__all__ = [
    "Beam",
    "Choice",
    "Decodable",
    "Decoded",
    "Hypotheses",
    "Policy",
    "Sampling",
]
