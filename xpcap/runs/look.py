"""The inside of a run's cell as it captions a picture, and its page: words, gates, gradients."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xpcap.data import tokenize
from xpcap.data.vocabulary import detokenize
from xpcap.encoders import scheme_of
from xpcap.errors import OptionError
from xpcap.models import CaptioningRNN, Trace
from xpcap.report.curves import gradient_chart
from xpcap.report.markup import embed, image_uri, render
from xpcap.report.text import NOTHING
from xpcap.runs.captions import encode_picture
from xpcap.runs.run import Run
from xpcap.work import notice

# Colours of values from the lowest to the highest; a dark page inverts their lightness
SHARES = ((255, 255, 255), (122, 171, 221), (16, 56, 118))  # of values from 0 to 1
SIGNED = ((128, 48, 0), (232, 150, 80), (255, 255, 255), (122, 171, 221), (16, 56, 118))
STEP_WIDTH, MIN_HEIGHT = 20, 256  # pixels of a step, and of all units
TOP_WORDS = 5  # shown of a step


class Inside(NamedTuple):
    """A caption of a picture, and its traces in a run's model and in that before training."""

    run: Run
    name: str  # of the picture
    picture: np.ndarray  # (h, w, 3) uint8
    ids: Sequence[int]  # START, the words, and END
    given: bool  # the words were given, and not decoded
    trace: Trace  # of this caption alone
    untrained: Trace

    @property
    def words(self) -> list[str]:
        """The words as the model reads them: unknown ones are UNK."""
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
            ("caption", "given" if self.given else self.run.decoder().title),
            ("untrained", f"of the same sizes, seed {self.run.config.recipe.seed}"),
        ]


def look_inside(run: Run, picture: str | Path, *, caption: str | None = None) -> Inside:
    """Trace a picture's caption in a run's model, and in the model before its training.

    A notice names words that the run does not know.

    picture : path, or URL as text
    caption : the words to trace; None: those of the run's default decoding
    DataError : the picture cannot be read, or the run's features come from no encoder of this
        package. OptionError : a caption without words, or longer than the run's.
    """
    vocabulary, max_words, words = run.vocabulary, run.config.max_words, list[str]()
    if caption is not None:
        words = tokenize(caption)
        if not 1 <= len(words) <= max_words:
            expected = f"1 to {max_words}, the most that {run.path} was trained on"
            raise OptionError("look_inside", "the caption", f"has {len(words)} words", expected)
        if unknown := [word for word in words if word not in vocabulary.word_to_idx]:
            notice(
                f"{run.path} does not know {', '.join(unknown)}, and reads"
                f" {vocabulary.idx_to_word[vocabulary.unk]} instead"
            )
    source = picture if scheme_of(picture) else Path(picture)
    encoder = run.encoder("look_inside")
    pixels, feature = encode_picture("look_inside", source, encoder)
    features = run.scaling(feature[None])
    if caption is None:
        (decoded,) = run.decoder()([str(picture)], features)
        words = list(decoded.words)
    ids = vocabulary.encode_words([words], max(1, len(words)))[:, : len(words) + 2]
    model, seed = run.model, run.config.recipe.seed
    untrained = CaptioningRNN.from_config(
        model.config, model.word_to_idx, dtype=model.dtype, seed=seed
    )
    return Inside(
        run,
        Path(str(picture)).name,
        pixels,
        ids[0].tolist(),
        caption is not None,
        model.trace(features, ids),
        untrained.trace(features, ids),
    )


class GatedState(NamedTuple):
    """A state that a gate hands on to the next step, multiplied by it alone; names as in texts."""

    gate: str
    state: str
    values: np.ndarray  # of the gate (T, H)


def look_page(inside: Inside) -> bytes:
    """A self-contained HTML page; equal arguments give equal bytes.

    It needs no network and no script, follows the reader's light or dark theme, and escapes text
    as `render_page` does.

    ValueError : a picture that is not uint8 of shape (h, w, 3).
    """
    trace, gated = inside.trace, _gated(inside)
    shares = {"this run": gradient_sizes(trace), "untrained": gradient_sizes(inside.untrained)}
    caption = detokenize(inside.words) or NOTHING
    config = inside.run.model.config
    H, cell = config.hidden, config.cell.upper()
    return render(
        "look.html",
        title=f"Inside the cell of {inside.run.name}",
        summary=f"“{caption}”: {'a given' if inside.given else 'the'} caption of {inside.name}, word by"
        f" word in the {H} units of this {cell}.",
        name=inside.name,
        image=embed("look_page", inside.name, inside.picture),
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
    """A share as text: 12 %, 0.4 %, under 0.1 %."""
    if 0 < share < 0.0005:
        return "under 0.1\u00a0%"
    return f"{100 * share:.{1 if share < 0.0995 else 0}f}\u00a0%"


def _steps(inside: Inside) -> list[dict[str, object]]:
    """Each step: the word read, the one that comes, and the likeliest next ones with their odds."""
    names, steps = inside.run.vocabulary.idx_to_word, []
    for read, target, log_p in zip(
        inside.ids[:-1], inside.ids[1:], inside.trace.log_probabilities[0], strict=True
    ):
        order = np.argsort(-log_p, kind="stable").tolist()
        p = np.minimum(np.exp(log_p.astype(np.float64)), 1)
        top, rank = order[:TOP_WORDS], order.index(target)
        rows = [(names[i], p[i], i == target, "") for i in top]
        if target not in top:
            rows.append((names[target], p[target], True, f", number {rank + 1:,}"))
        steps.append({"read": names[read], "next": names[target], "p": p[target], "rows": rows})
    return steps


# ---- Units


def _gated(inside: Inside) -> GatedState | None:
    """The gated state; None: every state passes a product, or the trace has no such gate."""
    cell = inside.run.model.config.recurrent
    if cell.memory_gate is None or cell.memory_gate[0] not in inside.trace.gates:
        return None
    gate, state = cell.memory_gate
    titles = {name: meaning[0].lower() for name, meaning in cell.meanings.items()}
    return GatedState(titles.get(gate, gate), titles.get(state, state), inside.trace.gates[gate][0])


def _heatmaps(inside: Inside, gated: GatedState | None) -> list[dict[str, object]]:
    """Each gate, and each state after the steps, the output last; units by what they keep."""
    trace, meanings = inside.trace, inside.run.model.config.recurrent.meanings
    words = [inside.run.vocabulary.idx_to_word[i] for i in inside.ids]
    states = [(name, state[0, 1:]) for name, state in trace.states.items()]
    kept = states[0][1] if gated is None else gated.values
    order = np.argsort(-kept.mean(axis=0), kind="stable")
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
    """The values of the first and the last colour; a few units may lie beyond them."""
    lowest, highest = float(values.min()), float(values.max())
    if lowest >= 0 and highest <= 1:
        return 0.0, 1.0
    if max(-lowest, highest) <= 1:
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
    levels = levels.repeat(-(-MIN_HEIGHT // len(levels)), axis=0).repeat(STEP_WIDTH, axis=1)
    image = Image.fromarray(levels)
    image.putpalette(np.stack(palette, axis=1).round().astype(np.uint8).tobytes())
    return image_uri("png", image, optimize=True)


def _saturation(trace: Trace) -> list[tuple[str, list[float]]]:
    """Name and share of units at each step, beyond either end of each activation."""
    return [
        (f"{name} {side} {end:g}".replace("-", "−"), shares[0].tolist())
        for name, (below, above, low, high) in trace.saturation.items()
        for side, end, shares in (("below", low, below), ("above", high, above))
    ]


# ---- Gradients through time


def gradient_sizes(trace: Trace) -> list[float]:
    """Sizes of a loss's gradient 0, 1, 2, ... steps back, as shares of that 0 steps back.

    With respect to the whole state, all its arrays together; geometric means over those losses of
    the trace's one caption that reach so far back.
    """
    squares = sum(norms[0].astype(np.float64) ** 2 for norms in trace.gradient_norms.values())
    norms = np.sqrt(np.asarray(squares))  # (T, T+1), of a loss and a state
    T = len(norms)
    shares = []
    for back in range(T + 1):
        steps = np.arange(max(back - 1, 0), T)
        ratios = norms[steps, steps + 1 - back] / norms[steps, steps + 1]
        shares.append(float(np.exp(np.log(np.maximum(ratios, np.finfo(np.float64).tiny)).mean())))
    return shares


def _factor(shares: Sequence[float]) -> float | None:
    """Mean factor of a gradient for each step back, from the first one on; None: too few steps."""
    if len(shares) < 3 or not shares[1] > 0:
        return None
    return float((shares[-1] / shares[1]) ** (1 / (len(shares) - 2)))


def _rows(length: int) -> list[int]:
    """The steps back that a table shows: 1, 5, 10, ... and the last."""
    last = length - 1
    return [k for k in (1, 5, 10, 20, 50) if k < last] + [last]


def _course(name: str, shares: Sequence[float]) -> str:
    """A curve in words."""
    last = len(shares) - 1
    first = f"{percent(shares[1])} one step back, " if last > 1 else ""
    return f"{name}: {first}{percent(shares[-1])} {last} back"
