"""The contract of an encoder: what data sets and new pictures rely on, one function for each claim.

::

    from xpcap.testing import check_encoder
    check_encoder(find_encoder("mean-colour"))

holds an object with `name`, `shape` and `encode` to all of it.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import NamedTuple

import numpy as np

from xpcap.encoders import Encoder, find_encoder
from xpcap.errors import DataError
from xpcap.testing.claims import check, fail

SIZES = ((48, 48), (1, 1), (1, 400), (120, 30))  # height and width
ROUNDING = 1e-5  # of float32, in other orders of adding


# ---- What claims are about


class Trial(NamedTuple):
    """An encoder, and pictures of noise, black and white."""

    encoder: Encoder

    def __str__(self) -> str:
        return f"encoder {getattr(self.encoder, 'name', self.encoder)!r}"

    def pictures(self) -> list[np.ndarray]:
        """Pictures of several sizes, noise in each, then a black and a white one."""
        rng = np.random.default_rng(0)
        noise = [rng.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]
        return [*noise, *(np.full((40, 60, 3), level, np.uint8) for level in (0, 255))]

    def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        """Features, which are an array."""
        features: object = self.encoder.encode(pictures)
        if not isinstance(features, np.ndarray):
            fail("encode", f"returns a {type(features).__name__}", "a NumPy array")
        return features


Claim = Callable[[Trial], None]


def check_features(
    thing: str, features: Iterable[np.ndarray], expected: np.ndarray, tolerance: float = 0.0
) -> None:
    """Raise ContractError if a feature differs by more than a share of its largest number."""
    for k, (x, y) in enumerate(zip(features, expected, strict=True)):
        error = float(np.abs(x - y).max()) if x.shape == y.shape else np.inf
        if not error <= tolerance * np.abs(y).max():
            bound = f"at most {tolerance:.0e} of it" if tolerance else "the same bits"
            fail(f"the feature of picture {k} {thing}", f"differs by {error:.1e}", bound)


# ---- The claims


def named(trial: Trial) -> None:
    """It has a name, and a shape (D,) or (K*K, D)."""
    name, shape = trial.encoder.name, trial.encoder.shape
    if not isinstance(name, str) or not name or not name.isprintable():
        fail("name", f"is {name!r}", "printable text, which data sets store")
    if not isinstance(shape, tuple) or len(shape) not in (1, 2) or min(shape) < 1:
        fail("shape", f"is {shape!r}", "(D,), or (K*K, D) for a grid")


def features_fit(trial: Trial) -> None:
    """Features of pictures of any size are (n, *shape), float32 and finite."""
    pictures = trial.pictures()
    features = trial.encode(iter(pictures))
    if features.shape != (expected := (len(pictures), *trial.encoder.shape)):
        fail("features", f"have shape {features.shape}", f"(n, *shape) = {expected}")
    if features.dtype != np.float32:
        fail("features", f"have dtype {features.dtype}", "float32")
    for picture, feature in zip(pictures, features, strict=True):
        if not np.isfinite(feature).all():
            fail(f"the feature of a picture {picture.shape}", "is not finite", "numbers")


def pictures_apart(trial: Trial) -> None:
    """A feature depends on its picture, and on no other, nor on earlier calls.

    Its last bits may depend on the pictures that are encoded with it.
    """
    pictures = trial.pictures()
    features = trial.encode(pictures)
    if np.array_equal(features[0], features[-1]):
        fail("features of noise and of white", "are equal", "features that depend on the picture")
    check_features("encoded a second time", trial.encode(pictures), features)
    alone = [trial.encode([picture])[0] for picture in pictures]
    check_features("encoded alone", alone, features, ROUNDING)


def inputs_unchanged(trial: Trial) -> None:
    """Pictures are not written to, and may be read-only views, as mirror images are."""
    pictures = trial.pictures()
    features = trial.encode(pictures)
    for k, (picture, before) in enumerate(zip(pictures, trial.pictures(), strict=True)):
        if not np.array_equal(picture, before):
            fail(f"picture {k}", "has changed", "no input to be written to")
    views = [np.ascontiguousarray(picture[:, ::-1])[:, ::-1] for picture in pictures]
    for view in views:
        view.flags.writeable = False
    check_features("a read-only view", trial.encode(views), features)


def threads_apart(trial: Trial) -> None:
    """Two threads may call it at a time: here each takes a picture as the other does."""
    pictures = trial.pictures()
    halves = pictures[:2], pictures[2:4]
    expected = [trial.encode(half) for half in halves]
    turn = Barrier(2, timeout=60)

    def in_step(half: list[np.ndarray]) -> Iterator[np.ndarray]:
        for picture in half:
            turn.wait()
            yield picture

    with ThreadPoolExecutor(2) as pool:
        together = pool.map(trial.encode, map(in_step, halves))
        for features, alone in zip(together, expected, strict=True):
            check_features("encoded beside another thread", features, alone)


def found_by_name(trial: Trial) -> None:
    """Its name finds it again: an encoder of that name and shape, with the same features."""
    name = trial.encoder.name
    try:
        again = Trial(find_encoder(name))
    except DataError as error:
        fail("name", f"finds no encoder ({error})", "a row in xpcap.encoders.ENCODERS")
    for attribute in ("name", "shape"):
        x, y = getattr(again.encoder, attribute), getattr(trial.encoder, attribute)
        if x != y:
            fail(f"{attribute} of the encoder that {name} finds", f"is {x!r}", repr(y))
    pictures = trial.pictures()
    check_features("by the encoder that is found", again.encode(pictures), trial.encode(pictures))


ENCODER: tuple[Claim, ...] = (
    named,
    features_fit,
    pictures_apart,
    inputs_unchanged,
    threads_apart,
    found_by_name,
)


def check_encoder(encoder: Encoder, contract: Iterable[Claim] = ENCODER) -> None:
    """Check the contract of an encoder with data sets and runs, on small pictures.

    Parameters
    ----------
    encoder : Encoder
        Any object with `name`, `shape` and `encode`. One without a row in ENCODERS, which makes
        features for `assemble` alone, lacks the last claim: ``ENCODER[:-1]``.
    contract : iterable of callable
        Claims, of ENCODER.

    Raises
    ------
    ContractError
        A claim does not hold. It names the encoder, the picture, and what was expected. An error of
        the encoder itself goes through, with a note of encoder and claim.
    """
    check("check_encoder", Trial(encoder), contract)
