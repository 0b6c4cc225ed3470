"""The language of shapes: ``"x:N,T,D Wh:H,4H b:4H -> h:N,T,H"``.

An entry for each array, ``name:axes``, with a space between entries and a comma between axes:

====================== =============================================================
``N``, ``d``           a size, the same wherever the letter stands
``4H``, ``d+1``        a multiple of a size, a size and a number
``D>0``                a size above a number
``3``, ``()``          a fixed size, no axes
``...,D``, ``N,...``   any axes, at least one, the same wherever ``...`` stands
``N,D|N,P,D``          alternatives: the first that fits
``x:N,D=f4``           its kind, see `KINDS`; without one float32 or float64
``x:N,D=f!``           its numbers are finite
``c0?:N,H``            an argument that may be None, or a result that may be left out
``-> h:N,H``           results, which only documentation reads
====================== =============================================================

`Spec` checks arguments of layers and arrays of files, and ends the docstrings of layers. The first
array that has a letter binds its size, unless the caller gives it. Arrays without a kind share one
dtype and one library.
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

FLOATS = "fd"  # float32 and float64, by NumPy's characters, which cost less than names
KINDS = {  # kind: characters of NumPy's dtypes, and in words
    "": (FLOATS, "float"),
    "f": ("efd", "floats"),
    "i": ("bBhHiIlLqQ", "integers"),
    "u": ("BHILQ", "unsigned integers"),
    "n": ("?bBhHiIlLqQefdg", "real numbers"),
    "b": ("?", "booleans"),
    "t": ("US", "text"),
    **{kind: (np.dtype(kind).char, np.dtype(kind).name) for kind in "f2 f4 f8 i4 u1 u4 u8".split()},
}
Sizes = dict[str, Any]  # by letter, an int; of "..." the tuple of its axes


class Axis(NamedTuple):
    """``factor * letter + more``, above `above`; without a letter the size is `more`."""

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
    """The axes of an array; `open` is the position of any others among them, -1 for none."""

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
        """What `sizes` must have for the shape to be known."""
        letters = {axis.letter for axis in self.axes} - {""}
        return letters if self.open < 0 else letters | {"..."}

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """The shape, if its letters are bound."""
        shape = tuple(axis.size(sizes) for axis in self.axes)
        at = self.open
        return shape if at < 0 else (*shape[:at], *sizes["..."], *shape[at:])

    def bind(self, shape: tuple[int, ...], sizes: Sizes) -> bool:
        """True if `shape` has this form. Binds free letters even when it returns False."""
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
    """Requirements on one array."""

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
        """``targets (N, T) integers``; of floats, the usual kind, ``x (N, D)``."""
        kind = KINDS[self.kind][1] if self.kind else ""
        return " ".join(filter(None, (self.name, self.shapes, "finite" * self.finite, kind)))

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """The shape of the first form, whose letters are bound."""
        return self.forms[0].shape(sizes)

    def bind(self, shape: tuple[int, ...], sizes: Sizes) -> bool:
        """True if `shape` has one of the forms; binds the letters of the first that it has."""
        for form in self.forms:
            if form.bind(shape, tried := dict(sizes)):
                sizes |= tried
                return True
        return False

    def expected(self, sizes: Sizes, axes: int = -1) -> str:
        """The forms with what is known of them: ``(N, 4H) = (2, 12)``, or ``(N, 4H), H = 3``.

        Of several forms only those with `axes` axes, if there are any.
        """
        alike = tuple(form for form in self.forms if form.open < 0 and len(form.axes) == axes)
        entry = self._replace(forms=alike or self.forms)
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
    """Shapes of arguments, or of the arrays of a file, and of results.

    text : in the language of this module
    note : likely cause, for refusals of a shape; of the stacked axes alone if there are any, as 4H
    """

    def __init__(self, text: str, note: str = "") -> None:
        arguments, _, results = text.partition("->")
        self.entries = tuple(map(Entry.parse, arguments.split()))
        self.results = tuple(map(Entry.parse, results.split()))
        self.note = note

    def __str__(self) -> str:
        """``x (N, D), c0 (N, H) or None``, and in a second line the results, ``-> h (N, H)``."""
        arguments = (f"{entry}{' or None' * entry.optional}" for entry in self.entries)
        return f"{', '.join(arguments)}\n-> {', '.join(map(str, self.results))}"

    def check(
        self, caller: str, *arrays: Array, note: str = "", sizes: Sizes | None = None
    ) -> Sizes:
        """Check the arguments of a function, one for each entry.

        caller : the function that messages name
        arrays : of NumPy or CuPy
        note : in place of the spec's own
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
                of_others = any(each.stacks for each in self.entries) and not entry.stacks
                got = f"{has(entry.name)} shape {x.shape}"
                expected = entry.expected(sizes, x.ndim)
                cause = "" if of_others else note or self.note
                raise InvalidValueError(caller, entry.name, got, expected, cause)
            if entry.finite:
                check_finite(caller, entry.name, x, InvalidValueError)
        return sizes

    def check_file(
        self, caller: str, arrays: Mapping[str, Any], cause: str = "", sizes: Sizes | None = None
    ) -> Sizes:
        """Check the arrays of a file: one for each entry, and no other.

        caller : function and file, for messages: ``"open_run: runs/a/last.safetensors"``
        arrays : anything with a shape and a dtype will do where nothing must be finite
        cause : likely cause of a misfit
        sizes : sizes that are known already
        DataError : an array is missing or unknown, of another kind or shape, or not finite
        """
        names, sizes = [entry.name for entry in self.entries], dict(sizes or {})
        if set(arrays) != set(names):
            lacking, unknown = sorted(set(names) - set(arrays)), sorted(set(arrays) - set(names))
            wrong = [f"lacks {', '.join(lacking)}"] * bool(lacking)
            wrong += [f"holds {', '.join(unknown)[:200]}"] * bool(unknown)
            raise DataError(caller, "", " and ".join(wrong), ", ".join(sorted(names)), cause)
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
        """The spec of arrays of fixed shapes and one kind, such as the parameters of a model."""
        spec = cls("")
        spec.entries = tuple(
            Entry.parse(f":{','.join(map(str, shape)) or '()'}={kind}")._replace(name=name)
            for name, shape in shapes.items()  # whose names may hold anything
        )
        return spec

    @functools.cached_property
    def backward(self) -> "Spec":
        """The spec of the backward pass: ``dh:N,H -> dx:N,D dWx:D,4H``, in argument order.

        Floats have gradients, and arrays of another kind, such as word ids, have none.
        """
        gradients = copy.copy(self)
        gradients.entries, gradients.results = (
            tuple(entry._replace(name=f"d{entry.name}") for entry in entries if not entry.kind)
            for entries in (self.results, self.entries)
        )
        return gradients


spec = functools.cache(Spec)  # specs by their text, parsed once


def has(name: str) -> str:
    """The verb after the name of an array: ``features have``, ``x has``."""
    return "have" if name.endswith("s") else "has"


def check_kind(caller: str, name: str, x: Array, kind: str) -> None:
    """Raise InvalidTypeError unless x is an array of a kind."""
    require_array(caller, name, x)
    characters, words = KINDS[kind]
    if x.dtype.char not in characters:
        integers = "cast it with .astype(int)"
        if x.dtype.char == "?":
            integers = "of a mask give numpy.flatnonzero(mask)"
        cause = {
            "i": integers,
            "b": "cast it with .astype(bool)",
        }.get(kind, "")
        raise InvalidTypeError(caller, name, f"{has(name)} dtype {x.dtype}", words, cause)


def check_float(caller: str, name: str, x: Array, first_name: str, first: Array) -> None:
    """Raise InvalidTypeError unless x is a float array with the dtype and library of `first`."""
    if type(x) is type(first) and x is not first and hasattr(x, "dtype") and x.dtype == first.dtype:
        return  # the common case: as good as the first, which has been checked
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
    """Raise InvalidTypeError unless x is, or acts as, an array; matrices and masks are refused."""
    if isinstance(x, np.ma.MaskedArray):
        cause = f"give {name}.filled(number): what is masked would be computed with"
        raise InvalidTypeError(caller, name, "is a masked array", "a numpy.ndarray", cause)
    if isinstance(x, np.matrix):
        cause = f"give numpy.asarray({name}): between matrices, * is the matrix product"
        raise InvalidTypeError(caller, name, "is a numpy.matrix", "a numpy.ndarray", cause)
    if not isinstance(x, np.ndarray | NDArrayOperatorsMixin) and not is_device_array(x):
        got = f"is a {type(x).__name__}"
        raise InvalidTypeError(caller, name, got, "an array", "make one with xpcap.asarray")


def as_array(caller: str, thing: str, x: object) -> Array:
    """Array of `x`, which stays where it is; anything but an array becomes one on the host.

    ValueError : nested lists of unequal lengths, or an array with masked numbers. TypeError : an
    object that NumPy cannot read, such as a tensor on a device or with a gradient.
    """
    are = "are" if has(thing) == "have" else "is"
    if isinstance(x, np.ndarray) or is_device_array(x):
        if (mask := getattr(x, "mask", None)) is not None and np.any(mask):
            got = f"{are} a masked array with {np.count_nonzero(mask)} masked numbers"
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
            f"{are} a {type(x).__module__}.{type(x).__name__} that NumPy cannot read",
            expected="a NumPy or CuPy array",
            cause=f"of a PyTorch tensor give {thing}.detach().cpu().numpy(), with .float() before"
            f" .numpy() if it is bfloat16 ({error})",
        ) from error


def check_finite(
    caller: str, name: str, x: Array, error: type[XpcapError], cause: str = ""
) -> None:
    """Raise `error` unless all numbers are finite; of a device array one flag is read."""
    finite = get_array_module(x).isfinite(x)
    if not bool(finite.all()):
        at = [int(axis[0]) for axis in (~finite).nonzero()] if x.ndim else []
        hold = "hold" if has(name) == "have" else "holds"
        got = f"{hold} {x[tuple(at)]} at {at}" if at else f"is {x}"
        raise error(caller, name, got, "finite numbers", cause)


def check_range(
    caller: str,
    name: str,
    numbers: Array,
    bound: int,
    cause: str = "from other data?",
    error: type[XpcapError] = InvalidValueError,
) -> None:
    """Raise `error` unless integers are all in 0..bound-1; those on a device are not read."""
    if isinstance(numbers, np.ndarray) and not all_below(numbers, bound):
        hold = "hold" if has(name) == "have" else "holds"
        got = f"{hold} {numbers.min()}..{numbers.max()}"
        raise error(caller, name, got, f"0..{bound - 1}", cause)


def as_numbers(
    caller: str, name: str, numbers: Any, bound: int, cause: str = "from other data?"
) -> np.ndarray:
    """Numbers of rows as an array, each in 0..bound-1.

    InvalidTypeError : no integers, such as a mask. InvalidValueError : out of range.
    """
    array = np.asarray(numbers)
    if not array.size:
        return array.astype(np.int64)  # NumPy takes an empty list for floats
    if array.dtype.kind not in "iu":
        got = f"{has(name)} dtype {array.dtype}"
        hint = "np.flatnonzero makes numbers of a mask" if array.dtype.kind == "b" else ""
        raise InvalidTypeError(caller, name, got, "integers", hint)
    check_range(caller, name, array, bound, cause)
    return array


def all_below(numbers: np.ndarray, bound: int) -> bool:
    """True if all integers are in 0..bound-1."""
    if numbers.dtype.kind == "i":
        bound = min(bound, 1 << (8 * numbers.itemsize - 1))
    # As unsigned, negative ones are above all others: one pass instead of two
    return not numbers.size or bool(numbers.view(numbers.dtype.str.replace("i", "u")).max() < bound)
