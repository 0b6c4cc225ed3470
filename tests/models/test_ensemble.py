"""Ensembles beside the plainest averaging: one picture, one word and one model at a time."""

import gc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from emulated import Emulator
from reference_beam import END, NULL, SILENT, START, pictures, reference_beam
from refusals import Refusal, refusals

import xpcap
import xpcap.models.captioner as of_captioners
from xpcap import CaptioningRNN
from xpcap.models import Beam, Ensemble, FeatureRows, Policy, Sampling
from xpcap.ops import log_mean_softmax

V, LENGTH = 10, 8
WORDS = {"<NULL>": NULL, "<START>": START, "<END>": END, **{f"word{i}": i for i in range(3, V)}}
KINDS = {
    "lstm": ("lstm", 6, "init"),
    "rnn": ("rnn", 9, "every-step"),
    "other lstm": ("lstm", 7, "every-step"),
    "plain": ("plain", 8, "init"),
    "attentive lstm": ("lstm", 6, "attention"),
    "attentive rnn": ("rnn", 9, "attention+every-step"),
}
SEVERAL = [
    ("lstm", "rnn"),
    ("rnn", "other lstm"),
    ("attentive lstm", "attentive rnn"),
    ("lstm", "rnn", "other lstm"),
    ("plain", "lstm"),
]
pytestmark = pytest.mark.usefixtures("new_cells")


def seen(kinds: tuple[str, ...], n: int) -> np.ndarray:
    """Features of n pictures for models of these kinds; for those that attend, of three places
    each.
    """
    return pictures(3 * n).reshape(n, 3, 4) if "attentive" in kinds[0] else pictures(n)


def make(
    *kinds: str, seed: int = 0, says_end: float = 0.5, dtype: Any = np.float64
) -> list[CaptioningRNN]:
    """Models with different weights, sizes, cells and ways of the image."""
    models = []
    for kind in kinds:
        cell, hidden, inject = KINDS[kind]
        model = CaptioningRNN(
            WORDS,
            (3, 4) if "attentive" in kind else 4,
            hidden - 1,
            hidden,
            cell,
            dtype,
            inject=inject,
            seed=1,
        )
        rng = np.random.default_rng([seed, hidden])
        for name, value in model.params.items():
            model.params[name] = rng.standard_normal(value.shape)
        model.params["b_vocab"][END] += says_end
        models.append(model)
    return models


def on(backend: str, *kinds: str, says_end: float = 0.5) -> Ensemble:
    with xpcap.use_backend(backend):
        return Ensemble(make(*kinds, says_end=says_end))


class Averaged:
    """What an ensemble is, without its code: each model is stepped by itself."""

    def __init__(self, models: list[CaptioningRNN]) -> None:
        self.models = models

    def start(self, features: np.ndarray) -> list[Any]:
        return [model.start(features) for model in self.models]

    def step(self, words: np.ndarray, states: list[Any]) -> tuple[np.ndarray, list[Any]]:
        each = [model.step(words, state) for model, state in zip(self.models, states, strict=True)]
        p = [np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True) for scores, _ in each]
        return np.log(sum(p) / len(p)), [state for _, state in each]


def plain(
    models: list[CaptioningRNN], feature: np.ndarray, choose: Any
) -> tuple[list[int], list[float]]:
    """The caption of a picture and the probabilities of its words; `choose` gets t and the
    probabilities.
    """
    averaged = Averaged(models)
    state, word, words, probabilities = averaged.start(feature[None]), START, [], []
    while len(words) < LENGTH and word != END:
        log_p, state = averaged.step(np.array([word]), state)
        p = np.exp(log_p[0])
        word = choose(len(words), p)
        words.append(word)
        probabilities.append(float(p[word]))
    return words, probabilities


def likeliest(t: int, p: np.ndarray) -> int:
    return int(np.where(np.isin(np.arange(V), SILENT), 0, p).argmax())


@pytest.mark.parametrize(
    "policy",
    [Policy(forbid=SILENT), Sampling(0.8, top_p=0.9), Beam(4, n_best=4, groups=2)],
    ids=str,
)
def test_ensemble_of_one_says_what_the_model_says_bit_for_bit(policy: Policy) -> None:
    for kinds in (("rnn",), ("other lstm",), ("attentive lstm",)):
        (model,), features = make(*kinds, dtype="float32"), seen(kinds, 40)
        for ours, its in zip(
            Ensemble([model]).decode(features, policy), model.decode(features, policy), strict=True
        ):
            np.testing.assert_array_equal(ours, its)


@pytest.mark.parametrize("kinds", SEVERAL, ids="+".join)
def test_ensemble_says_what_the_mean_of_probabilities_says(kinds: tuple[str, ...]) -> None:
    """Greedily and drawn. It is not what any of the models says alone."""
    features, lengths = seen(kinds, 30), set()
    for seed in range(3):
        models = make(*kinds, seed=seed)
        captions, probabilities = Ensemble(models).sample_with_probabilities(
            features, LENGTH, forbid=SILENT
        )
        drawn = Ensemble(models).sample(features, policy=Sampling(max_length=LENGTH, seed=seed))
        for i, feature in enumerate(features):
            words, p = plain(models, feature, likeliest)
            assert captions[i].tolist() == words + [NULL] * (LENGTH - len(words))
            np.testing.assert_allclose(probabilities[i, : len(p)], p, rtol=1e-9)
            uniforms = np.random.Generator(
                np.random.Philox(key=np.array([seed, i], np.uint64))
            ).random(LENGTH)
            words, _ = plain(
                models, feature, lambda t, p, u=uniforms: int((p.cumsum() <= u[t]).sum())
            )
            assert drawn[i].tolist() == words + [NULL] * (LENGTH - len(words))
            lengths.add(len(words))
        assert all(
            (captions != model.sample(features, LENGTH, forbid=SILENT)).any() for model in models
        )
    assert len(lengths) > 3


@pytest.mark.parametrize("kinds", SEVERAL, ids="+".join)
@pytest.mark.parametrize(
    "beam",
    [
        Beam(4, n_best=4),
        Beam(6, n_best=6, groups=3),
        Beam(3, length_penalty=1.5, no_repeat_trigram=True),
    ],
    ids=str,
)
def test_beam_of_an_ensemble_is_the_reference_beam_over_the_mean_of_probabilities(
    beam: Beam, kinds: tuple[str, ...]
) -> None:
    beam = replace(beam, max_length=LENGTH, forbid=SILENT)
    for seed in range(3):
        models = make(*kinds, seed=seed)
        said = Ensemble(models).decode(seen(kinds, 3), beam)
        for i, feature in enumerate(seen(kinds, 3)):
            for j, one in enumerate(reference_beam(Averaged(models), feature, beam)[: beam.n_best]):
                assert [word for word in said.captions[i, j].tolist() if word != NULL] == list(
                    one.words
                )
                assert said.log_probabilities[i, j] == pytest.approx(one.total, abs=1e-9)


def given() -> np.ndarray:
    """Captions of 0 to 6 words, END included, in no order."""
    rng = np.random.default_rng(2)
    captions = np.full((20, 7), NULL)
    for i, row in enumerate(captions):
        row[: 1 + i % 6] = [START, *rng.integers(3, V, i % 6)]
        row[1 + i % 6] = END
    return rng.permutation(captions)


@pytest.mark.parametrize("kinds", [("other lstm",), ("attentive lstm",), *SEVERAL], ids="+".join)
def test_score_is_that_of_the_mean_of_probabilities(
    kinds: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that two cores share the captions
    monkeypatch.setattr(of_captioners, "MIN_SCORED_PER_CORE", 7)
    models, captions, features = make(*kinds), given(), seen(kinds, 20)
    nll, correct, tokens = 0.0, 0, 0
    logs: list[list[float]] = []
    for feature, caption in zip(features, captions, strict=True):
        words = iter(caption[1:])
        logs.append([])

        def follow(t: int, p: np.ndarray, words: Any = words) -> int:
            nonlocal nll, correct, tokens
            word = int(next(words))
            nll, correct, tokens = nll - np.log(p[word]), correct + (p.argmax() == word), tokens + 1
            logs[-1].append(float(np.log(p[word])))
            return word

        plain(models, feature, follow)
    for batch in (features, FeatureRows(features[::-1].copy(), np.arange(20)[::-1])):
        score = Ensemble(models).score(batch, captions)
        assert (float(score.nll), int(score.correct), score.tokens) == (
            pytest.approx(nll, rel=1e-12),
            correct,
            tokens,
        )
        by_word = Ensemble(models).word_log_probabilities(batch, captions)
        for found, wanted in zip(by_word, logs, strict=True):
            np.testing.assert_allclose(found[: len(wanted)], wanted, rtol=1e-11)
            assert not found[len(wanted) :].any()
    assert correct > 0


def test_ensemble_looks_where_its_models_do_on_average() -> None:
    kinds = ("attentive lstm", "attentive rnn")
    models, features = make(*kinds), seen(kinds, 20)
    each = [model.attention(features, given()) for model in models]
    assert np.abs(each[0] - each[1]).max() > 1e-4
    found = Ensemble(models).attention(features, given())
    np.testing.assert_allclose(found, np.mean(each, axis=0), rtol=1e-5)


def test_word_that_all_models_find_next_to_impossible_keeps_its_logarithm() -> None:
    """In float32 its probability is 0, but where all other words are forbidden it has to be
    said.
    """
    scores = np.array([[[0, -300, -200, -1, -150]], [[0, -250, -400, -2, -150]]], np.float32)
    wide = scores.astype(np.float64)
    wanted = np.log(0.5) + np.logaddexp(
        *(s - np.log(np.exp(s).sum(axis=1, keepdims=True)) for s in wide)
    )
    found = log_mean_softmax(list(scores))
    np.testing.assert_allclose(found[:, :4], wanted[:, :4], rtol=1e-6)
    assert (
        wanted[0, 4] - np.log(2.001) < found[0, 4] < wanted[0, 4]
    )  # there the largest of the two stands for their sum


def test_ensemble_follows_the_models_it_was_made_of() -> None:
    """They are not copied: what they learn later, it says."""
    models = make("lstm", "rnn")
    ensemble = Ensemble(models)
    before = ensemble.score(pictures(20), given()).nll
    models[1].params["b_vocab"][END] += 1
    assert (
        ensemble.score(pictures(20), given()).nll
        == Ensemble(models).score(pictures(20), given()).nll
        != before
    )
    assert ensemble.size == sum(model.params.flat.size for model in models)


@pytest.mark.parametrize(
    "policy",
    [Policy(), Sampling(seed=3), Beam(4, n_best=2), Beam(6, groups=3, no_repeat_trigram=True)],
    ids=str,
)
@pytest.mark.parametrize("kinds", SEVERAL, ids="+".join)
def test_emulated_ensemble_equals_numpy(
    kinds: tuple[str, ...], policy: Policy, device: Emulator
) -> None:
    policy = replace(policy, max_length=LENGTH, forbid=SILENT)
    host, emulated = (on(backend, *kinds) for backend in ("numpy", "cupy"))
    for one, other in zip(
        emulated.decode(seen(kinds, 12), policy), host.decode(seen(kinds, 12), policy), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-9)
    with device.counting() as counts:
        score = emulated.score(seen(kinds, 20), given())
    assert counts.reads == []
    wanted = host.score(seen(kinds, 20), given())
    assert (float(score.nll), int(score.correct), score.tokens) == (
        pytest.approx(float(wanted.nll), rel=1e-9),
        int(wanted.correct),
        wanted.tokens,
    )


@pytest.mark.parametrize("policy", [Policy(), Sampling(seed=3), Beam(4, n_best=2)], ids=str)
def test_emulated_ensemble_reads_once_a_word_and_sends_what_one_model_sends(
    policy: Policy, device: Emulator
) -> None:
    policy, sent = replace(policy, max_length=LENGTH, forbid=SILENT), set()
    for kinds in SEVERAL[-1][:1], SEVERAL[-1]:
        ensemble = on("cupy", *kinds, says_end=-50.0)
        gc.collect()  # an upload that is forgotten is waited for
        with device.counting() as counts:
            ensemble.decode(pictures(12), policy)
        assert counts.reads == []
        assert len([wait for wait in counts.waits if "hypotheses.py" in wait.place]) == LENGTH
        sent.add(len(counts.transfers))
    assert len(sent) == 1


def of(**changed: Any) -> CaptioningRNN:
    settings = {
        "word_to_idx": WORDS,
        "input_dim": 4,
        "wordvec_dim": 3,
        "hidden_dim": 5,
        "seed": 0,
    } | changed
    return CaptioningRNN(**settings)  # type: ignore[arg-type]


@refusals(
    """
    Ensemble([]) | ValueError | function: Ensemble | got: got no model
    Ensemble([of(), Ensemble([of()])]) | TypeError | function: Ensemble | got: got a Ensemble | expected: CaptioningRNNs
    Ensemble([of(), of(word_to_idx={**WORDS, "word3": 4, "word4": 3})]) | ValueError | function: Ensemble | thing: model 2 | got: has another vocabulary, of 10 words
    Ensemble([of(), of(), of(input_dim=5)]) | ValueError | function: Ensemble | thing: model 3 | got: takes features of shape (5,) | expected: (4,)
    Ensemble([of(), of(dtype=np.float64)]) | TypeError | function: Ensemble | thing: model 2 | got: computes in numpy and float64 | expected: numpy and float32
    pair.score(pictures(2), np.array([[START, V], [START, 3]])) | ValueError | function: Ensemble.score | thing: captions | cause: another vocabulary
    pair.sample(pictures(2), 5, policy=Policy()) | ValueError | function: Ensemble.sample | thing: max_length or forbid | got: is given with a policy
    pair.step([START], of().start(pictures(1))) | ValueError | function: Ensemble.step | thing: state | got: has 1 arrays | expected: 2
    pair.sample(np.array([["a"] * 4])) | TypeError | function: Ensemble.sample | thing: features | got: have dtype
    """
)
def test_what_does_not_fit_together_is_named(refusal: Refusal) -> None:
    refusal.check({**globals(), "pair": Ensemble([of(), of()])})
