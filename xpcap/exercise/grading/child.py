"""The process that runs a submission: it answers the questions of a plan, each in a frame, and ends.

A script, copied into the folder that it reads. It imports NumPy, the standard library and the files
beside it. A question names a probe of probes.py, functions of the submission and arrays; the frame
that answers has eight bytes of length, then the observations in the form of safetensors.
"""

import builtins
import faulthandler
import importlib
import importlib.abc
import json
import linecache
import os
import struct
import sys
import traceback
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # first of all, and before NumPy, whose folder the settings name
    sys.path.insert(0, str(Path(__file__).parent))
    import hardening  # type: ignore[import-not-found]

    hardening.harden()

import numpy as np

MOST_NAME, MOST_TEXT = 100, 500  # characters of the name of a type, and of an error
BEGIN = struct.pack("<Q", 0)  # an empty frame: a question begins
OUT_OF_MEMORY = 77  # exit status
DTYPES = {  # of safetensors, by NumPy's characters
    np.dtype(name).char: text
    for text, name in (
        *(("BOOL", "bool"), ("F16", "f2"), ("F32", "f4"), ("F64", "f8")),
        *((f"{kind.upper()}{8 * size}", f"{kind}{size}") for kind in "iu" for size in (1, 2, 4, 8)),
    )
}


class NoXpcap(importlib.abc.MetaPathFinder):
    """Says why xpcap cannot be imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] == "xpcap":
            raise ImportError(
                f"{name} is what this code is graded against; a submission cannot import it",
                name=name,
            )


def load(name: str) -> types.ModuleType:
    """Import a module of the submission. No other line of the package runs what a file says."""
    return importlib.import_module(name)  # noqa: TID251 - what a student wrote


class Submission:
    """The student's modules, and the lines of their files.

    root : the folder that has the package
    shown : file in `root` to the student's name of it
    """

    def __init__(self, root: Path, shown: Mapping[str, str]) -> None:
        self._root = os.path.join(os.path.realpath(root), "")  # noqa: PTH118
        self._shown = shown

    def function(self, place: str) -> Any:
        """The function or class at "module:name"."""
        module, _, name = place.partition(":")
        return getattr(load(module), name)

    def replace(self, name: str, function: Any) -> None:
        """Put a function in the place of the submission's, in every module of it that has one."""
        for module in list(sys.modules.values()):
            if self.shown(str(getattr(module, "__file__", None))) and name in vars(module):
                setattr(module, name, function)

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


def frame(arrays: Mapping[str, np.ndarray], notes: Mapping[str, Any]) -> bytes:
    """Observations as safetensors, after their length."""
    header: dict[str, Any] = {"__metadata__": {"notes": json.dumps(notes)}}
    pieces, end = [], 0
    for name, value in arrays.items():
        array = value if value.dtype.char in DTYPES else value.astype(float)
        pieces.append(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
        begin, end = end, end + len(pieces[-1])
        header[name] = {"dtype": DTYPES[array.dtype.char], "shape": array.shape}
        header[name]["data_offsets"] = [begin, end]
    text = json.dumps(header).encode("ascii")
    content = b"".join([struct.pack("<Q", len(text)), text, *pieces])
    return struct.pack("<Q", len(content)) + content


def send(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def answer(
    question: Mapping[str, Any],
    inputs: Mapping[str, np.ndarray],
    submission: Submission,
    probes: Any,
) -> bytes:
    """The frame for a question: "import" of modules, or a probe."""
    called: list[Any] = []
    record = probes.Record(lambda error: submission.described(error, called))
    with record.stage("import"):
        for module in question["modules"]:
            load(module)
        for name, place in question["replaced"].items():
            submission.replace(name, submission.function(place))
        called += [submission.function(place) for place in question["functions"]]
    if question["probe"] and "import" not in record.notes:
        cases: dict[str, dict[str, np.ndarray]] = {}
        for name in question["inputs"]:
            _, case, argument = name.split("/")
            cases.setdefault(case, {})[argument] = inputs[name]
        given = called if question["probe"] in ("backward", "by_steps") else called[0]
        probes.PROBES[question["probe"]](given, question["names"], cases, record)
    return frame(record.arrays, record.notes)


def main() -> None:
    """Answer the plan's questions, from the first that is asked for."""
    folder, first = Path(__file__).parent, int(sys.argv[1])
    answers, faults, nowhere = os.dup(1), os.dup(2), os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):  # nobody reads what a submission prints
        os.dup2(nowhere, descriptor)
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    with np.load(folder / "inputs.npz", allow_pickle=False) as file:
        inputs = dict(file)
    import probes  # type: ignore[import-not-found]

    if (folder / "unmarked.py").exists():
        import unmarked  # type: ignore[import-not-found]

        probes.PROBES.update(unmarked.PROBES)
    root = folder / "files"
    sys.path[0] = str(root)
    # for files that import each other without a package
    sys.path += [str(root / one) for one in plan["folders"]]
    sys.meta_path.insert(0, NoXpcap())
    sys.argv = [""]
    builtins.print = lambda *_, **__: None  # arrays as text take long
    submission = Submission(root, plan["shown"])
    faulthandler.enable(faults)
    try:
        for question in plan["questions"][first:]:
            send(answers, BEGIN)
            faulthandler.dump_traceback_later(plan["seconds"], exit=True, file=faults)
            content = answer(question, inputs, submission, probes)
            faulthandler.cancel_dump_traceback_later()
            send(answers, content)
    except MemoryError as error:
        lines = traceback.format_tb(error.__traceback__)
        os.write(
            faults, "".join(reversed(lines)).encode("utf-8", "replace")
        )  # as faulthandler does
        os._exit(OUT_OF_MEMORY)
    os._exit(0)


if __name__ == "__main__":
    main()
