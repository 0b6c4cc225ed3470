"""Softmax: the probabilities of scores, their logarithms and gradients, for any array library.

All are stable: a row's maximum is subtracted before the exponential. Rows are along the last axis.
"""

from dataclasses import dataclass, replace
from typing import Self

from xpcap.backend import Array, get_array_module, is_device_array
from xpcap.options import Real, described, option

# Target of a row of padding, int32, on a device. No wrong target is likely to be it: neither -1, nor
# -100, which PyTorch ignores, nor the smallest integer, which NaN becomes.
NO_TARGET = 1 - 2**31


def below_maximum(scores: Array, out: Array | None = None) -> Array:
    """s - max(s) of each row s; `out` may be scores itself."""
    highest = scores.max(axis=-1, keepdims=True)
    return get_array_module(scores).subtract(scores, highest, out=out)


def softmax(scores: Array, out: Array | None = None) -> Array:
    """p = exp(s) / sum(exp(s)) of each row s; `out` may be scores itself."""
    p = below_maximum(scores, out)
    get_array_module(p).exp(p, out=p)
    p /= p.sum(axis=-1, keepdims=True)
    return p


def softmax_backward(dp: Array, p: Array) -> Array:
    """Gradient of the scores, p * (dp - p . dp) for each row, in place of dp."""
    dp -= (p * dp).sum(axis=-1, keepdims=True)
    dp *= p
    return dp


def log_softmax(scores: Array, out: Array | None = None) -> Array:
    """log(exp(s) / sum(exp(s))) of each row s; `out` may be scores itself."""
    shifted, xp = below_maximum(scores, out), get_array_module(scores)
    shifted -= xp.log(xp.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def tempered(scores: Array, temperature: float) -> Array:
    """exp((s - max(s)) / temperature) of each row s: its softmax, but for a factor."""
    shifted = below_maximum(scores)
    shifted /= temperature
    return get_array_module(scores).exp(shifted, out=shifted)


# ---- The loss


@dataclass(frozen=True, eq=False)
class LossTerms:
    """Weights in the softmax loss, which is -log p(target) of each row without any term.

    A new term is a field of its own, 0 by default, and its lines in `softmax_loss`. Versions of
    Ops.softmax_loss that do not compute it leave it to that equation.

    scale : array (R,), the weight of each row in the gradient; or a float, that of all
    smoothing : probability that a target gives up to all words alike: label smoothing, Szegedy et
        al. 2016, section 7
    """

    scale: Array | float = 1.0
    smoothing: float = option(Real(0, below=1, cause="it is a share of probability"), 0.0)

    @classmethod
    def checked(cls, caller: str, **terms: float) -> Self:
        """Terms from the options of a function; OptionError if one is not of its kind."""
        options = described(cls)
        return cls(
            **{name: options[name].check(caller, f"`{name}`", terms[name]) for name in terms}
        )

    @property
    def given(self) -> dict[str, float]:
        """The terms that are not 0, by name."""
        return {name: weight for name in described(self) if (weight := getattr(self, name))}

    @property
    def key(self) -> tuple[object, ...]:
        """Everything but the values of an array, for a record of launches."""
        scale = self.scale if isinstance(self.scale, float) else None
        return scale, *self.given.items()

    def beyond(self, *known: str) -> bool:
        """True if there is a term besides the known ones."""
        return not self.given.keys() <= set(known)

    def rows(self, rows: slice) -> Self:
        """Terms of some rows."""
        return self if isinstance(self.scale, float) else replace(self, scale=self.scale[rows])


def softmax_loss(
    scores: Array, targets: Array, terms: LossTerms, out: Array | None = None
) -> tuple[Array, Array]:
    """Cross entropy nll (R,) of scores (R, V) with q, and the gradient dscores of sum(scale * nll).

    q[r] = (1 - smoothing) * onehot(targets[r]) + smoothing / V
    nll[r] = -sum(q[r] * log softmax(scores[r]))
    dscores[r] = scale[r] * (softmax(scores[r]) - q[r])

    Without smoothing nll is the negative log-likelihood of the targets. Ops.softmax_loss has the rest
    of the contract.
    """
    if out is None:
        out = get_array_module(scores).empty_like(scores)
    xp, scale, smoothing = get_array_module(scores, targets), terms.scale, terms.smoothing
    rows = xp.arange(scores.shape[0])
    log_p = log_softmax(scores)
    padded = is_device_array(targets) and targets.dtype == xp.int32
    if padded:
        has_target = targets != NO_TARGET
        targets = xp.where(has_target, targets, 0)
    xp.exp(log_p, out=out)
    out[rows, targets] -= 1 - smoothing
    nll = (smoothing - 1) * log_p[rows, targets]
    if smoothing:
        out -= smoothing / scores.shape[1]
        nll -= smoothing * log_p.mean(axis=1)
    out *= scale if isinstance(scale, float) else scale[:, None]
    if padded:
        out *= has_target[:, None]
        nll *= has_target
    return nll, out
