"""What no solution needs, for a teacher to look at: imports, words that reach into Python, complex
numbers.

It is read off the code, so that whoever wants to hide it can, and it proves nothing.
"""

import ast
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from xpcap.exercise.table import FILES, PACKAGE

MAX_PARSED = 2**18  # bytes of a file: its tree takes 300 times as many
MAX_LISTED, MAX_WORD = 20, 50
USUAL = frozenset(
    "numpy matplotlib __future__ abc builtins collections contextlib copy dataclasses enum functools"
    " itertools math numbers operator random time typing warnings".split()
)
BUILT_IN = frozenset("__builtins__ __import__ __loader__ compile eval exec globals open".split())
ATTRIBUTES = frozenset(
    "__closure__ __code__ __globals__ __loader__ __subclasses__ _current_frames _getframe f_back"
    " f_globals f_locals gi_frame setprofile settrace tb_frame".split()
)
COMPLEX = frozenset("complex complex64 complex128 csingle cdouble imag".split())


def unusual(files: Mapping[str, bytes], homes: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The first words and imports that no solution needs, in files that are imported when graded.

    files, homes : as of `files.HandedIn`
    """
    course = (*FILES.values(), "layers.py")
    parts = {
        part for file in (*files, *course) for part in PurePosixPath(file).with_suffix("").parts
    }
    # a file of a name in Python's library is not what an import of that name finds
    usual = {"", *USUAL, PACKAGE, *(parts - sys.stdlib_module_names)}
    waiting = {file for home in homes.values() for file in home.values()}
    seen: set[str] = set()
    listed: dict[str, None] = {}
    while waiting - seen:
        seen.add(file := min(waiting - seen))
        if (tree := _parsed(files[file])) is None:
            listed[f"{len(files[file]):,} bytes that cannot be read"] = None
            continue
        for name in _imports(tree):
            waiting |= {other for other in files if PurePosixPath(other).stem in name.split(".")}
            if (root := name.partition(".")[0]) not in usual:
                listed[root[:MAX_WORD]] = None
        listed |= dict.fromkeys(_words(tree))
    return [*list(listed)[:MAX_LISTED], *["and more"] * (len(listed) > MAX_LISTED)]


def _parsed(content: bytes) -> ast.Module | None:
    """The tree of a file; None if it is too long, or no Python."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of the student's escapes
            return ast.parse(content) if len(content) <= MAX_PARSED else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _imports(tree: ast.Module) -> Iterator[str]:
    """Dotted names that are imported; of a name that begins with a dot, the place is relative."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            place = "." * (node.level > 0) + (node.module or "")
            yield from (f"{place}.{alias.name}" for alias in node.names)


def _words(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(name) if name in BUILT_IN:
                yield name
            case ast.Attribute(ast.Name("sys"), "modules"):
                yield "sys.modules"
            case ast.Attribute(_, name) | ast.Constant(str(name)) if name in ATTRIBUTES:
                yield name
            case ast.Constant(complex()):
                yield "complex numbers"
            case ast.Name(name) | ast.Attribute(_, name) | ast.Constant(str(name)):
                if name in COMPLEX:
                    yield "complex numbers"
