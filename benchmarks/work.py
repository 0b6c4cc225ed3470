"""The work that all contenders share: weights, batches and pictures, and checks that their results agree with xpcap's."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from benchmarks.configs import CLIP, LEARNING_RATE, LENGTH_PENALTY, MOST_WORDS, SEED, WIDTH, Config
from benchmarks.speaking import make_speak
from benchmarks.timing import Clock
from xpcap.backend import use_backend
from xpcap.data.dataset import CaptionData
from xpcap.models import Beam, CaptioningRNN, Policy
from xpcap.training.solver import CaptioningSolver

LOSS_TOLERANCE = 1e-5  # relative, between float32 losses: a hundred roundings or so, and far below any mistake in the gates
SAME_IDS = 0.999  # share of ids that must agree: captions may diverge where the two likeliest words are nearly tied


class Job(NamedTuple):
    """A contender that is ready to train: `step(k)` trains on batch k, and `clock` times it."""

    step: Callable[[int], object]
    clock: Clock
    memory: Callable[[], int | None]  # bytes: peak so far on the host, or held on the GPU; None if not measured
    feed: Callable[[int], object] | None = None  # prepares batch k, if that is timed too


GREEDY, BEAM = Policy(max_length=MOST_WORDS), Beam(WIDTH, length_penalty=LENGTH_PENALTY, max_length=MOST_WORDS)
Sample = Callable[[], np.ndarray]  # captions of Config.pictures: (PICTURES, MOST_WORDS) int, on the host, NULL after END
Batch = tuple[np.ndarray, np.ndarray]  # features (N, D) and captions (N, T+1)


def batch_rows(config: Config, data: CaptionData) -> np.ndarray:
    """Caption numbers of each batch, (batches, N)."""
    return np.arange(len(data.split("train").captions)).reshape(-1, config.N)


def host_batches(config: Config, data: CaptionData) -> list[Batch]:
    """All batches, on the host."""
    return [data.minibatch("train", rows) for rows in batch_rows(config, data)]


def make_model(config: Config, data: CaptionData) -> CaptioningRNN:
    """A fresh xpcap model on the current backend, with the same weights every time."""
    words, H = data.vocabulary.word_to_idx, config.H
    return CaptioningRNN(
        words, config.features, config.W, H, "lstm", np.float32, dropout=config.dropout, inject=config.inject, seed=SEED
    )  # fmt: skip


def make_solver(config: Config, data: CaptionData) -> CaptioningSolver:
    """A solver for the model of make_model."""
    rate = {"learning_rate": LEARNING_RATE}
    model = make_model(config, data)
    return CaptioningSolver(model, data, update_rule="adam", optim_config=rate, batch_size=config.N, clip_norm=CLIP, seed=SEED)


def make_speaker(config: Config, data: CaptionData) -> CaptioningRNN:
    """An xpcap model whose captions end, on the current backend."""
    model = make_model(config, data)
    make_speak(model)
    return model


def host_model(config: Config, data: CaptionData, make: Callable[[Config, CaptionData], CaptioningRNN] = make_model) -> CaptioningRNN:
    """The same model on NumPy, whatever the current backend."""
    with use_backend("numpy"):
        return make(config, data)


def check_same_loss(theirs: float, ours: CaptioningRNN, batch: Batch, what: str) -> None:
    """Check that a contender does the same work: its loss on a batch, without dropout, must equal xpcap's on NumPy."""
    expected = float(ours.score(*batch).nll) / len(batch[0])
    if not abs(theirs - expected) <= LOSS_TOLERANCE * abs(expected):
        raise ArithmeticError(
            f"bench: {what} has loss {theirs:.7g} and xpcap on NumPy {expected:.7g}, expected a relative difference below {LOSS_TOLERANCE:g}: not the same work"
        )


def check_same_captions(theirs: np.ndarray, ours: CaptioningRNN, pictures: np.ndarray, policy: Policy, what: str) -> None:
    """Check that a contender's captions agree with xpcap's on NumPy."""
    expected = ours.sample(pictures, policy=policy)
    same = float((theirs == expected).mean()) if theirs.shape == expected.shape else 0.0
    if not same >= SAME_IDS:
        raise ArithmeticError(
            f"bench: {what} agrees with xpcap on NumPy in {same:.2%} of the word ids, expected at least {SAME_IDS:.1%}: not the same work"
        )
