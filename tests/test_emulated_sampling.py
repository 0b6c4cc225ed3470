"""Sampling on the emulated device: what a step costs, when its words are read, and that every policy says what it says on NumPy."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from emulated import Counts, Emulator

import xpcap
from xpcap import CaptioningRNN
from xpcap.models import Choice, Policy
from xpcap.models.reading import Reading

N, D, V, START, END = 12, 10, 40, 1, 2
WORDS = {"<NULL>": 0, "<START>": START, "<END>": END, **{f"word{i}": i for i in range(3, V)}}


def make(backend: str, says_end: float, cell: str = "lstm") -> CaptioningRNN:
    """A model with much to say; the more it `says_end`, the sooner captions end."""
    with xpcap.use_backend(backend):
        model = CaptioningRNN(WORDS, D, 6, 8, cell, np.float64, seed=1)
        rng = np.random.default_rng(5)
        for name, value in model.params.items():
            model.params[name] = 2 * rng.standard_normal(value.shape)
        model.params["W_vocab"][:, END] *= 3
        model.params["b_vocab"][END] = says_end
        return model


def features() -> np.ndarray:
    return np.random.default_rng(4).standard_normal((N, D))


class Watched(Policy):
    """Greedy decoding that notes how many rows it gets."""

    def choose(self, scores: Any, totals: Any, t: int) -> Choice:
        self.__dict__.setdefault("rows", []).append(len(scores))
        return super().choose(scores, totals, t)


class WatchedRowwise(Watched):
    rowwise = True


class Summing(Policy):
    """Says the second likeliest word, or a likelier one where the sum of a row so far is below zero."""

    rowwise = True

    def choose(self, scores: Any, totals: Any, t: int) -> Choice:
        xp = xpcap.get_array_module(scores)
        ranked = scores.argsort(axis=1)
        words = ranked[:, -2] if totals is None else xp.where(totals < 0, ranked[:, -1], ranked[:, -2])
        said = scores[xp.arange(len(words)), words]
        return Choice(words, totals=said if totals is None else totals + said)


class Turning(Policy):
    """From the second word on each hypothesis goes on from its neighbour: it is wrong if one in between has ended."""

    def choose(self, scores: Any, totals: Any, t: int) -> Choice:
        xp = xpcap.get_array_module(scores)
        parents = (xp.arange(len(scores)) + 1) % len(scores)
        return Choice(scores[parents].argmax(axis=1), parents) if t else super().choose(scores, totals, t)


def order(counts: Counts) -> str:
    """S where words are chosen, W where the host waits, as they came."""
    marks = {"argmax": "S", "Event.synchronize": "W"}
    return "".join(marks.get(getattr(event, "name", getattr(event, "how", "")), "") for event in counts.events)


def count(device: Emulator, says_end: float, policy: Policy) -> Counts:
    model = make("cupy", says_end)
    with device.counting() as counts:
        model.decode(features(), policy)
    assert counts.reads == []
    return counts


def test_emulated_words_are_read_once_the_next_step_is_launched(device: Emulator) -> None:
    """So the device has work while the host looks at them. Another policy must not see captions that have ended: the host waits at once."""
    assert order(count(device, -1e9, Policy(5))) == "SSWSWSWSWW"
    assert order(count(device, -1e9, WatchedRowwise(5))) == "SSWSWSWSWW"
    assert order(count(device, -1e9, Watched(5))) == "SWSWSWSWSW"
    assert order(count(device, 1e9, Policy(5))) == "SSWW"  # all have ended after a word, which is known after another
    assert order(count(device, -1e9, Policy(1))) == "SW"


def test_emulated_step_of_sampling_launches_little_and_sends_nothing(device: Emulator) -> None:
    """Counted as the difference between captions of 7 and of 6 words."""
    longer, shorter = (count(device, -1e9, Policy(length, forbid=[0, START])) for length in (7, 6))
    assert longer.names() - shorter.names() <= Counter(
        {"product dgemm": 2, "elementwise add": 2, "gather take": 1, "raw lstm_step": 1, "scatter index": 1, "reduction argmax": 1, "copy get": 1}
    )
    assert len(longer.transfers) == len(shorter.transfers) == 2  # features, and forbidden words


def lengths(policies: Iterable[Watched]) -> list[list[int]]:
    return [policy.__dict__["rows"] for policy in policies]


def test_emulated_policy_of_ones_own_gets_the_captions_that_go_on(device: Emulator) -> None:
    """A `rowwise` one those that ended in the step before as well."""
    policies = [Watched(9), Watched(9), WatchedRowwise(9)]
    said = [make(backend, 8.0).decode(features(), policy)[0] for backend, policy in zip(("numpy", "cupy", "cupy"), policies, strict=True)]
    host, emulated, late = lengths(policies)
    assert len(set(host)) > 3
    assert emulated == host
    assert late[:2] == [N, N]
    assert late[2:] == host[1 : len(late) - 1]
    np.testing.assert_array_equal(said[1], said[0])
    np.testing.assert_array_equal(said[2], said[0])


@pytest.mark.parametrize("policy", [Policy, Watched, WatchedRowwise, Summing, Turning])
@pytest.mark.parametrize("cell", ["lstm", "rnn"])
def test_emulated_policies_say_what_they_say_on_numpy(cell: str, policy: type[Policy], device: Emulator) -> None:
    seen = set()
    for says_end in (-1e9, 4.0, 8.0, 1e9):
        for length in (1, 2, 9):
            said = [make(backend, says_end, cell).decode(features(), policy(length, [START]), scored=True) for backend in ("numpy", "cupy")]
            (host, probabilities), (emulated, emulated_probabilities) = said
            np.testing.assert_array_equal(emulated, host)
            np.testing.assert_allclose(emulated_probabilities, probabilities, rtol=1e-9)
            seen |= set((host != 0).sum(axis=1).tolist())
    assert len(seen) > 3


def test_emulated_rowwise_policy_with_parents_is_refused(device: Emulator) -> None:
    class Wrong(Turning):
        rowwise = True

    with pytest.raises(ValueError, match=r"Wrong\.choose names parents"):
        make("cupy", 0.0).decode(features(), Wrong(3))


def test_emulated_copy_ends_before_its_memory_is_given_back(device: Emulator) -> None:
    import cupy

    for looked_at in (False, True):
        reading = Reading(cupy.zeros(3))
        if looked_at:
            reading.wait()
        del reading
    assert [wait.how for wait in device.waits] == 2 * ["Event.synchronize"]
