"""Find and read the files of a submission, and map them to the course's files.

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

from xpcap.cs231n.table import FILES, PACKAGE, functions
from xpcap.errors import DataError

MAX_FILES = 500  # of a folder
SKIPPED = re.compile(r"\..*|datasets|build|node_modules|__pycache__|__MACOSX")  # no student's code
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
KNOWN = {  # module: its functions and classes
    module: names for module in FILES if (names := {row.defined for row in functions([module])})
}


class HandedIn(NamedTuple):
    """A submission.

    files : the Python files by their path in the course's package: "classifiers/rnn.py"
    shown : the student's name of each file
    homes : course module to its functions and classes that the submission defines, each with its
        file; a module of which it defines nothing is absent
    notices : notices of files that are not graded
    """

    files: Mapping[str, bytes]
    shown: Mapping[str, str]
    homes: Mapping[str, Mapping[str, str]]
    notices: Sequence[str]


def read(path: str | Path) -> HandedIn:
    """Read a file of any name, a folder such as cs231n or one around it, or a dotted module name.

    DataError : it does not exist, cannot be read, or defines nothing of the course.
    """
    path = find(path)
    if path.is_file() and path.name.lower().endswith(ARCHIVES):
        raise DataError(
            f"{path} is an archive, expected a Python file or a folder; unpack it first"
        )
    parent = path if path.is_dir() else path.parent
    python_files = list(_python_files(path)) if path.is_dir() else [path]
    if len(python_files) > MAX_FILES:
        raise DataError(f"{path} has more than {MAX_FILES} Python files; is it the right folder?")
    root = _package(parent, python_files)
    notices = [
        f"{file.name} is outside {root.name}, and is not graded"
        for file in python_files
        if file.parent == parent != root and file.stem in KNOWN
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
                raise DataError(f"{path} cannot be read: {error.strerror}") from error
            notices.append(f"{file.name} cannot be read: {error.strerror}")
            continue
        # A module's name cannot have other characters
        name = PurePosixPath(file.relative_to(root).as_posix()).with_suffix("").as_posix()
        home = re.sub(r"[^\w/]", "_", name) + ".py"
        # Relative imports with two dots work only from the folder classifiers/
        if "/" not in home and re.search(rb"^[ \t]*from[ \t]+\.\.", content, re.MULTILINE):
            home = f"classifiers/{home}"
        while home in files:
            home = f"{home.removesuffix('.py')}_.py"
        files[home] = content
        shown[home] = file.relative_to(parent).as_posix()
    homes = _homes(files)
    if not homes:
        entries = sorted(entry.name for entry in path.iterdir())[:5] if path.is_dir() else []
        cause = f"it contains {', '.join(entries)}" if entries else "is it the right file?"
        raise DataError(
            f"{path} defines nothing of the course, expected functions such as lstm_step_forward,"
            " the class CaptioningRNN or CaptioningSolver, or update rules such as adam, in Python"
            f" files; {cause}"
        )
    return HandedIn(files, shown, homes, notices)


def find(path: str | Path) -> Path:
    """The file or folder of a path or a dotted module name; nothing is imported.

    DataError : it does not exist.
    """
    candidates = [Path(path)]
    names = str(path).split(".")
    if all(map(str.isidentifier, names)):
        inner = os.path.join(*names)  # noqa: PTH118 - an ending is added
        candidates += [Path(root, inner + end) for root in (".", *sys.path) for end in ("", ".py")]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise DataError(
        f"{path} does not exist, expected a file, a folder, or the name of a module that Python can"
        " find"
    )


def dotted(file: str) -> str:
    """The name by which Python imports a file of the package: "cs231n.classifiers.rnn"."""
    return f"{PACKAGE}.{file.removesuffix('.py').replace('/', '.')}"


def _package(path: Path, files: Sequence[Path]) -> Path:
    """The folder of the course's package: the nearest of that name, or the common folder of files."""
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
    """The names that a file defines at module level; after a syntax error those of def and class."""
    table = None
    with (
        contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError),
        warnings.catch_warnings(action="ignore"),  # such as those of invalid escapes
    ):
        # Given bytes, symtable reads the file's declared encoding
        table = symtable.symtable(content, "", "exec")  # type: ignore[arg-type]
    if table is None:
        heads = re.finditer(rb"^(?:def|class)[ \t]+(\w+)", content, re.MULTILINE)
        return {name for head in heads if (name := head[1].decode("utf-8", "replace")) in names}
    known = table.get_identifiers()
    return {name for name in names if name in known and table.lookup(name).is_assigned()}


def _homes(files: Mapping[str, bytes]) -> dict[str, dict[str, str]]:
    """The file that defines each name of the course; the course's own file has precedence."""
    course = set().union(*KNOWN.values())
    names = {file: defined(content, course) for file, content in files.items()}
    homes = {}
    for module, known in KNOWN.items():
        last_first = sorted(files, key=lambda file: (file != FILES[module], file), reverse=True)
        homes[module] = {name: file for file in last_first for name in names[file] & known}
    return {module: home for module, home in homes.items() if home}
