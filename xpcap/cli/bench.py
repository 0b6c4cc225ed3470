"""`bench`: times of training and sampling, beside the same work as others do it."""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from xpcap import bench as timings
from xpcap.backend import get_backend
from xpcap.cli.shared import PATH, Choice, backend_option, choose_backend, examples, json_option, table
from xpcap.files import obstacle

EXAMPLES = examples("bench", "bench --config notebook --config coco --peer torch", "bench --scaling --plot scaling.png")


@click.command(epilog=EXAMPLES)
@backend_option
@click.option(
    "--config", "names", multiple=True, type=Choice(*timings.CONFIGS), metavar="NAME",
    help=f"Sizes to time; may be repeated. One of {', '.join(timings.CONFIGS)}. Default: the first five on numpy, all on a GPU.",
)  # fmt: skip
@click.option(
    "--peer", "peers", multiple=True, type=Choice(*timings.PEERS),
    help="Also time the same work by this peer; may be repeated. On numpy textbook is always timed, except with --scaling.",
)  # fmt: skip
@click.option("--scaling", is_flag=True, help="Instead, time the training step of coco at eight batch sizes and six vocabulary sizes.")
@click.option("--neighbour", is_flag=True, help="Instead, time the training step alone and beside a busy process of another login.")
@click.option("--plot", type=PATH, help="With --scaling: also draw the times as a PNG. An existing file is never overwritten.")
@json_option
def bench(
    names: tuple[str, ...], peers: tuple[str, ...], scaling: bool, neighbour: bool, plot: Path | None, backend: str | None, as_json: bool
) -> None:
    """Time training and sampling.

    Times a training step (loss, gradients, clipping and Adam of an LSTM captioner in float32) and greedy captions of 1,000 pictures, at
    named sizes. Times are medians of three rounds; a ratio is the peer's time divided by ours.
    """
    for flag, given, why in (("--config", names, "has sizes of its own"), ("--neighbour", neighbour, "times a step alone")):
        if scaling and given:
            raise click.UsageError(f"{flag} and --scaling are given, expected one or the other: --scaling {why}")
    if plot is not None:
        _check_plot(plot, scaling)
    choose_backend(backend)
    if scaling:
        configs = [config for group in timings.scaling(timings.CONFIGS["coco"]).values() for config in group]
    else:
        configs = [timings.CONFIGS[name] for name in dict.fromkeys(names or timings.usual(get_backend()))]
        peers = ("textbook", *peers) if get_backend() == "numpy" else peers
    works = (timings.TRAINING,) if scaling else (timings.TRAINING, timings.BESIDE) if neighbour else timings.WORKS
    results = timings.bench(configs, tuple(dict.fromkeys(peers)), timings.USUAL, progress=True, works=works)
    _print(results, as_json)
    if plot is not None:
        timings.draw_scaling(plot, results)
        click.echo(f"wrote {plot}", err=as_json)


def _print(results: Sequence[timings.Result], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([result.to_json() for result in results]))
        return
    click.echo("\n".join(f"{key.replace('_', ' ')} {value}" for key, value in results[0].machine.items()))
    for title, rows in timings.tables(results):
        click.echo(f"\n{title}\n{table(rows)}")


def _check_plot(plot: Path, scaling: bool) -> None:
    """Complain before any work is done."""
    if not scaling:
        raise click.UsageError("--plot is given without --scaling, expected both: it draws how a step grows with its sizes")
    if plot.suffix.lower() != ".png":
        raise click.UsageError(f"--plot: {plot} does not end in .png, expected a name that does")
    if why := obstacle(plot):
        raise click.ClickException(f"bench: {plot} {why}")
