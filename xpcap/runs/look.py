"""The inside of a run's cell as it captions one picture, and the page about it."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xpcap.data.vocabulary import detokenize
from xpcap.encoders import is_url
from xpcap.errors import DataError, OptionError
from xpcap.files import new_path
from xpcap.layers import CELLS
from xpcap.models import CaptioningRNN, Trace
from xpcap.report import Curve, Heatmap, Share, Step, write_look_page
from xpcap.report.captions import NOTHING
from xpcap.report.look import factor, percent
from xpcap.runs.captions import caption_features, difference
from xpcap.runs.folder import Run, cell_title
from xpcap.runs.pictures import encode_picture, encoder_of
from xpcap.runs.rerank import decoding_title, default_policy
from xpcap.work import remark

MOST_STEM = 80  # characters of a picture's name in that of its page
LIKELIEST = 5  # words shown of a step
CLEAR = 0.02  # least difference of two factors a step
FAR = 2  # least ratio of two sizes
COMPARED = "lstm", "rnn"  # cells whose untrained gradients stand beside the run's own


class Way(NamedTuple):
    """A state that reaches the next step multiplied by a gate alone."""

    gate: str
    title: str  # of the gate
    state: str
    equation: str


def way_of(cell: str) -> Way | None:
    """The way of a cell, "LSTM", or None if every state passes a product."""
    kind = next(one for name, one in CELLS.items() if name.upper() == cell)
    if kind.keeps is None:
        return None
    gate, state, equation = kind.keeps
    return Way(gate, kind.meanings[gate][0].lower(), kind.meanings[state][0].lower(), equation)


class Traced(NamedTuple):
    """The trace of a caption in a model."""

    title: str
    cell: str  # "LSTM"
    run: str  # name of the run; empty: the model is untrained
    trace: Trace


class Inside(NamedTuple):
    """A picture, its caption, and the traces of that."""

    name: str  # of the picture: path or URL
    picture: np.ndarray  # (h, w, 3) uint8
    words: list[str]  # as the model reads them: unknown ones are UNK
    given: bool  # the caption was given, and not decoded
    traced: list[Traced]  # the run's own; then of the other run, if any, and of untrained models


def look_inside(
    run: Run[CaptioningRNN],
    picture: str | Path,
    *,
    caption: str | None = None,
    beside: Run[CaptioningRNN] | None = None,
) -> Inside:
    """Trace a picture's caption in a run's model, in untrained ones of its sizes, and in another's.

    A remark names words that the run does not know.

    Parameters
    ----------
    picture : path, or URL as text
    caption : the words to trace; None: those of the run's default decoding
    beside : another run on the same data

    Raises
    ------
    DataError : the picture cannot be read, the run's features come from no encoder of this package,
        or the runs differ in vocabulary or features. OptionError : a caption without words, or
        longer than the run's.
    """
    vocabulary, most = run.vocabulary, run.config["max_words"]
    if beside is not None and (what := difference(run, beside)):
        raise DataError(
            "look_inside",
            f"{run.path} and {beside.path}",
            what,
            expected="the same of runs that are compared",
            cause="were they trained on the same data?",
        )
    words = []
    if caption is not None:
        words = vocabulary.tokenize(caption)
        if not 1 <= len(words) <= most:
            raise OptionError(
                "look_inside",
                "the caption",
                f"has {len(words)} words",
                expected=f"1 to {most}, the most that {run.path} was trained on",
            )
        if unknown := [word for word in words if word not in vocabulary.word_to_idx]:
            remark(
                f"{run.path} does not know {', '.join(unknown)}, and reads"
                f" {vocabulary.idx_to_word[vocabulary.unk]} instead"
            )
    source = picture if isinstance(picture, str) and is_url(picture) else Path(picture)
    encoder = encoder_of(run, "look_inside")
    pixels, feature = encode_picture("look_inside", source, encoder)
    features = run.preprocessing(feature[None])
    if caption is None:
        (one,) = caption_features(run, [str(picture)], features, np.arange(1))
        words = list(one.words)
    ids = vocabulary.encode_words([words], max(1, len(words)))
    ids = ids[:, : len(words) + 2]
    models = [("this run", run.name, run.model)]
    if beside is not None:
        models.append(("the other run", beside.name, beside.model))
    cells = dict.fromkeys((run.model.config.cell, *COMPARED))
    models += [("untrained", "", _untrained(run, cell)) for cell in cells]
    traced = [
        Traced(
            f"{title} ({(cell := model.config.cell.upper())})",
            cell,
            name,
            model.trace(features, ids),
        )
        for title, name, model in models
    ]
    read = [vocabulary.idx_to_word[i] for i in ids[0, 1:-1]]
    return Inside(str(picture), pixels, read, caption is not None, traced)


def _untrained(run: Run[CaptioningRNN], cell: str) -> CaptioningRNN:
    """A model of the run's sizes with the initial weights of its seed."""
    model = run.model
    config, words, seed = replace(model.config, cell=cell), model.word_to_idx, run.config["seed"]
    return CaptioningRNN.from_config(config, words, dtype=model.dtype, seed=seed)


def fresh_page(picture: str | Path) -> Path:
    """The first free one of look-PICTURE.html, look-PICTURE-2.html, ... in the working folder."""
    stem = re.sub(r"[^\w.-]+", "-", Path(picture).stem)[:MOST_STEM] or "picture"
    k = 1
    while (path := Path(f"look-{stem}.html" if k == 1 else f"look-{stem}-{k}.html")).exists():
        k += 1
    return path


def write_inside_page(path: str | Path, run: Run[CaptioningRNN], inside: Inside) -> None:
    """Write a page of what `look_inside` found. DataError : `path` exists, or cannot be written."""
    with new_path("look", path, ".html") as part:
        _write_page(part, run, inside)


def _write_page(path: Path, run: Run[CaptioningRNN], inside: Inside) -> None:
    config, name, trace = run.model.config, Path(inside.name).name, inside.traced[0].trace
    way = way_of(inside.traced[0].cell)
    order, note = _order(trace, way)
    curves = [Curve(one.title, gradient_sizes(one.trace), bool(one.run)) for one in inside.traced]
    facts = [
        ("run", run.name),
        ("cell", config.cell),
        ("hidden", str(config.hidden)),
        ("wordvec", str(config.wordvec)),
        ("vocabulary", f"{config.vocabulary:,} words"),
        ("inject", config.inject),
        ("caption", "given" if inside.given else decoding_title(run, default_policy(run))),
        ("untrained", f"of the same sizes, seed {run.config['seed']}"),
        *(("the other run", one.run) for one in inside.traced[1:] if one.run),
    ]
    write_look_page(
        path,
        f"Inside the cell of {run.name}",
        summary=(
            f"“{detokenize(inside.words) or NOTHING}”: {'a given' if inside.given else 'the'} caption of"
            f" {name}, word by word in the {config.hidden} units of this {config.cell.upper()}."
        ),
        picture=(name, inside.picture),
        steps=_word_steps(run, inside),
        heatmaps=[
            Heatmap(name, *config.recurrent.meanings.get(name, ("", "")), values[:, order])
            for name, values in _values(trace)
        ],
        order=note,
        saturation=[
            share
            for name, (below, above, low, high) in trace.saturation.items()
            for share in (
                Share(f"{name} below {low:g}".replace("-", "−"), below[0].tolist()),
                Share(f"{name} above {high:g}", above[0].tolist()),
            )
        ],
        saturation_note=(
            f"An open {way.title} is no fault: it hands the {way.state} on." if way else ""
        ),
        curves=curves,
        findings=findings(inside.traced),
        facts=facts,
    )


def _word_steps(run: Run[CaptioningRNN], inside: Inside) -> list[Step]:
    """The steps of the caption: START and its words are read, its words and END are predicted."""
    names, vocabulary = run.vocabulary.idx_to_word, run.vocabulary
    ids = [vocabulary.start, *(vocabulary.word_to_idx[word] for word in inside.words)]
    steps = []
    for read, target, log_p in zip(
        ids, [*ids[1:], vocabulary.end], inside.traced[0].trace.log_probabilities[0], strict=True
    ):
        order, p = np.argsort(-log_p, kind="stable"), np.exp(log_p.astype(np.float64))
        rank = 1 + int((order == target).argmax())
        likeliest = [(names[i], float(p[i])) for i in order[:LIKELIEST].tolist()]
        steps.append(Step(names[read], names[target], float(p[target]), rank, likeliest))
    return steps


def _values(trace: Trace) -> list[tuple[str, np.ndarray]]:
    """Name and values (T, H) of each gate, and of each state after the steps; h last."""
    states = list(trace.states.items())
    return [
        *((name, gate[0]) for name, gate in trace.gates.items()),
        *((name, state[0, 1:]) for name, state in reversed(states)),
    ]


def _order(trace: Trace, way: Way | None) -> tuple[np.ndarray, str]:
    """The order of units (H,) in heatmaps, and a sentence on it."""
    if way is not None and way.gate in trace.gates:
        mean = trace.gates[way.gate][0].mean(axis=0)
        note = (
            f"Units are sorted by their mean {way.title}: those at the top keep their {way.state}"
            " longest, those at the bottom overwrite it at each word. A row is the same unit"
            " everywhere."
        )
    else:
        output, *_ = trace.states.values()
        mean = output[0, 1:].mean(axis=0)
        note = "Units are sorted by their mean state over the caption, the highest at the top."
    return np.argsort(-mean, kind="stable"), note


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


def findings(traced: Sequence[Traced]) -> list[str]:
    """Sentences on the gradients of these traces, the run's own first: what they show."""
    own, *others = traced
    sizes = {one.title: gradient_sizes(one.trace) for one in traced}
    gated = [(one.cell, way) for one in traced if (way := way_of(one.cell))]
    cell, way = gated[0]
    found = [
        "One step back, the gradient of an RNN passes tanh and the matrix Wh, and whether it fades"
        f" depends on both. The {way.state} of {cell_title(cell.lower())} has a way around"
        f" them: in {way.equation} it is multiplied by {way.gate} alone, so a unit whose"
        f" {way.title} stays near 1 hands it on whole."
    ]
    gates = own.trace.gates.get(way.gate) if way_of(own.cell) else None
    if gates is not None and gates.shape[1] > 1:
        keeping = int((gates[0, 1:].prod(axis=0) > 0.5).sum())
        found.append(
            f"In this caption {keeping} of {gates.shape[2]} units keep more than half of their"
            f" {way.state} from the first word to the last: the product of their {way.title}s is"
            f" above 0.5. Over all units and words the gate is {gates.mean():.2f} on average."
        )
    before = next(one for one in others if one.cell == own.cell and not one.run)
    then, now = factor(sizes[before.title]), factor(sizes[own.title])
    if then is not None and now is not None:
        turn = "Training changes the gradient little here"
        if abs(now - then) > CLEAR:
            turn = (
                f"Training makes the gradient {'go further' if now > then else 'fade faster'} here"
            )
        found.append(
            f"{turn}: from the first step back on, each one multiplies it by {then:.2f}"
            f" before training, by {now:.2f} after."
        )
    # A cell with such a gate and an RNN, both trained if they are at hand
    ends, steps = {title: one[-1] for title, one in sizes.items()}, len(sizes[own.title]) - 1
    back = f"{steps} step{'s' if steps > 1 else ''} back"
    trained = {one.cell: ends[one.title] for one in traced if one.run}
    if "RNN" in trained and cell in trained:
        with_gate, rnn = trained[cell], trained["RNN"]
        why = f"This is why the {cell}" if with_gate > FAR * rnn else "No fading RNN shows here"
        found.append(
            f"{why}: {back} the gradient has {percent(with_gate)} of its size in the trained"
            f" {cell}, {percent(rnn)} in the trained RNN."
        )
    elif way_of(own.cell):
        with_gate, rnn = ends[own.title], ends["untrained (RNN)"]
        found.append(
            f"{back} the gradient has {percent(with_gate)} of its size in this {own.cell},"
            f" {percent(rnn)} in an untrained RNN, whose weights are drawn so that a product with Wh"
            " keeps its size. The fair comparison is a trained RNN."
        )
    return found
