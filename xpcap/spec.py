"""A language of shapes: ``"x:N,T,D Wh:H,4H b:4H -> h:N,T,H"``.

Each array has an entry ``name:axes``; spaces separate entries, and commas axes:

====================== =============================================================
``N``, ``d``           a size, the same wherever the letter stands
``4H``, ``d+1``        a multiple of a size, a size and a number
``D>0``                a size greater than a number
``3``, ``()``          a fixed size, no axes
``...,D``, ``N,...``   any axes, at least one, the same wherever ``...`` stands
``N,D|N,P,D``          alternatives: the first that fits
``x:N,D=f4``           a kind, see `KINDS`; without it, float32 or float64
``x:N,D=f!``           all numbers are finite
``c0?:N,H``            an argument that may be None, or a result that may be left out
``-> h:N,H``           results, for documentation only
====================== =============================================================

`Spec` checks the arguments of layers and the arrays of files, and is printed in the docstrings of
layers. A letter's size comes from the caller, or from the first array with that letter. Arrays
without a kind share one dtype and one library.
"""

import copy
import functools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from xpcap.backend import Array, get_array_module, is_device_array
from xpcap.errors import DataError, InvalidTypeError, InvalidValueError, XpcapError

FLOATS = "fd"  # float32 and float64 by NumPy's characters, which are faster to read than names
KINDS = {  # kind: characters of NumPy's dtypes, and its name in messages
    "": (FLOATS, "float"),
    "f": ("efd", "floats"),
    "i": ("bBhHiIlLqQ", "integers"),
    "u": ("BHILQ", "unsigned integers"),
    "n": ("?bBhHiIlLqQefdg", "real numbers"),
    "b": ("?", "booleans"),
    "t": ("US", "text"),
    **{kind: (np.dtype(kind).char, np.dtype(kind).name) for kind in "f2 f4 f8 i4 u1 u4 u8".split()},
}
Sizes = dict[str, Any]  # an int by letter; by "..." a tuple


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
        factor, more = self.factor if self.factor > 1 else "", f"+{self.more}" * (self.more > 0)
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
        """The keys that `sizes` needs for the shape to be known."""
        letters = {axis.letter for axis in self.axes} - {""}
        return letters if self.open < 0 else letters | {"..."}

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """The shape, if its letters are bound."""
        shape = tuple(axis.size(sizes) for axis in self.axes)
        k = self.open
        return shape if k < 0 else (*shape[:k], *sizes["..."], *shape[k:])

    def bind(self, shape: tuple[int, ...], sizes: Sizes) -> bool:
        """True if `shape` has this form. Binds free letters even when it returns False."""
        if (start := self.open) >= 0:
            open_axes = len(shape) - len(self.axes)
            end = start + open_axes
            if open_axes < 1 or sizes.setdefault("...", shape[start:end]) != shape[start:end]:
                return False
            shape = shape[:start] + shape[end:]
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
        """``targets (N, T) integers``; ``x (N, D)`` if its kind is the usual float."""
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

        If some forms have `axes` axes, only those.
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
    note : likely cause of a wrong shape; if an entry stacks axes, as 4H, of such entries alone
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
        self, caller: str, *arrays: Array, cause: str = "", sizes: Sizes | None = None
    ) -> Sizes:
        """Check the arguments of a function, one for each entry.

        caller : the function that messages name
        arrays : of NumPy or CuPy
        note : replaces the spec's own
        sizes : sizes that are known already
        InvalidTypeError : not an array, of another kind, or a float of another dtype or library
            than the first
        InvalidValueError : a shape does not fit, or a number is not finite
        """
        first, sizes = None, dict(sizes or {})
        for entry, x in zip(self.entries, arrays, strict=True):
            if x is None and entry.optional:
                continue
            if entry.kind:
                check_kind(caller, entry.name, x, entry.kind)
            else:
                first = first or (entry.name, x)
                check_float(caller, entry.name, x, *first)
        for entry, x in zip(self.entries, arrays, strict=True):
            if x is None and entry.optional:
                continue
            if entry.kind and first:
                check_library(caller, entry.name, x, *first)
            if not entry.bind(x.shape, sizes):
                note_applies = entry.stacks or not any(each.stacks for each in self.entries)
                got = f"{has(entry.name)} shape {x.shape}"
                expected = entry.expected(sizes, x.ndim)
                cause = (note or self.note) if note_applies else ""
                raise InvalidValueError(caller, entry.name, got, expected, cause)
            if entry.finite:
                check_finite(caller, entry.name, x, InvalidValueError)
        return sizes

    def check_file(
        self, caller: str, arrays: Mapping[str, Any], cause: str = "", sizes: Sizes | None = None
    ) -> Sizes:
        """Check the arrays of a file: one for each entry, and no more.

        caller : function and file, for messages: ``"open_run: runs/a/last.safetensors"``
        arrays : objects with a shape and a dtype; arrays where numbers must be finite
        cause : likely cause of a misfit
        sizes : known sizes
        DataError : an array is missing or unknown, has another kind or shape, or is not finite
        """
        names, sizes = [entry.name for entry in self.entries], dict(sizes or {})
        if set(arrays) != set(names):
            missing, unknown = sorted(set(names) - set(arrays)), sorted(set(arrays) - set(names))
            faults = [f"lacks {', '.join(missing)}"] * bool(missing)
            faults += [f"holds {', '.join(unknown)[:200]}"] * bool(unknown)
            raise DataError(caller, "", " and ".join(faults), ", ".join(sorted(names)), cause)
        for entry in self.entries:
            x = arrays[entry.name]
            characters, kind = KINDS[entry.kind]
            if not hasattr(x, "dtype"):
                got = f"{'are' if has(entry.name) == 'have' else 'is'} a {type(x).__name__}"
                raise DataError(caller, entry.name, got, f"an array of {kind}", cause)
            if x.dtype.char not in characters or not entry.bind(x.shape, sizes):
                got = f"{has(entry.name)} shape {x.shape} and dtype {x.dtype}"
                expected = f"{kind} of shape {entry.expected(sizes, len(x.shape))}"
                raise DataError(caller, entry.name, got, expected, cause)
            if entry.finite:
                check_finite(caller, entry.name, x, DataError, cause)
        return sizes

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]], kind: str) -> "Spec":
        """The spec of arrays with fixed shapes and one kind, such as the parameters of a model."""
        spec = cls("")
        spec.entries = tuple(
            Entry.parse(f":{','.join(map(str, shape)) or '()'}={kind}")._replace(name=name)
            for name, shape in shapes.items()  # a name may have any characters
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
    """The verb for the name of an array: ``features have``, ``x has``."""
    return "have" if name.endswith("s") else "has"


def check_kind(caller: str, name: str, x: Array, kind: str) -> None:
    """Raise InvalidTypeError unless x is an array of a kind."""
    require_array(caller, name, x)
    characters, words = KINDS[kind]
    if x.dtype.char not in characters:
        integers = "cast it with .astype(int)"
        if x.dtype.char == "?":
            integers = "for a mask give numpy.flatnonzero(mask)"
        cause = {
            "i": integers,
            "b": "cast it with .astype(bool)",
        }.get(kind, "")
        raise InvalidTypeError(caller, name, f"{has(name)} dtype {x.dtype}", words, cause)


def check_float(caller: str, name: str, x: Array, first_name: str, first: Array) -> None:
    """Raise InvalidTypeError unless x is a float array with the dtype and library of `first`."""
    if type(x) is type(first) and x is not first and hasattr(x, "dtype") and x.dtype == first.dtype:
        return  # the common case: it is like the first, which has been checked
    require_array(caller, name, x)
    if x.dtype.char not in FLOATS:
        got = f"{has(name)} dtype {x.dtype}"
        raise InvalidTypeError(caller, name, got, "float32 or float64", "cast it with .astype")
    if x is first:
        return
    check_library(caller, name, x, first_name, first)
    if x.dtype != first.dtype:
        got = f"{has(name)} dtype {x.dtype}"
        expected = f"{first.dtype}, as {first_name} has"
        raise InvalidTypeError(caller, name, got, expected, "cast one with .astype")


def check_library(caller: str, name: str, x: Array, first_name: str, first: Array) -> None:
    """Raise InvalidTypeError if one of two arrays is NumPy's and the other CuPy's."""
    if is_device_array(x) != is_device_array(first):
        library, first_library = ("cupy" if is_device_array(a) else "numpy" for a in (x, first))
        got = f"is a {library} array"
        expected = f"a {first_library} array, as {first_name} is"
        raise InvalidTypeError(caller, name, got, expected, "move one with asarray or to_numpy")


def require_array(caller: str, name: str, x: object) -> None:
    """Raise InvalidTypeError unless x is an array, or acts as one, and no matrix or masked array."""
    if isinstance(x, np.ma.MaskedArray):
        cause = f"give {name}.filled(number): xpcap would compute with masked numbers"
        raise InvalidTypeError(caller, name, "is a masked array", "a numpy.ndarray", cause)
    if isinstance(x, np.matrix):
        cause = f"give numpy.asarray({name}): * multiplies matrices as a matrix product"
        raise InvalidTypeError(caller, name, "is a numpy.matrix", "a numpy.ndarray", cause)
    if not isinstance(x, np.ndarray | NDArrayOperatorsMixin) and not is_device_array(x):
        got = f"is a {type(x).__name__}"
        raise InvalidTypeError(caller, name, got, "an array", "make one with xpcap.asarray")


def as_array(caller: str, thing: str, x: object) -> Array:
    """`x` itself if it is an array of NumPy or CuPy; anything else as an array on the host.

    ValueError : nested lists have unequal lengths, or numbers are masked. TypeError : NumPy cannot
    read `x`, such as a tensor on a device or with a gradient.
    """
    verb = "are" if has(thing) == "have" else "is"
    if isinstance(x, np.ndarray) or is_device_array(x):
        if (mask := getattr(x, "mask", None)) is not None and np.any(mask):
            got = f"{verb} a masked array with {np.count_nonzero(mask)} masked numbers"
            raise InvalidValueError(caller, thing, got, "none", "fill them first")
        return x
    try:
        return np.asarray(x)
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(x, list | tuple):
            got = f"{has(thing)} {len(x)} rows of unequal lengths"
            cause = "pad short ones with the id of <NULL>" if thing == "captions" else ""
            raise InvalidValueError(caller, thing, got, "an array", cause) from error
        raise InvalidTypeError(
            caller,
            thing,
            f"{verb} a {type(x).__module__}.{type(x).__name__} that NumPy cannot read",
            expected="a NumPy or CuPy array",
            cause=f"for a PyTorch tensor give {thing}.detach().cpu().numpy(), with .float() before"
            f" .numpy() if it is bfloat16 ({error})",
        ) from error


def check_finite(
    caller: str, name: str, x: Array, error: type[XpcapError], cause: str = ""
) -> None:
    """Raise `error` unless all numbers are finite; a device sends the host one flag."""
    finite = get_array_module(x).isfinite(x)
    if not bool(finite.all()):
        index = [int(axis[0]) for axis in (~finite).nonzero()] if x.ndim else []
        hold = "hold" if has(name) == "have" else "holds"
        got = f"{hold} {x[tuple(index)]} at {index}" if index else f"is {x}"
        raise error(caller, name, got, "finite numbers", cause)


def check_range(
    caller: str,
    name: str,
    numbers: Array,
    bound: int,
    cause: str = "from other data?",
    error: type[XpcapError] = InvalidValueError,
) -> None:
    """Raise `error` unless all integers are in 0..bound-1; a device array is not read."""
    if isinstance(numbers, np.ndarray) and not all_below(numbers, bound):
        hold = "hold" if has(name) == "have" else "holds"
        got = f"{hold} {numbers.min()}..{numbers.max()}"
        raise error(caller, name, got, f"0..{bound - 1}", cause)


def as_numbers(
    caller: str, name: str, numbers: Any, bound: int, cause: str = "from other data?"
) -> np.ndarray:
    """Row numbers as an array, each in 0..bound-1.

    InvalidTypeError : not integers, but a mask, for example. InvalidValueError : out of range.
    """
    array = np.asarray(numbers)
    if not array.size:
        return array.astype(np.int64)  # NumPy makes floats of an empty list
    if array.dtype.kind not in "iu":
        got = f"{has(name)} dtype {array.dtype}"
        cause = "np.flatnonzero makes numbers of a mask" if array.dtype.kind == "b" else ""
        raise InvalidTypeError(caller, name, got, "integers", cause)
    check_range(caller, name, array, bound, cause)
    return array


def all_below(numbers: np.ndarray, bound: int) -> bool:
    """True if all integers are in 0..bound-1."""
    if numbers.dtype.kind == "i":
        bound = min(bound, 1 << (8 * numbers.itemsize - 1))
    # As unsigned numbers, negative ones are the largest: one pass instead of two
    return not numbers.size or bool(numbers.view(numbers.dtype.str.replace("i", "u")).max() < bound)
