"""Self-critical steps on the emulated device: their gradient is recorded, and the device computes the
forward pass of the samples while the host computes their rewards.
"""

from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("PIL")  # test_emulated_step

from emulated import Emulator
from ranks import together
from test_emulated_step import VOCABULARY, make, make_data
from test_replay import leave_losses

import xpcap
from xpcap import CaptioningSolver
from xpcap.distributed import SINGLE, Group
from xpcap.ops import DeviceOps
from xpcap.ops.device import Equations
from xpcap.training import SelfCritical

PICTURES, SAMPLES, STEPS = 4, 3, 5
BEFORE, AFTER = 1, 4  # launches of a step outside of records: masks; norm, update, figures


class Mark(NamedTuple):
    """How much the device had been given."""

    launches: int
    transfers: int


class Marking(SelfCritical):
    """Marks when samples are there, and when rewards are asked for."""

    def __init__(self, device: Emulator) -> None:
        super().__init__(make_data(), samples=SAMPLES)
        self.device, self.marks = device, list[Mark]()

    def mark(self) -> None:
        self.marks.append(Mark(len(self.device.launches), len(self.device.transfers)))

    def _gather(self, *args: Any) -> Any:
        self.mark()
        return super()._gather(*args)

    def rewards(self, *args: Any) -> Any:
        self.mark()
        return super().rewards(*args)


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


def test_emulated_gradient_of_samples_is_recorded_around_the_rewards(device: Emulator) -> None:
    """All that a step launches for it is in two records; it reads and sends as without them."""
    objective = Marking(device)
    recorded, unrecorded = (solver("cupy", objective) for _ in range(2))
    unrecorded._workspace.layout = None
    records = recorded._workspace
    for step, pictures in enumerate(batches()):
        with device.counting() as plain:
            unrecorded.train_batch(pictures)
        device.reset()
        objective.marks.clear()
        with device.counting() as counts:
            recorded.train_batch(pictures)
        sampled, rewarded = objective.marks
        assert rewarded.launches - sampled.launches == BEFORE + len(records.forward_replay.nodes)
        assert len(counts.launches) - rewarded.launches == len(records.replay.nodes) + AFTER
        assert len(counts.transfers) - rewarded.transfers == 2, (
            "weights of the samples, and the loss"
        )
        assert (records.forward_replay.repeats, records.replay.repeats) == (step, step)
        assert len(counts.reads) == len(plain.reads)
        assert len(counts.transfers) == len(plain.transfers)


@pytest.mark.parametrize("graphs", [False, True], ids=["list", "graph"])
@pytest.mark.parametrize(
    "inject", ["every-step", pytest.param("attention", marks=pytest.mark.slow)]
)
def test_emulated_repeated_samples_train_as_numpy_does(
    inject: str, graphs: bool, device: Emulator
) -> None:
    ours = trained("cupy", inject=inject, graphs=graphs)
    check_equal(ours, trained("numpy", inject=inject))
    for replay in (ours._workspace.forward_replay, ours._workspace.replay):
        assert (replay.repeats, replay.has_graph) == (STEPS - 1, graphs)


def test_emulated_ranks_repeat_their_share_of_the_samples(device: Emulator) -> None:
    """A layout is of the captions of the rank."""
    theirs = trained("numpy")
    for ours in together(2, lambda group: trained("cupy", group)):
        check_equal(ours, theirs)
        assert ours._workspace.layout.sizes[0] == PICTURES // 2 * SAMPLES
        assert ours._workspace.replay.repeats > 0


def test_emulated_rest_of_a_step_is_not_repeated_after_a_forward_pass_that_was_not(
    device: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose results may lie elsewhere than those of the step before."""
    monkeypatch.setattr(DeviceOps, "gather_plus_image", Equations.gather_plus_image)
    ours = trained("cupy")
    check_equal(ours, trained("numpy"))
    assert "gather_plus_image" in ours._workspace.forward_replay.refused
    assert ours._workspace.replay.nodes
    assert not ours._workspace.replay.repeats


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
