"""Parameters: named arrays in one flat buffer."""

import math
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from xpcap.backend import Array, asarray, get_array_module
from xpcap.backend.memory import view
from xpcap.backend.shape_specs import as_array
from xpcap.errors import InvalidTypeError, InvalidValueError, OptionError, one_of
from xpcap.models.config import ModelConfig

OF_WORDS = ("W_embed", "W_vocab", "b_vocab")  # with a row, column or number for each word


class Parameters(MutableMapping[str, Array]):
    """A mapping of names to arrays, which are views of one flat array; its keys are fixed.

    ``params["Wx"] = array`` checks the shape, casts, and copies into the buffer, so the values remain
    views of it. Copies and pickles have another buffer. Gradients and moments with the same `shapes`
    have the same layout.

    shapes : mapping of name to shape, in the order of the buffer
    flat : array (sum of sizes,), the buffer itself; ``params.flat = array`` copies into it

    Examples
    --------
    >>> params = Parameters({"W": (2, 2), "b": (2,)}, np.zeros(6))
    >>> params["b"] = [1, 2]
    >>> params.flat
    array([0., 0., 0., 0., 1., 2.])
    """

    __slots__ = "_flat", "_views", "shapes"  # so that params.Wx = array is an error

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], flat: Array) -> None:
        self.shapes = dict(shapes)
        self._flat = flat
        self._views: dict[str, Array] = {}
        start = 0
        for name, shape in self.shapes.items():
            self._views[name] = view(flat, start, shape)
            start += math.prod(shape)
        if start != flat.size:
            raise InvalidValueError(
                f"flat has {flat.size} elements, expected {start} for {', '.join(self.shapes)}"
            )

    @classmethod
    def empty(
        cls, shapes: Mapping[str, tuple[int, ...]], dtype: DTypeLike, xp: ModuleType
    ) -> "Parameters":
        """Uninitialised parameters in the library `xp`."""
        return cls(shapes, xp.empty(sum(math.prod(shape) for shape in shapes.values()), dtype))

    @property
    def flat(self) -> Array:
        """The buffer."""
        return self._flat

    @flat.setter
    def flat(self, values: Array) -> None:
        if values is not self._flat:  # it is after `params.flat += x`
            self._copy_in("flat", self._flat, values)

    @property
    def layout(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Names and shapes in the order of the buffer, which a comparison of `shapes` ignores."""
        return tuple(self.shapes.items())

    def __getitem__(self, name: str) -> Array:
        try:
            return self._views[name]
        except KeyError:
            raise KeyError(
                str(
                    OptionError(
                        f"parameter {name!r} does not exist, expected {one_of(self._views, name)}"
                    )
                )
            ) from None

    def __setitem__(self, name: str, value: Array) -> None:
        self._copy_in(name, self[name], value)

    def _copy_in(self, name: str, to: Array, value: Array) -> None:
        value = as_array(name, value)
        if value.shape != to.shape:
            raise InvalidValueError(
                f"{name} has shape {value.shape}, expected {to.shape}; assignment copies into the"
                " flat buffer"
            )
        to[...] = asarray(value, dtype=to.dtype, like=to)

    def __delitem__(self, name: str) -> None:
        raise InvalidTypeError(f"{name} cannot be deleted; the keys of a model are fixed")

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def assign(self, values: Mapping[str, Array]) -> None:
        """Copy values to all parameters. ValueError : names or shapes differ; nothing is copied."""
        if not isinstance(values, Mapping):
            raise InvalidTypeError(
                f"`params` is set to a {type(values).__name__}, expected a mapping of parameter"
                " names to arrays"
            )
        if wrong := sorted(set(values) ^ set(self)):
            raise InvalidValueError(
                f"{', '.join(map(str, wrong))} missing or unknown, expected {', '.join(self)}; are"
                " they from another model?"
            )
        values = {name: as_array(name, values[name]) for name in self}
        for name in self:
            if values[name].shape != self[name].shape:
                raise InvalidValueError(
                    f"parameter {name} has shape {values[name].shape}, expected {self[name].shape}"
                    " as in this model; are the values from another model?"
                )
        self.update(values)

    def update(self, *values: Any, **more: Array) -> None:
        """Copy values to some parameters; they may be views of this buffer, as in a swap."""
        copies = {
            name: as_array(name, value).copy() for name, value in dict(*values, **more).items()
        }
        super().update(copies)

    def holding(self, values: Mapping[str, Array]) -> "Parameters":
        """A copy with other values. ValueError : as in `assign`."""
        copy = self.copy()
        copy.assign(values)
        return copy

    def copy(self) -> "Parameters":
        """A copy with another buffer."""
        return Parameters(self.shapes, self.flat.copy())

    def __copy__(self) -> "Parameters":
        return self.copy()

    def __deepcopy__(self, memo: dict[int, object]) -> "Parameters":
        return self.copy()

    def __reduce__(self) -> tuple[object, ...]:
        return Parameters, (self.shapes, self.flat)

    def __array__(self, *args: object, **kwargs: object) -> np.ndarray:
        raise InvalidTypeError(
            "several arrays cannot become one; to save them write numpy.savez(file, **params), or"
            " use params.flat, the whole buffer (xpcap.to_numpy copies device arrays to the host)"
        )


def add_words(
    params: Parameters, shapes: Mapping[str, tuple[int, ...]], known: Sequence[int]
) -> Parameters:
    """Copy parameters to a model with a larger vocabulary, whose first V words are the old ones.

    A new word starts with the mean word vector, the mean column of W_vocab and the mean bias of the
    words `known` (ids). Everything else is copied.

    shapes : shapes of the parameters with the larger vocabulary
    """
    larger = Parameters.empty(shapes, params.flat.dtype, get_array_module(params.flat))
    ids = asarray(np.array(known), like=params.flat)
    for name, old in params.items():
        new = larger[name]
        if name not in OF_WORDS:
            new[...] = old
            continue
        new, old = (new.T, old.T) if name == "W_vocab" else (new, old)  # a row for each word
        new[: len(old)] = old
        new[len(old) :] = old[ids].mean(axis=0)
    return larger


# Divisors of initial weights, which make the image a small part of a step at first
SHRUNK = {"W_image": 4, "Wattn": 4}


def draw_weights(config: ModelConfig, params: Parameters, rng: np.random.Generator | None) -> None:
    """Draw initial weights: randn / sqrt(rows), or randn / 100 for W_embed; biases are zero.

    Without `rng` the draws come from NumPy's legacy global generator, as in the course.
    """
    params.flat[...] = 0
    course = ("W_embed", "W_proj", *config.cell_shapes(), "W_vocab")
    for name in (*course, "W_image", "Wattn"):
        shape = params.shapes.get(name, ())
        if len(shape) < 2:
            continue
        draw = np.random.randn(*shape) if rng is None else rng.standard_normal(shape)
        scale = 100 if name == "W_embed" else SHRUNK.get(name, 1) * np.sqrt(shape[0])
        params[name] = draw / scale
