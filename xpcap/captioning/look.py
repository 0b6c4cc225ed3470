"""`look`: traces a run's cell as it captions a picture, and draws words, gates and gradients."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xpcap.captioning.captions import encode_picture
from xpcap.data import tokenize
from xpcap.data.vocabulary import detokenize
from xpcap.distributed.work import notice
from xpcap.encoders import scheme_of
from xpcap.errors import OptionError
from xpcap.models import CaptioningRNN, Trace
from xpcap.report.curves import gradient_chart
from xpcap.report.markup import embed, image_uri, render
from xpcap.report.text import NOTHING
from xpcap.runs.run import Run

# Colours from the lowest value to the highest; a dark page inverts their lightness
SHARES = ((255, 255, 255), (122, 171, 221), (16, 56, 118))  # of values from 0 to 1
SIGNED = ((128, 48, 0), (232, 150, 80), (255, 255, 255), (122, 171, 221), (16, 56, 118))
STEP_WIDTH = 20  # pixels
MIN_HEIGHT = 256  # pixels of all units
TOP_WORDS = 5  # shown at each time step


class TracedCaption(NamedTuple):
    """A picture's caption, traced in a run's model and in the untrained model."""

    run: Run
    name: str  # of the picture
    picture: np.ndarray  # (h, w, 3) uint8
    ids: Sequence[int]  # START, the words, and END
    is_given: bool  # the words were given instead of decoded
    trace: Trace  # of this caption
    untrained: Trace

    @property
    def words(self) -> list[str]:
        """The words as the model reads them; unknown words are UNK."""
        return [self.run.vocabulary.idx_to_word[i] for i in self.ids[1:-1]]

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Name and value of each setting."""
        config = self.run.model.config
        return [
            ("run", self.run.name),
            ("cell", config.cell),
            ("hidden", str(config.hidden)),
            ("wordvec", str(config.wordvec)),
            ("vocabulary", f"{config.vocabulary:,} words"),
            ("inject", config.inject),
            ("caption", "given" if self.is_given else self.run.decoder().title),
            ("untrained", f"same sizes, seed {self.run.config.recipe.seed}"),
        ]


def look_inside(run: Run, picture: str | Path, *, caption: str | None = None) -> TracedCaption:
    """Trace a picture's caption in a run's model, and in the untrained model.

    A notice names words that the run does not know.

    picture : path, or URL as text
    caption : the words to trace; None: those that the run decodes by default
    DataError : the picture cannot be read, or the encoder of the run's features is unknown.
        OptionError : the caption has no words, or more than the run's limit.
    """
    vocabulary = run.vocabulary
    max_words = run.config.max_words
    words = list[str]()
    if caption is not None:
        words = tokenize(caption)
        if not 1 <= len(words) <= max_words:
            raise OptionError(
                f"the caption has {len(words)} words, expected 1 to {max_words}, the limit of"
                f" {run.path}"
            )
        if unknown := [word for word in words if word not in vocabulary.word_to_idx]:
            notice(
                f"{run.path} does not know {', '.join(unknown)}, and reads"
                f" {vocabulary.idx_to_word[vocabulary.unk]} instead"
            )
    source = picture if scheme_of(picture) else Path(picture)
    encoder = run.encoder()
    pixels, feature = encode_picture(source, encoder)
    features = run.scaling(feature[None])
    if caption is None:
        (decoded,) = run.decoder()([str(picture)], features)
        words = list(decoded.words)
    ids = vocabulary.encode_words([words], max(1, len(words)))[:, : len(words) + 2]
    model = run.model
    untrained = CaptioningRNN.from_config(
        model.config, model.word_to_idx, dtype=model.dtype, seed=run.config.recipe.seed
    )
    return TracedCaption(
        run,
        Path(str(picture)).name,
        pixels,
        ids[0].tolist(),
        caption is not None,
        model.trace(features, ids),
        untrained.trace(features, ids),
    )


class GatedState(NamedTuple):
    """A state that only a gate multiplies from step to step, as the forget gate does the cell's."""

    gate: str  # names, as the page writes them
    state: str
    values: np.ndarray  # of the gate (T, H)


def look_page(inside: TracedCaption) -> bytes:
    """The self-contained HTML page of a traced caption; equal arguments give equal bytes.

    It needs no network and no script, follows the reader's light or dark theme, and escapes text
    as `render_page` does.

    ValueError : the picture is not uint8 of shape (h, w, 3).
    """
    trace = inside.trace
    gated = _gated(inside)
    shares = {"this run": gradient_sizes(trace), "untrained": gradient_sizes(inside.untrained)}
    caption = detokenize(inside.words) or NOTHING
    config = inside.run.model.config
    H = config.hidden
    return render(
        "look.html",
        title=f"Inside the cell of {inside.run.name}",
        summary=f"“{caption}”: {'a given' if inside.is_given else 'the'} caption of {inside.name}, word"
        f" by word in the {H} units of this {config.cell.upper()}.",
        name=inside.name,
        image=embed(inside.name, inside.picture),
        steps=_steps(inside),
        heatmaps=_heatmaps(inside, gated),
        units=H,
        gated=gated,
        keeping=int((gated.values[1:].prod(axis=0) > 0.5).sum()) if gated else 0,
        saturation=_saturation(trace),
        gradients=gradient_chart(shares, "; ".join(map(_course, shares, shares.values()))),
        back=_rows(len(shares["this run"])),
        curves=[(name, sizes, _factor(sizes)) for name, sizes in shares.items()],
        facts=inside.facts,
        percent=percent,
        ramps={"shares": _css(SHARES), "signed": _css(SIGNED)},
    )


def percent(share: float) -> str:
    """A share as text, such as 12 %, 0.4 % or under 0.1 %."""
    if 0 < share < 0.0005:
        return "under 0.1\u00a0%"
    return f"{100 * share:.{1 if share < 0.0995 else 0}f}\u00a0%"


def _steps(inside: TracedCaption) -> list[dict[str, object]]:
    """For each time step the word read, the next word, and the likeliest words."""
    names = inside.run.vocabulary.idx_to_word
    steps = []
    for read, target, log_p in zip(
        inside.ids[:-1], inside.ids[1:], inside.trace.log_probabilities[0], strict=True
    ):
        order = np.argsort(-log_p, kind="stable").tolist()
        p = np.minimum(np.exp(log_p.astype(np.float64)), 1)
        top = order[:TOP_WORDS]
        position = order.index(target) + 1
        rows = [(names[i], p[i], i == target, "") for i in top]
        if target not in top:
            rows.append((names[target], p[target], True, f", number {position:,}"))
        steps.append({"read": names[read], "next": names[target], "p": p[target], "rows": rows})
    return steps


# ---- Units


def _gated(inside: TracedCaption) -> GatedState | None:
    """The gated state; None: the cell has none, or the trace lacks its gate."""
    cell = inside.run.model.config.recurrent
    if cell.memory_gate is None or cell.memory_gate[0] not in inside.trace.gates:
        return None
    gate, state = cell.memory_gate
    titles = {name: meaning[0].lower() for name, meaning in cell.meanings.items()}
    return GatedState(titles.get(gate, gate), titles.get(state, state), inside.trace.gates[gate][0])


def _heatmaps(inside: TracedCaption, gated: GatedState | None) -> list[dict[str, object]]:
    """Heatmaps of the gates and states, the output last; units sorted by their mean gate or state."""
    trace = inside.trace
    meanings = inside.run.model.config.recurrent.meanings
    words = [inside.run.vocabulary.idx_to_word[i] for i in inside.ids]
    states = [(name, state[0, 1:]) for name, state in trace.states.items()]
    sorted_by = states[0][1] if gated is None else gated.values
    order = np.argsort(-sorted_by.mean(axis=0), kind="stable")
    gates = [(name, gate[0]) for name, gate in trace.gates.items()]
    return [
        _heatmap(name, *meanings.get(name, ("", "")), values[:, order], words)
        for name, values in (*gates, *reversed(states))
    ]


def _heatmap(
    name: str, title: str, about: str, values: np.ndarray, words: Sequence[str]
) -> dict[str, object]:
    low, high = _range(values)
    ends = [f"{end:.3g}".replace("-", "−") for end in (low, high)]
    if np.abs(values).max() > high:
        ends = [f"≤ {ends[0]}", f"≥ {ends[1]}"]
    means = values.mean(axis=1)
    extremes = {"lowest": int(means.argmin()), "highest": int(means.argmax())}
    lowest, highest = (f"{label} {means[t]:.2f} at {words[t]}" for label, t in extremes.items())
    return {
        "name": name,
        "title": title,
        "about": about,
        "uri": _draw(values, low, high),
        "alt": f"{name} of each unit at each word; its mean over units is {lowest}, {highest}",
        "ends": ends,
        "signed": low < 0,
    }


def _range(values: np.ndarray) -> tuple[float, float]:
    """The values of the first and the last colour; those of a few units may lie outside."""
    lowest = float(values.min())
    highest = float(values.max())
    if lowest >= 0 and highest <= 1:
        return 0.0, 1.0
    if max(-lowest, highest) <= 1:
        return -1.0, 1.0
    end = float(f"{np.percentile(np.abs(values), 99):.1g}") or 1.0
    return -end, end


def _css(ramp: Sequence[tuple[int, int, int]]) -> str:
    return ", ".join(f"rgb{colour}" for colour in ramp)


def _draw(values: np.ndarray, low: float, high: float) -> str:
    """A PNG as a data URI, with a column for each time step."""
    from PIL import Image

    ramp = np.array(SIGNED if low < 0 else SHARES, float)
    positions = np.linspace(0, len(ramp) - 1, 256)
    palette = [np.interp(positions, np.arange(len(ramp)), channel) for channel in ramp.T]
    shares = (np.clip(values, low, high) - low) / (high - low)
    levels = np.round(255 * shares).astype(np.uint8).T  # (H, T)
    levels = levels.repeat(-(-MIN_HEIGHT // len(levels)), axis=0).repeat(STEP_WIDTH, axis=1)
    image = Image.fromarray(levels)
    image.putpalette(np.stack(palette, axis=1).round().astype(np.uint8).tobytes())
    return image_uri("png", image, optimize=True)


def _saturation(trace: Trace) -> list[tuple[str, list[float]]]:
    """For each end of each activation, its name and the share of saturated units at each time step."""
    return [
        (f"{name} {side} {end:g}".replace("-", "−"), shares[0].tolist())
        for name, (below, above, low, high) in trace.saturation.items()
        for side, end, shares in (("below", low, below), ("above", high, above))
    ]


# ---- Gradients through time


def gradient_sizes(trace: Trace) -> list[float]:
    """Norm of a word's loss gradient 0, 1, 2, ... time steps back, relative to 0 steps back.

    The gradient is with respect to the whole state. Each value is the geometric mean over the words
    of the trace's caption that have so many steps before them.
    """
    squares = sum(norms[0].astype(np.float64) ** 2 for norms in trace.gradient_norms.values())
    norms = np.sqrt(np.asarray(squares))  # (T, T+1), for each loss and state
    T = len(norms)
    shares = []
    for back in range(T + 1):
        steps = np.arange(max(back - 1, 0), T)
        ratios = norms[steps, steps + 1 - back] / norms[steps, steps + 1]
        shares.append(float(np.exp(np.log(np.maximum(ratios, np.finfo(np.float64).tiny)).mean())))
    return shares


def _factor(shares: Sequence[float]) -> float | None:
    """Mean factor of the gradient per step back, after the first; None: there are too few steps."""
    if len(shares) < 3 or not shares[1] > 0:
        return None
    return float((shares[-1] / shares[1]) ** (1 / (len(shares) - 2)))


def _rows(length: int) -> list[int]:
    """The steps back that the table shows: 1, 5, 10, ... and the last."""
    last = length - 1
    return [k for k in (1, 5, 10, 20, 50) if k < last] + [last]


def _course(name: str, shares: Sequence[float]) -> str:
    """A curve described in words."""
    last = len(shares) - 1
    first = f"{percent(shares[1])} one step back, " if last > 1 else ""
    return f"{name}: {first}{percent(shares[-1])} {last} back"
