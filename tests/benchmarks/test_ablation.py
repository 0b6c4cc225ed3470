"""Ablation: what it turns off is off."""

from unittest import mock

import numpy as np

from benchmarks.ablation import each_row
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
    assert len(part.words) == len(part.inputs.ids) == 5
