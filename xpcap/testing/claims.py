"""Claims: a contract is a tuple of claims, which are functions of the object to check.

A claim that does not hold calls `fail`, directly or by a comparison of this module.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, TypeVar

import numpy as np

from xpcap.backend import Array, to_numpy
from xpcap.errors import ContractError
from xpcap.gradcheck import directional_errors

# Maximum errors of a slope, and of equal sums in another order
SLOPE = 1e-6
ROUNDING = 1e-11
Trial = TypeVar("Trial")


def check(trial: Trial, claims: Iterable[Callable[[Trial], object]]) -> None:
    """Call each claim with a trial.

    ContractError : a claim does not hold; it begins with the trial's text. Other errors are passed on,
        with a note of claim and trial.
    """
    for claim in claims:
        try:
            claim(trial)
        except ContractError as error:
            raise ContractError(f"{trial}: {error}") from None
        except Exception as error:
            error.add_note(f"{getattr(claim, '__name__', claim)}, {trial}")
            raise


def fail(thing: object, got: object, expected: object) -> NoReturn:
    """Raise the error of a claim that does not hold; `check` adds the trial."""
    raise ContractError(f"{thing} {got}, expected {expected}")


def check_close(
    thing: str, got: Array, expected: Array, reference: str, rounding: float = ROUNDING
) -> None:
    """Raise ContractError if arrays differ by more than `rounding`; 0 requires the same bits."""
    x = to_numpy(got)
    y = to_numpy(expected)
    if x.shape != y.shape:
        fail(thing, f"has shape {x.shape}", f"{y.shape}, as {reference}")
    error = np.abs(x - y).max(initial=0) / max(1, np.abs(y).max(initial=0))
    if not error <= rounding:
        fail(thing, f"differs from {reference} by {error:.1e}", f"at most {rounding:.0e}")


def check_slopes(
    whose: str,
    f: Callable[[], Any],
    arrays: Mapping[str, Array],
    grads: Mapping[str, Array],
) -> None:
    """Raise ContractError unless each gradient matches finite differences in three directions."""
    rng = np.random.default_rng(6)
    for name, x in arrays.items():
        grad = grads[name]
        if grad.shape != x.shape:
            fail(f"{whose} gradient of {name}", f"has shape {grad.shape}", x.shape)
        error = max(directional_errors(f, {name: x}, {name: grad}, rng, directions=3))
        if not error <= SLOPE:
            difference = f"differs from finite differences by {error:.1e} of the slope"
            fail(f"{whose} gradient of {name}", difference, f"at most {SLOPE:.0e}")
