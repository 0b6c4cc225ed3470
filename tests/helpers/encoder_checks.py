"""What data sets and new pictures rely on, of any encoder."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np

from xpcap.encoders import Encoder, find_encoder

SIZES = ((48, 48), (1, 1), (1, 400), (120, 30))  # height and width


def pictures() -> list[np.ndarray]:
    """Pictures of several sizes, noise in each, then a black and a white one."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]
    return [*noise, *(np.full((40, 60, 3), level, np.uint8) for level in (0, 255))]


def check_encoder(encoder: Encoder) -> None:
    """A feature depends on its picture alone, which may be a read-only view, in any thread."""
    assert encoder.name.isprintable()
    given, equal = pictures(), np.testing.assert_array_equal
    features = encoder.encode(iter(given))
    assert (features.shape, features.dtype) == ((len(given), *encoder.shape), np.float32)
    assert np.isfinite(features).all()
    assert not np.array_equal(features[0], features[-1])
    equal(encoder.encode(given), features)  # a second time
    alone = np.concatenate([encoder.encode([picture]) for picture in given])
    for x, y in zip(alone, features, strict=True):  # last bits may depend on the other pictures
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * np.abs(y).max())
    for picture, before in zip(given, pictures(), strict=True):
        equal(picture, before)

    views = [np.ascontiguousarray(picture[:, ::-1])[:, ::-1] for picture in given]  # mirror images
    for view in views:
        view.flags.writeable = False
    equal(encoder.encode(views), features)

    turn = Barrier(2, timeout=60)  # each of two threads takes a picture as the other does

    def in_step(half: list[np.ndarray]) -> Iterator[np.ndarray]:
        for picture in half:
            turn.wait()
            yield picture

    halves = given[:2], given[2:4]
    expected = [encoder.encode(half) for half in halves]
    with ThreadPoolExecutor(2) as pool:
        for together, one in zip(
            pool.map(encoder.encode, map(in_step, halves)), expected, strict=True
        ):
            equal(together, one)


def check_name(encoder: Encoder) -> None:
    """Its name finds an encoder of the same features."""
    again = find_encoder(encoder.name)
    assert (again.name, again.shape) == (encoder.name, encoder.shape)
    np.testing.assert_array_equal(again.encode(pictures()), encoder.encode(pictures()))
