"""`prepare`: captions, split lists and pictures or features in, one dataset file out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from xpcap.cli.shared import Value, begin, describe_data, examples, listed_options
from xpcap.data import CaptionData, detokenize, write_dataset
from xpcap.data.dataset import may_name_a_split
from xpcap.distributed import init
from xpcap.encoders import PHOTOGRAPHS, find_encoder
from xpcap.encoders.grid import MOST
from xpcap.encoders.kinds import named
from xpcap.errors import DataError, OptionError, install
from xpcap.files import require_new_file
from xpcap.options import SEED, Whole
from xpcap.prepare import Columns, ImportReport, import_captions
from xpcap.prepare.detect import CaptionFile
from xpcap.prepare.pipeline import FEW_CAPTIONS, TINY_CAPTIONS
from xpcap.prepare.splits import check_fractions
from xpcap.report import escape_control
from xpcap.runs.recipe import MOST as LARGEST

EXAMPLES = examples(
    "prepare captions.csv --pictures photos --out own.h5",
    "prepare train=captions_train2017.json val=captions_val2017.json --pictures coco --out coco.h5",
    "prepare Flickr8k.token.txt --features features.npz --out flickr8k.h5 \\",
    "      --split train=Flickr_8k.trainImages.txt --split val=Flickr_8k.devImages.txt",
)
ENOUGH = 250  # training pictures without a remark: see docs/tutorials/your-photos.md
MOST_UNKNOWN = 0.1  # share of unknown words without a remark


def split_lists(
    ctx: click.Context, param: click.Parameter, values: Sequence[str]
) -> dict[str, Path]:
    """Split name to list, from options NAME=LIST."""
    lists: dict[str, Path] = {}
    for value in values:
        name, equals, file = value.partition("=")
        if not (may_name_a_split(name) and equals and file) or name in lists:
            expected = "NAME=LIST with a fresh name of letters, as in train=trainImages.txt"
            raise OptionError("", "`lists`", f"got {value!r}", expected)
        lists[name] = Path(file)
    return lists


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


def shares(ctx: click.Context, param: click.Parameter, value: str | None) -> list[float] | None:
    """The numbers of 0.8,0.1,0.1."""
    if value is None:
        return None
    try:
        fractions = [float(part) for part in value.split(",")]
        check_fractions("prepare", fractions)
    except (ValueError, DataError) as error:
        expected = "the shares of train, val and test, together 1, as in 0.8,0.1,0.1"
        raise OptionError("", "`fractions`", f"got {value!r}", expected) from error
    return fractions


OPTIONS = f"""
--split NAME=LIST: A split and a file with its pictures' names, one per line. Repeatable. Training
    uses 'train' and validates on 'val'.
--fractions TEXT: Shares of train, val and test, if neither files nor lists define splits. Default:
    0.8,0.1,0.1.
--seed N: Seed of the random split of --fractions.
--pictures FOLDER: Folder of the pictures, searched recursively. They are encoded unless --features
    is given, and shown on pages.
--features FILE: An .npz with 'names' (m,) and 'features' (m, D), from your own encoder.
--encoder TEXT: Encoder of the pictures: {PHOTOGRAPHS} (default; {install("images")}), histogram
    (for drawings; always installed), onnx:FILE, timm:MODEL.
--out FILE: Dataset file to write. An existing file is never overwritten.
--min-count N: Rarer words of the train split become <UNK>.  [default: 5; fewer than
    {FEW_CAPTIONS:,} captions: 2, than {TINY_CAPTIONS}: 1]
--vocabulary N: Instead of --min-count: keep the N most frequent words of the train split.
--max-words N: Longer captions are cut in training, not in scoring.
--grid K: Features of K x K regions of each picture instead of one vector, for attention.
--mirror/--no-mirror: Also encode mirror images of the train split, which training uses half of the
    time. Default: yes, except for histogram.
--pca N: Project features onto N principal components, fitted on the train split.
--float16: Store features in half the bytes.
--strict: Fail on anything that would be skipped, such as captions without a picture or pictures
    without captions.
--image-column TEXT: A table's column of pictures, if it is not detected.
--caption-column TEXT: A table's column of captions, if it is not detected.
--split-column TEXT: A table's column of splits, if it is not detected.
"""
SETTINGS: dict[str, dict[str, Any]] = {
    "--split": {"names": ["lists"], "multiple": True, "callback": split_lists},
    "--fractions": {"callback": shares},
    "--features": {"names": ["features_file"]},
    "--seed": {"type": Value(SEED), "default": 0},
    "--out": {"required": True},
    "--max-words": {"type": Value(Whole(1, 1000)), "default": 20},
    "--grid": {"type": Value(Whole(1, MOST))},
    "--mirror/--no-mirror": {"default": None},
    "--min-count": {"type": Value(Whole(1, LARGEST))},
    "--vocabulary": {"names": ["vocabulary_size"], "type": Value(Whole(1, LARGEST))},
    "--pca": {"type": Value(Whole(1, LARGEST))},
}


@click.command(epilog=EXAMPLES)
@click.argument("files", metavar="CAPTIONS...", nargs=-1, callback=named_files)
@listed_options(OPTIONS, SETTINGS)
def prepare(files: Sequence[CaptionFile], out: Path, **given: Any) -> None:
    """Make a dataset file from captions and pictures.

    CAPTIONS are files, each as FILE or SPLIT=FILE: COCO's or Karpathy's JSON, Flickr8k's token
    file, or a table (CSV, TSV, JSON lines) of pictures and captions. The format is detected. Give
    --pictures, --features or both. Captions without pictures, unreadable pictures and the like are
    skipped, counted and named. Only runs on pictures that are encoded here can caption new pictures.
    """
    _check_usage(files, given)
    require_new_file("prepare", out)  # before any work is done
    group = begin()
    group.barrier()  # all have seen that the file is new before rank 0 writes it
    cache = out.with_name(f"{out.name}.encoding")  # the same command resumes from it if killed
    try:
        data, report = _import(files, cache, **given)
    except KeyboardInterrupt as interrupt:
        if not cache.exists():
            raise
        raise KeyboardInterrupt(
            f"{escape_control(str(cache))} holds the features that were made; the same command"
            " continues from there, and removes it at the end"
        ) from interrupt
    write_dataset(out, data)
    cache.unlink(missing_ok=True)
    _describe(out, data, files, report)
    if "train" in data.splits:
        _print_remarks(data, given["vocabulary_size"])


def _check_usage(files: Sequence[CaptionFile], given: Mapping[str, object]) -> None:
    """OptionError : options that are missing or contradict each other."""
    if given["pictures"] is None and given["features_file"] is None:
        came, expected = "is given", "at least one: where do the features come from?"
        raise OptionError("", "neither `pictures` nor `features_file`", came, expected)
    if not files:
        raise OptionError("", "CAPTIONS", "is missing", "one or more caption files")
    for one, other in (
        ("features_file", "encoder"),
        ("features_file", "grid"),
        ("features_file", "mirror"),
        ("lists", "fractions"),
        ("min_count", "vocabulary_size"),
    ):
        if given[one] and given[other]:
            raise OptionError("", f"`{one}` and `{other}`", "are both given", "one of them")


def _import(
    files: Sequence[CaptionFile],
    cache: Path,
    *,
    encoder: str | None,
    grid: int | None,
    mirror: bool | None,
    image_column: str | None,
    caption_column: str | None,
    split_column: str | None,
    **given: Any,
) -> tuple[CaptionData, ImportReport]:
    name = encoder or (None if given["features_file"] else PHOTOGRAPHS)
    found = find_encoder(named(name, grid=grid)) if name else None
    photographs = found is not None and not found.name.startswith("histogram")
    return import_captions(
        files,
        columns=Columns(image=image_column, caption=caption_column, split=split_column),
        encoder=found,
        cache=cache,
        # Captions of drawings name left and right, so they do not fit mirror images
        mirror=photographs if mirror is None else mirror,
        progress=True,
        group=init(),
        **given,
    )


def _print_remarks(data: CaptionData, vocabulary_size: int | None) -> None:
    """Print remarks on too few training pictures, and on too many unknown words."""
    if (number := len(data.splits["train"].images)) < ENOUGH:
        much = "far too few" if number < ENOUGH / 5 else "few"
        click.echo(
            f"note: {number:,} pictures to learn from are {much}: captions begin to fit at about"
            f" {ENOUGH} with five captions each; train --from another run gives a head start"
            " (docs/tutorials/your-photos.md)"
        )
    if (unknown := data.source.record["unknown"]["train"]) > MOST_UNKNOWN:
        more = "a larger --vocabulary" if vocabulary_size else "a lower --min-count"
        click.echo(
            f"note: {len(data.vocabulary):,} words only: {unknown:.1%} of the words to learn from"
            f" are unknown; {more} would keep more"
        )


def _describe(
    out: Path, data: CaptionData, files: Sequence[CaptionFile], report: ImportReport
) -> None:
    """Print the report, the data set, its counts, and three captions as training reads them."""
    for (_, path), form in zip(files, report.forms, strict=False):
        click.echo(f"{escape_control(str(path))}: {form}")
    for note in report.notes:
        click.echo(f"note: {escape_control(note)}")
    for line in report.lines():
        click.echo(f"skipped {escape_control(line)}")
    click.echo(describe_data(out, data))
    if pca := data.source.record.get("pca"):
        click.echo(
            f"PCA: {pca['from']:,} numbers of a feature to {pca['to']:,}, which keep"
            f" {pca['variance']:.1%} of the variance"
        )
    for name, split in data.splits.items():
        if split.views > 1:
            click.echo(f"{escape_control(name)}: each picture also as its mirror image")
    cut, unknown = data.source.record["cut"], data.source.record["unknown"]
    for name in data.splits:
        click.echo(
            f"{escape_control(name)}: {cut[name]:,} captions cut,"
            f" {unknown[name]:.1%} of the words unknown"
        )
    name, split = next(iter(data.splits.items()))
    n = len(split.captions)
    for row in sorted({0, n // 2, n - 1}):
        (words,) = data.vocabulary.words_of(split.captions[[row]])
        click.echo(f"  {escape_control(split.images[split.image_idxs[row]])}: {detokenize(words)}")
