"""The contract of update rules: kept by those of the library and by two whose state has other shapes;
and a rule that breaks a claim is named with what is wrong.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from refusals import refuses
from update_rules import COUNTING_SGD, RULES

from xpcap import OptionError, optim, to_numpy, use_backend
from xpcap.errors import ContractError
from xpcap.optim import UpdateRule
from xpcap.testing import UPDATE_RULE, check_update_rule
from xpcap.testing import update_rule as contract
from xpcap.testing.update_rule import Trial

each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


@pytest.mark.parametrize("claim", UPDATE_RULE, ids=lambda claim: claim.__name__)
@each_rule
def test_rule_keeps_the_contract(rule: UpdateRule, claim: contract.Claim) -> None:
    check_update_rule(rule, [claim])


@each_rule
@pytest.mark.parametrize(
    "lib", ["emulated", pytest.param("cupy", marks=pytest.mark.gpu)], indirect=True
)
def test_devices_agree(rule: UpdateRule, lib: Any) -> None:
    params, optimizer = Trial(rule).optimized()
    with use_backend("numpy"):
        expected, there = Trial(rule).optimized()
    for got, array in zip(
        (params, *optimizer.state.values()), (expected, *there.state.values()), strict=True
    ):
        assert isinstance(got.flat, lib.xp.ndarray)
        np.testing.assert_allclose(to_numpy(got.flat), array.flat, rtol=1e-12)


@pytest.mark.parametrize("name", optim.RULES)
def test_state_that_is_never_negative_is_said_to_be_squares(name: str) -> None:
    """So that a file with another is refused."""
    rule = optim.RULES[name]
    _, optimizer = Trial(rule).optimized()
    positive = {key for key in rule.state if (to_numpy(optimizer.state[key].flat) >= 0).all()}
    assert positive == {*rule.squares}, f"rule {name!r}: `squares` is {rule.squares}"


# ---- Rules that break the contract, each one claim at least

SGD, MOMENTUM, RMSPROP = (optim.RULES[name] for name in ("sgd", "sgd_momentum", "rmsprop"))
COUNT = [0]


def rebound(w: Any, dw: Any, state: Any, config: Any) -> None:
    state["velocity"] = config["momentum"] * state["velocity"] - config["learning_rate"] * dw
    w += state["velocity"]


def moved(w: Any, dw: Any, state: Any, config: Any) -> None:
    w = w - config["learning_rate"] * dw


def lowered(w: Any, dw: Any, state: Any, config: Any) -> None:
    config["learning_rate"] *= 0.5
    w -= config["learning_rate"] * dw


def unkept(w: Any, dw: Any, state: Any, config: Any) -> None:
    cache = state["cache"] + dw * dw
    w -= config["learning_rate"] * dw / (np.sqrt(cache) + 1e-8)


def doubled(w: Any, dw: Any, state: Any, config: Any) -> None:
    dw *= config["learning_rate"]
    w -= dw


def upwards(w: Any, dw: Any, state: Any, config: Any) -> None:
    w += config["learning_rate"] * dw


def normalised(w: Any, dw: Any, state: Any, config: Any) -> None:
    w -= config["learning_rate"] * dw / (np.sqrt((dw * dw).sum()) + 1e-8)


def divided(w: Any, dw: Any, state: Any, config: Any) -> None:
    state["cache"][...] += dw * dw
    w -= config["learning_rate"] * dw / np.sqrt(state["cache"])


def squared(w: Any, dw: Any, state: Any, config: Any) -> None:
    state["cache"][...] += dw
    w -= config["learning_rate"] * dw


def counted(w: Any, dw: Any, state: Any, config: Any) -> None:
    COUNT[0] += 1
    w -= config["learning_rate"] / COUNT[0] * dw


BROKEN = {
    "a gradient that is written to": (
        contract.writes_stated, replace(SGD, update=doubled), "dw of w (3, 4) of float32", "has ch",
    ),
    "w rebound": (
        contract.writes_stated, replace(SGD, update=moved), "w (3, 4) of float32", "has elements that did not change",
    ),
    "a number that is written to": (
        contract.writes_stated, replace(SGD, update=lowered), "config of w (3, 4)", "0.05",
    ),
    "state that is not written to": (
        contract.writes_stated, replace(RMSPROP, update=unkept), "state 'cache' of w (3, 4)", "zeros",
    ),
    "a step upwards": (
        contract.descends, replace(SGD, update=upwards), "loss of w (3, 4)", "goes from",
    ),
    "elements that depend on others": (
        contract.parameters_apart, replace(SGD, update=normalised), "W of several", "differs from",
    ),
    "a division by zero": (
        contract.finite, replace(RMSPROP, update=divided), "w of parameter W", "is [[nan nan",
    ),
    "a square below zero": (
        contract.squares_positive, replace(RMSPROP, update=squared), "state 'cache'", "goes down",
    ),
    "a count outside the state": (
        contract.resumes, replace(COUNTING_SGD, update=counted), "resumed,", "differs from those",
    ),
}  # fmt: skip


def test_every_claim_is_broken() -> None:
    assert {row[0] for row in BROKEN.values()} == set(UPDATE_RULE)


@pytest.mark.parametrize("wrong", BROKEN)
def test_rule_that_breaks_a_claim_is_named_with_what_is_wrong(wrong: str) -> None:
    claim, rule, thing, got = BROKEN[wrong]
    with (
        np.errstate(invalid="ignore"),
        refuses(ContractError, thing, got),
    ):
        check_update_rule(rule, [claim])


def test_state_that_is_rebound_is_an_error_with_the_claim_and_the_rule() -> None:
    """It would be lost: the next step begins with the array as it was."""
    rule = replace(MOMENTUM, update=rebound)
    with pytest.raises(TypeError, match="mappingproxy"):
        optim.update(rule, np.ones(3), np.ones(3), {})
    with pytest.raises(TypeError, match="mappingproxy") as caught:
        check_update_rule(rule)
    assert caught.value.__notes__ == ["writes_stated, rule 'sgd_momentum'"]


def test_rules_go_by_their_names() -> None:
    check_update_rule("sgd")
    with refuses(OptionError, "update rule", "'sdg'", "did you mean 'sgd'"):
        check_update_rule("sdg")
