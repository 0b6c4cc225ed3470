"""CS231n's coco_captioning folder: the course's functions, the same data as CaptionData, and what
is refused.
"""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from coco_folder import build_coco
from refusals import refuses

from xpcap.data import (
    CaptionData,
    Vocabulary,
    decode_captions,
    load_coco_data,
    open_data,
    sample_coco_minibatch,
    to_coco,
)
from xpcap.data.cs231n import from_coco
from xpcap.data.features import fit_scaling
from xpcap.drawings import generate
from xpcap.errors import DataError, OptionError


@pytest.fixture
def coco(tmp_path: Path, rng: np.random.Generator) -> Path:
    return build_coco(tmp_path / "coco_captioning", rng)


def test_load_coco_data_reads_the_courses_folder(
    coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load_coco_data(coco)
    assert "base dir" in capsys.readouterr().out
    things = ("captions", "image_idxs", "features", "urls")
    expected = {f"{split}_{thing}" for split in ("train", "val") for thing in things}
    assert set(data) == expected | {"idx_to_word", "word_to_idx"}
    captions, features = data["train_captions"], data["train_features"]
    assert (captions.shape, captions.dtype) == ((30, 17), np.int32)
    assert (features.shape, features.dtype) == ((9, 512), np.float32)
    assert load_coco_data(coco, pca_features=False)["val_features"].shape == (5, 4096)
    with refuses(OptionError, "`pca_features`", "is 'False'"):
        load_coco_data(coco, pca_features="False")  # type: ignore[arg-type]
    for split in ("train", "val"):
        (coco / f"{split}2014_vgg16_fc7_pca.h5").unlink()
    assert open_data(coco).feature_dim == 4096


def test_without_a_name_the_courses_own_places_are_looked_at(
    coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the assignment's folder, at Stanford and Berkeley, from cs231n/ in it, and from
    elsewhere; a folder that is named is the one that is read.
    """
    monkeypatch.chdir(tmp_path)
    places = [f"{folder}datasets/coco_captioning" for folder in ("", "cs231n/", "deeplearning/")]
    got, cause = f"has none of {', '.join(places)}", "python -m xpcap.cs231n.write_data"
    with refuses(DataError, got, cause) as caught:
        load_coco_data()
    assert str(tmp_path) in str(caught.value)
    for place in places[::-1]:  # the first that is there
        shutil.copytree(coco, place)
        load_coco_data()
        assert f"base dir {place}\n" in capsys.readouterr().out
    shutil.rmtree(places[0])
    missing = "datasets/coco_captioning/coco2014_captions.h5"
    with refuses(DataError, missing, "is missing"):
        load_coco_data(places[0])
    monkeypatch.chdir("cs231n")
    load_coco_data()
    assert "base dir datasets/coco_captioning\n" in capsys.readouterr().out


def test_urls_and_words_that_do_not_fit_are_refused_of_a_folder_and_of_a_dict(coco: Path) -> None:
    data = load_coco_data(coco)
    *_, word = data["idx_to_word"]
    words = {**data["word_to_idx"], word: 7}
    got = f"gives {word!r} the id 7, but idx_to_word gives it {data['word_to_idx'][word]}"
    with refuses(DataError, "word_to_idx", got):
        from_coco({**data, "word_to_idx": words})
    urls = coco / "val2014_urls.txt"
    lines = urls.read_text().splitlines()
    urls.write_text("\n".join(lines[1:]))
    count = f"{len(lines) - 1} val_urls for {len(lines)} feature rows"
    for read in (load_coco_data, open_data):
        with refuses(DataError, count):
            read(coco)
    urls.write_text("\n".join(lines))
    vocabulary = {"idx_to_word": data["idx_to_word"], "word_to_idx": words}
    (coco / "coco2014_vocab.json").write_text(json.dumps(vocabulary))
    for read in (load_coco_data, open_data):
        with refuses(DataError, "word_to_idx", got):
            read(coco)


def test_captions_to_learn_and_a_minibatch_are_drawn_as_the_course_does(coco: Path) -> None:
    data = load_coco_data(coco)
    np.random.seed(231)
    some = load_coco_data(coco, max_train=7)
    np.random.seed(231)
    drawn = np.random.randint(30, size=7)
    np.testing.assert_array_equal(some["train_captions"], data["train_captions"][drawn])
    assert some["train_features"].shape == (9, 512)
    np.random.seed(1)
    captions, features, urls = sample_coco_minibatch(data, batch_size=6, split="val")
    np.random.seed(1)
    drawn = np.random.choice(12, 6)
    np.testing.assert_array_equal(captions, data["val_captions"][drawn])
    np.testing.assert_array_equal(features, data["val_features"][data["val_image_idxs"][drawn]])
    assert (urls == data["val_urls"][data["val_image_idxs"][drawn]]).all()
    with refuses(DataError, "split", "'vall'"):
        sample_coco_minibatch(data, split="vall")


def test_the_folder_opens_as_caption_data(coco: Path) -> None:
    data = open_data(coco)
    assert isinstance(data, CaptionData)
    assert (data.feature_dim, data.max_words, len(data.vocabulary)) == (512, 15, 100)
    val = data.split("val")
    text = decode_captions(val.captions[0, 1:], data.vocabulary.idx_to_word)
    assert f"{data.texts('val')[0]} <END>" == text
    assert val.images[2].startswith("http://")


def test_data_turns_into_the_courses_dict_and_back(coco: Path) -> None:
    """The dict of the course's own folder comes back key for key, and generated pictures come as
    they are handed out: scaled.
    """
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
        features = [each.minibatch(name, np.arange(4))[0] for each in (back, data)]
        np.testing.assert_array_equal(*features)
    assert back.vocabulary.idx_to_word == data.vocabulary.idx_to_word
    data.splits = {"test": data.split("val"), "val": data.split("val")}
    assert {key.split("_")[0] for key in to_coco(data)} == {"val", "idx", "word"}
    data.splits = {"test": data.split("val")}
    with refuses(DataError, "the data", "has the splits test", "train or val"):
        to_coco(data)


def test_the_folders_words_survive_another_vocabulary(coco: Path) -> None:
    """Without raw text, words are those of the folder's own vocabulary, whatever they are encoded
    with next.
    """
    data = open_data(coco)
    data.vocabulary.idx_to_word[4] = "T-shirt"
    words, kept = data.words("val"), ("w9", "T-shirt")
    other = data.encoded_with(Vocabulary([*data.vocabulary.idx_to_word[:4], *kept]), "val")
    assert other.texts("val") == data.texts("val") == [" ".join(caption) for caption in words]
    for caption, ids in zip(words, other.split("val").captions, strict=True):
        encoded = [other.vocabulary.idx_to_word[i] for i in ids if i > 2]
        assert encoded == [word if word in kept else "<UNK>" for word in caption]


def test_a_caption_without_words_is_scored_as_its_end(coco: Path) -> None:
    with h5py.File(coco / "coco2014_captions.h5", "r+") as file:
        file["val_captions"][:, 1:] = [2, *[0] * 15]
    data = open_data(coco)
    captions = data.encoded_with(data.vocabulary, "val").split("val").captions
    assert captions[:, :2].tolist() == [[1, 2]] * 12


def test_the_real_vocabulary_opens(
    real_data: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    vocabulary = json.loads((real_data / "coco_mini" / "coco2014_vocab.json").read_text())
    data = open_data(build_coco(tmp_path / "coco_captioning", rng, vocabulary))
    assert data.vocabulary.idx_to_word[:6] == ["<NULL>", "<START>", "<END>", "<UNK>", "a", "on"]
    assert (len(data.vocabulary), data.vocabulary.idx_to_word[-1]) == (1004, "apartment")
