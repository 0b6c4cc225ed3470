"""The report of a submission: results and points of each function."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload

from xpcap.cs231n import table

NOT_GRADED = "not graded"  # kind of a function without a result


class Result(NamedTuple):
    """The verdict on a function, or one of its mistakes.

    Parameters
    ----------
    function : str
        Name in the course's files, such as "lstm_step_backward" or "CaptioningRNN.loss (lstm)"; the
        name of the file if it is missing or cannot be imported.
    passed : bool
        True if the function is right. `kind` and `advice` may still name something to improve.
    where : str
        Outputs, gates and time steps that are wrong, or the line of an error; "" if unknown.
    kind : str
        Kind of mistake, such as "missing derivative of tanh"; "" for none.
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
    """The results of a function, and its points.

    max_points : points for a correct function; 0 if the course provides it
    points : `max_points` if it passed, 0 if not
    """

    function: str
    max_points: float
    points: float
    passed: bool
    results: Sequence[Result]


@dataclass(frozen=True)
class Report(Sequence[Result]):
    """The grading of one submission, a sequence of its results.

    results : in the order of the course; a function may have several
    expected : modules that are scored, such as "rnn_layers"; a missing one scores zero
    missing : expected modules that were not handed in, or cannot be imported
    notices : such as "optim.py lies outside cs231n, and is not graded"
    chosen : functions that were graded, if not all; others have no mark
    """

    results: Sequence[Result]
    expected: Sequence[str]
    missing: Sequence[str]
    notices: Sequence[str] = ()
    chosen: Collection[str] = ()

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
        """Marks of all functions that have points, and of the others that were graded."""
        max_points = table.points(self.expected)
        if self.chosen:
            max_points = {name: max_points[name] for name in max_points if name in self.chosen}
        by_name: dict[str, list[Result]] = {row.name: [] for row in table.functions(self.expected)}
        for result in self.results:
            by_name.setdefault(result.function, []).append(result)
        for name in max_points:
            not_graded = Result(name, False, "", NOT_GRADED, self._reason(name))
            by_name[name] = by_name[name] or [not_graded]
        marks = []
        for name, results in by_name.items():
            if results:
                passed = all(r.passed for r in results)
                worth = max_points.get(name, 0.0)
                marks.append(Mark(name, worth, worth if passed else 0.0, passed, results))
        return marks

    def _reason(self, name: str) -> str:
        """The reason why a function has no result."""
        module = table.FUNCTIONS[name].module
        if module in self.missing:
            return f"{module}.py is missing, or cannot be imported."
        return "It was not graded."

    @property
    def score(self) -> float:
        """Points out of 100."""
        return round(sum(mark.points for mark in self.marks), 2)
