"""Figures of the docs, each drawn by the function of its name; `make docs` draws them all.

python docs/figures.py [NAME...]
"""

import csv
import io
import sys
from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image
from PIL.PngImagePlugin import PngInfo

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
RESULTS = ROOT / "docs" / "develop" / "results"
MEASURED = {"stages": "stages", "captions-by-photos": "captions_by_photos"}
STYLE = {
    "font.family": "DejaVu Sans",
    "mathtext.fontset": "dejavusans",
    "font.size": 10,
    "axes.labelsize": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#5b6470",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dfe3e8",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.facecolor": "white",
}
INK, SOFT, PAPER = "#22272e", "#5b6470", "#f4f5f7"
BLUE, ORANGE, GREEN, RED, PURPLE = "#2f6db3", "#c9781e", "#3b8758", "#bd3b32", "#7a5aa6"
LIGHT = {BLUE: "#d6e5f5", ORANGE: "#fae3c6", GREEN: "#d5ecdc", RED: "#f7d8d5", PURPLE: "#e6dcf3"}


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure without axes, half an inch a unit."""
    figure = Figure(figsize=(width / 2, height / 2))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def text(axes: Axes, x: float, y: float, words: str, **options: Any) -> None:
    axes.text(x, y, words, **{"ha": "center", "va": "center", "color": INK, "size": 10, **options})


def box(
    axes: Axes, x: float, y: float, w: float, h: float, words: str, colour: str, **options: Any
) -> None:
    """A rounded box with its middle at (x, y)."""
    shape = f"round,pad=0,rounding_size={min(w, h) / 6}"
    corner = (x - w / 2, y - h / 2)
    axes.add_patch(
        FancyBboxPatch(corner, w, h, shape, ec=colour, fc=LIGHT.get(colour, PAPER), lw=1.1)
    )
    text(axes, x, y, words, **options)


def arrow(
    axes: Axes, start: Sequence[float], end: Sequence[float], colour: str = INK, **options: Any
) -> None:
    settings = {"arrowstyle": "-|>", "mutation_scale": 9, "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(start, end, color=colour, **{**settings, **options}))


def packed_rows() -> Figure:
    """Four captions as a padded batch, and the same steps as packed rows."""
    captions = ["a dog runs on grass", "two boys play", "cats sleep", "snow"]
    inputs = [["<START>", *caption.split()] for caption in captions]
    steps = max(map(len, inputs))
    alive = [sum(len(words) > t for words in inputs) for t in range(steps)]
    first = [sum(alive[:t]) for t in range(steps)]  # row of the first caption at each step
    colours = (BLUE, ORANGE, GREEN, PURPLE)
    figure, axes = canvas(14, 9.4)
    left, wide, high, top = 2.6, 1.85, 0.8, 8.0
    text(axes, 0.1, 9.05, "batch, sorted by length", ha="left", weight="bold")
    for t in range(steps):
        text(axes, left + (t + 0.5) * wide, 8.3, f"step {t}", color=SOFT)
    for n, words in enumerate(inputs):
        y = top - (n + 1) * high
        text(axes, left - 0.2, y + high / 2, f"caption {n}", ha="right", color=colours[n])
        for t in range(steps):
            x = left + t * wide
            live = t < len(words)
            axes.add_patch(
                Rectangle(
                    (x, y),
                    wide,
                    high,
                    ec=colours[n] if live else "#c3c9d1",
                    fc=LIGHT[colours[n]] if live else "white",
                    hatch=None if live else "////",
                    lw=1,
                    zorder=2 if live else 1,
                )
            )
            if live:
                text(axes, x + wide / 2, y + high / 2, words[t], zorder=3)
    y = top - 4 * high - 0.5
    text(axes, left - 0.2, y, "batch_sizes", ha="right", family="DejaVu Sans Mono")
    for t, n in enumerate(alive):
        text(axes, left + (t + 0.5) * wide, y, str(n), weight="bold")
    rows = sum(alive)
    text(
        axes,
        0.1,
        3.45,
        f"packed rows, time-major: R = {rows}; hatched steps are never computed",
        ha="left",
        weight="bold",
    )
    wide, high, y = 13.8 / rows, 0.9, 1.35
    for t in range(steps):
        start = 0.1 + first[t] * wide
        for n in range(alive[t]):
            x = start + n * wide
            axes.add_patch(Rectangle((x, y), wide, high, ec=colours[n], fc=LIGHT[colours[n]], lw=1))
            text(axes, x + wide / 2, y + high / 2, str(first[t] + n))
            if t:
                before = 0.1 + (first[t - 1] + n + 0.5) * wide
                arrow(
                    axes,
                    (before, y - 0.02),
                    (x + wide / 2, y - 0.02),
                    colours[n],
                    connectionstyle=f"arc3,rad={0.3 if t < 3 else 0.45}",
                    lw=1,
                )
        text(axes, start + alive[t] * wide / 2, 2.75, f"step {t}", color=SOFT, size=9)
        axes.plot(
            [start + 0.06, start + alive[t] * wide - 0.06],
            [2.42, 2.42],
            color=SOFT,
            lw=1.2,
            solid_capstyle="butt",
        )
    text(axes, 7, 0.25, "arrows: each row starts from the state after its previous row", color=SOFT)
    return figure


def lstm_step() -> Figure:
    """One step of the LSTM, and the gradients back through it."""
    figure, axes = canvas(14, 10.3)
    cell, gate, bar, back = 8.6, 5.2, 3.0, {"colour": RED, "ls": (0, (3, 1.5)), "lw": 1.2}
    at = {"f": 3.9, "i": 5.7, "g": 7.5, "o": 9.3}
    out = 11.6

    def both(start: Sequence[float], end: Sequence[float], dx: float = 0, dy: float = 0) -> None:
        """An arrow forward, and its gradient's the other way, moved by (dx, dy)."""
        arrow(axes, start, end)
        arrow(axes, (end[0] + dx, end[1] + dy), (start[0] + dx, start[1] + dy), **back)

    def node(x: float, y: float, sign: str) -> None:
        axes.plot([x], [y], "o", ms=17, mfc="white", mec=INK, mew=1.1, zorder=4)
        text(axes, x, y - 0.03, sign, zorder=5, size=12)

    def gradient(x: float, y: float, words: str, **options: Any) -> None:
        text(axes, x, y, words, color=RED, **options)

    # the cell, left to right
    both((1.2, cell), (at["f"] - 0.35, cell), dy=-0.25)
    both((at["f"] + 0.35, cell), (6.25, cell), dy=-0.25)
    both((6.95, cell), (12.9, cell), dy=-0.25)
    text(axes, 0.65, cell, "$c_{t-1}$", size=12)
    text(axes, 13.35, cell, "$c_t$", size=12)
    gradient(1.9, cell - 0.7, r"$dc_{t-1} = \delta \odot f$")
    gradient(13.35, cell - 0.6, "$dc_t$")
    gradient(9.3, cell + 0.5, r"$\delta = dc_t + dh_t \odot o \odot (1 - \tanh^2 c_t)$")
    # the gates, up to the cell and out
    both((at["f"], gate + 0.45), (at["f"], cell - 0.35), dx=-0.22)
    gradient(at["f"] - 0.35, 7.0, r"$df = \delta \odot c_{t-1}$", ha="right")
    meet = (6.6, 6.75)
    for name, side in (("i", -1), ("g", 1)):
        both(
            (at[name], gate + 0.45), (meet[0] + side * 0.3, meet[1] - 0.25), dx=side * 0.26, dy=0.0
        )
    both((meet[0], meet[1] + 0.35), (meet[0], cell - 0.35), dx=-0.22)
    gradient(5.55, 7.0, r"$di = \delta \odot g$", ha="center")
    gradient(7.95, 7.0, r"$dg = \delta \odot i$", ha="center")
    both((out, cell - 0.05), (out, 7.35), dx=0.22)
    both((out, 6.65), (out, gate + 0.35), dx=0.22)
    both((at["o"] + 0.55, gate), (out - 0.35, gate), dy=-0.22)
    both((out + 0.35, gate), (12.9, gate), dy=-0.22)
    gradient(
        10.1,
        5.85,
        r"$do = dh_t \odot \tanh c_t$",
        ha="center",
        bbox={"fc": "white", "ec": "none", "pad": 0.5},
    )
    text(axes, 13.35, gate, "$h_t$", size=12)
    gradient(13.35, gate - 0.6, "$dh_t$")
    # what comes in
    for name, x in at.items():
        both((x, bar + 0.5), (x, gate - 0.45), dx=-0.22)
        sign, colour = ("tanh", ORANGE) if name == "g" else (r"$\sigma$", BLUE)
        box(axes, x, gate, 1.1, 0.9, f"${name}$   {sign}" if name != "g" else "$g$ tanh", colour)
        gradient(x + 0.12, (bar + gate) / 2, f"$da_{name}$", ha="left")
    box(axes, 6.6, bar, 6.9, 1.0, r"$a = x_t W_x + h_{t-1} W_h + b$,  in blocks $i, f, o, g$", SOFT)
    for y, name in ((bar + 0.28, "$x_t$"), (bar - 0.28, "$h_{t-1}$")):
        arrow(axes, (1.2, y), (3.1, y))
        text(axes, 0.65, y, name, size=12)
    arrow(axes, (3.1, bar + 0.1), (1.2, bar + 0.1), **back)
    arrow(axes, (3.1, bar - 0.46), (1.2, bar - 0.46), **back)
    gradient(2.1, bar + 0.75, r"$dx_t = da\,W_x^\top$")
    gradient(2.1, bar - 0.95, r"$dh_{t-1} = da\,W_h^\top$")
    box(axes, out, 7.0, 1.1, 0.7, "tanh", ORANGE)
    node(at["f"], cell, r"$\odot$")
    node(6.6, cell, "$+$")
    node(*meet, r"$\odot$")
    node(out, gate, r"$\odot$")
    gradient(
        7.2,
        1.45,
        r"$da_k = dk \odot k \odot (1 - k)$ for $k = i, f, o$,     $da_g = dg \odot (1 - g^2)$",
    )
    gradient(
        7.2,
        0.75,
        r"$dW_x = x_t^\top da$,     $dW_h = h_{t-1}^\top da$,     $db = \sum_n da_n$",
    )
    arrow(axes, (0.3, 9.9), (1.5, 9.9))
    text(axes, 1.7, 9.9, "forward", ha="left")
    arrow(axes, (5.2, 9.9), (4.0, 9.9), **back)
    text(axes, 5.4, 9.9, "gradient of the loss, backward", ha="left", color=RED)
    return figure


def caption_path() -> Figure:
    """A caption's way from its file to an update, and a picture's to a caption."""
    figure, axes = canvas(14, 12.4)

    def lane(y: float, title: str, x: float = 0.1) -> None:
        text(axes, x, y, title, ha="left", weight="bold", size=10.5)

    def station(x: float, y: float, words: str, room: str, colour: str) -> None:
        box(axes, x, y, 2.9, 1.25, "", colour)
        text(axes, x, y + 0.23, words, size=9.5)
        text(axes, x, y - 0.33, room, size=8.5, color=colour, family="DejaVu Sans Mono")

    columns = (1.6, 5.2, 8.8, 12.4)

    def chain(y: float) -> None:
        for one, two in pairwise(columns):
            arrow(axes, (one + 1.45, y), (two - 1.45, y))

    def elbow(start: Sequence[float], y: float, end: Sequence[float]) -> None:
        """An arrow down, across at height y, and down."""
        axes.plot([start[0], start[0], end[0]], [start[1], y, y], color=SOFT, lw=1.2)
        arrow(axes, (end[0], y), end, SOFT)

    lane(12.0, "prepare: files to a data set")
    station(1.6, 11.0, "captions, photos", "captions.csv", SOFT)
    station(5.2, 11.0, "photo, text, split", "prepare/", BLUE)
    station(8.8, 11.0, "words and features", "data/ encoders/", BLUE)
    station(12.4, 11.0, "data set", "own.h5", SOFT)
    chain(11.0)

    lane(9.45, "train: a batch to an update, once a step", 0.95)
    y = 8.4
    station(1.6, y, "batch of captions", "data/", BLUE)
    station(5.2, y, "packed rows", "models/batch.py", BLUE)
    station(8.8, y, "states, step by step", "models/ layers/", GREEN)
    station(12.4, y, "loss of each word", "layers/", GREEN)
    chain(y)
    y = 6.1
    station(1.6, y, "update", "optim.py", ORANGE)
    station(5.2, y, "sum, clip", "training/", ORANGE)
    station(8.8, y, "steps in reverse", "layers/ models/", RED)
    station(12.4, y, "gradients of scores", "layers/", RED)
    arrow(axes, (12.4, 8.4 - 0.63), (12.4, y + 0.63), RED)
    for one, two in pairwise(columns[::-1]):
        arrow(axes, (one - 1.45, y), (two + 1.45, y), RED if one > 6 else ORANGE)
    arrow(axes, (1.6, y + 0.63), (1.6, 8.4 - 0.63))
    text(axes, 1.8, 7.25, "next batch", ha="left", size=9, color=SOFT)
    elbow((12.4, 11.0 - 0.63), 9.95, (0.6, 8.4 + 0.63))

    station(5.2, 3.95, "validation scores", "training/ metrics/", PURPLE)
    station(8.8, 3.95, "best epoch", "runs/own/", SOFT)
    axes.plot([1.6, 1.6], [6.1 - 0.63, 3.95], color=INK, lw=1.2)
    arrow(axes, (1.6, 3.95), (5.2 - 1.45, 3.95))
    text(axes, 1.8, 4.35, "once an epoch", ha="left", size=9, color=SOFT)
    arrow(axes, (5.2 + 1.45, 3.95), (8.8 - 1.45, 3.95))

    lane(2.55, "caption: a picture to words")
    station(1.6, 1.5, "photo to features", "encoders/", BLUE)
    station(5.2, 1.5, "a word at a time", "models/ decoding/", GREEN)
    station(8.8, 1.5, "reranked candidates", "reranking/", PURPLE)
    station(12.4, 1.5, "caption, page", "runs/ report/", SOFT)
    chain(1.5)
    elbow((8.8, 3.95 - 0.63), 2.75, (5.2, 1.5 + 0.63))
    return figure


def results_file(name: str) -> Path:
    return RESULTS / f"{name}.csv"


def read_results(name: str) -> list[dict[str, str]]:
    with results_file(name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def panels(height: float) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(7, height), layout="constrained")
    return figure, figure.subplots(1, 2)


def stages() -> Figure:
    """Perplexity and CIDEr of the dev photos by epoch, in both stages of training."""
    rows = read_results(MEASURED["stages"])
    crossed = max(int(row["epoch"]) for row in rows if row["stage"] == "cross entropy")
    figure, both = panels(3.1)
    for axes, column, label in (
        (both[0], "val_perplexity", "perplexity"),
        (both[1], "val_cider", "CIDEr-D, greedy"),
    ):
        for stage, colour, start in (
            ("cross entropy", BLUE, 0),
            ("self-critical", RED, crossed),
        ):
            ours = [row for row in rows if row["stage"] == stage]
            epochs = sorted({int(row["epoch"]) for row in ours})
            for seed in sorted({row["seed"] for row in ours}):
                line = [float(row[column]) for row in ours if row["seed"] == seed]
                axes.plot([start + e for e in epochs], line, color=colour, lw=0.8, alpha=0.4)
            means = [
                fmean(float(row[column]) for row in ours if int(row["epoch"]) == e) for e in epochs
            ]
            axes.plot([start + e for e in epochs], means, color=colour, marker="o", ms=3.5)
        axes.axvline(crossed, color=SOFT, lw=0.8, ls=":")
        axes.set(xlabel="epoch", ylabel=label, xticks=range(1, 14, 2))
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.14 * (high - low))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        for x, words, colour, side in (
            (crossed - 0.2, "cross entropy", BLUE, "right"),
            (crossed + 0.2, "self-critical", RED, "left"),
        ):
            text(
                axes,
                x,
                0.95,
                words,
                ha=side,
                color=colour,
                size=9,
                transform=axes.get_xaxis_transform(),
            )
    return figure


def captions_by_photos() -> Figure:
    """CIDEr of captions of photos never seen, by the number of training photos."""
    rows = read_results(MEASURED["captions-by-photos"])
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for each, colour, words in (
        ("5", GREEN, "five captions each"),
        ("1", BLUE, "one caption each"),
    ):
        ours = [row for row in rows if row["captions_each"] == each]
        photos = sorted({int(row["photos"]) for row in ours})
        for column, style, how in (
            ("cider", "-", "reranked, the default"),
            ("cider_greedy", ":", "greedy"),
        ):
            means = [
                fmean(float(row[column]) for row in ours if int(row["photos"]) == n) for n in photos
            ]
            axes.plot(
                photos, means, color=colour, ls=style, marker="o", ms=4.5, label=f"{words}, {how}"
            )
    ticks = (100, 250, 500, 1000, 2000, 6000)
    axes.set(xscale="log", xlabel="photos", ylabel="CIDEr-D")
    axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
    axes.minorticks_off()
    axes.set_ylim(0, None)
    axes.legend(fontsize=9, loc="lower right")
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    "packed-rows": packed_rows,
    "lstm-step": lstm_step,
    "caption-path": caption_path,
    "stages": stages,
    "captions-by-photos": captions_by_photos,
}


def digest(name: str) -> str:
    """SHA-256 of what a figure is drawn from: this file, and its results."""
    source = Path(__file__).read_text(encoding="utf-8")
    if name in MEASURED:
        source += results_file(MEASURED[name]).read_text(encoding="utf-8")
    return sha256(source.encode()).hexdigest()


def draw(name: str, path: Path) -> None:
    """Write a figure as PNG, 1,400 pixels wide, with the digest of its sources as text."""
    with rc_context(STYLE):
        drawn = io.BytesIO()
        FIGURES[name]().savefig(drawn, dpi=200)
    info = PngInfo()
    info.add_text("sources", digest(name))
    Image.open(drawn).convert("RGB").quantize(128).save(path, optimize=True, pnginfo=info)


if __name__ == "__main__":
    for wanted in sys.argv[1:] or FIGURES:
        draw(wanted, IMAGES / f"{wanted}.png")
