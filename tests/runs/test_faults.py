"""Writes that fail: the checkpoint before survives, the message says what to do, and the run goes
on to the same bytes.
"""

import errno
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from programs import program

pytest.importorskip("PIL")
pytest.importorskip("jinja2")

import commands
import faults
import kill
from faults import Fault

from xpcap import CaptioningSolver, Recipe, Watcher, train_run
from xpcap.runs import saver
from xpcap.runs.folder import RANKING
from xpcap.runs.outputs import SINKS, NewFile
from xpcap.work import work

pytestmark = pytest.mark.usefixtures("few_pictures")
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_at_every_step_of_every_write_a_fault_costs_nothing_that_was_saved(tmp_path: Path) -> None:
    """`make kill-test` lets each fail every time that it is done."""
    found, whole = faults.points(tmp_path, faults.STAGED)
    chosen = faults.chosen(found)
    paths = [Path("times.jsonl"), *map(Path, whole)]  # no two runs have its times alike
    names = {"pictures" if "pictures" in path.parts else path.name for path in paths}
    assert {fault.name for fault in chosen} == names
    # a file that replaces another is renamed, a new one is placed; a folder has two steps
    files = len(names) - 1
    assert len(chosen) == files * (len(faults.STEPS) - 1) + 2
    for i, fault in enumerate(chosen):
        output = faults.check(fault, whole, tmp_path / str(i), faults.STAGED)
        assert f"{fault.name}" in output, (fault, output)
        assert "Traceback" not in output, fault
    assert len(found) > 110


@pytest.mark.nightly
def test_a_ranking_that_cannot_be_written_is_fitted_again(tmp_path: Path) -> None:
    found, whole = faults.points(tmp_path, faults.RANKED)
    fault = next(fault for fault in found if fault[:2] == (RANKING, "rename"))
    assert RANKING in faults.check(fault, whole, tmp_path, faults.RANKED)


@pytest.mark.parametrize("step", [step for step in faults.STEPS if step != "rename"])
def test_pages_pictures_and_data_sets_are_written_whole_or_not_at_all(
    step: str, run: Path, tmp_path: Path
) -> None:
    commands_of = {
        **{
            f"new{kind.suffix}": [
                "caption",
                run,
                "-n",
                2,
                kind.flag,
                tmp_path / f"new{kind.suffix}",
            ]
            for kind in SINKS
            if issubclass(kind, NewFile)
        },
        "own.h5": [
            "prepare",
            "tokens.txt",
            "--split",
            "train=list.txt",
            "--features",
            "f.npz",
            "--min-count",
            1,
            "--out",
            tmp_path / "own.h5",
        ],
    }
    Path("tokens.txt").write_text("a.jpg#0\tA dog .\n")
    Path("list.txt").write_text("a.jpg")
    np.savez("f.npz", names=["a.jpg"], features=np.ones((1, 3), "f4"))
    for name, command in commands_of.items():
        with faults.failing_at(Fault(name, step, 1, faults.STEPS[step])):
            result = commands.call(*command)
        assert result.exit_code == 1, (name, result.output)
        assert isinstance(result.exception, SystemExit)
        assert name in result.output
        assert (tmp_path / name).exists() == (
            step == "flush_folder"
        )  # the last step of all: whole, but perhaps not for ever
        assert list(tmp_path.glob("*.part")) == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            "ENOSPC",
            ["ENOSPC", "MB are free on the disk of", "free some space, or raise your quota"],
        ),
        ("EFBIG", ["raise it (ulimit -f)"]),
        ("EACCES", ["may be written to", "permissions"]),
        ("EIO", ["is not failing"]),
    ],
)
def test_the_message_says_what_to_do_and_what_is_safe(
    error: str, words: list[str], tmp_path: Path
) -> None:
    number = getattr(errno, error)
    with faults.failing_at(Fault("last.safetensors", "write", 2, number)):
        output = commands.call("train", "--out", tmp_path / "run", *faults.OPTIONS).output
    for word in (
        *words,
        "last.safetensors could not be written",
        "iteration 6 is saved; --resume continues from there",
    ):
        assert word in output


def test_a_full_disk_after_training_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with faults.failing_at(Fault("ranking.safetensors", "write", 1, errno.ENOSPC)):
        output = commands.call("train", "--out", out, *faults.OPTIONS, "--neighbours").output
    assert "ranking.safetensors: ENOSPC, expected room" in output
    assert f"training is saved; continue with: xpcap train --out {out} --resume" in output
    commands.good("train", "--out", out, "--resume")


def test_training_goes_on_without_a_page_and_remarks_on_it_once(tmp_path: Path) -> None:
    commands.good("train", "--out", tmp_path / "whole" / "run", *faults.OPTIONS)
    out = tmp_path / "broken" / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saver, "PAGE_SECONDS", 0)  # several pages

        def fail(folder: Path, epochs: int, records: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", str(folder / "index.html"))

        patch.setattr(saver, "write_progress_page", fail)
        output = commands.good("train", "--out", out, *faults.OPTIONS).output
    remark = f"{out / 'index.html'} could not be written: No space left on device;"
    assert output.count(remark) == 1
    assert kill.files(out) == kill.files(tmp_path / "whole" / "run")


@pytest.mark.parametrize(("name", "nth"), [("README.md", 1), ("index.html", 3)])
def test_what_cannot_be_drawn_when_training_has_ended_is_an_error_that_loses_nothing(
    name: str, nth: int, tmp_path: Path
) -> None:
    commands.good("train", "--out", tmp_path / "whole" / "run", *faults.OPTIONS)
    fault = Fault(name, "create", nth, errno.ENOSPC)
    whole = kill.files(tmp_path / "whole" / "run")
    output = faults.check(fault, whole, tmp_path, faults.OPTIONS)
    last = output.splitlines()[-1]
    assert last.startswith("Error: ")
    assert str(tmp_path / "broken" / "run" / name) in last


def test_two_trainings_in_two_threads_keep_their_remarks_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path, epochs: int, records: Any) -> None:
        raise OSError(errno.EIO, "Input/output error", str(folder / "index.html"))

    class Together(Watcher):
        def begin(self, solver: CaptioningSolver) -> None:
            both.wait()

        epoch = begin  # after each epoch's page

    def train(name: str) -> list[str]:
        heard: list[str] = []
        sizes = {"hidden": 8, "wordvec": 4, "epochs": 1, "score_epochs": 0, "batch_size": 50}
        options = Recipe(out=tmp_path / name, neighbours=False, **sizes)
        with work(on_notice=heard.append):
            train_run(options, watchers=[Together()])
        return heard

    both = threading.Barrier(2)
    monkeypatch.setattr(saver, "write_progress_page", fail)
    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(train, ("one", "other"))
    assert [len(one), len(other)] == [1, 1]
    assert str(tmp_path / "one" / "index.html") in one[0]
    assert str(tmp_path / "other" / "index.html") in other[0]


def test_a_checkpoint_is_safe_once_its_first_file_is(tmp_path: Path) -> None:
    """The writes that follow are repeated on going on, and the message names that iteration."""
    with faults.failing_at(Fault("history.jsonl", "create", 1, errno.ENOSPC)):
        output = commands.call("train", "--out", tmp_path / "run", *faults.OPTIONS).output
    assert "history.jsonl could not be written" in output
    assert "iteration 10 is saved; --resume continues from there" in output


def test_a_picture_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    def save(self: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        if str(path).endswith("val00007.png"):
            raise OSError(28, "No space left on device", str(path))
        original(self, path, *args, **kwargs)

    original = Image.Image.save
    monkeypatch.setattr(Image.Image, "save", save)
    assert commands.call("train", "--out", tmp_path / "run", *faults.OPTIONS).exit_code == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit on file sizes to set")
def test_under_a_limit_on_file_sizes_the_checkpoint_before_survives(tmp_path: Path) -> None:
    """A limit that the system sets, in a process of its own: too low for last.safetensors, which has grown since it was first written."""
    out = tmp_path / "run"
    commands.good("train", "--out", out, *faults.OPTIONS, "--epochs", 1)
    before = kill.files(out)
    limit = len(before["last.safetensors"]) - 1
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));from"
        f" xpcap.cli import main; main(['train', '--out', {str(out)!r}, '--epochs', '2',"
        " '--resume'])"
    )
    result = program(code, flags=(), status=1)
    assert "File too large" in result.stderr
    assert "raise it (ulimit -f); iteration 10 is saved" in result.stderr
    after = kill.files(out)
    assert {name for name in before if before[name] != after[name]} <= {
        "config.json",
        "index.html",
    }
    commands.good("train", "--out", out, "--resume")
