"""One line of shapes: what `layer` and `gradient` check, pass on and append to a docstring."""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from refusals import Refusal, refusals, refuses

from xpcap.layers.layer import gradient, layer

N, D, H, V = 3, 4, 5, 7


class ScanCache(NamedTuple):
    """Cache of scan_forward."""

    x: Any
    h0: Any
    ids: Any
    Wx: Any


@layer("x:N,D h0:N,H ids:N=i Wx:D,H c0?:N,H -> h:N,H weights:N,D c_T?:N,H", cause="gates")
def scan_forward(
    x: Any, h0: Any, ids: Any, Wx: Any, scale: float | None = 2.0, *, c0: Any = None
) -> tuple[Any, ScanCache]:
    """One pass.

    From left to right::

        h = x @ Wx

    Raises
    ------
    OptionError
        The scale is odd.
    """
    return SimpleNamespace(**locals()), ScanCache(x, h0, ids, Wx)


@gradient(scan_forward)
def scan_backward(dh: Any, cache: ScanCache, *, dc_T: Any = None) -> tuple[Any, ...]:
    """Gradients of scan_forward."""
    return dh, cache, dc_T


def arrays(**changed: Any) -> dict[str, Any]:
    shapes = {"x": (N, D), "h0": (N, H), "Wx": (D, H)}
    usual = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    return {**usual, "ids": np.arange(N), **changed}


def test_arguments_are_found_by_name_in_any_call_and_passed_on_as_they_are() -> None:
    given = arrays()
    x, h0, ids, Wx = (given[name] for name in ("x", "h0", "ids", "Wx"))
    calls = (
        scan_forward(x, h0, ids, Wx),
        scan_forward(**given),
        scan_forward(**dict(reversed(given.items()))),
        scan_forward(x, h0, Wx=Wx, ids=ids),
    )
    for seen, cache in calls:
        assert all(getattr(seen, name) is one for name, one in given.items())
        assert (seen.scale, seen.c0) == (2.0, None)
        assert cache.Wx is Wx
    c0 = np.zeros((N, H), np.float32)
    seen, _ = scan_forward(x, h0, ids, Wx, None, c0=c0)
    assert (seen.scale, seen.c0) == (None, c0)


@refusals(
    """
    Wx=np.zeros((D, H + 1), "f4") | ValueError | Wx | shape (4, 6) | (4, 5) | gates
    h0=np.zeros((N, H)) | TypeError | h0 | float64 | float32, as x has
    ids=np.zeros(N) | TypeError | ids | float64 | integers
    ids=np.zeros(N + 1, int) | ValueError | ids | shape (4,) | (N,) = (3,)
    x=[[1.0]] | TypeError | x | is a list | asarray
    c0=np.zeros((N + 1, H), "f4") | ValueError | c0 | (4, 5) | (N, H) = (3, 5)
    """
)
def test_an_array_that_does_not_fit_is_refused_by_position_and_by_keyword(
    refusal: Refusal,
) -> None:
    def by_position(c0: Any = None, **given: Any) -> None:
        scan_forward(*(given[name] for name in ("x", "h0", "ids", "Wx")), c0=c0)

    names = {**globals(), "by_position": by_position}
    refusal.check(names, "scan_forward(**arrays({}))")
    refusal.check(names, "by_position(**arrays({}))")


def test_a_call_that_python_refuses_gets_its_own_error() -> None:
    given = arrays()
    with pytest.raises(TypeError, match=r"scan_forward\(\) missing 1 required .*'Wx'"):
        scan_forward(given["x"], given["h0"], given["ids"])
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'c1'"):
        scan_forward(**given, c1=None)
    with pytest.raises(TypeError, match=r"missing 1 required .*'cache'"):
        scan_backward(given["x"])


def test_docstring_is_the_authors_and_then_shapes() -> None:
    assert str(scan_forward.__doc__).startswith("One pass.\n\nFrom left to right::\n\n    h = x")
    for function, shapes in (
        (
            scan_forward,
            "x (N, D), h0 (N, H), ids (N,) integers, Wx (D, H), c0 (N, H) or None\n"
            "-> h (N, H), weights (N, D), c_T (N, H)\n",
        ),
        (
            scan_backward,
            "dh (N, H), dc_T (N, H) or None\n-> dx (N, D), dh0 (N, H), dWx (D, H), dc0 (N, H)\n",
        ),
    ):
        assert f"\n\nShapes\n------\n{shapes}\nRaises TypeError" in str(function.__doc__)


def test_on_a_device_arrays_arrive_as_kernels_take_them_and_stay_as_they_were(device: Any) -> None:
    import cupy

    h = cupy.asarray(np.arange(N * 2 * H, dtype=np.float32).reshape(N, 2, H))
    given = {name: cupy.asarray(one) for name, one in arrays(c0=np.ones((H, N), "f4")).items()}
    given |= {"h0": h[:, -1], "c0": given["c0"].T}
    x, h0, ids, Wx, c0 = (given[name] for name in ("x", "h0", "ids", "Wx", "c0"))
    assert not h0.flags.c_contiguous
    for seen, _ in (scan_forward(**given), scan_forward(x, h0, ids, Wx, c0=c0)):
        assert seen.h0.flags.c_contiguous
        assert seen.c0.flags.c_contiguous
        assert seen.ids.dtype == np.int32
        assert (seen.x is x, seen.Wx is Wx) == (True, True)
        np.testing.assert_array_equal(seen.h0.get(), h.get()[:, -1])
    assert given["h0"] is h0
    assert (ids.dtype, given["ids"] is ids) == (np.int64, True)
    _, cache = scan_forward(**given)
    dh, _, dc_T = scan_backward(h[:, 0], cache, dc_T=h[:, 1])
    assert dh.flags.c_contiguous
    assert dc_T.flags.c_contiguous


def test_on_the_host_no_array_is_copied() -> None:
    h = np.ones((N, 2, H), np.float32)
    given = arrays(h0=h[:, -1], Wx=np.ones((H, D), np.float32).T)
    seen, cache = scan_forward(**given)
    assert all(getattr(seen, name) is one for name, one in given.items())
    dh = h[:, 0]
    assert scan_backward(dh, cache)[0] is dh


def test_arrays_of_two_libraries_are_refused(device: Any) -> None:
    import cupy

    given = arrays()
    for name in ("h0", "ids"):
        with refuses(TypeError, name, "is a cupy array", "a numpy array, as x is"):
            scan_forward(**{**given, name: cupy.asarray(given[name])})
    _, cache = scan_forward(**given)
    with refuses(TypeError, "dh", "a numpy array, as the cache is"):
        scan_backward(cupy.asarray(np.ones((N, H), "f4")), cache)


def test_an_upstream_gradient_fits_the_cache_and_may_be_none_where_the_shapes_say_so() -> None:
    _, cache = scan_forward(**arrays())
    dh = np.ones((N, H), np.float32)
    assert scan_backward(dh, cache)[2] is None
    assert scan_backward(dc_T=dh, cache=cache, dh=dh)[2] is dh
    wrong = "(3, 5), the shape of the output", "from another batch?"
    with refuses(ValueError, "scan_backward: ", "dh", "shape (2, 5)", *wrong):
        scan_backward(dh[1:], cache)
    with refuses(ValueError, "scan_backward: ", "dc_T", "shape (3, 4)", *wrong):
        scan_backward(dh, cache, dc_T=dh[:, 1:])
    with refuses(TypeError, "dc_T", "float64", "float32, as the cache has"):
        scan_backward(dh, cache, dc_T=dh.astype(float))
    with refuses(TypeError, "dh", "is a NoneType"):
        scan_backward(None, cache)


def test_a_layer_holds_blas_to_one_thread_however_it_is_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events = []

    @contextlib.contextmanager
    def held() -> Iterator[None]:
        events.append("begun")
        yield
        events.append("ended")

    monkeypatch.setattr("xpcap.layers.layer.one_blas_thread", held)
    given = arrays()
    _, cache = scan_forward(scale=3.0, **given)
    scan_backward(np.ones((N, H), np.float32), cache)
    assert events == ["begun", "ended"] * 2
