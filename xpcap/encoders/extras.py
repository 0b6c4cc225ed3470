"""Checks that encoders share: packages, options in a name, digests of weights, telemetry."""

import contextlib
import importlib.util
import os
import re
import threading
from collections.abc import Collection, Iterator

from xpcap.errors import DataError, install, unknown

OPTION = re.compile(r"(.*):(\w+)=([^:]*)", re.DOTALL)
DIGITS = 16  # of a SHA-256 digest that a name holds: enough to tell weights apart
# ONNX Runtime and timm's Hub client read theirs once, when they are imported
TELEMETRY = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")
_environment = threading.Lock()


@contextlib.contextmanager
def telemetry_off() -> Iterator[None]:
    """A context for an import: the package's telemetry stays off for the life of the process.

    Afterwards ``os.environ`` is as before.
    """
    with _environment:
        before = {name: os.environ.get(name) for name in TELEMETRY}
        os.environ.update(dict.fromkeys(TELEMETRY, "1"))
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def require(encoder: str, extra: str, *packages: str) -> None:
    """DataError : a package of an extra, named as on PyPI, is missing; with the command for it."""
    if missing := [
        package
        for package in packages
        if importlib.util.find_spec(package.replace("-", "_")) is None
    ]:
        them = "it" if len(missing) == 1 else "them"
        raise DataError(
            "find_encoder",
            f"encoder {encoder!r}",
            f"needs {' and '.join(missing)}",
            expected=f"{them} to be installed",
            cause=f"{install(extra)} installs {them}",
        )


def split_options(name: str, known: Collection[str]) -> tuple[str, dict[str, str]]:
    """``"onnx:a.onnx:size=64:std=0.5"`` as ``"onnx:a.onnx"`` and ``{"size": "64", "std": "0.5"}``.

    DataError : an option that is not among the `known`, or given twice.
    """
    rest, options = name, {}
    while match := OPTION.fullmatch(rest):
        rest, key, value = match.groups()
        if key not in known:
            raise unknown("find_encoder", f"encoder {name!r}: option", key, known, DataError)
        if key in options:
            raise DataError(
                "find_encoder", f"encoder {name!r}", f"gives {key} twice", expected="it once"
            )
        options[key] = value
    return rest, options


def require_digest(encoder: str, digest: str, wanted: str | None) -> str:
    """The first digits of a digest, for an encoder's name. DataError : not as `wanted`."""
    if wanted is not None and digest[:DIGITS] != wanted:
        raise DataError(
            "find_encoder",
            f"the weights of encoder {encoder!r}",
            f"have a SHA-256 that starts {digest[:DIGITS]}",
            expected=f"{wanted[:DIGITS]!r}",
            cause="replaced since the features were made?",
        )
    return digest[:DIGITS]
