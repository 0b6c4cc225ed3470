"""Match the names of captions with picture files, or with names of features.

A name is matched as it stands; as a path, ``a/b.jpg`` for ``.\\a\\b.jpg``; by its last part; and, without regard to
capitals and Unicode form, whole and by its last part. For others, a near name is suggested: without
its suffix, with blanks for underscores, with a typo.
"""

import difflib
import os
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from xpcap.encoders.finding import search_folder
from xpcap.errors import DataError
from xpcap.files import is_text
from xpcap.prepare.text import with_slashes

MIN_RATIO = 0.85  # of letters in common of two names that differ by a typo
MAX_UNMATCHED = 10  # unmatched names that are compared for typos
MAX_COMPARED = 10_000  # names that each of them is compared with
_SUFFIX = re.compile(r"(?<=.)\.[a-z]\w{1,4}$")
_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
_NO_DIGITS = re.compile(r"\D+")


class Matches(NamedTuple):
    """Names in captions and the names that match them in a folder, or among features."""

    matches: dict[str, str]  # name to its match
    moved: list[str]  # names in `matches` whose match is not in the folder that they name
    normalised: list[str]  # names in `matches` that differ in capitals or Unicode form
    suggestions: dict[str, str]  # unmatched names to suggestions


class PictureFolder:
    """The names of all files in a folder and its subfolders; links may lead to further ones.

    Pictures whose names are no text are not among `pictures`, but `unnamed`: no data set holds them.

    DataError : it is not a folder, or cannot be read; or the names are text, in an encoding that the
        locale does not have.
    """

    def __init__(self, caller: str, folder: str | Path) -> None:
        self.path = picture_folder(caller, folder)
        files = search_folder(caller, self.path)
        self.unreadable = files.unreadable
        pictures, self.others = (
            [path.relative_to(self.path).as_posix() for path in paths]
            for paths in (files.pictures, files.others)
        )
        self.unnamed = [name for name in pictures if not is_text(name)]
        if self.unnamed and (encoding := sys.getfilesystemencoding()) != "utf-8":
            name = os.fsencode(self.unnamed[0]).decode("utf-8", "backslashreplace")
            got = f"has a name that this locale's encoding, {encoding}, cannot hold"
            cause = "set PYTHONUTF8=1, or LC_ALL=C.UTF-8"
            raise DataError(caller, f"picture {name[:100]!a}", got, "UTF-8", cause)
        self.pictures = [name for name in pictures if is_text(name)]

    def leads_to(self, name: str) -> bool:
        """True if a name leads to a file that the search left out: hidden, or behind a link."""
        try:
            unsearched = "/" in name or name.startswith(".")
            return unsearched and not escapes(name) and (self.path / name).is_file()
        except OSError:  # a name that no file can have
            return False


def match_names(
    caller: str, names: Sequence[str], known: PictureFolder | Collection[str]
) -> Matches:
    """Match names with the files of a folder, or with other names.

    ``photos/a.jpg`` also matches ``a.jpg``, and ``a.jpg`` the one in a subfolder; of several, the
    highest one. Last, a name matches the one that differs from it in capitals or Unicode form
    (``ü`` as one sign or as two), unless another name does.

    DataError : a name leads out of the folder, or two names lead to one picture.
    """
    folder = None
    likely = there = [*known] if not isinstance(known, PictureFolder) else known.pictures
    if isinstance(known, PictureFolder):
        folder, there = known, [*likely, *known.others]
        require_inside(caller, known.path, map(with_slashes, names))
    matches: dict[str, str] = {}
    owner: dict[str, str] = {}
    normalised: set[str] = set()
    for key in (str, _path, _last, _spelling, lambda name: _last(_spelling(name))):
        if not (left := [name for name in names if name not in matches]):
            break
        index = defaultdict(list)
        for called in there:
            index[key(called)].append(called)
        matched: dict[str, str] = {}
        for name in left:
            candidates = index.get(key(name), [])
            if key is str and folder is not None and not candidates and folder.leads_to(name):
                candidates = [_path(name)]
            if key is _last:
                candidates = _highest(candidates)
            if len(candidates) == 1:
                matched[name] = candidates[0]
        if key not in (str, _path, _last):
            claims = Counter(matched.values())
            matched = {
                name: called
                for name, called in matched.items()
                if claims[called] == 1 and called not in owner
            }
            normalised |= matched.keys()
        for name, called in matched.items():
            if (other := owner.setdefault(called, name)) != name:
                got = f"both lead to {called[:100]!r}"
                expected = "a picture for each name"
                raise DataError(caller, f"{other[:100]!r} and {name[:100]!r}", got, expected)
        matches |= matched
    base = "" if folder is None else folder.path.resolve().as_posix()
    return Matches(
        {name: matches[name] for name in names if name in matches},
        [name for name in names if name in matches and _is_moved(name, f"{base}/{matches[name]}")],
        [name for name in names if name in normalised],
        _suggest([name for name in names if name not in matches], likely),
    )


def picture_folder(caller: str, folder: str | Path) -> Path:
    """The folder of pictures as a path. DataError : not a folder."""
    if not (path := Path(folder)).is_dir():
        raise DataError(caller, path, "is not a folder", expected="the one that holds the pictures")
    return path


def escapes(name: str, kind: type[PurePath] = PurePath) -> bool:
    """True if a name, read as a path, could lead out of its folder."""
    path = kind(name)
    return bool(path.anchor) or ".." in path.parts or "\0" in name


def require_inside(caller: str, folder: Path, names: Iterable[str]) -> None:
    """Raise DataError if one of the names could lead out of the folder."""
    if astray := next((name for name in names if escapes(name)), None):
        got = f"would lie outside {folder}"
        expected = "the name of a file in it"
        raise DataError(caller, f"picture {astray[:100]!r}", got, expected, "who wrote the list?")


def _highest(candidates: Sequence[str]) -> list[str]:
    """The candidates in the fewest folders."""
    least = min((name.count("/") for name in candidates), default=0)
    return [name for name in candidates if name.count("/") == least]


def _is_moved(name: str, path: str) -> bool:
    """True if a path, whatever its capitals, does not end in the folders that a name begins with."""
    return not f"/{_spelling(path)}".endswith(f"/{_spelling(name)}")


def _suggest(unmatched: Sequence[str], there: Collection[str]) -> dict[str, str]:
    """Names to those of equal numbers and letters, or, for the first few, nearly equal letters."""
    cores: dict[str, list[str]] = defaultdict(list)
    numbers: dict[str, list[str]] = defaultdict(list)  # the digits of a name to its cores
    for called in there:
        core = _core(called)
        cores[core].append(called)
        numbers[_NO_DIGITS.sub("", core)].append(core)
    suggestions = {}
    for name in unmatched:
        if (core := _core(name)) and core in cores:
            suggestions[name] = " or ".join(cores[core][:2])
    for name in [name for name in unmatched if name not in suggestions][:MAX_UNMATCHED]:
        core = _core(name)
        others = numbers.get(_NO_DIGITS.sub("", core), [])[:MAX_COMPARED]
        alike = [other for other in others if abs(len(other) - len(core)) <= 2]
        if close := difflib.get_close_matches(core, alike, n=1, cutoff=MIN_RATIO):
            suggestions[name] = cores[close[0]][0]
    return suggestions


def _path(name: str) -> str:
    """The name as a path without empty parts and dots: ``a/b.jpg`` for ``./a//b.jpg``."""
    return "/".join(part for part in with_slashes(name).split("/") if part not in {"", "."})


def _last(name: str) -> str:
    return _path(name).rpartition("/")[2]


def _spelling(name: str) -> str:
    """The name without capitals, in one Unicode form."""
    composed = unicodedata.normalize("NFC", _path(name))
    return unicodedata.normalize("NFC", composed.casefold())


def _core(name: str) -> str:
    """Letters and numbers of a file's name: no folder, suffix, accents or leading zeros."""
    stem = _SUFFIX.sub("", _last(name).casefold())
    plain = "".join(filter(str.isalnum, unicodedata.normalize("NFKD", stem)))
    return _ZEROS.sub("", plain)
