"""Hand-written forward and backward passes, with CS231n's names. Open lstm.py first.

``forward(...) -> (out, cache)``, and ``backward(dout, cache) -> grads`` with gradients in argument
order. Layers do not change their inputs; results are new arrays with the inputs' dtype, float32 or
float64. One call takes NumPy or CuPy arrays, not both. cell.py defines a recurrent cell; the model can
train each instance in `CELLS`.
"""

from xpcap.layers.attention import (
    Attention,
    attention_backward,
    attention_forward,
    attention_lstm_step_backward,
    attention_lstm_step_forward,
    dot_product_attention_backward,
    dot_product_attention_forward,
)
from xpcap.layers.cell import Cell
from xpcap.layers.cells import CELLS
from xpcap.layers.elementary import (
    affine_backward,
    affine_forward,
    dropout_backward,
    dropout_forward,
    temporal_affine_backward,
    temporal_affine_forward,
    temporal_softmax_loss,
    word_embedding_backward,
    word_embedding_forward,
)
from xpcap.layers.gru import gru_backward, gru_forward, gru_step_backward, gru_step_forward
from xpcap.layers.lstm import lstm_backward, lstm_forward, lstm_step_backward, lstm_step_forward
from xpcap.layers.recurrent import Pointwise
from xpcap.layers.rnn import rnn_backward, rnn_forward, rnn_step_backward, rnn_step_forward
from xpcap.layers.stack import stack
from xpcap.ops import PackedSequences, RecurrentTerm, sigmoid

__all__ = [
    "CELLS",
    "Attention",
    "Cell",
    "PackedSequences",
    "Pointwise",
    "RecurrentTerm",
    "affine_backward",
    "affine_forward",
    "attention_backward",
    "attention_forward",
    "attention_lstm_step_backward",
    "attention_lstm_step_forward",
    "dot_product_attention_backward",
    "dot_product_attention_forward",
    "dropout_backward",
    "dropout_forward",
    "gru_backward",
    "gru_forward",
    "gru_step_backward",
    "gru_step_forward",
    "lstm_backward",
    "lstm_forward",
    "lstm_step_backward",
    "lstm_step_forward",
    "rnn_backward",
    "rnn_forward",
    "rnn_step_backward",
    "rnn_step_forward",
    "sigmoid",
    "stack",
    "temporal_affine_backward",
    "temporal_affine_forward",
    "temporal_softmax_loss",
    "word_embedding_backward",
    "word_embedding_forward",
]
