"""Going on with a run: bit for bit as if it had never been broken off, whatever broke it off, and
with nothing else than that run.
"""

import contextlib
import functools
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from refusals import refuses
from stopping import at_each_pause, stop_after

pytest.importorskip("PIL")
pytest.importorskip("jinja2")

import kill
from commands import SIZES, SMALL, call, failing, good
from programs import HANG_SECONDS
from ranks import together
from runs import Runs
from safetensors.numpy import load_file
from trainings import TRAININGS, Training, data_set

from xpcap import CaptioningSolver, Watcher, open_run, runs
from xpcap.errors import DataError, OptionError, TrainingError
from xpcap.runs import folder, rerank, train
from xpcap.runs import saver as saving
from xpcap.runs.config import Config
from xpcap.runs.folder import RANKING, load_parameters, load_state, save_parameters
from xpcap.runs.saver import RunWriter, Stopped, StopRequest
from xpcap.safetensors_file import read_tensors, write_tensors

ROOT = Path(__file__).parents[2]
HELPED = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "helpers")))  # PYTHONPATH
pytestmark = pytest.mark.usefixtures("few_pictures")
# of an epoch of the few pictures; they are followed by four pauses, three of them in validation
STEPS = 10


def broken_off(out: Path, pauses: int, *options: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_after(pauses, patch)
        result = call("train", "--out", out, *options)
    assert result.exit_code == 143, result.output
    assert "stopped by SIGTERM after iteration" in result.output
    assert f"train --out {out} --resume" in result.output


def assert_equal_runs(ours: Path, theirs: Path) -> None:
    assert kill.differing(ours, theirs) == set()


OPTIONS = [*SMALL, "--epochs", 3, "--dropout", 0.3, "--lr-decay", 0.5, "--select", "cider"]


@pytest.fixture
def unbroken(train_once: Runs) -> Path:
    """Three epochs in one go."""
    return train_once(*OPTIONS)


class Whole(NamedTuple):
    """A run that nothing broke off."""

    path: Path
    training: Training
    iterations: list[int]  # at each pause of the solver


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Whole]:
    """``whole(name)``: the run of a training of TRAININGS."""

    @functools.cache
    def train(name: str) -> Whole:
        folder, iterations = tmp_path_factory.mktemp("whole"), list[int]()
        training = TRAININGS[name](folder)
        with pytest.MonkeyPatch.context() as patch:
            at_each_pause(lambda solver: iterations.append(solver.iteration), patch)
            good("train", "--out", folder / "run", *training.arguments())
        return Whole(folder / "run", training, iterations)

    return train


def interrupt(*arguments: Any, **keywords: Any) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def moved_away(path: Path | None) -> Iterator[None]:
    if path is None:
        yield
        return
    away = path.rename(path.with_name("away"))
    yield
    away.rename(path)


def in_check(iterations: list[int]) -> int:
    """The first pause between batches of a validation."""
    return next(k for k, (before, now) in enumerate(pairwise(iterations), 2) if now == before)


# How a training is broken off: numbers of pauses, each counted from the one before
BREAKS: dict[str, Callable[[list[int]], tuple[int, ...]]] = {
    "at the first step": lambda iterations: (1,),
    "in a check": lambda iterations: (in_check(iterations),),
    "at the second epoch's first step": lambda iterations: (
        iterations.index(iterations[in_check(iterations) - 1] + 1) + 1,
    ),
    "near the end": lambda iterations: (len(iterations) - 2,),
    "three times": lambda iterations: (len(iterations) // 3, 1, len(iterations) // 3),
}


@pytest.mark.parametrize("breaks", BREAKS)
@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_that_is_broken_off_ends_with_the_same_bytes(
    name: str, breaks: str, whole: Callable[[str], Whole], tmp_path: Path
) -> None:
    """Without the run that it started from, and if it fits a ranking, broken off in that too."""
    path, training, iterations = whole(name)
    out, arguments = tmp_path / "run", training.arguments()
    for pauses in BREAKS[breaks](iterations):
        broken_off(out, pauses, *arguments, "--resume")
        arguments = []
    with moved_away(training.start), pytest.MonkeyPatch.context() as patch:
        if (path / RANKING).exists():
            patch.setattr(rerank, "write_ranker", interrupt)
            assert call("train", "--out", out, "--resume").exit_code == 130
            assert not (out / RANKING).exists()
            patch.undo()
        output = good("train", "--out", out, "--resume").output
    assert "resuming after iteration" in output
    assert_equal_runs(out, path)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_killed_before_its_best_parameters_are_written_writes_the_same(
    name: str, whole: Callable[[str], Whole], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time, once the checkpoint that has them is there; and the solver has them."""
    path, training, _ = whole(name)
    written: set[tuple[Path, int]] = set()
    restored = RunWriter.restore

    def write(target: Path, params: Any, scaling: Any, meta: dict[str, Any]) -> None:
        if meta["epoch"] and (target, meta["epoch"]) not in written:
            written.add((target, meta["epoch"]))
            raise KeyboardInterrupt
        save_parameters(target, params, scaling, meta)

    def restore(writer: RunWriter, solver: CaptioningSolver, state: Any) -> None:
        restored(writer, solver, state)
        for key, x in load_parameters(writer.out / folder.BEST)[0].items():
            np.testing.assert_array_equal(solver.best_params[key], x)

    monkeypatch.setattr(saving, "save_parameters", write)
    monkeypatch.setattr(RunWriter, "restore", restore)
    arguments = training.arguments()
    while (result := call("train", "--out", tmp_path / "run", *arguments)).exit_code == 130:
        arguments = ["--resume"]
    assert result.exit_code == 0, result.output
    assert_equal_runs(tmp_path / "run", path)


@pytest.mark.parametrize("name", TRAININGS)
def test_the_best_parameters_have_the_figures_of_their_record(
    name: str, whole: Callable[[str], Whole]
) -> None:
    """In either stage."""
    for file in whole(name).path.rglob(folder.BEST):
        run = open_run(file.parent)
        select = "cider" if "val_cider" in run.meta else "loss"
        data = run.data().with_vocabulary(run.vocabulary)
        solver = CaptioningSolver(run.model, data, select=select, verbose=False)
        solver.score_start()
        assert solver.start is not None
        figures = dict(solver.start, epoch=run.meta["epoch"], iteration=run.meta["iteration"])
        assert figures == pytest.approx({key: run.meta[key] for key in figures}, rel=1e-6)


@pytest.mark.parametrize("name", TRAININGS)
def test_two_ranks_train_what_one_process_trains(
    name: str, whole: Callable[[str], Whole], tmp_path: Path
) -> None:
    """The latest parameters, to a hundredth of a step: sums are rounded in another order."""
    path, training, _ = whole(name)
    recipe = runs.Recipe(training.data, out=tmp_path / "run", **training.options)
    first, second = together(2, lambda group: runs.train_run(recipe, group=group).run)
    np.testing.assert_array_equal(first.model.params.flat, second.model.params.flat)
    shapes = first.model.params.shapes
    latest, expected = (
        load_state(folder / "last.safetensors", shapes).arrays for folder in (first.path, path)
    )
    for name in (f"params.{name}" for name in shapes):
        np.testing.assert_allclose(
            latest[name], expected[name], rtol=1e-3, atol=recipe.lr / 100, err_msg=name
        )


def test_trainings_that_are_broken_off_are_of_every_kind(whole: Callable[[str], Whole]) -> None:
    """With a ranking and without; some keep what they started from, others improve it."""
    paths = [whole(name).path for name in TRAININGS]
    assert {(path / RANKING).exists() for path in paths} == {True, False}
    assert {open_run(path).meta["epoch"] > 0 for path in paths} == {True, False}


def test_one_command_begins_a_run_goes_on_with_it_and_leaves_it_when_all_is_done(
    unbroken: Path, tmp_path: Path
) -> None:
    broken_off(tmp_path / "run", 7, *OPTIONS, "--resume")
    for _ in range(2):
        good("train", "--out", tmp_path / "run", *OPTIONS, "--resume")
        assert_equal_runs(tmp_path / "run", unbroken)


LEFT = {"folder": (), "config": ("config.json",), "words": ("config.json", "vocab.json")}
LEFT |= {"data": (*LEFT["words"], "data.h5"), "all": (*LEFT["words"], "data.h5", "pictures")}


@pytest.mark.parametrize("left", list(LEFT))
def test_a_run_that_was_killed_while_it_was_set_up_begins_anew(
    left: str, unbroken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    (out / ".pictures.part").mkdir(parents=True)
    (out / ".config.json.0123abcd.part").write_text("{")
    for name in LEFT[left]:
        copy = shutil.copytree if name == "pictures" else shutil.copy
        copy(unbroken / name, out / name)
    good("train", "--out", out, *OPTIONS, "--resume")
    assert_equal_runs(out, unbroken)


def test_steps_and_seconds_say_when_it_is_saved_within_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[tuple[int, bool]] = []

    def write(keeper: RunWriter, solver: CaptioningSolver, epoch_ended: bool) -> None:
        saved.append((solver.iteration, epoch_ended))
        original(keeper, solver, epoch_ended)

    original = RunWriter.write
    monkeypatch.setattr(RunWriter, "write", write)
    good("train", "--out", tmp_path / "steps", *SMALL, "--save-every", 4)
    assert saved == [(4, False), (8, False), (10, True), (14, False), (18, False), (20, True)]
    saved.clear()
    good("train", "--out", tmp_path / "seconds", *SMALL, "--save-every", "0.000001s")
    assert [iteration for iteration, ended in saved if not ended][:3] == [1, 2, 3]
    named = {"README.md", "index.html"}
    assert kill.differing(tmp_path / "steps", tmp_path / "seconds") == named


# The page of a run in training


def shown(run: Path) -> int:
    """Epochs that the page of a run in training shows."""
    return int(re.findall(r"After epoch (\d+) of ", (run / "index.html").read_text())[0])


def use_clock(clock: Callable[[], float], patch: pytest.MonkeyPatch) -> None:
    patch.setattr(train, "RunWriter", functools.partial(RunWriter, clock=clock))


def test_the_page_is_written_now_and_then_while_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page at the first checkpoint with an epoch, then every minute at most, so within an epoch
    too; and when training ends.
    """
    out, clock, written = tmp_path / "run", [0.0], []

    def write(folder: Path, epochs: int, records: list[Any]) -> None:
        written.append((clock[0], len(records)))
        original(folder, epochs, records)

    class Tick(Watcher):
        def step(self, solver: CaptioningSolver) -> None:
            clock[0] += 2

    original = saving.write_progress_page
    monkeypatch.setattr(saving, "write_progress_page", write)
    use_clock(lambda: clock[0], monkeypatch)
    options = {"hidden": 8, "wordvec": 4, "epochs": 5, "score_epochs": 0, "save_every": "3"}
    options |= {"batch_size": 32, "select": "cider"}
    runs.train_run(runs.Recipe(out=out, **options), watchers=[Tick()])
    epoch = 2 * (STEPS + 4)  # seconds
    assert written == [(epoch, 1), (epoch + 60, 3), (5 * epoch, 5)]


def test_a_training_imports_no_matplotlib(tmp_path: Path) -> None:
    """It takes a second."""
    code = """
import sys
import commands
from xpcap import Recipe, train_run
from xpcap.runs import train

train.generate = commands.few
train_run(Recipe(out="run", hidden=8, wordvec=4, batch_size=100, epochs=1))
sys.exit("matplotlib" in sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": HELPED}
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    )


def test_the_page_shows_every_epoch_when_training_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a signal, also soon after a resume; or because a loss is not finite."""
    use_clock(lambda: 0.0, monkeypatch)
    out, epoch = tmp_path / "run", STEPS + 4
    broken_off(out, 3 * epoch + 2, *OPTIONS, "--epochs", 9)
    assert shown(out) == 3
    broken_off(out, epoch, "--resume")
    assert shown(out) == 4
    (out / "index.html").unlink()  # as if killed before it was written
    broken_off(out, 1, "--resume")
    assert shown(out) == 4

    class Sicken(Watcher):
        def epoch(self, solver: Any) -> None:
            if solver.epoch == 3:
                solver.model.params["W_proj"][...] = np.nan

    with pytest.raises(TrainingError):
        runs.train_run(
            runs.Recipe(out=tmp_path / "sick", hidden=8, wordvec=4, epochs=4),
            watchers=[Sicken()],
        )
    assert shown(tmp_path / "sick") == 3


def test_more_epochs_give_the_run_of_that_many(unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    good("train", "--out", out, *OPTIONS, "--epochs", 1)
    good("train", "--out", out, "--epochs", 3, "--resume")
    assert_equal_runs(out, unbroken)


def test_a_run_that_a_watcher_ends_is_scored_and_written_and_goes_on_to_the_same_bytes(
    unbroken: Path, tmp_path: Path
) -> None:
    stages: list[str] = []

    class Two(Watcher):
        def stage(self, options: runs.Recipe) -> None:
            stages.append(options.objective)

        def epoch(self, solver: CaptioningSolver) -> None:
            state = load_state(out / "last.safetensors", solver.model.params.shapes)
            assert state.epoch == solver.epoch  # saved before it is told
            if solver.epoch == 2:
                solver.stop("two are enough")

    out = tmp_path / "run"
    recipe = replace(Config.read(unbroken).recipe, out=out)
    run, evaluation = runs.train_run(recipe, watchers=[Two()])
    assert evaluation is not None
    assert len((out / "history.jsonl").read_text().splitlines()) == 2
    assert "in training" not in (run.path / "index.html").read_text()
    assert stages == ["cross-entropy"]
    good("train", "--out", out, "--resume")
    assert_equal_runs(out, unbroken)


def test_patience_ends_training_after_so_many_epochs_without_a_better_one(tmp_path: Path) -> None:
    """At this rate it overshoots; broken off or not, it ends at the same epoch, and with more
    patience it goes on.
    """
    options = [*SMALL, "--epochs", 10, "--lr", 0.3, "--lr-decay", 1, "--patience", 1]
    good("train", "--out", tmp_path / "whole" / "run", *options)
    history = [
        json.loads(line)
        for line in (tmp_path / "whole" / "run" / "history.jsonl").read_text().splitlines()
    ]
    losses = [record["val_loss"] for record in history]
    assert int(np.argmin(losses)) + 2 == len(losses) < 10
    broken_off(tmp_path / "run", 13 * (len(losses) - 1) + 5, *options)
    good("train", "--out", tmp_path / "run", "--resume")
    assert_equal_runs(tmp_path / "run", tmp_path / "whole" / "run")
    good("train", "--out", tmp_path / "run", "--resume", "--patience", 2)
    assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) > len(losses)


def test_options_that_contradict_the_run_are_refused_all_at_once(run: Path) -> None:
    before = kill.files(run)
    result = call("train", "--out", run, "--hidden", 17, "--seed", 3, "--epochs", 1, "--resume")
    assert result.exit_code == 2
    for words in (
        "--hidden 17 (the run has 16)",
        "--seed 3 (the run has 0)",
        "--epochs 1 (the run has 2)",
    ):
        assert words in result.output
    assert kill.files(run) == before


def test_a_run_goes_on_with_its_own_start_and_no_other(run: Path, tmp_path: Path) -> None:
    options = {"out": tmp_path / "on", "start": run, "epochs": 1, "lr_decay": 0.5}
    recipe = runs.Recipe(**options)
    runs.train_run(recipe)
    more = replace(recipe, epochs=2, resume=True)
    assert runs.train_run(replace(more, start=None)).run.config.recipe.start == run
    other = Path(shutil.copytree(run, tmp_path / "other"))
    with refuses(OptionError, thing=f"`start` {other} (the run has {run})"):
        runs.train_run(replace(more, start=other))
    with refuses(OptionError, thing=f"`start` {other} (the run has none)"):
        runs.train_run(runs.Recipe(**{"out": run, "start": other, "resume": True}))


def test_a_run_goes_on_with_its_own_data_where_none_is_named(tmp_path: Path) -> None:
    data, out = data_set(tmp_path / "data.h5", train=24, val=8), tmp_path / "run"
    options = {"hidden": 3, "wordvec": 3, "epochs": 1, "score_epochs": 0}
    runs.train_run(runs.Recipe(data, out=out, **options))
    resumed = runs.train_run(runs.Recipe(out=out, resume=True, **options)).run
    assert resumed.config.recipe.data == data
    assert not [*out.rglob("data.h5")]


def test_a_linear_rate_is_planned_for_its_epochs(tmp_path: Path) -> None:
    good("train", "--out", tmp_path / "run", *SMALL, "--lr-decay", "linear")
    result = call("train", "--out", tmp_path / "run", "--resume", "--epochs", 3)
    assert result.exit_code == 2
    for words in (
        "--epochs 3 given with --resume",
        "expected the 2 of",
        "falls to zero over these epochs (--lr-decay linear)",
        "leave --epochs out",
        "--out",
    ):
        assert words in result.output


def test_only_a_run_or_a_free_place_is_taken_for_one(run: Path, tmp_path: Path) -> None:
    failing(["train", "--out", run], "exists", "choose another --out, continue it with --resume")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_text("")
    failing(
        ["train", "--out", tmp_path / "photos", "--resume"],
        "holds 'holiday.jpg' and no config.json",
    )
    (tmp_path / "file").write_text("")
    failing(["train", "--out", tmp_path / "file", "--resume"], "holds 'a file'")
    assert call("train", "--resume").exit_code == 2


@pytest.mark.slow
def test_data_that_moved_is_found_by_its_name_and_data_that_changed_is_refused(
    run: Path, tmp_path: Path
) -> None:
    shutil.copy(run / "data.h5", tmp_path / "mine.h5")
    broken_off(tmp_path / "r", 4, tmp_path / "mine.h5", *SMALL)
    (tmp_path / "mine.h5").rename(tmp_path / "moved.h5")
    failing(["train", "--out", tmp_path / "r", "--resume"], "mine.h5 does not exist")
    good("train", tmp_path / "moved.h5", "--out", tmp_path / "r", "--resume")
    assert json.loads((tmp_path / "r" / "config.json").read_text())["data"] == str(
        tmp_path / "moved.h5"
    )
    good("evaluate", tmp_path / "r")
    good("train", "--seed", 5, "--out", tmp_path / "other", *SMALL)
    failing(
        ["train", tmp_path / "other" / "data.h5", "--out", tmp_path / "r", "--resume"],
        "is not the data that",
        "began with",
    )


@pytest.mark.slow
def test_a_run_goes_on_on_another_backend(unbroken: Path, tmp_path: Path, device: Any) -> None:
    out = tmp_path / "run"
    broken_off(out, STEPS + 5, *OPTIONS)
    good("train", "--out", out, "--resume", "--backend", "cupy")
    ours, theirs = load_file(out / "last.safetensors"), load_file(unbroken / "last.safetensors")
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=2e-3, atol=2e-5, err_msg=name)
    good("evaluate", out, "--backend", "numpy")


# Signals and locks


# What the process of a `TrainingProcess` runs: it says when it has saved, and when its writer hangs,
# in place of the two calls of the system by which a file is written
CHILD = """
import os, sys, threading
import commands
from xpcap import files
from xpcap.cli import main
from xpcap.runs import train

def flush(file, flush=files._flush):
    flush(file)
    if {hang} and saved.is_set() and "last.safetensors" in file.name:
        os.write(2, b"the writer hangs\\n")
        threading.Event().wait()

def rename(temporary, path, rename=files._rename):
    rename(temporary, path)
    if path.name == "last.safetensors" and not saved.is_set():
        saved.set()
        os.write(2, b"something is saved\\n")

saved = threading.Event()
files._flush, files._rename, train.generate = flush, rename, commands.few
main()
"""


class TrainingProcess:
    """Endless training in a process of its own, once something of it is saved. It is ended with the
    ``with`` block, if not before.

    Parameters
    ----------
    out : the run's folder
    hang : let the next write of a checkpoint never return

    Attributes
    ----------
    errors : what it has written to standard error, as far as it was waited for
    """

    def __init__(self, out: Path, *, hang: bool = False) -> None:
        self.errors = ""
        arguments = ["train", "--out", out, *SIZES, "--epochs", 100_000, "--save-every", 1]
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD.format(hang=hang), *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": HELPED},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()  # the last one is empty
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.put(line)
        self._lines.put("")

    def __enter__(self) -> "TrainingProcess":
        self.wait_for("something is saved")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self._listener.join()
        self.process.communicate()

    def wait_for(self, words: str) -> None:
        """Wait for a line with these words."""
        while words not in (line := self._lines.get(timeout=HANG_SECONDS)):
            self.errors += line
            assert line, f"ended without {words!r}: {self.errors}"
        self.errors += line

    def wait(self) -> int:
        """Wait for the end of the process, and return its exit status."""
        while line := self._lines.get(timeout=HANG_SECONDS):
            self.errors += line
        return self.process.wait(timeout=HANG_SECONDS)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(
    name: str, status: int, tmp_path: Path
) -> None:
    with TrainingProcess(tmp_path / "run") as training:
        training.process.send_signal(signal.Signals[name])
        assert training.wait() == status
    errors = training.errors
    assert f"{name}: finishing this step and saving" in errors
    assert f"train --out {tmp_path / 'run'} --resume" in errors
    assert "Traceback" not in errors
    iteration = int(errors.split("after iteration ")[1].split(",")[0])
    state = load_state(tmp_path / "run" / "last.safetensors", shapes_of(tmp_path / "run"))
    assert state.iteration == iteration


def test_a_signal_in_the_very_last_moment_of_training_is_heeded_too(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def epoch(saver: saving.Checkpointer, solver: Any) -> None:
        original(saver, solver)
        if solver.epoch == 3:
            signal.raise_signal(signal.SIGINT)

    original = saving.Checkpointer.epoch
    with monkeypatch.context() as patch:
        patch.setattr(saving.Checkpointer, "epoch", epoch)
        result = call("train", "--out", tmp_path / "run", *OPTIONS)
    assert result.exit_code == 130
    assert "stopped by SIGINT after iteration 30, and saved; continue with" in result.output
    good("train", "--out", tmp_path / "run", "--resume")
    assert_equal_runs(tmp_path / "run", unbroken)


def test_an_interrupt_while_a_trained_run_is_scored_says_how_to_finish_it(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(train, "evaluate_run", interrupt)
        result = call("train", "--out", tmp_path / "run", *OPTIONS)
    assert result.exit_code == 130
    assert "train: interrupted; continue with" in result.output
    good("train", "--out", tmp_path / "run", "--resume")
    assert_equal_runs(tmp_path / "run", unbroken)


def shapes_of(run: Path) -> dict[str, tuple[int, ...]]:
    names = ("W_proj", "b_proj", "W_embed", "Wx", "Wh", "b", "W_vocab", "b_vocab")
    tensors = load_file(run / "last.safetensors")
    return {name: tensors[f"params.{name}"].shape for name in names}


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_a_second_interrupt_leaves_at_once_with_nothing_broken(tmp_path: Path) -> None:
    """Here the writer hangs, as on a disk that does not answer."""
    with TrainingProcess(tmp_path / "run", hang=True) as training:
        training.wait_for("the writer hangs")
        training.process.send_signal(signal.SIGINT)
        training.wait_for("finishing this step")
        training.process.send_signal(signal.SIGINT)
        assert training.wait() == -signal.SIGINT
    assert len(list((tmp_path / "run").glob(".*.part"))) == 1
    load_state(tmp_path / "run" / "last.safetensors", shapes_of(tmp_path / "run"))
    broken_off(tmp_path / "run", 2, "--resume")
    assert list((tmp_path / "run").glob(".*.part")) == []


def test_a_signal_that_was_to_be_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.signal is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_trainer_is_refused_and_a_dead_one_keeps_nobody_out(tmp_path: Path) -> None:
    with TrainingProcess(tmp_path / "run"):
        result = call("train", "--out", tmp_path / "run", "--resume")
        assert result.exit_code == 1
        assert "is being trained by another process" in result.output
    broken_off(tmp_path / "run", 2, "--resume")


@pytest.mark.parametrize("resume", [False, True])
def test_who_comes_second_leaves_the_folder_of_the_first_alone(
    resume: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both found the place free; the other was quicker by then."""
    out = tmp_path / "deep" / "run"

    def others(path: Path) -> None:
        out.mkdir(parents=True)
        (out / "config.json").write_text("theirs")

    @contextlib.contextmanager
    def taken(path: Path) -> Iterator[None]:
        raise DataError("train: is being trained by another process")
        yield

    monkeypatch.setattr(folder, "check_resumable" if resume else "check_free", others)
    monkeypatch.setattr(folder, "lock", taken)
    with pytest.raises((DataError, FileExistsError)):
        runs.train_run(runs.Recipe(out=out, hidden=8, wordvec=4, score_epochs=0, resume=resume))
    assert (out / "config.json").read_text() == "theirs"


# Files that are not what they were


Spoil = Callable[[Path], object]


def last(change: Callable[[dict[str, np.ndarray], dict[str, Any]], object]) -> Spoil:
    def spoil(run: Path) -> None:
        tensors, meta = read_tensors(run / "last.safetensors", "test")
        change(tensors, meta)
        write_tensors(run / "last.safetensors", tensors, meta)

    return spoil


def test_best_parameters_of_another_epoch_are_noticed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    broken_off(out, STEPS + 5, *OPTIONS)
    (out / "best.safetensors").rename(out / "kept")
    assert "best.safetensors is missing" in call("train", "--out", out, "--resume").output
    tensors, scaling, meta = load_parameters(out / "kept")
    save_parameters(out / "best.safetensors", tensors, scaling, {**meta, "epoch": 7})
    assert "is of epoch 7, expected epoch 1" in call("train", "--out", out, "--resume").output


def test_going_on_replaces_links_and_leaves_what_they_lead_to_alone(
    run: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    for path in list(run.iterdir()):
        path.rename(victim / path.name)
        path.symlink_to(victim / path.name)
    before = kill.files(victim)
    good("train", "--out", run, "--resume", "--epochs", 3)
    assert kill.files(victim) == before
    assert not (run / "last.safetensors").is_symlink()
    assert not (run / ".lock").is_symlink()


def test_a_new_folder_that_a_held_lock_keeps_goes_once_the_lock_is_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, which deletes no open file, and where the lock deletes its own at the end."""

    @contextlib.contextmanager
    def held(path: Path) -> Iterator[None]:
        (path / ".lock").touch()
        try:
            yield
        finally:
            (path / ".lock").unlink()

    monkeypatch.setattr(folder, "lock", held)
    monkeypatch.setattr(folder.shutil, "rmtree", lambda path, ignore_errors: None)
    with pytest.raises(DataError), folder.reserved(tmp_path / "runs" / "x", resume=False):
        raise DataError("the data is bad")
    assert list(tmp_path.iterdir()) == []


# Sick training


@pytest.mark.parametrize(
    ("every", "backend", "words"),
    [
        (1, "numpy", ("a gradient of norm", "the gradients of")),
        (4, "cupy", ("a gradient of norm", "are not finite now")),  # where losses are read
    ],
)
def test_sick_training_names_step_parameter_norms_and_cause_and_saves_nothing_sick(
    every: int, backend: str, words: tuple[str, ...], run: Path, device: Any
) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "epochs": 3}))
    # h0 is infinite, and h0 @ Wh adds infinities of either sign
    last(lambda x, m: x["params.W_proj"].fill(3e38))(run)
    before = (run / "last.safetensors").read_bytes()
    options = ["--save-every", every, "--backend", backend]
    failing(["train", "--out", run, "--resume", *options], "iteration 21 has loss", "rate", *words)
    assert (run / "last.safetensors").read_bytes() == before


def test_a_run_of_python_stops_with_what_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(3, monkeypatch)
    with pytest.raises(Stopped) as caught:
        runs.train_run(runs.Recipe(out=tmp_path / "r", hidden=8, wordvec=4, score_epochs=0))
    assert (caught.value.signal, caught.value.iteration, caught.value.epoch) == (
        signal.SIGTERM,
        3,
        0,
    )


@pytest.mark.slow
def test_killed_runs_go_on_to_the_same_bytes() -> None:
    """`make kill-test` does a hundred."""
    count = kill.kill_runs(4, seed=3)
    assert count.kills == 4


def test_a_state_of_another_solver_is_refused(run: Path) -> None:
    with refuses(DataError, got="has shape"):
        load_state(run / "last.safetensors", dict.fromkeys(shapes_of(run), (2, 2)))
