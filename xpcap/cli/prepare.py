"""`prepare`: make a dataset file from captions, split lists, and pictures or features."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from xpcap.cli.rules import check_rules
from xpcap.cli.shared import PATH, begin, counted, describe_data, examples, field_options
from xpcap.data import CaptionData, detokenize, write_dataset
from xpcap.data.dataset import may_name_a_split
from xpcap.data.few import FEW_PICTURES
from xpcap.encoders import PHOTOGRAPHS
from xpcap.files.growing_tables import SkippedList
from xpcap.files.read_write import require_new_file
from xpcap.options import Option, described
from xpcap.prepare import Columns, ImportReport, import_captions
from xpcap.prepare.detect import CaptionFile
from xpcap.prepare.options import PrepareOptions
from xpcap.report import escape_control

EXAMPLES = examples(
    "prepare captions.csv --pictures photos --out own.h5",
    "prepare train=captions_train2017.json val=captions_val2017.json --pictures coco --out coco.h5",
    "prepare Flickr8k.token.txt --features features.npz --out flickr8k.h5 \\",
    "      --split train=Flickr_8k.trainImages.txt --split val=Flickr_8k.devImages.txt",
)
MAX_UNKNOWN = 0.1  # share of unknown words without a notice
COLUMNS = described(Columns)  # options --NAME-column; in Python they are fields of `columns`


def named_files(
    ctx: click.Context, param: click.Parameter, values: Sequence[str]
) -> list[CaptionFile]:
    """(split, file) of each FILE or SPLIT=FILE; an existing file may have "=" in its name."""
    files: list[CaptionFile] = []
    for value in values:
        name, equals, file = value.partition("=")
        has_split = equals and file and may_name_a_split(name) and not Path(value).exists()
        files.append((name, Path(file)) if has_split else (None, Path(value)))
    return files


def default_text(name: str, option: Option) -> str:
    """The default of an option, for its help, unless the help text states it."""
    default = PHOTOGRAPHS if name == "encoder" else option.default
    return "" if default is None or default is False else str(default)


@click.command(epilog=EXAMPLES)
@click.argument("files", metavar="CAPTIONS...", nargs=-1, required=True, callback=named_files)
@click.option(
    "--out",
    type=PATH,
    required=True,
    help="Dataset file to write.",
)
@field_options(
    {**described(PrepareOptions), **COLUMNS},
    default_text,
    features_file="--features",
    lists="--split",
    vocabulary_size="--vocabulary",
    **{name: f"--{name}-column" for name in COLUMNS},
)
def prepare(files: Sequence[CaptionFile], out: Path, **values: Any) -> None:
    """Make a dataset file from captions and pictures.

    CAPTIONS are files, each as FILE or SPLIT=FILE: COCO's or Karpathy's JSON, Flickr8k's token
    file, or a table (CSV, TSV, JSON lines) of pictures and captions. The format is detected. A
    folder stands for its metadata.csv, or for the NAME.txt of each picture. Give --pictures,
    --features or both; a single folder needs neither. Captions without pictures, unreadable
    pictures and the like are skipped, counted and listed in FILE.skipped.csv, next to the dataset
    file. To caption new pictures, a run needs an encoder: from --pictures, or from --features with
    --encoder, which is then checked on 16 of the --pictures.
    """
    check_rules()
    columns = Columns(**{name: values.pop(name) for name in COLUMNS})
    options = {name: value for name, value in values.items() if value is not None}
    require_new_file(out)
    begin()
    skipped = SkippedList(out, "name")
    data, report = import_captions(files, cache=out.parent, columns=columns, **options)
    require_new_file(out)  # another command may have made it meanwhile
    skipped.write(omission.row for omission in report.omissions)
    write_dataset(out, data)
    _describe(out, data, files, report, skipped.path)
    if "train" in data.splits:
        _print_notices(data, values["vocabulary_size"])


def _print_notices(data: CaptionData, vocabulary_size: int | None) -> None:
    """Print notices of too few training pictures, and of too many unknown words."""
    if (number := len(data.splits["train"].images)) < FEW_PICTURES.number:
        judgement = "far too few" if number < FEW_PICTURES.number / 5 else "few"
        click.echo(
            f"notice: {judgement} training pictures ({number:,}): captions begin to fit at about"
            f" {FEW_PICTURES.number} with five captions each; train --from another run, a warm start,"
            ' helps ("Train on your photos" in the documentation)'
        )
    if (unknown := data.source.record["unknown"]["train"]) > MAX_UNKNOWN:
        more = "a larger --vocabulary" if vocabulary_size else "a lower --min-count"
        click.echo(
            f"notice: {unknown:.1%} of the training words are unknown, as the vocabulary has only"
            f" {len(data.vocabulary):,} words; {more} would keep more"
        )


def _describe(
    out: Path,
    data: CaptionData,
    files: Sequence[CaptionFile],
    report: ImportReport,
    skipped: Path,
) -> None:
    """Print the report, the data set, its counts, and three captions as training sees them."""
    for (_, path), form in zip(files, report.forms, strict=False):
        click.echo(f"{escape_control(str(path))}: {form}")
    for notice in report.notices:
        click.echo(f"notice: {escape_control(notice)}")
    for line in report.lines():
        click.echo(f"skipped {escape_control(line)}")
    if report.omissions:
        click.echo(f"{skipped} lists all skipped items with reasons")
    click.echo(describe_data(out, data))
    for name, split in data.splits.items():
        if split.views > 1:
            click.echo(f"{escape_control(name)}: each picture also as its mirror image")
    cut = data.source.record["cut"]
    unknown = data.source.record["unknown"]
    for name in data.splits:
        click.echo(
            f"{escape_control(name)}: {counted(cut[name], 'caption')} cut,"
            f" {unknown[name]:.1%} of the words unknown"
        )
    name, split = next(iter(data.splits.items()))
    n = len(split.captions)
    for row in sorted({0, n // 2, n - 1}):
        (words,) = data.vocabulary.words_of(split.captions[[row]])
        click.echo(f"  {escape_control(split.images[split.image_idxs[row]])}: {detokenize(words)}")
