"""Figures that stand on several pages, each computed from docs/develop/results/*.csv.

A page quotes one as `<!-- measured NAME -->TEXT<!-- -->`, never at the beginning of a line, where a
comment would end the paragraph. `make excerpts` fills in TEXT.
"""

import csv
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "develop" / "results"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARK = re.compile(r"(<!-- measured ([\w-]+) -->)[^<]*(<!-- -->)")


RANKED = {"photos": "1,000 dev photos, after 6,000 others"}
NEW_PHOTOS = {
    "photos": "500 dev photos outside training and val, after 5,500 others, with 500 dev photos as"
    " val",
    "recipe": "default, ranked captions",
}


def values(file: str, column: str, **where: str) -> list[float]:
    """Values of a column, of the rows whose other columns are `where`, in the file's order; both ends
    of a value such as `1.5 to 2`.
    """
    with (RESULTS / file).open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if where.items() <= row.items()]
    if not rows:
        raise LookupError(f"values: {file} has no row {where}, expected one; was a row renamed?")
    return [float(end) for row in rows if row[column] for end in row[column].split(" to ")]


def last(file: str, column: str, digits: int, unit: float = 1, **where: str) -> str:
    """The value of the last such row, in units of `unit`."""
    return f"{values(file, column, **where)[-1] / unit:.{digits}f}"


def span(numbers: list[float], digits: int) -> str:
    return f"{min(numbers):.{digits}f} to {max(numbers):.{digits}f}"


def figures() -> dict[str, str]:
    """The text of each figure, by its name on the pages."""
    quality, photos, commands = "quality.csv", "captions_by_photos.csv", "commands.csv"
    ranked, first = "default, ranked captions", "first stage of the default, ranked captions"
    times = zip(  # of PyTorch, padded and packed; the first configuration has few captions
        values("pytorch.csv", "ratio_torch_padded", work="step")[1:],
        values("pytorch.csv", "ratio_torch_packed", work="step")[1:],
        strict=True,
    )
    encoding = {
        "command": "prepare --pictures, EfficientNet-Lite2",
        "what": "7,000 photos, --no-mirror",
    }
    training = {
        "command": "train, the default on Flickr8k",
        "what": "peak memory of all, with the ranking and the page",
    }
    whole = {
        "command": "train, the default on Flickr8k",
        "what": "all, with ranking, scores and page, in batches of 128",
    }
    return {
        "demo-minutes": span(
            values(commands, "value", command="make demo", what="all, after set-up"), 0
        ),
        "demo-memory": last(commands, "value", 0, command="make demo", what="peak memory"),
        "demo-percent": last("demo.csv", "named_exactly", 0, 0.01, seed="0"),
        "default-minutes": last(commands, "value", 0, 60, **whole),
        "default-memory": last(commands, "value", 1, 1000, **training),
        "default-cider": last(quality, "ranked", 2, **RANKED, recipe=ranked),
        "default-ranked": last(quality, "ranked", 3, **RANKED, recipe=ranked),
        "first-stage-ranked": last(quality, "ranked", 3, **RANKED, recipe=first),
        "new-photos-ranked": last(quality, "ranked", 3, **NEW_PHOTOS),
        "new-photos-beam": last(quality, "beam_5", 3, **NEW_PHOTOS),
        "new-photos-greedy": last(quality, "greedy", 3, **NEW_PHOTOS),
        "cider-250x1": last(photos, "cider", 3, photos="250", captions_each="1"),
        "cider-250x5": last(photos, "cider", 3, photos="250", captions_each="5"),
        "encoding-minutes": last(commands, "value", 1, 60, **encoding),
        "pytorch-times": span([min(pair) for pair in times], 1),
        "cuda12-size": last(commands, "value", 1, what="cuda12, installed, in GB"),
        "cuda13-size": last(commands, "value", 1, what="cuda13, installed, in GB"),
    }


def filled(page: str) -> str:
    """The text of a page with its figures as the CSV files have them now."""
    texts = figures()
    return MARK.sub(lambda mark: f"{mark[1]}{texts[mark[2]]}{mark[3]}", page)
