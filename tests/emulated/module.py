"""The module that stands in place of cupy, and putting it there."""

import functools
import inspect
import sys
from types import ModuleType
from typing import Any

import numpy as np

from emulated import real
from emulated.arrays import ndarray
from emulated.cuda import PINNED, POOL, Module, driver, namespace
from emulated.functions import FUNCTIONS
from emulated.kernels import RawModule
from emulated.record import EMULATOR, Emulator

# Names that are the real package's own: they look at no element
HOST = "newaxis pi e inf nan dtype finfo iinfo can_cast promote_types isscalar broadcast_shapes".split()
DRAWS = "is refused: xpcap draws on the host, so that a run sees the same numbers on both libraries"


class Cupy(ModuleType):
    """Every name is first looked up in the real package: one that it lacks is an AttributeError,
    one that is not modelled says so.
    """

    def __init__(self) -> None:
        super().__init__("cupy", "The emulated device: see tests/emulated.")
        self.__version__ = real.cupy().__version__
        self.__path__: list[str] = []
        self.ndarray, self.cuda, self.random, self.linalg = (
            ndarray,
            namespace(),
            Module("random", DRAWS),
            Module("linalg"),
        )
        self.cuda.driver, self.get_default_pinned_memory_pool = driver(), lambda: PINNED
        self.RawModule = RawModule
        self._core = Module(
            "_core",
            get_reduction_accelerators=lambda: EMULATOR.reduction_accelerators,
            set_reduction_accelerators=set_reduction_accelerators,
        )
        self.get_default_memory_pool = lambda: POOL

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module 'cupy' has no attribute {name!r}")
        found = real.look_up(name)
        value = self._model(name, found)
        vars(self)[name] = value
        return value

    def _model(self, name: str, found: Any) -> Any:
        if name in FUNCTIONS:
            return checked(name)
        if isinstance(found, real.look_up("ufunc")):
            from emulated.elementwise import UFUNCS

            return UFUNCS[name]
        if name in HOST or (isinstance(found, type) and issubclass(found, np.generic)):
            return found
        raise NotImplementedError(
            f"emulated device: cupy.{name} is not modelled; add it to tests/emulated/functions.py"
        )


def set_reduction_accelerators(accelerators: list[str]) -> None:
    EMULATOR.reduction_accelerators = [*accelerators]


def checked(name: str) -> Any:
    """A function that refuses the calls that cupy's own would."""
    function = FUNCTIONS[name]

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        real.bind(name, args, kwargs)
        return function(*args, **kwargs)

    return call


def install(monkeypatch: Any, **machine: Any) -> Emulator:
    """Put the emulated device in place of cupy until `monkeypatch` is undone, with nothing probed,
    chosen or counted before.

    Parameters
    ----------
    monkeypatch : pytest's fixture, or a pytest.MonkeyPatch in a script
    machine : devices, name, free, total, busy; see Emulator.configure
    """
    from xpcap.backend import probe, selfcheck, switch

    EMULATOR.configure(**machine)
    replace_cupy(monkeypatch)
    monkeypatch.delenv(switch.VARIABLE, raising=False)
    monkeypatch.setattr(probe, "cupy_status", functools.cache(inspect.unwrap(probe.cupy_status)))
    monkeypatch.setattr(switch, "_active", None)
    monkeypatch.setattr(selfcheck, "_codes", {})
    monkeypatch.setattr(selfcheck, "is_stored", lambda key: True)
    switch.backend_status()  # the probe reads; what it reads is not the test's
    EMULATOR.reset()
    return EMULATOR


def replace_cupy(monkeypatch: Any) -> Cupy:
    """Put a module in place of cupy."""
    module = Cupy()
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setitem(sys.modules, "cupy.cuda", module.cuda)
    monkeypatch.setitem(sys.modules, "cupy.cuda.nccl", module.cuda.nccl)
    return module
