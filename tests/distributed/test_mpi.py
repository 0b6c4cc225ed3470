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

import kill
import numpy as np
from commands import good
from programs import HANG_SECONDS

from xpcap.data import read_dataset, write_dataset
from xpcap.drawings import generate, write_pictures
from xpcap.runs.run import open_run

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


# Commands of one session, by lines of JSON; rank 0 ends the output of each with a sign of its own
SESSION = """
import json, sys
from xpcap.cli import main
from xpcap.distributed import init

for words in json.loads(sys.argv[1]):
    main(words, standalone_mode=False)
    print(end="" if init().rank else "\\x1e", flush=True)
"""


def on_two(*commands: Sequence[str | Path]) -> list[str]:
    """What two ranks print of each command, and their errors. One that ranks do not share comes
    last.
    """
    lines = json.dumps([list(map(str, words)) for words in commands])
    part = [sys.executable, "-m", "mpi4py", "-c", SESSION, lines]
    status, out, err = ended(start(part, part))
    assert status == 0, err
    return [*out.split("\x1e")[:-1], err]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mpi") / "data.h5"
    write_dataset(path, generate(seed=3, train=60, val=13))
    return path


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


def test_two_ranks_leave_and_say_what_one_process_does(data: Path, tmp_path: Path) -> None:
    """A run of both stages, on grids; the evaluation and the captions of another; facts."""
    pictures = read_dataset(data)
    grids = {
        name: replace(split, features=split.features[:, :210].reshape(-1, 6, 35))
        for name, split in pictures.splits.items()
    }
    write_dataset(tmp_path / "grids.h5", replace(pictures, splits=grids))
    one, two, run = (tmp_path / name for name in ("one", "two", "run"))
    attending = [*SMALL, "--inject", "attention+every-step", "--score-epochs", "1"]
    train = ["train", tmp_path / "grids.h5", "--epochs", "1", *attending, "--out"]
    good(*train, one)
    good("train", data, "--out", run, "--epochs", "1", *SMALL)
    drawings = tmp_path / "drawings"
    write_pictures(drawings, generate(seed=4, train=1, val=5), "val")
    (drawings / "broken.png").write_bytes(b"no picture")
    evaluate = ["evaluate", run, "--json", "--beam", "2"]
    caption = ["caption", run, drawings, "--json", "--temperature", "1"]
    told, scores, facts, machines, captions, errors = on_two(
        [*train, two], evaluate, ["info", data], ["info"], caption
    )

    assert told.count("wrote ") == 1
    assert " on 2 ranks; the run folder is " in told
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    histories = (folder.joinpath("history.jsonl").read_text() for folder in (two, one))
    for ours, theirs in zip(*map(str.splitlines, histories), strict=True):
        assert json.loads(ours) == pytest.approx(json.loads(theirs), rel=1e-3)
    ours, theirs = (open_run(folder).model.params.flat for folder in (two, one))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)

    expected = json.loads(good(*evaluate).stdout)
    assert json.loads(scores)["captions"] == expected["captions"]
    assert json.loads(scores)["scores"] == pytest.approx(expected["scores"], rel=1e-6)
    expected = json.loads(good(*caption).stdout)
    assert [{**row, "score": 0} for row in json.loads(captions)] == [
        {**row, "score": 0} for row in expected
    ]
    assert len(expected) == 5
    assert errors.count("broken.png") == 1  # captions are one rank's work
    assert facts == good("info", data).stdout
    assert "2 ranks on 1 machine" in machines


def long_run(out: Path, *arguments: object, **environment: str) -> "subprocess.Popen[str]":
    """A run of two ranks that has saved its first epoch and has many to go."""
    train = ["train", "--out", out, "--epochs", "1000", "--save-every", "1", *arguments]
    process = start(*[command(*map(str, train))] * 2, **environment)
    until(process, "epoch  2")
    return process


def test_a_killed_rank_ends_all_and_a_stopped_run_goes_on_with_any_number(data: Path) -> None:
    out = data.with_name("run")
    process = long_run(out, data, *SMALL)
    os.kill(rank_1(out), signal.SIGKILL)
    assert ended(process)[0] != 0
    process = start(*[command("train", "--out", str(out), "--resume")] * 2)
    until(process, "resuming after iteration")
    until(process, "epoch")
    process.send_signal(signal.SIGTERM)
    status, _, err = ended(process)
    assert status == 143, err
    assert err.count("stopped by SIGTERM after iteration") == 1
    done = int(err.split("after iteration ")[1].split(",")[0])
    resumed = start([sys.executable, str(ROOT / "cli.py"), "train", "--out", str(out), "--resume"])
    assert "was trained on 2 ranks and continues on 1 rank" in until(resumed, "train_run: ")
    assert until(resumed, "resuming").startswith(f"resuming after iteration {done};")
    until(resumed, "epoch")
    resumed.send_signal(signal.SIGTERM)
    assert ended(resumed)[0] == 143


# NCCL's sum returns when it is launched, and a read waits for it; one rank never launches its own
LAUNCHED = """
import os, signal, threading
from xpcap import CaptioningRNN, CaptioningSolver
from xpcap.distributed import init
from xpcap.drawings import generate
from xpcap.training import losses

group, data = init(), generate(seed=3, train=6, val=2)
model = CaptioningRNN(data.vocabulary.word_to_idx, data.feature_dim, 4, 4)
solver = CaptioningSolver(model, data, seed=1, verbose=False, group=group)
losses.to_numpy = lambda array: threading.Event().wait()
group.all_reduce = lambda flat: group.rank and os.kill(os.getpid(), signal.SIGSTOP)
solver.train()
"""


def test_a_rank_that_hangs_is_named_and_all_are_ended(data: Path) -> None:
    """In a sum, and while another rank reads losses."""
    line = [sys.executable, "-m", "mpi4py", "-c", LAUNCHED]
    reading = start(line, line, XPCAP_RANK_TIMEOUT="1")
    out = data.with_name("hanging")
    summing = long_run(out, data, *SMALL, XPCAP_RANK_TIMEOUT="1")
    os.kill(rank_1(out), signal.SIGSTOP)
    for status, _, err in [ended(summing), ended(reading)]:
        assert status != 0
        assert "for the other ranks: rank 1 on " in err
        assert "did not answer; ending all" in err


def test_ranks_that_differ_and_a_rank_that_fails_alone_are_named(
    data: Path, tmp_path: Path
) -> None:
    train = ("train", str(data), "--epochs", "1", *SMALL)
    others = {
        "rank 1 has option lr 0.002, rank 0 has 0.001, expected the same on every rank": command(
            *train, "--out", "a", "--lr", "0.002"
        ),
        "rank 1 of 2:": command("train", "nowhere.h5", "--out", "a"),
    }
    rank_0 = command(*train, "--out", str(tmp_path / "run"))
    processes = [start(rank_0, other) for other in others.values()]
    for words, (status, _, err) in zip(others, map(ended, processes), strict=True):
        assert status != 0
        assert words in err
    assert not (tmp_path / "run").exists()


@pytest.mark.nightly
def test_runs_whose_ranks_are_killed_at_random_moments_end_as_unbroken_ones() -> None:
    assert kill.kill_runs(kills=6, seed=1, ranks=2).kills == 6
