"""Two runs in lock-step: equal ones stay together, and a change is named by the step and the tensor
where it begins.
"""

import contextlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from emulated import Emulator

import xpcap
from xpcap import layers, ops, use_backend
from xpcap.backend.launch import KernelLaunch
from xpcap.backend.replay import Replay
from xpcap.cs231n.verify import lockstep
from xpcap.cs231n.verify.lockstep import (
    TOLERANCE,
    Outcome,
    Scope,
    Setup,
    lock_step,
    on,
    relative_max_error,
)
from xpcap.layers.lstm import LSTM, LSTMCell
from xpcap.layers.rnn import RNNCell
from xpcap.ops import HostOps, has_kernels

NOTEBOOK = {"N": 25, "D": 512, "W": 256, "H": 512, "V": 1004}
SMALL = {"N": 6, "D": 10, "W": 6, "H": 8, "V": 20}
CELLS = pytest.mark.parametrize("cell", layers.CELLS)
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE)


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """NumPy, by plain code."""
    with use_backend("numpy"), xpcap.plain():
        yield


def spoilt(
    inner: Scope, owner: ModuleType | type, op: str, change: Callable[..., Any], since: int
) -> Scope:
    """The place `inner`, where from step `since` on what `op` gives is changed: `change` gets it,
    and the op's arguments.
    """
    entered = 0  # once to make the run, then for each step

    @contextlib.contextmanager
    def place() -> Iterator[None]:
        nonlocal entered
        with inner(), pytest.MonkeyPatch.context() as patch:
            if entered >= since:
                right, own = getattr(owner, op), isinstance(owner, type)

                def wrong(*args: Any, **kwargs: Any) -> Any:
                    return change(right(*args, **kwargs), *args[own:])

                patch.setattr(owner, op, wrong)
            entered += 1
            yield

    return place


def a_little(x: Any, *_: Any) -> Any:
    """The first of an op's results, or its only one, off by a ten-thousandth; arrays in place, for
    they may be read as `out`.
    """
    if np.isscalar(x):
        return x * (1 + 1e-4)
    first = x
    while isinstance(first, tuple):
        first = first[0]
    if first.dtype != bool:
        first *= 1 + 1e-4
    return x


def da_a_little(step_fn: ops.StepFn, *args: Any) -> ops.StepFn:
    """Steps of a cell back after which the gradient of the pre-activations is off by as much,
    whatever computes it.
    """
    _, cell, grads, *_ = args
    if cell is not LSTM:
        return step_fn

    def spoilt_step(step: ops.Step) -> None:
        step_fn(step)
        grads.da[step.rows] *= 1 + 1e-4

    return spoilt_step


def too_far(norm: Any, x: Any, *_: Any) -> Any:
    """Clipping below the limit."""
    x *= 1 - 1e-4
    return norm


def rounded(x: Any, w: Any, *_: Any) -> Any:
    """An update whose weights go through float32."""
    w[...] = w.astype(np.float32)
    return x


MISTAKES = [  # where, the op, its change, the cell, and the first tensor that it touches
    (HostOps, "softmax_loss", a_little, "lstm", "loss"),
    (LSTMCell, "equation", a_little, "lstm", "loss"),
    (LSTMCell, "gradient", a_little, "lstm", "dWh"),
    (RNNCell, "equation", a_little, "rnn", "loss"),
    (RNNCell, "gradient", a_little, "rnn", "dWh"),
    (HostOps, "segment_sum", a_little, "rnn", "db"),
    (HostOps, "gather", a_little, "rnn", "loss"),
    (HostOps, "scatter", a_little, "rnn", "dW_embed"),
    (HostOps, "global_norm", a_little, "rnn", "norm"),
    (HostOps, "clip_by_norm", too_far, "rnn", "m of W_proj"),
    (HostOps, "adam_update", rounded, "lstm", "W_proj"),
]


@pytest.mark.parametrize(("owner", "op", "change", "cell", "tensor"), MISTAKES)
def test_a_change_is_named_by_its_step_and_tensor(
    owner: type, op: str, change: Any, cell: str, tensor: str
) -> None:
    setup = Setup(cell, "float64", **SMALL)
    # A loop's fast version does not call the op
    place = on("numpy") if owner is HostOps else plain
    outcome = lock_step(setup, on("numpy"), spoilt(place, owner, op, change, since=3))
    assert (outcome.step, outcome.tensor, outcome.diverged) == (3, tensor, True)
    assert 1e-9 < outcome.error < 1e-3


def products(dot: Callable[..., Any]) -> Scope:
    """NumPy and the plain equations with other products."""

    @contextlib.contextmanager
    def place() -> Iterator[None]:
        with plain(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(np, "dot", dot)
            yield

    return place


@CELLS
def test_products_in_tf32_diverge(cell: str) -> None:
    dot = np.dot

    def tf32(x: np.ndarray) -> np.ndarray:
        """The ten bits after the point that TF32 keeps of float32's 23."""
        return ((x.view(np.int32) + (1 << 12)) & ~((1 << 13) - 1)).view(np.float32)

    place = products(lambda a, b, out=None: dot(tf32(a), tf32(b), out=out))
    outcome = lock_step(Setup(cell, "float32"), plain, place)
    assert (outcome.step, outcome.diverged) == (1, True)
    assert outcome.error > TOLERANCE["float32"]


def test_products_added_up_in_another_order_stay_together_at_the_notebooks_size() -> None:
    """A GPU's products differ from NumPy's by rounding: here each is added up in float64. float32
    has to bear that ten times over.
    """
    dot = np.dot

    def in_float64(a: Any, b: Any, out: Any) -> Any:
        np.copyto(out, dot(a.astype("f8"), b.astype("f8")), casting="same_kind")
        return out

    setup = Setup("lstm", "float32", **NOTEBOOK, steps=3)
    outcome = lock_step(setup, products(in_float64), on("numpy"))
    assert not outcome.diverged
    assert 0 < outcome.error < 0.2 * TOLERANCE["float32"]


@CELLS
@DTYPES
def test_numpy_and_the_plain_equations_stay_together(cell: str, dtype: str) -> None:
    outcome = lock_step(Setup(cell, dtype), on("numpy"), plain)
    assert not outcome.diverged
    assert outcome.error <= TOLERANCE[dtype]


@DTYPES
def test_equal_runs_do_not_differ_at_all(dtype: str) -> None:
    same = spoilt(
        on("numpy"), HostOps, "global_norm", lambda x, *_: x, since=1
    )  # what changes nothing makes nothing diverge
    assert lock_step(Setup("lstm", dtype, **SMALL), on("numpy"), same, tolerance=0) == Outcome(
        1, "loss", 0.0, diverged=False
    )


def test_what_is_not_a_number_diverges() -> None:
    def nothing(x: Any, *_: Any) -> Any:
        x[0][...] = np.nan
        return x

    outcome = lock_step(
        Setup("lstm", "float32", **SMALL),
        on("numpy"),
        spoilt(on("numpy"), HostOps, "softmax_loss", nothing, since=2),
    )
    assert (outcome.step, outcome.tensor, outcome.diverged) == (2, "loss", True)
    assert np.isnan(outcome.error)


def test_the_relative_max_error_is_a_share_of_the_largest_element() -> None:
    assert relative_max_error(np.array([4.0, 1.0]), np.array([4.0, 2.0])) == 0.25
    assert relative_max_error(np.zeros(3), np.zeros(3)) == 0
    assert relative_max_error(np.zeros(3), np.array([0.0, 0.0, 1e-30])) == 1
    assert np.isnan(relative_max_error(np.array([np.inf]), np.array([np.inf])))


def test_batches_are_ragged_with_a_null_inside_and_one_is_smaller() -> None:
    setup = Setup("lstm", "float32")
    data = lockstep._draw(setup)
    batches = list(lockstep._batches(setup, data))
    assert [len(features) for features, _ in batches] == [20, 20, 10, 20, 20, 10]
    for _, captions in batches:
        live = captions[:, 1:] != data.vocabulary.null
        lengths = np.where(live.any(axis=1), live.shape[1] - np.argmax(live[:, ::-1], axis=1), 0)
        assert len(set(lengths.tolist())) > 4
        assert (live.sum(axis=1) < lengths).any()
        assert (captions[:, 0] == data.vocabulary.start).all()


def test_clipping_acts_in_some_steps_and_not_in_others() -> None:
    setup = Setup("lstm", "float64")
    data = lockstep._draw(setup)
    run = lockstep._Run(setup, data, on("numpy"))
    norms = [float(run.step(*batch)["norm"]) for batch in lockstep._batches(setup, data)]
    assert min(norms) < setup.clip < max(norms)


@pytest.mark.parametrize(
    ("cell", "dtype"),
    [("rnn", "float32"), ("lstm", "float32"), ("lstm", "float64"), ("gru", "float64")],
)
def test_emulated_device_stays_together_with_numpy(cell: str, dtype: str, device: Emulator) -> None:
    outcome = lock_step(Setup(cell, dtype), on("cupy"), on("numpy"))
    assert not outcome.diverged
    assert outcome.error < 0.1 * TOLERANCE[dtype]
    assert outcome.repeated == (3 if has_kernels(layers.CELLS[cell]) else 0)


@pytest.mark.slow
def test_emulated_device_stays_together_with_numpy_at_the_notebooks_width(device: Emulator) -> None:
    setup = Setup("lstm", "float32", N=6, D=16, W=16, H=512, V=300, steps=3)
    outcome = lock_step(setup, on("cupy"), on("numpy"))
    assert not outcome.diverged
    assert outcome.error < 0.1 * TOLERANCE["float32"]


def test_emulated_change_on_the_device_is_named_by_its_step_and_tensor(device: Emulator) -> None:
    setup = Setup("lstm", "float32", **SMALL)
    outcome = lock_step(
        setup,
        spoilt(on("cupy"), layers.recurrent, "backward_steps", da_a_little, since=3),
        on("numpy"),
    )
    assert (outcome.step, outcome.tensor, outcome.diverged) == (3, "dWh", True)


@pytest.mark.nightly
def test_emulated_verify_has_rows_for_training(
    device: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        lockstep, "Setup", lambda *args, **more: Setup(*args, **SMALL, **more, steps=3)
    )
    with use_backend("cupy"):
        rows = list(lockstep.rows())
        trained = [f"{cell}{more}" for cell in layers.CELLS for more in ("", " that attends")]
        assert {row.case for row in rows} == {
            case
            for what in trained
            for repeated in (
                [", 1 of them repeated"] if has_kernels(layers.CELLS[what.split()[0]]) else [""]
            )
            for case in (
                f"lock-step {what} with numpy, 3 steps{repeated}",
                f"same bits twice {what}, 3 steps{repeated}",
            )
        }
        assert len(rows) == 8 * len(layers.CELLS)
        assert all(row.passed for row in rows)
        assert all(row.error == row.tolerance == 0 for row in rows if "same bits" in row.case)
        monkeypatch.setattr(
            lockstep,
            "on",
            lambda name: (
                spoilt(on(name), layers.recurrent, "backward_steps", da_a_little, since=2)
                if name == "cupy"
                else on(name)
            ),
        )
        failed = [row for row in lockstep.rows() if not row.passed]
    assert [row.case for row in failed] == 2 * [
        f"lock-step lstm{more} with numpy: dWh diverges at step 3" for more in ("", " that attends")
    ]


@pytest.mark.parametrize(
    ("owner", "replaced", "instead", "found"),
    [
        (KernelLaunch, "call", lambda self: lambda: None, "diverges at step"),
        (Replay, "run", lambda self, key, compute: compute(), "no recorded step"),
    ],
    ids=["records-do-nothing", "nothing-recorded"],
)
def test_emulated_verify_fails_where_steps_are_not_repeated_as_in_training(
    owner: type,
    replaced: str,
    instead: Any,
    found: str,
    device: Emulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(owner, replaced, instead)
    monkeypatch.setattr(lockstep, "variants", lambda _: [("lstm", "lstm", "init")])
    with use_backend("cupy"):
        assert any(found in row.case for row in lockstep.rows() if not row.passed)


@pytest.mark.gpu
@CELLS
@DTYPES
def test_a_gpu_stays_together_with_numpy_at_the_notebooks_size(cell: str, dtype: str) -> None:
    outcome = lock_step(Setup(cell, dtype, **NOTEBOOK), on("cupy"), on("numpy"))
    assert not outcome.diverged, outcome
    assert outcome.repeated or not has_kernels(layers.CELLS[cell])


@pytest.mark.gpu
@CELLS
@DTYPES
def test_two_runs_on_one_gpu_give_the_same_bits_at_the_notebooks_size(
    cell: str, dtype: str
) -> None:
    setup = Setup(cell, dtype, **NOTEBOOK)
    data = lockstep._draw(setup)
    runs = [lockstep._Run(setup, data, on("cupy")) for _ in range(2)]
    for batch in lockstep._batches(setup, data):
        ours, theirs = (run.step(*batch) for run in runs)
        for name, x in ours.items():
            assert x.tobytes() == theirs[name].tobytes(), name
