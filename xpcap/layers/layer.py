"""`layer` and `gradient`: one line of shapes checks a layer's arrays, takes its turn at BLAS and
writes the array tables of its docstring.

::

    @layer("x:N,T=i W:V,D -> out:N,T,D")
    def word_embedding_forward(x: Array, W: Array) -> tuple[Array, EmbeddingCache]:
        \"\"\"Word vectors, out[n, t] = W[x[n, t]].

        x: Word ids in 0..V-1.
        ValueError: An id is outside 0..V-1.
        \"\"\"

    @gradient(word_embedding_forward)
    def word_embedding_backward(dout: Array, cache: EmbeddingCache) -> Array:
        \"\"\"Gradient of the table of word_embedding_forward.\"\"\"

The docstring ends with what there is to say of arguments, results and errors, a line each, further
lines indented. ``name : type``, with the description indented below it, gives a type of its own, and
names a result that is no array. Sections such as Notes follow. The numpydoc sections Parameters,
Returns and Raises are written from these lines, the shapes and the annotations.
"""

import copy
import functools
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar, cast

import numpy as np

from xpcap.backend import Array, get_array_module, is_device_array
from xpcap.layers.checks import check_upstream
from xpcap.spec import Entry, Sizes, Spec, check_library
from xpcap.threads import blas

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
MISMATCH = "Libraries, dtypes or shapes do not match."


class Layer(Protocol[P, R_co]):
    """A function that `layer` or `gradient` has decorated."""

    __name__: str
    spec: Spec

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


def layer(shapes: str, note: str = "") -> Callable[[Callable[P, R]], Layer[P, R]]:
    """Decorator of a forward pass, or of any function of arrays.

    Entries are matched to parameters by name; other parameters are passed on. On the host the
    function gets the arrays as they are. On a device, whose kernels take nothing else, it gets
    C-contiguous arrays, and int32 in place of other integers. The spec stays as `function.spec`.

    Parameters
    ----------
    shapes : str
        In the language of `xpcap.spec`, results included.
    note : str
        Likely cause of a shape that does not fit.

    Returns
    -------
    decorate : callable
    """
    spec = Spec(shapes, note)
    first = [bool(entry.kind or entry.optional) for entry in spec.entries].index(False)
    others = [i for i, entry in enumerate(spec.entries) if entry.kind]  # of word ids, masks

    def decorate(function: Callable[P, R]) -> Layer[P, R]:
        name = function.__name__

        def check(*arrays: Array) -> Array:
            spec.check(name, *arrays)
            for i in others:
                if arrays[i] is not None:
                    entry = spec.entries[i]
                    check_library(
                        name, entry.name, arrays[i], spec.entries[first].name, arrays[first]
                    )
            return arrays[first]

        names = [entry.name for entry in spec.entries]
        return _decorated(
            function, spec, Arguments(function, names), check, _forward_words(function)
        )

    return decorate


def gradient(forward: Layer[..., Any]) -> Callable[[Callable[P, R]], Layer[P, R]]:
    """Decorator of the backward pass of `forward`, a function of upstream gradients and `cache`.

    Upstream gradients must be as the results of the forward pass were. Its sizes are `cache.sizes`,
    by letter, or else those of the fields that are named as its arguments are; dtype and library
    are those of `cache.like`, or else of the first such field. An upstream gradient that is
    optional in the shapes may be None; a result may have none at all.

    Parameters
    ----------
    forward : function
        Decorated with `layer`.

    Returns
    -------
    decorate : callable
    """

    def decorate(function: Callable[P, R]) -> Layer[P, R]:
        name, parameters = function.__name__, inspect.signature(function).parameters
        spec = copy.copy(forward.spec.backward)
        spec.entries = tuple(entry for entry in spec.entries if entry.name in parameters)
        known = CacheSizes(parameters["cache"].annotation, forward.spec.entries, spec.entries)

        def check(*arrays: Array) -> Array:
            *upstream, cache = arrays
            sizes, like = known(cache)
            for entry, dout in zip(spec.entries, upstream, strict=True):
                if dout is not None or not entry.optional:
                    check_upstream(name, entry.name, dout, entry.shape(sizes), like)
            return like

        arguments = Arguments(function, [*(entry.name for entry in spec.entries), "cache"])
        return _decorated(function, spec, arguments, check, _backward_words(forward, spec))

    return decorate


class Arguments:
    """Where the arguments of some names are in a call of a function."""

    def __init__(self, function: Callable[..., Any], names: Iterable[str]) -> None:
        parameters = inspect.signature(function).parameters
        positional = [
            name
            for name, one in parameters.items()
            if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
        ]
        self._function = function
        self.where = [
            (
                name,
                positional.index(name) if name in positional else sys.maxsize,
                parameters[name].default,
            )
            for name in names
        ]

    def find(self, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
        """The arguments, or defaults. TypeError : one is missing."""
        found = []
        for name, position, default in self.where:
            if position < len(args):
                found.append(args[position])
            elif name in kwargs:
                found.append(kwargs[name])
            elif default is inspect.Parameter.empty:
                self._function(*args, **kwargs)  # Python's own error
            else:
                found.append(default)
        return found

    def contiguous(
        self, entries: Iterable[Entry], args: Sequence[Any], kwargs: dict[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a call on a device, as kernels take them."""
        args, kwargs = list(args), dict(kwargs)
        for entry, (name, position, _) in zip(entries, self.where, strict=False):
            if position < len(args):
                args[position] = _contiguous(args[position], entry.kind)
            elif name in kwargs:
                kwargs[name] = _contiguous(kwargs[name], entry.kind)
        return args, kwargs


def _contiguous(x: Array | None, kind: str) -> Array | None:
    if x is None or (x.flags.c_contiguous and (kind != "i" or x.dtype == np.int32)):
        return x
    return get_array_module(x).ascontiguousarray(x, np.int32 if kind == "i" else None)


class CacheSizes:
    """Sizes of a forward pass and an array like its others, from its cache."""

    def __init__(self, cache: type, arguments: Iterable[Entry], upstream: Iterable[Entry]) -> None:
        fields = getattr(cache, "_fields", ())
        arrays = [entry for entry in arguments if entry.name in fields and not entry.optional]
        floats = [entry.name for entry in arrays if not entry.kind]
        wanted = set().union(*(entry.forms[0].letters for entry in upstream))
        self._arrays = []
        for entry in arrays:
            if wanted & (letters := set().union(*(form.letters for form in entry.forms))):
                self._arrays.append(entry)
                wanted -= letters
        self._has_sizes = hasattr(cache, "sizes")
        if not (floats or hasattr(cache, "like")) or (wanted and not self._has_sizes):
            raise TypeError(
                f"{cache}: expected fields that are named as arguments are, or `like` and `sizes`,"
                f" to know dtype and library and {', '.join(sorted(wanted)) or 'sizes'}"
            )
        self._like = "like" if hasattr(cache, "like") else floats[0]

    def __call__(self, cache: Any) -> tuple[Sizes, Array]:
        like = getattr(cache, self._like)
        if self._has_sizes:
            return cache.sizes, like
        sizes: Sizes = {}
        for entry in self._arrays:
            entry.bind(getattr(cache, entry.name).shape, sizes)
        return sizes, like


def _decorated(
    function: Callable[P, R],
    spec: Spec,
    arguments: Arguments,
    check: Callable[..., Array],
    words: "Words",
) -> Layer[P, R]:
    """The function, which checks its arrays and runs in a turn at BLAS, with its docstring."""

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        first = check(*arguments.find(args, kwargs))
        if is_device_array(first):
            args, kwargs = arguments.contiguous(spec.entries, args, kwargs)  # type: ignore[assignment]
            return function(*args, **kwargs)
        with blas().turn():
            return function(*args, **kwargs)

    checked.__doc__ = _docstring(function, spec, words)
    checked.spec = spec  # type: ignore[attr-defined]
    return cast(Layer[P, R], checked)


# ---- Docstrings

HEADING = re.compile(r"^\w+\n-{3,}$", re.MULTILINE)
LINE = re.compile(r"(?P<names>\w+(?:, \w+)*)(?P<typed> :|:)(?: (?P<rest>.*))?")


class Words(NamedTuple):
    """What a docstring says that its author need not write: types and descriptions by name."""

    types: dict[str, str]
    texts: dict[str, str]


class Item(NamedTuple):
    """An entry of a numpydoc section."""

    names: tuple[str, ...]
    type: str
    text: str

    def __str__(self) -> str:
        head = ", ".join(self.names) + f" : {self.type}" * bool(self.type)
        return "\n".join([head, *(f"    {line}".rstrip() for line in self.text.splitlines())])


def _forward_words(function: Callable[..., Any]) -> Words:
    results = typing.get_args(inspect.signature(function).return_annotation)
    caches = [one.__name__ for one in results if getattr(one, "__name__", "").endswith("Cache")]
    backward = function.__name__.replace("_forward", "_backward")
    return Words({"cache": caches[-1]} if caches else {}, {"cache": f"For {backward}."})


def _backward_words(forward: Layer[..., Any], spec: Spec) -> Words:
    texts = {one.name: f"The upstream gradient of {one.name[1:]}." for one in spec.entries}
    return Words({}, {"cache": f"Of {forward.__name__}.", **texts})


def _docstring(function: Callable[..., Any], spec: Spec, words: Words) -> str:
    """The author's prose, the sections of arrays, and the author's other sections."""
    text = inspect.cleandoc(function.__doc__ or "")
    heading = HEADING.search(text)
    end = heading.start() if heading else len(text)
    prose, listed = _listed(text[:end].rstrip())
    parameters = inspect.signature(function).parameters
    arrays = {entry.name: entry.type + ", or None" * entry.optional for entry in spec.entries}
    results = {entry.name: entry.type for entry in spec.results}
    if "cache" not in parameters:
        results |= words.types
    errors = {name: item for name, item in listed.items() if name.endswith("Error")}
    others = listed.keys() - parameters.keys() - errors.keys()
    results |= {name: item.type for name, item in listed.items() if item.type and name in others}
    if unknown := others - results.keys():
        raise ValueError(f"{function.__name__}: the docstring describes {', '.join(unknown)}")
    of_parameters = {
        name: arrays.get(name) or _type_words(one.annotation) for name, one in parameters.items()
    }
    sections = {
        "Parameters": _items(of_parameters, listed, words),
        "Returns": _items(results, listed, words),
        "Raises": [
            Item(("TypeError", "ValueError"), "", MISMATCH),
            *dict.fromkeys(errors.values()),
        ],
    }
    written = [
        "\n".join([name, "-" * len(name), *map(str, items)])
        for name, items in sections.items()
        if items
    ]
    return "\n\n".join([prose, *written, text[end:]]).rstrip()


def _listed(prose: str) -> tuple[str, dict[str, Item]]:
    """Prose without the list at its end, and that list, by name."""
    before, _, last = prose.rpartition("\n\n")
    lines = last.splitlines()
    heads = [line for line in lines if not line.startswith(" ")]
    if not (before and heads and all(LINE.fullmatch(line) for line in heads)):
        return prose, {}
    listed: dict[str, Item] = {}
    for one in re.split(r"\n(?! )", last):
        head, _, more = one.partition("\n")
        found = LINE.fullmatch(head)
        assert found  # as all heads
        rest, more = found["rest"] or "", inspect.cleandoc(f"\n{more}")
        names = tuple(found["names"].split(", "))
        item = (
            Item(names, rest, more)
            if found["typed"] == " :"
            else Item(names, "", f"{rest}\n{more}".strip())
        )
        listed |= dict.fromkeys(names, item)
    return before, listed


def _items(of: dict[str, str], listed: dict[str, Item], words: Words) -> list[Item]:
    """Entries of a section; neighbours of one type and description share one."""
    items: list[Item] = []
    for name, usual in of.items():
        own = listed.get(name, Item((), "", ""))
        item = Item((name,), own.type or usual, own.text)
        if items and items[-1][1:] == item[1:]:
            item = item._replace(names=(*items.pop().names, name))
        items.append(item)
    return [item if item.text else item._replace(text=_usual(item.names, words)) for item in items]


def _usual(names: tuple[str, ...], words: Words) -> str:
    """What there is to say of names that their author does not describe."""
    texts = [words.texts.get(name, "") for name in names]
    if len(names) == 1 or not all(texts):
        return texts[0] if len(names) == 1 else ""
    return f"The upstream gradients of {' and '.join(name[1:] for name in names)}."


def _type_words(annotation: Any) -> str:
    """An annotation in words: "Buffer or None" of ``Buffer | None``."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return " or ".join(map(_type_words, typing.get_args(annotation)))
    if annotation is types.NoneType:
        return "None"
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    return re.sub(r"\b(\w+\.)+", "", str(annotation))
