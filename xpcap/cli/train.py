"""`train`: train a run folder from a data set, and print progress."""

import contextlib
import dataclasses
import functools
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from xpcap.backend import get_backend
from xpcap.backend.cublas import reduced_precision
from xpcap.backend.plain_code import current_code
from xpcap.backend.probe import is_device_error
from xpcap.cli.group import leave_closed_pipe
from xpcap.cli.printing import Printed
from xpcap.cli.shared import (
    PATH,
    backend_option,
    begin,
    choose_backend,
    command_line,
    counted,
    examples,
    field_options,
    print_scores,
)
from xpcap.data.few import FEW_CAPTIONS, MEDIUM_CAPTIONS, TINY_CAPTIONS
from xpcap.data.vocabulary import SPECIAL
from xpcap.distributed.work import current
from xpcap.drawings import TRAIN, VAL
from xpcap.files.file_types import ENDS, type_of_file
from xpcap.options import Option
from xpcap.progress import say
from xpcap.report import escape_control
from xpcap.runs.folder import CONFIG, LAST, cell_title, read_vocabulary
from xpcap.runs.recipe import OPTIONS, PRESETS, Recipe
from xpcap.runs.run import provenance_text
from xpcap.trainer.saver import Stopped
from xpcap.trainer.train import train_run
from xpcap.training.objectives import CROSS_ENTROPY, SELF_CRITICAL
from xpcap.training.solver import CaptioningSolver
from xpcap.training.watcher import EpochLines

WATCHED = 3.0  # seconds of steps that the estimate of the remaining time is based on
EXAMPLES = examples(
    "train",
    "train flickr8k.h5 --out runs/flickr8k --resume",
    "train flickr8k.h5 --backend cupy --epochs 20",
)


def default_text(name: str, option: Option) -> str:
    """The default of an option, for its help, with those of presets that differ."""
    default = PRESETS["many"].get(name, PRESETS["usual"].get(name))
    if default is None:
        return ""
    medium, small, generated = (
        PRESETS[preset].get(name, default) for preset in ("medium", "few", "generated")
    )
    texts = [_text(default)]
    texts += [f"fewer than {MEDIUM_CAPTIONS}: {_text(medium)}"] if medium != default else []
    texts += [f"fewer than {FEW_CAPTIONS}: {_text(small)}"] if small != medium else []
    texts += [f"generated pictures: {_text(generated)}"] if generated != default else []
    return "; ".join(texts)


def _text(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


@click.command(epilog=EXAMPLES)
@click.argument("data", required=False, type=PATH)
@field_options(OPTIONS, default_text, data="DATA", start="--from")
@backend_option
@click.option(
    "-v",
    "--verbose",
    is_flag=True,
    help="Print all options, as in the run folder's config.json.",
)
def train(data: Path | None, backend: str | None, verbose: bool, **options: Any) -> None:
    """Train a captioner.

    DATA is a dataset file from 'prepare' or CS231n's coco_captioning folder. Without it, pictures
    of shapes are generated.

    Writes a run folder with the parameters of the best epoch (see --select) and of the latest. After
    training, captions of the val split with the best parameters are scored. Open index.html in the
    run folder for captions, scores and curves.

    Ctrl-C, SIGTERM and SIGHUP (unless under nohup) finish the step, save, and exit with 130, 143 or
    129; a second Ctrl-C exits at once. If the output pipe closes, as in a pipe into 'head', training
    saves and exits with 141. With --resume, one command both begins a run and continues it after an
    interruption. When it continues, options that are not given are the run's.
    """
    _refuse_captions(data)
    group = begin(on_notice=say)
    choose_backend(backend)
    if get_backend() != "numpy" and (settings := reduced_precision()):
        say(f"products on the GPU have reduced precision, as {', '.join(settings)} is set")
    recipe = Recipe(data, **{name: value for name, value in options.items() if value is not None})
    has_data = recipe.data or recipe.start or (recipe.out and (Path(recipe.out) / CONFIG).is_file())
    if not has_data:
        say(f"drawing {TRAIN + VAL:,} pictures of shapes")
    progress = Progress(verbose)

    def how_to_continue(*words: str) -> str:
        """The command that continues training; "" if nothing is saved."""
        if progress.out is None or not (progress.out / LAST).is_file():
            return ""
        plain = ["--plain"] if progress.code == "plain" else []
        return command_line("train", "--out", str(progress.out), "--resume", *words, *plain)

    again = functools.partial(how_to_continue, *(["--backend", backend] if backend else []))
    try:
        run, evaluation = train_run(recipe, watchers=[progress], verbose=False)
    except BrokenPipeError:
        if group.rank == 0 and again():
            leave_closed_pipe()
            with contextlib.suppress(BrokenPipeError):  # stderr may be closed too
                _print_how_to_continue("output pipe closed; training stopped and saved", again())
        raise
    except Exception as error:
        command = how_to_continue("--backend", "numpy") if is_device_error(error) else again()
        if command and (is_device_error(error) or isinstance(error, OSError)):
            error.add_note(f"training is saved; continue with: {command}")
        raise
    except KeyboardInterrupt as stopped:
        if not again():
            raise
        if group.rank == 0:
            _print_how_to_continue(str(stopped) or "interrupted", again())
        if isinstance(stopped, Stopped):
            group.barrier()  # a rank that exits may end the others before they print
        sys.exit(128 + getattr(stopped, "signal", signal.SIGINT))
    click.echo(provenance_text(run))
    if evaluation is not None:
        click.echo()
        printed = Printed()
        for caption in evaluation.spread():
            printed.add(caption)
        printed.close()
        print_scores(evaluation)
    click.echo(f"wrote {run.path}; open {run.path / 'index.html'}")
    if run.config.recipe.data is None:
        export_command = command_line("export", str(run.path), "--web", "page")
        click.echo(f"for a page that captions drawings in the browser:\n  {export_command}")


def _print_how_to_continue(why: str, command: str) -> None:
    click.echo(f"train: {why}; continue with\n  {command}", err=True)


def _refuse_captions(data: Path | None) -> None:
    """Raise ClickException if `data` is a file or workbook of captions, to be prepared first."""
    if data is None or not data.is_file():
        return
    try:
        with data.open("rb") as file:
            head = file.read(ENDS)
    except OSError:
        return  # opening it as a data set reports the error
    file_type = type_of_file(head)
    if not head or (file_type.family != "spreadsheet" if file_type else b"\0" in head):
        return
    content = "text, such as a table of captions"
    table = data
    if file_type:
        content = f"{file_type.name}: save it as CSV UTF-8 first"
        table = data.with_suffix(".csv")
    out = str(data.with_suffix(".h5"))
    prepare = command_line("prepare", str(table), "--pictures", "photos", "--out", out)
    raise click.ClickException(
        f"train: {escape_control(str(data))} is {content}, expected a dataset file; make one from"
        f" the captions and the folder of pictures, here called photos:\n  {prepare}\n"
        f"  {command_line('train', out)}"
    )


class Progress(EpochLines):
    """Prints what is trained, an estimate of the time, and a line for each epoch.

    verbose : print all options as well
    clock : returns the time in seconds
    """

    def __init__(self, verbose: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._verbose = verbose
        self._clock = clock
        self.out: Path | None = None  # known once training begins
        self.code = current_code()
        self._first: tuple[int, float] | None = None  # first step, and the time at its end
        self._estimated = False

    def stage(self, options: Recipe) -> None:
        self._options = options
        self.out = Path(options.out or "")
        if self._verbose:
            shown = dataclasses.asdict(self._options)
            shown |= {"data": options.data or "generated"}
            shown |= {"backend": get_backend(), "code": current_code()}
            if (ranks := current().group.size) > 1:
                shown["ranks"] = ranks
            click.echo("  ".join(f"{key} {value}" for key, value in shown.items()))

    def begin(self, solver: CaptioningSolver) -> None:
        self.code = solver.code
        options = self._options
        start = solver.start or {}
        if solver.iteration:
            say(
                f"resuming after iteration {solver.iteration}; {solver.epoch} of"
                f" {start.get('epoch', 0) + solver.num_epochs} epochs are done"
            )
        if solver.finished:
            return
        train = solver.data.split("train")
        config = solver.model.config
        score = f"CIDEr {start['val_cider']:.3f} on val" if "val_cider" in start else ""
        if options.objective == SELF_CRITICAL and options.start is None:
            say(
                "second stage: self-critical training on"
                f" {counted(len(train.images), 'picture')}{score and f', from {score}'}"
            )
            return
        words = len(solver.data.vocabulary) - len(SPECIAL)
        ranks = current().group.size
        say(
            f"training {cell_title(config.cell)} of {config.hidden:,} units on"
            f" {counted(len(train.images), 'picture')} with"
            f" {counted(len(train.captions), 'caption')} of {counted(words, 'word')}"
            f"{f' on {ranks} ranks' if ranks > 1 else ''}; the run folder is {options.out}"
        )
        if options.start is not None and not solver.iteration:
            n_known = len(read_vocabulary(Path(options.start))) - len(SPECIAL)
            say(
                f"warm start from {options.start}: {counted(n_known, 'known word')},"
                f" {words - n_known:,} new" + (score and f"; before the first step {score}")
            )
        elif options.data is not None and len(train.captions) < FEW_CAPTIONS.number:
            self._print_small(len(train.captions))

    def _print_small(self, captions: int) -> None:
        """Print how training differs because there are few captions."""
        options = self._options
        second_stage = "no self-critical training"
        if options.score_epochs:
            second_stage = (
                f"then {counted(options.score_epochs, 'epoch')} of self-critical training"
            )
        line = (
            f"few captions: batches of {options.batch_size}, {counted(options.epochs, 'epoch')},"
            f" {second_stage}"
        )
        if captions < TINY_CAPTIONS.number:
            line += (
                "; too few to train on alone: each caption will be copied from the most similar"
                " training photo"
            )
        say(
            f'{line}; "Train on your photos" in the documentation has what to expect, and how a warm start helps'
        )

    def step(self, solver: CaptioningSolver) -> None:
        if self._estimated or solver.iteration % solver.steps_per_epoch == 0:
            return  # at the end of an epoch, validation calls this too
        now = self._clock()
        # The first step includes allocation and compilation
        first, since = self._first = self._first or (solver.iteration, now)
        if now - since >= WATCHED:
            self._print_estimate(solver, solver.iteration - first, now - since)

    def _print_estimate(self, solver: CaptioningSolver, steps: int, seconds: float) -> None:
        """Print the number of steps, and the remaining time if `steps` take so many `seconds`."""
        self._estimated = True
        epochs = solver.num_epochs
        line = f"{counted(epochs, 'epoch')} of {counted(solver.steps_per_epoch, 'step')}"
        if remaining := epochs * solver.steps_per_epoch - solver.iteration:
            line += (
                f", about {duration(remaining * seconds / steps)} at the speed of the first"
                f" {counted(steps, 'step')}, plus the scores after each epoch"
            )
        if self._options.objective == CROSS_ENTROPY and self._options.score_epochs:
            line += f"; then a second stage of {counted(self._options.score_epochs, 'epoch')}"
        say(line)

    def epoch(self, solver: CaptioningSolver) -> None:
        times = solver.times[-1]
        if not self._estimated and times["steps"]:  # a resumed epoch may only lack its scores
            self._print_estimate(solver, times["steps"], times["train_seconds"])
        super().epoch(solver)


def duration(seconds: float) -> str:
    """A time in words, to at most two digits."""
    if seconds < 95:
        return f"{max(1, round(seconds / 5)) * 5} seconds"
    minutes = seconds / 60
    return f"{round(minutes)} minutes" if minutes < 95 else f"{minutes / 60:.1f} hours"
