"""Captions from a JSON file: the forms and the names of pictures that it may have."""

import json
from pathlib import Path
from typing import Any

import pytest
from refusals import refuses

from xpcap.errors import DataError
from xpcap.prepare.captions_file import read_captions_json

NAMES = ["photos/dog 01.jpg", "COCO_val2014_000000000042.jpg", "http://a.org/x_7.png"]


@pytest.mark.parametrize(
    "content",
    [
        dict(zip(NAMES, "abc", strict=True)),
        {"captions": dict(zip(NAMES, "abc", strict=True)), "scores": {}},
        [
            {"image": "dog 01.jpg", "caption": "a"},
            {"image": "42", "caption": "b"},
            {"image": "x_7", "caption": "c"},
        ],
        [
            {"image_id": 1, "caption": "a"},
            {"image_id": 42, "caption": "b"},
            {"image_id": 7, "caption": "c", "id": 99},
        ],
        [
            {"file_name": name, "caption": caption}
            for name, caption in zip(NAMES, "abc", strict=True)
        ],
        {
            "/home/me/photos/dog 01.jpg": "a",
            "C:\\coco\\COCO_val2014_000000000042.jpg": "b",
            "my/x_7": "c",
        },
    ],
)
def test_a_file_may_tell_pictures_in_several_ways(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "said.json"
    path.write_text(json.dumps(content))
    assert read_captions_json(path, NAMES) == (dict(zip(NAMES, "abc", strict=True)), 0)


@pytest.mark.parametrize(
    ("content", "thing", "came", "expected"),
    [
        (
            '{"a/1.jpg": "x", "b/1.jpg": "y", "1.jpg": "z"}',
            "'1.jpg'",
            "may be 'a/1.jpg' or 'b/1.jpg'",
            "names that fit one picture",
        ),
        (
            '[{"image": "a/1.jpg", "caption": "x"}, {"image": "a/1.jpg", "caption": "y"}]',
            "",
            "has two captions of 'a/1.jpg'",
            "one",
        ),
        ('{"a/1.jpg": ["x"]}', "['a/1.jpg']", "is a list", "text"),
        (
            '[{"image": true, "caption": "x"}]',
            "[0].image",
            "is True",
            "text or a whole number",
        ),
        (
            '[{"image": "x"}]',
            "[0].caption",
            "is missing",
            "text",
        ),
        (
            r'{"a/1.jpg": "a \ud83d"}',
            "['a/1.jpg']",
            "half of a surrogate pair",
            "",
        ),
        ("[3]", "[0]", "is 3", "an object"),
        ('[{"caption": "x"}]', "[0]", "none of the keys image, image_id, file_name", "one"),
        ("3", "", "is 3", "an object or a list"),
        ("{", "", "is not whole JSON", ""),
    ],
)
def test_a_file_that_tells_no_captions_is_refused(
    content: str, thing: str, came: str, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "said.json"
    path.write_text(content)
    with refuses(
        DataError, function="read_captions_json", thing=thing, came=came, expected=expected
    ):
        read_captions_json(path, ["a/1.jpg", "b/1.jpg"])
