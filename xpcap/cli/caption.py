"""`caption`: caption picture files and URLs, or pictures of a split."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from xpcap.captioning.captions import caption_chosen, captioned, open_captioner
from xpcap.captioning.outputs import (
    OUTPUTS,
    Output,
    begin_outputs,
    caption_sources,
    deliver,
    wanted_fields,
)
from xpcap.captioning.pages import picture_finder, with_pictures
from xpcap.cli.decoding import Decoding, decoding_options
from xpcap.cli.printing import Json, Printed, SkippedLines
from xpcap.cli.rules import check_rules
from xpcap.cli.shared import (
    PATH,
    PictureOrUrl,
    Value,
    backend_option,
    begin,
    choose_backend,
    examples,
)
from xpcap.data.dataset import evenly_spaced
from xpcap.errors import DataError, OptionError
from xpcap.models import Policy
from xpcap.options import Whole
from xpcap.report import escape_control
from xpcap.runs.decoder import RerankedBeam
from xpcap.runs.records import PictureCaption
from xpcap.runs.run import Run, open_run

EXAMPLES = examples(
    "caption runs/pictures-lstm drawing.png",
    "caption runs/own photos more/one.jpg --html page.html",
    "caption runs/pictures-lstm https://example.org/drawing.png",
    "caption runs/flickr8k photos --csv captions.csv --html page.html",
    "caption runs/flickr8k --split val -n 20 --beam 5",
    "caption runs/flickr8k --split val -n 3 --explain",
)
COUNT = Whole(1)
SHOWN = 5  # captions of a beam, in JSON and on a page
ALL_OUTPUTS: tuple[type[Output], ...] = (Json, *OUTPUTS)


def output_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option for each output to a command."""
    for output in reversed(ALL_OUTPUTS):
        settings: dict[str, Any] = {"type": PATH} if output.suffix else {"is_flag": True}
        command = click.option(output.flag, help=output.help, **settings)(command)
    return command


@click.command(epilog=EXAMPLES)
@click.argument("run", type=PATH)
@click.argument("pictures", nargs=-1, metavar="[PICTURE|FOLDER|URL]...", type=PictureOrUrl())
@click.option(
    "--split",
    metavar="NAME",
    default="val",
    show_default=True,
    help="Split to caption if no pictures are given.",
)
@click.option(
    "-n",
    "count",
    metavar="N",
    type=Value(COUNT),
    default=10,
    show_default=True,
    help=f"Number of pictures, spread evenly over the split.  [{COUNT}]",
)
@click.option(
    "--data",
    metavar="FILE",
    type=PATH,
    help="Dataset file of the split. Default: the run's data.",
)
@click.option(
    "--explain",
    is_flag=True,
    help="Also print why each reranked caption won: similar photos, candidates and their scores.",
)
@output_options
@decoding_options(n_best=True)
@backend_option
def caption(
    run: Path,
    pictures: tuple[str | Path, ...],
    split: str,
    count: int,
    data: Path | None,
    explain: bool,
    decoding: Decoding,
    backend: str | None,
    **paths: Any,
) -> None:
    """Caption pictures with a run.

    PICTURES are files, folders (searched recursively) and http or https URLs. Without PICTURES, the
    command captions pictures of a split and shows a reference for each. To caption new pictures, RUN
    needs an encoder. It has one if it was trained on generated pictures, or on data from 'prepare
    --pictures' or 'prepare --features --encoder'.

    Unreadable pictures are reported on standard error and skipped. The exit status is 1 if no
    picture could be read. Downloads stop at 20 s or 20 MB.

    Outputs can be combined. Those that replace printing write each caption as soon as it is made, so
    they take any number of pictures. An existing file of --csv and the like is continued, if it has
    captions of the same run with the same options: outputs that need only texts also get its
    captions, others skip its pictures, and pictures in FILE.skipped.csv are tried again.

    The default decoding is a beam search reranked by similar photos, if the run has an index of
    training photos; else it is greedy. --explain shows why a reranked caption was chosen.
    --temperature, --top-k and --top-p sample words.
    """
    check_rules()
    outputs = [
        output(value if output.suffix else None, best=decoding.n_best or 1, explain=explain)
        for output in ALL_OUTPUTS
        if (value := paths[output.flag.strip("-")])
    ]
    as_json = any(isinstance(output, Json) for output in outputs)
    if not any(output.replaces_printing for output in outputs) or (explain and not as_json):
        outputs.insert(0, Printed(best=decoding.n_best or 1, explain=explain))
    begin()
    choose_backend(backend)
    opened_run = open_run(run)
    policy = decoding.policy(opened_run, SHOWN if "n_best" in wanted_fields(outputs) else 1)
    if explain:
        _require_reranked(opened_run, policy)
    if pictures:
        results = caption_sources(open_captioner(opened_run), pictures, outputs, policy)
    else:
        results = _caption_split(opened_run, data, split, count, outputs, policy)
    captions, skipped = deliver(results, [SkippedLines(), *outputs])
    for output in outputs:
        for line in output.close().splitlines():
            click.echo(escape_control(line), err=as_json)
    if skipped and not captions and not any(output.existing for output in outputs):
        raise DataError(
            "no picture could be read, expected at least one; the reasons are listed above"
        )


def _caption_split(
    run: Run, data: Path | None, split: str, count: int, outputs: list[Output], policy: Policy
) -> Iterator[PictureCaption]:
    """Begin the outputs, and caption those pictures of a split that they do not have yet."""
    dataset = run.data(data)
    wanted = wanted_fields(outputs)
    pictures = captioned(dataset, split)
    chosen = pictures[evenly_spaced(len(pictures), count)]
    images = dataset.split(split).images
    names = [images[number] for number in chosen.tolist()]
    numbers = begin_outputs(outputs, run, policy, names)
    decoder = run.decoder(policy, "attention" in wanted, "explanation" in wanted)
    captions = caption_chosen(decoder, dataset, split, chosen[numbers])
    with_picture = "picture" in wanted
    yield from (
        with_pictures(run, captions, picture_finder(run, dataset.source))
        if with_picture
        else captions
    )


def _require_reranked(run: Run, policy: Policy) -> None:
    """Raise OptionError if the policy's captions are not reranked."""
    if run.reranker is None:
        raise OptionError(
            f"`explain` is given, but {run.path} has no index of training photos, which reranking"
            " needs, expected a run trained with `neighbours`"
        )
    if not isinstance(policy, RerankedBeam):
        raise OptionError(
            f"`explain` is given with other decoding ({policy.title}), expected the default"
            " decoding, the only one that reranks"
        )
