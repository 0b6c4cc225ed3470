"""The small data set in the course's layout: what its functions read, pictures without a network,
and what is refused.
"""

import re
import shlex
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result
from course_folder import own_package
from refusals import refuses

from xpcap import encoders
from xpcap.cs231n import data as course_data
from xpcap.cs231n import write_data as command
from xpcap.cs231n.course import image_from_url, write_course_data
from xpcap.data import decode_captions, load_coco_data, open_data, sample_coco_minibatch
from xpcap.drawings import generate, picture_of
from xpcap.encoders import HistogramEncoder
from xpcap.encoders.download import local_path
from xpcap.errors import DataError

PAGE = (Path(__file__).parents[2] / "docs/tutorials/course.md").read_text(encoding="utf-8")
FILES = {
    "coco2014_captions.h5",
    "coco2014_vocab.json",
    *(
        f"{split}2014{rest}"
        for split in ("train", "val")
        for rest in ("", "_images.txt", "_urls.txt", "_vgg16_fc7.h5", "_vgg16_fc7_pca.h5")
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose path has a space and a sign of its own."""
    folder = tmp_path_factory.mktemp("my käse") / "cs231n" / "datasets" / "coco_captioning"
    write_course_data(folder, train=60, val=12)
    return folder


def test_the_courses_functions_read_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {path.name for path in folder.iterdir()} == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["coco_captioning"]
    data = load_coco_data(folder)
    assert data["train_captions"].shape[1] == data["val_captions"].shape[1] == 17
    assert data["train_captions"].dtype == data["train_image_idxs"].dtype == np.int32
    assert len(data["train_urls"]) == len(data["train_features"]) == 60
    assert data["idx_to_word"][:4] == ["<NULL>", "<START>", "<END>", "<UNK>"]
    whole = load_coco_data(folder, pca_features=False)
    assert whole["val_features"].shape == (12, 2101)
    drawn = HistogramEncoder().encode([picture_of("val00005.png")])[0]
    np.testing.assert_allclose(whole["val_features"][5], 10 * drawn, rtol=1e-6)
    # as many components as 60 pictures have: PCA keeps all distances between them
    assert data["train_features"].shape == (60, 59)
    reduced, full = (
        np.linalg.norm(features[:, None] - features, axis=-1)
        for features in (data["train_features"], whole["train_features"])
    )
    np.testing.assert_allclose(reduced, full, rtol=1e-3, atol=1e-3)
    assert open_data(folder).feature_dim == 59
    lists = (folder / "val2014_images.txt").read_text().splitlines()
    assert all((folder / line).is_file() for line in lists)
    assert len(lists) == 12


def test_captions_are_those_of_the_pictures_up_to_fifteen_words(folder: Path) -> None:
    made, data = generate(0, train=60, val=12), load_coco_data(folder)
    texts = made.texts("train")
    short = [k for k, text in enumerate(texts) if len(text.split()) <= 15]
    assert 0 < len(texts) - len(short) < 75  # captions of three things are the longest
    assert [*data["train_image_idxs"]] == [k // 5 for k in short]
    decoded = decode_captions(data["train_captions"], data["idx_to_word"])
    assert decoded == [f"<START> {texts[k]} <END>" for k in short]


def test_pictures_are_shown_without_a_network_until_the_folder_moves(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the course's function alone: elsewhere a `file:` URL is refused as ever."""
    _, _, urls = sample_coco_minibatch(load_coco_data(folder), 5, "val")
    for url in urls:
        picture = image_from_url(url)
        assert picture is not None
        np.testing.assert_array_equal(picture, picture_of(url.rpartition("/")[2]))
    capsys.readouterr()
    assert encoders.image_from_url(urls[0]) is None
    assert "is not a URL, expected an http or https URL" in capsys.readouterr().out
    moved = shutil.copytree(folder, tmp_path / "moved")
    (moved / "val2014" / "val00003.png").unlink()
    assert image_from_url((moved / "val2014" / "val00003.png").as_uri()) is None
    line = capsys.readouterr().out
    assert re.fullmatch(r"image_from_url: .*val00003.png does not exist.*folder .* moved\?\n", line)
    assert image_from_url("no url") is None  # as xpcap.encoders says it
    assert (
        capsys.readouterr().out
        == "image_from_url: no url is not a URL, expected an http or https URL\n"
    )


@pytest.mark.parametrize(
    "text", ["file://server/share/x.png", "file:////server/x.png", "http://x/", "x.png", "file:x"]
)
def test_only_files_of_this_machine_have_a_local_path(text: str, tmp_path: Path) -> None:
    """Windows would call another machine to open its file."""
    assert local_path(text) is None
    path = tmp_path / "a b%20ü#?.png"
    assert local_path(path.as_uri()) == path


def test_nothing_is_overwritten_and_nothing_is_left_of_what_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for taken in (tmp_path, tmp_path / "link"):
        with refuses(DataError, "exists, and is not overwritten"):
            write_course_data(taken)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(course_data, "fit_projection", full)  # with the vocabulary written
    with pytest.raises(OSError, match="No space"):
        write_course_data(tmp_path / "data", train=10, val=5)
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def run(*words: str) -> Result:
    return CliRunner().invoke(command.main, words)


@pytest.mark.slow
def test_the_page_states_the_captions_words_and_first_loss_of_the_data(tmp_path: Path) -> None:
    """The first loss is that of guessing, of fifty captions as in the course's notebooks."""
    result = run(str(tmp_path / "data"))
    counts = r"data: ([\d,]+) train .* ([\d,]+) captions and ([\d,]+) val .* ([\d,]+) captions"
    (numbers,) = re.findall(rf"{counts}, (\d+) words", result.output)
    train, train_captions, val, val_captions, words = (int(x.replace(",", "")) for x in numbers)
    assert f"{train + val:,} [pictures of\nshapes]" in PAGE
    assert f"{train_captions + val_captions:,} captions" in PAGE
    assert f"vocabulary has {words} words" in PAGE
    np.random.seed(231)
    data = load_coco_data(tmp_path / "data", max_train=50)
    loss = (data["train_captions"][:, 1:] != 0).sum(axis=1).mean() * np.log(words)
    assert f"first loss is near {loss:.0f}," in PAGE


@pytest.mark.slow
def test_the_pages_command_makes_it_where_the_course_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says what was made and what comes next, with a student's own package and without; a
    second one is refused without a traceback.
    """
    monkeypatch.chdir(tmp_path)
    elsewhere = [path for path in sys.path if Path(path).name != "tests"]  # which has cs231n/
    monkeypatch.setattr(sys, "path", [str(tmp_path), *elsewhere])
    monkeypatch.setattr(
        command,
        "write_course_data",
        lambda folder, progress: write_course_data(folder, train=20, val=5, progress=progress),
    )
    lines = re.findall(r"^ {4}python -m xpcap\.cs231n\.write_data(.*)$", PAGE, re.MULTILINE)
    assert lines
    for line in lines:
        result = run(*shlex.split(line))
        assert result.exit_code == 0, result.output
    assert "cs231n/datasets/coco_captioning: 20 train pictures with" in result.output
    assert "next: write `import xpcap.cs231n.course` as the first line" in result.output
    own_package(tmp_path)
    line = (
        "next: write `import xpcap.cs231n.course; xpcap.cs231n.course.override()` as the first line"
    )
    assert line in run("other").output
    with h5py.File("cs231n/datasets/coco_captioning/train2014_vgg16_fc7.h5") as file:
        assert file["features"].shape == (20, 2101)
    again = run()
    assert again.exit_code == 1
    assert again.output.startswith("Error: ")
    Path("file").write_text("")
    below = run("file/data")
    assert below.exit_code == 1
    assert below.output.startswith("Error: ")
    assert "Traceback" not in below.output
