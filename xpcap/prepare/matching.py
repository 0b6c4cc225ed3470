"""Lookup of captioned pictures: a name as it stands, its last part, its last part in a folder inside, or the one file that is spelt alike.

A name that leads to no picture may be near to that of one: without its suffix, with blanks for underscores, with a slip of the pen.
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
from xpcap.prepare.features import leads_out, stay_in

LIKE = 0.85  # least ratio of letters in common of two names that differ by a slip of the pen
TRIED = 10  # names for which slips of the pen are looked for
COMPARED = 10_000  # names that each of them is compared with
_SUFFIX, _ZEROS, _NO_DIGITS = re.compile(r"(?<=.)\.[a-z]\w{1,4}$"), re.compile(r"(?<!\d)0+(?=\d)"), re.compile(r"\D+")


class Places(NamedTuple):
    """The result of a lookup of names."""

    found: dict[str, str]  # name to what it is called there
    respelt: dict[str, str]  # those of them whose spelling is another, by capitals or by the form of Unicode
    near: dict[str, str]  # of names that were not found: what is there under nearly that name


def find_all(where: str, names: Sequence[str], known: "Files | Collection[str]") -> Places:
    """Look names up in a folder, or among names.

    ``photos/a.jpg`` is also found as ``a.jpg``. In a folder, ``a.jpg`` is also found in a folder inside, if one alone has it; of several, the one
    that lies highest. Last, a name is taken for the one that differs by capitals or by the form of Unicode (``ü`` as one sign or as two), if there
    is one such alone and no other name leads to it.

    Raises
    ------
    DataError : a name leads out of the folder, or two names lead to one picture.
    """
    if isinstance(known, Files):
        stay_in(where, known.folder, names)
    found: dict[str, str] = {}
    owner: dict[str, str] = {}
    for name in names:
        last = PurePosixPath(name).name
        called = name if name in known else last if last in known else known.below(last) if isinstance(known, Files) else None
        if called is None:
            continue
        if owner.setdefault(called, name) != name:
            raise DataError(f"{where}: {owner[called][:100]!r} and {name[:100]!r} both lead to {called[:100]!r}, expected a picture for each name")
        found[name] = called
    lost = [name for name in names if name not in found]
    if not lost:
        return Places(found, {}, {})
    there = known.pictures() if isinstance(known, Files) else known
    respelt = _respelt(lost, there, owner)
    return Places({**found, **respelt}, respelt, _near([name for name in lost if name not in respelt], there))


def picture_folder(where: str, folder: str | Path) -> Path:
    """The folder of pictures as a path. DataError : it is none."""
    if not (path := Path(folder)).is_dir():
        raise DataError(f"{where}: {path} is no folder, expected the one that holds the pictures")
    return path


class Files:
    """The files of a folder, and of the folders in it.

    Raises
    ------
    DataError : it is no folder. OSError : it cannot be read.
    """

    def __init__(self, where: str, folder: str | Path) -> None:
        self.folder = folder = picture_folder(where, folder)
        self.top = {path.name for path in folder.iterdir() if not path.is_dir()}
        self.inside: Found = search_folder(folder)
        heights: dict[str, dict[int, list[Path]]] = defaultdict(lambda: defaultdict(list))  # name to depth to files
        for path in (*self.inside.pictures, *self.inside.others):
            if path.parent != folder:
                heights[path.name][len(path.parts)].append(path)
        self._below = {name: paths[0] for name, by_depth in heights.items() if len(paths := by_depth[min(by_depth)]) == 1}

    def __contains__(self, name: object) -> bool:
        if name in self.top:
            return True
        try:
            return "/" in str(name) and not leads_out(str(name)) and (self.folder / str(name)).is_file()
        except OSError:  # a name that no file can have
            return False

    def below(self, name: str) -> str | None:
        """The path, from this folder on, of the file of that name in the folders inside; None if there is none, or none that is meant."""
        path = self._below.get(name)
        return self._called(path) if path is not None and path.is_file() else None

    def pictures(self) -> list[str]:
        """Paths of all pictures, from this folder on."""
        return [self._called(path) for path in self.inside.pictures]

    def without_captions(self, used: Iterable[str]) -> tuple[list[str], list[str]]:
        """Pictures that are not among the used ones: those directly in the folder, and those in folders inside, in their order."""
        known = set(used)
        left = [name for name in self.pictures() if name not in known]
        return [name for name in left if "/" not in name], [name for name in left if "/" in name]

    def others(self, used: Iterable[str]) -> list[Path]:
        """Files that are no pictures by their names, and are not among the used ones."""
        known = set(used)
        return [path for path in self.inside.others if self._called(path) not in known]

    def _called(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def _respelt(lost: Sequence[str], there: Iterable[str], taken: Collection[str]) -> dict[str, str]:
    """Lost names and the one thing there that differs by capitals or the form of Unicode alone, where that is theirs alone."""
    spelt: dict[str, list[str]] = defaultdict(list)
    for called in there:
        spelt[_spelling(_last(called))].append(called)
    meant: dict[str, str] = {}
    for name in lost:
        alike = spelt.get(_spelling(_last(name)), [])
        whole = [called for called in alike if _spelling(called) == _spelling(name)]
        if len(chosen := whole or alike) == 1 and chosen[0] not in taken:
            meant[name] = chosen[0]
    claims = Counter(meant.values())
    return {name: called for name, called in meant.items() if claims[called] == 1}


def _near(lost: Sequence[str], there: Collection[str]) -> dict[str, str]:
    """Lost names and what is there under nearly that name: of the same letters and numbers; for the first few, also of nearly those letters."""
    cores: dict[str, list[str]] = defaultdict(list)
    numbers: dict[str, list[str]] = defaultdict(list)  # the digits of a name, which no slip of the pen changes, to cores
    for called in there:
        core = _core(called)
        cores[core].append(called)
        numbers[_NO_DIGITS.sub("", core)].append(core)
    near = {name: " or ".join(cores[core][:2]) for name in lost if (core := _core(name)) and core in cores}
    for name in [name for name in lost if name not in near][:TRIED]:
        core = _core(name)
        same = [other for other in numbers.get(_NO_DIGITS.sub("", core), [])[:COMPARED] if abs(len(other) - len(core)) <= 2]
        if close := difflib.get_close_matches(core, same, n=1, cutoff=LIKE):
            near[name] = cores[close[0]][0]
    return near


def _last(name: str) -> str:
    """The last part of a path."""
    return name.rstrip("/").rpartition("/")[2]


def _spelling(name: str) -> str:
    """A name without capitals, in one form of Unicode."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _core(name: str) -> str:
    """The letters and numbers of a file's name, without folders, suffix, accents, and zeros before a number."""
    stem = _SUFFIX.sub("", _last(name.replace("\\", "/")).casefold())
    plain = "".join(filter(str.isalnum, unicodedata.normalize("NFKD", stem)))
    return _ZEROS.sub("", plain)
