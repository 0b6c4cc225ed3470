"""Sampling on the emulated device: what a step costs, when its words are read, and that every
policy says what it says on NumPy.
"""

import gc
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from emulated import Counts, Emulator
from refusals import refuses

import xpcap
from xpcap import CaptioningRNN
from xpcap.backend.transfers import AHEAD, AsyncCopy
from xpcap.decoding.decode import decode
from xpcap.errors import TrainingError
from xpcap.models import Beam, Choice, Policy, Sampling

pytestmark = pytest.mark.usefixtures("few_threads")

N, D, P, V, START, END = 12, 10, 3, 40, 1, 2
WORDS = {"<NULL>": 0, "<START>": START, "<END>": END, **{f"word{i}": i for i in range(3, V)}}


def make(
    backend: str, says_end: float, cell: str = "lstm", inject: str = "init", scale: float = 2.0
) -> CaptioningRNN:
    """A model with much to say; the more it `says_end`, the sooner captions end. Weights of a small
    `scale` leave its states short of +-1.
    """
    with xpcap.use_backend(backend):
        size = (P, D) if "attention" in inject else D
        model = CaptioningRNN(WORDS, size, 6, 8, cell, np.float64, inject=inject, seed=1)
        rng = np.random.default_rng(5)
        for name, value in model.params.items():
            model.params[name] = scale * rng.standard_normal(value.shape)
        model.params["W_vocab"][:, END] *= 3
        model.params["b_vocab"][END] = says_end
        return model


def features(inject: str = "init") -> np.ndarray:
    return np.random.default_rng(4).standard_normal((N, P, D) if "attention" in inject else (N, D))


class Watched(Policy):
    """Greedy decoding that notes how many rows it gets."""

    def choose(self, scores: Any, totals: Any, t: int) -> Choice:
        self.__dict__.setdefault("rows", []).append(len(scores))
        return super().choose(scores, totals, t)


class WatchedRowwise(Watched):
    rowwise = True


class Summing(Policy):
    """Says the second likeliest word, or a likelier one where the sum of a row so far is below
    zero.
    """

    rowwise = True

    def choose(self, scores: Any, totals: Any, t: int) -> Choice:
        xp = xpcap.get_array_module(scores)
        ranked = scores.argsort(axis=1)
        words, best = ranked[:, -2], ranked[:, -1]
        if totals is not None:
            words = xp.where(totals < 0, best, words)
        said = scores[xp.arange(len(words)), words]
        return Choice(words, totals=said if totals is None else totals + said)


class Turning(Policy):
    """From the second word on each hypothesis goes on from its neighbour: it is wrong if one in
    between has ended.
    """

    def choose(self, scores: Any, totals: Any, t: int) -> Choice:
        xp = xpcap.get_array_module(scores)
        parents = (xp.arange(len(scores)) + 1) % len(scores)
        if not t:
            return super().choose(scores, totals, t)
        return Choice(scores[parents].argmax(axis=1), parents)


def order(counts: Counts) -> str:
    """S where words are chosen, W where the host waits, as they came."""
    marks = {"argmax": "S", "Event.synchronize": "W"}
    names = (getattr(event, "name", getattr(event, "how", "")) for event in counts.events)
    return "".join(marks.get(name, "") for name in names)


def count(device: Emulator, says_end: float, policy: Policy) -> Counts:
    model = make("cupy", says_end)
    gc.collect()  # an upload that is forgotten is waited for
    with device.counting() as counts:
        model.sample(features(), policy=policy)
    assert counts.reads == []
    return counts


def test_emulated_words_are_read_once_the_next_step_is_launched(device: Emulator) -> None:
    """So the device has work while the host looks at them. Another policy must not see captions
    that have ended: the host waits at once.
    """
    assert order(count(device, -1e9, Policy(max_length=5))) == "SSWSWSWSWW"
    assert order(count(device, -1e9, WatchedRowwise(max_length=5))) == "SSWSWSWSWW"
    assert order(count(device, -1e9, Watched(max_length=5))) == "SWSWSWSWSW"
    # All have ended after a word, which is known after another
    assert order(count(device, 1e9, Policy(max_length=5))) == "SSWW"
    assert order(count(device, -1e9, Policy(max_length=1))) == "SW"


WORD = (
    "product dgemm, elementwise add, raw gather, raw lstm_step, raw forbid, raw argmax, fetch get"
)


@pytest.mark.parametrize(
    ("policy", "most"),
    [(Policy(), 7), (Sampling(), 7), (Sampling(top_p=0.9), 23), (Beam(5), 12)],
    ids=["greedy", "sampling", "top_p", "beam"],
)
def test_emulated_word_takes_few_launches(policy: Policy, most: int, device: Emulator) -> None:
    """Counted as the difference between captions of 7 and of 6 words."""
    longer, shorter = (
        count(device, -1e9, replace(policy, max_length=length, forbid=[0, START]))
        for length in (7, 6)
    )
    word = longer.names() - shorter.names()
    assert word.total() <= most
    assert "scan" not in longer.kinds(), "CuPy adds in a tree: its sums need not rise"
    if type(policy) is Policy:
        assert word <= Counter(WORD.split(", "))
        assert len(longer.transfers) == len(shorter.transfers) == 2  # features, forbidden words


def test_emulated_policy_of_ones_own_gets_the_captions_that_go_on(device: Emulator) -> None:
    """A `rowwise` one those that ended in the step before as well."""
    policies = [Watched(max_length=9), Watched(max_length=9), WatchedRowwise(max_length=9)]
    said = [
        make(backend, 8.0).sample(features(), policy=policy)
        for backend, policy in zip(("numpy", "cupy", "cupy"), policies, strict=True)
    ]
    host, emulated, late = (policy.__dict__["rows"] for policy in policies)
    assert len(set(host)) > 3
    assert emulated == host
    assert late[:2] == [N, N]
    assert late[2:] == host[1 : len(late) - 1]
    np.testing.assert_array_equal(said[1], said[0])
    np.testing.assert_array_equal(said[2], said[0])


@pytest.mark.parametrize("policy", [Policy, Watched, WatchedRowwise, Summing, Turning])
@pytest.mark.parametrize("cell", ["lstm", "stacked"])
@pytest.mark.usefixtures("new_cells")
def test_emulated_policies_say_what_they_say_on_numpy(
    cell: str, policy: type[Policy], device: Emulator
) -> None:
    seen = set()
    for says_end in (-1e9, -4.0, 0.0, 8.0, 1e9):
        for length in (1, 2, 9):
            host, emulated = (
                make(backend, says_end, cell).decode(
                    features(), policy(max_length=length, forbid=[START])
                )
                for backend in ("numpy", "cupy")
            )
            np.testing.assert_array_equal(emulated.captions, host.captions)
            np.testing.assert_allclose(emulated.probabilities, host.probabilities, rtol=1e-9)
            seen |= set((host.captions != 0).sum(axis=2).ravel().tolist())
    assert len(seen) > 3


OURS = [
    Policy(no_repeat_trigram=True),
    Sampling(seed=3),
    Sampling(0.5, top_k=7, top_p=0.9, least_length=3, no_repeat_trigram=True),
    Beam(5, n_best=5),
    Beam(6, n_best=4, groups=3, diversity=2.0),
    Beam(3, least_length=3, no_repeat_trigram=True),
]


@pytest.mark.parametrize("policy", OURS, ids=str)
@pytest.mark.parametrize(
    ("cell", "inject"),
    [("lstm", "init"), ("lstm", "attention"), ("stacked", "every-step")],
)
@pytest.mark.usefixtures("new_cells")
@pytest.mark.slow
def test_emulated_beams_and_draws_are_those_of_numpy(
    cell: str, inject: str, policy: Policy, device: Emulator
) -> None:
    lengths = set()
    for says_end in (-1e9, 2.0, 5.0):
        for most in (4, 9):
            limited = replace(policy, max_length=most, forbid=[0, START])
            host, emulated = (
                make(backend, says_end, cell, inject, 0.7).decode(features(inject), limited)
                for backend in ("numpy", "cupy")
            )
            np.testing.assert_array_equal(emulated.captions, host.captions)
            np.testing.assert_allclose(emulated.probabilities, host.probabilities, rtol=1e-9)
            np.testing.assert_allclose(
                emulated.log_probabilities, host.log_probabilities, rtol=1e-9, atol=1e-12
            )
            lengths |= set((host.captions != 0).sum(axis=2).ravel().tolist())
    assert len(lengths) > 1


@pytest.mark.parametrize("policy", OURS, ids=str)
@pytest.mark.slow
def test_emulated_host_reads_once_a_word_and_sends_little_whatever_the_policy(
    policy: Policy, device: Emulator
) -> None:
    """Uploads go through a ring of AHEAD buffers: with fewer than that between two reads, none
    waits for the device.
    """
    for scored in (True, False):
        counted = []
        for most in (7, 8):
            model = make("cupy", -1e9)
            gc.collect()  # an upload that is forgotten is waited for
            with device.counting() as counts:
                decode(
                    model, features(), replace(policy, max_length=most, forbid=[0, START]), scored
                )
            assert counts.reads == []
            reads = [wait for wait in counts.waits if "hypotheses.py" in wait.place]
            assert [wait.how for wait in reads] == most * ["Event.synchronize"]
            counted.append(len(counts.transfers))
        assert counted[1] - counted[0] <= 2 < AHEAD


def test_emulated_rowwise_policy_with_parents_is_refused(device: Emulator) -> None:
    class Wrong(Turning):
        rowwise = True

    with refuses(ValueError, "Wrong.choose", "names parents"):
        make("cupy", 0.0).sample(features(), policy=Wrong(max_length=3))


@pytest.mark.parametrize("policy", [Policy(), Sampling(seed=3), Beam(4, groups=2)], ids=str)
def test_emulated_model_whose_weights_are_not_finite_says_nothing_and_reads_nothing_back(
    policy: Policy, device: Emulator
) -> None:
    model = make("cupy", 0.0)
    model.params["b_vocab"][3] = np.nan
    with device.counting() as counts, refuses(TrainingError, "scores of the first word"):
        model.decode(features(), policy)
    assert counts.reads == []


def test_emulated_copy_ends_before_its_memory_is_given_back(device: Emulator) -> None:
    import cupy

    for looked_at in (False, True):
        copy = AsyncCopy(cupy.zeros(3))
        if looked_at:
            copy.wait()
        del copy
    assert [wait.how for wait in device.waits] == 2 * ["Event.synchronize"]
