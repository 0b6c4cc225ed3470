"""Match names of pictures, as people write them, with files or features. Open it at `RULES`.

Captions, lists of splits, features and captions to score are all matched by `NameIndex`. Pages find
their pictures by `path_inside`.
"""

import difflib
import itertools
import os
import re
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from xpcap.encoders.finding import SUFFIXES, search_folder
from xpcap.errors import DataError
from xpcap.files.read_write import is_text
from xpcap.prepare.rows import ImportReport

MAX_PARTS = 16  # last parts of a path that are compared
MIN_RATIO = 0.85  # similarity of two names that differ by a typo
MAX_UNMATCHED = 10  # unmatched names that are compared for typos
MAX_COMPARED = 1_000  # known names with which each of them is compared
MAX_LETTERS = 60  # of a name that is compared for typos
_SUFFIX = re.compile(r"(?<=.)\.[a-z]\w{1,4}$")
_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
_NO_DIGITS = re.compile(r"\D+")


def _path(name: str) -> str:
    """The name as a path: ``a/b.jpg`` for ``.\\a\\x\\..\\b.jpg`` and for ``/a//b.jpg``."""
    parts: list[str] = []
    for part in name.replace("\\", "/").split("/"):
        if part == ".." and parts:
            parts.pop()
        elif part not in {"", ".", ".."}:
            parts.append(part)
    return "/".join(parts[-MAX_PARTS:])


# Keys by which two paths are compared; an empty key matches nothing


def _spelling(path: str) -> str:
    """The path in lower case and one Unicode form."""
    composed = unicodedata.normalize("NFC", path)
    return unicodedata.normalize("NFC", composed.casefold())


def _stem(path: str) -> str:
    """The spelling without a picture's suffix."""
    stem, dot, suffix = (spelling := _spelling(path)).rpartition(".")
    return stem if dot + suffix in SUFFIXES else spelling


def _number(path: str) -> str:
    """A path that is a number, without leading zeros, as in COCO and spreadsheets; else ""."""
    return (path.lstrip("0") or "0") if path.isascii() and path.isdigit() else ""


def _last_number(path: str) -> str:
    """The number at the end of a picture's name."""
    stem = _stem(path.rpartition("/")[2])
    return "" if "." in stem else _number(stem[len(stem.rstrip("0123456789")) :])


class Rule(NamedTuple):
    """A way in which people name a picture.

    key, known_key : keys of a name and of a known path, which match if they are equal
    ends, known_ends : last parts of the name, or of the known path, may match too
    kind : kind of the match, if it is a loose one
    sure : any number of names may match a picture; else only one, and none if a sure one does
    files_only : not for names of features or of a split's pictures
    """

    key: Callable[[str], str]
    known_key: Callable[[str], str]
    ends: bool = False
    known_ends: bool = False
    kind: str = ""
    sure: bool = True
    files_only: bool = False


SPELT = "names matched despite other capitals, Unicode form or suffix"
MOVED = "names matched in another folder"
NUMBERED = "names matched by the number at the end"
RULES = (  # tried in this order
    Rule(str, str),
    Rule(str, str, known_ends=True),
    Rule(_spelling, _spelling, kind=SPELT),
    Rule(_spelling, _spelling, known_ends=True, kind=SPELT),
    Rule(_spelling, _stem, kind=SPELT),
    Rule(_spelling, _stem, known_ends=True, kind=SPELT),
    Rule(_spelling, _spelling, ends=True, kind=MOVED, sure=False),
    Rule(_spelling, _stem, ends=True, kind=MOVED, sure=False),
    Rule(_number, _last_number, kind=NUMBERED, sure=False),
    Rule(_stem, _stem, known_ends=True, kind=SPELT, sure=False, files_only=True),
    Rule(_spelling, _spelling, ends=True, known_ends=True, kind=MOVED, sure=False, files_only=True),
)


class Matches(NamedTuple):
    """Names, and the known names that they match.

    matches : name to known name; several names may match the same one by sure rules
    loose : kind of loose match to the names that it concerns
    unmatched : name to a reason, such as similar names; empty if nothing is similar
    """

    matches: dict[str, str]
    loose: dict[str, list[str]]
    unmatched: dict[str, str]

    def notice(self, report: ImportReport) -> None:
        """Report the loose matches."""
        for kind, names in self.loose.items():
            report.notice(kind, [f"{name[:100]} is {self.matches[name]}" for name in names])


class NameIndex:
    """Known names of pictures, with which others are matched.

    known : paths of files in a folder, or names of features or of a split's pictures
    folder : folder of the files; names may also lead to files in it that the search skipped, such as
        hidden ones
    """

    def __init__(self, known: Iterable[str], folder: Path | None = None) -> None:
        self.paths = {name: _path(name) for name in known if is_text(name)}
        self.roots = () if folder is None else roots_of(folder)
        self.spellings = {_spelling(path) for path in self.paths.values() if self.roots}

    def match(self, names: Iterable[str]) -> Matches:
        """Match names by the first rule that fits, if only one picture fits."""
        names = list(dict.fromkeys(names))
        meanings = {name: (name, RULES[0]) for name in names if name in self.paths}
        reasons = {name: "is not UTF-8 text" for name in names if not is_text(name)}
        pending = [name for name in names if name not in meanings and name not in reasons]
        paths = {name: self._path_in_folder(name) or _path(name) for name in pending}
        for rule in RULES:
            pending = [name for name in pending if name not in meanings and name not in reasons]
            if not pending or (rule.files_only and not self.roots):
                continue
            keys = {name: self._keys(rule, paths[name]) for name in pending}
            candidates: dict[str, list[str]] = {
                key: [] for name_keys in keys.values() for key in name_keys
            }
            sizes = {key.count("/") + 1 for key in candidates}
            for known, path in self.paths.items():
                for key in self._known_keys(rule, path, sizes):
                    pictures = candidates.get(key)
                    if pictures is not None and len(pictures) < 2 and known not in pictures:
                        pictures.append(known)
            for name, name_keys in keys.items():
                pictures = next((candidates[key] for key in name_keys if candidates[key]), [])
                if len(pictures) == 1:
                    meanings[name] = pictures[0], rule
                elif pictures:
                    reasons[name] = f"may be {pictures[0]} or {pictures[1]}"
        for name, rival in _rivals(meanings, paths).items():
            reasons[name] = f"may be {meanings.pop(name)[0]}, which {rival[:100]} names as well"
        reasons |= self._suggestions(
            [name for name in pending if name not in meanings and name not in reasons]
        )
        loose = defaultdict(list)
        for name, (_, rule) in meanings.items():
            if rule.kind:
                loose[rule.kind].append(name)
        return Matches(
            {name: meanings[name][0] for name in names if name in meanings},
            loose,
            {name: reasons.get(name, "") for name in names if name not in meanings},
        )

    def _path_in_folder(self, name: str) -> str | None:
        """The path in the folder, if the name leads to a file there."""
        path = path_inside(self.roots, name.replace("\\", "/"))
        if path is None or _spelling(path) in self.spellings:
            return path
        if not os.path.isfile(self.roots[0] / path):  # noqa: PTH113 - accepts names of any length
            return None
        self.paths[path] = path
        self.spellings.add(_spelling(path))
        return path

    def _keys(self, rule: Rule, path: str) -> list[str]:
        """The keys of a name, in the order in which they are looked up."""
        ends = self._ends(path) if rule.ends else [path]
        return [key for end in ends if (key := rule.key(end))]

    def _ends(self, path: str) -> Iterator[str]:
        """The path and its ends, down to an end whose folder exists."""
        while path:
            yield path
            folder = path.rpartition("/")[0]
            if folder and self.roots and os.path.isdir(f"{self.roots[0]}/{folder}"):  # noqa: PTH112
                return
            path = path.partition("/")[2]

    def _known_keys(self, rule: Rule, path: str, sizes: Collection[int]) -> list[str]:
        """The key of a known path, or of its ends with as many parts as the names' keys have."""
        if not rule.known_ends:
            return [rule.known_key(path)]
        paths = [rule.known_key(f"{root}/{path}").split("/") for root in self.roots or [""]]
        return ["/".join(parts[-n:]) for parts in paths for n in sizes if n <= len(parts)]

    def _suggestions(self, names: Iterable[str]) -> dict[str, str]:
        """Similar known names: equal letters and numbers, or, for the first names, a typo apart."""
        cores: dict[str, list[str]] = defaultdict(list)
        numbers: dict[str, list[str]] = defaultdict(list)  # the digits of a name to its cores
        for known in self.paths if names else ():
            if not self.roots or known.lower().endswith(SUFFIXES):
                core = _core(known)
                cores[core].append(known)
                numbers[_NO_DIGITS.sub("", core)].append(core)
        suggestions = {}
        compared = 0
        for name in names:
            core = _core(name)
            similar = cores.get(core, [])[:2] if core else []
            if (
                not similar
                and len(core) <= MAX_LETTERS
                and (compared := compared + 1) <= MAX_UNMATCHED
            ):
                candidates = [
                    candidate
                    for candidate in numbers.get(_NO_DIGITS.sub("", core), [])[:MAX_COMPARED]
                    if abs(len(candidate) - len(core)) <= 2
                ]
                close = difflib.get_close_matches(core, candidates, n=1, cutoff=MIN_RATIO)
                similar = [cores[match][0] for match in close]
            if similar:
                suggestions[name] = f"did you mean {' or '.join(similar)}?"
        return suggestions


def _rivals(meanings: Mapping[str, tuple[str, Rule]], paths: Mapping[str, str]) -> dict[str, str]:
    """Names that match a picture by an unsure rule, to another name that matches it as well."""
    spellings = {
        name: "" if rule.sure else _spelling(paths[name]) for name, (_, rule) in meanings.items()
    }
    owners: dict[str, dict[str, str]] = defaultdict(dict)  # picture: spelling ("" if sure): name
    for name, (known, _) in meanings.items():
        owners[known].setdefault(spellings[name], name)
    rivals = {}
    for name in filter(spellings.__getitem__, meanings):
        claims = owners[meanings[name][0]]
        first_two = [claim for claim in itertools.islice(claims, 2) if claim != spellings[name]]
        if claims.keys() != {spellings[name]}:
            rivals[name] = claims.get("") or claims[first_two[0]]
    return rivals


def _core(name: str) -> str:
    """Letters and numbers of a file's name: no folder, suffix, accents or leading zeros."""
    stem = _SUFFIX.sub("", _path(name).rpartition("/")[2].casefold())
    plain = "".join(filter(str.isalnum, unicodedata.normalize("NFKD", stem)))
    return _ZEROS.sub("", plain)


def roots_of(folder: Path) -> tuple[Path, ...]:
    """The absolute paths of a folder: as given, and with links resolved."""
    return Path(os.path.normpath(folder.absolute())), folder.resolve()


def path_inside(roots: Sequence[Path], name: str) -> str | None:
    """The path in a folder to which a name leads, or None if it leads out of the folder.

    Links are not resolved: those in the folder may lead elsewhere, as for `search_folder`.
    """
    for root in roots if "\0" not in name else ():
        path = Path(os.path.normpath(roots[0] / name))
        if path != root and path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    return None


def require_inside(folder: Path, names: Iterable[str]) -> None:
    """Raise DataError if one of the names could lead out of the folder."""
    roots = roots_of(folder)
    for name in names:
        if ".." in PurePath(name).parts or path_inside(roots, name) is None:
            raise DataError(
                f"picture {name[:100]!r} would be outside {folder}, expected the name of a file in"
                " it"
            )


class PictureFolder:
    """The names of all files in a folder, its subfolders, and folders to which links lead.

    Pictures whose names are not text are in `unnamed`, since no data set can hold them.

    DataError : it is not a folder, or cannot be read; or the locale's encoding cannot represent a
        name.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = picture_folder(folder)
        files = search_folder(self.path)
        self.unreadable = files.unreadable
        pictures, self.others = (
            [path.relative_to(self.path).as_posix() for path in paths]
            for paths in (files.pictures, files.others)
        )
        self.unnamed = [name for name in pictures if not is_text(name)]
        if self.unnamed and (encoding := sys.getfilesystemencoding()) != "utf-8":
            name = os.fsencode(self.unnamed[0]).decode("utf-8", "backslashreplace")
            raise DataError(
                f"picture {name[:100]!a} has a name that this locale's encoding, {encoding}, cannot"
                " hold, expected UTF-8; set PYTHONUTF8=1, or LC_ALL=C.UTF-8"
            )
        self.pictures = [name for name in pictures if is_text(name)]


def picture_folder(folder: str | Path) -> Path:
    """The folder of pictures as a path. DataError : not a folder."""
    if not (path := Path(folder)).is_dir():
        raise DataError(f"{path} is not a folder, expected the one that holds the pictures")
    return path
