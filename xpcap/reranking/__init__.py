"""Reranking of candidate captions by the most similar training photos. Open reranker.py first.

A `PhotoIndex` finds the photos, a `Reranker` scores candidates, and `fit` chooses its weights.
"""

from xpcap.reranking.index import PhotoIndex
from xpcap.reranking.reranker import FEATURES, Candidate, RerankedCandidate, Reranker, Reranking
from xpcap.reranking.weights import Fitted, fit

__all__ = [
    "FEATURES",
    "Candidate",
    "Fitted",
    "PhotoIndex",
    "RerankedCandidate",
    "Reranker",
    "Reranking",
    "fit",
]
