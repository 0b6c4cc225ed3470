"""What a model gives away and takes in is whole: copies, assigned parameters, saved parameters, and
batches with weights.
"""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from operations import TERMS
from refusals import Refusal, refusals, refuses

from xpcap import CaptioningRNN, CaptioningSolver, layers, to_numpy
from xpcap.backend.memory import Workspace
from xpcap.data.synthetic import draw_data
from xpcap.errors import OptionError
from xpcap.gradcheck import directional_errors
from xpcap.models import Batch, Parameters, network
from xpcap.training import CrossEntropy

D, W, H, V, N = 5, 4, 6, 12, 10
WAYS = pytest.mark.parametrize(
    "way",
    [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
    ids=["copy", "deepcopy", "pickle"],
)
# without inputs that are read-only: a copy has none
LIBRARIES = pytest.mark.parametrize(
    "lib", ["numpy", "emulated", pytest.param("cupy", marks=pytest.mark.gpu)], indirect=True
)
CELLS = pytest.mark.parametrize("cell", [*layers.CELLS, "plain"])
DATA = draw_data(N, D, V, seed=1)


def make(cell: str = "lstm", dropout: float = 0.0) -> CaptioningRNN:
    return CaptioningRNN(
        DATA.vocabulary.word_to_idx, D, W, H, cell, np.float64, dropout=dropout, seed=3
    )


def batch() -> tuple[np.ndarray, np.ndarray]:
    """Captions of many lengths, one with a NULL inside."""
    features, captions = DATA.minibatch("train", np.arange(N))
    captions = captions.copy()
    captions[2, 3] = DATA.vocabulary.null
    assert captions[2, 4] != DATA.vocabulary.null
    return features, captions


# Copies


@WAYS
def test_a_copy_of_a_model_trains_as_the_model_would_and_leaves_it_alone(
    way: Callable[[Any], Any],
) -> None:
    model, expected = make(dropout=0.3), make(dropout=0.3)
    other, before = way(model), model.params.flat.copy()
    assert other.word_to_idx == model.word_to_idx
    for each in (other, expected):
        solver = CaptioningSolver(
            each, DATA, update_rule="adam", batch_size=4, num_epochs=2, seed=0, verbose=False
        )
        solver.train()
    np.testing.assert_array_equal(model.params.flat, before)
    np.testing.assert_array_equal(other.params.flat, expected.params.flat)
    assert (other.params.flat != before).any()
    features, captions = batch()
    third = way(expected)  # goes on counting steps where that one stands, and for itself
    assert float(third.loss(features, captions)[0]) == float(expected.loss(features, captions)[0])
    assert float(third.loss(features, captions)[0]) == float(expected.loss(features, captions)[0])


@WAYS
@LIBRARIES
def test_the_parameters_of_a_copy_are_views_of_its_own_buffer(
    way: Callable[[Any], Any], lib: Any
) -> None:
    model = make()
    before = to_numpy(model.params.flat).copy()
    for params in (way(model).params, way(model.params)):
        assert isinstance(params, Parameters)
        params.flat[...] = 7
        for name, value in params.items():
            assert (to_numpy(value) == 7).all(), name
        params["Wx"] = np.zeros(params.shapes["Wx"])
        assert int((to_numpy(params.flat) == 0).sum()) == params["Wx"].size
    np.testing.assert_array_equal(to_numpy(model.params.flat), before)


class Plain(CaptioningRNN):
    """A subclass without a constructor of its own."""


class Constructed(Plain):
    def __init__(self, name: str, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.name = name


@WAYS
def test_a_copy_of_a_subclass_is_one_with_all_it_has(way: Callable[[Any], Any]) -> None:
    model = Constructed("mine", DATA.vocabulary.word_to_idx, D, W, H, "lstm", seed=3)
    other = way(model)
    assert (type(other), other.name) == (Constructed, "mine")
    assert other.params.flat is not model.params.flat
    assert float(other.score(*batch()).nll) == float(model.score(*batch()).nll)


def test_a_config_makes_a_subclass_unless_its_constructor_would_not_run() -> None:
    config, words = make().config, DATA.vocabulary.word_to_idx
    assert type(Plain.from_config(config, words, seed=0)) is Plain
    with refuses(TypeError, "Constructed", "__init__", "construct Constructed"):
        Constructed.from_config(config, words, seed=0)


# Assigned parameters


@LIBRARIES
def test_assigned_parameters_are_copied_into_the_buffer(lib: Any) -> None:
    model = make()
    params = model.params
    rng = np.random.default_rng(0)
    values = {name: rng.standard_normal(shape) for name, shape in params.shapes.items()}
    model.params = values
    assert model.params is params
    for name, value in values.items():
        np.testing.assert_array_equal(to_numpy(model.params[name]), value)
    values["Wx"][...] = 0
    assert to_numpy(params["Wx"]).all()


@refusals(
    """
    {name: x for name, x in values.items() if name != "Wh"} | ValueError | Wh | missing or unknown | W_proj, b_proj
    {**values, "extra": 1} | ValueError | extra | missing or unknown
    {**values, "b": np.zeros(3)} | ValueError | b | has shape (3,) | (24,)
    {**values, "b": np.ma.masked_all(24)} | ValueError | b | is a masked array with 24 masked numbers | none
    list(values.values()) | TypeError | is set to a list | a mapping
    """
)
def test_parameters_of_another_model_are_refused_and_change_nothing(refusal: Refusal) -> None:
    model = make()
    before = model.params.flat.copy()
    values = {name: np.ones(shape) for name, shape in model.params.shapes.items()}
    refusal.check({"np": np, "model": model, "values": values}, "model.params = {}")
    np.testing.assert_array_equal(model.params.flat, before)


# Saved parameters


def test_a_model_whose_cell_is_not_registered_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(layers.CELLS, "mine", layers.CELLS["lstm"])
    pickled = pickle.dumps(make("mine"))
    monkeypatch.delitem(layers.CELLS, "mine")
    model = pickle.loads(pickled)
    with refuses(OptionError, "cell", "'mine' does not exist"):
        model.loss(*batch())


def test_assigned_parameters_may_swap() -> None:
    model = CaptioningRNN(DATA.vocabulary.word_to_idx, D, H, H, "lstm", seed=3)
    params, before = model.params, model.params.copy()
    model.params = {**params, "Wx": params["Wh"], "Wh": params["Wx"]}
    np.testing.assert_array_equal(params["Wx"], before["Wh"])
    np.testing.assert_array_equal(params["Wh"], before["Wx"])
    params.update(Wx=params["Wh"], Wh=params["Wx"])
    np.testing.assert_array_equal(params.flat, before.flat)


def test_parameters_are_set_by_key_alone() -> None:
    params = make().params
    with pytest.raises(AttributeError, match="'Parameters' object has no attribute 'Wx'"):
        params.Wx = np.ones(params["Wx"].shape)  # type: ignore[attr-defined]


def test_parameters_are_no_single_array_and_say_how_to_save_them() -> None:
    params = make().params
    file = io.BytesIO()
    for ask in (
        lambda: np.save(file, params),
        lambda: np.asarray(params),
        lambda: np.array(params, np.float32),
    ):
        with refuses(TypeError, "numpy.savez(file, **params), or use params.flat"):
            ask()
    assert file.getvalue() == b""
    np.savez(archive := io.BytesIO(), **params)
    archive.seek(0)
    other = make()
    other.params.flat[...] = 0
    with np.load(archive) as saved:
        other.params = dict(saved)
    np.testing.assert_array_equal(other.params.flat, params.flat)


# Weights and totals


@pytest.fixture(params=[1, 3], ids=["whole", "in-parts"])
def workspace(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """For a batch of N captions at once, or in parts of three or four."""
    monkeypatch.setattr(network, "MIN_CAPTIONS_PER_CORE", 3)
    monkeypatch.setattr(network, "MIN_PRODUCT", 1)
    return Workspace(make().params.flat, request.param)


WEIGHTS = np.random.default_rng(2).uniform(-1, 2, N)
WEIGHTS[4] = 0


@CELLS
@pytest.mark.usefixtures("new_cells")
def test_a_weighted_loss_is_the_weighted_sum_of_single_captions(
    cell: str, workspace: Workspace
) -> None:
    model, (features, captions) = make(cell), batch()
    weighted = Batch(features, captions, weights=WEIGHTS, total=7.5)
    loss, grads = CrossEntropy().loss(model, weighted, workspace)
    shares = WEIGHTS / 7.5
    singles = [model.loss(features[[i]], captions[[i]]) for i in range(N)]
    expected = sum(w * float(x) for w, (x, _) in zip(shares, singles, strict=True))
    assert float(loss) == pytest.approx(expected, rel=1e-12)
    flat = sum(w * x.flat for w, (_, x) in zip(shares, singles, strict=True))
    np.testing.assert_allclose(grads.flat, flat, rtol=1e-10, atol=1e-13)
    assert all(space.nbytes for space in workspace.parts)


def test_weights_of_one_and_a_total_of_all_are_the_plain_loss(workspace: Workspace) -> None:
    model, (features, captions) = make(), batch()
    loss, grads = model.loss(features, captions)
    for options in (
        {"weights": np.ones(N)},
        {"total": float(N)},
        {"weights": np.full(N, 3), "total": 3 * N},
    ):
        other, other_grads = model.loss(features, captions, workspace=workspace, **options)
        assert float(other) == pytest.approx(float(loss), rel=1e-12)
        np.testing.assert_allclose(other_grads.flat, grads.flat, rtol=1e-10, atol=1e-13)


def test_gradients_of_a_weighted_loss_with_dropout_match_finite_differences(
    workspace: Workspace, rng: np.random.Generator
) -> None:
    model, (features, captions) = make(dropout=0.4), batch()
    model.params.flat[...] = rng.standard_normal(model.params.flat.shape) / 2
    terms = {"workspace": workspace, "weights": WEIGHTS, "total": 7.5, "step": 11}

    def loss() -> Any:
        return model.loss(features, captions, **terms)

    grads = loss()[1].copy()
    for name, x in model.params.items():
        slopes = directional_errors(lambda: loss()[0], {name: x}, {name: grads[name]}, rng)
        assert max(slopes) < 1e-6, name


@pytest.mark.parametrize("weights", TERMS, ids=lambda weights: "".join(weights))
def test_gradients_of_each_term_of_the_loss_match_finite_differences(
    weights: dict[str, float], rng: np.random.Generator
) -> None:
    """As the model's loss takes it, and as an objective passes it on."""
    model, (features, captions) = make(), batch()

    def loss(**weights: float) -> Any:
        return CrossEntropy(**weights).loss(model, Batch(features, captions, step=0))

    found, grads = loss(**weights)
    assert found == model.loss(features, captions, step=0, **weights)[0] != loss()[0]
    slopes = directional_errors(lambda: loss(**weights)[0], model.params, grads, rng)
    assert max(slopes) < 1e-6


@pytest.mark.parametrize("shape", [(N - 1,), (N, 1), ()])
def test_weights_that_are_not_one_for_each_caption_are_refused(shape: tuple[int, ...]) -> None:
    with refuses(ValueError, "weights", "have shape", "(N,) = (10,)"):
        make().loss(*batch(), weights=np.ones(shape))
