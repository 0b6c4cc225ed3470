"""`python -m benchmarks`: times training and captions with xpcap and with its peers."""

import csv
import datetime
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from benchmarks import measure, results, timing, work
from xpcap.cli.group import shown
from xpcap.cli.shared import Value, backend_option, table, wanted_backend
from xpcap.errors import EXPECTED, OptionError
from xpcap.options import Names

EXAMPLES = """\b
Examples:
  python -m benchmarks
  python -m benchmarks --config notebook --config coco --peer torch
  python -m benchmarks --beam --config flickr8k --peer torch"""


class Command(click.Command):
    """A command that prints expected errors as one message in terms of its options."""

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
        f"Sizes to time; may be repeated. One of {', '.join(work.CONFIGS)}. Default: the first"
        f" {len(work.USUAL)}. For the others only the step is timed."
    ),
)
@click.option(
    "--peer",
    "peers",
    multiple=True,
    type=Value(Names(results.PEERS)),
    help="Also time the same work by PyTorch, on the same device.",
)
@click.option("--beam", is_flag=True, help="Instead, time captions by a beam search of 5.")
@click.option(
    "--busy",
    is_flag=True,
    help="Instead, time the step alone and while another login keeps a core busy.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print rows of docs/develop/results.")
def main(
    names: tuple[str, ...],
    peers: tuple[str, ...],
    beam: bool,
    busy: bool,
    backend: str | None,
    as_csv: bool,
) -> None:
    """Time training and captions.

    Times a training step (loss, gradients, clipping and Adam of an LSTM captioner in float32) and
    greedy captions of 1,000 pictures, at named sizes; on numpy also those of a textbook captioner in
    NumPy. Times are medians of three rounds; a ratio is the peer's time divided by xpcap's.
    """
    if beam and busy:
        raise OptionError(
            "--busy and --beam are given, expected only one of them: --beam times no step"
        )
    works = (work.BEAM,) if beam else (work.STEP, work.BUSY if busy else work.GREEDY)
    machine = measure.machine_in_process(wanted_backend(backend))
    machine |= results.versions(peers, machine["backend"])
    configs = [work.CONFIGS[name] for name in dict.fromkeys(names or work.USUAL)]
    timings = results.bench(
        configs, works, machine["backend"], tuple(dict.fromkeys(peers)), timing.USUAL, progress=True
    )
    (_print_csv if as_csv else _print)(timings, machine)


def _print(timings: Sequence[results.Result], machine: Mapping[str, str]) -> None:
    click.echo("\n".join(f"{key.replace('_', ' ')} {value}" for key, value in machine.items()))
    for title, rows in results.tables(timings):
        click.echo(f"\n{title}\n{table(rows)}")


def _print_csv(timings: Sequence[results.Result], machine: Mapping[str, str]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("date", "machine", "versions", "work", *results.COLUMNS))
    versions = f"Python {machine['python']}; NumPy {machine['numpy']}"
    versions += f"; PyTorch {machine['torch']}" if "torch" in machine else ""
    about = datetime.date.today(), machine.get("gpu", machine["processor"]), versions
    writer.writerows((*about, result.work, *results.cells(result)) for result in timings)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
