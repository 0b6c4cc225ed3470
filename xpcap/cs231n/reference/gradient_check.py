"""Gradients by centred differences, to check those that are derived by hand."""

import numpy as np


def eval_numerical_gradient(f, x, verbose=True, h=1e-5):
    """Gradient (shape of x) of a function f(x) with one number as its value."""
    gradient = eval_numerical_gradient_array(f, x, 1.0, h)
    if verbose:
        for index in np.ndindex(x.shape):
            print(index, gradient[index])
    return gradient


def eval_numerical_gradient_array(f, x, df, h=1e-5):
    """Gradient (shape of x) of sum(f(x) * df), for f(x) in the shape of df."""
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        value = x[index]
        x[index] = value + h
        above = np.copy(f(x))
        x[index] = value - h
        below = np.copy(f(x))
        x[index] = value
        gradient[index] = np.sum((above - below) * df) / (2 * h)
    return gradient
