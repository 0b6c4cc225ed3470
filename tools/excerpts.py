"""Fill in what the pages take from elsewhere: the options of commands, in the tables below
<!-- options of NAME -->, and figures that stand on several pages, computed from
docs/develop/results/*.csv, as <!-- measured NAME -->TEXT<!-- -->. `make excerpts` runs this.
"""

import csv
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from xpcap.cli import main
from xpcap.cli.decoding import NAMES as DECODING

SHARED = {"backend": "train", "decoding": "caption"}  # options of several commands: one of these
BACKEND = ("backend", "plain")

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TABLE = re.compile(r"^(<!-- options of (\w+) -->\n)(?:\|.*\n)*", re.MULTILINE)
FIGURE = re.compile(r"(<!-- measured ([\w-]+) -->)[^<]*(<!-- -->)")


def values(file: str, column: str, **where: str) -> list[float]:
    """Values of a column, of the rows whose other columns are `where`, in the file's order; both ends
    of a value such as `1.5 to 2`.
    """
    path = ROOT / "docs" / "develop" / "results" / file
    with path.open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if where.items() <= row.items()]
    return [float(end) for row in rows if row[column] for end in row[column].split(" to ")]


def figures() -> dict[str, str]:
    """The text of each figure, by its name on the pages."""
    command, demo = partial(values, "commands.csv", "value"), {"command": "make demo"}
    whole = "all, with ranking, scores and page, in batches of 128"
    peak = "peak memory of all, with the ranking and the page"
    quality = partial(values, "quality.csv")
    dev = {"photos": "1,000 dev photos, after 6,000 others", "recipe": "default, ranked captions"}
    minutes = command(**demo, what="all, after set-up")
    ratios: list[Callable[..., list[float]]] = [  # the first configuration has few captions
        partial(values, "pytorch.csv", f"ratio_torch_{layout}") for layout in ("padded", "packed")
    ]
    times = [min(pair) for pair in zip(*(ratio(work="step")[1:] for ratio in ratios), strict=True)]
    return {
        "demo-minutes": f"{min(minutes):.0f} to {max(minutes):.0f}",
        "demo-memory": f"{command(**demo, what='peak memory')[-1]:.0f}",
        "demo-percent": f"{100 * values('demo.csv', 'named_exactly', seed='0')[-1]:.0f}",
        "default-minutes": f"{command(what=whole)[-1] / 60:.0f}",
        "default-memory": f"{command(what=peak)[-1] / 1000:.1f}",
        "default-cider": f"{quality('ranked', **dev)[-1]:.2f}",
        "pytorch-times": f"{min(times):.1f} to {max(times):.1f}",
        "cuda12-size": f"{command(what='cuda12, installed, in GB')[-1]:.1f}",
        "cuda13-size": f"{command(what='cuda13, installed, in GB')[-1]:.1f}",
    }


def options(table: str) -> str:
    """A command's options, from their help, or those that commands share, a table of `SHARED`."""
    lines = ["| option | default | meaning |\n|---|---|---|\n"]
    params = main.commands[SHARED.get(table, table)].params
    decodes = any(option.name == "greedy" for option in params)
    for option in params:
        group = "backend" if option.name in BACKEND else table if table not in SHARED else ""
        group = "decoding" if decodes and option.name in DECODING else group
        if isinstance(option, click.Option) and group == table:
            names = ", ".join(f"`{name}`" for name in (*option.opts[-1:], *option.secondary_opts))
            meaning, _, more = str(option.help).partition("  [")
            default = more.rstrip("]").partition("default: ")[2]
            if option.show_default:
                default = str(option.default)
            default = "required" if option.required else default
            cells = (cell.replace("|", r"\|") for cell in (names, quoted(default), quoted(meaning)))
            lines.append(f"| {' | '.join(cells)} |\n")
    return "".join(lines)


def quoted(text: str) -> str:
    """The help of a command as Markdown."""
    text = re.sub(r"\B'([^']+)'\B", r"`\1`", text)
    return re.sub(r"(?<!`)(pip install '[^']+'|--[a-z][\w-]*|\$\w+|<\w+>)(?!`)", r"`\1`", text)


def filled(page: str) -> str:
    """The text of a page with every table and figure as it is now."""
    texts = figures()
    page = TABLE.sub(lambda match: match[1] + options(match[2]), page)
    return FIGURE.sub(lambda match: f"{match[1]}{texts[match[2]]}{match[3]}", page)


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
