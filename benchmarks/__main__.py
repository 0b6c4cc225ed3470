"""`python -m benchmarks`: times of training and sampling, beside the same work as others do it."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import click

from benchmarks import measure, results, timing, work
from xpcap.backend import use_backend
from xpcap.cli.group import shown
from xpcap.cli.shared import Value, backend_option, json_option, table, wanted_backend
from xpcap.errors import EXPECTED, OptionError
from xpcap.options import Names

EXAMPLES = """\b
Examples:
  python -m benchmarks
  python -m benchmarks --beam --config flickr8k --peer torch
  python -m benchmarks --config notebook --config coco --peer torch
  python -m benchmarks --scaling"""


class Command(click.Command):
    """A command that prints what the user can mend as one message in terms of its options."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OptionError as error:
            raise click.UsageError(shown(error, self.params)) from error
        except (*EXPECTED, OSError) as error:
            raise click.ClickException(shown(error, self.params)) from error


@click.command(
    cls=Command,
    epilog=EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@backend_option
@click.option(
    "--config",
    "names",
    multiple=True,
    type=Value(Names(work.CONFIGS)),
    metavar="NAME",
    help=(
        f"Sizes to time; may be repeated. One of {', '.join(work.CONFIGS)}. "
        "Default: the first five on numpy, all but the last on a GPU."
    ),
)
@click.option(
    "--peer",
    "peers",
    multiple=True,
    type=Value(Names(results.PEERS)),
    help=(
        "Also time the same work by this peer; may be repeated. On numpy textbook is always "
        "timed, except with --scaling, --beam or attention."
    ),
)
@click.option(
    "--scaling",
    is_flag=True,
    help="Instead, time the training step of coco at eight batch sizes and six vocabulary sizes.",
)
@click.option(
    "--beam",
    is_flag=True,
    help="Instead, time a beam search of 5 hypotheses, of xpcap and with --peer torch of PyTorch.",
)
@click.option(
    "--neighbour",
    is_flag=True,
    help="Instead, time the training step alone and beside a busy process of another login.",
)
@json_option
def main(
    names: tuple[str, ...],
    peers: tuple[str, ...],
    scaling: bool,
    beam: bool,
    neighbour: bool,
    backend: str | None,
    as_json: bool,
) -> None:
    """Time training and sampling.

    Times a training step (loss, gradients, clipping and Adam of an LSTM captioner in float32) and
    greedy captions of 1,000 pictures, at named sizes. Times are medians of three rounds; a ratio is
    the peer's time divided by ours.
    """
    _refuse_together(scaling, beam, neighbour, names)
    about = _machine(backend)
    if scaling:
        configs = [
            config for group in work.scaling(work.CONFIGS["coco"]).values() for config in group
        ]
    else:
        configs = [
            work.CONFIGS[name] for name in dict.fromkeys(names or work.usual(about["backend"]))
        ]
        in_textbook = all(config.is_the_textbooks for config in configs)
        if about["backend"] == "numpy" and not beam and in_textbook:
            peers = ("textbook", *peers)
    works = (
        (work.TRAINING,)
        if scaling
        else (work.TRAINING, work.BESIDE)
        if neighbour
        else (work.BEAMS,)
        if beam
        else work.WORKS
    )
    found = results.bench(
        configs, tuple(dict.fromkeys(peers)), timing.USUAL, progress=True, works=works, about=about
    )
    _print(found, as_json)


def _machine(backend: str | None) -> dict[str, str]:
    """Description of the machine and its backend.

    For a card another process gives it: a context of this one would shut out those that are timed,
    in exclusive-process mode.
    """
    wanted = wanted_backend(backend)
    if wanted != "numpy":
        return measure.machine_in_process(wanted)
    use_backend(wanted)
    return timing.machine()


def _refuse_together(
    scaling: bool,
    beam: bool,
    neighbour: bool,
    names: Sequence[str],
) -> None:
    """Refuse options that do not go together."""
    sizes, step = (
        ("--config", names, "has sizes of its own"),
        ("--neighbour", neighbour, "times a step alone"),
    )
    if scaling:
        _refuse("--scaling", (sizes, ("--beam", beam, "times a step"), step))
    if beam:
        _refuse("--beam", (("--neighbour", neighbour, "times no step"),))


def _refuse(flag: str, others: Iterable[tuple[str, object, str]]) -> None:
    for other, given, why in others:
        if given:
            expected = f"one or the other: {flag} {why}"
            raise OptionError("", f"{other} and {flag}", "are given", expected)


def _print(found: Sequence[results.Result], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([result.to_json() for result in found]))
        return
    click.echo(
        "\n".join(f"{key.replace('_', ' ')} {value}" for key, value in found[0].machine.items())
    )
    for title, rows in results.tables(found):
        click.echo(f"\n{title}\n{table(rows)}")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
