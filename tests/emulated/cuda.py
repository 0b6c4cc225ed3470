"""The emulated cupy.cuda: devices, runtime, streams, events and the memory pool, as far as xpcap
has a use for them.
"""

import itertools
import time
from typing import Any

import numpy as np

from emulated import memory, real
from emulated.record import EMULATOR, cuda_error


class Module:
    """A namespace of cupy: what it offers is here, what the real one lacks is an AttributeError,
    and the rest is not modelled.
    """

    def __init__(
        self,
        name: str,
        why: str = "is not modelled; add it to tests/emulated/cuda.py",
        **members: Any,
    ) -> None:
        self.__name__ = f"cupy.{name}"
        self._path, self._why = name, why
        vars(self).update(members)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        real.look_up(f"{self._path}.{name}")
        raise NotImplementedError(f"emulated device: cupy.{self._path}.{name} {self._why}")


class Device:
    """One of the emulated devices; inside a ``with``, or after use(), it is the current one."""

    def __init__(self, device: Any = None) -> None:
        self.id = EMULATOR.current if device is None else int(device)
        self._before: list[int] = []
        if not 0 <= self.id < EMULATOR.devices:
            raise cuda_error(101)

    def use(self) -> None:
        """As from CUDA 12 on: it makes a context, or fails if the device gives none."""
        EMULATOR.current = self.id

    def __enter__(self) -> "Device":
        self._before.append(EMULATOR.current)
        self.use()
        return self

    def __exit__(self, *exc: object) -> None:
        Device(self._before.pop()).use()

    def synchronize(self) -> None:
        EMULATOR.wait("Device.synchronize")

    @property
    def pci_bus_id(self) -> str:
        return f"0000:{self.id:02X}:00.0"


class Event:
    """A mark in the work of a stream; its time is known only after a synchronisation."""

    def __init__(self, disable_timing: bool = False) -> None:
        self.seconds, self._machine = 0.0, EMULATOR.machine
        self.mark = 0, 0  # the stream, and the last work that was given before

    def record(self, stream: Any = None) -> None:
        self.seconds = time.perf_counter()
        ptr = EMULATOR.stream_ptr if stream is None else stream.ptr
        EMULATOR.work += 1
        self.mark = ptr, EMULATOR.work

    def synchronize(self) -> None:
        if self._machine is EMULATOR.machine:
            EMULATOR.wait("Event.synchronize", *self.mark)


class Stream:
    """A stream: the null stream, or one of its own. All work goes to a thread's current one."""

    _addresses = itertools.count(0xA5000, 16)

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        self.ptr = 0 if null else next(self._addresses)
        self.waits_for_null = not non_blocking
        self._before: list[Any] = []

    def use(self) -> "Stream":
        EMULATOR.stream = self if self.ptr else None
        return self

    def __enter__(self) -> "Stream":
        self._before.append(EMULATOR.stream)
        return self.use()

    def __exit__(self, *exc: object) -> None:
        EMULATOR.stream = self._before.pop()

    def __repr__(self) -> str:
        return f"<Stream {self.ptr}>"

    def synchronize(self) -> None:
        EMULATOR.wait("Stream.synchronize", self.ptr)

    def wait_event(self, event: Event) -> None:
        """Work on the device waits, the host does not. Here all that the event marks is over."""
        EMULATOR.finish(*event.mark)


Stream.null = Stream(null=True)


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    if not (start_event.seconds and end_event.seconds and EMULATOR.is_over(*end_event.mark)):
        raise cuda_error(600)
    return 1e3 * (end_event.seconds - start_event.seconds)


class PinnedMemory(bytearray):
    """Where copies to the host may end while it goes on; poisoned until they do."""

    def __init__(self, size: int) -> None:
        super().__init__(b"\x7f" * size)


def is_pinned(host: np.ndarray) -> bool:
    """Whether an array lies in pinned memory."""
    base: Any = host
    while isinstance(base, np.ndarray | memoryview):
        base = base.obj if isinstance(base, memoryview) else base.base
    return isinstance(base, PinnedMemory)


class MemoryPool:
    """Says what the emulator was told to say."""

    def free_bytes(self) -> int:
        return EMULATOR.pool_free

    def total_bytes(self) -> int:
        return EMULATOR.pool_free

    def used_bytes(self) -> int:
        """Of the arrays that are alive, as it is."""
        return memory.used_bytes()

    def free_all_blocks(self, stream: Any = None) -> None:
        EMULATOR.free += EMULATOR.pool_free
        EMULATOR.pool_free = 0


def get_device_properties(device: int) -> dict[str, Any]:
    if not 0 <= device < EMULATOR.devices:
        raise cuda_error(101)
    return {"name": EMULATOR.name.encode(), "major": 8, "minor": 0}


class PinnedMemoryPool:
    """Has nothing to hold back."""

    def free_all_blocks(self) -> None:
        pass


POOL, PINNED = MemoryPool(), PinnedMemoryPool()


def driver() -> Module:
    """cupy.cuda.driver."""
    from emulated.kernels import launch_kernel

    return Module(
        "cuda.driver",
        ctxGetCurrent=lambda: 1 + EMULATOR.current if EMULATOR.has_context else 0,
        launchKernel=launch_kernel,
    )


class Cuda(Module):
    """cupy.cuda, whose cublas is loaded when first asked for: an ImportError where it cannot be."""

    @property
    def cublas(self) -> Any:
        from emulated import blas

        if not EMULATOR.cublas:
            raise ImportError(blas.MISSING)
        return blas.CUBLAS


def namespace() -> Module:
    """cupy.cuda."""
    from emulated import blas, nccl

    runtime = Module(
        "cuda.runtime",
        getDeviceCount=lambda: EMULATOR.devices,
        getDeviceProperties=get_device_properties,
        getDevice=lambda: EMULATOR.current,
        memGetInfo=lambda: (EMULATOR.free, EMULATOR.total),
        driverGetVersion=lambda: 13000,
        runtimeGetVersion=lambda: 13000,
        is_hip=False,
        CUDARuntimeError=real.look_up("cuda.runtime.CUDARuntimeError"),
    )
    streams = {
        "Stream": Stream,
        "Event": Event,
        "get_current_stream": lambda: EMULATOR.stream or Stream.null,
        "get_elapsed_time": get_elapsed_time,
    }
    return Cuda(
        "cuda",
        runtime=runtime,
        **streams,
        Device=Device,
        device=Module("cuda.device", get_cublas_handle=blas.get_cublas_handle),
        alloc_pinned_memory=PinnedMemory,
        nccl=nccl.namespace(),
        nvrtc=Module("cuda.nvrtc", getVersion=lambda: (13, 0)),
    )
