"""Features for importers: read from an .npz, or encoded from a folder of pictures. Either is a mapping of picture to feature (D,)."""

import sys
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path, PurePath

import numpy as np

from xpcap.data.dataset import check_finite
from xpcap.data.npz import read_npz
from xpcap.encoders import Encoder, read_picture
from xpcap.errors import DataError
from xpcap.progress import bar


def read_features(path: str | Path) -> dict[str, np.ndarray]:
    """Picture name to feature (D,), from an .npz with ``names`` (m,) and ``features`` (m, D).

    Features are rows of one array, float16 or float32; float64 becomes float32.

    Raises
    ------
    DataError : not an .npz, other arrays, names that do not match the rows, or a value that is not finite. OSError : it cannot be opened.
    """
    path = Path(path)
    names, features = read_npz(path, ("names", "features"))
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise DataError(f"read_features: {path}, 'names' has shape {names.shape} and dtype {names.dtype}, expected (m,) of text")
    features = features.astype(features.dtype.newbyteorder("="), copy=False)
    if features.ndim != 2 or features.shape[1] < 1 or features.dtype not in (np.float16, np.float32, np.float64):
        raise DataError(
            f"read_features: {path}, 'features' has shape {features.shape} and dtype {features.dtype}, expected (m, D) of floats, D at least 1"
        )
    if len(names) != len(features):
        raise DataError(f"read_features: {path} has {len(names)} names for {len(features)} feature rows, expected one each")
    rows: dict[str, int] = {}
    for row, name in enumerate(_texts(path, names)):  # stops at the first double: a small archive may repeat one name millions of times
        if rows.setdefault(name, row) != row:
            raise DataError(f"read_features: {path} names a picture twice among {len(names):,}, {name[:100]!r}, expected each once")
    check_finite(f"read_features: {path}", features, list(rows))
    return dict(zip(rows, features.astype(np.float32) if features.dtype == np.float64 else features, strict=True))


def encode_folder(
    folder: str | Path, names: Sequence[str], encoder: Encoder, progress: bool = False, skipped: dict[str, str] | None = None
) -> dict[str, np.ndarray]:
    """Picture name to feature (D,), for the pictures called `names` in a folder.

    `skipped` takes the pictures that cannot be read, and why; None: the first of them is an error.

    Raises
    ------
    DataError : a picture is missing, cannot be read, or would lie outside the folder.
    """
    folder = Path(folder)
    stay_in("encode_folder", folder, names)
    covered("encode_folder", names, {name for name in names if _exists(folder / name)}, f"file in {folder}")  # before the slow part
    features = encoder.encode(_readable(folder, bar(names, progress, "encoding pictures"), skipped))
    return dict(zip((name for name in names if name not in (skipped or {})), features, strict=True))


def _readable(folder: Path, names: Iterable[str], skipped: dict[str, str] | None) -> Iterator[np.ndarray]:
    for name in names:
        try:
            picture = read_picture(folder / name)
        except DataError as error:
            if skipped is None:
                raise
            skipped[name] = str(error).removeprefix("read_picture: ")
            continue
        yield picture


def covered(where: str, pictures: Sequence[str], known: Container[str], thing: str) -> None:
    """DataError : some of the `pictures` are not among the `known`; they lack a `thing`."""
    if missing := [picture for picture in pictures if picture not in known]:
        raise DataError(
            f"{where}: {len(missing)} of {len(pictures)} pictures have no {thing}, {missing[0][:100]!r} among them; do the files belong together?"
        )


def leads_out(name: str, kind: type[PurePath] = PurePath) -> bool:
    """Whether a name, read as a path, could lead out of the folder that it is looked up in."""
    path = kind(name)
    return bool(path.anchor) or ".." in path.parts or "\0" in name


def stay_in(where: str, folder: Path, names: Iterable[str]) -> None:
    """DataError : one of the names could lead out of the folder."""
    if astray := next((name for name in names if leads_out(name)), None):
        raise DataError(f"{where}: picture {astray[:100]!r} would lie outside {folder}, expected the name of a file in it; who wrote the list?")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _texts(path: Path, names: np.ndarray) -> Iterator[str]:
    if names.dtype.kind == "U" and (most := int(names.view(f"{names.dtype.byteorder}u4").max(initial=0))) > sys.maxunicode:
        raise DataError(f"read_features: {path}, 'names' holds a character of number {most:,}, expected at most {sys.maxunicode:,}; damaged?")
    for name in names:
        yield name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else str(name)
