"""`caption`: captions of picture files and URLs, or of pictures of a split."""

import json
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import click
from click.core import ParameterSource

from xpcap import runs
from xpcap.cli.decoding import Decoding, decoding_options
from xpcap.cli.shared import (
    PATH,
    PictureOrUrl,
    backend_option,
    begin,
    choose_backend,
    examples,
    json_option,
    print_captions,
)
from xpcap.distributed import RankDone, init
from xpcap.errors import OptionError, sentence
from xpcap.files import require_new_file
from xpcap.models import Policy
from xpcap.report import escape_control
from xpcap.report.explanation import decision
from xpcap.runs import (
    Downloads,
    PictureCaption,
    PictureFinder,
    RankedBeam,
    Run,
    Skipped,
    Written,
    is_run,
    open_runs,
    pages,
)

EXAMPLES = examples(
    "caption runs/pictures-lstm drawing.png",
    "caption runs/pictures-lstm photos more/one.jpg --html page.html",
    "caption runs/pictures-lstm https://example.org/drawing.png",
    "caption runs/flickr8k photos --csv captions.csv",
    "caption runs/flickr8k --split val -n 20 --beam 5",
    "caption runs/flickr8k --split val -n 3 --explain",
    "caption runs/flickr8k runs/another drawing.png",
)
DIGITS = 4  # of an attention weight in JSON
SHOWN = 5  # captions of a beam in JSON and on a page
WRITTEN = ("csv", "txt", "describe")  # parameters that write captions one by one
SHOWN_AT_THE_END = ("html", "png", "explain", "as_json")  # parameters that need all captions
OF_A_SPLIT = ("split", "count", "data")  # parameters that choose pictures if none are given


@click.command(epilog=EXAMPLES)
@click.argument("run", type=PATH)
@click.argument(
    "pictures", nargs=-1, metavar="[RUN]... [PICTURE|FOLDER|URL]...", type=PictureOrUrl()
)
@click.option(
    "--split",
    default="val",
    show_default=True,
    help="Without pictures: the split to take them from.",
)
@click.option(
    "-n",
    "count",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Number of pictures, spread evenly over the split.",
)
@click.option(
    "--data", type=PATH, help="Another dataset file to take them from. Default: the run's own data."
)
@click.option(
    "--html",
    type=PATH,
    help="Also write a page of pictures and captions. An existing file is never overwritten.",
)
@click.option(
    "--png",
    type=PATH,
    help="Also draw at most 60 of them in one PNG. An existing file is never overwritten.",
)
@click.option(
    "--explain",
    is_flag=True,
    help=(
        "Also print why each ranked caption was chosen: similar training photos, candidates and the"
        " parts of their scores."
    ),
)
@click.option(
    "--csv",
    type=PATH,
    help=(
        "Write a table with one row per picture instead of printing. Pictures that an existing table"
        " has are skipped."
    ),
)
@click.option(
    "--txt",
    is_flag=True,
    help=(
        "Write NAME.txt next to each picture instead of printing. A different text is never replaced."
    ),
)
@click.option(
    "--describe",
    is_flag=True,
    help=(
        "Write each caption into its picture file, as XMP and IPTC description, instead of printing."
        " A different description is never replaced."
    ),
)
@decoding_options(n_best=True)
@backend_option
@json_option
@click.pass_context
def caption(
    ctx: click.Context,
    run: Path,
    pictures: tuple[str | Path, ...],
    split: str,
    count: int,
    data: Path | None,
    html: Path | None,
    png: Path | None,
    explain: bool,
    csv: Path | None,
    txt: bool,
    describe: bool,
    decoding: Decoding,
    backend: str | None,
    as_json: bool,
) -> None:
    """Caption pictures with a run, or with several as one.

    PICTURES are files, folders (searched recursively) and http or https URLs. Without any, pictures
    of a split are captioned and shown with a reference. RUN must have been trained on pictures that
    xpcap encoded (generated, or 'prepare --pictures'), not on --features.

    Several run folders, given before the pictures, caption together: each word is chosen by the
    mean of the models' probabilities. They must have the same vocabulary and feature scaling, as
    runs on the same data do.

    Pictures that cannot be read or downloaded are named on standard error and skipped. The exit
    status is 1 if none could be read. A URL may have 20 seconds and 20 MB, and must lead to a
    public address.

    --csv, --txt and --describe write captions as they are made, of any number of pictures.

    If the run has an index of training photos, its captions come from a beam search, ranked by
    similar photos; else they are greedy. --explain shows why a ranked caption was chosen.
    --temperature, --top-k and --top-p sample words.
    """
    more_runs, pictures = _split_runs(pictures)
    if pictures:
        _refuse_both(ctx)
    if csv is not None or txt or describe:
        _require_alone(ctx, pictures)
    for file, suffix in ((html, ".html"), (png, ".png")):
        if file is not None:
            require_new_file("caption", file, suffix)  # before any work is done
    group = begin()
    choose_backend(backend)
    opened = open_runs([run, *more_runs])
    policy = decoding.policy(opened, SHOWN if html or as_json else 1)
    if explain:
        _require_ranked(opened, policy)
    if csv is not None or txt or describe:
        written = runs.write_captions(
            runs.open_captioner(opened),
            pictures,
            csv=csv,
            txt=txt,
            describe=describe,
            policy=policy,
        )
        _report(written, csv, txt, describe)
        return
    skipped: list[Skipped] = []
    reasons = explain or html is not None
    attend = bool(as_json or html)  # nothing else shows attention maps
    if pictures:
        downloads = Downloads()
        find_picture: PictureFinder = downloads.find_picture
        captions, skipped = runs.caption_files(
            opened,
            pictures,
            keep=downloads.keep if html or png else None,
            policy=policy,
            attend=attend,
            explain=reasons,
        )
    elif group.rank == 0:
        seen = runs.data_of(opened, data)
        find_picture = runs.picture_finder(opened, seen.source)
        captions = runs.caption_run(
            opened, seen, split, count=count, policy=policy, attend=attend, explain=reasons
        )
    if group.rank:
        raise RankDone
    shown = captions
    if not (as_json or decoding.n_best):
        shown = [one._replace(n_best=()) for one in captions]
    if not explain:
        shown = [one._replace(explanation=None) for one in shown]
    _print(shown, skipped, as_json)
    _write(html, png, opened, captions, skipped, find_picture, as_json)


def _require_ranked(run: Run, policy: Policy) -> None:
    """OptionError : the policy's captions are not ranked."""
    if run.ranker is None:
        raise OptionError(
            "caption",
            "`explain`",
            f"is given, but {run.path} has no index of training photos to rank captions by",
            expected="a run trained with `neighbours`",
        )
    if not isinstance(policy, RankedBeam):
        raise OptionError(
            "caption",
            "`explain`",
            f"is given with other decoding ({policy.title})",
            expected="the default: only its captions are ranked",
        )


def _split_runs(
    arguments: tuple[str | Path, ...],
) -> tuple[tuple[str | Path, ...], tuple[str | Path, ...]]:
    """Run folders, and the pictures that follow them."""
    more_runs = tuple(takewhile(_is_run, arguments))
    pictures = arguments[len(more_runs) :]
    if late := [picture for picture in pictures if _is_run(picture)]:
        raise click.UsageError(
            sentence(
                "",
                late[0],
                "is a run folder and stands behind pictures",
                expected="all runs before them",
            )
        )
    return more_runs, pictures


def _is_run(argument: str | Path) -> bool:
    return isinstance(argument, Path) and is_run(argument)  # a URL is text


def _refuse_both(ctx: click.Context) -> None:
    given = [
        param.opts[-1]
        for param in ctx.command.params
        if param.name in OF_A_SPLIT and _was_given(ctx, param)
    ]
    if given:
        raise click.UsageError(
            sentence(
                "", f"pictures and {', '.join(given)}", "are given", expected="one or the other"
            )
        )


def _was_given(ctx: click.Context, param: click.Parameter) -> bool:
    return ctx.get_parameter_source(str(param.name)) is not ParameterSource.DEFAULT


def _require_alone(ctx: click.Context, pictures: Sequence[str | Path]) -> None:
    """Captions that are written one by one are not also shown, and come from one process."""
    of_files, others = (
        [
            param.opts[-1]
            for param in ctx.command.params
            if param.name in names and _was_given(ctx, param)
        ]
        for names in (WRITTEN, SHOWN_AT_THE_END)
    )
    if not pictures:
        raise click.UsageError(
            sentence("", of_files[0], "is given without pictures", expected="files or folders")
        )
    if others:
        raise click.UsageError(
            sentence(
                "",
                f"{of_files[0]} and {', '.join(others)}",
                "are given",
                expected="one or the other",
            )
        )
    if init().size > 1:
        raise click.UsageError(
            sentence(
                "", of_files[0], f"is given to {init().size} processes", expected="a single one"
            )
        )


def _report(written: Written, csv: Path | None, txt: bool, describe: bool) -> None:
    for verb, those in (("skipped", written.skipped), ("left", written.left)):
        for one in those:
            click.echo(
                f"{verb} {escape_control(one.image)}: {escape_control(one.reason)}", err=True
            )
    if written.skipped and not written.captions and not written.before:
        raise _none_read(len(written.skipped))
    count = f"{written.captions:,} {'caption' if written.captions == 1 else 'captions'}"
    if csv is not None:
        click.echo(f"wrote {count} to {escape_control(str(csv))}")
    if txt:
        click.echo(f"wrote {written.texts:,} of {count} next to their pictures, as .txt")
    if describe:
        click.echo(f"wrote {written.described:,} of {count} into their pictures")


def _none_read(count: int) -> click.ClickException:
    return click.ClickException(
        sentence(
            "caption",
            "",
            f"none of {count} could be read",
            expected="at least one picture",
            cause="the reasons are listed above",
        )
    )


def _print(captions: Sequence[PictureCaption], skipped: Sequence[Skipped], as_json: bool) -> None:
    for one in skipped:
        click.echo(f"skipped {escape_control(one.image)}: {escape_control(one.reason)}", err=True)
    if as_json:
        click.echo(json.dumps(list(map(_object, captions))))
    else:
        print_captions(captions)
    if skipped and not captions:
        raise _none_read(len(skipped))


def _object(caption: PictureCaption) -> dict[str, object]:
    names = ("image", "caption", "probabilities", "references")
    one: dict[str, object] = {name: getattr(caption, name) for name in names}
    if caption.words != caption.caption.split():
        one["words"] = caption.words
    if caption.n_best:
        one["n_best"] = [ranked._asdict() for ranked in caption.n_best]
    if caption.attention is not None:
        one["attention"] = [
            [round(weight, DIGITS) for weight in weights] for weights in caption.attention
        ]
    if caption.explanation is not None:
        neighbours, candidates = caption.explanation
        one["explanation"] = {
            "decision": decision(caption.explanation),
            "neighbours": [neighbour._asdict() for neighbour in neighbours],
            "candidates": [candidate._asdict() for candidate in candidates],
        }
    return one


def _write(
    html: Path | None,
    png: Path | None,
    run: Run,
    captions: Sequence[PictureCaption],
    skipped: Sequence[Skipped],
    find_picture: PictureFinder,
    as_json: bool,
) -> None:
    if html is not None:
        runs.write_caption_page(html, run, captions, find_picture, skipped=skipped)
        click.echo(f"wrote {html}", err=as_json)
    if png is not None:
        drawn = runs.write_caption_png(png, captions, find_picture)
        rest = ""
        if drawn < len(captions):
            rest = f" with {drawn} of {len(captions)} pictures; the others were not found"
        if drawn == pages.DRAWN < len(captions):
            rest = (
                f" with the first {drawn} of {len(captions)} pictures, as many as one PNG takes; a"
                " page takes all: --html"
            )
        click.echo(f"wrote {png}{rest}", err=as_json)
