"""The recurrent cell's activations on given captions."""

from xpcap.backend import Array
from xpcap.layers.activations import Activation
from xpcap.memory import fresh
from xpcap.models import network
from xpcap.models.captioning_rnn import CaptioningRNN
from xpcap.models.entry import prepare_batch


def activations(model: CaptioningRNN, features: Array, captions: Array) -> dict[str, Activation]:
    """The cell's nonlinearities on given captions, without dropout, by live (caption, step).

    Parameters
    ----------
    features : array (N, D), host or device
    captions : array (N, T+1), int

    Returns
    -------
    mapping of name to Activation, on the model's device; empty for a Cell without `activations`
    """
    config, params = model.config, model.params
    buffer = fresh(params.flat)
    (part,) = prepare_batch("activations", config, params.flat, model.word_to_idx["<NULL>"], features, captions, [buffer])
    return config.recurrent.activations(network.forward(config, params, part, buffer).cell)
