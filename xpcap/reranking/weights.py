"""Weights of a reranker, fitted to captions of the val split."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from xpcap.errors import InvalidValueError
from xpcap.optim import adam
from xpcap.reranking.reranker import FEATURES
from xpcap.spec import spec
from xpcap.threads import one_blas_thread

# Weights before any fit, good from 450 photos with one caption each to 6,000 with five. Their scale
# matters to the fit alone: the larger, the more the softmax is a choice of the best.
PRIOR = {
    "log_probability": 12.0,
    "consensus": 28.0,
    "words": 4.0,
    "length": 0.2,
    "unseen": -24.0,
    "repeats": -24.0,
    "borrowed": 0.0,
}
STRENGTH = 3.0  # of the prior, in CIDEr-D times photos, for a feature's standard deviation
STEPS, RATE = 300, 0.1


class Fitted(NamedTuple):
    """Fitted weights, and the mean CIDEr-D of the captions that they choose."""

    weights: dict[str, float]
    likeliest: float  # where the model's likeliest candidate a word is chosen instead
    cider: float  # of the photos of the fit


def fit(
    features: np.ndarray,
    photos: np.ndarray,
    rewards: np.ndarray,
    prior: Mapping[str, float] = PRIOR,
) -> Fitted:
    """Fit weights so that the captions chosen have a high CIDEr-D.

    The weights w maximise the expected reward of a choice by softmax, near the prior weights v:

        sum over photos of sum over candidates c of softmax(features w)_c reward_c
        - STRENGTH sum over features f of (spread_f (w_f - v_f))^2

    features : (C, F), of all candidates
    photos : (C,) int, rising, the photo of each
    rewards : (C,) CIDEr-D of each against the photo's own captions
    prior : v, by the names of FEATURES
    ValueError : shapes do not fit, there is no candidate, photos fall, or a reward is not finite.
        TypeError : of another kind.
    """
    spec("features:C>0,F=n photos:C=i rewards:C=n!").check(
        "fit", features, photos, rewards, sizes={"F": len(FEATURES)}
    )
    if (photos[1:] < photos[:-1]).any():
        raise InvalidValueError("fit", "photos", "do not rise", "candidates sorted by photo")
    prior_weights = np.array([prior[name] for name in FEATURES])
    columns = dict(zip(FEATURES, features.T, strict=True))
    likelihood = np.where(columns["borrowed"] > 0, -np.inf, columns["log_probability"])
    _, number = np.unique(photos, return_inverse=True)
    with one_blas_thread():  # so that the bits do not depend on the cores
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
    """The weights of `fit`, by Adam in units of the features' spread."""
    spread = features.std(axis=0) + 1e-9
    prior = prior_weights * spread
    _, first, number = np.unique(photos, return_index=True, return_inverse=True)
    scaled = features / spread
    w, moments = prior.copy(), {"learning_rate": RATE}
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
    """Reward of the candidate of the highest score of each photo, numbered from 0."""
    order = np.lexsort((-scores, photos))  # of equal scores the first comes first
    return rewards[order[np.unique(photos[order], return_index=True)[1]]]
