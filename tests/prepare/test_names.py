"""Names of pictures and what they mean: a file, a feature, nothing for sure."""

import unicodedata
from pathlib import Path

import pytest

from xpcap.prepare.names import MOVED, NUMBERED, SPELT, Matches, NameIndex, PictureFolder

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Übung am See.jpg") for form in ("NFC", "NFD"))


def look_up(folder: Path, names: str, files: str) -> Matches:
    """Names, with "{folder}" for the folder, among its files; both divided by bars."""
    for file in files.split("|"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"")
    found = PictureFolder(folder)
    index = NameIndex([*found.pictures, *found.others], folder)
    return index.match(names.replace("{folder}", str(folder)).split("|"))


# one name, the files, the file that it means, and how loosely; then: among features, too?
ONE = [
    ("a/1.jpg", "a/1.jpg|1.jpg", "a/1.jpg", "", True),
    ("./a//1.jpg", "a/1.jpg|b/1.jpg", "a/1.jpg", "", True),
    (r".\a\1.jpg", "a/1.jpg|b/1.jpg", "a/1.jpg", "", True),
    ("{folder}/a/1.jpg", "a/1.jpg|b/1.jpg", "a/1.jpg", "", False),
    ("../photos/1.jpg", "1.jpg|photos/1.jpg", "1.jpg", "", False),
    ("photos/1.jpg", "1.jpg|a/1.jpg", "1.jpg", "", False),
    ("x/../1.jpg", "1.jpg|x/1.jpg", "1.jpg", "", True),
    (".hidden/1.jpg", ".hidden/1.jpg|1.jpg", ".hidden/1.jpg", "", False),
    ("1.jpg", "a/b/1.jpg|2.jpg", "a/b/1.jpg", "", True),
    ("1.jpg", "1.jpg|a/1.jpg", "1.jpg", "", True),
    ("IMG_1.JPG", "img_1.jpg|thumbs/img_1.jpg", "img_1.jpg", SPELT, True),
    ("a/IMG_1.JPG", "2023/A/img_1.jpg|img_1.jpg", "2023/A/img_1.jpg", SPELT, True),
    (COMPOSED, DECOMPOSED, DECOMPOSED, SPELT, True),
    (COMPOSED.upper(), f"2023/{DECOMPOSED}", f"2023/{DECOMPOSED}", SPELT, True),
    ("2/a.JPG", "1/a.jpg|2/a.jpg", "2/a.jpg", SPELT, True),
    ("31_75109e", "31_75109e.jpg|31.jpg", "31_75109e.jpg", SPELT, True),
    ("a/31_75109E", "x/a/31_75109e.jpg", "x/a/31_75109e.jpg", SPELT, True),
    (r"C:\pictures\a\1.jpg", "a/1.jpg|1.jpg", "a/1.jpg", MOVED, True),
    ("/elsewhere/1.jpg", "1.jpg|a/1.jpg", "1.jpg", MOVED, True),
    ("my/x_7", "x_7.png", "x_7.png", MOVED, True),
    ("139", "COCO_val2014_000000000139.jpg|film.mp139", "COCO_val2014_000000000139.jpg", NUMBERED, True),
    ("old/1.jpg", "a/1.jpg|a/2.jpg", "a/1.jpg", MOVED, False),
    ("IMG_1.heic", "a/IMG_1.JPG|IMG_1.CR2", "a/IMG_1.JPG", SPELT, False),
    ("IMG_1.CR2", "IMG_1.CR2|IMG_1.jpg", "IMG_1.CR2", "", True),
]  # fmt: skip


@pytest.mark.parametrize(("name", "files", "file", "note", "anywhere"), ONE)
def test_a_name_means_the_file_that_it_leads_to_or_the_one_that_is_written_nearly_so(
    name: str, files: str, file: str, note: str, anywhere: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    named = name.replace("{folder}", str(folder))
    match = {named: file}, {note: [named]} if note else {}, {}
    assert look_up(folder, name, files) == match
    if anywhere:
        assert NameIndex(files.split("|")).match([named]) == match


# several names, the files, the names that match, and remarks on the others
SEVERAL = [
    ("1.jpg", "a/1.jpg|b/1.jpg", "", "1.jpg (may be a/1.jpg or b/1.jpg)"),
    ("a.JPG", "1/a.jpg|2/A.jpg", "", "a.JPG (may be 1/a.jpg or 2/A.jpg)"),
    ("a.heic", "a.jpg|a.png", "", "a.heic (may be a.jpg or a.png)"),
    ("7", "x_07.jpg|y7.jpg", "", "7 (may be x_07.jpg or y7.jpg)"),
    ("x/1.jpg|1.jpg|X/1.JPG", "x/1.jpg", "x/1.jpg|1.jpg|X/1.JPG", ""),
    ("a.PNG|a.png", "a.png", "a.PNG|a.png", ""),
    (r"C:\p\1.jpg|C:/P/1.jpg", "1.jpg", r"C:\p\1.jpg|C:/P/1.jpg", ""),
    ("cats/1.jpg|dogs/1.jpg", "cats/1.jpg", "cats/1.jpg",
     "dogs/1.jpg (may be cats/1.jpg, which cats/1.jpg names as well)"),
    ("x/1.jpg|y/1.jpg", "1.jpg", "", "x/1.jpg (may be 1.jpg, which y/1.jpg names as well)|"
     "y/1.jpg (may be 1.jpg, which x/1.jpg names as well)"),
    ("dogs/1.jpg", "cats/1.jpg|dogs/2.jpg", "", "dogs/1.jpg (did you mean cats/1.jpg?)"),
    ("/b/dogs/1.jpg", "1.jpg|dogs/film.mp4", "", "/b/dogs/1.jpg (did you mean 1.jpg?)"),
    ("a\udcff.jpg", "a.jpg", "", "a\udcff.jpg (is not UTF-8 text)"),
    ("IMG_1.jpg", "IMG_1.CR2", "", "IMG_1.jpg ()"),
    ("../secret.jpg|/etc/passwd", "1.jpg", "", "../secret.jpg ()|/etc/passwd ()"),
]  # fmt: skip


@pytest.mark.parametrize(("names", "files", "matched", "remarks"), SEVERAL)
def test_of_two_that_a_name_may_mean_and_of_two_names_for_one_none_is_guessed(
    names: str, files: str, matched: str, remarks: str, tmp_path: Path
) -> None:
    matches = look_up(tmp_path / "photos", names, files)
    assert "|".join(matches.matches) == matched
    assert "|".join(f"{name} ({remark})" for name, remark in matches.unmatched.items()) == remarks


def test_a_feature_of_another_folder_is_another_picture() -> None:
    assert NameIndex(["cats/1.jpg"]).match(["dogs/1.jpg"]).matches == {}
    assert NameIndex(["1.jpg"]).match(["1.heic"]).matches == {}
    assert NameIndex(["a\ud800.jpg"]).match(["a.jpg"]).unmatched == {"a.jpg": ""}
    both = ["a\\1.jpg", "a/1.jpg"]  # of which the first is no file on Windows
    assert NameIndex(both).match(both).matches == dict(zip(both, both, strict=True))


@pytest.mark.parametrize(
    ("name", "file", "near"),
    [
        ("IMG 1.jpg", "IMG_1.jpg", True),
        ("img-1", "2023/May/IMG_1.jpg", True),
        ("Ubung am See.jpg", DECOMPOSED, True),
        ("Uebung am See.jpg", COMPOSED, True),
        ("sunset at the baech.jpg", "sunset at the beach.jpg", True),
        ("IMG_1234.jpg", "IMG_1235.jpg", False),
        ("IMG_12.jpg", "IMG_1.jpg", False),
        ("dog.jpg", "cat.jpg", False),
        ("a.jpg", "b.jpg", False),
        (".jpg", "_.jpg", False),
    ],
)
def test_nearly_the_name_of_a_picture_is_suggested_and_no_other_number_or_word(
    name: str, file: str, near: bool, tmp_path: Path
) -> None:
    remark = f"did you mean {file}?" if near else ""
    assert look_up(tmp_path, name, f"{file}|other.jpg") == Matches({}, {}, {name: remark})
