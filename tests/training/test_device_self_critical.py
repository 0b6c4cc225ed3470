"""Self-critical steps on the emulated device: the gradient of their samples is recorded and repeated."""

from typing import Any

import numpy as np
import pytest
from device_solver import VOCABULARY, leave_losses, make, make_data
from emulated import Emulator
from ranks import together

import xpcap
from xpcap import CaptioningSolver
from xpcap.distributed import SINGLE, Group
from xpcap.training import SelfCritical

pytestmark = pytest.mark.usefixtures("few_threads")

PICTURES, SAMPLES, STEPS = 4, 3, 5


def solver(backend: str, objective: SelfCritical, **options: Any) -> CaptioningSolver:
    """Of a model whose samples have about as many words as the captions."""
    options = {"inject": "every-step", "batch_size": PICTURES, "objective": objective, **options}
    made = make(backend, **options)
    made.model.params["b_vocab"][VOCABULARY.end] += 2.5
    leave_losses(made)
    return made


def batches() -> list[np.ndarray]:
    """Pictures of each step."""
    rng, pictures = (
        np.random.default_rng(6),
        len(SelfCritical(make_data()).epoch_indices(make_data())),
    )
    return [rng.permutation(pictures)[:PICTURES] for _ in range(STEPS)]


def trained(
    backend: str, group: Group = SINGLE, inject: str = "every-step", **options: Any
) -> CaptioningSolver:
    """A solver after steps in double precision."""
    objective = SelfCritical(make_data(inject=inject), samples=SAMPLES, group=group)
    options = {"inject": inject, "group": group, "dtype": np.float64, **options}
    made = solver(backend, objective, **options)
    for pictures in batches():
        made.train_batch(pictures)
    return made


def check_equal(ours: CaptioningSolver, theirs: CaptioningSolver) -> None:
    np.testing.assert_allclose(ours.loss_history, theirs.loss_history, rtol=1e-12)
    np.testing.assert_allclose(
        xpcap.to_numpy(ours.model.params.flat), theirs.model.params.flat, atol=1e-11
    )


@pytest.mark.parametrize(
    "inject", ["every-step", pytest.param("attention", marks=pytest.mark.slow)]
)
def test_emulated_repeated_samples_train_as_numpy_does(inject: str, device: Emulator) -> None:
    ours = trained("cupy", inject=inject)
    check_equal(ours, trained("numpy", inject=inject))
    assert ours._workspace.replay.repeats == STEPS - 1


def test_emulated_ranks_repeat_their_share_of_the_samples(device: Emulator) -> None:
    """A layout is of the captions of the rank."""
    theirs = trained("numpy")
    for ours in together(2, lambda group: trained("cupy", group)):
        check_equal(ours, theirs)
        assert ours._workspace.layout.sizes[0] == PICTURES // 2 * SAMPLES
        assert ours._workspace.replay.repeats > 0


def test_emulated_resumed_steps_of_samples_have_the_bits_of_unbroken_ones(device: Emulator) -> None:
    """Padding depends on the data and the samples alone, and not on the steps before."""
    unbroken, stopped, resumed = (
        solver("cupy", SelfCritical(make_data(), samples=SAMPLES)) for _ in range(3)
    )
    first, second = batches()[:2], batches()[2:]
    for made, steps in ((unbroken, [*first, *second]), (stopped, first)):
        for pictures in steps:
            made.train_batch(pictures)
    resumed.restore(stopped.state())
    for pictures in second:
        resumed.train_batch(pictures)
    assert resumed._workspace.replay.repeats == len(second) - 1
    assert (
        xpcap.to_numpy(resumed.model.params.flat).tobytes()
        == xpcap.to_numpy(unbroken.model.params.flat).tobytes()
    )
