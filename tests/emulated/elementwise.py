"""Elementwise functions: one launch each."""

from typing import Any

import numpy as np

from emulated import real
from emulated.arrays import array, deliver, ndarray, operand, wrap
from emulated.record import EMULATOR

BINARY = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide", "and": "bitwise_and",
    "floordiv": "floor_divide", "mod": "remainder", "pow": "power",
}  # fmt: skip
COMPARISONS = {
    "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal",
    "ne": "not_equal",
}  # fmt: skip
# What add.at takes in every release that xpcap allows
ATOMIC = "int32", "float16", "float32", "float64", "uint32", "uint64"


class Ufunc:
    """One of cupy's ufuncs. Results are fresh, C-contiguous, and 0-d arrays where NumPy gives
    scalars.
    """

    def __init__(self, name: str) -> None:
        self._real = real.look_up(name)
        self.__name__ = name
        self._numpy = getattr(np, name)

    def __call__(self, *args: Any, out: Any = None, dtype: Any = None, **wrong: Any) -> Any:
        if wrong or len(args) != self._real.nin or self._real.nout != 1:
            got = f"got {len(args)} arguments and {wrong}"
            raise TypeError(f"cupy.{self.__name__}: {got}; no such call is modelled")
        result = self._compute([operand(x, self.__name__) for x in args], dtype)
        if out is not None:
            array(out, f"{self.__name__}(out=)")
        if np.size(result):
            EMULATOR.launch("elementwise", self.__name__)
        return deliver(result, out, self.__name__)

    def in_place(self, x: ndarray, other: Any) -> ndarray:
        """`x op= other`: casts within a kind, as NumPy does."""
        result = self._compute([array(x, self.__name__), operand(other, self.__name__)], None)
        if x.size:
            EMULATOR.launch("elementwise", self.__name__)
        if result.shape != x.shape or not np.can_cast(result.dtype, x.dtype, "same_kind"):
            got = f"writes {result.dtype} {result.shape} into {x.dtype} {x.shape}"
            raise TypeError(f"cupy.{self.__name__}: {got}")
        x.host[...] = result
        return x

    def at(self, a: ndarray, indices: Any, b: Any = None) -> None:
        from emulated.indexing import add_at

        if self.__name__ != "add":
            raise NotImplementedError(f"`{self.__name__}.at` is not modelled")
        if a.dtype.name not in ATOMIC:
            raise TypeError(f"cupy.add.at: got {a.dtype}, expected one of {', '.join(ATOMIC)}")
        add_at(a, indices, operand(b, "add.at"))

    def _compute(self, hosts: list[Any], dtype: Any) -> Any:
        settings = {} if dtype is None else {"dtype": dtype}
        with np.errstate(all="ignore"):  # a device says nothing of overflow or 0/0
            return self._numpy(*hosts, **settings)


def where(condition: Any, x: Any = None, y: Any = None) -> Any:
    mask = array(condition, "where")
    if x is None or mask.dtype != bool:
        raise NotImplementedError(
            "emulated device: cupy.where of a mask, x and y alone is modelled"
        )
    result = np.where(mask, operand(x, "where"), operand(y, "where"))
    if result.size:
        EMULATOR.launch("elementwise", "where")
    return wrap(result)


class Table(dict[str, Ufunc]):
    """Ufuncs by name, made when first asked for."""

    def __missing__(self, name: str) -> Ufunc:
        self[name] = ufunc = Ufunc(name)
        return ufunc


UFUNCS = Table()


def _attach() -> None:
    """Give ndarray its operators."""

    def binary(operator: str, name: str) -> None:
        def forward(self: ndarray, other: Any) -> Any:
            return UFUNCS[name](self, other)

        def reflected(self: ndarray, other: Any) -> Any:
            return UFUNCS[name](other, self)

        def in_place(self: ndarray, other: Any) -> ndarray:
            return UFUNCS[name].in_place(self, other)

        setattr(ndarray, f"__{operator}__", forward)
        if operator not in COMPARISONS:
            setattr(ndarray, f"__r{operator}__", reflected)
            setattr(ndarray, f"__i{operator}__", in_place)

    for operator, name in {**BINARY, **COMPARISONS}.items():
        binary(operator, name)
    ndarray.__neg__ = lambda self: UFUNCS["negative"](self)


_attach()
