"""Ablation: what it turns off is off."""

from unittest import mock

import numpy as np
import pytest

from benchmarks.ablation import each_row, ways
from benchmarks.work import Config, host_batches, make_solver
from xpcap import CaptioningRNN
from xpcap.models import batch
from xpcap.models.network import Network


def test_a_row_of_an_ablated_step_shares_its_word_with_no_other() -> None:
    model = CaptioningRNN({"<NULL>": 0, "<START>": 1, "<END>": 2, "a": 3}, 4, 3, 5, dropout=0.5)
    arguments = np.ones((2, 4)), np.array([[1, 3, 3, 2], [1, 3, 2, 0]])
    with (
        mock.patch.object(batch, "pack", each_row),
        mock.patch.object(Network, "forward", autospec=True, side_effect=Network.forward) as spy,
    ):
        model.loss(*arguments)
    (part,) = (call.args[1] for call in spy.call_args_list)
    assert len(part.packed.words) == len(part.packed.inputs.ids) == 5


def test_a_step_without_one_optimisation_has_the_loss_of_a_step_with_all() -> None:
    config = Config("tiny", N=5, D=8, W=16, H=32, V=128)
    data, losses = config.data(1), dict[str, float]()
    for name in ways(make_solver(config, data)):
        solver = make_solver(config, data)
        with ways(solver)[name]():
            losses[name] = float(solver.step(*host_batches(config, data)[0]))
    padded = next(name for name in losses if name.startswith("packing"))
    assert losses.pop(padded) > 0  # padding has a loss of its own
    assert list(losses.values()) == pytest.approx(
        [losses["nothing (twice the same)"]] * len(losses)
    )
