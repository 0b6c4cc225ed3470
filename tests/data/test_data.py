"""Text, where data came from, dataset files and scaling: what goes in comes out, and what is wrong
is named.
"""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import caption_formats
import h5py
import numpy as np
import pytest
from refusals import Refusal, refusals, refuses

from xpcap.data import (
    CaptionData,
    Source,
    Split,
    Vocabulary,
    decode_captions,
    open_data,
    write_dataset,
)
from xpcap.data import hdf5 as dataset_file
from xpcap.data.features import FeatureScaling, fit_scaling
from xpcap.data.synthetic import draw_data
from xpcap.data.vocabulary import SPECIAL
from xpcap.errors import DataError
from xpcap.prepare import assemble

# Text


def test_the_vocabulary_is_by_frequency_then_alphabet_and_drops_rare_words() -> None:
    vocabulary = Vocabulary.build(["b a c", "b a", "z b", "y"], min_count=2)
    assert vocabulary.idx_to_word == ["<NULL>", "<START>", "<END>", "<UNK>", "b", "a"]


def test_encoding_cuts_marks_and_pads() -> None:
    vocabulary = Vocabulary.build(["a dog runs"], min_count=1)
    ids = vocabulary.encode(["A dog!", "runs a cat dog"], max_words=3)
    assert ids.dtype == np.int32
    assert decode_captions(ids, vocabulary.idx_to_word) == [
        "<START> a dog <END>",
        "<START> runs a <UNK> <END>",
    ]
    assert vocabulary.words(ids[1, 1:]) == ["runs", "a"]
    assert vocabulary.words(np.array([4, 2, -1])) == ["a"]  # what follows the end needs no word


LISTED = ["<NULL>", "a", "<END>", "b"]
MAPPED = dict(enumerate(LISTED))


@pytest.mark.parametrize("idx_to_word", [LISTED, MAPPED])
def test_decoding_drops_null_keeps_end_and_stops_there(idx_to_word: Any) -> None:
    ids = np.array([[1, 2, 3], [2, 1, 1], [1, 0, 3]])
    assert decode_captions(np.array([0, 1, 3, 2, 1]), idx_to_word) == "a b <END>"
    assert decode_captions(ids, idx_to_word) == ["a <END>", "<END>", "a b"]
    assert decode_captions(ids, idx_to_word, special=False) == ["a", "", "a b"]


@refusals(
    """
    decode_captions(np.array([4]), LISTED) | ValueError | id 4 | has no word
    decode_captions(np.array([-1]), LISTED) | ValueError | id -1 | has no word
    decode_captions(np.array([4]), MAPPED) | ValueError | id 4 | has no word
    decode_captions(np.array([-1]), MAPPED) | ValueError | id -1 | has no word
    decode_captions(np.array([1]), LISTED, special="no") | OptionError | `special` | is 'no'
    Vocabulary(["a", "b"]) | DataError | missing among 2 words
    Vocabulary([*SPECIAL, "a", "a"]) | DataError | repeats words: 1 (such as 'a')
    Vocabulary.build("a dog runs", 1) | TypeError | is | the text 'a dog runs' | a list
    Vocabulary.build_from_words(["a dog runs"], 1) | TypeError | is | the text 'a dog runs' | a list
    Vocabulary.build_from_words([["a", "b"]], float("nan")) | OptionError | `min_count` | is nan
    Vocabulary.build_from_words([["a", "b"]], 1, max_size=-1) | OptionError | `max_size` | is -1
    vocabulary.encode_words(["a dog runs"], 3) | TypeError | is | the text 'a dog runs' | a list
    vocabulary.words(np.array([4, -1])) | ValueError | -1..4 | 0..4
    vocabulary.words(np.array([4, 5])) | ValueError | 4..5 | 0..4
    list(vocabulary.words_of(np.array([[4, -1]]))) | ValueError | -1..4 | 0..4
    list(vocabulary.words_of(np.array([[4, 5]]))) | ValueError | 4..5 | 0..4
    """
)
def test_what_is_no_text_word_or_id_is_refused(refusal: Refusal) -> None:
    refusal.check({**globals(), "vocabulary": Vocabulary.build(["a"], 1)})


# Where data came from


def test_a_source_comes_back_from_its_object() -> None:
    fields = {"encoder": "histogram", "generated": "pictures", "pictures": "/photos", "seed": 7}
    record: dict[str, Any] = {"train": 60, "lists": {"b": 1, "a": 2}}
    stored = {**fields, **record}
    source = Source(**fields, record=record)  # type: ignore[arg-type]
    record["encoder"] = "other"  # it keeps what it was given
    assert source.to_json() == stored
    assert list(source.to_json()) == sorted(stored)
    assert Source.from_json("file", json.loads(json.dumps(stored))) == source
    assert Source.from_json("file", {}) == Source()
    assert Source().to_json() == {}
    with refuses(DataError, "source: encoder", "is 7", "text"):
        Source.from_json("file", {"encoder": 7})


@refusals(
    """
    Source(encoder=7) | OptionError | encoder | is 7 | text
    Source(generated=["pictures"], seed=1) | OptionError | generated | is ['pictures']
    Source(generated="pictures") | OptionError | seed | is None | the data was generated
    Source(seed=True) | OptionError | seed | is True | a whole number in 0..2**63-1
    Source(seed=2**63) | OptionError | seed | is 9223372036854775808 | a whole number
    Source(seed=1.0) | OptionError | seed | is 1.0 | a whole number
    Source(record={"a": np.int64(1)}) | OptionError | record | int64 is not JSON
    CaptionData(Vocabulary(SPECIAL), {}, source={"made by": "hand"}) | TypeError | source | is a dict | a Source
    """
)
def test_a_source_of_other_types_is_refused(refusal: Refusal) -> None:
    refusal.check(globals())


def test_a_data_set_keeps_the_splits_that_it_was_given() -> None:
    made = draw_data(3, 4, 8, seed=0)
    splits = dict(made.splits)
    data = dataclasses.replace(made, splits=splits)
    splits.clear()
    assert list(data.splits) == ["train"]


# Dataset files


CAPTIONS = {
    "train": {"one.jpg": ["A dog runs .", "The dog ran"], "two.jpg": ["A dog sits"]},
    "val": {"three.jpg": ["A cat — on 2 mats", "a dog"]},
}


def made() -> CaptionData:
    names, rows = ("three.jpg", "two.jpg", "one.jpg"), np.arange(12, dtype=np.float32)
    return assemble(
        caption_formats.rows(CAPTIONS),
        features=dict(zip(names, rows.reshape(3, 4), strict=True)),
        min_count=2,
        max_words=5,
        source={"lists": {"val": "val.txt", "train": "train.txt"}},
    )


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    path = tmp_path / "data.h5"
    write_dataset(path, made())
    return path


def test_captions_without_text_are_read_back_as_their_words(tmp_path: Path) -> None:
    """As of the course's folder, whose words may have capitals and hyphens, and which has unknown
    ones.
    """
    captions = np.array([[1, 4, 3, 6, 2], [1, 4, 5, 6, 2]], np.int32)
    split = Split(captions, np.zeros(2, np.int32), np.ones((1, 8), np.float32), ["a.jpg"])
    data = CaptionData(Vocabulary([*SPECIAL, "a", "Dog", "t-shirt"]), {"val": split})
    write_dataset(tmp_path / "own.h5", data)
    read = open_data(tmp_path / "own.h5")
    assert read.words("val") == data.words("val")
    assert read.reference_words("val") == {0: [["a", "t-shirt"], ["a", "Dog", "t-shirt"]]}
    assert read.split("val").text is None


def test_a_dataset_file_gives_back_what_was_written_also_where_it_was_moved(dataset: Path) -> None:
    ours, read = made(), open_data(shutil.move(dataset, dataset.with_name("elsewhere.h5")))
    assert read.vocabulary.idx_to_word == ours.vocabulary.idx_to_word
    assert read.source == ours.source
    assert [*read.splits] == [*ours.splits]
    for name, split in ours.splits.items():
        np.testing.assert_array_equal(read.split(name).captions, split.captions)
        np.testing.assert_array_equal(read.split(name).features, split.features)
        assert read.texts(name) == list(split.text or ())
        assert list(read.split(name).images) == list(split.images)


@pytest.mark.parametrize("most", [8, 2**20])
def test_a_fingerprint_is_of_all_that_training_sees(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_file, "IN_MEMORY", most)
    data = made()
    train, words = data.split("train"), data.vocabulary.idx_to_word
    changes = {
        "features": train.features[:] + 1,
        "views": 2,
        "images": train.images[::-1],
        "text": None,
        "captions": np.roll(train.captions, 1, axis=0),
        "image_idxs": 1 - train.image_idxs,
    }
    changed = [
        dataclasses.replace(data, splits={**data.splits, "train": split})
        for split in (dataclasses.replace(train, **{name: x}) for name, x in changes.items())
    ]
    changed += [
        dataclasses.replace(data, vocabulary=Vocabulary([*words, "word"])),
        dataclasses.replace(data, source=Source(encoder="another")),
    ]
    fingerprints = {dataset_file.fingerprint_of(each) for each in (data, made(), *changed)}
    assert len(fingerprints) == 1 + len(changed)


def test_large_features_stay_on_disk_and_read_the_same(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = open_data(dataset)
    # too little for both splits
    monkeypatch.setattr(dataset_file, "IN_MEMORY", held.split("train").features.nbytes)
    lazy = open_data(dataset)
    assert all(isinstance(split.features, h5py.Dataset) for split in lazy.splits.values())
    rows = np.array([1, 0, 1, 1])
    np.testing.assert_array_equal(lazy.features("train", rows), held.features("train", rows))
    scalings = [fit_scaling("standardize", data.split("train").features) for data in (lazy, held)]
    for a, b in zip(*scalings, strict=True):
        np.testing.assert_array_equal(a, b)
    lazy.split("train").features.file.close()


def test_nothing_is_overwritten_and_a_failed_write_leaves_nothing(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, before = made(), dataset.read_bytes()
    with refuses(DataError, "exists"):
        write_dataset(dataset, data)
    assert dataset.read_bytes() == before
    path, checked = dataset.with_name("other.h5"), dataset_file.check_data
    data.split("val").features[0, 0] = np.nan
    got = "is not finite"
    with refuses(DataError, "the feature of 'three.jpg'", got):
        write_dataset(path, data)

    def check(where: str, data: CaptionData) -> None:
        checked(where, data)
        path.write_text("theirs")  # another command wrote it meanwhile

    monkeypatch.setattr(dataset_file, "check_data", check)
    with refuses(DataError, "other.h5", "exists"):
        write_dataset(path, made())
    assert path.read_text() == "theirs"
    assert sorted(path.name for path in dataset.parent.iterdir()) == ["data.h5", "other.h5"]


def test_a_feature_that_turns_bad_is_found_when_it_is_read(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with h5py.File(dataset, "r+") as file:
        file["train/features"][1, 2] = np.inf
    with refuses(DataError, "'two.jpg'"):
        open_data(dataset)
    monkeypatch.setattr(dataset_file, "IN_MEMORY", 8)
    monkeypatch.setattr(dataset_file, "STAMPED", 1)  # the first row of each split
    large = dataset.with_name("large.h5")
    write_dataset(large, made())
    with h5py.File(large, "r+") as file:
        file["train/features"][1, 2] = np.inf
    data = open_data(large)
    data.features("train", np.array([0]))
    with refuses(DataError, "'two.jpg'"):
        data.minibatch("train", np.array([0, 2]))
    data.split("train").features.file.close()


@refusals(
    """
    images=["a.jpg"] * 2 | repeats a picture name
    images=["one.jpg", "two\\udce4.jpg"] | a picture name that is not text
    text=["..."] * 3 | caption without a word
    features=np.zeros((2, 9), "f4") | features of the splits | 9
    captions=split.captions[:, :-1] | captions of the splits | have shapes [(6,), (7,)]
    """,
    error=DataError,
)
def test_what_does_not_fit_together_is_not_written(refusal: Refusal, tmp_path: Path) -> None:
    data, path = made(), tmp_path / "bad.h5"
    split = data.split("train")
    change = "splits={{**data.splits, 'train': dataclasses.replace(split, {})}}"
    write = f"write_dataset(path, dataclasses.replace(data, {change}))"
    refusal.check(globals() | locals(), write)
    assert not path.exists()


def test_an_unknown_split_is_refused_with_those_there_are() -> None:
    with refuses(DataError, "split 'vall' does not exist, expected one of train, val", "'val'?"):
        made().split("vall")


def test_another_vocabulary_encodes_the_text_afresh() -> None:
    data = made()
    other = data.encoded_with(Vocabulary.build(["cat mats"], 1), "val")
    assert decode_captions(other.split("val").captions, other.vocabulary.idx_to_word) == [
        "<START> <UNK> cat <UNK> <UNK> mats <END>",  # uncut
        "<START> <UNK> <UNK> <END>",
    ]
    assert other.texts("val") == data.texts("val")
    assert list(other.splits) == ["val"]
    empty = {"captions": np.zeros((0, 7), np.int32), "image_idxs": [], "text": []}
    data.splits = {"train": dataclasses.replace(data.split("train"), **empty)}
    assert data.encoded_with(data.vocabulary, "train").split("train").captions.shape == (0, 3)


# Scaling


def test_standardised_features_have_mean_0_and_deviation_1_and_constants_do_not_blow_up(
    rng: np.random.Generator,
) -> None:
    features = rng.standard_normal((5000, 3)).astype(np.float16) * 3 + 10
    features[:, 2] = 7
    rare = np.zeros((3, 1), np.float32)
    rare[0] = 1e-45
    assert np.isfinite(fit_scaling("standardize", rare)(rare)).all()
    scaled = fit_scaling("standardize", features)(features)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(axis=0), [1, 1, 0], atol=1e-4)
    np.testing.assert_array_equal(fit_scaling("none", features)(features), features)
    np.testing.assert_array_equal(fit_scaling("standardize", [[1.0], [3.0]]).mean, [2])


@refusals(
    """
    [True, False, True] | TypeError | have dtype bool
    [-1] | ValueError | hold -1..-1 | 0..2
    [0, 3] | ValueError | hold 0..3 | 0..2
    [-1.5] | TypeError | have dtype float64
    """
)
@pytest.mark.parametrize("method", ["features", "minibatch", "words"])
@pytest.mark.parametrize("text", [None, ["a b"] * 3])
def test_numbers_that_a_split_does_not_have_are_refused(
    refusal: Refusal, method: str, text: list[str] | None
) -> None:
    """A mask is no list of numbers, and -1 not the last."""
    data = draw_data(3, 4, 8, seed=0)
    data.splits = {"train": dataclasses.replace(data.split("train"), text=text)}
    thing = f"split 'train': {'rows' if method == 'features' else 'captions'}"
    refusal.check(globals() | locals(), f"data.{method}('train', np.array({{}}))", thing)
    assert len(getattr(data, method)("train", [])) == (2 if method == "minibatch" else 0)


@refusals(
    """
    fit_scaling("standardise", x) | did you mean 'standardize'
    fit_scaling(x, "standardize") | feature scaling | 'ndarray' does not exist | one of standardize
    fit_scaling("standardize", x[:0]) | features | have no row
    scaling(x[0], None)(x) | have shapes (3,) and None | (3,) for both, or None
    scaling(x[0, :1], x[0, :1])(x) | have shapes (1,) and (1,) | (3,) for both, or None
    scaling(x, x[0])(x) | have shapes (2, 3) and (3,) | (3,) for both, or None
    """,
    error=ValueError,
)
def test_a_scaling_that_does_not_fit_features_is_refused(refusal: Refusal) -> None:
    names = {"scaling": FeatureScaling, "x": np.ones((2, 3), np.float32)}
    refusal.check({**globals(), **names})


@pytest.mark.parametrize("block", [1, 13, 1 << 17])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_scaling_in_blocks_gives_the_bits_of_scaling_at_once(
    block: int, dtype: str, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """Features and grids; the rows of the last block are fewer."""
    monkeypatch.setattr("xpcap.data.features.SCALE_NUMBERS", block)
    for shape in ((7, 5), (7, 3, 2), (0, 3, 2)):
        features = rng.standard_normal(shape).astype(dtype)
        scaling = fit_scaling("standardize", rng.standard_normal((9, *shape[1:])))
        scaled = scaling(features)
        assert scaled.dtype == (np.float64 if dtype == "float64" else np.float32)
        expected = (features.astype(scaled.dtype) - scaling.mean) / scaling.scale
        np.testing.assert_array_equal(scaled, expected)
