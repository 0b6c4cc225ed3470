"""Going on with a run: bit for bit as if it had never been broken off, whatever broke it off, and
with nothing else than that run.
"""

import contextlib
import errno
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import faults
import kill
import numpy as np
import pytest
from commands import SIZES, SMALL, call, failing, good
from programs import HANG_SECONDS
from ranks import together
from refusals import refuses
from safetensors.numpy import load_file
from stopping import at_each_pause, stop_after
from trainings import TRAININGS, Training, data_set

from xpcap import CaptioningSolver, Recipe, Watcher, open_run, train_run
from xpcap.captioning.captions import caption_run
from xpcap.errors import DataError, OptionError, TrainingError
from xpcap.files.safetensors_file import read_tensors, write_tensors
from xpcap.runs import folder
from xpcap.runs.folder import BEST, LAST, RERANKING, load_parameters, load_state, save_parameters
from xpcap.trainer import saver as saving
from xpcap.trainer import train
from xpcap.trainer.saver import RunWriter, Stopped, StopRequest

ROOT = Path(__file__).parents[2]
HELPED = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "helpers")))  # PYTHONPATH
pytestmark = pytest.mark.usefixtures("few_pictures")


def one_stage(place: Path) -> Training:
    """Three epochs of six steps."""
    options = {"hidden": 6, "wordvec": 4, "epochs": 3, "batch_size": 8, "lr": 0.03, "lr_decay": 0.5}
    options |= {"dropout": 0.3, "select": "cider", "score_epochs": 0, "neighbours": False}
    return Training(data_set(place / "data.h5", train=24, val=8), options)


STEPS = 6
ALL = {**TRAININGS, "one stage": one_stage}


class Whole(NamedTuple):
    """A run that nothing broke off."""

    path: Path
    training: Training
    iterations: list[int]  # at each pause of the solver

    @property
    def arguments(self) -> list[object]:
        """The command line of `train`, but for --out."""
        return self.training.arguments()

    def recipe(self, out: Path, **changes: Any) -> Recipe:
        """Its options, for another place."""
        return Recipe(self.training.data, **{"out": out, **self.training.options, **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Whole]:
    """``whole(name)``: the run of a training of ALL."""

    @functools.cache
    def train(name: str) -> Whole:
        place, iterations = tmp_path_factory.mktemp("whole"), list[int]()
        training = ALL[name](place)
        with pytest.MonkeyPatch.context() as patch:
            at_each_pause(lambda solver: iterations.append(solver.iteration), patch)
            good("train", "--out", place / "run", *training.arguments())
        return Whole(place / "run", training, iterations)

    return train


@pytest.fixture
def unbroken(whole: Callable[[str], Whole]) -> Whole:
    return whole("one stage")


def broken_off(
    out: Path, pauses: int, *options: object, by: str = "SIGTERM", status: int = 143
) -> str:
    """Begin, or go on with, a training that a signal stops; returns its output."""
    with pytest.MonkeyPatch.context() as patch:
        stop_after(pauses, patch, signal.Signals[by])
        result = call("train", "--out", out, *options)
    assert result.exit_code == status, result.output
    assert f"stopped by {by} after iteration" in result.output
    assert f"train --out {out} --resume" in result.output
    return result.output


def interrupt(*arguments: Any, **keywords: Any) -> None:
    raise KeyboardInterrupt


def resume(out: Path, *options: object) -> str:
    return good("train", "--out", out, "--resume", *options).output


def assert_equal_runs(ours: Path, theirs: Path) -> None:
    assert kill.differing(ours, theirs) == set()


# Every way to break off, with every kind of training


def breaks(iterations: list[int]) -> list[int]:
    """Pauses at which to break off, each counted from the one before: after the first step, in the
    first validation, which begins anew, after the next epoch's first step, and near the end.
    """
    check = next(k for k, (before, now) in enumerate(pairwise(iterations), 2) if now == before)
    step = iterations.index(iterations[check - 1] + 1) + 1
    return [1, check - 1, step - check + 1, len(iterations) - 2 - step]


@pytest.mark.parametrize("name", ALL)
def test_a_training_that_is_broken_off_ends_with_the_same_bytes(
    name: str, whole: Callable[[str], Whole], tmp_path: Path
) -> None:
    """By one command that begins it, goes on with it, and leaves it alone once all is done.

    Also without the run that it started from, and if a full disk keeps its reranking from being
    written.
    """
    path, training, iterations = whole(name)
    out, arguments = tmp_path / "run", training.arguments()
    for pauses in breaks(iterations):
        broken_off(out, pauses, *arguments, "--resume")
    away = training.start and training.start.rename(tmp_path / "away")
    if (path / RERANKING).exists():
        with faults.failing_at(faults.Fault(RERANKING, "write", 1, errno.ENOSPC)):
            output = call("train", "--out", out, "--resume").output
        assert "reranking.safetensors: ENOSPC, expected room" in output
        assert f"training is saved; continue with: xpcap train --out {out} --resume" in output
        assert not (out / RERANKING).exists()
    assert "resuming after iteration" in resume(out)
    assert_equal_runs(out, path)
    if away:
        away.rename(training.start or "")
    resume(out, *arguments)
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
        for key, x in load_parameters(writer.out / BEST)[0].items():
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
    for file in whole(name).path.rglob(BEST):
        run = open_run(file.parent)
        select = "cider" if "val_cider" in run.meta else "loss"
        data = run.data().with_vocabulary(run.vocabulary)
        solver = CaptioningSolver(run.model, data, select=select, verbose=False)
        solver.score_start()
        assert solver.start is not None
        figures = dict(solver.start, epoch=run.meta["epoch"], iteration=run.meta["iteration"])
        assert figures == pytest.approx({key: run.meta[key] for key in figures}, rel=1e-6)


@pytest.mark.parametrize("name", ["usual options", "warm start"])
def test_two_ranks_train_what_one_process_trains(
    name: str, whole: Callable[[str], Whole], tmp_path: Path
) -> None:
    """The latest parameters, to a hundredth of a step: sums are rounded in another order.

    The captions of the evaluation that the ranks share are those of the run, reranked by one reranking.
    """
    expected = whole(name)
    recipe = expected.recipe(tmp_path / "run")
    (first, scores), (second, _) = together(2, lambda group: train_run(recipe, group=group))
    np.testing.assert_array_equal(first.model.params.flat, second.model.params.flat)
    shapes = first.model.params.shapes
    ours, theirs = (load_state(run / LAST, shapes).arrays for run in (first.path, expected.path))
    for name in (f"params.{name}" for name in shapes):
        np.testing.assert_allclose(
            ours[name], theirs[name], rtol=1e-3, atol=recipe.lr / 100, err_msg=name
        )
    assert scores is not None
    told = scores.to_json()
    assert told["decoding"] == "beam of 10, reranked by similar photos"
    run = open_run(first.path)
    assert [*told["captions"].values()] == [x.caption for x in caption_run(run, count=8)]


@pytest.mark.parametrize("left", [0, 1, 3, 4], ids=["folder", "config", "data", "all"])
def test_a_run_that_was_killed_while_it_was_set_up_begins_anew(
    left: int, trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    (out / ".pictures.part").mkdir(parents=True)
    (out / ".pictures.part" / "val00000.png").touch()
    (out / ".config.json.0123abcd.part").write_text("{")
    for name in ("config.json", "vocab.json", "data.h5", "pictures")[:left]:
        copy = shutil.copytree if name == "pictures" else shutil.copy
        copy(trained / name, out / name)
    resume(out, *SMALL, "--feature-scaling", "standardize")
    assert_equal_runs(out, trained)


def test_a_run_that_a_watcher_ends_is_scored_and_written_and_goes_on_to_the_same_bytes(
    unbroken: Whole, tmp_path: Path
) -> None:
    stages: list[str] = []

    class Two(Watcher):
        def stage(self, options: Recipe) -> None:
            stages.append(options.objective)

        def epoch(self, solver: CaptioningSolver) -> None:
            state = load_state(out / LAST, solver.model.params.shapes)
            assert state.epoch == solver.epoch  # saved before it is told
            if solver.epoch == 2:
                solver.stop("two are enough")

    out = tmp_path / "run"
    run, evaluation = train_run(unbroken.recipe(out), watchers=[Two()])
    assert evaluation is not None
    assert len((out / "history.jsonl").read_text().splitlines()) == 2
    assert "in training" not in (run.path / "index.html").read_text()
    assert stages == ["cross-entropy"]
    resume(out)
    assert_equal_runs(out, unbroken.path)


def test_more_epochs_give_the_run_of_that_many(unbroken: Whole, tmp_path: Path) -> None:
    out = tmp_path / "run"
    good("train", "--out", out, *unbroken.arguments, "--epochs", 1)
    assert not (out / "data.h5").exists()
    resume(out, "--epochs", 3)
    assert_equal_runs(out, unbroken.path)


def test_an_interrupt_while_a_trained_run_is_scored_says_how_to_finish_it(
    unbroken: Whole, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "evaluate_run", interrupt)
        result = call("train", "--out", tmp_path / "run", *unbroken.arguments)
    assert result.exit_code == 130
    assert "train: interrupted; continue with" in result.output
    resume(tmp_path / "run")
    assert_equal_runs(tmp_path / "run", unbroken.path)


@pytest.mark.slow
def test_killed_runs_go_on_to_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make kill-test` does a hundred, of larger models that rank."""
    small = "--hidden 12 --wordvec 6 --batch-size 64 --no-neighbours".split()
    monkeypatch.setattr(kill, "SIZES", [*kill.SIZES, *small])
    monkeypatch.setattr(kill, "VARIANTS", [[*kill.VARIANTS[0], "--score-epochs", "1"]])
    assert kill.kill_runs(3, seed=3).kills == 3


@pytest.mark.slow
def test_a_run_goes_on_on_another_backend(unbroken: Whole, tmp_path: Path, device: Any) -> None:
    out = tmp_path / "run"
    broken_off(out, STEPS + 2, *unbroken.arguments)
    resume(out, "--backend", "cupy")
    ours, theirs = load_file(out / LAST), load_file(unbroken.path / LAST)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=2e-3, atol=2e-5, err_msg=name)
    good("evaluate", out, "--backend", "numpy")


def test_patience_ends_training_after_so_many_epochs_without_a_better_one(
    unbroken: Whole, tmp_path: Path
) -> None:
    """At this rate it overshoots; broken off or not, it ends at the same epoch, and with more
    patience it goes on.
    """
    options = [*unbroken.arguments, "--epochs", 20, "--lr-decay", 1, "--patience", 1]
    options += ["--select", "loss", "--lr", 0.3]
    path, out = tmp_path / "whole" / "run", tmp_path / "run"
    good("train", "--out", path, *options)
    lines = (path / "history.jsonl").read_text().splitlines()
    losses = [json.loads(line)["val_loss"] for line in lines]
    assert 3 < int(np.argmin(losses)) + 2 == len(losses) < 20
    broken_off(out, (STEPS + 1) * (len(losses) - 1), *options)
    resume(out)
    assert_equal_runs(out, path)
    resume(out, "--patience", 2)
    assert len((out / "history.jsonl").read_text().splitlines()) > len(losses)


# What is saved and shown meanwhile


def test_steps_and_seconds_say_when_it_is_saved_within_an_epoch(
    unbroken: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[tuple[int, bool]] = []

    def write(keeper: RunWriter, solver: CaptioningSolver, epoch_ended: bool) -> None:
        saved.append((solver.iteration, epoch_ended))
        original(keeper, solver, epoch_ended)

    original = RunWriter.write
    monkeypatch.setattr(RunWriter, "write", write)
    train_run(unbroken.recipe(tmp_path / "steps", epochs=2, save_every="4"))
    assert saved == [(4, False), (6, True), (10, False), (12, True)]
    saved.clear()
    train_run(unbroken.recipe(tmp_path / "seconds", epochs=2, save_every="0.000001s"))
    assert [iteration for iteration, ended in saved if not ended][:3] == [1, 2, 3]
    named = {"README.md", "index.html"}
    assert kill.differing(tmp_path / "steps", tmp_path / "seconds") == named


def shown(run: Path) -> int:
    """Epochs that the page of a run in training shows."""
    return int(re.findall(r"After epoch (\d+) of ", (run / "index.html").read_text())[0])


def use_clock(clock: Callable[[], float], patch: pytest.MonkeyPatch) -> None:
    patch.setattr(train, "RunWriter", functools.partial(RunWriter, clock=clock))


def test_the_page_is_written_now_and_then_while_training_goes_on(
    unbroken: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page at the first checkpoint with an epoch, then every minute at most, so within an epoch
    too; and when training ends.
    """
    clock, written = [0.0], []

    def write(folder: Path, epochs: int, records: list[Any]) -> None:
        written.append((clock[0], len(records)))
        original(folder, epochs, records)

    class Tick(Watcher):
        def step(self, solver: CaptioningSolver) -> None:
            clock[0] += 5

    original = saving.write_progress_page
    monkeypatch.setattr(saving, "write_progress_page", write)
    use_clock(lambda: clock[0], monkeypatch)
    train_run(unbroken.recipe(tmp_path / "run", save_every="1"), watchers=[Tick()])
    epoch = 5 * len(unbroken.iterations) // 3  # seconds
    assert written == [(epoch, 1), (epoch + 60, 2), (3 * epoch, 3)]


def test_the_page_shows_every_epoch_when_training_stops(
    unbroken: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a signal, also soon after a resume; or because a loss is not finite."""
    use_clock(lambda: 0.0, monkeypatch)
    out, epoch = tmp_path / "run", len(unbroken.iterations) // 3
    broken_off(out, 3 * epoch + 2, *unbroken.arguments, "--epochs", 9)
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
        train_run(unbroken.recipe(tmp_path / "sick", epochs=4), watchers=[Sicken()])
    assert shown(tmp_path / "sick") == 3


# What a run goes on with


def test_options_that_contradict_the_run_are_refused_all_at_once(run: Path) -> None:
    before = kill.files(run)
    result = call("train", "--out", run, "--hidden", 17, "--seed", 3, "--epochs", 1, "--resume")
    assert result.exit_code == 2
    for option in ("--hidden 17 (the run has 16)", "--seed 3 (the run has 0)"):
        assert option in result.output
    assert "--epochs 1 (the run has 2)" in result.output
    assert kill.files(run) == before


def test_a_run_goes_on_with_its_own_start_and_no_other(unbroken: Whole, tmp_path: Path) -> None:
    start = unbroken.path
    options = {"start": start, "epochs": 1, "lr_decay": 0.5, "neighbours": False}
    recipe = Recipe(**{"out": tmp_path / "on", **options})
    train_run(recipe)
    more = replace(recipe, epochs=2, resume=True)
    assert train_run(replace(more, start=None)).run.config.recipe.start == start
    other = Path(shutil.copytree(start, tmp_path / "other"))
    with refuses(OptionError, f"`start` {other} (the run has {start})"):
        train_run(replace(more, start=other))
    with refuses(OptionError, f"`start` {start} (the run has none)"):
        train_run(Recipe(out=other, start=start, resume=True))


def test_a_linear_rate_is_planned_for_its_epochs(unbroken: Whole, tmp_path: Path) -> None:
    train_run(unbroken.recipe(tmp_path / "run", lr_decay="linear"))
    result = call("train", "--out", tmp_path / "run", "--resume", "--epochs", 4)
    assert result.exit_code == 2
    for words in (
        *("--epochs 4 given with --resume", "expected the 3 of", "leave --epochs out", "--out"),
        "falls to zero over these epochs (--lr-decay linear)",
    ):
        assert words in result.output


def test_only_a_run_or_a_free_place_is_taken_for_one(run: Path, tmp_path: Path) -> None:
    failing(["train", "--out", run], "exists", "choose another --out, continue it with --resume")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_text("")
    (tmp_path / "file").write_text("")
    for name, held in (("photos", "'holiday.jpg' and no config.json"), ("file", "'a file'")):
        failing(["train", "--out", tmp_path / name, "--resume"], f"holds {held}")
    assert call("train", "--resume").exit_code == 2


def test_data_that_moved_is_found_by_its_name_and_data_that_changed_is_refused(
    unbroken: Whole, tmp_path: Path
) -> None:
    mine, moved, out = tmp_path / "mine.h5", tmp_path / "moved.h5", tmp_path / "run"
    shutil.copy(unbroken.training.data or "", mine)
    broken_off(out, 4, mine, *unbroken.arguments[1:])
    mine.rename(moved)
    failing(["train", "--out", out, "--resume"], "mine.h5 does not exist")
    resume(out, moved)
    assert json.loads((out / "config.json").read_text())["data"] == str(moved)
    good("evaluate", out)
    other = data_set(tmp_path / "other.h5", seed=5)
    failing(["train", other, "--out", out, "--resume"], "is not the data that", "began with")


def test_best_parameters_of_another_epoch_are_noticed(unbroken: Whole, tmp_path: Path) -> None:
    out = tmp_path / "run"
    broken_off(out, len(unbroken.iterations) // 3 + 1, *unbroken.arguments)
    (out / BEST).rename(out / "kept")
    assert "best.safetensors is missing" in call("train", "--out", out, "--resume").output
    tensors, scaling, meta = load_parameters(out / "kept")
    save_parameters(out / BEST, tensors, scaling, {**meta, "epoch": 7})
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
    resume(run, "--epochs", 3)
    assert kill.files(victim) == before
    assert not (run / LAST).is_symlink()
    assert not (run / ".lock").is_symlink()


# Signals and locks


# What the process of a `TrainingProcess` runs: it says when it has saved, and when its writer hangs,
# in place of the two calls of the system by which a file is written; and at the end which of the
# modules that take a second to import it has imported
CHILD = """
import os, sys, threading
import commands
from xpcap.files import read_write
from xpcap.cli import main
from xpcap.trainer import train

def flush(file, flush=read_write._flush):
    flush(file)
    if {hang} and saved.is_set() and "last.safetensors" in file.name:
        os.write(2, b"the writer hangs\\n")
        threading.Event().wait()

def rename(temporary, path, rename=read_write._rename):
    rename(temporary, path)
    if path.name == "last.safetensors" and not saved.is_set():
        saved.set()
        os.write(2, b"something is saved\\n")

saved = threading.Event()
read_write._flush, read_write._rename, train.generate = flush, rename, commands.few
try:
    main()
finally:
    print("imported:", *sorted({{"matplotlib"}} & {{*sys.modules}}), file=sys.stderr)
"""


class TrainingProcess:
    """Endless training in a process of its own, once something of it is saved. It is ended with the
    ``with`` block, if not before.

    out : the run's folder
    hang : let the next write of a checkpoint never return
    """

    def __init__(self, out: Path, *, hang: bool = False) -> None:
        self.errors = ""  # what it has written to standard error, as far as it was waited for
        arguments = ["train", "--out", out, *SIZES, "--epochs", 100_000, "--save-every", 1]
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD.format(hang=hang), *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": HELPED},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "TrainingProcess":
        self.wait_for("something is saved")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def wait_for(self, words: str) -> None:
        """Wait for a line with these words."""
        assert self.process.stderr is not None
        while words not in (line := self.process.stderr.readline()):
            self.errors += line
            assert line, f"ended without {words!r}: {self.errors}"
        self.errors += line

    def wait(self) -> int:
        """Wait for the end of the process, and return its exit status."""
        self.errors += self.process.communicate(timeout=HANG_SECONDS)[1]
        return self.process.returncode


def iteration_of(run: Path) -> int:
    """Of the checkpoint."""
    return int(read_tensors(run / LAST)[1]["iteration"])


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    with TrainingProcess(tmp_path / "run") as training:
        training.process.send_signal(signal.SIGTERM)
        assert training.wait() == 143
    errors = training.errors
    assert "SIGTERM: finishing this step and saving" in errors
    assert f"train --out {tmp_path / 'run'} --resume" in errors
    assert "Traceback" not in errors
    assert f"after iteration {iteration_of(tmp_path / 'run')}," in errors
    assert errors.endswith("imported:\n")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGHUP", 129)])
def test_other_signals_do_the_same(name: str, status: int, unbroken: Whole, tmp_path: Path) -> None:
    output = broken_off(tmp_path / "run", 3, *unbroken.arguments, by=name, status=status)
    assert f"stopped by {name} after iteration 3, and saved; continue with" in output
    assert iteration_of(tmp_path / "run") == 3


def test_a_signal_in_the_very_last_moment_of_training_is_heeded_too(
    unbroken: Whole, tmp_path: Path
) -> None:
    def epoch(saver: saving.Checkpointer, solver: Any) -> None:
        original(saver, solver)
        if solver.epoch == 3:
            signal.raise_signal(signal.SIGINT)

    original = saving.Checkpointer.epoch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saving.Checkpointer, "epoch", epoch)
        result = call("train", "--out", tmp_path / "run", *unbroken.arguments)
    assert result.exit_code == 130
    assert f"stopped by SIGINT after iteration {3 * STEPS}, and saved" in result.output
    resume(tmp_path / "run")
    assert_equal_runs(tmp_path / "run", unbroken.path)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_a_second_interrupt_leaves_at_once_with_nothing_broken(tmp_path: Path) -> None:
    """Here the writer hangs, as on a disk that does not answer. A second trainer is refused as long
    as this one lives, and no longer.
    """
    out = tmp_path / "run"
    with TrainingProcess(out, hang=True) as training:
        training.wait_for("the writer hangs")
        with pytest.MonkeyPatch.context() as patch:
            stop_after(1, patch)  # it would train without end
            result = call("train", "--out", out, "--resume")
        assert result.exit_code == 1
        assert "is being trained by another process" in result.output
        training.process.send_signal(signal.SIGINT)
        training.wait_for("finishing this step")
        training.process.send_signal(signal.SIGINT)
        assert training.wait() == -signal.SIGINT
    assert len(list(out.glob(".*.part"))) == 1
    assert iteration_of(out) == 1
    broken_off(out, 2, "--resume")
    assert list(out.glob(".*.part")) == []


def test_a_signal_that_was_to_be_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.signal is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_run_of_python_stops_with_what_it_knows(
    unbroken: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(3, monkeypatch)
    with pytest.raises(Stopped) as caught:
        train_run(unbroken.recipe(tmp_path / "run"))
    stopped = caught.value
    assert (stopped.signal, stopped.iteration, stopped.epoch) == (signal.SIGTERM, 3, 0)


@pytest.mark.parametrize("again", [False, True])
def test_who_comes_second_leaves_the_folder_of_the_first_alone(
    again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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

    monkeypatch.setattr(folder, "check_resumable" if again else "check_free", others)
    monkeypatch.setattr(folder, "lock", taken)
    with pytest.raises((DataError, FileExistsError)):
        train_run(Recipe(out=out, hidden=8, wordvec=4, score_epochs=0, resume=again))
    assert (out / "config.json").read_text() == "theirs"


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
    tensors, meta = read_tensors(run / LAST)
    tensors["params.W_proj"].fill(
        3e38
    )  # h0 is infinite, and h0 @ Wh adds infinities of either sign
    write_tensors(run / LAST, tensors, meta)
    before = (run / LAST).read_bytes()
    options = ["--save-every", every, "--backend", backend]
    failing(["train", "--out", run, "--resume", *options], "iteration 21 has loss", "rate", *words)
    assert (run / LAST).read_bytes() == before
    with refuses(DataError, "has shape"):
        load_state(run / LAST, dict.fromkeys(open_run(run).model.params.shapes, (2, 2)))
