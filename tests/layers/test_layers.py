"""Every public layer: gradients against finite differences, purity, dtypes, views, libraries against
each other and refusals, of whatever xpcap.layers has (helpers/layer_cases.py); values by hand.
"""

import itertools
from typing import Any

import layer_cases
import numpy as np
import pytest
from layer_cases import Case
from refusals import refuses

from xpcap import layers, to_numpy
from xpcap.gradcheck import eval_numerical_gradient_array, rel_error
from xpcap.layers import vocabulary_loss
from xpcap.memory import Workspace
from xpcap.ops import LossTerms, PackedSequences

CASES = layer_cases.cases()
N, T, D, H, V = (layer_cases.SIZES[letter] for letter in "NTDHV")
each_layer = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
each_cell = pytest.mark.parametrize("cell", layers.CELLS)


# ---- What holds of every layer


def test_every_pair_has_a_case() -> None:
    assert {name.split(",")[0] for name in CASES} == set(layer_cases.PAIRS)
    ways = {name for name in layers.__all__ if name.endswith(("_forward", "_backward"))}
    assert ways == {
        f"{pair}_{way}" for pair in layer_cases.PAIRS for way in ("forward", "backward")
    }


@each_layer
def test_backward_matches_finite_differences(case: Case, rng: np.random.Generator) -> None:
    arrays, upstream = case.draw(rng), case.draw_upstream(rng)
    grads = case.gradients(upstream, case.run(arrays)[1])
    for name, grad in grads.items():
        numeric = sum(
            eval_numerical_gradient_array(
                lambda _, result=dname[1:]: case.run(arrays)[0][result], arrays[name], dout
            )
            for dname, dout in upstream.items()
        )
        np.testing.assert_allclose(grad, numeric, rtol=1e-6, atol=1e-9, err_msg=name)


@each_layer
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_in_is_dtype_out_and_inputs_are_untouched(
    case: Case, dtype: str, lib: Any, rng: np.random.Generator
) -> None:
    host = case.draw(rng, dtype) | case.draw_upstream(rng, dtype)
    given = {name: lib(x) for name, x in host.items()}
    results, cache = case.run({name: given[name] for name in case.shapes})
    grads = case.gradients({name: given[name] for name in case.upstream}, cache)
    shapes = [*case.results.values(), *(case.shapes[name] for name in grads)]
    for shape, x in zip(shapes, (*results.values(), *grads.values()), strict=True):
        assert (x.dtype, x.shape) == (dtype, shape)
        assert isinstance(x, lib.xp.ndarray)
        assert not any(lib.xp.shares_memory(one, x) for one in given.values())
    for name, x in given.items():
        np.testing.assert_array_equal(to_numpy(x), host[name])


@each_layer
def test_two_caches_can_be_alive_at_once(case: Case, rng: np.random.Generator) -> None:
    """And each may be used twice."""
    first, second, upstream = case.draw(rng), case.draw(rng), case.draw_upstream(rng)
    alone = case.gradients(upstream, case.run(first)[1])
    (_, cache), (_, other) = case.run(first), case.run(second)
    case.gradients(upstream, other)
    for _ in range(2):
        for name, grad in case.gradients(upstream, cache).items():
            np.testing.assert_array_equal(grad, alone[name])


@each_layer
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-5)])
def test_views_on_any_library_give_what_contiguous_host_arrays_give(
    case: Case, dtype: str, tolerance: float, lib: Any, rng: np.random.Generator
) -> None:
    host = case.draw(rng, dtype) | case.draw_upstream(rng, dtype)

    def run(given: dict[str, Any]) -> dict[str, Any]:
        results, cache = case.run({name: given[name] for name in case.shapes})
        grads = case.gradients({name: given[name] for name in case.upstream}, cache)
        return results | {f"d{name}": grad for name, grad in grads.items()}

    found = run({name: lib(np.repeat(x, 2, axis=-1))[..., ::2] for name, x in host.items()})
    for name, x in run(host).items():
        close = {"rtol": tolerance, "atol": tolerance}
        np.testing.assert_allclose(to_numpy(found[name]), x, **close, err_msg=name)


@each_layer
def test_upstream_gradients_of_another_shape_dtype_or_kind_are_refused(
    case: Case, rng: np.random.Generator
) -> None:
    upstream, (_, cache) = case.draw_upstream(rng), case.run(case.draw(rng))
    for name, dout in upstream.items():
        for error, bad, fields in (
            (ValueError, np.concatenate((dout, dout)), {"expected": "the shape of the output"}),
            (ValueError, dout[..., :1], {"expected": "the shape of the output"}),
            (TypeError, dout.astype(np.float32), {"came": "dtype float32"}),
            (TypeError, dout.tolist(), {"came": "is a list"}),
        ):
            with refuses(error, thing=name, **fields):
                case.gradients(upstream | {name: bad}, cache)


@each_layer
def test_arguments_of_another_shape_dtype_kind_or_library_are_refused(
    case: Case, device: Any, rng: np.random.Generator
) -> None:
    import cupy

    arrays = case.draw(rng)
    for name, x in arrays.items():
        for bad in (x.astype(complex), x.tolist()):
            with refuses(TypeError, thing=name):
                case.run(arrays | {name: bad})
        if len(arrays) == 1:
            continue
        with refuses(TypeError, cause="asarray"):  # move one
            case.run(arrays | {name: cupy.asarray(x)})
        if name in case.floats:
            with refuses(ValueError, came="has shape"):  # it may be another's: the first is right
                case.run(arrays | {name: x[None]})
        if name in case.floats[1:]:
            with refuses(TypeError, thing=name, came="dtype float32"):
                case.run(arrays | {name: x.astype(np.float32)})


# ---- Values


def test_values_match_hand_computed() -> None:
    """One unit whose gates come out as i = 1/2, f = 3/4, o = 1/5 and g = 3/5: a mistaken order
    shows.
    """
    x, h, c = np.array([[1.0]]), np.array([[0.5]]), np.array([[2.0]])
    Wx, Wh = np.array([[1.0, -1.0, 2.0, 0.5]]), np.array([[2.0, 4.0, -2.0, 1.0]])
    b = np.array([0.0, np.log(3), -np.log(4), np.log(2)]) - np.array(
        [2.0, 1.0, 1.0, 1.0]
    )  # sigmoid(log k) = k / (k + 1)
    next_h, next_c, _ = layers.lstm_step_forward(x, h, c, Wx, Wh, b)
    assert next_c.item() == pytest.approx(0.75 * 2 + 0.5 * 0.6, rel=1e-14)
    assert next_h.item() == pytest.approx(0.2 * 0.9468060128462683, rel=1e-14)  # tanh(1.8)
    next_h, _ = layers.rnn_step_forward(x, h, np.array([[0.5]]), np.array([[1.0]]), np.array([0.0]))
    assert next_h.item() == pytest.approx(0.7615941559557649, rel=1e-14)  # tanh(1)
    Wx, Wh, b = np.array([[1.0, 0, 0]]), np.array([[-2.0, 0, 2.0]]), np.array([0, np.log(3), 0.5])
    next_h, _ = layers.gru_step_forward(x, h, Wx, Wh, b)  # r = 1/2, z = 3/4, n = tanh(1)
    assert next_h.item() == pytest.approx(0.25 * 0.7615941559557649 + 0.75 * 0.5, rel=1e-14)
    out, _ = layers.affine_forward(
        np.array([[[1.0, 2.0], [3.0, 4.0]]]),
        np.array([[1.0], [10.0], [100.0], [1000.0]]),
        np.array([0.5]),
    )
    assert out.item() == 4321.5


def weights_of(cell: str, rng: np.random.Generator) -> list[np.ndarray]:
    """Wx, Wh and b."""
    return [x for name, x in CASES[cell].draw(rng).items() if name in ("Wx", "Wh", "b")]


def test_pieces_of_a_sequence_that_carry_the_state_equal_the_whole_both_ways(
    lib: Any, rng: np.random.Generator
) -> None:
    """Pieces of 3, 0, 1 and 6 steps."""
    x, dh, (h0, c0, dc_T) = (
        rng.standard_normal((N, 10, D)),
        rng.standard_normal((N, 10, H)),
        rng.standard_normal((3, N, H)),
    )
    x, dh, h0, c0, dc_T, *weights = lib(x, dh, h0, c0, dc_T, *weights_of("lstm", rng))
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
    lib: Any, rng: np.random.Generator
) -> None:
    inputs, dh = CASES["lstm"].draw(rng).values(), rng.standard_normal((N, T, H))
    inputs, dh, zeros = lib(*inputs), lib(dh), lib(np.zeros((N, H)))
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


def test_repeated_words_add_their_gradients(lib: Any) -> None:
    x, W = lib(np.array([[2, 2, 0]])), lib(np.zeros((4, 2)))
    _, cache = layers.word_embedding_forward(x, W)
    dW = layers.word_embedding_backward(
        lib(np.array([[[1.0, 2.0], [10.0, 20.0], [5.0, 5.0]]])), cache
    )
    np.testing.assert_array_equal(to_numpy(dW), [[5, 5], [0, 0], [11, 22], [0, 0]])


def test_softmax_loss_matches_finite_differences_and_masked_steps_get_nothing(
    lib: Any, rng: np.random.Generator
) -> None:
    x, y, mask = (
        rng.standard_normal((N, T, V)),
        rng.integers(0, V, (N, T)),
        rng.random((N, T)) > 0.4,
    )
    loss, dx = layers.temporal_softmax_loss(*lib(x, y, mask))
    by_hand = (
        sum(
            np.log(np.exp(x[n, t]).sum()) - x[n, t, y[n, t]]
            for n, t in zip(*np.nonzero(mask), strict=True)
        )
        / N
    )
    assert float(loss) == pytest.approx(by_hand, rel=1e-13)
    numeric = eval_numerical_gradient_array(
        lambda x: np.asarray(layers.temporal_softmax_loss(x, y, mask)[0]), x, np.ones(())
    )
    np.testing.assert_allclose(to_numpy(dx), numeric, rtol=1e-6, atol=1e-10)
    assert not to_numpy(dx)[~mask].any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_confident_wrong_answer_costs_what_it_should(dtype: str) -> None:
    """The course's log of a probability gives inf here."""
    x = np.array([[[2000.0, 0.0]]], dtype)
    loss, dx = layers.temporal_softmax_loss(x, np.array([[1]]), np.array([[True]]))
    assert loss == 2000
    assert loss.dtype == dx.dtype == dtype
    np.testing.assert_array_equal(dx, [[[1, -1]]])


def test_rows_of_very_different_scores_do_not_disturb_each_other() -> None:
    x = np.array([[[2000.0, 1999.0]], [[0.0, 1.0]]])
    loss, dx = layers.temporal_softmax_loss(x, np.array([[0], [0]]), np.ones((2, 1), bool))
    assert float(loss) == pytest.approx((np.log1p(np.exp(-1)) + np.log1p(np.exp(1))) / 2)
    assert dx[1, 0, 1] == pytest.approx(0.5 / (1 + np.exp(-1)))


def test_a_masked_step_may_hold_anything() -> None:
    x = np.array([[[0.0, 1.0], [-np.inf, 3.0]]])
    loss, dx = layers.temporal_softmax_loss(x, np.array([[0, 1]]), np.array([[True, False]]))
    assert np.isfinite(loss)
    np.testing.assert_array_equal(dx[0, 1], 0)
    for mask, error in (
        ([[True, False]], TypeError),
        (np.ones((1, 2)), TypeError),
        (np.ones((1, 3), bool), ValueError),
    ):
        with refuses(error, thing="mask"):
            layers.temporal_softmax_loss(x, np.array([[0, 1]]), mask)


def test_dropout_keeps_the_mean_in_training_and_does_nothing_in_testing() -> None:
    x = np.ones((300, 400))
    out, cache = layers.dropout_forward(x, {"p": 0.25, "mode": "train", "seed": 1})
    assert set(np.unique(out)) == {0.0, 4.0}
    assert out.mean() == pytest.approx(1, abs=0.02)  # standard error 0.005
    np.testing.assert_array_equal(layers.dropout_backward(x, cache), out)
    np.testing.assert_array_equal(layers.dropout_forward(x, {"p": 0.25, "mode": "test"})[0], x)


@pytest.mark.parametrize("seed", [None, 5])
def test_dropout_draws_the_courses_mask(seed: int | None) -> None:
    x = np.ones((5, 6))
    np.random.seed(231 if seed is None else seed)
    expected = (np.random.rand(5, 6) < 0.3) / 0.3
    np.random.seed(231)
    out, _ = layers.dropout_forward(x, {"p": 0.3, "mode": "train", "seed": seed})
    np.testing.assert_allclose(out, expected)


@pytest.mark.parametrize(
    ("param", "thing", "came", "cause"),
    [
        ({"p": 0.0, "mode": "train"}, "p", "is 0.0", ""),
        ({"p": 1.1, "mode": "train"}, "p", "is 1.1", ""),
        ({"p": 0.5, "mode": "trian"}, "mode", "'trian'", "did you mean 'train'"),
        ({"mode": "train"}, "dropout_param", "lacks p", ""),
        ({"p": 0.5, "mode": "train", "sed": 1}, "dropout_param", "'sed'", "did you mean 'seed'"),
    ],
)
def test_bad_dropout_parameters_are_refused(
    param: dict[str, Any], thing: str, came: str, cause: str
) -> None:
    with refuses(ValueError, function="dropout_forward", thing=thing, came=came, cause=cause):
        layers.dropout_forward(np.ones(3), param)


@pytest.mark.parametrize(
    ("name", "changed", "error", "fields"),
    [
        (
            "lstm",
            {"Wh": np.zeros((H, 3 * H), "f4")},
            ValueError,
            {
                "function": "lstm_forward",
                "thing": "Wh",
                "came": "has shape (2, 6)",
                "expected": "(H, 4H) = (2, 8)",
                "cause": "i, f, o, g",
            },
        ),
        (
            "lstm",
            {"h0": np.zeros((N + 1, H), "f4")},
            ValueError,
            {"thing": "h0", "came": "has shape (4, 2)", "expected": "N = 3"},
        ),
        (
            "lstm",
            {"x": np.zeros((N, D), "f4")},
            ValueError,
            {"thing": "x", "came": "has shape (3, 5)", "expected": "(N, T, D)"},
        ),
        (
            "lstm, c0",
            {"c0": np.zeros((N, H + 1), "f4")},
            ValueError,
            {
                "function": "lstm_forward",
                "thing": "c0",
                "came": "has shape (3, 3)",
                "expected": "(N, H) = (3, 2)",
            },
        ),
        (
            "lstm, c0",
            {"c0": np.zeros((N, H))},
            TypeError,
            {
                "function": "lstm_forward",
                "thing": "c0",
                "came": "has dtype float64",
                "expected": "float32, as x has",
            },
        ),
        (
            "lstm, c0",
            {"c0": 0.0},
            TypeError,
            {"function": "lstm_forward", "thing": "c0", "came": "is a float", "cause": "asarray"},
        ),
        (
            "lstm_step",
            {"b": np.zeros(4 * H)},
            TypeError,
            {
                "function": "lstm_step_forward",
                "thing": "b",
                "came": "has dtype float64",
                "expected": "float32, as x has",
                "cause": "astype",
            },
        ),
        (
            "rnn",
            {"Wx": [[0.0]]},
            TypeError,
            {"function": "rnn_forward", "thing": "Wx", "came": "is a list", "cause": "asarray"},
        ),
        (
            "rnn_step",
            {"x": np.zeros((N, D), int)},
            TypeError,
            {"thing": "x", "came": "has dtype int64", "expected": "float32 or float64"},
        ),
        (
            "affine",
            {"w": np.zeros((D, 6), "f4")},
            ValueError,
            {
                "function": "affine_forward",
                "thing": "w",
                "came": "has shape (5, 6)",
                "expected": "D = 10",
            },
        ),
        (
            "temporal_affine",
            {"b": np.zeros((6, 1), "f4")},
            ValueError,
            {"thing": "b", "came": "has shape (6, 1)", "expected": "(M,)"},
        ),
    ],
)
def test_bad_arrays_are_named_with_what_was_wanted(
    name: str,
    changed: dict[str, Any],
    error: type[Exception],
    fields: dict[str, Any],
    rng: np.random.Generator,
) -> None:
    with refuses(error, **fields):
        CASES[name].run(CASES[name].draw(rng, np.float32) | changed)


def test_a_gradient_of_the_last_cell_that_does_not_fit_is_refused(rng: np.random.Generator) -> None:
    *inputs, c0 = CASES["lstm, c0"].draw(rng).values()
    dh, dc_T = CASES["lstm, c0"].draw_upstream(rng).values()
    *_, cache = layers.lstm_forward(*inputs, c0=c0)
    with refuses(
        ValueError,
        function="lstm_backward",
        thing="dc_T",
        came="has shape (2, 2)",
        expected="(3, 2)",
    ):
        layers.lstm_backward(dh, cache, dc_T=dc_T[1:])
    with refuses(TypeError, function="lstm_backward", thing="dc_T", came="has dtype float32"):
        layers.lstm_backward(dh, cache, dc_T=dc_T.astype("f4"))
    with refuses(
        ValueError,
        function="lstm_backward",
        came="got dc_T",
        expected="returned no c_T",
        cause="pass c0 to lstm_forward",
    ):
        layers.lstm_backward(dh, layers.lstm_forward(*inputs)[1], dc_T=dc_T)
    a, state0, Wh = np.zeros((7, 4 * H)), (np.zeros((4, H)),) * 2, np.zeros((H, 4 * H))
    _, loop = layers.lstm_rows_forward(a, state0, Wh, PackedSequences.of([3, 2, 2], 4))
    with refuses(
        ValueError,
        function="lstm_rows_backward",
        thing="dc_T",
        came="has shape (3, 2)",
        expected="(4, 2)",
    ):
        layers.lstm_rows_backward(np.zeros((7, H)), loop, dc_T=dc_T)


def test_buffers_of_an_lstm_are_one_allocation_and_do_not_overlap(lib: Any) -> None:
    """Four would be given back to the system after each pass, and paged in again in the next
    one.
    """
    a, state0, Wh = (
        lib(np.ones((7, 4 * H))),
        (lib(np.ones((4, H))), lib(np.ones((4, H)))),
        lib(np.ones((H, 4 * H))),
    )
    _, cache = layers.lstm_rows_forward(a, state0, Wh, PackedSequences.of([3, 2, 2], 4))
    arrays = [*cache.states, *cache.saved.values()]
    assert not any(lib.xp.shares_memory(x, y) for x, y in itertools.combinations(arrays, 2))
    if lib.name != "emulated":
        assert len({id(x if x.base is None else x.base) for x in arrays}) == 1


@pytest.mark.parametrize("name", [name for name in CASES if "_rows" not in name])
@pytest.mark.parametrize(("n", "t"), [(1, T), (N, 1), (N, 0)])
def test_results_share_no_memory_with_caches_at_any_size(
    name: str, n: int, t: int, rng: np.random.Generator
) -> None:
    """But for those of packed rows, which are views into the cache."""
    case = layer_cases.cases(layer_cases.SIZES | {"N": n, "T": t})[name]
    results, cache = case.run(case.draw(rng))
    upstream = case.draw_upstream(rng)
    grads = case.gradients(upstream, cache)
    before = {name: grad.copy() for name, grad in grads.items()}
    for x in (*results.values(), *grads.values()):
        x[...] = 7
    for name, grad in case.gradients(upstream, cache).items():
        np.testing.assert_array_equal(grad, before[name], err_msg=name)


@pytest.mark.parametrize("sizes", [[3, 2], [2, 3, 2], [5, 2], [3, 2, 2, 0, 0, 1]])
def test_packed_sizes_that_do_not_fit_are_refused(sizes: list[int]) -> None:
    with refuses(ValueError, function="rnn_rows_forward", thing="batch sizes"):
        layers.rnn_rows_forward(
            np.zeros((7, H)), (np.zeros((4, H)),), np.zeros((H, H)), PackedSequences.of(sizes, 4)
        )


def test_a_layout_of_unequal_steps_without_indices_is_refused() -> None:
    layout = PackedSequences([3, 2, 1], 3, None, None)
    with refuses(
        ValueError, function="rnn_rows_forward", thing="batch sizes", cause="of(sizes, N)"
    ):
        layers.rnn_rows_forward(np.zeros((6, H)), (np.zeros((3, H)),), np.zeros((H, H)), layout)


@pytest.mark.parametrize("ids", [np.array([[0, 9]]), np.array([[-1, 0]])])
def test_word_ids_outside_the_vocabulary_are_refused(ids: np.ndarray) -> None:
    with refuses(ValueError, expected="0..8"):
        layers.word_embedding_forward(ids, np.zeros((V, D)))
    with refuses(ValueError, expected="0..8"):
        layers.temporal_softmax_loss(np.zeros((1, 2, V)), ids, np.ones((1, 2), bool))


def test_a_mean_loss_of_no_sequences_is_refused() -> None:
    with refuses(
        ValueError, function="temporal_softmax_loss", thing="x", came="has shape (0, 2, 3)"
    ):
        layers.temporal_softmax_loss(
            np.zeros((0, 2, 3)), np.zeros((0, 2), int), np.ones((0, 2), bool)
        )


def test_rel_error_is_the_courses() -> None:
    assert rel_error(np.array([1.0, 0.0]), np.array([1.1, 1e-9])) == pytest.approx(0.1)
    assert rel_error(np.array([1.0]), np.array([3.0])) == 0.5


def test_ids_of_a_narrow_type_find_every_row_of_the_table(lib: Any) -> None:
    """One more than the largest id does not fit such a type."""
    x = np.array([[0, 255, 255]], np.uint8)
    _, cache = layers.word_embedding_forward(*lib(x, np.zeros((256, 2))))
    dW = to_numpy(layers.word_embedding_backward(lib(np.ones((1, 3, 2))), cache))
    assert dW.sum(axis=1).nonzero()[0].tolist() == [0, 255]
    assert dW[255].tolist() == [2, 2]


@pytest.mark.parametrize(("block", "least"), [(1 << 22, 256), (6, 2), (1, 3)])
def test_vocabulary_loss_is_its_three_layers_and_holds_a_block_of_scores(
    block: int, least: int, lib: Any, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In blocks of all rows, of 2, and of 3 with one left over."""
    for name in ("BLOCK", "DEVICE_BLOCK"):
        monkeypatch.setattr(vocabulary_loss, name, block)
    monkeypatch.setattr(vocabulary_loss, "LEAST", least)
    h, w, b, scale = lib(*(rng.standard_normal(shape) for shape in ((10, 4), (4, 3), 3, 10)))
    targets, workspace = lib(rng.integers(0, 3, 10).astype(np.int32)), Workspace(h)
    nll, grads = vocabulary_loss.vocabulary_loss(
        h, w, b, targets, LossTerms(scale), workspace.buffer
    )
    scores, cache = layers.affine_forward(h, w, b)
    loss, dscores = layers.temporal_softmax_loss(
        scores[None], targets[None], lib(np.ones((1, 10), bool))
    )
    assert float(nll.sum()) == pytest.approx(float(loss), rel=1e-14)
    for got, expected in zip(
        grads, layers.affine_backward(scale[:, None] * dscores[0], cache), strict=True
    ):
        np.testing.assert_allclose(to_numpy(got), to_numpy(expected), rtol=1e-12, atol=1e-15)
    rows = max(least, block // 3)
    assert workspace._buffers["scores"].size == min(10, rows) * 3


def test_vocabulary_loss_of_no_row_is_nothing() -> None:
    nll, grads = vocabulary_loss.vocabulary_loss(
        np.zeros((0, 4)), np.ones((4, 3)), np.ones(3), np.zeros(0, int), LossTerms(np.zeros(0))
    )
    assert nll.shape == (0,)
    assert [x.shape for x in grads] == [(0, 4), (4, 3), (3,)]
    assert not np.any(grads.w)
    assert not np.any(grads.b)
    with refuses(
        ValueError,
        function="vocabulary_loss",
        thing="targets",
        came="hold 3..3",
        expected="0..2",
    ):
        vocabulary_loss.vocabulary_loss(
            np.zeros((1, 4)), np.ones((4, 3)), np.ones(3), np.array([3]), LossTerms()
        )
