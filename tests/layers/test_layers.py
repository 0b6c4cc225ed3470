"""Layers: what each refuses, values by hand, sequences in pieces. What else holds of every layer is its
contract, in tests/testing/test_layer_contract.py.
"""

from typing import Any

import layer_cases
import numpy as np
import pytest
from layer_cases import PAIRS
from refusals import Refusal, refusals, refuses

from xpcap import layers, to_numpy
from xpcap.backend.memory import Workspace
from xpcap.gradcheck import eval_numerical_gradient_array, rel_error
from xpcap.layers import vocabulary_loss
from xpcap.layers.lstm import LSTM
from xpcap.layers.rnn import RNN
from xpcap.ops import LossTerms, PackedSequences
from xpcap.testing.layer import Trial, trials

N, T, D, H, V = 3, 4, 5, 2, 9
SEQUENCE = layer_cases.trial("lstm", N=N, T=T, D=D, H=H)
TRIALS = [
    trial
    for pair in PAIRS.values()
    for trial in trials(**pair)
    if all(size > 1 for shape in trial.shapes.values() for size in shape)
]
each_layer = pytest.mark.parametrize("trial", TRIALS, ids=str)


# ---- Refusals of every layer


@each_layer
def test_upstream_gradients_of_another_shape_dtype_or_kind_are_refused(
    trial: Trial,
) -> None:
    arguments, upstream = trial.draw()
    _, cache = trial.run(arguments)
    for name, dout in upstream.items():
        for error, bad, text in (
            (ValueError, np.concatenate((dout, dout)), "the shape of the output"),
            (ValueError, dout[..., :1], "the shape of the output"),
            (TypeError, dout.astype(np.float32), "dtype float32"),
            (TypeError, dout.tolist(), "is a list"),
            (TypeError, np.ma.array(dout), "is a masked array"),
        ):
            with refuses(error, name, text):
                trial.gradients(upstream | {name: bad}, cache)


@each_layer
def test_arguments_of_another_shape_dtype_kind_or_library_are_refused(
    trial: Trial, device: Any
) -> None:
    import cupy

    arrays, _ = trial.draw()
    for name, x in arrays.items():
        for bad in (x.astype(complex), x.tolist(), np.ma.array(x)):
            with refuses(TypeError, name):
                trial.run(arrays | {name: bad})
        if len(arrays) == 1:
            continue
        with refuses(TypeError, "asarray"):  # move one
            trial.run(arrays | {name: cupy.asarray(x)})
        if name in trial.floats:
            with refuses(ValueError, "has shape"):  # it may be another's: the first is right
                trial.run(arrays | {name: x[None]})
        if name in trial.floats[1:]:
            with refuses(TypeError, name, "dtype float32"):
                trial.run(arrays | {name: x.astype(np.float32)})


# ---- Values


def test_values_match_hand_computed() -> None:
    """One unit whose gates come out as i = 1/2, f = 3/4, o = 1/5 and g = 3/5: a mistaken order
    shows.
    """
    x, h, c = np.array([[1.0]]), np.array([[0.5]]), np.array([[2.0]])
    Wx, Wh = np.array([[1.0, -1.0, 2.0, 0.5]]), np.array([[2.0, 4.0, -2.0, 1.0]])
    # sigmoid(log k) = k / (k + 1)
    b = np.log([1, 3, 1 / 4, 2]) - np.array([2.0, 1.0, 1.0, 1.0])
    next_h, next_c, _ = layers.lstm_step_forward(x, h, c, Wx, Wh, b)
    assert next_c.item() == pytest.approx(0.75 * 2 + 0.5 * 0.6, rel=1e-14)
    assert next_h.item() == pytest.approx(0.2 * 0.9468060128462683, rel=1e-14)  # tanh(1.8)
    next_h, _ = layers.rnn_step_forward(x, h, np.array([[0.5]]), np.array([[1.0]]), np.array([0.0]))
    assert next_h.item() == pytest.approx(0.7615941559557649, rel=1e-14)  # tanh(1)
    Wx, Wh, b = np.array([[1.0, 0, 0]]), np.array([[-2.0, 0, 2.0]]), np.array([0, np.log(3), 0.5])
    next_h, _ = layers.gru_step_forward(x, h, Wx, Wh, b)  # r = 1/2, z = 3/4, n = tanh(1)
    assert next_h.item() == pytest.approx(0.25 * 0.7615941559557649 + 0.75 * 0.5, rel=1e-14)
    x, w = np.array([[[1.0, 2.0], [3.0, 4.0]]]), np.array([[1.0], [10.0], [100.0], [1000.0]])
    out, _ = layers.affine_forward(x, w, np.array([0.5]))
    assert out.item() == 4321.5


def test_pieces_of_a_sequence_that_carry_the_state_equal_the_whole_both_ways(
    lib: Any, rng: np.random.Generator
) -> None:
    """Pieces of 3, 0, 1 and 6 steps."""
    x, dh = rng.standard_normal((N, 10, D)), rng.standard_normal((N, 10, H))
    h0, c0, dc_T = rng.standard_normal((3, N, H))
    weights = (rng.standard_normal(SEQUENCE.shapes[name]) for name in ("Wx", "Wh", "b"))
    x, dh, h0, c0, dc_T, *weights = lib(x, dh, h0, c0, dc_T, *weights)
    *whole, cache = layers.lstm_forward(x, h0, *weights, c0=c0)
    dx, dh0, *dweights, dc0 = layers.lstm_backward(dh, cache, dc_T=dc_T)
    pieces, states, caches = (slice(3), slice(3, 3), slice(3, 4), slice(4, 10)), [], []
    state = h0, c0
    for piece in pieces:
        h, c_T, cache = layers.lstm_forward(x[:, piece], state[0], *weights, c0=state[1])
        state = h[:, -1] if h.shape[1] else state[0], c_T
        states.append(h)
        caches.append(cache)
    close = {"rtol": 1e-12, "atol": 1e-13}
    for one, piecewise in zip(whole, (lib.xp.concatenate(states, axis=1), c_T), strict=True):
        np.testing.assert_allclose(to_numpy(piecewise), to_numpy(one), **close)

    totals, dh_next, dc_next = [0.0, 0.0, 0.0], lib.xp.zeros_like(h0), dc_T
    for piece, cache in zip(reversed(pieces), reversed(caches), strict=True):
        upstream = dh[:, piece].copy()
        if upstream.shape[1]:
            upstream[:, -1] += dh_next
        piece_dx, dh_last, *more, dc_next = layers.lstm_backward(upstream, cache, dc_T=dc_next)
        dh_next = dh_last if upstream.shape[1] else dh_next
        totals = [total + part for total, part in zip(totals, more, strict=True)]
        np.testing.assert_allclose(to_numpy(piece_dx), to_numpy(dx[:, piece]), **close)
    for one, piecewise in zip((dh0, *dweights, dc0), (dh_next, *totals, dc_next), strict=True):
        np.testing.assert_allclose(to_numpy(piecewise), to_numpy(one), **close)


def test_a_cell_that_begins_at_zero_is_the_courses_and_no_gradient_of_its_last_is_zeros(
    lib: Any,
) -> None:
    (inputs, upstream), zeros = SEQUENCE.draw(), lib(np.zeros((N, H)))
    inputs, dh = lib(*map(to_numpy, inputs.values())), lib(to_numpy(upstream["dh"]))
    h, cache = layers.lstm_forward(*inputs)
    carried_h, c_T, carried = layers.lstm_forward(*inputs, c0=zeros)
    np.testing.assert_array_equal(to_numpy(carried_h), to_numpy(h))
    assert to_numpy(c_T).all()
    grads = layers.lstm_backward(dh, cache)
    assert len(grads) == 5
    *without, dc0 = layers.lstm_backward(dh, carried)
    *given, given_dc0 = layers.lstm_backward(dh, carried, dc_T=zeros)
    for course, ours, theirs in zip(
        (*grads, dc0), (*without, dc0), (*given, given_dc0), strict=True
    ):
        np.testing.assert_array_equal(to_numpy(ours), to_numpy(course))
        np.testing.assert_allclose(
            to_numpy(theirs), to_numpy(course), rtol=1e-13, atol=1e-15
        )  # a device takes other kernels


def test_words_that_repeat_add_their_gradients_also_of_a_narrow_type(lib: Any) -> None:
    """One more than the largest id does not fit such a type."""
    ids, dout = np.array([[255, 255, 0]], np.uint8), [[[1.0, 2.0], [10.0, 20.0], [5.0, 5.0]]]
    _, cache = layers.word_embedding_forward(*lib(ids, np.zeros((256, 2))))
    dW = to_numpy(layers.word_embedding_backward(lib(np.array(dout)), cache))
    assert dW.sum(axis=1).nonzero()[0].tolist() == [0, 255]
    np.testing.assert_array_equal(dW[[0, 255]], [[5, 5], [11, 22]])


def test_softmax_loss_matches_finite_differences_and_masked_steps_get_nothing(
    lib: Any, rng: np.random.Generator
) -> None:
    x, y = rng.standard_normal((N, T, V)), rng.integers(0, V, (N, T))
    mask = rng.random((N, T)) > 0.4
    loss, dx = layers.temporal_softmax_loss(*lib(x, y, mask))
    steps = zip(*np.nonzero(mask), strict=True)
    by_hand = sum(np.log(np.exp(x[n, t]).sum()) - x[n, t, y[n, t]] for n, t in steps) / N
    assert float(loss) == pytest.approx(by_hand, rel=1e-13)
    numeric = eval_numerical_gradient_array(
        lambda x: np.asarray(layers.temporal_softmax_loss(x, y, mask)[0]), x, np.ones(())
    )
    np.testing.assert_allclose(to_numpy(dx), numeric, rtol=1e-6, atol=1e-10)
    assert not to_numpy(dx)[~mask].any()


@pytest.mark.parametrize(
    ("x", "mask", "loss", "dx"),
    [
        # a confident wrong answer, of which the course's log of a probability gives inf
        ([[[2000.0, 0.0]]], [[1]], 2000, [[[1, -1]]]),
        # rows of very different scores
        ([[[0.0, 1000.0]], [[0.0, 0.0]]], [[1], [1]], np.log(2) / 2, [[[0, 0]], [[0.25, -0.25]]]),
        # what a masked step holds
        ([[[0.0, 0.0], [-np.inf, 3.0]]], [[1, 0]], np.log(2), [[[0.5, -0.5], [0, 0]]]),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_loss_takes_any_scores(dtype: str, x: Any, mask: Any, loss: float, dx: Any) -> None:
    scores, mask = np.array(x, dtype), np.array(mask, bool)
    found, dscores = layers.temporal_softmax_loss(scores, np.ones_like(mask, int), mask)
    assert found.dtype == dscores.dtype == dtype
    assert float(found) == pytest.approx(loss, rel=1e-6)
    np.testing.assert_allclose(dscores, dx, rtol=1e-6)


@pytest.mark.parametrize("seed", [None, 5])
def test_dropout_draws_the_courses_mask_in_training_and_does_nothing_in_testing(
    seed: int | None, rng: np.random.Generator
) -> None:
    x = rng.standard_normal((5, 6))
    np.random.seed(231 if seed is None else seed)
    mask = (np.random.rand(5, 6) < 0.3) / 0.3
    np.random.seed(231)
    out, cache = layers.dropout_forward(x, {"p": 0.3, "mode": "train", "seed": seed})
    np.testing.assert_allclose(out, x * mask)
    np.testing.assert_allclose(layers.dropout_backward(x, cache), x * mask)
    np.testing.assert_array_equal(layers.dropout_forward(x, {"p": 0.3, "mode": "test"})[0], x)


@refusals(
    """
    dropout({"p": 0.0, "mode": "train"}) | dropout_forward:  | p | is 0.0
    dropout({"p": 1.1, "mode": "train"}) | dropout_forward:  | p | is 1.1
    dropout({"p": 0.5, "mode": "trian"}) | dropout_forward:  | mode | 'trian' | did you mean 'train'
    dropout({"mode": "train"}) | dropout_forward:  | dropout_param | lacks p
    dropout({"p": 0.5, "mode": "train", "sed": 1}) | dropout_forward:  | dropout_param | 'sed' | did you mean 'seed'
    call("lstm", Wh=zeros(H, 3 * H)) | lstm_forward:  | Wh | has shape (2, 6) | (H, 4H) = (2, 8) | i, f, o, g
    call("lstm", c0=zeros(N, H + 1)) | lstm_forward:  | c0 | has shape (3, 3) | (N, H) = (3, 2)
    call("affine", w=zeros(5, 3)) | affine_forward:  | w | has shape (5, 3) | D = 6
    layers.lstm_backward(dh, carried, dc_T=dh[1:, 0]) | lstm_backward:  | dc_T | has shape (2, 2) | (3, 2)
    layers.lstm_backward(dh, plain, dc_T=dh[:, 0]) | lstm_backward:  | got dc_T | returned no c_T | pass c0 to lstm_forward
    LSTM.rows_backward(zeros(6, H), rows) | LSTMCell.rows_backward:  | dh | has shape (6, 2) | (7, 2)
    LSTM.step_forward(zeros(6, 4 * H), (zeros(1, H), zeros(1, H)), {"Wh": zeros(H, 4 * H)}) | LSTMCell.step_forward:  | a | has 6 rows | 1, as the state
    LSTM.step_backward((zeros(1, H),) * 2, step, {"Wh": zeros(H, 4 * H)}) | LSTMCell.step_backward:  | dh | has shape (1, 2) | (3, 2)
    packed([2, 3, 2]) | RNNCell.rows_forward:  | batch sizes | are [2, 3, 2] with N = 4
    packed([3, 2]) | RNNCell.rows_forward:  | batch sizes | are [3, 2] with N = 4
    packed([5, 2]) | RNNCell.rows_forward:  | batch sizes | are [5, 2] with N = 4
    packed([3, 2, 2, 0, 0, 1]) | RNNCell.rows_forward:  | batch sizes | are [3, 2, 2, 0, 0, 1] with N = 4
    unindexed([3, 2, 1], 3) | RNNCell.rows_forward:  | batch sizes | of(sizes, N)
    embed([[0, 9]]) | 0..8
    embed([[-1, 0]]) | 0..8
    loss(zeros(1, 2, V), [[0, 9]], [[True, True]]) | 0..8
    loss(zeros(1, 2, V), [[-1, 0]], [[True, True]]) | 0..8
    loss(zeros(1, 2, V), [[0, 1]], [[True, True, True]]) | mask | has shape (1, 3)
    loss(zeros(0, 2, V), np.zeros((0, 2), int), np.ones((0, 2), bool)) | temporal_softmax_loss:  | x | has shape (0, 2, 9)
    """,
    error=ValueError,
)
def test_shapes_and_values_are_named_with_what_was_wanted(refusal: Refusal) -> None:
    refusal.check({**globals(), **caches()})


@refusals(
    """
    call("lstm", c0=0.0) | lstm_forward:  | c0 | is a float | asarray
    layers.lstm_backward(dh, call("rnn")[1]) | lstm_backward:  | cache | is a SequenceCache | the cache of lstm_forward
    layers.rnn_step_backward(dh[:, 0], None) | cache | is a NoneType | the cache of rnn_step_forward
    loss(zeros(1, 2, V), [[0, 1]], [[1.0, 1.0]]) | mask | has dtype float64
    layers.temporal_softmax_loss(zeros(1, 2, V), np.array([[0, 1]]), [[True, False]]) | mask | is a list
    """,
    error=TypeError,
)
def test_kinds_and_dtypes_are_named_with_what_was_wanted(refusal: Refusal) -> None:
    refusal.check({**globals(), **caches()})


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def call(pair: str, **changed: Any) -> Any:
    """A forward pass of float32, with some arguments changed."""
    trial = layer_cases.trial(pair, N=N, T=T, H=H)
    return trial.run(trial.draw(np.float32)[0] | changed)


def caches() -> dict[str, Any]:
    """Upstream gradients of an LSTM, and caches of one with c0, without, of rows and of a step."""
    arguments, upstream = SEQUENCE.draw(np.float32)
    rows = PackedSequences.of([3, 2, 2], 4)
    state0, state, Wh = (zeros(4, H),) * 2, (zeros(N, H),) * 2, zeros(H, 4 * H)
    return upstream | {
        "plain": layers.lstm_forward(**arguments)[-1],
        "carried": layers.lstm_forward(**arguments, c0=zeros(N, H))[-1],
        "rows": LSTM.rows_forward(zeros(7, 4 * H), state0, {"Wh": Wh}, rows)[-1],
        "step": LSTM.step_forward(zeros(N, 4 * H), state, {"Wh": Wh})[-1],
    }


def dropout(param: dict[str, Any]) -> Any:
    return layers.dropout_forward(np.ones(3), param)


def packed(sizes: list[int]) -> Any:
    rows = PackedSequences.of(sizes, 4)
    return RNN.rows_forward(zeros(7, H), (zeros(4, H),), {"Wh": zeros(H, H)}, rows)


def unindexed(sizes: list[int], N: int) -> Any:
    """A loop over rows without indices."""
    rows = PackedSequences(sizes, N, None, None)
    return RNN.rows_forward(zeros(rows.R, H), (zeros(N, H),), {"Wh": zeros(H, H)}, rows)


def embed(ids: Any) -> Any:
    return layers.word_embedding_forward(np.array(ids), zeros(V, D))


def loss(x: np.ndarray, y: Any, mask: Any) -> Any:
    return layers.temporal_softmax_loss(x, np.array(y), np.array(mask))


def test_rel_error_is_the_courses() -> None:
    assert rel_error(np.array([1.0, 0.0]), np.array([1.1, 1e-9])) == pytest.approx(0.1)
    assert rel_error(np.array([1.0]), np.array([3.0])) == 0.5


@pytest.mark.parametrize(("block", "least"), [(1 << 22, 256), (6, 2), (1, 3)])
def test_vocabulary_loss_is_its_three_layers_and_holds_a_block_of_scores(
    block: int, least: int, lib: Any, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In blocks of all rows, of 2, and of 3 with one left over."""
    for name in ("BLOCK", "DEVICE_BLOCK"):
        monkeypatch.setattr(vocabulary_loss, name, block)
    monkeypatch.setattr(vocabulary_loss, "MIN_ROWS", least)
    h, w, b, scale = lib(*(rng.standard_normal(shape) for shape in ((10, 4), (4, 3), 3, 10)))
    targets, memory = lib(rng.integers(0, 3, 10).astype(np.int32)), Workspace(h)
    dw, db = memory.take("dw", w.shape), memory.take("db", b.shape)
    nll, dh = vocabulary_loss.vocabulary_loss(
        h, w, b, targets, LossTerms(scale), memory, out=(dw, db)
    )
    scores, cache = layers.affine_forward(h, w, b)
    loss, dscores = layers.temporal_softmax_loss(
        scores[None], targets[None], lib(np.ones((1, 10), bool))
    )
    assert float(nll.sum()) == pytest.approx(float(loss), rel=1e-14)
    for got, expected in zip(
        (dh, dw, db), layers.affine_backward(scale[:, None] * dscores[0], cache), strict=True
    ):
        np.testing.assert_allclose(to_numpy(got), to_numpy(expected), rtol=1e-12, atol=1e-15)
    before, rows = memory.nbytes, min(10, max(least, block // 3))
    memory.take("scores", (rows + 1, 3))
    assert memory.nbytes > before  # it held scores of so many rows at most


def test_vocabulary_loss_of_no_row_is_nothing() -> None:
    h, w, b = np.zeros((0, 4)), np.ones((4, 3)), np.ones(3)
    dw, db = np.empty_like(w), np.empty_like(b)
    terms, memory = LossTerms(np.zeros(0)), Workspace.fresh(h)
    nll, dh = vocabulary_loss.vocabulary_loss(
        h, w, b, np.zeros(0, int), terms, memory, out=(dw, db)
    )
    assert [x.shape for x in (nll, dh)] == [(0,), (0, 4)]
    assert not np.any(dw)
    assert not np.any(db)


@pytest.mark.parametrize(("dtype", "low"), [("float32", -87.0), ("float64", -700.0)])
def test_sigmoid_is_accurate_far_below_zero(dtype: str, low: float, lib: Any) -> None:
    """Where (1 + tanh(x / 2)) / 2 is already 0: float32 below -17, float64 below -37."""
    x = np.linspace(low, 40, 301).astype(dtype)
    wide = x.astype(np.longdouble)
    got = to_numpy(layers.sigmoid(lib(x)))
    assert got.dtype == dtype
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-wide)), rtol=8 * np.finfo(dtype).eps)
    assert (np.diff(got) >= 0).all()
    with np.errstate(over="raise", invalid="raise"):
        assert to_numpy(layers.sigmoid(lib(np.array([-1e30, 1e30], dtype)))).tolist() == [0, 1]
