"""The protocol `Encoder`, descriptions of encoders, and their names with options."""

import contextlib
import importlib.util
import itertools
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import NamedTuple, Protocol

import numpy as np

from xpcap.encoders.grid import WHOLE_PICTURE, Area
from xpcap.errors import DataError, install, one_of

OPTION = re.compile(r"(.*):(\w+)=([^:]*)", re.DOTALL)
DIGITS = 16  # of a SHA-256 digest in a name; enough to distinguish weights
MIN_DIGITS = 4  # of a digest that a user gives
# ONNX Runtime and timm's Hub client read these variables when they are imported
TELEMETRY = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")
_environment = threading.Lock()


class Encoder(Protocol):
    """Turns pictures into features."""

    @property
    def name(self) -> str:
        """Stored with a data set, to encode new pictures the same way; other weights need another."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(D,), or (K*K, D) for a grid."""

    def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        """Encode pictures, each (height, width, 3) uint8 RGB of any size, as features (n, *shape),
        float32.

        Several threads may call it at the same time. ValueError : an array has another shape.
        TypeError : an array has another dtype.
        """


def _whole_picture(name: str, picture: np.ndarray) -> Area | None:
    return WHOLE_PICTURE


class EncoderSpec(NamedTuple):
    """The description of an encoder, which is available before the encoder is built.

    name : name of the encoder, or a pattern such as ``timm:MODEL``
    build : makes the encoder, given its name without options, and options as keywords; the grid is a
        number or None
    licence : licence of its weights, as their package states it
    help : which pictures it is for, and the size of its features
    options : names of options that may follow the name, as in ``:grid=3``
    extra : extra of xpcap that installs the packages it needs
    packages : the packages that it needs, by their names on PyPI
    area : given the full name and a picture (height, width, 3), uint8, the area that the grid covers;
        None: unknown
    """

    name: str
    build: Callable[..., Encoder]
    licence: str
    help: str
    options: Sequence[str] = ("grid",)
    extra: str = ""
    packages: Sequence[str] = ()
    area: Callable[[str, np.ndarray], Area | None] = _whole_picture

    def require_packages(self, encoder: str) -> None:
        """Raise DataError, with the command that installs it, if a package is missing."""
        modules = {package: package.replace("-", "_") for package in self.packages}
        if missing := [
            package for package in modules if not importlib.util.find_spec(modules[package])
        ]:
            pronoun = "it" if len(missing) == 1 else "them"
            raise DataError(
                f"encoder {encoder!r} needs {' and '.join(missing)}, expected {pronoun} to be"
                f" installed; {install(self.extra)} installs {pronoun}"
            )


def split_options(name: str, known: Sequence[str]) -> tuple[str, dict[str, str]]:
    """``"onnx:a.onnx:size=64:std=0.5"`` as ``"onnx:a.onnx"`` and ``{"size": "64", "std": "0.5"}``.

    DataError : an option is unknown, or given twice.
    """
    rest = name
    options = {}
    while match := OPTION.fullmatch(rest):
        rest, key, value = match.groups()
        if key not in known:
            raise DataError(
                f"encoder {name!r}: option {key!r} does not exist, expected {one_of(known, key)}"
            )
        if key in options:
            raise DataError(f"encoder {name!r} gives {key} twice, expected each option once")
        options[key] = value
    return rest, {key: options[key] for key in known if key in options}


def encoder_name(name: str, **options: object) -> str:
    """An encoder's name with its options, as ``histogram:grid=3``, without those that are None."""
    texts = (f"{key}={value}" for key, value in options.items() if value is not None)
    return ":".join((name, *texts))


def same_encoder(a: str | None, b: str | None) -> bool:
    """True if two names, as data sets store them, mean the same encoder.

    The paths of ONNX files with equal digests may differ, since a file may have moved.
    """
    (_, a_options), (_, b_options) = (onnx_parts(name or "") for name in (a, b))
    return a == b or (a_options == b_options and "".join(a_options[-1:]).startswith("sha256="))


def onnx_parts(name: str) -> tuple[str, list[str]]:
    """The file of ``onnx:FILE`` and its options, unchecked; empty for another encoder."""
    kind, *parts = name.split(":")
    options = [*itertools.takewhile(lambda part: "=" in part, reversed(parts[1:]))]
    files = parts[: len(parts) - len(options)]
    return (":".join(files), options[::-1]) if kind == "onnx" else ("", [])


def in_folder(name: str, folder: Path = Path()) -> str:
    """The name ``onnx:FILE`` with FILE moved to a folder (default: none); other names unchanged."""
    file, options = onnx_parts(name)
    # Windows paths accept the separators of all systems
    path = folder / PureWindowsPath(file).name
    return ":".join(("onnx", str(path), *options)) if file else name


def require_digest(encoder: str, digest: str, wanted: str | None) -> str:
    """The first digits of a digest, for an encoder's name. DataError : they are not `wanted`."""
    thing = f"encoder {encoder!r}"
    if wanted is not None and len(wanted) < MIN_DIGITS:
        raise DataError(
            f"{thing} asks for the SHA-256 {wanted!r}, expected at least its first {MIN_DIGITS}"
            " digits"
        )
    if wanted is not None and not digest.startswith(wanted):
        raise DataError(
            f"{thing} has weights whose SHA-256 starts {digest[:DIGITS]}, expected"
            f" {wanted[:DIGITS]!r}; replaced since the features were made?"
        )
    return digest[:DIGITS]


@contextlib.contextmanager
def telemetry_off() -> Iterator[None]:
    """A context for an import: turn off the package's telemetry for the life of the process.

    ``os.environ`` is restored afterwards.
    """
    with _environment:
        before = {name: os.environ[name] for name in TELEMETRY if name in os.environ}
        os.environ.update(dict.fromkeys(TELEMETRY, "1"))
        try:
            yield
        finally:
            for name in TELEMETRY:
                del os.environ[name]
            os.environ.update(before)
