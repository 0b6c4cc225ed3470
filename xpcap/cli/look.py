"""`look`: write a page of gates, states and gradients of the cell as a run captions a picture."""

import re
from pathlib import Path

import click

from xpcap.captioning.look import look_inside, look_page
from xpcap.cli.shared import PATH, PictureOrUrl, backend_option, begin, choose_backend, examples
from xpcap.files.read_write import first_free, require_new_file, write_new
from xpcap.report import escape_control
from xpcap.runs.run import open_run

MAX_STEM = 80  # characters of a picture's name in the name of its page


@click.command(
    epilog=examples(
        "look runs/pictures-lstm drawing.png",
        'look runs/pictures-lstm drawing.png --caption "a red circle" --out circle.html',
    )
)
@click.argument("run", type=PATH)
@click.argument("picture", metavar="PICTURE|URL", type=PictureOrUrl())
@click.option("--caption", metavar="TEXT", help="Caption to trace instead of the run's own.")
@click.option(
    "--out",
    type=PATH,
    help="Page to write. Default: look-PICTURE.html, with a number if that exists.",
)
@backend_option
def look(
    run: Path, picture: str | Path, caption: str | None, out: Path | None, backend: str | None
) -> None:
    """Write a page of gates, states and gradients for one caption.

    For each step the page shows the likeliest next words, the gates and states of every unit, the
    share of saturated units, and the gradient of a word's loss through time, before and after
    training. It is one file, without scripts or network links.

    Without --caption the picture is captioned as by 'caption'. In Python, model.trace(features,
    captions) returns the same arrays.
    """
    stem = re.sub(r"[^\w.-]+", "-", Path(picture).stem)[:MAX_STEM] or "picture"
    path = out or first_free(Path(), f"look-{stem}", ".html")
    require_new_file(path, ".html")  # before any work is done
    begin()
    choose_backend(backend)
    opened = open_run(run)
    inside = look_inside(opened, picture, caption=caption)
    write_new(path, look_page(inside), ".html")
    click.echo(f"{escape_control(' '.join(inside.words))}\nwrote {path}")
