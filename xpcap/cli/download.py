"""`download`: a data set by its name, fetched, checked and unpacked where its reader looks for it."""

from pathlib import Path

import click

from xpcap.cli.shared import PATH, Choice, examples
from xpcap.data.download import ARCHIVES, download
from xpcap.data.fetching import amount
from xpcap.progress import say
from xpcap.report import visible


@click.command("download", epilog=examples("download cs231n", "download cs231n --to data/coco_captioning"))
@click.argument("name", type=Choice(*ARCHIVES))
@click.option("--to", type=PATH, metavar="FOLDER", help="Folder for the files. Default: where load_coco_data looks, datasets/coco_captioning.")
def download_command(name: str, to: Path | None) -> None:
    """Download a data set and unpack it.

    NAME is cs231n: the course's COCO captions and image features. Says how much it fetches before it starts. If it is interrupted, the same
    command goes on; when all is there, it checks the files. Without a network it says what to fetch by hand and where that goes.
    """
    done = download(name, to, say=lambda line: say(visible(line)), shown=True)
    click.echo(f"{done.folder}: {done.files} files, {amount(done.bytes)}, {'unpacked and' if done.fetched else 'all there,'} checked")
    click.echo(f"next: python cli.py train {done.folder}")
