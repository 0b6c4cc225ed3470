"""Checks of each function of a submission: right or wrong, and where."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple


class Result(NamedTuple):
    """What the grading found of one function.

    Attributes
    ----------
    function : name in the course's files, such as "lstm_step_backward", "CaptioningRNN.loss"
    passed : right; a passed function may still have a remark in `kind` and `advice`
    where : output, gate, time step or argument concerned; "" where all is well
    kind : kind of mistake, such as "missing derivative of tanh", "not written yet"; "" for none
    advice : one sentence, which names the page and line of the derivation
    error : relative error of the worst output; None where nothing could be compared
    """

    function: str
    passed: bool
    where: str = ""
    kind: str = ""
    advice: str = ""
    error: float | None = None


def grade(
    submission: str | Path,
    *,
    only: Sequence[str] = (),
    seconds: float = 10.0,
    memory: float = 2.0,
) -> Iterator[Result]:
    """Grade the functions of a file, folder or module, in the order of the course."""
    raise NotImplementedError
