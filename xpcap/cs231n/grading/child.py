"""The process that runs a submission: it answers each question of a plan by a file, and ends.

This script is copied into the folder that it reads, and imports only NumPy, the standard library and
files of that folder. A question names a probe of probes.py, functions of the submission and arrays.
The answer is NUMBER.npz with the observed arrays, and NUMBER.json with notes, which is written last.
"""

import builtins
import contextlib
import copy
import faulthandler
import importlib
import importlib.abc
import importlib.util
import inspect
import json
import linecache
import os
import random
import sys
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np

# Characters of an error's type and message
MAX_NAME = 100
MAX_ERROR_TEXT = 500
OUT_OF_MEMORY = 77  # exit status
FAILED: dict[str, BaseException] = {}  # module to the error of its import
REFERENCE = "reference_layers"  # the module of functions that replace the submission's
ANSWERS = "answers"  # the folder of answers
FAULTS = "faults.txt"  # the file of faulthandler
MAX_FILE = 10 * 2**20  # bytes


class NullPlot:
    """A stub for plots: it has every attribute, and every call returns it."""

    def __getattr__(self, name: str) -> "NullPlot":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: Any, **__: Any) -> "NullPlot":
        return self

    def __getitem__(self, _: Any) -> "NullPlot":
        return self

    def __setitem__(self, *_: Any) -> None:
        pass

    def __iter__(self) -> Iterator["NullPlot"]:
        return iter((self, self))  # a figure and its axes


class NullMatplotlib(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds stubs of Matplotlib's modules, which files of the course often import."""

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        is_plot = name.partition(".")[0] == "matplotlib"
        return ModuleSpec(name, self, is_package=True) if is_plot else None

    def exec_module(self, module: types.ModuleType) -> None:
        vars(module)["__getattr__"] = NullPlot().__getattr__


class AllowedPackages(importlib.abc.MetaPathFinder):
    """Refuses packages other than NumPy, so that grades are the same on every machine.

    package : the submission's package
    """

    def __init__(self, package: str) -> None:
        self._known = {*sys.stdlib_module_names, "numpy", package}

    def find_spec(self, name: str, *_: Any) -> None:
        first = name.partition(".")[0]
        if first not in self._known and not first.startswith("_"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def load(name: str) -> types.ModuleType:
    """Import a module of the submission; a failed import is not tried again."""
    if name in FAILED:
        raise FAILED[name]
    try:
        return importlib.import_module(name)  # noqa: TID251 - what a student wrote
    except BaseException as error:
        FAILED[name] = error
        raise


class BareNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds files of the package by their bare names too, as the same modules.

    folders : folders whose files may be imported by bare names, such as "cs231n/classifiers"
    """

    def __init__(self, root: Path, folders: Iterable[str]) -> None:
        self._dotted: dict[str, str] = {}
        for folder in folders:
            for path in (root / folder).iterdir():
                self._dotted.setdefault(path.stem, f"{folder}/{path.stem}".replace("/", "."))

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        first, dot, rest = name.partition(".")
        if first not in self._dotted or first in sys.stdlib_module_names:
            return None
        return ModuleSpec(name, self, origin=f"{self._dotted[first]}{dot}{rest}")

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        module = importlib.import_module(str(spec.origin))  # noqa: TID251 - what a student wrote
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        # The module is imported by its full name; importlib has replaced its spec
        assert module.__spec__
        module.__spec__ = module.__spec__.loader_state


def paired(
    theirs: Any, forward: Callable[..., Any], backward: Callable[..., Any]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A reference layer that returns the submission's caches, since its loops may unpack them.

    theirs : the submission's forward pass; None if it is not written
    """
    number = len(inspect.signature(forward).parameters)
    caches: list[tuple[Any, Any]] = []  # the submission's, the reference's

    def paired_forward(*arguments: Any, **named: Any) -> tuple[Any, ...]:
        ordered = in_order(theirs, arguments, named)
        *results, cache = forward(*ordered[:number])
        shown = cache
        with contextlib.suppress(Exception):  # the code may be wrong, or not written
            shown = copy.copy(theirs(*map(np.array, ordered))[-1])
        if any(
            shown is known for known, _ in caches
        ):  # the same object for all calls, such as None
            shown = cache
        caches.append((shown, cache))
        return (*results, shown)

    def paired_backward(*arguments: Any, **named: Any) -> Any:
        *upstream, shown = (*arguments, *named.values())
        same = [cache for known, cache in caches if known is shown]
        same = same or [cache for known, cache in caches if is_equal(known, shown)]
        return backward(*upstream, same[0] if same else shown)

    return paired_forward, paired_backward


def in_order(
    function: Any, arguments: tuple[Any, ...], named: Mapping[str, Any]
) -> tuple[Any, ...]:
    """Arguments by position, since a submission may call them differently."""
    with contextlib.suppress(TypeError, ValueError):  # the function is missing, or has no signature
        bound = inspect.signature(function).bind(*arguments, **named)
        return (*bound.args, *bound.kwargs.values())
    return (*arguments, *named.values())


def is_equal(cache: Any, other: Any) -> bool:
    """True if two caches have equal values: a loop may rebuild a cache."""
    if isinstance(cache, tuple | list) and isinstance(other, tuple | list):
        return len(cache) == len(other) and all(map(is_equal, cache, other))
    numbers = (np.ndarray, np.generic, int, float)
    return (
        isinstance(cache, numbers) and isinstance(other, numbers) and np.array_equal(cache, other)
    )


def file_of(module: types.ModuleType) -> str:
    return str(getattr(module, "__file__", None))


class Submission:
    """The student's modules, and the lines of their files.

    root : the folder that contains the package
    shown : file in `root` to the student's name of it
    """

    def __init__(self, root: Path, shown: Mapping[str, str]) -> None:
        self._root = os.path.join(os.path.realpath(root), "")  # noqa: PTH118
        self._shown = shown
        self._replaced: set[str] = set()

    def function(self, location: str) -> Any:
        """The function or class at "module:name"."""
        module, _, name = location.partition(":")
        return getattr(load(module), name)

    def replace(
        self, locations: Mapping[str, str], reference: types.ModuleType, modules: Iterable[str]
    ) -> None:
        """Replace the submission's functions by the reference's, in all variables of its modules.

        locations : name of a function to the "module:name" where it is, or should be; "module:" for
            a module that cannot be imported, which the reference module replaces
        modules : modules that may hold the functions, even if a missing function breaks their import
        """
        pending = {name: place for name, place in locations.items() if name not in self._replaced}
        self._replaced |= set(pending)
        FAILED.clear()  # imports may have failed because a function was missing
        for location in pending.values():
            if location.endswith(":"):
                dotted = location.removesuffix(":")
                sys.modules[dotted] = sys.modules[dotted.rpartition(".")[2]] = reference
        for name in modules:
            with contextlib.suppress(Exception):
                load(name)
        locations = {name: place for name, place in pending.items() if not place.endswith(":")}
        homes = {name: load(place.partition(":")[0]) for name, place in locations.items()}
        functions = {name: vars(home).get(name) for name, home in homes.items()}
        new = {name: getattr(reference, name) for name in functions}
        for name in [name for name in functions if name.endswith("_forward")]:
            if (backward := name.replace("_forward", "_backward")) in functions:
                new[name], new[backward] = paired(functions[name], new[name], new[backward])
        theirs = [module for module in list(sys.modules.values()) if self.shown(file_of(module))]
        for name, function in functions.items():
            setattr(homes[name], name, new[name])
            for module in theirs:
                bound = [key for key, value in vars(module).items() if value is function]
                for key in bound if function is not None else []:
                    if key == name or key not in new:  # one function may have two of the names
                        setattr(module, key, new[name])
        FAILED.clear()

    def shown(self, file: str) -> str:
        """The student's name of a file; "" for any other file."""
        inside = os.path.realpath(file).removeprefix(self._root)
        return self._shown.get(inside.replace(os.sep, "/"), "")

    def described(self, error: BaseException, called: Iterable[Any] = ()) -> dict[str, Any]:
        """An error with the student's last line that led to it, or the function if the call failed."""
        try:
            message = error.msg if isinstance(error, SyntaxError) else str(error)
        except BaseException:  # the student's own error class may raise
            message = "an error that cannot be printed"
        lines = [
            (function.__code__.co_filename, function.__code__.co_firstlineno)
            for function in called
            if isinstance(function, types.FunctionType)
        ]
        lines += [
            (frame.f_code.co_filename, line)
            for frame, line in traceback.walk_tb(error.__traceback__)
        ]
        if isinstance(error, SyntaxError):
            lines.append((error.filename or "", error.lineno or 0))
        note = {"type": type(error).__name__[:MAX_NAME], "message": str(message)[:MAX_ERROR_TEXT]}
        for file, line in reversed(lines):
            if own_name := self.shown(file):
                text = linecache.getline(file, line).strip()
                return {**note, "file": own_name, "line": int(line), "text": text[:200]}
        return {**note, "file": "", "line": 0, "text": ""}


def answer(
    question: Mapping[str, Any],
    inputs: Mapping[str, np.ndarray],
    submission: Submission,
    probes: Any,
) -> Any:
    """The record of a question: "import" of modules, or a probe."""
    called: list[Any] = []
    record = probes.Record(lambda error: submission.described(error, called))
    with record.stage("import"):
        if question["replaced"]:
            submission.replace(question["replaced"], sys.modules[REFERENCE], question["modules"])
        for module in question["modules"]:
            load(module)
        called += [submission.function(location) for location in question["functions"]]
    if question["probe"] and "import" not in record.notes:
        cases: dict[str, dict[str, np.ndarray]] = {}
        for name in question["inputs"]:
            _, case, argument = name.split("/")
            cases.setdefault(case, {})[argument] = inputs[name]
        probed = called if question["probe"] == "backward" else called[0]
        probes.PROBES[question["probe"]](probed, question["names"], cases, record)
    return record


def limit(memory: float) -> None:
    """Limit the memory of this process, in GB beyond what it has, and the size of its files."""
    if importlib.util.find_spec("resource") is None:  # Windows
        return
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE, MAX_FILE))
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        max_bytes = pages * resource.getpagesize() + int(memory * 1e9)
        resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))


def write_answer(file: Path, record: Any) -> None:
    """Write the arrays, then the notes, whose file shows that both are complete."""
    np.savez(file.with_suffix(".npz"), **record.arrays)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(record.notes), encoding="utf-8", errors="replace")
    part.rename(file.with_suffix(".json"))


def main() -> None:
    """Answer the questions of the plan whose numbers are the arguments."""
    folder = Path(__file__).parent
    numbers = list(map(int, sys.argv[1:]))
    faults = os.dup(2)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):  # nobody reads what a submission prints
        os.dup2(null, descriptor)
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    with np.load(folder / "inputs.npz", allow_pickle=False) as file:
        inputs = dict(file)
    sys.path.insert(0, str(folder))
    import probes  # type: ignore[import-not-found]

    importlib.import_module(REFERENCE)  # noqa: TID251 - ours, while this folder is on the path
    root = folder / "files"
    sys.path[0] = str(root)
    sys.meta_path[:0] = [
        BareNames(root, plan["folders"]),
        NullMatplotlib(),
        AllowedPackages(plan["folders"][0]),
    ]
    sys.argv = [""]
    builtins.print = lambda *_, **__: None  # formatting arrays takes long
    submission = Submission(root, plan["shown"])
    faulthandler.enable(faults)
    limit(plan["memory"])
    try:
        for number in numbers:
            random.seed(plan["seed"])
            np.random.seed(plan["seed"])
            faulthandler.dump_traceback_later(plan["seconds"], exit=True, file=faults)
            record = answer(plan["questions"][number], inputs, submission, probes)
            faulthandler.cancel_dump_traceback_later()
            write_answer(folder / ANSWERS / str(number), record)
    except MemoryError as error:
        lines = traceback.format_tb(error.__traceback__)
        # The latest line comes first, as faulthandler writes it
        os.write(faults, "".join(reversed(lines)).encode("utf-8", "replace"))
        os._exit(OUT_OF_MEMORY)
    os._exit(0)


if __name__ == "__main__":
    main()
