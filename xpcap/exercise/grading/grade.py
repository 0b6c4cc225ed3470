"""Grade a submission in three passes, each of which begins when nothing is left to steal.

First every function is asked above the submission's own files alone. Loops over wrong steps are
asked above right steps when all steps have their verdict, and captioners above right layers when
all layers have theirs: of a class, those of every student. So where right code lies in a process,
nobody is left to hand it to. What the first pass answered has to be answered again there.

The functions, the points and what the mark is of are fixed before a file is read; inputs are drawn
from a digest of all files and the teacher's seed.
"""

import fnmatch
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xpcap.errors import OptionError, unknown
from xpcap.exercise import table
from xpcap.exercise.grading import expected
from xpcap.exercise.grading import judge as judging
from xpcap.exercise.grading.cases import Cases, Draw
from xpcap.exercise.grading.confine import PACKAGES, Confinement, confinement
from xpcap.exercise.grading.files import dotted, find, read
from xpcap.exercise.grading.judge import NOT_WRITTEN, Judged, judge
from xpcap.exercise.grading.report import PENDING, Report, Result
from xpcap.exercise.grading.run import Observation, Question, Stopped, ask, in_turn
from xpcap.exercise.grading.unusual import unusual
from xpcap.options import Real
from xpcap.threads import blas

__all__ = ["PASSES", "Grading", "Report", "Result", "grade"]

PASSES = ("own", "loops", "captioners")
GIVEN = ("affine_forward", "affine_backward")  # what the course's layers.py has
STEPS = tuple(name for name in table.FUNCTIONS if "_step_" in name)
LAYERS = tuple(row.name for row in table.functions(["rnn_layers"]) if row.points)
GRADED = tuple(dict.fromkeys(row.module for row in table.FUNCTIONS.values()))


def grade(
    submission: str | Path,
    *,
    expect: Sequence[str] | None = None,
    seed: int | None = None,
    only: Sequence[str] = (),
    seconds: float = 10.0,
    memory: float = 2.0,
    require_confinement: bool = False,
) -> Report:
    """Grade the functions of a student's file, folder or module, in the order of the course.

    Parameters
    ----------
    submission : str or Path
        A file such as rnn_layers.py, a folder such as cs231n/, or a module's dotted name.
    expect : sequence of str or None
        Modules that are to be there, such as "rnn_layers", "rnn", "optim". None: of a folder what
        the handout has students write, "rnn_layers" and "rnn"; of a file what it defines.
    seed : int or None
        Draws the inputs, with a digest of all files. None: drawn; the report has it.
    only : sequence of str
        Patterns of function names, as in a shell. None: all.
    seconds : float
        Limit of the checks of one function; all of a pass have six times that, and a minute.
    memory : float
        Limit of a process, in GB.
    require_confinement : bool
        Refuse to run the submission where the system cannot confine it.

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
        No function has a name of `only`; no such module; no confinement though required.
    """
    grading = Grading(
        submission,
        expect=expect,
        seed=secrets.randbits(32) if seed is None else seed,
        only=only,
        seconds=seconds,
        memory=memory,
        confined=confinement(require=require_confinement),
    )
    for step in PASSES:
        grading.take(step)
    return grading.report()


class Grading:
    """A submission: the passes that were taken, and the verdicts so far.

    Arguments and errors are those of `grade`; `confined` may serve a whole class, and `turn` be a
    file whose lock is held while the submission's code runs: then no other's does.
    """

    def __init__(
        self,
        submission: str | Path,
        *,
        expect: Sequence[str] | None,
        seed: int,
        only: Sequence[str] = (),
        seconds: float = 10.0,
        memory: float = 2.0,
        confined: Confinement,
        turn: Path | None = None,
    ) -> None:
        patterns, expect = tuple(only), None if expect is None else tuple(expect)
        for module in expect or ():
            if module not in GRADED:
                raise unknown("grade", "`expect`", module, GRADED)
        seconds = Real(above=0).check("grade", "`seconds`", seconds)
        memory = Real(above=0).check("grade", "`memory`", memory)
        self._limits = {"seconds": seconds, "memory": memory}
        self._confined, self._seed, self._turn = confined, seed, turn
        self._handed = handed = read(submission)
        self._unusual = unusual(handed.files, handed.homes)
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
        self._left = list(PASSES)
        self._verdicts: dict[str, Judged] = {}
        self._faults: dict[str, Result] = {}  # of modules that are missing, or cannot be imported
        self._seen: dict[str, Observation | Stopped] = {}  # first answers of pending functions
        self._answered: list[str] = []  # functions that answered in the first pass
        self._draw = Draw(handed.digest(seed), handed.files.values())
        self._cases: dict[str, Cases] = {}
        self._right: dict[str, Observation] = {}

    def take(self, step: str) -> "Grading":
        """Take the next of `PASSES`, if a function waits for it."""
        assert step == self._left[0], "passes are taken in order"
        state = np.random.get_state()
        try:
            with blas().on_one_thread():  # small products, beside the submission's own processes
                if rows := self.waiting(step):
                    {"own": self._own, "loops": self._loops, "captioners": self._captioners}[step](
                        rows
                    )
        finally:
            np.random.set_state(state)
        del self._left[0]
        names = {row.name for later in self._left for row in self.waiting(later)}
        self._seen = {name: seen for name, seen in self._seen.items() if name in names}
        self._verdicts = {name: judged.plain() for name, judged in self._verdicts.items()}
        self._cases, self._right = {}, {}
        return self

    def waiting(self, step: str) -> list[table.Function]:
        """The functions that a pass has to ask, as far as the verdicts tell."""
        if step not in self._left:
            return []
        if step == "own":
            return self._rows
        failed = [row for row in self._rows if self._is_written(row) and not self._passed(row)]
        if step == "loops":
            return [row for row in failed if row.step and self._wrong(row, STEPS)]
        captioners = [row for row in failed if row.module == "rnn"]
        if self._is_bare() or ("rnn" in self._faults and self._failing(LAYERS)):
            return captioners  # they may lack a function that is not written
        # also above layers that pass and yet may be at fault: by finite differences, or as lists
        return [row for row in captioners if self._wrong(row, LAYERS) or self._is_doubtful(row)]

    def report(self) -> Report:
        """The verdicts so far; what waits for a pass is marked as pending."""
        pending = {row.name for step in self._left for row in self.waiting(step)}
        results: list[Result] = []
        for module in GRADED:
            rows = [row for row in self._rows if row.module == module]
            fault = self._faults.get(module)
            if fault and not any(row.name in pending for row in rows):
                results += [fault] * bool(rows)
                continue
            for row in rows:
                if row.name in pending:
                    found = [Result(row.name, False, "", PENDING, WAITS)]
                else:
                    found = self._verdicts[row.name].results
                results += found if row.name in self._chosen else []
        there = set(self._handed.homes) - set(self._faults)
        missing = [module for module in self._expect if module not in there]
        return Report(
            results,
            self._expect,
            missing,
            self._confined.says,
            self._seed,
            self._handed.content,
            self._handed.notes,
            self._unusual,
        )

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

    # Passes

    def _own(self, rows: Sequence[table.Function]) -> None:
        """Ask and judge each function beside the submission's own files."""
        written: dict[str, list[table.Function]] = {}  # by module
        for module in dict.fromkeys(row.module for row in rows):
            asked = [row for row in rows if row.module == module]
            if (home := self._handed.homes.get(module)) is None:
                self._faults[module] = self._missing(module)
                continue
            written[module] = [row for row in asked if row.defined in home]
            missed = [row for row in asked if row.defined not in home]
            self._verdicts |= {row.name: _unwritten(row) for row in missed}
        together: list[tuple[dict[str, bytes], list[str]]] = []  # files, modules beside them
        for module in written:
            files = self._files(module)
            if not (modules := next((names for same, names in together if same == files), [])):
                together.append((files, modules))
            modules.append(module)
        loaded: dict[str, Observation | Stopped] = {}
        for files, modules in together:
            questions = [
                question
                for module in modules
                for question in (self._question(module), *map(self._question_of, written[module]))
            ]
            names = [question.name for question in questions]
            loaded |= zip(names, self._answers(files, questions), strict=True)
        for module, asked in written.items():
            if fault := _not_imported(module, loaded[module]):
                self._faults[module] = fault
                continue
            for row in asked:
                self._seen[row.name] = loaded[row.name]
                self._answered += [row.name] * isinstance(loaded[row.name], Observation)
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
        if (named := forward.named) and named.whole and named.function:
            follows = judging.for_own_forward(row, seen, self._of(row)["first"], named.function)
            self._verdicts[row.name] = follows or self._verdicts[row.name]

    def _loops(self, rows: Sequence[table.Function]) -> None:
        source = table.part("rnn_layers", ("sigmoid", *STEPS))
        self._above("rnn_layers", rows, STEPS, source, self._files("rnn_layers"))

    def _captioners(self, rows: Sequence[table.Function]) -> None:
        source = table.source("rnn_layers", table.PACKAGE)
        files, homes = self._files("rnn"), self._handed.homes
        home = homes.get("rnn_layers", {})
        given = [row.name for row in table.functions(["rnn_layers"]) if row.name not in LAYERS]
        names = [*LAYERS, *(name for name in given if name not in home)]
        if self._is_bare():  # ours takes their place
            layers = {*home.values(), table.FILES["rnn_layers"]}
            if not layers & set(homes["rnn"].values()):
                files |= dict.fromkeys(layers, source.encode("utf-8"))
            names = []
        self._above("rnn", rows, names, source, files)
        self._tell_once()

    def _above(
        self,
        module: str,
        rows: Sequence[table.Function],
        names: Sequence[str],
        source: str,
        files: Mapping[str, bytes],
    ) -> None:
        """Judge functions above right ones, if they answer there as they did before.

        names : functions of rnn_layers that right ones replace, from `source`
        """
        right = {name: self._place("rnn_layers", name) for name in names}
        # all that was asked, so that what a function left to the next is there again
        before = [] if module == "rnn" and self._is_bare() else ["rnn_layers"]
        repeated = [
            row
            for row in self._rows
            if row.module in (*before, module) and row.name in self._answered
        ]
        questions = [self._question_of(row) for row in repeated]
        questions += [self._question(module, right)]
        questions += [self._question_of(row, right) for row in rows]
        answers = self._answers(files, questions, source)
        again = dict(zip((row.name for row in repeated), answers, strict=False))
        loaded, *above = answers[len(repeated) :]
        if fault := _not_imported(module, loaded):
            if module in self._faults:
                self._faults[module] = fault
            return
        self._faults.pop(module, None)
        for row, seen in zip(rows, above, strict=True):
            first, wrong = self._seen.get(row.name), self._wrong(row)
            judged = self._judged(row, seen, [name for name in wrong if name not in names])
            if row in repeated and not judging.same_answers(first, again[row.name]):
                self._verdicts[row.name] = judging.differs(row)
            elif judged.passed:
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

    def _answers(
        self, files: Mapping[str, bytes], questions: Sequence[Question], right: str = ""
    ) -> list[Observation | Stopped]:
        shown = {file: name for file, name in self._handed.shown.items() if file in files}
        seed = int(self._handed.digest(self._seed)[:8], 16)
        with in_turn(self._turn):
            return ask(
                files, shown, questions, self._confined, **self._limits, seed=seed, right=right
            )

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

    def _files(self, marked: str) -> dict[str, bytes]:
        """The submission's files, and beside them what the course gives: nothing of a module that is
        marked, or that students were to write.
        """
        given = {
            file: table.source(module, table.PACKAGE).encode("utf-8")
            for module, file in table.FILES.items()
            if module not in {*self._expect, marked, *table.HANDED_IN}
        }
        layers = table.part("rnn_layers", GIVEN).encode("utf-8")
        return {**given, "layers.py": layers, **self._handed.files}

    def _judged(
        self, row: table.Function, seen: Observation | Stopped, wrong: Sequence[str]
    ) -> Judged:
        """The verdict on what was seen; `wrong` are functions below that are."""
        if row.name not in self._right:
            self._right[row.name] = expected.reference(row, self._of(row))
        seen = expected.until_end(row, seen, self._of(row))
        judged = judge(row, seen, self._right[row.name], self._of(row), wrong, self._verdicts)
        if row.points or judged.passed:
            return judged
        first, *others = judged.results
        given = f"The course gives {row.name}: compare yours with it. {first.advice}"
        return judged._replace(results=[first._replace(advice=given), *others])


WAITS = (
    "Waits for another pass: what it calls is wrong, so it is asked again above right functions when"
    " all submissions have their marks for these."
)


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
