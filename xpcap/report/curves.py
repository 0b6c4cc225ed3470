"""Curves as PNG: loss, perplexity and CIDEr-D by epoch, and gradients through time."""

import functools
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from xpcap.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Palette(NamedTuple):
    """Colours of a figure; the page uses the same paper and ink."""

    paper: str
    ink: str
    faint: str
    train: str
    val: str


LIGHT = Palette(paper="#ffffff", ink="#1f2328", faint="#d9dde2", train="#6f8fc0", val="#b3402f")
DARK = Palette(paper="#14171b", ink="#e4e7eb", faint="#39404a", train="#86a8dd", val="#f0917f")
SIZE, DPI = (4.25, 2.75), 160  # inches; sharp on screens with two pixels a point
PIXELS = (680, 440)
SCORES = ("val_cider", "train_reward")  # the more the better
CACHED = 4  # drawings of a curve: light and dark, of two histories
TRAIN_LINE: dict[str, Any] = {"marker": "s", "markersize": 2.6, "linewidth": 1.2}
VAL_LINE: dict[str, Any] = {"marker": "o", "markersize": 3.2, "linewidth": 1.8}
History = Sequence[Mapping[str, Any]]
Draw = Callable[..., bytes]


def _cached(draw: Draw) -> Draw:
    """Cache the latest drawings, which loss.png and the pages share."""

    @functools.lru_cache(CACHED)
    def drawn(rows: tuple[tuple[tuple[str, object], ...], ...], dark: bool) -> bytes:
        return draw([dict(row) for row in rows], dark)

    @functools.wraps(draw)
    def look_up(history: History, dark: bool = False) -> bytes:
        return drawn(tuple(tuple(record.items()) for record in history), dark)

    return look_up


def draw_loss(path: str | Path, history: History) -> None:
    """Write the light `loss_curve` of a history to a file. OSError : it cannot be written."""
    png = loss_curve(history)
    with atomic(Path(path)) as file:
        file.write(png)


@_cached
def loss_curve(history: History, dark: bool = False) -> bytes:
    """Draw the loss by epoch, of training (with dropout) and of the val split if measured, as PNG.

    Parameters
    ----------
    history : the solver's: one record an epoch with ``epoch``, ``train_loss`` and, if measured,
        ``val_loss``
    dark : light lines on dark paper
    """
    palette = DARK if dark else LIGHT
    figure, axes = _axes(palette, "loss per caption")
    _line(axes, history, "train_loss", palette.train, label="train", **TRAIN_LINE)
    _line(axes, history, "val_loss", palette.val, label="val", **VAL_LINE)
    _ring_best(axes, history, "val_loss", palette)
    axes.legend(frameon=False, labelcolor=palette.ink, fontsize=9)
    return _png(figure)


@_cached
def perplexity_curve(history: History, dark: bool = False) -> bytes:
    """Draw the val split's perplexity by epoch, as PNG, from records with ``val_perplexity``."""
    return _val_curve(history, "val_perplexity", "perplexity on val", dark)


@_cached
def cider_curve(history: History, dark: bool = False) -> bytes:
    """Draw CIDEr-D of the val split by epoch, and the mean reward of training if any, as PNG."""
    if not points(history, "train_reward"):
        return _val_curve(history, "val_cider", "CIDEr-D on val", dark)
    palette = DARK if dark else LIGHT
    figure, axes = _axes(palette, "CIDEr-D")
    _line(axes, history, "train_reward", palette.train, label="samples, train", **TRAIN_LINE)
    _line(axes, history, "val_cider", palette.val, label="greedy, val", **VAL_LINE)
    _ring_best(axes, history, "val_cider", palette)
    axes.legend(frameon=False, labelcolor=palette.ink, fontsize=9)
    return _png(figure)


class Gradient(Protocol):
    """Sizes of a gradient 0, 1, 2, ... steps back in time, as shares of the first."""

    @property
    def name(self) -> str: ...
    @property
    def shares(self) -> Sequence[float]: ...
    @property
    def trained(self) -> bool:
        """True if the model is trained."""


def gradient_curve(curves: Sequence[Gradient], dark: bool = False) -> bytes:
    """Draw the size of gradients by steps back in time, on a log scale, as PNG."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    palette = DARK if dark else LIGHT
    figure, axes = _axes(palette, "share of the gradient", "steps back in time")
    styles: dict[bool, Iterator[tuple[str, dict[str, Any]]]] = {
        True: iter(((palette.val, VAL_LINE), (palette.ink, TRAIN_LINE))),
        False: iter([(palette.train, {"linestyle": dashes}) for dashes in ("-", "--", ":")]),
    }
    for curve in curves:
        colour, style = next(styles[curve.trained])
        steps = range(len(curve.shares))
        axes.plot(steps, curve.shares, color=colour, label=curve.name, **style)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.legend(frameon=False, labelcolor=palette.ink, fontsize=9)
    return _png(figure)


def best_point(history: History, key: str) -> tuple[int, float, str]:
    """Epoch and value of the best, and "highest" (scores) or "lowest" (losses)."""
    best, word = (max, "highest") if key in SCORES else (min, "lowest")
    return *best(points(history, key), key=lambda point: point[1]), word


def points(history: History, key: str) -> list[tuple[int, float]]:
    """(epoch, value) of the records that have the value."""
    return [(record["epoch"], record[key]) for record in history if record.get(key) is not None]


def _val_curve(history: History, key: str, label: str, dark: bool) -> bytes:
    palette = DARK if dark else LIGHT
    figure, axes = _axes(palette, label)
    _line(axes, history, key, palette.val, **VAL_LINE)
    _ring_best(axes, history, key, palette)
    return _png(figure)


def _axes(palette: Palette, label: str, below: str = "epoch") -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=SIZE, layout="constrained", facecolor=palette.paper)
    axes = figure.add_subplot(facecolor=palette.paper)
    axes.set_xlabel(below, color=palette.ink, fontsize=10)
    axes.set_ylabel(label, color=palette.ink, fontsize=10)
    axes.tick_params(colors=palette.ink, labelsize=9, color=palette.faint)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(palette.faint)
    axes.grid(axis="y", color=palette.faint, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.margins(x=0.04)
    return figure, axes


def _line(axes: "Axes", history: History, key: str, colour: str, **style: Any) -> None:
    drawn = points(history, key)
    if drawn:
        epochs, values = zip(*drawn, strict=True)
        axes.plot(epochs, values, color=colour, **style)
        if len(drawn) == 1:
            axes.set_xlim(epochs[0] - 1, epochs[0] + 1)


def _ring_best(axes: "Axes", history: History, key: str, palette: Palette) -> None:
    if len(points(history, key)) < 2:
        return
    epoch, value, word = best_point(history, key)
    ring: dict[str, Any] = {
        "marker": "o",
        "markersize": 9,
        "markerfacecolor": "none",
        "markeredgecolor": palette.ink,
        "linestyle": "none",
    }
    axes.plot(epoch, value, label=f"{word}, epoch {epoch}", **ring)


def _png(figure: "Figure") -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    file = io.BytesIO()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    # 64 colours take a third of the bytes, without a visible loss
    picture = picture.quantize(64, dither=Image.Dither.NONE)
    picture.save(file, format="png", optimize=True)
    return file.getvalue()
