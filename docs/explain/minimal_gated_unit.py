"""Captioners with the minimal gated unit: python minimal_gated_unit.py train --cell mgu

Source: Zhou et al. 2016, Minimal Gated Unit for Recurrent Neural Networks.
"""

from typing import ClassVar

from xpcap import cli, get_array_module
from xpcap.layers import CELLS, Cell, sigmoid


class MinimalGatedUnit(Cell):
    """A single gate: it scales h before the product with Wn, and then updates it."""

    blocks, gates = "fn", "f"
    meanings: ClassVar = {
        "f": ("Forget gate", "the share of the state that the candidate sees, and replaces"),
        "n": ("Candidate", "the new content for the state"),
        "h": ("Hidden state", "predicts the next word, and goes to the next step"),
    }

    def shapes(self, W, H):
        return {"Wx": (W, 2 * H), "Wf": (H, H), "Wn": (H, H), "b": (2 * H,)}

    def step_forward(self, a, state, params):
        (h,), (a_f, a_n) = state, self.split(a)  # each (n, H)
        f = sigmoid(a_f + h @ params["Wf"])
        n = get_array_module(a).tanh(a_n + (f * h) @ params["Wn"])
        return ((1 - f) * h + f * n,), {"h": h, "f": f, "n": n}

    def step_backward(self, dafter, cache, params):
        (dh_next,), (h, f, n) = dafter, cache.values()
        da_n = dh_next * f * (1 - n * n)
        dfh = da_n @ params["Wn"].T  # of f * h
        da_f = (dh_next * (n - h) + dfh * h) * f * (1 - f)
        dh = dh_next * (1 - f) + dfh * f + da_f @ params["Wf"].T
        da = get_array_module(da_f).concatenate((da_f, da_n), axis=1)
        return da, (dh,), {"Wf": h.T @ da_f, "Wn": (f * h).T @ da_n}


CELLS["mgu"] = MinimalGatedUnit()

if __name__ == "__main__":
    cli.main()
