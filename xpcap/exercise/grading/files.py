"""The files of a submission: found, read, and named as the course names them.

Nothing here runs or imports them.
"""

import contextlib
import os
import re
import symtable
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from xpcap.errors import DataError
from xpcap.exercise.table import FILES, PACKAGE, functions

MAX_FILES = 500  # of a folder
SKIPPED = re.compile(r"\..*|datasets|build|node_modules|__pycache__|__MACOSX")  # no code in these
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
KNOWN = {  # module: what the course has in it
    module: names for module in FILES if (names := {one.defined for one in functions([module])})
}


class HandedIn(NamedTuple):
    """What was handed in.

    files : the files of Python by their path in the course's package: "classifiers/rnn.py"
    shown : the student's own name of each
    homes : course module to the course's names in it that the submission defines, each with its
        file; a module that nothing is brought of is absent
    notices : sentences on files that are not graded
    """

    files: Mapping[str, bytes]
    shown: Mapping[str, str]
    homes: Mapping[str, Mapping[str, str]]
    notices: Sequence[str]


def read(path: str | Path) -> HandedIn:
    """Read a file of any name, a folder such as cs231n or one around it, or a dotted module name.

    DataError : there is none, it cannot be read, or it defines nothing of the course.
    """
    path = find(path)
    if path.is_file() and path.name.lower().endswith(ARCHIVES):
        got, expected = "is an archive", "a Python file or a folder"
        raise DataError("grade", path, got, expected, cause="unpack it first")
    around = path if path.is_dir() else path.parent
    python_files = list(_python_files(path)) if path.is_dir() else [path]
    if len(python_files) > MAX_FILES:
        got = f"has more than {MAX_FILES} Python files"
        raise DataError("grade", path, got, cause="is it the right folder?")
    root = _package(around, python_files)
    notices = [
        f"{file.name} lies outside {root.name}, and is not graded"
        for file in python_files
        if file.parent == around != root and file.stem in KNOWN
    ]
    files: dict[str, bytes] = {}
    shown: dict[str, str] = {}
    for file in python_files:
        if not file.is_relative_to(root):
            continue
        try:
            content = file.read_bytes()
        except OSError as error:
            if file == path:
                raise DataError("grade", path, f"cannot be read: {error.strerror}") from error
            notices.append(f"{file.name} cannot be read: {error.strerror}")
            continue
        # Python imports no other characters
        name = PurePosixPath(file.relative_to(root).as_posix()).with_suffix("").as_posix()
        home = re.sub(r"[^\w/]", "_", name) + ".py"
        # relative imports of two dots lead into the package from classifiers/
        if "/" not in home and re.search(rb"^[ \t]*from[ \t]+\.\.", content, re.MULTILINE):
            home = f"classifiers/{home}"
        while home in files:
            home = f"{home.removesuffix('.py')}_.py"
        files[home] = content
        shown[home] = file.relative_to(around).as_posix()
    homes = _homes(files)
    if not homes:
        others = sorted(entry.name for entry in path.iterdir())[:5] if path.is_dir() else []
        raise DataError(
            "grade",
            path,
            "defines nothing of the course",
            expected="functions such as lstm_step_forward, the class CaptioningRNN or"
            " CaptioningSolver, or update rules such as adam, in files of Python",
            cause=f"it holds {', '.join(others)}" if others else "is it the right file?",
        )
    return HandedIn(files, shown, homes, notices)


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


def _package(path: Path, files: Sequence[Path]) -> Path:
    """The folder of the course's package: the nearest of that name, or the one that holds all files."""
    above = [folder for file in files for folder in file.relative_to(path).parents]
    if named := [folder for folder in above if folder.name == PACKAGE]:
        return path / min(named, key=lambda folder: (len(folder.parts), folder))
    common = Path(os.path.commonpath([file.parent for file in files])) if files else path
    return common.parent if common.name == "classifiers" and common != path else common


def _python_files(root: Path) -> Iterator[Path]:
    """The *.py files of a folder, in order."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not SKIPPED.fullmatch(name))
        for name in sorted(files):
            if name.endswith(".py") and name[0] != "." and name != "__init__.py":
                yield Path(folder, name)


def defined(content: bytes, names: Collection[str]) -> set[str]:
    """Names that a file assigns at module level; of a file that is no Python those after def or class."""
    table = None
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
