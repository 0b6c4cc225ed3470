"""Pictures of a run: its loss curve, and captions beside the pictures they are of."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xpcap.files import atomic

INK, TRAIN, VAL = "#333333", "#8aa4c8", "#c0504d"


def _save(figure: Any, path: Path) -> None:
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight", pad_inches=0.12, metadata={"Software": None})


def draw_loss(path: Path, history: Sequence[dict[str, Any]]) -> None:
    """Write the loss of each epoch, in training (with dropout) and on the val split, as a PNG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    epochs = [record["epoch"] for record in history]
    axes.plot(epochs, [record["train_loss"] for record in history], color=TRAIN, marker="o", markersize=3, label="train (with dropout)")
    if all("val_loss" in record for record in history):
        axes.plot(epochs, [record["val_loss"] for record in history], color=VAL, marker="o", markersize=3, label="val")
    axes.set(xlabel="epoch", ylabel="loss per caption")
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    _save(figure, path)


def draw_captions(path: Path, pictures: Sequence[np.ndarray], captions: Sequence[str], references: Sequence[str], columns: int = 3) -> None:
    """Write pictures with the model's caption (dark) and one human's (grey) under each, as a PNG."""
    from textwrap import fill

    from matplotlib.figure import Figure

    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(2.9 * columns, 2.75 * rows), layout="constrained")
    for i, (picture, caption, reference) in enumerate(zip(pictures, captions, references, strict=True)):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.imshow(picture, interpolation="nearest")
        axes.set_axis_off()
        axes.text(0.5, -0.05, fill(caption, 34), transform=axes.transAxes, ha="center", va="top", fontsize=9, color=INK, parse_math=False)
        axes.text(0.5, -0.28, fill(reference, 40), transform=axes.transAxes, ha="center", va="top", fontsize=7.5, color="#888888", parse_math=False)
    _save(figure, path)
