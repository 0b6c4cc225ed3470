"""The contract of recurrent cells: kept by each that the library has and by stacks of them, on each
library; and a cell that breaks a claim is named with what is wrong.
"""

from typing import Any

import numpy as np
import pytest
from new_cells import MinimalGated
from refusals import refuses

from xpcap import OptionError, to_numpy, use_backend
from xpcap.errors import ContractError
from xpcap.layers import CELLS, Cell, stack
from xpcap.layers.cell import Activation, Shapes
from xpcap.layers.rnn import RNN, RNNCell
from xpcap.testing import CELL, check_cell
from xpcap.testing import cell as contract
from xpcap.testing.cell import CAPTIONS, STEP, Trial


class Renamed(MinimalGated):
    """A minimal gated unit whose weight and bias have names of their own."""

    inputs = "U", "c"

    def shapes(self, W: int, H: int) -> Shapes:
        return {"Wf": (H, H), "c": (2 * H,), "Wn": (H, H), "U": (W, 2 * H)}


OTHERS: dict[str, Cell] = {
    "renamed": Renamed(),
    "renamed+lstm+renamed": stack(Renamed(), CELLS["lstm"], Renamed()),
}
each_claim = pytest.mark.parametrize("claim", CELL, ids=lambda claim: claim.__name__)
LIBRARY = dict(CELLS)  # without those of tests
each_cell = pytest.mark.parametrize("cell", [*CELLS, *OTHERS])


@pytest.fixture(autouse=True)
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, cell in OTHERS.items():
        monkeypatch.setitem(CELLS, name, cell)


@each_claim
@each_cell
def test_cell_keeps_the_contract(cell: str, claim: contract.Claim) -> None:
    check_cell(cell, [claim])


def computed(trial: Trial) -> dict[str, Any]:
    """What a captioner and a loop make of a trial, on the backend in use."""
    model, features = trial.captioner(), trial.features()
    loss, grads = model.loss(features, CAPTIONS, step=STEP)
    scores, _ = model.step(trial.words(0, model), model.start(features))
    nll = model.score(features, CAPTIONS).nll
    return {"loss": loss, **grads, "scores": scores, "nll": nll, **trial.loop().run()}


@each_cell
@pytest.mark.parametrize("inject", ["init", "attention+every-step"])
@pytest.mark.parametrize(
    "lib", ["emulated", pytest.param("cupy", marks=pytest.mark.gpu)], indirect=True
)
def test_devices_agree(cell: str, inject: str, lib: Any) -> None:
    trial = Trial(cell, inject, contract.DROPOUT)
    found = computed(trial)
    with use_backend("numpy"):
        expected = computed(trial)
    for name, x in expected.items():
        assert isinstance(found[name], lib.xp.ndarray), name
        np.testing.assert_allclose(to_numpy(found[name]), x, rtol=1e-11, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("cell", [*CELLS, "renamed"])
def test_loop_refuses_arrays_that_do_not_fit(cell: str) -> None:
    loop, kind = Trial(cell).loop(), type(CELLS[cell]).__name__
    _, (cache, _) = loop.forward()
    for name, x in loop.arrays.items():
        for error, bad in (
            (ValueError, np.concatenate((x, x), axis=-1)),
            (ValueError, x[None]),
            (TypeError, x.astype(np.float32)),
            (TypeError, x.tolist()),
        ):
            with refuses(error, f"{kind}.rows_forward"):
                loop._replace(arrays=loop.arrays | {name: bad}).forward()
    for error, bad in (
        (ValueError, loop.dh[1:]),
        (ValueError, loop.dh[:, :1]),
        (TypeError, loop.dh.astype(np.float32)),
        (TypeError, loop.dh.tolist()),
    ):
        with refuses(error, f"{kind}.rows_backward", "dh"):
            loop.cell.rows_backward(bad, cache)


@pytest.mark.parametrize("cell", LIBRARY)
def test_each_cell_of_the_library_says_what_pages_show(cell: str) -> None:
    kind, loop = LIBRARY[cell], Trial(cell).loop()
    lacking = {*kind.blocks, *kind.states} - kind.meanings.keys()
    assert not lacking, f"cell {cell!r}: `meanings` lacks {', '.join(sorted(lacking))}"
    _, (cache, _) = loop.forward()
    values = kind.block_values(cache)
    lacking = {*kind.blocks} - {*kind.states} - values.keys()
    assert not lacking, f"cell {cell!r}: the cache of a step lacks {', '.join(sorted(lacking))}"
    shares = {name for name, x in values.items() if name in kind.blocks and (x > 0).all()}
    assert shares == {*kind.gates}, (
        f"cell {cell!r}: `gates` is {kind.gates!r}, and these are in 0..1"
    )


# ---- Cells that break the contract, each one claim at least

SEEN: list[Any] = []


def changed(**changes: Any) -> Cell:
    """An RNN whose methods call those of `changes` with its own results, then its arguments."""

    def wrapped(name: str, change: Any) -> Any:
        return lambda self, *args, **kwargs: change(getattr(RNN, name)(*args, **kwargs), *args)

    methods = {name: wrapped(name, change) for name, change in changes.items()}
    return type("Broken", (RNNCell,), methods)()


def keep_last(found: Any, *_: Any) -> Any:
    """Keep the cache outside it."""
    SEEN[:] = [found[1]]
    return found


class Flipped(MinimalGated):
    """A minimal gated unit with a sign wrong in the gradient of its forget gate."""

    def step_backward(self, dafter: Any, cache: Any, params: Any) -> Any:
        da, dstate, grads = super().step_backward(dafter, cache, params)
        da = np.concatenate((-da[:, : len(params["Wf"])], da[:, len(params["Wf"]) :]), axis=1)
        return da, dstate, grads


def write(found: Any, a: Any, *_: Any) -> Any:
    a *= 2
    return found


def add_up(found: Any, dh: Any, cache: Any, memory: Any = None, *_: Any) -> Any:
    """Add the gradient of Wh to whatever the memory holds."""
    da, dstate0, grads = found
    total = (
        np.zeros_like(grads["Wh"]) if memory is None else memory.take("total", grads["Wh"].shape)
    )
    total += grads["Wh"]
    return da, dstate0, {"Wh": total}


BROKEN: dict[str, tuple[Cell, str, str]] = {
    "step_gradient": (
        Flipped(),
        "cell 'broken' with inject 'init' and dropout 0.0",
        "the step's gradient of block f differs from finite differences",
    ),
    "gradient": (
        changed(run_backward=lambda found, *_: (-found[0], *found[1:])),
        "cell 'broken' with inject 'init' and dropout 0.0: the captioner's gradient of",
        "differs from finite differences",
    ),
    "dtype_kept": (
        changed(
            run_backward=lambda found, *_: (*found[:2], {"Wh": found[2]["Wh"].astype("f8")})
        ),
        "the gradient of Wh",
        "has dtype float64",
    ),
    "inputs_unchanged": (
        changed(run_forward=write), "the pre-activation of the loop", "has changed",
    ),
    "caches_apart": (
        changed(
            run_forward=keep_last,
            run_backward=lambda _, dh, cache, *rest: RNN.run_backward(dh, SEEN[0], *rest),
        ),
        "with another cache alive",
        "differs from the one without",
    ),
    "memory_reused": (changed(run_backward=add_up), "Wh, in memory of NaN", "differs"),
    "rows_alone": (
        changed(run_forward=lambda found, *_: (found[0] - found[0].mean(axis=0), found[1])),
        "h of sequence 0",
        "differs from that of the sequence by itself",
    ),
    "steps_compose": (
        changed(advance=lambda state, *_: tuple(0.9 * x for x in state)),
        "h of step 0",
        "differs from that of the loop",
    ),
    "no_words": (
        changed(run_backward=lambda found, *_: (found[0], (found[1][0] + 1,), found[2])),
        "W_proj of captions without words",
        "is [",
    ),
    "watched": (
        changed(activations=lambda _, cache: {"state": Activation(cache.Wh, -1, 1)}),
        "state",
        "has shape (3, 3)",
    ),
}  # fmt: skip


@each_claim
def test_cell_that_breaks_a_claim_is_named_with_what_is_wrong(
    claim: contract.Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, thing, got = BROKEN[claim.__name__]
    monkeypatch.setitem(CELLS, "broken", broken)
    with refuses(ContractError, thing, got):
        check_cell("broken", [claim])


def test_stale_states_and_missing_gradients_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_buffer(after: Any, a: Any, state: Any, params: Any, memory: Any, *_: Any) -> Any:
        """A state that lies in the memory, which the next step overwrites."""
        h = memory.take("h", state[0].shape)
        h[...] = after[0]
        return (h,)

    monkeypatch.setitem(CELLS, "broken", changed(advance=in_buffer))
    with refuses(ContractError, "h of step 0", "differs"):
        check_cell("broken", [contract.steps_compose])
    for change, got in (
        (
            lambda found, *_: (found[0], (*found[1], 0), found[2]),
            "returns 2 gradients of the state",
        ),
        (lambda found, *_: (*found[:2], {}), "lacks a gradient"),
    ):
        monkeypatch.setitem(CELLS, "broken", changed(run_backward=change))
        with refuses(ContractError, "rows_backward", got):
            check_cell("broken", [contract.caches_apart])


def test_error_of_a_cell_goes_through_with_the_claim_and_the_captioner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(CELLS, "broken", changed(run_forward=lambda found, *_: 1 / 0))
    with pytest.raises(ZeroDivisionError) as caught:
        check_cell("broken")
    assert caught.value.__notes__ == [f"gradient, {Trial('broken')}"]


def test_cell_that_does_not_exist_is_refused() -> None:
    with refuses(OptionError, "cell", "'plane' does not exist"):
        check_cell("plane")
