"""Data sets from Flickr8k's files, and what assemble makes of any reader's captions."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import caption_formats
import numpy as np
import pytest
from commands import failing
from refusals import Refusal, refusals, refuses

from xpcap.data import CaptionData, Source, decode_captions
from xpcap.encoders import ENCODERS, EncoderSpec
from xpcap.errors import DataError, OptionError
from xpcap.prepare import CaptionRow, assemble, import_captions

# Flickr8k's layout

TOKEN, VAL, NPZ = Path("token.txt"), Path("val.txt"), Path("features.npz")


CAPTIONS = "one.jpg#0\tA dog runs .\none.jpg#1\tThe dog ran\ntwo.jpg#0\tA dog sits\n"
CAPTIONS += "three.jpg#0\tA cat — on 2 mats\nthree.jpg#1\ta dog #1\tof two\n"


@pytest.fixture
def flickr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A small data set in Flickr8k's layout, as keyword arguments of import_captions."""
    monkeypatch.chdir(tmp_path)
    TOKEN.write_text(CAPTIONS, encoding="utf-8")
    Path("train.txt").write_text("one.jpg\ntwo.jpg\n")
    VAL.write_text("three.jpg\n")
    names = np.array(["three.jpg", "two.jpg", "one.jpg"])
    np.savez(NPZ, names=names, features=np.arange(12, dtype=np.float32).reshape(3, 4))
    how = {"min_count": 2, "max_words": 5, "strict": True, "features_file": str(NPZ)}
    return {"files": [(None, "token.txt")], "lists": {"train": "train.txt", "val": VAL}, **how}


def rewrite(**arrays: Any) -> None:
    """Replace arrays of the features' file."""
    with np.load(NPZ) as old:
        np.savez(NPZ, **{**old, **arrays})


def test_captions_features_and_lists_come_together_by_name(flickr: dict[str, Any]) -> None:
    data, _ = import_captions(**flickr)
    assert data.vocabulary.idx_to_word[4:] == ["dog", "a"]  # counted in train only
    assert data.references("val") == {0: ["A cat — on 2 mats", "a dog #1\tof two"]}
    np.testing.assert_array_equal(
        data.features("train", np.array([1, 0])), [[4, 5, 6, 7], [8, 9, 10, 11]]
    )
    features, captions = data.minibatch("train", np.array([2, 0]))
    np.testing.assert_array_equal(features[:, 0], [4, 8])
    assert decode_captions(captions, data.vocabulary.idx_to_word) == [
        "<START> a dog <UNK> <END>",
        "<START> a dog <UNK> <END>",
    ]


@refusals(
    r"""
    TOKEN.write_text("one.jpg#0\tA dog\nrubbish\n") | lines of another form: 1 (line 2) | since `strict` is given
    TOKEN.write_bytes(b"one.jpg#0\t\xff\xfe") | token.txt | not UTF-8
    VAL.write_text("\n") | val.txt | is empty | at least one picture
    VAL.write_text("one.jpg\n") | 'one.jpg' | is in split 'train' and in 'val'
    rewrite(names=np.array(["x", "y", "one.jpg"])) | captioned pictures without features: 2 (two.jpg, three.jpg)
    rewrite(names=np.array(["one.jpg"])) | features | have shape (3, 4)
    rewrite(names=np.array(["one.jpg"] * 3)) | names a picture twice
    rewrite(features=np.float32([[0, 0], [0, np.nan], [0, 0]])) | 'two.jpg' | not finite
    rewrite(features=np.zeros((3, 2), int)) | dtype int64 | floats
    rewrite(features=np.zeros((3, 0), "f4")) | (3, 0) | D > 0
    np.savez(NPZ, features=np.zeros((3, 4), "f4")) | holds 'features' | 'names', 'features'
    NPZ.write_bytes(NPZ.read_bytes()[:200]) | cannot be read as .npz
    flickr.update(min_count=99) | no word | occurs 99 times | choose a smaller `min_count`
    """,
    error=DataError,
)
def test_bad_imports_name_the_thing(refusal: Refusal, flickr: dict[str, Any]) -> None:
    refusal.check(globals() | {"flickr": flickr}, "{}; import_captions(**flickr)")


@pytest.mark.parametrize("there", ["features", "pictures", "both"])
def test_a_picture_in_another_folder_than_its_caption_says_is_noted(
    there: str, flickr: dict[str, Any]
) -> None:
    TOKEN.write_text("cats/one.jpg#0\ta dog\ntwo.jpg#0\ta dog\n")
    how: dict[str, Any] = {"features_file": NPZ, "fractions": [1]}
    if there != "features":
        Path("photos").mkdir()
        Path("photos/one.jpg").write_bytes(b"")
        how["pictures"] = "photos"
    if there == "pictures":  # the features are where the caption says
        rewrite(names=np.array(["cats/one.jpg", "two.jpg", "three.jpg"]))
    _, report = import_captions(flickr["files"], **how)
    assert "names matched in another folder: 1 (cats/one.jpg is one.jpg)" in report.notices


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
    "unused.jpg": "ignored",
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
@pytest.mark.parametrize("split", ["train", "test"])
def test_words_of_few_captions_are_kept_if_they_occur_twice(
    captions: int, least: int, split: str
) -> None:
    """Of those to learn from, and without a train split of all; of a val split none counts."""
    texts = ["dog cat cow"] * (least - 1) + ["dog cat"] + ["dog"] * (captions - least)
    rows = [CaptionRow("a", text, split) for text in texts]
    rows += [CaptionRow("b", "cow", "val")] * 10 * (split == "train")
    data = assemble(rows, features={"a": [1.0], "b": [2.0]})
    assert data.vocabulary.idx_to_word[4:] == ["dog", "cat"]
    assert data.source.record["min_count"] == least


class Brightness:
    """An encoder of one's own."""

    name, shape = "brightness", (1,)

    def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        return np.array([[picture.mean()] for picture in pictures], np.float32)


def test_any_encoder_makes_the_features_and_is_remembered(tmp_path: Path) -> None:
    from PIL import Image

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


def test_features_that_name_their_encoder_are_compared_with_it_on_sixteen_pictures(
    tmp_path: Path,
) -> None:
    from PIL import Image

    greys = {f"{number:02}.png": 5.0 * number + 7 for number in range(40)}
    for name, grey in greys.items():
        Image.new("L", (8, 8), int(grey)).save(tmp_path / name)
    (tmp_path / "00.png").write_bytes(b"cannot be read")
    greys["gone.png"] = 1.0
    rows = [CaptionRow(name, "a dog", "train") for name in greys]

    def declared(factor: float = 1.0, **options: Any) -> CaptionData:
        features = {name: [grey * factor] for name, grey in greys.items()}
        return assemble(rows, **{"features": features, "encoder": Brightness(), **options})

    data = declared(1.001, pictures=tmp_path)
    assert (data.source.encoder, data.split("train").views) == ("brightness", 1)
    assert data.source.record["encoder_checked"] == 16
    assert declared().source.encoder == "brightness"
    assert declared().source.record["encoder_checked"] == 0
    with refuses(
        DataError,
        "the encoder brightness",
        "makes a feature of '02.png' that differs by 2.0%",
        "another encoder",
    ):
        declared(1.02, pictures=tmp_path)
    with refuses(DataError, "makes features of shape (1,)", "(2,)"):
        declared(features={name: [1.0, 2.0] for name in greys})


@refusals(
    """
    captions=[] | DataError | there is no caption
    captions=[CaptionRow("one.jpg", "a dog")] | DataError | 'one.jpg' | has no split
    captions=[*ROWS, CaptionRow("three.jpg", "a", "test")] | DataError | 'three.jpg' | is in split 'val' and in 'test'
    captions=[CaptionRow("one.jpg", None, "val")] | DataError | 'one.jpg' | has no caption
    captions=caption_formats.rows({"val": {"one.jpg": ["a", "..."]}}) | DataError | 'one.jpg' | has a caption without a word
    captions=SAID | TypeError | a str is among the captions | rows, each a CaptionRow
    features={"one.jpg": [1.0]} | DataError | split 'train': 1 of 2 pictures | have no features, 'two.jpg' among
    features={**FEATURES, "two.jpg": [1.0]} | DataError | the feature of 'two.jpg' | has shape (1,) | (2,)
    features={**FEATURES, "three.jpg": [1.0]} | DataError | the feature of 'three.jpg' | has shape (1,) | (2,)
    features={**FEATURES, "one.jpg": ["a", "b"]} | DataError | the feature of 'one.jpg' | numbers
    features={**FEATURES, "three.jpg": [1.0, np.inf]} | DataError | 'three.jpg' | not finite
    pictures="nowhere" | DataError | nowhere | is not a folder
    captions=[CaptionRow("../one.jpg", "a dog", "val")], pictures="." | DataError | '../one.jpg' | would be outside
    min_count=9 | DataError | no word | occurs 9 times
    source={"encoder": "mine"} | OptionError | record | holds 'encoder'
    """
)
def test_parts_that_do_not_fit_are_named(refusal: Refusal) -> None:
    names = {**globals(), "parts": {"captions": ROWS, "features": FEATURES, "min_count": 1}}
    refusal.check(names, "assemble(**{{**parts, **dict({})}})")


def test_rows_may_come_in_any_order() -> None:
    one, also_one, two, three = ROWS
    mixed = assemble([three, also_one, two, one], features=FEATURES, min_count=1)
    assert [*mixed.splits] == ["val", "train"]
    assert mixed.split("train").images == ["one.jpg", "two.jpg"]
    assert mixed.split("train").image_idxs.tolist() == [0, 1, 0]
    assert mixed.texts("train") == ["A dog!", "a cat", "a dog"]


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
    ("--fractions 1,-1,1", {"fractions": [1, -1, 1]}, "fractions", "together 1"),
    ("--fractions 0.25,0.25,0.25,0.25", {"fractions": [0.25] * 4}, "fractions", "together 1"),
    ("--fractions a,b", {"fractions": "a,b"}, "fractions", "together 1"),
    ("--split a", {"lists": ["a"]}, "lists", "NAME=LIST"),
    ("--split 1=x", {"lists": {"1": "x"}}, "lists", "NAME=LIST"),
    ("--split a=x --split a=y", {"lists": "a"}, "lists", "each split once"),
    ("--split val=x --split dev=y", {"lists": {"val": "x", "dev": "y"}}, "lists", "dev is another name of val"),
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
    with refuses(OptionError, thing) as caught:
        import_captions([("train", "c.csv")], **given)
    assert words in str(caught.value)
    if not {*options} & {"lists", "fractions", "seed", "features", "features_file"}:
        thing = thing.replace("features_file", "features")
        with refuses(OptionError, thing) as caught:
            assemble([CaptionRow("a.png", "a dog", "train")], **given)
        assert words in str(caught.value)
    if line:
        command = f"prepare c.csv --pictures . --encoder mine --out own.h5 {line}".split()
        failing(command, line.split()[0], status=2)
