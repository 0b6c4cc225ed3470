"""The recurrent cells, CELLS. The contract of a cell is `Cell`, in cell.py."""

from xpcap.layers.cell import Cell
from xpcap.layers.gru import GRU
from xpcap.layers.lstm import LSTM
from xpcap.layers.rnn import RNN

CELLS: dict[str, Cell] = {"rnn": RNN, "lstm": LSTM, "gru": GRU}
