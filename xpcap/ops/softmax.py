"""Softmax, its logarithm, gradient and loss, for any array library.

Rows lie along the last axis. A row's maximum is subtracted before the exponential, so nothing
overflows.
"""

from dataclasses import dataclass, replace
from typing import Self

from xpcap.backend import Array, get_array_module, is_device_array
from xpcap.options import Real, described, option

# Target of a padding row, int32, on a device. Wrong targets are unlikely to equal it: it is neither -1,
# nor -100, which PyTorch ignores, nor the smallest integer, which NaN becomes.
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
    """Gradient of the scores, p * (dp - p . dp) for each row; it overwrites dp."""
    dp -= (p * dp).sum(axis=-1, keepdims=True)
    dp *= p
    return dp


def log_softmax(scores: Array, out: Array | None = None) -> Array:
    """log(exp(s) / sum(exp(s))) of each row s; `out` may be scores itself."""
    shifted = below_maximum(scores, out)
    xp = get_array_module(scores)
    shifted -= xp.log(xp.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def tempered(scores: Array, temperature: float) -> Array:
    """exp((s - max(s)) / temperature) of each row s: its softmax up to a factor."""
    shifted = below_maximum(scores)
    shifted /= temperature
    return get_array_module(scores).exp(shifted, out=shifted)


# ---- The loss


@dataclass(frozen=True, eq=False)
class LossTerms:
    """Terms of the softmax loss, which without them is -log p(target) of each row.

    A new term is another field, 0 by default, with its lines in `softmax_loss`. Versions of
    Ops.softmax_loss that lack it call that equation.

    scale : array (R,), the weight of each row in the gradient; or a float, the weight of all rows
    smoothing : probability that a target gives up to all words equally (label smoothing, Szegedy et
        al. 2016, section 7)
    """

    scale: Array | float = 1.0
    smoothing: float = option(Real(0, below=1, cause="it is a share of probability"), 0.0)

    @classmethod
    def checked(cls, **terms: float) -> Self:
        """Terms from a function's options; OptionError if one is not of its kind."""
        options = described(cls)
        return cls(**{name: options[name].check(f"`{name}`", terms[name]) for name in terms})

    @property
    def given(self) -> dict[str, float]:
        """The terms that are not 0, by name."""
        return {name: weight for name in described(self) if (weight := getattr(self, name))}

    @property
    def key(self) -> tuple[object, ...]:
        """Everything that decides the launches of a step: all but the values of an array."""
        scale = self.scale if isinstance(self.scale, float) else None
        return scale, *self.given.items()

    def beyond(self, *known: str) -> bool:
        """True if a term besides `known` is not 0."""
        return not self.given.keys() <= set(known)

    def rows(self, rows: slice) -> Self:
        """The terms for a slice of rows."""
        return self if isinstance(self.scale, float) else replace(self, scale=self.scale[rows])


def softmax_loss(
    scores: Array, targets: Array, terms: LossTerms, out: Array | None = None
) -> tuple[Array, Array]:
    """Cross entropy nll (R,) of scores (R, V) and q, and the gradient dscores of sum(scale * nll).

    q[r] = (1 - smoothing) * onehot(targets[r]) + smoothing / V
    nll[r] = -sum(q[r] * log softmax(scores[r]))
    dscores[r] = scale[r] * (softmax(scores[r]) - q[r])

    Without smoothing, nll is the negative log-likelihood of the targets. The rest of the contract is
    that of Ops.softmax_loss.
    """
    if out is None:
        out = get_array_module(scores).empty_like(scores)
    xp = get_array_module(scores, targets)
    scale = terms.scale
    smoothing = terms.smoothing
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
