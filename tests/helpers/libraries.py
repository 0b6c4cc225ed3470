"""The libraries that tests run on: NumPy, CuPy, and BLAS behind them."""

from types import ModuleType
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from xpcap.backend import backend_status

CUPY = backend_status()["cupy"]
BLAS = ThreadpoolController().select(user_api="blas")


class Lib:
    """One library to run a test on: its module, and a way to bring host arrays there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.xp: ModuleType = np if name in ("numpy", "readonly") else __import__("cupy")

    def __call__(self, *arrays: np.ndarray) -> Any:
        """Host arrays as arrays of this library; read-only where that is what the test is about."""
        moved = [self.xp.array(a) for a in arrays]
        if self.name == "readonly":
            for a in moved:
                a.flags.writeable = False
        return moved[0] if len(moved) == 1 else moved
