"""Ranking of candidate captions with the help of the nearest training photos. Open ranker.py first.

`PhotoIndex` finds the photos, a `Ranker` scores candidates, and `fit` chooses its weights.
"""

from xpcap.ranking.index import PhotoIndex
from xpcap.ranking.ranker import FEATURES, Candidate, RankedCandidate, Ranker, Ranking
from xpcap.ranking.weights import Fitted, fit

__all__ = [
    "FEATURES",
    "Candidate",
    "Fitted",
    "PhotoIndex",
    "RankedCandidate",
    "Ranker",
    "Ranking",
    "fit",
]
