"""Grade a submission: ask its files in processes of their own, judge what was observed.

The functions, the points and what the mark is of are fixed before a file is read; inputs are drawn
from a digest of all files and the teacher's seed. A process holds one marked file. Code of ours
enters it only where nothing is marked that this code contains: so a captioner is asked above right
layers, and where a step is wrong, the sequence above a right step.
"""

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xpcap.errors import OptionError, unknown
from xpcap.exercise import table
from xpcap.exercise.grading import expected
from xpcap.exercise.grading import judge as judging
from xpcap.exercise.grading.cases import Cases, Draw
from xpcap.exercise.grading.confine import Confinement, confinement
from xpcap.exercise.grading.files import HandedIn, dotted, find, read
from xpcap.exercise.grading.judge import NOT_WRITTEN, Judged, judge
from xpcap.exercise.grading.report import Report, Result
from xpcap.exercise.grading.run import Observation, Question, Stopped, ask
from xpcap.options import Real
from xpcap.threads import blas

__all__ = ["Report", "Result", "grade", "grade_submission"]

GIVEN = ("affine_forward", "affine_backward")  # what the course's layers.py has
RIGHT = "right_steps"  # a module of them, and no more
STEPS = ("sigmoid", *(one for one in table.FUNCTIONS if "_step_" in one))
GRADED = tuple(dict.fromkeys(one.module for one in table.FUNCTIONS.values()))


def grade(
    submission: str | Path,
    *,
    expect: Sequence[str] | None = None,
    seed: int = 0,
    only: Sequence[str] = (),
    seconds: float = 10.0,
    memory: float = 2.0,
    require_confinement: bool = False,
    on_result: Callable[[Result], None] | None = None,
) -> list[Result]:
    """Grade the functions of a student's file, folder or module, in the order of the course.

    Parameters
    ----------
    submission : str or Path
        A file such as rnn_layers.py, a folder such as cs231n/, or a module's dotted name.
    expect : sequence of str or None
        Modules that are to be there, such as "rnn_layers", "rnn", "optim". None: of a folder what
        the handout has students write, "rnn_layers" and "rnn"; of a file what it defines.
    seed : int
        Draws other inputs.
    only : sequence of str
        Patterns of function names, as in a shell. None: all.
    seconds : float
        Limit of the checks of one function; those of a file have six times that in all.
    memory : float
        Limit of a process, in GB.
    require_confinement : bool
        Refuse to run the submission where the system cannot confine it.
    on_result : callable or None
        Called with each result when it is there.

    Returns
    -------
    results : list of Result
        One for each function, or several for several mistakes; one for a file that is missing or
        cannot be imported.

    Raises
    ------
    DataError
        No such file or module, or nothing of the course in it.
    OptionError
        No function has a name of `only`; no such module; no confinement though required.
    """
    report = grade_submission(
        submission,
        expect=expect,
        seed=seed,
        only=only,
        seconds=seconds,
        memory=memory,
        require_confinement=require_confinement,
        on_result=on_result,
    )
    return list(report.results)


def grade_submission(
    submission: str | Path,
    *,
    expect: Sequence[str] | None = None,
    seed: int = 0,
    only: Sequence[str] = (),
    seconds: float = 10.0,
    memory: float = 2.0,
    require_confinement: bool = False,
    on_result: Callable[[Result], None] | None = None,
    confined: Confinement | None = None,
) -> Report:
    """The report of a submission; arguments and errors as of `grade`.

    `confined` is of a class, whose processes need not try each way again.
    """
    expect, only = None if expect is None else tuple(expect), tuple(only)
    for module in expect or ():
        if module not in GRADED:
            raise unknown("grade", "`expect`", module, GRADED)
    seconds = Real(above=0).check("grade", "`seconds`", seconds)
    memory = Real(above=0).check("grade", "`memory`", memory)
    confined = confined or confinement(require=require_confinement)
    handed = read(submission)
    if expect is None:
        expect = tuple(handed.homes) if find(submission).is_file() else table.HANDED_IN
    state = np.random.get_state()
    try:
        with blas().on_one_thread():  # small products, beside the submission's own processes
            grading = _Grading(handed, expect, seed, confined, seconds, memory)
            return grading.report(only, on_result)
    finally:
        np.random.set_state(state)


class _Asked(NamedTuple):
    """What was observed of a file: why it cannot be imported, else each function."""

    broken: Observation | Stopped | None
    seen: Mapping[str, Observation | Stopped]


class _Grading:
    """One submission: what was asked of it, and the verdicts so far."""

    def __init__(
        self,
        handed: HandedIn,
        expect: Sequence[str],
        seed: int,
        confined: Confinement,
        seconds: float,
        memory: float,
    ) -> None:
        self._handed, self._expect, self._confined = handed, expect, confined
        self._limits = {"seconds": seconds, "memory": memory}
        self._seed = handed.digest(seed)
        self._draw = Draw(self._seed, handed.files.values())
        self._cases: dict[str, Cases] = {}
        self._right: dict[str, Observation] = {}
        self._verdicts: dict[str, Judged] = {}
        self._broken: set[str] = set()  # modules that cannot be imported
        self._above: Future[_Asked] | None = None  # the captioner above right layers

    def report(self, only: Sequence[str], on_result: Callable[[Result], None] | None) -> Report:
        rows = [row for row in table.FUNCTIONS.values() if self._is_graded(row)]
        chosen = {row.name for row in rows if _matches(row.name, only)}
        if not chosen:
            thing = f"none of {', '.join(row.name for row in rows)}"
            raise OptionError("grade", thing, f"is named {' or '.join(only)}", "patterns of these")
        # What a chosen function calls is graded too: what is wrong may follow from it
        below = {name for one in chosen for name in table.calls(one)}
        results: list[Result] = []
        with ThreadPoolExecutor(1) as thread:
            written = [one for one in rows if one.module == "rnn" and one.name in chosen]
            if written and "rnn" in self._handed.homes and (files := self._above_layers()):
                # needs no verdict on the layers, and is asked while these are
                self._above = thread.submit(self._asked, "rnn", written, files)
            for module in GRADED:
                of = [row for row in rows if row.module == module and row.name in chosen | below]
                for result in self._module(module, of) if of else ():
                    if result.function in chosen or result.function not in table.FUNCTIONS:
                        results.append(result)
                        if on_result is not None:
                            on_result(result)
        there = set(self._handed.homes) - self._broken
        missing = [module for module in self._expect if module not in there]
        return Report(
            results, self._expect, missing, self._confined.says, self._seed, self._handed.notes
        )

    def _is_graded(self, row: table.Function) -> bool:
        """True of what students write, and of what the course gives where they brought it."""
        home = self._handed.homes.get(row.module, {})
        return row.defined in home or (row.module in self._expect and row.points > 0)

    def _module(self, module: str, rows: Sequence[table.Function]) -> list[Result]:
        """The results of the functions of a module."""
        file = table.FILES[module].rpartition("/")[2]
        home = self._handed.homes.get(module)
        if home is None:
            return [_missing(file, file in map(_name, self._handed.shown.values()))]
        written = [row for row in rows if row.defined in home]
        self._verdicts |= {row.name: _unwritten(row) for row in rows if row not in written}
        asked = self._captioner(written) if module == "rnn" else self._asked(module, written)
        if asked.broken is not None:
            self._broken.add(module)
            return [_not_imported(file, asked.broken)]
        for row in written:
            if row.name not in self._verdicts:
                self._verdicts[row.name] = self._judged(row, asked.seen[row.name])
        if module == "rnn_layers":
            self._follow(written, asked.seen)
        if module == "rnn":
            self._verdicts |= judging.told_once(
                {row.name: self._verdicts[row.name] for row in written}
            )
        return [one for row in rows for one in self._verdicts[row.name].results]

    # Questions

    def _captioner(self, rows: Sequence[table.Function]) -> _Asked:
        """A captioner above right layers; where it is wrong there, and they are too, above its own."""
        if self._above is None:
            return self._asked("rnn", rows)
        above = self._above.result()
        judged = {
            name: self._judged(table.FUNCTIONS[name], one, []) for name, one in above.seen.items()
        }
        layers = [name for name in self._verdicts if not self._verdicts[name].passed]
        # also where it raised, as one that reads a cache of its own layers does
        doubtful = [
            name for name, one in judged.items() if not one.passed and (layers or one.raised)
        ]
        if doubtful or above.broken:
            own = self._asked("rnn", rows)
            if above.broken:
                return own
            for name in () if own.broken else doubtful:
                again = self._judged(table.FUNCTIONS[name], own.seen[name])
                if again.passed or judged[name].raised:
                    judged[name] = again
        self._verdicts |= judged
        return above

    def _asked(
        self,
        module: str,
        rows: Sequence[table.Function],
        files: Mapping[str, bytes] | None = None,
    ) -> _Asked:
        """What is observed of functions of a module, by default beside the submission's own files."""
        imports = sorted({dotted(file) for file in self._handed.homes[module].values()})
        questions = [Question(module, "", imports)]
        questions += [self._question(row, expected.probe_of(row), row.passes) for row in rows]
        first, *answers = self._answers(self._files(module) if files is None else files, questions)
        if isinstance(first, Stopped) or first.error("import"):
            return _Asked(first, {})
        return _Asked(None, dict(zip((row.name for row in rows), answers, strict=True)))

    def _answers(
        self, files: Mapping[str, bytes], questions: Sequence[Question], unmarked: bool = False
    ) -> list[Observation | Stopped]:
        if not questions:
            return []
        shown = {file: name for file, name in self._handed.shown.items() if file in files}
        return ask(files, shown, questions, self._confined, **self._limits, unmarked=unmarked)

    def _question(
        self,
        row: table.Function,
        probe: str,
        functions: Sequence[str],
        names: Sequence[str] | None = None,
        replaced: Mapping[str, str] | None = None,
    ) -> Question:
        places = [self._place(row.module, name) for name in functions]
        modules = [place.partition(":")[0] for place in places]
        names = expected.names_of(row) if names is None else names
        return Question(row.name, probe, modules, places, names, self._of(row), replaced or {})

    def _of(self, row: table.Function) -> Cases:
        if row.name not in self._cases:
            self._cases[row.name] = self._draw.cases(row.name)
        return self._cases[row.name]

    def _place(self, module: str, name: str) -> str:
        """Where a function of the submission is, as "module:name"."""
        return f"{dotted(self._handed.homes[module].get(name, table.FILES[module]))}:{name}"

    # Files

    def _files(self, marked: str) -> dict[str, bytes]:
        """The submission's files, and beside them what the course gives.

        A module that is marked, or that students were to write, is theirs alone.
        """
        theirs = {*self._expect, marked, *table.HANDED_IN}
        given = {
            file: table.source(module, table.PACKAGE).encode("utf-8")
            for module, file in table.FILES.items()
            if module not in theirs
        }
        layers = table.part("rnn_layers", GIVEN).encode("utf-8")
        return {**given, "layers.py": layers, **self._handed.files}

    def _above_layers(self) -> dict[str, bytes] | None:
        """Files with right layers in place of the submission's; None where one file has both."""
        homes = self._handed.homes
        layers = {*homes.get("rnn_layers", {}).values(), table.FILES["rnn_layers"]}
        if layers & set(homes["rnn"].values()):
            return None
        right = table.source("rnn_layers", table.PACKAGE).encode("utf-8")
        return {**self._files("rnn"), **dict.fromkeys(layers, right)}

    # Verdicts

    def _judged(
        self,
        row: table.Function,
        seen: Observation | Stopped,
        wrong: Sequence[str] | None = None,
    ) -> Judged:
        """The verdict on what was seen; `wrong` functions below, by default those found wrong."""
        if row.name not in self._right:
            self._right[row.name] = expected.reference(row, self._of(row))
        seen = expected.until_end(row, seen, self._of(row))
        if wrong is None:
            calls = table.calls(row.name)
            wrong = [name for name in self._verdicts if name in calls]
            wrong = [name for name in wrong if not self._verdicts[name].passed]
        return judge(row, seen, self._right[row.name], self._of(row), wrong, self._verdicts)

    def _follow(
        self, rows: Sequence[table.Function], seen: Mapping[str, Observation | Stopped]
    ) -> None:
        """Give back what only follows: gradients of a wrong forward pass, loops over a wrong step.

        Both need code of ours beside theirs, so they are asked in processes that mark nothing else.
        """
        wrong = [
            row
            for row in rows
            if not self._verdicts[row.name].passed and isinstance(seen[row.name], Observation)
        ]
        slopes = [row for row in wrong if row.forward and self._is_named(row.forward)]
        loops = [row for row in wrong if row.step and self._wrong_steps(row)]
        self._follow_slopes(slopes, seen)
        loops = [row for row in loops if not self._verdicts[row.name].passed]
        self._follow_loops(loops, seen)

    def _is_named(self, name: str) -> bool:
        """True of a wrong function all of whose mistakes are known."""
        one = self._verdicts.get(name)
        return one is not None and not one.passed and one.named is not None and one.named.whole

    def _wrong_steps(self, row: table.Function) -> list[str]:
        """Steps that a sequence calls and that are wrong, or not written."""
        steps = {row.step, row.step.replace("_backward", "_forward")}
        return [name for name, one in self._verdicts.items() if name in steps and not one.passed]

    def _follow_slopes(
        self,
        rows: Sequence[table.Function],
        seen: Mapping[str, Observation | Stopped],
    ) -> None:
        """Hold backward passes to central differences of the student's own forward pass."""
        questions = []
        for row in rows:
            arguments = table.FUNCTIONS[row.forward].arguments
            names = [name for name in arguments if table.gradient(name) in row.results]
            questions.append(self._question(row, "slopes", [row.forward], names))
        answers = self._answers(self._files("rnn_layers"), questions, unmarked=True)
        for row, answer in zip(rows, answers, strict=True):
            given = judging.for_own_forward(row, seen[row.name], answer)
            if given is not None:
                self._verdicts[row.name] = given

    def _follow_loops(
        self,
        rows: Sequence[table.Function],
        seen: Mapping[str, Observation | Stopped],
    ) -> None:
        """Ask sequences above right steps; where these do not fit, hold them to a loop of ours."""
        questions, own = [], []
        for row in rows:
            names = [f"{row.cell}_step_forward", f"{row.cell}_step_backward"]
            right = {name: f"{table.PACKAGE}.{RIGHT}:{name}" for name in names}
            probe = expected.probe_of(row)
            questions.append(self._question(row, probe, row.passes, replaced=right))
        files = self._files("rnn_layers")
        steps = table.part("rnn_layers", STEPS).encode("utf-8")
        answers = self._answers({**files, f"{RIGHT}.py": steps}, questions)
        for row, answer in zip(rows, answers, strict=True):
            above = judge(row, answer, self._right[row.name], self._of(row), [], {})
            if above.passed:
                self._verdicts[row.name] = judging.above_right(row, above, self._wrong_steps(row))
            elif above.results[0].kind == NOT_WRITTEN or not (
                above.raised or isinstance(answer, Stopped)
            ):
                self._verdicts[row.name] = above  # it has a mistake of its own
            else:
                own.append(row)
        home = self._handed.homes["rnn_layers"]
        questions, asked = [], []
        for row in own:
            passes = [f"{row.cell}_step_forward", *[row.step] * bool(row.forward)]
            if all(name in home for name in passes):
                names = list(table.FUNCTIONS[passes[0]].arguments)
                questions.append(self._question(row, "by_steps", passes, names))
                asked.append(row)
        answers = self._answers(files, questions, unmarked=True)
        for row, answer in zip(asked, answers, strict=True):
            if judging.same_results(seen[row.name], answer):
                before, wrong = self._verdicts[row.name], self._wrong_steps(row)
                self._verdicts[row.name] = judging.above_right(row, before, wrong)


def _name(shown: str) -> str:
    return shown.rpartition("/")[2]


def _missing(file: str, is_there: bool) -> Result:
    if is_there:
        advice = f"{file} defines nothing that the course asks for."
        return Result(file, False, "", NOT_WRITTEN, advice)
    advice = f"{file} was not handed in: its functions have no points."
    return Result(file, False, "", "file missing", advice)


def _unwritten(row: table.Function) -> Judged:
    return Judged([Result(row.name, False, "", NOT_WRITTEN, f"Write {row.name}.")])


def _not_imported(file: str, seen: Observation | Stopped) -> Result:
    """The one result of a file that cannot be imported."""
    if isinstance(seen, Stopped):
        reason, line, kind = f"it {seen.reason}", seen.line, "stopped"
    else:
        error = seen.error("import")
        assert error is not None
        (name, message, line), kind = error, "raises an error"
        reason = f"{name}: {message}"
    where = f"line {line.number}: {line.text}" if line.number else ""
    advice = f"Importing {line.file or file} fails, so nothing of it can be graded: {reason}."
    return Result(file, False, where, kind, advice)


def _matches(name: str, only: Iterable[str]) -> bool:
    patterns = list(only)
    return not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
