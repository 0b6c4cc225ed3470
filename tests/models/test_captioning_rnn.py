"""The captioner: published losses, packing against padding, gradients, parameters, sampling, and
what it refuses.
"""

from typing import Any

import numpy as np
import philox
import pytest
from refusals import Refusal, refusals, refuses

from xpcap import CaptioningRNN, CaptioningSolver, layers, models, to_numpy, use_backend
from xpcap.memory import Workspace
from xpcap.models import FeatureRows, captioning_rnn
from xpcap.models.batch import Packed, caption_lengths, deal, mask_rows_of, pack
from xpcap.verify import read_cases

CELLS = pytest.mark.parametrize("cell", [*layers.CELLS, "plain"])
IN_COURSE_FORM = pytest.mark.parametrize(
    "cell", [cell for cell in layers.CELLS if hasattr(layers, f"{cell}_forward")]
)
INJECT = pytest.mark.parametrize("inject", models.config.INJECT)
WORDS = {"<NULL>": 0, "<START>": 1, "<END>": 2, **{f"w{i}": i for i in range(3, 12)}}
N, D, W, H, V, T, P = 7, 5, 4, 6, len(WORDS), 8, 3
pytestmark = pytest.mark.usefixtures("new_cells")


def make(
    cell: str,
    dropout: float = 0.0,
    dtype: Any = np.float64,
    seed: int | None = 5,
    inject: str = "init",
) -> CaptioningRNN:
    return CaptioningRNN(
        WORDS,
        (P, D) if "attention" in inject else D,
        W,
        H,
        cell,
        dtype,
        dropout=dropout,
        inject=inject,
        seed=seed,
    )


def draw_features(rng: np.random.Generator, n: int, inject: str = "init") -> np.ndarray:
    return rng.standard_normal((n, P, D) if "attention" in inject else (n, D))


def batch(rng: np.random.Generator, inject: str = "init") -> tuple[np.ndarray, np.ndarray]:
    """Captions of several lengths, two of them equal, one without any target, and NULL targets
    inside two.
    """
    captions = rng.integers(1, V, (N, T + 1)).astype(np.int32)
    for row, length in zip(captions, (3, 8, 1, 5, 5, 0, 8), strict=True):
        row[length + 1 :] = 0
    captions[1, 4] = captions[3, 2] = 0
    return draw_features(rng, N, inject), captions


def padded(
    model: CaptioningRNN, features: np.ndarray, captions: np.ndarray
) -> tuple[Any, dict[str, Any]]:
    """The course's own way, out of the course's layers: every step of every caption, masks laid out
    as DESIGN says they are drawn.

    A picture at every step is more of each step's input: [word vector, h0] @ [Wx, W_image]. Places
    are projected like the steps of a sequence.
    """
    p, keep = model.params, 1 - model.dropout
    inputs, targets = captions[:, :-1], captions[:, 1:]
    live = np.arange(T) < (T - np.argmax(targets[:, ::-1] != 0, axis=1))[:, None]
    live[~(targets != 0).any(axis=1)] = False
    x, word_mask, hidden_mask = features, np.ones((V, W)), np.ones((len(captions), T, H))
    if model.dropout:
        words = np.unique(inputs[live])
        shapes = (len(features), D), (len(words), W), (int(live.sum()), H)
        scaled = [
            philox.kept(model.seed, place, 0, shape, keep) / keep
            for place, shape in enumerate(shapes)
        ]
        x, word_mask[words], hidden_mask[live] = (
            features * scaled[0].reshape(N, *[1] * (features.ndim - 2), D),
            scaled[1],
            scaled[2],
        )
    forward, backward = (
        getattr(layers, f"{model.cell_type}_{way}") for way in ("forward", "backward")
    )
    project, project_backward = layers.affine_forward, layers.affine_backward
    if model.config.attends:
        project, project_backward = layers.temporal_affine_forward, layers.temporal_affine_backward
    projected, proj = project(x, p["W_proj"], p["b_proj"])
    h0 = projected.mean(axis=1) if model.config.attends else projected
    vectors, embed = layers.word_embedding_forward(inputs, p["W_embed"] * word_mask)
    Wx = np.concatenate([p[name] for name in ("Wx", "W_image") if name in p])
    images = np.broadcast_to(h0[:, None], (len(h0), T, H))[..., : len(Wx) - W]
    inputs = np.concatenate((vectors, images), axis=2)
    if model.config.attends:
        h, cell = layers.attention_forward(
            inputs, projected, Wx, p["Wh"], p["Wattn"], p["b"], model.cell_type
        )
    else:
        h, cell = forward(inputs, h0, Wx, p["Wh"], p["b"])
    scores, vocab = layers.temporal_affine_forward(h * hidden_mask, p["W_vocab"], p["b_vocab"])
    loss, dscores = layers.temporal_softmax_loss(scores, targets, targets != 0)
    grads = {}
    dh, grads["W_vocab"], grads["b_vocab"] = layers.temporal_affine_backward(dscores, vocab)
    if model.config.attends:
        dx, dprojected, dWx, grads["Wh"], grads["Wattn"], grads["b"] = layers.attention_backward(
            dh * hidden_mask, cell
        )
    else:
        dx, dprojected, dWx, grads["Wh"], grads["b"] = backward(dh * hidden_mask, cell)
    grads["Wx"], dx, dimages = dWx[:W], dx[..., :W], dx[..., W:]
    if "W_image" in p:
        grads["W_image"], dh0 = dWx[W:], dimages.sum(axis=1)
        dprojected += dh0[:, None] / P if model.config.attends else dh0
    grads["W_embed"] = layers.word_embedding_backward(dx, embed) * word_mask
    _, grads["W_proj"], grads["b_proj"] = project_backward(dprojected, proj)
    return loss, grads


@IN_COURSE_FORM
@INJECT
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_packed_equals_padded(
    cell: str, inject: str, dropout: float, rng: np.random.Generator
) -> None:
    features, captions = batch(rng, inject)
    loss, grads = make(cell, dropout, inject=inject).loss(features, captions)
    expected, expected_grads = padded(make(cell, dropout, inject=inject), features, captions)
    assert loss == pytest.approx(expected, rel=1e-12)
    assert set(grads) == set(expected_grads)
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, expected_grads[name], rtol=1e-12, atol=1e-12, err_msg=name)


PUBLISHED = pytest.mark.parametrize(
    "case", read_cases()["captioners"], ids=lambda case: case["cell"]
)


def as_published(case: dict[str, Any]) -> tuple[CaptioningRNN, np.ndarray, np.ndarray]:
    """Model, features and captions, with parameters set as the course sets them."""
    model = CaptioningRNN(case["word_to_idx"], 20, 30, 40, case["cell"], np.float64)
    for k, v in model.params.items():
        model.params[k] = np.linspace(-1.4, 1.3, num=v.size).reshape(*v.shape)
    low, high = case["features"]["linspace"]
    features = np.linspace(low, high, num=200).reshape(10, 20)
    return model, features, (np.arange(130) % 3).reshape(10, 13)


@PUBLISHED
def test_parameters_set_as_the_course_does_give_its_loss(case: dict[str, Any], lib: Any) -> None:
    model, features, captions = as_published(case)
    loss, _ = model.loss(lib(features), captions)
    assert float(loss) == pytest.approx(case["published_loss"], abs=1e-10)


@PUBLISHED
def test_training_goes_on_from_parameters_set_as_the_course_does(case: dict[str, Any]) -> None:
    model, features, captions = as_published(case)
    data = {
        "train_captions": captions, "train_image_idxs": np.arange(10), "train_features": features,
        "idx_to_word": ["<NULL>", "<START>", "<END>", "<UNK>"], "word_to_idx": {},
    }  # fmt: skip
    solver = CaptioningSolver(
        model,
        data,
        update_rule="adam",
        optim_config={"learning_rate": 1e-2},
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
    wide = CaptioningRNN(
        WORDS, (P, D) if inject == "attention" else D, W, 400, "lstm", inject=inject, seed=0
    ).params[added]
    assert wide.shape == (400, 1600)
    assert float(wide.std()) == pytest.approx(0.25 / 20, rel=0.01)


@CELLS
@pytest.mark.parametrize("inject", [*filter(models.config.has_attention, models.config.INJECT)])
def test_attention_tells_where_each_step_looked(
    cell: str, inject: str, lib: Any, rng: np.random.Generator
) -> None:
    """Against the state of each step of decoding that is fed the caption; nothing after a caption's
    last target. Dropout is for training.
    """
    features, captions = batch(rng, inject)
    model = make(cell, dropout=0.4, inject=inject)
    for name in model.params:
        model.params[name] = 2 * rng.standard_normal(model.params[name].shape)
    weights = model.attention(lib(features), captions)
    assert (type(weights), weights.shape, weights.dtype) == (np.ndarray, (N, T, P), model.dtype)
    state, lengths = model.start(lib(features)), T - np.argmax(captions[:, :0:-1] != 0, axis=1)
    lengths[~(captions[:, 1:] != 0).any(axis=1)] = 0
    for t in range(T):
        _, expected, _ = layers.dot_product_attention_forward(state[0], state[-1])
        live = t < lengths
        np.testing.assert_allclose(weights[live, t], to_numpy(expected)[live], rtol=1e-9)
        assert not weights[~live, t].any()
        _, state = model.step(lib(captions[:, t]), state)


@CELLS
def test_the_constructor_draws_as_the_course_does(cell: str) -> None:
    np.random.seed(231)
    drawn = make(cell, seed=None).params
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
    after = np.random.rand()
    np.random.seed(231)
    make(cell, seed=None)
    assert np.random.rand() == after  # and no more than the course does


@CELLS
def test_two_losses_can_be_in_flight_and_inputs_stay_as_they_were(
    cell: str, lib: Any, rng: np.random.Generator
) -> None:
    model = make(cell)
    first, second = batch(rng), batch(rng)
    features, captions = lib(first[0]), first[1].copy()
    captions.flags.writeable = False
    loss, grads = model.loss(features, captions)
    kept = {name: to_numpy(grad).copy() for name, grad in grads.items()}
    model.loss(lib(second[0]), second[1])
    for name, grad in grads.items():
        np.testing.assert_array_equal(to_numpy(grad), kept[name])
    np.testing.assert_array_equal(to_numpy(features), first[0])
    assert float(model.loss(features, captions)[0]) == float(loss)


def test_weights_masks_and_order_are_streams_of_their_own() -> None:
    model = make("lstm", dropout=0.5, seed=5)
    weights = np.random.default_rng([5, 0]).standard_normal(4)
    np.testing.assert_array_equal(model.params["W_embed"].ravel()[:4], weights / 100)
    bits = np.random.Philox(key=[5, 0], counter=[0, 0, 0, 0]).random_raw(64)
    assert not np.isin(bits, np.random.default_rng([5, 0]).bit_generator.random_raw(64)).any()


def test_float32_model_takes_float64_features_and_stays_float32(rng: np.random.Generator) -> None:
    features, captions = batch(rng)
    loss, grads = make("lstm", dtype=np.float32).loss(features, captions)
    assert loss.dtype == grads.flat.dtype == np.float32


def packed_rows(captions: np.ndarray) -> Packed:
    lengths = caption_lengths(captions, 0)
    return pack(captions, 0, deal(lengths)[0], lengths)


def test_packing_lists_live_steps_longest_first_and_each_word_once() -> None:
    captions = np.array([[1, 5, 2, 0, 0], [1, 5, 6, 0, 2], [0, 0, 0, 0, 0]])
    packed = packed_rows(captions)
    assert packed.rows.batch_sizes == (2, 2, 1, 1)
    assert packed.rows.N == 3
    assert packed.rows.sequence.tolist() == [0, 1, 0, 1, 0, 0]
    assert packed.rows.previous.tolist() == [0, 1, 3, 4, 5, 7]
    assert packed.order.tolist() == [1, 0, 2]
    assert packed.words.tolist() == [0, 1, 5, 6]
    assert packed.words[packed.inputs.ids].tolist() == [1, 1, 5, 5, 6, 0]
    assert packed.target_rows is not None
    assert packed.target_rows.tolist() == [0, 1, 2, 3, 5]
    assert packed.targets.tolist() == [5, 5, 6, 2, 2]
    (mask_rows,), counts = mask_rows_of([packed], captions, caption_lengths(captions, 0))
    assert mask_rows[2].tolist() == [2, 0, 3, 1, 5]
    assert counts == (3, 4, 6)


def test_the_layout_of_a_batch_that_others_share_cannot_be_written_to() -> None:
    rows = packed_rows(np.array([[1, 3, 2], [1, 2, 0]])).rows
    for indices in (rows.previous, rows.sequence, rows.firsts):
        with pytest.raises(ValueError, match="read-only"):
            indices[...] = 0


@pytest.mark.parametrize("total", [3, np.int64(3), np.float32(3), np.array(3.0)[()]])
def test_a_total_of_any_type_of_number_gives_the_loss_of_a_python_float(
    total: Any, rng: np.random.Generator
) -> None:
    features, captions = batch(rng)
    model = make("lstm", dtype=np.float32)
    expected, expected_grads = model.loss(features, captions, total=3.0)
    loss, grads = model.loss(features, captions, total=total)
    assert loss.dtype == np.float32
    assert loss == expected
    np.testing.assert_array_equal(grads.flat, expected_grads.flat)


@CELLS
def test_score_is_the_loss_without_dropout(cell: str, rng: np.random.Generator) -> None:
    features, captions = batch(rng)
    score = make(cell, dropout=0.5).score(features, captions)
    loss, _ = make(cell).loss(features, captions)
    assert score.tokens == (captions[:, 1:] != 0).sum()
    assert float(score.nll) / N == pytest.approx(float(loss), rel=1e-13)
    assert 0 <= int(score.correct) <= score.tokens


@CELLS
@INJECT
def test_scores_do_not_depend_on_cores_or_on_where_features_lie(
    cell: str, inject: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, captions = draw_features(rng, 30, inject), rng.integers(1, V, (30, T + 1))
    captions[5:15, 3:] = 0
    model = lively(cell, rng, inject)
    table = FeatureRows(features[::-1].copy(), np.arange(30)[::-1])
    whole, logs = model.score(features, captions), model.word_log_probabilities(features, captions)
    assert float(whole.nll) == pytest.approx(-logs.sum(), rel=1e-12)
    monkeypatch.setattr(captioning_rnn, "MIN_SCORED_PER_CORE", 7)
    monkeypatch.setattr(captioning_rnn, "cores", lambda: 3)
    for given in (features, table):
        score = model.score(given, captions)
        assert score[1:] == whole[1:]
        assert float(score.nll) == pytest.approx(float(whole.nll), rel=1e-12)
        np.testing.assert_allclose(model.word_log_probabilities(given, captions), logs, rtol=1e-11)


@IN_COURSE_FORM
def test_score_counts_words_guessed_right(cell: str, rng: np.random.Generator) -> None:
    """Against the argmax of the padded forward pass, step by step."""
    features, captions, model = (
        rng.standard_normal((60, D)),
        rng.integers(1, V, (60, T + 1)),
        lively(cell, rng),
    )
    captions[10:20, 5:] = 0
    p, targets = model.params, captions[:, 1:]
    h0, _ = layers.affine_forward(features, p["W_proj"], p["b_proj"])
    h, _ = getattr(layers, f"{cell}_forward")(
        p["W_embed"][captions[:, :-1]], h0, p["Wx"], p["Wh"], p["b"]
    )
    guesses = (h @ p["W_vocab"] + p["b_vocab"]).argmax(axis=2)
    expected = int(((guesses == targets) & (targets != 0)).sum())
    assert int(model.score(features, captions).correct) == expected > 0


@CELLS
def test_ids_may_come_in_any_order(cell: str, rng: np.random.Generator) -> None:
    """NULL, START and END at other places than 0, 1 and 2 change nothing but the ids."""
    (features, captions), model = batch(rng), lively(cell, rng)
    new = rng.permutation(V)
    other = CaptioningRNN(
        {word: int(new[i]) for word, i in WORDS.items()}, D, W, H, cell, np.float64, seed=5
    )
    for name, value in model.params.items():
        other.params[name] = value
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
    assert list(params) == ["W_proj", "b_proj", "W_embed", "Wx", "Wh", "b", "W_vocab", "b_vocab"]
    params["b"] = np.arange(4 * H, dtype=np.float64)
    start = sum(params[name].size for name in ("W_proj", "b_proj", "W_embed", "Wx", "Wh"))
    np.testing.assert_array_equal(params.flat[start : start + 4 * H], np.arange(4 * H))
    params.flat[:] = 3
    assert (params["Wh"] == 3).all()
    with pytest.raises(KeyError, match="did you mean 'W_vocab'"):
        params["W_vocabs"] = np.zeros(1)
    with pytest.raises(TypeError, match="fixed"):
        del params["b"]
    other = params.copy()
    other["b"] = np.ones(4 * H)
    assert (params["b"] == 3).all()


def test_an_assigned_buffer_is_copied_into_the_one_of_the_views() -> None:
    params = make("lstm").params
    buffer, values = params.flat, np.arange(params.flat.size, dtype=np.float32)
    params.flat = values
    params.flat += 1
    assert params.flat is buffer
    np.testing.assert_array_equal(buffer, values + 1)
    np.testing.assert_array_equal(params["b_vocab"], values[-V:] + 1)


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


def lively(cell: str, rng: np.random.Generator, inject: str = "init") -> CaptioningRNN:
    """A model whose captions end at many lengths."""
    model = make(cell, inject=inject)
    for name, value in model.params.items():
        model.params[name] = 2 * rng.standard_normal(value.shape)
    model.params["b_vocab"][2] += 4  # END, said often enough
    return model


@CELLS
@INJECT
def test_sampling_a_batch_equals_sampling_one_by_one(
    cell: str, inject: str, lib: Any, rng: np.random.Generator
) -> None:
    features = 2 * draw_features(rng, 40, inject)
    for seed in range(20):  # until rows are dropped at several steps
        with use_backend("numpy"):
            plain = lively(cell, np.random.default_rng(seed), inject)
        expected = greedy_one_by_one(plain, features, 12)
        if len({*(expected == 2).argmax(axis=1).tolist()}) >= 3:
            break
    else:
        pytest.fail("captions of none of 20 models end at three steps")
    model = lively(cell, np.random.default_rng(seed), inject)
    got = model.sample(lib(features), max_length=12)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, expected)
    again, probabilities = model.sample_with_probabilities(lib(features), max_length=12)
    np.testing.assert_array_equal(again, expected)
    assert type(probabilities) is np.ndarray
    ended = (np.cumsum(expected == 2, axis=1) - (expected == 2)).astype(bool)
    np.testing.assert_array_equal(probabilities > 0, ~ended)
    for row in range(0, 40, 13):  # against teacher forcing, END included
        length = int((~ended[row]).sum())
        nll = float(
            plain.score(
                features[row : row + 1], np.concatenate(([1], expected[row, :length]))[None]
            ).nll
        )
        said = (
            expected[row, :length] != 0
        )  # NULL is no target, though nothing keeps a model from saying it
        assert np.log(probabilities[row, :length][said]).sum() == pytest.approx(-nll, rel=1e-6)


def test_forbidden_words_are_never_said(rng: np.random.Generator) -> None:
    model, features = lively("lstm", np.random.default_rng(0)), rng.standard_normal((40, D)) * 2
    common = int(np.bincount(model.sample(features).ravel())[3:].argmax()) + 3
    assert common in model.sample(features)
    assert common not in model.sample(features, forbid=[common])


def test_sampling_nothing_gives_nothing() -> None:
    assert make("lstm").sample(np.zeros((0, D)), max_length=4).shape == (0, 4)


@refusals(
    """
    CaptioningRNN(WORDS, cell_type="lstn") | ValueError | thing: cell_type | got: 'lstn' | expected: rnn, lstm | cause: did you mean 'lstm'
    CaptioningRNN({"a": 0}) | ValueError | thing: word_to_idx | got: <NULL>
    CaptioningRNN({"<NULL>": "0"}) | ValueError | got: '<NULL>' | got: '0' | expected: whole number
    CaptioningRNN({"<NULL>": 0.0}) | ValueError | got: '<NULL>' | got: 0.0 | expected: whole number
    CaptioningRNN({"<NULL>": 0, "a": 0}) | ValueError | got: 2 words only 1 ids
    CaptioningRNN(list(WORDS)) | TypeError | thing: word_to_idx | got: is a list | expected: mapping of word to id | cause: enumerate(words)
    CaptioningRNN(WORDS, hidden_dim=0) | ValueError | thing: hidden_dim | got: is 0 | expected: at least 1
    CaptioningRNN(WORDS, seed=-1) | ValueError | thing: seed | got: is -1 | expected: 0..2**63-1
    CaptioningRNN(WORDS, dropout=1.0) | ValueError | thing: `dropout` | got: is 1.0 | expected: [0, 1)
    CaptioningRNN(WORDS, dtype=np.float16) | ValueError | got: float16 | expected: float32 or float64
    CaptioningRNN(WORDS, 5, inject="attention") | ValueError | thing: feature_shape | got: is (5,) | expected: (P, D) | expected: 'attention'
    CaptioningRNN(WORDS, (3, 5)) | ValueError | thing: feature_shape | got: is (3, 5) | expected: (D,) | expected: 'init'
    CaptioningRNN(WORDS, (0, 5), inject="attention") | ValueError | thing: input_dim | got: is 0 | expected: at least 1
    CaptioningRNN({"<NULL>": 0, "a": 1}, 5).sample(x) | ValueError | function: CaptioningRNN.sample | got: <START>
    CaptioningRNN.from_config(m.config, WORDS, seed="", params=m.params) | ValueError | thing: seed | got: is ''
    CaptioningRNN.from_config(m.config, WORDS, seed=2**63, params=m.params) | ValueError | thing: seed | got: is 9223372036854775808 | expected: 0..2**63-1
    m.seed = 1.9 | ValueError | function: CaptioningRNN | thing: seed | got: is 1.9
    m.params.update(b=np.ma.masked_less(np.arange(24.0), 3)) | ValueError | function: params | thing: b | got: is a masked array with 3 masked
    m.params["b"] = np.zeros(6) | ValueError | function: params | thing: b | got: has shape (6,) | expected: (24,)
    m.params.flat = m.params.flat[1:] | ValueError | function: params | thing: flat | got: (431,)
    m.params.flat = m.params.flat[None] | ValueError | function: params | thing: flat | got: (1, 432)
    m.params.flat = 0.0 | ValueError | function: params | thing: flat | got: ()
    m.loss(np.zeros((0, 5)), np.ones((0, 4), int)) | ValueError | expected: (N > 0, T+1 > 1)
    m.loss(x.astype(complex), y) | TypeError | thing: features | got: have dtype complex128
    m.loss(np.zeros((2, 6)), y) | ValueError | function: CaptioningRNN.loss | got: (2, 6) | expected: (N, 5)
    m.loss(x[:, 0], y) | ValueError | function: CaptioningRNN.loss | thing: features | got: have shape (2,)
    m.loss(x[:, :0], y) | ValueError | function: CaptioningRNN.loss | thing: features | got: have shape (2, 0)
    m.loss(x, y[:, 0]) | ValueError | function: CaptioningRNN.loss | thing: captions | got: have shape (2,)
    m.loss(x, y.astype("f4")) | TypeError | function: CaptioningRNN.loss | thing: captions | got: float32
    m.loss(np.zeros((3, 5)), y) | ValueError | thing: features | got: have shape (3, 5) | expected: (N, 5) = (2, 5)
    m.loss(np.zeros((2, 3, 5)), y) | ValueError | got: (2, 3, 5) | expected: (N, 5)
    attending.loss(x, y) | ValueError | got: (2, 5) | expected: (N, 3, 5)
    attending.sample(x) | ValueError | thing: features | got: have shape (2, 5) | expected: (N, 3, 5)
    m.attention(x, y) | ValueError | thing: `inject` of the model | got: is init | expected: one with attention
    m.loss(x, 12 * y) | ValueError | got: hold 12..12 | expected: 0..11 | cause: vocabulary
    m.loss(x, -y) | ValueError | got: hold -1..-1
    m.loss(x, [[1, 3, 2], [1, 2]]) | ValueError | thing: captions | got: have 2 rows of unequal lengths | cause: <NULL>
    m.loss(x, 1) | ValueError | thing: captions | got: have shape () | expected: (N > 0, T+1 > 1)
    m.loss(x, y, total=0) | ValueError | thing: total | got: is 0 | expected: positive
    m.loss(x, y, weights=np.array([1, np.nan])) | ValueError | thing: weights | got: hold nan at [1] | expected: finite
    m.loss(x, y, weights=np.ma.masked_equal([1.0, 9.0], 9)) | ValueError | thing: weights | got: are a masked array with 1 masked numbers
    m.loss(x, y, smoothing=2) | ValueError | thing: smoothing | got: is 2 | expected: [0, 1)
    m.loss(x, y, workspace=7) | TypeError | thing: workspace | got: is a int
    m.loss(x, y, step=-1) | ValueError | function: CaptioningRNN.loss | thing: step | got: is -1 | expected: 0..2**63-1
    m.loss(x, y, step=1.5) | ValueError | thing: step | got: is 1.5 | expected: whole number
    m.score(x, np.ones((2, 4))) | TypeError | function: CaptioningRNN.score | got: float64 | expected: integer
    m.score(FeatureRows(x, np.ones(2, bool)), y) | TypeError | thing: feature rows | got: have dtype bool | cause: numpy.flatnonzero
    m.score(FeatureRows(x, np.ones((2, 1), int)), y) | ValueError | thing: feature rows | got: have shape (2, 1) | expected: (2,)
    m.word_log_probabilities(np.zeros((3, 5)), y) | ValueError | thing: features | got: have shape (3, 5) | expected: (2, 5)
    m.word_log_probabilities(x, np.ma.masked_equal([[1, 3]] * 2, 3)) | ValueError | thing: captions | got: are a masked array with 2 masked numbers
    m.sample(np.zeros((2, 6))) | ValueError | thing: features | got: have shape (2, 6) | expected: (N, 5)
    m.sample(3.0) | ValueError | function: CaptioningRNN.sample | thing: features | got: have shape () | expected: (N, 5)
    m.sample([[0.0], [0.0, 1.0]]) | ValueError | function: CaptioningRNN.sample | thing: features | got: have 2 rows of unequal lengths
    m.sample(np.ma.array(x, mask=np.eye(2, 5))) | ValueError | got: masked array with 2 masked numbers
    m.sample(x, forbid=[-1]) | ValueError | thing: forbid | expected: 0..11
    m.sample(x, forbid=range(12)) | ValueError | thing: forbid | expected: some, not all
    m.sample(x, forbid=["w3"]) | TypeError | thing: forbid | got: holds 'w3' | cause: model.word_to_idx
    m.sample(x, forbid=[3.0]) | TypeError | thing: forbid | got: holds 3.0 | expected: ids
    m.sample(x, max_length=0) | ValueError | thing: max_length | got: is 0
    m.sample(x, 1.5) | ValueError | function: CaptioningRNN.sample | thing: max_length | got: is 1.5 | expected: whole number
    m.sample(x, models.Beam(5)) | ValueError | thing: max_length | got: is Beam( | cause: give a policy as `policy`
    m.sample(x, policy="beam") | TypeError | function: CaptioningRNN.sample | thing: policy | got: is 'beam' | expected: Beam(5)
    m.decode(x, models.Beam) | TypeError | function: CaptioningRNN.decode | expected: a Policy
    m.step(np.array([12, 1]), m.start(x)) | ValueError | function: CaptioningRNN.step | thing: words | got: hold 1..12
    m.step([-7], m.start(x[:1])) | ValueError | thing: words | got: hold -7..-7 | expected: 0..11
    m.step(np.array([1.0]), m.start(x[:1])) | TypeError | thing: words | got: have dtype float64
    m.step(np.array([1]), m.start(x)) | ValueError | thing: state | got: has 2 rows, but `words` has length 1
    m.step([1, 1], make("rnn").start(x)) | ValueError | thing: state | got: has 1 arrays | expected: 2 | cause: another model
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


@pytest.mark.parametrize(
    "way",
    ["loss(x, y)", "score(x, y)", "sample(x)", "sample_with_probabilities(x)", "start(x)"],
)
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_features_that_are_not_finite_are_named_by_row_and_column(
    way: str, value: float, rng: np.random.Generator
) -> None:
    features, captions = batch(rng)
    features[2, 3] = value
    with refuses(
        ValueError,
        function=f"CaptioningRNN.{way.partition('(')[0]}",
        thing=f"features of row 2 (of {N})",
        got=f"hold {value} at column 3",
        expected="finite float64",
    ):
        eval(f"m.{way}", {"m": make("lstm"), "x": features, "y": captions})


def test_a_grid_that_is_not_finite_is_named_by_region_and_what_float32_cannot_hold_as_it_came(
    rng: np.random.Generator,
) -> None:
    features, captions = batch(rng, "attention")
    features[4, 1, 2] = np.nan
    model = make("lstm", inject="attention")
    for call in (model.loss, model.attention):
        with refuses(
            ValueError,
            thing=f"features of row 4 (of {N})",
            got="hold nan at region 1, column 2",
        ):
            call(features, captions)
    features[4, 1, 2] = -1e300
    with refuses(ValueError, got="hold -1e+300 at region 1, column 2", expected="finite float32"):
        make("lstm", dtype=np.float32, inject="attention").loss(features, captions)


def test_rows_of_a_table_are_looked_at_where_they_are_used(rng: np.random.Generator) -> None:
    features, captions = batch(rng)
    table = np.concatenate([features, np.full((1, D), np.inf)])
    model = make("lstm")
    assert np.isfinite(model.loss(FeatureRows(table, np.arange(N)), captions)[0])
    with refuses(ValueError, thing="features of row 0", got="hold inf at column 0"):
        model.loss(FeatureRows(table, np.arange(N)[::-1] + 1), captions)


def test_sampling_looks_at_features_wherever_they_lie(lib: Any, rng: np.random.Generator) -> None:
    features = draw_features(rng, N)
    features[5, 0] = np.nan
    with refuses(
        ValueError,
        function="CaptioningRNN.sample",
        thing=f"features of row 5 (of {N})",
        got="hold nan at column 0",
    ):
        make("lstm").sample(lib(features))


class Tensor:
    """What NumPy can read, and is no array: as a PyTorch tensor is. With a `refusal` NumPy cannot
    read it.
    """

    def __init__(self, array: np.ndarray, refusal: Exception | None = None) -> None:
        self._array, self._refusal, self.shape, self.dtype = (
            array,
            refusal,
            array.shape,
            f"torch.{array.dtype}",
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self._refusal is not None:
            raise self._refusal
        return np.asarray(self._array, dtype)


def test_what_numpy_can_read_is_taken_as_features_and_captions(rng: np.random.Generator) -> None:
    features, captions = batch(rng)
    model = make("lstm")
    loss = model.loss(Tensor(features), Tensor(captions))[0]
    assert loss == model.loss(features, captions)[0]
    assert (model.sample(Tensor(features)) == model.sample(features)).all()
    assert (
        model.score(Tensor(features), Tensor(captions)).nll == model.score(features, captions).nll
    )


@pytest.mark.parametrize(
    "refusal",
    [
        RuntimeError("Can't call numpy() on Tensor that requires grad."),
        TypeError("can't convert cuda:0 to numpy"),
    ],
)
def test_what_numpy_cannot_read_is_a_type_error_that_says_how_to_give_it(
    refusal: Exception, rng: np.random.Generator
) -> None:
    features, captions = batch(rng)
    for thing, given in (
        ("features", (Tensor(features, refusal), captions)),
        ("captions", (features, Tensor(captions, refusal))),
    ):
        with refuses(
            TypeError,
            thing=thing,
            got="Tensor that NumPy cannot read",
            cause=f"{thing}.detach().cpu().numpy()",
        ):
            make("lstm").loss(*given)
    with refuses(TypeError, thing="features", got="are a"):
        make("lstm").sample(Tensor(features, refusal))


def test_tensors_of_pytorch_are_taken_where_numpy_reads_them(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    features, captions = batch(rng)
    model, tensor = make("lstm"), torch.tensor(features)
    assert model.loss(tensor, torch.tensor(captions))[0] == model.loss(features, captions)[0]
    assert (model.sample(tensor) == model.sample(features)).all()
    for bad in (tensor.clone().requires_grad_(), tensor.bfloat16()):
        with refuses(
            TypeError,
            thing="features",
            got="are a torch.Tensor that NumPy cannot read",
            cause="detach",
        ):
            model.loss(bad, captions)


def test_the_ids_of_special_words_have_the_courses_names() -> None:
    model = make("lstm")
    # private in the course's class as well, and its notebooks read them
    assert (model._null, model._start, model._end) == (0, 1, 2)
    model = CaptioningRNN({"<NULL>": 1, "a": 0}, D)
    assert (model._null, model._start, model._end) == (1, None, None)


@pytest.mark.gpu
@CELLS
@INJECT
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_loss_and_gradients_agree_on_both_libraries(
    cell: str, inject: str, dropout: float, rng: np.random.Generator
) -> None:
    features, captions = batch(rng, inject)
    smoothing = dropout / 2
    host_loss, host_grads = make(cell, dropout, inject=inject).loss(
        features, captions, smoothing=smoothing
    )
    with use_backend("cupy"):
        loss, grads = make(cell, dropout, inject=inject).loss(
            features, captions, smoothing=smoothing
        )
    assert float(loss) == pytest.approx(float(host_loss), rel=1e-12)
    for name, grad in grads.items():
        np.testing.assert_allclose(
            to_numpy(grad), host_grads[name], rtol=1e-10, atol=1e-12, err_msg=name
        )


@pytest.mark.gpu
@CELLS
def test_twenty_training_steps_agree_on_both_libraries(cell: str, rng: np.random.Generator) -> None:
    batches = [batch(rng) for _ in range(20)]
    data = {
        "train_captions": batches[0][1],
        "train_image_idxs": np.arange(N),
        "train_features": batches[0][0],
        "idx_to_word": [*WORDS, "<UNK>"],
        "word_to_idx": {},
    }
    runs = {}
    for backend in ("numpy", "cupy"):
        with use_backend(backend):
            model = make(cell, 0.3)
            solver = CaptioningSolver(
                model,
                data,
                update_rule="adam",
                optim_config={"learning_rate": 1e-2},
                clip_norm=5.0,
                seed=0,
            )
            losses = [float(solver.step(*each)) for each in batches]
            runs[backend] = losses, to_numpy(model.params.flat)
    np.testing.assert_allclose(runs["cupy"][0], runs["numpy"][0], rtol=1e-9)
    np.testing.assert_allclose(runs["cupy"][1], runs["numpy"][1], rtol=1e-7, atol=1e-9)


def test_models_of_one_size_and_other_shapes_can_share_a_workspace(
    lib: Any, rng: np.random.Generator
) -> None:
    words = {"<NULL>": 0, "<START>": 1, "<END>": 2, "a": 3, "b": 4}
    captions = np.array([[1, 3, 4, 2], [1, 4, 2, 0]])
    workspace = None
    for D, W in ((10, 6), (19, 2), (10, 6)):  # 143 parameters each
        model = CaptioningRNN(words, D, W, 4, "rnn", np.float64, seed=0)
        workspace = workspace or Workspace(model.params.flat)
        features = rng.standard_normal((2, D))
        grads, expected = (
            model.loss(features, captions, workspace=space)[1] for space in (workspace, None)
        )
        assert grads.shapes == model.params.shapes
        np.testing.assert_array_equal(to_numpy(grads.flat), to_numpy(expected.flat))
