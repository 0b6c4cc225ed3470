"""Cells that the package does not know, as a user adds them: a plain one, and a stack of it with others."""

from typing import Any

from xpcap.backend import get_array_module
from xpcap.layers import CELLS, Cell, sigmoid, stack


class MinimalGated(Cell):
    """The minimal gated unit, whose gate scales h before the product. Source: Zhou et al. 2016."""

    blocks, gates = "fn", "f"

    def shapes(self, W: int, H: int) -> dict[str, tuple[int, ...]]:
        return {"Wx": (W, 2 * H), "Wf": (H, H), "Wn": (H, H), "b": (2 * H,)}

    def step_forward(self, a: Any, state: Any, params: Any) -> Any:
        (h,), (a_f, a_n), xp = state, self.split(a), get_array_module(a)
        f = sigmoid(a_f + h @ params["Wf"])
        n = xp.tanh(a_n + (f * h) @ params["Wn"])
        return ((1 - f) * h + f * n,), {"h": h, "f": f, "n": n}

    def step_backward(self, dafter: Any, cache: Any, params: Any) -> Any:
        (dh,), (h, f, n) = dafter, cache.values()
        dn = dh * f * (1 - n * n)
        dfh = dn @ params["Wn"].T
        df = (dh * (n - h) + dfh * h) * f * (1 - f)
        dh_prev = dh * (1 - f) + dfh * f + df @ params["Wf"].T
        da = get_array_module(dh).concatenate((df, dn), axis=1)
        return da, (dh_prev,), {"Wf": h.T @ df, "Wn": (f * h).T @ dn}


PLAIN = MinimalGated()
NEW_CELLS: dict[str, Cell] = {
    "plain": PLAIN,
    "stacked": stack(CELLS["gru"], PLAIN, CELLS["lstm"]),
}
