"""Plots the time of a training step against batch and vocabulary size, as PNG."""

import io
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.results import Result
from xpcap.files import atomic
from xpcap.report.curves import LIGHT

SIZE, DPI = (9.6, 4.2), 160  # inches


class Line(NamedTuple):
    """A line of the plot: its label, its value for a result, and its style."""

    label: str
    ms: Callable[[Result], float | None]
    style: dict[str, Any]


LINES = (
    Line("textbook NumPy", lambda r: r.ms_textbook, {"color": "#8a8f3c", "marker": "D"}),
    Line("PyTorch, padded", lambda r: r.ms_padded, {"color": "#8fb3e0", "marker": "s"}),
    Line("PyTorch, packed", lambda r: r.ms_packed, {"color": "#33609e", "marker": "^"}),
    Line("xpcap", lambda r: r.ms, {"color": LIGHT.val, "marker": "o", "linewidth": 2.0}),
)
FLOOR = {"color": LIGHT.ink, "linestyle": (0, (4, 3)), "linewidth": 1.0}
SIZES = {"N": "N, captions in a batch", "V": "V, words in the vocabulary"}


def draw_scaling(path: Path, results: Sequence[Result]) -> None:
    """Write a PNG with one panel for each size that configs.scaling varies: milliseconds per step against that size, on logarithmic axes.

    A dashed line shows how long the needed arithmetic would take at the speed of a large matrix product, the median over the results.

    Raises
    ------
    OSError : the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=SIZE, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.06, wspace=0.03), facecolor=LIGHT.paper)
    panels = figure.subplots(1, len(SIZES))
    floor = _floor(results)
    for axes, key in zip(panels, SIZES, strict=True):
        _panel(axes, key, [result for result in results if result.config.name.startswith(f"{key}=")], floor)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, labelcolor=LIGHT.ink, fontsize=9)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI)
    with atomic(path) as file:
        file.write(png.getvalue())


def _floor(results: Sequence[Result]) -> Line:
    rate = statistics.median(result.gemm_gflops or 0 for result in results)
    return Line(f"needed arithmetic at {rate:.0f} GFLOP/s (GEMM)", lambda r: r.ms * r.gflops / rate if rate else None, FLOOR)


def _panel(axes: Any, key: str, results: Sequence[Result], floor: Line) -> None:
    sizes = [getattr(result.config, key) for result in results]
    for line in (*LINES, floor):
        times = [line.ms(result) for result in results]
        if None not in times:
            axes.plot(sizes, times, label=line.label, **{"linewidth": 1.4, "markersize": 4.5, **line.style})
    axes.set_xscale("log")
    axes.set_yscale("log")
    _plain_numbers(axes, sizes)
    others = ", ".join(f"{name} {getattr(results[0].config, name):,}" for name in "NDWHV" if name != key)
    axes.set_xlabel(f"{SIZES[key]}  ({others})", color=LIGHT.ink, fontsize=9.5)
    axes.set_ylabel("training step, ms", color=LIGHT.ink, fontsize=9.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LIGHT.faint)
    axes.tick_params(which="both", colors=LIGHT.ink, color=LIGHT.faint, labelsize=9)
    axes.grid(color=LIGHT.faint, linewidth=0.6)
    axes.set_axisbelow(True)


def _plain_numbers(axes: Any, sizes: Sequence[int]) -> None:
    """Ticks at the sizes on the x axis and at 1, 2, 5, 10, ... ms on the y axis, labelled with plain numbers."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    for axis, locator in ((axes.xaxis, FixedLocator(sizes)), (axes.yaxis, LogLocator(10, (1.0, 2.0, 5.0)))):
        axis.set_major_locator(locator)
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
