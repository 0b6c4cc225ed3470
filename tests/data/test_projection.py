"""Projections by PCA, of which the index of photos has one."""

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from xpcap.data.features import fit_projection


def correlated(m: int, D: int, rank: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((m, rank)) * np.arange(rank, 0, -1)
    return (directions @ rng.standard_normal((rank, D)) + 5).astype(np.float32)


def test_components_are_the_right_singular_vectors_of_centred_features() -> None:
    x = correlated(90, 12, 12)
    projection = fit_projection(x, 4)
    rows = np.linalg.svd(x.astype(np.float64) - x.mean(axis=0, dtype=np.float64))[2]
    np.testing.assert_allclose(np.abs(projection.components), np.abs(rows[:4].T), atol=1e-5)
    np.testing.assert_allclose(projection(x).mean(axis=0), 0, atol=1e-4)
    assert (projection.components[np.abs(projection.components).argmax(axis=0), range(4)] > 0).all()


def test_the_number_of_cores_does_not_change_a_bit() -> None:
    x = correlated(300, 96, 96)
    with threadpool_limits(1):
        alone = fit_projection(x, 20)
    assert all(map(np.array_equal, fit_projection(x, 20), alone))


# few pictures, features that repeat each other, one picture
@pytest.mark.parametrize(("m", "rank", "fits"), [(5, 9, 4), (50, 3, 3), (1, 3, 0)])
def test_there_are_no_more_components_than_directions(m: int, rank: int, fits: int) -> None:
    assert fit_projection(correlated(m, 9, rank), 8).components.shape == (9, fits)
