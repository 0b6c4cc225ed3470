"""Text, dataset files, CS231n's folder, Flickr8k's layout: what goes in comes out, and what is wrong is named."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from xpcap.data import (
    CaptionData,
    Vocabulary,
    decode_captions,
    load_coco_data,
    open_data,
    sample_coco_minibatch,
    to_coco,
    tokenize,
    write_dataset,
)
from xpcap.data import hdf5 as dataset_file
from xpcap.data.cs231n import from_coco
from xpcap.data.importers import import_flickr8k
from xpcap.data.pictures import generate
from xpcap.data.scaling import fit_scaling
from xpcap.errors import DataError

# Text


def test_the_tokeniser_lowers_and_keeps_runs_of_letters_and_digits() -> None:
    assert tokenize("A dog's 2nd BALL -- naïve!\n") == ["a", "dog", "s", "2nd", "ball", "na", "ve"]


def test_the_vocabulary_is_by_frequency_then_alphabet_and_drops_rare_words() -> None:
    vocabulary = Vocabulary.build(["b a c", "b a", "z b", "y"], min_count=2)
    assert vocabulary.idx_to_word == ["<NULL>", "<START>", "<END>", "<UNK>", "b", "a"]


def test_encoding_cuts_marks_and_pads() -> None:
    vocabulary = Vocabulary.build(["a dog runs"], min_count=1)
    ids = vocabulary.encode(["A dog!", "runs a cat dog"], max_words=3)
    assert ids.dtype == np.int32
    assert decode_captions(ids, vocabulary.idx_to_word) == ["<START> a dog <END>", "<START> runs a <UNK> <END>"]
    assert vocabulary.words(ids[1, 1:]) == ["runs", "a"]


@pytest.mark.parametrize("idx_to_word", [["<NULL>", "a", "<END>", "b"], {0: "<NULL>", 1: "a", 2: "<END>", 3: "b"}])
def test_decoding_drops_null_keeps_end_and_stops_there(idx_to_word: Any) -> None:
    assert decode_captions(np.array([0, 1, 3, 2, 1]), idx_to_word) == "a b <END>"
    assert decode_captions(np.array([[1, 0, 3], [2, 1, 1]]), idx_to_word) == ["a b", "<END>"]
    for bad in (4, -1):
        with pytest.raises(ValueError, match=f"id {bad} has no word"):
            decode_captions(np.array([bad]), idx_to_word)


@pytest.mark.parametrize("words", [["a", "b"], ["<NULL>", "<START>", "<END>", "<UNK>", "a", "a"]])
def test_a_vocabulary_without_special_words_or_with_doubles_is_refused(words: list[str]) -> None:
    with pytest.raises(DataError, match="Vocabulary"):
        Vocabulary(words)


# Flickr8k's layout

CAPTIONS = {"one.jpg": ["A dog runs .", "The dog ran"], "two.jpg": ["A dog sits"], "three.jpg": ["A cat — on 2 mats", "a dog"]}


@pytest.fixture
def flickr(tmp_path: Path) -> dict[str, Any]:
    """A small data set in Flickr8k's layout, as keyword arguments of import_flickr8k."""
    lines = [f"{image}#{k}\t{text}\n" for image, texts in CAPTIONS.items() for k, text in enumerate(texts)]
    (tmp_path / "token.txt").write_text("".join(lines), encoding="utf-8")
    (tmp_path / "train.txt").write_text("one.jpg\ntwo.jpg\n")
    (tmp_path / "val.txt").write_text("three.jpg\n")
    features = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.savez(tmp_path / "features.npz", names=np.array(["three.jpg", "two.jpg", "one.jpg"]), features=features)
    lists = {"train": tmp_path / "train.txt", "val": tmp_path / "val.txt"}
    return {"captions_file": tmp_path / "token.txt", "lists": lists, "features_file": tmp_path / "features.npz", "min_count": 2, "max_words": 5}


def test_captions_features_and_lists_come_together_by_name(flickr: dict[str, Any]) -> None:
    data = import_flickr8k(**flickr)
    assert data.vocabulary.idx_to_word[4:] == ["dog", "a"]  # counted in train only
    assert data.texts("val") == CAPTIONS["three.jpg"]
    np.testing.assert_array_equal(data.features("train", np.array([1, 0])), [[4, 5, 6, 7], [8, 9, 10, 11]])
    features, captions = data.minibatch("train", np.array([2, 0]))
    np.testing.assert_array_equal(features[:, 0], [4, 8])
    assert decode_captions(captions, data.vocabulary.idx_to_word) == ["<START> a dog <UNK> <END>", "<START> a dog <UNK> <END>"]
    assert data.references("val") == {0: CAPTIONS["three.jpg"]}


def test_windows_line_ends_and_marks_and_byte_orders_are_taken_as_they_come(flickr: dict[str, Any]) -> None:
    plain = import_flickr8k(**flickr)
    for path in (flickr["captions_file"], *flickr["lists"].values()):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    with np.load(flickr["features_file"]) as old:
        rewrite(flickr["features_file"], features=old["features"].astype(">f8"), names=old["names"].astype("S"))
    odd = import_flickr8k(**flickr)
    for name, split in plain.splits.items():
        assert (odd.texts(name), odd.split(name).images) == (plain.texts(name), split.images)
        np.testing.assert_array_equal(odd.split(name).features, split.features)
        assert odd.split(name).features.dtype == np.float32


def test_a_file_with_only_a_test_split_is_fine(flickr: dict[str, Any], tmp_path: Path) -> None:
    flickr["lists"] = {"test": flickr["lists"]["train"]}
    write_dataset(tmp_path / "d.h5", import_flickr8k(**flickr))
    assert list(open_data(tmp_path / "d.h5").splits) == ["test"]


def rewrite(path: Path, **arrays: Any) -> None:
    with np.load(path) as old:
        np.savez(path, **{**{key: old[key] for key in old}, **arrays})


def drop_feature_key(path: Path) -> None:
    np.savez(path, features=np.zeros((3, 4), "f4"))


def save_one_array(path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))


NAN = np.array([[0, 0], [0, np.nan], [0, 0]], np.float32)
BAD_IMPORTS: dict[str, tuple[Callable[[dict[str, Any]], Any], list[str]]] = {
    "malformed line": (lambda f: f["captions_file"].write_text("one.jpg#0\tA dog\nrubbish\n"), ["line 2", "'rubbish'", "NAME#K"]),
    "caption without words": (lambda f: f["captions_file"].write_text("\none.jpg#0\t...\n"), ["line 2", "no word"]),
    "not UTF-8": (lambda f: f["captions_file"].write_bytes(b"one.jpg#0\t\xff\xfe"), ["token.txt", "not UTF-8"]),
    "empty split": (lambda f: f["lists"]["val"].write_text("\n"), ["val.txt is empty", "at least one picture"]),
    "picture listed twice": (lambda f: f["lists"]["train"].write_text("one.jpg\none.jpg\n"), ["'one.jpg' twice"]),
    "picture in two splits": (lambda f: f["lists"]["val"].write_text("one.jpg\n"), ["'one.jpg' is in split 'train' and in 'val'"]),
    "picture without captions": (lambda f: f["lists"]["val"].write_text("four.jpg\n"), ["1 of 1 pictures have no captions", "'four.jpg'"]),
    "names that do not match": (lambda f: rewrite(f["features_file"], names=np.array(["x", "y", "one.jpg"])), ["no features", "'two.jpg'"]),
    "fewer names than rows": (lambda f: rewrite(f["features_file"], names=np.array(["one.jpg"])), ["1 names for 3 feature rows"]),
    "a name twice": (lambda f: rewrite(f["features_file"], names=np.array(["one.jpg"] * 3)), ["names a picture twice"]),
    "NaN features": (lambda f: rewrite(f["features_file"], features=NAN), ["not finite", "'two.jpg'"]),
    "integer features": (lambda f: rewrite(f["features_file"], features=np.zeros((3, 2), int)), ["dtype int64", "floats"]),
    "no names": (lambda f: drop_feature_key(f["features_file"]), ["holds 'features' and lacks 'names'"]),
    "object names": (lambda f: rewrite(f["features_file"], names=np.array([{}, {}, {}], object)), ["cannot be read as .npz"]),
    "truncated archive": (lambda f: f["features_file"].write_bytes(f["features_file"].read_bytes()[:200]), ["cannot be read as .npz"]),
    "a single array": (lambda f: save_one_array(f["features_file"]), ["is a single array"]),
    "not an archive": (lambda f: f["features_file"].write_text("hello"), ["cannot be read as .npz"]),
    "a caption twice": (lambda f: f["captions_file"].write_text("one.jpg#0\tA dog\none.jpg#0\tA dog\n"), ["line 2", "second 'one.jpg#0'"]),
    "no captions": (lambda f: f["captions_file"].write_text("\n"), ["token.txt has no line"]),
    "no word often enough": (lambda f: f.update(min_count=99), ["no word occurs 99 times", "choose a smaller min_count"]),
    "features of no size": (lambda f: rewrite(f["features_file"], features=np.zeros((3, 0), "f4")), ["(3, 0)", "D at least 1"]),
    "no split": (lambda f: f.update(lists={}), ["no split"]),
}


@pytest.mark.parametrize("name", BAD_IMPORTS)
def test_bad_imports_name_the_thing(name: str, flickr: dict[str, Any]) -> None:
    spoil, words = BAD_IMPORTS[name]
    spoil(flickr)
    with pytest.raises(DataError) as caught:
        import_flickr8k(**flickr)
    assert str(caught.value).split(":")[0] in ("assemble", "read_features", "read_flickr8k", "read_list", "read_npz", "read_token_file")
    for word in words:
        assert word in str(caught.value)


def test_a_number_sign_and_a_tab_in_a_caption_belong_to_the_caption(flickr: dict[str, Any]) -> None:
    flickr["captions_file"].write_text("one.jpg#0\ta dog #1\tof two\ntwo.jpg#0\ta dog\nthree.jpg#0\ta dog\n")
    assert import_flickr8k(**flickr).texts("train") == ["a dog #1\tof two", "a dog"]


# Dataset files


@pytest.fixture
def dataset(flickr: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "data.h5"
    write_dataset(path, import_flickr8k(**flickr))
    return path


def test_a_dataset_file_gives_back_what_was_written(dataset: Path, flickr: dict[str, Any]) -> None:
    ours, read = import_flickr8k(**flickr), open_data(dataset)
    assert read.vocabulary.idx_to_word == ours.vocabulary.idx_to_word
    assert read.source == ours.source
    for name, split in ours.splits.items():
        np.testing.assert_array_equal(read.split(name).captions, split.captions)
        np.testing.assert_array_equal(read.split(name).features, split.features)
        assert read.texts(name) == list(split.text or ())
        assert list(read.split(name).images) == list(split.images)


def test_large_features_stay_on_disk_and_read_the_same(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = open_data(dataset)
    monkeypatch.setattr(dataset_file, "IN_MEMORY", 8)
    lazy = open_data(dataset)
    assert isinstance(lazy.split("train").features, h5py.Dataset)
    rows = np.array([1, 0, 1, 1])
    np.testing.assert_array_equal(lazy.features("train", rows), held.features("train", rows))
    scaling, expected = fit_scaling("standardize", lazy.split("train").features), fit_scaling("standardize", held.split("train").features)
    for a, b in zip(scaling, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    lazy.split("train").features.file.close()


def test_nothing_is_overwritten_and_a_failed_write_leaves_nothing(dataset: Path, flickr: dict[str, Any]) -> None:
    data, before = import_flickr8k(**flickr), dataset.read_bytes()
    with pytest.raises(DataError, match="exists"):
        write_dataset(dataset, data)
    assert dataset.read_bytes() == before
    data.split("val").features[0, 0] = np.nan
    with pytest.raises(DataError, match=r"'three\.jpg' among them, have features that are not finite"):
        write_dataset(dataset.with_name("other.h5"), data)
    assert sorted(path.name for path in dataset.parent.iterdir()) == ["data.h5", "features.npz", "token.txt", "train.txt", "val.txt"]


def test_a_feature_that_turns_bad_is_found_when_it_is_read(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with h5py.File(dataset, "r+") as file:
        file["train/features"][1, 2] = np.inf
    with pytest.raises(DataError, match=r"split 'train'.* 'two\.jpg'"):
        open_data(dataset)
    monkeypatch.setattr(dataset_file, "IN_MEMORY", 8)
    data = open_data(dataset)
    data.features("train", np.array([0]))
    with pytest.raises(DataError, match=r"split 'train'.* 'two\.jpg'"):
        data.minibatch("train", np.array([0, 2]))
    data.split("train").features.file.close()


def edit(change: Callable[[h5py.File], Any]) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return run


def replace_dataset(file: h5py.File, name: str, value: Any) -> None:
    del file[name]
    file[name] = value


BAD_FILES: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "missing": (lambda p: p.unlink(), ["does not exist"]),
    "not HDF5": (lambda p: p.write_text("hello"), ["cannot be opened as HDF5"]),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]), ["cannot be opened as HDF5"]),
    "foreign": (edit(lambda f: f.attrs.__delitem__("xpcap")), ["without xpcap's stamp"]),
    "newer": (edit(lambda f: f.attrs.__setitem__("xpcap", json.dumps({"format": 9}))), ["format 9", "newer"]),
    "changed caption": (edit(lambda f: f["train/captions"].__setitem__((0, 1), 3)), ["does not match its stamp"]),
    "changed text": (edit(lambda f: f["train/text"].__setitem__(0, 66)), ["does not match its stamp"]),
    "attribute of another kind": (edit(lambda f: f.attrs.__setitem__("xpcap", "[1]")), ["not a whole dataset file"]),
    "no source": (edit(lambda f: f.attrs.__setitem__("xpcap", json.dumps({"format": 1}))), ["not a whole dataset file"]),
    "features of a group": (
        edit(lambda f: (f["val"].__delitem__("features"), f["val"].create_group("features"))),
        ["groups more than 1 deep, 'features'"],
    ),
    "float indices": (edit(lambda f: replace_dataset(f, "val/image_idxs", np.zeros(2, "f4"))), ["image_idxs have shape (2,) and dtype float32"]),
    "no indices": (edit(lambda f: replace_dataset(f, "val/image_idxs", np.zeros(0, "i4"))), ["image_idxs have shape (0,)"]),
    "a stray data set": (edit(lambda f: f.create_dataset("extra", data=np.zeros(3))), ["split 'extra' lacks captions"]),
    "no START": (edit(lambda f: f["train/captions"].__setitem__((1, 0), 4)), ["1 captions, number 1", "<START>"]),
    "id beyond V": (edit(lambda f: f["val/captions"].__setitem__((0, 1), 600)), ["ids 0..600, expected 0..5"]),
    "image beyond m": (edit(lambda f: f["val/image_idxs"].__setitem__(0, 5)), ["image_idxs hold numbers 0..5", "0..0"]),
    "no features": (edit(lambda f: f["val"].__delitem__("features")), ["split 'val' lacks features"]),
    "rows missing": (edit(lambda f: replace_dataset(f, "train/features", np.zeros((1, 4), "f4"))), ["one row for each of 2 pictures"]),
    "empty split": (edit(lambda f: replace_dataset(f, "val/captions", np.zeros((0, 7), "i4"))), ["split 'val' is empty"]),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_dataset_files_name_the_thing(name: str, dataset: Path) -> None:
    spoil, words = BAD_FILES[name]
    spoil(dataset)
    with pytest.raises(DataError) as caught:
        open_data(dataset)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda split: {"images": ["a.jpg"] * len(split.images)}, ["picture name twice"]),
        (lambda split: {"text": ["..." for _ in split.text]}, ["caption without a word"]),
        (lambda split: {"features": np.zeros((len(split.images), 9), "f4")}, ["features of the splits", "9"]),
        (lambda split: {"captions": split.captions[:, :-1]}, ["captions of the splits"]),
        (lambda split: {"text": split.text[:1]}, ["1 texts for 3 captions"]),
    ],
)
def test_what_does_not_fit_together_is_not_stamped(spoil: Any, words: list[str], flickr: dict[str, Any], tmp_path: Path) -> None:
    data = import_flickr8k(**flickr)
    split = data.split("train")
    bad = CaptionData(data.vocabulary, {**data.splits, "train": dataclasses.replace(split, **spoil(split))})
    with pytest.raises(DataError) as caught:
        write_dataset(tmp_path / "bad.h5", bad)
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "bad.h5").exists()


def test_an_unknown_split_is_refused_with_those_there_are(dataset: Path) -> None:
    with pytest.raises(DataError, match="split 'vall' does not exist, expected one of train, val; did you mean 'val'"):
        open_data(dataset).split("vall")


def test_another_vocabulary_encodes_the_text_afresh(dataset: Path) -> None:
    data = open_data(dataset)
    other = data.encoded_with(Vocabulary.build(["cat mats"], 1), "val")
    uncut = "<START> <UNK> cat <UNK> <UNK> mats <END>"
    assert decode_captions(other.split("val").captions, other.vocabulary.idx_to_word) == [uncut, "<START> <UNK> <UNK> <END>"]
    assert other.texts("val") == data.texts("val")
    assert list(other.splits) == ["val"]


# Scaling


def test_standardised_features_have_mean_0_and_deviation_1_and_constants_do_not_blow_up(rng: np.random.Generator) -> None:
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
    with pytest.raises(ValueError, match="did you mean 'standardize'"):
        fit_scaling("standardise", features)


# CS231n's folder


@pytest.fixture
def coco(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A coco_captioning folder with the true file names, keys and dtypes, and a vocabulary of the true form."""
    words = ["<NULL>", "<START>", "<END>", "<UNK>", *(f"w{i}" for i in range(96))]
    return build_coco(tmp_path / "coco_captioning", {"idx_to_word": words, "word_to_idx": {w: i for i, w in enumerate(words)}}, rng)


def build_coco(folder: Path, vocabulary: dict[str, Any], rng: np.random.Generator) -> Path:
    folder.mkdir()
    (folder / "coco2014_vocab.json").write_text(json.dumps(vocabulary))
    with h5py.File(folder / "coco2014_captions.h5", "w") as file:
        for split, n, m in (("train", 30, 9), ("val", 12, 5)):
            captions = np.zeros((n, 17), np.int32)
            for row in captions:
                length = rng.integers(3, 16)
                row[: length + 2] = [1, *rng.integers(4, len(vocabulary["idx_to_word"]), length), 2]
            file[f"{split}_captions"] = captions
            file[f"{split}_image_idxs"] = rng.integers(0, m, n).astype(np.int32)
            for suffix, size in (("", 4096), ("_pca", 512)):
                with h5py.File(folder / f"{split}2014_vgg16_fc7{suffix}.h5", "w") as features:
                    features["features"] = rng.standard_normal((m, size)).astype(np.float32)
            (folder / f"{split}2014_urls.txt").write_text("".join(f"http://farm{i}.staticflickr.com/{split}/{i}_z.jpg\n" for i in range(m)))
            (folder / f"{split}2014_images.txt").write_text("".join(f"{split}2014/COCO_{split}2014_{i:012}.jpg\n" for i in range(m)))
    return folder


def test_load_coco_data_reads_the_courses_folder(coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = load_coco_data(coco)
    assert "base dir" in capsys.readouterr().out
    expected = {f"{split}_{thing}" for split in ("train", "val") for thing in ("captions", "image_idxs", "features", "urls")}
    assert set(data) == expected | {"idx_to_word", "word_to_idx"}
    assert data["train_captions"].shape == (30, 17)
    assert (data["train_captions"].dtype, data["train_features"].dtype, data["train_features"].shape) == (np.int32, np.float32, (9, 512))
    assert load_coco_data(coco, pca_features=False)["val_features"].shape == (5, 4096)


def test_max_train_draws_as_the_course_does(coco: Path) -> None:
    everything = load_coco_data(coco)
    np.random.seed(231)
    some = load_coco_data(coco, max_train=7)
    np.random.seed(231)
    drawn = np.random.randint(30, size=7)
    np.testing.assert_array_equal(some["train_captions"], everything["train_captions"][drawn])
    assert some["train_features"].shape == (9, 512)


def test_a_minibatch_is_drawn_as_the_course_does(coco: Path) -> None:
    data = load_coco_data(coco)
    np.random.seed(1)
    captions, features, urls = sample_coco_minibatch(data, batch_size=6, split="val")
    np.random.seed(1)
    drawn = np.random.choice(12, 6)
    np.testing.assert_array_equal(captions, data["val_captions"][drawn])
    np.testing.assert_array_equal(features, data["val_features"][data["val_image_idxs"][drawn]])
    assert (urls == data["val_urls"][data["val_image_idxs"][drawn]]).all()
    with pytest.raises(DataError, match="split 'vall'"):
        sample_coco_minibatch(data, split="vall")


def test_the_folder_opens_as_caption_data(coco: Path) -> None:
    data = open_data(coco)
    assert isinstance(data, CaptionData)
    assert (data.feature_dim, data.max_words, len(data.vocabulary)) == (512, 15, 100)
    text = data.texts("val")[0]
    assert text == decode_captions(data.split("val").captions[0, 1:], data.vocabulary.idx_to_word).removesuffix(" <END>")  # type: ignore[union-attr]
    assert data.split("val").images[2].startswith("http://")


def test_data_turns_into_the_courses_dict_and_back(coco: Path) -> None:
    """The dict of the course's own folder comes back key for key, and generated pictures come as they are handed out: scaled."""
    ours, theirs = to_coco(open_data(coco)), load_coco_data(coco)
    assert set(ours) == set(theirs)
    for key, value in theirs.items():
        np.testing.assert_array_equal(ours[key], value)
        assert type(ours[key]) is type(value)

    data = generate(seed=2, train=6, val=3)
    data.scaling = fit_scaling("standardize", data.split("train").features)
    made = to_coco(data)
    assert made["train_features"].dtype == np.float32
    np.testing.assert_array_equal(made["train_features"], data.features("train", np.arange(6)))
    back = from_coco(made)
    for name, split in data.splits.items():
        assert back.split(name).images == list(split.images)
        np.testing.assert_array_equal(back.split(name).captions, split.captions)
        np.testing.assert_array_equal(back.minibatch(name, np.arange(4))[0], data.minibatch(name, np.arange(4))[0])
    assert back.vocabulary.idx_to_word == data.vocabulary.idx_to_word


def test_the_courses_dict_holds_train_and_val_alone(coco: Path) -> None:
    data = open_data(coco)
    data.splits = {"test": data.split("val"), "val": data.split("val")}
    assert {key.split("_")[0] for key in to_coco(data)} == {"val", "idx", "word"}
    data.splits = {"test": data.split("val")}
    with pytest.raises(DataError, match="to_coco: the data has the splits test, expected train or val"):
        to_coco(data)


def test_the_folders_words_survive_another_vocabulary(coco: Path) -> None:
    """Without raw text, words are those of the folder's own vocabulary, whatever they are encoded with next."""
    data = open_data(coco)
    data.vocabulary.idx_to_word[4] = "T-shirt"
    words = data.words("val")
    other = data.encoded_with(Vocabulary([*data.vocabulary.idx_to_word[:4], "w9", "T-shirt"]), "val")
    assert other.texts("val") == data.texts("val") == [" ".join(caption) for caption in words]
    for caption, ids in zip(words, other.split("val").captions, strict=True):
        assert [other.vocabulary.idx_to_word[i] for i in ids if i > 2] == [word if word in ("w9", "T-shirt") else "<UNK>" for word in caption]


def test_a_folder_with_the_4096_features_alone_opens(coco: Path) -> None:
    for split in ("train", "val"):
        (coco / f"{split}2014_vgg16_fc7_pca.h5").unlink()
    assert open_data(coco).feature_dim == 4096


def test_a_caption_without_words_is_scored_as_its_end(coco: Path) -> None:
    with h5py.File(coco / "coco2014_captions.h5", "r+") as file:
        file["val_captions"][:, 1:] = [2, *[0] * 15]
    data = open_data(coco)
    assert data.encoded_with(data.vocabulary, "val").split("val").captions[:, :2].tolist() == [[1, 2]] * 12


@pytest.mark.parametrize(
    ("file", "spoil", "words"),
    [
        ("coco2014_captions.h5", Path.unlink, ["a folder without coco2014_captions.h5", "coco_captioning.zip"]),
        ("val2014_vgg16_fc7_pca.h5", lambda p: p.write_bytes(p.read_bytes()[:1000]), ["val2014_vgg16_fc7_pca.h5", "truncated"]),
        ("train2014_urls.txt", Path.unlink, ["train2014_urls.txt is missing"]),
        ("coco2014_vocab.json", lambda p: p.write_text('{"idx'), ["coco2014_vocab.json is not the course's vocabulary", "truncated"]),
        ("coco2014_vocab.json", lambda p: p.write_text(p.read_text().replace("w7", "\\ud800", 1)), ["no character", "UTF-8"]),
        ("coco2014_captions.h5", edit(lambda f: f["val_captions"].__setitem__((0, 1), 100)), ["captions hold ids", "expected 0..99"]),
        ("coco2014_vocab.json", lambda p: p.write_text("{}"), ["coco2014_vocab.json", "idx_to_word"]),
        ("coco2014_vocab.json", lambda p: p.write_text('{"idx_to_word": "abc", "word_to_idx": {}}'), ["not a list of text"]),
        ("coco2014_vocab.json", lambda p: p.write_text('{"idx_to_word": ["a", 1], "word_to_idx": {}}'), ["not a list of text"]),
        ("coco2014_vocab.json", lambda p: p.write_text('{"idx_to_word": ["a"], "word_to_idx": {"a": "0"}}'), ["each word a whole number"]),
        ("coco2014_vocab.json", lambda p: os.truncate(p, 2**40), ["coco2014_vocab.json", "expected at most 67,108,864"]),
        ("val2014_urls.txt", lambda p: os.truncate(p, 2**40), ["val2014_urls.txt", "expected at most 67,108,864"]),
        (
            "val2014_vgg16_fc7_pca.h5",
            edit(lambda f: f.__setitem__("x", h5py.ExternalLink("/etc/passwd", "/"))),
            ["leads elsewhere", "the course ships"],
        ),
        ("coco2014_captions.h5", edit(lambda f: f.create_dataset("x", (2**20, 2**20), "i4")), ["says it holds", "stores 0"]),
        ("val2014_urls.txt", lambda p: p.write_text("http://one\n"), ["1 val_urls for 5 feature rows", "val2014_urls.txt"]),
        ("coco2014_captions.h5", edit(lambda f: f.__delitem__("val_image_idxs")), ["lacks val_image_idxs"]),
        ("coco2014_captions.h5", edit(lambda f: f["val_image_idxs"].__setitem__(0, -1)), ["image_idxs hold numbers -1.."]),
        (
            "val2014_vgg16_fc7_pca.h5",
            edit(lambda f: replace_dataset(f, "features", np.zeros((5, 300), "f4"))),
            ["features of the splits", "[512, 300]"],
        ),
        ("val2014_vgg16_fc7_pca.h5", edit(lambda f: f["features"].__setitem__((1, 1), np.nan)), ["split 'val'", "farm1", "not finite"]),
        ("coco2014_captions.h5", edit(lambda f: f["val_captions"].__setitem__((3, 0), 5)), ["1 captions, number 3", "<START>"]),
        ("train2014_vgg16_fc7_pca.h5", edit(lambda f: f.move("features", "feats")), ["holds 'feats'", "'features'"]),
    ],
)
def test_bad_folders_name_the_file(file: str, spoil: Any, words: list[str], coco: Path) -> None:
    spoil(coco / file)
    with pytest.raises(DataError) as caught:
        open_data(coco)
    for word in words:
        assert word in str(caught.value)


def test_the_real_vocabulary_opens(real_data: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    vocabulary = json.loads((real_data / "coco_mini" / "coco2014_vocab.json").read_text())
    data = open_data(build_coco(tmp_path / "coco_captioning", vocabulary, rng))
    assert data.vocabulary.idx_to_word[:6] == ["<NULL>", "<START>", "<END>", "<UNK>", "a", "on"]
    assert (len(data.vocabulary), data.vocabulary.idx_to_word[-1]) == (1004, "apartment")


def test_a_dataset_file_can_be_moved(dataset: Path, tmp_path: Path) -> None:
    moved = shutil.move(dataset, tmp_path / "elsewhere.h5")
    assert len(open_data(moved).split("train").captions) == 3
