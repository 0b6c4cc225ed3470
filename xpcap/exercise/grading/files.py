"""The files of a submission: found, read within bounds, and named as the course names them.

Nothing here runs or imports them. What cannot be read, or leads elsewhere, is left out and noted.
"""

import contextlib
import hashlib
import itertools
import os
import re
import stat
import symtable
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from xpcap.errors import DataError
from xpcap.exercise.table import FILES, PACKAGE, functions

MOST_FILE, MOST_FILES = 10**6, 500  # bytes of a file of Python, files of a folder
MOST_IN_ALL = 4 * 10**6  # bytes of a folder's files of Python
MAX_PARSED = 2**18  # bytes of a file that is parsed, which takes 300 times as many
MAX_NOTES = 20  # of a kind
MAX_DEPTH = 100  # folders in folders
# bytes and files that the digest is of, besides the files of Python, which are whole in it
MOST_DIGESTED, MOST_NAMES = 2**26, 10_000
SKIPPED = r"\..*|datasets|build|node_modules|__pycache__|__MACOSX"  # folders without code
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
KNOWN = {  # module: what the course has in it
    module: names for module in FILES if (names := {one.defined for one in functions([module])})
}
# What Canvas and Moodle put before a name, and Canvas and browsers behind that of a later upload
BEFORE = re.compile(r"(?:.*_)?\d+_(?:assignsubmission_file_)?", re.DOTALL)
BEHIND = re.compile(r"(?:-\d+| ?\(\d+\))*\.py$")


class HandedIn(NamedTuple):
    """What was handed in.

    files : the files of Python by their path in the course's package: "classifiers/rnn.py"
    shown : the student's own name of each
    homes : course module to the course's names in it that the submission defines, each with its
        file; a module that nothing is brought of is absent
    notes : sentences on names that were taken for others, and on files that were not read
    content : digest of all files, of whatever kind, in hexadecimal
    """

    files: Mapping[str, bytes]
    shown: Mapping[str, str]
    homes: Mapping[str, Mapping[str, str]]
    notes: Sequence[str]
    content: str

    def digest(self, seed: int) -> str:
        """The digest of all that was handed in and of a teacher's seed: 16 digits."""
        return hashlib.sha256(f"{self.content} {seed}".encode()).hexdigest()[:16]


def read(path: str | Path) -> HandedIn:
    """Read a file of any name, a folder such as cs231n or one around it, or a dotted module name.

    DataError : there is none, it defines nothing of the course, or it is too large to be it.
    """
    path = find(path)
    if path.is_file() and path.name.lower().endswith(ARCHIVES):
        got, expected = "is an archive", "a Python file or a folder"
        raise DataError("grade", path, got, expected, cause="unpack it first")
    if not path.is_file() and not path.is_dir():
        raise DataError("grade", path, "is a pipe or a device", expected="a file or a folder")
    unread: list[str] = []
    around = path if path.is_dir() else path.parent
    python_files = list(_python_files(path, unread)) if path.is_dir() else [path]
    root = _package(around, python_files)
    notes = [
        f"{one.name} lies outside {root.name}, and is not graded"
        for one in python_files
        if one.parent == around != root and one.stem in KNOWN
    ]
    contents = _contents(path, root, python_files, unread)
    files: dict[str, bytes] = {}
    shown: dict[str, str] = {}
    for name, source in _plain_names(contents, notes).items():
        # Python imports no other characters
        home = re.sub(r"[^\w/]", "_", name.with_suffix("").as_posix()) + ".py"
        # relative imports of two dots lead into the package from classifiers/
        if "/" not in home and re.search(rb"^[ \t]*from[ \t]+\.\.", contents[source], re.MULTILINE):
            home = f"classifiers/{home}"
        while home in files:
            home = f"{home.removesuffix('.py')}_.py"
        files[home] = contents[source]
        shown[home] = (root / source).relative_to(around).as_posix()
    homes = _homes(files)
    if not homes:
        others = sorted(one.name for one in path.iterdir())[:5] if path.is_dir() else []
        holds = [f"it holds {', '.join(others)}"] if others else ["is it the right file?"]
        raise DataError(
            "grade",
            path,
            "defines nothing of the course",
            expected="functions such as lstm_step_forward, the class CaptioningRNN or"
            " CaptioningSolver, or update rules such as adam, in files of Python",
            cause="; ".join(_cut(unread) or holds),
        )
    notes = [*_cut(notes), *_cut(unread)]
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
    got = "does not exist"
    for place in places:
        try:
            if place.exists():
                return place
        except OSError as error:
            got = f"cannot be read: {error.strerror}"
    expected = "a file, a folder, or the name of a module that Python can find"
    raise DataError("grade", path, got, expected=expected)


def dotted(file: str) -> str:
    """The name by which Python imports a file of the package: "cs231n.classifiers.rnn"."""
    return f"{PACKAGE}.{file.removesuffix('.py').replace('/', '.')}"


def _cut(notes: Sequence[str]) -> list[str]:
    """The first notes, and how many more there are."""
    more = [f"and {len(notes) - MAX_NOTES:,} more such notes"] * (len(notes) > MAX_NOTES)
    return [*notes[:MAX_NOTES], *more]


def _contents(
    path: Path, root: Path, python_files: Sequence[Path], unread: list[str]
) -> dict[PurePosixPath, bytes]:
    """The content of those files that are below `root`, by their paths there."""
    found: dict[PurePosixPath, bytes] = {}
    for one in python_files:
        if not one.is_relative_to(root):
            continue
        try:
            with one.open("rb") as file:
                content = file.read(MOST_FILE + 1)
        except OSError as error:
            if one == path:
                raise DataError("grade", path, f"cannot be read: {error.strerror}") from error
            unread.append(f"{one.name} cannot be read: {error.strerror}")
            continue
        if len(content) > MOST_FILE:
            got = f"has more than {MOST_FILE:,} bytes"
            raise DataError("grade", one, got, expected="a file of Python")
        found[PurePosixPath(one.relative_to(root).as_posix())] = content
        if len(found) > MOST_FILES or sum(map(len, found.values())) > MOST_IN_ALL:
            got = f"has more than {MOST_FILES} Python files, or {MOST_IN_ALL:,} bytes of them"
            raise DataError("grade", path, got, cause="is it the right folder?")
    return found


def _plain_names(
    found: Mapping[PurePosixPath, bytes], notes: list[str]
) -> dict[PurePosixPath, PurePosixPath]:
    """Files by their names before they were uploaded; of several uploads the last.

    Names that may have been another are those that hold the course's, or one that a file imports:
    `part-1.py` and `part-2.py` stay what they are.
    """
    readings = {path: _readings(path) for path in found}
    names = {name for ways in readings.values() for _, name, _ in ways}
    known = names & set(FILES) | _imported(found.values(), names)
    uploads: dict[PurePosixPath, list[tuple[list[list[int]], PurePosixPath]]] = {}
    for path, ways in readings.items():
        before, name, behind = next((way for way in ways if way[1] in known), ways[0])
        plain = path.with_name(f"{name}.py")
        if before and plain in found:
            plain = path  # a draft such as old_2_rnn.py beside rnn.py is none of Canvas's names
        late = [[int(number) for number in re.findall(r"\d+", part)] for part in (behind, before)]
        uploads.setdefault(plain, []).append((late, path))
    sources = {}
    for plain, several in uploads.items():
        *earlier, (_, last) = sorted(several)
        sources[plain] = last
        if last != plain:
            others = ", ".join(one.name for _, one in earlier)
            instead = f", in place of {others}" if others else ""
            notes.append(f"{last.name} is taken as {plain.name}{instead}")
    return sources


def _readings(path: PurePosixPath) -> list[tuple[str, str, str]]:
    """Ways to read a file's name: what an upload put before a name, the name, what it put behind."""
    stem = BEHIND.sub("", path.name)
    behind = path.stem.removeprefix(stem)
    ways = [("", path.stem, "")]
    for match in reversed(list(re.finditer("^|_", stem))):
        before, name = stem[: match.end()], stem[match.end() :]
        if not before or BEFORE.fullmatch(before):
            ways.append((before, name, behind))
    return ways


def _imported(contents: Iterable[bytes], names: Collection[str]) -> set[str]:
    """Names that occur in lines that import."""
    return {
        word[0]
        for content in contents
        for line in re.finditer(rb"^[ \t]*(?:from|import)[ \t]+(.+)", content, re.MULTILINE)
        for word in re.finditer(r"\w+", line[1].decode("utf-8", "replace"))
        if word[0] in names
    }


def _package(path: Path, files: Sequence[Path]) -> Path:
    """The folder of the course's package: the nearest of that name, or the one that holds all files.

    The latter may be deep in `path`, as Moodle makes it.
    """
    above = [folder for file in files for folder in file.relative_to(path).parents]
    if named := [folder for folder in above if folder.name == PACKAGE]:
        return path / min(named, key=lambda folder: (len(folder.parts), folder))
    common = Path(os.path.commonpath([file.parent for file in files])) if files else path
    return common.parent if common.name == "classifiers" and common != path else common


def _walk(
    root: Path, skipped: str = "", on_error: Callable[[OSError], object] | None = None
) -> Iterator[Path]:
    """The files of a folder and its links, in order, but for those in folders of some names."""
    for folder, folders, files in os.walk(root, onerror=on_error):
        if len(Path(folder).relative_to(root).parts) > MAX_DEPTH:
            got = f"has folders more than {MAX_DEPTH} deep in each other"
            raise DataError("grade", root, got, cause="is it the right folder?")
        folders[:] = sorted(one for one in folders if not re.fullmatch(skipped, one))
        # no link where it cannot be known
        links = [one for one in folders if os.path.islink(f"{folder}/{one}")]  # noqa: PTH114
        yield from (Path(folder, name) for name in sorted([*files, *links]))


def _python_files(root: Path, unread: list[str]) -> Iterator[Path]:
    """The *.py files of a folder; links are followed to files inside it alone."""
    inside = root.resolve()

    def closed(error: OSError) -> None:
        if Path(error.filename or root) == root:
            raise DataError("grade", root, f"cannot be listed: {error.strerror}") from error
        unread.append(f"{Path(error.filename).name} cannot be listed: {error.strerror}")

    for file in _walk(root, SKIPPED, closed):
        plain = file.suffix == ".py" and file.name[0] != "." and file.name != "__init__.py"
        is_link = False
        try:
            is_link = file.is_symlink()
            mode = file.stat().st_mode
        except OSError as error:
            reason = "is a link that leads nowhere" if is_link else "cannot be read"
            unread += [f"{file.name} {reason}: {error.strerror}"] * plain
            continue
        if is_link and not file.resolve().is_relative_to(inside):
            note = f"{file.name} is a link that leads out of the submission, and is not read"
            unread += [note] * (plain or stat.S_ISDIR(mode))
        elif plain and stat.S_ISREG(mode):
            yield file


def defined(content: bytes, names: Collection[str]) -> set[str]:
    """Names that a file assigns at module level.

    Of a file that is long or no Python those after def or class.
    """
    table = None
    if len(content) <= MAX_PARSED:
        with (
            contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError),
            warnings.catch_warnings(action="ignore"),  # of the student's escapes
        ):
            # it takes bytes, and heeds what they say of their encoding
            table = symtable.symtable(content, "", "exec")  # type: ignore[arg-type]
    if table is None:
        heads = re.finditer(rb"^(?:def|class)[ \t]+(\w+)", content, re.MULTILINE)
        return {name for head in heads if (name := head[1].decode("utf-8", "replace")) in names}
    known = table.get_identifiers()
    return {name for name in names if name in known and table.lookup(name).is_assigned()}


def _homes(files: Mapping[str, bytes]) -> dict[str, dict[str, str]]:
    """The file of each name of the course: the course's own file first, then any other."""
    course = set().union(*KNOWN.values())
    names = {file: defined(content, course) for file, content in files.items()}
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
        size, content = -1, b""
        with contextlib.suppress(OSError):  # what cannot be read counts by its name
            about = file.lstat()
            size = about.st_size
            if stat.S_ISLNK(about.st_mode):
                content = os.fsencode(file.readlink())
            elif stat.S_ISREG(about.st_mode):
                with file.open("rb") as opened:
                    content = opened.read(min(left, size))
                left -= len(content)
        facts = file.relative_to(path).as_posix(), size, hashlib.sha256(content).digest()
        digest.update(ascii(facts).encode())
    return digest.hexdigest()
