"""Grade a submission: the checks of each function that it brings, or should, in order.

Inputs are random and small; wanted results come from reference/, and of a backward pass whose
forward pass is wrong, from numeric gradients of that forward pass. The student's functions run in a
process of their own, see submission.py; nothing here runs them. layers.py and models.py check,
mutants.py localises.
"""

import fnmatch
from collections.abc import Callable, Sequence
from pathlib import Path

from xpcap.errors import OptionError
from xpcap.exercise.grading.calls import Check, Student, builds_on
from xpcap.exercise.grading.layers import LayerChecks
from xpcap.exercise.grading.models import CaptionerChecks, RuleChecks, SolverChecks
from xpcap.exercise.grading.submission import Submission
from xpcap.exercise.grading.verdicts import Result

__all__ = ["Result", "grade"]

CHECKS: dict[
    str, Callable[[Student], LayerChecks | CaptionerChecks | RuleChecks | SolverChecks]
] = {
    "rnn_layers": LayerChecks,
    "rnn": CaptionerChecks,
    "optim": RuleChecks,
    "captioning_solver": SolverChecks,
}
# What the course has its students write; the rest is graded where a submission has it
TO_WRITE = {
    "rnn_layers": [
        f"{layer}_{way}"
        for layer in ("rnn_step", "rnn", "word_embedding", "lstm_step", "lstm")
        for way in ("forward", "backward")
    ],
}


def grade(
    submission: str | Path,
    *,
    only: Sequence[str] = (),
    seconds: float = 10.0,
    memory: float = 2.0,
    on_result: Callable[[Result], None] | None = None,
) -> list[Result]:
    """Grade the functions of a student's file, folder or module, in the order of the course.

    Parameters
    ----------
    submission : str or Path
        A file such as rnn_layers.py, a folder such as cs231n/, or a module's dotted name.
    only : sequence of str
        Patterns of function names, as in a shell. None: all.
    seconds : float
        Limit of each call.
    memory : float
        Limit of the process, in GB.
    on_result : callable or None
        Called with each result when it is there.

    Returns
    -------
    results : list of Result
        One for each function; a second one for a function with two mistakes.

    Raises
    ------
    DataError
        No such file or module, or nothing of the course in it.
    OptionError
        No function has a name of `only`.
    """
    results: list[Result] = []
    with Submission(submission, seconds=seconds, memory=memory) as brought:
        student = Student(brought)
        work: dict[str, tuple[str, Check]] = {}  # function to its module and check
        for module, checks in CHECKS.items():
            if defined := brought.defines.get(module):
                names = {*defined, *TO_WRITE.get(module, ())}
                for name, check in checks(student).checks(names):
                    work[name] = module, check
        chosen = [name for name in work if _matches(name, only)]
        if not chosen:
            raise OptionError(
                "grade",
                f"none of {', '.join(work)}",
                f"is named {' or '.join(only)}",
                expected="patterns of these",
            )
        for name, (module, check) in work.items():
            # What a chosen function calls is graded too: what is wrong may follow from it
            if name in chosen or any(builds_on(other, name) for other in chosen):
                for result in student.judge(name, module, check):
                    if name in chosen:
                        results.append(result)
                        if on_result is not None:
                            on_result(result)
    return results


def _matches(name: str, only: Sequence[str]) -> bool:
    return not only or any(fnmatch.fnmatchcase(name, pattern) for pattern in only)
