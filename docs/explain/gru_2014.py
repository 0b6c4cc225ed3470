"""Captioners with the gated recurrent unit of 2014: python gru_2014.py train --cell gru2014

Source: Cho et al. 2014, Learning Phrase Representations using RNN Encoder-Decoder, equations 5 to 8,
with the biases that they leave out.
"""

from typing import ClassVar

from xpcap import cli, get_array_module
from xpcap.layers import CELLS, Cell, sigmoid


class GRU2014(Cell):
    """The reset gate scales h before the product with Wn; xpcap's `gru` scales the product."""

    blocks, gates, memory_gate = "rzn", "rz", ("z", "h")
    meanings: ClassVar = {
        "r": ("Reset gate", "the share of the state that enters the candidate"),
        "z": ("Update gate", "the share of the state that stays"),
        "n": ("Candidate", "the new content for the state"),
        "h": ("Hidden state", "predicts the next word, and goes to the next step"),
    }

    def shapes(self, W, H):
        square = (H, H)
        return {"Wx": (W, 3 * H), "Wr": square, "Wz": square, "Wn": square, "b": (3 * H,)}

    def step_forward(self, a, state, params):
        (h,), (a_r, a_z, a_n) = state, self.split(a)  # each (n, H)
        r = sigmoid(a_r + h @ params["Wr"])
        z = sigmoid(a_z + h @ params["Wz"])
        n = get_array_module(a).tanh(a_n + (r * h) @ params["Wn"])
        return (z * h + (1 - z) * n,), {"h": h, "r": r, "z": z, "n": n}

    def step_backward(self, dafter, cache, params):
        (dh_next,), (h, r, z, n) = dafter, cache.values()
        da_n = dh_next * (1 - z) * (1 - n * n)
        da_z = dh_next * (h - n) * z * (1 - z)
        drh = da_n @ params["Wn"].T  # of r * h
        da_r = drh * h * r * (1 - r)
        dh = dh_next * z + drh * r + da_z @ params["Wz"].T + da_r @ params["Wr"].T
        da = get_array_module(da_n).concatenate((da_r, da_z, da_n), axis=1)
        return da, (dh,), {"Wr": h.T @ da_r, "Wz": h.T @ da_z, "Wn": (r * h).T @ da_n}


CELLS["gru2014"] = GRU2014()

if __name__ == "__main__":
    cli.main()
