"""One rule for names of pictures: what somebody wrote, and the file or the features that it means.

Open it at `RULES`. All that name pictures ask `NameIndex`: captions, lists of splits, features, and
captions to score. A page finds its pictures by `path_inside`.
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
from xpcap.files import is_text
from xpcap.prepare.rows import ImportReport

MAX_PARTS = 16  # of a path, its last ones, that are compared
MIN_RATIO = 0.85  # of letters in common of two names that differ by a typo
MAX_UNMATCHED = 10  # unmatched names that are compared for typos
MAX_COMPARED = 1_000  # names that each of them is compared with
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


# Keys by which two paths are compared; an empty one fits nothing


def _spelling(path: str) -> str:
    """The path without capitals, in one Unicode form."""
    composed = unicodedata.normalize("NFC", path)
    return unicodedata.normalize("NFC", composed.casefold())


def _stem(path: str) -> str:
    """The spelling without the suffix of a picture."""
    stem, dot, suffix = (spelling := _spelling(path)).rpartition(".")
    return stem if dot + suffix in SUFFIXES else spelling


def _number(path: str) -> str:
    """The number that a path consists of, without zeros before it, as COCO and spreadsheets do."""
    return (path.lstrip("0") or "0") if path.isascii() and path.isdigit() else ""


def _last_number(path: str) -> str:
    """The number at the end of a picture's name."""
    stem = _stem(path.rpartition("/")[2])
    return "" if "." in stem else _number(stem[len(stem.rstrip("0123456789")) :])


class Rule(NamedTuple):
    """A way in which people name a picture.

    key, known_key : of a name and of a known path, which are equal
    ends, known_ends : of which the end may be equal, too, in whole parts
    kind : kind of the match, if it is a loose one
    sure : all names that match so mean the picture; else one does, if no sure one is among them
    files_only : no rule for names of features or of a split's pictures
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
RULES = (  # the first that fits
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
    """Names and the known ones that they mean.

    matches : name to known name; names that surely mean one picture share it
    loose : kind of a loose match to the names that are matched so
    unmatched : name to a remark, such as what may be meant; empty: nothing is near
    """

    matches: dict[str, str]
    loose: dict[str, list[str]]
    unmatched: dict[str, str]

    def notice(self, report: ImportReport) -> None:
        """Note the loose matches."""
        for kind, names in self.loose.items():
            report.notice(kind, [f"{name[:100]} is {self.matches[name]}" for name in names])


class NameIndex:
    """Known names of pictures, among which others are looked up.

    known : paths of files in a folder, or names of features or of a split's pictures
    folder : of the files; a name may also lead to one that the search left out: hidden, or behind a
        link
    """

    def __init__(self, known: Iterable[str], folder: Path | None = None) -> None:
        self.paths = {name: _path(name) for name in known if is_text(name)}
        self.roots = () if folder is None else roots_of(folder)
        self.spellings = {_spelling(path) for path in self.paths.values() if self.roots}

    def match(self, names: Iterable[str]) -> Matches:
        """Match names by the first rule that fits, if it fits one picture."""
        names = list(dict.fromkeys(names))
        meanings = {name: (name, RULES[0]) for name in names if name in self.paths}
        remarks = {name: "is not UTF-8 text" for name in names if not is_text(name)}
        left = [name for name in names if name not in meanings and name not in remarks]
        paths = {name: self._path_in_folder(name) or _path(name) for name in left}
        for rule in RULES:
            left = [name for name in left if name not in meanings and name not in remarks]
            if not left or (rule.files_only and not self.roots):
                continue
            keys = {name: self._keys(rule, paths[name]) for name in left}
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
                    remarks[name] = f"may be {pictures[0]} or {pictures[1]}"
        for name, rival in _rivals(meanings, paths).items():
            remarks[name] = f"may be {meanings.pop(name)[0]}, which {rival[:100]} names as well"
        remarks |= self._suggestions(
            [name for name in left if name not in meanings and name not in remarks]
        )
        loose = defaultdict(list)
        for name, (_, rule) in meanings.items():
            if rule.kind:
                loose[rule.kind].append(name)
        return Matches(
            {name: meanings[name][0] for name in names if name in meanings},
            loose,
            {name: remarks.get(name, "") for name in names if name not in meanings},
        )

    def _path_in_folder(self, name: str) -> str | None:
        """The path in the folder, if the name leads to a file there."""
        path = path_inside(self.roots, name.replace("\\", "/"))
        if path is None or _spelling(path) in self.spellings:
            return path
        if not os.path.isfile(self.roots[0] / path):  # noqa: PTH113 - of names of any length
            return None
        self.paths[path] = path
        self.spellings.add(_spelling(path))
        return path

    def _keys(self, rule: Rule, path: str) -> list[str]:
        """The keys of a name, in the order in which they are looked up."""
        ends = self._ends(path) if rule.ends else [path]
        return [key for end in ends if (key := rule.key(end))]

    def _ends(self, path: str) -> Iterator[str]:
        """The path and its ends, down to the one in a folder that is there."""
        while path:
            yield path
            folder = path.rpartition("/")[0]
            if folder and self.roots and os.path.isdir(f"{self.roots[0]}/{folder}"):  # noqa: PTH112
                return
            path = path.partition("/")[2]

    def _known_keys(self, rule: Rule, path: str, sizes: Collection[int]) -> list[str]:
        """The key of a known path, or those of its ends of as many parts as names have."""
        if not rule.known_ends:
            return [rule.known_key(path)]
        paths = [rule.known_key(f"{root}/{path}").split("/") for root in self.roots or [""]]
        return ["/".join(parts[-n:]) for parts in paths for n in sizes if n <= len(parts)]

    def _suggestions(self, names: Iterable[str]) -> dict[str, str]:
        """Names to those of equal numbers and letters, or, for the first few, nearly equal letters."""
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
            near = cores.get(core, [])[:2] if core else []
            if (
                not near
                and len(core) <= MAX_LETTERS
                and (compared := compared + 1) <= MAX_UNMATCHED
            ):
                alike = [
                    other
                    for other in numbers.get(_NO_DIGITS.sub("", core), [])[:MAX_COMPARED]
                    if abs(len(other) - len(core)) <= 2
                ]
                close = difflib.get_close_matches(core, alike, n=1, cutoff=MIN_RATIO)
                near = [cores[other][0] for other in close]
            if near:
                suggestions[name] = f"did you mean {' or '.join(near)}?"
        return suggestions


def _rivals(meanings: Mapping[str, tuple[str, Rule]], paths: Mapping[str, str]) -> dict[str, str]:
    """Names that likely mean a picture to another name that surely does, or as likely."""
    spellings = {
        name: "" if rule.sure else _spelling(paths[name]) for name, (_, rule) in meanings.items()
    }
    owners: dict[str, dict[str, str]] = defaultdict(dict)  # of a picture, by spelling; "": surely
    for name, (known, _) in meanings.items():
        owners[known].setdefault(spellings[name], name)
    rivals = {}
    for name in filter(spellings.__getitem__, meanings):
        others = owners[meanings[name][0]]
        first_two = [other for other in itertools.islice(others, 2) if other != spellings[name]]
        if others.keys() != {spellings[name]}:
            rivals[name] = others.get("") or others[first_two[0]]
    return rivals


def _core(name: str) -> str:
    """Letters and numbers of a file's name: no folder, suffix, accents or leading zeros."""
    stem = _SUFFIX.sub("", _path(name).rpartition("/")[2].casefold())
    plain = "".join(filter(str.isalnum, unicodedata.normalize("NFKD", stem)))
    return _ZEROS.sub("", plain)


def roots_of(folder: Path) -> tuple[Path, ...]:
    """The absolute paths of a folder: as it is called, and without links."""
    return Path(os.path.normpath(folder.absolute())), folder.resolve()


def path_inside(roots: Sequence[Path], name: str) -> str | None:
    """The path in a folder to which a name leads, as it is written; None: it leads out.

    Links in the folder may lead elsewhere, as those that `search_folder` follows.
    """
    for root in roots if "\0" not in name else ():
        path = Path(os.path.normpath(roots[0] / name))
        if path != root and path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    return None


def require_inside(caller: str, folder: Path, names: Iterable[str]) -> None:
    """Raise DataError if one of the names could lead out of the folder."""
    roots = roots_of(folder)
    for name in names:
        if ".." in PurePath(name).parts or path_inside(roots, name) is None:
            got = f"would lie outside {folder}"
            raise DataError(caller, f"picture {name[:100]!r}", got, "the name of a file in it")


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


def picture_folder(caller: str, folder: str | Path) -> Path:
    """The folder of pictures as a path. DataError : not a folder."""
    if not (path := Path(folder)).is_dir():
        raise DataError(caller, path, "is not a folder", expected="the one that holds the pictures")
    return path
