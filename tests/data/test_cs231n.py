"""CS231n's coco_captioning folder: the course's functions, the same data as CaptionData, and what
is refused.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hdf5_edits import edit, replace_dataset
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
from xpcap.errors import DataError
from xpcap.shapes import generate


@pytest.fixture
def coco(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A coco_captioning folder with the true file names, keys and dtypes, and a vocabulary of the
    true form.
    """
    words = ["<NULL>", "<START>", "<END>", "<UNK>", *(f"w{i}" for i in range(96))]
    return build_coco(
        tmp_path / "coco_captioning",
        {"idx_to_word": words, "word_to_idx": {w: i for i, w in enumerate(words)}},
        rng,
    )


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
            (folder / f"{split}2014_urls.txt").write_text(
                "".join(f"http://farm{i}.staticflickr.com/{split}/{i}_z.jpg\n" for i in range(m))
            )
            (folder / f"{split}2014_images.txt").write_text(
                "".join(f"{split}2014/COCO_{split}2014_{i:012}.jpg\n" for i in range(m))
            )
    return folder


def test_load_coco_data_reads_the_courses_folder(
    coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load_coco_data(coco)
    assert "base dir" in capsys.readouterr().out
    expected = {
        f"{split}_{thing}"
        for split in ("train", "val")
        for thing in ("captions", "image_idxs", "features", "urls")
    }
    assert set(data) == expected | {"idx_to_word", "word_to_idx"}
    assert data["train_captions"].shape == (30, 17)
    assert (
        data["train_captions"].dtype,
        data["train_features"].dtype,
        data["train_features"].shape,
    ) == (np.int32, np.float32, (9, 512))
    assert load_coco_data(coco, pca_features=False)["val_features"].shape == (5, 4096)


def test_the_archive_unpacked_as_the_docs_say_lies_where_load_coco_data_looks(
    coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = (Path(__file__).parents[2] / "docs/howto/caption-formats.md").read_text(encoding="utf-8")
    assert "In the folder `datasets`:" in docs
    assert "`python -m zipfile -e coco_captioning.zip .`" in docs
    (tmp_path / "datasets").mkdir()
    with zipfile.ZipFile(tmp_path / "datasets/coco_captioning.zip", "w") as archive:
        for file in coco.iterdir():
            archive.write(file, f"coco_captioning/{file.name}")
    command = [sys.executable, "-m", "zipfile", "-e", "coco_captioning.zip", "."]
    subprocess.run(command, cwd=tmp_path / "datasets", check=True)
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(
        load_coco_data()["val_features"], load_coco_data(coco)["val_features"]
    )


def test_without_a_name_the_courses_own_places_are_looked_at(
    coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the assignment's folder, at Stanford and Berkeley, from cs231n/ in it, and from
    elsewhere.
    """
    monkeypatch.chdir(tmp_path)
    with refuses(
        DataError,
        came="has none of datasets/coco_captioning, cs231n/datasets/coco_captioning, deeplearning/datasets/coco_captioning",
        cause="python -m xpcap.course",
    ) as caught:
        load_coco_data()
    assert str(tmp_path) in str(caught.value)
    (tmp_path / "deeplearning" / "datasets").mkdir(parents=True)
    shutil.copytree(coco, tmp_path / "deeplearning" / "datasets" / "coco_captioning")
    load_coco_data()
    assert "base dir deeplearning/datasets/coco_captioning" in capsys.readouterr().out
    (tmp_path / "cs231n" / "datasets").mkdir(parents=True)
    coco.rename(tmp_path / "cs231n" / "datasets" / "coco_captioning")
    from_assignment = load_coco_data()
    assert "base dir cs231n/datasets/coco_captioning" in capsys.readouterr().out
    monkeypatch.chdir("cs231n")
    np.testing.assert_array_equal(
        load_coco_data()["train_captions"], from_assignment["train_captions"]
    )
    assert "base dir datasets/coco_captioning" in capsys.readouterr().out


def test_a_folder_that_is_named_is_the_one_that_is_read(
    coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cs231n" / "datasets").mkdir(parents=True)
    coco.rename(tmp_path / "cs231n" / "datasets" / "coco_captioning")
    with refuses(
        DataError,
        function="load_coco_data",
        thing="datasets/coco_captioning/coco2014_captions.h5",
        came="is missing",
    ):
        load_coco_data("datasets/coco_captioning")


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
    with refuses(DataError, thing="split", came="'vall'"):
        sample_coco_minibatch(data, split="vall")


def test_the_folder_opens_as_caption_data(coco: Path) -> None:
    data = open_data(coco)
    assert isinstance(data, CaptionData)
    assert (data.feature_dim, data.max_words, len(data.vocabulary)) == (512, 15, 100)
    text = data.texts("val")[0]
    assert text == decode_captions(
        data.split("val").captions[0, 1:], data.vocabulary.idx_to_word
    ).removesuffix(" <END>")  # type: ignore[union-attr]
    assert data.split("val").images[2].startswith("http://")


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
        np.testing.assert_array_equal(
            back.minibatch(name, np.arange(4))[0], data.minibatch(name, np.arange(4))[0]
        )
    assert back.vocabulary.idx_to_word == data.vocabulary.idx_to_word


def test_the_courses_dict_holds_train_and_val_alone(coco: Path) -> None:
    data = open_data(coco)
    data.splits = {"test": data.split("val"), "val": data.split("val")}
    assert {key.split("_")[0] for key in to_coco(data)} == {"val", "idx", "word"}
    data.splits = {"test": data.split("val")}
    with refuses(
        DataError,
        function="to_coco",
        thing="the data",
        came="has the splits test",
        expected="train or val",
    ):
        to_coco(data)


def test_the_folders_words_survive_another_vocabulary(coco: Path) -> None:
    """Without raw text, words are those of the folder's own vocabulary, whatever they are encoded
    with next.
    """
    data = open_data(coco)
    data.vocabulary.idx_to_word[4] = "T-shirt"
    words = data.words("val")
    other = data.encoded_with(
        Vocabulary([*data.vocabulary.idx_to_word[:4], "w9", "T-shirt"]), "val"
    )
    assert other.texts("val") == data.texts("val") == [" ".join(caption) for caption in words]
    for caption, ids in zip(words, other.split("val").captions, strict=True):
        assert [other.vocabulary.idx_to_word[i] for i in ids if i > 2] == [
            word if word in ("w9", "T-shirt") else "<UNK>" for word in caption
        ]


def test_a_folder_with_the_4096_features_alone_opens(coco: Path) -> None:
    for split in ("train", "val"):
        (coco / f"{split}2014_vgg16_fc7_pca.h5").unlink()
    assert open_data(coco).feature_dim == 4096


def test_a_caption_without_words_is_scored_as_its_end(coco: Path) -> None:
    with h5py.File(coco / "coco2014_captions.h5", "r+") as file:
        file["val_captions"][:, 1:] = [2, *[0] * 15]
    data = open_data(coco)
    assert (
        data.encoded_with(data.vocabulary, "val").split("val").captions[:, :2].tolist()
        == [[1, 2]] * 12
    )


@pytest.mark.parametrize(
    ("file", "spoil", "fields"),
    [
        (
            "coco2014_captions.h5",
            Path.unlink,
            {"came": "a folder without coco2014_captions.h5", "expected": "coco_captioning.zip"},
        ),
        (
            "val2014_vgg16_fc7_pca.h5",
            lambda p: p.write_bytes(p.read_bytes()[:1000]),
            {"thing": "val2014_vgg16_fc7_pca.h5", "came": "truncated"},
        ),
        ("train2014_urls.txt", Path.unlink, {"thing": "train2014_urls.txt", "came": "is missing"}),
        (
            "coco2014_vocab.json",
            lambda p: p.write_text('{"idx'),
            {
                "thing": "coco2014_vocab.json",
                "came": "is not the course's vocabulary",
                "cause": "truncated",
            },
        ),
        (
            "coco2014_vocab.json",
            lambda p: p.write_text(p.read_text().replace("w7", "\\ud800", 1)),
            {"came": "no character", "expected": "UTF-8"},
        ),
        (
            "coco2014_captions.h5",
            edit(lambda f: f["val_captions"].__setitem__((0, 1), 100)),
            {"thing": "captions", "came": "hold 0..100", "expected": "0..99"},
        ),
        (
            "coco2014_vocab.json",
            lambda p: p.write_text("{}"),
            {"thing": "coco2014_vocab.json", "expected": "idx_to_word"},
        ),
        (
            "coco2014_vocab.json",
            lambda p: p.write_text('{"idx_to_word": "abc", "word_to_idx": {}}'),
            {"cause": "not a list of text"},
        ),
        (
            "coco2014_vocab.json",
            lambda p: p.write_text('{"idx_to_word": ["a", 1], "word_to_idx": {}}'),
            {"cause": "not a list of text"},
        ),
        (
            "coco2014_vocab.json",
            lambda p: p.write_text('{"idx_to_word": ["a"], "word_to_idx": {"a": "0"}}'),
            {"cause": "each word a whole number"},
        ),
        (
            "coco2014_vocab.json",
            lambda p: os.truncate(p, 2**40),
            {"thing": "coco2014_vocab.json", "expected": "at most 67,108,864"},
        ),
        (
            "val2014_urls.txt",
            lambda p: os.truncate(p, 2**40),
            {"thing": "val2014_urls.txt", "expected": "at most 67,108,864"},
        ),
        (
            "val2014_vgg16_fc7_pca.h5",
            edit(lambda f: f.__setitem__("x", h5py.ExternalLink("/etc/passwd", "/"))),
            {"came": "leads elsewhere", "expected": "the course ships"},
        ),
        (
            "coco2014_captions.h5",
            edit(lambda f: f.create_dataset("x", (2**20, 2**20), "i4")),
            {"came": ("says it holds", "stores 0")},
        ),
        (
            "val2014_urls.txt",
            lambda p: p.write_text("http://one\n"),
            {"came": "1 val_urls for 5 feature rows", "cause": "val2014_urls.txt"},
        ),
        (
            "coco2014_captions.h5",
            edit(lambda f: f.__delitem__("val_image_idxs")),
            {"came": "lacks val_image_idxs"},
        ),
        (
            "coco2014_captions.h5",
            edit(lambda f: f["val_image_idxs"].__setitem__(0, -1)),
            {"thing": "image_idxs", "came": "hold -1.."},
        ),
        (
            "val2014_vgg16_fc7_pca.h5",
            edit(lambda f: replace_dataset(f, "features", np.zeros((5, 300), "f4"))),
            {"thing": "features of the splits", "came": "(512,), (300,)"},
        ),
        (
            "val2014_vgg16_fc7_pca.h5",
            edit(lambda f: f["features"].__setitem__((1, 1), np.nan)),
            {"thing": ("split 'val'", "farm1"), "came": "not finite"},
        ),
        (
            "coco2014_captions.h5",
            edit(lambda f: f["val_captions"].__setitem__((3, 0), 5)),
            {"thing": "1 captions, number 3", "came": "<START>"},
        ),
        (
            "train2014_vgg16_fc7_pca.h5",
            edit(lambda f: f.move("features", "feats")),
            {"came": "holds 'feats'", "expected": "'features'"},
        ),
    ],
)
def test_bad_folders_name_the_file(
    file: str, spoil: Any, fields: dict[str, Any], coco: Path
) -> None:
    spoil(coco / file)
    with refuses(DataError, **fields):
        open_data(coco)


def test_the_real_vocabulary_opens(
    real_data: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    vocabulary = json.loads((real_data / "coco_mini" / "coco2014_vocab.json").read_text())
    data = open_data(build_coco(tmp_path / "coco_captioning", vocabulary, rng))
    assert data.vocabulary.idx_to_word[:6] == ["<NULL>", "<START>", "<END>", "<UNK>", "a", "on"]
    assert (len(data.vocabulary), data.vocabulary.idx_to_word[-1]) == (1004, "apartment")
