"""The command line: parses, calls, prints. What the commands do stands in the modules they call."""

import dataclasses
import io
import json
import math
import os
import platform
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from xpcap import __version__, runs
from xpcap import bench as timings
from xpcap.backend import BACKENDS, VARIABLE, backend_status, get_backend, use_backend
from xpcap.data import open_data, write_dataset
from xpcap.data.importers import import_flickr8k
from xpcap.data.scaling import KINDS
from xpcap.errors import EXPECTED, OptionError, nearest
from xpcap.files import obstacle
from xpcap.layers import CELLS
from xpcap.progress import say
from xpcap.report import visible
from xpcap.runs import folder as run_folder
from xpcap.training.solver import CaptioningSolver
from xpcap.verify import verify as run_verify

DEFAULTS, GENERATED = runs.TrainOptions(), runs.GENERATED
LARGEST = run_folder.LARGEST
LONGEST_MESSAGE = 4000  # characters


class Commands(click.Group):
    """Turns errors that the user can mend into one message and the right exit status, and suggests near names."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order that people use them."""
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise click.UsageError(f"no command {args[0]!r}, expected one of {', '.join(self.commands)}{nearest(args[0], self.commands)}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OptionError as error:
            raise click.UsageError(visible(str(error), LONGEST_MESSAGE)) from error
        except EXPECTED as error:
            raise click.ClickException(visible(str(error), LONGEST_MESSAGE)) from error
        except MemoryError as error:
            raise click.ClickException(f"{ctx.invoked_subcommand}: out of memory ({error}); choose smaller sizes, or smaller data") from error
        except KeyboardInterrupt:
            click.echo(f"{ctx.invoked_subcommand}: interrupted; what was written is whole", err=True)
            ctx.exit(128 + signal.SIGINT)
        except BrokenPipeError:
            raise  # whoever read our output has gone; click ends quietly
        except OSError as error:
            place = f"{visible(str(error.filename))}: " if error.filename else ""
            hint = "expected to read or write there; is the path right, is there room, and permission?"
            raise click.ClickException(f"{ctx.invoked_subcommand}: {place}{error.strerror or error}, {hint}") from error


class Choice(click.ParamType):
    """One of a few names; a wrong one brings the near one to mind."""

    name = "choice"

    def __init__(self, *names: str) -> None:
        self.names = names

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "|".join(self.names)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self.names:
            self.fail(f"{value!r} does not exist, expected one of {', '.join(self.names)}{nearest(value, self.names)}", param, ctx)
        return str(value)


class Number(click.FloatRange):
    """A finite number in a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"got {value}, expected a finite number", param, ctx)
        return float(number)


def _pair(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, Path]:
    """NAME=FILE options as a mapping."""
    pairs: dict[str, Path] = {}
    for value in values:
        name, equals, file = value.partition("=")
        if not (name.isidentifier() and equals and file) or name in pairs or name == "vocab":
            raise click.BadParameter(f"got {value!r}, expected NAME=LIST with a fresh name of letters, as in train=trainImages.txt")
        pairs[name] = Path(file)
    return pairs


def _example(text: str) -> str:
    """Examples for the foot of a help page, kept as they are."""
    lines = (line if line.startswith(" ") else f"  python cli.py {line}" for line in text.splitlines())
    return "\b\nExamples:\n" + "\n".join(lines)


def _backend_option(command: Callable[..., None]) -> Callable[..., None]:
    text = f"numpy, cupy, cupy:N (device N) or auto. Default: ${VARIABLE}, else numpy."
    return click.option("--backend", metavar="|".join((*BACKENDS, "auto")), help=text)(command)


def _json_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for a program to read.")(command)


def _choose(backend: str | None) -> None:
    if backend is not None:
        use_backend(backend)
    else:
        get_backend()  # from the environment; complains before any work is done


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="xpcap")
def main() -> None:
    """Train and run LSTM image captioners with hand-written gradients, on NumPy or CuPy.

    'train' alone generates pictures, learns to describe them and shows what it learnt. Exit status: 0 done, 1 failed, 2 misused.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # captions may hold what the terminal cannot show


PREPARE_EXAMPLE = """prepare --captions Flickr8k.token.txt --features features.npz --out flickr8k.h5 \\
      --split train=Flickr_8k.trainImages.txt --split val=Flickr_8k.devImages.txt
prepare --captions captions.txt --pictures photos --split train=train.txt --split val=val.txt --out own.h5"""


@main.command(epilog=_example(PREPARE_EXAMPLE))
@click.option(
    "--captions", type=click.Path(path_type=Path), required=True, help="Captions, lines of NAME#K, a tab and a caption (Flickr8k's token file)."
)
@click.option(
    "--split",
    "lists",
    multiple=True,
    required=True,
    callback=_pair,
    metavar="NAME=LIST",
    help="A split and the file that lists its pictures, one name a line. Give one for each split.",
)
@click.option(
    "--pictures",
    type=click.Path(path_type=Path),
    help="The folder that the pictures are in: shown on pages, and encoded as colour and edge histograms where no --features are given.",
)
@click.option("--features", type=click.Path(path_type=Path), help="An .npz with 'names' (m,) and 'features' (m, D), from an encoder of your own.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The dataset file to write. Never overwritten.")
@click.option("--min-count", type=click.IntRange(1, LARGEST), default=5, show_default=True, help="Rarer words of the train split become <UNK>.")
@click.option(
    "--max-words", type=click.IntRange(1, 1000), default=20, show_default=True, help="Longer captions are cut for training; scores take them whole."
)
def prepare(captions: Path, lists: dict[str, Path], pictures: Path | None, features: Path | None, out: Path, min_count: int, max_words: int) -> None:
    """Make a dataset file.

    Checks that captions, split lists and pictures or their features fit together, and writes them as one stamped HDF5 file. Give
    --pictures, --features or both.
    """
    if pictures is None and features is None:
        raise click.UsageError("neither --pictures nor --features is given, expected at least one: where do the features come from?")
    if why := obstacle(out):
        raise click.ClickException(f"prepare: {out} {why}")  # before any work is done
    data = import_flickr8k(captions, lists, features, min_count, max_words, pictures, progress=True)
    write_dataset(out, data)
    click.echo(_describe_data(out, data))


def _option(name: str, kind: Any, text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A train option whose default stands in TrainOptions, and in GENERATED where it is another for generated pictures."""
    default, generated = (getattr(options, name.replace("-", "_")) for options in (DEFAULTS, GENERATED))
    shown = str(default) if default == generated else f"{default}; generated pictures: {generated}"
    return click.option(f"--{name}", type=kind, default=None, help=f"{text}  [default: {shown}]")


@main.command(epilog=_example("train\ntrain flickr8k.h5 --out runs/flickr8k --resume\ntrain flickr8k.h5 --backend cupy --epochs 20"))
@click.argument("data", required=False, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The run folder to make. Never overwritten. Default: runs/NAME, or a fresh runs/NAME-N.")
@_backend_option
@_option("cell", Choice(*CELLS), "Recurrent cell.")
@_option("hidden", click.IntRange(1, LARGEST), "H, units of the state.")
@_option("wordvec", click.IntRange(1, LARGEST), "W, size of a word vector.")
@_option("epochs", click.IntRange(1, LARGEST), "Times that every training caption is visited.")
@_option("batch-size", click.IntRange(1, LARGEST), "N, captions in a step.")
@_option("lr", Number(0, min_open=True), "Adam's learning rate in the first epoch.")
@_option("lr-decay", Number(0, min_open=True), "Multiplies the learning rate after each epoch.")
@_option("clip", Number(0), "Largest global norm of a gradient; 0 for no clipping.")
@_option("dropout", Number(0, 1, max_open=True), "Share of features, word vectors and hidden units dropped.")
@_option("feature-scaling", Choice(*KINDS), "How features are scaled, by the train split.")
@_option("seed", click.IntRange(0, 2**63 - 1), "Of weights, order of captions, dropout and generated pictures.")
@_option("patience", click.IntRange(0, LARGEST), "Stop after so many epochs in a row without a lower validation loss; 0: never.")
@_option("save-every", str, "Save within an epoch every so many seconds, as in 30s, or steps, as in 200. The end of an epoch is saved anyway.")
@click.option(
    "--resume", is_flag=True, default=None, help="Go on with the run at --out as if it had never been broken off; begin it where there is none."
)
def train(data: Path | None, backend: str | None, **options: Any) -> None:
    """Train a captioner.

    Trains on DATA and writes a run folder.

    DATA is a dataset file from 'prepare' or CS231n's coco_captioning folder. Without it, pictures of shapes are generated. The
    parameters with the least validation loss are kept beside the latest; at the end they caption and are scored, and index.html in the
    run folder shows it all.

    Ctrl-C and SIGTERM finish the step, save, and exit with 130 or 143; a second Ctrl-C leaves at once. With --resume the same command begins
    a run and goes on with it after any end: options that are not given are then the run's own.
    """
    _choose(backend)
    given = {name: value for name, value in options.items() if value is not None}
    chosen = runs.choose(data, given)
    shown = {field.name: getattr(chosen, field.name) for field in dataclasses.fields(chosen)}
    click.echo("  ".join(f"{key} {value}" for key, value in {**shown, "data": chosen.data or "generated", "backend": get_backend()}.items()))
    try:
        run, evaluation = runs.train_run(chosen, on_epoch=_print_epoch, progress=True, on_resume=_print_resume)
    except KeyboardInterrupt as stopped:
        if not isinstance(stopped, runs.Stopped) and not run_folder.is_saved(chosen.out):
            raise
        again = ["train", "--out", str(chosen.out), "--resume", *(("--backend", backend) if backend else ())]
        click.echo(f"train: {str(stopped) or 'interrupted'}; go on with\n  {_program()} {shlex.join(again)}", err=True)
        sys.exit(128 + getattr(stopped, "signal", signal.SIGINT))
    click.echo(f"best after epoch {run.meta.get('epoch')}")
    if evaluation is not None:
        click.echo()
        _print_captions(evaluation.spread())
        _print_evaluation(evaluation)
    click.echo(f"wrote {run.path}; open {run.path / 'index.html'}")


def _program() -> str:
    """How this was called."""
    return "python cli.py" if Path(sys.argv[0]).name == "cli.py" else "xpcap"


def _print_resume(solver: CaptioningSolver) -> None:
    say(f"going on after iteration {solver.iteration}, with {solver.epoch} of {solver.num_epochs} epochs done")


def _print_epoch(solver: CaptioningSolver) -> None:
    record, times = solver.history[-1], solver.times[-1]
    val = f"  val loss {record['val_loss']:6.2f}  perplexity {record['val_perplexity']:6.2f}" if "val_loss" in record else ""
    say(f"epoch {record['epoch']:2}  train loss {record['train_loss']:6.2f}{val}  {times['train_seconds'] + times['check_seconds']:5.1f} s")


@main.command(epilog=_example("evaluate runs/flickr8k\nevaluate runs/flickr8k --data other.h5 --split test --json"))
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Another dataset file; its text is encoded with the run's vocabulary. Default: the run's own data.",
)
@click.option("--split", default="val", show_default=True, help="The split to score.")
@_backend_option
@_json_option
def evaluate(run: Path, data: Path | None, split: str, backend: str | None, as_json: bool) -> None:
    """Score a run.

    Captions every picture of a split greedily, compares with all its references, and gives the perplexity of the references.
    """
    _choose(backend)
    result = runs.evaluate_run(run_folder.open_run(run), data, split, progress=True)
    if as_json:
        click.echo(json.dumps(result.to_json()))
    else:
        _print_evaluation(result)


def _print_evaluation(result: runs.Evaluation) -> None:
    click.echo(f"{result.split}: {result.n} pictures, {result.seconds:.1f} s")
    click.echo(_table(result.rows()))


CAPTION_EXAMPLE = """caption runs/pictures-lstm drawing.png
caption runs/pictures-lstm photos more/one.jpg --html page.html
caption runs/flickr8k --split val -n 20"""


@main.command(epilog=_example(CAPTION_EXAMPLE))
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("pictures", nargs=-1, metavar="[PICTURE|FOLDER]...", type=click.Path(path_type=Path, readable=False))  # skipped if it is not
@click.option("--split", default="val", show_default=True, help="Without pictures: the split whose pictures to caption.")
@click.option("-n", "count", type=click.IntRange(1), default=10, show_default=True, help="How many of them, spread evenly over the split.")
@click.option("--data", type=click.Path(path_type=Path), help="Another dataset file to take them from. Default: the run's own data.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page of pictures and captions as well. Never overwritten.")
@click.option("--png", type=click.Path(path_type=Path), help="Write them as one picture as well, at most 60 of them. Never overwritten.")
@_backend_option
@_json_option
@click.pass_context
def caption(
    ctx: click.Context, run: Path, pictures: tuple[Path, ...], split: str, count: int, data: Path | None, html: Path | None, png: Path | None,
    backend: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Caption pictures with a run.

    Says what RUN sees in picture files, and in the pictures of folders; without any, in pictures of a split, beside what people wrote.
    A picture that cannot be read is named and skipped; exit status 1 if none could be.
    """
    given = [name for name in ("split", "count", "data") if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT]
    if pictures and given:
        raise click.UsageError(
            f"pictures and {', '.join('-n' if name == 'count' else f'--{name}' for name in given)} are given, expected one or the other"
        )
    for place, suffix in ((html, ".html"), (png, ".png")):
        if place is not None:
            runs.check_place(place, suffix)  # before any work is done
    _choose(backend)
    opened = run_folder.open_run(run)
    skipped: list[runs.Skipped] = []
    look: runs.Look = runs.look_at_files
    if pictures:
        captions, skipped = runs.caption_files(opened, pictures, progress=True)
    else:
        seen = runs.data_of(opened, data)
        captions, look = runs.caption_run(opened, seen, split, count), runs.look_in(opened, seen.source)
    for left in skipped:
        click.echo(f"skipped {visible(left.image)}: {visible(left.reason)}", err=True)
    if as_json:
        click.echo(json.dumps([caption._asdict() for caption in captions]))
    else:
        _print_captions(captions)
    if skipped and not captions:
        raise click.ClickException(f"caption: none of {len(skipped)} could be read, expected at least one picture; the reasons stand above")
    if html is None and png is None:
        return
    if html is not None:
        runs.write_caption_page(html, opened, captions, look, skipped, progress=True)
        click.echo(f"wrote {html}", err=as_json)
    if png is not None:
        drawn = runs.write_caption_png(png, captions, look)
        rest = f" with {drawn} of {len(captions)} pictures; the others are not at hand, or too many" if drawn < len(captions) else ""
        click.echo(f"wrote {png}{rest}", err=as_json)


def _print_captions(captions: Sequence[runs.PictureCaption]) -> None:
    for caption in captions:
        click.echo(f"{visible(caption.image)}\n  model  {visible(caption.caption)}")
        for reference in caption.references[:1]:
            click.echo(f"  truth  {visible(reference)}")
    click.echo()


@main.command(epilog=_example("verify\nverify --backend cupy --json"))
@_backend_option
@_json_option
def verify(backend: str | None, as_json: bool) -> None:
    """Check published numbers and gradients.

    CS231n's published values and numeric gradients, on a backend. Exit status 1 if any row fails.
    """
    _choose(backend)
    rows = list(run_verify())
    failed = [row for row in rows if not row.passed]
    if as_json:
        click.echo(json.dumps([row._asdict() for row in rows]))
    else:
        lines = [(row.case, row.backend, row.dtype, f"{row.error:.1e}", f"{row.tolerance:.0e}", "yes" if row.passed else "NO") for row in rows]
        click.echo(_table([("case", "backend", "dtype", "error", "tolerance", "pass"), *lines]))
        click.echo(f"{len(rows) - len(failed)} of {len(rows)} rows pass")
    if failed:
        sys.exit(1)


@main.command(epilog=_example("bench\nbench --config notebook --config coco --peer torch\nbench --scaling --plot scaling.png"))
@_backend_option
@click.option(
    "--config", "names", multiple=True, type=Choice(*timings.CONFIGS), metavar="NAME",
    help=f"What to time; may be given several times. One of {', '.join(timings.CONFIGS)}. Default: the first five on numpy, all on a GPU.",
)  # fmt: skip
@click.option(
    "--peer",
    "peers",
    multiple=True,
    type=Choice(*timings.PEERS),
    help="Time the same work as others do it as well. On numpy textbook always is, but for --scaling.",
)
@click.option("--scaling", is_flag=True, help="Time the training step of coco for eight batch sizes and six vocabularies instead.")
@click.option("--plot", type=click.Path(path_type=Path), help="With --scaling: draw it as PNG as well. Never overwritten.")
@_json_option
def bench(names: tuple[str, ...], peers: tuple[str, ...], scaling: bool, plot: Path | None, backend: str | None, as_json: bool) -> None:
    """Time training and sampling.

    A training step (loss, gradients, clipping and Adam of an LSTM captioner in float32) and greedy captions of 1,000 pictures, at sizes with names:
    medians of three rounds. A ratio is the peer's time over ours.
    """
    if scaling and names:
        raise click.UsageError("--config and --scaling are given, expected one or the other: --scaling has sizes of its own")
    if plot is not None:
        _check_plot(plot, scaling)
    _choose(backend)
    if scaling:
        configs = [config for group in timings.scaling(timings.CONFIGS["coco"]).values() for config in group]
    else:
        configs = [timings.CONFIGS[name] for name in dict.fromkeys(names or timings.usual(get_backend()))]
        peers = ("textbook", *peers) if get_backend() == "numpy" else peers
    works = (timings.TRAINING,) if scaling else timings.WORKS
    results = timings.bench(configs, tuple(dict.fromkeys(peers)), timings.USUAL, progress=True, works=works)
    if as_json:
        click.echo(json.dumps([result.to_json() for result in results]))
    else:
        click.echo("\n".join(f"{key.replace('_', ' ')} {value}" for key, value in results[0].machine.items()))
        for title, rows in timings.tables(results):
            click.echo(f"\n{title}\n{_table(rows)}")
    if plot is not None:
        timings.draw_scaling(plot, results)
        click.echo(f"wrote {plot}", err=as_json)


def _check_plot(plot: Path, scaling: bool) -> None:
    """Complain before any work is done."""
    if not scaling:
        raise click.UsageError("--plot is given without --scaling, expected both: it draws how a step grows with its sizes")
    if plot.suffix.lower() != ".png":
        raise click.UsageError(f"--plot: {plot} does not end in .png, expected a name that does")
    if why := obstacle(plot):
        raise click.ClickException(f"bench: {plot} {why}")


@main.command(epilog=_example("info\ninfo flickr8k.h5\ninfo runs/flickr8k --json"))
@click.argument("file", required=False, type=click.Path(path_type=Path))
@_json_option
def info(file: Path | None, as_json: bool) -> None:
    """Show backends, or what a file holds.

    Without FILE, the backends of this machine. FILE is a dataset file, a coco_captioning folder or a run folder.
    """
    if file is None:
        _info_machine(as_json)
    elif (file / run_folder.CONFIG).is_file():
        _info_run(run_folder.open_run(file), as_json)
    else:
        data = open_data(file)
        about = {"vocabulary": len(data.vocabulary), "feature_dim": data.feature_dim, "max_words": data.max_words, "source": data.source.to_json()}
        splits = {name: {"pictures": len(split.images), "captions": len(split.captions)} for name, split in data.splits.items()}
        click.echo(json.dumps({**about, "splits": splits}) if as_json else _describe_data(file, data))


def _info_machine(as_json: bool) -> None:
    about = {"xpcap": __version__, "python": platform.python_version(), "platform": platform.platform(), "cores": os.cpu_count()}
    status = backend_status()
    if as_json:
        click.echo(json.dumps({**about, "backends": {name: state._asdict() for name, state in status.items()}}))
        return
    click.echo(f"xpcap {__version__}, Python {about['python']}, {about['platform']}, {about['cores']} cores")
    rows = [(s.name, s.version or "-", "usable" if s.usable else "not usable", ", ".join(s.devices) or s.reason) for s in status.values()]
    click.echo(_table([("backend", "version", "", "devices, or why not"), *rows]))


def _info_run(run: run_folder.Run, as_json: bool) -> None:
    parameters = int(run.model.params.flat.size)
    if as_json:
        click.echo(json.dumps({"config": run.config, "best": run.meta, "parameters": parameters}))
        return
    click.echo(_table([(key, json.dumps(value)) for key, value in run.config.items()]))
    click.echo(f"{parameters:,} parameters; best: {json.dumps(run.meta)}")


def _describe_data(file: Path, data: Any) -> str:
    rows = [(visible(name), f"{len(split.images)} pictures", f"{len(split.captions)} captions") for name, split in data.splits.items()]
    head = f"{file}: {len(data.vocabulary)} words, features of size {data.feature_dim}, captions of at most {data.max_words} words"
    return f"{head}\n{_table(rows)}"
