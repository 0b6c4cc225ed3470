"""The files of a submission: found, read within bounds, and named as the course names them.

Nothing here runs or imports them.
"""

import hashlib
import itertools
import os
import re
import stat
import symtable
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from xpcap.errors import DataError
from xpcap.exercise.table import FILES, PACKAGE, functions

MOST_FILE, MOST_FILES = 10**6, 500  # bytes of a file of Python, files of a folder
MOST_IN_ALL = 4 * 10**6  # bytes of a folder's files of Python
# bytes and files that the digest is of, besides the files of Python, which are whole in it
MOST_DIGESTED, MOST_NAMES = 2**26, 10_000
SKIPPED = r"\..*|datasets|build|node_modules|__pycache__|__MACOSX"  # folders without code
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
KNOWN = {  # module: what the course has in it
    module: names for module in FILES if (names := {one.defined for one in functions([module])})
}
# What Canvas and Moodle put before a name, and Canvas and browsers behind that of a later upload
UPLOADED = r"((?:.*_)?\d+_(?:assignsubmission_file_)?)?(%s)((?:-\d+| ?\(\d+\))*)\.py"


class HandedIn(NamedTuple):
    """What was handed in.

    files : the files of Python by their path in the course's package: "classifiers/rnn.py"
    shown : the student's own name of each
    homes : course module to the course's names in it that the submission defines, each with its
        file; a module that nothing is brought of is absent
    notes : sentences on names that were taken for others
    content : digest of all files, of whatever kind, in hexadecimal
    """

    files: Mapping[str, bytes]
    shown: Mapping[str, str]
    homes: Mapping[str, Mapping[str, str]]
    notes: Sequence[str]
    content: str
    unusual: Sequence[str] = ()

    def digest(self, seed: int) -> str:
        """The digest of all that was handed in and of a teacher's seed: 16 digits."""
        return hashlib.sha256(f"{self.content} {seed}".encode()).hexdigest()[:16]


def read(path: str | Path) -> HandedIn:
    """Read a file of any name, a folder such as cs231n or one around it, or a dotted module name.

    DataError : there is none, it defines nothing of the course, or it is too large to be it.
    """
    path = find(path)
    if path.is_file() and path.name.lower().endswith(ARCHIVES):
        came = "is an archive, which is not unpacked"
        raise DataError("grade", path, came, expected="a file or a folder")
    if not path.is_file() and not path.is_dir():
        raise DataError("grade", path, "is a pipe or a device", expected="a file or a folder")
    around = path if path.is_dir() else path.parent
    those = list(_python_files(path)) if path.is_dir() else [path]
    root = _package(around, those)
    notes = [
        f"{one.name} lies outside {root.name}, and is not graded"
        for one in those
        if one.parent == around != root and one.stem in KNOWN
    ]
    found = _contents(path, root, those)
    files: dict[str, bytes] = {}
    shown: dict[str, str] = {}
    for name, taken in _plain_names(found, notes).items():
        # Python imports no other characters
        home = re.sub(r"[^\w/]", "_", name.with_suffix("").as_posix()) + ".py"
        # relative imports of two dots lead into the package from classifiers/
        if "/" not in home and re.search(rb"^[ \t]*from[ \t]+\.\.", found[taken], re.MULTILINE):
            home = f"classifiers/{home}"
        while home in files:
            home = f"{home.removesuffix('.py')}_.py"
        files[home] = found[taken]
        shown[home] = (root / taken).relative_to(around).as_posix()
    homes = _homes(files)
    if not homes:
        others = sorted(one.name for one in path.iterdir())[:5] if path.is_dir() else []
        raise DataError(
            "grade",
            path,
            "defines nothing of the course",
            expected="functions such as lstm_step_forward, the class CaptioningRNN or"
            " CaptioningSolver, or update rules such as adam, in files of Python",
            cause=f"it holds {', '.join(others)}" if others else "is it the right file?",
        )
    return HandedIn(files, shown, homes, notes, _digest(path, files))


def find(path: str | Path) -> Path:
    """The file or folder at a path, or of a dotted module, which is not imported.

    DataError : there is none.
    """
    places = [Path(path)]
    parts = str(path).split(".")
    if all(map(str.isidentifier, parts)):
        inner = os.path.join(*parts)  # noqa: PTH118 - a name to add to
        places += [Path(one, inner + end) for one in (".", *sys.path) for end in ("", ".py")]
    for place in places:
        if place.exists():
            return place
    expected = "a file, a folder, or the name of a module that Python can find"
    raise DataError("grade", path, "does not exist", expected=expected)


def dotted(file: str) -> str:
    """The name by which Python imports a file of the package: "cs231n.classifiers.rnn"."""
    return f"{PACKAGE}.{file.removesuffix('.py').replace('/', '.')}"


def _contents(path: Path, root: Path, those: Sequence[Path]) -> dict[PurePosixPath, bytes]:
    """The content of those files that are below `root`, by their paths there."""
    found: dict[PurePosixPath, bytes] = {}
    for one in those:
        if not one.is_relative_to(root):
            continue
        with one.open("rb") as file:
            content = file.read(MOST_FILE + 1)
        if len(content) > MOST_FILE:
            came = f"has more than {MOST_FILE:,} bytes"
            raise DataError("grade", one, came, expected="a file of Python")
        found[PurePosixPath(one.relative_to(root).as_posix())] = content
        if len(found) > MOST_FILES or sum(map(len, found.values())) > MOST_IN_ALL:
            came = f"has more than {MOST_FILES} Python files, or {MOST_IN_ALL:,} bytes of them"
            raise DataError("grade", path, came, cause="is it the right folder?")
    return found


def _plain_names(
    found: Mapping[PurePosixPath, bytes], notes: list[str]
) -> dict[PurePosixPath, PurePosixPath]:
    """Files by their names before they were uploaded; of several uploads the last.

    Names that may have been another are those that hold the course's, or one that a file imports:
    `part-1.py` and `part-2.py` stay what they are.
    """
    imported = {
        word
        for content in found.values()
        for line in re.findall(rb"^[ \t]*(?:from|import)[ \t]+(.+)", content, re.MULTILINE)
        for word in re.findall(r"\w+", line.decode("utf-8", "replace"))
    }
    upload = re.compile(UPLOADED % "|".join(map(re.escape, imported | set(FILES))))
    uploads: dict[PurePosixPath, list[tuple[list[list[int]], PurePosixPath]]] = {}
    for path in found:
        parts = None if path.stem in imported else upload.fullmatch(path.name)
        plain = path.with_name(f"{parts[2]}.py") if parts else path
        if parts and parts[1] and plain in found:
            plain = path  # a draft such as old_2_rnn.py beside rnn.py is none of Canvas's names
        behind_before = (parts[3], parts[1] or "") if parts else ("", "")
        late = [[int(number) for number in re.findall(r"\d+", part)] for part in behind_before]
        uploads.setdefault(plain, []).append((late, path))
    names = {}
    for plain, several in uploads.items():
        *earlier, (_, last) = sorted(several)
        names[plain] = last
        if last != plain:
            others = ", ".join(one.name for _, one in earlier)
            instead = f", in place of {others}" if others else ""
            notes.append(f"{last.name} is taken as {plain.name}{instead}")
    return names


def _package(path: Path, files: Sequence[Path]) -> Path:
    """The folder of the course's package: the nearest of that name, or the one that holds all files.

    The latter may be deep in `path`, as Moodle makes it.
    """
    above = [folder for file in files for folder in file.relative_to(path).parents]
    if named := [folder for folder in above if folder.name == PACKAGE]:
        return path / min(named, key=lambda folder: (len(folder.parts), folder))
    common = Path(os.path.commonpath([file.parent for file in files])) if files else path
    return common.parent if common.name == "classifiers" and common != path else common


def _walk(root: Path, skipped: str = "") -> Iterator[Path]:
    """The files of a folder, in order, but for those in folders of some names."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(one for one in folders if not re.fullmatch(skipped, one))
        yield from (Path(folder, name) for name in sorted(files))


def _python_files(root: Path) -> Iterator[Path]:
    """The *.py files of a folder; links are followed to files inside it alone."""
    inside = root.resolve()
    for file in _walk(root, SKIPPED):
        plain = file.suffix == ".py" and file.name[0] != "." and file.name != "__init__.py"
        if plain and file.is_file() and file.resolve().is_relative_to(inside):
            yield file


def defined(content: bytes) -> set[str]:
    """Names that a file assigns at module level; of one that is no Python, those after def."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the student's escapes
            # it takes bytes, and heeds what they say of their encoding
            names = symtable.symtable(content, "", "exec").get_symbols()  # type: ignore[arg-type]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        found = re.findall(rb"^(?:def|class)[ \t]+(\w+)", content, re.MULTILINE)
        return {name.decode("utf-8", "replace") for name in found}
    return {one.get_name() for one in names if one.is_assigned()}


def _homes(files: Mapping[str, bytes]) -> dict[str, dict[str, str]]:
    """The file of each name of the course: the course's own file first, then any other."""
    names = {file: defined(content) for file, content in files.items()}
    homes = {}
    for module, known in KNOWN.items():
        last_first = sorted(files, key=lambda file: (file != FILES[module], file), reverse=True)
        homes[module] = {name: file for file in last_first for name in names[file] & known}
    return {module: home for module, home in homes.items() if home}


def _digest(path: Path, files: Mapping[str, bytes]) -> str:
    """A digest of the names and contents of all files, in order; of a link, of where it leads."""
    digest = hashlib.sha256(repr(sorted(files.items())).encode())
    left = MOST_DIGESTED
    for file in itertools.islice(_walk(path), MOST_NAMES):
        about, content = file.lstat(), b""
        if stat.S_ISLNK(about.st_mode):
            content = os.fsencode(file.readlink())
        elif stat.S_ISREG(about.st_mode):
            with file.open("rb") as opened:
                content = opened.read(left)
            left -= len(content)
        facts = file.relative_to(path).as_posix(), about.st_size, hashlib.sha256(content).digest()
        digest.update(ascii(facts).encode())
    return digest.hexdigest()
