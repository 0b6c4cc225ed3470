"""Launches of every kernel at ragged sizes, with the float64 equations that the results are held
to.

Arrays stand between guard bands: NaN, so that reading beyond an end shows in the results, and to be
found as they were afterwards.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import cpu_build
from cpu_build import KERNELS, REALS, THREADS
from xpcap.ops import NO_TARGET

# elements before and behind each array: as far as the threads of a block reach that have no guard
BAND = 256


class Case(NamedTuple):
    """One launch, and what its arrays must hold after it."""

    kernel: str
    grid: tuple[int, ...]
    block: int
    args: list[Any]
    wanted: dict[int, np.ndarray]  # number of an argument: its values in float64

    def run(self, real: str, seed: int = 0, as_card: bool = False) -> list[np.ndarray]:
        """Launch it; the arrays of `wanted`, in that order."""
        cpu_build.build(source(self.kernel), real, as_card).launch(
            self.kernel, self.grid, (self.block,), self.args, seed
        )
        return self.results(self.args)

    def results(self, args: list[Any]) -> list[np.ndarray]:
        return [args[number] for number in self.wanted]

    def error(self, results: list[np.ndarray]) -> float:
        """The worst difference from `wanted`, relative to the largest value of each array. NaN
        where a value is missing.
        """
        return max(
            _error(got, want)
            for got, want in zip(results, self.wanted.values(), strict=True)
            if want.size
        )


def _error(got: np.ndarray, want: np.ndarray) -> float:
    infinite = np.isinf(want)
    if not np.array_equal(infinite, np.isinf(got)) or (got[infinite] != want[infinite]).any():
        return np.nan
    far = np.abs(got[~infinite] - want[~infinite])
    return float(far.max(initial=0) / (np.abs(want[~infinite]).max(initial=0) or 1))


class Draw:
    """Guarded arrays of one real type, from one seed, and blocks of so many threads."""

    def __init__(self, real: str, seed: int = 1, threads: int = THREADS) -> None:
        self.rng = np.random.default_rng(seed)
        self.threads = threads
        self.dtype = np.dtype(REALS[real])

    def normal(self, *shape: int) -> np.ndarray:
        return guarded(self.rng.standard_normal(shape).astype(self.dtype))

    def poison(self, *shape: int) -> np.ndarray:
        return guarded(np.full(shape, np.nan, self.dtype))

    def reals(self, *numbers: float) -> list[np.floating]:
        """Scalars of the real type."""
        return [self.dtype.type(number) for number in numbers]

    def blocks(self, n: int) -> int:
        return -(-n // self.threads)

    def pairs(self, n: int, H: int, units: int) -> tuple[int, int]:
        """The grid of blocks of (row, unit) pairs, each with so many units."""
        return -(-H // units), -(-n // (self.threads // units))


def guarded(values: np.ndarray) -> np.ndarray:
    """A copy with BAND elements on either side of it."""
    whole = np.full(values.size + 2 * BAND, _guard(values.dtype), values.dtype)
    inside = whole[BAND : BAND + values.size].reshape(values.shape)
    inside[...] = values
    return inside


def bands_are_whole(array: np.ndarray) -> bool:
    """Whether nothing wrote beyond a guarded array's ends."""
    whole = array.base
    assert whole is not None
    assert whole.size == array.size + 2 * BAND
    bands = np.concatenate([whole[:BAND], whole[-BAND:]])
    return bands.tobytes() == np.full(2 * BAND, _guard(array.dtype), array.dtype).tobytes()


def _guard(dtype: np.dtype) -> float:
    return np.nan if dtype.kind == "f" else 113


def source(kernel: str) -> Any:
    """The file that a kernel is in."""
    return KERNELS / CASES[kernel].file


def wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64)


# ---- a function a kernel: how a launch is put together, and the equations


def ints(*numbers: int) -> tuple[np.int32, ...]:
    return tuple(map(np.int32, numbers))


def placed(array: np.ndarray, first: int, values: np.ndarray) -> np.ndarray:
    """What a whole buffer holds in float64 once a step has written `values` from row `first` on,
    and nothing else.
    """
    wanted = wide(array)
    wanted[first : first + len(values)] = values
    return wanted


FIRST, BEFORE, AFTER = 3, 2, 5  # where a step lies in its buffers; behind it are two rows more


def lstm_gates(draw: Draw, n: int, H: int, same: str = "") -> Case:
    a, r, tanh_c = (draw.normal(FIRST + n + 2, width) for width in (4 * H, 4 * H, H))
    stack, h = draw.normal(AFTER + n + 2, H), draw.normal(AFTER + n + 2, H)
    rows = slice(FIRST, FIRST + n)
    i, f, o = (1 / (1 + np.exp(-(wide(a) + wide(r))[rows, k * H : (k + 1) * H])) for k in range(3))
    g = np.tanh((wide(a) + wide(r))[rows, 3 * H :])
    before = (
        AFTER - n if same == "c is c_prev" else BEFORE
    )  # a step that reads what it writes would race
    cell = f * wide(stack)[max(before, 0) : max(before, 0) + n] + i * g
    c = stack if same == "c is c_prev" else draw.normal(AFTER + n + 2, H)
    gates = {"gates is a": a, "gates is r": r}.get(same, draw.normal(FIRST + n + 2, 4 * H))
    wanted = {
        3: placed(h, AFTER, o * np.tanh(cell)),
        4: placed(c, AFTER, cell),
        5: placed(gates, FIRST, np.hstack([i, f, o, g])),
        6: placed(tanh_c, FIRST, np.tanh(cell)),
    }
    args = [a, r, stack, h, c, gates, tanh_c, *ints(FIRST, max(before, 0), AFTER, n, H)]
    return Case("lstm_gates", (draw.blocks(n * H),), draw.threads, args, wanted)


def lstm_gates_backward(
    draw: Draw, n: int, H: int, same: str = "", more: int | None = None
) -> Case:
    """The first `more` sequences have a next step; what dh_next and dc hold for the others is NaN,
    and must not be read.
    """
    more = n // 2 if more is None else more
    dh, tanh_c, stack = (
        draw.normal(FIRST + n + 2, H),
        draw.normal(FIRST + n + 2, H),
        draw.normal(BEFORE + n + 2, H),
    )
    dh_next, dc = draw.normal(n + 2, H), draw.normal(n + 2, H)
    dh_next[more:], dc[more:] = np.nan, np.nan
    gates = draw.normal(FIRST + n + 2, 4 * H)
    rows = slice(FIRST, FIRST + n)
    i, f, o, g = np.split(wide(gates)[rows], 4, axis=1)
    dh_all, dc_next = wide(dh)[rows], np.zeros((n, H))
    dh_all[:more] += wide(dh_next)[:more]
    dc_next[:more] = wide(dc)[:more]
    dc_all = dc_next + dh_all * o * (1 - wide(tanh_c)[rows] ** 2)
    c_prev = wide(stack)[BEFORE : BEFORE + n]
    wanted_da = np.hstack(
        [
            dc_all * g * i * (1 - i),
            dc_all * c_prev * f * (1 - f),
            dh_all * wide(tanh_c)[rows] * o * (1 - o),
            dc_all * i * (1 - g * g),
        ]
    )
    da = gates if same == "da is gates" else draw.normal(FIRST + n + 2, 4 * H)
    dc_prev = {"dc_prev is dc": dc, "dc_prev is dh_next": dh_next}.get(same, draw.normal(n + 2, H))
    dc_prev[n:] = 0
    args = [dh, dh_next, dc, gates, tanh_c, stack, da, dc_prev, *ints(FIRST, BEFORE, n, more, H)]
    return Case(
        "lstm_gates_backward",
        (draw.blocks(n * H),),
        draw.threads,
        args,
        {6: placed(da, FIRST, wanted_da), 7: placed(dc_prev, 0, dc_all * f)},
    )


def lstm_step(draw: Draw, n: int, H: int, same: str = "") -> Case:
    """In stacks of their own, NaN stands in all rows that the step does not start from; in one
    stack, its own rows are behind those.
    """
    a, Wh, h_prev, c_prev = (
        draw.normal(FIRST + n + 2, 4 * H),
        draw.normal(H, 4 * H),
        draw.normal(BEFORE + n + 2, H),
        draw.normal(BEFORE + n + 2, H),
    )
    Wh /= np.sqrt(draw.dtype.type(H))
    a[:FIRST], a[FIRST + n :] = np.nan, np.nan
    rows, before, after = slice(FIRST, FIRST + n), slice(BEFORE, BEFORE + n), AFTER
    if same == "one stack":
        after, (h_prev, c_prev) = (
            BEFORE + n + 1,
            (draw.normal(BEFORE + 2 * n + 3, H) for _ in range(2)),
        )
        h, c = h_prev, c_prev
    else:
        h, c = draw.normal(AFTER + n + 2, H), draw.normal(AFTER + n + 2, H)
        for stack in (h_prev, c_prev):
            stack[:BEFORE], stack[BEFORE + n :] = np.nan, np.nan
    gates, tanh_c = draw.normal(FIRST + n + 2, 4 * H), draw.normal(FIRST + n + 2, H)
    pre = np.split(wide(a)[rows] + wide(h_prev)[before] @ wide(Wh), 4, axis=1)
    i, f, o = (1 / (1 + np.exp(-x)) for x in pre[:3])
    g = np.tanh(pre[3])
    cell = f * wide(c_prev)[before] + i * g
    wanted = {
        4: placed(h, after, o * np.tanh(cell)),
        5: placed(c, after, cell),
        6: placed(gates, FIRST, np.hstack([i, f, o, g])),
        7: placed(tanh_c, FIRST, np.tanh(cell)),
    }
    args = [a, Wh, h_prev, c_prev, h, c, gates, tanh_c, *ints(FIRST, BEFORE, after, n, H)]
    return Case("lstm_step", draw.pairs(n, H, 8), draw.threads, args, wanted)


def lstm_step_backward(draw: Draw, n: int, H: int, more: int | None = None) -> Case:
    """The first `more` sequences have a next step, whose da lies behind this one's; what dc holds
    for the others is NaN, and must not be read.
    """
    more = n // 2 if more is None else more
    dh, tanh_c, c_prev = (
        draw.normal(FIRST + n + 2, H),
        draw.normal(FIRST + n + 2, H),
        draw.normal(BEFORE + n + 2, H),
    )
    gates, Wh, da, dc = (
        draw.normal(FIRST + n + 2, 4 * H),
        draw.normal(H, 4 * H),
        draw.normal(FIRST + n + more, 4 * H),
        draw.normal(n + 2, H),
    )
    Wh /= np.sqrt(draw.dtype.type(H))
    for x, first in ((dh, FIRST), (tanh_c, FIRST), (gates, FIRST), (c_prev, BEFORE)):
        x[:first], x[first + n :] = np.nan, np.nan
    dc[more:n] = np.nan
    rows = slice(FIRST, FIRST + n)
    i, f, o, g = np.split(wide(gates)[rows], 4, axis=1)
    dh_all, dc_next = wide(dh)[rows], np.zeros((n, H))
    dh_all[:more] += wide(da)[FIRST + n :] @ wide(Wh).T
    dc_next[:more] = wide(dc)[:more]
    dc_all = dc_next + dh_all * o * (1 - wide(tanh_c)[rows] ** 2)
    before = wide(c_prev)[BEFORE : BEFORE + n]
    wanted_da = np.hstack(
        [
            dc_all * g * i * (1 - i),
            dc_all * before * f * (1 - f),
            dh_all * wide(tanh_c)[rows] * o * (1 - o),
            dc_all * i * (1 - g * g),
        ]
    )
    args = [dh, gates, tanh_c, c_prev, Wh, da, dc, *ints(FIRST, BEFORE, n, more, H)]
    return Case(
        "lstm_step_backward",
        draw.pairs(n, H, 16),
        draw.threads,
        args,
        {5: placed(da, FIRST, wanted_da), 6: placed(dc, 0, dc_all * f)},
    )


def rnn_cell(draw: Draw, n: int, H: int = 1, same: str = "") -> Case:
    a, stack = draw.normal(FIRST + n + 2, H), draw.normal(AFTER + n + 2, H)
    values = np.tanh(wide(a)[FIRST : FIRST + n] + wide(stack)[AFTER : AFTER + n])
    h = stack if same == "h is r" else draw.normal(AFTER + n + 2, H)
    return Case(
        "rnn_cell",
        (draw.blocks(n * H),),
        draw.threads,
        [a, stack, h, *ints(FIRST, AFTER, n, H)],
        {2: placed(h, AFTER, values)},
    )


def rnn_cell_backward(draw: Draw, n: int, H: int = 1, same: str = "") -> Case:
    more = n // 2
    dh, dh_next, stack = (
        draw.normal(FIRST + n + 2, H),
        draw.normal(n + 2, H),
        draw.normal(AFTER + n + 2, H),
    )
    dh_next[more:] = np.nan
    dh_all = wide(dh)[FIRST : FIRST + n]
    dh_all[:more] += wide(dh_next)[:more]
    values = dh_all * (1 - wide(stack)[AFTER : AFTER + n] ** 2)
    da = dh if same == "da is dh" else draw.normal(FIRST + n + 2, H)
    args = [dh, dh_next, stack, da, *ints(FIRST, AFTER, n, more, H)]
    return Case(
        "rnn_cell_backward",
        (draw.blocks(n * H),),
        draw.threads,
        args,
        {3: placed(da, FIRST, values)},
    )


def softmax_loss(
    draw: Draw,
    rows: int,
    V: int,
    same: str = "",
    biased: bool = False,
    each: bool = True,
    smoothing: float = 0.0,
) -> Case:
    """Without a bias, or with one scale for all, NaN stands where nothing is to be read."""
    scores, targets, scale = (
        draw.normal(rows, V),
        guarded(draw.rng.integers(0, V, rows).astype(np.int32)),
        draw.normal(rows),
    )
    scores *= 3
    bias = draw.normal(V) if biased else draw.poison(V)
    nll, dscores = softmax_equations(
        wide(scores) + (wide(bias) if biased else 0), targets, smoothing
    )
    if rows > 2:
        targets[1], scores[1], nll[1], dscores[1] = NO_TARGET, np.nan, 0, 0
    out = scores if same == "dscores is scores" else draw.poison(rows, V)
    if not each:
        scale[...] = np.nan
    args = [
        scores,
        bias,
        targets,
        scale,
        *draw.reals(0.375, 1 - smoothing, smoothing / V),
        draw.poison(rows),
        out,
        *ints(biased, each, V),
    ]
    return Case(
        "softmax_loss",
        (rows,),
        draw.threads,
        args,
        {7: nll, 8: dscores * (wide(scale)[:, None] if each else 0.375)},
    )


def softmax_equations(
    scores: np.ndarray, targets: np.ndarray, smoothing: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    every = np.arange(len(scores))
    shifted = scores - scores.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    onehot = np.zeros_like(scores)
    onehot[every, targets] = 1
    if not smoothing:
        return -log_p[every, targets], np.exp(log_p) - onehot
    wanted = (1 - smoothing) * onehot + smoothing / scores.shape[1]
    return -(wanted * log_p).sum(axis=1), np.exp(log_p) - wanted


def log_softmax(draw: Draw, rows: int, V: int) -> Case:
    scores = draw.normal(rows, V)
    scores *= 3
    shifted = wide(scores) - wide(scores).max(axis=1, keepdims=True)
    wanted = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return Case("log_softmax", (rows,), draw.threads, [scores, np.int32(V)], {0: wanted})


def forbid(draw: Draw, rows: int, V: int) -> Case:
    scores = draw.normal(rows, V)
    words = guarded(draw.rng.permutation(V)[: -(-V // 3)].astype(np.int32))
    args = [scores, words, *ints(rows, len(words), V)]
    wanted = wide(scores)
    wanted[:, words] = -np.inf
    return Case("forbid", (draw.blocks(rows * len(words)),), draw.threads, args, {0: wanted})


def argmax(draw: Draw, rows: int, V: int) -> Case:
    """Every other row has its largest score twice."""
    scores, words = draw.normal(rows, V), guarded(np.full(rows, 113, np.int32))
    found = scores.argmax(axis=1)
    for row in range(0, rows, 2):
        scores[row, draw.rng.integers(V)] = scores[row, found[row]]
    args = [scores, words, np.int32(V)]
    return Case("argmax", (rows,), draw.threads, args, {1: wide(scores.argmax(axis=1))})


def sample_words(draw: Draw, rows: int, V: int, temperature: float | None = None) -> Case:
    """Half of the words have no probability; each uniform is in the middle of a likely word's."""
    x, words = draw.normal(rows, V), guarded(np.full(rows, 113, np.int32))
    never = draw.rng.random((rows, V)) < 0.5
    never[:, draw.rng.integers(V)] = False
    x[never] = 0 if temperature is None else -np.inf
    if temperature is None:
        np.abs(x, out=x)
    p = wide(x)
    if temperature is not None:
        p = np.exp((p - p.max(axis=1, keepdims=True)) / temperature)
    likely = p >= np.median(p[p > 0])
    likely[np.arange(rows), p.argmax(axis=1)] = True
    chosen = np.array([draw.rng.choice(np.flatnonzero(row)) for row in likely])
    ends, every = p.cumsum(axis=1), np.arange(rows)
    u = guarded(((ends - p / 2)[every, chosen] / ends[:, -1]).astype(draw.dtype))
    soft = temperature is not None
    args = [x, u, words, *draw.reals(temperature or 1), *ints(soft, V)]
    return Case("sample_words", (rows,), draw.threads, args, {2: wide(chosen)})


def beam_step(draw: Draw, pictures: int, size: int, V: int, first: bool = False) -> Case:
    """Pictures with a hypothesis each before the first word, then with any number of them, some
    without. A word in three cannot follow. Another ranking than the scores' decides.
    """
    counts = np.ones(pictures, int) if first else draw.rng.integers(0, size + 1, pictures)
    counts[-1], each = 1 if first else size, size if first else 1
    picture = np.repeat(np.arange(pictures), counts)
    n, starts = len(picture), np.cumsum(counts) - counts
    rows = guarded((picture * size + np.arange(n) - starts[picture]).astype(np.int32))
    ranked, scores, totals = draw.normal(n, V), draw.normal(n, V), draw.normal(n)
    ranked[:, ::3] = -np.inf
    words, parents = (guarded(np.full(n * each, 113, np.int32)) for _ in range(2))
    found = []
    for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
        own = wide(ranked)[start : start + count] + wide(totals)[start : start + count, None]
        order = np.argsort(-own, axis=None, kind="stable")[: count * each]
        found += [(start + at // V, at % V) for at in order.tolist()]
    parent, word = (np.array(x) for x in zip(*found, strict=True))
    new = wide(totals)[parent] + wide(scores)[parent, word]
    args = [ranked, scores, totals, rows, words, parents, draw.poison(n * each)]
    args += ints(n, each, size, 7, V)
    wanted = {4: wide(word), 5: wide(parent), 6: new}
    return Case("beam_step", (n,), draw.threads, args, wanted)


def segment_sum(draw: Draw, R: int, C: int, K: int, first: int = 0) -> Case:
    """R rows in K segments; those up to `first`, and most likely some others, have no rows."""
    rows, ids = draw.normal(R, C), draw.rng.integers(first, K, R)
    order = np.argsort(ids, kind="stable").astype(np.int32)
    starts = np.searchsorted(ids[order], np.arange(K + 1)).astype(np.int32)
    wanted = np.zeros((K, C))
    np.add.at(wanted, ids, wide(rows))
    return Case(
        "segment_sum",
        (K, -(-C // (draw.threads // 4))),
        draw.threads,
        [rows, guarded(order), guarded(starts), draw.poison(K, C), np.int32(C)],
        {3: wanted},
    )


def column_sum(draw: Draw, R: int, C: int) -> Case:
    x = draw.normal(R, C)
    args = [x, draw.poison(C), *ints(R, C)]
    return Case("column_sum", (-(-C // 8),), draw.threads, args, {1: wide(x).sum(axis=0)})


def add_rows(draw: Draw, R: int, C: int) -> Case:
    x, b = draw.normal(R, C), draw.normal(C)
    wanted = wide(x) + wide(b)
    return Case(
        "add_rows", (draw.blocks(R * C),), draw.threads, [x, b, *ints(R * C, C)], {0: wanted}
    )


def squares(draw: Draw, n: int) -> Case:
    x, threads = draw.normal(n), draw.threads  # as many blocks as threads
    padded = np.zeros(-(-n // threads**2) * threads**2)
    padded[:n] = wide(x) ** 2
    partial = guarded(np.full(threads, np.nan))
    return Case(
        "squares",
        (threads,),
        threads,
        [x, partial, np.int64(n)],
        {1: padded.reshape(-1, threads, threads).sum(axis=(0, 2))},
    )


def root(draw: Draw) -> Case:
    partial = guarded(draw.rng.random(draw.threads))
    return Case(
        "root",
        (1,),
        draw.threads,
        [partial, draw.poison(1)],
        {1: np.sqrt(partial.sum(keepdims=True))},
    )


def clip(draw: Draw, n: int, norm: float, most: float = 5.0) -> Case:
    x, threads = draw.normal(n), draw.threads  # as many blocks as threads
    partial = guarded(draw.rng.random(threads))
    partial *= norm * norm / partial.sum()
    args = [x, partial, draw.poison(1), *draw.reals(most), np.int64(n)]
    return Case(
        "clip",
        (threads,),
        threads,
        args,
        {0: wide(x) * most / max(norm, most), 2: np.array([norm])},
    )


def adam_update(draw: Draw, n: int) -> Case:
    w, dw, m, v = (draw.normal(n) for _ in range(4))
    v *= v
    alpha, beta1, beta2, epsilon = 1e-3, 0.9, 0.999, 1e-8
    numbers = draw.reals(alpha, beta1, 1 - beta1, beta2, 1 - beta2, epsilon)
    m_new = beta1 * wide(m) + (1 - beta1) * wide(dw)
    v_new = beta2 * wide(v) + (1 - beta2) * wide(dw) ** 2
    w_new = wide(w) - alpha * m_new / (np.sqrt(v_new) + epsilon)
    return Case(
        "adam_update",
        (draw.blocks(n),),
        draw.threads,
        [w, dw, m, v, *numbers, np.int64(n)],
        {0: w_new, 2: m_new, 3: v_new},
    )


def dropout(draw: Draw, n: int, same: str = "", keep: float = 0.7) -> Case:
    x, mask = draw.normal(n), guarded(draw.rng.random(n) < keep)
    wanted = wide(x) * mask / keep
    out = x if same == "out is x" else draw.poison(n)
    return Case(
        "dropout",
        (draw.blocks(n),),
        draw.threads,
        [x, mask, out, *draw.reals(1 / keep), np.int64(n)],
        {2: wanted},
    )


def dropout_masks(
    draw: Draw, keep: float = 0.7, seed: int = 2**63 - 1, step: int = 2**40, **sizes: int
) -> Case:
    """Rows of masks that are twice as long, the last among them, in no order; the bits are
    NumPy's.
    """
    counts, widths = [sizes[name] for name in "NKR"], [sizes[name] for name in "DWH"]
    masks = [guarded(np.full(shape, 113, np.uint8)) for shape in zip(counts, widths, strict=True)]
    numbers = [
        np.append(2 * n - 1, draw.rng.permutation(2 * n))[:n].astype(np.int32) for n in counts
    ]
    for rows in numbers:
        rows[1:2] = -1  # of a row that keeps nothing
    wanted = {}
    for place, (n, width) in enumerate(zip(counts, widths, strict=True)):
        key, counter = np.array([seed, place], np.uint64), np.array([0, 0, 0, step], np.uint64)
        blocks = draw_blocks(width)
        bits = (
            np.random.Philox(key=key, counter=counter)
            .random_raw(2 * n * blocks * 4)
            .view(np.uint16)
        )
        wanted[3 + place] = wide(
            (bits.reshape(2 * n, 16 * blocks)[numbers[place], :width] < 65536 * keep)
            & (numbers[place] >= 0)[:, None]
        )
    threads = sum(n * draw_blocks(width) for n, width in zip(counts, widths, strict=True))
    scalars = [
        *(np.int32(sizes[name]) for name in "NDKWRH"),
        np.int32(round(65536 * keep)),
        np.int64(seed),
        np.int64(step),
    ]
    return Case(
        "dropout_masks",
        (draw.blocks(threads),),
        draw.threads,
        [*map(guarded, numbers), *masks, *scalars],
        wanted,
    )


def draw_blocks(width: int) -> int:
    """Blocks of random bits in a row of a mask."""
    return -(-width // 16)


def record_step(draw: Draw, capacity: int, i: int) -> Case:
    record, loss, norm = draw.normal(capacity + 1, 2), draw.normal(), draw.normal()
    record[0, 0] = 1
    wanted = wide(record)
    wanted[1 + i] = loss, norm
    return Case("record_step", (1,), draw.threads, [record, loss, norm, np.int32(i)], {0: wanted})


def weighted_sum(draw: Draw, n: int, each: bool = True) -> Case:
    x, scale = draw.normal(n), draw.normal(n) if each else draw.poison(n)
    wanted = (wide(x) * (wide(scale) if each else 0.375)).sum()
    args = [x, scale, *draw.reals(0.375), draw.poison(1), *ints(each, n)]
    return Case("weighted_sum", (1,), draw.threads, args, {3: np.array([wanted])})


def _rows(draw: Draw, R: int, K: int) -> np.ndarray:
    """R distinct rows of K that ascend."""
    return guarded(np.sort(draw.rng.permutation(K)[:R]).astype(np.int32))


def gather(draw: Draw, R: int, K: int, C: int) -> Case:
    table, rows = draw.normal(K, C), guarded(draw.rng.integers(0, K, R).astype(np.int32))
    return Case(
        "gather",
        (draw.blocks(R * C),),
        draw.threads,
        [table, rows, draw.poison(R, C), *ints(R * C, C)],
        {2: wide(table)[rows]},
    )


def gather_drop(draw: Draw, R: int, K: int, C: int, keep: float = 0.7) -> Case:
    table, rows, mask = (
        draw.normal(K, C),
        guarded(draw.rng.integers(0, K, R).astype(np.int32)),
        guarded(draw.rng.random((R, C)) < keep),
    )
    args = [table, rows, mask, draw.poison(R, C), *draw.reals(1 / keep), *ints(R * C, C)]
    return Case(
        "gather_drop",
        (draw.blocks(R * C),),
        draw.threads,
        args,
        {3: wide(table)[rows] * mask / keep},
    )


def gather_regions(draw: Draw, R: int, K: int, C: int, P: int, keep: float = 0.7) -> Case:
    table, rows, mask = (
        draw.normal(K, P, C),
        guarded(draw.rng.integers(0, K, R).astype(np.int32)),
        guarded(draw.rng.random((R, C)) < keep),
    )
    args = [table, rows, mask, draw.poison(R, P, C), *draw.reals(1 / keep), *ints(R * P * C, P, C)]
    return Case(
        "gather_regions",
        (draw.blocks(R * P * C),),
        draw.threads,
        args,
        {3: wide(table)[rows] * mask[:, None] / keep},
    )


def gather_plus(draw: Draw, R: int, K: int, C: int) -> Case:
    table, rows, b = (
        draw.normal(K, C),
        guarded(draw.rng.integers(0, K, R).astype(np.int32)),
        draw.normal(C),
    )
    args = [table, rows, b, draw.poison(R, C), *ints(R * C, C)]
    return Case(
        "gather_plus", (draw.blocks(R * C),), draw.threads, args, {3: wide(table)[rows] + wide(b)}
    )


def gather_plus_image(draw: Draw, R: int, K: int, C: int) -> Case:
    table, rows, b = (
        draw.normal(K, C),
        guarded(draw.rng.integers(0, K, R).astype(np.int32)),
        draw.normal(C),
    )
    image, captions = draw.normal(K, C), guarded(draw.rng.integers(0, K, R).astype(np.int32))
    args = [table, rows, b, image, captions, draw.poison(R, C), *ints(R * C, C)]
    return Case(
        "gather_plus_image",
        (draw.blocks(R * C),),
        draw.threads,
        args,
        {5: wide(table)[rows] + wide(b) + wide(image)[captions]},
    )


def _ragged(N: int, T: int) -> tuple[np.ndarray, np.ndarray]:
    """N sequences of up to T steps, the longest first, the last one without any where N > T: the
    first row of each step, and each row's sequence.
    """
    lengths = np.linspace(T, 0 if N > T else 1, N).astype(int)
    sizes = [(lengths > t).sum() for t in range(T)]
    return np.cumsum([0, *sizes]).astype(np.int32), np.concatenate([np.arange(n) for n in sizes])


def sequence_sum(draw: Draw, N: int, T: int, C: int) -> Case:
    firsts, caption = _ragged(N, T)
    x, wanted = draw.normal(len(caption), C), np.zeros((N, C))
    np.add.at(wanted, caption, wide(x))
    return Case(
        "sequence_sum",
        (N, draw.blocks(C)),
        draw.threads,
        [x, guarded(firsts), draw.poison(N, C), *ints(T, C)],
        {2: wanted},
    )


def attend_step(draw: Draw, n: int, P: int, H: int, size: float = 2.0) -> Case:
    """NaN stands in all states and pictures that the step does not look at. Scores have about that
    size.
    """
    h, A, weights, context = (
        draw.normal(BEFORE + n + 2, H),
        draw.normal(n + 2, P, H),
        draw.normal(FIRST + n + 2, P),
        draw.normal(FIRST + n + 2, H),
    )
    h *= size
    h[:BEFORE], h[BEFORE + n :], A[n:] = np.nan, np.nan, np.nan
    scores = (wide(A)[:n] @ wide(h)[BEFORE : BEFORE + n, :, None])[..., 0] / np.sqrt(H)
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    args = [h, A, weights, context, *ints(FIRST, BEFORE, P, H)]
    wanted = {
        2: placed(weights, FIRST, p),
        3: placed(context, FIRST, (p[:, None] @ wide(A)[:n])[:, 0]),
    }
    return Case("attend_step", (n,), draw.threads, args, wanted)


def attend_step_backward(draw: Draw, n: int, P: int, H: int) -> Case:
    dcontext, A, weights, dscores = (
        draw.normal(FIRST + n + 2, H),
        draw.normal(n + 2, P, H),
        draw.normal(FIRST + n + 2, P),
        draw.normal(FIRST + n + 2, P),
    )
    dh_next, rows = draw.normal(n + 2, H), slice(FIRST, FIRST + n)
    weights[...] = np.abs(weights) / np.abs(weights).sum(axis=1, keepdims=True)
    for x in (dcontext, weights):
        x[:FIRST], x[FIRST + n :] = np.nan, np.nan
    A[n:] = np.nan
    dweights, p = (wide(A)[:n] @ wide(dcontext)[rows, :, None])[..., 0], wide(weights)[rows]
    d = p * (dweights - (p * dweights).sum(axis=1, keepdims=True)) / np.sqrt(H)
    args = [dcontext, A, weights, dscores, dh_next, *ints(FIRST, P, H)]
    wanted = {
        3: placed(dscores, FIRST, d),
        4: placed(dh_next, 0, wide(dh_next)[:n] + (d[:, None] @ wide(A)[:n])[:, 0]),
    }
    return Case("attend_step_backward", (n,), draw.threads, args, wanted)


def mean_regions(draw: Draw, N: int, P: int, H: int) -> Case:
    A, out = draw.normal(N, P, H), draw.poison(N, H)
    args = [A, out, *ints(N * H, P, H)]
    return Case(
        "mean_regions", (draw.blocks(N * H),), draw.threads, args, {1: wide(A).mean(axis=1)}
    )


def add_to_regions(draw: Draw, N: int, P: int, H: int) -> Case:
    dA, dmean = draw.normal(N, P, H), draw.normal(N, H)
    wanted, args = wide(dA) + wide(dmean)[:, None] / P, [dA, dmean, *ints(N * H, P, H)]
    return Case("add_to_regions", (draw.blocks(N * H),), draw.threads, args, {0: wanted})


def attention_sum(draw: Draw, N: int, T: int, P: int, H: int) -> Case:
    firsts, caption = _ragged(N, T)
    R = len(caption)
    weights, dcontext, dscores, h = (
        draw.normal(R, P),
        draw.normal(R, H),
        draw.normal(R, P),
        draw.normal(N + R, H),
    )
    step, wanted = np.searchsorted(firsts, np.arange(R), side="right") - 1, np.zeros((N, P, H))
    before = np.where(step == 0, 0, N + firsts[step - 1]) + caption
    np.add.at(
        wanted,
        caption,
        wide(weights)[:, :, None] * wide(dcontext)[:, None]
        + wide(dscores)[:, :, None] * wide(h)[before, None],
    )
    args = [weights, dcontext, dscores, h, guarded(firsts), draw.poison(N, P, H), *ints(N, T, P, H)]
    return Case("attention_sum", (N, draw.blocks(H), -(-P // 16)), draw.threads, args, {5: wanted})


def scatter(draw: Draw, R: int, K: int, C: int) -> Case:
    R = min(R, K)
    x, rows, wanted = draw.normal(R, C), _rows(draw, R, K), np.zeros((K, C))
    wanted[rows] = wide(x)
    return Case(
        "scatter",
        (draw.blocks(K * C),),
        draw.threads,
        [x, rows, draw.poison(K, C), *ints(R, K * C, C)],
        {2: wanted},
    )


def scatter_drop(draw: Draw, R: int, K: int, C: int, keep: float = 0.7) -> Case:
    R = min(R, K)
    x, rows, mask, wanted = (
        draw.normal(R, C),
        _rows(draw, R, K),
        guarded(draw.rng.random((R, C)) < keep),
        np.zeros((K, C)),
    )
    wanted[rows] = wide(x) * mask / keep
    args = [x, rows, mask, draw.poison(K, C), *draw.reals(1 / keep), *ints(R, K * C, C)]
    return Case("scatter_drop", (draw.blocks(K * C),), draw.threads, args, {3: wanted})


def start_states(draw: Draw, n: int, given: bool = True) -> Case:
    h0, c0 = draw.normal(n), draw.normal(n) if given else draw.poison(n)
    h, c = draw.normal(n + 40), draw.normal(n + 40)
    args = [h0, c0, h, c, *ints(given, n)]
    return Case(
        "start_states",
        (draw.blocks(n),),
        draw.threads,
        args,
        {2: placed(h, 0, wide(h0)), 3: placed(c, 0, wide(c0) if given else np.zeros(n))},
    )


class Kernel(NamedTuple):
    """A kernel's file, how its launches are made, and with what; the first of `sizes` is small, and
    more than one block of 32 threads.
    """

    file: str
    make: Callable[..., Case]
    sizes: list[dict[str, Any]]

    def label(self, size: dict[str, Any]) -> str:
        return (
            ", ".join(
                str(value) if key == "same" else f"{key}={value}" for key, value in size.items()
            )
            or "-"
        )


def _step(*same: str) -> list[dict[str, Any]]:
    plain = [
        {"n": n, "H": H}
        for n, H in ((5, 37), (1, 1), (3, 5), (4, 64), (1, 257), (2, 300), (25, 16))
    ]
    return plain + [{"n": 5, "H": 37, "same": s} for s in same]


def _flat(*same: str) -> list[dict[str, Any]]:
    return [*({"n": n} for n in (150, 1, 255, 256, 1000)), *({"n": 300, "same": s} for s in same)]


CASES = {
    "lstm_gates": Kernel(
        "lstm_gates.cu", lstm_gates, _step("gates is a", "gates is r", "c is c_prev")
    ),
    "lstm_gates_backward": Kernel(
        "lstm_gates.cu",
        lstm_gates_backward,
        _step("dc_prev is dc", "dc_prev is dh_next", "da is gates"),
    ),
    "lstm_step": Kernel(
        "lstm_step.cu",
        lstm_step,
        [
            {"n": 5, "H": 17},
            *({"n": n, "H": H} for n, H in ((1, 1), (3, 5), (32, 64), (33, 65), (2, 200), (70, 8))),
            {"n": 5, "H": 17, "same": "one stack"},
        ],
    ),
    "lstm_step_backward": Kernel(
        "lstm_step.cu",
        lstm_step_backward,
        [
            {"n": 5, "H": 9},
            *({"n": n, "H": H} for n, H in ((1, 1), (3, 5), (16, 32), (35, 33), (2, 100), (70, 8))),
            *(
                {"n": n, "H": H, "more": more}
                for n, H, more in (
                    (1, 1, 1),
                    (5, 17, 0),
                    (40, 17, 40),
                    (40, 17, 16),
                    (40, 35, 17),
                    (3, 17, 3),
                )
            ),
        ],
    ),
    "rnn_cell": Kernel("rnn_cell.cu", rnn_cell, _step("h is r")),
    "rnn_cell_backward": Kernel("rnn_cell.cu", rnn_cell_backward, _step("da is dh")),
    "softmax_loss": Kernel(
        "softmax_loss.cu",
        softmax_loss,
        [
            *(
                {"rows": rows, "V": V}
                for rows, V in ((2, 300), (1, 1), (3, 2), (5, 255), (2, 256), (2, 257), (4, 1004))
            ),
            *(
                {"rows": 3, "V": V, "same": "dscores is scores", "biased": True, "each": V > 9}
                for V in (9, 300)
            ),
            {"rows": 3, "V": 300, "each": False},
            *(
                {"rows": 3, "V": V, "same": "dscores is scores", "biased": True, "smoothing": 0.1}
                for V in (9, 300)
            ),
        ],
    ),
    "start_states": Kernel("start.cu", start_states, [*_flat(), {"n": 300, "given": False}]),
    "weighted_sum": Kernel(
        "weighted_sum.cu",
        weighted_sum,
        [{"n": 150}, {"n": 1}, {"n": 1000}, {"n": 300, "each": False}],
    ),
    **{
        name: Kernel(
            "gather.cu",
            make,
            [
                {"R": R, "K": K, "C": C}
                for R, K, C in ((3, 5, 37), (1, 1, 1), (3, 4, 257), (40, 60, 16))
            ],
        )
        for name, make in (
            ("gather", gather),
            ("gather_drop", gather_drop),
            ("gather_plus", gather_plus),
            ("gather_plus_image", gather_plus_image),
            ("scatter", scatter),
            ("scatter_drop", scatter_drop),
        )
    },
    **{
        name: Kernel(
            "choosing.cu",
            make,
            [
                {"rows": rows, "V": V}
                for rows, V in ((3, 70), (1, 1), (2, 2), (4, 255), (5, 256), (3, 1004), (2, 2539))
            ],
        )
        for name, make in (
            ("log_softmax", log_softmax),
            ("forbid", forbid),
            ("argmax", argmax),
        )
    },
    "sample_words": Kernel(
        "choosing.cu",
        sample_words,
        [
            {"rows": rows, "V": V, "temperature": temperature}
            for rows, V, temperature in (
                (3, 70, 0.7),
                (1, 1, 1.0),
                (2, 2, None),
                (4, 255, 2.0),
                (5, 256, None),
                (9, 1004, 1.0),
                (4, 2539, None),
            )
        ],
    ),
    "beam_step": Kernel(
        "choosing.cu",
        beam_step,
        [
            {"pictures": pictures, "size": size, "V": V, "first": first}
            for pictures, size, V, first in (
                (3, 2, 50, False),
                (1, 1, 3, True),
                (4, 5, 40, True),
                (5, 3, 255, False),
                (2, 5, 1004, False),
                (6, 4, 300, False),
            )
        ],
    ),
    "segment_sum": Kernel(
        "segment_sum.cu",
        segment_sum,
        [
            {"R": 20, "C": 50, "K": 3},
            {"R": 20, "C": 300, "K": 3},
            {"R": 1, "C": 1, "K": 1},
            {"R": 5, "C": 7, "K": 4, "first": 3},
            {"R": 40, "C": 255, "K": 60},
            {"R": 200, "C": 33, "K": 31, "first": 5},
            {"R": 33, "C": 65, "K": 1},
            {"R": 90, "C": 512, "K": 2},
        ],
    ),
    "add_rows": Kernel(
        "add_rows.cu", add_rows, [{"R": 5, "C": 17}, {"R": 1, "C": 1}, {"R": 9, "C": 64}]
    ),
    **{
        name: Kernel(
            "attention.cu",
            make,
            [{"N": n, "P": P, "H": H} for n, P, H in ((5, 3, 17), (1, 1, 1), (3, 49, 64))],
        )
        for name, make in (("mean_regions", mean_regions), ("add_to_regions", add_to_regions))
    },
    "gather_regions": Kernel(
        "gather.cu",
        gather_regions,
        [
            {"R": 2, "K": 3, "C": 9, "P": 2},
            {"R": 1, "K": 1, "C": 1, "P": 1},
            {"R": 5, "K": 3, "C": 37, "P": 3},
        ],
    ),
    "column_sum": Kernel(
        "column_sum.cu",
        column_sum,
        [
            {"R": R, "C": C}
            for R, C in ((70, 19), (1, 1), (3, 8), (31, 7), (32, 9), (700, 33), (257, 40))
        ],
    ),
    "sequence_sum": Kernel(
        "segment_sum.cu",
        sequence_sum,
        [
            {"N": N, "T": T, "C": C}
            for N, T, C in ((4, 3, 50), (1, 1, 1), (3, 7, 300), (9, 5, 33), (25, 16, 8))
        ],
    ),
    **{
        name: Kernel(
            "attention.cu",
            make,
            [
                {"n": n, "P": P, "H": H}
                for n, P, H in (
                    (3, 5, 37),
                    (1, 1, 1),
                    (2, 25, 300),
                    (5, 49, 17),
                    (2, 196, 33),
                    (1, 1024, 3),
                    (3, 32, 64),
                )
            ],
        )
        for name, make in (
            ("attend_step", attend_step),
            ("attend_step_backward", attend_step_backward),
        )
    },
    "attention_sum": Kernel(
        "attention.cu",
        attention_sum,
        [
            {"N": N, "T": T, "P": P, "H": H}
            for N, T, P, H in (
                (2, 3, 17, 20),
                (1, 1, 1, 1),
                (4, 3, 5, 300),
                (3, 19, 25, 33),
                (1, 33, 49, 7),
                (25, 16, 16, 8),
                (2, 2, 196, 5),
            )
        ],
    ),
    "squares": Kernel("norm.cu", squares, [{"n": n} for n in (700, 1, 256, 65536, 65537, 200_003)]),
    "root": Kernel("norm.cu", root, [{}]),
    "clip": Kernel(
        "norm.cu",
        clip,
        [
            {"n": n, "norm": norm}
            for n, norm in (
                (150, 25.0),
                (1, 25.0),
                (300, 25.0),
                (256, 5.0),
                (1000, 1.0),
                (1000, 1e30),
            )
        ],
    ),
    "adam_update": Kernel("adam.cu", adam_update, _flat()),
    "dropout": Kernel("dropout.cu", dropout, _flat("out is x")),
    "dropout_masks": Kernel(
        "philox.cu",
        dropout_masks,
        [
            dict(zip("NDKWRH", sizes, strict=True))
            for sizes in (
                (3, 70, 2, 33, 5, 101),
                (1, 1, 1, 1, 1, 1),
                (4, 16, 3, 32, 8, 160),
                (5, 15, 0, 20, 0, 8),
                (2, 300, 9, 17, 40, 31),
            )
        ],
    ),
    "record_step": Kernel(
        "record.cu", record_step, [{"capacity": c, "i": i} for c, i in ((4, 2), (1, 0), (9, 8))]
    ),
}
