"""Grade a submission: run its functions, compare their results with the reference, name mistakes.

Every function first runs as submitted. Loops over wrong steps are then re-run with reference step
functions, and captioners over wrong layers with reference layers: those that now pass get their points.
"""

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xpcap.backend.threads import one_blas_thread
from xpcap.cs231n import table
from xpcap.cs231n.grading import expected
from xpcap.cs231n.grading import judge as judging
from xpcap.cs231n.grading.cases import Cases, Draw
from xpcap.cs231n.grading.files import dotted, find, read
from xpcap.cs231n.grading.judge import NOT_WRITTEN, Judged, judge
from xpcap.cs231n.grading.report import Report, Result
from xpcap.cs231n.grading.run import PACKAGES, Observation, Question, Stopped, ask
from xpcap.errors import OptionError, one_of
from xpcap.options import Real, Whole

__all__ = ["Report", "Result", "grade"]

GIVEN = ("affine_forward", "affine_backward")  # functions of the course's layers.py
SEED = Whole(0, 2**32 - 1)  # the range of NumPy's legacy generator
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

    The code runs in a separate process, with your rights: grade untrusted code in a container.

    Parameters
    ----------
    submission : str or Path
        A file such as rnn_layers.py, a folder such as cs231n/, or a module's dotted name.
    expect : sequence of str or None
        Modules to score, such as "rnn_layers", "rnn", "optim". None: for a folder those that the
        handout has students write, "rnn_layers" and "rnn"; for a file those that it defines.
    seed : int
        Seed of the inputs; 0..2**32-1.
    only : sequence of str
        Patterns of function names, as in a shell. Empty: all functions.
    seconds : float
        Time limit for the checks of a function; all together have six times that and a minute.
    memory : float
        Memory limit of a process, in GB.

    Returns
    -------
    report : Report
        A sequence of `Result`: one for each function, or several for several mistakes; one for a
        file that is missing or cannot be imported.

    Raises
    ------
    DataError
        The file or module does not exist, or defines nothing of the course.
    OptionError
        No function matches `only`, a module does not exist, or a number is out of range.
    """
    limits = {
        "seconds": Real(above=0).check("`seconds`", seconds),
        "memory": Real(above=0).check("`memory`", memory),
    }
    seed = SEED.check("`seed`", seed)
    grading = _Grading(submission, expect, tuple(only), seed, limits)
    state = np.random.get_state()
    try:
        with one_blas_thread():  # products are small, and the submission's process needs cores
            grading.judge_as_submitted()
            grading.judge_on_reference()
    finally:
        np.random.set_state(state)
    return grading.report()


class _Grading:
    """A submission, and the verdicts so far; the arguments are those of `grade`."""

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
                raise OptionError(
                    f"`expect` {module!r} does not exist, expected {one_of(GRADED, module)}"
                )
        self._seed = seed
        self._limits = limits
        self._handed = handed = read(submission)
        alone = expect is None and find(submission).is_file()
        self._expect = tuple(handed.homes) if alone else expect or table.HANDED_IN
        rows = [row for row in table.FUNCTIONS.values() if self._is_graded(row)]
        self._chosen = {row.name for row in rows if _matches(row.name, patterns)}
        self._marked = self._chosen if patterns else set[str]()
        if not self._chosen:
            raise OptionError(
                f"none of {', '.join(row.name for row in rows)} matches {' or '.join(patterns)},"
                " expected patterns of these names"
            )
        # A wrong result may follow from the functions below a chosen one, so these are graded too
        below = {name for chosen in self._chosen for name in table.builds_on(chosen)}
        self._rows = [row for row in rows if row.name in self._chosen | below]
        self._verdicts: dict[str, Judged] = {}
        self._faults: dict[str, Result] = {}  # of modules that are missing, or cannot be imported
        self._seen: dict[str, Observation | Stopped] = {}  # observations of functions as submitted
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
        imported = set(self._handed.homes) - set(self._faults)
        missing = [module for module in self._expect if module not in imported]
        return Report(results, self._expect, missing, self._handed.notices, self._marked)

    def _is_graded(self, row: table.Function) -> bool:
        """True for functions that students write, and for given ones that a submission defines."""
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
        """True for a captioner that raised an error, or builds on finite differences."""
        judged = self._verdicts.get(row.name)
        below = [self._verdicts[n] for n in table.builds_on(row.name) if n in self._verdicts]
        is_numeric = any(verdict.results[0].kind == judging.NUMERIC for verdict in below)
        return is_numeric or (judged is not None and judged.raised is not None)

    def _lacks_layers(self) -> bool:
        """True if the submission has no layers that can be imported."""
        return "rnn_layers" in self._faults or "rnn_layers" not in self._handed.homes

    def _culprits(
        self, row: table.Function, names: Sequence[str] = tuple(table.FUNCTIONS)
    ) -> list[str]:
        """Wrong functions that a function builds on, also through ones that pass on the reference."""
        reached: set[str] = set()
        below = {row.name}
        while below:
            called = {name for user in below for name in table.calls(user)} & set(self._verdicts)
            wrong = {name for name in called if not self._verdicts[name].passed}
            below = wrong | {name for name in called if self._verdicts[name].follows}
            below -= reached
            reached |= below
        return [name for name in self._failing(names) if name in reached]

    # On the submission's own functions

    def judge_as_submitted(self) -> None:
        """Run and judge each function as submitted."""
        written: dict[str, list[table.Function]] = {}  # by module
        for module in dict.fromkeys(row.module for row in self._rows):
            graded = [row for row in self._rows if row.module == module]
            if (home := self._handed.homes.get(module)) is None:
                self._faults[module] = self._missing(module)
                continue
            written[module] = [row for row in graded if row.defined in home]
            undefined = [row for row in graded if row.defined not in home]
            self._verdicts |= {row.name: _unwritten(row) for row in undefined}
        questions = []
        for module, rows in written.items():
            questions += [self._import_question(module), *map(self._probe_question, rows)]
        names = [question.name for question in questions]
        loaded = dict(zip(names, self._answers(questions), strict=True))
        for module, graded in written.items():
            if fault := _not_imported(module, loaded[module]):
                self._faults[module] = fault
                continue
            for row in graded:
                self._seen[row.name] = loaded[row.name]
                self._verdicts[row.name] = self._judged(row, loaded[row.name], self._culprits(row))
            for row in graded if module == "rnn_layers" else ():
                self._pass_own_forward(row)
        self._report_shared_mistakes_once()

    def _missing(self, module: str) -> Result:
        """The result of a module of which the submission defines nothing."""
        file = _file(module)
        if file in {name.rpartition("/")[2] for name in self._handed.shown.values()}:
            advice = f"{file} defines none of the course's functions."
            return Result(file, False, "", NOT_WRITTEN, advice)
        advice = f"{file} is missing: its functions score zero."
        return Result(file, False, "", "file missing", advice)

    def _pass_own_forward(self, row: table.Function) -> None:
        """Pass a backward pass that fits the submission's forward pass, whose mistakes are known."""
        forward = self._verdicts.get(row.forward)
        seen = self._seen[row.name]
        if forward is None or forward.passed or self._passed(row) or isinstance(seen, Stopped):
            return
        if (named := forward.named) and named.complete:
            first = self._cases_of(row)["first"]
            follows = judging.pass_on_own_forward(row, seen, first, named.function)
            self._verdicts[row.name] = follows or self._verdicts[row.name]

    # On reference functions

    def judge_on_reference(self) -> None:
        """Re-run loops with reference steps, captioners with reference layers, if theirs are wrong."""
        failed = [row for row in self._rows if self._is_written(row) and not self._passed(row)]
        loops = [row for row in failed if row.step and self._culprits(row, STEPS)]
        captioners = [row for row in failed if row.module == "rnn"]
        if self._lacks_layers():  # the reference module replaces theirs
            names = []
            layers = self._handed.homes.get("rnn_layers", {}).values()
            files = {*layers, table.FILES["rnn_layers"]} - set(
                self._handed.homes.get("rnn", {}).values()
            )
            replaced = {file: f"{dotted(file)}:" for file in sorted(files)}
        else:
            if "rnn" not in self._faults or not self._failing(LAYERS):
                captioners = [
                    row
                    for row in captioners
                    if self._culprits(row, LAYERS) or self._is_doubtful(row)
                ]
            home = self._handed.homes["rnn_layers"]
            given = [row.name for row in table.functions(["rnn_layers"]) if not row.points]
            names = [*LAYERS, *(name for name in given if name not in home)]
            replaced = {name: self._location("rnn_layers", name) for name in names}
        steps = {name: self._location("rnn_layers", name) for name in STEPS}
        questions = [self._probe_question(row, steps) for row in loops]
        if captioners:
            questions += [self._import_question("rnn", replaced)]
            questions += [self._probe_question(row, replaced) for row in captioners]
        answers = self._answers(questions)
        for row, seen in zip(loops, answers, strict=False):
            self._rejudge(row, seen, STEPS)
        if captioners:
            loaded, *observations = answers[len(loops) :]
            if fault := _not_imported("rnn", loaded):
                self._faults |= {"rnn": fault} if "rnn" in self._faults else {}
                return
            self._faults.pop("rnn", None)
            for row, seen in zip(captioners, observations, strict=True):
                self._rejudge(row, seen, names)
            self._report_shared_mistakes_once()

    def _rejudge(
        self, row: table.Function, seen: Observation | Stopped, names: Sequence[str]
    ) -> None:
        """Judge a function that was re-run with reference functions of these names."""
        first = self._seen.get(row.name)
        wrong = self._culprits(row)
        judged = self._judged(row, seen, [name for name in wrong if name not in names])
        if judged.passed:
            mended = [name for name in wrong if name in names]
            self._verdicts[row.name] = judging.pass_on_reference(row, judged, mended)
        elif first is None or not (judged.raised or isinstance(seen, Stopped)):
            self._verdicts[row.name] = judged

    def _report_shared_mistakes_once(self) -> None:
        """Charge a mistake once if both cells of a captioner have it."""
        names = [row.name for row in self._rows if row.module == "rnn"]
        verdicts = {name: self._verdicts[name] for name in names if name in self._verdicts}
        self._verdicts |= judging.report_shared_mistakes_once(verdicts)

    # Questions

    def _answers(self, questions: Sequence[Question]) -> list[Observation | Stopped]:
        if not questions:
            return []
        files = self._files()
        reference = table.source("rnn_layers", table.PACKAGE)
        shown = {file: name for file, name in self._handed.shown.items() if file in files}
        return ask(files, shown, questions, **self._limits, seed=self._seed, reference=reference)

    def _import_question(self, module: str, replaced: Mapping[str, str] | None = None) -> Question:
        """Import a module's files."""
        return Question(module, "", self._modules(module), replaced=replaced or {})

    def _probe_question(
        self, row: table.Function, replaced: Mapping[str, str] | None = None
    ) -> Question:
        return Question(
            row.name,
            expected.probe_of(row),
            self._modules(row.module),
            [self._location(row.module, name) for name in row.passes],
            expected.names_of(row),
            self._cases_of(row),
            replaced or {},
        )

    def _cases_of(self, row: table.Function) -> Cases:
        if row.name not in self._cases:
            self._cases[row.name] = self._draw.cases(row.name)
        return self._cases[row.name]

    def _modules(self, module: str) -> list[str]:
        """Files that define functions of a module; others may import the course's, which is first."""
        files = set(self._handed.homes[module].values())
        course_first = sorted(files, key=lambda file: (file != table.FILES[module], file))
        return [dotted(file) for file in course_first]

    def _location(self, module: str, name: str) -> str:
        """Location "module:name" at which the submission defines a function, or should."""
        home = self._handed.homes.get(module, {})
        course = table.FILES[module]
        default = course if course in self._handed.files else next(iter(home.values()), course)
        return f"{dotted(home.get(name, default))}:{name}"

    def _files(self) -> dict[str, bytes]:
        """The submission's files, and the course's files that it lacks."""
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
        """The verdict on an observation; `wrong` are the wrong functions below."""
        cases = self._cases_of(row)
        right = expected.reference(row, cases)
        seen = expected.cut_after_end(row, seen, cases)
        judged = judge(row, seen, right, cases, wrong, self._verdicts)
        if row.points or judged.passed:
            return judged
        first, *others = judged.results
        advice = f"The course gives {row.name}: compare yours with it. {first.advice}"
        return judged._replace(results=[first._replace(advice=advice), *others])


def _file(module: str) -> str:
    return table.FILES[module].rpartition("/")[2]


def _unwritten(row: table.Function) -> Judged:
    return Judged([Result(row.name, False, "", NOT_WRITTEN, f"Write {row.name}.")])


def _not_imported(module: str, seen: Observation | Stopped) -> Result | None:
    """The result of a file that cannot be imported; None for a file that can."""
    file = _file(module)
    if isinstance(seen, Stopped):
        reason = f"it {seen.reason}"
        line = seen.line
        kind = "stopped"
    elif (error := seen.error("import")) is None:
        return None
    else:
        name, message, line = error
        kind = "raises an error"
        reason = f"{name}: {message}"
        if name == "ModuleNotFoundError":
            reason += f". The grader has only {PACKAGES}"
    where = f"line {line.number}: {line.text}" if line.number else ""
    advice = f"Importing {line.file or file} fails, so none of its functions is graded: {reason}."
    return Result(file, False, where, kind, advice)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
