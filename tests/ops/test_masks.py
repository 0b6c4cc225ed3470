"""Dropout masks: numbers that anybody can reproduce, the same on either device, whatever the
packing and the parts.
"""

from typing import Any

import numpy as np
import philox
import pytest
from refusals import refuses

from xpcap import CaptioningRNN, plain, to_numpy
from xpcap.backend import asarray
from xpcap.backend.memory import Workspace
from xpcap.models import network
from xpcap.models.batch import Part
from xpcap.models.network import Network
from xpcap.ops import get_ops

D, W, H = 21, 32, 5  # blocks of 16 units: one and a bit, two, and less than one
WORDS = {"<NULL>": 0, "<START>": 1, "<END>": 2, **{f"w{i}": i for i in range(3, 12)}}
SEED, STEP, KEEP = 2**63 - 1, 3 * 2**33, 0.7


def drawn(
    shape: tuple[int, int], keep: float = KEEP, seed: int = SEED, step: int = STEP
) -> list[np.ndarray]:
    """The masks of all three places, of the same shape, on the backend in force."""
    masks = [asarray(np.zeros(shape, bool)) for _ in range(3)]
    get_ops(masks[0]).dropout_masks(
        [masks],
        [[asarray(np.arange(shape[0], dtype=np.int32))] * 3],
        [shape[0]] * 3,
        seed,
        step,
        keep,
    )
    return [to_numpy(mask) for mask in masks]


def test_philox_gives_the_published_answers() -> None:
    """The tests' own, and NumPy's, which counts up first."""
    for counter, key, words in philox.published():
        assert philox.block(counter, key) == words
        before = (sum(word << 64 * k for k, word in enumerate(counter)) - 1) % 2**256
        numpys = np.random.Philox(
            key=np.array(key, np.uint64),
            counter=np.array([before >> 64 * k & 2**64 - 1 for k in range(4)], np.uint64),
        )
        assert numpys.random_raw(4).tolist() == words


@pytest.mark.parametrize("is_plain", [False, True], ids=["fast", "plain"])
@pytest.mark.parametrize(
    ("width", "keep"), [(1, 0.5), (15, 0.7), (16, 0.3), (53, 1 - 1e-9), (64, 0.7), (7, 2.0**-16)]
)
def test_masks_are_the_contracts_unit_by_unit(
    width: int, keep: float, is_plain: bool, lib: Any
) -> None:
    shape = (5, width)
    with plain() if is_plain else np.errstate():
        for place, mask in enumerate(drawn(shape, keep)):
            np.testing.assert_array_equal(mask, philox.kept(SEED, place, STEP, shape, keep))


def test_a_unit_is_kept_just_above_its_bits(lib: Any) -> None:
    bits = philox.block([1, 0, 0, STEP], [SEED, 0])[0] & 0xFFFF
    assert [bool(drawn((1, 1), threshold / 65536)[0]) for threshold in (bits, bits + 1)] == [
        False,
        True,
    ]


def test_an_outsider_gets_the_masks_of_numpy(lib: Any) -> None:
    """As the docstring of ops.dropout_masks says: rows that fill their blocks follow one another in
    NumPy's stream.
    """
    bits = np.random.Philox(key=[5, 2], counter=[0, 0, 0, 9]).random_raw(4 * 6).view(np.uint16)
    np.testing.assert_array_equal(
        drawn((3, 32), 0.7, 5, 9)[2], (bits < round(0.7 * 65536)).reshape(3, 32)
    )


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.7])
def test_masks_keep_their_share_and_differ_by_place_step_seed_and_row(keep: float) -> None:
    n, width = 400, 512
    masks = [
        *drawn((n, width), keep),
        *(
            drawn((n, width), keep, **other)[0]
            for other in ({"step": STEP + 1}, {"seed": SEED - 1}, {"step": 0})
        ),
    ]
    masks += [np.roll(masks[0], 1, axis=0), np.roll(masks[0], 16, axis=1)]
    sigma = (n * width) ** -0.5
    for mask in masks:
        assert abs(mask.mean() - keep) < 5 * sigma * (keep * (1 - keep)) ** 0.5
    alike = keep**2 + (1 - keep) ** 2  # share of the units on which two independent masks agree
    for k, mask in enumerate(masks):
        for other in masks[:k]:
            assert abs((mask == other).mean() - alike) < 5 * sigma * (alike * (1 - alike)) ** 0.5


def captioner() -> CaptioningRNN:
    return CaptioningRNN(WORDS, D, W, H, "lstm", np.float64, dropout=1 - KEEP, seed=SEED)


def batch(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Captions of several lengths in no order, one without any target and one with a NULL
    inside.
    """
    captions = rng.integers(1, len(WORDS), (9, 8)).astype(np.int32)
    for row, length in zip(captions, (3, 7, 1, 5, 0, 5, 7, 2, 6), strict=True):
        row[length + 1 :] = 0
    captions[3, 3] = 0
    return rng.standard_normal((9, D)), captions


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_masks_of_a_batch_know_nothing_of_packing_parts_and_device(
    parts: int, lib: Any, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, (features, captions) = captioner(), batch(rng)
    lengths = [int(np.flatnonzero(row[1:]).max(initial=-1)) + 1 for row in captions]
    live = [(caption, t) for caption, length in enumerate(lengths) for t in range(length)]
    words = sorted({int(captions[caption, t]) for caption, t in live})
    of_features, of_words, of_hidden = (
        philox.kept(SEED, place, STEP, shape, KEEP)
        for place, shape in enumerate([(9, D), (len(words), W), (len(live), H)])
    )
    computed: list[Part] = []
    forward = Network.forward
    monkeypatch.setattr(network, "MIN_PRODUCT", 1)
    monkeypatch.setattr(network, "MIN_CAPTIONS_PER_CORE", len(captions) // parts)
    monkeypatch.setattr(
        Network, "forward", lambda self, part: (computed.append(part), forward(self, part))[1]
    )
    model.loss(features, captions, step=STEP, workspace=Workspace(model.params.flat, parts))
    assert len(computed) == (parts if lib.xp is np else 1)
    seen = []
    for packed, _, _, masks, *_ in computed:
        order = packed.order
        np.testing.assert_array_equal(to_numpy(masks.features), of_features[order])
        word_rows = [words.index(word) for word in to_numpy(packed.words)]
        np.testing.assert_array_equal(to_numpy(masks.words), of_words[word_rows])
        steps = [
            (int(order[k]), t) for t, n in enumerate(packed.rows.batch_sizes) for k in range(n)
        ]
        target_rows = packed.target_rows  # a NULL inside a caption has no mask
        rows = range(len(steps)) if target_rows is None else to_numpy(target_rows)
        hidden_rows = [live.index(steps[row]) for row in rows]
        np.testing.assert_array_equal(to_numpy(masks.hidden), of_hidden[hidden_rows])
        seen += steps
    assert sorted(seen) == live


def test_a_step_has_its_masks_whatever_came_before(lib: Any, rng: np.random.Generator) -> None:
    """Without a number, steps are counted: from 0, from the last number that was given, and not
    where a batch is refused.
    """
    features, captions = batch(rng)
    losses = {
        step: float(captioner().loss(features, captions, step=step)[0])
        for step in (0, 1, 2, 2**62, 2**62 + 1)
    }
    assert len(set(losses.values())) == len(losses)
    model = captioner()

    def counted() -> float:
        return float(model.loss(features, captions)[0])

    assert [counted(), counted()] == [losses[0], losses[1]]
    with refuses(ValueError, "(N, 21) = (8, 21)", "caption"):
        model.loss(features, captions[1:])
    model.score(features, captions)
    assert counted() == losses[2]
    assert float(model.loss(features, captions, step=2**62)[0]) == losses[2**62]
    assert counted() == losses[2**62 + 1]


def test_without_targets_there_is_nothing_to_drop(lib: Any) -> None:
    loss, grads = captioner().loss(np.ones((2, D)), np.zeros((2, 4), int))
    assert float(loss) == 0
    assert not to_numpy(grads.flat).any()
