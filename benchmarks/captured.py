"""A record's launches as a CUDA graph: what one would gain, since xpcap itself has none.

While a stream captures, CuPy refuses to call cuBLAS, so ctypes calls it with CuPy's handle.
"""

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from xpcap.backend import array_module
from xpcap.device.cublas import Product, handle
from xpcap.device.replay import Replay

WORKSPACE = 32 << 20  # bytes for cuBLAS, which takes none while a stream captures


class Captured(Replay[Any]):
    """A replay that launches the graph of another one's record.

    record : repeats products in float32 and kernels, as single launches
    """

    def __init__(self, record: Replay[Any]) -> None:
        super().__init__()
        from cuda import pathfinder

        xp, pointer, size = array_module(), ctypes.c_void_p, ctypes.c_int
        matrix: list[Any] = [pointer, size]  # its address, and leading dimension
        library = ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("cublas").abs_path)
        gemm, cublas = library.cublasSgemm_v2, pointer(handle(xp))
        gemm.argtypes = [pointer, *5 * [size], pointer, *2 * matrix, pointer, *matrix]
        self._record, self._memory = record, xp.empty(WORKSPACE, np.uint8)
        stream, nodes = xp.cuda.Stream(non_blocking=True), list[Any](record.nodes)

        def launch() -> None:
            for node in nodes:
                if isinstance(node, Product):
                    _require(gemm(cublas, *node.arguments))
                else:
                    node.kernel.launch_kernel(*node.arguments(stream.ptr))

        xp.cuda.Device().synchronize()
        # Until CuPy's next product, which sets its own stream, and with it the usual memory
        _require(library.cublasSetStream_v2(cublas, pointer(stream.ptr)))
        address, nbytes = pointer(self._memory.data.ptr), ctypes.c_size_t(WORKSPACE)
        _require(library.cublasSetWorkspace_v2(cublas, address, nbytes))
        with stream:
            launch()  # cuBLAS loads what it needs
            stream.synchronize()
            stream.begin_capture()
            launch()
            self._graph = stream.end_capture()

    def run(self, key: object, compute: Callable[[], Any]) -> Any:
        if key != self._record._key:
            return compute()
        self._graph.launch()
        return self._record._result


def _require(status: int) -> None:
    if status:
        raise RuntimeError(f"cuBLAS returned status {status}")
