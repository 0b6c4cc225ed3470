"""Charts: loss, perplexity and CIDEr-D by epoch, and gradients through time.

A page draws a `Chart` as SVG, in the colours of its theme. A chart by Matplotlib would have fixed
colours, seven times the bytes, and take 45 ms; during training a page is written again and again.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

# A chart's view box, and the edges of the plot in it
WIDTH = 400
HEIGHT = 250
LEFT = 52
TOP = 10
RIGHT = 388
BOTTOM = 206
PADDING = 0.05  # above and below the values, as a share of their span
# Limits of ticks on the axes
ACROSS = 10
UPWARD = 6
MAX_DOTS = 60  # on a line; more would touch
COLUMNS = {  # key of a record to heading and format
    "epoch": ("epoch", "d"),
    "train_loss": ("train loss", ".2f"),
    "train_reward": ("train reward", ".3f"),
    "val_loss": ("val loss", ".2f"),
    "val_perplexity": ("val perplexity", ".2f"),
    "val_accuracy": ("val accuracy", ".3f"),
    "val_cider": ("val CIDEr-D", ".3f"),
    "val_distinct": ("val distinct", ".3f"),
    "val_length": ("val words", ".1f"),
    "learning_rate": ("learning rate", ".2e"),
}
CURVES = (  # title, and key to name of each line, with training first
    ("Loss per caption", {"train_loss": "train", "val_loss": "val"}),
    ("Perplexity", {"val_perplexity": "val"}),
    ("CIDEr-D", {"train_reward": "train, sampled", "val_cider": "val, greedy"}),
)
SCORES = ("val_cider", "train_reward")  # higher is better
History = Sequence[Mapping[str, Any]]
Curve = list[tuple[int, float]]  # epochs and values
Ticks = list[tuple[float, str]]  # position and text of each


class Line(NamedTuple):
    """A line of a chart."""

    name: str
    style: str  # its class in frame.html
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """A chart in units of its view box, which the macro `chart` of macros.html draws."""

    title: str  # of the vertical axis
    below: str  # title of the horizontal axis
    about: str  # description of the lines
    lines: list[tuple[str, str, str, str]]  # name, style, path of the line, path of its dots
    across: Ticks
    upward: Ticks
    ring: tuple[float, float, str] | None  # a highlighted point and its label

    box: ClassVar[tuple[int, ...]] = WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM


# ---- The history of a training


def points(history: History, key: str) -> Curve:
    """(epoch, value) of the records with a finite value."""
    return [
        (record["epoch"], record[key])
        for record in history
        if record.get(key) is not None and math.isfinite(record[key])
    ]


def training_charts(history: History) -> list[Chart]:
    """A chart for each of CURVES that was measured, with a ring at the best epoch on val.

    There are none for a single epoch.
    """
    charts: list[Chart] = []
    for title, names in CURVES if len(history) > 1 else ():
        curves = {key: curve for key in names if (curve := points(history, key))}
        lines = [Line(names[key], key.partition("_")[0], curve) for key, curve in curves.items()]
        about = "; ".join(_course(key, curve) for key, curve in curves.items())
        *_, last = names
        ring = None
        if len(curves.get(last, ())) > 1:
            epoch, value, word = _best(last, curves[last])
            ring = epoch, value, f"{word}, epoch {epoch}"
        if lines:
            charts.append(_chart(title, "epoch", about, lines, ring=ring))
    return charts


def _best(key: str, curve: Curve) -> tuple[int, float, str]:
    """Epoch and value of the best point, and "highest" (scores) or "lowest" (losses)."""
    best, word = (max, "highest") if key in SCORES else (min, "lowest")
    return *best(curve, key=lambda point: point[1]), word


def _course(key: str, curve: Curve) -> str:
    """A curve described in words."""
    name = COLUMNS[key][0]
    first, start = curve[0]
    last, end = curve[-1]
    if first == last:
        return f"{name} {end:.2f} after epoch {last}"
    best, value, word = _best(key, curve)
    turn = f", {word} {value:.2f} after epoch {best}" if best != last else ""
    return f"{name} from {start:.2f} after epoch {first} to {end:.2f} after epoch {last}{turn}"


# ---- Gradients through time


def gradient_chart(shares: Mapping[str, Sequence[float]], about: str) -> Chart:
    """A chart, on a log scale, of gradients 0, 1, 2, ... steps back, as shares of the first.

    `about` describes it in words.
    """
    lines = [
        Line(
            name,
            style,
            [(step, math.log10(share)) for step, share in enumerate(values) if share > 0],
        )
        for (name, values), style in zip(shares.items(), ("val", "train"), strict=False)
    ]
    return _chart("Share of the gradient", "steps back in time", about, lines, log=True)


# ---- Drawing


class _Axis(NamedTuple):
    """Maps values from `low` to `high` to positions from `start` to `end` in the view box."""

    low: float
    high: float
    start: int
    end: int

    def position(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, limit: int, *, whole: bool, log: bool = False) -> Ticks:
        """At most about `limit` ticks at round values, 1, 2 or 5 times a power of ten apart.

        On a log scale, values are logarithms of shares, and texts are the shares.
        """
        min_step = max((self.high - self.low) / limit, whole)
        power = 10.0 ** math.floor(math.log10(min_step))
        step = next((n * power for n in (1, 2, 5) if n * power >= min_step), 10 * power)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        numbers = range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
        values = [n * step for n in numbers]
        form = f".{digits}f" if digits < 5 and max(map(abs, values), default=0) < 1e5 else ".6g"
        texts = [f"{100 * 10**x:g}\N{NO-BREAK SPACE}%" if log else format(x, form) for x in values]
        return list(zip(map(self.position, values), texts, strict=True))


def _chart(
    title: str,
    below: str,
    about: str,
    lines: Sequence[Line],
    *,
    ring: tuple[float, float, str] | None = None,
    log: bool = False,
) -> Chart:
    """A chart of lines; on a log scale the values are logarithms."""
    xs, ys = zip(*(point for line in lines for point in line.points), strict=True)
    left, right = (min(xs), max(xs)) if min(xs) < max(xs) else _spread(xs, 1)
    low, high = _spread(ys, PADDING * (max(ys) - min(ys)))
    if log:  # whole decades
        low = min(math.floor(min(ys)), math.ceil(max(ys)) - 1)
        high = math.ceil(max(ys))
    x = _Axis(left, right, LEFT, RIGHT)
    y = _Axis(low, high, BOTTOM, TOP)
    drawn = []
    for line in lines:
        positions = [f"{x.position(step):g} {y.position(value):g}" for step, value in line.points]
        dots = "".join(f"M{p}h.01" for p in positions) if len(positions) <= MAX_DOTS else ""
        drawn.append((line.name, line.style, f"M{'L'.join(positions)}", dots))
    ringed = ring and (x.position(ring[0]), y.position(ring[1]), ring[2])
    across = x.ticks(ACROSS, whole=True)
    upward = y.ticks(UPWARD, whole=log, log=log)
    return Chart(title, below, about, drawn, across, upward, ringed)


def _spread(values: Sequence[float], padding: float) -> tuple[float, float]:
    """The ends of an axis for values, wide enough that nearly equal values look equal."""
    min_span = 0.001 * max(map(abs, values)) or 1.0
    padding = max(padding, (min_span - (max(values) - min(values))) / 2)
    return min(values) - padding, max(values) + padding
