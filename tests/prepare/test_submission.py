"""Captions from a file: the forms and the names of pictures that it may have."""

import json
from pathlib import Path
from typing import Any

import pytest
from refusals import Refusal, refusals

from xpcap.errors import DataError
from xpcap.prepare.submission import read_submission

NAMES = ["photos/dog 01.jpg", "COCO_val2014_000000000042.jpg", "http://a.org/x_7.png"]
SAID = dict(zip(NAMES, "abc", strict=True))


def entries(key: str, *names: str | int) -> list[dict[str, Any]]:
    return [{key: name, "caption": text} for name, text in zip(names, "abc", strict=True)]


@pytest.mark.parametrize(
    "content",
    [
        SAID,
        {"captions": SAID, "scores": {}},
        entries("image", "dog 01.jpg", "42", "x_7"),
        [{**entry, "id": 99} for entry in entries("image_id", 1, 42, 7)],
        entries("file_name", *NAMES),
        dict(zip(("/home/photos/dog 01.jpg", f"C:\\coco\\{NAMES[1]}", "x_7"), "abc", strict=True)),
    ],
)
def test_a_file_may_tell_pictures_in_several_ways(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "said.json"
    path.write_text(json.dumps(content))
    assert read_submission(path, NAMES) == (SAID, {})


def test_a_caption_goes_to_the_picture_that_its_name_surely_means_or_to_none(
    tmp_path: Path,
) -> None:
    path = tmp_path / "said.json"
    said = {
        "dogs/1.jpg": "a dog",
        "cats/1.jpg": "a cat",
        "2.jpg": "?",
        "C:/b/3.jpg": "?",
        "3.jpg": "an owl",
    }
    path.write_text(json.dumps(said))
    found = read_submission(path, ["cats/1.jpg", "a/2.jpg", "b/2.jpg", "3.jpg"])
    assert found.captions == {"cats/1.jpg": "a cat", "3.jpg": "an owl"}
    assert found.unmatched == {
        "dogs/1.jpg": "did you mean cats/1.jpg?",
        "2.jpg": "may be a/2.jpg or b/2.jpg",
        "C:/b/3.jpg": "may be 3.jpg, which 3.jpg names as well",
    }


@refusals(
    r"""
    {"a/1.jpg": "x", "A/1.JPG": "y"} | has two captions of 'a/1.jpg' | one
    [{"image": "a/1.jpg", "caption": "x"}, {"image": "a/1.jpg", "caption": "y"}] | has two captions of 'a/1.jpg' | one
    {"a/1.jpg": ["x"]} | ['a/1.jpg'] | is a list | text
    [{"image": true, "caption": "x"}] | [0].image | is True | text or a whole number
    [{"image": "x"}] | [0].caption | is missing | text
    [{"caption": "x"}] | [0] | has none of the keys image, image_id, file_name | one
    {"a/1.jpg": "a \ud83d"} | ['a/1.jpg'] | half of a surrogate pair | whole
    [3] | [0] | is 3 | an object
    3 | has no known format
    {"a/1.jpg": "a", "b/1.jpg": "b", "a/1.jpg": "c"} | has the key 'a/1.jpg' twice | each key once
    { | is not valid JSON
    """,
    error=DataError,
)
def test_a_file_that_tells_no_captions_is_refused(refusal: Refusal, tmp_path: Path) -> None:
    def read(content: str) -> None:
        (tmp_path / "said.json").write_text(content)
        read_submission(tmp_path / "said.json", ["a/1.jpg", "b/1.jpg"])

    refusal.check({"read": read}, "read({!r})")
