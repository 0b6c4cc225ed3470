"""Commands under mpiexec, on two processes: what they leave, how they end, and what they say of
each other.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("mpi4py", reason="mpi4py is not installed: pip install '.[mpi]'")
pytest.importorskip("PIL")  # generated pictures

import kill
import numpy as np
from programs import HANG_SECONDS

from xpcap.data import read_dataset, write_dataset
from xpcap.runs import open_run
from xpcap.shapes import generate, write_pictures

MPIEXEC = Path(sys.executable).with_name("mpiexec")
if not MPIEXEC.exists():
    pytest.skip("no mpiexec beside this Python: pip install '.[mpi]'", allow_module_level=True)
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # each starts processes of its own
SMALL = (
    "--hidden 16 --wordvec 12 --batch-size 16 --inject every-step --dropout 0.2 --select cider"
    " --score-epochs 0"
).split()


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mpi4py", str(ROOT / "cli.py"), *arguments]


def start(*parts: Sequence[str], **environment: str) -> "subprocess.Popen[str]":
    """mpiexec with one rank for each part, in a session of its own, so that what it leaves can be
    ended.
    """
    line = [str(MPIEXEC)]
    for part in parts:
        line += [*([":"] if len(line) > 1 else []), "-n", "1", *part]
    own = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.Popen(
        line,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=own,
        start_new_session=True,
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Exit status, output and errors of what `start` began."""
    try:
        out, err = process.communicate(timeout=HANG_SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out, err


def on_two(*arguments: str) -> str:
    status, out, err = ended(start(command(*arguments), command(*arguments)))
    assert status == 0, err
    return out


def alone(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=HANG_SECONDS,
    ).stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mpi") / "data.h5"
    write_dataset(path, generate(seed=3, train=60, val=13))
    return path


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    """A run of one process."""
    out = data.with_name("alone")
    alone("train", str(data), "--out", str(out), "--epochs", "2", *SMALL)
    return out


def until(process: "subprocess.Popen[str]", beginning: str) -> str:
    """Read what a process prints until a line begins so; that line."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(beginning):
            return line
    _, _, err = ended(process)
    raise AssertionError(f"no line begins with {beginning!r}: {err}")


def rank_1(out: Path) -> int:
    """Process id of rank 1 of a run."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (
                str(out).encode() in (entry / "cmdline").read_bytes()
                and b"\0PMI_RANK=1\0" in (entry / "environ").read_bytes()
            ):
                return int(entry.name)
        except OSError:  # another's, or gone
            continue
    raise AssertionError("there is no rank 1")


def history_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def drawings(place: Path, count: int) -> Path:
    """A folder of generated pictures."""
    write_pictures(place / "drawings", generate(seed=4, train=1, val=count), "val")
    return place / "drawings"


def test_two_processes_leave_the_run_of_one(data: Path, run: Path) -> None:
    out = data.with_name("two")
    said = on_two("train", str(data), "--out", str(out), "--epochs", "2", *SMALL)
    assert said.count("wrote ") == 1
    assert " by 2 processes; the run folder is " in said
    assert sorted(path.name for path in out.iterdir()) == sorted(
        path.name for path in run.iterdir()
    )
    for ours, theirs in zip(history_of(out), history_of(run), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    np.testing.assert_allclose(
        open_run(out).model.params.flat, open_run(run).model.params.flat, atol=1e-5
    )


def test_evaluate_and_caption_say_on_two_processes_what_one_says(run: Path, tmp_path: Path) -> None:
    theirs, ours = (
        json.loads(made("evaluate", str(run), "--json", "--beam", "2")) for made in (alone, on_two)
    )
    assert ours["captions"] == theirs["captions"]
    assert ours["scores"] == pytest.approx(theirs["scores"], rel=1e-6)
    folder = drawings(tmp_path, 5)
    (folder / "broken.png").write_bytes(b"no picture")
    captions = [
        json.loads(made("caption", str(run), str(folder), "--json", "--temperature", "1"))
        for made in (alone, on_two)
    ]
    assert [(one["image"], one["caption"]) for one in captions[0]] == [
        (one["image"], one["caption"]) for one in captions[1]
    ]
    assert len(captions[0]) == 5


def long_run(data: Path, name: str, **environment: str) -> tuple[Path, "subprocess.Popen[str]"]:
    """A run of two ranks that has saved its first epoch and has many to go."""
    out = data.with_name(name)
    process = start(
        *[
            command(
                "train",
                str(data),
                "--out",
                str(out),
                "--epochs",
                "1000",
                "--save-every",
                "1",
                *SMALL,
            )
        ]
        * 2,
        **environment,
    )
    until(process, "epoch  2")
    return out, process


def test_sigterm_to_mpiexec_saves_and_one_process_goes_on(data: Path) -> None:
    out, process = long_run(data, "stopped")
    process.send_signal(signal.SIGTERM)
    status, _, err = ended(process)
    assert status == 143, err
    assert err.count("stopped by SIGTERM after iteration") == 1
    done = int(err.split("after iteration ")[1].split(",")[0])
    resumed = start([sys.executable, str(ROOT / "cli.py"), "train", "--out", str(out), "--resume"])
    assert "was trained by 2 process(es) and continues with 1" in until(resumed, "train_run: ")
    assert until(resumed, "resuming").startswith(f"resuming after iteration {done};")
    until(resumed, "epoch")
    resumed.send_signal(signal.SIGTERM)
    assert ended(resumed)[0] == 143


def test_a_killed_rank_ends_all_and_the_last_save_is_whole(data: Path) -> None:
    out, process = long_run(data, "killed")
    os.kill(rank_1(out), signal.SIGKILL)
    assert ended(process)[0] != 0
    again = start(*[command("train", "--out", str(out), "--resume")] * 2)
    until(again, "resuming after iteration")
    until(again, "epoch")
    again.send_signal(signal.SIGTERM)
    assert ended(again)[0] == 143


def test_a_rank_that_hangs_is_named_and_all_are_ended(data: Path) -> None:
    out, process = long_run(data, "hanging", XPCAP_RANK_TIMEOUT="1")
    os.kill(rank_1(out), signal.SIGSTOP)
    status, _, err = ended(process)
    assert status != 0
    assert "rank 1 on " in err
    assert "did not answer; ending all" in err


# NCCL's sum returns when it is launched, and a read waits for it; one rank never launches its own
LAUNCHED = """
import os, signal, threading
from xpcap import CaptioningRNN, CaptioningSolver
from xpcap.distributed import init
from xpcap.shapes import generate
from xpcap.training import losses

group, data = init(), generate(seed=3, train=6, val=2)
model = CaptioningRNN(data.vocabulary.word_to_idx, data.feature_dim, 4, 4)
solver = CaptioningSolver(model, data, seed=1, verbose=False, group=group)
losses.to_numpy = lambda array: threading.Event().wait()
group.all_reduce = lambda flat: group.rank and os.kill(os.getpid(), signal.SIGSTOP)
solver.train()
"""


def test_a_rank_that_hangs_while_another_reads_losses_is_named() -> None:
    line = [sys.executable, "-m", "mpi4py", "-c", LAUNCHED]
    status, _, err = ended(start(line, line, XPCAP_RANK_TIMEOUT="1"))
    assert status != 0
    assert "for the other ranks: rank 1 on " in err
    assert "did not answer; ending all" in err


def test_ranks_that_differ_and_a_rank_that_fails_alone_are_named(
    data: Path, tmp_path: Path
) -> None:
    train = ("train", str(data), "--epochs", "1", *SMALL)
    cases = [
        (
            command(*train, "--out", "a", "--lr", "0.002"),
            {},
            "rank 1 has option lr 0.002, rank 0 has 0.001, expected the same on every rank",
        ),
        (command("train", "nowhere.h5", "--out", "a"), {}, "rank 1 of 2:"),
    ]
    for other, environment, words in cases:
        process = start(command(*train, "--out", str(tmp_path / "run")), other, **environment)
        status, _, err = ended(process)
        assert status != 0
        assert words in err
        assert not (tmp_path / "run").exists()


def test_commands_that_ranks_do_not_share_run_once(data: Path) -> None:
    assert on_two("info", str(data)) == alone("info", str(data))
    assert "2 ranks on 1 machine" in on_two("info")


@pytest.mark.nightly
def test_runs_whose_ranks_are_killed_at_random_moments_end_as_unbroken_ones() -> None:
    assert kill.kill_runs(kills=6, seed=1, ranks=2).kills == 6


def test_two_processes_that_attend_and_train_on_the_score_leave_the_run_of_one(
    data: Path, tmp_path: Path
) -> None:
    """Both stages, on grids."""
    pictures = read_dataset(data)
    grids = {
        name: replace(split, features=split.features[:, :210].reshape(-1, 6, 35))
        for name, split in pictures.splits.items()
    }
    write_dataset(tmp_path / "grids.h5", replace(pictures, splits=grids))
    how = "--hidden 16 --wordvec 12 --epochs 1 --score-epochs 1 --inject attention+every-step"
    options = how.split()
    for say, out in ((alone, "one"), (on_two, "two")):
        say("train", str(tmp_path / "grids.h5"), "--out", str(tmp_path / out), *options)
    one, two = tmp_path / "one", tmp_path / "two"
    for ours, theirs in zip(history_of(two), history_of(one), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    np.testing.assert_allclose(
        open_run(two).model.params.flat, open_run(one).model.params.flat, atol=1e-5
    )
