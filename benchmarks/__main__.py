"""`bench`: times of training and sampling, beside the same work as others do it."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

import benchmarks as timings
from benchmarks.machine import machine
from xpcap.cli.shared import PATH, Choice, backend_option, choose_backend, examples, json_option, table, wanted_backend
from xpcap.errors import install
from xpcap.files import obstacle

EXAMPLES = examples(
    "bench",
    "bench --beam --config flickr8k --peer torch",
    "bench --config notebook --config coco --peer torch",
    "bench --scaling --plot scaling.png",
    "bench --host-time",
)


@click.command(epilog=EXAMPLES)
@backend_option
@click.option(
    "--config", "names", multiple=True, type=Choice(*timings.CONFIGS), metavar="NAME",
    help=f"Sizes to time; may be repeated. One of {', '.join(timings.CONFIGS)}. Default: the first five on numpy, all but the last on a GPU.",
)  # fmt: skip
@click.option(
    "--peer", "peers", multiple=True, type=Choice(*timings.PEERS),
    help="Also time the same work by this peer; may be repeated. On numpy textbook is always timed, except with --scaling, --beam or attention.",
)  # fmt: skip
@click.option("--scaling", is_flag=True, help="Instead, time the training step of coco at eight batch sizes and six vocabulary sizes.")
@click.option("--beam", is_flag=True, help="Instead, time a beam search of 5 hypotheses, of xpcap and with --peer torch of PyTorch.")
@click.option("--neighbour", is_flag=True, help="Instead, time the training step alone and beside a busy process of another login.")
@click.option(
    "--host-time", is_flag=True,
    help=f"Instead, measure how long the host needs for a training step on a card. Needs CuPy's package, no card: {install('kernels')}.",
)  # fmt: skip
@click.option("--plot", type=PATH, help="With --scaling: also draw the times as a PNG. An existing file is never overwritten.")
@json_option
def bench(
    names: tuple[str, ...],
    peers: tuple[str, ...],
    scaling: bool,
    beam: bool,
    neighbour: bool,
    host_time: bool,
    plot: Path | None,
    backend: str | None,
    as_json: bool,
) -> None:
    """Time training and sampling.

    Times a training step (loss, gradients, clipping and Adam of an LSTM captioner in float32) and greedy captions of 1,000 pictures, at
    named sizes. Times are medians of three rounds; a ratio is the peer's time divided by ours.

    --host-time runs the step of train on a fake device, whose calls take the time that is published and compute nothing: what is left is the
    time of our own Python, by part.
    """
    _refuse_beside(scaling, beam, neighbour, host_time, names, peers, plot, backend)
    if host_time:
        _print_host_time(timings.host_times(), as_json)
        return
    if plot is not None:
        _check_plot(plot, scaling)
    about = _machine(backend)
    if scaling:
        configs = [config for group in timings.scaling(timings.CONFIGS["coco"]).values() for config in group]
    else:
        configs = [timings.CONFIGS[name] for name in dict.fromkeys(names or timings.usual(about["backend"]))]
        plain = about["backend"] == "numpy" and not beam and not any(config.P for config in configs)
        peers = ("textbook", *peers) if plain else peers
    works = (timings.TRAINING,) if scaling else (timings.TRAINING, timings.BESIDE) if neighbour else (timings.BEAMS,) if beam else timings.WORKS
    results = timings.bench(configs, tuple(dict.fromkeys(peers)), timings.USUAL, progress=True, works=works, about=about)
    _print(results, as_json)
    if plot is not None:
        timings.draw_scaling(plot, results)
        click.echo(f"wrote {plot}", err=as_json)


def _machine(backend: str | None) -> dict[str, str]:
    """The machine and its backend. This process makes no context on a card, which in exclusive-process mode would shut out those that are timed."""
    wanted = wanted_backend(backend)
    if wanted != "numpy":
        return timings.machine_apart(wanted)
    choose_backend(backend)
    return machine()


def _refuse_beside(
    scaling: bool, beam: bool, neighbour: bool, host_time: bool, names: Sequence[str], peers: Sequence[str], plot: Path | None, backend: str | None
) -> None:  # fmt: skip
    """Complain about options that do not go together."""
    sizes, step = ("--config", names, "has sizes of its own"), ("--neighbour", neighbour, "times a step alone")
    if scaling:
        _refuse("--scaling", (sizes, ("--beam", beam, "times a step"), step))
    if beam:
        _refuse("--beam", (("--neighbour", neighbour, "times no step"),))
    if host_time:
        others = (
            ("--peer", peers, "times xpcap alone"),
            ("--scaling", scaling, "has sizes of its own"),
            ("--beam", beam, "times a step"),
            step,
            ("--plot", plot, "draws nothing"),
            ("--backend", backend, "brings a fake device"),
        )
        _refuse("--host-time", (sizes, *others))


def _refuse(flag: str, others: Iterable[tuple[str, object, str]]) -> None:
    """Complain if one of the other options is given beside `flag`."""
    for other, given, why in others:
        if given:
            raise click.UsageError(f"{other} and {flag} are given, expected one or the other: {flag} {why}")


def _print_host_time(results: Sequence[timings.HostTime], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([result._asdict() for result in results]))
    else:
        click.echo(f"{timings.HOST_TIME}\n{table(timings.host_time_rows(results))}")


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
