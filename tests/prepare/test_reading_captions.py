"""Files of captions of every form: found by looking, read alike, split by picture; what does not
fit is counted, or refused.
"""

import csv
import errno
import io
import itertools
import json
import os
import shutil
import sys
import unicodedata
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from caption_formats import FORMATS, by_picture, by_split, coco, json_list, karpathy, table
from commands import answer, call, failing, good
from programs import program
from refusals import Refusal, refusals, refuses

from xpcap.data import open_data
from xpcap.encoders.pictures import formats
from xpcap.errors import DataError
from xpcap.prepare import (
    CaptionRow,
    Columns,
    ImportReport,
    assemble,
    import_captions,
    read_captions,
)

SAID = {
    "one.jpg": ["A dog, a cat; and more .", 'The dog says "woof" loudly', "the dog"],
    "two.jpg": ["a cat's 2nd dog", "Ein Hund läuft — schnell"],
    "three.jpg": ['"Quoted" from the start, a cat', "the same", "the same"],
}
LISTS = {"train": ["one.jpg", "two.jpg"], "val": ["three.jpg"]}
BY_LISTS = "--split train=train.txt --split val=val.txt"


@pytest.fixture(autouse=True)
def small_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features and lists for SAID in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    features(dict(zip(SAID, np.arange(12).reshape(3, 4), strict=True)))
    for split, names in LISTS.items():
        write(f"{split}.txt", "\n".join(names))


def features(rows: dict[str, Any]) -> None:
    values = np.array(list(rows.values()), np.float32)
    np.savez("features.npz", names=list(rows), features=values)


def write(name: str, content: bytes | str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(content: bytes | str, **how: Any) -> Any:
    """Captions by picture, or by split and picture; the name of the file says nothing."""
    return by_name(read_captions([(None, write("captions", content))], **how))


def by_name(rows: Sequence[CaptionRow]) -> Any:
    return by_picture(rows) if all(row.split is None for row in rows) else by_split(rows)


def prepare(line: str, *more: object) -> list[str]:
    """Lines of the command, which makes own.h5 with features.npz unless `line` has pictures."""
    origin = "" if "--pictures" in line else "--features features.npz --min-count 1 "
    return good(*f"prepare {origin}--out own.h5 {line}".split(), *more).output.splitlines()


# every form


def test_the_same_captions_are_the_same_data_whatever_their_form() -> None:
    splits = {split: {name: SAID[name] for name in names} for split, names in LISTS.items()}
    lists = {split: f"{split}.txt" for split in LISTS}
    plain = ("lines NAME#K", "Kaggle's", "JSON lines")
    forms: list[tuple[Any, Any]] = [
        *(([(None, write(form, FORMATS[form](SAID)))], lists) for form in plain),
        ([(None, write("k", karpathy(splits)))], None),
        ([(split, write(split, coco(said))) for split, said in splits.items()], None),
    ]
    how: dict[str, Any] = {"features_file": "features.npz", "min_count": 1}
    first, *others = [import_captions(files, lists=lists, **how)[0] for files, lists in forms]
    for data in others:
        assert data.vocabulary.idx_to_word == first.vocabulary.idx_to_word
        assert data.source != first.source
        for name, split in first.splits.items():
            np.testing.assert_array_equal(data.split(name).captions, split.captions)
            np.testing.assert_array_equal(data.split(name).features, split.features)
            assert data.split(name).images == split.images
            assert data.texts(name) == first.texts(name)


def test_a_caption_is_one_line_and_it_and_a_heading_may_be_of_a_million_characters() -> None:
    """An expression of quadratic time would take hours."""
    rows = [{"image": name, "caption": f"a{' ' * 10**6}dog\n  runs"} for name in SAID]
    write("long.json", json.dumps(rows))
    data, _ = import_captions([("train", "long.json")], features_file="features.npz", min_count=1)
    assert data.texts("train") == [f"a{' ' * 10**6}dog runs"] * 3
    write("long.json", json.dumps([{"1" * 10**6 + "a": "one.jpg", "b": "a dog runs"}]))
    with refuses(DataError, "has the columns"):
        read_captions([(None, "long.json")])


def coco_with(**more: Any) -> str:
    """The captions as COCO's, with more at the end of a list."""
    content = json.loads(coco(SAID))
    return json.dumps(content | {key: content[key] + rows for key, rows in more.items()})


def images(*rows: dict[str, Any], **more: Any) -> str:
    return json.dumps({"images": rows, **more})


B, NULL = [{"raw": "b"}], {"image": "c", "caption": "d", "split": None}
# fmt: off
AS_MEANT: list[tuple[str, Any, str]] = [  # text, captions, report
    ("caption,file,split\na dog,a.jpg,test,,\n", {"test": {"a.jpg": ["a dog"]}}, ""),
    ('image|caption\na.jpg|"A dog" runs\n', {"a.jpg": ['"A dog" runs']}, ""),
    ('image,caption\r\na.jpg,"A dog, who said ""woof""\r\n  and ran"\r\nb.jpg,A dog, not quoted\r\n\r\nb.jpg, "spaced, too"\r\n',
        {"a.jpg": ['A dog, who said "woof"\n  and ran'], "b.jpg": ["A dog, not quoted", "spaced, too"]}, ""),
    (",image,caption\n7,a.jpg,a dog\n", {"a.jpg": ["a dog"]}, "columns that are not used: number 1"),  # of pandas
    ("\n\nsep=;\n\nimage;caption\na.jpg;a, b\n", {"a.jpg": ["a, b"]}, ""),
    # a space around a name is no part of it
    (" a.jpg#0\tb\na.jpg #0\tc\n", {"a.jpg": ["b"]}, "repeated lines of one NAME#K: 1 (line 2)"),
    ("a.jpg#0\t...\na.jpg#0\tb\n", {"a.jpg": ["...", "b"]}, ""),
    ("image,caption,comment_number\n a,b,0\na,c,0\n", {"a": ["b"]}, "repeated captions of one number: 1 (a 0)"),
    ('{"image": " a.jpg", "caption": " b"}\n', {"a.jpg": ["b"]}, ""),
    (images({"id": 1, "file_name": "a "}, {"id": 2, "file_name": " a"}, annotations=[{"image_id": 1, "caption": "b"}]),
        {"a": ["b"]}, "images with the name of another: 1 (a)"),
    (images({"filename": " a", "sentences": B}, {"filename": "a", "sentences": B}), {"a": ["b"]},
        "images with the name of another: 1 (a)"),
    # null is an empty cell
    (json.dumps([{**NULL, "split": "val"}, NULL]), {"val": {"c": ["d"]}},
        "rows without a split: 1 (row 2)"),
    (json.dumps([{**NULL, "image": None, "split": "val"}, {**NULL, "caption": None, "split": "val"}]),
        {"val": {"c": [""]}}, "rows without a picture: 1 (row 1)"),
    (images({"filename": "a", "split": "val", "sentences": B}, {"filename": "c", "split": None, "sentences": B}),
        {"val": {"a": ["b"]}}, "rows without a split: 1 (image 2)"),
    # several columns of captions
    ("image;caption;caption2;note\na.jpg;b;c;d\n", {"a.jpg": ["b", "c"]}, "columns that are not used: note"),
    ("image,caption,caption\na.jpg,b,c\n", {"a.jpg": ["b", "c"]}, ""),
    ("image,Caption 1,caption_2\na.jpg,, c\nd.jpg,b,c,d\ne.jpg,,\n", {"a.jpg": ["c"], "e.jpg": [""]},
        "rows without 3 columns: 1 (line 3)"),
    ('{"image": "a", "caption": "b"}\n{"image": "a", "caption": null, "caption 2": ["c", "d"]}\n',
        {"a": ["b", "c", "d"]}, ""),
    ('{" 42": "a dog", "43": ["a", "b"], "44": [], "45": null, "": "c"}',
        {"42": ["a dog"], "43": ["a", "b"], "44": [], "45": [""]}, "rows without a picture: 1 (entry 5)"),
    # lists in cells, as JSON, Python and NumPy print them
    ('image;caption\na;["b", "c \\ud83d\\ude00"]\nd;[\'e\', "f\'s", \'g\\n\\xfc\']\nh;[\'i\' "j"]\n',
        {"a": ["b", "c 😀"], "d": ["e", "f's", "g\nü"], "h": ["i", "j"]}, ""),
    ("image;caption;caption 2\na;['b', ''];c\nd;[];['e',]\n", {"a": ["b", "c"], "d": ["[]", "e"]}, ""),
    ('image|caption\na|["b", 7]\nc|["d" runs]\ne|[\'It\'\'s\']\nf|["\\ud800"]\ng|[\'\\x4\']\nh|[a dog]\ni|["a\n',
        {"h": ["[a dog]"]}, "rows with a list of captions that cannot be read: 6 (line 2, line 3, line 4, ...)"),
    # as line 19,999 of Flickr30k, where a pipe is missing
    ("image_name| comment_number| comment\na.jpg| 0| A \"dog\" runs .\na.jpg| 1   A dog\na.jpg| 2| a | b\na.jpg| 2| c\n",
        {"a.jpg": ['A "dog" runs .', "a | b"]}, "rows without 3 columns: 1 (line 3); repeated captions of one number: 1 (a.jpg 2)"),
    (b"a.jpg#0\tb\nrubbish\n", {"a.jpg": ["b"]}, "lines of another form: 1 (line 2)"),
    (json_list({"": ["a dog", "a cat"], "a": ["b"]}), {"a": ["b"]}, "rows without a picture: 1 (row 1)"),
    # COCO's and Karpathy's
    (coco_with(annotations=[{"image_id": 1, "caption": "a"}]), SAID, "captions of no image: 1 (image_id 1)"),
    (coco_with(annotations=[{"image_id": 0, "id": 0, "caption": "a"}]), SAID, "annotations with the id of another: 1 (0)"),
    (coco_with(images=[{"id": 0, "file_name": "four.jpg"}]), SAID, "images with the id of another: 1 (0)"),
    (karpathy({"train": {"a": ["a"]}, "restval": {"b": ["b"]}, "test": {"c": ["c"]}}),
        {"train": {"a": ["a"], "b": ["b"]}, "test": {"c": ["c"]}}, "restval joins train: 1 pictures"),
    # columns that are named
    ("id;Foto;de;en;teil\n1;a.jpg;Ein Hund;a dog;Training\n2;b.jpg;Eine Katze;a cat;dev\n",
        {"train": {"a.jpg": ["a dog"]}, "val": {"b.jpg": ["a cat"]}}, "columns that are not used: id, de"),
    # a number names a picture
    ('[{"image_id": 42, "caption": "b"}, {"image_id": 0, "caption": []}]', {"42": ["b"], "0": []}, ""),
]
# fmt: on


@pytest.mark.parametrize(("text", "said", "report"), AS_MEANT)
def test_a_file_is_read_as_people_mean_it(text: Any, said: Any, report: str) -> None:
    found = ImportReport()
    columns = Columns(image="foto", caption="en", split="teil") if "Foto" in str(text) else None
    assert read(text, columns=columns, report=found) == said
    assert "; ".join([*found.lines(), *found.notices]) == report


@refusals(
    """
    columns=Columns(image="photo", caption="en") | DataError | columns 'Foto', 'en' | one such as photo for pictures
    columns=Columns(image="Foto", caption="en", split="teil") | DataError | columns 'Foto', 'en' | and teil for splits
    columns={"caption": "en"} | OptionError | `columns` | Columns(image=
    columns=Columns(image="Foto", caption=[]) | OptionError | caption | is []
    columns=Columns(image="Foto", caption=["en", 7]) | OptionError | caption | 'en', 7]
    content='{"a.jpg": ["A dog."]}', columns=Columns(image="image") | DataError | without columns | a table
    content="a.jpg#0\\tA dog.", columns=Columns(image="image") | DataError | without columns
    encoding="cp125" | OptionError | encoding | is 'cp125' | a text encoding, as in cp1252
    encoding="hex" | OptionError | encoding | is 'hex'
    encoding=7 | OptionError | encoding | is 7
    """
)
def test_columns_and_encodings_that_there_are_not_are_refused(refusal: Refusal) -> None:
    table = "'content': 'Foto;en\\na.jpg;a dog\\n'"
    refusal.check(globals(), f"read(**{{{{{table}, **dict({{}})}}}})")


def test_columns_of_captions_may_be_named_and_those_that_are_not_used_are_told_once() -> None:
    text = "Nr;Datei;de;en;\n1;a.jpg;Ein Hund;a dog;\n2;b.jpg;;a cat;\n"
    files = [(None, write(name, text)) for name in ("one.csv", "two.csv")]
    report, chosen = ImportReport(), Columns(image="Datei", caption=["en", "DE"])
    said = by_name(read_captions(files, columns=chosen, report=report))
    assert said == {"a.jpg": ["a dog", "Ein Hund"] * 2, "b.jpg": ["a cat"] * 2}
    assert report.notices == ["columns that are not used: Nr, number 5"]
    line = "train=one.csv --features features.npz --out own.h5 --image-column Datei"
    failing(
        ["prepare", *line.split(), "--caption-column", "de,en"],
        "expected one such as Datei for pictures and one such as de,en for captions",
        "give --caption-column once for each column of captions",
    )


def test_a_plain_csv_of_excel_needs_one_word_and_a_byte_order_mark_decides() -> None:
    text = "image;caption\r\none.jpg;Ein Mädchen\r\ntwo.jpg;Ein Hund läuft\r\n"
    paths = [write(f"{name}.csv", text.encode(name)) for name in ("cp1252", "utf-16", "utf-8-sig")]
    words = "line 2", "give --encoding cp1252 if Excel wrote it as plain CSV"
    failing("prepare train=cp1252.csv --features features.npz --out own.h5".split(), *words)
    assert read(paths[1].read_bytes()) == read(paths[2].read_bytes())
    rows = read_captions([(None, path) for path in paths], encoding="cp1252")
    assert by_name(rows)["one.jpg"] == ["Ein Mädchen"] * 3
    prepare("train=cp1252.csv --encoding cp1252")
    assert open_data("own.h5").texts("train")[0] == "Ein Mädchen"
    with refuses(DataError, "cp1252.csv", "is not ASCII text", "as CSV UTF-8"):
        read_captions([(None, paths[0])], encoding="ascii")


@pytest.mark.parametrize("name", ["validation", "Val"])
def test_a_split_has_our_name_wherever_it_is_named(name: str) -> None:
    features({"a.jpg": [1], "b.jpg": [2]})
    rows = {"train": "a.jpg,a dog\n", name: "b.jpg,a cat\n"}
    files = [(split, write(f"{split}.csv", f"image,caption\n{rows[split]}")) for split in rows]
    every = [(None, write("all.csv", "image,caption\n" + "".join(rows.values())))]
    lists = {"train": write("list", "a.jpg\n"), name: write("other list", "b.jpg\n")}
    options: dict[str, Any] = {"features_file": "features.npz", "min_count": 1}
    for made in (
        import_captions(iter(files), **options),
        import_captions(every, lists=lists, **options),
    ):
        assert [*made[0].splits] == ["train", "val"]
    captions = [CaptionRow("a.jpg", "a dog", "train"), CaptionRow("b.jpg", "a cat", name)]
    made_of_rows = assemble(captions, features={"a.jpg": [1], "b.jpg": [2]}, min_count=1)
    assert [*made_of_rows.splits] == ["train", "val"]


# splits


def test_rows_of_a_picture_come_together_and_say_where_a_file_has_them() -> None:
    text = "image,caption,split\nb.jpg,a,val\na.jpg,b,train\nc.jpg,c,val\nb.jpg,d,val\n"
    rows = read_captions([(None, write("t.csv", text))])
    assert [f"{row.split} {row.picture} {row.caption} {row.source[-6:]}" for row in rows] == [
        *("val b.jpg a line 2", "val b.jpg d line 5", "val c.jpg c line 4", "train a.jpg b line 3")
    ]
    file = images({"id": 1, "file_name": "a"}, annotations=[{"image_id": 1, "caption": "b"}] * 2)
    sources = [row.source for row in read_captions([(None, write("c.json", file))])]
    assert sources == [f"c.json, annotation number {k}" for k in (1, 2)]


def test_files_with_and_without_splits_do_not_mix() -> None:
    plain, split = write("t.csv", table(SAID)), write("k.json", karpathy({"train": SAID}))
    with refuses(DataError, "some of the files", "have splits and some have none"):
        read_captions([(None, plain), ("val", plain)])
    with refuses(DataError, "k.json", "already defines splits (train)"):
        read_captions([("val", split)])
    command = "prepare --features features.npz --out o.h5".split()
    failing([*command, split, "--split", "train=train.txt"], "splits train already", "no --split")
    words = "'one.jpg' is in split 'train' and in 'val'"
    failing([*command, f"train={plain}", f"val={plain}"], words)
    assert by_name(read_captions([("a", plain), ("b", plain)])) == {"a": SAID, "b": SAID}


# what does not fit


# fmt: off
SKIPPED = {
    "captions without a word: 2 (one.jpg, one.jpg)": table({**SAID, "one.jpg": ["a dog", "...", ""]}),
    "pictures without captions: 1 (four.jpg)": coco_with(images=[{"id": 1, "file_name": "four.jpg"}]),
    "without features: 5 (0.jpg, 1.jpg, 2.jpg, ...)": table({**SAID, **{f"{i}.jpg": ["a dog"] for i in range(5)}}),
    "rows without 2 columns: 1 (line 10)": table(SAID) + b"one.jpg\n",
    "have no captions, or were skipped: 1 (one.jpg)": table({**SAID, "one.jpg": []}),
}
# fmt: on


@pytest.mark.parametrize("line", SKIPPED)
def test_what_does_not_fit_is_counted_and_named_and_refused_if_strict(line: str) -> None:
    write("captions", SKIPPED[line])
    lines = prepare(f"captions {BY_LISTS}")
    assert sum(shown.startswith("skipped ") and shown.endswith(line) for shown in lines) == 1
    count = sum(answer("info", "own.h5")["source"]["skipped"].values())
    assert count == len(skipped_list()) >= 1
    command = f"prepare captions --features features.npz {BY_LISTS} --out o.h5 --strict"
    failing(command.split(), line.split(" (")[0], "since --strict is given")


def skipped_list() -> list[list[str]]:
    with Path("own.h5.skipped.csv").open(encoding="utf-8-sig", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["name", "reason"]
    return rows


def test_all_that_is_skipped_is_in_a_list_with_its_reason() -> None:
    photos(dict.fromkeys(SAID, (0, 0, 0)))
    write("photos/deep/0.jpg", b"no picture")
    write("photos/deep/1.jpg", b"")
    write("photos/deep/2.jpg", b"")
    said = {**SAID, "0.jpg": ["a dog"], "1.jpg": ["a dog"], "Two .jpeg": ["a cat"]}
    write("one.csv", table({**said, "three.jpg": ["..."]}))
    write("two.csv", "image,caption\none.jpg\n,a dog\nthree.jpg,a dog\n")
    line = (
        "prepare one.csv two.csv --pictures photos --encoder histogram --fractions 1 --out own.h5"
    )
    assert "own.h5.skipped.csv lists all skipped items with reasons" in good(*line.split()).output
    unread, expected = "pictures that cannot be read: ", f"expected {formats()}"
    assert skipped_list() == [
        ["two.csv, line 2", "rows without 2 columns"],
        ["two.csv, line 3", "rows without a picture"],
        ["three.jpg", "captions without a word"],
        ["Two .jpeg", "captioned pictures missing from photos: did you mean two.jpg?"],
        ["deep/2.jpg", "pictures in photos without captions"],
        ["deep/0.jpg", f"{unread}cannot be read as a picture, {expected}; it is text"],
        ["deep/1.jpg", f"{unread}is empty, {expected}; copied or downloaded only in part?"],
    ]
    Path("own.h5").unlink()
    write("one.csv", table(SAID))
    write("two.csv", table({f"{number}.jpg": ["a dog"] for number in range(3)}))
    photos({f"deep/{number}.jpg": (0, 0, 0) for number in range(3)})
    assert "skipped" not in good(*line.split()).output
    assert not Path("own.h5.skipped.csv").exists()
    Path("own.h5").unlink()
    write("own.h5.skipped.csv", "mine")
    wanted = "expected a new file, or a table with the heading name,reason"
    failing(line.split(), "own.h5.skipped.csv", wanted)


def zipped(*names: str, **stored: bytes) -> bytes:
    """A zip archive of files with these names, and of some with this content."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in {**stored, **dict.fromkeys(names, b"<x/>" * 99)}.items():
            archive.writestr(name, content)
    return file.getvalue()


ODS = b"application/vnd.oasis.opendocument.spreadsheet"
ONE = '{"image": "a", "caption": "b"}\n'
IMAGES = '{"images": [{"id": 1, "file_name": "a"}]'


@refusals(
    r"""
    "" | is empty
    "\ufeff\r\n \n" | is empty
    "Dear all,\nhere are the captions" | no known format, its first line is 'Dear all,' | COCO | Karpathy | NAME#K | a table with commas | a table, such as CSV, needs a heading
    "a.jpg;A dog\nb.jpg;A cat\n" | has no heading, its first line is 'a.jpg;A dog' | a heading that names the columns | add the line image;caption above it
    "Datei;Beschreibung\na.jpg;Ein Hund\n" | has the columns 'Datei', 'Beschreibung' | one such as image or image_name | by `image` and `caption`
    "Datei;Text;Zweiter Text;Ort\na.jpg;Ein Hund rennt;Da ist ein Hund;Kiel\n" | has the columns | judging by the cells: `image` 'Datei' `caption` 'Text' `caption` 'Zweiter Text'
    "画像,説明,日付\na.jpg,犬が走る,2025年12月3日\nb.jpg,猫がいる,2025年12月4日\n" | judging by the cells: `image` '画像' `caption` '説明'
    "รูป,คำบรรยาย\na.jpg,สุนัขวิ่ง\n" | judging by the cells: `image` 'รูป' `caption` 'คำบรรยาย'
    "صورة;وصف;رابط\na.jpg;كلب يجري في الحديقة;https://a.example/b/c-d-e-f-g\n" | judging by the cells: `image` 'صورة' `caption` 'وصف'
    '[{"Bild": "a.jpg", "Text": "Ein Hund läuft"}]' | has the columns 'Bild', 'Text' | judging by the cells: `image` 'Bild' `caption` 'Text'
    "image,caption,Image\na,b,c\n" | heading 'image' | occurs twice | distinct headings | rename
    "image\na.jpg\n" | no known format, its first line is 'image'
    "image,caption\na.jpg,Ein Hund läuft\n".encode("latin-1") | not UTF-8 | line 2 | give `encoding` cp1252 | as CSV UTF-8
    "image,caption\na.jpg,ä\n".encode() + b"b.jpg,\xe4\n" | not UTF-8 | line 3
    "image,caption\na.jpg,Ä dog\n".encode("utf-16")[:-1] | not UTF-16 text | line 2 | save it as UTF-8
    zipped("[Content_Types].xml", "xl/workbook.xml") | is an Excel workbook | save the sheet as CSV UTF-8
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500) | is an old Excel workbook (.xls) | as CSV UTF-8
    zipped(mimetype=ODS) | is a document of LibreOffice | save the sheet as CSV UTF-8
    zipped("word/document.xml") | is a Word document | copy its table
    zipped("captions.csv") | is an archive | unpack it first
    "%PDF-1.4\nimage,caption\na.jpg,a dog\n" | is a PDF | a text file of captions
    b"\xff\xd8\xff\xe0" + bytes(100) | is a JPEG picture | is the path right?
    'image,caption\na.jpg,"A\nb.jpg,B\n' | unexpected end of data | close each quoted field
    'image,caption\na.jpg,"A\nb.jpg,"B"\n' | line 3 | cannot be parsed | close each quoted field
    "image,caption\na.jpg,\nb.jpg," + "x" * 200_000 | line 3 | larger than field limit
    "image," * 100_000 | no known format
    "image,caption\na.jpg\nb.jpg\n" | no readable caption | at least one | rows without 2 columns: 2 (line 2, line 3)
    "image,caption,split\n" + "".join(f"{i}.jpg,a,s{i}\n" for i in range(30)) | line 22 | 's20' | at most 20
    "image,caption,split\na.jpg,a,../x\n" | line 2: split | '../x'
    coco(SAID)[:-30] | not valid JSON | cut short
    "[" * 100_000 | nested too deep
    "[" + "[]," * 9_000_000 | 18,000,001 values | is it a file of captions
    "[" + "9" * 5000 + "]" | not valid JSON
    "[1, 2]" | row 1 | is 1 | an object
    "[]" | no readable caption
    "{}" | has the columns nothing
    '{\n"type": 1}' | has the columns 'type' | one such as image or image_name
    '{"Bild": "a.jpg", "Text": "Ein Hund"}' | has the columns 'Bild', 'Text'
    '{"a.jpg": ["a", 1]}' | ['a.jpg'][1] | is 1 | text
    '{"a.jpg": {"caption": "a dog"}}' | ['a.jpg'] | is an object | text or a list
    r'{"\ud800": "a dog"}' | [0] | half of a surrogate pair
    ONE + '{"image": "a"\n' | line 2 | not valid JSON
    ONE + '{"image": 7.5}\n' | line 2: image | is 7.5 | text or a whole number
    r'{"image": "\ud800", "caption": "b"}' | line 1: image | half of a surrogate pair
    '{"image": "a", "caption": [{"raw": 1}]}' | line 1: caption[0] | is an object | text
    IMAGES + "}" | annotations | is missing | a list | captions_*.json
    IMAGES + ', "annotations": [{"image_id": 1, "bbox": []}]}' | annotations[0].caption | is missing | text | instances_*.json
    IMAGES.replace('"a"', "7") + "}" | images[0].file_name | is 7
    '{"images": {"a": 1}, "annotations": []}' | images | is an object | a list
    '{"images": [{"filename": "a", "sentences": [{"tokens": []}]}]}' | images[0].sentences[0].raw | is missing | text
    '{"images": [{"filename": "a", "sentences": []}, 7]}' | images[1] | is 7
    """,
    error=DataError,
)
def test_broken_files_are_refused_in_one_sentence(refusal: Refusal) -> None:
    with refuses(refusal.error, *refusal.texts) as caught:
        read(eval(refusal.statement))
    assert str(caught.value).startswith("captions")
    assert len(str(caught.value)) < 600


ASTRAY = r"""
x/one.jpg y/one.jpg | 'x/one.jpg' is not in photos | may be one.jpg, which y/one.jpg names as well
nowhere.jpg no.jpg | no picture left, expected at least one; 'nowhere.jpg' is not in photos or the folders in it, nor are the others, where 'one.jpg' is one of 3: are the folder
x.jpg two.jpg TWO.JPG | no picture left | nor are the others: may be 1/two.jpg or 2/two.jpg
"""


@pytest.mark.parametrize("row", ASTRAY.strip().splitlines())
def test_names_that_lead_astray_are_refused(row: str) -> None:
    names, *words = row.split(" | ")
    for path in ("one.jpg", "1/two.jpg", "2/two.jpg"):
        write(f"photos/{path}", b"")
    lines = ["image,caption", *(f"{name},a dog" for name in names.split())]
    write("captions", "\n".join(lines))
    failing(["prepare", "captions", "--pictures", "photos", "--out", "own.h5"], *words)


def test_where_no_picture_is_left_the_reasons_are_told_the_most_frequent_first() -> None:
    write("empty/film.mp4", b"")
    write("photos/deep/two.jpg", b"no picture")
    write("photos/spare.jpg", b"no caption")
    command = "prepare train=c.csv --encoder histogram --out own.h5 --pictures".split()
    folder = [*command, "photos"]
    long = f"{'long name ' * 20}.jpg"
    write("c.csv", table({"two.jpg": ["a dog"], **{f"{i}{long}": ["a dog"] for i in range(9)}}))
    missing = "expected at least one; captioned pictures missing from photos: 9 (0long name"
    failing(folder, missing, "; it is text)")
    write("c.csv", table({"two.jpg": ["a dog"], **{f"{i}.jpg": ["..."] for i in range(9)}}))
    reasons = "captions without a word: 9 (0.jpg, 1.jpg, 2.jpg, ...)"
    failing(folder, f"expected at least one; {reasons}")
    nothing = "no picture is in empty or the folders in it; 1 other file in empty"
    failing([*command, "empty"], nothing)
    folder[1] = "c.csv"
    failing(folder, "too few pictures: 1, expected", "captions without a word: 9")
    failing([*folder, "--fractions", "1"], "too few pictures: 0", "captions without a word: 9")
    long = f"{'long' * 40}.jpg"  # too long for an error, which leaves the suggestion out whole
    for name in ("1", "2"):
        write(f"photos/{name}/{'folder ' * 15}x/{long}", b"")
    write("c.csv", table({long: ["a dog"]}))
    failing(folder, "long' is not in photos or the folders in it, where")


def test_a_list_names_pictures_as_captions_may_and_a_name_too_many_is_told() -> None:
    photos({f"a/{name}": (0, 0, 0) for name in SAID})
    write("c.csv", table({f"old/{name}": texts for name, texts in SAID.items()}))
    write("list.txt", "one\nold\\two.jpg\nA/ONE.JPG\nnowhere.jpg\nb/three.jpg\n./a/three.jpg\n")
    lines = prepare("c.csv --pictures photos --encoder histogram --split train=list.txt")
    assert open_data("own.h5").split("train").images == [f"a/{name}" for name in SAID]
    for line in (
        "notice: pictures listed twice in 'train': 1 (a/one.jpg)",
        "skipped pictures of 'train' that have no captions, or were skipped: 2 (b/three.jpg"
        " (may be a/three.jpg, which ./a/three.jpg names as well), nowhere.jpg)",
    ):
        assert line in lines


def test_captions_of_one_picture_under_several_names_are_joined() -> None:
    photos(dict.fromkeys(["deep/one.JPG", "two.jpg", "cats/1.jpg"], (0, 0, 0)))
    one = str(Path("photos/deep/one.JPG").resolve())
    names = ("deep/one.JPG", "one.jpg", one, "../photos/two.jpg", "cats/1.jpg", "dogs/1.jpg")
    write("c.csv", table({name: ["a dog"] for name in names}))
    lines = prepare("c.csv --pictures photos --encoder histogram --fractions 1")
    data = open_data("own.h5").split("train")
    assert data.images == ["deep/one.JPG", "two.jpg", "cats/1.jpg"]
    assert data.image_idxs.tolist() == [0, 0, 0, 1, 2]
    for line in (
        "notice: pictures with captions under several names, joined: 1 (deep/one.JPG)",
        "skipped captioned pictures missing from photos: 1 (dogs/1.jpg (may be cats/1.jpg, which"
        " cats/1.jpg names as well))",
    ):
        assert line in lines


# the command


def test_a_folder_of_photos_and_a_table_are_the_same_data_set_each_time() -> None:
    photos({f"{'blue' if i > 4 else 'red'}/{i}.png": (30 * i, 30, 200) for i in range(1, 10)})
    write("photos/red/0.png", b"\x89PNG")
    write("c.csv", table({f"old/{i}.png": ["a blue thing"] for i in range(10)}))
    command = (
        "prepare c.csv --pictures photos --encoder histogram --vocabulary 2 --fractions 0.8,0.2"
        " --out"
    ).split()
    assert "splits drawn by picture, about 0.8 / 0.2, seed 0" in good(*command, "own.h5").output
    data = open_data("own.h5")
    assert sum(len(split.images) for split in data.splits.values()) == 9
    assert len(data.vocabulary) == 4 + 2
    assert data.source.encoder == "histogram"
    folder = Path(str(data.source.pictures))
    assert all((folder / name).exists() for split in data.splits.values() for name in split.images)
    assert data.source.record["drawn"] == {"fractions": [0.8, 0.2], "seed": 0}
    good(*command, "again.h5")
    assert Path("own.h5").read_bytes() == Path("again.h5").read_bytes()
    failing([*command, "strict.h5", "--strict"], "photos/red/0.png cannot be read")


def photos(colours: dict[str, tuple[int, int, int]]) -> None:
    from PIL import Image

    for name, colour in colours.items():
        Image.new("RGB", (40, 30), colour).save(write(f"photos/{name}", b""))


def test_a_folder_of_pictures_with_their_texts_is_a_data_set() -> None:
    photos(dict.fromkeys(("one.jpg", "deep/two.png", "blank.jpg", "bare.jpg"), (0, 0, 0)))
    write("photos/one.txt", "\ufeffa dog\r\n\r\n a cat \r\n")
    write("photos/deep/two.txt", "ein Mädchen".encode("cp1252"))
    write("photos/blank.txt", " \n")
    line = "prepare photos --out own.h5 --encoder histogram --fractions 1 --min-count 1"
    failing(line.split(), "photos/deep/two.txt is not UTF-8", "--encoding cp1252")
    output = good(*line.split(), "--encoding", "cp1252").output
    assert "photos: NAME.txt beside pictures\n" in output
    assert "skipped pictures without captions: 1 (photos/blank.jpg)" in output
    assert "skipped pictures in photos without captions: 2 (bare.jpg, blank.jpg)" in output
    assert "ignored" not in output
    data = open_data("own.h5")
    assert data.split("train").images == ["one.jpg", "deep/two.png"]
    assert data.texts("train") == ["a dog", "a cat", "ein Mädchen"]
    assert data.source.record["captions"] == ["photos"]
    Path("photos/one.txt").unlink()
    shutil.rmtree("photos/deep")
    Path("photos/blank.txt").unlink()
    holds = "photos holds no metadata.csv or metadata.jsonl, and no NAME.txt of a picture"
    failing([*line.split()[:2], "--out", "o.h5"], holds)
    origin = "neither --pictures nor --features is given"
    failing("prepare train=photos val=photos --out o.h5".split(), origin, status=2)


def test_a_table_in_a_folder_names_the_pictures_of_that_folder() -> None:
    photos(dict.fromkeys(("train/deep/one.jpg", "train/two.jpg", "val/three.jpg"), (0, 0, 0)))
    write("photos/train/metadata.csv", "file_name,text\ndeep\\one.jpg,a dog\n,x\ntwo.jpg,a cat\n")
    write("photos/val/metadata.jsonl", '{"file_name": "three.jpg", "text": "a cow"}\n')
    write("photos/train/two.txt", "not this one")
    line = "train=photos/train val=photos/val --encoder histogram --min-count 1 --pictures"
    lines = prepare(f"{line} photos")
    assert "photos/train: a table with commas" in lines
    assert "skipped rows without a picture: 1 (line 3)" in lines
    assert not any("ignored" in line or "another folder" in line for line in lines)
    data = open_data("own.h5")
    assert data.split("train").images == ["train/deep/one.jpg", "train/two.jpg"]
    assert (data.texts("train"), data.texts("val")) == (["a dog", "a cat"], ["a cow"])


def test_lists_name_pictures_as_the_captions_do_wherever_the_files_are() -> None:
    for name in SAID:
        write(f"photos/deep/{name}", b"a page shows it, nobody reads it here")
    write("c.csv", table(SAID))
    prepare("c.csv --split train=train.txt --features features.npz --min-count 1 --pictures photos")
    train = open_data("own.h5").split("train")
    assert train.images == ["deep/one.jpg", "deep/two.jpg"]
    np.testing.assert_array_equal(train.features, np.arange(8).reshape(2, 4))
    assert not Path("own.h5.skipped.csv").exists()


def test_prepare_says_what_it_kept_cut_and_does_not_know() -> None:
    said = ("a dog a dog a dog", "a dog and more", "strange words")
    write("c.csv", table({name: [text] for name, text in zip(SAID, said, strict=True)}))
    assert prepare("c.csv --min-count 2 --max-words 5 --split train=train.txt")[:-2] == [
        "c.csv: a table with commas",
        "notice: pictures in no split: 1",
        "own.h5: 6 words, features of size 4, captions of at most 5 words",
        "train  2 pictures  2 captions",
        "train: 1 caption cut, 22.2% of the words unknown",
        "  one.jpg: a dog a dog a",
        "  two.jpg: a dog <UNK> <UNK>",
    ]
    source = answer("info", "own.h5")["source"]
    told = {"cut": {"train": 1}, "unknown": {"train": 0.2222}, "skipped": {}}
    assert told.items() <= source.items()
    assert source["forms"] == ["a table with commas"]


def test_a_heading_in_another_language_is_answered_with_the_columns_that_look_right() -> None:
    rows = "".join(f"{i};{name};Ein Hund läuft schnell;{i}\r\n" for i, name in enumerate(SAID))
    write("Fotos und Texte.csv", "\ufeffNr;Datei;Meine Beschreibung;Jahr\r\n" + rows)
    command = "prepare --features features.npz --min-count 1 --out own.h5".split()
    command.append("Fotos und Texte.csv")
    columns = ("--image-column", "Datei", "--caption-column", "Meine Beschreibung")
    advice = "judging by the cells: --image-column 'Datei' --caption-column 'Meine Beschreibung'"
    failing(command, "has the columns 'Nr', 'Datei', 'Meine Beschreibung', 'Jahr', exp", advice)
    failing([*command, "--image-column", "Foto"], "expected one such as Foto for pictures", advice)
    good(*command, *columns)
    assert sum(len(split.images) for split in open_data("own.h5").splits.values()) == 3


def test_captions_that_are_repeated_or_that_nobody_wrote_of_a_picture_stay_and_are_told() -> None:
    formulas = "captions that are errors or formulas of a spreadsheet"
    odd = {
        "captions that look like placeholders": ["TODO", "n/a", "<NA>", "xxx"],
        formulas: ["#NAME?", "=A1", "#N/A", "#BEZUG!"],
        "captions with HTML entities, such as &amp;": [
            "a &amp; b",
            "a dog&#39;s",
            "a&nbsp;&quot;b",
        ],
    }
    sound = ["none of them", "#dog", "Tom & Jerry; a cat", "a = b", "Nan na", "null o"]
    twice = ["a cat", "a cat ", "a dog", "a cat"]
    write("c.csv", table({"one.jpg": [*itertools.chain(*odd.values()), *sound], "two.jpg": twice}))
    lines = prepare("train=c.csv --strict")
    for kind, captions in odd.items():
        shown = ", ".join(f"one.jpg: {caption}" for caption in captions[:3])
        more = ", ..." if len(captions) > 3 else ""
        assert f"notice: {kind}: {len(captions)} ({shown}{more})" in lines
    repeated = "notice: repeated captions of one picture, kept; remove them from the file if"
    assert f"{repeated} that is a mistake: 2 (two.jpg, two.jpg)" in lines
    assert open_data("own.h5").texts("train")[17:] == ["a cat", "a cat", "a dog", "a cat"]


def test_names_are_matched_or_suggested_and_other_files_counted() -> None:
    composed, decomposed = (unicodedata.normalize(form, "Übung.png") for form in ("NFC", "NFD"))
    there = ("IMG_1.PNG", decomposed, "2023/May/IMG_2.png", "IMG_3.png")
    photos(dict.fromkeys(there, (0, 0, 0)))
    for name in ("a.CR2", "2023/film.mp4", "2023/.DS_Store"):
        write(f"photos/{name}", b"")
    names = ("img_1.png", composed, "IMG_2.png", "IMG 3.png", "IMG_99.png")
    write("c.csv", table({name: ["a dog"] for name in names}))
    options = "--pictures photos --encoder histogram --min-count 1 --fractions 1"
    lines = prepare(f"c.csv {options}")
    for line in (
        "notice: names matched despite other capitals, Unicode form or suffix:"
        f" 2 (img_1.png is IMG_1.PNG, {composed} is {decomposed})",
        "notice: 2 other files in photos ignored: 1 .cr2, 1 .mp4; RAW files of cameras cannot be"
        " read: export them as JPEG",
        "skipped captioned pictures missing from photos: 2 (IMG 3.png (did you mean IMG_3.png?),"
        " IMG_99.png)",
        "skipped pictures in photos without captions: 1 (IMG_3.png)",
    ):
        assert line in lines
    assert open_data("own.h5").split("train").images == list(there[:3])


def test_too_few_pictures_or_words_are_remarked_with_what_helps() -> None:
    said = {f"{i}.jpg": [f"rare{i // 3} often often"] for i in range(300)}  # each three times
    features(dict.fromkeys(said, (1, 1)))
    write("few.csv", table({name: said[name] for name in ("0.jpg", "3.jpg")}))
    assert (
        "notice: far too few training pictures (2): captions begin to fit at about 250 with"
        " five captions each; train --from another run, a warm start, helps"
        ' ("Train on your photos" in the documentation)'
    ) in prepare("train=few.csv")
    Path("own.h5").unlink()
    write("c.csv", table(said))
    few = (
        "notice: 33.3% of the training words are unknown, as the vocabulary has only 5 words; a"
        " lower --min-count"
    )
    assert prepare("train=c.csv --min-count 5")[-1] == f"{few} would keep more"
    Path("own.h5").unlink()
    output = "\n".join(prepare("train=c.csv --min-count 3"))
    assert "own.h5: 105 words" in output
    assert "the vocabulary has only" not in output
    assert "too few" not in output  # 300 pictures are enough


def test_a_picture_whose_name_is_no_text_is_skipped_and_named() -> None:
    photos(dict.fromkeys(SAID, (0, 0, 0)))
    try:
        shutil.copy("photos/one.jpg", os.fsdecode(b"photos/\xff.jpg"))
    except OSError:
        pytest.skip("this file system wants names in UTF-8")
    write("c.csv", table(SAID))
    lines = prepare("train=c.csv --pictures photos --encoder histogram --min-count 1")
    assert "skipped pictures whose names are not UTF-8; rename them: 1 (\\udcff.jpg)" in lines
    assert set(open_data("own.h5").split("train").images) == set(SAID)


@pytest.mark.skipif(sys.platform != "linux", reason="names are text on other systems")
def test_names_that_the_locale_cannot_hold_are_refused_before_the_long_work() -> None:
    photos(dict.fromkeys([*SAID, "übersicht.jpg"], (0, 0, 0)))
    write("c.csv", table(SAID))
    line = "prepare --out own.h5 train=c.csv --pictures photos --encoder histogram --min-count 1"
    code = "import sys; from xpcap.cli import main; main(sys.argv[1:])"
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = program(code, *line.split(), folder=Path.cwd(), status=1, **ascii_only)
    for words in ("\\xfcbersicht.jpg", "this locale's encoding, ascii", "set PYTHONUTF8=1"):
        assert words in done.stderr
    assert not list(Path().glob("own.h5*"))


FULL = OSError(errno.ENOSPC, "No space left on device", "own.h5")


@pytest.mark.parametrize(
    ("stop", "status", "begins"),
    [
        (KeyboardInterrupt(), 130, "prepare: interrupted"),
        (FULL, 1, "Error: prepare: own.h5: No space left on device, expected room"),
    ],
)
def test_a_stopped_prepare_says_how_it_goes_on(
    stop: BaseException, status: int, begins: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xpcap.encoders import HistogramEncoder

    photos(dict.fromkeys(SAID, (0, 0, 0)))
    write("c.csv", table(SAID))
    line = "train=c.csv --pictures photos --encoder histogram --min-count 1"
    with monkeypatch.context() as patch:
        patch.setattr(HistogramEncoder, "encode", Mock(side_effect=stop))
        result = call(*f"prepare --out own.h5 {line}".split())
    assert result.exit_code == status
    assert result.output.startswith(begins)
    assert not Path("own.h5").exists()
    assert not Path("photos.histogram.features").exists()  # nothing is encoded yet
    prepare(line)
    assert Path("photos.histogram.features").is_file()


def test_misuse_and_features_too_large_for_float16_are_refused() -> None:
    features({"one.jpg": [1], "two.jpg": [70_000], "three.jpg": [1]})
    write("c.csv", table(SAID))
    command = "prepare train=c.csv --features features.npz --out o.h5".split()
    failing([*command, "--float16"], "feature of 'two.jpg'", "above 65,504")
    failing([*command, "--grid", 2], "--features and --grid are both given", status=2)


# real captions


@pytest.mark.slow
def test_real_captions_are_the_same_rows_in_every_form(real_data: Path) -> None:
    rows = read_captions([(None, real_data / "flickr8k/Flickr8k.token.txt")])
    said = {name: [*map(str.strip, texts)] for name, texts in by_picture(rows).items()}
    said = dict(itertools.islice(said.items(), 400))
    for form in FORMATS.values():
        assert read(form(said)) == said


@pytest.mark.slow
def test_coco_mini_is_prepared(real_data: Path) -> None:
    folder = real_data / "coco_mini"
    encoded = folder / "features_efficientnet_lite2.npz"
    train, val = folder / "captions_train2017_80images.json", folder / "captions_val2017.json"
    options = ("--pictures", folder, "--features", encoded, "--out", "coco.h5")
    output = good("prepare", f"train={train}", f"val={val}", *options).output
    assert "captioned pictures without features: 4,841" in output
    data = open_data("coco.h5")
    sizes = {name: len(split.images) for name, split in data.splits.items()}
    assert sizes == {"train": 80, "val": 159}
    assert all((folder / name).exists() for split in data.splits.values() for name in split.images)
