"""Numeric gradients on NumPy or CuPy: by element, as in the course, or along random directions."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import SupportsFloat

import numpy as np

from xpcap.backend import Array, asarray, get_array_module, to_numpy
from xpcap.errors import InvalidTypeError, InvalidValueError
from xpcap.options import Whole


def rel_error(x: Array, y: Array) -> float:
    """The course's relative error, ``max(|x - y| / max(1e-8, |x| + |y|))``.

    Parameters
    ----------
    x, y : array, float, of one shape
        Compared in float64 at least: float32 may overflow, and integers wrap.

    Returns
    -------
    error : float

    Raises
    ------
    ValueError
        The shapes differ.

    Examples
    --------
    >>> rel_error(np.array([1.0, 3.0]), np.array([1.0, 1.0]))
    0.5
    """
    a = to_numpy(x)
    b = to_numpy(y)
    a, b = (array.astype(np.result_type(array, np.float64)) for array in (a, b))
    if a.shape != b.shape:
        raise InvalidValueError(
            f"rel_error got shapes {a.shape} and {b.shape}, expected equal shapes"
        )
    return float(np.max(np.abs(a - b) / np.maximum(1e-8, np.abs(a) + np.abs(b)))) if a.size else 0.0


@contextlib.contextmanager
def _restored(*arrays: Array) -> Iterator[list[Array]]:
    """Yield copies of `arrays`, and restore the arrays after the ``with``, even if it raises."""
    for x in arrays:
        if x.dtype.kind != "f":
            raise InvalidTypeError(
                f"x has dtype {x.dtype}, expected floats; integers cannot change by a small step"
            )
    saved = [x.copy() for x in arrays]
    try:
        yield saved
    finally:
        for x, value in zip(arrays, saved, strict=True):
            x[...] = value


def _check_shape(name: str, gradient: Array, x: Array) -> None:
    """Raise ValueError if a gradient has another shape than x."""
    if np.shape(gradient) != x.shape:
        raise InvalidValueError(
            f"{name} has shape {np.shape(gradient)}, expected {x.shape}; is it the gradient of"
            " another array?"
        )


def eval_numerical_gradient(
    f: Callable[[Array], SupportsFloat], x: Array, verbose: bool = True, h: float = 1e-5
) -> Array:
    """Gradient of a scalar function by centred differences.

    Parameters
    ----------
    f : callable
        Maps x to a number. It may ignore its argument and read x itself, as closures in the course do.
    x : array, float, any shape
        Use float64 for accurate slopes. Modified in place during the call, then restored.
    verbose : bool
        Print each index and slope.
    h : float
        Step size.

    Returns
    -------
    grad : array, shape and dtype of x

    Examples
    --------
    >>> x = np.array([1.0, 2.0])
    >>> eval_numerical_gradient(lambda x: (x * x).sum(), x, verbose=False).round(6)
    array([2., 4.])
    """
    slopes = np.zeros(x.shape, x.dtype)
    with _restored(x) as (saved,):
        for index, value in np.ndenumerate(to_numpy(saved)):
            x[index] = value + h
            above = float(f(x))
            x[index] = value - h
            below = float(f(x))
            x[index] = value
            slopes[index] = (above - below) / (2 * h)
            if verbose:
                print(index, slopes[index])
    return asarray(slopes, like=x)


def eval_numerical_gradient_array(
    f: Callable[[Array], Array], x: Array, df: Array, h: float = 1e-5
) -> Array:
    """Gradient of sum(df * f(x)) by centred differences, for an array function f.

    Parameters
    ----------
    f : callable
        Maps x to an array in the shape of df.
    x : array, float, any shape
        Use float64 for accurate slopes. Modified in place during the call, then restored.
    df : array, float
        The upstream gradient.
    h : float
        Step size.

    Returns
    -------
    grad : array, shape and dtype of x

    Examples
    --------
    >>> x, df = np.array([1.0, 2.0]), np.array([1.0, -1.0])
    >>> eval_numerical_gradient_array(lambda x: x * x, x, df).round(6)
    array([ 2., -4.])
    """
    slopes = np.zeros(x.shape, x.dtype)
    with _restored(x) as (saved,):
        for index, value in np.ndenumerate(to_numpy(saved)):
            x[index] = value + h
            above = f(x).copy()
            x[index] = value - h
            below = f(x).copy()
            x[index] = value
            if above.shape != df.shape:
                raise InvalidValueError(
                    f"f returns shape {above.shape} and df has {df.shape}, expected equal shapes"
                )
            slopes[index] = float(((above - below) * df).sum()) / (2 * h)
    return asarray(slopes, like=x)


def grad_check_sparse(
    f: Callable[[Array], SupportsFloat],
    x: Array,
    analytic_grad: Array,
    num_checks: int = 10,
    h: float = 1e-5,
) -> None:
    """Print relative errors of some elements, drawn from NumPy's legacy global stream.

    Parameters
    ----------
    f : callable
        Maps x to a number.
    x : array, float, any shape
        Modified in place during the call, then restored.
    analytic_grad : array, shape of x
        The gradient to check.
    num_checks : int
        Number of elements.
    h : float
        Step size.

    Raises
    ------
    ValueError
        `analytic_grad` has another shape than `x`.

    Examples
    --------
    >>> x = np.array([3.0])
    >>> grad_check_sparse(lambda x: (x * x).sum(), x, 2 * x, num_checks=1)  # doctest: +ELLIPSIS
    numerical: 6.000000 analytic: 6.000000, relative error: ...
    """
    _check_shape("analytic_grad", analytic_grad, x)
    with _restored(x):
        for _ in range(num_checks):
            index = tuple(np.random.randint(size) for size in x.shape)
            value = float(x[index])
            x[index] = value + h
            above = float(f(x))
            x[index] = value - h
            below = float(f(x))
            x[index] = value
            numeric = (above - below) / (2 * h)
            analytic = float(analytic_grad[index])
            print(
                f"numerical: {numeric:f} analytic: {analytic:f}, relative error:"
                f" {rel_error(np.float64(numeric), np.float64(analytic)):e}"
            )


def directional_errors(
    f: Callable[[], SupportsFloat],
    params: Mapping[str, Array],
    grads: Mapping[str, Array],
    rng: np.random.Generator,
    *,
    directions: int = 10,
    h: float = 1e-5,
) -> list[float]:
    """Errors of analytic slopes along random directions through all parameters at once.

    A direction costs two calls of f, however many parameters there are, and an error in any of them
    shows. To find the wrong parameter, pass them one at a time.

    Parameters
    ----------
    f : callable
        Returns the loss at the current parameters.
    params : mapping of str to array, float
        Modified in place during the call, then restored to the bit.
    grads : mapping of str to array, float
        With the keys of `params`.
    rng : numpy.random.Generator
        Draws directions of unit length, on the host.
    directions : int
        Number of directions.
    h : float
        Step size along a direction.

    Returns
    -------
    errors : list of float
        ``|numeric - analytic| / max(1e-8, |numeric| + |analytic|)`` for each direction. All have the
        denominator of the steepest, since a slope across the gradient is mostly rounding.

    Raises
    ------
    ValueError
        A gradient has another shape than its parameter, or there is no direction.

    Examples
    --------
    >>> W = np.array([1.0, 2.0])
    >>> rng, loss = np.random.default_rng(0), lambda: (W * W).sum()
    >>> max(directional_errors(loss, {"W": W}, {"W": 2 * W}, rng)) < 1e-8
    True
    """
    directions = Whole(1).check("directions", directions)
    for name, x in params.items():
        _check_shape(f"grads[{name!r}]", grads[name], x)
    numeric, analytic = np.zeros((2, directions))
    with _restored(*params.values()) as values:
        saved = dict(zip(params, values, strict=True))

        def loss_at(direction: Mapping[str, Array], step: float) -> float:
            for name, x in params.items():
                x[...] = saved[name] + step * direction[name]
            return float(f())

        for k in range(directions):
            draws = {name: rng.standard_normal(x.shape) for name, x in params.items()}
            length = np.sqrt(sum(float((d * d).sum()) for d in draws.values()))
            direction = {
                name: asarray(d / length, dtype=params[name].dtype, like=params[name])
                for name, d in draws.items()
            }
            numeric[k] = (loss_at(direction, h) - loss_at(direction, -h)) / (2 * h)
            xp = get_array_module(*grads.values())
            analytic[k] = sum(float(xp.vdot(grads[name], direction[name])) for name in params)
    steepest = (np.abs(numeric) + np.abs(analytic)).max(initial=1e-8)
    errors: list[float] = (np.abs(numeric - analytic) / steepest).tolist()
    return errors
