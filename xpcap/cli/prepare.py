"""`prepare`: captions, split lists and pictures or features in, one dataset file out."""

from collections.abc import Sequence
from pathlib import Path

import click

from xpcap.cli.shared import PATH, describe_data, examples
from xpcap.data import write_dataset
from xpcap.data.importers import import_flickr8k
from xpcap.files import obstacle
from xpcap.runs.folder import LARGEST

EXAMPLES = examples(
    "prepare --captions Flickr8k.token.txt --features features.npz --out flickr8k.h5 \\",
    "      --split train=Flickr_8k.trainImages.txt --split val=Flickr_8k.devImages.txt",
    "prepare --captions captions.txt --pictures photos --split train=train.txt --split val=val.txt --out own.h5",
)


def pairs(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, Path]:
    """NAME=LIST options as a mapping."""
    lists: dict[str, Path] = {}
    for value in values:
        name, equals, file = value.partition("=")
        if not (name.isidentifier() and equals and file) or name in lists or name == "vocab":
            raise click.BadParameter(f"got {value!r}, expected NAME=LIST with a fresh name of letters, as in train=trainImages.txt")
        lists[name] = Path(file)
    return lists


@click.command(epilog=EXAMPLES)
@click.option("--captions", type=PATH, required=True, help="File of captions, one a line: NAME#K, a tab, the caption (Flickr8k's token file).")
@click.option(
    "--split", "lists", multiple=True, required=True, callback=pairs, metavar="NAME=LIST",
    help="A split and the file that lists its pictures, one name a line. Repeat for each split. A run learns from 'train' and checks itself on 'val'.",
)  # fmt: skip
@click.option("--pictures", type=PATH, help="Folder of the pictures. Pages show them; without --features they are encoded as histograms.")
@click.option("--features", type=PATH, help="An .npz with 'names' (m,) and 'features' (m, D), made by an encoder of your own.")
@click.option("--out", type=PATH, required=True, help="Dataset file to write. An existing file is never overwritten.")
@click.option("--min-count", type=click.IntRange(1, LARGEST), default=5, show_default=True, help="Rarer words of the train split become <UNK>.")
@click.option("--max-words", type=click.IntRange(1, 1000), default=20, show_default=True, help="Longer captions are cut in training, not in scoring.")
def prepare(captions: Path, lists: dict[str, Path], pictures: Path | None, features: Path | None, out: Path, min_count: int, max_words: int) -> None:
    """Make a dataset file from captions and pictures.

    Checks that captions, split lists, and pictures or features belong together, and writes them as one HDF5 file for 'train'. Give
    --pictures, --features or both. With --pictures alone each picture is encoded as histograms of colours and edges; a run on such data can
    caption new pictures.
    """
    if pictures is None and features is None:
        raise click.UsageError("neither --pictures nor --features is given, expected at least one: where do the features come from?")
    if why := obstacle(out):
        raise click.ClickException(f"prepare: {out} {why}")  # before any work is done
    data = import_flickr8k(captions, lists, features, min_count, max_words, pictures, progress=True)
    write_dataset(out, data)
    click.echo(describe_data(out, data))
