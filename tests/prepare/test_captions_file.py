"""Captions from a JSON file: the forms and the names of pictures that it may have."""

import json
from pathlib import Path
from typing import Any

import pytest
from refusals import FIELDS, refuses

from xpcap.errors import DataError
from xpcap.prepare.captions_file import read_captions_json

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
        dict(
            zip(("/home/photos/dog 01.jpg", f"C:\\coco\\{NAMES[1]}", "my/x_7"), "abc", strict=True)
        ),
    ],
)
def test_a_file_may_tell_pictures_in_several_ways(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "said.json"
    path.write_text(json.dumps(content))
    assert read_captions_json(path, NAMES) == (SAID, 0)


# fmt: off
REFUSED = {  # content, thing, came, expected
    "one name of two": ('{"a/1.jpg": "x", "b/1.jpg": "y", "1.jpg": "z"}', "'1.jpg'",
        "may be 'a/1.jpg' or 'b/1.jpg'", "names that fit one picture"),
    "two captions": ('[{"image": "a/1.jpg", "caption": "x"}, {"image": "a/1.jpg", "caption": "y"}]', "",
        "has two captions of 'a/1.jpg'", "one"),
    "a list": ('{"a/1.jpg": ["x"]}', "['a/1.jpg']", "is a list", "text"),
    "a name of truth": ('[{"image": true, "caption": "x"}]', "[0].image", "is True", "text or a whole number"),
    "no caption": ('[{"image": "x"}]', "[0].caption", "is missing", "text"),
    "no name": ('[{"caption": "x"}]', "[0]", "has none of the keys image, image_id, file_name", "one"),
    "half a character": (r'{"a/1.jpg": "a \ud83d"}', "['a/1.jpg']", "half of a surrogate pair", "whole"),
    "a number in a list": ("[3]", "[0]", "is 3", "an object"),
    "a number": ("3", "", "is 3", "an object or a list"),
    "one key twice": ('{"a/1.jpg": "a", "b/1.jpg": "b", "a/1.jpg": "c"}', "", "has the key 'a/1.jpg' twice", "each key once"),
    "cut short": ("{", "", "is not whole JSON", ""),
}
# fmt: on


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_tells_no_captions_is_refused(name: str, tmp_path: Path) -> None:
    content, *fields = REFUSED[name]
    (tmp_path / "said.json").write_text(content)
    wrong = dict(zip(FIELDS[1:], fields, strict=False))
    with refuses(DataError, function="read_captions_json", **wrong):
        read_captions_json(tmp_path / "said.json", ["a/1.jpg", "b/1.jpg"])
