"""``python -m xpcap.cs231n.write_data``: make a small data set for the course's notebooks."""

from pathlib import Path

import click

from xpcap.cs231n.data import COMPONENTS, write_course_data
from xpcap.cs231n.imports import NAMES, found_elsewhere
from xpcap.errors import EXPECTED
from xpcap.report import escape_control


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument(
    "folder",
    metavar="[DIR]",
    type=click.Path(path_type=Path),
    default=Path("cs231n/datasets/coco_captioning"),
)
def main(folder: Path) -> None:
    """Make a small data set of generated pictures, in the layout of the course's coco_captioning.

    DIR is the folder to make, by default cs231n/datasets/coco_captioning, where the course's
    notebooks look for it. An existing folder is never overwritten.
    """
    try:
        data = write_course_data(folder, progress=True)
    except EXPECTED as error:
        raise click.ClickException(escape_control(str(error))) from error
    except OSError as error:
        message = (
            f"{error.filename or folder}: {error.strerror or error}, expected a folder that can be"
            " written; check the path, its permissions and the free space"
        )
        raise click.ClickException(escape_control(message)) from error
    counts = " and ".join(
        f"{len(split.images):,} {name} pictures with {len(split.captions):,} captions"
        for name, split in data.splits.items()
    )
    click.echo(
        f"{escape_control(str(folder))}: {counts}, {len(data.vocabulary)} words\n"
        f"the pictures are drawn shapes; a picture's feature, of xpcap's histogram encoder, has"
        f" {COMPONENTS} numbers, or {data.feature_dim:,} with pca_features=False\n"
        f"next: write `{_first_line()}` as the first line of RNN_Captioning.ipynb, and run it"
    )


def _first_line() -> str:
    """The line that makes a notebook in the working folder run on xpcap's functions."""
    has_package = any(found_elsewhere(name) for name in NAMES)
    return "import xpcap.cs231n.course" + "; xpcap.cs231n.course.override()" * has_package


if __name__ == "__main__":
    main()
