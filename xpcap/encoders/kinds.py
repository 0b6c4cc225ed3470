"""Kinds of encoders: what a name asks for, and what is known of an encoder that is not built."""

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
from xpcap.errors import DataError, install, unknown

OPTION = re.compile(r"(.*):(\w+)=([^:]*)", re.DOTALL)
DIGITS = 16  # of a SHA-256 digest that a name holds: enough to tell weights apart
MIN_DIGITS = 4  # of one that is asked for
# ONNX Runtime and timm's Hub client read theirs once, when they are imported
TELEMETRY = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")
_environment = threading.Lock()


class Encoder(Protocol):
    """Turns pictures into features."""

    @property
    def name(self) -> str:
        """Stored with a data set, to encode new pictures the same way: of other weights, another."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(D,), or (K*K, D) for a grid."""

    def encode(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        """Encode pictures, each (height, width, 3) uint8 RGB of any size, as features (n, *shape),
        float32.

        Several threads may call it at a time, each with pictures of its own. ValueError : an array
        has another shape. TypeError : another dtype.
        """


def _whole_picture(name: str, picture: np.ndarray) -> Area | None:
    return WHOLE_PICTURE


class EncoderSpec(NamedTuple):
    """The description of an encoder in its file: all that the package knows before it is built.

    name : of the encoder; or of one of many, as ``timm:MODEL``
    build : makes the encoder of a name without options, and of these by keyword; the grid is a
        number or None
    licence : of its weights, as their package states it
    help : what pictures it is for, and how many numbers its features have
    options : what may follow the name, as ``:grid=3``
    extra : of this package, which installs what it needs
    packages : what it needs, as named on PyPI
    area : the part of a picture (height, width, 3), uint8, that the grid of an encoder of a full
        name lies over; None: it is not known
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
            them = "it" if len(missing) == 1 else "them"
            got, expected = f"needs {' and '.join(missing)}", f"{them} to be installed"
            cause = f"{install(self.extra)} installs {them}"
            raise DataError("find_encoder", f"encoder {encoder!r}", got, expected, cause)


def split_options(name: str, known: Sequence[str]) -> tuple[str, dict[str, str]]:
    """``"onnx:a.onnx:size=64:std=0.5"`` as ``"onnx:a.onnx"`` and ``{"size": "64", "std": "0.5"}``.

    DataError : an option that is not among the `known`, or given twice.
    """
    rest, options = name, {}
    while match := OPTION.fullmatch(rest):
        rest, key, value = match.groups()
        if key not in known:
            raise unknown("find_encoder", f"encoder {name!r}: option", key, known, DataError)
        if key in options:
            got = f"gives {key} twice"
            raise DataError("find_encoder", f"encoder {name!r}", got, expected="it once")
        options[key] = value
    return rest, {key: options[key] for key in known if key in options}


def encoder_name(name: str, **options: object) -> str:
    """An encoder's name with its options, as ``histogram:grid=3``; None is left out."""
    given = (f"{key}={value}" for key, value in options.items() if value is not None)
    return ":".join((name, *given))


def same_encoder(a: str | None, b: str | None) -> bool:
    """True if two names, as data sets store them, are of one encoder.

    An ONNX file may have moved: of two files with one digest, the paths do not count.
    """
    (_, options), (_, others) = (onnx_parts(name or "") for name in (a, b))
    return a == b or (options == others and "".join(options[-1:]).startswith("sha256="))


def onnx_parts(name: str) -> tuple[str, list[str]]:
    """The file of ``onnx:FILE`` and its options, unchecked; of another encoder there are none."""
    kind, *parts = name.split(":")
    options = [*itertools.takewhile(lambda part: "=" in part, reversed(parts[1:]))]
    files = parts[: len(parts) - len(options)]
    return (":".join(files), options[::-1]) if kind == "onnx" else ("", [])


def in_folder(name: str, folder: Path = Path()) -> str:
    """The name of ``onnx:FILE`` with FILE in another folder, by default in none; others stay."""
    file, options = onnx_parts(name)
    # Windows' rules also know the separator of other systems
    path = folder / PureWindowsPath(file).name
    return ":".join(("onnx", str(path), *options)) if file else name


def require_digest(encoder: str, digest: str, wanted: str | None) -> str:
    """The first digits of a digest, for an encoder's name. DataError : not those `wanted`."""
    thing = f"encoder {encoder!r}"
    if wanted is not None and len(wanted) < MIN_DIGITS:
        got, expected = (
            f"asks for the SHA-256 {wanted!r}",
            f"its first {MIN_DIGITS} digits or more",
        )
        raise DataError("find_encoder", thing, got, expected)
    if wanted is not None and not digest.startswith(wanted):
        got = f"has weights whose SHA-256 starts {digest[:DIGITS]}"
        cause = "replaced since the features were made?"
        raise DataError("find_encoder", thing, got, f"{wanted[:DIGITS]!r}", cause)
    return digest[:DIGITS]


@contextlib.contextmanager
def telemetry_off() -> Iterator[None]:
    """A context for an import: the package's telemetry stays off for the life of the process.

    Afterwards ``os.environ`` is as before.
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
