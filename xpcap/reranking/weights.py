"""Fits the weights of a reranker to captions of the val split."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from xpcap.backend.shape_specs import spec
from xpcap.backend.threads import one_blas_thread
from xpcap.errors import InvalidValueError
from xpcap.optim import adam
from xpcap.reranking.reranker import FEATURES

# Weights before a fit; they suit data from 450 photos with one caption each to 6,000 with five. Their
# scale matters only to the fit: the larger, the closer the softmax is to the argmax.
PRIOR = {
    "log_probability": 12.0,
    "consensus": 28.0,
    "words": 4.0,
    "length": 0.2,
    "unseen": -24.0,
    "repeats": -24.0,
    "borrowed": 0.0,
}
STRENGTH = 3.0  # of the prior: CIDEr-D times photos, per standard deviation of a feature
STEPS = 300
RATE = 0.1


class Fitted(NamedTuple):
    """Fitted weights, and the mean CIDEr-D on the photos of the fit."""

    weights: dict[str, float]
    likeliest: float  # CIDEr-D of the candidates that the model finds likeliest per word
    cider: float  # CIDEr-D of the candidates that the weights choose


def fit(
    features: np.ndarray,
    photos: np.ndarray,
    rewards: np.ndarray,
    prior: Mapping[str, float] = PRIOR,
) -> Fitted:
    """Fit weights so that the chosen captions have a high CIDEr-D.

    The weights w maximise the expected reward of a softmax choice, and stay near the prior v:

        sum over photos of sum over candidates c of softmax(features w)_c reward_c
        - STRENGTH sum over features f of (spread_f (w_f - v_f))^2

    features : (C, F), of all candidates
    photos : (C,) int, the photo of each candidate, sorted
    rewards : (C,) CIDEr-D of each candidate against the photo's references
    prior : v, by the names of FEATURES
    ValueError : shapes do not fit, there is no candidate, photos are not sorted, or a reward is not
        finite. TypeError : an array has another kind.
    """
    spec("features:C>0,F=n photos:C=i rewards:C=n!").check(
        features, photos, rewards, sizes={"F": len(FEATURES)}
    )
    if (photos[1:] < photos[:-1]).any():
        raise InvalidValueError("photos are not sorted, expected candidates sorted by photo")
    prior_weights = np.array([prior[name] for name in FEATURES])
    columns = dict(zip(FEATURES, features.T, strict=True))
    likelihood = np.where(columns["borrowed"] > 0, -np.inf, columns["log_probability"])
    _, number = np.unique(photos, return_inverse=True)
    with one_blas_thread():  # the bits then do not depend on the number of cores
        weights = _ascend(features, number, rewards, prior_weights)
        chosen = _chosen(features @ weights, number, rewards)
    return Fitted(
        dict(zip(FEATURES, weights.tolist(), strict=True)),
        float(_chosen(likelihood, number, rewards).mean()),
        float(chosen.mean()),
    )


def _ascend(
    features: np.ndarray, photos: np.ndarray, rewards: np.ndarray, prior_weights: np.ndarray
) -> np.ndarray:
    """The weights of `fit`, found by Adam on standardised features."""
    spread = features.std(axis=0) + 1e-9
    prior = prior_weights * spread
    _, first, number = np.unique(photos, return_index=True, return_inverse=True)
    scaled = features / spread
    w = prior.copy()
    moments = {"learning_rate": RATE}
    for step in range(STEPS):
        scores = scaled @ w
        p = np.exp(scores - np.maximum.reduceat(scores, first)[number])
        p /= np.add.reduceat(p, first)[number]
        expected = np.add.reduceat(p * rewards, first)
        gradient = scaled.T @ (p * (rewards - expected[number])) - 2 * STRENGTH * (w - prior)
        moments["learning_rate"] = RATE * (1 - step / STEPS)
        w, moments = adam(w, -gradient, moments)
    return w / spread


def _chosen(scores: np.ndarray, photos: np.ndarray, rewards: np.ndarray) -> np.ndarray:
    """Reward of each photo's candidate with the highest score; photos are numbered from 0."""
    order = np.lexsort((-scores, photos))  # among equal scores the first candidate is chosen
    return rewards[order[np.unique(photos[order], return_index=True)[1]]]
