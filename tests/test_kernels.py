"""Every fast version against the plain equations of its op."""

from typing import Any

import numpy as np
import pytest

from xpcap import kernels, ops
from xpcap.kernels.host import BLOCK


def adam_arguments(rng: np.random.Generator, dtype: str) -> tuple[Any, ...]:
    n = 2 * BLOCK + 17  # two whole blocks and a rest
    w, dw, m, v = (rng.standard_normal(n).astype(dtype) for _ in range(4))
    return w, dw, m, v * v, 1e-3, 0.9, 0.999, 1e-8


def segment_arguments(rng: np.random.Generator, dtype: str) -> tuple[Any, ...]:
    ids = rng.integers(0, 30, 200).astype(np.int32)
    ids[ids == 12] = 13  # one id without a row
    return rng.standard_normal((200, 33)).astype(dtype), ids, 31


ARGUMENTS = {"adam_update": adam_arguments, "segment_sum": segment_arguments}


def test_every_kernel_stands_for_an_op_and_is_tested_here() -> None:
    assert {kernel.op for kernel in kernels.TABLE} == set(ARGUMENTS)
    for op in ARGUMENTS:
        assert callable(getattr(ops, op))


@pytest.mark.parametrize("kernel", kernels.TABLE, ids=lambda kernel: kernel.run.__module__ + "." + kernel.op)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("float64", 1e-14)])
def test_kernel_equals_the_plain_equations(kernel: kernels.Kernel, dtype: str, tolerance: float, rng: np.random.Generator) -> None:
    arguments = ARGUMENTS[kernel.op](rng, dtype)
    assert kernel.supports(*arguments)
    results = []
    for run in (kernel.run, getattr(ops, kernel.op)):
        copies = [x.copy() if isinstance(x, np.ndarray) else x for x in arguments]
        with kernels.plain_only():
            returned = run(*copies)
        results.append([returned, *copies])
    for fast, plain in zip(*results, strict=True):
        if isinstance(plain, np.ndarray):
            assert fast.dtype == plain.dtype
            np.testing.assert_allclose(fast, plain, rtol=tolerance, atol=tolerance)


def test_find_offers_a_kernel_only_where_it_fits() -> None:
    w = np.zeros(4)
    assert kernels.find("adam_update", w, w, w, w) is not None
    assert kernels.find("adam_update", w.reshape(2, 2), w, w, w) is None
    assert kernels.find("no_such_op", w) is None
    with kernels.plain_only():
        assert kernels.find("adam_update", w, w, w, w) is None
