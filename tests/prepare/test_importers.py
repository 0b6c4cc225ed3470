"""Data sets from Flickr8k's files, and what assemble makes of any reader's captions."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import caption_formats
import numpy as np
import pytest
from commands import failing
from refusals import Refusal, refusals, refuses

from xpcap.data import CaptionData, Source, decode_captions, open_data, write_dataset
from xpcap.encoders import ENCODERS, EncoderSpec
from xpcap.errors import DataError, OptionError
from xpcap.prepare import CaptionRow, assemble, import_captions

# Flickr8k's layout

CAPTIONS = {
    "one.jpg": ["A dog runs .", "The dog ran"],
    "two.jpg": ["A dog sits"],
    "three.jpg": ["A cat — on 2 mats", "a dog"],
}


@pytest.fixture
def flickr(tmp_path: Path) -> dict[str, Any]:
    """A small data set in Flickr8k's layout, as keyword arguments of import_captions."""
    lines = [
        f"{image}#{k}\t{text}\n"
        for image, texts in CAPTIONS.items()
        for k, text in enumerate(texts)
    ]
    (tmp_path / "token.txt").write_text("".join(lines), encoding="utf-8")
    (tmp_path / "train.txt").write_text("one.jpg\ntwo.jpg\n")
    (tmp_path / "val.txt").write_text("three.jpg\n")
    features = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.savez(
        tmp_path / "features.npz",
        names=np.array(["three.jpg", "two.jpg", "one.jpg"]),
        features=features,
    )
    lists = {"train": tmp_path / "train.txt", "val": tmp_path / "val.txt"}
    files = [(None, tmp_path / "token.txt")]
    how = {"min_count": 2, "max_words": 5, "strict": True}
    return {"files": files, "lists": lists, "features_file": tmp_path / "features.npz", **how}


def imported(flickr: dict[str, Any]) -> CaptionData:
    data, _ = import_captions(**flickr)
    return data


def tokens(flickr: dict[str, Any]) -> Path:
    """The file of captions."""
    return Path(flickr["files"][0][1])


def test_captions_features_and_lists_come_together_by_name(flickr: dict[str, Any]) -> None:
    data = imported(flickr)
    assert data.vocabulary.idx_to_word[4:] == ["dog", "a"]  # counted in train only
    assert data.texts("val") == CAPTIONS["three.jpg"]
    np.testing.assert_array_equal(
        data.features("train", np.array([1, 0])), [[4, 5, 6, 7], [8, 9, 10, 11]]
    )
    features, captions = data.minibatch("train", np.array([2, 0]))
    np.testing.assert_array_equal(features[:, 0], [4, 8])
    assert decode_captions(captions, data.vocabulary.idx_to_word) == [
        "<START> a dog <UNK> <END>",
        "<START> a dog <UNK> <END>",
    ]
    assert data.references("val") == {0: CAPTIONS["three.jpg"]}


def test_windows_line_ends_and_marks_and_byte_orders_are_taken_as_they_come(
    flickr: dict[str, Any],
) -> None:
    plain = imported(flickr)
    for path in (tokens(flickr), *flickr["lists"].values()):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    with np.load(flickr["features_file"]) as old:
        rewrite(flickr, features=old["features"].astype(">f8"), names=old["names"].astype("S"))
    odd = imported(flickr)
    for name, split in plain.splits.items():
        assert (odd.texts(name), odd.split(name).images) == (plain.texts(name), split.images)
        np.testing.assert_array_equal(odd.split(name).features, split.features)
        assert odd.split(name).features.dtype == np.float32


def test_a_file_with_only_a_test_split_is_fine(flickr: dict[str, Any], tmp_path: Path) -> None:
    flickr["lists"] = {"test": flickr["lists"]["train"]}
    write_dataset(tmp_path / "d.h5", imported(flickr))
    assert list(open_data(tmp_path / "d.h5").splits) == ["test"]


def rewrite(flickr: dict[str, Any], **arrays: Any) -> None:
    """Replace arrays of the features' file."""
    with np.load(flickr["features_file"]) as old:
        np.savez(flickr["features_file"], **{**old, **arrays})


@refusals(
    r"""
    token.write_text("one.jpg#0\tA dog\nrubbish\n") | function: import_captions | got: lines of another form: 1 (line 2) | expected: as `strict` asks
    token.write_text("\none.jpg#0\t...\n") | function: import_captions | got: captions without a word: 1 (one.jpg)
    token.write_text("one.jpg#0\tA dog\none.jpg#0\tA dog\n") | function: import_captions | got: second lines of one NAME#K: 1 (line 2)
    token.write_bytes(b"one.jpg#0\t\xff\xfe") | function: read_captions | thing: token.txt | got: not UTF-8
    token.write_text("\n") | function: read_captions | thing: token.txt | got: is empty
    val.write_text("\n") | function: read_list | thing: val.txt | got: is empty | cause: at least one picture
    val.write_text("one.jpg\n") | function: assemble | thing: 'one.jpg' | got: is in split 'train' and in 'val'
    val.write_text("four.jpg\n") | function: import_captions | got: 'val' that have no captions, or were skipped: 1 (four.jpg)
    rewrite(names=np.array(["x", "y", "one.jpg"])) | function: import_captions | got: captioned pictures without features: 2 (two.jpg, three.jpg)
    rewrite(names=np.array(["one.jpg"])) | function: read_features | thing: features | got: have shape (3, 4)
    rewrite(names=np.array(["one.jpg"] * 3)) | function: read_features | got: names a picture twice
    rewrite(features=np.float32([[0, 0], [0, np.nan], [0, 0]])) | function: read_features | thing: 'two.jpg' | got: not finite
    rewrite(features=np.zeros((3, 2), int)) | function: read_features | got: dtype int64 | expected: floats
    rewrite(features=np.zeros((3, 0), "f4")) | function: read_features | got: (3, 0) | expected: D > 0
    np.savez(npz, features=np.zeros((3, 4), "f4")) | function: read_npz | got: holds 'features' | expected: 'names', 'features'
    rewrite(names=np.array([{}, {}, {}], object)) | function: read_npz | got: cannot be read as .npz
    npz.write_bytes(npz.read_bytes()[:200]) | function: read_npz | got: cannot be read as .npz
    npz.write_text("hello") | function: read_npz | got: cannot be read as .npz
    np.save("x.npy", np.zeros(3)); npz.write_bytes(Path("x.npy").read_bytes()) | function: read_npz | got: cannot be read as .npz
    flickr.update(min_count=99) | function: assemble | thing: no word | got: occurs 99 times | cause: choose a smaller `min_count`
    """,
    error=DataError,
)
def test_bad_imports_name_the_thing(
    refusal: Refusal, flickr: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {"token": tokens(flickr), **flickr["lists"], "npz": flickr["features_file"]}
    names = {**globals(), **files, "flickr": flickr, "rewrite": partial(rewrite, flickr)}
    refusal.check(names, "{}; imported(flickr)")


def test_a_number_sign_and_a_tab_in_a_caption_belong_to_the_caption(flickr: dict[str, Any]) -> None:
    tokens(flickr).write_text("one.jpg#0\ta dog #1\tof two\ntwo.jpg#0\ta dog\nthree.jpg#0\ta dog\n")
    assert imported(flickr).texts("train") == ["a dog #1\tof two", "a dog"]


@pytest.mark.parametrize("there", ["features", "pictures", "both"])
def test_a_picture_in_another_folder_than_its_caption_says_is_noted(
    there: str, flickr: dict[str, Any], tmp_path: Path
) -> None:
    tokens(flickr).write_text("cats/one.jpg#0\ta dog\ntwo.jpg#0\ta dog\n")
    how: dict[str, Any] = {"features_file": flickr["features_file"], "fractions": [1]}
    if there != "features":
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos/one.jpg").write_bytes(b"")
        how["pictures"] = tmp_path / "photos"
    if there == "pictures":  # the features are where the caption says
        rewrite(flickr, names=np.array(["cats/one.jpg", "two.jpg", "three.jpg"]))
    _, report = import_captions(flickr["files"], **how)
    note = "names matched in another folder"
    assert f"{note}: 1 (cats/one.jpg is one.jpg)" in report.notes


def test_text_names_files_as_well_as_paths_do(flickr: dict[str, Any]) -> None:
    plain = imported(flickr)
    names = {"files": [(None, str(tokens(flickr)))], "features_file": str(flickr["features_file"])}
    named = imported(
        {**flickr, **names, "lists": {split: str(path) for split, path in flickr["lists"].items()}}
    )
    assert named.source == plain.source
    assert named.texts("val") == plain.texts("val")


# Importers of one's own

SAID = {
    "train": {"one.jpg": ["a dog", "A dog!"], "two.jpg": ["a cat"]},
    "val": {"three.jpg": ["a dog"]},
}
ROWS = caption_formats.rows(SAID)
FEATURES = {
    "one.jpg": [1.0, 2.0],
    "two.jpg": np.array([3, 4]),
    "three.jpg": np.array([5, 6], "f4"),
    "unused.jpg": "not looked at",
}


def test_captions_by_split_and_features_by_name_are_a_data_set() -> None:
    data = assemble(ROWS, features=FEATURES, min_count=1, max_words=4, source={"made by": "hand"})
    assert data.vocabulary.idx_to_word[4:] == ["a", "dog", "cat"]
    assert data.references("train") == dict(enumerate(SAID["train"].values()))
    np.testing.assert_array_equal(data.minibatch("train", np.array([2, 0]))[0], [[3, 4], [1, 2]])
    assert data.split("train").features.dtype == np.float32
    assert (data.split("val").images, data.split("val").captions.tolist()) == (
        ["three.jpg"],
        [[1, 4, 5, 2, 0, 0]],
    )
    assert data.source == Source(record={"made by": "hand", "min_count": 1, "max_words": 4})


@pytest.mark.parametrize(("captions", "least"), [(59, 1), (60, 2), (3999, 2), (4000, 5)])
@pytest.mark.parametrize("splits", [("train", "val"), ("test", "test")])
def test_words_of_few_captions_are_kept_if_they_occur_twice(
    captions: int, least: int, splits: tuple[str, str]
) -> None:
    """Of those to learn from, and without a train split of all; of a val split none counts."""
    texts = ["dog cat cow"] * (least - 1) + ["dog cat"] + ["dog"] * (captions - least)
    rows = [CaptionRow("a", text, splits[0]) for text in texts]
    if splits[1] != splits[0]:
        rows += [CaptionRow("b", "cow", splits[1])] * 10
    data = assemble(rows, features={"a": [1.0], "b": [2.0]})
    assert data.vocabulary.idx_to_word[4:] == ["dog", "cat"]
    assert data.source.record["min_count"] == least


class Brightness:
    """An encoder of one's own."""

    name, shape = "brightness", (1,)

    def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        return np.array([[picture.mean()] for picture in pictures], np.float32)


def test_any_encoder_makes_the_features_and_is_remembered(tmp_path: Path) -> None:
    Image = pytest.importorskip("PIL.Image")
    for name, grey in (("one.jpg", 10), ("two.jpg", 200), ("three.jpg", 90)):
        Image.new("L", (8, 8), grey).save(tmp_path / name, format="PNG")
    data = assemble(ROWS, pictures=str(tmp_path), encoder=Brightness(), min_count=1)
    assert (data.source.encoder, data.source.pictures) == ("brightness", str(tmp_path.resolve()))
    np.testing.assert_array_equal(data.split("train").features[:2], [[10], [200]])
    assert data.split("train").views == 2  # of photos, as the command does
    assert assemble(ROWS, pictures=tmp_path, features=FEATURES, min_count=1).source.encoder is None
    options: dict[str, Any] = {"pictures": tmp_path, "encoder": Brightness(), "mirror": True}
    by_split = [assemble([CaptionRow("one.jpg", "a", n)], **options) for n in ("train", "val")]
    assert ["mirror" in data.source.record for data in by_split] == [True, False]


def grey_pictures(folder: Path) -> dict[str, Any]:
    """Forty pictures, and features of them by Brightness, with one more."""
    Image = pytest.importorskip("PIL.Image")
    greys = {f"{number:02}.png": 5.0 * number + 7 for number in range(40)}
    for name, grey in greys.items():
        Image.new("L", (8, 8), int(grey)).save(folder / name)
    return {name: [grey] for name, grey in {**greys, "gone.png": 1.0}.items()}


def rows_of(features: Iterable[str]) -> list[CaptionRow]:
    return [CaptionRow(name, "a dog", "train") for name in features]


def test_features_that_name_their_encoder_are_compared_with_it_on_sixteen_pictures(
    tmp_path: Path,
) -> None:
    features = grey_pictures(tmp_path)
    (tmp_path / "00.png").write_bytes(b"cannot be read")
    how: dict[str, Any] = {"features": features, "encoder": Brightness()}
    data = assemble(rows_of(features), pictures=tmp_path, **how)
    assert (data.source.encoder, data.split("train").views) == ("brightness", 1)
    assert data.source.record["encoder_checked"] == 16
    unchecked = assemble(rows_of(features), **how)
    assert unchecked.source.encoder == "brightness"
    assert unchecked.source.record["encoder_checked"] == 0
    near = {name: [value * 1.001] for name, (value,) in features.items()}
    assemble(rows_of(near), pictures=tmp_path, **{**how, "features": near})
    others = {name: [value * 1.02] for name, (value,) in features.items()}
    with refuses(
        DataError,
        thing="the encoder brightness",
        got="makes a feature of '02.png' that differs by 2.0%",
        cause="another encoder",
    ):
        assemble(rows_of(others), pictures=tmp_path, **{**how, "features": others})
    wide = {name: [1.0, 2.0] for name in features}
    with refuses(DataError, got="makes features of shape (1,)", expected="(2,)"):
        assemble(rows_of(wide), **{**how, "features": wide})


@refusals(
    """
    captions=[] | DataError | got: got no caption
    captions=[CaptionRow("one.jpg", "a dog")] | DataError | thing: 'one.jpg' | got: has no split
    captions=[*ROWS, CaptionRow("three.jpg", "a", "test")] | DataError | thing: 'three.jpg' | got: is in split 'val' and in 'test'
    captions=[CaptionRow("one.jpg", None, "val")] | DataError | thing: 'one.jpg' | got: has no caption
    captions=caption_formats.rows({"val": {"one.jpg": ["a", "..."]}}) | DataError | thing: 'one.jpg' | got: has a caption without a word
    captions=SAID | TypeError | got: got a str among the captions | expected: rows, each CaptionRow
    features={"one.jpg": [1.0]} | DataError | thing: split 'train': 1 of 2 pictures | got: have no features, 'two.jpg' among
    features={**FEATURES, "two.jpg": [1.0]} | DataError | thing: the feature of 'two.jpg' | got: has shape (1,) | expected: (2,)
    features={**FEATURES, "three.jpg": [1.0]} | DataError | thing: the feature of 'three.jpg' | got: has shape (1,) | expected: (2,)
    features={**FEATURES, "one.jpg": ["a", "b"]} | DataError | thing: the feature of 'one.jpg' | expected: numbers
    features={**FEATURES, "three.jpg": [1.0, np.inf]} | DataError | thing: 'three.jpg' | got: not finite
    pictures="nowhere" | DataError | thing: nowhere | got: is not a folder
    captions=[CaptionRow("../one.jpg", "a dog", "val")], pictures="." | DataError | thing: '../one.jpg' | got: would lie outside
    min_count=9 | DataError | thing: no word | got: occurs 9 times
    source={"encoder": "mine"} | OptionError | thing: record | got: holds 'encoder'
    """
)
def test_parts_that_do_not_fit_are_named(refusal: Refusal) -> None:
    names = {**globals(), "parts": {"captions": ROWS, "features": FEATURES, "min_count": 1}}
    refusal.check(names, "assemble(**{{**parts, **dict({})}})")


def test_rows_may_come_in_any_order() -> None:
    backwards = assemble(reversed(ROWS), features=FEATURES, min_count=1)
    assert {name: split.images for name, split in backwards.splits.items()} == {
        "val": ["three.jpg"],
        "train": ["two.jpg", "one.jpg"],
    }
    assert list(backwards.references("train").values()) == [["a cat"], ["A dog!", "a dog"]]
    mixed = assemble([ROWS[0], ROWS[2], ROWS[1], ROWS[3]], features=FEATURES, min_count=1)
    assert mixed.split("train").image_idxs.tolist() == [0, 1, 0]
    assert mixed.texts("train") == ["a dog", "a cat", "A dog!"]


# Options

# what follows the command, if it can say so; keywords; the option that is refused; words of the error
# fmt: off
BAD_OPTIONS: list[tuple[str, dict[str, Any], str, str]] = [
    ("--max-words 0", {"max_words": 0}, "max_words", "is 0"),
    ("--max-words 1001", {"max_words": 1001}, "max_words", "1..1000"),
    ("--min-count -1", {"min_count": -1}, "min_count", "is -1"),
    ("--vocabulary 0", {"vocabulary_size": 0}, "vocabulary_size", "is 0"),
    ("--grid 65", {"grid": 65}, "grid", "1..64"),
    ("--seed -1", {"seed": -1}, "seed", "is -1"),
    ("--fractions 0.5,0.4", {"fractions": [0.5, 0.4]}, "fractions", "together 1"),
    ("--fractions nan,1", {"fractions": [np.nan, 1]}, "fractions", "together 1"),
    ("--fractions 0,1", {"fractions": [0, 1]}, "fractions", "together 1"),
    ("--fractions 1,-1,1", {"fractions": [1, -1, 1]}, "fractions", "together 1"),
    ("--fractions 0.25,0.25,0.25,0.25", {"fractions": [0.25] * 4}, "fractions", "together 1"),
    ("--fractions a,b", {"fractions": "a,b"}, "fractions", "together 1"),
    ("--split a", {"lists": ["a"]}, "lists", "NAME=LIST"),
    ("--split 1=x", {"lists": {"1": "x"}}, "lists", "NAME=LIST"),
    ("--split a=x --split a=y", {"lists": "a"}, "lists", "a fresh name"),
    ("--split val=x --split dev=y", {"lists": {"val": "x", "dev": "y"}}, "lists", "dev and val are one"),
    ("--split a=x --fractions 1", {"lists": {"a": "x"}, "fractions": [1]}, "lists and fractions",
     "are both given"),
    ("--features f.npz --mirror", {"features_file": "f.npz", "mirror": True}, "features_file and mirror", "both given"),
    ("", {"features_file": "f.npz", "encoder": None, "grid": 2}, "features_file and grid", "the encoder of that grid"),
    ("", {"features": {"a.png": [1.0]}}, "features", "given"),
    ("", {"encoder": 7}, "encoder", "the name of one"),
    ("", {"grid": 2}, "grid and encoder", "expected the name of an encoder"),
    ("", {"pictures": 7}, "pictures", "a path"),
    ("", {"pictures": None}, "neither pictures nor features_file", "is given"),
    ("", {"mirror": 2}, "mirror", "True or False"),
    ("", {"float16": "no"}, "float16", "True or False"),
]
# fmt: on


@pytest.mark.parametrize(("line", "options", "thing", "words"), BAD_OPTIONS)
def test_a_bad_option_is_refused_at_every_entry_before_a_picture_is_opened(
    line: str,
    options: dict[str, Any],
    thing: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("xpcap.prepare.features.read_picture", lambda path: pytest.fail(str(path)))
    monkeypatch.setitem(
        ENCODERS, "mine", EncoderSpec("mine", lambda name, **options: Brightness(), "", "")
    )
    monkeypatch.chdir(tmp_path)
    Path("c.csv").write_text("image,caption\na.png,a dog\n")
    Path("a.png").write_bytes(b"")
    given: dict[str, Any] = {"pictures": ".", "encoder": Brightness(), **options}
    with refuses(OptionError, function="import_captions", thing=thing) as caught:
        import_captions([("train", "c.csv")], **given)
    assert words in str(caught.value)
    if not {*options} & {"lists", "fractions", "seed", "features", "features_file"}:
        thing = thing.replace("features_file", "features")
        with refuses(OptionError, function="assemble", thing=thing) as caught:
            assemble([CaptionRow("a.png", "a dog", "train")], **given)
        assert words in str(caught.value)
    if line:
        command = f"prepare c.csv --pictures . --encoder mine --out own.h5 {line}".split()
        failing(command, line.split()[0], status=2)
