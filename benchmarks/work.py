"""The work that is timed: sizes, data, models and their arithmetic; and checks that a contender
does the same work as xpcap on NumPy."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from benchmarks.timing import Clock
from xpcap.backend import to_numpy, use_backend
from xpcap.data.dataset import CaptionData
from xpcap.data.synthetic import LIKE_COCO, Lengths, draw_data
from xpcap.data.vocabulary import END, NULL, START, UNK
from xpcap.distributed import SINGLE, Group
from xpcap.layers import CELLS
from xpcap.models import Beam, CaptioningRNN, Policy
from xpcap.models.batch import caption_lengths, deal, pack
from xpcap.training.solver import CaptioningSolver

LEARNING_RATE = 1e-3
CLIP = 50.0  # the default of `train`
SEED = 0
WIDTH, LENGTH_PENALTY = 5, 0.7  # of a beam, ordered by log-probability / words**LENGTH_PENALTY
PICTURES = 1000
MAX_WORDS = LIKE_COCO.high + 1  # END included
# Kinds of work
STEP = "step"  # loss, gradients, clipping, Adam
GREEDY, BEAM = "greedy", f"beam of {WIDTH}"  # captions of PICTURES pictures
BUSY = "step on a busy machine"  # the same step, while another login keeps a core busy
POLICIES: dict[str, Policy | Beam] = {
    GREEDY: Policy(max_length=MAX_WORDS),
    BEAM: Beam(WIDTH, length_penalty=LENGTH_PENALTY, max_length=MAX_WORDS),
}


@dataclass(frozen=True)
class Config:
    """Sizes of a captioner and its step.

    N captions, D image feature, W word vector, H hidden, V vocabulary. With P, a picture has P
    regions of D numbers, to which every time step attends. Captions are `times_as_long` as COCO's.
    With `step_alone`, captions and the textbook are not timed.
    """

    name: str
    N: int
    D: int = 512
    W: int = 256
    H: int = 512
    V: int = 1004
    step_alone: bool = False
    P: int = 0
    cell: str = "lstm"
    dtype: str = "float32"
    times_as_long: int = 1
    dropout: float = 0.0  # used only by programs that time xpcap alone, on a GPU

    @property
    def columns(self) -> int:
        """Size of a pre-activation."""
        return len(CELLS[self.cell].blocks) * self.H

    @property
    def features(self) -> int | tuple[int, int]:
        """Shape of a feature or grid."""
        return (self.P, self.D) if self.P else self.D

    def data(self, batches: int) -> CaptionData:
        """Captions of 6 to 15 words, some words very common, for `batches` batches; always equal."""
        mean, deviation, low, high = LIKE_COCO
        k = self.times_as_long
        lengths = Lengths(k * mean, k * deviation, k * low, k * high)
        return draw_data(batches * self.N, self.features, self.V, SEED, lengths)

    def pictures(self) -> np.ndarray:
        """Standard normal features (PICTURES, D) of pictures to caption; always equal."""
        return np.random.default_rng(SEED).standard_normal((PICTURES, self.D), dtype=np.float32)


_COCO, _FLICKR8K = Config("coco", 128), Config("flickr8k", 128, D=1280, V=2539)
_USUAL = (
    Config("notebook", 25),
    _COCO,
    _FLICKR8K,
    Config("large", 512),
    Config("vocab10k", 128, W=512, V=10000),
)
_STEP_ALONE = (
    replace(_FLICKR8K, name="flickr8k-grid", P=25),
    replace(_FLICKR8K, name="flickr8k-gru", cell="gru"),
    replace(_FLICKR8K, name="flickr8k-rnn", cell="rnn"),
    replace(_FLICKR8K, name="flickr8k-float64", dtype="float64"),
    replace(_FLICKR8K, name="flickr8k-long", times_as_long=3),
    replace(_FLICKR8K, name="flickr8k-n64", N=64),
    replace(_COCO, name="coco-h1024", H=1024),
    *(replace(_COCO, name=f"coco-n{N}", N=N) for N in (8, 16, 32, 64, 256, 1024)),
    *(replace(_COCO, name=f"coco-v{V}", V=V) for V in (2000, 5000, 10000, 20000, 50000)),
    Config("demo", 32, D=2101, W=64, H=256, V=70),
    Config("small", 16, D=128, W=64, H=128, V=256),
)
USUAL = tuple(config.name for config in _USUAL)
CONFIGS = {config.name: config for config in _USUAL} | {
    config.name: replace(config, step_alone=True) for config in _STEP_ALONE
}


def works_of(config: Config, works: Sequence[str]) -> list[str]:
    """The kinds in `works` that are timed at a configuration."""
    return [work for work in works if work in (STEP, BUSY) or not config.step_alone]


# Work of all contenders

# Relative difference of float32 losses: about a hundred roundings, far below a mistake in the gates
LOSS_TOLERANCE = 1e-5
# Share of ids that must agree: captions may diverge where two words are almost equally likely
SAME_IDS = 0.999


class Job(NamedTuple):
    """A contender that is ready to train: `step(k)` trains on batch k, and `clock` times it."""

    step: Callable[[int], object]
    clock: Clock
    # Bytes: xpcap's peak on the host, or its pool on a GPU; None if not measured
    memory: Callable[[], int | None] = lambda: None


# Captions of Config.pictures: (PICTURES, MAX_WORDS) int, on the host, NULL after END
Sample = Callable[[], np.ndarray]
Batch = tuple[np.ndarray, np.ndarray]  # features (N, D) and captions (N, T+1)


def batch_rows(config: Config, data: CaptionData) -> np.ndarray:
    """Caption numbers of each batch, (batches, N)."""
    return np.arange(len(data.split("train").captions)).reshape(-1, config.N)


def host_batches(config: Config, data: CaptionData) -> list[Batch]:
    """All batches, on the host."""
    return [data.minibatch("train", rows) for rows in batch_rows(config, data)]


def make_model(config: Config, data: CaptionData) -> CaptioningRNN:
    """A new xpcap model on the current backend; its weights are always equal."""
    return CaptioningRNN(
        data.vocabulary.word_to_idx,
        config.features,
        config.W,
        config.H,
        config.cell,
        np.dtype(config.dtype),
        dropout=config.dropout,
        inject="attention" if config.P else "init",
        seed=SEED,
    )


def make_solver(
    config: Config, data: CaptionData, group: Group = SINGLE, **adam: float
) -> CaptioningSolver:
    """A solver of a model from make_model; `adam` replaces constants of the optimizer."""
    return CaptioningSolver(
        make_model(config, data),
        data,
        update_rule="adam",
        optim_config={"learning_rate": LEARNING_RATE, **adam},
        batch_size=config.N,
        clip_norm=CLIP,
        seed=SEED,
        group=group,
    )


def make_ending_model(config: Config, data: CaptionData) -> CaptioningRNN:
    """An xpcap model whose captions end, on the current backend."""
    model = make_model(config, data)
    make_captions_end(model)
    return model


def host_model(config: Config, data: CaptionData, *, ending: bool = False) -> CaptioningRNN:
    """The model of make_model or make_ending_model on NumPy, whatever the current backend."""
    with use_backend("numpy"):
        return (make_ending_model if ending else make_model)(config, data)


def check_same_loss(theirs: float, ours: CaptioningRNN, batch: Batch, title: str) -> None:
    """Check that a contender's loss on a batch, without dropout, equals xpcap's on NumPy.

    Raises
    ------
    ArithmeticError : the losses differ, so the contender does other work.
    """
    expected = float(ours.score(*batch).nll) / len(batch[0])
    if not abs(theirs - expected) <= LOSS_TOLERANCE * abs(expected):
        raise ArithmeticError(
            f"bench: {title} has loss {theirs:.7g} and xpcap on NumPy {expected:.7g}, "
            f"expected a relative difference below {LOSS_TOLERANCE:g}: not the same work"
        )


def check_same_captions(
    theirs: np.ndarray, ours: CaptioningRNN, pictures: np.ndarray, policy: Policy, title: str
) -> None:
    """Raise ArithmeticError unless a contender's captions agree with xpcap's on NumPy."""
    expected = ours.sample(pictures, policy=policy)
    same = float((theirs == expected).mean()) if theirs.shape == expected.shape else 0.0
    if not same >= SAME_IDS:
        raise ArithmeticError(
            f"bench: {title} agrees with xpcap on NumPy in {same:.2%} of the word ids, expected at"
            f" least {SAME_IDS:.1%}: not the same work"
        )


# Necessary arithmetic: the matrix products without padding, with each distinct word projected once.
# A multiplication and an addition count as two operations. Elementwise work, softmax and Adam do not
# count, since memory bounds them, not arithmetic.


def training_flops(config: Config, batches: Iterable[np.ndarray], null: int) -> float:
    """Necessary operations of a training step, averaged over batches of captions (N, T+1).

    A layer needs three products: forward, and a gradient for each factor. Features have no gradient,
    so their projection needs two.
    """
    return float(np.mean([_step_flops(config, captions, null) for captions in batches]))


def _step_flops(config: Config, captions: np.ndarray, null: int) -> int:
    lengths = caption_lengths(captions, null)
    packed = pack(captions, null, deal(lengths)[0], lengths)
    # Live rows, distinct input words, rows with a target
    R, K, L = len(packed.inputs.ids), len(packed.words), len(packed.targets)
    G = config.columns
    products = 3 * (K * config.W * G + R * config.H * G + L * config.H * config.V)
    # The weights of the context; then attention logits and context, and gradients of context, state
    # and, twice, regions
    if config.P:
        products += 3 * R * config.H * G + 6 * R * config.P * config.H
    return 2 * (2 * packed.rows.N * (config.P or 1) * config.D * config.H + products)


def sampling_flops(
    config: Config, captions: np.ndarray, null: int, end: int, width: int = 1
) -> int:
    """Necessary operations to decode captions (n, T), with NULL after END.

    A beam needs a row for the first word and `width` rows for each later word, even if fewer
    hypotheses are left.
    """
    rows = len(captions) + width * (int(np.count_nonzero(captions != null)) - len(captions))
    inputs = captions[:, :-1]
    K = 1 + len(np.unique(inputs[(inputs != null) & (inputs != end)]))  # the 1 is START
    H = config.H
    return 2 * (
        len(captions) * config.D * H + K * config.W * 4 * H + rows * (H * 4 * H + H * config.V)
    )


# A model whose captions end: random weights never produce END, but the cost of sampling depends on
# the lengths of captions.

OPEN = 20.0  # pre-activation of an open gate: sigmoid(20) is 1 in float32
TICK = 0.01  # growth of the timer per time step: small, so that tanh stays linear
# END's logit rises by LOUD * TICK per time step, far more than the spread of the other logits
LOUD = 2000.0
SILENT = -1e4  # bias of words that must not be sampled
TIMER, MEMORY, CUE = 0, 1, 0  # two hidden units; a word dimension, 1 for START, 0 for other words


def make_captions_end(model: CaptioningRNN) -> None:
    """Make a random LSTM captioner's captions as long as data.synthetic's, of many words.

    The timer unit grows by TICK per time step. The memory unit gets a number from the picture at
    START, normal(0, deviation * TICK), and holds it. END wins as soon as timer + memory exceeds a
    threshold, after normal(mean, deviation) time steps, END included. The other units stay random,
    but word vectors are scaled up to the size of the other inputs, so that each word influences the
    next.
    """
    params = {name: to_numpy(value).copy() for name, value in model.params.items()}
    word_to_idx, H = model.word_to_idx, len(params["b_proj"])
    params["W_embed"] *= 100  # their standard deviation was 0.01
    params["W_embed"][:, CUE] = 0
    params["W_embed"][word_to_idx[START], CUE] = 1
    Wx, Wh, b = params["Wx"], params["Wh"], params["b"]
    i, f, o, g = (slice(k * H, (k + 1) * H) for k in range(4))
    memory = Wh[:, g][:, MEMORY] * TICK
    # Features are standard normal
    memory *= LIKE_COCO.deviation * TICK / np.linalg.norm(params["W_proj"] @ memory)
    for gate in (i, f, o, g):
        Wx[:, gate][:, [TIMER, MEMORY]] = Wh[:, gate][:, [TIMER, MEMORY]] = 0
    b[i][TIMER] = b[f][[TIMER, MEMORY]] = b[o][[TIMER, MEMORY]] = OPEN
    b[g][TIMER] = math.atanh(TICK)
    b[i][MEMORY], Wx[CUE, i][MEMORY] = -OPEN, 2 * OPEN
    Wh[:, g][:, MEMORY] = memory
    # Only timer and memory contribute to END's logit, and only the other units to the other logits
    W_vocab, b_vocab, end = params["W_vocab"], params["b_vocab"], word_to_idx[END]
    W_vocab[[TIMER, MEMORY]] = W_vocab[:, end] = 0
    W_vocab[[TIMER, MEMORY], end] = LOUD
    length = LIKE_COCO.mean + 1  # END included
    # The first time step after the threshold is on average half a step later
    b_vocab[end] = -LOUD * TICK * (length - 0.5)
    b_vocab[[word_to_idx[word] for word in (NULL, START, UNK)]] = SILENT
    for name, value in params.items():
        model.params[name] = value
