"""Files of captions of every form: found by looking, read alike, split by picture; what does not
fit is counted, or refused.
"""

import io
import json
import unicodedata
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import caption_formats
import numpy as np
import pytest
from commands import SMALL, answer, call, failing, good
from refusals import refuses

from xpcap.data import open_data
from xpcap.errors import DataError
from xpcap.prepare import CaptionRow, Columns, ImportReport, import_captions, read_captions
from xpcap.prepare.splits import by_fractions

SAID = {
    "one.jpg": ["A dog, a cat; and more .", 'The dog says "woof" loudly', "the dog"],
    "two.jpg": ["a cat's 2nd dog", "Ein Hund läuft — schnell"],
    "three.jpg": ['"Quoted" from the start, a cat', "the same", "the same"],
}
LISTS = {"train": ["one.jpg", "two.jpg"], "val": ["three.jpg"]}


@pytest.fixture(autouse=True)
def small_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features and lists for SAID in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    np.savez(
        "features.npz", names=list(SAID), features=np.arange(12, dtype=np.float32).reshape(3, 4)
    )
    for split, names in LISTS.items():
        Path(f"{split}.txt").write_text("\n".join(names))


def by_name(rows: Sequence[CaptionRow]) -> Any:
    """Captions by picture, or by split and picture where there are splits."""
    return (
        caption_formats.by_picture(rows)
        if all(row.split is None for row in rows)
        else caption_formats.by_split(rows)
    )


def read(content: bytes | str, **how: Any) -> Any:
    Path("captions").write_bytes(
        content.encode() if isinstance(content, str) else content
    )  # the name says nothing
    return by_name(read_captions([(None, "captions")], **how))


# every form


@pytest.mark.parametrize("form", caption_formats.FORMATS)
def test_every_form_says_the_same(form: str) -> None:
    assert read(caption_formats.FORMATS[form](SAID)) == SAID


def test_the_same_captions_are_the_same_data_whatever_their_form() -> None:
    made = {}
    for form in ("lines NAME#K", "Kaggle's", "JSON lines"):
        files = [(None, write("file", caption_formats.FORMATS[form](SAID)))]
        made[form], _ = import_captions(
            files,
            lists={"train": "train.txt", "val": "val.txt"},
            features_file="features.npz",
            min_count=1,
        )
    splits = {split: {name: SAID[name] for name in names} for split, names in LISTS.items()}
    made["Karpathy's"], _ = import_captions(
        [(None, write("file", caption_formats.karpathy(splits)))],
        features_file="features.npz",
        min_count=1,
    )
    files = [
        (split, write(f"{split}.json", caption_formats.coco(said)))
        for split, said in splits.items()
    ]
    made["COCO's"], _ = import_captions(files, features_file="features.npz", min_count=1)
    for data in made.values():
        assert data.vocabulary.idx_to_word == made["lines NAME#K"].vocabulary.idx_to_word
        for name, split in made["lines NAME#K"].splits.items():
            np.testing.assert_array_equal(data.split(name).captions, split.captions)
            np.testing.assert_array_equal(data.split(name).features, split.features)
            assert (data.split(name).images, data.texts(name)) == (
                split.images,
                made["lines NAME#K"].texts(name),
            )
    assert len({json.dumps(data.source.to_json()) for data in made.values()}) == len(made)


def write(name: str, content: bytes | str) -> Path:
    path = Path(name)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_field_may_hold_what_separates_fields() -> None:
    text = (
        'image,caption\r\na.jpg,"A dog, who said ""woof""\r\n  and ran"\r\nb.jpg,A dog, not'
        ' quoted\r\n\r\nb.jpg, "spaced, too"\r\n'
    )
    assert read(text) == {
        "a.jpg": ['A dog, who said "woof"\n  and ran'],
        "b.jpg": ["A dog, not quoted", "spaced, too"],
    }
    np.savez("features.npz", names=["a.jpg", "b.jpg"], features=np.ones((2, 3), "f4"))
    data, _ = import_captions([("train", "captions")], features_file="features.npz", min_count=1)
    assert data.texts("train")[0] == 'A dog, who said "woof" and ran'


def test_columns_may_be_named_and_a_table_may_say_the_splits() -> None:
    text = "id;Foto;de;en;teil\n1;a.jpg;Ein Hund;a dog;Training\n2;b.jpg;Eine Katze;a cat;dev\n"
    assert read(text, columns=Columns(image="foto", caption="en", split="teil")) == {
        "train": {"a.jpg": ["a dog"]},
        "val": {"b.jpg": ["a cat"]},
    }
    with refuses(
        DataError,
        came="columns 'id', 'Foto', 'de', 'en', 'teil'",
        expected="one such as photo for pictures",
    ):
        read(text, columns=Columns(image="photo", caption="en"))
    assert read("caption,file,split\na dog,a.jpg,test,,\n") == {"test": {"a.jpg": ["a dog"]}}


def test_restval_joins_train_and_is_said() -> None:
    report = ImportReport()
    said = read(
        caption_formats.karpathy(
            {"train": {"a.jpg": ["a"]}, "restval": {"b.jpg": ["b"]}, "test": {"c.jpg": ["c"]}}
        ),
        report=report,
    )
    assert said == {"train": {"a.jpg": ["a"], "b.jpg": ["b"]}, "test": {"c.jpg": ["c"]}}
    assert report.notes == ["restval joins train: 1 pictures"]


def test_a_pipe_that_is_missing_costs_one_line_of_flickr30k() -> None:
    """As line 19,999 of the published file."""
    report = ImportReport()
    text = (
        'image_name| comment_number| comment\na.jpg| 0| A "dog" runs .\na.jpg| 1   A dog sits'
        " .\na.jpg| 2| a | b\na.jpg| 2| again\n"
    )
    assert read(text, report=report) == {"a.jpg": ['A "dog" runs .', "a | b"]}
    assert read('image|caption\na.jpg|"A dog" runs\n') == {
        "a.jpg": ['"A dog" runs']
    }  # a quote is a sign like any other
    assert report.lines() == [
        "rows without 3 columns: 1 (line 3)",
        "second captions of one number: 1 (a.jpg 2)",
    ]


SPACED = {
    "tokens": " a.jpg#0\tone\na.jpg#0\ttwo\n",
    "table": "image,caption,comment_number\n a.jpg ,one,0\na.jpg,two,0\n",
    "JSON lines": '{"image": " a.jpg", "caption": "one"}\n',
    "COCO": json.dumps(
        {
            "images": [{"id": 1, "file_name": "a.jpg "}, {"id": 2, "file_name": " a.jpg"}],
            "annotations": [{"image_id": 1, "caption": "one"}, {"image_id": 2, "caption": "two"}],
        }
    ),
    "Karpathy": json.dumps(
        {
            "images": [
                {"filename": name, "sentences": [{"raw": text}]}
                for name, text in ((" a.jpg", "one"), ("a.jpg", "two"))
            ]
        }
    ),
}


@pytest.mark.parametrize("form", SPACED)
def test_spaces_around_a_name_make_no_other_picture(form: str) -> None:
    assert read(SPACED[form]) == {"a.jpg": ["one"]}


@pytest.mark.parametrize(
    ("text", "rows", "skipped"),
    [
        (
            '{"image": "a", "caption": "b", "split": "val"}\n{"image": "c", "caption": "d", "split": null}',
            {"val": {"a": ["b"]}},
            "rows without a split: 1",
        ),
        (
            '[{"image": null, "caption": "b"}, {"image": "c", "caption": null}]',
            {"c": [""]},
            "rows without a picture: 1",
        ),
        (
            '{"images": [{"filename": "a", "split": "val", "sentences": [{"raw": "b"}]},'
            ' {"filename": "c", "split": null, "sentences": [{"raw": "d"}]}]}',
            {"val": {"a": ["b"]}},
            "rows without a split: 1",
        ),
        (
            '[{"image_id": 42, "caption": "b"}, {"image_id": 0, "caption": "d"}]',
            {"42": ["b"], "0": ["d"]},
            "",
        ),
    ],
)
def test_null_is_an_empty_cell_and_a_number_a_name(text: str, rows: Any, skipped: str) -> None:
    report = ImportReport()
    assert read(text, report=report) == rows
    assert "".join(report.lines()).startswith(skipped)
    assert bool(report.lines()) == bool(skipped)


# splits


def test_fractions_divide_by_picture_and_depend_on_names_and_seed_alone() -> None:
    said = {f"{i}.jpg": [f"caption {i}", "again"] for i in range(50)}

    def divide(
        said: caption_formats.Said, fractions: Sequence[float], seed: int
    ) -> dict[str | None, dict[str, list[str]]]:
        rows = [CaptionRow(name, text) for name, texts in said.items() for text in texts]
        return caption_formats.by_split(by_fractions(rows, fractions, seed))

    made = divide(said, (0.8, 0.1, 0.1), 3)
    assert {split: len(part) for split, part in made.items()} == {"train": 40, "val": 5, "test": 5}
    assert {name: texts for part in made.values() for name, texts in part.items()} == said
    backwards = divide(dict(reversed(said.items())), (0.8, 0.1, 0.1), 3)
    assert backwards == made
    assert list(backwards["train"]) == list(reversed(made["train"]))
    assert divide(said, (0.8, 0.1, 0.1), 4) != made
    three = dict(list(said.items())[:3])
    assert [len(part) for part in divide(three, (0.8, 0.1, 0.1), 0).values()] == [1, 1, 1]
    assert [len(part) for part in divide(three, (0.1, 0.8, 0.1), 0).values()] == [1, 1, 1]
    assert list(divide(said, (0.5, 0, 0.5), 0)) == ["train", "test"]
    with refuses(
        DataError, came="2 pictures", expected="at least one for each of train, val, test"
    ):
        divide({"a": ["a"], "b": ["b"]}, (0.8, 0.1, 0.1), 0)


def test_rows_of_a_picture_come_together_wherever_a_file_has_them() -> None:
    table = write(
        "t.csv", "image,caption,split\nb.jpg,a,val\na.jpg,b,train\nc.jpg,c,val\nb.jpg,d,val\n"
    )
    rows = read_captions([(None, table)])
    assert [(row.picture, row.caption, row.split) for row in rows] == [
        ("b.jpg", "a", "val"), ("b.jpg", "d", "val"), ("c.jpg", "c", "val"), ("a.jpg", "b", "train")
    ]  # fmt: skip
    assert rows[1].source == "read_captions: t.csv, line 5"


def test_files_with_and_without_splits_do_not_mix() -> None:
    table, karpathy = (
        write("t.csv", caption_formats.table(SAID)),
        write("k.json", caption_formats.karpathy({"train": SAID})),
    )
    with refuses(DataError, thing="some of the files", came="have splits and some have none"):
        read_captions([(None, table), ("val", table)])
    with refuses(DataError, thing="k.json", came="says itself who is in which split (train)"):
        read_captions([("val", karpathy)])
    failing(
        [
            "prepare",
            karpathy,
            "--split",
            "train=train.txt",
            "--features",
            "features.npz",
            "--out",
            "o.h5",
        ],
        "splits train already",
        "no lists",
    )
    failing(
        [
            "prepare",
            f"train={table}",
            f"val={table}",
            "--features",
            "features.npz",
            "--out",
            "o.h5",
        ],
        "'one.jpg' is in split 'train' and in 'val'",
    )
    assert by_name(read_captions([("a", table), ("b", table)])) == {"a": SAID, "b": SAID}


# what does not fit


COCO = json.loads(caption_formats.coco(SAID))
SKIPPED: dict[str, tuple[bytes | str, str]] = {
    "no word": (
        caption_formats.table({**SAID, "one.jpg": ["a dog", "...", ""]}),
        "captions without a word: 2 (one.jpg, one.jpg)",
    ),
    "no caption": (
        json.dumps({**COCO, "images": [*COCO["images"], {"id": 1, "file_name": "four.jpg"}]}),
        "pictures without captions: 1 (four.jpg)",
    ),
    "no feature": (
        caption_formats.table({**SAID, **{f"{i}.jpg": ["a dog"] for i in range(5)}}),
        "without features: 5 (0.jpg, 1.jpg, 2.jpg, ...)",
    ),
    "no image": (
        json.dumps(
            {**COCO, "annotations": [*COCO["annotations"], {"image_id": 1, "caption": "a"}]}
        ),
        "of no image: 1 (image_id 1)",
    ),
    "id twice": (
        json.dumps({**COCO, "annotations": [COCO["annotations"][0], *COCO["annotations"]]}),
        "the id of another: 1 (0)",
    ),
    "image twice": (
        json.dumps({**COCO, "images": [*COCO["images"], {"id": 1, "file_name": "one.jpg"}]}),
        "the name of another: 1 (one.jpg)",
    ),
    "Karpathy's image twice": (
        caption_formats.plain_karpathy(SAID).replace(
            b'"images": [', b'"images": [{"filename": "one.jpg", "sentences": [{"raw": "a dog"}]}, '
        ),
        "the name of another: 1 (one.jpg)",
    ),
    "key twice": (
        caption_formats.token(SAID) + b"one.jpg#0\tA dog\n",
        "second lines of one NAME#K: 1 (line 9)",
    ),
    "odd line": (caption_formats.token(SAID) + b"rubbish\n", "lines of another form: 1 (line 9)"),
    "short row": (
        caption_formats.table(SAID) + b"one.jpg\n",
        "rows without 2 columns: 1 (line 10)",
    ),
    "nameless list": (
        caption_formats.json_list(SAID).replace(
            b"[", b'[{"image": "", "captions": ["a dog", "a cat"]},', 1
        ),
        "rows without a picture: 1 (captions, row 1)",
    ),
    "nameless": (
        caption_formats.table(SAID) + b" ,a dog\n",
        "rows without a picture: 1 (captions, line 10)",
    ),
    "unlisted": (
        caption_formats.table({name: SAID[name] for name in ("two.jpg", "three.jpg")}),
        "have no captions, or were skipped: 1 (one.jpg)",
    ),
}


@pytest.mark.parametrize("name", SKIPPED)
def test_what_does_not_fit_is_counted_and_named_and_refused_if_strict(name: str) -> None:
    content, line = SKIPPED[name]
    write("captions", content)
    command = (
        "prepare captions --features features.npz --split train=train.txt --split val=val.txt "
        "--min-count 1 --out"
    ).split()
    output = good(*command, "own.h5").output.replace("read_captions: ", "")
    assert (
        len(
            [
                shown
                for shown in output.splitlines()
                if shown.startswith("skipped ") and shown.endswith(line)
            ]
        )
        == 1
    )
    kept = answer("info", "own.h5")["source"]["skipped"]
    assert sum(kept.values()) >= 1
    failing([*command, "strict.h5", "--strict"], line.split(" (")[0], "as --strict asks")


def zipped(*names: str, **stored: bytes) -> bytes:
    """A zip archive of files with these names, and of some with this content."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in {**stored, **dict.fromkeys(names, b"<x/>" * 99)}.items():
            archive.writestr(name, content)
    return file.getvalue()


BROKEN: dict[str, tuple[bytes | str, dict[str, Any]]] = {
    "nothing": ("", {"thing": "captions", "came": "is empty"}),
    "blank lines": ("\ufeff\r\n \n", {"thing": "captions", "came": "is empty"}),
    "prose": (
        "Dear all,\nhere are the captions",
        {
            "came": ("no form known here", "'Dear all,'"),
            "expected": ("COCO", "Karpathy", "NAME#K", "a table with commas"),
            "cause": "heading of a table, such as CSV",
        },
    ),
    "a table without heading": (
        "a.jpg;A dog\nb.jpg;A cat\n",
        {"came": ("no heading", "'a.jpg;A dog'"), "cause": "put image;caption above it"},
    ),
    "columns of other names": (
        "Datei;Beschreibung\na.jpg;Ein Hund\n",
        {"came": "has the columns 'Datei', 'Beschreibung'", "cause": "`image_column`"},
    ),
    "one column": ("image\na.jpg\n", {"came": ("no form known here", "'image'")}),
    "Latin 1": (
        "image,caption\na.jpg,Ein Hund läuft\n".encode("latin-1"),
        {"came": ("not UTF-8", "line 2; perhaps Windows-1252"), "cause": "as CSV UTF-8"},
    ),
    "two encodings": (
        "image,caption\na.jpg,ä\n".encode() + "b.jpg,ä\n".encode("cp1252"),
        {"came": ("not UTF-8", "line 3")},
    ),
    "UTF-16": (
        "image\tcaption\n".encode("utf-16"),
        {"came": "it is UTF-16", "cause": "save it as UTF-8"},
    ),
    "Excel's workbook": (
        zipped("[Content_Types].xml", "xl/workbook.xml"),
        {"came": "is an Excel workbook", "cause": "save the sheet as CSV UTF-8"},
    ),
    "Excel's old workbook": (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500),
        {"came": "is an old Excel workbook (.xls)", "cause": "as CSV UTF-8"},
    ),
    "a workbook of OpenOffice": (
        zipped(mimetype=b"application/vnd.oasis.opendocument.spreadsheet"),
        {"came": "is an OpenDocument spreadsheet", "cause": "as CSV UTF-8"},
    ),
    "a workbook of Apple's": (
        zipped("Index/Document.iwa"),
        {"came": "is a document of Apple's Numbers", "cause": "as CSV UTF-8"},
    ),
    "an archive": (
        zipped("captions.csv"),
        {"came": "is a zip archive", "cause": "unpack it first"},
    ),
    "a PDF of letters alone": (
        "%PDF-1.4\nimage,caption\na.jpg,a dog\n",
        {"came": "is a PDF", "expected": "a text file of captions"},
    ),
    "a page of the web": ("\n<!DOCTYPE html>\n<html>", {"came": "is an HTML page"}),
    "a photo": (
        b"\xff\xd8\xff\xe0" + bytes(100),
        {"came": "is a JPEG picture", "cause": "is the path right?"},
    ),
    "a quote never closed": (
        'image,caption\na.jpg,"A dog\nb.jpg,A cat\n',
        {"came": "unexpected end of data", "cause": "each quote that opens"},
    ),
    "a quote closed in the next row": (
        'image,caption\na.jpg,"A dog\nb.jpg,"A cat"\n',
        {"thing": "line 3", "cause": "each quote that opens"},
    ),
    "a field without end": (
        "image,caption\na.jpg,\n" + "b.jpg," + "x" * 200_000,
        {"thing": "line 3", "came": "field larger than field limit"},
    ),
    "a heading without end": ("image," * 100_000, {"came": "no form known here"}),
    "only short rows": ("image,caption\na.jpg\nb.jpg\n", {"came": "no caption that could be read"}),
    "many splits": (
        "image,caption,split\n" + "".join(f"{i}.jpg,a,s{i}\n" for i in range(30)),
        {"thing": "line 22", "came": "'s20'", "expected": "at most 20"},
    ),
    "a split with a path": (
        "image,caption,split\na.jpg,a,../x\n",
        {"thing": "line 2: split", "came": "'../x'"},
    ),
    "cut short": (
        caption_formats.coco(SAID)[:-30],
        {"came": "not whole JSON", "cause": "cut short"},
    ),
    "two texts": (
        caption_formats.coco(SAID) + caption_formats.coco(SAID),
        {"came": "not whole JSON"},
    ),
    "deep": ("[" * 100_000, {"came": "nested too deep"}),
    "deep objects": ('{"images":' * 100_000, {"came": "nested too deep"}),
    "many values": (
        "[" + "[]," * 9_000_000,
        {"came": "18,000,001 values", "cause": "is it a file of captions"},
    ),
    "a number without end": ("[" + "9" * 5000 + "]", {"came": "not whole JSON"}),
    "a list of numbers": (
        "[1, 2]",
        {"thing": "row 1", "came": "is 1", "expected": "an object"},
    ),
    "an empty list": ("[]", {"came": "no caption that could be read"}),
    "an empty object": ("{}", {"came": "has the columns"}),
    "another object": (
        '{"type": "FeatureCollection"}',
        {"came": "'type'", "expected": "image or image_name"},
    ),
    "another object in lines": ('{\n"type": 1}', {"came": "has the columns 'type'"}),
    "a broken line": (
        '{"image": "a", "caption": "b"}\n{"image": "a"\n',
        {"thing": "line 2", "came": "not whole JSON"},
    ),
    "a line of another kind": (
        '{"image": "a", "caption": "b"}\n7\n',
        {"thing": "line 2", "came": "is 7", "expected": "an object"},
    ),
    "a line of other types": (
        '{"image": "a", "caption": "b"}\n{"image": 7.5, "caption": ["b"]}\n',
        {"thing": "line 2: image", "came": "7.5", "expected": "text or a whole number"},
    ),
    "captions of objects": (
        '{"image": "a", "caption": [{"raw": 1}]}',
        {"thing": "caption[0]", "came": "an object", "expected": "text"},
    ),
    "COCO without captions": (
        '{"images": [{"id": 1, "file_name": "a"}]}',
        {"thing": "annotations", "came": "is missing", "cause": "captions_*.json"},
    ),
    "COCO's instances": (
        '{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "bbox": []}]}',
        {"thing": "annotations[0].caption", "cause": "instances_*.json"},
    ),
    "COCO of numbers": (
        '{"images": [{"id": 1, "file_name": 7}], "annotations": [{}]}',
        {"thing": "images[0].file_name", "came": "is 7"},
    ),
    "COCO of lists": (
        '{"images": {"a": 1}, "annotations": []}',
        {"thing": "images", "came": "is an object", "expected": "a list"},
    ),
    "COCO with a list for an id": (
        '{"images": [{"id": [], "file_name": "a"}], "annotations": [{}]}',
        {"thing": "images[0].id", "came": "is a list"},
    ),
    "Karpathy's without raw": (
        '{"images": [{"filename": "a", "sentences": [{"tokens": []}]}]}',
        {"thing": "images[0].sentences[0].raw", "came": "is missing"},
    ),
    "Karpathy's of numbers": (
        '{"images": [{"filename": 3, "sentences": []}]}',
        {"thing": "filename", "came": "is 3"},
    ),
    "Karpathy's of two kinds": (
        '{"images": [{"filename": "a", "sentences": []}, 7]}',
        {"thing": "images[1]", "came": "is 7"},
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_in_one_sentence(name: str) -> None:
    content, fields = BROKEN[name]
    with refuses(DataError, function="read_captions", **fields) as caught:
        read(content)
    assert caught.value.thing.startswith("captions")
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            r'{"image": "a\ud800.jpg", "caption": "a dog"}',
            ["image is text with half of a surrogate pair"],
        ),
        ("image,caption\n../a.jpg,a dog\n", ["'../a.jpg' would lie outside"]),
        ("image,caption\n/etc/a.jpg,a dog\n", ["'/etc/a.jpg' would lie outside"]),
        (
            "image,caption\nx/one.jpg,a dog\ny/one.jpg,a cat\n",
            ["'x/one.jpg' and 'y/one.jpg' both lead to 'one.jpg'"],
        ),
        (
            "image,caption\nnowhere.jpg,a dog\n",
            ["no picture left", "not in photos: 1 (nowhere.jpg)"],
        ),
        (
            "image,caption\ntwo.jpg,a dog\n",
            ["no picture left", "two.jpg (did you mean 1/two.jpg or 2/two.jpg?)"],
        ),  # in two sub-folders
    ],
)
def test_names_that_lead_astray_are_refused(content: str, words: list[str]) -> None:
    for place in ("photos", "photos/1", "photos/2"):
        Path(place).mkdir()
        Path(place, "one.jpg" if place == "photos" else "two.jpg").write_bytes(b"")
    Path("captions").write_text(content)
    failing(["prepare", "captions", "--pictures", "photos", "--out", "own.h5"], *words)


# the command


def test_a_folder_of_photos_and_a_table_become_a_captioner() -> None:
    """Names with a folder that is not there, pictures in sub-folders, one that cannot be read, one
    without captions.
    """
    Image = pytest.importorskip("PIL.Image")
    for i in range(10):
        path = Path("photos") / ("red" if i < 5 else "blue") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (200, 30, 30) if i < 5 else (30, 30, 200)).save(path)
    Image.new("RGB", (40, 30)).save("photos/spare.png")
    Path("photos/red/0.png").write_bytes(b"\x89PNG")
    write(
        "c.csv",
        "filename,caption\n"
        + "".join(f"old/{i}.png,a {'red' if i < 5 else 'blue'} thing\n" for i in range(10)),
    )
    command = (
        "prepare c.csv --pictures photos --encoder histogram --vocabulary 3 --float16 "
        "--fractions 0.8,0.2 --out"
    ).split()
    output = good(*command, "own.h5").output
    assert (
        "skipped pictures that cannot be read: 1 (red/0.png (cannot be read as a picture, expected"
        " JPEG" in output
    )
    assert "skipped pictures in photos without captions: 1 (spare.png)" in output
    assert "splits drawn by picture, 0.8 / 0.2, seed 0" in output
    data = open_data("own.h5")
    assert sum(len(split.images) for split in data.splits.values()) == 9
    assert len(data.vocabulary) == 4 + 3
    assert data.split("train").features.dtype == np.float16
    assert data.source.encoder == "histogram"
    assert all(
        (Path(str(data.source.pictures)) / name).exists()
        for split in data.splits.values()
        for name in split.images
    )
    assert dict(data.source.record["drawn"]) == {"fractions": [0.8, 0.2], "seed": 0}
    good(*command, "again.h5")
    assert Path("own.h5").read_bytes() == Path("again.h5").read_bytes()
    failing([*command, "strict.h5", "--strict"], "spare.png")
    Path("photos/spare.png").unlink()
    failing(
        [*command, "strict.h5", "--strict"],
        "photos/red/0.png cannot be read",
        left=("strict.h5.encoding",),
    )
    how = ("--epochs", 8, "--batch-size", 1, "--lr", 0.02, "--no-neighbours")
    good("train", "own.h5", "--out", "run", *SMALL, *how)
    assert "thing" in good("caption", "run", "photos/blue/9.png").output


def test_lists_name_pictures_as_the_captions_do_wherever_the_files_are() -> None:
    Path("photos/deep").mkdir(parents=True)
    for name in SAID:
        Path("photos/deep", name).write_bytes(b"a page shows it, nobody reads it here")
    files = [(None, write("captions", caption_formats.table(SAID)))]
    data, report = import_captions(
        files,
        lists={"train": "train.txt"},
        features_file="features.npz",
        pictures="photos",
        min_count=1,
    )
    assert data.split("train").images == ["deep/one.jpg", "deep/two.jpg"]
    np.testing.assert_array_equal(data.split("train").features, np.arange(8).reshape(2, 4))
    assert not report.skipped


def test_prepare_says_what_it_kept_cut_and_does_not_know() -> None:
    write(
        "c.csv",
        "image,caption\none.jpg,a dog a dog a dog\ntwo.jpg,a dog and more\nthree.jpg,strange"
        " words\n",
    )
    command = (
        "prepare c.csv --features features.npz --min-count 2 --max-words 5 --split "
        "train=train.txt --out own.h5"
    ).split()
    lines = good(*command).output.splitlines()
    assert lines == [
        "c.csv: a table with commas",
        "note: pictures in no split: 1",
        "own.h5: 6 words, features of size 4, captions of at most 5 words",
        "train  2 pictures  2 captions",
        "train: 1 captions cut, 22.2% of the words unknown",
        "  one.jpg: a dog a dog a",
        "  two.jpg: a dog <UNK> <UNK>",
        (
            "note: 2 pictures to learn from are far too few: captions begin to fit at about 250"
            " with five captions each; train --from another run gives a head start"
            " (docs/tutorials/your-photos.md)"
        ),
        (
            "note: 6 words only: 22.2% of the words to learn from are unknown; a lower"
            " --min-count would keep more"
        ),
    ]
    source = answer("info", "own.h5")["source"]
    assert (source["cut"], source["unknown"], source["skipped"], source["forms"]) == (
        {"train": 1},
        {"train": 0.2222},
        {},
        ["a table with commas"],
    )


def test_a_heading_in_another_language_is_answered_with_the_columns_that_look_right() -> None:
    rows = "".join(f"{i};{name};Ein Hund läuft schnell;{i}\r\n" for i, name in enumerate(SAID))
    write("Fotos und Texte.csv", "\ufeffNr;Datei;Meine Beschreibung;Jahr\r\n" + rows)
    command = [
        "prepare",
        "Fotos und Texte.csv",
        "--features",
        "features.npz",
        "--min-count",
        "1",
        "--out",
        "own.h5",
    ]
    failing(
        command,
        "Fotos und Texte.csv has the columns 'Nr', 'Datei', 'Meine Beschreibung', 'Jahr', expected",
        "--image-column and --caption-column, perhaps 'Datei' and 'Meine Beschreibung'",
    )
    good(*command, "--image-column", "Datei", "--caption-column", "Meine Beschreibung")
    assert sum(len(split.images) for split in open_data("own.h5").splits.values()) == 3
    failing(
        [*command[:-1], "other.h5", "--image-column", "Foto"],
        "expected one such as Foto for pictures",
        "by --image-column and --caption-column",
    )


def test_captions_that_a_picture_has_twice_are_kept_and_counted() -> None:
    write(
        "c.csv", caption_formats.table({**SAID, "two.jpg": ["a cat", "a cat ", "a dog", "a cat"]})
    )
    output = good(
        *"prepare train=c.csv --features features.npz --out own.h5 --min-count 1 --strict".split()
    ).output
    assert (
        "note: captions that a picture has twice, kept as they are; remove them from the file if"
        " that is a mistake: 3 (two.jpg, two.jpg, three.jpg)" in output
    )
    assert open_data("own.h5").texts("train")[3:7] == ["a cat", "a cat", "a dog", "a cat"]


def test_names_are_matched_or_suggested_and_other_files_counted() -> None:
    Image = pytest.importorskip("PIL.Image")
    composed, decomposed = (unicodedata.normalize(form, "Übung.png") for form in ("NFC", "NFD"))
    for name in ("IMG_1.PNG", decomposed, "2023/May/IMG_2.png", "IMG_3.png"):
        Path("photos", name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(Path("photos", name))
    for name in ("a.CR2", "2023/film.mp4", "2023/.DS_Store"):
        Path("photos", name).write_bytes(b"")
    write(
        "c.csv",
        f"image,caption\nimg_1.png,a dog\n{composed},a dog\nIMG_2.png,a dog\nIMG_3,a"
        " dog\nIMG_99.png,a dog\n",
    )
    command = (
        "prepare c.csv --pictures photos --encoder histogram --min-count 1 --fractions 1 --out "
        "own.h5"
    ).split()
    lines = good(*command).output.splitlines()
    for line in (
        (
            "note: names that differ from those there in capitals or Unicode form alone, taken as"
            f" the same: 2 (img_1.png is IMG_1.PNG, {composed} is {decomposed})"
        ),
        (
            "note: 2 other files in photos not looked at: 1 .cr2, 1 .mp4; a camera's RAW files are"
            " not read: export them as JPEG"
        ),
        (
            "skipped captioned pictures that are not in photos: 2 (IMG_99.png, IMG_3 (did you mean"
            " IMG_3.png?))"
        ),
        "skipped pictures in photos without captions: 1 (IMG_3.png)",
    ):
        assert line in lines
    assert open_data("own.h5").split("train").images == [
        "IMG_1.PNG",
        decomposed,
        "2023/May/IMG_2.png",
    ]


def test_too_few_words_are_remarked_with_an_option_that_keeps_more() -> None:
    names = [f"{i}.jpg" for i in range(300)]
    np.savez("features.npz", names=names, features=np.ones((300, 2), "f4"))
    words = [f"rare{i // 3} often often" for i in range(300)]  # each rare word three times
    write(
        "c.csv",
        caption_formats.table({name: [text] for name, text in zip(names, words, strict=True)}),
    )
    command = ["prepare", "train=c.csv", "--features", "features.npz", "--out"]
    line = good(*command, "own.h5", "--min-count", 5).output.splitlines()[-1]
    assert (
        line == "note: 5 words only: 33.3% of the words to learn from are unknown; a lower"
        " --min-count would keep more"
    )
    output = good(*command, "more.h5", "--min-count", 3).output
    assert "more.h5: 105 words" in output
    assert "words only" not in output
    assert "to learn from are" not in output  # 300 pictures are enough


def test_after_ctrl_c_prepare_says_how_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    Image = pytest.importorskip("PIL.Image")
    from xpcap.encoders import HistogramEncoder

    Path("photos").mkdir()
    for name in SAID:
        Image.new("RGB", (9, 9)).save(Path("photos", name))
    write("c.csv", caption_formats.table(SAID))
    command = "prepare train=c.csv --pictures photos --encoder histogram --min-count 1 --out own.h5".split()

    def interrupt(self: HistogramEncoder, pictures: Iterable[np.ndarray]) -> np.ndarray:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(HistogramEncoder, "encode", interrupt)
        result = call(*command)
    assert result.exit_code == 130
    assert (
        result.output
        == "prepare: interrupted; own.h5.encoding holds the features that were made; the same"
        " command continues from there, and removes it at the end\n"
    )
    good(*command)
    assert not Path("own.h5.encoding").exists()


def test_features_too_large_for_float16_are_refused() -> None:
    np.savez("features.npz", names=list(SAID), features=np.array([[1], [70_000], [1]], np.float32))
    write("c.csv", caption_formats.table(SAID))
    failing(
        ["prepare", "train=c.csv", "--features", "features.npz", "--float16", "--out", "o.h5"],
        "feature of 'two.jpg'",
        "above 65,504",
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["CAPTIONS is missing"]),
        (["c", "--encoder", "histogram"], ["--features and --encoder are both given"]),
        (["c", "--min-count", "2", "--vocabulary", "2"], ["--min-count and --vocabulary"]),
        (["c", "--split", "a=b", "--fractions", "1"], ["--split and --fractions"]),
        (["c", "--fractions", "0.5,0.4"], ["'0.5,0.4'", "together 1"]),
        (["c", "--fractions", "nan,1"], ["'nan,1'"]),
        (["c", "--fractions", "0,1"], ["'0,1'"]),
    ],
)
def test_misuse_of_prepare_exits_2(arguments: list[str], words: list[str]) -> None:
    command = "prepare --features features.npz --out o.h5".split()
    failing([*command, *arguments], *words, status=2)


# real captions


@pytest.mark.slow
def test_real_captions_are_the_same_data_as_csv_and_json(real_data: Path) -> None:
    source = real_data / "flickr8k"
    said = dict(
        list(
            caption_formats.by_picture(
                read_captions([(None, source / "Flickr8k.token.txt")])
            ).items()
        )[:400]
    )
    names = {
        name
        for name in np.load(source / "features_efficientnet_lite2.npz")["names"].tolist()
        if name in said
    }
    said = {name: [text.strip() for text in texts] for name, texts in said.items() if name in names}
    features = source / "features_efficientnet_lite2.npz"
    stamps = set()
    for form in caption_formats.FORMATS.values():
        data, report = import_captions([(None, write("file", form(said)))], features_file=features)
        good_bytes = [
            data.vocabulary.idx_to_word,
            *(split.captions.tolist() for split in data.splits.values()),
            *map(data.texts, data.splits),
        ]
        stamps.add(json.dumps(good_bytes))
        assert not report.skipped
    assert len(said) > 300
    assert len(stamps) == 1


@pytest.mark.slow
def test_coco_mini_prepares_and_trains(real_data: Path) -> None:
    coco = real_data / "coco_mini"
    files = [
        f"train={coco / 'captions_train2017_80images.json'}",
        f"val={coco / 'captions_val2017.json'}",
    ]
    output = good(
        "prepare",
        *files,
        "--pictures",
        coco,
        "--features",
        coco / "features_efficientnet_lite2.npz",
        "--out",
        "coco.h5",
    ).output
    assert "captioned pictures without features: 4,841" in output
    data = open_data("coco.h5")
    assert {name: len(split.images) for name, split in data.splits.items()} == {
        "train": 80,
        "val": 159,
    }
    assert all((coco / name).exists() for split in data.splits.values() for name in split.images)
    good("train", "coco.h5", "--out", "run", "--hidden", 32, "--wordvec", 16, "--epochs", 1)
