"""HTML page of the inside of a recurrent cell over a caption: words, gates, states, gradients."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xpcap.errors import InvalidValueError
from xpcap.files import atomic
from xpcap.report.curves import PIXELS, gradient_curve
from xpcap.report.markup import data_uri, embed, image_uri, render
from xpcap.report.page import probability

# Colours of values from the lowest to the highest; a dark page inverts their lightness
SHARES = ((255, 255, 255), (122, 171, 221), (16, 56, 118))  # of values from 0 to 1
SIGNED = ((128, 48, 0), (232, 150, 80), (255, 255, 255), (122, 171, 221), (16, 56, 118))
WIDE, TALL = 20, 256  # pixels of a step; least pixels of all units


class Step(NamedTuple):
    """A step of the caption: the word that it reads, and those that it predicts."""

    read: str
    target: str
    probability: float  # of the target
    rank: int  # of the target, from 1
    likeliest: Sequence[tuple[str, float]]  # words with their probabilities, falling


class Heatmap(NamedTuple):
    """Values of all units at each step."""

    name: str  # as in the equations: "f"
    title: str
    about: str
    values: np.ndarray  # (T, H), units in the order of the page


class Share(NamedTuple):
    """Share of units at each step."""

    name: str
    values: Sequence[float]  # (T,), each from 0 to 1


class Curve(NamedTuple):
    """Size of a gradient 0, 1, 2, ... steps back in time, as a share of that 0 steps back."""

    name: str
    shares: Sequence[float]
    trained: bool = True


def write_look_page(
    path: str | Path,
    title: str,
    *,
    summary: str,
    picture: tuple[str, np.ndarray],
    steps: Sequence[Step],
    heatmaps: Sequence[Heatmap],
    order: str,
    saturation: Sequence[Share],
    saturation_note: str = "",
    curves: Sequence[Curve],
    findings: Sequence[str],
    facts: Sequence[tuple[str, str]],
) -> None:
    """Write a self-contained HTML page; equal arguments give equal bytes.

    It needs no network and no script, follows the reader's light or dark theme, and escapes text
    as `write_page` does.

    Parameters
    ----------
    picture : its name, and (h, w, 3) uint8
    steps : T steps of one caption
    heatmaps : of T steps each
    order : a sentence on the order of units
    saturation : of T steps each
    saturation_note : a sentence on saturation that is no fault
    curves : of equal lengths, the run's own first
    findings : sentences on the curves
    facts : (name, value) of each setting

    Raises
    ------
    ValueError : no step; a probability outside 0 to 1; a picture that is not uint8 of shape (h, w,
        3); values of another number of steps. OSError : the file cannot be written.
    """
    lengths = [*(len(one.values) for one in heatmaps), *(len(one.values) for one in saturation)]
    if not steps or set(lengths) - {len(steps)}:
        raise InvalidValueError(
            "write_look_page",
            "",
            f"{len(steps)} steps and values of {lengths} steps",
            expected="the same, at least one",
        )
    light, dark = (data_uri("png", gradient_curve(curves, shade)) for shade in (False, True))
    page = render(
        "look.html",
        title=title,
        summary=summary,
        name=picture[0],
        image=embed("write_look_page", *picture),
        steps=[_step(step) for step in steps],
        heatmaps=[_heatmap(one, steps) for one in heatmaps],
        units=heatmaps[0].values.shape[1] if heatmaps else 0,
        order=order,
        saturation=saturation,
        curve={"light": light, "dark": dark, "alt": "; ".join(map(_course, curves))},
        pixels=PIXELS,
        back=_some(len(curves[0].shares)),
        curves=[(one.name, one.shares, factor(one.shares)) for one in curves],
        saturation_note=saturation_note,
        findings=findings,
        facts=facts,
        percent=percent,
        ramps={"shares": _css(SHARES), "signed": _css(SIGNED)},
    )
    with atomic(Path(path)) as file:
        file.write(page)


def factor(shares: Sequence[float]) -> float | None:
    """Mean factor of a gradient for each step back, from the first one on; None: too few steps."""
    if len(shares) < 3 or not shares[1] > 0:
        return None
    return float((shares[-1] / shares[1]) ** (1 / (len(shares) - 2)))


def percent(share: float) -> str:
    """A share as text: 12 %, 0.4 %, under 0.1 %."""
    if 0 < share < 0.0005:
        return "under 0.1\u00a0%"
    return f"{100 * share:.{1 if share < 0.0995 else 0}f}\u00a0%"


def _step(step: Step) -> dict[str, object]:
    """A step as the template takes it: rows of word, probability, target or not, and note."""
    rows = [(word, p, word == step.target, "") for word, p in step.likeliest]
    if step.rank > len(rows):
        rows.append((step.target, step.probability, True, f", number {step.rank:,}"))
    return {
        "step": step,
        "rows": [(word, probability("write_look_page", word, p), *rest) for word, p, *rest in rows],
    }


def _some(length: int) -> list[int]:
    """The steps back that a table shows: 1, 5, 10, ... and the last."""
    last = length - 1
    return [k for k in (1, 5, 10, 20, 50) if k < last] + [last]


def _course(curve: Curve) -> str:
    """A curve in words."""
    last = len(curve.shares) - 1
    first = f"{percent(curve.shares[1])} one step back, " if last > 1 else ""
    return f"{curve.name}: {first}{percent(curve.shares[-1])} {last} back"


def _heatmap(heatmap: Heatmap, steps: Sequence[Step]) -> dict[str, object]:
    low, high = _range(heatmap.values)
    ends = [f"{end:.3g}".replace("-", "−") for end in (low, high)]
    if np.abs(heatmap.values).max() > high:
        ends = [f"≤ {ends[0]}", f"≥ {ends[1]}"]
    means = heatmap.values.mean(axis=1)
    places = {"lowest": int(means.argmin()), "highest": int(means.argmax())}
    least, most = (f"{word} {means[t]:.2f} at {steps[t].read}" for word, t in places.items())
    return {
        "heatmap": heatmap,
        "uri": _draw(heatmap.values, low, high),
        "alt": f"{heatmap.name} of each unit at each word; its mean over units is {least}, {most}",
        "ends": ends,
        "signed": low < 0,
    }


def _range(values: np.ndarray) -> tuple[float, float]:
    """The values of the first and the last colour; a few units may lie beyond them."""
    least, most = float(values.min()), float(values.max())
    if least >= 0 and most <= 1:
        return 0.0, 1.0
    if max(-least, most) <= 1:
        return -1.0, 1.0
    end = float(f"{np.percentile(np.abs(values), 99):.1g}") or 1.0
    return -end, end


def _css(ramp: Sequence[tuple[int, int, int]]) -> str:
    return ", ".join(f"rgb{colour}" for colour in ramp)


def _draw(values: np.ndarray, low: float, high: float) -> str:
    """A PNG with a column of the values of each step."""
    from PIL import Image

    ramp = np.array(SIGNED if low < 0 else SHARES, float)
    at = np.linspace(0, len(ramp) - 1, 256)
    palette = [np.interp(at, np.arange(len(ramp)), channel) for channel in ramp.T]
    shares = (np.clip(values, low, high) - low) / (high - low)
    levels = np.round(255 * shares).astype(np.uint8).T  # (H, T)
    levels = levels.repeat(-(-TALL // len(levels)), axis=0).repeat(WIDE, axis=1)
    image = Image.fromarray(levels)
    image.putpalette(np.stack(palette, axis=1).round().astype(np.uint8).tobytes())
    return image_uri("png", image, optimize=True)
