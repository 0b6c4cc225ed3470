"""The reference beam search: it prunes nothing and extends one hypothesis at a time."""

from typing import Any, NamedTuple

import numpy as np

from xpcap import CaptioningRNN
from xpcap.models import Beam

NULL, START, END = 0, 1, 2
SILENT = (NULL, START)


def pictures(n: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((n, 4))


def make(V: int, seed: int, says_end: float = 0.0, scale: float = 2.0) -> CaptioningRNN:
    """A model with random parameters, float64."""
    words = {"<NULL>": NULL, "<START>": START, "<END>": END, **{f"word{i}": i for i in range(3, V)}}
    model = CaptioningRNN(words, 4, 5, 6, "lstm", np.float64, seed=1)
    rng = np.random.default_rng(seed)
    for name, value in model.params.items():
        model.params[name] = scale * rng.standard_normal(value.shape)
    model.params["b_vocab"][END] += says_end
    return model


class Hypothesis(NamedTuple):
    """A hypothesis: total log-probability, words, and the state after them."""

    total: float
    words: tuple[int, ...]
    state: Any

    def score(self, penalty: float) -> float:
        return self.total / len(self.words) ** penalty


def allowed(words: tuple[int, ...], beam: Beam) -> list[bool]:
    """For each word that could follow `words`, whether a beam's limits let it: by trying, for every
    word.
    """
    fine = []
    for word in range(12):
        said = (*words, word)
        trigrams = [said[i : i + 3] for i in range(len(said) - 2)]
        repeats = beam.no_repeat_trigram and len(set(trigrams)) < len(trigrams)
        fine.append(
            not (word in beam.forbid or repeats or (word == END and len(words) < beam.least_length))
        )
    return fine


def continuations(
    model: CaptioningRNN, one: Hypothesis, beam: Beam
) -> list[tuple[float, int, Any]]:
    """Log-probability of each word that may follow, and the state behind it."""
    scores, state = model.step(np.array([one.words[-1] if one.words else START]), one.state)
    log_p = scores[0] - np.log(np.exp(scores[0] - scores[0].max()).sum()) - scores[0].max()
    fine = allowed(one.words, beam)
    return [(float(p), word, state) for word, p in enumerate(log_p) if fine[word]]


def reference_beam(model: CaptioningRNN, feature: np.ndarray, beam: Beam) -> list[Hypothesis]:
    """All captions that come out of a beam, the best first; groups choose in turn, and nothing
    stops early.
    """
    size = beam.width // beam.groups
    live = [[Hypothesis(0.0, (), model.start(feature[None]))] for _ in range(beam.groups)]
    ended: list[list[Hypothesis]] = [[] for _ in range(beam.groups)]
    for _ in range(beam.max_length):
        just_said: list[int] = []
        for g in range(beam.groups):
            found = []
            for rank, one in enumerate(live[g]):
                for p, word, state in continuations(model, one, beam):
                    made = Hypothesis(one.total + p, (*one.words, word), state)
                    found.append(
                        (-(made.total - beam.diversity * just_said.count(word)), rank, word, made)
                    )
            best = [
                entry[3]
                for entry in sorted(found, key=lambda entry: entry[:3])[: size - len(ended[g])]
            ]
            ended[g] += [one for one in best if one.words[-1] == END]
            live[g] = [one for one in best if one.words[-1] != END]
            just_said += [one.words[-1] for one in best]
    return sorted(
        (one for group in (*ended, *live) for one in group),
        key=lambda one: -one.score(beam.length_penalty),
    )
