"""The work that every contender is given: our model's weights, batches and pictures, and what must come out of them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from xpcap.backend import use_backend
from xpcap.bench.configs import CLIP, LEARNING_RATE, MOST_WORDS, SEED, Config
from xpcap.bench.speaking import make_speak
from xpcap.bench.timing import Clock
from xpcap.data.dataset import CaptionData
from xpcap.models import CaptioningRNN
from xpcap.training.solver import CaptioningSolver

LOSS_TOLERANCE = 1e-5  # relative, between float32 losses: some hundred roundings, and far less than any slip in the gates would make
SAME_IDS = 0.999  # share of ids that agree: a caption may part where its two likeliest words are as good as equally likely


class Job(NamedTuple):
    """A contender that is ready to train: `step(k)` is a step on batch k, `clock` times it."""

    step: Callable[[int], object]
    clock: Clock
    memory: Callable[[], int | None]  # bytes: at most so far on the host, held on a device; None where nobody asks
    feed: Callable[[int], object] | None = None  # makes batch k ready, where that is timed too


Sample = Callable[[], np.ndarray]  # captions of Config.pictures, (PICTURES, MOST_WORDS) int, NULL after END, on the host
Batch = tuple[np.ndarray, np.ndarray]  # features (N, D) and captions (N, T+1)


def batch_rows(config: Config, data: CaptionData) -> np.ndarray:
    """The numbers of the captions of each batch, (batches, N)."""
    return np.arange(len(data.split("train").captions)).reshape(-1, config.N)


def host_batches(config: Config, data: CaptionData) -> list[Batch]:
    """Every batch as it comes, on the host."""
    return [data.minibatch("train", rows) for rows in batch_rows(config, data)]


def make_model(config: Config, data: CaptionData) -> CaptioningRNN:
    """A fresh model of ours, on the backend in force: the same weights every time."""
    return CaptioningRNN(data.vocabulary.word_to_idx, config.D, config.W, config.H, "lstm", np.float32, seed=SEED)


def make_solver(config: Config, data: CaptionData) -> CaptioningSolver:
    """The same model with its solver."""
    rate = {"learning_rate": LEARNING_RATE}
    model = make_model(config, data)
    return CaptioningSolver(model, data, update_rule="adam", optim_config=rate, batch_size=config.N, clip_norm=CLIP, seed=SEED)


def make_speaker(config: Config, data: CaptionData) -> CaptioningRNN:
    """A model of ours whose captions end, on the backend in force."""
    model = make_model(config, data)
    make_speak(model)
    return model


def host_model(config: Config, data: CaptionData, make: Callable[[Config, CaptionData], CaptioningRNN] = make_model) -> CaptioningRNN:
    """One of these on NumPy, whatever the backend in force."""
    with use_backend("numpy"):
        return make(config, data)


def check_same_loss(theirs: float, ours: CaptioningRNN, batch: Batch, what: str) -> None:
    """Two contenders that are compared must do the same work: this one's loss on a batch, and that of our model on NumPy."""
    expected = float(ours.score(*batch).nll) / len(batch[0])
    if not abs(theirs - expected) <= LOSS_TOLERANCE * abs(expected):
        raise ArithmeticError(
            f"bench: {what} has loss {theirs:.7g} where ours is {expected:.7g}, expected them equal to {LOSS_TOLERANCE:g}: not the same work"
        )


def check_same_captions(theirs: np.ndarray, ours: CaptioningRNN, pictures: np.ndarray, what: str) -> None:
    """The same for captions: theirs must say what our model on NumPy says."""
    expected = ours.sample(pictures, max_length=MOST_WORDS)
    same = float((theirs == expected).mean()) if theirs.shape == expected.shape else 0.0
    if not same >= SAME_IDS:
        raise ArithmeticError(f"bench: {what} says what ours says in {same:.2%} of the ids, expected at least {SAME_IDS:.1%}: not the same work")
