"""A language of shapes: ``"x:N,T,D Wh:H,4H b:4H -> h:N,T,H"``.

Each array has an entry ``name:axes``; spaces separate entries, and commas axes:

====================== =============================================================
``N``, ``d``           a size; equal letters mean equal sizes
``4H``, ``d+1``        a multiple of a size; a size plus a number
``D>0``                a size greater than a number
``3``, ``()``          a fixed size; no axes
``...,D``, ``N,...``   one or more axes; each ``...`` stands for the same ones
``N,D|N,P,D``          alternatives, of which the first that fits counts
``x:N,D=f4``           a kind, see `KINDS`; the default is float32 or float64
``x:N,D=f!``           finite numbers
``c0?:N,H``            an argument that may be None, or a result that may be missing
``-> h:N,H``           results, which are only documentation
====================== =============================================================

`Spec` checks the arguments of layers and the arrays of files, and is printed in the docstrings of
layers. A letter's size comes from the caller, or from the first array with that letter. Arrays
without a kind share one dtype and one library.
"""

import copy
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from xpcap.backend.switch import Array, get_array_module, is_device_array
from xpcap.errors import DataError, InvalidTypeError, InvalidValueError, XpcapError

FLOATS = "fd"  # float32 and float64 by NumPy's characters, which are faster to read than names
KINDS = {  # NumPy's dtype characters of each kind, and its name in messages
    "": (FLOATS, "float"),
    "f": ("efd", "floats"),
    "i": ("bBhHiIlLqQ", "integers"),
    "u": ("BHILQ", "unsigned integers"),
    "n": ("?bBhHiIlLqQefdg", "real numbers"),
    "b": ("?", "booleans"),
    "t": ("US", "text"),
    **{kind: (np.dtype(kind).char, np.dtype(kind).name) for kind in "f2 f4 f8 i4 u1 u4 u8".split()},
}
Sizes = dict[str, Any]  # an int for each letter, a tuple of ints for "..."


class Axis(NamedTuple):
    """A size ``factor * letter + more`` > `above`; without a letter it is `more`."""

    factor: int
    letter: str
    more: int
    above: int = -1

    @classmethod
    def parse(cls, text: str) -> "Axis":
        match = re.fullmatch(r"(\d*)([A-Za-z]+)(?:\+(\d+))?(?:>(\d+))?", text)
        if not match:
            return cls(0, "", int(text))
        factor, letter, more, above = match.groups()
        return cls(int(factor or 1), letter, int(more or 0), int(above or -1))

    def __str__(self) -> str:
        if not self.letter:
            return str(self.more)
        factor = self.factor if self.factor > 1 else ""
        more = f"+{self.more}" * (self.more > 0)
        return f"{factor}{self.letter}{more}" + f" > {self.above}" * (self.above >= 0)

    def size(self, sizes: Sizes) -> int:
        """The size, if its letter is bound."""
        return self.factor * sizes[self.letter] + self.more if self.letter else self.more


class Form(NamedTuple):
    """The axes of an array; `open` is the position of ``...`` among them, -1 without it."""

    axes: tuple[Axis, ...]
    open: int

    @classmethod
    def parse(cls, text: str) -> "Form":
        axes = [] if text == "()" else text.split(",")
        known = tuple(Axis.parse(axis) for axis in axes if axis != "...")
        return cls(known, axes.index("...") if "..." in axes else -1)

    def __str__(self) -> str:
        axes = [*map(str, self.axes)]
        if self.open >= 0:
            axes.insert(self.open, "...")
        return f"({', '.join(axes)}{',' * (len(axes) == 1 and self.open < 0)})"

    @property
    def letters(self) -> set[str]:
        """The keys of `sizes` that determine the shape."""
        letters = {axis.letter for axis in self.axes} - {""}
        return letters if self.open < 0 else letters | {"..."}

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """The shape, if its letters are bound."""
        shape = tuple(axis.size(sizes) for axis in self.axes)
        at = self.open
        return shape if at < 0 else (*shape[:at], *sizes["..."], *shape[at:])

    def bind(self, shape: tuple[int, ...], sizes: Sizes) -> bool:
        """True if `shape` has this form; binds free letters, even if it returns False."""
        if (at := self.open) >= 0:
            open_axes = len(shape) - len(self.axes)
            end = at + open_axes
            if open_axes < 1 or sizes.setdefault("...", shape[at:end]) != shape[at:end]:
                return False
            shape = shape[:at] + shape[end:]
        if len(shape) != len(self.axes):
            return False
        for (factor, letter, more, above), size in zip(self.axes, shape, strict=True):
            if not letter:
                known = 0
            elif (known := sizes.get(letter, -1)) < 0:
                known = sizes[letter] = (size - more) // factor
            if known < 0 or known * factor + more != size or size <= above:
                return False
        return True


class Entry(NamedTuple):
    """The requirements on one array."""

    name: str
    forms: tuple[Form, ...]
    kind: str
    finite: bool
    optional: bool

    @classmethod
    def parse(cls, text: str) -> "Entry":
        name, _, rest = text.partition(":")
        forms, _, kind = rest.removesuffix("!").partition("=")
        if kind not in KINDS:
            raise ValueError(
                f"{text!r}: {kind!r} is not a kind, expected one of {', '.join(KINDS)}"
            )
        axes = tuple(map(Form.parse, forms.split("|")))
        return cls(name.removesuffix("?"), axes, kind, rest.endswith("!"), name.endswith("?"))

    @property
    def shapes(self) -> str:
        """``(N, D) or (N, P, D)``."""
        return " or ".join(map(str, self.forms))

    def __str__(self) -> str:
        """``targets (N, T) integers``; the usual kind, floats, is omitted: ``x (N, D)``."""
        kind = KINDS[self.kind][1] if self.kind else ""
        return " ".join(filter(None, (self.name, self.shapes, "finite" * self.finite, kind)))

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """The shape of the first form, if its letters are bound."""
        return self.forms[0].shape(sizes)

    def bind(self, shape: tuple[int, ...], sizes: Sizes) -> bool:
        """True if `shape` has one of the forms; binds the letters of the first that fits."""
        for form in self.forms:
            if form.bind(shape, bound_sizes := dict(sizes)):
                sizes |= bound_sizes
                return True
        return False

    def expected(self, sizes: Sizes, axes: int = -1) -> str:
        """The forms with their known sizes: ``(N, 4H) = (2, 12)``, or ``(N, 4H), H = 3``.

        If some forms have `axes` axes, only those are listed.
        """
        likely = tuple(form for form in self.forms if form.open < 0 and len(form.axes) == axes)
        entry = self._replace(forms=likely or self.forms)
        letters = set().union(*(form.letters for form in entry.forms))
        if len(entry.forms) == 1 and letters and letters <= set(sizes):
            return f"{entry.shapes} = {entry.shape(sizes)}"
        known = (f", {letter} = {sizes[letter]}" for letter in sizes if letter in letters)
        return entry.shapes + "".join(known)

    @property
    def stacks(self) -> bool:
        """True if an axis stacks several blocks of one size, such as 4H."""
        return any(axis.factor > 1 for form in self.forms for axis in form.axes)


class Spec:
    """The shapes of a function's arguments and results, or of the arrays of a file.

    text : in the language of this module
    cause : likely cause of a wrong shape; if arrays stack blocks, as 4H, only of theirs

    Examples
    --------
    >>> spec("x:N,D w:D,M").check(np.ones((2, 3)), np.ones((3, 4)))
    {'N': 2, 'D': 3, 'M': 4}
    """

    def __init__(self, text: str, cause: str = "") -> None:
        arguments, _, results = text.partition("->")
        self.entries = tuple(map(Entry.parse, arguments.split()))
        self.results = tuple(map(Entry.parse, results.split()))
        self.cause = cause

    def __str__(self) -> str:
        """``x (N, D), c0 (N, H) or None``, and the results on a second line, ``-> h (N, H)``."""
        arguments = (f"{entry}{' or None' * entry.optional}" for entry in self.entries)
        return f"{', '.join(arguments)}\n-> {', '.join(map(str, self.results))}"

    def check(
        self, *arrays: Array, function: str = "", cause: str = "", sizes: Sizes | None = None
    ) -> Sizes:
        """Check the arguments of a function, one for each entry.

        function : name of the function, with which messages begin
        arrays : NumPy or CuPy arrays
        cause : likely cause, instead of the spec's
        sizes : known sizes
        InvalidTypeError : an argument is no array or of another kind, or floats differ in dtype or
            library
        InvalidValueError : a shape does not fit, or a number is not finite
        """
        try:
            return self._check(arrays, cause, dict(sizes or {}))
        except (InvalidTypeError, InvalidValueError) as error:
            if not function:
                raise
            raise type(error)(f"{function}: {error}") from None

    def _check(self, arrays: Sequence[Array], cause: str, sizes: dict[str, Any]) -> Sizes:
        first = None
        for entry, x in zip(self.entries, arrays, strict=True):
            if x is None and entry.optional:
                continue
            if entry.kind:
                check_kind(entry.name, x, entry.kind)
            else:
                first = first or (entry.name, x)
                check_float(entry.name, x, *first)
        for entry, x in zip(self.entries, arrays, strict=True):
            if x is None and entry.optional:
                continue
            if entry.kind and first:
                check_library(entry.name, x, *first)
            if not entry.bind(x.shape, sizes):
                others_stack = any(each.stacks for each in self.entries) and not entry.stacks
                got = f"{has(entry.name)} shape {x.shape}"
                expected = entry.expected(sizes, x.ndim)
                cause = "" if others_stack else cause or self.cause
                raise InvalidValueError(f"{entry.name} {got}, expected {expected}; {cause}")
            if entry.finite:
                check_finite(entry.name, x, InvalidValueError)
        return sizes

    def check_file(
        self, source: object, arrays: Mapping[str, Any], cause: str = "", sizes: Sizes | None = None
    ) -> Sizes:
        """Check the arrays of a file: one for each entry, and no more.

        source : the file, with which messages begin
        arrays : objects with a shape and a dtype; arrays, if they must be finite
        cause : likely cause of a misfit
        sizes : known sizes
        DataError : an array is missing or unknown, has another kind or shape, or is not finite
        """
        names = [entry.name for entry in self.entries]
        sizes = dict(sizes or {})
        if set(arrays) != set(names):
            missing = sorted(set(names) - set(arrays))
            unknown = sorted(set(arrays) - set(names))
            faults = [f"lacks {', '.join(missing)}"] * bool(missing)
            faults += [f"holds {', '.join(unknown)[:200]}"] * bool(unknown)
            raise DataError(
                f"{source} {' and '.join(faults)}, expected {', '.join(sorted(names))}; {cause}"
            )
        for entry in self.entries:
            x = arrays[entry.name]
            characters, kind = KINDS[entry.kind]
            if not hasattr(x, "dtype"):
                raise DataError(
                    f"{source}: {entry.name} {'are' if has(entry.name) == 'have' else 'is'} a"
                    f" {type(x).__name__}, expected an array of {kind}; {cause}"
                )
            if x.dtype.char not in characters or not entry.bind(x.shape, sizes):
                raise DataError(
                    f"{source}: {entry.name} {has(entry.name)} shape {x.shape} and dtype {x.dtype},"
                    f" expected {kind} of shape {entry.expected(sizes, len(x.shape))}; {cause}"
                )
            if entry.finite:
                check_finite(f"{source}: {entry.name}", x, DataError, cause)
        return sizes

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]], kind: str) -> "Spec":
        """The spec of arrays with fixed shapes and one kind, such as a model's parameters."""
        spec = cls("")
        spec.entries = tuple(
            Entry.parse(f":{','.join(map(str, shape)) or '()'}={kind}")._replace(name=name)
            for name, shape in shapes.items()  # names may contain any character
        )
        return spec

    @functools.cached_property
    def backward(self) -> "Spec":
        """The spec of the backward pass: ``dh:N,H -> dx:N,D dWx:D,4H``, in argument order.

        Only floats have gradients: other kinds, such as word ids, have none.
        """
        gradients = copy.copy(self)
        gradients.entries, gradients.results = (
            tuple(entry._replace(name=f"d{entry.name}") for entry in entries if not entry.kind)
            for entries in (self.results, self.entries)
        )
        return gradients


spec = functools.cache(Spec)  # parses each text once


def has(name: str) -> str:
    """The verb for an array's name: ``features have``, ``x has``."""
    return "have" if name.endswith("s") else "has"


def check_kind(name: str, x: Array, kind: str) -> None:
    """Raise InvalidTypeError unless x is an array of a kind."""
    require_array(name, x)
    characters, words = KINDS[kind]
    if x.dtype.char not in characters:
        integers = "cast it with .astype(int)"
        if x.dtype.char == "?":
            integers = "for a mask give numpy.flatnonzero(mask)"
        cause = {"i": integers, "b": "cast it with .astype(bool)"}.get(kind, "")
        raise InvalidTypeError(f"{name} {has(name)} dtype {x.dtype}, expected {words}; {cause}")


def check_float(name: str, x: Array, first_name: str, first: Array) -> None:
    """Raise InvalidTypeError unless x is a float array with the dtype and library of `first`."""
    if type(x) is type(first) and x is not first and hasattr(x, "dtype") and x.dtype == first.dtype:
        return  # the common case: `first` has been checked
    require_array(name, x)
    if x.dtype.char not in FLOATS:
        raise InvalidTypeError(
            f"{name} {has(name)} dtype {x.dtype}, expected float32 or float64; cast it with .astype"
        )
    if x is first:
        return
    check_library(name, x, first_name, first)
    if x.dtype != first.dtype:
        raise InvalidTypeError(
            f"{name} {has(name)} dtype {x.dtype}, expected {first.dtype}, as {first_name} has; cast"
            " one with .astype"
        )


def check_library(name: str, x: Array, first_name: str, first: Array) -> None:
    """Raise InvalidTypeError if one of two arrays is NumPy's and the other CuPy's."""
    if is_device_array(x) != is_device_array(first):
        library, first_library = ("cupy" if is_device_array(a) else "numpy" for a in (x, first))
        raise InvalidTypeError(
            f"{name} is a {library} array, expected a {first_library} array, as {first_name} is;"
            " move one with asarray or to_numpy"
        )


def require_array(name: str, x: object) -> None:
    """Raise InvalidTypeError unless x is an array, or acts as one; matrices and masked arrays fail."""
    if isinstance(x, np.ma.MaskedArray):
        raise InvalidTypeError(
            f"{name} is a masked array, expected a numpy.ndarray; give {name}.filled(number):"
            " masked numbers would enter the computation"
        )
    if isinstance(x, np.matrix):
        raise InvalidTypeError(
            f"{name} is a numpy.matrix, expected a numpy.ndarray; give numpy.asarray({name}):"
            " between matrices, * is the matrix product"
        )
    if not isinstance(x, np.ndarray | NDArrayOperatorsMixin) and not is_device_array(x):
        raise InvalidTypeError(
            f"{name} is a {type(x).__name__}, expected an array; make one with xpcap.asarray"
        )


def as_array(thing: str, x: object) -> Array:
    """`x` if it is an array, on its device; otherwise a host array of it.

    ValueError : nested lists have unequal lengths, or numbers are masked. TypeError : NumPy cannot
    read `x`, such as a tensor on a device or with a gradient.
    """
    are = "are" if has(thing) == "have" else "is"
    if isinstance(x, np.ndarray) or is_device_array(x):
        if (mask := getattr(x, "mask", None)) is not None and np.any(mask):
            raise InvalidValueError(
                f"{thing} {are} a masked array with {np.count_nonzero(mask)} masked numbers,"
                " expected none; fill them first"
            )
        return x
    try:
        return np.asarray(x)
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(x, list | tuple):
            got = f"{has(thing)} {len(x)} rows of unequal lengths"
            cause = "pad short ones with the id of <NULL>" if thing == "captions" else ""
            raise InvalidValueError(f"{thing} {got}, expected an array; {cause}") from error
        raise InvalidTypeError(
            f"{thing} {are} a {type(x).__module__}.{type(x).__name__} that NumPy cannot read,"
            " expected a NumPy or CuPy array; for a PyTorch tensor give"
            f" {thing}.detach().cpu().numpy(), with .float() before .numpy() if it is bfloat16"
            f" ({error})"
        ) from error


def check_finite(name: str, x: Array, error: type[XpcapError], cause: str = "") -> None:
    """Raise `error` unless all numbers are finite; from a device this reads one flag."""
    finite = get_array_module(x).isfinite(x)
    if not bool(finite.all()):
        index = [int(axis[0]) for axis in (~finite).nonzero()] if x.ndim else []
        hold = "hold" if has(name) == "have" else "holds"
        got = f"{hold} {x[tuple(index)]} at {index}" if index else f"is {x}"
        raise error(f"{name} {got}, expected finite numbers; {cause}")


def check_range(
    name: str,
    numbers: Array,
    bound: int,
    cause: str = "from other data?",
    error: type[XpcapError] = InvalidValueError,
) -> None:
    """Raise `error` unless all integers are in 0..bound-1; numbers on a device are not checked."""
    if isinstance(numbers, np.ndarray) and not all_below(numbers, bound):
        hold = "hold" if has(name) == "have" else "holds"
        raise error(
            f"{name} {hold} {numbers.min()}..{numbers.max()}, expected 0..{bound - 1}; {cause}"
        )


def as_numbers(name: str, numbers: Any, bound: int, cause: str = "from other data?") -> np.ndarray:
    """Row numbers as an array, each in 0..bound-1.

    InvalidTypeError : not integers, such as a mask. InvalidValueError : a number is out of range.
    """
    array = np.asarray(numbers)
    if not array.size:
        return array.astype(np.int64)  # NumPy makes an empty list floats
    if array.dtype.kind not in "iu":
        got = f"{has(name)} dtype {array.dtype}"
        hint = "np.flatnonzero(mask) gives its row numbers" if array.dtype.kind == "b" else ""
        raise InvalidTypeError(f"{name} {got}, expected integers; {hint}")
    check_range(name, array, bound, cause)
    return array


def all_below(numbers: np.ndarray, bound: int) -> bool:
    """True if all integers are in 0..bound-1."""
    if numbers.dtype.kind == "i":
        bound = min(bound, 1 << (8 * numbers.itemsize - 1))
    # As unsigned integers, negative numbers are the largest: one pass checks both bounds
    return not numbers.size or bool(numbers.view(numbers.dtype.str.replace("i", "u")).max() < bound)
