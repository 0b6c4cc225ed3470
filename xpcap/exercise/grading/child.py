"""The process that runs a submission: it answers the questions of a plan, each by a file, and ends.

A script, copied into the folder that it reads. It imports NumPy, the standard library and the files
beside it. A question names a probe of probes.py, functions of the submission and arrays; the answer is
the observed arrays, NUMBER.npz, and notes, NUMBER.json, which is there once both are whole.
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

MOST_NAME, MOST_TEXT = 100, 500  # characters of the name of a type, and of an error
OUT_OF_MEMORY = 77  # exit status
FAILED: dict[str, BaseException] = {}  # why modules could not be imported
RIGHT = "right_layers"  # a module of right functions, where a question asks above these
ANSWERS, FAULTS = "answers", "faults.txt"  # a folder, and what faulthandler writes
MAX_FILE = 10 * 2**20  # bytes


class Nothing:
    """A plot that is not drawn: it has every attribute, and every call gives it back."""

    def __getattr__(self, name: str) -> "Nothing":
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: Any, **__: Any) -> "Nothing":
        return self

    def __getitem__(self, _: Any) -> "Nothing":
        return self

    def __setitem__(self, *_: Any) -> None:
        pass

    def __iter__(self) -> Iterator["Nothing"]:
        return iter((self, self))  # a figure and its axes


class Plots(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules of Matplotlib in which nothing is drawn: files of the course often import it."""

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        is_plot = name.partition(".")[0] == "matplotlib"
        return ModuleSpec(name, self, is_package=True) if is_plot else None

    def exec_module(self, module: types.ModuleType) -> None:
        vars(module)["__getattr__"] = Nothing().__getattr__


class Only(importlib.abc.MetaPathFinder):
    """Refuses other packages than NumPy, so that a file is graded alike on every machine.

    package : the submission's
    """

    def __init__(self, package: str) -> None:
        self._known = {*sys.stdlib_module_names, "numpy", package}

    def find_spec(self, name: str, *_: Any) -> None:
        first = name.partition(".")[0]
        if first not in self._known and not first.startswith("_"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def load(name: str) -> types.ModuleType:
    """Import a module of the submission, once also if that fails. No other line of the package runs
    what a file says.
    """
    if name in FAILED:
        raise FAILED[name]
    try:
        return importlib.import_module(name)  # noqa: TID251 - what a student wrote
    except BaseException as error:
        FAILED[name] = error
        raise


class Bare(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds files of the package by their bare names too, as the same modules.

    folders : that files import each other from without a package, as "cs231n/classifiers"
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
        """It ran, or runs, by its whole name; importlib has put another spec into it."""
        assert module.__spec__
        module.__spec__ = module.__spec__.loader_state


def paired(
    theirs: Any, forward: Callable[..., Any], backward: Callable[..., Any]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A right layer that hands out the caches of the submission's, in which its code may look.

    theirs : the submission's forward pass; None where it is not written
    """
    number = len(inspect.signature(forward).parameters)
    caches: list[tuple[Any, Any]] = []  # theirs, and the right one

    def there(*arguments: Any, **named: Any) -> tuple[Any, ...]:
        given = in_order(theirs, arguments, named)
        *results, cache = forward(*given[:number])
        shown = cache
        with contextlib.suppress(Exception):  # of code that is wrong, or not written
            shown = copy.copy(theirs(*map(np.array, given))[-1])
        if any(shown is own for own, _ in caches):  # one for all calls, such as None
            shown = cache
        caches.append((shown, cache))
        return (*results, shown)

    def back(*arguments: Any, **named: Any) -> Any:
        *upstream, shown = (*arguments, *named.values())
        same = [right for own, right in caches if own is shown]
        same = same or [right for own, right in caches if alike(own, shown)]
        return backward(*upstream, same[0] if same else shown)

    return there, back


def in_order(
    function: Any, arguments: tuple[Any, ...], named: Mapping[str, Any]
) -> tuple[Any, ...]:
    """Arguments by place, whatever their names are in a function of the submission's."""
    with contextlib.suppress(TypeError, ValueError):  # it is not there, or has no signature
        bound = inspect.signature(function).bind(*arguments, **named)
        return (*bound.args, *bound.kwargs.values())
    return (*arguments, *named.values())


def alike(cache: Any, other: Any) -> bool:
    """True of a cache that a loop built anew of the same values."""
    if isinstance(cache, tuple | list) and isinstance(other, tuple | list):
        return len(cache) == len(other) and all(map(alike, cache, other))
    numbers = (np.ndarray, np.generic, int, float)
    return (
        isinstance(cache, numbers) and isinstance(other, numbers) and np.array_equal(cache, other)
    )


def file_of(module: types.ModuleType) -> str:
    return str(getattr(module, "__file__", None))


class Submission:
    """The student's modules, and the lines of their files.

    root : the folder that has the package
    shown : file in `root` to the student's name of it
    """

    def __init__(self, root: Path, shown: Mapping[str, str]) -> None:
        self._root = os.path.join(os.path.realpath(root), "")  # noqa: PTH118
        self._shown = shown
        self._exchanged: set[str] = set()

    def function(self, place: str) -> Any:
        """The function or class at "module:name"."""
        module, _, name = place.partition(":")
        return getattr(load(module), name)

    def exchange(
        self, places: Mapping[str, str], right: types.ModuleType, modules: Iterable[str]
    ) -> None:
        """Put right functions in the place of the submission's, in all variables of its modules.

        places : name of a function to where it is or is missed, "module:name"; of a module that
            cannot be imported "module:", and the right module takes its place
        modules : those that may hold it; also if a missing function keeps them from being imported
        """
        new_places = {name: place for name, place in places.items() if name not in self._exchanged}
        self._exchanged |= set(new_places)
        FAILED.clear()  # what failed for want of a function
        for place in new_places.values():
            if place.endswith(":"):
                dotted = place.removesuffix(":")
                sys.modules[dotted] = sys.modules[dotted.rpartition(".")[2]] = right
        for name in modules:
            with contextlib.suppress(Exception):
                load(name)
        places = {name: place for name, place in new_places.items() if not place.endswith(":")}
        homes = {name: load(place.partition(":")[0]) for name, place in places.items()}
        functions = {name: vars(home).get(name) for name, home in homes.items()}
        new = {name: getattr(right, name) for name in functions}
        for name in [name for name in functions if name.endswith("_forward")]:
            if (back := name.replace("_forward", "_backward")) in functions:
                new[name], new[back] = paired(functions[name], new[name], new[back])
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
        """The student's name of a file; "" of any other file."""
        inside = os.path.realpath(file).removeprefix(self._root)
        return self._shown.get(inside.replace(os.sep, "/"), "")

    def described(self, error: BaseException, called: Iterable[Any] = ()) -> dict[str, Any]:
        """An error, with the student's last line that led to it, or of a wrong call the function's."""
        try:
            message = error.msg if isinstance(error, SyntaxError) else str(error)
        except BaseException:  # of the student's own error class
            message = "an error that cannot be printed"
        lines = [
            (one.__code__.co_filename, one.__code__.co_firstlineno)
            for one in called
            if isinstance(one, types.FunctionType)
        ]
        lines += [
            (frame.f_code.co_filename, line)
            for frame, line in traceback.walk_tb(error.__traceback__)
        ]
        if isinstance(error, SyntaxError):
            lines.append((error.filename or "", error.lineno or 0))
        found = {"type": type(error).__name__[:MOST_NAME], "message": str(message)[:MOST_TEXT]}
        for file, line in reversed(lines):
            if own := self.shown(file):
                text = linecache.getline(file, line).strip()
                return {**found, "file": own, "line": int(line), "text": text[:200]}
        return {**found, "file": "", "line": 0, "text": ""}


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
        if question["right"]:
            submission.exchange(question["right"], sys.modules[RIGHT], question["modules"])
        for module in question["modules"]:
            load(module)
        called += [submission.function(place) for place in question["functions"]]
    if question["probe"] and "import" not in record.notes:
        cases: dict[str, dict[str, np.ndarray]] = {}
        for name in question["inputs"]:
            _, case, argument = name.split("/")
            cases.setdefault(case, {})[argument] = inputs[name]
        given = called if question["probe"] == "backward" else called[0]
        probes.PROBES[question["probe"]](given, question["names"], cases, record)
    return record


def limit(memory: float) -> None:
    """Limits of this process, where the system has any: GB beyond what it has, and files."""
    if importlib.util.find_spec("resource") is None:  # Windows
        return
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE, MAX_FILE))
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + int(memory * 1e9)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def write_answer(file: Path, record: Any) -> None:
    """Write arrays and notes; the last one is there once both are whole."""
    np.savez(file.with_suffix(".npz"), **record.arrays)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(record.notes), encoding="utf-8", errors="replace")
    part.rename(file.with_suffix(".json"))


def main() -> None:
    """Answer the questions of the plan whose numbers the arguments are."""
    folder, asked = Path(__file__).parent, list(map(int, sys.argv[1:]))
    faults, nowhere = os.dup(2), os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):  # nobody reads what a submission prints
        os.dup2(nowhere, descriptor)
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    with np.load(folder / "inputs.npz", allow_pickle=False) as file:
        inputs = dict(file)
    sys.path.insert(0, str(folder))
    import probes  # type: ignore[import-not-found]

    importlib.import_module(RIGHT)  # noqa: TID251 - ours, while this folder is on the path
    root = folder / "files"
    sys.path[0] = str(root)
    sys.meta_path[:0] = [Bare(root, plan["folders"]), Plots(), Only(plan["folders"][0])]
    sys.argv = [""]
    builtins.print = lambda *_, **__: None  # arrays as text take long
    submission = Submission(root, plan["shown"])
    faulthandler.enable(faults)
    limit(plan["memory"])
    try:
        for number in asked:
            random.seed(plan["seed"])
            np.random.seed(plan["seed"])
            faulthandler.dump_traceback_later(plan["seconds"], exit=True, file=faults)
            record = answer(plan["questions"][number], inputs, submission, probes)
            faulthandler.cancel_dump_traceback_later()
            write_answer(folder / ANSWERS / str(number), record)
    except MemoryError as error:
        lines = traceback.format_tb(error.__traceback__)
        os.write(
            faults, "".join(reversed(lines)).encode("utf-8", "replace")
        )  # as faulthandler does
        os._exit(OUT_OF_MEMORY)
    os._exit(0)


if __name__ == "__main__":
    main()
