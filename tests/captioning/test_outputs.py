"""Outputs of captions, alone and together: tables that are continued, texts, pictures, pages."""

import contextlib
import csv
import io
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import answer, call, failing, good
from fixed_captioner import NAMES, FixedCaptioner
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from xpcap import DataError, open_run
from xpcap.captioning import captions, outputs
from xpcap.captioning.outputs import OPTIONAL, OUTPUTS, CsvTable, GrowingFile, JsonLines, NewFile
from xpcap.encoders import read_picture
from xpcap.errors import NetworkError
from xpcap.files import read_write
from xpcap.files.growing_tables import SKIPPED
from xpcap.models import Beam, Policy, Sampling
from xpcap.prepare import read_captions
from xpcap.prepare.submission import read_submission
from xpcap.runs.decoder import RerankedBeam
from xpcap.runs.records import PictureCaption
from xpcap.runs.run import default_policy

ENCODE = captions.encode_picture
ANY: Any = None  # a run that nobody asks

pytestmark = pytest.mark.usefixtures("few_pictures")


@pytest.fixture
def photos(run: Path) -> Path:
    """Twelve pictures in two folders, and two that are broken."""
    folder = Path(shutil.copytree(run / "pictures", "photos"))
    for path in sorted(folder.iterdir())[10:]:
        path.unlink()
    (folder / "2023").mkdir()
    for name in ("val00003.png", "val00004.png"):
        (folder / name).rename(folder / "2023" / name)
    (folder / "2023" / "empty.jpg").write_bytes(b"")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    return folder


def rows(path: str, delimiter: str = ",") -> list[list[str]]:
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file, delimiter=delimiter))


def captions_by_name(run: Path, photos: Path) -> dict[str, str]:
    said = answer("caption", run, photos)
    return {one["image"]: one["caption"] for one in said}


def interrupt_at(patch: pytest.MonkeyPatch, count: int) -> list[Any]:
    """Interrupt at the picture after so many; the pictures that were read, as they come."""
    encoded: list[Any] = []

    def read(source: Any, encoder: Any) -> Any:
        if len(encoded) == count:
            raise KeyboardInterrupt
        encoded.append(source)
        return ENCODE(source, encoder)

    patch.setattr(captions, "encode_picture", read)
    return encoded


BROKEN = ["photos/broken.jpg", "photos/2023/empty.jpg"]


def test_a_table_has_a_row_of_every_caption_in_order_and_a_list_what_failed(
    run: Path, photos: Path
) -> None:
    expected = captions_by_name(run, photos)
    result = good("caption", run, photos, "--csv", "captions.csv")
    header, *found = rows("captions.csv")
    assert header == ["picture", "caption", "captioner"]
    assert [row[0] for row in found] == [
        *(str(path) for path in sorted(photos.glob("*.png"))),
        *(str(path) for path in sorted(photos.glob("2023/*.png"))),
    ]
    assert {name: caption for name, caption, _ in found} == expected
    assert {row[2] for row in found} == {open_run(run).signature()}
    header, *failed = rows("captions.csv.skipped.csv")
    assert header == ["picture", "reason"]
    assert [name for name, _ in failed] == BROKEN
    assert "is empty" in failed[1][1]
    assert result.stdout == (
        "wrote 10 captions to captions.csv\n"
        "captions.csv.skipped.csv lists 2 pictures that failed; the same command tries again\n"
    )


@pytest.mark.parametrize("saved", [";\r\n", "\t\n"])
def test_a_table_that_a_spreadsheet_saved_goes_on_as_it_was_saved(saved: str) -> None:
    """With its delimiter, line ends and byte order mark, also cut off."""
    captioner = FixedCaptioner()
    captioner.write(NAMES, CsvTable(Path("whole.csv")))
    assert Path("whole.csv").read_bytes()[:3] == b"\xef\xbb\xbf"  # for Excel
    text = io.StringIO()
    table = csv.writer(text, delimiter=saved[0], lineterminator=saved[1:])
    table.writerows(rows("whole.csv"))
    whole = b"\xef\xbb\xbf" + text.getvalue().encode()
    for cut in range(whole.index(b"two"), len(whole) + 1):
        Path("cut.csv").write_bytes(whole[:cut])
        captioner.write(NAMES, CsvTable(Path("cut.csv")))
        assert Path("cut.csv").read_bytes() == whole
    assert rows("cut.csv", saved[0]) == rows("whole.csv")


@pytest.mark.parametrize("kind", [CsvTable, JsonLines])
def test_a_table_or_json_lines_are_read_as_captions_again(kind: type[GrowingFile]) -> None:
    path, names = Path(f"c{kind.suffix}"), ["a.png", "犬;.png"]
    FixedCaptioner().write(names, kind(path))
    assert "犬" in path.read_text(encoding="utf-8")
    expected = {name: f"Hündchen auf {name}" for name in names}
    assert {row.picture: row.caption for row in read_captions([(None, path)])} == expected
    assert read_submission(path, names).captions == expected  # as `score` does


def test_a_table_knows_a_picture_by_its_file(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, albums = Path("t.csv").absolute(), ["albums/a", "albums/b"]
    for album in albums:
        Path(album).mkdir(parents=True)
        shutil.copy(photos / "val00000.png", Path(album, "1.png"))
        with monkeypatch.context() as patch:
            patch.chdir(album)
            good("caption", run.absolute(), ".", "--csv", table)
    again = good("caption", run, Path("albums").absolute(), "photos/../albums", "--csv", "t.csv")
    assert "t.csv has 4 of 4 pictures already" in again.stderr
    assert [row[0] for row in rows("t.csv")[1:]] == [f"{album}/1.png" for album in albums]


def test_a_table_takes_captions_of_its_captioner_alone(run: Path, photos: Path) -> None:
    good("caption", run, photos, "--csv", "c.csv")
    before, signature = Path("c.csv").read_bytes(), open_run(run).signature()
    other = Path(shutil.copytree(run, "other"))
    assert open_run(other).signature() == signature  # wherever a run lies
    weights = load_file(other / "best.safetensors")
    weights["b"] = weights["b"] + 1
    with safe_open(other / "best.safetensors", "np") as file:
        save_file(weights, other / "best.safetensors", file.metadata())
    words = f"captions by {signature}, expected captions by {open_run(other).signature()}"
    failing(["caption", other, photos, "--csv", "c.csv"], words)
    for option in (("--beam", 2), ("--temperature", 1), ("--ban", "red"), ("--no-repeat",)):
        failing(["caption", run, photos, "--csv", "c.csv", *option], "choose another name")
    good("caption", run, photos, "--csv", "c.csv")
    assert Path("c.csv").read_bytes() == before


def test_a_captioner_is_told_by_parameters_decoding_and_options(run: Path, reranked: Path) -> None:
    """The usual limits of a reranked run are no options."""
    opened = open_run(run)
    word = opened.vocabulary.idx_to_word[-1]
    last = len(opened.vocabulary) - 1
    name = f"LSTM with parameters {opened.digest}"
    for policy, text in (
        (None, "greedy"),
        (Policy(least_length=2, forbid=[last]), f"greedy, forbid {word}, least_length 2"),
        (Beam(3, n_best=2), "beam of 3, length penalty 1"),
        (Sampling(0.5, seed=4), "sampling at temperature 0.5, seed 4"),
        (Policy(max_length=3, no_repeat_trigram=True), "greedy, max_length 3, no_repeat_trigram"),
    ):
        assert opened.signature(policy) == f"{name}, {text}"
    opened = open_run(reranked)
    name = f"LSTM with parameters {opened.digest}, beam of 10, reranked by similar photos"
    assert opened.signature() == name
    policy = default_policy(opened, no_repeat_trigram=True)
    assert opened.signature(policy) == f"{name}, no_repeat_trigram"
    policy = RerankedBeam(groups=2, no_stutter=policy.no_stutter)
    grouped = "beam of 10 in 2 groups, diversity 0.5, reranked"
    assert opened.signature(policy) == name.replace("beam of 10, reranked", grouped)


def test_a_file_that_is_no_such_table_is_refused_and_stays(run: Path, photos: Path) -> None:
    for name, content in (
        ("notes.csv", "name,price\na,1\nb,2"),
        ("cut.csv", "picture;caption"),
        ("mac.csv", "\ufeffpicture,caption,captioner\ra.png,a dog,me\r"),
        ("one.txt", ""),
    ):
        Path(name).write_bytes(content.encode())
        failing(["caption", run, photos, "--csv", name], name, "expected ")
        assert Path(name).read_bytes() == content.encode()
    listed = Path("c.csv.skipped.csv")
    listed.write_text("name,reason\na.png,left out by prepare\n")
    failing(
        ["caption", run, photos, "--csv", "c.csv"],
        f"{listed} is another file, expected a new file, or a table with the heading picture,reason",
        left=("c.csv",),
    )
    failing(["caption", run, photos, "--csv", "nowhere/a.csv"], "nowhere, which is not a folder")


def test_a_list_of_failures_takes_the_place_of_a_link(run: Path, photos: Path) -> None:
    Path("c.csv.skipped.csv").symlink_to("nowhere")
    good("caption", run, photos, "--csv", "c.csv")
    assert not Path("nowhere").exists()
    assert len(rows("c.csv.skipped.csv")) == 3


def test_the_captions_of_a_beam_have_a_column_each(run: Path, photos: Path) -> None:
    beam = ("--beam", 3, "--n-best", 3)
    said = answer("caption", run, photos, *beam)
    good("caption", run, photos, *beam, "--csv", "c.csv", "--txt")
    header, *found = rows("c.csv")
    assert header == ["picture", "caption", "caption_2", "caption_3", "captioner"]
    assert [row[:4] for row in found] == [
        [one["image"], *(best["caption"] for best in one["n_best"])] for one in said
    ]
    for one in said:
        text = Path(one["image"]).with_suffix(".txt").read_text(encoding="utf-8")
        assert text.splitlines() == [best["caption"] for best in one["n_best"]]


def test_text_files_stand_beside_the_pictures_and_those_of_others_stay(
    run: Path, photos: Path
) -> None:
    expected = captions_by_name(run, photos)
    (photos / "val00001.txt").write_text("my dog\n")
    result = good("caption", run, photos, "--txt")
    assert result.stdout == "wrote 9 of 10 captions next to their pictures, as .txt\n"
    assert "notice: photos/val00001.txt is not replaced: it has a different text" in result.stderr
    texts = {path: path.read_text(encoding="utf-8") for path in photos.rglob("*.txt")}
    assert texts.pop(photos / "val00001.txt") == "my dog\n"
    assert texts == {
        Path(name).with_suffix(".txt"): f"{caption}\n"
        for name, caption in expected.items()
        if name != "photos/val00001.png"
    }
    times = {path: path.stat().st_mtime_ns for path in texts}
    assert good("caption", run, photos, "--txt").stdout == result.stdout
    assert {path: path.stat().st_mtime_ns for path in texts} == times


def test_pictures_that_share_a_name_have_a_text_each_which_prepare_reads(
    run: Path, photos: Path
) -> None:
    shutil.copy(photos / "val00001.png", photos / "VAL00000.tif")
    (photos / "broken.jpg").unlink()
    good("caption", run, photos / "val00000.png", "--txt")  # alone, as with its folder
    result = good("caption", run, photos, "--txt")
    assert "wrote 11 of 11 captions" in result.stdout
    assert "ignored" not in good("caption", run, photos, "--txt").stderr
    texts = {path.name for path in photos.glob("*.txt")}
    assert {"val00000.png.txt", "VAL00000.tif.txt", "val00001.txt"} <= texts
    assert "val00000.txt" not in texts
    pairs = {row.picture: row.caption for row in read_captions([(None, photos)])}
    assert pairs == captions_by_name(run, photos)


def test_a_finished_table_gives_its_texts_without_captioning(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beam = ("caption", run, photos, "--beam", 3, "--n-best", 2)
    good(*beam, "--csv", "t.csv")
    encoded = interrupt_at(monkeypatch, 2)  # the broken ones
    result = good(*beam, "--csv", "t.csv", "--txt", "--jsonl", "t.jsonl")
    assert "wrote 10 of 10 captions next to their pictures" in result.stdout
    assert [str(path) for path in encoded] == BROKEN
    header, *table = rows("t.csv")
    for name, *texts, _ in table:
        assert Path(name).with_suffix(".txt").read_text().splitlines() == texts
    objects = map(json.loads, Path("t.jsonl").read_text(encoding="utf-8").splitlines())
    assert list(objects) == [dict(zip(header, row, strict=True)) for row in table]
    interrupt_at(monkeypatch, 2)
    nothing = good(*beam, "--csv", "t.csv", "--txt", "--html", "q.html")  # a page shows pictures
    assert "q.html was not written: there is no new picture\n" in nothing.stdout


def test_two_commands_that_write_texts_side_by_side_are_no_error(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each finds what the other has just written: its own caption, or another text."""
    meanwhile = iter(["mine\n"])

    place = read_write._place

    def place_second(part: Path, path: Path) -> None:
        path.write_text(next(meanwhile, part.read_text()))
        place(part, path)

    monkeypatch.setattr(read_write, "_place", place_second)
    result = good("caption", run, photos, "--txt")
    assert result.stdout == "wrote 9 of 10 captions next to their pictures, as .txt\n"
    assert result.stderr.count("it has a different text") == 1


FILES = {kind.flag: f"all{kind.suffix}" for kind in OUTPUTS if kind.suffix}
NEW = [kind.flag for kind in OUTPUTS if issubclass(kind, NewFile)]
EVERY = [*(word for pair in FILES.items() for word in pair), "--txt", "--json"]


def test_each_output_says_what_the_command_asks_of_it() -> None:
    """Its flag, and a sentence of help, and how the name of its file ends."""
    assert len({kind.flag for kind in OUTPUTS}) == len(OUTPUTS)
    for kind in OUTPUTS:
        assert re.fullmatch("--[a-z-]+", kind.flag), kind
        assert kind.help.endswith("."), kind
        ends = r"\.\w+" if issubclass(kind, NewFile | GrowingFile) else ""
        assert re.fullmatch(ends, kind.suffix), kind
        assert not issubclass(kind, NewFile) or kind.content is not NewFile.content, kind
        assert kind.wants <= OPTIONAL.keys(), kind


def test_each_output_has_the_same_bytes_alone_and_together(run: Path, photos: Path) -> None:
    printed = good("caption", run, photos, "--json").stdout
    said = Counter(one["caption"] for one in json.loads(printed))
    wrote, content = [], {}
    for flag, name in FILES.items():
        lines = good("caption", run, photos, flag, name).stdout.splitlines()
        told = [line for line in lines if line.startswith("wrote") and name in line]
        assert told, f"{flag} ends with {lines[-1:]}, expected `close` to say what it wrote: {name}"
        assert Path(name).is_file(), f"{flag} says {told[0]!r}, and there is no such file"
        wrote += told
        content[name] = Path(name).read_bytes()
        with contextlib.suppress(UnicodeDecodeError):  # a picture
            text = content[name].decode()
            lacking = [caption for caption, times in said.items() if text.count(caption) < times]
            assert not lacking, f"{name}, by {flag}, lacks {lacking}"
    for name in FILES.values():
        Path(name).unlink()
    together = good("caption", run, photos, *EVERY)
    assert {name: Path(name).read_bytes() for name in FILES.values()} == content
    assert together.stdout == printed
    lines = [line for line in together.stderr.splitlines() if line.startswith("wrote")]
    texts = "wrote 10 of 10 captions next to their pictures, as .txt"
    assert sorted(lines) == sorted([*wrote, texts])
    assert {Path(one["image"]).with_suffix(".txt") for one in json.loads(printed)} == set(
        photos.rglob("*.txt")
    )


def test_what_each_output_wrote_before_an_interrupt_it_keeps(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that grow are continued to the bytes of one that was not interrupted."""
    growing = [(kind.flag, FILES[kind.flag]) for kind in OUTPUTS if issubclass(kind, GrowingFile)]
    for flag, name in growing:
        good("caption", run, photos, flag, f"whole-{name}")
    monkeypatch.setattr(captions, "BATCH", 1)
    interrupt_at(monkeypatch, 5)
    result = call("caption", run, photos, *EVERY)
    assert (result.exit_code, result.stdout) == (130, "")
    assert "all.csv has 4 of 12 pictures; the same command adds the others" in result.stderr
    table = {row[0]: row[1] for row in rows("all.csv")[1:] if row[1]}
    assert {str(path.with_suffix(".png")): path.read_text() for path in photos.rglob("*.txt")} == {
        name: f"{caption}\n" for name, caption in table.items()
    }
    assert not any(Path(FILES[flag]).exists() for flag in NEW)
    encoded = interrupt_at(monkeypatch, 99)
    again = good("caption", run, photos, *EVERY[:-1])
    assert "all.csv has 4 of 12 pictures already; all outputs get the other 8" in again.stderr
    assert len(encoded) == 8
    for name in [x + suffix for _, x in growing for suffix in ("", SKIPPED)]:
        assert Path(name).read_bytes() == Path(f"whole-{name}").read_bytes() != b""
    page = Path("all.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/') == 6
    assert not any(name in page for name in table)


def test_a_file_that_another_command_wrote_meanwhile_stays(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(*args: Any) -> Any:
        Path(name).write_text("theirs")
        return ENCODE(*args)

    flag, name = NEW[0], FILES[NEW[0]]
    monkeypatch.setattr(captions, "encode_picture", other)
    failing(["caption", run, photos, flag, name], f"{name} exists, and is not", left=(name,))
    assert Path(name).read_text() == "theirs"


@pytest.mark.parametrize("flag", NEW)
def test_a_place_that_will_not_do_is_refused_before_any_work(
    flag: str, run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xpcap.cli.caption.open_run", lambda *args: pytest.fail("work was done"))
    Path(FILES[flag]).write_text("theirs")
    for place, words in {
        FILES[flag]: "exists, and is not overwritten",
        "page.jpg": f"page.jpg does not end in {Path(FILES[flag]).suffix}",
        f"nowhere/{FILES[flag]}": "nowhere, which is not a folder",
    }.items():
        failing(["caption", run, photos, flag, place], words)
    assert Path(FILES[flag]).read_text() == "theirs"


def test_what_failed_is_tried_again_and_leaves_the_list_when_it_succeeds(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = True

    def read(url: str) -> np.ndarray:
        if "gone" in url:
            raise DataError(f"{url} gives HTTP Error 404: Not Found")
        if down:
            raise NetworkError(f"{url} cannot be read: timed out after 20 seconds")
        return read_picture(photos / "val00001.png")

    monkeypatch.setattr(captions, "read_url", read)
    slow, gone = "http://a.example/slow.png", "http://a.example/gone.png"
    broken = photos / "broken.jpg"
    command = ("caption", run, slow, gone, photos / "val00000.png", broken, "--csv", "c.csv")
    first = good(*command)
    assert f"skipped {slow}: cannot be read: timed out" in first.stderr
    assert "c.csv.skipped.csv lists 3 pictures that failed" in first.stdout
    assert [row[0] for row in rows("c.csv.skipped.csv")[1:]] == [slow, gone, str(broken)]
    listed = Path("c.csv.skipped.csv").read_bytes()
    done = f"{photos / 'val00000.png'},as a process noted that was killed before it had it\n"
    Path("c.csv.skipped.csv").write_bytes(listed + done.encode())
    good(*command)
    assert Path("c.csv.skipped.csv").read_bytes() == listed
    down = False
    shutil.copy(photos / "val00002.png", broken)  # as if its format could be read now
    good(*command)
    assert rows("c.csv.skipped.csv")[1:] == [[gone, "gives HTTP Error 404: Not Found"]]
    assert [row[0] for row in rows("c.csv")[1:]] == [
        str(photos / "val00000.png"),
        slow,
        str(broken),
    ]
    good("caption", run, photos / "2023", "--csv", "c.csv")
    assert [row[0] for row in rows("c.csv.skipped.csv")[1:]] == [gone, "photos/2023/empty.jpg"]
    monkeypatch.setattr(captions, "read_url", lambda url: read_picture(photos / "val00001.png"))
    shutil.copy(photos / "val00002.png", photos / "2023" / "empty.jpg")
    last = good("caption", run, gone, photos / "2023", "--csv", "c.csv")
    assert last.stdout == "wrote 2 captions to c.csv\n"
    assert not Path("c.csv.skipped.csv").exists()


def test_a_table_of_a_split_is_continued_too(run: Path) -> None:
    good("caption", run, "-n", 3, "--csv", "c.csv")
    three = Path("c.csv").read_bytes()
    more = good("caption", run, "-n", 14, "--csv", "c.csv", "--json")
    assert "c.csv has 3 of 14 pictures already; all outputs get the other 11" in more.stderr
    assert len(json.loads(more.stdout)) == 11
    assert Path("c.csv").read_bytes().startswith(three)
    assert len({row[0] for row in rows("c.csv")}) == 1 + 14


def test_reasons_are_printed_beside_a_table_if_they_are_asked_for(reranked: Path) -> None:
    text = good("caption", reranked, "-n", 2, "--explain").stdout
    assert "why" in text
    assert good("caption", reranked, "-n", 2, "--explain", "--csv", "c.csv").stdout == (
        f"{text}wrote 2 captions to c.csv\n"
    )


def test_pages_keep_what_they_embed_and_a_png_no_more_than_it_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outputs, "DRAWN", 3)
    page, png = outputs.Page(Path("p.html")), outputs.Png(Path("p.png"))
    large = np.zeros((800, 1000, 3), np.uint8)
    outputs.deliver(
        (PictureCaption(f"{n}.png", "a", [], [], picture=large) for n in range(9)), (page, png)
    )
    assert {one.picture[1:] for one in page.captions} == {(320, 256, False)}  # a JPEG as shown
    assert {len(one.picture.uri) < 9000 for one in page.captions} == {True}
    assert [one.picture is not None for one in png.captions] == [True] * 3 + [False] * 6


def test_outputs_that_write_to_pictures_need_files(run: Path, photos: Path) -> None:
    for args, words in (
        (("--txt",), "--txt requires pictures"),
        (("https://example.org/a.png", "--txt", "--csv", "a.csv"), "--txt is given with the URL"),
    ):
        result = call("caption", run, *args)
        assert result.exit_code == 2
        assert words in " ".join(result.output.split())
    assert not Path("a.csv").exists()
    failing(
        ["caption", run, photos / "broken.jpg", "--csv", "a.csv"],
        "wrote 0 captions to a.csv\n",
        "no picture could be read",
        left=("a.csv", "a.csv.skipped.csv"),
    )
