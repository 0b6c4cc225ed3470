"""What holds of any input, not of chosen ones: layers, packing, text, importer and clipping, on
examples that hypothesis makes up.
"""

import re
import tempfile
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import captioners
import hypothesis
import layer_cases
import numpy as np
import pytest
from examples import holds
from hypothesis import strategies as st

from xpcap import CaptioningRNN, layers, optim
from xpcap.data import (
    Vocabulary,
    decode_captions,
    detokenize,
    read_dataset,
    tokenize,
    write_dataset,
)
from xpcap.data.vocabulary import END, SPECIAL, START, UNK
from xpcap.errors import DataError
from xpcap.models import FeatureRows
from xpcap.models.config import INJECT
from xpcap.prepare import import_captions, read_captions
from xpcap.prepare.text import read_list
from xpcap.testing.layer import Trial

SIZE = st.integers(1, 4)
SEED = st.integers(0, 2**32 - 1)
SCALE = st.sampled_from([0.0, 5e-324, 1e-310, 1e-160, 1e-8, 1.0, 30.0, 800.0, 1e8, 1e160, 1e300])
DTYPE = st.sampled_from([np.float32, np.float64])
IN_COURSE_FORM = st.sampled_from([x for x in layers.CELLS if hasattr(layers, f"{x}_forward")])


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
    """The gradients of both are those of finite differences, by the contract of layers."""
    layer, step = layer_of(cell, sizes), layer_of(f"{cell}_step", sizes)
    arrays, _ = layer.draw(seed=seed)
    weights = {name: arrays[name] for name in ("Wx", "Wh", "b")}
    results, _ = layer.run(arrays)
    state = {name: np.zeros_like(arrays["h0"]) for name in step.shapes if name.startswith("prev")}
    state |= {"prev_h": arrays["h0"]}
    for t in range(sizes[1]):
        after, _ = step.run({"x": arrays["x"][:, t], **state, **weights})
        state = {name.replace("next", "prev"): x for name, x in after.items()}
        np.testing.assert_allclose(results["h"][:, t], after["next_h"], rtol=1e-12, atol=1e-14)


@holds(SIZES, SEED, SCALE, st.floats(0, 1))
def test_softmax_loss_is_finite_and_its_gradient_adds_up_to_nothing(
    sizes: Sequence[int], seed: int, scale: float, share: float
) -> None:
    """Scores of any magnitude: the loss is no less than 0, a masked step counts for nothing, and a
    shift of all scores changes nothing.
    """
    N, T, V, _ = sizes
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((N, T, V)) * scale, rng.integers(0, V, (N, T))
    mask = rng.random((N, T)) < share
    loss, dx = layers.temporal_softmax_loss(x, y, mask)
    assert np.isfinite(loss)
    assert loss >= 0
    assert np.abs(dx).max() * N <= 1 + 1e-12
    np.testing.assert_allclose(dx.sum(axis=2), 0, atol=1e-12)
    assert not dx[~mask].any()
    if scale <= 800:
        shifted, _ = layers.temporal_softmax_loss(x + 5, y, mask)
        at = (np.arange(N)[:, None], np.arange(T), y)
        expected = (np.logaddexp.reduce(x, axis=2) - x[at])[mask].sum() / N
        assert loss == pytest.approx(shifted, rel=1e-9, abs=1e-9)
        assert loss == pytest.approx(expected, rel=1e-9, abs=1e-9)


# Packing

CAPTIONS = st.integers(1, 6).flatmap(
    lambda T: st.lists(
        st.lists(st.integers(0, 5), min_size=T + 1, max_size=T + 1), min_size=1, max_size=6
    ).map(np.array)
)
MODEL = st.builds(
    lambda cell, inject, dropout, seed: captioners.strong(
        cell, np.random.default_rng(seed), 0.5, inject=inject, dropout=dropout, seed=seed
    ),
    st.sampled_from(list(layers.CELLS)),
    st.sampled_from(INJECT),
    st.sampled_from([0.0, 0.4]),
    SEED,
)


def features_for(model: CaptioningRNN, captions: np.ndarray) -> np.ndarray:
    return captioners.draw_features(
        np.random.default_rng(model.seed), len(captions), model.config.inject
    )


def close(got: Any, expected: Any, what: str) -> None:
    """Equal to 1e-12 of the largest of them."""
    np.testing.assert_allclose(
        got, expected, rtol=0, atol=1e-12 * max(1e-3, np.abs(expected).max()), err_msg=what
    )


@holds(CAPTIONS, MODEL)
def test_packed_captions_are_padded_ones(captions: np.ndarray, model: CaptioningRNN) -> None:
    """Captions of any form: NULLs anywhere, nothing but NULL, one word, words that repeat. Loss,
    every gradient, and the order of the draws.
    """
    features = features_for(model, captions)
    expected, expected_grads = captioners.padded(model, features, captions, step=7)
    order = np.arange(len(captions))[::-1]
    for pictures in (features, FeatureRows(features[::-1].copy(), order)):
        loss, grads = model.loss(pictures, captions, step=7)
        close(loss, expected, "loss")
        for name, grad in grads.items():
            close(grad, expected_grads[name], name)


@holds(CAPTIONS, MODEL)
def test_the_order_of_captions_in_a_batch_does_not_matter(
    captions: np.ndarray, model: CaptioningRNN
) -> None:
    plain = captioners.make(model.cell_type, inject=model.config.inject)
    plain.params = model.params
    features = features_for(model, captions)
    order = np.random.default_rng(model.seed).permutation(len(captions))
    loss, grads = plain.loss(features, captions)
    again, grads_again = plain.loss(features[order], captions[order])
    close(again, loss, "loss")
    close(grads_again.flat, grads.flat, "gradients")


# Text

TEXT = st.text(max_size=40)
# Lu and Lt without a lower case; Cn: newer than this Python
LETTERS = {"Ll", "Lo", "Lm", "Lt", "Lu", "Nd", "Nl", "Cn"}
CAPTION = st.lists(
    st.sampled_from(["a", "dog", "Runs", "9", "don't", "é", "<b>", "\x1b[1m", "\u202e", "犬"]),
    max_size=8,
).map(" ".join)


@holds(TEXT)
def test_tokens_are_plain_words_and_stay_what_they_are(text: str) -> None:
    words = tokenize(text)
    for word in words:
        assert unicodedata.category(word[0]) in LETTERS
        assert {*map(unicodedata.category, word)} <= {*LETTERS, "Mn", "Mc", "Cf"}
    assert tokenize(" ".join(words)) == tokenize(detokenize(words)) == words
    assert tokenize(text.lower()) == tokenize(unicodedata.normalize("NFD", text)) == words


@holds(st.lists(TEXT | CAPTION, min_size=1, max_size=5), st.integers(1, 6), st.integers(1, 2))
def test_captions_survive_their_ids(texts: list[str], max_words: int, min_count: int) -> None:
    vocabulary = Vocabulary.build(texts, min_count)
    for text, row in zip(texts, vocabulary.encode(texts, max_words), strict=True):
        known = vocabulary.word_to_idx
        words = [word if word in known else UNK for word in tokenize(text)][:max_words]
        ids = [vocabulary.start, *(known[word] for word in words), vocabulary.end]
        assert row.tolist() == ids + [vocabulary.null] * (max_words - len(words))
        said = [word for word in words if word != UNK]
        assert vocabulary.words(row) == vocabulary.words(row[1:]) == said
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


@holds(
    st.dictionaries(NAME, st.lists(SAID, min_size=1, max_size=3), min_size=2, max_size=4),
    SEED,
    number=20,
)
def test_what_is_imported_comes_back_from_the_file(
    captions: dict[str, list[str]], seed: int
) -> None:
    """Names and captions in any script, with markup and control characters: text, names, ids and
    features are what was given.
    """
    features = np.random.default_rng(seed).standard_normal((len(captions), 2)).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = [f"{image}#{k}\t{x}" for image in captions for k, x in enumerate(captions[image])]
        *train, val = captions
        for file, rows in (("captions", lines), ("train", train), ("val", [val])):
            (folder / f"{file}.txt").write_bytes("\n".join(rows).encode())
        names = np.array([image.encode() for image in captions])
        np.savez(folder / "features.npz", names=names, features=features)
        lists = {split: folder / f"{split}.txt" for split in ("train", "val")}
        how = {"features_file": folder / "features.npz", "min_count": 1, "max_words": 3}
        made, _ = import_captions([(None, folder / "captions.txt")], lists=lists, **how)
        write_dataset(folder / "data.h5", made)
        back = read_dataset(folder / "data.h5")
    assert back.vocabulary.idx_to_word == made.vocabulary.idx_to_word
    for split, images, rows in (("train", train, features[:-1]), ("val", [val], features[-1:])):
        read, texts = back.split(split), [captions[image] for image in images]
        assert list(read.images) == images
        assert list(back.references(split).values()) == texts
        np.testing.assert_array_equal(read.features, rows)
        encoded = back.vocabulary.encode([text for image in texts for text in image], 3)
        np.testing.assert_array_equal(read.captions, encoded)


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
        captions = attempt(lambda path: read_captions([(None, path)]), path)
        names = attempt(read_list, path)
    for result in (captions, names):
        assert str(result).isprintable() if isinstance(result, DataError) else result
    if not isinstance(names, DataError):
        assert all(name == name.strip() for name in names)


# Clipping


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
