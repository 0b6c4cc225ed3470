"""`caption` on picture files, its pages, and `prepare --pictures`: from a folder of pictures to
captions of others.
"""

import html
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import SMALL, answer, call, failing, good
from programs import program

Image = pytest.importorskip("PIL.Image")

import drawings  # noqa: E402 - after the skip

from xpcap import open_run, runs  # noqa: E402 - after the skip
from xpcap.encoders import ENCODERS, HistogramEncoder, read_picture  # noqa: E402
from xpcap.encoders.pictures import formats  # noqa: E402
from xpcap.errors import DataError  # noqa: E402
from xpcap.runs import captions, outputs, pages  # noqa: E402
from xpcap.shapes.scenes import make_scene, paint  # noqa: E402

pytestmark = pytest.mark.usefixtures("few_pictures")


@pytest.fixture
def photos(run: Path) -> Path:
    """The run's val pictures, some of them in other formats, and files that are no pictures."""
    folder = Path("photos")
    shutil.copytree(run / "pictures", folder)
    for path in sorted(folder.iterdir())[4:]:
        path.unlink()
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    (folder / "notes.txt").write_text("not for captioning")
    return folder


def scene(path: Path, number: int) -> Path:
    Image.fromarray(paint(make_scene("train", number, seed=0))).save(path)
    return path


def test_files_are_captioned_as_the_same_pictures_of_the_split_are(run: Path, photos: Path) -> None:
    """In the order they were given, folders by name; what cannot be read is named on standard
    error.
    """
    result = good("caption", run, photos / "val00002.png", photos, "none.png", "--json")
    said = json.loads(result.stdout)
    assert [Path(one["image"]).name for one in said] == [
        "val00002.png",
        *(f"val0000{i}.png" for i in range(4)),
    ]
    assert said[0] == said[3]
    of_split = {one["image"]: one for one in answer("caption", run, "-n", 14)}
    for one in said:
        assert set(one) == {"image", "caption", "probabilities", "references"}
        twin = of_split[Path(one["image"]).name]
        assert (one["caption"], one["references"]) == (twin["caption"], [])
        assert one["probabilities"] == pytest.approx(twin["probabilities"], abs=1e-5)
        assert len(one["probabilities"]) == len(one["caption"].split()) > 0
    named = result.stderr.splitlines()
    assert named == [
        "note: 1 other file in photos not looked at: 1 .txt",
        (
            f"skipped photos/broken.jpg: cannot be read as a picture, expected {formats()};"
            " damaged, or of another kind?"
        ),
        "skipped none.png: does not exist, expected a picture file; is the path right?",
    ]
    text = good("caption", run, photos).stdout
    assert [line for line in text.splitlines() if line and not line.startswith(" ")] == [
        f"photos/val0000{i}.png" for i in range(4)
    ]
    assert f"  model  {said[0]['caption']}" in text
    assert "truth" not in text


def test_photos_in_folders_inside_folders_are_captioned_as_those_in_the_folder_are(
    run: Path, photos: Path
) -> None:
    said = {Path(one["image"]).name: one["caption"] for one in answer("caption", run, photos)}
    (photos / "2023" / "May").mkdir(parents=True)
    for name in ("val00001.png", "val00003.png"):
        (photos / name).rename(photos / "2023" / "May" / name)
    deep = answer("caption", run, photos)
    assert [one["image"].removeprefix("photos/") for one in deep] == [
        "val00000.png", "val00002.png", "2023/May/val00001.png", "2023/May/val00003.png",
    ]  # fmt: skip
    assert {Path(one["image"]).name: one["caption"] for one in deep} == said


def test_the_table_of_drawings_is_measured_on_every_sheet(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(drawings, "COUNT", 2)
    drawings.main(str(run))
    sheets = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines()[2:]]
    assert sheets == ["600 x 600", *["800 x 600"] * 3, "1920 x 1080", "1080 x 1920"]
    for style, middle in zip(drawings.STYLES, (True, True, False), strict=True):
        picture, pairs = drawings.drawing(np.random.default_rng(0), (300, 200), "one", style)
        ((colour, _),) = pairs
        paints = [(picture == paint).all(axis=2) for paint in drawings.PAINTS[colour]]
        assert sum(map(np.count_nonzero, paints)) > 0
        assert (np.count_nonzero((picture != 255).any(axis=2)) > 400) == middle


def test_batches_do_not_change_captions_or_their_order(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = answer("caption", run, photos)
    monkeypatch.setattr(captions, "BATCH", 2)
    cut = answer("caption", run, photos)
    assert [(one["image"], one["caption"]) for one in cut] == [
        (one["image"], one["caption"]) for one in whole
    ]


def test_one_process_of_several_captions_and_waits_for_no_other(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xpcap.cli.shared.init", lambda: pytest.fail("joined ranks that had left"))
    good("caption", run, "-n", 1)
    good("look", run, scene(Path("a.png"), 0))
    monkeypatch.setattr("xpcap.cli.group.launcher_rank", lambda: (1, 2))
    assert (call("caption", run).exit_code, call("caption", run).output) == (0, "")


def test_names_of_any_kind_reach_the_output(run: Path) -> None:
    names = ["two words.png", "Ωμέγα 🐕.png", "<b>&amp;.png", "line\nbreak.png"]
    if os.name == "posix":
        names.append(os.fsdecode(b"\xff.png"))
    for name in names:
        scene(Path(name), 0)
    assert [one["image"] for one in answer("caption", run, *names)] == names
    shown = good("caption", run, *names, "--html", "p.html").stdout.splitlines()
    assert shown.count("line break.png") == 1  # a picture takes two lines, whatever its name
    assert len(shown) == 2 * len(names) + 2
    assert (
        r"skipped no such\x1b[31m.png: does not exist"
        in good("caption", run, "no\nsuch\x1b[31m.png", names[0]).stderr
    )
    assert "&lt;b&gt;&amp;amp;.png" in Path("p.html").read_text(encoding="utf-8")


def test_none_that_can_be_read_is_a_failure(run: Path, photos: Path) -> None:
    Path("empty").mkdir()
    for args in ([photos / "broken.jpg"], ["empty"], ["none.png", photos / "broken.jpg", "empty"]):
        failing(
            ["caption", run, *args, "--html", "p.html", "--png", "p.png"],
            "skipped ",
            f"none of {len(args)} could be read",
        )
    result = call("caption", run, "none.png", "--json")
    assert (result.exit_code, result.stdout) == (1, "[]\n")
    assert "skipped empty: holds no picture" in good("caption", run, "empty", photos).stderr


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read anything")
def test_what_may_not_be_read_is_skipped_like_what_is_damaged(run: Path, photos: Path) -> None:
    (photos / "val00001.png").chmod(0)
    Path("locked").mkdir(mode=0)
    result = good("caption", run, "locked", "locked/a.png", photos)
    assert result.stdout.count("  model  ") == 3
    named = [line for line in result.stderr.splitlines() if "Permission denied" in line]
    assert [line.partition(": ")[0] for line in named] == [
        "skipped locked",
        "skipped locked/a.png",
        "skipped photos/val00001.png",
    ]


def test_pages_show_the_pictures_with_their_captions(run: Path, photos: Path) -> None:
    before = {path: path.read_bytes() for path in photos.iterdir()}
    output = good("caption", run, photos, "--html", "p.html", "--png", "p.png").stdout
    assert "wrote p.html\nwrote p.png\n" in output
    page = Path("p.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 4
    for words in (
        "Captions by run",
        "photos/val00003.png",
        "photos/broken.jpg",
        "cannot be read as a picture",
        "In the order they were given.",
    ):
        assert words in page
    with Image.open("p.png") as drawn:
        assert drawn.width == 3 * 330
    assert {path: path.read_bytes() for path in photos.iterdir()} == before
    result = good("caption", run, "-n", 3, "--json", "--html", "split.html", "--png", "split.png")
    page = Path("split.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 3
    for one in json.loads(result.stdout):
        assert one["references"][0] in page
    assert result.stderr.splitlines() == ["wrote split.html", "wrote split.png"]


def test_generated_pictures_that_are_no_files_are_drawn_again(run: Path) -> None:
    """Those of the train split are never written."""
    for args in (["--split", "train"], []):
        shutil.rmtree(run / "pictures", ignore_errors=True)
        good("caption", run, *args, "-n", 3, "--html", "p.html", "--png", "p.png")
        page = Path("p.html").read_text(encoding="utf-8")
        assert page.count("data:image/png;base64,") == 3
        Path("p.html").unlink()
        Path("p.png").unlink()
    data = open_run(run).data()
    look = pages.picture_finder(open_run(run), data.source)
    np.testing.assert_array_equal(look("train00007.png"), paint(make_scene("train", 7, seed=0)))


def test_json_explains_a_ranked_caption_by_photos_and_all_candidates(ranked: Path) -> None:
    said = answer("caption", ranked, "-n", 3, "--explain")
    of_train = {f"train{i:05d}.png" for i in range(60)}
    run = open_run(ranked)
    assert run.ranker is not None
    data, index = run.data(), run.ranker.index
    numbers = np.array([data.split("val").images.index(one["image"]) for one in said])
    cosines = index.embeddings_of(data.features("val", numbers)) @ index.embeddings.T.astype("f4")
    for one, alike in zip(said, (cosines > 0).sum(axis=1).tolist(), strict=True):
        neighbours, candidates = (one["explanation"][x] for x in ("neighbours", "candidates"))
        similarities = [neighbour["similarity"] for neighbour in neighbours]
        assert len(similarities) == min(alike, 30)
        assert similarities == sorted(similarities, reverse=True)
        assert {neighbour["image"] for neighbour in neighbours} < of_train
        assert all(neighbour["captions"] for neighbour in neighbours)
        assert candidates[0]["caption"] == one["caption"]
        scores = [candidate["score"] for candidate in candidates]
        assert scores == sorted(scores, reverse=True)
        assert scores == pytest.approx([sum(one["parts"].values()) for one in candidates])
        assert {candidate["image"] for candidate in candidates} < {"", *of_train}
    plain = answer("caption", ranked, "-n", 3)
    for one in said:
        del one["explanation"]
    assert plain == said


def test_text_explains_a_ranked_caption_relative_to_the_likeliest(ranked: Path) -> None:
    (one,) = answer("caption", ranked, "-n", 1, "--explain")
    neighbours, candidates = (one["explanation"][x] for x in ("neighbours", "candidates"))
    lines = good("caption", ranked, "-n", 1, "--explain").stdout.splitlines()
    assert lines[3] == f"  why    {one['explanation']['decision']}"
    photos = [line.split() for line in lines[6:11]]
    assert [words[:2] for words in photos] == [
        [f"{near['similarity']:.2f}", near["image"]] for near in neighbours[:5]
    ]
    assert [" ".join(words[2:]) for words in photos] == [
        near["captions"][0] for near in neighbours[:5]
    ]
    head, *rows = lines[13:-1]
    made = [candidate for candidate in candidates if not candidate["image"]]
    likeliest = max(made, key=lambda candidate: candidate["log_probability"])
    shown = candidates[:5] if likeliest in candidates[:5] else [*candidates[:5], likeliest]
    assert len(rows) == len(shown)
    column = head.split().index("agreement")
    for row, candidate in zip(rows, shown, strict=True):
        assert (candidate["caption"] or "(nothing)") in row
        assert ("(likeliest)" in row) == (candidate is likeliest)
        assert (f"(caption of {candidate['image']})" in row) == bool(candidate["image"])
        for number, name, part in ((0, "score", None), (column, "parts", "consensus")):
            ours, theirs = (
                x[name] if part is None else x[name][part] for x in (candidate, likeliest)
            )
            assert float(row.split()[number]) == pytest.approx(ours - theirs, abs=0.00501)
    assert "why" not in good("caption", ranked, "-n", 1, "--html", "p.html").stdout


def test_a_page_shows_the_photos_that_look_alike_and_embeds_each_once(ranked: Path) -> None:
    said = answer("caption", ranked, "-n", 14, "--html", "p.html", "--explain")
    page = Path("p.html").read_text(encoding="utf-8")
    near = [photo["image"] for one in said for photo in one["explanation"]["neighbours"][:5]]
    assert page.count("<summary>Why this caption?</summary>") == 14
    assert page.count('<use href="#photo-') == len(near) > len(set(near))
    assert page.count('<image id="photo-') == len(set(near))
    text = html.unescape(page)
    assert all(one["explanation"]["decision"] in text for one in said)


@pytest.mark.parametrize("options", ["--greedy", "--beam 5", "--temperature 0.8"])
def test_captions_that_are_not_ranked_are_not_explained(
    options: str, ranked: Path, run: Path
) -> None:
    for folder, words in (
        (ranked, "expected the default: only its captions are ranked"),
        (run, "expected a run trained with --neighbours"),
    ):
        result = call("caption", folder, "--explain", *options.split())
        assert result.exit_code == 2
        assert "--explain is given" in result.output
        assert words in " ".join(result.output.split())


def test_a_png_takes_no_more_pictures_than_can_be_drawn(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (pages, outputs):
        monkeypatch.setattr(place, "DRAWN", 2)
    assert (
        "wrote p.png with the first 2 of 4 pictures, as many as one PNG takes"
        in good("caption", run, photos, "--png", "p.png").stdout
    )
    with Image.open("p.png") as drawn:
        assert drawn.width == 2 * 330


def test_an_interrupt_ends_without_a_traceback_or_a_page(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: Any, **how: Any) -> None:
        raise KeyboardInterrupt

    for place, name in ((captions, "read_picture"), (outputs, "caption_page")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, interrupt)
            result = call("caption", run, photos, "--html", "p.html")
        assert result.exit_code == 130
        assert result.output.endswith("caption: interrupted; no file was left half-written\n")
        assert "Traceback" not in result.output
        assert not list(Path().glob("*p.html*"))


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such signals")
@pytest.mark.usefixtures("default_hang_up")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP], ids=["TERM", "HUP"])
def test_a_signal_ends_caption_as_ctrl_c_does(
    signum: signal.Signals, run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a status of its own, and the finished captions on disk."""
    asked: list[object] = []

    def interrupted(source: Any) -> np.ndarray:
        asked.append(source)
        if len(asked) == 3:
            os.kill(os.getpid(), signum)
        return read_picture(source)

    monkeypatch.setattr(captions, "BATCH", 1)
    with monkeypatch.context() as patch:
        patch.setattr(captions, "read_picture", interrupted)
        result = call("caption", run, photos, "--csv", "t.csv")
        assert result.exit_code == 128 + signum
        assert result.output.endswith(
            "caption: interrupted; t.csv has 1 of 5 pictures; the same command adds the others\n"
        )
        ignored = signal.signal(signum, signal.SIG_IGN)  # as nohup does with SIGHUP
        asked.clear()
        good("caption", run, photos, "--csv", "t.csv")
        assert signal.signal(signum, ignored) is signal.SIG_IGN
    assert len(Path("t.csv").read_text().splitlines()) == 5


STREAMS = """
import os, sys
for descriptor in map(int, sys.argv[1]):
    os.close(descriptor)
    setattr(sys, ("stdin", "stdout", "stderr")[descriptor], None)
from xpcap.cli import main

def fsync(descriptor, fsync=os.fsync):
    assert descriptor > 2, "the file would get what C libraries print"
    fsync(descriptor)

os.fsync = fsync
main(sys.argv[2:])
"""


@pytest.mark.parametrize("closed", ["2", "012"])
def test_a_missing_stream_costs_its_output_alone(closed: str, run: Path, photos: Path) -> None:
    """As of a daemon, under pythonw, or with ``2>&-`` in a shell. Bad pictures are told on stderr."""
    arguments = "caption", run, photos, "--csv", "t.csv", "--html", "t.html"
    done = program(STREAMS, closed, *arguments, folder=Path.cwd())
    assert bool(done.stdout) == ("1" not in closed)
    assert ("skipped" in done.stderr) == ("2" not in closed)
    assert len(Path("t.csv").read_text().splitlines()) == 5
    assert Path("t.html").exists()


FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (250, 250))  # bytes: room for some rows
from xpcap.cli import main
main(sys.argv[1:])
"""


@pytest.mark.skipif(os.name != "posix", reason="Windows has no limit on file sizes")
def test_a_full_disk_says_what_is_safe_and_how_to_go_on(run: Path, photos: Path) -> None:
    command = "caption", run, photos, "--csv", "t.csv"
    done = program(FULL, *command, folder=Path.cwd(), status=1, PYTHONDONTWRITEBYTECODE="1")
    message = done.stderr.splitlines()[-1]
    assert message.startswith("Error: caption: t.csv: File too large, expected a higher limit")
    rows = Path("t.csv").read_text().count("\n") - 1  # of pictures
    assert message.endswith(f"t.csv has {rows} of 5 pictures; the same command adds the others")
    assert 0 < rows < 5
    assert f"note: t.csv has {rows} of 5 pictures already" in good(*command).output


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_behind_the_output_is_told_from_one_of_a_file(run: Path) -> None:
    code = "import os, sys; os.dup2(os.open('/dev/full', os.O_WRONLY), 1)\n"
    code += "from xpcap.cli import main; main(sys.argv[1:])"
    done = program(code, "evaluate", run, "--csv", "s.csv", folder=Path.cwd(), status=1)
    assert "evaluate: standard output: No space left on device, expected room" in done.stderr


# URLs


@pytest.fixture
def web(photos: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The photos as the web would give them, each once; the URLs that were asked for, as they
    come.
    """
    asked: list[str] = []

    def read(url: str) -> np.ndarray:
        asked.append(url)
        if "dead" in url or asked.count(url) > 1:
            raise DataError("read_url", url, "gives HTTP Error 404: Not Found")
        return read_picture(photos / url.rpartition("/")[2])

    monkeypatch.setattr(captions, "read_url", read)
    return asked


def test_files_folders_and_urls_are_captioned_in_the_order_given(
    run: Path, photos: Path, web: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captions, "BATCH", 2)
    one, two, dead = (
        "https://a.example/val00003.png",
        "HTTP://a.example//val00001.png",
        "http://a.example/dead.png",
    )
    result = good("caption", run, one, photos, dead, two, "none.png", "--json")
    said = json.loads(result.stdout)
    files = [f"photos/val0000{i}.png" for i in range(4)]
    assert [picture["image"] for picture in said] == [one, *files, two]
    assert [said[0]["caption"], said[-1]["caption"]] == [said[4]["caption"], said[2]["caption"]]
    assert web == [one, dead, two]
    assert result.stderr.splitlines()[2:] == [
        f"skipped {dead}: gives HTTP Error 404: Not Found",
        "skipped none.png: does not exist, expected a picture file; is the path right?",
    ]


def test_pages_show_what_was_downloaded_without_asking_again(
    run: Path, photos: Path, web: list[str]
) -> None:
    Image.new("RGB", (900, 600), (30, 90, 200)).save(photos / "large.png")
    urls = ["https://a.example/large.png", "https://a.example/val00001.png"]
    assert (
        "wrote p.png\n"
        in good(
            "caption", run, *urls, photos / "val00002.png", "--html", "p.html", "--png", "p.png"
        ).stdout
    )
    page = Path("p.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/') == 3
    assert "https://a.example/large.png" in page
    assert web == urls
    web.clear()
    (large,), _ = runs.caption_files(open_run(run), urls[0], show=True)
    assert large.picture is not None
    assert large.picture.shape == (213, 320, 3)


def test_no_url_that_can_be_read_is_a_failure(run: Path, web: list[str]) -> None:
    dead = [f"http://a.example/{name}.png" for name in ("dead", "dead2")]
    failing(["caption", run, *dead, "--html", "p.html"], "none of 2 could be read")


def test_a_url_that_cannot_be_read_is_skipped(run: Path, photos: Path) -> None:
    address = "http://127.0.0.1:0/x.png"
    result = good("caption", run, address, photos / "val00001.png")
    assert f"skipped {address}: is not a URL, expected one of http or https" in result.stderr
    said, skipped = runs.caption_files(open_run(run), address)
    assert (said, [one.image for one in skipped]) == ([], [address])


# from a folder of pictures to captions of others


@pytest.fixture
def own(tmp_path: Path) -> list[str]:
    """What `prepare` is called with for ten pictures of one's own, turned photos among them."""
    folder = Path("own photos")
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    names = [f"{i}.{'jpg' if i % 2 else 'png'}" for i in range(10)]
    for i, name in enumerate(names):
        colour = (210, 30, 40) if i < 5 else (20, 60, 220)
        Image.new("RGB", (60, 40), colour).save(folder / name, exif=exif)
    (folder / "unlisted.png").write_text("no picture, and nobody asks for it")
    Path("captions.txt").write_text(
        "".join(
            f"{name}#{k}\ta {'red' if i < 5 else 'blue'} thing\n"
            for i, name in enumerate(names)
            for k in range(5)
        )
    )
    Path("train.txt").write_text("\n".join(names[:4] + names[5:9]))
    Path("val.txt").write_text("\n".join((names[4], names[9])))
    return (
        "prepare captions.txt --split train=train.txt --split val=val.txt --min-count 1 --out "
        "own.h5"
    ).split()


def save_features(**changes: Any) -> None:
    names = [line for name in ("train.txt", "val.txt") for line in Path(name).read_text().split()]
    np.savez(
        "features.npz",
        **{
            "names": names,
            "features": np.arange(5.0 * len(names)).reshape(-1, 5).astype("f4"),
            **changes,
        },
    )


@pytest.mark.slow
def test_pictures_prepared_and_learnt_from_caption_others(own: list[str]) -> None:
    good(*own, "--pictures", "own photos", "--encoder", "histogram")
    source = answer("info", "own.h5")["source"]
    assert (source["encoder"], source["pictures"]) == (
        HistogramEncoder().name,
        str(Path("own photos").resolve()),
    )
    how = "--epochs 4 --batch-size 4 --lr 0.02 --dropout 0"
    good("train", "own.h5", "--out", "own run", *SMALL, *how.split())
    Image.new("RGB", (300, 200), (205, 40, 35)).save("new.jpg")
    Image.new("L", (30, 20), 255).save("white.png")
    shutil.rmtree("own photos")  # neither the pictures nor the data set are needed for others
    Path("own.h5").rename("moved.h5")
    said = answer("caption", "own run", "new.jpg", "white.png", "--html", "new.html")
    assert said[0]["caption"] == "a red thing"
    assert Path("new.html").read_text(encoding="utf-8").count('src="data:image/') == 2


def test_pages_show_the_pictures_of_the_folder_that_prepare_was_given(own: list[str]) -> None:
    save_features()
    good(*own, "--pictures", "own photos", "--features", "features.npz")
    good("train", "own.h5", "--out", "own run", *SMALL)
    good("caption", "own run", "--html", "p.html", "--png", "p.png")
    assert Path("p.html").read_text(encoding="utf-8").count('src="data:image/') == 2
    shutil.rmtree("own photos")
    good("caption", "own run", "--html", "q.html")
    page = Path("q.html").read_text(encoding="utf-8")
    assert "data:image/" not in page
    assert page.count("The pictures are not at hand.") == 1
    failing(["caption", "own run", "--png", "q.png"], "none of 2 pictures is at hand")


def test_a_run_on_features_of_another_making_says_why_it_captions_no_files(own: list[str]) -> None:
    save_features()
    good(*own, "--features", "features.npz")
    good("train", "own.h5", "--out", "own run", *SMALL)
    failing(
        ["caption", "own run", "own photos"],
        "own run learnt from features that were given to it",
        "name it when you prepare the data (encoder beside features)",
    )


@pytest.mark.parametrize("pictures", [(), ("--pictures", "own photos")])
def test_a_run_on_features_whose_encoder_is_named_captions_photos_and_takes_a_head_start(
    pictures: tuple[str, ...], own: list[str]
) -> None:
    encoder = HistogramEncoder()
    names = [line for name in ("train.txt", "val.txt") for line in Path(name).read_text().split()]
    rows = encoder.encode(read_picture(Path("own photos") / name) for name in names)
    save_features(features=rows)
    declared = "--features", "features.npz", "--encoder", "histogram"
    output = good(*own, *declared, *pictures).output
    count = len(names) if pictures else "no"
    compared = f"{count} pictures were compared" if pictures else "no picture was compared"
    assert f"note: the features are taken as those of histogram: {compared}" in output
    source = answer("info", "own.h5")["source"]
    assert (source["encoder"], source["encoder_checked"]) == (
        "histogram",
        len(names) * bool(pictures),
    )
    good("train", "own.h5", "--out", "own run", *SMALL)
    assert answer("caption", "own run", "own photos/1.jpg")[0]["image"] == "own photos/1.jpg"
    card = Path("own run/README.md").read_text(encoding="utf-8")
    assert ("no picture was compared" in card) == (not pictures)
    encoded = [*own[:-1], "encoded.h5", "--pictures", "own photos", "--encoder", "histogram"]
    good(*encoded)
    good("train", "encoded.h5", "--out", "next", "--from", "own run", "--epochs", 1)
    captions = Path("captions.txt")
    captions.write_text(captions.read_text().replace("thing", "shape"))
    good(*own[:-1], "nameless.h5", "--features", "features.npz")
    output = good(
        "train", "nameless.h5", "--out", "last", "--from", "own run", "--epochs", 1
    ).output
    assert (
        "the encoder of the features of the data set is not named, so they may not fit: name it when"
        " you prepare the data (encoder beside features)" in output
    )
    if pictures:
        save_features(features=rows[::-1])
        wrong = [*own[:-1], "wrong.h5", *declared, *pictures]
        failing(wrong, "the encoder histogram makes a feature of", "another encoder")


def test_an_encoder_that_is_not_installed_is_one_line_that_says_how_to_install_it(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = ENCODERS["histogram"]._replace(extra="images", packages=["no-such-package"])
    monkeypatch.setitem(ENCODERS, "histogram", kind)
    failing(["caption", run, photos, "--html", "p.html"], "'onnxruntime>=1.20' installs it")


def test_pictures_that_prepare_cannot_use_are_named_before_the_long_work(
    own: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from xpcap.prepare import features

    encoded = [*own, "--pictures", "own photos", "--encoder", "histogram", "--strict"]
    Path("own photos/unlisted.png").unlink()
    Path("own photos/3.jpg").write_bytes(b"\xff\xd8\xff")
    failing(encoded, "own photos/3.jpg cannot be read as a picture")
    monkeypatch.setattr(features, "read_picture", lambda path: pytest.fail("a picture was read"))
    Path("own photos/8.png").unlink()
    failing(encoded, "captioned pictures missing from own photos: 1 (8.png)")
    failing([*own, "--pictures", "captions.txt"], "captions.txt is not a folder")
    failing(
        [*own[:-1], "nowhere/own.h5", "--pictures", "own photos"], "nowhere/own.h5", "not a folder"
    )
    failing(
        [*own[:-1], "val.txt", "--pictures", "own photos"], "val.txt exists, and is not overwritten"
    )
    failing([*encoded[:-1], "--min-count", "99"], "no word occurs 99 times")
    save_features()
    failing(
        [*own, "--pictures", "nowhere", "--features", "features.npz"], "nowhere is not a folder"
    )
    failing([*own], "neither --pictures nor --features", status=2)
