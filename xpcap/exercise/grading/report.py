"""The report of a submission: what was found of each function, and its points."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload

from xpcap.exercise import table

NOT_GRADED = "not graded"  # the kind of what has no result


class Result(NamedTuple):
    """Finding of one function.

    Parameters
    ----------
    function : str
        Name in the course's files, such as "lstm_step_backward", "CaptioningRNN.loss (lstm)"; of a
        file that is missing or cannot be imported, the file's.
    passed : bool
        True if the function is right. It may still have a remark in `kind` and `advice`.
    where : str
        Outputs, gate and time steps that are wrong, or the line that raised. "" for nowhere.
    kind : str
        Kind of mistake, such as "missing derivative of tanh". "" for none.
    advice : str
        What to do, in a sentence or two.
    error : float or None
        ``max |got - wanted| / max |wanted|`` of the worst output. None if nothing was compared.
    """

    function: str
    passed: bool
    where: str = ""
    kind: str = ""
    advice: str = ""
    error: float | None = None


class Mark(NamedTuple):
    """All that was found of one function, and its points.

    most : points that the function is worth, fixed before the submission is read; 0 for what the
        course gives
    points : `most` if it passed, 0 if not
    """

    function: str
    most: float
    points: float
    passed: bool
    results: Sequence[Result]


@dataclass(frozen=True)
class Report(Sequence[Result]):
    """The grading of one submission, a sequence of its results.

    results : in the order of the course; a function may have several
    expected : modules that the mark is of, such as "rnn_layers"; a missing one is zero
    missing : of these, those that were not handed in, or cannot be imported
    notices : such as "optim.py lies outside cs231n, and is not graded"
    """

    results: Sequence[Result]
    expected: Sequence[str]
    missing: Sequence[str]
    notices: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.results)

    @overload
    def __getitem__(self, index: int) -> Result: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Result]: ...

    def __getitem__(self, index: int | slice) -> Result | Sequence[Result]:
        return self.results[index]

    @property
    def marks(self) -> list[Mark]:
        """Every function that has points, and every other one that was graded."""
        most = table.points(self.expected)
        of: dict[str, list[Result]] = {one.name: [] for one in table.functions(self.expected)}
        for result in self.results:
            of.setdefault(result.function, []).append(result)
        for name in most:
            of[name] = of[name] or [Result(name, False, "", NOT_GRADED, self._reason(name))]
        marks = []
        for name, results in of.items():
            if results:
                passed, worth = all(one.passed for one in results), most.get(name, 0.0)
                marks.append(Mark(name, worth, worth if passed else 0.0, passed, results))
        return marks

    def _reason(self, name: str) -> str:
        """Why a function has no result."""
        module = table.FUNCTIONS[name].module
        if module in self.missing:
            return f"{module}.py is missing, or cannot be imported."
        return "It was not graded."

    @property
    def score(self) -> float:
        """Points out of 100."""
        return round(sum(mark.points for mark in self.marks), 2)
