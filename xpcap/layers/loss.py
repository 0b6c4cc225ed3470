"""Cross entropy over words: summed over time, averaged over captions."""

from xpcap.backend import Array, get_array_module
from xpcap.layers.checks import check_arrays, check_ids, check_mask
from xpcap.ops import softmax_loss


def temporal_softmax_loss(x: Array, y: Array, mask: Array, verbose: bool = False) -> tuple[Array, Array]:
    """Softmax cross entropy of a batch of sequences.

    loss = 1/N * sum over n, t with mask[n, t] of -log softmax(x[n, t])[y[n, t]]

    Parameters
    ----------
    x : array (N, T, V), float; scores
    y : array (N, T), int; target words in 0..V-1
    mask : array (N, T), bool; true for steps that count. The others add no loss and get no gradient
    verbose : print the shape of the gradient, as the course does

    Returns
    -------
    loss : 0-d, float; stays on the device
    dx : array (N, T, V), float

    Raises
    ------
    TypeError, ValueError : libraries, dtypes or shapes do not match, or a target on the host is
        outside 0..V-1.

    Notes
    -----
    CS231n's function, in log-softmax form: a confident wrong word gives a large loss, not inf.
    """
    check_arrays("temporal_softmax_loss", "x:N,T,V", x)
    N, T, V = x.shape
    check_ids("temporal_softmax_loss", "y", y, V, x)
    check_mask("temporal_softmax_loss", mask, (N, T), x)
    if y.shape != (N, T):
        raise ValueError(f"temporal_softmax_loss: y has shape {y.shape}, expected (N, T) = {(N, T)}, as in x")
    xp = get_array_module(x)
    nll, dx = softmax_loss(x.reshape(N * T, V), y.reshape(N * T), xp.full(N * T, 1 / max(N, 1), x.dtype))
    counts = mask.reshape(N * T)
    loss = xp.where(counts, nll, 0).sum() / N
    dx = xp.where(counts[:, None], dx, 0)  # not a product: a masked step may hold inf
    if verbose:
        print("dx_flat:", dx.shape)
    return loss, dx.reshape(N, T, V)
