"""Grade a submission: ask its functions, compare what they give with the reference, name mistakes.

First every function is asked above the submission's own. Then loops over wrong steps are asked above
right steps, and captioners over wrong layers above right layers: what is right there has its points.
"""

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xpcap.errors import OptionError, unknown
from xpcap.exercise import table
from xpcap.exercise.grading import expected
from xpcap.exercise.grading import judge as judging
from xpcap.exercise.grading.cases import Cases, Draw
from xpcap.exercise.grading.files import dotted, find, read
from xpcap.exercise.grading.judge import NOT_WRITTEN, Judged, judge
from xpcap.exercise.grading.report import Report, Result
from xpcap.exercise.grading.run import PACKAGES, Observation, Question, Stopped, ask
from xpcap.options import Real, Whole
from xpcap.threads import one_blas_thread

__all__ = ["Report", "Result", "grade"]

GIVEN = ("affine_forward", "affine_backward")  # what the course's layers.py has
SEED = Whole(0, 2**32 - 1)  # as NumPy's legacy generator takes it
STEPS = tuple(name for name in table.FUNCTIONS if "_step_" in name)
LAYERS = tuple(row.name for row in table.functions(["rnn_layers"]) if row.points)
GRADED = tuple(dict.fromkeys(row.module for row in table.FUNCTIONS.values()))


def grade(
    submission: str | Path,
    *,
    expect: Sequence[str] | None = None,
    seed: int = 0,
    only: Sequence[str] = (),
    seconds: float = 10.0,
    memory: float = 2.0,
) -> Report:
    """Grade the functions of a student's file, folder or module, in the order of the course.

    The code runs in a process of its own, with your rights: mark strangers' code in a container.

    Parameters
    ----------
    submission : str or Path
        A file such as rnn_layers.py, a folder such as cs231n/, or a module's dotted name.
    expect : sequence of str or None
        Modules that are to be there, such as "rnn_layers", "rnn", "optim". None: of a folder what
        the handout has students write, "rnn_layers" and "rnn"; of a file what it defines.
    seed : int
        Draws the inputs; 0..2**32-1.
    only : sequence of str
        Patterns of function names, as in a shell. None: all.
    seconds : float
        Limit of the checks of one function; all have six times that, and a minute.
    memory : float
        Limit of a process, in GB.

    Returns
    -------
    report : Report
        A sequence of `Result`: one for each function, or several for several mistakes; one for a
        file that is missing or cannot be imported.

    Raises
    ------
    DataError
        No such file or module, or nothing of the course in it.
    OptionError
        No function has a name of `only`; no such module; a number out of range.
    """
    limits = {
        "seconds": Real(above=0).check("grade", "`seconds`", seconds),
        "memory": Real(above=0).check("grade", "`memory`", memory),
    }
    seed = SEED.check("grade", "`seed`", seed)
    grading = _Grading(submission, expect, tuple(only), seed, limits)
    state = np.random.get_state()
    try:
        with one_blas_thread():  # small products, beside the submission's own process
            grading.judge_own()
            grading.judge_above_right()
    finally:
        np.random.set_state(state)
    return grading.report()


class _Grading:
    """A submission, and the verdicts so far; arguments as of `grade`."""

    def __init__(
        self,
        submission: str | Path,
        expect: Sequence[str] | None,
        patterns: Sequence[str],
        seed: int,
        limits: Mapping[str, float],
    ) -> None:
        expect = None if expect is None else tuple(expect)
        for module in expect or ():
            if module not in GRADED:
                raise unknown("grade", "`expect`", module, GRADED)
        self._seed, self._limits = seed, limits
        self._handed = handed = read(submission)
        alone = expect is None and find(submission).is_file()
        self._expect = tuple(handed.homes) if alone else expect or table.HANDED_IN
        rows = [row for row in table.FUNCTIONS.values() if self._is_graded(row)]
        self._chosen = {row.name for row in rows if _matches(row.name, patterns)}
        if not self._chosen:
            thing = f"none of {', '.join(row.name for row in rows)}"
            got = f"is named {' or '.join(patterns)}"
            raise OptionError("grade", thing, got, "patterns of these")
        # What a chosen function builds on is graded too: what is wrong may follow from it
        below = {name for chosen in self._chosen for name in table.builds_on(chosen)}
        self._rows = [row for row in rows if row.name in self._chosen | below]
        self._verdicts: dict[str, Judged] = {}
        self._faults: dict[str, Result] = {}  # of modules that are missing, or cannot be imported
        self._seen: dict[str, Observation | Stopped] = {}  # first answers
        self._draw = Draw(seed)
        self._cases: dict[str, Cases] = {}

    def report(self) -> Report:
        """The verdicts."""
        results: list[Result] = []
        for module in GRADED:
            rows = [row for row in self._rows if row.module == module]
            if fault := self._faults.get(module):
                results += [fault] * bool(rows)
                continue
            for row in rows:
                results += self._verdicts[row.name].results if row.name in self._chosen else []
        there = set(self._handed.homes) - set(self._faults)
        missing = [module for module in self._expect if module not in there]
        return Report(results, self._expect, missing, self._handed.notices)

    def _is_graded(self, row: table.Function) -> bool:
        """True of what students write, and of what the course gives where they brought it."""
        home = self._handed.homes.get(row.module, {})
        return row.defined in home or (row.module in self._expect and row.points > 0)

    def _is_written(self, row: table.Function) -> bool:
        judged = self._verdicts.get(row.name)
        return row.defined in self._handed.homes.get(row.module, {}) and (
            judged is None or judged.results[0].kind != NOT_WRITTEN
        )

    def _passed(self, row: table.Function) -> bool:
        judged = self._verdicts.get(row.name)
        return judged is not None and judged.passed

    def _failing(self, names: Sequence[str]) -> list[str]:
        return [
            name for name in names if name in self._verdicts and not self._verdicts[name].passed
        ]

    def _is_doubtful(self, row: table.Function) -> bool:
        """True of a captioner that raised an error, or has gradients by finite differences."""
        judged = self._verdicts.get(row.name)
        below = [self._verdicts[n] for n in table.builds_on(row.name) if n in self._verdicts]
        is_numeric = any(found.results[0].kind == judging.NUMERIC for found in below)
        return is_numeric or (judged is not None and judged.raised is not None)

    def _is_bare(self) -> bool:
        """True without layers that can be imported."""
        return "rnn_layers" in self._faults or "rnn_layers" not in self._handed.homes

    def _wrong(
        self, row: table.Function, names: Sequence[str] = tuple(table.FUNCTIONS)
    ) -> list[str]:
        """Wrong functions that a function builds on, in the order of the course; also those below
        a function that is right in itself alone.
        """
        found: set[str] = set()
        below = {row.name}
        while below:
            called = {name for each in below for name in table.calls(each)} & set(self._verdicts)
            wrong = {name for name in called if not self._verdicts[name].passed}
            below = wrong | {name for name in called if self._verdicts[name].follows}
            below -= found
            found |= below
        return [name for name in self._failing(names) if name in found]

    # Above the submission's own functions

    def judge_own(self) -> None:
        """Ask and judge each function above the submission's own."""
        written: dict[str, list[table.Function]] = {}  # by module
        for module in dict.fromkeys(row.module for row in self._rows):
            asked = [row for row in self._rows if row.module == module]
            if (home := self._handed.homes.get(module)) is None:
                self._faults[module] = self._missing(module)
                continue
            written[module] = [row for row in asked if row.defined in home]
            missed = [row for row in asked if row.defined not in home]
            self._verdicts |= {row.name: _unwritten(row) for row in missed}
        questions = [
            question
            for module, rows in written.items()
            for question in (self._question(module), *map(self._question_of, rows))
        ]
        names = [question.name for question in questions]
        loaded = dict(zip(names, self._answers(questions), strict=True))
        for module, asked in written.items():
            if fault := _not_imported(module, loaded[module]):
                self._faults[module] = fault
                continue
            for row in asked:
                self._seen[row.name] = loaded[row.name]
                self._verdicts[row.name] = self._judged(row, loaded[row.name], self._wrong(row))
            for row in asked if module == "rnn_layers" else ():
                self._follow(row)
        self._tell_once()

    def _missing(self, module: str) -> Result:
        """The one result of a module of which nothing is there."""
        file, shown = _file(module), self._handed.shown.values()
        if file in {name.rpartition("/")[2] for name in shown}:
            advice = f"{file} defines nothing that the course asks for."
            return Result(file, False, "", NOT_WRITTEN, advice)
        advice = f"{file} is missing: its functions score zero."
        return Result(file, False, "", "file missing", advice)

    def _follow(self, row: table.Function) -> None:
        """Pass a backward pass that is right for a wrong forward pass whose mistakes are known."""
        forward, seen = self._verdicts.get(row.forward), self._seen[row.name]
        if forward is None or forward.passed or self._passed(row) or isinstance(seen, Stopped):
            return
        if (named := forward.named) and named.whole:
            follows = judging.for_own_forward(row, seen, self._of(row)["first"], named.function)
            self._verdicts[row.name] = follows or self._verdicts[row.name]

    # Above right functions

    def judge_above_right(self) -> None:
        """Judge loops above right steps, and captioners above right layers, where theirs are wrong."""
        failed = [row for row in self._rows if self._is_written(row) and not self._passed(row)]
        loops = [row for row in failed if row.step and self._wrong(row, STEPS)]
        captioners = [row for row in failed if row.module == "rnn"]
        if self._is_bare():  # the right module takes the place of theirs
            names, layers = [], self._handed.homes.get("rnn_layers", {}).values()
            files = {*layers, table.FILES["rnn_layers"]} - set(
                self._handed.homes.get("rnn", {}).values()
            )
            right = {file: f"{dotted(file)}:" for file in sorted(files)}
        else:
            if "rnn" not in self._faults or not self._failing(LAYERS):
                captioners = [
                    row for row in captioners if self._wrong(row, LAYERS) or self._is_doubtful(row)
                ]
            home = self._handed.homes["rnn_layers"]
            given = [row.name for row in table.functions(["rnn_layers"]) if not row.points]
            names = [*LAYERS, *(name for name in given if name not in home)]
            right = {name: self._place("rnn_layers", name) for name in names}
        steps = {name: self._place("rnn_layers", name) for name in STEPS}
        questions = [self._question_of(row, steps) for row in loops]
        if captioners:
            questions += [self._question("rnn", right)]
            questions += [self._question_of(row, right) for row in captioners]
        answers = self._answers(questions)
        for row, seen in zip(loops, answers, strict=False):
            self._judge_above(row, seen, STEPS)
        if captioners:
            loaded, *above = answers[len(loops) :]
            if fault := _not_imported("rnn", loaded):
                self._faults |= {"rnn": fault} if "rnn" in self._faults else {}
                return
            self._faults.pop("rnn", None)
            for row, seen in zip(captioners, above, strict=True):
                self._judge_above(row, seen, names)
            self._tell_once()

    def _judge_above(
        self, row: table.Function, seen: Observation | Stopped, names: Sequence[str]
    ) -> None:
        """Judge a function above right ones of these names, which pass it or show its own mistake."""
        first, wrong = self._seen.get(row.name), self._wrong(row)
        judged = self._judged(row, seen, [name for name in wrong if name not in names])
        if judged.passed:
            replaced = [name for name in wrong if name in names]
            self._verdicts[row.name] = judging.above_right(row, judged, replaced)
        elif first is None or not (judged.raised or isinstance(seen, Stopped)):
            self._verdicts[row.name] = judged  # it has a mistake of its own

    def _tell_once(self) -> None:
        """Of a mistake that is in both cells of a captioner the second costs nothing."""
        names = [row.name for row in self._rows if row.module == "rnn"]
        verdicts = {name: self._verdicts[name] for name in names if name in self._verdicts}
        self._verdicts |= judging.told_once(verdicts)

    # Questions

    def _answers(self, questions: Sequence[Question]) -> list[Observation | Stopped]:
        if not questions:
            return []
        files, right = self._files(), table.source("rnn_layers", table.PACKAGE)
        shown = {file: name for file, name in self._handed.shown.items() if file in files}
        return ask(files, shown, questions, **self._limits, seed=self._seed, right=right)

    def _question(self, module: str, right: Mapping[str, str] | None = None) -> Question:
        """Whether the files of a module can be imported."""
        return Question(module, "", self._modules(module), right=right or {})

    def _question_of(self, row: table.Function, right: Mapping[str, str] | None = None) -> Question:
        return Question(
            row.name,
            expected.probe_of(row),
            self._modules(row.module),
            [self._place(row.module, name) for name in row.passes],
            expected.names_of(row),
            self._of(row),
            right or {},
        )

    def _of(self, row: table.Function) -> Cases:
        if row.name not in self._cases:
            self._cases[row.name] = self._draw.cases(row.name)
        return self._cases[row.name]

    def _modules(self, module: str) -> list[str]:
        """Files that define something of a module, the course's own first: others may need it."""
        files = set(self._handed.homes[module].values())
        own_first = sorted(files, key=lambda file: (file != table.FILES[module], file))
        return [dotted(file) for file in own_first]

    def _place(self, module: str, name: str) -> str:
        """Where a function of the submission is, or is missed, as "module:name"."""
        home = self._handed.homes.get(module, {})
        course = table.FILES[module]
        missed = course if course in self._handed.files else next(iter(home.values()), course)
        return f"{dotted(home.get(name, missed))}:{name}"

    def _files(self) -> dict[str, bytes]:
        """The submission's files, and beside them what the course gives."""
        given = {
            file: table.source(module, table.PACKAGE).encode("utf-8")
            for module, file in table.FILES.items()
            if module not in {*self._expect, *table.HANDED_IN}
        }
        layers = table.part("rnn_layers", GIVEN).encode("utf-8")
        return {**given, "layers.py": layers, **self._handed.files}

    def _judged(
        self, row: table.Function, seen: Observation | Stopped, wrong: Sequence[str]
    ) -> Judged:
        """The verdict on what was seen; `wrong` are functions below that are."""
        right = expected.reference(row, self._of(row))
        seen = expected.until_end(row, seen, self._of(row))
        judged = judge(row, seen, right, self._of(row), wrong, self._verdicts)
        if row.points or judged.passed:
            return judged
        first, *others = judged.results
        given = f"The course gives {row.name}: compare yours with it. {first.advice}"
        return judged._replace(results=[first._replace(advice=given), *others])


def _file(module: str) -> str:
    return table.FILES[module].rpartition("/")[2]


def _unwritten(row: table.Function) -> Judged:
    return Judged([Result(row.name, False, "", NOT_WRITTEN, f"Write {row.name}.")])


def _not_imported(module: str, seen: Observation | Stopped) -> Result | None:
    """The one result of a file that cannot be imported; None of one that can."""
    file = _file(module)
    if isinstance(seen, Stopped):
        reason, line, kind = f"it {seen.reason}", seen.line, "stopped"
    elif (error := seen.error("import")) is None:
        return None
    else:
        (name, message, line), kind = error, "raises an error"
        reason = f"{name}: {message}"
        if name == "ModuleNotFoundError":
            reason += f". The grader has {PACKAGES} alone"
    where = f"line {line.number}: {line.text}" if line.number else ""
    advice = f"Importing {line.file or file} fails, so nothing of it can be graded: {reason}."
    return Result(file, False, where, kind, advice)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
