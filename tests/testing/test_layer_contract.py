"""The contract of layers: kept by each pair of the library, on each library; and a pair that breaks a
claim is named with what is wrong.
"""

from typing import Any

import numpy as np
import pytest
from layer_cases import PAIRS, trial
from refusals import refuses

from xpcap import OptionError, to_numpy, use_backend
from xpcap.errors import ContractError
from xpcap.testing import LAYER, check_layer
from xpcap.testing import layer as contract

# Rows are views into the cache, which the captioner reads before it goes back
KEEPS = [
    (pair, claim)
    for pair in PAIRS
    for claim in LAYER
    if not ("_rows" in pair and claim is contract.results_fresh)
]
STEPPED = [pair for pair in PAIRS if trial(pair, T=0).shapes != trial(pair).shapes]
on_devices = pytest.mark.parametrize(
    "lib", ["emulated", pytest.param("cupy", marks=pytest.mark.gpu)], indirect=True
)


@pytest.mark.parametrize(("pair", "claim"), KEEPS, ids=lambda x: getattr(x, "__name__", x))
def test_layer_keeps_the_contract(pair: str, claim: contract.Claim) -> None:
    check_layer(**PAIRS[pair], contract=[claim])


@on_devices
@pytest.mark.parametrize("pair", PAIRS)
def test_layer_keeps_the_contract_on_a_device(pair: str, lib: Any) -> None:
    """What a library has a say in."""
    claims = [contract.dtype_kept, contract.inputs_unchanged, contract.views_taken]
    check_layer(**PAIRS[pair], contract=claims)


@pytest.mark.parametrize("pair", STEPPED)
def test_sequences_of_no_steps_keep_the_contract(pair: str) -> None:
    arguments = PAIRS[pair]
    check_layer(**arguments | {"sizes": {"T": 0} | arguments.get("sizes", {})})


@on_devices
@pytest.mark.parametrize("pair", PAIRS)
def test_devices_agree(pair: str, lib: Any) -> None:
    """float32 is compared by runs in lock-step, in tests/cs231n."""
    for case in contract.trials(**PAIRS[pair]):
        found, _ = case.outcome(*case.draw("float64"))
        with use_backend("numpy"):
            expected, _ = case.outcome(*case.draw("float64"))
        for name, x in expected.items():
            assert isinstance(found[name], lib.xp.ndarray), name
            np.testing.assert_allclose(
                to_numpy(found[name]), x, rtol=1e-12, atol=1e-12, err_msg=name
            )


# ---- Pairs that break the contract, each one claim at least

SHAPES = "x:N,D w:N,D -> out:N,D"
SEEN: list[Any] = [None]


def forward(x: Any, w: Any) -> Any:
    return x * w, (x, w)


def backward(dout: Any, cache: Any) -> Any:
    x, w = cache
    return dout * w, dout * x


def forward_in_place(x: Any, w: Any) -> Any:
    before = x.copy()
    x *= w
    return x.copy(), (before, w)


def forward_by_its_result(x: Any, w: Any) -> Any:
    out = x * w
    return out, (out, x, w)


def backward_by_its_result(dout: Any, cache: Any) -> Any:
    out, x, w = cache
    return dout * out / x, dout * out / w


def forward_kept_outside(x: Any, w: Any) -> Any:
    SEEN[:] = [(x, w)]
    return x * w, None


def backward_that_uses_up(dout: Any, cache: Any) -> Any:
    x, _ = cache
    grads = backward(dout, cache)
    x *= 0
    return grads


def forward_of_flat_memory(x: Any, w: Any) -> Any:
    memory = x if x.base is None else x.base
    return memory.ravel()[: x.size].reshape(x.shape) * w, (x, w)


def backward_of_shared_memory(dout: Any, cache: Any) -> Any:
    dx = dout.copy()
    return dx, dx


def total(x: Any, w: Any) -> Any:
    return x + w, None


BROKEN = {
    "a gradient of another sign": (
        contract.gradient,
        (forward, lambda dout, cache: (dout * cache[1], -dout * cache[0])),
        "forward of x (3, 4), w (3, 4)",
        "the gradient of w differs from finite differences",
    ),
    "a gradient summed over rows": (
        contract.shapes_stated,
        (forward, lambda dout, cache: (dout * cache[1], (dout * cache[0]).sum(axis=0))),
        "the gradient of w",
        "has shape (4,)",
    ),
    "a result in double": (
        contract.dtype_kept,
        (lambda x, w: ((x * w).astype("f8"), (x, w)), backward),
        "out",
        "has dtype float64",
    ),
    "an argument that is written to": (
        contract.inputs_unchanged, (forward_in_place, backward), "x", "has changed",
    ),
    "a result that is an argument": (
        contract.inputs_unchanged,
        (lambda x, w: (x, None), lambda dout, cache: (dout.copy(), np.zeros_like(dout))),
        "x",
        "changes with the results",
    ),
    "a result that the cache holds": (
        contract.results_fresh,
        (forward_by_its_result, backward_by_its_result),
        "the gradient of x, after a write to the results,",
        "differs from the one before",
    ),
    "two gradients in one array": (
        contract.results_fresh,
        (total, backward_of_shared_memory),
        "the gradient of x",
        "shares memory with another result",
    ),
    "a cache outside": (
        contract.caches_apart,
        (forward_kept_outside, lambda dout, cache: backward(dout, SEEN[0])),
        "the gradient of x, with another cache alive,",
        "differs from the one without",
    ),
    "a cache that is used up": (
        contract.caches_apart,
        (lambda x, w: (x * w, (x.copy(), w)), backward_that_uses_up),
        "the gradient of w, with another cache alive,",
        "differs from the one without",
    ),
    "strides ignored": (
        contract.views_taken,
        (forward_of_flat_memory, backward),
        "out, of views,",
        "differs from the one of contiguous arrays",
    ),
    "a result more than the line": (
        contract.gradient, (lambda x, w: (x * w, w, None), backward), "", "returns 2 results",
    ),
    "a gradient less than the line": (
        contract.gradient,
        (forward, lambda dout, cache: dout * cache[1]),
        "",
        "returns 1 gradients",
    ),
}  # fmt: skip


def test_every_claim_is_broken() -> None:
    assert {row[0] for row in BROKEN.values()} == set(LAYER)


@pytest.mark.parametrize("wrong", BROKEN)
def test_layer_that_breaks_a_claim_is_named_with_what_is_wrong(wrong: str) -> None:
    claim, pair, thing, got = BROKEN[wrong]
    with refuses(ContractError, thing, got):
        check_layer(*pair, SHAPES, contract=[claim])


def test_a_layer_of_ones_own_keeps_the_contract() -> None:
    check_layer(forward, backward, SHAPES)


def test_error_of_a_layer_goes_through_with_the_claim_and_the_shapes() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        check_layer(forward, lambda dout, cache: 1 / 0, SHAPES)
    assert caught.value.__notes__ == ["gradient, forward of x (3, 4), w (3, 4)"]


def test_layers_whose_shapes_or_upstream_gradients_are_unknown_are_refused() -> None:
    with refuses(OptionError, "shapes", "forward is not"):
        check_layer(forward, backward)
    with refuses(OptionError, "backward", "(dy, cache)", "dout"):
        check_layer(forward, lambda dy, cache: None, SHAPES)
    with refuses(OptionError, "size", "'Q' does not exist"):
        check_layer(forward, backward, SHAPES, sizes={"Q": 3})
    with refuses(OptionError, "backward", "dC=None", "cache and at least one of dout"):
        check_layer(forward, lambda dout, cache, dC=None: None, SHAPES)
