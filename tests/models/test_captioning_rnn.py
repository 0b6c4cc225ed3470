"""The captioner: published losses, packing against padding, parameters, sampling, and what it
refuses. The numeric check of its gradients is in the contract of cells, tests/testing/test_cell.py.
"""

from typing import Any

import numpy as np
import pytest
from captioners import (
    WORDS,
    D,
    H,
    N,
    P,
    T,
    V,
    W,
    batch,
    draw_features,
    lively,
    make,
    padded,
    strong,
)
from refusals import Refusal, refusals, refuses

from xpcap import CaptioningRNN, CaptioningSolver, layers, models, to_numpy
from xpcap.backend.memory import Workspace
from xpcap.cs231n.verify import read_cases
from xpcap.models import FeatureRows, captioning_rnn
from xpcap.models.batch import caption_lengths, deal, pack

CELLS = pytest.mark.parametrize("cell", [*layers.CELLS, "plain"])
INJECT = pytest.mark.parametrize("inject", models.config.INJECT)
pytestmark = pytest.mark.usefixtures("new_cells")


@CELLS
@INJECT
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_packed_equals_padded(
    cell: str, inject: str, dropout: float, rng: np.random.Generator
) -> None:
    """The loss and all gradients; of the score, without dropout, the loss and the words."""
    features, captions = batch(rng, inject)
    model = make(cell, dropout, inject=inject)
    loss, grads = model.loss(features, captions)
    expected, expected_grads = padded(model, features, captions)
    assert loss == pytest.approx(expected, rel=1e-12)
    assert set(grads) == set(expected_grads)
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, expected_grads[name], rtol=1e-12, atol=1e-12, err_msg=name)
    if not dropout:
        score = make(cell, 0.5, inject=inject).score(features, captions)
        assert float(score.nll) / N == pytest.approx(expected, rel=1e-12)
        assert score.tokens == (captions[:, 1:] != 0).sum()


@pytest.mark.parametrize("case", read_cases()["captioners"], ids=lambda case: case["cell"])
def test_parameters_set_as_the_course_does_give_its_loss_and_are_trained_from(case: Any) -> None:
    model = CaptioningRNN(case["word_to_idx"], 20, 30, 40, case["cell"], np.float64)
    for k, v in model.params.items():
        model.params[k] = np.linspace(-1.4, 1.3, num=v.size).reshape(*v.shape)
    data = {
        "train_captions": (np.arange(130) % 3).reshape(10, 13),
        "train_features": np.linspace(*case["features"]["linspace"], num=200).reshape(10, 20),
        "train_image_idxs": np.arange(10),
        "idx_to_word": ["<NULL>", "<START>", "<END>", "<UNK>"],
        "word_to_idx": {},
    }
    loss, _ = model.loss(data["train_features"], data["train_captions"])
    assert float(loss) == pytest.approx(case["published_loss"], abs=1e-10)
    rate = {"learning_rate": 1e-2}
    solver = CaptioningSolver(
        model,
        data,
        update_rule="adam",
        optim_config=rate,
        num_epochs=20,
        batch_size=10,
        verbose=False,
    )
    solver.train()
    assert solver.loss_history[0] == pytest.approx(case["published_loss"], abs=1e-10)
    assert min(solver.loss_history) == solver.loss_history[-1] < 0.9 * case["published_loss"]


@pytest.mark.parametrize(("inject", "added"), [("every-step", "W_image"), ("attention", "Wattn")])
def test_a_picture_at_every_step_is_drawn_small_and_after_everything_else(
    inject: str, added: str
) -> None:
    once, each = make("lstm").params, make("lstm", inject=inject).params
    assert [*once, added] == [*each]
    for name, value in once.items():
        np.testing.assert_array_equal(each[name], value)
    shape = (P, D) if inject == "attention" else D
    wide = CaptioningRNN(WORDS, shape, W, 400, "lstm", inject=inject, seed=0).params[added]
    assert wide.shape == (400, 1600)
    assert float(wide.std()) == pytest.approx(0.25 / 20, rel=0.01)


@pytest.mark.parametrize(
    ("cell", "inject"), [("gru", "attention"), ("lstm", "attention+every-step")]
)
def test_attention_tells_where_each_step_looked(
    cell: str, inject: str, lib: Any, rng: np.random.Generator
) -> None:
    """Against the state of each step of decoding that is fed the caption; nothing after a caption's
    last target. Dropout is for training.
    """
    features, captions = batch(rng, inject)
    model = strong(cell, rng, 2, dropout=0.4, inject=inject)
    weights = model.attention(lib(features), captions)
    assert (type(weights), weights.shape, weights.dtype) == (np.ndarray, (N, T, P), model.dtype)
    state, lengths = model.start(lib(features)), caption_lengths(captions, 0)
    for t in range(T):
        _, expected, _ = layers.dot_product_attention_forward(state[0], state[-1])
        live = t < lengths
        np.testing.assert_allclose(weights[live, t], to_numpy(expected)[live], rtol=1e-9)
        assert not weights[~live, t].any()
        _, state = model.step(lib(captions[:, t]), state)


@CELLS
def test_the_constructor_draws_as_the_course_does(cell: str) -> None:
    np.random.seed(231)
    drawn, after = make(cell, seed=None).params, np.random.rand()
    np.random.seed(231)
    expected = {"W_embed": np.random.randn(V, W) / 100}
    of_cell = layers.CELLS[cell].shapes(W, H)
    for name, shape in {"W_proj": (D, H), **of_cell, "W_vocab": (H, V)}.items():
        matrix = len(shape) == 2
        expected[name] = np.random.randn(*shape) / np.sqrt(shape[0]) if matrix else np.zeros(shape)
    expected |= {"b_proj": np.zeros(H), "b_vocab": np.zeros(V)}
    assert set(drawn) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(drawn[name], value)
    assert np.random.rand() == after  # no more than the course draws


def test_weights_and_masks_are_streams_of_their_own() -> None:
    weights = np.random.default_rng([5, 0]).standard_normal(4)
    drawn = make("lstm", dropout=0.5, seed=5).params["W_embed"]
    np.testing.assert_array_equal(drawn.ravel()[:4], weights / 100)
    bits = np.random.Philox(key=[5, 0], counter=[0, 0, 0, 0]).random_raw(64)
    assert not np.isin(bits, np.random.default_rng([5, 0]).bit_generator.random_raw(64)).any()


def test_two_losses_can_be_in_flight_and_inputs_stay_as_they_were(
    lib: Any, rng: np.random.Generator
) -> None:
    model, first, second = make("lstm"), batch(rng), batch(rng)
    features, captions = lib(first[0]), first[1].copy()
    captions.flags.writeable = False
    loss, grads = model.loss(features, captions)
    before = to_numpy(grads.flat).copy()
    model.loss(lib(second[0]), second[1])
    np.testing.assert_array_equal(to_numpy(grads.flat), before)
    np.testing.assert_array_equal(to_numpy(features), first[0])
    assert float(model.loss(features, captions)[0]) == float(loss)


def test_a_loss_that_is_refused_leaves_the_masks_of_the_next_as_they_were(
    rng: np.random.Generator,
) -> None:
    (x, y), model, other = batch(rng), make("lstm", 0.4), make("lstm", 0.4)
    with refuses(ValueError, "features"):
        model.loss(x[:2], y)
    assert model.loss(x, y)[0] == other.loss(x, y)[0] != other.loss(x, y)[0]


def test_packing_lists_live_steps_and_each_word_once_and_cannot_be_written_to() -> None:
    captions = np.array([[1, 5, 2, 0, 0], [1, 5, 6, 0, 2], [0, 0, 0, 0, 0]])
    lengths = caption_lengths(captions, 0)
    packed = pack(captions, 0, deal(lengths)[0], lengths)
    assert (packed.rows.batch_sizes, packed.rows.N) == ((2, 2, 1, 1), 3)
    assert packed.words.tolist() == [0, 1, 5, 6]
    for indices in (packed.rows.previous, packed.rows.sequence, packed.rows.firsts):
        with pytest.raises(ValueError, match="read-only"):
            indices[...] = 0


@pytest.mark.parametrize("total", [np.int64(3), np.float32(3), np.array(3.0)[()]])
def test_a_float32_model_stays_float32_whatever_it_is_given(
    total: Any, rng: np.random.Generator
) -> None:
    """Features of float64, and a total of any type of number."""
    features, captions = batch(rng)
    model = make("lstm", dtype=np.float32)
    expected, expected_grads = model.loss(features, captions, total=3.0)
    loss, grads = model.loss(features, captions, total=total)
    assert loss.dtype == grads.flat.dtype == np.float32
    assert loss == expected
    np.testing.assert_array_equal(grads.flat, expected_grads.flat)


@INJECT
def test_scores_do_not_depend_on_cores_or_on_where_features_lie(
    inject: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, captions = draw_features(rng, 30, inject), rng.integers(1, V, (30, T + 1))
    captions[5:15, 3:] = 0
    model = lively("lstm", rng, inject)
    table = FeatureRows(features[::-1].copy(), np.arange(30)[::-1])
    whole, logs = model.score(features, captions), model.word_log_probabilities(features, captions)
    assert float(whole.nll) == pytest.approx(-logs.sum(), rel=1e-12)
    guesses = model.trace(features, captions).log_probabilities.argmax(axis=2)
    right = (guesses == captions[:, 1:]) & (captions[:, 1:] != 0)
    assert int(whole.correct) == right.sum() > 0
    monkeypatch.setattr(captioning_rnn, "MIN_SCORED_PER_CORE", 7)
    monkeypatch.setattr(captioning_rnn, "cores", lambda: 3)
    for given in (features, table):
        score = model.score(given, captions)
        assert score[1:] == whole[1:]
        assert float(score.nll) == pytest.approx(float(whole.nll), rel=1e-12)
        np.testing.assert_allclose(model.word_log_probabilities(given, captions), logs, rtol=1e-11)


def test_ids_may_come_in_any_order(rng: np.random.Generator) -> None:
    """NULL, START and END at other places than 0, 1 and 2 change nothing but the ids."""
    (features, captions), model, new = batch(rng), lively("lstm", rng), rng.permutation(V)
    words = {word: int(new[i]) for word, i in WORDS.items()}
    other = CaptioningRNN.from_config(model.config, words, dtype=np.float64, params=model.params)
    other.params["W_embed"][new] = model.params["W_embed"].copy()
    other.params["W_vocab"][:, new] = model.params["W_vocab"].copy()
    other.params["b_vocab"][new] = model.params["b_vocab"].copy()
    loss, grads = model.loss(features, captions)
    other_loss, other_grads = other.loss(features, new[captions])
    assert other_loss == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(other_grads["W_embed"][new], grads["W_embed"], rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(other.sample(features, 9), new[model.sample(features, 9)])


def test_parameters_are_views_of_one_buffer_with_fixed_keys() -> None:
    params = make("lstm", dtype=np.float32).params
    names = ["W_proj", "b_proj", "W_embed", "Wx", "Wh", "b", "W_vocab", "b_vocab"]
    assert list(params) == names
    buffer, values = params.flat, np.arange(params.flat.size, dtype=np.float32)
    params.flat = values  # copied into the buffer of the views
    params.flat += 1
    assert params.flat is buffer
    np.testing.assert_array_equal(np.concatenate([params[x].ravel() for x in names]), values + 1)
    params["b"] = np.arange(4 * H, dtype=np.float64)
    start = sum(params[name].size for name in names[:5])
    np.testing.assert_array_equal(buffer[start : start + 4 * H], np.arange(4 * H))
    with pytest.raises(KeyError, match="did you mean 'W_vocab'"):
        params["W_vocabs"] = np.zeros(1)
    with pytest.raises(TypeError, match="fixed"):
        del params["b"]


def greedy_one_by_one(model: CaptioningRNN, features: np.ndarray, length: int) -> np.ndarray:
    """The course's loop, one picture at a time through the steps of the cell."""
    p, out = model.params, np.zeros((len(features), length), np.int32)
    cell = layers.CELLS[model.cell_type]
    weight, bias = (p[name] for name in cell.inputs)
    for row, x in zip(out, features, strict=True):
        A = x[None] @ p["W_proj"] + p["b_proj"]
        h, word = A.mean(axis=1) if "Wattn" in p else A, 1
        state = (h, *[h if "Wattn" in p else np.zeros_like(h)] * (len(cell.states) - 1))
        b = bias + h @ p["W_image"] if "W_image" in p else bias
        for t in range(length):
            a = p["W_embed"][[word]] @ weight + b
            if "Wattn" in p:
                a = a + layers.dot_product_attention_forward(state[0], A)[0] @ p["Wattn"]
            state, _ = cell.step_forward(a, state, p)
            row[t] = word = int((state[0] @ p["W_vocab"] + p["b_vocab"]).argmax())
            if word == 2:
                break
    return out


@CELLS
@INJECT
def test_sampling_a_batch_equals_sampling_one_by_one(
    cell: str, inject: str, rng: np.random.Generator
) -> None:
    features = 2 * draw_features(rng, 40, inject)
    features.flags.writeable = False
    for seed in range(20):  # until rows are dropped at several steps
        model = lively(cell, np.random.default_rng(seed), inject)
        expected = greedy_one_by_one(model, features, 12)
        if len({*(expected == 2).argmax(axis=1).tolist()}) >= 3:
            break
    else:
        pytest.fail("captions of none of 20 models end at three steps")
    found = model.sample(features, max_length=12)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)
    again, probabilities = model.sample_with_probabilities(features, max_length=12)
    np.testing.assert_array_equal(again, expected)
    ended = (np.cumsum(expected == 2, axis=1) - (expected == 2)).astype(bool)
    np.testing.assert_array_equal(probabilities > 0, ~ended)
    # Against teacher forcing, END included; NULL is no target, though a model may say it
    captions = np.concatenate((np.ones((40, 1), int), expected), axis=1)
    logs = model.word_log_probabilities(features, captions)
    words = expected != 0
    np.testing.assert_allclose(np.log(probabilities[words]), logs[words], rtol=1e-6)


@refusals(
    """
    CaptioningRNN(WORDS, cell_type="lstn") | ValueError | cell_type | 'lstn' | rnn, lstm | did you mean 'lstm'
    CaptioningRNN({"a": 0}) | ValueError | word_to_idx | <NULL>
    CaptioningRNN({"<NULL>": 0.0}) | ValueError | '<NULL>' | 0.0 | whole number
    CaptioningRNN({"<NULL>": 0, "a": 0}) | ValueError | 2 words only 1 ids
    CaptioningRNN(list(WORDS)) | TypeError | word_to_idx | is a list | mapping of word to id | enumerate(words)
    CaptioningRNN(WORDS, seed=-1) | ValueError | seed | is -1 | 0..2**63-1
    CaptioningRNN(WORDS, dropout=1.0) | ValueError | `dropout` | is 1.0 | [0, 1)
    CaptioningRNN(WORDS, dtype=np.float16) | ValueError | float16 | float32 or float64
    CaptioningRNN(WORDS, 5, inject="attention") | ValueError | feature_shape | is (5,) | (P, D) | 'attention'
    CaptioningRNN(WORDS, (3, 5)) | ValueError | feature_shape | is (3, 5) | (D,) | 'init'
    CaptioningRNN(WORDS, (0, 5), inject="attention") | ValueError | input_dim | is 0 | at least 1
    CaptioningRNN({"<NULL>": 0, "a": 1}, 5).sample(x) | ValueError | <START>
    CaptioningRNN.from_config(m.config, WORDS, seed=2**63, params=m.params) | ValueError | seed | is 9223372036854775808 | 0..2**63-1
    m.seed = 1.9 | ValueError | seed | is 1.9
    m.params.flat = m.params.flat[1:] | ValueError | flat | (431,)
    m.loss(np.zeros((0, 5)), np.ones((0, 4), int)) | ValueError | (N > 0, T+1 > 1)
    m.loss(x.astype(complex), y) | TypeError | features | have dtype complex128
    m.loss(np.zeros((2, 6)), y) | ValueError | (2, 6) | (N, 5)
    m.loss(x, y.astype("f4")) | TypeError | captions | float32
    m.loss(x, y[:, 0]) | ValueError | captions | have shape (2,)
    attending.loss(x, y) | ValueError | (2, 5) | (N, 3, 5)
    m.attention(x, y) | ValueError | `inject` of the model | is init | one with attention
    m.loss(x, 12 * y) | ValueError | hold 12..12 | 0..11 | vocabulary
    m.loss(x, -y) | ValueError | hold -1..-1
    m.loss(x, [[1, 3, 2], [1, 2]]) | ValueError | captions | have 2 rows of unequal lengths | <NULL>
    m.loss(x, y, total=0) | ValueError | total | is 0 | positive
    m.loss(x, y, weights=np.array([1, np.nan])) | ValueError | weights | hold nan at [1] | finite
    m.loss(x, y, weights=np.ma.masked_equal([1.0, 9.0], 9)) | ValueError | weights | are a masked array with 1 masked numbers
    m.loss(x, y, step=-1) | ValueError | step | is -1 | 0..2**63-1
    m.loss(x, y, smoothing=2) | ValueError | smoothing | is 2 | [0, 1)
    m.loss(x, y, workspace=7) | TypeError | workspace | is a int
    m.score(FeatureRows(x, np.ones(2, bool)), y) | TypeError | feature rows | have dtype bool | numpy.flatnonzero
    m.score(FeatureRows(x, np.ones((2, 1), int)), y) | ValueError | feature rows | have shape (2, 1) | (2,)
    m.word_log_probabilities(x, np.ma.masked_equal([[1, 3]] * 2, 3)) | ValueError | captions | are a masked array with 2 masked numbers
    m.sample(np.zeros((2, 6))) | ValueError | features | have shape (2, 6) | (N, 5)
    m.sample(np.ma.array(x, mask=np.eye(2, 5))) | ValueError | masked array with 2 masked numbers
    m.sample([[0.0], [0.0, 1.0]]) | ValueError | features | have 2 rows of unequal lengths
    m.sample(x, forbid=[-1]) | ValueError | forbid | 0..11
    m.sample(x, forbid=range(12)) | ValueError | forbid | some, not all
    m.sample(x, forbid=["w3"]) | TypeError | forbid | holds 'w3' | model.word_to_idx
    m.sample(x, max_length=0) | ValueError | max_length | is 0
    m.sample(x, models.Beam(5)) | ValueError | max_length | is Beam( | give a policy as `policy`
    m.sample(x, policy="beam") | TypeError | policy | is 'beam' | Beam(5)
    m.step(np.array([12, 1]), m.start(x)) | ValueError | words | hold 1..12
    m.step(np.array([1.0]), m.start(x[:1])) | TypeError | words | have dtype float64
    m.step(np.array([1]), m.start(x)) | ValueError | state | has 2 rows, but `words` has length 1
    m.step([1, 1], make("rnn").start(x)) | ValueError | state | has 1 arrays | 2 | another model
    """
)
def test_bad_arguments_are_named_with_what_was_wanted(refusal: Refusal) -> None:
    m, attending = make("lstm"), make("lstm", inject="attention")
    x, y = np.zeros((2, D)), np.ones((2, 4), int)
    refusal.check(globals() | locals())


@pytest.mark.parametrize("name", ["dtype", "word_to_idx", "idx_to_word"])
def test_what_a_model_is_made_for_cannot_be_set_later(name: str) -> None:
    model = make("lstm")
    with pytest.raises(AttributeError, match=f"{name}.* has no setter"):
        setattr(model, name, getattr(model, name))


@refusals(
    """
    m.loss(bad, y)
    m.score(bad, y)
    m.sample(lib(bad))
    m.sample_with_probabilities(bad)
    m.start(bad)
    """,
    f"features of row 2 (of {N})",
    "hold nan at column 3",
    "finite float64",
    error=ValueError,
)
def test_features_that_are_not_finite_are_named_by_row_and_column(
    refusal: Refusal, lib: Any, rng: np.random.Generator
) -> None:
    bad, y = batch(rng)
    bad[2, 3] = np.nan
    refusal.check({"m": make("lstm"), "bad": bad, "y": y, "lib": lib})


def test_grids_and_tables_are_looked_at_where_they_are_used(rng: np.random.Generator) -> None:
    """A grid is named by region, what float32 cannot hold as it came, a table by the rows taken."""
    features, captions = batch(rng, "attention")
    features[4, 1, 2] = np.nan
    model = make("lstm", inject="attention")
    row = f"features of row 4 (of {N})"
    for call in (model.loss, model.attention):
        with refuses(ValueError, row, "hold nan at region 1, column 2"):
            call(features, captions)
    features[4, 1, 2] = -1e300
    with refuses(ValueError, row, "hold -1e+300 at region 1", "finite float32"):
        make("lstm", dtype=np.float32, inject="attention").loss(features, captions)
    table, model = np.concatenate([draw_features(rng, N), np.full((1, D), np.inf)]), make("lstm")
    assert np.isfinite(model.loss(FeatureRows(table, np.arange(N)), captions)[0])
    with refuses(ValueError, "features of row 0", "hold inf at column 0"):
        model.loss(FeatureRows(table, np.arange(N)[::-1] + 1), captions)


class Tensor:
    """What NumPy can read, and is no array: as a PyTorch tensor is. With a `refusal` NumPy cannot
    read it.
    """

    def __init__(self, array: np.ndarray, refusal: Exception | None = None) -> None:
        self._array, self._refusal, self.shape = array, refusal, array.shape
        self.dtype = f"torch.{array.dtype}"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self._refusal is not None:
            raise self._refusal
        return np.asarray(self._array, dtype)


def test_what_numpy_can_read_is_taken_and_what_it_cannot_is_refused_with_a_way(
    rng: np.random.Generator,
) -> None:
    (x, y), model = batch(rng), make("lstm")
    assert model.loss(Tensor(x), Tensor(y))[0] == model.loss(x, y)[0]
    assert (model.sample(Tensor(x)) == model.sample(x)).all()
    assert model.score(Tensor(x), Tensor(y)).nll == model.score(x, y).nll
    for refusal in (
        RuntimeError("Can't call numpy() on Tensor that requires grad."),
        TypeError("can't convert cuda:0 to numpy"),
    ):
        for thing, given in (
            ("features", (Tensor(x, refusal), y)),
            ("captions", (x, Tensor(y, refusal))),
        ):
            way = f"{thing}.detach().cpu().numpy()"
            with refuses(TypeError, thing, "Tensor that NumPy cannot read", way):
                model.loss(*given)


def test_tensors_of_pytorch_are_taken_where_numpy_reads_them(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    (x, y), model = batch(rng), make("lstm")
    tensor = torch.tensor(x)
    assert model.loss(tensor, torch.tensor(y))[0] == model.loss(x, y)[0]
    for bad in (tensor.clone().requires_grad_(), tensor.bfloat16()):
        with refuses(TypeError, "features", "NumPy cannot read", "detach"):
            model.loss(bad, y)


def test_the_ids_of_special_words_have_the_courses_names() -> None:
    model = make("lstm")
    # private in the course's class as well, and its notebooks read them
    assert (model._null, model._start, model._end) == (0, 1, 2)
    model = CaptioningRNN({"<NULL>": 1, "a": 0}, D)
    assert (model._null, model._start, model._end) == (1, None, None)


def test_models_of_one_size_and_other_shapes_can_share_a_workspace(
    lib: Any, rng: np.random.Generator
) -> None:
    words = {"<NULL>": 0, "<START>": 1, "<END>": 2, "a": 3, "b": 4}
    captions = np.array([[1, 3, 4, 2], [1, 4, 2, 0]])
    workspace = None
    for width, wordvec in ((10, 6), (19, 2), (10, 6)):  # 143 parameters each
        model = CaptioningRNN(words, width, wordvec, 4, "rnn", np.float64, seed=0)
        workspace = workspace or Workspace(model.params.flat)
        features = rng.standard_normal((2, width))
        grads, expected = (
            model.loss(features, captions, workspace=space)[1] for space in (workspace, None)
        )
        assert grads.shapes == model.params.shapes
        np.testing.assert_array_equal(to_numpy(grads.flat), to_numpy(expected.flat))
