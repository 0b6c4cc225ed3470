"""Every fast version against the plain equations of its op."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import xpcap
from xpcap import layers, ops
from xpcap.backend import asarray, to_numpy
from xpcap.ops import (
    OPERATIONS,
    DeviceOps,
    HostOps,
    Ops,
    PackedSequences,
    current,
    get_ops,
    host,
    overridden,
)
from xpcap.ops.host import BLOCK

N, H, V = 5, 7, 11  # odd sizes: nothing fits a block


def lstm_gates_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    return (
        draw(N, 4 * H),
        draw(N, 4 * H),
        draw(N, H),
        ops.Gates(draw(N, H), draw(N, H), draw(N, 4 * H), draw(N, H)),
    )


def softmax_loss_arguments(draw: Callable[..., np.ndarray]) -> list[tuple[Any, ...]]:
    scores, targets = 3 * draw(N, V), np.array([0, 3, 3, V - 1, 5], np.int32)
    return [
        (scores, targets, scale, draw(N, V), smoothing)
        for scale in (draw(N), 0.125)
        for smoothing in (0.0, 0.2)
    ]


def segment_sum_arguments(draw: Callable[..., np.ndarray]) -> list[tuple[Any, ...]]:
    ids = np.abs(draw(200) * 10).astype(np.int32) % 30
    ids[ids == 12] = 13  # one id without a row, and a last one
    often = np.where(np.arange(200) % 3, ids, 7)
    return [
        (draw(200, C), ops.segments(words, 31), draw(31, C))
        for words, C in ((ids, 33), (often, 70))
    ]


def rows_of_scores_arguments(draw: Callable[..., np.ndarray]) -> list[tuple[Any, ...]]:
    return [(3 * draw(rows, width),) for rows, width in ((N, V), (3, 300))]


def sample_words_arguments(draw: Callable[..., np.ndarray]) -> list[tuple[Any, ...]]:
    """Uniforms in the middle of a word's share; of the probabilities some are 0."""
    x, u = np.zeros_like(draw(4, 260)), draw(4)
    x[:, [3, 70, 200]] = 0.25, 0.5, 0.25
    u[:] = 0.1, 0.5, 0.9, 0.99
    with np.errstate(divide="ignore"):
        return [(x, u, None), (np.log(x), u, 1.0), (np.log(x) / 2, u, 0.5)]


def beam_step_arguments(draw: Callable[..., np.ndarray]) -> list[tuple[Any, ...]]:
    """Three pictures, the second without a hypothesis left, and their first step."""
    later, first = np.array([0, 1, 2, 6, 7], np.int32), np.array([0, 3, 6], np.int32)
    firsts = np.array([0, 0, 0, 3, 3], np.int32)
    begun = first.repeat(3) + np.tile(np.arange(3, dtype=np.int32), 3)
    beams = [
        ops.BeamRows(later, later, firsts, 3, 3),
        ops.BeamRows(first, begun, np.arange(3, dtype=np.int32).repeat(3), 3, 3),
    ]
    cases = []
    for each in beams:
        ranked, n = draw(len(each.rows), V), len(each.rows)
        ranked[0, 2:] = -np.inf
        ranked[1, 4] = ranked[1, 5]  # equals
        cases.append((ranked, ranked + draw(n, V), draw(n), each, 0))
    return cases


def column_sum_arguments(draw: Callable[..., np.ndarray]) -> list[tuple[Any, ...]]:
    return [(draw(rows, C), draw(C)) for rows, C in ((301, 37), (3, 8))]


def add_rows_arguments(draw: Callable[..., np.ndarray]) -> list[tuple[Any, ...]]:
    return [(draw(N, V), draw(V)), (draw(N, V), draw(N, V))]


def mean_regions_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    return draw(N, 4, H), draw(N, H)


def add_to_regions_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    return draw(N, 4, H), draw(N, H)


def gather_arguments(draw: Callable[..., np.ndarray]) -> list[tuple[Any, ...]]:
    table, rows, mask = draw(N, V), np.array([4, 0, 4, 2], np.int32), draw(4, V) > 0
    return [
        (table, rows, draw(4, V), None, 1.0),
        (table, rows, draw(4, V), mask, 0.75),
        (table, None, draw(N, V), draw(N, V) > 0, 0.75),
    ]


def gather_regions_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    return draw(N, 3, V), np.array([4, 0, 4, 2], np.int32), draw(4, 3, V), draw(4, V) > 0, 0.75


def gather_plus_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    return draw(N, V), np.array([4, 0, 4, 2], np.int32), draw(V), draw(4, V)


def scatter_arguments(draw: Callable[..., np.ndarray]) -> list[tuple[Any, ...]]:
    return [
        (draw(3, V), np.array([0, 2, 4], np.int32), draw(N, V), mask, 0.75)
        for mask in (None, draw(3, V) > 0)
    ]


def weighted_sum_arguments(draw: Callable[..., np.ndarray]) -> list[tuple[Any, ...]]:
    return [(draw(301), scale, draw()) for scale in (draw(301), 0.125)]


def matmul_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    return (
        draw(300, 512) / 20,
        draw(512, 1000) / 20,
        draw(300, 1000),
    )  # enough for a share on each core


def word_loss_arguments(draw: Callable[..., np.ndarray]) -> list[tuple[Any, ...]]:
    words = np.abs(draw(300) * 500).astype(np.int32) % 1000
    return [
        (
            draw(300, 512) / 20,
            draw(512, 1000) / 20,
            draw(1000),
            words,
            scale,
            draw(300),
            draw(300, 1000),
            draw(300, 512),
            smoothing,
        )
        for scale, smoothing in ((draw(300), 0.0), (0.125, 0.1))
    ]


def matmul_nt_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    return draw(N, V), draw(H, V), draw(N, H)


def dropout_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    return draw(N, V), draw(N, V) > 0, 0.75


def adam_update_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    n = 2 * BLOCK + 17  # two whole blocks and a rest
    return draw(n), draw(n), draw(n), draw(n) ** 2, 1e-3, 0.9, 0.999, 1e-8


def global_norm_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    return (draw(70_001),)


def clip_by_norm_arguments(draw: Callable[..., np.ndarray]) -> list[tuple[Any, ...]]:
    return [(draw(70_001), most) for most in (3.5, 1e9)]


def record_step_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    record = draw(5, 2)
    record[0] = 1
    return record, 2, draw(), draw()


def dropout_masks_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    """Two parts that share the rows of each mask, in no order, in widths that are no multiple of a
    block.
    """
    masks, numbers = [], []
    for part in (0, 1):
        masks.append(
            tuple(np.zeros((n, width), bool) for n, width in ((3, 33), (4, 7), (5 * part, 48)))
        )
        numbers.append(
            tuple(
                np.array(rows, np.int32)
                for rows in ([4, 0, 2], [1, 6, 5, 2], [3, 0, 4, 1, 2][: 5 * part])
            )
        )
    return tuple(masks), tuple(numbers), (5, 7, 5), 2**63 - 1, 3, 0.7


def matmul_add_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    return draw(N, V), draw(V, H), draw(N, H)


# What chooses its kernel once for a sequence: N sequences, of which SIZES are alive at each step;
# buffers by row, and stacks of states
SIZES = (N, N - 1, 2)
STEPS = PackedSequences.of(SIZES, N).steps
R = sum(SIZES)


def start_states_arguments(draw: Callable[..., np.ndarray]) -> list[tuple[Any, ...]]:
    return [(draw(N, H), c0, draw(N + R, H), draw(N + R, H)) for c0 in (draw(N, H), None)]


def row_matmul_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    return draw(R, H), draw(H, V), draw(N + R, V)


def row_matmul_nt_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    return draw(R, V), draw(H, V), draw(N, H)


def lstm_gate_steps_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    c = draw(N + R, H)
    return (
        draw(R, 4 * H),
        draw(R, 4 * H),
        c,
        ops.Gates(draw(N + R, H), c, draw(R, 4 * H), draw(R, H)),
    )


def lstm_gate_backward_steps_arguments(draw: Callable[..., np.ndarray]) -> list[tuple[Any, ...]]:
    out = ops.Gates(
        draw(N + R, H), draw(N + R, H), ops.sigmoid(draw(R, 4 * H)), np.tanh(draw(R, H))
    )
    return [
        (draw(R, H), draw(N, H), draw(N, H), out, draw(R, 4 * H), dc_T)
        for dc_T in (None, draw(N, H))
    ]


def rnn_cell_steps_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    return draw(R, H), draw(N + R, H)


def rnn_cell_backward_steps_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    return draw(R, H), draw(N, H), np.tanh(draw(N + R, H)), draw(R, H)


def _rows() -> PackedSequences:
    sizes, count, *indices = PackedSequences.of(SIZES, N)
    return PackedSequences(sizes, count, *(x.astype(np.int32) for x in indices))


def gather_plus_image_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    ids = np.arange(R, dtype=np.int32)[::-1].copy() % 4
    return draw(4, V), ids, draw(V), draw(N, V), _rows(), draw(R, V)


def sequence_sum_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    return draw(R, 300), _rows(), draw(N, 300)


# Attention: more places than a block multiplies at a time, or one, and H no multiple of anything
PLACES = ((35, 37), (1, 7))


def attend_steps_arguments(draw: Callable[..., np.ndarray]) -> list[tuple[Any, ...]]:
    return [
        (2 * draw(N + R, width), draw(N, P, width), draw(R, P), draw(R, width))
        for P, width in PLACES
    ]


def attend_backward_steps_arguments(draw: Callable[..., np.ndarray]) -> list[tuple[Any, ...]]:
    return [
        (
            draw(R, width),
            draw(N, P, width),
            np.exp(ops.log_softmax(draw(R, P))),
            draw(R, P),
            draw(N, width),
        )
        for P, width in PLACES
    ]


def attention_sum_arguments(draw: Callable[..., np.ndarray]) -> list[tuple[Any, ...]]:
    return [
        (draw(R, P), draw(R, width), draw(R, P), draw(N + R, width), _rows(), draw(N, P, width))
        for P, width in (*PLACES, (17, 300))
    ]


# More than a block of lstm_step.cu takes, each way and in each direction, and more terms than fit a
# tile
WIDE_SIZES, WIDE = (37, 36, 2), 67
WIDE_STEPS = PackedSequences.of(WIDE_SIZES, WIDE_SIZES[0]).steps


def lstm_steps_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    (n, *_), rows = WIDE_SIZES, sum(WIDE_SIZES)
    h, c = draw(n + rows, WIDE), draw(n + rows, WIDE)
    return (
        draw(rows, 4 * WIDE),
        draw(WIDE, 4 * WIDE) / 4,
        (h, c),
        ops.Gates(h, c, draw(rows, 4 * WIDE), draw(rows, WIDE)),
    )


def lstm_backward_steps_arguments(draw: Callable[..., np.ndarray]) -> tuple[Any, ...]:
    (n, *_), rows = WIDE_SIZES, sum(WIDE_SIZES)
    out = ops.Gates(
        draw(n + rows, WIDE),
        draw(n + rows, WIDE),
        ops.sigmoid(draw(rows, 4 * WIDE)),
        np.tanh(draw(rows, WIDE)),
    )
    return (
        draw(rows, WIDE),
        draw(n, WIDE),
        draw(n, WIDE),
        out,
        draw(WIDE, 4 * WIDE) / 4,
        draw(rows, 4 * WIDE),
    )


def wide_forwards(step_fn: Any, arguments: Any) -> None:
    for step in WIDE_STEPS:
        step_fn(step)


def wide_backwards(step_fn: Any, arguments: Any) -> None:
    for step in reversed(WIDE_STEPS):
        step_fn(step)


def products(multiply: Any, arguments: Any) -> None:
    for i, o, n in ((2, 0, 3), (0, min(4, len(arguments[2]) - 4), 4)):
        multiply(i, o, n)


def forwards(step_fn: Any, arguments: Any) -> None:
    for step in STEPS:
        step_fn(step)


def backwards(step_fn: Any, arguments: Any) -> None:
    """Later steps first; between them dh_next gets its gradient, as the product with Wh would give
    it.
    """
    for step in reversed(STEPS):
        step_fn(step)
        arguments[1][: step.n] = 0.25


def adding_backwards(step_fn: Any, arguments: Any) -> None:
    """Later steps first; each adds to dh_next."""
    for step in reversed(STEPS):
        step_fn(step)


DRIVES = dict.fromkeys(("row_matmul", "row_matmul_add", "row_matmul_nt"), products)
DRIVES |= dict.fromkeys(
    ("lstm_gate_steps", "rnn_cell_steps", "attend_steps"), forwards
) | dict.fromkeys(("lstm_gate_backward_steps", "rnn_cell_backward_steps"), backwards)
DRIVES |= {
    "lstm_steps": wide_forwards,
    "lstm_backward_steps": wide_backwards,
    "attend_backward_steps": adding_backwards,
}
ARGUMENTS: dict[str, Callable[..., Any]] = {  # of an op: its arguments, or a list of several
    "lstm_gates": lstm_gates_arguments,
    "softmax_loss": softmax_loss_arguments,
    "gather": gather_arguments,
    "gather_regions": gather_regions_arguments,
    "gather_plus": gather_plus_arguments,
    "scatter": scatter_arguments,
    "weighted_sum": weighted_sum_arguments,
    "matmul": matmul_arguments,
    "matmul_add": matmul_add_arguments,
    "start_states": start_states_arguments,
    "row_matmul": row_matmul_arguments,
    "row_matmul_add": row_matmul_arguments,
    "row_matmul_nt": row_matmul_nt_arguments,
    "lstm_steps": lstm_steps_arguments,
    "lstm_backward_steps": lstm_backward_steps_arguments,
    "lstm_gate_steps": lstm_gate_steps_arguments,
    "lstm_gate_backward_steps": lstm_gate_backward_steps_arguments,
    "rnn_cell_steps": rnn_cell_steps_arguments,
    "rnn_cell_backward_steps": rnn_cell_backward_steps_arguments,
    "gather_plus_image": gather_plus_image_arguments,
    "sequence_sum": sequence_sum_arguments,
    "attend_steps": attend_steps_arguments,
    "attend_backward_steps": attend_backward_steps_arguments,
    "attention_sum": attention_sum_arguments,
    "word_loss": word_loss_arguments,
    "matmul_nt": matmul_nt_arguments,
    "segment_sum": segment_sum_arguments,
    "column_sum": column_sum_arguments,
    "add_rows": add_rows_arguments,
    "mean_regions": mean_regions_arguments,
    "add_to_regions": add_to_regions_arguments,
    "log_softmax_": rows_of_scores_arguments,
    "forbid": lambda draw: (3 * draw(N, V), np.array([1, 4, V - 1], np.int32)),
    "argmax": rows_of_scores_arguments,
    "sample_words": sample_words_arguments,
    "beam_step": beam_step_arguments,
    "dropout": dropout_arguments,
    "adam_update": adam_update_arguments,
    "global_norm": global_norm_arguments,
    "clip_by_norm": clip_by_norm_arguments,
    "record_step": record_step_arguments,
    "dropout_masks": dropout_masks_arguments,
}
SCRATCH = {
    "gather_plus": 0,
    "gather_plus_image": 0,
    "weighted_sum": 2,
    "add_to_regions": 1,
}  # the argument that a version may leave anything in
TOLERANCES = {"float32": 3e-6, "float64": 1e-14}


def each(f: Callable[[np.ndarray], Any], value: Any, made: dict[int, Any] | None = None) -> Any:
    """A value with every array in it changed by f, through tuples. An array that is there twice is
    so afterwards.
    """
    made = {} if made is None else made
    if isinstance(value, tuple):
        parts = [each(f, part, made) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if not hasattr(value, "dtype"):
        return value
    if id(value) not in made:
        made[id(value)] = f(value)
    return made[id(value)]


def flat(value: Any) -> list[np.ndarray]:
    """The arrays in a value, on the host."""
    if isinstance(value, tuple | list):
        return [x for part in value for x in flat(part)]
    return [to_numpy(value)] if hasattr(value, "dtype") else []


def first_array(value: Any) -> Any:
    """The first array in a value, through tuples."""
    while isinstance(value, tuple | list):
        value = value[0]
    return value


def check_equals_plain(op: str, dtype: str) -> None:
    """An operation and its equation on the same arguments, in the backend in force: results, and
    everything written to.
    """
    for arguments in drawn(op, dtype):
        fast, plain = run(op, arguments), run(op, arguments, Ops())
        assert len(fast) == len(plain)
        for ours, theirs in zip(fast, plain, strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_allclose(ours, theirs, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])


def drawn(op: str, dtype: str) -> list[Any]:
    """Arguments of an operation, on the host."""
    rng = np.random.default_rng(7)
    made = ARGUMENTS[op](lambda *shape: np.asarray(rng.standard_normal(shape)).astype(dtype))
    return made if isinstance(made, list) else [made]


def run(op: str, arguments: Any, version: Ops | None = None) -> list[np.ndarray]:
    """What an operation returns and writes to, in the version for the arrays or in another."""
    copies = each(lambda x: asarray(x.copy()), arguments)
    method = getattr(version or get_ops(first_array(copies)), op)
    returned = method(*copies)
    if op in DRIVES:
        returned = DRIVES[op](returned, copies)
    return flat([returned, *(copy for i, copy in enumerate(copies) if i != SCRATCH.get(op))])


ON_THE_HOST, ON_A_CARD = overridden(HostOps), overridden(DeviceOps)


def test_every_fast_version_is_tested_here() -> None:
    assert {*ON_THE_HOST, *ON_A_CARD} == set(ARGUMENTS)


@pytest.mark.parametrize("version", [HostOps, DeviceOps])
def test_fast_versions_have_the_signatures_of_their_equations(version: type[Ops]) -> None:
    for op in overridden(version):
        assert inspect.signature(getattr(version, op)) == inspect.signature(getattr(Ops, op)), op


def test_every_method_that_is_overridden_is_an_operation() -> None:
    """A misspelt name would override nothing."""
    own = {name for version in (HostOps, DeviceOps) for name in vars(version)}
    assert {name for name in own if not name.startswith("_")} <= set(OPERATIONS)


@pytest.mark.threads
@pytest.mark.parametrize("op", ON_THE_HOST)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_host_operation_equals_its_equation(op: str, dtype: str) -> None:
    check_equals_plain(op, dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("op", ON_A_CARD)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_cuda_kernel_equals_the_plain_equations(op: str, dtype: str) -> None:
    with xpcap.use_backend("cupy"):
        check_equals_plain(op, dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("op", ["lstm_gate_steps", "lstm_gate_backward_steps"])
def test_host_gates_in_blocks_of_rows_have_the_bits_of_whole_steps(
    op: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of two rows, and of one: wider rows than a block."""
    for arguments in drawn(op, dtype):
        whole = run(op, arguments)
        for block in (2 * 4 * H, 1):
            monkeypatch.setattr(host, "BLOCK", block)
            for got, expected in zip(run(op, arguments), whole, strict=True):
                np.testing.assert_array_equal(got, expected)
        monkeypatch.undo()


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(
    "op", ["lstm_gate_backward_steps", "rnn_cell_steps", "rnn_cell_backward_steps"]
)
def test_host_steps_without_temporaries_have_the_bits_of_the_plain_equations(
    op: str, dtype: str
) -> None:
    for arguments in drawn(op, dtype):
        for got, expected in zip(run(op, arguments), run(op, arguments, Ops()), strict=True):
            np.testing.assert_array_equal(got, expected)


def test_a_gate_of_minus_zero_stays_so() -> None:
    """-0.0 + 0.0 is 0.0: what halves and shifts the other gates must leave g alone."""
    a, c = np.full((1, 8), -0.0), np.zeros((1, 2))
    assert np.signbit(HostOps().lstm_gates(a, a, c).gates[:, 6:]).all()


@pytest.mark.parametrize("cell", layers.CELLS)
def test_operations_are_chosen_once_for_a_sequence(
    cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many steps it has."""
    asked: list[Any] = []
    forward, backward, G = (
        getattr(layers, f"{cell}_forward"),
        getattr(layers, f"{cell}_backward"),
        layers.CELLS[cell].shapes(1, H)["b"][0],
    )

    def watched(x: Any) -> Ops:
        asked.append(x)
        return get_ops(x)

    monkeypatch.setattr(getattr(layers, cell), "get_ops", watched)
    counts = []
    for T in (2, 20):
        asked.clear()
        h, cache = forward(
            np.ones((N, T, V)), np.ones((N, H)), np.ones((V, G)), np.ones((H, G)), np.ones(G)
        )
        backward(h, cache)
        counts.append(len(asked))
    assert counts[0] == counts[1] > 0


def test_a_step_of_numpy_asks_for_no_operation_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor for those of dropout masks, which come as a list of named tuples."""
    monkeypatch.setitem(current._operations, "device", None)
    words = {"<NULL>": 0, "<START>": 1, "<END>": 2, "a": 3}
    model = xpcap.CaptioningRNN(words, 6, 4, 5, "lstm", np.float32, dropout=0.5)
    loss, _ = model.loss(np.ones((2, 6), "f4"), np.array([[1, 3, 2], [1, 2, 0]]))
    assert np.isfinite(loss)


@pytest.mark.parametrize("how", ["rows", "columns", "other-dtype"])
def test_host_adam_runs_its_equation_where_arrays_are_not_flat_and_alike(how: str) -> None:
    w, dw, m, v = np.random.default_rng(0).standard_normal((4, 6, 6)) ** 2
    expected = w - 0.5 * (0.1 * dw + 0.9 * m) / (np.sqrt(0.001 * dw * dw + 0.999 * v) + 1e-8)
    arrays = [x.astype("f4") if how == "other-dtype" and x is dw else x for x in (w, dw, m, v)]
    given = [x.T if how == "columns" else x for x in arrays]
    HostOps().adam_update(*given, 0.5, 0.9, 0.999, 1e-8)
    np.testing.assert_allclose(w, expected, rtol=1e-6)


def test_plain_only_is_the_equations_and_ends() -> None:
    x = np.zeros(4)
    assert type(get_ops(x)) is HostOps
    with ops.plain_only():
        assert type(get_ops(x)) is Ops
    assert type(get_ops(x)) is HostOps
