"""Match the names of captions with picture files, or with names of features.

A name is matched as it stands, by its last part, by its last part in a subfolder, or with the one
file spelt alike. For others, a near name is suggested: without its suffix, with blanks for
underscores, with a typo.
"""

import difflib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from xpcap.encoders.finding import Found, search_folder
from xpcap.errors import DataError
from xpcap.prepare.features import escapes, require_inside

LEAST_RATIO = 0.85  # of letters in common of two names that differ by a typo
MOST_UNMATCHED = 10  # unmatched names that are compared for typos
MOST_COMPARED = 10_000  # names that each of them is compared with
_SUFFIX = re.compile(r"(?<=.)\.[a-z]\w{1,4}$")
_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
_NO_DIGITS = re.compile(r"\D+")


class Matches(NamedTuple):
    """Names in captions and the names that match them in a folder, or among features."""

    found: dict[str, str]  # name to its match
    normalised: dict[str, str]  # matches of `found` that differ in capitals or Unicode form
    suggestions: dict[str, str]  # unmatched names to suggestions


def match_names(
    where: str, names: Sequence[str], known: "PictureFolder | Collection[str]"
) -> Matches:
    """Match names with the files of a folder, or with other names.

    ``photos/a.jpg`` also matches ``a.jpg``. In a folder, ``a.jpg`` also matches the one in a
    subfolder; of several, the highest one. Last, a name matches the one file that differs from
    it in capitals or Unicode form (``ü`` as one sign or as two), unless another name does.

    Raises
    ------
    DataError : a name leads out of the folder, or two names lead to one picture.
    """
    folder = known if isinstance(known, PictureFolder) else None
    if folder is not None:
        require_inside(where, folder.path, names)
    found: dict[str, str] = {}
    owner: dict[str, str] = {}
    for name in names:
        last = PurePosixPath(name).name
        called: str | None = None
        if name in known:
            called = name
        elif last in known:
            called = last
        elif folder is not None:
            called = folder.below(last)
        if called is None:
            continue
        if (other := owner.setdefault(called, name)) != name:
            raise DataError(
                where,
                f"{other[:100]!r} and {name[:100]!r}",
                f"both lead to {called[:100]!r}",
                expected="a picture for each name",
            )
        found[name] = called
    unmatched = [name for name in names if name not in found]
    if not unmatched:
        return Matches(found, {}, {})
    there = known.pictures() if isinstance(known, PictureFolder) else known
    normalised = _match_normalised(unmatched, there, owner)
    suggestions = _suggest([name for name in unmatched if name not in normalised], there)
    return Matches({**found, **normalised}, normalised, suggestions)


def picture_folder(where: str, folder: str | Path) -> Path:
    """The folder of pictures as a path. DataError : it is none."""
    if not (path := Path(folder)).is_dir():
        raise DataError(where, path, "is no folder", expected="the one that holds the pictures")
    return path


class PictureFolder:
    """The files of a folder and its subfolders.

    Raises
    ------
    DataError : it is no folder. OSError : it cannot be read.
    """

    def __init__(self, where: str, folder: str | Path) -> None:
        self.path = folder = picture_folder(where, folder)
        self.top = {path.name for path in folder.iterdir() if not path.is_dir()}
        self.inside: Found = search_folder(folder)
        heights: dict[str, dict[int, list[Path]]]  # name to depth to files
        heights = defaultdict(lambda: defaultdict(list))
        for path in (*self.inside.pictures, *self.inside.others):
            if path.parent != folder:
                heights[path.name][len(path.parts)].append(path)
        highest = {name: by_depth[min(by_depth)] for name, by_depth in heights.items()}
        self._below = {name: paths[0] for name, paths in highest.items() if len(paths) == 1}

    def __contains__(self, name: object) -> bool:
        if name in self.top:
            return True
        try:
            path = str(name)
            return "/" in path and not escapes(path) and (self.path / path).is_file()
        except OSError:  # a name that no file can have
            return False

    def below(self, name: str) -> str | None:
        """The relative path of the one highest file of that name in the subfolders, if any."""
        path = self._below.get(name)
        return self._called(path) if path is not None and path.is_file() else None

    def pictures(self) -> list[str]:
        return [self._called(path) for path in self.inside.pictures]

    def without_captions(self, used: Iterable[str]) -> tuple[list[str], list[str]]:
        """Pictures that are not used: directly in the folder, and in subfolders."""
        known = set(used)
        left = [name for name in self.pictures() if name not in known]
        return [name for name in left if "/" not in name], [name for name in left if "/" in name]

    def others(self, used: Iterable[str]) -> list[Path]:
        """Files not named as pictures are, and not used."""
        known = set(used)
        return [path for path in self.inside.others if self._called(path) not in known]

    def _called(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()


def _match_normalised(
    unmatched: Sequence[str], there: Iterable[str], taken: Collection[str]
) -> dict[str, str]:
    """Names to the one unmatched name that differs only in capitals or Unicode form."""
    spelt: dict[str, list[str]] = defaultdict(list)
    for called in there:
        spelt[_spelling(_last(called))].append(called)
    meant: dict[str, str] = {}
    for name in unmatched:
        alike = spelt.get(_spelling(_last(name)), [])
        whole = [called for called in alike if _spelling(called) == _spelling(name)]
        if len(chosen := whole or alike) == 1 and chosen[0] not in taken:
            meant[name] = chosen[0]
    claims = Counter(meant.values())
    return {name: called for name, called in meant.items() if claims[called] == 1}


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
    for name in [name for name in unmatched if name not in suggestions][:MOST_UNMATCHED]:
        core = _core(name)
        others = numbers.get(_NO_DIGITS.sub("", core), [])[:MOST_COMPARED]
        alike = [other for other in others if abs(len(other) - len(core)) <= 2]
        if close := difflib.get_close_matches(core, alike, n=1, cutoff=LEAST_RATIO):
            suggestions[name] = cores[close[0]][0]
    return suggestions


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


def _spelling(name: str) -> str:
    """The name without capitals, in one Unicode form."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _core(name: str) -> str:
    """Letters and numbers of a file's name: no folder, suffix, accents or leading zeros."""
    stem = _SUFFIX.sub("", _last(name.replace("\\", "/")).casefold())
    plain = "".join(filter(str.isalnum, unicodedata.normalize("NFKD", stem)))
    return _ZEROS.sub("", plain)
