"""Writes that fail: the checkpoint before survives, the message says what to do, and the run goes
on to the same bytes.
"""

import errno
from pathlib import Path
from typing import Any

import commands
import faults
import kill
import numpy as np
import pytest
from faults import Fault
from runs import Runs

from xpcap.captioning.outputs import OUTPUTS, NewFile
from xpcap.trainer import saver

pytestmark = pytest.mark.usefixtures("few_pictures")


@pytest.mark.slow
def test_at_every_step_of_every_write_a_fault_costs_nothing_that_was_saved(tmp_path: Path) -> None:
    """`make kill-test` lets each fail every time that it is done."""
    found, whole = faults.points(tmp_path, faults.STAGED)
    assert len(found) > 110
    paths = [Path("times.jsonl"), *map(Path, whole)]  # no two runs have its times alike
    names = {"pictures" if "pictures" in path.parts else path.name for path in paths}
    steps: dict[str, list[Fault]] = {}
    for fault in faults.chosen(found):
        steps.setdefault(fault.name, []).append(fault)
    assert steps.keys() == names
    # a file that replaces another is renamed, a new one is placed; a folder has two steps
    assert sorted({len(of_file) for of_file in steps.values()}) == [2, len(faults.STEPS) - 1]
    # of each file a step before it is there, a different one in turn, and one after that
    chosen = [
        fault
        for k, of_file in enumerate(steps.values())
        for fault in (of_file[k % (len(of_file) - 1)], of_file[-1])
    ]
    assert {fault.step for fault in chosen} == {*faults.STEPS}
    for i, fault in enumerate(chosen):
        output = faults.check(fault, whole, tmp_path / str(i), faults.STAGED)
        assert fault.name in output, (fault, output)
        assert "Traceback" not in output, fault


@pytest.mark.parametrize("step", [step for step in faults.STEPS if step != "rename"])
def test_pages_pictures_and_data_sets_are_written_whole_or_not_at_all(
    step: str, run: Path, tmp_path: Path
) -> None:
    commands_of: dict[str, list[object]] = {
        f"new{kind.suffix}": ["caption", run, "-n", 2, kind.flag, tmp_path / f"new{kind.suffix}"]
        for kind in OUTPUTS
        if issubclass(kind, NewFile)
    }
    prepare = "prepare tokens.txt --split train=list.txt --features f.npz --min-count 1 --out"
    commands_of["own.h5"] = [*prepare.split(), tmp_path / "own.h5"]
    Path("tokens.txt").write_text("a.jpg#0\tA dog .\n")
    Path("list.txt").write_text("a.jpg")
    np.savez("f.npz", names=["a.jpg"], features=np.ones((1, 3), "f4"))
    for name, command in commands_of.items():
        with faults.failing_at(Fault(name, step, 1, faults.STEPS[step])):
            result = commands.call(*command)
        assert result.exit_code == 1, (name, result.output)
        assert isinstance(result.exception, SystemExit)
        assert name in result.output
        assert result.output.count("  model  ") == 2 * (command[0] == "caption")  # still said
        # flush_folder is the last step of all: whole, but perhaps not for ever
        assert (tmp_path / name).exists() == (step == "flush_folder")
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


def test_training_goes_on_without_a_page_and_remarks_on_it_once(
    train_once: Runs, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saver, "PAGE_SECONDS", 0)  # several pages

        def fail(folder: Path, epochs: int, records: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", str(folder / "index.html"))

        patch.setattr(saver, "write_progress_page", fail)
        output = commands.good("train", "--out", out, *faults.OPTIONS).output
    remark = f"{out / 'index.html'} could not be written: No space left on device;"
    assert output.count(remark) == 1
    assert kill.differing(out, train_once(*faults.OPTIONS)) == set()


@pytest.mark.parametrize(("name", "nth"), [("README.md", 1), ("index.html", 3)])
def test_what_cannot_be_drawn_when_training_has_ended_is_an_error_that_loses_nothing(
    name: str, nth: int, train_once: Runs, tmp_path: Path
) -> None:
    fault = Fault(name, "create", nth, errno.ENOSPC)
    whole = kill.files(train_once(*faults.OPTIONS))
    output = faults.check(fault, whole, tmp_path, faults.OPTIONS)
    last = output.splitlines()[-1]
    assert last.startswith("Error: ")
    assert str(tmp_path / "broken" / "run" / name) in last


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


def test_under_a_limit_on_file_sizes_the_checkpoint_before_survives(tmp_path: Path) -> None:
    """A limit that the system sets: too low for last.safetensors, which has grown since it was first
    written.
    """
    resource, out = pytest.importorskip("resource"), tmp_path / "run"
    commands.good("train", "--out", out, *faults.OPTIONS, "--epochs", 1)
    before = kill.files(out)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before["last.safetensors"]) - 1, hard))
    try:
        result = commands.call("train", "--out", out, "--epochs", 2, "--resume")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert result.exit_code == 1
    assert "File too large" in result.output
    assert "raise it (ulimit -f); iteration 10 is saved" in result.output
    after = kill.files(out)
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {"config.json", "index.html"}
    commands.good("train", "--out", out, "--resume")
