"""`caption` on picture files, its pages, and `prepare --pictures`: from a folder of pictures to
captions of others.
"""

import html
import io
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import SMALL, answer, call, failing, good
from PIL import Image
from programs import program

from xpcap import open_run
from xpcap.captioning import captions, outputs, pages
from xpcap.captioning.captions import caption_files
from xpcap.cli import main
from xpcap.drawings.scenes import make_scene, paint
from xpcap.encoders import ENCODERS, HistogramEncoder, read_picture
from xpcap.encoders.pictures import formats
from xpcap.errors import DataError

pytestmark = pytest.mark.usefixtures("few_pictures")
EMBEDDED = 'src="data:image/'


@pytest.fixture
def photos(run: Path) -> Path:
    """Four of the run's val pictures, and files that are no pictures."""
    folder = Path("photos")
    shutil.copytree(run / "pictures", folder)
    for path in sorted(folder.iterdir())[4:]:
        path.unlink()
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    (folder / "notes.txt").write_text("not for captioning")
    return folder


@pytest.fixture
def web(photos: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The photos as the web would give them, each once; the URLs that were asked for, in order."""
    asked: list[str] = []

    def read(url: str) -> np.ndarray:
        asked.append(url)
        if "dead" in url or asked.count(url) > 1:
            raise DataError(f"{url} gives HTTP Error 404: Not Found")
        return read_picture(photos / url.rpartition("/")[2])

    monkeypatch.setattr(captions, "read_url", read)
    return asked


def content(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


def test_files_folders_and_urls_are_captioned_in_order_as_pictures_of_a_split_are(
    run: Path, photos: Path, web: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be read is named on standard error."""
    monkeypatch.setattr(captions, "BATCH", 2)
    first, url, dead = photos / "val00002.png", "HTTP://a.example//val00003.png", "http://a/dead"
    names = [f"photos/val0000{number}.png" for number in range(4)]
    result = good("caption", run, first, photos, dead, url, "none.png", "--json")
    found = json.loads(result.stdout)
    assert [picture["image"] for picture in found] == [str(first), *names, url]
    assert web == [dead, url]
    of_split = {picture["image"]: picture for picture in answer("caption", run, "-n", 14)}
    for picture in found:
        assert set(picture) == {"image", "caption", "probabilities", "references"}
        twin = of_split[Path(picture["image"]).name]
        assert (picture["caption"], picture["references"]) == (twin["caption"], [])
        assert picture["probabilities"] == pytest.approx(twin["probabilities"], abs=1e-5)
        assert len(picture["probabilities"]) == len(picture["caption"].split()) > 0
    assert result.stderr.splitlines() == [
        "notice: 1 other file in photos ignored: 1 .txt",
        (
            f"skipped photos/broken.jpg: cannot be read as a picture, expected {formats()};"
            " damaged, or of another kind?"
        ),
        f"skipped {dead}: gives HTTP Error 404: Not Found",
        "skipped none.png: does not exist, expected a picture file; is the path right?",
    ]
    text = good("caption", run, photos).stdout
    assert [line for line in text.splitlines() if line and not line.startswith(" ")] == names
    assert f"  model  {found[0]['caption']}" in text
    assert "truth" not in text


def test_one_process_of_several_captions_and_waits_for_no_other(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xpcap.cli.shared.init", lambda: pytest.fail("joined ranks that had left"))
    good("caption", run, "-n", 1)
    good("look", run, photos / "val00001.png")
    monkeypatch.setattr("xpcap.cli.group.launcher_rank", lambda: (1, 2))
    result = call("caption", run)
    assert (result.exit_code, result.output) == (0, "")


def test_names_of_any_kind_reach_the_output(run: Path) -> None:
    names = ["two words.png", "Ωμέγα 🐕.png", "<b>&amp;.png", "line\nbreak.png"]
    if os.name == "posix":
        names.append(os.fsdecode(b"\xff.png"))
    for name in names:
        Image.fromarray(paint(make_scene("train", 0, seed=0))).save(name)
    assert [picture["image"] for picture in answer("caption", run, *names)] == names
    lacking = "no\nsuch\x1b[31m.png"
    result = good("caption", run, *names, lacking, "--html", "p.html")
    lines = result.stdout.splitlines()
    assert lines.count("line break.png") == 1  # a picture takes two lines, whatever its name
    assert len(lines) == 2 * len(names) + 2
    assert r"skipped no such\x1b[31m.png: does not exist" in result.stderr
    assert "&lt;b&gt;&amp;amp;.png" in content("p.html")


def test_none_that_can_be_read_is_a_failure(run: Path, photos: Path, web: list[str]) -> None:
    Path("empty").mkdir()
    broken, urls = photos / "broken.jpg", [f"http://a.example/dead{number}" for number in "12"]
    for pictures in ([broken], ["empty"], ["none.png", broken, "empty"], urls):
        failing(
            ["caption", run, *pictures, "--html", "p.html", "--png", "p.png"],
            "skipped ",
            "no picture could be read",
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
    denied = [line for line in result.stderr.splitlines() if "Permission denied" in line]
    names = ["locked", "locked/a.png", "photos/val00001.png"]
    assert [line.partition(": ")[0] for line in denied] == [f"skipped {name}" for name in names]


def test_pages_show_what_was_read_and_a_png_as_many_as_can_be_drawn(
    run: Path, photos: Path, web: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture of the web is asked for once."""
    Image.new("RGB", (900, 600), (30, 90, 200)).save(photos / "large.png")
    before = {path: path.read_bytes() for path in photos.iterdir()}
    for place in (pages, outputs):
        monkeypatch.setattr(place, "DRAWN", 2)
    url = "https://a.example/large.png"
    output = good("caption", run, url, photos, "--html", "p.html", "--png", "p.png").stdout
    drawn = "wrote p.png with the first 2 of 6 pictures, the most that fit; "
    assert f"wrote p.html\n{drawn}" in output
    page = content("p.html")
    assert page.count(EMBEDDED) == 6
    for words in (
        "Captions by run",
        "photos/val00003.png",
        "photos/broken.jpg",
        "cannot be read as a picture",
        "In the given order.",
        url,
    ):
        assert words in page
    with Image.open("p.png") as png:
        assert png.width == 2 * 330
    assert web == [url]
    assert {path: path.read_bytes() for path in photos.iterdir()} == before
    web.clear()
    (large,), _ = caption_files(open_run(run), url, show=True)
    assert large.picture is not None
    assert large.picture.shape == (213, 320, 3)


@pytest.mark.parametrize("split", ["train", "val"])
def test_generated_pictures_that_are_no_files_are_drawn_again(split: str, run: Path) -> None:
    """Those of the train split are never written."""
    shutil.rmtree(run / "pictures")
    outputs = "--json", "--html", "p.html", "--png", "p.png"
    result = good("caption", run, "--split", split, "-n", 3, *outputs)
    page = content("p.html")
    assert page.count(EMBEDDED) == 3
    for picture in json.loads(result.stdout):
        assert picture["references"][0] in page
    assert result.stderr.splitlines() == ["wrote p.html", "wrote p.png"]
    find = pages.picture_finder(open_run(run), open_run(run).data().source)
    drawn = paint(make_scene(split, 7, seed=0))
    np.testing.assert_array_equal(find(f"{split}00007.png"), drawn)


def test_json_and_a_page_explain_ranked_captions_by_photos_and_all_candidates(
    reranked: Path,
) -> None:
    found = answer("caption", reranked, "-n", 14, "--explain", "--html", "p.html")
    of_train = {f"train{number:05d}.png" for number in range(60)}
    run = open_run(reranked)
    assert run.reranker is not None
    data, index = run.data(), run.reranker.index
    pictures = [data.split("val").images.index(picture["image"]) for picture in found]
    features = index.embeddings_of(data.features("val", np.array(pictures)))
    alike = ((features @ index.embeddings.T.astype("f4")) > 0).sum(axis=1).tolist()
    shown = []  # photos on the page
    for picture, count in zip(found, alike, strict=True):
        reasons = picture["explanation"]
        neighbours, candidates = reasons["neighbours"], reasons["candidates"]
        similarities = [neighbour["similarity"] for neighbour in neighbours]
        assert len(similarities) == min(count, 30)
        assert similarities == sorted(similarities, reverse=True)
        assert {neighbour["image"] for neighbour in neighbours} < of_train
        assert all(neighbour["captions"] for neighbour in neighbours)
        shown += [neighbour["image"] for neighbour in neighbours[:5]]
        assert candidates[0]["caption"] == picture["caption"]
        scores = [candidate["score"] for candidate in candidates]
        assert scores == sorted(scores, reverse=True)
        assert scores == pytest.approx([sum(row["parts"].values()) for row in candidates])
        assert {candidate["image"] for candidate in candidates} < {"", *of_train}
    page = content("p.html")
    assert page.count("<summary>Why this caption?</summary>") == 14
    assert page.count('<use href="#photo-') == len(shown) > len(set(shown))
    assert page.count('<image id="photo-') == len(set(shown))  # each is embedded once
    text = html.unescape(page)
    assert all(picture.pop("explanation")["decision"] in text for picture in found)
    assert answer("caption", reranked, "-n", 14) == found


def test_text_explains_a_reranked_caption_relative_to_the_likeliest(reranked: Path) -> None:
    (picture,) = answer("caption", reranked, "-n", 1, "--explain")
    neighbours, candidates = (picture["explanation"][x] for x in ("neighbours", "candidates"))
    lines = good("caption", reranked, "-n", 1, "--explain").stdout.splitlines()
    assert lines[3] == f"  why    {picture['explanation']['decision']}"
    assert [line.split(maxsplit=2) for line in lines[6:11]] == [
        [f"{near['similarity']:.2f}", near["image"], near["captions"][0]] for near in neighbours[:5]
    ]
    head, *rows = lines[13:-1]
    made = [candidate for candidate in candidates if not candidate["image"]]
    likeliest = max(made, key=lambda candidate: candidate["log_probability"])
    shown = candidates[:5] if likeliest in candidates[:5] else [*candidates[:5], likeliest]
    column = head.split().index("agreement")
    for row, candidate in zip(rows, shown, strict=True):
        assert (candidate["caption"] or "(nothing)") in row
        assert ("(likeliest)" in row) == (candidate is likeliest)
        assert (f"(caption of {candidate['image']})" in row) == bool(candidate["image"])
        score = candidate["score"] - likeliest["score"]
        part = candidate["parts"]["consensus"] - likeliest["parts"]["consensus"]
        told = [float(row.split()[number]) for number in (0, column)]
        assert told == pytest.approx([score, part], abs=0.00501)
    assert "why" not in good("caption", reranked, "-n", 1).stdout


def test_captions_that_are_not_reranked_are_not_explained(reranked: Path, run: Path) -> None:
    default = "expected the default decoding, the only one that reranks"
    for folder, options, words in (
        (reranked, "--greedy", default),
        (reranked, "--beam 5", default),
        (reranked, "--temperature 0.8", default),
        (run, "--greedy", "expected a run trained with --neighbours"),
    ):
        result = call("caption", folder, "--explain", *options.split())
        assert result.exit_code == 2
        assert "--explain is given" in result.output
        assert words in " ".join(result.output.split())


def test_an_interrupt_ends_without_a_traceback_or_a_page(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: Any, **how: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(outputs, "caption_page", interrupt)
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
    monkeypatch.setattr(captions, "read_picture", interrupted)
    result = call("caption", run, photos, "--csv", "t.csv")
    assert result.exit_code == 128 + signum
    assert result.output.endswith(
        "caption: interrupted; t.csv has 1 of 5 pictures; the same command adds the others\n"
    )
    ignored = signal.signal(signum, signal.SIG_IGN)  # as nohup does with SIGHUP
    asked.clear()
    good("caption", run, photos, "--csv", "t.csv")
    assert signal.signal(signum, ignored) is signal.SIG_IGN
    assert len(content("t.csv").splitlines()) == 5


WITHOUT_STREAMS = """
import os, sys

def fsync(descriptor, fsync=os.fsync):
    assert descriptor > 2, "the file would get what C libraries print"
    fsync(descriptor)

os.fsync = fsync
from xpcap.cli import main

for closed in ("2", "01"):  # then none is left
    for descriptor in map(int, closed):
        os.close(descriptor)
        setattr(sys, ("stdin", "stdout", "stderr")[descriptor], None)
    try:
        main([*sys.argv[1:], "--csv", f"{closed}.csv", "--html", f"{closed}.html"])
    except SystemExit as ended:
        assert ended.code == 0, ended.code
"""


def test_a_missing_stream_costs_its_output_alone(run: Path, photos: Path) -> None:
    """As with ``2>&-`` in a shell, then of a daemon or under pythonw; bad pictures are told there."""
    done = program(WITHOUT_STREAMS, "caption", run, photos, folder=Path.cwd())
    assert "wrote 4 captions to 2.csv" in done.stdout
    assert ("skipped photos" in done.stdout, done.stderr) == (False, "")
    assert content("2.csv") == content("01.csv")
    assert len(content("2.csv").splitlines()) == 5
    assert Path("2.html").exists()
    assert Path("01.html").exists()


@pytest.mark.skipif(os.name != "posix", reason="Windows has no limit on file sizes")
def test_a_full_disk_says_what_is_safe_and_how_to_go_on(run: Path, photos: Path) -> None:
    """A limit on the size of files stands in for it, with room for some rows."""
    import resource

    command = "caption", run, photos, "--csv", "t.csv"
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (250, hard))
    try:
        result = call(*command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert result.exit_code == 1
    message = result.stderr.splitlines()[-1]
    assert message.startswith("Error: caption: t.csv: File too large, expected a higher limit")
    rows = content("t.csv").count("\n") - 1  # of pictures
    assert message.endswith(f"t.csv has {rows} of 5 pictures; the same command adds the others")
    assert 0 < rows < 5
    assert f"notice: t.csv has {rows} of 5 pictures already" in good(*command).output


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_behind_the_output_is_told_from_one_of_a_file(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", io.TextIOWrapper(full, write_through=True))
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", str(run), "--csv", "s.csv"])
    assert ended.value.code == 1
    message = capsys.readouterr().err
    assert "evaluate: standard output: No space left on device, expected free space" in message


# From a folder of pictures to captions of others


@pytest.fixture
def own(tmp_path: Path) -> list[str]:
    """What `prepare` is called with for ten pictures of one's own, turned photos among them."""
    folder = Path("own photos")
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    names = [f"{number}.{'jpg' if number % 2 else 'png'}" for number in range(10)]
    colours = {"red": (210, 30, 40), "blue": (20, 60, 220)}
    rows = ["image,caption,split"]
    for number, name in enumerate(names):
        colour = "red" if number < 5 else "blue"
        Image.new("RGB", (60, 40), colours[colour]).save(folder / name, exif=exif)
        rows += [f"{name},a {colour} thing,{'val' if number % 5 == 4 else 'train'}"] * 5
    (folder / "unlisted.png").write_text("no picture, and nobody asks for it")
    Path("captions.csv").write_text("\n".join(rows))
    return "prepare captions.csv --min-count 1 --out own.h5".split()


def test_a_run_prepared_from_a_folder_of_pictures_captions_others(own: list[str]) -> None:
    good(*own, "--pictures", "own photos", "--encoder", "histogram")
    source = answer("info", "own.h5")["source"]
    folder = str(Path("own photos").resolve())
    assert (source["encoder"], source["pictures"]) == (HistogramEncoder().name, folder)
    how = "--no-neighbours --epochs 4 --batch-size 4 --lr 0.02 --dropout 0"
    good("train", "own.h5", "--out", "own run", *SMALL, *how.split())
    good("caption", "own run", "--html", "p.html", "--png", "p.png")
    assert content("p.html").count(EMBEDDED) == 2

    Image.new("RGB", (300, 200), (205, 40, 35)).save("new.jpg")
    Image.new("L", (30, 20), 255).save("white.png")
    shutil.rmtree("own photos")  # neither the pictures nor the data set are needed for others
    Path("own.h5").rename("moved.h5")
    found = answer("caption", "own run", "new.jpg", "white.png", "--html", "new.html")
    assert found[0]["caption"] == "a red thing"
    assert content("new.html").count(EMBEDDED) == 2

    of_split = "caption", "own run", "--data", "moved.h5"
    good(*of_split, "--html", "q.html")
    assert "data:image/" not in content("q.html")
    assert content("q.html").count("The pictures were not found.") == 1
    failing([*of_split, "--png", "q.png"], "none of 2 pictures was found")


def test_a_run_on_features_whose_encoder_is_named_captions_photos(own: list[str]) -> None:
    names = [f"{number}.{'jpg' if number % 2 else 'png'}" for number in range(10)]
    rows = HistogramEncoder().encode(read_picture(Path("own photos") / name) for name in names)
    np.savez("features.npz", names=names, features=rows)
    named = [*own, "--features", "features.npz", "--encoder", "histogram"]
    taken = "notice: the features are taken as those of histogram:"
    output = good(*named, "--pictures", "own photos").output
    assert f"{taken} pictures compared: 10" in output
    assert answer("info", "own.h5")["source"]["encoder_checked"] == 10
    Path("own.h5").unlink()
    assert f"{taken} no picture was compared" in good(*named).output
    source = answer("info", "own.h5")["source"]
    assert (source["encoder"], source["encoder_checked"]) == ("histogram", 0)
    good("train", "own.h5", "--out", "own run", "--no-neighbours", *SMALL)
    assert answer("caption", "own run", "own photos/1.jpg")[0]["image"] == "own photos/1.jpg"
    assert "not checked against a picture" in content("own run/README.md")
    np.savez("features.npz", names=names, features=rows[::-1])
    Path("own.h5").unlink()
    wrong = [*named, "--pictures", "own photos"]
    failing(wrong, "the encoder histogram makes a feature of", "another encoder")


def test_a_run_without_its_encoder_says_why_it_captions_no_files(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, kinds = ["caption", run, photos, "--html", "p.html"], dict(ENCODERS)
    lacking = kinds["histogram"]._replace(extra="images", packages=["no-such-package"])
    with monkeypatch.context() as patch:
        patch.setitem(ENCODERS, "histogram", lacking)
        failing(command, "'onnxruntime>=1.20' installs it")
    config = json.loads((run / "config.json").read_text())
    config["source"].pop("encoder")
    (run / "config.json").write_text(json.dumps(config))
    failing(
        command,
        "run was trained on features from an unknown encoder",
        "give the encoder when you prepare the data",
    )


def test_pictures_that_prepare_cannot_use_are_named_before_the_long_work(
    own: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from xpcap.prepare import features

    pictures = ["--pictures", "own photos"]
    encoded = [*own, *pictures, "--encoder", "histogram", "--strict"]
    Path("own photos/unlisted.png").unlink()
    Path("own photos/3.jpg").write_bytes(b"\xff\xd8\xff")
    failing(encoded, "own photos/3.jpg cannot be read as a picture")
    monkeypatch.setattr(features, "read_picture", lambda path: pytest.fail("a picture was read"))
    Path("own photos/8.png").unlink()
    Path("old.h5").write_text("")
    np.savez("features.npz", names=["1.jpg"], features=np.ones((1, 5), "f4"))
    for command, words in (
        (encoded, "captioned pictures missing from own photos: 1 (8.png)"),
        ([*own, "--pictures", "captions.csv"], "captions.csv is not a folder"),
        ([*own[:-1], "nowhere/own.h5", *pictures], "nowhere, which is not a folder"),
        ([*own[:-1], "old.h5", *pictures], "old.h5 exists, and is not overwritten"),
        ([*encoded[:-1], "--min-count", "99"], "no word occurs 99 times"),
        (
            [*own, "--pictures", "nowhere", "--features", "features.npz"],
            "nowhere is not a folder",
        ),
    ):
        failing(command, words)
    failing(own, "neither --pictures nor --features", status=2)
