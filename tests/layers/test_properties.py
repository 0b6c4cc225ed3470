"""What holds of any input, not of chosen ones: layers, packing, text, importer, update rules and
scores, on examples that hypothesis makes up.

The same few examples in every run of the suite; XPCAP_EXAMPLES=N takes N fresh ones for each
property.
"""

import atexit
import os
import re
import tempfile
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import layer_cases
import numpy as np
import philox
import pytest

hypothesis = pytest.importorskip("hypothesis")
pytest.importorskip("nltk")

from hypothesis import given, settings  # noqa: E402 - after the skip
from hypothesis import strategies as st  # noqa: E402
from hypothesis.configuration import set_hypothesis_home_dir  # noqa: E402

from xpcap import CaptioningRNN, layers, optim  # noqa: E402
from xpcap.data import (  # noqa: E402
    Vocabulary,
    decode_captions,
    detokenize,
    read_dataset,
    tokenize,
    write_dataset,
)
from xpcap.data.vocabulary import END, NULL, SPECIAL, START, UNK  # noqa: E402
from xpcap.errors import DataError  # noqa: E402
from xpcap.metrics import METRICS, corpus_bleu, unigram_bleu  # noqa: E402
from xpcap.models import FeatureRows  # noqa: E402
from xpcap.prepare import import_captions, read_captions  # noqa: E402
from xpcap.prepare.text import read_list  # noqa: E402
from xpcap.testing.layer import Trial  # noqa: E402

STORE = (
    tempfile.TemporaryDirectory()
)  # what hypothesis keeps on disk, from the moment that tests are collected
atexit.register(STORE.cleanup)
set_hypothesis_home_dir(STORE.name)
FRESH = os.environ.get("XPCAP_EXAMPLES")
EVERY = settings(
    max_examples=int(FRESH) if FRESH else 120,
    derandomize=not FRESH,
    deadline=None,
    database=None,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate, hypothesis.Phase.shrink],
    suppress_health_check=list(hypothesis.HealthCheck),
)
SIZE = st.integers(1, 4)
SEED = st.integers(0, 2**32 - 1)
SCALE = st.sampled_from([0.0, 5e-324, 1e-310, 1e-160, 1e-8, 1.0, 30.0, 800.0, 1e8, 1e160, 1e300])
DTYPE = st.sampled_from([np.float32, np.float64])
CELL = st.sampled_from(list(layers.CELLS))
IN_COURSE_FORM = st.sampled_from([x for x in layers.CELLS if hasattr(layers, f"{x}_forward")])


def holds(*strategies: Any, **named: Any) -> Callable[[Any], Any]:
    """A test of everything that the strategies make."""
    return lambda test: EVERY(given(*strategies, **named)(test))


# Layers


SIZES = st.tuples(SIZE, SIZE, SIZE, SIZE)


def layer_of(pair: str, sizes: Sequence[int]) -> Trial:
    """A pair in sizes of N, T, D and H."""
    return layer_cases.trial(pair, **dict(zip("NTDH", sizes, strict=True)))


@holds(IN_COURSE_FORM, st.sampled_from(["", "_step"]), SIZES, SEED, SCALE)
def test_recurrent_layers_saturate_and_stay_finite(
    cell: str, step: str, sizes: Sequence[int], seed: int, scale: float
) -> None:
    """Inputs of any magnitude, down to denormals: states stay where they can be and no gradient is
    lost to inf or NaN. A warning is an error here.
    """
    layer = layer_of(cell + step, sizes)
    arrays, upstream = layer.draw(seed=seed)
    results, cache = layer.run(arrays | {"x": arrays["x"] * scale})
    h = results["next_h" if step else "h"]
    initial = np.abs(arrays["prev_h" if step else "h0"]).max()
    _, kept = layers.CELLS[cell].memory_gate or ("", "")
    assert np.abs(h).max() <= (max(1, initial) if kept == "h" else 1)
    gradients = layer.gradients({name: np.ones_like(x) for name, x in upstream.items()}, cache)
    assert all(np.isfinite(x).all() for x in (*results.values(), *gradients.values()))


@holds(IN_COURSE_FORM, SIZES, SEED)
def test_a_sequence_is_its_steps_one_after_the_other(
    cell: str, sizes: Sequence[int], seed: int
) -> None:
    layer, step = layer_of(cell, sizes), layer_of(f"{cell}_step", sizes)
    arrays, upstream = layer.draw(seed=seed)
    weights = {name: arrays[name] for name in ("Wx", "Wh", "b")}
    results, cache = layer.run(arrays)
    gradients = layer.gradients(upstream, cache)
    state = {name: np.zeros_like(arrays["h0"]) for name in step.shapes if name.startswith("prev")}
    state, caches = state | {"prev_h": arrays["h0"]}, []
    for t in range(sizes[1]):
        after, one = step.run({"x": arrays["x"][:, t], **state, **weights})
        state = {name.replace("next", "prev"): x for name, x in after.items()}
        caches.append(one)
        np.testing.assert_allclose(results["h"][:, t], after["next_h"], rtol=1e-12, atol=1e-14)
    dstate = {name: np.zeros_like(x) for name, x in state.items()}
    totals = {name: np.zeros_like(x) for name, x in weights.items()}
    for t in reversed(range(sizes[1])):
        dstate["prev_h"] = dstate["prev_h"] + upstream["dh"][:, t]
        dnext = {name.replace("prev", "dnext"): x for name, x in dstate.items()}
        found = step.gradients(dnext, caches[t])
        dstate = {name: found[name] for name in dstate}
        totals = {name: total + found[name] for name, total in totals.items()}
        np.testing.assert_allclose(gradients["x"][:, t], found["x"], rtol=1e-11, atol=1e-13)
    for name, expected in (totals | {"h0": dstate["prev_h"]}).items():
        np.testing.assert_allclose(gradients[name], expected, rtol=1e-11, atol=1e-13)


@holds(SEED, SCALE, DTYPE)
def test_sigmoid_is_bounded_rising_and_symmetric(seed: int, scale: float, dtype: Any) -> None:
    x = np.sort(np.random.default_rng(seed).standard_normal(50) * min(scale, 1e38 / 8)).astype(
        dtype
    )
    y = layers.sigmoid(x)
    assert y.dtype == dtype
    assert y.min() >= 0
    assert y.max() <= 1
    assert (np.diff(y) >= 0).all()
    np.testing.assert_allclose(y + layers.sigmoid(-x), 1, rtol=1e-6)
    near = np.abs(x) < 30
    np.testing.assert_allclose(
        y[near],
        1 / (1 + np.exp(-x[near].astype(float))),
        atol=2e-7 if dtype == np.float32 else 2e-16,
    )


@holds(SIZES, SEED, SCALE, st.floats(0, 1))
def test_softmax_loss_is_finite_and_its_gradient_adds_up_to_nothing(
    sizes: Sequence[int], seed: int, scale: float, share: float
) -> None:
    """Scores of any magnitude: the loss is no less than 0, a masked step counts for nothing, and a
    shift of all scores changes nothing.
    """
    N, T, V, _ = sizes
    rng = np.random.default_rng(seed)
    x, y, mask = (
        rng.standard_normal((N, T, V)) * scale,
        rng.integers(0, V, (N, T)),
        rng.random((N, T)) < share,
    )
    loss, dx = layers.temporal_softmax_loss(x, y, mask)
    assert np.isfinite(loss)
    assert loss >= 0
    assert np.abs(dx).max() * N <= 1 + 1e-12
    np.testing.assert_allclose(dx.sum(axis=2), 0, atol=1e-12)
    assert not dx[~mask].any()
    if scale <= 800:
        shifted, _ = layers.temporal_softmax_loss(x + 5, y, mask)
        assert shifted == pytest.approx(loss, rel=1e-9, abs=1e-9)
        at = (np.arange(N)[:, None], np.arange(T), y)
        assert loss == pytest.approx(
            (np.logaddexp.reduce(x, axis=2) - x[at])[mask].sum() / N, rel=1e-9, abs=1e-9
        )


# Packing

WORDS = {NULL: 0, START: 1, END: 2, "a": 3, "dog": 4, "runs": 5}
CAPTIONS = st.integers(1, 6).flatmap(
    lambda T: st.lists(
        st.lists(st.integers(0, 5), min_size=T + 1, max_size=T + 1), min_size=1, max_size=6
    )
)
D, W, H, V = 3, 2, 4, len(WORDS)


def captioner(cell: str, dropout: float, seed: int) -> CaptioningRNN:
    """One whose weights are all of a size that matters."""
    model = CaptioningRNN(WORDS, D, W, H, cell, np.float64, dropout=dropout, seed=seed)
    model.params.flat[...] = (
        np.random.default_rng(seed).standard_normal(model.params.flat.shape) / 2
    )
    return model


def masks(
    model: CaptioningRNN, inputs: np.ndarray, live: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As DESIGN has them drawn: a row for each caption, for each distinct live word by id, and for
    each live step, caption by caption.
    """
    keep = 1 - model.dropout
    features, words, hidden = (
        np.ones((len(inputs), D)),
        np.ones((V, W)),
        np.ones((*inputs.shape, H)),
    )
    if model.dropout:
        spoken = sorted(set(inputs[live].tolist()))
        shapes = features.shape, (len(spoken), W), (int(live.sum()), H)
        features, words[spoken], hidden[live] = (
            philox.kept(model.seed, place, 7, shape, keep) / keep
            for place, shape in enumerate(shapes)
        )
    return features, words, hidden


def padded(
    model: CaptioningRNN, features: np.ndarray, captions: np.ndarray
) -> tuple[float, dict[str, np.ndarray]]:
    """The loss and its gradients step by step over the whole batch, padding and all, out of the
    cell's steps and plain sums.
    """
    p, inputs, targets = model.params, captions[:, :-1], captions[:, 1:]
    N, T = targets.shape
    live = np.array([[(row[t:] != 0).any() for t in range(T)] for row in targets])
    mask_x, mask_w, mask_h = masks(model, inputs, live)
    cell = layers.CELLS[model.cell_type]
    weight, bias = cell.inputs
    x = features * mask_x
    h = x @ p["W_proj"] + p["b_proj"]
    state = (h, *[np.zeros_like(h)] * (len(cell.states) - 1))
    table, caches, states, dscores, loss = p["W_embed"] * mask_w, [], [], [], 0.0
    for t in range(T):
        state, cache = cell.step_forward(table[inputs[:, t]] @ p[weight] + p[bias], state, p)
        caches.append(cache)
        states.append(state[0] * mask_h[:, t])
        scores = states[t] @ p["W_vocab"] + p["b_vocab"]
        log_p = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
        counts = (targets[:, t] != 0).astype(float)
        loss -= (counts * log_p[np.arange(N), targets[:, t]]).sum() / N
        dscores.append((np.exp(log_p) - np.eye(V)[targets[:, t]]) * counts[:, None] / N)
    grads = {name: np.zeros_like(value) for name, value in p.items()}
    dstate = tuple(np.zeros_like(h) for _ in state)
    for t in reversed(range(T)):
        grads["W_vocab"] += states[t].T @ dscores[t]
        grads["b_vocab"] += dscores[t].sum(axis=0)
        dh = dstate[0] + dscores[t] @ p["W_vocab"].T * mask_h[:, t]
        da, dstate, of_step = cell.step_backward((dh, *dstate[1:]), caches[t], p)
        of_step = {weight: table[inputs[:, t]].T @ da, bias: da.sum(axis=0), **of_step}
        for name, gradient in of_step.items():
            grads[name] += gradient
        np.add.at(grads["W_embed"], inputs[:, t], da @ p[weight].T)
    grads["W_embed"] *= mask_w
    grads["W_proj"], grads["b_proj"] = x.T @ dstate[0], dstate[0].sum(axis=0)
    return loss, grads


def close(got: Any, expected: Any, what: str) -> None:
    """Equal to 1e-12 of the largest of them."""
    np.testing.assert_allclose(
        got, expected, rtol=0, atol=1e-12 * max(1e-3, np.abs(expected).max()), err_msg=what
    )


@holds(CAPTIONS, CELL, st.sampled_from([0.0, 0.4]), SEED)
def test_packed_captions_are_padded_ones(
    rows: list[list[int]], cell: str, dropout: float, seed: int
) -> None:
    """Captions of any form: NULLs anywhere, nothing but NULL, one word, words that repeat. Loss,
    every gradient, and the order of the draws.
    """
    captions = np.array(rows)
    features = np.random.default_rng(seed).standard_normal((len(captions), D))
    model = captioner(cell, dropout, seed)
    expected, expected_grads = padded(model, features, captions)
    for given_features in (
        features,
        FeatureRows(features[::-1].copy(), np.arange(len(captions))[::-1]),
    ):
        loss, grads = model.loss(given_features, captions, step=7)
        close(loss, expected, "loss")
        for name, grad in grads.items():
            close(grad, expected_grads[name], name)
    if not dropout:
        score = model.score(features, captions)
        close(score.nll / len(captions), expected, "score")
        assert score.tokens == np.count_nonzero(captions[:, 1:])


@holds(CAPTIONS, CELL, SEED)
def test_the_order_of_captions_in_a_batch_does_not_matter(
    rows: list[list[int]], cell: str, seed: int
) -> None:
    captions, rng, model = np.array(rows), np.random.default_rng(seed), captioner(cell, 0.0, seed)
    features, order = rng.standard_normal((len(captions), D)), rng.permutation(len(captions))
    loss, grads = model.loss(features, captions)
    again, grads_again = model.loss(features[order], captions[order])
    close(again, loss, "loss")
    close(grads_again.flat, grads.flat, "gradients")


# Text

TEXT = st.text(max_size=40)
LETTERS = {
    "Ll",
    "Lo",
    "Lm",
    "Lt",
    "Lu",
    "Nd",
    "Nl",
    "Cn",
}  # Lu and Lt without a lower case; Cn: newer than this Python
CAPTION = st.lists(
    st.sampled_from(["a", "dog", "Runs", "9", "don't", "é", "<b>", "\x1b[1m", "\u202e", "犬"]),
    max_size=8,
).map(" ".join)


@holds(TEXT)
def test_tokens_are_plain_words_and_stay_what_they_are(text: str) -> None:
    words = tokenize(text)
    assert all(
        word
        and unicodedata.category(word[0]) in LETTERS
        and {*map(unicodedata.category, word)} <= {*LETTERS, "Mn", "Mc", "Cf"}
        for word in words
    )
    assert tokenize(" ".join(words)) == tokenize(detokenize(words)) == words
    assert tokenize(text.lower()) == tokenize(unicodedata.normalize("NFD", text)) == words


@holds(
    st.lists(st.one_of(TEXT, CAPTION), min_size=1, max_size=5), st.integers(1, 6), st.integers(1, 2)
)
def test_captions_survive_their_ids(texts: list[str], max_words: int, min_count: int) -> None:
    vocabulary = Vocabulary.build(texts, min_count)
    for text, row in zip(texts, vocabulary.encode(texts, max_words), strict=True):
        words = [word if word in vocabulary.word_to_idx else UNK for word in tokenize(text)][
            :max_words
        ]
        padding = [vocabulary.null] * (max_words - len(words))
        assert row.tolist() == [
            vocabulary.start,
            *(vocabulary.word_to_idx[word] for word in words),
            vocabulary.end,
            *padding,
        ]
        assert (
            vocabulary.words(row)
            == vocabulary.words(row[1:])
            == [word for word in words if word != UNK]
        )
        assert decode_captions(row, vocabulary.idx_to_word) == " ".join([START, *words, END])
    assert vocabulary.idx_to_word[:4] == list(SPECIAL)
    assert Vocabulary.build(reversed(texts), min_count).idx_to_word == vocabulary.idx_to_word


# Importer

LINE = st.text(st.characters(exclude_characters="\n\r", exclude_categories=("Cs",)), max_size=20)
NAME = (  # a backslash would be read as a slash
    LINE.map(lambda text: re.sub(r"[\t\0\ufeff\\]", "", text).strip())
    .filter(bool)
    .filter(lambda name: name[0] not in "{[")
)
SAID = (
    st.tuples(LINE, st.sampled_from(["dog", "7", "A"]), LINE)
    .map(lambda parts: "".join(parts).strip())
    .filter(tokenize)
)


def write_layout(folder: Path, captions: dict[str, list[str]], features: np.ndarray) -> None:
    """Flickr8k's files: the last picture is val, the others train."""
    lines = [
        f"{name}#{k}\t{text}" for name, texts in captions.items() for k, text in enumerate(texts)
    ]
    (folder / "captions.txt").write_bytes("\n".join(lines).encode())
    *train, val = captions
    (folder / "train.txt").write_bytes("\n".join(train).encode())
    (folder / "val.txt").write_bytes(val.encode())
    np.savez(
        folder / "features.npz",
        names=np.array([name.encode() for name in captions]),
        features=features,
    )


@holds(st.dictionaries(NAME, st.lists(SAID, min_size=1, max_size=3), min_size=2, max_size=4), SEED)
@pytest.mark.slow
def test_what_is_imported_comes_back_from_the_file(
    captions: dict[str, list[str]], seed: int
) -> None:
    """Names and captions in any script, with markup and control characters: text, names, ids and
    features are what was given.
    """
    features = np.random.default_rng(seed).standard_normal((len(captions), 2)).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_layout(folder, captions, features)
        lists = {split: folder / f"{split}.txt" for split in ("train", "val")}
        files = [(None, folder / "captions.txt")]
        made, _ = import_captions(
            files, lists=lists, features_file=folder / "features.npz", min_count=1, max_words=3
        )
        write_dataset(folder / "data.h5", made)
        back = read_dataset(folder / "data.h5")
    assert back.vocabulary.idx_to_word == made.vocabulary.idx_to_word
    *train, val = captions
    for split, images, rows in (("train", train, features[:-1]), ("val", [val], features[-1:])):
        read = back.split(split)
        assert list(read.images) == images
        assert list(back.references(split).values()) == [captions[image] for image in images]
        np.testing.assert_array_equal(read.features, rows)
        np.testing.assert_array_equal(
            read.captions,
            back.vocabulary.encode([text for image in images for text in captions[image]], 3),
        )


def attempt(read: Callable[[Path], Any], path: Path) -> Any:
    """What comes of it, a DataError among it; any other error is the caller's."""
    try:
        return read(path)
    except DataError as error:
        return error


@holds(
    st.one_of(
        st.binary(max_size=60),
        TEXT.map(lambda t: t.encode("utf-8", "ignore")),
        st.text("a#1\t\n \r\x1b", max_size=30).map(str.encode),
    )
)
@hypothesis.example(b"a\x1b[31m#1\tdog\na\x1b[31m#1\tdog")
@hypothesis.example(b"a\x1b[31m\na\x1b[31m")
def test_any_text_file_is_read_or_refused_in_words_that_no_terminal_obeys(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "captions.txt"
        path.write_bytes(content)
        captions, names = (
            attempt(lambda path: read_captions([(None, path)]), path),
            attempt(read_list, path),
        )
    for result in (captions, names):
        assert not isinstance(result, DataError) or str(result).isprintable()
    if not isinstance(captions, DataError):
        assert captions
    if not isinstance(names, DataError):
        assert names
        assert all(name == name.strip() for name in names)


# Update rules and scores


@holds(
    st.integers(0, 40),
    SEED,
    DTYPE,
    st.sampled_from([0.0, 1e-40, 1e-3, 1.0, 1e6, 1e30]),
    st.floats(1e-3, 1e6),
)
def test_clipping_never_lengthens_and_ends_at_its_limit(
    size: int, seed: int, dtype: Any, scale: float, most: float
) -> None:
    grads = (np.random.default_rng(seed).standard_normal(size) * scale).astype(dtype)
    before, length = grads.copy(), float(np.linalg.norm(grads.astype(float)))
    norm = optim.clip_by_global_norm(grads, most)
    assert norm == pytest.approx(length, rel=1e-6)
    assert (np.abs(grads) <= np.abs(before)).all()
    assert float(np.linalg.norm(grads.astype(float))) == pytest.approx(min(length, most), rel=1e-5)
    if length <= most * (1 - 1e-5):
        np.testing.assert_array_equal(grads, before)


SENTENCE = st.lists(st.sampled_from(["a", "dog", "runs", "on", "grass"]), max_size=7)


@holds(
    st.lists(
        st.tuples(SENTENCE, st.lists(SENTENCE, min_size=1, max_size=3)), min_size=1, max_size=4
    )
)
def test_scores_lie_between_nothing_and_one_and_copies_get_one(
    pairs: list[tuple[list[str], list[list[str]]]],
) -> None:
    said, references = [said for said, _ in pairs], [references for _, references in pairs]
    scores = (
        *corpus_bleu(references, said),
        *METRICS[0].score(references, said).pictures,
        unigram_bleu([first for first, *_ in references], said),
    )
    assert all(0 <= score <= 1 + 1e-12 for score in scores)
    copies = [first for first, *_ in references if len(first) >= 4]
    if copies:
        assert corpus_bleu([[copy, *references[0]] for copy in copies], copies) == pytest.approx(
            (1, 1, 1, 1)
        )
