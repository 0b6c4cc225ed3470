"""Buffers of a workspace: one array of one dtype for each name."""

import weakref
from typing import Any

import numpy as np
import pytest

from xpcap.backend.memory import Workspace


@pytest.mark.parametrize("shape", [(2, 3), (1, 2), (4, 5)], ids=["same", "smaller", "larger"])
def test_a_name_in_another_dtype_than_before_is_refused(shape: tuple[int, ...], lib: Any) -> None:
    memory = Workspace(lib.xp.empty(1, np.float32)).scope("layer")
    for name, dtype, other in (("a", None, np.int32), ("rows", np.int32, None)):
        array = memory.take(name, (2, 3), dtype)
        with pytest.raises(TypeError, match=f"the buffer layer.{name} has dtype {array.dtype}"):
            memory.take(name, shape, other)
        assert memory.take(name, (2, 3), array.dtype) is array


def test_a_held_array_in_another_dtype_is_refused(lib: Any) -> None:
    workspace = Workspace(lib.xp.empty(1, np.float32))
    workspace.hold("gradients", lib.xp.empty(6, np.float64))
    with pytest.raises(TypeError, match="gradients has dtype float64, and float32 is asked for"):
        workspace.take("gradients", (2, 3))


def test_a_host_array_of_another_dtype_is_not_sent_under_a_known_name(device: Any) -> None:
    import cupy

    memory = Workspace(cupy.empty(1, np.float32))
    memory.send("rows", np.zeros(3, np.int32))
    with pytest.raises(TypeError, match="rows has dtype int32, and int64 is asked for"):
        memory.send("rows", np.zeros(3, np.int64))


def test_a_buffer_that_grows_frees_its_old_memory_first(monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, held = Workspace(np.empty(1)), []
    old = weakref.ref(workspace.take("a", (3,)))

    empty = np.empty

    def noting(size: int, dtype: Any) -> np.ndarray:
        held.append(old() is not None)
        return empty(size, dtype)

    monkeypatch.setattr(np, "empty", noting)
    workspace.take("a", (4,))
    assert held == [False]
