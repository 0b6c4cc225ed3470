"""verify passes as the code is, and fails when a mistake is made in it."""

import inspect
import re
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from xpcap import CaptioningRNN, layers, ops, optim
from xpcap.cs231n.verify import Row, published, read_cases, verify
from xpcap.layers.lstm import LSTM


def test_verify_passes_every_row_on_numpy_and_leaves_the_legacy_stream_alone(
    verified: list[Row],
) -> None:
    assert [row for row in verified if not row.passed] == []
    labels = Counter((row.case, row.dtype) for row in verified)
    assert [label for label, rows in labels.items() if rows > 1] == [], "two rows have one label"
    assert len(verified) > 70
    assert {row.backend for row in verified} == {"numpy"}


def test_verify_makes_each_check_of_published() -> None:
    source = inspect.getsource(published) + inspect.getsource(verify)
    for name, check in inspect.getmembers(published, inspect.isfunction):
        if inspect.signature(check).return_annotation == Iterator[Row]:
            uses = len(re.findall(rf"\b{name}\(", source))
            assert uses > 1, (
                f"published.{name} makes rows, and xpcap.cs231n.verify.verify never calls it"
            )


@pytest.mark.gpu
def test_verify_passes_every_row_on_cupy() -> None:
    import xpcap

    with xpcap.use_backend("cupy"):
        assert [row for row in verify() if not row.passed] == []


def test_the_published_losses_are_among_the_cases() -> None:
    assert [case["published_loss"] for case in read_cases()["captioners"]] == [
        9.83235591003,
        9.82445935443,
    ]


def forgetful_backward(right: Any, ops: Any, cell: Any, grads: Any, *args: Any) -> Any:
    step_fn = right(ops, cell, grads, *args)
    if cell is not LSTM:
        return step_fn

    def forget(step: Any) -> None:
        step_fn(step)
        grads.dstate[1][...] *= 0.999

    return forget


def unscaled_scores(right: Any, self: Any, h: Any, A: Any, *args: Any) -> Any:
    return right(self, h * A.shape[2] ** 0.5, A, *args)


@pytest.mark.parametrize("case", ["lstm_backward dx", "attention_forward h"])
@pytest.mark.nightly
def test_verify_catches_a_mistake(
    case: str, lib: Any, verified: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the part of `verify` that the mistake is for, no further than the first row that finds it;
    `verify` has that row, and it passes without.
    """
    owner, name, mistake, rows = {
        "lstm_backward dx": (
            layers.recurrent,
            "backward_steps",
            forgetful_backward,
            lambda: published.layer_gradients(layers, read_cases()),
        ),
        "attention_forward h": (
            type(ops.get_ops(lib(np.ones(1)))),
            "attend_steps",
            unscaled_scores,
            lambda: published.attention_rows(layers),
        ),
    }[case]
    assert {row.passed for row in verified if row.case == case} == {True}
    right = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args: mistake(right, *args))
    assert case in (row.case for row in rows() if not row.passed)


# Other people's modules


class TheirWrongCaptioner:
    """A captioner as the course's notebook leaves it: a plain dict of parameters, no dropout, no
    seed. The arithmetic is ours, but for one gradient.
    """

    def __init__(self, *sizes: Any) -> None:
        self._ours = CaptioningRNN(*sizes)
        self.params = {name: x.copy() for name, x in self._ours.params.items()}

    def loss(self, features: Any, captions: Any) -> Any:
        self._ours.params = self.params
        loss, grads = self._ours.loss(features, captions)
        return loss, {**grads, "W_proj": grads["W_proj"] * 1.01}


@pytest.mark.slow
def test_verify_grades_other_peoples_captioners() -> None:
    failed = {row.case for row in verify(captioner=TheirWrongCaptioner) if not row.passed}
    assert failed == {
        "captioner fixed rnn dW_proj (mixed)",
        "captioner fixed lstm dW_proj (mixed)",
        "captioner rnn dW_proj",
        "captioner lstm dW_proj (mixed)",
        "captioner rnn along 10 directions",
        "captioner lstm along 10 directions",
    }


def test_verify_grades_other_peoples_layers_and_rules() -> None:
    """Of theirs one layer and one rule are wrong; ours, which are not asked, are right."""

    def wrong_backward(dh: Any, cache: Any) -> Any:
        dx, *rest = layers.lstm_backward(dh, cache)
        return (dx + 1e-3, *rest)

    def wrong_adam(w: Any, dw: Any, config: Any = None) -> Any:
        next_w, config = optim.adam(w, dw, config)
        return next_w + 1e-3, config

    theirs = SimpleNamespace(**vars(layers) | {"lstm_backward": wrong_backward})
    rules = SimpleNamespace(**vars(optim) | {"adam": wrong_adam})
    failed = {row.case for row in verify(layers=theirs, optim=rules) if not row.passed}
    assert failed == {"lstm_backward dx", "adam next_w"}
