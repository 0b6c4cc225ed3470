"""Names of captioned pictures and the files that they mean: found, taken for one that is spelt
alike, or suggested.
"""

import unicodedata
from pathlib import Path

import pytest

from xpcap.prepare.names import Matches, PictureFolder, match_names

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Übung am See.jpg") for form in ("NFC", "NFD"))


def look_up(folder: Path, names: list[str], *files: str) -> Matches:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"")
    return match_names("test", names, PictureFolder("test", folder))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("IMG_1.JPG", "img_1.jpg"),
        ("img_1.jpg", "IMG_1.JPG"),
        ("img_1.jpg", "2023/May/IMG_1.JPG"),
        ("Photos/IMG_1.jpg", "IMG_1.JPG"),
        (COMPOSED, DECOMPOSED),
        (DECOMPOSED, f"2023/{COMPOSED}"),
        (COMPOSED.upper(), DECOMPOSED),
    ],
)
def test_a_name_in_other_capitals_or_another_form_of_unicode_is_the_one_picture_spelt_so(
    name: str, file: str, tmp_path: Path
) -> None:
    matches = look_up(tmp_path, [name], file, "other.jpg")
    moved = [name] if "/" in name else []
    assert matches == Matches({name: file}, moved, [name], {})
    assert match_names("test", [name], {file, "other.jpg"}).matches == {
        name: file
    }  # among names of features too


@pytest.mark.parametrize(
    ("names", "files", "found"),
    [
        (["a.JPG"], ["1/a.jpg", "2/A.jpg"], {}),  # two pictures are spelt so
        (["a.JPG", "A.jpg"], ["a.jpg"], {}),  # two names spell it
        (["a.JPG", "a.jpg"], ["a.jpg"], {"a.jpg": "a.jpg"}),  # another name has it
        (
            ["2/a.JPG"],
            ["1/a.jpg", "2/a.jpg"],
            {"2/a.JPG": "2/a.jpg"},
        ),  # the folder tells them apart
    ],
)
def test_a_name_that_could_mean_another_is_not_taken_for_a_picture(
    names: list[str], files: list[str], found: dict[str, str], tmp_path: Path
) -> None:
    matches = look_up(tmp_path, names, *files)
    assert matches.matches == found
    assert set(matches.suggestions) == set(names) - set(found)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("3139160252_75109e9e05", "3139160252_75109e9e05.jpg"),
        ("IMG_1.jpeg", "IMG_1.jpg"),
        ("IMG_1.heic", "IMG_1.JPG"),
        ("IMG 1.jpg", "IMG_1.jpg"),
        ("img-1", "2023/May/IMG_1.jpg"),
        ("139", "000000000139.jpg"),  # a spreadsheet takes zeros away
        ("Ubung am See.jpg", DECOMPOSED),
        ("Uebung am See.jpg", COMPOSED),
        ("sunset at the baech.jpg", "sunset at the beach.jpg"),
        ("two.jpg", "1/two.jpg"),
    ],
)
def test_nearly_the_name_of_a_picture_is_suggested(name: str, file: str, tmp_path: Path) -> None:
    matches = look_up(
        tmp_path, [name], file, *(["2/two.jpg"] if name == "two.jpg" else ["other.jpg"])
    )
    assert (matches.matches, list(matches.suggestions)) == ({}, [name])
    assert matches.suggestions[name].startswith(file)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("IMG_1234.jpg", "IMG_1235.jpg"),
        ("IMG_12.jpg", "IMG_1.jpg"),
        ("dog.jpg", "cat.jpg"),
        ("a.jpg", "b.jpg"),
        (".jpg", "_.jpg"),
    ],
)
def test_another_number_or_another_word_is_another_picture(
    name: str, file: str, tmp_path: Path
) -> None:
    assert look_up(tmp_path, [name], file) == Matches({}, [], [], {})


def test_a_camera_s_raw_file_is_not_suggested(tmp_path: Path) -> None:
    assert look_up(tmp_path, ["IMG_1.jpg"], "IMG_1.CR2").suggestions == {}


def test_of_files_with_a_name_in_folders_inside_the_highest_is_meant_if_it_is_alone(
    tmp_path: Path,
) -> None:
    files = (
        "1/a.jpg",
        "old/copies/a.jpg",
        "new/copies/a.jpg",
        "x/y/z/b.jpg",
        ".hidden/c.jpg",
        "1/2/d.jpg",
        "3/4/d.jpg",
    )
    assert look_up(tmp_path, ["a.jpg", "b.jpg", "c.jpg", "d.jpg"], *files).matches == {
        "a.jpg": "1/a.jpg",
        "b.jpg": "x/y/z/b.jpg",
    }


@pytest.mark.parametrize(
    ("name", "file", "moved"),
    [
        ("cats/1.jpg", "1.jpg", True),
        ("cats/1.jpg", "dogs/1.jpg", True),
        ("cats/1.jpg", "old/cats/1.jpg", False),
        ("1.jpg", "cats/1.jpg", False),  # it names no folder
        ("photos/1.jpg", "1.jpg", False),  # the folder that was given
        ("cats\\1.jpg", "dogs/1.jpg", True),
        ("photos\\cats\\1.jpg", "cats/1.jpg", False),
    ],
)
def test_a_picture_in_another_folder_than_its_name_says_is_taken_and_told(
    name: str, file: str, moved: bool, tmp_path: Path
) -> None:
    matches = look_up(tmp_path / "photos", [name], file)
    assert (matches.matches, matches.moved) == ({name: file}, [name] * moved)
