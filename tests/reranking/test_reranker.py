"""Reranking by similar photos: neighbours by brute force, features and scores by hand, weights that
follow rewards, and a file that survives the disk and refuses damage.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from libraries import Lib
from refusals import Refusal, refusals, refuses
from safetensors.numpy import save

import xpcap.reranking.file as of_file
import xpcap.reranking.index as of_index
from xpcap.data import CaptionData, Split, Vocabulary
from xpcap.data.vocabulary import SPECIAL
from xpcap.errors import DataError, OptionError
from xpcap.files.safetensors_file import FORMAT, KEY, read_tensors
from xpcap.metrics import CiderD
from xpcap.reranking import FEATURES, Candidate, PhotoIndex, Reranker, Reranking, fit
from xpcap.reranking.file import read_reranker, write_reranker
from xpcap.reranking.weights import PRIOR

D, PHOTOS = 12, 40
THINGS = ("dog", "cat", "boat", "tree")
TEXTS = [f"a {one} near a {other}" for one in THINGS for other in THINGS]
VOCABULARY = Vocabulary.build(TEXTS, 1)
Words = tuple[int, ...]


def ids(text: str) -> Words:
    return tuple(VOCABULARY.word_to_idx.get(word, VOCABULARY.unk) for word in text.split())


def data_of(n: int = PHOTOS, seed: int = 0, captions: int = 2) -> CaptionData:
    """Photos whose features and captions both tell two things apart, and an unknown word."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n, D)).astype(np.float32)
    kinds = rng.integers(0, len(TEXTS), n)
    features[:, :4] += 4 * np.eye(4)[kinds // 4]
    features[:, 4:8] += 4 * np.eye(4)[kinds % 4]
    texts = [TEXTS[kind] for kind in kinds for _ in range(captions)]
    texts[1] = "a zebra near a dog"
    split = Split(
        captions=VOCABULARY.encode(texts, 6),
        image_idxs=np.repeat(np.arange(n), captions).astype(np.int32),
        features=features,
        images=[f"photo{seed}-{i}.jpg" for i in range(n)],
        text=texts,
    )
    return CaptionData(VOCABULARY, {"train": split})


@pytest.fixture(scope="module")
def data() -> CaptionData:
    return data_of()


@pytest.fixture(scope="module")
def index(data: CaptionData) -> PhotoIndex:
    return PhotoIndex.of(data)


def queries(data: CaptionData, n: int = 7) -> np.ndarray:
    features = np.asarray(data.split("train").features)
    return features[:n] + np.random.default_rng(5).standard_normal((n, D)).astype(np.float32)


@pytest.mark.parametrize("at_once", [1, 1 << 24])  # rows of the index together
def test_neighbours_are_those_of_a_search_through_all_cosines(
    at_once: int, data: CaptionData, index: PhotoIndex, lib: Lib, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_index, "BLOCK_SIZE", at_once)
    x = np.asarray(data.split("train").features, np.float64)
    mean, (_, _, axes) = x.mean(axis=0), np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    assert index.embeddings.shape == (PHOTOS, D)  # all components: cosines are those of x - mean
    assert index.embeddings.dtype == np.float16
    q = queries(data)
    cosines = (q - mean) @ (x - mean).T
    cosines /= np.linalg.norm(q - mean, axis=1)[:, None] * np.linalg.norm(x - mean, axis=1)
    found = index.nearest(index.embeddings_of(lib(q)), 5)
    assert (found.photos == np.argsort(-cosines, axis=1)[:, :5]).all()
    wanted = -np.sort(-cosines, axis=1)[:, :5]
    np.testing.assert_allclose(found.similarities, wanted, atol=2e-3)
    assert len(axes) == D


def test_a_photo_is_not_its_own_neighbour(data: CaptionData, index: PhotoIndex) -> None:
    own = index.nearest(index.embeddings_of(np.asarray(data.split("train").features)), 4)
    assert not (own.photos == np.arange(PHOTOS)[:, None]).any()
    embeddings = index.embeddings_of(queries(data, 1))
    few = index.nearest(embeddings, PHOTOS + 3)
    (alike,) = np.nonzero(embeddings[0] @ index.embeddings.T.astype(np.float32) > 0)
    assert sorted(few.photos[0, : len(alike)].tolist()) == alike.tolist()
    assert few.photos[0, len(alike) :].tolist() == [-1] * (PHOTOS + 3 - len(alike))  # no more


@pytest.mark.parametrize("n", [3, 100])
def test_of_few_photos_the_nearest_is_not_taken_for_the_photo_itself(n: int, lib: Lib) -> None:
    """Few photos vary in few directions, to which the difference of a near copy is lost."""
    rng, split = np.random.default_rng(0), data_of(n).split("train")
    features = rng.standard_normal((n, 320)).astype(np.float32)
    photos = replace(split, features=features)
    index = PhotoIndex.of(CaptionData(VOCABULARY, {"train": photos}))
    noise = rng.standard_normal(features.shape).astype(np.float32)
    for share, itself in ((0.5, False), (0.01, True)):  # of noise in a feature
        copies = lib(features + np.float32(share) * noise)
        near = index.nearest(index.embeddings_of(copies), 5, index.shares_of(copies))
        assert (near.photos == np.arange(n)[:, None]).any(axis=1).tolist() == [not itself] * n


def test_an_index_of_grids_is_that_of_their_means(data: CaptionData, index: PhotoIndex) -> None:
    split = data.split("train")
    flat = np.asarray(split.features)
    away = np.random.default_rng(1).standard_normal(flat.shape).astype(np.float32)
    grid = np.stack([flat + away, flat - away], axis=1)
    of_grids = PhotoIndex.of(replace(data, splits={"train": replace(split, features=grid)}))
    one, other = of_grids.embeddings_of(grid), index.embeddings_of(flat)
    np.testing.assert_allclose(np.abs(one @ one.T), np.abs(other @ other.T), atol=1e-5)


def test_captions_and_pairs_are_those_of_the_split(data: CaptionData, index: PhotoIndex) -> None:
    texts = data.split("train").text
    assert texts is not None
    for photo in (0, 1, PHOTOS - 1):
        wanted = [list(ids(text)) for text in texts[2 * photo : 2 * photo + 2]]
        assert index.captions(photo) == wanted
    seen = {pair for text in texts for pair in zip(ids(text), ids(text)[1:], strict=False)}
    last = {(ids(text)[-1], VOCABULARY.end) for text in texts}
    assert index.pairs.tolist() == sorted(first << 32 | second for first, second in seen | last)
    assert ids("near a") in seen  # and nothing across the end of a caption
    assert (VOCABULARY.word_to_idx["dog"], VOCABULARY.word_to_idx["a"]) not in seen


def test_captions_that_were_cut_do_not_tell_how_captions_end(data: CaptionData) -> None:
    split = data.split("train")
    cut = VOCABULARY.encode(list(split.text or ()), 4)  # before the last word
    index = PhotoIndex.of(replace(data, splits={"train": replace(split, captions=cut)}))
    assert not (index.photos.captions == VOCABULARY.end).any()
    assert not (index.pairs & 0xFFFFFFFF == VOCABULARY.end).any()


def test_an_index_is_extended_by_photos_of_another_data_set(
    data: CaptionData, index: PhotoIndex
) -> None:
    more = data_of(5, seed=1)
    longer = index.extended(more, "flickr8k")
    assert len(longer) == PHOTOS + 5
    assert longer.photos.images[-1] == "photo1-4.jpg"
    assert longer.photos.images[0] == "flickr8k: photo0-0.jpg"  # of which there may be a namesake
    assert longer.captions(PHOTOS)[0] == list(ids(more.texts("train")[0]))
    assert longer.frequencies.pictures == PHOTOS + 5
    near = longer.nearest(longer.embeddings_of(np.asarray(more.split("train").features)), 1)
    assert longer.predictor.shape == (D + 1, len(VOCABULARY))
    assert (near.similarities < of_index.DUPLICATE_SIMILARITY).all()


def test_an_index_is_not_extended_by_other_words(data: CaptionData, index: PhotoIndex) -> None:
    other = Vocabulary([*SPECIAL, *reversed(VOCABULARY.idx_to_word[len(SPECIAL) :])])
    with refuses(DataError, "the vocabulary", "these first"):
        index.extended(data.with_vocabulary(other), "other")
    index.extended(data.with_vocabulary(VOCABULARY.union(Vocabulary([*SPECIAL, "zebra"]))), "other")


def test_the_predictor_expects_the_words_of_similar_photos(
    data: CaptionData, index: PhotoIndex
) -> None:
    split = data.split("train")
    embeddings = index.embeddings_of(np.asarray(split.features))
    expected = embeddings @ index.predictor[:-1].astype(np.float32) + index.predictor[-1]
    texts = data.texts("train")[::2]
    for thing in THINGS:
        column = expected[:, VOCABULARY.word_to_idx[thing]]
        has = np.array([thing in text for text in texts])
        assert column[has].mean() > column[~has].mean() + 0.3
    everywhere = expected[:, VOCABULARY.word_to_idx["near"]]
    np.testing.assert_allclose(everywhere, 1, atol=0.02)


def test_photos_that_do_not_look_alike_are_no_neighbours(lib: Lib) -> None:
    """Photos of two kinds that are opposites: others of a photo's own kind are the same as it."""
    data = data_of(8)
    opposite = np.where(np.arange(8)[:, None] % 2, 1, -1) * np.ones((8, D), np.float32)
    split = replace(data.split("train"), features=opposite.astype(np.float32))
    index = PhotoIndex.of(replace(data, splits={"train": split}))
    features = np.stack([opposite[0], np.zeros(D)]).astype(np.float32)  # the second has no side
    near = index.nearest(index.embeddings_of(lib(features)), 3)
    assert near.photos.tolist() == [[-1] * 3] * 2
    made = [[Candidate(ids("a dog"), -1.0), Candidate(ids("a cat"), -2.0)]] * 2
    own = reranker(index, retrieved=2, log_probability=1.0, consensus=9.0)
    rerankings = reranked(own, lib(features), made)
    assert [one.best for one in rerankings] == [ids("a dog")] * 2


# Features and scores


def reranker(index: PhotoIndex, retrieved: int = 0, **weights: float) -> Reranker:
    own = {name: weights.get(name, 0.0) for name in FEATURES}
    return Reranker(index, own, 3, 0.1, 4, retrieved, False)


def likely(numbers: Sequence[int], captions: Sequence[Words]) -> np.ndarray:
    return np.full(len(captions), -4.0)


def reranked(
    own: Reranker, features: Any, made: list[list[Candidate]], likelihood: Any = likely
) -> list[Reranking]:
    """Rankings with captions of neighbours, but for one that is not allowed."""

    def allowed(captions: Sequence[Words]) -> np.ndarray:
        return np.array([words != ids("a boat near a boat") for words in captions], bool)

    embeddings, near = own.near(features)
    return own.rerank(embeddings, near, own.with_retrieved(near, made, likelihood, allowed))


@pytest.mark.parametrize("photos_per_core", [1, 32])
def test_features_are_those_computed_by_hand(
    photos_per_core: int, data: CaptionData, index: PhotoIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xpcap.reranking.reranker.MIN_PHOTOS_PER_CORE", photos_per_core)
    monkeypatch.setattr("xpcap.reranking.reranker.cores", lambda: 2)
    q = queries(data, 2)
    embeddings = index.embeddings_of(q)
    near = index.nearest(embeddings, 3)
    texts = ["a dog near a boat", "dog dog a a dog", "tree"]
    made = [[Candidate(ids(texts[0]), -3.0)], [Candidate(ids(t), -2.0) for t in texts[1:]]]
    found = reranker(index).features(embeddings, near, made)
    columns = dict(zip(FEATURES, found.T, strict=True))
    assert columns["log_probability"].tolist() == [-3 / 6, -2 / 6, -2 / 2]
    assert columns["length"].tolist() == [5, 5, 1]
    assert columns["repeats"].tolist() == [0, 1, 0]
    assert columns["borrowed"].tolist() == [0, 0, 0]
    # dog-dog, dog-a, a-a and not a-dog, nor a dog at the end
    assert columns["unseen"].tolist() == [0, 3 / 5, 0]
    own, shares = data.texts("train"), np.exp(near.similarities / 0.1)
    for c, number in ((0, 0), (1, 1), (2, 1)):
        alone = [
            [own[2 * photo + k].replace("zebra ", "").split() for k in (0, 1)]
            for photo in near.photos[number].tolist()
        ]
        score = CiderD(alone, index.frequencies)
        of_each = score.scores([texts[c].split()] * 3)
        wanted = np.average(of_each, weights=shares[number])
        np.testing.assert_allclose(columns["consensus"][c], wanted, rtol=1e-5)
    prior = index.predictor[-1].astype(np.float64)
    expected = embeddings[1] @ index.predictor[:-1].astype(np.float32) + index.predictor[-1]
    tree = VOCABULARY.word_to_idx["tree"]
    lift = np.log(max(expected[tree], 0) + 1e-3) - np.log(prior[tree] + 1e-3)
    np.testing.assert_allclose(columns["words"][2], lift, rtol=1e-4)


def test_the_best_score_comes_first_and_is_the_sum_of_its_parts(
    data: CaptionData, index: PhotoIndex
) -> None:
    made = [[Candidate(ids("a dog"), -9.0), Candidate(ids("a dog near a boat"), -1.0)]] * 2
    own = reranker(index, log_probability=2.0, length=0.5)
    for reranking in own.rerank(*own.near(queries(data, 2)), made):
        assert reranking.best == ids("a dog near a boat")
        scores = [one.score for one in reranking.candidates]
        np.testing.assert_allclose(scores, [2 * -1 / 6 + 2.5, 2 * -3 + 1])
        for one in reranking.candidates:
            np.testing.assert_allclose(sum(one.parts.values()), one.score)
        cosines = [cosine for _, cosine in reranking.neighbours]
        assert cosines == sorted(cosines, reverse=True)
        assert len(cosines) == 3


def test_neighbours_lend_captions_that_are_not_compared_with_their_own_photo(
    data: CaptionData, index: PhotoIndex
) -> None:
    q = queries(data, 3)
    asked: list[tuple[int, Words]] = []

    def likelihood(numbers: Sequence[int], captions: Sequence[Words]) -> np.ndarray:
        asked.extend(zip(numbers, captions, strict=True))
        return likely(numbers, captions)

    rerankings = reranked(reranker(index, retrieved=2, consensus=1.0), q, [[]] * 3, likelihood)
    texts, near = data.texts("train"), index.nearest(index.embeddings_of(q), 3)
    for number, reranking in enumerate(rerankings):
        found = [one.candidate for one in reranking.candidates]
        assert {(number, one.words) for one in found} <= set(asked)
        assert 1 <= len(found) <= 2
        photos = near.photos[number].tolist()
        for one in reranking.candidates:
            photo, words = one.candidate.photo, one.candidate.words
            assert photo in photos
            assert words in [ids(text) for text in texts[2 * photo : 2 * photo + 2]]
            assert VOCABULARY.unk not in words
            assert words != ids("a boat near a boat")
            others = [other for other in photos if other != photo]
            references = [
                [text.replace("zebra ", "").split() for text in texts[2 * other : 2 * other + 2]]
                for other in others
            ]
            said = [VOCABULARY.idx_to_word[i] for i in words]
            alone = CiderD(references, index.frequencies).scores([said] * len(others))
            kept = near.similarities[number][[photos.index(other) for other in others]]
            wanted = np.average(alone, weights=np.exp(kept / 0.1))
            np.testing.assert_allclose(one.score, wanted, rtol=1e-5)


def test_a_photo_without_candidates_has_an_empty_caption(
    data: CaptionData, index: PhotoIndex
) -> None:
    (one,) = reranked(reranker(index), queries(data, 1), [[]])
    assert one.best == ()


# Weights


def a_fit(rewards: Callable[[np.ndarray], np.ndarray], photos: int = 500) -> Any:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((5 * photos, len(FEATURES))) / 10
    features[:, list(FEATURES).index("borrowed")] = 0
    return fit(features, np.repeat(np.arange(photos), 5), rewards(features))


def test_weights_follow_what_is_rewarded_and_stay_put_where_nothing_is() -> None:
    length = list(FEATURES).index("length")
    found = a_fit(lambda features: 100 * features[:, length])
    assert found.weights["length"] > 1
    assert found.cider > found.likeliest + 5
    same = a_fit(lambda features: np.ones(len(features)))
    prior = [PRIOR[name] for name in FEATURES]
    np.testing.assert_allclose([*same.weights.values()], prior, atol=1e-6)


def test_what_val_does_not_show_is_not_learnt_from_it() -> None:
    """Rewards without any reason leave the weights near the prior."""
    found = a_fit(lambda features: np.random.default_rng(1).uniform(0, 1, len(features)), 60)
    near = [abs(found.weights[name] - PRIOR[name]) / 10 for name in FEATURES]
    assert max(near) < 1


@refusals(
    """
    features, [1, 1, 0, 0], rewards | photos | are not sorted
    features, [0, 0, 1], rewards | photos | have shape (3,)
    features, photos, [1.0, 2.0, np.nan, 0.0] | rewards | hold nan
    features[:0], photos, rewards | features | have shape (0, 7)
    features[:, :3], photos, rewards | features | have shape (4, 3)
    """,
    error=ValueError,
)
def test_a_fit_refuses_what_its_rows_cannot_be(refusal: Refusal) -> None:
    features = np.random.default_rng(0).standard_normal((4, len(FEATURES)))
    photos, rewards = [0, 0, 1, 1], [0.0, 1.0, 2.0, 3.0]
    refusal.check(globals() | locals(), "fit(*map(np.array, ({})))")


@refusals(
    """
    neighbours=0 | is 0
    width=2.5 | is 2.5
    retrieved=-1 | is -1
    bandwidth=0.0 | is 0.0
    no_stutter="no" | is 'no'
    weights={} | lack log_probability
    weights={**PRIOR, "words": np.nan} | is nan
    weights={**PRIOR, "word": 1.0} | hold word
    """,
    error=OptionError,
)
def test_a_ranker_that_no_file_could_hold_is_refused(refusal: Refusal, index: PhotoIndex) -> None:
    refusal.check({**globals(), "ours": reranker(index)}, "replace(ours, {})")


# The file


@pytest.fixture
def file(index: PhotoIndex, tmp_path: Path) -> Path:
    path = tmp_path / "reranking.safetensors"
    write_reranker(path, reranker(index, retrieved=1, consensus=2.0), {"best": "x"})
    return path


def test_a_ranker_survives_the_disk(data: CaptionData, index: PhotoIndex, file: Path) -> None:
    read, about = read_reranker(file, VOCABULARY, D)
    assert about == {"best": "x"}
    made = [[Candidate(ids("a dog near a boat"), -3.0), Candidate(ids("a cat"), -1.0)]] * 2
    q = queries(data, 2)
    ours = reranked(reranker(index, retrieved=1, consensus=2.0), q, made)
    assert reranked(read, q, made) == ours
    before = file.read_bytes()
    write_reranker(file, read, about)
    assert file.read_bytes() == before


def test_a_file_whose_captions_would_fill_the_memory_is_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_file, "MAX_IDS", 7 * 2 * PHOTOS - 1)
    with refuses(DataError, "has 80 captions of up to 5 words"):
        read_reranker(file, VOCABULARY, D)


def test_a_photo_may_have_more_captions_than_16_bits_count(
    data: CaptionData, tmp_path: Path
) -> None:
    split = data.split("train")
    many = Split(
        np.repeat(split.captions[:1], (1 << 16) + 1, axis=0),
        np.repeat([0, 1], [1 << 16, 1]),
        np.asarray(split.features)[:2],
        ["many.jpg", "one.jpg"],
    )
    index = PhotoIndex.of(replace(data, splits={"train": many}))
    write_reranker(tmp_path / "file", reranker(index), {})
    read, _ = read_reranker(tmp_path / "file", VOCABULARY, D)
    assert [len(read.index.captions(photo)) for photo in (0, 1)] == [1 << 16, 1]


def test_other_words_and_features_are_refused(file: Path) -> None:
    with refuses(DataError, "mean", "has shape"):
        read_reranker(file, VOCABULARY, D + 1)
    with refuses(DataError, "predictor", "has shape"):
        read_reranker(file, Vocabulary([*SPECIAL, "a"]), D)
    tensors, meta = read_tensors(file)
    about = {KEY: json.dumps({"format": FORMAT, **meta})}
    file.write_bytes(save({**tensors, "predictor": np.zeros((), "f2")}, about))
    with refuses(DataError, "predictor", "has shape ()"):
        read_reranker(file, VOCABULARY, D, first_words=True)
